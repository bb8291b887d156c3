//! Sends clients elsewhere as the Gateway API describes it: by parts of the URL.
//!
//! ```yaml
//! name: to-https
//! kind: RedirectorV2
//! scheme: https
//! hostname: shop.example
//! path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}   # or ReplaceFullPath, replaceFullPath
//! statusCode: 301
//! ```
//!
//! With a route of `pathPrefix: /old`: `GET /old/rest?a=b` → `301`, `Location: https://shop.example/new/rest?a=b`.
//! What is not given stays as the client asked for it, but for the port: a new scheme or host has the scheme's usual one unless `port` is
//! given. A path that gets
//! segments of dots by the replacement (`/old../x` with `/new/`) gets `400` and is counted as `rewritten_path`.
//!
//! Outcomes: `redirected`; a request that is where it would be sent passes, since its client would come back for ever, unless the filter
//! is told to send it `always`. Fits HTTPServer. Costs the making of one text.

use crate::module_doc::module_doc;
use crate::redirect::{self, Location, REDIRECTED, redirect};
use crate::redirector::{STATUSES, check_status};
use crate::spec::{self, Spec};
use base_model::problem::at;
use base_model::{Findings, Problem};
use base_telemetry::Limit;
use edge_pipeline::{BuildError, Exchange, Filter, FilterKind, Parts, SUCCESS, Step, Touches};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `kind: RedirectorV2`: sends clients elsewhere by parts of the URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RedirectorV2Spec {
    /// `http` or `https`. Default: the request's.
    pub scheme: String,
    /// Host to go to. Default: the request's.
    pub hostname: String,
    /// Port to go to, 1 to 65535. Default: the scheme's when a scheme or a host is given, else the request's.
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Change of the path. Default: none.
    pub path: Option<PathSpec>,
    /// 300, 301, 302, 303, 304, 307 or 308. Default 302.
    pub status_code: u16,
    /// Answer as the Gateway API wants it: also a client that is sent to the place where it is, and with the request's port where only
    /// the host is another one. Default false: such a request passes, and another host has the scheme's port.
    pub always: bool,
}

/// Change of a path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["type"]))]
pub struct PathSpec {
    /// `ReplaceFullPath`, or `ReplacePrefixMatch`: the prefix by which the route was chosen.
    pub r#type: PathChange,
    /// The new path, for ReplaceFullPath, which needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_full_path: Option<String>,
    /// What stands in place of the prefix, for ReplacePrefixMatch, which needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_prefix_match: Option<String>,
}

/// Which part of a path is replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathChange {
    #[default]
    ReplaceFullPath,
    ReplacePrefixMatch,
}

impl Default for RedirectorV2Spec {
    fn default() -> RedirectorV2Spec {
        RedirectorV2Spec {
            scheme: String::new(),
            hostname: String::new(),
            port: None,
            path: None,
            status_code: 302,
            always: false,
        }
    }
}

impl Spec for RedirectorV2Spec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        if !matches!(self.scheme.as_str(), "" | "http" | "https") {
            let problem = Problem::new(at(path, "scheme"), "not a scheme of HTTP").text(&self.scheme);
            findings.problem(problem.accepted("http or https"));
        }
        let name = proto_http::authority::split(self.hostname.as_bytes());
        if !self.hostname.is_empty() && !matches!(name, Some((_, None))) {
            let problem = Problem::new(at(path, "hostname"), "not a host name").text(&self.hostname);
            findings.problem(problem.advice("write the port under port"));
        }
        if let Some(change) = &self.path {
            let text = match change.r#type {
                PathChange::ReplaceFullPath => ("replaceFullPath", &change.replace_full_path),
                PathChange::ReplacePrefixMatch => ("replacePrefixMatch", &change.replace_prefix_match),
            };
            let other = match change.r#type {
                PathChange::ReplaceFullPath => ("replacePrefixMatch", &change.replace_prefix_match),
                PathChange::ReplacePrefixMatch => ("replaceFullPath", &change.replace_full_path),
            };
            if other.1.is_some() {
                findings.warn(at(&at(path, "path"), other.0), "has no effect: type says that the other one is used");
            }
            if text.1.is_none() {
                let problem = Problem::new(at(&at(path, "path"), text.0), "missing");
                findings.problem(problem.advice("write the new path; an empty text takes away what is replaced"));
            }
            let given = text.1.as_deref().unwrap_or_default();
            if !given.is_empty() && !given.starts_with('/') {
                let problem = Problem::new(at(&at(path, "path"), text.0), "a path begins with /").text(given);
                findings.problem(problem.advice(format!("write /{given}")));
            } else if redirect::has_dots(given) {
                let problem = Problem::new(at(&at(path, "path"), text.0), "a path has no segments of dots").text(given);
                findings.problem(problem.advice("write the path they lead to"));
            }
        }
        check_status(self.status_code, &STATUSES, path, findings);
    }
}

/// A ready RedirectorV2.
pub struct RedirectorV2 {
    spec: RedirectorV2Spec,
    refused: Limit,
}

pub const KIND: FilterKind = FilterKind {
    kind: "RedirectorV2",
    results: &[REDIRECTED],
    doc: module_doc!("redirector_v2.rs"),
    schema: spec::schema::<RedirectorV2Spec>,
    check: spec::check::<RedirectorV2Spec>,
    build: |fields, parts| spec::build(fields, |spec| RedirectorV2::new(spec, parts)),
};

impl RedirectorV2 {
    fn new(spec: RedirectorV2Spec, parts: &Parts<'_>) -> Result<RedirectorV2, BuildError> {
        Ok(RedirectorV2 { spec, refused: redirect::refusals(parts) })
    }

    fn location(&self, exchange: &Exchange) -> Location {
        let spec = &self.spec;
        let request = exchange.request();
        let scheme = if spec.scheme.is_empty() { exchange.client.scheme } else { &spec.scheme };
        let host = if spec.hostname.is_empty() { request.host() } else { &spec.hostname };
        let mut location = Location::default();
        location.push(&format!("{scheme}://{host}"));
        let asked = request.authority[request.host().len()..].strip_prefix(':').and_then(|port| port.parse().ok());
        let stays = spec.scheme.is_empty() && (spec.hostname.is_empty() || spec.always);
        let port = spec.port.or(asked.filter(|_| stays));
        let usual = if scheme == "https" { 443 } else { 80 };
        if let Some(port) = port.filter(|port| *port != usual) {
            location.push(&format!(":{port}"));
        }
        let path = request.path.encoded();
        match &spec.path {
            None => location.push_chosen(&path),
            Some(change) => match change.r#type {
                PathChange::ReplaceFullPath => location.push(change.replace_full_path.as_deref().unwrap_or_default()),
                PathChange::ReplacePrefixMatch => {
                    let prefix = exchange.matched_prefix.as_deref().unwrap_or_default();
                    let prefix = proto_http::Path::from_text(prefix);
                    let with = change.replace_prefix_match.as_deref().unwrap_or_default();
                    location.push_chosen(&replaced(&path, &prefix.encoded(), with));
                }
            },
        }
        if let Some(query) = &request.query {
            location.push("?");
            location.push_chosen(query);
        }
        location
    }
}

impl Filter for RedirectorV2 {
    fn is_repeatable(&self) -> bool {
        true
    }

    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD.and(Touches::RESPONSE)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let location = self.location(exchange);
        if !self.spec.always && location.text == asked(exchange) {
            return Step::Done(SUCCESS);
        }
        Step::Done(redirect(exchange, self.spec.status_code, &location, &self.refused))
    }
}

/// Where the client is, without a port that its scheme has anyway.
fn asked(exchange: &Exchange) -> String {
    let (request, scheme) = (exchange.request(), exchange.client.scheme);
    let usual = if scheme == "https" { ":443" } else { ":80" };
    let authority = request.authority.strip_suffix(usual).unwrap_or(&request.authority);
    let query = request.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{scheme}://{authority}{}{query}", request.path.encoded())
}

/// `path` with `with` in place of `prefix`, and exactly one slash where they meet.
fn replaced(path: &str, prefix: &str, with: &str) -> String {
    let rest = path.strip_prefix(prefix.trim_end_matches('/')).unwrap_or(path);
    let with = with.trim_end_matches('/');
    match rest {
        "" if with.is_empty() => "/".to_owned(),
        "" => with.to_owned(),
        rest if rest.starts_with('/') => format!("{with}{rest}"),
        rest => format!("{with}/{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn locations() {
        let prefix = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}";
        let full = "path: {type: ReplaceFullPath, replaceFullPath: /full}";
        for (spec, authority, target, status, location) in [
            (
                format!("{{scheme: https, hostname: a.test, {prefix}}}"),
                "h.test",
                "/old/rest?a=b",
                302,
                "https://a.test/new/rest?a=b",
            ),
            (format!("{{hostname: a.test, {prefix}}}"), "h.test:81", "/old", 302, "http://a.test/new"),
            (format!("{{scheme: https, statusCode: 301, {full}}}"), "h.test:81", "/any", 301, "https://h.test/full"),
            ("{scheme: https}".to_owned(), "h.test:81", "/a?b", 302, "https://h.test/a?b"),
            ("{port: 8443, scheme: https}".to_owned(), "h.test", "/a", 302, "https://h.test:8443/a"),
            ("{port: 443, scheme: https}".to_owned(), "h.test", "/a", 302, "https://h.test/a"),
            (format!("{{{full}}}"), "h.test:81", "/a", 302, "http://h.test:81/full"),
        ] {
            check(&spec, authority, target, status, location);
        }
    }

    /// A browser follows a redirect of another origin only where that lets it (Fetch standard section 4.4).
    #[test]
    fn pages_of_other_origins_are_redirected() {
        let mut exchange = request("GET", "/a", &[("Origin", "https://a.test")]);
        let cors = "{allowedOrigins: ['https://a.test'], allowCredentials: true}";
        run(&*filter(&crate::cors_adaptor::KIND, cors), &mut exchange);
        assert_eq!(run(&*filter(&KIND, "{scheme: https}"), &mut exchange), REDIRECTED);
        assert_eq!(response_header(&exchange, "Location"), Some("https://h.test/a"));
        assert_eq!(response_header(&exchange, "Access-Control-Allow-Origin"), Some("https://a.test"));
        assert_eq!(response_header(&exchange, "Access-Control-Allow-Credentials"), Some("true"));
        assert_eq!(response_header(&exchange, "Vary"), Some("Origin"));
    }

    #[test]
    fn prefixes_meet_at_one_slash() {
        for (path, prefix, with, want) in [
            ("/old/rest", "/old", "/new", "/new/rest"),
            ("/old", "/old/", "/new/", "/new"),
            ("/x", "/", "/new", "/new/x"),
            ("/old/rest", "/old", "/", "/rest"),
            ("/old", "/old", "", "/"),
            ("/oldest", "/old", "/new", "/new/est"),
        ] {
            assert_eq!(replaced(path, prefix, with), want, "{path} {prefix} {with}");
        }
    }

    #[test]
    fn a_replacement_makes_no_segment_of_dots() {
        let spec = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new/}";
        for target in ["/old../secret", "/old./secret", "/old..;x/secret", "/old..%2Fsecret"] {
            let mut exchange = request("GET", target, &[]);
            exchange.matched_prefix = Some("/old".into());
            assert_eq!(run(&*filter(&KIND, &format!("{{{spec}}}")), &mut exchange), REDIRECTED, "{target}");
            assert_eq!((status_of(&exchange), response_header(&exchange, "Location")), (400, None), "{target}");
        }
        check(&format!("{{{spec}}}"), "h.test", "/old..x/y", 302, "http://h.test/new/..x/y");
        check("{scheme: https}", "h.test", "//evil.test/x", 302, "https://h.test//evil.test/x");
        refuses(&KIND, "{path: {type: ReplaceFullPath, replaceFullPath: /a/../b}}", &["path.replaceFullPath"]);
    }

    #[test]
    fn whoever_is_there_already_is_not_sent_there() {
        for (spec, authority, target, there) in [
            ("{scheme: http}", "h.test", "/a?b", true),
            ("{scheme: http}", "h.test:80", "/a", true),
            ("{scheme: http}", "h.test:81", "/a", false),
            ("{hostname: h.test}", "h.test", "/a%20b", true),
            ("{path: {type: ReplaceFullPath, replaceFullPath: /a}}", "h.test:81", "/a", true),
            ("{scheme: https}", "h.test", "/a", false),
            ("{hostname: other.test}", "h.test", "/a", false),
        ] {
            let mut exchange = request("GET", target, &[]);
            exchange.request_mut().authority = authority.to_owned();
            let outcome = if there { SUCCESS } else { REDIRECTED };
            assert_eq!(run(&*filter(&KIND, spec), &mut exchange), outcome, "{spec} {authority}{target}");
        }
        check("{scheme: http, statusCode: 307, always: true}", "h.test", "/a?b", 307, "http://h.test/a?b");
        check("{hostname: a.test, always: true}", "h.test:81", "/a", 302, "http://a.test:81/a");
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{path: {type: ReplaceFullPath}}", &["path.replaceFullPath"]);
        refuses(&KIND, "{path: {type: ReplacePrefixMatch, replaceFullPath: /a}}", &["path.replacePrefixMatch"]);
        refuses(&KIND, "{statusCode: 999}", &["statusCode"]);
        refuses(&KIND, "{scheme: ftp}", &["scheme"]);
        refuses(&KIND, "{port: 70000}", &["port"]);
        refuses(&KIND, "{port: 0}", &["port"]);
        refuses(&KIND, "{hostname: 'a:80'}", &["hostname"]);
        refuses(&KIND, "{path: {type: ReplaceAll}}", &["path.type"]);
        refuses(&KIND, "{path: {type: ReplaceFullPath, replaceFullPath: x}}", &["path.replaceFullPath"]);
    }

    fn check(spec: &str, authority: &str, target: &str, status: u16, location: &str) {
        let mut exchange = request("GET", target, &[]);
        exchange.request_mut().authority = authority.to_owned();
        exchange.matched_prefix = Some("/old".into());
        assert_eq!(run(&*filter(&KIND, spec), &mut exchange), REDIRECTED, "{spec}");
        assert_eq!((status_of(&exchange), response_header(&exchange, "Location")), (status, Some(location)), "{spec}");
    }
}
