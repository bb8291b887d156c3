//! A request's place in its trace: read from its fields, told to those who are asked, and written down where it is sampled.
//!
//! A server without `tracing` looks at nothing. A request that is not sampled costs a look at its fields and the new ones.

use crate::clock;
use crate::http_server::Local;
use base_text::escape::write_foreign;
use base_text::redact;
use edge_export::Tracer;
use edge_pipeline::Exchange;
use edge_upstream::random;
use proto_http::{Headers, Version};
use proto_trace::{Beginning, Outgoing, Recording, SpanId, TraceId, extract, inject};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The request begins.
pub fn begin(local: &Local, tracer: &Tracer, exchange: &mut Exchange) {
    let incoming = extract(&exchange.request().headers, tracer.format);
    let (trace, parent) = match incoming.parent {
        Some((trace, parent)) => (trace, Some(parent)),
        None => (TraceId::of(random::next(), random::next()), None),
    };
    let sampled = incoming.debug || tracer.sampler.takes(&incoming, trace);
    let span = SpanId::of(random::next());
    let formats = incoming.formats.and(tracer.format);
    let outgoing = Outgoing {
        trace,
        span,
        sampled,
        debug: incoming.debug,
        random: incoming.random,
        state: incoming.state.as_deref(),
        formats,
    };
    inject(&mut exchange.request_mut().headers, &outgoing);
    if !sampled && !tracer.sampler.watches() {
        return;
    }
    if sampled {
        exchange.tags.note_own(|| format!("trace {trace}"));
    }
    let at = clock::since_1970(exchange.started);
    let clock = (exchange.started, u64::try_from(at.as_nanos()).unwrap_or_default());
    let mut recording = Recording::new(Beginning {
        trace,
        parent,
        state: incoming.state,
        sampled,
        debug: incoming.debug,
        random: incoming.random,
        formats,
        limits: tracer.limits,
        name: local.server_name().clone(),
        span,
        clock,
        seed: random::next(),
    });
    came_through_cloudflare(&mut recording, &exchange.request().headers, clock.1);
    exchange.trace = Some(Box::new(recording));
}

/// Cloudflare says by what ray a request came, and when, so that the way through its network is a span, too.
fn came_through_cloudflare(recording: &mut Recording, headers: &Headers, now: u64) {
    let Some(ray) = headers.text("cf-ray") else { return };
    recording.set(recording.request(), "cf.ray", ray.to_owned());
    // Milliseconds within the second, which are not padded with zeroes everywhere.
    let number = |name: &str| headers.text(name)?.trim().parse::<u64>().ok();
    if let (Some(seconds), Some(millis @ 0..1000)) = (number("x-ts-sec"), number("x-ts-msec"))
        && let Some(began) = seconds.checked_mul(1000).and_then(|ms| ms.checked_add(millis)?.checked_mul(1_000_000))
        && began <= now
    {
        let way = recording.came_through(&Arc::from("cloudflare"), began);
        recording.set(way, "cf.ray", ray.to_owned());
    }
}

/// The request is over: its spans go, or are forgotten.
pub fn finish(
    tracer: Option<&Tracer>,
    exchange: &mut Exchange,
    routed: Option<&Arc<str>>,
    status: u16,
    (ended, took): (Instant, Duration),
    (request_bytes, response_bytes): (u64, u64),
) {
    let (Some(mut trace), Some(tracer)) = (exchange.trace.take(), tracer) else { return };
    let failed = status >= 500 || trace.spans().first().is_some_and(|span| span.failed);
    if !trace.sampled && !tracer.sampler.keeps(failed, took) {
        return;
    }
    trace.give_up("canceled", ended);
    let request = trace.request();
    trace.set(request, "http.request.method", exchange.method.as_str().to_owned());
    trace.set(request, "http.response.status_code", i64::from(status));
    trace.set(request, "url.path", shown(exchange.asked_path()));
    let query = exchange.uri.iter().position(|b| *b == b'?').map(|at| &exchange.uri[at + 1..]);
    if let Some(query) = query.filter(|query| !query.is_empty()) {
        // Read as a URL, so that what is a credential in one is hidden.
        let url = shown(&[b"?", query].concat());
        trace.set(request, "url.query", url[1..].to_owned());
    }
    trace.set(request, "url.scheme", exchange.client.scheme);
    let asked = &exchange.default_space_ref().request;
    trace.set(request, "server.address", asked.host().to_owned());
    trace.set(request, "client.address", exchange.client.real_ip_text());
    trace.set(request, "network.peer.address", exchange.client.peer.ip().to_canonical().to_string());
    trace.set(request, "network.peer.port", i64::from(exchange.client.peer.port()));
    trace.set(request, "network.protocol.version", version(asked.version));
    if let Some(agent) = asked.headers.text("User-Agent") {
        trace.set(request, "user_agent.original", agent.to_owned());
    }
    if let Some(pipeline) = routed {
        trace.set(request, "weir.pipeline", pipeline.clone());
    }
    trace.set(request, "http.request.size", request_bytes as i64);
    trace.set(request, "http.response.size", response_bytes as i64);
    match status {
        499 => trace.set(request, "error.type", "client_gone"),
        500.. => trace.fail(request, status.to_string()),
        _ => {}
    }
    trace.close(ended);
    tracer.offer(Arc::from(trace));
}

/// As OpenTelemetry's conventions write it.
fn version(version: Version) -> &'static str {
    match version {
        Version::Http10 => "1.0",
        Version::Http11 => "1.1",
        Version::Http2 => "2",
        Version::Http3 => "3",
    }
}

/// A part of the request's target as it may be told: without credentials, and without what is no text.
fn shown(target: &[u8]) -> String {
    let mut out = Vec::with_capacity(target.len());
    redact::write_url(target, &mut out);
    String::from_utf8(out).unwrap_or_else(|bytes| {
        let mut out = Vec::new();
        write_foreign(&bytes.into_bytes(), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    })
}
