//! The load generator: clients and upstream in one thread and one epoll loop, because two programs on one CPU would cost
//! more than a fast gateway on the other.
//!
//! Every client connection asks for a body of its own, a window into one pattern that starts at another place, and
//! compares each byte of the answer; so does the upstream with request bodies. An answer that belongs to somebody else, is
//! cut short or goes on too long counts as a mismatch, not as a request.

pub mod wire;

mod client;
mod datagrams;
pub(crate) mod pattern;
mod upstream;
mod waiting;
mod websockets;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use serde::{Deserialize, Serialize};

use crate::cpu;
use client::{Client, Reading};
use pattern::{Pattern, WINDOWS};
use upstream::Upstream;
use waiting::ExactTimers;
use wire::{Handshakes, Wire};

/// What is asked for, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The gateway; absent: only play the upstream, for ever
    #[arg(long)]
    pub target: Option<SocketAddr>,
    /// Where to play the upstream; absent: somebody else does
    #[arg(long)]
    pub upstream: Option<SocketAddr>,
    /// Client connections
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Bytes of a response body
    #[arg(long, default_value_t = 1024)]
    pub size: usize,
    /// Bytes of a request body; 0 sends GETs
    #[arg(long, default_value_t = 0)]
    pub body: usize,
    /// Requests a second, due whether or not earlier ones were answered, the connections by turns; absent: each connection as
    /// fast as it can
    #[arg(long)]
    pub rate: Option<u32>,
    /// A new connection for each request
    #[arg(long)]
    pub close: bool,
    /// TLS 1.3, with full handshakes or with resumed ones as far as there are tickets; absent: plain
    #[arg(long)]
    pub tls: Option<Tls>,
    /// End after so many answers instead of after a time, without a warm-up
    #[arg(long)]
    pub requests: Option<u64>,
    /// Seconds before the measurement
    #[arg(long, default_value_t = 0.8)]
    pub warm_up: f64,
    /// Seconds of the measurement
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// The gateway's process, to read its CPU time at both ends of the measurement
    #[arg(long)]
    pub pid: Option<u32>,
    /// The CPU that the gateway is pinned to, to see who else used it
    #[arg(long, default_value_t = 0)]
    pub gateway_cpu: usize,
    /// The CPU that we are pinned to, to see who else used it
    #[arg(long, default_value_t = 1)]
    pub load_cpu: usize,
    /// The certificate that the gateway has to show; any will do when there is none
    #[arg(skip)]
    pub certificate: Option<rustls::pki_types::CertificateDer<'static>>,
    /// Datagrams that come back as they were, each client a session; `--size` bytes each
    #[arg(long)]
    pub datagrams: bool,
    /// What targets begin with
    #[arg(long, default_value = "/")]
    pub path: String,
    /// Every request is to be refused with this status; absent: answered
    #[arg(long)]
    pub refused: Option<u16>,
    /// Answers may be kept, and are given without the upstream once they are
    #[arg(long)]
    pub cached: bool,
    /// The clients are those of another program, which speaks HTTP/2; this one is the upstream alone
    #[arg(skip)]
    pub h2: Option<crate::h2load::Shape>,
    /// The clients are those of our own way to backends, over HTTP/3; this one is the upstream alone
    #[arg(skip)]
    pub h3: Option<crate::h2load::Shape>,
    /// Messages over WebSockets, one for each client, of `--size` bytes each, which come back
    #[arg(long)]
    pub websockets: bool,
    /// What somebody else who plays an upstream was asked, which counts as ours
    #[arg(skip)]
    pub asked: Option<Arc<AtomicU64>>,
    /// Who asks, where this one is the upstream alone
    #[arg(skip)]
    pub others: Option<Others>,
}

/// Clients of another program, or other threads. An upstream that ended before them would make errors of the gateway that are none.
#[derive(Debug, Clone, Default)]
pub struct Others {
    /// How many are not at their end.
    pub asking: Arc<AtomicUsize>,
    /// The measurement is over.
    pub over: Arc<AtomicBool>,
}

/// One of them, until it is dropped.
pub struct Other(Others);

impl Others {
    pub fn begin(&self) -> Other {
        self.asking.fetch_add(1, Ordering::AcqRel);
        Other(self.clone())
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            target: None,
            upstream: None,
            connections: 64,
            size: 1024,
            body: 0,
            rate: None,
            close: false,
            tls: None,
            requests: None,
            warm_up: 0.8,
            seconds: 3.0,
            pid: None,
            gateway_cpu: 0,
            load_cpu: 1,
            certificate: None,
            datagrams: false,
            path: "/".to_owned(),
            refused: None,
            cached: false,
            h2: None,
            h3: None,
            websockets: false,
            asked: None,
            others: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Tls {
    Full,
    Resumed,
}

/// What one measurement found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub requests: u64,
    pub seconds: f64,
    /// Answers with another status than 200, or that were not HTTP; connections that the gateway closed on a request.
    pub errors: u64,
    /// Bodies that were not the expected bytes, in either direction.
    pub mismatches: u64,
    /// Connections that the gateway closed though they were to stay.
    pub reconnects: u64,
    /// Requests whose connection was resumed with a ticket.
    pub resumed: u64,
    /// Requests that reached our upstream.
    pub upstream_requests: u64,
    pub gateway_cpu_us: f64,
    /// Of it, outside the kernel: by the kernel's ticks, within a few hundredths after some seconds.
    pub gateway_user_us: f64,
    /// CPU time that others took from the gateway's CPU.
    pub foreign_gateway_us: f64,
    /// CPU time that others took from ours.
    pub foreign_load_us: f64,
    /// CPU time of the generator, both ends.
    pub own_cpu_us: f64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

/// Loads the gateway for as long as the options say.
pub fn run(options: &Options) -> Result<Outcome, String> {
    if options.datagrams {
        return datagrams::run(options);
    }
    if options.websockets {
        return websockets::run(options);
    }
    Generator::new(options)?.run().map_err(|error| format!("load generator: {error}"))
}

/// Opens all connections, makes one request on each, leaves them idle for `settle`, calls `hold` and closes them. Connections
/// that the gateway closed meanwhile are `reconnects`.
pub fn idle(options: &Options, settle: Duration, hold: impl FnOnce()) -> Result<Outcome, String> {
    let mut generator = Generator::new(options)?;
    generator.idle(settle, hold).map_err(|error| format!("load generator: {error}"))?;
    Ok(generator.counts)
}

struct Generator<'a> {
    options: &'a Options,
    epoll: rustix::fd::OwnedFd,
    listener: Option<TcpListener>,
    handshakes: Option<Handshakes>,
    clients: Vec<Client>,
    /// Connections of the gateway to us; a closed one leaves its place to a later one.
    gateway: Vec<Option<Upstream>>,
    pattern: Pattern,
    pace: Pace,
    /// Clients without a request, the one that waits longest first.
    waiting: VecDeque<usize>,
    buffer: Vec<u8>,
    records: Vec<u8>,
    latency: Histogram<u64>,
    counts: Outcome,
}

/// What a client does when it has its answer.
#[derive(Clone, Copy, PartialEq)]
enum Pace {
    /// Asks again at once.
    Saturated,
    /// Waits until a request is due.
    Rate,
    /// Stays idle, and another one is opened.
    Opening,
}

impl<'a> Generator<'a> {
    fn new(options: &'a Options) -> Result<Self, String> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| format!("epoll: {error}"))?;
        let handshakes = options.tls.map(|tls| Handshakes::new(tls == Tls::Resumed, options.certificate.clone()));
        let mut generator = Self {
            options,
            epoll,
            listener: None,
            handshakes: handshakes.transpose()?,
            clients: Vec::new(),
            gateway: Vec::new(),
            pattern: Pattern::new(&options.path, options.size, options.body, options.cached),
            pace: Pace::Saturated,
            waiting: VecDeque::new(),
            buffer: vec![0; 256 << 10],
            records: vec![0; 128 << 10],
            latency: Histogram::new_with_bounds(1, 60_000_000, 3).map_err(|error| format!("histogram: {error}"))?,
            counts: Outcome::default(),
        };
        if let Some(address) = options.upstream {
            let failed = |error: io::Error| format!("upstream on {address}: {error}");
            let listener = TcpListener::bind(address).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            generator.watch(&listener, LISTENER, epoll::EventFlags::IN).map_err(failed)?;
            generator.listener = Some(listener);
        }
        Ok(generator)
    }

    fn run(mut self) -> io::Result<Outcome> {
        let mut events = Vec::with_capacity(512);
        if self.options.target.is_none() {
            loop {
                self.turn(&mut events, None)?;
            }
        }
        match self.options.rate {
            Some(_) => {
                self.open_all(&mut events)?;
                self.pace = Pace::Rate;
            }
            None => {
                for index in 0..self.options.connections {
                    self.open(index)?;
                }
            }
        }
        let now = Instant::now();
        if self.options.requests.is_none() {
            self.drive(&mut events, now, now + Duration::from_secs_f64(self.options.warm_up))?;
            self.counts = Outcome::default();
        }
        self.latency.reset();
        let options = self.options;
        let asked = || options.asked.as_ref().map_or(0, |asked| asked.load(Ordering::Relaxed));
        let (started, before, asked_before) = (Instant::now(), Books::read(self.options), asked());
        self.drive(&mut events, started, started + Duration::from_secs_f64(self.options.seconds))?;
        self.counts.upstream_requests += asked() - asked_before;
        let outcome = before.outcome(self.options, started, &self.latency, self.counts.clone());
        if let Some(others) = &options.others {
            others.over.store(true, Ordering::Release);
            let limit = Instant::now() + OTHERS_LIMIT;
            while others.asking.load(Ordering::Acquire) > 0 && Instant::now() < limit {
                self.turn(&mut events, Some(Duration::from_millis(5)))?;
            }
        }
        Ok(outcome)
    }

    fn idle(&mut self, settle: Duration, hold: impl FnOnce()) -> io::Result<()> {
        let mut events = Vec::with_capacity(512);
        self.open_all(&mut events)?;
        let now = Instant::now();
        self.drive(&mut events, now, now + settle)?;
        hold();
        Ok(())
    }

    /// Opens all clients, one request each, a few at a time.
    fn open_all(&mut self, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        self.pace = Pace::Opening;
        for index in 0..self.options.connections.min(OPENING_MAX) {
            self.open(index)?;
        }
        let limit = Instant::now() + OPENING_LIMIT;
        while self.waiting.len() < self.options.connections {
            let left = limit.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (open, all) = (self.waiting.len(), self.options.connections);
                return Err(io::Error::other(format!("{open} of {all} connections had their answer in time")));
            }
            self.turn(events, Some(left))?;
        }
        Ok(())
    }

    /// Turns the loop until `end`; at a rate requests fall due from `start` on.
    fn drive(&mut self, events: &mut Vec<epoll::Event>, start: Instant, end: Instant) -> io::Result<()> {
        let rate = self.options.rate.filter(|_| self.pace == Pace::Rate);
        let pace = rate.map(|rate| Duration::from_secs(1).div_f64(f64::from(rate)));
        let _exact = pace.map(|_| ExactTimers::of_this_thread());
        let mut due = start;
        loop {
            let now = Instant::now();
            let enough = self.options.requests.is_some_and(|enough| self.counts.requests >= enough);
            if now >= end || enough {
                return Ok(());
            }
            let mut wake = end;
            if let Some(pace) = pace {
                while due <= now {
                    let Some(index) = self.waiting.pop_front() else { break };
                    self.send(index, due)?;
                    due += pace;
                }
                wake = wake.min(due.max(now));
            }
            // Without a free connection only an answer helps on.
            let wait = if pace.is_some() && self.waiting.is_empty() { end - now } else { wake - now };
            self.turn(events, Some(wait))?;
        }
    }

    fn turn(&mut self, events: &mut Vec<epoll::Event>, wait: Option<Duration>) -> io::Result<()> {
        waiting::wait(&self.epoll, events, wait)?;
        for event in events.iter() {
            let flags = event.flags;
            match event.data.u64() {
                LISTENER => self.accept()?,
                client if client < UPSTREAM => self.serve_client(client as usize, flags)?,
                upstream => self.serve_upstream((upstream - UPSTREAM) as usize),
            }
        }
        Ok(())
    }

    /// Asks to be told when a full socket has room again, or no longer.
    fn want_room(&self, socket: &impl rustix::fd::AsFd, id: u64, wanted: bool) -> bool {
        let room = if wanted { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
        epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(id), epoll::EventFlags::IN | room).is_ok()
    }

    fn watch(&self, socket: &impl rustix::fd::AsFd, id: u64, flags: epoll::EventFlags) -> io::Result<()> {
        epoll::add(&self.epoll, socket, epoll::EventData::new_u64(id), flags).map_err(io::Error::from)
    }

    // The client's end.

    /// The next client, with its first request.
    fn open(&mut self, index: usize) -> io::Result<()> {
        let client = self.connect(index)?;
        self.clients.push(client);
        self.send(index, Instant::now())
    }

    /// A connection that is being made; what is sent before it stands goes out then.
    fn connect(&self, index: usize) -> io::Result<Client> {
        let target = self.options.target.ok_or(ErrorKind::NotConnected)?;
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        if self.options.connections > ONE_SOURCE_MAX && target.ip() == Ipv4Addr::LOCALHOST {
            // One address has 28,000 ports, and those of the last minute are not free yet.
            let source = Ipv4Addr::new(127, 0, 0, 1 + (index % SOURCES) as u8);
            rustix::net::bind(&socket, &SocketAddr::from((source, 0)))?;
        }
        match rustix::net::connect(&socket, &target) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        self.watch(&socket, index as u64, epoll::EventFlags::IN)?;
        let stream = TcpStream::from(socket);
        let wire = match &self.handshakes {
            None => Wire::Plain(stream),
            Some(handshakes) => handshakes.wrap(stream)?,
        };
        let window = index % WINDOWS;
        Ok(Client::new(wire, self.pattern.request(window, self.options.close), window))
    }

    fn send(&mut self, index: usize, due: Instant) -> io::Result<()> {
        self.clients[index].ask(due);
        if self.push(index) { Ok(()) } else { self.reconnect(index) }
    }

    /// Sends what the socket takes, the rest when there is room; false when the connection is broken.
    fn push(&mut self, index: usize) -> bool {
        self.clients[index].push().is_ok() && self.room(index)
    }

    /// Has us told of room when there is something to send, and only then.
    fn room(&mut self, index: usize) -> bool {
        let client = &mut self.clients[index];
        let full = client.is_full();
        let same = std::mem::replace(&mut client.waits_for_room, full) == full;
        same || self.want_room(&self.clients[index].wire, index as u64, full)
    }

    fn serve_client(&mut self, index: usize, flags: epoll::EventFlags) -> io::Result<()> {
        if flags.contains(epoll::EventFlags::OUT) && !self.push(index) {
            return self.reconnect(index);
        }
        let client = &mut self.clients[index];
        let count = match client.wire.read(&mut self.records, &mut self.buffer) {
            Ok(0) => return self.ended(index),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                // A handshake may have brought us something to say.
                return if self.push(index) { Ok(()) } else { self.reconnect(index) };
            }
            Err(_) => return self.reconnect(index),
        };
        let expected = self.pattern.response_body(client.window);
        match client.receive(&self.buffer[..count], expected, self.options.refused) {
            Ok(None) => Ok(()),
            Ok(Some(sound)) => {
                if sound {
                    self.counts.requests += 1;
                    self.counts.resumed += u64::from(client.wire.is_resumed());
                    let us = u64::try_from(client.due.elapsed().as_micros()).unwrap_or(u64::MAX);
                    self.latency.saturating_record(us.max(1));
                } else {
                    self.counts.mismatches += 1;
                }
                if self.options.close {
                    client.reading = Reading::End;
                    return Ok(());
                }
                self.answered(index)
            }
            Err(()) => {
                self.counts.errors += 1;
                self.reconnect(index)
            }
        }
    }

    fn answered(&mut self, index: usize) -> io::Result<()> {
        match self.pace {
            Pace::Saturated => return self.send(index, Instant::now()),
            Pace::Rate => self.waiting.push_back(index),
            Pace::Opening => {
                self.waiting.push_back(index);
                if self.clients.len() < self.options.connections {
                    self.open(self.clients.len())?;
                }
            }
        }
        Ok(())
    }

    /// The gateway closed: as it was to, or too early.
    fn ended(&mut self, index: usize) -> io::Result<()> {
        if !matches!(self.clients[index].reading, Reading::End) {
            return self.reconnect(index);
        }
        self.clients[index] = self.connect(index)?;
        self.answered(index)
    }

    /// A fresh connection in the place of one that the gateway ended or spoilt.
    fn reconnect(&mut self, index: usize) -> io::Result<()> {
        self.counts.reconnects += 1;
        if self.counts.reconnects > RECONNECTS_MAX {
            return Err(io::Error::other("the gateway keeps closing connections or answering with errors"));
        }
        let idle = self.pace != Pace::Saturated && self.waiting.contains(&index);
        self.clients[index] = self.connect(index)?;
        if idle {
            return Ok(());
        }
        self.clients[index].ask(Instant::now());
        // If this fails too, the next read finds out.
        self.push(index);
        Ok(())
    }

    // The upstream's end.

    fn accept(&mut self) -> io::Result<()> {
        while let Some((stream, _)) = self.listener.as_ref().and_then(|listener| listener.accept().ok()) {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let place = self.gateway.iter().position(Option::is_none).unwrap_or_else(|| {
                self.gateway.push(None);
                self.gateway.len() - 1
            });
            self.watch(&stream, UPSTREAM + place as u64, epoll::EventFlags::IN)?;
            self.gateway[place] = Some(Upstream::new(stream));
        }
        Ok(())
    }

    fn serve_upstream(&mut self, place: usize) {
        let Some(connection) = self.gateway[place].as_mut() else { return };
        let heard = connection.serve(&mut self.buffer, &self.pattern);
        self.counts.upstream_requests += heard.requests;
        self.counts.mismatches += heard.mismatches;
        let full = connection.is_full();
        let mut alive = heard.alive;
        if alive && full != connection.waits_for_room {
            connection.waits_for_room = full;
            let connection = self.gateway[place].as_ref();
            alive = connection.is_some_and(|one| self.want_room(&one.stream, UPSTREAM + place as u64, full));
        }
        if !alive {
            self.gateway[place] = None;
        }
    }
}

/// Readings at both ends of a measurement.
struct Books {
    gateway: Duration,
    /// Of the gateway's time, ticks outside the kernel and in it.
    ticks: (u64, u64),
    own: Duration,
    gateway_busy: Duration,
    load_busy: Duration,
}

impl Books {
    /// What has been found since these were read, which was when it `started`.
    fn outcome(&self, options: &Options, started: Instant, latency: &Histogram<u64>, counts: Outcome) -> Outcome {
        let (seconds, after) = (started.elapsed().as_secs_f64(), Books::read(options));
        let us = |of: fn(&Books) -> Duration| of(&after).saturating_sub(of(self)).as_secs_f64() * 1e6;
        let (gateway_cpu_us, own_cpu_us) = (us(|books| books.gateway), us(|books| books.own));
        let ticks = |of: fn(&Books) -> u64| of(&after).saturating_sub(of(self)) as f64;
        let (user, kernel) = (ticks(|books| books.ticks.0), ticks(|books| books.ticks.1));
        Outcome {
            seconds,
            gateway_cpu_us,
            gateway_user_us: gateway_cpu_us * user / (user + kernel).max(1.0),
            own_cpu_us,
            foreign_gateway_us: (us(|books| books.gateway_busy) - gateway_cpu_us).max(0.0),
            foreign_load_us: (us(|books| books.load_busy) - own_cpu_us).max(0.0),
            p50_us: latency.value_at_quantile(0.5),
            p90_us: latency.value_at_quantile(0.9),
            p99_us: latency.value_at_quantile(0.99),
            p999_us: latency.value_at_quantile(0.999),
            max_us: latency.max(),
            ..counts
        }
    }

    fn read(options: &Options) -> Self {
        Self {
            gateway: options.pid.map_or(Duration::ZERO, cpu::spent),
            ticks: options.pid.map_or((0, 0), cpu::ticks),
            own: cpu::spent_alone(std::process::id()),
            gateway_busy: cpu::busy(options.gateway_cpu),
            load_busy: cpu::busy(options.load_cpu),
        }
    }
}

/// How long others may take to end after the measurement.
const OTHERS_LIMIT: Duration = Duration::from_secs(20);

const LISTENER: u64 = u64::MAX;
/// Ids of the upstream's connections begin here; clients are below.
const UPSTREAM: u64 = 1 << 32;
/// A gateway that closes this often is broken, not slow.
const RECONNECTS_MAX: u64 = 100_000;
/// Connections that are opened at a time where all are opened before the load begins: no accept queue overflows.
const OPENING_MAX: usize = 64;
const OPENING_LIMIT: Duration = Duration::from_secs(60);
/// With more connections than this clients have several addresses.
const ONE_SOURCE_MAX: usize = 1000;
const SOURCES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        let address = (std::net::Ipv4Addr::LOCALHOST, base_testing::free_port()).into();
        Options {
            target: Some(address),
            upstream: Some(address),
            connections: 20,
            warm_up: 0.05,
            seconds: 1.0,
            ..Options::default()
        }
    }

    #[test]
    fn the_generator_talks_to_itself() {
        for options in [
            options(),
            Options { size: 200_000, ..options() },
            Options { body: 4096, size: 10, ..options() },
            Options { rate: Some(2000), ..options() },
        ] {
            let outcome = run(&options).expect("a run");
            assert_eq!((outcome.errors, outcome.mismatches, outcome.reconnects), (0, 0, 0), "{options:?}: {outcome:?}");
            assert!(outcome.requests > 20, "{options:?}: {outcome:?}");
        }
    }

    #[test]
    fn a_count_of_requests_ends_it_early() {
        let options = Options { requests: Some(50), seconds: 60.0, connections: 1, ..options() };
        let outcome = run(&options).expect("a run");
        assert_eq!((outcome.requests, outcome.errors + outcome.mismatches), (50, 0), "{outcome:?}");
        assert!(outcome.seconds < 30.0, "{outcome:?}");
    }

    #[test]
    fn idle_connections_made_one_request_each_and_stay() {
        let (options, mut held) = (Options { connections: 300, ..options() }, false);
        let outcome = idle(&options, Duration::from_millis(20), || held = true).expect("connections");
        assert_eq!((outcome.requests, outcome.reconnects, held), (300, 0, true), "{outcome:?}");
    }
}
