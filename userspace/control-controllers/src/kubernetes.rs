//! What controllers of Kubernetes's objects have in common: they watch the API server, have documents made of what is there, write those
//! and the servers of their services, and tell the API server what became of each object.
//!
//! What is made is decided by a [`Maker`], which knows neither time nor sockets. Nothing is written before everything has been listed
//! once: half of a list says nothing of the other half.
//!
//! Most of what changes in a cluster are pods that come and go: servers of services, which no document names. Those are written without
//! anything being made anew, and so is a status heard of that is the one that was told.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base_model::namespaces;
use base_text::quoted;
use control_api::time::rfc3339;
use control_api::{Document, ENDPOINTS, NAMESPACE_LABEL, Objects, RULES, Refusal, RefusalKind};
use control_kubernetes::endpoints::{self, ServiceName};
use control_kubernetes::ingress::{Check, Pipelines, Reports, Rules, Services, names_of};
use control_kubernetes::reflect::{Heard, Place, reflect};
use control_kubernetes::report::{Grade, Report, Statuses};
use control_kubernetes::{Api, ApiError, Key, Kind, Store};
use control_registries::Wanted;
use control_registries::record::{Instance, Record, Service, judge};
use control_state::{
    Action, Command, Entry, FIRST_LEVEL, Fence, KeyPut, NAMESPACES_LEVEL, RULES_LEVEL, SectionPut, State, owner,
};
use imbl::ordmap::DiffItem;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::board::{Board, Moment};
use crate::host::{Cluster, Deposed};
use crate::pause::Pause;
use crate::service_registry::read;
use crate::tell::{Tell, Teller};
use crate::telling::Went;
use crate::writes::{self, Alike, Write, whole};

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
    pub objects: &'s Objects,
    pub check: &'s mut dyn Check,
    /// RFC 3339.
    pub now: &'s str,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// By name. Servers come after what they lead to, whatever their names are.
    pub documents: BTreeMap<String, Arc<Value>>,
    /// Further ones that are no servers. What is as it was is the very same in memory, here and below.
    pub pipelines: Pipelines,
    /// Of servers whose rules are not in their documents, by their names.
    pub rules: BTreeMap<String, Rules>,
    /// Services that the documents' pools ask for.
    pub services: Services,
    pub reports: Reports,
    /// Statuses that are to be others than they are.
    pub statuses: Statuses,
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
    Untold(Tell, Option<ApiError>),
}

/// What one controller keeps.
struct Work<C> {
    controller: Controller<C>,
    store: Store,
    checked: Checked,
    /// What the cluster knows of its services, as it was written last.
    servers: BTreeMap<String, Vec<Instance>>,
    servers_read: Option<Instant>,
    /// Services whose servers people are not told of as they are now; absent: all of them.
    untold: Option<Vec<String>>,
    /// What people were told of last, and how much of it there is.
    reported: (Reports, BTreeMap<(Kind, Grade), usize>),
    /// Services that what was made asks for, and what of it is there still, and those that were looked at last.
    services: Services,
    looked_at: Services,
    /// What was to be written of the servers of these, and is not known to be.
    unwritten_services: BTreeSet<Key>,
    /// Statuses that were to be others when something was made last, and are not yet.
    statuses: Statuses,
    alike: Alike,
    /// Something is to be made anew.
    stale: bool,
    /// What was made last leaves servers as they were.
    keeps: bool,
    /// Objects as they were looked at last, and the cluster's feature level then.
    seen: Option<(Objects, u32)>,
    teller: Teller,
    /// When what could not be told is told again, whatever else changes.
    tell_again: Option<Instant>,
    /// Longer each time, until something that was told is heard of.
    tell_pause: Pause,
    /// When it was logged last that statuses of a kind, or events of it, could not be told, by what the API server answered.
    warned: BTreeMap<(Kind, bool, u16), Instant>,
    faults: u64,
    alive: Option<String>,
    /// What could not be written the last time.
    unwritten: Option<String>,
    /// Something was to be written in this turn.
    wrote: bool,
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
        let (untold, counted, object) = (tell.clone(), board.clone(), name.clone());
        let (teller, telling) = Teller::new(api, move |went| {
            counted.tells(&object, &went);
            let untold = untold.clone();
            async move {
                if let Went::Untold(what, why) = went {
                    drop(untold.send(Said::Untold(what, why)).await);
                }
            }
        });
        tasks.spawn(telling);
        let mut work = Work::new(self, teller);
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
            if work.is_changed() || work.tells_again() {
                (dirty, work.stale) = (true, true);
            }
            if !dirty || Instant::now() < not_before {
                continue;
            }
            let begun = Instant::now();
            work.wrote = false;
            let acted = work.act().await;
            // Where nothing was written nobody else has anything to do with it.
            let least = if work.wrote { REST } else { Duration::ZERO };
            not_before = Instant::now() + least.max(begun.elapsed() * RESTS_FOR).min(AGAIN);
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
    fn new(controller: Controller<C>, teller: Teller) -> Work<C> {
        Work {
            checked: Checked::new(controller.checks.clone()),
            controller,
            store: Store::default(),
            servers: BTreeMap::new(),
            servers_read: None,
            untold: None,
            reported: Default::default(),
            services: Services::default(),
            looked_at: Services::default(),
            unwritten_services: BTreeSet::new(),
            statuses: Statuses::default(),
            alike: Alike::default(),
            stale: true,
            keeps: false,
            seen: None,
            teller,
            tell_again: None,
            tell_pause: Pause::new(TELL_AGAIN, TELL_AGAIN_AT_LAST),
            warned: BTreeMap::new(),
            faults: 0,
            alive: None,
            unwritten: None,
            wrote: false,
        }
    }

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
                // A status that is as it was told leaves nothing to do, and what comes after it waits for no rest.
                !told && !changes.is_empty() || first
            }
            Said::Alive(alive) => {
                if let Err(why) = &alive
                    && self.alive.as_ref() != Some(why)
                {
                    self.faults += 1;
                    tracing::warn!(object = name, "{why}; what was known last is served on");
                }
                if alive.is_ok() && self.alive.is_some() && self.tell_again.is_some() {
                    // What was handed back because nobody answered waits for nothing else.
                    self.tell_again = Some(Instant::now());
                    self.tell_pause.reset();
                }
                self.alive = alive.err();
                false
            }
            Said::Untold(what, why) => {
                self.teller.forget(&what);
                if let Some(why) = &why {
                    // A right that is lacking is so for each of ten thousand, and one of them is told of.
                    let of = (what.of().0, matches!(what, Tell::Status { .. }), why.status);
                    let now = Instant::now();
                    let warned = self.warned.insert(of, now);
                    match warned.filter(|warned| now - *warned < WARNED_AGAIN) {
                        Some(warned) => drop(self.warned.insert(of, warned)),
                        None => {
                            tracing::warn!(
                                object = name,
                                "{why}; others of its kind may be untold for the same reason, and all are told again later"
                            );
                            self.faults += 1;
                        }
                    }
                    board.update(&name, |entry| entry.untold = Some(why.told.clone()));
                    // Somebody may give the right that was lacking, and nothing else would say so.
                    let pause = &mut self.tell_pause;
                    self.tell_again.get_or_insert_with(|| now + pause.take());
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
                entry.last_good = Some(Moment::now());
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
        let told = object.differs_in_status(was)
            && self.statuses.get(&place).is_some_and(|wanted| object.has_status(&wanted.read()));
        if told {
            self.statuses.remove(&place);
            // Somebody who makes it another one is told the same again, whether or not anything was made in between.
            self.teller.forget_status(place.0, &place.1);
            self.tell_pause.reset();
        }
        told
    }

    /// Whether objects of the cluster that matter here are others than when they were looked at: those that were made here, and virtual
    /// addresses.
    fn is_changed(&mut self) -> bool {
        let state = self.controller.cluster.state();
        let (objects, level) = (&state.view.objects, state.level());
        let Some((seen, then)) = &self.seen else { return true };
        if *then == level && seen.ptr_eq(objects) {
            return false;
        }
        let parent = format!("{}:{}", self.controller.maker.kind(), self.controller.name);
        let matters = |document: &Document| owner(document) == parent || document["kind"] == "VirtualIP";
        let others = seen.diff(objects).any(|item| match item {
            DiffItem::Add(_, one) | DiffItem::Remove(_, one) => matters(one),
            DiffItem::Update { old, new } => matters(old.1) || matters(new.1),
        });
        let changed = *then != level || others;
        if !changed {
            self.seen = Some((objects.clone(), level));
        }
        changed
    }

    /// Whether it is time to tell again what could not be told.
    fn tells_again(&mut self) -> bool {
        self.tell_again.take_if(|again| *again <= Instant::now()).is_some()
    }

    /// Writes what is different. Says whether all of it is written.
    async fn act(&mut self) -> Result<bool, Deposed> {
        if !self.store.has_all(&self.controller.maker.places()) {
            return Ok(true);
        }
        if !self.stale && self.unwritten.is_none() {
            let (mut writes, gone) = self.servers();
            writes.extend(gone.into_iter().filter(|_| !self.keeps));
            let mut refused = Refused::default();
            let written = self.put(writes, FIRST_LEVEL, &mut refused).await;
            let told = self.told(written, &refused)?;
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
        self.keeps = !outcome.kept.is_empty();
        let was_unwritten = self.unwritten.is_some();
        if self.keeps || was_unwritten {
            self.services.extend(self.services_there(&objects));
        }
        self.statuses.clone_from(&outcome.statuses);
        let mut refused = Refused::default();
        let written = self.write(&state, &outcome, &mut refused).await;
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
        if !self.teller.tell(&self.store, &outcome) {
            self.tell_again = Some(Instant::now() + AGAIN);
        }
        let is_over = was_unwritten && told.is_none() && !self.keeps;
        if is_over {
            // Nothing is there any more of what was made before; its services go in the next turn.
            self.services = outcome.services;
        }
        Ok(told.is_none() && !is_over)
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

    fn tell_servers(&mut self) {
        let (servers, untold) = (&self.servers, self.untold.replace(Vec::new()));
        self.controller.board.update(&self.controller.name, |entry| match untold {
            None => entry.instances = servers.iter().map(|(name, servers)| (name.clone(), servers.len())).collect(),
            Some(untold) => {
                for name in untold {
                    match servers.get(&name) {
                        Some(servers) => drop(entry.instances.insert(name, servers.len())),
                        None => drop(entry.instances.remove(&name)),
                    }
                }
            }
        });
    }

    /// Counts what is another than it was when people were told last.
    fn count(&mut self, reports: &Reports) {
        let (before, counts) = &mut self.reported;
        for item in before.diff(reports) {
            let (was, now) = match item {
                DiffItem::Add(key, now) => (None, Some((key.0, now))),
                DiffItem::Update { old: (key, was), new: (_, now) } => (Some((key.0, was)), Some((key.0, now))),
                DiffItem::Remove(key, was) => (Some((key.0, was)), None),
            };
            if let Some((kind, report)) = was {
                *counts.entry((kind, report.grade())).or_insert(1) -= 1;
            }
            if let Some((kind, report)) = now {
                *counts.entry((kind, report.grade())).or_default() += 1;
            }
        }
        counts.retain(|_, count| *count > 0);
        before.clone_from(reports);
    }

    fn report(&mut self, outcome: &Outcome, unwritten: Option<String>) {
        let mut remarks = outcome.remarks.clone();
        let unread = self.store.unread().map(|(kind, key, why)| format!("{kind} {key} cannot be read: {why}"));
        remarks.extend(unread.take(REMARKS_TOLD));
        remarks.extend(unwritten);
        self.count(&outcome.reports);
        let counts = self.reported.1.iter();
        let states = counts.map(|((kind, grade), count)| ((kind.name().to_owned(), grade.word().to_owned()), *count));
        self.controller.board.update(&self.controller.name, |entry| {
            entry.remarks = remarks;
            // It is told again now, or it is not to be told any more.
            entry.untold = None;
            entry.states = states.collect();
            entry.reports = outcome.reports.clone();
        });
        self.tell_servers();
    }

    /// Servers come before whoever asks for them, pipelines before whoever leads to them; what goes, goes in the other order.
    async fn write(&mut self, state: &State, outcome: &Outcome, refused: &mut Refused) -> Result<(), Refusal> {
        let (objects, level) = (&state.view.objects, state.level());
        let (mut first, gone_services) = self.servers();
        let (kind, name) = (self.controller.maker.kind(), self.controller.name.as_str());
        let parent = format!("{kind}:{name}");
        let namespace = namespace_of(kind, name, level);
        let mut documents = outcome.documents.clone();
        let apart = level >= RULES_LEVEL;
        if !apart {
            for (server, rules) in &outcome.rules {
                documents.entry(server.clone()).and_modify(|document| *document = Arc::new(whole(document, rules)));
            }
        }
        let is_server = |document: &Value| base_model::kinds::listens(document["kind"].as_str().unwrap_or_default());
        let writes::Documents { servers, pipelines, mut gone } =
            writes::documents(objects, (&parent, &namespace), &documents, &outcome.pipelines, &mut self.alike);
        let kept: BTreeSet<String> = outcome.kept.iter().map(|name| namespaces::key(&namespace, name)).collect();
        let gone_servers: Vec<String> =
            gone.extract_if(.., |key| objects.get(key).is_some_and(|d| is_server(d))).collect();
        // A server that goes leaves its port to one that comes, in the same change; others go by themselves.
        let (mut servers, left) = paired(servers, gone_servers.into_iter().filter(|key| !kept.contains(key)), objects);
        first.extend(pipelines.into_iter().map(|document| Write::Pipeline(document.clone())));
        if apart {
            // A server that cannot be as it is to be stays as it was, and so do its rules, which come before it.
            let stored = state.view.sections.get(RULES);
            let (mut stays, mut rules) = (outcome.kept.clone(), outcome.rules.clone());
            let refused_now;
            (servers, refused_now) = self.tried(state, servers, &namespace, refused)?;
            rules.retain(|server, _| !refused_now.contains(server));
            stays.extend(refused_now);
            first.extend(writes::rules(stored, (name, &namespace), &rules, &stays));
        }
        first.extend(servers.into_iter().map(|(document, goes)| Write::Server(document, goes)));
        first.extend(left.into_iter().map(Write::NoDocument));
        self.alike.tidy(outcome.documents.len() + outcome.pipelines.len());
        // A server that stays as it was leads on to what was there.
        let mut last: Vec<Write> =
            if kept.is_empty() { gone.into_iter().map(Write::NoDocument).collect() } else { Vec::new() };
        last.extend(gone_services.into_iter().filter(|_| kept.is_empty()));
        if apart && refused.count == 0 && !last.is_empty() && first.len() + last.len() <= BATCH {
            // Few changes are one, unless something of it cannot be.
            let all = [&first[..], &last[..]].concat();
            match self.propose(&all, level).await {
                Err(refusal) if is_of_one(&refusal) => {}
                done => return done,
            }
        }
        self.put(first, level, refused).await?;
        if refused.count > 0 {
            return Ok(());
        }
        self.put(last, level, refused).await
    }

    /// Servers that the cluster takes as they are, and names of those that it does not: asked of the state that is known here.
    fn tried(
        &self,
        state: &State,
        servers: Vec<Put>,
        namespace: &str,
        refused: &mut Refused,
    ) -> Result<(Vec<Put>, BTreeSet<String>), Refusal> {
        let (mut taken, mut names, mut tries) = (Vec::new(), BTreeSet::new(), 0);
        let mut after = state.readable();
        let mut parts = VecDeque::from([servers]);
        while let Some(mut part) = parts.pop_front() {
            if part.is_empty() {
                continue;
            }
            tries += 1;
            let action = Action::PutGenerated {
                owner: self.controller.name.clone(),
                fence: None,
                puts: part.iter().map(|(server, _)| entry(Value::clone(server), namespace)).collect(),
                deletes: part.iter().flat_map(|(_, goes)| goes.clone()).collect(),
                keys: Vec::new(),
            };
            match after.apply(Command { request: tries, now: String::new(), action, by: None }).answer {
                Ok(_) => taken.extend(part),
                Err(refusal) if !is_of_one(&refusal) => return Err(refusal),
                Err(refusal) if part.len() < 2 => {
                    refused.take(1, &refusal);
                    names.extend(part.iter().filter_map(|(server, _)| server["name"].as_str().map(str::to_owned)));
                }
                Err(_) => {
                    let second = part.split_off(part.len() / 2);
                    parts.push_front(second);
                    parts.push_front(part);
                }
            }
        }
        Ok((taken, names))
    }

    /// In parts; of a part that is refused each half by itself, down to what it is refused for: what one namespace asks for and cannot have
    /// keeps nothing from the others.
    async fn put(&mut self, writes: Vec<Write>, level: u32, refused: &mut Refused) -> Result<(), Refusal> {
        let mut parts: VecDeque<Vec<Write>> = VecDeque::new();
        let mut bytes = 0;
        for write in writes {
            let length = write.length();
            match parts.back_mut() {
                Some(part) if part.len() < BATCH && bytes + length <= BATCH_BYTES => part.push(write),
                _ => {
                    parts.push_back(vec![write]);
                    bytes = 0;
                }
            }
            bytes += length;
        }
        while let Some(mut part) = parts.pop_front() {
            match self.propose(&part, level).await {
                Ok(()) => {}
                Err(refusal) if !is_of_one(&refusal) => return Err(refusal),
                Err(refusal) if part.len() < 2 || refused.is_full() => refused.take(part.len(), &refusal),
                Err(_) => {
                    let second = part.split_off(part.len() / 2);
                    parts.push_front(second);
                    parts.push_front(part);
                }
            }
        }
        Ok(())
    }

    /// As one change, where members of this level understand that.
    async fn propose(&mut self, part: &[Write], level: u32) -> Result<(), Refusal> {
        let name = self.controller.name.clone();
        let namespace = namespace_of(self.controller.maker.kind(), &name, level);
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        let section = |name: &str| SectionPut { section: name.to_owned(), ..SectionPut::default() };
        let (mut endpoints, mut rules) = (section(ENDPOINTS), section(RULES));
        let service_key = |service: &str| format!("{name}/{service}");
        for write in part {
            match write {
                Write::Servers(service, instances) => {
                    endpoints.puts.push(KeyPut::new(service_key(service), json!({"instances": instances})));
                }
                Write::NoServers(service) => endpoints.deletes.push(service_key(service)),
                Write::Pipeline(document) => puts.push(entry(document.read(), &namespace)),
                Write::Server(document, goes) => {
                    puts.push(entry(Value::clone(document), &namespace));
                    deletes.extend(goes.iter().cloned());
                }
                Write::NoDocument(key) => deletes.push(key.clone()),
                Write::Rule(key, rule) => rules.puts.push(KeyPut::new(key.clone(), rule.read())),
                Write::NoRule(key) => rules.deletes.push(key.clone()),
            }
        }
        let is_none = |section: &SectionPut| section.puts.is_empty() && section.deletes.is_empty();
        let (owner, fence) = (name.clone(), Some(self.controller.fence.clone()));
        let keys = |puts: Vec<KeyPut>, deletes: Vec<String>| {
            let (section, owner, fence) = (ENDPOINTS.to_owned(), owner.clone(), fence.clone());
            (!puts.is_empty() || !deletes.is_empty()).then_some(Action::PutKeys {
                section,
                owner,
                fence,
                puts,
                deletes,
            })
        };
        let documents = |puts: Vec<Entry>, deletes: Vec<String>, keys: Vec<SectionPut>| Action::PutGenerated {
            owner: owner.clone(),
            fence: fence.clone(),
            puts,
            deletes,
            keys,
        };
        let has_documents = !puts.is_empty() || !deletes.is_empty();
        let actions: Vec<Action> = if !has_documents && is_none(&rules) {
            keys(endpoints.puts, endpoints.deletes).into_iter().collect()
        } else if level >= RULES_LEVEL {
            let keys = [endpoints, rules].into_iter().filter(|section| !is_none(section)).collect();
            vec![documents(puts, deletes, keys)]
        } else {
            let between = has_documents.then(|| documents(puts, deletes, Vec::new()));
            let (before, after) = (keys(endpoints.puts, Vec::new()), keys(Vec::new(), endpoints.deletes));
            [before, between, after].into_iter().flatten().collect()
        };
        self.wrote |= !actions.is_empty();
        for action in actions {
            self.controller.cluster.propose(action, &name).await?;
        }
        let with_it = |write: &Write| if let Write::Server(_, goes) = write { goes.len() } else { 0 };
        let changes: usize = part.len() + part.iter().map(with_it).sum::<usize>();
        self.controller.board.update(&name, |entry| entry.changes_total += changes as u64);
        for write in part {
            match write {
                Write::Servers(service, instances) => {
                    if let Ok(name) = ServiceName::parse(service) {
                        self.unwritten_services.remove(&name.service);
                    }
                    self.servers.insert(service.clone(), instances.clone());
                    self.untold.iter_mut().for_each(|untold| untold.push(service.clone()));
                }
                Write::NoServers(service) => {
                    self.servers.remove(service);
                    self.untold.iter_mut().for_each(|untold| untold.push(service.clone()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Services whose servers are others than the cluster knows, and services that nobody asks for any more.
    fn servers(&mut self) -> (Vec<Write>, Vec<Write>) {
        let mut touched = self.store.take_touched();
        if self.servers_read.is_none_or(|read| read.elapsed() > SERVERS_READ_AGAIN) {
            self.servers = self.known_servers();
            (self.servers_read, self.untold) = (Some(Instant::now()), None);
            self.looked_at = Services::default();
        }
        touched.append(&mut self.unwritten_services);
        let asking = self.controller.wanted.clone();
        let asked = asking.borrow();
        // Pools of what was made here ask as well.
        let mut wanted = self.services.clone();
        asked.iter().for_each(|service| drop(wanted.insert(service.clone())));
        // Those that nobody asked for before, and those whose servers may be others.
        let new = self.looked_at.diff(&wanted).filter_map(|item| match item {
            imbl::ordset::DiffItem::Add(service) => Some(service),
            _ => None,
        });
        let mut looked_for: BTreeSet<&String> = new.collect();
        for service in &touched {
            for prefix in ["", "https://"].map(|scheme| format!("{scheme}{service}:")) {
                let named = wanted.range(prefix.clone()..).take_while(|name| name.starts_with(&prefix));
                looked_for.extend(named);
            }
        }
        let (mut puts, mut lacking, mut unwritten) = (Vec::new(), Vec::new(), BTreeSet::new());
        for service in looked_for {
            let name = ServiceName::parse(service);
            let servers = name.clone().and_then(|name| endpoints::servers(&self.store, &name));
            // Of what an object of Kubernetes asks for it is told with that.
            let told = servers.as_ref().err().filter(|_| asked.contains(service)).cloned();
            lacking.push((service.clone(), told));
            let instances = servers.map(|servers| instances(&servers)).unwrap_or_default();
            if self.servers.get(service).map_or(!instances.is_empty(), |known| *known != instances) {
                unwritten.extend(name.ok().map(|name| name.service));
                puts.push(Write::Servers(service.clone(), instances));
            }
        }
        // Both are in the same order.
        let mut still = wanted.iter().peekable();
        let is_gone = |service: &&String| {
            while still.next_if(|wanted| wanted < service).is_some() {}
            still.peek() != Some(service)
        };
        let gone = self.servers.keys().filter(is_gone).cloned().map(Write::NoServers).collect();
        self.unwritten_services = unwritten;
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

    /// Services that what was made before asks for, as far as the cluster has it: what stays as it was leads on to their servers.
    fn services_there(&self, objects: &Objects) -> BTreeSet<String> {
        let name = &self.controller.name;
        let parent = format!("{}:{name}", self.controller.maker.kind());
        let own = objects.values().filter(|document| owner(document) == parent);
        let asked = own.flat_map(|document| base_model::service_registry::services_of(document));
        asked.filter(|(registry, _)| registry == name).map(|(_, service)| service).collect()
    }

    fn known_servers(&self) -> BTreeMap<String, Vec<Instance>> {
        let state = self.controller.cluster.state();
        let prefix = format!("{}/", self.controller.name);
        let keys = state.view.sections.get(ENDPOINTS).cloned().unwrap_or_default();
        let own = keys.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        own.map(|(key, keyed)| (key[prefix.len()..].to_owned(), read(&keyed.value))).collect()
    }
}

/// A document, and what goes when it comes.
type Put = (Arc<Value>, Vec<String>);

/// What is written is refused for what it is, and not for who writes it or when.
fn is_of_one(refusal: &Refusal) -> bool {
    matches!(refusal.kind, RefusalKind::Conflict | RefusalKind::Invalid)
}

/// Servers with those that they take the place of, since they listen on the same port; and what else goes.
fn paired(servers: Vec<&Arc<Value>>, gone: impl Iterator<Item = String>, objects: &Objects) -> (Vec<Put>, Vec<String>) {
    let mut servers: Vec<Put> = servers.into_iter().map(|server| (server.clone(), Vec::new())).collect();
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

fn entry(document: Value, namespace: &str) -> Entry {
    Entry::new(Document::new(placed(document, namespace)), Vec::new())
}

/// The document, which says where it is kept.
fn placed(mut document: Value, namespace: &str) -> Value {
    if namespace != namespaces::DEFAULT_NAMESPACE {
        document["labels"] = json!({NAMESPACE_LABEL: namespace});
    }
    document
}

/// What the controller has made under this name, wherever that is kept.
pub(crate) fn made<'o>(objects: &'o Objects, (kind, controller): (&str, &str), name: &str) -> Option<&'o Document> {
    let parent = format!("{kind}:{controller}");
    let keys = [namespaces::key(&namespaces::of_controller(kind, controller), name), name.to_owned()];
    keys.iter().filter_map(|key| objects.get(key)).find(|document| owner(document) == parent)
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

/// Asks about a document once for each version of it, of which a sum is kept: of ten thousand the documents themselves would be much.
struct Checked {
    checks: Arc<dyn Checks>,
    /// By the sums of their names: of ten thousand those themselves would be as much as all else that is kept here.
    known: HashMap<u64, (u64, Result<(), Box<str>>)>,
    /// Nobody who writes a document knows which sum it has.
    sums: RandomState,
    used: HashSet<u64>,
    /// Of certificates, by their secrets.
    names: HashMap<String, ((String, String), Vec<String>)>,
    names_used: BTreeSet<String>,
}

impl Checked {
    fn new(checks: Arc<dyn Checks>) -> Checked {
        Checked {
            checks,
            known: HashMap::new(),
            sums: RandomState::new(),
            used: HashSet::new(),
            names: HashMap::new(),
            names_used: BTreeSet::new(),
        }
    }

    fn forget_unused(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.known.retain(|name, _| used.contains(name));
        if self.known.capacity() > 4 * (self.known.len() + 64) {
            // All of ten thousand are asked about once.
            self.known.shrink_to_fit();
        }
        let used = std::mem::take(&mut self.names_used);
        self.names.retain(|secret, _| used.contains(secret));
    }
}

impl Check for Checked {
    fn check(&mut self, document: &Value) -> Result<(), String> {
        let name = self.sums.hash_one(document["name"].as_str().unwrap_or_default());
        self.used.insert(name);
        let sum = self.sums.hash_one(document);
        match self.known.get(&name) {
            Some((known, result)) if *known == sum => result.clone().map_err(String::from),
            _ => {
                let result = self.checks.check(document);
                self.known.insert(name, (sum, result.clone().map_err(Box::from)));
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
const BATCH: usize = 1024;
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
/// After something could not be told that is not tried again by itself: the first time, and at last.
const TELL_AGAIN: Duration = Duration::from_secs(30);
const TELL_AGAIN_AT_LAST: Duration = Duration::from_secs(600);
/// Between two words in the log of the same.
const WARNED_AGAIN: Duration = Duration::from_secs(600);
/// Somebody may have restored a backup.
const SERVERS_READ_AGAIN: Duration = Duration::from_secs(30);
const ALIVE_ASKED: Duration = Duration::from_secs(5);
const REMARKS_TOLD: usize = 16;
/// Of documents that the cluster does not take.
const REFUSED_TOLD: usize = 8;
/// So many are looked for one by one in a turn.
const REFUSED_SOUGHT: usize = 64;

#[cfg(test)]
mod tests;
