//! Steers fragments, which `xdp_steer` leaves to it: a program by itself, because both together ask for more than the verifier grants.
//!
//! - **Hook**: XDP, by tail call
//! - **Attaches to**: element 0 of ROADS
//! - **Reads**: PART; CONFIG, VIPS, VIP_SEEDS, VIP_PLACES, VIP_PREFIXES, SLOTS, MACHINES, LIMITS, FRAGMENTS, QUESTION; the kernel's TCP sockets
//! - **Writes**: FRAGMENTS, DELIVERY, HELD, BUCKETS, SOURCES, COUNTERS, STEERED, QUESTION, CAPTURED; the packet
//! - **Verdicts**: as `xdp_steer`
//! - **Kernel ≥** 5.10 (tried: 5.10, 6.1, 6.12, 6.18, 7.3)
//! - **Stack/insn budget**: 512 bytes; 38,000 instructions examined
//! - **Test**: kernel-tests/tests/xdp_steer.rs, xdp_steer_model.rs, steering.rs

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use datapath::fragment;

use crate::frame::XdpFrame;
use crate::maps::PART;
use crate::tables::Maps;
use crate::verdict::settle;

#[xdp]
pub fn xdp_fragment(context: XdpContext) -> u32 {
    // The map has the element.
    let Some(held) = PART.get_ptr(0) else { return aya_ebpf::bindings::xdp_action::XDP_ABORTED };
    // SAFETY: an element of this CPU's, on which no other XDP program runs meanwhile; its length alone is written from here on.
    let part = unsafe { &(*held).part };
    let mut frame = XdpFrame::new(context.ctx);
    let tables = Maps::new(context.ctx, 0);
    let outcome = fragment::steer(&mut frame, &tables, part);
    settle(outcome, &tables, part.arrived as usize)
}
