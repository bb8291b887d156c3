//! One TCPProxy: its sockets on every worker, and each of its connections from the first byte to the last.
//!
//! A connection is introduced (PROXY protocol), let in or not, understood as far as that is asked for (TLS ended here, or its beginning
//! looked at), routed, connected to a server, and then relayed as tunnels are: half-closes are carried in both directions, and large
//! plain transfers stay in the kernel.

use crate::accept::{Door, Front, Listener, Place, Share, Shares};
use crate::clock;
use crate::hops::{self, Hop};
use crate::per_ip::{IpSeat, PerIp};
use crate::proxied::{self, Introduction, Unintroduced};
use crate::server::{Server, Sockets, not_of};
use crate::tls::{HANDSHAKE_BYTES, Tls};
use crate::traffic::Shared;
use crate::tunnel::{self, Patience, Side, TunnelEnd};
use arc_swap::ArcSwap;
use base_model::ip_filter::{CidrSet, IpFilter};
use base_model::{Protocol, ProxyProtocol, Spec, TcpProxySpec, TcpRuleSpec, TcpTls};
use base_runtime::Buf;
use base_runtime::memory::{self, Booking, Kind};
use base_runtime::net::{Seat, TcpStream};
use base_runtime::table::Table;
use base_runtime::time::Deadline;
use base_telemetry::access_log::{LogWriter, write_duration, write_ip, write_time};
use base_telemetry::relay::{RelayKind, RelayStats, TcpEnd, Way};
use base_text::escape::write_foreign;
use base_tls::hello::{DECODE_ERROR, Hello, NoHello, alert};
use base_tls::{HandshakeError, Session, Transport};
use edge_pipeline::{Client, Duplex};
use edge_upstream::endpoint::ssl_of;
use edge_upstream::l4_members::{L4Members, Recipe};
use edge_upstream::l4_pool::{Connected, L4Pool, NoServer};
use proto_proxy::tlv;
use proto_proxy::{v1, v2};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::LocalKey;
use std::time::{Duration, Instant};

/// The bounds of this file, by the names they are counted under.
pub const BOUNDS: [&str; 6] =
    ["connections_per_ip", "hello_malformed", "hello_too_long", "ip_filter", "no_route", "tcp_loop"];

/// What connections need of a document.
struct Live {
    tls: TcpTls,
    /// Rules differ in what becomes of TLS.
    mixed: bool,
    terminated: Option<Tls>,
    /// Who must introduce its clients; `None`: nobody may.
    introducers: Option<CidrSet>,
    ip_filter: Option<IpFilter>,
    most: usize,
    most_per_ip: u32,
    idle: Duration,
    patience: Duration,
    /// Each with the place of its pool.
    rules: Vec<(TcpRuleSpec, usize)>,
    /// What no rule took.
    rest: Option<usize>,
    pools: Vec<Arc<L4Members>>,
}

impl Live {
    fn new(
        name: &str,
        spec: &TcpProxySpec,
        shared: &Shared,
        previous: Option<(&TcpProxySpec, &Live)>,
    ) -> Result<Live, String> {
        let terminated = match (spec.terminates(), previous) {
            (true, Some((before, live)))
                if before.terminates() && before.alpn == spec.alpn && before.tls_texts() == spec.tls_texts() =>
            {
                live.terminated.clone()
            }
            (true, _) => {
                let alpn = spec.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
                Some(Tls::of(&spec.tls_texts(), alpn, shared.tickets()).map_err(|error| format!("tls: {error}"))?)
            }
            (false, _) => None,
        };
        let named = |name: &str| spec.rules.iter().any(|rule| rule.pool == name);
        let mut pools = Vec::new();
        for (index, pool) in spec.pools.iter().enumerate() {
            let label = if pool.name.is_empty() { index.to_string() } else { pool.name.clone() };
            let label = format!("{name}/{label}");
            let before = previous.and_then(|(_, live)| live.pools.iter().find(|pool| pool.name() == label));
            let recipe = Recipe {
                name: label,
                kind: "TCPProxy",
                spec: pool.clone(),
                protocol: Protocol::Tcp,
                listener: spec.proxy_protocol,
                telemetry: shared.telemetry().clone(),
            };
            let made = L4Members::new(recipe, before.map(|pool| &**pool));
            pools.push(made.map_err(|error| format!("pools[{index}]: {error}"))?);
        }
        let place = |name: &str| spec.pools.iter().position(|pool| pool.name == name);
        let rules = spec.rules.iter().filter_map(|rule| Some((rule.clone(), place(&rule.pool)?))).collect();
        let introducers = (spec.proxy_protocol == ProxyProtocol::Accept).then(|| CidrSet::new(&spec.trusted_proxies));
        Ok(Live {
            tls: spec.tls,
            mixed: spec.is_mixed(),
            terminated,
            introducers,
            ip_filter: spec.ip_filter.as_ref().map(base_model::IpFilterSpec::compile),
            most: spec.max_connections as usize,
            most_per_ip: spec.max_connections_per_ip,
            idle: spec.idle_timeout.duration(),
            patience: spec.handshake_timeout.duration(),
            rules,
            rest: base_model::l4_pool::unnamed(&spec.pools, named).next(),
            pools,
        })
    }

    fn rule_for(&self, asked: &Asked) -> Option<&(TcpRuleSpec, usize)> {
        let fits = |(rule, _): &&(TcpRuleSpec, usize)| {
            rule.fits(asked.server_name.as_deref(), asked.alpn.iter().map(Vec::as_slice))
        };
        self.rules.iter().find(fits)
    }

    fn pool_for(&self, asked: &Asked) -> Option<Arc<L4Pool>> {
        let place = self.rule_for(asked).map(|(_, place)| *place).or(self.rest);
        place.and_then(|place| self.pools.get(place)).map(|members| members.current())
    }

    /// What becomes of a client's TLS.
    fn tls_for(&self, asked: &Asked) -> TcpTls {
        self.rule_for(asked).and_then(|(rule, _)| rule.tls).unwrap_or(self.tls)
    }
}

/// See the module doc.
pub struct TcpProxy {
    name: Arc<str>,
    shared: Arc<Shared>,
    live: ArcSwap<Live>,
    stats: Arc<RelayStats>,
    front: Arc<Front>,
    per_ip: Arc<PerIp>,
    spec: Mutex<TcpProxySpec>,
}

impl TcpProxy {
    /// Makes the proxy and tries to listen. That the port is taken is a state, not an error.
    pub fn start(name: &str, spec: &TcpProxySpec, shared: Arc<Shared>) -> Result<Arc<TcpProxy>, String> {
        let live = Live::new(name, spec, &shared, None)?;
        let proxy = Arc::new(TcpProxy {
            name: name.into(),
            live: ArcSwap::from_pointee(live),
            stats: shared.telemetry().relay(name, RelayKind::Tcp),
            front: Front::new(shared.workers()),
            per_ip: PerIp::new(),
            spec: Mutex::new(spec.clone()),
            shared,
        });
        proxy.listen();
        Ok(proxy)
    }

    fn listen(self: &Arc<Self>) {
        // Held, so that nobody listens where the document says no longer.
        let spec = self.spec.lock().unwrap_or_else(|e| e.into_inner());
        self.front.retry(self, &spec.address, spec.port);
    }
}

impl Server for TcpProxy {
    fn kind(&self) -> &'static str {
        "TCPProxy"
    }

    fn update(self: Arc<Self>, spec: &Spec) -> Result<(), String> {
        let Spec::TcpProxy(spec) = spec else { return Err(not_of(spec)) };
        let mut before = self.spec.lock().unwrap_or_else(|e| e.into_inner());
        let live = Live::new(&self.name, spec, &self.shared, Some((&before, &self.live.load())))?;
        self.live.store(Arc::new(live));
        let moved = (&before.address, before.port) != (&spec.address, spec.port);
        before.clone_from(spec);
        if moved {
            self.front.move_to(&self, &spec.address, spec.port);
        }
        Ok(())
    }

    fn retry(self: Arc<Self>) {
        self.listen();
    }

    fn stop(&self) {
        self.front.stop::<TcpProxy>();
    }

    fn release(&self) {
        self.front.release::<TcpProxy>();
    }

    fn accepts(&self) -> bool {
        self.front.accepts()
    }

    fn sockets(&self) -> Vec<Sockets> {
        self.front.sockets().into_iter().collect()
    }

    fn connections(&self) -> usize {
        self.front.connections()
    }

    fn state(&self) -> (&'static str, Option<String>) {
        self.front.state()
    }

    fn status(&self) -> Value {
        let (state, error) = self.state();
        let mut status = self.stats.status();
        status.insert("name".into(), json!(*self.name));
        status.insert("state".into(), json!(state));
        status.insert("health".into(), json!(error.as_deref().unwrap_or("")));
        status.insert("connections".into(), json!(self.connections()));
        let servers: Vec<Value> =
            self.live.load().pools.iter().flat_map(|pool| pool.current().servers_json()).collect();
        if !servers.is_empty() {
            status.insert("servers".into(), Value::Array(servers));
        }
        Value::Object(status)
    }
}

impl Listener for TcpProxy {
    type Share = Local;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn front(&self) -> &Arc<Front> {
        &self.front
    }

    fn share(self: &Arc<Self>) -> Rc<Local> {
        let worker = base_runtime::worker_index();
        let log = self.shared.access_log().map(|log| log.writer(worker));
        Rc::new(Local {
            proxy: self.clone(),
            door: Door::default(),
            relays: RefCell::default(),
            log: RefCell::new(log),
        })
    }

    fn listens(&self, _: Option<&str>) {}
}

thread_local! {
    /// What this worker serves, by key of the sockets.
    static LOCALS: Shares<Local> = const { RefCell::new(Vec::new()) };
}

/// One worker's share of a proxy.
pub struct Local {
    proxy: Arc<TcpProxy>,
    door: Door,
    /// The silences of what is relayed now.
    relays: RefCell<Table<Rc<Deadline>>>,
    log: RefCell<Option<LogWriter>>,
}

impl Share for Local {
    type Visit = Pin<Box<dyn Future<Output = ()>>>;

    fn shares() -> &'static LocalKey<Shares<Local>> {
        &LOCALS
    }

    fn door(&self) -> &Door {
        &self.door
    }

    fn connections_most(&self) -> usize {
        self.proxy.live.load().most
    }

    fn is_full(&self) {
        self.limit("max_connections");
    }

    /// Nobody can say which of them is missed least.
    fn make_room(&self) {}

    fn pauses(&self) -> bool {
        self.proxy.shared.overload().pauses_accepting()
    }

    fn denies(&self, ip: IpAddr) -> bool {
        self.proxy.shared.denies(ip)
    }

    fn rejects(&self) -> bool {
        let rejects = self.proxy.shared.overload().rejects_connections();
        if rejects {
            self.limit("overload_connections");
        }
        rejects
    }

    fn take_in(self: &Rc<Self>, place: Place, stream: TcpStream, peer: SocketAddr, seat: Seat) -> Self::Visit {
        Box::pin(visit(self.clone(), place, stream, peer, seat))
    }

    fn turn_away() -> Self::Visit {
        Box::pin(std::future::ready(()))
    }

    fn stop(&self) {
        // Each takes note of it, and gets as long from then on as it is not silent.
        for deadline in self.relays.borrow().iter() {
            deadline.set(base_runtime::now());
        }
    }
}

impl Local {
    fn limit(&self, name: &'static str) {
        self.proxy.shared.limit(name);
    }

    /// The longest silence of a relay.
    fn patience(&self, written: Duration) -> Patience {
        let stopping = self.door.is_closed();
        let silence = if stopping { written.min(self.proxy.shared.timeouts().tunnel_drain) } else { written };
        Patience { silence, stopping }
    }

    fn log(&self, told: &Told, end: TcpEnd) {
        let Some(log) = &mut *self.log.borrow_mut() else { return };
        let ended = base_runtime::now();
        log.with(|out| {
            out.push(b'[');
            write_time(clock::since_1970(ended), out);
            // Writing to memory does not fail.
            let _ = write!(out, "] [tcp {} ", self.proxy.name);
            write_address(told.client, out);
            out.extend_from_slice(b" -> ");
            out.extend_from_slice(told.server.as_deref().unwrap_or("-").as_bytes());
            out.extend_from_slice(b"] [");
            match &told.asked.server_name {
                Some(name) => write_foreign(name.as_bytes(), out),
                None => out.push(b'-'),
            }
            out.extend_from_slice(b"] [");
            write_duration(ended.saturating_duration_since(told.began), out);
            let _ = writeln!(out, " rx:{}B tx:{}B] [{}]", told.received.get(), told.sent.get(), end.text());
        });
    }
}

/// As it is read back.
pub(crate) fn write_address(at: SocketAddr, out: &mut Vec<u8>) {
    let v6 = at.is_ipv6();
    out.extend_from_slice(if v6 { b"[" } else { b"" });
    write_ip(at.ip(), out);
    let _ = write!(out, "{}:{}", if v6 { "]" } else { "" }, at.port());
}

/// What is told of a connection at its end.
struct Told {
    client: SocketAddr,
    destination: Option<SocketAddr>,
    server: Option<String>,
    asked: Asked,
    began: Instant,
    received: Cell<u64>,
    sent: Cell<u64>,
}

/// What the client asks for in TLS.
#[derive(Default)]
struct Asked {
    server_name: Option<String>,
    alpn: Vec<Vec<u8>>,
}

impl Asked {
    fn of(session: Option<&Session>) -> Asked {
        let server_name = session.and_then(|s| s.server_name.as_deref()).map(str::to_owned);
        Asked { server_name, alpn: session.and_then(|s| s.alpn.as_deref()).map(<[u8]>::to_vec).into_iter().collect() }
    }
}

/// A connection from its beginning to its end.
async fn visit(local: Rc<Local>, place: Place, stream: TcpStream, peer: SocketAddr, seat: Seat) {
    let worker = base_runtime::worker_index();
    local.proxy.stats.begun(worker);
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let mut told = Told {
        client: peer,
        destination: None,
        server: None,
        asked: Asked::default(),
        began: base_runtime::now(),
        received: Cell::new(0),
        sent: Cell::new(0),
    };
    let counted = Counted { local: &local, worker, end: Cell::new(TcpEnd::Client) };
    let end = serve(&local, stream, &mut told).await;
    counted.end.set(end);
    drop(counted);
    local.log(&told, end);
    drop((place, seat));
}

/// Counts the end of a connection, also where it comes with a panic or with the worker.
struct Counted<'l> {
    local: &'l Local,
    worker: usize,
    end: Cell<TcpEnd>,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.local.proxy.stats.tcp_ended(self.worker, self.end.get());
    }
}

/// What is left of a connection's beginning once bytes can pass.
struct Begun {
    client: Transport,
    /// The client must not send a header, and has not been looked at.
    unintroduced: bool,
    pool: Arc<L4Pool>,
    connected: Connected,
    idle: Duration,
    _ip_seat: Option<IpSeat>,
    _hop: Option<Hop>,
}

async fn serve(local: &Local, stream: TcpStream, told: &mut Told) -> TcpEnd {
    // Boxed: what a beginning needs is given back when it is over, and most of a connection's life is its relay.
    let begun = match Box::pin(begin(local, stream, told)).await {
        Ok(begun) => begun,
        Err(end) => return end,
    };
    let Begun { client, unintroduced, pool, connected, idle, _ip_seat, _hop } = begun;
    let client: &dyn Duplex = if unintroduced { &Unintroduced::new(client) } else { &client };
    relay(local, idle, &pool, client, connected, told).await
}

/// From the first byte to a server.
async fn begin(local: &Local, stream: TcpStream, told: &mut Told) -> Result<Begun, TcpEnd> {
    let live = local.proxy.live.load_full();
    let peer = told.client;
    if memory::is_over() {
        local.limit("memory");
        return Err(TcpEnd::Refused);
    }
    let refused = |end: TcpEnd| {
        move |bound: &'static str| {
            local.limit(bound);
            end
        }
    };
    // Whoever is itself the client is let in, or not, before anything is waited for.
    let trusted = live.introducers.as_ref().is_some_and(|trusted| proxied::must_introduce(told.client, trusted));
    let early = if trusted { None } else { let_in(local, &live, told).map_err(refused(TcpEnd::Refused))? };
    let unintroduced = introduce(&live, &stream, told).await.map_err(refused(TcpEnd::ProxyHeader))?;
    if trusted && local.denies(told.client.ip()) {
        return Err(TcpEnd::Refused);
    }
    let ip_seat = if trusted { let_in(local, &live, told).map_err(refused(TcpEnd::Refused))? } else { early };
    let client = understand(local, &live, stream, told).await?;
    let Some(pool) = live.pool_for(&told.asked) else {
        // Closed without a word, as the Gateway API wants a connection rejected that no route is for.
        local.limit("no_route");
        return Err(TcpEnd::NoRoute);
    };
    let passed = || hops::TCP.passed(peer).ok_or("tcp_loop").map_err(refused(TcpEnd::Refused));
    passed()?;
    let asks = Client { peer: told.client, real_ip: Some(told.client.ip()), ..Client::default() };
    let preamble = preamble(pool.told(), told, client.session(), client.local_addr().ok());
    let connected = match pool.connect(&asks, &preamble).await {
        Ok(connected) => connected,
        Err(NoServer::Full | NoServer::Unreachable | NoServer::Refused) => return Err(TcpEnd::NoServer),
    };
    told.server = Some(pool.server(connected.choice).url.clone());
    // Asked once more: whoever connected here may have said so since.
    let hops = passed()?;
    let ends = connected.stream.local_addr().and_then(|own| Ok((own, connected.stream.peer_addr()?)));
    let hop = ends.ok().and_then(|(own, to)| hops::TCP.begin(own, to, hops));
    Ok(Begun { client, unintroduced, pool, connected, idle: live.idle, _ip_seat: ip_seat, _hop: hop })
}

/// Finds out who the client is. True: it is one that must not send a header, and has not been looked at.
async fn introduce(live: &Live, stream: &TcpStream, told: &mut Told) -> Result<bool, &'static str> {
    let Some(trusted) = &live.introducers else { return Ok(false) };
    if proxied::must_introduce(told.client, trusted) {
        let Introduction { client, destination } = proxied::introduced(stream, told.client, live.patience).await?;
        (told.client, told.destination) = (client, destination);
        return Ok(false);
    }
    if live.tls == TcpTls::Off {
        // Of some protocols it is the server that speaks first.
        return Ok(true);
    }
    proxied::not_introduced(stream, live.patience).await.map(|()| false)
}

fn let_in(local: &Local, live: &Live, told: &Told) -> Result<Option<IpSeat>, &'static str> {
    let ip = told.client.ip();
    if live.ip_filter.as_ref().is_some_and(|filter| !filter.allows(Some(ip))) {
        return Err("ip_filter");
    }
    match live.most_per_ip {
        0 => Ok(None),
        most => local.proxy.per_ip.take(ip, most).map(Some).ok_or("connections_per_ip"),
    }
}

/// Learns what the client asks for in TLS, where that is ended or looked at.
async fn understand(local: &Local, live: &Live, stream: TcpStream, told: &mut Told) -> Result<Transport, TcpEnd> {
    match (&live.terminated, live.tls) {
        (Some(tls), TcpTls::Terminate) if !live.mixed => {
            let stream = end_tls(local, tls, stream, live.patience, told).await?;
            told.asked = Asked::of(stream.session());
            Ok(stream)
        }
        (_, TcpTls::Terminate | TcpTls::Passthrough) => {
            // The hello is the beginning of the handshake; what came before it had a time of its own.
            let began = base_runtime::now();
            let read = proxied::peek(&stream, live.patience, |bytes| Hello::read(bytes).transpose()).await;
            match read {
                Ok((Ok(hello), bytes)) => {
                    told.asked = Asked { server_name: hello.server_name, alpn: hello.alpn };
                    stream.unread(bytes);
                    match live.terminated.as_ref().filter(|_| live.tls_for(&told.asked) == TcpTls::Terminate) {
                        Some(tls) => {
                            let spent = base_runtime::now().saturating_duration_since(began);
                            end_tls(local, tls, stream, live.patience.saturating_sub(spent), told).await
                        }
                        None => Ok(stream.into()),
                    }
                }
                Ok((Err(why), _)) => {
                    local.limit(if why == NoHello::TooLong { "hello_too_long" } else { "hello_malformed" });
                    refuse(&stream.into(), DECODE_ERROR);
                    Err(TcpEnd::Tls)
                }
                Err(ended) => {
                    local.limit(if ended == proxied::Ended::TimedOut { "handshake_timeout" } else { "handshake_io" });
                    Err(TcpEnd::Tls)
                }
            }
        }
        (_, TcpTls::Off) => Ok(stream.into()),
    }
}

/// Speaks TLS with a client.
async fn end_tls(
    local: &Local,
    tls: &Tls,
    stream: TcpStream,
    patience: Duration,
    told: &Told,
) -> Result<Transport, TcpEnd> {
    let booking = Booking::new(Kind::Tls, HANDSHAKE_BYTES);
    let accepted = tls.server.accept(stream, patience).await;
    drop(booking);
    accepted.map_err(|error: HandshakeError| {
        tracing::debug!(server = %local.proxy.name, client = %told.client, "{error}");
        if !matches!(error, HandshakeError::Challenge) {
            local.limit(error.name());
        }
        TcpEnd::Tls
    })
}

/// Says why in TLS's own words.
fn refuse(stream: &Transport, description: u8) {
    stream.send(Buf::copy_from(&alert(description)));
    stream.shutdown_write();
}

/// What the server is told before anything else.
fn preamble(told: ProxyProtocol, of: &Told, session: Option<&Session>, here: Option<SocketAddr>) -> Vec<u8> {
    let destination = of.destination.or(here);
    let mut header = Vec::new();
    match (told, destination) {
        (ProxyProtocol::Off | ProxyProtocol::Accept, _) => {}
        (ProxyProtocol::V1, to) => v1::write(to.map(|to| (of.client, to)), &mut header),
        (ProxyProtocol::V2, None) => header = v2::Writer::unknown().finish_checked(),
        (ProxyProtocol::V2, Some(to)) => {
            let mut writer = v2::Writer::proxy(proto_proxy::Transport::Stream, of.client, to);
            let name = of.asked.server_name.as_deref();
            writer = match (session, name) {
                (Some(session), name) => writer.with_session(session.alpn.as_deref(), name, &ssl_of(session)),
                (None, Some(name)) => writer.with(tlv::AUTHORITY, name.as_bytes()),
                (None, None) => writer,
            };
            header = writer.finish_checked();
        }
    }
    header
}

/// Passes bytes both ways to the end.
async fn relay(
    local: &Local,
    idle: Duration,
    pool: &L4Pool,
    client: &dyn Duplex,
    connected: Connected,
    told: &Told,
) -> TcpEnd {
    let Connected { stream, choice, seat } = connected;
    let worker = base_runtime::worker_index();
    let relayed = Relayed::begin(local);
    let served = Cell::new(false);
    let count = |side, bytes: u64| {
        let (sum, way) = match side {
            Side::Client => (&told.received, Way::In),
            Side::Backend => (&told.sent, Way::Out),
        };
        sum.set(sum.get() + bytes);
        local.proxy.stats.passed(worker, way, bytes, 1);
        if side == Side::Backend && !served.replace(true) {
            pool.served(choice);
        }
    };
    let joined = tunnel::join_counting(client, &stream, &relayed.deadline, || local.patience(idle), count);
    let ended = joined.await;
    let end = match (ended.end, ended.broken) {
        (TunnelEnd::Finished, _) => TcpEnd::Finished,
        (TunnelEnd::Idle, _) => {
            if !local.door.is_closed() {
                local.limit("tunnel_idle");
            }
            TcpEnd::Idle
        }
        (TunnelEnd::Broken, Some((Side::Client, error))) if Unintroduced::was_introduced(&error) => {
            local.limit("proxy_untrusted");
            TcpEnd::ProxyHeader
        }
        (TunnelEnd::Broken, Some((Side::Backend, _))) => TcpEnd::Server,
        (TunnelEnd::Broken, _) => TcpEnd::Client,
    };
    if !served.get() {
        match end {
            TcpEnd::Server => pool.failed(choice, false),
            TcpEnd::Finished => pool.served(choice),
            _ => {}
        }
    }
    drop(seat);
    end
}

/// One of the share's relays, until it is dropped.
struct Relayed<'l> {
    local: &'l Local,
    deadline: Rc<Deadline>,
    key: u32,
}

impl<'l> Relayed<'l> {
    fn begin(local: &'l Local) -> Relayed<'l> {
        let mut key = 0;
        let mut relays = local.relays.borrow_mut();
        let deadline = relays.insert_with(|at| {
            key = at;
            Rc::<Deadline>::default()
        });
        let deadline = deadline.clone();
        drop(relays);
        Relayed { local, deadline, key }
    }
}

impl Drop for Relayed<'_> {
    fn drop(&mut self) {
        let gone = self.local.relays.borrow_mut().remove(self.key);
        drop(gone);
    }
}
