use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use base_text::{Seldom, duration, quoted};
use control_api::certificates;
use control_api::tls::{ServerTls, Watch};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::access::Origin;
use crate::login::{Logins, required};
use crate::names::{Names, known};
use crate::watch::Ending;

/// The listening half of the API. It closes when the last handle is dropped.
#[derive(Clone)]
pub struct Admin {
    addresses: Vec<SocketAddr>,
    encrypted: bool,
    tasks: Arc<Mutex<JoinSet<()>>>,
    /// Sent to when connections are to come to their end.
    ending: Arc<watch::Sender<bool>>,
}

/// Who gets in, and how. By default everybody who reaches it, without encryption.
#[derive(Clone, Default)]
pub struct Door {
    /// `--tls`.
    pub tls: Option<ServerTls>,
    /// `tls` asks for client certificates.
    pub client_certificates: bool,
    /// `basic-auth`.
    pub logins: Option<Logins>,
    /// `--insecure-api`: other machines get in without a login.
    pub insecure: bool,
    /// Names it is reached by beside `localhost`, its addresses and this machine's own name.
    pub names: Vec<String>,
}

impl Door {
    /// It asks who comes in.
    fn asks(&self) -> bool {
        self.client_certificates || self.logins.is_some()
    }
}

/// Refuses an address that other machines reach, where nobody would be asked who they are. `address` is as `--api-addr` has it.
pub fn check_open(api_addr: &str, asks: bool, insecure: bool) -> Result<(), String> {
    if asks || insecure {
        return Ok(());
    }
    for text in api_addr.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
        // What is no address is told when it is to be listened on.
        let mut addresses = full.to_socket_addrs().into_iter().flatten();
        if addresses.any(|address| !address.ip().to_canonical().is_loopback()) {
            return Err(open(text));
        }
    }
    Ok(())
}

fn open(address: &str) -> String {
    format!(
        "--api-addr {address}: everybody who reaches this address could read and change the configuration: keep it on \
         localhost:2381; or give --tls with --cert-file and --key-file, and --client-ca-file or basic-auth (a key of the \
         --config-file) to say who gets in; on a network that operators alone reach, --insecure-api"
    )
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
        let asks = door.asks();
        let guarded = match &door.logins {
            Some(logins) => router.layer(from_fn_with_state(logins.clone(), required)),
            // Whoever has to show something is no page that was pointed here under another name.
            None if asks || door.tls.is_some() => router,
            None => router.layer(from_fn_with_state(Names::new(&door.names), known)),
        };
        let (ending, ended) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut addresses = Vec::new();
        for listener in listeners {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let address = listener.local_addr()?;
            if !address.ip().to_canonical().is_loopback() {
                match (door.tls.is_some(), asks) {
                    _ if !asks && !door.insecure => return Err(io::Error::other(open(&address.to_string()))),
                    (true, true) => {}
                    (false, true) => {
                        tracing::warn!(%address, "passwords for the admin API travel without encryption; give --tls")
                    }
                    (_, false) => {
                        tracing::warn!(%address, "--insecure-api: the admin API is open to other machines without a login")
                    }
                }
            }
            addresses.push(address);
            tasks.spawn(accept(listener, guarded.clone(), door.tls.clone(), ended.clone()));
        }
        if let Some(tls) = door.tls.clone() {
            tasks.spawn(follow(tls));
        }
        let tasks = Arc::new(Mutex::new(tasks));
        Ok(Admin { addresses, encrypted: door.tls.is_some(), tasks, ending: Arc::new(ending) })
    }

    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Whether it is spoken to over TLS.
    pub fn encrypted(&self) -> bool {
        self.encrypted
    }

    /// Accepts nothing more and answers what has been asked, within `patience`; then it is as after [`shutdown`](Admin::shutdown).
    pub async fn finish(&self, patience: Duration) {
        let _ = self.ending.send(true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        // The tasks that follow files never end by themselves.
        let _ = tokio::time::timeout(patience, self.ending.closed()).await;
        tasks.shutdown().await;
    }

    /// Closes listeners and connections at once.
    pub fn shutdown(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

/// Takes the files of the certificate as they change.
async fn follow(tls: ServerTls) {
    let mut watch = Watch::new("--cert-file");
    loop {
        tokio::time::sleep(LOOKED_AT).await;
        watch.look(&tls);
    }
}

async fn accept(
    listener: tokio::net::TcpListener,
    router: Router,
    tls: Option<ServerTls>,
    mut ending: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let mut told = Seldom::once_in(TELL);
    loop {
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if told.is_due() {
                        tracing::warn!(%error, "an admin connection could not be accepted; it is tried again");
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
            _ = ending.changed() => break,
        };
        let _ = stream.set_nodelay(true);
        let (router, tls) = (router.clone(), tls.as_ref().map(|tls| TlsAcceptor::from(tls.config())));
        let ending = ending.clone();
        connections.spawn(async move {
            let mut origin = Origin { address: from.ip(), subject: None };
            let Some(tls) = tls else { return serve(stream, router, origin, ending).await };
            match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                    origin.subject = shown.and_then(|shown| certificates::subject(shown)).map(Arc::from);
                    serve(stream, router, origin, ending).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "no TLS handshake on the admin API"),
                Err(_) => {
                    tracing::debug!("the TLS handshake on the admin API took longer than {}", duration(HANDSHAKE))
                }
            }
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    origin: Origin,
    mut ending: watch::Receiver<bool>,
) {
    let router = TowerToHyperService::new(router);
    let told = Ending(ending.clone());
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(origin.clone());
        request.extensions_mut().insert(told.clone());
        router.call(request)
    });
    let mut serving = pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(hyper_util::rt::TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ends = async {
        let _ = ending.wait_for(|ends| *ends).await;
    };
    tokio::select! {
        _ = serving.as_mut() => return,
        () = ends => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = serving.await;
}

/// Between two lines in the log about connections that cannot be accepted.
const TELL: Duration = Duration::from_secs(60);
const LOOKED_AT: Duration = Duration::from_secs(1);
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);
