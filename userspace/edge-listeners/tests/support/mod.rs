//! A house of one: runtime, traffic and a server on a free port; backends that play what they are told; and both ends of a
//! wire, read byte by byte so that nothing is taken for granted.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]

use base_runtime::{Config, IoMode, Runtime};
use base_telemetry::{Identity, Telemetry};
use edge_listeners::traffic::Kinds;
use edge_listeners::{Timeouts, Traffic};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Makes each of the named functions, which take an `IoMode`, a test per driver.
#[allow(unused_macros, reason = "not every test file runs each test on each")]
macro_rules! on_both_drivers {
    ($($name:ident),* $(,)?) => {
        mod uring { $(#[test] fn $name() { super::$name(base_runtime::IoMode::Uring) })* }
        mod epoll { $(#[test] fn $name() { super::$name(base_runtime::IoMode::Epoll) })* }
    };
}

macro_rules! spec {
    ($text:expr) => {
        base_model::decode(&base_model::yaml::parse_document($text).expect("good YAML"), "")
            .expect("a good document")
            .value
    };
}

pub fn short_timeouts() -> Timeouts {
    let ms = Duration::from_millis;
    Timeouts { head: ms(400), body: ms(400), send: ms(600), linger: ms(500), ..Timeouts::default() }
}

/// A server called `web` before a pipeline called `app`.
pub struct House {
    // Before the runtime: servers are stopped before their workers.
    pub traffic: Arc<Traffic>,
    pub telemetry: Arc<Telemetry>,
    pub port: u16,
    pub runtime: Runtime,
}

impl House {
    /// `server` are further lines of the HTTPServer; rules are those of [`House::rules`] when it gives none.
    pub fn new(io: IoMode, server: &str, pipeline: &str) -> House {
        House::with_timeouts(io, server, pipeline, Timeouts::default())
    }

    pub fn with_timeouts(io: IoMode, server: &str, pipeline: &str, timeouts: Timeouts) -> House {
        House::with_kinds(io, server, pipeline, timeouts, edge_filters::kind)
    }

    /// With filters of the test's own.
    pub fn with_kinds(io: IoMode, server: &str, pipeline: &str, timeouts: Timeouts, kinds: Kinds) -> House {
        House::with_workers(1, io, server, pipeline, timeouts, kinds)
    }

    pub fn with_workers(
        workers: usize,
        io: IoMode,
        server: &str,
        pipeline: &str,
        timeouts: Timeouts,
        kinds: Kinds,
    ) -> House {
        House::at(free_port(), workers, io, server, pipeline, timeouts, kinds)
    }

    pub fn at(
        port: u16,
        workers: usize,
        io: IoMode,
        server: &str,
        pipeline: &str,
        timeouts: Timeouts,
        kinds: Kinds,
    ) -> House {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let mut cpus = base_runtime::allowed_cpus();
        let turn = STARTED.fetch_add(1, Ordering::Relaxed) % cpus.len();
        cpus.rotate_left(turn);
        let config =
            Config { io, cpus: Some(cpus), workers: Some(workers), name: "test".to_owned(), ..Config::default() };
        House::built(port, config, server, pipeline, timeouts, kinds)
    }

    /// With everything of its runtime chosen.
    pub fn built(port: u16, config: Config, server: &str, pipeline: &str, timeouts: Timeouts, kinds: Kinds) -> House {
        let workers = config.workers.unwrap_or(1);
        let runtime = Runtime::start(config).expect("the driver works here");
        let identity = Identity {
            cluster_name: "test".to_owned(),
            cluster_role: "primary".to_owned(),
            instance_name: "test".to_owned(),
        };
        let telemetry = Telemetry::new(identity, workers);
        let workers = runtime.workers().to_vec();
        let traffic = Traffic::with_kinds(workers, "test", telemetry.clone(), None, timeouts, kinds);
        let house = House { traffic: Arc::new(traffic), telemetry, port, runtime };
        house.pipeline("app", pipeline);
        house.server(server);
        assert_eq!(house.state(), "running", "{:?}", house.traffic.servers()[0].1.state());
        house
    }

    /// One Proxy before one backend.
    pub fn proxy(io: IoMode, backend: &Backend) -> House {
        House::new(io, "", &proxy_to(backend.port))
    }

    pub fn server(&self, lines: &str) {
        let rules = if lines.contains("rules:") { "" } else { "rules: [{paths: [{pathPrefix: /, backend: app}]}]" };
        let text = format!("address: 127.0.0.1\nport: {}\n{lines}\n{rules}\n", self.port);
        self.traffic.apply_server("web", &spec!(&text)).expect("a good server");
    }

    pub fn pipeline(&self, name: &str, text: &str) {
        self.traffic.apply_pipeline(name, &spec!(text)).expect("a good pipeline");
    }

    pub fn state(&self) -> &'static str {
        self.traffic.servers()[0].1.state().0
    }

    pub fn connect(&self) -> Wire {
        Wire::new(TcpStream::connect(("127.0.0.1", self.port)).expect("the server listens"))
    }

    /// One request on a connection of its own.
    pub fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect();
        client.send(request.as_bytes());
        client.answer()
    }

    /// The same port on every address.
    pub fn everywhere(&self) {
        let text = format!("port: {}\nrules: [{{paths: [{{pathPrefix: /, backend: app}}]}}]", self.port);
        self.traffic.apply_server("web", &spec!(&text)).expect("a good server");
    }

    /// Requests answered with `status` so far.
    pub fn count(&self, status: u16) -> u64 {
        let (code, text) = (format!("code=\"{status}\""), self.telemetry.render(base_telemetry::Names::default()));
        let lines = text.lines().filter(|l| l.starts_with("weir_requests_total") && l.contains(&code));
        lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    }

    pub fn limit(&self, name: &str) -> u64 {
        self.telemetry.limits().totals().iter().find(|(n, _)| *n == name).map_or(0, |(_, count)| *count)
    }
}

pub fn proxy_to(port: u16) -> String {
    format!(
        "filters: [{{name: p, kind: Proxy, serverMaxBodySize: -1, pools: [{{servers: [{{url: 'http://127.0.0.1:{port}'}}]}}]}}]"
    )
}

pub use base_testing::free_port;

/// For what is sure to come, however busy the machine is; only what hangs takes so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until it holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A server that plays what it is told, one thread per connection.
pub struct Backend {
    pub port: u16,
    pub connections: Arc<AtomicUsize>,
    /// Requests read to their end, in order of arrival: head and body.
    pub seen: Arc<Mutex<Vec<Message>>>,
}

impl Backend {
    /// `play` gets each connection and its number.
    pub fn new(play: impl Fn(Wire, usize) + Send + Sync + 'static) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("bound").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let (play, count) = (Arc::new(play), connections.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { break };
                let (play, nth) = (play.clone(), count.fetch_add(1, Ordering::SeqCst));
                std::thread::spawn(move || play(Wire::new(stream), nth));
            }
        });
        Backend { port, connections, seen: Arc::default() }
    }

    /// Answers every request with `answer`, and records them.
    pub fn answering(answer: &'static str) -> Backend {
        Backend::recording(move |_| answer.as_bytes().to_vec())
    }

    pub fn recording(answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Backend {
        let seen: Arc<Mutex<Vec<Message>>> = Arc::default();
        let record = seen.clone();
        let mut backend = Backend::new(move |mut wire, _| {
            while let Some(message) = wire.message() {
                let bytes = answer(&message);
                let other = message.head.starts_with("PRI * HTTP/2.0");
                record.lock().unwrap().push(message);
                wire.send(&bytes);
                if other {
                    break;
                }
            }
        });
        backend.seen = seen;
        backend
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn seen(&self) -> Vec<Message> {
        self.seen.lock().unwrap().clone()
    }
}

/// A request or an answer, as it was on the wire.
#[derive(Debug, Clone, Default)]
pub struct Message {
    pub head: String,
    pub body: Vec<u8>,
    /// The lines after the last chunk.
    pub trailers: String,
}

pub type Answer = Message;

impl Message {
    pub fn status(&self) -> u16 {
        self.head.get(9..12).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status: {self:?}"))
    }

    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One end of a connection.
pub struct Wire {
    pub stream: TcpStream,
    pub read: Vec<u8>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Wire {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time-out can be set");
        stream.set_nodelay(true).expect("no delay can be set");
        Wire { stream, read: Vec::new() }
    }

    /// Failures are the other end's to notice.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// More bytes; false at the end. A reset is an end.
    pub fn more(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(n) => {
                self.read.extend_from_slice(&piece[..n]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came; have {:?}", String::from_utf8_lossy(&self.read))
            }
            // A read with a time-out is not resumed when the kernel wants the thread for something else.
            Err(error) if error.kind() == ErrorKind::Interrupted => self.more(),
            Err(_) => false,
        }
    }

    /// Nothing more comes, and nothing was left.
    pub fn ends(&mut self) -> bool {
        self.read.is_empty() && !self.more()
    }

    /// Whether the other end has closed, or reset, without waiting.
    pub fn is_closed(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("it can be set");
        let ended = match self.stream.peek(&mut [0]) {
            Ok(n) => n == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        self.stream.set_nonblocking(false).expect("it can be set");
        ended
    }

    /// The connection was reset, which no read tells once the other end's last byte was read.
    pub fn is_broken(&self) -> bool {
        self.stream.take_error().is_ok_and(|error| error.is_some())
    }

    /// Up to and with the empty line.
    pub fn head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.read.drain(..at + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if !self.more() {
                return None;
            }
        }
    }

    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.read.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.read.drain(..at + 2).collect();
                return Some(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if !self.more() {
                return None;
            }
        }
    }

    pub fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.read.len() < count {
            if !self.more() {
                return None;
            }
        }
        Some(self.read.drain(..count).collect())
    }

    pub fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.read)
    }

    /// A request, or an answer with a body: by length or chunked.
    pub fn message(&mut self) -> Option<Message> {
        let mut message = Message { head: self.head()?, ..Message::default() };
        self.body(&mut message).then_some(message)
    }

    fn body(&mut self, message: &mut Message) -> bool {
        if message.field("transfer-encoding").is_some_and(|t| t.eq_ignore_ascii_case("chunked")) {
            loop {
                let Some(line) = self.line() else { return false };
                let Ok(size) = usize::from_str_radix(&line, 16) else { panic!("a chunk size: {line:?}") };
                if size == 0 {
                    break;
                }
                let Some(data) = self.exactly(size + 2) else { return false };
                assert_eq!(&data[size..], b"\r\n", "the end of a chunk");
                message.body.extend_from_slice(&data[..size]);
            }
            loop {
                match self.line() {
                    None => return false,
                    Some(line) if line.is_empty() => return true,
                    Some(line) => message.trailers.push_str(&(line + "\n")),
                }
            }
        }
        let length = message.field("content-length").map_or(0, |n| n.parse().expect("a length"));
        match self.exactly(length) {
            Some(body) => message.body = body,
            None => return false,
        }
        true
    }

    pub fn answer(&mut self) -> Answer {
        self.message().unwrap_or_else(|| panic!("no answer; have {:?}", String::from_utf8_lossy(&self.read)))
    }

    /// The answer to HEAD.
    pub fn bare_answer(&mut self) -> Answer {
        Message { head: self.head().expect("an answer"), ..Message::default() }
    }

    pub fn finish_sending(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Closes with unread bytes, which makes it a reset; waits for some to come.
    pub fn reset(self) {
        let _ = self.stream.peek(&mut [0]);
    }

    pub fn peer(&self) -> SocketAddr {
        self.stream.peer_addr().expect("connected")
    }
}
