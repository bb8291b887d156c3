use super::*;

type Lines<'a> = &'a [(&'a str, &'a str)];

fn read(lines: Lines<'_>, limits: &Limits) -> Result<(MultiplexedHead, Request), Fault> {
    let mut pseudo = Pseudo::default();
    for (name, value) in lines.iter().filter(|(name, _)| name.starts_with(':')) {
        let value = value.as_bytes();
        match *name {
            ":method" => pseudo.method = value,
            ":scheme" => pseudo.scheme = Some(value),
            ":authority" => pseudo.authority = Some(value),
            ":path" => pseudo.path = Some(value),
            _ => pseudo.protocol = Some(value),
        }
    }
    let fields = lines.iter().filter(|(name, _)| !name.starts_with(':')).map(|(n, v)| (n.as_bytes(), v.as_bytes()));
    let mut request = Request::default();
    let head = read_request(Version::Http2, &pseudo, fields, limits, &mut request)?;
    Ok((head, request))
}

fn get(more: Lines<'_>) -> Result<(MultiplexedHead, Request), Fault> {
    let mut lines = vec![(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/a")];
    lines.extend_from_slice(more);
    read(&lines, &Limits::default())
}

fn fault(more: Lines<'_>) -> Fault {
    get(more).map(|(head, request)| panic!("{head:?} {request:?}")).unwrap_err()
}

#[test]
fn an_ordinary_request() {
    let lines = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "a.test:8443"),
        (":path", "/%61/./b?x=%20"),
        ("cookie", "a=1"),
        ("te", "trailers"),
        ("x-one", " 1 "),
        ("cookie", "b=2"),
        ("content-length", "12"),
        ("expect", "100-Continue"),
    ];
    let (head, request) = read(&lines, &Limits::default()).unwrap();
    assert_eq!((head.length, head.expect_continue, head.protocol), (Some(12), true, None));
    assert_eq!((request.target().as_str(), request.host()), ("/a/b?x=%20", "a.test"));
    assert_eq!((request.method, request.version), (Method::Post, Version::Http2));
    let fields: Vec<(&str, &str)> = request
        .headers
        .iter()
        .map(|(n, v, _)| (std::str::from_utf8(n).unwrap(), std::str::from_utf8(v).unwrap()))
        .collect();
    let expected = [
        ("Host", "a.test:8443"),
        ("te", "trailers"),
        ("x-one", "1"),
        ("content-length", "12"),
        ("expect", "100-Continue"),
        ("cookie", "a=1; b=2"),
    ];
    assert_eq!(fields, expected);
}

#[test]
fn what_http1_refuses_is_refused() {
    let checks: &[(Lines<'_>, Fault)] = &[
        (&[("connection", "close")], Fault::ConnectionField),
        (&[("keep-alive", "5")], Fault::ConnectionField),
        (&[("proxy-connection", "close")], Fault::ConnectionField),
        (&[("transfer-encoding", "chunked")], Fault::ConnectionField),
        (&[("upgrade", "h2c")], Fault::ConnectionField),
        (&[("te", "gzip")], Fault::ConnectionField),
        (&[("host", "b.test")], Fault::AuthorityDiffers),
        (&[("host", "a.test"), ("host", "a.test")], Fault::SeveralHosts),
        (&[("host", "a,b")], Fault::Host),
        (&[("content-length", "1"), ("content-length", "1")], Fault::SeveralLengths),
        (&[("content-length", "+1")], Fault::Length),
        (&[("content-length", "1, 1")], Fault::Length),
        (&[("expect", "200-ok")], Fault::Expectation),
        (&[("content_length", "1")], Fault::NameLookalike),
        (&[("transfer.encoding", "chunked")], Fault::NameLookalike),
        (&[("x-real_ip", "1.1.1.1")], Fault::NameLookalike),
        (&[("a b", "1")], Fault::NameCharacter),
        (&[("a", "1\r\nb: 2")], Fault::ValueCharacter),
        (&[("a", "1\n")], Fault::ValueCharacter),
        (&[("a", "1\0")], Fault::ValueCharacter),
        (&[("", "1")], Fault::NameEmpty),
        (&[(":path", "/../a")], Fault::TargetAboveRoot),
        (&[(":path", "/a#b")], Fault::TargetCharacter),
        (&[(":path", "/a b")], Fault::TargetCharacter),
        (&[(":path", "/a\r\nX: 1")], Fault::TargetCharacter),
        (&[(":path", "/%00")], Fault::TargetNul),
        (&[(":path", "/%2")], Fault::TargetEscape),
        (&[(":path", "/a\\b")], Fault::TargetBackslash),
        (&[(":path", "a")], Fault::Target),
        (&[(":path", "")], Fault::Target),
        (&[(":path", "*")], Fault::Target),
        (&[(":path", "http://b.test/")], Fault::Target),
        (&[(":authority", "u@a.test")], Fault::TargetAuthority),
        (&[(":authority", "a.test/")], Fault::TargetAuthority),
        (&[(":authority", "a,b")], Fault::TargetAuthority),
        (&[(":authority", "")], Fault::TargetAuthority),
        (&[(":scheme", "ftp")], Fault::PseudoField),
        (&[(":method", "PRI")], Fault::Http2Preface),
        (&[(":method", "G T")], Fault::Method),
        (&[(":protocol", "websocket")], Fault::PseudoField),
        (&[(":method", "CONNECT")], Fault::PseudoField),
        (&[(":protocol", "connect-udp")], Fault::PseudoField),
        (&[(":method", "CONNECT"), (":protocol", "webtransport")], Fault::Protocol),
        (&[(":method", "CONNECT"), (":protocol", "h2c")], Fault::Protocol),
    ];
    for (lines, expected) in checks {
        assert_eq!(fault(lines), *expected, "{lines:?}");
    }
}

#[test]
fn whom_a_request_is_for_may_be_said_by_host_alone() {
    let lines = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
    assert_eq!(read(&lines, &Limits::default()).unwrap_err(), Fault::NoHost);
    let with = [&lines[..], &[("host", "B.test:1")]].concat();
    assert_eq!(read(&with, &Limits::default()).unwrap().1.authority, "B.test:1");
    let (_, both) = get(&[("host", "A.TEST")]).unwrap();
    assert_eq!((both.authority.as_str(), both.headers.values("host").count()), ("a.test", 1));
}

#[test]
fn tunnels_and_sockets() {
    let connect = [(":method", "CONNECT"), (":authority", "db.test:5432")];
    let (_, request) = read(&connect, &Limits::default()).unwrap();
    assert_eq!((request.method, request.authority.as_str()), (Method::Connect, "db.test:5432"));
    let no_port = [(":method", "CONNECT"), (":authority", "db.test")];
    assert_eq!(read(&no_port, &Limits::default()).unwrap_err(), Fault::TargetAuthority);
    for protocol in Protocol::ALL {
        let (head, request) = get(&[(":method", "CONNECT"), (":protocol", protocol.name())]).unwrap();
        assert_eq!((head.protocol, crate::h1::offered_upgrade(&request.headers)), (Some(protocol), Some(protocol)));
        assert_eq!((request.method.clone(), request.target().as_str()), (Method::Get, "/a"));
    }
    let (_, request) = get(&[(":method", "OPTIONS"), (":path", "*")]).unwrap();
    assert_eq!(request.target(), "*");
}

#[test]
fn heads_are_bounded_and_each_crumb_counts() {
    let limits = Limits { fields: 3, field_bytes: 40, head_bytes: 120, ..Limits::default() };
    let read = |more: Lines<'_>| {
        let mut lines = vec![(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/")];
        lines.extend_from_slice(more);
        read(&lines, &limits).map(|(head, _)| head.dropped)
    };
    assert_eq!(read(&[("cookie", "a"), ("a_b", "1"), ("c", "1")]), Ok(1));
    assert_eq!(read(&[("cookie", "a"), ("cookie", ""), ("cookie", "b"), ("cookie", "c")]), Err(Fault::TooManyFields));
    assert_eq!(read(&[("a", &"x".repeat(38))]), Err(Fault::FieldTooLarge));
    let long = "x".repeat(36);
    assert_eq!(read(&[("a", &long), ("b", &long), ("c", &long)]), Err(Fault::HeadTooLarge));
    let strict = Limits { underscores: Underscores::Refuse, ..Limits::default() };
    let lines = [(":method", "GET"), (":authority", "a"), (":path", "/"), ("a_b", "1")];
    assert_eq!(super::tests::read(&lines, &strict).unwrap_err(), Fault::NameUnderscore);
}

#[test]
fn urgency_is_read() {
    for (text, expected) in
        [("u=0, i", Some(0)), ("i,u=7", Some(7)), ("i", None), ("u=8", None), ("u=1;x, u=12", None), ("", None)]
    {
        assert_eq!(get(&[("priority", text)]).unwrap().0.urgency, expected, "{text}");
    }
    assert_eq!(get(&[]).unwrap().0.urgency, None);
}

#[test]
fn trailers_are_judged_as_those_of_chunked_bodies() {
    let judged = |fields: Lines<'_>, limits: &Limits| {
        let lines = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let over = read_trailers(lines, limits).map(|(headers, dropped)| (headers.len(), dropped));
        // The same fields after a chunked body.
        let section: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let mut decoder = crate::h1::BodyDecoder::new(crate::h1::Framing::Chunked, limits);
        let input = format!("0\r\n{section}\r\n");
        let mut rest = input.as_bytes();
        let chunked = loop {
            match decoder.decode(rest) {
                Err(error) => break Err(error.kind),
                Ok(decoded) if decoded.done => {
                    let kept = decoder.trailers().map_or(0, |headers| headers.len());
                    break Ok((kept, decoder.dropped()));
                }
                Ok(decoded) => rest = &rest[decoded.consumed..],
            }
        };
        assert_eq!(over, chunked, "{fields:?}");
        over
    };
    let bounded = Limits { trailers: 3, trailer_bytes: 60, ..Limits::default() };
    assert_eq!(judged(&[("x-sum", "7"), ("a_b", "1"), ("x_real_ip", "1"), ("host", "a")][..3], &bounded), Ok((1, 1)));
    assert_eq!(judged(&[("content_length", "7"), ("authorization", "1")], &bounded), Ok((0, 0)));
    assert_eq!(judged(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")], &bounded), Err(Fault::TooManyTrailers));
    assert_eq!(judged(&[("a", &"x".repeat(58))], &bounded), Err(Fault::TrailersTooLarge));
    let refuse = Limits { underscores: Underscores::Refuse, ..bounded.clone() };
    assert_eq!(judged(&[("a_b", "1")], &refuse), Err(Fault::NameUnderscore));
    let allow = Limits { underscores: Underscores::Allow, ..bounded };
    assert_eq!(judged(&[("a_b", "1")], &allow), Ok((1, 0)));
}

#[test]
fn an_ordinary_answer() {
    let lines =
        [(":status", "201"), ("x-of", " kept "), ("content-length", "7"), ("set-cookie", "a"), ("set-cookie", "b")];
    let (response, length) = read_response(Version::Http2, &Section::of(&lines), &Limits::default()).unwrap();
    assert_eq!((response.status, response.version, length), (201, Version::Http2, Some(7)));
    assert_eq!(response.headers.value("x-of"), Some(&b"kept"[..]));
    assert_eq!(response.headers.values("set-cookie").count(), 2);
}

#[test]
fn answers_are_judged_as_those_of_http1() {
    let limits = Limits { fields: 4, field_bytes: 300, head_bytes: 600, ..Limits::default() };
    let read = |more: Lines<'_>| {
        let lines = [&[(":status", "200")], more].concat();
        read_response(Version::Http2, &Section::of(&lines), &limits).map(|(response, _)| response.headers.len())
    };
    let fault = |fault| Err(Unread::Fault(fault));
    assert_eq!(read(&[("a", "v"); 4]), Ok(4));
    assert_eq!(read(&[("a", "v"); 5]), fault(Fault::TooManyFields));
    assert_eq!(read(&[("a", &"v".repeat(296))]), fault(Fault::FieldTooLarge));
    assert_eq!(read(&[("a", &*"v".repeat(200)); 3]), fault(Fault::HeadTooLarge));
    assert_eq!(read(&[("a", "b\r\nc: d")]), fault(Fault::ValueCharacter));
    assert_eq!(read(&[("a b", "c")]), fault(Fault::NameCharacter));
    assert_eq!(read(&[("", "c")]), fault(Fault::NameEmpty));
    assert_eq!(read(&[("content-length", "x")]), fault(Fault::Length));
    assert_eq!(read(&[("content-length", "1"), ("content-length", "1")]), fault(Fault::SeveralLengths));
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        assert_eq!(read(&[(name, "x")]), fault(Fault::ConnectionField), "{name}");
    }
    for wrong in [&[("X-Upper", "1")][..], &[("a", "b"), (":status", "200")], &[(":path", "/")]] {
        assert_eq!(read(wrong), Err(Unread::Malformed), "{wrong:?}");
    }
    for status in ["101", "99", "2000", "2x0", "", "000", "+20"] {
        let lines = [(":status", status)];
        assert_eq!(
            read_response(Version::Http2, &Section::of(&lines), &limits).unwrap_err(),
            Unread::Malformed,
            "{status}"
        );
    }
    for lines in [&[][..], &[("a", "b"), (":status", "200")]] {
        assert_eq!(super::status(&Section::of(lines)), None);
    }
    assert_eq!(super::status(&Section::of(&[(":status", "103")])), Some(103));
}

#[test]
fn trailers_of_answers_lose_what_may_not_stand_there() {
    let limits = Limits { trailers: 3, trailer_bytes: 60, ..Limits::default() };
    let read = |lines: Lines<'_>| read_answer_trailers(&Section::of(lines), &limits).map(|trailers| trailers.len());
    assert_eq!(read(&[("grpc-status", "0"), ("content-length", "0"), ("host", "x")]), Ok(1));
    assert_eq!(read(&[("a", "1"); 4]), Err(Unread::Fault(Fault::TooManyTrailers)));
    assert_eq!(read(&[("a", &"x".repeat(58))]), Err(Unread::Fault(Fault::TrailersTooLarge)));
    assert_eq!(read(&[("a", "b\nc")]), Err(Unread::Fault(Fault::ValueCharacter)));
    assert_eq!(read(&[("A", "b")]), Err(Unread::Malformed));
    assert_eq!(read(&[(":status", "200")]), Err(Unread::Malformed));
}
