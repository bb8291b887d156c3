//! A Proxy whose servers are asked whether they are well.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::*;

/// A backend whose health can be changed, and that says who it is.
struct Patient {
    backend: Backend,
    health: Arc<AtomicU16>,
    probes: Arc<AtomicUsize>,
}

fn patient(name: &'static str) -> Patient {
    let (health, probes) = (Arc::new(AtomicU16::new(200)), Arc::<AtomicUsize>::default());
    let (status, count) = (health.clone(), probes.clone());
    let backend = Backend::new(move |mut wire, _| {
        while let Some((head, _)) = wire.request() {
            let status = match head.starts_with("GET /health ") {
                true => {
                    count.fetch_add(1, Ordering::SeqCst);
                    status.load(Ordering::SeqCst)
                }
                false => 200,
            };
            wire.send(format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{name}", name.len()));
        }
    });
    Patient { backend, health, probes }
}

impl Patient {
    fn is(&self, status: u16) {
        self.health.store(status, Ordering::SeqCst);
    }
}

fn pool(patients: &[&Patient], more: &str) -> String {
    let urls: Vec<String> =
        patients.iter().map(|p| format!("{{url: 'http://127.0.0.1:{}'}}", p.backend.port)).collect();
    format!("pools: [{{servers: [{}], {more}}}]", urls.join(", "))
}

/// Who answers so many requests; the status where it is none.
fn answers(house: &House, count: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..count {
        let said = house.ask(get("/"));
        let who = match said.status {
            200 => String::from_utf8(said.body.expect("a body")).expect("text"),
            status => format!("{status} {}", said.outcome),
        };
        *tally.entry(who).or_default() += 1;
    }
    tally
}

fn until(house: &House, what: &str, wanted: &[(&str, usize)]) {
    let wanted: BTreeMap<String, usize> = wanted.iter().map(|(who, count)| ((*who).to_owned(), *count)).collect();
    let (count, end) = (wanted.values().sum(), Instant::now() + Duration::from_secs(60));
    loop {
        let found = answers(house, count);
        if found == wanted {
            return;
        }
        assert!(Instant::now() < end, "{what}: {found:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_unwell_server_gets_nothing_until_it_passes_again() {
    for place in ["healthCheck: {CHECK}", "loadBalance: {healthCheck: {CHECK}}"] {
        let (a, b, c) = (patient("a"), patient("b"), patient("c"));
        let check = place.replace("CHECK", "interval: 10ms, timeout: 2s, fails: 2, passes: 2, path: /health");
        let house = House::new(1, &pool(&[&a, &b, &c], &check));
        until(&house, "all are well", &[("a", 4), ("b", 4), ("c", 4)]);
        b.is(503);
        // They take turns without it.
        until(&house, "b is not", &[("a", 6), ("c", 6)]);
        assert_eq!(house.metric("weir_upstream_healthy", &format!("{}", b.backend.port)), 0);
        assert!(house.metric("weir_upstream_health_falls_total", &format!("{}", b.backend.port)) >= 1);
        assert_eq!(house.metric("weir_upstream_healthy", ""), 2);
        let status = house.status();
        let shown = status["mainPool"]["servers"].as_array().expect("servers are shown");
        let of_b = shown.iter().find(|s| s["url"].as_str().is_some_and(|u| u.ends_with(&b.backend.port.to_string())));
        let of_b = of_b.expect("b is shown");
        assert_eq!((&of_b["healthy"], &of_b["checks"][0]["lastError"]), (&false.into(), &"status 503".into()));
        a.is(500);
        c.is(404);
        until(&house, "none is", &[("503 internalError", 3)]);
        b.is(204);
        until(&house, "b is again", &[("b", 6)]);
        a.is(200);
        c.is(302);
        until(&house, "all are", &[("a", 4), ("b", 4), ("c", 4)]);
    }
}

#[test]
fn too_few_that_are_well_are_not_buried() {
    let patients = [patient("a"), patient("b"), patient("c"), patient("d")];
    let all: Vec<&Patient> = patients.iter().collect();
    let more =
        "healthCheck: {interval: 10ms, uri: /health}, outlierDetection: {panicThreshold: 50, maxEjectionPercent: 50}";
    let house = House::new(1, &pool(&all, more));
    until(&house, "all are well", &[("a", 2), ("b", 2), ("c", 2), ("d", 2)]);
    patients[0].is(503);
    patients[1].is(503);
    until(&house, "half of them", &[("c", 4), ("d", 4)]);
    assert_eq!(house.metric("weir_upstream_panics_total", ""), 0);
    patients[2].is(503);
    until(&house, "a quarter is too few", &[("a", 2), ("b", 2), ("c", 2), ("d", 2)]);
    assert!(house.metric("weir_upstream_panics_total", "") >= 6);
}

#[test]
fn a_server_is_asked_once_however_many_pools_name_it() {
    let (a, b) = (patient("a"), patient("b"));
    let check = "healthCheck: {interval: 1h, uri: /health, timeout: 2s}";
    let houses: Vec<House> = (0..8).map(|_| House::new(1, &pool(&[&a, &b], check))).collect();
    b.is(503);
    let asked = |p: &Patient| p.probes.load(Ordering::SeqCst);
    let end = Instant::now() + Duration::from_secs(60);
    while asked(&a) == 0 || asked(&b) == 0 {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    // What is known outlives whoever asked first, and is there for whoever comes later.
    let mut houses = houses.into_iter();
    let first = houses.next().expect("there are eight");
    if first.metric("weir_upstream_healthy", "") == 1 {
        let later = House::new(1, &pool(&[&a, &b], check));
        drop(first);
        assert_eq!(answers(&later, 6), [("a".to_owned(), 6)].into());
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!((asked(&a), asked(&b)), (1, 1));
}

#[test]
fn a_probe_that_passes_brings_back_who_could_not_be_connected_to() {
    let mut server = Restartable::start();
    let other = patient("b");
    let spec = format!(
        "pools: [{{servers: [{{url: 'http://127.0.0.1:{}'}}, {{url: 'http://127.0.0.1:{}'}}], healthCheck: {{interval: 10ms}}}}]",
        server.port, other.backend.port
    );
    let house = House::new(1, &spec);
    until(&house, "both are well", &[("b", 3), ("ok", 3)]);
    server.stop();
    until(&house, "one is gone", &[("b", 6)]);
    server.restart();
    until(&house, "it is back", &[("b", 3), ("ok", 3)]);
}

/// A backend whose probes are answered once it is told to.
fn late(name: &'static str) -> (Patient, std::sync::mpsc::Sender<()>) {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let (health, probes) = (Arc::new(AtomicU16::new(200)), Arc::<AtomicUsize>::default());
    let (status, count) = (health.clone(), probes.clone());
    let backend = Backend::new(move |mut wire, _| {
        while let Some((head, _)) = wire.request() {
            let mut said = 200;
            if head.starts_with("GET /health ") {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = wait.lock().expect("no test panics with it").recv();
                said = status.load(Ordering::SeqCst);
            }
            wire.send(format!("HTTP/1.1 {said} X\r\nContent-Length: {}\r\n\r\n{name}", name.len()));
        }
    });
    (Patient { backend, health, probes }, go)
}

#[test]
fn who_has_not_answered_yet_gets_nothing_while_another_is_known_to_be_well() {
    let (a, (b, go)) = (patient("a"), late("b"));
    let house = House::new(1, &pool(&[&a, &b], "healthCheck: {interval: 1h, timeout: 1m, uri: /health}"));
    let (passed, of_a) = ("weir_upstream_health_checks_total", format!("{}\",result=\"passed", a.backend.port));
    let end = Instant::now() + Duration::from_secs(60);
    while house.metric(passed, &of_a) == 0 {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(answers(&house, 8), [("a".to_owned(), 8)].into());
    go.send(()).expect("b is asked");
    until(&house, "b has answered", &[("a", 3), ("b", 3)]);
    assert_eq!(house.metric("weir_upstream_panics_total", ""), 0);
    assert_eq!(b.probes.load(Ordering::SeqCst), 1);
}

#[test]
fn requests_wait_for_what_the_first_probes_say() {
    let (a, go) = late("a");
    a.is(503);
    let begun = Instant::now();
    let house = House::new(1, &pool(&[&a], "healthCheck: {interval: 1h, timeout: 1m, uri: /health}"));
    let said = house.begin(0, get("/"));
    let end = Instant::now() + Duration::from_secs(60);
    while a.probes.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(1));
    }
    go.send(()).expect("a is asked");
    let said = said.recv_timeout(Duration::from_secs(60)).expect("an answer");
    // Where all of this took longer than anybody waits, a was asked without being known.
    assert!(said.status == 503 || begun.elapsed() >= Duration::from_secs(1), "{} {:?}", said.status, said.took);
    until(&house, "it is unwell", &[("503 internalError", 2)]);
    // Nobody waits for ever: a server that does not say how it is is used when no other is there.
    let (b, _go) = late("b");
    let house = House::new(1, &pool(&[&b], "healthCheck: {interval: 1h, timeout: 1m, uri: /health}"));
    assert_eq!(answers(&house, 3), [("b".to_owned(), 3)].into());
    assert_eq!(house.metric("weir_upstream_panics_total", ""), 0);
}
