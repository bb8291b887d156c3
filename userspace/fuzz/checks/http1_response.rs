//! A response that is accepted is written so that a client reads the same status and framing.

use proto_http::h1::{ResponseOptions, accepted_upgrade, parse_response, write_response_head};
use proto_http::{Limits, Method, Response, Version};

pub fn check(bytes: &[u8]) {
    let limits = Limits::default();
    for method in [Method::Get, Method::Head, Method::Connect] {
        let mut response = Response::default();
        let whole = parse_response(bytes, &limits, &method, &mut response);
        let mut part = Response::default();
        for cut in [bytes.len() / 2, bytes.len().saturating_sub(1)] {
            let verdict = parse_response(&bytes[..cut], &limits, &method, &mut part);
            assert!(verdict == Ok(None) || verdict == whole, "{verdict:?} then {whole:?}");
        }
        let Ok(Some(head)) = whole else { continue };
        assert!((100..600).contains(&response.status) && head.consumed <= bytes.len());
        let options = ResponseOptions {
            framing: head.announced.for_client(Version::Http11),
            keep_alive: true,
            client: Version::Http11,
            date: "Sun, 06 Nov 1994 08:49:37 GMT",
            upgrade: accepted_upgrade(&response.headers).filter(|_| head.switching && response.status == 101),
            head_request: method == Method::Head,
            tunnel: head.switching && response.status != 101,
        };
        let mut wire = Vec::new();
        write_response_head(&mut wire, &response, &options);
        let mut again = Response::default();
        let second = match parse_response(&wire, &limits, &method, &mut again) {
            Ok(Some(second)) => second,
            Err(error) if error.kind.status() == 431 => continue,
            other => panic!("{other:?}: {}", String::from_utf8_lossy(&wire)),
        };
        assert_eq!((second.consumed, again.status), (wire.len(), response.status));
        assert_eq!((second.interim, second.switching), (head.interim, head.switching));
        assert!(
            second.framing == head.framing.for_client(Version::Http11)
                || head.framing.is_empty() && second.framing.is_empty()
        );
    }
}
