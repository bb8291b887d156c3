use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use base_text::{duration, quoted};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::login::{Logins, required};

/// The listening half of the API. It closes when the last handle is dropped.
#[derive(Clone)]
pub struct Admin {
    addresses: Vec<SocketAddr>,
    encrypted: bool,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

/// Who gets in, and how. By default everybody who reaches it, without encryption.
#[derive(Clone, Default)]
pub struct Door {
    /// `--tls`.
    pub tls: Option<Arc<ServerConfig>>,
    /// `tls` asks for client certificates.
    pub client_certificates: bool,
    /// `basic-auth`.
    pub logins: Option<Logins>,
}

/// Listens on `--api-addr`: `HOST:PORT`, `:PORT` for every address, several with commas. A name is bound on all its
/// addresses, so `localhost` is reached over IPv4 and IPv6.
pub fn bind(api_addr: &str) -> Result<Vec<TcpListener>, String> {
    let mut listeners = Vec::new();
    for text in api_addr.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
        let fail = |e: io::Error| {
            format!(
                "--api-addr {text}: cannot listen: {e}; is another weir running here? choose another address or port"
            )
        };
        let addresses: Vec<SocketAddr> = full
            .to_socket_addrs()
            .map_err(|e| {
                format!(
                    "--api-addr {text}: not an address ({e}); write HOST:PORT, e.g. localhost:2381",
                    text = quoted(&text)
                )
            })?
            .collect();
        let mut bound = None;
        for mut address in addresses {
            // With port 0 all addresses of a name get the same port.
            if address.port() == 0 {
                address.set_port(bound.unwrap_or(0));
            }
            match TcpListener::bind(address) {
                Ok(listener) => {
                    bound = listener.local_addr().ok().map(|address| address.port());
                    listeners.push(listener);
                }
                // A machine without IPv6 still has a localhost; a taken port is a failure on any address.
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    tracing::debug!(%address, %error, "admin address left out");
                }
                Err(error) => return Err(fail(error)),
            }
        }
        if bound.is_none() {
            return Err(fail(io::ErrorKind::AddrNotAvailable.into()));
        }
    }
    if listeners.is_empty() {
        return Err("--api-addr is empty: write HOST:PORT, e.g. localhost:2381".into());
    }
    Ok(listeners)
}

impl Admin {
    /// Serves until [`Admin::shutdown`]. Call inside a tokio runtime.
    pub fn serve(listeners: Vec<TcpListener>, router: Router, door: Door) -> io::Result<Admin> {
        let guarded = match &door.logins {
            Some(logins) => router.layer(from_fn_with_state(logins.clone(), required)),
            None => router,
        };
        let asks = door.client_certificates || door.logins.is_some();
        let mut tasks = JoinSet::new();
        let mut addresses = Vec::new();
        for listener in listeners {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let address = listener.local_addr()?;
            let lacks = match (door.tls.is_some(), asks) {
                _ if address.ip().is_loopback() => None,
                (true, true) => None,
                (true, false) => Some("login; give --client-ca-file or basic-auth"),
                (false, true) => Some("encryption; give --tls"),
                (false, false) => Some("encryption or login; keep it on localhost, or give --tls and --client-ca-file"),
            };
            if let Some(lacks) = lacks {
                tracing::warn!(%address, "the admin API is open to other machines without {lacks}");
            }
            addresses.push(address);
            tasks.spawn(accept(listener, guarded.clone(), door.tls.clone().map(TlsAcceptor::from)));
        }
        Ok(Admin { addresses, encrypted: door.tls.is_some(), tasks: Arc::new(Mutex::new(tasks)) })
    }

    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Whether it is spoken to over TLS.
    pub fn encrypted(&self) -> bool {
        self.encrypted
    }

    /// Closes listeners and connections at once.
    pub fn shutdown(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

async fn accept(listener: tokio::net::TcpListener, router: Router, tls: Option<TlsAcceptor>) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "an admin connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let _ = stream.set_nodelay(true);
        let (router, tls) = (router.clone(), tls.clone());
        connections.spawn(async move {
            let Some(tls) = tls else { return serve(stream, router).await };
            match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                Ok(Ok(stream)) => serve(stream, router).await,
                Ok(Err(error)) => tracing::debug!(%error, "no TLS handshake on the admin API"),
                Err(_) => {
                    tracing::debug!("the TLS handshake on the admin API took longer than {}", duration(HANDSHAKE))
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) {
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
}

const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);
