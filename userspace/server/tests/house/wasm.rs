//! Programs of the users' own: the flash sale of Easegress's cookbook, step by step, and programs that change under load.

use crate::parts;
use crate::world::{Answer, Connection, Machine, answers, eventually, free_port, server, weirctl};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// The cookbook's pipeline, with a start, a part of requests that is turned away, and a number of buyers.
fn sale(program: &Path, start: u64, block: &str, most: u32) -> String {
    format!(
        r#"
name: flash-sale-pipeline
kind: Pipeline
flow:
- filter: wasm
- filter: mock
filters:
- name: wasm
  kind: WasmHost
  maxConcurrency: 2
  code: {}
  timeout: 5s
  parameters:
    startTime: "{start}"
    blockRatio: "{block}"
    maxPermission: "{most}"
- name: mock
  kind: Mock
  rules:
  - body: "You can buy the laptop for $1 now."
    code: 200
"#,
        program.display()
    )
}

const SHOP: &str = "You can buy the laptop for $1 now.";

fn asked(port: u16, user: &str) -> Answer {
    let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
    connection.request("GET", "/flashsale", &[("Authorization", user)], "").unwrap()
}

fn told(port: u16, user: &str) -> String {
    let answer = asked(port, user);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

#[test]
fn the_flash_sale_of_the_cookbook() {
    let machine = Machine::start();
    let port = free_port();
    let program = machine.directory.join("flash-sale.wasm");
    std::fs::write(&program, wat::parse_str(include_str!("flash_sale.wat")).unwrap()).unwrap();
    machine.create(&sale(&program, 4_000_000_000_000, "0", 3));
    machine.create(&server("flash-sale", port, "flash-sale-pipeline"));
    assert_eq!(answers(port, "/flashsale", 200).body, "not start yet.");

    // It has begun, and everybody is turned away.
    machine.update("flash-sale-pipeline", &sale(&program, 1, "1", 3));
    eventually("the sale begins", || (told(port, "user1") == "sold out.").then_some(()));
    // Nobody is, up to three.
    machine.update("flash-sale-pipeline", &sale(&program, 1, "0", 3));
    eventually("users are let in", || (told(port, "user1") == SHOP).then_some(()));
    let users: Vec<String> = (1..=5).map(|n| told(port, &format!("user{n}"))).collect();
    assert_eq!(users, [SHOP, SHOP, SHOP, "sold out.", "sold out."]);
    // Lucky once, lucky always, whatever is drawn now, and also after a restart of the machine.
    let mut machine = machine;
    machine.update("flash-sale-pipeline", &sale(&program, 1, "1", 3));
    eventually("the last change is in force", || (told(port, "user4") == "sold out.").then_some(()));
    assert_eq!((told(port, "user1"), told(port, "user3")), (SHOP.to_owned(), SHOP.to_owned()));
    machine.kill();
    machine.run();
    eventually("it serves again", || (told(port, "user2") == SHOP).then_some(()));

    // What they share is shown and changed from outside.
    let path = "/wasm/data/flash-sale-pipeline/wasm";
    let data = machine.json(path);
    assert_eq!(data, serde_json::json!({"id/user1": "true", "id/user2": "true", "id/user3": "true"}));
    assert_eq!(machine.api("PUT", path, "id/user9: true\nstock: 12\n").status, 200);
    assert_eq!(machine.json(path)["stock"], "12");
    eventually("the new user is let in", || (told(port, "user9") == SHOP).then_some(()));
    assert_eq!(machine.json("/customdatakinds"), serde_json::json!([]), "they are nobody's own data");
    assert_eq!(machine.api("PUT", path, "a: [1]").status, 400);
    assert_eq!(machine.api("DELETE", path, "").status, 200);
    eventually("everything is forgotten", || (told(port, "user1") == "sold out.").then_some(()));
    assert_eq!(machine.json(path), serde_json::json!({}));
    let Some(weirctl) = weirctl() else { return };
    let run = |arguments: &[&str]| {
        let api = format!("127.0.0.1:{}", machine.api);
        let done = Command::new(&weirctl).args(["--server", &api, "wasm"]).args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let file = machine.directory.join("data.yaml");
    std::fs::write(&file, "id/user7: 'true'\n").unwrap();
    run(&["apply-data", "flash-sale-pipeline", "wasm", "-f", file.to_str().unwrap()]);
    assert!(run(&["list-data", "flash-sale-pipeline", "wasm"]).contains("id/user7"));
    run(&["delete-data", "flash-sale-pipeline", "wasm"]);
    assert!(!run(&["list-data", "flash-sale-pipeline", "wasm"]).contains("user7"));
    run(&["reload-code"]);
    // Whoever misspells a name is told so, and what is given for one to come is kept with a remark.
    for name in ["flash-sale-pipeline/wasn", "flash-sale/wasm"] {
        let (path, is_known) = (format!("/wasm/data/{name}"), |answer: &Answer| answer.body.contains("no pipeline"));
        let (read, gone) = (machine.api("GET", &path, ""), machine.api("DELETE", &path, ""));
        assert!((read.status, gone.status) == (404, 404) && is_known(&read) && is_known(&gone), "{read:?} {gone:?}");
        let early = machine.api("PUT", &path, "a: b\n");
        assert!(early.status == 200 && early.head.contains("no such WasmHost yet"), "{early:?}");
        assert_eq!(machine.json(&path)["a"], "b");
    }
}

/// A program that answers with its number.
fn numbered(number: u32) -> Vec<u8> {
    let text = format!(
        r#"(module
          (import "easegress" "host_resp_set_body" (func $body (param i32)))
          (memory (export "memory") 1)
          (data (i32.const 16) "\08\00\00\00{number:08}")
          (func (export "wasm_alloc") (param i32) (result i32) (i32.const 1024))
          (func (export "wasm_free") (param i32))
          (func (export "wasm_run") (result i32) (call $body (i32.const 16)) (i32.const 0)))"#
    );
    wat::parse_str(text).unwrap()
}

#[test]
fn a_program_that_changes_under_load_loses_no_request() {
    let machine = Machine::start();
    let port = free_port();
    let program = machine.directory.join("program.wasm");
    let write = |number| {
        std::fs::write(program.with_extension("new"), numbered(number)).unwrap();
        std::fs::rename(program.with_extension("new"), &program).unwrap();
    };
    write(0);
    let pipeline =
        format!("name: pl\nkind: Pipeline\nfilters:\n- name: w\n  kind: WasmHost\n  code: {}\n", program.display());
    machine.create(&pipeline);
    machine.create(&server("hs", port, "pl"));
    assert_eq!(answers(port, "/", 200).body, "00000000");
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (stop, served) = (stop.clone(), served.clone());
            thread::spawn(move || {
                let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let answer = connection.request("GET", "/", &[], "").expect("the connection stays open");
                    assert_eq!((answer.status, answer.body.len()), (200, 8), "{answer:?}");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for number in 1..=10 {
        write(number);
        assert_eq!(machine.api("POST", "/wasm/code", "").status, 200);
        let wanted = format!("{number:08}");
        eventually("the new program answers", || (answers(port, "/", 200).body == wanted).then_some(()));
    }
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("no request failed"));
    assert!(served.load(Ordering::Relaxed) > 100);
    assert_eq!(machine.metric("weir_wasm_failures_total"), Some(0.0));
    assert!(machine.metric("weir_wasm_requests_total") > Some(100.0));
}

/// What the filter's program was told by the service it calls, in the request that goes on.
fn envoys(program: &Path, auth: u16) -> String {
    format!(
        r#"
name: pl
kind: Pipeline
filters:
- name: plugin
  kind: ProxyWasm
  code: {}
  timeout: 5s
  upstreams: {{auth: "http://127.0.0.1:{auth}"}}
- name: echo
  kind: Script
  timeout: 1s
  script: |
    for value in req.Header.Values("X-Out") {{ resp.Header.Add("X-Told", value); }}
    resp.StatusCode = 200;
    resp.Body = "shop";
"#,
        program.display()
    )
}

#[test]
fn a_filter_of_envoy_calls_a_service_and_changes_under_load() {
    const GUEST: &str = include_str!("../../../edge-wasm/src/proxy_wasm/guest.wat");
    let machine = Machine::start();
    let (port, auth) = (free_port(), free_port());
    let program = machine.directory.join("plugin.wasm");
    let write = |mark: &str| {
        let text = GUEST.replace("\"seen\"", &format!("\"{mark}\""));
        std::fs::write(program.with_extension("new"), wat::parse_str(text).unwrap()).unwrap();
        std::fs::rename(program.with_extension("new"), &program).unwrap();
    };
    write("mark");
    let service =
        "name: auth\nkind: Pipeline\nfilters:\n- name: m\n  kind: Mock\n  rules:\n  - code: 203\n    body: welcome\n";
    machine.create(service);
    machine.create(&server("auth-server", auth, "auth"));
    assert_eq!(answers(auth, "/", 203).body, "welcome");
    machine.create(&envoys(&program, auth));
    machine.create(&server("hs", port, "pl"));
    assert_eq!(answers(port, "/", 200).body, "shopmark");
    // While it was compiled there was none to run.
    let failures = machine.metric("weir_proxy_wasm_failures_total").unwrap();
    let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
    let mut run = |order: &str| connection.request("POST", "/", &[("X-Run", order)], "text").unwrap();
    let answer = run("call");
    assert_eq!((answer.status, answer.body.as_str()), (200, "shopmark"));
    let told: Vec<&str> = answer.head.lines().filter_map(|line| line.strip_prefix("X-Told: ")).collect();
    assert_eq!(told, ["203", "welcome"]);
    assert_eq!((run("refuse").status, run("trap").status, run("add").status), (403, 503, 200));
    assert_eq!(machine.metric("weir_proxy_wasm_failures_total"), Some(failures + 1.0));

    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (stop, served) = (stop.clone(), served.clone());
            thread::spawn(move || {
                let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let answer =
                        connection.request("GET", "/", &[("X-Run", "call")], "").expect("the connection stays open");
                    assert_eq!((answer.status, answer.body.len()), (200, 8), "{answer:?}");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for number in 0..5 {
        let mark = format!("new{number}");
        write(&mark);
        assert_eq!(machine.api("POST", "/wasm/code", "").status, 200);
        let wanted = format!("shop{mark}");
        eventually("the new program answers", || (answers(port, "/", 200).body == wanted).then_some(()));
    }
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("no request failed"));
    assert!(served.load(Ordering::Relaxed) > 20);
    assert_eq!(machine.metric("weir_proxy_wasm_failures_total"), Some(failures + 1.0));
    assert!(machine.metric("weir_proxy_wasm_counter_total") > Some(20.0), "what the program counts outlives it");
}

/// Compiles a program of `guests`.
fn compiled(name: &str, machine: &Machine) -> Option<PathBuf> {
    let (compiler, folder) = parts::rust_for_wasm()?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/house/guests").join(name).with_extension("rs");
    let program = machine.directory.join(name).with_extension("wasm");
    let mut command = Command::new(compiler);
    command.args([
        "--edition",
        "2021",
        "--target",
        "wasm32-unknown-unknown",
        "-O",
        "-C",
        "link-arg=--strip-all",
        "--sysroot",
    ]);
    command.arg(&folder).arg("-C").arg(format!("linker={}", folder.join("bin/wasm-ld-14").display()));
    command.arg(source).arg("-o").arg(&program).env("LD_LIBRARY_PATH", folder.join("lib/x86_64-linux-gnu"));
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Some(program)
}

#[test]
fn programs_in_rust_run_for_both_kinds() {
    let machine = Machine::start();
    let Some(counting) = compiled("counting", &machine) else { return };
    let Some(greeting) = compiled("greeting", &machine) else { return };
    let echo =
        "kind: Script, timeout: 1s, script: 'resp.StatusCode = 200; resp.Body = req.Header.Get(\"X-Greeting\");'";
    let (shop, door) = (free_port(), free_port());
    machine.create(&format!(
        "name: counts\nkind: Pipeline\nfilters:\n- {{name: w, kind: WasmHost, timeout: 5s, code: {}, parameters: {{most: '2'}}}}\n- {{name: m, kind: \
         Mock, rules: [{{code: 200, body: shop}}]}}\n",
        counting.display()
    ));
    machine.create(&format!(
        "name: greets\nkind: Pipeline\nfilters:\n- {{name: p, kind: ProxyWasm, timeout: 5s, code: {}, configuration: Welcome}}\n- {{name: e, {echo}}}\n",
        greeting.display()
    ));
    machine.create(&server("shop", shop, "counts"));
    machine.create(&server("door", door, "greets"));
    let ask = |port: u16, name: &str| {
        let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
        let fields = if name.is_empty() { vec![] } else { vec![("X-Name", name)] };
        let answer = connection.request("GET", "/", &fields, "").unwrap();
        let greeted = answer.head.lines().find_map(|line| line.strip_prefix("x-greeted: ")).map(str::to_owned);
        (answer.status, answer.body, greeted)
    };
    for port in [shop, door] {
        eventually("it listens", || Connection::open(&format!("127.0.0.1:{port}")).ok());
    }
    // Compiled without optimisation here, which takes a while.
    eventually("both programs are there", || (ask(shop, "x").0 != 503 && ask(door, "x").0 != 503).then_some(()));
    let counted: Vec<_> = (0..3).map(|_| ask(shop, "ann")).map(|(status, body, _)| (status, body)).collect();
    assert_eq!(counted, [(200, "shop".to_owned()), (200, "shop".to_owned()), (429, "ann is number 3".to_owned())]);
    assert_eq!(ask(door, "ann"), (200, "Welcome, ann".to_owned(), Some("ann".to_owned())));
    assert_eq!(ask(door, ""), (400, "who is it?".to_owned(), None));
    // One that panics is ended, and the next request finds another.
    assert_eq!((ask(shop, "nobody").0, ask(door, "nobody").0), (503, 503));
    assert_eq!((ask(shop, "bob").0, ask(door, "bob").1.as_str()), (200, "Welcome, bob"));
}
