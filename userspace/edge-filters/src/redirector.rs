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
//! Outcomes: `redirected`. Fits HTTPServer. Costs a search of the expression.

use crate::module_doc::module_doc;
use crate::redirect::{REDIRECTED, redirect};
use crate::spec::{self, Spec, unexpected};
use base_model::problem::{at, one_of};
use base_model::{Findings, Problem, regexp};
use edge_pipeline::{BuildError, Exchange, Filter, FilterKind, SUCCESS, Step, Touches};
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
    /// 301, 302, 303, 304, 307 or 308. Default 301.
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

const STATUSES: [u16; 6] = [301, 302, 303, 304, 307, 308];

/// A ready Redirector.
pub struct Redirector {
    expression: Regex,
    part: MatchPart,
    replacement: Box<str>,
    status: u16,
}

pub const KIND: FilterKind = FilterKind {
    kind: "Redirector",
    results: &[REDIRECTED],
    doc: module_doc!("redirector.rs"),
    schema: spec::schema::<RedirectorSpec>,
    check: spec::check::<RedirectorSpec>,
    build: |fields, _| spec::build(fields, Redirector::new),
};

impl Redirector {
    fn new(spec: RedirectorSpec) -> Result<Redirector, BuildError> {
        Ok(Redirector {
            expression: regexp::compile(&spec.r#match).map_err(|why| unexpected("match", why))?,
            part: spec.match_part,
            replacement: spec.replacement.into(),
            status: spec.status_code,
        })
    }
}

impl Filter for Redirector {
    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD.and(Touches::RESPONSE)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let request = exchange.request();
        let input = match (self.part, &request.query) {
            (MatchPart::Path, _) => Cow::Borrowed(request.path.as_str()),
            (MatchPart::Uri, None) => request.path.encoded(),
            (MatchPart::Uri, Some(_)) => Cow::Owned(request.target()),
            (MatchPart::Full, _) => {
                Cow::Owned(format!("{}://{}{}", exchange.client.scheme, request.authority, request.target()))
            }
        };
        // `replace_all` gives the input back when nothing was found.
        let Cow::Owned(location) = self.expression.replace_all(&input, &*self.replacement) else {
            return Step::Done(SUCCESS);
        };
        Step::Done(redirect(exchange, self.status, &location))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

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
