//! A program that runs to its end with nobody at its terminal.
//!
//! What it says goes into files, which can be followed meanwhile. It is named while it takes minutes, and one that takes too long
//! is ended. It is the first of a process group: what it has started and not ended goes with it, however it ends.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::progress::{note, seconds};

/// Where its output goes, and how long is too long.
pub struct Watch<'a> {
    /// As people are told of it.
    pub name: &'a str,
    /// What it says goes to this file with `.out` and `.err` behind its name.
    pub output: &'a Path,
    pub limit: Duration,
}

/// What it said and how it ended.
pub struct Ended {
    pub out: String,
    pub err: String,
    /// The error says that it could not be started, or took too long.
    pub status: Result<ExitStatus, String>,
    pub took: Duration,
}

impl Watch<'_> {
    pub fn run(&self, command: &mut Command) -> Ended {
        let started = Instant::now();
        let [out, err] = ["out", "err"].map(|kind| PathBuf::from(format!("{}.{kind}", self.output.display())));
        let status = self.start(command, [&out, &err]).and_then(|mut group| self.wait(&mut group, &out, started));
        // What is no text is shown as far as it is.
        let said = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        Ended { out: said(&out), err: said(&err), status, took: started.elapsed() }
    }

    fn start(&self, command: &mut Command, files: [&Path; 2]) -> Result<Group, String> {
        let named = |path: &Path, error| format!("{}: {error}", path.display());
        let folder = self.output.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|error| named(folder, error))?;
        let [out, err] = files.map(|path| File::create(path).map_err(|error| named(path, error)));
        Group::start(command.stdin(Stdio::null()).stdout(out?).stderr(err?))
    }

    fn wait(&self, group: &mut Group, out: &Path, started: Instant) -> Result<ExitStatus, String> {
        let (mut told, mut pause) = (TELLS_EVERY, Duration::from_millis(1));
        loop {
            if group.has_ended()? {
                return group.end();
            }
            let runs = started.elapsed();
            if runs >= self.limit {
                let _ = group.end();
                let text = fs::read_to_string(out).unwrap_or_default();
                return Err(format!("ended after {}, which is too long{}", seconds(runs), listed(&under_way(&text))));
            }
            if runs >= told {
                told += TELLS_EVERY;
                let text = fs::read_to_string(out).unwrap_or_default();
                let (name, under_way) = (self.name, listed(&under_way(&text)));
                note(format!("{name} has run for {}{under_way} (what it says: {})", seconds(runs), out.display()));
            }
            thread::sleep(pause.min(self.limit.saturating_sub(runs)));
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

/// Ends whatever runs here when we are told to end: a group of its own does not hear our terminal.
pub fn end_all_on_signal() {
    let ended = ctrlc::set_handler(|| {
        for group in groups().iter() {
            let _ = kill_process_group(*group, Signal::KILL);
        }
        std::process::exit(130);
    });
    if let Err(error) = ended {
        note(format!("what runs when this is interrupted is left behind: {error}"));
    }
}

struct Group {
    child: Child,
    id: Pid,
}

impl Group {
    fn start(command: &mut Command) -> Result<Group, String> {
        // None is started between the signal and our end.
        let mut groups = groups();
        let child = command.process_group(0).spawn();
        let child = child.map_err(|error| format!("{}: {error}", crate::tools::show(command)))?;
        let id = Pid::from_child(&child);
        groups.push(id);
        Ok(Group { child, id })
    }

    /// Without taking notice of it, so that its number is nobody else's yet.
    fn has_ended(&self) -> Result<bool, String> {
        let asked = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let state = waitid(WaitId::Pid(self.id), asked);
        state.map(|state| state.is_some()).map_err(|error| format!("it cannot be waited for: {error}"))
    }

    fn end(&mut self) -> Result<ExitStatus, String> {
        let mut groups = groups();
        // Once it was waited for, its number may be somebody else's.
        if let Some(at) = groups.iter().position(|group| *group == self.id) {
            groups.swap_remove(at);
            let _ = kill_process_group(self.id, Signal::KILL);
        }
        drop(groups);
        self.child.wait().map_err(|error| format!("it cannot be waited for: {error}"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Those that have not been waited for.
fn groups() -> MutexGuard<'static, Vec<Pid>> {
    static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The tests that libtest names as slow and has no result of; where it runs one at a time, the one it has begun a line for.
fn under_way(text: &str) -> Vec<&str> {
    let slow = text.lines().filter_map(|line| line.strip_prefix("test ")?.split_once(" has been running for over "));
    let has_result = |name: &str| {
        text.lines().any(|line| {
            line.strip_prefix("test ").is_some_and(|rest| {
                rest.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(" ... ") || rest.starts_with(" - should panic ... "))
            })
        })
    };
    let mut names: Vec<&str> = slow.map(|(name, _)| name).filter(|name| !has_result(name)).collect();
    names.extend(text.lines().last().and_then(|line| line.strip_prefix("test ")?.strip_suffix(" ... ")));
    names
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { String::new() } else { format!("; under way: {}", names.join(", ")) }
}

const TELLS_EVERY: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_read_from_what_libtest_says() {
        let text = "running 4 tests\ntest a ... ok\ntest b has been running for over 60 seconds\n\
                    test c::d has been running for over 60 seconds\ntest b ... FAILED\ntest e - should panic ... ok\n";
        assert_eq!(under_way(text), ["c::d"]);
        assert_eq!(under_way("test a ... ok\ntest b::c ... "), ["b::c"], "one at a time");
        assert!(under_way("").is_empty());
    }

    #[test]
    fn what_takes_too_long_is_ended_with_all_it_has_started_and_what_it_said_is_kept() {
        let folder = std::env::temp_dir().join(format!("weir-watched-{}", std::process::id()));
        let script = "sleep 600 & echo $!; echo no >&2; printf 'test x::y ... '; wait";
        // On a busy machine a shell needs its time until it has said all of it.
        let mut limit = Duration::from_millis(200);
        let ended = loop {
            let watch = Watch { name: "a b", output: &folder.join("a"), limit };
            let ended = watch.run(Command::new("sh").args(["-c", script]));
            if ended.out.ends_with(" ... ") {
                break ended;
            }
            limit *= 2;
        };
        let problem = ended.status.expect_err("it slept");
        assert!(problem.contains("too long; under way: x::y"), "{problem}");
        assert_eq!(ended.err, "no\n");
        assert!(folder.join("a.out").is_file());
        let child: &str = ended.out.lines().next().expect("its first line");
        let state = || fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        while state().rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')) {
            thread::sleep(Duration::from_millis(5));
        }
        fs::remove_dir_all(&folder).expect("it is ours");
    }

    #[test]
    fn what_ends_leaves_nothing_behind() {
        let folder = std::env::temp_dir().join(format!("weir-left-{}", std::process::id()));
        let watch = Watch { name: "a", output: &folder.join("a"), limit: Duration::from_secs(600) };
        let ended = watch.run(Command::new("sh").args(["-c", "sleep 600 & echo $!; exit 7"]));
        assert_eq!(ended.status.expect("it ended").code(), Some(7));
        let child = ended.out.trim().to_owned();
        let state = || fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        while state().rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')) {
            thread::sleep(Duration::from_millis(5));
        }
        let missing = watch.run(&mut Command::new(folder.join("nothing")));
        assert!(missing.status.expect_err("there is no such program").contains("nothing: No such file"));
        fs::remove_dir_all(&folder).expect("it is ours");
    }
}
