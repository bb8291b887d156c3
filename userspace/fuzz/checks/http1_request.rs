//! A head that is accepted is read the same from any prefix that holds it, and again from what the encoder makes of it.

use proto_http::h1::{RequestOptions, parse_request, write_request_head};
use proto_http::{Limits, Method, Request, Underscores};

pub fn check(bytes: &[u8]) {
    let limits = Limits { underscores: Underscores::Allow, ..Limits::default() };
    let mut request = Request::default();
    let whole = parse_request(bytes, &limits, &mut request);
    let mut part = Request::default();
    for cut in [bytes.len() / 2, bytes.len().saturating_sub(1), bytes.len().saturating_sub(2)] {
        let verdict = parse_request(&bytes[..cut], &limits, &mut part);
        assert!(verdict == Ok(None) || verdict == whole, "{verdict:?} then {whole:?}");
    }
    let Ok(Some(head)) = whole else { return };
    assert!(head.consumed <= bytes.len());
    let host = if request.authority.is_empty() { "backend" } else { &request.authority };
    let options = RequestOptions {
        framing: head.framing,
        host,
        upgrade: head.upgrade.is_some(),
        expect_continue: head.expect_continue,
    };
    let mut wire = Vec::new();
    write_request_head(&mut wire, &request, &options);
    let mut again = Request::default();
    let second = match parse_request(&wire, &limits, &mut again) {
        Ok(Some(second)) => second,
        // Escaping and our own fields can make it longer than what came in.
        Err(error) if matches!(error.status, 414 | 431) => return,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(&wire)),
    };
    assert_eq!((second.consumed, second.framing), (wire.len(), head.framing));
    assert_eq!((second.upgrade, second.expect_continue), (head.upgrade, head.expect_continue));
    assert_eq!((&again.method, &again.query), (&request.method, &request.query));
    if request.method != Method::Connect {
        assert_eq!(again.path, request.path);
    }
    assert_eq!(again.authority, host);
}
