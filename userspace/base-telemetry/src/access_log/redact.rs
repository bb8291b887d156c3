//! What of a message is a credential, and is not written in a log.
//!
//! Hidden are the values of the fields that carry credentials (RFC 9110 section 11, cookies, the usual API keys and tokens), and, in
//! targets and in fields that hold URLs, the values of the usual parameters and what stands before the `@` of an authority.

use super::text::write_foreign;

/// What stands in place of a value.
const HIDDEN: &[u8] = b"***";

/// Fields whose whole value is hidden.
const FIELDS: [&str; 19] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "api-key",
    "apikey",
    "x-auth-token",
    "x-access-token",
    "x-refresh-token",
    "x-session-token",
    "x-csrf-token",
    "x-xsrf-token",
    "x-amz-security-token",
    "x-goog-iap-jwt-assertion",
    "x-vault-token",
    "x-gitlab-token",
    "private-token",
    "authentication-info",
];

/// Fields that hold URLs.
const URL_FIELDS: [&str; 9] = [
    "referer",
    "location",
    "content-location",
    "refresh",
    "link",
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "x-forwarded-uri",
];

/// Parameters whose value is hidden.
const PARAMETERS: [&str; 26] = [
    "token",
    "access_token",
    "id_token",
    "refresh_token",
    "auth_token",
    "session_token",
    "id_token_hint",
    "jwt",
    "api_key",
    "apikey",
    "api-key",
    "key",
    "signature",
    "sig",
    "password",
    "passwd",
    "pwd",
    "secret",
    "client_secret",
    "client_assertion",
    "assertion",
    "code",
    "code_verifier",
    "x-amz-signature",
    "x-amz-security-token",
    "x-goog-signature",
];

/// Appends the value of a field as it may be logged.
pub(super) fn write_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    let is = |known: &&str| known.eq_ignore_ascii_case(name);
    if FIELDS.iter().any(is) {
        out.extend_from_slice(HIDDEN);
    } else if URL_FIELDS.iter().any(is) {
        write_url(value, out);
    } else {
        write_foreign(value, out);
    }
}

/// Appends a target or a URL as it may be logged.
pub(super) fn write_url(mut url: &[u8], out: &mut Vec<u8>) {
    if let Some(at) = userinfo(url) {
        write_foreign(&url[..at.start], out);
        out.extend_from_slice(HIDDEN);
        url = &url[at.end..];
    }
    // A fragment carries tokens as a query does (OAuth's implicit grant).
    let Some(query) = url.iter().position(|b| matches!(b, b'?' | b'#')) else { return write_foreign(url, out) };
    write_foreign(&url[..query], out);
    let mut rest = &url[query..];
    while let Some((separator, after)) = rest.split_first() {
        let end = after.iter().position(|b| matches!(b, b'&' | b';' | b'?' | b'#')).unwrap_or(after.len());
        let (pair, following) = after.split_at(end);
        out.push(*separator);
        match pair.iter().position(|b| *b == b'=') {
            Some(equals) if is_secret(&pair[..equals]) => {
                write_foreign(&pair[..=equals], out);
                out.extend_from_slice(HIDDEN);
            }
            _ => write_foreign(pair, out),
        }
        rest = following;
    }
}

/// Where the userinfo of the URL's authority stands.
fn userinfo(url: &[u8]) -> Option<std::ops::Range<usize>> {
    let start = url.windows(3).position(|window| window == b"://")? + 3;
    let end = url[start..].iter().position(|b| matches!(b, b'/' | b'?' | b'#')).map_or(url.len(), |at| start + at);
    let at = url[start..end].iter().rposition(|b| *b == b'@')?;
    Some(start..start + at)
}

/// Whether a parameter's name is one of those, however it is escaped.
fn is_secret(name: &[u8]) -> bool {
    let mut plain = [0; 32];
    let (mut length, mut rest) = (0, name);
    while let Some((&first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|b| (*b as char).to_digit(16));
        let (byte, next) = match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => ((high << 4 | low) as u8, &after[2..]),
            _ => (first, after),
        };
        let Some(place) = plain.get_mut(length) else { return false };
        (*place, rest) = (byte, next);
        length += 1;
    }
    PARAMETERS.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(&plain[..length]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_urls_are_hidden() {
        for (url, expected) in [
            ("/a?b=c", "/a?b=c"),
            ("/a?token=t&b=c", "/a?token=***&b=c"),
            ("/a?b=c&ACCESS_TOKEN=t;sig=x", "/a?b=c&ACCESS_TOKEN=***;sig=***"),
            ("/a?%74oken=t&X-Amz-Signature=s", "/a?%74oken=***&X-Amz-Signature=***"),
            ("/cb?code=1&state=2", "/cb?code=***&state=2"),
            ("/cb#access_token=1&state=2", "/cb#access_token=***&state=2"),
            ("/a?token", "/a?token"),
            ("/a?tokens=1&my_token=2", "/a?tokens=1&my_token=2"),
            ("https://u:p@h.test/x?key=1", "https://***@h.test/x?key=***"),
            ("https://h.test/@me", "https://h.test/@me"),
            ("/a?token=\n[x]", "/a?token=***"),
            ("/a\n?b=\n", "/a\\x0a?b=\\x0a"),
        ] {
            let mut out = Vec::new();
            write_url(url.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{url}");
        }
    }

    #[test]
    fn credentials_of_fields_are_hidden() {
        for (name, expected) in [
            ("Authorization", "***"),
            ("COOKIE", "***"),
            ("set-cookie", "***"),
            ("X-Api-Key", "***"),
            ("X-Amz-Security-Token", "***"),
            ("Referer", "https://***@h/?sig=***"),
            ("X-Other", "https://u:p@h/?sig=1"),
        ] {
            let mut out = Vec::new();
            write_field(name, b"https://u:p@h/?sig=1", &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{name}");
        }
    }
}
