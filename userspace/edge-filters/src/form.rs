//! Texts as requests carry them: names and values of queries and forms (`application/x-www-form-urlencoded`), hexadecimal digits, times.

use base_text::calendar::{digits, seconds_to};

/// A name and a value, decoded.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// The pairs of a query in their order; those with an escape that is none are left out, as Go does.
pub(crate) fn readable_pairs(text: &str) -> impl Iterator<Item = Pair> {
    text.split('&').filter(|part| !part.is_empty()).filter_map(pair)
}

/// The pairs of a query or a form, in their order. `None` when an escape is none: what two readers read differently is nothing to rely on.
pub(crate) fn pairs(text: &str) -> Option<Vec<Pair>> {
    text.split('&').filter(|part| !part.is_empty()).map(pair).collect()
}

fn pair(part: &str) -> Option<Pair> {
    let (name, value) = part.split_once('=').unwrap_or((part, ""));
    Some((decode(name)?, decode(value)?))
}

/// The only value of a name; `None` where there is none or several.
pub(crate) fn only<'p>(pairs: &'p [Pair], name: &str) -> Option<&'p str> {
    let mut found = pairs.iter().filter(|(known, _)| known == name.as_bytes());
    let (_, value) = found.next()?;
    if found.next().is_some() { None } else { std::str::from_utf8(value).ok() }
}

/// Without escapes; `+` is a blank.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || (bytes.next()? as char).to_digit(16);
                (digit()? << 4 | digit()?) as u8
            }
            byte => byte,
        });
    }
    Some(out)
}

/// Appends bytes with everything escaped that is not unreserved (RFC 3986 section 2.3).
pub(crate) fn escape_into(bytes: &[u8], to: &mut String) {
    escape_but(bytes, to, |_| false);
}

/// As [`escape_into`]; a blank becomes `+`.
pub(crate) fn escape_query_into(bytes: &[u8], to: &mut String) {
    for (n, part) in bytes.split(|b| *b == b' ').enumerate() {
        if n > 0 {
            to.push('+');
        }
        escape_into(part, to);
    }
}

/// As [`escape_into`]; what is `spared` stays as it is.
pub(crate) fn escape_but(bytes: &[u8], to: &mut String, spared: impl Fn(u8) -> bool) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') || byte.is_ascii() && spared(byte)
        {
            to.push(byte as char);
        } else {
            to.push('%');
            to.push(DIGITS[usize::from(byte >> 4)] as char);
            to.push(DIGITS[usize::from(byte & 15)] as char);
        }
    }
}

/// In hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Text always finds room.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// Seconds since 1970 of `20060102T150405Z`.
pub(crate) fn seconds_of(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |from, to| digits(&bytes[from..to]);
    let date = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let second = number(13, 15).filter(|second| *second < 60)?;
    seconds_to(date, (number(9, 11)?, number(11, 13)?, second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_comes_back() {
        let text = "a&client_id=x y+%é~";
        let (mut strict, mut query) = (String::new(), String::new());
        escape_into(text.as_bytes(), &mut strict);
        escape_query_into(text.as_bytes(), &mut query);
        assert_eq!(strict, "a%26client_id%3Dx%20y%2B%25%C3%A9~");
        assert_eq!(query, "a%26client_id%3Dx+y%2B%25%C3%A9~");
        for form in [strict, query] {
            assert_eq!(pairs(&format!("n={form}&m")).unwrap(), [(b"n".to_vec(), text.into()), (b"m".to_vec(), vec![])]);
        }
        for bad in ["a=%", "a=%2", "a=%zz", "%+1=b"] {
            assert_eq!(pairs(bad), None, "{bad}");
        }
        let twice = pairs("a=1&b=2&a=3").unwrap();
        assert_eq!((only(&twice, "a"), only(&twice, "b"), only(&twice, "c")), (None, Some("2"), None));
    }
}
