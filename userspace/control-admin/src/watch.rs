//! Objects as they change: `GET /objects?watch`, an answer without end of server-sent events.
//!
//! A reader is told what differs between what it was told last and what is there now. So nothing waits for one that is slow: what
//! changes meanwhile comes to it as one change, and what is held for it is a state that others hold too, and a few chunks of text.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base_model::namespaces;
use base_text::{duration, quoted};
use control_api::{Document, Role, Snapshot, object_key};
use control_raft::ObjectsSince;
use imbl::ordmap::DiffItem;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::access::{Caller, caller};
use crate::body::{Error, flag, text};
use crate::logs::Chunks;
use crate::objects::{self, Spaces};
use crate::routes::Api;

type Params = Query<Vec<(String, String)>>;

/// `GET /objects`; with `?watch`, all objects and then every change of them; with `?watch=VERSION`, the changes since then.
pub async fn objects(State(api): State<Arc<Api>>, query: Params, request: Request) -> Result<Response, Error> {
    match asked(&query, request.headers())? {
        None => Ok(objects::list(State(api), query).await?.into_response()),
        Some(from) => open(api, &query, None, from, request).await,
    }
}

/// `GET /objects/{name}`; the same of one object, which need not be there yet.
pub async fn object(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    query: Params,
    request: Request,
) -> Result<Response, Error> {
    match asked(&query, request.headers())? {
        None => Ok(objects::show(State(api), Path(name), query).await?.into_response()),
        Some(_) if flag(&query, "all-namespaces") => Err(Error::invalid(
            "all-namespaces is for all objects: of one, give the namespace that it is in, or leave its name out",
        )),
        Some(from) => {
            objects::may_read(&api, &objects::key_of(&name, &query))?;
            open(api, &query, Some(name), from, request).await
        }
    }
}

/// Tells connections that they are to come to their end.
#[derive(Clone)]
pub struct Ending(pub watch::Receiver<bool>);

/// From where on a reader is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// All that is there, and then what changes.
    All,
    /// What changed after this version.
    Version(u64),
}

/// Whether changes are asked for. What a browser's `EventSource` saw last, and says when it comes again, counts before the query.
fn asked(query: &Params, headers: &HeaderMap) -> Result<Option<From>, Error> {
    let Some((_, wanted)) = query.iter().find(|(key, _)| key == "watch") else { return Ok(None) };
    let wrong = |what: &str, text: &str| {
        Err(Error::invalid(format!(
            "{what} = {}: true is wanted, or the version that was seen last, as X-Config-Version and the id of each event tell it",
            quoted(text)
        )))
    };
    let from = match wanted.trim() {
        "false" => return Ok(None),
        "" | "true" => From::All,
        version => match version.parse() {
            Ok(version) => From::Version(version),
            Err(_) => return wrong("watch", version),
        },
    };
    if !text(query, "version").is_empty() {
        return Err(Error::invalid("version and watch exclude each other: what was does not change; give one of them"));
    }
    match headers.get(LAST_EVENT_ID).map(|id| id.to_str().unwrap_or("?").trim()) {
        None | Some("") => Ok(Some(from)),
        Some(id) => match id.parse() {
            Ok(version) => Ok(Some(From::Version(version))),
            Err(_) => wrong("Last-Event-ID", id),
        },
    }
}

async fn open(
    api: Arc<Api>,
    query: &Params,
    only: Option<String>,
    from: From,
    request: Request,
) -> Result<Response, Error> {
    let caller = caller();
    caller.needs_any(Role::Read)?;
    let spaces = objects::spaces(query)?.owned();
    let place = api.watches.place(&caller).map_err(|message| {
        api.local.watch_refused();
        Error::new(StatusCode::TOO_MANY_REQUESTS, message)
    })?;
    let since = match from {
        From::All => None,
        From::Version(version) => Some(since(&api, version).await?),
    };
    let ending = request.extensions().get::<Ending>().map(|ending| ending.0.clone());
    let (head, _) = request.into_parts();
    let (sender, chunks) = mpsc::channel(CHUNKS_WAITING);
    let reader = Reader {
        caller,
        head: Request::from_parts(head, Body::empty()),
        only,
        spaces,
        lines: Lines { sender, text: format!("retry: {}\n\n", RETRY.as_millis()) },
        api,
        _place: place,
    };
    tokio::spawn(async move {
        let ends = async {
            match ending {
                // The sender lives as long as the door.
                Some(mut ending) => drop(ending.wait_for(|ends| *ends).await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = reader.tell(since) => {}
            () = ends => {}
        }
    });
    let kind = [("content-type", "text/event-stream"), ("cache-control", "no-store"), ("x-accel-buffering", "no")];
    Ok((kind, Body::new(Chunks(chunks))).into_response())
}

/// What changed since a version, if this member remembers.
async fn since(api: &Api, version: u64) -> Result<ObjectsSince, Error> {
    // The reader may come from a member that is ahead of this one.
    if version > api.control.state().view.version {
        api.control.catch_up().await;
    }
    api.control.objects_since(version).ok_or_else(|| {
        let now = api.control.state().view.version;
        let why = match version > now {
            true => format!("the configuration is at {now}"),
            false => format!("what changed between it and {now} is not remembered here any more"),
        };
        Error::new(
            StatusCode::GONE,
            format!("watch = {version}: {why}; read the objects anew, and watch from the version of that answer"),
        )
    })
}

/// Somebody who is told.
struct Reader {
    api: Arc<Api>,
    caller: Caller,
    /// Of the question: who asks is found out again whenever something is told.
    head: Request,
    /// The name of one object.
    only: Option<String>,
    /// Those of the objects that were asked for.
    spaces: Spaces<String>,
    lines: Lines,
    _place: Place,
}

/// Nobody reads any more.
struct Gone;

/// What is told at once.
struct Step {
    version: u64,
    /// Keys and kinds. They come before what was put.
    deletes: Vec<(String, String)>,
    puts: Vec<Document>,
}

impl Reader {
    /// Until nobody reads any more, or the reader may not.
    async fn tell(mut self, since: Option<ObjectsSince>) -> Result<(), Gone> {
        self.lines.flush().await?;
        let mut seen = match since {
            Some(since) => {
                let step = Step::since(&since);
                self.change(step).await?;
                since.state
            }
            None => {
                let state = self.api.control.state();
                self.all(&state.view).await?;
                state
            }
        };
        loop {
            let closed = self.lines.sender.clone();
            let next = tokio::select! {
                next = tokio::time::timeout(KEEP_ALIVE, self.api.control.beyond(&seen)) => next,
                () = closed.closed() => return Err(Gone),
            };
            drop(closed);
            if let Err(error) = self.caller.stands(&self.api, &self.head) {
                return self.end(&error).await;
            }
            match next {
                // The version of what is not of objects is told too: from there on it goes on after a break.
                Err(_) => self.lines.say(&format!(": still here\nid: {}\n\n", seen.view.version)).await?,
                Ok(None) => {
                    let message = "the control half of this machine ends; ask it again in a moment, or another machine";
                    return self.end(&Error::new(StatusCode::SERVICE_UNAVAILABLE, message)).await;
                }
                Ok(Some(now)) => {
                    if now.view.cluster_id != seen.view.cluster_id || now.view.version < seen.view.version {
                        self.all(&now.view).await?;
                    } else {
                        self.change(Step::between(&seen.view, &now.view)).await?;
                    }
                    seen = now;
                }
            }
        }
    }

    async fn all(&mut self, view: &Snapshot) -> Result<(), Gone> {
        self.lines.text.push_str(&format!("id: {}\nevent: objects\n", view.version));
        self.lines.text.push_str(&format!("data: {{\"version\":{},\"objects\":[", view.version));
        let objects = match (&self.only, &self.spaces) {
            (Some(name), Spaces::One(space)) => {
                view.object(&namespaces::key(space, name)).into_iter().cloned().collect()
            }
            _ => {
                let here = view.objects.iter().filter(|(key, _)| self.wants(key));
                here.map(|(_, document)| document.clone()).collect::<Vec<_>>()
            }
        };
        self.documents(&objects).await?;
        self.lines.say("\ndata: ]}\n\n").await
    }

    /// Says nothing where nothing changed that this reader may see.
    async fn change(&mut self, mut step: Step) -> Result<(), Gone> {
        let kind = |document: &Document| document["kind"].as_str().unwrap_or_default().to_owned();
        step.deletes.retain(|(key, kind)| self.may(key, kind));
        step.puts.retain(|document| self.may(&object_key(document), &kind(document)));
        if step.deletes.is_empty() && step.puts.is_empty() {
            return Ok(());
        }
        let gone = step.deletes.iter().map(|(key, kind)| {
            let (space, name) = namespaces::split(key);
            match self.spaces {
                Spaces::One(_) => json!({"name": name, "kind": kind}),
                Spaces::All => json!({"namespace": space, "name": name, "kind": kind}),
            }
        });
        let gone: Vec<Value> = gone.collect();
        let (version, gone) = (step.version, Value::Array(gone));
        self.lines.text.push_str(&format!("id: {version}\nevent: change\n"));
        self.lines.text.push_str(&format!("data: {{\"version\":{version},\"deletes\":{gone},\"puts\":["));
        self.documents(&step.puts).await?;
        self.lines.say("\ndata: ]}\n\n").await
    }

    /// Whether the reader asked for the object of this key.
    fn wants(&self, key: &str) -> bool {
        self.spaces.has(key) && self.only.as_ref().is_none_or(|only| only == namespaces::split(key).1)
    }

    fn may(&self, key: &str, kind: &str) -> bool {
        self.wants(key) && self.caller.may(Role::Read, Some(kind), key)
    }

    /// Each on a line of its own: the lines of an event's data are joined by newlines, which JSON takes for blanks.
    async fn documents(&mut self, documents: &[Document]) -> Result<(), Gone> {
        let mut comma = "";
        for document in documents {
            let key = object_key(document);
            if !self.caller.may(Role::Read, document["kind"].as_str(), &key) {
                continue;
            }
            let shown = self.api.catalog.shown(document);
            // Beside the document, which may have a field of that name.
            let shown = match self.spaces {
                Spaces::One(_) => shown,
                Spaces::All => json!({"namespace": namespaces::split(&key).0, "object": shown}),
            };
            self.lines.text.push_str(&format!("{comma}\ndata: {shown}"));
            comma = ",";
            if self.lines.text.len() >= CHUNK_BYTES {
                self.lines.flush().await?;
            }
        }
        Ok(())
    }

    /// Says why it is told no more.
    async fn end(mut self, error: &Error) -> Result<(), Gone> {
        let told = json!({"code": error.status.as_u16(), "message": error.message});
        self.lines.say(&format!("event: end\ndata: {told}\n\n")).await
    }
}

impl Step {
    fn between(old: &Snapshot, new: &Snapshot) -> Step {
        let (mut deletes, mut puts) = (Vec::new(), Vec::new());
        let kind = |was: &Document| was["kind"].as_str().unwrap_or_default().to_owned();
        for item in old.objects.diff(&new.objects) {
            match item {
                DiffItem::Add(_, now) => puts.push(now.clone()),
                DiffItem::Update { old: (name, was), new: (_, now) } => {
                    if now["kind"] != was["kind"] {
                        deletes.push((name.clone(), kind(was)));
                    }
                    puts.push(now.clone());
                }
                DiffItem::Remove(name, was) => deletes.push((name.clone(), kind(was))),
            }
        }
        Step { version: new.version, deletes, puts }
    }

    fn since(since: &ObjectsSince) -> Step {
        let view = &since.state.view;
        let puts = since.puts.iter().filter_map(|name| view.object(name).cloned()).collect();
        Step { version: view.version, deletes: since.deletes.iter().cloned().collect(), puts }
    }
}

/// Text on its way.
struct Lines {
    sender: mpsc::Sender<Bytes>,
    text: String,
}

impl Lines {
    async fn say(&mut self, text: &str) -> Result<(), Gone> {
        self.text.push_str(text);
        self.flush().await
    }

    /// Whoever takes nothing for [`STALLED`] is gone.
    async fn flush(&mut self) -> Result<(), Gone> {
        let text = Bytes::from(std::mem::take(&mut self.text));
        match tokio::time::timeout(STALLED, self.sender.send(text)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Gone),
            Err(_) => {
                tracing::info!(
                    "a reader of GET /objects?watch took nothing for {} and is told no more",
                    duration(STALLED)
                );
                Err(Gone)
            }
        }
    }
}

/// How many are told, in all and by who asks.
#[derive(Default)]
pub struct Watches(Arc<Mutex<HashMap<String, usize>>>);

struct Place {
    open: Arc<Mutex<HashMap<String, usize>>>,
    whose: String,
}

impl Watches {
    fn place(&self, caller: &Caller) -> Result<Place, String> {
        let whose = caller.whose();
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (own, all) = (open.get(&whose).copied().unwrap_or_default(), open.values().sum::<usize>());
        if own >= EACH_MAX {
            return Err(format!("{EACH_MAX} watches of {} are open already: end some of them first", caller.shown()));
        }
        if all >= ALL_MAX {
            return Err(format!("{ALL_MAX} watches are open already: try again later, or ask another machine"));
        }
        *open.entry(whose.clone()).or_default() += 1;
        Ok(Place { open: self.0.clone(), whose })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.whose) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.whose);
            }
        }
    }
}

const LAST_EVENT_ID: &str = "last-event-id";
/// After which a browser whose stream broke off comes again.
const RETRY: Duration = Duration::from_secs(1);
/// Between two signs of life. Proxies in between tend to wait for 30 s or more.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const STALLED: Duration = Duration::from_secs(30);
/// Text is handed on in chunks of about this size, so that ten thousand objects are never one text.
const CHUNK_BYTES: usize = 64 << 10;
const CHUNKS_WAITING: usize = 2;
/// Watches of a member, and those of one login or address of them: each costs a task, and the text on its way. Beyond it the answer is
/// 429, counted as `object_watches`.
const ALL_MAX: usize = 256;
const EACH_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn view(version: u64, objects: &[(&str, &str, u64)]) -> Snapshot {
        let document = |(name, kind, n): &(&str, &str, u64)| {
            ((*name).to_owned(), Document::new(json!({"name": name, "kind": kind, "n": n})))
        };
        let objects: control_api::Objects = objects.iter().map(document).collect();
        Snapshot { version, objects, ..Snapshot::default() }
    }

    #[test]
    fn a_name_that_became_another_kind_went_and_came() {
        let before = view(1, &[("a", "A", 1), ("b", "A", 1), ("c", "A", 1)]);
        let mut after = view(4, &[("a", "A", 2), ("b", "B", 1), ("d", "A", 1)]);
        let step = Step::between(&before, &after);
        let names: BTreeSet<&str> = step.puts.iter().map(|put| put["name"].as_str().unwrap()).collect();
        let deletes: Vec<(&str, &str)> = step.deletes.iter().map(|(name, kind)| (&**name, &**kind)).collect();
        assert_eq!((step.version, deletes), (4, vec![("b", "A"), ("c", "A")]));
        assert_eq!(names, BTreeSet::from(["a", "b", "d"]));
        after.objects = before.objects.clone();
        let nothing = Step::between(&before, &after);
        assert!(nothing.deletes.is_empty() && nothing.puts.is_empty());
    }

    #[test]
    fn places_are_given_back_and_nobody_has_all() {
        let watches = Watches::default();
        let (one, other) = (Caller::named("one"), Caller::named("other"));
        let mut held: Vec<Place> =
            (0..EACH_MAX).map(|_| watches.place(&one).unwrap_or_else(|e| panic!("{e}"))).collect();
        assert!(watches.place(&one).is_err_and(|told| told.contains("one")));
        held.push(watches.place(&other).unwrap_or_else(|e| panic!("{e}")));
        held.remove(0);
        held.push(watches.place(&one).unwrap_or_else(|e| panic!("{e}")));
        for n in held.len()..ALL_MAX {
            held.push(watches.place(&Caller::named(&format!("more-{n}"))).unwrap_or_else(|e| panic!("{e}")));
        }
        assert!(watches.place(&other).is_err());
        drop(held);
        assert!(watches.0.lock().unwrap().is_empty());
    }

    #[test]
    fn what_is_asked_is_a_version_or_everything() {
        let asked = |query: &str, id: Option<&str>| {
            let pairs = query.split('&').filter(|pair| !pair.is_empty());
            let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            let query = Query(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect());
            let headers = id.map(|id| (axum::http::HeaderName::from_static(LAST_EVENT_ID), id.parse().unwrap()));
            super::asked(&query, &headers.into_iter().collect()).map_err(|error| error.message)
        };
        assert_eq!(asked("", Some("7")), Ok(None));
        assert_eq!(asked("watch=false", None), Ok(None));
        assert_eq!(asked("watch", None), Ok(Some(From::All)));
        assert_eq!(asked("watch=true", None), Ok(Some(From::All)));
        assert_eq!(asked("watch=7", None), Ok(Some(From::Version(7))));
        assert_eq!(asked("watch=true", Some("9")), Ok(Some(From::Version(9))));
        assert!(asked("watch=soon", None).is_err_and(|told| told.contains("\"soon\"")));
        assert!(asked("watch", Some("x")).is_err_and(|told| told.contains("Last-Event-ID")));
        assert!(asked("watch&version=3", None).is_err());
    }
}
