//! Answers SYNs with SYN cookies, and drops what has none, while connections to a virtual IP begin faster than it takes without.
//!
//! - **Hook**: XDP, by tail call
//! - **Attaches to**: element 2 of ROADS
//! - **Reads**: SYN, CONFIG, WAYS; the kernel's TCP sockets, and its secrets of SYN cookies
//! - **Writes**: COUNTERS, CAPTURED; the packet
//! - **Verdicts**: as `xdp_steer`
//! - **Kernel ≥** 6.0 (tried: 6.1, 6.12, 6.18, 7.3); left out where it is refused
//! - **Stack/insn budget**: 512 bytes; 43,000 instructions examined
//! - **Test**: kernel-tests/tests/syn_cookies.rs

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use datapath::syn;

use crate::frame::XdpFrame;
use crate::maps::SYN;
use crate::tables::Maps;
use crate::verdict::settle;

#[xdp]
pub fn xdp_syn(context: XdpContext) -> u32 {
    // The map has the element.
    let Some(packet) = SYN.get_ptr(0) else { return aya_ebpf::bindings::xdp_action::XDP_ABORTED };
    // SAFETY: an element of this CPU's, on which no other XDP program runs meanwhile; nobody writes it from here on.
    let packet = unsafe { &*packet };
    let mut frame = XdpFrame::new(context.ctx);
    let tables = Maps::new(context.ctx, 0);
    let outcome = syn::answer(&mut frame, &tables, packet);
    settle(outcome, &tables, packet.arrived as usize)
}
