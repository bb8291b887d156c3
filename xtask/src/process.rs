//! Programs that run beside us: started with their output in a file, waited for, stopped by their own pid.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A started program. Dropping it ends it, unless [`Daemon::leave`] let it go.
pub struct Daemon {
    pub name: String,
    pub log: PathBuf,
    /// How long the log was when this one was started: a program of the same name may have written to it before.
    begins: u64,
    child: Child,
    left: bool,
}

impl Daemon {
    /// Starts `command` with both outputs in `<logs>/<name>.log`, apart from our terminal's Ctrl-C.
    pub fn start(name: &str, command: &mut Command, logs: &Path) -> Result<Self, String> {
        let log = logs.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log);
        let file = file.map_err(|error| format!("{}: {error}", log.display()))?;
        let twin = file.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
        let begins = file.metadata().map_err(|error| format!("{}: {error}", log.display()))?.len();
        command.stdin(Stdio::null()).stdout(file).stderr(twin).process_group(0);
        let child = command.spawn().map_err(|error| format!("{}: {error}", crate::tools::show(command)))?;
        Ok(Self { name: name.into(), log, begins, child, left: false })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has said a line that contains `word`; fails when the program ends or the time is over.
    pub fn wait_for(&mut self, word: &str, limit: Duration) -> Result<Duration, String> {
        let started = Instant::now();
        loop {
            if self.log_text().lines().any(|line| line.contains(word)) {
                return Ok(started.elapsed());
            }
            if let Some(status) = self.ended() {
                return Err(format!("{} ended with {status} before it was ready:\n{}", self.name, self.log_end()));
            }
            if started.elapsed() > limit {
                let limit = limit.as_secs();
                return Err(format!("{} did not say `{word}` within {limit} s:\n{}", self.name, self.log_end()));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The hard way, as a crash or the kernel's out-of-memory killer would do it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks with SIGTERM, and insists after `limit`.
    pub fn stop(&mut self, limit: Duration) -> Result<Duration, String> {
        let started = Instant::now();
        if let Some(pid) = Pid::from_raw(self.pid().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        while started.elapsed() < limit {
            if self.ended().is_some() {
                return Ok(started.elapsed());
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.kill();
        Err(format!("{} did not end within {} s of SIGTERM", self.name, limit.as_secs()))
    }

    /// Lets it live on after us.
    pub fn leave(mut self) {
        self.left = true;
    }

    /// What this one has written, and none of what another of its name wrote before it.
    fn log_text(&self) -> String {
        let mut text = Vec::new();
        let read = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.begins))?;
            file.read_to_end(&mut text)
        });
        // A log that is gone says nothing; who waits for a word of it is told so when the time is over.
        let _ = read;
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The last lines of the log, for an error message.
    pub fn log_end(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(15)..].join("\n    ");
        format!("    {end}\n    (all of it: {})", self.log.display())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.left && self.ended().is_none() {
            let _ = self.stop(Duration::from_secs(3));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(words: &str, name: &str, folder: &Path) -> Daemon {
        let script = format!("echo {words}; exec sleep 60");
        Daemon::start(name, Command::new("sh").args(["-c", &script]), folder).expect("sh starts")
    }

    #[test]
    fn what_the_one_before_said_is_not_what_this_one_says() {
        let folder = std::env::temp_dir().join(format!("weir-daemons-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut first = says("ready", "edge", &folder);
        first.wait_for("ready", Duration::from_secs(60)).expect("it said so");
        first.kill();
        let mut second = says("starting", "edge", &folder);
        second.wait_for("starting", Duration::from_secs(60)).expect("it said so");
        let problem = second.wait_for("ready", Duration::ZERO).expect_err("only the first one was ready");
        assert!(problem.contains("did not say `ready`") && problem.contains("    starting\n"), "{problem}");
        drop((first, second));
        std::fs::remove_dir_all(&folder).expect("it is ours");
    }
}
