//! Gives the daemon packets that somebody wants to see, after everything about them is decided, and ends as was decided.
//!
//! - **Hook**: XDP, by tail call
//! - **Attaches to**: element 1 of ROADS
//! - **Reads**: CAPTURED, CAPTURES; the packet
//! - **Writes**: CAPTURES (counts and buckets), SEEN, and `captures` in CONFIG when nobody waits any more
//! - **Verdicts**: those of the program that left the packet to it
//! - **Kernel ≥** 5.10 (tried: 5.10, 6.1, 6.12, 6.18, 7.3); left out where it is refused
//! - **Stack/insn budget**: 512 bytes; 29,000 instructions examined
//! - **Test**: kernel-tests/tests/capture.rs

use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_perf_event_output};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use abi::capture::CAPTURES_MAX;
use abi::{Capture, Captured};
use datapath::admission::take;
use datapath::capture::{passes, read};
use datapath::tables::Bucket;
use datapath::{Frame, Tables};

use crate::frame::XdpFrame;
use crate::maps::{CAPTURED, CAPTURES, CONFIG, SEEN, switch};
use crate::tables::{CURRENT_CPU, Maps, Word};
use crate::verdict::action_of;

#[xdp]
pub fn xdp_capture(context: XdpContext) -> u32 {
    // The map has the element.
    let Some(captured) = CAPTURED.get_ptr_mut(0) else { return XDP_ABORTED };
    // SAFETY: an element of this CPU's, on which no other XDP program runs meanwhile.
    let captured = unsafe { &mut *captured };
    let frame = XdpFrame::new(context.ctx);
    captured.ends =
        read(&frame, captured.machine != 0, captured.reason, |number| Maps::new(context.ctx, 0).forget(number));
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    captured.at_ns = now;
    captured.switch = CONFIG.get_ptr(0).map_or(0, |config| switch(config).0);
    captured.length = frame.len() as u32;
    captured.action = action_of(captured.reason) as u8;
    // SAFETY: fields of the kernel's context.
    (captured.interface, captured.queue) = unsafe { ((*context.ctx).ingress_ifindex, (*context.ctx).rx_queue_index) };
    let (mut takers, mut waiting, mut snap) = (0, 0, 0);
    let mut number = 0;
    while number < CAPTURES_MAX as u32 {
        if let Some(capture) = CAPTURES.get_ptr_mut(number)
            && waits(capture, now)
        {
            waiting += 1;
            // SAFETY: an element of the map, whose filter and rate nobody writes while somebody waits for it.
            let (filter, rate) = unsafe { (&(*capture).filter, (*capture).rate) };
            if passes(filter, captured) {
                if take(&word(unsafe { &raw mut (*capture).bucket }), now, rate) {
                    takers |= 1 << number;
                    snap = if filter.snap > snap { filter.snap } else { snap };
                } else {
                    word(unsafe { &raw mut (*capture).too_fast }).add(1);
                }
            }
        }
        number += 1;
    }
    if takers != 0 {
        give(&context, captured, takers, snap);
    } else if waiting == 0 {
        lie_down();
    }
    captured.action as u32
}

/// Puts the packet into the ring of this CPU, and counts what became of it.
#[inline(always)]
fn give(context: &XdpContext, captured: &mut Captured, takers: u32, snap: u32) {
    captured.captures = takers;
    captured.kept = if captured.length < snap { captured.length } else { snap };
    let flags = CURRENT_CPU | (captured.kept as u64) << 32;
    // SAFETY: an element of this CPU's; the helper reads as much of it as is said, and of the frame no more than there is.
    let given = unsafe {
        let rings = (&raw const SEEN).cast_mut().cast();
        let from = (&raw mut *captured).cast();
        bpf_perf_event_output(context.ctx.cast(), rings, flags, from, size_of::<Captured>() as u64) == 0
    };
    let mut number = 0;
    while number < CAPTURES_MAX as u32 {
        if takers >> number & 1 != 0
            && let Some(capture) = CAPTURES.get_ptr_mut(number)
        {
            // SAFETY: an element of the map.
            let count = unsafe { if given { &raw mut (*capture).taken } else { &raw mut (*capture).no_room } };
            word(count).add(1);
        }
        number += 1;
    }
}

#[inline(always)]
fn waits(capture: *const Capture, now: u64) -> bool {
    // SAFETY: an element of the map; one aligned double word, which userspace stores at once.
    now <= unsafe { (&raw const (*capture).until_ns).read_volatile() }
}

/// The daemon has died, or does not get to say that it waits: packets are no longer led here until it says so again.
#[inline(always)]
fn lie_down() {
    if let Some(config) = CONFIG.get_ptr_mut(0) {
        // SAFETY: an element of the map; one word, stored at once.
        unsafe { (&raw mut (*config).captures).write_volatile(0) };
    }
}

/// `at` lies in an element that was found.
#[inline(always)]
fn word(at: *mut u64) -> Word {
    Word(at)
}
