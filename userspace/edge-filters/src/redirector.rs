//! Sends clients elsewhere when their URL matches an expression.
//!
//! ```yaml
//! name: moved
//! kind: Redirector
//! match: ^/users/([0-9]+)
//! matchPart: uri                    # default; or path (without query), full (with scheme and host)
//! replacement: https://people.example/$1
//! statusCode: 301
//! ```
//!
//! `GET /users/7?x=1` → `301`, `Location: https://people.example/7?x=1`. All matches are replaced; without one the
//! request passes.
//!
//! Which site a client is sent to, the document says, or the site's own name (`full`): a path or query that would choose it
//! (`/go//evil.example` with `^/go` and an empty replacement), or that makes a segment of dots with the replacement, gets `400` and is
//! counted as `rewritten_path`.
//!
//! Outcomes: `redirected`. Fits HTTPServer. Costs a search of the expression.

use crate::module_doc::module_doc;
use crate::redirect::{self, Location, REDIRECTED, redirect};
use crate::spec::{self, Spec, unexpected};
use base_model::problem::{at, one_of};
use base_model::{Findings, Problem, regexp};
use base_telemetry::Limit;
use edge_pipeline::{BuildError, Exchange, Filter, FilterKind, Parts, SUCCESS, Step, Touches};
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// `kind: Redirector`: sends clients elsewhere by an expression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["match", "replacement"]))]
pub struct RedirectorSpec {
    /// RE2 expression to search for.
    #[schemars(extend("format" = "regexp"))]
    pub r#match: String,
    /// What it is searched in: `uri` (path and query), `path`, or `full` (with scheme and host). Default uri.
    pub match_part: MatchPart,
    /// What stands in place of each match; `$1` and `${name}` are groups.
    pub replacement: String,
    /// 300, 301, 302, 303, 304, 307 or 308. Default 301.
    pub status_code: u16,
}

/// A part of a URL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MatchPart {
    #[default]
    Uri,
    Path,
    Full,
}

impl Default for RedirectorSpec {
    fn default() -> RedirectorSpec {
        RedirectorSpec {
            r#match: String::new(),
            match_part: MatchPart::Uri,
            replacement: String::new(),
            status_code: 301,
        }
    }
}

impl Spec for RedirectorSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        if self.r#match.is_empty() {
            findings.problem(Problem::new(at(path, "match"), "is empty").advice("write an expression"));
        }
        base_model::string_matcher::check_regexp(&self.r#match, &at(path, "match"), findings);
        check_status(self.status_code, &STATUSES, path, findings);
    }
}

/// Files a problem for a status that does not redirect.
pub(crate) fn check_status(status: u16, accepted: &[u16], path: &str, findings: &mut Findings) {
    if !accepted.contains(&status) {
        let words: Vec<String> = accepted.iter().map(u16::to_string).collect();
        let problem = Problem::new(at(path, "statusCode"), "not a status that redirects").value(&status.into());
        findings.problem(problem.accepted(one_of(&words)));
    }
}

pub(crate) const STATUSES: [u16; 7] = [300, 301, 302, 303, 304, 307, 308];

/// A ready Redirector.
pub struct Redirector {
    expression: Regex,
    part: MatchPart,
    replacement: Vec<Part>,
    status: u16,
    refused: Limit,
}

/// A part of a replacement.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Group(usize),
    Named(String),
}

pub const KIND: FilterKind = FilterKind {
    kind: "Redirector",
    results: &[REDIRECTED],
    doc: module_doc!("redirector.rs"),
    schema: spec::schema::<RedirectorSpec>,
    check: spec::check::<RedirectorSpec>,
    build: |fields, parts| spec::build(fields, |spec| Redirector::new(spec, parts)),
};

impl Redirector {
    fn new(spec: RedirectorSpec, parts: &Parts<'_>) -> Result<Redirector, BuildError> {
        Ok(Redirector {
            expression: regexp::compile(&spec.r#match).map_err(|why| unexpected("match", why))?,
            part: spec.match_part,
            replacement: read_replacement(&spec.replacement),
            status: spec.status_code,
            refused: redirect::refusals(parts),
        })
    }

    /// `input` with the replacement in place of each match; the client has chosen it from `target` on. `None` without a match.
    fn location(&self, input: &str, target: usize) -> Option<Location> {
        // Groups need memory of their own, and most requests pass.
        if !self.expression.is_match(input) {
            return None;
        }
        let mut location = Location::default();
        let copy = |location: &mut Location, from: usize, to: usize| {
            let own = to.min(target).max(from);
            location.push(&input[from..own]);
            location.push_chosen(&input[own..to]);
        };
        let mut end = None;
        for found in self.expression.captures_iter(input) {
            let Some(whole) = found.get(0) else { continue };
            copy(&mut location, end.unwrap_or(0), whole.start());
            for part in &self.replacement {
                let group = match part {
                    Part::Text(text) => {
                        location.push(text);
                        continue;
                    }
                    Part::Group(index) => found.get(*index),
                    Part::Named(name) => found.name(name),
                };
                if let Some(group) = group {
                    copy(&mut location, group.start(), group.end());
                }
            }
            end = Some(whole.end());
        }
        copy(&mut location, end?, input.len());
        Some(location)
    }
}

/// `$1`, `$name`, `${name}` are groups, `$$` is a dollar; the longest name counts.
fn read_replacement(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = text;
    let mut literal = String::new();
    while let Some(at) = rest.find('$') {
        literal.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let (name, length) = match after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some((name, _)) => (name, name.len() + 2),
            None => {
                let length = after.bytes().take_while(|&b| is_name(b)).count();
                (&after[..length], length)
            }
        };
        if name.is_empty() {
            literal.push('$');
            rest = after.strip_prefix('$').unwrap_or(after);
            continue;
        }
        if !literal.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut literal)));
        }
        parts.push(name.parse().map_or_else(|_| Part::Named(name.to_owned()), Part::Group));
        rest = &after[length..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Text(literal));
    }
    parts
}

impl Filter for Redirector {
    fn is_repeatable(&self) -> bool {
        true
    }

    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD.and(Touches::RESPONSE)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let request = exchange.request();
        let (input, target) = match (self.part, &request.query) {
            (MatchPart::Path, _) => (Cow::Borrowed(request.path.as_str()), 0),
            (MatchPart::Uri, None) => (request.path.encoded(), 0),
            (MatchPart::Uri, Some(_)) => (Cow::Owned(request.target()), 0),
            (MatchPart::Full, _) => {
                let site = format!("{}://{}", exchange.client.scheme, request.authority);
                let target = site.len();
                (Cow::Owned(site + request.target().as_str()), target)
            }
        };
        let Some(location) = self.location(&input, target) else { return Step::Done(SUCCESS) };
        Step::Done(redirect(exchange, self.status, &location, &self.refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use edge_pipeline::PipelineName;

    #[test]
    fn locations() {
        for (spec, target, status, location) in [
            (
                "{match: '^/users/([0-9]+)', replacement: 'http://a.test/$1'}",
                "/users/7?x=1",
                301,
                Some("http://a.test/7?x=1"),
            ),
            (
                "{match: '^/users/([0-9]+)', replacement: 'http://a.test/$1', matchPart: path}",
                "/users/7?x=1",
                301,
                Some("http://a.test/7"),
            ),
            (
                "{match: '^http:', replacement: 'https:', matchPart: full, statusCode: 308}",
                "/a?b",
                308,
                Some("https://h.test/a?b"),
            ),
            ("{match: a, replacement: b}", "/a/a", 301, Some("/b/b")),
            ("{match: '^/x', replacement: /y}", "/a", 0, None),
            ("{match: '^/(.*)$', replacement: '/new/$1', matchPart: path}", "/%C3%BC", 301, Some("/new/%C3%BC")),
        ] {
            check(spec, target, status, location);
        }
    }

    /// A request chooses neither the site it is sent to nor a way up.
    #[test]
    fn a_request_does_not_choose_the_site() {
        for (spec, target, wanted) in [
            // Two slashes are a site.
            ("{match: '^/go', replacement: ''}", "/go/here", Some("/here")),
            ("{match: '^/go', replacement: ''}", "/go//evil.test/x", None),
            ("{match: '^/go(/.*)', replacement: '$1'}", "/go//evil.test", None),
            ("{match: '^/go/(.*)', replacement: '/$1'}", "/go//evil.test", None),
            ("{match: 'old', replacement: new}", "//evil.test/old", None),
            ("{match: '/old', replacement: /new}", "/a//old", Some("/a//new")),
            // So is what adds to one, or writes one.
            ("{match: '^/u', replacement: 'https://a.test'}", "/u/7", Some("https://a.test/7")),
            ("{match: '^/u', replacement: 'https://a.test'}", "/u.evil.test/7", None),
            ("{match: '^/u', replacement: 'https://a.test'}", "/u@evil.test/7", None),
            ("{match: '^/u', replacement: 'https://a.test'}", "/u:8080/7", None),
            ("{match: '^/go/(.*)', replacement: '$1'}", "/go/https://evil.test", None),
            ("{match: '^/go/(.*)', replacement: '$1'}", "/go/https:evil.test", None),
            ("{match: '^/go/(.*)', replacement: '$1'}", "/go/javascript:alert(1)", None),
            ("{match: '^/go/(.*)', replacement: '$1'}", "/go/there", Some("there")),
            (r"{match: '^/go.to=(.*)', replacement: '$1'}", "/go?to=//evil.test", None),
            (
                "{match: '^/go/(.*)', replacement: 'https://a.test/$1'}",
                "/go//evil.test",
                Some("https://a.test//evil.test"),
            ),
            // The site's own name may be part of another; its path may not.
            (
                "{match: '^http://([^/]+)(.*)', replacement: 'https://www.$1$2', matchPart: full}",
                "//x",
                Some("https://www.h.test//x"),
            ),
            ("{match: '^http://[^/]+/(.*)', replacement: 'https://$1', matchPart: full}", "/evil.test", None),
            (
                "{match: '^http://h.test', replacement: 'https://n.test', matchPart: full}",
                "/x",
                Some("https://n.test/x"),
            ),
            // Dots that were part of a name.
            ("{match: '^/static', replacement: /files/}", "/static../secret", None),
            ("{match: '^/static', replacement: /files/}", "/static..;x/secret", None),
            ("{match: '^/static', replacement: /files/.}", "/static./secret", None),
            ("{match: '^/static', replacement: /files/}", "/static..x?/../", Some("/files/..x?/../")),
            ("{match: '^/a', replacement: ../b}", "/a/c", Some("../b/c")),
            // Neither lines nor backslashes.
            ("{match: '^/go', replacement: ''}", "/go/%0D%0ASet-Cookie:x", Some("/%0D%0ASet-Cookie:x")),
            ("{match: '^/go', replacement: '', matchPart: path}", "/go/%5Cevil.test", Some("/%5Cevil.test")),
        ] {
            let mut exchange = request("GET", target, &[]);
            exchange.request_mut().authority = "h.test".to_owned();
            assert_eq!(run(&*filter(&KIND, spec), &mut exchange), REDIRECTED, "{spec} {target}");
            let status = if wanted.is_some() { 301 } else { 400 };
            assert_eq!(
                (status_of(&exchange), response_header(&exchange, "Location")),
                (status, wanted),
                "{spec} {target}"
            );
        }
    }

    #[test]
    fn replacements_are_read_as_the_expressions_crate_reads_them() {
        let expression = Regex::new("(?P<first>[a-z]+)-([0-9]+)").unwrap();
        for text in
            ["$1", "${1}a", "$1a", "$first!", "$$1", "$", "a$", "${", "${1", "$9", "x$1$2y", "$-", "${a-b}", "$$"]
        {
            let mut redirector = Redirector::new(
                RedirectorSpec { r#match: "x".to_owned(), ..RedirectorSpec::default() },
                &Parts {
                    name: "",
                    pipeline: &PipelineName::of_object(""),
                    previous: None,
                    resilience: &[],
                    telemetry: &base_telemetry::Telemetry::new(base_telemetry::Identity::default(), 1),
                },
            )
            .unwrap();
            (redirector.expression, redirector.replacement) = (expression.clone(), read_replacement(text));
            let input = "/ab-12/cd-3/";
            let location = redirector.location(input, 0).map(|location| location.text);
            assert_eq!(location.as_deref(), Some(&*expression.replace_all(input, text)), "{text}");
        }
    }

    #[test]
    fn every_status_that_redirects_is_taken() {
        for status in STATUSES {
            check(&format!("{{match: '^/a', replacement: /b, statusCode: {status}}}"), "/a", status, Some("/b"));
        }
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{match: '(', replacement: a}", &["match"]);
        refuses(&KIND, "{match: a, replacement: b, statusCode: 200}", &["statusCode"]);
        refuses(&KIND, "{match: a, replacement: b, matchPart: host}", &["matchPart"]);
        refuses(&KIND, "{match: a}", &["replacement"]);
    }

    fn check(spec: &str, target: &str, status: u16, location: Option<&str>) {
        let mut exchange = request("GET", target, &[]);
        let outcome = run(&*filter(&KIND, spec), &mut exchange);
        assert_eq!(outcome, if location.is_some() { REDIRECTED } else { SUCCESS }, "{spec} {target}");
        assert_eq!(
            (status_of(&exchange), response_header(&exchange, "Location")),
            (status, location),
            "{spec} {target}"
        );
    }
}
