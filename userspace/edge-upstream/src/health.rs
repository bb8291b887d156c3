//! What is known of a backend: whether it is left out, and how it comes back.
//!
//! ```text
//!          could not be connected to                    a probe connects
//!   In ─────────────────────────────────→ Unreachable ───────────────────→ In
//!    │  failed what it was asked                a probe connects        a request goes well
//!    └──────────────────────→ Resting until a time ───────────→ OnTrial ──────────────────→ In
//!                                ↑                                 │ it fails: longer
//!                                └─────────────────────────────────┘
//! ```
//! What a request or a probe says counts only in the [`Era`] it began in: the answer to one that was sent before the server went out
//! does not bring it back, and its failure after it came back does not count against it.
//!
//! The facts belong to the backend and are shared by every pool, worker and generation that names it; how many failures are too
//! many is for each pool to say (see [`Outliers`](crate::outlier::Outliers)). Pure but for [`probe`](crate::probe), which connects.

use base_telemetry::proxy::Vitals;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest time a server that failed its requests rests.
const LONGEST: Duration = Duration::from_secs(300);

/// How long a request that tries a server has, before another one does.
const TRIAL: Duration = Duration::from_secs(10);

/// Changes of who is left out, of all servers: whoever has looked at his need not look again while it stands.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// See [`changed`].
#[inline]
pub fn changes() -> u64 {
    CHANGES.load(Acquire)
}

/// Some server is left out from now on, or no longer: those who choose look again.
pub fn changed() {
    CHANGES.fetch_add(1, Release);
}

/// What became of a request, as far as it tells of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// An answer that is no error.
    Answer,
    /// An answer of 500 or more.
    ErrorAnswer,
    /// Not even a connection.
    Unreachable,
    /// No answer in time, or a broken one.
    NoAnswer,
}

/// What a request was begun under: what is heard of it in another era is no news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Era {
    number: u32,
    /// The request is the one that tries the server.
    trial: bool,
}

/// See the module doc.
#[derive(Debug, Default)]
pub struct Health {
    /// Whether it is out, and what metrics tell of it.
    vitals: Arc<Vitals>,
    /// Grows whenever it goes out, is tried, or comes back. Written with `absence` held.
    era: AtomicU32,
    /// Connects that failed, in a row.
    unreached: AtomicU32,
    /// Requests that failed in any way, in a row.
    failures: AtomicU32,
    /// A request is to try it. Written with `absence` held.
    awaits_trial: AtomicBool,
    /// Somebody probes it. Written with `absence` held, so that nobody gives up what has just become necessary.
    probed: AtomicBool,
    absence: Mutex<Absence>,
}

/// What only those look at who find the server failing or out.
#[derive(Debug, Default)]
struct Absence {
    state: State,
    /// Rests without a good time between them.
    times: u32,
    /// How long the first of them was.
    base: Duration,
    /// When it came back last.
    readmitted: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    In,
    Unreachable,
    Resting {
        until: Instant,
    },
    /// A single request is to try it; `Some`: one does, and has until then.
    OnTrial {
        claimed: Option<Instant>,
    },
}

impl Health {
    /// Whether it is left out.
    #[inline]
    pub fn is_out(&self) -> bool {
        self.vitals.ejected.load(Relaxed)
    }

    /// What metrics show.
    pub fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }

    /// Whether the last thing that was asked of it went well.
    pub fn is_well(&self) -> bool {
        !self.is_out() && self.failures.load(Relaxed) == 0
    }

    /// Failures in a row: of connects, or of any kind where `any`.
    pub fn failures(&self, any: bool) -> u32 {
        if any { self.failures.load(Relaxed) } else { self.unreached.load(Relaxed) }
    }

    /// The era a request begins in.
    #[inline]
    pub fn era(&self) -> Era {
        Era { number: self.era.load(Relaxed), trial: false }
    }

    /// Whether what began in this era is no news any more.
    #[inline]
    pub fn is_over(&self, era: Era) -> bool {
        self.era.load(Relaxed) != era.number
    }

    /// Takes note of what became of a request that began in this era. True: it was to try the server and went well, and the server is
    /// in again.
    #[inline]
    pub fn note(&self, heard: Heard, era: Era, now: Instant) -> bool {
        if self.is_over(era) {
            return false;
        }
        match heard {
            Heard::Answer => {
                // Written only where it changes something: all workers read these.
                if self.failures.load(Relaxed) != 0 {
                    self.failures.store(0, Relaxed);
                    self.unreached.store(0, Relaxed);
                }
                return era.trial && self.passed_trial(era, now);
            }
            Heard::ErrorAnswer => {
                self.failures.fetch_add(1, Relaxed);
                self.unreached.store(0, Relaxed);
            }
            Heard::Unreachable => {
                self.failures.fetch_add(1, Relaxed);
                self.unreached.fetch_add(1, Relaxed);
            }
            // Says nothing about whether it can be connected to.
            Heard::NoAnswer => {
                self.failures.fetch_add(1, Relaxed);
            }
        }
        false
    }

    #[cold]
    fn passed_trial(&self, era: Era, now: Instant) -> bool {
        let mut absence = self.absence();
        let tried = absence.is_on_trial() && !self.is_over(era);
        if tried {
            self.readmit(&mut absence, now);
        }
        tried
    }

    /// Whether it is worth while to ask whether a request may try it.
    pub fn awaits_trial(&self) -> bool {
        self.awaits_trial.load(Relaxed)
    }

    /// Whether a request may try it; of several that ask one is told so, and in which era it does.
    #[cold]
    pub fn admits_trial(&self, now: Instant) -> Option<Era> {
        let mut absence = self.absence();
        match absence.state {
            State::OnTrial { claimed } if claimed.is_none_or(|until| now >= until) => {
                absence.state = State::OnTrial { claimed: Some(now + TRIAL) };
                Some(Era { number: self.begin_era(), trial: true })
            }
            _ => None,
        }
    }

    /// A request that tried it failed: it rests again, for longer. False when this one did not, or another one does by now.
    #[cold]
    pub fn failed_trial(&self, heard: Heard, era: Era, now: Instant) -> bool {
        let mut absence = self.absence();
        if !era.trial || !absence.is_on_trial() || self.is_over(era) {
            return false;
        }
        absence.leave(heard, now);
        self.awaits_trial.store(false, Relaxed);
        self.begin_era();
        true
    }

    /// Leaves it out. `base` is how long it rests for the first time, when it could be connected to. False: it is out already.
    #[cold]
    pub fn put_out(&self, heard: Heard, base: Duration, now: Instant) -> bool {
        let mut absence = self.absence();
        if absence.state != State::In {
            return false;
        }
        self.begin_era();
        // A server that stayed in for longer than it was out begins anew.
        let good = absence.readmitted.map_or(Duration::MAX, |then| now.saturating_duration_since(then));
        if good > growing(absence.base, absence.times) {
            absence.times = 0;
        }
        absence.base = base;
        absence.leave(heard, now);
        self.vitals.ejected.store(true, Relaxed);
        changed();
        true
    }

    /// How long to wait before it is probed, and in which era it is; `None`: not at all, because it is in or a request is to try it.
    pub fn probe_after(&self, now: Instant) -> Option<(Duration, Era)> {
        self.absence().probe_after(now).map(|pause| (pause, self.era()))
    }

    /// As [`Health::probe_after`], for the one who probes it: with `None` its claim is given up, in the same moment, so that whoever
    /// finds the server out later can make one.
    pub fn next_probe(&self, now: Instant) -> Option<(Duration, Era)> {
        let absence = self.absence();
        let pause = absence.probe_after(now);
        if pause.is_none() {
            self.probed.store(false, Relaxed);
        }
        pause.map(|pause| (pause, self.era()))
    }

    /// A probe that began in this era has connected. True: it is in again.
    pub fn connected(&self, era: Era, now: Instant) -> bool {
        let mut absence = self.absence();
        if self.is_over(era) {
            return false;
        }
        match absence.state {
            State::Unreachable => {
                self.readmit(&mut absence, now);
                true
            }
            State::Resting { until } if now >= until => {
                absence.state = State::OnTrial { claimed: None };
                self.awaits_trial.store(true, Relaxed);
                false
            }
            _ => false,
        }
    }

    /// Makes the caller the one who probes it, until [`Health::next_probe`] says that no more is needed or it gives up. False: another
    /// one does, or nobody has to.
    pub fn claim_probing(&self, now: Instant) -> bool {
        if self.probed.load(Relaxed) {
            return false;
        }
        let absence = self.absence();
        absence.probe_after(now).is_some() && !self.probed.swap(true, Relaxed)
    }

    /// The one who probes it cannot go on.
    pub fn give_up_probing(&self) {
        let _absence = self.absence();
        self.probed.store(false, Relaxed);
    }

    fn readmit(&self, absence: &mut Absence, now: Instant) {
        self.begin_era();
        absence.state = State::In;
        self.awaits_trial.store(false, Relaxed);
        absence.readmitted = Some(now);
        self.failures.store(0, Relaxed);
        self.unreached.store(0, Relaxed);
        self.vitals.readmissions.fetch_add(1, Relaxed);
        self.vitals.ejected.store(false, Relaxed);
        changed();
    }

    /// With `absence` held.
    fn begin_era(&self) -> u32 {
        self.era.fetch_add(1, Relaxed).wrapping_add(1)
    }

    fn absence(&self) -> MutexGuard<'_, Absence> {
        self.absence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Absence {
    /// A request tries it.
    fn is_on_trial(&self) -> bool {
        matches!(self.state, State::OnTrial { claimed: Some(_) })
    }

    fn probe_after(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Unreachable => Some(Duration::ZERO),
            State::Resting { until } => Some(until.saturating_duration_since(now)),
            State::In | State::OnTrial { .. } => None,
        }
    }

    fn leave(&mut self, heard: Heard, now: Instant) {
        self.state = match heard {
            Heard::Unreachable => State::Unreachable,
            _ => {
                self.times = self.times.saturating_add(1);
                State::Resting { until: now + growing(self.base, self.times) }
            }
        };
    }
}

/// How long the `times`th rest in a row lasts.
fn growing(base: Duration, times: u32) -> Duration {
    base.saturating_mul(1 << times.saturating_sub(1).min(16)).min(LONGEST.max(base))
}
