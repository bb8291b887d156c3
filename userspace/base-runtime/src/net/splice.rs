//! Moving bytes from one socket to another inside the kernel: out of the source into a pipe, out of the pipe into the target, both
//! with splice(2). What is moved are references to pages, so the bytes themselves are neither copied nor looked at.
//!
//! - The calls are made directly and never wait. `IORING_OP_SPLICE` always goes to a kernel thread, which costs more than it saves;
//!   the ring only tells when a socket is ready, with a one-shot poll.
//! - While a stream is spliced from, it is not received from: a receive under way is cancelled first, and what it had brought is
//!   handed out before anything is taken from the socket itself. Any ordinary receive turns it back.
//! - One turn of the worker moves one pipe's worth per stream, so that others have theirs.
//! - splice(2) waits or not as the *sockets* say, whatever its own flag. On the ring they wait by default, so those that are spliced
//!   are made non-blocking and stay it: the ring tries each operation without waiting in any case, and polls for the rest.
//! - `SPLICE_F_MORE` is not given: a backend that pauses would leave the last bytes before its pause in the kernel for 200 ms.
//! - A broken target raises SIGPIPE, which Rust's runtime ignores.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use super::{TcpStream, set_nonblocking};
use crate::Buf;
use crate::IoKind;
use crate::context::{self, Context};
use crate::driver::Driver;
use crate::executor::poll_share;
use crate::memory::{self, Booking, Kind};
use crate::net::socket::{self, Life, Op, ReceiveEnd, SendOp, Splicing, error_of};
use crate::pressure;

/// What [`TcpStream::poll_recv_piece`] received.
#[derive(Debug)]
pub enum ReceivedPiece {
    Buf(Buf),
    /// Never empty.
    Pipe(Pipe),
}

/// Bytes on their way between two sockets, in a pipe of the kernel's. Dropped before all were sent, they are lost, and the pipe is
/// closed; an empty one serves again.
pub struct Pipe {
    /// `None` only while it is dropped.
    ends: Option<Ends>,
    held: usize,
    booking: Booking,
}

impl Pipe {
    /// A pipe, if there is one left and the kernel has one.
    fn take(cx: &Context) -> Option<Pipe> {
        let ends = cx.pipes.take(cx)?;
        Some(Pipe { ends: Some(ends), held: 0, booking: Booking::new(Kind::Bodies, 0) })
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.held
    }

    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    fn ends(&self) -> &Ends {
        self.ends.as_ref().unwrap_or_else(|| unreachable!("the ends are there until the drop"))
    }

    fn set_held(&mut self, bytes: usize) {
        self.held = bytes;
        self.booking.set(bytes);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let ends = self.ends.take().filter(|_| self.held == 0);
        context::try_with(|cx| cx.pipes.give(ends));
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pipe({} bytes)", self.held)
    }
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
}

impl Ends {
    fn new() -> io::Result<Ends> {
        let mut fds = [-1; 2];
        // SAFETY: the kernel writes two descriptors.
        if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptors were just made.
        let (read, write) = unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
        // Buffers do as well: no pipe takes a descriptor that a connection would have to leave.
        if pressure::pauses_at(read.as_raw_fd().max(write.as_raw_fd())) {
            return Err(error_of(libc::EMFILE));
        }
        // SAFETY: a plain system call on an open descriptor. Refused beyond fs.pipe-max-size and fs.pipe-user-pages-soft.
        let capacity = match unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE_BYTES) } {
            // SAFETY: as above.
            ..0 => unsafe { libc::fcntl(write.as_raw_fd(), libc::F_GETPIPE_SZ) },
            capacity => capacity,
        };
        match usize::try_from(capacity) {
            Ok(capacity) if capacity >= PIPE_BYTES_LEAST => Ok(Ends { read, write, capacity }),
            _ => Err(error_of(libc::EPERM)),
        }
    }
}

/// The pipes of one worker.
#[derive(Default)]
pub(crate) struct Pipes {
    free: RefCell<Vec<Ends>>,
    /// Fewest free ones since the last `trim`: so many were not needed.
    unneeded: Cell<usize>,
    out: Cell<usize>,
    /// The kernel refused one; it is not asked again before.
    refused_until: Cell<Option<Instant>>,
}

impl Pipes {
    /// One might be had, and there is memory for what would be in it.
    fn may_have(&self, cx: &Context) -> bool {
        let refused = self.refused_until.get().is_some_and(|until| cx.now.get() < until);
        !memory::is_over() && self.out.get() < PIPES_MAX && (!refused || !self.free.borrow().is_empty())
    }

    fn take(&self, cx: &Context) -> Option<Ends> {
        let mut free = self.free.borrow_mut();
        let recycled = free.pop();
        self.unneeded.set(self.unneeded.get().min(free.len()));
        drop(free);
        let ends = match recycled {
            Some(ends) => ends,
            None => match Ends::new() {
                Ok(ends) => ends,
                Err(_) => {
                    cx.shared.counters.pipes_refused.add(1);
                    self.refused_until.set(Some(cx.now.get() + REFUSED_PAUSE));
                    return None;
                }
            },
        };
        self.out.set(self.out.get() + 1);
        Some(ends)
    }

    pub fn has_spare(&self) -> bool {
        !self.free.borrow().is_empty()
    }

    /// Closes those that were not needed since the last time.
    pub fn trim(&self) {
        let mut free = self.free.borrow_mut();
        let unneeded = self.unneeded.get().min(free.len());
        free.drain(..unneeded);
        self.unneeded.set(free.len());
    }

    fn give(&self, ends: Option<Ends>) {
        self.out.set(self.out.get() - 1);
        let mut free = self.free.borrow_mut();
        if let Some(ends) = ends
            && free.len() < PIPES_KEPT
        {
            free.push(ends);
        }
    }
}

impl TcpStream {
    /// As [`TcpStream::poll_recv`], but as far as that is possible the bytes stay in the kernel, and at most `most` of them are taken
    /// (what was received into a buffer already may be more). [`TcpStream::poll_send_pipe`] sends them on. Who has had enough says
    /// so with [`TcpStream::end_splice`].
    pub fn poll_recv_piece(&self, most: u64, task: &mut TaskContext<'_>) -> Poll<io::Result<Option<ReceivedPiece>>> {
        let socket = &self.socket;
        let spliced = context::with(|cx| {
            if most == 0 || socket.splicing.get() == Splicing::Refused || !socket.is_open() || !cx.pipes.may_have(cx) {
                return None;
            }
            if socket.splicing.get() != Splicing::From {
                make_nonblocking(cx, self);
                socket.splicing.set(Splicing::From);
                cx.driver.stop_recv(cx, socket);
            }
            if !socket.rx.borrow().is_empty() || socket.rx_op.get() == Op::Idle {
                if poll_share(task).is_pending() {
                    return Some(Poll::Pending);
                }
                if let Some(buf) = self.try_recv() {
                    return Some(Poll::Ready(Ok(Some(ReceivedPiece::Buf(buf)))));
                }
            }
            if socket.rx_end.get() != ReceiveEnd::Open {
                return None;
            }
            if socket.rx_op.get() == Op::Starved {
                // It waits for buffers, which are not needed here.
                cx.driver.stop_recv(cx, socket);
            }
            if socket.rx_op.get() != Op::Idle {
                socket.rx_waker.register(&cx.shared, task);
                return Some(Poll::Pending);
            }
            let mut pipe = Pipe::take(cx)?;
            let wanted = usize::try_from(most).unwrap_or(usize::MAX).min(pipe.ends().capacity);
            match splice(socket.fd.get(), pipe.ends().write.as_raw_fd(), wanted) {
                Ok(0) => {
                    socket::receive_ended(cx, socket, ReceiveEnd::Eof);
                    None
                }
                Ok(n) => {
                    pipe.set_held(n);
                    cx.shared.counters.bytes_in.add(n as u64);
                    if (n as u64) < most {
                        cx.driver.await_bytes(cx, socket);
                    }
                    Some(Poll::Ready(Ok(Some(ReceivedPiece::Pipe(pipe)))))
                }
                Err(libc::EAGAIN) => {
                    socket.rx_ready.set(false);
                    socket.rx_waker.register(&cx.shared, task);
                    cx.driver.await_bytes(cx, socket);
                    Some(Poll::Pending)
                }
                // Not this kind of socket, or not now: the ordinary way may do.
                Err(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::ENOMEM) => {
                    socket.splicing.set(Splicing::Refused);
                    None
                }
                Err(errno) => {
                    socket::receive_ended(cx, socket, ReceiveEnd::Error(errno));
                    None
                }
            }
        });
        match spliced {
            Some(polled) => polled,
            None => self.poll_recv(task).map_ok(|buf| buf.map(ReceivedPiece::Buf)),
        }
    }

    pub async fn recv_piece(&self, most: u64) -> io::Result<Option<ReceivedPiece>> {
        std::future::poll_fn(|task| self.poll_recv_piece(most, task)).await
    }

    /// Bytes are received into buffers again, also those nobody waits for yet. False when some have come already, or the end has: that
    /// would show only later otherwise, when receiving has begun.
    pub fn end_splice(&self) -> bool {
        let socket = &self.socket;
        if socket.splicing.get() != Splicing::From {
            return true;
        }
        socket.splicing.set(Splicing::Ready);
        if socket.life.get() != Life::Open || socket.rx_end.get() != ReceiveEnd::Open {
            return false;
        }
        let clean = socket.rx.borrow().is_empty() && nothing_waits(socket.fd.get());
        if socket.rx_op.get() == Op::Idle {
            context::with(|cx| cx.driver.recv(cx, socket));
        }
        clean
    }

    /// Sends what is in the pipe, behind all that was queued before. Ready when the kernel has taken everything, or the connection
    /// broke. Nothing may be queued in between.
    pub fn poll_send_pipe(&self, pipe: &mut Pipe, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        let socket = &self.socket;
        if socket.tx_bytes.get() > 0 {
            match self.poll_send_ready(task, 0) {
                Poll::Ready(Ok(())) => {}
                waiting_or_broken => return waiting_or_broken,
            }
        }
        context::with(|cx| {
            if socket.splicing.get() == Splicing::Never {
                make_nonblocking(cx, self);
                socket.splicing.set(Splicing::Ready);
            }
            while pipe.held > 0 {
                if socket.tx_error.get() != 0 {
                    return Poll::Ready(Err(error_of(socket.tx_error.get())));
                }
                if socket.life.get() != Life::Open || socket.shutdown_wanted.get() {
                    return Poll::Ready(Err(error_of(libc::EPIPE)));
                }
                if socket.tx_op.get() != SendOp::Idle {
                    socket.tx_waker.register(&cx.shared, task);
                    return Poll::Pending;
                }
                match splice(pipe.ends().read.as_raw_fd(), socket.fd.get(), pipe.held) {
                    // A pipe that holds bytes does not end.
                    Ok(0) => return Poll::Ready(Err(error_of(libc::EIO))),
                    Ok(n) => {
                        pipe.set_held(pipe.held.saturating_sub(n));
                        cx.shared.counters.bytes_out.add(n as u64);
                        cx.shared.counters.bytes_spliced.add(n as u64);
                        socket.bytes_sent.set(socket.bytes_sent.get() + n as u64);
                    }
                    Err(libc::EAGAIN) => {
                        cx.shared.counters.short_sends.add(1);
                        socket.tx_waker.register(&cx.shared, task);
                        cx.driver.await_room(cx, socket);
                        return Poll::Pending;
                    }
                    Err(errno) => socket::send_failed(cx, socket, errno),
                }
            }
            Poll::Ready(Ok(()))
        })
    }

    pub async fn send_pipe(&self, mut pipe: Pipe) -> io::Result<()> {
        std::future::poll_fn(|task| self.poll_send_pipe(&mut pipe, task)).await
    }
}

fn make_nonblocking(cx: &Context, stream: &TcpStream) {
    if stream.socket.splicing.get() == Splicing::Never && cx.driver.kind() == IoKind::Uring {
        set_nonblocking(stream.socket.fd.get(), true);
    }
}

/// Neither bytes nor an end can be received at the moment.
pub(super) fn nothing_waits(fd: RawFd) -> bool {
    let mut byte = 0u8;
    // SAFETY: one writable byte. Only EAGAIN says that nothing has come.
    let n = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
    n < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
}

/// Bytes moved, or an errno other than EINTR.
fn splice(from: RawFd, to: RawFd, most: usize) -> Result<usize, i32> {
    let none = std::ptr::null_mut::<libc::loff_t>();
    loop {
        // SAFETY: a plain system call on two open descriptors; neither sockets nor pipes have offsets.
        let n = unsafe { libc::splice(from, none, to, none, most, libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK) };
        match usize::try_from(n) {
            Ok(n) => return Ok(n),
            Err(_) => match io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) {
                libc::EINTR => {}
                errno => return Err(errno),
            },
        }
    }
}

/// What a pipe should hold. A megabyte passes in one or two turns then: 170–210 µs of CPU per MB of a gateway's answers of 1 MiB,
/// 290–500 when received into buffers. The kernel counts pages rather than bytes, and all pipes of a user against `fs.pipe-user-pages-soft`.
const PIPE_BYTES: libc::c_int = 1024 * 1024;
/// A pipe that holds less than this costs more calls than it saves copies.
const PIPE_BYTES_LEAST: usize = 64 * 1024;
/// Empty pipes a worker keeps for a second or two, of two descriptors each.
const PIPES_KEPT: usize = 16;
/// Pipes of a worker with bytes in them, of two descriptors and up to a megabyte each: they belong to peers that read slowly.
const PIPES_MAX: usize = 64;
/// How long the kernel is not asked for another pipe after it had none.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
