//! Pooled buffers of one size, owned by one place at a time.

use std::alloc::{self, Layout};
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::context;
use crate::stats::{Counter, Counters};

/// A byte buffer of fixed capacity with a window of valid bytes, returned to the pool of its thread on drop.
///
/// Received bytes land behind [`Buf::HEADROOM`], so that a rewritten message head can be placed in front of a body without copying
/// the body.
pub struct Buf {
    block: NonNull<u8>,
    start: u32,
    end: u32,
}

impl Buf {
    /// Bytes left free in front of the window of a fresh buffer.
    pub const HEADROOM: usize = 1024;
    /// Bytes of the whole buffer, headroom included.
    pub const CAPACITY: usize = 32 * 1024;

    /// An empty buffer whose window stands behind the headroom. Beyond the pool's ceiling it is still given, and counted.
    #[inline]
    pub fn alloc() -> Buf {
        let block = context::try_with(|cx| cx.pool.take(&cx.shared.counters)).unwrap_or_else(|| new_block(BLOCK));
        Buf::from_block(block)
    }

    /// As [`Buf::alloc`], but `None` (and counted) once the pool's ceiling is reached or the machine has no memory.
    #[inline]
    pub fn try_alloc() -> Option<Buf> {
        match context::try_with(|cx| cx.pool.try_take(&cx.shared.counters)) {
            Some(taken) => taken.map(Buf::from_block),
            None => try_new_block(BLOCK).map(Buf::from_block),
        }
    }

    /// A buffer holding a copy of `bytes`, at most `CAPACITY - HEADROOM` of them.
    pub fn copy_from(bytes: &[u8]) -> Buf {
        let mut buf = Buf::alloc();
        buf.append(bytes);
        buf
    }

    #[inline]
    fn from_block(block: NonNull<u8>) -> Buf {
        Buf { block, start: Self::HEADROOM as u32, end: Self::HEADROOM as u32 }
    }

    #[inline]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Free bytes in front of the window.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.start as usize
    }

    /// Free bytes behind the window.
    #[inline]
    pub fn tailroom(&self) -> usize {
        Self::CAPACITY - self.end as usize
    }

    /// Drops the first `n` bytes of the window.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.len(), "advance by {n} in a window of {}", self.len());
        self.start += n as u32;
    }

    /// Keeps only the first `n` bytes of the window; longer than the window changes nothing.
    #[inline]
    pub fn truncate(&mut self, n: usize) {
        if n < self.len() {
            self.end = self.start + n as u32;
        }
    }

    /// Empties the window and puts it back behind the headroom.
    #[inline]
    pub fn clear(&mut self) {
        self.start = Self::HEADROOM as u32;
        self.end = Self::HEADROOM as u32;
    }

    /// Copies `bytes` in front of the window if they fit.
    #[inline]
    pub fn prepend(&mut self, bytes: &[u8]) -> bool {
        let Some(target) = self.prepend_mut(bytes.len()) else { return false };
        target.copy_from_slice(bytes);
        true
    }

    /// Widens the window by `n` bytes to the front and gives those bytes for writing, if they fit.
    #[inline]
    pub fn prepend_mut(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.headroom() {
            return None;
        }
        self.start -= n as u32;
        Some(&mut self.as_mut_slice()[..n])
    }

    /// Copies as much of `bytes` as fits behind the window, and says how much.
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.tailroom());
        self.spare_mut()[..n].copy_from_slice(&bytes[..n]);
        self.commit(n);
        n
    }

    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        self
    }

    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: start ≤ end ≤ CAPACITY, the block was allocated zeroed with CAPACITY bytes, and `self` owns it uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.block.as_ptr().add(self.start as usize), self.len()) }
    }

    /// The bytes behind the window, for writing; [`Buf::commit`] adds them to it. What they hold before is unspecified.
    #[inline]
    pub fn spare_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_mut_slice`; the range end..CAPACITY lies within the block.
        unsafe { std::slice::from_raw_parts_mut(self.block.as_ptr().add(self.end as usize), self.tailroom()) }
    }

    /// Adds the first `n` bytes of the spare room to the window.
    #[inline]
    pub fn commit(&mut self, n: usize) {
        assert!(n <= self.tailroom(), "commit {n} with {} bytes of room", self.tailroom());
        self.end += n as u32;
    }

    /// Moves everything from `at` on into a new buffer (by copying) and keeps the bytes before it.
    pub fn split_off(&mut self, at: usize) -> Buf {
        assert!(at <= self.len(), "split at {at} in a window of {}", self.len());
        let mut tail = Buf::alloc();
        let bytes = &self[at..];
        if bytes.len() > tail.tailroom() {
            // Only a window that grew into its headroom is longer than a fresh buffer's room.
            tail.start = 0;
            tail.end = 0;
        }
        let copied = tail.append(bytes);
        debug_assert_eq!(copied, bytes.len());
        self.truncate(at);
        tail
    }

    /// Where the window starts, for handing to the kernel; valid as long as the buffer is kept.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *const u8 {
        // SAFETY: start ≤ CAPACITY keeps the pointer within (or one past) the block.
        unsafe { self.block.as_ptr().add(self.start as usize) }
    }

    /// The window of a buffer the kernel received `n` bytes into, behind the headroom.
    #[inline]
    pub(crate) fn set_received(&mut self, n: usize) {
        debug_assert!(n <= Self::CAPACITY - Self::HEADROOM);
        self.start = Self::HEADROOM as u32;
        self.end = (Self::HEADROOM + n) as u32;
    }
}

impl Deref for Buf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: as in `as_mut_slice`, shared.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }
}

impl DerefMut for Buf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}

impl Drop for Buf {
    #[inline]
    fn drop(&mut self) {
        let block = self.block;
        if context::try_with(|cx| cx.pool.give(block, &cx.shared.counters)).is_none() {
            free_block(block, BLOCK);
        }
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buf").field("len", &self.len()).field("headroom", &self.headroom()).finish()
    }
}

/// What a pool's buffers are for, which is to say which counters tell of them.
pub(crate) trait Purpose {
    fn counters(counters: &Counters) -> PoolCounters<'_>;
}

pub(crate) struct PoolCounters<'a> {
    pub in_use: &'a Counter,
    pub total: &'a Counter,
    pub exhausted: &'a Counter,
}

/// [`Buf`]s.
pub(crate) struct Streams;
/// [`Block`]s.
pub(crate) struct Datagrams;

impl Purpose for Streams {
    #[inline]
    fn counters(counters: &Counters) -> PoolCounters<'_> {
        PoolCounters {
            in_use: &counters.buffers_in_use,
            total: &counters.buffers_total,
            exhausted: &counters.buffers_exhausted,
        }
    }
}

impl Purpose for Datagrams {
    #[inline]
    fn counters(counters: &Counters) -> PoolCounters<'_> {
        PoolCounters {
            in_use: &counters.datagram_buffers_in_use,
            total: &counters.datagram_buffers_total,
            exhausted: &counters.datagram_buffers_exhausted,
        }
    }
}

/// The buffers of one worker and one size: last in, first out, so that the warm ones are used again.
pub(crate) struct Pool<P> {
    block: Layout,
    free: RefCell<Vec<NonNull<u8>>>,
    allocated: Cell<usize>,
    /// Buffers the worker may hold in all.
    ceiling: usize,
    /// Free buffers kept for later; more are given back to the allocator.
    keep: usize,
    /// Fewest free buffers since the last `trim`: so many were not needed.
    unneeded: Cell<usize>,
    /// Free buffers that are never given back.
    free_always: usize,
    purpose: PhantomData<P>,
}

impl<P: Purpose> Pool<P> {
    fn of(block: Layout, ceiling: usize, keep: usize) -> Pool<P> {
        Pool {
            block,
            free: RefCell::new(Vec::new()),
            allocated: Cell::new(0),
            ceiling,
            keep,
            unneeded: Cell::new(0),
            free_always: FREE_ALWAYS_BYTES / block.size(),
            purpose: PhantomData,
        }
    }

    #[inline]
    fn take(&self, counters: &Counters) -> NonNull<u8> {
        match self.take_within(counters) {
            Some(block) => block,
            None => {
                P::counters(counters).exhausted.add(1);
                self.add(new_block(self.block), counters)
            }
        }
    }

    #[inline]
    fn try_take(&self, counters: &Counters) -> Option<NonNull<u8>> {
        let taken = self.take_within(counters);
        if taken.is_none() {
            P::counters(counters).exhausted.add(1);
        }
        taken
    }

    /// A buffer if the ceiling allows, without counting a refusal.
    #[inline]
    fn take_within(&self, counters: &Counters) -> Option<NonNull<u8>> {
        let mut free = self.free.borrow_mut();
        if let Some(recycled) = free.pop() {
            if free.len() < self.unneeded.get() {
                self.unneeded.set(free.len());
            }
            P::counters(counters).in_use.add(1);
            return Some(recycled);
        }
        drop(free);
        self.grow(counters)
    }

    /// A buffer could be taken within the ceiling.
    pub fn has_room(&self) -> bool {
        self.allocated.get() < self.ceiling || !self.free.borrow().is_empty()
    }

    /// A new buffer if the ceiling and the machine's memory allow.
    #[cold]
    fn grow(&self, counters: &Counters) -> Option<NonNull<u8>> {
        let block = if self.allocated.get() < self.ceiling { try_new_block(self.block) } else { None };
        block.map(|block| self.add(block, counters))
    }

    fn add(&self, block: NonNull<u8>, counters: &Counters) -> NonNull<u8> {
        self.allocated.set(self.allocated.get() + 1);
        P::counters(counters).total.set(self.allocated.get() as u64);
        P::counters(counters).in_use.add(1);
        // A turn that takes many new ones must not outgrow the ceiling unseen.
        context::try_with(|cx| cx.shared.ledger.tell(&cx.shared));
        block
    }

    #[inline]
    fn give(&self, block: NonNull<u8>, counters: &Counters) {
        P::counters(counters).in_use.sub(1);
        let mut free = self.free.borrow_mut();
        if free.len() >= self.keep || self.allocated.get() > self.ceiling {
            drop(free);
            free_block(block, self.block);
            self.allocated.set(self.allocated.get().saturating_sub(1));
            P::counters(counters).total.set(self.allocated.get() as u64);
        } else {
            free.push(block);
        }
    }

    /// More free buffers are kept than the least that always are.
    pub fn has_surplus(&self) -> bool {
        self.free.borrow().len() > self.free_always
    }

    /// Gives back half of the free buffers that were not needed since the last time, the longest unused first. So what a burst left
    /// behind is gone some seconds after it.
    pub fn trim(&self, counters: &Counters) {
        let mut free = self.free.borrow_mut();
        let unneeded = self.unneeded.replace(free.len()).min(free.len().saturating_sub(self.free_always));
        if unneeded == 0 {
            return;
        }
        let spent = (unneeded / 2).max(unneeded.min(self.free_always));
        for block in free.drain(..spent) {
            free_block(block, self.block);
        }
        self.unneeded.set(free.len());
        self.allocated.set(self.allocated.get() - spent);
        P::counters(counters).total.set(self.allocated.get() as u64);
    }
}

impl Pool<Streams> {
    pub fn new(ceiling: usize, keep: usize) -> Pool<Streams> {
        Pool::of(BLOCK, ceiling, keep)
    }

    pub fn take_buf(&self, counters: &Counters) -> Option<Buf> {
        self.take_within(counters).map(Buf::from_block)
    }
}

impl Pool<Datagrams> {
    /// Of blocks of `size` bytes.
    pub fn new(size: usize, ceiling: usize, keep: usize) -> Pool<Datagrams> {
        Pool::of(block_layout(size), ceiling, keep)
    }

    pub fn take_block(&self, counters: &Counters) -> Option<Block> {
        self.take_within(counters).map(|start| Block { start, size: self.block.size() })
    }
}

impl<P> Drop for Pool<P> {
    fn drop(&mut self) {
        for block in self.free.borrow_mut().drain(..) {
            free_block(block, self.block);
        }
    }
}

/// A buffer for datagrams, returned to the pool of its thread on drop: a datagram that was received with what the kernel told of it,
/// or those that wait to be sent.
pub(crate) struct Block {
    start: NonNull<u8>,
    size: usize,
}

impl Block {
    /// Where it starts, for handing to the kernel; valid as long as the block is kept.
    pub fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }
}

impl Deref for Block {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the block was allocated zeroed with `size` bytes, and `self` owns it uniquely.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size) }
    }
}

impl DerefMut for Block {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size) }
    }
}

impl Drop for Block {
    #[inline]
    fn drop(&mut self) {
        let start = self.start;
        if context::try_with(|cx| cx.datagram_pool.give(start, &cx.shared.counters)).is_none() {
            free_block(start, block_layout(self.size));
        }
    }
}

const BLOCK: Layout = match Layout::from_size_align(Buf::CAPACITY, 64) {
    Ok(layout) => layout,
    Err(_) => panic!("64 is a power of two"),
};

fn block_layout(size: usize) -> Layout {
    Layout::from_size_align(size, 64).unwrap_or_else(|_| unreachable!("64 is a power of two, and blocks are small"))
}

/// Free buffers worth this much are never given back.
const FREE_ALWAYS_BYTES: usize = 512 * 1024;

fn new_block(layout: Layout) -> NonNull<u8> {
    try_new_block(layout).unwrap_or_else(|| alloc::handle_alloc_error(layout))
}

/// Zeroed, so that the spare room may be given out as a plain slice.
fn try_new_block(layout: Layout) -> Option<NonNull<u8>> {
    // SAFETY: the layout has a non-zero size.
    NonNull::new(unsafe { alloc::alloc_zeroed(layout) })
}

fn free_block(block: NonNull<u8>, layout: Layout) {
    // SAFETY: every block comes from `new_block` with the layout of its pool, and its only owner gives it up here.
    unsafe { alloc::dealloc(block.as_ptr(), layout) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_moves_within_the_block() {
        let mut buf = Buf::alloc();
        assert_eq!((buf.len(), buf.headroom()), (0, Buf::HEADROOM));
        assert_eq!(buf.append(b"hello world"), 11);
        buf.advance(6);
        assert_eq!(&buf[..], b"world");
        assert!(buf.prepend(b"big "));
        assert_eq!(&buf[..], b"big world");
        let tail = buf.split_off(3);
        assert_eq!((&buf[..], &tail[..]), (&b"big"[..], &b" world"[..]));
        buf.truncate(1);
        assert_eq!(&buf[..], b"b");
        assert!(!buf.prepend(&[0; Buf::CAPACITY]));
    }

    #[test]
    fn append_copies_what_fits_and_split_keeps_a_window_wider_than_a_fresh_one() {
        let mut buf = Buf::alloc();
        assert_eq!(buf.append(&vec![7; Buf::CAPACITY * 2]), Buf::CAPACITY - Buf::HEADROOM);
        assert!(buf.prepend(&[1; Buf::HEADROOM]));
        assert_eq!((buf.headroom(), buf.tailroom()), (0, 0));
        let tail = buf.split_off(0);
        assert_eq!((tail.len(), buf.len()), (Buf::CAPACITY, 0));
        assert_eq!((tail[0], tail[Buf::HEADROOM]), (1, 7));
    }

    #[test]
    #[should_panic(expected = "advance")]
    fn advance_beyond_the_window_is_refused() {
        Buf::alloc().advance(1);
    }
}
