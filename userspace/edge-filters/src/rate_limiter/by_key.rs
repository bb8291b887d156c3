//! Limits that count by key: whose requests are counted together, and what they are told.

use crate::each_worker::EachWorker;
use crate::limits::{self, Limit};
use crate::source;
use crate::validator::token::{bearer, cookie};
use base_model::header_adapt::is_header_name;
use base_model::problem::at;
use base_model::{Findings, Problem};
use base_text::digits::write_number;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use edge_pipeline::{Exchange, PipelineName};
use proto_admission::limits::{Decided, WhenAlone};
use proto_http::Headers;
use ring::digest::{SHA256, digest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Who counts together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    #[default]
    Machine,
    Cluster,
}

/// What is told of an owner that does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Alone {
    #[default]
    Share,
    Open,
    Closed,
}

impl Alone {
    pub fn ready(self) -> WhenAlone {
        match self {
            Alone::Share => WhenAlone::Share,
            Alone::Open => WhenAlone::Open,
            Alone::Closed => WhenAlone::Closed,
        }
    }
}

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KeySpec {
    /// `none` (default: all requests of the rule), `address` (of each client, behind trusted proxies too; those of one IPv6 network
    /// are one client, see `ipv6PrefixLength`), `header` (each value; `X-Consumer-Name`, which a Validator sets, says which Consumer it
    /// is), `claim` (each value in a JWT, which a Validator has to check before).
    pub from: KeySource,
    /// Name of the header or claim.
    pub name: String,
    /// With `from: claim`: the cookie that the token is looked for in first, then Authorization. To be the Validator's `cookieName`, if it
    /// has one: in the other place clients may write what they like. Default: none.
    pub cookie_name: String,
    /// With `from: address`: so many bits of an IPv6 address say who it is, 1 to 128. Default 64: whoever has one address has all of its
    /// network. Addresses of IPv4 count whole.
    #[schemars(range(min = 1, max = 128))]
    pub ipv6_prefix_length: u8,
}

impl Default for KeySpec {
    fn default() -> KeySpec {
        KeySpec {
            from: KeySource::None,
            name: String::new(),
            cookie_name: String::new(),
            ipv6_prefix_length: source::IPV6_PREFIX_LENGTH,
        }
    }
}

/// What a key is taken from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum KeySource {
    #[default]
    None,
    Address,
    Header,
    Claim,
}

impl KeySpec {
    pub(super) fn validate(&self, place: &str, findings: &mut Findings) {
        let name = at(place, "name");
        match self.from {
            KeySource::Header if !is_header_name(&self.name) => {
                findings.problem(Problem::new(name, "not a header name").text(&self.name));
            }
            KeySource::Claim if self.name.is_empty() => {
                findings
                    .problem(Problem::new(name, "the name of the claim is missing").advice("write sub, for instance"));
            }
            KeySource::None | KeySource::Address if !self.name.is_empty() => {
                findings.warn(name, "only from: header and from: claim look at it");
            }
            _ => {}
        }
        if self.from != KeySource::Claim && !self.cookie_name.is_empty() {
            findings.warn(at(place, "cookieName"), "only from: claim looks at it");
        }
    }

    /// The key of a request. Those that have none share one: leaving it out gets nobody past a limit.
    pub(super) fn of(&self, exchange: &Exchange) -> u64 {
        let headers = &exchange.request().headers;
        match self.from {
            KeySource::None => 0,
            KeySource::Address => exchange.client.real_ip.map_or(0, |ip| self.of_address(ip)),
            KeySource::Header => hashed(headers.value(&self.name).unwrap_or(b"")),
            KeySource::Claim => {
                let token = cookie(headers, &self.cookie_name).or_else(|| bearer(headers));
                hashed(token.and_then(|token| claim(token, &self.name)).unwrap_or_default().as_bytes())
            }
        }
    }

    /// An address is a number that is its own key, as long as it has room: no two clients share one, and nothing has to be hashed.
    fn of_address(&self, ip: IpAddr) -> u64 {
        match source::network(ip, self.ipv6_prefix_length) {
            // As a network of IPv6 this would be one below ::/32, where nobody is.
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(network) if self.ipv6_prefix_length <= 64 => (network.to_bits() >> 64) as u64,
            IpAddr::V6(network) => hashed(&network.octets()),
        }
    }
}

/// Nobody finds two texts with the same key, on purpose either.
fn hashed(text: &[u8]) -> u64 {
    let digest = digest(&SHA256, text);
    u64::from_be_bytes(std::array::from_fn(|byte| digest.as_ref()[byte]))
}

/// A number that says which limit this is, the same on all machines.
pub(super) fn limit_of(pipeline: &PipelineName, filter: &str, rule: &str) -> u64 {
    hashed(format!("{pipeline}\n{filter}\n{rule}").as_bytes())
}

fn claim(token: &str, name: &str) -> Option<String> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    match claims.get(name)? {
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Takes a token for a request, whose key is this number.
pub(super) fn take(limit: &Limit, number: u64, key: &KeySpec, exchange: &Exchange) -> Decided {
    let now = limits::now_ms();
    if !limit.shared {
        limit.leases.take_local(number, limit.rate, now)
    } else if key.from == KeySource::Address && limits::is_here(exchange, key.ipv6_prefix_length) {
        limit.leases.take_here(number, limit.rate, now)
    } else {
        limit.leases.take(number, limit.rate, limits::edges(), limit.alone, now)
    }
}

/// What clients are told of a limit: as the IETF's draft "RateLimit header fields for HTTP" has it, and in the three fields that its
/// earlier editions had and that most clients know.
pub(super) struct Told {
    /// Told in fields at all.
    wanted: bool,
    limit: u64,
    /// Fields that are the same in every answer,
    same: Headers,
    /// and in every refusal.
    refused: Headers,
    /// What `RateLimit` begins with.
    name: Vec<u8>,
    /// The fields of refusals that were told lately: a bot is told the same many times a second, and so are many clients.
    lately: EachWorker<Mutex<[Refusal; LATELY]>>,
    /// Of a refusal, for the access log.
    pub note: EachWorker<Arc<str>>,
}

/// All fields of a refusal.
#[derive(Default)]
struct Refusal {
    left: u64,
    /// Seconds until there is a token again; 0: none was told yet.
    again_s: u64,
    fields: Headers,
}

impl Told {
    pub(super) fn new(name: &str, limit: u64, window_s: u64, wanted: bool, workers: usize) -> Told {
        let shown: String = name.chars().filter(|c| c.is_ascii_graphic() && !"\"\\".contains(*c)).collect();
        let (mut same, mut refused) = (Headers::new(), Headers::new());
        if wanted {
            same.set("RateLimit-Policy", format!("\"{shown}\";q={limit};w={window_s}"));
            same.set("RateLimit-Limit", limit.to_string());
        }
        refused.set("X-EG-Rate-Limiter", "too-many-requests");
        refused.set_all(&same);
        let note = EachWorker::new(workers, || format!("rateLimiter: too many requests for {name}").into());
        let (name, lately) = (format!("\"{shown}\";r=").into_bytes(), EachWorker::new(workers, Mutex::default));
        Told { wanted, limit, same, refused, name, lately, note }
    }

    /// What a client is told whose request passes.
    pub(super) fn passes(&self, decided: Decided, headers: &mut Headers) {
        if self.wanted {
            headers.set_all(&self.same);
            let left = u64::from(decided.left).min(self.limit);
            self.stands(left, decided.again_ms.div_ceil(1000), headers, &mut Vec::with_capacity(VALUE));
        }
    }

    /// What one is told whose request does not.
    pub(super) fn refuses(&self, decided: Decided, headers: &mut Headers) {
        let left = u64::from(decided.left).min(self.limit);
        let again_s = decided.again_ms.div_ceil(1000).max(1);
        // Only what is no worker shares one of theirs.
        let mut lately = self.lately.own().lock().unwrap_or_else(PoisonError::into_inner);
        let refusal = &mut lately[(left ^ again_s) as usize % LATELY];
        if (refusal.left, refusal.again_s) != (left, again_s) {
            self.refusal(left, again_s, &mut refusal.fields);
            (refusal.left, refusal.again_s) = (left, again_s);
        }
        headers.set_all(&refusal.fields);
    }

    fn refusal(&self, left: u64, again_s: u64, fields: &mut Headers) {
        let mut value = Vec::with_capacity(VALUE);
        fields.copy_from(&self.refused);
        write_number(again_s, &mut value);
        fields.set("Retry-After", &value);
        if self.wanted {
            self.stands(left, again_s, fields, &mut value);
        }
    }

    /// What one is told that has as many requests under way as it may.
    pub(super) fn refuses_one_more(&self, headers: &mut Headers) {
        headers.set_all(&self.refused);
        headers.set("Retry-After", "1");
    }

    /// How the client stands. `value` is room for one.
    fn stands(&self, left: u64, reset: u64, headers: &mut Headers, value: &mut Vec<u8>) {
        value.clear();
        value.extend_from_slice(&self.name);
        write_number(left, value);
        value.extend_from_slice(b";t=");
        write_number(reset, value);
        headers.set("RateLimit", &value);
        for (name, number) in [("RateLimit-Remaining", left), ("RateLimit-Reset", reset)] {
            value.clear();
            write_number(number, value);
            headers.set(name, &value);
        }
    }

    /// Whether an answer that passes is told anything.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }
}

/// Refusals that each worker keeps ready for a limit, about 500 bytes each.
const LATELY: usize = 8;
/// Room for most values, in bytes.
const VALUE: usize = 64;
