//! WebSockets through a gateway: each client opens one, and says message after message; an upstream sends each back.
//!
//! A client waits for its message before it sends the next one, and compares each byte of it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};

use super::pattern::{Pattern, WINDOWS};
use super::{Books, LISTENER, Options, Outcome, UPSTREAM};

/// The key of every opening, and what proves that it was read (RFC 6455 section 1.3).
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPTED: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A whole message of bytes.
const BINARY: u8 = 0x82;

/// How long the openings may take together.
const OPENING_LIMIT: Duration = Duration::from_secs(20);

/// Loads the gateway for as long as the options say.
pub fn run(options: &Options) -> Result<Outcome, String> {
    Sockets::new(options).and_then(|mut sockets| sockets.run()).map_err(|error| format!("load generator: {error}"))
}

/// One end of a connection.
struct End {
    stream: TcpStream,
    /// What has come and is not whole.
    input: Vec<u8>,
    /// The opening is over.
    is_open: bool,
    sent: Instant,
}

impl End {
    fn new(stream: TcpStream) -> io::Result<End> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(End { stream, input: Vec::new(), is_open: false, sent: Instant::now() })
    }

    /// Takes what has come; false when the other side has ended.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        match self.stream.read(buffer) {
            Ok(count) => {
                self.input.extend_from_slice(&buffer[..count]);
                Ok(count > 0)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The head of a message of HTTP, once it is whole.
    fn head(&mut self) -> Option<Vec<u8>> {
        let end = memchr::memmem::find(&self.input, b"\r\n\r\n")? + 4;
        Some(self.input.drain(..end).collect())
    }
}

struct Sockets<'o> {
    options: &'o Options,
    epoll: rustix::fd::OwnedFd,
    listener: TcpListener,
    clients: Vec<End>,
    /// Connections of the gateway.
    gateway: Vec<Option<End>>,
    pattern: Pattern,
    /// The messages of clients, one for each window.
    messages: Vec<Vec<u8>>,
    buffer: Vec<u8>,
    latency: Histogram<u64>,
    counts: Outcome,
}

impl<'o> Sockets<'o> {
    fn new(options: &'o Options) -> io::Result<Sockets<'o>> {
        let missing = || io::Error::other("WebSockets need --target and --upstream");
        let (target, upstream) = (options.target.ok_or_else(missing)?, options.upstream.ok_or_else(missing)?);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let listener = TcpListener::bind(upstream)?;
        listener.set_nonblocking(true)?;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        let client = |index: usize| {
            let mut client = End::new(TcpStream::connect(target)?)?;
            epoll::add(&epoll, &client.stream, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
            let opening = format!(
                "GET /{} HTTP/1.1\r\nHost: bench.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: {KEY}\r\n\r\n",
                index % WINDOWS
            );
            client.stream.write_all(opening.as_bytes())?;
            Ok(client)
        };
        let clients = (0..options.connections).map(client).collect::<io::Result<Vec<End>>>()?;
        let pattern = Pattern::new("/", options.size, 0, false);
        let message = |window: usize| {
            let mut message = head_of(options.size, true);
            message
                .extend(pattern.response_body(window).iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
            message
        };
        Ok(Sockets {
            options,
            listener,
            clients,
            gateway: Vec::new(),
            messages: (0..WINDOWS).map(message).collect(),
            pattern,
            buffer: vec![0; 64 << 10],
            latency: Histogram::new_with_bounds(1, 60_000_000, 3).map_err(io::Error::other)?,
            counts: Outcome::default(),
            epoll,
        })
    }

    fn run(&mut self) -> io::Result<Outcome> {
        let opened = Instant::now() + OPENING_LIMIT;
        while self.clients.iter().any(|client| !client.is_open) {
            if Instant::now() > opened {
                return Err(io::Error::other("not all WebSockets were opened in time"));
            }
            self.turn(Duration::from_millis(100))?;
        }
        self.drive(self.options.warm_up)?;
        self.counts = Outcome::default();
        self.latency.reset();
        let (started, before) = (Instant::now(), Books::read(self.options));
        self.drive(self.options.seconds)?;
        let counts = self.counts.clone();
        Ok(before.outcome(self.options, started, &self.latency, counts))
    }

    fn drive(&mut self, seconds: f64) -> io::Result<()> {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.turn(left)?;
        }
    }

    fn turn(&mut self, most: Duration) -> io::Result<()> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(512);
        let wait = Timespec::try_from(most).ok();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => self.accept()?,
                client if client < UPSTREAM => self.serve_client(client as usize)?,
                upstream => self.serve_upstream((upstream - UPSTREAM) as usize)?,
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Ok((stream, _)) = self.listener.accept() {
            let end = End::new(stream)?;
            let place = self.gateway.len() as u64;
            epoll::add(&self.epoll, &end.stream, epoll::EventData::new_u64(UPSTREAM + place), epoll::EventFlags::IN)?;
            self.gateway.push(Some(end));
        }
        Ok(())
    }

    fn serve_client(&mut self, index: usize) -> io::Result<()> {
        let client = &mut self.clients[index];
        if !client.read(&mut self.buffer)? {
            return Err(io::Error::other("the gateway ended a WebSocket"));
        }
        if !client.is_open {
            let Some(head) = client.head() else { return Ok(()) };
            let text = String::from_utf8_lossy(&head);
            if !text.starts_with("HTTP/1.1 101 ") || !text.contains(ACCEPTED) {
                return Err(io::Error::other(format!(
                    "no WebSocket was opened: {}",
                    text.lines().next().unwrap_or_default()
                )));
            }
            client.is_open = true;
            return self.say(index);
        }
        let whole = head_of(self.options.size, false).len() + self.options.size;
        if client.input.len() < whole {
            return Ok(());
        }
        let expected = self.pattern.response_body(index % WINDOWS);
        let sound = client.input.len() == whole && client.input.ends_with(expected) && client.input[0] == BINARY;
        client.input.clear();
        if sound {
            self.counts.requests += 1;
            let us = u64::try_from(client.sent.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.latency.saturating_record(us.max(1));
        } else {
            self.counts.mismatches += 1;
        }
        self.say(index)
    }

    fn say(&mut self, index: usize) -> io::Result<()> {
        let client = &mut self.clients[index];
        client.sent = Instant::now();
        client.stream.write_all(&self.messages[index % WINDOWS])
    }

    fn serve_upstream(&mut self, place: usize) -> io::Result<()> {
        let Some(end) = self.gateway[place].as_mut() else { return Ok(()) };
        if !matches!(end.read(&mut self.buffer), Ok(true)) {
            self.gateway[place] = None;
            return Ok(());
        }
        if !end.is_open {
            if end.head().is_none() {
                return Ok(());
            }
            end.is_open = true;
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPTED}\r\n\r\n"
            );
            end.stream.write_all(answer.as_bytes())?;
        }
        let head = head_of(self.options.size, true).len();
        let whole = head + self.options.size;
        while end.input.len() >= whole {
            let said: Vec<u8> = end.input.drain(..whole).collect();
            let mask = &said[head - MASK.len()..head];
            let mut answer = head_of(self.options.size, false);
            answer.extend(said[head..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
            end.stream.write_all(&answer)?;
            self.counts.upstream_requests += 1;
        }
        Ok(())
    }
}

/// The head of a message of so many bytes, with the mask that clients put before them.
fn head_of(size: usize, masked: bool) -> Vec<u8> {
    let flag = if masked { 0x80 } else { 0 };
    let mut head = vec![BINARY];
    match (u8::try_from(size), u16::try_from(size)) {
        (Ok(small @ 0..126), _) => head.push(flag | small),
        (_, Ok(middle)) => {
            head.push(flag | 126);
            head.extend(middle.to_be_bytes());
        }
        _ => {
            head.push(flag | 127);
            head.extend((size as u64).to_be_bytes());
        }
    }
    if masked {
        head.extend(MASK);
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_to_who_sent_them() {
        // Straight to the upstream.
        let address = (std::net::Ipv4Addr::LOCALHOST, base_testing::free_port()).into();
        for size in [100, 1000, 70_000] {
            let options = Options {
                target: Some(address),
                upstream: Some(address),
                connections: 3,
                size,
                warm_up: 0.05,
                seconds: 0.3,
                websockets: true,
                ..Options::default()
            };
            // Larger ones than a socket takes are none for this load.
            if size > 60_000 {
                assert_eq!(head_of(size, true).len(), 14);
                continue;
            }
            let outcome = run(&options).expect("a run");
            assert_eq!((outcome.errors, outcome.mismatches), (0, 0), "{outcome:?}");
            assert!(outcome.requests > 10 && outcome.requests <= outcome.upstream_requests + 3, "{outcome:?}");
        }
    }
}
