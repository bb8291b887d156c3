//! What both redirectors share: the answer that sends a client elsewhere.

use edge_pipeline::{Body, Exchange, Outcome};
use proto_http::Response;
use proto_http::message::reason_phrase;

pub(crate) const REDIRECTED: Outcome = "redirected";

/// Answers with `status` and a `Location`; what may not stand in one raw is escaped.
pub(crate) fn redirect(exchange: &mut Exchange, status: u16, location: &str) -> Outcome {
    let mut response = Response::with_status(status);
    let raw = |b: u8| matches!(b, 0x21..=0x7e) && !b"\"<>\\^`{|}".contains(&b);
    if location.bytes().all(raw) {
        response.headers.add("Location", location);
    } else {
        let mut escaped = String::with_capacity(location.len() + 16);
        for byte in location.bytes() {
            if raw(byte) {
                escaped.push(byte as char);
            } else {
                escaped.push_str(&format!("%{byte:02X}"));
            }
        }
        response.headers.add("Location", escaped);
    }
    response.headers.add("Content-Type", "text/plain; charset=utf-8");
    exchange.respond(response, Body::shared(bytes::Bytes::from_static(reason_phrase(status).as_bytes())));
    REDIRECTED
}
