//! Asks a service of yours whether a request may pass, as `auth_request` of nginx and forward authentication of others do: it is sent the
//! request's head, without its body, and says yes with a status of 2xx.
//!
//! Use it where logins are another service's business, oauth2-proxy's for instance. RemoteFilter is for services that change requests.
//!
//! ```yaml
//! name: login
//! kind: ForwardAuth
//! url: http://oauth2-proxy.internal:4180/oauth2/auth
//! signin: https://login.shop.test/start
//! responseHeaders: [X-Auth-Request-User, X-Auth-Request-Email]
//! ```
//!
//! The service gets a request with `method` and the client's header, and with what was asked for in `X-Original-URL`, `X-Original-Method`,
//! `X-Auth-Request-Redirect`, `X-Forwarded-Method`, `-Proto`, `-Host` and `-Uri`, and `X-Real-IP`; what the client says in these does not
//! count. `url` and `signin` may have nginx's `$request_uri`, `$escaped_request_uri`, `$request_method`, `$host`, `$http_host` and
//! `$scheme`, `url` behind its host. With 2xx the request goes on: fields named in `responseHeaders` have what the service says, and none
//! where it says nothing, whatever the client sent; cookies that it sets reach the client. 401, 403 and redirections are the client's
//! answer, with their `WWW-Authenticate`, `Location` and cookies; instead of 401, with `signin`, a redirection there (302) whose parameter
//! `signinRedirectParam` says where to come back to. Anything else, and no answer in time, is `failed`: the client gets 503.
//!
//! Outcomes: `denied`, `failed`. Answers of more than 64 KiB are `failed`. Counted: `calls_in_flight`, `calls_timed_out`,
//! `call_answer_bytes`. Fits HTTPServer. Costs a call for each request.

use crate::form::escape_into;
use crate::module_doc::module_doc;
use crate::spec::{self, Spec, unexpected};
use base_model::problem::{at, nth};
use base_model::{Findings, GoDuration, Problem};
use base_telemetry::proxy::PoolNames;
use edge_pipeline::{Body, BuildError, Exchange, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, Touches, rounds};
use edge_upstream::call::split_url;
use edge_upstream::{CallSettings, Caller};
use proto_http::headers::{is_name, is_value};
use proto_http::{Known, Method, Request, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

const DENIED: Outcome = "denied";
const FAILED: Outcome = "failed";

/// `kind: ForwardAuth`: asks a service whether a request may pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["url"]))]
pub struct ForwardAuthSpec {
    /// What is asked, `http://host:port/path` or `https://…`.
    pub url: String,
    /// Method it is asked with. Default: GET.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// Where clients are sent that the service answers 401. Default: they get 401.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub signin: String,
    /// Parameter of `signin` with the URL that was asked for; it is added where `signin` does not have it already. Default `rd`; empty: none.
    pub signin_redirect_param: String,
    /// Fields of the client's header that the service is sent. Default: all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub request_headers: Vec<String>,
    /// Fields of the service's answer that become those of the request. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub response_headers: Vec<String>,
    /// How long it may take; then the client gets 503. Default 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
    /// Believe whatever certificate the service shows. Default false.
    pub insecure_tls: bool,
    /// Questions on their way at the same time, from this machine; beyond them clients get 503 at once. Default 1024, 1 to 65536.
    pub max_in_flight: u32,
}

impl Default for ForwardAuthSpec {
    fn default() -> Self {
        Self {
            url: String::new(),
            method: String::new(),
            signin: String::new(),
            signin_redirect_param: "rd".to_owned(),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            timeout: None,
            insecure_tls: false,
            max_in_flight: 1024,
        }
    }
}

const TIMEOUT: Duration = Duration::from_secs(5);

/// Largest answer of the service, in bytes; nobody reads it.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

const IN_FLIGHT_MAX: u32 = 65_536;

/// Idle connections to the service, for each worker.
const IDLE_CONNECTIONS: usize = 64;

impl Spec for ForwardAuthSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        match split_url(&self.url) {
            Err(why) => findings.problem(Problem::new(at(path, "url"), why).text(&self.url)),
            Ok((_, target)) => check_template(target, &self.url, at(path, "url"), findings),
        }
        if !self.signin.is_empty() {
            let is_place =
                ["http://", "https://", "/", "$scheme://"].iter().any(|start| self.signin.starts_with(start));
            if !is_place || !is_value(self.signin.as_bytes()) {
                let problem = Problem::new(at(path, "signin"), "no place to send clients to").text(&self.signin);
                findings.problem(problem.accepted("https://host/path, or /path of the host that was asked"));
            }
            check_template(&self.signin, &self.signin, at(path, "signin"), findings);
        }
        if !self.method.is_empty() && Method::parse(self.method.as_bytes()).is_none() {
            findings.problem(Problem::new(at(path, "method"), "not a method").text(&self.method));
        }
        for (field, names) in [("requestHeaders", &self.request_headers), ("responseHeaders", &self.response_headers)] {
            for (n, name) in names.iter().enumerate() {
                if !is_name(name.as_bytes()) || is_ours(Known::of(name.as_bytes())) {
                    let problem = Problem::new(nth(&at(path, field), n), "no field that is passed on").text(name);
                    findings.problem(
                        problem.accepted("names of fields but Host, Content-Length and those of the connection"),
                    );
                }
            }
        }
        if self.timeout.is_some_and(|time| time.is_zero()) {
            let problem = Problem::new(at(path, "timeout"), "no service answers in no time").value(&"0s".into());
            findings.problem(problem.accepted("longer than 0s"));
        }
        if !(1..=IN_FLIGHT_MAX).contains(&self.max_in_flight) {
            let problem = Problem::new(at(path, "maxInFlight"), "out of range").value(&self.max_in_flight.into());
            findings.problem(problem.accepted(format!("1 to {IN_FLIGHT_MAX}")));
        }
    }
}

/// A ready ForwardAuth.
pub struct ForwardAuth {
    spec: ForwardAuthSpec,
    method: Method,
    /// Path and query of the URL, where they depend on the request.
    target: Option<String>,
    caller: Caller,
}

pub const KIND: FilterKind = FilterKind {
    kind: "ForwardAuth",
    results: &[DENIED, FAILED],
    doc: module_doc!("forward_auth.rs"),
    schema: spec::schema::<ForwardAuthSpec>,
    check: spec::check::<ForwardAuthSpec>,
    build: |fields, parts| spec::build(fields, |spec| ForwardAuth::new(spec, parts)),
};

impl ForwardAuth {
    fn new(spec: ForwardAuthSpec, parts: &Parts<'_>) -> Result<ForwardAuth, BuildError> {
        let settings = CallSettings {
            timeout: spec.timeout.map_or(TIMEOUT, Duration::from),
            body_bytes_max: ANSWER_BYTES_MAX,
            in_flight_max: spec.max_in_flight as usize,
            insecure_tls: spec.insecure_tls,
            idle_max: IDLE_CONNECTIONS,
            ..CallSettings::default()
        };
        let names = PoolNames {
            pool: parts.pool("auth"),
            proxy: parts.name.to_owned(),
            kind: KIND.kind.to_owned(),
            ..PoolNames::default()
        };
        let caller = Caller::new(&spec.url, settings, names, parts.telemetry).map_err(|why| unexpected("url", why))?;
        let target = split_url(&spec.url).map_err(|why| unexpected("url", why))?.1;
        let target = target.contains('$').then(|| target.to_owned());
        let method = Method::parse(spec.method.as_bytes()).filter(|_| !spec.method.is_empty()).unwrap_or(Method::Get);
        Ok(ForwardAuth { method, target, caller, spec })
    }

    async fn ask(&self, exchange: &mut Exchange) -> Outcome {
        match self.asked(exchange).await {
            Ok(outcome) => outcome,
            Err(why) => {
                exchange.tags.note(|| format!("forwardAuthErr: {why}"));
                exchange.refuse(503);
                FAILED
            }
        }
    }

    async fn asked(&self, exchange: &mut Exchange) -> Result<Outcome, String> {
        let question = self.question(exchange)?;
        let reply = self.caller.call(&question, Body::Empty).await.map_err(|error| error.to_string())?;
        let said = reply.response;
        match said.status {
            200..=299 => {
                self.let_in(exchange, &said);
                Ok(SUCCESS)
            }
            401 if !self.spec.signin.is_empty() => {
                let location = self.signin(exchange);
                let response = exchange.refuse(302);
                response.headers.set("Location", location);
                response.headers.set("Cache-Control", "no-store");
                cookies(&said, response);
                Ok(DENIED)
            }
            status @ (301 | 302 | 303 | 307 | 308 | 401 | 403) => {
                let response = exchange.refuse(status);
                for name in ["WWW-Authenticate", "Location"] {
                    said.headers.values(name).for_each(|value| response.headers.add(name, value));
                }
                response.headers.set("Cache-Control", "no-store");
                cookies(&said, response);
                Ok(DENIED)
            }
            status => Err(format!("the service answers {status}")),
        }
    }

    /// What the service is sent.
    fn question(&self, exchange: &Exchange) -> Result<Request, String> {
        let mut question = self.caller.request(self.method.clone());
        if let Some(target) = &self.target {
            let target = expanded(target, exchange);
            let target = if target.starts_with('/') { target } else { format!("/{target}") };
            question
                .set_target(target.as_bytes())
                .map_err(|_| "the URL with what was asked in it is none".to_owned())?;
        }
        let asked = exchange.request();
        let wanted = |name: &[u8]| {
            let all = &self.spec.request_headers;
            all.is_empty() || all.iter().any(|wanted| wanted.as_bytes().eq_ignore_ascii_case(name))
        };
        // A body that is not sent is not announced either.
        for (name, value, _) in asked.headers.iter().filter(|(name, _, known)| !is_ours(*known) && wanted(name)) {
            question.headers.add(name, value);
        }
        // A service that is behind the same server would be asked for its own questions for ever.
        rounds::carry(&asked.headers, &mut question.headers);
        let (uri, scheme) = (String::from_utf8_lossy(exchange.asked_target()), exchange.client.scheme);
        let host = &asked.authority;
        for (name, value) in [
            ("X-Original-URL", format!("{scheme}://{host}{uri}").as_str()),
            ("X-Original-Method", exchange.method.as_str()),
            ("X-Auth-Request-Redirect", &uri),
            ("X-Forwarded-Method", exchange.method.as_str()),
            ("X-Forwarded-Proto", scheme),
            ("X-Forwarded-Host", host),
            ("X-Forwarded-Uri", &uri),
            ("X-Real-IP", &exchange.client.real_ip_text()),
        ] {
            question.headers.set(name, value);
        }
        Ok(question)
    }

    fn let_in(&self, exchange: &mut Exchange, said: &Response) {
        let headers = &mut exchange.space().request.headers;
        for name in &self.spec.response_headers {
            // What the client says of itself there was never for the backend.
            headers.remove(name);
            said.headers.values(name).for_each(|value| headers.add(name, value));
        }
        if said.headers.contains("Set-Cookie") {
            cookies(said, exchange.space().response.get_or_insert_default());
        }
    }

    /// Where a client without a login is sent.
    fn signin(&self, exchange: &Exchange) -> String {
        let (mut location, param) = (expanded(&self.spec.signin, exchange), &self.spec.signin_redirect_param);
        let query = self.spec.signin.split_once('?').map(|(_, query)| query);
        let has = query.is_some_and(|query| query.split('&').any(|pair| pair.split('=').next() == Some(param)));
        if param.is_empty() || has {
            return location;
        }
        location.push(if query.is_some() { '&' } else { '?' });
        location.push_str(param);
        location.push('=');
        let uri = exchange.asked_target();
        let whole = [exchange.client.scheme.as_bytes(), b"://", exchange.request().authority.as_bytes(), uri].concat();
        escape_into(&whole, &mut location);
        location
    }
}

/// Whether a field is written by whoever sends the message, or speaks of its body.
fn is_ours(known: Known) -> bool {
    known.is_hop_by_hop() || matches!(known, Known::Host | Known::ContentLength | Known::Expect)
}

fn cookies(said: &Response, to: &mut Response) {
    said.headers.values("Set-Cookie").for_each(|value| to.headers.add("Set-Cookie", value));
}

/// Longer names before those that they begin with.
const VARIABLES: [&str; 6] = ["escaped_request_uri", "request_method", "request_uri", "http_host", "scheme", "host"];

/// The parts of a template: texts, each with the name of the variable behind it; and what is no variable.
fn parts(template: &str) -> Result<Vec<(&str, &'static str)>, &str> {
    let (mut parts, mut rest) = (Vec::new(), template);
    while let Some((text, behind)) = rest.split_once('$') {
        let braced = behind.strip_prefix('{');
        let name = braced.unwrap_or(behind);
        let found = VARIABLES.into_iter().find(|variable| name.starts_with(variable));
        let after = found.and_then(|found| {
            let after = &name[found.len()..];
            if braced.is_some() { after.strip_prefix('}') } else { Some(after) }
        });
        match (found, after) {
            (Some(found), Some(after)) => {
                parts.push((text, found));
                rest = after;
            }
            _ => return Err(behind),
        }
    }
    parts.push((rest, ""));
    Ok(parts)
}

fn check_template(template: &str, whole: &str, path: String, findings: &mut Findings) {
    if parts(template).is_err() {
        let known: Vec<String> = VARIABLES.iter().map(|name| format!("${name}")).collect();
        findings.problem(Problem::new(path, "has a variable that is not known").text(whole).accepted(known.join(", ")));
    }
}

/// With what the request says in place of the variables.
fn expanded(template: &str, exchange: &Exchange) -> String {
    let mut text = String::new();
    for (before, variable) in parts(template).unwrap_or_default() {
        text.push_str(before);
        match variable {
            "escaped_request_uri" => escape_into(exchange.asked_target(), &mut text),
            "request_uri" => text.push_str(&String::from_utf8_lossy(exchange.asked_target())),
            "request_method" => text.push_str(exchange.method.as_str()),
            "http_host" => text.push_str(&exchange.request().authority),
            "host" => text.push_str(exchange.request().host()),
            "scheme" => text.push_str(exchange.client.scheme),
            _ => {}
        }
    }
    text
}

impl Filter for ForwardAuth {
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        Step::wait(self.ask(exchange))
    }

    fn touches(&self) -> Touches {
        Touches::HEADS
    }

    fn status(&self) -> Option<Value> {
        Some(self.caller.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use edge_pipeline::PipelineName;
    use proto_http::Headers;

    fn auth(fields: &str) -> ForwardAuth {
        let spec = yaml(&format!("{{url: 'http://auth.test:1/ask', {fields}}}"));
        let telemetry = telemetry();
        let parts = Parts {
            name: "f",
            pipeline: &PipelineName::of_object("p"),
            previous: None,
            resilience: &[],
            telemetry: &telemetry,
        };
        ForwardAuth::new(spec::of(&spec).unwrap(), &parts).unwrap()
    }

    fn line(headers: &Headers, name: &str) -> Vec<String> {
        headers.values(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
    }

    #[test]
    fn the_service_is_told_what_was_asked_and_not_what_the_client_says_of_it() {
        let sent = [
            ("Cookie", "a=b"),
            ("X-Original-URL", "https://forged.test/"),
            ("X_Original_Method", "FORGED"),
            ("Content-Length", "5"),
            ("Transfer-Encoding", "chunked"),
        ];
        let mut exchange = request_with("POST", "/a?b=c", &sent, b"hello");
        exchange.remember_target();
        let question = auth("").question(&exchange).unwrap();
        assert_eq!((question.method.as_str(), question.target()), ("GET", "/ask".to_owned()));
        assert_eq!(line(&question.headers, "X-Original-URL"), ["http://h.test/a?b=c"]);
        assert_eq!(line(&question.headers, "X-Original-Method"), ["POST"]);
        assert_eq!(
            (line(&question.headers, "Cookie"), line(&question.headers, "Host")),
            (vec!["a=b".to_owned()], vec!["auth.test:1".to_owned()])
        );
        assert!(!question.headers.has_alike(b"Content-Length") && !question.headers.has_alike(b"Transfer-Encoding"));
        assert!(question.headers.iter().all(|(_, value, _)| value != b"FORGED"));
        let few = auth("requestHeaders: [authorization], method: HEAD").question(&exchange).unwrap();
        assert_eq!((few.method.as_str(), line(&few.headers, "Cookie").len()), ("HEAD", 0));
    }

    #[test]
    fn what_the_service_says_of_the_user_is_all_that_is_said() {
        let mut exchange = request("GET", "/", &[("X-User", "forged"), ("x_role", "admin"), ("X-Other", "1")]);
        let mut said = Response { status: 200, ..Response::default() };
        said.headers.add("X-User", "ann");
        said.headers.add("Set-Cookie", "s=1");
        auth("responseHeaders: [X-User, X-Role]").let_in(&mut exchange, &said);
        assert_eq!((header(&exchange, "X-User"), header(&exchange, "X-Other")), (Some("ann"), Some("1")));
        assert!(!exchange.request().headers.has_alike(b"X-Role"));
        assert_eq!(response_header(&exchange, "Set-Cookie"), Some("s=1"));
    }

    #[test]
    fn clients_come_back_to_what_they_asked_for() {
        let mut exchange = request("GET", "/a?b=c&d", &[]);
        exchange.remember_target();
        for (fields, want) in [
            ("signin: 'https://l.test/in'", "https://l.test/in?rd=http%3A%2F%2Fh.test%2Fa%3Fb%3Dc%26d"),
            (
                "signin: 'https://l.test/in?x=1', signinRedirectParam: to",
                "https://l.test/in?x=1&to=http%3A%2F%2Fh.test%2Fa%3Fb%3Dc%26d",
            ),
            ("signin: 'https://$host/in?rd=$escaped_request_uri'", "https://h.test/in?rd=%2Fa%3Fb%3Dc%26d"),
            ("signin: '${scheme}://l.test', signinRedirectParam: ''", "http://l.test"),
        ] {
            assert_eq!(auth(&fields.replace("${scheme}", "$scheme")).signin(&exchange), want, "{fields}");
        }
        assert_eq!(expanded("/${request_method}/$http_host", &exchange), "/GET/h.test");
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{}", &["url"]);
        refuses(&KIND, "{url: 'http://a/$uri'}", &["url"]);
        refuses(&KIND, "{url: 'http://a/', signin: 'javascript:x'}", &["signin"]);
        refuses(&KIND, "{url: 'http://a/', responseHeaders: [Host, X-A]}", &["responseHeaders[0]"]);
        refuses(
            &KIND,
            "{url: 'http://a/', method: 'G T', timeout: 0s, maxInFlight: 0}",
            &["maxInFlight", "method", "timeout"],
        );
    }
}
