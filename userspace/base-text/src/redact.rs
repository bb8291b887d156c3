//! What of a message is a credential, and is not written in a log.
//!
//! Of messages themselves are hidden the values of the fields that carry credentials (RFC 9110 section 11, cookies, the usual API keys and tokens), and, in
//! targets and in fields that hold URLs, the values of the usual parameters and what stands before the `@` of an authority. In other texts ([`write_text`]) whatever looks like one of these is hidden, and what is known to be one.

use crate::digits::push_short;
use crate::escape::{all_are, write_foreign};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

/// What stands in place of a value.
const HIDDEN: &[u8] = b"***";

/// Fields whose whole value is hidden.
const FIELDS: [&str; 20] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "api-key",
    "apikey",
    "x-auth-token",
    "x-access-token",
    "x-id-token",
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
const PARAMETERS: [&str; 27] = [
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
    "x-signature",
    "x-amz-signature",
    "x-amz-security-token",
    "x-goog-signature",
];

/// Names of fields and parameters that the configuration gives to credentials, beside the usual ones.
static NAMED: RwLock<Vec<Box<str>>> = RwLock::new(Vec::new());
static ANY_NAMED: AtomicBool = AtomicBool::new(false);

/// From now on the value of a field or a parameter of this name is hidden in messages, for as long as the process lives: what carried a
/// credential once may be sent again. Texts that people wrote are not searched for the name, which may be an ordinary word.
pub fn hide(name: &str) {
    let mut named = NAMED.write().unwrap_or_else(PoisonError::into_inner);
    if !named.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        named.push(name.into());
        ANY_NAMED.store(true, Ordering::Release);
    }
}

fn is_named(name: &[u8]) -> bool {
    ANY_NAMED.load(Ordering::Acquire)
        && NAMED
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .any(|known| known.as_bytes().eq_ignore_ascii_case(name))
}

/// Whether a field of a message carries a credential.
fn is_field(name: &[u8]) -> bool {
    FIELDS.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name)) || is_named(name)
}

/// Whether a parameter of a message's URL carries one, however its name is escaped.
fn is_parameter(name: &[u8]) -> bool {
    is_secret(name) || is_named(&unescape(name))
}

/// Appends the value of a field as it may be logged.
pub fn write_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    let is = |known: &&str| known.eq_ignore_ascii_case(name);
    if is_field(name.as_bytes()) {
        out.extend_from_slice(HIDDEN);
    } else if URL_FIELDS.iter().any(is) {
        write_url(value, out);
    } else {
        write_foreign(value, out);
    }
}

/// Appends a target or a URL as it may be logged.
pub fn write_url(mut url: &[u8], out: &mut Vec<u8>) {
    // Most targets are a path in bytes that stay as they are: nothing in them can begin userinfo, a query or a fragment.
    if all_are(url, |b| (b' '..=b'~').contains(&b) & (b != b':') & (b != b'?') & (b != b'#')) {
        return push_short(url, out);
    }
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
            Some(equals) if is_parameter(&pair[..equals]) => {
                write_foreign(&pair[..=equals], out);
                out.extend_from_slice(HIDDEN);
            }
            _ => write_foreign(pair, out),
        }
        rest = following;
    }
}

/// Appends a text that people wrote and messages had a part in, such as a note or an error, as it may be logged: what looks like a
/// credential is hidden wherever it stands. `known` are credentials that are hidden however they look, see [`of_message`]. `escape`
/// writes what is left, see [`write_foreign`].
pub fn write_text(mut text: &[u8], known: &[Cow<'_, [u8]>], escape: fn(&[u8], &mut Vec<u8>), out: &mut Vec<u8>) {
    let mut from = 0;
    while from < text.len() {
        let Some(hidden) = known_at(&text[from..], known).or_else(|| credential_at(text, from)) else {
            from += 1;
            continue;
        };
        escape(&text[..from + hidden.start], out);
        out.extend_from_slice(HIDDEN);
        (text, from) = (&text[from + hidden.end..], 0);
    }
    escape(text, out);
}

/// The credentials in the fields and the target of a message, to be hidden where they stand by themselves, as they were sent and as
/// whoever decodes them sees them. Short ones are left out: they would be found in words that have nothing to do with them.
pub fn of_message<'m>(fields: impl IntoIterator<Item = (&'m [u8], &'m [u8])>, target: &'m [u8]) -> Vec<Cow<'m, [u8]>> {
    let mut found = Vec::new();
    for (name, value) in fields {
        let is = |known: &&str| known.as_bytes().eq_ignore_ascii_case(name);
        if URL_FIELDS.iter().any(is) {
            add_of_url(value, &mut found);
        }
        if !is_field(name) {
            continue;
        }
        add(value, &mut found);
        // `Bearer x` and `a=x; b=y` are shown in parts.
        for part in value.split(|b| matches!(b, b' ' | b';' | b',')) {
            add(part, &mut found);
        }
        for pair in value.split(|b| *b == b';') {
            if let Some(equals) = pair.iter().position(|b| *b == b'=') {
                add(&pair[equals + 1..], &mut found);
            }
        }
        if let Some((scheme, user)) = value.split_at_checked(6)
            && scheme.eq_ignore_ascii_case(b"basic ")
            && let user = user.trim_ascii()
            && let Ok(user) =
                STANDARD_NO_PAD.decode(&user[..user.len() - user.iter().rev().take_while(|b| **b == b'=').count()])
        {
            add_user(Cow::Owned(user), &mut found);
        }
    }
    add_of_url(target, &mut found);
    found.retain(|value| value.len() >= KNOWN_BYTES_MIN);
    found.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    found.dedup();
    found
}

fn add_of_url<'m>(url: &'m [u8], found: &mut Vec<Cow<'m, [u8]>>) {
    if let Some(at) = userinfo(url) {
        add_user(Cow::Borrowed(&url[at]), found);
    }
    for pair in url.split(|b| matches!(b, b'?' | b'&' | b';' | b'#')) {
        if let Some(equals) = pair.iter().position(|b| *b == b'=')
            && is_parameter(&pair[..equals])
        {
            add(&pair[equals + 1..], found);
        }
    }
}

/// A user's name with the password, and the password alone.
fn add_user<'m>(user: Cow<'m, [u8]>, found: &mut Vec<Cow<'m, [u8]>>) {
    if let Some(colon) = user.iter().position(|b| *b == b':') {
        let password = user[colon + 1..].to_vec();
        found.extend(decoded(&password).map(Cow::Owned));
        found.push(Cow::Owned(password));
    }
    found.extend(decoded(&user).map(Cow::Owned));
    found.push(user);
}

fn add<'m>(value: &'m [u8], found: &mut Vec<Cow<'m, [u8]>>) {
    found.push(Cow::Borrowed(value));
    found.extend(decoded(value).map(Cow::Owned));
}

/// What is read out of an escaped value: with `+` as it stands, and as the blank it is in forms.
fn decoded(value: &[u8]) -> impl Iterator<Item = Vec<u8>> + use<> {
    let escaped = value.contains(&b'%');
    let plain = escaped.then(|| unescape(value));
    let form = value.contains(&b'+').then(|| {
        let blanks: Vec<u8> = value.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
        unescape(&blanks)
    });
    plain.into_iter().chain(form)
}

fn unescape(value: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(value.len()), value);
    while let Some((byte, after)) = unescaped(rest) {
        out.push(byte);
        rest = after;
    }
    out
}

/// The first byte of an escaped text, and what follows it.
fn unescaped(text: &[u8]) -> Option<(u8, &[u8])> {
    let (&first, after) = text.split_first()?;
    let digit = |at: usize| after.get(at).and_then(|b| (*b as char).to_digit(16));
    Some(match (first, digit(0), digit(1)) {
        (b'%', Some(high), Some(low)) => ((high << 4 | low) as u8, &after[2..]),
        _ => (first, after),
    })
}

/// Values shorter than this occur in ordinary words.
const KNOWN_BYTES_MIN: usize = 6;

fn known_at(text: &[u8], known: &[Cow<'_, [u8]>]) -> Option<std::ops::Range<usize>> {
    known.iter().find(|value| text.starts_with(value.as_ref())).map(|value| 0..value.len())
}

/// The credential that something beginning at `at` announces: where it stands, counted from `at`.
fn credential_at(text: &[u8], at: usize) -> Option<std::ops::Range<usize>> {
    let rest = &text[at..];
    if rest.starts_with(b"://") {
        let end = rest[3..].iter().position(|b| b"/?#\"'<> \t\r\n".contains(b)).map_or(rest.len(), |end| end + 3);
        let sign = rest[3..end].iter().rposition(|b| *b == b'@')?;
        return Some(3..sign + 3);
    }
    if at > 0 && is_word(text[at - 1]) {
        return None;
    }
    let word = &rest[..rest.iter().position(|b| !is_word(*b)).unwrap_or(rest.len())];
    if word.is_empty() {
        return None;
    }
    let after = &rest[word.len()..];
    if after.first() == Some(&b'=') && is_secret(word) {
        let start = word.len() + 1;
        return Some(start..start + value_length(&rest[start..], b"&;,"));
    }
    let is_field = FIELDS.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(word));
    // As JSON has it, escaped once more or not: `"name": "value"`.
    let quote = after.iter().take_while(|b| matches!(b, b'\\' | b'"' | b'\'')).count();
    let blanks = |from: usize| rest[from..].iter().take_while(|b| **b == b' ').count();
    if after.get(quote) == Some(&b':') && (is_field || quote > 0 && is_secret(word)) {
        let start = word.len() + quote + 1;
        let start = start + blanks(start);
        let length = match (quote > 0, rest.get(start)) {
            (_, Some(b'[')) => closed_length(&rest[start..], b']', 0),
            (true, _) => value_length(&rest[start..], b","),
            (false, _) => line_length(&rest[start..]),
        };
        return (length > 0).then_some(start..start + length);
    }
    if SCHEMES.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(word)) && after.first() == Some(&b' ') {
        let start = word.len() + blanks(word.len());
        let token = &rest[start..start + token_length(&rest[start..])];
        // Words that follow in a sentence have neither digits nor capitals.
        let is_token =
            token.len() >= KNOWN_BYTES_MIN && token.iter().any(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
        return is_token.then_some(start..start + token.len());
    }
    // A JSON Web Token by itself: base64 of `{"`.
    let token = token_length(rest);
    (word.starts_with(b"eyJ") && rest[..token].contains(&b'.')).then_some(0..token)
}

/// Schemes whose credentials follow them.
const SCHEMES: [&str; 6] = ["bearer", "basic", "digest", "negotiate", "ntlm", "token"];

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'%')
}

/// What RFC 9110 calls token68, and the dots of a JSON Web Token.
fn token_length(text: &[u8]) -> usize {
    text.iter().take_while(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(b)).count()
}

/// A value in quotes to its closing one, another to white space or one of `ends`.
fn value_length(text: &[u8], ends: &[u8]) -> usize {
    let escapes = text.iter().take_while(|b| **b == b'\\').count();
    if let Some(quote @ (b'"' | b'\'')) = text.get(escapes) {
        return escapes + 1 + closed_length(&text[escapes + 1..], *quote, escapes);
    }
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            // A quote keeps the backslash before it.
            b'\\' if text.get(at + 1).is_some_and(|next| *next != b'"') => at += 2,
            b'\\' => break,
            byte if byte.is_ascii_whitespace() || b"\"'<>)]}".contains(byte) || ends.contains(byte) => break,
            _ => at += 1,
        }
    }
    at
}

/// Up to an `end` with as many backslashes before it as the opening one had, and never beyond a quote without any, which ends the
/// string of JSON that all of this may stand in.
fn closed_length(text: &[u8], end: u8, escapes: usize) -> usize {
    let mut backslashes = 0;
    for (at, byte) in text.iter().enumerate() {
        match *byte {
            b'\\' => {
                backslashes += 1;
                continue;
            }
            byte if byte == end && backslashes <= escapes => return at - backslashes,
            b'"' if backslashes == 0 => return at,
            _ => backslashes = 0,
        }
    }
    text.len()
}

/// Up to the end of the line, or of the string of JSON it stands in.
fn line_length(text: &[u8]) -> usize {
    let line = text.iter().position(|b| matches!(b, b'\r' | b'\n')).unwrap_or(text.len());
    closed_length(&text[..line], b'"', 0)
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
    while let Some((byte, next)) = unescaped(rest) {
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
    fn names_that_the_configuration_gives_to_credentials_are_hidden_in_messages() {
        let url = |text: &str| {
            let mut out = Vec::new();
            write_url(text.as_bytes(), &mut out);
            String::from_utf8(out).unwrap()
        };
        let field = || {
            let mut out = Vec::new();
            write_field("x-Shop-Pass", b"0123456789", &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            (&*url("/a?shop-pass=b&x-signature=c"), &*field()),
            ("/a?shop-pass=b&x-signature=***", "0123456789")
        );
        hide("shop-pass");
        hide("X-Shop-Pass");
        assert_eq!((&*url("/a?b=c&%73hop-pass=d&e=f"), &*field()), ("/a?b=c&%73hop-pass=***&e=f", "***"));
        let known = of_message([(&b"X-SHOP-PASS"[..], &b"0123456789"[..])], b"/?shop-pass=abcdefgh");
        assert_eq!(known, [&b"0123456789"[..], b"abcdefgh"]);
        let mut out = Vec::new();
        write_text(b"shop-pass=word", &known, write_foreign, &mut out);
        assert_eq!(out, b"shop-pass=word", "a text of ours");
    }

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

    fn shown(text: &str, known: &[Cow<'_, [u8]>]) -> String {
        let mut out = Vec::new();
        write_text(text.as_bytes(), known, write_foreign, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn credentials_in_sentences_are_hidden() {
        for (text, expected) in [
            ("nothing here", "nothing here"),
            ("got https://u:p@h.test/x?key=1&a=2", "got https://***@h.test/x?key=***&a=2"),
            ("Authorization: Basic dTpw, and more", "Authorization: ***"),
            ("map[Authorization:[Basic dTpw] Accept:[*/*]]", "map[Authorization:***] Accept:[*/*]]"),
            ("Cookie: a=b; c=d\nHost: h", "Cookie: ***\\x0aHost: h"),
            (r#"{"password":"a\"b","user":"u"}"#, r#"{"password":***","user":"u"}"#),
            (r#"{"token": 12, "user": 1}"#, r#"{"token": ***, "user": 1}"#),
            (r#"{\"x-api-key\":\"k1\",\"b\":1}"#, r#"{\"x-api-key\":***\",\"b\":1}"#),
            ("saw Bearer abcDEF123 in it", "saw Bearer *** in it"),
            ("basic authentication is missing", "basic authentication is missing"),
            ("token eyJhbGciOiJIUzI1NiJ9.e30.x-y is stale", "token *** is stale"),
            ("is eyJhbGciOiJIUzI1NiJ9.e30.x-y stale", "is *** stale"),
            ("password=hunter2 password='a b' x", "password=*** password=***' x"),
            ("healthCheck.password: has no effect", "healthCheck.password: has no effect"),
            ("keys.shop: the private key is damaged", "keys.shop: the private key is damaged"),
            ("code: 503, status code=\u{1b}x", "code: 503, status code=***"),
        ] {
            assert_eq!(shown(text, &[]), expected, "{text}");
        }
    }

    #[test]
    fn credentials_of_the_message_are_hidden_wherever_they_stand() {
        let fields = [("authorization", "Bearer s3cret-1"), ("Cookie", "sid=abcdef; lang=en"), ("X-Other", "visible")];
        let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let known = of_message(fields, b"/a?token=t0ken-5&b=visible2");
        for (text, expected) in [
            ("s3cret-1", "***"),
            ("user Bearer s3cret-1!", "user ***!"),
            ("sid=abcdef; lang=en", "***"),
            ("x=abcdef", "x=***"),
            ("t0ken-5 visible visible2 en", "*** visible visible2 en"),
        ] {
            assert_eq!(shown(text, &known), expected, "{text}");
        }
    }

    #[test]
    fn credentials_of_the_message_are_hidden_decoded_too() {
        let fields = [
            ("authorization", "Basic dXNlcjpwYXNzd29yZA=="),
            ("Cookie", "sid=ab%2Fcdef"),
            ("Referer", "https://who:s%40cret1@h.test/?code=one%20time"),
        ];
        let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let known = of_message(fields, b"/a?%74oken=t%2Dken+5%26x&b=vis%69ble2");
        for text in [
            "user:password",
            "password",
            "dXNlcjpwYXNzd29yZA==",
            "ab/cdef",
            "ab%2Fcdef",
            "who:s@cret1",
            "s@cret1",
            "s%40cret1",
            "one time",
            "t%2Dken+5%26x",
            "t-ken+5&x",
            "t-ken 5&x",
        ] {
            assert_eq!(shown(&format!("a {text} b"), &known), "a *** b", "{text}");
        }
        assert_eq!(shown("visible2", &known), "visible2");
    }

    proptest::proptest! {
        /// Whatever surrounds a credential, its own letters are not shown.
        #[test]
        fn no_credential_is_shown(before in "[ -~\n]{0,12}", after in "[ -~\n]{0,12}", way in 0..6usize) {
            let secret = "S3CRET0value";
            let text = match way {
                0 => format!("{before} Authorization: Bearer {secret}{after}"),
                1 => format!("{before} http://h/?access_token={secret}&x{after}"),
                2 => format!("{before} {{\"client_secret\":\"{secret}\"}}{after}"),
                3 => format!("{before} https://user:{secret}@host/{after}"),
                4 => format!("{before} Bearer {secret} {after}"),
                _ => format!("{before} Cookie: sid={secret}; b=1{after}"),
            };
            proptest::prop_assert!(!shown(&text, &[]).contains(secret), "{}", shown(&text, &[]));
            let anywhere = format!("{before}{secret}{after}");
            proptest::prop_assert!(!shown(&anywhere, &[secret.as_bytes().into()]).contains(secret));
        }
    }
}
