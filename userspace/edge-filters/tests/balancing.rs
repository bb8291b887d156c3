//! A Proxy that chooses among its servers as the document says: sessions that stick, servers that are busy, pools that divide requests.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use support::*;

/// A backend that says who it is, and holds answers to `/slow` until it is let go.
struct Named {
    backend: Backend,
    /// It answers `/health` with 500.
    unwell: Arc<AtomicBool>,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

fn named(name: &'static str) -> Named {
    let gate: Arc<(Mutex<bool>, Condvar)> = Arc::default();
    let inside = gate.clone();
    let unwell = Arc::<AtomicBool>::default();
    let is_unwell = unwell.clone();
    let seen: Seen = Arc::default();
    let record = seen.clone();
    let mut backend = Backend::new(move |mut wire, _| {
        while let Some(request) = wire.request() {
            if request.0.contains(" /health ") {
                let status = if is_unwell.load(Ordering::SeqCst) { 500 } else { 200 };
                wire.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"));
                continue;
            }
            let (slow, login) = (request.0.contains(" /slow"), request.0.contains(" /login"));
            record.lock().unwrap().push(request);
            if slow {
                let open = inside.0.lock().unwrap();
                drop(inside.1.wait_while(open, |open| !*open).unwrap());
            }
            let set = if login { "Set-Cookie: SID=abc\r\n" } else { "" };
            wire.send(format!("HTTP/1.1 200 OK\r\n{set}Content-Length: {}\r\n\r\n{name}", name.len()));
        }
    });
    backend.seen = seen;
    Named { backend, unwell, gate }
}

impl Named {
    fn let_go(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }

    fn url(&self) -> String {
        format!("{{url: 'http://127.0.0.1:{}'}}", self.backend.port)
    }

    /// Waits until so many requests have come.
    fn has_got(&self, count: usize) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.backend.seen().len() < count {
            assert!(Instant::now() < end, "{} of {count}", self.backend.seen().len());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn pool(servers: &[&Named], more: &str) -> String {
    let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
    format!("pools: [{{servers: [{}], {more}}}]", urls.join(", "))
}

fn body(said: Said) -> String {
    String::from_utf8(said.body.expect("a body")).expect("text")
}

#[test]
fn a_cookie_of_ours_leads_back() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    for (mode, first) in [("DurationBased", "/"), ("ApplicationBased", "/login")] {
        let sticky = format!(
            "loadBalance: {{stickySession: {{mode: {mode}, appCookieName: SID, lbCookieName: LB, lbCookieExpire: 1m}}}}"
        );
        let sticky = if mode == "DurationBased" { sticky.replace("appCookieName: SID, ", "") } else { sticky };
        let house = House::new(1, &pool(&[&a, &b, &c], &sticky));
        if mode == "ApplicationBased" {
            assert!(!house.ask(get("/")).headers.contains("LB="), "the application has set nothing yet");
        }
        let said = house.ask(get(first));
        let set = said.headers.split("LB=").nth(1).expect("a cookie of ours").to_owned();
        assert!(set.contains("Max-Age=60; HttpOnly"), "{set}");
        let pair: &'static str = format!("x=y; LB={}", &set[..80]).leak();
        let home = body(said);
        let back = |house: &House| body(house.ask(Ask { headers: vec![("Cookie", pair)], ..get("/") }));
        for _ in 0..9 {
            assert_eq!(back(&house), home, "{mode}");
        }
        // After a change of the document, in another order and with others.
        let others = House::new(1, &pool(&[&c, &b, &a], &sticky));
        assert!((0..9).all(|_| back(&others) == home), "{mode}");
        // The server is gone from the document.
        let left: Vec<&Named> =
            [(&a, "a"), (&b, "b"), (&c, "c")].into_iter().filter(|(_, n)| *n != home).map(|(s, _)| s).collect();
        let without = House::new(1, &pool(&left, &sticky));
        let said = without.ask(Ask { headers: vec![("Cookie", pair)], ..get("/login") });
        assert!(said.headers.contains("LB=") && body(said) != home, "another one, and a cookie for it");
    }
}

#[test]
fn the_applications_cookie_is_hashed_and_leads_past_who_is_unwell() {
    let servers = [named("a"), named("b"), named("c"), named("d")];
    let all: Vec<&Named> = servers.iter().collect();
    let sticky = "loadBalance: {stickySession: {mode: CookieConsistentHash, appCookieName: SID}}";
    let house = House::new(1, &pool(&all, sticky));
    let of_user = |house: &House, user: usize| {
        let cookie: &'static str = format!("SID=user-{user}").leak();
        body(house.ask(Ask { headers: vec![("Cookie", cookie)], ..get("/") }))
    };
    let homes: Vec<String> = (0..40).map(|user| of_user(&house, user)).collect();
    assert!(["a", "b", "c", "d"].iter().all(|name| homes.iter().any(|home| home == name)), "{homes:?}");
    assert!((0..40).all(|user| of_user(&house, user) == homes[user]));
    // Without the cookie they take turns.
    let turns: Vec<String> = (0..8).map(|_| body(house.ask(get("/")))).collect();
    assert!(turns[..4] == turns[4..] && turns[0] != turns[1], "{turns:?}");
    // One that is asked for what it does not say is unwell: its users go elsewhere, the others stay.
    let a = servers[0].backend.port;
    let check =
        format!("{sticky}, healthCheck: {{interval: 20ms, match: {{body: {{type: regexp, value: '^[b-d]$'}}}}}}");
    let house = House::new(1, &pool(&all, &check));
    house.await_metric("weir_upstream_health_falls_total", 1);
    assert_eq!(house.metric("weir_upstream_healthy", &a.to_string()), 0);
    for (user, home) in homes.iter().enumerate() {
        let now = of_user(&house, user);
        assert!(if home == "a" { now != "a" } else { now == *home }, "{user}: {home} {now}");
        assert_eq!(of_user(&house, user), now, "the same other one");
    }
}

#[test]
fn each_server_has_as_many_requests_as_it_may() {
    let (a, b) = (named("a"), named("b"));
    let server = format!("servers: [{{url: 'http://127.0.0.1:{}', maxConcurrency: 2}}, {}]", a.backend.port, b.url());
    let house = House::new(2, &format!("pools: [{{{server}, maxConcurrency: 1}}]"));
    let held: Vec<_> = (0..3).map(|n| house.begin(n % 2, get("/slow"))).collect();
    a.has_got(2);
    b.has_got(1);
    let said = house.ask(get("/"));
    assert_eq!((said.status, said.outcome), (503, "internalError"));
    assert!(said.notes.contains("each server has as many requests as it may have"), "{}", said.notes);
    assert_eq!(house.metric("weir_limit_hits_total", "server_requests"), 1);
    b.let_go();
    a.let_go();
    held.into_iter().for_each(|said| assert_eq!(said.recv().unwrap().status, 200));
    assert_eq!((a.backend.seen().len(), b.backend.seen().len()), (2, 1));
    assert_eq!(house.ask(get("/")).status, 200, "their places are free");
}

#[test]
fn requests_wait_in_turn_and_not_for_ever() {
    let a = named("a");
    let house = House::new(2, &pool(&[&a], "maxConcurrency: 1, queue: {size: 2, timeout: 30s}"));
    let first = house.begin(0, get("/slow"));
    a.has_got(1);
    let waiting = ["/1", "/2"].into_iter().enumerate().map(|(n, target)| {
        let said = house.begin(n, get(target));
        house.await_metric("weir_limit_hits_total{limit=\"server_requests\"}", n as u64 + 1);
        std::thread::sleep(Duration::from_millis(20));
        said
    });
    let waiting: Vec<_> = waiting.collect();
    let said = house.ask(get("/3"));
    assert_eq!((said.status, said.outcome), (503, "internalError"));
    assert!(said.notes.contains("the queue is full"), "{}", said.notes);
    assert_eq!(house.metric("weir_limit_hits_total", "server_queue\""), 1);
    a.let_go();
    assert_eq!(first.recv().unwrap().status, 200);
    waiting.into_iter().for_each(|said| assert_eq!(said.recv().unwrap().status, 200));
    let order: Vec<String> =
        a.backend.seen().iter().map(|(head, _)| head.split(' ').nth(1).unwrap_or_default().to_owned()).collect();
    assert_eq!(order, ["/slow", "/1", "/2"]);

    let b = named("b");
    let house = House::new(1, &pool(&[&b], "maxConcurrency: 1, queue: {timeout: 30ms}"));
    let held = house.begin(0, get("/slow"));
    b.has_got(1);
    let said = house.ask(get("/"));
    assert_eq!((said.status, house.metric("weir_limit_hits_total", "server_queue_time")), (503, 1));
    assert!(said.notes.contains("for as long as requests may wait"), "{}", said.notes);
    b.let_go();
    assert_eq!(held.recv().unwrap().status, 200);
    assert_eq!(house.ask(get("/")).status, 200);
}

/// What is under way and what waits, as the pool's adaptive limit has it.
fn adaptive(house: &House) -> (u64, u64, u64) {
    let status = house.status()["mainPool"]["adaptiveConcurrency"].clone();
    let figure = |name: &str| status[name].as_u64().expect("a number");
    (figure("limit"), figure("inFlight"), figure("waiting"))
}

/// Waits until that is so.
fn await_adaptive(house: &House, wanted: (u64, u64, u64)) {
    let end = Instant::now() + Duration::from_secs(60);
    while adaptive(house) != wanted {
        assert!(Instant::now() < end, "{:?}, not {wanted:?}", adaptive(house));
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Of the rank that every other one has: the cohorts of clients change with the clock.
fn ranked(target: &'static str) -> Ask {
    Ask { headers: vec![("X-Weir-Priority", "64")], ..get(target) }
}

#[test]
fn an_adaptive_limit_is_within_what_servers_may_have_and_requests_wait_once() {
    let a = named("a");
    let limit = "maxConcurrency: 2, adaptiveConcurrency: {minLimit: 5, maxLimit: 100, maxQueue: 1, maxWait: 1h, trustPriority: true}";
    let house = House::new(2, &pool(&[&a], limit));
    let held: Vec<_> = (0..2).map(|n| house.begin(n, get("/slow"))).collect();
    a.has_got(2);
    let waiting = house.begin(0, ranked("/waits"));
    await_adaptive(&house, (2, 2, 1));
    let said = house.ask(ranked("/3"));
    assert_eq!((said.status, said.outcome), (503, "overloaded"), "{}", said.notes);
    assert_eq!(house.metric("weir_limit_hits_total", "server_requests"), 0, "nobody waited for the server's own bound");
    assert_eq!(a.backend.seen().len(), 2);
    a.let_go();
    held.into_iter().chain([waiting]).for_each(|said| assert_eq!(said.recv().unwrap().status, 200));
    await_adaptive(&house, (2, 0, 0));

    // Where servers differ, the bound of each holds as well.
    let (b, c) = (named("b"), named("c"));
    let servers = format!(
        "servers: [{{url: 'http://127.0.0.1:{}', maxConcurrency: 1}}, {{url: 'http://127.0.0.1:{}', maxConcurrency: 3}}]",
        b.backend.port, c.backend.port
    );
    let house = House::new(2, &format!("pools: [{{{servers}, adaptiveConcurrency: {{initialLimit: 100}}}}]"));
    let held: Vec<_> = (0..4).map(|n| house.begin(n % 2, get("/slow"))).collect();
    b.has_got(1);
    c.has_got(3);
    let said = house.ask(get("/"));
    assert_eq!((said.status, said.outcome, b.backend.seen().len()), (503, "internalError", 1));
    b.let_go();
    c.let_go();
    held.into_iter().for_each(|said| assert_eq!(said.recv().unwrap().status, 200));
    await_adaptive(&house, (6, 0, 0));
    assert_eq!(house.ask(get("/")).status, 200, "their places are free");
}

#[test]
fn a_server_that_has_enough_is_left_to_others() {
    let (a, b) = (named("a"), named("b"));
    let limit = "maxConcurrency: 9, adaptiveConcurrency: {minLimit: 1, initialLimit: 1, maxLimit: 1}";
    let house = House::new(1, &pool(&[&a, &b], limit));
    let first = house.begin(0, get("/slow"));
    let end = Instant::now() + Duration::from_secs(60);
    while a.backend.seen().len() + b.backend.seen().len() == 0 {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(2));
    }
    let (busy, free) = if a.backend.seen().is_empty() { (&b, "a") } else { (&a, "b") };
    for _ in 0..6 {
        assert_eq!(body(house.ask(get("/"))), free);
    }
    assert_eq!(busy.backend.seen().len(), 1);
    busy.let_go();
    assert_eq!(first.recv().unwrap().status, 200);
    await_adaptive(&house, (2, 0, 0));
    let both: Vec<String> = (0..4).map(|_| body(house.ask(get("/")))).collect();
    assert!(both[0] != both[1] && both[..2] == both[2..], "{both:?}");
}

#[test]
fn a_line_serves_the_oldest_until_it_stands_and_nobody_waits_for_ever() {
    for (delay, wanted) in [("1h", ["/slow", "/1", "/2", "/3"]), ("1ms", ["/slow", "/3", "/2", "/1"])] {
        let a = named("a");
        let limit = format!(
            "minLimit: 1, initialLimit: 1, maxLimit: 1, maxWait: 1h, targetDelay: {delay}, trustPriority: true"
        );
        let house = House::new(1, &pool(&[&a], &format!("adaptiveConcurrency: {{{limit}}}")));
        let first = house.begin(0, get("/slow"));
        a.has_got(1);
        let waiting = ["/1", "/2", "/3"].into_iter().zip(1..).map(|(target, n)| {
            let said = house.begin(0, ranked(target));
            await_adaptive(&house, (1, 1, n));
            std::thread::sleep(Duration::from_millis(20));
            said
        });
        let waiting: Vec<_> = waiting.collect();
        a.let_go();
        assert_eq!(first.recv().unwrap().status, 200);
        waiting.into_iter().for_each(|said| assert_eq!(said.recv().unwrap().status, 200));
        let order: Vec<String> =
            a.backend.seen().iter().map(|(head, _)| head.split(' ').nth(1).unwrap_or_default().to_owned()).collect();
        assert_eq!(order, wanted, "{delay}");
    }
    let a = named("a");
    let limit = "adaptiveConcurrency: {minLimit: 1, initialLimit: 1, maxLimit: 1, maxWait: 30ms}";
    let house = House::new(1, &pool(&[&a], limit));
    let first = house.begin(0, get("/slow"));
    a.has_got(1);
    let said = house.ask(get("/"));
    assert_eq!((said.status, said.outcome), (503, "overloaded"));
    assert!(said.notes.contains("refused: waited"), "{}", said.notes);
    a.let_go();
    assert_eq!(first.recv().unwrap().status, 200);
}

/// A stream is no queue: as long as it is open, however many there are, calls that end have their places.
#[test]
fn what_lasts_gives_its_place_up_once_its_head_has_come() {
    for kind in ["text/event-stream", "application/grpc", "application/grpc+proto"] {
        let gate: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let inside = gate.clone();
        let backend = Backend::new(move |mut wire, _| {
            while let Some(request) = wire.request() {
                if !request.0.contains(" /stream ") {
                    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                    continue;
                }
                let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n");
                wire.send(format!("{head}5\r\nfirst\r\n"));
                let open = inside.0.lock().unwrap();
                drop(inside.1.wait_while(open, |open| !*open).unwrap());
                wire.send("0\r\n\r\n");
            }
        });
        let limit = "adaptiveConcurrency: {minLimit: 1, initialLimit: 1, maxLimit: 1, maxWait: 30ms}";
        let server = format!("{{url: 'http://127.0.0.1:{}'}}", backend.port);
        let house = House::new(1, &format!("pools: [{{servers: [{server}], {limit}}}]"));
        let stream = house.begin(0, get("/stream"));
        let end = Instant::now() + Duration::from_secs(20);
        while house.ask(get("/")).status != 200 {
            assert!(Instant::now() < end, "{kind} holds its place");
        }
        assert!(stream.try_recv().is_err(), "it is open");
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        assert_eq!(stream.recv().unwrap().status, 200);
        await_adaptive(&house, (1, 0, 0));
    }
}

/// Waits until one is served while another holds what place there is, or held it.
fn is_served(house: &House, what: &str) {
    let end = Instant::now() + Duration::from_secs(30);
    while house.ask(get("/")).status != 200 {
        assert!(Instant::now() < end, "{what} holds its place: {:?}", adaptive(house));
    }
}

/// A place belongs to the work of a server, not to whoever takes its time at the other end.
#[test]
fn a_client_that_takes_its_time_holds_no_place() {
    let gate: Arc<(Mutex<bool>, Condvar)> = Arc::default();
    let inside = gate.clone();
    let backend = Backend::new(move |mut wire, _| {
        while let Some((head, _)) = wire.request() {
            if head.contains(" /big ") {
                wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 3 << 20));
                wire.send(vec![b'x'; 3 << 20]);
                continue;
            }
            if head.contains(" /upload ") {
                let open = inside.0.lock().unwrap();
                drop(inside.1.wait_while(open, |open| !*open).unwrap());
            }
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let limit = "adaptiveConcurrency: {minLimit: 1, initialLimit: 1, maxLimit: 1, maxWait: 30ms}";
    let server = format!("{{url: 'http://127.0.0.1:{}'}}", backend.port);
    let house = House::new(1, &format!("pools: [{{servers: [{server}], {limit}}}]"));
    let lent = |house: &House| house.status()["mainPool"]["adaptiveConcurrency"]["lent"].as_u64();

    let said_all = Arc::<AtomicBool>::default();
    let pieces = vec![b"some".to_vec()];
    let until = Some(said_all.clone());
    let upload = house.begin(0, Ask { method: "POST", target: "/upload", pieces, until, ..Ask::default() });
    is_served(&house, "who speaks slowly");
    assert_eq!((adaptive(&house), lent(&house)), ((1, 0, 0), Some(1)));
    // Once all is said the work begins, and has a place.
    said_all.store(true, Ordering::SeqCst);
    await_adaptive(&house, (1, 1, 0));
    assert_eq!((house.ask(get("/")).outcome, lent(&house)), ("overloaded", Some(0)));
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    assert_eq!(upload.recv().unwrap().status, 200);

    let reader = house.begin_and_stop(0, get("/big"));
    is_served(&house, "who reads slowly");
    assert_eq!((adaptive(&house), lent(&house)), ((1, 0, 0), Some(1)));
    // Another one has it, and no more are lent than there are: the server may be busy with them.
    let another = house.begin_and_stop(0, get("/big"));
    await_adaptive(&house, (1, 1, 0));
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!((house.ask(get("/")).outcome, lent(&house)), ("overloaded", Some(1)));
    drop((house, reader, another));
}

/// Uploads that go on after their answers, whose places were lent while their clients said nothing.
#[test]
fn what_is_said_after_the_answer_takes_no_place() {
    let gate: Arc<(Mutex<bool>, Condvar)> = Arc::default();
    let inside = gate.clone();
    let backend = Backend::new(move |mut wire, _| {
        while let Some(head) = wire.head() {
            let uploads = head.contains(" /upload ");
            if uploads {
                let open = inside.0.lock().unwrap();
                drop(inside.1.wait_while(open, |open| !*open).unwrap());
            }
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            if uploads {
                wire.rest_of_chunks();
            }
        }
    });
    let limit = "adaptiveConcurrency: {minLimit: 3, initialLimit: 3, maxLimit: 3, maxWait: 30ms}";
    let server = format!("{{url: 'http://127.0.0.1:{}'}}", backend.port);
    let house = House::new(1, &format!("pools: [{{servers: [{server}], {limit}}}]"));
    let figures = |house: &House| {
        let status = house.status()["mainPool"]["adaptiveConcurrency"].clone();
        ["inFlight", "lent"].map(|name| status[name].as_u64().unwrap())
    };
    let said_all = Arc::<AtomicBool>::default();
    let uploads: Vec<_> = (0..3)
        .map(|_| {
            let (pieces, until) = (vec![b"some".to_vec()], Some(said_all.clone()));
            house.begin(0, Ask { method: "POST", target: "/upload", pieces, until, ..Ask::default() })
        })
        .collect();
    let end = Instant::now() + Duration::from_secs(60);
    while figures(&house) != [0, 3] {
        assert!(Instant::now() < end, "{:?}", figures(&house));
        std::thread::sleep(Duration::from_millis(2));
    }
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    uploads.into_iter().for_each(|said| assert_eq!(said.recv().unwrap().status, 200));
    said_all.store(true, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(figures(&house), [0, 0]);
    assert_eq!(house.ask(get("/")).status, 200);
}

#[test]
fn who_waits_for_a_server_is_told_when_the_deadline_has_passed() {
    let a = named("a");
    let house = House::new(1, &pool(&[&a], "maxConcurrency: 1, queue: {timeout: 1h}"));
    let first = house.begin(0, get("/slow"));
    a.has_got(1);
    let said = house.ask(Ask { headers: vec![("X-Request-Deadline", "40ms")], ..get("/") });
    assert_eq!((said.status, said.outcome), (504, "timeout"), "{}", said.notes);
    a.let_go();
    assert_eq!(first.recv().unwrap().status, 200);
    assert_eq!(a.backend.seen().len(), 1);
}

#[test]
fn a_second_server_is_asked_within_the_adaptive_limit_alone() {
    let (a, b) = (named("a"), named("b"));
    let limit = "hedging: {delay: 5ms, percent: 100}, adaptiveConcurrency: {minLimit: 1, initialLimit: 1, maxLimit: 1}";
    let house = House::new(1, &pool(&[&a, &b], limit));
    let servers = |house: &House| -> Vec<u64> {
        let servers = house.status()["mainPool"]["adaptiveConcurrency"]["servers"].clone();
        servers.as_array().unwrap().iter().map(|server| server["inFlight"].as_u64().unwrap()).collect()
    };
    let first = house.begin(0, get("/slow"));
    a.has_got(1);
    b.has_got(1);
    assert_eq!(servers(&house), [1, 1], "both are at work for it");
    // Whichever this one goes to, the other has one already.
    let second = house.begin(0, get("/slow"));
    await_adaptive(&house, (2, 2, 0));
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(servers(&house).iter().sum::<u64>(), 3);
    a.let_go();
    b.let_go();
    [first, second].into_iter().for_each(|said| assert_eq!(said.recv().unwrap().status, 200));
    await_adaptive(&house, (2, 0, 0));
    assert_eq!(servers(&house), [0, 0]);
}

#[test]
fn who_waits_goes_to_a_server_that_is_well_again() {
    let (a, b) = (named("a"), named("b"));
    b.unwell.store(true, Ordering::SeqCst);
    let check = "maxConcurrency: 1, queue: {timeout: 1h}, healthCheck: {interval: 10ms, uri: /health}";
    let house = House::new(2, &pool(&[&a, &b], check));
    house.await_metric("weir_upstream_health_falls_total", 1);
    let held = house.begin(0, get("/slow"));
    a.has_got(1);
    let waiting: Vec<_> = (0..2).map(|n| house.begin(n, get("/"))).collect();
    house.await_metric("weir_limit_hits_total{limit=\"server_requests\"}", 2);
    b.unwell.store(false, Ordering::SeqCst);
    for said in waiting {
        let said = said.recv_timeout(Duration::from_secs(60)).expect("an answer while a is busy");
        assert_eq!(body(said), "b");
    }
    a.let_go();
    assert_eq!(body(held.recv().unwrap()), "a");
}

#[test]
fn who_has_less_under_way_gets_more() {
    let (a, b) = (named("a"), named("b"));
    let house = House::new(1, &pool(&[&a, &b], "loadBalance: {policy: leastRequest}"));
    let held: Vec<_> = (0..8).map(|_| house.begin(0, get("/slow"))).collect();
    a.has_got(3);
    b.has_got(3);
    a.let_go();
    let end = Instant::now() + Duration::from_secs(60);
    while held.iter().filter(|said| said.try_recv().is_ok()).count() == 0 {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(50));
    let of_a = (0..40).filter(|_| body(house.ask(get("/"))) == "a").count();
    assert!(of_a >= 35, "{of_a} of 40 went to the one that has nothing to do");
    b.let_go();
}

#[test]
fn pools_divide_what_no_filter_took() {
    let (blue, green, canary) = (named("blue"), named("green"), named("canary"));
    let spec = |weights: [u32; 2]| {
        format!(
            "split: {{policy: cookieHash, cookieHashKey: uid}}\npools:\n- {{filter: {{cookies: {{canary: {{exact: 'yes'}}}}}}, servers: [{}]}}\n\
             - {{weight: {}, servers: [{}]}}\n- {{weight: {}, servers: [{}]}}\n",
            canary.url(),
            weights[0],
            blue.url(),
            weights[1],
            green.url()
        )
    };
    let of_all = |house: &House| -> Vec<String> {
        let ask = |user: usize| {
            let cookie: &'static str = format!("uid=user-{user}").leak();
            body(house.ask(Ask { headers: vec![("Cookie", cookie)], ..get("/") }))
        };
        (0..200).map(ask).collect()
    };
    let house = House::new(1, &spec([80, 20]));
    let before = of_all(&house);
    let tally = before.iter().fold(BTreeMap::<&str, usize>::new(), |mut tally, who| {
        *tally.entry(who).or_default() += 1;
        tally
    });
    assert!(tally.len() == 2 && (15..70).contains(&tally["green"]), "{tally:?}");
    assert_eq!(of_all(&house), before, "each user stays");
    assert_eq!(body(house.ask(Ask { headers: vec![("Cookie", "uid=1; canary=yes")], ..get("/") })), "canary");
    for (pool, least) in [("p/proxy#f#main", 100), ("p/proxy#f#main#1", 15), ("p/proxy#f#candidate#0", 1)] {
        let labels = format!("pool=\"{pool}\",");
        assert!(house.metric("weir_upstream_requests_total", &labels) >= least, "{pool}");
    }
    let promoted = of_all(&House::new(1, &spec([0, 100])));
    assert!(promoted.iter().all(|who| who == "green"));
    let rolled_back = of_all(&House::new(1, &spec([80, 20])));
    assert_eq!(rolled_back, before);
}
