//! Runs a filter written for Envoy (proxy-wasm, ABI 0.2.1), as it is.
//!
//! Use it for filters that exist, or that other proxies are to run as well; for new ones that only weir runs, `WasmHost` is simpler. It is
//! a kind of its own since its programs have other fields (a configuration, upstreams) and see a request twice, on its way and back.
//!
//! ```yaml
//! flow:
//! - filter: plugin              # around what comes after it, as in Envoy's list of filters
//! - filter: proxy
//! filters:
//! - name: plugin
//!   kind: ProxyWasm
//!   code: /etc/weir/plugin.wasm # a file, a URL, or the program itself in base64
//!   configuration: {greeting: hello}
//!   upstreams: {auth: http://127.0.0.1:9000}
//! ```
//!
//! `GET /` → `proxy_on_request_headers` (and `…_body`, `…_trailers`) → the stations after it → `proxy_on_response_headers` (and so on) →
//! `proxy_on_done`, `proxy_on_log`. A body comes whole, in one call; one of more than 4 MiB and an event stream pass unseen, unless the
//! program paused at the head to wait for it, which is refused. An answer of its own (`proxy_send_local_response`) is shown to it as any
//! other, and ends the flow with the result `localResponse`. What a program calls over HTTP (`proxy_http_call`) it names as in `upstreams`; gRPC calls and foreign
//! functions are answered as unimplemented. Shared data, queues and metrics are those of the filter on this machine, bounded: what finds
//! no room is refused to the program and counted. Metrics are `weir_proxy_wasm_*`, with the program's name for them as a label.
//!
//! Each worker has one instance (VM) from its first request on, which lives until the program or the document changes; ticks come from
//! then on, 10 ms apart at least. A program that runs beyond `timeout`, does more than `fuel` allows, traps or needs more memory than
//! `memoryLimitMiB` is ended and its VM thrown away, and with it, as in Envoy, what it knew of the worker's other requests: the result
//! is `wasmError`, or they go on without the program where `failOpen` says so. What does not start is found before requests come.
//!
//! Outcomes: `localResponse`, `outOfVM`, `wasmError`. Fits HTTPServer. Costs some microseconds per request beside what the program does;
//! bodies are gathered where the program has a callback for them. Memory: workers times `memoryLimitMiB` at most.

use crate::module_doc::module_doc;
use crate::spec::{self, Spec, unexpected};
use crate::wasm_host::{self, Code, OUT_OF_VM, WASM_ERROR};
use base_model::problem::at;
use base_model::{Findings, GoDuration, Problem};
use edge_pipeline::{BuildError, Filter, FilterKind, Outcome, Parts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// The program has answered itself.
pub const LOCAL_RESPONSE: Outcome = "localResponse";

/// `kind: ProxyWasm`: a filter written for Envoy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["code"]))]
pub struct ProxyWasmSpec {
    /// The program: path of a file, http or https URL, or the WebAssembly module itself in base64. At most 32 MiB.
    pub code: String,
    /// Which of the program's filters, where it has several (`root_id`). Default: empty.
    pub root_id: String,
    /// What the program is configured with: a text, or anything else, which it gets as JSON.
    pub configuration: Value,
    /// What its VM is configured with. Default: nothing.
    pub vm_configuration: Value,
    /// What the program may call over HTTP: by the name that it uses (Envoy's clusters) a URL, of which scheme, host and port count. At
    /// most 16.
    pub upstreams: BTreeMap<String, String>,
    /// Calls over HTTP on their way at a time, by upstream, 1 to 10000. Default 64. What is beyond fails as if the upstream did.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_calls: u32,
    /// Longest time one callback may compute. Default 100ms.
    pub timeout: GoDuration,
    /// Longest time a request is paused for something that the program waits for. Default 15s.
    pub pause_timeout: GoDuration,
    /// Memory that one VM may have, in MiB, 1 to 4096. Default 64. A program that grows beyond it is ended.
    #[serde(rename = "memoryLimitMiB")]
    #[schemars(range(min = 1, max = 4096))]
    pub memory_limit_mib: u32,
    /// What one callback may do, in units of fuel, about one per instruction. Default 0: `timeout` is the only bound.
    pub fuel: u64,
    /// Whether a request goes on when the program fails or cannot be run. Default false: the result is `wasmError` or `outOfVM`, which
    /// ends the flow with 503 where nothing jumps on it.
    pub fail_open: bool,
}

impl Default for ProxyWasmSpec {
    fn default() -> ProxyWasmSpec {
        ProxyWasmSpec {
            code: String::new(),
            root_id: String::new(),
            configuration: Value::Null,
            vm_configuration: Value::Null,
            upstreams: BTreeMap::new(),
            max_calls: 64,
            timeout: GoDuration::from_millis(100),
            pause_timeout: GoDuration::from_millis(15_000),
            memory_limit_mib: 64,
            fuel: 0,
            fail_open: false,
        }
    }
}

impl ProxyWasmSpec {
    /// Tells the three spellings of `code` apart.
    pub fn code(&self) -> Result<Code, String> {
        wasm_host::code_of(&self.code)
    }
}

impl Spec for ProxyWasmSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        wasm_host::check_program(&self.code, self.memory_limit_mib, self.timeout, path, findings);
        if self.pause_timeout.nanos() <= 0 {
            let problem = Problem::new(at(path, "pauseTimeout"), "nothing can be waited for");
            findings.problem(problem.advice("write 1ms or longer"));
        }
        if !(1..=10_000).contains(&self.max_calls) {
            let problem = Problem::new(at(path, "maxCalls"), "out of range");
            findings.problem(problem.value(&Value::from(self.max_calls)).accepted("1 to 10000"));
        }
        if self.upstreams.len() > UPSTREAMS_MAX {
            let problem = Problem::new(at(path, "upstreams"), format!("there are {}", self.upstreams.len()));
            findings.problem(problem.accepted(format!("up to {UPSTREAMS_MAX}")));
        }
        for (name, url) in &self.upstreams {
            if let Err(why) = edge_upstream::call::split_url(url) {
                let problem = Problem::new(at(&at(path, "upstreams"), name), why).value(&Value::from(url.as_str()));
                findings.problem(problem);
            }
        }
    }
}

const UPSTREAMS_MAX: usize = 16;

/// Makes a ready filter; brought by the crate that has the engine.
pub type Maker = fn(ProxyWasmSpec, &Parts<'_>) -> Result<Arc<dyn Filter>, BuildError>;

static MAKER: OnceLock<Maker> = OnceLock::new();

/// From now on ProxyWasms are made by this; the first one counts.
pub fn install(maker: Maker) {
    let _ = MAKER.set(maker);
}

pub const KIND: FilterKind = FilterKind {
    kind: "ProxyWasm",
    results: &[LOCAL_RESPONSE, OUT_OF_VM, WASM_ERROR],
    doc: module_doc!("proxy_wasm.rs"),
    schema: spec::schema::<ProxyWasmSpec>,
    check: spec::check::<ProxyWasmSpec>,
    build: |fields, parts| {
        let make = MAKER.get().ok_or_else(|| unexpected("kind", "this program has no engine for WebAssembly"))?;
        make(spec::of(fields)?, parts)
    },
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn refused() {
        refuses(&KIND, "{}", &["code"]);
        refuses(&KIND, "{code: /a, memoryLimitMiB: 0, maxCalls: 0}", &["maxCalls", "memoryLimitMiB"]);
        refuses(&KIND, "{code: /a, timeout: 0s}", &["timeout"]);
        refuses(&KIND, "{code: /a, upstreams: {a: 'ftp://x'}, pauseTimeout: 0s}", &["pauseTimeout", "upstreams.a"]);
        assert!(KIND.checked(&yaml("{code: /a, upstreams: {a: 'http://h:1'}, configuration: [1]}"), "").is_ok());
    }
}
