//! Makes a response: out of a template, or as a copy of another namespace's.
//!
//! Use it to combine what several backends answered, or to answer without a backend.
//!
//! ```yaml
//! name: combine
//! kind: ResponseBuilder
//! template: |
//!   statusCode: 200
//!   headers: {Content-Type: [application/json]}
//!   body: '{"a": {{.responses.one.JSONBody.name | toJson}}, "b": {{.responses.two.JSONBody.name | toJson}}}'
//! # or: sourceNamespace: one
//! ```
//!
//! Outcomes: `buildErr` (the template failed, says what cannot be sent, or there is nothing to copy). Fits HTTPServer.
//! Costs a run of the template and the parsing of what it says; bodies of other responses are collected only where the
//! template names them.

use crate::builder::{self, BUILD_ERR, Builder, Makes, TemplateText};
use crate::built::{self, Built, BuiltError};
use crate::module_doc::module_doc;
use crate::spec::{self, Spec};
use base_model::Findings;
use edge_pipeline::exchange::is_cors;
use edge_pipeline::{Body, Exchange, FilterKind, Template, Touches};
use proto_http::{Known, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `kind: ResponseBuilder`: makes a response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ResponseBuilderSpec {
    /// Protocol of the response. Default http, the only one so far.
    pub protocol: String,
    /// Copy the response of this namespace. Either this or `template`.
    pub source_namespace: String,
    /// Go template that gives YAML with the keys `statusCode`, `headers`, `body`.
    pub template: String,
    /// Left delimiter of the template. Default `{{`.
    pub left_delim: String,
    /// Right delimiter of the template. Default `}}`.
    pub right_delim: String,
}

impl Default for ResponseBuilderSpec {
    fn default() -> ResponseBuilderSpec {
        ResponseBuilderSpec {
            protocol: builder::default_protocol(),
            source_namespace: String::new(),
            template: String::new(),
            left_delim: String::new(),
            right_delim: String::new(),
        }
    }
}

impl Spec for ResponseBuilderSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        builder::check_protocol(&self.protocol, path, findings);
        self.template_text().check_source(&self.source_namespace, path, findings);
    }
}

impl ResponseBuilderSpec {
    fn template_text(&self) -> TemplateText<'_> {
        TemplateText { text: &self.template, left: &self.left_delim, right: &self.right_delim }
    }
}

/// A ready ResponseBuilder.
type ResponseBuilder = Builder<Made>;

/// What it makes.
pub(crate) struct Made;

pub const KIND: FilterKind = FilterKind {
    kind: "ResponseBuilder",
    results: &[BUILD_ERR],
    doc: module_doc!("response_builder.rs"),
    schema: spec::schema::<ResponseBuilderSpec>,
    check: spec::check::<ResponseBuilderSpec>,
    build: |fields, parts| {
        spec::build(fields, |spec: ResponseBuilderSpec| {
            ResponseBuilder::new(&spec.template_text(), &spec.source_namespace, parts)
        })
    },
};

impl Makes for Made {
    const KIND: &str = KIND.kind;
    const COPIES: Touches = Touches::RESPONSE;
    const BUILDS: Touches = Touches::RESPONSE_BODY;

    async fn copy(exchange: &mut Exchange, from: &str) -> Result<(), BuiltError> {
        let nothing = || BuiltError::Text(format!("namespace {from} has no response"));
        let source = exchange.named_mut(from).ok_or_else(nothing)?;
        let mut response = source.response.clone().ok_or_else(nothing)?;
        let body = source.response_body.gather().await.map_err(BuiltError::Body)?.clone();
        // As where a Proxy answers here: what a CORSAdaptor says replaces what a backend says.
        let here = exchange.space_ref().response.as_ref();
        let allows = |name: &[u8]| name.eq_ignore_ascii_case(b"Access-Control-Allow-Origin");
        if here.is_some_and(|response| response.headers.own().any(|(name, _)| allows(name))) {
            response.headers.retain(|name| !is_cors(name));
        }
        exchange.respond(response, Body::shared(body));
        Ok(())
    }

    fn build(template: &Template, exchange: &mut Exchange) -> Result<(), BuiltError> {
        let (response, body) = of_built(&built::render(template, exchange)?)?;
        exchange.respond(response, body);
        Ok(())
    }
}

/// The response a template's output describes.
fn of_built(built: &Built) -> Result<(Response, Body), BuiltError> {
    let status = match built.value("statusCode") {
        None => 200,
        Some(code) => {
            let text = built.text_of(code, "statusCode")?;
            let code = text.trim().parse().ok().filter(|code| (200..=599).contains(code));
            code.ok_or_else(|| {
                BuiltError::Refused(format!("statusCode {} is not 200 to 599", base_text::quoted(&text)))
            })?
        }
    };
    let mut response = Response::with_status(status);
    response.headers = built.headers("headers")?;
    // What speaks of this hop is ours to say.
    response.headers.remove_known(Known::ContentLength);
    response.headers.remove_known(Known::TransferEncoding);
    response.headers.remove_known(Known::Connection);
    let body = built.text("body")?.map(|text| text.into_owned()).unwrap_or_default();
    Ok((response, Body::full(body)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use edge_pipeline::SUCCESS;

    #[test]
    fn out_of_a_template() {
        for (template, status, header, body) in [
            ("statusCode: 201\nheaders: {X-A: [a]}\nbody: hello\n", 201, Some("a"), "hello"),
            ("body: '{{.data.PIPELINE.greet}}'", 200, None, "hi"),
            ("body: |\n  {{addf 1 2}}|\n  {{jsonEscape \"a\\\"b\"}}|\n", 200, None, "3|\na\\\"b|\n"),
            ("body: '{\"a\": {{.responses.one.JSONBody.path | toJson}}}'", 200, None, "{\"a\": \"/1\"}"),
            ("statusCode: '{{.responses.one.StatusCode}}'", 203, None, ""),
        ] {
            let spec = serde_json::json!({ "template": template }).to_string();
            let mut exchange = exchange();
            assert_eq!(run(&*filter(&KIND, &spec), &mut exchange), SUCCESS, "{template}");
            assert_eq!((status_of(&exchange), response_header(&exchange, "X-A")), (status, header), "{template}");
            assert_eq!(body_of(&exchange), body.as_bytes(), "{template}");
        }
    }

    #[test]
    fn cannot_be_built() {
        for template in ["statusCode: 99", "statusCode: x", "headers: [a]", "body: [a]", "{{panic \"no\"}}", "a: b: c"]
        {
            let spec = serde_json::json!({ "template": template }).to_string();
            assert_eq!(run(&*filter(&KIND, &spec), &mut exchange()), BUILD_ERR, "{template}");
        }
    }

    #[test]
    fn copies_of_other_namespaces() {
        let mut exchange = exchange();
        assert_eq!(run(&*filter(&KIND, "sourceNamespace: one"), &mut exchange), SUCCESS);
        assert_eq!((status_of(&exchange), body_of(&exchange)), (203, &b"{\"path\": \"/1\"}"[..]));
        assert_eq!(run(&*filter(&KIND, "sourceNamespace: two"), &mut exchange), BUILD_ERR);
    }

    /// A backend that lets pages read its own answer, which was here before, says nothing of the copy.
    #[test]
    fn a_copy_keeps_who_may_read_it_unless_the_document_says() {
        for (own, want) in [(false, "https://one.test"), (true, "https://a.test")] {
            let mut exchange = exchange();
            let allow = "Access-Control-Allow-Origin";
            exchange.enter(Some(&"one".into()));
            exchange.response_mut().unwrap().headers.add(allow, "https://one.test");
            exchange.enter(None);
            let here = &mut exchange.space().response.get_or_insert_default().headers;
            if own {
                here.add_own(allow, "https://a.test")
            } else {
                here.add(allow, "https://backend.test")
            }
            assert_eq!(run(&*filter(&KIND, "sourceNamespace: one"), &mut exchange), SUCCESS);
            assert_eq!(response_header(&exchange, allow), Some(want));
        }
    }

    #[test]
    fn a_refusal_keeps_who_may_read_answers_as_the_template_said() {
        let mut exchange = exchange();
        let allow = "Access-Control-Allow-Origin";
        let spec = format!("template: \"headers: {{{allow}: 'https://a.test'}}\"");
        assert_eq!(run(&*filter(&KIND, &spec), &mut exchange), SUCCESS);
        exchange.refuse(503);
        assert_eq!(response_header(&exchange, allow), Some("https://a.test"));
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{}", &[""]);
        refuses(&KIND, "{template: '{{nosuch}}'}", &["template"]);
    }

    fn exchange() -> Exchange {
        let mut exchange = request("GET", "/", &[]);
        exchange.data.insert("PIPELINE".to_owned(), serde_json::json!({"greet": "hi"}));
        exchange.enter(Some(&"one".into()));
        let body = Body::Stream(Box::new(Pieces(vec![b"{\"path\": ", b"\"/1\"}"])));
        exchange.respond(Response::with_status(203), body);
        exchange.enter(None);
        exchange
    }
}
