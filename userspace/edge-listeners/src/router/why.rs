//! Why a request took the route it took and none of the others, for people. It is asked after the fact, of few requests, and looks at
//! no more than [`LOOKED_AT_MOST`] routes.

use super::{Host, KeyMatch, Route, Router, Rule};
use base_text::quoted;
use proto_http::Request;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;

/// Routes looked at for one explanation: a refusal must not cost what a hundred thousand comparisons do.
pub const LOOKED_AT_MOST: usize = 512;

/// Rows shown, those first that came closest.
const SHOWN_MOST: usize = 32;

/// Values listed in one reason.
const VALUES_MOST: usize = 8;

/// What became of the search.
#[derive(Debug, Clone, Default)]
pub struct Why {
    /// Rule, path, condition and pipeline of the route that took the request.
    pub taken: Option<(usize, usize, String, Arc<str>)>,
    /// Those that did not, and why: those first that failed last.
    pub others: Vec<Other>,
    /// Others that are not shown, and routes that were not looked at.
    pub more: usize,
}

/// A rule or route that did not take a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    pub rule: usize,
    /// `None`: the whole rule.
    pub path: Option<usize>,
    pub why: String,
    /// How far the request came: the host, the path, the rest.
    far: u8,
}

impl Why {
    pub fn to_json(&self) -> Value {
        let taken = self.taken.as_ref().map(
            |(rule, path, by, pipeline)| json!({"rule": rule, "path": path, "matched": by, "pipeline": &**pipeline}),
        );
        let other = |other: &Other| json!({"rule": other.rule, "path": other.path, "why": other.why});
        json!({
            "taken": taken,
            "others": self.others.iter().map(other).collect::<Vec<_>>(),
            "notShown": self.more,
        })
    }

    fn shorten(&mut self) {
        self.others.sort_by_key(|other| std::cmp::Reverse(other.far));
        self.more += self.others.len().saturating_sub(SHOWN_MOST);
        self.others.truncate(SHOWN_MOST);
    }
}

impl Router {
    /// Searches as [`route`](Router::route) does, and takes notes.
    pub fn why(&self, request: &Request, client: Option<IpAddr>) -> Why {
        let mut why = Why::default();
        let mut left = LOOKED_AT_MOST;
        let kept_out = |whose: &str| {
            let client = client.map_or_else(|| "unknown".to_owned(), |ip| ip.to_canonical().to_string());
            format!("{whose} ipFilter keeps the client {client} out")
        };
        if self.ip_filter.as_ref().is_some_and(|filter| !filter.allows(client)) {
            why.others.push(Other { rule: 0, path: None, why: kept_out("the server's"), far: 0 });
            return why;
        }
        for (at, rule) in self.rules.iter().enumerate() {
            if left == 0 {
                why.more += rule.routes.len();
                continue;
            }
            left -= 1;
            let mut no = |path, far, text| why.others.push(Other { rule: at, path, why: text, far });
            if !rule.matches_host(request) {
                no(None, 0, format!("host {} is none of {}", quoted(request.host()), rule.hosts()));
                continue;
            }
            if rule.ip_filter.as_ref().is_some_and(|filter| !filter.allows(client)) {
                no(None, 1, kept_out("the rule's"));
                continue;
            }
            // What a tree says of the path: those it leads to, in its order, until one takes the request.
            let mut led = Vec::new();
            let by_tree = rule.tree.as_ref().map(|tree| {
                let mut takes = |route: usize| {
                    led.push(route);
                    rule.routes[route].objection(request, client, &kept_out).is_none()
                };
                tree.find(request.path.as_str(), &mut takes).map(|(route, _)| route)
            });
            for (index, route) in rule.routes.iter().enumerate() {
                if left == 0 {
                    why.more += rule.routes.len() - index;
                    break;
                }
                left -= 1;
                let fits = match by_tree {
                    Some(_) => led.contains(&index),
                    None => route.matches_path(request.path.as_str()).is_some(),
                };
                if !fits {
                    no(Some(index), 1, format!("path {} {}", quoted(request.path.as_str()), route.unfit()));
                } else if let Some(text) = route.objection(request, client, &kept_out) {
                    no(Some(index), 2, text);
                } else if by_tree.is_none_or(|taken| taken == Some(index)) {
                    why.taken = Some((at, index, route.condition(), route.pipeline.name().clone()));
                    why.shorten();
                    return why;
                }
            }
        }
        why.shorten();
        why
    }
}

impl Rule {
    fn hosts(&self) -> String {
        listed(self.hosts.iter().map(|host| match host {
            Host::Exact(text) => text.to_string(),
            Host::Suffix(text) => format!("*{text}"),
            Host::Prefix(text) => format!("{text}*"),
            Host::Pattern(regex) => format!("/{}/", regex.as_str()),
        }))
    }
}

impl Route {
    /// Its condition on the path, as it was written.
    fn condition(&self) -> String {
        match (&self.exact, &self.prefix, self.pattern()) {
            (Some(exact), _, _) => format!("path {exact}"),
            (None, Some(prefix), _) => format!("pathPrefix {prefix}"),
            (None, None, Some(pattern)) => format!("pathRegexp {}", pattern.as_str()),
            (None, None, None) => "any path".to_owned(),
        }
    }

    fn unfit(&self) -> String {
        let exact = self.exact.as_ref().map(|text| format!("is not {text}"));
        let prefix = self.prefix.as_ref().map(|text| format!("does not begin with {text}"));
        let pattern = self.pattern().map(|regex| format!("does not match {}", regex.as_str()));
        [exact, prefix, pattern].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// Why it does not take a request whose path fits.
    fn objection(
        &self,
        request: &Request,
        client: Option<IpAddr>,
        kept_out: &dyn Fn(&str) -> String,
    ) -> Option<String> {
        let (method, further) = (request.method.as_str(), self.further.as_ref()?);
        if !self.matches_method(method) {
            return Some(format!("method {method} is none of {}", listed(further.methods.iter().cloned())));
        }
        if !self.matches_headers(request) {
            let value = |key: &str| request.headers.text(key).is_some();
            return Some(unmet("header", &further.headers, further.all_headers, value));
        }
        if !self.matches_queries(request) {
            let query = request.query.as_deref().unwrap_or("");
            let value = |key: &str| super::query_value(query, key).is_some();
            return Some(unmet("query parameter", &further.queries, further.all_queries, value));
        }
        let allowed = further.ip_filter.as_ref().is_none_or(|filter| filter.allows(client));
        (!allowed).then(|| kept_out("the path's"))
    }
}

/// Values of the request are not shown: they may be credentials.
fn unmet(what: &str, wanted: &[KeyMatch], all: bool, is_there: impl Fn(&str) -> bool) -> String {
    let of = |key: &KeyMatch| {
        let values = key.values.iter().cloned().chain(key.pattern.iter().map(|regex| format!("/{}/", regex.as_str())));
        let state = if is_there(&key.key) { "has another value than" } else { "is absent; wanted" };
        format!("{what} {} {state} {}", key.key, listed(values))
    };
    let unmet: Vec<String> = wanted.iter().take(VALUES_MOST).map(of).collect();
    if wanted.len() == 1 {
        return unmet.concat();
    }
    format!("{} of these holds: {}", if all { "not each" } else { "none" }, unmet.join("; "))
}

fn listed(values: impl Iterator<Item = String>) -> String {
    let mut values: Vec<String> = values.collect();
    let more = values.len().saturating_sub(VALUES_MOST);
    values.truncate(VALUES_MOST);
    let text = values.join(", ");
    if more > 0 { format!("{text} and {more} more") } else { text }
}

#[cfg(test)]
mod tests {
    use crate::router::tests::{request, router};

    /// The route taken, then the reasons of the others.
    fn told(rules: &str, text: &str) -> (Option<String>, Vec<String>) {
        let (request, client) = request(text);
        let why = router(rules).why(&request, Some(client));
        let taken = why.taken.map(|(rule, path, by, pipeline)| format!("{rule}.{path} {by} {pipeline}"));
        let other = |other: &super::Other| {
            let path = other.path.map_or_else(String::new, |path| format!(".{path}"));
            format!("{}{path}: {}", other.rule, other.why)
        };
        (taken, why.others.iter().map(other).collect())
    }

    #[test]
    fn each_reason_has_its_words_and_the_closest_comes_first() {
        let rules = "ipFilter: {blockIPs: [198.51.100.9]}
rules: [
          {host: www.test, paths: [{path: /x, backend: a}]},
          {hosts: [{value: '*.shop.test'}, {isRegexp: true, value: '^s[0-9]$'}], paths: [{backend: b}]},
          {ipFilter: {blockIPs: [192.0.2.9]}, paths: [
            {path: /one, backend: c}, {pathPrefix: /two, methods: [PUT, POST], backend: d},
            {pathRegexp: '^/t', headers: [{key: X-A, values: [v, w]}], backend: e},
            {pathPrefix: /two, queries: [{key: q, regexp: '^1$'}], backend: f},
            {pathPrefix: /two, ipFilter: {blockIPs: [192.0.2.8]}, backend: g}]}]";
        let (taken, others) = told(rules, "GET a/two?q=2 192.0.2.1|X-A: secret");
        assert_eq!(taken.as_deref(), Some("2.4 pathPrefix /two g"));
        let wanted = [
            "2.1: method GET is none of PUT, POST",
            "2.2: header X-A has another value than v, w",
            "2.3: query parameter q has another value than /^1$/",
            "2.0: path \"/two\" is not /one",
            "0: host \"a\" is none of www.test",
            "1: host \"a\" is none of *.shop.test, /^s[0-9]$/",
        ];
        assert_eq!(others, wanted);
        let (taken, others) = told(rules, "GET a/two 192.0.2.8");
        assert_eq!(taken, None);
        assert!(others.contains(&"2.2: header X-A is absent; wanted v, w".to_owned()), "{others:?}");
        assert!(others.contains(&"2.4: the path's ipFilter keeps the client 192.0.2.8 out".to_owned()), "{others:?}");
        let (_, others) = told(rules, "GET a/two 192.0.2.9");
        assert!(others.contains(&"2: the rule's ipFilter keeps the client 192.0.2.9 out".to_owned()), "{others:?}");
        let (_, others) = told(rules, "GET a/ 198.51.100.9");
        assert_eq!(others, ["0: the server's ipFilter keeps the client 198.51.100.9 out"]);
    }

    #[test]
    fn a_tree_and_a_list_are_told_alike() {
        let rules = "routerKind: RadixTree
rules: [{paths: [
            {path: '/a/{id}', methods: [PUT], backend: put}, {path: '/a/*', backend: any}, {path: /b, backend: b}]}]";
        let (taken, others) = told(rules, "GET h/a/7");
        assert_eq!(taken.as_deref(), Some("0.1 path /a/* any"));
        assert_eq!(others, ["0.0: method GET is none of PUT"]);
        let (taken, others) = told(rules, "GET h/c");
        assert_eq!((taken, others.len()), (None, 3));
    }

    #[test]
    fn so_many_routes_are_not_looked_at() {
        let paths: Vec<String> = (0..2_000).map(|n| format!("{{path: /{n}, backend: x}}")).collect();
        let (request, client) = request("GET h/nowhere");
        let why = router(&format!("rules: [{{paths: [{}]}}]", paths.join(","))).why(&request, Some(client));
        assert_eq!(why.taken, None);
        assert_eq!((why.others.len(), why.more), (super::SHOWN_MOST, 2_000 - super::SHOWN_MOST));
    }
}
