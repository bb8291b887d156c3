//! Sockets that the process before this one listened on, and hands over so that nobody who comes meanwhile is refused.
//!
//! They wait here until a listener asks for those of its address, in place of new ones. What nobody asks for is closed in the end. Those
//! of UDP are read by one process at a time: [`datagrams_are_ours`] tells when the turn has come. Where the other one has connections
//! over them still, there are streams beside them over which it is passed what is for those.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::address::socket_address;
use super::check;

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    /// Connections of TCP.
    Stream,
    /// Datagrams of UDP.
    Datagram,
}

struct Waiting {
    kind: SocketKind,
    at: SocketAddr,
    socket: OwnedFd,
}

/// Streams to the process before.
pub struct Passes {
    /// Of the sockets they belong to, in whose order they are.
    pub at: SocketAddr,
    /// What is to go over them; whoever listens knows the meaning.
    pub told: u32,
    pub ends: Vec<OwnedFd>,
}

static PASSES: Mutex<Vec<Passes>> = Mutex::new(Vec::new());

static WAITING: Mutex<Vec<Waiting>> = Mutex::new(Vec::new());

/// The process before reads the datagrams still.
static DATAGRAMS_ARE_ANOTHERS: AtomicBool = AtomicBool::new(false);

/// Keeps a socket for whoever listens at its address. One that has none is closed.
pub fn keep(kind: SocketKind, socket: OwnedFd) -> io::Result<()> {
    let at = socket_address(socket.as_raw_fd(), libc::getsockname)?;
    waiting().push(Waiting { kind, at, socket });
    Ok(())
}

/// The sockets at exactly this address, in the order they were kept.
pub fn take(kind: SocketKind, at: SocketAddr) -> Vec<OwnedFd> {
    let mut waiting = waiting();
    let (taken, left) = waiting.drain(..).partition(|one| one.kind == kind && one.at == at);
    *waiting = left;
    taken.into_iter().map(|one| one.socket).collect()
}

/// Keeps streams for whoever takes the sockets at their address; they may come in several parts.
pub fn keep_passes(passes: Passes) {
    let mut kept = PASSES.lock().unwrap_or_else(PoisonError::into_inner);
    match kept.iter_mut().find(|one| one.at == passes.at) {
        Some(known) => known.ends.extend(passes.ends),
        None => kept.push(passes),
    }
}

/// Those of exactly this address.
pub fn take_passes(at: SocketAddr) -> Option<Passes> {
    let mut kept = PASSES.lock().unwrap_or_else(PoisonError::into_inner);
    let at = kept.iter().position(|one| one.at == at)?;
    Some(kept.swap_remove(at))
}

/// Closes what nobody has asked for, and says how many those were.
pub fn close_rest() -> usize {
    PASSES.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let rest = std::mem::take(&mut *waiting());
    rest.len()
}

/// Says whether the process before still reads what comes to the sockets of UDP.
pub fn datagrams_are_anothers(yes: bool) {
    DATAGRAMS_ARE_ANOTHERS.store(yes, Ordering::Release);
}

/// Whether this process may read what comes to sockets of UDP that it has from another.
pub fn datagrams_are_ours() -> bool {
    !DATAGRAMS_ARE_ANOTHERS.load(Ordering::Acquire)
}

/// Another descriptor of an open socket, which is closed in programs that this one starts. The socket has to stay open during the
/// call: whoever may close it must be at rest.
pub fn duplicate(socket: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the caller's socket is open; should it be none the call fails with EBADF and touches nothing.
    let copy = check(unsafe { libc::fcntl(socket, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the descriptor was just made.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Whether the descriptor is a socket of this family, such as another process may have left in the place of a standard stream.
pub fn is_unix_socket(descriptor: BorrowedFd<'_>) -> bool {
    let mut family: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and length live through the call and belong together.
    let asked = unsafe {
        let value = (&raw mut family).cast();
        libc::getsockopt(descriptor.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_DOMAIN, value, &raw mut length)
    };
    asked == 0 && family == libc::AF_UNIX
}

fn waiting() -> MutexGuard<'static, Vec<Waiting>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn sockets_are_found_by_their_address_and_kind() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let client = TcpStream::connect(at).unwrap();
        keep(SocketKind::Stream, duplicate(listener.as_raw_fd()).unwrap()).unwrap();
        drop(listener);
        assert!(take(SocketKind::Datagram, at).is_empty());
        let mut found = take(SocketKind::Stream, at);
        assert_eq!(found.len(), 1);
        // Who came before is still in the queue.
        let again = TcpListener::from(found.remove(0));
        assert_eq!(again.accept().unwrap().1, client.local_addr().unwrap());
        assert!(take(SocketKind::Stream, at).is_empty());
    }

    #[test]
    fn a_socket_of_another_family_is_told_from_a_unix_one() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (unix, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
        assert!(is_unix_socket(unix.as_fd()) && !is_unix_socket(udp.as_fd()));
    }
}
