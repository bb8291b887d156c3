//! Servers and pipelines in a namespace of their own.

use crate::world::{Machine, answers, eventually, free_port, get, mock, server};

#[test]
fn what_a_mock_namespacer_makes_serves_beside_what_has_its_names() {
    let machine = Machine::start();
    let (here, there) = (free_port(), free_port());
    machine.create(&mock("pl", "default"));
    machine.create(&server("web", here, "pl"));
    let space = |port: u16, body: &str| {
        format!(
            "kind: MockNamespacer\nname: space\nnamespace: blue\nhttpServers:\n- name: web\n  port: {port}\n  rules:\n  - paths:\n    - \
             pathPrefix: /\n      backend: pl\npipelines:\n- name: pl\n  filters:\n  - kind: Mock\n    name: mock\n    rules:\n    - code: 200\n      \
             body: {body}\n"
        )
    };
    let refused = eventually("the cluster has risen to its level", || {
        let answer = machine.api("POST", "/objects", &space(here, "blue"));
        (answer.status != 503).then_some(answer)
    });
    assert!(refused.status == 400 && refused.body.contains("taken by HTTPServer web"), "{refused:?}");
    machine.create(&space(there, "blue"));
    assert_eq!(
        (answers(there, "/", 200).body, answers(here, "/", 200).body),
        ("blue".to_owned(), "default".to_owned())
    );
    let names = |namespace: &str| -> Vec<String> {
        let list = machine.json(&format!("/objects?namespace={namespace}"));
        list.as_array().unwrap().iter().map(|object| object["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        (names("blue"), names("")),
        (vec!["pl".into(), "web".into()], vec!["pl".into(), "space".into(), "web".into()])
    );
    eventually("its status is told under its namespace", || {
        let told = machine.json("/status/objects/web?namespace=blue");
        told.as_object()?.keys().any(|key| key.starts_with("eg-traffic-blue/web/")).then_some(())
    });
    for (method, path) in [("DELETE", "/objects/web?namespace=blue"), ("PUT", "/objects/pl?namespace=blue")] {
        let refused = machine.api(method, path, &mock("pl", "changed"));
        assert_eq!(refused.status, 400, "{refused:?}");
    }

    machine.update("space", &space(there, "green"));
    eventually("what it makes follows it", || (get(there, "/").ok()?.body == "green").then_some(()));
    assert_eq!(machine.api("DELETE", "/objects/space", "").status, 200);
    eventually("it goes with it", || get(there, "/").is_err().then_some(()));
    assert_eq!((answers(here, "/", 200).body, names("blue")), ("default".to_owned(), Vec::new()));
}
