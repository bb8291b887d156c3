//! One request to the API server, and in words why it was not answered as it should be.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base_text::quoted;
use bytes::Bytes;
use control_api::Kept;
use control_api::client::Client;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, StatusCode, header};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use tokio::sync::watch;

use crate::access::{self, Access};
use crate::kinds::Kind;
use crate::object::Key;

/// The API server. Clones share connections.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

struct Inner {
    kube_config: String,
    master_url: String,
    current: Mutex<Current>,
    /// Which of the versions of a kind this API server has; the newest, until it says otherwise.
    versions: Mutex<BTreeMap<Kind, usize>>,
    /// Changes when connections from before may be dead without saying so.
    doubts: watch::Sender<()>,
}

/// What the files said when they were read last.
struct Current {
    access: Access,
    client: Client,
    /// `Authorization`, and when it was read.
    header: Option<(Instant, Option<String>)>,
}

/// Why a request was not answered as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// 0 where there was no answer at all.
    pub status: u16,
    /// Who, where, what, and what to do.
    pub told: String,
    /// How long it asks to be left alone, which is half a minute at most whatever it says.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told)
    }
}

impl ApiError {
    /// Nothing is asked of whoever comes again.
    pub(crate) fn new(status: u16, told: String) -> ApiError {
        ApiError { status, told, retry_after: None }
    }

    /// It has nothing to do with what was asked: there was no answer, or the API server has too much to do, or it is not there behind what
    /// answers for it. The same may be asked again.
    pub fn is_passing(&self) -> bool {
        matches!(self.status, 0 | 429 | 502 | 503 | 504) || self.status >= 500 && self.retry_after.is_some()
    }

    /// What was known is too old to go on from: everything is asked for anew.
    pub fn is_gone(&self) -> bool {
        self.status == StatusCode::GONE.as_u16()
    }

    /// Somebody has written in between.
    pub fn is_conflict(&self) -> bool {
        self.status == StatusCode::CONFLICT.as_u16()
    }

    pub fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND.as_u16()
    }
}

/// What the API server says when it refuses.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub message: String,
    pub reason: String,
    pub code: u16,
}

impl Api {
    pub fn new(kube_config: &str, master_url: &str) -> Result<Api, String> {
        let current = Mutex::new(Current::of(access::find(kube_config, master_url)?)?);
        let (kube_config, master_url) = (kube_config.to_owned(), master_url.to_owned());
        let doubts = watch::Sender::new(());
        Ok(Api { inner: Arc::new(Inner { kube_config, master_url, current, versions: Mutex::default(), doubts }) })
    }

    /// Reads the files again that say where the API server is and whom to believe: after a fault they may say something else.
    pub fn renew(&self) {
        let inner = &self.inner;
        // What cannot be read now changes nothing: it is being written, or the fault that follows says so.
        let Ok(access) = access::find(&inner.kube_config, &inner.master_url) else { return };
        let Ok(fresh) = Current::of(access) else { return };
        *inner.current.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// It answers again after it did not: what was cut off meanwhile may never say so. Watches are begun anew from where they are.
    pub fn doubt_watches(&self) {
        self.inner.doubts.send_replace(());
    }

    pub(crate) fn doubts(&self) -> watch::Receiver<()> {
        self.inner.doubts.subscribe()
    }

    /// The version of a kind that is asked for.
    pub fn version(&self, kind: Kind) -> &'static str {
        let versions = self.inner.versions.lock().unwrap_or_else(PoisonError::into_inner);
        kind.versions()[versions.get(&kind).copied().unwrap_or(0)]
    }

    /// This API server does not know the version that was asked for: the next one is. Says whether there is one; else it is begun anew.
    pub(crate) fn next_version(&self, kind: Kind) -> bool {
        let mut versions = self.inner.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let at = versions.entry(kind).or_insert(0);
        *at = (*at + 1) % kind.versions().len();
        *at > 0
    }

    /// As messages call the API server.
    pub fn place(&self) -> String {
        self.inner.current.lock().unwrap_or_else(PoisonError::into_inner).access.server.clone()
    }

    fn prepared(&self) -> Result<(Client, String, Option<String>), ApiError> {
        let mut current = self.inner.current.lock().unwrap_or_else(PoisonError::into_inner);
        let header = match &current.header {
            Some((read, header)) if read.elapsed() < TOKEN_READ_AGAIN => header.clone(),
            _ => {
                let header = current.access.login.header().map_err(|told| ApiError::new(0, told))?;
                current.header = Some((Instant::now(), header.clone()));
                header
            }
        };
        Ok((current.client.clone(), current.access.server.clone(), header))
    }

    /// The head of an answer of 2xx, with a body that is yet to come. `patience` bounds the wait for the head.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
        patience: Duration,
    ) -> Result<Incoming, ApiError> {
        let (client, server, login) = self.prepared()?;
        let url = format!("{server}{path}");
        let mut headers = vec![("accept", "application/json"), ("user-agent", "weir")];
        if !content_type.is_empty() {
            headers.push(("content-type", content_type));
        }
        if let Some(login) = &login {
            headers.push(("authorization", login));
        }
        let verb = verb(&method, path);
        let opened = client.open_with(method, &url, &headers, body, patience).await;
        let response = opened.map_err(|error| told(0, &server, path, &error.reason))?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED {
            // The token was replaced before its time.
            self.inner.current.lock().unwrap_or_else(PoisonError::into_inner).header = None;
        }
        let retry_after = retry_after(response.headers());
        let said = Limited::new(response.into_body(), REFUSAL_MAX).collect();
        let said = tokio::time::timeout(patience, said).await;
        let said = said.ok().and_then(Result::ok).map(|said| said.to_bytes()).unwrap_or_default();
        let parsed: Status = serde_json::from_slice(&said).unwrap_or_default();
        let text = match parsed.message.as_str() {
            "" => beginning(&said),
            message => message.chars().take(MESSAGE_SHOWN).collect(),
        };
        let code = status.as_u16();
        let error = told(code, &server, path, &format!("{code} ({text}){}", advice(code, verb, path)));
        Err(ApiError { retry_after, ..error })
    }

    /// The whole answer to a request, as JSON.
    pub async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Result<T, ApiError> {
        let body = self.open(method, path, content_type, body, ANSWER).await?;
        let whole = tokio::time::timeout(WHOLE, Limited::new(body, ANSWER_MAX).collect()).await;
        let server = self.place();
        let wrong = |what: &str| told(0, &server, path, what);
        let bytes = match whole {
            Err(_) => return Err(wrong(&format!("no whole answer within {}", base_text::duration(WHOLE)))),
            Ok(Err(error)) => {
                let most = ANSWER_MAX >> 20;
                return Err(wrong(&format!("its answer broke off, or is longer than {most} MiB: {error}")));
            }
            Ok(Ok(bytes)) => bytes.to_bytes(),
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            let page = bytes.trim_ascii_start().starts_with(b"<");
            let why = match error.is_data() {
                _ if page => "a page; is a proxy in between, or is it not an API server?",
                true => "not what was asked for",
                false => "not JSON",
            };
            wrong(&format!("its answer is {why} ({error}; {})", beginning(&bytes)))
        })
    }

    /// Whether the API server itself says that it has no version of a kind. Somebody in between who answers 404 says nothing of that.
    pub(crate) async fn lacks(&self, kind: Kind) -> Result<bool, ApiError> {
        let groups: Value = self.json(Method::GET, "/apis", "", Bytes::new()).await?;
        if groups["kind"] != "APIGroupList" {
            return Ok(false);
        }
        let versions = |group: &Value| group["versions"].as_array().cloned().unwrap_or_default();
        let served: Vec<Value> = groups["groups"].as_array().into_iter().flatten().flat_map(versions).collect();
        for version in kind.versions().iter().filter(|version| served.iter().any(|of| of["groupVersion"] == **version))
        {
            let resources: Value = self.json(Method::GET, &format!("/apis/{version}"), "", Bytes::new()).await?;
            let mut all = resources["resources"].as_array().into_iter().flatten();
            if resources["kind"] != "APIResourceList" || all.any(|resource| resource["name"] == kind.plural()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Changes some fields of the status of an object, as long as nobody has written to it since this version.
    pub async fn patch_status(&self, kind: Kind, key: &Key, version: &str, status: &Kept) -> Result<(), ApiError> {
        let path = format!("{}/status", kind.path_of(self.version(kind), &key.namespace, &key.name));
        let mut body = serde_json::json!({"status": status.read()});
        if !version.is_empty() {
            body["metadata"] = serde_json::json!({"resourceVersion": version});
        }
        let body = body.to_string();
        self.json(Method::PATCH, &path, "application/merge-patch+json", body).await.map(|IgnoredAny| ())
    }

    /// Creates an object at a path; one that is there already is as good.
    pub async fn create(&self, path: &str, object: &Value) -> Result<(), ApiError> {
        match self.json(Method::POST, path, "application/json", object.to_string()).await {
            Err(error) if error.is_conflict() => Ok(()),
            other => other.map(|IgnoredAny| ()),
        }
    }

    /// Whether anybody answers.
    pub async fn alive(&self) -> Result<(), ApiError> {
        match self.open(Method::GET, "/version", "", Bytes::new(), ALIVE).await {
            Ok(_) => Ok(()),
            // Whoever may not ask has been answered.
            Err(error) if matches!(error.status, 401 | 403 | 404) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Current {
    fn of(access: Access) -> Result<Current, String> {
        let client = Client::trusting(CONNECT, &access.trust).map_err(|error| error.0)?;
        Ok(Current { access, client, header: None })
    }
}

/// What the API server calls it in its rules.
fn verb(method: &Method, path: &str) -> &'static str {
    match *method {
        Method::GET if path.contains("watch=") => "watch",
        Method::GET => "list",
        Method::PATCH => "patch",
        Method::POST => "create",
        _ => "do this",
    }
}

fn told(status: u16, server: &str, path: &str, what: &str) -> ApiError {
    let place = path.split('?').next().unwrap_or(path);
    ApiError::new(status, format!("Kubernetes at {server}{place}: {what}"))
}

/// `Retry-After` (RFC 9110, section 10.2.3), which API servers write in seconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

fn advice(status: u16, verb: &str, path: &str) -> String {
    let place = path.split('?').next().unwrap_or(path);
    let resource = place.rsplit('/').next().unwrap_or_default();
    let resource = if resource == "status" {
        let kind = place.rsplit('/').nth(2).unwrap_or_default();
        format!("{kind}/status")
    } else {
        resource.to_owned()
    };
    match status {
        401 => "; the login is not believed: give a token that is valid and has not ended".to_owned(),
        403 => format!(
            "; the account may not {verb} {resource}: let a ClusterRole allow it, as deploy/kubernetes/weir.yaml does"
        ),
        404 if verb == "list" || verb == "watch" => {
            format!("; this API server knows no {resource}: install the definitions, or a newer Kubernetes")
        }
        _ => String::new(),
    }
}

/// The first characters, for people.
fn beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN)]);
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN).collect();
    if line.is_empty() { "nothing".to_owned() } else { quoted(&line).to_string() }
}

const CONNECT: Duration = Duration::from_secs(5);
/// For the head of an answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(15);
/// For all of it: a page of a list at most.
const WHOLE: Duration = Duration::from_secs(60);
const ALIVE: Duration = Duration::from_secs(5);
/// Kubelets replace tokens minutes before they end.
const TOKEN_READ_AGAIN: Duration = Duration::from_secs(10);
/// Whoever wants to be left alone for longer is asked all the same: a slip somewhere in between would be for ever.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// A page has at most so many objects that this is far beyond it.
const ANSWER_MAX: usize = 256 << 20;
const REFUSAL_MAX: usize = 64 << 10;
const MESSAGE_SHOWN: usize = 300;
const SHOWN: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_allow() {
        let path = "/apis/networking.k8s.io/v1/ingresses?watch=1";
        assert!(advice(403, verb(&Method::GET, path), path).contains("may not watch ingresses: let a ClusterRole"));
        let path = "/apis/networking.k8s.io/v1/namespaces/a/ingresses/b/status";
        assert!(advice(403, verb(&Method::PATCH, path), path).contains("may not patch ingresses/status"));
        let path = "/apis/gateway.networking.k8s.io/v1/gateways?limit=5";
        assert!(advice(404, verb(&Method::GET, path), path).contains("knows no gateways: install"));
        assert!(advice(401, "list", path).contains("has not ended"));
    }

    #[test]
    fn what_passes_is_told_from_what_was_asked_wrongly() {
        let error = |status: u16, retry_after: Option<u64>| ApiError {
            retry_after: retry_after.map(Duration::from_secs),
            ..ApiError::new(status, String::new())
        };
        assert!([0, 429, 502, 503, 504].iter().all(|status| error(*status, None).is_passing()));
        assert!(error(500, Some(1)).is_passing() && !error(500, None).is_passing());
        assert!([400, 403, 404, 409, 410, 422].iter().all(|status| !error(*status, Some(1)).is_passing()));
        let read = |text: &'static str| {
            retry_after(&[(header::RETRY_AFTER, header::HeaderValue::from_static(text))].into_iter().collect())
        };
        assert_eq!((read("1"), read(" 30 ")), (Some(Duration::from_secs(1)), Some(Duration::from_secs(30))));
        assert_eq!((read("99999999999"), read("-1"), read("soon")), (Some(RETRY_AFTER_MAX), None, None));
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
