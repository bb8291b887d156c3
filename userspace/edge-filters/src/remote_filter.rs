//! Asks a service of yours what becomes of a request: it is sent the request (and the answer, where there is one) as JSON, and may change
//! both, or answer itself.
//!
//! Use it where a rule of your own does not fit into a template or a policy, and a program for WasmHost would be too much.
//!
//! ```yaml
//! name: rules
//! kind: RemoteFilter
//! url: http://rules.internal:8080/check
//! timeout: 500ms
//! ```
//!
//! The service gets a `POST` with
//!
//! ```json
//! {"request": {"realIP": "192.0.2.7", "method": "GET", "scheme": "https", "host": "shop.test", "path": "/a", "query": "b=c",
//!   "fragment": "", "proto": "HTTP/1.1", "header": {"X-User": ["ann"]}, "body": "aGVsbG8="},
//!  "response": {"statusCode": 200, "header": {}, "body": ""}}
//! ```
//!
//! where bodies are base64. What it answers with a status of 2xx is read as the same thing: method, path, query, header and body of the
//! request become what it says, a field it leaves out stays (`header` is the whole header: a name that is missing in it goes; `host`,
//! `scheme` and what speaks of the connection stay in any case). Of `response`, header fields are set on the answer, beside what Proxy brings
//! later; where there is an answer already, its status and body follow, too. With status 205 the answer's `response` goes to the client:
//! `responseAlready`. Any other status, no answer in time and an answer that cannot be read are `failed`: the client gets 503.
//!
//! Outcomes: `failed`, `responseAlready`. Bodies of more than 64 KiB and answers of more than 192 KiB are `failed`. Counted:
//! `calls_in_flight`, `calls_timed_out`, `call_answer_bytes`. Fits HTTPServer. Costs a call and about ten microseconds; memory of both
//! bodies while it lasts.

use crate::module_doc::module_doc;
use crate::opa_filter::canonical;
use crate::request_builder::escape_query;
use crate::spec::{self, Spec, unexpected};
use base_model::problem::at;
use base_model::{Findings, GoDuration, Problem};
use base_telemetry::proxy::PoolNames;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_pipeline::{
    Body, BuildError, Exchange, Filter, FilterKind, Outcome, Parts, SUCCESS, Space, Step, Touches, rounds,
};
use edge_upstream::call::split_url;
use edge_upstream::{CallSettings, Caller};
use proto_http::headers::{is_name, is_value};
use proto_http::{Headers, Known, Method, Request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::time::Duration;

const FAILED: Outcome = "failed";
const RESPONSE_ALREADY: Outcome = "responseAlready";

/// `kind: RemoteFilter`: asks a service what becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["url"]))]
pub struct RemoteFilterSpec {
    /// What is asked, `http://host:port/path` or `https://…`.
    pub url: String,
    /// How long it may take; then the client gets 503. Default 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
    /// Believe whatever certificate the service shows. Default false.
    pub insecure_tls: bool,
    /// Questions on their way at the same time, from this machine; beyond them clients get 503 at once. Default 1024, 1 to 65536.
    pub max_in_flight: u32,
}

impl Default for RemoteFilterSpec {
    fn default() -> Self {
        Self { url: String::new(), timeout: None, insecure_tls: false, max_in_flight: 1024 }
    }
}

const TIMEOUT: Duration = Duration::from_secs(30);

/// Largest body that is sent, of the request and of the answer, in bytes; and largest answer of the service.
const BODY_BYTES_MAX: u64 = 64 * 1024;
const CONTEXT_BYTES_MAX: u64 = 3 * BODY_BYTES_MAX;

const IN_FLIGHT_MAX: u32 = 65_536;

/// Idle connections to the service, for each worker.
const IDLE_CONNECTIONS: usize = 64;

impl Spec for RemoteFilterSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        if let Err(why) = split_url(&self.url) {
            findings.problem(Problem::new(at(path, "url"), why).text(&self.url));
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

/// A ready RemoteFilter.
pub struct RemoteFilter {
    caller: Caller,
}

pub const KIND: FilterKind = FilterKind {
    kind: "RemoteFilter",
    results: &[FAILED, RESPONSE_ALREADY],
    doc: module_doc!("remote_filter.rs"),
    schema: spec::schema::<RemoteFilterSpec>,
    check: spec::check::<RemoteFilterSpec>,
    build: |fields, parts| spec::build(fields, |spec| RemoteFilter::new(&spec, parts)),
};

impl RemoteFilter {
    fn new(spec: &RemoteFilterSpec, parts: &Parts<'_>) -> Result<RemoteFilter, BuildError> {
        let settings = CallSettings {
            timeout: spec.timeout.map_or(TIMEOUT, Duration::from),
            body_bytes_max: CONTEXT_BYTES_MAX,
            in_flight_max: spec.max_in_flight as usize,
            insecure_tls: spec.insecure_tls,
            idle_max: IDLE_CONNECTIONS,
            ..CallSettings::default()
        };
        let names = PoolNames {
            pool: parts.pool("remote"),
            proxy: parts.name.to_owned(),
            kind: KIND.kind.to_owned(),
            ..PoolNames::default()
        };
        let caller = Caller::new(&spec.url, settings, names, parts.telemetry);
        Ok(RemoteFilter { caller: caller.map_err(|why| unexpected("url", why))? })
    }

    async fn ask(&self, exchange: &mut Exchange) -> Outcome {
        match self.asked(exchange).await {
            Ok(outcome) => outcome,
            Err(why) => {
                exchange.tags.note(|| format!("remoteFilterErr: {why}"));
                exchange.refuse(503);
                FAILED
            }
        }
    }

    async fn asked(&self, exchange: &mut Exchange) -> Result<Outcome, String> {
        let context = told(exchange).await?;
        let mut question = self.caller.request(Method::Post);
        question.headers.add("Content-Type", "application/json");
        question.headers.add("Accept", "application/json");
        // A service that is behind the same server would be asked for its own questions for ever.
        rounds::carry(&exchange.request().headers, &mut question.headers);
        let body = Body::full(context.to_string());
        let reply = self.caller.call(&question, body).await.map_err(|error| error.to_string())?;
        let status = reply.response.status;
        if !(200..300).contains(&status) {
            return Err(format!("the service answers {status}"));
        }
        let Ok(Value::Object(said)) = serde_json::from_slice(&reply.body) else {
            return Err("the service's answer is no JSON object".to_owned());
        };
        let space = exchange.space();
        // All of it, or nothing.
        let request = object(&said, "request")?.map(|said| read_request(said, &space.request)).transpose()?;
        let answer = object(&said, "response")?.map(Answer::read).transpose()?.unwrap_or_default();
        if let Some((request, body)) = request {
            (space.request, space.has_request) = (request, true);
            if let Some(body) = body {
                space.request_body = body;
            }
        }
        if status == 205 {
            answer.respond(space);
            return Ok(RESPONSE_ALREADY);
        }
        answer.change(space);
        Ok(SUCCESS)
    }
}

/// What the service is told.
async fn told(exchange: &mut Exchange) -> Result<Value, String> {
    let (real_ip, scheme) = (exchange.client.real_ip_text(), exchange.client.scheme);
    let space = exchange.space();
    let body = space.request_body.collect(BODY_BYTES_MAX).await.map_err(|error| format!("request: {error}"))?;
    let body = STANDARD.encode(body);
    let request = &space.request;
    let request = json!({
        "realIP": real_ip,
        "method": request.method.as_str(),
        "scheme": scheme,
        "host": request.authority,
        "path": request.path.as_str(),
        "query": request.query.as_deref().unwrap_or_default(),
        "fragment": "",
        "proto": request.version.as_str(),
        "header": fields(&request.headers),
        "body": body,
    });
    let body = space.response_body.collect(BODY_BYTES_MAX).await.map_err(|error| format!("response: {error}"))?;
    let body = STANDARD.encode(body);
    let (status, header) = match &space.response {
        Some(response) => (response.status, fields(&response.headers)),
        None => (200, Value::Object(Map::new())),
    };
    Ok(json!({"request": request, "response": {"statusCode": status, "header": header, "body": body}}))
}

/// Names in Go's form with all their values, without what speaks of the connection and of framing.
fn fields(headers: &Headers) -> Value {
    let mut map = Map::new();
    for (name, value, _) in headers.iter().filter(|(_, _, known)| !is_ours(*known)) {
        let values = map.entry(canonical(&String::from_utf8_lossy(name))).or_insert_with(|| json!([]));
        if let Value::Array(values) = values {
            values.push(String::from_utf8_lossy(value).into());
        }
    }
    Value::Object(map)
}

/// Whether a field is written by whoever sends the message, whatever a service says of it.
fn is_ours(known: Known) -> bool {
    known.is_hop_by_hop() || matches!(known, Known::Host | Known::ContentLength | Known::Expect)
}

/// A field of an object, as Go finds it; `null` is as good as nothing.
fn field<'m>(map: &'m Map<String, Value>, name: &str) -> Option<&'m Value> {
    let exact = map.get(name);
    exact.or_else(|| map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

fn object<'m>(map: &'m Map<String, Value>, name: &str) -> Result<Option<&'m Map<String, Value>>, String> {
    match field(map, name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(inside)) => Ok(Some(inside)),
        Some(_) => Err(format!("{name} of the service's answer is no object")),
    }
}

fn text<'m>(map: &'m Map<String, Value>, name: &str) -> Result<Option<&'m str>, String> {
    match field(map, name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{name} of the service's answer is no text")),
    }
}

/// A body; `null`, as Go writes one without bytes, is an empty one.
fn body(map: &Map<String, Value>) -> Result<Option<Body>, String> {
    match field(map, "body") {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(Body::Empty)),
        Some(Value::String(text)) => match STANDARD.decode(text) {
            Ok(bytes) => Ok(Some(Body::full(bytes))),
            Err(_) => Err("body of the service's answer is not base64".to_owned()),
        },
        Some(_) => Err("body of the service's answer is no text".to_owned()),
    }
}

type Fields = Vec<(String, Vec<String>)>;

/// A header: names with their values, all of which may be sent.
fn header(map: &Map<String, Value>) -> Result<Option<Fields>, String> {
    let Some(map) = object(map, "header")? else { return Ok(None) };
    let mut fields = Fields::new();
    for (name, values) in map {
        if !is_name(name.as_bytes()) {
            return Err(format!("{} is not a header name", base_text::quoted(name)));
        }
        if is_ours(Known::of(name.as_bytes())) {
            continue;
        }
        let values = match values {
            Value::Array(values) => values.as_slice(),
            Value::Null => &[],
            one => std::slice::from_ref(one),
        };
        let value = |value: &Value| {
            let text = value.as_str().map(str::trim).filter(|text| is_value(text.as_bytes()));
            text.map(str::to_owned).ok_or_else(|| format!("a value of {name} cannot be sent"))
        };
        fields.push((name.clone(), values.iter().map(value).collect::<Result<_, _>>()?));
    }
    Ok(Some(fields))
}

/// Sets fields that are not as they are said to be already.
fn set(headers: &mut Headers, fields: &Fields) {
    for (name, values) in fields {
        let before = headers.values(name).map(String::from_utf8_lossy);
        if before.eq(values.iter().map(String::as_str)) {
            continue;
        }
        headers.remove(name);
        values.iter().for_each(|value| headers.add(name, value));
    }
}

/// The request as it shall be, and its body where that is another one.
fn read_request(said: &Map<String, Value>, before: &Request) -> Result<(Request, Option<Body>), String> {
    let mut request = before.clone();
    if let Some(method) = text(said, "method")?.filter(|method| !method.is_empty()) {
        let read = Method::parse(method.as_bytes());
        request.method = read.ok_or_else(|| format!("{} is not a method", base_text::quoted(method)))?;
    }
    if let Some(path) = text(said, "path")?.filter(|path| !path.is_empty() && *path != before.path.as_str()) {
        request.path.rewrite(path).map_err(|error| error.to_string())?;
    }
    if let Some(query) = text(said, "query")?.filter(|query| *query != before.query.as_deref().unwrap_or_default()) {
        request.query = Some(escape_query(query)).filter(|query| !query.is_empty());
    }
    if let Some(fields) = header(said)? {
        let kept = |name: &str| fields.iter().any(|(kept, _)| kept.eq_ignore_ascii_case(name));
        let named = before.headers.iter().filter(|(_, _, known)| !is_ours(*known));
        let gone = named.map(|(name, _, _)| String::from_utf8_lossy(name)).filter(|name| !kept(name));
        gone.for_each(|name| {
            request.headers.remove(&name);
        });
        set(&mut request.headers, &fields);
    }
    let body = body(said)?;
    if body.is_some() {
        request.headers.remove_known(Known::ContentLength);
    }
    Ok((request, body))
}

/// What a service says of the answer.
#[derive(Default)]
struct Answer {
    status: Option<u16>,
    header: Fields,
    body: Option<Body>,
}

impl Answer {
    fn read(said: &Map<String, Value>) -> Result<Answer, String> {
        let status = match field(said, "statusCode") {
            None | Some(Value::Null) => None,
            Some(status) if status.as_u64() == Some(0) => None,
            Some(status) => {
                let code = status.as_u64().and_then(|code| u16::try_from(code).ok());
                let code = code.filter(|code| (200..600).contains(code));
                Some(code.ok_or_else(|| format!("statusCode {status} is none of an answer"))?)
            }
        };
        Ok(Answer { status, header: header(said)?.unwrap_or_default(), body: body(said)? })
    }

    /// It goes to the client.
    fn respond(self, space: &mut Space) {
        let mut response = space.response.take().unwrap_or_default();
        response.status = self.status.unwrap_or(200);
        response.headers.remove_known(Known::ContentLength);
        set(&mut response.headers, &self.header);
        space.respond(response, self.body.unwrap_or_default());
    }

    /// It changes the answer there is; where there is none, it is there for what comes after if it says anything at all.
    fn change(self, space: &mut Space) {
        let is_there = space.response.is_some();
        let has_body = self.body.as_ref().is_some_and(|body| body.length() != Some(0));
        if !is_there && self.header.is_empty() && self.status.is_none_or(|status| status == 200) && !has_body {
            return;
        }
        let response = space.response.get_or_insert_default();
        set(&mut response.headers, &self.header);
        if let Some(status) = self.status {
            response.status = status;
        }
        let same = |body: &Body| body.in_memory().is_some() && body.in_memory() == space.response_body.in_memory();
        if let Some(body) = self.body.filter(|body| !same(body)) {
            response.headers.remove_known(Known::ContentLength);
            space.response_body = body;
        }
    }
}

impl Filter for RemoteFilter {
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        Step::wait(self.ask(exchange))
    }

    fn touches(&self) -> Touches {
        Touches::EVERYTHING
    }

    fn status(&self) -> Option<Value> {
        Some(self.caller.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    fn said(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn the_service_is_told_the_request_and_the_answer() {
        let sent = [("x-user", "ann"), ("X-User", "bob"), ("Connection", "close"), ("Content-Length", "5")];
        let mut exchange = request_with("POST", "/a%2fb/%c3%bc?c=d", &sent, b"hello");
        let context = ready(told(&mut exchange)).unwrap();
        let want = json!({"realIP": "unknown", "method": "POST", "scheme": "http", "host": "h.test", "path": "/a%2Fb/ü",
            "query": "c=d", "fragment": "", "proto": "HTTP/1.1", "header": {"X-User": ["ann", "bob"]}, "body": "aGVsbG8="});
        assert_eq!(context, json!({"request": want, "response": {"statusCode": 200, "header": {}, "body": ""}}));
        answer(&mut exchange, 404, &[("Vary", "a")], b"no");
        let context = ready(told(&mut exchange)).unwrap();
        assert_eq!(context["response"], json!({"statusCode": 404, "header": {"Vary": ["a"]}, "body": "bm8="}));
        assert_eq!(request_body_of(&exchange), b"hello", "it still goes on");
        // What was told and is said again changes nothing.
        let before = exchange.request().clone();
        let (after, body) = read_request(&said(context["request"].clone()), &before).unwrap();
        assert_eq!((after.target(), after.method), (before.target(), before.method));
        let lines = |headers: &Headers| headers.iter().map(|(n, v, _)| [n, v].concat()).collect::<Vec<_>>();
        let mut unframed = before.headers.clone();
        unframed.remove_known(Known::ContentLength);
        assert_eq!(lines(&after.headers), lines(&unframed));
        assert_eq!(body.unwrap().in_memory(), Some(&b"hello"[..]));
        let mut exchange = request_with("POST", "/", &[], &[b'x'; BODY_BYTES_MAX as usize + 1]);
        assert!(ready(told(&mut exchange)).unwrap_err().contains("limit"));
    }

    #[test]
    fn what_a_service_says_of_the_request_is_done_and_what_it_leaves_out_stays() {
        let before = request("GET", "/a?b=c", &[("X-A", "1"), ("X-B", "2"), ("Connection", "close")]);
        let changed = |value: Value| {
            let (request, body) = read_request(&said(value), before.request())?;
            let fields = ["X-A", "X-B", "X-C", "Connection", "Host"]
                .map(|name| request.headers.text(name).unwrap_or("-").to_owned());
            let body = body.map(|body| body.in_memory().unwrap().to_vec());
            Ok::<_, String>((format!("{} {}", request.method.as_str(), request.target()), fields.join(" "), body))
        };
        let unchanged = ("GET /a?b=c".to_owned(), "1 2 - close h.test".to_owned(), None);
        assert_eq!(changed(json!({})), Ok(unchanged));
        assert_eq!(
            changed(json!({"method": "PUT", "PATH": "/ü", "query": "x=a b", "host": "evil.test", "body": "aGk=",
                "header": {"x-a": ["3"], "X-C": "4", "Host": ["evil.test"], "Transfer-Encoding": ["chunked"]}})),
            Ok(("PUT /%C3%BC?x=a%20b".into(), "3 - 4 close h.test".into(), Some(b"hi".to_vec())))
        );
        assert_eq!(
            changed(json!({"method": "", "path": "", "query": "", "header": {}, "body": null})),
            Ok(("GET /a".into(), "- - - close h.test".into(), Some(Vec::new())))
        );
        for bad in [
            json!({"method": "A B"}),
            json!({"method": 1}),
            json!({"path": "/a/../b"}),
            json!({"path": "/%00"}),
            json!({"header": {"a b": ["1"]}}),
            json!({"header": {"X-A": ["1\r\nX: y"]}}),
            json!({"header": ["X"]}),
            json!({"body": "*"}),
            json!({"body": 1}),
        ] {
            assert!(changed(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_service_says_of_the_answer_is_done() {
        let told = |there: Option<u16>, value: Value, already: bool| {
            let mut exchange = request("GET", "/", &[]);
            if let Some(status) = there {
                answer(&mut exchange, status, &[("Vary", "a")], b"old");
            }
            let said = Answer::read(&said(value))?;
            if already {
                said.respond(exchange.space());
            } else {
                said.change(exchange.space());
            }
            let field = |name| response_header(&exchange, name).unwrap_or("-");
            let body = String::from_utf8(body_of(&exchange).to_vec()).unwrap();
            Ok::<_, String>(format!("{} {} {} {body}", status_of(&exchange), field("Vary"), field("X")))
        };
        let echo = json!({"statusCode": 200, "header": {}, "body": ""});
        assert_eq!(told(None, echo.clone(), false).unwrap(), "0 - - ", "an echo makes no answer");
        assert_eq!(told(None, json!({"header": {"X": ["1"]}}), false).unwrap(), "200 - 1 ");
        let same = json!({"statusCode": 404, "header": {"Vary": ["a"]}, "body": "b2xk"});
        assert_eq!(told(Some(404), same, false).unwrap(), "404 a - old");
        assert_eq!(told(Some(404), json!({"header": {"X": ["1"]}}), false).unwrap(), "404 a 1 old");
        let other = json!({"statusCode": 201, "header": {"X": ["1"], "Vary": ["b"]}, "body": "bmV3"});
        for already in [false, true] {
            assert_eq!(told(Some(404), other.clone(), already).unwrap(), "201 b 1 new");
            assert_eq!(told(None, other.clone(), already).unwrap(), "201 b 1 new");
        }
        assert_eq!(told(None, echo, true).unwrap(), "200 - - ");
        assert_eq!(told(None, json!({"statusCode": 0}), true).unwrap(), "200 - - ");
        for bad in [json!({"statusCode": 101}), json!({"statusCode": 600}), json!({"statusCode": "x"})] {
            assert!(told(None, bad, true).is_err());
        }
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{}", &["url"]);
        refuses(&KIND, "{url: 'ftp://a', timeout: 0s, maxInFlight: 0}", &["maxInFlight", "timeout", "url"]);
    }
}
