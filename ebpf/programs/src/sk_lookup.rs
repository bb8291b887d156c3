//! Gives packets for any VIP and port to the listener that serves the port, without a socket bound to each address.
//!
//! - **Hook**: sk_lookup
//! - **Attaches to**: the network namespace of the daemon
//! - **Reads**: CONFIG, VIPS, VIP_SEEDS, VIP_PLACES, VIP_PREFIXES, LISTENERS, LISTENER_RANGES, SOCKETS
//! - **Writes**: nothing
//! - **Verdicts**: PASS, with a socket assigned or, when it is no VIP or nobody listens, without one: the kernel goes on looking
//! - **Kernel ≥** 5.9 (tried: 5.10, 6.1, 6.12, 6.18, 7.3)
//! - **Stack/insn budget**: 128 bytes; 3,900 instructions examined
//! - **Test**: kernel-tests/tests/sockets.rs

use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;

use abi::{Address, ListenerKey};

use crate::maps::{CONFIG, LISTENER_RANGES, LISTENERS, SOCKETS, VIPS, switch};
use crate::tables::{find_element, live, prefixed};

#[sk_lookup]
pub fn pick_listener(context: SkLookupContext) -> u32 {
    if let Some(socket) = listener(&context) {
        // No flag: the reuseport group of the socket, and so `sk_reuseport`, still chooses the worker. Should the socket be
        // gone, the packet is looked up as if we were not here.
        let _ = SOCKETS.redirect_sk_lookup(&context, socket, 0);
    }
    SK_PASS
}

/// The index in SOCKETS of the listener that serves the packet's address and port.
#[inline(always)]
fn listener(context: &SkLookupContext) -> Option<u32> {
    // SAFETY: the kernel's context is valid for the whole run; every field is read with the width it has.
    let (v6, address, protocol, port) = unsafe {
        let c = context.lookup;
        let v6 = (*c).family == AF_INET6;
        let address = if v6 {
            let a = &raw const (*c).local_ip6;
            Address([
                (&raw const (*a)[0]).read_volatile(),
                (&raw const (*a)[1]).read_volatile(),
                (&raw const (*a)[2]).read_volatile(),
                (&raw const (*a)[3]).read_volatile(),
            ])
        } else {
            Address::from_v4_raw((*c).local_ip4)
        };
        (v6 as u8, address, (*c).protocol as u8, (*c).local_port as u16)
    };
    let config = CONFIG.get_ptr(0)?;
    let vip = VIPS.get(find_element(&live(switch(config), config), prefixed(config), address)?)?;
    let mut i = 0;
    loop {
        if i >= vip.services.len() || i as u32 >= vip.count {
            return None;
        }
        if vip.services[i].serves(protocol, port) {
            break;
        }
        i += 1;
    }

    // SAFETY: the value is one word.
    if let Some(socket) = unsafe { LISTENERS.get(&ListenerKey { port, protocol, v6 }) } {
        return Some(*socket);
    }
    let ranges = LISTENER_RANGES.get(0)?;
    let mut i = 0;
    while i < ranges.ranges.len() && (i as u32) < ranges.count {
        let range = &ranges.ranges[i];
        if range.protocol == protocol && range.v6 == v6 && range.port_first <= port && port <= range.port_last {
            return Some(range.socket);
        }
        i += 1;
    }
    None
}

const AF_INET6: u32 = 10;
const SK_PASS: u32 = 1;
