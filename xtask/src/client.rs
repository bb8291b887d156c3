//! The client of the demo, run as `xtask internal-client` inside the client's namespace: long connections that send a
//! request every now and then, and new connections at a steady pace. Everything that happens is a line of JSON on stdout,
//! which `demo` reads; it ends when its stdin does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::http::Connection;

#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where to connect to
    #[arg(long)]
    pub target: SocketAddr,
    /// Connections that stay open
    #[arg(long, default_value_t = 0)]
    pub connections: u32,
    /// Pause between two requests of a long connection, in milliseconds
    #[arg(long, default_value_t = 50)]
    pub pause_ms: u64,
    /// New connections a second, one request each
    #[arg(long, default_value_t = 0)]
    pub new_per_second: u32,
}

/// What the client tells, one JSON object a line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum Event {
    /// A request was answered: the first on its connection when `count` is 0.
    Answer { id: u32, count: u64, port: u16, us: u64, status: u16, machine: String, worker: String, backend: String },
    /// A connection (a long one, or a new one) failed; `us` after this request of it began.
    Broken { id: u32, count: u64, port: u16, us: u64, machine: String, error: String },
}

/// Ids of new connections begin here; long ones are below.
pub const NEW: u32 = 1 << 20;

/// The hidden subcommand.
pub fn run(options: &Options) -> Result<(), String> {
    for id in 0..options.connections {
        let options = options.clone();
        spawn(move || long(id, &options))?;
        // Not all in the same instant, so that requests spread over the pause.
        thread::sleep(Duration::from_millis(2));
    }
    for prober in 0..options.new_per_second.min(PROBERS) {
        let options = options.clone();
        spawn(move || probe(prober, &options))?;
    }
    let mut nothing = [0];
    while std::io::stdin().read(&mut nothing).is_ok_and(|count| count > 0) {}
    std::process::exit(0);
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = thread::Builder::new().stack_size(256 << 10).spawn(work);
    thread.map(drop).map_err(|error| format!("cannot start a thread: {error}"))
}

fn long(id: u32, options: &Options) {
    let started = Instant::now();
    let mut connection = match Connection::open(options.target, CONNECT_LIMIT, ANSWER_LIMIT) {
        Ok(connection) => connection,
        Err((port, error)) => return tell(&broken(id, 0, port, started, "", &error)),
    };
    let (port, mut machine) = (connection.source_port(), String::new());
    for count in 0.. {
        let started = Instant::now();
        match request(&mut connection, id, count, started) {
            Ok(event) => {
                if let Event::Answer { machine: from, .. } = &event {
                    machine.clone_from(from);
                }
                tell(&event);
            }
            Err(error) => return tell(&broken(id, count, port, started, &machine, &error)),
        }
        thread::sleep(Duration::from_millis(options.pause_ms));
    }
}

/// New connections at a pace: each thread takes every `PROBERS`th.
fn probe(prober: u32, options: &Options) {
    let threads = options.new_per_second.min(PROBERS);
    let pace = Duration::from_secs(1) * threads / options.new_per_second;
    let mut due = Instant::now() + pace * prober / threads;
    for round in 0.. {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // Late after a time-out: no catching up, that would be a burst.
        due = (due + pace).max(Instant::now());
        let id = NEW + round * threads + prober;
        let started = Instant::now();
        match Connection::open(options.target, CONNECT_LIMIT, ANSWER_LIMIT) {
            Ok(mut connection) => match request(&mut connection, id, 0, started) {
                Ok(event) => tell(&event),
                Err(error) => tell(&broken(id, 0, connection.source_port(), started, "", &error)),
            },
            Err((port, error)) => tell(&broken(id, 0, port, started, "", &error)),
        }
    }
}

/// One request over an open connection, told as an event; `started` is when its connection or itself began.
fn request(connection: &mut Connection, id: u32, count: u64, started: Instant) -> std::io::Result<Event> {
    let answer = connection.get("/demo")?;
    let us = micros(started);
    let (machine, worker) = (echoed(&answer.body, "X-Weir-Machine"), echoed(&answer.body, "X-Weir-Worker"));
    let backend = backend(&answer.body);
    Ok(Event::Answer { id, count, port: connection.source_port(), us, status: answer.status, machine, worker, backend })
}

/// A header of the request as `weir demo-backend` received it.
pub fn echoed(body: &str, name: &str) -> String {
    let found = body.split_once(&format!("{name}:[")).and_then(|(_, rest)| rest.split(']').next());
    found.unwrap_or("?").to_string()
}

/// Which `weir demo-backend` it was.
pub fn backend(body: &str) -> String {
    body.lines().find_map(|line| line.strip_prefix("Name  : ")).unwrap_or("?").to_string()
}

fn broken(id: u32, count: u64, port: u16, started: Instant, machine: &str, error: &std::io::Error) -> Event {
    Event::Broken { id, count, port, us: micros(started), machine: machine.into(), error: error.to_string() }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn tell(event: &Event) {
    let Ok(mut line) = serde_json::to_string(event) else { return };
    line.push('\n');
    // One write a line: lines of different threads do not mix.
    if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
        std::process::exit(0);
    }
}

/// The client as `demo` sees it: a process of which the events are collected with the time they came.
pub struct Load {
    child: Child,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// In the order of the times.
    events: Vec<(Instant, Event)>,
    long: BTreeMap<u32, Long>,
}

/// A long connection that was answered and has not broken.
#[derive(Clone)]
pub struct Long {
    pub last: Instant,
    pub port: u16,
    pub machine: String,
}

impl Load {
    /// Starts `command` (which must lead to [`run`]).
    pub fn start(mut command: Command, options: &Options) -> Result<Self, String> {
        command.args(["internal-client", "--target", &options.target.to_string()]);
        command.args(["--connections", &options.connections.to_string(), "--pause-ms", &options.pause_ms.to_string()]);
        command.args(["--new-per-second", &options.new_per_second.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", crate::tools::show(&command)))?;
        let load = Arc::new(Mutex::new(Seen::default()));
        if let Some(output) = child.stdout.take() {
            let seen = Arc::clone(&load);
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if let Ok(event) = serde_json::from_str(&line) {
                        seen.lock().unwrap_or_else(PoisonError::into_inner).note(event);
                    }
                }
            });
        }
        Ok(Self { child, seen: load })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many events there were.
    pub fn count(&self) -> usize {
        self.seen().events.len()
    }

    /// What came since then.
    pub fn since(&self, since: Instant) -> Vec<(Instant, Event)> {
        let seen = self.seen();
        let first = seen.events.partition_point(|(at, _)| *at < since);
        seen.events[first..].to_vec()
    }

    pub fn long_connections(&self) -> BTreeMap<u32, Long> {
        self.seen().long.clone()
    }
}

impl Seen {
    fn note(&mut self, event: Event) {
        let now = Instant::now();
        match &event {
            Event::Answer { id, port, machine, .. } if *id < NEW => {
                self.long.insert(*id, Long { last: now, port: *port, machine: machine.clone() });
            }
            Event::Broken { id, .. } => drop(self.long.remove(id)),
            Event::Answer { .. } => {}
        }
        self.events.push((now, event));
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Threads that open new connections: so many may wait for a dead machine without the pace breaking down.
const PROBERS: u32 = 16;
/// A SYN that is not answered is sent again after one second; waiting for that would hide the loss.
const CONNECT_LIMIT: Duration = Duration::from_millis(900);
/// An answer takes milliseconds here. Two retransmissions fit in.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
