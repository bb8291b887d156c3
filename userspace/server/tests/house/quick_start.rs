//! Easegress's quick start, and the forms in which documents come.

use crate::world::{Backend, Connection, Machine, answers, free_port, get, server};
use std::collections::BTreeSet;

#[test]
fn quick_start_of_easegress() {
    let machine = Machine::start();
    let port = free_port();
    machine.create(&format!(
        "kind: HTTPServer\nname: server-demo\nport: {port}\nkeepAlive: true\nhttps: false\nrules:\n- paths:\n  - pathPrefix: /pipeline\n    backend: pipeline-demo\n"
    ));
    answers(port, "/pipeline", 503);
    assert_eq!(get(port, "/elsewhere").unwrap().status, 404);

    let backends = [Backend::start("backend-1"), Backend::start("backend-2"), Backend::start("backend-3")];
    let servers: String = backends.iter().map(|b| format!("    - url: {}\n", b.url())).collect();
    let proxy = format!(
        "- name: proxy\n  kind: Proxy\n  pools:\n  - servers:\n{servers}    loadBalance:\n      policy: roundRobin\n"
    );
    machine.create(&format!("name: pipeline-demo\nkind: Pipeline\nflow:\n- filter: proxy\nfilters:\n{proxy}"));
    answers(port, "/pipeline", 200);
    let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..6 {
        let answer = connection.request("POST", "/pipeline", &[], "Hello, Easegress").unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.body.contains("Body  : Hello, Easegress"), "{}", answer.body);
        seen.insert(answer.body.lines().last().unwrap_or_default().to_owned());
    }
    // Each worker takes turns on its own, and one connection stays with one worker.
    assert_eq!(seen.len(), 3, "{seen:?}");

    machine.update(
        "pipeline-demo",
        &format!(
            "name: pipeline-demo\nkind: Pipeline\nflow:\n- filter: validator\n  jumpIf: {{ invalid: END }}\n- filter: requestAdaptor\n- filter: proxy\n\
             filters:\n- name: validator\n  kind: Validator\n  headers:\n    Content-Type:\n      values:\n      - application/json\n\
             - name: requestAdaptor\n  kind: RequestAdaptor\n  header:\n    set:\n      X-Adapt-Key: goodplan\n{proxy}"
        ),
    );
    answers(port, "/pipeline", 400);
    let json = [("Content-Type", "application/json")];
    let answer = connection.request("POST", "/pipeline", &json, "{\"message\": \"Hello, Easegress\"}").unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("X-Adapt-Key:[goodplan]"), "{}", answer.body);
    assert_eq!(connection.request("POST", "/pipeline", &[], "Hello").unwrap().status, 400);
}

#[test]
fn pipeline_of_version_1() {
    let machine = Machine::start();
    let (port, backend) = (free_port(), Backend::start("old"));
    machine.create(&format!(
        "name: legacy\nkind: HTTPPipeline\nflow:\n- filter: proxy\nfilters:\n- name: proxy\n  kind: Proxy\n  mainPool:\n    servers:\n    - url: {}\n    loadBalance:\n      policy: roundRobin\n",
        backend.url()
    ));
    machine.create(&server("hs", port, "legacy"));
    assert!(answers(port, "/", 200).body.contains("Name  : old"));
    assert_eq!(machine.json("/objects/legacy")["kind"], "Pipeline");
}

#[test]
fn pool_written_into_the_server() {
    let machine = Machine::start();
    let (port, backend) = (free_port(), Backend::start("direct"));
    machine.create(&format!(
        "name: hs\nkind: HTTPServer\nport: {port}\nrules:\n- paths:\n  - pathPrefix: /\n    backendPool:\n      servers:\n      - url: {}\n",
        backend.url()
    ));
    assert!(answers(port, "/", 200).body.contains("Name  : direct"));
    assert_eq!(machine.api("DELETE", "/objects/hs", "").status, 200);
    crate::world::eventually("the port is closed", || get(port, "/").is_err().then_some(()));
}
