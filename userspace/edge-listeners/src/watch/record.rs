//! What is kept of one request.

use super::Sort;
use crate::clock;
use crate::router::Why;
use base_text::escape::write_foreign;
use base_text::redact;
use edge_pipeline::{Exchange, Outcome, SUCCESS, Try};
use proto_http::Request;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How a request ended, beside its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was answered, and the client took it all.
    Whole,
    /// The client was gone before there was an answer.
    ClientGone,
    /// The client left during the answer.
    ClientLeft,
    /// The client took too little of the answer in time.
    ClientSlow,
    /// The answer's body broke off at its source.
    BodyBroken,
}

/// A request that is over, as it is looked at.
pub struct Seen<'a> {
    pub exchange: &'a Exchange,
    pub status: u16,
    pub duration: Duration,
    /// Until the head of the answer was there.
    pub answered: Duration,
    /// It is a stream, or a tunnel: that it takes long is no fault.
    pub lasts: bool,
    pub ended: Ended,
    /// The pipeline that its route led to.
    pub routed: Option<&'a Arc<str>>,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub ended_at: Instant,
    pub machine: &'a str,
    pub worker: usize,
    /// Why it took its route.
    pub why: &'a dyn Fn(&Request) -> Why,
}

/// See the module doc.
#[derive(Debug, Clone)]
pub struct Record {
    pub id: String,
    /// When its head had come.
    pub at: SystemTime,
    pub sort: Sort,
    machine: String,
    worker: usize,
    server: Arc<str>,
    client: SocketAddr,
    real_ip: Option<IpAddr>,
    protocol: &'static str,
    scheme: &'static str,
    method: String,
    host: String,
    target: String,
    pub status: u16,
    pub duration: Duration,
    answered: Duration,
    request_bytes: u64,
    response_bytes: u64,
    pipeline: Option<Arc<str>>,
    why: Option<Why>,
    /// The rules name another route than the one that was taken: filters have changed what they look at.
    uncertain: bool,
    steps: Vec<(Arc<str>, Outcome, Duration)>,
    steps_more: usize,
    tries: Vec<Try>,
    limits: Vec<&'static str>,
    notes: Vec<String>,
    end: (Who, String),
}

/// Who ended a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Nobody,
    Client,
    Server,
    Weir,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Who::Nobody => "nobody",
            Who::Client => "client",
            Who::Server => "server",
            Who::Weir => "weir",
        }
    }
}

/// Longest texts that are kept, in bytes.
const TARGET_MOST: usize = 2048;
const HOST_MOST: usize = 256;
const NOTE_MOST: usize = 512;
/// Most stations and notes.
const STEPS_MOST: usize = 64;
const NOTES_MOST: usize = 32;

impl Record {
    pub fn of(seen: &Seen<'_>, sort: Sort) -> Record {
        let exchange = seen.exchange;
        let request = &exchange.default_space_ref().request;
        let tags = &exchange.tags;
        let why = asked(exchange).map(|asked| (seen.why)(&asked));
        let steps = tags.steps();
        let known = exchange.credentials();
        let note = |note: &str| {
            let mut out = Vec::new();
            redact::write_text(note.as_bytes(), &known, write_foreign, &mut out);
            text(&out, NOTE_MOST)
        };
        let told = |tried: &Try| {
            let mut url = Vec::new();
            redact::write_url(tried.server.as_bytes(), &mut url);
            let (server, error) = (text(&url, TARGET_MOST).into(), tried.error.as_deref().map(note));
            Try { server, error, ..tried.clone() }
        };
        let tries: Vec<Try> = tags.tries().iter().map(told).collect();
        let mut target = Vec::new();
        redact::write_url(&exchange.uri[..exchange.uri.len().min(TARGET_MOST)], &mut target);
        let id = if exchange.id.is_empty() { None } else { Some(text(&exchange.id, HOST_MOST)) };
        let taken = why.as_ref().and_then(|why| why.taken.as_ref()).map(|taken| &taken.3);
        Record {
            id: id.unwrap_or_else(|| {
                let mut id = Vec::new();
                crate::request_id::make(&mut id);
                text(&id, HOST_MOST)
            }),
            at: UNIX_EPOCH + clock::since_1970(seen.ended_at).saturating_sub(seen.duration),
            sort,
            machine: seen.machine.to_owned(),
            worker: seen.worker,
            server: exchange.client.server.clone(),
            client: exchange.client.peer,
            real_ip: exchange.client.real_ip,
            protocol: request.version.as_str(),
            scheme: exchange.client.scheme,
            method: exchange.method.as_str().chars().take(32).collect(),
            host: text(request.authority.as_bytes(), HOST_MOST),
            target: text(&target, TARGET_MOST),
            status: seen.status,
            duration: seen.duration,
            answered: seen.answered.min(seen.duration),
            request_bytes: seen.request_bytes,
            response_bytes: seen.response_bytes,
            pipeline: seen.routed.cloned(),
            uncertain: exchange.default_space_ref().has_request && taken != seen.routed,
            why,
            steps: steps.iter().take(STEPS_MOST).cloned().collect(),
            steps_more: steps.len().saturating_sub(STEPS_MOST),
            end: end_of(seen, &tries),
            tries,
            limits: tags.limits().to_vec(),
            notes: tags.notes.iter().take(NOTES_MOST).map(|said| note(said)).collect(),
        }
    }

    pub fn to_json(&self) -> Value {
        let ms = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        let step = |(name, result, took): &(Arc<str>, Outcome, Duration)| json!({"name": &**name, "result": result, "durationMs": ms(*took)});
        let tried = |tried: &Try| {
            let status = (tried.status > 0).then_some(tried.status);
            let error = tried.error.clone().or_else(|| tried.is_open().then(|| "had not answered".to_owned()));
            json!({
                "pool": &*tried.pool,
                "server": &*tried.server,
                "status": status,
                "error": error,
                "durationMs": ms(tried.took),
            })
        };
        let ip = self.real_ip.map_or_else(|| "unknown".to_owned(), |ip| ip.to_canonical().to_string());
        let mut shown = json!({
            "id": self.id,
            "time": rfc3339(self.at),
            "machine": self.machine,
            "worker": self.worker,
            "kept": self.sort.name(),
            "server": &*self.server,
            "client": SocketAddr::new(self.client.ip().to_canonical(), self.client.port()).to_string(),
            "realIP": ip,
            "protocol": self.protocol,
            "scheme": self.scheme,
            "method": self.method,
            "host": self.host,
            "target": self.target,
            "status": self.status,
            "durationMs": ms(self.duration),
            "answeredMs": ms(self.answered),
            "requestBytes": self.request_bytes,
            "responseBytes": self.response_bytes,
            "pipeline": self.pipeline.as_deref(),
            "route": self.why.as_ref().map(Why::to_json),
            "filters": self.steps.iter().map(step).collect::<Vec<_>>(),
            "tries": self.tries.iter().map(tried).collect::<Vec<_>>(),
            "limits": self.limits,
            "notes": self.notes,
            "endedBy": self.end.0.name(),
            "end": self.end.1,
        });
        if self.steps_more > 0 {
            shown["filtersNotShown"] = self.steps_more.into();
        }
        if self.uncertain {
            shown["routeNote"] = "filters, or a change of the rules, have changed what the route was chosen by".into();
        }
        shown
    }
}

/// The request as the client sent it, as far as it is known still: filters may have changed its fields.
fn asked(exchange: &Exchange) -> Option<Request> {
    let space = exchange.default_space_ref();
    if !space.has_request {
        return None;
    }
    let mut request = space.request.clone();
    request.method = exchange.method.clone();
    // A target that is an authority has no path.
    let path = exchange.asked_target();
    if path.starts_with(b"/") {
        request.set_target(path).ok()?;
    }
    Some(request)
}

/// Who ended it, and how.
fn end_of(seen: &Seen<'_>, tries: &[Try]) -> (Who, String) {
    let tags = &seen.exchange.tags;
    let waited_for = || match tries.last().filter(|tried| tried.is_open()) {
        Some(tried) => format!(" while {} had not answered", tried.server),
        None => String::new(),
    };
    match seen.ended {
        Ended::ClientGone => return (Who::Client, format!("the client left before it was answered{}", waited_for())),
        Ended::ClientLeft => return (Who::Client, "the client left during the answer".to_owned()),
        Ended::ClientSlow => return (Who::Weir, "the client took too little of the answer in time".to_owned()),
        Ended::BodyBroken => {
            let of = tries.last().map_or_else(String::new, |tried| format!(" of {}", tried.server));
            return (Who::Server, format!("the body{of} broke off"));
        }
        Ended::Whole => {}
    }
    let status = seen.status;
    if status < 400 {
        return (Who::Nobody, "it was answered".to_owned());
    }
    let limits = if tags.limits().is_empty() {
        String::new()
    } else {
        format!("; bounds reached: {}", tags.limits().join(", "))
    };
    if !seen.exchange.default_space_ref().has_request {
        return (Who::Weir, format!("it was refused before its head was read as a request{limits}"));
    }
    let Some(pipeline) = seen.routed else {
        return (Who::Weir, format!("no route takes it ({status}){limits}"));
    };
    if let Some(last) = tries.last() {
        if last.status == status {
            return (Who::Server, format!("{} answered {status}", last.server));
        }
        if let Some(error) = &last.error {
            return (Who::Server, format!("{}: {error}", last.server));
        }
    }
    let failed = tags.steps().iter().rev().find(|(_, outcome, _)| *outcome != SUCCESS);
    match failed.or(tags.steps().last()) {
        Some((name, SUCCESS, _)) => (Who::Weir, format!("filter {name} answered {status}{limits}")),
        Some((name, outcome, _)) => (Who::Weir, format!("filter {name} said {outcome}{limits}")),
        None if tags.pipeline().is_none() && tags.limits().is_empty() => {
            (Who::Weir, format!("there is no pipeline {pipeline}"))
        }
        None => (Who::Weir, format!("it was refused with {status}{limits}")),
    }
}

/// Bytes as text of no more than so many, without what could leave a line.
fn text(bytes: &[u8], most: usize) -> String {
    let mut out = Vec::new();
    write_foreign(&bytes[..bytes.len().min(most)], &mut out);
    let mut text = String::from_utf8(out).unwrap_or_default();
    if bytes.len() > most {
        text.push('…');
    }
    text
}

/// To the millisecond, in UTC.
fn rfc3339(time: SystemTime) -> String {
    let mut out = Vec::new();
    base_text::time::write_time(time.duration_since(UNIX_EPOCH).unwrap_or_default(), &mut out);
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_credential_is_kept_and_no_text_is_long() {
        let mut exchange = Exchange::default();
        let space = exchange.default_space();
        space.has_request = true;
        space.request.headers.add("Authorization", "Bearer tok-bearer-1234");
        space.request.set_target(format!("/a?token=tok-query-1234&x={}", "y".repeat(9_000)).as_bytes()).unwrap();
        exchange.remember_target();
        exchange.tags.enabled = true;
        exchange.tags.note(|| format!("it said tok-bearer-1234 {}", "z".repeat(9_000)));
        (0..900).for_each(|n| exchange.tags.note(|| format!("note {n}")));
        let (pool, server) = ("p".into(), "http://u:tok-server-1234@b.test".into());
        (0..900).for_each(|_| {
            exchange.tags.asks(&pool, &server);
            exchange.tags.came(&pool, &server, Err("tok-bearer-1234 refused".to_owned()), Duration::ZERO);
        });
        let seen = Seen {
            exchange: &exchange,
            status: 503,
            duration: Duration::ZERO,
            answered: Duration::ZERO,
            lasts: false,
            ended: Ended::Whole,
            routed: None,
            request_bytes: 0,
            response_bytes: 0,
            ended_at: Instant::now(),
            machine: "m",
            worker: 0,
            why: &|_| Why::default(),
        };
        let text = Record::of(&seen, Sort::Failed).to_json().to_string();
        assert!(!text.contains("tok-"), "{text}");
        assert!(text.len() < 32 * 1024, "{}", text.len());
    }
}
