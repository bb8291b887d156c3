//! Answers of a GRPCServer: whatever a pipeline says, a client of gRPC is told a status of gRPC.

use base_model::{GoDuration, GrpcServerSpec};
use edge_pipeline::grpc::{self, Code};
use edge_pipeline::{Exchange, Watch, Watched};
use proto_h2::PingRules;
use proto_http::Headers;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// What the clients of a server speak over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Nothing but that.
    Http,
    Grpc,
    /// gRPC and, over any version of HTTP, gRPC-Web.
    GrpcAndWeb,
}

impl Dialect {
    pub fn of(spec: &GrpcServerSpec) -> Dialect {
        if spec.grpc_web { Dialect::GrpcAndWeb } else { Dialect::Grpc }
    }

    pub fn is_grpc(self) -> bool {
        self != Dialect::Http
    }
}

/// How long a connection may live, and when its client is asked whether it is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Life {
    /// Then it takes no more calls.
    pub age: Option<Duration>,
    /// So long after that, those under way are cut off.
    pub grace: Option<Duration>,
    /// The silence it is asked after, and how long it may take to answer.
    pub keepalive: Option<(Duration, Duration)>,
    /// How often it may ask in its turn.
    pub pings: Option<PingRules>,
}

impl Life {
    pub fn of(spec: &GrpcServerSpec) -> Life {
        let (time, timeout) = (spec.keepalive_time, spec.keepalive_timeout);
        let or = |given: Option<GoDuration>, usual| given.map_or(usual, GoDuration::duration);
        Life {
            age: spec.max_connection_age.map(GoDuration::duration),
            grace: spec.max_connection_age_grace.map(GoDuration::duration),
            keepalive: Some((or(time, KEEPALIVE_TIME), or(timeout, KEEPALIVE_TIMEOUT))),
            pings: spec.min_time_client_send_ping.map(|pause| PingRules {
                pause: pause.duration(),
                without_requests: spec.permit_clint_send_ping_without_stream,
            }),
        }
    }
}

/// What gRPC's own servers have.
const KEEPALIVE_TIME: Duration = Duration::from_secs(2 * 3600);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a client may send nothing of a call whose messages it has not ended: streams rest for as long as they like. A year.
pub const QUIET_MOST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Whether it is a call of gRPC: others are answered in HTTP.
pub fn asks(exchange: &Exchange) -> bool {
    grpc::is_grpc(&exchange.default_space_ref().request.headers)
}

/// Answers a call that no pipeline takes, by the status a router or a bound gives it.
pub fn refuse(exchange: &mut Exchange, status: u16) {
    let (code, message) = match status {
        403 => (Code::PERMISSION_DENIED, "the client's address is not let in"),
        400 | 404 | 405 => (Code::NOT_FOUND, "no rule takes this method"),
        503 => (Code::NOT_FOUND, "the method's pipeline does not exist"),
        413 => (Code::RESOURCE_EXHAUSTED, "the request is too large"),
        508 => (Code::FAILED_PRECONDITION, "the call goes round: servers have each other as backends"),
        other => (Code::of_refusal(other), ""),
    };
    grpc::refuse(exchange.space(), code, message);
}

/// Makes an answer of gRPC of what a pipeline has left, where a call of gRPC was asked. Gives where the status will be when all is sent.
pub fn settle(exchange: &mut Exchange) -> Option<Rc<Cell<Option<Code>>>> {
    if !asks(exchange) {
        return None;
    }
    let space = exchange.default_space();
    match &space.response {
        None => grpc::refuse(space, Code::INTERNAL, "the pipeline gave no answer"),
        Some(response) if response.status != 200 || !grpc::is_grpc(&response.headers) => {
            let status = response.status;
            grpc::refuse(space, Code::of_refusal(status), &format!("the pipeline answered HTTP status {status}"));
        }
        Some(_) => {}
    }
    let told = Rc::new(Cell::new(space.response.as_ref().and_then(|response| grpc::status_of(&response.headers))));
    space.response_body = Watched::watch(std::mem::take(&mut space.response_body), || Told(told.clone()));
    Some(told)
}

/// The trailers of the answer tell how the call went.
struct Told(Rc<Cell<Option<Code>>>);

impl Watch for Told {
    fn ended(&mut self, trailers: Option<&Headers>) {
        if let Some(code) = trailers.and_then(grpc::status_of) {
            self.0.set(Some(code));
        }
    }
}
