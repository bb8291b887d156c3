//! An API server of Kubernetes as far as controllers ask one: lists in pages, watches from a version on with bookmarks, versions that are
//! forgotten (410), statuses that are patched, events that are created, a token, and rights that are missing.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// It is there until the test ends.
pub struct Kube {
    host: &'static str,
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    version: u64,
    /// By plural, then by `namespace/name`.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    /// What has happened: version, plural, what, and the object.
    log: Vec<(u64, String, &'static str, Value)>,
    /// What happened up to this version is forgotten.
    compacted: u64,
    /// Plurals that nobody may ask for.
    forbidden: BTreeSet<String>,
    /// Paths of what it does not know, or their ends.
    lacking: Vec<String>,
    token: Option<String>,
    /// Connections of an earlier life end.
    life: u64,
    /// It answers nobody.
    deaf: bool,
    /// What somebody in between answers 404 with to whoever asks for routes.
    page_of_another: Option<String>,
    page: usize,
    /// So many statuses are not taken: it has too much to do, and says when to come again.
    busy: usize,
}

impl Kube {
    pub fn start() -> Kube {
        Kube::at("127.0.0.1")
    }

    /// At an address of this machine.
    pub fn at(host: &'static str) -> Kube {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::<Shared>::default();
        shared.lock().version = 100;
        shared.lock().page = 500;
        let accepting = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = accepting.clone();
                let life = shared.lock().life;
                thread::spawn(move || drop(serve(stream, &shared, life)));
            }
        });
        Kube { host, port, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    /// Creates or replaces; the status of one that is there stays.
    pub fn put(&self, mut object: Value) {
        let mut state = self.shared.lock();
        let (plural, key) = (plural(object["kind"].as_str().unwrap()), key_of(&object));
        let before = state.objects.entry(plural.clone()).or_default().get(&key).cloned();
        if let Some(before) = &before {
            object["metadata"]["uid"] = before["metadata"]["uid"].clone();
            if object.get("status").is_none() && before.get("status").is_some() {
                object["status"] = before["status"].clone();
            }
        } else {
            object["metadata"]["uid"] = json!(format!("uid-{}", state.version + 1));
        }
        if object["metadata"]["creationTimestamp"].is_null() {
            object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        state.write(&plural, &key, if before.is_some() { "MODIFIED" } else { "ADDED" }, object);
        self.shared.changed.notify_all();
    }

    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let mut state = self.shared.lock();
        let (plural, key) = (plural(kind), format!("{namespace}/{name}"));
        let object = state.objects.get_mut(&plural).and_then(|objects| objects.remove(&key)).expect("it is there");
        state.version += 1;
        let mut object = object;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let version = state.version;
        state.log.push((version, plural, "DELETED", object));
        self.shared.changed.notify_all();
    }

    pub fn object(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.shared.lock().objects.get(&plural(kind))?.get(&format!("{namespace}/{name}")).cloned()
    }

    /// What was said in events, `REASON MESSAGE`.
    pub fn events(&self) -> Vec<String> {
        let state = self.shared.lock();
        let events = state.objects.get("events").into_iter().flat_map(BTreeMap::values);
        events.map(|e| format!("{} {}", e["reason"].as_str().unwrap(), e["message"].as_str().unwrap())).collect()
    }

    /// Everything that has happened is forgotten, and watches end: whoever goes on from before is told 410.
    pub fn forgets(&self) {
        let mut state = self.shared.lock();
        state.version += 1000;
        state.compacted = state.version;
        state.log.clear();
        state.life += 1;
        self.shared.changed.notify_all();
    }

    /// All connections end; it goes on from where it was.
    pub fn restarts(&self) {
        self.shared.lock().life += 1;
        self.shared.changed.notify_all();
    }

    pub fn deaf(&self, deaf: bool) {
        let mut state = self.shared.lock();
        state.deaf = deaf;
        state.life += 1;
        self.shared.changed.notify_all();
    }

    pub fn forbids(&self, kind: &str, forbidden: bool) {
        let mut state = self.shared.lock();
        let plural = plural(kind);
        if forbidden {
            state.forbidden.insert(plural)
        } else {
            state.forbidden.remove(&plural)
        };
        state.life += 1;
        self.shared.changed.notify_all();
    }

    /// Somebody in between answers for it, where routes are asked for.
    pub fn answered_by_another(&self, page: Option<&str>) {
        let mut state = self.shared.lock();
        state.page_of_another = page.map(str::to_owned);
        state.life += 1;
        self.shared.changed.notify_all();
    }

    pub fn lacks(&self, path: &str) {
        self.shared.lock().lacking.push(path.to_owned());
    }

    pub fn token(&self, token: &str) {
        let mut state = self.shared.lock();
        state.token = Some(token.to_owned());
        state.life += 1;
        self.shared.changed.notify_all();
    }

    /// Nobody watches yet: what has happened so far is of no use to anybody.
    pub fn begins(&self) {
        self.shared.lock().log.clear();
    }

    /// How many objects of a kind have a status of this name.
    pub fn with_status(&self, kind: &str, name: &str) -> usize {
        let state = self.shared.lock();
        let objects = state.objects.get(&plural(kind)).into_iter().flat_map(BTreeMap::values);
        objects.filter(|object| !object["status"][name].is_null()).count()
    }

    /// It has too much to do for the next statuses.
    pub fn busy(&self, statuses: usize) {
        self.shared.lock().busy = statuses;
    }

    pub fn pages_of(&self, page: usize) {
        self.shared.lock().page = page;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, plural: &str, key: &str, what: &'static str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.entry(plural.to_owned()).or_default().insert(key.to_owned(), object.clone());
        self.log.push((self.version, plural.to_owned(), what, object));
    }
}

/// As paths name a kind.
pub fn plural(kind: &str) -> String {
    let lower = kind.to_lowercase();
    match kind {
        kind if kind.ends_with("ss") => format!("{lower}es"),
        kind if kind.ends_with("cy") => format!("{}ies", &lower[..lower.len() - 1]),
        _ => format!("{lower}s"),
    }
}

fn key_of(object: &Value) -> String {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

/// Where a request leads.
struct Target {
    namespace: Option<String>,
    plural: String,
    name: Option<String>,
    status: bool,
    query: BTreeMap<String, String>,
}

impl Target {
    fn read(target: &str) -> Option<Target> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut parts = path.trim_start_matches('/').split('/').skip(if path.starts_with("/apis/") { 3 } else { 2 });
        let mut next = parts.next()?.to_owned();
        let mut namespace = None;
        let mut parts = parts.collect::<Vec<_>>().into_iter();
        if next == "namespaces" && parts.len() > 1 {
            namespace = parts.next().map(str::to_owned);
            next = parts.next()?.to_owned();
        }
        let name = parts.next().map(str::to_owned);
        let status = parts.next() == Some("status");
        let query = query.split('&').filter_map(|pair| pair.split_once('='));
        let query = query.map(|(name, value)| (name.to_owned(), value.replace("%3D", "="))).collect();
        Some(Target { namespace, plural: next, name, status, query })
    }

    fn takes(&self, plural: &str, object: &Value) -> bool {
        let selector = self.query.get("fieldSelector").map(String::as_str).unwrap_or_default();
        let excluded = selector.split(',').filter_map(|part| part.strip_prefix("type!="));
        let kind = object["type"].as_str().unwrap_or_default();
        self.plural == plural
            && self.namespace.as_ref().is_none_or(|namespace| object["metadata"]["namespace"] == **namespace)
            && !excluded.into_iter().any(|other| other == kind)
    }
}

fn serve(mut stream: TcpStream, shared: &Shared, life: u64) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let (mut length, mut token) = (0, None);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap(),
                "authorization" => token = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut words = line.split_whitespace();
        let (method, target) =
            (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        {
            let mut state = shared.lock();
            while state.deaf {
                state = shared.changed.wait(state).unwrap();
            }
            if state.life != life {
                return Ok(());
            }
            if state.token.as_ref().is_some_and(|wanted| token.as_deref() != Some(&format!("Bearer {wanted}"))) {
                refuse(&mut stream, 401, "Unauthorized")?;
                continue;
            }
        }
        let path = target.split('?').next().unwrap_or_default();
        if let Some(known) = discovery(&shared.lock(), path) {
            answer(&mut stream, 200, &known)?;
            continue;
        }
        if let Some(page) = shared.lock().page_of_another.clone().filter(|_| target.contains("routes")) {
            let head = format!("HTTP/1.1 404 x\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n", page.len());
            stream.write_all(format!("{head}{page}").as_bytes())?;
            continue;
        }
        if shared.lock().lacking.iter().any(|end| path.ends_with(end.as_str())) {
            refuse(&mut stream, 404, "the server could not find the requested resource")?;
            continue;
        }
        let Some(target) = Target::read(&target) else {
            answer(&mut stream, 200, &json!({"gitVersion": "v1.37.2"}))?;
            continue;
        };
        if shared.lock().forbidden.contains(&target.plural) {
            let what = format!("{} is forbidden: User \"weir\" cannot list resource", target.plural);
            refuse(&mut stream, 403, &what)?;
            continue;
        }
        match method.as_str() {
            "GET" if target.query.contains_key("watch") => return watch(&mut stream, shared, life, &target),
            "GET" => list(&mut stream, shared, &target)?,
            "PATCH" => patch(&mut stream, shared, &target, &serde_json::from_slice(&body).unwrap())?,
            "POST" => {
                let mut object: Value = serde_json::from_slice(&body).unwrap();
                object["kind"] = json!("Event");
                let mut state = shared.lock();
                let key = key_of(&object);
                if state.objects.get("events").is_some_and(|events| events.contains_key(&key)) {
                    drop(state);
                    refuse(&mut stream, 409, "it is there already")?;
                    continue;
                }
                state.write(&target.plural, &key, "ADDED", object.clone());
                drop(state);
                answer(&mut stream, 201, &object)?;
            }
            _ => refuse(&mut stream, 405, "not allowed")?,
        }
    }
}

/// Which groups and versions there are, and what is in one of them.
fn discovery(state: &State, path: &str) -> Option<Value> {
    let versions =
        ["v1", "v1beta1", "v1alpha3", "v1alpha2"].map(|version| format!("gateway.networking.k8s.io/{version}"));
    if path == "/apis" {
        let versions: Vec<Value> = versions.iter().map(|version| json!({"groupVersion": version})).collect();
        return Some(
            json!({"kind": "APIGroupList", "groups": [{"name": "gateway.networking.k8s.io", "versions": versions}]}),
        );
    }
    let version = path.strip_prefix("/apis/").filter(|version| versions.iter().any(|known| known == version))?;
    let there =
        |plural: &&str| !state.lacking.iter().any(|end| format!("/apis/{version}/{plural}").ends_with(end.as_str()));
    let kinds = ["grpcroutes", "tlsroutes", "tcproutes", "udproutes", "referencegrants"];
    let kinds: Vec<Value> = kinds.into_iter().filter(there).map(|plural| json!({"name": plural})).collect();
    Some(json!({"kind": "APIResourceList", "resources": kinds}))
}

fn list(stream: &mut TcpStream, shared: &Shared, target: &Target) -> std::io::Result<()> {
    let state = shared.lock();
    let (from, at) = match target.query.get("continue").and_then(|token| token.split_once('.')) {
        Some((from, at)) => (from.parse().unwrap(), at.parse().unwrap()),
        None => (0, state.version),
    };
    if at < state.compacted {
        drop(state);
        return refuse(stream, 410, "The provided continue parameter is too old");
    }
    let objects = state.objects.get(&target.plural).into_iter().flat_map(BTreeMap::values);
    let all: Vec<&Value> = objects.filter(|object| target.takes(&target.plural, object)).collect();
    let page: Vec<Value> = all.iter().skip(from).take(state.page).map(|object| Value::clone(object)).collect();
    let next = from + page.len();
    let goes_on = if next < all.len() { format!("{next}.{at}") } else { String::new() };
    let whole =
        json!({"kind": "List", "metadata": {"resourceVersion": at.to_string(), "continue": goes_on}, "items": page});
    drop(state);
    answer(stream, 200, &whole)
}

/// Until the connection's life is over or its time is up.
fn watch(stream: &mut TcpStream, shared: &Shared, life: u64, target: &Target) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let seconds = target.query["timeoutSeconds"].parse().unwrap();
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut at: u64 = target.query["resourceVersion"].parse().unwrap();
    let mut chunk = |event: Value| {
        let line = format!("{event}\n");
        // Cut in two, as networks do.
        let (first, second) = line.as_bytes().split_at(line.len() / 2);
        for part in [first, second] {
            stream.write_all(format!("{:x}\r\n", part.len()).as_bytes())?;
            stream.write_all(part)?;
            stream.write_all(b"\r\n")?;
        }
        stream.flush()
    };
    let mut state = shared.lock();
    loop {
        if state.life != life || Instant::now() > until {
            return Ok(());
        }
        if at < state.compacted {
            let status =
                json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"});
            return chunk(json!({"type": "ERROR", "object": status}));
        }
        let from = state.log.partition_point(|(version, ..)| *version <= at);
        let news: Vec<(&str, Value)> = state.log[from..]
            .iter()
            .filter(|(_, plural, _, object)| target.takes(plural, object))
            .map(|(_, _, what, object)| (*what, object.clone()))
            .collect();
        let moved = state.version > at;
        at = state.version;
        drop(state);
        for (what, object) in &news {
            chunk(json!({"type": what, "object": object}))?;
        }
        if moved && news.is_empty() {
            let metadata = json!({"resourceVersion": at.to_string()});
            chunk(json!({"type": "BOOKMARK", "object": {"metadata": metadata}}))?;
        }
        state = shared.lock();
        if state.version == at && state.life == life {
            state = shared.changed.wait_timeout(state, Duration::from_millis(100)).unwrap().0;
        }
    }
}

fn patch(stream: &mut TcpStream, shared: &Shared, target: &Target, change: &Value) -> std::io::Result<()> {
    let mut state = shared.lock();
    if state.busy > 0 {
        state.busy -= 1;
        drop(state);
        let refusal = json!({"kind": "Status", "code": 429, "message": "too many requests, please try again later"});
        return answer_with(stream, 429, "Retry-After: 1\r\n", &refusal);
    }
    let key = format!("{}/{}", target.namespace.clone().unwrap_or_default(), target.name.clone().unwrap_or_default());
    let known = state.objects.get(&target.plural).and_then(|objects| objects.get(&key)).cloned();
    let (Some(mut object), true) = (known, target.status) else {
        drop(state);
        return refuse(stream, 404, "not found");
    };
    // A merge patch of one level: what is under status is replaced as a whole.
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    for (name, value) in change["status"].as_object().unwrap() {
        object["status"][name] = value.clone();
    }
    state.write(&target.plural, &key, "MODIFIED", object.clone());
    shared.changed.notify_all();
    drop(state);
    answer(stream, 200, &object)
}

fn refuse(stream: &mut TcpStream, status: u16, message: &str) -> std::io::Result<()> {
    answer(stream, status, &json!({"kind": "Status", "code": status, "message": message}))
}

fn answer(stream: &mut TcpStream, status: u16, body: &Value) -> std::io::Result<()> {
    answer_with(stream, status, "", body)
}

/// `more`: lines of the head.
fn answer_with(stream: &mut TcpStream, status: u16, more: &str, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} x\r\nContent-Type: application/json\r\n{more}Content-Length: {length}\r\n\r\n");
    stream.write_all((head + &body).as_bytes())
}
