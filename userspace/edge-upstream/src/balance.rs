//! Which server of a pool gets a request.
//!
//! Where all servers are fit and none is full, a choice costs what its policy costs and a look at two words that change when a server goes
//! out or comes back. Otherwise those are looked for that can take the request.

pub mod hash;
pub mod load;
pub mod policy;
pub mod slow_start;
pub mod table;

use crate::check::Check;
use crate::endpoint::Server;
use crate::health::{self, Era, Heard};
use crate::outlier::{Change, Outliers, Reach};
use crate::probe;
use crate::random;
use crate::sticky::{Sticky, Wish};
use base_model::OutlierDetectionSpec;
use base_telemetry::Limit;
use edge_pipeline::Client;
use hash::fnv1_32;
use load::{Load, Place, Waiting};
use proto_http::{Request, Response};
use slow_start::SlowStart;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

pub use policy::Policy;

/// What a request is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Place of the server in [`Balancer::servers`].
    pub index: usize,
    /// It is left out or found unwell, and used because too few others are fit.
    pub panicked: bool,
    /// What its report is told by.
    pub era: Era,
    hash: Option<u64>,
}

/// What became of looking for a server.
#[derive(Debug)]
pub enum Admission {
    /// This one; with the place among its requests, where those are counted.
    To(Choice, Option<Place>),
    /// Each that could take it has as many requests as it may have, or others wait already.
    Full,
    /// There is none that takes requests.
    Nobody,
}

/// The servers of a pool and the way to choose among them.
#[derive(Debug)]
pub struct Balancer {
    servers: Vec<Arc<Server>>,
    policy: Policy,
    weight_sum: u64,
    outliers: Outliers,
    /// What is asked of each server; empty where nothing is asked of any.
    checks: Vec<Vec<Arc<Check>>>,
    /// Somebody may have to wait for the first answers of checks.
    asking: AtomicBool,
    born: Instant,
    /// The [`changes`](health::changes) that were seen last, doubled, and one more where a server got no requests then.
    thinned: AtomicU64,
    sticky: Option<Sticky>,
    /// By server; empty where nobody needs to know.
    loads: Vec<Arc<Load>>,
    /// Some server has a bound on its requests.
    limited: bool,
    waiting: Option<Arc<Waiting>>,
    slow: Option<SlowStart>,
    /// Counts probes of its servers that found no room.
    crowded: Limit,
}

impl Balancer {
    /// `outliers` is what the document says of ejection. `crowded` counts what [`probe`] has no room for.
    pub fn new(
        servers: Vec<Arc<Server>>,
        policy: Policy,
        outliers: Option<&OutlierDetectionSpec>,
        crowded: Limit,
    ) -> Balancer {
        let weight_sum = servers.iter().map(|s| u64::from(s.weight)).sum();
        let outliers = Outliers::new(outliers, servers.iter().map(|s| s.health.clone()).collect());
        let loads = if policy.counts() { servers.iter().map(|_| Arc::default()).collect() } else { Vec::new() };
        Balancer {
            servers,
            policy,
            weight_sum,
            outliers,
            checks: Vec::new(),
            asking: AtomicBool::new(false),
            born: Instant::now(),
            thinned: AtomicU64::new(u64::MAX),
            sticky: None,
            loads,
            limited: false,
            waiting: None,
            slow: None,
            crowded,
        }
    }

    /// Servers get requests only while these find them well: for each server its checks.
    #[must_use]
    pub fn checked(mut self, checks: Vec<Vec<Arc<Check>>>) -> Balancer {
        self.checks = if checks.iter().all(Vec::is_empty) { Vec::new() } else { checks };
        self.asking = AtomicBool::new(self.checks.iter().flatten().any(|check| !check.is_known()));
        self
    }

    /// Whether a request is to wait: its servers are new, the first probes of all of them are under way, and so far none is known to be
    /// well. `waits`: it does so already.
    pub fn is_asking(&self, waits: bool, now: Instant) -> bool {
        if !self.asking.load(Ordering::Relaxed) {
            return false;
        }
        let checks = || self.checks.iter().flatten();
        let patience = checks().map(|check| check.timeout()).max().unwrap_or_default().min(FIRST_ANSWERS);
        let late = now.saturating_duration_since(self.born);
        if late >= patience || checks().all(|check| check.is_known()) {
            self.asking.store(false, Ordering::Relaxed);
            return false;
        }
        let anybody = (0..self.servers.len()).any(|i| self.is_in(i));
        // Whoever waits already waits a little for the others as well, so that not all go to the first that answers.
        !anybody || (waits && late < FIRST_ROUND)
    }

    /// Clients stay with their servers.
    #[must_use]
    pub fn sticking(mut self, sticky: Option<Sticky>) -> Balancer {
        self.sticky = sticky;
        self
    }

    /// Each server has so many requests at a time, 0 any number; beyond it they wait where there is a queue. What the balancer before has
    /// under way is counted on.
    #[must_use]
    pub fn limited(mut self, most: &[u32], waiting: Option<Arc<Waiting>>, previous: Option<&Balancer>) -> Balancer {
        self.limited = most.iter().any(|most| *most > 0);
        if !self.limited && !self.policy.counts() {
            return self;
        }
        let known = |server: &Arc<Server>| previous.and_then(|before| before.load_of(&server.url));
        self.loads = self.servers.iter().map(|server| known(server).unwrap_or_default()).collect();
        self.loads.iter().zip(most).for_each(|(load, most)| load.set_most(*most));
        self.waiting = waiting.filter(|_| self.limited);
        self
    }

    /// A server that comes, or comes back, gets its share by and by, over this time. One that the balancer before had is no newcomer.
    #[must_use]
    pub fn starting_slowly(mut self, window: Duration, previous: Option<&Balancer>, now: Instant) -> Balancer {
        let since = |server: &Arc<Server>| match previous {
            None => None,
            Some(before) => match before.servers.iter().position(|known| known.url == server.url) {
                Some(at) => before.slow.as_ref().and_then(|slow| slow.since(at)),
                None => Some(now),
            },
        };
        self.slow = Some(SlowStart::new(window, self.servers.iter().map(since).collect()));
        self
    }

    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    /// Where requests wait for a server to have room.
    pub fn waiting(&self) -> Option<&Arc<Waiting>> {
        self.waiting.as_ref()
    }

    fn load_of(&self, url: &str) -> Option<Arc<Load>> {
        let at = self.servers.iter().position(|server| server.url == url)?;
        self.loads.get(at).cloned()
    }

    /// A server for a request on this worker, and a place among its requests. `waited`: it comes from the queue, and before those who wait.
    pub fn admit(&self, request: &Request, client: &Client, worker: usize, waited: bool) -> Admission {
        if !waited && self.waiting.as_ref().is_some_and(|waiting| waiting.is_any()) {
            return Admission::Full;
        }
        for _ in 0..ADMISSIONS_MOST {
            let Some(choice) = self.choose(request, client, worker) else { break };
            // Somebody else may have been faster.
            if let Ok(place) = self.enter(choice.index) {
                return Admission::To(choice, place);
            }
        }
        let reach = self.reach();
        let anybody = self.limited && (0..self.servers.len()).any(|i| self.is_reached(i, reach) && self.takes(i));
        if anybody { Admission::Full } else { Admission::Nobody }
    }

    /// Whether some server takes requests and is not full.
    pub fn has_room(&self) -> bool {
        let reach = self.reach();
        (0..self.servers.len()).any(|i| self.is_reached(i, reach) && self.takes(i) && !self.is_full(i))
    }

    /// Has the first of the queue try where some server has room. Whoever joined the queue, went back to it or has been served asks for
    /// this: room that came while nobody stood in it was told to nobody, and servers that come back tell nobody.
    pub fn tell_of_room(&self) {
        if let Some(waiting) = self.waiting.as_ref().filter(|waiting| waiting.is_any())
            && self.has_room()
        {
            waiting.tell();
        }
    }

    /// A place among the requests of this server, where those are counted.
    #[inline]
    pub fn enter(&self, index: usize) -> Result<Option<Place>, Full> {
        match self.loads.get(index) {
            None => Ok(None),
            Some(load) => load.enter(self.waiting.as_ref()).map(Some).ok_or(Full),
        }
    }

    /// A server for a request on this worker; `None` when there is none. One that is left out gets nothing but a try now and then, unless
    /// too few are left; one that its health checks find unwell gets nothing at all.
    #[inline]
    pub fn choose(&self, request: &Request, client: &Client, worker: usize) -> Option<Choice> {
        if let Some(sticky) = &self.sticky
            && let Some(stuck) = self.stuck(sticky, request)
        {
            return Some(stuck);
        }
        if self.is_thinned() || self.is_any_full() {
            return self.choose_of_some(request, client, worker);
        }
        let (index, hash) = self.pick(request, client, worker, None)?;
        Some(self.chosen(index, hash))
    }

    /// Where the request's session is.
    fn stuck(&self, sticky: &Sticky, request: &Request) -> Option<Choice> {
        let is_there = |i: usize| self.is_fit(i) && !self.is_full(i);
        match sticky.wish(request)? {
            Wish::Server(index) => is_there(index).then(|| self.chosen(index, None)),
            Wish::Hash(hash) => sticky.find(hash, is_there).map(|index| self.chosen(index, Some(hash))),
        }
    }

    /// Whether the request has a session at this server. Whom a hash leads may have it wherever that leads.
    pub fn is_led(&self, request: &Request, index: usize) -> bool {
        match self.sticky.as_ref().and_then(|sticky| sticky.wish(request)) {
            Some(Wish::Server(wished)) => wished == index,
            Some(Wish::Hash(_)) => true,
            None => false,
        }
    }

    /// Has the answer of this server say that its client belongs there, where sessions stick; not where its request has said so already, if
    /// that is given. `tls`: the client came over it.
    pub fn mark(&self, index: usize, unless: Option<&Request>, tls: bool, response: &mut Response) {
        if let Some(sticky) = &self.sticky
            && unless.is_none_or(|request| sticky.wish(request) != Some(Wish::Server(index)))
        {
            sticky.mark(index, tls, response, SystemTime::now());
        }
    }

    /// A request was answered, or failed, after this time.
    #[inline]
    pub fn took(&self, index: usize, took: Duration, failed: bool) {
        if let (Policy::PeakEwma, Some(load)) = (&self.policy, self.loads.get(index)) {
            load.took(took, failed, base_runtime::now());
        }
    }

    /// The choice of this server, whoever made it.
    pub fn choice_of(&self, index: usize) -> Choice {
        Choice { panicked: !self.is_fit(index), ..self.chosen(index, None) }
    }

    #[inline]
    fn chosen(&self, index: usize, hash: Option<u64>) -> Choice {
        Choice { index, panicked: false, era: self.outliers.era(index), hash }
    }

    /// Whether some server is out or unwell.
    #[inline]
    fn is_thinned(&self) -> bool {
        let (seen, now) = (self.thinned.load(Ordering::Relaxed), health::changes());
        if seen >> 1 == now { seen & 1 == 1 } else { self.look(now) }
    }

    #[cold]
    fn look(&self, now: u64) -> bool {
        // What changes meanwhile counts anew, so that it is seen next time.
        let thinned = (0..self.servers.len()).filter(|i| !self.is_in(*i)).count() > 0;
        if let Some(slow) = &self.slow {
            (0..self.servers.len()).for_each(|i| slow.saw(i, self.is_fit(i), base_runtime::now()));
        }
        self.thinned.store(now << 1 | u64::from(thinned), Ordering::Relaxed);
        thinned
    }

    /// Neither left out nor unwell, as far as anything is known.
    fn is_fit(&self, index: usize) -> bool {
        !self.outliers.is_out(index) && self.is_well(index)
    }

    /// Known to be neither left out nor unwell.
    fn is_in(&self, index: usize) -> bool {
        self.is_fit(index) && self.is_known(index)
    }

    /// Whether its health checks have shown anything.
    fn is_known(&self, index: usize) -> bool {
        self.checks.get(index).is_none_or(|checks| checks.iter().all(|check| check.is_known()))
    }

    /// As far as its health checks show.
    fn is_well(&self, index: usize) -> bool {
        self.checks.get(index).is_none_or(|checks| checks.iter().all(|check| check.is_well()))
    }

    #[inline]
    fn is_full(&self, index: usize) -> bool {
        self.limited && self.loads[index].is_full()
    }

    #[inline]
    fn is_any_full(&self) -> bool {
        self.limited && self.loads.iter().any(|load| load.is_full())
    }

    fn reach(&self) -> Reach {
        match self.outliers.reach(|i| self.is_well(i)) {
            Reach::In if !(0..self.servers.len()).any(|i| self.is_in(i)) => Reach::Unasked,
            reach => reach,
        }
    }

    fn is_reached(&self, index: usize, reach: Reach) -> bool {
        match reach {
            Reach::All => true,
            Reach::Well => self.is_well(index),
            Reach::Unasked => self.is_fit(index),
            Reach::In => self.is_in(index),
        }
    }

    /// The server to go on with when those of `tried` could not be reached: one that is well rather than one that failed somebody
    /// last, and one that is out when no other is left.
    #[cold]
    pub fn another(&self, first: Choice, tried: &[usize]) -> Option<Choice> {
        let rank = |i: usize| match self.outliers.is_out(i) {
            _ if !self.is_well(i) => 3,
            false if self.outliers.is_well(i) && self.is_known(i) => 0,
            false => 1,
            true => 2,
        };
        let worst = if self.reach() == Reach::All { 3 } else { 2 };
        let is_free = |i: &usize| !tried.contains(i) && self.takes(*i) && rank(*i) <= worst && !self.is_full(*i);
        let within: Vec<usize> = (0..self.servers.len()).filter(is_free).collect();
        let best = within.iter().map(|i| rank(*i)).min()?;
        let index = self.spread(within.into_iter().filter(|i| rank(*i) == best).collect(), first.hash)?;
        Some(Choice { panicked: best >= 2, ..self.chosen(index, first.hash) })
    }

    /// Takes note of what became of a request to the server with this index that was chosen in this era. One that is put out is probed
    /// from this worker.
    #[inline]
    pub fn report(&self, index: usize, heard: Heard, era: Era) -> Option<Change> {
        let change = self.outliers.report(index, heard, era, base_runtime::now())?;
        if change != Change::Readmitted {
            probe::begin(&self.servers[index], &self.crowded);
        }
        Some(change)
    }

    /// The policy's choice, and the hash it was made by, if it was. `within`: of these alone; else of all.
    #[inline]
    fn pick(
        &self,
        request: &Request,
        client: &Client,
        worker: usize,
        within: Option<&[usize]>,
    ) -> Option<(usize, Option<u64>)> {
        let count = self.servers.len();
        if count == 0 {
            return None;
        }
        let hashed = |bytes: &[u8]| {
            let hash = fnv1_32(bytes);
            let index = hash as usize % count;
            match within.filter(|within| !within.contains(&index)) {
                None => Some((index, Some(u64::from(hash)))),
                Some(within) => Some((self.spread(within.to_vec(), Some(hash.into()))?, Some(hash.into()))),
            }
        };
        let index = match &self.policy {
            Policy::RoundRobin(turns) => self.slowed(|| turns.next(worker), within),
            Policy::Random => self.slowed(|| random::next() as usize >> 1, within),
            Policy::WeightedRandom => self.sample(within)?,
            Policy::LeastRequest => self.lighter(within, |i| self.under_way_by_weight(i))?,
            Policy::PeakEwma => {
                let now = base_runtime::now();
                self.lighter(within, |i| self.loads[i].cost(self.weight(i), now))?
            }
            Policy::IpHash => return hashed(client.real_ip_text().as_bytes()),
            Policy::HeaderHash(name) => return hashed(request.headers.value(name).unwrap_or_default()),
            Policy::Table(by) => {
                let hash = by.hash(request, client);
                let most = by.most_each(&self.loads);
                let is_there = |i: usize| {
                    within.is_none_or(|within| within.contains(&i))
                        && most.is_none_or(|most| self.loads[i].under_way() < most)
                };
                let found = by
                    .table
                    .find(hash, is_there)
                    .or_else(|| by.table.find(hash, |i| within.is_none_or(|w| w.contains(&i))));
                return Some((found?, Some(hash)));
            }
        };
        Some((index, None))
    }

    /// Whose turn it is, of these or of all. A server that starts slowly lets some of its turns pass.
    #[inline]
    fn slowed(&self, mut turn: impl FnMut() -> usize, within: Option<&[usize]>) -> usize {
        let mut next = || match within {
            None => turn() % self.servers.len(),
            Some(within) => within[turn() % within.len()],
        };
        let mut index = next();
        if let Some(slow) = self.slow.as_ref().filter(|slow| slow.is_any(base_runtime::now())) {
            let now = base_runtime::now();
            for _ in 0..SLOW_TURNS {
                if random::unit() < slow.share(index, now) {
                    break;
                }
                index = next();
            }
        }
        index
    }

    /// The lighter of two that are chosen in proportion to their weights: nearly as good as the lightest of all, and workers that choose at
    /// the same time do not all choose the same (Mitzenmacher, "The power of two choices in randomized load balancing").
    fn lighter(&self, within: Option<&[usize]>, load: impl Fn(usize) -> f64) -> Option<usize> {
        let first = self.sample(within)?;
        let mut second = self.sample(within)?;
        // Of few servers the same one comes up often.
        for _ in 0..SAMPLES_MORE {
            if second != first {
                break;
            }
            second = self.sample(within)?;
        }
        Some(if load(second) < load(first) { second } else { first })
    }

    fn under_way_by_weight(&self, index: usize) -> f64 {
        f64::from(self.loads[index].under_way()) / self.weight(index)
    }

    /// 1 where weights say nothing.
    fn weight(&self, index: usize) -> f64 {
        if self.is_weighted() { f64::from(self.servers[index].weight.max(1)) } else { 1.0 }
    }

    /// One of these, or of all, in proportion to their weights.
    #[inline]
    fn sample(&self, within: Option<&[usize]>) -> Option<usize> {
        let now = self.slow.as_ref().map(|_| base_runtime::now());
        let slow = self.slow.as_ref().filter(|slow| now.is_some_and(|now| slow.is_any(now)));
        if slow.is_none() && !self.is_weighted() {
            return match within {
                None => Some(random::below(self.servers.len() as u64) as usize),
                Some([]) => None,
                Some(within) => Some(within[random::below(within.len() as u64) as usize]),
            };
        }
        // In thousandths, so that a server that starts slowly has part of its weight.
        let share = |i: usize| {
            let weight = if self.is_weighted() { u64::from(self.servers[i].weight) } else { 1 };
            match (slow, now) {
                (Some(slow), Some(now)) => ((weight * 1000) as f64 * slow.share(i, now)) as u64,
                _ => weight * 1000,
            }
        };
        let at = |place: usize| within.map_or(place, |within| within[place]);
        let count = within.map_or(self.servers.len(), <[usize]>::len);
        let whole: u64 = (0..count).map(|place| share(at(place))).sum();
        if whole == 0 {
            return None;
        }
        let mut point = random::below(whole);
        (0..count).map(at).find(|i| {
            let hit = point < share(*i);
            point = point.saturating_sub(share(*i));
            hit
        })
    }

    /// The choice where some server is out, unwell or full. What such a one would have got is spread over all others; by the same hash to
    /// the same one, and where they take turns, they take turns without it.
    #[cold]
    fn choose_of_some(&self, request: &Request, client: &Client, worker: usize) -> Option<Choice> {
        let now = base_runtime::now();
        let reach = self.reach();
        let is_there = |i: &usize| self.is_reached(*i, reach) && self.takes(*i) && !self.is_full(*i);
        let within: Vec<usize> = (0..self.servers.len()).filter(is_there).collect();
        if let Some(trial) = self.trial(request, client, now) {
            return Some(trial);
        }
        let (index, hash) = match within.is_empty() {
            false => self.pick(request, client, worker, Some(&within))?,
            // Those that are left have no weight, or are out.
            true => {
                let is_left = |i: &usize| self.is_well(*i) && self.takes(*i) && !self.is_full(*i);
                (self.spread((0..self.servers.len()).filter(is_left).collect(), None)?, None)
            }
        };
        Some(Choice { panicked: !self.is_fit(index), ..self.chosen(index, hash) })
    }

    /// A server that is out and that this request tries.
    fn trial(&self, request: &Request, client: &Client, now: Instant) -> Option<Choice> {
        for index in (0..self.servers.len()).filter(|i| self.outliers.is_out(*i)) {
            // Its worker may have ended.
            probe::begin(&self.servers[index], &self.crowded);
            if self.outliers.awaits_trial(index)
                && self.is_well(index)
                && !self.is_full(index)
                && self.takes(index)
                && let Some(era) = self.outliers.admits_trial(index, now)
            {
                let hash = self.policy.hash(request, client);
                return Some(Choice { index, panicked: false, era, hash });
            }
        }
        None
    }

    /// One of these, in proportion to their weights where the policy goes by them, by the hash where it goes by one.
    fn spread(&self, within: Vec<usize>, hash: Option<u64>) -> Option<usize> {
        let share = |i: usize| if self.is_weighted() { u64::from(self.servers[i].weight) } else { 1 };
        let total: u64 = within.iter().map(|i| share(*i)).sum();
        let mut point = match hash {
            _ if total == 0 => return None,
            // Other bits than those that chose the first one.
            Some(hash) => hash::stirred(hash) % total,
            None => random::below(total),
        };
        within.into_iter().find(|i| {
            let hit = point < share(*i);
            point = point.saturating_sub(share(*i));
            hit
        })
    }

    fn is_weighted(&self) -> bool {
        self.weight_sum > 0 && self.policy.goes_by_weights()
    }

    /// Whether the policy gives this server anything at all.
    fn takes(&self, index: usize) -> bool {
        !self.is_weighted() || self.servers[index].weight > 0
    }
}

/// It has as many requests as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// How long requests wait at most for what the first probes say of new servers.
const FIRST_ANSWERS: Duration = Duration::from_secs(1);

/// How long those that wait anyhow wait for the other servers, once one is known to be well.
const FIRST_ROUND: Duration = Duration::from_millis(50);

/// Times a server is chosen whose last place somebody else takes first.
const ADMISSIONS_MOST: usize = 3;

/// Turns that servers which start slowly may let pass, one after the other.
const SLOW_TURNS: usize = 16;

/// Times the same server may come up a second time when two are compared.
const SAMPLES_MORE: usize = 3;

#[cfg(test)]
mod tests;
