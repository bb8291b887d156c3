//! The gate as the machine uses it: requests wait on their worker, places are given up where a request ends, and what it does is shown.

use super::gate::{Bounds, Entered, Gate, Idle, Reason, Waiter};
use super::lending::{Coming, Held};
use super::line::{Ticket, Who};
use super::rank::Rank;
use base_runtime::time::Deadline;
use base_telemetry::registry::Encoder;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A request that waits, and whoever lets it pass.
struct Slot {
    /// [`WAITS`], [`PASSES`], [`GONE`], or the reason why not.
    state: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

const WAITS: u8 = u8::MAX;
const PASSES: u8 = u8::MAX - 1;
const GONE: u8 = u8::MAX - 2;

impl Slot {
    fn new() -> Arc<Slot> {
        Arc::new(Slot { state: AtomicU8::new(WAITS), waker: Mutex::new(None) })
    }

    /// False: nobody waits any more.
    fn tell(&self, state: u8) -> bool {
        if self.state.swap(state, Ordering::AcqRel) == GONE {
            return false;
        }
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let told = |state| match state {
            WAITS | GONE => None,
            PASSES => Some(Ok(())),
            reason => Some(Err(Reason::ALL[usize::from(reason)])),
        };
        if let Some(told) = told(self.state.load(Ordering::Acquire)) {
            return Poll::Ready(told);
        }
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        // It may have been told in between.
        told(self.state.load(Ordering::Acquire)).map_or(Poll::Pending, Poll::Ready)
    }
}

/// The gate's hold on one that waits.
pub struct InLine(Arc<Slot>);

impl Waiter for InLine {
    fn pass(self) -> bool {
        self.0.tell(PASSES)
    }

    fn turn_away(self, reason: Reason) {
        self.0.tell(reason as u8);
    }
}

/// See the module doc. Shared by all workers.
pub struct Passages {
    name: String,
    /// As metrics name them.
    servers: Vec<String>,
    gate: Gate<InLine>,
    /// Longest a request waits for a place.
    wait_most: Duration,
    origin: Instant,
}

impl Passages {
    /// `name` is unique on this machine: PIPELINE/FILTER, or that of a pool. `servers`: what it stands before, by name.
    pub fn new(name: &str, bounds: Bounds, wait_most: Duration, servers: Vec<String>, workers: usize) -> Arc<Passages> {
        let made = Arc::new(Passages {
            name: name.to_owned(),
            gate: Gate::new(bounds, servers.len(), workers),
            servers,
            wait_most,
            origin: Instant::now(),
        });
        known().push(Arc::downgrade(&made));
        made
    }

    /// Whether it is what such a one would be.
    pub fn is_like(&self, bounds: &Bounds, wait_most: Duration, servers: &[String]) -> bool {
        self.gate.bounds() == bounds && self.wait_most == wait_most && self.servers == servers
    }

    /// A request wants a place among those that may be under way. `until`: its client waits no longer.
    pub fn admit(self: &Arc<Self>, who: &Who, until: Option<Instant>) -> Admission {
        let (now, worker) = (base_runtime::now(), worker());
        let mut patience = self.wait_most;
        if let Some(left) = until.map(|until| until.saturating_duration_since(now)) {
            let takes = self.gate.unloaded().unwrap_or_default();
            if left.is_zero() || left < takes {
                self.gate.refuse(worker, Reason::Deadline);
                return Admission::Refused(Reason::Deadline);
            }
            patience = patience.min(left - takes);
        }
        let mut slot = None;
        let entered = self.gate.enter(self.since(now), worker, who, || InLine(slot.insert(Slot::new()).clone()));
        match (entered, slot) {
            (Entered::Passes, _) => Admission::Passed(Pass::new(self, Duration::ZERO)),
            (Entered::Waits(ticket), Some(slot)) => {
                Admission::Waits(Waiting { passages: self.clone(), slot, ticket, since: now, patience, over: false })
            }
            (Entered::Refused(reason), _) => Admission::Refused(reason),
            // Nobody waits without a slot.
            (Entered::Waits(_), None) => Admission::Refused(Reason::QueueFull),
        }
    }

    /// Lowest rank that is let in now.
    pub fn cut(&self) -> u8 {
        self.gate.cut(self.since(base_runtime::now()))
    }

    /// Takes note of what a server said of its own threshold.
    pub fn told(&self, cut: Rank) {
        self.gate.told(self.since(base_runtime::now()), cut);
    }

    /// Whether the server may have one more now.
    pub fn has_room(&self, server: usize) -> bool {
        self.gate.has_room(server)
    }

    /// What `GET /status/objects` shows of it.
    pub fn status(&self) -> Value {
        let shown = self.gate.shown();
        let servers: Vec<Value> = self
            .servers
            .iter()
            .enumerate()
            .map(|(at, name)| {
                let server = self.gate.server_shown(at);
                let unloaded = server.unloaded.map(|time| (time.as_secs_f64() * 1e6).round() / 1e3);
                json!({ "name": name, "limit": server.limit, "inFlight": server.under_way, "unloadedMs": unloaded })
            })
            .collect();
        let refused: BTreeMap<&str, u64> =
            Reason::ALL.iter().map(|reason| (reason.name(), shown.refused_total[*reason as usize])).collect();
        json!({
            "limit": shown.limit,
            "inFlight": shown.under_way,
            "lent": shown.lent,
            "waiting": shown.waiting,
            "threshold": shown.cut,
            "overloaded": shown.overloaded,
            "passed": shown.passed_total,
            "refused": refused,
            "servers": servers,
        })
    }

    pub(super) fn gate(&self) -> &Gate<InLine> {
        &self.gate
    }

    /// A place is given up.
    pub(super) fn leave(&self, now: Instant) {
        self.gate.leave(self.since(now), worker());
    }

    /// See [`Gate::lend`].
    pub(super) fn lend(&self, now: Instant, idle: Idle) -> bool {
        self.gate.lend(self.since(now), worker(), idle)
    }

    fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.origin)
    }
}

/// What becomes of a request that wants a place.
pub enum Admission {
    Passed(Pass),
    Waits(Waiting),
    Refused(Reason),
}

/// One in the line, until it is told or dropped.
pub struct Waiting {
    passages: Arc<Passages>,
    slot: Arc<Slot>,
    ticket: Ticket,
    since: Instant,
    /// How long it waits at most.
    patience: Duration,
    over: bool,
}

impl Waiting {
    /// Its place, once it has one.
    pub async fn pass(mut self) -> Result<Pass, Reason> {
        let deadline = Deadline::new();
        deadline.set(self.since + self.patience);
        let told = poll_fn(|cx| match self.slot.poll(cx) {
            Poll::Ready(told) => Poll::Ready(Some(told)),
            Poll::Pending => deadline.poll_expired(cx).map(|()| None),
        });
        let told = match told.await {
            Some(told) => told,
            None => {
                let in_vain = self.patience < self.passages.wait_most;
                let reason = if in_vain { Reason::Deadline } else { Reason::Waited };
                let waited = base_runtime::now().saturating_duration_since(self.since);
                match self.passages.gate.give_up(worker(), &self.ticket, waited, Some(reason)) {
                    true => Err(reason),
                    // It has left the line at the last moment and is just being told why.
                    false => poll_fn(|cx| self.slot.poll(cx)).await,
                }
            }
        };
        self.over = true;
        let waited = base_runtime::now().saturating_duration_since(self.since);
        told.map(|()| Pass::new(&self.passages, waited))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let (now, worker) = (base_runtime::now(), worker());
        let waited = now.saturating_duration_since(self.since);
        let gate = &self.passages.gate;
        // Whoever is about to tell it finds out that it is gone.
        if !gate.give_up(worker, &self.ticket, waited, None) && self.slot.state.swap(GONE, Ordering::AcqRel) == PASSES {
            self.passages.leave(now);
        }
    }
}

/// Where it is noted how a request comes.
#[derive(Clone)]
pub struct Progress(Rc<Held>);

impl Progress {
    /// Its client is waited for.
    pub fn awaited(&self) {
        self.0.coming.set(Coming::Awaited);
        self.0.awaits_sender(true);
    }

    /// What its client was waited for has come.
    pub fn came(&self) {
        self.0.coming.set(Coming::Came(base_runtime::now()));
        self.0.awaits_sender(false);
    }

    /// The last of it has come.
    pub fn said_all(&self) {
        self.0.said_all();
    }

    /// The rest of it never comes: it broke off, was refused, or its client was waited for in vain.
    pub fn failed(&self) {
        self.0.coming.set(Coming::Failed);
        self.0.awaits_sender(false);
    }
}

/// A place among those that may be under way; dropped, it is free for another. It is [lent](super::lending) while it is not used.
pub struct Pass {
    /// How long it was waited for.
    pub waited: Duration,
    held: Rc<Held>,
}

impl Pass {
    fn new(passages: &Arc<Passages>, waited: Duration) -> Pass {
        Pass { waited, held: Held::new(passages) }
    }

    /// The request comes by and by: servers are held to account by what is noted here.
    pub fn comes(&mut self) -> Progress {
        self.held.coming.set(Coming::Came(base_runtime::now()));
        Progress(self.held.clone())
    }

    /// The request goes to this server now.
    pub fn begin(&self, server: usize) -> Attended {
        let under_way = self.held.passages.gate.begin(server);
        let at = self.held.goes_to(server);
        Attended { held: self.held.clone(), server, at, under_way, began: base_runtime::now() }
    }

    /// The answer has begun.
    pub fn reads(&self) {
        self.held.reads();
    }

    /// Some of the answer is on its way to its client, which is waited for from now on.
    pub fn handed(&self) {
        self.held.awaits_reader(true);
    }

    /// More of the answer is wanted: it is the server that is waited for from now on.
    pub fn asked(&self) {
        self.held.awaits_reader(false);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.held.give_up();
    }
}

/// A request at a server, counted there until it is dropped.
pub struct Attended {
    held: Rc<Held>,
    server: usize,
    /// Where it is kept that it is there.
    at: Option<usize>,
    under_way: u32,
    began: Instant,
}

impl Attended {
    /// It has an answer, or has waited in vain. `pushed_back`: the server said that this is too much.
    ///
    /// Where the client has not said all and is waited for, nothing is learnt of what the server takes: it answered early, or waits as
    /// we do. Where the request broke off, the answer need not even be the server's.
    pub fn answered(&self, pushed_back: bool) {
        let now = base_runtime::now();
        let since = match self.coming() {
            Coming::There => self.began,
            Coming::Came(since) => since,
            Coming::Awaited if pushed_back => now,
            Coming::Awaited | Coming::Failed => return,
        };
        let passages = &self.held.passages;
        let (at, taken) = (passages.since(now), now.saturating_duration_since(since));
        passages.gate.answered(at, worker(), self.server, taken, self.under_way, pushed_back);
    }

    /// Since when the server is what is waited for: as long as a client has not said all, it takes no time. `None` while it is the
    /// client, and for ever where the request broke off.
    pub fn since(&self) -> Option<Instant> {
        match self.coming() {
            Coming::There => Some(self.began),
            Coming::Came(since) => Some(since),
            Coming::Awaited | Coming::Failed => None,
        }
    }

    fn coming(&self) -> Coming {
        match self.held.coming.get() {
            Coming::Came(last) => Coming::Came(last.max(self.began)),
            other => other,
        }
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.held.leave(self.at, self.server);
    }
}

/// What is dropped when the workers stop is dropped elsewhere.
pub(super) fn worker() -> usize {
    base_runtime::try_worker_index().unwrap_or_default()
}

/// All there are, as they were made.
fn known() -> MutexGuard<'static, Vec<Weak<Passages>>> {
    static KNOWN: Mutex<Vec<Weak<Passages>>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|passages| passages.strong_count() > 0);
    known
}

/// Adds the figures of all there are. Of those of one name, which there are for a moment when a document changes, those of the newest.
pub fn encode(encoder: &mut Encoder) {
    let all: BTreeMap<String, Arc<Passages>> =
        known().iter().filter_map(Weak::upgrade).map(|passages| (passages.name.clone(), passages)).collect();
    for passages in all.values() {
        let (shown, pool) = (passages.gate.shown(), ("pool", passages.name.as_str()));
        let gauge = |encoder: &mut Encoder, name, help, value: f64| encoder.gauge(name, help, &[pool], value);
        let help = "Requests that may be under way at a time, by pool or filter with adaptive concurrency.";
        gauge(encoder, "weir_concurrency_limit", help, shown.limit.into());
        let help = "Requests under way, by pool or filter with adaptive concurrency.";
        gauge(encoder, "weir_concurrency_in_flight", help, shown.under_way.into());
        let help = "Places lent to others because their requests wait for clients or for a server that says nothing, by pool or filter \
                    with adaptive concurrency.";
        gauge(encoder, "weir_concurrency_lent", help, shown.lent.into());
        let help = "Requests that wait for a place, by pool or filter with adaptive concurrency.";
        gauge(encoder, "weir_concurrency_waiting", help, shown.waiting.into());
        let help =
            "Lowest rank of 0 to 127 that is let in, by pool or filter with adaptive concurrency; 0 refuses nobody.";
        gauge(encoder, "weir_concurrency_threshold", help, shown.cut.into());
        let help = "Requests that were let pass, by pool or filter with adaptive concurrency.";
        encoder.counter("weir_concurrency_passed_total", help, &[pool], shown.passed_total as f64);
        let help = "Time that requests waited for a place in seconds, by pool or filter with adaptive concurrency.";
        encoder.counter("weir_concurrency_waited_seconds_total", help, &[pool], shown.waited_ns_total as f64 / 1e9);
        for reason in Reason::ALL {
            let help = "Requests refused by adaptive concurrency, by pool or filter and reason: priority (below the threshold), \
                        queue_full, share (its client had its share of the queue), waited (too long), deadline (its client waits \
                        no longer).";
            let labels = [pool, ("reason", reason.name())];
            encoder.counter(
                "weir_concurrency_refused_total",
                help,
                &labels,
                shown.refused_total[reason as usize] as f64,
            );
        }
        for idle in Idle::ALL {
            let help = "Places that were lent to others, by pool or filter with adaptive concurrency and reason: reader (its client takes \
                        the answer slowly), sender (its client says the request slowly), silent (its server has said nothing for long).";
            let labels = [pool, ("reason", idle.name())];
            encoder.counter("weir_concurrency_lent_total", help, &labels, shown.lent_total[idle as usize] as f64);
        }
        let help = "Places that were kept although nothing was done for their requests, because as many were lent as may be under way, by \
                    pool or filter with adaptive concurrency.";
        encoder.counter("weir_concurrency_kept_total", help, &[pool], shown.kept_total as f64);
        for (at, server) in passages.servers.iter().enumerate() {
            let (shown, labels) = (passages.gate.server_shown(at), [pool, ("server", server.as_str())]);
            let help = "Requests that one server may have under way, as adaptive concurrency found.";
            encoder.gauge("weir_concurrency_server_limit", help, &labels, shown.limit.into());
            let help = "What a request takes at a server when nobody is in its way, in seconds, as far as it is known.";
            let unloaded = shown.unloaded.map_or(0.0, |time| time.as_secs_f64());
            encoder.gauge("weir_concurrency_unloaded_seconds", help, &labels, unloaded);
        }
    }
}
