//! What is shown while it comes, from every machine, a line of JSON for each: requests (`GET /tap`) and packets (`GET /capture`).
//!
//! This machine's are handed on as they end. Other machines are asked again and again: each question waits there for a moment until
//! there is something to tell, and what nobody asks for any more ends by itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base_text::quoted;
use control_api::{Member, Role};
use control_raft::Control;
use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::access::caller;
use crate::body::{Error, text};
use crate::catalog::{Local, Tap, Unshown};
use crate::logs::Chunks;
use crate::routes::Api;
use crate::status::escaped;

type Params = Query<Vec<(String, String)>>;

/// What is shown while it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Requests that end.
    Requests,
    /// Packets that the kernel's programs have decided about.
    Packets,
}

impl Shown {
    /// Where members ask each other.
    fn path(self) -> &'static str {
        match self {
            Shown::Requests => "/local/tap",
            Shown::Packets => "/local/capture",
        }
    }

    async fn start(self, local: Arc<dyn Local>, filter: Vec<(String, String)>) -> Result<Tap, Unshown> {
        match self {
            Shown::Requests => local.tap(&filter),
            Shown::Packets => {
                // Waits for the kernel's programs.
                let started = tokio::task::spawn_blocking(move || local.capture(&filter)).await;
                started.unwrap_or_else(|_| {
                    Err(Unshown::Trouble("opening a capture panicked; the log says more".to_owned()))
                })
            }
        }
    }
}

impl Unshown {
    fn reason(&self) -> &str {
        match self {
            Unshown::Question(reason) | Unshown::Nothing(reason) | Unshown::Trouble(reason) => reason,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Unshown::Question(_) | Unshown::Nothing(_) => StatusCode::BAD_REQUEST,
            Unshown::Trouble(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// `GET /tap?host=…&path=…&method=…&server=…&status=…&client=…&slow=…&sample=…&rate=…`, of all machines or of `member`: each request
/// that ends and passes, as `GET /requests/{id}` shows it. Lines that are none have `missed` (how many were not shown, and where) or
/// `warning`.
pub async fn open(State(api): State<Arc<Api>>, Query(query): Params) -> Result<Response, Error> {
    caller().needs(Role::Read, None)?;
    Ok(answer(lines(&api, &query, Shown::Requests).await?))
}

/// Lines of JSON as they come.
pub fn answer(lines: mpsc::Receiver<Bytes>) -> Response {
    let kind = [("content-type", "application/x-ndjson"), ("cache-control", "no-store"), ("x-accel-buffering", "no")];
    (kind, Body::new(Chunks(lines))).into_response()
}

/// What all machines show, or the one that `member` names, until nobody reads any more.
pub async fn lines(api: &Arc<Api>, query: &[(String, String)], shown: Shown) -> Result<mpsc::Receiver<Bytes>, Error> {
    let member = query.iter().find(|(key, _)| key == "member").map_or("", |(_, name)| name.trim());
    let filter: Vec<(String, String)> = query.iter().filter(|(key, _)| key != "member").cloned().collect();
    let state = api.control.state();
    if !member.is_empty() && !state.view.members.contains_key(member) {
        let known: Vec<&str> = state.view.members.keys().map(String::as_str).collect();
        let message = format!("member = {}: there is none; there are {}", quoted(member), known.join(", "));
        return Err(Error::invalid(message));
    }
    let wanted = |name: &str| member.is_empty() || member == name;
    let (sender, lines) = mpsc::channel(LINES_WAITING);
    let others: Vec<Arc<Member>> = state
        .view
        .members
        .values()
        .filter(|member| wanted(&member.name) && member.name != api.control.name() && member.up && member.edge)
        .cloned()
        .collect();
    if wanted(api.control.name()) {
        let name = api.control.name().to_owned();
        match shown.start(api.local.clone(), filter.clone()).await {
            Ok(tap) => drop(tokio::spawn(hand_on(tap, name, sender.clone()))),
            Err(Unshown::Nothing(_)) if !others.is_empty() => {}
            Err(Unshown::Trouble(reason)) if !others.is_empty() => {
                tokio::spawn(try_again(api.local.clone(), name, filter.clone(), shown, reason, sender.clone()));
            }
            Err(unshown) => return Err(Error::new(unshown.status(), unshown.reason())),
        }
    }
    for other in others {
        tokio::spawn(ask_again(api.control.clone(), other, filter.clone(), shown, sender.clone()));
    }
    Ok(lines)
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

fn missed(machine: &str, more: u64) -> Value {
    json!({"machine": machine, "missed": more})
}

/// Hands on what this machine shows, until nobody reads any more.
async fn hand_on(mut tap: Tap, machine: String, sender: mpsc::Sender<Bytes>) {
    let mut told = 0;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let next = tokio::select! {
            request = tap.requests.recv() => match request {
                Some(request) => request,
                None => return,
            },
            () = sender.closed() => return,
            _ = tick.tick() => {
                let now = (tap.missed)();
                if now == told {
                    continue;
                }
                let more = now - std::mem::replace(&mut told, now);
                missed(&machine, more)
            }
        };
        if sender.send(line(&next)).await.is_err() {
            return;
        }
    }
}

/// Says why this machine shows nothing yet while others do, and hands on what it shows once it can, as theirs is that were in trouble.
async fn try_again(
    local: Arc<dyn Local>,
    machine: String,
    filter: Vec<(String, String)>,
    shown: Shown,
    reason: String,
    sender: mpsc::Sender<Bytes>,
) {
    let warning = json!({"machine": machine, "warning": format!("it shows nothing yet: {reason}")});
    if sender.send(line(&warning)).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = sender.closed() => return,
        }
        if let Ok(tap) = shown.start(local.clone(), filter.clone()).await {
            return hand_on(tap, machine, sender).await;
        }
    }
}

/// Asks another machine for what it shows, until nobody reads any more.
async fn ask_again(
    control: Control,
    member: Arc<Member>,
    filter: Vec<(String, String)>,
    shown: Shown,
    sender: mpsc::Sender<Bytes>,
) {
    static SESSIONS: AtomicU64 = AtomicU64::new(1);
    let session = format!("{}-{}-{}", control.name(), std::process::id(), SESSIONS.fetch_add(1, Ordering::Relaxed));
    let mut path = format!("{}?session={}&machine={}", shown.path(), escaped(&session), escaped(&member.name));
    for (key, value) in &filter {
        path.push_str(&format!("&{}={}", escaped(key), escaped(value)));
    }
    let mut failed = false;
    loop {
        let asked = control.call_member(&member, Method::GET, &path, "", PATIENCE);
        let answer = tokio::select! {
            answer = asked => answer,
            () = sender.closed() => return,
        };
        let failure = match answer {
            Ok(answer) if answer.status.is_success() => {
                failed = false;
                if !answer.body.is_empty() && sender.send(answer.body).await.is_err() {
                    return;
                }
                continue;
            }
            Ok(answer) => String::from_utf8_lossy(&answer.body).into_owned(),
            Err(refusal) => refusal.message,
        };
        if !failed {
            let warning = json!({"machine": member.name, "warning": format!("nothing is heard of it: {failure}")});
            if sender.send(line(&warning)).await.is_err() {
                return;
            }
        }
        failed = true;
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = sender.closed() => return,
        }
    }
}

/// Taps of this machine that other members read.
#[derive(Clone)]
struct Taps {
    local: Arc<dyn Local>,
    shown: Shown,
    open: Arc<Mutex<HashMap<String, Session>>>,
}

/// One of them. While a question waits it is not here.
struct Session {
    tap: Tap,
    /// Of those missed, so many have been told.
    told: u64,
    asked: Instant,
}

/// The part of the peer listener that shows requests and packets to other members.
pub fn peer_routes(local: Arc<dyn Local>) -> Router {
    let routes = |shown: Shown| {
        let taps = Taps { local: local.clone(), shown, open: Arc::default() };
        Router::new().route(shown.path(), get(next)).with_state(taps)
    };
    routes(Shown::Requests).merge(routes(Shown::Packets))
}

/// What there is, or comes within a moment.
async fn next(State(taps): State<Taps>, Query(query): Params) -> Response {
    let query = Query(query);
    let name = text(&query, "session").to_owned();
    if name.is_empty() {
        return (StatusCode::BAD_REQUEST, "session: a name is wanted").into_response();
    }
    let machine = text(&query, "machine").to_owned();
    let there = taps.sessions().remove(&name);
    let mut session = match there {
        Some(session) => session,
        None => {
            let filter: Vec<(String, String)> =
                query.iter().filter(|(key, _)| key != "session" && key != "machine").cloned().collect();
            match taps.shown.start(taps.local.clone(), filter).await {
                Ok(tap) => Session { tap, told: 0, asked: Instant::now() },
                Err(unshown) => return (unshown.status(), unshown.reason().to_owned()).into_response(),
            }
        }
    };
    let mut out = String::new();
    if let Ok(Some(first)) = tokio::time::timeout(WAIT, session.tap.requests.recv()).await {
        out.push_str(&format!("{first}\n"));
        for _ in 1..LINES_WAITING {
            let Ok(more) = session.tap.requests.try_recv() else { break };
            out.push_str(&format!("{more}\n"));
        }
    }
    let now = (session.tap.missed)();
    if now > session.told {
        out.push_str(&format!("{}\n", missed(&machine, now - std::mem::replace(&mut session.told, now))));
    }
    session.asked = Instant::now();
    taps.sessions().insert(name, session);
    let forgets = taps.clone();
    tokio::spawn(async move {
        tokio::time::sleep(FORGOTTEN).await;
        forgets.sessions().retain(|_, session| session.asked.elapsed() < FORGOTTEN);
    });
    ([("content-type", "application/x-ndjson")], out).into_response()
}

impl Taps {
    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<String, Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines that wait for who reads them; what comes while they are so many is missed, and counted.
const LINES_WAITING: usize = 256;
/// How often it is looked whether any were missed, and how long it is waited after a failure.
const TICK: Duration = Duration::from_secs(1);
/// How long a question waits for something to tell.
const WAIT: Duration = Duration::from_millis(500);
/// What nobody has asked for so long ends.
const FORGOTTEN: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// It has room for a capture when it is asked for the second time.
    #[derive(Default)]
    struct Busy(AtomicU64);

    impl Local for Busy {
        fn about(&self) -> String {
            String::new()
        }
        fn object_status(&self, _: Option<&str>) -> BTreeMap<String, Value> {
            BTreeMap::new()
        }
        fn metrics(&self) -> String {
            String::new()
        }
        fn logs(&self, _: usize) -> Vec<Arc<str>> {
            Vec::new()
        }
        fn follow_logs(&self) -> Option<tokio::sync::broadcast::Receiver<Arc<str>>> {
            None
        }
        fn log_level(&self) -> String {
            String::new()
        }
        fn set_log_level(&self, _: &str) -> Result<(), String> {
            Ok(())
        }
        fn capture(&self, _: &[(String, String)]) -> Result<Tap, Unshown> {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                return Err(Unshown::Trouble("all are taken".to_owned()));
            }
            let (sender, requests) = mpsc::channel(1);
            sender.try_send(json!({"frame": "AAAA"})).expect("there is room");
            Ok(Tap { requests, missed: Box::new(|| 0), hold: Box::new(()) })
        }
    }

    #[tokio::test]
    async fn a_machine_in_trouble_says_so_and_is_shown_once_it_can_be() {
        let (sender, mut lines) = mpsc::channel(4);
        let local = Arc::new(Busy::default());
        let reason = "all are taken".to_owned();
        tokio::spawn(try_again(local.clone(), "m1".to_owned(), Vec::new(), Shown::Packets, reason, sender));
        let mut next = async || serde_json::from_slice::<Value>(&lines.recv().await.expect("a line")).expect("JSON");
        assert_eq!(next().await, json!({"machine": "m1", "warning": "it shows nothing yet: all are taken"}));
        assert_eq!(next().await, json!({"frame": "AAAA"}));
        assert_eq!(local.0.load(Ordering::Relaxed), 2, "it was asked until it could");
    }

    #[test]
    fn what_is_wrong_with_a_question_is_told_apart_from_what_is_wrong_with_a_machine() {
        let status = |unshown: fn(String) -> Unshown| unshown("it".to_owned()).status();
        assert_eq!(status(Unshown::Question), StatusCode::BAD_REQUEST);
        assert_eq!(status(Unshown::Nothing), StatusCode::BAD_REQUEST);
        assert_eq!(status(Unshown::Trouble), StatusCode::SERVICE_UNAVAILABLE);
    }
}
