//! What an answer is found under: the URL of its request, and what else may have decided it.

use proto_http::headers::is_spelled_alike;
use proto_http::{Headers, Request};

/// Fields that many origins look at although no cache would know: they are part of the key where they say something else than the
/// request itself does. Whoever sends one gets answers of its own, and cannot poison those of others.
const DECIDING: [&str; 12] = [
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Scheme",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Path",
    "X-Forwarded-Server",
    "X-Original-Host",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-Host",
    "Forwarded",
];

/// Fields that make another method of a request for some origins: such requests are not for a cache.
const METHOD_OVERRIDES: [&str; 3] = ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"];

/// What an operator adds to a key, and takes away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRules {
    /// Further fields that are part of it.
    pub headers: Vec<String>,
    /// Names of query parameters that are not.
    pub ignored_query: Vec<String>,
}

/// Whether a request says in a field that it is of another method.
pub fn is_disguised(headers: &Headers) -> bool {
    headers.iter().any(|(name, _, _)| {
        is_like(name, b'x') && METHOD_OVERRIDES.iter().any(|other| is_spelled_alike(name, other.as_bytes()))
    })
}

/// Appends the key of a request to `out`: its URL; then a line for each field that is part of it. Says whether there is any such line.
pub fn push_key(request: &Request, scheme: &str, rules: &KeyRules, out: &mut Vec<u8>) -> bool {
    push_url(request, scheme, rules, out);
    let plain = out.len();
    for (name, value, _) in request.headers.iter() {
        if !is_like(name, b'x') && !is_like(name, b'f') {
            continue;
        }
        let Some(deciding) = DECIDING.iter().find(|other| is_spelled_alike(name, other.as_bytes())) else { continue };
        let value = value.trim_ascii();
        let says_the_same = match *deciding {
            "X-Forwarded-Host" | "X-Original-Host" | "X-Host" => {
                value.eq_ignore_ascii_case(request.authority.as_bytes())
            }
            "X-Forwarded-Proto" | "X-Forwarded-Scheme" => value.eq_ignore_ascii_case(scheme.as_bytes()),
            // Who asks decides nothing that others may have; a host does.
            "Forwarded" => !value.windows(5).any(|part| part.eq_ignore_ascii_case(b"host=")),
            _ => false,
        };
        if !says_the_same {
            push_line(deciding, value, out);
        }
    }
    for name in &rules.headers {
        out.push(b'\n');
        out.extend(name.bytes().map(|b| b.to_ascii_lowercase()));
        for value in request.headers.values(name) {
            out.push(b':');
            out.extend_from_slice(value.trim_ascii());
        }
    }
    out.len() > plain
}

fn push_line(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.push(b'\n');
    out.extend(name.bytes().map(|b| b.to_ascii_lowercase()));
    out.push(b':');
    out.extend_from_slice(value);
}

/// Whether a name begins with a letter, in either case.
fn is_like(name: &[u8], letter: u8) -> bool {
    name.first().is_some_and(|first| first | 0x20 == letter)
}

/// `scheme://host[:port]/path[?query]`, the host in lower case and without a port that its scheme has anyway.
fn push_url(request: &Request, scheme: &str, rules: &KeyRules, out: &mut Vec<u8>) {
    out.extend_from_slice(scheme.as_bytes());
    out.extend_from_slice(b"://");
    let own_port = if scheme == "https" { ":443" } else { ":80" };
    let authority = request.authority.strip_suffix(own_port).unwrap_or(&request.authority);
    out.extend(authority.bytes().map(|b| b.to_ascii_lowercase()));
    request.path.encode(out);
    let Some(query) = &request.query else { return };
    if rules.ignored_query.is_empty() {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
        return;
    }
    let mut mark = b'?';
    for pair in query.split('&') {
        let name = pair.split('=').next().unwrap_or_default();
        // Some origins see further parameters behind a semicolon, or a second question mark.
        let is_one = !pair.contains([';', '?']);
        if !is_one || !rules.ignored_query.iter().any(|ignored| ignored == name) {
            out.push(mark);
            out.extend_from_slice(pair.as_bytes());
            mark = b'&';
        }
    }
}

/// The URL in a key.
pub fn url_of(key: &[u8]) -> &[u8] {
    key.split(|&b| b == b'\n').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_by(rules: &KeyRules, target: &str, fields: &[(&str, &str)]) -> (String, bool) {
        let mut request = Request { authority: "A.test:80".to_owned(), ..Request::default() };
        request.set_target(target.as_bytes()).unwrap();
        fields.iter().for_each(|(name, value)| request.headers.add(name, value));
        let mut key = Vec::new();
        let more = push_key(&request, "http", rules, &mut key);
        (String::from_utf8(key).unwrap(), more)
    }

    fn key(target: &str, fields: &[(&str, &str)]) -> String {
        key_by(&KeyRules::default(), target, fields).0
    }

    #[test]
    fn a_key_is_the_url() {
        assert_eq!(key("/a?b=c", &[]), "http://a.test/a?b=c");
        assert_ne!(key("/a?", &[]), key("/a", &[]));
        assert_eq!(key("/%61/./b", &[]), "http://a.test/a/b");
        assert_ne!(key("/a?x=1&y=2", &[]), key("/a?y=2&x=1", &[]));
        let rules = KeyRules { ignored_query: vec!["utm".into()], headers: vec!["X-Tenant".into()] };
        assert_eq!(key_by(&rules, "/a?utm=1&b&utm=2", &[]), ("http://a.test/a?b\nx-tenant".to_owned(), true));
        for hidden in ["/a?utm=1;b=2", "/a?utm=1?b=2", "/a?utm;b=2"] {
            assert_ne!(key_by(&rules, hidden, &[]).0, key_by(&rules, "/a", &[]).0, "{hidden}");
        }
        let both = key_by(&rules, "/a?utm=1", &[("x-tenant", "1"), ("x-tenant", "2")]).0;
        assert_eq!(both, "http://a.test/a\nx-tenant:1:2");
    }

    #[test]
    fn what_origins_may_look_at_is_part_of_it() {
        let plain = key("/", &[]);
        for (name, value) in [
            ("X-Forwarded-Host", "evil.test"),
            ("x_forwarded_host", "evil.test"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Port", "1"),
            ("X-Original-URL", "/admin"),
            ("X-Rewrite-URL", "/admin"),
            ("Forwarded", "for=1.2.3.4;Host=evil.test"),
        ] {
            assert_ne!(key("/", &[(name, value)]), plain, "{name}");
        }
        for (name, value) in [
            ("X-Forwarded-Host", "a.test:80"),
            ("X-Forwarded-Proto", "http"),
            ("Forwarded", "for=1.2.3.4"),
            ("X-Forwarded-For", "1.2.3.4"),
            ("Cookie", "a=b"),
        ] {
            assert_eq!(key("/", &[(name, value)]), plain, "{name}");
        }
        let mut headers = Headers::new();
        headers.add("x_http_method", "PUT");
        assert!(is_disguised(&headers) && !is_disguised(&Headers::new()));
    }

    #[test]
    fn a_value_cannot_be_taken_for_another_line() {
        // Line breaks in values are blanks by the time they are here.
        let one = key("/", &[("X-Forwarded-Host", "a\nx-forwarded-port:1")]);
        let two = key("/", &[("X-Forwarded-Host", "a"), ("X-Forwarded-Port", "1")]);
        assert_ne!(one, two);
        assert_eq!(url_of(two.as_bytes()), b"http://a.test/");
    }
}
