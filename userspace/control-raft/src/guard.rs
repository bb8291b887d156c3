//! Who is answered on the peer URL: members of this cluster, and nobody else.
//!
//! In this order: no browser, whatever page it shows; then whoever proves to be a member, by a signature with the cluster's secret
//! or by a certificate, or who needs no proof because it is on this machine (or `--insecure-peers` says so); then only who names
//! this cluster, and means this member. Nobody else learns more than that this port is not for them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base_text::{Seldom, quoted};
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::config::{Config, host_port};
use crate::control::{Inner, lock};
use crate::join::{AUTHORITY_PATH, JOIN_PATH};
use crate::peer::refuse;
use crate::seal::{
    CLUSTER, CLUSTER_ID, Call, DIGEST, ENDLESS, EPOCH, FROM, HELLO, Hello, INSTANCE, NONCE, NUMBER, SIGNATURE, TO,
    answer_parts, hello_parts,
};
use crate::secret::{ClusterSecret, fingerprint};
use crate::sessions::{Callers, Stale};
use crate::wire::UNWELCOME;

/// Where a call comes from, as the connection says.
#[derive(Clone)]
pub struct Origin {
    pub address: IpAddr,
    pub certificate: Option<Arc<CertificateDer<'static>>>,
}

/// The member that calls, as it says itself; with certificates it cannot say another's name.
#[derive(Clone)]
pub struct Caller(pub Arc<str>);

/// The signature of the call, which its answer goes with.
#[derive(Clone)]
pub struct Signature(pub Arc<str>);

/// The caller has shown to be a member, or is on this machine: it may be told what is secret. Whoever calls without it got in by
/// `--insecure-peers`.
#[derive(Clone)]
pub struct Proven;

/// Marks an answer that has no end; its lines are signed one by one.
#[derive(Clone)]
pub struct Endless;

pub struct Guard {
    secret: Option<ClusterSecret>,
    insecure: bool,
    /// Members' certificates are the cluster's own, each for one name; strangers show none.
    issued: bool,
    callers: Callers,
    /// Names that this member is reached by. A page whose name was pointed at this machine calls it by another.
    names: BTreeSet<String>,
    refused: [AtomicU64; Why::ALL.len()],
    told: Mutex<[Seldom; Why::ALL.len()]>,
}

/// Why a call is not answered, as the metric has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Browser,
    Unauthenticated,
    /// Not signed for this start of this member. A caller's first call after it; nothing to tell anybody.
    Stale,
    Replayed,
    Cluster,
    Name,
    /// Its certificate went with a member that was removed.
    Revoked,
    /// As many connections as may be are open: this one is closed unheard.
    Crowded,
}

struct Refused {
    why: Why,
    status: StatusCode,
    message: String,
}

impl Guard {
    pub fn new(config: &Config, peer_url: &str) -> Guard {
        let urls =
            config.listen_peer_urls.iter().chain(&config.primary_peer_urls).chain(config.initial_cluster.values());
        let urls = urls.map(String::as_str).chain([peer_url]).chain(config.advertise_peer_url.as_deref());
        let mut names: BTreeSet<String> =
            urls.filter_map(|url| host_port("", url).ok()).map(|(host, _)| host.to_ascii_lowercase()).collect();
        names.insert("localhost".into());
        let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        names.insert(own.trim().to_ascii_lowercase());
        Guard {
            secret: config.secret.clone(),
            insecure: config.insecure_peers,
            issued: config.issued.is_some(),
            callers: Callers::new(),
            names,
            refused: Default::default(),
            told: Mutex::new([const { Seldom::once_in(TOLD_AGAIN) }; Why::ALL.len()]),
        }
    }

    pub fn secret(&self) -> Option<&ClusterSecret> {
        self.secret.as_ref()
    }

    /// A stranger whose token is none.
    pub fn count_stranger(&self) {
        self.refused[Why::Unauthenticated as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection beyond those that may be open.
    pub fn count_crowded(&self) {
        self.refused[Why::Crowded as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Calls that were refused, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Why::ALL.iter().map(|why| (why.name(), self.refused[*why as usize].load(Ordering::Relaxed)))
    }

    fn count(&self, refused: &Refused, origin: &Origin) {
        self.refused[refused.why as usize].fetch_add(1, Ordering::Relaxed);
        if refused.why != Why::Stale && lock(&self.told)[refused.why as usize].is_due() {
            tracing::warn!(from = %origin.address, reason = refused.why.name(), "not answered on the peer URL: {}", refused.message);
        }
    }

    /// Whether the call is signed as it should be: its signature.
    fn proven(&self, secret: &ClusterSecret, request: &Request) -> Result<Signature, Refused> {
        let headers = request.headers();
        let signature = text(headers, SIGNATURE);
        let (epoch, caller, number) = (text(headers, EPOCH), text(headers, INSTANCE), text(headers, NUMBER));
        if signature.is_empty() {
            return Err(Refused::unauthenticated(
                "calls to this member are signed: give the caller the --cluster-secret-file of its cluster",
            ));
        }
        if epoch != self.callers.epoch() {
            return Err(Refused::stale());
        }
        let call = Call {
            cluster: text(headers, CLUSTER),
            cluster_id: text(headers, CLUSTER_ID),
            from: text(headers, FROM),
            to: text(headers, TO),
            method: request.method().as_str(),
            path: request.uri().path_and_query().map_or("", |path| path.as_str()),
            body: text(headers, DIGEST),
            epoch,
            caller,
            number,
        };
        let wrong = || {
            Refused {
            why: Why::Unauthenticated,
            status: StatusCode::FORBIDDEN,
            message: "the call is not signed with this cluster's secret: give both members the same --cluster-secret-file; while \
                      one secret replaces another, both are in the file of every member"
                .into(),
        }
        };
        if caller.len() > INSTANCE_BYTES_MAX || !secret.signed(&call.parts(), signature.as_bytes()) {
            return Err(wrong());
        }
        let number = number.parse().map_err(|_| wrong())?;
        match self.callers.admit(epoch, caller, number) {
            Ok(()) => Ok(Signature(signature.into())),
            Err(Stale::Epoch) => Err(Refused::stale()),
            Err(Stale::Replayed) => Err(Refused {
                why: Why::Replayed,
                status: StatusCode::UNAUTHORIZED,
                message: "the call came before, or far too late".into(),
            }),
        }
    }

    fn named(&self, headers: &HeaderMap) -> bool {
        let host = text(headers, header::HOST.as_str());
        let name = host.parse::<axum::http::uri::Authority>();
        let name = name.as_ref().map_or(host, |authority| authority.host());
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>().is_ok() || self.names.contains(&bare.to_ascii_lowercase())
    }
}

/// Lets members through.
pub async fn guard(Shared(inner): Shared<Arc<Inner>>, request: Request, next: Next) -> Response {
    let origin = request.extensions().get::<Origin>().cloned();
    let origin = origin.unwrap_or(Origin { address: IpAddr::from([0, 0, 0, 0]), certificate: None });
    match look(&inner, &origin, request).await {
        Ok(Let::Say(answer)) => answer,
        Ok(Let::In(request)) => {
            let signature = request.extensions().get::<Signature>().cloned();
            let answer = next.run(request).await;
            match (signature, inner.door.guard.secret()) {
                (Some(signature), Some(secret)) => signed(secret, &signature, answer).await,
                _ => answer,
            }
        }
        Err((refused, signature)) => {
            inner.door.guard.count(&refused, &origin);
            let answer = refuse(refused.status, refused.message);
            match (signature, inner.door.guard.secret()) {
                (Some(signature), Some(secret)) => signed(secret, &signature, answer).await,
                _ => answer,
            }
        }
    }
}

enum Let {
    In(Request),
    Say(Response),
}

async fn look(inner: &Inner, origin: &Origin, request: Request) -> Result<Let, (Refused, Option<Signature>)> {
    let guard = &inner.door.guard;
    if is_browser(request.method(), request.headers()) {
        return Err((Refused::browser(), None));
    }
    if let (Some(secret), HELLO, &Method::GET) = (&guard.secret, request.uri().path(), request.method()) {
        return Ok(Let::Say(hello(secret, guard.callers.epoch(), text(request.headers(), NONCE))));
    }
    let unsigned = text(request.headers(), SIGNATURE).is_empty();
    let signature = match &guard.secret {
        Some(_) if unsigned && guard.insecure => None,
        Some(secret) => Some(guard.proven(secret, &request).map_err(|refused| (refused, None))?),
        None => None,
    };
    let proven = signature.is_some() || origin.certificate.is_some();
    if guard.issued && origin.certificate.is_none() {
        if ![AUTHORITY_PATH, JOIN_PATH].contains(&request.uri().path()) {
            let message =
                "members of this cluster show a certificate that it issued: start the caller with --join TOKEN";
            return Err((Refused::unauthenticated(message), None));
        }
        return Ok(Let::In(request));
    }
    if !proven && !guard.insecure && !origin.address.to_canonical().is_loopback() {
        return Err((
            Refused::unauthenticated(
                "in plain text and without a secret this member answers its own machine alone: give both --cluster-secret-file",
            ),
            None,
        ));
    }
    if !proven && !guard.named(request.headers()) {
        return Err((Refused::browser(), None));
    }
    if let Err(refused) = belongs(inner, origin, request.headers(), proven) {
        return Err((refused, signature));
    }
    let caller = Caller(text(request.headers(), FROM).into());
    let (mut head, body) = request.into_parts();
    if proven || origin.address.to_canonical().is_loopback() {
        head.extensions.insert(Proven);
    }
    let body = match &signature {
        None => body,
        Some(_) => {
            // Only now: nobody else makes this member hold a body.
            let read = to_bytes(body, usize::MAX).await.unwrap_or_default();
            if text(&head.headers, DIGEST) != fingerprint(&read) {
                let message = "the body is not the one that was signed: it broke off, or somebody changed it";
                return Err((Refused::unauthenticated(message), None));
            }
            Body::from(read)
        }
    };
    head.extensions.insert(caller);
    if let Some(signature) = signature {
        head.extensions.insert(signature);
    }
    Ok(Let::In(Request::from_parts(head, body)))
}

/// The caller means this cluster and this member, and is who it says.
fn belongs(inner: &Inner, origin: &Origin, headers: &HeaderMap, proven: bool) -> Result<(), Refused> {
    let (cluster, from, to) = (text(headers, CLUSTER), text(headers, FROM), text(headers, TO));
    if cluster.is_empty() || from.is_empty() {
        let message =
            "a member's call names its cluster and itself; this port is for members, people use the admin API";
        return Err(Refused { why: Why::Cluster, status: StatusCode::FORBIDDEN, message: message.into() });
    }
    let elsewhere = |message: String| Err(Refused { why: Why::Cluster, status: StatusCode::CONFLICT, message });
    if cluster != inner.cluster_name() {
        // Its own name a member tells only to who has shown to be one.
        let ours =
            if proven { format!("cluster {}", quoted(inner.cluster_name())) } else { "another cluster".to_owned() };
        return elsewhere(format!(
            "this member belongs to {ours}, the caller ({from}) to {}: give both the same --cluster-name, or correct the \
             peer URLs",
            quoted(cluster)
        ));
    }
    let (theirs, ours) = (text(headers, CLUSTER_ID), inner.wire().cluster_id());
    if !theirs.is_empty() && inner.survives(theirs) {
        return Err(Refused {
            why: Why::Cluster,
            status: StatusCode::GONE,
            message: format!(
                "the cluster with the id {theirs} was lost, and its member {} goes on as a cluster with the id {ours}: the caller ({from}) \
                 belongs to the lost one and takes part in nothing any more. To make it a member of this cluster, stop it, move raft.redb out \
                 of its --data-dir and start it (leave the folder edge, which holds what its edge serves; weirctl last-good says what the \
                 cluster lacks of it)",
                quoted(inner.name())
            ),
        });
    }
    if !theirs.is_empty() && !ours.is_empty() && theirs != ours {
        return elsewhere(format!(
            "this member and the caller ({from}) belong to two clusters of one name, {} (their ids are {ours} and \
             {theirs}): correct the peer URLs; or, to make the caller a member of this cluster, stop it, move raft.redb out of its \
             --data-dir and start it (leave the folder edge, which holds what its edge serves; weirctl last-good says what the \
             cluster lacks of it)",
            quoted(cluster)
        ));
    }
    if !to.is_empty() && to != inner.name() {
        return Err(Refused {
            why: Why::Name,
            status: StatusCode::CONFLICT,
            message: format!(
                "the call is for member {}, and this is another: correct the URLs in --initial-cluster",
                quoted(to)
            ),
        });
    }
    if let Some(certificate) = &origin.certificate
        && let Some(message) = inner.revoked(from, certificate)
    {
        let status = StatusCode::from_u16(UNWELCOME).expect("423 is a status");
        return Err(Refused { why: Why::Revoked, status, message });
    }
    match &origin.certificate {
        Some(certificate) if !is_member(inner, certificate, from) => Err(Refused {
            why: Why::Name,
            status: StatusCode::FORBIDDEN,
            message: format!(
                "the caller says it is member {}, and its certificate is neither for that name nor for the host of that \
                 member's peer URL: give it one with DNS:{from} among its names (--peer-cert-file)",
                quoted(from)
            ),
        }),
        _ => Ok(()),
    }
}

/// One that the cluster issued is for the member it is made out to, known or not: its other names are hosts that member is reached at.
fn is_member(inner: &Inner, certificate: &CertificateDer<'_>, name: &str) -> bool {
    if inner.door.guard.issued {
        return control_api::certificates::subject(certificate).as_deref() == Some(name);
    }
    is_of(certificate, name, &inner.hosts_of(name))
}

/// The certificate is for the member's name, or for a host that the cluster knows it at. A member that nobody knows yet may have
/// any: by letting it register its name is bound to its peer URL.
fn is_of(certificate: &CertificateDer<'_>, name: &str, hosts: &[String]) -> bool {
    let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return false };
    let is_for = |name: &str| ServerName::try_from(name).is_ok_and(|name| verify_server_name(&parsed, &name).is_ok());
    hosts.is_empty() || is_for(name) || hosts.iter().any(|host| is_for(host))
}

/// Whether a certificate is for the host of this URL or for this name.
pub fn certifies(origin: &Origin, name: &str, url: &str) -> bool {
    let host = host_port("", url).map(|(host, _)| host).unwrap_or_default();
    origin.certificate.as_ref().is_none_or(|certificate| is_of(certificate, name, &[host]))
}

fn hello(secret: &ClusterSecret, epoch: String, nonce: &str) -> Response {
    let signature = secret.sign(&hello_parts(nonce, &epoch));
    let body = serde_json::to_string(&Hello { epoch }).unwrap_or_default();
    ([(SIGNATURE, signature), ("content-type", "application/json".into())], body).into_response()
}

async fn signed(secret: &ClusterSecret, signature: &Signature, answer: Response) -> Response {
    let (mut head, body) = answer.into_parts();
    let (body, digest) = if head.extensions.remove::<Endless>().is_some() {
        (body, ENDLESS.to_owned())
    } else {
        // Our own handlers' bodies are in memory already.
        let whole = to_bytes(body, usize::MAX).await.unwrap_or_default();
        let digest = fingerprint(&whole);
        (Body::from(whole), digest)
    };
    let answered = secret.sign(&answer_parts(&signature.0, head.status.as_str(), &digest));
    if let Ok(value) = HeaderValue::from_str(&answered) {
        head.headers.insert(SIGNATURE, value);
    }
    Response::from_parts(head, body)
}

/// Every browser says one of these, and no member does. Forms and scripts of a page may send bodies to anywhere only in the old
/// types.
fn is_browser(method: &Method, headers: &HeaderMap) -> bool {
    let says = headers.keys().any(|name| {
        let name = name.as_str();
        BROWSERS_SAY.contains(&name) || name.starts_with("sec-fetch-") || name.starts_with("sec-ch-")
    });
    let agent = text(headers, header::USER_AGENT.as_str());
    let kind = text(headers, header::CONTENT_TYPE.as_str());
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let ours = kind.eq_ignore_ascii_case("application/json") || *method == Method::GET && kind.is_empty();
    says || agent.starts_with("Mozilla/") || !ours
}

impl Why {
    const ALL: [Why; 8] = [
        Why::Browser,
        Why::Unauthenticated,
        Why::Stale,
        Why::Replayed,
        Why::Cluster,
        Why::Name,
        Why::Revoked,
        Why::Crowded,
    ];

    fn name(self) -> &'static str {
        match self {
            Why::Browser => "browser",
            Why::Unauthenticated => "unauthenticated",
            Why::Stale => "stale",
            Why::Replayed => "replayed",
            Why::Cluster => "cluster",
            Why::Name => "name",
            Why::Revoked => "revoked",
            Why::Crowded => "crowded",
        }
    }
}

impl Refused {
    fn browser() -> Refused {
        let message = "this port is for the members of a cluster, who send JSON and no browser's headers; people use the admin API";
        Refused { why: Why::Browser, status: StatusCode::FORBIDDEN, message: message.into() }
    }

    fn unauthenticated(message: &str) -> Refused {
        Refused { why: Why::Unauthenticated, status: StatusCode::UNAUTHORIZED, message: message.into() }
    }

    fn stale() -> Refused {
        let message = "the call is signed for another member, or another start of this one; sign it anew";
        Refused { why: Why::Stale, ..Refused::unauthenticated(message) }
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Headers beside `sec-…` that browsers send and members do not.
const BROWSERS_SAY: [&str; 6] =
    ["origin", "referer", "cookie", "accept-language", "upgrade-insecure-requests", "access-control-request-method"];
/// How often the log repeats that somebody is refused, for each reason.
const TOLD_AGAIN: Duration = Duration::from_secs(10);
/// As callers draw it.
const INSTANCE_BYTES_MAX: usize = 32;
