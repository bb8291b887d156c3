//! The maps as [`Tables`].

use core::arch::asm;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;

use abi::config::lease;
use abi::{Machine, SenderKey, Settings, Slot, VipAddress, VipKey};
use datapath::owners::{Decision, Question};
use datapath::{Live, Tables};

use crate::maps::{CONFIG, MACHINES, QUESTION, SLOTS, VIPS, switch};
use crate::decide::{decide, tcp_state};
use crate::sender::sender;

pub struct Maps {
    context: *mut xdp_md,
}

impl Maps {
    #[inline(always)]
    pub fn new(context: *mut xdp_md) -> Maps {
        Maps { context }
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn live(&self) -> Option<Live<'_>> {
        let (switch, config) = switch()?;
        // SAFETY: inside the element, whose two settings follow each other; userspace writes only those that are not live, so the
        // value does not change while it is referred to.
        let settings = unsafe {
            let first = (&raw const (*config).settings).cast::<Settings>();
            &*(select(first as usize, switch.0 as usize) as *const Settings)
        };
        Some(Live { switch, settings })
    }

    #[inline(always)]
    fn vip(&self, key: &VipKey) -> Option<&VipAddress> {
        // SAFETY: userspace writes only the generation that is not live, so the value does not change while it is read.
        unsafe { VIPS.get(key) }
    }

    #[inline(always)]
    fn sender(&self, key: &SenderKey) -> u16 {
        let a = &key.address.0;
        sender(a[0], a[1], a[2], a[3], key.generation) as u16
    }

    #[inline(always)]
    fn slot(&self, table: u16, number: u32) -> Slot {
        match SLOTS.get_ptr(Slot::element(table, number)) {
            // SAFETY: a slot is one aligned word, which userspace stores at once.
            Some(slot) => unsafe { slot.read_volatile() },
            None => Slot::default(),
        }
    }

    #[inline(always)]
    fn machine(&self, index: u32) -> Option<&Machine> {
        MACHINES.get(index)
    }

    #[inline(always)]
    fn lease(&self) -> u8 {
        let Some(config) = CONFIG.get_ptr(0) else { return lease::OFF };
        // SAFETY: an element of the map; userspace stores the double word at any time, so it is loaded once, as a whole.
        let word = unsafe { (&raw const (*config).lease).read_volatile() };
        // SAFETY: the helper has no arguments.
        let now = unsafe { bpf_ktime_get_coarse_ns() };
        lease::state(word, now)
    }

    #[inline(always)]
    fn forget(&self, number: usize) -> usize {
        // Exclusive or, because a sum with something unknown still has a known least value. Numbers here have 32 bits.
        // SAFETY: a word that nobody ever writes; read as volatile, so that LLVM does not know its value either.
        (number as u32 ^ unsafe { (&raw const ZERO).read_volatile() }) as usize
    }

    #[inline(always)]
    fn tcp_state(&self, question: &Question) -> u32 {
        tcp_state(self.context, question)
    }

    #[inline(always)]
    fn decide(&self, question: &Question) -> Decision {
        let Some(place) = QUESTION.get_ptr_mut(0) else { return Decision::STAYS };
        // SAFETY: an element of a map of this CPU, on which no other XDP program runs meanwhile.
        unsafe { place.write(*question) };
        Decision(decide(self.context, place))
    }
}

/// The settings of the generation that the switch names, `first` being those of generation 0. Calculated where LLVM cannot see it: it
/// would take two roads for one bit, and the verifier would follow both to their ends.
#[inline(always)]
fn select(first: usize, switch: usize) -> usize {
    let mut settings = first;
    // SAFETY: registers only.
    unsafe {
        asm!(
            "{1} &= 1",
            "{1} <<= 6",
            "{0} += {1}",
            inout(reg) settings,
            inout(reg) switch => _,
            options(pure, nomem, nostack)
        )
    };
    settings
}

const _: () = assert!(core::mem::size_of::<Settings>() == 64);

/// Always zero, which neither LLVM nor the verifier knows: it lies in a map that could be written.
static mut ZERO: u32 = 0;
