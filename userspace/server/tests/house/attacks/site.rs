//! A daemon to attack, an honest client that goes on asking, and an eye on the daemon's memory.

use crate::soak::backend::Backend;
use crate::soak::figures::held;
use crate::world::{Connection, Machine, answers, eventually, free_port, within};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// An honest request that takes longer was starved, unless the whole machine was: see [`Control`].
const STARVED: Duration = Duration::from_secs(2);

/// An echo on an idle machine takes less than a turn of a worker that has much to do, and an honest request some of those.
const SOME_TURNS: Duration = Duration::from_millis(2);

/// What waits for a backend that takes nothing does so for a minute, also when its client has left: one that only finished may be
/// waiting for the answer.
const GONE: Duration = Duration::from_secs(180);

/// Answers that say something of how an honest client fares.
const ANSWERS_LEAST: u64 = 10;

/// Connections of a crowd.
pub fn crowd() -> usize {
    static RAISED: std::sync::Once = std::sync::Once::new();
    RAISED.call_once(crate::soak::raise_descriptor_limit);
    std::env::var("WEIR_ATTACK_CONNECTIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(600)
}

/// Attacks a daemon of each driver, both at the same time.
pub fn on_both_drivers(attack: fn(&str)) {
    thread::scope(|threads| {
        for io in ["uring", "epoll"] {
            threads.spawn(move || attack(io));
        }
    });
}

/// A daemon with a server: `/mock` answers with 2,000 bytes by itself, `/steady/…` leads to a backend that acts as the rest of
/// the path says (see the soak's scripts).
pub struct Site {
    pub machine: Machine,
    pub port: u16,
    _backend: Backend,
    /// Its lines of the HTTPServer.
    server: String,
    eye: Option<Eye>,
}

impl Site {
    /// `flags` of the daemon and further lines of the HTTPServer.
    pub fn start(io: &str, flags: &[&str], server: &str) -> Site {
        let machine = Machine::new("m1").flags(["--io", io, "--workers", "2"]).flags(flags);
        Site::begin(machine, server)
    }

    pub fn begin(mut machine: Machine, server: &str) -> Site {
        crowd();
        machine.run();
        let (port, backend) = (free_port(), Backend::start(0, 1));
        machine.create(&crate::world::mock("mock", &"x".repeat(2000)));
        machine.create(&crate::world::proxy("proxy", &[backend.url()]));
        machine.create(&document(port, server, ""));
        answers(port, "/mock", 200);
        // What every connection and request needs once is there before memory is looked at.
        let warm: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
        for _ in 0..50 {
            assert_eq!(crate::world::get(port, "/steady/length/3000/1").unwrap().status, 200);
        }
        drop(warm);
        let eye = Some(Eye::open(machine.pid()));
        Site { machine, port, _backend: backend, server: server.to_owned(), eye }
    }

    /// A further path, `/name`, to a backend on `port` with a filter before it, or after it.
    pub fn pipeline(&self, name: &str, filter: &str, port: u16, before: bool) {
        let filter = format!("- name: filter\n  {filter}\n");
        let proxy =
            format!("- kind: Proxy\n  name: proxy\n  pools:\n  - servers:\n    - url: http://127.0.0.1:{port}\n");
        let filters = if before { filter + &proxy } else { proxy + &filter };
        self.machine.create(&format!("kind: Pipeline\nname: {name}\nfilters:\n{filters}"));
        self.route(&format!("/{name}"), name);
    }

    /// A further path to a pipeline.
    pub fn route(&self, path: &str, pipeline: &str) {
        let more = format!("  - {{path: {path}, backend: {pipeline}}}\n");
        self.machine.update("hs", &document(self.port, &self.server, &more));
        eventually("the route is there", || {
            let mut stream = self.connect();
            say(&mut stream, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).ok()?;
            let mut line = [0; 12];
            stream.read_exact(&mut line).ok()?;
            (line != *b"HTTP/1.1 404").then_some(())
        });
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(crate::world::PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// With a receive buffer that stays small: the kernel would take megabytes on behalf of a client that reads nothing.
    pub fn connect_narrow(&self) -> TcpStream {
        use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_recv_buffer_size(&socket, 16 << 10).unwrap();
        connect(&socket, &std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, self.port)).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(crate::world::PATIENCE)).unwrap();
        stream
    }

    /// The sum of a metric over all label sets that contain `label`.
    pub fn figure(&self, name: &str, label: &str) -> f64 {
        let text = self.machine.try_api("GET", "/metrics", "").map(|a| a.body).unwrap_or_default();
        let of_it = text.lines().filter(|l| l.starts_with(&format!("{name}{{")) && l.contains(label));
        of_it.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// How often a bound was reached so far.
    pub fn limit(&self, name: &str) -> f64 {
        self.figure("weir_limit_hits_total", &format!("limit=\"{name}\""))
    }

    /// Waits until the bound was reached so often.
    pub fn counted(&self, name: &str, at_least: usize) {
        let mut last = 0.0;
        let counted = crate::world::within(crate::world::PATIENCE, || {
            last = self.limit(name);
            (last >= at_least as f64).then_some(())
        });
        assert!(counted.is_some(), "weir_limit_hits_total{{limit={name}}} is {last}, not {at_least}");
    }

    /// Waits until so many clients that did not read were cut off: as stalled, or as slow when the kernel took some more.
    pub fn cut_off(&self, at_least: usize) {
        let mut last = 0.0;
        let cut = crate::world::within(crate::world::PATIENCE, || {
            last = self.limit("response_stalled") + self.limit("response_rate");
            (last >= at_least as f64).then_some(())
        });
        assert!(cut.is_some(), "{last} clients were cut off, not {at_least}");
    }

    /// Ends the watch over memory: it may have grown by so many KiB at most. The allocator takes memory in steps of 2 MiB for each
    /// thread, so that bounds have room for some of those.
    pub fn grew_at_most(&mut self, most_kib: u64) {
        let grown = self.eye.take().map_or(0, Eye::close);
        println!("memory grew by {grown} KiB, {most_kib} KiB are allowed");
        assert!(grown <= most_kib, "memory grew by {grown} KiB, more than {most_kib} KiB");
    }

    /// Nothing of the attack stays: connections are gone, and requests on new ones are answered.
    pub fn recovers(&mut self) {
        answers(self.port, "/mock", 200);
        answers(self.port, "/steady/length/100/2", 200);
        let status = || self.machine.json("/status/objects/hs")["eg-traffic-default/hs/m1"]["status"].clone();
        let gone = within(GONE, || status()["connections"].as_u64().is_some_and(|open| open <= 1).then_some(()));
        assert!(gone.is_some(), "the attack's connections are not gone in {GONE:?}: {}", status());
        self.machine.still_runs();
        let log = self.machine.log();
        assert!(!log.contains("panic"), "{log}");
        assert!(log.len() < 200_000, "an attack fills the log: {} bytes", log.len());
    }
}

fn document(port: u16, server: &str, routes: &str) -> String {
    format!(
        "kind: HTTPServer\nname: hs\nport: {port}\n{server}\nrules:\n- paths:\n  - {{path: /mock, backend: mock}}\n  - {{pathPrefix: /steady/, backend: proxy}}\n{routes}"
    )
}

/// Looks at a process again and again.
struct Eye {
    base: u64,
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Eye {
    fn open(pid: u32) -> Eye {
        let base = held(pid).anonymous_kib;
        let (peak, stop) = (Arc::new(AtomicU64::new(base)), Arc::new(AtomicBool::new(false)));
        let (highest, ended) = (peak.clone(), stop.clone());
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                highest.fetch_max(held(pid).anonymous_kib, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(50));
            }
        });
        Eye { base, peak, stop, thread }
    }

    /// By how many KiB it grew at most.
    fn close(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        self.peak.load(Ordering::Relaxed).saturating_sub(self.base)
    }
}

/// A client that asks for small things, one after another, as long as the attack lasts.
pub struct Honest {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    control: Control,
    thread: JoinHandle<Result<Vec<Wait>, String>>,
}

/// For an answer.
struct Wait {
    took: Duration,
    /// What the daemon's workers, all of them together, had of their CPUs meanwhile.
    workers: Share,
    /// And the client's own thread.
    own: Share,
    /// It came from a worker itself: no backend, whose thread may wait for a CPU too, was asked.
    by_worker: bool,
}

impl Wait {
    /// How long workers at most worked for others first. What any thread on the way was ready without a CPU is not it, and neither is
    /// time in which no worker worked.
    fn for_work(&self) -> Duration {
        self.took.saturating_sub(self.workers.waited + self.own.waited).min(self.workers.ran)
    }
}

/// What threads had of the CPUs, in the time the kernel has them down for.
#[derive(Clone, Copy, Default)]
struct Share {
    ran: Duration,
    /// Ready to run, while others had the CPU. An echo does not show that: whoever works little is let in at once, and whoever has
    /// worked waits for its turn among all others.
    waited: Duration,
}

impl Share {
    fn of(schedstat: &std::path::Path) -> Share {
        let text = std::fs::read_to_string(schedstat).unwrap_or_default();
        let mut figures = text.split_whitespace().map(|figure| Duration::from_nanos(figure.parse().unwrap_or(0)));
        let mut next = || figures.next().unwrap_or_default();
        Share { ran: next(), waited: next() }
    }

    fn of_this_thread() -> Share {
        Share::of(std::path::Path::new("/proc/thread-self/schedstat"))
    }

    fn since(self, before: Share) -> Share {
        Share { ran: self.ran.saturating_sub(before.ran), waited: self.waited.saturating_sub(before.waited) }
    }
}

impl Honest {
    /// Now and then on a new connection.
    pub fn beside(site: &Site) -> Honest {
        Honest::start(site, 20)
    }

    /// Always on the connections it has.
    pub fn settled_beside(site: &Site) -> Honest {
        Honest::start(site, usize::MAX)
    }

    fn start(site: &Site, requests_per_connection: usize) -> Honest {
        let address = format!("127.0.0.1:{}", site.port);
        let mut connection = Connection::open(&address).unwrap();
        Honest::asking_of(Workers::of(site.machine.pid()), move |served| {
            let began = Instant::now();
            if served % requests_per_connection == requests_per_connection - 1 {
                connection = Connection::open(&address)?;
            }
            let answer = match served % 2 {
                0 => connection.request("GET", "/mock", &[], ""),
                _ => connection.request("POST", &format!("/steady/length/1000/{served:x}"), &[], "hello"),
            }?;
            if answer.status == 200 { Ok(began) } else { Err(io::Error::other(format!("{answer:?}"))) }
        })
    }

    /// Makes the request that has this number, again and again. `ask` says since when it has waited for the answer.
    pub fn asking(ask: impl FnMut(usize) -> io::Result<Instant> + Send + 'static) -> Honest {
        Honest::asking_of(Workers(Vec::new()), ask)
    }

    fn asking_of(workers: Workers, mut ask: impl FnMut(usize) -> io::Result<Instant> + Send + 'static) -> Honest {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, counted) = (stop.clone(), answers.clone());
        ask(0).unwrap();
        let thread = thread::spawn(move || {
            let mut waits = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let (before, own, served) = (workers.share(), Share::of_this_thread(), waits.len());
                let began = ask(served).map_err(|error| format!("the honest client's request {served}: {error}"))?;
                let took = began.elapsed();
                let (workers, own) = (workers.share().since(before), Share::of_this_thread().since(own));
                waits.push(Wait { took, workers, own, by_worker: served % 2 == 0 });
                counted.store(waits.len() as u64, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
            Ok(waits)
        });
        Honest { stop, served: answers, control: Control::start(), thread }
    }

    /// Ends it, and sees that it was served well.
    pub fn was_served(self) {
        self.ended();
    }

    /// As [`was_served`](Honest::was_served), and that workers turned to it soon: between its request and their answer they worked for
    /// others no longer than five echoes of two threads in the same moments.
    pub fn was_served_like_an_echo(self) {
        let (for_work, echoes) = self.ended();
        let (worst, alone) = (for_work.percentile(999), echoes.percentile(999).max(SOME_TURNS));
        assert!(worst <= 5 * alone, "the workers worked for others first: {for_work}; an echo took {echoes}");
    }

    /// How long workers worked for others before what they answer themselves, and how long an echo took.
    fn ended(self) -> (Waits, Waits) {
        // On a machine with much else to do an attack may be over before so many threads have had so many turns.
        let enough = || self.served.load(Ordering::Relaxed) >= ANSWERS_LEAST || self.thread.is_finished();
        let _ = crate::world::within(crate::world::PATIENCE, || enough().then_some(()));
        self.stop.store(true, Ordering::Relaxed);
        let waits = self.thread.join().unwrap().unwrap_or_else(|error| panic!("{error}"));
        let crowded_out: Duration = waits.iter().map(|wait| wait.workers.waited).sum();
        let for_work = Waits::of(waits.iter().filter(|wait| wait.by_worker).map(Wait::for_work).collect());
        if let Some((served, Wait { took, workers, own, .. })) =
            waits.iter().enumerate().max_by_key(|(_, wait)| wait.took)
        {
            println!(
                "request {served} took longest, {took:?}: workers ran for {:?} and waited for CPUs {:?}, its client {:?}",
                workers.ran, workers.waited, own.waited
            );
        }
        let waits = Waits::of(waits.into_iter().map(|wait| wait.took).collect());
        let echoes = Waits::of(self.control.end());
        println!("the honest client waited {waits}, for the work of workers {for_work}; an echo took {echoes}");
        let (served, worst, alone) = (waits.0.len(), waits.worst(), echoes.worst());
        assert!(served as u64 >= ANSWERS_LEAST, "the honest client got {served} answers only");
        assert!(
            worst < STARVED + 6 * alone + crowded_out,
            "the honest client waited {worst:?} for an answer, an echo took {alone:?}, the workers were ready without a CPU for {crowded_out:?}"
        );
        (for_work, echoes)
    }
}

/// Two threads of the test that say a byte to each other: what the machine makes everybody wait. An honest request passes
/// several times as many threads.
struct Control {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

/// What the kernel tells of a daemon's workers.
struct Workers(Vec<std::path::PathBuf>);

impl Workers {
    fn of(pid: u32) -> Workers {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let of_worker = tasks
            .map(|task| task.path())
            .filter(|path| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("worker-")));
        Workers(of_worker.map(|path| path.join("schedstat")).collect())
    }

    fn share(&self) -> Share {
        let shares = self.0.iter().map(|path| Share::of(path));
        shares.fold(Share::default(), |all, one| Share { ran: all.ran + one.ran, waited: all.waited + one.waited })
    }
}

/// How long each of many waits was, the shortest first.
struct Waits(Vec<Duration>);

impl Waits {
    fn of(mut waits: Vec<Duration>) -> Waits {
        waits.sort_unstable();
        Waits(waits)
    }

    fn worst(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }

    fn percentile(&self, permil: usize) -> Duration {
        self.0.get((self.0.len() * permil / 1000).min(self.0.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |wait: Duration| wait.as_secs_f64() * 1e3;
        let (half, high, highest) = (ms(self.percentile(500)), ms(self.percentile(990)), ms(self.percentile(999)));
        write!(f, "{half:.2} ms (p50), {high:.1} ms (p99), {highest:.1} ms (p99.9) in {} turns", self.0.len())
    }
}

impl Control {
    fn start() -> Control {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        thread::spawn(move || {
            let mut byte = [0];
            while far.read_exact(&mut byte).is_ok() && far.write_all(&byte).is_ok() {}
        });
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let thread = thread::spawn(move || {
            let mut waits = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let began = Instant::now();
                let mut byte = [1];
                if near.write_all(&byte).and_then(|()| near.read_exact(&mut byte)).is_err() {
                    break;
                }
                waits.push(began.elapsed());
                thread::sleep(Duration::from_millis(2));
            }
            waits
        });
        Control { stop, thread }
    }

    /// How long each echo took.
    fn end(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Sends what a full socket takes, without waiting; false when the connection has ended.
pub fn push(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    stream.set_nonblocking(true).unwrap();
    let taken = stream.write(bytes);
    stream.set_nonblocking(false).unwrap();
    match taken {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Everything until the other side closes; whether it closed in order.
pub fn rest(stream: &mut TcpStream) -> (String, bool) {
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes);
    if let Err(error) = &ended {
        assert!(
            !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "the connection is still open after {:?}; it got {:?}",
            crate::world::PATIENCE,
            String::from_utf8_lossy(&bytes[..bytes.len().min(200)])
        );
    }
    (String::from_utf8_lossy(&bytes).into_owned(), ended.is_ok())
}

/// The status of the one answer a connection gets before it is closed.
pub fn last_status(stream: &mut TcpStream) -> u16 {
    let (text, _) = rest(stream);
    text.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0)
}

/// Writes all, although the other side may have had enough before.
pub fn say(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)
}
