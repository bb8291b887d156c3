//! `kind: Consumer`: somebody who calls with a key, what he may do, and how often.

use crate::problem::{Findings, Problem, at, nth};
use crate::{GoDuration, decode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// Who calls with one of these keys. A Validator with `keyAuth` lets him pass and tells the backend who he is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["keys"]))]
pub struct ConsumerSpec {
    /// Keys, 1 to 64. With two of them one can be exchanged while the other is in use.
    pub keys: Vec<ConsumerKeySpec>,
    /// Groups a `keyAuth` may ask for, such as `gold`.
    pub groups: Vec<String>,
    /// How many requests all keys together may make. Default: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaSpec>,
    /// Nobody gets in with these keys. Default false.
    pub disabled: bool,
}

/// A key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["key"]))]
pub struct ConsumerKeySpec {
    /// The key, at least 16 characters nobody can guess (`openssl rand -hex 24`), or `sha256:` and its digest in hexadecimal digits. Only
    /// the digest is stored and shown.
    #[schemars(extend("x-secret" = true))]
    pub key: String,
    /// What it is called in status and metrics. Default: its number, from 0.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// How many requests this key may make. Default: any number, within the consumer's own quota.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaSpec>,
}

/// So many requests in so long. Counted by every machine for itself; times begin at multiples of the period since 1970, so that a month's
/// quota begins with the same moment everywhere. Beyond it the client gets 429 with `Retry-After`, counted as `consumer_quota`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["requests", "per"]))]
pub struct QuotaSpec {
    /// Requests, at least 1.
    pub requests: u64,
    /// The period, 1s to 744h.
    pub per: GoDuration,
}

impl Default for QuotaSpec {
    fn default() -> Self {
        Self { requests: 0, per: GoDuration::from(Duration::from_secs(60)) }
    }
}

/// How the digest of a key begins.
const DIGEST: &str = "sha256:";

const KEYS_MAX: usize = 64;
const GROUPS_MAX: usize = 64;

/// Shortest and longest key, in bytes.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=512;

impl ConsumerSpec {
    pub fn validate(&self, path: &str, findings: &mut Findings) {
        let keys = at(path, "keys");
        if self.keys.is_empty() || self.keys.len() > KEYS_MAX {
            let problem = Problem::new(&keys, "nobody gets in").value(&Value::from(self.keys.len()));
            findings.problem(problem.accepted(format!("1 to {KEYS_MAX} keys")));
        }
        for (n, key) in self.keys.iter().enumerate() {
            let here = nth(&keys, n);
            // The value stays out of the messages: it is a secret.
            if let Err(why) = key.digest() {
                findings.problem(Problem::new(at(&here, "key"), why));
            }
            if let Some(quota) = &key.quota {
                quota.validate(&at(&here, "quota"), findings);
            }
            let earlier = self.keys[..n].iter();
            if earlier.clone().any(|other| other.digest().is_ok() && other.digest() == key.digest()) {
                findings.problem(Problem::new(at(&here, "key"), "the same key twice"));
            }
            if !key.name.is_empty() && earlier.clone().any(|other| other.name == key.name) {
                findings.problem(Problem::new(at(&here, "name"), "another key has this name").text(&key.name));
            }
        }
        if self.groups.len() > GROUPS_MAX {
            findings.problem(Problem::new(at(path, "groups"), "too many").accepted(format!("at most {GROUPS_MAX}")));
        }
        for (n, group) in self.groups.iter().enumerate() {
            let sayable = !group.is_empty() && group.chars().all(|c| c.is_ascii_graphic() && c != ',');
            if !sayable {
                let problem = Problem::new(nth(&at(path, "groups"), n), "cannot be told to a backend").text(group);
                findings.problem(problem.accepted("visible characters of ASCII without commas and blanks"));
            }
        }
        if let Some(quota) = &self.quota {
            quota.validate(&at(path, "quota"), findings);
        }
    }
}

impl QuotaSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        if self.requests == 0 {
            let problem = Problem::new(at(path, "requests"), "nobody gets in").value(&Value::from(0));
            findings.problem(problem.accepted("1 and more").advice("set disabled of the Consumer to shut it out"));
        }
        let per = Duration::from(self.per);
        if !(Duration::from_secs(1)..=Duration::from_secs(744 * 3600)).contains(&per) {
            findings.problem(Problem::new(at(path, "per"), "out of range").accepted("1s to 744h"));
        }
    }
}

impl ConsumerKeySpec {
    /// SHA-256 of the key. The error says what is wrong with it.
    pub fn digest(&self) -> Result<[u8; 32], &'static str> {
        let Some(text) = self.key.strip_prefix(DIGEST) else {
            if !KEY_BYTES.contains(&self.key.len()) || !self.key.bytes().all(|b| b.is_ascii_graphic()) {
                return Err("a key has 16 to 512 visible characters of ASCII");
            }
            return Ok(base_tls::certificate::sha256(self.key.as_bytes()));
        };
        let mut digest = [0; 32];
        let digit = |byte: u8| (byte as char).to_digit(16);
        let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
            [a, b] => Some((digit(*a)? << 4 | digit(*b)?) as u8),
            _ => None,
        });
        if text.len() != 64 {
            return Err("sha256: is followed by 64 hexadecimal digits");
        }
        for (place, byte) in digest.iter_mut().zip(pairs) {
            *place = byte.ok_or("sha256: is followed by 64 hexadecimal digits")?;
        }
        Ok(digest)
    }
}

/// The document as it is stored: digests in place of keys.
pub(crate) fn canonical(spec: &Value) -> Value {
    let Ok(decoded) = decode::<ConsumerSpec>(spec, "") else { return spec.clone() };
    let mut canonical = decoded.canonical;
    for (n, key) in decoded.value.keys.iter().enumerate() {
        if let (Ok(digest), Some(place)) = (key.digest(), canonical.pointer_mut(&format!("/keys/{n}/key"))) {
            let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            *place = format!("{DIGEST}{digits}").into();
        }
    }
    canonical
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_stored_as_digests() {
        let written = json!({"Keys": [{"key": "0123456789abcdef", "name": "old"}], "groups": ["gold"]});
        let stored = canonical(&written);
        let digest = "sha256:9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f";
        assert_eq!(stored["keys"][0], json!({"key": digest, "name": "old"}));
        assert_eq!(canonical(&stored), stored, "once is enough");
        let read = |value: &Value| decode::<ConsumerSpec>(value, "").unwrap().value.keys[0].digest();
        assert_eq!(read(&stored), read(&written));
    }

    #[test]
    fn what_is_no_consumer_is_refused() {
        let check = |value: Value| {
            let mut findings = Findings::default();
            decode::<ConsumerSpec>(&value, "").unwrap().value.validate("", &mut findings);
            let told = crate::problem::render(&findings.problems);
            assert!(!told.contains("tooshort"), "{told}");
            findings.problems.into_iter().map(|p| p.path).collect::<Vec<_>>()
        };
        let key = "0123456789abcdef";
        assert_eq!(check(json!({"keys": [{"key": key}]})), Vec::<String>::new());
        assert_eq!(check(json!({"keys": []})), ["keys"]);
        assert_eq!(check(json!({"keys": [{"key": "tooshort"}, {"key": "sha256:00"}]})), ["keys[0].key", "keys[1].key"]);
        assert_eq!(check(json!({"keys": [{"key": key}, {"key": key}]})), ["keys[1].key"]);
        let quota = json!({"requests": 0, "per": "1ms"});
        assert_eq!(check(json!({"keys": [{"key": key}], "quota": quota})), ["quota.requests", "quota.per"]);
        assert_eq!(check(json!({"keys": [{"key": key}], "groups": ["a,b", ""]})), ["groups[0]", "groups[1]"]);
    }
}
