//! What takes lines: one file for each way.

use crate::frame::{Kind, Line};
use crate::post::Post;
use base_model::{LogFormat, LogSinkSpec, MtlsSpec};
use base_runtime::Worker;
use base_telemetry::Telemetry;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod file;
mod http;
mod kafka;
mod otlp;
mod syslog;

/// What came of a try.
#[derive(Debug)]
pub enum Sent {
    /// It has them.
    Taken,
    /// It has them, but for so many, which it never will, and why.
    Except(u64, String),
    /// It never will.
    Refused(String),
    /// It takes fewer at a time.
    Smaller(String),
    /// It may have them later, not before this long.
    Later(Option<Duration>, String),
}

/// Takes lines, in their order. Called from a thread that may wait, but not for longer than `until` says, where it says a time.
pub trait Sink: Send {
    fn send(&mut self, lines: &[Line], until: &dyn Fn() -> Option<Instant>) -> Sent;

    /// Lines that counted as taken, and of which was heard since that nobody was there for them; since this was asked last.
    fn unheard(&mut self) -> u64 {
        0
    }

    /// Where they go, for people.
    fn shown(&self) -> &str;
}

/// Longest that one try may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Makes sinks of documents.
pub struct Target;

impl Target {
    /// What the document says. The error says what is wrong with it or with this machine.
    #[expect(clippy::new_ret_no_self, reason = "which of them it is, the document says")]
    pub fn new(
        name: &str,
        spec: &LogSinkSpec,
        machine: &str,
        telemetry: &Arc<Telemetry>,
        workers: &[Worker],
    ) -> Result<Box<dyn Sink>, String> {
        let post = |url: &str, http2, mtls: Option<&MtlsSpec>| {
            let pool = format!("logs/{name}");
            Post::new(url, http2, mtls, TIMEOUT, &pool, telemetry, workers).map_err(|why| format!("{url}: {why}"))
        };
        let is_json = spec.format == LogFormat::Json;
        if let Some(spec) = &spec.http {
            return Ok(Box::new(http::HttpSink::new(post(&spec.url, None, spec.mtls.as_ref())?, spec, is_json)));
        }
        if let Some(spec) = &spec.syslog {
            return Ok(Box::new(syslog::SyslogSink::new(spec, machine)?));
        }
        if let Some(spec) = &spec.file {
            return Ok(Box::new(file::FileSink::new(spec)));
        }
        if let Some(spec) = &spec.otlp {
            return Ok(Box::new(otlp::OtlpSink::new(spec, machine, &post)?));
        }
        if let Some(spec) = &spec.kafka {
            return Ok(Box::new(kafka::KafkaSink::new(spec)?));
        }
        Err("no sink: give it http, syslog, file, otlp or kafka".to_owned())
    }
}

/// As syslog (RFC 5424 section 6.2.1) and others count: 3 error, 4 warning, 6 informational.
fn severity(kind: Kind) -> u8 {
    match kind {
        Kind::Access | Kind::Info => 6,
        Kind::Warning => 4,
        Kind::Error => 3,
    }
}

/// What a line is, in a word.
fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Access => "access",
        Kind::Info | Kind::Warning | Kind::Error => "event",
    }
}
