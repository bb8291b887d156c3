use super::*;
use crate::qpack::Bounds;
use crate::request::{Event, Receiving};

const WIDE: Bounds = Bounds { bytes: 1 << 20, fields: 1 << 10 };

fn section(fields: &[(&str, &str)]) -> Section {
    let mut block = Vec::new();
    qpack::begin(&mut block);
    for (name, value) in fields {
        // With the case they have: `qpack::field` writes lower case.
        block.push(0x27);
        block.push(name.len() as u8 - 7);
        block.extend_from_slice(name.as_bytes());
        block.push(value.len() as u8);
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
