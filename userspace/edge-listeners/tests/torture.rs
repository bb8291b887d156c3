//! The list of `proto-torture` over real sockets, through a running server to a backend that records: what is refused
//! gets its status and reaches no backend; what is accepted reaches it exactly as the list states.

#[macro_use]
mod support;

use base_runtime::IoMode;
use edge_listeners::Timeouts;
use proto_torture::{Case, Verdict, cases};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::{Backend, House, Message, Wire, proxy_to};

on_both_drivers![the_list_at_once, the_list_in_pieces];

fn the_list_at_once(io: IoMode) {
    run(io, |wire, bytes| {
        wire.send(bytes);
    });
}

/// Cut where it hurts: inside line ends and numbers. What follows a refusal need not arrive.
fn the_list_in_pieces(io: IoMode) {
    run(io, |wire, bytes| {
        let size = (bytes.len() / 40).max(3);
        for piece in bytes.chunks(size) {
            if !wire.send(piece) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

fn run(io: IoMode, send: impl Fn(&mut Wire, &[u8]) + Sync) {
    let cases = cases();
    assert!(cases.len() > 500);
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let (hasty, patient) = (Bench::new(io, HASTY), Bench::new(io, PATIENT));
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let waits = case.verdicts.iter().any(|verdict| matches!(verdict, Verdict::Incomplete));
                    let mut result = if waits { hasty.check(case, &send) } else { patient.check(case, &send) };
                    // On a busy machine what is whole may not have come in time, which says nothing of it.
                    if waits && result.as_ref().is_err_and(|why| why.contains("answered 408")) {
                        result = patient.check(case, &send);
                    }
                    if let Err(why) = result {
                        failures.lock().unwrap().push(format!("{case}: {why}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// How long a client may take for a head, and for a piece of a body: where the case never comes to its end, and where it does, however
/// busy the machine is.
const HASTY: Duration = Duration::from_millis(500);
const PATIENT: Duration = Duration::from_secs(60);

/// A server and a backend of its own, so that what the backend saw belongs to one case.
struct Bench {
    backend: Backend,
    house: House,
}

impl Bench {
    fn new(io: IoMode, patience: Duration) -> Bench {
        let backend = Backend::recording(|m| {
            let body = if m.head.starts_with("HEAD ") { "" } else { "ok" };
            format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}").into_bytes()
        });
        let linger = Duration::from_millis(100);
        let timeouts = Timeouts { head: patience, body: patience, send: PATIENT, linger, ..Timeouts::default() };
        let server = "clientMaxBodySize: -1\nrules: [{paths: [{backend: app}]}]";
        let house = House::with_timeouts(io, server, &proxy_to(backend.port), timeouts);
        Bench { backend, house }
    }

    fn check(&self, case: &Case, send: &impl Fn(&mut Wire, &[u8])) -> Result<(), String> {
        self.backend.seen.lock().unwrap().clear();
        let mut wire = self.house.connect();
        send(&mut wire, &case.bytes);
        let mut accepted = Vec::new();
        for verdict in &case.verdicts {
            match verdict {
                Verdict::Accepted { .. } => {
                    accepted.push(verdict);
                    let answer = self.answer(&mut wire, accepted.len()).ok_or("no answer to what is accepted")?;
                    if answer.status() != 200 {
                        return Err(format!("answered {} instead of accepted", answer.status()));
                    }
                }
                Verdict::Refused { status, fault } => {
                    let before = self.house.limit(fault);
                    let answer = self.answer(&mut wire, 0).ok_or("no answer to what is refused")?;
                    if answer.status() != *status {
                        return Err(format!("answered {} instead of {status}", answer.status()));
                    }
                    if answer.field("connection") != Some("close") {
                        return Err("the connection goes on after a refusal".into());
                    }
                    let counted = self.house.limit(fault);
                    if counted == 0 || counted < before {
                        return Err(format!("{fault} was not counted"));
                    }
                    wire.finish_sending();
                    if !wire.ends() {
                        return Err("more follows a refusal".into());
                    }
                }
                Verdict::Incomplete => {
                    if let Some(answer) = self.answer(&mut wire, 0)
                        && answer.status() != 408
                    {
                        return Err(format!("answered {} instead of waiting", answer.status()));
                    }
                }
            }
        }
        let seen = self.backend.seen();
        if seen.len() != accepted.len() {
            let targets: Vec<&str> = seen.iter().map(Message::target).collect();
            return Err(format!("{} requests reached the backend, not {}: {targets:?}", seen.len(), accepted.len()));
        }
        for (seen, accepted) in seen.iter().zip(accepted) {
            let Verdict::Accepted { target, host, body } = accepted else { continue };
            let differs = |what: &str, is: &str, should: &Option<String>| match should {
                Some(text) if text != is => Err(format!("{what} is {is}, not {text}")),
                _ => Ok(()),
            };
            differs("target", seen.target(), target)?;
            differs("host", seen.field("host").unwrap_or_default(), host)?;
            if let Some(body) = body
                && *body != seen.body
            {
                return Err(format!("body is {:?}", seen.text()));
            }
        }
        Ok(())
    }

    /// The final answer; `nth` is the number of the request at the backend, which knows whether it was HEAD.
    fn answer(&self, wire: &mut Wire, nth: usize) -> Option<Message> {
        loop {
            let head = wire.head()?;
            let mut answer = Message { head, ..Message::default() };
            if answer.status() == 100 {
                continue;
            }
            let seen = self.backend.seen();
            let bare = nth > 0 && seen.get(nth - 1).is_some_and(|m| m.head.starts_with("HEAD "));
            if !bare && let Some(length) = answer.field("content-length").and_then(|n| n.parse().ok()) {
                answer.body = wire.exactly(length)?;
            }
            return Some(answer);
        }
    }
}
