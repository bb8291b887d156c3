//! A hierarchical timer wheel: six levels of 64 slots, one millisecond at the bottom, two years at the top.
//!
//! Insert, move and cancel are O(1): entries live in a slab and each slot is a doubly linked list of slab indices. An entry in a
//! higher level is handed down when its slot comes up, at most once per level.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::executor::WakerCell;
use crate::net::socket::SlotKey;
use crate::runtime::Shared;
use crate::table::Chunks;

/// What happens when an entry's time comes.
#[derive(Clone, Copy)]
pub(crate) enum Action {
    /// The task that polled it is woken.
    Wake,
    /// A connection that still had bytes to send at its end is closed.
    Linger(SlotKey),
}

pub(crate) struct Timers {
    origin: Instant,
    wheel: RefCell<Wheel>,
    /// Fired in this turn; kept to be used again.
    fired: Cell<Vec<Fired>>,
}

/// What is to be done now, and for which task.
type Fired = (Action, WakerCell);

impl Timers {
    pub fn new(now: Instant) -> Timers {
        Timers { origin: now, wheel: RefCell::new(Wheel::new()), fired: Cell::default() }
    }

    pub fn create(&self, action: Action) -> u32 {
        self.wheel.borrow_mut().create(action)
    }

    #[inline]
    pub fn set(&self, key: u32, at: Instant) {
        self.wheel.borrow_mut().set(key, self.tick_after(at));
    }

    /// Counts from the tick this turn began in, which spares the clock's arithmetic: up to a tick late, never early.
    #[inline]
    pub fn set_after(&self, key: u32, after: Duration) {
        let ticks = after.as_secs().saturating_mul(1000);
        let ticks = ticks.saturating_add(u64::from(after.subsec_nanos().div_ceil(1_000_000)) + 1);
        let mut wheel = self.wheel.borrow_mut();
        let tick = wheel.elapsed.saturating_add(ticks).min(NEVER - 1);
        wheel.set(key, tick);
    }

    #[inline]
    pub fn clear(&self, key: u32) {
        self.wheel.borrow_mut().entries[key].deadline = NEVER;
    }

    pub fn remove(&self, key: u32) {
        let waiting = self.wheel.borrow_mut().remove(key);
        // Dropping a foreign waker may run anything, so the wheel must not be borrowed here.
        drop(waiting);
    }

    #[inline]
    pub fn poll_expired(&self, key: u32, shared: &Arc<Shared>, task: &TaskContext<'_>) -> Poll<()> {
        let wheel = self.wheel.borrow();
        let entry = &wheel.entries[key];
        if entry.deadline <= wheel.elapsed {
            return Poll::Ready(());
        }
        entry.waiting.register(shared, task);
        Poll::Pending
    }

    /// Fires everything that is due and wakes whom it concerns.
    pub fn advance(&self, cx: &Context) {
        let tick = self.tick_before(cx.now.get());
        let mut fired = self.fired.take();
        {
            let mut wheel = self.wheel.borrow_mut();
            if tick <= wheel.elapsed {
                drop(wheel);
                self.fired.set(fired);
                return;
            }
            wheel.advance(tick, &mut fired);
        }
        cx.shared.counters.timers_fired.add(fired.len() as u64);
        for (action, waiting) in fired.drain(..) {
            match action {
                Action::Wake => waiting.wake(&cx.executor),
                Action::Linger(key) => crate::net::socket::linger_expired(cx, key),
            }
        }
        self.fired.set(fired);
    }

    /// Whole milliseconds of this worker, as of this turn.
    #[inline]
    pub fn elapsed_ms(&self) -> u64 {
        self.wheel.borrow().elapsed
    }

    /// How long the worker may sleep before the wheel needs it; `None` when nothing is set.
    pub fn next_after(&self, now: impl FnOnce() -> Instant) -> Option<Duration> {
        let tick = self.wheel.borrow().next_slot()?.2;
        Some((self.origin + Duration::from_millis(tick)).saturating_duration_since(now()))
    }

    /// Rounded up, so that nothing fires early. An `Instant` has room for times that ticks have none for, which are never.
    #[inline]
    fn tick_after(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.origin);
        let ticks = since.as_secs().saturating_mul(1000);
        ticks.saturating_add(u64::from(since.subsec_nanos().div_ceil(1_000_000))).min(NEVER - 1)
    }

    #[inline]
    fn tick_before(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.origin);
        since.as_secs() * 1000 + u64::from(since.subsec_millis())
    }
}

struct Wheel {
    /// Every tick up to and including this one has been handled.
    elapsed: u64,
    /// Heads of the slots' lists.
    slots: [[u32; SLOTS]; LEVELS],
    /// Which slots of a level have entries.
    occupied: [u64; LEVELS],
    entries: Chunks<Entry>,
    free: Vec<u32>,
}

/// One per connection: every word counts.
struct Entry {
    /// When the owner wants it; `NEVER` when cleared.
    deadline: u64,
    /// For which tick it stands in the wheel; meaningless while `slot` is `UNLINKED`.
    at: u64,
    next: u32,
    prev: u32,
    /// Of a lingering socket, the two parts of its key.
    waiting: WakerCell,
    slot: u16,
    lingers: bool,
}

impl Default for Entry {
    fn default() -> Entry {
        Entry {
            deadline: NEVER,
            at: 0,
            next: NO_KEY,
            prev: NO_KEY,
            waiting: WakerCell::new(),
            slot: UNLINKED,
            lingers: false,
        }
    }
}

impl Entry {
    fn new(action: Action) -> Entry {
        match action {
            Action::Wake => Entry::default(),
            Action::Linger(key) => {
                let waiting = WakerCell::with_numbers(key.index(), key.generation());
                Entry { waiting, lingers: true, ..Entry::default() }
            }
        }
    }

    /// What is to happen now.
    fn fire(&self) -> Fired {
        if self.lingers {
            let (index, generation) = self.waiting.numbers();
            (Action::Linger(SlotKey::new(index, generation)), WakerCell::new())
        } else {
            (Action::Wake, self.waiting.take())
        }
    }
}

impl Wheel {
    fn new() -> Wheel {
        Wheel {
            elapsed: 0,
            slots: [[NO_KEY; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
            entries: Chunks::default(),
            free: Vec::new(),
        }
    }

    fn create(&mut self, action: Action) -> u32 {
        let entry = Entry::new(action);
        match self.free.pop() {
            Some(key) => {
                self.entries[key] = entry;
                key
            }
            None => self.entries.push(entry),
        }
    }

    #[inline]
    fn set(&mut self, key: u32, tick: u64) {
        let entry = &mut self.entries[key];
        entry.deadline = tick;
        if entry.slot != UNLINKED {
            if tick >= entry.at {
                return;
            }
            self.unlink(key);
        }
        self.link(key);
    }

    fn remove(&mut self, key: u32) -> WakerCell {
        if self.entries[key].slot != UNLINKED {
            self.unlink(key);
        }
        self.free.push(key);
        self.entries[key].waiting.take()
    }

    fn link(&mut self, key: u32) {
        let deadline = self.entries[key].deadline;
        // Past deadlines fire with the next tick; those beyond the horizon come up there and are linked again.
        let at = deadline.clamp(self.elapsed + 1, self.elapsed + HORIZON);
        let level = level_of(self.elapsed, at);
        let slot = (at >> (level * SLOT_BITS)) as usize % SLOTS;
        let head = self.slots[level][slot];
        let entry = &mut self.entries[key];
        entry.at = at;
        entry.slot = (level * SLOTS + slot) as u16;
        entry.prev = NO_KEY;
        entry.next = head;
        if head != NO_KEY {
            self.entries[head].prev = key;
        }
        self.slots[level][slot] = key;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, key: u32) {
        let entry = &mut self.entries[key];
        let (prev, next) = (entry.prev, entry.next);
        let (level, slot) = (entry.slot as usize / SLOTS, entry.slot as usize % SLOTS);
        entry.slot = UNLINKED;
        if next != NO_KEY {
            self.entries[next].prev = prev;
        }
        if prev != NO_KEY {
            self.entries[prev].next = next;
        } else {
            self.slots[level][slot] = next;
            if next == NO_KEY {
                self.occupied[level] &= !(1 << slot);
            }
        }
    }

    /// The next slot that comes up: its level, index, and the tick at which it does.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        (0..LEVELS).find_map(|level| {
            let occupied = self.occupied[level];
            if occupied == 0 {
                return None;
            }
            let position = (self.elapsed >> (level * SLOT_BITS)) as usize % SLOTS;
            let ahead = occupied.rotate_right(position as u32).trailing_zeros() as usize;
            let slot = (position + ahead) % SLOTS;
            let span = 1u64 << (level * SLOT_BITS);
            let round = span << SLOT_BITS;
            let mut at = (self.elapsed & !(round - 1)) + slot as u64 * span;
            if at <= self.elapsed {
                at += round;
            }
            Some((level, slot, at))
        })
    }

    fn advance(&mut self, tick: u64, fired: &mut Vec<Fired>) {
        while let Some((level, slot, at)) = self.next_slot() {
            if at > tick {
                break;
            }
            self.elapsed = at;
            let mut key = std::mem::replace(&mut self.slots[level][slot], NO_KEY);
            self.occupied[level] &= !(1 << slot);
            while key != NO_KEY {
                let entry = &mut self.entries[key];
                let next = entry.next;
                entry.slot = UNLINKED;
                if entry.deadline <= at {
                    fired.push(entry.fire());
                } else if entry.deadline != NEVER {
                    self.link(key);
                }
                key = next;
            }
        }
        self.elapsed = tick;
    }
}

/// The level whose slot tells `at` apart from `elapsed`.
fn level_of(elapsed: u64, at: u64) -> usize {
    let differing = 63 - ((elapsed ^ at) | (SLOTS as u64 - 1)).leading_zeros() as usize;
    (differing / SLOT_BITS).min(LEVELS - 1)
}

const SLOT_BITS: usize = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 6;
/// Half of what the wheel spans, so that no slot can mean two rounds.
const HORIZON: u64 = 1 << (SLOT_BITS * LEVELS - 1);
const NEVER: u64 = u64::MAX;
const UNLINKED: u16 = u16::MAX;
const _: () = assert!(size_of::<Entry>() <= 48, "an entry has grown");
pub(crate) const NO_KEY: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_after_is_never_early_and_two_ticks_late_at_most() {
        let timers = Timers::new(Instant::now());
        let key = timers.create(Action::Wake);
        // This turn began somewhere in tick 10.
        timers.wheel.borrow_mut().elapsed = 10;
        let millis = Duration::from_millis;
        for (after, tick) in [
            (Duration::ZERO, 11),
            (Duration::from_nanos(1), 12),
            (millis(5), 16),
            (millis(70_001), 70_012),
            (Duration::MAX, NEVER - 1),
        ] {
            timers.set_after(key, after);
            assert_eq!(timers.wheel.borrow().entries[key].deadline, tick, "{after:?}");
        }
    }

    #[test]
    fn a_time_that_no_tick_has_room_for_never_comes() {
        let origin = Instant::now();
        let timers = Timers::new(origin);
        let key = timers.create(Action::Wake);
        for (seconds, tick) in [(5, 5_000), (u64::MAX / 1000, NEVER - 1), (3_600_000_000_000_000_000, NEVER - 1)] {
            let Some(at) = origin.checked_add(Duration::from_secs(seconds)) else { continue };
            timers.set(key, at);
            assert!(timers.wheel.borrow().entries[key].deadline.abs_diff(tick) <= 1000, "{seconds}");
        }
    }

    /// Advances in the given steps and returns at which `elapsed` each key was seen fired.
    fn check(deadlines: &[u64], steps: impl Iterator<Item = u64>) {
        let mut wheel = Wheel::new();
        let keys: Vec<u32> = deadlines
            .iter()
            .enumerate()
            .map(|(i, &deadline)| {
                let key = wheel.create(Action::Linger(SlotKey::new(i as u32, 0)));
                wheel.set(key, deadline);
                key
            })
            .collect();
        assert_eq!(keys.len(), deadlines.len());
        let mut before = 0;
        let mut seen = vec![false; deadlines.len()];
        for now in steps {
            let mut fired = Vec::new();
            wheel.advance(now, &mut fired);
            for (action, _) in fired {
                let Action::Linger(key) = action else { unreachable!() };
                let deadline = deadlines[key.index() as usize];
                assert!(deadline <= now && deadline > before, "deadline {deadline} fired in ({before}, {now}]");
                assert!(!std::mem::replace(&mut seen[key.index() as usize], true), "{deadline} fired twice");
            }
            before = now;
        }
        for (i, seen) in seen.iter().enumerate() {
            assert_eq!(*seen, deadlines[i] <= before, "deadline {} at {before}", deadlines[i]);
        }
    }

    #[test]
    fn fires_every_deadline_in_its_step() {
        let deadlines: Vec<u64> = (1..5000).map(|i| (i * i * 7919) % 300_000 + 1).collect();
        check(&deadlines, (0..300_002).step_by(1));
        check(&deadlines, (0..400_000).step_by(977));
        check(&[63, 64, 65, 127, 128, 4095, 4096, 4097, 262_143, 262_144], (0..300_000).step_by(1));
        check(&[1, 2, 1 << 30], [1 << 20, 1 << 31].into_iter());
    }

    #[test]
    fn deadlines_beyond_the_horizon_are_kept() {
        let far = HORIZON * 3 + 17;
        check(&[far], [HORIZON, HORIZON * 2, far - 1, far].into_iter());
    }

    #[test]
    fn later_deadlines_move_by_themselves_earlier_ones_are_moved() {
        let mut wheel = Wheel::new();
        let key = wheel.create(Action::Wake);
        wheel.set(key, 10);
        wheel.set(key, 500);
        let mut fired = Vec::new();
        wheel.advance(499, &mut fired);
        assert!(fired.is_empty());
        wheel.set(key, 502);
        wheel.set(key, 501);
        wheel.advance(500, &mut fired);
        assert!(fired.is_empty());
        wheel.advance(501, &mut fired);
        assert_eq!(fired.len(), 1);
        wheel.set(key, 600);
        wheel.entries[key].deadline = NEVER;
        wheel.advance(5000, &mut fired);
        assert_eq!(fired.len(), 1);
        assert!(wheel.next_slot().is_none());
    }

    #[test]
    fn a_million_timers_are_cheap() {
        let mut wheel = Wheel::new();
        let started = cpu_time();
        let keys: Vec<u32> = (0..1_000_000u64)
            .map(|i| {
                let key = wheel.create(Action::Wake);
                wheel.set(key, 1 + i * 7919 % 120_000);
                key
            })
            .collect();
        let mut fired = Vec::new();
        wheel.advance(60_000, &mut fired);
        assert!((490_000..510_000).contains(&fired.len()));
        for key in keys {
            drop(wheel.remove(key));
        }
        assert!(wheel.next_slot().is_none());
        let took = cpu_time() - started;
        assert!(took < Duration::from_secs(10), "{took:?}");
    }

    /// A million timers, set, moved, cleared and removed at random, against a heap that is sorted the slow way.
    #[test]
    fn a_million_timers_fire_as_from_a_heap() {
        let mut seed = 7u64;
        let mut random = move |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        const COUNT: u32 = 1_000_000;
        let mut wheel = Wheel::new();
        // What each timer is set to now; entries of the heap that say otherwise are outdated.
        let mut wanted = vec![NEVER; COUNT as usize];
        let mut heap = std::collections::BinaryHeap::new();
        let keys: Vec<u32> = (0..COUNT).map(|i| wheel.create(Action::Linger(SlotKey::new(i, 0)))).collect();
        let (mut now, mut fired, mut alive) = (0u64, Vec::new(), keys.len());
        let mut removed = vec![false; COUNT as usize];
        let set =
            |wheel: &mut Wheel, wanted: &mut Vec<u64>, heap: &mut std::collections::BinaryHeap<_>, i: u32, at: u64| {
                wheel.set(keys[i as usize], at);
                wanted[i as usize] = at;
                heap.push(std::cmp::Reverse((at, i)));
            };
        for i in 0..COUNT {
            let at = match random(4) {
                0 => 1 + random(100),
                1 => 1 + random(60_000),
                2 => 1 + random(10_000_000),
                _ => 75_000 + u64::from(i % 3),
            };
            set(&mut wheel, &mut wanted, &mut heap, i, at);
        }
        while now < 20_000_000 {
            for _ in 0..random(3000) {
                let i = random(u64::from(COUNT)) as u32;
                match random(4) {
                    _ if removed[i as usize] => {}
                    0 => {
                        wheel.entries[keys[i as usize]].deadline = NEVER;
                        wanted[i as usize] = NEVER;
                    }
                    1 if random(10) == 0 => {
                        drop(wheel.remove(keys[i as usize]));
                        (wanted[i as usize], removed[i as usize]) = (NEVER, true);
                        alive -= 1;
                    }
                    _ => {
                        let bits = 1 + random(24);
                        let at = now + random(1 << bits);
                        set(&mut wheel, &mut wanted, &mut heap, i, at);
                    }
                }
            }
            now += [1, 1, 3, 64, 1000, 70_000, 4_000_000][random(7) as usize];
            fired.clear();
            wheel.advance(now, &mut fired);
            let mut by_wheel: Vec<u32> = fired
                .iter()
                .map(|(action, _)| match action {
                    Action::Linger(key) => key.index(),
                    Action::Wake => unreachable!("none was made"),
                })
                .collect();
            let mut by_heap = Vec::new();
            while let Some(&std::cmp::Reverse((at, i))) = heap.peek().filter(|top| top.0.0 <= now) {
                heap.pop();
                if wanted[i as usize] == at {
                    wanted[i as usize] = NEVER;
                    by_heap.push(i);
                }
            }
            // Within one advance the order is by slots.
            by_wheel.sort_unstable();
            by_heap.sort_unstable();
            assert!(by_wheel == by_heap, "at {now}: {} fired, {} were due", by_wheel.len(), by_heap.len());
        }
        assert!(alive < keys.len(), "some were removed");
        assert_eq!(wheel.entries.iter().count(), keys.len(), "slots are used again");
    }

    /// Of this thread: the machine may be busy with other things.
    fn cpu_time() -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes one `timespec`.
        assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}
