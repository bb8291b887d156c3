use super::*;
use crate::qpack::Bounds;
use crate::request::{Event, Receiving};
use proto_http::h1::Fault;

const WIDE: Bounds = Bounds { bytes: 1 << 20, fields: 1 << 10 };

/// A length behind a prefix that holds `full` at most (RFC 7541 section 5.1).
fn integer(length: usize, full: usize, pattern: u8, into: &mut Vec<u8>) {
    into.push(pattern | length.min(full) as u8);
    if length < full {
        return;
    }
    let mut rest = length - full;
    while rest >= 0x80 {
        into.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

fn section(fields: &[(&str, &str)]) -> Section {
    let mut block = Vec::new();
    qpack::begin(&mut block);
    for (name, value) in fields {
        // With the case they have: `qpack::field` writes lower case.
        integer(name.len(), 7, 0x20, &mut block);
        block.extend_from_slice(name.as_bytes());
        integer(value.len(), 0x7f, 0, &mut block);
        block.extend_from_slice(value.as_bytes());
    }
    let mut section = Section::default();
    qpack::decode(&block, &WIDE, &mut section).unwrap();
    section
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path      ", "/x?y")];

fn refused(fields: &[(&str, &str)]) -> Option<Unread> {
    read(fields).err()
}

fn read(fields: &[(&str, &str)]) -> Result<Request, Unread> {
    let mut block = Vec::new();
    qpack::begin(&mut block);
    fields.iter().for_each(|(name, value)| qpack::field(name.trim().as_bytes(), value.as_bytes(), &mut block));
    let (mut section, mut request) = (Section::default(), Request::default());
    qpack::decode(&block, &WIDE, &mut section).unwrap();
    read_request(&section, &Limits::default(), &mut request).map(|_| request)
}

#[test]
fn a_request() {
    let request = read(&[&GET[..], &[("x-one", "1"), ("cookie", "a=1"), ("cookie", "b=2")]].concat()).unwrap();
    assert_eq!(
        (request.version, request.authority.as_str(), request.target().as_str()),
        (Version::Http3, "a.test", "/x?y")
    );
    let lines: Vec<String> =
        request.headers.iter().map(|(n, v, _)| [n, b"=", v].concat()).map(|l| String::from_utf8(l).unwrap()).collect();
    assert_eq!(lines, ["Host=a.test", "x-one=1", "cookie=a=1; b=2"]);
}

#[test]
fn the_form_of_pseudo_fields() {
    let without = |left_out: &str| GET.into_iter().filter(|(name, _)| name.trim() != left_out).collect::<Vec<_>>();
    for left_out in [":method", ":scheme", ":path"] {
        assert_eq!(refused(&without(left_out)), Some(Unread::Malformed), "{left_out}");
    }
    for (at, field) in GET.iter().enumerate() {
        let mut twice = GET.to_vec();
        twice.insert(at, *field);
        assert_eq!(refused(&twice), Some(Unread::Malformed), "{field:?} twice");
        let mut last = GET.to_vec();
        last.remove(at);
        last.extend([("x-one", "1"), *field]);
        assert_eq!(refused(&last), Some(Unread::Malformed), "{field:?} behind another");
    }
    for unknown in [":status", ":other", ":"] {
        assert_eq!(refused(&[&GET[..], &[(unknown, "200")]].concat()), Some(Unread::Malformed), "{unknown}");
    }
    assert_eq!(refused(&[GET[0], GET[1], GET[2], (":path", "")]), Some(Unread::Malformed));
    assert_eq!(read(&[(":method", "CONNECT"), (":authority", "db.test:5432")]).unwrap().authority, "db.test:5432");
    let extended = [(":method", "CONNECT"), (":protocol", "websocket")];
    assert_eq!(refused(&[&extended[..], &GET[2..3]].concat()), Some(Unread::Malformed));
    assert!(read(&[&extended[..], &GET[1..]].concat()).is_ok());
}

#[test]
fn names_are_in_lower_case() {
    assert_eq!(pseudo(&section(&[("X-Upper-Case", "1")])).err(), Some(Malformed));
    assert_eq!(read_trailers(&section(&[("x-Trailer", "1")]), &Limits::default()).err(), Some(Unread::Malformed));
    assert_eq!(read_trailers(&section(&[(":status-x", "1")]), &Limits::default()).err(), Some(Unread::Malformed));
    let trailers =
        read_trailers(&section(&[("x-trailer", "1"), ("authorization", "x")]), &Limits::default()).unwrap().0;
    assert_eq!(trailers.iter().count(), 1);
}

fn written(response: &Response, options: &ResponseOptions<'_>) -> Option<Vec<String>> {
    let mut bytes = Vec::new();
    if !write_response(response, options, &mut bytes) {
        assert!(bytes.is_empty());
        return None;
    }
    let event = Receiving::new(1 << 20).handle(&mut bytes.into()).unwrap();
    let Some(Event::Head(block)) = event else { panic!("{event:?}") };
    let mut section = Section::default();
    qpack::decode(&block, &WIDE, &mut section).unwrap();
    Some(section.iter().map(|(n, v)| String::from_utf8([n, b"=", v].concat()).unwrap()).collect())
}

#[test]
fn answers_are_dated_and_measured_by_what_is_sent() {
    let mut response = Response::with_status(299);
    for (name, value) in [("Content-Length", "999"), ("Set-Cookie", "a=1"), ("Connection", "close"), ("X-Y", "z")] {
        response.headers.add(name, value);
    }
    let options = ResponseOptions { length: Some(5), date: "Sun, 29 Nov 2026 00:00:00 GMT" };
    let date = format!("date={}", options.date);
    let expected = [":status=299", "set-cookie=a=1", "x-y=z", &date, "content-length=5"];
    assert_eq!(written(&response, &options).unwrap(), expected);
    assert_eq!(written(&Response::with_status(101), &options), None);
    let interim = written(&Response::with_status(103), &ResponseOptions { length: None, ..options });
    assert_eq!(interim.unwrap(), [":status=103"]);
    assert_eq!(written(&Response::with_status(204), &options).unwrap(), [":status=204", &date]);
    // A long one.
    response.headers.add("X-Long", "l".repeat(30_000));
    assert_eq!(written(&response, &options).unwrap().len(), 6);
}

#[test]
fn trailers_lose_what_may_not_stand_there() {
    let mut trailers = Headers::new();
    let mut bytes = Vec::new();
    assert!(!write_trailers(&trailers, &mut bytes));
    trailers.add("Content-Length", "0");
    assert!(!write_trailers(&trailers, &mut bytes) && bytes.is_empty());
    trailers.add("Grpc-Status", "0");
    assert!(write_trailers(&trailers, &mut bytes));
    assert_eq!(bytes, b"\x01\x80\x00\x00\x11\x00\x00\x27\x04grpc-status\x010");
}

fn answer(fields: &[(&str, &str)]) -> Result<(Response, Option<u64>), Unread> {
    read_response(&section(fields), &Limits { fields: 8, field_bytes: 300, head_bytes: 600, ..Limits::default() })
}

#[test]
fn the_head_of_an_answer_keeps_the_rules_of_http1() {
    let (response, length) = answer(&[(":status", "200"), ("content-length", "5"), ("x-a", " b ")]).unwrap();
    assert_eq!((response.status, response.version, length), (200, Version::Http3, Some(5)));
    assert_eq!(response.headers.values("X-A").collect::<Vec<_>>(), [b"b"]);
    for status in ["", "20", "2000", "099", "+20", "101", "20x"] {
        assert_eq!(answer(&[(":status", status)]).err(), Some(Unread::Malformed), "{status}");
    }
    let ok = (":status", "200");
    for broken in [&[][..], &[("x", "1"), ok], &[ok, ok], &[ok, (":path", "/")], &[ok, ("X", "1")]] {
        assert_eq!(answer(broken).err(), Some(Unread::Malformed), "{broken:?}");
    }
    let long = "v".repeat(290);
    for (fields, fault) in [
        (&[("connection", "close")][..], Fault::ConnectionField),
        (&[("transfer-encoding", "chunked")], Fault::ConnectionField),
        (&[("content-length", "5"), ("content-length", "5")], Fault::SeveralLengths),
        (&[("content-length", "+5")], Fault::Length),
        (&[("content-length", "18446744073709551616")], Fault::Length),
        (&[("x", "a\r\nb: c")], Fault::ValueCharacter),
        (&[("x", "a\0")], Fault::ValueCharacter),
        // White space is what RFC 9110 section 5.6.3 says, and nothing else.
        (&[("x", "\u{c}b")], Fault::ValueCharacter),
        (&[("x y", "a")], Fault::NameCharacter),
        (&[("", "a")], Fault::NameEmpty),
        (&[("a", "1"); 9], Fault::TooManyFields),
        (&[("a", &long), ("b", &long), ("c", &long)], Fault::HeadTooLarge),
        (&[("abcdefgh", &long)], Fault::FieldTooLarge),
    ] {
        assert_eq!(answer(&[&[ok][..], fields].concat()).err(), Some(Unread::Fault(fault)), "{fields:?}");
    }
    let trailers =
        read_answer_trailers(&section(&[("grpc-status", "0"), ("content-length", "7")]), &Limits::default()).unwrap();
    assert_eq!(trailers.iter().count(), 1);
    for broken in [(":status", "200"), ("X", "1")] {
        assert_eq!(read_answer_trailers(&section(&[broken]), &Limits::default()).err(), Some(Unread::Malformed));
    }
    for broken in ["a\nb", "\u{c}b"] {
        let read = read_answer_trailers(&section(&[("x", broken)]), &Limits::default());
        assert_eq!(read.err(), Some(Unread::Fault(Fault::ValueCharacter)), "{broken:?}");
    }
}

fn asked(request: &Request, options: &RequestOptions<'_>) -> Option<Vec<String>> {
    let mut bytes = Vec::new();
    if !write_request(request, options, &mut bytes) {
        assert!(bytes.is_empty());
        return None;
    }
    let event = Receiving::new(1 << 20).handle(&mut bytes.into()).unwrap();
    let Some(Event::Head(block)) = event else { panic!("{event:?}") };
    let mut section = Section::default();
    qpack::decode(&block, &WIDE, &mut section).unwrap();
    Some(section.iter().map(|(n, v)| String::from_utf8([n, b"=", v].concat()).unwrap()).collect())
}

#[test]
fn a_request_goes_out_without_what_is_of_one_hop() {
    let mut request = Request { method: Method::Post, ..Request::default() };
    request.set_target(b"/a%20b?c=d").unwrap();
    for (name, value) in [
        ("Host", "client.test"),
        ("Content-Length", "999"),
        ("Expect", "100-continue"),
        ("Connection", "x-own"),
        ("Transfer-Encoding", "chunked"),
        ("TE", "gzip"),
        ("Cookie", "a=1; b=2"),
    ] {
        request.headers.add(name, value);
    }
    let options = RequestOptions { authority: "shop.test:8443", prefix: "/api", length: Some(3), protocol: None };
    let head = [":method=POST", ":scheme=https", ":authority=shop.test:8443", ":path=/api/a%20b?c=d"];
    let rest = ["cookie=a=1; b=2", "content-length=3", "te=trailers"];
    assert_eq!(asked(&request, &options).unwrap(), [&head[..], &rest].concat());
    for authority in ["", "a b", "a/b", "a\r\nb"] {
        assert_eq!(asked(&request, &RequestOptions { authority, ..options }), None, "{authority}");
    }
    request.method = Method::Connect;
    assert_eq!(asked(&request, &options), None);
}

#[test]
fn interim_answers_come_before_the_final_one() {
    let mut bytes = Vec::new();
    let options = ResponseOptions { length: None, date: "" };
    for status in [103, 200] {
        assert!(write_response(&Response::with_status(status), &options, &mut bytes));
    }
    let mut input = bytes::Bytes::from(bytes);
    let mut receiving = Receiving::new(1 << 20);
    assert!(matches!(receiving.handle(&mut input), Ok(Some(Event::Head(_)))));
    receiving.expect_head();
    assert_eq!(receiving.handle_end(), Err(crate::Fault::Stream(crate::Code::RequestIncomplete)));
    assert!(matches!(receiving.handle(&mut input), Ok(Some(Event::Head(_)))));
    assert_eq!(receiving.handle_end(), Ok(()));
}
