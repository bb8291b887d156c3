//! What members say to each other, and how it is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use base_text::duration;
use bytes::Bytes;
use control_api::client::{Answer, CallError, Client};
use control_api::tls::TlsError;
use control_api::{EdgeReport, Member, MemberRole};
use control_state::Mark;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::{Config, PeerTls, host_port, is_here, is_loopback};
use crate::control::lock;
use crate::publish::Publisher;
use crate::seal::{
    CLUSTER, CLUSTER_ID, Call, DIGEST, ENDLESS, EPOCH, FROM, HELLO, Hello, INSTANCE, NONCE, NUMBER, SIGNATURE, TO,
    answer_parts, hello_parts, line_parts,
};
use crate::secret::{ClusterSecret, fingerprint};
use crate::sessions::{Receivers, drawn};
use crate::succession::Believes;
use crate::types::Peer;

/// Sends requests to other members; all clones share one pool of connections.
#[derive(Clone)]
pub struct Wire {
    inner: Arc<Inner>,
}

struct Inner {
    client: RwLock<Client>,
    name: String,
    cluster_name: String,
    publisher: Arc<Publisher>,
    /// The cluster's id as it was written down, until the state says it.
    stored_id: Mutex<String>,
    /// It votes in its cluster and in no other. One that does not vote goes with its primaries, also when they founded their
    /// cluster anew: what it asks them, and what it reports, names no cluster by its id.
    votes: bool,
    secret: Option<ClusterSecret>,
    insecure: bool,
    /// Members show each other certificates.
    encrypted: bool,
    /// Hosts of plain URLs that were found to be on this machine when it started.
    local: BTreeSet<String>,
    receivers: Receivers,
    /// That this member's cluster is over, in the words of its survivor.
    over: watch::Sender<Option<String>>,
}

/// A call on its way: what its answer has to be signed with.
struct Sent {
    headers: Vec<(&'static str, String)>,
    signature: Option<String>,
}

/// An answer that goes on, line by line.
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    /// What of it was searched for the end of a line: a snapshot of megabytes arrives in many frames.
    searched: usize,
    signature: Option<String>,
    number: u64,
    secret: Option<ClusterSecret>,
}

/// Why another member's answer is not here.
#[derive(Debug, Clone)]
pub enum WireError {
    Call(CallError),
    /// Whoever is there has not shown to be a member, or is not to be called at all. Nothing was changed there.
    Untrusted {
        url: String,
        reason: String,
    },
    /// It does not lead; perhaps it knows who does.
    NotLeader(Option<String>),
    Refused {
        status: u16,
        message: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    pub member: Member,
    /// Drawn when the process started: tells two that have the same data directory, of a copied machine say, from each other.
    /// Members of earlier versions say nothing, and are heard all the same.
    #[serde(default)]
    pub run: u64,
    /// The member is shutting down: no need to wait for its silence.
    pub leaving: bool,
    /// What it holds, for the leader to compare.
    #[serde(default)]
    pub mark: Option<Mark>,
    /// Of the machine's edge, where it has one.
    #[serde(default)]
    pub edge: Option<EdgeReport>,
    /// It asks for `heard` by itself where it wants to know it.
    #[serde(default)]
    pub brief: bool,
    /// Whom it believes, where the cluster issues certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub believes: Option<Believes>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// When the leader heard of each member, in milliseconds since 1970; for members of earlier versions, which look for it here.
    pub heard: BTreeMap<String, u64>,
    /// When it wants to hear of this member again, in milliseconds; 0: as soon as always.
    #[serde(default)]
    pub pace_ms: u64,
    pub voters: Vec<String>,
    /// How what the member holds differs from what the leader holds at the same place, if so.
    #[serde(default)]
    pub diverged: Option<String>,
    /// Fingerprints of the authorities that members are to believe.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authorities: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct IdentityAnswer {
    pub name: String,
    /// It is part of a cluster that has started.
    pub initialised: bool,
    pub voters: Vec<String>,
    /// Everybody who ever registered.
    pub members: Vec<String>,
    /// The cluster's feature level.
    #[serde(default)]
    pub level: u32,
}

/// A member that lost its data, or a new one, asks the leader to be taken in.
#[derive(Debug, Serialize, Deserialize)]
pub struct Admission {
    pub name: String,
    /// Of the data directory, see [`Member::instance`].
    #[serde(default)]
    pub instance: String,
    pub url: String,
    pub step: AdmissionStep,
    /// As in [`Member::level`].
    #[serde(default)]
    pub level: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdmissionStep {
    /// Leave the group, so that nobody counts on what was lost.
    Forget,
    /// Copy everything, then vote.
    Admit,
}

impl std::fmt::Display for AdmissionStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            AdmissionStep::Forget => "forget",
            AdmissionStep::Admit => "admit",
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Removal {
    pub name: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct LeaderHint {
    pub leader: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    pub code: u16,
    pub message: String,
}

impl Wire {
    /// Without certificates members are reached in plain text alone, with them over TLS alone.
    pub fn new(config: &Config, publisher: Arc<Publisher>) -> Result<Self, TlsError> {
        let urls = config.initial_cluster.values().chain(&config.primary_peer_urls).chain(&config.advertise_peer_url);
        let hosts = urls.filter_map(|url| host_port("", url).ok()).map(|(host, _)| host);
        let client = match &config.tls {
            Some(tls) => Client::trusting(CONNECT_TIMEOUT, &tls.client())?,
            None => Client::new(CONNECT_TIMEOUT),
        };
        let inner = Inner {
            client: RwLock::new(client),
            name: config.name.clone(),
            cluster_name: config.cluster_name.clone(),
            publisher,
            stored_id: Mutex::default(),
            votes: config.role == MemberRole::Primary,
            secret: config.secret.clone(),
            insecure: config.insecure_peers,
            encrypted: config.tls.is_some(),
            local: hosts.filter(|host| is_loopback(host)).collect(),
            receivers: Receivers::new(),
            over: watch::Sender::new(None),
        };
        Ok(Wire { inner: Arc::new(inner) })
    }

    /// Shows and believes other certificates from now on; calls that are under way end as they began.
    pub fn trust(&self, tls: &PeerTls) -> Result<(), TlsError> {
        let client = Client::trusting(CONNECT_TIMEOUT, &tls.client())?;
        *self.inner.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        Ok(())
    }

    fn client(&self) -> Client {
        self.inner.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The cluster's id, as soon as this member knows it.
    pub fn cluster_id(&self) -> String {
        let state = self.inner.publisher.state();
        if state.view.cluster_id.is_empty() {
            lock(&self.inner.stored_id).clone()
        } else {
            state.view.cluster_id.clone()
        }
    }

    /// Ends when the survivor of a lost cluster says that it was this member's.
    pub async fn over(&self) -> String {
        let mut over = self.inner.over.subscribe();
        // The sender lives as long as this handle does.
        over.wait_for(Option::is_some).await.ok().and_then(|over| over.clone()).unwrap_or_default()
    }

    pub fn note_cluster_id(&self, id: &str) {
        id.clone_into(&mut lock(&self.inner.stored_id));
    }

    pub async fn post<R: DeserializeOwned>(
        &self,
        url: &str,
        path: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<R, WireError> {
        self.exchange(Method::POST, url, "", path, encoded(body), timeout).await
    }

    /// As [`post`](Wire::post), to a member that is known by name: another one behind its URL refuses.
    pub async fn post_to<R: DeserializeOwned>(
        &self,
        peer: &Peer,
        path: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<R, WireError> {
        self.exchange(Method::POST, &peer.url, &peer.name, path, encoded(body), timeout).await
    }

    pub async fn get<R: DeserializeOwned>(&self, url: &str, path: &str, timeout: Duration) -> Result<R, WireError> {
        self.exchange(Method::GET, url, "", path, Bytes::new(), timeout).await
    }

    pub async fn exchange<R: DeserializeOwned>(
        &self,
        method: Method,
        url: &str,
        to: &str,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<R, WireError> {
        let answer = self.call(method, url, to, path, body, timeout).await?;
        serde_json::from_slice(&answer.body)
            .map_err(|reason| failed(&join(url, path), false, format!("unreadable answer: {reason}")))
    }

    /// Reads a whole answer that is well; `to` is the member's name where that is known.
    pub async fn call(
        &self,
        method: Method,
        url: &str,
        to: &str,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Answer, WireError> {
        let whole = join(url, path);
        let call = async {
            for turn in 0.. {
                let sent = self.sign(&method, url, to, path, &body).await?;
                let answer = self.client().call(method.clone(), &whole, &sent.headers(), body.clone(), timeout).await;
                let answer = answer.map_err(WireError::Call)?;
                if turn == 0 && self.stale(url, &sent, answer.status) {
                    continue;
                }
                self.believe(&whole, &sent, answer.status, &answer.headers, Some(&answer.body))?;
                let read = read(answer);
                if let Err(WireError::Refused { status: OVER, message }) = &read {
                    self.inner.over.send_replace(Some(message.clone()));
                }
                return read;
            }
            unreachable!("the second turn returns")
        };
        let late = || failed(&whole, false, format!("no answer within {}", duration(timeout)));
        tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| Err(late()))
    }

    /// Asks for an answer without end; `timeout` bounds the wait for its head.
    pub async fn open(&self, url: &str, path: &str, timeout: Duration) -> Result<Lines, WireError> {
        let whole = join(url, path);
        let none = Bytes::new();
        for turn in 0.. {
            let sent = self.sign(&Method::GET, url, "", path, &none).await?;
            let answer =
                self.client().open(Method::GET, &whole, &sent.headers(), timeout).await.map_err(WireError::Call)?;
            if turn == 0 && self.stale(url, &sent, answer.status()) {
                continue;
            }
            let (head, body) = answer.into_parts();
            if head.status == StatusCode::OK {
                self.believe(&whole, &sent, head.status, &head.headers, None)?;
                let (buffer, signature) = (Vec::new(), sent.signature);
                let secret = self.inner.secret.clone();
                return Ok(Lines { body, buffer, searched: 0, signature, number: 0, secret });
            }
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            self.believe(&whole, &sent, head.status, &head.headers, Some(&body))?;
            let answer = Answer { status: head.status, headers: head.headers, body };
            return Err(read(answer).err().unwrap_or_else(|| failed(&whole, false, "no watch stream".into())));
        }
        unreachable!("the second turn returns")
    }

    /// Headers of a call, signed where there is a secret. Nothing of it goes to somebody who has not shown to have the secret too.
    async fn sign(&self, method: &Method, url: &str, to: &str, path: &str, body: &[u8]) -> Result<Sent, WireError> {
        self.may_reach(url)?;
        let inner = &*self.inner;
        let goes_along = !inner.votes && GO_ALONG.iter().any(|begin| path.starts_with(begin));
        let id = if goes_along { String::new() } else { self.cluster_id() };
        let mut headers = vec![
            (CLUSTER, inner.cluster_name.clone()),
            (CLUSTER_ID, id.clone()),
            (FROM, inner.name.clone()),
            (TO, to.to_owned()),
            ("content-type", "application/json".to_owned()),
        ];
        headers.retain(|(_, value)| !value.is_empty());
        let Some(secret) = &inner.secret else { return Ok(Sent { headers, signature: None }) };
        let Some(epoch) = self.epoch(secret, url).await? else { return Ok(Sent { headers, signature: None }) };
        let (digest, number) = (fingerprint(body), inner.receivers.number().to_string());
        let call = Call {
            cluster: &inner.cluster_name,
            cluster_id: &id,
            from: &inner.name,
            to,
            method: method.as_str(),
            path,
            body: &digest,
            epoch: &epoch,
            caller: &inner.receivers.caller,
            number: &number,
        };
        let signature = secret.sign(&call.parts());
        headers.extend([
            (DIGEST, digest),
            (EPOCH, epoch.to_string()),
            (INSTANCE, inner.receivers.caller.clone()),
            (NUMBER, number),
            (SIGNATURE, signature.clone()),
        ]);
        Ok(Sent { headers, signature: Some(signature) })
    }

    /// The receiver's epoch; `None` when it signs nothing and that is allowed.
    async fn epoch(&self, secret: &ClusterSecret, url: &str) -> Result<Option<Arc<str>>, WireError> {
        let receivers = &self.inner.receivers;
        if let Some(epoch) = receivers.epoch(url) {
            return Ok(Some(epoch));
        }
        let nonce = drawn();
        let whole = join(url, HELLO);
        let headers = [(NONCE, nonce.as_str())];
        let answer = self.client().call(Method::GET, &whole, &headers, Bytes::new(), HELLO_TIMEOUT).await;
        let answer = answer.map_err(|error| WireError::Call(CallError { unsent: true, ..error }))?;
        let hello = serde_json::from_slice::<Hello>(&answer.body).ok().filter(|_| answer.status == StatusCode::OK);
        let signature = answer.headers.get(SIGNATURE).map(|value| value.as_bytes()).unwrap_or_default();
        match hello {
            Some(hello) if secret.signed(&hello_parts(&nonce, &hello.epoch), signature) => {
                Ok(Some(receivers.agreed(url, &hello.epoch)))
            }
            Some(_) => Err(untrusted(url, "it has another secret: give both members the same --cluster-secret-file")),
            None if self.inner.insecure => Ok(None),
            None => Err(untrusted(url, "it signs nothing: give it this cluster's --cluster-secret-file too")),
        }
    }

    /// It was signed for another start of the receiver: once more.
    fn stale(&self, url: &str, sent: &Sent, status: StatusCode) -> bool {
        let stale = sent.signature.is_some() && status == StatusCode::UNAUTHORIZED;
        if stale && let Some((_, epoch)) = sent.headers.iter().find(|(name, _)| *name == EPOCH) {
            self.inner.receivers.forget(url, epoch);
        }
        stale
    }

    /// A signed call is answered by a member: it signs its answer, unless it could not see who called.
    fn believe(
        &self,
        whole: &str,
        sent: &Sent,
        status: StatusCode,
        headers: &HeaderMap,
        body: Option<&[u8]>,
    ) -> Result<(), WireError> {
        let (Some(call), Some(secret)) = (&sent.signature, &self.inner.secret) else { return Ok(()) };
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Ok(());
        }
        let digest = body.map_or_else(|| ENDLESS.to_owned(), fingerprint);
        let signature = headers.get(SIGNATURE).map(|value| value.as_bytes()).unwrap_or_default();
        if secret.signed(&answer_parts(call, status.as_str(), &digest), signature) {
            return Ok(());
        }
        Err(untrusted(whole, "its answer is not signed with this cluster's secret: somebody else answers there"))
    }

    /// In plain text and without a secret nothing leaves this machine, unless that was asked for.
    fn may_reach(&self, url: &str) -> Result<(), WireError> {
        let inner = &*self.inner;
        let plain = url.starts_with("http://");
        let host = || host_port("", url).map(|(host, _)| host).unwrap_or_default();
        let advice = if inner.encrypted && plain {
            "this member talks over https:// alone; correct the other's peer URL"
        } else if !plain
            || inner.secret.is_some()
            || inner.insecure
            || is_here(&host())
            || inner.local.contains(&host())
        {
            return Ok(());
        } else {
            "plain http leaves this machine: give all members --cluster-secret-file, or --insecure-peers"
        };
        Err(untrusted(url, &format!("not called: {advice}")))
    }
}

impl Sent {
    fn headers(&self) -> Vec<(&'static str, &str)> {
        self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }
}

impl Lines {
    /// The next line; `None` at the end.
    pub async fn next(&mut self, timeout: Duration) -> Result<Option<Vec<u8>>, String> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(self.searched + end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                self.searched = 0;
                line.pop();
                return self.checked(line).map(Some);
            }
            self.searched = self.buffer.len();
            match tokio::time::timeout(timeout, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Ok(Some(Err(error))) => return Err(error.to_string()),
                Ok(None) => return Ok(None),
                Err(_) => return Err(format!("silent for {}", duration(timeout))),
            }
        }
    }

    /// Without the signature before it, if it is right.
    fn checked(&mut self, mut line: Vec<u8>) -> Result<Vec<u8>, String> {
        let (Some(call), Some(secret)) = (&self.signature, &self.secret) else { return Ok(line) };
        let number = self.number.to_string();
        self.number += 1;
        let space = line.iter().position(|byte| *byte == b' ');
        match space.filter(|space| secret.signed(&line_parts(call, &number, &line[space + 1..]), &line[..*space])) {
            Some(space) => {
                line.drain(..=space);
                Ok(line)
            }
            None => Err("a line is not signed with this cluster's secret".into()),
        }
    }
}

fn encoded(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body).expect("our own types have text keys and no failing serializers").into()
}

/// A whole answer that is well, or what it says instead.
fn read(answer: Answer) -> Result<Answer, WireError> {
    match answer.status.as_u16() {
        200 => Ok(answer),
        NOT_LEADER => {
            let hint: LeaderHint = serde_json::from_slice(&answer.body).unwrap_or_default();
            Err(WireError::NotLeader(hint.leader))
        }
        status => {
            let message = match serde_json::from_slice::<ErrorBody>(&answer.body) {
                Ok(error) => error.message,
                Err(_) => String::from_utf8_lossy(&answer.body).into_owned(),
            };
            Err(WireError::Refused { status, message })
        }
    }
}

fn untrusted(url: &str, reason: &str) -> WireError {
    WireError::Untrusted { url: url.to_owned(), reason: reason.to_owned() }
}

fn failed(url: &str, unsent: bool, reason: String) -> WireError {
    WireError::Call(CallError { url: url.to_owned(), reason, unsent })
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            WireError::Call(error) => error.fmt(f),
            WireError::Untrusted { url, reason } => write!(f, "{url}: {reason}"),
            WireError::NotLeader(Some(leader)) => write!(f, "not the leader; {leader} is"),
            WireError::NotLeader(None) => f.write_str("not the leader, and knows none"),
            WireError::Refused { status, message } => write!(f, "{status}: {message}"),
        }
    }
}

impl std::error::Error for WireError {}

impl WireError {
    /// What somebody has to put right: it will not pass by itself.
    pub fn is_a_fault_of_configuration(&self) -> bool {
        matches!(self, WireError::Untrusted { .. } | WireError::Refused { status: 401 | 403 | 409, .. })
    }
}

pub fn join(url: &str, path: &str) -> String {
    format!("{}{path}", url.trim_end_matches('/'))
}

/// 410 Gone: the caller's cluster is lost, and this is what became of it.
pub const OVER: u16 = 410;
/// 423 Locked: another process has the name.
pub const UNWELCOME: u16 = 423;
/// 421 Misdirected Request.
pub const NOT_LEADER: u16 = 421;
/// Calls by which a member that does not vote finds out where its primaries are by now.
const GO_ALONG: [&str; 2] = ["/watch", "/raft/heartbeat"];
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
const HELLO_TIMEOUT: Duration = Duration::from_millis(500);
