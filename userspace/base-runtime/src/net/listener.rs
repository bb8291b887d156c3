//! Listening sockets, TCP and Unix.
//!
//! Running out of descriptors or memory is not reported but waited out, 20 ms at a time: whoever frees a descriptor meanwhile lets the
//! next client in. A client must not wait for ever, though, when none is freed. So after a second of it each worker gives up its
//! spare descriptor for a moment, with which those that wait are accepted and closed, and can turn to another machine. The last
//! descriptors are set aside for what is no traffic ([`pressure`](crate::pressure)): they count as none.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use super::address::{Address, socket_address};
use super::own::OwnPort;
use super::socket::{self, Listener, Op, ReceiveEnd, SlotKey, Socket, error_of};
use super::{TcpStream, check, new_socket, set_nonblocking, set_option};
use crate::IoKind;
use crate::context::{self, Context};
use crate::driver::Driver;
use crate::executor::poll_share;
use crate::pressure;
use crate::runtime::{Shared, close_remotely};

/// How a listening socket is made.
#[derive(Debug, Clone)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn. Default 4,096.
    pub backlog: u32,
    /// Several sockets share the address, one per worker, and the kernel spreads connections over them. Default false.
    pub reuse_port: bool,
    /// Take the address although old connections linger on it. Default true.
    pub reuse_address: bool,
    /// `[::]` serves IPv6 alone. Default false: it serves IPv4 as well.
    pub v6_only: bool,
    /// Bind addresses this machine does not (yet) have, as virtual ones. Default false.
    pub free_bind: bool,
    /// Send small writes at once (TCP_NODELAY); accepted connections inherit it. Default true.
    pub nodelay: bool,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions {
            backlog: 4096,
            reuse_port: false,
            reuse_address: true,
            v6_only: false,
            free_bind: false,
            nodelay: true,
        }
    }
}

/// A listening socket. It may be bound on any thread and moved to the worker that is to accept from it; the first poll of `accept`
/// ties it to that worker.
pub struct TcpListener {
    acceptor: Acceptor,
    local_addr: SocketAddr,
    _own: OwnPort,
}

impl TcpListener {
    pub fn bind(address: SocketAddr, options: ListenOptions) -> io::Result<TcpListener> {
        let fd = TcpListener::bound(address, &options)?;
        listen(fd.as_raw_fd(), options.backlog)?;
        let local_addr = socket_address(fd.as_raw_fd(), libc::getsockname)?;
        Ok(TcpListener { acceptor: Acceptor::new(fd), local_addr, _own: OwnPort::note(local_addr.port()) })
    }

    /// Finds out whether somebody else listens there, with a socket that shares its address with nobody. It does not listen itself: who
    /// connected in that moment would be let in, and reset.
    pub fn is_free(address: SocketAddr) -> io::Result<()> {
        TcpListener::bound(address, &ListenOptions::default()).map(drop)
    }

    fn bound(address: SocketAddr, options: &ListenOptions) -> io::Result<OwnedFd> {
        let fd = new_socket(if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }, libc::SOCK_STREAM)?;
        let raw = fd.as_raw_fd();
        if options.reuse_address {
            set_option(raw, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        }
        if options.reuse_port {
            set_option(raw, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        if address.is_ipv6() {
            set_option(raw, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, i32::from(options.v6_only))?;
        }
        if options.free_bind {
            set_option(raw, libc::IPPROTO_IP, libc::IP_FREEBIND, 1)?;
        }
        if options.nodelay {
            set_option(raw, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        }
        bind(raw, &Address::from(&address))?;
        Ok(fd)
    }

    /// Takes over a listener made elsewhere, for example one inherited from the process before. Sets TCP_NODELAY on it.
    pub fn from_std(listener: std::net::TcpListener) -> TcpListener {
        let fd = OwnedFd::from(listener);
        // A Unix or odd descriptor cannot come out of std's type; a refusal would cost latency only.
        let _ = set_option(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
        let unspecified = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let local_addr = socket_address(fd.as_raw_fd(), libc::getsockname).unwrap_or(unspecified);
        TcpListener { acceptor: Acceptor::new(fd), local_addr, _own: OwnPort::note(local_addr.port()) }
    }

    /// The address bound, with the port the kernel chose if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The next connection. Running out of descriptors or memory is counted and waited out, not reported.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    pub fn poll_accept(&self, task: &mut TaskContext<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        context::with(|cx| {
            loop {
                let next = ready!(self.acceptor.poll_accept(cx, task))?;
                if let Some(connection) = connection(cx, next) {
                    return Poll::Ready(Ok(connection));
                }
            }
        })
    }

    /// Accepts nothing more, and gives out what the kernel has handed over already; `None` when that was all. Whoever still waits there
    /// is left to another process that listens on this socket.
    pub fn poll_rest(&self, task: &mut TaskContext<'_>) -> Poll<Option<(TcpStream, SocketAddr)>> {
        context::with(|cx| {
            loop {
                match ready!(self.acceptor.poll_rest(cx, task)) {
                    None => return Poll::Ready(None),
                    Some(next) => {
                        if let Some(connection) = connection(cx, next) {
                            return Poll::Ready(Some(connection));
                        }
                    }
                }
            }
        })
    }
}

impl AsRawFd for TcpListener {
    fn as_raw_fd(&self) -> RawFd {
        self.acceptor.fd
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpListener").field("local_addr", &self.local_addr).finish()
    }
}

/// A listening Unix stream socket. As with [`TcpListener`], the first poll of `accept` ties it to a worker.
pub struct UnixListener {
    acceptor: Acceptor,
    path: PathBuf,
}

impl UnixListener {
    /// Binds `path`. A socket a process left there that no longer listens is replaced; anything else is in use. The file stays when
    /// the listener is dropped, since the next process may be listening on it by then.
    pub fn bind(path: impl Into<PathBuf>, backlog: u32) -> io::Result<UnixListener> {
        let path = path.into();
        let address = Address::of_path(&path)?;
        let fd = new_socket(libc::AF_UNIX, libc::SOCK_STREAM)?;
        let raw = fd.as_raw_fd();
        match bind(raw, &address).and_then(|()| listen(raw, backlog)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(&path) => {
                std::fs::remove_file(&path)?;
                bind(raw, &address).and_then(|()| listen(raw, backlog))?;
            }
            result => result?,
        }
        Ok(UnixListener { acceptor: Acceptor::new(fd), path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection; see [`TcpListener::accept`].
    pub async fn accept(&self) -> io::Result<TcpStream> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    pub fn poll_accept(&self, task: &mut TaskContext<'_>) -> Poll<io::Result<TcpStream>> {
        context::with(|cx| {
            loop {
                let (fd, _) = ready!(self.acceptor.poll_accept(cx, task))?;
                if let Some(stream) = join(cx, fd) {
                    return Poll::Ready(Ok(stream));
                }
            }
        })
    }
}

impl AsRawFd for UnixListener {
    fn as_raw_fd(&self) -> RawFd {
        self.acceptor.fd
    }
}

impl fmt::Debug for UnixListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixListener").field("path", &self.path).finish()
    }
}

/// A socket on which nobody listens is at `path`. Connecting to a plain file is refused as well.
fn is_stale(path: &Path) -> bool {
    if !std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        return false;
    }
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    std::os::unix::net::UnixStream::connect(path).is_err_and(refused)
}

fn bind(fd: RawFd, address: &Address) -> io::Result<()> {
    // SAFETY: the address and its length belong together, the descriptor is open.
    check(unsafe { libc::bind(fd, address.as_ptr(), address.length()) })?;
    Ok(())
}

fn listen(fd: RawFd, backlog: u32) -> io::Result<()> {
    // SAFETY: a plain system call on an open descriptor.
    check(unsafe { libc::listen(fd, backlog.min(i32::MAX as u32) as i32) })?;
    Ok(())
}

/// What was accepted, as a connection of this worker.
fn connection(cx: &Context, (fd, peer): (RawFd, Option<SocketAddr>)) -> Option<(TcpStream, SocketAddr)> {
    // A peer that reset the connection before it was accepted has no address any more.
    match peer.map_or_else(|| socket_address(fd, libc::getpeername), Ok) {
        Ok(peer) => join(cx, fd).map(|stream| (stream, peer)),
        Err(_) => {
            socket::close_fd(fd);
            None
        }
    }
}

/// Makes an accepted descriptor a connection of this worker.
fn join(cx: &Context, fd: RawFd) -> Option<TcpStream> {
    cx.shared.counters.accepted.add(1);
    match TcpStream::adopt(cx, fd) {
        Ok(stream) => Some(stream),
        Err(error) => {
            tracing::warn!(%error, "an accepted connection could not be registered");
            None
        }
    }
}

/// What accepts, whatever the family.
struct Acceptor {
    fd: RawFd,
    home: OnceLock<Home>,
}

/// Where a listener became active. From then on the descriptor belongs to that worker's table.
struct Home {
    worker: Arc<Shared>,
    key: SlotKey,
}

impl Acceptor {
    fn new(fd: OwnedFd) -> Acceptor {
        Acceptor { fd: fd.into_raw_fd(), home: OnceLock::new() }
    }

    /// The next descriptor, and whose it is where accepting told.
    fn poll_accept(&self, cx: &Context, task: &mut TaskContext<'_>) -> Poll<io::Result<(RawFd, Option<SocketAddr>)>> {
        let socket = self.activate(cx)?;
        let Some(listener) = &socket.listener else { return Poll::Ready(Err(error_of(libc::EINVAL))) };
        loop {
            if !listener.accepted.borrow().is_empty() {
                ready!(poll_share(task));
            }
            let next = listener.accepted.borrow_mut().pop_front();
            if let Some(next) = next {
                self.resume(cx, &socket, listener, task);
                return Poll::Ready(Ok(next));
            }
            if let ReceiveEnd::Error(errno) = socket.rx_end.get() {
                return Poll::Ready(Err(error_of(errno)));
            }
            socket.rx_waker.register(&cx.shared, task);
            self.resume(cx, &socket, listener, task);
            if listener.accepted.borrow().is_empty() {
                return Poll::Pending;
            }
        }
    }

    fn poll_rest(&self, cx: &Context, task: &mut TaskContext<'_>) -> Poll<Option<(RawFd, Option<SocketAddr>)>> {
        let Ok(socket) = self.activate(cx) else { return Poll::Ready(None) };
        let Some(listener) = &socket.listener else { return Poll::Ready(None) };
        if !listener.ended.replace(true) {
            cx.driver.stop_recv(cx, &socket);
        }
        if let Some(next) = listener.accepted.borrow_mut().pop_front() {
            return Poll::Ready(Some(next));
        }
        if socket.rx_op.get() == Op::Idle {
            return Poll::Ready(None);
        }
        socket.rx_waker.register(&cx.shared, task);
        Poll::Pending
    }

    /// Goes on accepting unless a pause is due.
    fn resume(&self, cx: &Context, socket: &Rc<Socket>, listener: &Listener, task: &mut TaskContext<'_>) {
        if listener.exhausted.get() {
            if listener.backoff.poll_expired(task).is_pending() {
                return;
            }
            listener.backoff.clear();
            let is_long = listener.exhausted_since.get().is_some_and(|since| cx.now.get() - since >= SHED_AFTER);
            if is_long {
                shed(cx, self.fd);
            }
            // What is set aside is not taken away from it one by one.
            if next_descriptor(self.fd).is_some_and(pressure::pauses_at) {
                cx.shared.counters.emfile.add(1);
                listener.backoff.set_after(ACCEPT_BACKOFF);
                let _ = listener.backoff.poll_expired(task);
                return;
            }
            listener.exhausted.set(false);
        }
        let ended = listener.ended.get();
        if !ended && socket.rx_op.get() == Op::Idle && listener.accepted.borrow().len() < ACCEPTED_MAX {
            cx.driver.accept(cx, socket);
        }
    }

    fn activate(&self, cx: &Context) -> io::Result<Rc<Socket>> {
        let home = self.home.get_or_init(|| {
            set_nonblocking(self.fd, cx.driver.kind() == IoKind::Epoll);
            let socket = cx.sockets.insert(Socket::new(self.fd, Some(Box::default())), &cx.shared);
            Home { worker: cx.shared.clone(), key: socket.key.get() }
        });
        let socket = if Arc::ptr_eq(&home.worker, &cx.shared) { cx.sockets.find(home.key) } else { None };
        let Some(socket) = socket else {
            let text = format!("this listener accepts on worker {}", home.worker.index);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        };
        Ok(socket)
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        let Some(home) = self.home.get() else {
            socket::close_fd(self.fd);
            return;
        };
        let here = context::try_with(|cx| {
            let here = Arc::ptr_eq(&home.worker, &cx.shared);
            if here && let Some(socket) = cx.sockets.find(home.key) {
                socket::close(cx, &socket);
            }
            here
        });
        if here != Some(true) {
            // On a worker that has stopped the job is dropped, and the descriptor was closed with the rest.
            close_remotely(&home.worker, home.key);
        }
    }
}

/// Accepts and closes what waits on `listener`, one at a time in the place of the spare descriptor.
fn shed(cx: &Context, listener: RawFd) {
    drop(cx.spare.take());
    for _ in 0..SHED_MAX {
        let mut waiting = libc::pollfd { fd: listener, events: libc::POLLIN, revents: 0 };
        // SAFETY: one readable and writable `pollfd`. Not to wait in `accept4` matters: on the ring the listener is a blocking one,
        // and nobody else accepts from it.
        if unsafe { libc::poll(&mut waiting, 1, 0) } <= 0 || waiting.revents & libc::POLLIN == 0 {
            break;
        }
        // SAFETY: a plain system call that is not asked for the address.
        let fd = unsafe { libc::accept4(listener, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC) };
        if fd < 0 {
            // Somebody else took the spare one, or memory is what is short.
            break;
        }
        socket::close_fd(fd);
        cx.shared.counters.shed.add(1);
    }
    cx.spare.replace(spare_descriptor());
}

/// The descriptor that the next file would have; `None` where there is none.
fn next_descriptor(open: RawFd) -> Option<RawFd> {
    // SAFETY: a plain system call on an open descriptor.
    let next = unsafe { libc::fcntl(open, libc::F_DUPFD_CLOEXEC, 0) };
    (next >= 0).then(|| {
        socket::close_fd(next);
        next
    })
}

/// A descriptor whose only use is to be given up.
pub(crate) fn spare_descriptor() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}

/// Accepted connections that may wait for the accepting task; beyond that accepting pauses and the kernel's backlog fills.
pub(crate) const ACCEPTED_MAX: usize = 128;
/// How long a listener pauses when descriptors or memory ran out.
pub(crate) const ACCEPT_BACKOFF: Duration = Duration::from_millis(20);
/// How long descriptors must have been short before clients that wait are turned away.
const SHED_AFTER: Duration = Duration::from_secs(1);
/// Clients turned away per pause.
const SHED_MAX: usize = 256;
