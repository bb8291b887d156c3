//! What both redirectors share: the answer that sends a client elsewhere, and where it must not lead.

use base_telemetry::Limit;
use edge_pipeline::{Body, Exchange, Outcome, Parts};
use proto_http::message::reason_phrase;
use proto_http::path::is_dots;
use proto_http::{Path, Response};
use std::ops::Range;

pub(crate) const REDIRECTED: Outcome = "redirected";

/// Counts requests that made a location which nobody meant; the name is that of rewrites that do.
pub(crate) fn refusals(parts: &Parts<'_>) -> Limit {
    parts.telemetry.limits().register("rewritten_path")
}

/// A location, and which bytes of it a client has chosen.
#[derive(Debug, Default)]
pub(crate) struct Location {
    pub text: String,
    chosen: Vec<Range<usize>>,
}

impl Location {
    /// Text of the document, or the site's own name.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Text of the request's target.
    pub fn push_chosen(&mut self, text: &str) {
        let start = self.text.len();
        self.text.push_str(text);
        self.chosen.push(start..self.text.len());
    }

    fn is_chosen(&self, part: Range<usize>) -> bool {
        self.chosen.iter().any(|chosen| chosen.start < part.end && part.start < chosen.end)
    }

    /// Whether a client could choose the site it leads to, or make segments of dots out of what meets in it.
    fn leads_astray(&self) -> bool {
        let origin = origin_end(&self.text);
        if self.is_chosen(0..origin) {
            return true;
        }
        let end = self.text[origin..].find(['?', '#']).map_or(self.text.len(), |at| at + origin);
        let mut start = origin;
        self.text[origin..end].split('/').any(|segment| {
            let part = start..start + segment.len();
            start = part.end + 1;
            self.is_chosen(part) && is_dots(segment)
        })
    }
}

/// Where scheme and authority end in a reference, as browsers read it: any number of slashes begins an authority when there are two,
/// or a scheme. 0 for a path.
fn origin_end(text: &str) -> usize {
    let delimiter = text.find(['/', '?', '#']).unwrap_or(text.len());
    let scheme = text[..delimiter].find(':').map_or(0, |colon| colon + 1);
    let slashes = text[scheme..].bytes().take_while(|&b| b == b'/').count();
    if scheme == 0 && slashes < 2 {
        return 0;
    }
    let authority = scheme + slashes;
    text[authority..].find(['/', '?', '#']).map_or(text.len(), |at| at + authority)
}

/// Answers with `status` and a `Location`; what may not stand in one raw is escaped. One that leads astray gets 400.
pub(crate) fn redirect(exchange: &mut Exchange, status: u16, location: &Location, refused: &Limit) -> Outcome {
    if location.leads_astray() {
        // Tests run filters on threads of their own; the counters have a row for those.
        refused.hit(base_runtime::current_worker().map_or(usize::MAX, |worker| worker.index()));
        exchange.tags.note_own(|| "redirect: the request would choose where it leads");
        exchange.refuse(400);
        return REDIRECTED;
    }
    let location = &location.text;
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

/// Whether a path of a document has segments of dots, which no canonical path has.
pub(crate) fn has_dots(path: &str) -> bool {
    Path::default().rewrite(path).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_end_where_browsers_see_them_end() {
        for (text, origin) in [
            ("/a/b", ""),
            ("a/b", ""),
            ("", ""),
            ("?a://b", ""),
            ("/a://b", ""),
            ("http://a.test/b", "http://a.test"),
            ("http://a.test", "http://a.test"),
            ("http://a.test?b", "http://a.test"),
            ("http:/a.test/b", "http:/a.test"),
            ("http:a.test/b", "http:a.test"),
            ("javascript:alert(1)", "javascript:alert(1)"),
            ("//a.test/b", "//a.test"),
            ("///a.test/b", "///a.test"),
            ("a:80", "a:80"),
        ] {
            assert_eq!(&text[..origin_end(text)], origin, "{text}");
        }
    }
}
