//! Ids of requests, and what is remembered of them.

#[macro_use]
mod support;

use base_runtime::IoMode;
use edge_listeners::watch::Filter;
use serde_json::Value;
use std::sync::{Arc, Mutex};
use support::{Backend, House, eventually, free_port, proxy_to};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Request-Id: of-the-backend\r\n\r\nok";

/// The ids in a head.
fn ids(head: &str) -> Vec<&str> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| name.eq_ignore_ascii_case("x-request-id"))
        .map(|(_, id)| id)
        .collect()
}

/// The only request that is remembered under an id.
fn told(house: &House, id: &str) -> Value {
    eventually("it is remembered", || !house.traffic.watch().find(id).is_empty());
    let found = house.traffic.watch().find(id);
    assert_eq!(found.len(), 1);
    found[0].to_json()
}

fn an_id_goes_in_and_out(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = House::proxy(io, &backend);
    let seen = || backend.seen.lock().unwrap().last().unwrap().head.clone();
    let answer = house.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let made = ids(&answer.head).join(" ");
    assert_eq!(ids(&seen()).join(" "), made);
    assert!(made.len() > 20 && !made.contains(' ') && made != "of-the-backend", "{made}");
    let answer = house.ask("GET / HTTP/1.1\r\nHost: a\r\nx-request-id: mine-1\r\n\r\n");
    assert_eq!((ids(&answer.head), ids(&seen())), (vec!["mine-1"], vec!["mine-1"]));
    let answer = house.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: <b>\r\nX-Request-Id: c\r\n\r\n");
    let (out, head) = (ids(&answer.head), seen());
    assert_eq!(out, ids(&head));
    assert!(out.len() == 1 && !["<b>", "c", "mine-1"].contains(&out[0]) && out[0] != made);
    assert_eq!(house.limit("request_id"), 1);
    // Refusals have one, whether anything of the request could be read or not.
    house.server("rules: [{paths: [{path: /only, backend: app}]}]");
    for request in ["GET /else HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nbroken\r\n\r\n"] {
        let answer = house.ask(request);
        let id = ids(&answer.head).join(" ");
        assert_eq!(told(&house, &id)["status"], answer.status());
    }
    house.server("requestId: off");
    let answer = house.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: <b>\r\n\r\n");
    assert_eq!((ids(&answer.head), ids(&seen())), (vec!["of-the-backend"], vec!["<b>"]));
    house.server("requestId: generate");
    let answer = house.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine-1\r\n\r\n");
    assert!(ids(&answer.head) == ids(&seen()) && ids(&answer.head) != ["mine-1"]);
}

fn a_failure_is_told_from_route_to_server(io: IoMode) {
    let nobody = free_port();
    let house = House::new(
        io,
        "rules: [{host: other, paths: [{backend: x}]}, {paths: [{path: /b, backend: x}, {pathPrefix: /a, methods: [PUT], backend: x}, {pathPrefix: /a, backend: app}]}]",
        &format!(
            "filters: [{{name: adapt, kind: RequestAdaptor, header: {{set: {{X-A: '1'}}}}}}, {{name: p, kind: Proxy, pools: [{{servers: [{{url: 'http://127.0.0.1:{nobody}'}}]}}]}}]"
        ),
    );
    let answer = house.ask("GET /a?token=hidden HTTP/1.1\r\nHost: shop\r\nX-Request-Id: r1\r\n\r\n");
    assert_eq!((answer.status(), ids(&answer.head)), (503, vec!["r1"]));
    let told = told(&house, "r1");
    assert_eq!((&told["kept"], &told["status"], &told["endedBy"]), (&"failed".into(), &503.into(), &"server".into()));
    assert_eq!((&told["method"], &told["host"], &told["server"]), (&"GET".into(), &"shop".into(), &"web".into()));
    assert!(!told.to_string().contains("hidden"), "{told}");
    let taken = &told["route"]["taken"];
    assert_eq!((&taken["rule"], &taken["path"], &taken["pipeline"]), (&1.into(), &2.into(), &"app".into()));
    let why: Vec<&str> =
        told["route"]["others"].as_array().unwrap().iter().map(|o| o["why"].as_str().unwrap()).collect();
    assert_eq!(why, ["method GET is none of PUT", "path \"/a\" is not /b", "host \"shop\" is none of other"]);
    assert_eq!(told.get("routeNote"), None);
    let filters: Vec<(&str, &str, f64)> = told["filters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| (f["name"].as_str().unwrap(), f["result"].as_str().unwrap(), f["durationMs"].as_f64().unwrap()))
        .collect();
    assert_eq!(filters.iter().map(|f| (f.0, f.1)).collect::<Vec<_>>(), [("adapt", ""), ("p", "serverError")]);
    assert!(filters[1].2 > 0.0);
    let tried = &told["tries"][0];
    assert!(tried["server"].as_str().unwrap().ends_with(&nobody.to_string()) && tried["status"].is_null(), "{tried}");
    assert!(!tried["error"].as_str().unwrap().is_empty() && told["tries"].as_array().unwrap().len() == 1);
}

fn each_try_has_its_server_and_its_end(io: IoMode) {
    let (nobody, backend) = (free_port(), Backend::answering("HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n"));
    let pipeline = format!(
        "filters: [{{name: p, kind: Proxy, pools: [{{servers: [{{url: 'http://127.0.0.1:{nobody}'}}, {{url: 'http://127.0.0.1:{}'}}], loadBalance: {{policy: roundRobin}}}}]}}]",
        backend.port
    );
    let house = House::new(io, "", &pipeline);
    let mut both = 0;
    for nth in 0..4 {
        let id = format!("t{nth}");
        house.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n"));
        let told = told(&house, &id);
        let tries = told["tries"].as_array().unwrap();
        let last = tries.last().unwrap();
        assert_eq!((&last["status"], &last["error"], &told["endedBy"]), (&502.into(), &Value::Null, &"server".into()));
        assert!(last["server"].as_str().unwrap().ends_with(&backend.port.to_string()));
        both += usize::from(tries.len() == 2 && tries[0]["error"].is_string());
    }
    assert!(both > 0, "one of them was sent to the server that is not there first");
}

fn whoever_left_is_told_with_whom_it_waited_for(io: IoMode) {
    let silent = Backend::new(|mut wire, _| {
        let _ = wire.message();
        std::thread::sleep(support::PATIENCE);
    });
    let house = House::proxy(io, &silent);
    let mut client = house.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: left\r\n\r\n");
    eventually("the backend is asked", || silent.connections.load(std::sync::atomic::Ordering::SeqCst) > 0);
    drop(client);
    let told = told(&house, "left");
    assert_eq!((&told["status"], &told["endedBy"]), (&499.into(), &"client".into()));
    assert!(told["end"].as_str().unwrap().contains(&silent.port.to_string()), "{told}");
}

fn a_tap_shows_what_others_do_not_keep(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = House::proxy(io, &backend);
    let ask = |id: &str| {
        let answer = house.ask(&format!("GET /x HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n"));
        assert_eq!(answer.status(), 200);
    };
    ask("before");
    let shown: Arc<Mutex<Vec<Value>>> = Arc::default();
    let into = shown.clone();
    let filter = Filter::parse(&[("path".into(), "/x".into())]).unwrap();
    let open = house.traffic.watch().tap(
        filter,
        Box::new(move |record| {
            into.lock().unwrap().push(record.to_json());
            true
        }),
    );
    ask("during");
    eventually("it is shown", || !shown.lock().unwrap().is_empty());
    let during = told(&house, "during");
    assert_eq!(during["tries"][0]["status"], 200);
    assert_eq!((&during["endedBy"], &during["kept"]), (&"nobody".into(), &"tapped".into()));
    drop(open);
    ask("after");
    assert_eq!(shown.lock().unwrap().len(), 1);
    assert!(house.traffic.watch().find("before").is_empty() && house.traffic.watch().find("after").is_empty());
}

fn bounds_are_told(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = House::new(io, "clientMaxBodySize: 3", &proxy_to(backend.port));
    let answer = house.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nX-Request-Id: big\r\n\r\n");
    assert_eq!(answer.status(), 413);
    let told_big = told(&house, "big");
    assert_eq!((&told_big["kept"], &told_big["endedBy"]), (&"refused".into(), &"weir".into()));
    assert_eq!(told_big["limits"], serde_json::json!(["request_body_bytes"]));
    let answer = house.ask("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    let broken = told(&house, ids(&answer.head)[0]);
    assert_eq!(broken["limits"].as_array().unwrap().len(), 1, "{broken}");
}

on_both_drivers!(
    an_id_goes_in_and_out,
    a_failure_is_told_from_route_to_server,
    each_try_has_its_server_and_its_end,
    whoever_left_is_told_with_whom_it_waited_for,
    a_tap_shows_what_others_do_not_keep,
    bounds_are_told,
);
