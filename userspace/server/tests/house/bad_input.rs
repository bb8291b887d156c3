//! What is refused, and that the rest goes on.

use crate::world::{Machine, answers, eventually, free_port, get, mock, server};
use std::net::TcpListener;

#[test]
fn refused_documents_change_nothing() {
    let machine = Machine::start();
    let port = free_port();
    machine.create(&mock("pl", "steady"));
    machine.create(&server("hs", port, "pl"));
    answers(port, "/", 200);
    let before = machine.api("GET", "/objects", "").body;
    let version = machine.metric("weir_config_version");
    let filters =
        "filters:\n- {kind: Mock, name: a, rules: [{code: 200}]}\n- {kind: Mock, name: b, rules: [{code: 200}]}\n";
    let pipeline = |rest: &str| format!("kind: Pipeline\nname: bad\n{rest}");
    for (document, advice) in [
        ("kind: [Pipeline\nname: bad".to_owned(), ""),
        ("a: b: c".to_owned(), ""),
        ("just text".to_owned(), ""),
        ("name: bad".to_owned(), "kind"),
        ("kind: Pipline\nname: bad".to_owned(), "Pipeline"),
        ("kind: Pipeline\nname: bad name\n".to_owned() + filters, "name"),
        (pipeline("filters: 5"), "filters"),
        (pipeline("filters:\n- {kind: Nothing, name: a}\n"), "Nothing"),
        (pipeline("filters:\n- {kind: Mock, name: a}\n- {kind: Mock, name: a}\n"), "a"),
        (pipeline("filters:\n- {kind: Mock, name: END, rules: [{code: 200}]}\n"), "END"),
        (pipeline(&format!("flow:\n- filter: c\n{filters}")), "c"),
        (pipeline(&format!("flow:\n- {{filter: a, jumpIf: {{strange: END}}}}\n- filter: b\n{filters}")), "strange"),
        (pipeline(&format!("flow:\n- filter: a\n- {{filter: b, jumpIf: {{mocked: a}}}}\n{filters}")), "a"),
        (
            pipeline(&format!(
                "flow:\n- {{filter: a, alias: x}}\n- {{filter: b, jumpIf: {{mocked: nowhere}}}}\n{filters}"
            )),
            "nowhere",
        ),
        (
            pipeline(
                "filters:\n- kind: Proxy\n  name: p\n  pools:\n  - timeout: 5 sec\n    servers: [{url: 'http://127.0.0.1:1'}]\n",
            ),
            "5 sec",
        ),
        ("kind: HTTPServer\nname: bad\n".to_owned(), "port"),
        ("kind: HTTPServer\nname: bad\nport: 70000\n".to_owned(), "port"),
        ("kind: HTTPServer\nname: bad\nport: high\n".to_owned(), "port"),
        ("kind: VirtualIP\nname: bad\naddresses: [nonsense]\nports: any\n".to_owned(), "nonsense"),
    ] {
        let answer = machine.api("POST", "/objects", &document);
        assert_eq!(answer.status, 400, "{document}\n{answer:?}");
        let told: serde_json::Value =
            serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{e}: {}", answer.body));
        assert_eq!(told["code"], 400);
        let message = told["message"].as_str().unwrap_or_default();
        assert!(message.len() > 15 && message.contains(advice), "{document}\n→ {message}");
        println!("{message}\n");
    }
    assert_eq!(machine.api("POST", "/objects", &mock("pl", "again")).status, 409);
    assert_eq!(machine.api("PUT", "/objects/nope", &mock("nope", "x")).status, 404);
    assert_eq!(machine.api("PUT", "/objects/pl", &server("pl", port, "x")).status, 400, "another kind");
    assert_eq!(machine.api("DELETE", "/objects/nope", "").status, 404);
    assert_eq!(machine.api("GET", "/objects", "").body, before);
    assert_eq!(machine.metric("weir_config_version"), version);
    assert!(get(port, "/").unwrap().body.starts_with("steady"));
}

#[test]
fn a_port_in_use_is_a_state_and_ends() {
    let machine = Machine::start();
    let (port, other) = (free_port(), free_port());
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    machine.create(&mock("pl", "here"));
    machine.create(&server("hs", port, "pl"));
    machine.create(&server("rest", other, "pl"));
    answers(other, "/", 200);
    let status = || machine.json("/status/objects/hs")["eg-traffic-default/hs/m1"]["status"].clone();
    let failed = eventually("the server has failed", || Some(status()).filter(|s| s["state"] == "failed"));
    let reason = failed["error"].as_str().unwrap_or_default();
    assert!(reason.contains(&port.to_string()) && reason.contains("in use"), "{failed}");
    assert_eq!(machine.metric("httpserver_health{").or(Some(0.0)), Some(0.0));
    drop(taken);
    assert!(answers(port, "/", 200).body.starts_with("here"));
    let well = status();
    assert_eq!((&well["state"], &well["health"]), (&"running".into(), &"".into()), "{well}");
}
