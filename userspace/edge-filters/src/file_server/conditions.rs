//! What a request's conditions and ranges make of a file (RFC 9110 sections 13 and 14): pure.

use proto_cache::freshness::date;
use proto_http::{Headers, Method};
use std::ops::Range;

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'f> {
    pub size: u64,
    /// Seconds since 1970.
    pub modified: u64,
    /// A strong one, with its quotes.
    pub etag: &'f str,
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    Whole,
    /// One part: 206.
    Part(Range<u64>),
    /// Several: 206 as multipart/byteranges.
    Parts(Vec<Range<u64>>),
    /// 304.
    NotModified,
    /// 412.
    Failed,
    /// 416.
    Unsatisfiable,
}

/// Most parts of one answer; who asks for more gets the whole.
pub(super) const PARTS_MAX: usize = 16;

/// Conditions in the order of section 13.2.2, then ranges.
pub(super) fn wanted(method: &Method, headers: &Headers, facts: Facts<'_>) -> Wanted {
    if headers.contains("If-Match") {
        if !headers.values("If-Match").flat_map(tags).any(|tag| tag == b"*" || tag == facts.etag.as_bytes()) {
            return Wanted::Failed;
        }
    } else if one(headers, "If-Unmodified-Since").and_then(date).is_some_and(|since| facts.modified > since) {
        return Wanted::Failed;
    }
    if headers.contains("If-None-Match") {
        let same = |tag: &[u8]| tag == b"*" || opaque(tag) == facts.etag.as_bytes();
        if headers.values("If-None-Match").flat_map(tags).any(same) {
            return Wanted::NotModified;
        }
    } else if one(headers, "If-Modified-Since").and_then(date).is_some_and(|since| facts.modified <= since) {
        return Wanted::NotModified;
    }
    // A range is defined for GET alone (section 14.2).
    let Some(range) = one(headers, "Range").filter(|_| *method == Method::Get) else { return Wanted::Whole };
    if let Some(condition) = headers.value("If-Range")
        && !is_of(condition.trim_ascii(), facts)
    {
        return Wanted::Whole;
    }
    ranges(range, facts.size)
}

/// The value of a field that is there once.
fn one<'h>(headers: &'h Headers, name: &'h str) -> Option<&'h [u8]> {
    let mut values = headers.values(name);
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

/// Whether `If-Range` names this very file: by strong comparison, or by the exact date.
fn is_of(condition: &[u8], facts: Facts<'_>) -> bool {
    if condition.starts_with(b"\"") || condition.starts_with(b"W/") {
        return condition == facts.etag.as_bytes();
    }
    date(condition) == Some(facts.modified)
}

/// The members of a list of entity tags; commas inside quotes do not divide it.
fn tags(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let mut quoted = false;
        let divides = |b: &u8| {
            quoted ^= *b == b'"';
            *b == b',' && !quoted
        };
        if rest.is_empty() {
            return None;
        }
        let end = rest.iter().position(divides).unwrap_or(rest.len());
        let tag = rest[..end].trim_ascii();
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(tag)
    })
    .filter(|tag| !tag.is_empty())
}

/// Without the mark of weakness.
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// What of a file with so many bytes is asked for. What is no range of bytes is passed over, as is what asks for more than the file has, or
/// for many parts: a few bytes of a request shall not make an answer many times the file.
fn ranges(text: &[u8], size: u64) -> Wanted {
    let Some(text) = std::str::from_utf8(text).ok().map(str::trim) else { return Wanted::Whole };
    let set = text.split_once('=').filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"));
    let Some((_, set)) = set else { return Wanted::Whole };
    let mut parts = Vec::new();
    for spec in set.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
        match range(spec, size) {
            None => return Wanted::Whole,
            Some(part) if part.is_empty() => {}
            Some(_) if parts.len() == PARTS_MAX => return Wanted::Whole,
            Some(part) => parts.push(part),
        }
    }
    let asked = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.end - part.start));
    match parts.len() {
        0 => Wanted::Unsatisfiable,
        1 => Wanted::Part(parts.swap_remove(0)),
        _ if asked > size => Wanted::Whole,
        _ => Wanted::Parts(parts),
    }
}

/// `a-b`, `a-` or `-n`; an empty range where the file has none of it, `None` for what is no range.
fn range(spec: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = spec.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // What is beyond counting is beyond any file.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (first.trim(), last.trim()) {
        ("", last) => Some(size - number(last)?.min(size)..size),
        (first, "") => Some(number(first)?.min(size)..size),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| first.min(size)..last.saturating_add(1).min(size))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A weekday that begins as a mark of weakness does.
    const DATE: &str = "Wed, 09 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Wed, 09 Nov 1994 08:49:36 GMT";
    const FACTS: Facts<'_> = Facts { size: 1000, modified: 784_370_977, etag: "\"a,b\"" };

    fn told(method: Method, fields: &[(&str, &str)]) -> Wanted {
        let mut headers = Headers::new();
        fields.iter().for_each(|(name, value)| headers.add(name, value));
        wanted(&method, &headers, FACTS)
    }

    #[test]
    fn conditions_in_their_order() {
        use Wanted::*;
        let cases: &[(&[(&str, &str)], Wanted)] = &[
            (&[("If-None-Match", "\"a,b\"")], NotModified),
            (&[("If-None-Match", "\"x\", W/\"a,b\"")], NotModified),
            (&[("If-None-Match", "\"x\""), ("If-None-Match", "*")], NotModified),
            (&[("If-None-Match", "\"a\", \"b\"")], Whole),
            (&[("If-None-Match", "\"x\""), ("If-Modified-Since", DATE)], Whole),
            (&[("If-Modified-Since", DATE)], NotModified),
            (&[("If-Modified-Since", BEFORE)], Whole),
            (&[("If-Modified-Since", "yesterday")], Whole),
            (&[("If-Match", "\"a,b\"")], Whole),
            (&[("If-Match", "*"), ("If-Unmodified-Since", BEFORE)], Whole),
            (&[("If-Match", "W/\"a,b\"")], Failed),
            (&[("If-Match", "\"x\""), ("If-None-Match", "*")], Failed),
            (&[("If-Unmodified-Since", BEFORE)], Failed),
            (&[("If-Unmodified-Since", DATE)], Whole),
            (&[("If-None-Match", "\"a,b\""), ("Range", "bytes=0-0")], NotModified),
            (&[("If-Range", "\"a,b\""), ("Range", "bytes=0-0")], Part(0..1)),
            (&[("If-Range", "W/\"a,b\""), ("Range", "bytes=0-0")], Whole),
            (&[("If-Range", "\"x\""), ("Range", "bytes=0-0")], Whole),
            (&[("If-Range", DATE), ("Range", "bytes=0-0")], Part(0..1)),
            (&[("If-Range", BEFORE), ("Range", "bytes=0-0")], Whole),
            (&[("Range", "bytes=0-0"), ("Range", "bytes=1-1")], Whole),
        ];
        for (fields, want) in cases {
            assert_eq!(told(Method::Get, fields), *want, "{fields:?}");
        }
        assert_eq!(told(Method::Head, &[("Range", "bytes=0-0")]), Whole);
        assert_eq!(told(Method::Head, &[("If-None-Match", "*")]), NotModified);
    }

    #[test]
    fn ranges_of_a_file() {
        use Wanted::*;
        for (text, want) in [
            ("bytes=0-499", Part(0..500)),
            ("Bytes = 500-", Part(500..1000)),
            ("bytes=-200", Part(800..1000)),
            ("bytes=-2000", Part(0..1000)),
            ("bytes=999-99999999999999999999999", Part(999..1000)),
            ("bytes=0-0,-1", Parts(vec![0..1, 999..1000])),
            ("bytes=500-599, 0-9 ,", Parts(vec![500..600, 0..10])),
            ("bytes=0-0,2000-", Part(0..1)),
            ("bytes=1000-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=", Unsatisfiable),
            ("bytes=2000-3000,4000-", Unsatisfiable),
            ("bytes=5-4", Whole),
            ("bytes=a-", Whole),
            ("bytes=-", Whole),
            ("bytes=+1-2", Whole),
            ("bytes 0-1", Whole),
            ("lines=0-1", Whole),
            ("bytes=0-900,0-900", Whole),
        ] {
            assert_eq!(ranges(text.as_bytes(), 1000), want, "{text}");
        }
        let many = |n: usize| format!("bytes={}", (0..n).map(|n| format!("{n}-{n},")).collect::<String>());
        assert!(matches!(ranges(many(PARTS_MAX).as_bytes(), 1000), Parts(parts) if parts.len() == PARTS_MAX));
        assert_eq!(ranges(many(PARTS_MAX + 1).as_bytes(), 1000), Whole);
        assert_eq!(ranges(b"bytes=0-", 0), Unsatisfiable);
        assert_eq!(ranges(b"bytes=-5", 0), Unsatisfiable);
    }
}
