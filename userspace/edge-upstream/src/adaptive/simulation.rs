//! The gate before servers that behave as real ones do, on a clock of its own: a seed makes a run, and a run that fails is its own
//! report.

use super::gate::{Bounds, Entered, Gate, Reason, Waiter};
use super::line::{Ticket, Who};
use super::rank::Rank;
use base_model::Priority;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// A server with so many threads. Requests beyond them wait in its own queue, first come first served.
#[derive(Clone, Copy)]
struct Backend {
    threads: u32,
    /// What a request takes on a thread, in the mean.
    takes: Duration,
    /// By which share of itself a request takes longer for every request that waits beyond the threads, per thread: lock and memory.
    degrades: f64,
}

/// What happens during a run.
struct Run {
    seed: u64,
    backends: Vec<Backend>,
    /// From when on requests come so many per second.
    arrivals: Vec<(Duration, f64)>,
    /// From when on the first backend is another.
    changes: Vec<(Duration, Backend)>,
    /// Who asks.
    asks: fn(&mut Random, u64) -> (Priority, u64),
    length: Duration,
    bounds: Bounds,
    wait_most: Duration,
}

impl Default for Run {
    fn default() -> Run {
        Run {
            seed: 1,
            backends: vec![Backend { threads: 20, takes: MS * 20, degrades: 0.0 }],
            arrivals: vec![(Duration::ZERO, SERVED / 2.0)],
            changes: Vec::new(),
            asks: |_, n| (Priority::Normal, n),
            length: Duration::from_secs(20),
            bounds: Bounds { least: 2, first: 20, most: 2000, queue: 256, target: MS * 20 },
            wait_most: MS * 100,
        }
    }
}

const MS: Duration = Duration::from_millis(1);

/// Per 100 ms.
#[derive(Default, Clone)]
struct Tick {
    limit: u32,
    cut: u8,
    /// Answers by priority, and what they took from when the request came, in milliseconds.
    answered: [u32; 4],
    took: Vec<f64>,
    came: [u32; 4],
    refused: u32,
    at_backends: Vec<u32>,
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.next()).ln()
    }

    /// Service times of a mix of requests: half is fixed, half varies.
    fn service(&mut self, mean: f64) -> f64 {
        mean * 0.5 + self.exponential(mean * 0.5)
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Comes(u64),
    GivesUp(u64),
    Served(usize, u64),
    Tick,
}

struct Told {
    passes: Vec<u64>,
    away: Vec<(u64, Reason)>,
}

struct Waits(u64, Rc<RefCell<Told>>);

impl Waiter for Waits {
    fn pass(self) -> bool {
        self.1.borrow_mut().passes.push(self.0);
        true
    }

    fn turn_away(self, reason: Reason) {
        self.1.borrow_mut().away.push((self.0, reason));
    }
}

struct Request {
    came: Duration,
    priority: Priority,
    ticket: Option<Ticket>,
    /// At this backend since then, as one of so many.
    at: Option<(usize, Duration, u32)>,
}

struct World {
    run: Run,
    random: Random,
    now: Duration,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    numbered: u64,
    gate: Gate<Waits>,
    told: Rc<RefCell<Told>>,
    requests: HashMap<u64, Request>,
    /// Per backend: running, and waiting there.
    busy: Vec<u32>,
    queues: Vec<VecDeque<u64>>,
    turn: usize,
    ticks: Vec<Tick>,
    tick: Tick,
}

impl World {
    fn new(run: Run) -> World {
        let backends = run.backends.len();
        World {
            random: Random(run.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            numbered: 0,
            gate: Gate::new(run.bounds.clone(), backends, 1),
            told: Rc::new(RefCell::new(Told { passes: Vec::new(), away: Vec::new() })),
            requests: HashMap::new(),
            busy: vec![0; backends],
            queues: vec![VecDeque::new(); backends],
            turn: 0,
            ticks: Vec::new(),
            tick: Tick::default(),
            run,
        }
    }

    fn simulate(mut self) -> Vec<Tick> {
        self.at(Duration::ZERO, Event::Comes(0));
        self.at(MS * 100, Event::Tick);
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > self.run.length {
                break;
            }
            self.now = at;
            while self.run.changes.first().is_some_and(|(from, _)| *from <= at) {
                self.run.backends[0] = self.run.changes.remove(0).1;
            }
            match event {
                Event::Comes(number) => self.comes(number),
                Event::GivesUp(number) => self.gives_up(number),
                Event::Served(backend, number) => self.served(backend, number),
                Event::Tick => {
                    self.tick.limit = self.gate.shown().limit;
                    self.tick.cut = self.gate.cut(self.now);
                    let backends = 0..self.run.backends.len();
                    self.tick.at_backends = backends.map(|b| self.gate.server_shown(b).limit).collect();
                    self.ticks.push(std::mem::take(&mut self.tick));
                    self.at(self.now + MS * 100, Event::Tick);
                }
            }
            self.hear();
        }
        self.ticks
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.numbered += 1;
        self.events.push(Reverse((at, self.numbered, event)));
    }

    fn comes(&mut self, number: u64) {
        let rate = self.run.arrivals.iter().rev().find(|(from, _)| *from <= self.now).map_or(0.0, |(_, rate)| *rate);
        let pause = self.random.exponential(1.0 / rate.max(1.0));
        self.at(self.now + Duration::from_secs_f64(pause), Event::Comes(number + 1));
        let (priority, client) = (self.run.asks)(&mut self.random, number);
        self.tick.came[usize::from(priority.level())] += 1;
        let who = Who { rank: Rank::new(priority, client, 0), route: 1, client };
        self.requests.insert(number, Request { came: self.now, priority, ticket: None, at: None });
        match self.gate.enter(self.now, 0, &who, || Waits(number, self.told.clone())) {
            Entered::Passes => self.goes(number),
            Entered::Waits(ticket) => {
                if let Some(request) = self.requests.get_mut(&number) {
                    request.ticket = Some(ticket);
                }
                self.at(self.now + self.run.wait_most, Event::GivesUp(number));
            }
            Entered::Refused(_) => self.refused(number),
        }
    }

    fn hear(&mut self) {
        loop {
            let (passes, away) = {
                let mut told = self.told.borrow_mut();
                (std::mem::take(&mut told.passes), std::mem::take(&mut told.away))
            };
            if passes.is_empty() && away.is_empty() {
                return;
            }
            passes.into_iter().for_each(|number| self.goes(number));
            away.into_iter().for_each(|(number, _)| self.refused(number));
        }
    }

    fn refused(&mut self, number: u64) {
        self.requests.remove(&number);
        self.tick.refused += 1;
    }

    fn gives_up(&mut self, number: u64) {
        let Some(ticket) = self.requests.get(&number).filter(|r| r.at.is_none()).and_then(|r| r.ticket) else { return };
        if self.gate.give_up(0, &ticket, self.run.wait_most, Some(Reason::Waited)) {
            self.refused(number);
        }
    }

    /// To the next backend that may have one more.
    fn goes(&mut self, number: u64) {
        let count = self.run.backends.len();
        let first = self.turn;
        self.turn += 1;
        let backend = (0..count).map(|i| (first + i) % count).find(|b| self.gate.has_room(*b)).unwrap_or(first % count);
        let under_way = self.gate.begin(backend);
        if let Some(request) = self.requests.get_mut(&number) {
            request.at = Some((backend, self.now, under_way));
        }
        self.queues[backend].push_back(number);
        self.work(backend);
    }

    fn work(&mut self, backend: usize) {
        let Backend { threads, takes, degrades } = self.run.backends[backend];
        while self.busy[backend] < threads {
            let Some(number) = self.queues[backend].pop_front() else { return };
            self.busy[backend] += 1;
            let crowd = self.queues[backend].len() as f64 / f64::from(threads);
            let takes = self.random.service(takes.as_secs_f64()) * (1.0 + degrades * crowd);
            self.at(self.now + Duration::from_secs_f64(takes), Event::Served(backend, number));
        }
    }

    fn served(&mut self, backend: usize, number: u64) {
        self.busy[backend] -= 1;
        if let Some(request) = self.requests.remove(&number)
            && let Some((_, began, under_way)) = request.at
        {
            self.tick.answered[usize::from(request.priority.level())] += 1;
            self.tick.took.push((self.now - request.came).as_secs_f64() * 1e3);
            self.gate.answered(self.now, 0, backend, self.now - began, under_way, false);
        }
        self.gate.end(backend);
        self.gate.leave(self.now, 0);
        self.work(backend);
    }
}

fn simulate(run: Run) -> Vec<Tick> {
    World::new(run).simulate()
}

/// Seconds of a run.
fn seconds(ticks: &[Tick], from: f64, to: f64) -> &[Tick] {
    &ticks[(from * 10.0) as usize..((to * 10.0) as usize).min(ticks.len())]
}

fn answered(ticks: &[Tick]) -> f64 {
    ticks.iter().map(|tick| f64::from(tick.answered.iter().sum::<u32>())).sum::<f64>() / ticks.len() as f64 * 10.0
}

fn percentile(ticks: &[Tick], share: f64) -> f64 {
    let mut took: Vec<f64> = ticks.iter().flat_map(|tick| tick.took.iter().copied()).collect();
    took.sort_by(f64::total_cmp);
    took.get((took.len() as f64 * share) as usize).copied().unwrap_or(0.0)
}

fn limits(ticks: &[Tick]) -> Vec<u32> {
    ticks.iter().map(|tick| tick.limit).collect()
}

/// Every seed must hold.
fn seeds(check: impl Fn(u64)) {
    (1..=3).for_each(check);
}

const SERVED: f64 = 1000.0;

#[test]
fn a_step_to_ten_times_the_capacity_costs_no_goodput_and_settles_in_two_seconds() {
    seeds(|seed| {
        let arrivals =
            vec![(Duration::ZERO, 400.0), (Duration::from_secs(5), SERVED * 10.0), (Duration::from_secs(15), 400.0)];
        let ticks = simulate(Run { seed, arrivals, length: Duration::from_secs(25), ..Run::default() });
        let unloaded = percentile(seconds(&ticks, 1.0, 5.0), 0.99);
        let rush = seconds(&ticks, 7.0, 15.0);
        assert!(answered(rush) > SERVED * 0.95, "seed {seed}: {} of {SERVED}", answered(rush));
        let p99 = percentile(rush, 0.99);
        assert!(p99 < unloaded * 2.0, "seed {seed}: p99 {p99} against {unloaded}");
        let most = limits(seconds(&ticks, 5.0, 15.0)).into_iter().max().unwrap();
        assert!(most < 60, "seed {seed}: overshoot {most}, threads 20: {:?}", limits(&ticks));
        let over = seconds(&ticks, 17.0, 25.0);
        assert!(over.iter().all(|tick| tick.refused == 0), "seed {seed}: refused after the rush");
    });
}

#[test]
fn a_lasting_overload_does_not_lift_the_limit() {
    seeds(|seed| {
        let arrivals = vec![(Duration::ZERO, SERVED * 3.0)];
        let ticks = simulate(Run { seed, arrivals, length: Duration::from_secs(80), ..Run::default() });
        let late = limits(seconds(&ticks, 40.0, 80.0));
        assert!(late.iter().all(|limit| (8..45).contains(limit)), "seed {seed}: {late:?}");
        assert!(answered(seconds(&ticks, 5.0, 80.0)) > SERVED * 0.95, "seed {seed}");
    });
}

#[test]
fn a_ramp_is_followed() {
    seeds(|seed| {
        let arrivals = (0..20).map(|s| (Duration::from_secs(s), SERVED / 10.0 * (s + 1) as f64)).collect();
        let ticks = simulate(Run { seed, arrivals, ..Run::default() });
        assert!(seconds(&ticks, 0.5, 8.0).iter().map(|tick| tick.refused).sum::<u32>() < 40, "seed {seed}");
        assert!(answered(seconds(&ticks, 12.0, 20.0)) > SERVED * 0.95, "seed {seed}");
    });
}

#[test]
fn a_square_wave_is_served_in_every_trough_and_crest() {
    seeds(|seed| {
        let arrivals = (0..10)
            .map(|s| (Duration::from_secs(s * 3), if s % 2 == 0 { SERVED / 5.0 } else { SERVED * 4.0 }))
            .collect();
        let ticks = simulate(Run { seed, arrivals, length: Duration::from_secs(30), ..Run::default() });
        for crest in [9.0, 15.0, 21.0, 27.0] {
            let served = answered(seconds(&ticks, crest + 0.5, crest + 3.0));
            assert!(served > SERVED * 0.93, "seed {seed}, crest at {crest} s: {served}");
            let trough = seconds(&ticks, crest - 2.0, crest);
            let (came, refused): (u32, u32) =
                trough.iter().fold((0, 0), |(c, r), tick| (c + tick.came[1], r + tick.refused));
            assert!(refused * 50 < came, "seed {seed}, trough before {crest} s: {refused} of {came} refused");
        }
    });
}

#[test]
fn a_server_that_degrades_when_overdriven_is_not_overdriven() {
    seeds(|seed| {
        let backends = vec![Backend { threads: 20, takes: MS * 10, degrades: 0.5 }];
        let arrivals = vec![(Duration::ZERO, 10_000.0)];
        let ticks = simulate(Run { seed, backends, arrivals, length: Duration::from_secs(12), ..Run::default() });
        let served = answered(seconds(&ticks, 3.0, 12.0));
        assert!(served > 2000.0 * 0.85, "seed {seed}: {served} of 2000");
    });
}

#[test]
fn a_server_that_becomes_slower_is_still_used() {
    seeds(|seed| {
        let slower = Backend { threads: 20, takes: MS * 60, degrades: 0.0 };
        let arrivals = vec![(Duration::ZERO, SERVED * 2.0)];
        let changes = vec![(Duration::from_secs(10), slower)];
        let ticks = simulate(Run { seed, arrivals, changes, length: Duration::from_secs(40), ..Run::default() });
        let served = answered(seconds(&ticks, 20.0, 40.0));
        assert!(served > 333.0 * 0.9, "seed {seed}: {served} of 333, {:?}", limits(&ticks));
        let most = limits(seconds(&ticks, 20.0, 40.0)).into_iter().max().unwrap();
        assert!(most < 60, "seed {seed}: {most}");
    });
}

#[test]
fn one_slow_server_of_ten_gets_less_and_the_others_go_on() {
    seeds(|seed| {
        let mut backends = vec![Backend { threads: 10, takes: MS * 50, degrades: 0.0 }; 10];
        backends[0] = Backend { threads: 2, takes: MS * 250, degrades: 0.0 };
        let bounds = Bounds { first: 10, ..Run::default().bounds };
        let arrivals = vec![(Duration::ZERO, 3_000.0)];
        let ticks =
            simulate(Run { seed, backends, arrivals, bounds, length: Duration::from_secs(60), ..Run::default() });
        // Nine serve 200 each, the tenth 8.
        let served = answered(seconds(&ticks, 5.0, 60.0));
        assert!(served > 1808.0 * 0.93, "seed {seed}: {served}");
        let late = seconds(&ticks, 40.0, 60.0);
        let sum = |of: std::ops::Range<usize>| late.iter().flat_map(|tick| &tick.at_backends[of.clone()]).sum::<u32>();
        let (slow, others) = (sum(0..1), sum(1..10) / 9);
        assert!(slow * 4 <= others * 3, "seed {seed}: {slow} against {others}");
    });
}

#[test]
fn checkout_outlives_browsing() {
    seeds(|seed| {
        let arrivals = vec![(Duration::ZERO, SERVED * 10.0)];
        // One in fifty buys: two tenths of what is served.
        let asks: fn(&mut Random, u64) -> (Priority, u64) =
            |_, n| if n % 50 == 0 { (Priority::Critical, n) } else { (Priority::Low, n) };
        let ticks = simulate(Run { seed, arrivals, asks, ..Run::default() });
        let rush = seconds(&ticks, 2.0, 19.0);
        let (came, served) = rush.iter().fold((0, 0), |(c, s), tick| (c + tick.came[3], s + tick.answered[3]));
        assert!(f64::from(served) > f64::from(came) * 0.98, "seed {seed}: {served} of {came}");
        assert!(answered(rush) > SERVED * 0.95, "seed {seed}: {}", answered(rush));
    });
}

#[test]
fn honest_clients_keep_their_share_beside_bots_on_few_keys() {
    seeds(|seed| {
        let arrivals = vec![(Duration::ZERO, SERVED * 4.0)];
        // Nine in ten come from five keys; honest clients want four tenths of what is served. Their priorities tell them apart in the sums only.
        let asks: fn(&mut Random, u64) -> (Priority, u64) =
            |random, n| if random.next() < 0.9 { (Priority::Normal, n % 5) } else { (Priority::Normal, 1000 + n) };
        let run = Run { seed, arrivals, asks, length: Duration::from_secs(12), ..Run::default() };
        let honest = World::new(run).honest();
        assert!(honest > 0.9, "seed {seed}: {honest}");
    });
}

impl World {
    /// The share of requests by clients from 1000 on that are answered in the second half of the run.
    fn honest(mut self) -> f64 {
        let half = self.run.length / 2;
        let (mut came, mut served) = (0u32, 0u32);
        let mut mine = std::collections::HashSet::new();
        self.at(Duration::ZERO, Event::Comes(0));
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > self.run.length {
                break;
            }
            self.now = at;
            match event {
                Event::Comes(number) => {
                    // The client of a number is known by what its coming drew: asked again with the same state.
                    let state = self.random.0;
                    let mut same = Random(state);
                    same.exponential(1.0);
                    if (self.run.asks)(&mut same, number).1 >= 1000 && at > half {
                        came += 1;
                        mine.insert(number);
                    }
                    self.comes(number);
                }
                Event::GivesUp(number) => self.gives_up(number),
                Event::Served(backend, number) => {
                    served += u32::from(mine.contains(&number));
                    self.served(backend, number);
                }
                Event::Tick => {}
            }
            self.hear();
        }
        f64::from(served) / f64::from(came)
    }
}
