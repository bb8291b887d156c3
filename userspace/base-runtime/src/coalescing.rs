//! Leaving events to gather before a worker wakes for them, as network cards do with interrupts.
//!
//! A worker with some work but not enough to stay awake sleeps and wakes for nearly every message. That costs more than the message:
//! on a virtual machine both ends of a sleep leave the guest, and what runs next finds cold caches. So when wakes come closer together
//! than `interval` allows, the worker lets that time pass from one wake to the next and finds several messages at once.
//!
//! The price is latency, so CPU must be short: a worker begins with pauses only when without them it was busy for three quarters of a
//! window (CPU time of its thread, the figure that `weir_worker_busy_ratio` shows), and ends when with them it is busy for less than
//! two fifths. Between the two lies what pauses save, about a third; were they one, it would go back and forth. Once a second it looks
//! without pauses whether CPU is still short.
//!
//! Whoever waits for an answer before asking again pays for that with throughput, and a worker cannot see who does. It therefore tries:
//! a window of time without pauses, then one with them, and pauses stay only when as much got done. Where less got done they are left
//! alone for a second, then for two, at most for half a minute. A worker that is woken rarely, or has no time to sleep, never pauses.

use std::time::{Duration, Instant};

/// When one worker lets events gather. Pure: it is told the time and what was done.
#[derive(Debug)]
pub(crate) struct Coalescing {
    /// Time from one wake to the next while it pauses; zero: it never does.
    interval: Duration,
    mode: Mode,
    /// Of the window.
    began: Instant,
    sleeps: u32,
    work_before: u64,
    /// CPU time when it began.
    busy_before: Duration,
    /// Part of the time a worker that is short of CPU is busy.
    busy_from: f64,
    /// Of the last window without pauses: work per second.
    pace: f64,
    /// How long pauses are left alone after the next trial that fails.
    retreat: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    /// Without pauses, and looking whether they would help.
    Watching,
    /// With pauses, and looking whether as much gets done.
    Trial,
    /// With pauses, for so many windows.
    Pausing(u32),
    /// Without, because they did harm.
    Retreated { until: Instant },
}

impl Coalescing {
    pub fn new(interval: Duration, busy_percent: u32, now: Instant) -> Coalescing {
        let (mode, pace, retreat) = (Mode::Watching, 0.0, RETREAT_LEAST);
        let (busy_before, busy_from) = (Duration::ZERO, f64::from(busy_percent) / 100.0);
        Coalescing { interval, mode, began: now, sleeps: 0, work_before: 0, busy_before, busy_from, pace, retreat }
    }

    pub fn is_on(&self) -> bool {
        !self.interval.is_zero()
    }

    /// The worker, awake since `woke`, has nothing left to do, and has done `work` in all its life, in the CPU time that `busy` asks
    /// for: how long to leave alone what comes in.
    pub fn pause(
        &mut self,
        now: Instant,
        woke: Instant,
        work: u64,
        busy: impl FnOnce() -> Duration,
    ) -> Option<Duration> {
        self.sleeps += 1;
        let length = now.saturating_duration_since(self.began);
        if length >= WINDOW {
            self.judge(now, length, work, busy());
        }
        match self.mode {
            Mode::Watching | Mode::Retreated { .. } => None,
            Mode::Trial | Mode::Pausing(_) => {
                let left = (woke + self.interval).saturating_duration_since(now);
                (left >= SHORTEST).then_some(left)
            }
        }
    }

    fn judge(&mut self, now: Instant, length: Duration, work: u64, busy: Duration) {
        let done = work - self.work_before;
        let share = busy.saturating_sub(self.busy_before).as_secs_f64() / length.as_secs_f64();
        let pace = done as f64 / length.as_secs_f64();
        self.mode = match self.mode {
            Mode::Watching => {
                self.pace = pace;
                // Wakes come closer together than the interval, and with them more than one thing to do in each.
                let often = self.interval * self.sleeps > length;
                let short_of_cpu = share >= self.busy_from;
                if short_of_cpu && often && self.interval.mul_f64(done as f64) > length {
                    Mode::Trial
                } else {
                    Mode::Watching
                }
            }
            Mode::Trial if pace < self.pace * KEPT => {
                let until = now + self.retreat;
                self.retreat = (self.retreat * 2).min(RETREAT_MOST);
                Mode::Retreated { until }
            }
            Mode::Trial => Mode::Pausing(WINDOWS),
            Mode::Pausing(_) if share < self.busy_from * STILL_BUSY => Mode::Watching,
            // Too little comes for anything to gather.
            Mode::Pausing(_) if done < u64::from(self.sleeps) => Mode::Watching,
            Mode::Pausing(0) => {
                self.retreat = RETREAT_LEAST;
                Mode::Watching
            }
            Mode::Pausing(left) => Mode::Pausing(left - 1),
            Mode::Retreated { until } if now < until => self.mode,
            Mode::Retreated { .. } => Mode::Watching,
        };
        (self.began, self.sleeps, self.work_before, self.busy_before) = (now, 0, work, busy);
    }
}

/// What is judged at a time: a few hundred messages where pauses can help.
const WINDOW: Duration = Duration::from_millis(20);

/// Windows with pauses before one without is looked at again.
const WINDOWS: u32 = 50;

/// So much of the work must get done in spite of pauses; in 20 ms arrivals vary by some 5 in 100.
const KEPT: f64 = 0.85;

/// With pauses it is busy for a third less; below half of where it began there is CPU enough also without.
const STILL_BUSY: f64 = 0.53;

/// A shorter pause is not worth its two system calls.
const SHORTEST: Duration = Duration::from_micros(20);

const RETREAT_LEAST: Duration = Duration::from_secs(1);
const RETREAT_MOST: Duration = Duration::from_secs(32);

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    const INTERVAL: Duration = Duration::from_micros(200);
    /// What a message costs the worker, usually.
    const COST: Duration = Duration::from_micros(15);
    /// And what a wake costs it.
    const WAKE: Duration = Duration::from_micros(16);

    /// A worker and those who send to it, in simulated time.
    struct World {
        coalescing: Coalescing,
        cost: Duration,
        now: Instant,
        woke: Instant,
        work: u64,
        busy: Duration,
        paused: u64,
        slept: u64,
        /// Messages to come, by time.
        due: BinaryHeap<Reverse<Instant>>,
    }

    impl World {
        fn new(interval: Duration) -> World {
            let now = Instant::now();
            let coalescing = Coalescing::new(interval, 75, now);
            World {
                coalescing,
                cost: COST,
                now,
                woke: now,
                work: 0,
                busy: Duration::ZERO,
                paused: 0,
                slept: 0,
                due: BinaryHeap::new(),
            }
        }

        /// Serves what is due for `time`; `next` says when the sender of a message that was served sends again.
        fn run(&mut self, time: Duration, mut next: impl FnMut(Instant) -> Option<Instant>) {
            let end = self.now + time;
            while self.now < end {
                if self.due.peek().is_some_and(|due| due.0 <= self.now) {
                    self.due.pop();
                    self.now += self.cost;
                    self.busy += self.cost;
                    self.work += 1;
                    self.due.extend(next(self.now).map(Reverse));
                    continue;
                }
                self.slept += 1;
                if let Some(pause) = self.coalescing.pause(self.now, self.woke, self.work, || self.busy) {
                    self.paused += 1;
                    self.now += pause;
                } else {
                    self.now = self.due.peek().map_or(end, |due| due.0).max(self.now);
                }
                self.woke = self.now;
                self.now += WAKE;
                self.busy += WAKE;
            }
        }

        /// Messages at a rate, whoever was served; wakes and messages per second come back.
        fn at_rate(&mut self, per_second: u32, time: Duration) -> (f64, f64) {
            let (gap, start) = (Duration::from_secs(1) / per_second, self.now);
            self.due =
                (0..(time.as_secs_f64() * f64::from(per_second)) as u32).map(|i| Reverse(start + gap * i)).collect();
            self.measured(time, |_| None)
        }

        /// `clients` that each send again `think` after they were served.
        fn closed(&mut self, clients: usize, think: Duration, time: Duration) -> (f64, f64) {
            self.due = vec![Reverse(self.now); clients].into();
            self.measured(time, |served| Some(served + think))
        }

        fn measured(&mut self, time: Duration, next: impl FnMut(Instant) -> Option<Instant>) -> (f64, f64) {
            let (slept, work) = (self.slept, self.work);
            self.run(time, next);
            let seconds = time.as_secs_f64();
            ((self.slept - slept) as f64 / seconds, (self.work - work) as f64 / seconds)
        }
    }

    #[test]
    fn messages_at_a_rate_are_gathered_where_cpu_is_short() {
        let mut world = World::new(INTERVAL);
        let (wakes, served) = world.at_rate(30_000, Duration::from_secs(5));
        assert!(wakes < 8_000.0 && served > 29_800.0, "{wakes} wakes, {served} messages");
        assert!(matches!(world.coalescing.mode, Mode::Pausing(_) | Mode::Watching | Mode::Trial));
    }

    #[test]
    fn messages_wake_at_once_where_there_is_cpu_enough() {
        for rate in [3_000, 10_000, 20_000] {
            let mut world = World::new(INTERVAL);
            world.at_rate(rate, Duration::from_secs(3));
            assert_eq!(world.paused, 0, "{rate} messages/s, busy {:?} of 3 s", world.busy);
        }
    }

    /// Ten thousand requests a second, each a message from its client and one from its backend, on a worker that they keep busy for less
    /// than half of its time: that latency is not the price of CPU nobody needs was measured where this was otherwise.
    #[test]
    fn ten_thousand_requests_a_second_are_not_gathered_on_a_worker_with_time_to_spare() {
        for (cost, share) in [(6, 0.44), (15, 0.62), (19, 0.70)] {
            let mut world = World { cost: Duration::from_micros(cost), ..World::new(INTERVAL) };
            let (wakes, served) = world.at_rate(20_000, Duration::from_secs(10));
            let busy = world.busy.as_secs_f64() / 10.0;
            assert!((busy - share).abs() < 0.02, "{busy}");
            assert_eq!(world.paused, 0, "{busy}");
            assert!(wakes > 19_900.0 && served > 19_990.0, "{wakes} wakes for {served} messages");
            // A moment of more work changes that for a moment only.
            world.at_rate(34_000, Duration::from_millis(60));
            world.at_rate(20_000, Duration::from_millis(1100));
            let paused = world.paused;
            world.at_rate(20_000, Duration::from_secs(5));
            assert_eq!(world.paused, paused, "{busy}");
        }
    }

    #[test]
    fn a_burst_is_gathered_and_what_follows_is_not() {
        let mut world = World::new(INTERVAL);
        world.at_rate(30_000, Duration::from_secs(2));
        assert!(world.paused > 1000, "{}", world.paused);
        // Within a second it looks without pauses, and finds CPU enough.
        world.at_rate(18_000, Duration::from_millis(1500));
        let paused = world.paused;
        world.at_rate(18_000, Duration::from_secs(2));
        assert_eq!(world.paused, paused);
    }

    #[test]
    fn rare_messages_never_wait() {
        let mut world = World::new(INTERVAL);
        world.at_rate(3_000, Duration::from_secs(3));
        world.at_rate(40, Duration::from_secs(3));
        assert_eq!(world.paused, 0);
    }

    #[test]
    fn who_waits_for_answers_is_slowed_for_moments_only() {
        for (clients, think) in [(1, 30), (4, 60), (8, 100), (16, 250)] {
            let think = Duration::from_micros(think);
            let (_, free) = World::new(Duration::ZERO).closed(clients, think, Duration::from_secs(20));
            let mut world = World::new(INTERVAL);
            let (_, served) = world.closed(clients, think, Duration::from_secs(20));
            assert!(served > free * 0.97, "{clients} clients: {served} of {free}, {world:?}", world = world.coalescing);
        }
    }

    #[test]
    fn a_worker_without_time_to_sleep_never_pauses() {
        let mut world = World::new(INTERVAL);
        let (_, served) = world.closed(64, Duration::from_micros(100), Duration::from_secs(2));
        assert!(world.paused == 0 && served > 66_000.0, "{served}, {} pauses", world.paused);
    }

    #[test]
    fn pauses_end_with_the_load_that_called_for_them() {
        let mut world = World::new(INTERVAL);
        world.at_rate(30_000, Duration::from_millis(500));
        assert!(world.paused > 500, "{}", world.paused);
        world.at_rate(1_000, Duration::from_millis(100));
        let paused = world.paused;
        world.at_rate(1_000, Duration::from_secs(1));
        assert_eq!(world.paused, paused);
    }

    #[test]
    fn without_an_interval_there_are_none() {
        let mut world = World::new(Duration::ZERO);
        let (wakes, _) = world.at_rate(30_000, Duration::from_secs(1));
        assert!(world.paused == 0 && !world.coalescing.is_on() && wakes > 15_000.0);
    }
}
