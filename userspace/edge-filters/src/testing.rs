//! What the tests of filters share.

use base_telemetry::{Identity, Telemetry};
use edge_pipeline::{Body, BodyError, Exchange, Filter, FilterKind, Outcome, Parts, Piece, PipelineName, Sight, Step};
use proto_http::{Method, Path};
use serde_json::Value;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// An exchange with a request of `DEFAULT`.
pub fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Exchange {
    let mut exchange = Exchange::default();
    let space = exchange.space();
    space.has_request = true;
    space.request.method = Method::parse(method.as_bytes()).unwrap();
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    space.request.path = Path::parse(path.as_bytes()).unwrap();
    space.request.query = query.map(str::to_owned);
    space.request.authority = "h.test".to_owned();
    space.request.headers.add("Host", "h.test");
    for (name, value) in headers {
        space.request.headers.add(name, value);
    }
    exchange
}

/// As [`request`], with a body.
pub fn request_with(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Exchange {
    let mut exchange = request(method, target, headers);
    exchange.space().request_body = Body::full(body.to_vec());
    exchange
}

/// Puts a response in.
pub fn answer(exchange: &mut Exchange, status: u16, headers: &[(&str, &str)], body: &[u8]) {
    let mut response = proto_http::Response::with_status(status);
    for (name, value) in headers {
        response.headers.add(name, value);
    }
    exchange.respond(response, Body::full(body.to_vec()));
}

/// Builds a filter out of YAML, which must be right.
pub fn filter(kind: &FilterKind, spec: &str) -> Arc<dyn Filter> {
    filter_after(kind, spec, None)
}

/// As [`filter`], inheriting.
pub fn filter_after(kind: &FilterKind, spec: &str, previous: Option<&dyn Filter>) -> Arc<dyn Filter> {
    build(kind, spec, previous, &telemetry())
}

/// As [`filter`], with figures to look at.
pub fn filter_with(kind: &FilterKind, spec: &str, telemetry: &Arc<Telemetry>) -> Arc<dyn Filter> {
    build(kind, spec, None, telemetry)
}

pub fn telemetry() -> Arc<Telemetry> {
    Telemetry::new(Identity::default(), 1)
}

/// `plain` as gzip.
pub fn packed(plain: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(9));
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn build(kind: &FilterKind, spec: &str, previous: Option<&dyn Filter>, telemetry: &Arc<Telemetry>) -> Arc<dyn Filter> {
    let fields = yaml(spec);
    kind.checked(&fields, "").unwrap_or_else(|problems| panic!("{spec}: {}", base_model::problem::render(&problems)));
    let parts = Parts { name: "f", pipeline: &PipelineName::of_object("p"), previous, resilience: &[], telemetry };
    (kind.build)(&fields, &parts)
        .unwrap_or_else(|problems| panic!("{spec}: {}", base_model::problem::render(&problems)))
}

/// The document must be refused, with exactly these paths.
pub fn refuses(kind: &FilterKind, spec: &str, paths: &[&str]) {
    let problems = kind.checked(&yaml(spec), "").expect_err(spec);
    let mut found: Vec<&str> = problems.iter().map(|p| p.path.as_str()).collect();
    found.sort_unstable();
    let fits = found.len() == paths.len() && found.iter().zip(paths).all(|(f, p)| f.starts_with(p));
    assert!(fits, "{spec}: found {found:?}, want {paths:?}\n{}", base_model::problem::render(&problems));
}

pub fn yaml(text: &str) -> Value {
    base_model::yaml::parse_document(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Runs a filter that never has to wait for the outside.
pub fn run(filter: &dyn Filter, exchange: &mut Exchange) -> Outcome {
    match filter.handle(exchange) {
        Step::Done(outcome) => outcome,
        Step::Wait(future) => ready(future),
    }
}

/// Polls a future that only ever yields.
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..10_000 {
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
    }
    panic!("the future waits for something");
}

/// Status of the response, 0 without one.
pub fn status_of(exchange: &Exchange) -> u16 {
    exchange.space_ref().response.as_ref().map_or(0, |r| r.status)
}

pub fn body_of(exchange: &Exchange) -> &[u8] {
    exchange.space_ref().response_body.in_memory().unwrap()
}

pub fn request_body_of(exchange: &Exchange) -> &[u8] {
    exchange.space_ref().request_body.in_memory().unwrap()
}

pub fn response_header<'x>(exchange: &'x Exchange, name: &str) -> Option<&'x str> {
    exchange.space_ref().response.as_ref()?.headers.text(name)
}

pub fn header<'x>(exchange: &'x Exchange, name: &str) -> Option<&'x str> {
    exchange.request().headers.text(name)
}

/// All values of a request header, joined.
pub fn headers(exchange: &Exchange, name: &str) -> String {
    let values: Vec<_> = exchange.request().headers.values(name).map(String::from_utf8_lossy).collect();
    values.join(",")
}

/// A body that arrives in pieces, of unknown length.
pub struct Pieces(pub Vec<&'static [u8]>);

impl edge_pipeline::BodyStream for Pieces {
    fn poll_piece(&mut self, _: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        let piece = |pieces: &mut Vec<&'static [u8]>| Piece::Bytes(bytes::Bytes::from_static(pieces.remove(0)));
        Poll::Ready(Ok((!self.0.is_empty()).then(|| piece(&mut self.0))))
    }

    fn remaining(&self) -> Option<u64> {
        None
    }
}
