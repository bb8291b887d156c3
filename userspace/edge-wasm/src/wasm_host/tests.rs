use super::*;
use base_telemetry::{Identity, Telemetry};
use edge_filters::wasm_host::Code;
use edge_pipeline::PipelineName;
use proto_http::{Method, Path, Response};
use std::time::Instant;

/// What every guest here has: an allocator that begins anew with each request, and the header that says what to do.
const COMMON: &str = r#"
  (memory (export "memory") 2)
  (global $heap (mut i32) (i32.const 4096))
  (func $alloc (export "wasm_alloc") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $heap))
    (global.set $heap (i32.add (global.get $heap) (local.get $size)))
    (local.get $at))
  (func (export "wasm_free") (param i32))
  (data (i32.const 16) "\06\00\00\00X-Run\00")
  (data (i32.const 48) "\06\00\00\00X-Out\00")
  (data (i32.const 80) "\02\00\00\00n\00")
  (func $order (result i32)
    (global.set $heap (i32.const 4096))
    (i32.load8_u (i32.add (call $header (i32.const 16)) (i32.const 4))))
"#;

/// The header `X-Run` says: a digit returns it, `a` returns 10, `t` traps, `l` loops, `g` grows, `o` gives a wild address, `x` sets
/// `X-Out` to the value of `X-Run`.
fn guest() -> Vec<u8> {
    module(
        r#"(import "easegress" "host_req_get_header" (func $header (param i32) (result i32)))
        (import "easegress" "host_req_set_header" (func $set (param i32 i32)))"#,
        r#"(func (export "wasm_run") (result i32)
            (local $order i32)
            (local.set $order (call $order))
            (if (i32.eq (local.get $order) (i32.const 97)) (then (return (i32.const 10))))
            (if (i32.eq (local.get $order) (i32.const 116)) (then (unreachable)))
            (if (i32.eq (local.get $order) (i32.const 108)) (then (loop $on (br $on))))
            (if (i32.eq (local.get $order) (i32.const 103)) (then (loop $on (drop (memory.grow (i32.const 16))) (br $on))))
            (if (i32.eq (local.get $order) (i32.const 111)) (then (call $set (i32.const 48) (i32.const -4))))
            (if (i32.eq (local.get $order) (i32.const 120)) (then
                (call $set (i32.const 48) (call $header (i32.const 16)))
                (return (i32.const 0))))
            (if (i32.eq (local.get $order) (i32.const 121)) (then
                (call $set (i32.const 48) (call $header (i32.const 16)))
                (unreachable)))
            (i32.sub (local.get $order) (i32.const 48)))"#,
    )
}

fn module(imports: &str, rest: &str) -> Vec<u8> {
    wat::parse_str(format!("(module {imports} {COMMON} {rest})")).unwrap()
}

fn spec(code: &[u8]) -> WasmHostSpec {
    use base64::Engine;
    let code = base64::engine::general_purpose::STANDARD.encode(code);
    WasmHostSpec { code, ..WasmHostSpec::default() }
}

/// A filter and what it counts.
struct Made {
    filter: Arc<dyn Filter>,
    telemetry: Arc<Telemetry>,
}

fn made(spec: WasmHostSpec) -> Made {
    let telemetry = Telemetry::new(Identity::default(), 1);
    Made { filter: build(spec, None, &telemetry), telemetry }
}

fn build(spec: WasmHostSpec, previous: Option<&dyn Filter>, telemetry: &Arc<Telemetry>) -> Arc<dyn Filter> {
    let parts = Parts { name: "f", pipeline: &PipelineName::of_object("p"), previous, resilience: &[], telemetry };
    make(spec, &parts).unwrap_or_else(|problems| panic!("{}", base_model::problem::render(&problems)))
}

impl Made {
    /// Compiled, however many others were before it.
    fn tried(self) -> Made {
        self.filter.downcast::<WasmHost>().unwrap().host.source.tried(Duration::from_secs(60));
        self
    }

    fn limit(&self, name: &'static str) -> u64 {
        self.telemetry.limits().register(name).total()
    }
}

/// Outcome, status, and `X-Out` of the request after it, of requests with these orders, one after the other.
fn asked(filter: &Arc<dyn Filter>, orders: &[&str]) -> Vec<(Outcome, u16, String)> {
    let (filter, orders) = (filter.clone(), orders.iter().map(|order| order.to_string()).collect::<Vec<_>>());
    on_worker(move || async move {
        let mut all = Vec::new();
        for order in orders {
            let mut exchange = request(&order);
            let outcome = match filter.handle(&mut exchange) {
                Step::Done(outcome) => outcome,
                Step::Wait(future) => future.await,
            };
            let status = exchange.space_ref().response.as_ref().map_or(0, |response| response.status);
            all.push((outcome, status, exchange.request().headers.text("X-Out").unwrap_or_default().to_owned()));
        }
        all
    })
}

fn request(order: &str) -> Exchange {
    let mut exchange = Exchange::default();
    let space = exchange.space();
    space.has_request = true;
    space.request.method = Method::Get;
    space.request.path = Path::parse(b"/").unwrap();
    space.request.headers.add("X-Run", order);
    exchange
}

fn on_worker<T: Send + 'static, F: Future<Output = T> + 'static>(work: impl FnOnce() -> F + Send + 'static) -> T {
    let config = base_runtime::Config { workers: Some(1), ..base_runtime::Config::default() };
    let runtime = base_runtime::Runtime::start(config).unwrap();
    let (sender, done) = std::sync::mpsc::channel();
    runtime.workers()[0].spawn(move || async move {
        let _ = sender.send(work().await);
    });
    done.recv().expect("the task did not panic")
}

fn outcomes(asked: &[(Outcome, u16, String)]) -> Vec<Outcome> {
    asked.iter().map(|(outcome, ..)| *outcome).collect()
}

#[test]
fn what_a_program_returns_is_the_result() {
    let made = made(spec(&guest()));
    let asked = asked(&made.filter, &["0", "1", "9", "a", "t", "0", "x-copied"]);
    let wanted = [SUCCESS, "wasmResult1", "wasmResult9", WASM_ERROR, WASM_ERROR, SUCCESS, SUCCESS];
    assert_eq!(outcomes(&asked), wanted);
    assert_eq!(asked.iter().map(|(_, status, _)| *status).collect::<Vec<_>>(), [200, 200, 200, 503, 503, 200, 200]);
    assert_eq!(asked[6].2, "x-copied");
    let status = made.filter.status().unwrap();
    assert_eq!((&status["numOfRequest"], &status["numOfWasmError"]), (&json!(7), &json!(2)), "{status}");
}

#[test]
fn one_that_loops_or_grows_or_lies_is_ended_and_counted() {
    let spec = WasmHostSpec {
        timeout: base_model::GoDuration::from_millis(300),
        memory_limit_mib: 8,
        max_concurrency: 1,
        ..spec(&guest())
    };
    let made = made(spec);
    let asked = asked(&made.filter, &["l", "0", "g", "0", "o", "0", "l", "0"]);
    let wanted = [WASM_ERROR, SUCCESS, WASM_ERROR, SUCCESS, WASM_ERROR, SUCCESS, WASM_ERROR, SUCCESS];
    assert_eq!(outcomes(&asked), wanted);
    assert_eq!((made.limit("wasm_time"), made.limit("wasm_memory"), made.limit("wasm_vms")), (2, 1, 0));
}

/// What runs without an end, or asks for more than anybody has, in every way that the language knows: each is ended for its reason, and the
/// next request is served as if it had not been.
#[test]
fn hostile_programs_of_every_sort_are_ended_for_their_reason() {
    let imports = r#"(import "easegress" "host_req_get_header" (func $header (param i32) (result i32)))
        (import "easegress" "host_req_set_header" (func $set (param i32 i32)))
        (import "easegress" "host_resp_set_body" (func $body (param i32)))
        (import "easegress" "host_log" (func $log (param i32 i32)))
        (import "easegress" "host_add_tag" (func $tag (param i32)))
        (type $bytes (array i8))
        (type $nothing (func))
        (tag $oops)
        (table $table 2 funcref)"#;
    let deep =
        "(func $deep (param i64 i64) (result i64) (i64.add (local.get 0) (call $deep (local.get 1) (local.get 0))))";
    let again = "(func $again (return_call $again))";
    for (does, reason, told) in [
        // Deep recursion, and one that needs no stack.
        ("(drop (call $deep (i64.const 1) (i64.const 2)))", "trap", "call stack exhausted"),
        ("(call $again)", "time", "not done within"),
        ("(loop $on (call_indirect $table (type $nothing) (i32.const 1)) (br $on))", "trap", "uninitialized element"),
        // Tables, objects and exceptions.
        (
            "(loop $on (br_if $on (i32.ne (table.grow $table (ref.null func) (i32.const 1000)) (i32.const -1)))) (unreachable)",
            "trap",
            "unreachable",
        ),
        ("(loop $on (drop (array.new $bytes (i32.const 7) (i32.const 10000))) (br $on))", "memory", ""),
        ("(drop (array.new $bytes (i32.const 7) (i32.const -1)))", "trap", ""),
        ("(loop $on (block $caught (try_table (catch_all $caught) (throw $oops))) (br $on))", "memory", ""),
        ("(throw $oops)", "trap", ""),
        // What is said to us: lengths that lead out of the memory, or are as large as it is.
        ("(i32.store (i32.const 65536) (i32.const -1)) (call $body (i32.const 65536))", "trap", "leads out"),
        ("(call $body (i32.const -1))", "trap", "leads out"),
        (
            "(i32.store (i32.const 65536) (i32.const 2147483647)) (call $set (i32.const 48) (i32.const 65536))",
            "trap",
            "leads out",
        ),
        ("(i32.store (i32.const 65536) (i32.const 0)) (call $set (i32.const 65536) (i32.const 65536))", "trap", ""),
        ("(call $log (i32.const 9) (i32.const -8))", "trap", "leads out"),
        (
            "(loop $on (call $log (i32.const 0) (i32.const 16)) (call $tag (i32.const 16)) (br $on))",
            "time",
            "not done within",
        ),
        ("(loop $on (drop (call $header (i32.const 16))) (br $on))", "trap", "leads out"),
        ("(memory.fill (i32.const 0) (i32.const 1) (i32.const -1))", "trap", "out of bounds memory access"),
    ] {
        let run = format!(
            "{deep} {again} (func (export \"wasm_run\") (result i32)
               (if (i32.ne (call $order) (i32.const 48)) (then {does})) (i32.const 0))"
        );
        let spec = WasmHostSpec {
            timeout: base_model::GoDuration::from_millis(if reason == "time" { 300 } else { 600_000 }),
            memory_limit_mib: 8,
            max_concurrency: 1,
            ..spec(&module(imports, &run))
        };
        let made = made(spec).tried();
        let asked = asked(&made.filter, &["x", "0", "x", "0"]);
        let status = made.filter.status().unwrap();
        assert_eq!(outcomes(&asked), [WASM_ERROR, SUCCESS, WASM_ERROR, SUCCESS], "{does}: {status}");
        let last = status["lastError"].as_str().unwrap();
        assert!(last.contains(told), "{does}: {last}");
        let host = &made.filter.downcast::<WasmHost>().unwrap().host;
        let at = FAILURES.iter().position(|known| *known == reason).unwrap();
        let counts: Vec<u64> = host.failures.iter().map(|count| count.load(Relaxed)).collect();
        // That a heap of objects is full is a trap of the language where it cannot grow any more.
        let ended = counts[at] + if reason == "memory" { counts[Reason::Trap as usize] } else { 0 };
        assert_eq!((ended, counts.iter().sum::<u64>()), (2, 2), "{does}: {last}");
    }
}

/// What asks for too much before it runs, or for what is not there, is no program; its health says why.
#[test]
fn programs_that_want_too_much_at_once_do_not_run() {
    let run = r#"(func (export "wasm_run") (result i32) (i32.const 0))"#;
    let header = r#"(import "easegress" "host_req_get_header" (func $header (param i32) (result i32)))"#;
    let many: String = (0..2000).map(|n| format!(r#"(import "easegress" "no_{n}" (func))"#)).collect();
    let own = r#"(func (export "wasm_alloc") (param i32) (result i32) (i32.const 0)) (func (export "wasm_free") (param i32))"#;
    for (code, told) in [
        (format!("(module {header} {COMMON} (table 10000000 funcref) {run})"), "table"),
        (format!("(module {many} {header} {COMMON} {run})"), "no_0"),
        (
            format!(
                r#"(module (import "easegress" "host_req_get_header" (func $header (param i64))) (func $order) (memory (export "memory") 1) {own} {run})"#
            ),
            "host_req_get_header",
        ),
        (format!(r#"(module (memory (export "memory") 1 1 shared) {own} {run})"#), "shared"),
        (format!(r#"(module (memory (export "memory") 1) (memory 1) {own} {run})"#), "memor"),
        (format!(r#"(module (memory (export "memory") 60000) {own} {run})"#), "memoryLimitMiB"),
        (
            format!(
                r#"(module (memory (export "memory") 1) (func $loop (loop $on (br $on))) (start $loop) {own} {run})"#
            ),
            "not done within",
        ),
        (
            format!(r#"(module (memory (export "memory") 1) (func $deep (call $deep)) (start $deep) {own} {run})"#),
            "call stack exhausted",
        ),
    ] {
        let made = made(WasmHostSpec { memory_limit_mib: 8, ..spec(&wat::parse_str(&code).unwrap()) }).tried();
        assert_eq!(outcomes(&asked(&made.filter, &["0", "0"])), [OUT_OF_VM, OUT_OF_VM], "{code}");
        let health = made.filter.status().unwrap()["health"].as_str().unwrap().to_owned();
        assert!(health.contains(told), "{code}: {health}");
    }
}

/// `memoryLimitMiB` to the page: 8 MiB are 128 of them, of which each program here begins with two.
#[test]
fn a_program_grows_to_its_bound_and_not_beyond() {
    for (limit, pages, wanted) in [(8, 126, SUCCESS), (8, 127, WASM_ERROR), (9, 127, SUCCESS)] {
        let grows = format!(
            r#"(func (export "wasm_run") (result i32)
                (i32.mul (i32.const 9) (i32.eq (memory.grow (i32.const {pages})) (i32.const -1))))"#
        );
        let header = r#"(import "easegress" "host_req_get_header" (func $header (param i32) (result i32)))"#;
        let made = made(WasmHostSpec { memory_limit_mib: limit, ..spec(&module(header, &grows)) });
        assert_eq!(outcomes(&asked(&made.filter, &["0"])), [wanted], "{limit} MiB, {pages} pages");
        assert_eq!(made.limit("wasm_memory"), u64::from(wanted != SUCCESS));
    }
}

#[test]
fn others_have_their_turn_while_a_program_computes() {
    // So long that it computes still, however busy the machine is, when the others have had their turns.
    let spec = WasmHostSpec { timeout: base_model::GoDuration::from_millis(60_000), ..spec(&guest()) };
    let filter = made(spec).filter;
    let turns = on_worker(move || async move {
        let done = std::rc::Rc::new(std::cell::Cell::new(false));
        let ended = done.clone();
        base_runtime::spawn(async move {
            let mut exchange = request("l");
            if let Step::Wait(future) = filter.handle(&mut exchange) {
                future.await;
            }
            ended.set(true);
        });
        let mut turns = 0;
        while !done.get() && turns < 20 {
            base_runtime::yield_now().await;
            turns += 1;
        }
        (turns, done.get())
    });
    assert_eq!(turns, (20, false), "it ended before others had so many turns");
}

#[test]
fn fail_open_lets_the_request_on_as_it_came() {
    let open = |spec: WasmHostSpec| WasmHostSpec { fail_open: true, ..spec };
    let asked_open = asked(&made(open(spec(&guest()))).filter, &["y-changed", "1", "a"]);
    assert_eq!(outcomes(&asked_open), [SUCCESS, "wasmResult1", SUCCESS]);
    assert_eq!((asked_open[0].1, asked_open[0].2.as_str()), (0, ""), "neither an answer nor a change");
    let missing = WasmHostSpec { code: "/nowhere/at/all.wasm".to_owned(), ..WasmHostSpec::default() };
    assert_eq!(asked(&made(open(missing.clone())).filter, &["1"])[0].0, SUCCESS);
    let closed = made(missing);
    let asked_closed = asked(&closed.filter, &["1"]);
    assert_eq!((asked_closed[0].0, asked_closed[0].1), (OUT_OF_VM, 503));
    assert!(closed.filter.status().unwrap()["health"].as_str().unwrap().contains("cannot be read"));
}

#[test]
fn what_cannot_run_is_told() {
    let unknown = module(
        r#"(import "easegress" "host_nosuch" (func))
        (import "easegress" "host_req_get_header" (func $header (param i32) (result i32)))"#,
        r#"(func (export "wasm_run") (result i32) (i32.const 0))"#,
    );
    for (code, told) in [
        (&b"\0asm\x01\0\0\0"[..], "exports no memory"),
        (&b"\0asm\x01\0\0\0rubbish"[..], "cannot be compiled"),
        (&unknown[..], "host_nosuch"),
    ] {
        let made = made(spec(code));
        assert_eq!(asked(&made.filter, &["0"])[0].0, OUT_OF_VM);
        let health = made.filter.status().unwrap()["health"].as_str().unwrap().to_owned();
        assert!(health.contains(told), "{health}");
    }
}

/// Puts a parameter's value into `X-Out`: the second string of the list.
#[test]
fn parameters_are_told_at_the_start() {
    let code = module(
        r#"(import "easegress" "host_req_get_header" (func $header (param i32) (result i32)))
        (import "easegress" "host_req_set_header" (func $set (param i32 i32)))"#,
        r#"(global $list (mut i32) (i32.const 0))
        (func (export "wasm_init") (param i32) (global.set $list (local.get 0)))
        (func (export "wasm_run") (result i32)
          (local $first i32)
          (local.set $first (i32.add (global.get $list) (i32.const 4)))
          (call $set (i32.const 48) (i32.add (i32.add (local.get $first) (i32.const 4)) (i32.load (local.get $first))))
          (i32.sub (i32.load (global.get $list)) (i32.const 4)))"#,
    );
    let parameters = [("b".to_owned(), json!(0.4)), ("a".to_owned(), json!("first"))].into();
    let made = made(WasmHostSpec { parameters, ..spec(&code) });
    assert_eq!(asked(&made.filter, &["0"]), [(SUCCESS, 200, "first".to_owned())]);
}

fn returns(code: i32) -> Vec<u8> {
    let import = r#"(import "easegress" "host_req_get_header" (func $header (param i32) (result i32)))"#;
    module(import, &format!("(func (export \"wasm_run\") (result i32) (i32.const {code}))"))
}

#[test]
fn code_is_read_again_and_bad_code_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guest.wasm");
    let write = |bytes: &[u8]| {
        std::fs::write(path.with_extension("new"), bytes).unwrap();
        std::fs::rename(path.with_extension("new"), &path).unwrap();
    };
    write(&returns(1));
    let spec = WasmHostSpec { code: path.to_str().unwrap().to_owned(), ..WasmHostSpec::default() };
    let made = made(spec.clone());
    let until = |wanted: Outcome| {
        let end = Instant::now() + Duration::from_secs(20);
        while asked(&made.filter, &["0"])[0].0 != wanted {
            assert!(Instant::now() < end, "no {wanted} in 20 s");
        }
    };
    until("wasmResult1");
    write(&returns(2));
    assert_eq!(asked(&made.filter, &["0"])[0].0, "wasmResult1", "nobody asked for it yet");
    crate::reload();
    until("wasmResult2");
    write(b"no program at all");
    crate::reload();
    let end = Instant::now() + Duration::from_secs(20);
    while made.filter.status().unwrap()["health"] == "" {
        assert!(Instant::now() < end, "the failure is not told in 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(asked(&made.filter, &["0"])[0].0, "wasmResult2");
    // A document that says the same keeps its VMs, one that says something else its program.
    let vms = |filter: &Arc<dyn Filter>| filter.downcast::<WasmHost>().unwrap().host.vms.load(Relaxed);
    // A request that came while one was brought for it has made another.
    let before = vms(&made.filter);
    let same = build(spec.clone(), Some(&*made.filter), &made.telemetry);
    assert_eq!(vms(&same), before);
    let other = build(WasmHostSpec { max_concurrency: 3, ..spec }, Some(&*made.filter), &made.telemetry);
    assert_eq!((vms(&other), asked(&other, &["0"])[0].0), (1, "wasmResult2"), "one was started to see that it does");
}

/// Adds 1 to `n`, which takes the time of somebody else, and returns what is there then.
fn adder() -> Vec<u8> {
    module(
        r#"(import "easegress" "host_req_get_header" (func $header (param i32) (result i32)))
        (import "easegress" "host_cluster_add_integer" (func $add (param i32 i64) (result i64)))"#,
        r#"(func (export "wasm_run") (result i32)
            (drop (call $order))
            (i32.wrap_i64 (call $add (i32.const 80) (i64.const 1))))"#,
    )
}

/// A cluster of one thread: it answers when it is told to.
struct Cluster {
    writes: Mutex<Vec<crate::shared::Write>>,
    sum: AtomicU64,
}

impl crate::shared::Writer for Cluster {
    fn write(&self, write: crate::shared::Write) -> Result<(), crate::shared::Write> {
        lock(&self.writes).push(write);
        Ok(())
    }
}

impl Cluster {
    fn answer_all(&self) {
        for write in lock(&self.writes).drain(..) {
            let sum = self.sum.fetch_add(1, Relaxed) + 1;
            let _ = write.answer.try_send(Ok(sum.to_string().into_bytes()));
        }
    }
}

#[test]
fn requests_wait_for_the_cluster_and_for_vms_and_nobody_is_lost() {
    let cluster = Arc::new(Cluster { writes: Mutex::default(), sum: AtomicU64::new(0) });
    crate::shared::write_with(cluster.clone());
    let timeout = base_model::GoDuration::from_millis(10_000);
    let filter = made(WasmHostSpec { max_concurrency: 2, timeout, ..spec(&adder()) }).filter;
    let (outcomes, most) = on_worker(move || async move {
        let outcomes = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let mut tasks = Vec::new();
        for _ in 0..6 {
            let (filter, outcomes) = (filter.clone(), outcomes.clone());
            tasks.push(base_runtime::spawn(async move {
                let mut exchange = request("0");
                if let Step::Wait(future) = filter.handle(&mut exchange) {
                    let outcome = future.await;
                    outcomes.borrow_mut().push(outcome);
                }
            }));
        }
        // The first is given up while it waits for the cluster, the fourth while it waits for a VM.
        while lock(&cluster.writes).len() < 2 {
            base_runtime::yield_now().await;
        }
        tasks[0].abort();
        tasks[3].abort();
        let mut most = 0;
        while outcomes.borrow().len() < 4 {
            most = most.max(lock(&cluster.writes).len());
            cluster.answer_all();
            base_runtime::yield_now().await;
        }
        (outcomes.take(), most)
    });
    assert!(most <= 3, "two at a time, and the one that was given up: {most}");
    assert!(outcomes.iter().all(|outcome| outcome.starts_with("wasmResult")), "{}", outcomes.join(" "));
}

/// What `wasm_alloc` asks for would have to be given through `wasm_alloc`.
#[test]
fn one_that_asks_within_its_allocator_is_ended() {
    let code = wat::parse_str(
        r#"(module
          (import "easegress" "host_req_get_method" (func $method (result i32)))
          (memory (export "memory") 1)
          (func (export "wasm_alloc") (param i32) (result i32) (call $method))
          (func (export "wasm_free") (param i32))
          (func (export "wasm_run") (result i32) (drop (call $method)) (i32.const 0)))"#,
    );
    let made = made(spec(&code.unwrap()));
    assert_eq!(outcomes(&asked(&made.filter, &["0"])), [WASM_ERROR]);
    let status = made.filter.status().unwrap();
    assert!(status["lastError"].as_str().unwrap().contains("or within it"), "{status}");
}

#[test]
fn one_that_sets_headers_without_end_is_ended() {
    let code = module(
        r#"(import "easegress" "host_req_get_header" (func $header (param i32) (result i32)))
        (import "easegress" "host_req_add_header" (func $add (param i32 i32)))"#,
        r#"(func (export "wasm_run") (result i32)
            (local $left i32)
            (drop (call $order))
            (i32.store (i32.const 65536) (i32.const 60000))
            (memory.fill (i32.const 65540) (i32.const 97) (i32.const 59999))
            (local.set $left (i32.const 1000))
            (loop $on
              (call $add (i32.const 48) (i32.const 65536))
              (local.set $left (i32.sub (local.get $left) (i32.const 1)))
              (br_if $on (local.get $left)))
            (i32.const 0))"#,
    );
    let timeout = base_model::GoDuration::from_millis(60_000);
    let made = made(WasmHostSpec { timeout, fail_open: true, ..spec(&code) });
    assert_eq!(asked(&made.filter, &["0"]), [(SUCCESS, 0, String::new())]);
    let status = made.filter.status().unwrap();
    assert!(status["lastError"].as_str().unwrap().contains("1048576 bytes"), "{status}");
}

/// A URL that hangs, a pipe that nobody writes into and a device without an end: the program in a document is there at once.
#[test]
fn code_that_hangs_keeps_no_other_waiting() {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    crate::fetch_with(Box::new(move |_, _| {
        let _ = lock(&held).recv();
        Err("it hung".to_owned())
    }));
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let source = |code: Code| {
        let source = Source::new(code, Breed { dialect: Dialect::Easegress, metered: false }, None);
        source.load();
        source
    };
    let url = source(Code::Url("http://hangs.test/a.wasm".to_owned()));
    let others = [pipe.to_str().unwrap(), "/dev/zero", "/"].map(|path| source(Code::File(path.to_owned())));
    let inline = source(Code::Inline(returns(4)));
    inline.tried(Duration::from_secs(60));
    assert!(inline.program().is_some());
    assert_eq!((url.error(), url.program().is_some()), (None, false), "it hangs still");
    for other in others {
        other.tried(Duration::from_secs(60));
        assert!(other.error().is_some_and(|why| why.contains("not a file")));
    }
    drop(hold);
    url.tried(Duration::from_secs(60));
    assert_eq!(url.error().as_deref(), Some("it hung"));
}

/// Who waits for a VM is served before who comes when it has become free, and before the one in the queue could look.
#[test]
fn vms_are_given_in_order() {
    let filter = made(WasmHostSpec { max_concurrency: 1, ..spec(&guest()) }).filter;
    let order = on_worker(move || async move {
        let host = filter.downcast::<WasmHost>().unwrap().host.clone();
        let program = host.source.program().unwrap();
        let order = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let mut first = host.seat(&program).await;
        let come = |name: &'static str| {
            let (host, program, order) = (host.clone(), program.clone(), order.clone());
            base_runtime::spawn(async move {
                let seat = host.seat(&program).await;
                order.borrow_mut().push(name);
                drop(seat);
            })
        };
        let _second = come("second");
        let given_up = come("given up");
        let _third = come("third");
        while host.waits.load(Relaxed) < 3 {
            base_runtime::yield_now().await;
        }
        given_up.abort();
        drop(first.take());
        // Comes now, and looks at once.
        let late = host.seat(&program).await;
        order.borrow_mut().push("late");
        drop(late);
        while host.waits.load(Relaxed) > 0 {
            base_runtime::yield_now().await;
        }
        order.take()
    });
    assert_eq!(order, ["second", "third", "late"]);
}

/// Its beginning never ends: that is found before requests come, and costs none of them anything.
#[test]
fn one_that_does_not_start_is_started_once() {
    let looping = |name: &str| {
        let text = format!(
            r#"(module
              (memory (export "memory") 1)
              (func (export "wasm_alloc") (param i32) (result i32) (i32.const 1024))
              (func (export "wasm_run") (result i32) (i32.const 0))
              (func $begin {name} (loop $on (br $on)))
              {})"#,
            if name.is_empty() { "(start $begin)" } else { "" }
        );
        wat::parse_str(text).unwrap()
    };
    for name in ["", "(export \"_initialize\")", "(export \"wasm_init\") (param i32)"] {
        let made = made(spec(&looping(name)));
        let host = &made.filter.downcast::<WasmHost>().unwrap().host;
        host.source.tried(Duration::from_secs(60));
        let asked = asked(&made.filter, &["0"; 20]);
        assert!(asked.iter().all(|(outcome, status, _)| (*outcome, *status) == (OUT_OF_VM, 503)));
        let health = made.filter.status().unwrap()["health"].as_str().unwrap().to_owned();
        assert!(health.contains("does not start: not done within 1s"), "{health}");
        assert_eq!((host.starts.load(Relaxed), made.limit("wasm_time")), (1, 1));
    }
}

/// The new program does not start: requests go on with the old one.
#[test]
fn one_that_does_not_start_takes_no_others_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guest.wasm");
    std::fs::write(&path, returns(1)).unwrap();
    let spec = WasmHostSpec { code: path.to_str().unwrap().to_owned(), ..WasmHostSpec::default() };
    let made = made(spec);
    assert_eq!(asked(&made.filter, &["0"])[0].0, "wasmResult1");
    let import = r#"(import "easegress" "host_req_get_header" (func $header (param i32) (result i32)))"#;
    let traps = "(func (export \"wasm_run\") (result i32) (i32.const 2)) (func $t (unreachable)) (start $t)";
    std::fs::write(&path, module(import, traps)).unwrap();
    crate::reload();
    let end = Instant::now() + Duration::from_secs(20);
    while !made.filter.status().unwrap()["health"].as_str().unwrap().contains("does not start") {
        assert!(Instant::now() < end, "the failure is not told in 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(asked(&made.filter, &["0"])[0].0, "wasmResult1");
}

#[test]
fn what_a_program_does_is_counted_where_fuel_says_so() {
    let timeout = base_model::GoDuration::from_millis(60_000);
    let made = made(WasmHostSpec { fuel: 100_000, timeout, ..spec(&guest()) });
    assert_eq!(outcomes(&asked(&made.filter, &["1", "l", "2"])), ["wasmResult1", WASM_ERROR, "wasmResult2"]);
    assert_eq!((made.limit("wasm_fuel"), made.limit("wasm_time")), (1, 0));
}

/// Five pieces, together larger than what is gathered.
struct Large(usize);

impl edge_pipeline::BodyStream for Large {
    fn poll_piece(
        &mut self,
        _: &mut std::task::Context<'_>,
        _: edge_pipeline::Sight,
    ) -> Poll<Result<Option<edge_pipeline::Piece>, BodyError>> {
        self.0 += 1;
        let piece = bytes::Bytes::from(vec![b'x'; 1 << 20]);
        Poll::Ready(Ok((self.0 <= 5).then_some(edge_pipeline::Piece::Bytes(piece))))
    }

    fn remaining(&self) -> Option<u64> {
        None
    }
}

#[test]
fn fail_open_covers_bodies_that_are_too_large() {
    let reader = module(
        r#"(import "easegress" "host_req_get_header" (func $header (param i32) (result i32)))
        (import "easegress" "host_req_get_body" (func $body (result i32)))
        (import "easegress" "host_resp_get_body" (func $answer (result i32)))"#,
        r#"(func (export "wasm_run") (result i32) (i32.const 7))"#,
    );
    for of_request in [true, false] {
        for fail_open in [true, false] {
            let made = made(WasmHostSpec { fail_open, ..spec(&reader) });
            let filter = made.filter.clone();
            let (outcome, status, left) = on_worker(move || async move {
                let mut exchange = request("0");
                let body = Body::Stream(Box::new(Large(0)));
                let space = exchange.space();
                if of_request {
                    space.request_body = body;
                } else {
                    space.respond(Response::with_status(200), body);
                }
                let Step::Wait(future) = filter.handle(&mut exchange) else { panic!("it gathers") };
                let outcome = future.await;
                let space = exchange.space();
                let status = space.response.as_ref().map_or(0, |response| response.status);
                let body = if of_request { &mut space.request_body } else { &mut space.response_body };
                (outcome, status, std::mem::take(body).collect(u64::MAX).await.unwrap().len())
            });
            let wanted = match (fail_open, of_request) {
                (true, true) => (SUCCESS, 0, 5 << 20),
                (true, false) => (SUCCESS, 200, 5 << 20),
                (false, true) => (WASM_ERROR, 413, 0),
                (false, false) => (WASM_ERROR, 500, 0),
            };
            assert_eq!((outcome, status, left), wanted);
            assert_eq!(made.limit("wasm_body"), 1);
            assert_eq!(made.filter.status().unwrap()["numOfWasmError"], 1);
        }
    }
}
