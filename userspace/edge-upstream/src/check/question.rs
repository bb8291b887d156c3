//! What a server is asked by a health check, and whether it answers as one that is well.

use crate::attempt::{Attempt, AttemptError, Counters};
use crate::connect::{ConnectError, connect_saying};
use crate::endpoint::{Endpoint, Place, Protocols, Server};
use crate::pool;
use crate::probe::takes_datagrams;
use base_model::{BodyMatchSpec, HeaderCheckSpec, HealthCheckSpec, ProbeType, regexp};
use base_runtime::Buf;
use base_runtime::net::udp::{Transmit, UdpOptions, UdpSocket};
use base_runtime::time::timeout;
use base_telemetry::proxy::ServerRecorder;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use edge_pipeline::{Body, grpc};
use proto_http::{Limits, Method, Request, Response};
use regex::Regex;
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

/// Most of a body that is looked at, in bytes; one that is longer does not match.
const BODY_MOST: u64 = 1024 * 1024;

/// Most that is read of a body that nobody looks at, in bytes, so that its connection can serve again.
const REST_MOST: u64 = 64 * 1024;

/// Most that is read of what comes over TCP, in bytes.
const EXPECTED_WITHIN: usize = 64 * 1024;

/// The method of grpc.health.v1 (github.com/grpc/grpc, doc/health-checking.md).
const GRPC_CHECK: &str = "/grpc.health.v1.Health/Check";

/// What is asked.
#[derive(Debug)]
pub(super) enum Question {
    /// A request, the opening of a WebSocket included.
    Request { asked: Box<Asked>, expected: Expected },
    /// A call of grpc.health.v1.
    Grpc(Box<Asked>),
    /// A connection, something said over it, and what must come back.
    Tcp { server: Arc<Server>, send: Bytes, expect: Bytes },
    /// A datagram.
    Udp { server: Arc<Server>, send: Bytes, expect: Bytes },
}

/// A request that is sent again and again.
#[derive(Debug)]
pub(super) struct Asked {
    server: Arc<Server>,
    request: Request,
    body: Bytes,
    /// It opens a WebSocket.
    upgrade: bool,
    /// Its connection is kept for the next one.
    keeps: bool,
}

/// What a healthy answer looks like.
#[derive(Debug)]
pub(super) struct Expected {
    /// Both ends included.
    statuses: Vec<[u16; 2]>,
    headers: Vec<(String, Text)>,
    body: Option<Text>,
}

/// A text that must be somewhere.
#[derive(Debug)]
enum Text {
    Is(String),
    Contains(String),
    Matches(Regex),
}

impl Question {
    /// `server` is where requests go; the port may be another one here.
    pub fn new(server: &Server, spec: &HealthCheckSpec, probe: ProbeType) -> Result<Question, String> {
        let (send, expect) = (Bytes::from(spec.send.clone()), Bytes::from(spec.expect.clone()));
        let at = |protocols| Arc::new(server_at(server, spec.port, protocols));
        Ok(match probe {
            ProbeType::Tcp => Question::Tcp { server: at(server.protocols), send, expect },
            ProbeType::Udp => Question::Udp { server: at(server.protocols), send, expect },
            ProbeType::Grpc => {
                let protocols = if server.identity.is_some() { Protocols::Negotiated } else { Protocols::Http2 };
                let mut request = request_of(server, spec, Method::Post, GRPC_CHECK)?;
                request.headers.set("Content-Type", "application/grpc");
                request.headers.set("TE", "trailers");
                let body = grpc_message(&spec.service);
                Question::Grpc(Box::new(Asked { server: at(protocols), request, body, upgrade: false, keeps: false }))
            }
            ProbeType::Http | ProbeType::WebSocket => Question::request(server, spec, probe == ProbeType::WebSocket)?,
        })
    }

    fn request(server: &Server, spec: &HealthCheckSpec, upgrade: bool) -> Result<Question, String> {
        let uri = [&spec.uri, &spec.path].into_iter().find(|uri| !uri.is_empty());
        let target = match uri {
            Some(uri) if uri.starts_with('/') => uri.clone(),
            Some(uri) => format!("/{uri}"),
            None if server.prefix.is_empty() => "/".to_owned(),
            None => server.prefix.clone(),
        };
        let method = Method::parse(if upgrade { b"GET" } else { spec.method.as_bytes() }).ok_or("no method")?;
        let mut request = request_of(server, spec, method, &target)?;
        if upgrade {
            request.headers.set("Connection", "Upgrade");
            request.headers.set("Upgrade", "websocket");
            request.headers.set("Sec-WebSocket-Version", "13");
            // Any sixteen bytes will do: nothing is said over what is opened.
            request.headers.set("Sec-WebSocket-Key", STANDARD.encode(b"weir-probes-this"));
        }
        // One of its own, so that no request loses the connection it would have had; the opening of a WebSocket asks as one of a client does.
        let protocols = match server.protocols {
            Protocols::Http3 if upgrade => Protocols::Http1,
            Protocols::Negotiated if upgrade => Protocols::Negotiated,
            shared @ (Protocols::Http2 | Protocols::Http3) => shared,
            _ => Protocols::Http1,
        };
        // Where a kept connection breaks the question is asked again, which must be harmless.
        let keeps =
            protocols == Protocols::Http1 && spec.reuse_connection && !upgrade && request.method.is_idempotent();
        let asked = Asked {
            server: Arc::new(Server { probes: keeps, ..server_at(server, spec.port, protocols) }),
            request,
            body: if upgrade { Bytes::new() } else { Bytes::from(spec.body.clone()) },
            upgrade,
            keeps,
        };
        let usual = if upgrade { [101, 101] } else { [200, 399] };
        Ok(Question::Request { asked: Box::new(asked), expected: Expected::new(spec, usual)? })
    }

    /// Reads what is left of an answer where that costs little and its connection, which others ask over or the next probe does, is better
    /// left open. Dropped, a body closes its connection or breaks its stream off.
    pub async fn finish(&self, mut rest: Body, limit: Duration) {
        let goes_on = match self {
            Question::Request { asked, .. } => {
                asked.keeps || matches!(asked.server.protocols, Protocols::Http2 | Protocols::Http3)
            }
            _ => false,
        };
        if goes_on && rest.is_stream() && rest.length().is_some_and(|length| length <= REST_MOST) {
            let _ = timeout(limit, rest.collect(REST_MOST)).await;
        }
    }

    /// Asks, once. The error says what is wrong with the answer, or why there is none. `anew`: over a connection that is made for it.
    /// What is left of the answer, whoever reads it, is left in `rest`.
    pub async fn ask(&self, anew: bool, asking: &Asking<'_>, rest: &mut Body) -> Result<(), String> {
        let limit = asking.limit;
        match self {
            Question::Request { asked, expected } => {
                let (response, body) = asked.answer(anew, asking).await?;
                *rest = body;
                expected.check(&response, rest).await
            }
            Question::Grpc(asked) => {
                let (response, body) = asked.answer(anew, asking).await?;
                serving(&response, body).await
            }
            Question::Tcp { server, send, expect } => converse(server, send, expect, limit).await,
            Question::Udp { server, send, expect } if send.is_empty() && expect.is_empty() => {
                match takes_datagrams(&server.endpoint).await {
                    true => Ok(()),
                    false => Err("nobody takes datagrams".to_owned()),
                }
            }
            Question::Udp { server, send, expect } => exchange_datagrams(server, send, expect).await,
        }
    }
}

/// How a question is asked.
pub(super) struct Asking<'a> {
    /// How long it may take.
    pub limit: Duration,
    pub recorder: &'a ServerRecorder,
    pub counters: &'a Arc<Counters>,
}

impl Asked {
    async fn answer(&self, anew: bool, asking: &Asking<'_>) -> Result<(Response, Body), String> {
        let (server, request) = (&*self.server, &self.request);
        if anew && self.keeps {
            pool::forget(server);
        }
        let asks_for_itself = server.protocols == Protocols::Http1 || self.upgrade;
        let attempt = Attempt {
            server,
            request,
            host: &request.authority,
            introduction: &server.own_introduction(),
            upgrade: self.upgrade,
            max_idle: usize::from(self.keeps),
            connect_timeout: asking.limit,
            connecting: &Cell::new(false),
            // A connection that many share is there for it, too; one that is kept for requests is left to them.
            repeated: &Cell::new(asks_for_itself && (anew || !self.keeps)),
            keep_body: true,
            interim: None,
            recorder: asking.recorder,
            limits: &Limits::default(),
            counters: asking.counters,
        };
        let answer = attempt.run(&mut Body::shared(self.body.clone())).await.map_err(|error| text_of(&error))?;
        Ok((answer.response, answer.body))
    }
}

fn text_of(error: &AttemptError) -> String {
    error.to_string()
}

impl Expected {
    fn new(spec: &HealthCheckSpec, usual: [u16; 2]) -> Result<Expected, String> {
        let written = spec.match_.clone().unwrap_or_default();
        let statuses = if written.status_codes.is_empty() { vec![usual] } else { written.status_codes };
        let headers = written.headers.iter().map(|header| Ok((header.name.clone(), Text::of_header(header)?)));
        let headers = headers.collect::<Result<_, String>>()?;
        Ok(Expected { statuses, headers, body: written.body.as_ref().map(Text::of_body).transpose()? })
    }

    async fn check(&self, response: &Response, body: &mut Body) -> Result<(), String> {
        if !self.statuses.iter().any(|[low, high]| (*low..=*high).contains(&response.status)) {
            return Err(format!("status {}", response.status));
        }
        for (name, wanted) in &self.headers {
            if !response.headers.values(name).any(|value| wanted.is_in(value)) {
                return Err(format!("the header {name} is not as it should be"));
            }
        }
        let Some(wanted) = &self.body else { return Ok(()) };
        let come = body.collect(BODY_MOST).await.map_err(|error| format!("its body cannot be read: {error}"))?;
        if wanted.is_in(come) { Ok(()) } else { Err("the body is not as it should be".to_owned()) }
    }
}

impl Text {
    fn of_header(spec: &HeaderCheckSpec) -> Result<Text, String> {
        match spec.type_.as_str() {
            "regexp" => regexp::compile(&spec.value).map(Text::Matches),
            _ => Ok(Text::Is(spec.value.clone())),
        }
    }

    fn of_body(spec: &BodyMatchSpec) -> Result<Text, String> {
        match spec.type_.as_str() {
            "regexp" => regexp::compile(&spec.value).map(Text::Matches),
            _ => Ok(Text::Contains(spec.value.clone())),
        }
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        match self {
            Text::Is(text) => text.as_bytes() == bytes,
            Text::Contains(text) => contains(bytes, text.as_bytes()),
            Text::Matches(pattern) => pattern.is_match(&String::from_utf8_lossy(bytes)),
        }
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text)
}

/// The same server at the port that is probed, without the path that goes before those of requests.
fn server_at(server: &Server, port: u16, protocols: Protocols) -> Server {
    let endpoint = match &server.endpoint.place {
        Place::Host(host, own) if port != 0 && port != *own => Endpoint::shared(Place::Host(host.clone(), port)),
        _ => server.endpoint.clone(),
    };
    Server { endpoint, protocols, ..server.bare() }
}

fn request_of(server: &Server, spec: &HealthCheckSpec, method: Method, target: &str) -> Result<Request, String> {
    let mut request = Request { method, authority: server.authority.clone(), ..Request::default() };
    request.set_target(target.as_bytes()).map_err(|_| format!("{target} is no path and query"))?;
    request.headers.set("User-Agent", "weir-health-check");
    if !spec.username.is_empty() {
        let credentials = STANDARD.encode(format!("{}:{}", spec.username, spec.password));
        request.headers.set("Authorization", format!("Basic {credentials}"));
    }
    for (name, value) in &spec.headers {
        match name.eq_ignore_ascii_case("host") {
            true => request.authority.clone_from(value),
            false => request.headers.set(name, value),
        }
    }
    Ok(request)
}

/// HealthCheckRequest: its only field is the service's name. Before it, as before every message, that it is not compressed, and its length.
fn grpc_message(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        // Field 1, a text with its length.
        message.push(1 << 3 | 2);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

/// Whether an answer of grpc.health.v1 says SERVING.
async fn serving(response: &Response, mut body: Body) -> Result<(), String> {
    if response.status != 200 || !grpc::is_grpc(&response.headers) {
        return Err(format!("status {} and no gRPC", response.status));
    }
    let message = body.collect(BODY_MOST).await.map_err(|error| format!("its answer cannot be read: {error}"))?;
    let status = serving_status(message);
    let trailers = body.trailers();
    let code = grpc::status_of(&response.headers).or_else(|| trailers.as_ref().and_then(grpc::status_of));
    match (code, status) {
        (Some(grpc::Code::OK), Some(1)) => Ok(()),
        (Some(grpc::Code::OK), Some(2)) => Err("it says NOT_SERVING".to_owned()),
        (Some(grpc::Code::OK), _) => Err("it does not say SERVING".to_owned()),
        (Some(grpc::Code::NOT_FOUND), _) => Err("it does not know the service".to_owned()),
        (Some(grpc::Code::UNIMPLEMENTED), _) => Err("it does not speak grpc.health.v1".to_owned()),
        (Some(grpc::Code(other)), _) => Err(format!("grpc-status {other}")),
        (None, _) => Err("it broke off".to_owned()),
    }
}

/// `status` of a HealthCheckResponse: field 1, a number. Absent it is 0, UNKNOWN; `None` where the message is none.
fn serving_status(framed: &[u8]) -> Option<u64> {
    let message = framed.get(5..)?;
    if framed[0] != 0 || u32::from_be_bytes(framed[1..5].try_into().ok()?) as usize != message.len() {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, number @ ..] => {
            let mut value = 0;
            for (at, byte) in number.iter().take(9).enumerate() {
                value |= u64::from(byte & 0x7f) << (7 * at);
                if byte & 0x80 == 0 {
                    return Some(value);
                }
            }
            None
        }
        _ => None,
    }
}

/// Connects, says what is to be said, and reads until what must come has come.
async fn converse(server: &Server, send: &[u8], expect: &[u8], limit: Duration) -> Result<(), String> {
    let (identity, introduction) = (server.identity.as_deref(), server.own_introduction());
    let connecting = connect_saying(&server.endpoint, identity, &[], &introduction, limit);
    let stream = connecting.await.map_err(connect_text)?;
    for piece in send.chunks(Buf::CAPACITY / 2) {
        stream.send(Buf::copy_from(piece));
    }
    if expect.is_empty() {
        return stream.flush().await.map_err(|error| format!("connection broke: {error}"));
    }
    let mut come = Vec::new();
    loop {
        match stream.recv().await {
            Ok(Some(buffer)) => come.extend_from_slice(&buffer),
            Ok(None) => return Err("it closed before what was expected had come".to_owned()),
            Err(error) => return Err(format!("connection broke: {error}")),
        }
        if contains(&come, expect) {
            return Ok(());
        }
        if come.len() >= EXPECTED_WITHIN {
            return Err("what was expected is not in the first 64 KiB".to_owned());
        }
    }
}

fn connect_text(error: ConnectError) -> String {
    text_of(&AttemptError::Connect(error))
}

/// Sends a datagram; an answer with what is expected in it must come. Others are waited past.
async fn exchange_datagrams(server: &Server, send: &[u8], expect: &[u8]) -> Result<(), String> {
    let broken = |error: std::io::Error| format!("datagrams are refused: {error}");
    let address = server.endpoint.addresses().first().copied().ok_or("the server's name has no address")?;
    let socket = UdpSocket::connect(address, &UdpOptions::default()).map_err(broken)?;
    let mut contents = server.own_introduction();
    contents.extend_from_slice(send);
    socket.send(&Transmit::connected(&contents)).map_err(broken)?;
    loop {
        let received = socket.recv().await.map_err(broken)?;
        if received.segments().any(|datagram| contains(datagram, expect)) {
            return Ok(());
        }
    }
}
