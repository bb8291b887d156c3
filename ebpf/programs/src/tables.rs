//! The maps as [`Tables`].

use core::arch::asm;
use core::mem::size_of;

use aya_ebpf::bindings::{
    bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2, xdp_md,
};
use aya_ebpf::helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp};

use abi::{Machine, SenderKey, Settings, Slot, VipAddress, VipKey};
use datapath::{Connection, Live, Tables};

use crate::maps::{MACHINES, SENDERS, SLOTS, VIPS, switch};

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
        let (element, half) = Slot::position(table, number);
        match SLOTS.get_ptr(element) {
            // SAFETY: `half` is 0 or 1; a slot is one aligned word, which userspace stores at once.
            Some(pair) => unsafe { (pair as *const Slot).add(half).read_volatile() },
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
    fn tcp_state(&self, connection: &Connection) -> u32 {
        // SAFETY: the tuple is built whole before the helper reads it, with the length of its family; the socket that the helper
        // returns is read while it is held and then released.
        unsafe {
            let mut tuple: bpf_sock_tuple = core::mem::zeroed();
            let length;
            if connection.v4 {
                length = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>();
                let t = &mut tuple.__bindgen_anon_1.ipv4;
                t.saddr = connection.source.v4_raw();
                t.daddr = connection.destination.v4_raw();
                t.sport = connection.source_port.to_be();
                t.dport = connection.destination_port.to_be();
            } else {
                length = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>();
                let t = &mut tuple.__bindgen_anon_1.ipv6;
                t.saddr = connection.source.0;
                t.daddr = connection.destination.0;
                t.sport = connection.source_port.to_be();
                t.dport = connection.destination_port.to_be();
            }
            let socket = bpf_skc_lookup_tcp(self.context.cast(), &mut tuple, length as u32, CURRENT_NETNS, 0);
            if socket.is_null() {
                return 0;
            }
            let state = (*socket).state;
            bpf_sk_release(socket.cast());
            state
        }
    }
}

/// BPF_F_CURRENT_NETNS: the network namespace of the device.
const CURRENT_NETNS: u64 = -1i64 as u64;

/// The settings of the generation that the switch names, `first` being those of generation 0. Calculated where LLVM cannot see it: it
/// would take two roads for one bit, and the verifier would follow both to their ends.
#[inline(always)]
fn select(first: usize, switch: usize) -> usize {
    let mut settings = first;
    // SAFETY: registers only.
    unsafe {
        asm!(
            "{1} &= 1",
            "{1} *= 56",
            "{0} += {1}",
            inout(reg) settings,
            inout(reg) switch => _,
            options(pure, nomem, nostack)
        )
    };
    settings
}

const _: () = assert!(size_of::<Settings>() == 56);

/// Always zero, which neither LLVM nor the verifier knows: it lies in a map that could be written.
static mut ZERO: u32 = 0;
