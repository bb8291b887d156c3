//! Taking a connection off its worker in the middle of whatever it is doing, and going on with it elsewhere.
//!
//! Parking stops receiving and sending, waits until the kernel has reported the end of both, and takes along what was received and not
//! read, what is queued and not sent, and how the two directions stand. On the ring an operation that is cancelled still reports what
//! it has done by then: bytes that arrived in between join those received, a send that was taken in part leaves its rest. So nothing
//! is lost and nothing comes twice, whatever the peer does meanwhile; what it sends after that waits in the kernel.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::task::Poll;

use super::{TcpStream, set_nonblocking};
use crate::context::{self, Context};
use crate::driver::Driver;
use crate::memory::{Kind, SharedBooking};
use crate::net::socket::{self, Connecting, Life, Queue, ReceiveEnd};
use crate::runtime::Worker;
use crate::{Buf, IoKind};

/// A connection off its worker. Dropping it closes the connection; what was unsent is lost then.
pub struct Parked {
    parts: ParkedParts,
    /// The bytes of both directions.
    booking: SharedBooking,
}

/// What a parked connection is made of. Another process can be given all of it: the descriptor over a Unix socket, the rest as bytes.
pub struct ParkedParts {
    pub fd: OwnedFd,
    /// Received and not read.
    pub received: Vec<u8>,
    /// How the peer's direction stands behind them.
    pub receiving: Direction,
    /// Queued and not taken by the kernel.
    pub unsent: Vec<u8>,
    /// How this side's direction stands: ended means that nothing is to follow what is unsent.
    pub sending: Direction,
    /// Bytes the kernel has taken so far.
    pub bytes_sent: u64,
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Open,
    Ended,
    /// It broke, with this `errno`.
    Broken(i32),
}

/// A connection that could not be parked.
pub struct NotParked<S> {
    pub stream: S,
    pub reason: &'static str,
}

impl TcpStream {
    /// Takes the connection off this worker, with what was received and what is queued. It is refused, and comes back, where other
    /// handles refer to it, or it is not established. Dropping the future in the middle drops the connection, which goes on sending
    /// what it has queued as any that is dropped.
    pub async fn park(self) -> Result<Parked, NotParked<TcpStream>> {
        if let Err(reason) = context::with(|cx| self.begin_to_park(cx)) {
            return Err(NotParked { stream: self, reason });
        }
        let socket = &self.socket;
        poll_fn(|task| {
            if socket.ops.get() == 0 || socket.life.get() != Life::Parking {
                return Poll::Ready(());
            }
            self.register(&socket.rx_waker, task);
            Poll::Pending
        })
        .await;
        if socket.life.get() != Life::Parking {
            return Err(NotParked { stream: self, reason: "it was closed meanwhile" });
        }
        Ok(context::with(|cx| self.take_parts(cx)))
    }

    fn begin_to_park(&self, cx: &Context) -> Result<(), &'static str> {
        let socket = &self.socket;
        if socket.life.get() != Life::Open {
            return Err("it is closed");
        }
        if !matches!(socket.connecting.get(), Connecting::No | Connecting::Done(0)) {
            return Err("it is not established");
        }
        if socket.handles.get() != 1 {
            return Err("other handles of it are in use");
        }
        socket.life.set(Life::Parking);
        cx.driver.still(cx, socket);
        // A silent send ends without a word.
        cx.driver.expect_report(socket);
        Ok(())
    }

    fn take_parts(&self, cx: &Context) -> Parked {
        let socket = &self.socket;
        let received = bytes_of(&socket.rx.take());
        let unsent = bytes_of(&socket.tx.take());
        socket.tx_bytes.set(0);
        let parts = ParkedParts {
            received,
            receiving: match socket.rx_end.get() {
                ReceiveEnd::Open => Direction::Open,
                ReceiveEnd::Eof => Direction::Ended,
                ReceiveEnd::Error(errno) => Direction::Broken(errno),
            },
            unsent,
            sending: match socket.tx_error.get() {
                0 if socket.shutdown_wanted.get() => Direction::Ended,
                0 => Direction::Open,
                errno => Direction::Broken(errno),
            },
            bytes_sent: socket.bytes_sent.get(),
            // SAFETY: the socket owned the descriptor and gives it up here; nothing is under way on it.
            fd: unsafe { OwnedFd::from_raw_fd(socket::release(cx, socket)) },
        };
        cx.shared.counters.parked.add(1);
        Parked::from_parts(parts)
    }
}

impl Parked {
    pub fn from_parts(parts: ParkedParts) -> Parked {
        let booking = SharedBooking::new(Kind::Connections, parts.received.capacity() + parts.unsent.capacity());
        Parked { parts, booking }
    }

    /// A connection nothing has happened on yet.
    pub(super) fn untouched(fd: OwnedFd) -> Parked {
        let (received, unsent) = (Vec::new(), Vec::new());
        let (receiving, sending) = (Direction::Open, Direction::Open);
        Parked::from_parts(ParkedParts { fd, received, receiving, unsent, sending, bytes_sent: 0 })
    }

    pub fn parts(&self) -> &ParkedParts {
        &self.parts
    }

    /// The pieces, which nobody counts as held any more.
    pub fn into_parts(self) -> ParkedParts {
        drop(self.booking);
        self.parts
    }

    /// Goes on with the connection on this worker: what was received can be received, what was unsent is sent.
    pub fn unpark(self) -> io::Result<TcpStream> {
        context::with(|cx| self.unpark_in(cx))
    }

    /// Gives the connection to another worker, where `serve` goes on with it as a task. A worker that has stopped closes it.
    pub fn hand_over<F, Fut>(self, worker: &Worker, serve: F)
    where
        F: FnOnce(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        context::try_with(|cx| cx.shared.counters.handed_over.add(1));
        worker.run(move |cx| match self.unpark_in(cx) {
            Ok(stream) => cx.executor.spawn(&cx.shared, serve(stream)).detach(),
            Err(error) => tracing::warn!(%error, "a connection handed over could not be registered"),
        });
    }

    fn unpark_in(self, cx: &Context) -> io::Result<TcpStream> {
        let ParkedParts { fd, received, receiving, unsent, sending, bytes_sent } = self.into_parts();
        set_nonblocking(fd.as_raw_fd(), cx.driver.kind() == IoKind::Epoll);
        let stream = TcpStream::adopt(cx, fd.into_raw_fd())?;
        let socket = &stream.socket;
        fill(&mut socket.rx.borrow_mut(), &received);
        socket.rx_end.set(match receiving {
            Direction::Open => ReceiveEnd::Open,
            Direction::Ended => ReceiveEnd::Eof,
            Direction::Broken(errno) => ReceiveEnd::Error(errno),
        });
        socket.bytes_sent.set(bytes_sent);
        if let Direction::Broken(errno) = sending {
            socket.tx_error.set(errno);
            return Ok(stream);
        }
        if !unsent.is_empty() {
            fill(&mut socket.tx.borrow_mut(), &unsent);
            socket.tx_bytes.set(unsent.len());
            socket.dirty.set(true);
            cx.dirty.borrow_mut().push(socket.clone());
        }
        if sending == Direction::Ended {
            // The kernel does not mind hearing it twice.
            socket::shutdown_write(cx, socket);
        }
        Ok(stream)
    }
}

fn bytes_of(queue: &Queue) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(queue.bytes());
    queue.iter().for_each(|buf| bytes.extend_from_slice(buf));
    bytes
}

fn fill(queue: &mut Queue, bytes: &[u8]) {
    bytes.chunks(Buf::CAPACITY - Buf::HEADROOM).for_each(|bytes| queue.push_back(Buf::copy_from(bytes)));
}

impl<S> fmt::Display for NotParked<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the connection cannot be taken off its worker: {}", self.reason)
    }
}

impl<S> fmt::Debug for NotParked<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<S> std::error::Error for NotParked<S> {}

impl fmt::Debug for Parked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parked")
            .field("fd", &self.parts.fd.as_raw_fd())
            .field("received", &self.parts.received.len())
            .field("unsent", &self.parts.unsent.len())
            .finish()
    }
}
