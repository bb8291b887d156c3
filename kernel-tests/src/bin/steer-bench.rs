//! `cargo xtask bench steer`: prints what packets cost. `--rounds N` (default 9), `--json FILE`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kernel_tests::steer_bench::{self, Row};

fn main() -> ExitCode {
    let mut rounds = 9;
    let mut json = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next()) {
            ("--rounds", Some(value)) if value.parse().is_ok_and(|n: u32| n > 0) => rounds = value.parse().unwrap_or(9),
            ("--json", Some(value)) => json = Some(PathBuf::from(value)),
            _ => {
                eprintln!("usage: steer-bench [--rounds N] [--json FILE]");
                return ExitCode::from(2);
            }
        }
    }
    let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/weir-bench.bpf.o");
    let rows = match steer_bench::run(rounds, &object) {
        Ok(rows) => rows,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::FAILURE;
        }
    };
    println!(
        "{:<40}{:>8}{:>8}{:>8}   ns per packet, harness included, {rounds} rounds",
        "xdp_steer", "median", "min", "max"
    );
    for row in &rows {
        println!("{:<40}{:>8}{:>8}{:>8}", row.name, row.median(), row.min(), row.max());
    }
    if let Some(path) = json
        && let Err(e) = std::fs::write(&path, to_json(&rows, rounds))
    {
        eprintln!("{}: {e}", path.display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn to_json(rows: &[Row], rounds: u32) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let cpu =
        cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("").trim_start_matches(['\t', ' ', ':']);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let rows: Vec<String> = rows
        .iter()
        .map(|row| {
            format!(
                r#"{{"name": "{}", "unit": "ns/packet", "median": {}, "min": {}, "max": {}, "rounds": {rounds}, "ratio_to": {{}}}}"#,
                row.name,
                row.median(),
                row.min(),
                row.max()
            )
        })
        .collect();
    format!(
        "{{\"scenario\": \"steer\", \"machine\": {{\"cpu\": \"{cpu}\", \"cpus\": {cpus}, \"kernel\": \"{}\"}}, \"rows\": [\n  {}\n]}}\n",
        kernel.trim(),
        rows.join(",\n  ")
    )
}
