//! Lets pages of other origins read answers (CORS, Fetch standard section 3.2).
//!
//! Use it in front of a Proxy whose backend does not speak CORS itself; what it says replaces what the backend says.
//!
//! ```yaml
//! name: cors
//! kind: CORSAdaptor
//! allowedOrigins: ["https://*.example.com"]
//! allowedMethods: [GET, POST, PUT]
//! allowedHeaders: [Content-Type, Authorization]
//! allowCredentials: true
//! exposedHeaders: [X-Total]
//! maxAge: 600
//! ```
//!
//! `OPTIONS` with `Origin` and `Access-Control-Request-Method` → `204` with what is allowed. Other requests of an
//! allowed origin get the fields on their answer. Requests without `Origin` get `Vary: Origin` alone: a cache that kept their answer
//! for everybody would hide it from pages of other origins.
//!
//! Outcomes: `preflighted` (answered), `rejected` (the origin is not allowed; the answer is an empty 200 without
//! `Access-Control-Allow-Origin`). Fits HTTPServer. Costs a comparison per allowed origin.

use crate::module_doc::module_doc;
use crate::spec::{self, Spec};
use base_model::problem::{at, nth};
use base_model::words::check_methods;
use base_model::{Findings, Problem};
use edge_pipeline::exchange::fresh_response;
use edge_pipeline::{Body, BuildError, Exchange, Filter, FilterKind, Outcome, SUCCESS, Step, Touches};
use proto_http::{Headers, Method, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const PREFLIGHTED: Outcome = "preflighted";
const REJECTED: Outcome = "rejected";

/// `kind: CORSAdaptor`: lets pages of other origins read answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsAdaptorSpec {
    /// Origins, each with at most one `*` in it. Default and empty: all, and with `full` none. `null`, which any site can make its pages
    /// have, never gets credentials.
    pub allowed_origins: Vec<String>,
    /// Methods. Default GET, POST, HEAD.
    #[schemars(extend("uniqueItems" = true))]
    pub allowed_methods: Vec<String>,
    /// Request headers beside those that are always allowed; `*` for all. Default Accept, Content-Type, X-Requested-With.
    pub allowed_headers: Vec<String>,
    /// Whether cookies and credentials may come along. Default false.
    pub allow_credentials: bool,
    /// Response headers that pages may read.
    pub exposed_headers: Vec<String>,
    /// How long a browser may remember a preflight, in seconds. Default 0: its own default.
    #[schemars(range(min = 0))]
    pub max_age: i64,
    /// Answer as the Gateway API wants it: preflights with every method that is allowed and with the exposed headers, no origin that is
    /// not listed, and the origin itself where `*` is listed and credentials may come along: then pages of any site can act as
    /// whoever looks at them. Default false: with the method that is asked for, and `*` where every origin is allowed.
    pub full: bool,
}

impl Default for CorsAdaptorSpec {
    fn default() -> CorsAdaptorSpec {
        CorsAdaptorSpec {
            allowed_origins: Vec::new(),
            allowed_methods: ["GET", "POST", "HEAD"].map(str::to_owned).to_vec(),
            allowed_headers: ["Accept", "Content-Type", "X-Requested-With"].map(str::to_owned).to_vec(),
            allow_credentials: false,
            exposed_headers: Vec::new(),
            max_age: 0,
            full: false,
        }
    }
}

impl Spec for CorsAdaptorSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        for (index, origin) in self.allowed_origins.iter().enumerate() {
            if origin.matches('*').count() > 1 {
                let place = nth(&at(path, "allowedOrigins"), index);
                findings.problem(
                    Problem::new(place, "more than one *").text(origin).advice("keep one, or list the origins"),
                );
            }
        }
        if self.allowed_methods != ["*"] {
            let mut told = Findings::default();
            check_methods(&self.allowed_methods, &at(path, "allowedMethods"), &mut told);
            let is_token = self.allowed_methods.iter().all(|method| base_model::header_adapt::is_header_name(method));
            let problems = told.problems.into_iter().map(|problem| if is_token { problem.late() } else { problem });
            findings.problems.extend(problems);
        }
        for (key, names) in [("allowedHeaders", &self.allowed_headers), ("exposedHeaders", &self.exposed_headers)] {
            for (index, name) in names.iter().enumerate() {
                if name != "*" && !base_model::header_adapt::is_header_name(name) {
                    findings.problem(Problem::new(nth(&at(path, key), index), "not a name HTTP allows").text(name));
                }
            }
        }
        let origins = self.origins();
        if self.allow_credentials && origins.any {
            let why = if self.full {
                "pages of any site may ask with the cookies of whoever looks at them, and read the answers; list the origins that may in \
                 allowedOrigins"
            } else {
                "browsers refuse credentials where every origin is allowed; list the origins in allowedOrigins"
            };
            findings.warn(at(path, "allowCredentials"), why);
        }
        if self.allow_credentials && self.allowed_origins.iter().any(|origin| origin.eq_ignore_ascii_case("null")) {
            let why = "any site can make its pages have the origin null: it may read answers, and gets no credentials";
            findings.warn(at(path, "allowedOrigins"), why);
        }
        if !origins.any && origins.listed.is_empty() {
            findings.warn(at(path, "allowedOrigins"), "no origin is allowed; list those that are, or \"*\"");
        }
    }
}

/// A ready CORSAdaptor.
pub struct CorsAdaptor {
    origins: Origins,
    methods: Vec<Box<str>>,
    /// `None`: all.
    headers: Option<Vec<Box<str>>>,
    credentials: bool,
    exposed: Option<Box<str>>,
    max_age: Option<Box<str>>,
    /// What preflights are answered with, unless it is the method that is asked for.
    all_methods: Option<Box<str>>,
    full: bool,
}

/// Allowed origins.
struct Origins {
    any: bool,
    listed: Vec<(Box<str>, Option<Box<str>>)>,
}

pub const KIND: FilterKind = FilterKind {
    kind: "CORSAdaptor",
    results: &[PREFLIGHTED, REJECTED],
    doc: module_doc!("cors_adaptor.rs"),
    schema: spec::schema::<CorsAdaptorSpec>,
    check: spec::check::<CorsAdaptorSpec>,
    build: |fields, _| spec::build(fields, CorsAdaptor::new),
};

impl CorsAdaptor {
    fn new(spec: CorsAdaptorSpec) -> Result<CorsAdaptor, BuildError> {
        let (defaults, origins) = (CorsAdaptorSpec::default(), spec.origins());
        let or = |given: Vec<String>, default: Vec<String>| if given.is_empty() { default } else { given };
        let boxed = |names: Vec<String>| names.into_iter().map(String::into_boxed_str).collect::<Vec<_>>();
        let headers = or(spec.allowed_headers, defaults.allowed_headers);
        let methods = or(spec.allowed_methods, defaults.allowed_methods);
        let all_methods = spec.full && !methods.iter().any(|method| method == "*");
        Ok(CorsAdaptor {
            origins,
            all_methods: all_methods.then(|| methods.join(", ").into()),
            full: spec.full,
            methods: boxed(methods),
            headers: (!headers.iter().any(|h| h == "*")).then(|| boxed(headers)),
            credentials: spec.allow_credentials,
            exposed: (!spec.exposed_headers.is_empty()).then(|| spec.exposed_headers.join(", ").into()),
            max_age: (spec.max_age > 0).then(|| spec.max_age.to_string().into()),
        })
    }

    /// The answer to a preflight; without the fields when something it asks for is not allowed.
    fn preflight(&self, request: &Headers) -> Response {
        let mut response = Response::with_status(204);
        let headers = &mut response.headers;
        headers.add_own("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers");
        let origin = request.text("Origin").unwrap_or_default();
        let method = request.text("Access-Control-Request-Method").unwrap_or_default().trim();
        let asked = request.text("Access-Control-Request-Headers").unwrap_or_default();
        let method_allowed = method.eq_ignore_ascii_case("OPTIONS") || self.allows_method(method);
        if !self.origins.allows(origin) || !method_allowed || !self.allows_headers(asked) {
            return response;
        }
        self.allow_origin(origin, headers);
        match &self.all_methods {
            Some(all) => headers.add_own("Access-Control-Allow-Methods", &**all),
            None => headers.add_own("Access-Control-Allow-Methods", method.to_ascii_uppercase()),
        }
        if let Some(names) = self.exposed.as_deref().filter(|_| self.full) {
            headers.add_own("Access-Control-Expose-Headers", names);
        }
        if !asked.is_empty() {
            headers.add_own("Access-Control-Allow-Headers", asked);
        }
        if let Some(seconds) = &self.max_age {
            headers.add_own("Access-Control-Max-Age", &**seconds);
        }
        response
    }

    fn allow_origin(&self, origin: &str, headers: &mut Headers) {
        // Any site can make its pages have that one, with a frame in a sandbox.
        let credentials = self.credentials && !origin.eq_ignore_ascii_case("null");
        let any = self.origins.any && !(self.full && credentials);
        headers.set("Access-Control-Allow-Origin", if any { "*" } else { origin });
        if credentials {
            headers.set("Access-Control-Allow-Credentials", "true");
        }
    }

    fn allows_method(&self, method: &str) -> bool {
        self.methods.iter().any(|m| &**m == "*" || m.eq_ignore_ascii_case(method))
    }

    fn allows_headers(&self, asked: &str) -> bool {
        let Some(allowed) = &self.headers else { return true };
        let known =
            |name: &str| name.eq_ignore_ascii_case("Origin") || allowed.iter().any(|a| a.eq_ignore_ascii_case(name));
        asked.split(',').map(str::trim).filter(|name| !name.is_empty()).all(known)
    }
}

impl Filter for CorsAdaptor {
    fn is_repeatable(&self) -> bool {
        true
    }

    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD.and(Touches::RESPONSE)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let request = exchange.request();
        let Some(origin) = request.headers.value("Origin").filter(|origin| !origin.is_empty()) else {
            exchange.space().response.get_or_insert_with(fresh_response).headers.add_own_text("Vary", "Origin");
            return Step::Done(SUCCESS);
        };
        let origin = std::str::from_utf8(origin).unwrap_or_default();
        if request.method == Method::Options
            && request.headers.value("Access-Control-Request-Method").is_some_and(|m| !m.is_empty())
        {
            let response = self.preflight(&request.headers);
            exchange.respond(response, Body::Empty);
            return Step::Done(PREFLIGHTED);
        }
        let allowed = self.origins.allows(origin);
        let method_allowed = self.allows_method(request.method.as_str());
        // The request borrows the exchange; its origin is needed while the response is written.
        let origin = origin.to_owned();
        let headers = &mut exchange.space().response.get_or_insert_with(fresh_response).headers;
        headers.add_own_text("Vary", "Origin");
        if !allowed {
            return Step::Done(REJECTED);
        }
        if method_allowed {
            self.allow_origin(&origin, headers);
            if let Some(names) = &self.exposed {
                headers.set("Access-Control-Expose-Headers", &**names);
            }
        }
        Step::Done(SUCCESS)
    }
}

impl CorsAdaptorSpec {
    fn origins(&self) -> Origins {
        let origins = &self.allowed_origins;
        if origins.iter().any(|o| o == "*") || origins.is_empty() && !self.full {
            return Origins { any: true, listed: Vec::new() };
        }
        let parts = |origin: &String| {
            let origin = origin.to_ascii_lowercase();
            match origin.split_once('*') {
                Some((before, after)) => (before.into(), Some(after.into())),
                None => (origin.into(), None),
            }
        };
        Origins { any: false, listed: origins.iter().map(parts).collect() }
    }
}

impl Origins {
    fn allows(&self, origin: &str) -> bool {
        let (origin, starts) = (origin.as_bytes(), |origin: &[u8], with: &str| {
            origin.get(..with.len()).is_some_and(|head| head.eq_ignore_ascii_case(with.as_bytes()))
        });
        self.any
            || self.listed.iter().any(|(before, after)| match after {
                None => origin.eq_ignore_ascii_case(before.as_bytes()),
                Some(after) => {
                    origin.len() >= before.len() + after.len()
                        && starts(origin, before)
                        && origin[origin.len() - after.len()..].eq_ignore_ascii_case(after.as_bytes())
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    const SPEC: &str = "{allowedOrigins: ['https://*.example.com', 'http://a.test'], allowedMethods: [GET, PUT], \
                        allowedHeaders: [X-One], allowCredentials: true, exposedHeaders: [X-A, X-B], maxAge: 60}";

    #[test]
    fn preflights() {
        for (spec, origin, method, headers, allowed) in [
            (SPEC, "http://a.test", "PUT", "x-one, Origin", Some("http://a.test")),
            (SPEC, "https://x.Example.com", "GET", "", Some("https://x.Example.com")),
            (SPEC, "https://example.com", "GET", "", None),
            (SPEC, "http://a.test", "DELETE", "", None),
            (SPEC, "http://a.test", "PUT", "X-Two", None),
            ("{}", "http://any.test", "POST", "Content-Type", Some("*")),
            ("{allowedHeaders: ['*']}", "http://any.test", "GET", "X-Any", Some("*")),
        ] {
            let asked = [
                ("Origin", origin),
                ("Access-Control-Request-Method", method),
                ("Access-Control-Request-Headers", headers),
            ];
            let mut exchange = request("OPTIONS", "/", &asked);
            assert_eq!(run(&*filter(&KIND, spec), &mut exchange), PREFLIGHTED);
            assert_eq!(status_of(&exchange), 204);
            assert_eq!(response_header(&exchange, "Access-Control-Allow-Origin"), allowed, "{asked:?}");
            let methods = response_header(&exchange, "Access-Control-Allow-Methods");
            assert_eq!(methods, allowed.map(|_| method), "{asked:?}");
        }
    }

    #[test]
    fn full_answers_are_the_gateway_apis() {
        let asked = [("Origin", "http://a.test"), ("Access-Control-Request-Method", "PUT")];
        for (spec, methods, origin, exposed) in [
            (
                "{allowedOrigins: ['*'], allowedMethods: [GET, PUT], exposedHeaders: [X-A], full: true}",
                "GET, PUT",
                "*",
                Some("X-A"),
            ),
            ("{allowedMethods: [GET, PUT], exposedHeaders: [X-A]}", "PUT", "*", None),
            (
                "{allowedOrigins: ['*'], allowedMethods: ['*'], allowCredentials: true, full: true}",
                "PUT",
                "http://a.test",
                None,
            ),
        ] {
            let mut exchange = request("OPTIONS", "/", &asked);
            assert_eq!(run(&*filter(&KIND, spec), &mut exchange), PREFLIGHTED);
            let told = |name: &str| response_header(&exchange, name);
            assert_eq!(told("Access-Control-Allow-Methods"), Some(methods), "{spec}");
            assert_eq!(told("Access-Control-Allow-Origin"), Some(origin), "{spec}");
            assert_eq!(told("Access-Control-Expose-Headers"), exposed, "{spec}");
        }
    }

    #[test]
    fn other_requests() {
        for (origin, outcome, allowed) in [
            (None, SUCCESS, None),
            (Some("http://a.test"), SUCCESS, Some("http://a.test")),
            (Some("http://b.test"), REJECTED, None),
        ] {
            let headers: Vec<_> = origin.map(|o| ("Origin", o)).into_iter().collect();
            let mut exchange = request("GET", "/", &headers);
            assert_eq!(run(&*filter(&KIND, SPEC), &mut exchange), outcome, "{origin:?}");
            assert_eq!(response_header(&exchange, "Access-Control-Allow-Origin"), allowed, "{origin:?}");
            assert_eq!(response_header(&exchange, "Access-Control-Expose-Headers"), allowed.map(|_| "X-A, X-B"));
            // A cache that keeps the answer to the one may not give it to the other.
            assert_eq!(response_header(&exchange, "Vary"), Some("Origin"));
        }
    }

    /// A frame in a sandbox has the origin `null` on every site.
    #[test]
    fn null_gets_no_credentials() {
        for (spec, origin, wanted) in [
            ("{allowedOrigins: ['*'], allowCredentials: true, full: true}", "null", Some(("*", None))),
            (
                "{allowedOrigins: ['*'], allowCredentials: true, full: true}",
                "http://a.test",
                Some(("http://a.test", Some("true"))),
            ),
            ("{allowedOrigins: ['null'], allowCredentials: true}", "null", Some(("null", None))),
            ("{allowCredentials: true}", "null", Some(("*", None))),
            ("{allowedOrigins: ['http://a.test'], allowCredentials: true}", "null", None),
            // Nothing is listed, so nothing is allowed.
            ("{allowCredentials: true, full: true}", "http://a.test", None),
        ] {
            for method in ["GET", "OPTIONS"] {
                let asked = [("Origin", origin), ("Access-Control-Request-Method", "GET")];
                let mut exchange = request(method, "/", &asked);
                run(&*filter(&KIND, spec), &mut exchange);
                let told = |name: &str| response_header(&exchange, name);
                let allowed = told("Access-Control-Allow-Origin");
                let got = allowed.map(|origin| (origin, told("Access-Control-Allow-Credentials")));
                assert_eq!(got, wanted, "{method} {spec} {origin}");
            }
        }
    }

    #[test]
    fn refused_and_warned() {
        refuses(
            &KIND,
            "{allowedOrigins: ['*.*'], allowedMethods: ['G T']}",
            &["allowedMethods[0]", "allowedOrigins[0]"],
        );
        refuses(&KIND, "{maxAge: -1}", &["maxAge"]);
        for (spec, path, says) in [
            ("{allowCredentials: true}", "allowCredentials", "browsers refuse credentials"),
            ("{allowedOrigins: ['*'], allowCredentials: true, full: true}", "allowCredentials", "pages of any site"),
            ("{allowCredentials: true, full: true}", "allowedOrigins", "no origin is allowed"),
            ("{allowedOrigins: ['null'], allowCredentials: true}", "allowedOrigins", "the origin null"),
        ] {
            let warnings = KIND.checked(&yaml(spec), "").unwrap();
            assert_eq!(warnings.len(), 1, "{spec}");
            assert!(warnings[0].path == path && warnings[0].message.contains(says), "{spec}: {}", warnings[0]);
        }
    }
}
