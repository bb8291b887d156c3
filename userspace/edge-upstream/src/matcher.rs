//! Which requests a candidate or mirror pool takes (`filter` of a pool).

use crate::balance::fnv1_32;
use crate::random;
use base_model::{Matcher, RequestMatcherSpec, UrlMatcher};
use edge_pipeline::Client;
use proto_http::Request;

/// A ready request matcher.
#[derive(Debug)]
pub enum RequestMatcher {
    /// Headers, any or all of them, and when URL rules are given also one of those.
    General { headers: Vec<(String, Matcher)>, all_headers: bool, urls: Vec<UrlMatcher> },
    /// A share of the client addresses.
    IpHash { permil: u32 },
    /// A share of the values of a header.
    HeaderHash { key: String, permil: u32 },
    /// A share of the requests.
    Random { permil: u32 },
}

impl RequestMatcher {
    /// `spec` has passed its static checks; patterns that do not compile are reported as text.
    pub fn new(spec: &RequestMatcherSpec) -> Result<RequestMatcher, String> {
        Ok(match spec.policy.as_str() {
            "ipHash" => RequestMatcher::IpHash { permil: spec.permil },
            "headerHash" => RequestMatcher::HeaderHash { key: spec.header_hash_key.clone(), permil: spec.permil },
            "random" => RequestMatcher::Random { permil: spec.permil },
            _ => RequestMatcher::General {
                headers: spec
                    .headers
                    .iter()
                    .map(|(name, matcher)| Ok((name.clone(), matcher.compile()?)))
                    .collect::<Result<_, String>>()?,
                all_headers: spec.match_all_headers,
                urls: spec.urls.iter().map(|u| u.compile()).collect::<Result<_, String>>()?,
            },
        })
    }

    pub fn matches(&self, request: &Request, client: &Client) -> bool {
        match self {
            RequestMatcher::General { headers, all_headers, urls } => {
                let hit = |(name, matcher): &(String, Matcher)| matches_header(request, name, matcher);
                let by_headers =
                    headers.is_empty() || if *all_headers { headers.iter().all(hit) } else { headers.iter().any(hit) };
                by_headers
                    && (urls.is_empty()
                        || urls.iter().any(|u| u.matches(request.method.as_str(), request.path.as_str())))
            }
            RequestMatcher::IpHash { permil } => fnv1_32(client.real_ip_text().as_bytes()) % 1000 < *permil,
            RequestMatcher::HeaderHash { key, permil } => {
                fnv1_32(request.headers.value(key).unwrap_or_default()) % 1000 < *permil
            }
            RequestMatcher::Random { permil } => random::below(1000) < u64::from(*permil),
        }
    }
}

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
