//! What controllers of Kubernetes's objects have in common: they watch the API server, have documents made of what is there, write those
//! and the servers of their services, and tell the API server what became of each object.
//!
//! What is made is decided by a [`Maker`], which knows neither time nor sockets. Nothing is written before everything has been listed
//! once: half of a list says nothing of the other half.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base_model::namespaces;
use base_text::quoted;
use control_api::time::rfc3339;
use control_api::{Document, ENDPOINTS, NAMESPACE_LABEL, Refusal, RefusalKind};
use control_kubernetes::endpoints::{self, ServiceName};
use control_kubernetes::ingress::{Check, names_of};
use control_kubernetes::reflect::{Heard, Place, reflect};
use control_kubernetes::report::{Grade, Report};
use control_kubernetes::{Api, Key, Kind, Store};
use control_registries::Wanted;
use control_registries::record::{Instance, Record, Service, judge};
use control_state::{Action, Entry, Fence, KeyPut, NAMESPACES_LEVEL, owner};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::board::Board;
use crate::host::{Cluster, Deposed};
use crate::pause::Pause;
use crate::service_registry::{parts, read};
use crate::tell::{Tell, Teller};

/// Says what a document lacks, as whoever takes it would.
pub trait Checks: Send + Sync {
    fn check(&self, document: &Value) -> Result<(), String>;
}

/// Makes documents of what is there.
pub trait Maker: Send {
    fn kind(&self) -> &'static str;
    /// Where the API server is, as [`Api::new`] takes it.
    fn api(&self) -> (&str, &str);
    /// What has to be known before anything is made.
    fn places(&self) -> Vec<Place>;
    fn make(&mut self, seen: Seen<'_>) -> Outcome;
}

/// What a [`Maker`] looks at.
pub struct Seen<'s> {
    pub store: &'s Store,
    /// The cluster's objects, those that were made before among them.
    pub objects: &'s BTreeMap<String, Document>,
    pub check: &'s mut dyn Check,
    /// RFC 3339.
    pub now: &'s str,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// By name. Servers come after what they lead to, whatever their names are.
    pub documents: BTreeMap<String, Value>,
    /// Services that the documents' pools ask for.
    pub services: BTreeSet<String>,
    pub reports: BTreeMap<(Kind, Key), Report>,
    /// Statuses that are to be others than they are.
    pub statuses: BTreeMap<(Kind, Key), Value>,
    /// What is not well with all of it, in words.
    pub remarks: Vec<String>,
}

/// One object of such a kind.
pub struct Controller<C> {
    pub cluster: C,
    /// The object's.
    pub name: String,
    pub maker: Box<dyn Maker>,
    pub fence: Fence,
    pub board: Arc<Board>,
    /// Services that other pools ask it for.
    pub wanted: Wanted,
    pub checks: Arc<dyn Checks>,
}

enum Said {
    Heard(Place, Heard),
    Alive(Result<(), String>),
    /// What could not be told the API server, and why, where that is a fault.
    Untold(Tell, Option<String>),
}

/// What one controller keeps.
struct Work<C> {
    controller: Controller<C>,
    store: Store,
    checked: Checked,
    /// What the cluster knows of its services, as it was written last.
    servers: BTreeMap<String, Vec<Instance>>,
    servers_read: Option<Instant>,
    /// Objects as they were looked at last, and the cluster's feature level then.
    seen: Option<(Arc<BTreeMap<String, Document>>, u32)>,
    teller: Teller,
    faults: u64,
    alive: Option<String>,
    /// What could not be written the last time.
    unwritten: Option<String>,
}

impl<C: Cluster> Controller<C> {
    /// Goes on until another member leads, or it is dropped.
    pub async fn run(self) -> Deposed {
        let (name, board, kind) = (self.name.clone(), self.board.clone(), self.maker.kind());
        board.update(&name, |entry| entry.kind = kind.to_owned());
        let mut pause = Pause::new(PAUSE_FIRST, PAUSE);
        let (kube_config, master_url) = self.maker.api();
        let api = loop {
            match Api::new(kube_config, master_url) {
                Ok(api) => break api,
                Err(why) => {
                    tracing::warn!(object = name, "{why}");
                    board.update(&name, |entry| {
                        entry.fault = Some(why);
                        entry.faults_total += 1;
                    });
                    tokio::time::sleep(pause.take()).await;
                }
            }
        };
        let (heard_tell, mut heard) = mpsc::channel(QUEUE);
        let (tell, mut said) = mpsc::channel(QUEUE);
        // Ends all of them when this is dropped.
        let mut tasks = JoinSet::new();
        for place in self.maker.places() {
            tasks.spawn(reflect(api.clone(), place, heard_tell.clone()));
        }
        drop(heard_tell);
        tasks.spawn(alive(api.clone(), tell.clone()));
        let untold = tell.clone();
        let (teller, telling) = Teller::new(api, move |what, why| {
            let untold = untold.clone();
            async move { drop(untold.send(Said::Untold(what, why)).await) }
        });
        tasks.spawn(telling);
        let checked = Checked::new(self.checks.clone());
        let mut work = Work {
            controller: self,
            store: Store::default(),
            checked,
            servers: BTreeMap::new(),
            servers_read: None,
            seen: None,
            teller,
            faults: 0,
            alive: None,
            unwritten: None,
        };
        let (mut dirty, mut not_before) = (true, Instant::now());
        loop {
            let wait = if dirty { not_before.saturating_duration_since(Instant::now()) } else { LOOK };
            tokio::select! {
                Some((place, what)) = heard.recv() => {
                    dirty |= work.hear(Said::Heard(place, what));
                    while let Ok((place, what)) = heard.try_recv() {
                        dirty |= work.hear(Said::Heard(place, what));
                    }
                }
                Some(what) = said.recv() => dirty |= work.hear(what),
                changed = work.controller.wanted.changed() => {
                    if changed.is_err() {
                        return Deposed;
                    }
                    dirty = true;
                }
                () = tokio::time::sleep(wait) => {}
            }
            dirty |= work.is_changed();
            if !dirty || Instant::now() < not_before {
                continue;
            }
            let begun = Instant::now();
            let acted = work.act().await;
            not_before = Instant::now() + REST.max(begun.elapsed() * RESTS_FOR).min(AGAIN);
            match acted {
                Ok(done) => dirty = !done,
                Err(deposed) => return deposed,
            }
            if dirty {
                not_before = not_before.max(begun + AGAIN);
            }
        }
    }
}

impl<C: Cluster> Work<C> {
    /// Says whether there may be something to do.
    fn hear(&mut self, said: Said) -> bool {
        let (name, board) = (&self.controller.name, &self.controller.board);
        let changed = match said {
            Said::Heard(place, heard) => {
                if let Heard::Fault(why) = &heard {
                    self.faults += 1;
                    tracing::warn!(object = name, "{why}; what was known last is served on");
                }
                let first = matches!(heard, Heard::Listed(..));
                let changes = self.store.hear(&place, heard);
                !changes.is_empty() || first
            }
            Said::Alive(alive) => {
                if let Err(why) = &alive
                    && self.alive.as_ref() != Some(why)
                {
                    self.faults += 1;
                    tracing::warn!(object = name, "{why}; what was known last is served on");
                }
                self.alive = alive.err();
                false
            }
            Said::Untold(what, why) => {
                self.teller.forget(&what);
                if let Some(why) = &why {
                    tracing::warn!(object = name, "{why}");
                    self.faults += 1;
                    board.update(name, |entry| entry.untold = Some(why.clone()));
                }
                // What was heard meanwhile may have been planned for already; what is yet to be heard is planned for then.
                let written = |tell: &Tell| match tell {
                    Tell::Status { kind, key, version, .. } => {
                        self.store.get(*kind, key).is_some_and(|object| object.meta().resource_version != *version)
                    }
                    Tell::Event { .. } => false,
                };
                why.is_none() && written(&what)
            }
        };
        let fault = self.store.faults().next().map(str::to_owned).or_else(|| self.alive.clone());
        let faults = self.faults;
        board.update(name, |entry| {
            if fault.is_none() {
                entry.last_good = Some(SystemTime::now());
            }
            entry.fault = fault;
            entry.faults_total = faults;
        });
        changed
    }

    /// Whether the cluster's objects are others than when they were looked at.
    fn is_changed(&self) -> bool {
        let state = self.controller.cluster.state();
        let (objects, level) = (&state.view.objects, state.level());
        self.seen.as_ref().is_none_or(|(seen, then)| *then != level || !Arc::ptr_eq(seen, objects))
    }

    /// Writes what is different. Says whether all of it is written.
    async fn act(&mut self) -> Result<bool, Deposed> {
        if !self.store.has_all(&self.controller.maker.places()) {
            return Ok(true);
        }
        let state = self.controller.cluster.state();
        let (objects, level) = (state.view.objects.clone(), state.level());
        let now = rfc3339(SystemTime::now());
        let seen = Seen { store: &self.store, objects: &objects, check: &mut self.checked, now: &now };
        let outcome = self.controller.maker.make(seen);
        self.checked.forget_unused();
        self.seen = Some((objects.clone(), level));
        let mut refused = Refused::default();
        let written = self.write(&objects, level, &outcome, &mut refused).await;
        let told = match written {
            Ok(()) => refused.told(),
            Err(refusal) if refusal.kind == RefusalKind::Stale => {
                self.controller.board.fenced_out();
                tracing::info!(object = self.controller.name, %refusal, "another member leads");
                return Err(Deposed);
            }
            Err(refusal) => Some(format!("what is made of it could not be written down: {refusal}")),
        };
        match &told {
            // It is tried again and again, and told once.
            Some(told) if self.unwritten.as_ref() == Some(told) => {}
            Some(told) => tracing::warn!(object = self.controller.name, "{told}"),
            // What was written is no news.
            None => self.seen = Some((self.controller.cluster.state().view.objects.clone(), level)),
        }
        self.unwritten = told.clone();
        self.report(&outcome, told.clone());
        self.teller.tell(&self.store, &outcome);
        Ok(told.is_none())
    }

    fn report(&self, outcome: &Outcome, unwritten: Option<String>) {
        let mut remarks = outcome.remarks.clone();
        let unread = self.store.unread().map(|(kind, key, why)| format!("{kind} {key} cannot be read: {why}"));
        remarks.extend(unread.take(REMARKS_TOLD));
        remarks.extend(unwritten);
        let mut states: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for ((kind, _), report) in &outcome.reports {
            *states.entry((kind.name(), report.grade().word())).or_default() += 1;
        }
        let states = states.into_iter().map(|((kind, state), count)| ((kind.to_owned(), state.to_owned()), count));
        let reports = outcome.reports.iter().map(|((kind, key), report)| {
            let mut value = report.json();
            value["kind"] = json!(kind.name());
            (format!("{} {key}", kind.plural()), value)
        });
        let instances = self.servers.iter().map(|(service, servers)| (service.clone(), servers.len()));
        self.controller.board.update(&self.controller.name, |entry| {
            entry.remarks = remarks;
            entry.states = states.collect();
            entry.reports = reports.collect();
            entry.instances = instances.collect();
        });
    }

    /// Servers come before whoever asks for them, pipelines before whoever leads to them; what goes, goes in the other order.
    async fn write(
        &mut self,
        objects: &BTreeMap<String, Document>,
        level: u32,
        outcome: &Outcome,
        refused: &mut Refused,
    ) -> Result<(), Refusal> {
        let (puts, deletes) = self.servers(outcome);
        self.put_servers(puts, Vec::new()).await?;
        let (kind, name) = (self.controller.maker.kind(), self.controller.name.as_str());
        let parent = format!("{kind}:{name}");
        let namespace = namespace_of(kind, name, level);
        let documents: BTreeMap<String, Value> = outcome
            .documents
            .iter()
            .map(|(name, document)| (namespaces::key(&namespace, name), placed(document, &namespace)))
            .collect();
        let is_server = |document: &Value| base_model::kinds::listens(document["kind"].as_str().unwrap_or_default());
        let differs = |(key, document): &(&String, &Value)| {
            !objects.get(*key).is_some_and(|stored| is_stored(document, stored) && owner(stored) == parent)
        };
        let mut pipelines: Vec<&Value> = documents.iter().filter(differs).map(|(_, document)| document).collect();
        let servers: Vec<&Value> = pipelines.extract_if(.., |document| is_server(document)).collect();
        let mut gone: Vec<String> = objects
            .iter()
            .filter(|(key, stored)| !documents.contains_key(*key) && owner(stored) == parent)
            .map(|(key, _)| key.clone())
            .collect();
        // A server that goes leaves its port to one that comes.
        let gone_servers: Vec<String> =
            gone.extract_if(.., |key| objects.get(key).is_some_and(|d| is_server(d))).collect();
        self.put_documents(pipelines, Vec::new(), refused).await?;
        self.put_documents(servers, gone_servers, refused).await?;
        if refused.count > 0 {
            // A server that stays as it was leads on to what was there.
            return Ok(());
        }
        self.put_documents(Vec::new(), gone, refused).await?;
        self.put_servers(Vec::new(), deletes).await
    }

    /// In parts; of a part that is refused each half by itself, down to the documents that it is refused for: what one namespace asks for
    /// and cannot have keeps nothing from the others.
    async fn put_documents(
        &mut self,
        puts: Vec<&Value>,
        mut deletes: Vec<String>,
        refused: &mut Refused,
    ) -> Result<(), Refusal> {
        let mut parts: VecDeque<Vec<&Value>> = VecDeque::new();
        let mut bytes = 0;
        for document in puts {
            let length = document.to_string().len();
            match parts.back_mut() {
                Some(part) if part.len() < BATCH && bytes + length <= BATCH_BYTES => part.push(document),
                _ => {
                    parts.push_back(vec![document]);
                    bytes = 0;
                }
            }
            bytes += length;
        }
        while !parts.is_empty() || !deletes.is_empty() {
            let part = parts.pop_front().unwrap_or_default();
            let gone: Vec<String> = deletes.drain(..deletes.len().min(BATCH)).collect();
            match self.put_generated(&part, gone.clone()).await {
                Ok(()) => {}
                Err(refusal) if !matches!(refusal.kind, RefusalKind::Conflict | RefusalKind::Invalid) => {
                    return Err(refusal);
                }
                Err(_) if !gone.is_empty() && !part.is_empty() => {
                    self.put_generated(&[], gone).await?;
                    parts.push_front(part);
                }
                Err(refusal) if part.len() < 2 || refused.is_full() => refused.take(&part, &refusal),
                Err(_) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.push_front(second.to_vec());
                    parts.push_front(first.to_vec());
                }
            }
        }
        Ok(())
    }

    async fn put_generated(&mut self, puts: &[&Value], deletes: Vec<String>) -> Result<(), Refusal> {
        let changes = puts.len() + deletes.len();
        let action = Action::PutGenerated {
            owner: self.controller.name.clone(),
            fence: Some(self.controller.fence.clone()),
            puts: puts.iter().map(|put| Entry::new(Document::new(Value::clone(put)), Vec::new())).collect(),
            deletes,
        };
        self.controller.cluster.propose(action, &self.controller.name).await?;
        self.controller.board.update(&self.controller.name, |entry| entry.changes_total += changes as u64);
        Ok(())
    }

    /// Services whose servers are others than the cluster knows, and services that nobody asks for any more.
    fn servers(&mut self, outcome: &Outcome) -> (Vec<(String, Vec<Instance>)>, Vec<String>) {
        if self.servers_read.is_none_or(|read| read.elapsed() > SERVERS_READ_AGAIN) {
            self.servers = self.known_servers();
            self.servers_read = Some(Instant::now());
        }
        let wanted: BTreeSet<String> = outcome.services.union(&self.controller.wanted.borrow()).cloned().collect();
        let mut puts = Vec::new();
        for service in &wanted {
            // What cannot be told of it is told by whoever asks for it.
            let servers = ServiceName::parse(service).and_then(|name| endpoints::servers(&self.store, &name));
            let instances = servers.map(|servers| instances(&servers)).unwrap_or_default();
            if self.servers.get(service).map_or(!instances.is_empty(), |known| *known != instances) {
                puts.push((service.clone(), instances));
            }
        }
        let gone = self.servers.keys().filter(|service| !wanted.contains(*service));
        (puts, gone.cloned().collect())
    }

    fn known_servers(&self) -> BTreeMap<String, Vec<Instance>> {
        let state = self.controller.cluster.state();
        let prefix = format!("{}/", self.controller.name);
        let keys = state.view.sections.get(ENDPOINTS).cloned().unwrap_or_default();
        let own = keys.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        own.map(|(key, keyed)| (key[prefix.len()..].to_owned(), read(&keyed.value))).collect()
    }

    async fn put_servers(&mut self, puts: Vec<(String, Vec<Instance>)>, deletes: Vec<String>) -> Result<(), Refusal> {
        if puts.is_empty() && deletes.is_empty() {
            return Ok(());
        }
        let key = |service: &str| format!("{}/{service}", self.controller.name);
        let written =
            puts.iter().map(|(service, instances)| KeyPut::new(key(service), json!({"instances": instances})));
        let mut gone: Vec<String> = deletes.iter().map(|service| key(service)).collect();
        let mut parts = parts(written.collect());
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        for part in parts {
            let action = Action::PutKeys {
                section: ENDPOINTS.to_owned(),
                owner: self.controller.name.clone(),
                fence: Some(self.controller.fence.clone()),
                puts: part,
                deletes: std::mem::take(&mut gone),
            };
            self.controller.cluster.propose(action, &self.controller.name).await?;
        }
        let changes = puts.len() + deletes.len();
        self.controller.board.update(&self.controller.name, |entry| entry.changes_total += changes as u64);
        self.servers.extend(puts);
        deletes.iter().for_each(|service| drop(self.servers.remove(service)));
        Ok(())
    }
}

/// Documents that the cluster does not take, and why.
#[derive(Default)]
struct Refused {
    count: usize,
    told: Vec<String>,
}

impl Refused {
    fn take(&mut self, part: &[&Value], refusal: &Refusal) {
        self.count += part.len();
        if self.told.len() < REFUSED_TOLD {
            self.told.push(refusal.to_string());
        }
    }

    /// Which ones exactly is not looked for any more.
    fn is_full(&self) -> bool {
        self.count >= REFUSED_SOUGHT
    }

    /// In words, if there are any.
    fn told(&self) -> Option<String> {
        let why = self.told.join("; ");
        match self.count {
            0 => None,
            1 => Some(format!("a document that is made of it could not be written down: {why}")),
            count => Some(format!("{count} documents that are made of it could not be written down: {why}")),
        }
    }
}

/// As registries have them.
pub(crate) fn instances(servers: &[endpoints::Server]) -> Vec<Instance> {
    let records = servers.iter().map(|server| Record {
        id: format!("{}:{}", server.address, server.port),
        address: server.address.clone(),
        port: server.port,
        scheme: if server.https { "https" } else { "" }.to_owned(),
        ..Record::default()
    });
    judge(&Service { records: records.collect(), unread: Vec::new() }).instances
}

/// Where what this controller makes is kept. A cluster that has older members keeps it among what users write.
fn namespace_of(kind: &str, name: &str, level: u32) -> String {
    if level < NAMESPACES_LEVEL {
        return namespaces::DEFAULT_NAMESPACE.to_owned();
    }
    namespaces::of_controller(kind, name)
}

/// The document, which says where it is kept.
fn placed(document: &Value, namespace: &str) -> Value {
    let mut document = document.clone();
    if namespace != namespaces::DEFAULT_NAMESPACE {
        document["labels"] = json!({NAMESPACE_LABEL: namespace});
    }
    document
}

/// What the controller has made under this name, wherever that is kept.
pub(crate) fn made<'o>(
    objects: &'o BTreeMap<String, Document>,
    (kind, controller): (&str, &str),
    name: &str,
) -> Option<&'o Document> {
    let parent = format!("{kind}:{controller}");
    let keys = [namespaces::key(&namespaces::of_controller(kind, controller), name), name.to_owned()];
    keys.iter().filter_map(|key| objects.get(key)).find(|document| owner(document) == parent)
}

/// Whether the cluster has this document already: what it keeps beside it does not count.
fn is_stored(document: &Value, stored: &Value) -> bool {
    let (Some(fields), Some(stored)) = (document.as_object(), stored.as_object()) else { return false };
    let beside = ["version", "labels", "createdAt"];
    fields.iter().all(|(name, value)| beside.contains(&name.as_str()) || stored.get(name) == Some(value))
        && stored.keys().all(|name| fields.contains_key(name) || beside.contains(&name.as_str()))
}

/// Whether anybody answers, now and then: a watch says nothing while nothing changes.
async fn alive(api: Api, tell: mpsc::Sender<Said>) {
    let mut was_away = false;
    loop {
        let alive = api.alive().await.map_err(|error| error.told);
        if alive.is_err() {
            api.renew();
        } else if was_away {
            api.doubt_watches();
        }
        was_away = alive.is_err();
        if tell.send(Said::Alive(alive)).await.is_err() {
            return;
        }
        tokio::time::sleep(ALIVE_ASKED).await;
    }
}

/// Asks about a document once for each version of it.
struct Checked {
    checks: Arc<dyn Checks>,
    known: HashMap<String, (Value, Result<(), String>)>,
    used: BTreeSet<String>,
    /// Of certificates, by their secrets.
    names: HashMap<String, ((String, String), Vec<String>)>,
    names_used: BTreeSet<String>,
}

impl Checked {
    fn new(checks: Arc<dyn Checks>) -> Checked {
        Checked {
            checks,
            known: HashMap::new(),
            used: BTreeSet::new(),
            names: HashMap::new(),
            names_used: BTreeSet::new(),
        }
    }

    fn forget_unused(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.known.retain(|name, _| used.contains(name));
        let used = std::mem::take(&mut self.names_used);
        self.names.retain(|secret, _| used.contains(secret));
    }
}

impl Check for Checked {
    fn check(&mut self, document: &Value) -> Result<(), String> {
        let name = document["name"].as_str().unwrap_or_default();
        self.used.insert(name.to_owned());
        match self.known.get(name) {
            Some((known, result)) if known == document => result.clone(),
            _ => {
                let result = self.checks.check(document);
                self.known.insert(name.to_owned(), (document.clone(), result.clone()));
                result
            }
        }
    }

    fn names(&mut self, secret: &str, pair: &(String, String)) -> Vec<String> {
        if self.names.get(secret).is_none_or(|(known, _)| known != pair) {
            let names = names_of(&pair.0, &pair.1);
            self.names.insert(secret.to_owned(), (pair.clone(), names));
        }
        self.names_used.insert(secret.to_owned());
        self.names.get(secret).map(|(_, names)| names.clone()).unwrap_or_default()
    }
}

/// Whether an object's report deserves a warning.
pub(crate) fn warns(report: &Report) -> bool {
    report.grade() != Grade::Honoured
}

/// For people: what a document of ours is called in a remark.
pub(crate) fn named_in_words(name: &str) -> String {
    quoted(name).to_string()
}

/// What is heard while something is written.
const QUEUE: usize = 1024;
/// Documents written at once, and how many bytes, unless it is one document.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 512 << 10;
/// Pauses while it is not known where the API server is.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_secs(15);
/// Between two looks at the cluster's objects.
const LOOK: Duration = Duration::from_millis(500);
/// Between two writes at least, and how many times as long as the first of them took; a change that comes alone waits for nothing.
const REST: Duration = Duration::from_millis(20);
const RESTS_FOR: u32 = 2;
/// After a write that was not decided; no two writes are further apart.
const AGAIN: Duration = Duration::from_secs(1);
/// Somebody may have restored a backup.
const SERVERS_READ_AGAIN: Duration = Duration::from_secs(30);
const ALIVE_ASKED: Duration = Duration::from_secs(5);
const REMARKS_TOLD: usize = 16;
/// Of documents that the cluster does not take.
const REFUSED_TOLD: usize = 8;
/// So many are looked for one by one in a turn.
const REFUSED_SOUGHT: usize = 64;
