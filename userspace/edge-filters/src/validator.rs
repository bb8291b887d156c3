//! Refuses requests that lack the right header fields, a valid token, a signature or a password.
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
//!   secret: 6d79736563726574          # hex; publicKey (hex of a PEM text) for RS, PS, ES and EdDSA; or jwksUrl
//!   cookieName: auth                  # looked into first, then Authorization: Bearer
//! signature:
//!   accessKeys: {ann: her-secret}
//!   ttl: 5m
//! keyAuth: {headers: [X-Api-Key], groups: [gold]}
//! oauth2:
//!   tokenIntrospect: {endPoint: "https://idp.example/introspect", clientId: edge, clientSecret: s3cret}
//! basicAuth:
//!   mode: FILE
//!   userFile: /etc/weir/users
//! ```
//!
//! Sections are checked in this order and the first that fails answers: `headers` 400, `jwt`, `signature`, `keyAuth`, `oauth2` and `basicAuth` 401.
//! Every header must be there, with at least one value that is listed or matches the expression. `oauth2` tells the backend who it is in
//! `X-Authenticated-Userid` and `X-Authenticated-Scope`, `basicAuth` in `X-Auth-User`, `keyAuth` (keys of `Consumer` objects) in
//! `X-Consumer-Name` and `X-Consumer-Groups`; what a client writes there is removed. A Consumer of none of the `groups` gets 403, one whose
//! quota is used up 429.
//!
//! What cannot be found out lets nobody pass, and is no verdict on the client: 503 with `Retry-After`, so that nobody throws away a token that
//! is good (Easegress answers 401). So it is while an introspection endpoint is down or does not answer in time (`introspections_failed`),
//! while no more may be asked (`introspections_in_flight`), while the keys of an issuer cannot be fetched and none that is known fits
//! (`jwks_failed`), while as many passwords are checked as may be (`password_checks`), and while the directory of LDAP does not say
//! (`directory_failures`). An introspection endpoint that answers nonsense, or does not take what it is asked (a status below 500 other than
//! 408 and 429, as where its `clientSecret` is wrong), is a 500: another try does no better. A body that was to be signed and is too large is a 413.
//!
//! Outcomes: `invalid`. Fits HTTPServer. Headers cost a comparison each; a token costs the check of its signature (about 1 µs for HS,
//! 30 µs for RS256); introspection a call per token and `cacheTtl`; a password its hash on a thread beside the workers, every 5 minutes.

mod basic_auth;
mod htpasswd;
mod introspection;
pub(crate) mod jwks;
pub(crate) mod jwt;
pub(crate) mod key_auth;
mod ldap;
pub(crate) mod signature;
pub(crate) mod signer;
pub(crate) mod token;
mod user_file;
mod user_store;

use crate::module_doc::module_doc;
use crate::spec::{self, Spec};
use base_model::problem::at;
use base_model::regexp::Pattern;
use base_model::{Findings, Problem};
use base_telemetry::Limit;
use basic_auth::{BasicAuth, BasicAuthSpec, BasicError};
use edge_pipeline::{BuildError, Exchange, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, Touches};
use introspection::{Doubt, Introspection, TokenIntrospectSpec};
use jwt::TokenError;
use key_auth::{KeyAuth, KeyAuthSpec, KeyError};
use proto_http::Headers;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use signature::{SignatureSpec, Signatures};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{SystemTime, UNIX_EPOCH};
use token::{JwtSpec, Token, bearer};

// What reads bytes from outside, for those who try it on any.
pub use basic_auth::read_credentials;
pub use htpasswd::Hash;
pub use jwt::Parsed;
pub use signature::read_authorization;

const INVALID: Outcome = "invalid";

/// `kind: Validator`: refuses requests that are not in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ValidatorSpec {
    /// What header fields must say, by name.
    pub headers: Option<BTreeMap<String, HeaderRuleSpec>>,
    /// A JSON Web Token the request must carry.
    pub jwt: Option<JwtSpec>,
    /// A signature the request must carry.
    pub signature: Option<SignatureSpec>,
    /// A key of a Consumer the request must carry.
    pub key_auth: Option<KeyAuthSpec>,
    /// An OAuth2 access token the request must carry.
    pub oauth2: Option<Oauth2Spec>,
    /// A user name and password the request must carry.
    pub basic_auth: Option<BasicAuthSpec>,
}

/// What one header field must say: one of its values is listed, or matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderRuleSpec {
    /// Values that will do.
    #[schemars(extend("uniqueItems" = true))]
    pub values: Vec<String>,
    /// RE2 expression that will do, found anywhere in the value.
    #[schemars(extend("format" = "regexp"))]
    pub regexp: String,
}

/// How access tokens are checked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Oauth2Spec {
    /// The token is a JSON Web Token.
    pub jwt: Option<JwtSpec>,
    /// The token is shown to an introspection endpoint (RFC 7662). Where both are given, `jwt` is not looked at.
    pub token_introspect: Option<TokenIntrospectSpec>,
}

impl Spec for ValidatorSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        if *self == ValidatorSpec::default() {
            let problem = Problem::new(path, "checks nothing");
            findings
                .problem(problem.advice("give at least one of headers, jwt, signature, keyAuth, oauth2 and basicAuth"));
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
        if let Some(signature) = &self.signature {
            signature.validate(&at(path, "signature"), findings);
        }
        if let Some(keys) = &self.key_auth {
            keys.validate(&at(path, "keyAuth"), findings);
        }
        if let Some(oauth2) = &self.oauth2 {
            let place = at(path, "oauth2");
            match (&oauth2.jwt, &oauth2.token_introspect) {
                (jwt, Some(endpoint)) => {
                    endpoint.validate(&at(&place, "tokenIntrospect"), findings);
                    if jwt.is_some() {
                        findings.warn(at(&place, "jwt"), "is not looked at: tokenIntrospect is");
                    }
                }
                (Some(jwt), None) => jwt.validate(&at(&place, "jwt"), findings),
                (None, None) => {
                    let problem = Problem::new(place, "checks nothing");
                    findings.problem(problem.advice("give tokenIntrospect or jwt"));
                }
            }
        }
        if let Some(basic) = &self.basic_auth {
            basic.validate(&at(path, "basicAuth"), findings);
        }
    }
}

/// A ready Validator.
pub struct Validator {
    headers: Vec<HeaderRule>,
    jwt: Option<Token>,
    signature: Option<Signatures>,
    keys: Option<KeyAuth>,
    oauth2: Option<Oauth2>,
    basic: Option<BasicAuth>,
    over_quota: Limit,
}

struct HeaderRule {
    name: Box<str>,
    values: Vec<Box<str>>,
    regexp: Option<Pattern>,
}

enum Oauth2 {
    Jwt(Box<Token>),
    Introspection(Arc<Introspection>),
}

pub const KIND: FilterKind = FilterKind {
    kind: "Validator",
    results: &[INVALID],
    doc: module_doc!("validator.rs"),
    schema: spec::schema::<ValidatorSpec>,
    check: spec::check::<ValidatorSpec>,
    build: |fields, parts| spec::build(fields, |spec| Validator::new(spec, parts)),
};

/// Why a request does not pass.
struct Refusal {
    status: u16,
    /// How to do better; empty where nothing is to be said.
    challenge: &'static str,
    note: String,
    /// After how many seconds it is worth another try.
    retry_after: Option<u64>,
}

const BEARER: &str = "Bearer";

impl Validator {
    fn new(spec: ValidatorSpec, parts: &Parts<'_>) -> Result<Validator, BuildError> {
        let mut headers = Vec::new();
        for (name, rule) in spec.headers.into_iter().flatten() {
            let regexp = if rule.regexp.is_empty() { None } else { Some(Pattern::new(&rule.regexp)) };
            headers.push(HeaderRule {
                name: name.into(),
                values: rule.values.into_iter().map(String::into_boxed_str).collect(),
                regexp: regexp.transpose().map_err(|why| spec::unexpected("headers", why))?,
            });
        }
        let previous = parts.previous.and_then(|filter| filter.downcast::<Validator>());
        let token = |spec: Option<JwtSpec>, previous: Option<&Token>, path: &str| {
            let made = spec.map(|spec| Token::new(spec, previous, parts)).transpose();
            made.map_err(|why| spec::unexpected(path, why))
        };
        let oauth2_before = previous.and_then(|filter| filter.oauth2.as_ref());
        let oauth2 = match spec.oauth2 {
            Some(Oauth2Spec { token_introspect: Some(endpoint), .. }) => {
                // What was said of tokens holds beyond a change of other things.
                let same = match oauth2_before {
                    Some(Oauth2::Introspection(known)) if known.is_of(&endpoint) => Some(known.clone()),
                    _ => None,
                };
                let made = same.map_or_else(|| Introspection::new(endpoint, parts), Ok);
                let place = "oauth2.tokenIntrospect.endPoint";
                Some(Oauth2::Introspection(made.map_err(|why| spec::unexpected(place, why))?))
            }
            Some(Oauth2Spec { jwt, .. }) => {
                let before = match oauth2_before {
                    Some(Oauth2::Jwt(token)) => Some(&**token),
                    _ => None,
                };
                token(jwt, before, "oauth2.jwt")?.map(Box::new).map(Oauth2::Jwt)
            }
            None => None,
        };
        let basic_before = previous.and_then(|filter| filter.basic.as_ref());
        let basic = spec.basic_auth.map(|spec| BasicAuth::new(spec, basic_before, parts)).transpose();
        Ok(Validator {
            headers,
            jwt: token(spec.jwt, previous.and_then(|filter| filter.jwt.as_ref()), "jwt")?,
            signature: spec.signature.map(Signatures::new),
            keys: spec.key_auth.map(KeyAuth::new),
            over_quota: parts.telemetry.limits().register("consumer_quota"),
            oauth2,
            basic: basic.map_err(|why| spec::unexpected("basicAuth", why))?,
        })
    }

    /// The first of its sections.
    fn check_headers(&self, headers: &Headers) -> Result<(), Refusal> {
        match self.headers.iter().find(|rule| !rule.holds(headers)) {
            Some(rule) => Err(Refusal::new(400, "", format!("header {} is missing or not accepted", rule.name))),
            None => Ok(()),
        }
    }

    /// Whether that is all it checks. Each section is named, so that none that comes later is left out without a word.
    fn checks_headers_alone(&self) -> bool {
        let Validator { headers: _, jwt, signature, keys, oauth2, basic, over_quota: _ } = self;
        jwt.is_none() && signature.is_none() && keys.is_none() && oauth2.is_none() && basic.is_none()
    }

    /// Its other sections, one after the other.
    async fn check(&self, exchange: &mut Exchange) -> Result<(), Refusal> {
        let headers = &exchange.request().headers;
        if let Some(token) = &self.jwt {
            token.claims(headers).await.map_err(|error| Refusal::of_token("jwt", error))?;
        }
        if let Some(signatures) = &self.signature {
            check_signature(signatures, exchange).await?;
        }
        if let Some(keys) = &self.keys {
            keys.check(exchange).map_err(|error| self.refuse_key(error))?;
        }
        let headers = &exchange.request().headers;
        match &self.oauth2 {
            None => {}
            Some(Oauth2::Jwt(token)) => {
                let claims = token.claims(headers).await.map_err(|error| Refusal::of_token("oauth2", error))?;
                identify(&mut exchange.request_mut().headers, text_of(&claims, "sub"), text_of(&claims, "scope"));
            }
            Some(Oauth2::Introspection(endpoint)) => {
                let token = bearer(headers).ok_or_else(|| Refusal::of_token("oauth2", TokenError::Missing))?;
                let told = endpoint.ask(token).await.map_err(|doubt| {
                    let note = format!("oauth2: {doubt}");
                    match doubt {
                        Doubt::Inactive => Refusal::new(401, BEARER, note),
                        Doubt::Unknown(_) => Refusal::new(503, "", note),
                        Doubt::Failed(_) => Refusal::new(500, "", note),
                    }
                })?;
                identify(&mut exchange.request_mut().headers, &told.user, &told.scope);
            }
        }
        if let Some(basic) = &self.basic {
            let user = basic.check(&exchange.request().headers).await.map_err(|error| {
                let status = if matches!(error, BasicError::Busy | BasicError::Unknown) { 503 } else { 401 };
                let challenge = if status == 401 { basic_auth::CHALLENGE } else { "" };
                Refusal::new(status, challenge, format!("basicAuth: {error}"))
            })?;
            exchange.request_mut().headers.set("X-Auth-User", user);
        }
        Ok(())
    }

    fn refuse_key(&self, error: KeyError) -> Refusal {
        let note = format!("keyAuth: {error}");
        match error {
            KeyError::Forbidden => Refusal::new(403, "", note),
            KeyError::Quota(left) => {
                self.over_quota.add(1);
                Refusal { retry_after: Some(left.as_secs().max(1)), ..Refusal::new(429, "", note) }
            }
            _ => Refusal::new(401, "ApiKey", note),
        }
    }

    /// Whether a request may have to wait.
    fn waits(&self) -> bool {
        let oauth2 = match &self.oauth2 {
            None => false,
            Some(Oauth2::Jwt(token)) => token.waits(),
            Some(Oauth2::Introspection(_)) => true,
        };
        oauth2 || self.signature.is_some() || self.basic.is_some() || self.jwt.as_ref().is_some_and(Token::waits)
    }
}

async fn check_signature(signatures: &Signatures, exchange: &mut Exchange) -> Result<(), Refusal> {
    let refused = |error| Refusal::new(401, "", format!("signature: {error}"));
    let signed = signatures.begin(exchange.request(), now() as i64).map_err(refused)?;
    if signatures.exclude_body {
        return signed.verify(None).map_err(refused);
    }
    let body = exchange.space().request_body.gather().await;
    let body = body.map_err(|error| Refusal::new(error.request_status(), "", format!("signature: {error}")))?;
    signed.verify(Some(body)).map_err(refused)
}

fn answer(checked: Result<(), Refusal>, exchange: &mut Exchange) -> Outcome {
    let Err(refusal) = checked else { return SUCCESS };
    exchange.tags.note(|| format!("validator: {}", refusal.note));
    let response = exchange.refuse(refusal.status);
    if !refusal.challenge.is_empty() {
        // RFC 9110 section 15.5.2: a 401 says how to do better.
        response.headers.set("WWW-Authenticate", refusal.challenge);
    }
    if let Some(seconds) = refusal.retry_after {
        response.headers.set("Retry-After", seconds.to_string());
    }
    INVALID
}

impl Refusal {
    fn new(status: u16, challenge: &'static str, note: String) -> Refusal {
        Refusal { status, challenge, note, retry_after: (status == 503).then_some(1) }
    }

    fn of_token(section: &str, error: TokenError) -> Refusal {
        let note = format!("{section}: {error}");
        match error {
            TokenError::NoKeys => Refusal::new(503, "", note),
            _ => Refusal::new(401, BEARER, note),
        }
    }
}

impl Filter for Validator {
    fn touches(&self) -> Touches {
        let body = self.signature.as_ref().is_some_and(|signatures| !signatures.exclude_body);
        Touches::REQUEST_HEAD.and(Touches::RESPONSE).and_if(body, Touches::REQUEST_BODY)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        if let Err(refusal) = self.check_headers(&exchange.request().headers) {
            return Step::Done(answer(Err(refusal), exchange));
        }
        if self.checks_headers_alone() {
            return Step::Done(SUCCESS);
        }
        if self.waits() {
            return Step::wait(async {
                let checked = self.check(exchange).await;
                answer(checked, exchange)
            });
        }
        let checked = match pin!(self.check(exchange)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(checked) => checked,
            // No section that is there waits for anything.
            Poll::Pending => Err(Refusal::new(401, "", "a check waits where none may".to_owned())),
        };
        Step::Done(answer(checked, exchange))
    }

    fn status(&self) -> Option<Value> {
        let mut status = Map::new();
        let mut tell = |name: &str, told: Option<Value>| {
            told.into_iter().for_each(|told| drop(status.insert(name.to_owned(), told)))
        };
        tell("jwks", self.jwt.as_ref().and_then(Token::status));
        match &self.oauth2 {
            Some(Oauth2::Introspection(endpoint)) => tell("introspection", Some(endpoint.status())),
            Some(Oauth2::Jwt(token)) => tell("oauth2Jwks", token.status()),
            None => {}
        }
        tell("basicAuth", self.basic.as_ref().map(BasicAuth::status));
        (!status.is_empty()).then_some(Value::Object(status))
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

/// Tells the backend who it is. Only what a valid token says may stand there.
fn identify(headers: &mut Headers, user: &str, scope: &str) {
    for (name, text) in [("X-Authenticated-Userid", user), ("X-Authenticated-Scope", scope)] {
        headers.remove(name);
        if !text.is_empty() && proto_http::headers::is_value(text.as_bytes()) {
            headers.add(name, text);
        }
    }
}

fn text_of<'c>(claims: &'c Map<String, Value>, name: &str) -> &'c str {
    claims.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
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
        refuses(&KIND, "jwt: {algorithm: HS256, jwksUrl: 'http://a/'}", &["jwt.algorithm"]);
        refuses(&KIND, "jwt: {jwksUrl: 'ftp://a/'}", &["jwt.jwksUrl"]);
        refuses(
            &KIND,
            "jwt: {jwksUrl: 'http://a/', secret: '00', jwksRefresh: 1s}",
            &["jwt.jwksRefresh", "jwt.secret"],
        );
        refuses(&KIND, "jwt: {algorithm: HS256, secret: '00', leeway: 1h}", &["jwt.leeway"]);
        refuses(&KIND, "basicAuth: {mode: LDAP}", &["basicAuth.ldap"]);
        let fields = ["basicAuth.ldap.baseDN", "basicAuth.ldap.port", "basicAuth.ldap.uid"];
        refuses(&KIND, "basicAuth: {mode: LDAP, ldap: {host: h, skipTLS: true}}", &fields);
        refuses(&KIND, "basicAuth: {mode: ETCD, etcdPrefix: /}", &["basicAuth.etcdPrefix"]);
        refuses(&KIND, "basicAuth: {mode: file}", &["basicAuth.mode"]);
        refuses(&KIND, "signature: {}", &["signature.accessKeys"]);
        refuses(
            &KIND,
            "signature: {accessKeys: {a/b: s, c: ''}}",
            &["signature.accessKeys.a/b", "signature.accessKeys.c"],
        );
        refuses(&KIND, "oauth2: {tokenIntrospect: {endPoint: 'a'}}", &["oauth2.tokenIntrospect.endPoint"]);
        let wrong = "oauth2: {tokenIntrospect: {endPoint: 'http://a', maxInFlight: 0, timeout: 0s}}";
        refuses(&KIND, wrong, &["oauth2.tokenIntrospect.maxInFlight", "oauth2.tokenIntrospect.timeout"]);
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
