//! One HTTPServer: its sockets on every worker, and the generation of its rules that requests see.
//!
//! Only another address or port makes new sockets. Everything else is one pointer that the next request reads, so no
//! connection is closed and no request fails when rules change.

use crate::Timeouts;
use crate::accept::{Door, Front, Listener, Place, Share, Shares};
use crate::access;
use crate::grpc::{self, Dialect, Life};
use crate::h1_connection::{ClientConnection, Left, Phase, Visit};
use crate::h2_connection;
use crate::h3_connection::H3Connection;
use crate::h3_front::H3Front;
use crate::log_sinks::LogSinks;
use crate::overload::Overload;
use crate::proxied;
use crate::router::{Route, Router};
use crate::server::{Server, Sockets, not_of};
use crate::tls::{self, Tls};
use crate::trace;
use crate::traffic::{AroundSlot, Generation, PipelineSlot, PipelineView, Shared};
use crate::tunnel::{Patience, TunnelEnd};
use crate::watch::{Ended, Seen};
use arc_swap::{ArcSwap, ArcSwapOption};
use base_model::ip_filter::CidrSet;
use base_model::{
    GoDuration, GrpcServerSpec, HttpServerSpec, ProxyProtocol, RequestIds, RouterKind, Spec, UnderscoresInHeaders,
};
use base_runtime::memory::{Booking, Kind};
use base_runtime::net::inherited::Passes;
use base_runtime::net::{Seat, StreamState, TcpStream};
use base_runtime::table::Table;
use base_runtime::{Boxed, Worker};
use base_telemetry::access_log::{self, LogWriter};
use base_telemetry::server::{self, Recorder, Sample, ServerStats};
use base_tls::{HandshakeError, TicketKeys};
use edge_export::Tracer;
use edge_pipeline::{Around, Exchange, Pipeline};
use proto_http::{Limits, Underscores, Version};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::LocalKey;
use std::time::{Duration, Instant};

/// What requests need of a server, compiled: one generation.
pub struct Live {
    pub router: Router,
    settings: Arc<Settings>,
    /// Set when the server stops: see [`keep`].
    remains: ArcSwapOption<Remains>,
}

/// What requests of a server that has stopped are answered by, where it is gone as well.
struct Remains {
    /// By their places.
    pipelines: HashMap<usize, Arc<Pipeline>>,
    around: Option<Arc<Around>>,
}

impl std::ops::Deref for Live {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

/// What its document says beside routes.
pub struct Settings {
    pub keep_alive: bool,
    /// Between two requests; `None` waits for ever.
    pub idle_timeout: Option<Duration>,
    pub timeouts: Timeouts,
    pub max_connections: usize,
    /// HTTP/3 is spoken, too, or alone.
    pub http3: bool,
    pub http3_only: bool,
    /// HTTP/2 in the clear is taken from clients that begin with it.
    pub h2c: bool,
    /// What clients speak, and are answered in.
    pub dialect: Dialect,
    /// How long connections of HTTP/2 live.
    pub life: Life,
    /// Bounds of what clients send, and which of their fields are taken.
    pub limits: Limits,
    /// `clientMaxBodySize` as written.
    pub max_body: i64,
    pub x_forwarded_for: bool,
    /// Servers of the cluster that may have passed a request on before; 0: nobody looks.
    pub max_hops: usize,
    pub request_ids: RequestIds,
    pub trusted_proxies: CidrSet,
    /// Connections of `trusted_proxies` begin with a PROXY header, and no others do.
    pub introduced: bool,
    /// What new connections are encrypted with; `None`: they are not.
    pub tls: Option<Tls>,
    /// What those of HTTP/3 are made with; `None`: there are none.
    pub quic: Option<Arc<base_quic::proto::ServerConfig>>,
    /// The GlobalFilter around every pipeline, when the document names one.
    around: Option<Arc<AroundSlot>>,
    /// Requests have spans, or a context at least.
    pub tracer: Option<Tracer>,
    access_log: access_log::Format,
}

impl Live {
    /// `previous` is the generation before and what it was made of.
    fn new(
        name: &str,
        spec: &HttpServerSpec,
        (dialect, life): (Dialect, Life),
        shared: &Shared,
        previous: Option<(&HttpServerSpec, &Live)>,
    ) -> Result<Live, String> {
        let tls = Tls::new(spec, shared.tickets(), previous.map(|(spec, live)| (spec, live.tls.as_ref())))?;
        let router = Router::new(name, spec, &shared.made_rules(name), &|pipeline| shared.slot(pipeline))?;
        let settings = Settings {
            quic: tls.as_ref().filter(|_| spec.http3).map(|tls| tls.quic(spec, shared.tickets())).transpose()?,
            tls,
            keep_alive: spec.keep_alive,
            idle_timeout: Some(spec.keep_alive_timeout.duration()).filter(|t| !t.is_zero()),
            timeouts: match timeouts(spec, shared.timeouts()) {
                // Streams rest between messages.
                usual if dialect.is_grpc() => Timeouts { body: grpc::QUIET_MOST, rate: 0, ..usual },
                usual => usual,
            },
            dialect,
            life,
            max_connections: spec.max_connections as usize,
            http3: spec.http3,
            http3_only: spec.http3_only,
            h2c: spec.h2c && !spec.https,
            limits: Limits { underscores: underscores(spec.underscores_in_headers), ..Limits::default() },
            max_body: spec.client_max_body_size,
            x_forwarded_for: spec.x_forwarded_for,
            max_hops: spec.max_hops.into(),
            request_ids: spec.request_id,
            trusted_proxies: CidrSet::new(&spec.trusted_proxies),
            introduced: spec.proxy_protocol == ProxyProtocol::Accept,
            tracer: spec.tracing.as_ref().map(|tracing| shared.tracer(tracing)).transpose()?,
            around: (!spec.global_filter.is_empty()).then(|| shared.around(&spec.global_filter)),
            access_log: access_log::Format::parse(&spec.access_log_format)
                .map_err(|e| e.to_string())?
                .showing_credentials(spec.access_log_credentials),
        };
        Ok(Live { router, settings: Arc::new(settings), remains: ArcSwapOption::empty() })
    }

    fn kept_pipeline(&self, slot: &Arc<PipelineSlot>) -> Option<Arc<Pipeline>> {
        self.remains.load().as_ref()?.pipelines.get(&Arc::as_ptr(slot).addr()).cloned()
    }

    /// What is around every pipeline.
    pub fn around(&self) -> Option<Arc<Around>> {
        let current = self.settings.around.as_ref()?.current();
        current.or_else(|| self.remains.load().as_ref()?.around.clone())
    }
}

/// The server stops. Whoever has connected before is still answered, and by what was there then: a document that goes takes its pipelines
/// and its GlobalFilter with it, more often than not within the same change. They stay for as long as somebody may ask, and not for a tunnel.
fn keep(live: &Arc<Live>, workers: &[Worker]) {
    let place = |slot: &Arc<PipelineSlot>| Some((Arc::as_ptr(slot).addr(), slot.current()?));
    let pipelines = live.router.pipelines().filter_map(place).collect();
    live.remains.store(Some(Arc::new(Remains { pipelines, around: live.around() })));
    let left = Arc::downgrade(live);
    let longest = live.timeouts.handshake + live.timeouts.head;
    if let Some(worker) = workers.first() {
        worker.spawn(move || async move {
            base_runtime::time::sleep(longest).await;
            if let Some(live) = left.upgrade() {
                live.remains.store(None);
            }
        });
    }
}

/// The parts of a document that the next one is compared with: of a hundred thousand routes the router holds all there is to know.
fn remembered(spec: &HttpServerSpec) -> HttpServerSpec {
    HttpServerSpec {
        address: spec.address.clone(),
        port: spec.port,
        https: spec.https,
        auto_cert: spec.auto_cert,
        http2: spec.http2,
        http3: spec.http3,
        http3_only: spec.http3_only,
        cert_base64: spec.cert_base64.clone(),
        key_base64: spec.key_base64.clone(),
        certs: spec.certs.clone(),
        keys: spec.keys.clone(),
        ca_cert_base64: spec.ca_cert_base64.clone(),
        tls_hosts: spec.tls_hosts.clone(),
        ..HttpServerSpec::default()
    }
}

fn underscores(written: UnderscoresInHeaders) -> Underscores {
    match written {
        UnderscoresInHeaders::Drop => Underscores::Drop,
        UnderscoresInHeaders::Allow => Underscores::Allow,
        UnderscoresInHeaders::Refuse => Underscores::Refuse,
    }
}

/// The document's where it has any, else the usual ones.
fn timeouts(spec: &HttpServerSpec, usual: &Timeouts) -> Timeouts {
    let given = |own: Option<GoDuration>, usual| own.map_or(usual, GoDuration::duration);
    Timeouts {
        head: given(spec.head_timeout, usual.head),
        body: given(spec.body_timeout, usual.body),
        send: given(spec.send_timeout, usual.send),
        ..*usual
    }
}

/// See the module doc.
pub struct HttpServer {
    name: Arc<str>,
    /// It is a GRPCServer.
    grpc: bool,
    shared: Arc<Shared>,
    live: ArcSwap<Live>,
    stats: Arc<ServerStats>,
    front: Arc<Front>,
    h3: H3Front,
    /// What answers over TCP say of HTTP/3, while that can be had.
    alt_svc: ArcSwapOption<String>,
    /// What the next document is compared with, see [`remembered`].
    spec: Mutex<HttpServerSpec>,
}

/// Labels of the figures follow the document, and backends that no route leads to any more free their places.
fn label_figures(stats: &ServerStats, router: &Router) {
    stats.set_router_kind(match router.kind() {
        RouterKind::Ordered => "Ordered",
        RouterKind::RadixTree => "RadixTree",
    });
    let named: HashSet<&str> = router.pipelines().map(|pipeline| &**pipeline.name()).collect();
    stats.retain_backends(|name| named.contains(name));
}

impl HttpServer {
    /// Makes the server and tries to listen. That the port is taken is a state, not an error: see
    /// [`Server::retry`].
    pub fn start(name: &str, spec: &HttpServerSpec, shared: Arc<Shared>) -> Result<Arc<HttpServer>, String> {
        Self::start_as(name, spec, (Dialect::Http, Life::default()), shared)
    }

    /// As [`start`](HttpServer::start), of a GRPCServer, which is a server of HTTP/2 that answers in the words of gRPC.
    pub fn start_grpc(name: &str, spec: &GrpcServerSpec, shared: Arc<Shared>) -> Result<Arc<HttpServer>, String> {
        Self::start_as(name, &spec.http(), (Dialect::of(spec), Life::of(spec)), shared)
    }

    fn start_as(
        name: &str,
        spec: &HttpServerSpec,
        manner: (Dialect, Life),
        shared: Arc<Shared>,
    ) -> Result<Arc<HttpServer>, String> {
        let live = Live::new(name, spec, manner, &shared, None)?;
        let stats = shared.server_stats(name);
        label_figures(&stats, &live.router);
        let server = Arc::new(HttpServer {
            name: name.into(),
            grpc: manner.0.is_grpc(),
            live: ArcSwap::from_pointee(live),
            stats,
            front: Front::new(shared.workers()),
            h3: H3Front::default(),
            alt_svc: ArcSwapOption::empty(),
            spec: Mutex::new(remembered(spec)),
            shared,
        });
        server.retry_as_written();
        Ok(server)
    }

    /// Takes another document: rules at once, sockets only when the address or port is another.
    fn change(self: &Arc<Self>, spec: &HttpServerSpec, manner: (Dialect, Life)) -> Result<(), String> {
        let mut before = self.spec.lock().unwrap_or_else(|e| e.into_inner());
        let live = Live::new(&self.name, spec, manner, &self.shared, Some((&before, &self.live.load())))?;
        label_figures(&self.stats, &live.router);
        self.live.store(Arc::new(live));
        let moved = (&before.address, before.port) != (&spec.address, spec.port);
        *before = remembered(spec);
        if moved || !spec.http3 {
            self.h3.stop(self.shared.workers());
        }
        match spec.http3_only {
            true => self.front.stop::<HttpServer>(),
            false if moved => self.front.move_to(self, &spec.address, spec.port),
            false => {}
        }
        self.listen(spec);
        Ok(())
    }

    /// Takes other rules that were made for it: everything else is as it was.
    fn change_rules(&self) -> Result<(), String> {
        // Held, so that no document comes in between.
        let _spec = self.spec.lock().unwrap_or_else(|e| e.into_inner());
        let live = self.live.load();
        let made = self.shared.made_rules(&self.name);
        let router = live.router.with_made(&self.name, &made, &|pipeline| self.shared.slot(pipeline))?;
        label_figures(&self.stats, &router);
        self.live.store(Arc::new(Live { router, settings: live.settings.clone(), remains: ArcSwapOption::empty() }));
        Ok(())
    }

    fn retry_as_written(self: &Arc<Self>) {
        // Held, so that nobody listens where the document says no longer.
        let spec = self.spec.lock().unwrap_or_else(|e| e.into_inner());
        self.listen(&spec);
    }

    fn listen(self: &Arc<Self>, spec: &HttpServerSpec) {
        if !spec.http3_only {
            self.front.retry(self, &spec.address, spec.port);
        }
        let port = match self.front.sockets() {
            Some(sockets) => Some(sockets.at.port()),
            None => spec.http3_only.then_some(spec.port),
        };
        // Without TCP, which is what clients begin with, nobody would know of the other.
        if let Some(port) = port.filter(|_| spec.http3) {
            self.h3.retry(self, self.shared.workers(), &spec.address, port);
        }
        let offered = self.h3.address().map(|at| format!("h3=\":{}\"; ma=86400", at.port()));
        self.alt_svc.store(offered.map(Arc::new));
        let failure = self.state().1;
        self.listens(failure.as_deref());
    }

    /// The keys of tickets, which those of QUIC are made of.
    pub fn tickets(&self) -> &TicketKeys {
        self.shared.tickets()
    }

    /// This member's name.
    pub fn machine(&self) -> &str {
        self.shared.machine()
    }

    pub fn stats(&self) -> &Arc<ServerStats> {
        &self.stats
    }
}

impl Server for HttpServer {
    fn kind(&self) -> &'static str {
        if self.grpc { "GRPCServer" } else { "HTTPServer" }
    }

    fn update(self: Arc<Self>, spec: &Spec) -> Result<(), String> {
        match spec {
            Spec::HttpServer(spec) if !self.grpc => self.change(spec, (Dialect::Http, Life::default())),
            Spec::GrpcServer(spec) if self.grpc => self.change(&spec.http(), (Dialect::of(spec), Life::of(spec))),
            other => Err(not_of(other)),
        }
    }

    fn update_rules(&self) -> Result<(), String> {
        self.change_rules()
    }

    fn retry(self: Arc<Self>) {
        self.retry_as_written();
    }

    /// Requests under way end; idle connections are closed.
    fn stop(&self) {
        keep(&self.live.load(), self.shared.workers());
        self.front.stop::<HttpServer>();
        self.h3.stop(self.shared.workers());
    }

    fn release(&self) {
        self.front.release::<HttpServer>();
        self.h3.release(self.shared.workers());
    }

    fn accepts(&self) -> bool {
        self.front.accepts()
    }

    fn passes(&self) -> io::Result<Option<Passes>> {
        self.h3.passes()
    }

    fn let_go(&self, heard: Sender<()>) {
        self.h3.let_go(self.shared.workers(), &heard);
    }

    fn sockets(&self) -> Vec<Sockets> {
        self.front.sockets().into_iter().chain(self.h3.sockets()).collect()
    }

    fn connections(&self) -> usize {
        self.front.connections()
    }

    fn state(&self) -> (&'static str, Option<String>) {
        if let Some(error) = self.h3.error() {
            return ("failed", Some(error));
        }
        match self.h3.address() {
            // It has no other when it is to have none.
            Some(_) if self.live.load().http3_only => ("running", None),
            _ => self.front.state(),
        }
    }

    /// Easegress's status block of this member.
    fn status(&self) -> Value {
        let mut status = self.stats.status_json();
        if let Value::Object(fields) = &mut status {
            fields.insert("connections".into(), json!(self.connections()));
        }
        status
    }
}

impl Listener for HttpServer {
    type Share = Local;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn front(&self) -> &Arc<Front> {
        &self.front
    }

    fn share(self: &Arc<Self>) -> Rc<Local> {
        Local::new(self.clone())
    }

    fn listens(&self, failure: Option<&str>) {
        let state = if failure.is_none() { server::State::Running } else { server::State::Failed };
        self.stats.set_state(state, failure.map(str::to_owned));
    }
}

thread_local! {
    /// What this worker serves, by key of the sockets.
    static LOCALS: Shares<Local> = const { RefCell::new(Vec::new()) };
    // Boxed: an exchange of a kilobyte is lent to a request and given back without being moved.
    #[expect(clippy::vec_box, reason = "the box is what is reused")]
    static EXCHANGES: RefCell<Vec<Box<Exchange>>> = const { RefCell::new(Vec::new()) };
}

/// Idle connections ended at a time when memory runs out, at least; a sixteenth when that is more.
const ROOM_LEAST: usize = 16;

/// Pause between two times of that.
const ROOM_PAUSE: Duration = Duration::from_millis(10);

/// Exchanges kept for reuse per worker; one is alive per request under way.
const SPARE_EXCHANGES: usize = 256;

/// One worker's share of a server.
pub struct Local {
    server: Arc<HttpServer>,
    live: RefCell<arc_swap::Cache<ServerHandle, Arc<Live>>>,
    held: RefCell<Rc<Held>>,
    recorder: RefCell<Recorder>,
    sinks: RefCell<LogSinks>,
    log: RefCell<Option<LogWriter>>,
    connections: RefCell<Table<Rc<ClientConnection>>>,
    quic: RefCell<Table<Rc<H3Connection>>>,
    door: Door,
    made_room: Cell<Instant>,
    /// The bound that was reached last.
    reached: Cell<Option<&'static str>>,
}

/// Lets a cache borrow the pointer out of the shared server.
struct ServerHandle(Arc<HttpServer>);

impl std::ops::Deref for ServerHandle {
    type Target = ArcSwap<Live>;

    fn deref(&self) -> &ArcSwap<Live> {
        &self.0.live
    }
}

/// One worker's hold on a generation of the rules. Requests share it without counting where other workers count.
pub struct Held {
    live: Arc<Live>,
    /// By their places, which the routes of this generation hold.
    pipelines: RefCell<HashMap<*const PipelineSlot, PipelineView, BuildHasherDefault<AddressHasher>>>,
}

/// Spreads the bits of one address, which is all it is given: nobody chooses where a place is.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_usize((*byte).into()));
    }

    fn write_usize(&mut self, address: usize) {
        let spread = (self.0 ^ address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }
}

impl Held {
    fn new(live: Arc<Live>) -> Rc<Held> {
        Rc::new(Held { live, pipelines: RefCell::default() })
    }

    /// The pipeline a route leads to, if there is one.
    pub fn pipeline(&self, route: &Route) -> Option<Rc<Generation>> {
        let mut pipelines = self.pipelines.borrow_mut();
        let view = pipelines.entry(Arc::as_ptr(&route.pipeline)).or_insert_with(|| route.pipeline.view());
        view.current().or_else(|| self.live.kept_pipeline(&route.pipeline).map(Generation::alone))
    }
}

impl std::ops::Deref for Held {
    type Target = Live;

    fn deref(&self) -> &Live {
        &self.live
    }
}

/// Lets this worker let go of what was replaced.
pub fn refresh() {
    let locals: Vec<Rc<Local>> = LOCALS.with_borrow(|locals| locals.iter().map(|(_, local)| local.clone()).collect());
    locals.iter().for_each(|local| local.refresh());
}

/// Finds out who the client is before anything else is said.
async fn introduce(place: Place, local: Rc<Local>, stream: TcpStream, peer: SocketAddr, seat: Seat) -> Left {
    let (live, patience) = (local.live(), local.timeouts().handshake);
    let said = if proxied::must_introduce(peer, &live.trusted_proxies) {
        proxied::introduced(&stream, peer, patience).await.map(|introduction| introduction.client)
    } else {
        proxied::not_introduced(&stream, local.timeouts().head).await.map(|()| peer)
    };
    match (said, &live.tls) {
        _ if local.is_stopping() => Left::Nothing,
        (Err(bound), _) => {
            local.limit(bound);
            Left::Nothing
        }
        (Ok(client), _) if client != peer && local.denies(client.ip()) => Left::Nothing,
        (Ok(client), None) => {
            Left::Waiting(place.pass_to(ClientConnection::book(local.clone(), stream.into(), client, seat)))
        }
        (Ok(client), Some(tls)) => handshake(place, local.clone(), tls.clone(), stream, client, seat).await,
    }
}

/// `None` when there is no connection to serve.
async fn handshake(place: Place, local: Rc<Local>, tls: Tls, stream: TcpStream, peer: SocketAddr, seat: Seat) -> Left {
    let booking = Booking::new(Kind::Tls, tls::HANDSHAKE_BYTES);
    let stream = match tls.server.accept(stream, local.timeouts().handshake).await {
        Ok(stream) if !local.is_stopping() => stream,
        ended => {
            if let Err(error) = ended {
                tracing::debug!(server = %local.server.name, %peer, "{error}");
                if !matches!(error, HandshakeError::Challenge) {
                    local.limit(error.name());
                }
            }
            return Left::Nothing;
        }
    };
    // What an established session holds it has booked itself.
    drop(booking);
    let http2 = h2_connection::is_agreed(&stream);
    let presence = place.pass_to(ClientConnection::book(local, stream, peer, seat));
    if http2 {
        // In a task of its own: this one keeps the size of a handshake.
        base_runtime::spawn(h2_connection::serve(presence)).detach();
        return Left::Nothing;
    }
    Left::Waiting(presence)
}

impl Local {
    /// Makes this worker's share of a server.
    fn new(server: Arc<HttpServer>) -> Rc<Local> {
        Rc::new(Local {
            live: RefCell::new(arc_swap::Cache::new(ServerHandle(server.clone()))),
            held: RefCell::new(Held::new(server.live.load_full())),
            recorder: RefCell::new(server.stats.recorder(base_runtime::worker_index())),
            sinks: RefCell::new(LogSinks::new(server.shared.log_sinks())),
            log: RefCell::new(server.shared.access_log().map(|log| log.writer(base_runtime::worker_index()))),
            connections: RefCell::default(),
            quic: RefCell::default(),
            door: Door::default(),
            made_room: Cell::new(base_runtime::now()),
            reached: Cell::new(None),
            server,
        })
    }

    /// The share of a server that runs on this worker.
    #[cfg(test)]
    pub fn of(server: &str) -> Option<Rc<Local>> {
        LOCALS
            .with_borrow(|locals| locals.iter().map(|(_, local)| local.clone()).find(|l| **l.server_name() == *server))
    }

    /// The generation of the rules in force now.
    pub fn live(&self) -> Rc<Held> {
        let mut live = self.live.borrow_mut();
        let (live, mut held) = (live.load(), self.held.borrow_mut());
        if !Arc::ptr_eq(live, &held.live) {
            *held = Held::new(live.clone());
        }
        held.clone()
    }

    /// As [`live`](Local::live) for a moment, without taking hold of it.
    #[inline]
    pub fn with_live<R>(&self, use_it: impl FnOnce(&Live) -> R) -> R {
        use_it(self.live.borrow_mut().load())
    }

    /// Lets go of what was replaced.
    fn refresh(&self) {
        self.live().pipelines.borrow_mut().values_mut().for_each(|view| drop(view.current()));
        self.sinks.borrow_mut().now(&self.server.name);
    }

    pub fn idle_timeout(&self) -> Option<Duration> {
        self.with_live(|live| live.idle_timeout)
    }

    /// Connections of this kind may have another request.
    pub fn keeps_alive(&self, encrypted: bool) -> bool {
        // One that was made before TLS was turned on or off ends with what it has begun.
        self.with_live(|live| live.keep_alive && encrypted == live.tls.is_some()) && !self.ends_connections()
    }

    fn ends_connections(&self) -> bool {
        let ends = self.overload().ends_connections();
        if ends {
            self.limit("overload_keepalive");
        }
        ends
    }

    /// What is done under overload.
    pub fn overload(&self) -> &Overload {
        self.server.shared.overload()
    }

    /// Refuses the request where the machine has too much to do.
    #[inline]
    pub fn refuses(&self, exchange: &mut Exchange) -> bool {
        self.overload().refuses(&self.server.shared, exchange)
    }

    pub fn server_name(&self) -> &Arc<str> {
        &self.server.name
    }

    pub fn machine(&self) -> &str {
        self.server.shared.machine()
    }

    /// What becomes of a request depends on the address it comes from.
    pub fn goes_by_address(&self) -> bool {
        let in_document = |live: &Live| live.router.goes_by_address() || !live.trusted_proxies.is_empty();
        self.server.shared.denies_any() || self.with_live(in_document)
    }

    /// What requests that are passed on are marked with.
    pub fn mark(&self) -> &edge_pipeline::rounds::Mark {
        self.server.shared.mark()
    }

    /// To another machine of the cluster, for QUIC's datagrams.
    pub fn way_to(&self, machine: u16) -> Option<Arc<dyn base_quic::Ways>> {
        self.server.shared.elsewhere().to(machine)
    }

    pub fn timeouts(&self) -> Timeouts {
        self.with_live(|live| live.timeouts)
    }

    pub fn is_stopping(&self) -> bool {
        self.door.is_closed()
    }

    /// How long a tunnel may be silent.
    pub fn tunnel_silence(&self) -> Patience {
        let (timeouts, stopping) = (self.timeouts(), self.is_stopping());
        let silence = if stopping { timeouts.tunnel_drain.min(timeouts.tunnel) } else { timeouts.tunnel };
        Patience { silence, stopping }
    }

    /// A tunnel has ended; a silence that is cut short because the server stops is none of its bounds.
    pub fn tunnel_ended(&self, end: TunnelEnd) {
        if end == TunnelEnd::Idle && !self.is_stopping() {
            self.limit("tunnel_idle");
        }
    }

    /// Counts a bound that was reached.
    pub fn limit(&self, name: &'static str) {
        self.reached.set(Some(name));
        self.server.shared.limit(name);
    }

    /// The bound counted last, for who refuses a request because of it in the same breath.
    pub fn just_reached(&self) -> Option<&'static str> {
        self.reached.take()
    }

    /// Somebody reads what stations a request passed, and how long each took.
    pub fn wants_tags(&self) -> bool {
        let mut sinks = self.sinks.borrow_mut();
        let sinks = sinks.now(&self.server.name);
        self.server.shared.watch().wants_tags()
            || sinks.iter().any(|sink| sink.is_json)
            || (self.log.borrow().is_some() || !sinks.is_empty()) && self.with_live(|live| live.access_log.wants_tags())
    }

    /// Books a connection that was counted, until it [leaves](Local::leave).
    pub fn book(&self, make: impl FnOnce(u32) -> Rc<ClientConnection>) -> Rc<ClientConnection> {
        self.connections.borrow_mut().insert_with(make).clone()
    }

    pub fn leave(&self, key: u32) {
        let left = self.connections.borrow_mut().remove(key);
        self.server.front.uncount();
        drop(left);
    }

    /// A place for a connection of HTTP/3 among those there may be.
    pub fn seat(&self) -> Option<Place> {
        self.server.front.place(self.connections_most())
    }

    /// Books one, until it [leaves](Local::leave_quic).
    pub fn book_quic(&self, make: impl FnOnce(u32) -> Rc<H3Connection>) -> Rc<H3Connection> {
        self.quic.borrow_mut().insert_with(make).clone()
    }

    pub fn leave_quic(&self, key: u32) {
        let left = self.quic.borrow_mut().remove(key);
        drop(left);
    }

    /// What an answer over TCP says of HTTP/3.
    pub fn alt_svc(&self) -> Option<Arc<String>> {
        if !self.live.borrow_mut().load().http3 {
            return None;
        }
        self.server.alt_svc.load_full()
    }

    pub fn take_exchange(&self) -> Box<Exchange> {
        EXCHANGES.with_borrow_mut(Vec::pop).unwrap_or_default()
    }

    pub fn give_back(&self, mut exchange: Box<Exchange>) {
        exchange.reset();
        EXCHANGES.with_borrow_mut(|spare| {
            // One that has grown large for a single request is not worth keeping.
            if spare.len() < SPARE_EXCHANGES && exchange.default_space_ref().request.headers.memory() < 16 * 1024 {
                spare.push(exchange);
            }
        });
    }

    /// As [`make_room`](Share::make_room), of connections of HTTP/3.
    fn make_room_quic(&self) {
        let connections = self.quic.borrow();
        let mut idle: Vec<&Rc<H3Connection>> =
            connections.iter().filter(|connection| connection.phase.get() == Phase::Idle).collect();
        let some = (idle.len() / 16).max(ROOM_LEAST).min(idle.len());
        if some == 0 {
            return;
        }
        idle.select_nth_unstable_by_key(some - 1, |connection| connection.since_ms.get());
        for connection in &idle[..some] {
            self.limit("memory_idle");
            connection.leave();
        }
    }

    /// Counts a request that is over, writes its line in the access log, and remembers it where there is a reason.
    pub fn record(&self, exchange: &mut Exchange, over: &Over<'_>) {
        let Over { routed, request_bytes, response_bytes, .. } = *over;
        let ended = exchange.ended();
        let duration = ended.saturating_duration_since(exchange.started);
        let status = exchange.default_space_ref().response.as_ref().map_or(503, |r| r.status);
        let path = std::str::from_utf8(exchange.asked_path()).ok();
        self.server.shared.count_request(base_runtime::worker_index());
        let mut recorder = self.recorder.borrow_mut();
        match exchange.default_space_ref().request.version {
            Version::Http2 => recorder.over_http2(),
            Version::Http3 => recorder.over_http3(),
            Version::Http10 | Version::Http11 => {}
        }
        recorder.record(&Sample {
            status,
            duration,
            request_bytes,
            response_bytes,
            path: path.unwrap_or_default(),
            backend: routed,
            route_found: routed.is_some(),
        });
        drop(recorder);
        if exchange.trace.is_some() {
            let (times, bytes) = ((ended, duration), (request_bytes, response_bytes));
            self.with_live(|live| trace::finish(live.tracer.as_ref(), exchange, routed, status, times, bytes));
        }
        self.write_line(exchange, status, (ended, duration), (request_bytes, response_bytes));
        self.server.shared.watch().over(&Seen {
            exchange,
            status,
            duration,
            answered: over.answered,
            lasts: over.lasts,
            ended: over.ended,
            routed,
            request_bytes,
            response_bytes,
            ended_at: ended,
            machine: self.machine(),
            worker: base_runtime::worker_index(),
            why: &|request| self.live().router.why(request, exchange.client.real_ip),
        });
    }

    /// Writes the line of a request, wherever it is wanted.
    fn write_line(&self, exchange: &Exchange, status: u16, times: (Instant, Duration), bytes: (u64, u64)) {
        let (mut log, mut sinks) = (self.log.borrow_mut(), self.sinks.borrow_mut());
        let sinks = sinks.now(&self.server.name);
        if log.is_none() && sinks.is_empty() {
            return;
        }
        self.with_live(|live| {
            let format = &live.access_log;
            let hide = !format.shows_credentials();
            access::tell(hide, exchange, status, times, bytes, |entry| {
                if let Some(log) = &mut *log {
                    log.log(format, entry);
                }
                for sink in sinks {
                    sink.log(format, &self.server.name, entry, hide);
                }
            });
        });
    }
}

/// How a request came to its end.
pub struct Over<'a> {
    /// The pipeline its route led to.
    pub routed: Option<&'a Arc<str>>,
    pub ended: Ended,
    /// Until the head of the answer was there.
    pub answered: Duration,
    /// It is a stream, or a tunnel.
    pub lasts: bool,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

impl Share for Local {
    type Visit = Visit;

    fn shares() -> &'static LocalKey<Shares<Local>> {
        &LOCALS
    }

    fn door(&self) -> &Door {
        &self.door
    }

    fn connections_most(&self) -> usize {
        self.live().max_connections
    }

    fn is_full(&self) {
        self.limit("max_connections");
    }

    /// Ends the connections that have idled longest, a few at a time: memory ran out, and nothing is lost by it.
    fn make_room(&self) {
        // Often enough that a flood makes room faster than it takes it, and not so often that looking for room is all that is done.
        if base_runtime::now().saturating_duration_since(self.made_room.get()) < ROOM_PAUSE {
            return;
        }
        self.made_room.set(base_runtime::now());
        let (arriving, connections) = (self.timeouts().arriving, self.connections.borrow());
        let mut idle: Vec<&Rc<ClientConnection>> = connections
            .iter()
            .filter(|c| {
                c.phase.get() == Phase::Idle && c.stream.peek_state() == StreamState::Open && !c.is_arriving(arriving)
            })
            .collect();
        let some = (idle.len() / 16).max(ROOM_LEAST).min(idle.len());
        if some == 0 {
            drop(connections);
            return self.make_room_quic();
        }
        idle.select_nth_unstable_by_key(some - 1, |c| c.since_ms.get());
        for connection in &idle[..some] {
            self.limit("memory_idle");
            connection.leave();
        }
        drop(connections);
        self.make_room_quic();
    }

    fn take_in(self: &Rc<Self>, place: Place, stream: TcpStream, peer: SocketAddr, seat: Seat) -> Visit {
        if self.live.borrow_mut().load().introduced {
            return Visit::Busy(Boxed::new(introduce(place, self.clone(), stream, peer, seat)));
        }
        let (local, tls) = (self.clone(), self.live.borrow_mut().load().tls.clone());
        match tls {
            None => Visit::Waiting(Some(place.pass_to(ClientConnection::book(local, stream.into(), peer, seat)))),
            Some(tls) => Visit::Busy(Boxed::new(handshake(place, local, tls, stream, peer, seat))),
        }
    }

    fn pauses(&self) -> bool {
        self.overload().pauses_accepting()
    }

    fn denies(&self, ip: IpAddr) -> bool {
        self.server.shared.denies(ip)
    }

    fn rejects(&self) -> bool {
        let rejects = self.overload().rejects_connections();
        if rejects {
            self.limit("overload_connections");
        }
        rejects
    }

    fn turn_away() -> Visit {
        Visit::Waiting(None)
    }

    fn stop(&self) {
        self.quic.borrow().iter().for_each(|connection| connection.wake());
        for connection in self.connections.borrow().iter() {
            match connection.phase.get() {
                // What has arrived already is a request, and so is what is on its way: both are answered.
                Phase::Idle if connection.stream.peek_state() != StreamState::Data => {
                    connection.deadline.set_after(self.server.shared.idle_grace())
                }
                // It is told to send no more.
                Phase::Streams => connection.deadline.set(base_runtime::now()),
                // It finds out, and goes on as long as it is not silent.
                Phase::Tunnel => connection.deadline.set(base_runtime::now()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn names_that_are_gone_free_their_places_in_the_figures() {
        let stats = ServerStats::new("web", 1);
        let mut recorder = stats.recorder(0);
        let mut count = |backend: &str| {
            recorder.record(&Sample {
                status: 200,
                duration: Duration::from_millis(1),
                request_bytes: 1,
                response_bytes: 1,
                path: "/",
                backend: Some(&backend.into()),
                route_found: true,
            });
        };
        let router = |backend: &str| {
            let text =
                format!("port: 80\nrouterKind: RadixTree\nrules: [{{paths: [{{path: /a, backend: {backend}}}]}}]");
            let document = base_model::yaml::parse_document(&text).unwrap();
            let spec = base_model::decode::<HttpServerSpec>(&document, "").unwrap().value;
            Router::new("web", &spec, &Default::default(), &|name| PipelineSlot::empty(name)).unwrap()
        };
        let text = || {
            let mut encoder = base_telemetry::registry::Encoder::new(base_telemetry::Names::All);
            stats.encode(&mut encoder, base_telemetry::Names::All, &base_telemetry::Identity::default());
            encoder.finish()
        };
        (0..1_100).for_each(|index| count(&format!("old-{index}")));
        assert!(text().contains("backend=\"other\"") && text().contains("routerKind=\"Ordered\""));
        label_figures(&stats, &router("fresh"));
        count("fresh");
        let text = text();
        assert!(text.contains("routerKind=\"RadixTree\",backend=\"fresh\""), "{text}");
        assert!(!text.contains("backend=\"other\"") && !text.contains("old-1"), "{text}");
    }
}
