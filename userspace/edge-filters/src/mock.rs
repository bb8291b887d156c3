//! Answers requests itself, by rules.
//!
//! Use it for maintenance pages, for backends that do not exist yet, and as the target of a `jumpIf`.
//!
//! ```yaml
//! name: mock
//! kind: Mock
//! rules:
//! - match:
//!     pathPrefix: /users/
//!     headers: {X-Test: {exact: "1"}}
//!   code: 200
//!   headers: {Content-Type: application/json}
//!   body: '{"id": 1}'
//!   delay: 100ms
//! ```
//!
//! `GET /users/1` with `X-Test: 1` → `200 {"id": 1}` after 100 ms. The first rule that matches answers; without a match
//! the request passes.
//!
//! Outcomes: `mocked`. Fits HTTPServer. Costs a comparison per rule; the body is shared, not copied.

use crate::module_doc::module_doc;
use crate::spec::{self, Spec, check_final_status, check_headers, check_rooted, unexpected};
use base_model::problem::{at, nth};
use base_model::string_matcher::Matcher;
use base_model::{Findings, GoDuration, HttpCode, StringMatcher};
use bytes::Bytes;
use edge_pipeline::{Body, BuildError, Exchange, Filter, FilterKind, Outcome, SUCCESS, Step, Touches};
use proto_http::Request;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

const MOCKED: Outcome = "mocked";

/// `kind: Mock`: answers requests by rules.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["rules"]))]
pub struct MockSpec {
    /// Asked in order; the first that matches answers.
    pub rules: Vec<RuleSpec>,
}

/// A condition and the answer to give.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["code"]))]
pub struct RuleSpec {
    /// Which requests. Default: all.
    pub r#match: MatchSpec,
    /// Status to answer with, 200 to 599.
    pub code: HttpCode,
    /// Header fields of the answer.
    pub headers: BTreeMap<String, String>,
    /// Body of the answer. Default: empty.
    pub body: String,
    /// How long to wait before answering. Default: not at all.
    pub delay: GoDuration,
}

impl Default for RuleSpec {
    fn default() -> RuleSpec {
        RuleSpec {
            r#match: MatchSpec::default(),
            code: const { HttpCode::new(200).unwrap() },
            headers: BTreeMap::new(),
            body: String::new(),
            delay: GoDuration::ZERO,
        }
    }
}

/// Conditions on a request. `path` and `pathPrefix` are alternatives; headers must hold as well.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MatchSpec {
    /// The whole path. Default: not looked at.
    pub path: String,
    /// The path begins with this. Default: not looked at.
    pub path_prefix: String,
    /// Header fields by name; the first value of each is looked at.
    pub headers: BTreeMap<String, StringMatcher>,
    /// Whether all of `headers` must match, or one is enough. Default false: one.
    pub match_all_headers: bool,
}

impl Spec for MockSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        for (index, rule) in self.rules.iter().enumerate() {
            let path = nth(&at(path, "rules"), index);
            check_final_status(rule.code.code(), at(&path, "code"), findings);
            check_headers(&rule.headers, &at(&path, "headers"), findings);
            check_rooted(&rule.r#match.path, at(&at(&path, "match"), "path"), findings);
            check_rooted(&rule.r#match.path_prefix, at(&at(&path, "match"), "pathPrefix"), findings);
            for (name, matcher) in &rule.r#match.headers {
                matcher.validate(&at(&at(&at(&path, "match"), "headers"), name), findings);
            }
        }
    }
}

/// A ready Mock.
pub struct Mock {
    rules: Vec<Rule>,
}

struct Rule {
    path: Option<Box<str>>,
    prefix: Option<Box<str>>,
    headers: Vec<(Box<str>, Matcher)>,
    all: bool,
    code: u16,
    fields: Vec<(Box<str>, Box<str>)>,
    body: Bytes,
    delay: Duration,
}

pub const KIND: FilterKind = FilterKind {
    kind: "Mock",
    results: &[MOCKED],
    doc: module_doc!("mock.rs"),
    schema: spec::schema::<MockSpec>,
    check: spec::check::<MockSpec>,
    build: |fields, _| spec::build(fields, Mock::new),
};

impl Mock {
    fn new(spec: MockSpec) -> Result<Mock, BuildError> {
        let some = |text: String| (!text.is_empty()).then(|| text.into_boxed_str());
        let ready = |rule: RuleSpec| -> Result<Rule, BuildError> {
            let mut headers = Vec::new();
            for (name, matcher) in rule.r#match.headers {
                headers.push((name.into_boxed_str(), matcher.compile().map_err(|why| unexpected("rules", why))?));
            }
            Ok(Rule {
                path: some(rule.r#match.path),
                prefix: some(rule.r#match.path_prefix),
                headers,
                all: rule.r#match.match_all_headers,
                code: rule.code.code(),
                fields: rule.headers.into_iter().map(|(n, v)| (n.into(), v.trim().into())).collect(),
                body: rule.body.into(),
                delay: rule.delay.duration(),
            })
        };
        Ok(Mock { rules: spec.rules.into_iter().map(ready).collect::<Result<_, _>>()? })
    }
}

impl Filter for Mock {
    fn is_repeatable(&self) -> bool {
        true
    }

    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD.and(Touches::RESPONSE)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(exchange.request())) else {
            return Step::Done(SUCCESS);
        };
        let response = exchange.answer(rule.code, Body::shared(rule.body.clone()));
        for (name, value) in &rule.fields {
            response.headers.set(&**name, &**value);
        }
        if rule.delay.is_zero() {
            return Step::Done(MOCKED);
        }
        Step::wait(async {
            base_runtime::time::sleep(rule.delay).await;
            MOCKED
        })
    }
}

impl Rule {
    fn matches(&self, request: &Request) -> bool {
        let path = request.path.as_str();
        let anywhere = self.path.is_none() && self.prefix.is_none();
        let here = anywhere
            || self.path.as_deref().is_some_and(|whole| whole == path)
            || self.prefix.as_deref().is_some_and(|prefix| path.starts_with(prefix));
        if !here || self.headers.is_empty() {
            return here;
        }
        let holds = |(name, matcher): &(Box<str>, Matcher)| matcher.matches(request.headers.text(name).unwrap_or(""));
        if self.all { self.headers.iter().all(holds) } else { self.headers.iter().any(holds) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use edge_pipeline::{Parts, PipelineName};

    const RULES: &str = r#"
rules:
- {match: {path: /and, matchAllHeaders: true, headers: {X-A: {exact: "1"}, X-B: {prefix: b}}}, code: 201, body: and}
- {match: {path: /or, headers: {X-A: {exact: "1"}, X-B: {regex: "^b[0-9]$"}}}, code: 202}
- {match: {path: /empty, headers: {X-E: {empty: true}}}, code: 203}
- {match: {pathPrefix: /pre}, code: 206, body: pre, headers: {X-Mock: m}}
- {match: {path: /prefix2}, code: 500}
"#;

    #[test]
    fn the_first_rule_that_matches_answers() {
        for (path, headers, outcome, status) in [
            ("/none", &[][..], SUCCESS, 0),
            ("/and", &[("X-A", "1"), ("X-B", "bx")], MOCKED, 201),
            ("/and", &[("X-A", "1")], SUCCESS, 0),
            ("/or", &[("x-a", "1")], MOCKED, 202),
            ("/or", &[("X-B", "b7")], MOCKED, 202),
            ("/or", &[("X-B", "b")], SUCCESS, 0),
            ("/empty", &[], MOCKED, 203),
            ("/empty", &[("X-E", "x")], SUCCESS, 0),
            ("/prefix2", &[], MOCKED, 206),
        ] {
            check(path, headers, outcome, status);
        }
    }

    /// What says who may read the answer is true of whatever answers.
    #[test]
    fn pages_of_other_origins_read_it() {
        let mut exchange = request("GET", "/and", &[("Origin", "https://a.test")]);
        run(&*filter(&crate::cors_adaptor::KIND, "{}"), &mut exchange);
        assert_eq!(run(&*filter(&KIND, "rules: [{code: 504}]"), &mut exchange), MOCKED);
        assert_eq!(status_of(&exchange), 504);
        assert_eq!(response_header(&exchange, "Access-Control-Allow-Origin"), Some("*"));
        assert_eq!(response_header(&exchange, "Vary"), Some("Origin"));
    }

    /// What a backend said of its own answer does not: that is not who answers.
    #[test]
    fn pages_that_a_backend_lets_read_its_answer_read_no_other() {
        let mut exchange = request("GET", "/and", &[]);
        run(&*filter(&crate::cors_adaptor::KIND, "{}"), &mut exchange);
        let earlier = exchange.space().response.take().unwrap();
        answer(&mut exchange, 500, &[("Access-Control-Allow-Origin", "*"), ("Vary", "Cookie")], b"");
        crate::proxy::merge(exchange.response_mut().unwrap(), &earlier);
        assert_eq!(run(&*filter(&KIND, "rules: [{code: 504}]"), &mut exchange), MOCKED);
        let headers = &exchange.space_ref().response.as_ref().unwrap().headers;
        assert_eq!(headers.values("Vary").collect::<Vec<_>>(), [b"Origin"]);
        assert_eq!(headers.value("Access-Control-Allow-Origin"), None);
    }

    /// Nor do they where a second backend answers in place of the first, or where it cannot be reached and the request is refused.
    #[test]
    fn a_second_backend_and_a_refusal_do_not_repeat_what_the_first_allowed() {
        let allow = "Access-Control-Allow-Origin";
        let mut exchange = request("GET", "/", &[]);
        answer(&mut exchange, 500, &[(allow, "*"), ("X-First", "1")], b"");
        let earlier = exchange.space().response.take().unwrap();
        answer(&mut exchange, 200, &[], b"second");
        crate::proxy::merge(exchange.response_mut().unwrap(), &earlier);
        assert_eq!((response_header(&exchange, allow), response_header(&exchange, "X-First")), (None, Some("1")));
        answer(&mut exchange, 200, &[(allow, "*")], b"");
        exchange.refuse(502);
        assert_eq!(response_header(&exchange, allow), None);
        // What the document adds is the document's.
        let adds = "{header: {add: {Access-Control-Allow-Origin: 'https://a.test'}}}";
        run(&*filter(&crate::response_adaptor::KIND, adds), &mut exchange);
        exchange.refuse(503);
        assert_eq!(response_header(&exchange, allow), Some("https://a.test"));
    }

    /// It was taken before there was a rule, and is served.
    #[test]
    fn a_path_without_a_slash_is_refused_where_it_comes_in_alone() {
        let spec = "rules: [{code: 200, match: {path: a}}]";
        refuses(&KIND, spec, &["rules[0].match.path"]);
        let parts = Parts {
            name: "m",
            pipeline: &PipelineName::of_object("p"),
            previous: None,
            resilience: &[],
            telemetry: &telemetry(),
        };
        assert!((KIND.build)(&yaml(spec), &parts).is_ok());
    }

    #[test]
    fn a_delay_is_waited_for() {
        for (rule, waits) in [("{code: 200}", false), ("{code: 200, delay: 1ms}", true)] {
            let mut exchange = request("GET", "/", &[]);
            let mock = filter(&KIND, &format!("rules: [{rule}]"));
            assert_eq!(matches!(mock.handle(&mut exchange), Step::Wait(_)), waits, "{rule}");
        }
    }

    #[test]
    fn refused() {
        refuses(&KIND, "rules: [{code: 99}]", &["rules[0].code"]);
        refuses(&KIND, "rules: [{code: 101}]", &["rules[0].code"]);
        refuses(&KIND, "rules: [{match: {path: /}}]", &["rules[0].code"]);
        refuses(
            &KIND,
            "rules: [{code: 200, match: {headers: {X: {}}}, headers: {'a b': c}}]",
            &["rules[0].headers", "rules[0].match.headers.X"],
        );
        refuses(&KIND, "{}", &["rules"]);
    }

    fn check(path: &str, headers: &[(&str, &str)], outcome: Outcome, status: u16) {
        let mut exchange = request("GET", path, headers);
        let got = run(&*filter(&KIND, RULES), &mut exchange);
        assert_eq!((got, status_of(&exchange)), (outcome, status), "{path} {headers:?}");
        if status == 206 {
            assert_eq!(body_of(&exchange), b"pre");
            assert_eq!(response_header(&exchange, "X-Mock"), Some("m"));
        }
    }
}
