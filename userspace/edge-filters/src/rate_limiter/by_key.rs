//! Limits that count by key: whose requests are counted together, and what they are told.

use crate::limits::{self, Limit};
use crate::source;
use crate::validator::token::{bearer, cookie};
use base_model::header_adapt::is_header_name;
use base_model::problem::at;
use base_model::{Findings, Problem};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use edge_pipeline::Exchange;
use proto_admission::limits::{Decided, WhenAlone};
use ring::digest::{SHA256, digest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

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
    /// are one client, see `ipv6PrefixLength`), `header` (each value), `claim` (each value in a JWT, which a Validator has
    /// to check before).
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
    fn of(&self, exchange: &Exchange) -> u64 {
        let headers = &exchange.request().headers;
        let text = match self.from {
            KeySource::None => return 0,
            KeySource::Address => match exchange.client.real_ip {
                Some(ip) => Cow::Owned(source::network(ip, self.ipv6_prefix_length).to_string().into_bytes()),
                None => Cow::Borrowed(&b""[..]),
            },
            KeySource::Header => Cow::Borrowed(headers.value(&self.name).unwrap_or(b"")),
            KeySource::Claim => {
                let token = cookie(headers, &self.cookie_name).or_else(|| bearer(headers));
                Cow::Owned(token.and_then(|token| claim(token, &self.name)).unwrap_or_default().into_bytes())
            }
        };
        hashed(&text)
    }
}

/// Nobody finds two texts with the same key, on purpose either.
fn hashed(text: &[u8]) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|byte| digest(&SHA256, text).as_ref()[byte]))
}

/// A number that says which limit this is, the same on all machines.
pub(super) fn limit_of(pipeline: &str, filter: &str, rule: &str) -> u64 {
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

/// Takes a token for a request.
pub(super) fn take(limit: &Limit, key: &KeySpec, exchange: &Exchange) -> Decided {
    let (key, now) = (key.of(exchange), limits::now_ms());
    if limit.shared {
        limit.leases.take(key, limit.rate, limits::edges(), limit.alone, now)
    } else {
        limit.leases.take_local(key, limit.rate, now)
    }
}

/// What clients are told of a limit: as the IETF's draft "RateLimit header fields for HTTP" has it, and in the three fields that its
/// earlier editions had and that most clients know.
pub(super) struct Told {
    pub name: String,
    pub limit: u64,
    pub window_s: u64,
}

impl Told {
    pub(super) fn fields(&self, decided: Decided) -> [(&'static str, String); 5] {
        let reset = decided.again_ms.div_ceil(1000);
        let name: String = self.name.chars().filter(|c| c.is_ascii_graphic() && !"\"\\".contains(*c)).collect();
        let left = u64::from(decided.left).min(self.limit);
        [
            ("RateLimit-Policy", format!("\"{name}\";q={};w={}", self.limit, self.window_s)),
            ("RateLimit", format!("\"{name}\";r={left};t={reset}")),
            ("RateLimit-Limit", self.limit.to_string()),
            ("RateLimit-Remaining", left.to_string()),
            ("RateLimit-Reset", reset.to_string()),
        ]
    }
}
