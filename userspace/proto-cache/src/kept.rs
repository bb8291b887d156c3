//! An answer as it is kept, without its body.

use crate::freshness::Freshness;
use crate::vary::Vary;
use proto_http::headers::is_spelled_alike;
use proto_http::{Headers, Known, Request, Response};
use std::time::{Duration, Instant};

/// See the module doc.
#[derive(Clone, Debug)]
pub struct Kept {
    pub status: u16,
    pub headers: Headers,
    /// The requests it is for.
    pub vary: Vary,
    /// Words that it can be purged by.
    pub tags: Vec<Box<str>>,
    pub freshness: Freshness,
    /// It is used only after the origin has said that it is still valid.
    pub no_cache: bool,
    /// It is not used stale, whatever a client would take.
    pub must_revalidate: bool,
    /// How long after its lifetime it is given while a new one is fetched.
    pub stale_while_revalidate: Duration,
    /// How long after its lifetime it stands in for an origin that fails.
    pub stale_if_error: Duration,
    /// In seconds since 1970.
    pub last_modified: Option<u64>,
    /// When it was made: its Date, or when it came.
    pub date: u64,
}

impl Kept {
    /// The origin can be asked whether it has changed.
    pub fn has_validator(&self) -> bool {
        self.headers.contains("ETag") || self.headers.contains("Last-Modified")
    }

    /// It may answer something, now or after validation.
    pub fn is_of_use(&self, now: Instant) -> bool {
        let stale_for = self.stale_while_revalidate.max(self.stale_if_error);
        let usable = self.freshness.lifetime.saturating_add(stale_for) > self.freshness.age(now);
        self.has_validator() || usable && !self.no_cache
    }

    /// Asks the origin with `request` whether it has changed (RFC 9111 section 4.3.1). Conditions of the client's own are for what it
    /// has, and go.
    pub fn ask_whether_changed(&self, request: &mut Request) {
        for name in CONDITIONS {
            if request.headers.contains(name) {
                request.headers.retain(|other| !other.eq_ignore_ascii_case(name.as_bytes()));
            }
        }
        if let Some(etag) = self.headers.value("ETag") {
            request.headers.add("If-None-Match", etag);
        }
        if let Some(changed) = self.headers.value("Last-Modified") {
            request.headers.add("If-Modified-Since", changed);
        }
    }

    /// The answer that is still valid, with what a 304, or the answer to a HEAD, says anew (section 3.2).
    pub fn freshened(&self, by: &Response) -> Response {
        let mut headers = self.headers.clone();
        let mut news: Vec<&[u8]> = Vec::new();
        for (name, _, _) in by.headers.iter() {
            if !is_of_the_body(name) && !news.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                news.push(name);
            }
        }
        headers.retain(|name| !news.iter().any(|new| is_spelled_alike(new, name)));
        headers.remove_known(Known::Date);
        for (name, value, _) in by.headers.iter().filter(|(name, _, _)| !is_of_the_body(name)) {
            headers.add(name, value);
        }
        Response { status: self.status, headers, ..Response::default() }
    }

    /// Bytes of memory it takes, its body not counted.
    pub fn memory(&self) -> usize {
        let tags: usize = self.tags.iter().map(|tag| tag.len() + size_of::<Box<str>>()).sum();
        size_of::<Kept>() + self.headers.memory() + self.vary.memory() + tags
    }
}

/// Fields that are of the body that is kept: a validation says nothing of it.
fn is_of_the_body(name: &[u8]) -> bool {
    let is = |other: &&str| name.eq_ignore_ascii_case(other.as_bytes());
    OF_THE_BODY.iter().any(is)
}

const OF_THE_BODY: [&str; 8] = [
    "Content-Encoding",
    "Content-Length",
    "Content-MD5",
    "Content-Digest",
    "Content-Range",
    "ETag",
    "Transfer-Encoding",
    "Trailer",
];

/// Fields that make a request conditional (RFC 9110 section 13.1).
pub const CONDITIONS: [&str; 5] = ["If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since", "If-Range"];
