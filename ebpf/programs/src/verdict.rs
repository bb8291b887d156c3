//! Reason → verdict and counter. A program can only end through here, so nothing is dropped without a reason.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;

use abi::{Counter, Verdict, counter};
use datapath::{Live, Outcome, Tables};

use crate::maps::{COUNTERS, STEERED};

/// Counts the packet under its reason and says what the kernel is to do with it. `bytes` is its length as it arrived.
#[inline(always)]
pub fn settle(outcome: Outcome, tables: &impl Tables, bytes: usize) -> u32 {
    // How much room there is is the same in every generation.
    if let Some(Live { settings, .. }) = tables.live() {
        // SAFETY: the helper has no arguments.
        let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
        let at = counter::counters_index(settings.vips, cpu, outcome.vip, outcome.reason as u8);
        count(COUNTERS.get_ptr_mut(at), bytes);
        if outcome.machine != 0 {
            let at = counter::steered_index(settings.vips, settings.machines, cpu, outcome.vip, outcome.machine);
            count(STEERED.get_ptr_mut(at), bytes);
        }
    }
    match outcome.reason.verdict() {
        Verdict::Pass => XDP_PASS,
        Verdict::Transmit => XDP_TX,
        Verdict::Drop => XDP_DROP,
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
