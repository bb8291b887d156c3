//! Test programs, several at once: most of them wait for sockets, timers and daemons for most of their time.
//!
//! cargo builds them and says where they are. A test that fails beside others is run once more with nothing beside it: what
//! passes then was disturbed and is named as shaky, what fails again is broken. A test that had nothing beside it is not run again,
//! nor is a program that never ended.

use super::Count;
use super::watched::{Ended, Watch};
use crate::cargo::cargo;
use crate::progress::{Colour, note, paint, seconds, step, warn};
use crate::tools;
use serde_json::Value;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A test program that cargo has built.
struct Program {
    package: String,
    target: String,
    /// `lib`, `bin` or `test`.
    kind: String,
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
    /// Where what they say is kept.
    pub output: &'a Path,
    /// A program that takes longer than this is ended.
    pub limit: Duration,
}

impl Manner<'_> {
    /// No test has another one beside it.
    fn alone(&self) -> bool {
        self.at_once == 1 && self.told.contains(&ONE_TEST_AT_A_TIME)
    }
}

/// In the words of libtest.
pub const ONE_TEST_AT_A_TIME: &str = "--test-threads=1";

/// Builds and runs the test programs, shows what is not a plain success, and counts.
pub fn run(manner: &Manner<'_>) -> Result<Count, String> {
    let programs = build(manner)?;
    let running = step(format!("{} test programs, {} at once", programs.len(), manner.at_once));
    let count = run_all(&programs, manner);
    running.done(format!("{} passed, {} failed, {} ignored", count.passed, count.failed, count.skipped));
    Ok(count)
}

fn run_all(programs: &[Program], manner: &Manner<'_>) -> Count {
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
            count.add(&end.count());
            let again = !manner.alone() && end.status.is_ok();
            failed.extend(end.broken().into_iter().filter(|_| again).map(|test| (program, test)));
        }
    });
    for (program, test) in failed {
        let name = format!("{} {}", program, test.as_deref().unwrap_or("(the whole program)"));
        let again = program.run(manner, test.as_deref());
        // Asked for one test, libtest is content with none as well.
        if again.is_good() && (test.is_none() || again.tests.passed == 1) {
            warn(format!("shaky: {name} failed beside others and passed alone"));
            // The failure that was counted for it is none.
            count.failed -= 1;
            count.passed += again.tests.passed;
            count.shaky.push(name);
        } else {
            println!("{} {name} failed beside others and did not pass alone", paint(Colour::Red, "✗"));
            program.show(&again);
        }
    }
    count
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
    /// The error says why it never ended by itself.
    status: Result<ExitStatus, String>,
    /// What libtest counted.
    tests: Count,
    took: Duration,
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
            kind: message["target"]["kind"][0].as_str()?.to_owned(),
            path: path.into(),
            folder: folder.into(),
        })
    }

    /// Runs all its tests, or one of them alone.
    fn run(&self, manner: &Manner<'_>, test: Option<&str>) -> End {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder).args(manner.told);
        command.envs(manner.path.as_ref().map(|path| ("PATH", path)));
        command.args(test.map(|test| ["--exact", test]).into_iter().flatten());
        let output = manner.output.join(format!("{}-{}-{}", self.package, self.kind, self.target));
        let watch = Watch { name: &self.to_string(), output: &output, limit: manner.limit };
        let Ended { out, err, status, took } = watch.run(&mut command);
        // libtest prints what failed to its output; what a process says as it dies is in the other.
        let lines = out.lines().chain(err.lines()).map(str::to_owned).collect();
        End { lines, status, tests: own(&out), took }
    }

    fn show(&self, end: &End) {
        let Count { passed, failed, .. } = end.tests;
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

    /// What libtest counted; a program that ended otherwise than by its tests is one failure more.
    fn count(&self) -> Count {
        let mut count = self.tests.clone();
        if !self.is_good() && count.failed == 0 {
            count.failed = 1;
        }
        count
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

/// What libtest counted at the end of a program. One test that failed may show what a program said that it had started: that has counted
/// the same failure before.
fn own(text: &str) -> Count {
    let last = text.lines().rev().find_map(|line| line.strip_prefix("test result: "));
    last.map(summary).unwrap_or_default()
}

/// All that libtest counted in a text.
fn summaries(text: &str) -> Count {
    let mut count = Count::default();
    text.lines().filter_map(|line| line.strip_prefix("test result: ")).for_each(|result| count.add(&summary(result)));
    count
}

/// `ok. 12 passed; 0 failed; 1 ignored; …`
fn summary(result: &str) -> Count {
    let number = |word: &str| {
        let item = result.split([';', '.']).map(str::trim).find_map(|item| item.strip_suffix(word));
        item.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    };
    Count { passed: number("passed"), failed: number("failed"), skipped: number("ignored"), shaky: Vec::new() }
}

fn noise(line: &str) -> bool {
    line.is_empty() || line.starts_with("running ") || (line.starts_with("test ") && line.ends_with(" ok"))
}

/// The examples in the documentation of the libraries, which cargo builds and runs by itself.
pub fn documentation(manner: &Manner<'_>) -> Result<Count, String> {
    let mut command = examples(manner);
    let running = step(tools::show(&command));
    let output = manner.output.join("documentation");
    let watch = Watch { name: "examples in the documentation", output: &output, limit: manner.limit };
    let Ended { out, err, status, .. } = watch.run(&mut command);
    let mut count = summaries(&out);
    if !status.as_ref().is_ok_and(ExitStatus::success) {
        println!("{out}{err}{}", status.err().unwrap_or_default());
        count.failed = count.failed.max(1);
    }
    running.done(format!("{} passed, {} failed", count.passed, count.failed));
    Ok(count)
}

/// One that fails hides none of the other crates'.
fn examples(manner: &Manner<'_>) -> Command {
    let mut command = cargo();
    command.args(["test", "--doc", "--no-fail-fast", "--quiet"]).args(manner.packages);
    command
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

    /// A program in the place of libtest's, which finds in `$n` how many times it was started.
    fn program(name: &str, script: &str) -> (Program, PathBuf) {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("weir-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("program");
        let text = format!("#!/bin/sh\necho \"$*\" >> starts; n=$(wc -l < starts)\n{script}\n");
        std::fs::write(&path, text).expect("a script");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it can be started");
        (
            Program { package: "p".into(), target: name.into(), kind: "test".into(), path, folder: folder.clone() },
            folder,
        )
    }

    /// Runs it and says what came of it, and what it was told each time.
    fn outcome(name: &str, script: &str, told: &[&str], at_once: usize) -> (Count, Vec<String>) {
        let (program, folder) = program(name, script);
        let limit = Duration::from_secs(if script.contains("sleep") { 1 } else { 600 });
        let manner = Manner { packages: &[], at_once, told, path: None, output: &folder, limit };
        let count = run_all(&[program], &manner);
        // One that was ended may not have come so far.
        let starts = std::fs::read_to_string(folder.join("starts")).unwrap_or_default();
        std::fs::remove_dir_all(&folder).expect("it is ours");
        (count, starts.lines().map(str::to_owned).collect())
    }

    const FAILS: &str =
        "printf 'failures:\\n    a::b\\n\\ntest result: FAILED. 4 passed; 1 failed; 0 ignored\\n'; exit 101";

    #[test]
    fn what_passes_alone_is_passed_and_named() {
        let passes =
            format!("[ $n = 1 ] || {{ echo 'test result: ok. 1 passed; 0 failed; 0 ignored'; exit 0; }}; {FAILS}");
        let (count, starts) = outcome("shaky", &passes, &[], 3);
        assert_eq!((count.passed, count.failed, count.shaky), (5, 0, vec!["p shaky a::b".to_owned()]));
        assert_eq!(starts, ["", "--exact a::b"]);
    }

    /// A test that starts its own program again, in a network of its own.
    #[test]
    fn what_a_test_has_started_is_not_counted_beside_it() {
        let inner =
            "test a::b ... FAILED\\nfailures:\\n    a::b\\n\\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\\n";
        let fails = format!("printf -- '---- a::b stdout ----\\n{inner}'; {FAILS}");
        let (count, _) = outcome(
            "nested",
            &format!("[ $n = 1 ] || {{ echo 'test result: ok. 1 passed; 0 failed; 0 ignored'; exit 0; }}; {fails}"),
            &[],
            3,
        );
        assert_eq!((count.passed, count.failed, count.shaky), (5, 0, vec!["p nested a::b".to_owned()]));
    }

    #[test]
    fn what_fails_again_is_failed() {
        let (count, starts) = outcome("broken", FAILS, &[], 3);
        assert_eq!((count.passed, count.failed, count.shaky.len(), starts.len()), (4, 1, 0, 2));
    }

    #[test]
    fn a_second_run_that_found_no_such_test_proves_nothing() {
        let none =
            format!("[ $n = 1 ] || {{ echo 'test result: ok. 0 passed; 0 failed; 0 ignored'; exit 0; }}; {FAILS}");
        let (count, _) = outcome("nothing", &none, &[], 3);
        assert_eq!((count.passed, count.failed, count.shaky.len()), (4, 1, 0));
    }

    #[test]
    fn what_had_nothing_beside_it_is_not_run_again() {
        let (count, starts) = outcome("alone", FAILS, &[ONE_TEST_AT_A_TIME], 1);
        assert_eq!((count.passed, count.failed, starts.len()), (4, 1, 1));
        let (_, starts) = outcome("threads", FAILS, &[], 1);
        assert_eq!(starts.len(), 2, "tests of one program run beside each other");
    }

    #[test]
    fn a_program_that_dies_is_a_failure_until_it_passes() {
        let (count, _) = outcome("dies", "kill -9 $$", &[], 3);
        assert_eq!((count.passed, count.failed), (0, 1));
        let (count, starts) =
            outcome("died", "[ $n = 1 ] && kill -9 $$; echo 'test result: ok. 7 passed; 0 failed; 0 ignored'", &[], 3);
        assert_eq!((count.passed, count.failed, count.shaky), (7, 0, vec!["p died (the whole program)".to_owned()]));
        assert_eq!(starts, ["", ""]);
    }

    #[test]
    fn a_program_that_never_ends_is_ended_and_failed() {
        let (count, starts) = outcome("hangs", "sleep 600", &[], 3);
        assert!(count.failed == 1 && starts.len() <= 1, "{starts:?}");
    }

    #[test]
    fn a_failed_example_does_not_hide_other_crates() {
        let manner = Manner {
            packages: &["--workspace"],
            at_once: 1,
            told: &[],
            path: None,
            output: Path::new("."),
            limit: Duration::MAX,
        };
        let shown = tools::show(&examples(&manner));
        assert!(shown.ends_with("test --doc --no-fail-fast --quiet --workspace"), "{shown}");
    }

    #[test]
    fn cargos_messages_name_the_test_programs_and_nothing_else() {
        let artifact = r#"{"reason":"compiler-artifact","manifest_path":"/w/userspace/base-text/Cargo.toml",
            "target":{"name":"fuzz","kind":["bin"]},"profile":{"test":true},"executable":"/w/target/debug/deps/fuzz-1"}"#;
        let program = Program::read(artifact).expect("a program");
        assert_eq!((program.to_string(), program.folder), ("base-text fuzz".into(), "/w/userspace/base-text".into()));
        assert!(Program::read(&artifact.replace("true", "false")).is_none());
        assert!(Program::read(&artifact.replace("\"/w/target/debug/deps/fuzz-1\"", "null")).is_none());
        assert!(Program::read("Compiling").is_none());
    }
}
