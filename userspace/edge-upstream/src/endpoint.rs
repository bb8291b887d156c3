//! Where a backend is: a server URL taken apart, and the socket addresses behind its name.

use crate::health::Health;
use crate::lease::Need;
use crate::names;
use crate::tls::Identity;
use base_model::{ProxyProtocol, ServerUrl};
use base_tls::Session;
use edge_pipeline::Client;
use proto_http::Path;
use proto_proxy::tlv::{self, Ssl};
use proto_proxy::{Transport, v1, v2};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

/// Addresses of one name that are used; a name with more has its first ones tried.
const ADDRESSES_MAX: usize = 64;

/// What a backend is reached by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// A name or an address, an IPv6 one without brackets, and a port.
    Host(String, u16),
    /// A Unix socket.
    Socket(PathBuf),
}

/// A backend's place, shared by every pool that lists it, so that its idle connections outlive a change of the configuration.
#[derive(Debug)]
pub struct Endpoint {
    /// Unique for the life of the process; part of the key of idle connections.
    pub id: u32,
    pub place: Place,
    addresses: RwLock<Arc<[SocketAddr]>>,
    /// Counts the changes of `addresses`.
    generation: AtomicU32,
    turn: AtomicUsize,
    /// The family that was connected to last: it is tried first.
    v4_first: AtomicBool,
    /// What came of the first look-up, for those who wait for it.
    first: Mutex<Option<Result<(), String>>>,
    looked_up: Condvar,
    /// What is known of it, by the identity it is spoken to under: a certificate of ours that it refuses says nothing about others.
    health: Mutex<Vec<(u32, Weak<Health>)>>,
}

impl Endpoint {
    /// The endpoint of this place; one object as long as anybody holds it. A name begins to be looked up, and is looked up again
    /// whenever its time to live is over.
    pub fn shared(place: Place) -> Arc<Endpoint> {
        let mut known = registry().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(&place).and_then(Weak::upgrade) {
            return found;
        }
        let made = Endpoint::new(place.clone());
        // Those that nobody holds go when there is no room otherwise: of ten thousand that come not each looks at all others.
        if known.len() == known.capacity() {
            known.retain(|_, endpoint| endpoint.strong_count() > 0);
        }
        known.insert(place, Arc::downgrade(&made));
        if made.is_named() {
            names::watch(&made);
        }
        made
    }

    fn new(place: Place) -> Arc<Endpoint> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let literal = match &place {
            Place::Host(host, port) => host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, *port)),
            Place::Socket(_) => None,
        };
        let named = literal.is_none() && matches!(place, Place::Host(..));
        Arc::new(Endpoint {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            place,
            addresses: RwLock::new(literal.into_iter().collect()),
            generation: AtomicU32::new(0),
            turn: AtomicUsize::new(0),
            v4_first: AtomicBool::new(false),
            first: Mutex::new((!named).then_some(Ok(()))),
            looked_up: Condvar::new(),
            health: Mutex::default(),
        })
    }

    /// One whose addresses somebody else looks up and [changes](Endpoint::set_addresses); nobody shares it.
    pub fn found(host: &str, port: u16, addresses: Vec<IpAddr>) -> Arc<Endpoint> {
        let made = Endpoint::new(Place::Host(host.to_owned(), port));
        made.set_addresses(addresses);
        made
    }

    /// Of one that was [found](Endpoint::found).
    pub fn set_addresses(&self, addresses: Vec<IpAddr>) {
        self.looked_up(Ok(addresses));
    }

    /// One that nobody looks up.
    #[cfg(test)]
    pub(crate) fn unwatched(host: &str, port: u16) -> Arc<Endpoint> {
        Endpoint::new(Place::Host(host.to_owned(), port))
    }

    fn is_named(&self) -> bool {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// All addresses in the order they are to be tried: families in turn, that of the last success first (RFC 8305 section 4),
    /// and within a family each address first in its turn. Empty while the name has not been resolved.
    pub fn addresses(&self) -> Arc<[SocketAddr]> {
        let known = self.addresses.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.len() < 2 {
            return known;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        interleave(&known, turn, self.v4_first.load(Ordering::Relaxed))
    }

    /// The only address, when there is one alone.
    pub fn address(&self) -> Option<SocketAddr> {
        match **self.addresses.read().unwrap_or_else(PoisonError::into_inner) {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Takes note of the address that was connected to.
    pub fn connected(&self, address: SocketAddr) {
        self.v4_first.store(address.is_ipv4(), Ordering::Relaxed);
    }

    /// Changes whenever the addresses do.
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Whether the name still has this address.
    pub fn has(&self, address: SocketAddr) -> bool {
        let known = self.addresses.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().any(|a| a.port() == address.port() && a.ip().to_canonical() == address.ip().to_canonical())
    }

    /// Puts the result of a look-up in force. Nothing found leaves the addresses known before; says whether any are known.
    pub(crate) fn looked_up(&self, found: Result<Vec<IpAddr>, String>) -> bool {
        let Place::Host(_, port) = &self.place else { return true };
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match found {
            Ok(mut ips) if !ips.is_empty() => {
                // The order of an answer says nothing; a changed set does.
                ips.sort_unstable();
                ips.dedup();
                ips.truncate(ADDRESSES_MAX);
                let new: Arc<[SocketAddr]> = ips.into_iter().map(|ip| SocketAddr::new(ip, *port)).collect();
                let mut addresses = self.addresses.write().unwrap_or_else(PoisonError::into_inner);
                if *addresses != new {
                    *addresses = new;
                    self.generation.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }
            Ok(_) => Err("it has no address".to_owned()),
            Err(error) => Err(error),
        };
        let known = !self.addresses.read().unwrap_or_else(PoisonError::into_inner).is_empty();
        *first = Some(if known { Ok(()) } else { outcome });
        self.looked_up.notify_all();
        known
    }

    /// The name its certificate must be for.
    pub fn name(&self) -> &str {
        match &self.place {
            Place::Host(host, _) => host,
            Place::Socket(_) => "localhost",
        }
    }

    /// What is known of it under this identity, 0 for none; one object as long as anybody holds it.
    fn health(&self, identity: u32) -> Arc<Health> {
        let mut known = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.iter().find(|(id, _)| *id == identity).and_then(|(_, health)| health.upgrade()) {
            return found;
        }
        let made = Arc::default();
        known.retain(|(_, health)| health.strong_count() > 0);
        known.push((identity, Arc::downgrade(&made)));
        made
    }

    /// Waits for the name's first look-up until `end`; says why it has no address yet. Blocks: for control threads.
    pub fn await_address(&self, end: Instant) -> Result<(), String> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = &*first {
                return outcome.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return Err("the look-up takes long".to_owned());
            }
            first = self.looked_up.wait_timeout(first, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn introduce_nobody() -> Vec<u8> {
    let mut line = Vec::new();
    v1::write(None, &mut line);
    line
}

/// What servers are told of a client's TLS.
pub fn ssl_of(session: &Session) -> Ssl<'_> {
    let shown = !session.peer_certificates.is_empty();
    Ssl {
        client: tlv::CLIENT_SSL | if shown { tlv::CLIENT_CERT_CONN | tlv::CLIENT_CERT_SESS } else { 0 },
        // Who shows one that cannot be verified is not connected.
        verified: true,
        version: Some(session.version.as_bytes()),
        common_name: None,
        cipher: Some(session.cipher.as_bytes()),
    }
}

/// See [`Endpoint::addresses`].
fn interleave(known: &[SocketAddr], turn: usize, v4_first: bool) -> Arc<[SocketAddr]> {
    let rotated = |v4: bool| {
        let mut family: Vec<SocketAddr> = known.iter().copied().filter(|a| a.is_ipv4() == v4).collect();
        if !family.is_empty() {
            let by = turn % family.len();
            family.rotate_left(by);
        }
        family.into_iter()
    };
    let (mut first, mut second) = (rotated(v4_first), rotated(!v4_first));
    let mut order = Vec::with_capacity(known.len());
    while order.len() < known.len() {
        order.extend(first.next());
        order.extend(second.next());
    }
    order.into()
}

type Registry = Mutex<HashMap<Place, Weak<Endpoint>>>;

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(Registry::default)
}

/// What is spoken with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/1.1 alone.
    Http1,
    /// HTTP/2 if it agrees to that in the handshake of TLS (ALPN), else HTTP/1.1.
    Negotiated,
    /// HTTP/2 without asking (h2c by prior knowledge, RFC 9113 section 3.3). What asks for a WebSocket goes over HTTP/1.1 where the server
    /// does not offer it over HTTP/2, and is refused where it does and has no room.
    Http2,
    /// HTTP/3 over QUIC. What asks to go on in another protocol goes over HTTP/1.1, as a connection of TCP to the same port; so does a
    /// WebSocket where the server does not offer it over HTTP/3, and everything for a while once it wants nothing else over HTTP/3.
    Http3,
}

impl Protocols {
    /// What is offered in a handshake of TLS, best first.
    pub(crate) fn offered(self) -> &'static [&'static [u8]] {
        match self {
            // Over TCP.
            Protocols::Http1 | Protocols::Http3 => &[b"http/1.1"],
            Protocols::Negotiated | Protocols::Http2 => &[b"h2", b"http/1.1"],
        }
    }
}

/// Beside the number of an identity: its servers are reached over QUIC.
const OVER_QUIC: u32 = 1 << 31;

/// Beside the number of an identity: see [`Server::probes`].
const OF_PROBES: u64 = 1 << 31;

/// One line of a pool's `servers`.
#[derive(Debug)]
pub struct Server {
    /// As written: what status and metrics show.
    pub url: String,
    pub endpoint: Arc<Endpoint>,
    /// Shared by all pools that name this endpoint.
    pub health: Arc<Health>,
    /// TLS is spoken, as whom and to whom.
    pub identity: Option<Arc<Identity>>,
    pub protocols: Protocols,
    /// It takes datagrams, and nothing is connected.
    pub datagrams: bool,
    /// It is asked how it is: its idle connections are no request's, and requests' are not its.
    pub probes: bool,
    /// What it is told of clients before anything else.
    pub told: ProxyProtocol,
    /// Host and port as they go into a Host field.
    pub authority: String,
    /// Path inside the URL as it goes on the wire, a prefix of every request's path; without its last slash, so that "/" is empty.
    pub prefix: String,
    pub weight: u32,
    /// The client's Host is forwarded although the backend has a name (`keepHost`).
    pub keep_host: bool,
    /// The URL's host is an address or a socket: the client's Host is forwarded.
    pub is_address: bool,
}

impl Server {
    /// Takes a server URL apart. `identity` is for `https://`, and left aside without it. The error says what is wrong with the URL.
    pub fn new(url: &str, weight: u32, keep_host: bool, identity: Option<&Arc<Identity>>) -> Result<Server, String> {
        Server::at(url.parse()?, url, weight, keep_host, identity)
    }

    /// As [`new`](Server::new), of a URL taken apart already; `url` is what is shown.
    pub fn at(
        at: ServerUrl,
        url: &str,
        weight: u32,
        keep_host: bool,
        identity: Option<&Arc<Identity>>,
    ) -> Result<Server, String> {
        let identity = match at.is_tls() {
            true => Some(identity.ok_or("TLS is not set up for this server")?.clone()),
            false => None,
        };
        let is_address = at.ip().is_some() || at.socket.is_some();
        let authority = at.authority();
        let prefix = if at.path.is_empty() { String::new() } else { Path::from_text(&at.path).encoded().into_owned() };
        let place = match at.socket {
            Some(socket) => Place::Socket(socket.into()),
            None => Place::Host(at.host.to_ascii_lowercase(), at.port),
        };
        let endpoint = Endpoint::shared(place);
        let protocols = if identity.is_some() { Protocols::Negotiated } else { Protocols::Http1 };
        Ok(Server {
            protocols,
            datagrams: false,
            probes: false,
            told: ProxyProtocol::Off,
            url: url.to_owned(),
            health: endpoint.health(identity.as_ref().map_or(0, |i| i.id)),
            endpoint,
            identity,
            authority,
            prefix: prefix.trim_end_matches('/').to_owned(),
            weight,
            keep_host,
            is_address,
        })
    }

    /// One that takes datagrams. What is known of who listens for connections there says nothing of it.
    #[must_use]
    pub fn over_datagrams(mut self) -> Server {
        self.datagrams = true;
        self.health = self.endpoint.health(u32::MAX);
        self
    }

    /// One that is told of clients. Its connections are those of one client each, and are never shared by many.
    #[must_use]
    pub fn told(mut self, told: ProxyProtocol) -> Server {
        self.told = told;
        if !told.is_off() {
            self.protocols = Protocols::Http1;
        }
        self
    }

    /// The same without the path that goes before those of requests.
    #[must_use]
    pub fn bare(&self) -> Server {
        Server {
            url: self.url.clone(),
            endpoint: self.endpoint.clone(),
            health: self.health.clone(),
            identity: self.identity.clone(),
            protocols: self.protocols,
            datagrams: self.datagrams,
            probes: self.probes,
            told: self.told,
            authority: self.authority.clone(),
            prefix: String::new(),
            weight: self.weight,
            keep_host: self.keep_host,
            is_address: self.is_address,
        }
    }

    /// What goes before everything else on a connection of our own, such as a probe.
    pub(crate) fn own_introduction(&self) -> Vec<u8> {
        match self.told {
            ProxyProtocol::Off | ProxyProtocol::Accept => Vec::new(),
            ProxyProtocol::V1 => introduce_nobody(),
            ProxyProtocol::V2 => v2::Writer::local().finish_checked(),
        }
    }

    /// One that a request names: `authority` as it names it, at a place that was [found](Endpoint::found). TLS is spoken under an identity.
    pub fn named(authority: &str, endpoint: Arc<Endpoint>, identity: Option<Arc<Identity>>) -> Server {
        Server {
            url: authority.to_owned(),
            health: endpoint.health(identity.as_ref().map_or(0, |i| i.id)),
            protocols: if identity.is_some() { Protocols::Negotiated } else { Protocols::Http1 },
            authority: authority.to_owned(),
            prefix: String::new(),
            weight: 0,
            keep_host: true,
            is_address: false,
            datagrams: false,
            probes: false,
            told: ProxyProtocol::Off,
            endpoint,
            identity,
        }
    }

    /// What goes before everything else on a connection for this client; empty where nothing is to be said. The port of a client that a
    /// trusted proxy has named is not known, and said as 0.
    pub fn introduction(&self, client: &Client) -> Vec<u8> {
        if matches!(self.told, ProxyProtocol::Off | ProxyProtocol::Accept) {
            return Vec::new();
        }
        let Some(ip) = client.real_ip else {
            return match self.told {
                ProxyProtocol::V1 => introduce_nobody(),
                _ => v2::Writer::unknown().finish_checked(),
            };
        };
        let port = if ip.to_canonical() == client.peer.ip().to_canonical() { client.peer.port() } else { 0 };
        let (source, unspecified) = (SocketAddr::new(ip, port), SocketAddr::from(([0, 0, 0, 0], 0)));
        let destination = client.local.unwrap_or(unspecified);
        if self.told == ProxyProtocol::V1 {
            let mut line = Vec::new();
            v1::write(Some((source, destination)), &mut line);
            return line;
        }
        let mut writer = v2::Writer::proxy(Transport::Stream, source, destination);
        if let Some(session) = client.tls.as_deref() {
            writer = writer.with_session(session.alpn.as_deref(), session.server_name.as_deref(), &ssl_of(session));
        }
        writer.finish_checked()
    }

    /// With HTTP/2 or without it, as the document says; where it says nothing, servers with TLS are asked.
    #[must_use]
    pub fn with_http2(mut self, wanted: Option<bool>) -> Server {
        self.protocols = match (wanted, &self.identity) {
            (Some(false), _) | (None, None) => Protocols::Http1,
            (_, Some(_)) => Protocols::Negotiated,
            (Some(true), None) => Protocols::Http2,
        };
        self
    }

    /// With HTTP/3, where the document wants it. An error: it cannot be spoken to in that.
    pub fn with_http3(mut self, wanted: bool) -> Result<Server, String> {
        if !wanted {
            return Ok(self);
        }
        let identity = self.identity.as_ref().ok_or("HTTP/3 is spoken over TLS alone, and this is no https:// URL")?;
        if matches!(self.endpoint.place, Place::Socket(_)) {
            return Err("HTTP/3 is spoken over UDP, which is not what a Unix socket takes".to_owned());
        }
        self.protocols = Protocols::Http3;
        // What is known of who listens on TCP there says nothing of it.
        self.health = self.endpoint.health(identity.id | OVER_QUIC);
        Ok(self)
    }

    /// Whether a request of this need may go over a connection that carries many.
    pub(crate) fn shares(&self, need: Need) -> bool {
        match self.protocols {
            Protocols::Http1 => false,
            Protocols::Negotiated | Protocols::Http3 => need != Need::Http1,
            Protocols::Http2 => true,
        }
    }

    /// Which idle connections serve this server: those to the same place, made under the same identity or none.
    pub fn connections(&self) -> u64 {
        let identity = u64::from(self.identity.as_ref().map_or(0, |i| i.id));
        u64::from(self.endpoint.id) << 32 | identity | if self.probes { OF_PROBES } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let s = Server::new("http://127.0.0.1:9095/api/", 1, false, None).unwrap();
        assert_eq!((s.authority.as_str(), s.prefix.as_str(), s.is_address), ("127.0.0.1:9095", "/api", true));
        assert_eq!(s.endpoint.address(), Some("127.0.0.1:9095".parse().unwrap()));
        let s = Server::new("http://[::1]:80/a b", 1, false, None);
        assert!(s.is_err());
        let s = Server::new("http://[::1]:80/中", 1, false, None).unwrap();
        assert_eq!(s.endpoint.address(), Some("[::1]:80".parse().unwrap()));
        assert_eq!((s.authority.as_str(), s.prefix.as_str()), ("[::1]:80", "/%E4%B8%AD"));
        let s = Server::new("http://Shop.invalid", 1, false, None).unwrap();
        assert_eq!((&s.endpoint.place, s.is_address), (&Place::Host("shop.invalid".to_owned(), 80), false));
        assert_eq!((s.authority.as_str(), s.endpoint.addresses().len()), ("Shop.invalid", 0));
        let s = Server::new("unix:///run/app.sock", 1, false, None).unwrap();
        assert_eq!((&s.endpoint.place, s.is_address), (&Place::Socket("/run/app.sock".into()), true));
        let s = Server::new("http://unix:/run/app.sock:/api/", 1, false, None).unwrap();
        assert_eq!((&s.endpoint.place, s.prefix.as_str()), (&Place::Socket("/run/app.sock".into()), "/api"));
        for bad in ["127.0.0.1:9095", "ftp://x", "http://", "http://x:99999", "unix://app", "https://x"] {
            assert!(Server::new(bad, 1, false, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_endpoint_per_place_while_held() {
        let place = || Place::Host("10.9.9.9".to_owned(), 1);
        let a = Endpoint::shared(place());
        assert_eq!(a.id, Endpoint::shared(place()).id);
        let id = a.id;
        drop(a);
        assert_ne!(id, Endpoint::shared(place()).id);
    }

    #[test]
    fn families_take_turns_and_so_do_addresses() {
        let parse = |text: &[&str]| text.iter().map(|a| a.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let known = parse(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "[::1]:1"]);
        let order = |turn, v4_first| interleave(&known, turn, v4_first).to_vec();
        assert_eq!(order(0, false), parse(&["[::1]:1", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]));
        assert_eq!(order(1, true), parse(&["10.0.0.2:1", "[::1]:1", "10.0.0.3:1", "10.0.0.1:1"]));
    }

    #[test]
    fn what_was_known_stays_when_a_look_up_fails() {
        let endpoint = Endpoint::shared(Place::Socket("/nowhere".into()));
        assert!(endpoint.looked_up(Err("no".to_owned())));
        let endpoint = Endpoint::unwatched("keeps.test", 7);
        endpoint.looked_up(Ok(vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()]));
        let generation = endpoint.generation();
        assert!(endpoint.looked_up(Err("no".to_owned())));
        assert!(endpoint.looked_up(Ok(vec![[10, 0, 0, 2].into(), [10, 0, 0, 1].into()])));
        assert_eq!((endpoint.addresses().len(), endpoint.generation()), (2, generation));
        endpoint.looked_up(Ok(vec![[10, 0, 0, 3].into()]));
        assert_eq!((endpoint.address(), endpoint.generation()), ("10.0.0.3:7".parse().ok(), generation + 1));
        assert!(endpoint.has("10.0.0.3:7".parse().unwrap()) && !endpoint.has("10.0.0.1:7".parse().unwrap()));
    }
}
