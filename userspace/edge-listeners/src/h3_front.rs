//! The UDP sockets of a server that speaks HTTP/3: one for each worker, on the number of its TCP port.
//!
//! One that stops serves its connections to their end. Whoever listens at its address meanwhile takes the sockets over, and passes on
//! what comes for those connections. So does another process that takes the place of this one, over streams between the two.

use crate::accept::{self, Listener, Share, wait_for_datagrams};
use crate::h3_connection::Door;
use crate::http_server::{HttpServer, Local};
use crate::server::Sockets;
use crate::standing::{Standing, shown};
use base_model::Protocol;
use base_quic::{Beyond, Elders, Epochs, Group, QuicKeys};
use base_runtime::Worker;
use base_runtime::net::inherited::{self, Passes, SocketKind};
use base_runtime::net::udp::{UdpOptions, UdpSocket};
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Bytes the kernel is asked to hold for a socket: a burst of a hundred connections, beyond the usual 208 KiB.
const RECEIVE_BUFFER: usize = 2 * 1024 * 1024;

/// See the module doc.
#[derive(Default)]
pub struct H3Front {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The sockets, shared out among the workers in turn.
    standing: Standing<(Arc<Held>, Sockets)>,
    /// This process's ends of the streams to one that is to have the sockets, one for each.
    passes: Vec<UnixStream>,
}

/// The sockets of a front, for as long as a worker serves one of them.
struct Held {
    at: (String, u16),
    /// Of the shares.
    key: u64,
    elders: Option<Elders>,
    /// What it took the sockets over from.
    before: Vec<Elders>,
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
                share.door().let_go(Vec::new());
            }
        });
    }
    Some((sockets, held.iter().filter_map(|held| held.elders.clone()).collect()))
}

/// Whether fronts that have stopped serve still: connections, or what is passed on through this process to the one before.
pub fn is_leaving() -> bool {
    LEAVING.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|held| held.strong_count() > 0)
}

impl H3Front {
    /// Listens if it does not yet. Call it now and then: a port in use may become free.
    pub fn retry(&self, server: &Arc<HttpServer>, workers: &[Worker], address: &str, port: u16) {
        let mut state = self.lock();
        let why = |error: io::Error| {
            let shown = shown(address);
            format!(
                "http3: cannot open UDP port {shown}:{port}: {error}; free the port or set http3: false, it is tried again every 10 s"
            )
        };
        let opened = state.standing.listen(server.name(), || open(server, workers, address, port), why);
        if let Some(Ok((_, sockets))) = opened {
            tracing::info!(server = %server.name(), address = %sockets.at, "listening for HTTP/3");
            state.passes.clear();
        }
    }

    /// Takes no more connections; those that are there come to their end.
    pub fn stop(&self, workers: &[Worker]) {
        let mut state = std::mem::take(&mut *self.lock());
        if let Some((held, _)) = state.standing.take() {
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

    /// Streams for a process that is to have the sockets, in place of those there were.
    pub fn passes(&self) -> io::Result<Option<Passes>> {
        let mut state = self.lock();
        state.passes.clear();
        let Some((held, sockets)) = state.standing.get() else { return Ok(None) };
        let Some(own) = &held.elders else { return Ok(None) };
        let told = held.before.iter().fold(own.epochs(), |told, elders| told | elders.epochs()).0;
        let at = sockets.at;
        let pairs = sockets.descriptors.iter().map(|_| UnixStream::pair()).collect::<io::Result<Vec<_>>>()?;
        let (own, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        state.passes = own;
        Ok(Some(Passes { at, told, ends: theirs.into_iter().map(OwnedFd::from).collect() }))
    }

    /// Receives nothing more but what the process that has got [`passes`](H3Front::passes) passes on. `heard` and its
    /// clones are dropped when all workers know.
    pub fn let_go(&self, workers: &[Worker], heard: &Sender<()>) {
        let mut state = self.lock();
        let passes = std::mem::take(&mut state.passes);
        let Some(key) = state.standing.get().map(|(held, _)| held.key) else { return };
        drop(state);
        let mut shared_out: Vec<Vec<_>> = workers.iter().map(|_| Vec::new()).collect();
        for (nth, end) in passes.into_iter().enumerate() {
            shared_out[nth % workers.len()].push(end);
        }
        for (worker, passes) in workers.iter().zip(shared_out) {
            let heard = heard.clone();
            worker.spawn(move || async move {
                if let Some(share) = accept::by_key::<<HttpServer as Listener>::Share>(key) {
                    share.door().let_go(passes);
                }
                drop(heard);
            });
        }
    }

    fn tell(&self, workers: &[Worker], what: fn(&<HttpServer as Listener>::Share)) {
        let key = self.lock().standing.get().map(|(held, _)| held.key);
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
        self.lock().standing.get().map(|(_, sockets)| sockets.at)
    }

    /// Its sockets, when it listens.
    pub fn sockets(&self) -> Option<Sockets> {
        self.lock().standing.get().map(|(_, sockets)| sockets.clone())
    }

    /// Why it does not listen, when it was asked to.
    pub fn error(&self) -> Option<String> {
        self.lock().standing.error().map(str::to_owned)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Opens the sockets, or takes over those of a front that has stopped here, and serves them.
fn open(server: &Arc<HttpServer>, workers: &[Worker], address: &str, port: u16) -> io::Result<(Arc<Held>, Sockets)> {
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
    let (at, mut sockets, elders) = bound?;
    // Of a process with more workers there are more, all of which the kernel shares out among for as long as that has them: each
    // is served, and is a part of the group for itself.
    sockets.truncate(Group::MOST);
    let at = sockets.first().and_then(|socket| socket.local_addr().ok()).unwrap_or(at);
    let key = accept::next_key();
    let descriptors = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    let listening = Sockets { at, protocol: Protocol::Udp, descriptors };
    let keys = QuicKeys::of(server.tickets());
    let beyond = inherited::take_passes(at).map(|passes| Beyond {
        epochs: Epochs(passes.told),
        ends: passes.ends.into_iter().map(UnixStream::from).collect(),
    });
    let beyond = beyond.unwrap_or_default();
    let endpoints = Group::endpoints(sockets.len(), &keys, server.machine(), &elders, beyond);
    // Without copies nobody takes them over.
    let copies = sockets.iter().map(|socket| inherited::duplicate(socket.as_raw_fd())).collect();
    let held = Arc::new(Held {
        at: (address.to_owned(), at.port()),
        key,
        elders: endpoints.first().map(|endpoint| endpoint.elders()),
        before: elders,
        sockets: io::Result::<Vec<_>>::unwrap_or_default(copies),
    });
    let mut parts: Vec<Vec<_>> = workers.iter().map(|_| Vec::new()).collect();
    for (nth, part) in sockets.into_iter().zip(endpoints).enumerate() {
        parts[nth % workers.len()].push(part);
    }
    for (worker, parts) in workers.iter().zip(parts) {
        let (server, served) = (server.clone(), held.clone());
        worker.spawn(move || async move {
            let share = server.share();
            SERVED.with_borrow_mut(|served| {
                served.retain(|(_, share)| share.strong_count() > 0);
                served.push((key, Rc::downgrade(&share)));
            });
            <HttpServer as Listener>::Share::shares().with_borrow_mut(|shares| shares.push((key, share.clone())));
            wait_for_datagrams().await;
            for (socket, endpoint) in parts {
                let (door, served) = (Rc::new(Door { local: share.clone() }), served.clone());
                match UdpSocket::from_std(socket) {
                    Ok(socket) => base_runtime::spawn(async move {
                        let _served = served;
                        endpoint.serve(socket, door).await;
                    })
                    .detach(),
                    Err(error) => {
                        tracing::error!(server = %server.name(), "HTTP/3: a worker cannot take its socket: {error}");
                    }
                }
            }
        });
    }
    Ok((held, listening))
}
