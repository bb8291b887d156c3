//! Signed requests: an HMAC over method, path, query, chosen fields and body, as Easegress (and AWS, version 4) sign them.
//!
//! The signature stands in `Authorization: HMAC-SHA256 Credential=ID/DATE/SCOPE…/request, SignedHeaders=a;b, Signature=HEX`, or, of a
//! request that was signed for somebody else, in its query. Time is an argument. Nothing of the body is read before the rest is in order.

use crate::form::{self, Pair, hex, seconds_of};
use base_model::problem::at;
use base_model::{Findings, GoDuration, Problem};
use proto_http::{Headers, Request};
use ring::{digest, hmac};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How requests are signed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["accessKeys"]))]
pub struct SignatureSpec {
    /// Names of fields and parameters, and fixed texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub literal: Option<LiteralSpec>,
    /// Concerns those who sign: which fields go into the query. Without effect here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_hoisting: Option<HeaderHoistingSpec>,
    /// Concerns those who sign: fields that are not signed. A signature itself says which are.
    #[schemars(extend("uniqueItems" = true))]
    pub ignored_headers: Vec<String>,
    /// The body is not signed: `UNSIGNED-PAYLOAD` stands for its digest. Default false: it is read into memory, at most 4 MiB
    /// or what `clientMaxBodySize` lets in.
    pub exclude_body: bool,
    /// How far the time of a signature may be from ours, in both directions. Default: any time will do, so that a request can be sent again
    /// for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<GoDuration>,
    /// Concerns those who sign. Without effect here.
    pub access_key_id: String,
    /// Concerns those who sign. Without effect here.
    #[schemars(extend("x-secret" = true, "writeOnly" = true))]
    pub access_key_secret: String,
    /// The secrets of those who may sign, by their ids.
    #[schemars(extend("x-secret" = true, "writeOnly" = true))]
    pub access_keys: BTreeMap<String, String>,
}

/// Words of a signature. Those left out are as Easegress has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LiteralSpec {
    /// Last part of the scope. Default `request`.
    pub scope_suffix: String,
    /// Parameter that names the algorithm. Default `X-Algorithm`.
    pub algorithm_name: String,
    /// The algorithm. Default `HMAC-SHA256`.
    pub algorithm_value: String,
    /// Parameter that names the signed fields. Default `X-SignedHeaders`.
    pub signed_headers: String,
    /// Parameter that holds the signature. Default `X-Signature`.
    pub signature: String,
    /// Field or parameter that holds the time, as `20060102T150405Z`. Default `X-Date`.
    pub date: String,
    /// Parameter that says for how many seconds the signature holds. Default `X-Expires`.
    pub expires: String,
    /// Parameter that holds id and scope. Default `X-Credential`.
    pub credential: String,
    /// Field in which those who sign hand on the digest of a body. What it says is not believed. Default `X-Content-Sha256`.
    pub content_sha256: String,
    /// Put before the secret. Default nothing.
    pub signing_key_prefix: String,
}

impl Default for LiteralSpec {
    fn default() -> Self {
        Self {
            scope_suffix: "request".to_owned(),
            algorithm_name: "X-Algorithm".to_owned(),
            algorithm_value: "HMAC-SHA256".to_owned(),
            signed_headers: "X-SignedHeaders".to_owned(),
            signature: "X-Signature".to_owned(),
            date: "X-Date".to_owned(),
            expires: "X-Expires".to_owned(),
            credential: "X-Credential".to_owned(),
            content_sha256: "X-Content-Sha256".to_owned(),
            signing_key_prefix: String::new(),
        }
    }
}

/// Which fields those who sign put into the query.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderHoistingSpec {
    /// Beginnings of names that may.
    #[schemars(extend("uniqueItems" = true))]
    pub allowed_prefix: Vec<String>,
    /// Beginnings of names that may not.
    #[schemars(extend("uniqueItems" = true))]
    pub disallowed_prefix: Vec<String>,
    /// Names that may not.
    #[schemars(extend("uniqueItems" = true))]
    pub disallowed: Vec<String>,
}

impl SignatureSpec {
    pub(super) fn validate(&self, path: &str, findings: &mut Findings) {
        if self.access_keys.is_empty() {
            let problem = Problem::new(at(path, "accessKeys"), "nobody could sign");
            findings.problem(problem.advice("list the secrets of those who sign by their ids"));
        }
        for (id, secret) in &self.access_keys {
            let place = at(&at(path, "accessKeys"), id);
            if secret.is_empty() {
                findings.problem(Problem::new(&place, "an empty secret is none"));
            }
            if id.is_empty() || id.contains(['/', ',']) {
                findings.problem(Problem::new(place, "an id without a name, a / or a comma cannot be sent").text(id));
            }
        }
        if self.ttl.is_none_or(|ttl| ttl.is_zero()) {
            findings.warn(
                at(path, "ttl"),
                "signatures in fields hold for ever, so that a request can be repeated; give 5m",
            );
        }
        for (field, is_set) in [
            ("headerHoisting", self.header_hoisting.is_some()),
            ("ignoredHeaders", !self.ignored_headers.is_empty()),
            ("accessKeyId", !self.access_key_id.is_empty()),
            ("accessKeySecret", !self.access_key_secret.is_empty()),
        ] {
            if is_set {
                findings.warn(
                    at(path, field),
                    "has no effect: it concerns those who sign, and here signatures are checked",
                );
            }
        }
        let literal = self.literal.clone().unwrap_or_default();
        for (field, text) in [
            ("algorithmValue", &literal.algorithm_value),
            ("algorithmName", &literal.algorithm_name),
            ("signedHeaders", &literal.signed_headers),
            ("signature", &literal.signature),
            ("date", &literal.date),
            ("expires", &literal.expires),
            ("credential", &literal.credential),
        ] {
            if !proto_http::headers::is_name(text.as_bytes()) {
                let problem = Problem::new(at(&at(path, "literal"), field), "not a name that can be sent").text(text);
                findings.problem(problem);
            }
        }
    }
}

/// Why a signature does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureError {
    Missing,
    Malformed,
    Algorithm,
    Expired,
    UnknownKey,
    Wrong,
}

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SignatureError::Missing => "no signature",
            SignatureError::Malformed => "malformed signature",
            SignatureError::Algorithm => "signed with another algorithm",
            SignatureError::Expired => "the signature has expired",
            SignatureError::UnknownKey => "nobody has this access key",
            SignatureError::Wrong => "wrong signature",
        })
    }
}

/// Parts of a scope, more than anybody has use for.
const SCOPES_MAX: usize = 16;

/// Fields that one signature covers.
const SIGNED_MAX: usize = 128;

/// What checks signatures.
pub struct Signatures {
    literal: LiteralSpec,
    pub(super) exclude_body: bool,
    ttl: Duration,
    keys: BTreeMap<String, String>,
}

/// A request whose signature awaits its body.
pub struct Signed {
    key: hmac::Key,
    mark: Vec<u8>,
    /// What precedes the digest of the canonical request in the text that is signed.
    preamble: String,
    /// Canonical requests without the digest of the body: the path as it is, and with everything escaped that may be.
    heads: Vec<String>,
}

/// What a signature says of itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim<'r> {
    pub id: &'r str,
    /// Date and further parts of the scope, without its suffix.
    pub scopes: Vec<&'r str>,
    pub signed: &'r str,
    pub mark: Vec<u8>,
}

impl Signatures {
    pub fn new(spec: SignatureSpec) -> Signatures {
        let literal = spec.literal.unwrap_or_default();
        // Whoever reads it in a log could send the request again.
        base_text::redact::hide(&literal.signature);
        Signatures {
            literal,
            exclude_body: spec.exclude_body,
            ttl: spec.ttl.map_or(Duration::ZERO, Duration::from),
            keys: spec.access_keys,
        }
    }

    /// Checks everything but the body; `now` in seconds since 1970.
    pub fn begin(&self, request: &Request, now: i64) -> Result<Signed, SignatureError> {
        let literal = &self.literal;
        let mut query = form::pairs(request.query.as_deref().unwrap_or_default()).ok_or(SignatureError::Malformed)?;
        let in_query = !request.headers.contains("Authorization");
        let asked = query.clone();
        let (claim, time) =
            if in_query { self.claim_of_query(&asked)? } else { self.claim_of_fields(&request.headers)? };
        let then = seconds_of(time).ok_or(SignatureError::Malformed)?;
        if !time.starts_with(claim.scopes[0]) {
            return Err(SignatureError::Malformed);
        }
        let age = now - then;
        if !self.ttl.is_zero() && age.unsigned_abs() > self.ttl.as_secs() {
            return Err(SignatureError::Expired);
        }
        let day = &time[..8];
        let scopes = [&[day][..], &claim.scopes[1..], &[literal.scope_suffix.as_str()]].concat();
        let scope = scopes.join("/");
        let of_signature = [
            &literal.signature,
            &literal.algorithm_name,
            &literal.credential,
            &literal.date,
            &literal.expires,
            &literal.signed_headers,
        ];
        query.retain(|(name, _)| !of_signature.iter().any(|known| known.as_bytes() == name));
        if in_query {
            let lasts = form::only(&asked, &literal.expires).and_then(|text| text.parse::<u32>().ok());
            let lasts = i64::from(lasts.ok_or(SignatureError::Malformed)?);
            if age > lasts {
                return Err(SignatureError::Expired);
            }
            for (name, value) in [
                (&literal.algorithm_name, literal.algorithm_value.clone()),
                (&literal.date, time.to_owned()),
                (&literal.credential, format!("{}/{scope}", claim.id)),
                (&literal.expires, lasts.to_string()),
                (&literal.signed_headers, claim.signed.to_owned()),
            ] {
                query.push((name.clone().into(), value.into()));
            }
        }
        let secret = self.keys.get(claim.id).ok_or(SignatureError::UnknownKey)?;
        let key = key_of(&format!("{}{secret}", literal.signing_key_prefix), &scopes);
        let fields = canonical_fields(request, claim.signed)?;
        let head = |path: &str| canonical_head(request, path, &query, &fields, claim.signed);
        let path = request.path.encoded();
        let mut strict = String::with_capacity(path.len());
        form::escape_but(path.as_bytes(), &mut strict, |b| matches!(b, b'/' | b'%'));
        let mut heads = vec![head(&path)];
        if strict != path {
            heads.push(head(&strict));
        }
        Ok(Signed { preamble: format!("{}\n{time}\n{scope}\n", literal.algorithm_value), key, mark: claim.mark, heads })
    }

    fn claim_of_fields<'r>(&self, headers: &'r Headers) -> Result<(Claim<'r>, &'r str), SignatureError> {
        let only = |name: &str| {
            let mut values = headers.values(name);
            let value = values.next().filter(|_| values.next().is_none());
            value.and_then(|_| headers.text(name))
        };
        let text = only("Authorization").ok_or(SignatureError::Malformed)?;
        let claim = read_authorization(text, &self.literal.algorithm_value)?;
        Ok((claim, only(&self.literal.date).ok_or(SignatureError::Malformed)?))
    }

    fn claim_of_query<'r>(&self, query: &'r [Pair]) -> Result<(Claim<'r>, &'r str), SignatureError> {
        let literal = &self.literal;
        if !query.iter().any(|(name, _)| name == literal.signature.as_bytes()) {
            return Err(SignatureError::Missing);
        }
        let only = |name: &str| form::only(query, name).ok_or(SignatureError::Malformed);
        if only(&literal.algorithm_name)? != literal.algorithm_value {
            return Err(SignatureError::Algorithm);
        }
        let (id, scopes) = read_credential(only(&literal.credential)?)?;
        let mark = read_mark(only(&literal.signature)?)?;
        Ok((Claim { id, scopes, signed: only(&literal.signed_headers)?, mark }, only(&literal.date)?))
    }
}

impl Signed {
    /// Whether the signature is right, of a request with this body; `None`: it is not signed.
    pub fn verify(&self, body: Option<&[u8]>) -> Result<(), SignatureError> {
        let of_body = match body {
            None => "UNSIGNED-PAYLOAD".to_owned(),
            Some(bytes) => hex(digest::digest(&digest::SHA256, bytes).as_ref()),
        };
        let fits = |head: &String| {
            let canonical = digest::digest(&digest::SHA256, format!("{head}{of_body}").as_bytes());
            let text = format!("{}{}", self.preamble, hex(canonical.as_ref()));
            hmac::verify(&self.key, text.as_bytes(), &self.mark).is_ok()
        };
        if self.heads.iter().any(fits) { Ok(()) } else { Err(SignatureError::Wrong) }
    }
}

/// Reads the value of an `Authorization` field.
pub fn read_authorization<'r>(text: &'r str, algorithm: &str) -> Result<Claim<'r>, SignatureError> {
    let (scheme, rest) = text.split_once(' ').ok_or(SignatureError::Malformed)?;
    if scheme != algorithm {
        return Err(SignatureError::Algorithm);
    }
    let mut parts = rest.split(',');
    let mut part = |name: &str| {
        let value = parts.next()?.trim_matches(' ').strip_prefix(name)?.strip_prefix('=');
        value.filter(|value| !value.is_empty())
    };
    let credential = part("Credential").ok_or(SignatureError::Malformed)?;
    let signed = part("SignedHeaders").ok_or(SignatureError::Malformed)?;
    let mark = part("Signature").ok_or(SignatureError::Malformed)?;
    if parts.next().is_some() {
        return Err(SignatureError::Malformed);
    }
    let (id, scopes) = read_credential(credential)?;
    Ok(Claim { id, scopes, signed, mark: read_mark(mark)? })
}

/// `id/date/scope…/suffix`.
fn read_credential(text: &str) -> Result<(&str, Vec<&str>), SignatureError> {
    let mut parts: Vec<&str> = text.split('/').take(SCOPES_MAX + 1).collect();
    if !(3..=SCOPES_MAX).contains(&parts.len()) || parts[0].is_empty() {
        return Err(SignatureError::Malformed);
    }
    parts.pop();
    Ok((parts[0], parts.split_off(1)))
}

fn read_mark(text: &str) -> Result<Vec<u8>, SignatureError> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(SignatureError::Malformed);
    }
    super::from_hex(text).ok_or(SignatureError::Malformed)
}

/// The key of a scope: that of the secret signs its first part, the result is the key of the next, and so on.
pub(super) fn key_of(secret: &str, scopes: &[&str]) -> hmac::Key {
    let mut key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    for part in scopes {
        key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
    }
    key
}

/// The canonical request up to the digest of its body.
pub(super) fn canonical_head(request: &Request, path: &str, query: &[Pair], fields: &str, signed: &str) -> String {
    let mut head = format!("{}\n", request.method);
    form::escape_but(path.as_bytes(), &mut head, |b| b == b'/');
    if path.is_empty() {
        head.push('/');
    }
    head.push('\n');
    write_query(&mut query.to_vec(), &mut head);
    head.push('\n');
    for part in [fields, signed] {
        head.push_str(part);
        head.push('\n');
    }
    head
}

/// The signed fields, a line each.
pub(super) fn canonical_fields(request: &Request, signed: &str) -> Result<String, SignatureError> {
    let mut out = String::new();
    for (n, name) in signed.split(';').enumerate() {
        if n >= SIGNED_MAX || name.is_empty() || name.bytes().any(|b| b.is_ascii_uppercase() || b == b'\n') {
            return Err(SignatureError::Malformed);
        }
        out.push_str(name);
        out.push(':');
        if name == "host" {
            out.push_str(request.authority.strip_suffix(':').unwrap_or(&request.authority));
        } else {
            for (n, value) in request.headers.values(name).enumerate() {
                if n > 0 {
                    out.push(',');
                }
                let text = std::str::from_utf8(value).map_err(|_| SignatureError::Malformed)?;
                let words = text.split(' ').filter(|word| !word.is_empty());
                words.enumerate().for_each(|(n, word)| {
                    if n > 0 {
                        out.push(' ');
                    }
                    out.push_str(word);
                });
            }
        }
        out.push('\n');
    }
    Ok(out)
}

fn write_query(pairs: &mut [Pair], to: &mut String) {
    pairs.sort();
    for (n, (name, value)) in pairs.iter().enumerate() {
        if n > 0 {
            to.push('&');
        }
        form::escape_query_into(name, to);
        to.push('=');
        form::escape_query_into(value, to);
    }
}

#[cfg(test)]
mod tests;
