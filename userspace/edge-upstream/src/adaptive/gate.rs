//! The limits of a pool's servers, the line before them and the threshold, shared over the workers. Pure: the time is an argument.
//!
//! Who passes, and who is refused because of its rank, takes no lock: it reads and adds up numbers, and what is only measured each worker
//! writes for itself. The line is behind a lock that is held for a tenth of a microsecond by those who wait, and by those who leave while
//! somebody waits: never more often than the pool serves, or than the threshold lets requests in.

use super::law::{CLIPPED, Law, SAMPLES_LEAST, Window};
use super::line::{Joined, Line, Ticket, Who};
use super::rank::{RANKS, Rank};
use super::threshold::{self, Seen, Threshold};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long what a server has told of its threshold holds.
const TOLD_FOR: Duration = Duration::from_secs(2);

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// Its priority is below the threshold.
    Priority,
    /// The line is full.
    QueueFull,
    /// Its client has its share of the line already.
    Share,
    /// It waited as long as requests may.
    Waited,
    /// Its client would not wait for the answer.
    Deadline,
}

impl Reason {
    pub const ALL: [Reason; 5] = [Reason::Priority, Reason::QueueFull, Reason::Share, Reason::Waited, Reason::Deadline];

    /// As in metrics and in the access log.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Priority => "priority",
            Reason::QueueFull => "queue_full",
            Reason::Share => "share",
            Reason::Waited => "waited",
            Reason::Deadline => "deadline",
        }
    }
}

/// Why a place is lent: what its holder waits for is not the server's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Idle {
    /// Its client reads the answer slowly.
    Reader,
    /// Its client says the request slowly.
    Sender,
    /// Its server has said nothing for so long that nobody knows whether it is at work or keeps a stream open.
    Silent,
}

impl Idle {
    pub const ALL: [Idle; 3] = [Idle::Reader, Idle::Sender, Idle::Silent];

    /// As in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Idle::Reader => "reader",
            Idle::Sender => "sender",
            Idle::Silent => "silent",
        }
    }
}

/// Who waits, for whoever lets it pass.
pub trait Waiter {
    /// It has a place. False: it is gone, and does not take it.
    fn pass(self) -> bool;

    /// It gets none.
    fn turn_away(self, reason: Reason);
}

/// What becomes of one that comes.
#[derive(Debug, PartialEq, Eq)]
pub enum Entered {
    Passes,
    Waits(Ticket),
    Refused(Reason),
}

/// Bounds, from a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    pub least: u32,
    pub first: u32,
    pub most: u32,
    /// Places in the line.
    pub queue: usize,
    /// Mean wait that is no overload; as long the line may stand before its newest goes first.
    pub target: Duration,
}

/// See the module doc.
pub struct Gate<W> {
    bounds: Bounds,
    /// The sum of what the servers may have.
    limit: AtomicU32,
    under_way: AtomicU32,
    /// Places that are lent to others, beside those under way.
    lent: AtomicU32,
    waiting: AtomicU32,
    cut: AtomicU8,
    overloaded: AtomicBool,
    /// What a server told of its own cut, and until when: milliseconds × 256 + cut.
    told: AtomicU64,
    servers: Box<[Server]>,
    line: Mutex<Line<W>>,
    marks: Box<[Marks]>,
    window_end: AtomicU64,
    ranks: Mutex<(Threshold, Sums)>,
}

/// One server's limit and what is under way there.
struct Server {
    limit: AtomicU32,
    under_way: AtomicU32,
    /// Somebody found it reached in this window.
    pressed: AtomicBool,
    window_end: AtomicU64,
    /// In nanoseconds, 0 while nobody knows; as the law has it.
    unloaded: AtomicU64,
    taken: Box<[Taken]>,
    law: Mutex<Kept>,
}

struct Kept {
    law: Law,
    began: Duration,
    before: [u64; 4],
}

/// What a worker adds up of a server's requests; written by that worker alone.
#[derive(Default)]
#[repr(align(128))]
struct Taken {
    finished: AtomicU64,
    nanoseconds: AtomicU64,
    under_way: AtomicU64,
    pushed_back: AtomicU64,
}

/// What a worker adds up of those who come; written by that worker alone.
#[repr(align(128))]
struct Marks {
    came: [AtomicU32; RANKS],
    served: AtomicU64,
    waits: AtomicU64,
    waited_ns: AtomicU64,
    refused: [AtomicU64; Reason::ALL.len()],
    lent: [AtomicU64; Idle::ALL.len()],
    /// Places that were not lent because as many were as may be.
    kept: AtomicU64,
}

#[derive(Clone)]
struct Sums {
    came: [u32; RANKS],
    served: u64,
    waits: u64,
    waited_ns: u64,
    refused: [u64; Reason::ALL.len()],
}

fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

/// Takes one off a count; false: there was none. A count that fell below nothing would say ever after that there is no room.
fn one_less(count: &AtomicU32) -> bool {
    let less = count.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
    debug_assert!(less, "what was never counted is not taken off");
    less
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Marks {
    fn new() -> Marks {
        Marks {
            came: std::array::from_fn(|_| AtomicU32::new(0)),
            served: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            waited_ns: AtomicU64::new(0),
            refused: std::array::from_fn(|_| AtomicU64::new(0)),
            lent: std::array::from_fn(|_| AtomicU64::new(0)),
            kept: AtomicU64::new(0),
        }
    }

    fn came(&self, rank: Rank) {
        let count = &self.came[usize::from(rank.number())];
        count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
    }

    fn waited(&self, time: Duration) {
        add(&self.waits, 1);
        add(&self.waited_ns, time.as_nanos() as u64);
    }

    fn refuse(&self, reason: Reason) -> Entered {
        add(&self.refused[reason as usize], 1);
        Entered::Refused(reason)
    }
}

/// What a gate shows of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shown {
    pub limit: u32,
    pub under_way: u32,
    pub lent: u32,
    pub waiting: u32,
    pub cut: u8,
    pub overloaded: bool,
    pub passed_total: u64,
    pub waited_ns_total: u64,
    /// As [`Reason::ALL`].
    pub refused_total: [u64; Reason::ALL.len()],
    /// As [`Idle::ALL`].
    pub lent_total: [u64; Idle::ALL.len()],
    /// Places that were not lent because as many were as may be.
    pub kept_total: u64,
}

/// What a gate shows of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerShown {
    pub limit: u32,
    pub under_way: u32,
    /// `None` while nobody knows.
    pub unloaded: Option<Duration>,
}

impl<W: Waiter> Gate<W> {
    /// Before so many servers, for so many workers. Servers beyond them share the limits of the first ones.
    pub fn new(bounds: Bounds, servers: usize, workers: usize) -> Gate<W> {
        let workers = workers.max(1);
        let server = |_| Server {
            limit: AtomicU32::new(bounds.first),
            under_way: AtomicU32::new(0),
            pressed: AtomicBool::new(false),
            window_end: AtomicU64::new(0),
            unloaded: AtomicU64::new(0),
            taken: (0..workers).map(|_| Taken::default()).collect(),
            law: Mutex::new(Kept {
                law: Law::new(bounds.least, bounds.first, bounds.most),
                began: Duration::ZERO,
                before: [0; 4],
            }),
        };
        let none = Sums { came: [0; RANKS], served: 0, waits: 0, waited_ns: 0, refused: [0; Reason::ALL.len()] };
        Gate {
            limit: AtomicU32::new(bounds.first.saturating_mul(servers.max(1) as u32)),
            under_way: AtomicU32::new(0),
            lent: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            cut: AtomicU8::new(0),
            overloaded: AtomicBool::new(false),
            told: AtomicU64::new(0),
            servers: (0..servers.max(1)).map(server).collect(),
            line: Mutex::new(Line::new(bounds.queue, bounds.target)),
            marks: (0..workers).map(|_| Marks::new()).collect(),
            window_end: AtomicU64::new(0),
            ranks: Mutex::new((Threshold::new(bounds.target), none)),
            bounds,
        }
    }

    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// A request comes.
    pub fn enter(&self, now: Duration, worker: usize, who: &Who, waiter: impl FnOnce() -> W) -> Entered {
        self.keep_time(now);
        let marks = &self.marks[worker % self.marks.len()];
        if who.rank.number() < self.cut(now) {
            marks.came(who.rank);
            return marks.refuse(Reason::Priority);
        }
        let pass = || {
            marks.came(who.rank);
            marks.waited(Duration::ZERO);
            add(&marks.served, 1);
            Entered::Passes
        };
        if self.waiting.load(SeqCst) == 0 && self.take() {
            return pass();
        }
        if self.bounds.queue == 0 {
            marks.came(who.rank);
            return marks.refuse(Reason::QueueFull);
        }
        let mut line = lock(&self.line);
        if line.is_empty() && self.take() {
            return pass();
        }
        let (ticket, wanted, instead) = match line.join(now, who, waiter()) {
            Joined::Waits { ticket, wanted } => (ticket, wanted, None),
            Joined::Instead { ticket, wanted, of } => (ticket, wanted, Some(of)),
            Joined::OverShare(_) => return marks.refuse(Reason::Share),
            Joined::Full(_) => {
                marks.came(who.rank);
                return marks.refuse(Reason::QueueFull);
            }
        };
        if wanted {
            marks.came(who.rank);
        }
        self.waiting.store(line.len() as u32, SeqCst);
        drop(line);
        if let Some(instead) = instead {
            let reason = if wanted { Reason::QueueFull } else { Reason::Share };
            marks.refuse(reason);
            instead.turn_away(reason);
        }
        // A place may have become free in the meantime.
        self.serve(now, worker);
        Entered::Waits(ticket)
    }

    /// A place is given up, whoever had it.
    pub fn leave(&self, now: Duration, worker: usize) {
        one_less(&self.under_way);
        self.serve(now, worker);
    }

    /// A place is lent to others until whoever has it [ends](Gate::end_lent) or [takes it back](Gate::take_back). False: as many are lent
    /// as may be under way, and it keeps its place. That many more is the most that a server has to do whose requests are not what
    /// they seem: a thread of it may hang on the client that we wait for.
    pub fn lend(&self, now: Duration, worker: usize, idle: Idle) -> bool {
        let most = self.limit.load(Relaxed);
        let lent = self.lent.fetch_update(SeqCst, SeqCst, |n| (n < most).then(|| n + 1)).is_ok();
        if lent {
            add(&self.marks[worker % self.marks.len()].lent[idle as usize], 1);
            self.leave(now, worker);
        }
        lent
    }

    /// Counts one that keeps its place because as many are lent as may be.
    pub fn keep(&self, worker: usize) {
        add(&self.marks[worker % self.marks.len()].kept, 1);
    }

    /// There is work again for whoever has lent its place: it is under way, whether there is room or not, and nobody else begins before
    /// there is.
    pub fn take_back(&self) {
        if one_less(&self.lent) {
            self.under_way.fetch_add(1, SeqCst);
        }
    }

    /// Whoever has lent its place needs none any more.
    pub fn end_lent(&self) {
        one_less(&self.lent);
    }

    /// It waits no more, for this reason. False: it has a place already, and has to [leave](Gate::leave) it.
    pub fn give_up(&self, worker: usize, ticket: &Ticket, waited: Duration, reason: Option<Reason>) -> bool {
        let mut line = lock(&self.line);
        let left = line.leave(ticket).is_some();
        self.waiting.store(line.len() as u32, SeqCst);
        drop(line);
        if left && let Some(reason) = reason {
            let marks = &self.marks[worker % self.marks.len()];
            marks.waited(waited);
            marks.refuse(reason);
        }
        left
    }

    /// Counts one that is refused before it comes in.
    pub fn refuse(&self, worker: usize, reason: Reason) {
        self.marks[worker % self.marks.len()].refuse(reason);
    }

    /// Whether the server may have one more now.
    pub fn has_room(&self, server: usize) -> bool {
        let server = &self.servers[server % self.servers.len()];
        server.under_way.load(Relaxed) < server.limit.load(Relaxed)
    }

    /// A request that has a place goes to this server; says how many are under way there now, with it.
    pub fn begin(&self, server: usize) -> u32 {
        let server = &self.servers[server % self.servers.len()];
        let under_way = server.under_way.fetch_add(1, Relaxed) + 1;
        if under_way >= server.limit.load(Relaxed) && !server.pressed.load(Relaxed) {
            server.pressed.store(true, Relaxed);
        }
        under_way
    }

    /// It has left the server.
    pub fn end(&self, server: usize) {
        one_less(&self.servers[server % self.servers.len()].under_way);
    }

    /// The server has answered a request that was one of `under_way` when it began. `pushed_back`: it said that this is too much.
    pub fn answered(
        &self,
        now: Duration,
        worker: usize,
        server: usize,
        taken: Duration,
        under_way: u32,
        pushed_back: bool,
    ) {
        let server = &self.servers[server % self.servers.len()];
        let sums = &server.taken[worker % server.taken.len()];
        let unloaded = server.unloaded.load(Relaxed);
        let most = if unloaded == 0 { u64::MAX } else { (unloaded as f64 * CLIPPED) as u64 };
        if pushed_back {
            add(&sums.pushed_back, 1);
        } else {
            add(&sums.finished, 1);
            add(&sums.nanoseconds, (taken.as_nanos() as u64).min(most));
            add(&sums.under_way, u64::from(under_way));
        }
        if now.as_nanos() as u64 >= server.window_end.load(Relaxed)
            && let Ok(mut kept) = server.law.try_lock()
        {
            self.close_window(now, server, &mut kept);
        }
    }

    /// A server has told of its own threshold.
    pub fn told(&self, now: Duration, cut: Rank) {
        let until = (now + TOLD_FOR).as_millis() as u64;
        let cut = if cut.number() == 0 { 0 } else { until << 8 | u64::from(cut.number()) };
        self.told.store(cut, Relaxed);
    }

    /// Lowest rank that is let in, here or where it would go on to.
    pub fn cut(&self, now: Duration) -> u8 {
        let (own, told) = (self.cut.load(Relaxed), self.told.load(Relaxed));
        if told == 0 || (told >> 8) < now.as_millis() as u64 { own } else { own.max(told as u8) }
    }

    /// What a request takes where nobody is in its way: the least of the servers that are known.
    pub fn unloaded(&self) -> Option<Duration> {
        let known = self.servers.iter().map(|server| server.unloaded.load(Relaxed)).filter(|ns| *ns > 0);
        known.min().map(Duration::from_nanos)
    }

    pub fn shown(&self) -> Shown {
        let sums = self.sums();
        let all =
            |of: &dyn Fn(&Marks) -> &AtomicU64| -> u64 { self.marks.iter().map(|marks| of(marks).load(Relaxed)).sum() };
        Shown {
            limit: self.limit.load(Relaxed),
            under_way: self.under_way.load(Relaxed),
            lent: self.lent.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            cut: self.cut.load(Relaxed),
            overloaded: self.overloaded.load(Relaxed),
            passed_total: sums.served,
            waited_ns_total: sums.waited_ns,
            refused_total: sums.refused,
            lent_total: std::array::from_fn(|idle| all(&|marks| &marks.lent[idle])),
            kept_total: all(&|marks| &marks.kept),
        }
    }

    pub fn server_shown(&self, server: usize) -> ServerShown {
        let server = &self.servers[server % self.servers.len()];
        ServerShown {
            limit: server.limit.load(Relaxed),
            under_way: server.under_way.load(Relaxed),
            unloaded: Some(Duration::from_nanos(server.unloaded.load(Relaxed))).filter(|time| !time.is_zero()),
        }
    }

    fn take(&self) -> bool {
        let limit = self.limit.load(Relaxed);
        self.under_way.fetch_update(SeqCst, SeqCst, |n| (n < limit).then(|| n + 1)).is_ok()
    }

    /// Lets pass who waits, as long as there is room.
    fn serve(&self, now: Duration, worker: usize) {
        let marks = &self.marks[worker % self.marks.len()];
        while self.waiting.load(SeqCst) > 0 && self.take() {
            let mut line = lock(&self.line);
            let next = line.next(now);
            self.waiting.store(line.len() as u32, SeqCst);
            drop(line);
            let Some((waiter, waited)) = next else {
                self.under_way.fetch_sub(1, SeqCst);
                continue;
            };
            if !waiter.pass() {
                self.under_way.fetch_sub(1, SeqCst);
                continue;
            }
            marks.waited(waited);
            add(&marks.served, 1);
        }
    }

    fn close_window(&self, now: Duration, server: &Server, kept: &mut Kept) {
        let sum = |of: fn(&Taken) -> &AtomicU64| server.taken.iter().map(|taken| of(taken).load(Relaxed)).sum::<u64>();
        let sums = [sum(|t| &t.finished), sum(|t| &t.nanoseconds), sum(|t| &t.under_way), sum(|t| &t.pushed_back)];
        let [finished, nanoseconds, under_way, pushed_back] =
            std::array::from_fn(|i| sums[i].saturating_sub(kept.before[i]));
        let length = now.saturating_sub(kept.began);
        if finished + pushed_back < SAMPLES_LEAST && length < super::law::WINDOW_MOST {
            return;
        }
        let (began, before) = (std::mem::replace(&mut kept.began, now), std::mem::replace(&mut kept.before, sums));
        let window = Window {
            length: now.saturating_sub(began),
            finished,
            taken: nanoseconds as f64 / 1e9 / finished.max(1) as f64,
            under_way: under_way as f64 / finished.max(1) as f64,
            pushed_back,
            pressed: server.pressed.swap(false, Relaxed),
        };
        // The first window began nobody knows when.
        if before != [0; 4] || began > Duration::ZERO {
            kept.law.close(now, &window);
        }
        let unloaded = kept.law.unloaded().map_or(0, |seconds| (seconds * 1e9) as u64);
        server.unloaded.store(unloaded, Relaxed);
        server.limit.store(kept.law.limit(), Relaxed);
        server.window_end.store((now + kept.law.window()).as_nanos() as u64, Relaxed);
        let limit: u64 = self.servers.iter().map(|server| u64::from(server.limit.load(Relaxed))).sum();
        self.limit.store(limit.min(u64::from(u32::MAX / 2)) as u32, Relaxed);
    }

    fn sums(&self) -> Sums {
        let sum = |of: fn(&Marks) -> &AtomicU64| self.marks.iter().map(|marks| of(marks).load(Relaxed)).sum();
        let came =
            |rank: usize| self.marks.iter().fold(0u32, |all, marks| all.wrapping_add(marks.came[rank].load(Relaxed)));
        let refused = |reason: usize| self.marks.iter().map(|marks| marks.refused[reason].load(Relaxed)).sum();
        Sums {
            came: std::array::from_fn(came),
            served: sum(|marks| &marks.served),
            waits: sum(|marks| &marks.waits),
            waited_ns: sum(|marks| &marks.waited_ns),
            refused: std::array::from_fn(refused),
        }
    }

    /// Closes the window of the threshold when its time has come.
    fn keep_time(&self, now: Duration) {
        if (now.as_nanos() as u64) < self.window_end.load(Relaxed) {
            return;
        }
        let Ok(mut ranks) = self.ranks.try_lock() else { return };
        self.window_end.store((now + threshold::WINDOW).as_nanos() as u64, Relaxed);
        let sums = self.sums();
        let (threshold, before) = &mut *ranks;
        let waits = sums.waits.saturating_sub(before.waits);
        let waited = sums.waited_ns.saturating_sub(before.waited_ns).checked_div(waits).unwrap_or(0);
        let more = |reason: Reason| sums.refused[reason as usize].saturating_sub(before.refused[reason as usize]);
        let seen = Seen {
            came: std::array::from_fn(|rank| sums.came[rank].wrapping_sub(before.came[rank])),
            served: sums.served.saturating_sub(before.served) as u32,
            waited: Duration::from_nanos(waited),
            refused: (more(Reason::QueueFull) + more(Reason::Waited)) as u32,
            idle: self.waiting.load(Relaxed) == 0 && self.under_way.load(Relaxed) < self.limit.load(Relaxed),
        };
        *before = sums;
        let overloaded = threshold.close(&seen);
        self.cut.store(threshold.cut(), Relaxed);
        self.overloaded.store(overloaded || threshold.cut() > 0, Relaxed);
    }
}

impl<W> std::fmt::Debug for Gate<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gate({} of {})", self.under_way.load(Relaxed), self.limit.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_model::Priority;
    use std::sync::{Arc, mpsc};

    struct Sends(mpsc::Sender<(u32, Option<Reason>)>, u32);

    impl Waiter for Sends {
        fn pass(self) -> bool {
            self.0.send((self.1, None)).is_ok()
        }

        fn turn_away(self, reason: Reason) {
            self.0.send((self.1, Some(reason))).unwrap();
        }
    }

    fn bounds(limit: u32, queue: usize) -> Bounds {
        Bounds { least: 1, first: limit, most: 100, queue, target: Duration::from_millis(20) }
    }

    fn who(client: u64) -> Who {
        Who { rank: Rank::new(Priority::Normal, client, 0), route: 1, client }
    }

    #[test]
    fn who_finds_no_place_waits_for_the_first_that_is_left() {
        let (told, heard) = mpsc::channel();
        let gate = Gate::new(bounds(2, 2), 1, 1);
        let now = Duration::from_millis(1);
        let enter = |client: u32| gate.enter(now, 0, &who(client.into()), || Sends(told.clone(), client));
        assert_eq!((enter(1), enter(2)), (Entered::Passes, Entered::Passes));
        let Entered::Waits(third) = enter(3) else { panic!() };
        assert!(matches!(enter(4), Entered::Waits(_)));
        assert_eq!(enter(5), Entered::Refused(Reason::QueueFull));
        gate.leave(now, 0);
        assert_eq!(heard.try_recv(), Ok((3, None)));
        assert!(!gate.give_up(0, &third, Duration::ZERO, Some(Reason::Waited)), "it has a place");
        gate.leave(now, 0);
        gate.leave(now, 0);
        gate.leave(now, 0);
        assert_eq!(heard.try_recv(), Ok((4, None)));
        let shown = gate.shown();
        assert_eq!((shown.under_way, shown.waiting, shown.passed_total), (0, 0, 4));
        assert_eq!(shown.refused_total, [0, 1, 0, 0, 0]);
    }

    #[test]
    fn what_a_server_tells_of_its_threshold_holds_for_a_while() {
        let (told, _heard) = mpsc::channel();
        let gate = Gate::new(bounds(2, 2), 1, 1);
        let at = Duration::from_millis;
        gate.told(at(10), Rank::parse(b"127").unwrap());
        let normal = who(1);
        let enter = |now| gate.enter(now, 0, &normal, || Sends(told.clone(), 1));
        assert_eq!(enter(at(20)), Entered::Refused(Reason::Priority));
        assert_eq!(enter(at(2100)), Entered::Passes);
    }

    #[test]
    fn no_more_places_are_lent_than_there_are() {
        let (told, heard) = mpsc::channel();
        let gate = Gate::new(bounds(2, 9), 1, 1);
        let now = Duration::from_millis(1);
        let enter = |client: u32| gate.enter(now, 0, &who(client.into()), || Sends(told.clone(), client));
        (1..=2).for_each(|client| assert_eq!(enter(client), Entered::Passes));
        (3..=5).for_each(|client| assert!(matches!(enter(client), Entered::Waits(_))));
        assert!(gate.lend(now, 0, Idle::Reader) && gate.lend(now, 0, Idle::Sender));
        assert_eq!([heard.try_recv(), heard.try_recv()], [Ok((3, None)), Ok((4, None))], "who waits has them now");
        assert!(!gate.lend(now, 0, Idle::Silent), "the server has twice its limit to do");
        gate.keep(0);
        let shown = gate.shown();
        assert_eq!((shown.under_way, shown.lent, shown.lent_total, shown.kept_total), (2, 2, [1, 1, 0], 1));
        // One has work again: nobody begins before there is room for it.
        gate.take_back();
        gate.leave(now, 0);
        assert!(heard.try_recv().is_err());
        gate.leave(now, 0);
        assert_eq!(heard.try_recv(), Ok((5, None)));
        gate.end_lent();
        assert_eq!((gate.shown().under_way, gate.shown().lent), (2, 0));
    }

    /// However workers come and go, no more are under way than may be, and nobody is forgotten.
    #[test]
    fn no_place_is_given_twice_and_nobody_waits_for_ever() {
        let gate = Arc::new(Gate::new(bounds(3, 64), 1, 4));
        let most = Arc::new(AtomicU32::new(0));
        std::thread::scope(|scope| {
            for worker in 0..4usize {
                let (gate, most) = (gate.clone(), most.clone());
                scope.spawn(move || {
                    for n in 0..2_000u32 {
                        let now = Duration::from_micros(u64::from(n));
                        let (sender, granted) = mpsc::channel();
                        let client = (worker as u64) << 32 | u64::from(n);
                        match gate.enter(now, worker, &who(client), || Sends(sender, n)) {
                            Entered::Passes => {}
                            Entered::Waits(_) => match granted.recv().unwrap() {
                                (_, None) => {}
                                (_, Some(_)) => continue,
                            },
                            Entered::Refused(_) => continue,
                        }
                        most.fetch_max(gate.shown().under_way, Relaxed);
                        gate.leave(now, worker);
                    }
                });
            }
        });
        let shown = gate.shown();
        assert_eq!((shown.under_way, shown.waiting), (0, 0));
        assert!(most.load(Relaxed) <= 3, "{}", most.load(Relaxed));
    }
}
