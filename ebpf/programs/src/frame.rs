//! The packet under XDP as a [`Frame`].

use core::arch::asm;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail};

use datapath::{Frame, Window};

pub struct XdpFrame {
    context: *mut xdp_md,
}

impl XdpFrame {
    /// `context` is what the kernel called the program with.
    #[inline(always)]
    pub fn new(context: *mut xdp_md) -> XdpFrame {
        XdpFrame { context }
    }

    #[inline(always)]
    fn data(&self) -> usize {
        let data: usize;
        // SAFETY: the first field of the kernel's context, which is valid for the whole run. In assembly because LLVM widens the
        // 32-bit field with an instruction of its own (`w2 = w2`), after which the verifier no longer knows a pointer
        // (LLVM 22, kernel 6.18). May go when LLVM folds the two again.
        unsafe {
            asm!("{0} = *(u32 *)({1} + 0)", out(reg) data, in(reg) self.context, options(pure, readonly, nostack))
        };
        data
    }

    #[inline(always)]
    fn end(&self) -> usize {
        let end: usize;
        // SAFETY: the second field; as in `data`.
        unsafe {
            asm!("{0} = *(u32 *)({1} + 4)", out(reg) end, in(reg) self.context, options(pure, readonly, nostack))
        };
        end
    }
}

impl Frame for XdpFrame {
    type Window<'a> = XdpWindow;

    #[inline(always)]
    fn len(&self) -> usize {
        self.end() - self.data()
    }

    #[inline(always)]
    fn window<const N: usize>(&self, at: usize) -> Option<XdpWindow> {
        // The verifier adds an offset to a packet pointer only if it sees its bound.
        if at > OFFSET_MAX {
            return None;
        }
        let start = advance(self.data(), at);
        if start + N > self.end() {
            return None;
        }
        Some(XdpWindow(start))
    }

    #[inline(always)]
    fn start<const N: usize>(&self) -> Option<XdpWindow> {
        let start = self.data();
        (start + N <= self.end()).then_some(XdpWindow(start))
    }

    #[inline(always)]
    fn push_head(&mut self, bytes: usize) -> bool {
        // SAFETY: a helper call with the kernel's own context; all windows borrow self and are gone.
        unsafe { bpf_xdp_adjust_head(self.context, -(bytes as i32)) == 0 }
    }

    #[inline(always)]
    fn pull_head(&mut self, bytes: usize) -> bool {
        // SAFETY: as in `push_head`.
        unsafe { bpf_xdp_adjust_head(self.context, bytes as i32) == 0 }
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) -> bool {
        let cut = len as i32 - self.len() as i32;
        // SAFETY: as in `push_head`.
        unsafe { bpf_xdp_adjust_tail(self.context, cut) == 0 }
    }
}

/// A checked stretch of the packet. The trait's methods are safe to call because the verifier proves every one of them
/// against the check in `window`, or refuses the program.
#[derive(Clone, Copy)]
pub struct XdpWindow(usize);

impl XdpWindow {
    /// Where it starts, for helpers of the kernel that read headers themselves.
    #[inline(always)]
    pub fn address(self) -> usize {
        self.0
    }
}

impl Window for XdpWindow {
    #[inline(always)]
    fn u8(self, at: usize) -> u8 {
        // SAFETY: inside the length that `window` compared with the end of the packet; proved again by the verifier.
        unsafe { ((self.0 + at) as *const u8).read_volatile() }
    }

    #[inline(always)]
    fn u16_raw(self, at: usize) -> u16 {
        // SAFETY: as in `u8`. Fields of a packet need not be aligned; the BPF machine loads them all the same, and a volatile
        // read of the whole field keeps LLVM from taking it apart into bytes.
        unsafe { ((self.0 + at) as *const u16).read_volatile() }
    }

    #[inline(always)]
    fn u32_raw(self, at: usize) -> u32 {
        // SAFETY: as in `u16_raw`.
        unsafe { ((self.0 + at) as *const u32).read_volatile() }
    }

    #[inline(always)]
    fn put_u8(self, at: usize, value: u8) {
        // SAFETY: as in `u8`; XDP programs may write the packet.
        unsafe { ((self.0 + at) as *mut u8).write_volatile(value) }
    }

    #[inline(always)]
    fn put_u16_raw(self, at: usize, value: u16) {
        // SAFETY: as in `put_u8` and `u16_raw`.
        unsafe { ((self.0 + at) as *mut u16).write_volatile(value) }
    }

    #[inline(always)]
    fn put_u32_raw(self, at: usize, value: u32) {
        // SAFETY: as in `put_u8` and `u16_raw`.
        unsafe { ((self.0 + at) as *mut u32).write_volatile(value) }
    }

    #[inline(always)]
    fn put_u64_raw(self, at: usize, value: u64) {
        // SAFETY: as in `put_u8` and `u16_raw`.
        unsafe { ((self.0 + at) as *mut u64).write_volatile(value) }
    }
}

/// `pointer + offset`, for an offset of at most OFFSET_MAX. Bounded and added where LLVM cannot see it, so that the register
/// that is bounded is the one that is added, and the one compared with the end of the packet the one read through. Left to
/// itself (LLVM 22, kernel 6.18) LLVM bounds or adds a copy, and the verifier then meets an unbounded offset or an unchecked
/// pointer. May go when LLVM keeps them together.
#[inline(always)]
fn advance(mut pointer: usize, offset: usize) -> usize {
    // SAFETY: registers only; the mask changes nothing, as the caller has checked.
    unsafe {
        asm!(
            "{1} &= 4095",
            "{0} += {1}",
            inout(reg) pointer,
            inout(reg) offset => _,
            options(pure, nomem, nostack)
        )
    };
    pointer
}

/// Bound for the verifier (its own is 65,535); beyond any header the datapath looks at.
const OFFSET_MAX: usize = 4_095;
