//! Where a JSON Web Token stands in a request, and what it must be.

use super::jwks::{FETCH_TIMEOUT, RemoteKeys, SET_BYTES_MAX};
use super::jwt::{ALGORITHMS, Expected, TokenError, TokenKey};
use super::{from_hex, now};
use base_model::problem::{at, one_of};
use base_model::{Findings, GoDuration, Problem};
use base_telemetry::proxy::PoolNames;
use edge_pipeline::Parts;
use edge_upstream::call::split_url;
use edge_upstream::{CallSettings, Caller};
use proto_http::{Headers, Known};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

/// How tokens are signed, and what they must say. `exp`, `nbf` and `iat` are always looked at where they stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct JwtSpec {
    /// HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 or EdDSA. May be left out beside `jwksUrl`: then
    /// every one of them counts but HS, which needs a secret.
    pub algorithm: String,
    /// Key of the HS algorithms, in hexadecimal digits.
    #[schemars(extend("x-secret" = true, "writeOnly" = true))]
    pub secret: String,
    /// Key of the others: a PEM text (`BEGIN PUBLIC KEY`), in hexadecimal digits.
    pub public_key: String,
    /// URL of the issuer's keys, `https://idp.example/.well-known/jwks.json`, in place of `publicKey`. Fetched with the first request,
    /// again when they are older than `jwksRefresh`, and when a token names a key that is not among them: a second after the last time, and
    /// up to 5 seconds later, the more often that brought nothing new.
    /// While it does not answer the keys known last are used, for a day at most, and tokens that none of them fits are answered with 503.
    /// Counted as `jwks_failed`.
    pub jwks_url: String,
    /// Believe whatever certificate the URL shows. Default false.
    pub jwks_insecure_tls: bool,
    /// Age at which keys are fetched again. Default 10m, at least 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_refresh: Option<GoDuration>,
    /// What `iss` must be. Default: anything.
    pub issuer: String,
    /// `aud` must name one of them. Default: it may name anybody.
    pub audience: Vec<String>,
    /// How far clocks may be apart where `exp`, `nbf` and `iat` are looked at. Default 0s, at most 10m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leeway: Option<GoDuration>,
    /// Cookie that may hold the token. Default: only `Authorization: Bearer` does.
    pub cookie_name: String,
}

const REFRESH: Duration = Duration::from_secs(600);
const REFRESH_LEAST: Duration = Duration::from_secs(10);
const LEEWAY_MOST: Duration = Duration::from_secs(600);

impl JwtSpec {
    pub(super) fn validate(&self, path: &str, findings: &mut Findings) {
        let remote = !self.jwks_url.is_empty();
        let known = ALGORITHMS.contains(&self.algorithm.as_str());
        if !(known || remote && self.algorithm.is_empty()) {
            let problem = Problem::new(at(path, "algorithm"), "not an algorithm that can be checked");
            findings.problem(problem.text(&self.algorithm).accepted(one_of(&ALGORITHMS)));
            return;
        }
        if remote {
            if let Err(why) = split_url(&self.jwks_url) {
                findings.problem(Problem::new(at(path, "jwksUrl"), why).text(&self.jwks_url));
            }
            if self.algorithm.starts_with("HS") {
                let problem = Problem::new(at(path, "algorithm"), "a secret is never fetched").text(&self.algorithm);
                findings.problem(problem.advice("give secret in place of jwksUrl"));
            }
            for (field, given) in [("secret", &self.secret), ("publicKey", &self.public_key)] {
                if !given.is_empty() {
                    findings.problem(Problem::new(at(path, field), "there is jwksUrl already").advice("keep one"));
                }
            }
        } else if let Err(why) = self.key() {
            let field = if self.algorithm.starts_with("HS") { "secret" } else { "publicKey" };
            let accepted = match field {
                "secret" => "the secret's bytes in hexadecimal digits, two each",
                _ => "the PEM text of a public key in hexadecimal digits, two for each byte",
            };
            // The value stays out of the message: it may be a secret.
            findings.problem(Problem::new(at(path, field), why).accepted(accepted));
        }
        if self.jwks_refresh.is_some_and(|time| Duration::from(time) < REFRESH_LEAST) {
            findings.problem(Problem::new(at(path, "jwksRefresh"), "too often").accepted("10s and more"));
        }
        if self.leeway.is_some_and(|time| Duration::from(time) > LEEWAY_MOST) {
            findings.problem(Problem::new(at(path, "leeway"), "no clock is that wrong").accepted("0s to 10m"));
        }
    }

    fn key(&self) -> Result<TokenKey, String> {
        let bytes = |text: &str| from_hex(text).ok_or("not hexadecimal digits");
        TokenKey::new(&self.algorithm, &bytes(&self.secret)?, &bytes(&self.public_key)?)
    }
}

/// A ready rule for tokens.
pub(super) struct Token {
    spec: JwtSpec,
    keys: Keys,
    expected: Expected,
}

enum Keys {
    One(TokenKey),
    Remote { keys: Arc<RemoteKeys>, allowed: Vec<&'static str> },
}

impl Token {
    /// Keys that were fetched hold beyond a change of other things.
    pub(super) fn new(spec: JwtSpec, previous: Option<&Token>, parts: &Parts<'_>) -> Result<Token, String> {
        let keys = if spec.jwks_url.is_empty() {
            Keys::One(spec.key()?)
        } else {
            let allowed = |algorithm: &&str| match spec.algorithm.as_str() {
                "" => !algorithm.starts_with("HS"),
                only => only == *algorithm,
            };
            let source = |spec: &JwtSpec| (spec.jwks_url.clone(), spec.jwks_insecure_tls, spec.jwks_refresh);
            let known = match previous {
                Some(Token { spec: before, keys: Keys::Remote { keys, .. }, .. })
                    if source(before) == source(&spec) =>
                {
                    Some(keys.clone())
                }
                _ => None,
            };
            let keys = match known {
                Some(keys) => keys,
                None => {
                    let settings = CallSettings {
                        timeout: FETCH_TIMEOUT,
                        body_bytes_max: SET_BYTES_MAX,
                        in_flight_max: 2,
                        insecure_tls: spec.jwks_insecure_tls,
                        ..CallSettings::default()
                    };
                    let names = PoolNames {
                        pool: parts.pool("jwks"),
                        proxy: parts.name.to_owned(),
                        kind: super::KIND.kind.to_owned(),
                        ..PoolNames::default()
                    };
                    let caller = Caller::new(&spec.jwks_url, settings, names, parts.telemetry)?;
                    let refresh = spec.jwks_refresh.map_or(REFRESH, Duration::from);
                    RemoteKeys::new(caller, refresh, parts.telemetry.limits().register("jwks_failed"))
                }
            };
            Keys::Remote { keys, allowed: ALGORITHMS.iter().filter(|a| allowed(a)).copied().collect() }
        };
        let expected = Expected {
            issuer: spec.issuer.clone(),
            audiences: spec.audience.clone(),
            leeway: spec.leeway.map_or(0, |time| Duration::from(time).as_secs()),
        };
        Ok(Token { spec, keys, expected })
    }

    pub(super) fn waits(&self) -> bool {
        matches!(self.keys, Keys::Remote { .. })
    }

    pub(super) async fn claims(&self, headers: &Headers) -> Result<Map<String, Value>, TokenError> {
        let token = cookie(headers, &self.spec.cookie_name).or_else(|| bearer(headers)).ok_or(TokenError::Missing)?;
        match &self.keys {
            Keys::One(key) => key.verify(token, &self.expected, now()),
            Keys::Remote { keys, allowed } => keys.verify(token, allowed, &self.expected, now()).await,
        }
    }

    pub(super) fn status(&self) -> Option<Value> {
        match &self.keys {
            Keys::One(_) => None,
            Keys::Remote { keys, .. } => Some(keys.status()),
        }
    }
}

/// The value of a cookie; none for an empty name.
pub(crate) fn cookie<'h>(headers: &'h Headers, name: &str) -> Option<&'h str> {
    if name.is_empty() {
        return None;
    }
    headers
        .known_all(Known::Cookie)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(known, value)| *known == name && !value.is_empty())
        .map(|(_, value)| value.trim_matches('"'))
}

/// What follows the scheme in `Authorization`. None where there are several such fields: another reader might take another one.
pub(crate) fn authorization<'h>(headers: &'h Headers, scheme: &str) -> Option<&'h str> {
    if headers.values("Authorization").nth(1).is_some() {
        return None;
    }
    let (found, rest) = headers.text("Authorization")?.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

pub(crate) fn bearer(headers: &Headers) -> Option<&str> {
    authorization(headers, "Bearer").filter(|token| !token.is_empty())
}
