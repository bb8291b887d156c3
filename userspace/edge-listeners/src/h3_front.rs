//! The UDP sockets of a server that speaks HTTP/3: one for each worker, on the number of its TCP port.
//!
//! One that stops serves its connections to their end. Whoever listens at its address meanwhile takes the sockets over, and passes on
//! what comes for those connections.

use crate::accept::{self, Listener, Share, wait_for_datagrams};
use crate::h3_connection::Door;
use crate::http_server::{HttpServer, Local};
use crate::server::Sockets;
use base_model::Protocol;
use base_quic::{Elders, Group, QuicKeys};
use base_runtime::Worker;
use base_runtime::net::inherited::{self, SocketKind};
use base_runtime::net::udp::{UdpOptions, UdpSocket};
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Bytes the kernel is asked to hold for a socket: a burst of a hundred connections, beyond the usual 208 KiB.
const RECEIVE_BUFFER: usize = 2 * 1024 * 1024;

/// See the module doc.
#[derive(Default)]
pub struct H3Front {
    state: Mutex<State>,
    /// Workers that serve a socket still.
    serving: Arc<AtomicUsize>,
}

#[derive(Default)]
struct State {
    /// The sockets in the order of the workers; `None` while there are none.
    listening: Option<(Arc<Held>, Sockets)>,
    /// Why there are none.
    error: Option<String>,
}

/// The sockets of a front, for as long as a worker serves one of them.
struct Held {
    at: (String, u16),
    /// Of the shares.
    key: u64,
    elders: Option<Elders>,
    sockets: Vec<OwnedFd>,
}

/// Of fronts that have stopped, those that stopped last behind the others.
static LEAVING: Mutex<Vec<Weak<Held>>> = Mutex::new(Vec::new());

thread_local! {
    /// Shares that are served here, by their keys: those that were stopped too.
    static SERVED: RefCell<Vec<(u64, std::rc::Weak<Local>)>> = RefCell::default();
}

/// The sockets that a front of this process has left here, with all whose connections live on over them. They receive nothing more.
fn take_over(address: &str, port: u16, workers: &[Worker]) -> Option<(Vec<std::net::UdpSocket>, Vec<Elders>)> {
    let held: Vec<Arc<Held>> = {
        let mut leaving = LEAVING.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|held| held.strong_count() > 0);
        let here = leaving.iter().filter_map(Weak::upgrade).filter(|held| held.at.0 == address && held.at.1 == port);
        here.collect()
    };
    let copy = |socket: &OwnedFd| inherited::duplicate(socket.as_raw_fd()).map(std::net::UdpSocket::from);
    let sockets = held.last()?.sockets.iter().map(copy).collect::<io::Result<Vec<_>>>().ok()?;
    if sockets.is_empty() {
        return None;
    }
    for (worker, key) in workers.iter().flat_map(|worker| held.iter().map(move |held| (worker, held.key))) {
        worker.spawn(move || async move {
            let served =
                SERVED.with_borrow(|served| served.iter().find(|(its, _)| *its == key).map(|(_, s)| s.clone()));
            if let Some(share) = served.and_then(|share| share.upgrade()) {
                share.door().let_go();
            }
        });
    }
    Some((sockets, held.iter().filter_map(|held| held.elders.clone()).collect()))
}

impl H3Front {
    /// Listens if it does not yet. Call it now and then: a port in use may become free.
    pub fn retry(&self, server: &Arc<HttpServer>, workers: &[Worker], address: &str, port: u16) {
        let mut state = self.lock();
        if state.listening.is_some() {
            return;
        }
        let options = UdpOptions { dont_fragment: true, receive_buffer: Some(RECEIVE_BUFFER), ..UdpOptions::default() };
        let shared = UdpOptions { reuse_port: true, ..options.clone() };
        let adopt = |socket: OwnedFd| Ok(socket.into());
        let bound = accept::bind_each(
            address,
            port,
            workers.len(),
            SocketKind::Datagram,
            adopt,
            |at| options.bind(at).map(drop),
            |at| shared.bind(at),
        );
        let bound = match bound {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => match take_over(address, port, workers) {
                Some((sockets, elders)) => Ok((SocketAddr::from(([0, 0, 0, 0], port)), sockets, elders)),
                None => Err(error),
            },
            bound => bound.map(|(at, sockets)| (at, sockets, Vec::new())),
        };
        match bound {
            Ok((at, mut sockets, elders)) => {
                // Each worker's part of the group has one; the kernel shares out among those that are left.
                sockets.truncate(workers.len());
                let at = sockets.first().and_then(|socket| socket.local_addr().ok()).unwrap_or(at);
                let key = accept::next_key();
                let descriptors = sockets.iter().map(AsRawFd::as_raw_fd).collect();
                let listening = Sockets { at, protocol: Protocol::Udp, descriptors };
                let keys = QuicKeys::of(server.tickets());
                let endpoints = Group::endpoints(workers.len(), &keys, server.machine(), &elders);
                // Without copies nobody takes them over.
                let copies = sockets.iter().map(|socket| inherited::duplicate(socket.as_raw_fd())).collect();
                let held = Arc::new(Held {
                    at: (address.to_owned(), at.port()),
                    key,
                    elders: endpoints.first().map(|endpoint| endpoint.elders()),
                    sockets: io::Result::<Vec<_>>::unwrap_or_default(copies),
                });
                for ((worker, socket), endpoint) in workers.iter().zip(sockets).zip(endpoints) {
                    let (server, serving) = (server.clone(), Serving::begin(&self.serving));
                    let served = held.clone();
                    worker.spawn(move || async move {
                        let _serving = (serving, served);
                        let share = server.share();
                        SERVED.with_borrow_mut(|served| {
                            served.retain(|(_, share)| share.strong_count() > 0);
                            served.push((key, Rc::downgrade(&share)));
                        });
                        <HttpServer as Listener>::Share::shares()
                            .with_borrow_mut(|shares| shares.push((key, share.clone())));
                        wait_for_datagrams().await;
                        match UdpSocket::from_std(socket) {
                            Ok(socket) => endpoint.serve(socket, Rc::new(Door { local: share })).await,
                            Err(error) => {
                                tracing::error!(server = %server.name(), "HTTP/3: a worker cannot take its socket: {error}");
                            }
                        }
                    });
                }
                tracing::info!(server = %server.name(), address = %at, "listening for HTTP/3");
                *state = State { listening: Some((held, listening)), error: None };
            }
            Err(error) => {
                let shown = if address.is_empty() { "*" } else { address };
                let text = format!(
                    "http3: cannot open UDP port {shown}:{port}: {error}; free the port or set http3: false, it is tried again \
                     every 10 s"
                );
                if state.error.as_ref() != Some(&text) {
                    tracing::error!(server = %server.name(), "{text}");
                }
                state.error = Some(text);
            }
        }
    }

    /// Takes no more connections; those that are there come to their end.
    pub fn stop(&self, workers: &[Worker]) {
        let state = std::mem::take(&mut *self.lock());
        if let Some((held, _)) = state.listening {
            let mut leaving = LEAVING.lock().unwrap_or_else(PoisonError::into_inner);
            leaving.retain(|held| held.strong_count() > 0);
            leaving.push(Arc::downgrade(&held));
            drop(leaving);
            accept::close::<HttpServer>(workers, held.key);
        }
    }

    /// Takes no more connections, for another process is to have the sockets. Those that are there are told to come to their end.
    pub fn release(&self, workers: &[Worker]) {
        self.tell(workers, |share| {
            share.door().close();
            share.stop();
        });
    }

    /// Receives nothing more, whatever connections are there.
    pub fn let_go(&self, workers: &[Worker]) {
        self.tell(workers, |share| share.door().let_go());
    }

    /// Whether any worker serves still.
    pub fn serves(&self) -> bool {
        self.serving.load(Ordering::Acquire) > 0
    }

    fn tell(&self, workers: &[Worker], what: fn(&<HttpServer as Listener>::Share)) {
        let key = self.lock().listening.as_ref().map(|(held, _)| held.key);
        let Some(key) = key else { return };
        for worker in workers {
            worker.spawn(move || async move {
                if let Some(share) = accept::by_key::<<HttpServer as Listener>::Share>(key) {
                    what(&share);
                }
            });
        }
    }

    /// The address, when it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.lock().listening.as_ref().map(|(_, sockets)| sockets.at)
    }

    /// Its sockets, when it listens.
    pub fn sockets(&self) -> Option<Sockets> {
        self.lock().listening.as_ref().map(|(_, sockets)| sockets.clone())
    }

    /// Why it does not listen, when it was asked to.
    pub fn error(&self) -> Option<String> {
        self.lock().error.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A worker that serves, counted until it is dropped.
struct Serving(Arc<AtomicUsize>);

impl Serving {
    fn begin(count: &Arc<AtomicUsize>) -> Serving {
        count.fetch_add(1, Ordering::AcqRel);
        Serving(count.clone())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
