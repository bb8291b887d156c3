use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use control_api::{CustomKind, DOCUMENT_VERSION, Delta, Document, Member, OWNER_LABEL, OWNER_USER, Refusal, Snapshot};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::command::{Action, Answer, Command, CustomMode, Done, Entry, PutMode};
use crate::diff::between;
use crate::steering::{member_id_free, steer};
use crate::tickets;

/// Everything a member knows of the cluster at one point of the log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// What readers see.
    pub view: Snapshot,
    /// The last [`ANSWERS_KEPT`] requests, oldest first.
    answers: VecDeque<(u64, Answer)>,
}

/// What one command did.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    pub answer: Answer,
    /// Absent when nothing that is published changed.
    pub delta: Option<Arc<Delta>>,
}

impl State {
    /// A state that only reads: what a member that does not vote knows of the cluster.
    pub fn of_view(view: Snapshot) -> Self {
        State { view, answers: VecDeque::new() }
    }

    /// Carries out one command.
    pub fn apply(&mut self, command: &Command) -> Applied {
        if let Some((_, answer)) = self.answers.iter().find(|(request, _)| *request == command.request) {
            return Applied { answer: answer.clone(), delta: None };
        }
        let mut next = self.view.clone();
        let (answer, delta) = match change(&mut next, command) {
            Ok(created) => {
                steer(&self.view, &mut next);
                let delta = between(&self.view, &next).map(|mut delta| {
                    next.version = self.view.version + 1;
                    delta.to = next.version;
                    Arc::new(delta)
                });
                if delta.is_some() {
                    self.view = next;
                }
                (Ok(Done { version: self.view.version, created }), delta)
            }
            Err(refusal) => (Err(refusal), None),
        };
        self.answers.push_back((command.request, answer.clone()));
        if self.answers.len() > ANSWERS_KEPT {
            self.answers.pop_front();
        }
        Applied { answer, delta }
    }
}

/// Who an object belongs to.
pub fn owner(document: &Value) -> &str {
    document.get("labels").and_then(|labels| labels.get(OWNER_LABEL)).and_then(Value::as_str).unwrap_or(OWNER_USER)
}

/// Returns the names that are new. A refusal may leave `view` half changed: the caller drops it then.
fn change(view: &mut Snapshot, command: &Command) -> Result<Vec<String>, Refusal> {
    match &command.action {
        Action::Put { mode, entries } => put(view, *mode, entries, &command.now),
        Action::Delete { names } => delete(view, names).map(|()| Vec::new()),
        Action::DeleteAll => {
            Arc::make_mut(&mut view.objects).clear();
            Ok(Vec::new())
        }
        Action::PutMember { member } => put_member(view, member),
        Action::RemoveMember { name } => match Arc::make_mut(&mut view.members).remove(name) {
            Some(_) => Ok(Vec::new()),
            None => Err(unknown_member(view, name)),
        },
        Action::SetMemberUp { name, up } => match Arc::make_mut(&mut view.members).get_mut(name) {
            Some(member) => {
                member.up = *up;
                Ok(Vec::new())
            }
            None => Err(unknown_member(view, name)),
        },
        Action::PutCustomKind { mode, kind } => put_custom_kind(view, *mode, kind),
        Action::DeleteCustomKind { name } => {
            custom_kind(view, name)?;
            Arc::make_mut(&mut view.custom_kinds).remove(name);
            Arc::make_mut(&mut view.custom_data).remove(name);
            Ok(Vec::new())
        }
        Action::PutCustomData { mode, kind, item } => put_custom_data(view, *mode, kind, item),
        Action::DeleteCustomData { kind, id } => {
            custom_kind(view, kind)?;
            match custom_items(view, kind).remove(id) {
                Some(_) => Ok(tidy_custom(view, kind)),
                None => Err(Refusal::not_found(format!("custom data kind {kind:?} has no item {id:?}"))),
            }
        }
        Action::BatchCustomData { kind, mode, delete, put } => batch_custom_data(view, kind, *mode, delete, put),
        Action::Found { cluster_id, cluster_name } => {
            if view.cluster_id.is_empty() {
                view.cluster_id = cluster_id.clone();
                view.cluster_name = cluster_name.clone();
            }
            Ok(Vec::new())
        }
        Action::StageTicketKey { key, at } => {
            tickets::stage(view, key, *at);
            Ok(Vec::new())
        }
        Action::PromoteTicketKey { name, at } => {
            tickets::promote(view, name, *at);
            Ok(Vec::new())
        }
    }
}

fn put(view: &mut Snapshot, mode: PutMode, entries: &[Entry], now: &str) -> Result<Vec<String>, Refusal> {
    let mut created = Vec::new();
    for entry in entries {
        let (name, kind) = name_and_kind(&entry.document)?;
        let claimed = owner(&entry.document);
        if claimed != OWNER_USER {
            return Err(Refusal::invalid(format!(
                "{name}: labels[{OWNER_LABEL}] = {claimed:?}: objects written by users belong to {OWNER_USER:?}; \
                 leave the label out"
            )));
        }
        let old = view.objects.get(name).cloned();
        match (&old, mode) {
            (Some(_), PutMode::Create) => {
                return Err(Refusal::conflict(format!("object {name:?} exists already; change it with PUT or apply")));
            }
            (None, PutMode::Update) => return Err(unknown_object(name)),
            (Some(old), _) => {
                let (was, holder) = (old.get("kind").and_then(Value::as_str).unwrap_or_default(), owner(old));
                if holder != OWNER_USER {
                    return Err(protected(name, holder));
                }
                if was != kind {
                    return Err(Refusal::invalid(format!(
                        "object {name:?} is a {was} and cannot become a {kind}: delete it first, or take another name"
                    )));
                }
            }
            (None, _) => created.push(name.to_owned()),
        }
        let document = dressed(&entry.document, old.as_deref(), OWNER_USER, now);
        set(view, name, old, document);
        put_generated(view, kind, name, &entry.generated, now)?;
    }
    Ok(created)
}

/// Replaces what was generated from an object by what is generated from it now.
fn put_generated(
    view: &mut Snapshot,
    kind: &str,
    name: &str,
    generated: &[Document],
    now: &str,
) -> Result<(), Refusal> {
    let parent = format!("{kind}:{name}");
    let mut kept = Vec::new();
    for document in generated {
        let (child, _) = name_and_kind(document)?;
        let old = view.objects.get(child).cloned();
        if let Some(old) = &old
            && owner(old) != parent
        {
            return Err(Refusal::conflict(format!(
                "{name}: an object {child:?} exists already, and this name is needed for what is generated from {name:?}; \
                 delete or rename it"
            )));
        }
        let document = dressed(document, old.as_deref(), &parent, now);
        set(view, child, old, document);
        kept.push(child);
    }
    remove_generated(view, &parent, &kept);
    Ok(())
}

fn remove_generated(view: &mut Snapshot, parent: &str, kept: &[&str]) {
    let stale: Vec<String> = view
        .objects
        .iter()
        .filter(|(name, document)| owner(document) == parent && !kept.contains(&name.as_str()))
        .map(|(name, _)| name.clone())
        .collect();
    if !stale.is_empty() {
        let objects = Arc::make_mut(&mut view.objects);
        for name in stale {
            objects.remove(&name);
        }
    }
}

fn delete(view: &mut Snapshot, names: &[String]) -> Result<(), Refusal> {
    for name in names {
        let Some(old) = view.objects.get(name) else {
            return Err(unknown_object(name));
        };
        let holder = owner(old);
        if holder != OWNER_USER {
            return Err(protected(name, holder));
        }
        let parent = format!("{}:{name}", old.get("kind").and_then(Value::as_str).unwrap_or_default());
        Arc::make_mut(&mut view.objects).remove(name);
        remove_generated(view, &parent, &[]);
    }
    Ok(())
}

/// Keeps the shared document when nothing in it changed, so that readers see no change either.
fn set(view: &mut Snapshot, name: &str, old: Option<Document>, document: Value) {
    if old.is_none_or(|old| *old != document) {
        Arc::make_mut(&mut view.objects).insert(name.to_owned(), Arc::new(document));
    }
}

/// The document with the metadata that the cluster keeps.
fn dressed(document: &Value, old: Option<&Value>, owner: &str, now: &str) -> Value {
    let mut document = document.clone();
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

fn put_member(view: &mut Snapshot, report: &Member) -> Result<Vec<String>, Refusal> {
    let known = view.members.get(&report.name);
    let id = match known {
        Some(member) => member.id,
        None => member_id_free(view).ok_or_else(|| {
            Refusal::conflict("all 65535 member ids are taken: remove members that are gone (weirctl delete member)")
        })?,
    };
    let created = if known.is_none() { vec![report.name.clone()] } else { Vec::new() };
    let member = Member { id, up: true, ..report.clone() };
    Arc::make_mut(&mut view.members).insert(report.name.clone(), member);
    Ok(created)
}

fn put_custom_kind(view: &mut Snapshot, mode: PutMode, kind: &CustomKind) -> Result<Vec<String>, Refusal> {
    let mut kind = kind.clone();
    if kind.id_field.is_empty() {
        kind.id_field = "name".into();
    }
    if kind.name.is_empty() {
        return Err(Refusal::invalid("name: required: the name of the custom data kind"));
    }
    let old = view.custom_kinds.get(&kind.name);
    match (old, mode) {
        (Some(_), PutMode::Create) => {
            return Err(Refusal::conflict(format!(
                "custom data kind {:?} exists already; change it with PUT",
                kind.name
            )));
        }
        (None, PutMode::Update) => return Err(unknown_custom_kind(&kind.name)),
        _ => {}
    }
    if let Some(old) = old
        && old.id_field != kind.id_field
        && let Some(items) = view.custom_data.get(&kind.name)
    {
        return Err(Refusal::invalid(format!(
            "idField = {:?}: {} items of {:?} are kept by their {:?}; delete them first",
            kind.id_field,
            items.len(),
            kind.name,
            old.id_field
        )));
    }
    let created = if old.is_none() { vec![kind.name.clone()] } else { Vec::new() };
    Arc::make_mut(&mut view.custom_kinds).insert(kind.name.clone(), kind);
    Ok(created)
}

fn put_custom_data(view: &mut Snapshot, mode: PutMode, kind: &str, item: &Document) -> Result<Vec<String>, Refusal> {
    let id = custom_id(custom_kind(view, kind)?, item)?;
    let exists = view.custom_data.get(kind).is_some_and(|items| items.contains_key(&id));
    match mode {
        PutMode::Create if exists => {
            return Err(Refusal::conflict(format!(
                "custom data kind {kind:?} has an item {id:?} already; change it with PUT"
            )));
        }
        PutMode::Update if !exists => {
            return Err(Refusal::not_found(format!(
                "custom data kind {kind:?} has no item {id:?}; create it with POST"
            )));
        }
        _ => {}
    }
    custom_items(view, kind).insert(id.clone(), item.clone());
    Ok(if exists { Vec::new() } else { vec![id] })
}

fn batch_custom_data(
    view: &mut Snapshot,
    kind: &str,
    mode: CustomMode,
    delete: &[String],
    put: &[Document],
) -> Result<Vec<String>, Refusal> {
    let rules = custom_kind(view, kind)?;
    let put: Vec<(String, &Document)> =
        put.iter().map(|item| Ok((custom_id(rules, item)?, item))).collect::<Result<_, Refusal>>()?;
    let items = custom_items(view, kind);
    if mode == CustomMode::Rebuild {
        items.clear();
    }
    for id in delete {
        items.remove(id);
    }
    for (id, item) in put {
        items.insert(id, item.clone());
    }
    Ok(tidy_custom(view, kind))
}

fn custom_kind<'a>(view: &'a Snapshot, kind: &str) -> Result<&'a CustomKind, Refusal> {
    view.custom_kinds.get(kind).ok_or_else(|| unknown_custom_kind(kind))
}

fn custom_items<'a>(view: &'a mut Snapshot, kind: &str) -> &'a mut BTreeMap<String, Document> {
    Arc::make_mut(Arc::make_mut(&mut view.custom_data).entry(kind.to_owned()).or_default())
}

/// A kind without items has no entry, whichever way it lost them.
fn tidy_custom(view: &mut Snapshot, kind: &str) -> Vec<String> {
    if view.custom_data.get(kind).is_some_and(|items| items.is_empty()) {
        Arc::make_mut(&mut view.custom_data).remove(kind);
    }
    Vec::new()
}

fn custom_id(kind: &CustomKind, item: &Value) -> Result<String, Refusal> {
    match item.get(&kind.id_field) {
        Some(Value::String(id)) if !id.is_empty() => Ok(id.clone()),
        Some(other) => Err(Refusal::invalid(format!(
            "{}: {} = {other}: the id of an item is text that is not empty",
            kind.name, kind.id_field
        ))),
        None => Err(Refusal::invalid(format!("{}: {}: required: it is the id of the item", kind.name, kind.id_field))),
    }
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
        "object {name:?} belongs to {holder}: it is generated and follows its owner; change or delete {parent:?} instead"
    ))
}

fn unknown_object(name: &str) -> Refusal {
    Refusal::not_found(format!("object {name:?} not found"))
}

fn unknown_member(view: &Snapshot, name: &str) -> Refusal {
    let known: Vec<&str> = view.members.keys().map(String::as_str).collect();
    Refusal::not_found(format!("member {name:?} not found; known members: {}", known.join(", ")))
}

fn unknown_custom_kind(name: &str) -> Refusal {
    Refusal::not_found(format!("custom data kind {name:?} not found"))
}

/// A request is repeated within seconds or never; a busy cluster takes a few hundred commands in that time.
const ANSWERS_KEPT: usize = 256;
