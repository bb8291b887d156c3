//! An answer as it is written to a disk, without its body, and read again.
//!
//! Numbers are little-endian, texts have their length in front. Whoever keeps it checks that it is what was written; still nothing that is
//! read is believed to be well-formed.

use crate::freshness::Freshness;
use crate::kept::Kept;
use crate::vary::Vary;
use proto_http::Headers;
use proto_http::headers::{is_name, is_value};
use std::time::{Duration, Instant};

/// Fields and tags of one answer that are read; no answer that is kept has more.
const PARTS_MOST: u32 = 4096;

/// Appends an answer. When it came is not written: a clock that goes on through restarts is the caller's.
pub fn write(kept: &Kept, out: &mut Vec<u8>) {
    out.extend_from_slice(&kept.status.to_le_bytes());
    out.push(
        u8::from(kept.no_cache) | u8::from(kept.must_revalidate) << 1 | u8::from(kept.last_modified.is_some()) << 2,
    );
    for time in [kept.freshness.initial_age, kept.freshness.lifetime, kept.stale_while_revalidate, kept.stale_if_error]
    {
        out.extend_from_slice(&u64::try_from(time.as_millis()).unwrap_or(u64::MAX).to_le_bytes());
    }
    out.extend_from_slice(&kept.last_modified.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&kept.date.to_le_bytes());
    count(kept.headers.len(), out);
    for (name, value, _) in kept.headers.iter() {
        text(name, out);
        text(value, out);
    }
    let (names, values) = kept.vary.parts();
    count(names.len(), out);
    names.iter().for_each(|name| text(name.as_bytes(), out));
    text(values, out);
    count(kept.tags.len(), out);
    kept.tags.iter().for_each(|tag| text(tag.as_bytes(), out));
}

/// The answer, which came at `received`; `None` where it is not all there.
pub fn read(mut bytes: &[u8], received: Instant) -> Option<Kept> {
    let from = &mut bytes;
    let status = u16::from_le_bytes(take(from, 2)?.try_into().ok()?);
    let flags = *take(from, 1)?.first()?;
    let (initial_age, lifetime) = (time(from)?, time(from)?);
    let (stale_while_revalidate, stale_if_error) = (time(from)?, time(from)?);
    let (last_modified, date) = (number(from)?, number(from)?);
    let mut headers = Headers::new();
    for _ in 0..parts(from)? {
        let (name, value) = (read_text(from)?, read_text(from)?);
        if !is_name(name) || !is_value(value) {
            return None;
        }
        headers.add(name, value);
    }
    let words = |from: &mut &[u8]| -> Option<Vec<Box<str>>> {
        (0..parts(from)?).map(|_| Some(std::str::from_utf8(read_text(from)?).ok()?.into())).collect()
    };
    let names = words(from)?;
    let vary = Vary::from_parts(names, read_text(from)?);
    let tags = words(from)?;
    let whole = from.is_empty() && (100..600).contains(&status);
    whole.then_some(Kept {
        status,
        headers,
        vary,
        tags,
        freshness: Freshness { received, initial_age, lifetime },
        no_cache: flags & 1 != 0,
        must_revalidate: flags & 2 != 0,
        stale_while_revalidate,
        stale_if_error,
        last_modified: (flags & 4 != 0).then_some(last_modified),
        date,
    })
}

fn count(count: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

/// Appends a text with its length.
pub fn text(text: &[u8], out: &mut Vec<u8>) {
    count(text.len(), out);
    out.extend_from_slice(text);
}

/// A text from the front.
pub fn read_text<'b>(from: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = u32::from_le_bytes(take(from, 4)?.try_into().ok()?);
    take(from, length as usize)
}

fn parts(from: &mut &[u8]) -> Option<u32> {
    let count = u32::from_le_bytes(take(from, 4)?.try_into().ok()?);
    (count <= PARTS_MOST).then_some(count)
}

fn take<'b>(from: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (taken, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(taken)
}

fn number(from: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take(from, 8)?.try_into().ok()?))
}

fn time(from: &mut &[u8]) -> Option<Duration> {
    number(from).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Rules, Times};
    use proto_http::{Request, Response};

    fn kept() -> (Request, Kept) {
        let (mut request, mut response) = (Request::default(), Response::default());
        request.headers.add("Accept-Language", "de");
        for (name, value) in [
            ("Vary", "Accept-Language"),
            ("Cache-Tag", "a, b c"),
            ("ETag", "\"1\""),
            ("X-Own", "\u{e9}"),
            ("Cache-Control", "max-age=5, must-revalidate"),
            ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ] {
            response.headers.add(name, value);
        }
        let now = Instant::now();
        let times = Times { asked: now, received: now, unix_seconds: 784_111_777 };
        let kept = Rules::default().keep(&request, &response, &times).unwrap();
        (request, kept)
    }

    #[test]
    fn what_is_written_is_read() {
        let (request, kept) = kept();
        let mut bytes = Vec::new();
        write(&kept, &mut bytes);
        let again = read(&bytes, kept.freshness.received).unwrap();
        assert_eq!(format!("{again:?}"), format!("{kept:?}"));
        assert!(again.vary.is_for(&request.headers, &mut Vec::new()));
        assert!(!again.vary.is_for(&Headers::new(), &mut Vec::new()));
    }

    #[test]
    fn what_is_damaged_is_no_answer_and_no_trouble() {
        let (_, kept) = kept();
        let mut bytes = Vec::new();
        write(&kept, &mut bytes);
        let now = Instant::now();
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length], now).is_none(), "{length} bytes");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                // Whatever it is taken for, reading it ends, and no length is believed.
                let _ = read(&damaged, now);
            }
        }
    }
}
