//! Lets a WebAssembly program of the user's own decide about requests, and change them and their answers.
//!
//! Use it for logic that no other filter has: flash sales, rules of a shop, formats of a partner. The program is written in
//! AssemblyScript, Rust, Go or anything that compiles to WebAssembly, against the host functions of Easegress's SDKs.
//!
//! ```yaml
//! name: sale
//! kind: WasmHost
//! code: /etc/weir/flash-sale.wasm     # a file, a URL, or the program itself in base64
//! maxConcurrency: 10
//! timeout: 100ms
//! parameters: {blockRatio: "0.4", maxPermission: "3"}
//! ```
//!
//! For each request the program's `wasm_run` is called, on an instance (VM) that serves one request at a time and the next one after
//! it. What it returns, 1 to 9, is the filter's result, and 0 goes on. One that runs beyond `timeout`, does more than `fuel` allows,
//! traps, needs more memory than `memoryLimitMiB` or returns something else is ended and its VM thrown away: the result is `wasmError`,
//! or the request goes on as it came with `failOpen`. While a program computes, the worker serves other requests in between. What programs share
//! (`host_cluster_…`) is kept in the cluster: read here, written by agreement, shown and changed by `weirctl wasm`.
//!
//! Files and URLs are read when the document is applied and after `weirctl wasm reload-code`; requests go on with the old program
//! until the new one is compiled and one VM of it has started. What cannot be loaded is tried again every 30 s, what does not start less
//! and less often; until then the result is `outOfVM`, which costs nothing. A program that is not compiled within 30 s holds nobody up.
//!
//! Outcomes: `outOfVM`, `wasmError`, `wasmResult1` to `wasmResult9`. Fits HTTPServer. Costs about a microsecond beside what the
//! program does; the request's body is gathered where the program asks for it. Memory: what the VMs' programs use, at most
//! `maxConcurrency` times `memoryLimitMiB`.

use crate::module_doc::module_doc;
use crate::spec::{self, Spec, unexpected};
use base_model::problem::at;
use base_model::{Findings, GoDuration, Problem};
use base64::Engine;
use edge_pipeline::{BuildError, Filter, FilterKind, Outcome, Parts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// There is no program to run, or no VM to run it on.
pub const OUT_OF_VM: Outcome = "outOfVM";

/// The program failed.
pub const WASM_ERROR: Outcome = "wasmError";

/// What the program returned, from 1.
pub const WASM_RESULTS: [Outcome; 9] = [
    "wasmResult1",
    "wasmResult2",
    "wasmResult3",
    "wasmResult4",
    "wasmResult5",
    "wasmResult6",
    "wasmResult7",
    "wasmResult8",
    "wasmResult9",
];

/// `kind: WasmHost`: a program of the user's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["code"]))]
pub struct WasmHostSpec {
    /// Requests that the program serves at a time on this machine, each on a VM of its own, 1 to 1000. Default 10. Beyond it requests
    /// wait, at most 30 s.
    #[schemars(range(min = 1, max = 1000))]
    pub max_concurrency: u32,
    /// The program: path of a file, http or https URL, or the WebAssembly module itself in base64. At most 32 MiB.
    pub code: String,
    /// Longest time the program may take for one request, without what it waits for the cluster to agree (at most 15 s). Default 100ms.
    pub timeout: GoDuration,
    /// What the program is told when it starts, by name: texts, numbers, true or false.
    pub parameters: BTreeMap<String, Value>,
    /// Memory that one VM may have, in MiB, 1 to 4096. Default 64. A program that grows beyond it is ended.
    #[serde(rename = "memoryLimitMiB")]
    #[schemars(range(min = 1, max = 4096))]
    pub memory_limit_mib: u32,
    /// What the program may do for one request, in units of fuel, about one per instruction: the same request takes the same on every
    /// machine, however busy. Default 0: `timeout` is the only bound, and nothing is counted, which is faster.
    pub fuel: u64,
    /// Whether a request goes on as it came when the program fails or cannot be run, or when a body that it asks for is larger than
    /// 4 MiB. Default false: the result is `wasmError` or `outOfVM`, which ends the flow with 503 (413 and 500 for bodies) where nothing
    /// jumps on it.
    pub fail_open: bool,
}

impl Default for WasmHostSpec {
    fn default() -> WasmHostSpec {
        WasmHostSpec {
            max_concurrency: 10,
            code: String::new(),
            timeout: GoDuration::from_millis(100),
            parameters: BTreeMap::new(),
            memory_limit_mib: 64,
            fuel: 0,
            fail_open: false,
        }
    }
}

/// Where a program comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    Inline(Vec<u8>),
    Url(String),
    File(String),
}

impl WasmHostSpec {
    /// Tells the three spellings of `code` apart.
    pub fn code(&self) -> Result<Code, String> {
        code_of(&self.code)
    }
}

/// Tells the three spellings of `code` apart.
pub(crate) fn code_of(code: &str) -> Result<Code, String> {
    let code = code.trim();
    let scheme = |scheme: &str| code.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    if scheme("http://") || scheme("https://") {
        return Ok(Code::Url(code.to_owned()));
    }
    // `\0asm` in base64: no path begins so by chance.
    if !code.starts_with("AGFzb") {
        return Ok(Code::File(code.to_owned()));
    }
    let digits: String = code.split_ascii_whitespace().collect();
    let decoded = base64::engine::general_purpose::STANDARD.decode(digits);
    decoded.map(Code::Inline).map_err(|why| format!("it begins as a WebAssembly module in base64, but is none: {why}"))
}

/// What a document must say of a program and its bounds, whatever runs it.
pub(crate) fn check_program(
    code: &str,
    memory_limit_mib: u32,
    timeout: GoDuration,
    path: &str,
    findings: &mut Findings,
) {
    let accepted = "a path of a file, a URL, or a WebAssembly module in base64";
    if code.trim().is_empty() {
        findings.problem(Problem::new(at(path, "code"), "there is no program").accepted(accepted));
    } else if let Err(why) = code_of(code) {
        findings.problem(Problem::new(at(path, "code"), why));
    }
    if !(1..=4096).contains(&memory_limit_mib) {
        let problem = Problem::new(at(path, "memoryLimitMiB"), "out of range").value(&Value::from(memory_limit_mib));
        findings.problem(problem.accepted("1 to 4096"));
    }
    if timeout.nanos() <= 0 {
        let problem = Problem::new(at(path, "timeout"), "a program needs time to run");
        findings.problem(problem.advice("write 1ms or longer"));
    }
}

impl Spec for WasmHostSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        check_program(&self.code, self.memory_limit_mib, self.timeout, path, findings);
        if !(1..=1000).contains(&self.max_concurrency) {
            let problem = Problem::new(at(path, "maxConcurrency"), "out of range");
            findings.problem(problem.value(&Value::from(self.max_concurrency)).accepted("1 to 1000"));
        }
        for (name, value) in &self.parameters {
            if value.is_array() || value.is_object() {
                let problem = Problem::new(at(&at(path, "parameters"), name), "a parameter is one value").value(value);
                findings.problem(problem.accepted("a text, a number, true or false"));
            }
        }
    }
}

/// Makes a ready filter; brought by the crate that has the engine, so that the command line does not carry one.
pub type Maker = fn(WasmHostSpec, &Parts<'_>) -> Result<Arc<dyn Filter>, BuildError>;

static MAKER: OnceLock<Maker> = OnceLock::new();

/// From now on WasmHosts are made by this; the first one counts.
pub fn install(maker: Maker) {
    let _ = MAKER.set(maker);
}

pub const KIND: FilterKind = FilterKind {
    kind: "WasmHost",
    results: &[
        OUT_OF_VM,
        WASM_ERROR,
        WASM_RESULTS[0],
        WASM_RESULTS[1],
        WASM_RESULTS[2],
        WASM_RESULTS[3],
        WASM_RESULTS[4],
        WASM_RESULTS[5],
        WASM_RESULTS[6],
        WASM_RESULTS[7],
        WASM_RESULTS[8],
    ],
    doc: module_doc!("wasm_host.rs"),
    schema: spec::schema::<WasmHostSpec>,
    check: spec::check::<WasmHostSpec>,
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
    fn the_spellings_of_code() {
        let code = |text: &str| WasmHostSpec { code: text.to_owned(), ..WasmHostSpec::default() }.code();
        assert_eq!(code("/etc/weir/a.wasm"), Ok(Code::File("/etc/weir/a.wasm".into())));
        assert_eq!(code(" HTTPS://code.test/a.wasm\n"), Ok(Code::Url("HTTPS://code.test/a.wasm".into())));
        assert_eq!(code("AGFzb\nQEAAAA=\n"), Ok(Code::Inline(b"\0asm\x01\0\0\0".to_vec())));
        assert!(code("AGFzbQEAAAA").is_err_and(|why| why.contains("base64")));
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{}", &["code"]);
        refuses(&KIND, "{code: AGFzb!}", &["code"]);
        refuses(&KIND, "{code: /a, maxConcurrency: 0, memoryLimitMiB: 5000}", &["maxConcurrency", "memoryLimitMiB"]);
        refuses(&KIND, "{code: /a, timeout: 0s, parameters: {a: [1]}}", &["parameters.a", "timeout"]);
        assert!(KIND.checked(&yaml("{code: /a, parameters: {a: 1, b: true, c: x}}"), "").is_ok());
    }
}
