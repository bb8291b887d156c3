//! One answer out of several backends.

use crate::authentication::{Service, json};
use crate::world::{Answer, Connection, Machine, answers, free_port};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Answers when so many have come together.
#[derive(Default)]
struct Meeting(Mutex<usize>, Condvar);

impl Meeting {
    fn come(&self, count: usize) -> bool {
        let mut come = self.0.lock().unwrap();
        *come += 1;
        self.1.notify_all();
        let patience = Duration::from_secs(30);
        let (come, waited) = self.1.wait_timeout_while(come, patience, |come| *come < count).unwrap();
        drop(come);
        !waited.timed_out()
    }
}

/// The example of the folder, with its filters as they are and other places of its services.
fn example(urls: &[String], timeout: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/aggregation.yaml");
    let mut text = fs::read_to_string(path).unwrap().replace("timeout: 2s", &format!("timeout: {timeout}"));
    for (url, port) in urls.iter().zip(9095..) {
        let place = format!("http://127.0.0.1:{port}");
        assert!(text.contains(&place));
        text = text.replace(&place, url);
    }
    text
}

#[test]
fn backends_are_asked_at_the_same_time_and_some_may_fail() {
    let meeting = Arc::new(Meeting::default());
    let failing = Arc::new(AtomicUsize::new(0));
    let services: Vec<Service> = (0..3)
        .map(|n| {
            let (meeting, failing) = (meeting.clone(), failing.clone());
            Service::start(move |asked| {
                if asked.target == "/meet" && !meeting.come(3) {
                    return Some((500, String::new(), "they came one after the other".to_owned()));
                }
                if n >= 3 - failing.load(Ordering::SeqCst) {
                    return (asked.target != "/silent").then(|| (500, String::new(), "down".to_owned()));
                }
                json(format!(r#"{{"of":{n},"target":"{}","body":"{}"}}"#, asked.target, asked.body))
            })
        })
        .collect();
    let mut machine = Machine::new("m1").flags(["--workers", "1"]);
    machine.run();
    let door = free_port();
    let urls: Vec<String> = services.iter().map(Service::url).collect();
    machine.create(&example(&urls, "60s"));
    machine.create(&example(&urls, "1s").replace("name: aggregation-example", "name: late"));
    // In a branch results lead on as in any flow.
    let pool = |url: &String| format!("kind: Proxy, pools: [{{servers: [{{url: '{url}'}}]}}]");
    machine.create(&format!(
        "kind: Pipeline\nname: spared\nflow:\n- parallel: {{branches: [{{namespace: a, flow: [{{filter: asked}}, {{filter: one, jumpIf: {{failureCode: \
         spare}}}}, {{filter: END}}, {{filter: other, alias: spare}}]}}]}}\n- filter: page\nfilters:\n- {{name: asked, kind: RequestBuilder, \
         sourceNamespace: DEFAULT}}\n- {{name: one, {}}}\n- {{name: other, {}}}\n- {{name: page, kind: ResponseBuilder, template: \"body: \
         '{{{{.responses.a.Body}}}}'\"}}\n",
        pool(&urls[2]),
        pool(&urls[0])
    ));
    let paths = "[{path: /silent, backend: late}, {path: /spared, backend: spared}, {pathPrefix: /, backend: aggregation-example}]";
    machine.create(&format!("kind: HTTPServer\nname: s\nport: {door}\nrules: [{{paths: {paths}}}]\n"));
    answers(door, "/", 200);
    let ask = |method: &str, target: &str, body: &str| -> Answer {
        let mut connection = Connection::open(&format!("127.0.0.1:{door}")).unwrap();
        connection.request(method, target, &[], body).unwrap()
    };
    let told = |answer: &Answer| -> serde_json::Value {
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    };
    // None of them answers before all are asked.
    let met = told(&ask("POST", "/meet", "hi"));
    for (n, name) in ["user", "orders", "offers"].iter().enumerate() {
        assert_eq!(met[name], serde_json::json!({"of": n, "target": "/meet", "body": "hi"}));
    }
    assert_eq!(told(&ask("GET", "/spared", ""))["of"], 2);
    failing.store(1, Ordering::SeqCst);
    assert_eq!(told(&ask("GET", "/spared", ""))["of"], 0);
    let without = told(&ask("GET", "/", ""));
    assert!(without["offers"].is_null() && without["orders"]["of"] == 1, "{without}");
    failing.store(2, Ordering::SeqCst);
    let sorry = ask("GET", "/", "");
    assert_eq!((sorry.status, &*sorry.body), (502, "please try again"), "mustSucceed");
    // One that says nothing is not waited for.
    failing.store(1, Ordering::SeqCst);
    let late = told(&ask("GET", "/silent", ""));
    assert!(late["offers"].is_null() && late["user"]["of"] == 0, "{late}");
}

#[test]
fn filters_see_bodies_as_long_as_the_document_lets_in() {
    const LONG: usize = 6 << 20;
    let service = Service::start(|_| Some((200, String::new(), "y".repeat(LONG))));
    let mut machine = Machine::new("m1").flags(["--workers", "1"]);
    machine.run();
    let counted = "kind: DataBuilder, dataKey: k, template: 'n: {{len .req.Body | quote}}'}\n- {name: r, kind: ResponseBuilder, template: 'body: \"{{.data.k.n}}\"'}";
    machine.create(&format!("kind: Pipeline\nname: asked\nfilters:\n- {{name: d, {counted}\n"));
    let pool = format!("{{servers: [{{url: '{}'}}]", service.url());
    for (name, most) in [("answered", 8 << 20), ("usual", 0)] {
        let proxy = format!("{{name: p, kind: Proxy, pools: [{pool}, serverMaxBodySize: {most}}}]}}");
        let counted = counted.replace(".req.", ".resp.");
        machine.create(&format!("kind: Pipeline\nname: {name}\nfilters:\n- {proxy}\n- {{name: d, {counted}\n"));
    }
    let door = free_port();
    let paths = "[{path: /usual, backend: usual}, {path: /answered, backend: answered}, {path: /asked, backend: asked}, \
                 {path: /long, backend: asked, clientMaxBodySize: 8388608}]";
    machine.create(&format!("kind: HTTPServer\nname: s\nport: {door}\nrules: [{{paths: {paths}}}]\n"));
    answers(door, "/asked", 200);
    let ask = |target: &str, body: &str| {
        let mut connection = Connection::open(&format!("127.0.0.1:{door}")).unwrap();
        let answer = connection.request("POST", target, &[], body).unwrap();
        (answer.status, answer.body)
    };
    let body = "x".repeat(LONG);
    assert_eq!((ask("/long", &body), ask("/asked", "ab")), ((200, LONG.to_string()), (200, "2".to_owned())));
    assert_eq!(ask("/answered", ""), (200, LONG.to_string()));
    assert_eq!(ask("/usual", "").0, 500);
}
