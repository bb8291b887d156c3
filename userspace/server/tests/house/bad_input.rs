//! What is refused, and that the rest goes on.

use crate::world::{Connection, Machine, answers, eventually, free_port, get, mock, server};
use serde_json::json;
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

/// Whatever a client sends, the log of the process has a line for each event and none of its credentials.
#[test]
fn no_client_forges_a_line_of_the_log_or_finds_a_credential_in_it() {
    let machine = Machine::start();
    let port = free_port();
    let template = r#"{{log "warn" (printf "said %s and %s and %s" (.req.Header.Get "Authorization") (.req.Header.Get "Cookie") (.req.URL.Query.Get "q"))}}statusCode: 204"#;
    let filter = json!({"name": "log", "kind": "ResponseBuilder", "template": template});
    machine.create(&json!({"name": "pl", "kind": "Pipeline", "filters": [filter]}).to_string());
    machine.create(&server("hs", port, "pl"));
    answers(port, "/", 204);
    let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
    let fields = [("Authorization", "Basic ZmFuY3k6czNjcmV0"), ("Cookie", "sid=c00kie-value; lang=en")];
    let path = "/?q=x%0A2026-01-01T00:00:00Z%20ERROR%20forged%1B%5B2J%20token=qu3ry-t0ken%20end";
    assert_eq!(connection.request("GET", path, &fields, "").unwrap().status, 204);
    let lines = eventually("it is logged", || {
        let log = machine.log();
        log.contains("forged").then(|| log.lines().map(str::to_owned).collect::<Vec<_>>())
    });
    let said: Vec<&String> = lines.iter().filter(|line| line.contains("forged")).collect();
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(said[0].contains("said *** and *** and x") && said[0].contains("token=*** end"), "{}", said[0]);
    for secret in ["ZmFuY3k6czNjcmV0", "c00kie-value", "qu3ry-t0ken", "\u{1b}"] {
        assert!(!lines.iter().any(|line| line.contains(secret)), "{secret:?} in {lines:#?}");
    }
    let shown = machine.api("GET", "/logs?tail=100", "").body;
    assert!(shown.contains("forged") && !shown.contains("\u{1b}") && !shown.contains("c00kie-value"), "{shown}");
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
