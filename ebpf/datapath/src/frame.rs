//! How the bytes of a frame are reached: in windows whose length is checked once and whose fields are then read freely.
//!
//! In BPF a window is a pointer that was compared with the end of the packet; the verifier rejects the program when a read
//! lies outside. On the host it is a slice, and such a read panics. Windows borrow the frame, so none outlives a moved head.

pub trait Frame {
    type Window<'a>: Window
    where
        Self: 'a;

    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `N` bytes from `at` on, or nothing when the frame ends before.
    fn window<const N: usize>(&self, at: usize) -> Option<Self::Window<'_>>;

    /// The first `N` bytes. In BPF cheaper than a window that may begin anywhere.
    #[inline(always)]
    fn start<const N: usize>(&self) -> Option<Self::Window<'_>> {
        self.window::<N>(0)
    }

    /// Adds `bytes` of room in front of the frame. False when the driver left none.
    fn push_head(&mut self, bytes: usize) -> bool;

    /// Takes `bytes` off the front.
    fn pull_head(&mut self, bytes: usize) -> bool;

    /// Cuts the frame to `len` bytes.
    fn truncate(&mut self, len: usize) -> bool;
}

/// Raw words are `from_ne_bytes` of the bytes on the wire: to copy and compare, not to calculate with.
pub trait Window: Copy {
    fn u8(self, at: usize) -> u8;
    fn u16_raw(self, at: usize) -> u16;
    fn u32_raw(self, at: usize) -> u32;

    fn put_u8(self, at: usize, value: u8);
    fn put_u16_raw(self, at: usize, value: u16);
    fn put_u32_raw(self, at: usize, value: u32);
    fn put_u64_raw(self, at: usize, value: u64);

    #[inline(always)]
    fn u16(self, at: usize) -> u16 {
        u16::from_be(self.u16_raw(at))
    }

    #[inline(always)]
    fn put_u16(self, at: usize, value: u16) {
        self.put_u16_raw(at, value.to_be());
    }
}
