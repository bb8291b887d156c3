//! The access log: one line per request in a format the user chose, written by a thread of its own.
//!
//! A worker formats its line straight into a buffer that nobody else touches but for the moment of taking it away, so logging costs
//! the formatting. When the disk is slower than the traffic, buffers queue up to a bound and then lines are dropped and counted
//! (`weir_limit_hits_total{limit="access_log_queue"}`): requests never wait for their log.

pub mod json;
pub mod tags;

mod format;
mod writer;

pub use base_text::time::{write_duration, write_ip, write_time};
pub use format::{DEFAULT_FORMAT, Entry, Format, FormatError, Tags, write_line};
pub use writer::{AccessLog, Destination, FILE_NAME, LogWriter, Taker};
