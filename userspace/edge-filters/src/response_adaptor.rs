//! Changes the response before it goes to the client: header fields, body, compression.
//!
//! Use it behind a Proxy.
//!
//! ```yaml
//! name: adaptor
//! kind: ResponseAdaptor
//! header:
//!   del: [Server]
//!   set: {Cache-Control: no-store}
//! compress: gzip                    # or decompress: gzip
//! template: |
//!   header:
//!     add: {X-Status: '{{.resp.StatusCode}}'}
//! ```
//!
//! A key of the template's output (`header`, `body`) wins over the same key of the document. The order is header, body,
//! compress, decompress.
//!
//! An answer is packed only for clients whose Accept-Encoding takes gzip (RFC 9110 section 12.5.3; one that sends none gets it
//! plain), as it passes and in no more memory than a window; `Vary: Accept-Encoding` is set for all. What has a coding already,
//! says `no-transform`, or is no whole body (204, 206, 304) is left alone, as is the answer to HEAD, which then announces no
//! length. With the bytes change `Content-Length`, digests and `Accept-Ranges`; an `ETag` becomes weak, and goes with a new body.
//!
//! To unpack an answer it is gathered first, up to 4 MiB packed, and may unpack to 16 MiB; what is longer than 64 KiB unpacked is
//! never held in memory so.
//!
//! Outcomes: `responseNotFound` (nothing has answered yet), `decompressFailed` (not gzip, or more than 16 MiB unpacked, counted as
//! `unpacked_body_bytes`), `buildErr`; `compressFailed` is kept for documents that jump on it. Fits HTTPServer. Costs nothing for
//! the body unless it is packed or unpacked, or the template looks into it.

use crate::adapt::HeaderAdapt;
use crate::builder::{self, BUILD_ERR, TemplateText};
use crate::built::{self, BuiltError};
use crate::coding;
use crate::module_doc::module_doc;
use crate::request_adaptor::{COMPRESS_FAILED, DECOMPRESS_FAILED, check_codecs, decompress_failed, unpacked_limit};
use crate::spec::{self, Spec};
use base_model::problem::at;
use base_model::{Findings, HeaderAdaptSpec};
use base_telemetry::Limit;
use bytes::Bytes;
use edge_pipeline::{Body, BuildError, Exchange, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, Template, Touches};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const RESPONSE_NOT_FOUND: Outcome = "responseNotFound";

/// `kind: ResponseAdaptor`: changes the response before it goes to the client.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ResponseAdaptorSpec {
    /// Changes of header fields. Default: none.
    pub header: Option<HeaderAdaptSpec>,
    /// Body to answer with. Default: the one there is.
    pub body: String,
    /// `gzip` packs the body, unless it has an encoding already. Default: leave it.
    pub compress: String,
    /// `gzip` unpacks a body that is packed so. Default: leave it.
    pub decompress: String,
    /// Go template that gives YAML with the keys `header` and `body`.
    pub template: String,
    /// Left delimiter of the template. Default `{{`.
    pub left_delim: String,
    /// Right delimiter of the template. Default `}}`.
    pub right_delim: String,
}

impl Spec for ResponseAdaptorSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        if let Some(header) = &self.header {
            header.validate(&at(path, "header"), findings);
        }
        check_codecs(&self.compress, &self.decompress, !self.body.is_empty(), path, findings);
        if !self.template.is_empty() {
            self.template_text().check(path, findings);
        }
    }
}

impl ResponseAdaptorSpec {
    fn template_text(&self) -> TemplateText<'_> {
        TemplateText { text: &self.template, left: &self.left_delim, right: &self.right_delim }
    }
}

/// A ready ResponseAdaptor.
pub struct ResponseAdaptor {
    header: Option<HeaderAdapt>,
    body: Option<Bytes>,
    compress: bool,
    decompress: bool,
    template: Option<Template>,
    refused: builder::Refusals,
    /// Bodies that unpack to too much.
    too_large: Limit,
}

pub const KIND: FilterKind = FilterKind {
    kind: "ResponseAdaptor",
    results: &[RESPONSE_NOT_FOUND, DECOMPRESS_FAILED, COMPRESS_FAILED, BUILD_ERR],
    doc: module_doc!("response_adaptor.rs"),
    schema: spec::schema::<ResponseAdaptorSpec>,
    check: spec::check::<ResponseAdaptorSpec>,
    build: |fields, parts| spec::build(fields, |spec| ResponseAdaptor::new(spec, parts)),
};

impl ResponseAdaptor {
    fn new(spec: ResponseAdaptorSpec, parts: &Parts<'_>) -> Result<ResponseAdaptor, BuildError> {
        let template = if spec.template.is_empty() { None } else { Some(spec.template_text().parse()?) };
        Ok(ResponseAdaptor {
            header: spec.header.as_ref().map(HeaderAdapt::new),
            body: (!spec.body.is_empty()).then(|| spec.body.into()),
            compress: !spec.compress.is_empty(),
            decompress: !spec.decompress.is_empty(),
            template,
            refused: builder::refusals(parts),
            too_large: unpacked_limit(parts),
        })
    }

    /// Everything but the codecs. Bodies the template looks into are in memory.
    fn adapt(&self, exchange: &mut Exchange) -> Result<(), BuiltError> {
        let (header, body) = match &self.template {
            Some(template) => {
                let built = built::render(template, exchange)?;
                let header = built.map("header")?.map(|header| HeaderAdapt::of_built(&header)).transpose()?;
                (header, built.text("body")?.map(|text| Body::full(text.into_owned())))
            }
            None => (None, None),
        };
        let head = coding::answers_head(exchange);
        let space = exchange.space();
        let Some(response) = &mut space.response else { return Ok(()) };
        if let Some(header) = header.as_ref().or(self.header.as_ref()) {
            header.apply(&mut response.headers);
        }
        if let Some(body) = body.or_else(|| self.body.clone().map(Body::shared))
            && coding::has_whole_body(response)
        {
            coding::replaced(&mut response.headers);
            if !head {
                space.response_body = body;
            }
        }
        Ok(())
    }

    async fn adapt_with_body(&self, exchange: &mut Exchange) -> Outcome {
        if let Some(template) = &self.template
            && let Err(error) = builder::collect(template, exchange).await
        {
            return builder::failed(exchange, KIND.kind, &error, &self.refused);
        }
        if let Err(error) = self.adapt(exchange) {
            return builder::failed(exchange, KIND.kind, &error, &self.refused);
        }
        if self.compress {
            coding::pack_response(exchange);
        }
        if self.decompress
            && let Err(error) = coding::unpack_response(exchange).await
        {
            return decompress_failed(exchange, KIND.kind, error, &self.too_large);
        }
        SUCCESS
    }
}

impl Filter for ResponseAdaptor {
    fn is_repeatable(&self) -> bool {
        true
    }

    fn touches(&self) -> Touches {
        let changes_body = self.body.is_some() || self.compress || self.decompress || self.template.is_some();
        let template = self.template.as_ref().map_or(Touches::NOTHING, |template| template.bodies().touches());
        Touches::HEADS.and(template).and_if(changes_body, Touches::RESPONSE_BODY)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        if exchange.space_ref().response.is_none() {
            return Step::Done(RESPONSE_NOT_FOUND);
        }
        let on_their_way = self.template.as_ref().is_some_and(|t| t.bodies().on_their_way(exchange));
        if self.decompress || on_their_way {
            return Step::wait(self.adapt_with_body(exchange));
        }
        if let Err(error) = self.adapt(exchange) {
            return Step::Done(builder::failed(exchange, KIND.kind, &error, &self.refused));
        }
        if self.compress {
            coding::pack_response(exchange);
        }
        Step::Done(SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn headers_and_bodies() {
        for (spec, headers, body, want_headers, want_body) in [
            (
                "{header: {del: [X-D], set: {X-S: s}}}",
                &[("X-D", "d")][..],
                "b",
                &[("X-D", None), ("X-S", Some("s"))][..],
                "b",
            ),
            ("{body: new}", &[("Content-Encoding", "gzip")], "zip", &[("Content-Encoding", None)], "new"),
            ("{template: 'body: \"{{.resp.StatusCode}} {{.resp.Body | upper}}\"'}", &[], "b", &[], "201 B"),
            (
                "{template: 'header: {set: {X-T: t}}', header: {set: {X-S: s}}}",
                &[],
                "b",
                &[("X-T", Some("t")), ("X-S", None)],
                "b",
            ),
        ] {
            let mut exchange = request("GET", "/", &[]);
            answer(&mut exchange, 201, headers, body.as_bytes());
            assert_eq!(run(&*filter(&KIND, spec), &mut exchange), SUCCESS, "{spec}");
            assert_eq!(body_of(&exchange), want_body.as_bytes(), "{spec}");
            for (name, value) in want_headers {
                assert_eq!(response_header(&exchange, name), *value, "{spec} {name}");
            }
        }
    }

    #[test]
    fn gzip_both_ways() {
        let mut exchange = request("GET", "/", &[("Accept-Encoding", "gzip")]);
        exchange.respond(proto_http::Response::default(), Body::Stream(Box::new(Pieces(vec![b"rrrr"; 150]))));
        assert_eq!(run(&*filter(&KIND, "compress: gzip"), &mut exchange), SUCCESS);
        assert_eq!(response_header(&exchange, "Content-Encoding"), Some("gzip"));
        assert!(exchange.space().response_body.is_stream(), "it is packed as it passes");
        assert!(ready(exchange.space().response_body.collect(1000)).unwrap().len() < 100);
        assert_eq!(run(&*filter(&KIND, "decompress: gzip"), &mut exchange), SUCCESS);
        assert_eq!(body_of(&exchange), b"r".repeat(600));
    }

    #[test]
    fn a_new_body_leaves_answers_without_one_alone() {
        for (method, status, said, length, etag, want) in [
            ("GET", 200, "old", None, None, "new"),
            ("HEAD", 200, "", None, None, ""),
            ("GET", 204, "", Some("3"), Some("\"a\""), ""),
            ("GET", 304, "", Some("3"), Some("\"a\""), ""),
            ("GET", 206, "old", Some("3"), Some("\"a\""), "old"),
        ] {
            for spec in ["body: new", "template: 'body: new'", "template: 'body: \"new{{if .resp.Body}}{{end}}\"'"] {
                let mut exchange = request(method, "/", &[]);
                answer(&mut exchange, status, &[("Content-Length", "3"), ("ETag", "\"a\"")], said.as_bytes());
                assert_eq!(run(&*filter(&KIND, spec), &mut exchange), SUCCESS);
                assert_eq!(body_of(&exchange), want.as_bytes(), "{method} {status} {spec}");
                assert_eq!(response_header(&exchange, "Content-Length"), length, "{method} {status} {spec}");
                assert_eq!(response_header(&exchange, "ETag"), etag, "{method} {status} {spec}");
            }
        }
    }

    #[test]
    fn without_a_response() {
        assert_eq!(run(&*filter(&KIND, "compress: gzip"), &mut request("GET", "/", &[])), RESPONSE_NOT_FOUND);
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{compress: gzip, decompress: gzip}", &["decompress"]);
        refuses(&KIND, "{compress: zstd}", &["compress"]);
        refuses(&KIND, "{decompress: gzip, body: x}", &["decompress"]);
        refuses(&KIND, "{template: '{{'}", &["template"]);
    }
}
