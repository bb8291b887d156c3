//! Who a request is for: host and port, in the one strict form we accept.

use crate::bytes;
use std::net::Ipv6Addr;

/// Whether `text` is `host` or `host:port` of RFC 9110 section 4.2, narrowed to what hosts really are called.
///
/// A name is labels of letters, digits, `-`, `_` and `~` with dots between them, and perhaps one at the end; an IPv6 address stands in brackets, without a zone; a port is one to five
/// digits up to 65535. User information, commas, percent escapes and every other delimiter are refused: backends and caches
/// have disagreed about each of them. Empty labels are too: a `Host` of `..` has been part of many a file's name.
#[inline]
pub fn is_authority(text: &[u8]) -> bool {
    text.len() <= LONGEST && bytes::is_plain_host(text) || split(text).is_some()
}

/// Host and port of a valid authority; brackets of an IPv6 literal stay.
pub fn split(text: &[u8]) -> Option<(&[u8], Option<u16>)> {
    if text.len() > LONGEST {
        return None;
    }
    let end = match text.first()? {
        b'[' => {
            let close = memchr::memchr(b']', text)?;
            std::str::from_utf8(&text[1..close]).ok()?.parse::<Ipv6Addr>().ok()?;
            close + 1
        }
        _ => name_len(text),
    };
    if end == 0 || text[0] == b'.' || text[..end].windows(2).any(|pair| pair == b"..") {
        return None;
    }
    match &text[end..] {
        [] => Some((text, None)),
        [b':', digits @ ..] if (1..=5).contains(&digits.len()) => {
            let port = bytes::decimal(digits)?;
            Some((&text[..end], Some(u16::try_from(port).ok()?)))
        }
        _ => None,
    }
}

fn name_len(text: &[u8]) -> usize {
    let mut len = bytes::skip_host(text);
    while let [b'_' | b'~', rest @ ..] = &text[len..] {
        len += 1 + bytes::skip_host(rest);
    }
    len
}

/// 255 bytes of a DNS name, a colon and five digits.
const LONGEST: usize = 261;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        for good in [
            "a",
            "a.b-c_d~e.",
            "1.2.3.4:80",
            "[::1]",
            "[2001:db8::1.2.3.4]:65535",
            "localhost:0",
            "x:08080",
            "a.:80",
            "abcdefghijklmno.p.q.example.com",
        ] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a:",
            "a:b",
            "a:65536",
            "a:123456",
            "a,b",
            "a b",
            "u@a",
            "u:p@a",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:",
            "[fe80::1%25eth0]",
            "[v1.x]",
            "[]",
            "a%41",
            "é",
            "a:+8",
            "a:80:80",
            "\"a\"",
            "<a>",
            "a;b",
            "*",
            ".",
            "..",
            ".a",
            "a..b",
            "a..",
            "a..:80",
            "a_.._b",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
        assert!(!is_authority(&[b'a'; 262]));
        for dot in 0..40 {
            let mut host = [b'a'; 41];
            host[dot] = b'.';
            assert_eq!(is_authority(&host), dot > 0);
            host[dot + 1] = b'.';
            assert!(!is_authority(&host), "{dot}");
        }
        assert_eq!(split(b"[::1]:8080"), Some((&b"[::1]"[..], Some(8080))));
    }
}
