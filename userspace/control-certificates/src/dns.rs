//! TXT records that prove a name (RFC 8555 section 8.4), put into a zone by whoever serves it.
//!
//! Each provider is one file behind [`Provider`]: what is asked of it, and how its answers are read. That a record is there to be seen is
//! looked for in [`wire`], before the authority is told to look.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base_model::DnsProviderSpec;
use base_text::quoted;
use bytes::Bytes;
use control_api::client::Client;
use control_api::tls::ClientTrust;
use http_body_util::{BodyExt, Limited};
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use crate::Fault;

mod acmedns;
mod alidns;
mod azure;
mod cloudflare;
mod dnspod;
mod domains;
mod duckdns;
mod hetzner;
mod rfc2136;
mod route53;
pub mod wire;

/// A record that is to be in a zone for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Txt {
    /// Such as `_acme-challenge.www.shop.test`, in lower case and without a dot at its end.
    pub name: String,
    /// Such as `shop.test`, likewise.
    pub zone: String,
    pub value: String,
}

/// What a provider does, without a name for each of its futures.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 'a>>;

/// Whoever serves a zone. Records of the same name that others have put there stay.
pub trait Provider: Send + Sync {
    /// Adds the record. The text is what [`remove`](Provider::remove) takes, and may be empty.
    fn put<'a>(&'a self, record: &'a Txt) -> Doing<'a, String>;
    /// Takes it out again.
    fn remove<'a>(&'a self, record: &'a Txt, id: &'a str) -> Doing<'a, ()>;
}

impl Txt {
    /// Of a name to be proved, which may be a wildcard.
    pub fn new(domain: &str, spec: &DnsProviderSpec, value: &str) -> Txt {
        let name = format!("_acme-challenge.{}", domain.strip_prefix("*.").unwrap_or(domain));
        let zone = spec.zone.trim_end_matches('.').to_ascii_lowercase();
        Txt { name, zone, value: value.to_owned() }
    }

    /// The name within the zone, as most providers want it.
    fn relative(&self) -> &str {
        self.name.strip_suffix(&self.zone).and_then(|name| name.strip_suffix('.')).unwrap_or(&self.name)
    }
}

/// The provider that a document names, which was checked.
pub fn provider(spec: &DnsProviderSpec) -> Result<Box<dyn Provider>, Fault> {
    let http = || Http::new(spec);
    let domains = |words| -> Result<Box<dyn Provider>, Fault> {
        Ok(Box::new(domains::Domains { words, http: http()?, token: spec.api_token.clone() }))
    };
    Ok(match spec.name.as_str() {
        "acmedns" => Box::new(acmedns::AcmeDns { http: http()?, spec: spec.clone() }),
        "alidns" => Box::new(alidns::AliDns { http: http()?, spec: spec.clone() }),
        "azure" => Box::new(azure::Azure { http: http()?, spec: spec.clone() }),
        "cloudflare" => Box::new(cloudflare::Cloudflare { http: http()?, token: spec.api_token.clone() }),
        "digitalocean" => domains(domains::DIGITAL_OCEAN)?,
        "dnspod" => Box::new(dnspod::DnsPod { http: http()?, token: spec.api_token.clone() }),
        "duckdns" => Box::new(duckdns::DuckDns { http: http()?, token: spec.api_token.clone() }),
        "hetzner" => Box::new(hetzner::Hetzner { http: http()?, token: spec.auth_api_token.clone() }),
        "rfc2136" => Box::new(rfc2136::Rfc2136::new(spec)?),
        "route53" => Box::new(route53::Route53 { http: http()?, spec: spec.clone() }),
        "vultr" => domains(domains::VULTR)?,
        other => return Err(Fault::Refused(format!("dnsProvider.name {} is not known", quoted(other)))),
    })
}

/// Waits until the record is seen. With `nsAddress` (or the server of rfc2136) it must be; the resolvers of this machine may remember
/// for a while that there was none, so what they do not see is no fault.
pub async fn seen(record: &Txt, spec: &DnsProviderSpec) -> Result<(), Fault> {
    let given = match (spec.ns_address.as_str(), spec.name.as_str()) {
        ("", "rfc2136") => spec.server.as_str(),
        (given, _) => given,
    };
    let (servers, patience) = match given {
        "" => (wire::resolvers(), UNSEEN),
        given => (vec![wire::place(given)], PATIENCE),
    };
    let udp = spec.ns_network != "tcp";
    let until = Instant::now() + patience;
    let mut last = String::from("it was not asked");
    while !servers.is_empty() {
        for server in &servers {
            match wire::txt(server, &record.name, udp).await {
                Ok(values) if values.contains(&record.value) => return Ok(()),
                Ok(values) => last = format!("{server} has {} other values", values.len()),
                Err(why) => last = why,
            }
        }
        if Instant::now() > until {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    if given.is_empty() {
        return Ok(());
    }
    Err(Fault::Passing(format!("the TXT record of {} is not seen yet: {last}", record.name)))
}

/// Asks a provider over HTTP.
pub(crate) struct Http {
    client: Client,
    /// In front of paths, instead of the provider's own.
    endpoint: String,
    provider: String,
}

/// A question.
pub(crate) struct Call<'a> {
    pub method: Method,
    pub url: String,
    pub headers: Vec<(&'a str, String)>,
    pub body: Vec<u8>,
}

impl Http {
    fn new(spec: &DnsProviderSpec) -> Result<Http, Fault> {
        let client = Client::trusting(CONNECT, &ClientTrust::default()).map_err(|error| Fault::Passing(error.0))?;
        let endpoint = spec.endpoint.trim_end_matches('/').to_owned();
        Ok(Http { client, endpoint, provider: spec.name.clone() })
    }

    /// `usual` is where the provider is.
    fn at(&self, usual: &str) -> String {
        if self.endpoint.is_empty() { usual.to_owned() } else { self.endpoint.clone() }
    }

    /// Status and body of whatever is answered.
    pub(crate) async fn ask(&self, call: Call<'_>) -> Result<(StatusCode, Bytes), Fault> {
        let place = call.url.split('?').next().unwrap_or_default().to_owned();
        let told = |why: String| Fault::Passing(format!("{} at {place}: {why}", self.provider));
        let mut headers: Vec<(&str, &str)> = vec![("user-agent", crate::authority::AGENT)];
        headers.extend(call.headers.iter().map(|(name, value)| (*name, value.as_str())));
        let answer = self.client.open_with(call.method, &call.url, &headers, call.body, ANSWERS).await;
        let (head, body) = answer.map_err(|error| told(error.reason))?.into_parts();
        match tokio::time::timeout(ANSWERS, Limited::new(body, ANSWER_MAX).collect()).await {
            Ok(Ok(body)) => Ok((head.status, body.to_bytes())),
            Ok(Err(error)) => Err(told(format!("its answer broke off: {error}"))),
            Err(_) => Err(told(format!("no answer within {}", base_text::duration(ANSWERS)))),
        }
    }

    /// A JSON document, of any good answer.
    pub(crate) async fn json(&self, call: Call<'_>) -> Result<Value, Fault> {
        let (status, body) = self.ask(call).await?;
        if !status.is_success() {
            return Err(self.refused(status, &body));
        }
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|_| self.unreadable(&body))
    }

    /// What the provider says instead of doing it.
    pub(crate) fn refused(&self, status: StatusCode, body: &[u8]) -> Fault {
        let told = format!("{} answers {} ({})", self.provider, status.as_u16(), beginning(body));
        match status.as_u16() {
            401 | 403 => {
                Fault::Refused(format!("{told}; look at the credentials in dnsProvider, and what they may do"))
            }
            429 => Fault::Limited(told, None),
            400..=499 => Fault::Refused(told),
            _ => Fault::Passing(told),
        }
    }

    pub(crate) fn unreadable(&self, body: &[u8]) -> Fault {
        Fault::Passing(format!("{} answers what it does not usually ({})", self.provider, beginning(body)))
    }

    /// There is no such zone.
    pub(crate) fn no_zone(&self, zone: &str) -> Fault {
        Fault::Refused(format!("{} has no zone {} that these credentials may see", self.provider, quoted(zone)))
    }
}

/// The first characters, for people.
fn beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN)]);
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN).collect();
    if line.is_empty() { "nothing".to_owned() } else { quoted(&line).to_string() }
}

/// A text as it is, a number in digits.
fn id_of(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned).or_else(|| value.as_u64().map(|id| id.to_string()))
}

/// Percent-encodes whatever is not unreserved (RFC 3986 section 2.3).
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// Names and values as forms and queries have them.
pub(crate) fn form(fields: &[(&str, &str)]) -> String {
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    fields.join("&")
}

pub(crate) fn bearer(token: &str) -> (&'static str, String) {
    ("authorization", format!("Bearer {token}"))
}

pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");
pub(crate) const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

pub(crate) fn header((name, value): (&'static str, &str)) -> (&'static str, String) {
    (name, value.to_owned())
}

/// Year, month, day, hour, minute, second of a moment.
pub(crate) fn calendar(at: SystemTime) -> (i64, i64, i64, u64, u64, u64) {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = base_text::calendar::date_of(i64::try_from(days).unwrap_or_default());
    (year, month, day, rest / 3600, rest / 60 % 60, rest % 60)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seconds a record is good for: nobody needs it for longer.
pub(crate) const TTL: u64 = 60;
const CONNECT: Duration = Duration::from_secs(10);
const ANSWERS: Duration = Duration::from_secs(30);
const ANSWER_MAX: usize = 1 << 20;
const SHOWN: usize = 160;
/// How long a record may take until it is seen where it must be, and how long resolvers are asked that may remember otherwise.
const PATIENCE: Duration = Duration::from_secs(120);
const UNSEEN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
