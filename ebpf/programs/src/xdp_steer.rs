//! Steers packets for virtual IPs to the machine that owns their connection.
//!
//! - **Hook**: XDP
//! - **Attaches to**: the interfaces given with `--interface`; driver mode, or generic mode with a warning
//! - **Reads**: CONFIG, VIPS, VIP_PREFIXES, SLOTS, SENDERS, MACHINES, ACCESS, ACCESS_BLOCKS, ACCESS_PREFIXES, LIMITS, QUESTION, ROADS; the kernel's TCP sockets
//! - **Writes**: COUNTERS, STEERED, BUCKETS, SOURCES, QUESTION, PART, SYN, CAPTURED; the packet
//! - **Verdicts**: PASS, TX, DROP, by `abi::Reason::verdict`
//! - **Kernel ≥** 5.10 (tried: 5.10, 6.1, 6.12, 6.18, 7.3)
//! - **Stack/insn budget**: 512 bytes; 55,000 instructions examined (`cargo xtask build-ebpf` prints them)
//! - **Test**: kernel-tests/tests/xdp_steer.rs, xdp_steer_model.rs, steering.rs

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use datapath::{Frame, steer};

use crate::frame::XdpFrame;
use crate::tables::Maps;
use crate::verdict::settle;

#[xdp]
pub fn xdp_steer(context: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(context.ctx);
    let bytes = frame.len();
    let tables = Maps::new(context.ctx, bytes);
    let outcome = steer(&mut frame, &tables);
    settle(outcome, &tables, bytes)
}
