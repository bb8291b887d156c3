//! Responses, bodies and encoding by RFC section, and what holds for any input.

use proptest::prelude::*;
use proto_http::Protocol::{self, ConnectIp, ConnectUdp, WebSocket};
use proto_http::h1::*;
use proto_http::{Headers, Limits, Method, Request, Response, Underscores, Version};

fn limits() -> Limits {
    Limits::default()
}

fn response(text: &str, method: Method) -> Result<(ResponseHead, Response), Fault> {
    let mut into = Response::default();
    match parse_response(text.as_bytes(), &limits(), &method, &mut into) {
        Ok(Some(head)) => Ok((head, into)),
        Ok(None) => panic!("incomplete: {text:?}"),
        Err(error) => Err(error.kind),
    }
}

fn accepted(text: &str, method: Method, framing: Framing, keep_alive: bool) -> (ResponseHead, Response) {
    let found = response(text, method).unwrap_or_else(|fault| panic!("{text:?}: {fault:?}"));
    assert_eq!((found.0.framing, found.0.keep_alive), (framing, keep_alive), "{text:?}");
    assert_eq!(found.0.consumed, text.len());
    found
}

fn refused(text: &str, fault: Fault) {
    assert_eq!(response(text, Method::Get).err(), Some(fault), "{text:?}");
}

// RFC 9112 section 6.3: where the body of a response ends.
#[test]
fn response_framing() {
    use Framing::*;
    accepted("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::Get, Length(5), true);
    accepted("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Method::Get, Length(0), true);
    accepted("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Method::Get, Chunked, true);
    accepted("HTTP/1.1 200 OK\r\n\r\n", Method::Get, UntilClose, false);
    accepted("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n", Method::Get, Length(5), false);
    accepted("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Method::Get, Length(5), false);
    accepted("HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: Keep-Alive\r\n\r\n", Method::Get, Length(5), true);
    accepted("HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", Method::Get, Length(0), true);
    for (head, announced) in
        [("Content-Length: 5", Length(5)), ("Transfer-Encoding: chunked", Chunked), ("X: y", Empty)]
    {
        let text = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n");
        assert_eq!(accepted(&text, Method::Head, Empty, true).0.announced, announced);
        let text = format!("HTTP/1.1 304 Not Modified\r\n{head}\r\n\r\n");
        assert_eq!(accepted(&text, Method::Get, Empty, true).0.announced, announced);
        // A body where none may be: read as none, and the connection not trusted again.
        let text = format!("HTTP/1.1 204 No Content\r\n{head}\r\n\r\n");
        accepted(&text, Method::Get, Empty, announced == Empty);
    }
    accepted("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", Method::Get, Empty, true);
}

#[test]
fn response_turning_points() {
    let (head, _) = accepted("HTTP/1.1 100 Continue\r\n\r\n", Method::Get, Framing::Empty, true);
    assert!(head.interim && !head.switching);
    let (head, _) = accepted("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", Method::Get, Framing::Empty, true);
    assert!(head.interim);
    let upgrade = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let (head, _) = accepted(upgrade, Method::Get, Framing::Empty, false);
    assert!(head.switching && !head.interim);
    let (head, _) = accepted("HTTP/1.1 200 OK\r\n\r\n", Method::Connect, Framing::Empty, false);
    assert!(head.switching);
    accepted("HTTP/1.1 403 Forbidden\r\nContent-Length: 1\r\n\r\n", Method::Connect, Framing::Length(1), true);

    let mut interim = InterimCount::default();
    for _ in 0..8 {
        interim.count(&limits()).unwrap();
    }
    assert_eq!(interim.count(&limits()).unwrap_err().kind, Fault::TooManyInterim);
}

#[test]
fn response_strictness() {
    for line in [
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 099 x",
        "HTTP/1.1 600 x",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.1 +20 OK",
        "HTTP/1.x 200 OK",
        "http/1.1 200 OK",
        "HTTP/11.1 200 OK",
        "ICY 200 OK",
        "HTTP/1.1 200\tOK",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200OK",
        " HTTP/1.1 200 OK",
        "\r\nHTTP/1.1 200 OK",
        "GET / HTTP/1.1",
    ] {
        refused(&format!("{line}\r\nContent-Length: 0\r\n\r\n"), Fault::StatusLine);
    }
    refused("HTTP/2.0 200 OK\r\n\r\n", Fault::Version);
    refused("HTTP/1.1 200 OK\n\r\n", Fault::BareLf);
    refused("HTTP/1.1 200 OK\rX\r\n\r\n", Fault::BareCr);
    accepted("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", Method::Get, Framing::Length(0), true);
    accepted("HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", Method::Get, Framing::Length(0), true);
    accepted("HTTP/1.1 599 caf\u{e9}\r\nContent-Length: 0\r\n\r\n", Method::Get, Framing::Length(0), true);
    for (fields, fault) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", Fault::LengthAndChunked),
        ("Content-Length: 5\r\nContent-Length: 5", Fault::SeveralLengths),
        ("Content-Length: 5, 5", Fault::Length),
        ("Content-Length: -1", Fault::Length),
        ("Transfer-Encoding: gzip, chunked", Fault::TransferCoding),
        ("Transfer-Encoding: identity", Fault::TransferCoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Fault::SeveralTransferCodings),
        ("Transfer Encoding: chunked", Fault::NameSpace),
        ("X: a\r\n b", Fault::Fold),
        ("X: a\0", Fault::ValueCharacter),
        ("X: a\nY: b", Fault::BareLf),
        ("No colon", Fault::NameSpace),
        ("Connection: a b", Fault::Connection),
    ] {
        refused(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"), fault);
    }
    refused("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::TransferCodingVersion);
    refused("HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n", Fault::InterimFraming);
    refused(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(129)), Fault::TooManyFields);
    // A backend may hold several hosts' worth of nonsense in fields that mean nothing in a response.
    accepted(
        "HTTP/1.1 200 OK\r\nHost: a,b\r\nExpect: x\r\nContent-Length: 0\r\n\r\n",
        Method::Get,
        Framing::Length(0),
        true,
    );
}

// What the head of a request tells its hop.
#[test]
fn request_heads() {
    let head = |text: &str| {
        let mut into = Request::default();
        let head = parse_request(text.as_bytes(), &limits(), &mut into).unwrap().unwrap();
        (head, into)
    };
    let alive = |text: &str| head(text).0.keep_alive;
    assert!(alive("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(!alive("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n"));
    assert!(!alive("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n"));
    assert!(!alive("GET / HTTP/1.0\r\n\r\n"));
    assert!(alive("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));

    let expects =
        |fields: &str, version: &str| head(&format!("PUT / {version}\r\nHost: a\r\n{fields}\r\n")).0.expect_continue;
    assert!(expects("Expect: 100-Continue\r\nContent-Length: 1\r\n", "HTTP/1.1"));
    assert!(expects("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", "HTTP/1.1"));
    assert!(!expects("Expect: 100-continue\r\nContent-Length: 1\r\n", "HTTP/1.0"));
    assert!(!expects("Expect: 100-continue\r\n", "HTTP/1.1"));
    assert!(!expects("Expect: 100-continue\r\nContent-Length: 0\r\n", "HTTP/1.1"));

    let upgrades =
        |fields: &str, version: &str| head(&format!("GET / {version}\r\nHost: a\r\n{fields}\r\n")).0.upgrade.is_some();
    assert!(upgrades("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n", "HTTP/1.1"));
    assert!(!upgrades("Connection: upgrade\r\nUpgrade: websocket\r\n", "HTTP/1.0"));
    assert!(!upgrades("Upgrade: websocket\r\n", "HTTP/1.1"));
    assert!(!upgrades("Connection: upgrade\r\n", "HTTP/1.1"));
    assert!(!upgrades("Connection: upgrade\r\nUpgrade: websocket, h2c\r\n", "HTTP/1.1"));
    assert!(!upgrades("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n", "HTTP/1.1"));

    let (_, request) = head("GET / HTTP/1.1\r\nHost: a\r\nConnection: x-a\r\nX-A: 1\r\nX-B: 2\r\n\r\n");
    assert!(!request.headers.contains("x-a") && request.headers.contains("x-b"));
    let (_, request) = head("CONNECT b:443 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((request.authority.as_str(), request.path.as_str()), ("b:443", ""));
}

// RFC 9110 section 7.6.1: what may not go on.
#[test]
fn requests_go_out_framed_anew() {
    let text = b"POST http://b/a/%2e%2e/%e4%b8%ad?q=%zz HTTP/1.0\r\nHost: a\r\nAccept: */*\r\nX-Case: KePT\r\nConnection: keep-alive, X-Gone, Upgrade\r\n\
        X-Gone: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nProxy-Authorization: secret\r\nTE: trailers\r\nTrailer: x\r\nUpgrade: websocket\r\n\
        Content-Length: 5\r\nx-last:2\r\n\r\nhello";
    let mut request = Request::default();
    let head = parse_request(text, &limits(), &mut request).unwrap().unwrap();
    assert_eq!(&text[head.consumed..], b"hello");
    let options = RequestOptions { framing: head.framing, host: "backend:80", upgrade: false, expect_continue: false };
    let wire = |request: &Request, options: RequestOptions<'_>| {
        let mut out = Vec::new();
        write_request_head(&mut out, request, &options);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        wire(&request, options),
        "POST /%E4%B8%AD?q=%zz HTTP/1.1\r\nHost: backend:80\r\nAccept: */*\r\nX-Case: KePT\r\nx-last: 2\r\nContent-Length: 5\r\n\r\n"
    );
    let all = RequestOptions { framing: Framing::Chunked, upgrade: true, expect_continue: true, ..options };
    assert_eq!(
        wire(&request, all),
        "POST /%E4%B8%AD?q=%zz HTTP/1.1\r\nHost: backend:80\r\nAccept: */*\r\nX-Case: KePT\r\nx-last: 2\r\n\
         Connection: upgrade\r\nUpgrade: websocket\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    // A filter's field is not the client's to strike out.
    request.headers.set("X-Gone", "from a filter");
    assert!(wire(&request, options).contains("X-Gone: from a filter\r\n"));
}

// RFC 9112 section 6, RFC 9110 sections 8.6 and 15: which answers carry which framing.
#[test]
fn responses_go_out_framed_anew() {
    let plain = ResponseOptions {
        framing: Framing::Length(5),
        keep_alive: true,
        client: Version::Http11,
        date: "DATE",
        upgrade: None,
        head_request: false,
        tunnel: false,
    };
    let wire = |status: u16, fields: &[(&str, &str)], options: ResponseOptions<'_>| {
        let mut response = Response::with_status(status);
        for (name, value) in fields {
            response.headers.add(name, value);
        }
        let mut out = Vec::new();
        write_response_head(&mut out, &response, &options);
        String::from_utf8(out).unwrap()
    };
    let backend: &[(&str, &str)] =
        &[("Content-Length", "9"), ("Transfer-Encoding", "chunked"), ("X-a", "1"), ("Keep-Alive", "x")];
    assert_eq!(wire(200, backend, plain), "HTTP/1.1 200 OK\r\nX-a: 1\r\nDate: DATE\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(
        wire(200, &[("Date", "theirs")], ResponseOptions { keep_alive: false, framing: Framing::Chunked, ..plain }),
        "HTTP/1.1 200 OK\r\nDate: theirs\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let framed = |status, options| {
        let text = wire(status, backend, options);
        let found: Vec<_> = text
            .lines()
            .filter(|l| l.starts_with("Content-L") || l.starts_with("Transfer"))
            .map(String::from)
            .collect();
        found.join("|")
    };
    assert_eq!(framed(200, ResponseOptions { framing: Framing::Empty, ..plain }), "Content-Length: 0");
    assert_eq!(framed(200, ResponseOptions { framing: Framing::UntilClose, ..plain }), "");
    assert!(wire(200, &[], ResponseOptions { framing: Framing::UntilClose, ..plain }).contains("Connection: close"));
    assert_eq!(framed(200, ResponseOptions { head_request: true, ..plain }), "Content-Length: 5");
    assert_eq!(framed(200, ResponseOptions { head_request: true, framing: Framing::Empty, ..plain }), "");
    assert_eq!(framed(200, ResponseOptions { tunnel: true, ..plain }), "");
    for status in [100, 101, 103, 204, 304] {
        for framing in [Framing::Empty, Framing::Length(5), Framing::Chunked] {
            assert_eq!(framed(status, ResponseOptions { framing, ..plain }), "", "{status}");
        }
    }
    assert_eq!(wire(103, &[("Link", "</a>")], plain), "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    let old = ResponseOptions { client: Version::Http10, ..plain };
    assert!(wire(200, &[], old).contains("\r\nConnection: keep-alive\r\n"));
    assert!(wire(200, &[], ResponseOptions { keep_alive: false, ..old }).contains("\r\nConnection: close\r\n"));
    let upgrade = &[("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", "x")];
    assert_eq!(
        wire(101, upgrade, ResponseOptions { upgrade: Some(Protocol::WebSocket), ..plain }),
        "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    assert_eq!(Framing::Chunked.for_client(Version::Http10), Framing::UntilClose);
    assert_eq!(Framing::UntilClose.for_client(Version::Http11), Framing::Chunked);
    let mut out = Vec::new();
    write_continue(&mut out);
    assert_eq!(out, b"HTTP/1.1 100 Continue\r\n\r\n");
}

// RFC 9112 sections 6.2 and 7.1.
#[test]
fn bodies() {
    let mut length = BodyDecoder::new(Framing::Length(7), &limits());
    assert_eq!(length.remaining(), Some(7));
    assert_eq!(length.decode(b"hello").unwrap(), Decoded { consumed: 5, data: 0..5, done: false });
    assert_eq!(length.remaining(), Some(2));
    assert_eq!(length.finish_at_eof().unwrap_err().kind, Fault::Truncated);
    assert_eq!(length.decode(b"x").unwrap_err().kind, Fault::Truncated, "an error is final");

    let mut length = BodyDecoder::new(Framing::Length(2), &limits());
    assert_eq!(length.decode(b"abGET /").unwrap(), Decoded { consumed: 2, data: 0..2, done: true });
    assert_eq!(length.decode(b"GET /").unwrap(), Decoded { consumed: 0, data: 0..0, done: true });
    length.finish_at_eof().unwrap();

    let mut close = BodyDecoder::new(Framing::UntilClose, &limits());
    assert_eq!(close.decode(b"abc").unwrap(), Decoded { consumed: 3, data: 0..3, done: false });
    assert_eq!(close.remaining(), None);
    close.finish_at_eof().unwrap();
    assert!(close.is_done());

    // One call takes the size, the data, and all framing up to the next data.
    let mut chunked = BodyDecoder::new(Framing::Chunked, &limits());
    let input = b"5\r\nhello\r\n3;x\r\nabc\r\n0\r\nX: 1\r\nHost: b\r\n\r\nGET";
    assert_eq!(chunked.decode(input).unwrap(), Decoded { consumed: 15, data: 3..8, done: false });
    assert_eq!(chunked.trailers().map(|t| t.len()), None);
    assert_eq!(chunked.decode(&input[15..]).unwrap(), Decoded { consumed: 25, data: 0..3, done: true });
    let trailers = chunked.trailers().unwrap();
    assert_eq!((trailers.text("x"), trailers.len()), (Some("1"), 1));

    let mut cut = BodyDecoder::new(Framing::Chunked, &limits());
    cut.decode(b"5\r\nhello\r\n0\r\n").unwrap();
    assert_eq!(cut.finish_at_eof().unwrap_err().kind, Fault::Truncated);
}

#[test]
fn chunks_are_written() {
    assert_eq!(chunk_prefix(0x1a2b).as_ref(), b"1a2b\r\n");
    assert_eq!(chunk_prefix(1).as_ref(), b"1\r\n");
    assert_eq!(chunk_prefix(usize::MAX).as_ref(), b"ffffffffffffffff\r\n");
    let mut trailers = Headers::new();
    trailers.add("X-Sum", "1");
    trailers.add("Content-Length", "5");
    let mut out = Vec::new();
    write_trailers(&mut out, &trailers);
    assert_eq!(out, b"0\r\nX-Sum: 1\r\n\r\n");
}

#[test]
fn an_unfinished_head_is_bounded() {
    let mut into = Request::default();
    let tight = Limits { head_bytes: 1024, target_bytes: 512, field_bytes: 512, ..limits() };
    let mut buf = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
    while buf.len() < 1024 {
        assert_eq!(parse_request(&buf, &tight, &mut into).unwrap(), None);
        buf.extend_from_slice(b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n");
    }
    let error = parse_request(&buf, &tight, &mut into).unwrap_err();
    assert_eq!((error.status, error.kind), (431, Fault::HeadTooLarge));
    assert_eq!(parse_response(b"HTTP/1.1 200 OK\r\n", &tight, &Method::Get, &mut Response::default()), Ok(None));
}

#[test]
fn memory_is_reused_and_nothing_leaks_into_the_next_request() {
    let mut into = Request::default();
    parse_request(b"PURGE /a?b HTTP/1.0\r\nHost: first.example\r\nCookie: secret\r\n\r\n", &limits(), &mut into)
        .unwrap()
        .unwrap();
    parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &limits(), &mut into).unwrap().unwrap();
    assert_eq!((into.target().as_str(), into.authority.as_str(), into.headers.len()), ("/", "a", 1));
    parse_request(b"GET / HTTP/1.0\r\n\r\n", &limits(), &mut into).unwrap().unwrap();
    assert_eq!((into.authority.as_str(), into.headers.len()), ("", 0));
    parse_request(b"GET /x?y HTTP/1.1\r\nHost: a b\r\n\r\n", &limits(), &mut into).unwrap_err();
    assert_eq!((into.target().as_str(), into.authority.as_str(), into.headers.len()), ("/x?y", "", 0));
}

/// Heads that are nearly right.
fn head_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        "[ -~]{0,12}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..4),
        prop::sample::select(vec![
            "GET / HTTP/1.1\r\n",
            "POST /a?b HTTP/1.1\r\n",
            "HTTP/1.1 200 OK\r\n",
            "Host: a\r\n",
            "Content-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Connection: close\r\n",
            "X: y\r\n",
            "\r\n",
            "\r",
            "\n",
            ": ",
            " ",
            "\t",
            "\0",
            "http://a/",
            "%2e",
            "..",
            "Expect: 100-continue\r\n",
            "5\r\nhello\r\n",
            "0\r\n\r\n",
        ])
        .prop_map(|s| s.as_bytes().to_vec()),
    ];
    (any::<bool>(), prop::collection::vec(piece, 0..10)).prop_map(|(request, pieces)| {
        let start: &[u8] = if request { b"GET / HTTP/1.1\r\nHost: a\r\n" } else { b"" };
        [start, &pieces.concat()].concat()
    })
}

fn describe(request: &Request) -> String {
    format!("{} {} {:?} {} {:?}", request.method, request.target(), request.version, request.authority, request.headers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_prefix_never_says_anything_else(text in head_like()) {
        let (mut whole, mut part) = (Request::default(), Request::default());
        let verdict = parse_request(&text, &limits(), &mut whole);
        for cut in 0..text.len() {
            match parse_request(&text[..cut], &limits(), &mut part) {
                Ok(None) => prop_assert!(part.headers.is_empty()),
                Ok(Some(head)) => {
                    prop_assert_eq!(verdict, Ok(Some(head)));
                    prop_assert_eq!(describe(&part), describe(&whole));
                }
                error => prop_assert_eq!(error, verdict),
            }
        }
        let (mut whole, mut part) = (Response::default(), Response::default());
        let verdict = parse_response(&text, &limits(), &Method::Get, &mut whole);
        for cut in 0..text.len() {
            let found = parse_response(&text[..cut], &limits(), &Method::Get, &mut part);
            prop_assert!(found == Ok(None) || found == verdict);
        }
    }

    #[test]
    fn chunks_survive_any_split(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
        trailer in any::<bool>(),
        splits in prop::collection::vec(1usize..9, 0..60),
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            wire.extend_from_slice(chunk_prefix(chunk.len()).as_ref());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(CHUNK_END);
        }
        let mut trailers = Headers::new();
        if trailer {
            trailers.add("X-Sum", "1");
            write_trailers(&mut wire, &trailers);
        } else {
            wire.extend_from_slice(LAST_CHUNK);
        }
        let end = wire.len();
        wire.extend_from_slice(b"GET / HTTP/1.1\r\n");
        let mut decoder = BodyDecoder::new(Framing::Chunked, &limits());
        let mut body = Vec::new();
        let mut at = 0;
        let mut sizes = splits.into_iter();
        while !decoder.is_done() {
            let upto = (at + sizes.next().unwrap_or(usize::MAX - 100_000)).min(wire.len());
            let decoded = decoder.decode(&wire[at..upto]).unwrap();
            body.extend_from_slice(&wire[at..upto][decoded.data]);
            prop_assert!(decoded.consumed > 0);
            at += decoded.consumed;
        }
        prop_assert_eq!(at, end);
        prop_assert_eq!(body, chunks.concat());
        prop_assert_eq!(decoder.trailers().is_some(), trailer);
    }

    #[test]
    fn garbage_in_a_body_is_the_same_garbage_in_pieces(text in "[0-3a\\r\\n;: X]{0,40}", step in 1usize..5) {
        let run = |step: usize| {
            let mut decoder = BodyDecoder::new(Framing::Chunked, &limits());
            let (mut at, mut body) = (0, Vec::new());
            while at < text.len() && !decoder.is_done() {
                let upto = (at + step).min(text.len());
                let input = &text.as_bytes()[at..upto];
                match decoder.decode(input) {
                    Ok(decoded) => {
                        body.extend_from_slice(&input[decoded.data]);
                        at += decoded.consumed;
                    }
                    Err(error) => return (Some(error), body, 0),
                }
            }
            (None, body, at)
        };
        let (whole, pieces) = (run(usize::MAX / 2), run(step));
        // A whole that breaks off in the same call as its last data never handed that data out.
        prop_assert_eq!(&whole.0, &pieces.0);
        prop_assert_eq!(whole.2, pieces.2);
        prop_assert!(pieces.1.starts_with(&whole.1));
    }

    #[test]
    fn what_is_written_is_read_again(
        path in "/[a-z0-9%/.~中 ]{0,12}",
        query in prop::option::of("[a-z0-9=&%]{0,12}"),
        fields in prop::collection::vec(("X-[A-Za-z0-9-]{1,10}", "[!-~]([ -~\\t]{0,10}[!-~])?"), 0..10),
        length in prop::option::of(0u64..1 << 40),
    ) {
        let mut request = Request { query, authority: "a:1".into(), ..Request::default() };
        request.path.set(&path);
        for (name, value) in &fields {
            request.headers.add(name, value);
        }
        let framing = length.map_or(Framing::Chunked, Framing::Length);
        let mut wire = Vec::new();
        let options = RequestOptions { framing, host: "a:1", upgrade: false, expect_continue: false };
        write_request_head(&mut wire, &request, &options);
        let mut again = Request::default();
        match parse_request(&wire, &limits(), &mut again) {
            Ok(Some(head)) => {
                prop_assert_eq!((head.consumed, head.framing), (wire.len(), framing));
                prop_assert_eq!(&again.path, &request.path);
                prop_assert_eq!(&again.query, &request.query);
                for (name, value) in &fields {
                    prop_assert!(again.headers.values(name).any(|v| v == value.as_bytes()));
                }
            }
            // A filter may write a path that a client would be refused.
            Err(error) => prop_assert!(matches!(error.kind, Fault::TargetDisguisedDots | Fault::TargetNul | Fault::NameLookalike), "{error}"),
            Ok(None) => prop_assert!(false, "incomplete"),
        }
    }
}

/// The Upgrade lines of a request, whether they are an offer, and what is offered on.
#[test]
fn two_upgrade_lines_are_one_list() {
    for (lines, offered) in [
        (&["websocket"][..], Some(WebSocket)),
        (&["WebSocket"], Some(WebSocket)),
        (&["h2c"], None),
        (&["h2c", "websocket"], None),
        (&["websocket", "h2c"], None),
        (&["websocket, H2C"], None),
        (&["", "websocket"], Some(WebSocket)),
        (&["websocket", "foo/2"], Some(WebSocket)),
        (&["foo, bar"], None),
        (&["TLS/1.2"], None),
        (&["websocket/13"], None),
        (&["connect-udp"], Some(ConnectUdp)),
        (&["connect-ip", "foo"], Some(ConnectIp)),
        (&["connect-udp, h2c"], None),
        // As the client would rather have them.
        (&["foo, connect-udp", "websocket"], Some(ConnectUdp)),
        (&["webtransport"], None),
        (&[], None),
    ] {
        let fields: String = lines.iter().map(|line| format!("Upgrade: {line}\r\n")).collect();
        let wire = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n{fields}\r\n");
        let mut request = Request::default();
        let head = parse_request(wire.as_bytes(), &limits(), &mut request).unwrap().unwrap();
        assert_eq!(head.upgrade, offered, "{lines:?}");
        let mut out = Vec::new();
        let options = RequestOptions { framing: Framing::Empty, host: "a", upgrade: true, expect_continue: false };
        write_request_head(&mut out, &request, &options);
        let sent = String::from_utf8(out).unwrap();
        let upgrade = offered
            .map_or_else(String::new, |protocol| format!("Connection: upgrade\r\nUpgrade: {}\r\n", protocol.name()));
        assert_eq!(sent, format!("GET / HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n"), "{lines:?}");
    }
}

#[test]
fn a_101_names_the_protocol_that_was_offered() {
    for (lines, accepted) in [
        (&["websocket"][..], Some(WebSocket)),
        (&["WebSocket"], Some(WebSocket)),
        (&["websocket", "websocket"], Some(WebSocket)),
        (&["h2c"], None),
        (&["websocket", "h2c"], None),
        (&["h2c", "websocket"], None),
        (&["websocket, foo"], None),
        (&["connect-udp"], Some(ConnectUdp)),
        (&["connect-udp", "websocket"], None),
        (&[""], None),
        (&[], None),
    ] {
        let fields: String = lines.iter().map(|line| format!("Upgrade: {line}\r\n")).collect();
        let wire = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n{fields}\r\n");
        let mut response = Response::default();
        let head = parse_response(wire.as_bytes(), &limits(), &Method::Get, &mut response).unwrap().unwrap();
        assert!(head.switching);
        assert_eq!(accepted_upgrade(&response.headers), accepted, "{lines:?}");
    }
}

#[test]
fn a_426_names_the_protocols_that_will_do() {
    let mut response = Response::with_status(426);
    response.headers.add("Upgrade", "websocket");
    response.headers.add("Upgrade", "TLS/1.2");
    for (keep_alive, connection) in [(true, "upgrade"), (false, "upgrade, close")] {
        let mut out = Vec::new();
        let options = ResponseOptions {
            framing: Framing::Length(0),
            keep_alive,
            client: Version::Http11,
            date: "now",
            upgrade: None,
            head_request: false,
            tunnel: false,
        };
        write_response_head(&mut out, &response, &options);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!(
                "HTTP/1.1 426 Upgrade Required\r\nDate: now\r\nConnection: {connection}\r\nUpgrade: websocket\r\n\
                 Upgrade: TLS/1.2\r\nContent-Length: 0\r\n\r\n"
            )
        );
    }
}

#[test]
fn blanks_before_a_colon_are_mended_in_answers_only() {
    for (line, name, value) in [
        ("X-A : 1", "X-A", "1"),
        ("X-A\t \t:1", "X-A", "1"),
        ("X-A :", "X-A", ""),
        ("Content-Type :a/b", "Content-Type", "a/b"),
    ] {
        let wire = format!("HTTP/1.1 200 OK\r\n{line}\r\nContent-Length : 3\r\n\r\nabc");
        let mut response = Response::default();
        let head = parse_response(wire.as_bytes(), &limits(), &Method::Get, &mut response).unwrap().unwrap();
        assert!(head.mended);
        assert_eq!(
            (head.framing, response.headers.value(name)),
            (Framing::Length(3), Some(value.as_bytes())),
            "{line}"
        );
        let wire = format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
        let error = parse_request(wire.as_bytes(), &limits(), &mut Request::default()).unwrap_err();
        assert_eq!(error.kind, Fault::NameSpace, "{line}");
    }
    // What is read as framing counts as such: mending never makes two readings of one.
    let wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\nContent-Length: 3\r\n\r\n";
    let error = parse_response(wire, &limits(), &Method::Get, &mut Response::default()).unwrap_err();
    assert_eq!(error.kind, Fault::LengthAndChunked);
    let wire = b"HTTP/1.1 200 OK\r\nX A: 1\r\n\r\n";
    let error = parse_response(wire, &limits(), &Method::Get, &mut Response::default()).unwrap_err();
    assert_eq!(error.kind, Fault::NameSpace);
}

#[test]
fn blanks_after_a_chunk_size_are_mended_in_answers_only() {
    for (body, answers, requests) in [
        ("5 \r\nhello\r\n0 \t\r\nX-Sum : 1\r\n\r\n", Some(3), None),
        ("5\r\nhello\r\n0\r\n\r\n", Some(0), Some(())),
        ("5 ;a=b\r\nhello\r\n0\t ;c\r\n\r\n", Some(0), Some(())),
        ("5 x\r\nhello\r\n0\r\n\r\n", None, None),
        (" 5\r\nhello\r\n0\r\n\r\n", None, None),
    ] {
        let read = |mut decoder: BodyDecoder| {
            let (mut at, mut data) = (0, Vec::new());
            while !decoder.is_done() {
                let input = &body.as_bytes()[at..];
                let decoded = decoder.decode(input).ok()?;
                data.extend_from_slice(&input[decoded.data]);
                at += decoded.consumed;
            }
            assert_eq!((data.as_slice(), at), (&b"hello"[..], body.len()), "{body}");
            Some(decoder.mended())
        };
        assert_eq!(read(BodyDecoder::of_answer(Framing::Chunked, &limits())), answers, "{body}");
        assert_eq!(read(BodyDecoder::new(Framing::Chunked, &limits())).map(drop), requests, "{body}");
    }
}

#[test]
fn an_interim_answer_may_say_that_it_has_no_body() {
    for (fields, accepted) in [
        ("Content-Length: 0\r\n", true),
        ("Content-Length: 00\r\nLink: </a>\r\n", true),
        ("Content-Length: 1\r\n", false),
        ("Transfer-Encoding: chunked\r\n", false),
    ] {
        for status in [100, 102, 103, 199] {
            let wire = format!("HTTP/1.1 {status} x\r\n{fields}\r\n");
            let head = parse_response(wire.as_bytes(), &limits(), &Method::Get, &mut Response::default());
            assert_eq!(head.is_ok(), accepted, "{wire}");
            if let Ok(head) = head {
                assert!(head.unwrap().interim && head.unwrap().framing.is_empty());
            }
        }
    }
}

#[test]
fn names_with_underscores_are_what_the_server_says() {
    let wire = b"POST / HTTP/1.1\r\nHost: a\r\nX_User: 1\r\nX-User: 2\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = b"0\r\nX_Sum: 1\r\nX-Sum: 2\r\n\r\n";
    for (underscores, kept, dropped) in [(Underscores::Drop, 1, 1), (Underscores::Allow, 2, 0)] {
        let limits = Limits { underscores, ..limits() };
        let mut request = Request::default();
        let head = parse_request(wire, &limits, &mut request).unwrap().unwrap();
        assert_eq!((head.dropped, request.headers.len()), (dropped, 2 + kept), "{underscores:?}");
        let mut decoder = BodyDecoder::new(head.framing, &limits);
        decoder.decode(body).unwrap();
        assert_eq!((decoder.dropped(), decoder.trailers().unwrap().len()), (dropped, kept), "{underscores:?}");
    }
    let refuse = Limits { underscores: Underscores::Refuse, ..limits() };
    assert_eq!(parse_request(wire, &refuse, &mut Request::default()).unwrap_err().kind, Fault::NameUnderscore);
    let mut decoder = BodyDecoder::new(Framing::Chunked, &refuse);
    assert_eq!(decoder.decode(body).unwrap_err().kind, Fault::NameUnderscore);
    // Backends name their fields as they like.
    let mut response = Response::default();
    parse_response(b"HTTP/1.1 200 OK\r\nX_User: 1\r\nContent-Length: 0\r\n\r\n", &refuse, &Method::Get, &mut response)
        .unwrap();
    assert_eq!(response.headers.len(), 2);
}

#[test]
fn trailers_are_no_way_around_what_heads_may_not_say() {
    for name in [
        "X_Forwarded_For",
        "x.forwarded.proto",
        "Content_Length",
        "Set_Cookie",
        "Authorization",
        "If_Match",
        "Forwarded",
    ] {
        assert!(is_forbidden_in_trailers(name.as_bytes()), "{name}");
    }
    assert!(!is_forbidden_in_trailers(b"X-Sum"));
}
