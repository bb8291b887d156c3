//! An edge's side of a room: what a client with a ticket is told, and what the edge has to say to the [`Ledger`](crate::Ledger).
//!
//! All workers share one desk. It is asked [`Desk::turn`] for each poll; whoever carries messages takes a [`Desk::call`] now and
//! then and brings the [`Answer`] back with [`Desk::take`]. It keeps what is on its way, what the last answer said, and for a while
//! the numbers that were given here; each of these has a bound, and what is beyond it is counted and told to come again.

use crate::ledger::{Answer, CALL_MAX, Call, Candidate, LAW, LEARNED_MAX, Over, Rules};
use crate::seen::Seen;
use crate::ticket::{Ids, Ticket};
use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// What becomes of somebody who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Let in, with this number.
    In(u64),
    /// It is its turn; the number is being asked for. Look again in a moment.
    Asked,
    /// So many are before it; about so many seconds, where that is known.
    Wait { ahead: u64, seconds: Option<u64> },
    /// Nobody else is let in.
    Over(Over),
    /// It has been let in and has left: who comes again comes as somebody new.
    Spent,
}

/// Counts of one desk; each only grows.
#[derive(Debug, Default)]
pub struct Figures {
    /// Let in here.
    pub admitted: AtomicU64,
    /// Places that were counted.
    pub counted: AtomicU64,
    /// Places that were not counted because they had been before.
    pub repeats: AtomicU64,
    /// Told to come again because [`CALL_MAX`] were being asked for already.
    pub crowded: AtomicU64,
    /// Calls that were not answered.
    pub failed: AtomicU64,
    /// Users who have left and were forgotten before their passes were over, because there were too many.
    pub forgotten: AtomicU64,
    /// Milliseconds since 1970 at which the last answer was here.
    pub heard_ms: AtomicU64,
}

pub struct Desk {
    room: String,
    sale: String,
    /// And until when it has not begun, in milliseconds since 1970.
    rules: Mutex<(Rules, u64)>,
    view: ArcSwap<Answer>,
    /// When somebody asked last, in milliseconds since 1970; 0: never.
    asked_ms: AtomicU64,
    /// When numbers were given here last, in milliseconds since 1970; 0: never.
    given_ms: AtomicU64,
    /// As the seed was last.
    ids: ArcSwapOption<Ids>,
    work: Mutex<Work>,
    departed: RwLock<Departed>,
    pub figures: Figures,
}

/// Users who have left, here or over another edge. Apart from the rest, and for many readers: it is looked at with every request that
/// shows a pass, on every worker, while calls are written and answers are taken.
#[derive(Default)]
struct Departed {
    /// By id: up to which bucket passes of theirs are good no more.
    up_to: HashMap<u64, u32>,
    order: VecDeque<u64>,
}

struct Work {
    counted: BTreeMap<u32, u32>,
    wanting: HashMap<u64, Wanting>,
    left: Vec<Candidate>,
    over: Option<bool>,
    /// Numbers that were given here and when, for those who come back with their tickets.
    numbers: HashMap<u64, (u64, u64)>,
    order: VecDeque<u64>,
    /// Ids whose tickets up to this bucket have had their number. Cleared when it is full: the ledger knows.
    spent: HashMap<u64, u32>,
    /// Of a room where the set of numbers is final once all are given: the ids of the first so many numbers.
    learned: Option<HashMap<u64, u64>>,
    /// Ids that have no number although all are given: they never will. Cleared when there are more, and when it is full.
    refused: HashMap<u64, ()>,
    /// The ledger had more to tell of who left than fits into an answer.
    more: bool,
    /// Up to whom the ledger has told who left.
    gone_known: Option<(u64, u32)>,
    seen: Seen,
    called_ms: u64,
}

#[derive(Clone, Copy)]
struct Wanting {
    bucket: u32,
    /// Its client has not shown that it keeps cookies.
    first: bool,
}

impl Desk {
    /// It begins at `starts_ms`, since 1970.
    pub fn new(room: &str, sale: &str, rules: Rules, starts_ms: u64) -> Desk {
        let work = Work {
            counted: BTreeMap::new(),
            wanting: HashMap::new(),
            left: Vec::new(),
            over: None,
            numbers: HashMap::new(),
            order: VecDeque::new(),
            spent: HashMap::new(),
            learned: None,
            refused: HashMap::new(),
            more: false,
            gone_known: None,
            seen: Seen::new(SEEN_MS),
            called_ms: 0,
        };
        Desk {
            room: room.to_owned(),
            sale: sale.to_owned(),
            rules: Mutex::new((rules, starts_ms)),
            view: ArcSwap::default(),
            asked_ms: AtomicU64::new(0),
            given_ms: AtomicU64::new(0),
            ids: ArcSwapOption::empty(),
            work: Mutex::new(work),
            departed: RwLock::default(),
            figures: Figures::default(),
        }
    }

    pub fn room(&self) -> &str {
        &self.room
    }

    pub fn sale(&self) -> &str {
        &self.sale
    }

    /// The document has changed.
    pub fn set_rules(&self, rules: Rules, starts_ms: u64) {
        *lock(&self.rules) = (rules, starts_ms);
    }

    /// The id of whoever has this key; `None` until the cluster has said how ids follow from keys.
    pub fn id_of(&self, key: &[u8]) -> Option<u64> {
        let seed = self.view().seed;
        if seed == 0 {
            return None;
        }
        if let Some(ids) = self.ids.load().as_ref().filter(|ids| ids.seed() == seed) {
            return Some(ids.of(key));
        }
        let ids = Arc::new(Ids::new(seed, &self.room));
        let id = ids.of(key);
        self.ids.store(Some(ids));
        Some(id)
    }

    /// What the ledger said last.
    pub fn view(&self) -> Guard<Arc<Answer>> {
        self.view.load()
    }

    /// Somebody is there, so that the ledger is to be asked how things are. Whoever is refused comes this way: a time that is hardly
    /// older is left alone, because all workers share it.
    pub fn visit(&self, now_ms: u64) {
        if now_ms.saturating_sub(self.asked_ms.load(Ordering::Relaxed)) >= VISIT_MS {
            self.asked_ms.fetch_max(now_ms, Ordering::Relaxed);
        }
    }

    /// The place of this ticket counts from now on; false when it did before.
    pub fn count(&self, ticket: &Ticket, now_ms: u64) -> bool {
        self.visit(now_ms);
        let mut work = lock(&self.work);
        if work.seen.note(ticket.id, now_ms) {
            self.figures.repeats.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        if work.counted.len() < CALL_MAX || work.counted.contains_key(&ticket.bucket) {
            *work.counted.entry(ticket.bucket).or_default() += 1;
        }
        self.figures.counted.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Whether somebody who has just come may be asked for at once: there is room, and nobody waits for it.
    pub fn is_open(&self) -> bool {
        let view = self.view();
        view.open && view.over.is_none()
    }

    /// Where somebody with this ticket stands. `now_ms` since 1970. `first`: it is a client that has not shown that it keeps cookies.
    pub fn turn(&self, ticket: &Ticket, first: bool, now_ms: u64) -> Turn {
        let view = self.view();
        let called = view.line.has_passed(ticket.bucket, ticket.id) || view.open;
        self.visit(now_ms);
        let mut work = lock(&self.work);
        if let Some(turn) = work.known(ticket, now_ms) {
            return turn;
        }
        if !called {
            drop(work);
            return match view.over {
                Some(over) => Turn::Over(over),
                None => wait(&view, ticket),
            };
        }
        // Also when it is over, once: the number may have been given over another edge.
        if let Some(over) = view.over
            && work.refused.contains_key(&ticket.id)
        {
            return Turn::Over(over);
        }
        if view.over.is_none() && !work.refused.is_empty() {
            work.refused.clear();
        }
        if work.wanting.len() < CALL_MAX || work.wanting.contains_key(&ticket.id) {
            work.wanting.insert(ticket.id, Wanting { bucket: ticket.bucket, first });
            return Turn::Asked;
        }
        drop(work);
        self.figures.crowded.fetch_add(1, Ordering::Relaxed);
        Turn::Wait { ahead: 0, seconds: Some(1) }
    }

    /// Where somebody stands whose id was drawn just now, so that nothing can be known of it.
    pub fn stands_new(&self, ticket: &Ticket) -> Turn {
        let view = self.view();
        match view.over {
            Some(over) => Turn::Over(over),
            None => wait(&view, ticket),
        }
    }

    /// Whether it is over for whoever has nothing to show, whatever key they have: nobody has been given a number here so lately that it
    /// would be told again without a ticket. When a shop is sold out nearly all who come are told from here, and neither a key is looked
    /// up for that nor a lock taken that all workers share.
    pub fn is_over_for_strangers(&self, now_ms: u64) -> bool {
        self.view().over.is_some() && now_ms.saturating_sub(self.given_ms.load(Ordering::Relaxed)) >= NUMBER_MS
    }

    /// Where somebody with this ticket stands, without asking for its number.
    pub fn stands(&self, ticket: &Ticket, now_ms: u64) -> Turn {
        let view = self.view();
        let known = lock(&self.work).known(ticket, now_ms);
        match (known, view.over) {
            (Some(turn), _) => turn,
            (None, Some(over)) => Turn::Over(over),
            (None, None) => wait(&view, ticket),
        }
    }

    /// Asks for the number of an id that needs no turn, in a room that nobody leaves. Once all numbers are given and their ids are known
    /// here, nobody is asked for any more: whoever makes up ids costs the cluster nothing.
    pub fn ask(&self, id: u64, now_ms: u64) -> Turn {
        let (over, given) = {
            let view = self.view();
            (view.over, view.given)
        };
        self.visit(now_ms);
        let mut work = lock(&self.work);
        let learned = work.learned.get_or_insert_default();
        let all = learned.len() as u64 >= given;
        if let Some(number) = learned.get(&id).copied().or_else(|| work.numbers.get(&id).map(|(number, _)| *number)) {
            return Turn::In(number);
        }
        match over {
            Some(Over::Stock) if all => return Turn::Over(Over::Stock),
            Some(over) if over == Over::Signal || work.refused.contains_key(&id) => return Turn::Over(over),
            Some(_) => {}
            None => work.refused.clear(),
        }
        if work.wanting.len() < CALL_MAX || work.wanting.contains_key(&id) {
            work.wanting.insert(id, Wanting { bucket: 0, first: false });
            return Turn::Asked;
        }
        drop(work);
        self.figures.crowded.fetch_add(1, Ordering::Relaxed);
        Turn::Wait { ahead: 0, seconds: Some(1) }
    }

    /// The same for one who was asked for and is looked after again: nothing is asked for anew.
    pub fn answered(&self, id: u64, bucket: u32) -> Option<Turn> {
        let view = self.view();
        let work = lock(&self.work);
        if let Some((number, _)) = work.numbers.get(&id) {
            return Some(Turn::In(*number));
        }
        if work.wanting.contains_key(&id) {
            return None;
        }
        if work.spent.get(&id).is_some_and(|spent| bucket <= *spent) {
            return Some(Turn::Spent);
        }
        Some(match view.over {
            Some(over) => Turn::Over(over),
            None => Turn::Wait { ahead: 0, seconds: None },
        })
    }

    /// A user has left whom a ticket of this bucket let in.
    pub fn leave(&self, id: u64, bucket: u32) {
        let mut work = lock(&self.work);
        work.numbers.remove(&id);
        work.spend(id, bucket);
        if work.left.len() < CALL_MAX {
            work.left.push(Candidate { bucket, id });
        }
        drop(work);
        self.depart(&[Candidate { bucket, id }]);
    }

    /// Whether the user has left whom a ticket of this bucket let in: its pass is good no more, though it was kept. Here that is known at
    /// once, on other edges as soon as the ledger has told them.
    pub fn has_left(&self, id: u64, bucket: u32) -> bool {
        let departed = self.departed.read().unwrap_or_else(PoisonError::into_inner);
        departed.up_to.get(&id).is_some_and(|left| bucket <= *left)
    }

    fn depart(&self, gone: &[Candidate]) {
        if gone.is_empty() {
            return;
        }
        let mut departed = self.departed.write().unwrap_or_else(PoisonError::into_inner);
        let Departed { up_to, order } = &mut *departed;
        for gone in gone {
            if let Some(left) = up_to.get_mut(&gone.id) {
                *left = gone.bucket.max(*left);
                continue;
            }
            up_to.insert(gone.id, gone.bucket);
            order.push_back(gone.id);
            if order.len() > DEPARTED_MAX
                && let Some(oldest) = order.pop_front()
            {
                up_to.remove(&oldest);
                self.figures.forgotten.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// There is nothing left (`true`), or there is again. Says whether that is news.
    pub fn signal(&self, over: bool, now_ms: u64) -> bool {
        let known = self.view().over == Some(Over::Signal);
        self.visit(now_ms);
        let mut work = lock(&self.work);
        if known == over && work.over.is_none_or(|said| said == over) || work.over == Some(over) {
            return false;
        }
        work.over = Some(over);
        drop(work);
        if over {
            // Here at once; elsewhere as soon as the ledger has it.
            self.view.rcu(|view| {
                let over = view.over.or(Some(Over::Signal));
                Answer { over, open: false, ..Answer::clone(view) }
            });
        }
        true
    }

    /// What is to be said; `None` when there is nothing, and nobody has asked for a while.
    pub fn call(&self, now_ms: u64) -> Option<Call> {
        let mut work = lock(&self.work);
        // An edge that has just started knows of nobody who left, and lets their passes in until it is told.
        let more = std::mem::take(&mut work.more);
        let urgent = more || !work.wanting.is_empty() || !work.left.is_empty() || work.over.is_some();
        let asked_ms = self.asked_ms.load(Ordering::Relaxed);
        let asked = asked_ms > 0 && now_ms.saturating_sub(asked_ms) < ASKED_MS;
        let due = now_ms.saturating_sub(work.called_ms) >= QUIET_MS;
        if !urgent && !(due && (asked || !work.counted.is_empty())) {
            return None;
        }
        work.called_ms = now_ms;
        let (rules, starts_ms) = *lock(&self.rules);
        let rules = Rules { closed: now_ms < starts_ms, ..rules };
        let wanting = work.wanting.iter().map(|(id, of)| Candidate { bucket: of.bucket, id: *id }).collect();
        let first = work.wanting.iter().filter(|(_, of)| of.first).map(|(id, _)| *id).collect();
        Some(Call {
            room: self.room.clone(),
            sale: self.sale.clone(),
            rules,
            counted: std::mem::take(&mut work.counted).into_iter().collect(),
            wanting,
            left: Vec::new(),
            over: work.over,
            law: LAW,
            gone: std::mem::take(&mut work.left),
            first,
            known: work.learned.as_ref().map(|learned| learned.len() as u64),
            gone_known: work.gone_known,
        })
    }

    /// The answer to a call.
    pub fn take(&self, call: &Call, answer: Answer, now_ms: u64) {
        let mut work = lock(&self.work);
        for candidate in &call.wanting {
            work.wanting.remove(&candidate.id);
        }
        if !answer.admitted.is_empty() {
            self.given_ms.fetch_max(now_ms, Ordering::Relaxed);
        }
        for (id, number) in &answer.admitted {
            work.spent.remove(id);
            if work.numbers.insert(*id, (*number, now_ms)).is_none() {
                work.order.push_back(*id);
                self.figures.admitted.fetch_add(1, Ordering::Relaxed);
            }
        }
        for id in &answer.spent {
            let asked = call.wanting.iter().find(|candidate| candidate.id == *id);
            work.numbers.remove(id);
            work.spend(*id, asked.map_or(0, |candidate| candidate.bucket));
        }
        if let (Some(known), Some(learned)) = (call.known, &mut work.learned)
            && learned.len() as u64 == known
        {
            learned.extend(answer.learned.iter().zip(known + 1..).map(|(id, number)| (*id, number)));
        }
        if call.gone_known == work.gone_known && answer.gone_known.is_some() {
            work.gone_known = answer.gone_known;
            work.more = answer.gone.len() >= LEARNED_MAX;
        }
        self.depart(&answer.gone);
        if answer.over.is_some() {
            for candidate in &call.wanting {
                if work.refused.len() >= NUMBERS_MAX {
                    work.refused.clear();
                }
                if !work.numbers.contains_key(&candidate.id) {
                    work.refused.insert(candidate.id, ());
                }
            }
        }
        while work.order.len() > NUMBERS_MAX {
            if let Some(id) = work.order.pop_front() {
                work.numbers.remove(&id);
            }
        }
        let mut answer = answer;
        if work.over == call.over {
            work.over = None;
        } else if work.over == Some(true) {
            answer.over = answer.over.or(Some(Over::Signal));
        }
        answer.admitted.clear();
        answer.spent.clear();
        answer.learned.clear();
        answer.gone.clear();
        self.view.store(Arc::new(answer));
        self.figures.heard_ms.store(now_ms, Ordering::Relaxed);
    }

    /// The call was not answered: it may have been carried out or not. What it said is said again, which changes nothing but that
    /// some places may count twice and the queue look longer.
    pub fn take_back(&self, call: Call) {
        let mut work = lock(&self.work);
        for (bucket, places) in call.counted {
            *work.counted.entry(bucket).or_default() += places;
        }
        work.left.extend(call.gone);
        work.left.truncate(CALL_MAX);
        // Whoever still waits asks again; those who have gone would stay otherwise.
        for candidate in &call.wanting {
            work.wanting.remove(&candidate.id);
        }
        self.figures.failed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Work {
    /// What is known here of a ticket that has had its turn. A number that was given a while ago is asked for again: its user may have
    /// left over another edge.
    fn known(&self, ticket: &Ticket, now_ms: u64) -> Option<Turn> {
        if let Some((number, given_ms)) = self.numbers.get(&ticket.id)
            && now_ms.saturating_sub(*given_ms) < NUMBER_MS
        {
            return Some(Turn::In(*number));
        }
        self.spent.get(&ticket.id).is_some_and(|spent| ticket.bucket <= *spent).then_some(Turn::Spent)
    }

    fn spend(&mut self, id: u64, bucket: u32) {
        if self.spent.len() >= NUMBERS_MAX {
            self.spent.clear();
        }
        let spent = self.spent.entry(id).or_default();
        *spent = bucket.max(*spent);
    }
}

/// How many wait before a ticket: between two points of the queue places are taken to be spread evenly.
fn wait(view: &Answer, ticket: &Ticket) -> Turn {
    let within = (ticket.id >> 32) as f64 / 2f64.powi(32);
    let at = view.points.partition_point(|(bucket, _)| *bucket <= ticket.bucket);
    let ahead = match (at.checked_sub(1).map(|at| view.points[at]), view.points.get(at)) {
        (None, _) => 0,
        (Some((_, all)), None) => all,
        (Some((from, before)), Some((to, after))) => {
            let mut share = (f64::from(ticket.bucket - from) + within) / f64::from(to - from);
            if from == view.line.bucket && to - from == 1 {
                let passed = f64::from(view.line.share) / 2f64.powi(32);
                share = ((within - passed) / (1.0 - passed).max(f64::EPSILON)).clamp(0.0, 1.0);
            }
            before + ((after - before) as f64 * share) as u64
        }
    };
    let seconds = (ahead + 1).saturating_mul(1000).checked_div(view.pace_milli);
    Turn::Wait { ahead, seconds }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For so long a place that was counted is not counted again: longer than a ticket whose place does not count may be used.
const SEEN_MS: u64 = 60_000;
/// A visit that is so much later than the one before is taken note of.
const VISIT_MS: u64 = 100;
/// Somebody asked within so many milliseconds: the ledger is asked how things are.
const ASKED_MS: u64 = 10_000;
/// Least time between two calls with nothing that somebody waits for.
const QUIET_MS: u64 = 200;
/// For so long after it was given a number is told again without asking.
const NUMBER_MS: u64 = 5_000;
/// Users who have left that are known at a time: about 5 MB.
const DEPARTED_MAX: usize = 131_072;
/// Numbers that are kept for those who come back over this edge.
const NUMBERS_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Ledger, Line};

    const RULES: Rules =
        Rules { stock: 2, interval_us: 0, burst: 1, active: 0, session_s: 60, keep_s: 0, grace_s: 10, closed: false };

    fn ticket(bucket: u32, id: u64) -> Ticket {
        Ticket { id, bucket, counted: true, issued_ms: 0, told_s: 0 }
    }

    fn exchange(desk: &Desk, ledger: &mut Ledger, now: u64) {
        let call = desk.call(now).expect("somebody has asked");
        let answer = ledger.apply(&call, "edge", now);
        desk.take(&call, answer, now);
    }

    #[test]
    fn from_a_ticket_to_a_number() {
        let (desk, mut ledger) = (Desk::new("r", "", RULES, 0), Ledger::new(1));
        assert!(desk.call(1_000).is_none(), "nobody is there");
        assert!(desk.count(&ticket(0, 1 << 40), 1_000));
        assert!(!desk.count(&ticket(0, 1 << 40), 1_001), "its place counts once");
        assert!(matches!(desk.turn(&ticket(0, 1 << 40), false, 1_001), Turn::Wait { ahead: 0, .. }));
        exchange(&desk, &mut ledger, 1_010);
        assert_eq!(desk.turn(&ticket(0, 1 << 40), false, 1_020), Turn::Asked);
        assert_eq!(desk.answered(1 << 40, 0), None);
        exchange(&desk, &mut ledger, 1_030);
        assert_eq!(desk.turn(&ticket(0, 1 << 40), false, 1_040), Turn::In(1));
        // There is room and nobody waits: whoever comes is asked for at once, until it is over.
        assert!(desk.is_open());
        assert_eq!(desk.turn(&ticket(5, 9), false, 1_050), Turn::Asked);
        assert_eq!(desk.turn(&ticket(5, 10), false, 1_050), Turn::Asked);
        exchange(&desk, &mut ledger, 1_060);
        let turns = [desk.answered(9, 5), desk.answered(10, 5)];
        assert!(turns.contains(&Some(Turn::In(2))) && turns.contains(&Some(Turn::Over(Over::Stock))), "{turns:?}");
    }

    #[test]
    fn when_it_is_over_strangers_are_told_so_once_no_number_is_fresh() {
        let (desk, mut ledger) = (Desk::new("r", "", RULES, 0), Ledger::new(1));
        assert!(!desk.is_over_for_strangers(1_000), "it has not begun");
        desk.count(&ticket(0, 1 << 40), 1_000);
        exchange(&desk, &mut ledger, 1_010);
        assert_eq!(desk.turn(&ticket(0, 1 << 40), false, 1_020), Turn::Asked);
        exchange(&desk, &mut ledger, 1_030);
        assert!(!desk.is_over_for_strangers(9_000), "there is one left");
        assert!(desk.signal(true, 1_040));
        // Who has just been given one, and whose answer was lost, comes again with a key alone.
        assert_eq!(desk.stands(&ticket(0, 1 << 40), 1_030 + NUMBER_MS - 1), Turn::In(1));
        assert!(!desk.is_over_for_strangers(1_030 + NUMBER_MS - 1));
        assert_eq!(desk.stands(&ticket(0, 1 << 40), 1_030 + NUMBER_MS), Turn::Over(Over::Signal));
        assert!(desk.is_over_for_strangers(1_030 + NUMBER_MS));
        assert!(desk.signal(false, 20_000));
        exchange(&desk, &mut ledger, 20_000);
        assert!(!desk.is_over_for_strangers(20_001), "it goes on");
    }

    #[test]
    fn a_signal_is_heard_here_at_once_and_said_until_it_is_answered() {
        let (desk, mut ledger) = (Desk::new("r", "", RULES, 0), Ledger::new(1));
        assert!(desk.signal(true, 1_000));
        assert!(!desk.signal(true, 1_000), "it is known");
        assert_eq!(desk.turn(&ticket(3, 1), false, 1_000), Turn::Over(Over::Signal));
        let lost = desk.call(1_001).unwrap();
        assert_eq!(lost.over, Some(true));
        desk.take_back(lost);
        exchange(&desk, &mut ledger, 1_500);
        assert_eq!(desk.view().over, Some(Over::Signal));
        assert!(desk.signal(false, 1_600));
        exchange(&desk, &mut ledger, 1_700);
        assert_eq!(desk.view().over, None);
    }

    #[test]
    fn who_has_left_is_known_on_every_edge_and_comes_again_as_somebody_new() {
        let (one, other, mut ledger) = (Desk::new("r", "", RULES, 0), Desk::new("r", "", RULES, 0), Ledger::new(1));
        one.leave(7, 3);
        assert!(one.has_left(7, 3) && one.has_left(7, 2) && !one.has_left(7, 4) && !one.has_left(8, 0));
        assert!(!other.has_left(7, 3));
        exchange(&one, &mut ledger, 1_000);
        other.visit(1_000);
        exchange(&other, &mut ledger, 1_010);
        assert!(other.has_left(7, 3) && !other.has_left(7, 4));
        // Neither forgets by being told something else, or by an answer that was lost.
        one.leave(9, 1);
        let lost = one.call(1_300).unwrap();
        one.take_back(lost);
        exchange(&one, &mut ledger, 1_600);
        other.visit(1_700);
        exchange(&other, &mut ledger, 1_700);
        assert!(other.has_left(9, 1) && other.has_left(7, 3) && one.has_left(7, 3));
        // An edge that starts is told of all of them as fast as it can ask, and then asks as seldom as before.
        for id in 0..3 * LEARNED_MAX as u64 {
            one.leave(1 << 40 | id, 1);
            if id % 256 == 0 {
                exchange(&one, &mut ledger, 1_700 + id);
            }
        }
        exchange(&one, &mut ledger, 5_000);
        let fresh = Desk::new("r", "", RULES, 0);
        fresh.visit(5_000);
        let mut answers = 0;
        while let Some(call) = fresh.call(5_000) {
            let answer = ledger.apply(&call, "edge", 5_000);
            fresh.take(&call, answer, 5_000);
            answers += 1;
        }
        assert_eq!(answers, 4, "each full answer is followed by a question at once");
        assert!(fresh.has_left(1 << 40 | (3 * LEARNED_MAX as u64 - 1), 1) && fresh.has_left(7, 3));
        // No more are kept than there may be.
        for id in 0..DEPARTED_MAX as u64 + 10 {
            one.leave(1_000 + id, 0);
        }
        assert!(!one.has_left(7, 3) && one.has_left(1_000 + DEPARTED_MAX as u64, 0));
        assert_eq!(one.figures.forgotten.load(Ordering::Relaxed), 12 + 3 * LEARNED_MAX as u64);
    }

    #[test]
    fn positions_are_between_those_before_and_those_behind() {
        let desk = Desk::new("r", "", RULES, 0);
        let answer = Answer {
            line: Line { bucket: 2, share: 1 << 31 },
            points: vec![(2, 0), (3, 10), (9, 70)],
            pace_milli: 2_000,
            ..Answer::default()
        };
        desk.take(&Call::default(), answer, 1);
        let ahead = |bucket, id| match desk.turn(&ticket(bucket, id), false, 1) {
            Turn::Wait { ahead, seconds } => (ahead, seconds),
            other => panic!("{other:?}"),
        };
        assert_eq!(ahead(2, 0xC000_0000_0000_0000), (5, Some(3)));
        assert_eq!(ahead(3, 0), (10, Some(5)));
        assert_eq!(ahead(6, 0).0, 40);
        assert_eq!(ahead(100, 0).0, 70);
        assert_eq!(desk.turn(&ticket(2, 1), false, 1), Turn::Asked, "its turn has come");
    }
}
