//! A Proxy that sends requests more than once: tries within a budget, second servers, and redirects.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::*;

const RETRY: &str = "{name: r, kind: Retry, maxAttempts: 5, waitDuration: 1ms}";

#[test]
fn no_more_is_tried_again_than_the_budget_has() {
    let backend = Backend::answering("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n");
    let pool = |budget: &str| {
        format!("pools: [{{servers: [{{url: 'http://127.0.0.1:{}'}}], retryPolicy: r, {budget}}}]", backend.port)
    };
    let house = House::with_policies(1, &pool("retryBudget: {percent: 50, minPerSecond: 0, window: 60s}"), &[RETRY]);
    for _ in 0..20 {
        assert_eq!(house.ask(get("/")).status, 503);
    }
    // Half as many again as there were requests.
    assert_eq!(backend.seen().len(), 30);
    assert_eq!(house.metric("weir_upstream_retries_total", ""), 10);
    assert!(house.metric("weir_limit_hits_total", "retry_budget") >= 10);
    assert!(house.ask(get("/")).notes.contains("the retry budget is spent") || backend.seen().len() == 32);
    let house = House::with_policies(1, &pool("retryBudget: {percent: 0, minPerSecond: 100}"), &[RETRY]);
    let before = backend.seen().len();
    house.ask(get("/"));
    assert_eq!(backend.seen().len() - before, 5, "few may always be");
}

/// Answers after so long, to each request in turn.
fn slow(name: &'static str, delays: &'static [u64], status: u16) -> (Backend, Arc<AtomicUsize>) {
    let count = Arc::<AtomicUsize>::default();
    let counted = count.clone();
    let backend = Backend::new(move |mut wire, _| {
        while wire.request().is_some() {
            let nth = counted.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(delays[nth.min(delays.len() - 1)]));
            wire.send(format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{name}", name.len()));
        }
    });
    (backend, count)
}

fn two(a: &Backend, b: &Backend, more: &str) -> String {
    format!(
        "pools: [{{servers: [{{url: 'http://127.0.0.1:{}'}}, {{url: 'http://127.0.0.1:{}'}}], {more}}}]",
        a.port, b.port
    )
}

#[test]
fn a_second_server_is_asked_where_the_first_takes_long() {
    const LONG: u64 = 20_000;
    let ((a, asked_a), (b, asked_b)) = (slow("a", &[LONG], 200), slow("b", &[0], 200));
    let house = House::new(1, &two(&a, &b, "hedging: {delay: 30ms, percent: 100}"));
    let hedges = || house.metric("weir_upstream_hedges_total", "");
    // They take turns: one of two begins at the slow one. Where the machine is busy the other may seem slow as well.
    for _ in 0..4 {
        let said = house.ask(get("/"));
        assert_eq!((said.status, said.body.as_deref()), (200, Ok(&b"b"[..])));
    }
    let asked = || (asked_a.load(Ordering::SeqCst) + asked_b.load(Ordering::SeqCst)) as u64;
    let doubled = hedges();
    // What was given up before it went out is never read.
    assert!((2..=4).contains(&doubled) && asked() <= 4 + doubled, "{doubled} of 4 were doubled, {} came", asked());
    assert_eq!(house.metric("weir_upstream_hedges_won_total", ""), 2);
    assert_eq!(house.errors("canceled"), doubled, "the slow ones were given up");
    // A body in memory goes out twice; what must not be done twice does not.
    let said = house.ask(Ask { method: "PUT", ..post(b"body") });
    let again = house.ask(Ask { method: "PUT", ..post(b"body") });
    assert_eq!((said.status, again.status), (200, 200));
    assert!(hedges() > doubled);
    let (doubled, before) = (hedges(), asked());
    let said = [house.begin(0, post(b"x")), house.begin(0, post(b"x"))];
    let quick = || said.iter().filter(|said| said.try_recv().is_ok()).count();
    let end = Instant::now() + Duration::from_secs(60);
    while quick() == 0 {
        assert!(Instant::now() < end, "b answers");
        std::thread::sleep(Duration::from_millis(5));
    }
    while asked() < before + 2 {
        assert!(Instant::now() < end, "a is asked");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Many times as long as what is doubled has to wait for.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((quick(), hedges()), (0, doubled));
}

#[test]
fn a_session_is_asked_of_its_server_alone() {
    let ((a, _), (b, _)) = (slow("a", &[300], 200), slow("b", &[0], 200));
    for (mode, cookie) in [("DurationBased", None), ("CookieConsistentHash, appCookieName: SID", Some("SID"))] {
        let sticky = format!("loadBalance: {{stickySession: {{mode: {mode}}}}}");
        let calm = House::new(1, &two(&a, &b, &sticky));
        let ask = |house: &House, pair: &'static str| {
            let said = house.ask(Ask { headers: vec![("Cookie", pair)], ..get("/") });
            (String::from_utf8(said.body.unwrap()).unwrap(), said.headers)
        };
        // A cookie that leads to a.
        let pair: &'static str = (0..99)
            .find_map(|user| {
                let pair: &'static str = format!("SID=user-{user}").leak();
                let (name, headers) = ask(&calm, pair);
                let ours = || headers.split("EG_SESSION=").nth(1).map(|rest| format!("EG_SESSION={}", &rest[..80]));
                let found = cookie.map_or_else(ours, |_| Some(pair.to_owned()));
                (name == "a").then(|| &*found.expect("a cookie").leak())
            })
            .expect("one of them leads to a");
        let house = House::new(1, &two(&a, &b, &format!("{sticky}, hedging: {{delay: 10ms, percent: 100}}")));
        assert_eq!(ask(&house, pair).0, "a", "{mode}");
        assert_eq!(house.metric("weir_upstream_hedges_total", ""), 0, "{mode}");
    }
}

#[test]
fn a_failure_does_not_win_while_the_other_may_do_better() {
    let ((a, asked_a), (b, _)) = (slow("a", &[300], 200), slow("b", &[0], 503));
    let house = House::new(1, &two(&a, &b, "hedging: {delay: 20ms, percent: 100}"));
    let (mut well, mut failed, end) = (0, 0, Instant::now() + Duration::from_secs(60));
    // Where b was the first and quick, nothing is doubled; on a busy machine it may not be quick each time.
    while well == 0 || failed == 0 {
        assert!(Instant::now() < end, "{well} from a, {failed} from b");
        let said = house.ask(get("/"));
        match (said.status, said.body.as_deref()) {
            (200, Ok(b"a")) => well += 1,
            (503, Ok(b"b")) => failed += 1,
            other => panic!("{other:?}"),
        }
        assert_eq!(well, asked_a.load(Ordering::SeqCst), "whatever a was asked is what it says");
    }
}

#[test]
fn no_more_is_doubled_than_the_document_says() {
    let ((a, _), (b, _)) = (slow("a", &[60], 200), slow("b", &[60], 200));
    let house = House::new(1, &two(&a, &b, "hedging: {delay: 5ms, percent: 10}"));
    let began = Instant::now();
    (0..40).for_each(|_| assert_eq!(house.ask(get("/")).status, 200));
    let doubled = house.metric("weir_upstream_hedges_total", "");
    // One per second, over the ten that are looked back.
    assert!((1..=10 + began.elapsed().as_secs()).contains(&doubled), "{doubled}");
    // On a busy machine an answer may be there before the delay is over.
    let spent = house.metric("weir_limit_hits_total", "hedges\"");
    assert!((20..=40 - doubled).contains(&spent), "{spent} {doubled}");
}

/// A backend that redirects as its paths say, and remembers what it was asked.
fn redirecting(elsewhere: &str) -> Backend {
    let elsewhere = elsewhere.to_owned();
    let seen: Seen = Arc::default();
    let record = seen.clone();
    let mut backend = Backend::new(move |mut wire, _| {
        while let Some(request) = wire.request() {
            let target = request.0.split(' ').nth(1).unwrap_or_default().to_owned();
            record.lock().unwrap().push(request);
            let to = match target.as_str() {
                "/a" => Some((302, "/b".to_owned())),
                "/b" => Some((301, "c?q=1".to_owned())),
                "/loop" => Some((307, "/loop".to_owned())),
                "/keep" => Some((307, "/end".to_owned())),
                "/away" => Some((302, format!("{elsewhere}/end"))),
                "/metadata" => Some((302, "http://169.254.169.254/latest".to_owned())),
                "/other-scheme" => Some((302, "ftp://a.test/".to_owned())),
                _ => None,
            };
            wire.send(match to {
                Some((status, to)) => format!("HTTP/1.1 {status} X\r\nLocation: {to}\r\nContent-Length: 3\r\n\r\nold"),
                None => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len()),
            });
        }
    });
    backend.seen = seen;
    backend
}

fn follows(backend: &Backend, most: u32) -> House {
    House::new(1, &format!("maxRedirection: {most}\n{}", to(backend.port)))
}

#[test]
fn redirects_are_followed_as_far_as_the_document_says() {
    let backend = redirecting("");
    for (most, target, status, body, requests) in [
        (0, "/a", 302, "old", 1),
        (1, "/a", 301, "old", 2),
        (2, "/a", 200, "/c?q=1", 3),
        (9, "/a", 200, "/c?q=1", 3),
        (3, "/loop", 307, "old", 4),
        (99, "/loop", 307, "old", 21),
        (5, "/other-scheme", 302, "old", 1),
        (5, "/metadata", 302, "old", 1),
    ] {
        let before = backend.seen().len();
        let house = follows(&backend, most);
        let said = house.ask(get(target));
        let shown = String::from_utf8(said.body.unwrap()).unwrap();
        assert_eq!((said.status, shown.as_str(), said.outcome), (status, body, ""), "{most} {target}");
        assert_eq!(backend.seen().len() - before, requests, "{most} {target}");
        let refused =
            u64::from(most > 0 && (target == "/loop" || target == "/metadata" || (most, target) == (1, "/a")));
        assert_eq!(house.metric("weir_limit_hits_total", "redirects"), refused, "{most} {target}");
    }
}

#[test]
fn methods_bodies_and_credentials_go_where_they_may() {
    let other = redirecting("");
    let backend = redirecting(&format!("http://127.0.0.1:{}", other.port));
    let house = follows(&backend, 5);
    let secret = vec![("Authorization", "Bearer x"), ("Cookie", "a=b"), ("X-Own", "1")];
    let asked = |backend: &Backend| backend.seen().last().cloned().unwrap();
    assert_eq!(house.ask(Ask { headers: secret.clone(), ..Ask { target: "/a", ..post(b"body") } }).status, 200);
    let (head, body) = asked(&backend);
    assert!(head.starts_with("GET /c?q=1 ") && body.is_empty() && head.contains("Bearer x"), "{head}");
    assert_eq!(house.ask(Ask { target: "/keep", ..post(b"body") }).status, 200);
    let (head, body) = asked(&backend);
    assert!(head.starts_with("POST /end ") && body == b"body", "{head}");
    let streamed = Ask { method: "POST", target: "/keep", pieces: vec![b"body".to_vec()], ..Ask::default() };
    assert_eq!(house.ask(streamed).status, 307, "what streams is gone");
    assert_eq!(house.ask(Ask { headers: secret, ..get("/away") }).status, 200);
    let (head, _) = asked(&other);
    assert!(head.starts_with("GET /end ") && head.contains("X-Own: 1\r\n"), "{head}");
    assert!(head.contains(&format!("Host: 127.0.0.1:{}\r\n", other.port)), "{head}");
    assert!(!head.contains("Bearer") && !head.contains("Cookie"), "{head}");
    assert!(house.ask(get("/away")).notes.contains("redirected to"));
}

#[test]
fn a_server_is_not_blamed_for_where_it_points() {
    let broken = Backend::answering("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n");
    let elsewhere = format!("http://127.0.0.1:{}", broken.port);
    let (a, b) = (redirecting(&elsewhere), redirecting(&elsewhere));
    let more = "outlierDetection: {consecutiveErrors: 1, maxEjectionPercent: 100}";
    let house = House::new(1, &format!("maxRedirection: 3\n{}", two(&a, &b, more)));
    for _ in 0..6 {
        assert_eq!(house.ask(get("/away")).status, 500);
    }
    assert_eq!((a.seen().len(), b.seen().len()), (3, 3), "both take their turns");
    assert_eq!(house.metric("weir_upstream_ejections_total", ""), 0);
}

#[test]
fn a_server_that_a_redirect_leads_to_counts_what_it_answers() {
    const BROKEN: &str = "HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n";
    let b = Backend::answering(BROKEN);
    let a = redirecting(&format!("http://127.0.0.1:{}", b.port));
    let requests = |house: &House, of: &Backend| house.metric("weir_upstream_requests_total", &of.port.to_string());
    // They take turns; whoever begins at a comes to b.
    let more = "outlierDetection: {consecutiveErrors: 4}";
    let house = House::new(1, &format!("maxRedirection: 3\n{}", two(&a, &b, more)));
    let asked: usize = (0..4).map(|_| usize::from(house.ask(get("/away")).status == 503)).sum();
    assert_eq!((asked, a.seen().len()), (4, 2), "both are chosen, and only b answers");
    assert_eq!((requests(&house, &a), requests(&house, &b)), (2, 4));
    assert_eq!(house.metric("weir_upstream_ejections_total", &b.port.to_string()), 1, "whoever led there");
    assert_eq!(house.metric("weir_upstream_ejections_total", &a.port.to_string()), 0);
    // One of another pool counts there.
    let spec = format!(
        "maxRedirection: 3\npools: [{{servers: [{{url: 'http://127.0.0.1:{}'}}], filter: {{headers: {{X-B: {{exact: 'yes'}}}}}}}}, \
         {{servers: [{{url: 'http://127.0.0.1:{}'}}]}}]",
        b.port, a.port
    );
    let house = House::new(1, &spec);
    assert_eq!(house.ask(get("/away")).status, 503);
    assert_eq!((requests(&house, &a), requests(&house, &b)), (1, 1));
    let of_candidate = format!("candidate#0\",server=\"http://127.0.0.1:{}", b.port);
    assert_eq!(house.metric("weir_upstream_requests_total", &of_candidate), 1);
    // And so does one that cannot be connected to.
    let dead = dead_port();
    let a = redirecting(&format!("http://127.0.0.1:{dead}"));
    let spec = format!(
        "maxRedirection: 3\npools: [{{servers: [{{url: 'http://127.0.0.1:{}'}}, {{url: 'http://127.0.0.1:{dead}'}}]}}]",
        a.port
    );
    let house = House::new(1, &spec);
    (0..8).for_each(|_| drop(house.ask(get("/away"))));
    assert_eq!(house.metric("weir_upstream_ejections_total", &dead.to_string()), 1);
}
