//! One request from its head to the last byte of its answer: route, pipeline, answer, record. The client's side is whatever
//! protocol carries it, see [`client_stream`](crate::client_stream).

use crate::acme::{self, Acme, Told};
use crate::client_stream::{AnswerHead, BodyFailure, ClientStream, Follows, Reset};
use crate::forwarded;
use crate::grpc::{self, Dialect};
use crate::grpc_web::{self, Web};
use crate::http_server::{Live, Local, Over};
use crate::pace::Pace;
use crate::request_id;
use crate::response::{self, Sent};
use crate::router::{Matched, Route};
use crate::tls::Tls;
use crate::trace;
use crate::variables::{Context as VariableContext, VariableText};
use crate::watch::Ended;
use base_model::RequestIds;
use base_quic::stats as quic;
use base_runtime::Boxed;
use edge_pipeline::exchange::{DEFAULT_BODY_LIMIT, local_addresses_wanted};
use edge_pipeline::{Around, Body, BodyError, Duplex, Exchange, Hold, Pipeline, rounds};
use proto_cache::key::is_disguised;
use proto_http::path::PathError;
use proto_http::{Method, Response, Version};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

/// What became of a request.
#[derive(Debug)]
pub enum Served {
    /// It was answered, or its stream was reset.
    Answered,
    /// It was answered, and client and backend have left HTTP: they are to be joined. What was held for the request is held for as long
    /// as they are.
    Joined(Box<dyn Duplex>, Vec<Box<dyn Hold>>),
}

/// Says in the exchange who asks. Comes before everything else, so that a request that cannot be read has an author in the log.
pub fn admit<S: ClientStream>(local: &Local, stream: &S, exchange: &mut Exchange) {
    exchange.start(base_runtime::now());
    exchange.tags.enabled = local.wants_tags();
    let client = &mut exchange.client;
    client.peer = stream.peer();
    client.local = if local_addresses_wanted() { stream.local() } else { None };
    client.real_ip = Some(client.peer.ip().to_canonical());
    client.proxied = false;
    if !Arc::ptr_eq(&client.server, local.server_name()) {
        client.server = local.server_name().clone();
    }
    client.tls = stream.session();
    client.scheme = if client.tls.is_some() { "https" } else { "http" };
}

/// Takes note of the request that was read into the exchange.
pub fn remember(exchange: &mut Exchange) {
    exchange.default_space().has_request = true;
    exchange.remember_target();
}

/// Answers a request that no route is asked about.
pub async fn refuse<S: ClientStream>(local: &Local, stream: &mut S, exchange: &mut Exchange, response: Response) {
    if let Some(limit) = local.just_reached() {
        exchange.tags.hit(limit);
    }
    exchange.default_space().respond(response, Body::Empty);
    finish(local, stream, exchange, None, None).await;
}

/// Serves the request in the exchange, of which [`remember`] took note.
pub async fn serve<S: ClientStream>(local: &Local, stream: &mut S, exchange: &mut Exchange) -> Served {
    // Before anything is done for it.
    if local.refuses(exchange) {
        return pin!(finish(local, stream, exchange, None, None)).await;
    }
    let live = local.live();
    exchange.upgrade_offered = stream.offers_upgrade();
    believe_proxies(local, exchange, &live);
    if request_id::settle(exchange, live.request_ids) {
        reach(local, exchange, "request_id");
    }
    if let Some(tracer) = &live.tracer {
        trace::begin(local, tracer, exchange);
    }
    let looks = live.max_hops > 0;
    let hops = if looks { rounds::passed(&exchange.request().headers, local.mark()) } else { 0 };
    let found = match &live.tls {
        Some(tls) if is_misdirected(tls, exchange) => {
            reach(local, exchange, "misdirected");
            Err(421)
        }
        _ if hops > live.max_hops => {
            reach(local, exchange, "http_loop");
            Err(508)
        }
        // gRPC has no form in HTTP/1.
        _ if live.dialect == Dialect::Grpc
            && matches!(exchange.request().version, Version::Http10 | Version::Http11) =>
        {
            Err(505)
        }
        _ => live.router.route(exchange.request(), exchange.client.real_ip),
    };
    let (found, told) = ask_acme(exchange, found);
    let found = if exchange.request().method == Method::Connect { may_connect(found) } else { found };
    let limit = body_limit(found.as_ref().ok().map(|f| f.0), live.max_body);
    exchange.default_space().request_body = stream.take_body(limit);
    let is_grpc = live.dialect.is_grpc();
    let web = if live.dialect == Dialect::GrpcAndWeb { grpc_web::receive(exchange) } else { None };
    let routed = match &found {
        Err(status) => {
            match told {
                Some(told) => told.respond(exchange),
                None => deny(is_grpc, exchange, *status),
            }
            None
        }
        Ok((route, matched)) => {
            let prepared = prepare(local, exchange, route, matched, live.x_forwarded_for);
            if looks {
                // Behind what the document sets: one that takes the field out would let requests go round for ever.
                rounds::note(&mut exchange.request_mut().headers, local.mark(), hops + 1);
            }
            if prepared.is_err() {
                reach(local, exchange, "rewritten_path");
                deny(is_grpc, exchange, 400);
            } else if let Some(pipeline) = live.pipeline(route) {
                if limit.is_some_and(|most| exchange.request_body_length().is_some_and(|length| length > most)) {
                    reach(local, exchange, "request_body_bytes");
                    deny(is_grpc, exchange, 413);
                } else {
                    let around = live.around();
                    exchange.route = std::ptr::from_ref::<Route>(route).addr() as u64;
                    let mut walks = true;
                    if stream.is_early() {
                        let settled = settle_early(local, &pipeline, around.as_deref(), exchange, stream);
                        walks = Boxed::new(settled).await;
                    }
                    if walks {
                        walks = pin!(run(&pipeline, around.as_deref(), exchange, stream)).await;
                    }
                    match walks {
                        true => exchange.answered(),
                        false => exchange.client_gone = true,
                    }
                }
            } else {
                deny(is_grpc, exchange, 503);
            }
            Some(route.pipeline.name())
        }
    };
    let failure = stream.body_failure();
    if let Some(failure) = failure {
        blame(local, exchange, failure);
    }
    if exchange.client_gone {
        exchange.default_space().respond(Response::with_status(499), Body::Empty);
        let answered = base_runtime::now().saturating_duration_since(exchange.started);
        let request_bytes = stream.request_bytes();
        let ended = Ended::ClientGone;
        local.record(exchange, &Over { routed, ended, answered, lasts: false, request_bytes, response_bytes: 0 });
        stream.reset(Reset::ClientGone);
        return Served::Answered;
    }
    // The pipeline is done with the request: what it left unread is dropped here.
    exchange.default_space().request_body = Body::Empty;
    pin!(finish(local, stream, exchange, routed, web)).await
}

/// Counts a bound that the request has reached, and has it remember that.
fn reach(local: &Local, exchange: &mut Exchange, limit: &'static str) {
    local.limit(limit);
    exchange.tags.hit(limit);
}

/// What an authority is told that asks for a name, before all pipelines. Only a route that is written for such paths goes before what
/// is told of tokens nobody knows: whoever has one answers authorities himself.
fn ask_acme<'r>(
    exchange: &Exchange,
    found: Result<(&'r Route, Matched), u16>,
) -> (Result<(&'r Route, Matched), u16>, Option<Told>) {
    let path = exchange.request().path.as_str();
    // Of nearly all others nothing more is looked at.
    if !path.starts_with(acme::WELL_KNOWN) {
        return (found, None);
    }
    match Acme::here().answer(path, exchange.request().host()) {
        None => (found, None),
        Some(Told::Status(_)) if found.as_ref().is_ok_and(|(route, _)| route.well_known) => (found, None),
        told => (Err(404), told),
    }
}

/// Answers what no pipeline does.
fn deny(grpc: bool, exchange: &mut Exchange, status: u16) {
    if grpc && grpc::asks(exchange) {
        return grpc::refuse(exchange, status);
    }
    exchange.respond(Response::with_status(status), Body::Empty);
}

/// The client's body could not be read to its end: counts why, and sees that the answer says it. A client that left in the
/// middle of its body gets none, unless one was made without the rest: it may only have finished sending.
fn blame(local: &Local, exchange: &mut Exchange, failure: BodyFailure) {
    if let Some(limit) = failure.limit {
        reach(local, exchange, limit);
    }
    // Where no filter had anything to say to it, the body's own failure is the answer.
    let (space, says) = (exchange.default_space(), failure.error.request_status());
    let is_made = |response: &Response| response.status != says || space.response_body.length() != Some(0);
    let made = space.response.as_ref().is_some_and(is_made);
    if space.response.is_none() {
        space.respond(Response::with_status(says), Body::Empty);
    }
    exchange.client_gone |= failure.error == BodyError::Incomplete && !made;
}

fn body_limit(route: Option<&Route>, server: i64) -> Option<u64> {
    match route.map(|r| r.max_body).filter(|l| *l != 0).unwrap_or(server) {
        0 => Some(DEFAULT_BODY_LIMIT),
        negative if negative < 0 => None,
        bytes => Some(bytes as u64),
    }
}

/// Whom a trusted proxy speaks for, and how that client came.
fn believe_proxies(local: &Local, exchange: &mut Exchange, live: &Live) {
    let trusted = &live.trusted_proxies;
    if trusted.is_empty() {
        return;
    }
    let (headers, peer) = (&exchange.request().headers, exchange.client.peer.ip());
    let (real_ip, scheme) = (forwarded::real_ip(headers, peer, trusted), forwarded::scheme(headers, peer, trusted));
    if real_ip.is_none() {
        reach(local, exchange, "client_unknown");
    }
    // Where proxies say in front of a connection whose it is, nothing is known of who sends its packets.
    exchange.client.proxied = live.introduced || trusted.contains(peer.to_canonical());
    exchange.client.real_ip = real_ip;
    exchange.client.scheme = scheme.unwrap_or(exchange.client.scheme);
}

/// What a route asks to be done before its pipeline. An error: its rewrite gave what may not be a path.
fn prepare(
    local: &Local,
    exchange: &mut Exchange,
    route: &Route,
    matched: &Matched,
    forwarded_for: bool,
) -> Result<(), PathError> {
    if !route.set_headers().is_empty() {
        let context = VariableContext {
            request: exchange.request(),
            client: &exchange.client,
            started: exchange.started,
            machine: local.machine(),
            worker: base_runtime::worker_index(),
            captures: if let Matched::Captured(captures) = matched { captures } else { &[] },
        };
        let set: Vec<(&str, Option<String>)> = route
            .set_headers()
            .iter()
            .map(|(name, text)| (name.as_str(), (!text.is_empty()).then(|| text.expand(&context))))
            .collect();
        for (name, value) in set {
            match value {
                // The authority is what backends are asked for; a text that is none leaves it as it is.
                Some(host) if name.eq_ignore_ascii_case("Host") => {
                    if proto_http::authority::is_authority(host.as_bytes()) {
                        exchange.request_mut().authority = host;
                    } else {
                        local.limit("set_host");
                    }
                }
                Some(value) => exchange.request_mut().headers.set(name, value),
                None => drop(exchange.request_mut().headers.remove(name)),
            }
        }
    }
    exchange.match_prefix(route.prefix());
    route.rewrite(exchange.request_mut(), matched)?;
    // Who writes the whole list into the field has the peer in it already.
    let is_list =
        |(name, text): &(String, VariableText)| name.eq_ignore_ascii_case("X-Forwarded-For") && text.adds_peer();
    if forwarded_for && !route.set_headers().iter().any(is_list) {
        let list = forwarded::with_peer(&exchange.request().headers, exchange.client.peer.ip(), ",");
        exchange.request_mut().headers.set("X-Forwarded-For", list);
    }
    Ok(())
}

/// The request came over a connection it must not come over.
fn is_misdirected(tls: &Tls, exchange: &Exchange) -> bool {
    match &exchange.client.tls {
        // The connection is older than the wish for certificates.
        None => tls.asks_clients,
        Some(session) => {
            (tls.asks_clients && session.peer_certificates.is_empty())
                || tls.is_misdirected(session.server_name.as_deref(), exchange.request().host())
        }
    }
}

/// CONNECT goes only where a filter makes tunnels of it. It has no path, so that entries with conditions for one are not for it: 404.
/// Elsewhere it is a method this server does not have; nothing of it reaches a backend, which might take it for the start of another
/// protocol.
fn may_connect(found: Result<(&Route, Matched), u16>) -> Result<(&Route, Matched), u16> {
    match found {
        Ok((route, matched)) if route.pipeline.current().is_some_and(|p| p.makes_tunnels()) => Ok((route, matched)),
        Ok(_) => Err(501),
        Err(status) => Err(status),
    }
}

/// The request is in early data, which may be sent once more by somebody else: says so to backends where nothing comes of that, and waits
/// until the client has shown to be there where something may (RFC 8470). False: the client left meanwhile.
async fn settle_early<S: ClientStream>(
    local: &Local,
    pipeline: &Pipeline,
    around: Option<&Around>,
    exchange: &mut Exchange,
    stream: &mut S,
) -> bool {
    let is_safe = exchange.request().method.is_safe()
        && !is_disguised(&exchange.request().headers)
        && matches!(exchange.default_space_ref().request_body, Body::Empty)
        && !exchange.upgrade_offered;
    // The address it comes from may be anybody's until then.
    let is_for_all = !local.goes_by_address();
    if is_safe && is_for_all && pipeline.is_repeatable() && around.is_none_or(Around::is_repeatable) {
        quic::count(quic::Count::EarlyServed);
        exchange.tags.note_own(|| "early data");
        exchange.request_mut().headers.set("Early-Data", "1");
        return true;
    }
    quic::count(quic::Count::EarlyWaited);
    exchange.tags.note_own(|| "early data that waited");
    poll_fn(|cx| match stream.poll_shaken(cx) {
        Poll::Ready(()) => Poll::Ready(true),
        Poll::Pending => stream.poll_gone(cx).map(|()| false),
    })
    .await
}

/// Walks the pipeline, and relays what backends say ahead of their answer; false when the client left meanwhile.
async fn run<S: ClientStream>(
    pipeline: &Pipeline,
    around: Option<&Around>,
    exchange: &mut Exchange,
    stream: &mut S,
) -> bool {
    let interim = exchange.interim.clone();
    let mut walk = pin!(async {
        match around {
            None => drop(pin!(pipeline.run(exchange)).await),
            Some(around) => Boxed::new(pipeline.run_within(around, exchange)).await,
        }
        exchange.end();
    });
    poll_fn(|cx| {
        let walked = walk.as_mut().poll(cx).is_ready();
        while let Some(response) = interim.pop() {
            stream.send_interim(&response);
        }
        if walked {
            return Poll::Ready(true);
        }
        stream.poll_gone(cx).map(|()| false)
    })
    .await
}

/// Sends the answer, writes the log line, counts.
async fn finish<S: ClientStream>(
    local: &Local,
    stream: &mut S,
    exchange: &mut Exchange,
    routed: Option<&Arc<str>>,
    web: Option<Web>,
) -> Served {
    let answered = base_runtime::now().saturating_duration_since(exchange.started);
    let backend = exchange.upgraded.take();
    let ids = local.with_live(|live| live.request_ids);
    if exchange.id.is_empty() && ids != RequestIds::Off {
        // It was refused before anybody asked for one, or before so much of it was read that it could have had one.
        match exchange.default_space_ref().has_request {
            true => drop(request_id::settle(exchange, ids)),
            false => request_id::make(&mut exchange.id),
        }
    }
    let id = std::mem::take(&mut exchange.id);
    // As the client asked it: filters may have changed the method since.
    let (encrypted, version) = (exchange.client.tls.is_some(), exchange.default_space_ref().request.version);
    let (head_request, connect) = (exchange.method == Method::Head, exchange.method == Method::Connect);
    let told = if local.with_live(|live| live.dialect.is_grpc()) { grpc::settle(exchange) } else { None };
    if let Some(web) = web {
        grpc_web::answer(web, exchange);
    }
    // A client that was refused comes back: where sockets are what is short, not on this one.
    let leaves = exchange.refused.is_some() && local.overload().sockets_are_scarce();
    let space = exchange.default_space();
    let mut body = std::mem::take(&mut space.response_body);
    let mut response = space.response.get_or_insert_with(|| Response::with_status(503));
    let joined = backend.filter(|_| response.status == 101 || (connect && (200..300).contains(&response.status)));
    if response.status < 200 && joined.is_none() {
        // An interim answer that nothing follows would leave the client waiting.
        *response = Response::with_status(500);
        body = Body::Empty;
    }
    if joined.is_none() {
        // Any 2xx would tell a client who asks for a tunnel that it is open (RFC 9110 section 9.3.6): it would take what follows for its
        // peer's.
        if connect && (200..300).contains(&response.status) {
            response = space.refuse(502);
            body = Body::Empty;
        }
        response.status = stream.sayable(response.status);
    }
    if encrypted
        && version != Version::Http3
        && let Some(offered) = local.alt_svc()
        && !response.headers.contains("Alt-Svc")
    {
        response.headers.add("Alt-Svc", offered.as_bytes());
    }
    request_id::tell(&id, response);
    let follows = match response.status {
        _ if joined.is_some() => Follows::Duplex,
        204 | 304 => Follows::Nothing,
        _ if head_request => Follows::Nothing,
        _ => Follows::Body,
    };
    let (length, trailers) = (body.length(), body.has_trailers());
    let real_time = length.is_none() && body.is_stream() && follows == Follows::Body;
    let mut pace = local.with_live(|live| Pace::new(&live.timeouts, live.timeouts.send));
    let (before, failed_before) = (stream.bytes_said(), stream.body_failure().is_some());
    let (head, mut dropped) = (AnswerHead { response, length, trailers, follows, leaves }, 0);
    let mut sent = pin!(response::send(stream, &head, body, &mut pace, &mut dropped)).await;
    if dropped > 0 {
        local.limit("trailers_dropped");
    }
    let (broke_off, mut stopped) = (matches!(sent, Sent::Nothing { .. } | Sent::Cut), false);
    if let Sent::Nothing { status } = sent {
        *response = Response::with_status(status);
        request_id::tell(&id, response);
        let head = AnswerHead { response, length: Some(0), trailers: false, follows, leaves };
        sent = Boxed::new(response::send(stream, &head, Body::Empty, &mut pace, &mut dropped)).await;
    }
    exchange.id = id;
    if !failed_before && let Some(failure) = stream.body_failure() {
        // It failed beside the answer, which could not go on without it.
        if let Some(limit) = failure.limit {
            reach(local, exchange, limit);
        }
        stopped = failure.error == BodyError::Incomplete && broke_off;
    }
    if real_time {
        exchange.tags.note_own(|| "real time stream: true");
    }
    if broke_off && !stopped {
        exchange.tags.note_own(|| "backend broke off the body");
        if let Some(trace) = &mut exchange.trace {
            trace.fail(trace.request(), "backend_broke_off");
        }
    }
    if let Some(code) = told.and_then(|told| told.get()) {
        exchange.tags.note_own(|| format!("grpc-status: {}", code.0));
    }
    let reset = match sent {
        // It may only have finished sending, and be reading what there was of its answer.
        _ if stopped => {
            exchange.tags.note_own(|| "client left during the answer");
            Some(Reset::AnswerBroken)
        }
        Sent::Whole => None,
        Sent::Nothing { .. } | Sent::Cut => Some(Reset::AnswerBroken),
        Sent::Stalled => {
            reach(local, exchange, "response_stalled");
            exchange.tags.note_own(|| "client took no byte in time");
            Some(Reset::ClientSlow)
        }
        Sent::Slow => {
            reach(local, exchange, "response_rate");
            exchange.tags.note_own(|| "client took too few bytes");
            Some(Reset::ClientSlow)
        }
        Sent::Gone => {
            exchange.tags.note_own(|| "client left during the answer");
            Some(Reset::ClientGone)
        }
    };
    let ended = match sent {
        _ if stopped => Ended::ClientLeft,
        _ if broke_off => Ended::BodyBroken,
        Sent::Gone => Ended::ClientLeft,
        Sent::Stalled | Sent::Slow => Ended::ClientSlow,
        _ => Ended::Whole,
    };
    let (request_bytes, response_bytes) = (stream.request_bytes(), stream.bytes_said().saturating_sub(before));
    let lasts = real_time || joined.is_some();
    local.record(exchange, &Over { routed, ended, answered, lasts, request_bytes, response_bytes });
    match (reset, joined) {
        (Some(why), _) => stream.reset(why),
        (None, Some(backend)) => return Served::Joined(backend, exchange.take_held()),
        (None, None) => {}
    }
    Served::Answered
}

#[cfg(test)]
mod tests;
