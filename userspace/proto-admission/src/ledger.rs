//! The cluster's side of a room: who has been let in, by number, and how far the queue has moved.
//!
//! A ledger changes by [`Ledger::apply`] alone, with calls in the order of the replicated log, so that all copies are the same. It
//! keeps no list of those who wait: only how many came in each second of the queue ("bucket"), which edges tell it, and the line up
//! to which their turn has come. Whoever's turn it is still has to ask for a number, and gets one as long as there is room; asking
//! twice, over the same edge or another, gives the same number. So a repeat costs nobody a place, and no loss of an edge or a leader
//! makes more numbers than there may be.

mod clock;

use clock::Leap;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How many are let in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rules {
    /// Numbers there are in all; 0: without end.
    pub stock: u64,
    /// Time from one number to the next, in microseconds; 0: as fast as they are asked for.
    pub interval_us: u64,
    /// Numbers that may be given at once after a pause, 1 or more.
    pub burst: u64,
    /// Users inside at the same time; 0: any number.
    pub active: u64,
    /// How long one who was let in counts as inside, in seconds.
    pub session_s: u64,
    /// How long it is known who has which number, in seconds; 0: for ever, where there is a stock.
    pub keep_s: u64,
    /// Whoever's turn has come and who does not ask for so long has gone away, in seconds.
    pub grace_s: u64,
    /// It has not begun: places count, and nobody's turn comes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
}

/// What an edge tells of a room, and asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Call {
    pub room: String,
    pub sale: String,
    pub rules: Rules,
    /// Places that count from now on, by bucket.
    pub counted: Vec<(u32, u32)>,
    /// Those whose turn has come.
    pub wanting: Vec<Candidate>,
    /// Ids of users who have left.
    pub left: Vec<u64>,
    /// There is nothing left for those who wait (`true`), or there is again (`false`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<bool>,
    /// Which law it is carried out by, [`LAW`] or an earlier one: every copy of a ledger has to know it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub law: u32,
    /// Since law 1, instead of `left`: users who have left, with the bucket of the ticket that let them in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<Candidate>,
    /// Ids of `wanting` that have not shown yet that they keep cookies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<u64>,
    /// So many numbers, from the first on, the caller knows the ids of, and wants to know more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<u64>,
    /// Since law 2: up to whom the caller knows who has left, see [`Answer::gone_known`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_known: Option<(u64, u32)>,
}

/// 1 brought that a ticket is good for one number, that one clock alone moves nothing, that a room begins when most edges say so, and
/// that clients without cookies take half of the places at most; 2 that who has left is known for as long as passes are good, and all edges
/// are told.
pub const LAW: u32 = 2;

fn is_zero(law: &u32) -> bool {
    *law == 0
}

impl Call {
    /// The same for those who know this law and earlier ones alone.
    pub fn by_law(mut self, law: u32) -> Call {
        self.law = self.law.min(law);
        if self.law < 2 {
            self.gone_known = None;
        }
        if self.law < 1 {
            self.left.extend(self.gone.iter().map(|candidate| candidate.id));
            return Call { gone: Vec::new(), first: Vec::new(), known: None, ..self };
        }
        self
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Candidate {
    pub bucket: u32,
    pub id: u64,
}

/// Up to where the queue has been served: buckets before `bucket`, and of that one the share of ids below `share` / 2³².
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Line {
    pub bucket: u32,
    pub share: u32,
}

impl Line {
    pub fn has_passed(self, bucket: u32, id: u64) -> bool {
        (bucket, (id >> 32) as u32) < (self.bucket, self.share)
    }
}

/// Why nobody else is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Over {
    /// All numbers are given.
    Stock,
    /// Somebody said so.
    Signal,
}

/// How a room is, for the edge that asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Answer {
    pub room: String,
    pub sale: String,
    pub line: Line,
    pub over: Option<Over>,
    /// Id and number of those that were asked for and are let in.
    pub admitted: Vec<(u64, u64)>,
    /// Numbers given so far.
    pub given: u64,
    /// Places that count and whose turn has not come.
    pub waiting: u64,
    /// Users inside.
    pub active: u64,
    /// A bucket, and how many wait in those before it; at most [`POINTS`], the last one behind the end of the queue.
    pub points: Vec<(u32, u64)>,
    /// How fast users are let in, in thousandths of a user per second; 0 when nobody knows.
    pub pace_milli: u64,
    /// There is room, and nobody waits for it.
    pub open: bool,
    /// Ids that follow from keys follow from this, too.
    pub seed: u64,
    /// Ids of `wanting` whose tickets have had their number: their users have left.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub spent: Vec<u64>,
    /// Ids of the numbers after `known`, at most [`LEARNED_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<u64>,
    /// Users who have left since those that the caller knew of, with the bucket of the ticket that had let them in: no pass of it or of an
    /// earlier one is good any more. At most [`LEARNED_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<Candidate>,
    /// When the last of them left, in seconds of the ledger, and how many had left in that second then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gone_known: Option<(u64, u32)>,
}

/// See the module doc.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ledger {
    seed: u64,
    /// Milliseconds that have passed by the clocks of those who call; where it began has no meaning.
    clock_ms: u64,
    /// By caller, what to add to its clock.
    clocks: BTreeMap<String, i64>,
    /// Places by bucket, from the line's on.
    places: BTreeMap<u32, u64>,
    line: Line,
    /// Of the line's bucket, how many places the line has passed.
    passed_here: u64,
    given: u64,
    /// When the next number is due, in microseconds of `clock_ms`.
    due_us: u64,
    /// By second: how many turns came, and how many numbers were given.
    recent: VecDeque<(u64, u64, u64)>,
    /// By time: how many of those who came then are inside.
    inside: VecDeque<(u64, u64)>,
    active: u64,
    /// By id: the number, and when it was given, in seconds.
    taken: BTreeMap<u64, (u64, u64)>,
    /// Ids and numbers in the order they were given.
    order: VecDeque<(u64, u64)>,
    signalled: bool,
    /// The largest stock there has been.
    stock: u64,
    /// Of everything that ever changed it.
    digest: u64,
    /// By id: up to which bucket its tickets have had their number and its user has left, and when, in seconds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    gone: BTreeMap<u64, (u32, u64)>,
    /// Ids of `gone` and when they left, in that order.
    #[serde(skip_serializing_if = "VecDeque::is_empty")]
    gone_order: VecDeque<(u64, u64)>,
    /// A clock that says that much time has passed, and has nobody to bear it out so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    leap: Option<Leap>,
    /// By caller: whether it said that the room has not begun, and when.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    doors: BTreeMap<String, (bool, u64)>,
}

impl Ledger {
    /// `seed` is drawn by whoever founds it.
    pub fn new(seed: u64) -> Ledger {
        let seed = seed.max(1);
        Ledger { seed, digest: seed, ..Ledger::default() }
    }

    /// A number that two copies share if they are the same.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn given(&self) -> u64 {
        self.given
    }

    /// By the clocks of callers.
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms
    }

    /// Carries out one call of `caller`, whose clock shows `at_ms`.
    pub fn apply(&mut self, call: &Call, caller: &str, at_ms: u64) -> Answer {
        self.turn_clock(caller, at_ms, call.law);
        let rules = Rules { closed: self.is_closed(call, caller), ..call.rules };
        let rules = &rules;
        self.forget(rules);
        // The next number waits by the pace there is now, however slow it was when the last one was given.
        let burst_us = rules.interval_us.saturating_mul(rules.burst.max(1));
        self.due_us = self.due_us.min((self.clock_ms * 1000).saturating_add(burst_us));
        // More than there ever was: whatever was said of what there had been says nothing of it.
        if rules.stock > self.stock {
            self.signalled &= self.stock == 0;
            self.stock = rules.stock;
        }
        if let Some(over) = call.over {
            self.signalled = over;
        }
        for (bucket, places) in call.counted.iter().take(CALL_MAX) {
            self.count(*bucket, u64::from(*places));
        }
        for id in call.left.iter().take(CALL_MAX) {
            self.leave(*id, rules);
        }
        for candidate in call.gone.iter().take(CALL_MAX) {
            self.leave(candidate.id, rules);
            self.spend(candidate, rules, call.law);
        }
        let mut wanting = call.wanting.clone();
        wanting.truncate(CALL_MAX);
        wanting.sort_unstable();
        // Those who keep cookies go before those who may not.
        let first: BTreeSet<u64> = call.first.iter().take(CALL_MAX).copied().collect();
        wanting.sort_by_key(|candidate| first.contains(&candidate.id));
        let (mut admitted, mut spent) = (Vec::new(), Vec::new());
        for candidate in &wanting {
            if self.is_spent(candidate) {
                self.spend(candidate, rules, call.law);
                spent.push(candidate.id);
            } else if (!first.contains(&candidate.id) || self.has_room_for_first(candidate.id, rules))
                && let Some(number) = self.admit(candidate.id, rules)
            {
                admitted.push((candidate.id, number));
            }
        }
        let (gone, gone_known) = if call.law < 2 { (Vec::new(), None) } else { self.gone_after(call.gone_known) };
        let room = self.advance(rules);
        for part in [self.given, self.active, u64::from(self.line.bucket), u64::from(self.line.share), self.clock_ms] {
            self.digest = (self.digest ^ part).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
        Answer {
            room: call.room.clone(),
            sale: call.sale.clone(),
            line: self.line,
            over: self.over(rules),
            admitted,
            given: self.given,
            waiting: self.waiting(),
            active: self.active,
            points: self.points(),
            pace_milli: self.pace_milli(rules),
            open: room > 0 && self.waiting() == 0,
            seed: self.seed,
            spent,
            learned: call.known.map_or_else(Vec::new, |known| self.numbers_after(known)),
            gone,
            gone_known,
        }
    }

    /// Who has left after those that are known, and up to whom that is.
    fn gone_after(&self, known: Option<(u64, u32)>) -> (Vec<Candidate>, Option<(u64, u32)>) {
        let before = |second: u64| self.gone_order.partition_point(|(_, at_s)| *at_s < second);
        let from = known.map_or(0, |(second, of_it)| before(second) + of_it as usize);
        let told: Vec<(u64, u64)> = self.gone_order.iter().skip(from).take(LEARNED_MAX).copied().collect();
        let Some((_, last_s)) = told.last().copied() else { return (Vec::new(), known) };
        let of_it = u32::try_from(from + told.len() - before(last_s)).unwrap_or(u32::MAX);
        let bucket = |id: u64| self.gone.get(&id).map(|(bucket, _)| Candidate { bucket: *bucket, id });
        (told.into_iter().filter_map(|(id, _)| bucket(id)).collect(), Some((last_s, of_it)))
    }

    /// Ids of the numbers after `known`, as far as they are kept.
    fn numbers_after(&self, known: u64) -> Vec<u64> {
        let first = self.order.front().map_or(1, |(_, number)| *number);
        let after = usize::try_from((known + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        self.order.iter().skip(after).take(LEARNED_MAX).map(|(id, _)| *id).collect()
    }

    /// The ticket has had its number, and its user has left since.
    fn is_spent(&self, candidate: &Candidate) -> bool {
        !self.taken.contains_key(&candidate.id)
            && self.gone.get(&candidate.id).is_some_and(|(bucket, _)| candidate.bucket <= *bucket)
    }

    fn spend(&mut self, candidate: &Candidate, rules: &Rules, law: u32) {
        let now_s = self.clock_ms / 1000;
        let known = self.gone.entry(candidate.id).or_insert((candidate.bucket, now_s));
        *known = (known.0.max(candidate.bucket), now_s);
        self.gone_order.push_back((candidate.id, now_s));
        // A ticket is good for less than `keep_s`, a pass for as long as a session.
        let keep_s = if rules.keep_s == 0 { KEEP_S } else { rules.keep_s };
        let keep_s = if law < 2 { keep_s } else { keep_s.max(rules.session_s + PASS_SKEW_S) };
        while let Some((id, at_s)) = self.gone_order.front().copied()
            && (at_s.saturating_add(keep_s) < now_s || self.gone_order.len() > TAKEN_MAX)
        {
            self.gone_order.pop_front();
            if self.gone.get(&id).is_some_and(|(_, left_s)| *left_s == at_s) {
                self.gone.remove(&id);
            }
        }
    }

    /// Half of the places are for those who keep cookies.
    fn has_room_for_first(&self, id: u64, rules: &Rules) -> bool {
        rules.active == 0 || self.active < rules.active.div_ceil(2) || self.taken.contains_key(&id)
    }

    fn over(&self, rules: &Rules) -> Option<Over> {
        if rules.stock > 0 && self.given >= rules.stock {
            Some(Over::Stock)
        } else {
            self.signalled.then_some(Over::Signal)
        }
    }

    /// What is too old to matter.
    fn forget(&mut self, rules: &Rules) {
        let now_s = self.clock_ms / 1000;
        while self.recent.front().is_some_and(|(second, ..)| second + rules.grace_s.max(1) < now_s) {
            self.recent.pop_front();
        }
        while let Some((since, users)) = self.inside.front()
            && since + rules.session_s <= now_s
        {
            self.active = self.active.saturating_sub(*users);
            self.inside.pop_front();
        }
        let keep_s = match rules.keep_s {
            0 if rules.stock > 0 => u64::MAX,
            0 => KEEP_S,
            keep_s => keep_s.max(rules.session_s),
        };
        while let Some((id, number)) = self.order.front().copied() {
            let known = self.taken.get(&id).filter(|(taken, _)| *taken == number);
            let old = known.is_none_or(|(_, at_s)| at_s.saturating_add(keep_s) < now_s);
            if !old && self.order.len() <= TAKEN_MAX {
                break;
            }
            if known.is_some() {
                self.taken.remove(&id);
            }
            self.order.pop_front();
        }
    }

    fn count(&mut self, bucket: u32, places: u64) {
        if bucket < self.line.bucket {
            self.note(places, 0);
            return;
        }
        let last = self.places.keys().next_back().copied();
        let bucket = match last {
            Some(last) if self.places.len() >= BUCKETS_MAX => bucket.min(last),
            _ => bucket,
        };
        *self.places.entry(bucket).or_default() += places;
        if bucket == self.line.bucket {
            let passed = ((u128::from(places) * u128::from(self.line.share)) >> 32) as u64;
            self.passed_here += passed;
            self.note(passed, 0);
        }
    }

    fn leave(&mut self, id: u64, rules: &Rules) {
        let Some((_, at_s)) = self.taken.get(&id).copied() else { return };
        let slot = slot(at_s, rules);
        if let Ok(at) = self.inside.binary_search_by_key(&slot, |(since, _)| *since)
            && self.inside[at].1 > 0
        {
            self.inside[at].1 -= 1;
            self.active = self.active.saturating_sub(1);
            // It is let in anew if it comes again: its place inside is somebody else's.
            self.taken.remove(&id);
        }
    }

    /// The number of an id: the one it has, or the next one if there is room.
    fn admit(&mut self, id: u64, rules: &Rules) -> Option<u64> {
        if let Some((number, _)) = self.taken.get(&id) {
            return Some(*number);
        }
        if rules.closed
            || self.over(rules).is_some()
            || rules.active > 0 && self.active >= rules.active
            || self.paced(rules) == 0
        {
            return None;
        }
        let now_s = self.clock_ms / 1000;
        self.given += 1;
        if rules.interval_us > 0 {
            self.due_us = self.due_us.max(self.clock_ms * 1000) + rules.interval_us;
        }
        self.active += 1;
        let slot = slot(now_s, rules);
        match self.inside.back_mut() {
            Some((since, users)) if *since == slot => *users += 1,
            _ => self.inside.push_back((slot, 1)),
        }
        self.taken.insert(id, (self.given, now_s));
        self.order.push_back((id, self.given));
        self.digest ^= id;
        self.note(0, 1);
        Some(self.given)
    }

    /// Numbers the pace allows now.
    fn paced(&self, rules: &Rules) -> u64 {
        if rules.interval_us == 0 {
            return u64::MAX;
        }
        let burst_us = rules.interval_us.saturating_mul(rules.burst.max(1));
        (self.clock_ms * 1000).saturating_add(burst_us).saturating_sub(self.due_us.max(self.clock_ms * 1000))
            / rules.interval_us
    }

    /// Moves the line on, so that about as many may ask as there is room for. Says how much room there is beyond that.
    fn advance(&mut self, rules: &Rules) -> u64 {
        if rules.closed || self.over(rules).is_some() {
            return 0;
        }
        let stock = if rules.stock == 0 { u64::MAX } else { rules.stock - self.given.min(rules.stock) };
        let free = if rules.active == 0 { u64::MAX } else { rules.active.saturating_sub(self.active) };
        // Whoever leaves while those called are on their way shall not leave a place empty.
        let inside = free.saturating_add(self.pace_milli(rules).saturating_mul(rules.grace_s) / 2000);
        // Those whose turn has come ask when they poll next: so many have to be called that some always do.
        let soon = match rules.interval_us {
            0 => u64::MAX,
            interval_us => self.paced(rules).saturating_add(rules.grace_s * 1_000_000 / 2 / interval_us).max(1),
        };
        let (called, came) = self.recent.iter().fold((0, 0), |(called, came), (_, c, g)| (called + c, came + g));
        let mut room = stock.min(inside).min(soon).saturating_sub(called.saturating_sub(came));
        while room > 0
            && let Some((bucket, places)) = self.places.first_key_value().map(|(bucket, places)| (*bucket, *places))
        {
            if bucket > self.line.bucket {
                self.line = Line { bucket, share: 0 };
                self.passed_here = 0;
            }
            let left = places - self.passed_here.min(places);
            let turns = left.min(room);
            if turns == left {
                self.places.remove(&bucket);
                self.line = Line { bucket: bucket.saturating_add(1), share: 0 };
                self.passed_here = 0;
            } else {
                let rest = u64::from(u32::MAX - self.line.share);
                self.line.share += (u128::from(rest) * u128::from(turns) / u128::from(left)) as u32;
                self.passed_here += turns;
            }
            room -= turns;
            self.note(turns, 0);
        }
        room.min(free)
    }

    fn note(&mut self, called: u64, given: u64) {
        let second = self.clock_ms / 1000;
        match self.recent.back_mut() {
            Some((at, c, g)) if *at == second => (*c, *g) = (*c + called, *g + given),
            _ if called + given == 0 => {}
            _ => self.recent.push_back((second, called, given)),
        }
    }

    fn waiting(&self) -> u64 {
        self.places.values().sum::<u64>().saturating_sub(self.passed_here)
    }

    fn points(&self) -> Vec<(u32, u64)> {
        let every = self.places.len() / (POINTS - 1) + 1;
        let mut points = Vec::new();
        let mut before = 0;
        for (at, (bucket, places)) in self.places.iter().enumerate() {
            if at % every == 0 {
                points.push((*bucket, before));
            }
            let passed = if *bucket == self.line.bucket { self.passed_here } else { 0 };
            before += places.saturating_sub(passed);
        }
        if let Some(last) = self.places.keys().next_back() {
            points.push((last.saturating_add(1), before));
        }
        points
    }

    /// What the rules say, or, where the shop's users make the pace by leaving, what was seen.
    fn pace_milli(&self, rules: &Rules) -> u64 {
        let Some((first, ..)) = self.recent.front() else {
            return 1_000_000_000_u64.checked_div(rules.interval_us).unwrap_or(0);
        };
        let given: u64 = self.recent.iter().map(|(.., given)| given).sum();
        let passed_s = (self.clock_ms / 1000).saturating_sub(*first).max(1);
        let seen = given * 1000 / passed_s;
        match rules.interval_us {
            0 => seen,
            interval_us => (1_000_000_000 / interval_us).min(if given > 0 { seen.max(1) } else { u64::MAX }),
        }
    }
}

/// Users who came within one of a thousand parts of a session leave together.
fn slot(at_s: u64, rules: &Rules) -> u64 {
    let step = rules.session_s / 1000 + 1;
    at_s / step * step
}

/// Points of the queue's length that an answer has at most.
pub const POINTS: usize = 64;
/// Entries of a list that a call has at most; the rest of it counts for nothing.
pub const CALL_MAX: usize = 4096;
/// Buckets somebody waits in: a day of waiting, and more.
const BUCKETS_MAX: usize = 8192;
/// Ids whose numbers are known at a time: about 60 MB.
pub const TAKEN_MAX: usize = 1 << 20;
/// Ids that are told in one answer: answers are kept for a while by everybody.
pub const LEARNED_MAX: usize = 512;
/// Seconds a number is known where nothing is said.
const KEEP_S: u64 = 600;
/// A pass is good for so many seconds more than its session where an edge's clock is behind, and as many again in case.
const PASS_SKEW_S: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call(rules: Rules, counted: &[(u32, u32)], wanting: &[(u32, u64)]) -> Call {
        let wanting = wanting.iter().map(|(bucket, id)| Candidate { bucket: *bucket, id: *id }).collect();
        Call { room: "r".into(), rules, counted: counted.to_vec(), wanting, ..Call::default() }
    }

    const SHOP: Rules =
        Rules { stock: 3, interval_us: 0, burst: 1, active: 0, session_s: 60, keep_s: 0, grace_s: 10, closed: false };

    #[test]
    fn a_faster_pace_is_in_force_at_once() {
        let hourly = Rules { stock: 0, interval_us: 3_600_000_000, ..SHOP };
        let mut ledger = Ledger::new(1);
        assert_eq!(ledger.apply(&call(hourly, &[], &[(0, 5)]), "a", 1_000).admitted, [(5, 1)]);
        assert_eq!(ledger.apply(&call(hourly, &[], &[(0, 6)]), "a", 2_000).admitted, []);
        let quick = Rules { interval_us: 20_000, burst: 10, ..hourly };
        assert_eq!(ledger.apply(&call(quick, &[], &[(0, 6)]), "a", 3_000).admitted, []);
        assert_eq!(ledger.apply(&call(quick, &[], &[(0, 6)]), "a", 3_100).admitted, [(6, 2)]);
    }

    #[test]
    fn more_stock_ends_what_was_said_of_less() {
        let mut ledger = Ledger::new(1);
        let said = Call { over: Some(true), ..call(SHOP, &[], &[(0, 5)]) };
        assert_eq!(ledger.apply(&said, "a", 1_000).over, Some(Over::Signal));
        let again =
            |ledger: &mut Ledger, stock| ledger.apply(&call(Rules { stock, ..SHOP }, &[], &[(0, 5)]), "a", 2_000);
        // Neither the same, nor what an edge says that has the document of before.
        for stock in [3, 2, 3] {
            assert_eq!(again(&mut ledger, stock).over, Some(Over::Signal));
        }
        let more = again(&mut ledger, 4);
        assert_eq!((more.over, more.admitted), (None, vec![(5, 1)]));
    }

    #[test]
    fn a_stock_is_given_once_and_then_it_is_over() {
        let mut ledger = Ledger::new(1);
        let first = ledger.apply(&call(SHOP, &[], &[(0, 5), (0, 6)]), "a", 1_000);
        assert_eq!(first.admitted, [(5, 1), (6, 2)]);
        let again = ledger.apply(&call(SHOP, &[], &[(0, 6), (0, 5)]), "b", 1_100);
        assert_eq!(again.admitted, [(5, 1), (6, 2)], "the same numbers, whoever asks");
        let last = ledger.apply(&call(SHOP, &[], &[(1, 9), (0, 8)]), "b", 1_200);
        assert_eq!((last.admitted, last.over), (vec![(8, 3)], Some(Over::Stock)), "who came first");
        let more = ledger.apply(&call(Rules { stock: 4, ..SHOP }, &[], &[(1, 9)]), "b", 1_300);
        assert_eq!((more.admitted, more.given), (vec![(9, 4)], 4), "there is one more");
    }

    #[test]
    fn a_pace_is_kept_by_any_clock() {
        let rules = Rules { stock: 0, interval_us: 100_000, burst: 10, ..SHOP };
        let mut ledger = Ledger::new(1);
        let mut id = 0;
        let mut given = 0;
        // Three callers whose clocks are two seconds apart, a hundred turns of 50 ms.
        for turn in 0..100u64 {
            let (caller, skew) = [("a", 2_000), ("b", 4_000), ("c", 0)][turn as usize % 3];
            let wanting: Vec<(u32, u64)> = (0..5).map(|n| (0, id + n)).collect();
            id += 5;
            let answer = ledger.apply(&call(rules, &[], &wanting), caller, 10_000 + turn * 50 + skew);
            given += answer.admitted.len();
        }
        assert!((49..=60).contains(&given), "{given} in five seconds of ten each, after ten at once");
        // A clock that is set a year ahead, or back, gives nothing away.
        for at in [31_536_000_000_000, 5] {
            let wanting: Vec<(u32, u64)> = (0..50).map(|n| (0, 1_000_000 + at + n)).collect();
            assert!(ledger.apply(&call(rules, &[], &wanting), "a", at).admitted.len() <= 2);
        }
    }

    #[test]
    fn the_line_calls_as_many_as_there_is_room_for() {
        let rules = Rules { stock: 10, ..SHOP };
        let mut ledger = Ledger::new(1);
        let answer = ledger.apply(&call(rules, &[(0, 40)], &[]), "a", 1_000);
        assert_eq!((answer.line.bucket, answer.waiting), (0, 30));
        let share = f64::from(answer.line.share) / 2f64.powi(32);
        assert!((share - 0.25).abs() < 0.01, "{share}");
        // Nobody of them comes: others are called when their time is over.
        let answer = ledger.apply(&call(rules, &[(3, 5)], &[]), "a", 5_000);
        assert_eq!(answer.waiting, 35);
        let answer = ledger.apply(&call(rules, &[], &[]), "a", 13_000);
        assert_eq!(answer.waiting, 25);
        let all = ledger.apply(&call(Rules { stock: 100, ..SHOP }, &[], &[]), "a", 13_500);
        assert_eq!((all.waiting, all.line, all.open), (0, Line { bucket: 4, share: 0 }, true));
        assert!(all.line.has_passed(3, u64::MAX) && !all.line.has_passed(4, 0));
    }

    #[test]
    fn whoever_leaves_makes_room_once() {
        let rules = Rules { stock: 0, active: 1, ..SHOP };
        let mut ledger = Ledger::new(1);
        let answer = ledger.apply(&call(rules, &[], &[(0, 1), (0, 2)]), "a", 1_000);
        assert_eq!((answer.admitted, answer.active), (vec![(1, 1)], 1));
        let left = |ids: &[u64], wanting: &[(u32, u64)]| Call { left: ids.to_vec(), ..call(rules, &[], wanting) };
        assert_eq!(ledger.apply(&left(&[1, 1, 9], &[(0, 2), (0, 3)]), "a", 2_000).admitted, [(2, 2)]);
        assert_eq!(ledger.apply(&left(&[1], &[(0, 3)]), "a", 2_500).admitted, [], "it has left already");
        // And when its time is over.
        assert_eq!(ledger.apply(&left(&[], &[(0, 3)]), "a", 62_500).admitted, [(3, 3)]);
    }

    #[test]
    fn who_has_left_is_told_once_for_as_long_as_passes_are_good() {
        let rules = Rules { stock: 0, keep_s: 20, session_s: 600, ..SHOP };
        let mut ledger = Ledger::new(1);
        let leaves = |ids: std::ops::Range<u64>, law| {
            let gone = ids.map(|id| Candidate { bucket: 3, id }).collect();
            Call { law, gone, ..call(rules, &[], &[]) }
        };
        let learns = |ledger: &mut Ledger, known, at_ms| {
            let answer = ledger.apply(&Call { law: 2, gone_known: known, ..call(rules, &[], &[]) }, "b", at_ms);
            (answer.gone.iter().map(|gone| gone.id).collect::<Vec<_>>(), answer.gone_known)
        };
        let at = |ledger: &mut Ledger, at_ms, ids: std::ops::Range<u64>| ledger.apply(&leaves(ids, 2), "a", at_ms);
        at(&mut ledger, 1_000, 0..3);
        learns(&mut ledger, None, 1_000);
        let (first, known) = learns(&mut ledger, None, 1_000);
        assert_eq!(first, [0, 1, 2]);
        assert_eq!(learns(&mut ledger, known, 1_000), (vec![], known));
        // Of the same second, and more than fit into one answer.
        at(&mut ledger, 1_100, 3..5);
        at(&mut ledger, 1_200, 5..5 + LEARNED_MAX as u64);
        let (mut more, mut known) = learns(&mut ledger, known, 1_300);
        assert_eq!(more.len(), LEARNED_MAX);
        loop {
            let (rest, after) = learns(&mut ledger, known, 1_300);
            if rest.is_empty() {
                break;
            }
            more.extend(rest);
            known = after;
        }
        assert_eq!(more, (3..5 + LEARNED_MAX as u64).collect::<Vec<_>>());
        // An edge that begins is told of all of them, but for those whose passes are over.
        let mut now = 1_300;
        for _ in 0..300 {
            now += 1_000;
            learns(&mut ledger, None, now);
        }
        at(&mut ledger, now, 9_000..9_001);
        assert_eq!(learns(&mut ledger, None, now).0[0], 0, "tickets are long over, passes are not");
        let (gone, _) = learns(&mut ledger, known, now);
        assert_eq!(gone, [9_000]);
        for _ in 0..700 {
            now += 1_000;
            learns(&mut ledger, None, now);
        }
        at(&mut ledger, now, 9_001..9_002);
        assert_eq!(learns(&mut ledger, None, now).0, [9_001]);
        assert_eq!(ledger.apply(&leaves(0..0, 1), "a", now).gone, [], "older machines know nothing of it");
    }

    #[test]
    fn before_it_begins_places_count_and_nobody_is_called() {
        let closed = Rules { closed: true, ..SHOP };
        let mut ledger = Ledger::new(1);
        let answer = ledger.apply(&call(closed, &[(0, 9)], &[(0, 1)]), "a", 1_000);
        assert_eq!((answer.admitted, answer.waiting, answer.line, answer.open), (vec![], 9, Line::default(), false));
        let answer = ledger.apply(&call(SHOP, &[], &[(0, 1)]), "a", 2_000);
        assert_eq!((answer.admitted, answer.waiting), (vec![(1, 1)], 7), "three numbers: one given, two called");
    }

    #[test]
    fn a_signal_ends_it_and_another_begins_it_again() {
        let mut ledger = Ledger::new(1);
        let says = |over, id| Call { over, ..call(SHOP, &[], &[(0, id)]) };
        let answer = ledger.apply(&says(Some(true), 1), "a", 1_000);
        assert_eq!((answer.over, answer.given), (Some(Over::Signal), 0));
        assert_eq!(ledger.apply(&says(None, 1), "b", 1_001).over, Some(Over::Signal));
        assert_eq!(ledger.apply(&says(Some(false), 1), "b", 1_002).admitted, [(1, 1)]);
    }

    proptest! {
        #[test]
        fn whatever_is_called_no_more_is_given_than_there_is(
            stock in 1u64..20,
            active in 0u64..5,
            calls in proptest::collection::vec(
                (
                    proptest::collection::vec((0u32..50, 0u32..1000), 0..4),
                    proptest::collection::vec((0u32..50, 0u64..40), 0..10),
                    any::<u16>(),
                ),
                1..60,
            ),
        ) {
            let rules = Rules { stock, active, session_s: 30, ..SHOP };
            let mut ledger = Ledger::new(1);
            let mut numbers: BTreeMap<u64, u64> = BTreeMap::new();
            let mut line = Line::default();
            for (counted, wanting, at) in &calls {
                let answer = ledger.apply(&call(rules, counted, wanting), "a", u64::from(*at) + 1);
                prop_assert!(answer.given <= stock);
                prop_assert!(active == 0 || answer.active <= active);
                prop_assert!(answer.line >= line, "the line never moves back");
                line = answer.line;
                prop_assert!(answer.points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
                prop_assert!(answer.points.last().is_none_or(|(_, waiting)| *waiting == answer.waiting));
                for (id, number) in answer.admitted {
                    prop_assert_eq!(*numbers.entry(id).or_insert(number), number, "one number for one id");
                }
            }
            let mut given: Vec<u64> = numbers.values().copied().collect();
            given.sort_unstable();
            prop_assert!(given.windows(2).all(|pair| pair[0] < pair[1]), "no number is given twice");
            let text = serde_json::to_string(&ledger).unwrap();
            prop_assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
        }
    }
}
