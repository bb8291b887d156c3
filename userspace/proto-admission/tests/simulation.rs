//! A sale with everything going wrong, in one thread and by a seed: messages and answers are lost or late, clocks are two seconds off
//! either way, edges are cut off and lost, and leaders fail between deciding and answering.

use proto_admission::ticket::{self, Carried, Keys, Pass, RoomKeys, Ticket};
use proto_admission::{Answer, Call, Desk, Ledger, Rules, Turn};
use std::collections::{BTreeMap, BTreeSet};

const EDGES: usize = 3;
const POLL_MS: u64 = 1_000;

/// xorshift64*: every run of a seed is the same.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.next().is_multiple_of(many)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }
}

struct Edge {
    desk: Desk,
    /// Added to the true time.
    skew_ms: i64,
    cut_off_until: u64,
    /// On its way: when it arrives, the call, and the answer once it was decided.
    under_way: Option<(u64, Call, Option<Answer>)>,
}

struct Client {
    cookie: Option<String>,
    polls_at: u64,
    number: Option<u64>,
    over: bool,
    bot: bool,
    counted_at: Option<u64>,
    /// It is done as soon as it is inside, and comes back with the ticket it came with.
    greedy: bool,
    kept: Option<String>,
}

struct World {
    dice: Dice,
    now: u64,
    edges: Vec<Edge>,
    ledger: Ledger,
    rules: Rules,
    /// Nobody leads until then.
    leaderless_until: u64,
    keys: RoomKeys,
    clients: Vec<Client>,
    /// Id → number, as passes say.
    numbers: BTreeMap<u64, u64>,
    /// Those who are done, as their passes say.
    left: Vec<(u64, u32)>,
    faults: bool,
}

impl World {
    fn new(seed: u64, rules: Rules, honest: usize, bots: usize, faults: bool) -> World {
        let mut dice = Dice(seed.wrapping_mul(2).wrapping_add(1));
        let edges = (0..EDGES)
            .map(|_| {
                let skew_ms = if faults { dice.below(4_001) as i64 - 2_000 } else { 0 };
                Edge { desk: Desk::new("p/f", "", rules, 0), skew_ms, cut_off_until: 0, under_way: None }
            })
            .collect();
        let clients = (0..honest + bots).map(|n| Client {
            cookie: None,
            polls_at: START + dice.below(3_000),
            number: None,
            over: false,
            bot: n >= honest,
            counted_at: None,
            greedy: n % 4 == 3,
            kept: None,
        });
        let clients = clients.collect();
        World {
            dice,
            now: START,
            edges,
            ledger: Ledger::new(seed),
            rules,
            leaderless_until: 0,
            keys: RoomKeys::new(&Keys::of([(&[7; 16], &[7; 32])], 0), "p/f", ""),
            clients,
            numbers: BTreeMap::new(),
            left: Vec::new(),
            faults,
        }
    }

    fn run(&mut self, for_ms: u64) {
        let until = self.now + for_ms;
        while self.now < until {
            self.now += 50;
            if self.faults {
                self.misfortune();
            }
            for edge in 0..EDGES {
                self.carry(edge);
            }
            for client in 0..self.clients.len() {
                if self.clients[client].polls_at <= self.now {
                    self.poll(client);
                }
            }
        }
    }

    fn misfortune(&mut self) {
        if self.dice.one_in(100) {
            // The leader is lost, after it has decided what is under way, or before; nobody gets an answer.
            self.leaderless_until = self.now + 500 + self.dice.below(1_500);
            for edge in &mut self.edges {
                if let Some((_, call, _)) = edge.under_way.take() {
                    edge.desk.take_back(call);
                }
            }
            // It lives on in its copy on the others' disks.
            let text = serde_json::to_string(&self.ledger).unwrap();
            self.ledger = serde_json::from_str(&text).unwrap();
        }
        if self.dice.one_in(200) {
            let edge = self.dice.below(EDGES as u64) as usize;
            self.edges[edge].cut_off_until = self.now + self.dice.below(5_000);
        }
        if self.dice.one_in(300) {
            // An edge is lost with all it knew, and another starts in its place.
            let edge = self.dice.below(EDGES as u64) as usize;
            self.edges[edge].desk = Desk::new("p/f", "", self.rules, 0);
            self.edges[edge].under_way = None;
        }
    }

    fn carry(&mut self, at: usize) {
        let now = self.now;
        let lost = self.faults && self.dice.one_in(10);
        let late = 1 + if self.faults { self.dice.below(300) } else { 0 };
        let edge = &mut self.edges[at];
        let clock = now.saturating_add_signed(edge.skew_ms);
        match edge.under_way.take() {
            None => {
                if now >= edge.cut_off_until
                    && let Some(call) = edge.desk.call(clock)
                {
                    edge.under_way = Some((now + late, call, None));
                }
            }
            Some((arrives, call, answer)) if now < arrives => edge.under_way = Some((arrives, call, answer)),
            Some((_, call, Some(answer))) => {
                if lost {
                    edge.desk.take_back(call);
                } else {
                    edge.desk.take(&call, answer, clock);
                }
            }
            Some((_, call, None)) => {
                if lost || now < edge.cut_off_until || now < self.leaderless_until {
                    edge.desk.take_back(call);
                } else {
                    let answer = self.ledger.apply(&call, &at.to_string(), clock);
                    edge.under_way = Some((now + late, call, Some(answer)));
                }
            }
        }
    }

    fn poll(&mut self, client: usize) {
        let at = self.dice.below(EDGES as u64) as usize;
        let (id, jitter) = (self.dice.next(), self.dice.below(POLL_MS / 2));
        let edge = &self.edges[at];
        let clock = self.now.saturating_add_signed(edge.skew_ms);
        let this = &mut self.clients[client];
        // A bot throws its cookies away half of the time, and comes often.
        this.polls_at = self.now + if this.bot { 200 } else { POLL_MS + jitter };
        if this.bot && id.is_multiple_of(2) {
            this.cookie = None;
        }
        let carried = this.cookie.as_deref().map(|cookie| self.keys.open("", cookie.as_bytes()).unwrap());
        let mut ticket = match carried {
            Some(Carried::Pass(pass)) => {
                if let Some(ticket) = this.kept.take() {
                    edge.desk.leave(pass.id, pass.bucket);
                    self.left.push((pass.id, pass.bucket));
                    this.cookie = Some(ticket);
                }
                return;
            }
            Some(Carried::Ticket(ticket)) => {
                assert_eq!(
                    ticket::fresh(ticket.issued_ms, 60_000, clock),
                    Ok(()),
                    "clocks differ by four seconds at most"
                );
                ticket
            }
            None => {
                edge.desk.visit(clock);
                let bucket = u32::try_from((clock - (START - 10_000)) / 1000).unwrap();
                let ticket = Ticket { id, bucket, counted: false, issued_ms: clock, told_s: 0 };
                this.cookie = sealed(&self.keys, &Carried::Ticket(ticket));
                return;
            }
        };
        if this.bot && clock < ticket.issued_ms + POLL_MS / 2 {
            return;
        }
        if !ticket.counted {
            edge.desk.count(&ticket, clock);
            this.counted_at = Some(self.now);
        }
        ticket = Ticket { counted: true, issued_ms: clock, ..ticket };
        this.cookie = sealed(&self.keys, &Carried::Ticket(ticket));
        match edge.desk.turn(&ticket, false, clock) {
            Turn::In(number) => {
                if this.greedy && this.number.is_none() {
                    this.kept = this.cookie.clone();
                }
                let pass = Carried::Pass(Pass { id: ticket.id, number, bucket: ticket.bucket, issued_ms: clock });
                this.cookie = sealed(&self.keys, &pass);
                this.number = Some(number);
                assert_eq!(*self.numbers.entry(ticket.id).or_insert(number), number, "one number for one ticket");
            }
            Turn::Over(_) => this.over = true,
            Turn::Spent => {
                assert!(this.greedy && this.number.is_some(), "only who has left");
                this.polls_at = u64::MAX;
            }
            Turn::Asked | Turn::Wait { .. } => {}
        }
    }

    fn check(&self, stock: u64) {
        let given: BTreeSet<u64> = self.numbers.values().copied().collect();
        assert_eq!(given.len(), self.numbers.len(), "no number twice");
        assert!(given.len() as u64 <= stock && self.ledger.given() <= stock, "never more than there is");
        assert!(given.iter().all(|number| (1..=stock).contains(number)));
    }
}

fn sealed(keys: &RoomKeys, carried: &Carried) -> Option<String> {
    String::from_utf8(keys.seal("", carried)?.to_vec()).ok()
}

const START: u64 = 1_800_000_000_000;

fn rules(stock: u64, interval_us: u64) -> Rules {
    Rules { stock, interval_us, burst: 1, active: 0, session_s: 600, keep_s: 600, grace_s: 5, closed: false }
}

#[test]
fn whatever_is_lost_no_more_is_sold_than_there_is() {
    for seed in 1..=40 {
        let mut world = World::new(seed, rules(50, 20_000), 120, 0, true);
        for _ in 0..30 {
            world.run(1_000);
            world.check(50);
        }
        world.faults = false;
        world.leaderless_until = 0;
        world.edges.iter_mut().for_each(|edge| edge.cut_off_until = 0);
        world.run(30_000);
        world.check(50);
        assert_eq!(world.ledger.given(), 50, "seed {seed}: all of it, when the trouble is over");
        let inside = world.clients.iter().filter(|client| client.number.is_some()).count();
        assert_eq!(inside, 50, "seed {seed}: and every number has somebody");
        assert!(
            world.clients.iter().all(|client| client.number.is_some() || client.over),
            "seed {seed}: nobody waits on"
        );
        // Passes of those who are done are good nowhere, but for what an edge that was lost had not said.
        for _ in 0..40 {
            let now = world.now;
            world.edges.iter().for_each(|edge| edge.desk.visit(now.saturating_add_signed(edge.skew_ms)));
            world.run(50);
        }
        let known = |edge: &Edge| world.left.iter().filter(|(id, bucket)| edge.desk.has_left(*id, *bucket)).count();
        let known: Vec<usize> = world.edges.iter().map(known).collect();
        assert!(known[0] * 2 >= world.left.len() && known[0] > 0, "seed {seed}: {known:?} of {}", world.left.len());
        assert!(known.iter().all(|count| *count == known[0]), "seed {seed}: all edges know the same: {known:?}");
    }
}

#[test]
fn who_came_first_is_first() {
    for seed in 1..=10 {
        let mut world = World::new(seed, rules(30, 50_000), 90, 0, false);
        // A third comes in each of three seconds that are far apart.
        for (n, client) in world.clients.iter_mut().enumerate() {
            client.polls_at = START + (n as u64 / 30) * 5_000;
        }
        world.run(40_000);
        world.check(30);
        let first = world.clients[..30].iter().filter(|client| client.number.is_some()).count();
        assert!(first >= 28, "seed {seed}: {first} of the first thirty");
    }
}

#[test]
fn bots_that_throw_their_cookies_away_keep_nobody_waiting() {
    let share = |bots: usize| {
        let mut world = World::new(5, rules(40, 50_000), 80, bots, false);
        world.run(60_000);
        world.check(40);
        world.clients.iter().filter(|client| !client.bot && client.number.is_some()).count()
    };
    let (alone, beside) = (share(0), share(9));
    assert_eq!(alone, 40);
    assert!(beside * 10 >= alone * 8, "{beside} of {alone} beside nine bots that come five times as often");
}
