//! Scripts of a document: what they do for requests, that a changed one is in force, and that a hostile one harms nobody.

use crate::world::{Connection, Machine, answers, eventually, free_port, server};

fn pipeline(script: &str) -> String {
    let script = serde_json::to_string(script).unwrap();
    format!("name: pl\nkind: Pipeline\nfilters:\n- name: s\n  kind: Script\n  timeout: 1s\n  script: {script}\n")
}

#[test]
fn scripts_answer_change_and_are_ended() {
    let machine = Machine::start();
    let port = free_port();
    let refused = machine.api("POST", "/objects", &pipeline("let = 1"));
    assert_eq!(refused.status, 400);
    assert!(refused.body.contains("script") && refused.body.contains("line 1"), "{refused:?}");
    machine
        .create(&pipeline("resp.StatusCode = 201; resp.Body = req.Method + \" \" + req.URL.Path + \" \" + req.Body;"));
    machine.create(&server("hs", port, "pl"));
    assert_eq!(answers(port, "/a", 201).body, "GET /a ");
    let mut connection = Connection::open(&format!("127.0.0.1:{port}")).unwrap();
    let answer = connection.request("POST", "/b", &[], "text").unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (201, "POST /b text"));

    // A changed one is in force with the next request, on the same connection.
    machine.update("pl", &pipeline("if req.URL.Path == \"/loop\" { loop { } } resp.Body = \"two\";"));
    eventually("the new script answers", || (answers(port, "/", 200).body == "two").then_some(()));
    assert_eq!(connection.request("GET", "/loop", &[], "").unwrap().status, 503);
    assert_eq!(connection.request("GET", "/", &[], "").unwrap().body, "two");
    assert_eq!(machine.metric("weir_script_failures_total"), Some(1.0));
    assert!(machine.metric("weir_script_requests_total") >= Some(5.0));
}
