//! Backends of virtual IPs: how each is told to the kernel, which of them are well, and whose each slot is.
//!
//! Every edge asks them for itself, and spreads flows over those that answer it: what one edge alone cannot reach, it alone leaves out.

use base_model::{BackendCheckSpec, BackendCheckType, BackendSpec, Cidr, MachineState, VirtualIpSpec};
use edge_kernel::{Backend, Knock, Prefix, Slot, Unanswered, knock};
use edge_l4::backends::{age, are_young, change, rename};
use edge_l4::maglev::{Candidate, full_table};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What is known of one at this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendRow {
    pub vip: String,
    pub backend: String,
    /// It answers, or nobody has found otherwise yet. One that cannot be asked, and never was, is not.
    pub well: bool,
}

/// What a machine knows that has backends to send to.
#[derive(Clone, Default, Debug)]
pub struct Around {
    /// Its addresses.
    pub own: Vec<IpAddr>,
    /// The highest number that the kernel has room for.
    pub room: u16,
    /// Numbers of machines: what slots call those must not be a backend's.
    pub members: BTreeSet<u16>,
    /// Their addresses, and names.
    pub machines: BTreeMap<IpAddr, String>,
}

/// See the module doc.
#[derive(Default)]
pub struct Backends {
    /// What the kernel calls each, from the highest number down, where they seldom meet those of machines. One that nobody needs any more is
    /// given to another when the kernel has forgotten it.
    numbers: BTreeMap<Server, u16>,
    vips: BTreeMap<String, Spread>,
    /// By virtual IP and backend.
    checks: BTreeMap<(String, String), Check>,
    /// Why nothing can be sent to some from here, likewise.
    left_out: BTreeMap<(String, String), String>,
    /// Virtual IPs whose backends this machine cannot ask, because it could not be answered.
    unasked: BTreeSet<String>,
    /// Grows with every one that becomes well or unwell.
    turns: Arc<AtomicU64>,
    seen: u64,
}

/// One of a virtual IP, as the kernel has to know it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Server {
    label: String,
    address: IpAddr,
    sources: Option<Prefix>,
}

/// Whose the slots of a virtual IP are.
struct Spread {
    /// Numbers and weights of those that take new flows, and numbers of those that may hold some.
    taking: Vec<(u16, u32)>,
    alive: BTreeSet<u16>,
    slots: Arc<[Slot]>,
    /// Since when they take them.
    since: Instant,
    drain: Duration,
    /// Some slots' connections are not all written down yet: see [`age`].
    young: bool,
    /// There are active ones, and none is well.
    none_well: bool,
    /// Those that the document has, and those it had, which keep what they hold for a while.
    listed: BTreeMap<u16, Server>,
    gone: BTreeMap<u16, Server>,
    /// Since when each takes nothing new. Only such ones lose what they hold in time.
    resting: BTreeMap<u16, Instant>,
}

/// What is asked of a backend, and how often.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Asked {
    label: String,
    backend: IpAddr,
    source: IpAddr,
    to: SocketAddr,
    from: IpAddr,
    http: Option<String>,
    /// That it refuses says enough: what it serves are datagrams.
    may_refuse: bool,
    /// Ranges of statuses.
    accepted: Vec<[u16; 2]>,
    interval: Duration,
    timeout: Duration,
    fails: u32,
    passes: u32,
}

/// Asks until it is dropped.
struct Check {
    asked: Asked,
    health: Arc<Mutex<Health>>,
    _stop: Sender<()>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Health {
    /// Something was found out, be it that nothing can be.
    known: bool,
    /// It was asked, and answered or did not.
    heard: bool,
    unwell: bool,
    /// Answers in a row that say otherwise.
    against: u32,
    /// What went wrong last, if the last time did.
    told: Option<String>,
}

impl Health {
    /// Takes the next answer. The first decides by itself: nothing else is known. True: it has turned.
    fn take(&mut self, answer: Result<(), String>, fails: u32, passes: u32) -> bool {
        let bad = answer.is_err();
        self.told = answer.err();
        if !self.heard {
            (self.known, self.heard, self.unwell) = (true, true, bad);
            return true;
        }
        if bad == self.unwell {
            self.against = 0;
            return false;
        }
        self.against += 1;
        if self.against < if bad { fails } else { passes } {
            return false;
        }
        (self.unwell, self.against) = (bad, 0);
        true
    }

    /// Nothing is learnt of the backend, so it stays what it is taken for. True: nobody need wait for more.
    fn cannot_ask(&mut self, why: String) -> bool {
        self.told = Some(why);
        !std::mem::replace(&mut self.known, true)
    }

    fn state(&self) -> State {
        match (self.unwell, self.known, self.heard) {
            (true, ..) => State::Unwell,
            (_, false, _) => State::Unknown,
            (_, _, true) => State::Well,
            (_, _, false) => State::Unasked,
        }
    }
}

/// What new flows may be given to, best first: those of the best that there is take them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum State {
    Well,
    /// Its first answer is not here yet.
    Unknown,
    /// Nobody can say: this machine cannot ask it, and never could.
    Unasked,
    Unwell,
}

impl Backends {
    /// Takes what the documents say.
    pub fn follow(&mut self, specs: &BTreeMap<String, VirtualIpSpec>, around: &Around) {
        self.follow_at(specs, around, Instant::now());
    }

    fn follow_at(&mut self, specs: &BTreeMap<String, VirtualIpSpec>, around: &Around, now: Instant) {
        let specs: BTreeMap<&String, &VirtualIpSpec> =
            specs.iter().filter(|(_, spec)| !spec.backends.is_empty()).collect();
        self.vips.retain(|name, _| specs.contains_key(name));
        self.make_way(around);
        let mut left_out = BTreeMap::new();
        let mut listed = BTreeMap::new();
        for (name, spec) in &specs {
            let mut servers = BTreeMap::new();
            for (place, backend) in spec.backends.iter().enumerate() {
                match self.number(spec, backend, around) {
                    Ok((number, server)) => drop(servers.insert(number, (place, server))),
                    Err(why) => drop(left_out.insert(((*name).clone(), backend.label().to_owned()), why)),
                }
            }
            listed.insert(*name, servers);
        }
        for ((vip, backend), why) in left_out.iter().filter(|(key, why)| self.left_out.get(*key) != Some(why)) {
            tracing::error!(vip, backend, "takes no flows here: {why}");
        }
        self.left_out = left_out;
        self.ask(&specs, around);
        self.seen = self.turns.load(Ordering::Acquire);
        for (name, spec) in specs {
            let checks = self.checks.iter().filter(|((vip, _), _)| vip == name);
            let states = checks.map(|((_, label), check)| (label.as_str(), check.health().state())).collect();
            let spread = self.vips.entry(name.clone()).or_insert_with(|| Spread::new(now));
            spread.follow(spec, listed.remove(name).unwrap_or_default(), &states, now);
        }
    }

    /// Backends whose numbers are machines' by now take others: of two with one number the kernel would take neither.
    fn make_way(&mut self, around: &Around) {
        let clash = |number: u16| number > around.room || around.members.contains(&number);
        let moved: Vec<(Server, u16)> =
            self.numbers.iter().filter(|(_, number)| clash(**number)).map(|(s, n)| (s.clone(), *n)).collect();
        for (server, old) in moved {
            match self.free(around) {
                Some(new) => {
                    self.vips.values_mut().for_each(|spread| spread.rename(old, new));
                    self.numbers.insert(server, new);
                }
                None => {
                    self.vips.values_mut().for_each(|spread| spread.forget(old));
                    self.numbers.remove(&server);
                }
            }
        }
    }

    fn free(&self, around: &Around) -> Option<u16> {
        let taken: BTreeSet<u16> = self.numbers.values().chain(&around.members).copied().collect();
        (1..=around.room).rev().find(|number| !taken.contains(number))
    }

    /// What the kernel calls a backend of the document, or why nothing can be sent to it.
    fn number(
        &mut self,
        spec: &VirtualIpSpec,
        backend: &BackendSpec,
        around: &Around,
    ) -> Result<(u16, Server), String> {
        let address = reachable(&backend.address, &around.own)?;
        if let Some(machine) = around.machines.get(&address) {
            return Err(format!("{address} is the address of {machine}, which takes GUE: give the server's own"));
        }
        let prefix = |prefix: Cidr| Prefix { address: prefix.first(), bits: prefix.length() };
        let sources = spec.backend_sources.as_ref().and_then(|sources| sources.of(address.is_ipv4())).map(prefix);
        let server = Server { label: backend.label().to_owned(), address, sources };
        let number = match self.numbers.get(&server).copied().or_else(|| self.free(around)) {
            Some(number) => number,
            None => return Err(format!("the kernel plane has room for {} machines and backends", around.room)),
        };
        self.numbers.insert(server.clone(), number);
        Ok((number, server))
    }

    /// Begins and ends checks. What is known of a backend stays known when it is asked another way.
    fn ask(&mut self, specs: &BTreeMap<&String, &VirtualIpSpec>, around: &Around) {
        let mut wanted = BTreeMap::new();
        let deaf = |spec: &VirtualIpSpec| ends(spec, &around.own).is_none();
        self.unasked = specs.iter().filter(|(_, spec)| deaf(spec)).map(|(name, _)| (*name).clone()).collect();
        for (name, spec) in specs {
            for asked in asked(spec, &around.own) {
                let key = ((*name).clone(), asked.label.clone());
                if !self.left_out.contains_key(&key) {
                    wanted.insert(key, asked);
                }
            }
        }
        self.checks.retain(|key, _| wanted.contains_key(key));
        for (key, asked) in wanted {
            let before = self.checks.get(&key);
            if before.is_some_and(|check| check.asked == asked) {
                continue;
            }
            let same = before.filter(|check| (check.asked.backend, check.asked.to) == (asked.backend, asked.to));
            let health = same.map(Check::health).unwrap_or_default();
            let check = Check::begin(&key.0, asked, health, self.turns.clone());
            self.checks.insert(key, check);
        }
    }

    /// What was followed last is in force: numbers that it does not name may be others'.
    pub fn in_force(&mut self) {
        let numbers = |spread: &Spread| spread.listed.keys().chain(spread.gone.keys()).copied().collect::<Vec<_>>();
        let used: BTreeSet<u16> = self.vips.values().flat_map(numbers).collect();
        self.numbers.retain(|_, number| used.contains(number));
    }

    /// Whether [`Backends::follow`] is to be called for what is new.
    pub fn has_news(&self) -> bool {
        self.seen != self.turns.load(Ordering::Acquire)
            || self.vips.values().any(|spread| spread.is_due(Instant::now()))
    }

    /// All that slots may name.
    pub fn machines(&self) -> Vec<edge_kernel::Machine> {
        let servers = self.vips.values().flat_map(|spread| spread.listed.iter().chain(&spread.gone));
        let machine = |index: u16, server: &Server| edge_kernel::Machine {
            index,
            name: server.label.clone(),
            address: server.address,
            next_hop: None,
            own: false,
            backend: Some(Backend { sources: server.sources }),
        };
        let by_number: BTreeMap<u16, edge_kernel::Machine> =
            servers.map(|(number, server)| (*number, machine(*number, server))).collect();
        by_number.into_values().collect()
    }

    /// The slots of a virtual IP that has backends.
    pub fn slots(&self, vip: &str) -> Option<Arc<[Slot]>> {
        self.vips.get(vip).map(|spread| spread.slots.clone())
    }

    pub fn rows(&self) -> Vec<BackendRow> {
        let row =
            |(vip, backend): &(String, String), well| BackendRow { vip: vip.clone(), backend: backend.clone(), well };
        let asked = self.checks.iter().map(|(key, check)| row(key, check.health().state() < State::Unasked));
        asked.chain(self.left_out.keys().map(|key| row(key, false))).collect()
    }

    fn takes(&self, vip: &str, label: &str) -> bool {
        self.vips.get(vip).is_some_and(|spread| {
            let mut servers = spread.taking.iter().filter_map(|(number, _)| spread.listed.get(number));
            servers.any(|server| server.label == label)
        })
    }

    /// What people should know of those that are not well, by virtual IP.
    pub fn told(&self) -> BTreeMap<String, String> {
        let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for vip in &self.unasked {
            let why = format!("its backends are not asked from here, and are taken for well: {DEAF}");
            told.entry(vip.clone()).or_default().push(why);
        }
        for ((vip, label), check) in &self.checks {
            let health = check.health();
            let why = health.told.as_deref().unwrap_or("it answers again, and is not trusted yet");
            let none_well = self.vips.get(vip).is_some_and(|spread| spread.none_well);
            if health.unwell {
                let told = told.entry(vip.clone()).or_default();
                if none_well && told.is_empty() {
                    told.push("no backend is well, so all that are active take new flows as if they were".to_owned());
                }
                let what = if none_well { "is unwell" } else { "takes no new flows here" };
                told.push(format!("backend {label} ({}) {what}: {why}", check.asked.backend));
            } else if health.told.as_deref().is_some_and(|why| why.starts_with(CANNOT_ASK)) {
                let then = match health.state() {
                    State::Unasked if !self.takes(vip, label) => "takes no new flows here, where others answer",
                    State::Unasked => "takes new flows here, as none is known to be well",
                    _ => "is what it was when it was asked last",
                };
                let told = told.entry(vip.clone()).or_default();
                told.push(format!("backend {label} ({}) {then}: {why}", check.asked.backend));
            }
        }
        for ((vip, label), why) in &self.left_out {
            told.entry(vip.clone()).or_default().push(format!("backend {label} takes no flows here: {why}"));
        }
        told.into_iter().map(|(vip, lines)| (vip, lines.join("; "))).collect()
    }
}

impl Spread {
    fn new(now: Instant) -> Spread {
        Spread {
            taking: Vec::new(),
            alive: BTreeSet::new(),
            slots: Arc::from([]),
            since: now,
            drain: Duration::ZERO,
            young: false,
            none_well: false,
            listed: BTreeMap::new(),
            gone: BTreeMap::new(),
            resting: BTreeMap::new(),
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let over = |since: Instant| now.duration_since(since) >= self.drain;
        self.young && over(self.since)
            || self.resting.iter().any(|(number, since)| self.alive.contains(number) && over(*since))
    }

    /// `listed`: those of the document with their places in it. `states`: what checks have found, by label.
    fn follow(
        &mut self,
        spec: &VirtualIpSpec,
        listed: BTreeMap<u16, (usize, Server)>,
        states: &BTreeMap<&str, State>,
        now: Instant,
    ) {
        self.drain = spec.drain_timeout.duration();
        let drain = self.drain;
        let over = |since: Instant| now.duration_since(since) >= drain;
        self.gone.extend(std::mem::take(&mut self.listed));
        self.gone.retain(|number, _| !listed.contains_key(number));
        let state = |place: usize| spec.backends[place].state;
        let active = || listed.iter().filter(|(_, (place, _))| state(*place) == MachineState::Active);
        let found = |server: &Server| states.get(server.label.as_str()).copied().unwrap_or(State::Well);
        // One whose first answer is awaited is as good as any, but for below: all may begin at the same time.
        let rank = |server: &Server| found(server).max(State::Unknown);
        let best = active().map(|(_, (_, server))| rank(server)).min();
        self.none_well = best == Some(State::Unwell);
        let fit = || active().filter(|(_, (_, server))| Some(rank(server)) == best);
        // One that comes to others waits for its first answer.
        let takes = |number: u16| self.taking.iter().any(|(taking, _)| *taking == number);
        let stays = fit().any(|(number, _)| takes(*number));
        let waits = |number: u16, server: &Server| stays && !takes(number) && found(server) == State::Unknown;
        let taking: Vec<(u16, u32)> = fit()
            .filter(|(number, (_, server))| !waits(**number, server))
            .map(|(number, (place, _))| (*number, spec.backends[*place].weight))
            .collect();
        let up = listed.iter().filter(|(_, (place, _))| state(*place) != MachineState::Down).map(|(number, _)| *number);
        let mut rests: BTreeSet<u16> = up.chain(self.gone.keys().copied()).collect();
        rests.retain(|number| !taking.iter().any(|(taking, _)| taking == number));
        self.resting.retain(|number, _| rests.contains(number));
        for number in rests {
            self.resting.entry(number).or_insert(now);
        }
        let holds = self.resting.iter().filter(|(_, since)| !over(**since)).map(|(number, _)| *number);
        let alive: BTreeSet<u16> = taking.iter().map(|(number, _)| *number).chain(holds).collect();
        self.gone.retain(|number, _| alive.contains(number));
        self.resting.retain(|number, _| listed.contains_key(number) || alive.contains(number));
        if (&self.taking, &self.alive) != (&taking, &alive) || self.slots.is_empty() {
            let names = |number: u16| listed.get(&number).map_or("", |(_, server)| server.label.as_str());
            let candidates: Vec<Candidate<'_>> =
                taking.iter().map(|(id, weight)| Candidate { id: *id, weight: *weight, name: names(*id) }).collect();
            let mut slots = self.slots.to_vec();
            change(&mut slots, &full_table(&candidates), &alive.iter().copied().collect::<Vec<_>>());
            if self.taking != taking {
                self.since = now;
            }
            self.young = are_young(&slots);
            (self.slots, self.taking, self.alive) = (slots.into(), taking, alive);
        }
        if self.young && over(self.since) {
            let mut slots = self.slots.to_vec();
            age(&mut slots);
            (self.slots, self.young) = (slots.into(), false);
        }
        self.listed = listed.into_iter().map(|(number, (_, server))| (number, server)).collect();
    }

    /// A backend has another number.
    fn rename(&mut self, old: u16, new: u16) {
        fn moved<T>(map: &mut BTreeMap<u16, T>, old: u16, new: u16) {
            if let Some(value) = map.remove(&old) {
                map.insert(new, value);
            }
        }
        moved(&mut self.listed, old, new);
        moved(&mut self.gone, old, new);
        moved(&mut self.resting, old, new);
        if self.alive.remove(&old) {
            self.alive.insert(new);
        }
        self.taking.iter_mut().filter(|(number, _)| *number == old).for_each(|(number, _)| *number = new);
        self.taking.sort_unstable();
        let mut slots = self.slots.to_vec();
        rename(&mut slots, old, new);
        self.slots = slots.into();
    }

    /// There is no number for it any more.
    fn forget(&mut self, number: u16) {
        self.listed.remove(&number);
        self.gone.remove(&number);
        self.resting.remove(&number);
    }
}

/// An address that packets can be sent to from here.
fn reachable(address: &str, own: &[IpAddr]) -> Result<IpAddr, String> {
    let address: IpAddr = address.parse().map_err(|e| format!("{address}: {e}"))?;
    if own_of(address, own).is_none() {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        return Err(format!(
            "its address is of {family}, and this machine has none to send from; start it with --advertise-address"
        ));
    }
    Ok(address)
}

/// The address of a virtual IP that is asked at, and the one that is answered.
fn ends(spec: &VirtualIpSpec, own: &[IpAddr]) -> Option<(IpAddr, IpAddr)> {
    spec.prefixes().find_map(|prefix| Some((prefix.first(), own_of(prefix.first(), own)?)))
}

/// Of the same family.
fn own_of(ip: IpAddr, own: &[IpAddr]) -> Option<IpAddr> {
    own.iter().copied().find(|own| own.is_ipv4() == ip.is_ipv4())
}

/// What is asked of the backends of a virtual IP: at its first address of a family that this machine has one of.
fn asked(spec: &VirtualIpSpec, own: &[IpAddr]) -> Vec<Asked> {
    let usual = BackendCheckSpec::default();
    let check = spec.backend_check.as_ref().unwrap_or(&usual);
    let Some((to, from_here)) = ends(spec, own) else { return Vec::new() };
    let to = SocketAddr::new(to, spec.checked_port());
    let request = || {
        let host = if check.host.is_empty() { to.ip().to_string() } else { check.host.clone() };
        let host = if host.contains(':') && check.host.is_empty() { format!("[{host}]") } else { host };
        let uri = if check.uri.is_empty() { "/" } else { &check.uri };
        format!("GET {uri} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: weir\r\nConnection: close\r\n\r\n")
    };
    let asks = |backend: &&BackendSpec| backend.state != MachineState::Down;
    let one = |backend: &BackendSpec| {
        let address: IpAddr = backend.address.parse().ok()?;
        // Where packets come from as well: what looks at that on the way must be asked too.
        let sources = spec.backend_sources.as_ref().and_then(|sources| sources.of(address.is_ipv4()));
        let own = own_of(address, own)?;
        Some(Asked {
            label: backend.label().to_owned(),
            backend: address,
            source: sources.map_or(own, |prefix| prefix.first()),
            to,
            from: from_here,
            http: (check.type_ == BackendCheckType::Http).then(request),
            may_refuse: check.type_ == BackendCheckType::Tcp && !spec.protocols.contains(&base_model::Protocol::Tcp),
            accepted: check.status_codes.clone(),
            interval: check.interval.duration(),
            timeout: check.timeout.duration(),
            fails: check.fails,
            passes: check.passes,
        })
    };
    spec.backends.iter().filter(asks).filter_map(one).collect()
}

impl Check {
    fn begin(vip: &str, asked: Asked, health: Health, turns: Arc<AtomicU64>) -> Check {
        let health = Arc::new(Mutex::new(health));
        let (stop, stopped) = channel();
        let (vip, shared, asks) = (vip.to_owned(), health.clone(), asked.clone());
        let begun = std::thread::Builder::new()
            .name("backend-check".to_owned())
            .spawn(move || ask_on(&vip, &asks, &shared, &turns, &stopped));
        if let Err(error) = begun {
            lock(&health).cannot_ask(format!("{CANNOT_ASK}: {error}"));
        }
        Check { asked, health, _stop: stop }
    }

    fn health(&self) -> Health {
        lock(&self.health).clone()
    }
}

/// Until nobody wants to know any more.
fn ask_on(vip: &str, asked: &Asked, health: &Mutex<Health>, turns: &AtomicU64, stopped: &Receiver<()>) {
    loop {
        let began = Instant::now();
        let answer = ask(asked);
        let mut known = lock(health);
        match answer {
            // Nothing is learnt of the backend.
            Err(Failed::Here(why)) => {
                if known.told.as_ref() != Some(&why) {
                    tracing::warn!(vip, backend = asked.label, "{why}");
                }
                if known.cannot_ask(why) {
                    turns.fetch_add(1, Ordering::AcqRel);
                }
            }
            answer => {
                let answer = answer.map(|_| ()).map_err(|failed| match failed {
                    Failed::Here(why) | Failed::There(_, why) => why,
                });
                if known.take(answer, asked.fails, asked.passes) {
                    let why = known.told.as_deref().unwrap_or("it answers");
                    if known.unwell {
                        tracing::warn!(vip, backend = asked.label, "takes no new flows: {why}");
                    } else {
                        tracing::info!(vip, backend = asked.label, "takes new flows: {why}");
                    }
                    turns.fetch_add(1, Ordering::AcqRel);
                }
            }
        }
        drop(known);
        let rest = asked.interval.saturating_sub(began.elapsed()).max(asked.interval / 10);
        match stopped.recv_timeout(rest) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

enum Failed {
    /// This machine could not ask.
    Here(String),
    There(Trouble, String),
}

/// Where a backend fails, as far as it can be told from here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Nothing comes back.
    Silent,
    /// No process listens.
    Refused,
    /// No packet gets there.
    NoRoute,
    /// It answers, and not as it is to.
    Answer,
}

/// What a look at a backend found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Looked {
    pub vip: String,
    pub backend: String,
    pub address: String,
    pub found: Found,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// It answers over the tunnel at this address and port, and asks clients for segments of up to so many bytes.
    Well {
        at: SocketAddr,
        segment_max: u16,
    },
    Unwell {
        at: SocketAddr,
        trouble: Trouble,
        why: String,
    },
    /// This machine cannot ask it.
    Unasked(String),
    /// Nothing can be sent to it from here.
    LeftOut(String),
}

/// Asks each backend once, as the checks of a machine that sends from `own` do; those that are down are left out.
pub fn look(specs: &BTreeMap<String, VirtualIpSpec>, own: &[IpAddr]) -> Vec<Looked> {
    let mut wanted: Vec<(Looked, Option<Asked>)> = Vec::new();
    for (vip, spec) in specs {
        let mut questions: BTreeMap<String, Asked> =
            asked(spec, own).into_iter().map(|asked| (asked.label.clone(), asked)).collect();
        for backend in spec.backends.iter().filter(|backend| backend.state != MachineState::Down) {
            let asked = questions.remove(backend.label());
            let found = match (&asked, reachable(&backend.address, own)) {
                (_, Err(why)) => Found::LeftOut(why),
                (None, Ok(_)) => Found::Unasked(DEAF.to_owned()),
                // If it is not asked.
                (Some(_), Ok(_)) => Found::Unasked("no thread can be made for it".to_owned()),
            };
            let (vip, label, address) = (vip.clone(), backend.label().to_owned(), backend.address.clone());
            wanted.push((Looked { vip, backend: label, address, found }, asked));
        }
    }
    for some in wanted.chunks_mut(ASKED_AT_ONCE) {
        std::thread::scope(|scope| {
            for (looked, asked) in some {
                let Some(asked) = asked else { continue };
                asked.timeout = asked.timeout.min(LOOK_MAX);
                let begun = std::thread::Builder::new().spawn_scoped(scope, move || looked.found = found(asked));
                if let Err(error) = begun {
                    tracing::warn!("a backend is not asked: no thread can be made: {error}");
                }
            }
        });
    }
    wanted.into_iter().map(|(looked, _)| looked).collect()
}

fn found(asked: &Asked) -> Found {
    match ask(asked) {
        Ok(segment_max) => Found::Well { at: asked.to, segment_max },
        Err(Failed::Here(why)) => Found::Unasked(why),
        Err(Failed::There(trouble, why)) => Found::Unwell { at: asked.to, trouble, why },
    }
}

/// Says what segments it asks for.
fn ask(asked: &Asked) -> Result<u16, Failed> {
    let answer = knock(&Knock {
        backend: asked.backend,
        source: asked.source,
        to: asked.to,
        from: asked.from,
        request: asked.http.clone().unwrap_or_default().into_bytes(),
        timeout: asked.timeout,
    });
    if asked.may_refuse && matches!(answer, Err(Unanswered::Refused)) {
        return Ok(0);
    }
    let answer = answer.map_err(|unanswered| match unanswered {
        Unanswered::Here(error) => {
            let forbidden = [std::io::ErrorKind::PermissionDenied, std::io::ErrorKind::Unsupported];
            let advice = match forbidden.contains(&error.kind()) || error.raw_os_error() == Some(EAFNOSUPPORT) {
                true => {
                    "; checks of backends need CAP_NET_RAW, and leave for packet sockets (AF_PACKET in RestrictAddressFamilies of a \
                     systemd unit)"
                }
                false => "",
            };
            Failed::Here(format!("{CANNOT_ASK}: {error}{advice}"))
        }
        Unanswered::Silent => {
            let why = format!(
                "nothing came back within {}: it takes no tunnels from here, has no {} on it, or is not there",
                base_text::duration(asked.timeout),
                asked.to.ip()
            );
            Failed::There(Trouble::Silent, why)
        }
        Unanswered::Refused => Failed::There(Trouble::Refused, unanswered.to_string()),
        Unanswered::NoRoute(_) => Failed::There(Trouble::NoRoute, unanswered.to_string()),
        Unanswered::Mute | Unanswered::Ended => Failed::There(Trouble::Answer, unanswered.to_string()),
    })?;
    let segment_max = answer.segment_max.unwrap_or(SEGMENT_USUAL);
    if asked.http.is_none() {
        return Ok(segment_max);
    }
    let text = answer.text.as_slice();
    let status = std::str::from_utf8(&text[..text.len().min(12)])
        .ok()
        .and_then(|head| head.strip_prefix("HTTP/1.")?.get(2..5)?.parse::<u16>().ok());
    match status {
        Some(status) if accepts(&asked.accepted, status) => Ok(segment_max),
        Some(status) => Err(Failed::There(Trouble::Answer, format!("it answered with status {status}"))),
        None => Err(Failed::There(Trouble::Answer, "its answer is none of HTTP/1".to_owned())),
    }
}

fn accepts(ranges: &[[u16; 2]], status: u16) -> bool {
    BackendCheckSpec { status_codes: ranges.to_vec(), ..BackendCheckSpec::default() }.accepts(status)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

const CANNOT_ASK: &str = "this machine cannot ask it";
const DEAF: &str = "this machine has no address of the VirtualIP's family to be answered at";
/// Of who says nothing of it.
const SEGMENT_USUAL: u16 = 536;
/// How long [`look`] waits for one: somebody sits before it.
const LOOK_MAX: Duration = Duration::from_secs(3);
/// Threads of [`look`].
const ASKED_AT_ONCE: usize = 64;
/// Of Linux: what a unit says to a family of sockets that it does not allow.
const EAFNOSUPPORT: i32 = 97;

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> VirtualIpSpec {
        let written = format!("{{addresses: [192.0.2.1, '2001:db8::1'], ports: [8080, 80], {text}}}");
        let value = base_model::yaml::parse_document(&written).expect("good YAML");
        base_model::decode(&value, "").expect("a good document").value
    }

    /// Nobody is asked: there is no address to be asked from but for tests that say so.
    struct World {
        backends: Backends,
        specs: BTreeMap<String, VirtualIpSpec>,
        around: Around,
        began: Instant,
    }

    impl World {
        fn new(text: &str) -> World {
            let around = Around {
                own: vec![IpAddr::from([10, 0, 0, 9])],
                room: 255,
                members: (1..=3).collect(),
                machines: BTreeMap::new(),
            };
            let (backends, specs) = (Backends::default(), BTreeMap::new());
            let mut world = World { backends, specs, around, began: Instant::now() };
            world.say(text);
            world
        }

        /// Without addresses that checks could be of.
        fn say(&mut self, text: &str) {
            let mut spec = spec(text);
            spec.addresses = vec!["2001:db8::1".to_owned()];
            self.specs.insert("v".to_owned(), spec);
        }

        fn follow(&mut self, seconds: u64) -> Vec<[u16; 4]> {
            self.backends.follow_at(&self.specs, &self.around, self.began + Duration::from_secs(seconds));
            self.backends.in_force();
            owners(self.spread()).keys().copied().collect()
        }

        /// What checks have found.
        fn follow_with(&mut self, unwell: &[&str], unknown: &[&str], seconds: u64) -> Vec<[u16; 4]> {
            let states = unwell.iter().map(|label| (*label, State::Unwell));
            self.follow_states(states.chain(unknown.iter().map(|label| (*label, State::Unknown))).collect(), seconds)
        }

        fn follow_states(&mut self, states: BTreeMap<&str, State>, seconds: u64) -> Vec<[u16; 4]> {
            let spec = self.specs["v"].clone();
            let mut listed = BTreeMap::new();
            for (place, backend) in spec.backends.iter().enumerate() {
                let (number, server) = self.backends.number(&spec, backend, &self.around).expect("a number");
                listed.insert(number, (place, server));
            }
            let now = self.began + Duration::from_secs(seconds);
            let spread = self.backends.vips.entry("v".to_owned()).or_insert_with(|| Spread::new(now));
            spread.follow(&spec, listed, &states, now);
            owners(spread).keys().copied().collect()
        }

        fn spread(&self) -> &Spread {
            &self.backends.vips["v"]
        }
    }

    fn owners(spread: &Spread) -> BTreeMap<[u16; 4], usize> {
        let mut owners = BTreeMap::new();
        spread.slots.iter().for_each(|slot| *owners.entry(slot.owners()).or_default() += 1);
        owners
    }

    const BOTH: &str = "backends: [{name: a, address: 10.0.0.1}, {name: b, address: 10.0.0.2}], drainTimeout: 10s";

    #[test]
    fn one_that_fails_gets_nothing_new_and_keeps_what_it_has_for_a_while() {
        let mut world = World::new(BOTH);
        assert_eq!(world.follow_with(&[], &[], 0), [[254, 0, 0, 0], [255, 0, 0, 0]]);
        let share = owners(world.spread());
        let at = |world: &World, seconds| world.began + Duration::from_secs(seconds);
        assert!(!world.spread().is_due(at(&world, 100)), "there is nothing to wait for");
        assert_eq!(world.follow_with(&["b"], &[], 1), [[255, 0, 0, 0], [255, 0, 0, 254]]);
        assert!(!world.spread().is_due(at(&world, 10)) && world.spread().is_due(at(&world, 11)));
        // Nothing is new, and nothing moves.
        let before = world.spread().slots.clone();
        world.follow_with(&["b"], &[], 5);
        assert!(Arc::ptr_eq(&before, &world.spread().slots));
        assert_eq!(world.follow_with(&["b"], &[], 11), [[255, 0, 0, 0]]);
        assert!(!world.spread().is_due(at(&world, 100)), "it has lost what it had");
        // Back; then none is well, and all serve as before.
        world.follow_with(&[], &[], 20);
        world.follow_with(&[], &[], 31);
        let share_of = |world: &World| {
            let mut shares = BTreeMap::<u16, usize>::new();
            owners(world.spread())
                .into_iter()
                .for_each(|(owners, count)| *shares.entry(owners[0]).or_default() += count);
            shares
        };
        let first: BTreeMap<u16, usize> = share.into_iter().map(|(owners, count)| (owners[0], count)).collect();
        assert_eq!(share_of(&world), first, "the same shares as ever");
        world.follow_with(&["a", "b"], &[], 32);
        assert_eq!(share_of(&world), first);
        // One is taken out of the document: it keeps what it has, and then it is nobody.
        world.say("backends: [{name: a, address: 10.0.0.1}], drainTimeout: 10s");
        world.follow_with(&[], &[], 40);
        assert!(world.spread().gone.contains_key(&254) && world.spread().alive.contains(&254));
        assert_eq!(world.follow_with(&[], &[], 50), [[255, 0, 0, 0]]);
        assert!(world.spread().gone.is_empty());
        world.backends.in_force();
        assert_eq!(world.backends.numbers.len(), 1);
        // One that is down has nothing at once.
        world.say(
            "backends: [{name: a, address: 10.0.0.1, state: down}, {name: b, address: 10.0.0.2}], drainTimeout: 10s",
        );
        assert_eq!(world.follow_with(&[], &[], 60), [[254, 0, 0, 0]]);
    }

    #[test]
    fn what_a_healthy_backend_holds_outlives_every_time_out() {
        let mut world = World::new("backends: [{name: a, address: 10.0.0.1}], drainTimeout: 10s");
        assert_eq!(world.follow(0), [[255, 0, 0, 0]]);
        world.say(BOTH);
        // While what it holds is being written down it has all of which nothing is remembered, and afterwards what is.
        assert_eq!(world.follow(1), [[254, 0, 0, 255], [255, 0, 0, 0]]);
        for seconds in [11, 12, 1_000_000] {
            assert_eq!(world.follow(seconds), [[254, 255, 0, 254], [255, 0, 0, 0]], "{seconds}");
        }
        assert!(!world.spread().is_due(world.began + Duration::from_secs(2_000_000)));
        // It drains, which is what ends in time.
        world.say(&BOTH.replace("10.0.0.1}", "10.0.0.1, state: draining}"));
        assert_eq!(world.follow(2_000_000), [[254, 0, 0, 255], [254, 255, 0, 254]]);
        assert_eq!(world.follow(2_000_009), [[254, 0, 0, 255], [254, 255, 0, 254]]);
        assert_eq!(world.follow(2_000_010), [[254, 0, 0, 0]]);
    }

    #[test]
    fn one_that_comes_to_others_waits_for_its_first_answer() {
        let mut world = World::new("backends: [{name: a, address: 10.0.0.1}]");
        assert_eq!(world.follow_with(&[], &["a"], 0), [[255, 0, 0, 0]], "there is no other");
        world.say(BOTH);
        assert_eq!(world.follow_with(&[], &["a", "b"], 1), [[255, 0, 0, 0]]);
        assert_eq!(world.follow_with(&["b"], &[], 2), [[255, 0, 0, 0]]);
        assert_eq!(world.follow_with(&[], &[], 3).len(), 2);
        // All begin together: nobody is left out before something is known.
        let mut world = World::new(BOTH);
        assert_eq!(world.follow_with(&[], &["a", "b"], 0).len(), 2);
        assert_eq!(world.follow_with(&[], &["b"], 0).len(), 2, "it takes them already");
    }

    #[test]
    fn numbers_never_meet_those_of_machines() {
        let mut world = World::new(BOTH);
        world.follow(0);
        world.say(&BOTH.replace("10.0.0.2}", "10.0.0.2, state: draining}"));
        assert_eq!(world.follow(1), [[255, 0, 0, 0], [255, 0, 0, 254]]);
        // Machines that join get these numbers.
        world.around.members.extend([255, 254]);
        assert_eq!(world.follow(2), [[253, 0, 0, 0], [253, 0, 0, 252]], "whose the slots are is the same");
        let numbers: Vec<u16> = world.backends.machines().iter().map(|machine| machine.index).collect();
        assert_eq!(numbers, [252, 253]);
        // No room is left at all.
        world.around.room = 3;
        assert_eq!(world.follow(3), [[0, 0, 0, 0]]);
        assert!(world.backends.machines().is_empty());
        let told = &world.backends.told()["v"];
        assert!(told.contains("backend a takes no flows here: the kernel plane has room for 3 machines"), "{told}");
        world.around.room = 4;
        world.around.members = (1..=3).collect();
        assert_eq!(world.follow(4).len(), 1);
    }

    #[test]
    fn a_number_is_not_anothers_before_the_kernel_has_forgotten_it() {
        let mut world = World::new("backends: [{name: a, address: 10.0.0.1}], drainTimeout: 1s");
        world.follow(0);
        world.say("backends: [{name: b, address: 10.0.0.2}], drainTimeout: 1s");
        let at = |world: &World, seconds| world.began + Duration::from_secs(seconds);
        // Steering fails again and again.
        for seconds in 1..5 {
            let now = at(&world, seconds);
            world.backends.follow_at(&world.specs, &world.around, now);
        }
        world.say("backends: [{name: b, address: 10.0.0.2}, {name: c, address: 10.0.0.3}], drainTimeout: 1s");
        let now = at(&world, 5);
        world.backends.follow_at(&world.specs, &world.around, now);
        let numbers: Vec<u16> = world.backends.machines().iter().map(|machine| machine.index).collect();
        assert_eq!(numbers, [253, 254], "255 is known as a's");
        world.backends.in_force();
        assert!(!world.backends.numbers.values().any(|number| *number == 255));
    }

    #[test]
    fn what_nothing_can_be_sent_to_takes_no_flows() {
        let mut world = World::new(
            "backends: [{name: a, address: 10.0.0.1}, {name: b, address: '2001:db8::b'}, {name: c, address: 10.0.0.7}]",
        );
        world.around.machines.insert(IpAddr::from([10, 0, 0, 7]), "edge-7".to_owned());
        assert_eq!(world.follow(0), [[255, 0, 0, 0]]);
        let told = &world.backends.told()["v"];
        assert!(
            told.contains("backend b takes no flows here: its address is of IPv6, and this machine has none"),
            "{told}"
        );
        assert!(told.contains("backend c takes no flows here: 10.0.0.7 is the address of edge-7"), "{told}");
        let rows: Vec<(String, bool)> = world.backends.rows().into_iter().map(|row| (row.backend, row.well)).collect();
        assert_eq!(rows, [("b".to_owned(), false), ("c".to_owned(), false)]);
        assert_eq!(world.backends.machines().len(), 1);
    }

    #[test]
    fn what_is_known_of_a_backend_stays_known_when_it_is_asked_another_way() {
        let specs = |text: &str| BTreeMap::from([("v".to_owned(), spec(text))]);
        // Of an address that nobody has: whatever becomes of it, nobody says that it is well.
        let around = Around { own: vec![IpAddr::from([192, 0, 2, 77])], room: 9, ..Around::default() };
        let check = "backends: [{name: a, address: 192.0.2.9}], backendCheck: {interval: 1h, timeout: 1m, ";
        let mut backends = unasked(&specs(&format!("{check} fails: 3}}"))["v"], &around);
        let key = ("v".to_owned(), "a".to_owned());
        let known = Health { known: true, heard: true, unwell: true, against: 1, told: Some("no".to_owned()) };
        *lock(&backends.checks[&key].health) = known.clone();
        let said = |backends: &Backends| {
            let Health { known, unwell, .. } = backends.checks[&key].health();
            (known, unwell)
        };
        backends.follow(&specs(&format!("{check} fails: 4}}")), &around);
        assert_eq!(said(&backends), (true, true));
        backends.follow(&specs(&format!("{check} fails: 4}}").replace("name: a,", "name: a, weight: 7,")), &around);
        assert_eq!(said(&backends), (true, true));
        backends.follow(&specs(&format!("{check} fails: 4}}").replace("192.0.2.9", "192.0.2.8")), &around);
        assert_ne!(backends.checks[&key].health().told.as_deref(), Some("no"), "another server");
    }

    #[test]
    fn turns_come_after_so_many_in_a_row_but_for_the_first() {
        let mut health = Health::default();
        let bad = || Err("no".to_owned());
        assert!(health.take(bad(), 2, 3) && health.unwell, "nothing else is known");
        assert!(!health.take(Ok(()), 2, 3) && !health.take(Ok(()), 2, 3) && health.take(Ok(()), 2, 3));
        assert!(!health.take(bad(), 2, 3) && !health.take(Ok(()), 2, 3) && !health.take(bad(), 2, 3));
        assert!(health.take(bad(), 2, 3) && health.unwell);
        let mut health = Health::default();
        assert!(health.take(Ok(()), 2, 3) && !health.unwell, "whoever waits for it hears so");
        let mut health = Health::default();
        assert!(health.cannot_ask("no".to_owned()) && !health.cannot_ask("no".to_owned()) && !health.unwell);
        assert_eq!(health.state(), State::Unasked);
        assert!(health.take(bad(), 2, 3) && health.state() == State::Unwell, "the first answer decides, however late");
        assert!(!health.cannot_ask("no".to_owned()) && health.state() == State::Unwell, "it stays what it was");
    }

    #[test]
    fn one_that_cannot_be_asked_takes_flows_only_where_none_is_known_to_be_well() {
        let of = |pairs: &[(&'static str, State)]| pairs.iter().copied().collect::<BTreeMap<&str, State>>();
        let mut world = World::new(BOTH);
        // Nothing can be asked from here: all take flows, as without checks.
        let unasked = of(&[("a", State::Unasked), ("b", State::Unasked)]);
        assert_eq!(world.follow_states(unasked, 0).len(), 2);
        assert_eq!(
            world.follow_states(of(&[("a", State::Well), ("b", State::Unasked)]), 1),
            [[255, 0, 0, 0], [255, 0, 0, 254]]
        );
        assert!(!world.spread().none_well);
        // What is known to be unwell is worse than what nobody knows.
        let world = &mut World::new(BOTH);
        assert_eq!(world.follow_states(of(&[("a", State::Unwell), ("b", State::Unasked)]), 0), [[254, 0, 0, 0]]);
        assert_eq!(world.follow_states(of(&[("a", State::Unwell), ("b", State::Unwell)]), 20).len(), 2);
        assert!(world.spread().none_well);
    }

    #[test]
    fn one_that_cannot_be_asked_is_told_of_as_such_and_is_not_up() {
        let specs = |text: &str| BTreeMap::from([("v".to_owned(), spec(text))]);
        let around = Around { own: vec![IpAddr::from([192, 0, 2, 77])], room: 9, ..Around::default() };
        let text = "backends: [{name: a, address: 192.0.2.9}, {name: b, address: 192.0.2.8}], backendCheck: {interval: 1h, timeout: 1m}";
        let mut backends = unasked(&specs(text)["v"], &around);
        let health = |label: &str| backends.checks[&("v".to_owned(), label.to_owned())].health.clone();
        let (a, b) = (health("a"), health("b"));
        let rows = |backends: &Backends| backends.rows().into_iter().map(|row| row.well).collect::<Vec<bool>>();
        assert_eq!(rows(&backends), [true, true], "nobody has found otherwise yet");
        lock(&a).cannot_ask(format!("{CANNOT_ASK}: no"));
        lock(&b).cannot_ask(format!("{CANNOT_ASK}: no"));
        backends.follow(&specs(text), &around);
        assert_eq!(rows(&backends), [false, false]);
        let told = backends.told()["v"].clone();
        assert!(told.contains("backend a (192.0.2.9) takes new flows here, as none is known to be well: "), "{told}");
        lock(&b).take(Ok(()), 3, 2);
        backends.follow(&specs(text), &around);
        assert_eq!(rows(&backends), [false, true]);
        let told = backends.told()["v"].clone();
        assert!(told.contains("backend a (192.0.2.9) takes no new flows here, where others answer: "), "{told}");
        assert!(!told.contains("backend b"), "{told}");
        // One that was asked, and no longer can be, is what it was.
        lock(&a).take(Ok(()), 3, 2);
        lock(&a).cannot_ask(format!("{CANNOT_ASK}: no"));
        backends.follow(&specs(text), &around);
        assert_eq!(rows(&backends), [true, true]);
        assert!(backends.told()["v"].contains("is what it was when it was asked last"), "{:?}", backends.told());
    }

    #[test]
    fn every_field_of_a_check_and_of_backends_is_used() {
        let written = "backends: [{name: a, address: 10.0.0.1, weight: 3, state: active}, {address: 10.0.0.2}], backendCheck: {type: http, \
                       port: 80, interval: 7s, timeout: 3s, fails: 4, passes: 5, uri: /up, host: a.example, statusCodes: [[200, 204]]}, \
                       backendSources: {ipv4: 10.9.0.0/16, ipv6: 'fd00::/64'}, drainTimeout: 9s";
        let own = vec![IpAddr::from([10, 0, 0, 9]), "fd00::9".parse().expect("an address")];
        let all = |text: &str| {
            let mut world = World::new(text);
            world.around.own = own.clone();
            world.follow_with(&[], &[], 0);
            let spread = world.spread();
            let machines = world.backends.machines();
            let shown = format!("{machines:?} {:?} {:?} {:?}", spread.taking, spread.alive, spread.drain);
            (shown, asked(&spec(text), &own))
        };
        for (field, other) in [
            ("name: a, ", "name: c, "),
            ("10.0.0.1", "10.0.0.3"),
            ("10.0.0.1", "'fd00::1'"),
            ("weight: 3", "weight: 4"),
            ("state: active", "state: draining"),
            ("state: active", "state: down"),
            ("type: http", "type: tcp"),
            ("port: 80", "port: 8080"),
            ("interval: 7s", "interval: 8s"),
            ("timeout: 3s", "timeout: 4s"),
            ("fails: 4", "fails: 5"),
            ("passes: 5", "passes: 6"),
            ("uri: /up", "uri: /down"),
            ("host: a.example", "host: b.example"),
            ("[[200, 204]]", "[[200, 205]]"),
            ("10.9.0.0/16", "10.8.0.0/16"),
            ("drainTimeout: 9s", "drainTimeout: 8s"),
        ] {
            assert_ne!(all(&written.replace(field, other)), all(written), "{other}");
        }
        let v6 = written.replace("10.0.0.1", "'fd00::1'");
        assert_ne!(all(&v6.replace("'fd00::/64'", "'fd01::/64'")), all(&v6));
        // They are asked from where their packets come from.
        let (_, usual) = all(written);
        assert!(usual.iter().all(|asked| asked.source == IpAddr::from([10, 9, 0, 0])), "{usual:?}");
        // Without a check of its own, with what others have: the first port, a connection.
        let (_, usual) = all("backends: [{address: 10.0.0.1}]");
        assert_eq!((usual.len(), usual[0].to.port(), usual[0].http.clone()), (1, 8080, None));
        assert_eq!(usual[0].source, own[0]);
        assert!(
            asked(&spec("backends: [{address: 'fd00::1'}]"), &own[..1]).is_empty(),
            "it cannot be reached from here"
        );
        // What serves datagrams alone may refuse connections.
        let may_refuse = |text: &str| asked(&spec(text), &own)[0].may_refuse;
        assert!(!usual[0].may_refuse && may_refuse("protocols: [UDP], backends: [{address: 10.0.0.1}]"));
        assert!(!may_refuse("protocols: [UDP], backends: [{address: 10.0.0.1}], backendCheck: {type: http}"));
    }

    /// With checks that ask nobody.
    fn unasked(spec: &VirtualIpSpec, around: &Around) -> Backends {
        let check = |asked: Asked| {
            let key = ("v".to_owned(), asked.label.clone());
            (key, Check { asked, health: Arc::default(), _stop: channel().0 })
        };
        let checks = asked(spec, &around.own).into_iter().map(check).collect();
        Backends { checks, ..Backends::default() }
    }

    #[test]
    fn whoever_takes_flows_in_spite_of_it_is_told_of_as_such() {
        let specs = |text: &str| BTreeMap::from([("v".to_owned(), spec(text))]);
        let around = Around { own: vec![IpAddr::from([192, 0, 2, 77])], room: 9, ..Around::default() };
        let text = "backends: [{name: a, address: 192.0.2.9}, {name: b, address: 192.0.2.8, state: draining}], backendCheck: {interval: 1h, \
                    timeout: 1m}";
        let mut backends = unasked(&specs(text)["v"], &around);
        let set = |backends: &Backends, label: &str, unwell: bool| {
            let told = unwell.then(|| "no".to_owned());
            *lock(&backends.checks[&("v".to_owned(), label.to_owned())].health) =
                Health { known: true, heard: true, unwell, against: 0, told };
        };
        // The one that drains is well, which is nothing to new flows.
        set(&backends, "a", true);
        set(&backends, "b", false);
        backends.follow(&specs(text), &around);
        let told = &backends.told()["v"];
        assert_eq!(
            told,
            "no backend is well, so all that are active take new flows as if they were; backend a (192.0.2.9) is unwell: no"
        );
        set(&backends, "a", false);
        set(&backends, "b", true);
        backends.follow(&specs(text), &around);
        assert_eq!(&backends.told()["v"], "backend b (192.0.2.8) takes no new flows here: no");
        // Nobody could be asked, and nobody is silent about it.
        let v6 = Around { own: vec!["2001:db8::77".parse().expect("an address")], room: 9, ..Around::default() };
        let mut spec = spec("backends: [{name: a, address: '2001:db8::9'}]");
        spec.addresses = vec!["192.0.2.1".to_owned()];
        let mut backends = Backends::default();
        backends.follow(&BTreeMap::from([("v".to_owned(), spec)]), &v6);
        assert!(backends.told()["v"].contains("its backends are not asked from here"), "{:?}", backends.told());
    }
}
