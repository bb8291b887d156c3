//! A client that sends any bytes and sees what becomes of them: in front, and behind at the backend.

use super::backend::Seen;
use super::gateways::Lane;
use super::reader::{self, From, Reading, Response};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// What became of one connection's bytes.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Final answers in order, the probe's aside.
    pub answers: Vec<Response>,
    /// What came is no answer as everybody reads it.
    pub malformed: Option<&'static str>,
    pub end: ExchangeEnd,
    /// What the backend has seen of it.
    pub seen: Vec<Seen>,
    /// Why an ordinary request afterwards was not served.
    pub probe_failed: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExchangeEnd {
    /// The gateway closed.
    #[default]
    Closed,
    /// An ordinary request on the same connection was served.
    WentOn,
    /// Nothing came until the client closed its side; then the gateway closed.
    Waited,
    /// Neither an answer nor an end.
    Hung,
}

impl Outcome {
    /// Whole requests that reached the backend.
    pub fn requests(&self) -> impl Iterator<Item = &Seen> {
        self.seen.iter().filter(|seen| seen.request.is_ok())
    }

    /// Whether any did, or what a backend would have to make sense of.
    pub fn is_accepted(&self) -> bool {
        self.seen.iter().any(|seen| seen.request.as_ref().err() != Some(&super::backend::CUT))
    }

    /// Numbers of the answers that the backend gave.
    pub fn numbers(&self) -> Vec<u64> {
        self.answers.iter().filter_map(number).collect()
    }
}

fn number(answer: &Response) -> Option<u64> {
    std::str::from_utf8(reader::field(&answer.fields, "x-number")?).ok()?.parse().ok()
}

const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: probe\r\n\r\n";

/// Sends `bytes` down a lane, then an ordinary request, on the same connection when it is still open.
///
/// After `patience` without an answer the client takes it that the gateway waits for more, and closes its side.
pub fn exchange(lane: &Lane, bytes: &[u8], method: &str, patience: Duration) -> Outcome {
    lane.backend.take();
    let mut outcome = Outcome::default();
    let mut probe = None;
    let mut wire = Wire::open(lane.port);
    wire.send(bytes);
    let mut closing = false;
    let mut method = method;
    let mut probed = false;
    let mut until = Instant::now() + patience;
    outcome.end = loop {
        match reader::read_response(&wire.input, method, wire.ended, From::Anybody) {
            Reading::Whole(answer, len) => {
                wire.input.drain(..len);
                method = "GET";
                if probed && number(&answer).is_some_and(|n| lane_saw_probe(lane, n)) {
                    probe = number(&answer);
                    break ExchangeEnd::WentOn;
                }
                let last =
                    reader::field(&answer.fields, "connection").is_some_and(|v| v.eq_ignore_ascii_case(b"close"));
                outcome.answers.push(answer);
                until = Instant::now() + LONG;
                if !last && !probed && !closing {
                    wire.send(PROBE);
                    probed = true;
                    until = Instant::now() + 4 * patience;
                }
                continue;
            }
            Reading::Bad(why) => {
                outcome.malformed = Some(why);
                wire.end();
                break ExchangeEnd::Closed;
            }
            Reading::Partial if wire.ended => break if closing { ExchangeEnd::Waited } else { ExchangeEnd::Closed },
            Reading::Partial => {}
        }
        if !wire.receive(until) {
            if closing {
                break ExchangeEnd::Hung;
            }
            wire.close_own_side();
            closing = true;
            until = Instant::now() + LONG;
        }
    };
    drop(wire);
    if probe.is_none() {
        match ask_probe(lane) {
            Ok(number) => probe = Some(number),
            Err(why) => outcome.probe_failed = Some(why),
        }
    }
    outcome.seen = lane.backend.take();
    // Everything the probe on the first connection may have become of as well.
    outcome.seen.retain(|seen| Some(seen.number) != probe && !is_probe(seen));
    outcome
        .answers
        .retain(|answer| number(answer).is_none() || outcome.seen.iter().any(|s| number(answer) == Some(s.number)));
    outcome
}

/// What the client reads as the answer to one request, and whether an ordinary request afterwards is answered by its own answer.
pub fn ask(lane: &Lane, method: &str, target: &str) -> (Option<Response>, Option<&'static str>, Result<(), String>) {
    lane.backend.take();
    let mut wire = Wire::open(lane.port);
    wire.send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    let until = Instant::now() + LONG;
    let (answer, malformed) = loop {
        match reader::read_response(&wire.input, method, wire.ended, From::Anybody) {
            Reading::Whole(answer, len) => {
                wire.input.drain(..len);
                break (Some(answer), None);
            }
            Reading::Bad(why) => break (None, Some(why)),
            Reading::Partial if wire.ended => break (None, None),
            Reading::Partial if !wire.receive(until) => return (None, None, Err("no answer and no end".to_owned())),
            Reading::Partial => {}
        }
    };
    let goes_on = answer.as_ref().is_some_and(|a| {
        !a.until_close && !reader::field(&a.fields, "connection").is_some_and(|v| v.eq_ignore_ascii_case(b"close"))
    });
    let probe = if goes_on { probe_on(lane, &mut wire) } else { ask_probe(lane) };
    (answer, malformed, probe.map(drop))
}

fn ask_probe(lane: &Lane) -> Result<u64, String> {
    probe_on(lane, &mut Wire::open(lane.port))
}

fn probe_on(lane: &Lane, wire: &mut Wire) -> Result<u64, String> {
    wire.send(PROBE);
    let until = Instant::now() + LONG;
    loop {
        match reader::read_response(&wire.input, "GET", wire.ended, From::Anybody) {
            Reading::Whole(answer, _) => {
                let number = number(&answer).filter(|n| answer.status == 200 && lane_saw_probe(lane, *n));
                return number.ok_or_else(|| format!("a wrong answer: {answer:?}"));
            }
            Reading::Bad(why) => return Err(format!("{why}: {}", wire.input.escape_ascii())),
            Reading::Partial if wire.ended => return Err("the connection ended".to_owned()),
            Reading::Partial if !wire.receive(until) => return Err("no answer".to_owned()),
            Reading::Partial => {}
        }
    }
}

fn lane_saw_probe(lane: &Lane, number: u64) -> bool {
    lane.backend.has(|seen| seen.number == number && is_probe(seen))
}

fn is_probe(seen: &Seen) -> bool {
    seen.request.as_ref().is_ok_and(|request| request.target == "/probe")
}

struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
    ended: bool,
}

impl Wire {
    fn open(port: u16) -> Wire {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        Wire { stream, input: Vec::new(), ended: false }
    }

    /// A gateway that has refused and closed takes no more, which the answer will show.
    fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    fn close_own_side(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Whatever else comes: once the gateway has closed as well, it sends nothing more of it to its backend.
    fn end(&mut self) {
        self.close_own_side();
        let until = Instant::now() + LONG;
        while !self.ended && self.receive(until) {}
    }

    /// More bytes, or the end; false when neither comes in time.
    fn receive(&mut self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).unwrap();
        let mut piece = [0; 16 << 10];
        match self.stream.read(&mut piece) {
            Ok(0) => self.ended = true,
            Ok(len) => self.input.extend_from_slice(&piece[..len]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(_) => self.ended = true,
        }
        true
    }
}

/// Far longer than anything should take.
const LONG: Duration = Duration::from_secs(60);
