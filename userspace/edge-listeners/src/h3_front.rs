//! The UDP sockets of a server that speaks HTTP/3: one for each worker, on the number of its TCP port.
//!
//! One that stops serves its connections to their end. Whoever listens at its address meanwhile takes the sockets over, and passes on
//! what comes for those connections. So does another process that takes the place of this one, over streams between the two.

use crate::accept::{self, Listener, Share, wait_for_datagrams};
use crate::datagram_sockets::{self, Held, Leaving};
use crate::h3_connection::Door;
use crate::http_server::{HttpServer, Local};
use crate::server::Sockets;
use crate::standing::{Standing, shown};
use base_quic::{Beyond, Elders, Epochs, Group, QuicKeys};
use base_runtime::Worker;
use base_runtime::net::inherited::{self, Passes};
use base_runtime::net::udp::{UdpOptions, UdpSocket};
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};

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
    standing: Standing<(Arc<Held<Served>>, Sockets)>,
    /// This process's ends of the streams to one that is to have the sockets, one for each.
    passes: Vec<UnixStream>,
}

/// Of a front whose sockets these are.
struct Served {
    elders: Option<Elders>,
    /// What it took the sockets over from.
    before: Vec<Elders>,
}

static LEAVING: Leaving<Served> = Leaving::new();

thread_local! {
    /// Shares that are served here, by their keys: those that were stopped too.
    static SERVED: RefCell<Vec<(u64, std::rc::Weak<Local>)>> = RefCell::default();
}

/// Fronts that have stopped receive nothing more: their connections live on over what is passed on to them.
fn let_go(workers: &[Worker], before: &[Arc<Held<Served>>]) {
    for (worker, key) in workers.iter().flat_map(|worker| before.iter().map(move |held| (worker, held.key))) {
        worker.spawn(move || async move {
            let served =
                SERVED.with_borrow(|served| served.iter().find(|(its, _)| *its == key).map(|(_, s)| s.clone()));
            if let Some(share) = served.and_then(|share| share.upgrade()) {
                share.door().let_go(Vec::new());
            }
        });
    }
}

/// Whether fronts that have stopped serve still: connections, or what is passed on through this process to the one before.
pub fn is_leaving() -> bool {
    !LEAVING.is_empty()
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
            LEAVING.push(&held);
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
        let Some(own) = &held.of.elders else { return Ok(None) };
        let told = held.of.before.iter().fold(own.epochs(), |told, elders| told | elders.epochs()).0;
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
fn open(
    server: &Arc<HttpServer>,
    workers: &[Worker],
    address: &str,
    port: u16,
) -> io::Result<(Arc<Held<Served>>, Sockets)> {
    let options = UdpOptions { dont_fragment: true, receive_buffer: Some(RECEIVE_BUFFER), ..UdpOptions::default() };
    // Where there are more than workers, the kernel shares out among all for as long as the process before has them: each is served, and
    // is a part of the group for itself.
    let opened = datagram_sockets::open(&options, (address, port), workers.len(), Group::MOST, &LEAVING)?;
    let_go(workers, &opened.before);
    let before: Vec<Elders> = opened.before.iter().filter_map(|held| held.of.elders.clone()).collect();
    let (key, at) = (accept::next_key(), opened.sockets.at);
    let keys = QuicKeys::of(server.tickets());
    let beyond = inherited::take_passes(at).map(|passes| Beyond {
        epochs: Epochs(passes.told),
        ends: passes.ends.into_iter().map(UnixStream::from).collect(),
    });
    let beyond = beyond.unwrap_or_default();
    let endpoints = Group::endpoints(opened.bound.len(), &keys, server.machine(), &before, beyond);
    let served = Served { elders: endpoints.first().map(|endpoint| endpoint.elders()), before };
    let held = Held::new((address, at.port()), key, served, &opened.bound);
    let mut parts: Vec<Vec<_>> = workers.iter().map(|_| Vec::new()).collect();
    for (nth, part) in opened.bound.into_iter().zip(endpoints).enumerate() {
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
    Ok((held, opened.sockets))
}
