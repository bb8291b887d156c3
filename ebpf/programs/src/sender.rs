//! The machine that sends GUE from an address. A function by itself for the room that its key takes on the stack.

use abi::{Address, SenderKey};

use crate::maps::SENDERS;

/// 0: none. The address comes in words.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn sender(a: u32, b: u32, c: u32, d: u32, generation: u32) -> u32 {
    let key = SenderKey { address: Address([a, b, c, d]), generation };
    // SAFETY: userspace writes only the generation that is not live, so the value does not change while it is read.
    unsafe { SENDERS.get(&key) }.map_or(0, |index| *index)
}
