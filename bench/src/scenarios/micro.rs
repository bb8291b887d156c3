//! `micro`: instructions per operation, counted by callgrind. They do not depend on what else the machine does, so a change that
//! makes an operation dearer is seen anywhere: what is counted is held against a committed baseline.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::{extras, filters};
use crate::cpu;
use crate::gateways::{Contender, Gateway, HTTP, REFUSAL, Role, Setup, beside, free_address};
use crate::generator;
use crate::report::{Report, Row};
use crate::rounds::judged;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Instructions per operation that are held against
    #[arg(long, default_value = "bench/micro.json")]
    pub baseline: PathBuf,
    /// Make what is counted the baseline
    #[arg(long)]
    pub accept: bool,
    /// Only these operations, such as request-1; absent: all
    #[arg(long, value_delimiter = ',')]
    pub cells: Vec<String>,
    /// Write the figures to this file too
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// The committed file.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Baseline {
    /// Percent that an operation may be dearer.
    tolerance: f64,
    /// What it was built with: another compiler makes other instructions.
    compiler: String,
    /// Instructions per operation.
    operations: BTreeMap<String, f64>,
}

pub fn run(options: &Options) -> Result<(), String> {
    let folder = std::env::temp_dir().join(format!("weir-micro-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let counted = count_all(options, &folder)?;
    let mut baseline = Baseline::read(&options.baseline)?;
    let mut dearer = Vec::new();
    println!("{:<22} {:>14} {:>14} {:>9}", "operation", "instructions", "baseline", "change");
    for (name, count) in &counted {
        let known = baseline.operations.get(name).copied();
        let change = known.map(|known| (count / known - 1.0) * 100.0);
        let shown = change.map_or("new".into(), |change| format!("{change:+.1} %"));
        println!("{name:<22} {count:>14.0} {:>14.0} {shown:>9}", known.unwrap_or(0.0));
        if change.is_some_and(|change| change > baseline.tolerance) {
            dearer.push(format!("{name} {shown}"));
        }
    }
    let rows = counted.iter().map(|(name, count)| Row::new(name, "micro", "instructions", vec![*count])).collect();
    Report::new("micro", cpu::machine(), rows, vec![]).write(options.json.as_deref())?;
    let _ = fs::remove_dir_all(&folder);
    if options.accept {
        baseline.accept(counted, options.cells.is_empty());
        return baseline.write(&options.baseline);
    }
    if dearer.is_empty() {
        return Ok(());
    }
    let (compiler, now) = (&baseline.compiler, compiler());
    let other = if *compiler == now { String::new() } else { format!(" (baseline by {compiler}, this by {now})") };
    Err(format!(
        "dearer by more than {} %: {}{other}; see where with callgrind_annotate, or accept it with --accept",
        baseline.tolerance,
        dearer.join(", ")
    ))
}

fn count_all(options: &Options, folder: &Path) -> Result<BTreeMap<String, f64>, String> {
    let wanted = |name: &str| options.cells.is_empty() || options.cells.iter().any(|one| one == name);
    let mut counted = BTreeMap::new();
    let program = beside("examples/instructions")?;
    for operation in listed(&program)?.into_iter().filter(|name| wanted(name)) {
        println!("counting {operation}");
        counted.insert(operation.clone(), of_operation(&program, &operation, folder)?);
    }
    let loads: Vec<_> = REQUESTS.iter().filter(|(name, ..)| wanted(name)).map(request_load).collect();
    counted.extend(of_loads(folder, HTTP, None, loads)?);
    for (name, document) in EXTRAS.iter().filter(|(name, _)| wanted(name)) {
        let document = document()?;
        counted.extend(of_loads(folder, HTTP, Some(document), vec![request_load(&(name, 8, 1024))])?);
    }
    let loads: Vec<_> = REFUSALS.iter().filter(|(name, ..)| wanted(name)).map(refusal_load).collect();
    counted.extend(of_loads(folder, REFUSAL, None, loads)?);
    if counted.is_empty() {
        let requests = REQUESTS.map(|(name, ..)| name).join(", ");
        let extras = EXTRAS.map(|(name, _)| name).join(", ");
        let refusals = REFUSALS.map(|(name, ..)| name).join(", ");
        let operations = listed(&program)?.join(", ");
        return Err(format!("nothing to count; there are {operations}, {requests}, {extras}, {refusals}"));
    }
    Ok(counted)
}

/// The operations of `instructions --list`, one a line.
fn listed(program: &Path) -> Result<Vec<String>, String> {
    let output = Command::new(program).arg("--list").stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_string).collect())
}

/// Twice as often less once: what the program does besides falls out.
fn of_operation(program: &Path, operation: &str, folder: &Path) -> Result<f64, String> {
    let count = |times: u64| {
        let file = folder.join(format!("{operation}.{times}"));
        let mut command = callgrind(&file);
        command.arg(program).arg(operation).arg(times.to_string());
        let output = command.stdin(Stdio::null()).output().map_err(|error| format!("valgrind: {error}"))?;
        if !output.status.success() {
            return Err(format!("{operation}: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        total(&text).ok_or(format!("{}: no total", file.display()))
    };
    Ok((count(2 * TIMES)? - count(TIMES)?) / TIMES as f64)
}

/// Makes the documents of a gateway.
type Documents = fn() -> Result<String, String>;

/// What is asked, without how often.
type Load = (&'static str, generator::Options);

fn request_load((name, connections, size): &(&'static str, usize, usize)) -> Load {
    (name, generator::Options { connections: *connections, size: *size, ..generator::Options::default() })
}

fn refusal_load((name, path, status): &(&'static str, &'static str, u16)) -> Load {
    let path = (*path).to_owned();
    (name, generator::Options { connections: 8, path, refused: Some(*status), ..generator::Options::default() })
}

/// Requests to `weir --io epoll`: callgrind does not know io_uring.
fn of_loads(
    folder: &Path,
    role: Role,
    document: Option<String>,
    loads: Vec<Load>,
) -> Result<BTreeMap<String, f64>, String> {
    if loads.is_empty() {
        return Ok(BTreeMap::new());
    }
    let upstream = free_address();
    let out = folder.join("weir.callgrind");
    let mut wrapper = callgrind(&out);
    wrapper.arg("--separate-threads=yes");
    // Of those that are refused some are remembered, so many a second: that would count how fast this machine is.
    wrapper.env("WEIR_KEEP_REQUESTS", "0");
    let setup = Setup { upstream, cpu: Some(0), folder: folder.into(), logs: true, certificate: None, role, document };
    let gateway = Gateway::start_under(wrapper, &Contender::ours("epoll"), &setup)?;
    let mut counted = BTreeMap::new();
    for (name, load) in loads {
        println!("counting {name}");
        let run = |requests: u64| {
            let load = generator::Options {
                target: Some(gateway.address),
                upstream: Some(upstream),
                requests: Some(requests),
                warm_up: 0.0,
                seconds: 120.0,
                ..load.clone()
            };
            judged(name, generator::run(&load)?, &load)
        };
        run(TIMES)?;
        let count = |requests: u64| {
            tell(gateway.pid(), "zero")?;
            run(requests)?;
            tell(gateway.pid(), "dump")?;
            busiest(folder, "weir.callgrind")
        };
        counted.insert(name.to_string(), (count(2 * TIMES)? - count(TIMES)?) / TIMES as f64);
    }
    Ok(counted)
}

fn callgrind(out: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", out.display()));
    command
}

/// Has callgrind do something in a running process.
fn tell(pid: u32, what: &str) -> Result<(), String> {
    let output = Command::new("vgdb").arg(format!("--pid={pid}")).arg(what).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("vgdb: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("vgdb {what}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// The count of the thread that did most, which is the worker; the dumps are removed.
fn busiest(folder: &Path, name: &str) -> Result<f64, String> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let dumps = files.filter(|file| {
        let own = file.file_name().and_then(|own| own.to_str());
        own.and_then(|own| own.strip_prefix(name)).is_some_and(|rest| !rest.is_empty())
    });
    let mut most = None;
    for file in dumps {
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        most = total(&text).into_iter().chain(most).reduce(f64::max);
        let _ = fs::remove_file(&file);
    }
    most.ok_or_else(|| "callgrind wrote no counts".into())
}

/// The instructions of a callgrind file.
fn total(text: &str) -> Option<f64> {
    let of = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok());
    of("totals:").or_else(|| of("summary:"))
}

/// The compiler that built this.
fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").stdin(Stdio::null()).output();
    output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().into())
}

impl Baseline {
    /// An absent file is an empty baseline.
    fn read(file: &Path) -> Result<Self, String> {
        match fs::read_to_string(file) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self { tolerance: TOLERANCE, compiler: compiler(), operations: BTreeMap::new() })
            }
            Err(error) => Err(format!("{}: {error}", file.display())),
        }
    }

    /// `all`: operations that were not counted are no more.
    fn accept(&mut self, counted: BTreeMap<String, f64>, all: bool) {
        if all {
            self.operations.clear();
        }
        self.operations.extend(counted.into_iter().map(|(name, count)| (name, count.round())));
        self.compiler = compiler();
    }

    fn write(&self, file: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        fs::write(file, text + "\n").map_err(|error| format!("{}: {error}", file.display()))
    }
}

/// Requests on kept connections: name, connections, bytes of an answer.
const REQUESTS: [(&str, usize, usize); 3] =
    [("request-1", 1, 1024), ("request-8", 8, 1024), ("request-8-16k", 8, 16 << 10)];
/// The same on eight connections with something of `extras` or `filters` in the documents. Programs are not among them: WebAssembly does
/// not run under callgrind.
const EXTRAS: [(&str, Documents); 2] =
    [("request-script", || extras::document("script")), ("request-ten-headers", filters::ten_headers)];
/// Requests that are refused, by the documents of the scenario `refusal`: name, path, status; one that is answered beside them.
const REFUSALS: [(&str, &str, u16); 5] = [
    ("refuse-answered", "/answered/", 200),
    ("refuse-limited", "/limited/", 429),
    ("refuse-shed", "/shed/", 503),
    ("refuse-sold-out", "/sold-out/", 410),
    ("refuse-waiting", "/waiting/", 503),
];
/// Operations in one count; the count of twice as many less this one is divided by it.
const TIMES: u64 = 1000;
const TOLERANCE: f64 = 5.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_a_callgrind_file_is_found() {
        let text = "version: 1\ncmd: x\nevents: Ir\nsummary: 12\n\nfn=(1) main\n1 2\ntotals: 1234567\n";
        assert_eq!(total(text), Some(1_234_567.0));
        assert_eq!(total("summary: 7 8\n"), Some(7.0));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn accepting_some_operations_keeps_the_others() {
        let known = BTreeMap::from([("parse".to_string(), 900.0), ("gone".to_string(), 1.0)]);
        let mut baseline = Baseline { tolerance: 5.0, compiler: String::new(), operations: known };
        baseline.accept(BTreeMap::from([("parse".to_string(), 800.4)]), false);
        assert_eq!(baseline.operations, BTreeMap::from([("parse".to_string(), 800.0), ("gone".to_string(), 1.0)]));
        baseline.accept(BTreeMap::from([("parse".to_string(), 700.0)]), true);
        assert_eq!(baseline.operations, BTreeMap::from([("parse".to_string(), 700.0)]));
    }
}
