//! What the machine knows about itself: counters and HDR histograms written by one worker each and merged when somebody asks,
//! the stat blocks and metric names Easegress users know, our own families beside them, and the access log.
//!
//! Three rules hold everywhere in this crate:
//!
//! - **A worker never waits.** Numbers are atomics with one writer, so recording is a plain load, add and store. The two places that
//!   hold text (paths and log lines) use `try_lock`; whoever reads them holds the lock only to swap a buffer.
//! - **Everything is bounded**, and reaching a bound is counted in `weir_limit_hits_total{limit}` (see [`limits`]).
//! - **Nothing panics.** A wrong worker index, status or label loses precision, never the process.
//!
//! Reading order: [`hub`] shows how the parts hang together, [`server`], [`proxy`] and [`cache`] are written by the workers,
//! [`registry`] and [`families`] turn numbers into Prometheus text, [`access_log`] writes lines, [`log_file`] keeps
//! the file they are in small.
#![forbid(unsafe_code)]

pub mod hub;

pub mod cache;
pub mod proxy;
pub mod relay;
pub mod server;

mod block;
mod shard;
mod top_paths;

pub mod ewma;
pub mod histogram;
pub mod limits;

pub mod families;
pub mod registry;

pub mod access_log;
pub mod log_file;

pub use hub::{Identity, Telemetry};
pub use limits::{Limit, LimitHits};
pub use registry::{Encoder, Names, Registry};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose data stays meaningful after a panic elsewhere: all of it is counters.
fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
