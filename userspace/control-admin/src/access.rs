//! Who asks, what they may, and what is written down of it.
//!
//! The door finds out who asks ([`Caller`]): by a token, by a login, by a certificate, or nobody in particular where none of that is
//! asked for. A token is looked up in the cluster's state and brings its grants; everybody else who gets in may do everything. What a
//! request takes is looked at where it is known: the method here, kinds where documents have been read, and every change in
//! [`Api::change`], which also writes the line of the audit log.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base_model::namespaces::{self, DEFAULT_NAMESPACE};
use base_text::quoted;
use control_api::{Grant, Principal, PrincipalKind, Purged, Role, Token, allow, is_namespaced, made_key, time};
use control_state::{Action, Answer};
use serde_json::{Value, json};

use crate::body::{Error, Reply};
use crate::routes::Api;

/// What the connection says of its other end.
#[derive(Clone)]
pub struct Origin {
    pub address: IpAddr,
    /// Subject of the certificate that was shown.
    pub subject: Option<Arc<str>>,
}

/// The user that a login was for.
#[derive(Clone)]
pub struct User(pub Arc<str>);

#[derive(Clone)]
pub struct Caller {
    pub principal: Principal,
    /// `None`: everything.
    grants: Option<Arc<Vec<Grant>>>,
    /// Nobody in particular, from another machine.
    pub stranger: bool,
}

#[cfg(test)]
impl Caller {
    /// A token that may do everything.
    pub fn named(name: &str) -> Caller {
        let principal = Principal { kind: PrincipalKind::Token, name: name.to_owned(), ..Principal::default() };
        Caller { principal, grants: None, stranger: false }
    }
}

tokio::task_local! {
    static CALLER: Caller;
    /// The audit log has a line about this request.
    static TOLD: Arc<AtomicBool>;
}

/// Whoever carries the request out is known to be.
pub fn caller() -> Caller {
    let nobody = || Caller { principal: Principal::default(), grants: None, stranger: false };
    CALLER.try_with(Clone::clone).unwrap_or_else(|_| nobody())
}

impl Caller {
    /// With an object of this key.
    pub fn may(&self, role: Role, kind: Option<&str>, key: &str) -> bool {
        let namespace = namespaces::split(key).0;
        self.grants.as_ref().is_none_or(|grants| allow(grants, role, Some(kind.unwrap_or_default()), namespace))
    }

    /// Refuses what the caller may not do: of a kind, in `default` or in no namespace at all, or of none.
    pub fn needs(&self, role: Role, kind: Option<&str>) -> Result<(), Error> {
        self.needs_in(role, kind, DEFAULT_NAMESPACE)
    }

    /// The same with an object of this key.
    pub fn needs_of(&self, role: Role, kind: Option<&str>, key: &str) -> Result<(), Error> {
        self.needs_in(role, Some(kind.unwrap_or_default()), namespaces::split(key).0)
    }

    pub fn needs_in(&self, role: Role, kind: Option<&str>, namespace: &str) -> Result<(), Error> {
        if self.grants.as_ref().is_none_or(|grants| allow(grants, role, kind, namespace)) {
            return Ok(());
        }
        let place = if namespace == DEFAULT_NAMESPACE { String::new() } else { format!(" in namespace {namespace}") };
        let what = kind.map_or_else(|| "this".to_owned(), |kind| format!("objects of kind {}{place}", quoted(kind)));
        let who = &self.principal;
        Err(Error::new(
            StatusCode::FORBIDDEN,
            format!("{who} may not do {what}: it takes the role {role}; weirctl token list shows what each token may"),
        ))
    }

    /// Refuses whoever has this role for no kind at all.
    pub fn needs_any(&self, role: Role) -> Result<(), Error> {
        if self.may_at_all(role) { Ok(()) } else { self.needs(role, None) }
    }

    /// Refuses what goes on for long when who asked is known no more, or may do something else by now.
    pub fn stands(&self, api: &Api, request: &Request) -> Result<(), Error> {
        let now = of(api, request)?;
        if now.principal == self.principal && now.grants == self.grants {
            return Ok(());
        }
        let message = format!("what {} may do was changed; ask again", self.principal);
        Err(Error::new(StatusCode::UNAUTHORIZED, message))
    }

    /// One login, or one address that needs none.
    pub fn whose(&self) -> String {
        match self.principal.kind {
            PrincipalKind::Anonymous => self.principal.from.clone(),
            _ => self.principal.to_string(),
        }
    }

    /// The same for people.
    pub fn shown(&self) -> String {
        match self.principal.kind {
            PrincipalKind::Anonymous => format!("address {}", self.principal.from),
            _ => self.principal.to_string(),
        }
    }

    pub fn is_anonymous(&self) -> bool {
        self.principal.kind == PrincipalKind::Anonymous
    }

    /// What the caller may do is written down somewhere.
    pub fn is_bound(&self) -> bool {
        self.grants.is_some()
    }

    /// Whether any of the caller's grants has this role, for whatever kinds.
    fn may_at_all(&self, role: Role) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.iter().any(|grant| grant.role >= role))
    }
}

/// Finds out who asks, and lets nobody pass whose token is not known.
pub async fn known(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let caller = match of(&api, &request) {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let role = if reads { Role::Read } else { Role::Write };
    // Asking what would become of a document changes nothing.
    let role = if request.uri().path().ends_with("/objects-check") { Role::Read } else { role };
    let (what, place) = (request.method().to_string(), [request.uri().path().to_owned()]);
    if !caller.may_at_all(role)
        && let Err(refused) = caller.needs(role, None)
    {
        if role > Role::Read {
            api.write_down(&caller, &what, &place, Err(&refused.message));
        }
        return refused.into_response();
    }
    let told = Arc::new(AtomicBool::new(false));
    let answered = TOLD.scope(told.clone(), CALLER.scope(caller.clone(), next.run(request))).await;
    let refused = answered.status().is_client_error() || answered.status().is_server_error();
    if role > Role::Read && refused && !told.load(Ordering::Relaxed) {
        api.write_down(&caller, &what, &place, Err(&before_it_was_proposed(answered.status())));
    }
    answered
}

/// `GET /whoami`: who asks, as the API sees it, and what that one may.
pub async fn who() -> Reply {
    let caller = caller();
    Reply::body(json!({
        "kind": caller.principal.kind,
        "name": caller.principal.name,
        "grants": caller.grants.as_deref(),
        "mayWrite": caller.may_at_all(Role::Write),
        "mayAdmin": caller.may_at_all(Role::Admin),
    }))
}

/// What the audit log says of a refusal whose words quote what came.
fn before_it_was_proposed(status: StatusCode) -> String {
    format!("{}, before anything was proposed; the caller was told why", status.as_u16())
}

/// Whether somebody who shows nothing gets in. As soon as there are tokens, other machines need one; on this machine it goes on without,
/// for who makes and revokes them, until there is a token that may do everything.
fn without_login(from: IpAddr, cluster_known: bool, tokens: &BTreeMap<String, Token>) -> Result<(), Error> {
    let here = from.to_canonical().is_loopback();
    if !here && !cluster_known {
        let message = "this member does not know yet whether its cluster has tokens, and asks other machines for one until it does; ask \
                       again in a moment";
        return Err(Error::new(StatusCode::SERVICE_UNAVAILABLE, message));
    }
    let message = if here && tokens.values().any(may_all) {
        "the cluster has tokens with the role admin, so this API asks for a login on its own machine too: give a token (WEIRCTL_TOKEN, or \
         ~/.weirctlrc). If they are all lost, start weir with basic-auth in its --config-file, log in, and rotate one"
    } else if !here && !tokens.is_empty() {
        "the cluster has tokens, so this API asks other machines for a login: give a token (WEIRCTL_TOKEN, or ~/.weirctlrc); one is made \
         with weirctl token create, on a member's own machine if there is none with the role admin"
    } else {
        return Ok(());
    };
    Err(Error::new(StatusCode::UNAUTHORIZED, message))
}

/// Who holds it may do everything.
pub fn may_all(token: &Token) -> bool {
    allow(&token.grants, Role::Admin, None, "")
}

fn of(api: &Api, request: &Request) -> Result<Caller, Error> {
    let origin = request.extensions().get::<Origin>();
    let from = origin.map(|origin| origin.address.to_canonical().to_string()).unwrap_or_default();
    let principal = |kind: PrincipalKind, name: &str| {
        let at = api.control.name().to_owned();
        Principal { kind, name: name.to_owned(), from: from.clone(), at }
    };
    if let Some(token) = bearer(request) {
        let hash = hashed(token);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let state = api.control.state();
        // All are compared, each in the same time wherever it differs.
        let found = state
            .view
            .tokens
            .values()
            .fold(None, |found, known| if known.is(&hash, now) { Some(known) } else { found });
        let Some(found) = found else { return Err(unknown_token()) };
        let principal = principal(PrincipalKind::Token, &found.name);
        return Ok(Caller { principal, grants: Some(Arc::new(found.grants.clone())), stranger: false });
    }
    let user = request.extensions().get::<User>();
    let subject = origin.and_then(|origin| origin.subject.as_ref());
    let principal = match (user, subject) {
        (Some(User(name)), _) => principal(PrincipalKind::User, name),
        (None, Some(subject)) => principal(PrincipalKind::Certificate, subject),
        (None, None) => principal(PrincipalKind::Anonymous, ""),
    };
    // From inside the process there is no origin.
    let nobody = origin.filter(|_| principal.kind == PrincipalKind::Anonymous);
    if let Some(origin) = nobody {
        let view = &api.control.state().view;
        without_login(origin.address, !view.cluster_id.is_empty(), &view.tokens)?;
    }
    let stranger = nobody.is_some_and(|origin| !origin.address.to_canonical().is_loopback());
    Ok(Caller { principal, grants: None, stranger })
}

/// The token of `Authorization: Bearer …`.
pub fn bearer(request: &Request) -> Option<&[u8]> {
    let value = request.headers().get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(BEARER.len())?;
    scheme.eq_ignore_ascii_case(BEARER).then(|| token.trim_ascii())
}

pub fn hashed(token: &[u8]) -> String {
    digest(&SHA256, token).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unknown_token() -> Error {
    Error::new(
        StatusCode::UNAUTHORIZED,
        "this token is not known: it was rotated or revoked, or is another cluster's; ask for a new one",
    )
}

impl Api {
    /// Proposes a change for whoever asks for it, if they may, and writes a line about it.
    pub async fn change(&self, action: Action) -> Result<control_state::Done, Error> {
        let caller = caller();
        let told = Told::of(self, &action);
        for Take { role, kind, namespace } in &told.takes {
            if let Err(error) = caller.needs_in(*role, kind.as_deref(), namespace) {
                self.write_down(&caller, &told.what, &told.subjects, Err(&error.message));
                return Err(error);
            }
        }
        let answer: Answer = self.control.propose_for(action, caller.principal.clone()).await;
        match &answer {
            Ok(done) => self.write_down(&caller, &told.what, &told.subjects, Ok(done.version)),
            Err(refusal) => self.write_down(&caller, &told.what, &told.subjects, Err(&refusal.message)),
        }
        answer.map_err(Error::from)
    }

    /// The line of what was refused before anything was proposed.
    pub fn refused_before(&self, what: &str, subjects: &[String], error: &Error) {
        let told = match error.status {
            // These words are about the caller.
            StatusCode::FORBIDDEN => error.message.clone(),
            status => before_it_was_proposed(status),
        };
        self.write_down(&caller(), what, subjects, Err(&told));
    }

    /// A line of the audit log: who did what, from where, and what came of it. Names and kinds, and nothing of what is in documents.
    pub fn write_down(&self, caller: &Caller, what: &str, subjects: &[String], came: Result<u64, &str>) {
        let _ = TOLD.try_with(|told| told.store(true, Ordering::Relaxed));
        let Principal { kind, name, from, at } = &caller.principal;
        let subject = |subject: &String| subject.chars().take(SUBJECT_CHARS_MAX).collect::<String>();
        let mut line = json!({
            "time": time::rfc3339(SystemTime::now()),
            "kind": kind,
            "who": name,
            "from": from,
            "member": at,
            "action": what,
            "objects": subjects.iter().take(SUBJECTS_MAX).map(subject).collect::<Vec<_>>(),
        });
        if subjects.len() > SUBJECTS_MAX {
            line["more"] = (subjects.len() - SUBJECTS_MAX).into();
        }
        match came {
            Ok(version) => line["version"] = version.into(),
            // What a refusal says of a document quotes it: the first line is enough to know why, and holds no document.
            Err(reason) => line["refused"] = first_words(reason),
        }
        self.local.audit(&line);
    }
}

fn first_words(reason: &str) -> Value {
    reason.lines().next().unwrap_or_default().chars().take(REASON_CHARS_MAX).collect::<String>().into()
}

/// What an action is about, and what it takes.
struct Told {
    what: String,
    subjects: Vec<String>,
    takes: Vec<Take>,
}

/// A right that a change takes.
struct Take {
    role: Role,
    /// `None`: it is of no kind, nor in a namespace.
    kind: Option<String>,
    namespace: String,
}

impl Take {
    fn write(kind: String, namespace: &str) -> Take {
        Take { role: Role::Write, kind: Some(kind), namespace: namespace.to_owned() }
    }
}

impl Told {
    fn of(api: &Api, action: &Action) -> Told {
        let named = |document: &Value| {
            let word = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            (word("kind"), word("name"))
        };
        let write = |objects: Vec<(String, String)>| {
            let mut kinds: Vec<String> = objects.iter().map(|(kind, _)| kind.clone()).collect();
            kinds.sort_unstable();
            kinds.dedup();
            let subjects = objects.iter().map(|(kind, name)| format!("{kind}/{name}")).collect();
            (subjects, kinds.into_iter().map(|kind| Take::write(kind, DEFAULT_NAMESPACE)).collect::<Vec<_>>())
        };
        let custom = || vec![Take::write(CUSTOM.to_owned(), DEFAULT_NAMESPACE)];
        let of_none = |role: Role| vec![Take { role, kind: None, namespace: String::new() }];
        let (all, admin) = (of_none(Role::Write), of_none(Role::Admin));
        let (what, subjects, takes) = match action {
            Action::Put { entries, .. } => {
                let (subjects, mut takes) = write(entries.iter().map(|entry| named(&entry.document)).collect());
                // What is made of it elsewhere is theirs to write who may write there.
                let made = entries.iter().flat_map(|entry| &entry.generated);
                let made = made.map(|document| (made_key(document), document)).filter(|(key, _)| is_namespaced(key));
                takes.extend(made.map(|(key, document)| Take::write(named(document).0, namespaces::split(&key).0)));
                ("put", subjects, takes)
            }
            Action::Delete { names, .. } => {
                let state = api.control.state();
                let kind =
                    |name: &String| state.view.object(name).map(|document| named(document).0).unwrap_or_default();
                let (subjects, takes) = write(names.iter().map(|name| (kind(name), name.clone())).collect());
                ("delete", subjects, takes)
            }
            Action::DeleteAll | Action::DeleteAllSeen { .. } => ("deleteAll", Vec::new(), all),
            Action::RollBack { version, .. } => ("rollback", vec![format!("version/{version}")], all),
            Action::PutCustomKind { kind, .. } => ("put", vec![format!("CustomDataKind/{}", kind.name)], custom()),
            Action::DeleteCustomKind { name, .. } => ("delete", vec![format!("CustomDataKind/{name}")], custom()),
            Action::PutCustomData { kind, .. } => ("put", vec![format!("CustomData/{kind}")], custom()),
            Action::DeleteCustomData { kind, id, .. } => ("delete", vec![format!("CustomData/{kind}/{id}")], custom()),
            Action::BatchCustomData { kind, .. } => ("batch", vec![format!("CustomData/{kind}")], custom()),
            Action::Succeed { version, .. } => ("lastGood", vec![format!("version/{version}")], admin),
            Action::Restore { backup, .. } => ("restore", vec![format!("version/{}", backup.version)], admin),
            Action::PutToken { token, mode } => {
                let what = if *mode == control_state::PutMode::Create { "createToken" } else { "rotateToken" };
                (what, vec![format!("Token/{}", token.name)], admin)
            }
            Action::PurgeCaches { cache, what } => {
                let cache = if cache.is_empty() { "*" } else { cache };
                let what = match what {
                    Purged::All => "all".to_owned(),
                    Purged::Url(url) => format!("url/{url}"),
                    Purged::Prefix(prefix) => format!("prefix/{prefix}"),
                    Purged::Tag(tag) => format!("tag/{tag}"),
                };
                // `NAMESPACE/PIPELINE/FILTER`, or without the first.
                let pipeline = cache.rsplit_once('/').map(|(pipeline, _)| namespaces::split(pipeline).0);
                let namespace = if cache == "*" { "" } else { pipeline.unwrap_or(DEFAULT_NAMESPACE) };
                let takes = Take::write(PIPELINE.to_owned(), namespace);
                ("purgeCaches", vec![format!("Cache/{cache}/{what}")], vec![takes])
            }
            Action::StageAuthority { .. } => ("replaceAuthority", Vec::new(), admin),
            Action::DeleteToken { name } => ("revokeToken", vec![format!("Token/{name}")], admin),
            _ => ("change", Vec::new(), admin),
        };
        Told { what: what.to_owned(), subjects, takes }
    }
}

/// What grants call custom data and their kinds.
pub const CUSTOM: &str = "CustomData";
/// Caches are parts of these: who may change them may empty them.
const PIPELINE: &str = "Pipeline";
const BEARER: &[u8] = b"Bearer ";
/// One line stays one that people can read.
const SUBJECTS_MAX: usize = 100;
const SUBJECT_CHARS_MAX: usize = 300;
const REASON_CHARS_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_ask_for_a_login_elsewhere_at_once_and_here_when_one_may_do_everything() {
        let token = |role, kinds: &[&str]| {
            let kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
            Token { grants: vec![Grant { role, kinds, ..Grant::default() }], ..Token::default() }
        };
        let none = BTreeMap::new();
        let some = BTreeMap::from([
            ("ci".to_owned(), token(Role::Write, &[])),
            ("half".to_owned(), token(Role::Admin, &["Pipeline"])),
        ]);
        let mut admin = some.clone();
        admin.insert("ann".to_owned(), token(Role::Admin, &[]));
        for (from, tokens, gets_in) in [
            ("127.0.0.1", &none, true),
            ("::1", &some, true),
            ("::ffff:127.0.0.1", &some, true),
            ("127.0.0.1", &admin, false),
            ("::ffff:127.0.0.1", &admin, false),
            ("10.0.0.1", &none, true),
            ("10.0.0.1", &some, false),
            ("::ffff:10.0.0.1", &some, false),
            ("2001:db8::1", &admin, false),
        ] {
            let came = without_login(from.parse().unwrap(), true, tokens);
            assert_eq!(
                came.map_err(|error| error.status),
                if gets_in { Ok(()) } else { Err(StatusCode::UNAUTHORIZED) },
                "{from}"
            );
        }
        let early = |from: &str| without_login(from.parse().unwrap(), false, &none).map_err(|error| error.status);
        assert_eq!((early("10.0.0.1"), early("127.0.0.1")), (Err(StatusCode::SERVICE_UNAVAILABLE), Ok(())));
    }
}
