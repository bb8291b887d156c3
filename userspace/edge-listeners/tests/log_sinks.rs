//! LogSinks of a house of one: sinks that fail, hang, refuse and come back, and lines that wait for them on disk.

#[macro_use]
mod support;

use base_model::LogSinkSpec;
use base_runtime::IoMode;
use base_telemetry::Names;
use base_telemetry::registry::Encoder;
use flate2::read::GzDecoder;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use support::{Backend, House, eventually, proxy_to};

/// Where nobody listens, and no other test ever does: a port that was free may be anybody's a moment later.
const NOBODY: u16 = 1;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Where lines of this process wait.
fn spools() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap().keep();
        edge_export::set_directory(&directory);
        directory
    })
}

fn count(line: &str) -> f64 {
    let mut encoder = Encoder::new(Names::Own);
    edge_export::encode(&mut encoder);
    let text = encoder.finish();
    let found = text.lines().find_map(|known| known.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or_default()
}

fn sink(house: &House, name: &str, text: &str) {
    spools();
    let spec: LogSinkSpec = spec!(text);
    house.traffic.apply_log_sink(name, &spec).expect("a good sink");
}

fn house(backend: &Backend) -> House {
    House::new(IoMode::Epoll, "accessLogFormat: '{{URI}}'", &proxy_to(backend.port))
}

fn ask(house: &House, numbers: std::ops::Range<usize>) {
    let mut client = house.connect();
    for number in numbers {
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!(client.answer().status(), 200);
    }
}

/// A service that answers with a status that can be changed, and what it took with 200.
struct Service {
    backend: Backend,
    status: Arc<AtomicU16>,
}

impl Service {
    fn start(status: u16) -> Service {
        let status = Arc::new(AtomicU16::new(status));
        let says = status.clone();
        let answer = move |_: &support::Message| {
            format!("HTTP/1.1 {} X\r\nContent-Length: 0\r\n\r\n", says.load(Ordering::SeqCst)).into_bytes()
        };
        Service { backend: Backend::recording(answer), status }
    }

    /// The bodies it was sent, from one on.
    fn lines(&self, from: usize) -> Vec<String> {
        let text: String = self.backend.seen().iter().skip(from).map(support::Message::text).collect();
        text.lines().map(str::to_owned).collect()
    }
}

fn paths(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("/{number}")).collect()
}

#[test]
fn lines_wait_while_the_sink_fails_and_come_in_order_when_it_is_back() {
    let (backend, service) = (Backend::answering(OK), Service::start(500));
    let house = house(&backend);
    let port = service.backend.port;
    sink(&house, "fails", &format!("{{http: {{url: 'http://127.0.0.1:{port}/in', headers: {{X-Key: k}}}}}}"));
    ask(&house, 0..50);
    eventually("it is tried again", || service.backend.seen().len() >= 2);
    ask(&house, 50..100);
    assert!(house.traffic.status()["fails"]["health"].as_str().unwrap().contains("it answered 500"));
    assert_eq!(count("weir_log_sink_up{sink=\"fails\"}"), 0.0);
    let before = service.backend.seen().len();
    service.status.store(200, Ordering::SeqCst);
    let post = service.backend.seen().last().unwrap().clone();
    assert_eq!((post.target(), post.field("x-key")), ("/in", Some("k")));
    eventually("all of them", || count("weir_log_sink_delivered_total{sink=\"fails\"}") >= 100.0);
    // One may have been on its way when the status changed.
    let lines = service.lines(before);
    assert!(lines.ends_with(&paths(50..100)) && lines[lines.len() - 100..] == paths(0..100), "{lines:?}");
    eventually("the disk is empty", || count("weir_log_sink_spool_bytes{sink=\"fails\"}") == 0.0);
    assert_eq!(count("weir_log_sink_up{sink=\"fails\"}"), 1.0);
    assert_eq!(count("weir_log_sink_dropped_total{sink=\"fails\",reason=\"spool_full\"}"), 0.0);
}

#[test]
fn beyond_the_bound_lines_are_dropped_and_counted_and_requests_wait_for_nothing() {
    let backend = Backend::answering(OK);
    // One that takes connections and never answers, and nobody at all.
    let silent = Backend::new(|mut wire, _| while wire.more() {});
    let house = house(&backend);
    for (name, port) in [("hangs", silent.port), ("refuses", NOBODY)] {
        sink(&house, name, &format!("{{spool: {{maxBytes: 65536}}, http: {{url: 'http://127.0.0.1:{port}/'}}}}"));
    }
    let long = "x".repeat(400);
    let mut client = house.connect();
    for number in 0..400 {
        client.send(format!("GET /{number}/{long} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!(client.answer().status(), 200);
    }
    let kept = |name: &str| count(&format!("weir_log_sink_spool_bytes{{sink=\"{name}\"}}")) as usize;
    let dropped =
        |name: &str| count(&format!("weir_log_sink_dropped_total{{sink=\"{name}\",reason=\"spool_full\"}}")) as usize;
    for name in ["hangs", "refuses"] {
        eventually("the bound is reached", || dropped(name) > 200);
        eventually("each line is kept or counted", || {
            let bytes = kept(name);
            bytes <= 65536 && dropped(name) + bytes / (400 + 17 + 2) >= 400
        });
    }
    // What was kept is the beginning, whole and in order.
    let service = Service::start(200);
    let port = service.backend.port;
    sink(&house, "refuses", &format!("{{http: {{url: 'http://127.0.0.1:{port}/'}}}}"));
    let most = 400 - dropped("refuses").min(400);
    eventually("what was kept arrives", || service.lines(0).len() >= most.min(100));
    let lines = service.lines(0);
    for (number, line) in lines.iter().enumerate() {
        assert!(line.starts_with(&format!("/{number}/")), "{number}: {line}");
    }
}

#[test]
fn a_sink_that_changes_goes_on_where_it_was_and_one_that_is_gone_keeps_what_is_left() {
    let backend = Backend::answering(OK);
    let house = house(&backend);

    let text = |port: u16| format!("{{http: {{url: 'http://127.0.0.1:{port}/', compression: gzip}}}}");
    sink(&house, "moves", &text(NOBODY));
    ask(&house, 0..20);
    house.traffic.remove_log_sink("moves");
    assert!(!house.traffic.status().contains_key("moves"));
    ask(&house, 20..30);
    sink(&house, "moves", &text(NOBODY));
    ask(&house, 30..40);
    let service = Service::start(200);
    sink(&house, "moves", &text(service.backend.port));
    ask(&house, 40..50);
    let lines = || {
        let mut text = String::new();
        for post in service.backend.seen() {
            GzDecoder::new(&post.body[..]).read_to_string(&mut text).unwrap();
        }
        text.lines().map(str::to_owned).collect::<Vec<String>>()
    };
    let wanted: Vec<String> = paths(0..20).into_iter().chain(paths(30..50)).collect();
    eventually("all but those that nobody was to hear of", || lines().len() >= wanted.len());
    assert_eq!(lines(), wanted);
}

#[test]
fn a_sink_may_refuse_lines_or_take_fewer_at_a_time() {
    let backend = Backend::answering(OK);
    let house = house(&backend);
    let service = Service::start(400);
    sink(&house, "picky", &format!("{{http: {{url: 'http://127.0.0.1:{}/'}}}}", service.backend.port));
    ask(&house, 0..5);
    eventually("they are refused", || count("weir_log_sink_dropped_total{sink=\"picky\",reason=\"refused\"}") >= 5.0);
    let small = Backend::recording(|post| {
        let status = if post.body.len() > 40 { 413 } else { 200 };
        format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").into_bytes()
    });
    sink(&house, "picky", &format!("{{http: {{url: 'http://127.0.0.1:{}/'}}}}", small.port));
    ask(&house, 10..60);
    let lines = || {
        let taken = small.seen().into_iter().filter(|post| post.body.len() <= 40);
        taken.flat_map(|post| post.text().lines().map(str::to_owned).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    eventually("smaller parts are taken", || lines().len() >= 50);
    assert_eq!(lines(), paths(10..60));
}

#[test]
fn lines_are_json_of_some_servers_to_files_and_collectors() {
    let backend = Backend::answering(OK);
    let house = house(&backend);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let file = format!("file: {{path: {}, maxBytes: 1000, maxFiles: 1}}", path.display());
    sink(&house, "file", &format!("{{format: json, servers: [web], {file}}}"));
    let collector = Backend::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let otlp =
        format!("otlp: {{protocol: http, endpoint: '127.0.0.1:{}', insecure: true, encoding: json}}", collector.port);
    sink(&house, "otlp", &format!("{{servers: [web, other], {otlp}}}"));
    sink(&house, "elsewhere", &format!("{{servers: [other], http: {{url: 'http://127.0.0.1:{NOBODY}/'}}}}"));
    sink(&house, "events", &format!("{{logs: [events], http: {{url: 'http://127.0.0.1:{}/'}}}}", collector.port));
    ask(&house, 0..20);
    eventually("two sinks have them", || {
        ["file", "otlp"].iter().all(|name| count(&format!("weir_log_sink_delivered_total{{sink=\"{name}\"}}")) >= 20.0)
    });
    let text: String = [format!("{}.1", path.display()), path.display().to_string()]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .collect();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let last = lines.last().unwrap();
    assert_eq!((&last["uri"], &last["status"], &last["server"]), (&"/19".into(), &200.into(), &"web".into()));
    let tags = last["tags"].as_str().unwrap();
    assert!(tags.starts_with("pipeline(app): p(") && tags.contains(") | proxy#p#main#duration: "), "{last}");
    assert!(tags.ends_with(" | status code: 200"), "{last}");
    let id = last["requestId"].as_str().unwrap();
    assert_eq!(backend.seen().last().unwrap().field("x-request-id"), Some(id), "{last}");
    assert!(
        (3..20).contains(&lines.len()) && std::fs::metadata(&path).unwrap().len() <= 1000,
        "moved aside, the oldest gone"
    );
    let record = |line: &str| {
        collector.seen().iter().filter(|post| post.target() == "/v1/logs").any(|post| {
            let json: Value = serde_json::from_slice(&post.body).unwrap();
            let records = json["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap().clone();
            records.iter().any(|record| record["body"]["stringValue"] == line)
        })
    };
    assert!(record("/0") && record("/19"));
    assert_eq!(count("weir_log_sink_spool_bytes{sink=\"elsewhere\"}"), 0.0, "none of its servers was asked");
    edge_export::event("2026-01-01T00:00:00Z WARN something happened\n");
    let heard = || {
        collector.seen().iter().any(|post| post.target() == "/" && post.text().contains("WARN something happened\n"))
    };
    eventually("the event is sent", heard);
}
