//! What controllers of Kubernetes's objects have in common: they watch the API server, have documents made of what is there, write those
//! and the servers of their services, and tell the API server what became of each object.
//!
//! What is made is decided by a [`Maker`], which knows neither time nor sockets. Nothing is written before everything has been listed
//! once: half of a list says nothing of the other half.
//!
//! Most of what changes in a cluster are pods that come and go: servers of services, which no document names. Those are written without
//! anything being made anew, and so is a status heard of that is the one that was told.

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
    /// Whether what is made depends on where the servers of services are.
    fn names_servers(&self, store: &Store) -> bool;
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
    pub documents: BTreeMap<String, Arc<Value>>,
    /// Services that the documents' pools ask for.
    pub services: BTreeSet<String>,
    pub reports: Arc<BTreeMap<(Kind, Key), Report>>,
    /// Statuses that are to be others than they are.
    pub statuses: BTreeMap<(Kind, Key), Value>,
    /// Servers that could not be made as they are to be: what there is of them stays, and what it leads to.
    pub kept: BTreeSet<String>,
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
    /// Services that what was made asks for, and those that were looked at last.
    services: BTreeSet<String>,
    looked_at: BTreeSet<String>,
    /// What was to be written of the servers of these, and is not known to be.
    unwritten_services: BTreeSet<Key>,
    /// Statuses that were to be others when something was made last, and are not yet.
    statuses: BTreeMap<(Kind, Key), Value>,
    /// Documents as they were made, and as the cluster has them, where that is the same.
    alike: HashMap<String, (Arc<Value>, Document)>,
    /// Something is to be made anew.
    stale: bool,
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
            services: BTreeSet::new(),
            looked_at: BTreeSet::new(),
            unwritten_services: BTreeSet::new(),
            statuses: BTreeMap::new(),
            alike: HashMap::new(),
            stale: true,
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
            if work.is_changed() {
                (dirty, work.stale) = (true, true);
            }
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
        let (name, board) = (self.controller.name.clone(), self.controller.board.clone());
        let changed = match said {
            Said::Heard(place, heard) => {
                if let Heard::Fault(why) = &heard {
                    self.faults += 1;
                    tracing::warn!(object = name, "{why}; what was known last is served on");
                }
                let first = matches!(heard, Heard::Listed(..));
                let told = self.was_told(&heard);
                let changes = self.store.hear(&place, heard);
                let of_servers =
                    |kind: Kind| kind == Kind::EndpointSlice && !self.controller.maker.names_servers(&self.store);
                self.stale |= first || !told && changes.iter().any(|(kind, _)| !of_servers(*kind));
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
                    board.update(&name, |entry| entry.untold = Some(why.clone()));
                }
                // What was heard meanwhile may have been planned for already; what is yet to be heard is planned for then.
                let written = |tell: &Tell| match tell {
                    Tell::Status { kind, key, version, .. } => {
                        self.store.get(*kind, key).is_some_and(|object| object.meta().resource_version != *version)
                    }
                    Tell::Event { .. } => false,
                };
                let again = why.is_none() && written(&what);
                self.stale |= again;
                again
            }
        };
        let fault = self.store.faults().next().map(str::to_owned).or_else(|| self.alive.clone());
        let faults = self.faults;
        board.update(&name, |entry| {
            if fault.is_none() {
                entry.last_good = Some(SystemTime::now());
            }
            entry.fault = fault;
            entry.faults_total = faults;
        });
        changed
    }

    /// Whether this is no more than the status that was told.
    fn was_told(&mut self, heard: &Heard) -> bool {
        let Heard::Put(object) = heard else { return false };
        let place = (object.kind(), object.key());
        let Some(was) = self.store.get(place.0, &place.1) else { return false };
        let told =
            object.differs_in_status(was) && self.statuses.get(&place).is_some_and(|wanted| object.has_status(wanted));
        if told {
            self.statuses.remove(&place);
        }
        told
    }

    /// Whether objects of the cluster that matter here are others than when they were looked at: those that were made here, and virtual
    /// addresses.
    fn is_changed(&mut self) -> bool {
        let state = self.controller.cluster.state();
        let (objects, level) = (&state.view.objects, state.level());
        let Some((seen, then)) = &self.seen else { return true };
        if *then == level && Arc::ptr_eq(seen, objects) {
            return false;
        }
        let parent = format!("{}:{}", self.controller.maker.kind(), self.controller.name);
        let matters = |document: &Document| owner(document) == parent || document["kind"] == "VirtualIP";
        let others = |some: &BTreeMap<String, Document>, than: &BTreeMap<String, Document>| {
            let differs = |name: &String, one: &Document| than.get(name).is_none_or(|other| !Arc::ptr_eq(one, other));
            some.iter().any(|(name, one)| differs(name, one) && matters(one))
        };
        let changed = *then != level || others(objects, seen) || others(seen, objects);
        if !changed {
            self.seen = Some((objects.clone(), level));
        }
        changed
    }

    /// Writes what is different. Says whether all of it is written.
    async fn act(&mut self) -> Result<bool, Deposed> {
        if !self.store.has_all(&self.controller.maker.places()) {
            return Ok(true);
        }
        if !self.stale && self.unwritten.is_none() {
            let (puts, deletes) = self.servers();
            let written = async {
                self.put_servers(puts, Vec::new()).await?;
                self.put_servers(Vec::new(), deletes).await
            };
            let written = written.await;
            let told = self.told(written, &Refused::default())?;
            self.unwritten = told.clone();
            self.tell_servers();
            return Ok(told.is_none());
        }
        // What is not written down now is looked at anew the next time.
        self.stale = false;
        let state = self.controller.cluster.state();
        let (objects, level) = (state.view.objects.clone(), state.level());
        let now = rfc3339(SystemTime::now());
        let seen = Seen { store: &self.store, objects: &objects, check: &mut self.checked, now: &now };
        let outcome = self.controller.maker.make(seen);
        self.checked.forget_unused();
        self.seen = Some((objects.clone(), level));
        self.services.clone_from(&outcome.services);
        self.statuses.clone_from(&outcome.statuses);
        let mut refused = Refused::default();
        let written = self.write(&objects, level, &outcome, &mut refused).await;
        let told = self.told(written, &refused)?;
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

    /// What is told of how the writing went, in words, where that was not well.
    fn told(&self, written: Result<(), Refusal>, refused: &Refused) -> Result<Option<String>, Deposed> {
        match written {
            Ok(()) => Ok(refused.told()),
            Err(refusal) if refusal.kind == RefusalKind::Stale => {
                self.controller.board.fenced_out();
                tracing::info!(object = self.controller.name, %refusal, "another member leads");
                Err(Deposed)
            }
            Err(refusal) => Ok(Some(format!("what is made of it could not be written down: {refusal}"))),
        }
    }

    fn tell_servers(&self) {
        let instances = self.servers.iter().map(|(service, servers)| (service.clone(), servers.len()));
        self.controller.board.update(&self.controller.name, |entry| entry.instances = instances.collect());
    }

    fn report(&self, outcome: &Outcome, unwritten: Option<String>) {
        let mut remarks = outcome.remarks.clone();
        let unread = self.store.unread().map(|(kind, key, why)| format!("{kind} {key} cannot be read: {why}"));
        remarks.extend(unread.take(REMARKS_TOLD));
        remarks.extend(unwritten);
        let mut states: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for ((kind, _), report) in &*outcome.reports {
            *states.entry((kind.name(), report.grade().word())).or_default() += 1;
        }
        let states = states.into_iter().map(|((kind, state), count)| ((kind.to_owned(), state.to_owned()), count));
        self.controller.board.update(&self.controller.name, |entry| {
            entry.remarks = remarks;
            entry.states = states.collect();
            entry.reports = outcome.reports.clone();
        });
        self.tell_servers();
    }

    /// Servers come before whoever asks for them, pipelines before whoever leads to them; what goes, goes in the other order.
    async fn write(
        &mut self,
        objects: &BTreeMap<String, Document>,
        level: u32,
        outcome: &Outcome,
        refused: &mut Refused,
    ) -> Result<(), Refusal> {
        let (puts, deletes) = self.servers();
        self.put_servers(puts, Vec::new()).await?;
        let (kind, name) = (self.controller.maker.kind(), self.controller.name.as_str());
        let parent = format!("{kind}:{name}");
        let namespace = namespace_of(kind, name, level);
        let documents: BTreeMap<String, &Arc<Value>> =
            outcome.documents.iter().map(|(name, document)| (namespaces::key(&namespace, name), document)).collect();
        // What is as it was is not compared again.
        let alike = std::mem::take(&mut self.alike);
        let is_server = |document: &Value| base_model::kinds::listens(document["kind"].as_str().unwrap_or_default());
        let mut same = HashMap::new();
        let mut differs = |(key, document): &(&String, &&Arc<Value>)| {
            let Some(stored) = objects.get(*key).filter(|stored| owner(stored) == parent) else { return true };
            let is_known =
                alike.get(*key).is_some_and(|(made, then)| Arc::ptr_eq(made, document) && Arc::ptr_eq(then, stored));
            if !is_known && !is_stored(document, stored) {
                return true;
            }
            same.insert((*key).clone(), (Arc::clone(**document), stored.clone()));
            false
        };
        let mut pipelines: Vec<Document> = documents
            .iter()
            .filter(&mut differs)
            .map(|(_, document)| Document::new(placed(document, &namespace)))
            .collect();
        let servers: Vec<Document> = pipelines.extract_if(.., |document| is_server(document)).collect();
        self.alike = same;
        let kept: BTreeSet<String> = outcome.kept.iter().map(|name| namespaces::key(&namespace, name)).collect();
        let mut gone: Vec<String> = objects
            .iter()
            .filter(|(key, stored)| !documents.contains_key(*key) && owner(stored) == parent)
            .map(|(key, _)| key.clone())
            .collect();
        let gone_servers: Vec<String> =
            gone.extract_if(.., |key| objects.get(key).is_some_and(|d| is_server(d))).collect();
        // A server that goes leaves its port to one that comes, in the same change; others go by themselves.
        let (servers, left) = paired(servers, gone_servers.into_iter().filter(|key| !kept.contains(key)), objects);
        self.put_documents(pipelines.into_iter().map(|document| (document, Vec::new())).collect(), refused).await?;
        self.put_documents(servers, refused).await?;
        self.delete_documents(left).await?;
        if refused.count > 0 || !kept.is_empty() {
            // A server that stays as it was leads on to what was there.
            return Ok(());
        }
        self.delete_documents(gone).await?;
        self.put_servers(Vec::new(), deletes).await
    }

    async fn delete_documents(&mut self, gone: Vec<String>) -> Result<(), Refusal> {
        for part in gone.chunks(BATCH) {
            self.put_generated(&[], part.to_vec()).await?;
        }
        Ok(())
    }

    /// In parts, each document with what goes when it comes; of a part that is refused each half by itself, down to the documents that it
    /// is refused for: what one namespace asks for and cannot have keeps nothing from the others.
    async fn put_documents(&mut self, puts: Vec<Put>, refused: &mut Refused) -> Result<(), Refusal> {
        let mut parts: VecDeque<Vec<Put>> = VecDeque::new();
        let mut bytes = 0;
        for put in puts {
            let length = length_of(&put.0);
            match parts.back_mut() {
                Some(part) if part.len() < BATCH && bytes + length <= BATCH_BYTES => part.push(put),
                _ => {
                    parts.push_back(vec![put]);
                    bytes = 0;
                }
            }
            bytes += length;
        }
        while let Some(part) = parts.pop_front() {
            let documents: Vec<Document> = part.iter().map(|(document, _)| document.clone()).collect();
            let gone = part.iter().flat_map(|(_, gone)| gone).cloned().collect();
            match self.put_generated(&documents, gone).await {
                Ok(()) => {}
                Err(refusal) if !matches!(refusal.kind, RefusalKind::Conflict | RefusalKind::Invalid) => {
                    return Err(refusal);
                }
                Err(refusal) if part.len() < 2 || refused.is_full() => refused.take(part.len(), &refusal),
                Err(_) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.push_front(second.to_vec());
                    parts.push_front(first.to_vec());
                }
            }
        }
        Ok(())
    }

    async fn put_generated(&mut self, puts: &[Document], deletes: Vec<String>) -> Result<(), Refusal> {
        let changes = puts.len() + deletes.len();
        let action = Action::PutGenerated {
            owner: self.controller.name.clone(),
            fence: Some(self.controller.fence.clone()),
            puts: puts.iter().map(|put| Entry::new(put.clone(), Vec::new())).collect(),
            deletes,
            keys: Vec::new(),
        };
        self.controller.cluster.propose(action, &self.controller.name).await?;
        self.controller.board.update(&self.controller.name, |entry| entry.changes_total += changes as u64);
        Ok(())
    }

    /// Services whose servers are others than the cluster knows, and services that nobody asks for any more.
    fn servers(&mut self) -> (Vec<(String, Vec<Instance>)>, Vec<String>) {
        let mut touched = self.store.take_touched();
        if self.servers_read.is_none_or(|read| read.elapsed() > SERVERS_READ_AGAIN) {
            self.servers = self.known_servers();
            self.servers_read = Some(Instant::now());
            self.looked_at.clear();
        }
        touched.append(&mut self.unwritten_services);
        let asked = self.controller.wanted.borrow().clone();
        let wanted: BTreeSet<String> = self.services.union(&asked).cloned().collect();
        let (mut puts, mut lacking) = (Vec::new(), Vec::new());
        for service in &wanted {
            let name = ServiceName::parse(service);
            let is_touched = name.as_ref().is_ok_and(|name| touched.contains(&name.service));
            if !is_touched && self.looked_at.contains(service) {
                continue;
            }
            let servers = name.and_then(|name| endpoints::servers(&self.store, &name));
            // Of what an object of Kubernetes asks for it is told with that.
            let told = servers.as_ref().err().filter(|_| asked.contains(service)).cloned();
            lacking.push((service.clone(), told));
            let instances = servers.map(|servers| instances(&servers)).unwrap_or_default();
            if self.servers.get(service).map_or(!instances.is_empty(), |known| *known != instances) {
                puts.push((service.clone(), instances));
            }
        }
        let gone = self.servers.keys().filter(|service| !wanted.contains(*service)).cloned().collect();
        self.unwritten_services =
            puts.iter().filter_map(|(service, _)| Some(ServiceName::parse(service).ok()?.service)).collect();
        self.controller.board.update(&self.controller.name, |entry| {
            entry.refused.retain(|service, _| wanted.contains(service));
            for (service, told) in lacking {
                match told {
                    Some(why) => drop(entry.refused.insert(service, vec![why])),
                    None => drop(entry.refused.remove(&service)),
                }
            }
        });
        self.looked_at = wanted;
        (puts, gone)
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
        for (service, _) in &puts {
            if let Ok(name) = ServiceName::parse(service) {
                self.unwritten_services.remove(&name.service);
            }
        }
        self.servers.extend(puts);
        deletes.iter().for_each(|service| drop(self.servers.remove(service)));
        Ok(())
    }
}

/// A document, and what goes when it comes.
type Put = (Document, Vec<String>);

/// Servers with those that they take the place of, since they listen on the same port; and what else goes.
fn paired(
    servers: Vec<Document>,
    gone: impl Iterator<Item = String>,
    objects: &BTreeMap<String, Document>,
) -> (Vec<Put>, Vec<String>) {
    let mut servers: Vec<Put> = servers.into_iter().map(|server| (server, Vec::new())).collect();
    let mut left = Vec::new();
    for key in gone {
        let port = objects.get(&key).and_then(|document| document["port"].as_u64());
        match servers.iter_mut().find(|(server, _)| port.is_some() && server["port"].as_u64() == port) {
            Some((_, goes)) => goes.push(key),
            None => left.push(key),
        }
    }
    (servers, left)
}

/// Documents that the cluster does not take, and why.
#[derive(Default)]
struct Refused {
    count: usize,
    told: Vec<String>,
}

impl Refused {
    fn take(&mut self, documents: usize, refusal: &Refusal) {
        self.count += documents;
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

/// How many bytes its text has.
fn length_of(document: &Value) -> usize {
    struct Counted(usize);
    impl std::io::Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counted = Counted(0);
    // Nothing of a document cannot be written, and counting does not fail.
    let _ = serde_json::to_writer(&mut counted, document);
    counted.0
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

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, port: u16) -> Document {
        Document::new(json!({"name": name, "kind": "HTTPServer", "port": port}))
    }

    #[test]
    fn a_server_goes_with_the_one_that_takes_its_port_and_with_no_other() {
        let objects: BTreeMap<String, Document> =
            [("old", 80), ("other", 81), ("last", 82)].map(|(name, port)| (name.to_owned(), server(name, port))).into();
        let gone = ["old", "other", "last"].map(str::to_owned).into_iter();
        let (puts, left) = paired(vec![server("a", 443), server("b", 80), server("c", 82)], gone, &objects);
        let goes: Vec<Vec<String>> = puts.into_iter().map(|(_, goes)| goes).collect();
        assert_eq!(goes, [vec![], vec!["old".to_owned()], vec!["last".to_owned()]]);
        assert_eq!(left, ["other"]);
    }

    #[test]
    fn a_document_is_as_long_as_its_text() {
        let document = json!({"name": "ä\"", "list": [1, 2.5, null, {"a": true}]});
        assert_eq!(length_of(&document), document.to_string().len());
    }
}
