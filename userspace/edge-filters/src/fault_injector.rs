//! Delays and refuses some of the requests on purpose, to see what clients and retries make of it.
//!
//! ```yaml
//! name: faults
//! kind: FaultInjector
//! headers: {X-Fault: {exact: "on"}}     # only for requests that ask for it
//! delay: {duration: 300ms, percentage: 20}
//! abort: {statusCode: 503, percentage: 5}
//! ```
//!
//! Of the requests that match, 20 % wait for 300 ms, and 5 %, late or not, get `503`. The others go on. As many as `maxDelayed` wait at a
//! time; further ones are not delayed, and counted (`weir_limit_hits_total{limit="fault_delays"}`).
//!
//! Outcomes: `aborted`. Fits HTTPServer. Costs a random number; a request that waits keeps its place among the connections.

use crate::door::drawn;
use crate::module_doc::module_doc;
use crate::spec::{self, Spec, check_final_status, check_headers, unexpected};
use base_model::problem::at;
use base_model::string_matcher::Matcher;
use base_model::{Findings, GoDuration, HttpCode, Problem, StringMatcher};
use base_telemetry::Limit;
use bytes::Bytes;
use edge_pipeline::{Body, BuildError, Exchange, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, Touches};
use proto_http::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const ABORTED: Outcome = "aborted";

/// `kind: FaultInjector`: delays and refuses some requests on purpose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FaultInjectorSpec {
    /// Only requests whose header fields all match. Default: every request.
    pub headers: BTreeMap<String, StringMatcher>,
    /// Make requests wait. `delay`, `abort` or both are needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<DelaySpec>,
    /// Refuse requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<AbortSpec>,
    /// Requests that wait at a time, 1 or more; further ones go on at once. Default 1000.
    #[schemars(range(min = 1))]
    pub max_delayed: u32,
}

impl Default for FaultInjectorSpec {
    fn default() -> FaultInjectorSpec {
        FaultInjectorSpec { headers: BTreeMap::new(), delay: None, abort: None, max_delayed: 1_000 }
    }
}

/// How long which share of the requests waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["duration"]))]
pub struct DelaySpec {
    /// How long, more than 0s, 5m at most.
    pub duration: GoDuration,
    /// Of how many, in per cent, 0 to 100. Default 100.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub percentage: f64,
}

impl Default for DelaySpec {
    fn default() -> DelaySpec {
        DelaySpec { duration: GoDuration::ZERO, percentage: 100.0 }
    }
}

/// What which share of the requests gets for an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["statusCode"]))]
pub struct AbortSpec {
    /// Status to answer with, 200 to 599.
    pub status_code: HttpCode,
    /// Of how many, in per cent, 0 to 100. Default 100.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub percentage: f64,
    /// Header fields of the answer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Body of the answer. Default: empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub body: String,
}

impl Default for AbortSpec {
    fn default() -> AbortSpec {
        AbortSpec {
            status_code: const { HttpCode::new(503).unwrap() },
            percentage: 100.0,
            headers: BTreeMap::new(),
            body: String::new(),
        }
    }
}

/// Longest delay: beyond it clients and proxies before have given up.
const DELAY_MAX: Duration = Duration::from_secs(300);

impl Spec for FaultInjectorSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        for (name, matcher) in &self.headers {
            matcher.validate(&at(&at(path, "headers"), name), findings);
        }
        if self.delay.is_none() && self.abort.is_none() {
            let problem =
                Problem::new(at(path, "delay"), "neither delay nor abort is given: nothing would ever happen");
            findings.problem(problem.advice("give one of them"));
        }
        let mut percentage = |place: &str, share: f64| {
            if !(0.0..=100.0).contains(&share) {
                let problem = Problem::new(at(&at(path, place), "percentage"), "out of range");
                findings.problem(problem.value(&share.into()).accepted("0 to 100"));
            }
        };
        if let Some(delay) = &self.delay {
            percentage("delay", delay.percentage);
        }
        if let Some(abort) = &self.abort {
            percentage("abort", abort.percentage);
            check_final_status(abort.status_code.code(), at(&at(path, "abort"), "statusCode"), findings);
            check_headers(&abort.headers, &at(&at(path, "abort"), "headers"), findings);
        }
        if let Some(delay) = &self.delay
            && (delay.duration.is_zero() || delay.duration.duration() > DELAY_MAX)
        {
            let problem = Problem::new(at(&at(path, "delay"), "duration"), "out of range");
            findings.problem(problem.accepted("more than 0s, at most 5m"));
        }
        if self.max_delayed == 0 {
            let problem = Problem::new(at(path, "maxDelayed"), "no request could ever wait").value(&0.into());
            findings.problem(problem.accepted("1 or more"));
        }
    }
}

/// A ready FaultInjector.
pub struct FaultInjector {
    headers: Vec<(Box<str>, Matcher)>,
    delay: Option<(Duration, f64)>,
    abort: Option<(u16, f64)>,
    fields: Vec<(Box<str>, Box<str>)>,
    body: Bytes,
    most: u32,
    /// Those that wait now; what waits in a generation before is among them.
    waiting: Arc<AtomicU32>,
    full: Limit,
}

pub const KIND: FilterKind = FilterKind {
    kind: "FaultInjector",
    results: &[ABORTED],
    doc: module_doc!("fault_injector.rs"),
    schema: spec::schema::<FaultInjectorSpec>,
    check: spec::check::<FaultInjectorSpec>,
    build: |fields, parts| spec::build(fields, |spec| FaultInjector::new(spec, parts)),
};

impl FaultInjector {
    fn new(spec: FaultInjectorSpec, parts: &Parts<'_>) -> Result<FaultInjector, BuildError> {
        let mut headers = Vec::new();
        for (name, matcher) in spec.headers {
            headers.push((name.into_boxed_str(), matcher.compile().map_err(|why| unexpected("headers", why))?));
        }
        let before = parts.previous.and_then(|before| before.downcast::<FaultInjector>());
        let (mut fields, mut body) = (Vec::new(), Bytes::new());
        let abort = spec.abort.map(|abort| {
            fields = abort.headers.into_iter().map(|(name, value)| (name.into(), value.trim().into())).collect();
            body = abort.body.into();
            (abort.status_code.code(), abort.percentage)
        });
        Ok(FaultInjector {
            headers,
            delay: spec.delay.map(|delay| (delay.duration.duration(), delay.percentage)),
            abort,
            fields,
            body,
            most: spec.max_delayed,
            waiting: before.map_or_else(Arc::default, |before| before.waiting.clone()),
            full: parts.telemetry.limits().register("fault_delays"),
        })
    }

    /// A place among those that wait.
    fn place(&self) -> Option<Place> {
        let more = |n: u32| (n < self.most).then_some(n + 1);
        let taken = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if !taken {
            self.full.hit(base_runtime::current_worker().map_or(usize::MAX, |worker| worker.index()));
        }
        taken.then(|| Place(self.waiting.clone()))
    }

    fn finish(&self, exchange: &mut Exchange) -> Outcome {
        let Some((status, _)) = self.abort.filter(|(_, share)| hits(*share)) else { return SUCCESS };
        let mut response = Response::with_status(status);
        for (name, value) in &self.fields {
            response.headers.set(&**name, &**value);
        }
        exchange.respond(response, Body::shared(self.body.clone()));
        ABORTED
    }
}

struct Place(Arc<AtomicU32>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether chance hits, in per cent. Where there is no chance to be had it does not.
fn hits(share: f64) -> bool {
    share >= 100.0
        || share > 0.0 && drawn().is_some_and(|number| (number >> 11) as f64 / (1u64 << 53) as f64 * 100.0 < share)
}

impl Filter for FaultInjector {
    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD.and(Touches::RESPONSE)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let headers = &exchange.request().headers;
        if !self.headers.iter().all(|(name, matcher)| matcher.matches(headers.text(name).unwrap_or(""))) {
            return Step::Done(SUCCESS);
        }
        let place = self.delay.filter(|(_, share)| hits(*share)).and_then(|(time, _)| Some((time, self.place()?)));
        match place {
            None => Step::Done(self.finish(exchange)),
            Some((time, place)) => Step::wait(async move {
                base_runtime::time::sleep(time).await;
                drop(place);
                self.finish(exchange)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn requests_are_refused_by_share_and_header() {
        let spec = "{headers: {X-Fault: {exact: 'on'}}, abort: {statusCode: 418, headers: {X-A: b}, body: tea}}";
        let filter = filter(&KIND, spec);
        let mut exchange = request("GET", "/", &[("X-Fault", "on")]);
        assert_eq!((run(&*filter, &mut exchange), status_of(&exchange)), (ABORTED, 418));
        assert_eq!((response_header(&exchange, "x-a"), body_of(&exchange)), (Some("b"), &b"tea"[..]));
        let mut exchange = request("GET", "/", &[("X-Fault", "off")]);
        assert_eq!((run(&*filter, &mut exchange), status_of(&exchange)), (SUCCESS, 0));
    }

    #[test]
    fn shares_are_as_large_as_they_say() {
        let of = |share: &str| {
            let filter = filter(&KIND, &format!("{{abort: {{statusCode: 500, percentage: {share}}}}}"));
            (0..4_000).filter(|_| run(&*filter, &mut request("GET", "/", &[])) == ABORTED).count()
        };
        assert_eq!((of("0"), of("100")), (0, 4_000));
        // Six standard deviations.
        assert!((810..1_190).contains(&of("25")), "of 4,000 a quarter are 1,000");
    }

    #[test]
    fn no_more_wait_than_may_and_those_beyond_are_counted() {
        let telemetry = telemetry();
        let filter = filter_with(&KIND, "{delay: {duration: 1m}, maxDelayed: 1}", &telemetry);
        let (mut first, mut second) = (request("GET", "/", &[]), request("GET", "/", &[]));
        let Step::Wait(waits) = filter.handle(&mut first) else { panic!("it waits") };
        assert!(matches!(filter.handle(&mut second), Step::Done(SUCCESS)));
        assert_eq!(telemetry.limits().register("fault_delays").total(), 1);
        drop(waits);
        let mut third = request("GET", "/", &[]);
        assert!(matches!(filter.handle(&mut third), Step::Wait(_)), "a client that goes away gives its place up");
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{}", &["delay"]);
        refuses(&KIND, "{delay: {duration: 0s}}", &["delay.duration"]);
        refuses(&KIND, "{delay: {duration: 6m}}", &["delay.duration"]);
        refuses(&KIND, "{delay: {duration: 1s, percentage: 101}, maxDelayed: 0}", &["delay.percentage", "maxDelayed"]);
        refuses(&KIND, "{abort: {statusCode: 100}}", &["abort.statusCode"]);
    }
}
