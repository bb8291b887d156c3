//! Requests with conditions, answered from what is kept (RFC 9111 section 4.3.2, RFC 9110 section 13).

use crate::control::{cut, trim};
use crate::freshness::date;
use crate::kept::Kept;
use proto_http::{Headers, Response};

/// Whether a request has conditions that only the origin can answer.
pub fn is_for_the_origin(request: &Headers) -> bool {
    request.contains("If-Match") || request.contains("If-Unmodified-Since")
}

/// Whether a client that asks so has what is kept already. If-None-Match goes before If-Modified-Since.
pub fn is_not_modified(kept: &Kept, request: &Headers) -> bool {
    if request.contains("If-None-Match") {
        let etag = kept.headers.value("ETag").map(opaque);
        let names = |line: &[u8]| tags(line).any(|tag| tag == b"*" || etag.is_some_and(|etag| opaque(tag) == etag));
        return request.values("If-None-Match").any(names);
    }
    let mut since = request.values("If-Modified-Since");
    match (since.next().and_then(date), since.next()) {
        (Some(since), None) => kept.last_modified.unwrap_or(kept.date) <= since,
        _ => false,
    }
}

/// The members of a list of entity tags.
fn tags(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let (tag, after) = cut(rest?, b',');
        rest = after;
        Some(trim(tag))
    })
    .filter(|tag| !tag.is_empty())
}

/// What is compared of an entity tag in the weak comparison (RFC 9110 section 8.8.3.2). Quotes that are missing are not missed.
fn opaque(tag: &[u8]) -> &[u8] {
    let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
    tag.strip_prefix(b"\"").and_then(|tag| tag.strip_suffix(b"\"")).unwrap_or(tag)
}

/// 304 for a client that has it already: the fields it needs to go on with what it has (RFC 9110 section 15.4.5).
pub fn not_modified(mut whole: Response) -> Response {
    whole.status = 304;
    let of_the_body = |name: &[u8]| {
        name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case(b"content-"))
            && !name.eq_ignore_ascii_case(b"content-location")
            && !name.eq_ignore_ascii_case(b"content-security-policy")
    };
    whole.headers.retain(|name| !of_the_body(name));
    whole
}

/// Whether `If-Range` lets a range be given of what is kept: only what is the very same does (RFC 9110 section 13.1.5).
pub fn range_is_of(kept: &Kept, request: &Headers) -> bool {
    let Some(condition) = request.value("If-Range").map(trim) else { return true };
    if condition.first() == Some(&b'"') {
        return kept.headers.value("ETag") == Some(condition);
    }
    // A date is a strong validator only when the answer was made well after it (section 8.8.2.2).
    date(condition).is_some_and(|date| kept.last_modified == Some(date) && kept.date >= date.saturating_add(60))
}
