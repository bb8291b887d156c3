//! One socket as its worker sees it, and everything about it that does not depend on the driver: queues, waiting tasks, closing.
//!
//! A socket stays in the worker's table until its descriptor is closed *and* the kernel has reported the end of every operation on
//! it; only then is its slot used again. Buffers handed to the kernel stay at the front of the send queue until then.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Instant;

use crate::Buf;
use crate::context::Context;
use crate::driver::Driver;
use crate::executor::WakerCell;
use crate::memory::Kind;
use crate::pressure;
use crate::runtime::Shared;
use crate::table::Chunks;
use crate::time::{Action, far_add};

/// A slot of the table and which of its successive uses is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotKey(u64);

impl SlotKey {
    pub const INDEX_BITS: u32 = 32;
    pub const GENERATION_BITS: u32 = 24;

    pub const fn new(index: u32, generation: u32) -> SlotKey {
        SlotKey((index as u64) | ((generation as u64 & ((1 << Self::GENERATION_BITS) - 1)) << Self::INDEX_BITS))
    }

    pub const fn from_bits(bits: u64) -> SlotKey {
        SlotKey(bits & ((1 << (Self::INDEX_BITS + Self::GENERATION_BITS)) - 1))
    }

    /// The low 56 bits of a `u64`.
    pub const fn bits(self) -> u64 {
        self.0
    }

    pub const fn index(self) -> u32 {
        self.0 as u32
    }

    pub const fn generation(self) -> u32 {
        (self.0 >> Self::INDEX_BITS) as u32
    }
}

/// What a worker keeps by key: its connections, its UDP sockets.
pub(crate) trait Entry {
    /// What its fixed part is booked as, and how much that is: with its reference counts and its slot.
    const KIND: Kind;
    const BYTES: usize;

    fn key(&self) -> &Cell<SlotKey>;
}

/// The sockets of a worker, of one sort.
pub(crate) struct Sockets<T> {
    table: RefCell<Table<T>>,
}

struct Table<T> {
    slots: Chunks<(u32, Option<Rc<T>>)>,
    free: Vec<u32>,
}

impl<T: Entry> Sockets<T> {
    pub fn new() -> Sockets<T> {
        Sockets { table: RefCell::new(Table { slots: Chunks::default(), free: Vec::new() }) }
    }

    pub fn insert(&self, socket: T, shared: &Shared) -> Rc<T> {
        shared.ledger.book(T::KIND, T::BYTES as u64, shared);
        let mut table = self.table.borrow_mut();
        let index = table.free.pop().unwrap_or_else(|| table.slots.push((0, None)));
        let slot = &mut table.slots[index];
        socket.key().set(SlotKey::new(index, slot.0));
        let socket = Rc::new(socket);
        slot.1 = Some(socket.clone());
        socket
    }

    #[inline]
    pub fn find(&self, key: SlotKey) -> Option<Rc<T>> {
        match self.table.borrow().slots.get(key.index()) {
            Some((generation, socket)) if *generation == key.generation() => socket.clone(),
            _ => None,
        }
    }

    pub fn remove(&self, key: SlotKey, shared: &Shared) {
        let mut table = self.table.borrow_mut();
        let Some(slot) = table.slots.get_mut(key.index()).filter(|slot| slot.0 == key.generation()) else {
            return;
        };
        let removed = slot.1.take();
        if removed.is_some() {
            slot.0 = SlotKey::new(0, slot.0.wrapping_add(1)).generation();
            table.free.push(key.index());
            shared.ledger.book(T::KIND, 0u64.wrapping_sub(T::BYTES as u64), shared);
        }
        drop(table);
        drop(removed);
    }

    pub fn all(&self) -> Vec<Rc<T>> {
        self.table.borrow().slots.iter().filter_map(|(_, socket)| socket.clone()).collect()
    }
}

pub(crate) struct Socket {
    pub key: Cell<SlotKey>,
    /// -1 once closed, or on its way to be.
    pub fd: Cell<RawFd>,
    /// `TcpStream`s (or one `TcpListener`) that refer to it.
    pub handles: Cell<u32>,
    /// Operations the kernel has not reported the end of.
    pub ops: Cell<u16>,
    pub listener: Option<Box<Listener>>,

    pub rx: RefCell<Queue>,
    pub rx_end: Cell<ReceiveEnd>,
    pub rx_op: Cell<Op>,
    /// epoll: the kernel may have more to read.
    pub rx_ready: Cell<bool>,
    /// Ring: receive one buffer at a time, because the queue ran over and the socket may hold a lot.
    pub rx_bulk: Cell<bool>,
    pub splicing: Cell<Splicing>,
    pub rx_waker: WakerCell,

    pub tx: RefCell<Queue>,
    /// Bytes in `tx`, those the kernel works on included.
    pub tx_bytes: Cell<usize>,
    /// Bytes and buffers at the front of `tx` that the kernel works on.
    pub tx_op_bytes: Cell<u32>,
    pub tx_op: Cell<SendOp>,
    /// An errno, 0 while all is well.
    pub tx_error: Cell<i32>,
    pub tx_waker: WakerCell,
    /// A task waits for `tx_bytes` to fall to this, if any waits.
    pub tx_mark: Cell<u32>,
    pub bytes_sent: Cell<u64>,
    /// In the worker's list of sockets with something new to send.
    pub dirty: Cell<bool>,

    pub shutdown_wanted: Cell<bool>,
    pub connecting: Cell<Connecting>,
    pub life: Cell<Life>,
    linger_timer: Cell<u32>,
}

/// What only a listener has.
#[derive(Default)]
pub(crate) struct Listener {
    pub accepted: RefCell<VecDeque<(RawFd, Option<SocketAddr>)>>,
    /// Nothing more is accepted.
    pub ended: Cell<bool>,
    /// The last accept failed for want of descriptors or memory: pause before the next.
    pub exhausted: Cell<bool>,
    pub backoff: crate::time::Deadline,
    /// The first of the accepts that failed so in a row.
    pub exhausted_since: Cell<Option<Instant>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReceiveEnd {
    Open,
    Eof,
    Error(i32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    Idle,
    Armed,
    Cancelling,
    /// Wants to be armed as soon as the driver has buffers (ring) or in the next turn (epoll).
    Starved,
    /// Ring: waits for bytes without receiving them.
    Watching,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SendOp {
    Idle,
    /// Reported only if it fails; its success is concluded once the kernel has returned.
    Silent,
    /// Reported in any case.
    Reported,
    /// The socket is full, an event will say when it is not. On the ring only where nothing is queued.
    Blocked,
}

/// See `net::splice`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Splicing {
    /// Not so far; on the ring the descriptor may still be a blocking one.
    Never,
    /// Not at the moment.
    Ready,
    /// Bytes are taken from it that way, so none are received.
    From,
    /// The kernel cannot.
    Refused,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Connecting {
    No,
    Pending,
    /// With an errno, 0 when established.
    Done(i16),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    Open,
    /// Nothing more is begun on it, and what is under way ends; see `net::park`.
    Parking,
    /// Without handles, sending what is queued.
    Lingering,
    /// The descriptor is closed; operations may still be ending.
    Closed,
}

impl Entry for Socket {
    const KIND: Kind = Kind::Connections;
    const BYTES: usize = SOCKET_BYTES;

    fn key(&self) -> &Cell<SlotKey> {
        &self.key
    }
}

impl Socket {
    pub fn new(fd: RawFd, listener: Option<Box<Listener>>) -> Socket {
        Socket {
            key: Cell::new(SlotKey::new(0, 0)),
            fd: Cell::new(fd),
            handles: Cell::new(1),
            ops: Cell::new(0),
            listener,
            rx: RefCell::default(),
            rx_end: Cell::new(ReceiveEnd::Open),
            rx_op: Cell::new(Op::Idle),
            rx_ready: Cell::new(false),
            rx_bulk: Cell::new(false),
            splicing: Cell::new(Splicing::Never),
            rx_waker: WakerCell::new(),
            tx: RefCell::default(),
            tx_bytes: Cell::new(0),
            tx_op_bytes: Cell::new(0),
            tx_op: Cell::new(SendOp::Idle),
            tx_error: Cell::new(0),
            tx_waker: WakerCell::new(),
            tx_mark: Cell::new(NO_MARK),
            bytes_sent: Cell::new(0),
            dirty: Cell::new(false),
            shutdown_wanted: Cell::new(false),
            connecting: Cell::new(Connecting::No),
            life: Cell::new(Life::Open),
            linger_timer: Cell::new(NO_TIMER),
        }
    }

    pub fn is_open(&self) -> bool {
        self.life.get() != Life::Closed
    }

    /// Sends may be started.
    pub fn may_send(&self) -> bool {
        matches!(self.life.get(), Life::Open | Life::Lingering)
    }

    pub fn begin_op(&self) {
        self.ops.set(self.ops.get() + 1);
    }

    /// Flags for sending `bytes` from the front of the queue. The last bytes of all wait in the kernel for the FIN that follows them,
    /// so that both travel in one segment.
    pub fn send_flags(&self, bytes: usize) -> libc::c_int {
        let ends = self.shutdown_wanted.get() || self.life.get() == Life::Lingering;
        libc::MSG_NOSIGNAL | if ends && bytes == self.tx_bytes.get() { libc::MSG_MORE } else { 0 }
    }

    /// Somebody waits to learn that bytes were sent, so a send's success must be reported.
    pub fn send_is_awaited(&self) -> bool {
        self.tx_mark.get() != NO_MARK || self.shutdown_wanted.get() || self.life.get() == Life::Lingering
    }
}

/// The kernel reported the end of an operation; the last one frees the slot of a closed socket.
pub(crate) fn end_op(cx: &Context, socket: &Socket) {
    debug_assert!(socket.ops.get() > 0);
    socket.ops.set(socket.ops.get() - 1);
    if socket.life.get() == Life::Parking && socket.ops.get() == 0 {
        socket.rx_waker.wake(&cx.executor);
    }
    release_if_done(cx, socket);
}

pub(crate) fn release_if_done(cx: &Context, socket: &Socket) {
    if socket.life.get() == Life::Closed && socket.ops.get() == 0 {
        cx.sockets.remove(socket.key.get(), &cx.shared);
    }
}

/// A connection was established (`errno` 0) or refused.
pub(crate) fn connected(cx: &Context, socket: &Socket, errno: i32) {
    if !socket.is_open() {
        return;
    }
    socket.connecting.set(Connecting::Done(errno as i16));
    if errno == 0 {
        cx.shared.counters.connected.add(1);
        cx.shared.counters.connections_open.add(1);
    }
    socket.tx_waker.wake(&cx.executor);
}

/// A listener got a connection; what came too late is closed, and so is one that has a descriptor of the last ones. True when accepting
/// should go on at once.
pub(crate) fn accepted(cx: &Context, socket: &Socket, fd: RawFd, peer: Option<SocketAddr>) -> bool {
    match &socket.listener {
        Some(listener) if socket.is_open() => {
            let is_last = pressure::pauses_at(fd);
            if pressure::refuses(fd) {
                close_fd(fd);
                cx.shared.counters.shed.add(1);
            } else {
                if !is_last {
                    listener.exhausted_since.set(None);
                }
                listener.accepted.borrow_mut().push_back((fd, peer));
                socket.rx_waker.wake(&cx.executor);
            }
            !is_last || accept_failed(cx, socket, libc::EMFILE)
        }
        _ => {
            close_fd(fd);
            true
        }
    }
}

/// An accept failed. What concerns a single connection is ignored; true when accepting should go on at once.
pub(crate) fn accept_failed(cx: &Context, socket: &Socket, errno: i32) -> bool {
    let Some(listener) = &socket.listener else { return false };
    if is_exhaustion(errno) {
        cx.shared.counters.emfile.add(1);
        listener.exhausted.set(true);
        if listener.exhausted_since.get().is_none() {
            listener.exhausted_since.set(Some(cx.now.get()));
        }
        listener.backoff.set_after(super::listener::ACCEPT_BACKOFF);
    } else if matches!(errno, libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP | libc::EFAULT) {
        socket.rx_end.set(ReceiveEnd::Error(errno));
    } else {
        // accept(2) passes on the network errors of the connection it was about to return.
        return true;
    }
    socket.rx_waker.wake(&cx.executor);
    false
}

/// A stream that is spliced from may have something.
pub(crate) fn may_be_spliced(cx: &Context, socket: &Socket) {
    socket.rx_op.set(Op::Idle);
    socket.rx_waker.wake(&cx.executor);
}

/// Bytes arrived.
pub(crate) fn received(cx: &Context, socket: &Socket, buf: Buf) {
    cx.shared.counters.bytes_in.add(buf.len() as u64);
    if socket.handles.get() == 0 || !socket.is_open() {
        return;
    }
    {
        let mut rx = socket.rx.borrow_mut();
        match rx.back_mut() {
            // A peer that says a byte at a time to a task that is busy would hold a buffer for each of them.
            Some(last) if buf.len() <= JOINED_MOST && buf.len() <= last.tailroom() => {
                last.append(&buf);
            }
            _ => rx.push_back(buf),
        }
    }
    socket.rx_waker.wake(&cx.executor);
}

/// The receiving direction ended.
pub(crate) fn receive_ended(cx: &Context, socket: &Socket, end: ReceiveEnd) {
    if socket.rx_end.get() == ReceiveEnd::Open {
        socket.rx_end.set(end);
    }
    socket.rx_waker.wake(&cx.executor);
}

/// The kernel took `n` bytes from the front of the send queue.
pub(crate) fn sent(cx: &Context, socket: &Rc<Socket>, n: usize) {
    let mut left = n;
    {
        let mut tx = socket.tx.borrow_mut();
        while left > 0 {
            let Some(front) = tx.front_mut() else { break };
            if front.len() > left {
                front.advance(left);
                break;
            }
            left -= front.len();
            tx.pop_front();
        }
    }
    cx.shared.counters.bytes_out.add(n as u64);
    socket.bytes_sent.set(socket.bytes_sent.get() + n as u64);
    let queued = socket.tx_bytes.get().saturating_sub(n);
    socket.tx_bytes.set(queued);
    if socket.tx_mark.get() != NO_MARK && queued <= socket.tx_mark.get() as usize {
        socket.tx_mark.set(NO_MARK);
        socket.tx_waker.wake(&cx.executor);
    }
    if queued == 0 {
        drained(cx, socket);
    }
}

/// The sending direction broke; what is queued will never go out.
pub(crate) fn send_failed(cx: &Context, socket: &Rc<Socket>, errno: i32) {
    if socket.tx_error.get() == 0 {
        socket.tx_error.set(errno);
    }
    drop_unsent(socket);
    socket.tx_mark.set(NO_MARK);
    socket.tx_waker.wake(&cx.executor);
    if socket.life.get() == Life::Lingering {
        close(cx, socket);
    }
}

/// Only to be called while the kernel works on none of the queued buffers.
pub(crate) fn drop_unsent(socket: &Socket) {
    debug_assert!(socket.tx_op.get() == SendOp::Idle || socket.tx_op.get() == SendOp::Blocked);
    let unsent = socket.tx.take();
    socket.tx_bytes.set(0);
    socket.tx_op_bytes.set(0);
    drop(unsent);
}

/// Everything queued was sent: do what waited for that.
fn drained(cx: &Context, socket: &Rc<Socket>) {
    match socket.life.get() {
        Life::Lingering => {
            // Closing takes back what still waits for its FIN when the peer has sent what nobody read.
            shutdown_now(socket);
            close(cx, socket);
        }
        Life::Open if socket.shutdown_wanted.get() => shutdown_now(socket),
        _ => {}
    }
}

pub(crate) fn shutdown_write(cx: &Context, socket: &Rc<Socket>) {
    if socket.life.get() == Life::Open && !socket.shutdown_wanted.replace(true) {
        if socket.tx_bytes.get() == 0 {
            shutdown_now(socket);
        } else {
            cx.driver.expect_report(socket);
        }
    }
}

fn shutdown_now(socket: &Socket) {
    // SAFETY: a plain system call on a descriptor this socket owns. A socket that is already disconnected answers ENOTCONN, and
    // then there is nothing to shut.
    unsafe { libc::shutdown(socket.fd.get(), libc::SHUT_WR) };
}

/// The last handle is gone.
pub(crate) fn abandoned(cx: &Context, socket: &Rc<Socket>) {
    if !matches!(socket.life.get(), Life::Open | Life::Parking) {
        release_if_done(cx, socket);
        return;
    }
    drop(socket.rx.take());
    if socket.tx_bytes.get() == 0 || socket.tx_error.get() != 0 || cx.stopping.get() || cx.bounds.linger.is_zero() {
        close(cx, socket);
        return;
    }
    let was_parking = socket.life.replace(Life::Lingering) == Life::Parking;
    let timer = cx.timers.create(Action::Linger(socket.key.get()));
    cx.timers.set(timer, far_add(cx.now.get(), cx.bounds.linger));
    socket.linger_timer.set(timer);
    cx.driver.stop_recv(cx, socket);
    cx.driver.expect_report(socket);
    if was_parking {
        // Sending was stopped.
        cx.driver.send(cx, socket);
    }
}

/// Closes at once: operations are cancelled, what is queued is dropped when the kernel is done with it.
pub(crate) fn close(cx: &Context, socket: &Rc<Socket>) {
    if socket.life.replace(Life::Closed) == Life::Closed {
        return;
    }
    let timer = socket.linger_timer.replace(NO_TIMER);
    if timer != NO_TIMER {
        cx.timers.remove(timer);
    }
    drop(socket.rx.take());
    if let Some(listener) = &socket.listener {
        for (fd, _) in listener.accepted.take() {
            close_fd(fd);
        }
    } else if socket.connecting.get() == Connecting::No || socket.connecting.get() == Connecting::Done(0) {
        cx.shared.counters.connections_open.sub(1);
    }
    // Slots must not be freed while the driver looks at the socket.
    socket.begin_op();
    cx.driver.close(cx, socket);
    if matches!(socket.tx_op.get(), SendOp::Idle | SendOp::Blocked) {
        drop_unsent(socket);
    }
    end_op(cx, socket);
}

/// Closes with a reset: the peer learns that the exchange was cut off.
pub(crate) fn abort(cx: &Context, socket: &Rc<Socket>) {
    if !socket.is_open() {
        return;
    }
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // Without it the close would be an orderly one; nothing else is lost if the kernel refuses.
    let _ = super::set_option(socket.fd.get(), libc::SOL_SOCKET, libc::SO_LINGER, linger);
    close(cx, socket);
    if socket.rx_end.get() == ReceiveEnd::Open {
        socket.rx_end.set(ReceiveEnd::Error(libc::ECONNABORTED));
    }
    if socket.tx_error.get() == 0 {
        socket.tx_error.set(libc::ECONNABORTED);
    }
    socket.rx_waker.wake(&cx.executor);
    socket.tx_waker.wake(&cx.executor);
}

/// Takes a connection nothing is under way on out of the worker's hands, all but its slot, which the last handle frees.
pub(crate) fn release(cx: &Context, socket: &Socket) -> RawFd {
    socket.life.set(Life::Closed);
    cx.shared.counters.connections_open.sub(1);
    cx.driver.release(socket)
}

pub(crate) fn linger_expired(cx: &Context, key: SlotKey) {
    if let Some(socket) = cx.sockets.find(key)
        && socket.life.get() == Life::Lingering
    {
        cx.shared.counters.linger_expired.add(1);
        abort(cx, &socket);
    }
}

pub(crate) fn close_fd(fd: RawFd) {
    if fd >= 0 {
        // SAFETY: the caller owns the descriptor and gives it up.
        unsafe { libc::close(fd) };
    }
}

/// Whether a connection could not be had because this machine is short of something: descriptors, memory or ports of its own. It tells
/// nothing of the other side.
pub fn is_own_shortage(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|errno| is_exhaustion(errno) || errno == libc::EADDRNOTAVAIL)
}

pub(crate) fn is_exhaustion(errno: i32) -> bool {
    matches!(errno, libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
}

pub(crate) fn error_of(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// A queue that mostly holds nothing or one buffer, and takes memory of its own only while it holds more.
#[derive(Default)]
pub(crate) struct Queue {
    first: Option<Buf>,
    #[expect(clippy::box_collection, reason = "an empty queue must be small: every connection has two")]
    rest: Option<Box<VecDeque<Buf>>>,
}

impl Queue {
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    #[inline]
    pub fn push_back(&mut self, buf: Buf) {
        if self.first.is_none() {
            self.first = Some(buf);
        } else {
            self.rest.get_or_insert_with(take_list).push_back(buf);
        }
    }

    pub fn push_front(&mut self, buf: Buf) {
        if let Some(second) = self.first.replace(buf) {
            self.rest.get_or_insert_with(take_list).push_front(second);
        }
    }

    #[inline]
    pub fn pop_front(&mut self) -> Option<Buf> {
        let popped = self.first.take();
        if let Some(rest) = &mut self.rest {
            self.first = rest.pop_front();
            if rest.is_empty() {
                self.rest.take().into_iter().for_each(keep_list);
            }
        }
        popped
    }

    #[inline]
    pub fn front_mut(&mut self) -> Option<&mut Buf> {
        self.first.as_mut()
    }

    #[inline]
    pub fn back_mut(&mut self) -> Option<&mut Buf> {
        match &mut self.rest {
            Some(rest) if !rest.is_empty() => rest.back_mut(),
            _ => self.first.as_mut(),
        }
    }

    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &Buf> {
        self.first.iter().chain(self.rest.iter().flat_map(|rest| rest.iter()))
    }

    pub fn bytes(&self) -> usize {
        self.iter().map(|buf| buf.len()).sum()
    }

    /// Bytes of memory it takes besides itself.
    pub fn memory(&self) -> usize {
        let list = self.rest.as_ref().map_or(0, |rest| size_of::<VecDeque<Buf>>() + rest.capacity() * size_of::<Buf>());
        self.len() * Buf::CAPACITY + list
    }
}

thread_local! {
    /// Lists of queues that have emptied, for the next that needs one: an idle connection keeps none.
    #[expect(clippy::vec_box, reason = "the box is what is reused")]
    static SPARE_LISTS: RefCell<Vec<Box<VecDeque<Buf>>>> = const { RefCell::new(Vec::new()) };
}

#[expect(clippy::box_collection, reason = "see Queue")]
fn take_list() -> Box<VecDeque<Buf>> {
    SPARE_LISTS.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default()
}

#[expect(clippy::box_collection, reason = "see Queue")]
fn keep_list(list: Box<VecDeque<Buf>>) {
    if list.capacity() <= SPARE_LIST_CAPACITY {
        // A thread that ends has no use for it.
        let _ = SPARE_LISTS.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_LISTS_MAX {
                spare.push(list);
            }
        });
    }
}

/// 64 KiB per worker at most.
const SPARE_LISTS_MAX: usize = 64;
const SPARE_LIST_CAPACITY: usize = 64;
/// Received pieces up to this size are copied behind what waits; larger ones are worth a buffer of their own.
const JOINED_MOST: usize = 4096;
pub(crate) const NO_MARK: u32 = u32::MAX;
const NO_TIMER: u32 = u32::MAX;
/// A socket with its reference counts and its slot in the table.
pub(crate) const SOCKET_BYTES: usize =
    size_of::<Socket>() + 2 * size_of::<usize>() + size_of::<(u32, Option<Rc<Socket>>)>();

/// What an idle connection costs besides its task; DESIGN allows 600 bytes for all of it. With its reference counts it just fits the
/// allocator's class of 192.
const _: () = assert!(size_of::<Socket>() <= 176, "a socket has grown");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_keeps_order_at_both_ends() {
        let mut queue = Queue::default();
        for text in ["b", "c", "d"] {
            queue.push_back(Buf::copy_from(text.as_bytes()));
        }
        queue.push_front(Buf::copy_from(b"a"));
        assert_eq!((queue.len(), queue.bytes()), (4, 4));
        let mut seen = Vec::new();
        while let Some(buf) = queue.pop_front() {
            seen.extend_from_slice(&buf);
        }
        assert_eq!(seen, b"abcd");
        assert!(queue.is_empty());
        queue.push_back(Buf::copy_from(b"e"));
        assert_eq!(queue.pop_front().as_deref(), Some(&b"e"[..]));
    }

    #[test]
    fn keys_keep_their_parts() {
        let key = SlotKey::new(u32::MAX - 1, (1 << SlotKey::GENERATION_BITS) - 1);
        assert_eq!((key.index(), key.generation()), (u32::MAX - 1, (1 << SlotKey::GENERATION_BITS) - 1));
        assert_eq!(SlotKey::from_bits(key.bits() | 7 << 56), key);
    }
}
