//! What the programs count.

use crate::reason::REASONS;

/// Element of COUNTERS and STEERED. Each CPU writes only its own block of the array, so no write needs to be atomic;
/// userspace has the arrays mapped and adds the blocks up.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counter {
    pub packets: u64,
    /// Frame bytes as they arrived, Ethernet header included.
    pub bytes: u64,
}

/// Position in COUNTERS.
#[inline(always)]
pub const fn counters_index(vips: u32, cpu: u32, vip: u16, reason: u8) -> u32 {
    (cpu * vips + vip as u32) * REASONS as u32 + reason as u32
}

/// Position in STEERED.
#[inline(always)]
pub const fn steered_index(vips: u32, machines: u32, cpu: u32, vip: u16, machine: u16) -> u32 {
    (cpu * vips + vip as u32) * machines + machine as u32
}

const _: () = assert!(size_of::<Counter>() == 16);
