//! More VMs are wanted than this process has places for: who finds none is refused, which is counted, and nobody else notices.

use base_telemetry::{Identity, Telemetry};
use edge_pipeline::{Exchange, Filter, Parts, PipelineName, Step};
use edge_wasm::shared::{Write, Writer, write_with};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};

/// A cluster that takes its time: whoever writes waits.
struct Cluster(Mutex<Vec<Write>>);

impl Writer for Cluster {
    fn write(&self, write: Write) -> Result<(), Write> {
        self.0.lock().unwrap().push(write);
        Ok(())
    }
}

const WAITS: &str = r#"(module
  (import "easegress" "host_cluster_add_integer" (func $add (param i32 i64) (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\02\00\00\00n\00")
  (func (export "wasm_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "wasm_free") (param i32))
  (func (export "wasm_run") (result i32) (drop (call $add (i32.const 16) (i64.const 1))) (i32.const 3)))"#;

#[test]
fn who_finds_no_place_is_refused() {
    const PLACES: usize = 2000;
    let (each, beyond) = (700, 3 * 700 - PLACES);
    let cluster = Arc::new(Cluster(Mutex::default()));
    write_with(cluster.clone());
    edge_wasm::install();
    let telemetry = Telemetry::new(Identity::default(), 1);
    let directory = tempfile::tempdir().unwrap();
    let code = directory.path().join("waits.wasm");
    std::fs::write(&code, wat::parse_str(WAITS).unwrap()).unwrap();
    // Nobody's time is over while the others begin, however busy the machine is.
    let fields = serde_json::json!({"code": code.to_str(), "maxConcurrency": 1000, "timeout": "1m"});
    let kind = edge_filters::kind("WasmHost").unwrap();
    let filters: Vec<Arc<dyn Filter>> = ["a", "b", "c"]
        .iter()
        .map(|name| {
            let parts = Parts {
                name,
                pipeline: &PipelineName::of_object("p"),
                previous: None,
                resilience: &[],
                telemetry: &telemetry,
            };
            (kind.build)(&fields, &parts).unwrap_or_else(|_| panic!("a good document"))
        })
        .collect();
    // A filter that is gone tells nothing any more.
    let _kept = filters.clone();
    let runtime =
        base_runtime::Runtime::start(base_runtime::Config { workers: Some(1), ..Default::default() }).unwrap();
    let (sender, done) = mpsc::channel();
    runtime.workers()[0].spawn(move || async move {
        let (refused, served) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let mut tasks = Vec::new();
        for _ in 0..each {
            for filter in &filters {
                let (filter, refused, served) = (filter.clone(), refused.clone(), served.clone());
                tasks.push(base_runtime::spawn(async move {
                    let mut exchange = Exchange::default();
                    let outcome = match filter.handle(&mut exchange) {
                        Step::Done(outcome) => outcome,
                        Step::Wait(future) => future.await,
                    };
                    let count = if outcome == "outOfVM" { &refused } else { &served };
                    count.set(count.get() + 1);
                }));
            }
        }
        while refused.get() < beyond {
            assert_eq!(served.get(), 0, "it would wait for ever");
            base_runtime::yield_now().await;
        }
        while served.get() < PLACES {
            for write in cluster.0.lock().unwrap().drain(..) {
                let _ = write.answer.try_send(Ok(b"1".to_vec()));
            }
            base_runtime::yield_now().await;
        }
        let _ = sender.send(refused.get());
    });
    assert_eq!(done.recv().expect("the task did not panic"), beyond);
    assert_eq!(telemetry.limits().register("wasm_room").total(), beyond as u64);
    let text = telemetry.registry().render(base_telemetry::registry::Names::Own);
    let rooms = text.lines().filter(|line| line.contains(r#"reason="room""#)).count();
    assert_eq!(rooms, 3, "{text}");
}
