//! The Cache filter in front of real backends.

#[macro_use]
mod support;

use base_runtime::IoMode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Answer, Backend, House, Message, eventually};

on_both_drivers![
    what_is_fresh_is_given_again,
    each_field_of_the_document_counts,
    what_is_private_is_for_nobody_else,
    what_stations_behind_vary_is_for_nobody_else,
    unkeyed_words_poison_nobody,
    a_304_makes_it_fresh_again,
    clients_that_have_it_get_304_and_parts_are_cut_out,
    stale_answers_stand_in_for_a_backend_that_fails,
    a_stale_answer_is_fetched_anew_beside_it,
    equal_misses_wait_for_one,
    who_leaves_first_leaves_the_fetch_to_another,
    a_write_makes_it_doubtful,
    purges_by_name,
    what_stands_in_front_is_each_clients_own,
];

/// A backend that plays by path, and counts.
struct Origin {
    backend: Backend,
}

impl Origin {
    /// Answers with these fields and the number of the request.
    fn new(fields: impl Fn(&Message) -> String + Send + Sync + 'static) -> Origin {
        let count = AtomicUsize::new(0);
        let backend = Backend::recording(move |message| {
            let body = (count.fetch_add(1, Ordering::SeqCst) + 1).to_string();
            let fields = fields(message);
            let (status, fields) = fields.split_once('|').unwrap_or(("200 OK", &fields));
            let bodiless = message.head.starts_with("HEAD ") || status.starts_with("304");
            let sent = if bodiless { "" } else { &body };
            format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{sent}", body.len()).into_bytes()
        });
        Origin { backend }
    }

    fn count(&self) -> usize {
        self.backend.seen().len()
    }
}

fn pipeline(port: u16, cache: &str) -> String {
    format!(
        "filters: [{{name: c, kind: Cache, {cache}}}, {{name: p, kind: Proxy, pools: [{{servers: [{{url: \
         'http://127.0.0.1:{port}'}}]}}]}}]"
    )
}

fn house(io: IoMode, origin: &Origin, cache: &str) -> House {
    let pipeline = pipeline(origin.backend.port, cache);
    House::with_workers(2, io, "", &pipeline, edge_listeners::Timeouts::default(), edge_filters::kind)
}

fn ask(house: &House, line: &str, fields: &[&str]) -> Answer {
    let lines: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let mut client = house.connect();
    client.send(format!("{line} HTTP/1.1\r\nHost: h.test\r\n{lines}\r\n").as_bytes());
    if line.starts_with("HEAD ") { client.bare_answer() } else { client.answer() }
}

fn get(house: &House, path: &str) -> String {
    ask(house, &format!("GET {path}"), &[]).text()
}

/// Asks twice; whether the second answer came from memory.
fn is_kept(house: &House, origin: &Origin, path: &str, fields: &[&str]) -> bool {
    let before = origin.count();
    let line = format!("GET {path}");
    let (one, two) = (ask(house, &line, fields), ask(house, &line, fields));
    let kept = origin.count() - before < 2;
    assert!(!kept || one.text() == two.text(), "{one:?} {two:?}");
    kept
}

/// The fields that the path names, one after each `:`; `_` stands for a blank.
fn fields_in(message: &Message) -> String {
    let words = message.target().trim_start_matches('/').split('?').next().unwrap_or_default();
    words.split(';').filter(|word| word.contains('=')).fold(String::new(), |fields, word| {
        let (name, value) = word.split_once('=').unwrap_or_default();
        fields + name + ": " + value.replace('_', " ").as_str() + "\r\n"
    })
}

fn what_is_fresh_is_given_again(io: IoMode) {
    let origin = Origin::new(|_| "Cache-Control: max-age=60\r\nX-Kept: 1\r\n".to_owned());
    let house = house(io, &origin, "cacheStatus: true");
    let first = ask(&house, "GET /a", &[]);
    assert_eq!((first.text().as_str(), first.field("cache-status")), ("1", Some("weir; fwd=uri-miss; stored")));
    let again = ask(&house, "GET /a", &[]);
    assert_eq!((again.text().as_str(), again.field("x-kept")), ("1", Some("1")));
    assert!(again.field("cache-status").unwrap().starts_with("weir; hit; ttl="), "{}", again.head);
    assert!(again.field("age").is_some() && again.field("date").is_some(), "{}", again.head);
    let head = ask(&house, "HEAD /a", &[]);
    assert_eq!((head.status(), head.field("content-length")), (200, Some("1")));
    assert_eq!(get(&house, "/a?q"), "2", "the query is part of the key");
    assert_eq!(ask(&house, "GET /a", &["Cache-Control: no-cache"]).text(), "3");
    assert_eq!(get(&house, "/a"), "3", "what a client had fetched anew is newer");
    assert_eq!(ask(&house, "GET /none", &["Cache-Control: only-if-cached"]).status(), 504);
    assert_eq!(origin.count(), 3);
    let text = house.telemetry.render(base_telemetry::Names::default());
    for series in
        ["weir_cache_requests_total{cache=\"app/c\",result=\"hit\"} 3", "weir_cache_entries{cache=\"app/c\"} 2"]
    {
        assert!(text.contains(series), "{series} in\n{text}");
    }
    // A change of the document that says nothing of what is kept leaves it there.
    house.pipeline("app", &pipeline(origin.backend.port, "cacheStatus: false"));
    let again = ask(&house, "GET /a", &[]);
    assert_eq!((again.text().as_str(), again.field("cache-status")), ("3", None));
    house.pipeline("app", &pipeline(origin.backend.port, "setCookie: keep"));
    assert_eq!(get(&house, "/a"), "4");
}

/// All but `disk`, which takes a data directory and a process that ends: see `server/tests/house/caches.rs`.
fn each_field_of_the_document_counts(io: IoMode) {
    let origin = Origin::new(fields_in);
    let kept = |cache: &str, path: &str, fields: &[&str]| is_kept(&house(io, &origin, cache), &origin, path, fields);
    const FRESH: &str = "/Cache-Control=max-age=60";
    for (cache, path, fields) in [
        ("setCookie: strip", "/Cache-Control=max-age=60;Set-Cookie=a", &[][..]),
        ("lifetimes: [{codes: [200], lifetime: 1m}]", "/plain", &[]),
        ("targetedFields: [X-Own]", "/X-Own=max-age=60;Cache-Control=no-store", &[]),
        ("obeyClients: false", FRESH, &["Cache-Control: no-cache"]),
    ] {
        assert!(kept(cache, path, fields), "{cache}");
        assert!(!kept("", path, fields), "without {cache}");
    }
    const CHANGED: &str = "/Last-Modified=Sun,_06_Nov_1994_08:49:37_GMT";
    for (cache, path) in [
        ("heuristicPercent: 0", CHANGED),
        ("heuristicMost: 0s", CHANGED),
        ("lifetimeMost: 0s", FRESH),
        ("targetedFields: []", "/CDN-Cache-Control=max-age=60"),
        ("maxEntryBytes: 1, maxBytes: 1048576", "/long;Cache-Control=max-age=60"),
    ] {
        let text = ask(&house(io, &origin, cache), &format!("GET {path}"), &[]);
        assert_eq!(text.status(), 200);
        assert!(text.body.len() > 1, "the numbers have more than one digit by now");
        assert!(!kept(cache, path, &[]), "{cache}");
        assert!(kept("", path, &[]), "without {cache}");
    }
    let differ = |cache: &str, one: (&str, &[&str]), two: (&str, &[&str])| {
        let house = house(io, &origin, cache);
        ask(&house, &format!("GET {}", one.0), one.1).text() != ask(&house, &format!("GET {}", two.0), two.1).text()
    };
    let tenants = ((FRESH, &["X-Tenant: a"][..]), (FRESH, &["X-Tenant: b"][..]));
    assert!(differ("keyHeaders: [X-Tenant]", tenants.0, tenants.1) && !differ("", tenants.0, tenants.1));
    let (one, two) = (format!("{FRESH}?a&utm=1"), format!("{FRESH}?a&utm=2"));
    assert!(!differ("ignoredQuery: [utm]", (&one, &[]), (&two, &[])) && differ("", (&one, &[]), (&two, &[])));
    // What has no room makes some.
    let small = house(io, &origin, "maxBytes: 1048576, maxEntryBytes: 1000");
    (0..3000).for_each(|n| drop(get(&small, &format!("{FRESH}?{n}"))));
    let text = small.telemetry.render(base_telemetry::Names::default());
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!(value("weir_cache_bytes") <= 1_048_576.0 && value("weir_cache_evicted_total") > 0.0, "{text}");
}

fn what_is_private_is_for_nobody_else(io: IoMode) {
    let origin = Origin::new(fields_in);
    let house = house(io, &origin, "");
    for (path, fields) in [
        ("/Cache-Control=private,max-age=60", &[][..]),
        ("/Cache-Control=no-store,max-age=60", &[]),
        ("/Cache-Control=max-age=60;Set-Cookie=a", &[]),
        ("/Cache-Control=max-age=60;Vary=*", &[]),
        ("/Cache-Control=max-age=60", &["Authorization: Basic eDp5"]),
        ("/Cache-Control=max-age=60;b", &["Cache-Control: no-store"]),
        ("/plain", &[]),
    ] {
        assert!(!is_kept(&house, &origin, path, fields), "{path} {fields:?}");
    }
    assert!(is_kept(&house, &origin, "/Cache-Control=public,max-age=60", &["Authorization: Basic eDp5"]));
    // One answer for each variant, and for each origin that may read it.
    let varied = "GET /Cache-Control=max-age=60;Vary=X-Kind";
    let kind = |kind: &str| ask(&house, varied, &[&format!("X-Kind: {kind}")]).text();
    let (a, b) = (kind("a"), kind("b"));
    assert_ne!(a, b);
    assert_eq!((kind("a"), kind("b")), (a, b));
    let allowed = "GET /Cache-Control=max-age=60;Access-Control-Allow-Origin=https://a.test";
    let one = ask(&house, allowed, &["Origin: https://a.test"]).text();
    assert_ne!(ask(&house, allowed, &["Origin: https://b.test"]).text(), one);
}

fn what_stations_behind_vary_is_for_nobody_else(io: IoMode) {
    let origin = Origin::new(fields_in);
    let port = origin.backend.port;
    let adaptor = "{name: a, kind: RequestAdaptor, header: {set: {X-Plan: gold}}}";
    let document = format!(
        "filters: [{{name: c, kind: Cache}}, {adaptor}, {{name: p, kind: Proxy, pools: [{{servers: [{{url: \
         'http://127.0.0.1:{port}'}}]}}]}}]"
    );
    let house = House::with_workers(2, io, "", &document, edge_listeners::Timeouts::default(), edge_filters::kind);
    assert!(!is_kept(&house, &origin, "/Cache-Control=max-age=60;Vary=X-Plan", &[]));
    assert!(is_kept(&house, &origin, "/Cache-Control=max-age=60;Vary=X-Kind", &[]), "it is as the client said it");
}

fn unkeyed_words_poison_nobody(io: IoMode) {
    let origin = Origin::new(|message| {
        let host = message.field("x-forwarded-host").unwrap_or("own").to_owned();
        format!("Cache-Control: max-age=60\r\nLocation: http://{host}/\r\n")
    });
    let house = house(io, &origin, "");
    for (n, evil) in [
        "X-Forwarded-Host: evil.test",
        "X_Forwarded-Host: evil.test",
        "X-Original-URL: /admin",
        "X-Rewrite-URL: /admin",
        "X-Forwarded-Proto: https",
        "X-HTTP-Method-Override: DELETE",
        "Forwarded: for=192.0.2.1;host=evil.test",
    ]
    .iter()
    .enumerate()
    {
        let line = format!("GET /{n}");
        let poison = ask(&house, &line, &[evil]);
        let clean = ask(&house, &line, &[]);
        if poison.status() == 200 {
            assert_ne!(clean.text(), poison.text(), "{evil}");
        }
        assert_eq!(clean.field("location"), Some("http://own/"));
        assert_eq!(ask(&house, &line, &[]).text(), clean.text(), "the clean one is kept");
    }
    // A GET with a body, and a request whose framing is in doubt.
    let with_body = house.ask("GET /body HTTP/1.1\r\nHost: h.test\r\nContent-Length: 1\r\n\r\nx");
    assert_ne!(get(&house, "/body"), with_body.text());
    let before = origin.count();
    let both = "GET /both HTTP/1.1\r\nHost: h.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!((house.ask(both).status(), origin.count()), (400, before));
    // What breaks off is not kept.
    let cut = Backend::new(|mut wire, _| {
        if wire.message().is_some() {
            wire.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 9\r\n\r\nhalf");
        }
    });
    let house = House::new(io, "", &pipeline(cut.port, ""));
    for _ in 0..2 {
        let mut wire = house.connect();
        wire.send(b"GET / HTTP/1.1\r\nHost: h.test\r\n\r\n");
        wire.rest();
    }
    assert_eq!(cut.connections(), 2);
}

fn a_304_makes_it_fresh_again(io: IoMode) {
    let origin = Origin::new(|message| {
        let own = message.field("if-none-match") == Some("\"v1\"");
        let status = if own { "304 Not Modified|" } else { "" };
        format!("{status}ETag: \"v1\"\r\nX-New: {}\r\nCache-Control: max-age={}\r\n", own, if own { 60 } else { 0 })
    });
    let house = house(io, &origin, "cacheStatus: true");
    assert_eq!(get(&house, "/"), "1");
    let again = ask(&house, "GET /", &["If-None-Match: \"mine\""]);
    assert_eq!((again.status(), again.text().as_str(), again.field("x-new")), (200, "1", Some("true")));
    assert_eq!(
        again.field("cache-status").unwrap().split("; ttl").next(),
        Some("weir; fwd=stale; fwd-status=304; stored")
    );
    assert_eq!(origin.backend.seen().last().unwrap().field("if-none-match"), Some("\"v1\""), "ours, not the client's");
    assert_eq!((get(&house, "/"), origin.count()), ("1".to_owned(), 2), "and it is fresh");
}

fn clients_that_have_it_get_304_and_parts_are_cut_out(io: IoMode) {
    let body = "0123456789";
    let backend = Backend::recording(move |_| {
        let fields = "Cache-Control: max-age=60\r\nETag: \"v1\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 10\r\n\r\n{body}").into_bytes()
    });
    let house = House::new(io, "", &pipeline(backend.port, ""));
    assert_eq!(get(&house, "/"), body);
    for (field, status, text) in [
        ("If-None-Match: \"v1\"", 304, ""),
        ("If-None-Match: \"v0\", W/\"v1\"", 304, ""),
        ("If-None-Match: *", 304, ""),
        ("If-None-Match: \"v0\"", 200, body),
        ("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT", 304, ""),
        ("If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT", 304, ""),
        ("If-Modified-Since: Sat, 05 Nov 1994 08:49:37 GMT", 200, body),
        ("Range: bytes=0-1", 206, "01"),
        ("Range: bytes=7-", 206, "789"),
        ("Range: bytes=-1", 206, "9"),
        ("Range: bytes=10-", 416, ""),
        ("Range: bytes=0-1,3-4", 200, body),
        ("Range: bytes=0-1\r\nIf-Range: \"v1\"", 206, "01"),
        ("Range: bytes=0-1\r\nIf-Range: \"v0\"", 200, body),
    ] {
        let answer = ask(&house, "GET /", &[field]);
        assert_eq!((answer.status(), answer.text().as_str()), (status, text), "{field}");
        if status == 304 {
            assert_eq!((answer.field("etag"), answer.field("content-length")), (Some("\"v1\""), None), "{field}");
        }
    }
    let part = ask(&house, "GET /", &["Range: bytes=2-3"]);
    assert_eq!((part.field("content-range"), part.field("content-length")), (Some("bytes 2-3/10"), Some("2")));
    assert_eq!(backend.seen().len(), 1);
}

fn stale_answers_stand_in_for_a_backend_that_fails(io: IoMode) {
    let failing = Arc::new(AtomicUsize::new(0));
    let fails = failing.clone();
    let origin = Origin::new(move |message| {
        let status = if fails.load(Ordering::SeqCst) > 0 { "503 Down|" } else { "" };
        status.to_owned() + fields_in(message).as_str()
    });
    let house = house(io, &origin, "cacheStatus: true");
    let (stands, strict) = (
        "/Cache-Control=max-age=0,stale-if-error=60",
        "/Cache-Control=max-age=0,must-revalidate,stale-if-error=60;ETag=a",
    );
    assert_eq!((get(&house, stands), get(&house, strict)), ("1".to_owned(), "2".to_owned()));
    failing.store(1, Ordering::SeqCst);
    let stale = ask(&house, &format!("GET {stands}"), &[]);
    assert_eq!((stale.status(), stale.text().as_str()), (200, "1"));
    assert_eq!(stale.field("cache-status"), Some("weir; fwd=stale; fwd-status=503"));
    assert_eq!(ask(&house, &format!("GET {strict}"), &[]).status(), 503);
    // Where an answer does not say, the document does.
    let plain = "/Cache-Control=max-age=0;ETag=a";
    for (cache, status) in [("", 503), ("staleIfError: 1m", 200)] {
        failing.store(0, Ordering::SeqCst);
        let house = self::house(io, &origin, cache);
        get(&house, plain);
        failing.store(1, Ordering::SeqCst);
        assert_eq!(ask(&house, &format!("GET {plain}"), &[]).status(), status, "{cache}");
    }
}

fn a_stale_answer_is_fetched_anew_beside_it(io: IoMode) {
    let origin = Origin::new(fields_in);
    for (cache, path) in [
        ("cacheStatus: true", "/Cache-Control=max-age=0,stale-while-revalidate=60"),
        ("staleWhileRevalidate: 1m", "/Cache-Control=max-age=0;ETag=a"),
    ] {
        let house = house(io, &origin, cache);
        let first = get(&house, path);
        let before = origin.count();
        assert_eq!(get(&house, path), first, "stale, at once");
        eventually("it is fetched anew", || origin.count() > before);
        eventually("and kept", || get(&house, path) != first);
    }
    let house = house(io, &origin, "");
    let strict = "/Cache-Control=max-age=0,must-revalidate,stale-while-revalidate=60;ETag=a";
    assert_ne!(get(&house, strict), get(&house, strict));
}

/// A backend that answers when it is told to, and how many have asked.
fn held(fields: &'static str) -> (Backend, Sender<()>, Arc<AtomicUsize>) {
    let (go, wait) = channel::<()>();
    let (wait, count): (Mutex<Receiver<()>>, _) = (Mutex::new(wait), Arc::new(AtomicUsize::new(0)));
    let counter = count.clone();
    let backend = Backend::recording(move |_| {
        let nth = counter.fetch_add(1, Ordering::SeqCst) + 1;
        let _ = wait.lock().unwrap().recv();
        let body = nth.to_string();
        format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    });
    (backend, go, count)
}

fn equal_misses_wait_for_one(io: IoMode) {
    let text = "GET / HTTP/1.1\r\nHost: h.test\r\n\r\n";
    let with = |backend: &Backend, cache: &str| {
        let pipeline = pipeline(backend.port, cache);
        House::with_workers(2, io, "", &pipeline, edge_listeners::Timeouts::default(), edge_filters::kind)
    };
    let ten_of = |house: &House, text: &str| {
        let mut clients: Vec<_> = (0..10).map(|_| house.connect()).collect();
        for client in &mut clients {
            client.send(text.as_bytes());
        }
        clients
    };
    let ten = |house: &House| ten_of(house, text);
    let (backend, go, count) = held("Cache-Control: max-age=60\r\n");
    let house = with(&backend, "coalesceTimeout: 1m");
    let mut clients = ten(&house);
    let waiting = || house.telemetry.render(base_telemetry::Names::default());
    eventually("one asks", || count.load(Ordering::SeqCst) == 1);
    // All have come as far as they can when the last has: the others were before it on their connections' workers.
    std::thread::sleep(Duration::from_millis(100));
    go.send(()).unwrap();
    for client in &mut clients {
        assert_eq!(client.answer().text(), "1");
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    let text_of = waiting();
    assert!(text_of.contains("result=\"miss\"} 1\n"), "{text_of}");
    // Those for whom there is no place ask for themselves, and so do those whose patience is over.
    for (cache, limit) in
        [("coalesceMost: 1, coalesceTimeout: 1m", "cache_waiting"), ("coalesceTimeout: 50ms", "cache_wait")]
    {
        let (backend, go, count) = held("Cache-Control: max-age=60\r\n");
        let house = with(&backend, cache);
        let mut clients = ten(&house);
        eventually("more than one asks", || count.load(Ordering::SeqCst) > 1 && house.limit(limit) > 0);
        (0..10).for_each(|_| go.send(()).unwrap());
        clients.iter_mut().for_each(|client| assert_eq!(client.answer().status(), 200));
    }
    // An answer that is not kept is nobody else's.
    let (backend, go, count) = held("Cache-Control: no-store\r\n");
    let house = with(&backend, "coalesceTimeout: 1m");
    let mut clients = ten(&house);
    (0..10).for_each(|_| go.send(()).unwrap());
    let mut texts: Vec<String> = clients.iter_mut().map(|client| client.answer().text()).collect();
    texts.sort();
    texts.dedup();
    assert_eq!((texts.len(), count.load(Ordering::SeqCst)), (10, 10));
    // What credentials bring is for whoever has them, as far as anybody knows: who has some waits for nobody.
    let (backend, go, count) = held("Cache-Control: max-age=60\r\n");
    let house = with(&backend, "coalesceTimeout: 1m");
    let mut clients = ten_of(&house, "GET / HTTP/1.1\r\nHost: h.test\r\nAuthorization: Bearer x\r\n\r\n");
    eventually("all ask", || count.load(Ordering::SeqCst) == 10);
    (0..10).for_each(|_| go.send(()).unwrap());
    clients.iter_mut().for_each(|client| assert_eq!(client.answer().status(), 200));
}

fn who_leaves_first_leaves_the_fetch_to_another(io: IoMode) {
    let (backend, go, count) = held("Cache-Control: max-age=60\r\n");
    let house = House::new(io, "", &pipeline(backend.port, "coalesceTimeout: 1m"));
    let text = b"GET / HTTP/1.1\r\nHost: h.test\r\n\r\n";
    let mut first = house.connect();
    first.send(text);
    eventually("the first asks", || count.load(Ordering::SeqCst) == 1);
    let mut second = house.connect();
    second.send(text);
    drop(first);
    // Answered before it is known that it left, it would have been the second's answer, too.
    eventually("it is known to have left", || house.count(499) == 1);
    eventually("the second asks", || {
        let _ = go.send(());
        count.load(Ordering::SeqCst) == 2
    });
    let _ = go.send(());
    assert_eq!(second.answer().status(), 200);
}

fn a_write_makes_it_doubtful(io: IoMode) {
    let origin = Origin::new(|message| match message.head.split(' ').next() {
        Some("GET") => "Cache-Control: max-age=60\r\n".to_owned(),
        _ if message.target().contains("fail") => "500 No|".to_owned(),
        _ => "Location: /other\r\nContent-Location: http://elsewhere.test/third\r\n".to_owned(),
    });
    let house = house(io, &origin, "");
    let before: Vec<String> = ["/a", "/a?q", "/other", "/third"].iter().map(|path| get(&house, path)).collect();
    let now = || -> Vec<String> { ["/a", "/a?q", "/other", "/third"].iter().map(|path| get(&house, path)).collect() };
    for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"] {
        assert_eq!(now(), before, "{method}");
        ask(&house, &format!("{method} /a?fail"), &["Content-Length: 0"]);
        assert_eq!(now(), before, "a {method} that fails");
    }
    ask(&house, "POST /a", &["Content-Length: 0"]);
    let after = now();
    let same: Vec<bool> = before.iter().zip(&after).map(|(a, b)| a == b).collect();
    assert_eq!(same, [false, true, false, true]);
}

fn purges_by_name(io: IoMode) {
    use edge_upstream::cache::{Purge, purge_all};
    let origin = Origin::new(fields_in);
    let pipeline = pipeline(origin.backend.port, "");
    let house = House::new(io, "rules: [{paths: [{pathPrefix: /, backend: purged}]}]", &pipeline);
    house.pipeline("purged", &pipeline);
    let (a, b) = ("/Cache-Control=max-age=60;Cache-Tag=x,y", "/Cache-Control=max-age=60;Surrogate-Key=y_z");
    let both = || (get(&house, a), get(&house, b));
    let store = Some("purged/c");
    let first = both();
    assert_eq!((both(), purge_all(store, &Purge::Tag("w".into()))), (first.clone(), 0));
    assert_eq!(purge_all(store, &Purge::Tag("x".into())), 1);
    let second = both();
    assert!(second.0 != first.0 && second.1 == first.1);
    assert_eq!(purge_all(store, &Purge::Tag("y".into())), 2);
    both();
    assert_eq!(purge_all(store, &Purge::Url(format!("http://h.test{b}").into_bytes())), 1);
    both();
    assert_eq!(purge_all(store, &Purge::Prefix(b"http://h.test/Cache".to_vec())), 2);
    both();
    assert_eq!((purge_all(Some("purged/other"), &Purge::All), purge_all(store, &Purge::All)), (0, 2));
}

fn what_stands_in_front_is_each_clients_own(io: IoMode) {
    let origin = Origin::new(|_| "Cache-Control: max-age=60\r\n".to_owned());
    let cors = "{name: cors, kind: CORSAdaptor, allowedOrigins: ['https://a.test', 'https://b.test']}";
    let pipeline = pipeline(origin.backend.port, "").replacen("[{", &format!("[{cors}, {{"), 1);
    let house = House::new(io, "", &pipeline);
    let allowed = |from: &str| {
        let answer = ask(&house, "GET /", &[&format!("Origin: {from}")]);
        (answer.text(), answer.field("access-control-allow-origin").unwrap_or("none").to_owned())
    };
    assert_eq!(allowed("https://a.test"), ("1".to_owned(), "https://a.test".to_owned()));
    assert_eq!(allowed("https://b.test"), ("1".to_owned(), "https://b.test".to_owned()));
    assert_eq!((ask(&house, "GET /", &[]).text().as_str(), origin.count()), ("1", 1));
}
