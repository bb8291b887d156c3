//! TCP on a worker.
//!
//! A stream has one task waiting per direction: a second one that polls the same direction takes the first one's place. All methods
//! take `&self`, so the two directions may be driven from two tasks over clones of the handle.
//!
//! Dropping the last handle closes. What is queued for sending still goes out, for a bounded time. As with any TCP socket, bytes the
//! peer sent that were never received turn the close into a reset, which may overtake the last answer: an engine that answers early
//! ends with `shutdown_write` and receives to the end, or for a bounded time.

pub(crate) mod socket;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use crate::context::{self, Context};
use crate::driver::Driver;
use crate::executor::WakerCell;
use crate::runtime::{Shared, close_remotely};
use crate::{Buf, IoKind};
use socket::{Connecting, End, Key, Life, Listener, NO_MARK, Op, Socket, error_of};

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
    fd: RawFd,
    local_addr: SocketAddr,
    home: OnceLock<Home>,
}

/// Where a listener became active. From then on the descriptor belongs to that worker's table.
struct Home {
    worker: Arc<Shared>,
    key: Key,
}

impl TcpListener {
    pub fn bind(address: SocketAddr, options: ListenOptions) -> io::Result<TcpListener> {
        let fd = new_socket(&address, 0)?;
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
        let (storage, length) = encode_address(&address);
        // SAFETY: the address and its length come from `encode_address`, the descriptor is open.
        check(unsafe { libc::bind(raw, (&raw const storage).cast(), length) })?;
        // SAFETY: a plain system call on an open descriptor.
        check(unsafe { libc::listen(raw, options.backlog.min(i32::MAX as u32) as i32) })?;
        TcpListener::from_fd(fd)
    }

    /// Takes over a listener made elsewhere, for example one inherited from the process before. Sets TCP_NODELAY on it.
    pub fn from_std(listener: std::net::TcpListener) -> TcpListener {
        let fd = OwnedFd::from(listener);
        // A Unix or odd descriptor cannot come out of std's type; a refusal would cost latency only.
        let _ = set_option(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
        let unspecified = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let local_addr = socket_address(fd.as_raw_fd(), libc::getsockname).unwrap_or(unspecified);
        TcpListener { fd: fd.into_raw_fd(), local_addr, home: OnceLock::new() }
    }

    fn from_fd(fd: OwnedFd) -> io::Result<TcpListener> {
        let local_addr = socket_address(fd.as_raw_fd(), libc::getsockname)?;
        Ok(TcpListener { fd: fd.into_raw_fd(), local_addr, home: OnceLock::new() })
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
            let socket = self.activate(cx)?;
            let Some(listener) = &socket.listener else { return Poll::Ready(Err(error_of(libc::EINVAL))) };
            loop {
                let next = listener.accepted.borrow_mut().pop_front();
                if let Some((fd, peer)) = next {
                    self.resume(cx, &socket, listener, task);
                    // A peer that reset the connection before it was accepted has no address any more.
                    let peer = match peer.map_or_else(|| socket_address(fd, libc::getpeername), Ok) {
                        Ok(peer) => peer,
                        Err(_) => {
                            socket::close_fd(fd);
                            continue;
                        }
                    };
                    cx.shared.counters.accepted.add(1);
                    match TcpStream::adopt(cx, fd) {
                        Ok(stream) => return Poll::Ready(Ok((stream, peer))),
                        Err(error) => {
                            tracing::warn!(%error, "an accepted connection could not be registered");
                            continue;
                        }
                    }
                }
                if let End::Error(errno) = socket.rx_end.get() {
                    return Poll::Ready(Err(error_of(errno)));
                }
                socket.rx_waker.register(&cx.shared, task);
                self.resume(cx, &socket, listener, task);
                if listener.accepted.borrow().is_empty() {
                    return Poll::Pending;
                }
            }
        })
    }

    /// Goes on accepting unless a pause is due.
    fn resume(&self, cx: &Context, socket: &Rc<Socket>, listener: &Listener, task: &mut TaskContext<'_>) {
        if listener.exhausted.get() {
            if listener.backoff.poll_expired(task).is_pending() {
                return;
            }
            listener.backoff.clear();
            listener.exhausted.set(false);
        }
        if socket.rx_op.get() == Op::Idle && listener.accepted.borrow().len() < ACCEPTED_MAX {
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

impl AsRawFd for TcpListener {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpListener").field("local_addr", &self.local_addr).finish()
    }
}

impl Drop for TcpListener {
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

/// A TCP connection; a handle that is cheap to clone and stays on its worker.
pub struct TcpStream {
    socket: Rc<Socket>,
}

/// What is known of the peer's direction without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamState {
    /// Open, nothing queued.
    Open,
    /// Bytes are queued.
    Data,
    /// The peer has finished sending, and everything it sent was taken.
    Eof,
    /// The connection failed.
    Error(io::ErrorKind),
}

impl TcpStream {
    /// Connects; dropping the future gives the attempt up.
    pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
        let stream = context::with(|cx| TcpStream::start_connect(cx, &address))?;
        poll_fn(|task| stream.poll_connected(task)).await?;
        Ok(stream)
    }

    /// As [`TcpStream::connect`], within `limit`.
    pub async fn connect_within(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
        crate::time::timeout(limit, TcpStream::connect(address)).await?
    }

    fn start_connect(cx: &Context, address: &SocketAddr) -> io::Result<TcpStream> {
        let flags = if cx.driver.kind() == IoKind::Epoll { libc::SOCK_NONBLOCK } else { 0 };
        let fd = new_socket(address, flags)?;
        set_option(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        let socket = cx.sockets.insert(Socket::new(fd.into_raw_fd(), None), &cx.shared);
        socket.connecting.set(Connecting::Pending);
        // From here on dropping the stream cleans up.
        let stream = TcpStream { socket };
        cx.driver.connect(cx, &stream.socket, address)?;
        Ok(stream)
    }

    fn poll_connected(&self, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        match self.socket.connecting.get() {
            Connecting::No | Connecting::Done(0) => Poll::Ready(Ok(())),
            Connecting::Done(errno) => Poll::Ready(Err(error_of(errno))),
            Connecting::Pending => {
                self.register(&self.socket.tx_waker, task);
                Poll::Pending
            }
        }
    }

    /// Takes over a connection made elsewhere. Sets TCP_NODELAY.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<TcpStream> {
        let fd = OwnedFd::from(stream);
        context::with(|cx| {
            set_nonblocking(fd.as_raw_fd(), cx.driver.kind() == IoKind::Epoll);
            set_option(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
            TcpStream::adopt(cx, fd.into_raw_fd())
        })
    }

    /// Gives the connection up for use elsewhere, on another worker for example. Only a connection on which nothing was received
    /// or sent yet can be handed over; otherwise it comes back.
    pub fn into_std(self) -> Result<std::net::TcpStream, TcpStream> {
        let socket = &self.socket;
        let untouched = socket.handles.get() == 1
            && socket.life.get() == Life::Open
            && socket.ops.get() == 0
            && socket.rx_op.get() == Op::Idle
            && socket.rx.borrow().is_empty()
            && socket.tx_bytes.get() == 0;
        if !untouched {
            return Err(self);
        }
        // SAFETY: a plain system call; the result is checked before it is owned.
        let copy = unsafe { libc::fcntl(socket.fd.get(), libc::F_DUPFD_CLOEXEC, 0) };
        if copy < 0 {
            return Err(self);
        }
        // SAFETY: the descriptor was just made. Dropping `self` closes the original, which leaves the connection to the copy.
        Ok(unsafe { std::net::TcpStream::from_raw_fd(copy) })
    }

    /// Puts a connected descriptor into the worker's table; it is closed if that fails.
    fn adopt(cx: &Context, fd: RawFd) -> io::Result<TcpStream> {
        let socket = cx.sockets.insert(Socket::new(fd, None), &cx.shared);
        cx.shared.counters.connections_open.add(1);
        let stream = TcpStream { socket };
        cx.driver.adopt(cx, &stream.socket)?;
        Ok(stream)
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        socket_address(self.socket.fd.get(), libc::getpeername)
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        socket_address(self.socket.fd.get(), libc::getsockname)
    }

    /// Send small writes at once rather than waiting for more. On by default.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        set_option(self.socket.fd.get(), libc::IPPROTO_TCP, libc::TCP_NODELAY, i32::from(on))
    }

    /// The next bytes; `None` once the peer has finished sending. An error stays an error.
    #[inline]
    pub fn poll_recv(&self, task: &mut TaskContext<'_>) -> Poll<io::Result<Option<Buf>>> {
        let socket = &self.socket;
        if let Some(buf) = self.try_recv() {
            return Poll::Ready(Ok(Some(buf)));
        }
        match socket.rx_end.get() {
            End::Eof => Poll::Ready(Ok(None)),
            End::Error(errno) => Poll::Ready(Err(error_of(errno))),
            End::Open => {
                self.await_receive(task);
                Poll::Pending
            }
        }
    }

    pub async fn recv(&self) -> io::Result<Option<Buf>> {
        poll_fn(|task| self.poll_recv(task)).await
    }

    /// Bytes that are already queued.
    #[inline]
    pub fn try_recv(&self) -> Option<Buf> {
        let socket = &self.socket;
        let (buf, left) = {
            let mut rx = socket.rx.borrow_mut();
            let buf = rx.pop_front()?;
            (buf, rx.len())
        };
        // Receiving paused because the queue was full goes on while one buffer is left to work on.
        if left <= 1 && socket.rx_op.get() == Op::Idle && socket.rx_end.get() == End::Open {
            context::with(|cx| self.arm(cx));
        }
        Some(buf)
    }

    /// Ready when bytes, the peer's end or an error are queued; nothing is taken. This is how a client is watched while its
    /// request waits for a backend.
    pub fn poll_readable(&self, task: &mut TaskContext<'_>) -> Poll<()> {
        if !self.socket.rx.borrow().is_empty() || self.socket.rx_end.get() != End::Open {
            return Poll::Ready(());
        }
        self.await_receive(task);
        Poll::Pending
    }

    pub async fn readable(&self) {
        poll_fn(|task| self.poll_readable(task)).await
    }

    #[inline]
    fn await_receive(&self, task: &mut TaskContext<'_>) {
        context::with(|cx| {
            self.socket.rx_waker.register(&cx.shared, task);
            if self.socket.rx_op.get() == Op::Idle {
                self.arm(cx);
            }
        });
    }

    fn arm(&self, cx: &Context) {
        if self.socket.life.get() == Life::Open
            && matches!(self.socket.connecting.get(), Connecting::No | Connecting::Done(0))
        {
            cx.driver.recv(cx, &self.socket);
        }
    }

    #[inline]
    fn register(&self, waker: &WakerCell, task: &mut TaskContext<'_>) {
        context::with(|cx| waker.register(&cx.shared, task));
    }

    /// For a connection that ought to be idle, as in a pool: the peer has closed it, it failed, or it sent what nobody asked for.
    pub fn is_closed_or_dirty(&self) -> bool {
        self.peek_state() != StreamState::Open || self.socket.tx_error.get() != 0 || !self.socket.is_open()
    }

    pub fn peek_state(&self) -> StreamState {
        if !self.socket.rx.borrow().is_empty() {
            return StreamState::Data;
        }
        match self.socket.rx_end.get() {
            End::Open => StreamState::Open,
            End::Eof => StreamState::Eof,
            End::Error(errno) => StreamState::Error(error_of(errno).kind()),
        }
    }

    /// Puts bytes back in front of what was received.
    pub fn unread(&self, buf: Buf) {
        if !buf.is_empty() {
            self.socket.rx.borrow_mut().push_front(buf);
        }
    }

    /// Received bytes nobody has taken yet.
    pub fn recv_queue_len(&self) -> usize {
        self.socket.rx.borrow().bytes()
    }

    /// Queues `buf` for sending and returns at once. Failures show in [`TcpStream::poll_send_ready`]; what is queued on a broken
    /// connection is dropped.
    #[inline]
    pub fn send(&self, buf: Buf) {
        let socket = &self.socket;
        if buf.is_empty()
            || socket.tx_error.get() != 0
            || socket.life.get() != Life::Open
            || socket.shutdown_wanted.get()
        {
            return;
        }
        socket.tx_bytes.set(socket.tx_bytes.get() + buf.len());
        socket.tx.borrow_mut().push_back(buf);
        if !socket.dirty.replace(true) {
            context::with(|cx| cx.dirty.borrow_mut().push(socket.clone()));
        }
    }

    /// Ready once at most `high_water` bytes wait to be taken by the kernel, or the connection broke.
    #[inline]
    pub fn poll_send_ready(&self, task: &mut TaskContext<'_>, high_water: usize) -> Poll<io::Result<()>> {
        let socket = &self.socket;
        if socket.tx_error.get() != 0 {
            return Poll::Ready(Err(error_of(socket.tx_error.get())));
        }
        if socket.tx_bytes.get() <= high_water {
            return Poll::Ready(Ok(()));
        }
        socket.tx_mark.set(high_water);
        context::with(|cx| {
            socket.tx_waker.register(&cx.shared, task);
            cx.driver.expect_report(socket);
        });
        Poll::Pending
    }

    pub async fn send_ready(&self, high_water: usize) -> io::Result<()> {
        poll_fn(|task| self.poll_send_ready(task, high_water)).await
    }

    /// Waits until the kernel has taken everything.
    pub async fn flush(&self) -> io::Result<()> {
        self.send_ready(0).await
    }

    /// Bytes queued that the kernel has not reported as taken. On the ring a send nobody waits for is reported with the next turn
    /// of the loop, which may be long after it went out; `flush` waits for the report.
    pub fn send_queue_len(&self) -> usize {
        self.socket.tx_bytes.get()
    }

    /// Bytes of memory this connection takes here: its fixed part and the buffers in both queues at their full size. What the
    /// kernel holds for it is not among them.
    pub fn memory(&self) -> usize {
        socket::SOCKET_BYTES + self.socket.rx.borrow().memory() + self.socket.tx.borrow().memory()
    }

    /// Bytes the kernel has reported as taken.
    pub fn bytes_sent(&self) -> u64 {
        self.socket.bytes_sent.get()
    }

    /// Bytes the kernel has taken that the peer has not acknowledged. The kernel takes much and reports room in large steps; this
    /// tells a peer that reads slowly from one that does not read. A system call: ask when a deadline passes, not per send.
    pub fn unacknowledged(&self) -> usize {
        let mut queued: libc::c_int = 0;
        // SAFETY: TIOCOUTQ (SIOCOUTQ on sockets) writes one int into a variable that lives through the call.
        let result = unsafe { libc::ioctl(self.socket.fd.get(), libc::TIOCOUTQ, &raw mut queued) };
        if result < 0 { 0 } else { usize::try_from(queued).unwrap_or(0) }
    }

    /// Ends the sending direction once everything queued is sent; nothing can be queued after it.
    pub fn shutdown_write(&self) {
        context::with(|cx| socket::shutdown_write(cx, &self.socket));
    }

    /// Cuts the connection off: queues are dropped, the peer sees a reset.
    pub fn abort(&self) {
        context::with(|cx| socket::abort(cx, &self.socket));
    }
}

impl Clone for TcpStream {
    fn clone(&self) -> TcpStream {
        self.socket.handles.set(self.socket.handles.get() + 1);
        TcpStream { socket: self.socket.clone() }
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        let handles = self.socket.handles.get() - 1;
        self.socket.handles.set(handles);
        if handles == 0 && context::try_with(|cx| socket::abandoned(cx, &self.socket)).is_none() {
            socket::close_fd(self.socket.fd.replace(-1));
        }
    }
}

impl AsRawFd for TcpStream {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.fd.get()
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpStream")
            .field("fd", &self.socket.fd.get())
            .field("state", &self.peek_state())
            .field("send_queue_len", &self.send_queue_len())
            .finish()
    }
}

impl PartialEq for TcpStream {
    /// Two handles of the same connection.
    fn eq(&self, other: &TcpStream) -> bool {
        Rc::ptr_eq(&self.socket, &other.socket)
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn new_socket(address: &SocketAddr, flags: libc::c_int) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: a plain system call; the result is checked before it is owned.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags, 0) })?;
    // SAFETY: the descriptor was just made.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn set_option<T: Copy>(fd: RawFd, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
    // SAFETY: `value` is readable for its size during the call, which does not keep it.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size_of::<T>() as libc::socklen_t) })?;
    Ok(())
}

pub(crate) fn set_nonblocking(fd: RawFd, on: bool) {
    let on = libc::c_int::from(on);
    // SAFETY: FIONBIO reads one int. It cannot fail on a socket.
    unsafe { libc::ioctl(fd, libc::FIONBIO, &raw const on) };
}

pub(crate) fn encode_address(address: &SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all-zero bytes are a valid `sockaddr_storage`.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let target = &raw mut storage;
    let length = match address {
        SocketAddr::V4(v4) => {
            let encoded = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is larger than, and aligned for, every socket address.
            unsafe { target.cast::<libc::sockaddr_in>().write(encoded) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let encoded = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { target.cast::<libc::sockaddr_in6>().write(encoded) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}

type AddressCall = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn socket_address(fd: RawFd, call: AddressCall) -> io::Result<SocketAddr> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into the storage.
    check(unsafe { call(fd, storage.as_mut_ptr().cast(), &mut length) })?;
    // SAFETY: zeroed, then partly written: initialised either way.
    decode_address(&unsafe { storage.assume_init() })
}

pub(crate) fn decode_address(storage: &libc::sockaddr_storage) -> io::Result<SocketAddr> {
    let source = &raw const *storage;
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which of the addresses the storage holds; it is large enough and aligned for each.
            let v4 = unsafe { *source.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Ok(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { *source.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Ok(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        other => Err(io::Error::new(io::ErrorKind::Unsupported, format!("not an IP address family: {other}"))),
    }
}

/// Accepted connections that may wait for the accepting task; beyond that accepting pauses and the kernel's backlog fills.
pub(crate) const ACCEPTED_MAX: usize = 128;
/// How long a listener pauses when descriptors or memory ran out.
pub(crate) const ACCEPT_BACKOFF: Duration = Duration::from_millis(20);

const _: () = assert!(NO_MARK == usize::MAX);
