//! Runs a script of a few lines for each request, written in the document.
//!
//! Use it for what is too small for a program and too particular for a filter: a header made of two others, an answer by a rule.
//!
//! ```yaml
//! name: script
//! kind: Script
//! script: |
//!   if req.Header.Get("X-Tier") == "gold" && req.Method != "GET" { req.Header.Set("X-Queue", "fast"); }
//!   if req.URL.Path.starts_with("/old/") {
//!     resp.StatusCode = 410;
//!     resp.Body = "gone";
//!     return 1;
//!   }
//! ```
//!
//! `POST /a` with `X-Tier: gold` → goes on with `X-Queue: fast`; `GET /old/b` → 410 `gone`, result `scriptResult1`, which ends the flow.
//!
//! The language is [Rhai](https://rhai.rs/book), without modules, files, clocks, `sleep` and `eval`: a script reaches nothing but its
//! request. The words are those of templates. `req` has `Method`, `Host`, `Scheme`, `Proto`, `RealIP`, `RequestURI`, `Cookie(name)`,
//! `URL` with `Path`, `EscapedPath`, `RawQuery` and `Query.Get(name)`, `Body`, `JSONBody`, and `Header` with `Get`, `Values`, `Set`,
//! `Add` and `Del`; `resp` has `StatusCode` (0 while there is no answer), `Body`, `JSONBody` and `Header`. `Method`, `Host`, `URL.Path`,
//! `URL.RawQuery`, `Body` and `StatusCode` can be written. `rand()` gives a number from 0 to 1, `unix_ms()` the time; `print` writes
//! into the access log.
//!
//! What a script returns, 1 to 9, is the filter's result; nothing, or 0, goes on. One that does more than `maxOperations`, takes longer
//! than `timeout`, makes texts longer than 64 KiB, fails or returns something else is ended: the result is `scriptError`, or the
//! request goes on as it came with `failOpen`. A changed document is in force with the next request.
//!
//! Outcomes: `scriptError`, `scriptResult1` to `scriptResult9`. Fits HTTPServer. Costs two or three microseconds for a header; bodies are
//! gathered where the script reads them, up to 64 KiB. Memory: while a script runs, at most 64 KiB and 1,000 items per variable, 32
//! variables per function, 8 functions deep; what would grow unseen (`a[i] = x`, `m.a.b = x`) is refused: `a.set(i, x)` is seen.

mod guard;
mod words;

use crate::each_worker::EachWorker;
use crate::kept::Kept;
use crate::module_doc::module_doc;
use crate::spec::{self, Spec, unexpected};
use base_model::problem::at;
use base_model::{Findings, GoDuration, Problem};
use base_telemetry::Limit;
use base_telemetry::registry::Encoder;
use edge_pipeline::{
    Body, BodyError, BuildError, Exchange, Filter, FilterKind, Outcome, Parts, PipelineName, SUCCESS, Step, Touches,
};
use rhai::{AST, Dynamic, Engine, EvalAltResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const SCRIPT_ERROR: Outcome = "scriptError";
const RESULTS: [Outcome; 9] = [
    "scriptResult1",
    "scriptResult2",
    "scriptResult3",
    "scriptResult4",
    "scriptResult5",
    "scriptResult6",
    "scriptResult7",
    "scriptResult8",
    "scriptResult9",
];

/// `kind: Script`: a few lines for each request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["script"]))]
pub struct ScriptSpec {
    /// The script, in Rhai. At most 64 KiB.
    pub script: String,
    /// Operations that the script may take for one request, 1 to 10000000. Default 100000.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_operations: u64,
    /// Longest time that the script may take for one request, 1ms to 1s. Default 20ms. Its worker serves nobody else meanwhile.
    pub timeout: GoDuration,
    /// Whether a request goes on as it came when the script fails, or when a body that it reads is larger than 64 KiB. Default false:
    /// the result is `scriptError`, which ends the flow with 503 (413 and 500 for bodies) where nothing jumps on it.
    pub fail_open: bool,
}

impl Default for ScriptSpec {
    fn default() -> ScriptSpec {
        let timeout = GoDuration::from_millis(20);
        ScriptSpec { script: String::new(), max_operations: 100_000, timeout, fail_open: false }
    }
}

impl Spec for ScriptSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        if self.script.trim().is_empty() {
            findings.problem(Problem::new(at(path, "script"), "there is no script"));
        } else if self.script.len() > SCRIPT_BYTES_MAX {
            let problem = Problem::new(at(path, "script"), format!("it has {} bytes", self.script.len()));
            findings.problem(problem.accepted(format!("up to {SCRIPT_BYTES_MAX}")));
        } else if let Err(why) = self.compiled() {
            findings.problem(Problem::new(at(path, "script"), why));
        }
        if !(1..=OPERATIONS_MAX).contains(&self.max_operations) {
            let problem = Problem::new(at(path, "maxOperations"), "out of range");
            let problem = problem.value(&Value::from(self.max_operations));
            findings.problem(problem.accepted(format!("1 to {OPERATIONS_MAX}")));
        }
        if !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(&self.timeout.nanos()) {
            findings.problem(Problem::new(at(path, "timeout"), "out of range").accepted("1ms to 1s"));
        }
    }
}

impl ScriptSpec {
    fn compiled(&self) -> Result<(Engine, AST), String> {
        let mut engine = words::engine();
        engine.set_max_operations(self.max_operations);
        let ast = words::compile(&engine, &self.script)?;
        Ok((engine, ast))
    }
}

/// A ready Script.
pub struct Script {
    engine: Engine,
    ast: AST,
    warm: EachWorker<Mutex<Option<Box<words::Warm>>>>,
    reads: words::Reads,
    timeout: Duration,
    fail_open: bool,
    figures: Arc<Figures>,
    bounds: Bounds,
}

/// What one place of a script counts, from one generation to the next.
#[derive(Debug)]
struct Figures {
    pipeline: PipelineName,
    filter: String,
    requests: AtomicU64,
    failures: [AtomicU64; FAILURES.len()],
    last: Mutex<Option<String>>,
}

/// Labels of the failures that are counted.
const FAILURES: [&str; 5] = ["operations", "time", "size", "error", "body"];
const OPERATIONS: usize = 0;
const TIME: usize = 1;
const SIZE: usize = 2;
const ERROR: usize = 3;
const BODY: usize = 4;

struct Bounds {
    operations: Limit,
    time: Limit,
    size: Limit,
    body: Limit,
}

pub const KIND: FilterKind = FilterKind {
    kind: "Script",
    results: &[
        SCRIPT_ERROR,
        RESULTS[0],
        RESULTS[1],
        RESULTS[2],
        RESULTS[3],
        RESULTS[4],
        RESULTS[5],
        RESULTS[6],
        RESULTS[7],
        RESULTS[8],
    ],
    doc: module_doc!("script.rs"),
    schema: spec::schema::<ScriptSpec>,
    check: spec::check::<ScriptSpec>,
    build: |fields, parts| spec::build(fields, |spec| Script::new(&spec, parts)),
};

impl Script {
    fn new(spec: &ScriptSpec, parts: &Parts<'_>) -> Result<Script, BuildError> {
        let (engine, ast) = spec.compiled().map_err(|why| unexpected("script", why))?;
        let previous = parts.previous.and_then(|previous| previous.downcast::<Script>());
        let figures = previous.map_or_else(|| Figures::shown(parts), |script| script.figures.clone());
        let limits = parts.telemetry.limits();
        Ok(Script {
            engine,
            ast,
            warm: EachWorker::new(parts.telemetry.workers(), Mutex::default),
            reads: words::reads(&spec.script),
            timeout: spec.timeout.duration(),
            fail_open: spec.fail_open,
            figures,
            bounds: Bounds {
                operations: limits.register("script_operations"),
                time: limits.register("script_time"),
                size: limits.register("script_size"),
                body: limits.register("script_body"),
            },
        })
    }

    fn run(&self, exchange: &mut Exchange) -> Outcome {
        self.figures.requests.fetch_add(1, Relaxed);
        let kept = self.fail_open.then(|| Kept::of(exchange));
        // What fails in the engine itself fails this script and not the worker.
        let ran = words::lent(exchange, self.timeout, || {
            // Nobody waits for it but who is no worker.
            let mut warm = lock(self.warm.own());
            catch_unwind(AssertUnwindSafe(|| words::run(&self.engine, &self.ast, &mut warm)))
        });
        let (reason, why) = match ran {
            Ok(Ok(value)) => match result(&value) {
                Ok(0) => return SUCCESS,
                Ok(code) => {
                    exchange.space().response.get_or_insert_default();
                    return RESULTS[code - 1];
                }
                Err(why) => (ERROR, why),
            },
            Ok(Err(error)) => failure(&error),
            Err(_) => (ERROR, "the engine failed over it".to_owned()),
        };
        match reason {
            OPERATIONS => self.bounds.operations.hit(worker()),
            TIME => self.bounds.time.hit(worker()),
            SIZE => self.bounds.size.hit(worker()),
            _ => {}
        }
        self.note(exchange, reason, &why);
        if let Some(kept) = kept {
            kept.put_back(exchange);
            return SUCCESS;
        }
        exchange.refuse(503);
        SCRIPT_ERROR
    }

    fn note(&self, exchange: &mut Exchange, reason: usize, why: &str) {
        self.figures.failures[reason].fetch_add(1, Relaxed);
        tracing::debug!(target: "script", pipeline = %self.figures.pipeline, filter = self.figures.filter, "{why}");
        exchange.tags.note(|| format!("Script: {why}"));
        *lock(&self.figures.last) = Some(why.to_owned());
    }

    async fn run_with_bodies(&self, exchange: &mut Exchange) -> Outcome {
        let space = exchange.space();
        if self.reads.request
            && let Err(error) = space.request_body.collect_or_leave(words::TEXT_MAX as u64).await
        {
            return self.no_body(exchange, true, error);
        }
        let space = exchange.space();
        if self.reads.response
            && let Err(error) = space.response_body.collect_or_leave(words::TEXT_MAX as u64).await
        {
            return self.no_body(exchange, false, error);
        }
        self.run(exchange)
    }

    /// A body that the script reads is not to be had, or too large.
    fn no_body(&self, exchange: &mut Exchange, of_request: bool, error: BodyError) -> Outcome {
        let text = format!("the {}'s {error}", if of_request { "request" } else { "answer" });
        if matches!(error, BodyError::TooLarge | BodyError::NoMemory) {
            self.bounds.body.hit(worker());
            self.note(exchange, BODY, &text);
            if self.fail_open {
                return SUCCESS;
            }
        } else {
            exchange.tags.note(|| format!("Script: {text}"));
        }
        let status = if of_request { error.request_status() } else { error.response_status() };
        let space = exchange.space();
        *(if of_request { &mut space.request_body } else { &mut space.response_body }) = Body::Empty;
        space.refuse(status);
        SCRIPT_ERROR
    }
}

impl Filter for Script {
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let space = exchange.space_ref();
        let there = |body: &Body| body.in_memory().is_some_and(|bytes| bytes.len() <= words::TEXT_MAX);
        let waits = (self.reads.request && !there(&space.request_body))
            || (self.reads.response && !there(&space.response_body));
        if waits { Step::wait(self.run_with_bodies(exchange)) } else { Step::Done(self.run(exchange)) }
    }

    fn touches(&self) -> Touches {
        let requests = self.reads.request || self.reads.writes_request;
        let responses = self.reads.response || self.reads.writes_response;
        Touches::HEADS.and_if(requests, Touches::REQUEST_BODY).and_if(responses, Touches::RESPONSE_BODY)
    }

    fn status(&self) -> Option<Value> {
        let failures: u64 = self.figures.failures.iter().map(|count| count.load(Relaxed)).sum();
        let requests = self.figures.requests.load(Relaxed);
        let mut status = json!({"health": "", "numOfRequest": requests, "numOfScriptError": failures});
        if let Some(last) = &*lock(&self.figures.last) {
            status["lastError"] = json!(last);
        }
        Some(status)
    }
}

/// What the value that a script ends with means.
fn result(value: &Dynamic) -> Result<usize, String> {
    if value.is_unit() {
        return Ok(0);
    }
    match value.as_int() {
        Ok(code @ 0..=9) => Ok(code as usize),
        Ok(code) => Err(format!("it returned {code}; accepted are 0 to 9")),
        Err(kind) => Err(format!("it returned a value of type {kind}; accepted are 0 to 9")),
    }
}

/// Why a script was ended.
fn failure(error: &EvalAltResult) -> (usize, String) {
    let reason = match error.unwrap_inner() {
        EvalAltResult::ErrorTooManyOperations(_) => OPERATIONS,
        EvalAltResult::ErrorTerminated(..) => return (TIME, "it took longer than its timeout".to_owned()),
        EvalAltResult::ErrorDataTooLarge(..) => SIZE,
        _ => ERROR,
    };
    let text: String = error.to_string().chars().take(TOLD_MAX).collect();
    (reason, base_text::escaped(&text).to_string())
}

impl Figures {
    /// New ones, which are shown for as long as they live.
    fn shown(parts: &Parts<'_>) -> Arc<Figures> {
        let figures = Arc::new(Figures {
            pipeline: parts.pipeline.clone(),
            filter: parts.name.to_owned(),
            requests: AtomicU64::new(0),
            failures: Default::default(),
            last: Mutex::default(),
        });
        parts.telemetry.registry().show(&figures, encode);
        figures
    }
}

/// `weir_script_*`.
fn encode(all: &[Arc<Figures>], encoder: &mut Encoder) {
    let mut shown = HashSet::new();
    // Of several with the same names the newest is shown.
    for figures in all.iter().rev() {
        let place = (&**figures.pipeline.text(), figures.filter.as_str());
        if !shown.insert(place) {
            continue;
        }
        let labels = [("pipeline", place.0), ("filter", place.1)];
        let help = "Requests that came to a Script, by pipeline and filter.";
        encoder.counter("weir_script_requests_total", help, &labels, figures.requests.load(Relaxed) as f64);
        for (reason, count) in FAILURES.iter().zip(&figures.failures) {
            let help = "Runs of a Script that failed, by pipeline, filter and reason: operations (more than maxOperations), time \
                        (longer than timeout), size (a text or a list too large), error, body (too large to be gathered).";
            let labels = [labels[0], labels[1], ("reason", *reason)];
            encoder.counter("weir_script_failures_total", help, &labels, count.load(Relaxed) as f64);
        }
    }
}

/// Tests run filters on threads of their own; the counters have a row for those.
fn worker() -> usize {
    base_runtime::current_worker().map_or(usize::MAX, |worker| worker.index())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const SCRIPT_BYTES_MAX: usize = 64 << 10;
const OPERATIONS_MAX: u64 = 10_000_000;

/// In nanoseconds.
const TIMEOUT_MIN: i64 = 1_000_000;
const TIMEOUT_MAX: i64 = 1_000_000_000;

/// Characters of a script's error that are told.
const TOLD_MAX: usize = 256;

#[cfg(test)]
mod tests;
