//! Which route a request takes: hosts, then paths in order, as Easegress's `Ordered` router.
//!
//! Search: the server's IP filter (403); each rule whose host matches and whose IP filter lets the client in; each of
//! its paths in order. The first path for which everything holds wins. When none does, the answer says what came
//! closest: 403 if an IP filter said no, else 400 if a header or query did, else 405 if a method did, else 404.

use crate::traffic::PipelineSlot;
use crate::variables::Template;
use base_model::{HttpServerSpec, IpFilter, PathSpec, RuleSpec};
use proto_http::Request;
use regex::Regex;
use std::net::IpAddr;
use std::sync::Arc;

/// Everything a server's rules say, compiled.
#[derive(Debug)]
pub struct Router {
    ip_filter: Option<IpFilter>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    ip_filter: Option<IpFilter>,
    hosts: Vec<Host>,
    routes: Vec<Arc<Route>>,
}

/// A host pattern, in lower case where it is text.
#[derive(Debug)]
enum Host {
    Exact(String),
    /// `*.example.com`: ends with the text.
    Suffix(String),
    /// `www.example.*`: begins with the text.
    Prefix(String),
    Pattern(Regex),
}

/// One path entry.
#[derive(Debug)]
pub struct Route {
    ip_filter: Option<IpFilter>,
    exact: Option<String>,
    prefix: Option<Arc<str>>,
    pattern: Option<Regex>,
    methods: Vec<String>,
    headers: Vec<KeyMatch>,
    all_headers: bool,
    queries: Vec<KeyMatch>,
    all_queries: bool,
    rewrite: Option<String>,
    /// Where the pipeline of this name is, or will be.
    pub pipeline: Arc<PipelineSlot>,
    /// Largest request body in bytes: as `clientMaxBodySize` of the document, 0 = the server's.
    pub max_body: i64,
    /// Request headers to set (or, with an empty text, to remove) before the pipeline.
    pub set_headers: Vec<(String, Template)>,
}

/// A condition on the first value of a header or query key.
#[derive(Debug)]
struct KeyMatch {
    key: String,
    values: Vec<String>,
    pattern: Option<Regex>,
}

/// How the path of a route matched: what a rewrite replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matched {
    Any,
    Exact,
    Prefix,
    Pattern,
}

impl Router {
    /// `spec` has passed its static checks, so that patterns compile. `server` names the pipelines made for
    /// `backendPool`s; `slot` gives the place of a pipeline.
    pub fn new(
        server: &str,
        spec: &HttpServerSpec,
        slot: &dyn Fn(&str) -> Arc<PipelineSlot>,
    ) -> Result<Router, String> {
        let rules = spec
            .rules
            .iter()
            .enumerate()
            .map(|(index, rule)| Rule::new(rule, &|path| slot(&generated_pipeline(server, index, path)), slot))
            .collect::<Result<_, _>>()?;
        Ok(Router { ip_filter: spec.ip_filter.as_ref().map(|f| f.compile()), rules })
    }

    /// The route, or the status to refuse with.
    pub fn route(&self, request: &Request, client: IpAddr) -> Result<(&Arc<Route>, Matched), u16> {
        let allowed = |filter: &Option<IpFilter>| filter.as_ref().is_none_or(|f| f.allows(Some(client)));
        if !allowed(&self.ip_filter) {
            return Err(403);
        }
        let (mut denied, mut mismatch, mut method) = (false, false, false);
        let path = request.path.as_str();
        for rule in &self.rules {
            if !rule.matches_host(request.host()) {
                continue;
            }
            if !allowed(&rule.ip_filter) {
                denied = true;
                continue;
            }
            for route in &rule.routes {
                let Some(matched) = route.matches_path(path) else { continue };
                if !route.matches_method(request.method.as_str()) {
                    method = true;
                } else if !route.matches_headers(request) || !route.matches_queries(request) {
                    mismatch = true;
                } else if !allowed(&route.ip_filter) {
                    denied = true;
                } else {
                    return Ok((route, matched));
                }
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

/// Name of the pipeline generated for the `backendPool` of a path, as Easegress names it.
pub fn generated_pipeline(server: &str, rule: usize, path: usize) -> String {
    format!("GENERATED-{server}-{rule}-{path}")
}

impl Rule {
    fn new(
        spec: &RuleSpec,
        generated: &dyn Fn(usize) -> Arc<PipelineSlot>,
        slot: &dyn Fn(&str) -> Arc<PipelineSlot>,
    ) -> Result<Rule, String> {
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
        Ok(Rule {
            ip_filter: spec.ip_filter.as_ref().map(|f| f.compile()),
            hosts,
            routes: spec
                .paths
                .iter()
                .enumerate()
                .map(|(index, path)| {
                    let pipeline = if path.backend.is_empty() { generated(index) } else { slot(&path.backend) };
                    Route::new(path, pipeline).map(Arc::new)
                })
                .collect::<Result<_, _>>()?,
        })
    }

    fn matches_host(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|h| h.matches(host))
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
            Host::Exact(text)
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
        let canonical = |t: String| proto_http::path::Path::from_text(&t).as_str().to_owned();
        let headers = spec.headers.iter().map(|h| KeyMatch::new(&h.key, &h.values, &h.regexp));
        let queries = spec.queries.iter().map(|q| KeyMatch::new(&q.key, &q.values, &q.regexp));
        Ok(Route {
            ip_filter: spec.ip_filter.as_ref().map(|f| f.compile()),
            exact: text(&spec.path).map(canonical),
            prefix: text(&spec.path_prefix).map(canonical).map(Arc::from),
            pattern: text(&spec.path_regexp).map(|p| pattern(&p)).transpose()?,
            methods: spec.methods.clone(),
            headers: headers.collect::<Result<_, _>>()?,
            all_headers: spec.match_all_header,
            queries: queries.collect::<Result<_, _>>()?,
            all_queries: spec.match_all_query,
            rewrite: text(&spec.rewrite_target),
            pipeline,
            max_body: spec.client_max_body_size,
            set_headers: spec.set_headers.iter().map(|(k, v)| (k.clone(), Template::parse(v))).collect(),
        })
    }

    fn matches_path(&self, path: &str) -> Option<Matched> {
        if self.exact.is_none() && self.prefix.is_none() && self.pattern.is_none() {
            return Some(Matched::Any);
        }
        if self.exact.as_deref() == Some(path) {
            return Some(Matched::Exact);
        }
        if self.prefix.as_deref().is_some_and(|p| path.starts_with(p)) {
            return Some(Matched::Prefix);
        }
        self.pattern.as_ref().is_some_and(|p| p.is_match(path)).then_some(Matched::Pattern)
    }

    fn matches_method(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|m| m == method)
    }

    fn matches_headers(&self, request: &Request) -> bool {
        holds(&self.headers, self.all_headers, |key| request.headers.text(key).map(str::to_owned))
    }

    fn matches_queries(&self, request: &Request) -> bool {
        self.queries.is_empty()
            || holds(&self.queries, self.all_queries, |key| query_value(request.query.as_deref().unwrap_or(""), key))
    }

    /// The prefix the route was written with.
    pub fn prefix(&self) -> Option<&Arc<str>> {
        self.prefix.as_ref()
    }

    /// Rewrites the path by `rewriteTarget`, according to what matched.
    pub fn rewrite(&self, request: &mut Request, matched: Matched) {
        let Some(target) = &self.rewrite else { return };
        let path = request.path.as_str();
        let rewritten = match matched {
            Matched::Any => return,
            Matched::Exact => target.clone(),
            Matched::Prefix => format!("{target}{}", &path[self.prefix.as_ref().map_or(0, |p| p.len())..]),
            Matched::Pattern => match &self.pattern {
                Some(pattern) => pattern.replace_all(path, target.as_str()).into_owned(),
                None => return,
            },
        };
        request.path.set(&rewritten);
    }
}

impl KeyMatch {
    fn new(key: &str, values: &[String], regexp: &str) -> Result<KeyMatch, String> {
        let pattern = (!regexp.is_empty()).then(|| pattern(regexp)).transpose()?;
        Ok(KeyMatch { key: key.to_owned(), values: values.to_vec(), pattern })
    }
}

/// Any: one condition suffices, by value or by pattern. All: each must hold, with value and pattern where both are given.
fn holds(conditions: &[KeyMatch], all: bool, value: impl Fn(&str) -> Option<String>) -> bool {
    if conditions.is_empty() {
        return true;
    }
    let check = |c: &KeyMatch| {
        let value = value(&c.key).unwrap_or_default();
        let listed = c.values.contains(&value);
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
pub fn query_value(query: &str, key: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
        (decode_query(k) == key).then(|| decode_query(v))
    })
}

/// `+` and percent escapes of a query component; what is not a valid escape stays as it is.
fn decode_query(text: &str) -> String {
    if !text.contains(['+', '%']) {
        return text.to_owned();
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
    String::from_utf8_lossy(&out).into_owned()
}
