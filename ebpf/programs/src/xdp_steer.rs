//! Steers packets for virtual IPs to the machine that owns their connection: usual ones by itself, the others `xdp_general` does.
//!
//! - **Hook**: XDP
//! - **Attaches to**: the interfaces given with `--interface`; driver mode, or generic mode with a warning
//! - **Reads**: CONFIG, VIPS, VIP_SEEDS, VIP_PLACES, VIP_PREFIXES, SLOTS, BEFORE, MACHINES, ACCESS, BANS, QUESTION, ROADS; the kernel's TCP sockets
//! - **Writes**: COUNTERS, STEERED, QUESTION, PART, CAPTURED; the packet
//! - **Verdicts**: PASS, TX, DROP, by `abi::Reason::verdict`
//! - **Kernel ≥** 5.10 (tried: 5.10, 6.1, 6.12, 6.18, 7.3)
//! - **Stack/insn budget**: 512 bytes; 21,000 instructions examined (`cargo xtask build-ebpf` prints them)
//! - **Test**: kernel-tests/tests/xdp_steer.rs, xdp_steer_model.rs, steering.rs

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use datapath::{Frame, usual};

use crate::frame::XdpFrame;
use crate::maps::{GENERAL_ROAD, ROADS};
use crate::tables::Maps;
use crate::verdict::{Settles, settle};

#[xdp]
#[inline(always)]
pub fn xdp_steer(context: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(context.ctx);
    let bytes = frame.len();
    let Some(tables) = Maps::of_usual(context.ctx, bytes) else { return XDP_PASS };
    match usual::steer(&mut frame, &tables, &Settles { tables: &tables, bytes }) {
        Some(Ok(verdict)) => verdict,
        Some(Err(outcome)) => settle(outcome, &tables, bytes),
        None => leave(&context),
    }
}

/// To the road that all packets can take.
#[inline(always)]
pub fn leave(context: &XdpContext) -> u32 {
    // SAFETY: the context is the kernel's, and the program that is called of the same kind.
    let _ = unsafe { ROADS.tail_call(context, GENERAL_ROAD) };
    // There is no program: userspace puts it there before this one runs.
    XDP_PASS
}
