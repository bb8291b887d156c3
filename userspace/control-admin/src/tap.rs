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
use crate::catalog::{Local, Tap};
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

    async fn start(self, local: Arc<dyn Local>, filter: Vec<(String, String)>) -> Result<Tap, String> {
        match self {
            Shown::Requests => local.tap(&filter),
            Shown::Packets => {
                // Waits for the kernel's programs.
                let started = tokio::task::spawn_blocking(move || local.capture(&filter)).await;
                started.unwrap_or_else(|_| Err("opening a capture panicked; the log says more".to_owned()))
            }
        }
    }

    /// A machine that has none of it lets the others show theirs.
    fn has_none(self, reason: &str) -> bool {
        reason.contains("no edge half") || self == Shown::Packets && reason.contains("no kernel plane")
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
    let others: Vec<Member> = state
        .view
        .members
        .values()
        .filter(|member| wanted(&member.name) && member.name != api.control.name() && member.up && member.edge)
        .cloned()
        .collect();
    if wanted(api.control.name()) {
        match shown.start(api.local.clone(), filter.clone()).await {
            Ok(tap) => drop(tokio::spawn(hand_on(tap, api.control.name().to_owned(), sender.clone()))),
            Err(reason) if others.is_empty() || !shown.has_none(&reason) => return Err(Error::invalid(reason)),
            Err(_) => {}
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

/// Asks another machine for what it shows, until nobody reads any more.
async fn ask_again(
    control: Control,
    member: Member,
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
                Err(reason) => return (StatusCode::BAD_REQUEST, reason).into_response(),
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
