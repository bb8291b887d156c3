//! The UDP sockets of a server, one for each worker, and what becomes of them when it stops: whom it has served it goes on serving over them,
//! until another one listens at its address. That takes them over, and receives what comes from then on.

use crate::accept::bind_each;
use crate::server::Sockets;
use base_model::Protocol;
use base_runtime::net::OwnPort;
use base_runtime::net::inherited::{self, SocketKind};
use base_runtime::net::udp::UdpOptions;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Kept for as long as a worker serves one of them. `T`: what else is to be known of who has stopped.
pub(crate) struct Held<T> {
    /// As the document says.
    at: (String, u16),
    pub key: u64,
    pub of: T,
    copies: Vec<OwnedFd>,
    _own: Option<OwnPort>,
}

impl<T> Held<T> {
    pub fn new(at: (&str, u16), key: u64, of: T, bound: &[UdpSocket]) -> Arc<Held<T>> {
        // Without copies nobody takes them over.
        let copies = bound.iter().map(|socket| inherited::duplicate(socket.as_raw_fd())).collect::<io::Result<_>>();
        let own = bound.first().and_then(|socket| socket.local_addr().ok()).map(|at| OwnPort::note_udp(at.port()));
        Arc::new(Held { at: (at.0.to_owned(), at.1), key, of, copies: copies.unwrap_or_default(), _own: own })
    }
}

/// Sockets, and who has stopped and has them as well.
type TakenOver<T> = (Vec<UdpSocket>, Vec<Arc<Held<T>>>);

/// Those that have stopped, who stopped last behind the others.
pub(crate) struct Leaving<T>(Mutex<Vec<Weak<Held<T>>>>);

impl<T> Leaving<T> {
    pub const fn new() -> Leaving<T> {
        Leaving(Mutex::new(Vec::new()))
    }

    pub fn push(&self, held: &Arc<Held<T>>) {
        self.lock().push(Arc::downgrade(held));
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Of who has stopped at an address and serves still: copies of the sockets of the last one, and all of them.
    fn take_over(&self, at: (&str, u16)) -> Option<TakenOver<T>> {
        let held: Vec<_> = self.lock().iter().filter_map(Weak::upgrade).collect();
        let here: Vec<_> = held.into_iter().filter(|held| (held.at.0.as_str(), held.at.1) == at).collect();
        let copy = |socket: &OwnedFd| inherited::duplicate(socket.as_raw_fd()).map(UdpSocket::from);
        let copies = here.last()?.copies.iter().map(copy).collect::<io::Result<Vec<_>>>().ok()?;
        (!copies.is_empty()).then_some((copies, here))
    }

    /// Without those that serve nobody any more.
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Held<T>>>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|held| held.strong_count() > 0);
        all
    }
}

/// Sockets that are open.
pub(crate) struct Opened<T> {
    pub bound: Vec<UdpSocket>,
    pub sockets: Sockets,
    /// Who has stopped and has them as well.
    pub before: Vec<Arc<Held<T>>>,
}

/// Opens one for each worker, or takes over those of who has stopped here. Of a process with more workers there are more, up to `most`.
pub(crate) fn open<T>(
    options: &UdpOptions,
    (address, port): (&str, u16),
    workers: usize,
    most: usize,
    leaving: &Leaving<T>,
) -> io::Result<Opened<T>> {
    let shared = UdpOptions { reuse_port: true, ..options.clone() };
    let adopt = |socket: OwnedFd| Ok(UdpSocket::from(socket));
    let (probe, bind) = (|at| options.bind(at).map(drop), |at| shared.bind(at));
    let (mut bound, before) = match bind_each(address, port, workers, SocketKind::Datagram, adopt, probe, bind) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => leaving.take_over((address, port)).ok_or(error)?,
        bound => (bound?.1, Vec::new()),
    };
    bound.truncate(most);
    let at = bound.first().map_or(Err(io::ErrorKind::AddrNotAvailable.into()), UdpSocket::local_addr)?;
    let descriptors = bound.iter().map(AsRawFd::as_raw_fd).collect();
    Ok(Opened { bound, sockets: Sockets { at, protocol: Protocol::Udp, descriptors }, before })
}
