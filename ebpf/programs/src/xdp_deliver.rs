//! Sends packets to servers that do not run Weir, as IP in IP: what `xdp_backend` and `xdp_fragment` leave to it.
//!
//! - **Hook**: XDP, by tail call
//! - **Attaches to**: element 4 of ROADS
//! - **Reads**: DELIVERY; CONFIG, SLOTS, MACHINES, FLOWS
//! - **Writes**: FLOWS, BUCKETS, FRAGMENTS, PART, HELD, COUNTERS, STEERED, CAPTURED; the packet
//! - **Verdicts**: as `xdp_steer`
//! - **Kernel ≥** 5.10
//! - **Stack/insn budget**: 512 bytes; 5,600 instructions examined
//! - **Test**: kernel-tests/tests/xdp_steer.rs, xdp_steer_model.rs, backends.rs

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use datapath::backend;

use crate::frame::XdpFrame;
use crate::maps::DELIVERY;
use crate::tables::Maps;
use crate::verdict::settle;

#[xdp]
pub fn xdp_deliver(context: XdpContext) -> u32 {
    // The map has the element.
    let Some(delivery) = DELIVERY.get_ptr(0) else { return aya_ebpf::bindings::xdp_action::XDP_ABORTED };
    // SAFETY: an element of this CPU's, on which no other XDP program runs meanwhile; nobody writes it from here on.
    let delivery = unsafe { &*delivery };
    let mut frame = XdpFrame::new(context.ctx);
    let tables = Maps::new(context.ctx, 0);
    let outcome = backend::deliver(&mut frame, &tables, delivery);
    settle(outcome, &tables, delivery.part.arrived as usize)
}
