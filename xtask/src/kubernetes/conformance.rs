//! The conformance suite of the Gateway API, as its release has it, against Weir and the API server.
//!
//! What is run stands in `xtask/kubernetes/conformance`: the suite itself, and what a cluster without nodes lacks. It has a network and
//! processes of its own, so that ports and addresses are free and nothing of it is left behind.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cargo::{self, Profile, root};
use crate::kubernetes::COLLECTING;
use crate::progress::{note, seconds, step};
use crate::tools::{self, IP, NSENTER, Tool};

// Without a group of its own: they stand among those of the command, whose group is called `Options` too.
#[derive(clap::Args)]
#[group(skip)]
pub struct Options {
    /// Leave the conformance suite of the Gateway API out
    #[arg(long)]
    no_conformance: bool,
    /// Of the suite only what has this in its name, a pattern of Go
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// Beside what is claimed, features that are not yet: their names in the Gateway API, with commas between them
    #[arg(long, value_name = "NAMES")]
    features: Option<String>,
    /// Where the suite's report goes, once nothing of it has failed
    #[arg(long, value_name = "FILE", default_value = "target/tools/kubernetes/conformance.yaml")]
    report: PathBuf,
    /// Who maintains what was tested; it stands in the report, as what follows does
    #[arg(long, value_name = "NAME", default_value = "weir")]
    organization: String,
    /// Where people read of it
    #[arg(long, value_name = "URL", default_value = "https://weir.invalid")]
    url: String,
    /// Who is asked about it: a name of GitHub (@name) or the address of a page
    #[arg(long, value_name = "WHO", default_value = "README.md")]
    contact: String,
}

/// The suite and the servers that it talks to, built where they are not, or are older than what they are built from.
pub fn build(go: &Path, folder: &Path) -> Result<(), String> {
    let src = root().join("xtask/kubernetes/conformance");
    let built_from = folder.join("conformance.built-from");
    let text = sources(&src)?;
    let there = ["conformance", "echo-basic"].iter().all(|name| folder.join(name).is_file());
    if there && fs::read_to_string(&built_from).is_ok_and(|before| before == text) {
        note(format!("the conformance suite is in {}", folder.display()));
        return Ok(());
    }
    let step = step("building the conformance suite, which takes minutes the first time");
    for words in [
        &["test", "-c", "-o", "conformance", "."][..],
        &["build", "-o", "echo-basic", "sigs.k8s.io/gateway-api/conformance/echo-basic"],
    ] {
        let mut command = Command::new("nice");
        command.args(["-n", "10"]).arg(go).current_dir(&src).env("CGO_ENABLED", "0").envs(COLLECTING);
        for (n, word) in words.iter().enumerate() {
            match n > 0 && words[n - 1] == "-o" {
                true => command.arg(folder.join(word)),
                false => command.arg(word),
            };
        }
        tools::run(&mut command)?;
    }
    step.done("built");
    fs::write(&built_from, text).map_err(|error| format!("{}: {error}", built_from.display()))
}

/// All files of a folder, one after the other.
fn sources(folder: &Path) -> Result<String, String> {
    let io = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files: Vec<PathBuf> = fs::read_dir(folder).map_err(io)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.iter().map(|file| fs::read_to_string(file).map_err(io)).collect()
}

pub fn run(options: &Options, folder: &Path, definitions: &Path) -> Result<(), String> {
    if options.no_conformance {
        return Ok(());
    }
    tools::require(&[IP, NSENTER, UNSHARE, OPENSSL])?;
    let weir = cargo::build(&["server"], Profile::Debug)?.join("weir");
    let version = tools::run(Command::new(&weir).arg("--version"))?;
    let version = version.split_whitespace().last().unwrap_or_default().to_owned();
    let new = folder.join("conformance.new.yaml");
    let _ = fs::remove_file(&new);
    let step = step("the conformance suite of the Gateway API");
    let mut command = Command::new("unshare");
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]).arg(folder.join("conformance"));
    let pattern =
        options.only.as_ref().map_or("^TestConformance$".to_owned(), |only| format!("^TestConformance$/{only}"));
    command.args(["-test.v", "-test.timeout=2h", "-test.run", &pattern]);
    command.env("TOOLS", folder).env("DEFINITIONS", definitions).env("WEIR", &weir);
    command.env("WEIR_VERSION", version).env("REPORT", &new);
    command.env("ORGANIZATION", &options.organization).env("URL", &options.url).env("CONTACT", &options.contact);
    if let Some(features) = &options.features {
        command.env("FEATURES", features);
    }
    let log = folder.join("conformance.log");
    let (passed, failed) = watch(&mut command, &log)?;
    if failed.is_empty() && passed > 0 {
        // Of a part of it there is no report to be kept, nor of more than is claimed.
        if options.only.is_none() && options.features.is_none() {
            let report = root().join(&options.report);
            fs::copy(&new, &report).map_err(|error| format!("{}: {error}", report.display()))?;
            note(format!("the report is {}", report.display()));
        }
        step.done(format!("{passed} tests hold"));
        return Ok(());
    }
    Err(format!(
        "{passed} tests of the suite hold and {} do not, see {}:\n  {}",
        failed.len(),
        log.display(),
        failed.join("\n  ")
    ))
}

/// Runs the suite, keeps what it says, and tells how far it is. How many of its tests hold, and which do not.
fn watch(command: &mut Command, log: &Path) -> Result<(usize, Vec<String>), String> {
    let shown = tools::show(command);
    let io = |error: std::io::Error| format!("{}: {error}", log.display());
    let mut file = fs::File::create(log).map_err(io)?;
    let errors = file.try_clone().map_err(io)?;
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn();
    let mut child = child.map_err(|error| format!("{shown}: {error}"))?;
    let (started, mut told, mut passed, mut failed) = (Instant::now(), Instant::now(), 0, Vec::new());
    let lines = child.stdout.take().into_iter().flat_map(|output| BufReader::new(output).lines());
    for line in lines.map_while(Result::ok) {
        writeln!(file, "{line}").map_err(io)?;
        // One step below the whole: a test of the suite.
        let of = |word: &str| line.strip_prefix(word)?.strip_prefix("TestConformance/")?.split(' ').next();
        if let Some(name) = of("    --- FAIL: ") {
            failed.push(name.to_owned());
        } else if of("    --- PASS: ").is_some() {
            passed += 1;
        } else if let Some(name) = of("=== RUN   ").filter(|name| !name.contains('/') && told.elapsed() > TELL) {
            told = Instant::now();
            note(format!("{name} after {}", seconds(started.elapsed())));
        }
    }
    let status = child.wait().map_err(|error| format!("{shown}: {error}"))?;
    if !status.success() && failed.is_empty() {
        return Err(format!("the suite ended with {status}, see {}", log.display()));
    }
    Ok((passed, failed))
}

const UNSHARE: Tool = Tool { program: "unshare", package: "util-linux" };
const OPENSSL: Tool = Tool { program: "openssl", package: "openssl" };
/// Between two words of how far it is.
const TELL: Duration = Duration::from_secs(30);
