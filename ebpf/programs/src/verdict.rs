//! Reason → verdict and counter. A program can only end through here, so nothing is dropped without a reason.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use aya_ebpf::programs::XdpContext;

use abi::{Config, Counter, REASONS, Reason, Verdict, counter};
use datapath::usual::End;
use datapath::{Live, Outcome};

use crate::maps::{CAPTURE_ROAD, CAPTURED, COUNTERS, ROADS, STEERED, switch};
use crate::tables::{Maps, live};

/// Counts the packet under its reason and says what the kernel is to do with it. `bytes` is its length as it arrived.
#[inline(always)]
pub fn settle(outcome: Outcome, tables: &Maps, bytes: usize) -> u32 {
    if let Some(config) = tables.config() {
        // How much room there is is the same in every generation.
        return settle_in(config, &live(switch(config), config), outcome, tables, bytes);
    }
    action(outcome.reason.verdict())
}

/// The same at once, on the road of usual packets.
pub struct Settles<'a> {
    pub tables: &'a Maps,
    pub bytes: usize,
}

impl End for Settles<'_> {
    type Made = u32;

    #[inline(always)]
    fn end(&self, live: &Live<'_>, outcome: Outcome) -> u32 {
        match self.tables.config() {
            Some(config) => settle_in(config, live, outcome, self.tables, self.bytes),
            None => action(outcome.reason.verdict()),
        }
    }
}

#[inline(always)]
fn settle_in(config: *const Config, live: &Live<'_>, outcome: Outcome, tables: &Maps, bytes: usize) -> u32 {
    let settings = live.settings;
    // SAFETY: the helper has no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let at = counter::counters_index(settings.vips, cpu, outcome.vip, outcome.reason as u8);
    count(COUNTERS.get_ptr_mut(at), bytes);
    if outcome.machine != 0 {
        let at = counter::steered_index(settings.vips, settings.machines, cpu, outcome.vip, outcome.machine);
        count(STEERED.get_ptr_mut(at), bytes);
    }
    // All that a capture costs while there is none.
    // SAFETY: an element of the map; userspace stores the word at any time, so it is loaded once, as a whole.
    if unsafe { (&raw const (*config).captures).read_volatile() } != 0 {
        show(&outcome, tables, bytes);
    }
    action(outcome.reason.verdict())
}

#[inline(always)]
const fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass => XDP_PASS,
        Verdict::Transmit => XDP_TX,
        Verdict::Drop => XDP_DROP,
    }
}

/// What a packet that was left to `xdp_capture` ends with: as in [`settle`], by the number of its reason.
#[inline(always)]
pub fn action_of(reason: u8) -> u32 {
    // Words looked into instead of a match: one road for the verifier.
    let bit = |word: u64| (word >> (reason & 63)) as u32 & 1;
    bit(ENDS[0]) | bit(ENDS[1]) << 1
}

/// By reason the lowest bit of its action, and the next.
const ENDS: [u64; 2] = {
    assert!(REASONS == 64 && XDP_DROP < 4 && XDP_PASS < 4 && XDP_TX < 4);
    let mut words = [0; 2];
    let mut i = 0;
    while i < Reason::ALL.len() {
        let action = action(Reason::ALL[i].verdict()) as u64;
        words[0] |= (action & 1) << i;
        words[1] |= (action >> 1) << i;
        i += 1;
    }
    words
};

/// Leaves the packet to `xdp_capture`, which ends as is decided here. Without that program the packet is not shown.
#[inline(always)]
fn show(outcome: &Outcome, tables: &Maps, bytes: usize) {
    let Some(place) = CAPTURED.get_ptr_mut(0) else { return };
    // SAFETY: an element of a map of this CPU, on which no other XDP program runs meanwhile; the context is the kernel's, and the program
    // that is called of the same kind.
    unsafe {
        (&raw mut (*place).arrived).write(bytes as u32);
        (&raw mut (*place).vip).write(outcome.vip);
        (&raw mut (*place).machine).write(outcome.machine);
        (&raw mut (*place).reason).write(outcome.reason as u8);
        (&raw mut (*place).hops).write(outcome.hops);
        let _ = ROADS.tail_call(&XdpContext::new(tables.context), CAPTURE_ROAD);
    }
}

#[inline(always)]
fn count(counter: Option<*mut Counter>, bytes: usize) {
    if let Some(counter) = counter {
        // SAFETY: the element belongs to this CPU, and XDP programs of one CPU do not interrupt each other.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes as u64;
        }
    }
}
