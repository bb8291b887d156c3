//! Asks a policy in Rego, the language of the Open Policy Agent, whether a request may pass.
//!
//! Use it where who may do what depends on more than one field: method and path, claims of a token, networks. The policy is part of the
//! document and runs inside this process.
//!
//! ```yaml
//! name: opa
//! kind: OPAFilter
//! includedHeaders: X-Tenant, Authorization
//! policy: |
//!   package http
//!   default allow = false
//!   allow { input.request.method == "GET"; input.request.path_parts[0] == "public" }
//!   allow {
//!     token := trim_prefix(input.request.headers.Authorization, "Bearer ")
//!     [valid, _, claims] := io.jwt.decode_verify(token, {"secret": "s3cret", "alg": "HS256"})
//!     valid
//!     claims.tenant == input.request.headers["X-Tenant"]
//!   }
//! ```
//!
//! `data.http.allow` decides: `true` lets the request pass, `false` answers `defaultStatus`. Anything else, and a policy that fails or takes
//! longer than `timeout`, is `defaultStatus` with `X-Eg-Opa-Error: true` and the reason as body. As in OPA an expression whose function cannot
//! do what it is asked is undefined, such as `to_number("x") > 5`, and `not` of it holds: say what is allowed, and not what is not. The policy
//! sees `input.request` with `method`, `path`, `path_parts`, `raw_query`, `query` (lists by name), `headers` (those included, by their canonical
//! names; several values joined by `, `), `scheme`, `realIP`, and `body` where `readBody` is set. The syntax is Rego's of OPA before 1.0;
//! `import rego.v1` and `import future.keywords` work.
//!
//! A policy that cannot be read or calls a function that is not there is refused with its line when it is applied. Beside the usual
//! functions there are `io.jwt.*`, `crypto.*` with `crypto.x509.*`, `net.cidr_*`, `glob.match`, and `time.*` in the zones of the world; those
//! that wait for others (`http.send`, `net.lookup_ip_addr`) or are of OPA itself (`opa.runtime`, `rego.*`) are not, nor are those of private
//! keys, `graph.reachable_paths`, `graphql.*`, `yaml.*`, `uri.*`, `json.patch` and JSON Schema.
//!
//! What functions that make more of what they are given (`concat`, `replace`, `split`, `sprintf`, `walk`, `json.marshal` and their like) make
//! for one decision is 16 MiB at most; a policy that wants more fails. `bits.lsh` by more than 4096, and a `product` of more bits, are
//! undefined. Other numbers, sets and objects are bounded by `timeout` alone.
//!
//! Outcomes: `opaDenied`. Counted: `opa_timeouts`, `opa_texts`, `opa_errors`. Fits HTTPServer. Costs 10 to 100 µs of a worker for usual policies, never
//! much more than `timeout`; memory of a compiled policy per worker.

mod builtins;
mod calls;
mod crypto;
mod glob;
mod grown;
mod networks;
mod plain;
mod signing;
mod tokens;
mod x509;

use crate::form;
use crate::module_doc::module_doc;
use crate::spec::{self, Spec, check_final_status, unexpected};
use base_model::problem::at;
use base_model::{Findings, GoDuration, Problem};
use base_telemetry::Limit;
use edge_pipeline::{
    Body, BodyError, BuildError, Exchange, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, Touches,
};
use regorus::utils::limits::{ExecutionTimerConfig, PolicyLengthConfig};
use regorus::{Engine, LimitError, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const DENIED: Outcome = "opaDenied";

/// What decides.
const RULE: &str = "data.http.allow";

/// `kind: OPAFilter`: asks a policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["policy"]))]
pub struct OpaFilterSpec {
    /// The policy, in Rego: `package http`, with a rule `allow`. At most 1 MiB and 20,000 lines, 12
    /// brackets in one another and 128 operators in one expression.
    pub policy: String,
    /// Status of requests that may not pass. 0 and default: 403.
    pub default_status: u16,
    /// Header fields the policy sees, separated by commas. Default: none.
    pub included_headers: String,
    /// Whether the policy sees the body, as text. It is read into memory then, at most 4 MiB or what
    /// `clientMaxBodySize` lets in; a larger one is refused with 413. Default false.
    pub read_body: bool,
    /// How long one decision may take, 1ms to 1s; for so long its worker does nothing else. Default 50ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
}

impl Default for OpaFilterSpec {
    fn default() -> Self {
        let (policy, included_headers) = (String::new(), String::new());
        Self { policy, default_status: DENIED_STATUS, included_headers, read_body: false, timeout: None }
    }
}

const DENIED_STATUS: u16 = 403;
const TIMEOUT: Duration = Duration::from_millis(50);

/// Work between two looks at the clock, in steps of the interpreter.
const STEPS: NonZeroU32 = NonZeroU32::new(16).unwrap();

/// A set of keys is often written in one line.
const LENGTHS: PolicyLengthConfig = PolicyLengthConfig {
    max_col: NonZeroU32::new(1 << 20).unwrap(),
    max_file_bytes: NonZeroUsize::new(1 << 20).unwrap(),
    max_lines: NonZeroUsize::new(20_000).unwrap(),
};

impl Spec for OpaFilterSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        if self.default_status != 0 {
            check_final_status(self.default_status, at(path, "defaultStatus"), findings);
        }
        for name in self.header_names() {
            if !proto_http::headers::is_name(name.as_bytes()) {
                let problem = Problem::new(at(path, "includedHeaders"), "not a header name").text(&name);
                findings.problem(problem.accepted("names separated by commas"));
            }
        }
        let timeout = self.timeout.map_or(TIMEOUT, Duration::from);
        if !(Duration::from_millis(1)..=Duration::from_secs(1)).contains(&timeout) {
            findings.problem(Problem::new(at(path, "timeout"), "out of range").accepted("1ms to 1s"));
        }
        match engine(&self.policy, timeout) {
            Err(why) => {
                let problem = Problem::new(at(path, "policy"), why);
                findings.problem(problem.accepted("a module of Rego, which begins with package http"));
            }
            Ok(made) if !made.decides => {
                findings
                    .warn(at(path, "policy"), format!("nothing in {} defines {RULE}: no request passes", made.package));
            }
            Ok(_) => {}
        }
    }
}

impl OpaFilterSpec {
    /// In the form Go has them in.
    fn header_names(&self) -> Vec<String> {
        let names = self.included_headers.split(',').map(|name| name.replace(' ', ""));
        names.filter(|name| !name.is_empty()).map(|name| canonical(&name)).collect()
    }
}

/// `x-my-header` as `X-My-Header`.
pub(crate) fn canonical(name: &str) -> String {
    let mut upper = true;
    let letter = |c: char| {
        let c = if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
        upper = c == '-';
        c
    };
    name.chars().map(letter).collect()
}

/// A policy that was read.
struct Made {
    engine: Engine,
    package: String,
    /// There is a rule that decides.
    decides: bool,
}

/// An engine with the policy in it. The error says where the policy is wrong.
fn engine(policy: &str, timeout: Duration) -> Result<Made, String> {
    if let Some(why) = calls::call_of_absent(policy).or_else(|| calls::too_deep(policy)) {
        return Err(why);
    }
    let mut engine = Engine::new();
    engine.set_rego_v0(true);
    // As in OPA: what a function cannot do leaves its expression undefined.
    engine.set_strict_builtin_errors(false);
    // What a policy prints is nobody's: it may be credentials.
    engine.set_gather_prints(true);
    builtins::add(&mut engine).map_err(|error| error.to_string())?;
    engine.set_policy_length_config(LENGTHS);
    let written = calls::outputs_in_front(policy, builtins::arguments).into_owned();
    let package = engine.add_policy("policy".to_owned(), written).map_err(|error| place_of(&error))?;
    // A request without anything, so that what is compiled late is compiled now, too. It may take its time: this is no worker.
    let timer = |limit: Duration| ExecutionTimerConfig { limit, check_interval: STEPS };
    engine.set_execution_timer_config(timer(timeout.max(Duration::from_secs(1))));
    grown::begin();
    engine.set_input(input(&json!({"method": "GET", "path": "/", "path_parts": [""], "raw_query": "", "query": {},
        "headers": {}, "scheme": "http", "realIP": "127.0.0.1", "body": ""})));
    let mut decides = package == "data.http";
    if let Err(error) = engine.eval_rule(RULE.to_owned()) {
        let text = error.to_string();
        // Others may come of the request alone.
        if text.contains("could not find function") {
            return Err(place_of(&error));
        }
        decides &= !text.contains("not a valid rule path");
    }
    // What it printed.
    let _ = engine.take_prints();
    engine.set_execution_timer_config(timer(timeout));
    Ok(Made { engine, package, decides })
}

/// `line 3, column 5: expecting …` out of the engine's drawing of it.
fn place_of(error: &impl ToString) -> String {
    let text = error.to_string();
    let what = text.rsplit("error: ").next().unwrap_or(&text).trim();
    let place = text.lines().find_map(|line| {
        let mut numbers = line.trim().strip_prefix("--> policy:")?.split(':');
        Some(format!("line {}, column {}: ", numbers.next()?, numbers.next()?))
    });
    format!("{}{}", place.unwrap_or_default(), what.lines().next().unwrap_or_default())
}

/// A path without escapes, but for that of a slash: it divides nothing.
fn readable(path: &str) -> String {
    let kept = path.replace("%2F", "%252F").replace("%2f", "%252f");
    let decoded = form::decode(&kept.replace('+', "%2B"));
    decoded.map_or_else(|| path.to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn input(request: &serde_json::Value) -> Value {
    Value::from(json!({ "request": request }))
}

/// A ready OPAFilter.
pub struct OpaFilter {
    /// By worker; each locks its own.
    engines: Vec<Mutex<Engine>>,
    status: u16,
    headers: Vec<String>,
    read_body: bool,
    timed_out: Limit,
    made: Limit,
    failed: Limit,
}

pub const KIND: FilterKind = FilterKind {
    kind: "OPAFilter",
    results: &[DENIED],
    doc: module_doc!("opa_filter.rs"),
    schema: spec::schema::<OpaFilterSpec>,
    check: spec::check::<OpaFilterSpec>,
    build: |fields, parts| spec::build(fields, |spec| OpaFilter::new(&spec, parts)),
};

/// What a policy said.
#[derive(Debug, PartialEq)]
enum Decision {
    Allowed,
    Denied,
    Failed(&'static str),
}

impl OpaFilter {
    fn new(spec: &OpaFilterSpec, parts: &Parts<'_>) -> Result<OpaFilter, BuildError> {
        let timeout = spec.timeout.map_or(TIMEOUT, Duration::from);
        let Made { engine, .. } = engine(&spec.policy, timeout).map_err(|why| unexpected("policy", why))?;
        let limits = parts.telemetry.limits();
        Ok(OpaFilter {
            engines: (0..parts.telemetry.workers()).map(|_| Mutex::new(engine.clone())).collect(),
            status: if spec.default_status == 0 { DENIED_STATUS } else { spec.default_status },
            headers: spec.header_names(),
            read_body: spec.read_body,
            timed_out: limits.register("opa_timeouts"),
            made: limits.register("opa_texts"),
            failed: limits.register("opa_errors"),
        })
    }

    fn decide(&self, exchange: &mut Exchange) -> Outcome {
        let worker = base_runtime::current_worker().map_or(0, |_| base_runtime::worker_index());
        let input = self.input(exchange);
        let evaluated = {
            let mut engine = self.engines[worker % self.engines.len()].lock().unwrap_or_else(PoisonError::into_inner);
            engine.set_input(input);
            grown::begin();
            let evaluated = engine.eval_rule(RULE.to_owned());
            // Neither the request nor what was printed of it is kept.
            engine.set_input(Value::Undefined);
            let _ = engine.take_prints();
            evaluated
        };
        let decision = match evaluated {
            _ if grown::is_spent() => {
                self.made.hit(worker);
                Decision::Failed("the policy makes more text than it may")
            }
            Ok(Value::Bool(true)) => Decision::Allowed,
            Ok(Value::Bool(false)) => Decision::Denied,
            Ok(Value::Undefined) => Decision::Failed("the policy does not define data.http.allow for this request"),
            Ok(_) => Decision::Failed("data.http.allow is neither true nor false"),
            Err(error) => {
                exchange.tags.note(|| format!("opa: {}", place_of(&error)));
                if matches!(error.downcast_ref(), Some(LimitError::TimeLimitExceeded { .. })) {
                    self.timed_out.hit(worker);
                    Decision::Failed("the policy took too long")
                } else {
                    Decision::Failed("the policy failed")
                }
            }
        };
        let why = match decision {
            Decision::Allowed => return SUCCESS,
            Decision::Denied => {
                exchange.tags.note_own(|| "opa: denied");
                exchange.refuse(self.status);
                return DENIED;
            }
            Decision::Failed(why) => why,
        };
        self.failed.hit(worker);
        exchange.tags.note(|| format!("opa: {why}"));
        let response = exchange.refuse(self.status);
        response.headers.set("X-Eg-Opa-Error", "true");
        response.headers.set("Content-Type", "text/plain; charset=utf-8");
        exchange.space().response_body = Body::full(why);
        DENIED
    }

    fn input(&self, exchange: &Exchange) -> Value {
        let space = exchange.space_ref();
        let request = &space.request;
        let headers: serde_json::Map<String, serde_json::Value> = self
            .headers
            .iter()
            .filter_map(|name| {
                let values: Vec<_> = request.headers.values(name).map(String::from_utf8_lossy).collect();
                (!values.is_empty()).then(|| (name.clone(), values.join(", ").into()))
            })
            .collect();
        let mut query = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in form::readable_pairs(request.query.as_deref().unwrap_or_default()) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            query.entry(text(&name)).or_default().push(text(&value));
        }
        let path = readable(request.path.as_str());
        let body = match self.read_body {
            true => space.request_body.in_memory().map(String::from_utf8_lossy).unwrap_or_default(),
            false => "".into(),
        };
        input(&json!({
            "method": request.method.as_str(),
            "path": path,
            "path_parts": path.trim_matches('/').split('/').collect::<Vec<_>>(),
            "raw_query": request.query.as_deref().unwrap_or_default(),
            "query": query,
            "headers": headers,
            "scheme": exchange.client.scheme,
            "realIP": exchange.client.real_ip_text(),
            "body": body,
        }))
    }

    async fn read_and_decide(&self, exchange: &mut Exchange) -> Outcome {
        if let Err(error) = exchange.space().request_body.gather().await {
            let error: BodyError = error;
            exchange.tags.note(|| format!("opa: {error}"));
            exchange.refuse(error.request_status());
            return DENIED;
        }
        self.decide(exchange)
    }
}

impl Filter for OpaFilter {
    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD.and(Touches::RESPONSE).and_if(self.read_body, Touches::REQUEST_BODY)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        if self.read_body && exchange.space_ref().request_body.is_stream() {
            return Step::wait(self.read_and_decide(exchange));
        }
        Step::Done(self.decide(exchange))
    }
}

#[cfg(test)]
mod cases;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
