//! Test programs, several at once: most of them wait for sockets, timers and daemons for most of their time.
//!
//! cargo builds them and says where they are. A test that fails beside others is run once more with nothing beside it: what
//! passes then was disturbed and is named as shaky, what fails again is broken.

use super::Count;
use crate::cargo::{cargo, root};
use crate::progress::{Colour, note, paint, seconds, step, warn};
use crate::tools;
use serde_json::Value;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A test program that cargo has built.
struct Program {
    package: String,
    target: String,
    path: PathBuf,
    /// Its package's folder, where cargo would run it.
    folder: PathBuf,
}

/// How programs are run.
pub struct Manner<'a> {
    /// Which packages, in the words of `cargo test`.
    pub packages: &'a [&'a str],
    /// How many programs at once.
    pub at_once: usize,
    /// What each is told, in the words of libtest.
    pub told: &'a [&'a str],
    pub path: Option<OsString>,
}

/// Builds and runs the test programs, shows what is not a plain success, and counts.
pub fn run(manner: &Manner<'_>) -> Result<Count, String> {
    let programs = build(manner)?;
    let running = step(format!("{} test programs, {} at once", programs.len(), manner.at_once));
    let (mut count, mut failed) = (Count::default(), Vec::new());
    let queue = Mutex::new(programs.iter());
    let (ends, ended) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..manner.at_once {
            let (ends, queue) = (ends.clone(), &queue);
            scope.spawn(move || {
                while let Some(program) = { queue.lock().unwrap_or_else(PoisonError::into_inner).next() } {
                    let _ = ends.send((program, program.run(manner, None)));
                }
            });
        }
        drop(ends);
        for (program, end) in ended {
            program.show(&end);
            count.add(end.count);
            failed.extend(end.broken().into_iter().map(|test| (program, test)));
        }
    });
    for (program, test) in failed {
        let name = format!("{} {}", program, test.as_deref().unwrap_or("(the whole program)"));
        let again = program.run(manner, test.as_deref());
        if again.is_good() {
            warn(format!("shaky: {name} failed beside others and passed alone"));
            match test {
                Some(_) => (count.failed, count.passed) = (count.failed - 1, count.passed + 1),
                None => count.passed += again.count.passed,
            }
        } else {
            println!("{} {name} failed beside others and alone", paint(Colour::Red, "✗"));
            program.show(&again);
            // A program that died counted nothing.
            count.failed += u64::from(test.is_none());
        }
    }
    running.done(format!("{} passed, {} failed, {} ignored", count.passed, count.failed, count.skipped));
    Ok(count)
}

/// The programs, those first that take longest: the ones that start daemons.
fn build(manner: &Manner<'_>) -> Result<Vec<Program>, String> {
    let mut command = cargo();
    command.args(["test", "--no-run", "--message-format=json-render-diagnostics"]).args(manner.packages);
    let building = step(tools::show(&command));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", tools::show(&command)))?;
    let lines = child.stdout.take().into_iter().flat_map(|output| BufReader::new(output).lines());
    let mut programs: Vec<Program> = lines.map_while(Result::ok).filter_map(|line| Program::read(&line)).collect();
    let status = child.wait().map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(format!("{}: {status}", tools::show(&command)));
    }
    programs.sort_by_key(|program| program.target != "house");
    building.done(format!("built {}", programs.len()));
    Ok(programs)
}

/// What a program printed and how it ended.
struct End {
    lines: Vec<String>,
    status: Result<ExitStatus, String>,
    count: Count,
    took: std::time::Duration,
}

impl Program {
    /// One of cargo's messages (`cargo build --message-format`, "Artifact messages"), when it is of a test program.
    fn read(line: &str) -> Option<Program> {
        let message: Value = serde_json::from_str(line).ok()?;
        let path = message["executable"].as_str().filter(|_| message["profile"]["test"] == true)?;
        let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
        Some(Program {
            package: folder.file_name()?.to_str()?.to_owned(),
            target: message["target"]["name"].as_str()?.to_owned(),
            path: path.into(),
            folder: folder.into(),
        })
    }

    /// Runs all its tests, or one of them alone.
    fn run(&self, manner: &Manner<'_>, test: Option<&str>) -> End {
        let started = Instant::now();
        let mut command = Command::new(&self.path);
        command.current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder).args(manner.told);
        command.envs(manner.path.as_ref().map(|path| ("PATH", path)));
        command.args(test.map(|test| ["--exact", test]).into_iter().flatten());
        let output = command.stdin(Stdio::null()).output();
        let took = started.elapsed();
        match output {
            Ok(output) => {
                // libtest prints what failed to its output; what a process says as it dies is in the other.
                let text = [output.stdout, output.stderr].concat();
                let lines: Vec<String> = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
                let counts = lines.iter().filter_map(|line| line.strip_prefix("test result: ")).map(summary);
                let mut count = Count::default();
                counts.for_each(|counted| count.add(counted));
                End { lines, status: Ok(output.status), count, took }
            }
            Err(error) => End { lines: Vec::new(), status: Err(error.to_string()), count: Count::default(), took },
        }
    }

    fn show(&self, end: &End) {
        let Count { passed, failed, .. } = end.count;
        match &end.status {
            Ok(status) if status.success() && passed == 0 => {}
            Ok(status) if status.success() => note(format!("{self}: {passed} passed ({})", seconds(end.took))),
            Ok(_) if failed > 0 => println!("{} {self}: {failed} failed", paint(Colour::Red, "✗")),
            Ok(status) => println!("{} {self}: {status}", paint(Colour::Red, "✗")),
            Err(problem) => println!("{} {self}: {problem}", paint(Colour::Red, "✗")),
        }
        if !end.is_good() {
            end.lines.iter().filter(|line| !noise(line)).for_each(|line| println!("    {line}"));
        }
    }
}

impl std::fmt::Display for Program {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{} {}", self.package, self.target)
    }
}

impl End {
    fn is_good(&self) -> bool {
        self.status.as_ref().is_ok_and(ExitStatus::success)
    }

    /// The tests that failed; nothing's name where the program ended without counting them.
    fn broken(&self) -> Vec<Option<String>> {
        if self.is_good() {
            return Vec::new();
        }
        let named = failures(&self.lines);
        if named.is_empty() { vec![None] } else { named.into_iter().map(Some).collect() }
    }
}

/// The names below libtest's last `failures:`.
fn failures(lines: &[String]) -> Vec<String> {
    let Some(last) = lines.iter().rposition(|line| line == "failures:") else { return Vec::new() };
    let names = lines[last + 1..].iter().map_while(|line| line.strip_prefix("    "));
    names.map(|name| name.strip_suffix(" - should panic").unwrap_or(name).to_owned()).collect()
}

/// `ok. 12 passed; 0 failed; 1 ignored; …`
pub fn summary(result: &str) -> Count {
    let number = |word: &str| {
        let item = result.split([';', '.']).map(str::trim).find_map(|item| item.strip_suffix(word));
        item.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    };
    Count { passed: number("passed"), failed: number("failed"), skipped: number("ignored") }
}

fn noise(line: &str) -> bool {
    line.is_empty() || line.starts_with("running ") || (line.starts_with("test ") && line.ends_with(" ok"))
}

/// The examples in the documentation of the libraries, which cargo builds and runs by itself.
pub fn documentation(packages: &[&str]) -> Result<Count, String> {
    let mut command = cargo();
    command.args(["test", "--doc", "--quiet"]).args(packages).current_dir(root());
    let running = step(tools::show(&command));
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut count = Count::default();
    text.lines().filter_map(|line| line.strip_prefix("test result: ")).for_each(|result| count.add(summary(result)));
    if !output.status.success() {
        println!("{text}{}", String::from_utf8_lossy(&output.stderr));
        count.failed = count.failed.max(1);
    }
    running.done(format!("{} passed, {} failed", count.passed, count.failed));
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtests_summary_is_counted() {
        let count = summary("FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        assert_eq!((count.passed, count.failed, count.skipped), (12, 3, 1));
    }

    #[test]
    fn what_failed_is_named_by_libtests_last_list() {
        let text = "running 2 tests\ntest a::b ... FAILED\n\nfailures:\n\n---- a::b stdout ----\nfailures:\n    no\n\n\n\
                    failures:\n    a::b\n    c - should panic\n\ntest result: FAILED. 0 passed; 2 failed";
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        assert_eq!(failures(&lines), ["a::b", "c"]);
        assert!(failures(&["signal".to_owned()]).is_empty());
    }

    #[test]
    fn cargos_messages_name_the_test_programs_and_nothing_else() {
        let artifact = r#"{"reason":"compiler-artifact","manifest_path":"/w/userspace/base-text/Cargo.toml",
            "target":{"name":"fuzz"},"profile":{"test":true},"executable":"/w/target/debug/deps/fuzz-1"}"#;
        let program = Program::read(artifact).expect("a program");
        assert_eq!((program.to_string(), program.folder), ("base-text fuzz".into(), "/w/userspace/base-text".into()));
        assert!(Program::read(&artifact.replace("true", "false")).is_none());
        assert!(Program::read(&artifact.replace("\"/w/target/debug/deps/fuzz-1\"", "null")).is_none());
        assert!(Program::read("Compiling").is_none());
    }
}
