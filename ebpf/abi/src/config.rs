//! What a machine is told once, and the one word that switches generations.

use crate::Address;

/// The only element of the array CONFIG, which userspace has mapped into its memory.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// Read once per packet; everything found through it belongs to one generation.
    pub switch: Switch,
    /// Largest IP packet the interfaces can send, in bytes.
    pub mtu: u32,
    /// The address GUE over IPv4 is sent from and received at; unspecified: none.
    pub own_v4: Address,
    /// The same for IPv6.
    pub own_v6: Address,
    /// VIPs the counters have room for, per CPU.
    pub vips: u32,
    /// Machines a generation of MACHINES has room for, index 0 included.
    pub machines: u32,
}

/// Low bit: which generation is live. High half: the epoch, written into GUE headers for people who read captures.
/// One word, stored at once.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Switch(pub u32);

impl Switch {
    #[inline(always)]
    pub const fn new(generation: u32, epoch: u16) -> Switch {
        Switch(generation & 1 | (epoch as u32) << 16)
    }

    #[inline(always)]
    pub const fn generation(self) -> u32 {
        self.0 & 1
    }

    #[inline(always)]
    pub const fn epoch(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

const _: () = assert!(size_of::<Config>() == 48);
