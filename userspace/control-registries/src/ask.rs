//! One request to a registry, whose answer may be anything: half of one, an error, the page of a proxy in between.

use std::time::Duration;

use base_text::quoted;
use bytes::Bytes;
use control_api::client::Client;
use control_api::tls::ClientTrust;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Response, StatusCode};
use serde_json::Value;

/// Asks one kind of registry.
#[derive(Clone)]
pub struct Asker {
    client: Client,
    /// What people call it.
    product: &'static str,
    /// What may be wrong when it answers 401 or 403.
    login: &'static str,
}

impl Asker {
    /// `product` and `login` are for what people are told.
    pub fn new(product: &'static str, login: &'static str) -> Result<Asker, String> {
        let client = Client::trusting(CONNECT, &ClientTrust::default()).map_err(|error| error.0)?;
        Ok(Asker { client, product, login })
    }

    /// An answer of 200 with a JSON document, or in words why there is none.
    pub async fn json(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<(HeaderMap, Value), String> {
        let asked = async {
            let response = self.open(method, url, headers, body, timeout).await?;
            let (head, body) = response.into_parts();
            let body = self.whole(url, body).await?;
            let value = serde_json::from_slice(&body).map_err(|error| {
                self.told(url, &format!("its answer is not what {} says: {}", self.product, unreadable(&body, &error)))
            })?;
            Ok((head.headers, value))
        };
        match tokio::time::timeout(timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(self.told(url, &format!("no answer within {}", base_text::duration(timeout)))),
        }
    }

    /// The head of an answer of 200, with a body that is yet to come.
    pub async fn open(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<Response<Incoming>, String> {
        let opened = self.client.open_with(method, url, headers, body, timeout).await;
        let response = opened.map_err(|error| self.told(url, &error.reason))?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let body = tokio::time::timeout(timeout, self.whole(url, response.into_body())).await;
        let said = body.ok().and_then(Result::ok).unwrap_or_default();
        let advice = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.login.to_owned(),
            StatusCode::NOT_FOUND => format!("is this {}, of a version that is spoken with?", self.product),
            _ => format!("look at the log of {}", self.product),
        };
        Err(self.told(url, &format!("{} ({}); {advice}", status.as_u16(), beginning(&said))))
    }

    async fn whole(&self, url: &str, body: Incoming) -> Result<Bytes, String> {
        let body = Limited::new(body, ANSWER_MAX).collect().await;
        let cut = |error: Box<dyn std::error::Error + Send + Sync>| {
            self.told(url, &format!("its answer broke off, or is longer than {} MiB: {error}", ANSWER_MAX >> 20))
        };
        Ok(body.map_err(cut)?.to_bytes())
    }

    /// What people are told: who, where, what.
    pub fn told(&self, url: &str, what: &str) -> String {
        let place = url.split('?').next().unwrap_or(url);
        format!("{} at {place}: {what}", self.product)
    }
}

fn unreadable(body: &[u8], error: &serde_json::Error) -> String {
    let text = String::from_utf8_lossy(body);
    if text.trim_start().starts_with('<') {
        return format!(
            "a page ({}); is a proxy in between, or is this the address of something else?",
            beginning(body)
        );
    }
    if error.is_eof() {
        return "it ends in the middle; a proxy or the registry cut it off".to_owned();
    }
    format!("{error} ({})", beginning(body))
}

/// The first characters, for people.
fn beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN)]);
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN).collect();
    if line.is_empty() { "nothing".to_owned() } else { quoted(&line).to_string() }
}

/// Percent-encodes a part of a path or a query.
pub fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// `host:port` as a URL, and a URL as it is, without a slash at its end.
pub fn url_of(place: &str) -> String {
    let place = place.trim_end_matches('/');
    if place.contains("://") { place.to_owned() } else { format!("http://{place}") }
}

/// The field of a document, by its exact spelling or without regard to case.
pub fn field<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    let fields = value.as_object()?;
    fields.get(name).or_else(|| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

/// A text field; empty where there is none.
pub fn text(value: &Value, name: &str) -> String {
    field(value, name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A number, which some write as a text; 0 where there is none.
pub fn number(value: &Value, name: &str) -> i64 {
    match field(value, name) {
        Some(Value::Number(number)) => number.as_i64().or(number.as_f64().map(|n| n as i64)).unwrap_or_default(),
        Some(Value::String(text)) => text.parse().unwrap_or_default(),
        _ => 0,
    }
}

/// The texts of a list.
pub fn texts(value: &Value, name: &str) -> Vec<String> {
    let list = field(value, name).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

const CONNECT: Duration = Duration::from_secs(3);
/// Beyond what a registry of tens of thousands of instances says at once.
const ANSWER_MAX: usize = 64 << 20;
const SHOWN: usize = 80;
