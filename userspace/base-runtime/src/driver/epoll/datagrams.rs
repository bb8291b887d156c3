//! UDP sockets under epoll. They are registered for what comes in; for room to send only while one waits for it, since every
//! datagram that leaves the machine is an edge of its own.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use super::{Epoll, last_errno};
use crate::buffer::Block;
use crate::context::Context;
use crate::net::socket::{Op, SlotKey};
use crate::net::udp::{self, CONTROL_AT, CONTROL_ROOM, Endpoint, NAME_AT, NAME_ROOM, PAYLOAD_AT};

#[derive(Default)]
pub(super) struct Datagrams {
    /// Sockets to receive from although no edge will tell.
    pub unfinished: RefCell<Vec<Rc<Endpoint>>>,
    /// Sockets to receive from once the pool has buffers again.
    starved: RefCell<Vec<Rc<Endpoint>>>,
}

impl Epoll {
    pub(super) fn register_datagrams(&self, endpoint: &Endpoint) -> io::Result<()> {
        let data = TAG | endpoint.key.get().bits();
        self.register(endpoint.fd.get(), libc::EPOLLIN | libc::EPOLLET, data)
    }

    pub(super) fn receive_datagrams(&self, endpoint: &Rc<Endpoint>) {
        endpoint.rx_op.set(Op::Armed);
        if endpoint.rx_ready.get() {
            self.datagrams.unfinished.borrow_mut().push(endpoint.clone());
        }
    }

    /// Asks to be told of room as well, or no longer. What is there already is told again, which does no harm.
    pub(super) fn watch_datagram_room(&self, endpoint: &Endpoint, on: bool) {
        let wanted = libc::EPOLLIN | libc::EPOLLET | if on { libc::EPOLLOUT } else { 0 };
        let data = TAG | endpoint.key.get().bits();
        let mut event = libc::epoll_event { events: wanted as u32, u64: data };
        // SAFETY: both descriptors are open and registered, the event is readable during the call, which then cannot fail.
        unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_MOD, endpoint.fd.get(), &raw mut event) };
    }

    pub(super) fn dispatch_datagrams(&self, cx: &Context, key: SlotKey, events: u32) {
        let Some(endpoint) = cx.endpoints.find(key) else { return };
        if events & (libc::EPOLLIN | libc::EPOLLERR) as u32 != 0 {
            endpoint.rx_ready.set(true);
            if endpoint.rx_op.get() == Op::Armed {
                self.take_in_datagrams(cx, &endpoint);
            }
        }
        if events & libc::EPOLLOUT as u32 != 0 && endpoint.tx_blocked.get() {
            self.watch_datagram_room(&endpoint, false);
            udp::room(cx, &endpoint);
        }
    }

    /// Receives until the socket is empty, the queue is full, or a fair share was received.
    pub(super) fn take_in_datagrams(&self, cx: &Context, endpoint: &Rc<Endpoint>) {
        if !endpoint.is_open() {
            return;
        }
        if !endpoint.may_receive(cx) {
            endpoint.rx_op.set(Op::Idle);
            cx.shared.counters.recv_paused.add(1);
            return;
        }
        let wanted = BATCH.min(cx.bounds.datagram_queue_max - endpoint.rx.borrow().len());
        let mut blocks: [Option<Block>; BATCH] = [const { None }; BATCH];
        let mut count = 0;
        while count < wanted {
            blocks[count] = cx.datagram_pool.take_block(&cx.shared.counters);
            if blocks[count].is_none() {
                break;
            }
            count += 1;
        }
        if count == 0 {
            // Looked at again before every turn: a buffer can only come back while the worker works.
            cx.shared.counters.enobufs.add(1);
            cx.shared.counters.datagram_buffers_exhausted.add(1);
            self.datagrams.starved.borrow_mut().push(endpoint.clone());
            return;
        }
        match receive(endpoint, &mut blocks[..count]) {
            Ok(n) => {
                if n < count {
                    // Emptied; or an error stands behind, whose edge is still to come.
                    endpoint.rx_ready.set(false);
                } else {
                    self.datagrams.unfinished.borrow_mut().push(endpoint.clone());
                }
                for block in blocks.into_iter().take(n).flatten() {
                    udp::received(cx, endpoint, block);
                }
            }
            Err(libc::EAGAIN) => endpoint.rx_ready.set(false),
            Err(errno) => {
                // There may be more behind it.
                endpoint.rx_op.set(Op::Idle);
                udp::failed(cx, endpoint, errno);
            }
        }
    }

    /// True when nothing is left that only a turn without waiting would get done.
    pub(super) fn datagrams_may_sleep(&self, cx: &Context) -> bool {
        if !self.datagrams.starved.borrow().is_empty() && cx.datagram_pool.has_room() {
            self.datagrams.unfinished.borrow_mut().append(&mut self.datagrams.starved.borrow_mut());
        }
        self.datagrams.unfinished.borrow().is_empty()
    }

    pub(super) fn stop_datagrams(&self, cx: &Context) {
        for endpoint in cx.endpoints.all() {
            udp::close(cx, &endpoint);
        }
        self.datagrams.unfinished.borrow_mut().clear();
        self.datagrams.starved.borrow_mut().clear();
    }
}

/// Fills blocks from the front with one datagram each: how many, or an errno other than EINTR.
fn receive(endpoint: &Endpoint, blocks: &mut [Option<Block>]) -> Result<usize, i32> {
    let mut vectors = [const { libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 } }; BATCH];
    // SAFETY: all-zero bytes are a valid `mmsghdr`.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
    let mut count = 0;
    for ((block, vector), header) in blocks.iter_mut().flatten().zip(&mut vectors).zip(&mut headers) {
        let (head, payload) = block.split_at_mut(PAYLOAD_AT);
        let (name, control) = head[NAME_AT..].split_at_mut(CONTROL_AT - NAME_AT);
        *vector = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
        header.msg_hdr.msg_name = name.as_mut_ptr().cast();
        header.msg_hdr.msg_namelen = NAME_ROOM as libc::socklen_t;
        header.msg_hdr.msg_control = control.as_mut_ptr().cast();
        header.msg_hdr.msg_controllen = CONTROL_ROOM as _;
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    let none = std::ptr::null_mut::<libc::timespec>();
    let received = loop {
        // SAFETY: `count` headers are valid, and they point to parts of blocks, and to vectors, that are not otherwise used during the
        // call.
        let n = unsafe {
            let fd = endpoint.fd.get();
            libc::syscall(libc::SYS_recvmmsg, fd, headers.as_mut_ptr(), count, libc::MSG_DONTWAIT, none)
        };
        match usize::try_from(n) {
            Ok(n) => break n,
            Err(_) => match last_errno() {
                libc::EINTR => {}
                errno => return Err(errno),
            },
        }
    };
    for (block, header) in blocks.iter_mut().flatten().zip(&headers).take(received) {
        let of = &header.msg_hdr;
        udp::write_header(block, of.msg_namelen, of.msg_controllen as u32, header.msg_len, of.msg_flags as u32);
    }
    Ok(received)
}

/// Marks a UDP socket's key in the data of an event, above the key's own bits.
pub(super) const TAG: u64 = 1 << 56;
/// Datagrams received in one call, and what one socket may take of a turn before the others have theirs.
const BATCH: usize = 16;
