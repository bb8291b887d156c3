//! Access tokens shown to an introspection endpoint (RFC 7662).
//!
//! The endpoint is asked once for a token at a time, however many requests carry it, and what it says is remembered until the token ends,
//! for `cacheTtl` at most. Who gets no answer in time is refused: nothing passes because a server is down, and no token is called wrong by it.

use crate::answers::{Answers, Stand, Verdict};
use crate::form::escape_into;
use base_model::problem::at;
use base_model::{Findings, GoDuration, Problem};
use base_telemetry::Limit;
use base_telemetry::proxy::PoolNames;
use edge_pipeline::{Body, Parts};
use edge_upstream::call::split_url;
use edge_upstream::{CallSettings, Caller, Reply};
use proto_http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The introspection endpoint, and as whom it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["endPoint"]))]
pub struct TokenIntrospectSpec {
    /// URL of the endpoint, `https://idp.example/introspect`.
    pub end_point: String,
    /// Who asks, as base64 of `id:secret`, for an `Authorization: Basic` field. Not used beside `clientId`.
    #[schemars(extend("x-secret" = true, "writeOnly" = true))]
    pub basic_auth: String,
    /// Who asks, in the form that is sent.
    pub client_id: String,
    /// The secret that goes with `clientId`.
    #[schemars(extend("x-secret" = true, "writeOnly" = true))]
    pub client_secret: String,
    /// Believe whatever certificate the endpoint shows. Default false.
    pub insecure_tls: bool,
    /// How long the endpoint may take; then the request is refused (503). Default 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
    /// How long an answer is remembered, never longer than the token holds: for so long a token that was revoked may still pass. 0s asks
    /// with every request. Default 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_ttl: Option<GoDuration>,
    /// Tokens whose answers are remembered. Default 10000, 1 to 1000000. Memory: about 300 bytes each.
    pub cache_size: u32,
    /// Questions on their way at the same time; beyond them requests are refused (503) and counted as `introspections_in_flight`. Default 64, 1 to
    /// 4096.
    pub max_in_flight: u32,
}

impl Default for TokenIntrospectSpec {
    fn default() -> Self {
        Self {
            end_point: String::new(),
            basic_auth: String::new(),
            client_id: String::new(),
            client_secret: String::new(),
            insecure_tls: false,
            timeout: None,
            cache_ttl: None,
            cache_size: 10_000,
            max_in_flight: 64,
        }
    }
}

const TIMEOUT: Duration = Duration::from_secs(5);
const CACHE_TTL: Duration = Duration::from_secs(10);

/// Largest answer of an endpoint, in bytes: some put whole profiles in.
const ANSWER_BYTES_MAX: u64 = 256 * 1024;

/// Longest name and list of scopes handed to a backend, in bytes each; a token with a longer one is refused.
const TEXT_MAX: usize = 8 * 1024;

impl TokenIntrospectSpec {
    pub(super) fn validate(&self, path: &str, findings: &mut Findings) {
        if let Err(why) = split_url(&self.end_point) {
            findings.problem(Problem::new(at(path, "endPoint"), why).text(&self.end_point));
        }
        if !self.client_id.is_empty() && !self.basic_auth.is_empty() {
            findings.warn(at(path, "basicAuth"), "is not sent: clientId is");
        }
        if !proto_http::headers::is_value(self.basic_auth.as_bytes()) {
            findings.problem(Problem::new(at(path, "basicAuth"), "not base64").accepted("base64 of id:secret"));
        }
        for (field, value, most) in
            [("cacheSize", self.cache_size, 1_000_000), ("maxInFlight", self.max_in_flight, 4096)]
        {
            if !(1..=most).contains(&value) {
                let problem = Problem::new(at(path, field), "out of range").value(&Value::from(value));
                findings.problem(problem.accepted(format!("1 to {most}")));
            }
        }
        if self.timeout.is_some_and(|time| time.is_zero()) {
            let problem = Problem::new(at(path, "timeout"), "no endpoint answers in no time").value(&"0s".into());
            findings.problem(problem.accepted("longer than 0s"));
        }
    }
}

/// Who a token is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) user: Box<str>,
    pub(super) scope: Box<str>,
}

/// Why a token does not count.
#[derive(Debug)]
pub(super) enum Doubt {
    /// The endpoint has said so.
    Inactive,
    /// Nobody has said anything of it: the endpoint is down, or is asked as much as it may be.
    Unknown(Arc<str>),
    /// The endpoint does not take what it is asked: another try will not do better.
    Failed(Arc<str>),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Doubt::Inactive => "the token is not active",
            Doubt::Unknown(why) | Doubt::Failed(why) => why,
        })
    }
}

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Active(Arc<Bearer>),
    Inactive,
    /// Why, and whether another try may do better.
    Failed(Arc<str>, bool),
}

/// Why the endpoint's answer says nothing.
#[derive(Debug)]
struct Fault {
    why: String,
    /// Another try may do better.
    is_down: bool,
}

impl Fault {
    fn nonsense(why: impl Into<String>) -> Fault {
        Fault { why: why.into(), is_down: false }
    }
}

impl Verdict for Told {
    fn is_favourable(&self) -> bool {
        matches!(self, Told::Active(_))
    }
}

/// A ready endpoint.
pub(super) struct Introspection {
    spec: TokenIntrospectSpec,
    caller: Caller,
    answers: Arc<Answers<Told>>,
    remembered: Duration,
    full: Limit,
    failed: Limit,
}

impl Introspection {
    pub(super) fn new(spec: TokenIntrospectSpec, parts: &Parts<'_>) -> Result<Arc<Introspection>, String> {
        let settings = CallSettings {
            timeout: spec.timeout.map_or(TIMEOUT, Duration::from),
            body_bytes_max: ANSWER_BYTES_MAX,
            in_flight_max: spec.max_in_flight as usize,
            insecure_tls: spec.insecure_tls,
            ..CallSettings::default()
        };
        let names = PoolNames {
            pool: parts.pool("introspection"),
            proxy: parts.name.to_owned(),
            kind: super::KIND.kind.to_owned(),
            ..PoolNames::default()
        };
        Ok(Arc::new(Introspection {
            caller: Caller::new(&spec.end_point, settings, names, parts.telemetry)?,
            answers: Answers::new(spec.cache_size as usize, spec.max_in_flight as usize)?,
            remembered: spec.cache_ttl.map_or(CACHE_TTL, Duration::from),
            full: parts.telemetry.limits().register("introspections_in_flight"),
            failed: parts.telemetry.limits().register("introspections_failed"),
            spec,
        }))
    }

    pub(super) fn is_of(&self, spec: &TokenIntrospectSpec) -> bool {
        self.spec == *spec
    }

    /// Whose token it is; the error says why it does not count.
    pub(super) async fn ask(self: &Arc<Self>, token: &str) -> Result<Arc<Bearer>, Doubt> {
        let question = self.answers.question(&[token.as_bytes()]);
        let told = match self.answers.look(question, base_runtime::now()) {
            Stand::Known(told) => Some(told),
            Stand::Asked(answer) => answer.await.ok(),
            Stand::Open(asking, answer) => {
                let (this, form) = (self.clone(), self.form(token));
                // A task of its own: who asked first may leave, the others still wait.
                base_runtime::spawn(async move {
                    let (told, holds) = this.introspect(form).await;
                    asking.answer(told, holds);
                })
                .detach();
                answer.await.ok()
            }
            Stand::Full => {
                self.full.hit(base_runtime::worker_index());
                return Err(Doubt::Unknown("too many tokens are being introspected".into()));
            }
        };
        match told {
            Some(Told::Active(bearer)) => Ok(bearer),
            Some(Told::Inactive) => Err(Doubt::Inactive),
            Some(Told::Failed(why, true)) => Err(Doubt::Unknown(why)),
            Some(Told::Failed(why, false)) => Err(Doubt::Failed(why)),
            None => Err(Doubt::Unknown("the introspection was given up".into())),
        }
    }

    /// What the endpoint says, and for how long that holds.
    async fn introspect(&self, form: String) -> (Told, Duration) {
        let mut request = self.caller.request(Method::Post);
        request.headers.add("Content-Type", "application/x-www-form-urlencoded");
        request.headers.add("Accept", "application/json");
        if self.spec.client_id.is_empty() && !self.spec.basic_auth.is_empty() {
            request.headers.add("Authorization", format!("Basic {}", self.spec.basic_auth));
        }
        let asked = self.caller.call(&request, Body::full(form)).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let asked = asked.map_err(|error| Fault { why: error.to_string(), is_down: true });
        asked.and_then(|reply| read(&reply, now, self.remembered)).unwrap_or_else(|fault| {
            self.failed.hit(base_runtime::worker_index());
            (Told::Failed(format!("introspection failed: {}", fault.why).into(), fault.is_down), Duration::ZERO)
        })
    }

    fn form(&self, token: &str) -> String {
        let mut form = String::from("token=");
        escape_into(token.as_bytes(), &mut form);
        form.push_str("&token_type_hint=access_token");
        if !self.spec.client_id.is_empty() {
            form.push_str("&client_id=");
            escape_into(self.spec.client_id.as_bytes(), &mut form);
            form.push_str("&client_secret=");
            escape_into(self.spec.client_secret.as_bytes(), &mut form);
        }
        form
    }

    pub(super) fn status(&self) -> Value {
        self.caller.status()
    }
}

fn read(reply: &Reply, now: f64, most: Duration) -> Result<(Told, Duration), Fault> {
    let status = reply.response.status;
    if !(200..300).contains(&status) {
        // Of other statuses below 500 it is not the time that is wrong, but who asks, or what.
        return Err(Fault {
            why: format!("the endpoint answers {status}"),
            is_down: matches!(status, 408 | 429 | 500..),
        });
    }
    let Ok(Value::Object(answer)) = serde_json::from_slice(&reply.body) else {
        return Err(Fault::nonsense("the answer is no JSON object"));
    };
    let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default();
    if answer.get("error").is_some_and(|error| !error.is_null() && error != "") {
        return Err(Fault::nonsense(format!("the endpoint says {}", base_text::quoted(text("error")))));
    }
    let Some(active) = answer.get("active").and_then(Value::as_bool) else {
        return Err(Fault::nonsense("the answer does not say whether the token is active"));
    };
    let left = match answer.get("exp") {
        None | Some(Value::Null) => f64::INFINITY,
        Some(end) => end.as_f64().ok_or_else(|| Fault::nonsense("exp of the answer is no number"))? - now,
    };
    if !active || left <= 0.0 {
        return Ok((Told::Inactive, most));
    }
    let (user, scope) = (text("sub"), text("scope"));
    if user.len().max(scope.len()) > TEXT_MAX {
        return Err(Fault::nonsense(format!("sub or scope of the answer are longer than {TEXT_MAX} bytes")));
    }
    let holds = most.min(Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX));
    Ok((Told::Active(Arc::new(Bearer { user: user.into(), scope: scope.into() })), holds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto_http::Response;

    #[test]
    fn answers_hold_as_long_as_their_token() {
        const MOST: Duration = Duration::from_secs(60);
        let active =
            |user: &str, scope: &str| Some(Told::Active(Arc::new(Bearer { user: user.into(), scope: scope.into() })));
        for (status, body, told, holds) in [
            (200, r#"{"active":true,"sub":"u","scope":"a b"}"#, active("u", "a b"), 60.0),
            (200, r#"{"active":true,"sub":"u","exp":1010}"#, active("u", ""), 10.0),
            (200, r#"{"active":true,"exp":1e300}"#, active("", ""), 60.0),
            (200, r#"{"active":true,"sub":"u","exp":1000}"#, Some(Told::Inactive), 60.0),
            (200, r#"{"active":false,"sub":"u"}"#, Some(Told::Inactive), 60.0),
            (200, r#"{"sub":"u"}"#, None, 0.0),
            (200, r#"{"active":"true"}"#, None, 0.0),
            (200, r#"{"active":true,"exp":"later"}"#, None, 0.0),
            (200, r#"{"active":true,"error":"invalid_client"}"#, None, 0.0),
            (200, "[]", None, 0.0),
            (200, "", None, 0.0),
            (401, r#"{"active":true}"#, None, 0.0),
            (302, r#"{"active":true}"#, None, 0.0),
        ] {
            let reply = Reply { response: Response::with_status(status), body: body.as_bytes().into(), trailers: None };
            let found = read(&reply, 1000.0, MOST);
            assert_eq!(found.as_ref().ok().map(|(told, _)| told.clone()), told, "{status} {body}");
            if let Ok((_, found)) = found {
                assert_eq!(found.as_secs_f64(), holds, "{body}");
            }
        }
        for (status, is_down) in [
            (400, false),
            (401, false),
            (403, false),
            (404, false),
            (302, false),
            (408, true),
            (429, true),
            (500, true),
            (503, true),
        ] {
            let reply = Reply { response: Response::with_status(status), body: "{}".into(), trailers: None };
            assert_eq!(read(&reply, 0.0, MOST).unwrap_err().is_down, is_down, "{status}");
        }
        let long = format!(r#"{{"active":true,"sub":"{}"}}"#, "u".repeat(TEXT_MAX + 1));
        let reply = Reply { response: Response::with_status(200), body: long.into(), trailers: None };
        assert!(read(&reply, 0.0, MOST).is_err());
    }
}
