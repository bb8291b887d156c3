//! The load generator: clients and upstream in one thread and one epoll loop, because two programs on one CPU would cost
//! more than a fast gateway on the other.
//!
//! Every client connection asks for a body of its own, a window into one pattern that starts at another place, and
//! compares each byte of the answer; so does the upstream with request bodies. An answer that belongs to somebody else, is
//! cut short or goes on too long counts as a mismatch, not as a request.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};
use serde::{Deserialize, Serialize};

use crate::cpu;

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
    /// Requests a second, due whether or not earlier ones were answered; absent: each connection as fast as it can
    #[arg(long)]
    pub rate: Option<u32>,
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
}

/// What one measurement found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub requests: u64,
    pub seconds: f64,
    /// Answers with another status than 200, or that were not HTTP.
    pub errors: u64,
    /// Bodies that were not the expected bytes, in either direction.
    pub mismatches: u64,
    /// Connections that the gateway closed.
    pub reconnects: u64,
    /// Requests that reached our upstream.
    pub upstream_requests: u64,
    pub gateway_cpu_us: f64,
    /// Time the gateway's CPU was busy in all, whoever used it.
    pub cpu_busy_us: f64,
    /// CPU time of the generator, both ends.
    pub own_cpu_us: f64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

pub fn run(options: &Options) -> Result<Outcome, String> {
    Generator::new(options)?.run().map_err(|error| format!("load generator: {error}"))
}

struct Generator<'a> {
    options: &'a Options,
    epoll: rustix::fd::OwnedFd,
    listener: Option<TcpListener>,
    clients: Vec<Client>,
    /// Connections of the gateway to us; a closed one leaves its place to a later one.
    gateway: Vec<Option<Upstream>>,
    pattern: Pattern,
    /// Clients without a request, for the open loop.
    idle: Vec<usize>,
    buffer: Vec<u8>,
    latency: Histogram<u64>,
    counts: Outcome,
}

struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    window: usize,
    reading: Reading,
    /// What of the request the socket did not take yet.
    unsent: usize,
    waits_for_room: bool,
    /// When the request was due; latency is counted from there.
    due: Instant,
}

enum Reading {
    Head(Vec<u8>),
    Body { done: usize, sound: bool },
}

struct Upstream {
    stream: TcpStream,
    input: Vec<u8>,
    unsent: Vec<u8>,
    waits_for_room: bool,
}

impl<'a> Generator<'a> {
    fn new(options: &'a Options) -> Result<Self, String> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| format!("epoll: {error}"))?;
        let mut generator = Self {
            options,
            epoll,
            listener: None,
            clients: Vec::new(),
            gateway: Vec::new(),
            pattern: Pattern::new(options.size, options.body),
            idle: Vec::new(),
            buffer: vec![0; 256 << 10],
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
        let now = Instant::now();
        for index in 0..self.options.connections {
            let client = self.connect(index)?;
            self.clients.push(client);
            match self.options.rate {
                Some(_) => self.idle.push(index),
                None => self.send(index, now)?,
            }
        }
        let warm_until = now + Duration::from_secs_f64(self.options.warm_up);
        self.drive(&mut events, now, warm_until)?;
        self.latency.reset();
        self.counts = Outcome::default();
        let books = |options: &Options| {
            let gateway = options.pid.map_or(Duration::ZERO, cpu::spent);
            (gateway, cpu::busy(options.gateway_cpu), cpu::spent_alone(std::process::id()))
        };
        let (gateway, busy, own) = books(self.options);
        let started = Instant::now();
        self.drive(&mut events, started, started + Duration::from_secs_f64(self.options.seconds))?;
        let seconds = started.elapsed().as_secs_f64();
        let after = books(self.options);
        let us = |after: Duration, before: Duration| after.saturating_sub(before).as_secs_f64() * 1e6;
        Ok(Outcome {
            seconds,
            gateway_cpu_us: us(after.0, gateway),
            cpu_busy_us: us(after.1, busy),
            own_cpu_us: us(after.2, own),
            p50_us: self.latency.value_at_quantile(0.5),
            p90_us: self.latency.value_at_quantile(0.9),
            p99_us: self.latency.value_at_quantile(0.99),
            max_us: self.latency.max(),
            ..self.counts
        })
    }

    /// Turns the loop until `end`; in the open loop requests fall due from `start` on.
    fn drive(&mut self, events: &mut Vec<epoll::Event>, start: Instant, end: Instant) -> io::Result<()> {
        let pace = self.options.rate.map(|rate| Duration::from_secs(1).div_f64(f64::from(rate)));
        let mut due = start;
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            let mut wake = end;
            if let Some(pace) = pace {
                while due <= now {
                    let Some(index) = self.idle.pop() else { break };
                    self.send(index, due)?;
                    due += pace;
                }
                wake = wake.min(due.max(now));
            }
            // Without a free connection only an answer helps on.
            let wait = if pace.is_some() && self.idle.is_empty() { end - now } else { wake - now };
            self.turn(events, Some(wait))?;
        }
    }

    fn turn(&mut self, events: &mut Vec<epoll::Event>, wait: Option<Duration>) -> io::Result<()> {
        events.clear();
        let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.iter() {
            let flags = event.flags;
            match event.data.u64() {
                LISTENER => self.accept()?,
                client if client < UPSTREAM => self.serve_client(client as usize, flags)?,
                upstream => self.serve_upstream((upstream - UPSTREAM) as usize)?,
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

    fn connect(&self, index: usize) -> io::Result<Client> {
        let target = self.options.target.ok_or(ErrorKind::NotConnected)?;
        let stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        self.watch(&stream, index as u64, epoll::EventFlags::IN)?;
        let window = index % WINDOWS;
        let request = if self.options.body == 0 {
            format!("GET /{window} HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: lg\r\nAccept: */*\r\n\r\n")
                .into_bytes()
        } else {
            let length = self.options.body;
            let head = format!(
                "POST /{window} HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: lg\r\nAccept: */*\r\n\
                 Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
            );
            [head.as_bytes(), self.pattern.request_body(window)].concat()
        };
        Ok(Client {
            stream,
            request,
            window,
            reading: Reading::Head(Vec::new()),
            unsent: 0,
            waits_for_room: false,
            due: Instant::now(),
        })
    }

    fn send(&mut self, index: usize, due: Instant) -> io::Result<()> {
        let client = &mut self.clients[index];
        client.due = due;
        client.unsent = client.request.len();
        if self.push(index) { Ok(()) } else { self.reconnect(index) }
    }

    /// Sends what the socket takes of a request, the rest when there is room.
    fn push(&mut self, index: usize) -> bool {
        let client = &mut self.clients[index];
        let (waited, sent) = (client.waits_for_room, client.push());
        client.waits_for_room = client.unsent > 0;
        let client = &self.clients[index];
        sent && (waited == client.waits_for_room || self.want_room(&client.stream, index as u64, client.waits_for_room))
    }

    fn serve_client(&mut self, index: usize, flags: epoll::EventFlags) -> io::Result<()> {
        if flags.contains(epoll::EventFlags::OUT) {
            self.push(index);
        }
        let client = &mut self.clients[index];
        let count = match client.stream.read(&mut self.buffer) {
            Ok(0) => return self.reconnect(index),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(_) => return self.reconnect(index),
        };
        let expected = self.pattern.response_body(client.window);
        match client.receive(&self.buffer[..count], expected) {
            Ok(None) => Ok(()),
            Ok(Some(sound)) => {
                if sound {
                    self.counts.requests += 1;
                    let us = u64::try_from(client.due.elapsed().as_micros()).unwrap_or(u64::MAX);
                    self.latency.saturating_record(us.max(1));
                } else {
                    self.counts.mismatches += 1;
                }
                if self.options.rate.is_some() {
                    self.idle.push(index);
                    return Ok(());
                }
                self.send(index, Instant::now())
            }
            Err(()) => {
                self.counts.errors += 1;
                self.reconnect(index)
            }
        }
    }

    /// A fresh connection in the place of one that the gateway ended or spoilt.
    fn reconnect(&mut self, index: usize) -> io::Result<()> {
        self.counts.reconnects += 1;
        if self.counts.reconnects > RECONNECTS_MAX {
            return Err(io::Error::other("the gateway keeps closing connections or answering with errors"));
        }
        self.clients[index] = self.connect(index)?;
        if self.options.rate.is_some() {
            if !self.idle.contains(&index) {
                self.idle.push(index);
            }
            return Ok(());
        }
        let client = &mut self.clients[index];
        client.due = Instant::now();
        client.unsent = client.request.len();
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
            self.gateway[place] =
                Some(Upstream { stream, input: Vec::new(), unsent: Vec::new(), waits_for_room: false });
        }
        Ok(())
    }

    fn serve_upstream(&mut self, place: usize) -> io::Result<()> {
        let Some(connection) = self.gateway[place].as_mut() else { return Ok(()) };
        if !connection.unsent.is_empty() && !connection.flush() {
            self.gateway[place] = None;
            return Ok(());
        }
        let mut alive = match connection.stream.read(&mut self.buffer) {
            Ok(0) => false,
            Ok(count) => {
                let (requests, mismatches, sound) = connection.receive(&self.buffer[..count], &self.pattern);
                self.counts.upstream_requests += requests;
                self.counts.mismatches += mismatches;
                sound
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        let full = !connection.unsent.is_empty();
        if alive && full != connection.waits_for_room {
            connection.waits_for_room = full;
            let connection = self.gateway[place].as_ref();
            alive = connection.is_some_and(|one| self.want_room(&one.stream, UPSTREAM + place as u64, full));
        }
        if !alive {
            self.gateway[place] = None;
        }
        Ok(())
    }
}

impl Client {
    /// Writes what is left of the request; false when the connection is broken.
    fn push(&mut self) -> bool {
        while self.unsent > 0 {
            let from = self.request.len() - self.unsent;
            match self.stream.write(&self.request[from..]) {
                Ok(count) => self.unsent -= count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Takes bytes of an answer. `Some(sound)` when it is complete; an error when it is not what we asked for.
    fn receive(&mut self, mut bytes: &[u8], expected: &[u8]) -> Result<Option<bool>, ()> {
        if let Reading::Head(held) = &mut self.reading {
            let joined;
            let head = if held.is_empty() {
                bytes
            } else {
                held.extend_from_slice(bytes);
                joined = std::mem::take(held);
                &joined
            };
            let Some(end) = memchr::memmem::find(head, b"\r\n\r\n") else {
                *held = head.to_vec();
                return if held.len() > HEAD_BYTES_MAX { Err(()) } else { Ok(None) };
            };
            let length = content_length(&head[..end + 2]).ok_or(())?;
            if !head.starts_with(b"HTTP/1.1 200") || length != expected.len() {
                return Err(());
            }
            // What stands behind the head is the tail of what just came.
            bytes = &bytes[bytes.len() - (head.len() - end - 4)..];
            self.reading = Reading::Body { done: 0, sound: true };
        }
        if let Reading::Body { done, sound } = &mut self.reading {
            let wanted = &expected[*done..];
            if bytes.len() > wanted.len() {
                return Err(());
            }
            *sound &= bytes == &wanted[..bytes.len()];
            *done += bytes.len();
            if *done == expected.len() {
                let sound = *sound;
                self.reading = Reading::Head(Vec::new());
                return Ok(Some(sound));
            }
        }
        Ok(None)
    }
}

impl Upstream {
    /// Answers every whole request in what came; says how many, how many bodies were wrong, and whether to go on.
    fn receive(&mut self, bytes: &[u8], pattern: &Pattern) -> (u64, u64, bool) {
        let (mut requests, mut mismatches) = (0, 0);
        let held = std::mem::take(&mut self.input);
        let joined;
        let mut rest = if held.is_empty() {
            bytes
        } else {
            joined = [&held, bytes].concat();
            &joined
        };
        while let Some(end) = memchr::memmem::find(rest, b"\r\n\r\n") {
            let head = &rest[..end + 2];
            let length = content_length(head).unwrap_or(0);
            let Some(body) = rest.get(end + 4..end + 4 + length) else { break };
            let Some(window) = window(head) else { return (requests, mismatches, false) };
            if body != pattern.request_body(window) {
                mismatches += 1;
            }
            requests += 1;
            rest = &rest[end + 4 + length..];
            let answer = pattern.answer(window);
            if self.unsent.is_empty() {
                let sent = match self.stream.write(answer) {
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                    Err(_) => return (requests, mismatches, false),
                };
                self.unsent.extend_from_slice(&answer[sent..]);
            } else {
                self.unsent.extend_from_slice(answer);
            }
        }
        self.input = rest.to_vec();
        (requests, mismatches, true)
    }

    fn flush(&mut self) -> bool {
        match self.stream.write(&self.unsent) {
            Ok(count) => {
                self.unsent.drain(..count);
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// Bodies: windows of one text without a short period, each window another start.
struct Pattern {
    text: Vec<u8>,
    answers: Vec<Vec<u8>>,
    response: usize,
    request: usize,
}

impl Pattern {
    fn new(response: usize, request: usize) -> Self {
        let length = response.max(request) + WINDOWS * STRIDE;
        let text: Vec<u8> = (0..length).map(|at| b'!' + ((at * at / 7 + at) % 90) as u8).collect();
        let answer = |window: usize| {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nServer: lg\r\nContent-Length: {response}\r\n\r\n"
            );
            [head.as_bytes(), &text[window * STRIDE..][..response]].concat()
        };
        let answers = (0..WINDOWS).map(answer).collect();
        Self { text, answers, response, request }
    }

    fn response_body(&self, window: usize) -> &[u8] {
        &self.text[window * STRIDE..][..self.response]
    }

    fn request_body(&self, window: usize) -> &[u8] {
        &self.text[window * STRIDE..][..self.request]
    }

    fn answer(&self, window: usize) -> &[u8] {
        &self.answers[window]
    }
}

/// `GET /7 HTTP/1.1` → 7, also when the gateway made the target absolute or added a query.
fn window(head: &[u8]) -> Option<usize> {
    let target = head.split(|&byte| byte == b' ').nth(1)?;
    let number = target.rsplit(|&byte| byte == b'/').next()?;
    std::str::from_utf8(number).ok()?.parse().ok().filter(|window| *window < WINDOWS)
}

/// The value of Content-Length in a head of lines that each end in CRLF.
fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let mut rest = head;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = &rest[..end];
        if line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME) {
            return std::str::from_utf8(&line[NAME.len()..]).ok()?.trim().parse().ok();
        }
        rest = &rest[end + 1..];
    }
    None
}

const LISTENER: u64 = u64::MAX;
/// Ids of the upstream's connections begin here; clients are below.
const UPSTREAM: u64 = 1 << 32;
/// Different bodies in flight; more of them would push the pattern out of the cache with 16-KiB bodies.
const WINDOWS: usize = 16;
const STRIDE: usize = 7;
const HEAD_BYTES_MAX: usize = 64 << 10;
/// A gateway that closes this often is broken, not slow.
const RECONNECTS_MAX: u64 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_talks_to_itself() {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let base = Options {
            target: Some(address),
            upstream: Some(address),
            connections: 20,
            size: 1024,
            body: 0,
            rate: None,
            warm_up: 0.05,
            seconds: 0.2,
            pid: None,
            gateway_cpu: 0,
        };
        for options in [
            base.clone(),
            Options { size: 200_000, ..base.clone() },
            Options { body: 4096, size: 10, ..base.clone() },
            Options { rate: Some(2000), ..base.clone() },
        ] {
            let outcome = run(&options).expect("a run");
            assert_eq!((outcome.errors, outcome.mismatches, outcome.reconnects), (0, 0, 0), "{options:?}: {outcome:?}");
            assert!(outcome.requests > 20, "{options:?}: {outcome:?}");
        }
    }

    #[test]
    fn a_wrong_byte_or_a_wrong_length_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let mut client = Client {
            stream,
            request: vec![],
            window: 0,
            reading: Reading::Head(vec![]),
            unsent: 0,
            waits_for_room: false,
            due: Instant::now(),
        };
        let answer = |length: usize, body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
        assert_eq!(client.receive(answer(5, "hello").as_bytes(), b"hello"), Ok(Some(true)));
        assert_eq!(client.receive(answer(5, "jello").as_bytes(), b"hello"), Ok(Some(false)));
        let whole = answer(5, "hello");
        let (one, two) = whole.as_bytes().split_at(20);
        assert_eq!(client.receive(one, b"hello"), Ok(None));
        assert_eq!(client.receive(&two[..two.len() - 2], b"hello"), Ok(None));
        assert_eq!(client.receive(&two[two.len() - 2..], b"hello"), Ok(Some(true)));
        assert_eq!(client.receive(answer(4, "hell").as_bytes(), b"hello"), Err(()));
    }
}
