//! The epoll driver: edge-triggered, one registration per socket for its whole life.
//!
//! Reading stops at the receive queue's bound and goes on, from the `unfinished` list, when the queue is drained. A read that does
//! not fill its buffer has emptied the socket, so the next edge is waited for without a read that fails.
//!
//! A socket that has more than is read at a time goes to the end of that list and is read from in its turn, whatever edges come
//! meanwhile; a turn takes so many reads from the list. So what comes from whoever sends little is read at once, however many there are
//! that send without end.

mod datagrams;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

use super::{Driver, IoKind, Wait};
use crate::Buf;
use crate::context::Context;
use crate::net::address::{Address, decode_address};
use crate::net::listener::ACCEPTED_MAX;
use crate::net::socket::{self, Connecting, Life, Op, ReceiveEnd, SendOp, SlotKey, Socket, Splicing};
use crate::net::udp::Endpoint;
use crate::runtime::Shared;
use datagrams::Datagrams;

pub(crate) struct Epoll {
    fd: OwnedFd,
    wakeup: RawFd,
    events: RefCell<Vec<libc::epoll_event>>,
    /// Sockets to read (or accept) from although no edge will tell.
    unfinished: RefCell<VecDeque<Rc<Socket>>>,
    /// Of [`READS_MOST`].
    reads_left: Cell<usize>,
    /// Sockets to read from once the pool has buffers again.
    starved: RefCell<Vec<Rc<Socket>>>,
    datagrams: Datagrams,
    stopped: Cell<bool>,
}

impl Epoll {
    pub fn new(shared: &Arc<Shared>) -> io::Result<Epoll> {
        // SAFETY: a plain system call; the result is checked before it is owned.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Epoll {
            // SAFETY: the descriptor was just made.
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
            wakeup: shared.wakeup.as_raw_fd(),
            events: RefCell::new(vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS]),
            unfinished: RefCell::default(),
            reads_left: Cell::new(0),
            starved: RefCell::default(),
            datagrams: Datagrams::default(),
            stopped: Cell::new(false),
        })
    }

    fn register(&self, fd: RawFd, events: libc::c_int, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: data };
        // SAFETY: both descriptors are open, the event is readable during the call.
        match unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn unregister(&self, fd: RawFd) {
        // SAFETY: both descriptors are open; ENOENT for one never registered is of no consequence.
        unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    fn continue_later(&self, socket: &Rc<Socket>) {
        self.unfinished.borrow_mut().push_back(socket.clone());
    }

    /// What had found no buffer goes on, as soon as there are any.
    fn feed_starved(&self, cx: &Context) {
        if !self.starved.borrow().is_empty() && cx.pool.has_room() {
            self.unfinished.borrow_mut().extend(self.starved.borrow_mut().drain(..));
        }
    }

    fn dispatch(&self, cx: &Context, socket: &Rc<Socket>, events: u32) {
        if socket.connecting.get() == Connecting::Pending {
            if events & (libc::EPOLLOUT | libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0 {
                socket::connected(cx, socket, take_error(socket.fd.get()));
            }
            if socket.connecting.get() != Connecting::Done(0) {
                return;
            }
        }
        if events & (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0 {
            // One that was ready before waits for its turn in a list.
            if !socket.rx_ready.replace(true) && socket.rx_op.get() == Op::Armed {
                let ends = events & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0;
                self.take_in(cx, socket, ends);
            }
        }
        if events & (libc::EPOLLOUT | libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0
            && socket.tx_op.get() == SendOp::Blocked
        {
            socket.tx_op.set(SendOp::Idle);
            if socket.tx_bytes.get() == 0 {
                // What waits for room is in a pipe.
                socket.tx_waker.wake(&cx.executor);
            } else if !socket.dirty.replace(true) {
                cx.dirty.borrow_mut().push(socket.clone());
            }
        }
    }

    /// There may be something to read.
    fn take_in(&self, cx: &Context, socket: &Rc<Socket>, ends: bool) {
        match socket.splicing.get() {
            Splicing::From => socket::may_be_spliced(cx, socket),
            _ => self.read(cx, socket, ends),
        }
    }

    /// Reads until the socket is empty, the queue is full, or a fair share was read. `ends` says that an end or an error stands
    /// behind the bytes, so a short read is not the last.
    fn read(&self, cx: &Context, socket: &Rc<Socket>, ends: bool) {
        if socket.listener.is_some() {
            self.accept_some(cx, socket);
            return;
        }
        for n in 0..READS_PER_TURN {
            if n > 0 && self.reads_left.get() == 0 {
                break;
            }
            if socket.rx.borrow().len() >= cx.bounds.recv_queue_max {
                socket.rx_op.set(Op::Idle);
                cx.shared.counters.recv_paused.add(1);
                return;
            }
            if socket.rx_end.get() != ReceiveEnd::Open || socket.life.get() != Life::Open {
                socket.rx_op.set(Op::Idle);
                return;
            }
            let Some(mut buf) = Buf::try_alloc() else {
                // Looked at again before every turn: a buffer can only come back while the worker works.
                cx.shared.counters.enobufs.add(1);
                self.starved.borrow_mut().push(socket.clone());
                return;
            };
            self.reads_left.set(self.reads_left.get().saturating_sub(1));
            let room = buf.spare_mut();
            let room_len = room.len();
            // SAFETY: the kernel writes at most `room_len` bytes into memory this buffer owns, during the call only.
            let n = unsafe { recv(socket.fd.get(), room.as_mut_ptr(), room_len) };
            if n > 0 {
                buf.commit(n as usize);
                socket::received(cx, socket, buf);
                if (n as usize) < room_len && !ends {
                    socket.rx_ready.set(false);
                    return;
                }
            } else if n == 0 {
                socket.rx_ready.set(false);
                socket.rx_op.set(Op::Idle);
                socket::receive_ended(cx, socket, ReceiveEnd::Eof);
                return;
            } else {
                match last_errno() {
                    libc::EAGAIN => {
                        socket.rx_ready.set(false);
                        return;
                    }
                    libc::EINTR => {}
                    errno => {
                        socket.rx_ready.set(false);
                        socket.rx_op.set(Op::Idle);
                        socket::receive_ended(cx, socket, ReceiveEnd::Error(errno));
                        return;
                    }
                }
            }
        }
        self.continue_later(socket);
    }

    /// Hands the front of the queue to the kernel: its answer, and how many bytes it was offered.
    fn send_some(&self, socket: &Socket) -> (isize, usize) {
        let tx = socket.tx.borrow();
        let mut bufs = tx.iter();
        if let (Some(only), None) = (bufs.next(), bufs.next()) {
            // SAFETY: the kernel reads the bytes of a buffer the queue keeps, during the call only.
            let n = unsafe { send(socket.fd.get(), only.as_ptr(), only.len(), socket.send_flags(only.len())) };
            return (n, only.len());
        }
        let mut vectors = [const { libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 } }; IOVECS];
        let (mut count, mut bytes) = (0, 0);
        for (vector, buf) in vectors.iter_mut().zip(tx.iter()) {
            *vector = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
            count += 1;
            bytes += buf.len();
        }
        // SAFETY: all-zero bytes are a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = count;
        // SAFETY: the vectors point into buffers the queue keeps; the kernel reads them during the call only.
        (unsafe { sendmsg(socket.fd.get(), &raw const message, socket.send_flags(bytes)) }, bytes)
    }

    fn accept_some(&self, cx: &Context, socket: &Rc<Socket>) {
        let Some(listener) = &socket.listener else { return };
        for _ in 0..ACCEPTS_PER_TURN {
            if listener.accepted.borrow().len() >= ACCEPTED_MAX {
                socket.rx_op.set(Op::Idle);
                return;
            }
            let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
            let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            // SAFETY: the kernel writes at most `length` bytes into the storage.
            let fd = unsafe { libc::accept4(socket.fd.get(), storage.as_mut_ptr().cast(), &mut length, flags) };
            if fd >= 0 {
                // SAFETY: zeroed, then partly written: initialised either way.
                let peer = decode_address(&unsafe { storage.assume_init() }).ok();
                if socket::accepted(cx, socket, fd, peer) {
                    continue;
                }
                socket.rx_op.set(Op::Idle);
                return;
            }
            match last_errno() {
                libc::EAGAIN => {
                    socket.rx_ready.set(false);
                    return;
                }
                errno => {
                    if !socket::accept_failed(cx, socket, errno) {
                        socket.rx_op.set(Op::Idle);
                        return;
                    }
                }
            }
        }
        self.continue_later(socket);
    }
}

impl Driver for Epoll {
    fn kind(&self) -> IoKind {
        IoKind::Epoll
    }

    fn start(&self, _: &Context) -> io::Result<()> {
        self.register(self.wakeup, libc::EPOLLIN | libc::EPOLLET, WAKEUP)
    }

    fn adopt(&self, _: &Context, socket: &Rc<Socket>) -> io::Result<()> {
        self.register(socket.fd.get(), STREAM_EVENTS, socket.key.get().bits())
    }

    fn accept(&self, cx: &Context, socket: &Rc<Socket>) {
        socket.rx_op.set(Op::Armed);
        if socket.rx_ready.get() {
            self.continue_later(socket);
        } else if !socket.shutdown_wanted.replace(true) {
            // The flag has no other meaning for a listener than that it is registered.
            if let Err(error) = self.register(socket.fd.get(), libc::EPOLLIN | libc::EPOLLET, socket.key.get().bits()) {
                socket::accept_failed(cx, socket, error.raw_os_error().unwrap_or(libc::EINVAL));
            }
        }
    }

    fn connect(&self, cx: &Context, socket: &Rc<Socket>, address: &Address) -> io::Result<()> {
        // SAFETY: the address and its length belong together, the descriptor is open.
        let result = unsafe { libc::connect(socket.fd.get(), address.as_ptr(), address.length()) };
        let errno = if result == 0 { 0 } else { last_errno() };
        if errno != 0 && errno != libc::EINPROGRESS {
            socket.connecting.set(Connecting::Done(errno as i16));
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.adopt(cx, socket)?;
        if errno == 0 {
            socket::connected(cx, socket, 0);
        }
        Ok(())
    }

    fn recv(&self, _: &Context, socket: &Rc<Socket>) {
        socket.rx_op.set(Op::Armed);
        if socket.rx_ready.get() {
            self.continue_later(socket);
        }
    }

    fn stop_recv(&self, _: &Context, socket: &Rc<Socket>) {
        socket.rx_op.set(Op::Idle);
    }

    fn await_bytes(&self, cx: &Context, socket: &Rc<Socket>) {
        self.recv(cx, socket);
    }

    fn await_room(&self, _: &Context, socket: &Rc<Socket>) {
        // The kernel has just refused, so the edge for its room is due from now on.
        socket.tx_op.set(SendOp::Blocked);
    }

    fn send(&self, cx: &Context, socket: &Rc<Socket>) {
        while socket.tx_op.get() == SendOp::Idle && socket.may_send() && socket.tx_bytes.get() > 0 {
            let (n, bytes) = self.send_some(socket);
            if n >= 0 {
                if (n as usize) < bytes {
                    // A short send means the socket is full, and the edge for its room is due from now on.
                    cx.shared.counters.short_sends.add(1);
                    socket.tx_op.set(SendOp::Blocked);
                }
                socket::sent(cx, socket, n as usize);
                continue;
            }
            match last_errno() {
                libc::EINTR => {}
                libc::EAGAIN => {
                    cx.shared.counters.short_sends.add(1);
                    socket.tx_op.set(SendOp::Blocked);
                }
                errno => {
                    socket::send_failed(cx, socket, errno);
                    return;
                }
            }
        }
    }

    fn expect_report(&self, _: &Socket) {}

    fn still(&self, _: &Context, socket: &Rc<Socket>) {
        socket.rx_op.set(Op::Idle);
        socket.tx_op.set(SendOp::Idle);
    }

    fn release(&self, socket: &Socket) -> RawFd {
        let fd = socket.fd.replace(-1);
        self.unregister(fd);
        fd
    }

    fn close(&self, cx: &Context, socket: &Rc<Socket>) {
        if socket.rx_op.get() != Op::Idle || socket.tx_op.get() != SendOp::Idle {
            cx.shared.counters.cancelled.add(1);
        }
        socket.rx_op.set(Op::Idle);
        socket.tx_op.set(SendOp::Idle);
        let fd = socket.fd.replace(-1);
        if socket.listener.is_some() {
            // The process may have given copies of it away, which keep its registration alive.
            self.unregister(fd);
        }
        // Closing takes a connection out of epoll, since it is never duplicated.
        socket::close_fd(fd);
    }

    fn adopt_datagrams(&self, _: &Context, endpoint: &Rc<Endpoint>) -> io::Result<()> {
        self.register_datagrams(endpoint)
    }

    fn still_datagrams(&self, _: &Context, endpoint: &Rc<Endpoint>) {
        endpoint.rx_op.set(Op::Idle);
    }

    fn recv_datagrams(&self, _: &Context, endpoint: &Rc<Endpoint>) {
        self.receive_datagrams(endpoint);
    }

    fn await_datagram_room(&self, _: &Context, endpoint: &Rc<Endpoint>) {
        self.watch_datagram_room(endpoint, true);
    }

    fn close_datagrams(&self, _: &Context, endpoint: &Rc<Endpoint>) {
        endpoint.rx_op.set(Op::Idle);
        let fd = endpoint.fd.replace(-1);
        // The process may have given copies of it away, which keep its registration alive.
        self.unregister(fd);
        socket::close_fd(fd);
    }

    fn may_sleep(&self, cx: &Context) -> bool {
        self.feed_starved(cx);
        let datagrams_may = self.datagrams_may_sleep(cx);
        datagrams_may && self.unfinished.borrow().is_empty()
    }

    fn turn(&self, cx: &Context, wait: Wait) {
        let timeout_ms = match wait {
            Wait::Not => 0,
            Wait::Upto(None) => -1,
            // Rounded up, or the last millisecond would be spent spinning.
            Wait::Upto(Some(duration)) => duration.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32,
        };
        self.feed_starved(cx);
        self.reads_left.set(READS_MOST);
        let waiting = self.unfinished.borrow().len();
        let unfinished_datagrams = self.datagrams.unfinished.take();
        let mut events = self.events.borrow_mut();
        cx.shared.counters.enters.add(1);
        // SAFETY: the kernel writes at most `len` events into the vector.
        let n = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, timeout_ms) };
        // What one look cannot bring waits for the next turn, and for all that is done in this one.
        cx.shared.counters.recent_ring_permille.saw_part(n.max(0) as usize, events.len());
        for event in &events[..n.max(0) as usize] {
            let (data, events) = (event.u64, event.events);
            if data == WAKEUP {
                continue;
            }
            if data & datagrams::TAG != 0 {
                self.dispatch_datagrams(cx, SlotKey::from_bits(data), events);
            } else if let Some(socket) = cx.sockets.find(SlotKey::from_bits(data)) {
                self.dispatch(cx, &socket, events);
            }
        }
        drop(events);
        for _ in 0..waiting {
            if self.reads_left.get() == 0 {
                break;
            }
            let Some(socket) = self.unfinished.borrow_mut().pop_front() else { break };
            if socket.rx_op.get() == Op::Armed && socket.rx_ready.get() {
                self.take_in(cx, &socket, true);
            }
        }
        for endpoint in unfinished_datagrams {
            if endpoint.rx_op.get() == Op::Armed && endpoint.rx_ready.get() {
                self.take_in_datagrams(cx, &endpoint);
            }
        }
    }

    fn stop(&self, cx: &Context) {
        if self.stopped.replace(true) {
            return;
        }
        for socket in cx.sockets.all() {
            socket::close(cx, &socket);
        }
        self.stop_datagrams(cx);
        self.unfinished.borrow_mut().clear();
        self.starved.borrow_mut().clear();
    }
}

// libc's functions of the same names are points where a thread may be cancelled, and say so to the library before and after each
// call: a hundred instructions per message, for a thing nobody does.

/// # Safety
/// `room` is writable for `length` bytes during the call.
#[inline]
unsafe fn recv(fd: RawFd, room: *mut u8, length: usize) -> isize {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: by the contract; the kernel is not asked for the address.
    unsafe { libc::syscall(libc::SYS_recvfrom, fd, room, length, 0, none, none) as isize }
}

/// # Safety
/// `bytes` is readable for `length` bytes during the call.
#[inline]
unsafe fn send(fd: RawFd, bytes: *const u8, length: usize, flags: libc::c_int) -> isize {
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: by the contract; the socket is connected, so there is no address.
    unsafe { libc::syscall(libc::SYS_sendto, fd, bytes, length, flags, none, 0) as isize }
}

/// # Safety
/// `message` is valid, and what it points to readable, during the call.
#[inline]
unsafe fn sendmsg(fd: RawFd, message: *const libc::msghdr, flags: libc::c_int) -> isize {
    // SAFETY: by the contract.
    unsafe { libc::syscall(libc::SYS_sendmsg, fd, message, flags) as isize }
}

fn take_error(fd: RawFd) -> i32 {
    let mut errno = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes one int.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut errno).cast(), &mut length) };
    if result == 0 { errno } else { last_errno() }
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

const STREAM_EVENTS: libc::c_int = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
const WAKEUP: u64 = u64::MAX;
const EVENTS: usize = 256;
/// Buffers taken in a row from sockets handed to one `sendmsg`.
const IOVECS: usize = 16;
/// What one socket may take of a turn before the others have theirs.
const READS_PER_TURN: usize = 4;
/// Reads of a turn, a megabyte if they are full, after which sockets that have something new are read from once, and those that have more
/// than that wait for the next turn.
const READS_MOST: usize = 32;
const ACCEPTS_PER_TURN: usize = 32;
