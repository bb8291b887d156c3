//! The thread on which the edge's agent lives: it takes what the control half publishes and makes the machine be so.
//!
//! Whatever panics in there ends one turn and not the thread: the machine serves on as it did, says that it is not well, and tries
//! again, at once when another version is published.

use crate::bans::Spared;
use crate::health::Health;
use crate::limits::Sources;
use control_api::{Addresses, Document, Generation, Member, Sections, Snapshot, Update, WASM_KINDS};
use control_raft::{Follower, RecvError};
use edge_agent::Agent;
use edge_agent::desired::{Desired, Machine, Purge, Steering, Step, Ticket, Tickets, Withheld};
use edge_agent::sections;
use edge_listeners::Purged;
use imbl::ordmap::DiffItem;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

// The control plane knows by this number which generations no slot can need any more.
const _: () = assert!(control_state::OWNERS == edge_kernel::abi::limits::OWNERS);

/// How long a control half may take to reach the version that the edge has from disk before that is told.
const CATCH_UP: Duration = Duration::from_secs(10);

/// Between two looks for a control half while there is none.
const LOOK: Duration = Duration::from_millis(50);

/// Pauses after a panic: the first, twice as long each time, and the longest.
const AGAIN_FIRST: Duration = Duration::from_millis(250);
const AGAIN: Duration = Duration::from_secs(15);

/// What is asked of the agent; a test has one that panics.
pub trait Acts {
    fn current(&self) -> &Desired;
    /// Why what is offered is not taken, if so.
    fn outlives(&self, offered: &Desired) -> Option<Withheld>;
    fn is_forked(&self) -> bool;
    fn keep_fork(&mut self);
    fn apply(&mut self, desired: Desired);
    fn pause(&self) -> Duration;
    fn tick(&mut self);
    /// By VirtualIP the generation of its steering before which this machine holds nothing any more.
    fn released(&mut self) -> BTreeMap<String, u64>;
    /// The kernel steers as the cluster says.
    fn steers(&self) -> bool {
        false
    }
    /// When others may last have taken its new flows; 0: never.
    fn lapsed_ms(&mut self) -> u64 {
        0
    }
    /// Another process is about to take over; see [`Rest`].
    fn hold(&mut self) {}
    /// It did not.
    fn resume(&mut self) {}
}

impl Acts for Agent {
    fn current(&self) -> &Desired {
        Agent::current(self)
    }

    fn outlives(&self, offered: &Desired) -> Option<Withheld> {
        Agent::outlives(self, offered)
    }

    fn is_forked(&self) -> bool {
        Agent::is_forked(self)
    }

    fn keep_fork(&mut self) {
        Agent::keep_fork(self);
    }

    fn apply(&mut self, desired: Desired) {
        Agent::apply(self, desired);
    }

    fn pause(&self) -> Duration {
        Agent::pause(self)
    }

    fn tick(&mut self) {
        Agent::tick(self);
    }

    fn released(&mut self) -> BTreeMap<String, u64> {
        Agent::released(self)
    }

    fn steers(&self) -> bool {
        Agent::steers(self)
    }

    fn lapsed_ms(&mut self) -> u64 {
        Agent::lapsed_ms(self)
    }

    fn hold(&mut self) {
        Agent::hold(self);
    }

    fn resume(&mut self) {
        Agent::resume(self);
    }
}

/// Where updates come from.
pub trait Updates {
    fn recv_timeout(&mut self, timeout: Duration) -> Result<Update, RecvError>;
}

impl Updates for Follower {
    fn recv_timeout(&mut self, timeout: Duration) -> Result<Update, RecvError> {
        Follower::recv_timeout(self, timeout)
    }
}

/// What reaches the thread.
pub struct Inbox<U> {
    /// Streams of a control half; a newer one takes the place of the one before.
    pub follow: mpsc::Receiver<U>,
    /// Nothing is ever sent: the thread ends when the other side is gone.
    pub stopped: mpsc::Receiver<()>,
    pub rests: mpsc::Receiver<Rest>,
}

/// Asks the agent to change nothing for a while.
pub struct Rest {
    /// Told when it is at rest.
    pub begun: mpsc::Sender<()>,
    /// It goes on when the other side is gone.
    pub ended: mpsc::Receiver<()>,
}

/// How soon an agent at rest notices that the process ends.
const REST_LOOK: Duration = Duration::from_millis(20);

/// Runs until it is stopped. `tick` is called once in every turn.
pub fn run<U: Updates>(agent: &mut impl Acts, inbox: &Inbox<U>, health: &Health, mut tick: impl FnMut()) {
    let mut work = Work {
        stream: None,
        snapshot: Snapshot::default(),
        news: false,
        streaming_since: Instant::now(),
        learned: Default::default(),
    };
    let (mut again, mut sources, mut spared) = (AGAIN_FIRST, Sources::default(), Spared::default());
    loop {
        if let Ok(rest) = inbox.rests.try_recv() {
            agent.hold();
            let _ = rest.begun.send(());
            while rest.ended.recv_timeout(REST_LOOK) == Err(mpsc::RecvTimeoutError::Timeout) {
                health.agent_turned();
                if inbox.stopped.try_recv() == Err(mpsc::TryRecvError::Disconnected) {
                    return;
                }
            }
            agent.resume();
        }
        let turned = catch_unwind(AssertUnwindSafe(|| {
            work.turn(agent, &inbox.follow, health);
            tick();
            agent.tick();
            sources.look(agent.current());
            spared.look(agent.current());
            health.agent_says(agent.released(), agent.steers(), agent.lapsed_ms());
        }));
        let pause = match turned {
            Ok(()) => {
                health.agent_turned();
                again = AGAIN_FIRST;
                Duration::ZERO
            }
            Err(panic) => {
                let reason = said(&*panic);
                tracing::error!(reason, "the agent panicked; trying again");
                health.agent_failed(&reason);
                let pause = again;
                again = (again * 2).min(AGAIN);
                pause
            }
        };
        if matches!(inbox.stopped.recv_timeout(pause), Err(mpsc::RecvTimeoutError::Disconnected)) {
            return;
        }
    }
}

struct Work<U> {
    stream: Option<U>,
    snapshot: Snapshot,
    /// The snapshot has not been applied.
    news: bool,
    /// The control half that is followed is there since then.
    streaming_since: Instant,
    /// The sections and the users' data of the snapshot that was looked at last, and what they are here.
    learned: (Arc<Sections>, Arc<CustomData>, Arc<sections::Sections>),
}

/// The users' data, by kind and id.
type CustomData = BTreeMap<String, Arc<BTreeMap<String, Document>>>;

impl<U: Updates> Work<U> {
    fn turn(&mut self, agent: &mut impl Acts, followed: &mpsc::Receiver<U>, health: &Health) {
        if let Ok(newer) = followed.try_recv() {
            self.stream = Some(newer);
            self.streaming_since = Instant::now();
        }
        match &mut self.stream {
            None => thread::sleep(agent.pause().min(LOOK)),
            Some(follower) => match follower.recv_timeout(agent.pause()) {
                Ok(update) => self.news |= take(&mut self.snapshot, update),
                Err(RecvError::Timeout) => {}
                Err(RecvError::Closed) => self.stream = None,
            },
        }
        if self.news {
            let desired = Desired { sections: self.learned(), ..desired(&self.snapshot) };
            let withheld = agent.outlives(&desired);
            match &withheld {
                None => {
                    agent.apply(desired);
                    health.agent_applied(agent.current());
                }
                // A control half that has just started is behind for a moment, and says more when it is not.
                Some(Withheld::Earlier { .. }) if !agent.is_forked() && self.streaming_since.elapsed() < CATCH_UP => {
                    return;
                }
                Some(Withheld::Earlier { .. } | Withheld::Forked { .. }) => agent.keep_fork(),
                Some(Withheld::Lacking { .. } | Withheld::Unfounded { .. }) => {}
            }
            self.news = false;
            health.agent_withholds(withheld.map(|withheld| withheld.to_string()));
        }
    }
}

impl<U> Work<U> {
    /// What controllers have learned and users keep, in the edge plane's words: of a section that is as it was, what it was then. What
    /// programs of WasmHosts share stays with those.
    fn learned(&mut self) -> Arc<sections::Sections> {
        let (sections, custom, before) = &self.learned;
        if Arc::ptr_eq(sections, &self.snapshot.sections) && Arc::ptr_eq(custom, &self.snapshot.custom_data) {
            return before.clone();
        }
        let section = |(name, keys): (&String, &control_api::Section)| {
            let (was, mut values) = match (sections.get(name), before.get(name)) {
                (Some(was), Some(sections::Section::Learned(values))) => (was.clone(), values.clone()),
                _ => Default::default(),
            };
            for item in was.diff(keys) {
                match item {
                    DiffItem::Add(key, keyed) | DiffItem::Update { new: (key, keyed), .. } => {
                        values.insert(key.clone(), keyed.value.clone());
                    }
                    DiffItem::Remove(key, _) => drop(values.remove(key)),
                }
            }
            (name.clone(), sections::Section::Learned(values))
        };
        let own = self.snapshot.custom_data.iter().filter(|(kind, _)| !kind.starts_with(WASM_KINDS));
        let own = own
            .map(|(kind, items)| (format!("{}{kind}", sections::CUSTOM_DATA), sections::Section::Users(items.clone())));
        let learned = Arc::new(self.snapshot.sections.iter().map(section).chain(own).collect());
        self.learned = (self.snapshot.sections.clone(), self.snapshot.custom_data.clone(), learned);
        self.learned.2.clone()
    }
}

/// The words of a panic.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic without words".to_owned())
}

/// Moves the snapshot on; false when nothing changed.
fn take(snapshot: &mut Snapshot, update: Update) -> bool {
    match update {
        Update::Ping(_) => false,
        Update::Snapshot(whole) => {
            *snapshot = (*whole).clone();
            true
        }
        Update::Delta(delta) => match snapshot.advance(&delta) {
            Ok(()) => true,
            Err(gap) => {
                // The follower hands out gapless deltas; should one be missing all the same, the next snapshot mends it.
                tracing::error!(%gap, "a change was missed");
                false
            }
        },
    }
}

/// The published state in the edge plane's words.
fn desired(snapshot: &Snapshot) -> Desired {
    // One that drains is no edge any more, and still gets the packets of connections it holds.
    let reachable = |m: &&Arc<Member>| m.edge || m.addresses != Addresses::default();
    let machines = snapshot.members.values().filter(reachable).map(|m| {
        let machine = Machine { id: m.id, name: m.name.clone(), v4: m.addresses.v4, v6: m.addresses.v6 };
        (m.name.clone(), machine)
    });
    let steering = snapshot.steering.iter().map(|(vip, s)| {
        let machines = |g: &Generation| g.machines.iter().map(|e| (e.member, e.weight)).collect();
        let step = |g: &Generation| {
            // Who was alive is not said of generations from before the cluster's second feature level.
            let unsaid = g.alive.is_empty() && !g.machines.is_empty();
            let alive = if unsaid { s.alive.clone() } else { g.alive.clone() };
            let (released, lapsed) = (g.released.clone(), g.lapsed.clone());
            Step { number: g.number, alive, released, hash: g.hash.clone(), lapsed }
        };
        let steering = Steering {
            id: s.id,
            generations: s.generations.iter().map(machines).collect(),
            alive: s.alive.clone(),
            steps: s.generations.iter().map(step).collect(),
        };
        (vip.clone(), Arc::new(steering))
    });
    let keys = &snapshot.tickets;
    let tickets = Tickets {
        keys: keys.all().map(|key| Ticket { name: key.name, secret: key.secret }).collect(),
        current: usize::from(keys.previous.is_some()),
    };
    Desired {
        cluster_id: snapshot.cluster_id.clone(),
        cluster_name: snapshot.cluster_name.clone(),
        version: snapshot.version,
        objects: snapshot.objects.clone(),
        machines: Arc::new(machines.collect()),
        gone: Arc::new(snapshot.members.values().filter(|m| !m.steers).map(|m| m.id).collect()),
        steering: Arc::new(steering.collect()),
        tickets: Arc::new(tickets),
        purges: Arc::new(snapshot.purges.iter().map(purge).collect()),
        purged: snapshot.purges.last().map_or(0, |last| last.number),
        succeeds: Arc::new(snapshot.succeeds.iter().map(|p| (p.cluster_id.clone(), p.version)).collect()),
        ..Desired::default()
    }
}

fn purge(purge: &control_api::Purge) -> Purge {
    let what = match &purge.what {
        control_api::Purged::All => Purged::All,
        control_api::Purged::Url(url) => Purged::Url(url.clone().into_bytes()),
        control_api::Purged::Prefix(prefix) => Purged::Prefix(prefix.clone().into_bytes()),
        control_api::Purged::Tag(tag) => Purged::Tag(tag.as_str().into()),
    };
    Purge { number: purge.number, cache: Some(purge.cache.clone()).filter(|cache| !cache.is_empty()), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_costs_one_turn_and_is_told() {
        let health = Arc::new(Health::new(true));
        let (follow, followed) = mpsc::channel();
        let (stop, stopped) = mpsc::channel();
        let (updates, stream) = mpsc::channel();
        follow.send(Stream(stream)).unwrap();
        let seen = health.clone();
        let thread = thread::spawn(move || {
            let mut agent = Fragile { current: Desired::default(), panics_at: 2 };
            let rests = mpsc::channel().1;
            run(&mut agent, &Inbox { follow: followed, stopped, rests }, &seen, || {});
        });
        let publish = |version| {
            let snapshot = Snapshot { cluster_id: "c".into(), version, ..Snapshot::default() };
            updates.send(Update::Snapshot(Arc::new(snapshot))).unwrap();
        };
        publish(1);
        eventually(|| health.version() == 1);
        publish(2);
        eventually(|| health.ready().is_err_and(|reason| reason.contains("version 2 is too much")));
        assert_eq!(health.version(), 1, "what was there before stays");
        publish(3);
        eventually(|| health.version() == 3);
        eventually(|| health.ready().is_err_and(|reason| reason.contains("control half")));
        assert!(health.counts().agent_restarts.is_some_and(|restarts| restarts >= 1));
        drop(stop);
        thread.join().unwrap();
    }

    struct Stream(mpsc::Receiver<Update>);

    impl Updates for Stream {
        fn recv_timeout(&mut self, timeout: Duration) -> Result<Update, RecvError> {
            self.0.recv_timeout(timeout).map_err(|_| RecvError::Timeout)
        }
    }

    struct Fragile {
        current: Desired,
        panics_at: u64,
    }

    impl Acts for Fragile {
        fn current(&self) -> &Desired {
            &self.current
        }

        fn outlives(&self, offered: &Desired) -> Option<Withheld> {
            self.current.outlives(offered, None)
        }

        fn is_forked(&self) -> bool {
            false
        }

        fn keep_fork(&mut self) {}

        fn apply(&mut self, desired: Desired) {
            assert!(desired.version != self.panics_at, "version {} is too much", desired.version);
            self.current = desired;
        }

        fn pause(&self) -> Duration {
            Duration::from_millis(5)
        }

        fn tick(&mut self) {}

        fn released(&mut self) -> BTreeMap<String, u64> {
            BTreeMap::new()
        }
    }

    #[test]
    fn what_users_keep_is_a_section_for_each_kind_and_that_of_programs_is_none() {
        let item = |n: u64| Arc::new([("ann".to_owned(), Arc::new(serde_json::json!({"n": n})))].into());
        let kinds = |n: u64| [("users".to_owned(), item(n)), (format!("{WASM_KINDS}p/f"), item(n))];
        let mut work = Work::<Stream> {
            stream: None,
            snapshot: Snapshot { custom_data: Arc::new(kinds(1).into()), ..Snapshot::default() },
            news: false,
            streaming_since: Instant::now(),
            learned: Default::default(),
        };
        let first = work.learned();
        assert_eq!(first.keys().collect::<Vec<_>>(), ["customData/users"]);
        assert!(Arc::ptr_eq(&first, &work.learned()), "nothing is made anew for what is as it was");
        work.snapshot.custom_data = Arc::new(kinds(2).into());
        let sections::Section::Users(users) = &work.learned()["customData/users"] else {
            panic!("they are the users'")
        };
        assert_eq!(users["ann"]["n"], 2);
        work.snapshot.custom_data = Arc::default();
        assert!(work.learned().is_empty());
    }

    #[test]
    fn what_controllers_learn_is_followed_key_by_key() {
        let mut work = Work::<Stream> {
            stream: None,
            snapshot: Snapshot::default(),
            news: false,
            streaming_since: Instant::now(),
            learned: Default::default(),
        };
        let keyed = |n: u64| {
            Arc::new(control_api::Keyed {
                value: control_api::Kept::of(&serde_json::json!(n)),
                ..control_api::Keyed::default()
            })
        };
        for keys in [&[("a", 1), ("b", 1), ("c", 1)][..], &[("a", 1), ("b", 2), ("d", 1)], &[("d", 1)], &[]] {
            let section: control_api::Section = keys.iter().map(|(key, n)| ((*key).to_owned(), keyed(*n))).collect();
            work.snapshot.sections = Arc::new([("endpoints".to_owned(), section)].into());
            let sections::Section::Learned(learned) = work.learned()["endpoints"].clone() else { panic!("learned") };
            let learned: Vec<(String, String)> =
                learned.iter().map(|(key, kept)| (key.clone(), kept.text().to_owned())).collect();
            let wanted: Vec<(String, String)> =
                keys.iter().map(|(key, n)| ((*key).to_owned(), n.to_string())).collect();
            assert_eq!(learned, wanted);
        }
    }

    fn eventually(mut so: impl FnMut() -> bool) {
        let until = Instant::now() + Duration::from_secs(60);
        while !so() {
            assert!(Instant::now() < until, "not so within a minute");
            thread::sleep(Duration::from_millis(5));
        }
    }
}
