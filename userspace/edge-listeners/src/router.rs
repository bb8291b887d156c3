//! Which route a request takes: hosts, then paths, in order (`Ordered`) or by the tree of [`radix`] (`RadixTree`).
//!
//! Search: the server's IP filter (403); each rule whose host matches and whose IP filter lets the client in; each of
//! its paths in order. The first path for which everything holds wins. When none does, the answer says what came
//! closest: 403 if an IP filter said no, else 400 if a header or query did, else 405 if a method did, else 404.
//!
//! Rules that a controller makes come one by one beside the document ([`made`]): of ten thousand hosts one that changes is compiled, and
//! the next router shares the others with the one before.

use crate::radix::{self, Captures, Tree};
use crate::traffic::PipelineSlot;
use crate::variables::VariableText;
use base_model::{HttpServerSpec, IpFilter, PathSpec, RouterKind, RuleSpec, namespaces};
use made::MadeRules;
use proto_http::Request;
use proto_http::path::PathError;
use regex::Regex;
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

pub use made::MadeRule;
pub use why::Why;

pub mod made;
mod why;

/// Everything a server's rules say, compiled.
#[derive(Debug)]
pub struct Router {
    kind: RouterKind,
    ip_filter: Option<IpFilter>,
    /// Of the document, and then those that a controller made.
    rules: Vec<Arc<Rule>>,
    /// So many are of the document.
    own: usize,
    /// Where there are many.
    hosts: Option<Hosts>,
    /// Some of it goes by who a client is.
    by_address: bool,
}

/// Rules by the hosts that they name, in their order: of ten thousand hosts one is looked up, and not compared with the others.
#[derive(Debug, Default)]
struct Hosts {
    /// In lower case.
    exact: HashMap<Arc<str>, Places>,
    /// Those with patterns, and those for every host.
    others: Vec<u32>,
}

/// Compiled, and in as many routers as it is as it was.
#[derive(Debug)]
struct Rule {
    ip_filter: Option<IpFilter>,
    hosts: Vec<Host>,
    routes: Vec<Route>,
    /// Paths of the routes by index, when they are looked up in a tree and not one after another.
    tree: Option<Tree>,
    /// Where there are many and no tree.
    paths: Option<Paths>,
}

/// A host pattern, in lower case where it is text.
#[derive(Debug)]
enum Host {
    Exact(Arc<str>),
    /// `*.example.com`: ends with the text.
    Suffix(String),
    /// `www.example.*`: begins with the text.
    Prefix(String),
    Pattern(Regex),
}

/// One path entry. There may be a hundred thousand, most of them with a path and a pipeline and nothing else.
#[derive(Debug)]
pub struct Route {
    exact: Option<Arc<str>>,
    prefix: Option<Arc<str>>,
    /// What few have.
    further: Option<Box<Further>>,
    /// Where the pipeline of this name is, or will be.
    pub pipeline: Arc<PipelineSlot>,
    /// Largest request body in bytes: as `clientMaxBodySize` of the document, 0 = the server's.
    pub max_body: i64,
    /// It is written for what lies below `/.well-known/`, and not for everything.
    pub well_known: bool,
}

/// Conditions beside the path's texts, and changes of the request.
#[derive(Debug)]
struct Further {
    ip_filter: Option<IpFilter>,
    pattern: Option<Regex>,
    methods: Vec<String>,
    headers: Vec<KeyMatch>,
    all_headers: bool,
    queries: Vec<KeyMatch>,
    all_queries: bool,
    rewrite: Option<String>,
    set_headers: Vec<(String, VariableText)>,
}

/// A condition on the first value of a header or query key.
#[derive(Debug)]
struct KeyMatch {
    key: String,
    values: Vec<String>,
    pattern: Option<Regex>,
}

/// How the path of a route matched: what a rewrite replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matched {
    Any,
    Exact,
    Prefix,
    Pattern,
    /// By the tree, with these parameters.
    Captured(Captures),
}

impl Router {
    /// `spec` has passed its static checks, so that patterns compile. `server` is the key of the server, whose pipelines are those of its
    /// namespace, and names those made for `backendPool`s; `slot` gives the place of a pipeline by its key. `made` are the rules that a
    /// controller has made for it, which come after those of the document.
    pub fn new(
        server: &str,
        spec: &HttpServerSpec,
        made: &MadeRules,
        slot: &dyn Fn(&str) -> Arc<PipelineSlot>,
    ) -> Result<Router, String> {
        let backend = |name: &str| slot(&namespaces::beside(server, name));
        let own = spec.rules.iter().enumerate().map(|(index, rule)| {
            let generated = |path| slot(&generated_pipeline(server, index, path));
            Rule::new(rule, spec.router_kind, &generated, &backend).map(Arc::new)
        });
        let rules = own.collect::<Result<Vec<Arc<Rule>>, String>>()?;
        let ip_filter = spec.ip_filter.as_ref().map(|f| f.compile());
        let bare =
            Router { kind: spec.router_kind, ip_filter, own: rules.len(), rules, hosts: None, by_address: false };
        bare.with_made(server, made, slot)
    }

    /// The same with these rules in the place of those that were made for it.
    pub fn with_made(
        &self,
        server: &str,
        made: &MadeRules,
        slot: &dyn Fn(&str) -> Arc<PipelineSlot>,
    ) -> Result<Router, String> {
        let backend = |name: &str| slot(&namespaces::beside(server, name));
        let mut rules = Vec::with_capacity(self.own + made.len());
        rules.extend_from_slice(&self.rules[..self.own]);
        for made in made.values() {
            rules.push(made.rule(self.kind, &backend)?);
        }
        let hosts = Hosts::of(&rules);
        let by_address = self.ip_filter.is_some() || rules.iter().any(|rule| rule.goes_by_address());
        Ok(Router { kind: self.kind, ip_filter: self.ip_filter.clone(), rules, own: self.own, hosts, by_address })
    }

    pub fn kind(&self) -> RouterKind {
        self.kind
    }

    /// Whether any of it goes by the addresses of clients.
    pub fn goes_by_address(&self) -> bool {
        self.by_address
    }

    /// Places of the pipelines that its routes lead to, each as often as routes do.
    pub fn pipelines(&self) -> impl Iterator<Item = &Arc<PipelineSlot>> {
        self.rules.iter().flat_map(|rule| rule.routes.iter().map(|route| &route.pipeline))
    }

    /// The route, or the status to refuse with.
    pub fn route(&self, request: &Request, client: Option<IpAddr>) -> Result<(&Route, Matched), u16> {
        let allowed = |filter: &Option<IpFilter>| filter.as_ref().is_none_or(|f| f.allows(client));
        if !allowed(&self.ip_filter) {
            return Err(403);
        }
        let (mut denied, mut mismatch, mut method) = (false, false, false);
        let path = request.path.as_str();
        let mut every = 0..self.rules.len();
        let mut some = self.hosts.as_ref().map(|hosts| hosts.rules(request.host()));
        let mut next = || match &mut some {
            Some(some) => some.next(),
            None => every.next(),
        };
        while let Some(rule) = next().map(|index| &self.rules[index]) {
            if !rule.matches_host(request) {
                continue;
            }
            if !allowed(&rule.ip_filter) {
                denied = true;
                continue;
            }
            // The path has matched: does everything else?
            let mut takes = |route: &Route| {
                if !route.matches_method(request.method.as_str()) {
                    method = true;
                } else if !route.matches_headers(request) || !route.matches_queries(request) {
                    mismatch = true;
                } else if route.ip_filter().is_some_and(|filter| !filter.allows(client)) {
                    denied = true;
                } else {
                    return true;
                }
                false
            };
            let mut fits = |route| {
                let route: &Route = route;
                let matched = route.matches_path(path)?;
                takes(route).then_some((route, matched))
            };
            let found = match (&rule.tree, rule.paths.as_ref().map(|paths| paths.of(path))) {
                (Some(tree), _) => tree
                    .find(path, &mut |route| takes(&rule.routes[route]))
                    .map(|(route, captures)| (&rule.routes[route], Matched::Captured(captures))),
                (None, Some(Some(mut some))) => some.find_map(|route| fits(&rule.routes[route])),
                (None, _) => rule.routes.iter().find_map(fits),
            };
            if let Some(found) = found {
                return Ok(found);
            }
        }
        Err(match (denied, mismatch, method) {
            (true, _, _) => 403,
            (_, true, _) => 400,
            (_, _, true) => 405,
            _ => 404,
        })
    }
}

impl Hosts {
    /// Nothing where there are few rules: they are looked at sooner than a host is hashed.
    fn of(rules: &[Arc<Rule>]) -> Option<Hosts> {
        if rules.len() < RULES_LISTED || u32::try_from(rules.len()).is_err() {
            return None;
        }
        let mut listed = Hosts { exact: HashMap::with_capacity(rules.len()), others: Vec::new() };
        for (index, rule) in rules.iter().enumerate() {
            let index = index as u32;
            if rule.hosts.is_empty() || !rule.hosts.iter().all(|host| matches!(host, Host::Exact(_))) {
                listed.others.push(index);
                continue;
            }
            for host in &rule.hosts {
                let Host::Exact(host) = host else { continue };
                match listed.exact.entry(host.clone()) {
                    Entry::Occupied(there) if there.get().as_slice().last() == Some(&index) => {}
                    Entry::Occupied(mut there) => there.get_mut().add(index),
                    Entry::Vacant(free) => drop(free.insert(Places::One(index))),
                }
            }
        }
        Some(listed)
    }

    /// Rules that may be for this host, in their order.
    fn rules<'h>(&'h self, host: &str) -> impl Iterator<Item = usize> + use<'h> {
        let found = match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => self.exact.get(host.to_ascii_lowercase().as_str()),
            false => self.exact.get(host),
        };
        let (mut exact, mut others) = (found.map(Places::as_slice).unwrap_or_default(), self.others.as_slice());
        std::iter::from_fn(move || {
            let list = match (exact.first(), others.first()) {
                (Some(one), Some(other)) if one > other => &mut others,
                (Some(_), _) => &mut exact,
                _ => &mut others,
            };
            let (first, rest) = list.split_first()?;
            *list = rest;
            Some(*first as usize)
        })
    }
}

/// So many rules are looked at one after another.
const RULES_LISTED: usize = 16;

/// Routes by the texts of their paths, in their order: of a hundred thousand a few are looked up, and the request is not compared with the
/// others.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Arc<str>, Places>,
    prefixes: HashMap<Arc<str>, Places>,
    /// Lengths that prefixes have, in bytes, each once.
    lengths: Vec<usize>,
    /// Those with an expression, and those for every path.
    others: Vec<u32>,
}

/// Where routes with one text stand, or rules with one host; mostly it is one.
#[derive(Debug)]
enum Places {
    One(u32),
    Many(Vec<u32>),
}

impl Places {
    fn add(&mut self, place: u32) {
        match self {
            Places::One(first) => *self = Places::Many(vec![*first, place]),
            Places::Many(places) => places.push(place),
        }
    }

    fn as_slice(&self) -> &[u32] {
        match self {
            Places::One(place) => std::slice::from_ref(place),
            Places::Many(places) => places,
        }
    }
}

impl Paths {
    /// Nothing where there are few, and where prefixes have so many lengths that trying each of them would take longer.
    fn of_routes(routes: &[Route]) -> Option<Paths> {
        if routes.len() < ROUTES_LISTED || u32::try_from(routes.len()).is_err() {
            return None;
        }
        let mut listed = Paths::default();
        for (place, route) in routes.iter().enumerate() {
            let place = place as u32;
            for (text, places) in [(&route.exact, &mut listed.exact), (&route.prefix, &mut listed.prefixes)] {
                if let Some(text) = text {
                    match places.entry(text.clone()) {
                        Entry::Occupied(mut there) => there.get_mut().add(place),
                        Entry::Vacant(free) => drop(free.insert(Places::One(place))),
                    }
                }
            }
            if route.pattern().is_some() || route.exact.is_none() && route.prefix.is_none() {
                listed.others.push(place);
            }
        }
        listed.lengths = listed.prefixes.keys().map(|prefix| prefix.len()).collect();
        listed.lengths.sort_unstable();
        listed.lengths.dedup();
        (listed.lengths.len() < routes.len() / 4).then_some(listed)
    }

    /// Routes that may be for this path, in their order. `None`: so many prefixes of it are known that all routes have to be gone through.
    fn of<'p>(&'p self, path: &str) -> Option<impl Iterator<Item = usize> + use<'p>> {
        let mut lists: [&[u32]; LISTS_MOST] = [&[]; LISTS_MOST];
        lists[0] = &self.others;
        lists[1] = self.exact.get(path).map(Places::as_slice).unwrap_or_default();
        let mut count = 2;
        for length in self.lengths.iter().take_while(|length| **length <= path.len()) {
            let known = path.get(..*length).and_then(|start| self.prefixes.get(start));
            if let Some(places) = known {
                *lists.get_mut(count)? = places.as_slice();
                count += 1;
            }
        }
        Some(std::iter::from_fn(move || {
            let lists = &mut lists[..count];
            let next = lists.iter().filter_map(|list| list.first().copied()).min()?;
            // One that has several texts stands in several lists.
            for list in lists.iter_mut().filter(|list| list.first() == Some(&next)) {
                *list = &list[1..];
            }
            Some(next as usize)
        }))
    }
}

/// So many routes are compared one after another.
const ROUTES_LISTED: usize = 32;

/// Lists that are gone through together, those of prefixes in prefixes among them.
const LISTS_MOST: usize = 10;

/// Key of the pipeline generated for the `backendPool` of a path of the server of this key.
pub fn generated_pipeline(server: &str, rule: usize, path: usize) -> String {
    let (namespace, name) = namespaces::split(server);
    namespaces::key(namespace, &namespaces::generated_pipeline(name, rule, path))
}

#[cfg(test)]
thread_local! {
    /// Rules that were compiled: what a change of one of many costs.
    pub(crate) static COMPILED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl Rule {
    fn goes_by_address(&self) -> bool {
        self.ip_filter.is_some() || self.routes.iter().any(|route| route.ip_filter().is_some())
    }

    fn new(
        spec: &RuleSpec,
        kind: RouterKind,
        generated: &dyn Fn(usize) -> Arc<PipelineSlot>,
        slot: &dyn Fn(&str) -> Arc<PipelineSlot>,
    ) -> Result<Rule, String> {
        #[cfg(test)]
        COMPILED.with(|compiled| compiled.set(compiled.get() + 1));
        let mut hosts = Vec::new();
        if !spec.host.is_empty() {
            hosts.push(Host::new(&spec.host));
        }
        if !spec.host_regexp.is_empty() {
            hosts.push(Host::Pattern(pattern(&spec.host_regexp)?));
        }
        for host in &spec.hosts {
            hosts.push(if host.is_regexp { Host::Pattern(pattern(&host.value)?) } else { Host::new(&host.value) });
        }
        let tree = (kind == RouterKind::RadixTree).then(|| {
            let mut tree = Tree::default();
            for (route, path) in spec.paths.iter().enumerate() {
                match path.path.as_str() {
                    // The tree looks at `path` only. Without any condition on the path, every one will do.
                    "" if path.path_prefix.is_empty() && path.path_regexp.is_empty() => tree.insert("*", route)?,
                    "" => {}
                    text if text.contains(['{', '*']) => tree.insert(text, route)?,
                    text => tree.insert(proto_http::path::Path::from_text(text).as_str(), route)?,
                }
            }
            Ok::<Tree, String>(tree)
        });
        let made = spec.paths.iter().enumerate().map(|(index, path)| {
            let pipeline = if path.backend.is_empty() { generated(index) } else { slot(&path.backend) };
            Route::new(path, pipeline)
        });
        let mut routes = Vec::with_capacity(spec.paths.len());
        for route in made {
            routes.push(route?);
        }
        let tree = tree.transpose()?;
        Ok(Rule {
            paths: if tree.is_none() { Paths::of_routes(&routes) } else { None },
            tree,
            ip_filter: spec.ip_filter.as_ref().map(|f| f.compile()),
            hosts,
            routes,
        })
    }

    fn matches_host(&self, request: &Request) -> bool {
        if self.hosts.is_empty() {
            return true;
        }
        let host = request.host();
        self.hosts.iter().any(|h| h.matches(host))
    }
}

impl Host {
    fn new(text: &str) -> Host {
        let text = text.to_ascii_lowercase();
        if let Some(rest) = text.strip_prefix('*') {
            Host::Suffix(rest.to_owned())
        } else if let Some(rest) = text.strip_suffix('*') {
            Host::Prefix(rest.to_owned())
        } else {
            Host::Exact(text.into())
        }
    }

    fn matches(&self, host: &str) -> bool {
        let (bytes, lower) = (host.as_bytes(), str::as_bytes);
        match self {
            Host::Exact(text) => host.eq_ignore_ascii_case(text),
            Host::Suffix(text) => {
                bytes.len() >= text.len() && bytes[bytes.len() - text.len()..].eq_ignore_ascii_case(lower(text))
            }
            Host::Prefix(text) => bytes.len() >= text.len() && bytes[..text.len()].eq_ignore_ascii_case(lower(text)),
            Host::Pattern(regex) => regex.is_match(host),
        }
    }
}

impl Route {
    fn new(spec: &PathSpec, pipeline: Arc<PipelineSlot>) -> Result<Route, String> {
        let text = |t: &String| (!t.is_empty()).then(|| t.clone());
        let canonical = |t: String| Arc::<str>::from(proto_http::path::Path::from_text(&t).as_str());
        let headers = spec.headers.iter().map(|h| KeyMatch::new(&h.key, &h.values, &h.regexp));
        let queries = spec.queries.iter().map(|q| KeyMatch::new(&q.key, &q.values, &q.regexp));
        let further = Further {
            ip_filter: spec.ip_filter.as_ref().map(|f| f.compile()),
            pattern: text(&spec.path_regexp).map(|p| pattern(&p)).transpose()?,
            methods: spec.methods.clone(),
            headers: headers.collect::<Result<_, _>>()?,
            all_headers: spec.match_all_header,
            queries: queries.collect::<Result<_, _>>()?,
            all_queries: spec.match_all_query,
            rewrite: text(&spec.rewrite_target),
            set_headers: spec.set_headers.iter().map(|(k, v)| (k.clone(), VariableText::parse(v))).collect(),
        };
        Ok(Route {
            exact: text(&spec.path).map(canonical),
            prefix: text(&spec.path_prefix).map(canonical),
            further: (!further.is_empty()).then(|| Box::new(further)),
            well_known: [&spec.path, &spec.path_prefix, &spec.path_regexp]
                .iter()
                .any(|text| text.contains("well-known")),
            pipeline,
            max_body: spec.client_max_body_size,
        })
    }

    /// Request headers to set (or, with an empty text, to remove) before the pipeline.
    pub fn set_headers(&self) -> &[(String, VariableText)] {
        self.further.as_ref().map(|further| &further.set_headers[..]).unwrap_or_default()
    }

    fn ip_filter(&self) -> Option<&IpFilter> {
        self.further.as_ref()?.ip_filter.as_ref()
    }

    fn pattern(&self) -> Option<&Regex> {
        self.further.as_ref()?.pattern.as_ref()
    }

    fn matches_path(&self, path: &str) -> Option<Matched> {
        if self.exact.is_none() && self.prefix.is_none() && self.pattern().is_none() {
            return Some(Matched::Any);
        }
        if self.exact.as_deref() == Some(path) {
            return Some(Matched::Exact);
        }
        if self.prefix.as_deref().is_some_and(|p| path.starts_with(p)) {
            return Some(Matched::Prefix);
        }
        self.pattern().is_some_and(|p| p.is_match(path)).then_some(Matched::Pattern)
    }

    fn matches_method(&self, method: &str) -> bool {
        let all = |further: &Further| further.methods.is_empty() || further.methods.iter().any(|m| m == method);
        self.further.as_deref().is_none_or(all)
    }

    fn matches_headers(&self, request: &Request) -> bool {
        let value = |key: &str| request.headers.text(key).map(Cow::Borrowed);
        self.further.as_deref().is_none_or(|further| holds(&further.headers, further.all_headers, value))
    }

    fn matches_queries(&self, request: &Request) -> bool {
        let value = |key: &str| query_value(request.query.as_deref().unwrap_or(""), key);
        self.further.as_deref().is_none_or(|further| holds(&further.queries, further.all_queries, value))
    }

    /// The prefix the route was written with.
    pub fn prefix(&self) -> Option<&Arc<str>> {
        self.prefix.as_ref()
    }

    /// Rewrites the path by `rewriteTarget`, according to what matched. What may not be a path is refused, and the path stays.
    pub fn rewrite(&self, request: &mut Request, matched: &Matched) -> Result<(), PathError> {
        let Some(target) = self.further.as_ref().and_then(|further| further.rewrite.as_ref()) else { return Ok(()) };
        let path = request.path.as_str();
        let rewritten = match matched {
            Matched::Any => return Ok(()),
            Matched::Exact => target.clone(),
            Matched::Captured(captures) => radix::expand(target, captures),
            Matched::Prefix => format!("{target}{}", &path[self.prefix.as_ref().map_or(0, |p| p.len())..]),
            Matched::Pattern => match self.pattern() {
                Some(pattern) => pattern.replace_all(path, target.as_str()).into_owned(),
                None => return Ok(()),
            },
        };
        request.path.rewrite(&rewritten)
    }
}

impl Further {
    fn is_empty(&self) -> bool {
        self.ip_filter.is_none()
            && self.pattern.is_none()
            && self.methods.is_empty()
            && self.headers.is_empty()
            && self.queries.is_empty()
            && self.rewrite.is_none()
            && self.set_headers.is_empty()
    }
}

impl KeyMatch {
    fn new(key: &str, values: &[String], regexp: &str) -> Result<KeyMatch, String> {
        let pattern = (!regexp.is_empty()).then(|| pattern(regexp)).transpose()?;
        Ok(KeyMatch { key: key.to_owned(), values: values.to_vec(), pattern })
    }
}

/// Any: one condition suffices, by value or by pattern. All: each must hold, with value and pattern where both are given.
fn holds<'a>(conditions: &[KeyMatch], all: bool, value: impl Fn(&str) -> Option<Cow<'a, str>>) -> bool {
    if conditions.is_empty() {
        return true;
    }
    let check = |c: &KeyMatch| {
        let value = value(&c.key).unwrap_or_default();
        let listed = c.values.iter().any(|listed| *listed == value);
        let fits = |p: &Regex| p.is_match(&value);
        if all {
            (c.values.is_empty() || listed) && c.pattern.as_ref().is_none_or(fits)
        } else {
            listed || c.pattern.as_ref().is_some_and(fits)
        }
    };
    if all { conditions.iter().all(check) } else { conditions.iter().any(check) }
}

fn pattern(text: &str) -> Result<Regex, String> {
    base_model::regexp::compile(text)
}

/// The first value of a query key, decoded.
pub fn query_value<'a>(query: &'a str, key: &str) -> Option<Cow<'a, str>> {
    query.split('&').find_map(|pair| {
        let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
        (decode_query(k) == key).then(|| decode_query(v))
    })
}

/// `+` and percent escapes of a query component; what is not a valid escape stays as it is.
fn decode_query(text: &str) -> Cow<'_, str> {
    if !text.contains(['+', '%']) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |i: usize| bytes.get(i).and_then(|b| (*b as char).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'+', _, _) => out.push(b' '),
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 2;
            }
            (byte, _, _) => out.push(byte),
        }
        at += 1;
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto_http::Method;

    pub(super) fn router(rules: &str) -> Router {
        let text = format!("port: 1\n{rules}");
        let value = base_model::yaml::parse_document(&text).unwrap();
        let spec = base_model::decode::<HttpServerSpec>(&value, "").unwrap().value;
        let mut findings = base_model::Findings::default();
        spec.validate("", &mut findings);
        assert!(findings.problems.is_empty(), "{:?}", findings.problems);
        Router::new("web", &spec, &MadeRules::default(), &|name| PipelineSlot::empty(name)).unwrap()
    }

    /// `GET host/path?query` with fields after it, a line each; `from ADDRESS` says who asks.
    pub(super) fn request(text: &str) -> (Request, IpAddr) {
        let mut lines = text.split('|');
        let mut words = lines.next().unwrap().split(' ');
        let (method, url) = (words.next().unwrap(), words.next().unwrap());
        let client = words.next().unwrap_or("192.0.2.1").parse().unwrap();
        let (host, target) = url.split_at(url.find('/').unwrap());
        let method = Method::parse(method.as_bytes()).unwrap();
        let mut request = Request { method, authority: host.to_owned(), ..Request::default() };
        request.set_target(target.as_bytes()).unwrap();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            request.headers.add(name, value);
        }
        (request, client)
    }

    /// Many routes are looked up and few compared one after another: the same one is found.
    #[test]
    fn many_routes_lead_where_few_do() {
        let few = "{path: /a, backend: a}, {pathPrefix: /a/, methods: [GET], backend: get}, {pathPrefix: /a/b, backend: ab}, \
                   {path: /a/b/c, backend: late}, {pathRegexp: '^/r[0-9]$', backend: r}, {path: /x, pathPrefix: /y, pathRegexp: '^/z$', backend: xyz}, \
                   {pathPrefix: /a/b/c/d/e, backend: deep}, {pathPrefix: /ü, backend: u}, {path: /a, headers: [{key: X-A, values: [b]}], backend: twice}, \
                   {path: /h, headers: [{key: X-A, values: [b]}], backend: h}, {path: /h, backend: h2}";
        let mut more = String::new();
        for n in 0..ROUTES_LISTED * 4 {
            more.push_str(&format!(
                ", {{path: /more/{n:03}, backend: m{n}}}, {{pathPrefix: /pre/{n:03}/, backend: p{n}}}"
            ));
        }
        let nested: String =
            (1..=12).map(|n| format!(", {{pathPrefix: {}, methods: [PUT], backend: n{n}}}", "/n".repeat(n))).collect();
        let short = router(&format!("rules: [{{paths: [{few}]}}]"));
        let long = router(&format!("rules: [{{paths: [{few}{nested}{more}]}}]"));
        assert!(short.rules[0].paths.is_none() && long.rules[0].paths.is_some());
        let name = |found: Result<(&Route, Matched), u16>| match found {
            Ok((route, matched)) => format!("{} {matched:?}", route.pipeline.name()),
            Err(status) => status.to_string(),
        };
        for text in [
            "GET h/a",
            "GET h/a/",
            "PUT h/a/",
            "GET h/a/b",
            "PUT h/a/b/c",
            "PUT h/a/b/c/d/e/f",
            "GET h/r1",
            "GET h/r12",
            "GET h/x",
            "GET h/yes",
            "GET h/z",
            "GET h/%C3%BCber",
            "GET h/%C3",
            "GET h/",
            "GET h/other",
            "GET h/h",
            "GET h/h|X-A: b",
        ] {
            let (request, client) = request(text);
            let (one, other) = (short.route(&request, Some(client)), long.route(&request, Some(client)));
            assert_eq!(name(one), name(other), "{text}");
        }
        for (text, wanted) in [
            ("GET h/more/077", "m77 Exact"),
            ("GET h/more/0770", "404"),
            ("GET h/pre/003/x", "p3 Prefix"),
            ("GET h/pre/003", "404"),
            // More prefixes of it are known than are gone through together.
            ("PUT h/n/n/n/n/n/n/n/n/n/n/n/n/x", "n1 Prefix"),
            ("GET h/n/n/n/n/n/n/n/n/n/n/n/n/x", "405"),
        ] {
            let (request, client) = request(text);
            assert_eq!(name(long.route(&request, Some(client))), wanted, "{text}");
        }
        assert!(size_of::<Route>() <= 72, "{}", size_of::<Route>());
    }

    /// The name of the backend, with the target after rewriting when it is another; or the status.
    fn check(rules: &str, table: &[(&str, &str)]) {
        let router = router(rules);
        for (text, expected) in table {
            let (mut request, client) = request(text);
            let before = request.target();
            let answer = match router.route(&request, Some(client)) {
                Err(status) => status.to_string(),
                Ok((route, matched)) => {
                    let name = route.pipeline.name().to_string();
                    route.rewrite(&mut request, &matched).unwrap();
                    let after = request.target();
                    if after == before { name } else { format!("{name} {after}") }
                }
            };
            assert_eq!(answer, *expected, "{text}");
        }
    }

    #[test]
    fn paths() {
        check(
            "rules: [{paths: [
                {path: /exact, backend: e}, {pathPrefix: /pre, backend: p}, {pathRegexp: 'x[0-9]+', backend: r},
                {path: /or, pathPrefix: /other, pathRegexp: '^/third$', backend: o},
                {path: /m, methods: [GET, PUT], backend: m}]}]",
            &[
                ("GET a/exact", "e"),
                ("GET a/exact/", "404"),
                ("GET a/exact?q=1", "e"),
                ("GET a/pre", "p"),
                ("GET a/prefix/deep", "p"),
                ("GET a/Pre", "404"),
                ("GET a/any/x7y", "r"),
                ("GET a/%78%37", "r"),
                ("GET a/or", "o"),
                ("GET a/other/x", "o"),
                ("GET a/third", "o"),
                ("GET a/third/", "404"),
                ("PUT a/m", "m"),
                ("DELETE a/m", "405"),
                ("GET a/", "404"),
            ],
        );
        check("rules: [{paths: [{backend: all}]}]", &[("GET a/", "all"), ("OPTIONS a/x", "all")]);
        check("rules: []", &[("GET a/", "404")]);
        check("rules: [{paths: [{path: /a%2Fb, backend: s}]}]", &[("GET h/a%2Fb", "s"), ("GET h/a%2fb", "s")]);
    }

    #[test]
    fn many_hosts_are_looked_up_and_the_first_rule_in_the_order_of_the_document_wins_all_the_same() {
        let mut rules = String::from("rules:\n");
        for n in 0..200 {
            let host = match n % 7 {
                0 => format!("hosts: [{{value: H{}.test}}, {{value: '*.w{}.test'}}]", n % 20, n % 5),
                1 => "hostRegexp: '^h1[.]'".to_owned(),
                2 if n > 150 => "paths: []".to_owned(),
                3 => format!("hosts: [{{value: h{}.test}}, {{value: h{}.test}}]", n % 20, n % 20),
                _ => format!("host: h{}.TEST", n % 20),
            };
            let paths = if host.starts_with("paths") {
                String::new()
            } else {
                format!(", paths: [{{path: /p{}, backend: b{n}}}]", n % 3)
            };
            rules.push_str(&format!("- {{{host}{paths}}}\n"));
        }
        rules.push_str("- {paths: [{path: /p2, backend: last}]}\n");
        let (listed, mut plain) = (router(&rules), router(&rules));
        assert!(listed.hosts.is_some() && router("rules: [{host: a, paths: []}]").hosts.is_none());
        plain.hosts = None;
        let told = |router: &Router, request: &Request| {
            router.route(request, None).map(|(route, _)| route.pipeline.name().to_string())
        };
        for host in (0..22).map(|n| format!("h{n}.test")).chain(["H3.Test".into(), "x.w1.test".into(), "none".into()]) {
            for path in ["/p0", "/p1", "/p2", "/p3"] {
                let (request, _) = request(&format!("GET {host}{path}"));
                assert_eq!(told(&listed, &request), told(&plain, &request), "{host}{path}");
            }
        }
    }

    #[test]
    fn hosts() {
        check(
            "rules:
- {host: exact.test, paths: [{backend: exact}]}
- {hosts: [{value: '*.wild.test'}, {value: 'www.*'}], paths: [{backend: wild}]}
- {hostRegexp: '^[a-z]+[.]re[.]test$', paths: [{backend: re}]}
- {hosts: [{isRegexp: true, value: '^1'}], paths: [{path: /one, backend: one}]}
- {paths: [{path: /rest, backend: rest}]}",
            &[
                ("GET exact.test/", "exact"),
                ("GET EXACT.test:8080/", "exact"),
                ("GET not-exact.test/", "404"),
                ("GET a.wild.test/", "wild"),
                ("GET a.b.WILD.test:1/", "wild"),
                ("GET wild.test/", "404"),
                ("GET www.anything/", "wild"),
                ("GET www/", "404"),
                ("GET abc.re.test/", "re"),
                ("GET a1.re.test/", "404"),
                ("GET 127.0.0.1:80/one", "one"),
                ("GET 127.0.0.1:80/rest", "rest"),
                ("GET exact.test/rest", "exact"),
                ("GET [::1]:80/rest", "rest"),
            ],
        );
    }

    #[test]
    fn headers_and_queries() {
        check(
            "rules: [{paths: [
                {path: /any, headers: [{key: X-A, values: ['1', '2']}, {key: X-B, regexp: '^b'}], backend: any},
                {path: /all, matchAllHeader: true, headers: [{key: X-A, values: ['1'], regexp: '1'}, {key: X-B, regexp: b}], backend: all},
                {path: /q, queries: [{key: k, values: [v w]}, {key: l, regexp: '^[0-9]$'}], backend: q},
                {path: /qa, matchAllQuery: true, queries: [{key: k, values: [v]}, {key: l, regexp: '^[0-9]$'}], backend: qa},
                {path: /none, headers: [{key: X-A, regexp: '^$'}], backend: none}]}]",
            &[
                ("GET a/any|X-A: 2", "any"),
                ("GET a/any|x-b: bar", "any"),
                ("GET a/any|X-A: 3", "400"),
                ("GET a/any", "400"),
                ("GET a/any|X-A: 3|X-A: 1", "400"),
                ("GET a/all|X-A: 1|X-B: abc", "all"),
                ("GET a/all|X-A: 1", "400"),
                ("GET a/q?k=v+w", "q"),
                ("GET a/q?k=v%20w", "q"),
                ("GET a/q?l=5", "q"),
                ("GET a/q?k=x&k=v+w", "400"),
                ("GET a/q", "400"),
                ("GET a/qa?l=5&k=v", "qa"),
                ("GET a/qa?l=5", "400"),
                ("GET a/none", "none"),
                ("GET a/none|X-A: x", "400"),
            ],
        );
    }

    #[test]
    fn what_comes_closest_is_said() {
        let rules = "
rules:
- ipFilter: {blockIPs: [10.0.0.0/8]}
  host: closed.test
  paths: [{path: /x, backend: closed}]
- paths:
  - {path: /x, methods: [PUT], backend: put}
  - {path: /x, methods: [PUT, POST], headers: [{key: X, values: ['1']}], backend: x}
  - {path: /y, ipFilter: {allowIPs: [192.0.2.0/24]}, backend: y}
  - {path: /y, methods: [POST], headers: [{key: X, values: ['1']}], backend: y2}
  - {path: /z, headers: [{key: X, values: ['1']}], backend: z1}
  - {path: /z, backend: z2}";
        let table = [
            ("GET closed.test/x 10.1.2.3", "403"),
            ("GET closed.test/x 11.1.2.3", "closed"),
            // A later rule still may take it.
            ("PUT closed.test/x 10.1.2.3", "put"),
            ("GET a/x", "405"),
            ("POST a/x", "400"),
            ("POST a/x|X: 1", "x"),
            ("GET a/y", "y"),
            ("GET a/y 198.51.100.1", "403"),
            ("POST a/y 198.51.100.1", "403"),
            ("POST a/y 198.51.100.1|X: 1", "y2"),
            ("GET a/z|X: 1", "z1"),
            ("GET a/z", "z2"),
            ("GET a/nothing", "404"),
        ];
        check(rules, &table);
        // The server's own filter comes before everything.
        check(
            "ipFilter: {blockIPs: [10.0.0.0/8]}\nrules: [{paths: [{backend: b}]}]",
            &[("GET a/ 10.0.0.1", "403"), ("GET a/ ::ffff:10.0.0.1", "403"), ("GET a/ 11.0.0.1", "b")],
        );
    }

    #[test]
    fn a_rewrite_makes_no_segment_of_dots() {
        let router = router(
            "rules: [{paths: [
                {pathPrefix: /static, rewriteTarget: /files/, backend: p},
                {pathRegexp: '^/x(.*)y$', rewriteTarget: '/$1/z', backend: r}]}]",
        );
        for target in ["/static../secret", "/static./secret", "/static..", "/x..y", "/static..;a/b", "/static..%2Fb"] {
            let (mut request, client) = request(&format!("GET h.test{target}"));
            let before = request.target();
            let (route, matched) = router.route(&request, Some(client)).unwrap();
            assert!(route.rewrite(&mut request, &matched).is_err(), "{target}");
            assert_eq!(request.target(), before, "{target}");
        }
        let (mut request, client) = request("GET h.test/static...a/..b");
        let (route, matched) = router.route(&request, Some(client)).unwrap();
        assert_eq!(route.rewrite(&mut request, &matched), Ok(()));
        assert_eq!(request.target(), "/files/...a/..b");
    }

    #[test]
    fn rewrites_by_what_matched() {
        check(
            "rules: [{paths: [
                {path: /exact, rewriteTarget: /new, backend: e},
                {pathPrefix: /pre, rewriteTarget: /p2, backend: p},
                {pathPrefix: /strip/, rewriteTarget: /, backend: s},
                {pathRegexp: '^/v([0-9]+)/(.*)$', rewriteTarget: '/$2/of/$1', backend: r},
                {pathRegexp: 'old', rewriteTarget: 'new', backend: all},
                {path: /both, pathPrefix: /bo, rewriteTarget: /x, backend: both}]}]",
            &[
                ("GET a/exact?q=1", "e /new?q=1"),
                ("GET a/pre/a%20b?q=1", "p /p2/a%20b?q=1"),
                ("GET a/prefix", "p /p2fix"),
                ("GET a/strip/this", "s /this"),
                ("GET a/v2/items/7", "r /items/7/of/2"),
                ("GET a/is/old/and/old", "all /is/new/and/new"),
                ("GET a/both", "both /x"),
                ("GET a/bottom", "both /xttom"),
            ],
        );
    }

    #[test]
    fn the_tree_decides_by_path_and_offers_each_route_the_rest() {
        check(
            "routerKind: RadixTree
rules:
- host: other.test
  paths: [{path: '/users/{id}', backend: other}]
- paths:
  - {path: '/users/{id}', methods: [GET], backend: get, rewriteTarget: '/u/{id}'}
  - {path: '/users/{name}', methods: [PUT], backend: put, rewriteTarget: '/n/{name}'}
  - {path: '/users/{id:[0-9]+}/x', backend: number}
  - {path: '/files/*', backend: files, rewriteTarget: '/f/{EG_WILDCARD}'}
  - {path: '/files/secret', headers: [{key: X, values: ['1']}], backend: secret}
  - {path: '/caf%C3%A9', backend: cafe}
  - {pathPrefix: /ignored, backend: never}",
            &[
                ("GET a/users/7", "get /u/7"),
                ("PUT a/users/7", "put /n/7"),
                ("DELETE a/users/7", "405"),
                ("GET a/users/a%20b", "get /u/a%20b"),
                ("GET a/users/a%2Fb", "get /u/a%2Fb"),
                ("GET a/users/7/x", "number"),
                ("GET a/users/seven/x", "404"),
                ("GET other.test/users/7", "other"),
                ("GET a/files/x/y?z=1", "files /f/x/y?z=1"),
                ("GET a/files/secret|X: 1", "secret"),
                // Another condition failed, and the next choice takes it.
                ("GET a/files/secret", "files /f/secret"),
                ("GET a/ignored", "404"),
                ("GET a/caf%c3%a9", "cafe"),
                ("GET a/users/%7Bid%7D", "get /u/%7Bid%7D"),
            ],
        );
    }

    #[test]
    fn pools_of_paths_have_pipelines_of_their_own() {
        check(
            "rules: [{paths: [{path: /a, backend: a}, {path: /b, backendPool: {servers: [{url: 'http://127.0.0.1:1'}]}}]}]",
            &[("GET h/b", "GENERATED-web-0-1")],
        );
    }
}
