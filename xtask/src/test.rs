//! `test`: everything that says whether this checkout is sound, on a fresh machine, in one command.
//!
//! The kernel programs are built first, because the daemon embeds them; then come the tests of all crates, those of the
//! kernel programs (root only), the examples of deploy/ through `weirctl check`, and the conformance cases beside the
//! checkout. What cannot run here is named and counted as skipped. The last line counts everything; tests that passed only when
//! run once more, alone, are named as shaky just before it.

mod programs;
mod watched;

use base_testing::free_port;
use programs::{Manner, ONE_TEST_AT_A_TIME};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cargo::{self, Profile, root};
use crate::progress::{self, Colour, note, paint, seconds, step, title, warn};
use crate::tools::{
    self, CHROMIUM, COMPILER, CURL, ETHTOOL, H2LOAD, HAPROXY, IP, NGINX, NSENTER, PROMTOOL, PYTHON, SLAPD, WRK,
};

#[derive(clap::Args)]
pub struct Options {
    /// Conformance groups or cases instead of those in CASES, such as RT,PX or RW-05
    #[arg(long, env = "WEIR_CONFORMANCE_GROUP", value_delimiter = ',')]
    group: Vec<String>,
    /// Only the conformance cases
    #[arg(long)]
    conformance: bool,
    /// A test program that takes longer is ended and has failed
    #[arg(long, default_value_t = 45, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
}

/// Cases of the conformance harness that must hold. A new capability adds its cases here.
#[rustfmt::skip]
const CASES: &[&str] = &[
    "RT-01", "RT-03", "RT-05", "RT-07", "RT-09", "RT-11", "RT-13", "RT-15", // routing
    "RW-01", "RW-03", "RW-05", "RW-07", // rewriting, headers, paths left as they are
    "PL-01", "PL-03", "PL-05", "PL-07", "PL-09", // the flow, namespaces, data
    "BA-01", "BA-03", "BA-05", "BA-07", "BA-09", // adaptors, builders, templates
    "SE-01", "SE-03", "SE-05", "SE-07", "SE-09", "SE-11", // Validator: headers, jwt, oauth2; OPA; client certificates
    "RS-01", "RS-03", "RS-05", "RS-07", "RS-09", // RateLimiter, time-outs, circuit breaker, failure codes
    "PX-01", "PX-03", "PX-05", "PX-07", "PX-09", "PX-11", "PX-13", "PX-15", // Proxy: balancing, candidates, mirror, cache, errors
    "MF-01", "MF-03", "MF-05", "MF-07", // Mock, RedirectorV2, HeaderToJSON, Kafka
    "PR-01", "PR-03", "PR-05", "PR-07", // TLS with HTTP/2, WebSocket, gRPC, CONNECT
    "WA-01", "WA-03", // WebAssembly
    "AD-01", "AD-03", "AD-05", "AD-07", "AD-09", "AD-11", "AD-13", // admin API, weirctl, custom data, logs, upgrade, convert
];

/// What was counted, over all parts.
#[derive(Default, Clone)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Tests among the passed that had failed before.
    shaky: Vec<String>,
}

impl Count {
    fn add(&mut self, other: &Count) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.shaky.extend_from_slice(&other.shaky);
    }

    /// What a person is told at the end.
    fn closing(&self) -> String {
        let numbers = format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped);
        if self.shaky.is_empty() {
            return numbers;
        }
        let names: String = self.shaky.iter().map(|name| format!("  {name}\n")).collect();
        format!("{} shaky: failed beside others, passed alone\n{names}{numbers}", self.shaky.len())
    }
}

const PASSED: Count = Count { passed: 1, failed: 0, skipped: 0, shaky: Vec::new() };
const FAILED: Count = Count { passed: 0, failed: 1, skipped: 0, shaky: Vec::new() };
const SKIPPED: Count = Count { passed: 0, failed: 0, skipped: 1, shaky: Vec::new() };

pub fn run(options: &Options) -> Result<(), String> {
    let started = Instant::now();
    watched::end_all_on_signal();
    let mut parts: Vec<(&str, Count)> = Vec::new();
    let mut part = |name: &'static str, result: Result<Count, String>| {
        let count = result.unwrap_or_else(|problem| {
            println!("{} {name}: {problem}", paint(Colour::Red, "✗"));
            FAILED
        });
        parts.push((name, count));
    };
    part("tools", require_tools());
    if !options.conformance {
        part("kernel programs", kernel_programs());
        part("crates", crates(options));
        part("kernel tests", kernel_tests(options));
    }
    let packages: &[&str] = if options.conformance { &["server", "cli"] } else { &["server", "cli", "bench"] };
    match cargo::build(packages, Profile::Debug) {
        Ok(binaries) => {
            if !options.conformance {
                part("examples", examples(&binaries));
                part("flash sale", crate::flash_sale::quick(&binaries).map(|()| PASSED));
            }
            part("conformance", conformance(&binaries, &options.group));
        }
        Err(problem) => part("binaries", Err(problem)),
    }

    title("Together");
    let mut total = Count::default();
    let row = |name: &str, count: &Count| {
        let cells = [count.passed, count.failed, count.skipped].map(|number| number.to_string());
        std::iter::once(name.to_string()).chain(cells).collect::<Vec<_>>()
    };
    let rows: Vec<_> = parts.iter().map(|(name, count)| row(name, count)).collect();
    progress::table(&["part", "passed", "failed", "skipped"], &rows);
    parts.iter().for_each(|(_, count)| total.add(count));
    note(format!("in {}", seconds(started.elapsed())));
    println!("{}", total.closing());
    // The counting line is the last one; it has said what there is to say.
    if total.failed == 0 { Ok(()) } else { Err(String::new()) }
}

/// Installs what the tests drive, where we may; otherwise tests leave out what needs it and say so.
fn require_tools() -> Result<Count, String> {
    tools::require(&[COMPILER])?;
    if let Err(problem) = tools::require(&[CHROMIUM]) {
        warn(format!("{problem}; the dashboard is not looked at in a browser"));
    }
    match tools::require(&[CURL, H2LOAD, WRK, PROMTOOL, PYTHON, IP, ETHTOOL, NSENTER, NGINX, HAPROXY, SLAPD]) {
        Ok(()) => {}
        Err(problem) if tools::is_root() => return Err(problem),
        Err(problem) => {
            warn(format!("{problem}; the tests that need them are left out"));
            return Ok(SKIPPED);
        }
    }
    Ok(Count::default())
}

fn kernel_programs() -> Result<Count, String> {
    title("Kernel programs");
    match cargo::kernel_programs() {
        Ok(()) => Ok(PASSED),
        Err(problem) if tools::is_root() => Err(problem),
        Err(problem) => {
            warn(format!("{problem}\n  the tests of L4 are left out"));
            Ok(SKIPPED)
        }
    }
}

fn crates(options: &Options) -> Result<Count, String> {
    title("Crates");
    let packages = ["--workspace", "--exclude", "kernel-tests"];
    let mut built = None;
    for tool in &tools::GO_TOOLS {
        match tool.build(&root().join("target")) {
            Ok(folder) => built = Some(folder),
            Err(problem) => warn(format!("{problem}; left out: {}", tool.tests)),
        }
    }
    let path = match built {
        None => None,
        Some(folder) => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let folders = std::env::split_paths(&path).chain([folder]);
            Some(std::env::join_paths(folders).map_err(|error| error.to_string())?)
        }
    };
    // One program waits for most of its time, so there is room for one more than there are CPUs.
    let at_once = std::thread::available_parallelism().map_or(1, usize::from) + 1;
    let output = said()?;
    let limit = options.limit();
    let manner = Manner { packages: &packages, at_once, told: &[], path, output: &output, limit };
    let mut count = programs::run(&manner)?;
    count.add(&programs::documentation(&manner)?);
    Ok(count)
}

fn kernel_tests(options: &Options) -> Result<Count, String> {
    title("Kernel tests");
    if !tools::is_root() {
        warn("left out: loading programs into the kernel and making network namespaces need root");
        return Ok(SKIPPED);
    }
    // One at a time: they share the kernel, its maps' memory and two CPUs.
    let (packages, told) = (["--package", "kernel-tests"], [ONE_TEST_AT_A_TIME]);
    let (output, limit) = (said()?, options.limit());
    programs::run(&Manner { packages: &packages, at_once: 1, told: &told, path: None, output: &output, limit })
}

/// Where what test programs say is kept.
fn said() -> Result<PathBuf, String> {
    Ok(cargo::target()?.join("said-by-tests"))
}

impl Options {
    fn limit(&self) -> Duration {
        Duration::from_secs(self.limit.saturating_mul(60))
    }
}

/// The documents of deploy/examples and deploy/cookbook must be good ones.
fn examples(binaries: &Path) -> Result<Count, String> {
    title("Examples");
    let mut files = Vec::new();
    for folder in ["deploy/examples", "deploy/cookbook"].map(|folder| root().join(folder)) {
        let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let mut count = Count::default();
    for file in &files {
        match tools::run(Command::new(binaries.join("weirctl")).arg("check").arg(file)) {
            Ok(_) => count.add(&PASSED),
            Err(problem) => {
                println!("{} {problem}", paint(Colour::Red, "✗"));
                count.add(&FAILED);
            }
        }
    }
    note(format!("weirctl check accepts {} of {}", count.passed, files.len()));
    Ok(count)
}

/// The black-box cases beside the checkout, against a `weir` of their own.
fn conformance(binaries: &Path, wanted: &[String]) -> Result<Count, String> {
    title("Conformance");
    let runner = root().join("../shared/conformance/run.py");
    if !runner.exists() {
        warn("left out: ../shared/conformance is not there");
        return Ok(SKIPPED);
    }
    if tools::find("python3").is_none()
        || tools::run(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_err()
    {
        if !tools::is_root() {
            warn("left out: it needs python3 with venv (Debian: apt-get install python3-venv)");
            return Ok(SKIPPED);
        }
        tools::install(&["python3-venv"])?;
    }
    let (api, peer) = (free_port(), free_port());
    let folder = std::env::temp_dir().join(format!("weir-conformance-{}", std::process::id()));
    let show = |path: &Path| path.display().to_string();
    let start = [
        show(&binaries.join("weir")),
        format!("--name conformance --api-addr 127.0.0.1:{api}"),
        format!("--listen-peer-urls http://127.0.0.1:{peer} --initial-advertise-peer-urls http://127.0.0.1:{peer}"),
        format!("--home-dir {} --data-dir {}", show(&folder), show(&folder.join("data"))),
    ];
    let admin = format!("http://127.0.0.1:{api}");
    let mut command = Command::new("python3");
    command.arg(&runner).args(["--admin", &admin, "--start", &start.join(" ")]);
    command.args(["--ctl", &show(&binaries.join("weirctl"))]);
    let cases: Vec<&str> = wanted.iter().map(String::as_str).filter(|case| case.contains('-')).collect();
    let groups: Vec<&str> = wanted.iter().map(String::as_str).filter(|case| !case.contains('-')).collect();
    let cases = if wanted.is_empty() { CASES.to_vec() } else { cases };
    command.args(["--only", &cases.join(","), "--group", &groups.join(",")]);

    let running =
        step(format!("{} cases", if wanted.is_empty() { cases.len().to_string() } else { wanted.join(", ") }));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
    let mut counted = None;
    let output = child.stdout.take().into_iter().flat_map(|output| BufReader::new(output).lines());
    for line in output.map_while(Result::ok) {
        println!("    {line}");
        counted = closing(&line).or(counted);
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let _ = fs::remove_dir_all(&folder);
    let count = counted.ok_or_else(|| format!("run.py ended with {status} and counted nothing"))?;
    running.done("run");
    Ok(count)
}

/// `12 passed, 0 failed, 1 skipped`
fn closing(line: &str) -> Option<Count> {
    let mut numbers = ["passed", "failed", "skipped"]
        .into_iter()
        .zip(line.split(", "))
        .map(|(word, item)| item.strip_suffix(word).and_then(|number| number.trim().parse().ok()));
    let count =
        Count { passed: numbers.next()??, failed: numbers.next()??, skipped: numbers.next()??, shaky: Vec::new() };
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shaky_is_named_just_before_the_closing_line() {
        let mut total = Count { passed: 7, failed: 1, skipped: 2, shaky: Vec::new() };
        assert_eq!(total.closing(), "7 passed, 1 failed, 2 skipped");
        total.add(&Count { shaky: vec!["server house a::b".into(), "edge-l4 udp::c".into()], ..PASSED });
        let expected = "2 shaky: failed beside others, passed alone\n  server house a::b\n  edge-l4 udp::c\n\
                        8 passed, 1 failed, 2 skipped";
        assert_eq!(total.closing(), expected);
    }

    #[test]
    fn the_harness_closing_line_is_counted_and_nothing_else() {
        let count = closing("17 passed, 2 failed, 1 skipped").expect("the closing line");
        assert_eq!((count.passed, count.failed, count.skipped), (17, 2, 1));
        assert!(closing("PASS RT-01 exact before anything else (0.1 s)").is_none());
    }
}
