//! Eight edges behind a router that spreads flows over all of them, links of 1,500 bytes, thousands of connections that are asked all the
//! time, and what happens to fleets, one thing after the other. No connection breaks whose machine lives, and none waits in vain.
//!
//! `WEIR_FLEET_FLOWS` sets how many connections (default 10,000, where that many descriptors may be open: each takes two).

use std::collections::{BTreeSet, HashMap};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use edge_kernel::{Flow, Hash, Kernel, Lease, Machine, Options, Protocol, Sizes, Trace, Vip};
use edge_l4::Candidate;
use edge_l4::steering::{Step, slots};
use kernel_tests::namespace::Namespace;
use kernel_tests::{ready, world};

const EDGES: u16 = 8;
const VIP: &str = "198.51.100.1:80";

#[test]
fn no_connection_breaks_whose_machine_lives() {
    if !ready("no_connection_breaks_whose_machine_lives") {
        return;
    }
    let wanted = std::env::var("WEIR_FLEET_FLOWS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let flows = wanted.min(descriptors(2 * wanted + ASIDE).saturating_sub(ASIDE) / 2);
    println!("{flows} connections");
    let mut fleet = Fleet::new();
    fleet.change(&all(), &[]);
    let talk = Talk::begin(&fleet, flows);
    assert_eq!(talk.owners(), all().into_iter().collect(), "all take flows");

    // One drains; then two more while it does; then they are back, one after the other.
    for draining in [&[1][..], &[1, 2], &[1, 2, 3], &[2, 3], &[3], &[]] {
        fleet.change(&without(&all(), draining), draining);
        talk.goes_on(&fleet, &format!("{draining:?} drain"));
    }
    // Other weights: most slots change hands.
    fleet.weigh(|id| u32::from(id % 4) + 1);
    talk.goes_on(&fleet, "other weights");
    fleet.weigh(|_| 1);
    talk.goes_on(&fleet, "weights as before");

    // The programs of one are replaced by those of another process, and again by some with other maps.
    for tables in [sizes().tables, sizes().tables + 2] {
        fleet.restart(5, Sizes { tables, ..sizes() });
        talk.goes_on(&fleet, "another process, before it is told anything");
        fleet.tell_all();
        talk.goes_on(&fleet, "another process");
    }

    // Two daemons do not get to run for a while, and others take their new flows. Then much changes, and is as before.
    fleet.lapses(&[2, 5]);
    talk.goes_on(&fleet, "two daemons that do not get to run");
    fleet.lives(&[2, 5]);
    fleet.lapse(&[2, 5]);
    talk.goes_on(&fleet, "they run again");
    fleet.weigh(|id| u32::from(id % 3) + 1);
    talk.goes_on(&fleet, "other weights again");
    fleet.weigh(|_| 1);
    talk.goes_on(&fleet, "weights as before again");

    // A daemon dies, and its kernel goes on: others take its new flows at once, before anybody knows.
    talk.loses(4);
    fleet.lapses(&[4]);
    fleet.edges[3].stop();
    talk.goes_on(&fleet, "a dead daemon");
    fleet.change(&without(&all(), &[4]), &[]);
    talk.goes_on(&fleet, "a dead daemon that the others know of");
    fleet.edges[3].serve();
    fleet.lives(&[4]);
    talk.finds(4);
    fleet.change(&all(), &[]);
    fleet.ages(&[4]);
    talk.goes_on(&fleet, "it is back");

    // One is started again without its interface: routers leave it out first, and it drains.
    fleet.route_over(&without(&all(), &[6]));
    fleet.change(&without(&all(), &[6]), &[6]);
    talk.goes_on(&fleet, "one drains behind the router's back");
    talk.loses(6);
    fleet.change(&without(&all(), &[6]), &[]);
    fleet.take_down(6);
    talk.goes_on(&fleet, "one without its interface");

    // One is gone with all it had, in the middle of it; routers and the others hear of it later.
    talk.loses(7);
    fleet.router.ip(&["link", "set", "r7", "down"]);
    fleet.route_over(&without(&all(), &[6, 7]));
    fleet.change(&without(&all(), &[6, 7]), &[]);
    talk.goes_on(&fleet, "a machine that is gone");
    talk.end();
}

/// Lets this process open so many descriptors, or as many as it may.
fn descriptors(wanted: usize) -> usize {
    let wanted = wanted as libc::rlim_t;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the value lives through the calls.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        let more = libc::rlimit { rlim_cur: wanted.max(limit.rlim_cur), rlim_max: wanted.max(limit.rlim_max) };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const more) != 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
    }
    limit.rlim_cur as usize
}

fn all() -> Vec<u16> {
    (1..=EDGES).collect()
}

fn without(machines: &[u16], some: &[u16]) -> Vec<u16> {
    machines.iter().copied().filter(|id| !some.contains(id)).collect()
}

/// Connections that are asked over and over by a few threads for as long as the value lives. Beside them new ones begin all the time, and
/// some of those take the places of old ones.
struct Talk {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    /// How often each thread has asked all of its connections.
    rounds: [AtomicU64; THREADS],
    /// Whose connections are lost with them.
    lost: Mutex<BTreeSet<u16>>,
    /// Odd from when a machine is lost until everybody knows: what begins before that ends may be lost with it.
    losses: AtomicU64,
    owners: Mutex<BTreeSet<u16>>,
    /// What should not have happened.
    faults: Mutex<Vec<Fault>>,
    /// Asked again by TCP more than once within one round.
    stalls: AtomicU64,
    fresh: AtomicU64,
}

#[derive(Clone)]
struct Fault {
    what: String,
    /// The client's end.
    from: Option<SocketAddr>,
}

/// A connection, and what is known of it.
struct Asked {
    stream: TcpStream,
    owner: u16,
    /// Segments that were sent again until the last round.
    again: u32,
}

impl Talk {
    fn begin(fleet: &Fleet, flows: usize) -> Talk {
        let shared = Arc::<Shared>::default();
        let threads = (0..THREADS)
            .map(|thread| {
                let shared = shared.clone();
                fleet.client.spawn(move || shared.ask_on(thread, flows / THREADS))
            })
            .collect();
        let talk = Talk { shared, threads };
        talk.goes_on(fleet, "nothing");
        talk
    }

    /// Waits until each connection was asked twice since, and says what went wrong.
    fn goes_on(&self, fleet: &Fleet, what: &str) {
        if self.shared.losses.load(Ordering::Acquire) % 2 == 1 {
            self.shared.losses.fetch_add(1, Ordering::AcqRel);
        }
        self.shared.fresh.store(0, Ordering::Relaxed);
        let rounds = || self.shared.rounds.each_ref().map(|rounds| rounds.load(Ordering::Acquire));
        let before = rounds();
        while rounds().iter().zip(before).any(|(now, before)| *now < before + 2) {
            let faults = lock(&self.shared.faults).clone();
            if let Some(first) = faults.first() {
                let some: Vec<&str> = faults.iter().take(5).map(|fault| &*fault.what).collect();
                let traces = first.from.map(|from| fleet.traces(from)).unwrap_or_default();
                panic!(
                    "{what}: {} faults: {some:#?}\nthe first one: {traces:#?}\n{:#?}",
                    faults.len(),
                    fleet.counted()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let (stalls, fresh) =
            (self.shared.stalls.swap(0, Ordering::Relaxed), self.shared.fresh.swap(0, Ordering::Relaxed));
        assert!(fresh > 0, "{what}: no new connection came through");
        println!("{what}: {stalls} connections had to send something more than twice, {fresh} new ones");
    }

    fn owners(&self) -> BTreeSet<u16> {
        lock(&self.shared.owners).clone()
    }

    /// What begins from here to the next look may be lost with a machine.
    fn may_lose(&self) {
        self.shared.losses.fetch_add(1, Ordering::AcqRel);
    }

    /// And this machine's connections are lost, and are not looked at any more.
    fn loses(&self, machine: u16) {
        self.may_lose();
        lock(&self.shared.lost).insert(machine);
    }

    /// It is there again.
    fn finds(&self, machine: u16) {
        lock(&self.shared.lost).remove(&machine);
    }

    fn end(mut self) {
        self.shared.over.store(true, Ordering::Release);
        self.threads.drain(..).for_each(|thread| thread.join().expect("it ended well"));
        let faults = lock(&self.shared.faults);
        assert!(faults.is_empty(), "{:#?}", faults.iter().map(|fault| &fault.what).collect::<Vec<_>>());
    }
}

impl Shared {
    fn ask_on(&self, thread: usize, count: usize) {
        let mut flows = Vec::new();
        while flows.len() < count {
            match Asked::open() {
                Ok(flow) => flows.push(flow),
                Err(error) => return self.fault(format!("one of the first: {error}"), None),
            }
        }
        lock(&self.owners).extend(flows.iter().map(|flow| flow.owner));
        let mut place = thread;
        while !self.over.load(Ordering::Acquire) {
            let mut asked = Vec::with_capacity(count);
            while !flows.is_empty() {
                let mut some = flows.split_off(flows.len().saturating_sub(TOGETHER));
                self.ask(&mut some);
                asked.append(&mut some);
                let losses = self.losses.load(Ordering::Acquire);
                match Asked::open() {
                    Ok(flow) => {
                        self.fresh.fetch_add(1, Ordering::Relaxed);
                        // Every second one stays, somewhere.
                        place = place.wrapping_add(7_919);
                        let at = place % (2 * asked.len().max(1));
                        if let Some(place) = asked.get_mut(at) {
                            *place = flow;
                        }
                    }
                    // What a machine took and was lost with.
                    Err(_) if losses % 2 == 1 || losses != self.losses.load(Ordering::Acquire) => {}
                    Err(error) => self.fault(format!("a new one: {error}"), None),
                }
            }
            flows = asked;
            self.rounds[thread].fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Who is lost, or was lost with its machine, is not among them any more.
    fn ask(&self, flows: &mut Vec<Asked>) {
        let gone = |owner: u16| lock(&self.lost).contains(&owner);
        flows.retain(|flow| !gone(flow.owner));
        let sent: Vec<std::io::Result<()>> = flows.iter_mut().map(|flow| flow.stream.write_all(QUESTION)).collect();
        let mut sent = sent.into_iter();
        flows.retain_mut(|flow| {
            let answered = sent.next().expect("one for each").and_then(|()| flow.answer());
            match answered {
                Ok(now) if now == flow.owner => {}
                // It may have been lost while it was asked.
                _ if gone(flow.owner) => return false,
                Ok(now) => self.fault(format!("one of {} is answered by {now}", flow.owner), flow.from()),
                Err(error) => {
                    self.fault(format!("one of {}: {error}", flow.owner), flow.from());
                    return false;
                }
            }
            let again = sent_again(&flow.stream);
            if again > flow.again + 1 {
                self.stalls.fetch_add(1, Ordering::Relaxed);
            }
            flow.again = again;
            true
        });
    }

    fn fault(&self, what: String, from: Option<SocketAddr>) {
        lock(&self.faults).push(Fault { what, from });
    }
}

impl Asked {
    /// One that has answered.
    fn open() -> std::io::Result<Asked> {
        let stream = TcpStream::connect_timeout(&VIP.parse().expect("an address"), PATIENCE)?;
        let from = stream.local_addr()?;
        let told = |error: std::io::Error| std::io::Error::new(error.kind(), format!("{from}: {error}"));
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut flow = Asked { stream, owner: 0, again: 0 };
        flow.owner = flow.stream.write_all(QUESTION).and_then(|()| flow.answer()).map_err(told)?;
        flow.again = sent_again(&flow.stream);
        Ok(flow)
    }

    /// Who answers.
    fn answer(&mut self) -> std::io::Result<u16> {
        let mut answer = [0; 1];
        self.stream.read_exact(&mut answer)?;
        Ok(answer[0].into())
    }

    fn from(&self) -> Option<SocketAddr> {
        self.stream.local_addr().ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread has panicked")
}

/// Segments that the client's stack has sent again.
fn sent_again(stream: &TcpStream) -> u32 {
    /// Of `tcpi_total_retrans` in `struct tcp_info`.
    const AT: usize = 100;
    let mut information = [0u8; 104];
    let mut length = information.len() as libc::socklen_t;
    // SAFETY: as many bytes as there is room for.
    let result = unsafe {
        let place = information.as_mut_ptr().cast();
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut length)
    };
    assert_eq!(result, 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    u32::from_ne_bytes(information[AT..].try_into().expect("four bytes"))
}

struct Fleet {
    client: Namespace,
    router: Namespace,
    edges: Vec<Edge>,
    leases: Vec<Lease>,
    /// Since the beginning.
    history: Vec<Stage>,
}

#[derive(Clone, Default)]
struct Stage {
    /// Machines that take new flows with their weights.
    taking: Vec<(u16, u32)>,
    draining: Vec<u16>,
    /// Whose daemons did not serve for a while.
    lapsed: Vec<u16>,
}

struct Edge {
    namespace: Namespace,
    kernel: Option<Kernel>,
    index: u16,
    listener: RawFd,
}

impl Fleet {
    fn new() -> Fleet {
        let (client, router) = (Namespace::new("client"), Namespace::new("router"));
        router.sysctl("net/ipv4/ip_forward", "1");
        // By addresses and ports.
        router.sysctl("net/ipv4/fib_multipath_hash_policy", "1");
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        client.join("c0", &[ip("10.0.0.2")], &router, "rc", &[ip("10.0.0.1")]);
        client.ip(&["route", "add", "default", "via", "10.0.0.1"]);
        let edges: Vec<Edge> = all()
            .into_iter()
            .map(|index| {
                let namespace = Namespace::new(&format!("e{index}"));
                let gateway = format!("10.1.{index}.1");
                router.join(&format!("r{index}"), &[ip(&gateway)], &namespace, "e0", &[address(index)]);
                router.take_frames(&format!("r{index}"));
                namespace.ip(&["route", "add", "default", "via", &gateway]);
                let mut edge = Edge { namespace, kernel: None, index, listener: -1 };
                edge.load(sizes());
                edge.serve();
                edge
            })
            .collect();
        let leases = edges.iter().map(|edge| edge.kernel.as_ref().expect("loaded").lease()).collect::<Vec<Lease>>();
        let fleet = Fleet { client, router, edges, leases, history: Vec::new() };
        fleet.ages(&all());
        fleet.route_over(&all());
        fleet
    }

    /// What programs did, by edge.
    fn counted(&self) -> Vec<String> {
        let of = |edge: &Edge| {
            let counters = edge.kernel.as_ref()?.counters();
            let told = counters.reasons.iter().filter(|count| count.packets > 0);
            let told: Vec<String> = told.map(|count| format!("{} {}", count.reason.name(), count.packets)).collect();
            Some(format!("e{}: {}", edge.index, told.join(", ")))
        };
        self.edges.iter().filter_map(of).collect()
    }

    /// What each edge does with a packet of the client's connection: its slot, its socket, its daemon.
    fn traces(&self, from: SocketAddr) -> Vec<String> {
        let destination = VIP.parse().expect("an address");
        let flow = Flow { protocol: Protocol::Tcp, source: from, destination, opens: false };
        let of = |edge: &Edge| {
            let kernel = edge.kernel.as_ref()?;
            Some(match edge.namespace.enter(|| kernel.trace(&flow)) {
                Ok(trace) => {
                    let Trace { reason, slot, machine, socket, lease, epoch, .. } = trace;
                    let name = reason.name();
                    format!(
                        "e{}: {name} to {machine}; {slot:?}, socket {socket}, lease {lease}, epoch {epoch}",
                        edge.index
                    )
                }
                Err(error) => format!("e{}: {error}", edge.index),
            })
        };
        [vec![format!("{from} > {VIP}")], self.edges.iter().filter_map(of).collect()].concat()
    }

    fn route_over(&self, edges: &[u16]) {
        let hops: Vec<String> = edges.iter().map(|index| format!("nexthop via {}", address(*index))).collect();
        let words = format!("route replace 198.51.100.1/32 {}", hops.join(" "));
        self.router.ip(&words.split(' ').collect::<Vec<_>>());
    }

    /// These take new flows, and these drain.
    fn change(&mut self, taking: &[u16], draining: &[u16]) {
        let taking = taking.iter().map(|id| (*id, 1)).collect();
        self.history.push(Stage { taking, draining: draining.to_vec(), ..Stage::default() });
        self.tell_all();
    }

    fn weigh(&mut self, weight: impl Fn(u16) -> u32) {
        self.history.push(Stage { taking: all().into_iter().map(|id| (id, weight(id))).collect(), ..Stage::default() });
        self.tell_all();
    }

    /// These did not serve for a while, and say so.
    fn lapse(&mut self, lapsed: &[u16]) {
        let last = self.history.last_mut().expect("there is one");
        last.lapsed = lapsed.to_vec();
        let next = Stage { lapsed: Vec::new(), ..last.clone() };
        self.history.push(next);
        self.tell_all();
        // Until all know they have looked for it themselves.
        self.ages(lapsed);
    }

    /// One edge after the other, so that for a while they do not agree.
    fn tell_all(&mut self) {
        let names: Vec<String> = (0..=EDGES).map(|index| format!("e{index}")).collect();
        let steps: Vec<Step<'_>> = self
            .history
            .iter()
            .map(|Stage { taking, draining, lapsed }| Step {
                machines: taking
                    .iter()
                    .map(|(id, weight)| Candidate { id: *id, weight: *weight, name: &names[usize::from(*id)] })
                    .collect(),
                alive: taking.iter().map(|(id, _)| *id).chain(draining.iter().copied()).collect(),
                lapsed: lapsed.clone(),
                ..Step::default()
            })
            .collect();
        let slots: Arc<[abi::Slot]> = slots(&steps).into();
        for edge in self.edges.iter_mut().filter(|edge| edge.kernel.is_some()) {
            edge.tell(slots.clone());
        }
    }

    /// Another process with these maps, which has not been told anything yet.
    fn restart(&mut self, index: u16, sizes: Sizes) {
        let at = usize::from(index) - 1;
        let edge = &mut self.edges[at];
        edge.kernel = None;
        edge.load(sizes);
        self.leases[at] = edge.kernel.as_ref().expect("loaded").lease();
        self.ages(&[index]);
    }

    /// They live, and do not look at who may have stood in for them, as in a fleet that has been there for more than ten minutes.
    fn ages(&self, machines: &[u16]) {
        machines.iter().for_each(|id| self.leases[usize::from(*id) - 1].age());
        self.lives(machines);
    }

    fn lapses(&self, machines: &[u16]) {
        machines.iter().for_each(|id| self.leases[usize::from(*id) - 1].end());
    }

    fn lives(&self, machines: &[u16]) {
        machines.iter().map(|id| &self.leases[usize::from(*id) - 1]).for_each(|lease| lease.renew(LONG));
    }

    /// As a process does that is started again without an interface.
    fn take_down(&mut self, index: u16) {
        let at = usize::from(index) - 1;
        self.leases[at].end();
        let edge = &mut self.edges[at];
        edge.kernel = None;
        let taken = edge.namespace.enter(|| Kernel::take_down(&pins(index)));
        assert!(taken.unwrap_or_else(|e| panic!("{e}")), "there was something");
    }
}

impl Edge {
    fn load(&mut self, sizes: Sizes) {
        let options =
            Options { interfaces: vec!["e0".into()], pin_dir: Some(pins(self.index)), sizes, ..Options::default() };
        self.kernel = Some(self.namespace.enter(|| Kernel::load(options).unwrap_or_else(|e| panic!("{e}"))));
    }

    fn tell(&mut self, slots: Arc<[abi::Slot]>) {
        let machine = |index: u16| Machine {
            index,
            name: format!("e{index}"),
            address: address(index),
            next_hop: None,
            backend: None,
            own: index == self.index,
        };
        let at = VIP.parse::<SocketAddr>().expect("an address").ip();
        let vip = Vip {
            id: 1,
            name: "v".into(),
            addresses: vec![at.into()],
            ports: vec![80..=80],
            protocols: vec![Protocol::Tcp],
            hash: Hash::FiveTuple,
            slots,
            limits: edge_kernel::VipLimits::default(),
            earlier: None,
            backends: false,
        };
        let machines: Vec<Machine> = all().into_iter().map(machine).collect();
        let kernel = self.kernel.as_mut().expect("loaded");
        world::set_cookies(kernel);
        kernel.apply(&machines, &[vip]).unwrap_or_else(|e| panic!("{e}"));
        self.namespace.enter(|| kernel.set_local_addresses(&[at]).unwrap_or_else(|e| panic!("{e}")));
    }

    fn stop(&self) {
        // SAFETY: a descriptor of the thread that answers, which ends then.
        unsafe { libc::shutdown(self.listener, libc::SHUT_RDWR) };
    }

    /// Answers whatever comes with the edge's index.
    fn serve(&mut self) {
        let index = self.index;
        let listener = self.namespace.enter(|| TcpListener::bind("[::]:80").expect("nobody has the port"));
        // A client may have given up before it is accepted.
        listener.set_nonblocking(true).expect("a socket can be made so");
        self.listener = listener.as_raw_fd();
        std::thread::spawn(move || answer_on(&listener, index as u8));
    }
}

/// Until the listener ends, and all connections with it.
fn answer_on(listener: &TcpListener, index: u8) {
    let poll = Poll::new();
    let mut streams: HashMap<RawFd, TcpStream> = HashMap::new();
    poll.add(listener.as_raw_fd());
    let mut buffer = [0; 64];
    loop {
        for ready in poll.ready() {
            if ready == listener.as_raw_fd() {
                match listener.accept() {
                    Ok((stream, _)) => {
                        poll.add(stream.as_raw_fd());
                        streams.insert(stream.as_raw_fd(), stream);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            } else if let Some(stream) = streams.get_mut(&ready) {
                // One answer for a question, in whatever pieces it comes.
                let read = stream.read(&mut buffer).unwrap_or(0);
                let answers = vec![index; buffer[..read].iter().filter(|byte| **byte == b'?').count()];
                if read == 0 || stream.write_all(&answers).is_err() {
                    streams.remove(&ready);
                }
            }
        }
    }
}

/// Descriptors that have something to read.
struct Poll(OwnedFd);

impl Poll {
    fn new() -> Poll {
        // SAFETY: a new descriptor, which is nobody else's.
        unsafe { Poll(OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC))) }
    }

    fn add(&self, descriptor: RawFd) {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: descriptor as u64 };
        // SAFETY: the event lives through the call.
        let result = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, descriptor, &raw mut event) };
        assert_eq!(result, 0, "epoll: {}", std::io::Error::last_os_error());
    }

    fn ready(&self) -> Vec<RawFd> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: as many events as there is room for.
        let count =
            unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), events.len() as libc::c_int, -1) };
        events[..count.max(0) as usize].iter().map(|event| event.u64 as RawFd).collect()
    }
}

impl Drop for Edge {
    /// Pins outlive a test that fails.
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(pins(self.index));
    }
}

fn address(index: u16) -> IpAddr {
    IpAddr::from([10, 1, index as u8, 2])
}

fn pins(index: u16) -> PathBuf {
    Options::pin_dir_of(&format!("test-{}-fleet-{index}", std::process::id()))
}

fn sizes() -> Sizes {
    Sizes { tables: 4, vips: 2, machines: EDGES.into() }
}

const THREADS: usize = 4;
/// Connections that are asked at the same time, by each thread; behind them one begins.
const TOGETHER: usize = 32;
/// Descriptors for everything else.
const ASIDE: usize = 400;
const QUESTION: &[u8] = b"who?";
const LONG: Duration = Duration::from_secs(3600);
/// Beyond anything that a machine with much else to do takes.
const PATIENCE: Duration = Duration::from_secs(30);
