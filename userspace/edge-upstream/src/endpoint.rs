//! Where a backend is: a server URL taken apart, and the socket addresses behind its name.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock, Weak};

/// Name and port of a backend, shared by every pool that lists it, so that its idle connections outlive a change of the
/// configuration.
#[derive(Debug)]
pub struct Endpoint {
    /// Unique for the life of the process; the key of idle connections.
    pub id: u32,
    pub host: String,
    pub port: u16,
    addresses: RwLock<Arc<[SocketAddr]>>,
    turn: AtomicUsize,
}

impl Endpoint {
    /// The endpoint of this name; one object as long as anybody holds it.
    pub fn shared(host: &str, port: u16) -> Arc<Endpoint> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let mut known = registry().lock().unwrap_or_else(|e| e.into_inner());
        if let Some(found) = known.get(&(host.to_owned(), port)).and_then(Weak::upgrade) {
            return found;
        }
        let made = Arc::new(Endpoint {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            host: host.to_owned(),
            port,
            addresses: RwLock::new(literal(host, port).into_iter().collect()),
            turn: AtomicUsize::new(0),
        });
        known.retain(|_, endpoint| endpoint.strong_count() > 0);
        known.insert((host.to_owned(), port), Arc::downgrade(&made));
        made
    }

    /// The next address to try, in turn. `None` while the name has not been resolved.
    pub fn address(&self) -> Option<SocketAddr> {
        let addresses = self.addresses.read().unwrap_or_else(|e| e.into_inner());
        match addresses.len() {
            0 => None,
            1 => Some(addresses[0]),
            n => Some(addresses[self.turn.fetch_add(1, Ordering::Relaxed) % n]),
        }
    }

    /// Looks the name up and keeps what was found; the old addresses stay when nothing was. Blocks: call it from a
    /// control thread.
    pub fn resolve(&self) -> std::io::Result<()> {
        if literal(&self.host, self.port).is_some() {
            return Ok(());
        }
        let found: Arc<[SocketAddr]> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        if !found.is_empty() {
            *self.addresses.write().unwrap_or_else(|e| e.into_inner()) = found;
        }
        Ok(())
    }
}

/// Looks up the names of all endpoints in use again. Blocks.
pub fn resolve_all() {
    let known: Vec<Arc<Endpoint>> =
        registry().lock().unwrap_or_else(|e| e.into_inner()).values().filter_map(Weak::upgrade).collect();
    for endpoint in known {
        if let Err(error) = endpoint.resolve() {
            tracing::debug!(host = endpoint.host, %error, "name not resolved; keeping the addresses known");
        }
    }
}

type Registry = Mutex<HashMap<(String, u16), Weak<Endpoint>>>;

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(Registry::default)
}

fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port))
}

/// One line of a pool's `servers`.
#[derive(Debug)]
pub struct Server {
    /// As written: what status and metrics show.
    pub url: String,
    pub endpoint: Arc<Endpoint>,
    /// Host and port as they go into a Host field.
    pub authority: String,
    /// Path inside the URL, a prefix of every request's path; without its last slash, so that "/" is empty.
    pub prefix: String,
    pub weight: u32,
    /// The client's Host is forwarded although the backend has a name (`keepHost`).
    pub keep_host: bool,
    /// The URL's host is an address: the client's Host is forwarded.
    pub is_address: bool,
}

impl Server {
    /// Takes `http://host[:port][/path]` apart. The error says what is wrong with it.
    pub fn new(url: &str, weight: u32, keep_host: bool) -> Result<Server, String> {
        let (scheme, rest) = url.split_once("://").ok_or("not a URL; write http://HOST:PORT")?;
        if scheme.eq_ignore_ascii_case("https") {
            return Err("https backends are not available in this build; use http, or a TLS sidecar".into());
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(format!("scheme {scheme} is not spoken to backends; use http"));
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let host = proto_http::message::host_of(authority);
        let port = match &authority[host.len()..] {
            "" => 80,
            port => port[1..].parse().map_err(|_| format!("port {} is not a number from 1 to 65535", &port[1..]))?,
        };
        if host.is_empty() {
            return Err("the host is missing; write http://HOST:PORT".into());
        }
        Ok(Server {
            url: url.to_owned(),
            endpoint: Endpoint::shared(host, port),
            authority: authority.to_owned(),
            prefix: path.trim_end_matches('/').to_owned(),
            weight,
            keep_host,
            is_address: literal(host, port).is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let s = Server::new("http://127.0.0.1:9095/api/", 1, false).unwrap();
        assert_eq!((s.authority.as_str(), s.prefix.as_str(), s.is_address), ("127.0.0.1:9095", "/api", true));
        assert_eq!(s.endpoint.address(), Some("127.0.0.1:9095".parse().unwrap()));
        let s = Server::new("http://[::1]:80", 1, false).unwrap();
        assert_eq!(s.endpoint.address(), Some("[::1]:80".parse().unwrap()));
        let s = Server::new("http://shop.test", 1, false).unwrap();
        assert_eq!((s.endpoint.port, s.is_address, s.endpoint.address()), (80, false, None));
        for bad in ["127.0.0.1:9095", "ftp://x", "http://", "http://x:99999"] {
            assert!(Server::new(bad, 1, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_endpoint_per_name_while_held() {
        let a = Endpoint::shared("one.test", 1);
        assert_eq!(a.id, Endpoint::shared("one.test", 1).id);
        let id = a.id;
        drop(a);
        assert_ne!(id, Endpoint::shared("one.test", 1).id);
    }
}
