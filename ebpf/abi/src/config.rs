//! What a machine is told, and the one word that switches generations.

use crate::{Address, VipHash};

/// The only element of the array CONFIG, which userspace has mapped into its memory.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// Stored while programs run, so they never make a reference to it: read once per packet, and all that is found through it
    /// belongs to one generation.
    pub switch: Switch,
    /// Whether there is anybody who may not come in: [`crate::access::LISTED`] and [`crate::access::BANS`]; 0: nobody. Stored at once.
    pub access: u32,
    /// Until when the daemon is taken to live, as [`lease`] has it; renewed while programs run, stored at once as `switch` is.
    pub lease: u64,
    /// By generation; userspace writes those of the generation that is not live.
    pub settings: [Settings; 2],
    /// Bits of the captures that somebody waits for; 0: none, and no packet is looked at. Stored at once, by userspace and, when nobody
    /// has said for a while that he waits, by the programs.
    pub captures: u32,
    /// What an answer with a SYN cookie may hold, as [`syn`] has it. Stored at once.
    pub syn: u32,
    /// By generation one bit, from the lowest: whether there are virtual IPs by prefix. Stored at once, while the generation is not live.
    pub prefixed: u32,
    pub reserved: u32,
}

/// The word that says until when the daemon lives: nanoseconds of CLOCK_MONOTONIC, without the lowest bit, which is set while the
/// daemon is young: then connections that began elsewhere while there was none are still looked for. 0: nobody says, and nothing
/// follows. All 64 bits, so that no time comes at which a daemon that is long dead seems to live.
pub mod lease {
    /// Nobody says.
    pub const OFF: u8 = 0;
    /// It lives.
    pub const AWAKE: u8 = 1;
    /// It lives, and began not long ago.
    pub const YOUNG: u8 = 2;
    /// It has not said that it lives for longer than it may.
    pub const LAPSED: u8 = 3;

    #[inline(always)]
    pub const fn word(until: u64, young: bool) -> u64 {
        match (until & !1) | young as u64 {
            // The first moment of a machine.
            0 => 2,
            word => word,
        }
    }

    #[inline(always)]
    pub const fn state(word: u64, now: u64) -> u8 {
        if word == 0 {
            OFF
        } else if now > word & !1 {
            LAPSED
        } else if word & 1 != 0 {
            YOUNG
        } else {
            AWAKE
        }
    }
}

/// The word that says which options of TCP an answer with a SYN cookie may have: those that are remembered in its timestamp, where this
/// machine's stack reads them there, and by how much it scales its window then.
pub mod syn {
    /// Timestamps are sent as they are: of a SYN cookie they hold what the client's SYN had.
    pub const TIMESTAMPS: u32 = 1;

    #[inline(always)]
    pub const fn word(timestamps: bool, scale: u8) -> u32 {
        (timestamps as u32 * TIMESTAMPS) | ((scale as u32) << 8)
    }

    #[inline(always)]
    pub const fn scale(word: u32) -> u8 {
        (word >> 8) as u8 & 0x0f
    }
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
    /// Where its virtual IPs lie.
    pub vip_hash: VipHash,
}

impl Settings {
    /// In the order they lie in memory, to be stored one by one.
    pub fn words(&self) -> [u32; 32] {
        let (a, b) = (&self.own_v4.0, &self.own_v6.0);
        let [before, after] = self.cookies;
        let first = [self.mtu, self.vips, self.machines, self.cookie, before, after, self.own, self.seed];
        let VipHash { words: [v, w, x, y], bits, start, start_v4, reserved } = self.vip_hash;
        let mut words = [0; 32];
        words[..8].copy_from_slice(&first);
        words[8..12].copy_from_slice(a);
        words[12..16].copy_from_slice(b);
        for (halves, word) in words[16..].chunks_exact_mut(2).zip([v, w, x, y, bits, start, start_v4, reserved]) {
            // Machines are little-endian.
            halves.copy_from_slice(&[word as u32, (word >> 32) as u32]);
        }
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

const _: () = assert!(size_of::<Settings>() == 128 && size_of::<Config>() == 288);

#[cfg(test)]
mod tests {
    use super::lease::*;

    #[test]
    fn a_lease_lapses_whenever_it_was_given_and_for_good() {
        const DAY: u64 = 24 * 3600 * 1_000_000_000;
        for now in [2u64, 1_000_000, (1 << 31) - 100, (1 << 52) - 100, 30 * DAY, 10_000 * DAY] {
            for young in [false, true] {
                let word = word(now + 400, young);
                let lives = if young { YOUNG } else { AWAKE };
                assert_eq!([0, 200, 398].map(|later| state(word, now + later)), [lives; 3]);
                assert_eq!(
                    [402, 1_000_000, DAY, 27 * DAY, 60 * DAY].map(|later| state(word, now + later)),
                    [LAPSED; 5]
                );
            }
        }
        assert_eq!(state(0, 5), OFF);
        assert_eq!(state(word(0, false), 5), LAPSED);
    }
}
