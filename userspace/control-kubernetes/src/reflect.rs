//! Lists the objects of a kind, and then watches them, for ever.
//!
//! A list gives everything there is and the version it was at; a watch gives what changes from a version on, and bookmarks that say
//! which version it has come to while nothing of interest changes. A watch that ends is begun anew from the last version; where the API
//! server does not remember that any more (410) everything is listed again, and whoever is told compares that with what it has.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::api::{ANSWER, Api, ApiError, Status};
use crate::kinds::Kind;
use crate::object::{Key, Object};

/// What is heard of a kind, in one namespace or in all of them.
#[derive(Debug)]
pub enum Heard {
    /// All there is, and what of it cannot be read, and why: of that what was known stays.
    Listed(BTreeMap<Key, Object>, Vec<(Key, String)>),
    Put(Object),
    Gone(Key),
    /// It is well, and nothing is different.
    Well,
    /// An object that cannot be read, in words; what was known of it stays.
    Unread(Key, String),
    /// What went wrong, in words; it is tried again.
    Fault(String),
}

/// Of what something is heard.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub kind: Kind,
    /// `None`: all of them.
    pub namespace: Option<String>,
}

impl Place {
    /// Everything of a kind in these namespaces; in all of them where none is named.
    pub fn all(kind: Kind, namespaces: &[String]) -> Vec<Place> {
        if namespaces.is_empty() || !kind.is_namespaced() {
            return vec![Place { kind, namespace: None }];
        }
        namespaces.iter().map(|namespace| Place { kind, namespace: Some(namespace.clone()) }).collect()
    }

    /// Whether an object of its kind would be heard of here.
    pub fn has(&self, key: &Key) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
    }

    fn path(&self, api: &Api, query: &str) -> String {
        let selector = self.kind.selector();
        let and = if selector.is_empty() { "" } else { "&" };
        let version = api.version(self.kind);
        format!("{}?{query}{and}{selector}", self.kind.path(version, self.namespace.as_deref()))
    }
}

/// Tells of this place until nobody listens.
pub async fn reflect(api: Api, place: Place, tell: mpsc::Sender<(Place, Heard)>) {
    let mut version = None;
    let mut pause = PAUSE_FIRST;
    loop {
        let began = tokio::time::Instant::now();
        let ended = turn(&api, &place, &mut version, &tell).await;
        let Err(fault) = ended else {
            if began.elapsed() < LEAST {
                // A server that ends every watch at once is not asked without end.
                tokio::time::sleep(LEAST).await;
            }
            pause = PAUSE_FIRST;
            continue;
        };
        if fault.is_gone() {
            version = None;
            tokio::time::sleep(jittered(PAUSE_FIRST)).await;
            continue;
        }
        if fault.is_not_found() {
            version = None;
            if api.next_version(place.kind) {
                continue;
            }
            if place.kind.is_optional() && api.lacks(place.kind).await == Ok(true) {
                // It may come: somebody installs the definitions.
                if tell.send((place.clone(), Heard::Listed(BTreeMap::new(), Vec::new()))).await.is_err() {
                    return;
                }
                tokio::time::sleep(jittered(UNKNOWN)).await;
                continue;
            }
        }
        if fault.status != 0 {
            // Whether the version is good is not known: 404, and a 500 of a server whose data is another one's.
            version = None;
        }
        // Kinds are asked for apart, and do not come back at the same moment.
        let asked = fault.retry_after.map(|asked| asked + Duration::from_millis(random(SPREAD_MS)));
        if tell.send((place.clone(), Heard::Fault(fault.told))).await.is_err() {
            return;
        }
        api.renew();
        if began.elapsed() > STEADY {
            pause = PAUSE_FIRST;
        }
        tokio::time::sleep(jittered(pause).max(asked.unwrap_or_default())).await;
        pause = (pause * 2).min(PAUSE);
    }
}

/// One list where that is needed, and one watch to its end.
async fn turn(
    api: &Api,
    place: &Place,
    version: &mut Option<String>,
    tell: &mpsc::Sender<(Place, Heard)>,
) -> Result<(), ApiError> {
    let from = match version {
        Some(version) => version.clone(),
        None => {
            let (listed, unread, at) = list(api, place).await?;
            say(tell, place, Heard::Listed(listed, unread)).await?;
            *version = Some(at.clone());
            at
        }
    };
    let seconds = WATCH_S + random(WATCH_S);
    let query = format!("watch=1&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds={seconds}");
    let path = place.path(api, &query);
    let mut body = api.open(Method::GET, &path, "", Bytes::new(), ANSWER).await?;
    say(tell, place, Heard::Well).await?;
    let mut lines = Lines::default();
    let mut doubts = api.doubts();
    let broke =
        |why: String| ApiError::new(0, format!("Kubernetes at {}: the watch of {} {why}", api.place(), place.kind));
    loop {
        // A connection that nothing comes from may be none any more: it is begun anew from where it was, which costs little.
        let heard = tokio::select! {
            heard = tokio::time::timeout(SILENCE, body.frame()) => heard,
            _ = doubts.changed() => return Ok(()),
        };
        let frame = match heard {
            Err(_) => return Ok(()),
            Ok(None) => return Ok(()),
            Ok(Some(Err(error))) => return Err(broke(format!("broke off: {error}"))),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        lines.push(&data);
        while let Some(line) = lines.next().map_err(&broke)? {
            let event: Event<'_> =
                serde_json::from_slice(&line).map_err(|error| broke(format!("said what is no event ({error})")))?;
            hear(place, event, version, tell).await?;
        }
    }
}

/// The object of an event, and those of a page, are read as what they are, and nothing else is made of their text: of ten thousand that come
/// at once what would be made is much.
#[derive(Deserialize)]
struct Event<'l> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, borrow)]
    object: Option<&'l RawValue>,
}

/// What there is of an object that may not be readable.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Head {
    #[serde(deserialize_with = "crate::object::or_default")]
    metadata: HeadMeta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HeadMeta {
    #[serde(deserialize_with = "crate::object::or_default")]
    namespace: String,
    #[serde(deserialize_with = "crate::object::or_default")]
    name: String,
    #[serde(deserialize_with = "crate::object::or_default")]
    resource_version: String,
}

impl Head {
    fn of(text: &str) -> HeadMeta {
        serde_json::from_str::<Head>(text).unwrap_or_default().metadata
    }

    fn key(text: &str) -> Key {
        let HeadMeta { namespace, name, .. } = Head::of(text);
        Key::new(namespace, name)
    }
}

async fn hear(
    place: &Place,
    event: Event<'_>,
    version: &mut Option<String>,
    tell: &mpsc::Sender<(Place, Heard)>,
) -> Result<(), ApiError> {
    let text = event.object.map_or("null", RawValue::get);
    if event.kind == "ERROR" {
        let said: Status = serde_json::from_str(text).unwrap_or_default();
        let status = if said.code == 0 && said.reason == "Expired" { 410 } else { said.code };
        let told = format!("Kubernetes ended the watch of {}: {} ({status})", place.kind, said.message);
        return Err(ApiError::new(status, told));
    }
    let (at, heard) = match event.kind.as_str() {
        "ADDED" | "MODIFIED" => match place.kind.read(text) {
            Ok(object) => (object.meta().resource_version.clone(), Heard::Put(object)),
            Err(why) => (Head::of(text).resource_version, Heard::Unread(Head::key(text), why)),
        },
        "DELETED" => (Head::of(text).resource_version, Heard::Gone(Head::key(text))),
        // Bookmarks, and what comes to be.
        _ => (Head::of(text).resource_version, Heard::Well),
    };
    say(tell, place, heard).await?;
    if !at.is_empty() {
        *version = Some(at);
    }
    Ok(())
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(default, deserialize_with = "crate::object::or_default")]
    items: Vec<Box<RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    goes_on: String,
}

type Listed = (BTreeMap<Key, Object>, Vec<(Key, String)>, String);

/// Everything, page by page. A list that takes so long that its first pages are forgotten meanwhile (410) is an error, and begun anew.
async fn list(api: &Api, place: &Place) -> Result<Listed, ApiError> {
    let (mut listed, mut unread, mut goes_on) = (BTreeMap::new(), Vec::new(), String::new());
    loop {
        let path = match goes_on.as_str() {
            "" => place.path(api, &format!("limit={PAGE}")),
            token => place.path(api, &format!("limit={PAGE}&continue={}", escaped(token))),
        };
        let page: Page = api.json(Method::GET, &path, "", Bytes::new()).await?;
        let wrong = |what: String| ApiError::new(0, format!("Kubernetes at {}: {what}", api.place()));
        if page.metadata.resource_version.is_empty() {
            return Err(wrong(format!("its list of {} has no version; is it an API server?", place.kind)));
        }
        for item in page.items {
            match place.kind.read(item.get()) {
                Ok(object) => drop(listed.insert(object.key(), object)),
                Err(why) => unread.push((Head::key(item.get()), why)),
            }
        }
        goes_on = page.metadata.goes_on;
        if goes_on.is_empty() {
            return Ok((listed, unread, page.metadata.resource_version));
        }
    }
}

async fn say(tell: &mpsc::Sender<(Place, Heard)>, place: &Place, heard: Heard) -> Result<(), ApiError> {
    let told = || ApiError::new(0, "nobody listens any more".to_owned());
    tell.send((place.clone(), heard)).await.map_err(|_| told())
}

/// Bytes as they come, cut where lines end.
#[derive(Default)]
struct Lines {
    bytes: BytesMut,
    /// So far there is no end of a line.
    looked_at: usize,
}

impl Lines {
    fn push(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
    }

    fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            match self.bytes[self.looked_at..].iter().position(|byte| *byte == b'\n') {
                Some(at) => {
                    let line = self.bytes.split_to(self.looked_at + at + 1).freeze();
                    self.looked_at = 0;
                    if !line.trim_ascii().is_empty() {
                        return Ok(Some(line));
                    }
                }
                None if self.bytes.len() > LINE_MAX => {
                    return Err(format!("has an event of more than {} MiB", LINE_MAX >> 20));
                }
                None => {
                    self.looked_at = self.bytes.len();
                    return Ok(None);
                }
            }
        }
    }
}

/// Percent-encodes a value of a query.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

fn random(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below.max(1)
}

/// Between a half and the whole of it, so that not all come back at once.
fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    half + Duration::from_millis(random(half.as_millis() as u64))
}

/// Objects of one page: the API server sends a few megabytes then.
const PAGE: usize = 500;
/// A watch lasts so long, in seconds, and up to twice as long: Kubernetes's own clients wait for 5 to 10 minutes.
const WATCH_S: u64 = 300;
/// Bookmarks come about once a minute.
const SILENCE: Duration = Duration::from_secs(150);
/// An object has at most 1.5 MiB in etcd, and somewhat more as JSON.
const LINE_MAX: usize = 16 << 20;
/// Pauses after a fault: the first, twice as long each time, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_secs(10);
/// After a pause that somebody asked for.
const SPREAD_MS: u64 = 1000;
/// After watching for so long the next fault is a first one.
const STEADY: Duration = Duration::from_secs(10);
/// Before a kind that the API server does not know is asked for again.
const UNKNOWN: Duration = Duration::from_secs(30);
/// Between two watches at least.
const LEAST: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines_however_they_are_cut() {
        let text = b"{\"a\":1}\n\n{\"b\":2}\n{\"c\"";
        for size in 1..text.len() {
            let (mut lines, mut seen) = (Lines::default(), Vec::new());
            for part in text.chunks(size) {
                lines.push(part);
                while let Some(line) = lines.next().unwrap() {
                    seen.push(String::from_utf8(line.trim_ascii().to_vec()).unwrap());
                }
            }
            assert_eq!(seen, ["{\"a\":1}", "{\"b\":2}"], "in parts of {size}");
        }
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; LINE_MAX + 1]);
        assert!(lines.next().is_err());
    }

    #[test]
    fn places_are_namespaces_or_everything() {
        let names = ["a".to_owned(), "b".to_owned()];
        assert_eq!(Place::all(Kind::Ingress, &names).len(), 2);
        assert_eq!(Place::all(Kind::IngressClass, &names).len(), 1);
        let api = Api::new("", "http://127.0.0.1:1").unwrap();
        let path = Place::all(Kind::Secret, &names)[1].path(&api, "limit=5");
        assert!(path.starts_with("/api/v1/namespaces/b/secrets?limit=5&fieldSelector=type!%3Dhelm"), "{path}");
        assert!(
            api.next_version(Kind::TcpRoute) && api.next_version(Kind::TcpRoute) && api.next_version(Kind::TcpRoute)
        );
        assert_eq!(api.version(Kind::TcpRoute), "gateway.networking.k8s.io/v1alpha2");
        assert!(!api.next_version(Kind::TcpRoute) && !api.next_version(Kind::Ingress));
        assert!(Place { kind: Kind::Service, namespace: Some("a".into()) }.has(&Key::new("a", "x")));
    }
}
