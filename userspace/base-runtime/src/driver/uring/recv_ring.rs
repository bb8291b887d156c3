//! The buffers that stand ready for the kernel to receive into.

use std::alloc::{self, Layout};
use std::cell::{Cell, RefCell};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::Buf;
use crate::buffer::Block;
use crate::context::Context;
use crate::stats::{Counter, Counters};

/// What a ring is made of.
pub(super) trait RingBuffer: Sized {
    const GROUP: u16;
    /// One of the worker's pool, if its ceiling allows.
    fn take(cx: &Context) -> Option<Self>;
    /// Where the kernel may write, and how much.
    fn room(&self) -> (*const u8, usize);
    /// Tells how many of them stand ready.
    fn ready(counters: &Counters) -> &Counter;
}

impl RingBuffer for Buf {
    const GROUP: u16 = 0;

    #[inline]
    fn take(cx: &Context) -> Option<Buf> {
        cx.pool.take_buf(&cx.shared.counters)
    }

    #[inline]
    fn room(&self) -> (*const u8, usize) {
        (self.as_ptr(), RECV_ROOM)
    }

    #[inline]
    fn ready(counters: &Counters) -> &Counter {
        &counters.buffers_ready
    }
}

impl RingBuffer for Block {
    const GROUP: u16 = 1;

    #[inline]
    fn take(cx: &Context) -> Option<Block> {
        cx.datagram_pool.take_block(&cx.shared.counters)
    }

    #[inline]
    fn room(&self) -> (*const u8, usize) {
        (self.as_ptr(), self.len())
    }

    #[inline]
    fn ready(counters: &Counters) -> &Counter {
        &counters.datagram_buffers_ready
    }
}

/// The ring is memory shared with the kernel: this side appends (address, length, id) entries and moves the tail, the kernel takes
/// from the front. `slots[id]` owns the buffer behind an entry for as long as the kernel may fill it.
pub(super) struct RecvRing<B> {
    base: NonNull<BufRingEntry>,
    layout: Layout,
    mask: u16,
    slots: RefCell<Vec<Option<B>>>,
    /// Ids without a buffer, because the pool's ceiling was reached.
    missing: RefCell<Vec<u16>>,
    tail: Cell<u16>,
    published: Cell<u16>,
    registered: Cell<bool>,
}

impl<B: RingBuffer> RecvRing<B> {
    pub fn new(entries: u16) -> RecvRing<B> {
        let size = usize::from(entries) * size_of::<BufRingEntry>();
        let layout = Layout::from_size_align(size, 4096).unwrap_or_else(|_| unreachable!("4096 is a power of two"));
        // SAFETY: the layout has a non-zero size.
        let base = NonNull::new(unsafe { alloc::alloc_zeroed(layout) }.cast::<BufRingEntry>());
        RecvRing {
            base: base.unwrap_or_else(|| alloc::handle_alloc_error(layout)),
            layout,
            mask: entries - 1,
            slots: RefCell::new((0..entries).map(|_| None).collect()),
            missing: RefCell::new((0..entries).rev().collect()),
            tail: Cell::new(0),
            published: Cell::new(0),
            registered: Cell::new(false),
        }
    }

    pub fn register(&self, ring: &IoUring) -> io::Result<()> {
        let (address, entries) = (self.base.as_ptr() as u64, self.mask + 1);
        // SAFETY: the memory is page-aligned, large enough, and outlives the registration (`release`, or the ring's end).
        unsafe { ring.submitter().register_buf_ring_with_flags(address, entries, B::GROUP, 0)? };
        self.registered.set(true);
        Ok(())
    }

    /// Takes the buffer the kernel filled out of its slot and puts a fresh one there.
    #[inline]
    pub fn take(&self, cx: &Context, id: u16) -> B {
        let fresh = B::take(cx);
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[usize::from(id)];
        let Some(filled) = slot.take() else { unreachable!("the kernel named buffer {id}, which it was not given") };
        match fresh {
            Some(fresh) => {
                self.append(id, &fresh);
                *slot = Some(fresh);
            }
            None => {
                B::ready(&cx.shared.counters).sub(1);
                self.missing.borrow_mut().push(id);
            }
        }
        filled
    }

    /// Writes the entry of `id`; the kernel sees it with the next `publish`.
    #[inline]
    fn append(&self, id: u16, buf: &B) {
        let tail = self.tail.get();
        // SAFETY: the index lies within the ring. The kernel reads only entries before the published tail, and this one is free:
        // there are as many entries as ids, and `id` was taken from the ring.
        let entry = unsafe { &mut *self.base.as_ptr().add(usize::from(tail & self.mask)) };
        let (address, length) = buf.room();
        entry.set_addr(address as u64);
        entry.set_len(length as u32);
        entry.set_bid(id);
        self.tail.set(tail.wrapping_add(1));
    }

    #[inline]
    pub fn publish(&self) {
        let tail = self.tail.get();
        if tail != self.published.replace(tail) {
            // SAFETY: the tail is a 16-bit field of the first entry, aligned, which the kernel reads with acquire.
            unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.base.as_ptr()).cast_mut()) }
                .store(tail, Ordering::Release);
        }
    }

    #[inline]
    pub fn refill(&self, cx: &Context) {
        let mut missing = self.missing.borrow_mut();
        while let Some(&id) = missing.last() {
            let Some(buf) = B::take(cx) else { break };
            missing.pop();
            B::ready(&cx.shared.counters).add(1);
            self.append(id, &buf);
            self.slots.borrow_mut()[usize::from(id)] = Some(buf);
        }
    }

    pub fn available(&self) -> usize {
        self.slots.borrow().len() - self.missing.borrow().len()
    }

    /// Takes the ring back from the kernel, which uses none of it any more.
    pub fn release(&self, ring: &IoUring) {
        if self.registered.replace(false) {
            // A refusal would mean that it was not registered.
            let _ = ring.submitter().unregister_buf_ring(B::GROUP);
        }
        self.slots.borrow_mut().clear();
    }

    pub fn leak(&self) {
        std::mem::forget(self.slots.take());
    }
}

impl<B> Drop for RecvRing<B> {
    fn drop(&mut self) {
        if !self.registered.get() {
            // SAFETY: allocated in `new` with this layout, and not shared with the kernel (any more).
            unsafe { alloc::dealloc(self.base.as_ptr().cast(), self.layout) }
        }
    }
}

/// Bytes the kernel can put into one `Buf`.
pub(super) const RECV_ROOM: usize = Buf::CAPACITY - Buf::HEADROOM;
