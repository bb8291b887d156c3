//! Changes the request before it goes on: method, path, header fields, host, body, compression.
//!
//! Use it in front of a Proxy whose backend expects other paths or headers than clients send.
//!
//! ```yaml
//! name: adaptor
//! kind: RequestAdaptor
//! method: PUT
//! path: {addPrefix: /v1}            # or replace, trimPrefix, regexpReplace: {regexp, replace}
//! header:
//!   del: [X-Debug]
//!   set: {X-Adapt-Key: goodplan}
//!   add: {X-Via: edge}
//! host: api.internal
//! body: replaced
//! compress: gzip                    # or decompress: gzip
//! template: |
//!   header:
//!     set: {X-User: '{{.req.URL.Query.Get "user"}}'}
//! ```
//!
//! `POST /k` → `PUT /v1/k` with the changed fields. A key of the template's output wins over the same key of the
//! document. The order is method, path, header, body, host, compress, decompress, sign.
//!
//! Outcomes: `decompressFailed` (not gzip, or more than 16 MiB unpacked, counted as `unpacked_body_bytes`), `compressFailed` (a
//! short body did not arrive; a long one is packed as it passes),
//! `buildErr` (the template failed or says what cannot be sent), `signFailed`. Fits HTTPServer. Costs nothing for the
//! body unless it is compressed, or the template looks into it.

use crate::adapt::HeaderAdapt;
use crate::builder::{self, BUILD_ERR, TemplateText};
use crate::built::{self, Built, BuiltError};
use crate::coding::{self, CodingError};
use crate::gzip::GzipError;
use crate::module_doc::module_doc;
use crate::spec::{self, Spec, check_rooted, unexpected};
use crate::validator::now;
use crate::validator::signer::{SignSpec, Signer};
use base_model::problem::at;
use base_model::{Findings, HeaderAdaptSpec, Problem, regexp};
use base_telemetry::Limit;
use base_text::quoted;
use bytes::Bytes;
use edge_pipeline::{
    Body, BodyError, BuildError, Exchange, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, Template, Touches,
};
use proto_http::path::PathError;
use proto_http::{Method, Request, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) const DECOMPRESS_FAILED: Outcome = "decompressFailed";
pub(crate) const COMPRESS_FAILED: Outcome = "compressFailed";
const SIGN_FAILED: Outcome = "signFailed";

/// `kind: RequestAdaptor`: changes the request before it goes on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestAdaptorSpec {
    /// Method to use. Default: the client's.
    pub method: String,
    /// Change of the path. Default: none.
    pub path: Option<PathAdaptSpec>,
    /// Changes of header fields. Default: none.
    pub header: Option<HeaderAdaptSpec>,
    /// Authority to ask for, host or host:port. Default: the client's.
    pub host: String,
    /// Body to send. Default: the client's.
    pub body: String,
    /// `gzip` packs the body, unless it has an encoding already. Default: leave it.
    pub compress: String,
    /// `gzip` unpacks a body that is packed so. Default: leave it.
    pub decompress: String,
    /// Signs the request, so that the backend knows who forwards it. Default: leave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign: Option<SignSpec>,
    /// Go template that gives YAML with the keys `method`, `path`, `header`, `host` and `body`.
    pub template: String,
    /// Left delimiter of the template. Default `{{`.
    pub left_delim: String,
    /// Right delimiter of the template. Default `}}`.
    pub right_delim: String,
}

/// Change of a path. The first that is given of `replace`, `addPrefix`, `trimPrefix`, `regexpReplace` acts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PathAdaptSpec {
    /// The whole new path.
    pub replace: String,
    /// Put before the path; begins with `/`.
    pub add_prefix: String,
    /// Taken from the front of the path, where it is there; begins with `/`.
    pub trim_prefix: String,
    /// Replaces what an expression finds.
    pub regexp_replace: Option<RegexpReplaceSpec>,
}

/// Replaces what an expression finds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["regexp"]))]
pub struct RegexpReplaceSpec {
    /// RE2 expression; every match is replaced.
    #[schemars(extend("format" = "regexp"))]
    pub regexp: String,
    /// What stands there afterwards; `$1` and `${name}` are groups.
    pub replace: String,
}

impl Spec for RequestAdaptorSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        if !self.method.is_empty() {
            let mut found = Findings::default();
            base_model::words::check_methods(std::slice::from_ref(&self.method), "", &mut found);
            for mut problem in found.problems {
                problem.path = at(path, "method");
                findings.problem(problem);
            }
        }
        if let Some(adapt) = &self.path {
            adapt.validate(&at(path, "path"), findings);
        }
        if let Some(header) = &self.header {
            header.validate(&at(path, "header"), findings);
            if let Some(host) = HeaderAdapt::new(header).host()
                && !proto_http::authority::is_authority(host.as_bytes())
            {
                let problem = Problem::new(at(path, "header"), "sets a Host that is none").text(host);
                findings.problem(problem.accepted("host or host:port"));
            }
        }
        if !self.host.is_empty() && !proto_http::authority::is_authority(self.host.as_bytes()) {
            findings
                .problem(Problem::new(at(path, "host"), "not a host").text(&self.host).accepted("host or host:port"));
        }
        check_codecs(&self.compress, &self.decompress, !self.body.is_empty(), path, findings);
        if let Some(sign) = &self.sign {
            sign.validate(&at(path, "sign"), findings);
        }
        if !self.template.is_empty() {
            self.template_text().check(path, findings);
        }
    }
}

/// gzip only, one direction only, and no unpacking of a body that is replaced.
pub(crate) fn check_codecs(compress: &str, decompress: &str, body: bool, path: &str, findings: &mut Findings) {
    for (key, codec) in [("compress", compress), ("decompress", decompress)] {
        if !codec.is_empty() && codec != "gzip" {
            findings.problem(Problem::new(at(path, key), "not a codec").text(codec).accepted("gzip"));
        }
    }
    if !compress.is_empty() && !decompress.is_empty() {
        let problem = Problem::new(at(path, "decompress"), "a body is either packed or unpacked, not both");
        let problem = problem.text(decompress);
        findings.problem(problem.advice("remove compress or decompress"));
    }
    if body && !decompress.is_empty() {
        let problem = Problem::new(at(path, "decompress"), "the body is replaced, there is nothing to unpack");
        let problem = problem.text(decompress);
        findings.problem(problem.advice("remove body or decompress"));
    }
}

impl PathAdaptSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        check_rooted(&self.add_prefix, at(path, "addPrefix"), findings);
        check_rooted(&self.trim_prefix, at(path, "trimPrefix"), findings);
        if let Some(replace) = &self.regexp_replace {
            base_model::string_matcher::check_regexp(
                &replace.regexp,
                &at(&at(path, "regexpReplace"), "regexp"),
                findings,
            );
        }
    }
}

impl RequestAdaptorSpec {
    fn template_text(&self) -> TemplateText<'_> {
        TemplateText { text: &self.template, left: &self.left_delim, right: &self.right_delim }
    }
}

/// A ready RequestAdaptor.
pub struct RequestAdaptor {
    method: Option<Method>,
    path: Option<PathAdapt>,
    header: Option<HeaderAdapt>,
    host: Option<Box<str>>,
    body: Option<Bytes>,
    compress: bool,
    decompress: bool,
    sign: Option<Signer>,
    template: Option<Template>,
    /// Fields are all it changes.
    is_header_alone: bool,
    refused: builder::Refusals,
    /// Bodies that unpack to too much.
    too_large: Limit,
}

enum PathAdapt {
    Replace(Box<str>),
    AddPrefix(Box<str>),
    TrimPrefix(Box<str>),
    RegexpReplace(regex::Regex, Box<str>),
}

pub const KIND: FilterKind = FilterKind {
    kind: "RequestAdaptor",
    results: &[DECOMPRESS_FAILED, COMPRESS_FAILED, BUILD_ERR, SIGN_FAILED],
    doc: module_doc!("request_adaptor.rs"),
    schema: spec::schema::<RequestAdaptorSpec>,
    check: spec::check::<RequestAdaptorSpec>,
    build: |fields, parts| spec::build(fields, |spec| RequestAdaptor::new(spec, parts)),
};

impl RequestAdaptor {
    fn new(spec: RequestAdaptorSpec, parts: &Parts<'_>) -> Result<RequestAdaptor, BuildError> {
        let template = if spec.template.is_empty() { None } else { Some(spec.template_text().parse()?) };
        let header_alone = RequestAdaptorSpec { header: spec.header.clone(), ..RequestAdaptorSpec::default() };
        Ok(RequestAdaptor {
            is_header_alone: spec == header_alone,
            method: Method::parse(spec.method.as_bytes()),
            path: spec.path.as_ref().map(PathAdapt::new).transpose().map_err(|why| unexpected("path", why))?.flatten(),
            header: spec.header.as_ref().map(HeaderAdapt::new),
            host: (!spec.host.is_empty()).then(|| spec.host.as_str().into()),
            body: (!spec.body.is_empty()).then(|| spec.body.into()),
            compress: !spec.compress.is_empty(),
            decompress: !spec.decompress.is_empty(),
            sign: spec.sign.as_ref().map(Signer::new),
            template,
            refused: builder::refusals(parts),
            too_large: unpacked_limit(parts),
        })
    }

    /// Everything but the codecs. Bodies the template looks into are in memory.
    fn adapt(&self, exchange: &mut Exchange) -> Result<(), BuiltError> {
        match &self.template {
            Some(template) => self.adapt_also(&Changes::of_built(&built::render(template, exchange)?)?, exchange),
            None => self.adapt_also(&NO_CHANGES, exchange),
        }
    }

    /// The changes of the document, unless those of a template take their place.
    fn adapt_also(&self, changes: &Changes, exchange: &mut Exchange) -> Result<(), BuiltError> {
        let space = exchange.space();
        let request = &mut space.request;
        if let Some(method) = changes.method.as_ref().or(self.method.as_ref()) {
            request.method = method.clone();
        }
        if let Some(path) = changes.path.as_ref().or(self.path.as_ref())
            && let Err(error) = path.apply(&mut request.path)
        {
            space.respond(Response::with_status(400), Body::Empty);
            return Err(BuiltError::Refused(error.to_string()));
        }
        if let Some(header) = changes.header.as_ref().or(self.header.as_ref()) {
            change_fields(header, request);
        }
        if let Some(body) = changes.body.as_ref().or(self.body.as_ref()) {
            space.request_body = Body::full(body.clone());
            coding::replaced(&mut request.headers);
        }
        if let Some(host) = changes.host.as_ref().or(self.host.as_ref()) {
            request.authority.clear();
            request.authority.push_str(host);
        }
        Ok(())
    }

    async fn adapt_with_body(&self, exchange: &mut Exchange) -> Outcome {
        if let Some(template) = &self.template
            && let Err(error) = builder::collect(template, exchange).await
        {
            return builder::failed(exchange, KIND.kind, &error, &self.refused);
        }
        if self.body.is_some() && exchange.space().request_body.is_stream() {
            // Read to its end, a small body costs less than the connection that dropping it would.
            let _ = exchange.space().request_body.collect(DRAIN_MAX).await;
        }
        if let Err(error) = self.adapt(exchange) {
            return builder::failed(exchange, KIND.kind, &error, &self.refused);
        }
        let space = exchange.space();
        let (headers, body) = (&mut space.request.headers, &mut space.request_body);
        if self.compress && coding::pack_request(headers, body).await.is_err() {
            return COMPRESS_FAILED;
        }
        if self.decompress
            && let Err(error) = coding::unpack_request(headers, body).await
        {
            return decompress_failed(exchange, KIND.kind, error, &self.too_large);
        }
        match &self.sign {
            Some(signer) => sign(signer, exchange).await,
            None => SUCCESS,
        }
    }
}

/// A `Host` among the fields is the authority that is asked for.
fn change_fields(header: &HeaderAdapt, request: &mut Request) {
    header.apply(&mut request.headers);
    if let Some(host) = header.host() {
        request.authority.clear();
        request.authority.push_str(host);
    }
}

/// The request as it is now, with its body where that is signed.
async fn sign(signer: &Signer, exchange: &mut Exchange) -> Outcome {
    let space = exchange.space();
    let body = match signer.exclude_body {
        true => Ok(None),
        false => {
            let most = space.request_body.gathered_most();
            match space.request_body.collect_or_leave(most).await {
                Ok(bytes) => Ok(Some(bytes.clone())),
                // As Easegress does with one that is a stream.
                Err(BodyError::TooLarge) => Ok(None),
                Err(error) => Err(error),
            }
        }
    };
    let signed = match body {
        Ok(body) => {
            signer.sign(&mut space.request, body.as_deref(), now() as i64).map_err(|error| (400, error.to_string()))
        }
        Err(error) => Err((error.request_status(), error.to_string())),
    };
    match signed {
        Ok(()) => SUCCESS,
        Err((status, why)) => {
            exchange.tags.note(|| format!("requestAdaptor: the request cannot be signed: {why}"));
            exchange.refuse(status);
            SIGN_FAILED
        }
    }
}

impl Filter for RequestAdaptor {
    /// One that changes the method may make something else of a safe request.
    fn is_repeatable(&self) -> bool {
        self.method.is_none() && self.template.is_none()
    }

    fn touches(&self) -> Touches {
        let signs_body = self.sign.as_ref().is_some_and(|signer| !signer.exclude_body);
        let changes_body = self.body.is_some() || self.compress || self.decompress || signs_body;
        let template = self.template.as_ref().map_or(Touches::NOTHING, |template| template.bodies().touches());
        // What a template gives may be a body, too.
        let may_change = changes_body || self.template.is_some();
        Touches::REQUEST_HEAD.and(template).and_if(may_change, Touches::REQUEST_BODY)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        if self.is_header_alone {
            if let Some(header) = &self.header {
                change_fields(header, &mut exchange.space().request);
            }
            return Step::Done(SUCCESS);
        }
        let waits = self.compress
            || self.decompress
            || self.sign.is_some()
            || (self.body.is_some() && exchange.space_ref().request_body.is_stream())
            || self.template.as_ref().is_some_and(|t| t.bodies().on_their_way(exchange));
        if waits {
            return Step::wait(self.adapt_with_body(exchange));
        }
        Step::Done(match self.adapt(exchange) {
            Ok(()) => SUCCESS,
            Err(error) => builder::failed(exchange, KIND.kind, &error, &self.refused),
        })
    }
}

/// What a template asks for in this one request.
struct Changes {
    method: Option<Method>,
    path: Option<PathAdapt>,
    header: Option<HeaderAdapt>,
    host: Option<Box<str>>,
    body: Option<Bytes>,
}

static NO_CHANGES: Changes = Changes { method: None, path: None, header: None, host: None, body: None };

impl Changes {
    fn of_built(built: &Built) -> Result<Changes, BuiltError> {
        let method = match built.text("method")? {
            None => None,
            Some(text) => Some(Method::parse(text.as_bytes()).ok_or_else(|| refused(&text, "a method"))?),
        };
        let header = built.map("header")?.map(|header| HeaderAdapt::of_built(&header)).transpose()?;
        if let Some(host) = header.as_ref().and_then(HeaderAdapt::host)
            && !proto_http::authority::is_authority(host.as_bytes())
        {
            return Err(refused(host, "a host"));
        }
        let host = match built.text("host")? {
            Some(text) if !proto_http::authority::is_authority(text.as_bytes()) => {
                return Err(refused(&text, "a host"));
            }
            text => text.map(|text| text.as_ref().into()),
        };
        Ok(Changes {
            method,
            path: built.map("path")?.map(|path| PathAdapt::of_built(&path)).transpose()?.flatten(),
            header,
            host,
            body: built.text("body")?.map(|text| Bytes::copy_from_slice(text.as_bytes())),
        })
    }
}

fn refused(text: &str, what: &str) -> BuiltError {
    BuiltError::Refused(format!("{} is not {what}", quoted(text)))
}

impl PathAdapt {
    /// `None` when nothing is asked for.
    fn new(spec: &PathAdaptSpec) -> Result<Option<PathAdapt>, String> {
        let given = |text: &str| (!text.is_empty()).then(|| Box::<str>::from(text));
        if let Some(path) = given(&spec.replace) {
            return Ok(Some(PathAdapt::Replace(path)));
        }
        if let Some(prefix) = given(&spec.add_prefix) {
            return Ok(Some(PathAdapt::AddPrefix(prefix)));
        }
        if let Some(prefix) = given(&spec.trim_prefix) {
            return Ok(Some(PathAdapt::TrimPrefix(prefix)));
        }
        match &spec.regexp_replace {
            Some(replace) => {
                let regex = regexp::compile(&replace.regexp)?;
                Ok(Some(PathAdapt::RegexpReplace(regex, replace.replace.as_str().into())))
            }
            None => Ok(None),
        }
    }

    fn of_built(built: &Built) -> Result<Option<PathAdapt>, BuiltError> {
        let text = |key| Ok::<_, BuiltError>(built.text(key)?.unwrap_or_default().into_owned());
        let regexp_replace = match built.map("regexpReplace")? {
            None => None,
            Some(replace) => Some(RegexpReplaceSpec {
                regexp: replace.expression("regexp")?,
                replace: replace.replacement("replace")?,
            }),
        };
        let spec = PathAdaptSpec {
            replace: text("replace")?,
            add_prefix: text("addPrefix")?,
            trim_prefix: text("trimPrefix")?,
            regexp_replace,
        };
        Ok(PathAdapt::new(&spec)?)
    }

    /// What may not be a path is refused, and the path stays.
    fn apply(&self, path: &mut proto_http::Path) -> Result<(), PathError> {
        let text = path.as_str();
        let changed = match self {
            PathAdapt::Replace(whole) => whole.to_string(),
            PathAdapt::AddPrefix(prefix) => format!("{prefix}{text}"),
            PathAdapt::TrimPrefix(prefix) => match text.strip_prefix(&**prefix) {
                Some(rest) => rest.to_owned(),
                None => return Ok(()),
            },
            PathAdapt::RegexpReplace(regex, with) => match regex.replace_all(text, &**with) {
                std::borrow::Cow::Owned(changed) => changed,
                std::borrow::Cow::Borrowed(_) => return Ok(()),
            },
        };
        path.rewrite(&changed)
    }
}

/// The bound on what a body may unpack to, for a filter that unpacks.
pub(crate) fn unpacked_limit(parts: &Parts<'_>) -> Limit {
    parts.telemetry.limits().register("unpacked_body_bytes")
}

/// Notes why a body could not be unpacked, counts it when that was a bound, and gives the result.
pub(crate) fn decompress_failed(exchange: &mut Exchange, kind: &str, error: CodingError, too_large: &Limit) -> Outcome {
    if error == CodingError::Gzip(GzipError::TooLarge) {
        too_large.hit(base_runtime::worker_index());
    }
    exchange.tags.note(|| format!("{kind}: {error}"));
    DECOMPRESS_FAILED
}

/// Longest body that is read only to be thrown away.
const DRAIN_MAX: u64 = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn paths() {
        for (spec, path, want) in [
            ("{path: {addPrefix: /v1}}", "/k", "/v1/k"),
            ("{path: {replace: /x, addPrefix: /v1}}", "/k", "/x"),
            ("{path: {trimPrefix: /a}}", "/a/b", "/b"),
            ("{path: {trimPrefix: /a}}", "/b/a", "/b/a"),
            ("{path: {trimPrefix: /a/}}", "/a/b", "/b"),
            ("{path: {regexpReplace: {regexp: '^/([a-z]+)/([a-z]+)', replace: '/$2/$1'}}}", "/a/b/c", "/b/a/c"),
            ("{template: 'path: {addPrefix: \"/{{.req.Method}}\"}', path: {replace: /no}}", "/k", "/GET/k"),
            ("{template: 'host: other.test', path: {replace: /yes}}", "/k", "/yes"),
        ] {
            let mut exchange = request("GET", path, &[]);
            assert_eq!(run(&*filter(&KIND, spec), &mut exchange), SUCCESS, "{spec}");
            assert_eq!(exchange.request().path.as_str(), want, "{spec}");
        }
    }

    #[test]
    fn method_header_host_body() {
        let spec = "{method: PUT, path: {addPrefix: /v1}, header: {del: [X-D], set: {X-S: s}, add: {X-S: t}}, host: h2.test, body: new}";
        let headers_in = [("X-D", "d"), ("x-s", "old"), ("Content-Encoding", "br")];
        let mut exchange = request_with("POST", "/k?z=1", &headers_in, b"something longer");
        assert_eq!(run(&*filter(&KIND, spec), &mut exchange), SUCCESS);
        let request = exchange.request();
        assert_eq!(
            (request.method.as_str(), request.target().as_str(), request.authority.as_str()),
            ("PUT", "/v1/k?z=1", "h2.test")
        );
        assert_eq!((header(&exchange, "X-D"), headers(&exchange, "X-S").as_str()), (None, "s,t"));
        assert_eq!((request_body_of(&exchange), header(&exchange, "Content-Encoding")), (&b"new"[..], None));
    }

    /// A document that changes fields alone takes a shorter way than one that changes something else, too, or whose fields come out of a
    /// template.
    #[test]
    fn fields_are_changed_alike_on_each_way() {
        for header in [
            "{del: [X-D], set: {Host: b.test, X-New: n, X-S: s}, add: {Access-Control-Max-Age: '5', X-S: t}}",
            "{del: [x_s]}",
            "{set: {x-s: s}, add: {X-D: e}}",
        ] {
            let after = |spec: &str| {
                let mut exchange = request("GET", "/", &[("X-D", "d"), ("x_s", "old"), ("X-S", "older")]);
                assert_eq!(run(&*filter(&KIND, spec), &mut exchange), SUCCESS, "{spec}");
                let request = exchange.request();
                let all =
                    request.headers.iter_with_own().map(|(name, value, own)| (name.to_vec(), value.to_vec(), own));
                let ruled = ["X-D", "X-S", "X-New"].map(|name| request.headers.is_ruled(name.as_bytes()));
                (all.collect::<Vec<_>>(), ruled, request.authority.to_string())
            };
            let alone = after(&format!("{{header: {header}}}"));
            assert_eq!(alone, after(&format!("{{header: {header}, method: GET}}")), "{header}");
            assert_eq!(alone, after(&format!("{{template: \"header: {header}\"}}")), "{header}");
        }
    }

    #[test]
    fn a_host_among_the_header_fields_is_the_authority() {
        for (spec, authority) in [
            ("{header: {set: {host: b.test:81}}}", "b.test:81"),
            ("{header: {add: {Host: b.test}}}", "b.test"),
            ("{header: {set: {Host: b.test}}, host: c.test}", "c.test"),
            (r#"{template: 'header: {set: {Host: {{.req.URL.Query.Get "h"}}}}'}"#, "d.test"),
            ("{header: {set: {X-Host: b.test}, del: [Host]}}", "h.test"),
        ] {
            let mut exchange = request("GET", "/?h=d.test", &[]);
            assert_eq!(run(&*filter(&KIND, spec), &mut exchange), SUCCESS, "{spec}");
            assert_eq!(exchange.request().authority, authority, "{spec}");
        }
        let spec = "{template: 'header: {set: {Host: {{.req.URL.Path}}}}'}";
        let mut exchange = request("GET", "/a", &[]);
        assert_eq!(run(&*filter(&KIND, spec), &mut exchange), BUILD_ERR);
        assert_eq!(exchange.request().authority, "h.test");
        refuses(&KIND, "{header: {set: {Host: 'a b'}}}", &["header"]);
    }

    #[test]
    fn fields_that_the_engine_owns_are_warned_of() {
        let spec = "{header: {set: {connection: close, X-A: a}, add: {Content-Length: '3', TE: trailers}}}";
        let warnings = KIND.checked(&yaml(spec), "filters[0]").unwrap();
        let mut paths: Vec<&str> = warnings.iter().map(|warning| warning.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(
            paths,
            ["filters[0].header.add.Content-Length", "filters[0].header.add.TE", "filters[0].header.set.connection"]
        );
    }

    #[test]
    fn gzip_both_ways() {
        let plain = b"hello gzip ".repeat(50);
        let mut exchange = request_with("POST", "/", &[], &plain);
        assert_eq!(run(&*filter(&KIND, "compress: gzip"), &mut exchange), SUCCESS);
        assert_eq!(header(&exchange, "Content-Encoding"), Some("gzip"));
        assert!(request_body_of(&exchange).len() < plain.len());
        // Packed already: left alone.
        let packed = request_body_of(&exchange).to_vec();
        assert_eq!(run(&*filter(&KIND, "compress: gzip"), &mut exchange), SUCCESS);
        assert_eq!(request_body_of(&exchange), packed);
        assert_eq!(run(&*filter(&KIND, "decompress: gzip"), &mut exchange), SUCCESS);
        assert_eq!((request_body_of(&exchange), header(&exchange, "Content-Encoding")), (&plain[..], None));
        // Not packed: left alone.
        assert_eq!(run(&*filter(&KIND, "decompress: gzip"), &mut exchange), SUCCESS);
        let corrupt = &[("Content-Encoding", "gzip")];
        let mut exchange = request_with("POST", "/", corrupt, b"\x1f\x8bnot gzip at all");
        assert_eq!(run(&*filter(&KIND, "decompress: gzip"), &mut exchange), DECOMPRESS_FAILED);
    }

    #[test]
    fn a_bomb_is_refused_and_counted() {
        let bomb = packed(&vec![0; crate::gzip::UNPACKED_MAX as usize + 1]);
        assert!(bomb.len() < 100_000);
        let telemetry = telemetry();
        let filter = filter_with(&KIND, "decompress: gzip", &telemetry);
        let config = base_runtime::Config { workers: Some(1), ..base_runtime::Config::default() };
        let runtime = base_runtime::Runtime::start(config).unwrap();
        let (sender, outcome) = std::sync::mpsc::channel();
        runtime.workers()[0].spawn(move || async move {
            let mut exchange = request_with("POST", "/", &[("Content-Encoding", "gzip")], &bomb);
            let outcome = match filter.handle(&mut exchange) {
                Step::Done(outcome) => outcome,
                Step::Wait(future) => future.await,
            };
            let _ = sender.send(outcome);
        });
        assert_eq!(outcome.recv().unwrap(), DECOMPRESS_FAILED);
        assert_eq!(telemetry.limits().register("unpacked_body_bytes").total(), 1);
    }

    #[test]
    fn templates() {
        for (template, outcome, want) in [
            ("header: {set: {X-U: '{{.req.URL.Query.Get \"u\"}}'}}", SUCCESS, Some("ann")),
            ("HEADER: {Set: {X-U: 5}}", SUCCESS, Some("5")),
            ("header: {set: {X-U: '{{.req.Body}}'}}", SUCCESS, Some("body")),
            ("", SUCCESS, None),
            ("header: {set: {X-U: \"a\\r\\nX-Evil: 1\"}}", BUILD_ERR, None),
            ("header: {set: {'X U': a}}", BUILD_ERR, None),
            ("method: 'GE T'", BUILD_ERR, None),
            ("host: 'a b'", BUILD_ERR, None),
            ("{{panic \"no\"}}", BUILD_ERR, None),
            ("[a", BUILD_ERR, None),
            ("- a", BUILD_ERR, None),
        ] {
            let spec = serde_json::json!({ "template": template }).to_string();
            let mut exchange = request("POST", "/?u=ann", &[]);
            exchange.space().request_body = Body::Stream(Box::new(Pieces(vec![b"bo", b"dy"])));
            assert_eq!(run(&*filter(&KIND, &spec), &mut exchange), outcome, "{template}");
            assert_eq!(header(&exchange, "X-U"), want, "{template}");
            let looked_at = template.contains("Body");
            assert_eq!(exchange.space().request_body.is_stream(), !looked_at, "{template}");
        }
    }

    #[test]
    fn a_changed_path_has_no_segment_of_dots() {
        for (spec, target) in [
            ("path: {trimPrefix: /static}", "/static../secret"),
            ("path: {addPrefix: /files/., regexpReplace: {regexp: x}}", "/a"),
            ("path: {regexpReplace: {regexp: '^/static', replace: /files/}}", "/static../secret"),
        ] {
            let mut exchange = request("GET", target, &[]);
            assert_eq!(run(&*filter(&KIND, spec), &mut exchange), BUILD_ERR, "{spec}");
            assert_eq!((status_of(&exchange), exchange.request().target().as_str()), (400, target), "{spec}");
        }
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{compress: gzip, decompress: gzip}", &["decompress"]);
        refuses(&KIND, "{compress: br}", &["compress"]);
        refuses(&KIND, "{decompress: gzip, body: x}", &["decompress"]);
        refuses(&KIND, "{method: get, host: 'a b'}", &["host", "method"]);
        refuses(&KIND, "{template: '{{nosuch}}'}", &["template"]);
        refuses(&KIND, "{path: {regexpReplace: {regexp: '('}}}", &["path.regexpReplace.regexp"]);
        refuses(&KIND, "{header: {set: {'a b': c}}}", &["header.set"]);
        refuses(&KIND, "{sign: {apiProvider: aws4}}", &["sign.accessKeyId", "sign.accessKeySecret"]);
    }
}
