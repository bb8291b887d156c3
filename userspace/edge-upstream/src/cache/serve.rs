//! An answer made of what is kept.

use crate::cache::Stored;
use edge_pipeline::Body;
use edge_pipeline::exchange::fresh_response;
use proto_cache::conditional::{is_not_modified, not_modified, range_is_of};
use proto_cache::range::{Span, span_of};
use proto_http::{Method, Request, Response};
use std::time::Instant;

/// The whole of it, with its age. A HEAD gets the length and no body.
pub fn whole(stored: &Stored, method: &Method, now: Instant) -> (Response, Body) {
    let mut response = fresh_response();
    response.status = stored.kept.status;
    response.headers.copy_from(&stored.kept.headers);
    response.headers.add("Age", stored.kept.freshness.age(now).as_secs().min(AGE_MOST).to_string());
    if *method != Method::Head {
        return (response, Body::shared(stored.body.clone()));
    }
    if !matches!(stored.kept.status, 204 | 304) {
        response.headers.set("Content-Length", stored.body.len().to_string());
    }
    (response, Body::Empty)
}

/// What a GET or HEAD with these fields gets of it: 304 where the client has it, a part where it wants one, or all.
pub fn fitting(stored: &Stored, request: &Request, now: Instant) -> (Response, Body) {
    let (mut response, body) = whole(stored, &request.method, now);
    if stored.kept.status != 200 {
        return (response, body);
    }
    if is_not_modified(&stored.kept, &request.headers) {
        return (not_modified(response), Body::Empty);
    }
    let range = request.headers.value("Range").filter(|_| request.method == Method::Get);
    let Some(range) = range.filter(|_| range_is_of(&stored.kept, &request.headers)) else { return (response, body) };
    let length = stored.body.len() as u64;
    match span_of(range, length) {
        Span::Whole => (response, body),
        Span::Part { first, last } => {
            response.status = 206;
            response.headers.set("Content-Range", format!("bytes {first}-{last}/{length}"));
            response.headers.set("Content-Length", (last - first + 1).to_string());
            (response, Body::shared(stored.body.slice(first as usize..=last as usize)))
        }
        Span::Unsatisfiable => {
            let mut refusal = Response::with_status(416);
            refusal.headers.add("Content-Range", format!("bytes */{length}"));
            (refusal, Body::Empty)
        }
    }
}

/// Greatest age that is said, in seconds (RFC 9111 section 1.2.2).
const AGE_MOST: u64 = 1 << 31;
