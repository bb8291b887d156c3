//! The same filter, byte for byte, in Envoy and here: what comes of the same requests is the same.

use crate::authentication::Service;
use crate::leash::Leashed;
use crate::parts;
use crate::world::{Connection, Machine, answers, free_port, server, within};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What the filter does to a request, told by a field: changes of fields, an answer of its own, a queue, data with versions, a call, a wait
/// for a tick, and what it is configured with.
const ORDERS: [&str; 10] = ["add", "edit", "refuse", "none", "queue", "data", "data", "call", "wait", "is"];

/// Status, what the filter and an answer of its own say in fields, and the body: what the backend was asked.
type Told = (u16, Vec<String>, String);

fn ask(port: u16, order: &str) -> Told {
    let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
    let answer = connection.request("POST", "/old", &[("X-Run", order)], "").unwrap();
    let head = answer.head.to_ascii_lowercase();
    let fields = head.lines().filter(|line| line.starts_with("x-back:") || line.starts_with("content-type:"));
    let mut fields: Vec<String> = fields.map(str::to_owned).collect();
    fields.sort();
    (answer.status, fields, answer.body)
}

#[test]
fn a_filter_does_here_what_it_does_in_envoy() {
    const GUEST: &str = include_str!("../../../edge-wasm/src/proxy_wasm/guest.wat");
    let Some(envoy) = parts::envoy() else { return };
    let backend = Service::start(|asked| {
        if asked.target == "/ask" {
            return Some((203, String::new(), "welcome".to_owned()));
        }
        let head = asked.head.to_ascii_lowercase();
        let fields = head.lines().filter(|line| line.starts_with("x-out:") || line.starts_with("x-run:"));
        let mut fields: Vec<&str> = fields.collect();
        fields.sort_unstable();
        let first = asked.head.lines().next().unwrap_or_default();
        Some((200, "Content-Type: text/x-test\r\n".to_owned(), format!("{first} {}", fields.join(","))))
    });
    // Bodies are shown to a filter in pieces there, and whole here; and there their length is the filter's to care for.
    let guest = ["request", "response"].iter().fold(GUEST.to_owned(), |guest, side| {
        let export = format!("(export \"proxy_on_{side}_body\")");
        assert!(guest.contains(&export));
        guest.replace(&export, "")
    });
    let machine = Machine::start();
    let program = machine.directory.join("plugin.wasm");
    std::fs::write(&program, wat::parse_str(guest).unwrap()).unwrap();
    let (here, there, url) = (free_port(), free_port(), backend.url());
    machine.create(&format!(
        "name: pl\nkind: Pipeline\nfilters:\n- {{name: plugin, kind: ProxyWasm, code: {}, timeout: 5s, rootId: second, vmConfiguration: vmconf, \
         configuration: tick, upstreams: {{auth: '{url}'}}}}\n- {{name: proxy, kind: Proxy, pools: [{{servers: [{{url: '{url}'}}]}}]}}\n",
        program.display()
    ));
    machine.create(&server("hs", here, "pl"));
    answers(here, "/", 200);
    let config = machine.directory.join("envoy.yaml");
    std::fs::write(&config, document(there, backend.port, &program.display().to_string())).unwrap();
    let mut command = Command::new(envoy);
    command.arg("-c").arg(&config).args(["--concurrency", "1", "--disable-hot-restart", "-l", "error"]);
    let log = std::fs::File::create(machine.directory.join("envoy.log")).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let _envoy = Leashed::start(&mut command).unwrap();
    let open = || Connection::open(&format!("127.0.0.1:{there}")).ok();
    if within(Duration::from_secs(60), open).is_none() {
        panic!("Envoy does not start: {}", std::fs::read_to_string(machine.directory.join("envoy.log")).unwrap());
    }
    for order in ORDERS {
        let (ours, theirs) = (ask(here, order), ask(there, order));
        assert_eq!(ours, theirs, "{order}: ours, and Envoy's");
        assert!(ours.0 == 200 && ours.2.starts_with("POST /") || order == "refuse" && ours.0 == 403, "{ours:?}");
    }
}

fn document(port: u16, backend: u16, program: &str) -> String {
    let at = |port: u16| format!("{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}");
    let cluster = |name: &str| {
        format!(
            "{{name: {name}, type: STATIC, connect_timeout: 5s, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: \
             [{{endpoint: {{address: {}}}}}]}}]}}}}",
            at(backend)
        )
    };
    let text = |text: &str| format!("{{'@type': type.googleapis.com/google.protobuf.StringValue, value: '{text}'}}");
    let filters = "type.googleapis.com/envoy.extensions.filters";
    format!(
        "static_resources:\n  listeners:\n  - address: {}\n    filter_chains:\n    - filters:\n      - name: http\n        typed_config:\n          \
         '@type': {filters}.network.http_connection_manager.v3.HttpConnectionManager\n          stat_prefix: s\n          route_config: \
         {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: up}}}}]}}]}}\n          \
         http_filters:\n          - name: wasm\n            typed_config:\n              '@type': {filters}.http.wasm.v3.Wasm\n              \
         config: {{root_id: second, configuration: {}, vm_config: {{runtime: envoy.wasm.runtime.v8, configuration: {}, code: {{local: \
         {{filename: '{program}'}}}}}}}}\n          - name: router\n            typed_config: {{'@type': \
         {filters}.http.router.v3.Router}}\n  clusters: [{}, {}]\n",
        at(port),
        text("tick"),
        text("vmconf"),
        cluster("up"),
        cluster("auth")
    )
}
