//! One UDPProxy: its sockets on every worker, and the sessions of each.
//!
//! The kernel hands the datagrams of one client port to one worker, by their addresses. There a session is known by where its datagrams
//! come from and which of our addresses they were sent to; it has a socket of its own towards its server, so that what comes back on
//! that is for its client, and so that the server's machine can say that nobody takes them (ICMP). Answers go out from the address the
//! client has sent to. Datagrams that the kernel has joined are passed on joined.
//!
//! A listener that stops takes no new sessions; those it has go on for as long as they are not silent, or until another one listens at its
//! address: it takes the sockets over, and what clients send is for it. Answers of sessions that are there still go out.

use crate::accept::wait_for_datagrams;
use crate::clock;
use crate::datagram_sockets::{self, Held, Leaving};
use crate::hops::{self, Hop};
use crate::per_ip::{IpSeat, PerIp};
use crate::server::{Server, Sockets, not_of};
use crate::standing::{Standing, shown};
use crate::tcp_proxy::write_address;
use crate::traffic::Shared;
use arc_swap::ArcSwap;
use base_model::ip_filter::{CidrSet, IpFilter};
use base_model::{Protocol, ProxyProtocol, Spec, UdpProxySpec};
use base_runtime::memory::{self, Booking, Kind};
use base_runtime::net::is_own_shortage;
use base_runtime::net::udp::{Received, Transmit, UdpOptions, UdpSocket};
use base_runtime::time::Deadline;
use base_telemetry::access_log::{LogWriter, write_duration, write_time};
use base_telemetry::relay::{RelayKind, RelayStats, UdpDrop, UdpEnd, Way};
use edge_pipeline::Client;
use edge_upstream::balance::Choice;
use edge_upstream::l4_members::{L4Members, Recipe};
use edge_upstream::l4_pool::{L4Pool, Seat};
use proto_proxy::{Addresses, begins_one, read, v2};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// The bounds of this file, by the names they are counted under.
pub const BOUNDS: [&str; 5] = ["ip_filter", "udp_loop", "udp_sessions", "udp_sessions_per_ip", "udp_sockets"];

/// What the kernel may hold for a worker that is busy, in bytes; it keeps to net.core.rmem_max. The system's default holds a few hundred
/// datagrams, and a busy turn of a worker takes longer than those take to come.
const RECEIVE_BYTES: usize = 4 << 20;

/// What a session holds beside its socket, for the memory ledger, in bytes.
const SESSION_BYTES: usize = size_of::<Session>() + size_of::<(Key, Rc<Session>)>() + 256;

/// What sessions need of a document.
struct Live {
    ip_filter: Option<IpFilter>,
    /// Who must introduce its clients; `None`: nobody may.
    introducers: Option<CidrSet>,
    /// Sessions of one worker.
    most: usize,
    most_per_ip: u32,
    idle: Duration,
    responses: Option<u32>,
    pool: Arc<L4Members>,
}

impl Live {
    fn new(name: &str, spec: &UdpProxySpec, shared: &Shared, previous: Option<&Live>) -> Result<Live, String> {
        let written = spec.pools.first().ok_or("pools: is empty")?;
        let label = if written.name.is_empty() { "0" } else { written.name.as_str() };
        let recipe = Recipe {
            name: format!("{name}/{label}"),
            kind: "UDPProxy",
            spec: written.clone(),
            protocol: Protocol::Udp,
            listener: spec.proxy_protocol,
            telemetry: shared.telemetry().clone(),
        };
        let pool = L4Members::new(recipe, previous.map(|live| &*live.pool));
        let introducers = (spec.proxy_protocol == ProxyProtocol::Accept).then(|| CidrSet::new(&spec.trusted_proxies));
        Ok(Live {
            ip_filter: spec.ip_filter.as_ref().map(base_model::IpFilterSpec::compile),
            introducers,
            most: (spec.max_sessions as usize).div_ceil(shared.workers().len().max(1)),
            most_per_ip: spec.max_sessions_per_ip,
            idle: spec.idle_timeout.duration(),
            responses: spec.responses,
            pool: pool.map_err(|error| format!("pools[0]: {error}"))?,
        })
    }
}

/// See the module doc.
pub struct UdpProxy {
    name: Arc<str>,
    shared: Arc<Shared>,
    live: ArcSwap<Live>,
    stats: Arc<RelayStats>,
    per_ip: Arc<PerIp>,
    sessions: AtomicUsize,
    spec: Mutex<UdpProxySpec>,
    state: Mutex<Standing<Listening>>,
}

struct Listening {
    sockets: Sockets,
    held: Arc<Held<Weak<UdpProxy>>>,
}

static LEAVING: Leaving<Weak<UdpProxy>> = Leaving::new();

impl UdpProxy {
    /// Makes the proxy and tries to listen. That the port is taken is a state, not an error.
    pub fn start(name: &str, spec: &UdpProxySpec, shared: Arc<Shared>) -> Result<Arc<UdpProxy>, String> {
        let live = Live::new(name, spec, &shared, None)?;
        let proxy = Arc::new(UdpProxy {
            name: name.into(),
            live: ArcSwap::from_pointee(live),
            stats: shared.telemetry().relay(name, RelayKind::Udp),
            per_ip: PerIp::new(),
            sessions: AtomicUsize::new(0),
            spec: Mutex::new(spec.clone()),
            state: Mutex::default(),
            shared,
        });
        proxy.listen(&lock(&proxy.spec));
        Ok(proxy)
    }

    /// Listens if it does not yet.
    fn listen(self: &Arc<Self>, spec: &UdpProxySpec) {
        let (open, port) = (|| self.open(&spec.address, spec.port), spec.port);
        let why = |error: io::Error| {
            let shown = shown(&spec.address);
            format!(
                "cannot listen on {shown}:{port} for UDP: {error}; free the port or choose another, it is tried again every 10 s"
            )
        };
        if let Some(Ok(listening)) = lock(&self.state).listen(&self.name, open, why) {
            tracing::info!(server = %self.name, address = %listening.sockets.at, protocol = "UDP", "listening");
        }
    }

    fn open(self: &Arc<Self>, address: &str, port: u16) -> io::Result<Listening> {
        static KEYS: AtomicU64 = AtomicU64::new(1);
        let workers = self.shared.workers();
        let options = UdpOptions { receive_buffer: Some(RECEIVE_BYTES), ..UdpOptions::default() };
        let opened = datagram_sockets::open(&options, (address, port), workers.len(), workers.len(), &LEAVING)?;
        for held in &opened.before {
            if let Some(proxy) = held.of.upgrade() {
                proxy.tell(held.key, Local::release);
            }
        }
        let key = KEYS.fetch_add(1, Ordering::Relaxed);
        let held = Held::new((address, port), key, Arc::downgrade(self), &opened.bound);
        for (worker, socket) in workers.iter().zip(opened.bound) {
            let (proxy, held) = (self.clone(), held.clone());
            worker.spawn(move || serve(proxy, socket, held));
        }
        Ok(Listening { sockets: opened.sockets, held })
    }

    /// Its sockets are there for another one while sessions are left.
    fn leave(&self, listening: &Listening) {
        LEAVING.push(&listening.held);
        self.tell(listening.held.key, Local::stop);
    }

    fn tell(&self, key: u64, what: fn(&Local)) {
        self.tell_and(key, what, &mpsc::channel().0);
    }

    /// `heard` and its clones are dropped when all workers have done so.
    fn tell_and(&self, key: u64, what: fn(&Local), heard: &Sender<()>) {
        for worker in self.shared.workers() {
            let heard = heard.clone();
            worker.spawn(move || async move {
                let local = LOCALS.with_borrow(|locals| locals.iter().find(|(k, _)| *k == key).map(|(_, l)| l.clone()));
                if let Some(local) = local {
                    what(&local);
                }
                drop(heard);
            });
        }
    }
}

impl Server for UdpProxy {
    fn kind(&self) -> &'static str {
        "UDPProxy"
    }

    fn update(self: Arc<Self>, spec: &Spec) -> Result<(), String> {
        let Spec::UdpProxy(spec) = spec else { return Err(not_of(spec)) };
        let mut before = lock(&self.spec);
        let live = Live::new(&self.name, spec, &self.shared, Some(&self.live.load()))?;
        self.live.store(Arc::new(live));
        let moved = (&before.address, before.port) != (&spec.address, spec.port);
        before.clone_from(spec);
        if moved {
            let old = lock(&self.state).take();
            if let Some(old) = old {
                self.leave(&old);
            }
            self.listen(spec);
        }
        Ok(())
    }

    fn retry(self: Arc<Self>) {
        self.listen(&lock(&self.spec));
    }

    fn stop(&self) {
        let listening = lock(&self.state).take();
        if let Some(listening) = listening {
            self.leave(&listening);
        }
    }

    /// Its sockets were let go.
    fn release(&self) {}

    fn let_go(&self, heard: Sender<()>) {
        let key = lock(&self.state).get().map(|listening| listening.held.key);
        if let Some(key) = key {
            self.tell_and(key, Local::release, &heard);
        }
    }

    fn sockets(&self) -> Vec<Sockets> {
        lock(&self.state).get().map(|listening| listening.sockets.clone()).into_iter().collect()
    }

    fn connections(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    fn state(&self) -> (&'static str, Option<String>) {
        lock(&self.state).state()
    }

    fn status(&self) -> Value {
        let (state, error) = self.state();
        let mut status = self.stats.status();
        status.insert("name".into(), json!(*self.name));
        status.insert("state".into(), json!(state));
        status.insert("health".into(), json!(error.as_deref().unwrap_or("")));
        status.insert("sessions".into(), json!(self.connections()));
        let servers = self.live.load().pool.current().servers_json();
        if !servers.is_empty() {
            status.insert("servers".into(), Value::Array(servers));
        }
        Value::Object(status)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

thread_local! {
    /// What this worker serves, by key of the sockets.
    static LOCALS: RefCell<Vec<(u64, Rc<Local>)>> = const { RefCell::new(Vec::new()) };
}

/// Who sends, and which of our addresses to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    peer: SocketAddr,
    here: Option<IpAddr>,
    /// Whom the peer speaks for; itself, unless it introduces others.
    client: SocketAddr,
}

/// One worker's share of a proxy.
struct Local {
    proxy: Arc<UdpProxy>,
    socket: UdpSocket,
    port: u16,
    sessions: RefCell<HashMap<Key, Rc<Session>>>,
    closing: Cell<bool>,
    /// Another process receives what clients send.
    released: Cell<bool>,
    /// Of the task that receives, for when there is nothing more to wait for.
    receiving: RefCell<Option<Waker>>,
    log: RefCell<Option<LogWriter>>,
    worker: usize,
}

/// What one client has with one server.
struct Session {
    key: Key,
    /// For answers to addresses that mean something on one link only.
    interface: u32,
    server: UdpSocket,
    pool: Arc<L4Pool>,
    choice: Choice,
    /// Before each datagram, where servers are told of clients.
    preamble: Vec<u8>,
    responses: Option<u32>,
    idle: Duration,
    deadline: Deadline,
    began: Instant,
    /// Datagrams of the client, and answers.
    asked: Cell<u64>,
    answered: Cell<u64>,
    bytes: [Cell<u64>; 2],
    _seat: Seat,
    _ip_seat: Option<IpSeat>,
    _hop: Option<Hop>,
    _booking: Booking,
}

/// Receives from clients until the listener has stopped and no session is left.
async fn serve(proxy: Arc<UdpProxy>, socket: std::net::UdpSocket, held: Arc<Held<Weak<UdpProxy>>>) {
    wait_for_datagrams().await;
    if lock(&proxy.state).get().is_none_or(|listening| listening.held.key != held.key) {
        // It was taken away meanwhile.
        return;
    }
    let worker = base_runtime::worker_index();
    let port = socket.local_addr().map_or(0, |at| at.port());
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(server = %proxy.name, %error, "a worker cannot receive datagrams"),
    };
    let log = proxy.shared.access_log().map(|log| log.writer(worker));
    let local = Rc::new(Local {
        proxy,
        socket,
        port,
        sessions: RefCell::default(),
        closing: Cell::new(false),
        released: Cell::new(false),
        receiving: RefCell::default(),
        log: RefCell::new(log),
        worker,
    });
    LOCALS.with_borrow_mut(|locals| locals.push((held.key, local.clone())));
    loop {
        let next = poll_fn(|cx| {
            if local.closing.get() && local.sessions.borrow().is_empty() {
                return Poll::Ready(None);
            }
            *local.receiving.borrow_mut() = Some(cx.waker().clone());
            if local.released.get() {
                local.socket.stop_receiving();
            }
            local.socket.poll_recv(cx).map(Some)
        });
        match next.await {
            None => break,
            Some(Ok(received)) => local.take(&received),
            Some(Err(error)) if error.kind() == io::ErrorKind::NotConnected => break,
            // What became of an answer: its session will end by itself.
            Some(Err(_)) => {}
        }
    }
    LOCALS.with_borrow_mut(|locals| locals.retain(|(key, _)| *key != held.key));
}

impl Local {
    fn stop(&self) {
        self.closing.set(true);
        let drain = self.proxy.shared.timeouts().tunnel_drain;
        for session in self.sessions.borrow().values() {
            session.deadline.set_after(drain.min(session.idle));
        }
        self.wake();
    }

    fn release(&self) {
        self.released.set(true);
        self.socket.stop_receiving();
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.receiving.borrow_mut().take() {
            waker.wake();
        }
    }

    fn drop_of(&self, why: UdpDrop, bound: Option<&'static str>, datagrams: u64) {
        self.proxy.stats.dropped(self.worker, why, datagrams);
        if let Some(bound) = bound {
            (0..datagrams).for_each(|_| self.proxy.shared.limit(bound));
        }
    }

    /// What a client, or several behind one peer, have sent.
    fn take(self: &Rc<Self>, received: &Received) {
        let meta = received.meta();
        let live = self.proxy.live.load();
        let count = received.segments().count() as u64;
        self.proxy.stats.passed(self.worker, Way::In, received.len() as u64, count);
        if meta.truncated {
            return self.drop_of(UdpDrop::Truncated, None, count);
        }
        let key = Key { peer: meta.source, here: meta.destination, client: meta.source };
        let Some(trusted) = &live.introducers else {
            return self.pass(&live, key, received, meta.segment_size, meta.interface);
        };
        let must = trusted.contains(meta.source.ip());
        for segment in received.segments() {
            match introduced(segment, must) {
                Ok((client, datagram)) => {
                    let key = Key { client: client.unwrap_or(meta.source), ..key };
                    self.pass(&live, key, datagram, datagram.len(), meta.interface);
                }
                Err(bound) => self.drop_of(UdpDrop::ProxyHeader, Some(bound), 1),
            }
        }
    }

    /// To the session's server; a session begins where there is none.
    fn pass(self: &Rc<Self>, live: &Arc<Live>, key: Key, bytes: &[u8], segment: usize, interface: u32) {
        let datagrams = bytes.len().div_ceil(segment.max(1)).max(1) as u64;
        let known = self.sessions.borrow().get(&key).cloned();
        let session = match known.map_or_else(|| self.begin(live, key, interface), Ok) {
            Ok(session) => session,
            Err((why, bound)) => return self.drop_of(why, bound, datagrams),
        };
        session.asked.set(session.asked.get() + datagrams);
        session.bytes[0].set(session.bytes[0].get() + bytes.len() as u64);
        let sent = if session.preamble.is_empty() {
            let segment_size = (segment < bytes.len()).then_some(segment);
            session.server.send(&Transmit { segment_size, ..Transmit::connected(bytes) })
        } else {
            bytes.chunks(segment.max(1)).chain(bytes.is_empty().then_some(bytes)).try_for_each(|datagram| {
                session.server.send(&Transmit::connected(&[&session.preamble, datagram].concat()))
            })
        };
        if sent.is_err() {
            self.drop_of(UdpDrop::Unsent, None, datagrams);
        }
        session.deadline.set_after(self.silence(session.idle));
        if session.responses == Some(0) {
            self.end(&session, UdpEnd::Answered);
        }
    }

    fn silence(&self, written: Duration) -> Duration {
        if self.closing.get() { written.min(self.proxy.shared.timeouts().tunnel_drain) } else { written }
    }

    /// A session with a server for it. An error is why there is none, and the bound it met.
    fn begin(
        self: &Rc<Self>,
        live: &Arc<Live>,
        key: Key,
        interface: u32,
    ) -> Result<Rc<Session>, (UdpDrop, Option<&'static str>)> {
        let ip = key.client.ip();
        if [ip, key.peer.ip()].into_iter().any(|ip| self.proxy.shared.denies(ip)) {
            return Err((UdpDrop::Refused, None));
        }
        if live.ip_filter.as_ref().is_some_and(|filter| !filter.allows(Some(ip))) {
            return Err((UdpDrop::Refused, Some("ip_filter")));
        }
        if self.closing.get() {
            return Err((UdpDrop::Refused, None));
        }
        if memory::is_over() {
            return Err((UdpDrop::Memory, Some("memory")));
        }
        if self.sessions.borrow().len() >= live.most {
            return Err((UdpDrop::Sessions, Some("udp_sessions")));
        }
        let hops = hops::UDP.passed(key.peer).ok_or((UdpDrop::Refused, Some("udp_loop")))?;
        let ip_seat = match live.most_per_ip {
            0 => None,
            most => {
                let seat = self.proxy.per_ip.take(ip, most);
                Some(seat.ok_or((UdpDrop::SessionsPerIp, Some("udp_sessions_per_ip")))?)
            }
        };
        let client = Client { peer: key.client, real_ip: Some(ip), ..Client::default() };
        let pool = live.pool.current();
        let mut search = pool.search(&client);
        let found = loop {
            let Some((choice, seat)) = search.next() else {
                search.failed();
                return Err((UdpDrop::NoServer, None));
            };
            let address = pool.server(choice).endpoint.addresses().first().copied();
            let options = UdpOptions { packet_info: false, ..UdpOptions::default() };
            match address.map(|at| UdpSocket::connect(at, &options)) {
                Some(Ok(server)) => break (choice, seat, server),
                // Connecting says nothing to the server: that no port is free (EAGAIN) is this machine's own matter, too.
                Some(Err(error)) if is_own_shortage(&error) || error.kind() == io::ErrorKind::WouldBlock => {
                    return Err((UdpDrop::Unsent, Some("udp_sockets")));
                }
                failed => {
                    if let Some(Err(error)) = failed {
                        tracing::debug!(server = pool.server(choice).url, %error, "no socket to it");
                    }
                    pool.failed(choice, true);
                }
            }
        };
        drop(search);
        let (choice, seat, server) = found;
        let preamble = match (pool.told(), key.here) {
            (ProxyProtocol::V2, Some(here)) => {
                let to = SocketAddr::new(here, self.port);
                v2::Writer::proxy(proto_proxy::Transport::Datagram, key.client, to).finish_checked()
            }
            (ProxyProtocol::V2, None) => v2::Writer::unknown().finish_checked(),
            _ => Vec::new(),
        };
        let ends = server.local_addr().and_then(|own| Ok((own, server.peer_addr()?)));
        let hop = ends.ok().and_then(|(own, to)| hops::UDP.begin(own, to, hops));
        let session = Rc::new(Session {
            key,
            interface: if is_of_one_link(key.peer.ip()) { interface } else { 0 },
            server,
            choice,
            preamble,
            responses: live.responses,
            idle: live.idle,
            deadline: Deadline::default(),
            began: base_runtime::now(),
            asked: Cell::new(0),
            answered: Cell::new(0),
            bytes: [Cell::new(0), Cell::new(0)],
            _seat: seat,
            _ip_seat: ip_seat,
            _hop: hop,
            _booking: Booking::new(Kind::Other, SESSION_BYTES),
            pool,
        });
        session.deadline.set_after(self.silence(session.idle));
        self.sessions.borrow_mut().insert(key, session.clone());
        self.proxy.stats.begun(self.worker);
        self.proxy.sessions.fetch_add(1, Ordering::Relaxed);
        base_runtime::spawn(answer(self.clone(), session.clone())).detach();
        Ok(session)
    }

    /// Sends on what a server has answered; true: that was all that is expected.
    fn hand_back(&self, session: &Session, received: &Received) -> bool {
        let (count, bytes) = (received.segments().count() as u64, received.len() as u64);
        if session.answered.get() == 0 {
            session.pool.served(session.choice);
        }
        session.answered.set(session.answered.get() + count);
        session.bytes[1].set(session.bytes[1].get() + bytes);
        let segment = received.meta().segment_size;
        let transmit = Transmit {
            segment_size: (segment < received.len()).then_some(segment),
            source: session.key.here,
            interface: session.interface,
            ..Transmit::new(session.key.peer, received)
        };
        match self.socket.send(&transmit) {
            Ok(()) => self.proxy.stats.passed(self.worker, Way::Out, bytes, count),
            Err(_) => self.drop_of(UdpDrop::Unsent, None, count),
        }
        session.deadline.set_after(self.silence(session.idle));
        session.responses.is_some_and(|each| session.answered.get() >= u64::from(each) * session.asked.get())
    }

    /// Ends a session that has not ended yet.
    fn end(&self, session: &Session, end: UdpEnd) {
        let mut sessions = self.sessions.borrow_mut();
        let same = sessions.get(&session.key).is_some_and(|known| std::ptr::eq(&**known, session));
        let gone = if same { sessions.remove(&session.key) } else { None };
        let last = sessions.is_empty();
        drop(sessions);
        if gone.is_none() {
            return;
        }
        self.proxy.stats.udp_ended(self.worker, end);
        self.proxy.sessions.fetch_sub(1, Ordering::Relaxed);
        if end == UdpEnd::Idle && session.answered.get() == 0 && session.responses.is_some_and(|each| each > 0) {
            session.pool.failed(session.choice, false);
        }
        // The task that waits for answers finds out.
        session.deadline.set(base_runtime::now());
        self.log(session, end);
        if last && self.closing.get() {
            self.wake();
        }
    }

    fn log(&self, session: &Session, end: UdpEnd) {
        let Some(log) = &mut *self.log.borrow_mut() else { return };
        let ended = base_runtime::now();
        log.with(|out| {
            out.push(b'[');
            write_time(clock::since_1970(ended), out);
            // Writing to memory does not fail.
            let _ = write!(out, "] [udp {} ", self.proxy.name);
            write_address(session.key.client, out);
            let _ = write!(out, " -> {}] [", session.pool.server(session.choice).url);
            write_duration(ended.saturating_duration_since(session.began), out);
            let (asked, answered) = (session.asked.get(), session.answered.get());
            let [received, sent] = [0, 1].map(|way: usize| session.bytes[way].get());
            let _ = writeln!(out, " rx:{asked}/{received}B tx:{answered}/{sent}B] [{}]", end.text());
        });
    }
}

/// Waits for a server's answers until the session ends.
async fn answer(local: Rc<Local>, session: Rc<Session>) {
    let end = loop {
        let next = poll_fn(|cx| match session.server.poll_recv(cx) {
            Poll::Ready(received) => Poll::Ready(Some(received)),
            Poll::Pending => session.deadline.poll_expired(cx).map(|()| None),
        });
        match next.await {
            None => break if local.closing.get() { UdpEnd::Stopped } else { UdpEnd::Idle },
            Some(Ok(received)) => {
                if local.hand_back(&session, &received) {
                    break UdpEnd::Answered;
                }
            }
            Some(Err(error)) => {
                tracing::debug!(server = session.pool.server(session.choice).url, %error, "datagrams are refused");
                session.pool.failed(session.choice, true);
                break UdpEnd::Refused;
            }
        }
    };
    local.end(&session, end);
}

/// Whom a datagram is from, where it says so, and what it holds. An error is the bound it broke.
fn introduced(datagram: &[u8], must: bool) -> Result<(Option<SocketAddr>, &[u8]), &'static str> {
    if !must {
        return if begins_one(datagram) == Some(true) { Err("proxy_untrusted") } else { Ok((None, datagram)) };
    }
    match read(datagram) {
        Ok(Some((header, length))) => match header.addresses {
            Addresses::Inet { transport: proto_proxy::Transport::Datagram, source, .. } => {
                Ok((Some(SocketAddr::new(source.ip().to_canonical(), source.port())), &datagram[length..]))
            }
            Addresses::Local | Addresses::Unknown => Ok((None, &datagram[length..])),
            // A stream's client does not send datagrams.
            Addresses::Inet { .. } | Addresses::Unix => Err("proxy_malformed"),
        },
        Err(proto_proxy::Error::Absent) => Err("proxy_missing"),
        Ok(None) | Err(_) => Err("proxy_malformed"),
    }
}

fn is_of_one_link(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}
