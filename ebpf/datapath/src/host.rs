//! A frame in a slice, with the head room an XDP driver gives: for tests and fuzzing on the host.

use core::cell::Cell;

use crate::{Frame, Window, ethernet};

/// Bytes in front of a frame that a driver leaves (XDP_PACKET_HEADROOM).
pub const HEADROOM: usize = 256;

/// A frame that lies in `buffer[start..end]`.
#[derive(Debug)]
pub struct SliceFrame<'b> {
    buffer: &'b [Cell<u8>],
    start: usize,
    end: usize,
}

impl<'b> SliceFrame<'b> {
    /// The first [`HEADROOM`] bytes of `buffer` are head room, the next `len` the frame.
    pub fn new(buffer: &'b mut [u8], len: usize) -> SliceFrame<'b> {
        let buffer = Cell::from_mut(buffer).as_slice_of_cells();
        SliceFrame { buffer: &buffer[..HEADROOM + len], start: HEADROOM, end: HEADROOM + len }
    }

    /// The frame's bytes.
    pub fn bytes(&self) -> impl Iterator<Item = u8> + '_ {
        self.buffer[self.start..self.end].iter().map(Cell::get)
    }
}

impl Frame for SliceFrame<'_> {
    type Window<'a>
        = SliceWindow<'a>
    where
        Self: 'a;

    fn len(&self) -> usize {
        self.end - self.start
    }

    fn window<const N: usize>(&self, at: usize) -> Option<SliceWindow<'_>> {
        let from = self.start.checked_add(at)?;
        let to = from.checked_add(N)?;
        if to > self.end {
            return None;
        }
        Some(SliceWindow(&self.buffer[from..to]))
    }

    fn push_head(&mut self, bytes: usize) -> bool {
        // The kernel keeps the room of `struct xdp_frame` at the very front for itself.
        if self.start < bytes + XDP_FRAME {
            return false;
        }
        self.start -= bytes;
        true
    }

    fn pull_head(&mut self, bytes: usize) -> bool {
        if self.start + bytes + ethernet::HEADER > self.end {
            return false;
        }
        self.start += bytes;
        true
    }

    fn truncate(&mut self, len: usize) -> bool {
        if len < ethernet::HEADER || self.start + len > self.end {
            return false;
        }
        self.end = self.start + len;
        true
    }
}

#[derive(Clone, Copy, Debug)]
pub struct SliceWindow<'a>(&'a [Cell<u8>]);

impl Window for SliceWindow<'_> {
    fn u8(self, at: usize) -> u8 {
        self.0[at].get()
    }

    fn u16_raw(self, at: usize) -> u16 {
        u16::from_ne_bytes([self.0[at].get(), self.0[at + 1].get()])
    }

    fn u32_raw(self, at: usize) -> u32 {
        u32::from_ne_bytes([self.0[at].get(), self.0[at + 1].get(), self.0[at + 2].get(), self.0[at + 3].get()])
    }

    fn put_u8(self, at: usize, value: u8) {
        self.0[at].set(value);
    }

    fn put_u16_raw(self, at: usize, value: u16) {
        for (i, byte) in value.to_ne_bytes().into_iter().enumerate() {
            self.0[at + i].set(byte);
        }
    }

    fn put_u32_raw(self, at: usize, value: u32) {
        for (i, byte) in value.to_ne_bytes().into_iter().enumerate() {
            self.0[at + i].set(byte);
        }
    }

    fn put_u64_raw(self, at: usize, value: u64) {
        for (i, byte) in value.to_ne_bytes().into_iter().enumerate() {
            self.0[at + i].set(byte);
        }
    }
}

const XDP_FRAME: usize = 40;
