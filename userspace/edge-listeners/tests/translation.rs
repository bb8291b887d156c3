//! From HTTP/2 and HTTP/3 to HTTP/1.1: heads and bodies that implementations have read in two ways when they translated them. Whatever is sent, a
//! backend reads one request, with one host, one length and no field that is of one hop alone, or none at all.

#[macro_use]
mod support;
#[path = "support/h2.rs"]
mod h2_client;
#[path = "support/h3.rs"]
mod h3_client;

use base_quic::proto::Dir;
use base_runtime::IoMode;
use h2_client::{Raw, block, frame};
use support::{Backend, House, Message, proxy_to};

on_both_drivers![what_http2_says_has_one_reading, what_http3_says_has_one_reading];

type Fields = Vec<(&'static str, &'static str)>;

/// What is to become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Refused,
    Passes,
    /// Either, as long as it has one reading.
    Open,
}

struct Case {
    name: String,
    /// Pseudo-fields and fields, as they are sent.
    head: Fields,
    /// `None`: the head ends the stream.
    body: Option<&'static str>,
    trailers: Fields,
    /// The body comes in several frames, with padding, with nothing in them, and with frames of no meaning between.
    pieces: bool,
    fate: Fate,
}

const PSEUDO: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", "/case")];

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What somebody who reads a body as the next request would take for one.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Its length.
const LENGTH: &str = "40";

/// Pseudo-fields with these in the place of their own; an empty name leaves one out.
fn with(changes: &[(&'static str, Option<&'static str>)]) -> Fields {
    let changed = |(name, value): (&'static str, &'static str)| match changes.iter().find(|(of, _)| *of == name) {
        Some((_, None)) => None,
        Some((_, Some(other))) => Some((name, *other)),
        None => Some((name, value)),
    };
    PSEUDO.into_iter().filter_map(changed).collect()
}

fn cases() -> Vec<Case> {
    use Fate::{Open, Passes, Refused};
    let mut cases = Vec::new();
    let mut add = |name: String, head: Fields, fate: Fate| {
        for body in [None, Some(SMUGGLED)] {
            cases.push(Case {
                name: format!("{name} body {}", body.is_some()),
                head: head.clone(),
                body,
                trailers: Vec::new(),
                pieces: false,
                fate,
            });
        }
    };
    add("plain".to_owned(), PSEUDO.to_vec(), Passes);
    for name in [":method", ":scheme", ":path"] {
        add(format!("without {name}"), with(&[(name, None)]), Refused);
    }
    add("without :authority and host".to_owned(), with(&[(":authority", None)]), Open);
    for (name, value) in PSEUDO {
        add(format!("{name} twice"), [PSEUDO.to_vec(), vec![(name, value)]].concat(), Refused);
    }
    for (fate, name, values) in [
        (Refused, ":method", &["", "G T", "GET /x HTTP/1.1\r\nX: y", "GET\0", "GE\tT"][..]),
        (Refused, ":scheme", &["", "h ttp", "http\r\nx: y"]),
        (Refused, ":authority", &["a b", "a.test\r\nx: y", "u@a.test", "a.test, b.test", "a.test/x", "a.test\0"]),
        (Refused, ":path", &["", "case", "/a b", "/a\r\nX: y", "/a\0", "/a\tb", "/\x7f", "?q", "a.test:80", "/a\nb"]),
        (Open, ":path", &["http://b.test/x", "//b.test/x", "*", "/%00", "/a%0d%0ax", "/a/../b", "/?a=\"b\""]),
        (
            Open,
            ":path",
            &["/a#b", "/a?b#c", "/a\\b", "/%2e%2e/%2E%2E/x", "/a%", "/%", "//", "/a;b=c", "/\u{e9}", "/a%23b"],
        ),
    ] {
        for value in values {
            add(format!("{name} {value:?}"), with(&[(name, Some(value))]), fate);
        }
    }
    for (fate, fields) in [
        (Refused, &[(":foo", "x")][..]),
        (Refused, &[(":status", "200")]),
        (Refused, &[(":protocol", "websocket")]),
        (Refused, &[(":Path", "/other")]),
        (Refused, &[(":", "x")]),
        (Refused, &[("x", "1"), (":path", "/other")]),
        (Refused, &[("host", "b.test")]),
        (Refused, &[("host", "a.test"), ("host", "b.test")]),
        (Open, &[("host", "a.test")]),
        (Open, &[("host", "A.TEST")]),
        (Refused, &[("connection", "close")]),
        (Refused, &[("connection", "x-one"), ("x-one", "1")]),
        (Refused, &[("keep-alive", "timeout=5")]),
        (Refused, &[("proxy-connection", "keep-alive")]),
        (Refused, &[("transfer-encoding", "chunked")]),
        (Refused, &[("transfer-encoding", "identity")]),
        (Refused, &[("upgrade", "websocket")]),
        (Refused, &[("connection", "")]),
        (Refused, &[("transfer-encoding", "")]),
        (Refused, &[("upgrade", "h2c")]),
        (Refused, &[("te", "gzip")]),
        (Refused, &[("te", "trailers, gzip")]),
        (Open, &[("te", "trailers"), ("te", "trailers")]),
        (Open, &[("expect", "100-continue")]),
        (Open, &[("http2-settings", "AAMAAABk")]),
        (Open, &[("x", "\x7f")]),
        (Open, &[("x", "\u{e9}")]),
        (Open, &[("x", "")]),
        (Refused, &[("x", "\r\n")]),
        (Refused, &[("x", "1\r\n folded")]),
        (Refused, &[("cookie", "a=1"), ("cookie", "b=2\r\nx-smuggled: 1")]),
        (Open, &[("cookie", "")]),
        (Open, &[("cookie", "a=1;"), ("cookie", "; b=2")]),
        (Passes, &[("te", "trailers")]),
        (Refused, &[("X-Upper", "1")]),
        (Refused, &[("x upper", "1")]),
        (Refused, &[("x:y", "1")]),
        (Refused, &[("", "1")]),
        (Refused, &[("x\r\ny", "1")]),
        (Refused, &[("x\0", "1")]),
        (Refused, &[("x", "1\r\nx-smuggled: 1")]),
        (Refused, &[("x", "1\nx-smuggled: 1")]),
        (Refused, &[("x", "1\r")]),
        (Refused, &[("x", "1\0")]),
        (Open, &[("x", " 1 ")]),
        (Open, &[("x", "\t1")]),
        (Passes, &[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]),
        (Open, &[("transfer_encoding", "chunked")]),
        (Open, &[("content_length", "3")]),
        (Refused, &[("content-length", "x")]),
        (Refused, &[("content-length", "-1")]),
        (Refused, &[("content-length", "+41")]),
        (Refused, &[("content-length", "5"), ("content-length", "6")]),
        (Refused, &[("content-length", "99999999999999999999")]),
        (Refused, &[("content-length", "3")]),
        (Refused, &[("content-length", "99")]),
        (Refused, &[("content-length", "")]),
        (Refused, &[("content-length", "0x28")]),
        (Refused, &[("content-length", "40, 40")]),
        (Refused, &[("content-length", "4 0")]),
    ] {
        add(format!("{fields:?}"), [&PSEUDO[..], fields].concat(), fate);
    }
    for (fate, trailers) in [
        (Passes, &[("x-sum", "1")][..]),
        (Open, &[("content-length", "1")]),
        (Open, &[("transfer-encoding", "chunked")]),
        (Open, &[("host", "b.test")]),
        (Open, &[("x", "1\r\nx-smuggled: 1")]),
        (Open, &[(":path", "/other")]),
        (Open, &[("connection", "close")]),
        (Open, &[("X-Upper", "1")]),
        (Open, &[("cookie", "a=1"), ("authorization", "b")]),
        (Open, &[("x\r\ny", "1")]),
        (Open, &[("x-smuggled", "1\0")]),
    ] {
        let name = format!("trailers {trailers:?}");
        let trailers = trailers.to_vec();
        cases.push(Case { name, head: PSEUDO.to_vec(), body: Some(SMUGGLED), trailers, pieces: false, fate });
    }
    // A length that is announced, and bodies in frames of every kind.
    let length = [&PSEUDO[..], &[("content-length", LENGTH)]].concat();
    let trailers = vec![("x-sum", "1")];
    for (pieces, trailers) in [(false, Vec::new()), (true, Vec::new()), (true, trailers)] {
        for (name, head) in [("a length", length.clone()), ("no length", PSEUDO.to_vec())] {
            let name = format!("{name}, pieces {pieces}, {trailers:?}");
            let trailers = trailers.clone();
            cases.push(Case { name, head, body: Some(SMUGGLED), trailers, pieces, fate: Passes });
        }
    }
    for method in ["GET", "DELETE", "PATCH", "X-ANY"] {
        let head = with(&[(":method", Some(method))]);
        let name = format!("{method} with a body");
        cases.push(Case { name, head, body: Some(SMUGGLED), trailers: Vec::new(), pieces: true, fate: Passes });
    }
    cases
}

/// Why what a backend read has not the one reading that was meant.
fn judge(case: &Case, seen: &Message) -> Result<(), String> {
    let mut lines = seen.head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let parts: Vec<&str> = first.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else { return Err(format!("the first line is {first:?}")) };
    let asked = case.head.iter().find(|(name, _)| *name == ":method").map(|(_, method)| *method);
    if Some(method) != asked || !target.starts_with(['/', '*']) || target.contains('#') {
        return Err(format!("it asks for {method} {target}"));
    }
    let fields: Vec<(String, &str)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    let all =
        |name: &str| fields.iter().filter(|(known, _)| known == name).map(|(_, value)| *value).collect::<Vec<_>>();
    let (host, length, coding) = (all("host"), all("content-length"), all("transfer-encoding"));
    if host.len() != 1 || !host[0].eq_ignore_ascii_case("a.test") {
        return Err(format!("its hosts are {host:?}"));
    }
    if length.len() + coding.len() != 1 || coding.iter().any(|coding| *coding != "chunked") {
        return Err(format!("its lengths are {length:?}, its codings {coding:?}"));
    }
    for name in
        ["x-smuggled", "keep-alive", "proxy-connection", "upgrade", "connection", "transfer_encoding", "content_length"]
    {
        if !all(name).is_empty() {
            return Err(format!("it has the field {name}"));
        }
    }
    if all("cookie").len() > 1 {
        return Err("its cookies are several fields".to_owned());
    }
    if seen.head.contains(['\0']) || seen.head.replace("\r\n", "").contains(['\r', '\n']) {
        return Err("its head has control characters".to_owned());
    }
    if seen.text() != case.body.unwrap_or_default() {
        return Err(format!("its body is {:?}", seen.text()));
    }
    match seen.trailers.lines().find(|line| !line.starts_with("x-sum: ")) {
        Some(line) => Err(format!("its trailers have {line:?}")),
        None => Ok(()),
    }
}

/// Sends each case by `ask`, which returns when it has its answer or its end.
fn judge_all(backend: &Backend, mut ask: impl FnMut(&Case)) {
    let mut wrong = Vec::new();
    for case in cases() {
        let before = backend.seen().len();
        ask(&case);
        let seen = backend.seen()[before..].to_vec();
        let passed = !seen.is_empty();
        if seen.len() > 1 || (passed && case.fate == Fate::Refused) || (!passed && case.fate == Fate::Passes) {
            wrong.push(format!("{}: {:?}, and the backend has read {} requests", case.name, case.fate, seen.len()));
        }
        wrong.extend(seen.iter().filter_map(|seen| Some(format!("{}: {}", case.name, judge(&case, seen).err()?))));
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(backend.seen().iter().any(|seen| seen.field("cookie") == Some("a=1; b=2; c=3")));
    assert!(backend.seen().iter().any(|seen| seen.trailers == "x-sum: 1\n"));
}

fn what_http2_says_has_one_reading(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = House::new(io, "h2c: true\nclientMaxBodySize: -1", &proxy_to(backend.port));
    judge_all(&backend, |case| {
        let mut raw = Raw::new(house.port);
        let ends = |last: bool| if last { 1 } else { 0 };
        let mut bytes = frame(1, 4 | ends(case.body.is_none()), 1, &block(&case.head));
        if let Some(body) = case.body.filter(|_| case.pieces) {
            let (first, rest) = body.as_bytes().split_at(7);
            bytes.extend(frame(0, 0, 1, first));
            bytes.extend(frame(0, 0, 1, b""));
            // One of a kind that nobody knows, one with padding alone, and one of both.
            bytes.extend(frame(0xfa, 0, 1, b"GET / HTTP/1.1\r\n"));
            bytes.extend(frame(0, 8, 1, b"\x05xxxxx"));
            bytes.extend(frame(0, 8 | ends(case.trailers.is_empty()), 1, &[b"\x03", rest, b"yyy"].concat()));
        } else if let Some(body) = case.body {
            bytes.extend(frame(0, ends(case.trailers.is_empty()), 1, body.as_bytes()));
        }
        if !case.trailers.is_empty() {
            bytes.extend(frame(1, 4 | 1, 1, &block(&case.trailers)));
        }
        raw.send(&bytes);
        // The end of its answer, which may come after an interim one, or that of the stream or the connection.
        while let Some(frame) = raw.frame() {
            let ends = matches!(frame.kind, 0 | 1) && frame.flags & 1 != 0 || frame.kind == 3;
            if frame.kind == 7 || frame.stream == 1 && ends {
                break;
            }
        }
    });
}

/// A field section of HTTP/3 whose lines are literals as they are (RFC 9204 section 4.5.6), in its frame.
fn section(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    for (name, value) in fields {
        for (text, most, pattern) in [(name, 7usize, 0x20u8), (value, 127, 0)] {
            let length = text.len();
            bytes.push(pattern | length.min(most) as u8);
            if length >= most {
                assert!(length - most < 128, "a longer one needs more bytes");
                bytes.push((length - most) as u8);
            }
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    h3_client::any_frame(1, &bytes)
}

fn what_http3_says_has_one_reading(io: IoMode) {
    let backend = Backend::answering(OK);
    let certificate = h3_client::certificate(&["a.test"]);
    let lines = format!("http3: true\nclientMaxBodySize: -1\n{}", certificate.lines);
    let house = House::new(io, &lines, &proxy_to(backend.port));
    judge_all(&backend, |case| {
        let mut client = h3_client::Client::connect(house.port, &certificate);
        let id = client.open(Dir::Bi);
        let mut bytes = section(&case.head);
        if let Some(body) = case.body.filter(|_| case.pieces) {
            let (first, rest) = body.as_bytes().split_at(7);
            bytes.extend(h3_client::data(first));
            bytes.extend(h3_client::data(b""));
            bytes.extend(h3_client::any_frame(0x21, b"GET / HTTP/1.1\r\n"));
            bytes.extend(h3_client::data(rest));
        } else {
            bytes.extend(case.body.map(|body| h3_client::data(body.as_bytes())).unwrap_or_default());
        }
        if !case.trailers.is_empty() {
            bytes.extend(section(&case.trailers));
        }
        client.send(id, &bytes, true);
        client.answer(id);
    });
}
