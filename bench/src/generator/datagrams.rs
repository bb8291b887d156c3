//! Datagrams through a relay: clients with a socket each, so that each is a session, and an upstream that sends back what it heard.
//!
//! As many are on their way at a time as no socket's buffer loses, by turns over all clients. Every client says who it is and which of
//! its datagrams this is, and compares each byte of what comes back. What does not come back is sent again, and counted.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};

use super::pattern::{Pattern, WINDOWS};
use super::{Books, Options, Outcome};

/// Datagrams on their way at a time.
const IN_FLIGHT: usize = 64;

/// One that has not come back by then is lost.
const LOST: Duration = Duration::from_millis(500);

/// Who sends, and which of its datagrams it is.
const LABEL_BYTES: usize = 8;

const UPSTREAM: u64 = u64::MAX;

/// Loads the gateway for as long as the options say.
pub fn run(options: &Options) -> Result<Outcome, String> {
    let mut relay = Relay::new(options).map_err(|error| format!("load generator: {error}"))?;
    relay.run().map_err(|error| format!("load generator: {error}"))
}

struct Client {
    socket: UdpSocket,
    number: u32,
    sent: Instant,
    waits: bool,
}

struct Relay<'o> {
    options: &'o Options,
    epoll: rustix::fd::OwnedFd,
    upstream: UdpSocket,
    clients: Vec<Client>,
    /// Whose turn it is.
    turns: VecDeque<usize>,
    pattern: Pattern,
    latency: Histogram<u64>,
    counts: Outcome,
}

impl<'o> Relay<'o> {
    fn new(options: &'o Options) -> io::Result<Relay<'o>> {
        let missing = || io::Error::other("datagrams need --target and --upstream");
        let (target, upstream) = (options.target.ok_or_else(missing)?, options.upstream.ok_or_else(missing)?);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let watch = |socket: &UdpSocket, id: u64| {
            socket.set_nonblocking(true)?;
            epoll::add(&epoll, socket, epoll::EventData::new_u64(id), epoll::EventFlags::IN).map_err(io::Error::from)
        };
        let upstream = UdpSocket::bind(upstream)?;
        watch(&upstream, UPSTREAM)?;
        let client = |index: usize| {
            let any: SocketAddr = if target.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
            let socket = UdpSocket::bind(any)?;
            socket.connect(target)?;
            watch(&socket, index as u64)?;
            Ok(Client { socket, number: 0, sent: Instant::now(), waits: false })
        };
        let clients = (0..options.connections).map(client).collect::<io::Result<Vec<Client>>>()?;
        let latency = Histogram::new_with_bounds(1, 60_000_000, 3).map_err(io::Error::other)?;
        Ok(Relay {
            options,
            upstream,
            turns: (0..clients.len()).collect(),
            clients,
            pattern: Pattern::new("/", options.size, 0, false),
            latency,
            counts: Outcome::default(),
            epoll,
        })
    }

    fn run(&mut self) -> io::Result<Outcome> {
        for _ in 0..IN_FLIGHT.min(self.clients.len()) {
            self.next()?;
        }
        let seconds = |seconds: f64| Instant::now() + Duration::from_secs_f64(seconds);
        self.drive(seconds(self.options.warm_up))?;
        self.counts = Outcome::default();
        self.latency.reset();
        let (started, before) = (Instant::now(), Books::read(self.options));
        self.drive(seconds(self.options.seconds))?;
        let counts = self.counts.clone();
        Ok(before.outcome(self.options, started, &self.latency, counts))
    }

    fn drive(&mut self, end: Instant) -> io::Result<()> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(512);
        let mut looked = Instant::now();
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            if now - looked >= LOST / 4 {
                looked = now;
                self.send_again(now)?;
            }
            events.clear();
            let wait = Timespec::try_from((end - now).min(LOST / 4)).ok();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), wait.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    UPSTREAM => self.echo()?,
                    client => self.hear(client as usize)?,
                }
            }
        }
    }

    /// The next client in turn sends one.
    fn next(&mut self) -> io::Result<()> {
        let Some(index) = self.turns.pop_front() else { return Ok(()) };
        let client = &mut self.clients[index];
        client.number += 1;
        client.waits = true;
        self.send(index)
    }

    fn send(&mut self, index: usize) -> io::Result<()> {
        let bytes = self.datagram(index);
        let client = &mut self.clients[index];
        client.sent = Instant::now();
        match client.socket.send(&bytes) {
            // A gateway that does not listen yet; it is sent again.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::WouldBlock) => Ok(()),
            result => result.map(drop),
        }
    }

    fn datagram(&self, index: usize) -> Vec<u8> {
        let number = self.clients[index].number;
        let label = [(index as u32).to_be_bytes(), number.to_be_bytes()].concat();
        let body = self.pattern.response_body(index % WINDOWS);
        [&label, &body[..body.len().saturating_sub(LABEL_BYTES)]].concat()
    }

    fn send_again(&mut self, now: Instant) -> io::Result<()> {
        for index in 0..self.clients.len() {
            if self.clients[index].waits && now.duration_since(self.clients[index].sent) >= LOST {
                self.counts.reconnects += 1;
                self.send(index)?;
            }
        }
        Ok(())
    }

    fn echo(&mut self) -> io::Result<()> {
        let mut buffer = [0; 65_536];
        for _ in 0..IN_FLIGHT {
            match self.upstream.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    self.counts.upstream_requests += 1;
                    let _ = self.upstream.send_to(&buffer[..length], from);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn hear(&mut self, index: usize) -> io::Result<()> {
        let mut buffer = [0; 65_536];
        loop {
            let length = match self.clients[index].socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let (sound, client) = (buffer[..length] == self.datagram(index), &mut self.clients[index]);
            if !client.waits {
                // Of one that was taken for lost.
                continue;
            }
            if !sound {
                self.counts.mismatches += 1;
                continue;
            }
            client.waits = false;
            self.counts.requests += 1;
            let us = u64::try_from(client.sent.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.latency.saturating_record(us.max(1));
            self.turns.push_back(index);
            self.next()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_back_to_who_sent_them() {
        // Straight to the upstream.
        let address = (std::net::Ipv4Addr::LOCALHOST, base_testing::free_port()).into();
        let options = Options {
            target: Some(address),
            upstream: Some(address),
            connections: 100,
            size: 200,
            warm_up: 0.05,
            seconds: 0.5,
            datagrams: true,
            ..Options::default()
        };
        let outcome = run(&options).expect("a run");
        assert_eq!((outcome.errors, outcome.mismatches), (0, 0), "{outcome:?}");
        assert!(outcome.requests > 100, "every client had its turn: {outcome:?}");
        assert!(outcome.requests <= outcome.upstream_requests + IN_FLIGHT as u64, "{outcome:?}");
    }
}
