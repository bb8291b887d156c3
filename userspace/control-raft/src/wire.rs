//! What members say to each other, and how it is sent.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use control_api::Member;
use control_api::client::{CallError, Client};
use control_api::tls::TlsError;
use hyper::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::PeerTls;

/// Sends requests to other members; all clones share one pool of connections.
#[derive(Clone)]
pub struct Wire {
    pub client: Client,
    cluster_name: String,
}

/// Why another member's answer is not here.
#[derive(Debug, Clone)]
pub enum WireError {
    Call(CallError),
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
    pub run: u64,
    /// The member is shutting down: no need to wait for its silence.
    pub leaving: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// When the leader heard of each member, in milliseconds since 1970.
    pub heard: BTreeMap<String, u64>,
    pub voters: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct IdentityAnswer {
    pub name: String,
    /// It is part of a cluster that has started.
    pub initialised: bool,
    pub voters: Vec<String>,
    /// Everybody who ever registered.
    pub members: Vec<String>,
}

/// A member that lost its data, or a new one, asks the leader to be taken in.
#[derive(Debug, Serialize, Deserialize)]
pub struct Admission {
    pub name: String,
    /// Of the data directory, see [`Member::instance`].
    pub instance: String,
    pub url: String,
    pub step: AdmissionStep,
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
    /// Without `tls` members are reached in plain text alone.
    pub fn new(cluster_name: &str, tls: Option<&PeerTls>) -> Result<Self, TlsError> {
        let client = match tls {
            Some(tls) => Client::trusting(CONNECT_TIMEOUT, &tls.client)?,
            None => Client::new(CONNECT_TIMEOUT),
        };
        Ok(Wire { client, cluster_name: cluster_name.to_owned() })
    }

    pub async fn post<R: DeserializeOwned>(
        &self,
        url: &str,
        path: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<R, WireError> {
        let body = serde_json::to_vec(body).expect("our own types have text keys and no failing serializers");
        self.exchange(Method::POST, url, path, body.into(), timeout).await
    }

    pub async fn get<R: DeserializeOwned>(&self, url: &str, path: &str, timeout: Duration) -> Result<R, WireError> {
        self.exchange(Method::GET, url, path, Bytes::new(), timeout).await
    }

    pub async fn exchange<R: DeserializeOwned>(
        &self,
        method: Method,
        url: &str,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<R, WireError> {
        let url = join(url, path);
        let headers = [(CLUSTER_HEADER, self.cluster_name.as_str()), ("content-type", "application/json")];
        let answer = self.client.call(method, &url, &headers, body, timeout).await.map_err(WireError::Call)?;
        let garbled = |reason: serde_json::Error| {
            WireError::Call(CallError {
                url: url.clone(),
                reason: format!("unreadable answer: {reason}"),
                unsent: false,
            })
        };
        match answer.status.as_u16() {
            200 => serde_json::from_slice(&answer.body).map_err(garbled),
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

    pub fn cluster_headers(&self) -> [(&str, &str); 1] {
        [(CLUSTER_HEADER, &self.cluster_name)]
    }
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            WireError::Call(error) => error.fmt(f),
            WireError::NotLeader(Some(leader)) => write!(f, "not the leader; {leader} is"),
            WireError::NotLeader(None) => f.write_str("not the leader, and knows none"),
            WireError::Refused { status, message } => write!(f, "{status}: {message}"),
        }
    }
}

impl std::error::Error for WireError {}

pub fn join(url: &str, path: &str) -> String {
    format!("{}{path}", url.trim_end_matches('/'))
}

/// Carries the cluster's name, so that members of different clusters refuse each other.
pub const CLUSTER_HEADER: &str = "x-weir-cluster";
/// 423 Locked: another process has the name.
pub const NAME_TAKEN: u16 = 423;
/// 421 Misdirected Request.
pub const NOT_LEADER: u16 = 421;
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
