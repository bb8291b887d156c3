//! What a machine is told, and the one word that switches generations.

use crate::Address;

/// The only element of the array CONFIG, which userspace has mapped into its memory.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// Stored while programs run, so they never make a reference to it: read once per packet, and all that is found through it
    /// belongs to one generation.
    pub switch: Switch,
    pub reserved: u32,
    /// By generation; userspace writes those of the generation that is not live.
    pub settings: [Settings; 2],
}

/// What holds for every packet of a generation.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Largest IP packet the interfaces can send, in bytes.
    pub mtu: u32,
    /// VIPs the counters have room for, per CPU. The same in both generations.
    pub vips: u32,
    /// Machines a generation of MACHINES has room for, index 0 included. The same in both generations.
    pub machines: u32,
    /// The cluster's cookie, which GUE of ours carries, as it lies on the wire; 0: none yet, and nobody takes it.
    pub cookie: u32,
    /// Others that are taken too: the one before and the one to come; 0: none.
    pub cookies: [u32; 2],
    /// Index of this machine; 0: it is none of the machines.
    pub own: u32,
    /// Goes into the hash that chooses slots, the same on all machines of a cluster: who does not know it cannot aim at one machine.
    pub seed: u32,
    /// The address GUE over IPv4 is sent from and received at; unspecified: none.
    pub own_v4: Address,
    /// The same for IPv6.
    pub own_v6: Address,
}

impl Settings {
    /// In the order they lie in memory, to be stored one by one.
    pub fn words(&self) -> [u32; 16] {
        let (a, b) = (&self.own_v4.0, &self.own_v6.0);
        let [before, after] = self.cookies;
        let first = [self.mtu, self.vips, self.machines, self.cookie, before, after, self.own, self.seed];
        let mut words = [0; 16];
        words[..8].copy_from_slice(&first);
        words[8..12].copy_from_slice(a);
        words[12..].copy_from_slice(b);
        words
    }
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

const _: () = assert!(size_of::<Settings>() == 64 && size_of::<Config>() == 136);
