//! The io_uring driver: one `io_uring_enter` per turn hands over everything the tasks asked for, waits, and brings back completions.
//!
//! - Accepting and receiving are multishot: armed once per socket. Received bytes land in pool buffers published in a ring
//!   (`recv_ring`); a filled one goes to the stream and a fresh one takes its slot.
//! - A multishot receive takes as many buffers from a full socket as stand ready before this side can say stop: the kernel stops for a
//!   breath at 32, and goes on within the same call where it is to wait. So a stream whose queue ran over receives one buffer at a time
//!   until its socket is drained.
//! - A send nobody waits for is *silent*: MSG_DONTWAIT and CQE_SKIP_SUCCESS make it finish within the submission and report only a
//!   failure or a short count. No report after the kernel took the submission means it was sent. Otherwise every response would end
//!   the next wait at once, which doubled the system calls at low load. Sends somebody waits for, the rest of a short one, and those
//!   that leave bytes behind in the queue are reported in any case: the next send starts when this one ends. What is queued behind
//!   a silent send keeps the worker from sleeping until that is concluded.
//! - Task work is deferred to this thread (DEFER_TASKRUN), so completions appear only in an enter that asks for events.

mod datagrams;
mod recv_ring;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use super::{Driver, IoKind, Wait};
use crate::Buf;
use crate::context::Context;
use crate::net::address::Address;
use crate::net::listener::ACCEPTED_MAX;
use crate::net::socket::{self, Connecting, Life, Op, ReceiveEnd, SendOp, SlotKey, Socket, Splicing};
use crate::net::udp::{self, Endpoint};
use crate::runtime::{Config, Shared};
use datagrams::Datagrams;
use recv_ring::{RECV_ROOM, RecvRing, RingBuffer};

pub(crate) struct Uring {
    ring: IoUring,
    wakeup: RawFd,
    buffers: RecvRing<Buf>,
    datagrams: Datagrams,
    /// What did not fit into the submission queue; it goes before anything newer.
    backlog: RefCell<VecDeque<squeue::Entry>>,
    /// Sockets with a silent send that has not been concluded.
    silent: RefCell<Vec<Rc<Socket>>>,
    /// Somebody began to wait for a silent send, or more was queued behind it: conclude before sleeping.
    report_expected: Cell<bool>,
    /// Sockets whose receive found no buffer.
    starved: RefCell<Vec<Rc<Socket>>>,
    /// Sockets that have received since others found no buffer, and want more: those others go first.
    fed: RefCell<Vec<Rc<Socket>>>,
    /// Some receive of this turn or the last found no buffer.
    short: Cell<bool>,
    /// What submissions point to until the kernel has read it.
    scratch: Scratch,
    stopped: Cell<bool>,
}

impl Uring {
    pub fn new(config: &Config, shared: &Arc<Shared>) -> io::Result<Uring> {
        let ring = build_ring(config.ring_entries.clamp(8, 32_768).next_power_of_two())?;
        let entries = config.recv_ring_entries.clamp(8, 32_768).next_power_of_two();
        Ok(Uring {
            ring,
            wakeup: shared.wakeup.as_raw_fd(),
            buffers: RecvRing::new(entries),
            datagrams: Datagrams::new(config),
            backlog: RefCell::default(),
            silent: RefCell::default(),
            report_expected: Cell::new(false),
            starved: RefCell::default(),
            fed: RefCell::default(),
            short: Cell::new(false),
            scratch: Scratch::default(),
            stopped: Cell::new(false),
        })
    }

    /// Queues a submission for the next enter.
    ///
    /// What the entry points to must stay valid as the kernel demands: addresses and message headers until it is submitted (they
    /// live in `scratch`), bytes to send until its end is reported or concluded (they stay in the socket's queue).
    #[inline]
    fn push(&self, entry: squeue::Entry) {
        let mut backlog = self.backlog.borrow_mut();
        if backlog.is_empty() {
            // SAFETY: the queue is used on this thread only and no other handle to it is alive; for the entry see above.
            if unsafe { self.ring.submission_shared().push(&entry) }.is_ok() {
                return;
            }
        }
        backlog.push_back(entry);
    }

    /// Moves what waited into the submission queue; true when something was moved.
    fn push_backlog(&self) -> bool {
        let mut backlog = self.backlog.borrow_mut();
        if backlog.is_empty() {
            return false;
        }
        // SAFETY: as in `push`.
        let mut queue = unsafe { self.ring.submission_shared() };
        while let Some(entry) = backlog.front() {
            // SAFETY: as in `push`.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            backlog.pop_front();
        }
        true
    }

    fn enter(&self, cx: &Context, submit: u32, wait: Wait) {
        let timespec;
        let mut args = SubmitArgs::new();
        let wanted = match wait {
            Wait::Not => 0,
            Wait::Upto(None) => 1,
            Wait::Upto(Some(duration)) => {
                timespec = Timespec::from(duration);
                args = args.timespec(&timespec);
                1
            }
        };
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        cx.shared.counters.enters.add(1);
        // SAFETY: the flags announce the extended argument, which lives through the call; entries are valid as `push` says.
        let result = unsafe { self.ring.submitter().enter(submit, wanted, flags.bits(), Some(&args)) };
        if let Err(error) = result {
            match error.raw_os_error() {
                // Interrupted, timed out, or short of memory or queue room for a moment: the next turn goes on.
                Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY) => {}
                _ => {
                    tracing::error!(worker = cx.shared.index, %error, "io_uring_enter failed");
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }

    fn reap(&self, cx: &Context) {
        {
            // SAFETY: the queue is used on this thread only, and this handle is gone before anything else runs.
            let queue = unsafe { self.ring.completion_shared() };
            cx.shared.counters.recent_ring_permille.saw_part(queue.len(), queue.capacity());
        }
        let mut entries = [const { MaybeUninit::<cqueue::Entry>::uninit() }; 64];
        loop {
            // SAFETY: the queue is used on this thread only, and this handle is gone before anything else runs.
            let filled = unsafe { self.ring.completion_shared() }.fill(&mut entries).len();
            for entry in &entries[..filled] {
                // SAFETY: `fill` initialised the first `filled` entries.
                let entry = unsafe { entry.assume_init_ref() };
                self.completed(cx, entry.user_data(), entry.result(), entry.flags());
            }
            if filled < entries.len() {
                break;
            }
        }
    }

    #[inline]
    fn completed(&self, cx: &Context, data: u64, result: i32, flags: u32) {
        let kind = (data >> KIND_SHIFT) as u8;
        if kind == IGNORED {
            return;
        }
        if kind == WAKEUP {
            if !cqueue::more(flags) && !self.stopped.get() {
                self.watch_wakeup();
            }
            return;
        }
        if matches!(kind, DATAGRAM | DATAGRAM_ROOM) {
            self.datagram_completed(cx, kind, SlotKey::from_bits(data), result, flags);
            return;
        }
        // The slot is kept until its last operation ends, so what is not found cannot have a buffer either.
        let Some(socket) = cx.sockets.find(SlotKey::from_bits(data)) else { return };
        match kind {
            RECV => self.recv_completed(cx, &socket, result, flags),
            SEND => self.send_completed(cx, &socket, result),
            ACCEPT => self.accept_completed(cx, &socket, result, flags),
            CONNECT => {
                socket::connected(cx, &socket, -result);
                socket::end_op(cx, &socket);
            }
            BYTES => self.bytes_came(cx, &socket),
            ROOM => self.room_came(cx, &socket),
            _ => {}
        }
    }

    fn recv_completed(&self, cx: &Context, socket: &Rc<Socket>, result: i32, flags: u32) {
        let more = cqueue::more(flags);
        if !more {
            socket.rx_op.set(Op::Idle);
        }
        let buf = cqueue::buffer_select(flags).map(|id| self.buffers.take(cx, id));
        if result > 0 {
            if !more && (result as usize) < RECV_ROOM {
                socket.rx_bulk.set(false);
            }
            if let Some(mut buf) = buf {
                buf.set_received(result as usize);
                socket::received(cx, socket, buf);
            }
            let full = socket.rx.borrow().len() >= cx.bounds.recv_queue_max;
            if more && full && socket.rx_op.get() == Op::Armed {
                cx.shared.counters.recv_paused.add(1);
                socket.rx_bulk.set(true);
                self.cancel_recv(cx, socket);
            } else if !more && !full {
                if self.short.get() && socket.life.get() == Life::Open {
                    socket.rx_op.set(Op::Starved);
                    self.fed.borrow_mut().push(socket.clone());
                } else {
                    self.arm_again(cx, socket);
                }
            }
        } else {
            match -result {
                0 => socket::receive_ended(cx, socket, ReceiveEnd::Eof),
                libc::ENOBUFS => {
                    cx.shared.counters.enobufs.add(1);
                    self.short.set(true);
                    // One that has enough is armed again by whoever takes from it.
                    let full = socket.rx.borrow().len() >= cx.bounds.recv_queue_max;
                    if socket.life.get() == Life::Open && !more && !full {
                        socket.rx_op.set(Op::Starved);
                        self.starved.borrow_mut().push(socket.clone());
                    }
                }
                // Paused, and perhaps drained before the pause took effect.
                libc::ECANCELED | libc::EINTR | libc::EAGAIN => {
                    if !more && socket.rx.borrow().len() <= 1 {
                        self.arm_again(cx, socket);
                    }
                }
                errno => socket::receive_ended(cx, socket, ReceiveEnd::Error(errno)),
            }
        }
        if !more {
            socket::end_op(cx, socket);
        }
    }

    /// A wait for bytes ended, or was cancelled.
    fn bytes_came(&self, cx: &Context, socket: &Rc<Socket>) {
        socket.rx_op.set(Op::Idle);
        self.arm_again(cx, socket);
        socket::end_op(cx, socket);
    }

    /// A wait for room ended, or was cancelled.
    fn room_came(&self, cx: &Context, socket: &Rc<Socket>) {
        if socket.is_open() {
            socket.tx_op.set(SendOp::Idle);
            socket.tx_waker.wake(&cx.executor);
            self.send_next(socket, false);
        }
        socket::end_op(cx, socket);
    }

    fn arm_again(&self, cx: &Context, socket: &Rc<Socket>) {
        if socket.splicing.get() == Splicing::From {
            socket::may_be_spliced(cx, socket);
        } else if socket.life.get() == Life::Open && socket.handles.get() > 0 && socket.rx_end.get() == ReceiveEnd::Open
        {
            self.recv(cx, socket);
        }
    }

    fn accept_completed(&self, cx: &Context, socket: &Rc<Socket>, result: i32, flags: u32) {
        let more = cqueue::more(flags);
        if !more {
            socket.rx_op.set(Op::Idle);
        }
        let go_on = match result {
            0.. => socket::accepted(cx, socket, result, None),
            _ if result == -libc::ECANCELED => {
                socket.listener.as_ref().is_none_or(|listener| !listener.exhausted.get())
            }
            _ => socket::accept_failed(cx, socket, -result),
        };
        let waiting = socket.listener.as_ref().map_or(0, |listener| listener.accepted.borrow().len());
        if waiting >= ACCEPTED_MAX || (result >= 0 && !go_on) {
            if socket.rx_op.get() == Op::Armed {
                self.cancel_recv(cx, socket);
            }
        } else if !more && go_on && socket.is_open() {
            if socket.listener.as_ref().is_some_and(|listener| listener.ended.get()) {
                socket.rx_waker.wake(&cx.executor);
            } else {
                self.accept(cx, socket);
            }
        }
        if !more {
            socket::end_op(cx, socket);
        }
    }

    fn send_completed(&self, cx: &Context, socket: &Rc<Socket>, result: i32) {
        let asked = socket.tx_op_bytes.replace(0) as usize;
        let was = socket.tx_op.replace(SendOp::Idle);
        if socket.is_open() {
            match result {
                0.. => {
                    let n = result as usize;
                    if n < asked {
                        cx.shared.counters.short_sends.add(1);
                    }
                    socket::sent(cx, socket, n);
                    self.send_next(socket, n < asked);
                }
                // Cancelled: to be parked.
                _ if matches!(-result, libc::EAGAIN | libc::EINTR | libc::ECANCELED) => {
                    cx.shared.counters.short_sends.add(1);
                    self.send_next(socket, true);
                }
                _ => socket::send_failed(cx, socket, -result),
            }
        } else {
            socket::drop_unsent(socket);
        }
        debug_assert!(was != SendOp::Idle);
        socket::end_op(cx, socket);
    }

    /// What was not reported although the kernel has taken every submission, and all it had to report was read, was sent.
    fn conclude_silent(&self, cx: &Context, handed_over: &mut Vec<Rc<Socket>>) {
        for socket in handed_over.iter() {
            if socket.tx_op.get() != SendOp::Silent {
                continue;
            }
            socket.tx_op.set(SendOp::Idle);
            let n = socket.tx_op_bytes.replace(0) as usize;
            if socket.is_open() {
                socket::sent(cx, socket, n);
            } else {
                socket::drop_unsent(socket);
            }
            socket::end_op(cx, socket);
        }
        // Only now: a socket may be listed twice, and what is sent next has not been handed over.
        for socket in handed_over.drain(..) {
            self.send_next(&socket, false);
        }
    }

    /// Sends from the front of the queue. `reported`: the socket is full, so let the kernel wait for room.
    #[inline]
    fn send_next(&self, socket: &Rc<Socket>, reported: bool) {
        if socket.tx_op.get() != SendOp::Idle || socket.tx_bytes.get() == 0 || !socket.may_send() {
            return;
        }
        let fd = Fd(socket.fd.get());
        let tx = socket.tx.borrow();
        // Nobody would start sending the buffers one message has no room for if the end of this one were not reported.
        let reported = reported || tx.len() > IOVECS || socket.send_is_awaited();
        let flags =
            |bytes| socket.send_flags(bytes) | libc::MSG_WAITALL | if reported { 0 } else { libc::MSG_DONTWAIT };
        let mut bufs = tx.iter();
        let (entry, bytes) = match (bufs.next(), bufs.next()) {
            (Some(only), None) => {
                let send = opcode::Send::new(fd, only.as_ptr(), only.len() as u32).flags(flags(only.len()));
                (send.build(), only.len())
            }
            _ => {
                let (message, bytes) = self.scratch.message(tx.iter());
                (opcode::SendMsg::new(fd, message).flags(flags(bytes) as u32).build(), bytes)
            }
        };
        let entry = entry.user_data(user_data(SEND, socket.key.get()));
        socket.tx_op_bytes.set(bytes as u32);
        socket.begin_op();
        if reported {
            socket.tx_op.set(SendOp::Reported);
            self.push(entry);
        } else {
            socket.tx_op.set(SendOp::Silent);
            self.silent.borrow_mut().push(socket.clone());
            self.push(entry.flags(squeue::Flags::SKIP_SUCCESS));
        }
    }

    /// Ends a multishot accept or receive; its last completion says when it has.
    fn cancel_recv(&self, cx: &Context, socket: &Socket) {
        let kind = if socket.listener.is_some() { ACCEPT } else { RECV };
        socket.rx_op.set(Op::Cancelling);
        self.cancel(cx, user_data(kind, socket.key.get()));
    }

    fn cancel(&self, cx: &Context, target: u64) {
        cx.shared.counters.cancelled.add(1);
        self.push(opcode::AsyncCancel::new(target).build().flags(squeue::Flags::SKIP_SUCCESS).user_data(0));
    }

    fn watch_wakeup(&self) {
        let entry = opcode::PollAdd::new(Fd(self.wakeup), libc::POLLIN as u32).multi(true).build();
        self.push(entry.user_data(u64::from(WAKEUP) << KIND_SHIFT));
    }

    /// Fills the receive ring up and arms again what had found it empty.
    fn feed_starved(&self, cx: &Context) {
        self.buffers.refill(cx);
        if self.buffers.available() == 0 {
            return;
        }
        let starved = self.starved.take();
        // As long as some are, the others line up behind them.
        self.short.set(!starved.is_empty());
        for socket in starved.into_iter().chain(self.fed.take()) {
            if socket.rx_op.get() == Op::Starved {
                socket.rx_op.set(Op::Idle);
                self.arm_again(cx, &socket);
            }
        }
    }

    /// More is to be begun than the submission queue has room for, or more has ended than the completion queue has.
    #[cold]
    fn saw_no_room(&self, cx: &Context, beyond: usize, overflow: bool) {
        let entries = self.ring.params().cq_entries() as usize;
        let part = if overflow { entries } else { beyond };
        cx.shared.counters.recent_ring_permille.saw_part(part, entries);
    }

    fn submission(&self) -> (usize, bool, bool) {
        // SAFETY: the queue is used on this thread only and no other handle to it is alive.
        let queue = unsafe { self.ring.submission_shared() };
        (queue.len(), queue.taskrun(), queue.cq_overflow())
    }
}

impl Driver for Uring {
    fn kind(&self) -> IoKind {
        IoKind::Uring
    }

    fn start(&self, cx: &Context) -> io::Result<()> {
        self.buffers.register(&self.ring)?;
        self.buffers.refill(cx);
        self.watch_wakeup();
        Ok(())
    }

    fn adopt(&self, _: &Context, _: &Rc<Socket>) -> io::Result<()> {
        Ok(())
    }

    fn accept(&self, _: &Context, socket: &Rc<Socket>) {
        socket.rx_op.set(Op::Armed);
        socket.begin_op();
        let entry = opcode::AcceptMulti::new(Fd(socket.fd.get())).flags(libc::SOCK_CLOEXEC).build();
        self.push(entry.user_data(user_data(ACCEPT, socket.key.get())));
    }

    fn connect(&self, _: &Context, socket: &Rc<Socket>, address: &Address) -> io::Result<()> {
        socket.begin_op();
        let (target, length) = self.scratch.address(address);
        let entry = opcode::Connect::new(Fd(socket.fd.get()), target, length).build();
        self.push(entry.user_data(user_data(CONNECT, socket.key.get())));
        Ok(())
    }

    #[inline]
    fn recv(&self, _: &Context, socket: &Rc<Socket>) {
        socket.rx_op.set(Op::Armed);
        socket.begin_op();
        let fd = Fd(socket.fd.get());
        let entry = if socket.rx_bulk.get() {
            let recv = opcode::Recv::new(fd, std::ptr::null_mut(), RECV_ROOM as u32).buf_group(Buf::GROUP);
            recv.build().flags(squeue::Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(fd, Buf::GROUP).build()
        };
        self.push(entry.user_data(user_data(RECV, socket.key.get())));
    }

    fn stop_recv(&self, cx: &Context, socket: &Rc<Socket>) {
        match socket.rx_op.get() {
            Op::Armed => self.cancel_recv(cx, socket),
            Op::Starved => socket.rx_op.set(Op::Idle),
            Op::Watching => {
                socket.rx_op.set(Op::Cancelling);
                self.cancel(cx, user_data(BYTES, socket.key.get()));
            }
            Op::Idle | Op::Cancelling => {}
        }
    }

    fn await_bytes(&self, _: &Context, socket: &Rc<Socket>) {
        socket.rx_op.set(Op::Watching);
        socket.begin_op();
        let entry = opcode::PollAdd::new(Fd(socket.fd.get()), libc::POLLIN as u32).build();
        self.push(entry.user_data(user_data(BYTES, socket.key.get())));
    }

    fn await_room(&self, _: &Context, socket: &Rc<Socket>) {
        socket.tx_op.set(SendOp::Blocked);
        socket.begin_op();
        let entry = opcode::PollAdd::new(Fd(socket.fd.get()), libc::POLLOUT as u32).build();
        self.push(entry.user_data(user_data(ROOM, socket.key.get())));
    }

    #[inline]
    fn send(&self, _: &Context, socket: &Rc<Socket>) {
        // Behind a silent send this waits for its end, which no completion announces.
        self.expect_report(socket);
        self.send_next(socket, false);
    }

    #[inline]
    fn expect_report(&self, socket: &Socket) {
        if socket.tx_op.get() == SendOp::Silent {
            self.report_expected.set(true);
        }
    }

    fn still(&self, cx: &Context, socket: &Rc<Socket>) {
        self.stop_recv(cx, socket);
        match socket.tx_op.get() {
            SendOp::Reported => self.cancel(cx, user_data(SEND, socket.key.get())),
            SendOp::Blocked => self.cancel(cx, user_data(ROOM, socket.key.get())),
            SendOp::Idle | SendOp::Silent => {}
        }
    }

    fn release(&self, socket: &Socket) -> RawFd {
        socket.fd.replace(-1)
    }

    fn close(&self, cx: &Context, socket: &Rc<Socket>) {
        // Submissions are carried out in order: those on this socket that are still queued find the descriptor open, what is in
        // flight is cancelled, and only then it is closed.
        self.still(cx, socket);
        if socket.connecting.get() == Connecting::Pending {
            self.cancel(cx, user_data(CONNECT, socket.key.get()));
        }
        let fd = socket.fd.replace(-1);
        self.push(opcode::Close::new(Fd(fd)).build().flags(squeue::Flags::SKIP_SUCCESS).user_data(0));
    }

    fn adopt_datagrams(&self, cx: &Context, _: &Rc<Endpoint>) -> io::Result<()> {
        self.open_datagrams(cx)
    }

    fn still_datagrams(&self, cx: &Context, endpoint: &Rc<Endpoint>) {
        if endpoint.rx_op.get() == Op::Armed {
            endpoint.rx_op.set(Op::Cancelling);
            self.cancel(cx, user_data(DATAGRAM, endpoint.key.get()));
        }
    }

    fn recv_datagrams(&self, _: &Context, endpoint: &Rc<Endpoint>) {
        self.receive_datagrams(endpoint);
    }

    fn await_datagram_room(&self, _: &Context, endpoint: &Rc<Endpoint>) {
        endpoint.begin_op();
        let entry = opcode::PollAdd::new(Fd(endpoint.fd.get()), libc::POLLOUT as u32).build();
        self.push(entry.user_data(user_data(DATAGRAM_ROOM, endpoint.key.get())));
    }

    fn close_datagrams(&self, cx: &Context, endpoint: &Rc<Endpoint>) {
        self.end_datagrams(cx, endpoint);
    }

    fn may_sleep(&self, _: &Context) -> bool {
        !self.report_expected.get() && self.backlog.borrow().is_empty()
    }

    fn turn(&self, cx: &Context, wait: Wait) {
        self.feed_starved(cx);
        self.feed_starved_datagrams(cx);
        self.buffers.publish();
        self.report_expected.set(false);
        let all_taken = loop {
            let (queued, work_waits, overflow) = self.submission();
            let beyond = self.backlog.borrow().len();
            let backlog = beyond > 0;
            if backlog || overflow {
                self.saw_no_room(cx, beyond, overflow);
            }
            let wait = if backlog { Wait::Not } else { wait };
            if queued > 0 || work_waits || overflow || matches!(wait, Wait::Upto(_)) {
                self.enter(cx, queued as u32, wait);
            }
            let all_taken = self.submission().0 == 0;
            if !self.push_backlog() {
                break all_taken;
            }
            // Completions are read between submissions, so that the completion queue does not overflow.
            self.reap(cx);
        };
        if !all_taken {
            // The kernel was short of something: go on in the next turn without sleeping.
            self.report_expected.set(true);
            self.reap(cx);
            return;
        }
        self.scratch.clear();
        // Completions may start sends; those are not part of what was just handed over.
        let mut handed_over = self.silent.take();
        // What was reported in between may be followed by a silent send that is not part of it either.
        handed_over.retain(|socket| socket.tx_op.get() == SendOp::Silent);
        self.reap(cx);
        if self.submission().2 {
            // A report may still wait in the kernel for room in the queue.
            self.report_expected.set(true);
            self.silent.borrow_mut().append(&mut handed_over);
            return;
        }
        self.conclude_silent(cx, &mut handed_over);
        let mut silent = self.silent.borrow_mut();
        if silent.is_empty() {
            *silent = handed_over;
        }
    }

    fn stop(&self, cx: &Context) {
        if self.stopped.replace(true) {
            return;
        }
        self.starved.borrow_mut().clear();
        self.fed.borrow_mut().clear();
        for socket in cx.sockets.all() {
            socket::close(cx, &socket);
        }
        for endpoint in cx.endpoints.all() {
            udp::close(cx, &endpoint);
        }
        let deadline = Instant::now() + STOP_LIMIT;
        let empty = loop {
            let none_open = cx.sockets.all().is_empty() && cx.endpoints.all().is_empty();
            if none_open && self.submission().0 == 0 && self.backlog.borrow().is_empty() {
                break true;
            }
            if Instant::now() > deadline {
                break false;
            }
            self.turn(cx, Wait::Upto(Some(Duration::from_millis(5))));
        };
        if empty {
            self.buffers.release(&self.ring);
            cx.shared.counters.buffers_ready.set(0);
            self.datagrams.release(cx, &self.ring);
        } else {
            // The kernel may still write to, or read from, these buffers: memory is lost rather than corrupted.
            let left = (cx.sockets.all(), cx.endpoints.all());
            tracing::error!(
                worker = cx.shared.index,
                sockets = left.0.len() + left.1.len(),
                "operations did not end; their buffers are leaked"
            );
            self.buffers.leak();
            self.datagrams.leak();
            std::mem::forget(left);
        }
    }
}

/// Memory that submissions point to, used again once the kernel has taken them.
#[derive(Default)]
struct Scratch {
    #[expect(
        clippy::vec_box,
        reason = "the kernel is given their addresses, which must not change when the list grows"
    )]
    messages: RefCell<Vec<Box<Message>>>,
    messages_used: Cell<usize>,
    #[expect(clippy::vec_box, reason = "as above")]
    addresses: RefCell<Vec<Box<Address>>>,
}

struct Message {
    header: libc::msghdr,
    vectors: [libc::iovec; IOVECS],
}

impl Scratch {
    /// A message header over as many buffers as one send takes, and their bytes.
    fn message<'a>(&self, bufs: impl Iterator<Item = &'a Buf>) -> (*const libc::msghdr, usize) {
        let mut messages = self.messages.borrow_mut();
        let used = self.messages_used.get();
        self.messages_used.set(used + 1);
        if used == messages.len() {
            let vector = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
            // SAFETY: all-zero bytes are a valid `msghdr`.
            let header = unsafe { std::mem::zeroed() };
            messages.push(Box::new(Message { header, vectors: [vector; IOVECS] }));
        }
        let message = &mut *messages[used];
        let (mut count, mut bytes) = (0, 0);
        for (vector, buf) in message.vectors.iter_mut().zip(bufs) {
            *vector = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
            count += 1;
            bytes += buf.len();
        }
        message.header.msg_iov = message.vectors.as_mut_ptr();
        message.header.msg_iovlen = count;
        (&raw const message.header, bytes)
    }

    fn address(&self, address: &Address) -> (*const libc::sockaddr, libc::socklen_t) {
        let mut addresses = self.addresses.borrow_mut();
        addresses.push(Box::new(address.clone()));
        let kept = addresses.last().unwrap_or_else(|| unreachable!("pushed above"));
        (kept.as_ptr(), kept.length())
    }

    /// The kernel has taken every submission, and with it a copy of what it pointed to here (IORING_FEAT_SUBMIT_STABLE).
    fn clear(&self) {
        self.messages_used.set(0);
        let mut addresses = self.addresses.borrow_mut();
        if !addresses.is_empty() {
            addresses.clear();
        }
    }
}

/// The kernel frees the rings of a process (or worker) that ended some time after its end, and counts their memory until then. So
/// too little memory is waited out before it is believed.
fn build_ring(entries: u32) -> io::Result<IoUring> {
    let mut left = RING_ATTEMPTS;
    loop {
        match try_build_ring(entries) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && left > 0 => left -= 1,
            result => return result,
        }
        std::thread::sleep(RING_PAUSE);
    }
}

fn try_build_ring(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .dontfork()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(entries * 4)
        .build(entries)
}

/// Whether io_uring can be used here, and if not, why and what to do about it.
pub fn probe_uring() -> Result<(), String> {
    let ring = build_ring(8).map_err(|error| advise(&error, &read_setting()))?;
    let parameters = ring.params();
    let needed = [
        (parameters.is_feature_ext_arg(), "waiting with a time-out (EXT_ARG)"),
        (parameters.is_feature_nodrop(), "completions that are never dropped (NODROP)"),
        (parameters.is_feature_submit_stable(), "submissions that copy their arguments (SUBMIT_STABLE)"),
        (parameters.is_feature_skip_cqe_on_success(), "silent completions (CQE_SKIP)"),
    ];
    if let Some((_, missing)) = needed.iter().find(|(present, _)| !present) {
        return Err(format!("this kernel's io_uring lacks {missing}: use Linux 6.1 or newer, or --io epoll"));
    }
    let buffers = RecvRing::<Buf>::new(8);
    buffers.register(&ring).map_err(|error| {
        format!(
            "this kernel's io_uring has no rings of provided buffers ({error}): use Linux 6.1 or newer, or --io epoll"
        )
    })?;
    buffers.release(&ring);
    Ok(())
}

fn read_setting() -> String {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default().trim().to_owned()
}

/// What to tell a person about a ring that could not be made.
fn advise(error: &io::Error, disabled: &str) -> String {
    match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM), "1" | "2") => format!(
            "io_uring is disabled (kernel.io_uring_disabled = {disabled}): set it to 0, or to 1 and add this user's group to \
             kernel.io_uring_group, or use --io epoll"
        ),
        (Some(libc::EPERM | libc::EACCES), _) => {
            "io_uring is forbidden here, usually by a container's seccomp profile: allow \
             io_uring_setup, io_uring_enter and io_uring_register in it, or use --io epoll"
                .to_owned()
        }
        (Some(libc::ENOSYS), _) => {
            "io_uring does not exist here (kernel built without it, or a sandbox that hides it): use a \
             kernel with CONFIG_IO_URING, or --io epoll"
                .to_owned()
        }
        (Some(libc::EINVAL), _) => {
            "this kernel's io_uring is too old (no SINGLE_ISSUER and DEFER_TASKRUN): use Linux 6.1 or \
             newer, or --io epoll"
                .to_owned()
        }
        (Some(libc::ENOMEM), _) => {
            "io_uring could not get memory: raise the limit of locked memory (ulimit -l, LimitMEMLOCK=), \
             or use --io epoll"
                .to_owned()
        }
        (Some(libc::EMFILE | libc::ENFILE), _) => {
            format!("io_uring could not be set up: {error}; raise the limit of open files (ulimit -n, LimitNOFILE=)")
        }
        _ => format!("io_uring could not be set up: {error}; use --io epoll to do without"),
    }
}

#[inline]
fn user_data(kind: u8, key: SlotKey) -> u64 {
    u64::from(kind) << KIND_SHIFT | key.bits()
}

/// The top byte of the user data says what completed, the rest is the socket's key.
const KIND_SHIFT: u32 = SlotKey::INDEX_BITS + SlotKey::GENERATION_BITS;
const IGNORED: u8 = 0;
const RECV: u8 = 1;
const SEND: u8 = 2;
const ACCEPT: u8 = 3;
const CONNECT: u8 = 4;
const WAKEUP: u8 = 5;
const BYTES: u8 = 6;
const ROOM: u8 = 7;
const DATAGRAM: u8 = 8;
const DATAGRAM_ROOM: u8 = 9;
/// Buffers taken in a row from sockets handed to one `sendmsg`.
const IOVECS: usize = 16;
/// Waiting for memory of rings that are on their way out: half a second in all.
const RING_ATTEMPTS: u32 = 50;
const RING_PAUSE: Duration = Duration::from_millis(10);
/// How long stopping waits for the kernel before it gives the buffers up.
const STOP_LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        let advice = |errno, disabled| advise(&io::Error::from_raw_os_error(errno), disabled);
        assert!(advice(libc::EPERM, "2").contains("kernel.io_uring_disabled = 2"));
        assert!(advice(libc::EPERM, "0").contains("seccomp"));
        assert!(advice(libc::EINVAL, "").contains("6.1"));
        for errno in [libc::EPERM, libc::ENOSYS, libc::EINVAL, libc::ENOMEM, libc::EIO] {
            assert!(advice(errno, "").contains("--io epoll"));
        }
    }
}
