//! TCP, Unix stream sockets, and UDP ([`udp`]), on a worker.
//!
//! A stream has one task waiting per direction: a second one that polls the same direction takes the first one's place. All methods
//! take `&self`, so the two directions may be driven from two tasks over clones of the handle.
//!
//! Dropping the last handle closes. What is queued for sending still goes out, for a bounded time. As with any TCP socket, bytes the
//! peer sent that were never received turn the close into a reset, which may overtake the last answer: an engine that answers early
//! ends with `shutdown_write` and receives to the end, or for a bounded time.

pub(crate) mod address;
pub mod inherited;
pub(crate) mod listener;
mod machine;
mod own;
pub mod park;
mod site;
pub(crate) mod socket;
pub(crate) mod splice;
mod spread;
pub mod udp;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use crate::context::{self, Context};
use crate::driver::Driver;
use crate::executor::{WakerCell, poll_share};
use crate::runtime::Worker;
use crate::{Buf, IoKind};
use address::{Address, socket_address};
pub use listener::{ListenOptions, TcpListener, UnixListener};
pub use machine::MachineAddresses;
pub use own::{OwnPort, is_kept_from_traffic, keep_traffic_from};
pub use park::Parked;
pub use site::site_of;
pub use socket::is_own_shortage;
use socket::{Connecting, Life, NO_MARK, Op, ReceiveEnd, Socket, Splicing, error_of};
pub use splice::{Pipe, ReceivedPiece};
pub use spread::{Seat, Spread};
pub use udp::{UdpOptions, UdpSocket};

/// A connection; a handle that is cheap to clone and stays on its worker.
///
/// It may be over a Unix socket ([`TcpStream::connect_unix`], [`UnixListener`]). Then there are no IP addresses (`peer_addr` and
/// `local_addr` fail) and no TCP options, and [`TcpStream::abort`] shows to the peer as an orderly end unless it has sent bytes that
/// were not received.
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
        let stream = context::with(|cx| {
            let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
            TcpStream::start_connect(cx, family, &Address::from(&address))
        })?;
        poll_fn(|task| stream.poll_connected(task)).await?;
        Ok(stream)
    }

    /// Connects to the Unix socket at `path`; dropping the future gives the attempt up. While the queue of the one who listens is
    /// full it is tried again every few milliseconds.
    pub async fn connect_unix(path: impl AsRef<Path>) -> io::Result<TcpStream> {
        let path = path.as_ref();
        let mut pause = Duration::from_millis(1);
        loop {
            let attempt = match context::with(|cx| {
                let address = Address::of_path(path)?;
                TcpStream::start_connect(cx, libc::AF_UNIX, &address)
            }) {
                Ok(stream) => poll_fn(|task| stream.poll_connected(task)).await.map(|()| stream),
                Err(error) => Err(error),
            };
            match attempt {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => crate::time::sleep(pause).await,
                result => return result,
            }
            pause = (pause * 2).min(Duration::from_millis(16));
        }
    }

    /// As [`TcpStream::connect`], within `limit`.
    pub async fn connect_within(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
        crate::time::timeout(limit, TcpStream::connect(address)).await?
    }

    fn start_connect(cx: &Context, family: libc::c_int, address: &Address) -> io::Result<TcpStream> {
        let flags = if cx.driver.kind() == IoKind::Epoll { libc::SOCK_NONBLOCK } else { 0 };
        let fd = for_traffic(new_socket(family, libc::SOCK_STREAM | flags)?)?;
        if family != libc::AF_UNIX {
            set_option(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        }
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
            Connecting::Done(errno) => Poll::Ready(Err(error_of(errno.into()))),
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

    /// Takes over an end of a stream between two processes, or two threads.
    pub fn from_unix(stream: std::os::unix::net::UnixStream) -> io::Result<TcpStream> {
        let fd = OwnedFd::from(stream);
        context::with(|cx| {
            set_nonblocking(fd.as_raw_fd(), cx.driver.kind() == IoKind::Epoll);
            TcpStream::adopt(cx, fd.into_raw_fd())
        })
    }

    /// Gives the connection up for use elsewhere. Only one on which nothing was received or sent yet can be given up; otherwise it
    /// comes back. For another worker there is [`TcpStream::hand_over`].
    pub fn into_std(self) -> Result<std::net::TcpStream, TcpStream> {
        self.into_fd().map(std::net::TcpStream::from)
    }

    /// Gives the connection to another worker, where `serve` goes on with it as a task. Only one on which nothing was received or
    /// sent yet can be handed over at once; otherwise both come back, and [`TcpStream::park`] is the way. A worker that has stopped
    /// closes it.
    pub fn hand_over<F, Fut>(self, worker: &Worker, serve: F) -> Result<(), (TcpStream, F)>
    where
        F: FnOnce(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        match self.into_fd() {
            Ok(fd) => Parked::untouched(fd).hand_over(worker, serve),
            Err(stream) => return Err((stream, serve)),
        }
        Ok(())
    }

    fn into_fd(self) -> Result<OwnedFd, TcpStream> {
        let socket = &self.socket;
        let untouched = socket.handles.get() == 1
            && socket.life.get() == Life::Open
            && socket.ops.get() == 0
            && socket.rx_op.get() == Op::Idle
            && socket.rx.borrow().is_empty()
            && socket.rx_end.get() == ReceiveEnd::Open
            && socket.tx_bytes.get() == 0
            && socket.bytes_sent.get() == 0
            && !socket.shutdown_wanted.get();
        if !untouched {
            return Err(self);
        }
        let released = context::try_with(|cx| socket::release(cx, socket));
        // SAFETY: the socket owned the descriptor and has given it up; without a worker nothing else refers to it any more.
        Ok(unsafe { OwnedFd::from_raw_fd(released.unwrap_or_else(|| socket.fd.replace(-1))) })
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
        if !socket.rx.borrow().is_empty() {
            ready!(poll_share(task));
            if let Some(buf) = self.try_recv() {
                return Poll::Ready(Ok(Some(buf)));
            }
        }
        match socket.rx_end.get() {
            ReceiveEnd::Eof => Poll::Ready(Ok(None)),
            ReceiveEnd::Error(errno) => Poll::Ready(Err(error_of(errno))),
            ReceiveEnd::Open => {
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
        if left <= 1 && socket.rx_op.get() == Op::Idle && socket.rx_end.get() == ReceiveEnd::Open {
            context::with(|cx| self.arm(cx));
        }
        Some(buf)
    }

    /// Ready when bytes, the peer's end or an error are queued; nothing is taken. This is how a client is watched while its
    /// request waits for a backend.
    pub fn poll_readable(&self, task: &mut TaskContext<'_>) -> Poll<()> {
        if !self.socket.rx.borrow().is_empty() || self.socket.rx_end.get() != ReceiveEnd::Open {
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
            if self.socket.splicing.get() == Splicing::From {
                self.socket.splicing.set(Splicing::Ready);
            }
            self.socket.rx_waker.register(&cx.shared, task);
            if self.socket.rx_op.get() == Op::Idle {
                self.arm(cx);
            }
        });
    }

    fn arm(&self, cx: &Context) {
        if self.socket.life.get() == Life::Open
            && self.socket.splicing.get() != Splicing::From
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

    /// Asks the kernel whether a connection that ought to be idle still is: an end or bytes that have arrived, but that no turn of the
    /// loop has brought so far, show here. A system call, worth it before sending what must not be sent twice.
    pub fn is_idle_by_now(&self) -> bool {
        !self.is_closed_or_dirty() && splice::nothing_waits(self.socket.fd.get())
    }

    pub fn peek_state(&self) -> StreamState {
        if !self.socket.rx.borrow().is_empty() {
            return StreamState::Data;
        }
        match self.socket.rx_end.get() {
            ReceiveEnd::Open => StreamState::Open,
            ReceiveEnd::Eof => StreamState::Eof,
            ReceiveEnd::Error(errno) => StreamState::Error(error_of(errno).kind()),
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
        {
            let mut tx = socket.tx.borrow_mut();
            match tx.back_mut() {
                // The kernel may be reading what the buffer holds already; what is added lies behind that.
                Some(last) if buf.len() <= SHARED_MAX && buf.len() <= last.tailroom() => {
                    last.append(&buf);
                }
                _ => tx.push_back(buf),
            }
        }
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
        // Lower than asked wakes a little later, and only beyond 4 GiB.
        socket.tx_mark.set(u32::try_from(high_water).unwrap_or(NO_MARK - 1));
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

    /// The peer has finished sending or is gone, also where what it sent before has not been received and nothing is received at the
    /// moment. A system call: ask now and then.
    pub fn has_hung_up(&self) -> bool {
        let mut asked = libc::pollfd { fd: self.socket.fd.get(), events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: one entry that lives through the call, which does not wait. A negative descriptor is ignored.
        let told = unsafe { libc::poll(&raw mut asked, 1, 0) };
        self.socket.rx_end.get() != ReceiveEnd::Open || (told > 0 && asked.revents != 0)
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

/// `kind`: SOCK_STREAM or SOCK_DGRAM, and flags.
fn new_socket(family: libc::c_int, kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the result is checked before it is owned.
    let fd = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A socket for traffic, unless it is one of the last that are set aside.
fn for_traffic(fd: OwnedFd) -> io::Result<OwnedFd> {
    if crate::pressure::refuses(fd.as_raw_fd()) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok(fd)
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

/// Pieces of up to this many bytes share a buffer with what is queued before them. Each in a buffer of its own, a hundred kilobytes
/// of small answers to a client that reads none would pin megabytes.
const SHARED_MAX: usize = 8 * 1024;
