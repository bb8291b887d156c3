//! What is remembered of single requests, for `weirctl explain-request`, and told of them while they come, for `weirctl tap`.
//!
//! Each worker keeps the last requests that failed, that were refused, that were slow, and that a tap has shown, of each so many; of
//! what comes faster than [`A_SECOND_MOST`] some are left out, and counted. While nobody taps, a request that is none of these costs
//! two comparisons. What is kept of a request is [`Record`]; no body, no field but its id, and no credential is in it.

use arc_swap::ArcSwap;
use base_telemetry::registry::Encoder;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use record::{Ended, Record, Seen};
pub use tap::{Filter, Sink};

mod record;
mod tap;

/// Why a request is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// It was answered with 500 or more, or cut off.
    Failed,
    /// It was answered with 400 to 499.
    Refused,
    /// Its answer, or the whole of it, took long.
    Slow,
    /// A tap has shown it.
    Tapped,
}

impl Sort {
    pub const ALL: [Sort; 4] = [Sort::Failed, Sort::Refused, Sort::Slow, Sort::Tapped];

    pub fn name(self) -> &'static str {
        match self {
            Sort::Failed => "failed",
            Sort::Refused => "refused",
            Sort::Slow => "slow",
            Sort::Tapped => "tapped",
        }
    }

    pub fn named(name: &str) -> Option<Sort> {
        Sort::ALL.into_iter().find(|sort| sort.name() == name)
    }
}

/// What is kept, and of which requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeps {
    /// Requests of each sort that each worker keeps; 0: none, and nothing is looked at.
    pub each: usize,
    /// From here on a request is slow.
    pub slow: Duration,
}

impl Default for Keeps {
    fn default() -> Keeps {
        Keeps { each: 256, slow: Duration::from_secs(1) }
    }
}

/// Requests of one sort that one worker takes note of in a second; in a flood each costs more than its answer.
pub const A_SECOND_MOST: u32 = 200;

/// Taps at a time.
pub const TAPS_MOST: usize = 16;

/// See the module doc. One per process.
pub struct Watch {
    keeps: Keeps,
    /// What times are counted from.
    since: Instant,
    /// By worker and sort.
    rings: Box<[[Ring; Sort::ALL.len()]]>,
    /// How many taps there are: what each request looks at.
    open: AtomicUsize,
    taps: ArcSwap<Vec<Arc<tap::Tap>>>,
    shown: AtomicU64,
    missed: AtomicU64,
}

/// What one worker keeps of one sort. It alone counts here, in lines of memory that no other one writes to and without locking anything:
/// in a flood nearly every request comes no further than this.
#[derive(Default)]
#[repr(align(128))]
struct Ring {
    /// When the second began that is counted in, in nanoseconds, and the requests of it.
    second_ns: AtomicU64,
    taken: AtomicU32,
    kept: AtomicU64,
    left_out: AtomicU64,
    records: Mutex<VecDeque<Arc<Record>>>,
}

impl Ring {
    /// Whether there is room for another one in this second. One that finds none is counted.
    #[inline]
    fn admits(&self, now_ns: u64) -> bool {
        let mut taken = self.taken.load(Relaxed);
        if now_ns.saturating_sub(self.second_ns.load(Relaxed)) >= SECOND_NS {
            self.second_ns.store(now_ns, Relaxed);
            taken = 0;
        }
        if taken < A_SECOND_MOST {
            self.taken.store(taken + 1, Relaxed);
            return true;
        }
        self.left_out.store(self.left_out.load(Relaxed) + 1, Relaxed);
        false
    }

    fn keep(&self, record: Arc<Record>, most: usize) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        while records.len() >= most {
            records.pop_front();
        }
        records.push_back(record);
        self.kept.store(self.kept.load(Relaxed) + 1, Relaxed);
    }
}

const SECOND_NS: u64 = 1_000_000_000;

/// A tap that is open; it ends with this.
pub struct Open {
    watch: Arc<Watch>,
    tap: Arc<tap::Tap>,
}

impl Open {
    /// Requests that passed the filter and were not shown: they came too fast, or whoever reads is too slow.
    pub fn missed(&self) -> u64 {
        self.tap.missed.load(Relaxed)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.watch.close(&self.tap);
    }
}

impl Watch {
    pub fn new(workers: usize, keeps: Keeps) -> Arc<Watch> {
        Arc::new(Watch {
            keeps,
            since: Instant::now(),
            rings: (0..workers).map(|_| Default::default()).collect(),
            open: AtomicUsize::new(0),
            taps: ArcSwap::default(),
            shown: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        })
    }

    /// Somebody may ask what stations a request passed.
    #[inline]
    pub fn wants_tags(&self) -> bool {
        self.keeps.each > 0 || self.is_tapped()
    }

    #[inline]
    pub fn is_tapped(&self) -> bool {
        self.open.load(Relaxed) > 0
    }

    /// Looks at a request that is over.
    #[inline]
    pub fn over(&self, seen: &Seen<'_>) {
        let sort = self.sort_of(seen).filter(|_| self.keeps.each > 0);
        let keeps = sort.and_then(|sort| self.room(seen, sort));
        if keeps.is_some() || self.is_tapped() {
            self.note(seen, sort, keeps);
        }
    }

    /// Where one of this sort is kept, if there is room for another one.
    #[inline]
    fn room(&self, seen: &Seen<'_>, sort: Sort) -> Option<&Ring> {
        let ring = &self.rings.get(seen.worker)?[sort as usize];
        ring.admits(seen.ended_at.saturating_duration_since(self.since).as_nanos() as u64).then_some(ring)
    }

    #[inline]
    fn sort_of(&self, seen: &Seen<'_>) -> Option<Sort> {
        if seen.status >= 500 || seen.ended != Ended::Whole {
            return Some(Sort::Failed);
        }
        if seen.status >= 400 {
            return Some(Sort::Refused);
        }
        // What never ends by itself is not slow when it does.
        let took = if seen.lasts { seen.answered } else { seen.duration };
        (took >= self.keeps.slow).then_some(Sort::Slow)
    }

    #[cold]
    fn note(&self, seen: &Seen<'_>, sort: Option<Sort>, keeps: Option<&Ring>) {
        let now = seen.ended_at;
        let mut record = None;
        let mut made = |sort| record.get_or_insert_with(|| Arc::new(Record::of(seen, sort))).clone();
        if let (Some(sort), Some(ring)) = (sort, keeps) {
            ring.keep(made(sort), self.keeps.each);
        }
        let mut tapped = false;
        for tap in self.taps.load().iter().filter(|tap| tap.filter.passes(seen)) {
            if !tap.sampled() {
                continue;
            }
            if tap.admits(now) && (tap.sink)(&made(sort.unwrap_or(Sort::Tapped))) {
                self.shown.fetch_add(1, Relaxed);
                tapped = true;
            } else {
                tap.missed.fetch_add(1, Relaxed);
                self.missed.fetch_add(1, Relaxed);
            }
        }
        if tapped
            && sort.is_none()
            && self.keeps.each > 0
            && let Some(ring) = self.room(seen, Sort::Tapped)
        {
            ring.keep(made(Sort::Tapped), self.keeps.each);
        }
    }

    /// Of one sort, of all workers.
    fn sum(&self, sort: Sort, of: fn(&Ring) -> &AtomicU64) -> u64 {
        self.rings.iter().map(|rings| of(&rings[sort as usize]).load(Relaxed)).sum()
    }

    /// The requests of this id that are remembered, oldest first: a client may send many under one.
    pub fn find(&self, id: &str) -> Vec<Arc<Record>> {
        let mut found = self.select(None, |record| record.id == id);
        found.sort_by_key(|record| record.at);
        found
    }

    /// The latest that are remembered, latest first; of one sort, or of all.
    pub fn latest(&self, sort: Option<Sort>, most: usize) -> Vec<Arc<Record>> {
        let mut found = self.select(sort, |_| true);
        found.sort_by_key(|record| std::cmp::Reverse(record.at));
        found.truncate(most);
        found
    }

    fn select(&self, sort: Option<Sort>, takes: impl Fn(&Record) -> bool) -> Vec<Arc<Record>> {
        let mut found = Vec::new();
        for rings in &self.rings {
            for (ring, _) in rings.iter().zip(Sort::ALL).filter(|(_, of)| sort.is_none_or(|sort| sort == *of)) {
                // A worker waits for no more than this.
                let records = ring.records.lock().unwrap_or_else(PoisonError::into_inner).clone();
                found.extend(records.into_iter().filter(|record| takes(record)));
            }
        }
        found
    }

    /// Shows what passes the filter to `sink`, on the worker that served it, until what is given back is dropped.
    pub fn tap(self: &Arc<Self>, filter: Filter, sink: Sink) -> Result<Open, String> {
        let tap = Arc::new(tap::Tap::new(filter, sink));
        let mut full = false;
        self.taps.rcu(|taps| {
            full = taps.len() >= TAPS_MOST;
            let mut taps = Vec::clone(taps);
            if !full {
                taps.push(tap.clone());
            }
            taps
        });
        if full {
            return Err(format!(
                "{TAPS_MOST} taps are open on this machine, which are all there may be: end one first"
            ));
        }
        self.open.store(self.taps.load().len(), Relaxed);
        Ok(Open { watch: self.clone(), tap })
    }

    fn close(&self, tap: &Arc<tap::Tap>) {
        self.taps.rcu(|taps| taps.iter().filter(|known| !Arc::ptr_eq(known, tap)).cloned().collect::<Vec<_>>());
        self.open.store(self.taps.load().len(), Relaxed);
    }

    /// Adds what was kept and shown, and what was not.
    pub fn encode(&self, encoder: &mut Encoder) {
        for sort in Sort::ALL {
            let labels = [("sort", sort.name())];
            let help = "Requests remembered for explain-request, by sort: failed, refused, slow, tapped.";
            encoder.counter("weir_watch_kept_total", help, &labels, self.sum(sort, |ring| &ring.kept) as f64);
            let help = "Requests that would have been remembered and came too fast, by sort.";
            let left_out = self.sum(sort, |ring| &ring.left_out) as f64;
            encoder.counter("weir_watch_left_out_total", help, &labels, left_out);
        }
        encoder.gauge("weir_taps", "Taps that are open.", &[], self.open.load(Relaxed) as f64);
        let help = "Requests that taps have shown.";
        encoder.counter("weir_tap_shown_total", help, &[], self.shown.load(Relaxed) as f64);
        let help = "Requests that taps have not shown: they came too fast, or whoever reads is too slow.";
        encoder.counter("weir_tap_missed_total", help, &[], self.missed.load(Relaxed) as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_pipeline::Exchange;
    use proto_http::Response;

    fn seen<'a>(exchange: &'a Exchange, status: u16, duration: Duration) -> Seen<'a> {
        Seen {
            exchange,
            status,
            duration,
            answered: duration,
            lasts: false,
            ended: Ended::Whole,
            routed: None,
            request_bytes: 0,
            response_bytes: 0,
            ended_at: Instant::now(),
            machine: "m",
            worker: 0,
            why: &|_| Default::default(),
        }
    }

    fn exchange(id: &str, target: &[u8]) -> Exchange {
        let mut exchange = Exchange::default();
        exchange.id = id.as_bytes().to_vec();
        exchange.default_space().request.authority.push_str("shop.test:8080");
        exchange.default_space().request.set_target(target).unwrap();
        exchange.default_space().response = Some(Response::with_status(200));
        exchange.remember_target();
        exchange
    }

    const SOON: Duration = Duration::from_millis(3);

    #[test]
    fn failures_refusals_and_slow_ones_are_kept_and_others_are_not() {
        let watch = Watch::new(1, Keeps { each: 2, slow: Duration::from_millis(500) });
        let sort = |id: &str| watch.find(id).first().map(|record| record.sort);
        let over = |id: &str, status, took| watch.over(&seen(&exchange(id, b"/a"), status, took));
        over("fine", 200, SOON);
        over("gone", 503, SOON);
        over("no", 404, SOON);
        over("slow", 200, Duration::from_millis(500));
        assert_eq!(
            ["fine", "gone", "no", "slow"].map(sort),
            [None, Some(Sort::Failed), Some(Sort::Refused), Some(Sort::Slow)]
        );
        // A stream that has lasted is not slow, and one that a client left is not whole.
        let stream = exchange("stream", b"/");
        watch.over(&Seen { lasts: true, answered: SOON, ..seen(&stream, 200, Duration::from_secs(9)) });
        let left = exchange("left", b"/");
        watch.over(&Seen { ended: Ended::ClientLeft, ..seen(&left, 200, SOON) });
        assert_eq!(["stream", "left"].map(sort), [None, Some(Sort::Failed)]);
        // The newest stay, of each sort so many.
        over("next", 500, SOON);
        assert_eq!(["gone", "left", "next", "no"].map(|id| sort(id).is_some()), [false, true, true, true]);
        let latest: Vec<String> = watch.latest(Some(Sort::Failed), 9).iter().map(|record| record.id.clone()).collect();
        assert_eq!(latest.len(), 2);
        // Two under one id are both found.
        over("next", 404, SOON);
        assert_eq!(watch.find("next").len(), 2);
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let watch = Watch::new(1, Keeps { each: 1_000, ..Keeps::default() });
        let exchange = exchange("x", b"/");
        let many = u64::from(A_SECOND_MOST) * 3;
        (0..many).for_each(|_| watch.over(&seen(&exchange, 503, SOON)));
        let counted = || (watch.sum(Sort::Failed, |ring| &ring.kept), watch.sum(Sort::Failed, |ring| &ring.left_out));
        let (kept, left_out) = counted();
        assert_eq!(kept + left_out, many);
        assert!(left_out > 0 && kept >= u64::from(A_SECOND_MOST), "{kept} {left_out}");
        assert_eq!(watch.find("x").len() as u64, kept);
        // Another second has room of its own, and so has another sort.
        let later = Instant::now() + Duration::from_secs(2);
        watch.over(&Seen { ended_at: later, ..seen(&exchange, 503, SOON) });
        watch.over(&Seen { ended_at: later, ..seen(&exchange, 404, SOON) });
        assert_eq!((counted(), watch.sum(Sort::Refused, |ring| &ring.kept)), ((kept + 1, left_out), 1));
    }

    #[test]
    fn where_nothing_is_kept_nothing_is_looked_at() {
        let watch = Watch::new(1, Keeps { each: 0, ..Keeps::default() });
        watch.over(&seen(&exchange("x", b"/"), 503, SOON));
        assert!(!watch.wants_tags() && watch.find("x").is_empty());
    }

    #[test]
    fn a_tap_shows_what_passes_and_what_it_shows_is_kept() {
        let watch = Watch::new(1, Keeps::default());
        let shown: Arc<Mutex<Vec<String>>> = Arc::default();
        let open = |text: &str, most: usize| {
            let pairs: Vec<(String, String)> =
                text.split(' ').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
            let into = shown.clone();
            let sink: Sink = Box::new(move |record| {
                let mut shown = into.lock().unwrap();
                shown.push(record.id.clone());
                shown.len() <= most
            });
            watch.tap(Filter::parse(&pairs).unwrap(), sink)
        };
        let over = |id: &str, status, took| watch.over(&seen(&exchange(id, b"/cart/7?x=1"), status, took));
        let tap = open("host=shop.test path=/cart status=2xx", 2).unwrap();
        assert!(watch.is_tapped());
        over("a", 200, SOON);
        over("b", 503, SOON);
        over("c", 204, SOON);
        assert_eq!(*shown.lock().unwrap(), ["a", "c"]);
        assert_eq!(watch.find("a")[0].sort, Sort::Tapped);
        over("d", 200, SOON);
        assert_eq!(tap.missed(), 1, "the sink was full");
        drop(tap);
        assert!(!watch.is_tapped());
        over("e", 200, SOON);
        assert_eq!((shown.lock().unwrap().len(), watch.find("e").len()), (3, 0));
        let all: Vec<Open> = (0..TAPS_MOST).map(|_| open("", 0).unwrap()).collect();
        assert!(open("", 0).is_err_and(|why| why.contains("taps are open")));
        drop(all);
        assert!(open("", 0).is_ok());
    }
}
