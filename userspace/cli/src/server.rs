//! Talking to the admin API.

use std::time::{Duration, Instant};

use base_model::yaml;
use control_api::LEADERLESS_HEADER;
use control_api::client::{Answer, CallError, Client};
use http_body_util::BodyExt;
use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use serde_json::Value;

use crate::config::Context;

pub struct Server {
    client: Client,
    base: String,
    authorization: Option<String>,
}

fn tell_warnings(answer: &Answer) {
    for warning in warnings(answer) {
        eprintln!("warning: {warning}");
    }
}

fn warnings(answer: &Answer) -> Vec<String> {
    let text = |warning: &HeaderValue| {
        let text = String::from_utf8_lossy(warning.as_bytes()).into_owned();
        let text = text.strip_prefix("299 weir \"").and_then(|text| text.strip_suffix('"')).unwrap_or(&text);
        text.replace("\\\"", "\"").replace("\\\\", "\\")
    };
    answer.headers.get_all("warning").iter().map(text).collect()
}

impl Server {
    pub fn new(context: &Context) -> Result<Self, String> {
        let base = context.server.trim_end_matches('/').to_owned();
        let client = match base.split_once("://").map(|(scheme, _)| scheme) {
            Some("http") => Client::default(),
            Some("https") => Client::trusting(CONNECT, &context.trust).map_err(|error| error.to_string())?,
            _ => {
                return Err(format!(
                    "--server {base}: neither http:// nor https://; write an address, or one of these"
                ));
            }
        };
        Ok(Server { client, base, authorization: context.authorization.clone() })
    }

    pub async fn get(&self, path: &str) -> Result<Value, String> {
        let answer = self.call(Method::GET, path, String::new()).await?;
        value(&answer)
    }

    /// With what the answer warns of.
    pub async fn get_warned(&self, path: &str) -> Result<(Value, Vec<String>), String> {
        let answer = self.call(Method::GET, path, String::new()).await?;
        Ok((value(&answer)?, warnings(&answer)))
    }

    /// With the `ETag` that a change made from it comes back with.
    pub async fn get_tagged(&self, path: &str) -> Result<(Value, Option<String>), String> {
        let answer = self.call(Method::GET, path, String::new()).await?;
        let tag = answer.headers.get("etag").and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        Ok((value(&answer)?, tag))
    }

    pub async fn text(&self, path: &str) -> Result<String, String> {
        let answer = self.call(Method::GET, path, String::new()).await?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Sends a change; warnings go to stderr.
    pub async fn send(&self, method: Method, path: &str, body: String) -> Result<Answer, String> {
        self.send_if(method, path, body, None).await
    }

    /// Sends a change of what was there when it had this tag.
    pub async fn send_if(&self, method: Method, path: &str, body: String, tag: Option<&str>) -> Result<Answer, String> {
        let answer = self.call_if(method, path, body, tag).await?;
        tell_warnings(&answer);
        Ok(answer)
    }

    /// Sends a change, again and again while nothing can be decided: a majority may be missed for the moment in which another leader is
    /// elected, and whoever waits for the change anyhow is not to look for that. What came of a try that nobody answered is not known, so
    /// that something to be deleted may be gone by then.
    pub async fn insist(&self, method: Method, path: &str, until: Instant) -> Result<(), String> {
        let mut is_unknown = false;
        loop {
            let answer = self.answer(method.clone(), path, String::new(), None).await;
            let why = match answer {
                Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => {
                    self.refusal(answer.status, &answer.body)
                }
                Ok(answer) => {
                    tell_warnings(&answer);
                    let is_gone = is_unknown && method == Method::DELETE && answer.status == StatusCode::NOT_FOUND;
                    return match answer.status.is_success() || is_gone {
                        true => Ok(()),
                        false => Err(self.refusal(answer.status, &answer.body)),
                    };
                }
                Err(why) => why,
            };
            is_unknown = true;
            if Instant::now() >= until {
                return Err(why);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Whether the machine serves, and whether anybody leads its cluster; warnings go to stderr.
    pub async fn health(&self) -> Result<(), String> {
        let answer = self.call(Method::GET, "/healthz", String::new()).await?;
        tell_warnings(&answer);
        match answer.headers.contains_key(LEADERLESS_HEADER) {
            true => {
                Err("nobody leads the cluster as far as this machine knows: it serves traffic, and no change is taken"
                    .into())
            }
            false => Ok(()),
        }
    }

    pub async fn call(&self, method: Method, path: &str, body: String) -> Result<Answer, String> {
        self.call_if(method, path, body, None).await
    }

    async fn call_if(&self, method: Method, path: &str, body: String, tag: Option<&str>) -> Result<Answer, String> {
        let answer = self.answer(method, path, body, tag).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        tell_warnings(&answer);
        Err(self.refusal(answer.status, &answer.body))
    }

    /// What the server says, be it no.
    async fn answer(&self, method: Method, path: &str, body: String, tag: Option<&str>) -> Result<Answer, String> {
        let url = format!("{}/apis/v2{path}", self.base);
        let mut headers = vec![("accept", "application/json"), ("content-type", "application/yaml")];
        if let Some(authorization) = &self.authorization {
            headers.push(("authorization", authorization));
        }
        if let Some(tag) = tag {
            headers.push(("if-match", tag));
        }
        self.client.call(method, &url, &headers, body, PATIENCE).await.map_err(|e| self.unreached(&e))
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> String {
        match serde_json::from_slice::<Value>(body) {
            Ok(error) if error["message"].is_string() => error["message"].as_str().unwrap_or_default().to_owned(),
            _ => format!("{} answered {status}: {}", self.base, String::from_utf8_lossy(body)),
        }
    }

    /// Hands on a stream of text as it arrives, as long as it is taken.
    pub async fn stream(&self, path: &str, mut take: impl FnMut(&[u8]) -> bool) -> Result<(), String> {
        let url = format!("{}/apis/v2{path}", self.base);
        let headers: Vec<(&str, &str)> = self.authorization.iter().map(|a| ("authorization", a.as_str())).collect();
        let response = self.client.open(Method::GET, &url, &headers, PATIENCE).await.map_err(|e| self.unreached(&e))?;
        if !response.status().is_success() {
            let status = response.status();
            let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            return Err(self.refusal(status, &body));
        }
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| format!("the stream broke off: {e}"))?;
            if let Ok(data) = frame.into_data()
                && !take(&data)
            {
                break;
            }
        }
        Ok(())
    }

    fn unreached(&self, error: &CallError) -> String {
        let advice = if self.base.starts_with("http://") && !error.unsent {
            "if it speaks TLS there, write https:// or --force-tls"
        } else if error.reason.contains("UnknownIssuer") {
            "give the authority that signed its certificate with --certificate-authority"
        } else if error.reason.contains("CertificateRequired") {
            "it asks for a certificate: give --client-certificate and --client-key"
        } else {
            "is weir running there? another address is given with --server"
        };
        format!("cannot reach {}: {}; {advice}", self.base, error.reason)
    }
}

pub fn value(answer: &Answer) -> Result<Value, String> {
    if answer.body.is_empty() {
        return Ok(Value::Null);
    }
    let text = String::from_utf8_lossy(&answer.body);
    serde_json::from_str(&text)
        .or_else(|_| yaml::parse_document(&text))
        .map_err(|e| format!("the server's answer cannot be read: {e}"))
}

/// A segment of a path.
pub fn segment(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

const CONNECT: Duration = Duration::from_secs(3);
/// Longer than the server's own `--cluster-request-timeout`, so that its reason is heard.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Between two tries of a change that cannot be decided.
const AGAIN: Duration = Duration::from_millis(500);
