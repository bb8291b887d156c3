//! The spans of tries: each server that is asked is one, and is told that it is.

use super::Pool;
use edge_pipeline::Exchange;
use edge_upstream::endpoint::Place;
use edge_upstream::{Answer, AttemptError, Server};
use proto_http::Request;
use proto_trace::{Begun, Recording, Reserved, SpanKind, inject};
use std::cell::Cell;
use std::time::Instant;

/// A try begins, where spans are written down.
#[inline]
pub fn begin(pool: &Pool, server: &Server, exchange: &mut Exchange) -> Option<Begun> {
    // Taken out for the moment: the request is another part of the same exchange.
    let mut trace = exchange.trace.take()?;
    let now = Instant::now();
    let span = trace.begin_beside(&pool.span_name, SpanKind::Client, now);
    let request = exchange.request_mut();
    describe(&mut trace, span, server, request);
    inject(&mut request.headers, &trace.outgoing(span));
    exchange.trace = Some(trace);
    Some(span)
}

/// It has ended so.
pub fn end(
    span: Option<Begun>,
    pool: &Pool,
    status: u16,
    result: &Result<Answer, AttemptError>,
    exchange: &mut Exchange,
) {
    if let (Some(span), Some(trace)) = (span, &mut exchange.trace) {
        let now = Instant::now();
        match result {
            Ok(_) => answered(trace, span, status, pool.is_failure(status)),
            Err(error) => {
                trace.fail(span, error.counted_as().map_or("request", |kind| kind.text()));
                trace.happened(span, "exception", now, [("exception.message", error.to_string().into())]);
            }
        }
        trace.end(span, now);
    }
}

/// Whoever is still being asked is not listened to any longer.
pub fn give_up(why: &'static str, exchange: &mut Exchange) {
    if let Some(trace) = &mut exchange.trace {
        trace.give_up(why, Instant::now());
    }
}

/// A second server that may be asked while a first one is, and cannot be written down before that has ended.
#[derive(Default)]
pub struct Second {
    reserved: Option<Reserved>,
    /// Which server, and when.
    asked: Cell<Option<(usize, Instant)>>,
    /// When it answered, and with what status; 0 where it failed.
    answered: Cell<Option<(Instant, u16)>>,
}

impl Second {
    /// Prepares the request that would go to it.
    pub fn prepare(exchange: &mut Exchange, request: &mut Request) -> Second {
        let reserved = exchange.trace.as_mut().map(|trace| trace.reserve());
        if let (Some(reserved), Some(trace)) = (reserved, &exchange.trace) {
            inject(&mut request.headers, &trace.outgoing_as(reserved.id));
        }
        Second { reserved, ..Second::default() }
    }

    pub fn asks(&self, server: usize) {
        if self.reserved.is_some() {
            self.asked.set(Some((server, Instant::now())));
        }
    }

    pub fn hears(&self, status: Option<u16>) {
        if self.reserved.is_some() {
            self.answered.set(Some((Instant::now(), status.unwrap_or_default())));
        }
    }

    /// Writes down what there was of it, and that nobody else is listened to.
    pub fn write(&self, pool: &Pool, servers: &[std::sync::Arc<Server>], exchange: &mut Exchange) {
        let Some(mut trace) = exchange.trace.take() else { return };
        if let (Some(reserved), Some((index, began))) = (self.reserved, self.asked.get()) {
            let span = trace.begin_reserved(reserved, &pool.span_name, SpanKind::Client, began);
            if let Some(server) = servers.get(index) {
                describe(&mut trace, span, server, exchange.request());
            }
            trace.set(span, "weir.hedge", true);
            match self.answered.get() {
                Some((at, 0)) => {
                    trace.fail(span, "failed");
                    trace.end(span, at);
                }
                Some((at, status)) => {
                    answered(&mut trace, span, status, pool.is_failure(status));
                    trace.end(span, at);
                }
                None => {}
            }
        }
        trace.give_up("canceled", Instant::now());
        exchange.trace = Some(trace);
    }
}

fn describe(trace: &mut Recording, span: Begun, server: &Server, request: &Request) {
    let again = trace.spans().iter().filter(|span| span.kind == SpanKind::Client).count().saturating_sub(1);
    match &server.endpoint.place {
        Place::Host(host, port) => {
            trace.set(span, "server.address", host.clone());
            trace.set(span, "server.port", i64::from(*port));
        }
        Place::Socket(path) => trace.set(span, "server.address", path.display().to_string()),
    }
    trace.set(span, "http.request.method", request.method.as_str().to_owned());
    if again > 0 {
        trace.set(span, "http.request.resend_count", again as i64);
    }
}

fn answered(trace: &mut Recording, span: Begun, status: u16, failed: bool) {
    trace.set(span, "http.response.status_code", i64::from(status));
    // As OpenTelemetry's conventions have it, a client takes 400 to 499 for failures, too.
    if failed || status >= 400 {
        trace.fail(span, status.to_string());
    }
}
