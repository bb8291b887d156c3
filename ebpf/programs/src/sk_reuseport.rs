//! Gives a connection, or a datagram, to the worker of the CPU that received it.
//!
//! - **Hook**: sk_reuseport
//! - **Attaches to**: the reuseport group of every listener (SO_ATTACH_REUSEPORT_EBPF)
//! - **Reads**: GROUPS, SOCKETS, WORKER_OF_CPU
//! - **Writes**: nothing
//! - **Verdicts**: PASS, with a socket selected or, when the CPU has no worker, without one: the kernel takes its own hash
//! - **Kernel ≥** 5.14 (tried: 6.1, 6.12, 6.18, 7.3); left out before
//! - **Stack/insn budget**: 64 bytes; 500 instructions examined
//! - **Test**: kernel-tests/tests/sockets.rs

use core::arch::asm;

use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_sk_select_reuseport};
use aya_ebpf::macros::sk_reuseport;
use aya_ebpf::programs::SkReuseportContext;

use abi::{Address, GroupKey};

use crate::maps::{GROUPS, SOCKETS, WORKER_OF_CPU};

#[sk_reuseport]
pub fn pick_worker(context: SkReuseportContext) -> u32 {
    if let Some(socket) = socket(&context) {
        // A socket that was closed meanwhile is no longer in the map; the hash then chooses among those left.
        let mut key = socket;
        // SAFETY: the kernel's context, a sockmap and a key that live through the call.
        let _ = unsafe {
            bpf_sk_select_reuseport(context.md, (&raw const SOCKETS).cast_mut().cast(), (&raw mut key).cast(), 0)
        };
    }
    SK_PASS
}

/// The index in SOCKETS of this group's socket for this CPU.
#[inline(always)]
fn socket(context: &SkReuseportContext) -> Option<u32> {
    // SAFETY: the kernel lends a socket of the group for the whole run; every field is read with the width it has.
    let key = unsafe {
        let s = (*context.md).__bindgen_anon_3.sk;
        let address = if (*s).family == AF_INET6 {
            let a = &raw const (*s).src_ip6;
            Address([
                (&raw const (*a)[0]).read_volatile(),
                (&raw const (*a)[1]).read_volatile(),
                (&raw const (*a)[2]).read_volatile(),
                (&raw const (*a)[3]).read_volatile(),
            ])
        } else {
            let raw: u32;
            // `src_ip4`. In assembly because LLVM joins this read with the last of the IPv6 address into one at a variable offset,
            // which the verifier forbids on a socket (LLVM 22, kernel 6.18).
            asm!("{0} = *(u32 *)({1} + 24)", out(reg) raw, in(reg) s, options(pure, readonly, nostack));
            Address::from_v4_raw(raw)
        };
        let port = (&raw const (*s).src_port).read_volatile() as u16;
        GroupKey { address, port, protocol: context.ip_protocol() as u8, reserved: 0 }
    };
    // SAFETY: the value is eight bytes that userspace writes before it attaches the program.
    let group = unsafe { GROUPS.get(&key) }?;
    // SAFETY: the helper has no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let worker = (*WORKER_OF_CPU.get(cpu)? as u32).checked_sub(1)?;
    if worker >= group.count {
        return None;
    }
    Some(group.first + worker)
}

const AF_INET6: u32 = 10;
const SK_PASS: u32 = 1;
