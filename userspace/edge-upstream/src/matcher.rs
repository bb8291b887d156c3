//! Which requests a candidate or mirror pool takes (`filter` of a pool).

use crate::balance::hash::{fnv1_32, spread64};
use crate::random;
use crate::sticky::cookies;
use base_model::{Matcher, RequestMatcherSpec, SplitSpec, UrlMatcher};
use edge_pipeline::Client;
use proto_http::Request;
use std::collections::BTreeMap;

/// A ready request matcher.
#[derive(Debug)]
pub enum RequestMatcher {
    /// Headers, any or all of them, and when URL rules are given also one of those.
    General { headers: Vec<(String, Matcher)>, cookies: Vec<(String, Matcher)>, all: bool, urls: Vec<UrlMatcher> },
    /// A share of the client addresses.
    IpHash { permil: u32 },
    /// A share of the values of a header.
    HeaderHash { key: String, permil: u32 },
    /// A share of the values of a cookie, and of the addresses of those who have none.
    CookieHash { key: String, permil: u32 },
    /// A share of the requests.
    Random { permil: u32 },
}

impl RequestMatcher {
    /// `spec` has passed its static checks; patterns that do not compile are reported as text.
    pub fn new(spec: &RequestMatcherSpec) -> Result<RequestMatcher, String> {
        Ok(match spec.policy.as_str() {
            "ipHash" => RequestMatcher::IpHash { permil: spec.permil },
            "headerHash" => RequestMatcher::HeaderHash { key: spec.header_hash_key.clone(), permil: spec.permil },
            "cookieHash" => RequestMatcher::CookieHash { key: spec.cookie_hash_key.clone(), permil: spec.permil },
            "random" => RequestMatcher::Random { permil: spec.permil },
            _ => RequestMatcher::General {
                headers: compiled(&spec.headers)?,
                cookies: compiled(&spec.cookies)?,
                all: spec.match_all_headers,
                urls: spec.urls.iter().map(|u| u.compile()).collect::<Result<_, String>>()?,
            },
        })
    }

    pub fn matches(&self, request: &Request, client: &Client) -> bool {
        match self {
            RequestMatcher::General { headers, cookies, all, urls } => {
                let header = |(name, matcher): &(String, Matcher)| matches_header(request, name, matcher);
                let cookie = |(name, matcher): &(String, Matcher)| matches_cookie(request, name, matcher);
                let none = headers.is_empty() && cookies.is_empty();
                let hit = none
                    || match *all {
                        true => headers.iter().all(header) && cookies.iter().all(cookie),
                        false => headers.iter().any(header) || cookies.iter().any(cookie),
                    };
                hit && (urls.is_empty()
                    || urls.iter().any(|u| u.matches(request.method.as_str(), request.path.as_str())))
            }
            RequestMatcher::IpHash { permil } => fnv1_32(client.real_ip_text().as_bytes()) % 1000 < *permil,
            RequestMatcher::HeaderHash { key, permil } => {
                fnv1_32(request.headers.value(key).unwrap_or_default()) % 1000 < *permil
            }
            RequestMatcher::CookieHash { key, permil } => match cookies(request, key).next() {
                Some(value) => fnv1_32(value) % 1000 < *permil,
                None => fnv1_32(client.real_ip_text().as_bytes()) % 1000 < *permil,
            },
            RequestMatcher::Random { permil } => random::below(1000) < u64::from(*permil),
        }
    }
}

fn compiled(matchers: &BTreeMap<String, base_model::StringMatcher>) -> Result<Vec<(String, Matcher)>, String> {
    matchers.iter().map(|(name, matcher)| Ok((name.clone(), matcher.compile()?))).collect()
}

/// Whether any cookie of this name matches; one that is absent counts as empty.
fn matches_cookie(request: &Request, name: &str, matcher: &Matcher) -> bool {
    let mut present = false;
    for value in cookies(request, name) {
        present = true;
        if std::str::from_utf8(value).is_ok_and(|text| matcher.matches(text)) {
            return true;
        }
    }
    !present && matcher.matches("")
}

/// Divides requests among pools, in proportion to their weights.
#[derive(Debug)]
pub struct Split {
    by: SplitKey,
    /// Where the part of each pool ends.
    ends: Vec<u64>,
}

#[derive(Debug)]
enum SplitKey {
    Random,
    Address,
    Header(String),
    Cookie(String),
}

impl Split {
    /// Of pools with these weights, one of which is more than 0.
    pub fn new(spec: Option<&SplitSpec>, weights: &[u32]) -> Split {
        let ends = weights.iter().scan(0, |end, weight| {
            *end += u64::from(*weight);
            Some(*end)
        });
        let by = match spec.map(|spec| (spec.policy.as_str(), spec)) {
            Some(("ipHash", _)) => SplitKey::Address,
            Some(("headerHash", spec)) => SplitKey::Header(spec.header_hash_key.clone()),
            Some(("cookieHash", spec)) => SplitKey::Cookie(spec.cookie_hash_key.clone()),
            _ => SplitKey::Random,
        };
        Split { by, ends: ends.collect() }
    }

    /// The pool for a request.
    pub fn choose(&self, request: &Request, client: &Client) -> usize {
        let named = match &self.by {
            SplitKey::Random | SplitKey::Address => None,
            SplitKey::Header(name) => request.headers.value(name),
            SplitKey::Cookie(name) => cookies(request, name).next(),
        };
        let hash = match (&self.by, named) {
            (SplitKey::Random, _) => random::next(),
            // Another hash than that of servers: who shares a pool does not share a server.
            (_, Some(value)) => spread64(SPLIT_SEED, value),
            (_, None) => spread64(SPLIT_SEED, client.real_ip_text().as_bytes()),
        };
        // The line is cut where the weights say: when one grows, only those move that stand where it grows.
        let whole = self.ends.last().copied().unwrap_or_default();
        let point = ((u128::from(hash) * u128::from(whole)) >> 64) as u64;
        self.ends.iter().position(|end| point < *end).unwrap_or_default()
    }
}

const SPLIT_SEED: u64 = 4;

/// Whether any value of the header matches; a header that is absent counts as one empty value.
pub fn matches_header(request: &Request, name: &str, matcher: &Matcher) -> bool {
    let mut present = false;
    for value in request.headers.values(name) {
        present = true;
        if std::str::from_utf8(value).is_ok_and(|text| matcher.matches(text)) {
            return true;
        }
    }
    !present && matcher.matches("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_user(user: usize) -> (Request, Client) {
        let mut request = Request::default();
        request.headers.add("Cookie", format!("a=b; uid=user-{user}; colour=green"));
        request.headers.add("X-User", format!("user-{user}"));
        let client =
            Client { real_ip: Some([10, 0, (user / 250) as u8, (user % 250) as u8].into()), ..Client::default() };
        (request, client)
    }

    fn matcher(text: &str) -> RequestMatcher {
        let document = base_model::yaml::parse_document(text).unwrap();
        RequestMatcher::new(&base_model::decode::<RequestMatcherSpec>(&document, "").unwrap().value).unwrap()
    }

    #[test]
    fn cookies_select_as_headers_do() {
        let (request, client) = of_user(7);
        for (text, wanted) in [
            ("{cookies: {colour: {exact: green}}}", true),
            ("{cookies: {colour: {exact: blue}}}", false),
            ("{cookies: {Colour: {exact: green}}}", false),
            ("{cookies: {none: {empty: true}}}", true),
            ("{headers: {X-User: {prefix: other}}, cookies: {uid: {prefix: user}}}", true),
            ("{headers: {X-User: {prefix: other}}, cookies: {uid: {prefix: user}}, matchAllHeaders: true}", false),
            ("{headers: {X-User: {prefix: user}}, cookies: {uid: {prefix: user}}, matchAllHeaders: true}", true),
            ("{cookies: {colour: {exact: green}}, urls: [{url: {exact: /other}}]}", false),
        ] {
            assert_eq!(matcher(text).matches(&request, &client), wanted, "{text}");
        }
    }

    #[test]
    fn a_share_of_users_grows_and_keeps_who_is_in() {
        let users: Vec<(Request, Client)> = (0..4000).map(of_user).collect();
        for policy in [
            "{policy: cookieHash, cookieHashKey: uid, permil: P}",
            "{policy: cookieHash, cookieHashKey: none, permil: P}",
        ] {
            let of = |permil: &str| {
                let matcher = matcher(&policy.replace('P', permil));
                users.iter().map(|(request, client)| matcher.matches(request, client)).collect::<Vec<bool>>()
            };
            let (tenth, third) = (of("100"), of("333"));
            assert_eq!(tenth, of("100"), "each time the same");
            let count = |of: &[bool]| of.iter().filter(|is_in| **is_in).count();
            assert!((250..550).contains(&count(&tenth)), "{policy}: {}", count(&tenth));
            assert!((1000..1700).contains(&count(&third)), "{policy}: {}", count(&third));
            assert!(tenth.iter().zip(&third).all(|(before, after)| !before || *after));
        }
    }

    #[test]
    fn pools_divide_requests_and_a_change_moves_few() {
        let users: Vec<(Request, Client)> = (0..4000).map(of_user).collect();
        for (policy, key) in
            [("random", ""), ("ipHash", ""), ("headerHash", "X-User"), ("cookieHash", "uid"), ("cookieHash", "none")]
        {
            let spec = SplitSpec {
                policy: policy.to_owned(),
                header_hash_key: key.to_owned(),
                cookie_hash_key: key.to_owned(),
            };
            let of = |weights: &[u32]| {
                let split = Split::new(Some(&spec), weights);
                users.iter().map(|(request, client)| split.choose(request, client)).collect::<Vec<usize>>()
            };
            let share = |of: &[usize], pool: usize| of.iter().filter(|chosen| **chosen == pool).count();
            let (before, after) = (of(&[90, 10]), of(&[8, 2]));
            assert!((300..500).contains(&share(&before, 1)), "{policy} {key}: {}", share(&before, 1));
            assert!((700..900).contains(&share(&after, 1)), "{policy} {key}: {}", share(&after, 1));
            assert_eq!(share(&of(&[0, 5]), 0) + share(&of(&[5, 0]), 1), 0, "promoted, and rolled back");
            if policy != "random" {
                assert!(
                    before.iter().zip(&after).all(|(old, new)| old == new || (*old, *new) == (0, 1)),
                    "{policy} {key}"
                );
            }
        }
    }
}
