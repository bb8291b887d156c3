//! The buffers that stand ready for the kernel to receive into.

use std::alloc::{self, Layout};
use std::cell::{Cell, RefCell};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::Buf;
use crate::context::Context;

/// The ring is memory shared with the kernel: this side appends (address, length, id) entries and moves the tail, the kernel takes
/// from the front. `slots[id]` owns the buffer behind an entry for as long as the kernel may fill it.
pub(super) struct RecvRing {
    base: NonNull<BufRingEntry>,
    layout: Layout,
    mask: u16,
    slots: RefCell<Vec<Option<Buf>>>,
    /// Ids without a buffer, because the pool's ceiling was reached.
    missing: RefCell<Vec<u16>>,
    tail: Cell<u16>,
    published: Cell<u16>,
    registered: Cell<bool>,
}

impl RecvRing {
    pub fn new(entries: u16) -> RecvRing {
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
        unsafe { ring.submitter().register_buf_ring_with_flags(address, entries, BUFFER_GROUP, 0)? };
        self.registered.set(true);
        Ok(())
    }

    /// Takes the buffer the kernel filled out of its slot and puts a fresh one there.
    #[inline]
    pub fn take(&self, cx: &Context, id: u16) -> Buf {
        let fresh = cx.pool.take_buf(&cx.shared.counters);
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[usize::from(id)];
        let Some(filled) = slot.take() else { unreachable!("the kernel named buffer {id}, which it was not given") };
        match fresh {
            Some(fresh) => {
                self.append(id, &fresh);
                *slot = Some(fresh);
            }
            None => {
                cx.shared.counters.buffers_ready.sub(1);
                self.missing.borrow_mut().push(id);
            }
        }
        filled
    }

    /// Writes the entry of `id`; the kernel sees it with the next `publish`.
    #[inline]
    fn append(&self, id: u16, buf: &Buf) {
        let tail = self.tail.get();
        // SAFETY: the index lies within the ring. The kernel reads only entries before the published tail, and this one is free:
        // there are as many entries as ids, and `id` was taken from the ring.
        let entry = unsafe { &mut *self.base.as_ptr().add(usize::from(tail & self.mask)) };
        entry.set_addr(buf.as_ptr() as u64);
        entry.set_len(RECV_ROOM as u32);
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
            let Some(buf) = cx.pool.take_buf(&cx.shared.counters) else { break };
            missing.pop();
            cx.shared.counters.buffers_ready.add(1);
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
            let _ = ring.submitter().unregister_buf_ring(BUFFER_GROUP);
        }
        self.slots.borrow_mut().clear();
    }

    pub fn leak(&self) {
        std::mem::forget(self.slots.take());
    }
}

impl Drop for RecvRing {
    fn drop(&mut self) {
        if !self.registered.get() {
            // SAFETY: allocated in `new` with this layout, and not shared with the kernel (any more).
            unsafe { alloc::dealloc(self.base.as_ptr().cast(), self.layout) }
        }
    }
}

pub(super) const BUFFER_GROUP: u16 = 0;
/// Bytes the kernel can put into one buffer.
pub(super) const RECV_ROOM: usize = Buf::CAPACITY - Buf::HEADROOM;
