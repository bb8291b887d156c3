//! The memory ledger: what each worker holds on behalf of traffic, what the process holds in all, and whether that is too much.
//!
//! Buffers, connections and tasks are booked by the runtime itself; whoever keeps other memory whose size a client decides (heads,
//! bodies, TLS sessions) holds a [`Booking`] beside it. Sums are kept per worker without atomics that lock; a worker tells the rest
//! of the process once per turn, and at once when 256 KiB are booked in one go or have to be asked of the allocator.
//!
//! Nothing is refused here. Above 95 % of the ceiling [`is_over`] says so until the total is below 85 % again, and those who take in
//! work shed it: with a 503, or by not accepting. Buffers that lie ready (free ones, and those the kernel receives into) are a
//! reserve of bounded size, counted apart: shedding would not bring them back.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::Buf;
use crate::context;
use crate::runtime::Shared;
use crate::stats::Counter;

/// What booked memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Buffers in use, at their full 32 KiB. Booked by the runtime.
    Buffers,
    /// The fixed part of sockets. Booked by the runtime.
    Connections,
    /// Tasks with the state of their futures. Booked by the runtime.
    Tasks,
    /// Request and response heads kept outside buffers.
    Heads,
    /// Bodies kept outside buffers.
    Bodies,
    /// TLS sessions.
    Tls,
    /// UDP sockets, and their buffers in use at full size. Booked by the runtime.
    Datagrams,
    /// Answers that caches keep.
    Caches,
    Other,
}

impl Kind {
    pub const ALL: [Kind; KINDS] = [
        Kind::Buffers,
        Kind::Connections,
        Kind::Tasks,
        Kind::Heads,
        Kind::Bodies,
        Kind::Tls,
        Kind::Datagrams,
        Kind::Caches,
        Kind::Other,
    ];

    /// As in the label of a metric.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Buffers => "buffers",
            Kind::Connections => "connections",
            Kind::Tasks => "tasks",
            Kind::Heads => "heads",
            Kind::Bodies => "bodies",
            Kind::Tls => "tls",
            Kind::Datagrams => "datagrams",
            Kind::Caches => "caches",
            Kind::Other => "other",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

const KINDS: usize = 9;

/// Bytes entered in the ledger of the worker it was made on, until it is dropped there. Elsewhere they are entered for the process.
pub struct Booking {
    bytes: Cell<usize>,
    kind: Kind,
    /// Made outside a worker.
    elsewhere: bool,
    /// Its worker's books have one writer.
    not_send: PhantomData<*const ()>,
}

impl Booking {
    #[inline]
    pub fn new(kind: Kind, bytes: usize) -> Booking {
        let elsewhere = context::try_with(|_| ()).is_none();
        let booking = Booking { bytes: Cell::new(0), kind, elsewhere, not_send: PhantomData };
        booking.set(bytes);
        booking
    }

    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// From now on it stands for `bytes`.
    #[inline]
    pub fn set(&self, bytes: usize) {
        let change = (bytes as u64).wrapping_sub(self.bytes.replace(bytes) as u64);
        if change == 0 {
            return;
        }
        if self.elsewhere {
            ELSEWHERE[self.kind as usize].fetch_add(change, Relaxed);
            move_total(change);
        } else {
            // A worker that is gone has taken its books with it.
            context::try_with(|cx| cx.shared.ledger.book(self.kind, change, &cx.shared));
        }
    }

    #[inline]
    pub fn grow(&self, bytes: usize) {
        self.set(self.bytes.get().saturating_add(bytes));
    }

    #[inline]
    pub fn shrink(&self, bytes: usize) {
        self.set(self.bytes.get().saturating_sub(bytes));
    }
}

impl Drop for Booking {
    #[inline]
    fn drop(&mut self) {
        self.set(0);
    }
}

impl fmt::Debug for Booking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Booking({}, {})", self.kind, self.bytes.get())
    }
}

/// As [`Booking`], for what may leave its worker: entered for the process and not for a worker, at the price of locked additions.
#[derive(Debug)]
pub struct SharedBooking {
    bytes: usize,
    kind: Kind,
}

impl SharedBooking {
    pub fn new(kind: Kind, bytes: usize) -> SharedBooking {
        ELSEWHERE[kind as usize].fetch_add(bytes as u64, Relaxed);
        move_total(bytes as u64);
        SharedBooking { bytes, kind }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for SharedBooking {
    fn drop(&mut self) {
        let change = 0u64.wrapping_sub(self.bytes as u64);
        ELSEWHERE[self.kind as usize].fetch_add(change, Relaxed);
        move_total(change);
    }
}

/// Bytes the process may have booked in all, reserve not counted; `None`, the default, for any number. Takes effect at once.
pub fn set_ceiling(bytes: Option<u64>) {
    CEILING.store(bytes.unwrap_or(u64::MAX), Relaxed);
    move_total(0);
}

pub fn ceiling() -> Option<u64> {
    Some(CEILING.load(Relaxed)).filter(|&bytes| bytes != u64::MAX)
}

/// More than 95 % of the ceiling was booked, and it has not fallen below 85 % since. One load of a line that is seldom written.
#[inline]
pub fn is_over() -> bool {
    OVER.0.load(Relaxed)
}

/// Bytes booked in the process, as last told by its workers.
pub fn booked() -> u64 {
    // Workers add and subtract in any order, so for a moment it may be below zero.
    (TOTAL.0.load(Relaxed) as i64).max(0) as u64
}

/// The books of the process. Reading them costs the workers nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// See [`set_ceiling`].
    pub ceiling: Option<u64>,
    /// Bytes booked in all.
    pub booked: u64,
    /// Most bytes ever booked in all.
    pub peak: u64,
    /// See [`is_over`].
    pub over: bool,
    /// Times the ceiling's mark was passed.
    pub over_total: u64,
    /// Bytes of free buffers and of those the kernel receives into, of all workers.
    pub reserve: u64,
    /// One per running worker, in order of their start.
    pub workers: Vec<WorkerMemory>,
    /// Booked outside workers, by kind.
    pub elsewhere: [u64; KINDS],
}

/// The books of one worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerMemory {
    pub worker: usize,
    /// Bytes by kind; see [`WorkerMemory::of`].
    pub kinds: [u64; KINDS],
    /// Most bytes it had booked at the end of a turn.
    pub peak: u64,
    /// Bytes of its free buffers and of those the kernel receives into.
    pub reserve: u64,
}

impl WorkerMemory {
    pub fn of(&self, kind: Kind) -> u64 {
        self.kinds[kind as usize]
    }

    pub fn booked(&self) -> u64 {
        self.kinds.iter().sum()
    }
}

impl Snapshot {
    /// Bytes of one kind in all workers and elsewhere.
    pub fn of(&self, kind: Kind) -> u64 {
        self.elsewhere[kind as usize] + self.workers.iter().map(|worker| worker.of(kind)).sum::<u64>()
    }
}

pub fn snapshot() -> Snapshot {
    let workers: Vec<WorkerMemory> = workers()
        .iter()
        .filter_map(Weak::upgrade)
        .map(|shared| WorkerMemory {
            worker: shared.index,
            kinds: Kind::ALL.map(|kind| shared.ledger.of(kind, &shared)),
            peak: shared.ledger.peak.value(),
            reserve: reserve(&shared),
        })
        .collect();
    Snapshot {
        ceiling: ceiling(),
        booked: booked(),
        peak: PEAK.load(Relaxed),
        over: is_over(),
        over_total: OVER_TOTAL.load(Relaxed),
        reserve: workers.iter().map(|worker| worker.reserve).sum(),
        workers,
        elsewhere: std::array::from_fn(|kind| ELSEWHERE[kind].load(Relaxed)),
    }
}

/// The books of a worker, which alone writes to them.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Bytes by kind; those of buffers are derived from the pools' counters.
    kinds: [Counter; KINDS],
    /// The sum of those, so that a turn that changed nothing adds nothing up.
    sum: Counter,
    /// What a buffer for datagrams takes.
    pub datagram_block: Counter,
    /// What the process knows of.
    told: Counter,
    peak: Counter,
}

impl Ledger {
    /// Adds `change`, which may be a negative number in two's complement.
    #[inline]
    pub fn book(&self, kind: Kind, change: u64, shared: &Shared) {
        debug_assert!(kind != Kind::Buffers, "buffers are counted by their pool");
        self.kinds[kind as usize].add(change);
        self.sum.add(change);
        if (change as i64).unsigned_abs() >= LAG_MAX {
            self.tell(shared);
        }
    }

    #[inline]
    fn of(&self, kind: Kind, shared: &Shared) -> u64 {
        match kind {
            Kind::Buffers => buffers_used(shared) * Buf::CAPACITY as u64,
            Kind::Datagrams => {
                let buffers = datagram_buffers_used(shared) * self.datagram_block.value();
                self.kinds[kind as usize].value().wrapping_add(buffers)
            }
            _ => self.kinds[kind as usize].value(),
        }
    }

    /// All kinds together.
    #[inline]
    fn booked(&self, shared: &Shared) -> u64 {
        let buffers = buffers_used(shared).wrapping_mul(Buf::CAPACITY as u64);
        let datagrams = datagram_buffers_used(shared).wrapping_mul(self.datagram_block.value());
        self.sum.value().wrapping_add(buffers).wrapping_add(datagrams)
    }

    /// Lets the process know what changed; called once per turn and when much changed within one.
    #[inline]
    pub fn tell(&self, shared: &Shared) {
        let booked = self.booked(shared);
        let change = booked.wrapping_sub(self.told.value());
        if change == 0 {
            return;
        }
        if booked > self.peak.value() {
            self.peak.set(booked);
        }
        // What comes and goes within a few turns is not worth a line shared by all workers.
        if (change as i64).unsigned_abs() >= LAG_MAX {
            self.told.set(booked);
            move_total(change);
        }
    }

    /// As `tell`, to the byte: before the worker sleeps, which may be for long.
    pub fn tell_exactly(&self, shared: &Shared) {
        self.tell(shared);
        let booked = self.booked(shared);
        let change = booked.wrapping_sub(self.told.value());
        if change != 0 {
            self.told.set(booked);
            move_total(change);
        }
    }

    /// The worker is gone, and with it all it had booked.
    pub fn close(&self) {
        move_total(0u64.wrapping_sub(self.told.value()));
        self.told.set(0);
    }
}

/// Enters a worker into the books of the process.
pub(crate) fn open(shared: &Arc<Shared>) {
    let mut workers = workers();
    workers.retain(|known| known.strong_count() > 0);
    workers.push(Arc::downgrade(shared));
}

/// Strikes a worker that ended from the books of the process.
pub(crate) fn close(shared: &Arc<Shared>) {
    workers().retain(|known| known.strong_count() > 0 && !std::ptr::eq(known.as_ptr(), Arc::as_ptr(shared)));
    shared.ledger.close();
}

fn reserve(shared: &Shared) -> u64 {
    let counters = &shared.counters;
    let buffers = counters.buffers_total.value().saturating_sub(buffers_used(shared));
    let of_datagrams = counters.datagram_buffers_total.value().saturating_sub(datagram_buffers_used(shared));
    buffers * Buf::CAPACITY as u64 + of_datagrams * shared.ledger.datagram_block.value()
}

/// Those that stand ready for the kernel are not used yet.
fn buffers_used(shared: &Shared) -> u64 {
    let counters = &shared.counters;
    counters.buffers_in_use.value().saturating_sub(counters.buffers_ready.value())
}

fn datagram_buffers_used(shared: &Shared) -> u64 {
    let counters = &shared.counters;
    counters.datagram_buffers_in_use.value().saturating_sub(counters.datagram_buffers_ready.value())
}

/// Adds to the total of the process and looks where it stands.
fn move_total(change: u64) {
    let total = (TOTAL.0.fetch_add(change, Relaxed).wrapping_add(change) as i64).max(0) as u64;
    PEAK.fetch_max(total, Relaxed);
    let ceiling = CEILING.load(Relaxed);
    if is_over() {
        if ceiling == u64::MAX || total < ceiling / 100 * LOW_PERCENT {
            OVER.0.store(false, Relaxed);
        }
    } else if ceiling != u64::MAX && total > ceiling / 100 * HIGH_PERCENT && !OVER.0.swap(true, Relaxed) {
        OVER_TOTAL.fetch_add(1, Relaxed);
    }
}

fn workers() -> MutexGuard<'static, Vec<Weak<Shared>>> {
    WORKERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// On a cache line of its own, so that writes to its neighbours do not disturb its readers, nor the other way round.
#[repr(align(128))]
struct Apart<T>(T);

static OVER: Apart<AtomicBool> = Apart(AtomicBool::new(false));
static TOTAL: Apart<AtomicU64> = Apart(AtomicU64::new(0));
static PEAK: AtomicU64 = AtomicU64::new(0);
static OVER_TOTAL: AtomicU64 = AtomicU64::new(0);
static CEILING: AtomicU64 = AtomicU64::new(u64::MAX);
static ELSEWHERE: [AtomicU64; KINDS] = [const { AtomicU64::new(0) }; KINDS];
static WORKERS: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// How far the process's total may lag behind a worker that is awake: eight buffers.
const LAG_MAX: u64 = 8 * Buf::CAPACITY as u64;
const HIGH_PERCENT: u64 = 95;
const LOW_PERCENT: u64 = 85;
