//! `cargo xtask bench steer`: prints what packets cost. `--rounds N` (default 9), `--json FILE`, `--object FILE` (of another build, to
//! compare), `--katran FILE` (what `src/katran.bpf.c` says).

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kernel_tests::steer_bench::{self, Row};

fn main() -> ExitCode {
    let mut rounds = 9;
    let (mut json, mut katran) = (None, None);
    let mut object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/weir-bench.bpf.o");
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next()) {
            ("--rounds", Some(value)) if value.parse().is_ok_and(|n: u32| n > 0) => rounds = value.parse().unwrap_or(9),
            ("--json", Some(value)) => json = Some(PathBuf::from(value)),
            ("--katran", Some(value)) => katran = Some(PathBuf::from(value)),
            ("--object", Some(value)) => object = PathBuf::from(value),
            _ => {
                eprintln!("usage: steer-bench [--rounds N] [--json FILE] [--object FILE] [--katran FILE]");
                return ExitCode::from(2);
            }
        }
    }
    let rows = match steer_bench::run(rounds, &object, katran.as_deref()) {
        Ok(rows) => rows,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::FAILURE;
        }
    };
    let (cpu, cpus, kernel) = machine();
    println!("{cpu}, {cpus} CPUs, Linux {kernel}: ns per packet, {rounds} rounds by turns");
    println!("{:<40}{:>8}{:>8}{:>8}{:>8}{:>8}", "xdp_steer", "median", "min", "max", "net", "goal");
    for row in &rows {
        let net = row.median_net().map(|net| net.to_string()).unwrap_or_default();
        let goal = row.goal.map(|goal| goal.to_string()).unwrap_or_default();
        let verdict = match (row.median_net(), row.goal) {
            (Some(net), Some(goal)) if net <= goal => "  reached",
            (Some(_), Some(_)) => "  missed",
            _ => "",
        };
        println!("{:<40}{:>8}{:>8}{:>8}{net:>8}{goal:>8}{verdict}", row.name, row.median(), row.min(), row.max());
    }
    if let Some(path) = json
        && let Err(e) = std::fs::write(&path, to_json(&rows, rounds))
    {
        eprintln!("{}: {e}", path.display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Its CPU, how many of them, and its kernel.
fn machine() -> (String, usize, String) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let cpu =
        cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("").trim_start_matches(['\t', ' ', ':']);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (cpu.to_owned(), cpus, read("/proc/sys/kernel/osrelease").trim().to_owned())
}

fn to_json(rows: &[Row], rounds: u32) -> String {
    let (cpu, cpus, kernel) = machine();
    let number = |number: Option<i64>| number.map_or("null".to_owned(), |number| number.to_string());
    let rows: Vec<String> = rows
        .iter()
        .map(|row| {
            format!(
                r#"{{"name": "{}", "unit": "ns/packet", "median": {}, "min": {}, "max": {}, "net": {}, "goal": {}, "rounds": {rounds}, "ratio_to": {{}}}}"#,
                row.name,
                row.median(),
                row.min(),
                row.max(),
                number(row.median_net()),
                number(row.goal)
            )
        })
        .collect();
    format!(
        "{{\"scenario\": \"steer\", \"machine\": {{\"cpu\": \"{cpu}\", \"cpus\": {cpus}, \"kernel\": \"{kernel}\"}}, \"rows\": [\n  {}\n]}}\n",
        rows.join(",\n  ")
    )
}
