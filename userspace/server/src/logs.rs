//! The log: to standard error or a file, and the last lines in memory for the admin API.

use crate::options::Options;
use control_admin::LogRing;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

/// Lines kept for `GET /logs`.
const LINES_KEPT: usize = 10_000;

/// File of the log inside `--log-dir`, as Easegress calls it.
const FILE_NAME: &str = "stdout.log";

/// The log as it runs.
#[derive(Clone)]
pub struct Logs {
    pub ring: LogRing,
    level: reload::Handle<Targets, Registry>,
}

/// Starts logging for the process.
pub fn start(options: &Options) -> Result<Logs, String> {
    let ring = LogRing::new(LINES_KEPT);
    let sink = match &options.log_dir {
        None => Sink::Stderr,
        Some(directory) => {
            let path = directory.join(FILE_NAME);
            std::fs::create_dir_all(directory)
                .and_then(|()| OpenOptions::new().create(true).append(true).open(&path))
                .map(|file| Sink::File(Arc::new(Mutex::new(file))))
                .map_err(|e| {
                    format!(
                        "--log-dir {}: cannot write {FILE_NAME}: {e}; give a writable directory",
                        directory.display()
                    )
                })?
        }
    };
    let terminal = options.log_dir.is_none() && io::stderr().is_terminal();
    let writer = Tee { sink, ring: ring.clone() };
    let (filter, level) = reload::Layer::new(targets(options.debug));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = if options.json_log.unwrap_or(!terminal) {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(terminal).with_target(false).boxed()
    };
    Registry::default().with(filter).with(lines).init();
    Ok(Logs { ring, level })
}

impl Logs {
    pub fn level(&self) -> String {
        self.level
            .with_current(|targets| targets.default_level().map(|level| level.to_string()))
            .ok()
            .flatten()
            .unwrap_or_default()
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
    File(Arc<Mutex<File>>),
}

/// Writes each line to the sink and into the ring.
#[derive(Clone)]
struct Tee {
    sink: Sink,
    ring: LogRing,
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.ring.push(&String::from_utf8_lossy(bytes));
        match &self.sink {
            Sink::Stderr => io::stderr().write_all(bytes)?,
            Sink::File(file) => file.lock().unwrap_or_else(|e| e.into_inner()).write_all(bytes)?,
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
