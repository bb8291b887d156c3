//! Servers that are asked whether they are well, as a machine serves: what is asked of whom, where it shows, and that a change of a
//! document forgets nothing.

use crate::world::{Backend, Machine, answers, eventually, free_port, server};
use serde_json::{Value, json};
use std::net::UdpSocket;
use std::thread;

/// What the first pool of an object's status says of a server: whether it is well, and what it was asked.
fn shown(servers: &Value, port: u16) -> Option<(bool, String)> {
    let url = format!(":{port}");
    let found = servers.as_array()?.iter().find(|server| server["url"].as_str().is_some_and(|u| u.ends_with(&url)))?;
    let check = &found["checks"][0];
    let asked = check["passed"].as_u64()? + check["failed"].as_u64()? > 0;
    asked.then(|| Some((found["healthy"].as_bool()?, check["type"].as_str()?.to_owned())))?
}

/// A Proxy, GRPCProxy, WebSocketProxy, TCPProxy and UDPProxy each ask their servers what those speak.
#[test]
fn servers_of_all_kinds_are_asked() {
    let (machine, backend, dead) = (Machine::start(), Backend::start("one"), free_port());
    let live = backend.port;
    let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
    let names = echo.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((n, from)) = echo.recv_from(&mut buffer) {
            let _ = echo.send_to(&buffer[..n], from);
        }
    });
    let check = "healthCheck: {interval: 50ms, timeout: 2s}";
    let pool = |scheme: &str, check: &str| {
        format!(
            "pools: [{{servers: [{{url: '{scheme}://127.0.0.1:{live}'}}, {{url: '{scheme}://127.0.0.1:{dead}'}}], {check}}}]"
        )
    };
    machine.create(&format!(
        "kind: Pipeline\nname: all\nflow: [{{filter: web}}, {{filter: END}}, {{filter: calls}}, {{filter: chat}}]\nfilters:\n- {{kind: Proxy, name: web, {}}}\n- {{kind: GRPCProxy, name: calls, {}}}\n\
         - {{kind: WebSocketProxy, name: chat, {}}}\n",
        pool("http", check),
        pool("http", check),
        pool("ws", "healthCheck: {interval: 50ms, ws: {uri: /chat}}"),
    ));
    let (web, relay, udp) = (free_port(), free_port(), free_port());
    machine.create(&server("front", web, "all"));
    machine.create(&format!("kind: TCPProxy\nname: relay\nport: {relay}\n{}\n", pool("tcp", check)));
    machine.create(&format!(
        "kind: UDPProxy\nname: names\nport: {udp}\npools: [{{servers: [{{url: 'udp://127.0.0.1:{names}'}}, {{url: \
         'udp://127.0.0.1:{dead}'}}], healthCheck: {{interval: 50ms, send: x, expect: x}}}}]\n"
    ));
    let filter = |name: &str| {
        machine.json("/status/objects/all")["eg-traffic-default/all/m1"]["status"]["filters"][name].clone()
    };
    let listener = |name: &str| {
        machine.json(&format!("/status/objects/{name}"))[format!("eg-traffic-default/{name}/m1")]["status"].clone()
    };
    for (what, kind, live_is_well) in [("web", "http", true), ("calls", "grpc", false), ("chat", "websocket", false)] {
        let servers = || filter(what)["mainPool"]["servers"].clone();
        let wanted = Some((live_is_well, kind.to_owned()));
        eventually(&format!("{what}: the one that lives"), || (shown(&servers(), live) == wanted).then_some(()));
        let wanted = Some((false, kind.to_owned()));
        eventually(&format!("{what}: the dead one"), || (shown(&servers(), dead) == wanted).then_some(()));
    }
    for (what, kind, live) in [("relay", "tcp", live), ("names", "udp", names)] {
        let wanted = Some((true, kind.to_owned()));
        eventually(what, || (shown(&listener(what)["servers"], live) == wanted).then_some(()));
        let wanted = Some((false, kind.to_owned()));
        eventually(what, || (shown(&listener(what)["servers"], dead) == wanted).then_some(()));
    }
    for _ in 0..20 {
        answers(web, "/", 200);
        answers(relay, "/", 200);
    }
    let metrics = machine.api("GET", "/metrics", "").body;
    let of_dead = |name: &str, more: &str, value: &str| {
        let line = format!("{name}{{pool=\"all/proxy#web#main\",server=\"http://127.0.0.1:{dead}\"{more}}} {value}");
        assert!(metrics.lines().any(|l| l == line), "{line} is missing in {metrics}");
    };
    of_dead("weir_upstream_healthy", "", "0");
    of_dead("weir_upstream_health_falls_total", "", "1");
    of_dead("weir_upstream_health_checks_total", ",result=\"passed\"", "0");
    assert!(!metrics.contains(&format!(
        "weir_upstream_connections_created_total{{pool=\"relay/0\",server=\"tcp://127.0.0.1:{dead}\"}} 1"
    )));
}

/// What is known of a server survives changes of the document, also of the check itself.
#[test]
fn a_change_forgets_nobody_who_is_unwell() {
    let (machine, one, two) = (Machine::start(), Backend::start("one"), Backend::start("two"));
    let port = free_port();
    // The second one is asked for what it does not have.
    let document = |interval: &str, more: &str| {
        format!(
            "kind: Pipeline\nname: shop\nfilters:\n- kind: Proxy\n  name: proxy\n{more}  pools:\n  - filter: {{headers: {{X-Two: {{exact: 'yes'}}}}}}\n    \
             servers: [{{url: '{}'}}]\n    healthCheck: {{interval: {interval}, match: {{body: {{value: no backend says this}}}}}}\n  \
             - servers: [{{url: '{}'}}]\n    healthCheck: {{interval: {interval}}}\n",
            two.url(),
            one.url()
        )
    };
    machine.create(&document("1h", ""));
    machine.create(&server("front", port, "shop"));
    answers(port, "/", 200);
    let status = || {
        let status = machine.json("/status/objects/shop");
        status["eg-traffic-default/shop/m1"]["status"]["filters"]["proxy"].clone()
    };
    let unwell = || shown(&status()["candidatePools"][0]["servers"], two.port) == Some((false, "http".to_owned()));
    eventually("it is found unwell", || unwell().then_some(()));
    let passed = || status()["mainPool"]["servers"][0]["checks"][0]["passed"].clone();
    eventually("the other is found well", || (passed() == json!(1)).then_some(()));
    machine.update("shop", &document("1h", "  maxIdleConns: 7\n"));
    eventually("the change is there", || {
        machine.json("/objects/shop").to_string().contains("maxIdleConns").then_some(())
    });
    for _ in 0..20 {
        assert!(unwell());
        assert_eq!(passed(), json!(1), "nobody is asked again");
    }
    machine.update("shop", &document("2h", ""));
    for _ in 0..20 {
        let healthy = &status()["candidatePools"][0]["servers"][0]["healthy"];
        assert_eq!(healthy, &json!(false), "whoever asks otherwise has not forgotten");
    }
}
