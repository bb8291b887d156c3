//! UDP sockets on the ring: multishot `recvmsg` into buffers of a group of their own, which a worker has from its first UDP socket on.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem;
use std::rc::Rc;

use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::recv_ring::{RecvRing, RingBuffer};
use super::{DATAGRAM, DATAGRAM_ROOM, Uring, user_data};
use crate::buffer::Block;
use crate::context::Context;
use crate::net::socket::{Op, SlotKey};
use crate::net::udp::{self, CONTROL_ROOM, Endpoint, NAME_ROOM};
use crate::runtime::Config;

pub(super) struct Datagrams {
    buffers: RecvRing<Block>,
    open: Cell<bool>,
    /// Sockets whose receive found no buffer.
    starved: RefCell<Vec<Rc<Endpoint>>>,
    /// What every receive points to: how much room there is for a source address and for control messages.
    rooms: Box<libc::msghdr>,
}

impl Datagrams {
    pub fn new(config: &Config) -> Datagrams {
        // SAFETY: all-zero bytes are a valid `msghdr`.
        let mut rooms: Box<libc::msghdr> = Box::new(unsafe { mem::zeroed() });
        rooms.msg_namelen = NAME_ROOM as libc::socklen_t;
        rooms.msg_controllen = CONTROL_ROOM as _;
        let entries = config.datagram_ring_entries.clamp(8, 32_768).next_power_of_two();
        Datagrams { buffers: RecvRing::new(entries), open: Cell::new(false), starved: RefCell::default(), rooms }
    }

    /// The kernel uses none of the buffers any more.
    pub fn release(&self, cx: &Context, ring: &IoUring) {
        self.starved.borrow_mut().clear();
        self.buffers.release(ring);
        cx.shared.counters.datagram_buffers_ready.set(0);
    }

    pub fn leak(&self) {
        self.buffers.leak();
    }
}

impl Uring {
    /// Makes the buffers ready, if they are not.
    pub(super) fn open_datagrams(&self, cx: &Context) -> io::Result<()> {
        if !self.datagrams.open.get() {
            self.datagrams.buffers.register(&self.ring)?;
            self.datagrams.open.set(true);
            self.datagrams.buffers.refill(cx);
        }
        Ok(())
    }

    pub(super) fn receive_datagrams(&self, endpoint: &Rc<Endpoint>) {
        endpoint.rx_op.set(Op::Armed);
        endpoint.begin_op();
        // The kernel copies what the pointer leads to when it takes the submission.
        let rooms = &raw const *self.datagrams.rooms;
        let entry = opcode::RecvMsgMulti::new(Fd(endpoint.fd.get()), rooms, Block::GROUP).build();
        self.push(entry.user_data(user_data(DATAGRAM, endpoint.key.get())));
    }

    pub(super) fn datagram_completed(&self, cx: &Context, kind: u8, key: SlotKey, result: i32, flags: u32) {
        // The slot is kept until its last operation ends, so what is not found cannot have a buffer either.
        let Some(endpoint) = cx.endpoints.find(key) else { return };
        let endpoint = &endpoint;
        if kind == DATAGRAM_ROOM {
            udp::room(cx, endpoint);
            udp::end_op(cx, endpoint);
            return;
        }
        let more = cqueue::more(flags);
        if !more {
            endpoint.rx_op.set(Op::Idle);
        }
        let block = cqueue::buffer_select(flags).map(|id| self.datagrams.buffers.take(cx, id));
        match (-result, block) {
            (..=0, Some(block)) => udp::received(cx, endpoint, block),
            (libc::ENOBUFS, _) => {
                cx.shared.counters.enobufs.add(1);
                if endpoint.is_open() && !more {
                    endpoint.rx_op.set(Op::Starved);
                    self.datagrams.starved.borrow_mut().push(endpoint.clone());
                }
            }
            // Paused.
            (..=0 | libc::ECANCELED | libc::EINTR | libc::EAGAIN, _) => {}
            (errno, _) => udp::failed(cx, endpoint, errno),
        }
        if !more {
            // A datagram of no bytes, an error, or many at once end a multishot receive.
            endpoint.receive(cx);
            udp::end_op(cx, endpoint);
        } else if endpoint.rx_op.get() == Op::Armed && !endpoint.may_receive(cx) {
            cx.shared.counters.recv_paused.add(1);
            endpoint.rx_op.set(Op::Cancelling);
            self.cancel(cx, user_data(DATAGRAM, endpoint.key.get()));
        }
    }

    /// Fills the ring up, arms again what had found it empty, and lets the kernel have what was added.
    pub(super) fn feed_starved_datagrams(&self, cx: &Context) {
        if !self.datagrams.open.get() {
            return;
        }
        self.datagrams.buffers.refill(cx);
        if !self.datagrams.starved.borrow().is_empty() && self.datagrams.buffers.available() > 0 {
            for endpoint in self.datagrams.starved.take() {
                if endpoint.rx_op.get() == Op::Starved {
                    endpoint.rx_op.set(Op::Idle);
                    endpoint.receive(cx);
                }
            }
        }
        self.datagrams.buffers.publish();
    }

    /// Cancels what is in flight and closes, in this order.
    pub(super) fn end_datagrams(&self, cx: &Context, endpoint: &Endpoint) {
        match endpoint.rx_op.get() {
            Op::Armed => {
                endpoint.rx_op.set(Op::Cancelling);
                self.cancel(cx, user_data(DATAGRAM, endpoint.key.get()));
            }
            Op::Starved => endpoint.rx_op.set(Op::Idle),
            Op::Idle | Op::Cancelling | Op::Watching => {}
        }
        if endpoint.tx_blocked.get() {
            self.cancel(cx, user_data(DATAGRAM_ROOM, endpoint.key.get()));
        }
        let fd = endpoint.fd.replace(-1);
        self.push(opcode::Close::new(Fd(fd)).build().flags(squeue::Flags::SKIP_SUCCESS).user_data(0));
    }
}
