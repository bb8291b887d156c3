//! Steers packets for addresses over backends, which `xdp_steer` leaves to it: a program by itself, because both together ask for more than
//! the verifier grants.
//!
//! - **Hook**: XDP, by tail call
//! - **Attaches to**: element 3 of ROADS
//! - **Reads**: PART; CONFIG, VIPS, VIP_SEEDS, VIP_PLACES, VIP_PREFIXES, LIMITS
//! - **Writes**: DELIVERY, BUCKETS, SOURCES, COUNTERS, CAPTURED; the packet
//! - **Verdicts**: as `xdp_steer`
//! - **Kernel ≥** 5.10
//! - **Stack/insn budget**: 512 bytes; 9,600 instructions examined
//! - **Test**: kernel-tests/tests/xdp_steer.rs, xdp_steer_model.rs, backends.rs

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use datapath::backend;

use crate::frame::XdpFrame;
use crate::maps::PART;
use crate::tables::Maps;
use crate::verdict::settle;

#[xdp]
pub fn xdp_backend(context: XdpContext) -> u32 {
    // The map has the element.
    let Some(held) = PART.get_ptr(0) else { return aya_ebpf::bindings::xdp_action::XDP_ABORTED };
    // SAFETY: as in `xdp_fragment`.
    let part = unsafe { &(*held).part };
    let mut frame = XdpFrame::new(context.ctx);
    let tables = Maps::new(context.ctx, part.arrived as usize);
    let outcome = backend::steer(&mut frame, &tables, part);
    settle(outcome, &tables, part.arrived as usize)
}
