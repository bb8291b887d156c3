use super::*;

fn request(target: &str, fields: &[(&str, &str)]) -> Request {
    let mut request = Request::default();
    request.set_target(target.as_bytes()).unwrap();
    fields.iter().for_each(|(name, value)| request.headers.add(name, value));
    request
}

fn options() -> RequestOptions<'static> {
    RequestOptions { scheme: "https", authority: "a.test", length: None, protocol: None, expect_continue: false }
}

fn names(fields: &HeaderMap) -> Vec<&str> {
    fields.keys().map(HeaderName::as_str).collect()
}

#[test]
fn fields_of_this_hop_stay_behind() {
    let fields = [
        ("Host", "old.test"),
        ("X-One", "1"),
        ("Connection", "keep-alive"),
        ("Keep-Alive", "5"),
        ("Proxy-Connection", "close"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "websocket"),
        ("TE", "gzip"),
        ("Content-Length", "7"),
        ("Expect", "100-continue"),
    ];
    let head = write_request(&request("/a?b=c", &fields), &RequestOptions { length: Some(3), ..options() }).unwrap();
    assert_eq!(head.uri().to_string(), "https://a.test/a?b=c");
    assert_eq!(names(head.headers()), ["x-one", "content-length", "te"]);
    assert_eq!(
        (&head.headers()["content-length"], &head.headers()["te"]),
        (&"3".parse().unwrap(), &"trailers".parse().unwrap())
    );
}

#[test]
fn every_target_can_be_said() {
    for byte in 0x21..0x7f_u8 {
        let text = format!("/a?{}", byte as char);
        let mut request = Request::default();
        if request.set_target(text.as_bytes()).is_err() {
            continue;
        }
        let head = write_request(&request, &options()).unwrap_or_else(|| panic!("{text}"));
        let said = head.uri().path_and_query().unwrap().as_str();
        assert!(said == text || said == format!("/a?%{byte:02X}"), "{text} as {said}");
    }
    for byte in 0..=0xff_u8 {
        let mut request = Request::default();
        if request.set_target(format!("/%{byte:02X}/").as_bytes()).is_ok() {
            let head = write_request(&request, &options()).unwrap_or_else(|| panic!("{byte:02X}"));
            assert_eq!(head.uri().path(), request.path.encoded());
        }
    }
}

#[test]
fn an_offer_to_switch_becomes_an_extended_connect() {
    let fields = [("Upgrade", "websocket"), ("Sec-WebSocket-Key", "x"), ("Sec-WebSocket-Version", "13")];
    let options = RequestOptions { protocol: Some("websocket"), ..options() };
    let head = write_request(&request("/chat", &fields), &options).unwrap();
    assert_eq!((head.method(), head.uri().path()), (&http::Method::CONNECT, "/chat"));
    assert_eq!(head.extensions().get::<h2::ext::Protocol>().unwrap().as_str(), "websocket");
    assert_eq!(names(head.headers()), ["sec-websocket-version", "te"]);
}

#[test]
fn a_tunnel_is_asked_for_by_its_authority_alone() {
    let mut request = Request { method: Method::Connect, ..Request::default() };
    request.authority = "db.test:5432".into();
    let head = write_request(&request, &RequestOptions { authority: "db.test:5432", ..options() }).unwrap();
    assert_eq!((head.uri().to_string().as_str(), head.uri().path()), ("db.test:5432", ""));
}

#[test]
fn trailers_lose_what_may_not_stand_there() {
    let mut fields = HeaderMap::new();
    fields.insert("grpc-status", HeaderValue::from_static("0"));
    fields.insert("content-length", HeaderValue::from_static("0"));
    fields.insert("host", HeaderValue::from_static("x"));
    let read = read_trailers(&fields);
    assert_eq!(read.len(), 1);
    assert_eq!(write_trailers(&read).unwrap().len(), 1);
    assert!(write_trailers(&Headers::new()).is_none());
}
