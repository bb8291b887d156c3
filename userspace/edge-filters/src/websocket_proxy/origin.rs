//! Whose pages may open WebSockets: browsers say where a page is from and send its user's cookies along, whatever site it is of
//! (RFC 6455 section 10.2).

use proto_http::Request;
use regex::Regex;

/// Sites whose pages are let in beside the one that is asked.
#[derive(Debug)]
pub struct Origins {
    any: bool,
    patterns: Vec<Pattern>,
}

/// Hosts, or schemes and hosts.
#[derive(Debug)]
pub struct Pattern {
    expression: Regex,
    with_scheme: bool,
}

impl Origins {
    pub fn new(patterns: &[String], any: bool) -> Result<Origins, String> {
        Ok(Origins { any, patterns: patterns.iter().map(|text| pattern(text)).collect::<Result<_, _>>()? })
    }

    /// Whether the page that opens it is let in. What is no page says nothing of where it is from.
    pub fn admit(&self, request: &Request) -> bool {
        let mut values = request.headers.values("Origin");
        let Some(origin) = values.next() else { return true };
        if self.any {
            return true;
        }
        let (Ok(origin), None) = (std::str::from_utf8(origin.trim_ascii()), values.next()) else { return false };
        // "null" has no host.
        let Some((_, host)) = origin.split_once("://") else { return false };
        host.eq_ignore_ascii_case(&request.authority)
            || self.patterns.iter().any(|p| p.expression.is_match(if p.with_scheme { origin } else { host }))
    }
}

/// A pattern of shells (Go's `path.Match`), without regard to case.
pub fn pattern(text: &str) -> Result<Pattern, String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    let mut expression = String::from("(?i)^");
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '*' => expression.push_str("[^/]*"),
            '?' => expression.push_str("[^/]"),
            '[' => {
                let class: String = rest.by_ref().take_while(|c| *c != ']').collect();
                let simple = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '^' | '.' | '_');
                if class.trim_start_matches('^').is_empty() || !class.chars().all(simple) {
                    return Err("a class in it cannot be read".to_owned());
                }
                expression.push('[');
                expression.push_str(&class);
                expression.push(']');
            }
            '\\' => match rest.next() {
                Some(literal) => expression.push_str(&regex::escape(literal.encode_utf8(&mut [0; 4]))),
                None => return Err("ends in the middle of an escape".to_owned()),
            },
            literal => expression.push_str(&regex::escape(literal.encode_utf8(&mut [0; 4]))),
        }
    }
    expression.push('$');
    let compiled = Regex::new(&expression).map_err(|_| "a class in it cannot be read".to_owned())?;
    Ok(Pattern { expression: compiled, with_scheme: text.contains("://") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(patterns: &[&str], origin: Option<&str>) -> bool {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let mut request = Request { authority: "Shop.test:8080".to_owned(), ..Request::default() };
        if let Some(origin) = origin {
            request.headers.add("Origin", origin);
        }
        Origins::new(&patterns, false).unwrap().admit(&request)
    }

    #[test]
    fn pages_of_the_site_and_of_listed_ones_are_let_in() {
        for (patterns, origin, expected) in [
            (&[][..], None, true),
            (&[], Some("http://shop.test:8080"), true),
            (&[], Some("https://SHOP.test:8080"), true),
            (&[], Some("http://shop.test"), false),
            (&[], Some("http://evil.test"), false),
            (&[], Some("http://shop.test:8080.evil.test"), false),
            (&[], Some("null"), false),
            (&[], Some(""), false),
            (&["evil.test", "*.evil.test"], Some("http://evil.test"), true),
            (&["*.evil.test"], Some("http://a.b.EVIL.test"), true),
            (&["*.evil.test"], Some("http://evil.test"), false),
            (&["*.evil.test"], Some("http://x.evil.test.other"), false),
            (&["*.evil.test"], Some("http://other/x.evil.test"), false),
            (&["evil?test"], Some("http://evil.test"), true),
            (&["evil.test"], Some("http://evilxtest"), false),
            (&["localhost:*"], Some("http://localhost:3000"), true),
            (&["www[0-9].test"], Some("http://www7.test"), true),
            (&["www[^0-9].test"], Some("http://www7.test"), false),
            (&["https://ok.test"], Some("https://ok.test"), true),
            (&["https://ok.test"], Some("http://ok.test"), false),
            (&["*"], Some("http://anybody.test:1"), true),
        ] {
            assert_eq!(admits(patterns, origin), expected, "{patterns:?} {origin:?}");
        }
        for bad in ["", "a[", "a[]", "a[&&]", "x\\"] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }
}
