//! The LogSinks a server's requests are logged to, as one worker sees them.

use arc_swap::{ArcSwap, Cache};
use base_telemetry::access_log::{Entry, Format, LogWriter, json};
use edge_export::LogSink;
use std::sync::Arc;

/// All sinks of the machine.
pub type All = Arc<ArcSwap<Vec<Arc<LogSink>>>>;

/// See the module doc.
pub struct LogSinks {
    all: Cache<All, Arc<Vec<Arc<LogSink>>>>,
    /// What `writers` were made of.
    made_of: Option<Arc<Vec<Arc<LogSink>>>>,
    writers: Vec<SinkWriter>,
}

/// One of them.
pub struct SinkWriter {
    pub is_json: bool,
    writer: LogWriter,
}

impl LogSinks {
    pub fn new(all: &All) -> LogSinks {
        LogSinks { all: Cache::new(all.clone()), made_of: None, writers: Vec::new() }
    }

    /// Those that requests of this server are logged to now.
    #[inline]
    pub fn now(&mut self, server: &str) -> &mut [SinkWriter] {
        let all = self.all.load();
        if !self.made_of.as_ref().is_some_and(|before| Arc::ptr_eq(before, all)) {
            let worker = base_runtime::worker_index();
            let writer =
                |sink: &Arc<LogSink>| Some(SinkWriter { is_json: sink.is_json(), writer: sink.writer(worker)? });
            self.writers = all.iter().filter(|sink| sink.takes(server)).filter_map(writer).collect();
            self.made_of = Some(all.clone());
        }
        &mut self.writers
    }
}

impl SinkWriter {
    pub fn log(&mut self, format: &Format, server: &str, entry: &Entry<'_>, hide: bool) {
        match self.is_json {
            true => self.writer.with(|out| json::write_line(server, entry, hide, out)),
            false => self.writer.log(format, entry),
        }
    }
}
