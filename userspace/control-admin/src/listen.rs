use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::{Arc, Mutex};

use axum::Router;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;

/// The listening half of the API. It closes when the last handle is dropped.
#[derive(Clone)]
pub struct Admin {
    addresses: Vec<SocketAddr>,
    tasks: Arc<Mutex<JoinSet<()>>>,
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
            .map_err(|e| format!("--api-addr {text:?}: not an address ({e}); write HOST:PORT, e.g. localhost:2381"))?
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
    pub fn serve(listeners: Vec<TcpListener>, router: Router) -> io::Result<Admin> {
        let mut tasks = JoinSet::new();
        let mut addresses = Vec::new();
        for listener in listeners {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let address = listener.local_addr()?;
            if !address.ip().is_loopback() {
                tracing::warn!(
                    %address,
                    "the admin API is open to other machines without encryption or login; keep it on localhost, or inside \
                     a trusted network"
                );
            }
            addresses.push(address);
            tasks.spawn(accept(listener, router.clone()));
        }
        Ok(Admin { addresses, tasks: Arc::new(Mutex::new(tasks)) })
    }

    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Closes listeners and connections at once.
    pub fn shutdown(&self) {
        self.tasks.lock().expect("no code panics while it holds the tasks").abort_all();
    }
}

async fn accept(listener: tokio::net::TcpListener, router: Router) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "an admin connection could not be accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        connections.spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(hyper_util::rt::TokioTimer::new())
                .header_read_timeout(std::time::Duration::from_secs(30))
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
