//! Steers packets of all kinds, which `xdp_steer` leaves to it: a program by itself, because both together ask for more than the verifier
//! grants.
//!
//! - **Hook**: XDP, by tail call
//! - **Attaches to**: element 5 of ROADS
//! - **Reads**: CONFIG, VIPS, VIP_SEEDS, VIP_PLACES, VIP_PREFIXES, SLOTS, SENDERS, MACHINES, ACCESS, BANS, ACCESS_BLOCKS, ACCESS_PREFIXES, LIMITS, QUESTION, ROADS; the kernel's TCP sockets
//! - **Writes**: COUNTERS, STEERED, BUCKETS, SOURCES, QUESTION, PART, SYN, CAPTURED; the packet
//! - **Verdicts**: PASS, TX, DROP, by `abi::Reason::verdict`
//! - **Kernel ≥** 5.10 (tried: 5.10, 6.1, 6.12, 6.18, 7.3)
//! - **Stack/insn budget**: 512 bytes; 49,000 instructions examined (`cargo xtask build-ebpf` prints them)
//! - **Test**: kernel-tests/tests/xdp_steer.rs, xdp_steer_model.rs, steering.rs

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use datapath::{Frame, general};

use crate::frame::XdpFrame;
use crate::tables::Maps;
use crate::verdict::settle;

#[xdp]
pub fn xdp_general(context: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(context.ctx);
    let bytes = frame.len();
    let tables = Maps::new(context.ctx, bytes);
    let outcome = general(&mut frame, &tables);
    settle(outcome, &tables, bytes)
}
