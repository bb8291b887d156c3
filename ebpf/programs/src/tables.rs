//! The maps as [`Tables`].

use core::arch::asm;

use aya_ebpf::bindings::xdp_md;

use abi::{Machine, SenderKey, Settings, Slot, VipAddress, VipKey};
use datapath::flow::Flow;
use datapath::{Answer, Live, Tables};

use crate::maps::{MACHINES, SENDERS, SLOTS, VIPS, switch};
use crate::tcp_state::{Tuple, tcp_state};

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
        // SAFETY: as in `vip`.
        unsafe { SENDERS.get(key) }.map_or(0, |index| *index as u16)
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
    fn forget(&self, number: usize) -> usize {
        // Exclusive or, because a sum with something unknown still has a known least value. Numbers here have 32 bits.
        // SAFETY: a word that nobody ever writes; read as volatile, so that LLVM does not know its value either.
        (number as u32 ^ unsafe { (&raw const ZERO).read_volatile() }) as usize
    }

    #[inline(always)]
    fn tcp_state(&self, flow: &Flow, answer: Answer) -> u32 {
        let (s, d) = (&flow.source.0, &flow.destination.0);
        let ports = flow.source_port.to_be() as u32 | (flow.destination_port.to_be() as u32) << 16;
        let mut words = [s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3], ports];
        if flow.v4 {
            (words[0], words[1], words[2]) = (s[3], d[3], ports);
        }
        tcp_state(self.context, &mut Tuple { words }, flow.v4 as u32, answer.ip as u32, answer.tcp as u32)
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
