//! Create, read, update, delete: the documents users write.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use base_model::Cidr;
use base_model::beside::routes_to;
use base_model::kinds::LEGACY_PIPELINE;
use base_model::namespaces::{self, DEFAULT_NAMESPACE};
use base_model::secret::HIDDEN;
use base_text::quoted;
use control_api::{Document, Member, Members, OWNER_LABEL, Role, Snapshot, whole};
use control_state::{Action, Entry, PutMode, owner};
use serde_json::{Value, json};

use crate::access::{Caller, caller};
use crate::body::{Answer, Error, IfMatch, Reply, Text, flag, if_match, listed, since, text};
use crate::catalog::{Category, Checked};
use crate::history;
use crate::routes::Api;

type Params = Query<Vec<(String, String)>>;

/// `POST /objects`: one document or several, all or none. With `?apply=true` what exists is replaced; `If-Match` then says up to
/// which version the writer has seen them.
pub async fn create(State(api): State<Arc<Api>>, query: Params, headers: HeaderMap, body: Text) -> Answer {
    let seen = if_match(&headers)?;
    let mode = match (flag(&query, "apply"), seen) {
        (true, _) if headers.contains_key(header::IF_NONE_MATCH) => PutMode::Create,
        (true, Some(IfMatch::Any)) => PutMode::Update,
        (true, _) => PutMode::Upsert,
        (false, _) => PutMode::Create,
    };
    let put = put(&api, Request::of_all(body, seen), mode, flag(&query, "strict")).await?;
    let status = if put.created.is_empty() && mode != PutMode::Create { StatusCode::OK } else { StatusCode::CREATED };
    let location = (put.names.len() == 1).then(|| format!("/apis/v2/objects/{}", put.names[0]));
    let body = flag(&query, "apply").then(|| {
        let objects = put.names.iter().map(|name| json!({"name": name, "created": put.created.contains(name)}));
        Value::Array(objects.collect())
    });
    let (version, changed) = (Some(put.version), Some(put.version));
    Ok(Reply { status, location, body, version, changed, warnings: put.warnings })
}

/// `PUT /objects/{name}`.
pub async fn update(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    query: Params,
    headers: HeaderMap,
    body: Text,
) -> Answer {
    let request = Request { body, only: Some(name), seen: if_match(&headers)? };
    let put = put(&api, request, PutMode::Update, flag(&query, "strict")).await?;
    Ok(Reply::default().version(put.version).changed(put.version).warnings(put.warnings))
}

/// `POST /objects-check`: everything `POST /objects?apply=true` would say, without the change.
pub async fn check(State(api): State<Arc<Api>>, query: Params, body: Text) -> Answer {
    let request = Arc::new(Request::of_all(body, None));
    let checked = checked(&api, request, PutMode::Upsert, flag(&query, "strict"), Role::Read).await?;
    let warnings = checked.iter().flat_map(|(checked, _)| checked.warnings.iter().cloned()).collect();
    Ok(Reply::default().warnings(warnings))
}

pub async fn list(State(api): State<Arc<Api>>, query: Params) -> Answer {
    let state = api.control.state();
    let then = history::objects(&api, &query)?;
    let caller = caller();
    let readable = |key: &str, document: &Document| caller.may(Role::Read, document["kind"].as_str(), key);
    if flag(&query, "meta") {
        if !text(&query, "version").is_empty() {
            return Err(Error::invalid("meta is told of now: leave version out"));
        }
        let asked = spaces(&query)?;
        let told = state.view.objects.iter().filter(|(key, document)| asked.has(key) && readable(key, document));
        let told: Vec<Value> = told.map(|(key, document)| meta(&state.view, key, document)).collect();
        return Ok(Reply::body(told).version(state.view.version).changed(state.view.version));
    }
    let asked = spaces(&query)?;
    let found = then.iter().filter(|(key, document)| asked.has(key) && readable(key, document));
    let is_now = text(&query, "version").is_empty();
    let shown = |key: &str, document: &Document| match is_now {
        true => api.catalog.shown(&whole(&state.view.sections, key, document)),
        false => api.catalog.shown(document),
    };
    let body = match asked {
        Spaces::One(_) => Value::Array(found.map(|(key, document)| shown(key, document)).collect()),
        Spaces::All => {
            let mut all = BTreeMap::from([(DEFAULT_NAMESPACE, Vec::new())]);
            for (key, document) in found {
                all.entry(namespaces::split(key).0).or_default().push(shown(key, document));
            }
            json!(all)
        }
    };
    Ok(Reply::body(body).version(state.view.version).changed(state.view.version))
}

pub async fn show(State(api): State<Arc<Api>>, Path(name): Path<String>, query: Params) -> Answer {
    let state = api.control.state();
    let key = key_of(&name, &query);
    if !text(&query, "version").is_empty() {
        let then = history::objects(&api, &query)?;
        let document = then
            .get(&key)
            .ok_or_else(|| Error::not_found(format!("object {name} was not there then", name = quoted(&name))))?;
        caller().needs_of(Role::Read, document["kind"].as_str(), &key)?;
        return Ok(Reply::body(api.catalog.shown(document)).version(state.view.version));
    }
    may_read(&api, &key)?;
    match state.view.object(&key) {
        Some(document) => {
            let changed = state.view.changed.get(&key).copied().unwrap_or_default();
            let whole = whole(&state.view.sections, &key, document);
            Ok(Reply::body(api.catalog.shown(&whole)).version(state.view.version).changed(changed))
        }
        None => Err(Error::not_found(format!("object {name} not found", name = quoted(&name)))),
    }
}

/// Which namespaces are asked for.
pub enum Spaces<S> {
    One(S),
    All,
}

impl<S: AsRef<str>> Spaces<S> {
    pub fn has(&self, key: &str) -> bool {
        match self {
            Spaces::One(namespace) => namespaces::is_in(key, namespace.as_ref()),
            Spaces::All => true,
        }
    }

    pub fn owned(self) -> Spaces<String> {
        match self {
            Spaces::One(namespace) => Spaces::One(namespace.as_ref().to_owned()),
            Spaces::All => Spaces::All,
        }
    }
}

pub fn spaces(query: &Params) -> Result<Spaces<&str>, Error> {
    let namespace = text(query, "namespace");
    match flag(query, "all-namespaces") {
        false => Ok(Spaces::One(namespace)),
        true if namespace.is_empty() => Ok(Spaces::All),
        true => Err(Error::invalid("namespace and all-namespaces exclude each other: give one of them")),
    }
}

/// The key of the object of this name in the namespace that is asked for.
pub fn key_of(name: &str, query: &Params) -> String {
    namespaces::key(text(query, "namespace"), name)
}

/// What the cluster keeps of an object beside what was written: whose it is, and its generation, the version of the configuration that it
/// was last changed in, as the `ETag` of the object tells it.
fn meta(view: &Snapshot, key: &str, document: &Value) -> Value {
    json!({
        "name": document["name"],
        "namespace": namespaces::split(key).0,
        "kind": document["kind"],
        "owner": owner(document),
        "generation": view.changed.get(key).copied().unwrap_or_default(),
        "createdAt": document["createdAt"],
    })
}

/// Refuses a caller whose token is not for the kind of this object.
pub fn may_read(api: &Api, key: &str) -> Result<(), Error> {
    let state = api.control.state();
    let kind = state.view.object(key).map(|document| document["kind"].as_str());
    kind.map_or(Ok(()), |kind| caller().needs_of(Role::Read, kind, key))
}

pub async fn delete(State(api): State<Arc<Api>>, Path(name): Path<String>, headers: HeaderMap) -> Answer {
    let since = since(&headers)?;
    if let Some(kind) = system_kind(&api, &name) {
        return Err(Error::invalid(format!("{kind} is part of the system and cannot be deleted")));
    }
    let warnings = missed(&api.control.state().view, &name);
    let done = api.change(Action::Delete { names: vec![name], since }).await?;
    Ok(Reply::default().version(done.version).warnings(warnings))
}

/// Who still names an object that is deleted.
fn missed(view: &Snapshot, name: &str) -> Vec<String> {
    let Some(object) = view.object(name) else { return Vec::new() };
    let kind = |document: &Value| document["kind"].as_str().unwrap_or_default().to_owned();
    let here = |key: &str| namespaces::is_in(key, DEFAULT_NAMESPACE);
    let servers =
        view.objects.iter().filter(|(key, document)| here(key) && base_model::kinds::listens(&kind(document)));
    match object["kind"].as_str() {
        Some("Pipeline") => servers
            .map(|(server, document)| (server, document, routes_to(document, name)))
            .filter(|(_, _, routes)| *routes > 0)
            .map(|(server, document, routes)| {
                let lead = if routes == 1 { "a route leads".to_owned() } else { format!("{routes} routes lead") };
                format!(
                    "{} {server}: {lead} to Pipeline {name}; their requests get 503 until there is one again",
                    kind(document)
                )
            })
            .collect(),
        Some("GlobalFilter") => servers
            .filter(|(_, document)| document["globalFilter"] == name)
            .map(|(server, document)| {
                format!("{} {server} names GlobalFilter {name}; its requests go without it now", kind(document))
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// `DELETE /objects?all=true`. `If-Match` says up to which version the caller has seen the objects.
pub async fn delete_all(State(api): State<Arc<Api>>, query: Params, headers: HeaderMap) -> Answer {
    let since = since(&headers)?;
    if !flag(&query, "all") {
        return Err(Error::invalid("deleting every object takes ?all=true; one is deleted with DELETE /objects/NAME"));
    }
    let action = since.map_or(Action::DeleteAll, |since| Action::DeleteAllSeen { since });
    let done = api.change(action).await?;
    Ok(Reply::default().version(done.version))
}

struct Put {
    version: u64,
    names: Vec<String>,
    created: Vec<String>,
    warnings: Vec<String>,
}

async fn put(api: &Arc<Api>, request: Request, mode: PutMode, strict: bool) -> Result<Put, Error> {
    let request = Arc::new(request);
    for turn in 1.. {
        let checked = match checked(api, request.clone(), mode, strict, Role::Write).await {
            Ok(checked) => checked,
            Err(error) => {
                api.refused_before("put", &request.subjects(), &error);
                return Err(error);
            }
        };
        let mut put = Put { version: 0, names: Vec::new(), created: Vec::new(), warnings: Vec::new() };
        let mut entries = Vec::new();
        let mut filled_in = false;
        for (one, kept) in checked {
            let name = one.document.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            log_warnings(&name, &one.warnings);
            put.names.push(name);
            put.warnings.extend(one.warnings);
            let generated = one.generated.into_iter().map(Document::new).collect();
            let since = match request.seen {
                Some(IfMatch::Since(version)) => Some(kept.map_or(version, |kept| kept.min(version))),
                Some(IfMatch::Any) | None => kept,
            };
            filled_in |= kept.is_some();
            entries.push(Entry { since, ..Entry::new(Document::new(one.document), generated) });
        }
        // Nobody learns from an answer what is in objects that are not theirs to write.
        let caller = caller();
        let may = |entry: &Entry| caller.may(Role::Write, entry.document["kind"].as_str(), "");
        let (there, entries) =
            if entries.iter().all(may) { unchanged(api, mode, entries).await? } else { (None, entries) };
        if let Some(version) = there {
            return Ok(Put { version, ..put });
        }
        match api.change(Action::Put { mode, entries }).await {
            Ok(done) => return Ok(Put { version: done.version, created: done.created, ..put }),
            // The secrets that were filled in here are older than those of the cluster: once more, with those.
            Err(error) if error.status == StatusCode::PRECONDITION_FAILED && filled_in && turn < TURNS => {
                api.control.catch_up().await;
            }
            Err(error) => return Err(error),
        }
    }
    unreachable!("the last turn returns")
}

/// The version at which all of this is there already, and what came: nothing is written to the log then. This member may be behind,
/// so it makes sure of what the others have decided. Comparing is done off the threads that answer.
async fn unchanged(api: &Api, mode: PutMode, mut entries: Vec<Entry>) -> Result<(Option<u64>, Vec<Entry>), Error> {
    if mode == PutMode::Create {
        return Ok((None, entries));
    }
    let mut compared = None;
    loop {
        let state = api.control.state();
        let version = state.view.version;
        if compared == Some(version) {
            return Ok((compared, entries));
        }
        let compare = move || {
            let same = state.holds(&entries);
            Ok((same, entries))
        };
        let (same, back) = api.checks.run(compare).await?;
        entries = back;
        if !same || compared.is_none() && !api.control.catch_up().await {
            return Ok((None, entries));
        }
        if compared.is_some() {
            return Ok((Some(version), entries));
        }
        compared = Some(version);
    }
}

fn log_warnings(name: &str, warnings: &[String]) {
    for warning in warnings.iter().take(LOGGED_MAX) {
        tracing::warn!(object = name, warning, "a document was accepted with a warning");
    }
    let more = warnings.len().saturating_sub(LOGGED_MAX);
    if more > 0 {
        tracing::warn!(object = name, more, "a document was accepted with further warnings");
    }
}

/// What came, not read yet.
struct Request {
    body: Text,
    /// The path names the object, and the body holds this one.
    only: Option<String>,
    seen: Option<IfMatch>,
}

impl Request {
    fn of_all(body: Text, seen: Option<IfMatch>) -> Request {
        Request { body, only: None, seen }
    }

    /// Names and kinds of what came, as far as they can be read.
    fn subjects(&self) -> Vec<String> {
        let documents = self.body.documents().unwrap_or_default();
        let word = |document: &Value, key: &str| document.get(key).and_then(Value::as_str).unwrap_or("?").to_owned();
        let named = |document: &Value| {
            let name = self.only.clone().unwrap_or_else(|| word(document, "name"));
            format!("{}/{name}", word(document, "kind"))
        };
        documents.iter().map(named).collect()
    }

    fn documents(&self, api: &Api) -> Result<Vec<Value>, Error> {
        let Some(name) = &self.only else { return self.body.documents() };
        let document = self.body.document()?;
        if let Some(given) = document.get("name").and_then(Value::as_str)
            && given != name
        {
            return Err(Error::invalid(format!(
                "name: \"{given}\" in the document, \"{name}\" in the path: they have to be the same"
            )));
        }
        // Whether it was there, the state knows.
        if self.seen.is_none() && !api.control.state().view.objects.contains_key(name) {
            return Err(Error::not_found(format!("object \"{name}\" not found; create it with POST")));
        }
        Ok(vec![document])
    }
}

/// Documents that are good, each with the version whose secrets were filled in, if any were.
type Good = Vec<(Checked, Option<u64>)>;

/// Reads and checks what came, off the threads that answer. The caller learns nothing of kinds for which it has not this role.
async fn checked(
    api: &Arc<Api>,
    request: Arc<Request>,
    mode: PutMode,
    strict: bool,
    role: Role,
) -> Result<Good, Error> {
    let (checking, caller) = (api.clone(), caller());
    let check = move || {
        let documents = request.documents(&checking)?;
        if caller.is_bound() {
            is_for(&checking, &caller, role, &documents)?;
        }
        check_all(&checking, documents, mode, strict)
    };
    api.checks.run(check).await
}

/// Refuses documents of kinds, or of names whose objects are of kinds, that are not the caller's.
fn is_for(api: &Api, caller: &Caller, role: Role, documents: &[Value]) -> Result<(), Error> {
    let (kinds, state) = (api.catalog.kinds(), api.control.state());
    for document in documents {
        let word = |key: &str| document.get(key).and_then(Value::as_str);
        if let Some(stored) = word("name").and_then(|name| state.view.object(name)) {
            caller.needs(role, stored["kind"].as_str())?;
        }
        let Some(kind) = word("kind") else { continue };
        let written = if kind.eq_ignore_ascii_case(LEGACY_PIPELINE) { PIPELINE } else { kind };
        let known = kinds.iter().find(|known| known.kind.eq_ignore_ascii_case(written));
        caller.needs(role, Some(known.map_or(written, |known| &known.kind)))?;
    }
    Ok(())
}

/// Checks documents as they will stand beside each other and beside what is there; collects every problem first.
fn check_all(api: &Api, mut documents: Vec<Value>, mode: PutMode, strict: bool) -> Result<Good, Error> {
    let several = documents.len() > 1;
    let state = api.control.state();
    let mut names = BTreeSet::new();
    let mut problems = Vec::new();
    let mut filled_in = Vec::with_capacity(documents.len());
    let mut status = StatusCode::BAD_REQUEST;
    for (n, document) in documents.iter_mut().enumerate() {
        let name = document.get("name").and_then(Value::as_str);
        let stored = name.and_then(|name| state.view.object(name));
        let version = name.and_then(|name| state.view.changed.get(name)).copied().unwrap_or_default();
        filled_in.push((stored.is_some() && is_partly_hidden(document)).then_some(version));
        for problem in api.catalog.restore_secrets(document, stored.map(|stored| stored.as_ref())) {
            problems.push(titled(n, document, several, &problem));
        }
        if api.control.exposed() && api.catalog.shown(document) != *document {
            problems.push(titled(n, document, several, EXPOSED));
        }
        if let Err((what, problem)) = may_write(api, document, mode) {
            status = what;
            problems.push(titled(n, document, several, &problem));
        }
        let Some(name) = document.get("name").and_then(Value::as_str) else { continue };
        if !names.insert(name.to_owned()) {
            problems.push(titled(
                n,
                document,
                several,
                &format!("name: {name} is in the body twice", name = quoted(&name)),
            ));
        }
    }
    if !problems.is_empty() {
        // One status for several documents: the one that says most.
        let status = if problems.len() == 1 { status } else { StatusCode::BAD_REQUEST };
        return Err(Error::new(status, listed(problems)));
    }
    let mut all = Vec::new();
    let results = api.catalog.check(&documents, &state.view.objects);
    for (n, (document, result)) in documents.iter().zip(results).enumerate() {
        match result {
            Ok(checked) => {
                if strict {
                    problems.extend(
                        checked.warnings.iter().map(|w| titled(n, document, several, &format!("{w} (strict)"))),
                    );
                }
                let stored =
                    checked.document.get("name").and_then(Value::as_str).and_then(|name| state.view.object(name));
                let inside =
                    members_inside(&checked.document, stored.map(|stored| stored.as_ref()), &state.view.members);
                problems.extend(inside.iter().map(|problem| titled(n, document, several, problem)));
                all.push(checked);
            }
            Err(found) => problems.extend(found.iter().map(|problem| titled(n, document, several, problem))),
        }
    }
    if problems.is_empty() {
        Ok(all.into_iter().zip(filled_in).collect())
    } else {
        Err(Error::invalid(listed(problems)))
    }
}

/// Where a VirtualIP takes a prefix with an address of a member in it, that it had not before: the edges would not reach that member
/// any more. Or a member for a backend.
fn members_inside(document: &Value, stored: Option<&Value>, members: &Members) -> Vec<String> {
    let listed = |document: &Value| document.get("addresses").and_then(Value::as_array).cloned().unwrap_or_default();
    if document.get("kind").and_then(Value::as_str) != Some("VirtualIP") {
        return Vec::new();
    }
    let before = stored.map(listed).unwrap_or_default();
    let addresses_of = |member: &Member| {
        let urls = [&member.peer_url, &member.api_addr].map(|url| base_model::address_of(url));
        let own = [member.addresses.v4.map(IpAddr::V4), member.addresses.v6.map(IpAddr::V6)];
        urls.into_iter().chain(own).flatten().collect::<Vec<IpAddr>>()
    };
    let known: Vec<(IpAddr, &str)> = members
        .values()
        .flat_map(|member| addresses_of(member).into_iter().map(|address| (address, member.name.as_str())))
        .collect();
    let mut problems = Vec::new();
    // A member takes what members send each other, and nobody's IP in IP. One that was there before joined later, and edges leave it out.
    let backends = |document: &Value| -> Vec<IpAddr> {
        let listed = document.get("backends").and_then(Value::as_array).into_iter().flatten();
        listed.filter_map(|backend| backend.get("address")?.as_str()?.parse().ok()).collect()
    };
    let kept = stored.map(backends).unwrap_or_default();
    for (i, address) in backends(document).iter().enumerate().filter(|(_, address)| !kept.contains(address)) {
        if let Some((_, member)) = known.iter().find(|(of, _)| of == address) {
            problems.push(format!(
                "backends[{i}].address = \"{address}\": the address of member {member}, which runs Weir; list it in machines, or give the \
                 server's own address"
            ));
        }
    }
    for (i, text) in listed(document).iter().enumerate().filter(|(_, text)| !before.contains(text)) {
        let prefix = text.as_str().and_then(|text| text.parse::<Cidr>().ok()).filter(|prefix| !prefix.is_address());
        let inside = prefix.and_then(|prefix| known.iter().find(|(address, _)| prefix.contains(*address)));
        if let Some((address, member)) = inside {
            problems.push(format!(
                "addresses[{i}] = {text}: has {address} in it, the address of member {member}, which the edges would not reach any \
                 more; take a prefix without it"
            ));
        }
    }
    problems
}

fn is_partly_hidden(value: &Value) -> bool {
    match value {
        Value::String(text) => text == HIDDEN,
        Value::Array(items) => items.iter().any(is_partly_hidden),
        Value::Object(fields) => fields.values().any(is_partly_hidden),
        _ => false,
    }
}

/// What can be said before looking into the document. The state decides again when the command is applied.
fn may_write(api: &Api, document: &Value, mode: PutMode) -> Result<(), (StatusCode, String)> {
    let invalid = |message: String| Err((StatusCode::BAD_REQUEST, message));
    if !document.is_object() {
        return invalid("a document is a mapping with at least name and kind".into());
    }
    let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default();
    if let Some(kind) = system_kind(api, kind) {
        return Err((
            StatusCode::CONFLICT,
            format!("kind: {kind} is part of the system: it runs by itself and is not written"),
        ));
    }
    let claimed = owner(document);
    if claimed != control_api::OWNER_USER {
        return invalid(format!(
            "labels[{OWNER_LABEL}] = {claimed}: what users write belongs to \"user-api\"; leave the label out",
            claimed = quoted(&claimed)
        ));
    }
    let Some(name) = document.get("name").and_then(Value::as_str) else { return Ok(()) };
    let state = api.control.state();
    let Some(old) = state.view.object(name) else { return Ok(()) };
    if mode == PutMode::Create {
        return Err((
            StatusCode::CONFLICT,
            format!("object {name} exists already; change it with PUT or apply", name = quoted(&name)),
        ));
    }
    let holder = owner(old);
    if holder != control_api::OWNER_USER {
        return invalid(format!(
            "object {name} belongs to {holder}: it is generated and follows its owner",
            name = quoted(&name)
        ));
    }
    let was = old.get("kind").and_then(Value::as_str).unwrap_or_default();
    if !kind.is_empty() && !was.eq_ignore_ascii_case(kind) && kind != base_model::kinds::LEGACY_PIPELINE {
        return invalid(format!(
            "object {name} is a {was} and cannot become a {kind}: delete it first, or take another name",
            name = quoted(&name)
        ));
    }
    Ok(())
}

fn system_kind(api: &Api, name: &str) -> Option<String> {
    let kinds = api.catalog.kinds().into_iter();
    kinds.filter(|kind| kind.category == Category::System).find(|kind| kind.kind == name).map(|kind| kind.kind)
}

/// Says which of several documents is meant.
fn titled(n: usize, document: &Value, several: bool, problem: &str) -> String {
    if !several {
        return problem.to_owned();
    }
    match document.get("name").and_then(Value::as_str) {
        Some(name) => format!("{name}: {problem}"),
        None => format!("document {}: {problem}", n + 1),
    }
}

/// What a [`LEGACY_PIPELINE`] becomes.
const PIPELINE: &str = "Pipeline";
/// How often a change is made again when this member turns out to have been behind.
const TURNS: u32 = 5;
/// Warnings of one document that go to the log.
const LOGGED_MAX: usize = 16;

pub const EXPOSED: &str = "it holds a private key, a password or the like, which this cluster's members would tell each other in plain \
                       text (--insecure-peers): give every member --cluster-secret-file, or https:// peer URLs, and send it again";
