//! A Proxy on workers of its own, asked directly; and backends that play what they are told, over TCP, TLS or a Unix socket.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part of it")]

use base_runtime::time::Deadline;
use base_runtime::{Buf, Config, IoMode, Runtime};
use base_telemetry::{Identity, Names, Telemetry};
use edge_filters::proxy;
use edge_pipeline::{Body, BodyError, BodyStream, Exchange, Filter, Parts, Piece, PipelineName, Sight, Step, Touches};
use proto_http::{Method, Path, Version};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

pub struct House {
    pub telemetry: Arc<Telemetry>,
    proxy: Arc<dyn Filter>,
    last: bool,
    runtime: Runtime,
}

/// A request.
#[derive(Clone, Default)]
pub struct Ask {
    pub method: &'static str,
    pub target: &'static str,
    pub headers: Vec<(&'static str, &'static str)>,
    pub old: bool,
    /// In the buffer it was received in.
    pub buffer: Option<Vec<u8>>,
    /// In memory, of any size.
    pub whole: Option<Vec<u8>>,
    /// As it arrives, of unknown length.
    pub pieces: Vec<Vec<u8>>,
    /// The pieces never end.
    pub endless: bool,
    /// The end of the pieces is not told before this is so.
    pub until: Option<Arc<AtomicBool>>,
    /// The client offers to go on in another protocol.
    pub upgrade: bool,
    /// Counts pieces that are taken.
    pub taken: Option<Arc<AtomicUsize>>,
    /// Never reads the answer's body.
    pub stops: bool,
}

pub fn get(target: &'static str) -> Ask {
    Ask { method: "GET", target, ..Ask::default() }
}

pub fn post(body: &[u8]) -> Ask {
    Ask { method: "POST", target: "/", buffer: Some(body.to_vec()), ..Ask::default() }
}

/// What became of it.
#[derive(Debug)]
pub struct Said {
    pub outcome: &'static str,
    pub status: u16,
    pub headers: String,
    pub body: Result<Vec<u8>, BodyError>,
    pub trailers: String,
    /// Status and fields of interim answers.
    pub interim: Vec<(u16, String)>,
    /// The request's body is still there.
    pub body_kept: bool,
    pub notes: String,
    pub took: Duration,
}

impl House {
    pub fn new(workers: usize, spec: &str) -> House {
        House::made(workers, spec, true)
    }

    pub fn made(workers: usize, spec: &str, last: bool) -> House {
        House::with(workers, spec, last, &[])
    }

    /// With these policies in the pipeline's `resilience`.
    pub fn with_policies(workers: usize, spec: &str, policies: &[&str]) -> House {
        House::with(workers, spec, true, policies)
    }

    fn with(workers: usize, spec: &str, last: bool, policies: &[&str]) -> House {
        let telemetry = Telemetry::new(Identity::default(), workers);
        let proxy = build_with(spec, &telemetry, policies).unwrap_or_else(|problems| panic!("{spec}: {problems}"));
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let mut cpus = base_runtime::allowed_cpus();
        let turn = STARTED.fetch_add(1, Ordering::Relaxed) % cpus.len();
        cpus.rotate_left(turn);
        let cpus = cpus.into_iter().cycle().take(workers).collect();
        let config = Config { io: IoMode::Auto, cpus: Some(cpus), workers: Some(workers), ..Config::default() };
        House { telemetry, proxy, last, runtime: Runtime::start(config).expect("a driver works here") }
    }

    pub fn ask(&self, ask: Ask) -> Said {
        self.begin(0, ask).recv().expect("the request ends")
    }

    /// Asks on one of the workers.
    pub fn begin(&self, worker: usize, ask: Ask) -> mpsc::Receiver<Said> {
        let (sender, receiver) = mpsc::channel();
        let (proxy, last) = (self.proxy.clone(), self.last);
        self.runtime.workers()[worker].spawn(move || async move {
            let _ = sender.send(run(&*proxy, last, ask).await);
        });
        receiver
    }

    /// Asks on one of the workers; counts the pieces of the request's body that are taken.
    pub fn begin_counting(&self, worker: usize, ask: Ask, taken: Arc<AtomicUsize>) -> mpsc::Receiver<Said> {
        self.begin(worker, Ask { taken: Some(taken), ..ask })
    }

    /// Asks on one of the workers, and takes nothing of the answer's body.
    pub fn begin_and_stop(&self, worker: usize, ask: Ask) -> mpsc::Receiver<Said> {
        self.begin(worker, Ask { stops: true, ..ask })
    }

    /// Does something on the worker and asks in the same turn of its loop: what came meanwhile it has not heard of.
    pub fn ask_after(&self, before: impl FnOnce() + Send + 'static, ask: Ask) -> Said {
        let (sender, receiver) = mpsc::channel();
        let (proxy, last) = (self.proxy.clone(), self.last);
        self.runtime.workers()[0].spawn(move || async move {
            before();
            let _ = sender.send(run(&*proxy, last, ask).await);
        });
        receiver.recv().expect("the request ends")
    }

    /// As `GET /status/objects` shows it.
    pub fn status(&self) -> serde_json::Value {
        self.proxy.status().expect("a Proxy has one")
    }

    /// Sum of the series of a metric whose labels contain the text.
    pub fn metric(&self, name: &str, labels: &str) -> u64 {
        let text = self.telemetry.render(Names::default());
        let lines = text.lines().filter(|l| l.starts_with(name) && l.contains(labels));
        lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    }

    /// Waits until the sum of a metric is at least this.
    pub fn await_metric(&self, name: &str, least: u64) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.metric(name, "") < least {
            assert!(Instant::now() < end, "{name} stays at {}", self.metric(name, ""));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn errors(&self, reason: &str) -> u64 {
        self.metric("weir_upstream_errors_total", &format!("reason=\"{reason}\""))
    }

    pub fn connections_made(&self) -> u64 {
        self.metric("weir_upstream_connections_created_total", "")
    }
}

/// A Proxy of this document, or what is wrong with it.
pub fn build(spec: &str, telemetry: &Arc<Telemetry>) -> Result<Arc<dyn Filter>, String> {
    build_with(spec, telemetry, &[])
}

fn build_with(spec: &str, telemetry: &Arc<Telemetry>, policies: &[&str]) -> Result<Arc<dyn Filter>, String> {
    let policies = policies.iter().map(|text| {
        let raw = base_model::yaml::parse_document(text).expect("good YAML");
        let said = |key: &str| raw[key].as_str().unwrap_or_default().to_owned();
        base_model::NamedSpec { name: said("name"), kind: said("kind"), raw: raw.clone() }
    });
    let policies: Vec<_> = policies.collect();
    let fields = base_model::yaml::parse_document(spec).expect("good YAML");
    let text = |problems: Vec<base_model::Problem>| base_model::problem::render(&problems);
    proxy::KIND.checked(&fields, "").map_err(text)?;
    let parts =
        Parts { name: "f", pipeline: &PipelineName::of_object("p"), previous: None, resilience: &policies, telemetry };
    (proxy::KIND.build)(&fields, &parts).map_err(text)
}

async fn run(proxy: &dyn Filter, last: bool, ask: Ask) -> Said {
    let mut exchange = Exchange::default();
    exchange.later = if last { Touches::NOTHING } else { Touches::REQUEST_BODY };
    exchange.tags.enabled = true;
    let space = exchange.space();
    space.has_request = true;
    space.request.method = Method::parse(ask.method.as_bytes()).expect("a method");
    space.request.path = Path::parse(ask.target.as_bytes()).expect("a path");
    space.request.version = if ask.old { Version::Http10 } else { Version::Http11 };
    space.request.authority = "client.test".to_owned();
    for (name, value) in ask.headers {
        space.request.headers.add(name, value);
    }
    space.request_body = match ask.buffer {
        _ if ask.whole.is_some() => Body::full(ask.whole.unwrap_or_default()),
        Some(bytes) => Body::Buffer(Buf::copy_from(&bytes)),
        None if ask.pieces.is_empty() => Body::Empty,
        None => {
            let (left, endless, taken, until) = (ask.pieces, ask.endless, ask.taken, ask.until);
            Body::Stream(Box::new(Pieces { left, endless, taken, until, again: Deadline::new() }))
        }
    };
    exchange.upgrade_offered = ask.upgrade;
    let began = Instant::now();
    let outcome = match proxy.handle(&mut exchange) {
        Step::Done(outcome) => outcome,
        Step::Wait(future) => future.await,
    };
    let body_kept = matches!(exchange.space_ref().request_body, Body::Buffer(_));
    let interim = std::iter::from_fn(|| exchange.interim.pop());
    let interim = interim.map(|r| (r.status, format!("{:?}", r.headers))).collect();
    let notes = exchange.tags.notes.iter().map(|note| &**note).collect::<Vec<_>>().join("; ");
    if ask.stops {
        std::future::pending::<()>().await;
    }
    let space = exchange.space();
    let (status, headers) =
        space.response.as_ref().map_or((0, String::new()), |r| (r.status, format!("{:?}", r.headers)));
    let body = space.response_body.collect(1 << 30).await.map(|bytes| bytes.to_vec());
    let trailers = space.response_body.trailers().map_or_else(String::new, |trailers| format!("{trailers:?}"));
    Said { outcome, status, headers, body, trailers, interim, body_kept, notes, took: began.elapsed() }
}

struct Pieces {
    left: Vec<Vec<u8>>,
    endless: bool,
    taken: Option<Arc<AtomicUsize>>,
    until: Option<Arc<AtomicBool>>,
    /// When to look again.
    again: Deadline,
}

impl BodyStream for Pieces {
    fn poll_piece(&mut self, cx: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        if self.left.is_empty() && self.until.as_ref().is_some_and(|until| !until.load(Ordering::SeqCst)) {
            self.again.set_after(Duration::from_millis(5));
            return self.again.poll_expired(cx).map(|()| unreachable!("it has just been set"));
        }
        if let Some(taken) = &self.taken {
            taken.fetch_add(1, Ordering::SeqCst);
        }
        if self.endless {
            return Poll::Ready(Ok(Some(Piece::Buf(Buf::copy_from(&self.left[0])))));
        }
        Poll::Ready(Ok((!self.left.is_empty()).then(|| Piece::Buf(Buf::copy_from(&self.left.remove(0))))))
    }

    fn remaining(&self) -> Option<u64> {
        None
    }
}

pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// Head and body of a request, as they were on the wire.
pub type Sent = (String, Vec<u8>);

/// Requests in the order they came.
pub type Seen = Arc<Mutex<Vec<Sent>>>;

/// A backend's end of a connection.
pub struct Wire {
    pub stream: Box<dyn Stream>,
    read: Vec<u8>,
}

impl Wire {
    pub fn new(stream: impl Stream + 'static) -> Wire {
        Wire { stream: Box::new(stream), read: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).and_then(|()| self.stream.flush()).is_ok()
    }

    fn more(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.read.extend_from_slice(&piece[..n]);
                true
            }
        }
    }

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

    /// Head and body as they were on the wire.
    pub fn request(&mut self) -> Option<Sent> {
        let head = self.head()?;
        let field = |name: &str| {
            head.lines().find_map(|l| l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v))
        };
        let length = field("content-length").map(|length| length.parse::<usize>().expect("a length"));
        let chunked = field("transfer-encoding").is_some();
        let whole = |read: &[u8]| length.is_none_or(|n| read.len() >= n) && (!chunked || read.ends_with(b"0\r\n\r\n"));
        while !whole(&self.read) {
            if !self.more() {
                return None;
            }
        }
        Some((head, std::mem::take(&mut self.read)))
    }

    /// Reads a body in chunks to its end.
    pub fn rest_of_chunks(&mut self) {
        while !self.read.ends_with(b"0\r\n\r\n") && self.more() {}
        self.read.clear();
    }

    /// Reads until the other side closes.
    pub fn drain(&mut self) {
        while self.more() {}
    }
}

/// A backend: its connections are played by `play`, one thread each.
pub struct Backend {
    pub port: u16,
    pub connections: Arc<AtomicUsize>,
    pub seen: Seen,
}

impl Backend {
    pub fn new(play: impl Fn(Wire, usize) + Send + Sync + 'static) -> Backend {
        Backend::over(|stream| Some(Wire::new(stream)), play)
    }

    /// `accept` makes what is played out of a connection, a TLS session for example.
    pub fn over(
        accept: impl Fn(TcpStream) -> Option<Wire> + Send + Sync + 'static,
        play: impl Fn(Wire, usize) + Send + Sync + 'static,
    ) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("bound").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let (work, count) = (Arc::new((accept, play)), connections.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { break };
                let _ = stream.set_nodelay(true);
                let (work, nth) = (work.clone(), count.fetch_add(1, Ordering::SeqCst));
                std::thread::spawn(move || {
                    if let Some(wire) = (work.0)(stream) {
                        (work.1)(wire, nth);
                    }
                });
            }
        });
        Backend { port, connections, seen: Arc::default() }
    }

    /// Answers every request so, and records it.
    pub fn answering(answer: &'static str) -> Backend {
        let seen: Seen = Arc::default();
        let record = seen.clone();
        let mut backend = Backend::new(move |wire, _| serve(wire, answer, &record));
        backend.seen = seen;
        backend
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// What it has been sent, once it is so much.
    pub fn await_seen(&self, count: usize) -> Vec<Sent> {
        let end = Instant::now() + Duration::from_secs(60);
        while self.seen().len() < count {
            assert!(Instant::now() < end, "{} of {count}", self.seen().len());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.seen()
    }

    pub fn seen(&self) -> Vec<Sent> {
        self.seen.lock().unwrap().clone()
    }
}

/// Its accepting thread, and the connections that are open.
type Running = (std::thread::JoinHandle<()>, Arc<Mutex<Vec<TcpStream>>>);

/// A backend that goes and comes back at the same port.
pub struct Restartable {
    pub port: u16,
    running: Option<Running>,
}

impl Restartable {
    pub fn start() -> Restartable {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("bound").port();
        Restartable { port, running: Some(Restartable::run(listener)) }
    }

    fn run(listener: TcpListener) -> Running {
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let streams = open.clone();
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut byte = [0];
                // Whoever stops it says so in a byte that no request begins with.
                if stream.peek(&mut byte).is_ok_and(|n| n == 1) && byte[0] == b'!' {
                    return;
                }
                streams.lock().unwrap().push(stream.try_clone().expect("a descriptor is free"));
                std::thread::spawn(move || serve(Wire::new(stream), OK, &Default::default()));
            }
        });
        (accepting, open)
    }

    /// Closes the port, then every connection.
    pub fn stop(&mut self) {
        let Some((accepting, open)) = self.running.take() else { return };
        TcpStream::connect(("127.0.0.1", self.port)).and_then(|mut s| s.write_all(b"!")).expect("it runs");
        accepting.join().expect("it ends");
        for stream in open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    pub fn restart(&mut self) {
        let end = Instant::now() + Duration::from_secs(60);
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", self.port)) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < end, "port {}: {error}", self.port),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.running = Some(Restartable::run(listener));
    }
}

pub fn serve(mut wire: Wire, answer: &str, seen: &Mutex<Vec<Sent>>) {
    while let Some(request) = wire.request() {
        seen.lock().unwrap().push(request);
        wire.send(answer);
    }
}

pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A pool with one server.
pub fn to(port: u16) -> String {
    format!("pools: [{{servers: [{{url: 'http://127.0.0.1:{port}'}}]}}]")
}

/// A port nobody listens on.
pub fn dead_port() -> u16 {
    base_testing::free_port()
}
