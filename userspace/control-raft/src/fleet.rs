//! A cluster with very many edges, in one process: the leader as it is, the edges' own code for following it, and links that take their
//! time. What is not here is HTTP and TLS around what is said.
//!
//! `cargo xtask bench edges` runs it with ten thousand, alone and in a release build, and measures; the ordinary run has a small fleet,
//! and looks at what holds for any: everybody comes to the same state, a change is written once for all, and an edge that takes nothing
//! costs the others nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use control_api::{Delta, Member, MemberRole, Update};
use control_state::{Action, Entry, LEVEL, PutMode, State};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, mpsc};

use crate::control::{Control, lock};
use crate::publish::Publisher;
use crate::wire::{Heartbeat, HeartbeatAnswer};
use crate::{Config, follow, peer};

#[test]
fn a_change_reaches_a_fleet_with_some_that_take_nothing() {
    let fleet = Fleet::start(150, 3);
    fleet.join();
    fleet.follow();
    for n in 0..20 {
        // More than waits for an edge: those that take nothing are behind, and the others are not.
        fleet.change(n, Duration::from_secs(60));
    }
    fleet.all_hold_the_same();
    let written = lock(&fleet.shared.written).clone();
    assert!(written.values().all(|texts| *texts == 1), "each change is written once: {written:?}");
    fleet.shared.gate.add_permits(fleet.count * 1000);
    fleet.change(20, Duration::from_secs(60));
    fleet.eventually("those that took nothing catch up", || fleet.at_version(fleet.version()) == fleet.count);
}

/// Each turn of the leader is about those that have said something new: all turns together are about as many as have spoken.
#[test]
fn a_fleet_that_starts_is_looked_at_as_it_speaks() {
    let fleet = Fleet::start(600, 0);
    fleet.join();
    let (looked_at, beats) = (fleet.control.inner().roll.looks(), fleet.shared.beats.load(Ordering::Relaxed));
    // What is said while it is counted.
    let most = beats + fleet.count as u64;
    assert!(looked_at <= most, "for what {beats} beats said, members were looked at {looked_at} times");
}

/// Figures for people and, where `WEIR_BENCH_JSON` names a file, for programs. The bounds are asserted.
#[test]
#[ignore = "takes minutes, and a processor for itself: cargo xtask bench edges"]
fn ten_thousand_edges() {
    let count = std::env::var("WEIR_EDGES").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let rounds: u32 = std::env::var("WEIR_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let mut rows = Vec::new();
    let mut row = |name: &str, unit: &str, mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        let (median, min, max) = (values[values.len() / 2], values[0], values[values.len() - 1]);
        println!("{name}: median {median:.3} {unit}, from {min:.3} to {max:.3}, {} rounds", values.len());
        let rounds = values.len();
        rows.push(json!({"name": name, "unit": unit, "median": median, "min": min, "max": max, "rounds": rounds}));
        max
    };
    row("resident memory, before there is anybody", "MB", vec![resident_mb()]);
    let fleet = Fleet::start(count, 10.min(count / 10));
    let began = Instant::now();
    fleet.join();
    row("all have joined", "s", vec![began.elapsed().as_secs_f64()]);
    row("resident memory, all are members", "MB", vec![resident_mb()]);
    let began = Instant::now();
    fleet.follow();
    row("all follow", "s", vec![began.elapsed().as_secs_f64()]);
    row("resident memory, all follow", "MB", vec![resident_mb()]);
    let (mut taken, mut cores) = (Vec::new(), Vec::new());
    for n in 0..rounds {
        let (cpu, began) = (fleet.cpu(), Instant::now());
        taken.push(fleet.change(n, Duration::from_secs(60)).as_secs_f64());
        // A change every second, and beats and signs of life all the time.
        std::thread::sleep(Duration::from_secs(1).saturating_sub(began.elapsed()));
        cores.push((fleet.cpu() - cpu).as_secs_f64() / began.elapsed().as_secs_f64());
    }
    let slowest = row("a change is live on all", "s", taken);
    row("processors that the control half takes", "cores", cores.clone());
    let memory = row("resident memory, edges and all", "MB", vec![resident_mb()]);
    fleet.all_hold_the_same();
    cores.sort_by(f64::total_cmp);
    if let Some(file) = std::env::var_os("WEIR_BENCH_JSON") {
        let whole = json!({"scenario": "edges", "machine": {"edges": count}, "rows": rows});
        std::fs::write(file, serde_json::to_string_pretty(&whole).unwrap()).unwrap();
    }
    let median = cores[cores.len() / 2];
    assert!(slowest <= 1.0, "a change was live on all after {slowest:.3} s; 1 s is wanted");
    assert!(median <= 1.0, "the control half took {median:.2} processors; 1 is wanted");
    assert!(memory <= 200.0, "{memory:.0} MB are resident; 200 are wanted");
}

struct Fleet {
    control: Control,
    count: usize,
    /// So many of the edges, the first ones, take nothing until the gate is opened.
    deaf: usize,
    shared: Arc<Shared>,
    edges: Vec<Arc<Publisher>>,
    /// Dropped in this order: edges first.
    links: Option<Runtime>,
    runtime: Option<Runtime>,
    _directory: TempDir,
}

struct Shared {
    /// By version: how many edges are there, and since when the last of them.
    live: Mutex<BTreeMap<u64, (usize, Option<Instant>)>>,
    /// By version: texts of the step to it that edges were sent.
    written: Mutex<BTreeMap<u64, usize>>,
    /// The last of them, with what they say.
    steps: Mutex<VecDeque<(Bytes, Arc<Delta>)>>,
    /// The last state that was told whole, read once for all that are told it: ten thousand copies of ten thousand members are more than
    /// one machine has memory for.
    whole: Mutex<Option<(Bytes, State)>>,
    beats: AtomicU64,
    gate: Semaphore,
}

impl Fleet {
    fn start(count: usize, deaf: usize) -> Fleet {
        let directory = tempfile::tempdir().unwrap();
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("control").enable_all().build().unwrap();
        let links = Builder::new_multi_thread().worker_threads(1).thread_name("links").enable_all().build().unwrap();
        let control = runtime.block_on(async {
            let mut config = Config::single("n1", directory.path());
            config.listeners = vec![std::net::TcpListener::bind("127.0.0.1:0").unwrap()];
            Control::start(config).await.unwrap_or_else(|e| panic!("{e}"))
        });
        let shared = Arc::new(Shared::new());
        let edges = (0..count).map(|_| Publisher::new(State::default())).collect();
        let (links, runtime) = (Some(links), Some(runtime));
        Fleet { control, count, deaf, shared, edges, links, runtime, _directory: directory }
    }

    fn version(&self) -> u64 {
        self.control.state().view.version
    }

    fn links(&self) -> &Runtime {
        self.links.as_ref().unwrap()
    }

    /// Every edge beats, as often as it is told, and is a member before this returns.
    fn join(&self) {
        self.eventually("the cluster is of this level", || self.control.state().level() == LEVEL);
        for n in 0..self.count {
            let (control, shared) = (self.control.clone(), self.shared.clone());
            self.links().spawn(async move { beat(control, shared, n).await });
        }
        let up = || self.control.state().view.members.values().filter(|member| member.up).count();
        self.eventually("all are members", || up() > self.count);
        let object = |n: usize| json!({"name": format!("pipeline-{n:02}"), "kind": "Pipeline", "filters": []});
        let entries = (0..20).map(|n| Entry::new(object(n).into(), Vec::new())).collect();
        self.propose(Action::Put { mode: PutMode::Create, entries });
    }

    /// Every edge reads what the leader tells.
    fn follow(&self) {
        let inner = self.control.inner();
        for (n, own) in self.edges.iter().enumerate() {
            let publisher = inner.publisher();
            let (follower, (sender, lines)) = (publisher.follow(None), mpsc::channel(16));
            let telling = peer::Telling { conceals: None, changes: true, signs: None, may: Box::new(|| true) };
            self.runtime.as_ref().unwrap().spawn(peer::tell(publisher, follower, telling, sender));
            let (own, shared, deaf) = (own.clone(), self.shared.clone(), n < self.deaf);
            self.links().spawn(async move { read(own, shared, lines, n, deaf).await });
        }
        let version = self.version();
        self.eventually("all follow", || self.at_version(version) >= self.count - self.deaf);
    }

    /// Puts an object anew, and waits until every edge that takes anything has it: how long that took.
    fn change(&self, n: u32, patience: Duration) -> Duration {
        let document = json!({"name": "pipeline-07", "kind": "Pipeline", "filters": [], "turn": n});
        let entries = vec![Entry::new(document.into(), Vec::new())];
        let began = Instant::now();
        let version = self.propose(Action::Put { mode: PutMode::Upsert, entries });
        loop {
            let (there, last) = lock(&self.shared.live).get(&version).copied().unwrap_or_default();
            if let Some(last) = last.filter(|_| there >= self.count - self.deaf) {
                return last.saturating_duration_since(began);
            }
            assert!(began.elapsed() < patience, "version {version} is live on {there} of {}", self.count);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn propose(&self, action: Action) -> u64 {
        let runtime = self.runtime.as_ref().unwrap();
        runtime.block_on(self.control.propose(action)).unwrap_or_else(|refusal| panic!("{refusal}")).version
    }

    fn at_version(&self, version: u64) -> usize {
        self.edges.iter().filter(|edge| edge.state().view.version >= version).count()
    }

    fn all_hold_the_same(&self) {
        let ours = self.control.state().mark(0);
        for (n, edge) in self.edges.iter().enumerate().skip(self.deaf) {
            self.eventually("it holds what the leader holds", || {
                let theirs = edge.state().mark(0);
                (theirs.version, theirs.view) == (ours.version, ours.view) || theirs.version > ours.version
            });
            assert!(edge.state().view.members.len() > self.count, "edge {n}");
        }
    }

    fn eventually(&self, what: &str, check: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60) + Duration::from_millis(60) * self.count as u32;
        while !check() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What all threads but those of the links and this one have taken.
    fn cpu(&self) -> Duration {
        let own = std::fs::read_link("/proc/thread-self").unwrap();
        let tasks =
            std::fs::read_dir("/proc/self/task").unwrap().flatten().filter(|task| !own.ends_with(task.file_name()));
        let read =
            |task: &std::fs::DirEntry, file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let taken = tasks.filter(|task| read(task, "comm").trim() != "links").map(|task| {
            let stat = read(&task, "schedstat");
            stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).map_or(Duration::ZERO, Duration::from_nanos)
        });
        taken.sum()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for runtime in [self.links.take(), self.runtime.take()].into_iter().flatten() {
            runtime.shutdown_timeout(Duration::from_millis(500));
        }
    }
}

/// What an edge says of itself, over a link; and again when it is told to.
async fn beat(control: Control, shared: Arc<Shared>, n: usize) {
    let mut pace = Duration::from_millis(200);
    loop {
        tokio::time::sleep(link(n)).await;
        let (run, leaving, mark, edge) = (1, false, None, None);
        let said = Heartbeat { member: member(n), run, leaving, mark, edge, brief: true, believes: None };
        let said = serde_json::to_vec(&said).unwrap();
        let inner = control.inner().clone();
        // What reading it and answering costs is the leader's.
        let answer = control.runtime().spawn(async move {
            let heartbeat: Heartbeat = serde_json::from_slice(&said).ok()?;
            serde_json::to_vec(&inner.hear(heartbeat)?.ok()?).ok()
        });
        if let Ok(Some(answer)) = answer.await {
            let answer: HeartbeatAnswer = serde_json::from_slice(&answer).unwrap();
            assert!(answer.heard.is_empty(), "nobody asked for it");
            pace = Duration::from_millis(answer.pace_ms.max(200));
            shared.beats.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(pace).await;
    }
}

fn member(n: usize) -> Member {
    Member {
        name: format!("edge-{n:05}"),
        role: MemberRole::Secondary,
        edge: true,
        up: true,
        instance: format!("{n:032x}"),
        level: LEVEL,
        version: env!("CARGO_PKG_VERSION").into(),
        api_addr: "localhost:2381".into(),
        peer_url: format!("http://10.{}.{}.{}:2380", n >> 16, n >> 8 & 255, n & 255),
        ..Member::default()
    }
}

/// An edge reads, as one does over HTTP.
async fn read(own: Arc<Publisher>, shared: Arc<Shared>, mut lines: mpsc::Receiver<Bytes>, n: usize, deaf: bool) {
    loop {
        if deaf {
            shared.gate.acquire().await.unwrap().forget();
        }
        let Some(line) = lines.recv().await else { return };
        tokio::time::sleep(link(n)).await;
        let before = own.state().view.version;
        shared.advance(&own, &line);
        let version = own.state().view.version;
        // Signs of life are no news.
        if version != before {
            shared.is_live(version, deaf);
        }
    }
}

impl Shared {
    fn new() -> Shared {
        let (live, written, steps) = (Mutex::default(), Mutex::default(), Mutex::default());
        Shared { live, written, steps, whole: Mutex::default(), beats: AtomicU64::new(0), gate: Semaphore::new(0) }
    }

    /// Each text is read once for all: what ten thousand machines have memory for, one has not.
    fn advance(&self, own: &Publisher, line: &Bytes) {
        let same = |told: &Bytes| told.as_ptr() == line.as_ptr();
        let told = lock(&self.whole).as_ref().filter(|(told, _)| same(told)).map(|(_, state)| state.clone());
        if let Some(state) = told {
            return own.reset(state);
        }
        let told = lock(&self.steps).iter().find(|(told, _)| same(told)).map(|(_, delta)| delta.clone());
        if let Some(delta) = told {
            return follow::advance(own, Update::Delta(delta), line.len()).unwrap();
        }
        let update: Update = serde_json::from_slice(line).unwrap();
        if let Update::Delta(delta) = &update {
            let mut steps = lock(&self.steps);
            steps.push_back((line.clone(), delta.clone()));
            if steps.len() > STEPS_KEPT {
                steps.pop_front();
            }
            *lock(&self.written).entry(delta.to).or_default() += 1;
        }
        let whole = matches!(update, Update::Snapshot(_));
        follow::advance(own, update, line.len()).unwrap();
        if whole {
            *lock(&self.whole) = Some((line.clone(), State::clone(&own.state())));
        }
    }

    fn is_live(&self, version: u64, deaf: bool) {
        if !deaf {
            let mut live = lock(&self.live);
            let (there, last) = live.entry(version).or_default();
            *there += 1;
            *last = Some(Instant::now());
            while live.len() > 100 {
                live.pop_first();
            }
        }
    }
}

/// An edge that is no further behind reads what others have read.
const STEPS_KEPT: usize = 64;

/// What a message takes from one machine to another: 1 to 20 ms, each edge its own.
fn link(n: usize) -> Duration {
    Duration::from_micros(1000 + (n as u64).wrapping_mul(2_654_435_761) % 19_000)
}

fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}
