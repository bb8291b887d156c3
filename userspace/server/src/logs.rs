//! The log: to standard error or a file, and the last lines in memory for the admin API.
//!
//! What clients, backends and documents say gets into many messages and fields. So that none of it begins a line of its own, commands
//! the terminal or gives a credential away, every line is escaped and redacted here, as a whole, whoever wrote it.

use crate::log_thread::LogThread;
use crate::options::Options;
use base_telemetry::log_file::LogFile;
use base_text::escape::{write_foreign, write_foreign_json};
use base_text::redact;
use control_admin::LogRing;
use std::io::{self, IsTerminal, Write};
use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

/// Lines kept for `GET /logs`.
const LINES_KEPT: usize = 10_000;

/// File of the log inside `--log-dir`, as Easegress calls it.
const FILE_NAME: &str = "stdout.log";

/// Who changed what: a line of JSON for every write.
const AUDIT_NAME: &str = "audit.log";

/// The log as it runs.
#[derive(Clone)]
pub struct Logs {
    pub ring: LogRing,
    level: reload::Handle<Targets, Registry>,
    /// Absent where the log goes to standard error.
    pub file: Option<LogThread>,
    /// The file of the audit log, beside it.
    pub audit: Option<LogThread>,
}

/// Starts logging for the process.
pub fn start(options: &Options) -> Result<Logs, String> {
    let ring = LogRing::new(LINES_KEPT);
    let sink = match &options.log_dir {
        None => Sink::Stderr,
        Some(directory) => {
            let path = directory.join(FILE_NAME);
            std::fs::create_dir_all(directory)
                .and_then(|()| LogFile::open(path, options.log_bounds))
                .and_then(LogThread::start)
                .map(Sink::File)
                .map_err(|e| {
                    format!(
                        "--log-dir {}: cannot write {FILE_NAME}: {e}; give a writable directory",
                        directory.display()
                    )
                })?
        }
    };
    let file = if let Sink::File(file) = &sink { Some(file.clone()) } else { None };
    let terminal = options.log_dir.is_none() && io::stderr().is_terminal();
    let json = options.json_log.unwrap_or(!terminal);
    let writer = Tee { sink, ring: ring.clone(), json, colours: terminal && !json };
    let (filter, level) = reload::Layer::new(targets(options.debug));
    Registry::default().with(filter).with(lines(writer)).init();
    std::panic::set_hook(Box::new(tell_panic));
    let audit = match &options.log_dir {
        None => None,
        Some(directory) => Some(
            LogFile::open(directory.join(AUDIT_NAME), options.log_bounds)
                .and_then(LogThread::start)
                .map_err(|e| format!("--log-dir {}: cannot write {AUDIT_NAME}: {e}", directory.display()))?,
        ),
    };
    Ok(Logs { ring, level, file, audit })
}

/// Writes each event as a line.
fn lines<S: Subscriber + for<'s> LookupSpan<'s>>(writer: Tee) -> Box<dyn Layer<S> + Send + Sync> {
    let json = writer.json;
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    if json { lines.json().flatten_event(true).boxed() } else { lines.with_ansi(false).with_target(false).boxed() }
}

/// What a panic says is logged like everything else: it may quote what a client sent.
fn tell_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let text = panic.payload_as_str().unwrap_or("no text");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    tracing::error!(thread = thread.name().unwrap_or("?"), "panicked at {place}: {text}");
    let trace = std::backtrace::Backtrace::capture();
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        eprintln!("{trace}");
    }
}

impl Logs {
    pub fn level(&self) -> String {
        self.level
            .with_current(|targets| targets.default_level().map(|level| level.to_string()))
            .ok()
            .flatten()
            .unwrap_or_default()
    }

    /// Opens the file anew, where there is one.
    pub fn reopen(&self) {
        for file in self.file.iter().chain(&self.audit) {
            file.reopen();
        }
    }

    /// Waits until what was said is written.
    pub fn flush(&self) {
        for file in self.file.iter().chain(&self.audit) {
            file.flush();
        }
    }

    /// `info` or `debug`.
    pub fn set_level(&self, level: &str) -> Result<(), String> {
        let level = match level {
            "info" => targets(false),
            "debug" => targets(true),
            other => return Err(format!("log level {other}: not known; accepted are info and debug")),
        };
        self.level.reload(level).map_err(|e| e.to_string())
    }
}

/// What is logged. The Raft library tells every step of an election at its own `info`, which is news to nobody but us.
fn targets(debug: bool) -> Targets {
    let (own, raft) =
        if debug { (LevelFilter::DEBUG, LevelFilter::INFO) } else { (LevelFilter::INFO, LevelFilter::OFF) };
    Targets::new().with_default(own).with_target("openraft", raft)
}

#[derive(Clone)]
enum Sink {
    Stderr,
    File(LogThread),
}

/// Makes each line safe, and writes it to the sink and into the ring.
#[derive(Clone)]
struct Tee {
    sink: Sink,
    ring: LogRing,
    /// Lines are JSON, and stay that.
    json: bool,
    /// The level is painted for a terminal.
    colours: bool,
}

impl Tee {
    fn safe(&self, bytes: &[u8]) -> String {
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let mut safe = Vec::with_capacity(line.len() + 1);
        redact::write_text(line, &[], if self.json { write_foreign_json } else { write_foreign }, &mut safe);
        safe.push(b'\n');
        String::from_utf8_lossy(&safe).into_owned()
    }
}

impl Write for Tee {
    /// The formatter hands over whole lines.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = self.safe(bytes);
        self.ring.push(&line);
        edge_export::event(&line);
        let shown = if self.colours { painted(&line) } else { line };
        match &self.sink {
            Sink::Stderr => io::stderr().write_all(shown.as_bytes())?,
            Sink::File(file) => file.line(shown),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Tee {
    type Writer = Tee;

    fn make_writer(&'a self) -> Tee {
        self.clone()
    }
}

/// The level behind the time in its colour; the time stands back.
fn painted(line: &str) -> String {
    let Some((time, rest)) = line.split_once(' ') else { return line.to_owned() };
    let level = rest.trim_start().split(' ').next().unwrap_or_default();
    let colour = match level {
        "ERROR" => 31,
        "WARN" => 33,
        "INFO" => 32,
        "DEBUG" => 34,
        _ => return line.to_owned(),
    };
    let painted = rest.replacen(level, &format!("\x1b[{colour}m{level}\x1b[0m"), 1);
    format!("\x1b[2m{time}\x1b[0m {painted}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;
    use std::sync::Arc;

    /// What a file and the ring have after one event with a text wherever a text can be.
    fn logged(text: &str, json: bool) -> (String, Vec<Arc<str>>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let file = LogThread::start(LogFile::open(path.clone(), Default::default()).unwrap()).unwrap();
        let sink = Sink::File(file.clone());
        let ring = LogRing::new(10);
        let tee = Tee { sink, ring: ring.clone(), json, colours: false };
        tracing::subscriber::with_default(Registry::default().with(lines(tee)), || {
            let error = io::Error::other(text.to_owned());
            tracing::error!(shown = %text, debug = ?text, plain = text, %error, "message {text}");
        });
        file.flush();
        (std::fs::read_to_string(path).unwrap(), ring.tail(10))
    }

    fn is_one_safe_line(text: &str, json: bool) -> Result<(), TestCaseError> {
        let (file, ring) = logged(text, json);
        prop_assert_eq!(ring.len(), 1);
        prop_assert_eq!(file.strip_suffix('\n'), Some(&*ring[0]));
        let line = &ring[0];
        prop_assert_eq!(base_text::escaped(line), &**line, "something in it is dangerous");
        if json {
            let parsed: Value = serde_json::from_str(line).unwrap();
            prop_assert!(parsed["message"].is_string() && parsed["plain"].is_string(), "{}", line);
        }
        Ok(())
    }

    #[test]
    fn no_text_begins_a_line_or_commands_the_terminal() {
        for json in [false, true] {
            for text in [
                "a\n2026-01-01T00:00:00Z ERROR forged",
                "\r\x1b[2K\x1b[1A",
                "\u{9b}31m \u{85} \u{2028} \u{202e}",
                "\"},\n{\"level\":\"ERROR\"}",
            ] {
                is_one_safe_line(text, json).unwrap();
            }
        }
    }

    #[test]
    fn credentials_are_hidden_and_json_stays_json() {
        for (text, hidden) in [
            ("Authorization: Basic dTpwYXNz", "dTpwYXNz"),
            ("{\"password\":\"hunter2\", \"user\":\"u\"}", "hunter2"),
            ("GET /x?access_token=t0k3n from https://u:pw12@h/", "t0k3n"),
        ] {
            for json in [false, true] {
                let (file, _) = logged(text, json);
                assert!(!file.contains(hidden), "{file}");
                is_one_safe_line(text, json).unwrap();
            }
        }
    }

    #[test]
    fn colours_are_put_around_what_is_safe_already() {
        let line = "2026-11-29T10:00:00Z  WARN a WARN\n";
        assert_eq!(painted(line), "\x1b[2m2026-11-29T10:00:00Z\x1b[0m  \x1b[33mWARN\x1b[0m a WARN\n");
        assert_eq!(painted("odd\n"), "odd\n");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_one_safe_line(text in any::<String>(), json in any::<bool>()) {
            is_one_safe_line(&text, json)?;
        }
    }
}
