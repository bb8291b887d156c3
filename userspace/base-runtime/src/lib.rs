//! The workers Weir runs on: one thread per CPU, one executor and one I/O driver per thread, nothing shared on the way of a request.
//!
//! A [`Runtime`] starts its [`Worker`]s pinned to CPUs. Each owns a single-threaded executor, a pool of fixed-size buffers, a timer
//! wheel and a driver: io_uring (multishot accept and receive, a ring of provided buffers, one `io_uring_enter` per turn of the
//! loop) or, where io_uring is forbidden, edge-triggered epoll. Both drivers offer the same semantics and pass the same tests.
//!
//! One turn of a worker's loop reads: run the tasks that are ready (bounded), start the sends they queued, hand everything to the
//! kernel and wait for something to happen (for several things, where one at a time costs more: `coalescing`), read the clock, fire
//! timers, take in what other threads sent.
//!
//! Reading order: [`runtime`] (threads, the loop), `executor` (tasks and wakers), [`buffer`], [`time`], [`net`] (what sockets
//! promise; `net::splice`: how long bodies pass without being copied; [`net::udp`]), `driver` (how each kernel interface keeps the
//! promise), [`memory`] (who holds how much), [`channel`].

pub mod affinity;
mod boxed;
pub mod buffer;
pub mod channel;
mod coalescing;
mod context;
mod driver;
mod executor;
pub mod memory;
pub mod net;
pub mod pages;
pub mod pressure;
pub mod runtime;
mod stats;
pub mod table;
pub mod time;

pub use affinity::allowed_cpus;
pub use boxed::Boxed;
pub use buffer::Buf;
pub use driver::{IoKind, IoMode, probe_uring};
pub use executor::{SHARE, Task, poll_share, yield_now};
pub use runtime::{
    Config, Runtime, StartError, Worker, current_worker, now, poll_began, some_worker, spawn, try_worker_index,
    worker_index,
};
pub use stats::WorkerStats;
