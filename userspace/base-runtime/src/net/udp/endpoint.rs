//! One UDP socket as its worker sees it, and everything about it that does not depend on the driver.
//!
//! Receiving is as with streams: a bounded queue, filled by the driver, with the kernel's buffer behind it. An error the network
//! reported waits behind what was received before it; until it is taken, receiving is not started again.
//!
//! Sending is a system call of our own with either driver: one `sendmmsg` per socket and turn takes all that was queued, in order.
//! Handed to the ring one by one, those behind one that found the socket full would overtake it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::ops::Deref;
use std::os::fd::RawFd;
use std::rc::Rc;

use super::control::{Control, Ecn, Meta, PAYLOAD_AT, decode};
use crate::buffer::Block;
use crate::context::Context;
use crate::driver::Driver;
use crate::executor::WakerCell;
use crate::memory::{Booking, Kind};
use crate::net::address::Address;
use crate::net::socket::{Entry, Op, SlotKey, close_fd};

pub(crate) struct Endpoint {
    pub key: Cell<SlotKey>,
    /// -1 once closed, or on its way to be.
    pub fd: Cell<RawFd>,
    pub handles: Cell<u32>,
    /// Operations the kernel has not reported the end of.
    ops: Cell<u16>,
    closed: Cell<bool>,
    /// An IPv6 socket, which may carry IPv4 as well.
    v6: bool,

    pub rx: RefCell<VecDeque<Received>>,
    pub rx_op: Cell<Op>,
    /// epoll: the kernel may have more.
    pub rx_ready: Cell<bool>,
    /// An errno of the network's that nobody has taken yet, or 0.
    pub rx_error: Cell<i32>,
    /// Nothing more is received.
    pub deaf: Cell<bool>,
    pub rx_waker: WakerCell,
    /// What the kernel has counted as dropped so far.
    overflows: Cell<u32>,

    tx: RefCell<Outgoing>,
    /// The kernel has no room; the driver tells when it has.
    pub tx_blocked: Cell<bool>,
    /// Why a queued datagram was refused, or 0.
    tx_error: Cell<i32>,
    pub tx_waker: WakerCell,
    /// In the worker's list of sockets with something to send.
    dirty: Cell<bool>,
    /// The kernel splits what is sent; not so where a device cannot.
    splits: Cell<bool>,
    lists: Booking,
}

impl Entry for Endpoint {
    const KIND: Kind = Kind::Datagrams;
    const BYTES: usize = size_of::<Endpoint>() + 2 * size_of::<usize>() + size_of::<(u32, Option<Rc<Endpoint>>)>();

    fn key(&self) -> &Cell<SlotKey> {
        &self.key
    }
}

/// A datagram, or several of one flow that the kernel joined.
pub struct Received {
    block: Block,
    length: usize,
    meta: Meta,
}

impl Received {
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The datagrams one by one. A datagram of no bytes is one as well.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let empty = self.is_empty().then_some(&[][..]);
        empty.into_iter().chain(self.chunks(self.meta.segment_size))
    }

    fn count(&self) -> u64 {
        self.length.div_ceil(self.meta.segment_size).max(1) as u64
    }
}

impl Deref for Received {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.block[PAYLOAD_AT..PAYLOAD_AT + self.length]
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received").field("length", &self.length).field("meta", &self.meta).finish()
    }
}

/// What is to be sent: one datagram, or several of one length to one place.
#[derive(Debug, Clone, Copy)]
pub struct Transmit<'a> {
    /// `None` on a connected socket.
    pub destination: Option<SocketAddr>,
    pub contents: &'a [u8],
    /// The contents are several datagrams of this length, of which the last may be shorter. The kernel, or the network card, splits
    /// them: one pass through the stack for all of them.
    pub segment_size: Option<usize>,
    pub ecn: Ecn,
    /// The address of this machine to send from; `None` for the one bound, or the one the route says.
    pub source: Option<IpAddr>,
    /// The index of the interface to send over; 0 for the one the route says.
    pub interface: u32,
}

impl<'a> Transmit<'a> {
    pub fn new(destination: SocketAddr, contents: &'a [u8]) -> Transmit<'a> {
        Transmit { destination: Some(destination), ..Transmit::connected(contents) }
    }

    /// To the peer of a connected socket.
    pub fn connected(contents: &'a [u8]) -> Transmit<'a> {
        Transmit { destination: None, contents, segment_size: None, ecn: Ecn::NotCapable, source: None, interface: 0 }
    }

    fn check(&self) -> io::Result<Way> {
        let refuse = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        let length = self.contents.len();
        if length > SENT_BYTES_MAX {
            return refuse(format!("{length} bytes to send at once: UDP takes at most {SENT_BYTES_MAX}"));
        }
        let segment = match self.segment_size {
            Some(0) => return refuse("segments of 0 bytes: leave the size out to send one datagram".to_owned()),
            Some(size) if size < length => match length.div_ceil(size) {
                ..=SEGMENTS_MAX => Some(size as u16),
                n => return refuse(format!("{n} datagrams to send at once: at most {SEGMENTS_MAX} go together")),
            },
            _ => None,
        };
        Ok(Way {
            destination: self.destination,
            source: self.source,
            interface: self.interface,
            segment,
            ecn: self.ecn,
        })
    }
}

/// A [`Transmit`] without its contents.
#[derive(Clone, Copy)]
struct Way {
    destination: Option<SocketAddr>,
    source: Option<IpAddr>,
    interface: u32,
    segment: Option<u16>,
    ecn: Ecn,
}

/// What waits to be sent: the contents one behind the other in one buffer of the pool's, which is all a socket may hold back.
#[derive(Default)]
struct Outgoing {
    block: Option<Block>,
    used: usize,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    start: usize,
    length: usize,
    way: Way,
    /// To be sent piece by piece, since the kernel would not split it.
    split: bool,
}

impl Outgoing {
    /// Whether there was room for it.
    fn push(&mut self, cx: &Context, contents: &[u8], way: Way, split: bool) -> bool {
        if self.waiting.len() >= WAITING_MAX {
            return false;
        }
        if self.block.is_none() {
            self.block = cx.datagram_pool.take_block(&cx.shared.counters);
            self.used = 0;
        }
        let Some(block) = &mut self.block else {
            cx.shared.counters.datagram_buffers_exhausted.add(1);
            return false;
        };
        if contents.len() > block.len() - self.used {
            let first = self.waiting.front().map_or(self.used, |waiting| waiting.start);
            block.copy_within(first..self.used, 0);
            self.used -= first;
            self.waiting.iter_mut().for_each(|waiting| waiting.start -= first);
        }
        let Some(room) = block.get_mut(self.used..self.used + contents.len()) else { return false };
        room.copy_from_slice(contents);
        self.waiting.push_back(Waiting { start: self.used, length: contents.len(), way, split });
        self.used += contents.len();
        true
    }

    /// The first `n` are gone.
    fn sent(&mut self, n: usize) {
        self.waiting.drain(..n);
        if self.waiting.is_empty() {
            self.block = None;
            if self.waiting.capacity() > LIST_KEPT {
                self.waiting = VecDeque::new();
            }
        }
    }
}

impl Endpoint {
    pub fn new(fd: RawFd, v6: bool) -> Endpoint {
        Endpoint {
            key: Cell::new(SlotKey::new(0, 0)),
            fd: Cell::new(fd),
            handles: Cell::new(1),
            ops: Cell::new(0),
            closed: Cell::new(false),
            v6,
            rx: RefCell::default(),
            rx_op: Cell::new(Op::Idle),
            rx_ready: Cell::new(false),
            rx_error: Cell::new(0),
            deaf: Cell::new(false),
            rx_waker: WakerCell::new(),
            overflows: Cell::new(0),
            tx: RefCell::default(),
            tx_blocked: Cell::new(false),
            tx_error: Cell::new(0),
            tx_waker: WakerCell::new(),
            dirty: Cell::new(false),
            splits: Cell::new(true),
            lists: Booking::new(Kind::Datagrams, 0),
        }
    }

    pub fn is_open(&self) -> bool {
        !self.closed.get()
    }

    pub fn begin_op(&self) {
        self.ops.set(self.ops.get() + 1);
    }

    /// Receiving may go on: there is room, and no error waits to be taken.
    pub fn may_receive(&self, cx: &Context) -> bool {
        self.is_open()
            && !self.deaf.get()
            && self.rx_error.get() == 0
            && self.rx.borrow().len() < cx.bounds.datagram_queue_max
    }

    /// The next datagram that is queued. Receiving that paused goes on when half the queue is free, so that it does not stop and start
    /// for each.
    pub fn take(self: &Rc<Self>, cx: &Context) -> Option<Received> {
        let (received, left) = {
            let mut rx = self.rx.borrow_mut();
            let received = rx.pop_front()?;
            if rx.is_empty() && rx.capacity() > LIST_KEPT {
                *rx = VecDeque::new();
            }
            (received, rx.len())
        };
        self.book_lists();
        if left <= cx.bounds.datagram_queue_max / 2 {
            self.receive(cx);
        }
        Some(received)
    }

    /// Starts receiving, or goes on, unless it is under way.
    pub fn receive(self: &Rc<Self>, cx: &Context) {
        if self.rx_op.get() == Op::Idle && self.may_receive(cx) {
            cx.driver.recv_datagrams(cx, self);
        }
    }

    fn book_lists(&self) {
        let received = self.rx.borrow().capacity() * size_of::<Received>();
        self.lists.set(received + self.tx.borrow().waiting.capacity() * size_of::<Waiting>());
    }

    /// Nothing is queued, and the kernel is not known to be without room.
    pub fn has_room(&self) -> bool {
        !self.tx_blocked.get() && self.tx.borrow().waiting.is_empty()
    }

    pub fn take_send_error(&self) -> Option<io::Error> {
        match self.tx_error.replace(0) {
            0 => None,
            errno => Some(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Queues it for the end of the turn, or sends it at once where the queue has no room. `WouldBlock`: the kernel had none either.
    pub fn send(self: &Rc<Self>, cx: &Context, transmit: &Transmit<'_>) -> io::Result<()> {
        let way = transmit.check()?;
        if !self.is_open() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if transmit.contents.len() <= QUEUED_BYTES_MAX && self.queue(cx, transmit.contents, way) {
            return Ok(());
        }
        flush(cx, self);
        let result = if self.has_room() { self.send_now(cx, transmit.contents, way) } else { Err(libc::EAGAIN) };
        match result {
            Err(libc::EAGAIN) if self.queue(cx, transmit.contents, way) => Ok(()),
            Err(errno) => {
                cx.shared.counters.datagrams_unsent.add(datagrams(transmit.contents.len(), &way));
                Err(io::Error::from_raw_os_error(errno))
            }
            Ok(()) => Ok(()),
        }
    }

    /// Sends it, and what was queued before it, without a copy. `WouldBlock`: the kernel has no room, and nothing of it was sent.
    pub fn try_send(self: &Rc<Self>, cx: &Context, transmit: &Transmit<'_>) -> io::Result<()> {
        let way = transmit.check()?;
        if !self.is_open() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        flush(cx, self);
        if !self.has_room() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.send_now(cx, transmit.contents, way).map_err(io::Error::from_raw_os_error)
    }

    fn queue(self: &Rc<Self>, cx: &Context, contents: &[u8], way: Way) -> bool {
        let queued = self.tx.borrow_mut().push(cx, contents, way, false);
        self.book_lists();
        if queued && !self.dirty.replace(true) {
            cx.dirty_endpoints.borrow_mut().push(self.clone());
        }
        queued
    }

    /// Sends it directly; only while nothing is queued.
    fn send_now(self: &Rc<Self>, cx: &Context, contents: &[u8], way: Way) -> Result<(), i32> {
        let split = way.segment.is_some() && !self.splits.get();
        let result = if split { Err(libc::EIO) } else { self.hand_over::<1>(cx, [(contents, way)].into_iter()) };
        match result {
            Ok(_) => Ok(()),
            Err(libc::EAGAIN) => {
                self.wait_for_room(cx);
                Err(libc::EAGAIN)
            }
            Err(errno) if self.is_about_splitting(errno, &way) => self.send_pieces(cx, contents, way),
            Err(errno) => Err(errno),
        }
    }

    /// Sends it piece by piece. Where the kernel has room for some of them alone, the rest is queued; what a block of the queue does
    /// not hold is lost and counted, as datagrams are. An error says that nothing of it was sent.
    fn send_pieces(self: &Rc<Self>, cx: &Context, contents: &[u8], way: Way) -> Result<(), i32> {
        let size = way.segment.map_or(contents.len(), usize::from);
        let mut rest = contents;
        while !rest.is_empty() {
            let pieces = rest.chunks(size).map(|piece| (piece, Way { segment: None, ..way }));
            match self.hand_over::<BATCH>(cx, pieces) {
                Ok(n) => rest = &rest[(n * size).min(rest.len())..],
                Err(errno) => {
                    if errno == libc::EAGAIN {
                        self.wait_for_room(cx);
                    }
                    if rest.len() == contents.len() {
                        return Err(errno);
                    }
                    if errno != libc::EAGAIN || !self.tx.borrow_mut().push(cx, rest, way, true) {
                        cx.shared.counters.datagrams_unsent.add(datagrams(rest.len(), &way));
                    }
                    self.book_lists();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The kernel refused because it (or the device) would not split.
    fn is_about_splitting(&self, errno: i32, way: &Way) -> bool {
        if way.segment.is_none() {
            return false;
        }
        // A device that cannot sum does not learn it; pieces longer than the path carries are a matter of this one.
        if errno == libc::EIO {
            self.splits.set(false);
        }
        matches!(errno, libc::EIO | libc::EINVAL | libc::EMSGSIZE)
    }

    /// Hands messages to the kernel and says how many it took. An error that an earlier datagram met is reported to the one who
    /// receives; it is no reason not to send this one.
    fn hand_over<'a, const N: usize>(
        &self,
        cx: &Context,
        messages: impl Iterator<Item = (&'a [u8], Way)> + Clone,
    ) -> Result<usize, i32> {
        let first = send_messages::<N>(self.fd.get(), self.v6, messages.clone());
        let result = match first {
            Err(errno) if errno != libc::EAGAIN => {
                let second = send_messages::<N>(self.fd.get(), self.v6, messages.clone());
                if second != first {
                    failed(cx, self, errno);
                }
                second
            }
            _ => first,
        };
        if let Ok(n) = result {
            for (contents, way) in messages.take(n) {
                cx.shared.counters.datagrams_out.add(datagrams(contents.len(), &way));
                cx.shared.counters.bytes_out.add(contents.len() as u64);
            }
        }
        result
    }

    fn wait_for_room(self: &Rc<Self>, cx: &Context) {
        if !self.tx_blocked.replace(true) {
            cx.shared.counters.short_sends.add(1);
            cx.driver.await_datagram_room(cx, self);
        }
    }
}

/// Hands what is queued to the kernel, in order, as far as it has room.
pub(crate) fn flush(cx: &Context, endpoint: &Rc<Endpoint>) {
    while endpoint.is_open() && !endpoint.tx_blocked.get() {
        let result = {
            let tx = endpoint.tx.borrow();
            let (Some(front), Some(block)) = (tx.waiting.front(), &tx.block) else { break };
            let bytes = |waiting: &Waiting| &block[waiting.start..waiting.start + waiting.length];
            let whole = |waiting: &&Waiting| waiting.way.segment.is_none() || (endpoint.splits.get() && !waiting.split);
            match front.way.segment {
                Some(size) if !whole(&front) => {
                    let way = Way { segment: None, ..front.way };
                    let pieces = bytes(front).chunks(usize::from(size)).map(|piece| (piece, way));
                    endpoint.hand_over::<BATCH>(cx, pieces).map(|n| (n, Some(usize::from(size))))
                }
                _ => {
                    let messages = tx.waiting.iter().take_while(whole).map(|waiting| (bytes(waiting), waiting.way));
                    let sent = match tx.waiting.len() {
                        1 => endpoint.hand_over::<1>(cx, messages),
                        _ => endpoint.hand_over::<BATCH>(cx, messages),
                    };
                    sent.map(|n| (n, None))
                }
            }
        };
        let mut tx = endpoint.tx.borrow_mut();
        match result {
            Ok((n, None)) => tx.sent(n),
            Ok((n, Some(size))) => {
                let Some(front) = tx.waiting.front_mut() else { break };
                let bytes = (n * size).min(front.length);
                front.start += bytes;
                front.length -= bytes;
                if front.length == 0 {
                    tx.sent(1);
                }
            }
            Err(libc::EAGAIN) => {
                drop(tx);
                endpoint.wait_for_room(cx);
            }
            Err(errno) => {
                let Some(front) = tx.waiting.front_mut() else { break };
                if !front.split && endpoint.is_about_splitting(errno, &front.way) {
                    front.split = true;
                    continue;
                }
                cx.shared.counters.datagrams_unsent.add(datagrams(front.length, &front.way));
                tx.sent(1);
                endpoint.tx_error.set(errno);
            }
        }
    }
    endpoint.book_lists();
}

/// How many datagrams so many bytes are.
fn datagrams(length: usize, way: &Way) -> u64 {
    way.segment.map_or(1, |size| length.div_ceil(usize::from(size)) as u64)
}

/// Up to `N` messages in one call: how many the kernel took, or an errno other than EINTR.
fn send_messages<'a, const N: usize>(
    fd: RawFd,
    v6: bool,
    messages: impl Iterator<Item = (&'a [u8], Way)>,
) -> Result<usize, i32> {
    let mut names: [Option<Address>; N] = [const { None }; N];
    let mut controls = [const { Control::EMPTY }; N];
    let mut vectors = [const { libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 } }; N];
    // SAFETY: all-zero bytes are a valid `mmsghdr`.
    let mut headers: [libc::mmsghdr; N] = unsafe { std::mem::zeroed() };
    let mut count = 0;
    for (i, (contents, way)) in messages.take(N).enumerate() {
        let v4 = way.destination.map_or(!v6, |destination| destination.ip().to_canonical().is_ipv4());
        let header = &mut headers[i].msg_hdr;
        if let Some(destination) = way.destination {
            let name = names[i].insert(Address::from(&in_family(destination, v6)));
            header.msg_name = name.as_ptr().cast_mut().cast();
            header.msg_namelen = name.length();
        }
        let control = &mut controls[i];
        if let Some(size) = way.segment {
            control.segments(size);
        }
        if way.ecn != Ecn::NotCapable {
            control.ecn(way.ecn, v4);
        }
        if way.source.is_some() || way.interface != 0 {
            control.source(way.source, way.interface, v4);
        }
        if !control.as_slice().is_empty() {
            header.msg_control = control.as_slice().as_ptr().cast_mut().cast();
            header.msg_controllen = control.as_slice().len() as _;
        }
        vectors[i] = libc::iovec { iov_base: contents.as_ptr().cast_mut().cast(), iov_len: contents.len() };
        header.msg_iov = &raw mut vectors[i];
        header.msg_iovlen = 1;
        count += 1;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    loop {
        // SAFETY: `count` headers are valid, and what they point to lives through the call, during which the kernel reads it and
        // writes nothing but the lengths in the headers.
        let n = unsafe { libc::syscall(libc::SYS_sendmmsg, fd, headers.as_mut_ptr(), count, flags) };
        match usize::try_from(n) {
            Ok(n) => return Ok(n),
            Err(_) => match io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) {
                libc::EINTR => {}
                errno => return Err(errno),
            },
        }
    }
}

/// An IPv6 socket names IPv4 addresses in its own way.
pub(super) fn in_family(address: SocketAddr, v6: bool) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v6 => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
        SocketAddr::V6(v6_address) if !v6 => match v6_address.ip().to_ipv4_mapped() {
            Some(ip) => (ip, v6_address.port()).into(),
            None => address,
        },
        _ => address,
    }
}

/// A datagram arrived in `block`.
pub(crate) fn received(cx: &Context, endpoint: &Endpoint, block: Block) {
    let counters = &cx.shared.counters;
    let Some(decoded) = decode(&block) else { return };
    let received = Received { block, length: decoded.length, meta: decoded.meta };
    counters.bytes_in.add(received.length as u64);
    counters.datagrams_in.add(received.count());
    if decoded.meta.truncated {
        counters.datagrams_truncated.add(1);
    }
    if let Some(overflows) = decoded.overflows {
        counters.datagrams_overflowed.add(u64::from(overflows.wrapping_sub(endpoint.overflows.replace(overflows))));
    }
    if endpoint.handles.get() == 0 || !endpoint.is_open() {
        return;
    }
    endpoint.rx.borrow_mut().push_back(received);
    endpoint.book_lists();
    endpoint.rx_waker.wake(&cx.executor);
}

/// The network, or the kernel, reported an error of this socket.
pub(crate) fn failed(cx: &Context, endpoint: &Endpoint, errno: i32) {
    endpoint.rx_error.set(errno);
    endpoint.rx_waker.wake(&cx.executor);
}

/// The kernel has room again.
pub(crate) fn room(cx: &Context, endpoint: &Rc<Endpoint>) {
    if !endpoint.tx_blocked.replace(false) || !endpoint.is_open() {
        return;
    }
    flush(cx, endpoint);
    if endpoint.has_room() {
        endpoint.tx_waker.wake(&cx.executor);
    }
}

/// Sends what every socket has queued since the last turn.
pub(crate) fn flush_all(cx: &Context) {
    if cx.dirty_endpoints.borrow().is_empty() {
        return;
    }
    let mut dirty = cx.dirty_endpoints.take();
    for endpoint in dirty.drain(..) {
        endpoint.dirty.set(false);
        flush(cx, &endpoint);
    }
    let mut queued_meanwhile = cx.dirty_endpoints.replace(dirty);
    cx.dirty_endpoints.borrow_mut().append(&mut queued_meanwhile);
}

/// The last handle is gone: what is queued goes out as far as the kernel has room, and no further.
pub(crate) fn abandoned(cx: &Context, endpoint: &Rc<Endpoint>) {
    flush(cx, endpoint);
    close(cx, endpoint);
}

pub(crate) fn close(cx: &Context, endpoint: &Rc<Endpoint>) {
    if endpoint.closed.replace(true) {
        return;
    }
    let unsent = endpoint.tx.take();
    let lost = unsent.waiting.iter().map(|waiting| datagrams(waiting.length, &waiting.way)).sum();
    cx.shared.counters.datagrams_unsent.add(lost);
    cx.shared.counters.datagram_sockets_open.sub(1);
    drop((unsent, endpoint.rx.take()));
    endpoint.book_lists();
    endpoint.rx_error.set(libc::ENOTCONN);
    // Slots must not be freed while the driver looks at the socket.
    endpoint.begin_op();
    cx.driver.close_datagrams(cx, endpoint);
    end_op(cx, endpoint);
    endpoint.rx_waker.wake(&cx.executor);
    endpoint.tx_waker.wake(&cx.executor);
}

/// The kernel reported the end of an operation; the last one frees the slot of a closed socket.
pub(crate) fn end_op(cx: &Context, endpoint: &Endpoint) {
    debug_assert!(endpoint.ops.get() > 0);
    endpoint.ops.set(endpoint.ops.get() - 1);
    if endpoint.closed.get() && endpoint.ops.get() == 0 {
        cx.endpoints.remove(endpoint.key.get(), &cx.shared);
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        close_fd(self.fd.get());
    }
}

/// What UDP carries at most over IPv4, which is also the most one call takes: 65,535 without the headers of IP and UDP.
pub(super) const SENT_BYTES_MAX: usize = 65_507;
/// The kernel splits into at most so many (UDP_MAX_SEGMENTS, before Linux 6.9).
pub(super) const SEGMENTS_MAX: usize = 64;
/// Longer ones are sent at once: to copy them would cost more than the call that is saved.
const QUEUED_BYTES_MAX: usize = 8 * 1024;
/// Datagrams that may wait in one socket, besides the bound on their bytes: one buffer.
const WAITING_MAX: usize = 256;
/// A list that emptied keeps room for so many.
const LIST_KEPT: usize = 4;
/// Messages handed over in one call.
const BATCH: usize = 32;
