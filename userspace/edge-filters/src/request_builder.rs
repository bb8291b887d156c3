//! Makes a request: out of a template, or as a copy of another namespace's.
//!
//! Use it to call further backends in namespaces of their own, or to rewrite a request altogether.
//!
//! ```yaml
//! name: ask-stock
//! kind: RequestBuilder
//! template: |
//!   method: POST
//!   url: /stock?item={{.req.URL.Query.Get "item" | urlQueryEscape}}
//!   headers: {Content-Type: [application/json]}
//!   body: '{"user": {{.req.Header.Get "X-User" | toJson}}}'
//! # or: sourceNamespace: DEFAULT
//! ```
//!
//! What a message puts into a part of `url` stays in that part: `?` and `#` are escaped in the path, `&`, `;` and `#` in the
//! query, unless the text is `.URL.RawQuery`; a `url` that is one text of a message and nothing else is taken as it is.
//!
//! `formData: {field: {value, fileName}}` in the template's output makes a multipart body. An absolute `url` or a
//! `Host` among the headers sets the authority; without either the backend's own is used.
//!
//! Outcomes: `buildErr` (the template failed, says what cannot be sent, or there is nothing to copy). Fits HTTPServer.
//! Costs a run of the template and the parsing of what it says.

use crate::builder::{self, BUILD_ERR, Builder, Makes, TemplateText};
use crate::built::{self, Built, BuiltError};
use crate::module_doc::module_doc;
use crate::spec::{self, Spec};
use base_model::Findings;
use base_text::quoted;
use edge_pipeline::{Body, Exchange, FilterKind, Template, Touches, rounds};
use proto_http::{Headers, Known, Method, Path, Request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `kind: RequestBuilder`: makes a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestBuilderSpec {
    /// Protocol of the request. Default http, the only one so far.
    pub protocol: String,
    /// Copy the request of this namespace. Either this or `template`.
    pub source_namespace: String,
    /// Go template that gives YAML with the keys `method`, `url`, `headers`, `body`, `formData`.
    pub template: String,
    /// Left delimiter of the template. Default `{{`.
    pub left_delim: String,
    /// Right delimiter of the template. Default `}}`.
    pub right_delim: String,
}

impl Default for RequestBuilderSpec {
    fn default() -> RequestBuilderSpec {
        RequestBuilderSpec {
            protocol: builder::default_protocol(),
            source_namespace: String::new(),
            template: String::new(),
            left_delim: String::new(),
            right_delim: String::new(),
        }
    }
}

impl Spec for RequestBuilderSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        builder::check_protocol(&self.protocol, path, findings);
        self.template_text().check_source(&self.source_namespace, path, findings);
    }
}

impl RequestBuilderSpec {
    fn template_text(&self) -> TemplateText<'_> {
        TemplateText { text: &self.template, left: &self.left_delim, right: &self.right_delim }
    }
}

/// A ready RequestBuilder.
type RequestBuilder = Builder<Made>;

/// What it makes.
pub(crate) struct Made;

pub const KIND: FilterKind = FilterKind {
    kind: "RequestBuilder",
    results: &[BUILD_ERR],
    doc: module_doc!("request_builder.rs"),
    schema: spec::schema::<RequestBuilderSpec>,
    check: spec::check::<RequestBuilderSpec>,
    build: |fields, parts| {
        spec::build(fields, |spec: RequestBuilderSpec| {
            RequestBuilder::new(&spec.template_text(), &spec.source_namespace, parts)
        })
    },
};

impl Makes for Made {
    const KIND: &str = KIND.kind;
    const COPIES: Touches = Touches::REQUEST_HEAD.and(Touches::REQUEST_BODY);
    const BUILDS: Touches = Touches::REQUEST_BODY;

    async fn copy(exchange: &mut Exchange, from: &str) -> Result<(), BuiltError> {
        let is_default = from == edge_pipeline::exchange::DEFAULT_NAMESPACE;
        let source = exchange.named_mut(from).filter(|space| space.has_request || is_default);
        let source = source.ok_or_else(|| format!("namespace {from} has no request"))?;
        let body = source.request_body.gather().await.map_err(BuiltError::Body)?.clone();
        let request = source.request.clone();
        put(exchange, request, Body::shared(body));
        Ok(())
    }

    fn build(template: &Template, exchange: &mut Exchange) -> Result<(), BuiltError> {
        let (mut request, body) = of_built(&built::render(template, exchange)?)?;
        // It is asked because of the client's, and goes round where that does.
        rounds::carry(&exchange.default_space_ref().request.headers, &mut request.headers);
        put(exchange, request, body);
        Ok(())
    }
}

fn put(exchange: &mut Exchange, request: Request, body: Body) {
    let space = exchange.space();
    space.request = request;
    space.request_body = body;
    space.has_request = true;
}

/// The request a template's output describes.
fn of_built(built: &Built) -> Result<(Request, Body), BuiltError> {
    let method = built.text("method")?.unwrap_or_else(|| "GET".into());
    let url = built.url("url")?.unwrap_or_else(|| "/".into());
    let mut request = Request {
        method: Method::parse(method.as_bytes()).ok_or_else(|| refused(&method, "a method"))?,
        headers: built.headers("headers")?,
        ..Request::default()
    };
    read_url(url.trim(), &mut request)?;
    if let Some(host) = request.headers.text("Host").map(str::to_owned) {
        if !proto_http::authority::is_authority(host.as_bytes()) {
            return Err(refused(&host, "a host"));
        }
        request.authority = host;
        request.headers.remove_known(Known::Host);
    }
    // What speaks of this hop is ours to say.
    request.headers.remove_known(Known::ContentLength);
    request.headers.remove_known(Known::TransferEncoding);
    request.headers.remove_known(Known::Connection);
    let body = match built.map("formData")? {
        Some(form) => multipart(&form, &mut request.headers)?,
        None => Body::full(built.text("body")?.map(|text| text.into_owned()).unwrap_or_default()),
    };
    Ok((request, body))
}

fn refused(text: &str, what: &str) -> BuiltError {
    BuiltError::Refused(format!("{} is not {what}", quoted(text)))
}

/// `http://host/path?query` or `/path?query`; a fragment is not sent. What Go refuses to read as a URL is refused here: what looks like a
/// scheme and is none (RFC 3986 section 4.2), and a percent sign that begins no escape.
fn read_url(url: &str, request: &mut Request) -> Result<(), BuiltError> {
    let wrong = || refused(url, "a URL");
    let mut rest = url.split('#').next().unwrap_or_default();
    if rest.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err(wrong());
    }
    if let Some((scheme, after)) = rest.split_once("://")
        && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    {
        let end = after.find(['/', '?']).unwrap_or(after.len());
        let authority = after[..end].rsplit('@').next().unwrap_or_default();
        if !proto_http::authority::is_authority(authority.as_bytes()) {
            return Err(wrong());
        }
        request.authority = authority.to_owned();
        rest = &after[end..];
    }
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    let escapes =
        path.split('%').skip(1).all(|rest| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit));
    if !escapes || path.split('/').next().is_some_and(|first| first.contains(':')) {
        return Err(wrong());
    }
    request.path = Path::from_text(path);
    request.query = query.map(escape_query);
    Ok(())
}

/// What may not stand in a query raw is escaped.
pub(crate) fn escape_query(query: &str) -> String {
    let mut out = String::with_capacity(query.len());
    for byte in query.bytes() {
        match byte {
            0x21..=0x7e if !b"\"<>`\\{}|^".contains(&byte) => out.push(byte as char),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// A multipart/form-data body (RFC 7578).
fn multipart(form: &Built, headers: &mut Headers) -> Result<Body, BuiltError> {
    let mut parts = Vec::new();
    for (name, field) in form.entries()? {
        let (value, file) = match field {
            serde_json::Value::Object(_) => {
                let file = field.get("fileName").or_else(|| field.get("filename"));
                let file = file.map(|f| form.text_of(f, &name)).transpose()?.filter(|f| !f.is_empty());
                (field.get("value").map(|v| form.text_of(v, &name)).transpose()?.unwrap_or_default(), file)
            }
            scalar => (form.text_of(scalar, &name)?, None),
        };
        parts.push((name, value, file));
    }
    let mut random = [0u8; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
        .map_err(|_| "the system has no random bytes for a boundary".to_owned())?;
    let boundary = random.iter().fold(String::from("weir-"), |text, byte| text + format!("{byte:02x}").as_str());
    // A client cannot guess the boundary; should it stand in a value all the same, the parts would not be told apart.
    if parts.iter().any(|(_, value, _)| value.contains(&boundary)) {
        return Err("a form value holds the boundary between the parts".to_owned().into());
    }
    let mut body = String::new();
    for (name, value, file) in parts {
        body.push_str(&format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"", parameter(&name)));
        if let Some(file) = file {
            body.push_str(&format!("; filename=\"{}\"\r\nContent-Type: application/octet-stream", parameter(&file)));
        }
        body.push_str(&format!("\r\n\r\n{value}\r\n"));
    }
    body.push_str(&format!("--{boundary}--\r\n"));
    headers.set("Content-Type", format!("multipart/form-data; boundary={boundary}"));
    Ok(Body::full(body))
}

/// A name inside the quotes of a Content-Disposition.
fn parameter(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use edge_pipeline::SUCCESS;

    #[test]
    fn out_of_a_template() {
        for (template, line, authority, headers_want, body) in [
            ("{}", "GET /", "", "", ""),
            (
                "method: POST\nurl: /form?a=b\nheaders: {X-A: [one, two]}\nbody: text\n",
                "POST /form?a=b",
                "",
                "one,two",
                "text",
            ),
            ("URL: http://other.test:81/p?q=1#f", "GET /p?q=1", "other.test:81", "", ""),
            ("url: /x\nheaders: {Host: [v.test], X-A: 1}", "GET /x", "v.test", "1", ""),
            ("url: '/{{.req.Method}}/ü x?a=b c'", "GET /PUT/%C3%BC%20x?a=b%20c", "", "", ""),
            ("url: '/a:b%2Fc?d=%zz:'", "GET /a:b%2Fc?d=%zz:", "", "", ""),
            ("body: '{{.req.Body}}'", "GET /", "", "", "in"),
        ] {
            let spec = serde_json::json!({ "template": template }).to_string();
            let mut exchange = request_with("PUT", "/", &[], b"in");
            assert_eq!(run(&*filter(&KIND, &spec), &mut exchange), SUCCESS, "{template}");
            let made = exchange.request();
            assert_eq!(format!("{} {}", made.method, made.target()), line, "{template}");
            assert_eq!(
                (made.authority.as_str(), headers(&exchange, "X-A").as_str()),
                (authority, headers_want),
                "{template}"
            );
            assert_eq!(request_body_of(&exchange), body.as_bytes(), "{template}");
        }
    }

    #[test]
    fn cannot_be_built() {
        for template in [
            "method: 'G T'",
            "url: \"/a\\nb\"",
            "url: 'http:///x'",
            "url: 'ht tp://a/b'",
            "url: '{{.req.Method}}:b'",
            "url: ':b'",
            "url: '://a/b'",
            "url: '1http://a/b'",
            "url: '/a%2'",
            "url: '/a%zz?b'",
            "url: 'http://a/%'",
            "headers: {X: \"a\\nb\"}",
            "headers: {'X Y': [a]}",
            "headers: {Host: ['a b']}",
            "{{fail \"no\"}}",
            "- a",
            "body: {a: b}",
        ] {
            let spec = serde_json::json!({ "template": template }).to_string();
            assert_eq!(run(&*filter(&KIND, &spec), &mut request("GET", "/", &[])), BUILD_ERR, "{template}");
        }
    }

    #[test]
    fn forms() {
        let template = "method: POST\nformData:\n  field1:\n    value: one\n  file1:\n    value: content-of-file\n    fileName: f.txt\n";
        let spec = serde_json::json!({ "template": template }).to_string();
        let mut exchange = request("GET", "/", &[]);
        assert_eq!(run(&*filter(&KIND, &spec), &mut exchange), SUCCESS);
        let kind = header(&exchange, "Content-Type").unwrap().to_owned();
        let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
        let body = String::from_utf8(request_body_of(&exchange).to_vec()).unwrap();
        assert_eq!(
            body,
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"field1\"\r\n\r\none\r\n\
             --{boundary}\r\nContent-Disposition: form-data; name=\"file1\"; filename=\"f.txt\"\r\n\
             Content-Type: application/octet-stream\r\n\r\ncontent-of-file\r\n--{boundary}--\r\n"
            )
        );
    }

    #[test]
    fn copies_of_other_namespaces() {
        let copier = filter(&KIND, "sourceNamespace: DEFAULT");
        let mut exchange = request("PUT", "/c?d=e", &[("X-Own", "mine")]);
        exchange.space().request_body = Body::Stream(Box::new(Pieces(vec![b"pay", b"load"])));
        exchange.enter(Some(&"copy".into()));
        assert_eq!(run(&*copier, &mut exchange), SUCCESS);
        assert_eq!((exchange.request().target().as_str(), header(&exchange, "X-Own")), ("/c?d=e", Some("mine")));
        assert_eq!(request_body_of(&exchange), b"payload");
        assert_eq!(exchange.default_space_ref().request_body.in_memory(), Some(&b"payload"[..]));
        assert_eq!(run(&*filter(&KIND, "sourceNamespace: none"), &mut exchange), BUILD_ERR);
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{}", &[""]);
        refuses(&KIND, "{template: a, sourceNamespace: b}", &[""]);
        refuses(&KIND, "{template: '{{if}}', protocol: grpc}", &["protocol", "template"]);
    }
}
