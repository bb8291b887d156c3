//! Refuses requests that lack the right header fields or a valid token.
//!
//! Use it first in a flow, so that nothing after it sees such a request.
//!
//! ```yaml
//! name: validator
//! kind: Validator
//! headers:
//!   Content-Type: {values: [application/json]}
//!   X-Version: {regexp: ^v[0-9]+$}
//! jwt:
//!   algorithm: HS256
//!   secret: 6d79736563726574          # hex; publicKey (hex of a PEM text) for RS, ES and EdDSA
//!   cookieName: auth                  # looked into first, then Authorization: Bearer
//! oauth2:
//!   jwt: {algorithm: HS256, secret: 6d79736563726574}
//! ```
//!
//! Sections are checked in this order and the first that fails answers: `headers` 400, `jwt` 401, `oauth2` 401. Every
//! header must be there, with at least one value that is listed or matches the expression. `oauth2` tells the backend
//! who it is in `X-Authenticated-Userid` and `X-Authenticated-Scope`; what a client writes there is removed.
//! `signature`, `basicAuth` and `oauth2.tokenIntrospect` are not available yet and are refused.
//!
//! Outcomes: `invalid`. Fits HTTPServer. Headers cost a comparison each; a token costs the check of its signature
//! (about 1 µs for HS, 30 µs for RS256).

mod jwt;

use crate::module_doc::module_doc;
use crate::spec::{self, Spec};
use base_model::problem::{at, one_of};
use base_model::regexp::Pattern;
use base_model::{Findings, Problem};
use edge_pipeline::{BuildError, Exchange, Filter, FilterKind, Outcome, SUCCESS, Step, Touches};
use jwt::{ALGORITHMS, TokenError, TokenKey};
use proto_http::{Headers, Known};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

const INVALID: Outcome = "invalid";

/// `kind: Validator`: refuses requests that are not in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ValidatorSpec {
    /// What header fields must say, by name.
    pub headers: Option<BTreeMap<String, HeaderRuleSpec>>,
    /// A JSON Web Token the request must carry.
    pub jwt: Option<JwtSpec>,
    /// An OAuth2 access token the request must carry.
    pub oauth2: Option<Oauth2Spec>,
    /// A signature the request must carry. Not available yet.
    pub signature: Option<Map<String, Value>>,
    /// A user name and password the request must carry. Not available yet.
    pub basic_auth: Option<Map<String, Value>>,
}

/// What one header field must say: one of its values is listed, or matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderRuleSpec {
    /// Values that will do.
    pub values: Vec<String>,
    /// RE2 expression that will do, found anywhere in the value.
    #[schemars(extend("format" = "regexp"))]
    pub regexp: String,
}

/// How tokens are signed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["algorithm"]))]
pub struct JwtSpec {
    /// HS256, HS384, HS512, RS256, RS384, RS512, ES256, ES384 or EdDSA.
    pub algorithm: String,
    /// Key of the HS algorithms, in hexadecimal digits.
    #[schemars(extend("x-secret" = true, "writeOnly" = true))]
    pub secret: String,
    /// Key of the others: a PEM text (`BEGIN PUBLIC KEY`), in hexadecimal digits.
    pub public_key: String,
    /// Cookie that may hold the token. Default: only `Authorization: Bearer` does.
    pub cookie_name: String,
}

/// How access tokens are checked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Oauth2Spec {
    /// The token is a JSON Web Token of an HS algorithm.
    pub jwt: Option<JwtSpec>,
    /// The token is shown to an introspection endpoint. Not available yet.
    pub token_introspect: Option<Map<String, Value>>,
}

impl Spec for ValidatorSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        let sections = [self.headers.is_some(), self.jwt.is_some(), self.oauth2.is_some()];
        let later = [self.signature.is_some(), self.basic_auth.is_some()];
        if !sections.iter().chain(&later).any(|given| *given) {
            let problem = Problem::new(path, "checks nothing");
            findings.problem(problem.advice("give at least one of headers, jwt and oauth2"));
        }
        for (name, rule) in self.headers.iter().flatten() {
            let place = at(&at(path, "headers"), name);
            if rule.values.is_empty() && rule.regexp.is_empty() {
                findings.problem(Problem::new(&place, "accepts nothing").advice("give values or regexp"));
            }
            base_model::string_matcher::check_regexp(&rule.regexp, &at(&place, "regexp"), findings);
        }
        if let Some(jwt) = &self.jwt {
            jwt.validate(&at(path, "jwt"), findings);
        }
        if let Some(oauth2) = &self.oauth2 {
            let place = at(path, "oauth2");
            match (&oauth2.jwt, &oauth2.token_introspect) {
                (_, Some(_)) => unavailable(at(&place, "tokenIntrospect"), findings),
                (Some(jwt), None) => jwt.validate(&at(&place, "jwt"), findings),
                (None, None) => findings.problem(Problem::new(place, "checks nothing").advice("give jwt")),
            }
        }
        for (key, given) in [("signature", later[0]), ("basicAuth", later[1])] {
            if given {
                unavailable(at(path, key), findings);
            }
        }
    }
}

fn unavailable(place: String, findings: &mut Findings) {
    let problem = Problem::new(place, "not available yet");
    findings.problem(problem.advice("remove it; headers, jwt and oauth2.jwt are what can be checked"));
}

impl JwtSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        if !ALGORITHMS.contains(&self.algorithm.as_str()) {
            let problem = Problem::new(at(path, "algorithm"), "not an algorithm that can be checked");
            findings.problem(problem.text(&self.algorithm).accepted(one_of(&ALGORITHMS)));
            return;
        }
        let field = if self.algorithm.starts_with("HS") { "secret" } else { "publicKey" };
        // The value stays out of the message: it may be a secret.
        if let Err(why) = self.key() {
            findings.problem(Problem::new(at(path, field), why));
        }
    }

    fn key(&self) -> Result<TokenKey, String> {
        let bytes =
            |text: &str| from_hex(text).ok_or("not hexadecimal digits; write the key's bytes with two digits each");
        TokenKey::new(&self.algorithm, &bytes(&self.secret)?, &bytes(&self.public_key)?)
    }
}

/// A ready Validator.
pub struct Validator {
    headers: Vec<HeaderRule>,
    jwt: Option<Token>,
    oauth2: Option<Token>,
}

struct HeaderRule {
    name: Box<str>,
    values: Vec<Box<str>>,
    regexp: Option<Pattern>,
}

/// Where a token stands, and the key it must be signed with.
struct Token {
    key: TokenKey,
    cookie: Box<str>,
}

pub const KIND: FilterKind = FilterKind {
    kind: "Validator",
    results: &[INVALID],
    doc: module_doc!("validator.rs"),
    schema: spec::schema::<ValidatorSpec>,
    check: spec::check::<ValidatorSpec>,
    build: |fields, _| spec::build(fields, Validator::new),
};

impl Validator {
    fn new(spec: ValidatorSpec) -> Result<Validator, BuildError> {
        let mut headers = Vec::new();
        for (name, rule) in spec.headers.into_iter().flatten() {
            let regexp = if rule.regexp.is_empty() { None } else { Some(Pattern::new(&rule.regexp)) };
            headers.push(HeaderRule {
                name: name.into(),
                values: rule.values.into_iter().map(String::into_boxed_str).collect(),
                regexp: regexp.transpose().map_err(|why| spec::unexpected("headers", why))?,
            });
        }
        let token = |spec: Option<JwtSpec>, path: &str| -> Result<Option<Token>, BuildError> {
            let Some(spec) = spec else { return Ok(None) };
            let key = spec.key().map_err(|why| spec::unexpected(path, why))?;
            Ok(Some(Token { key, cookie: spec.cookie_name.into() }))
        };
        Ok(Validator {
            headers,
            jwt: token(spec.jwt, "jwt")?,
            oauth2: token(spec.oauth2.and_then(|o| o.jwt), "oauth2.jwt")?,
        })
    }
}

impl Filter for Validator {
    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD.and(Touches::RESPONSE)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let headers = &exchange.request().headers;
        if let Some(rule) = self.headers.iter().find(|rule| !rule.holds(headers)) {
            exchange.tags.note(|| format!("validator: header {} is missing or not accepted", rule.name));
            return Step::Done(refuse(exchange, 400));
        }
        if let Some(token) = &self.jwt
            && let Err(error) = token.claims(headers)
        {
            exchange.tags.note(|| format!("validator: jwt: {error}"));
            return Step::Done(refuse(exchange, 401));
        }
        if let Some(token) = &self.oauth2 {
            match token.claims(headers) {
                Ok(claims) => identify(&mut exchange.request_mut().headers, &claims),
                Err(error) => {
                    exchange.tags.note(|| format!("validator: oauth2: {error}"));
                    return Step::Done(refuse(exchange, 401));
                }
            }
        }
        Step::Done(SUCCESS)
    }
}

impl HeaderRule {
    fn holds(&self, headers: &Headers) -> bool {
        headers.values(&self.name).any(|value| {
            self.values.iter().any(|v| v.as_bytes() == value)
                || self
                    .regexp
                    .as_ref()
                    .is_some_and(|regexp| std::str::from_utf8(value).is_ok_and(|text| regexp.is_match(text)))
        })
    }
}

impl Token {
    fn claims(&self, headers: &Headers) -> Result<Map<String, Value>, TokenError> {
        let token = self.cookie(headers).or_else(|| bearer(headers)).ok_or(TokenError::Missing)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        self.key.verify(token, now)
    }

    fn cookie<'h>(&self, headers: &'h Headers) -> Option<&'h str> {
        if self.cookie.is_empty() {
            return None;
        }
        headers
            .known_all(Known::Cookie)
            .filter_map(|line| std::str::from_utf8(line).ok())
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(name, value)| **name == *self.cookie && !value.is_empty())
            .map(|(_, value)| value.trim_matches('"'))
    }
}

fn bearer(headers: &Headers) -> Option<&str> {
    let (scheme, token) = headers.text("Authorization")?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}

/// Tells the backend who it is. Only what a valid token says may stand there.
fn identify(headers: &mut Headers, claims: &Map<String, Value>) {
    for (name, claim) in [("X-Authenticated-Userid", "sub"), ("X-Authenticated-Scope", "scope")] {
        headers.remove(name);
        if let Some(text) = claims.get(claim).and_then(Value::as_str)
            && !text.is_empty()
            && proto_http::headers::is_value(text.as_bytes())
        {
            headers.add(name, text);
        }
    }
}

fn refuse(exchange: &mut Exchange, status: u16) -> Outcome {
    let response = exchange.refuse(status);
    if status == 401 {
        // RFC 9110 section 15.5.2: a 401 says how to do better.
        response.headers.set("WWW-Authenticate", "Bearer");
    }
    INVALID
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let text = text.trim().as_bytes();
    let digit = |b: u8| (b as char).to_digit(16);
    let byte = |pair: &[u8]| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
    text.len().is_multiple_of(2).then(|| text.chunks_exact(2).map(byte).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn header_rules() {
        let spec = "headers: {X-K: {values: [one, two], regexp: '^ok-[0-9]+$'}}";
        for (values, status) in [
            (&["one"][..], 0),
            (&["two"], 0),
            (&["ok-42"], 0),
            (&["three"], 400),
            (&[], 400),
            (&["three", "two"], 0),
            (&["One"], 400),
        ] {
            let headers: Vec<_> = values.iter().map(|v| ("x-k", *v)).collect();
            check(spec, &headers, status);
        }
        let both = "headers: {X-A: {values: ['1']}, X-B: {values: ['2']}}";
        check(both, &[("X-A", "1"), ("X-B", "2")], 0);
        check(both, &[("X-A", "1")], 400);
    }

    #[test]
    fn tokens() {
        // {"alg":"HS256"} {"sub":"ann","scope":"read"}, signed with "secret".
        let spec = "jwt: {algorithm: HS256, secret: '736563726574', cookieName: auth}";
        let token = token(r#"{"sub":"ann","scope":"read"}"#);
        let bearer = format!("Bearer {token}");
        let cookie = format!("a=b; auth={token}");
        check(spec, &[("Authorization", &bearer)], 0);
        check(spec, &[("Authorization", &bearer.replace("Bearer", "bearer"))], 0);
        check(spec, &[("Cookie", &cookie)], 0);
        check(spec, &[], 401);
        check(spec, &[("Authorization", &token)], 401);
        check(spec, &[("Authorization", &bearer[..bearer.len() - 2])], 401);
        check(spec, &[("Cookie", "auth=wrong"), ("Authorization", &bearer)], 401);
        check(&format!("{{{spec}, headers: {{X-K: {{values: [a]}}}}}}"), &[("X-K", "b")], 400);
    }

    #[test]
    fn oauth2_tells_who_it_is() {
        let spec = "oauth2: {jwt: {algorithm: HS256, secret: '736563726574'}}";
        let bearer = format!("Bearer {}", token(r#"{"sub":"ann","scope":"read"}"#));
        let mut exchange = request("GET", "/", &[("Authorization", &bearer), ("x-authenticated-userid", "root")]);
        assert_eq!(run(&*filter(&KIND, spec), &mut exchange), SUCCESS);
        assert_eq!(headers(&exchange, "X-Authenticated-Userid"), "ann");
        assert_eq!(headers(&exchange, "X-Authenticated-Scope"), "read");
        check(spec, &[], 401);
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{}", &[""]);
        refuses(&KIND, "headers: {X: {}}", &["headers.X"]);
        refuses(&KIND, "headers: {X: {regexp: '('}}", &["headers.X.regexp"]);
        refuses(&KIND, "jwt: {algorithm: none, secret: '00'}", &["jwt.algorithm"]);
        refuses(&KIND, "jwt: {algorithm: HS256, secret: xyz}", &["jwt.secret"]);
        refuses(&KIND, "jwt: {algorithm: RS256, publicKey: '00'}", &["jwt.publicKey"]);
        refuses(&KIND, "basicAuth: {mode: FILE}", &["basicAuth"]);
        refuses(&KIND, "signature: {}", &["signature"]);
        refuses(&KIND, "oauth2: {tokenIntrospect: {endPoint: 'http://a'}}", &["oauth2.tokenIntrospect"]);
        refuses(&KIND, "oauth2: {}", &["oauth2"]);
    }

    fn check(spec: &str, headers: &[(&str, &str)], status: u16) {
        let mut exchange = request("GET", "/", headers);
        let outcome = run(&*filter(&KIND, spec), &mut exchange);
        assert_eq!(
            (outcome, status_of(&exchange)),
            (if status == 0 { SUCCESS } else { INVALID }, status),
            "{spec} {headers:?}"
        );
    }

    fn token(claims: &str) -> String {
        use base64::Engine as _;
        let base64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let signed = format!("{}.{}", base64.encode(r#"{"alg":"HS256"}"#), base64.encode(claims));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"secret");
        format!("{signed}.{}", base64.encode(ring::hmac::sign(&key, signed.as_bytes())))
    }
}
