//! Counters of a worker: one writer, any number of readers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A counter only its worker writes, so adding is a load and a store rather than a locked instruction.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// Raises it to `n`, if it is below; also for others than its writer, where that one does nothing else.
    pub fn reach(&self, n: u64) {
        self.0.fetch_max(n, Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Raises it to a part of a whole in thousandths, where it is below.
    #[inline]
    pub fn saw_part(&self, part: usize, whole: usize) {
        // Mostly a few of thousands wait, which nobody is told of; but where many do, a kernel (6.13 and later) hands over 20 at a time.
        if part * 400 < whole {
            return;
        }
        let permille = (part.min(whole) * 1000 / whole.max(1)) as u64;
        if permille > self.value() {
            self.set(permille);
        }
    }

    /// Starts anew; says what it was. For one reader. What its writer adds at that very moment may be lost.
    pub fn take(&self) -> u64 {
        self.0.swap(0, Relaxed)
    }
}

/// The longest of something lately: in this minute and the one before it, as far as the worker was awake in them.
#[derive(Default)]
pub(crate) struct Longest {
    this_minute: u64,
    last_minute: u64,
}

impl Longest {
    #[inline]
    pub fn saw(&mut self, time: Duration, shown: &Counter) {
        let ns = time.as_nanos() as u64;
        if ns > self.this_minute {
            self.this_minute = ns;
            shown.set(ns.max(self.last_minute));
        }
    }

    /// Another minute begins.
    pub fn turn_over(&mut self, shown: &Counter) {
        self.last_minute = std::mem::take(&mut self.this_minute);
        shown.set(self.last_minute);
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        #[derive(Default)]
        pub(crate) struct Counters { $(pub $name: Counter,)* }

        /// What a worker has counted since it started, and what it holds now.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct WorkerStats { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            pub fn snapshot(&self) -> WorkerStats {
                WorkerStats { $($name: self.$name.value(),)* }
            }
        }
    };
}

counters! {
    /// TCP connections open now, accepted and connected ones together.
    connections_open,
    /// Connections accepted.
    accepted,
    /// Connections established to others.
    connected,
    /// Bytes received.
    bytes_in,
    /// Bytes the kernel took for sending.
    bytes_out,
    /// Those of the bytes sent that went from one socket to another inside the kernel.
    bytes_spliced,
    /// Pipes for that which the kernel refused; the bytes went the ordinary way.
    pipes_refused,
    /// Turns of the loop.
    turns,
    /// The longest turn of the last one to two minutes in nanoseconds, from one look at the kernel's events to the next, sleep left
    /// out: so long a message waited before anybody looked at it.
    longest_turn_ns,
    /// The longest turn since whoever watches the machine looked last, in nanoseconds.
    recent_turn_ns,
    /// The most that waited in the kernel's queues of events and operations when the worker looked, since whoever watches the machine
    /// looked last, in thousandths of what has room there.
    recent_ring_permille,
    /// The longest poll of one task in that time, in nanoseconds.
    longest_poll_ns,
    /// Times the worker slept: until something happened, or to let events gather.
    wakeups,
    /// Those of them in which it let events gather.
    pauses,
    /// Wakes other threads sent while the worker slept.
    remote_wakes,
    /// CPU time of the thread in nanoseconds, work in the kernel included.
    busy_ns,
    /// Time in nanoseconds in which the thread had something to do and no CPU to do it on, since other threads had them: what a
    /// message waited for that no worker is to blame for. 0 where the kernel does not say (CONFIG_SCHED_INFO).
    waited_ns,
    /// Time since its start in nanoseconds; what of it is neither in `busy_ns` nor in `waited_ns` it slept.
    age_ns,
    /// System calls that submit to or wait on the driver (`io_uring_enter`, `epoll_wait`).
    enters,
    /// Tasks alive now.
    tasks,
    /// Polls of tasks.
    polls,
    /// Polls that ended because the task had taken its share of what was ready; see `poll_share`.
    shares_spent,
    /// Tasks that ended by a panic.
    panics,
    /// Buffers out of the pool now; the slots of the receive ring are among them.
    buffers_in_use,
    /// Buffers in the receive ring, for the kernel to receive into (io_uring only).
    buffers_ready,
    /// Buffers the pool has allocated.
    buffers_total,
    /// Buffers refused, or handed out beyond the ceiling.
    buffers_exhausted,
    /// Receives that found the receive ring empty and were armed again.
    enobufs,
    /// Accepts that failed for want of descriptors or memory; the listener pauses after each.
    emfile,
    /// Clients accepted only to be closed, because descriptors had been short for a while.
    shed,
    /// Connections given to another worker.
    handed_over,
    /// Connections taken off this worker in the middle of what they did.
    parked,
    /// Operations cancelled.
    cancelled,
    /// Receives paused because their queue was full.
    recv_paused,
    /// Sends the kernel took only in part, or not at all, at first: the peer is slower than we are.
    short_sends,
    /// Connections closed by the linger limit with bytes unsent.
    linger_expired,
    /// UDP sockets open now.
    datagram_sockets_open,
    /// Datagrams received; those the kernel had joined are counted apart.
    datagrams_in,
    /// Datagrams the kernel took for sending; those it splits are counted apart.
    datagrams_out,
    /// Datagrams received that were longer than the buffer, whose rest is lost.
    datagrams_truncated,
    /// Datagrams the kernel dropped because the receive buffer of a socket was full, as far as a later one has told
    /// of it. Those it had joined it counts as one.
    datagrams_overflowed,
    /// Datagrams dropped because neither the kernel nor the queue had room, or the kernel refused them.
    datagrams_unsent,
    /// Buffers for datagrams out of their pool now; the slots of the receive ring are among them.
    datagram_buffers_in_use,
    /// Buffers for datagrams in the receive ring (io_uring only).
    datagram_buffers_ready,
    /// Buffers for datagrams that the pool has allocated.
    datagram_buffers_total,
    /// Buffers for datagrams refused because of the ceiling.
    datagram_buffers_exhausted,
    /// Timers that fired.
    timers_fired,
}
