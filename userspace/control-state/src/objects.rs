//! The documents users write, and what is generated from them.

use base_text::quoted;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use base_model::beside::Claims;
use base_model::{Claim, namespaces};
use control_api::{
    DOCUMENT_VERSION, Document, OWNER_LABEL, OWNER_USER, Predecessor, Refusal, Snapshot, compact, is_namespaced,
    made_key, object_key,
};
use serde_json::{Map, Value};

use crate::command::{EACH_FOR_ITSELF, Entry, PutMode};
use crate::state::{GONE_KEPT, State, claim_of};

/// Who an object belongs to.
pub fn owner(document: &Value) -> &str {
    #[cfg(test)]
    OWNERS_READ.with(|read| read.set(read.get() + 1));
    document.get("labels").and_then(|labels| labels.get(OWNER_LABEL)).and_then(Value::as_str).unwrap_or(OWNER_USER)
}

#[cfg(test)]
thread_local! {
    /// Looks at the owner of an object: what a walk over all objects costs.
    pub(crate) static OWNERS_READ: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl State {
    /// Whether putting these would change nothing.
    pub fn holds(&self, entries: &[Entry]) -> bool {
        let children = self.children();
        entries.iter().all(|entry| {
            let Ok((name, kind)) = name_and_kind(&entry.document) else { return false };
            let parent = format!("{kind}:{name}");
            let same = |key: &str, document: &Value, owned: &str| {
                self.view.object(key).is_some_and(|stored| owner(stored) == owned && is_same(document, stored))
            };
            same(name, &entry.document, OWNER_USER)
                && self.claims.get(name) == entry.claim.as_ref()
                && entry.generated.iter().all(|document| same(&made_key(document), document, &parent))
                && (is_made_of(kind)
                    || children.get(parent.as_str()).copied().unwrap_or_default() == entry.generated.len())
        })
    }

    /// How many objects were generated from each: one look at every object, however many are asked for.
    fn children(&self) -> HashMap<&str, usize> {
        let mut children = HashMap::new();
        for owner in self.view.objects.values().map(|document| owner(document)).filter(|owner| *owner != OWNER_USER) {
            *children.entry(owner).or_default() += 1;
        }
        children
    }

    /// Refuses a change of all objects by somebody who has seen the version `since` and none after it.
    pub(crate) fn seen_all(&self, since: Option<u64>) -> Result<(), Refusal> {
        let Some(since) = since else { return Ok(()) };
        let again = "look at what is there now, and send the change again with the version that you saw";
        if since > self.view.version {
            return Err(Refusal::stale(format!(
                "version {since} is not there yet, the configuration is at {}; {again}",
                self.view.version
            )));
        }
        let changed = self.view.changed.iter().map(|(name, at)| (*at, name, "changed"));
        let gone = self.gone.back().map(|(at, name)| (*at, name, "deleted"));
        match changed.chain(gone).max() {
            Some((at, name, how)) if at > since => Err(Refusal::stale(format!(
                "object {} was {how} in version {at}, after version {since} that this change was made from; {again}",
                quoted(&name)
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses a change of an object by somebody who has seen the version `since` and none after it.
    fn seen(&self, name: &str, since: Option<u64>) -> Result<(), Refusal> {
        let Some(since) = since else { return Ok(()) };
        let again = "read it again, make the change again and send it with the ETag it has then";
        if since > self.view.version {
            return Err(Refusal::stale(format!(
                "object {name}: version {since} is not there yet, the configuration is at {}; {again}",
                self.view.version,
                name = quoted(&name)
            )));
        }
        let gone = || {
            let last = self.gone.iter().rev().find(|(_, gone)| gone == name).map(|(at, _)| *at);
            // What is not remembered any more was deleted before this version.
            let forgotten = if self.gone.len() < GONE_KEPT { None } else { self.gone.front().map(|(at, _)| *at) };
            last.or(forgotten).filter(|at| *at > since)
        };
        if self.view.objects.contains_key(name) {
            match self.view.changed.get(name) {
                Some(at) if *at > since => Err(Refusal::stale(format!(
                    "object {name} was changed in version {at}, after version {since} that this change was made from; {again}",
                    name = quoted(&name)
                ))),
                _ => Ok(()),
            }
        } else if let Some(at) = gone() {
            Err(Refusal::stale(format!(
                "object {name} was deleted in version {at}, after version {since} that this change was made from; create \
                 it anew without If-Match if it shall be there",
                name = quoted(&name)
            )))
        } else {
            Ok(())
        }
    }
}

pub fn put(state: &mut State, mode: PutMode, entries: Vec<Entry>, now: &str) -> Result<Vec<String>, Refusal> {
    let several = entries.len() > 1;
    let mut created = Vec::new();
    let mut parents = BTreeMap::new();
    let mut claimed = Vec::new();
    for entry in entries {
        let (name, kind) = name_and_kind(&entry.document).map(|(name, kind)| (name.to_owned(), kind.to_owned()))?;
        let view = &mut state.view;
        let claims = owner(&entry.document);
        if claims != OWNER_USER {
            return Err(Refusal::invalid(format!(
                "{name}: labels[{OWNER_LABEL}] = {claims}: objects written by users belong to \"{OWNER_USER}\"; \
                 leave the label out",
                claims = quoted(&claims)
            )));
        }
        let old = view.objects.get(&name).cloned();
        match (&old, mode) {
            (Some(_), PutMode::Create) => {
                return Err(Refusal::conflict(format!(
                    "object {name} exists already; change it with PUT or apply",
                    name = quoted(&name)
                )));
            }
            (None, PutMode::Update) => {
                state.seen(&name, entry.since)?;
                return Err(unknown_object(&name));
            }
            (Some(old), _) => {
                let (was, holder) = (old.get("kind").and_then(Value::as_str).unwrap_or_default(), owner(old));
                if holder != OWNER_USER {
                    return Err(protected(&name, holder));
                }
                if was != kind {
                    return Err(Refusal::invalid(format!(
                        "object {name} is a {was} and cannot become a {kind}: delete it first, or take another name",
                        name = quoted(&name)
                    )));
                }
            }
            (None, _) => created.push(name.clone()),
        }
        state.seen(&name, entry.since)?;
        // Entries of an early version say nothing of it. Theirs were taken without a look at others, and are once more: a log is
        // carried out as it was.
        let said = entry.claim.is_some();
        let claim = entry.claim.or_else(|| claim_of(&entry.document));
        if state.claims.get(&name) != claim.as_ref() {
            let claims = Arc::make_mut(&mut state.claims);
            match claim {
                Some(claim) => drop(claims.insert(name.clone(), claim)),
                None => drop(claims.remove(&name)),
            }
            if said {
                claimed.push(name.clone());
            }
        }
        let replaced = old.is_some();
        set(&mut state.view, &name, old, entry.document, OWNER_USER, now);
        let parent = format!("{kind}:{name}");
        let kept = put_generated(state, &parent, &name, entry.generated, &mut claimed, now)?;
        // What a controller makes stays until it makes something else.
        if replaced && !is_made_of(&kind) {
            parents.insert(parent, kept);
        }
    }
    remove_generated(state, &parents);
    check_claims(state, &claimed, several)?;
    Ok(created)
}

/// What it means for this configuration that an edge's kept one comes back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comeback {
    /// Keys that it has and this one does not.
    pub lacks: Vec<String>,
    /// Keys that both have, with other documents.
    pub differs: Vec<String>,
    /// Of those, the ones that are replaced: they were changed last when the kept one was.
    pub replaces: Vec<String>,
    /// What the kept one does not have any more.
    pub removes: Vec<String>,
}

impl Comeback {
    pub fn of<'a>(
        view: &Snapshot,
        cluster_id: &str,
        version: u64,
        kept: impl Iterator<Item = &'a Document>,
    ) -> Comeback {
        let mut told = Comeback::default();
        let mut keys = BTreeSet::new();
        let older = |name: &str| {
            view.cluster_id == cluster_id && view.changed.get(name).is_none_or(|changed| *changed <= version)
        };
        for document in kept {
            let key = object_key(document);
            match view.objects.get(&*key) {
                None => told.lacks.push(key.clone().into_owned()),
                Some(here) if here != document => {
                    told.differs.push(key.clone().into_owned());
                    told.replaces.extend(older(&key).then(|| key.clone().into_owned()));
                }
                Some(_) => {}
            }
            keys.insert(key);
        }
        let gone = view.objects.keys().filter(|key| !keys.contains(key.as_str()) && older(key));
        told.removes.extend(gone.cloned());
        told
    }

    pub fn changes_nothing(&self) -> bool {
        self.lacks.is_empty() && self.replaces.is_empty() && self.removes.is_empty()
    }
}

/// What an edge kept comes back as it was, owners and all. What is here under the same name stays, but for what is older than that
/// where the edge `replaces` what its own cluster has lost.
pub fn succeed(
    state: &mut State,
    cluster_id: &str,
    version: u64,
    entries: Vec<Entry>,
    replaces: bool,
) -> Result<Vec<String>, Refusal> {
    let (mut created, mut claimed) = (Vec::new(), Vec::new());
    let mut replaced = BTreeSet::new();
    if replaces {
        let kept = entries.iter().map(|entry| &entry.document);
        let comeback = Comeback::of(&state.view, cluster_id, version, kept);
        for name in &comeback.removes {
            state.view.objects.remove(name);
            Arc::make_mut(&mut state.claims).remove(name);
        }
        replaced.extend(comeback.replaces);
    }
    let left_out = left_out(state, entries.iter().map(|entry| &entry.document));
    for entry in entries {
        name_and_kind(&entry.document)?;
        let name = object_key(&entry.document).into_owned();
        if state.view.objects.contains_key(&name) && !replaced.contains(&name)
            || left_out.contains(owner(&entry.document))
        {
            continue;
        }
        Arc::make_mut(&mut state.claims).remove(&name);
        state.view.objects.insert(name.clone(), entry.document);
        if let Some(claim) = entry.claim {
            Arc::make_mut(&mut state.claims).insert(name.clone(), claim);
            claimed.push(name.clone());
        }
        if !replaced.contains(&name) {
            created.push(name);
        }
    }
    check_claims(state, &claimed, true)?;
    take_place_of(&mut state.view, cluster_id, version);
    Ok(created)
}

/// Writes down whose place this configuration has taken, up to which version.
pub(crate) fn take_place_of(view: &mut Snapshot, cluster_id: &str, version: u64) {
    let succeeds = Arc::make_mut(&mut view.succeeds);
    succeeds.retain(|predecessor| predecessor.cluster_id != cluster_id);
    succeeds.push(Predecessor { cluster_id: cluster_id.to_owned(), version });
    if succeeds.len() > PREDECESSORS_KEPT {
        succeeds.remove(0);
    }
}

/// The writer's member has looked at it already, beside what it knew. What was decided since is known here alone.
pub(crate) fn check_claims(state: &State, claimed: &[String], several: bool) -> Result<(), Refusal> {
    if claimed.is_empty() {
        return Ok(());
    }
    let kind = |name: &str| state.view.objects.get(name).and_then(|document| document["kind"].as_str());
    let claims = state.claims.iter();
    let all = Claims::new(claims.map(|(name, claim)| (name.as_str(), kind(name).unwrap_or("object"), claim)));
    let mut problems = Vec::new();
    for name in claimed {
        let Some(claim) = state.claims.get(name) else { continue };
        let found = all.check(name, claim).into_iter();
        problems.extend(found.map(|problem| if several { format!("{name}: {problem}") } else { problem.to_string() }));
    }
    if problems.is_empty() { Ok(()) } else { Err(Refusal::invalid(problems.join("\n"))) }
}

/// Puts what is generated from an object now; returns its keys. What is generated into a namespace beside `default` may be a server, and
/// then is reached somewhere by itself.
fn put_generated(
    state: &mut State,
    parent: &str,
    name: &str,
    generated: Vec<Document>,
    claimed: &mut Vec<String>,
    now: &str,
) -> Result<BTreeSet<String>, Refusal> {
    let mut kept = BTreeSet::new();
    for document in generated {
        name_and_kind(&document)?;
        let child = made_key(&document).into_owned();
        let old = state.view.objects.get(&child).cloned();
        if let Some(old) = &old
            && owner(old) != parent
        {
            return Err(Refusal::conflict(format!(
                "{name}: an object {} exists already, and this name is needed for what is generated from {}; \
                 delete or rename it",
                quoted(&child),
                quoted(&name)
            )));
        }
        if is_namespaced(&child) {
            set_claim(state, &child, claim_of(&document), claimed);
        }
        set(&mut state.view, &child, old, document, parent, now);
        kept.insert(child);
    }
    Ok(kept)
}

/// Writes down where the object is reached; those of which that is new are to be looked at beside the others.
fn set_claim(state: &mut State, key: &str, claim: Option<Claim>, claimed: &mut Vec<String>) {
    if state.claims.get(key) == claim.as_ref() {
        return;
    }
    let claims = Arc::make_mut(&mut state.claims);
    match claim {
        Some(claim) => {
            claims.insert(key.to_owned(), claim);
            claimed.push(key.to_owned());
        }
        None => drop(claims.remove(key)),
    }
}

/// Removes what belongs to these parents, but for what each of them keeps: one look at every object, however many parents.
fn remove_generated(state: &mut State, parents: &BTreeMap<String, BTreeSet<String>>) {
    if parents.is_empty() {
        return;
    }
    let stale = |(name, document): &(&String, &Document)| {
        let owner = owner(document);
        owner != OWNER_USER && parents.get(owner).is_some_and(|kept| !kept.contains(*name))
    };
    let stale: Vec<String> = state.view.objects.iter().filter(stale).map(|(name, _)| name.clone()).collect();
    remove(state, stale);
}

fn remove(state: &mut State, names: impl IntoIterator<Item = String>) {
    for name in names {
        state.view.objects.remove(&name);
        if state.claims.contains_key(&name) {
            Arc::make_mut(&mut state.claims).remove(&name);
        }
    }
}

/// Whether documents belong to objects of this kind because a controller makes them.
fn is_made_of(kind: &str) -> bool {
    MAKERS.contains(&kind)
}

/// Writes and removes documents that the controller of `owner` makes.
pub(crate) fn put_made(
    state: &mut State,
    owner: &str,
    puts: Vec<Entry>,
    deletes: &[String],
    now: &str,
) -> Result<Vec<String>, Refusal> {
    let kind = state.view.objects.get(owner).and_then(|document| document.get("kind")).and_then(Value::as_str);
    let Some(kind) = kind.filter(|kind| is_made_of(kind)) else {
        return Err(Refusal::not_found(format!("object {} is gone: nothing is made of it", quoted(owner))));
    };
    let parent = format!("{kind}:{owner}");
    let own = namespaces::of_controller(kind, owner);
    let of_another = |name: &str, old: &Document| {
        Refusal::conflict(format!(
            "an object {} exists already, and this name is needed for what is made of {}; delete or rename it{}",
            quoted(name),
            quoted(owner),
            match self::owner(old) {
                OWNER_USER => String::new(),
                holder => format!(" (it belongs to {holder})"),
            }
        ))
    };
    for name in deletes {
        if let Some(old) = state.view.objects.get(name).filter(|old| self::owner(old) != parent) {
            return Err(of_another(name, old));
        }
    }
    remove(state, deletes.iter().filter(|name| state.view.objects.contains_key(*name)).cloned().collect::<Vec<_>>());
    let (mut created, mut claimed) = (Vec::new(), Vec::new());
    for entry in puts {
        name_and_kind(&entry.document)?;
        let name = made_key(&entry.document).into_owned();
        if is_namespaced(&name) && !namespaces::is_in(&name, &own) {
            return Err(Refusal::invalid(format!(
                "object {}: what is made of {} is made in the namespace {own}",
                quoted(&name),
                quoted(owner)
            )));
        }
        let old = state.view.objects.get(&name).cloned();
        match &old {
            Some(old) if self::owner(old) != parent => return Err(of_another(&name, old)),
            Some(_) => {}
            None => created.push(name.clone()),
        }
        set_claim(state, &name, entry.claim, &mut claimed);
        set(&mut state.view, &name, old, entry.document, &parent, now);
    }
    check_claims(state, &claimed, true)?;
    Ok(created)
}

/// Owners of what controllers made and what is to come back, that have other such documents here already: what they had before stays away,
/// or it would stand beside these. From level 12 on they are kept under other keys than before.
pub(crate) fn left_out<'d>(state: &State, back: impl Iterator<Item = &'d Document>) -> BTreeSet<String> {
    if state.level() < EACH_FOR_ITSELF {
        return BTreeSet::new();
    }
    let makes = |owner: &&str| owner.split_once(':').is_some_and(|(kind, _)| is_made_of(kind));
    let back: BTreeSet<&str> = back.map(|document| owner(document)).filter(makes).collect();
    if back.is_empty() {
        return BTreeSet::new();
    }
    let there = state.view.objects.values().map(|document| owner(document));
    there.filter(|owner| back.contains(owner)).map(str::to_owned).collect()
}

/// Takes out what was made of objects that are not there.
pub(crate) fn tidy_made(state: &mut State) {
    let is_orphan = |document: &Document| {
        let owner = owner(document);
        owner != OWNER_USER
            && owner.split_once(':').is_some_and(|(kind, name)| {
                is_made_of(kind) && state.view.objects.get(name).and_then(|owner| owner["kind"].as_str()) != Some(kind)
            })
    };
    let orphans: Vec<String> =
        state.view.objects.iter().filter(|(_, document)| is_orphan(document)).map(|(name, _)| name.clone()).collect();
    remove(state, orphans);
}

/// Kinds whose controllers make documents.
const MAKERS: [&str; 2] = ["IngressController", "GatewayController"];

pub fn delete(state: &mut State, names: &[String], since: Option<u64>) -> Result<(), Refusal> {
    let mut parents = BTreeMap::new();
    for name in names {
        state.seen(name, since)?;
        let Some(old) = state.view.objects.get(name) else {
            return Err(unknown_object(name));
        };
        let holder = owner(old);
        if holder != OWNER_USER {
            return Err(protected(name, holder));
        }
        let parent = format!("{}:{name}", old.get("kind").and_then(Value::as_str).unwrap_or_default());
        parents.insert(parent, BTreeSet::new());
        state.view.objects.remove(name);
        if state.claims.contains_key(name) {
            Arc::make_mut(&mut state.claims).remove(name);
        }
    }
    remove_generated(state, &parents);
    Ok(())
}

pub fn delete_all(state: &mut State, since: Option<u64>) -> Result<(), Refusal> {
    state.seen_all(since)?;
    state.view.objects.clear();
    state.claims = Arc::default();
    Ok(())
}

/// Keeps the shared document when nothing in it changed, so that readers see no change either.
fn set(view: &mut Snapshot, name: &str, old: Option<Document>, document: Document, owner: &str, now: &str) {
    if old.as_ref().is_some_and(|old| is_same(&document, old) && self::owner(old) == owner) {
        return;
    }
    let document = dressed(Arc::unwrap_or_clone(document), old.as_deref(), owner, now);
    view.objects.insert(name.to_owned(), Arc::new(compact(document)));
}

/// The document with the metadata that the cluster keeps.
fn dressed(mut document: Value, old: Option<&Value>, owner: &str, now: &str) -> Value {
    let Some(fields) = document.as_object_mut() else { return document };
    if !fields.get("version").is_some_and(Value::is_string) {
        fields.insert("version".into(), DOCUMENT_VERSION.into());
    }
    if !fields.get("labels").is_some_and(Value::is_object) {
        fields.insert("labels".into(), Value::Object(Default::default()));
    }
    fields["labels"][OWNER_LABEL] = owner.into();
    let created = old.and_then(|old| old.get("createdAt")).cloned().unwrap_or_else(|| now.into());
    fields.insert("createdAt".into(), created);
    document
}

/// Whether the document, [`dressed`], would be the stored one, whoever owns that.
fn is_same(document: &Value, stored: &Value) -> bool {
    let (Some(fields), Some(stored)) = (document.as_object(), stored.as_object()) else { return false };
    let rest = |fields: &Map<String, Value>| fields.keys().filter(|key| !METADATA.contains(&key.as_str())).count();
    let version = fields.get("version").and_then(Value::as_str).unwrap_or(DOCUMENT_VERSION);
    let none = Map::new();
    let labels = |fields: &Map<String, Value>| {
        let labels = fields.get("labels").and_then(Value::as_object).unwrap_or(&none);
        labels.iter().filter(|(key, _)| *key != OWNER_LABEL).map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>()
    };
    let sorted = |mut labels: Vec<(String, Value)>| {
        labels.sort_by(|(a, _), (b, _)| a.cmp(b));
        labels
    };
    rest(fields) == rest(stored)
        && fields.iter().all(|(key, value)| METADATA.contains(&key.as_str()) || stored.get(key) == Some(value))
        && stored.get("version").and_then(Value::as_str) == Some(version)
        && sorted(labels(fields)) == sorted(labels(stored))
}

fn name_and_kind(document: &Value) -> Result<(&str, &str), Refusal> {
    let text = |key: &str| {
        document
            .get(key)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
            .ok_or_else(|| Refusal::invalid(format!("{key}: required: every object has a name and a kind")))
    };
    Ok((text("name")?, text("kind")?))
}

fn protected(name: &str, holder: &str) -> Refusal {
    let parent = holder.split_once(':').map_or(holder, |(_, name)| name);
    Refusal::invalid(format!(
        "object {name} belongs to {holder}: it is generated and follows its owner; change or delete {parent} instead",
        name = quoted(&name),
        parent = quoted(&parent)
    ))
}

fn unknown_object(name: &str) -> Refusal {
    Refusal::not_found(format!("object {name} not found", name = quoted(&name)))
}

/// What the cluster keeps beside what was written.
const METADATA: [&str; 3] = ["version", "labels", "createdAt"];

/// A cluster that is lost is spoken of soon after; an edge that was away for so many losses is set up anew.
const PREDECESSORS_KEPT: usize = 16;
