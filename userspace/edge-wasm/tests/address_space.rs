//! A process that may have little address space runs programs all the same, fewer at a time.

use base_telemetry::{Identity, Telemetry};
use edge_pipeline::{Exchange, Parts, PipelineName, Step};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::sync::mpsc;

const ANSWERS: &str = r#"(module
  (import "easegress" "host_resp_set_status_code" (func $status (param i32)))
  (memory (export "memory") 1)
  (func (export "wasm_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "wasm_free") (param i32))
  (func (export "wasm_run") (result i32) (call $status (i32.const 203)) (i32.const 3)))"#;

#[test]
fn little_address_space_means_fewer_vms() {
    let most = Some(64 << 30);
    setrlimit(Resource::As, Rlimit { current: most, maximum: most }).unwrap();
    edge_wasm::install();
    let telemetry = Telemetry::new(Identity::default(), 1);
    let directory = tempfile::tempdir().unwrap();
    let code = directory.path().join("answers.wasm");
    std::fs::write(&code, wat::parse_str(ANSWERS).unwrap()).unwrap();
    let fields = serde_json::json!({"code": code.to_str(), "maxConcurrency": 2, "timeout": "5s"});
    let parts = Parts {
        name: "a",
        pipeline: &PipelineName::of_object("p"),
        previous: None,
        resilience: &[],
        telemetry: &telemetry,
    };
    let kind = edge_filters::kind("WasmHost").unwrap();
    let filter = (kind.build)(&fields, &parts).unwrap_or_else(|_| panic!("a good document"));
    let runtime =
        base_runtime::Runtime::start(base_runtime::Config { workers: Some(1), ..Default::default() }).unwrap();
    let (sender, done) = mpsc::channel();
    let asked = filter.clone();
    runtime.workers()[0].spawn(move || async move {
        let mut exchange = Exchange::default();
        let outcome = match asked.handle(&mut exchange) {
            Step::Done(outcome) => outcome,
            Step::Wait(future) => future.await,
        };
        let _ = sender.send((outcome, exchange.space_ref().response.as_ref().map(|response| response.status)));
    });
    let outcome = done.recv().expect("the task did not panic");
    assert_eq!(outcome, ("wasmResult3", Some(203)), "{:?}", filter.status());
}
