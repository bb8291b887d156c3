//! The recipes of deploy/cookbook do what they say, as they are: only their ports are others.

use crate::authentication::{Service, bearer, json};
use crate::world::{Answer, Connection, Machine, eventually, free_port};
use base_model::yaml;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Where recipes are tried: a machine, and the four backends that they name.
struct Kitchen {
    machine: Machine,
    services: Vec<Service>,
    /// How many calls are answered with 500 from now on.
    failing: Arc<AtomicUsize>,
    /// What the chat's hook was told last.
    hook: Arc<Mutex<String>>,
}

#[test]
fn recipes_do_what_they_say() {
    let kitchen = Kitchen::open();
    let door = kitchen.cook("quick-start");
    assert!(kitchen.ask(door, "GET", "/pipeline", &[], "").body.starts_with("0 GET /pipeline "));

    let door = kitchen.cook("reverse-proxy");
    let cart = kitchen.ask(door, "GET", "/shop/cart", &[("X-Debug", "1")], "");
    assert!(cart.body.contains(" GET /cart ") && field(&cart, "X-Served-By") == Some("weir"), "{cart:?}");
    let head = cart.body.to_lowercase();
    assert!(head.contains("x-api-version: v2") && head.contains("x-forwarded-for: 127.0.0.1"), "{head}");
    assert!(!head.contains("x-debug"), "{head}");
    let seen: BTreeSet<char> =
        (0..60).filter_map(|_| kitchen.ask(door, "GET", "/shop/x", &[], "").body.chars().next()).collect();
    assert_eq!(seen, BTreeSet::from(['0', '1']));
    let docs =
        Connection::open(&format!("127.0.0.1:{door}")).unwrap().asking("docs.example").request("GET", "/a", &[], "");
    assert!(docs.unwrap().body.starts_with("2 GET /a "));
    assert_eq!(kitchen.ask(door, "GET", "/teapot", &[], "").status, 418);

    let door = kitchen.cook("pipeline");
    let told = kitchen.ask(door, "GET", "/", &[("Content-Type", "application/json")], "");
    assert!(told.body.starts_with("0 ") && told.body.to_lowercase().contains("x-adapt-key: goodplan"), "{told:?}");
    assert!(kitchen.ask(door, "GET", "/", &[], "").body.starts_with("1 "));
    kitchen.failing.store(1, Ordering::SeqCst);
    let sorry = kitchen.ask(door, "GET", "/", &[("Content-Type", "application/json")], "");
    assert!(sorry.status == 500 || sorry.status == 502, "{sorry:?}");
    kitchen.failing.store(0, Ordering::SeqCst);

    let door = kitchen.cook("aggregation");
    let merged: Value = serde_json::from_str(&kitchen.ask(door, "GET", "/api", &[], "").body).unwrap();
    assert_eq!(merged, json!({"of0": true, "of1": true, "same": 1}));

    let door = kitchen.cook("global-filter");
    let told = kitchen.ask(door, "GET", "/a", &[("X-Tenant", "acme")], "");
    assert_eq!((told.status, told.body.as_str(), field(&told, "X-Edge")), (200, "a", Some("weir")));
    assert_eq!(kitchen.ask(door, "GET", "/b", &[], "").status, 400);

    let door = kitchen.cook("header-variables");
    assert_eq!(kitchen.ask(door, "GET", "/show?user=ann", &[], "").body.trim(), "GET /show?user=ann of ann");
    assert_eq!(kitchen.ask(door, "GET", "/show", &[], "").body.trim(), "GET /show of nobody");

    let door = kitchen.cook("canary");
    assert!(kitchen.ask(door, "GET", "/", &[("X-Canary", "yes")], "").body.starts_with("2 "));
    assert!(kitchen.ask(door, "GET", "/", &[("Cookie", "a=b; canary=yes")], "").body.starts_with("2 "));

    let door = kitchen.cook("tracing");
    let traced = kitchen.ask(door, "GET", "/", &[], "");
    assert!(traced.body.to_lowercase().contains("traceparent: 00-"), "{traced:?}");

    let door = kitchen.cook("service-registry");
    assert!(kitchen.ask(door, "GET", "/orders", &[], "").body.starts_with("0 "), "what is written down serves");

    kitchen.cook("migrate-v1");
    assert_eq!(kitchen.machine.json("/objects/migrate-v1")["kind"], "Pipeline");
}

#[test]
fn recipes_of_several_calls_do_what_they_say() {
    let kitchen = Kitchen::open();
    let door = kitchen.cook("orchestration");
    assert_eq!(kitchen.ask(door, "POST", "/messages", &[], r#"{"text": "Guten Tag"}"#).body, "good day");
    assert_eq!(kitchen.ask(door, "POST", "/messages", &[], r#"{"text": "hello"}"#).body, "hello");

    let door = kitchen.cook("workflow");
    assert_eq!(kitchen.ask(door, "POST", "/digest", &[], "").body, "2 entries");
    let told: Value = serde_json::from_str(&kitchen.hook.lock().unwrap()).unwrap();
    assert_eq!(told, json!({"titles": ["one", "two \"quoted\""]}));

    let door = kitchen.cook("performance");
    let before = kitchen.services[0].asked();
    let first = kitchen.ask(door, "GET", "/catalogue", &[("Accept-Encoding", "identity")], "");
    let second = kitchen.ask(door, "GET", "/catalogue", &[("Accept-Encoding", "identity")], "");
    assert_eq!((first.body.as_str(), kitchen.services[0].asked() - before), (second.body.as_str(), 1));

    let door = kitchen.cook("resilience");
    // Two tries fail, the third does not.
    kitchen.failing.store(2, Ordering::SeqCst);
    assert_eq!(kitchen.ask(door, "GET", "/orders", &[], "").status, 200);
    kitchen.failing.store(usize::MAX, Ordering::SeqCst);
    let resting = eventually("the circuit opens", || {
        let answer = kitchen.ask(door, "GET", "/orders", &[], "");
        (answer.status == 503).then_some(answer)
    });
    assert_eq!((resting.body.as_str(), field(&resting, "Retry-After")), ("the shop is having a rest", Some("5")));
}

#[test]
fn recipes_of_doors_let_in_whom_they_say() {
    let kitchen = Kitchen::open();
    let door = kitchen.cook("verification");
    let status = |path: &str, headers: &[(&str, &str)]| kitchen.ask(door, "GET", path, headers, "").status;
    assert_eq!((status("/tenant", &[("X-Tenant", "acme")]), status("/tenant", &[])), (200, 400));
    // {"sub": "ann"}, signed with "secret".
    let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbm4ifQ.PjR3fgnevdXvvFDIexpV052PaeBybdsfUE102L3fkg4";
    assert_eq!(status("/token", &[("Authorization", &bearer(token))]), 200);
    assert_eq!(status("/token", &[("Cookie", &format!("auth={token}"))]), 200);
    assert_eq!(status("/token", &[("Authorization", &bearer(&token.replace("ifQ", "ifR")))]), 401);
    assert_eq!((status("/policy/public/page", &[]), status("/policy/private", &[])), (200, 403));
    assert_eq!(status("/policy/private", &[("X-Role", "admin")]), 200);

    let door = kitchen.cook("custom-data");
    let login = |pair: &str| kitchen.ask(door, "GET", "/", &[("Authorization", pair)], "");
    // ann:secret, and ann:wrong. Data reaches filters a moment after it is stored.
    let ann =
        eventually("ann is known", || Some(login("Basic YW5uOnNlY3JldA==")).filter(|answer| answer.status == 200));
    assert_eq!(ann.body, "gold");
    assert_eq!(login("Basic YW5uOndyb25n").status, 401);
}

impl Kitchen {
    fn open() -> Kitchen {
        let (failing, hook) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(String::new())));
        let services = (0..4).map(|n| {
            let (failing, hook) = (failing.clone(), hook.clone());
            Service::start(move |asked| {
                let fails =
                    failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
                if fails {
                    return Some((500, String::new(), "down".to_owned()));
                }
                match asked.target.as_str() {
                    "/language" => json(match asked.body.contains("Guten") {
                        true => r#"{"language": "de"}"#,
                        false => r#"{"language": "en"}"#,
                    }),
                    "/translate" => json(r#"{"text": "good day"}"#),
                    "/feed.json" => json(r#"{"items": [{"title": "one"}, {"title": "two \"quoted\""}]}"#),
                    "/api" => json(format!(r#"{{"of{n}": true, "same": {n}}}"#)),
                    "/hook" => {
                        asked.body.clone_into(&mut hook.lock().unwrap());
                        json("{}")
                    }
                    _ => Some((200, String::new(), format!("{n} {}\n{}", asked.head, asked.body))),
                }
            })
        });
        let services = services.collect();
        let mut machine = Machine::new("m1").flags(["--workers", "1"]);
        machine.run();
        Kitchen { machine, services, failing, hook }
    }

    /// Applies a recipe, and says where its server listens.
    fn cook(&self, name: &str) -> u16 {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../deploy/cookbook/{name}.yaml"));
        let door = free_port();
        let mut text = fs::read_to_string(path).unwrap().replace("port: 10080", &format!("port: {door}"));
        for (service, port) in self.services.iter().zip(9095..) {
            text = text.replace(&format!("http://127.0.0.1:{port}"), &service.url());
        }
        let mut objects = Vec::new();
        for document in yaml::parse_documents(&text).unwrap() {
            let name = document["name"].as_str().unwrap();
            let path = match document["kind"].as_str().unwrap() {
                "CustomDataKind" => "/customdatakinds".to_owned(),
                "CustomData" => format!("/customdata/{name}/items"),
                _ => {
                    objects.push(yaml::to_string(&document));
                    continue;
                }
            };
            let answer = self.machine.api("POST", &path, &document.to_string());
            assert!(answer.status < 300, "{name}: {answer:?}");
        }
        self.machine.create(&objects.join("---\n"));
        if text.contains("kind: HTTPServer") {
            eventually("the recipe's server listens", || TcpStream::connect(("127.0.0.1", door)).ok());
        }
        door
    }

    fn ask(&self, door: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut connection = Connection::open(&format!("127.0.0.1:{door}")).unwrap();
        connection.request(method, path, headers, body).unwrap()
    }
}

fn field<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    let mut fields = answer.head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}
