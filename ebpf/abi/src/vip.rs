//! Which addresses are virtual IPs, and which of their ports are served by whom.

use crate::limits::{ADDRESSES_MAX, SERVICES_MAX};
use crate::{Address, Switch};

/// An address or a prefix of virtual IPs; the value of VIP_PREFIXES.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VipKey {
    /// 0 or 1.
    pub generation: u16,
    /// Of a prefix, as long as it is with IPv4 written as IPv6, 1 to 127; 0: an address.
    pub bits: u16,
    /// Of a prefix the first one.
    pub address: Address,
}

/// Key of the trie VIP_PREFIXES, as the kernel's tries have them: what is looked for there first. Its value is the key of the longest
/// prefix that has the address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VipPlace {
    /// Of what follows: 32, and those of the address.
    pub bits: u32,
    /// Its own bits are 0.
    pub key: VipKey,
}

/// Where each address and prefix of a generation lies in VIP_PLACES: a perfect hash, so that one look finds it or says that it is none.
/// A 32-bit number is made of it, `(start + sum of multiplier * word) >> 32` with multipliers that nobody knows beforehand (multilinear
/// hashing: two different keys get the same number by chance alone, once in 2^32, whoever has chosen them). Its upper bits name a bucket,
/// and the seed of that bucket in VIP_SEEDS puts all of the bucket into places of their own. Userspace looks for multipliers and seeds
/// that do, with the others of the generation.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VipHash {
    /// Multipliers of the four words of the address.
    pub words: [u64; 4],
    /// Of the bits of a prefix, as [`VipKey::bits`] has them.
    pub bits: u64,
    pub start: u64,
    /// The same with what all addresses of IPv4 have in common.
    pub start_v4: u64,
    pub reserved: u64,
}

/// Element of VIP_PLACES: what lies in a place, if anything.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VipAt {
    pub address: Address,
    /// [`VipKey::bits`] and one; 0: nothing lies here.
    pub bits_and_one: u32,
    /// The element of VIPS, which others may share.
    pub element: u32,
    /// Of an address of IPv4 alone what [`VipAt::v4`] says: to compare one word.
    pub v4: u64,
}

/// Buckets of one generation, and so seeds: four addresses each where there are as many as there can be.
pub const SEEDS: u32 = ADDRESSES_MAX / 4;
/// Places of one generation: at most half of them are taken, so that seeds are found soon.
pub const PLACES: u32 = 2 * ADDRESSES_MAX;

impl VipHash {
    #[inline(always)]
    pub const fn of(&self, address: &Address, bits: u16) -> u32 {
        let (m, w) = (&self.words, &address.0);
        let first = m[0].wrapping_mul(w[0] as u64).wrapping_add(m[1].wrapping_mul(w[1] as u64));
        let last = m[2].wrapping_mul(w[2] as u64).wrapping_add(m[3].wrapping_mul(w[3] as u64));
        let length = self.start.wrapping_add(self.bits.wrapping_mul(bits as u64));
        (first.wrapping_add(last).wrapping_add(length) >> 32) as u32
    }

    /// The same of an IPv4 address, which is one native word.
    #[inline(always)]
    pub const fn of_v4(&self, raw: u32) -> u32 {
        (self.start_v4.wrapping_add(self.words[3].wrapping_mul(raw as u64)) >> 32) as u32
    }

    /// The element of VIP_SEEDS for a number.
    #[inline(always)]
    pub const fn bucket(switch: Switch, number: u32) -> u32 {
        switch.generation() * SEEDS + (number >> (u32::BITS - SEEDS.ilog2()))
    }

    /// The element of VIP_PLACES for a number whose bucket has the seed.
    #[inline(always)]
    pub const fn place(switch: Switch, number: u32, seed: u64) -> u32 {
        let mixed = (number ^ seed as u32).wrapping_mul(0x9e37_79b1);
        switch.generation() * PLACES + (mixed >> (u32::BITS - PLACES.ilog2()))
    }
}

impl VipAt {
    /// The address is one native word.
    #[inline(always)]
    pub const fn v4(raw: u32) -> u64 {
        1 << 32 | raw as u64
    }

    #[inline(always)]
    pub const fn is(&self, address: &Address, bits: u16) -> bool {
        let (a, b) = (&self.address.0, &address.0);
        // One branch, not five.
        (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (self.bits_and_one ^ (bits as u32 + 1)) == 0
    }
}

/// Element of VIPS: every service of one address, narrowest range first, so an exact port beats a range and a
/// range beats any port. One lookup answers all three questions of a packet: is it for a VIP, for which, and how to hash.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct VipAddress {
    pub services: [Service; SERVICES_MAX],
    /// How many of `services` are filled.
    pub count: u32,
    /// 1: the slots of all of them name backends, see [`Service::BACKENDS`].
    pub backends: u32,
}

/// One port, one range of ports, or (0 to 65535) any port of an address, for one protocol.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Service {
    /// First port served; host order, as are all numbers here.
    pub port_first: u16,
    /// Last port served.
    pub port_last: u16,
    /// IP protocol number: 6 or 17.
    pub protocol: u8,
    /// Bits of [`Service::BEFORE`].
    pub flags: u8,
    /// The VIP that the counters are kept for; 0 is nobody's.
    pub vip: u16,
    /// The Maglev table that holds its owners.
    pub table: u16,
    pub reserved_too: u16,
    pub counts: Counts,
}

/// Which bits of a packet choose its slot, as masks: the programs hash what is left, whatever the mode, without a branch.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Counts {
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u16,
    pub reserved: u16,
    /// As the address lies in memory; for IPv4 the last word.
    pub source: [u32; 4],
    /// All words of the destination, or none.
    pub destination: u32,
}

/// What of a packet chooses its slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum HashMode {
    /// Protocol, both addresses, both ports.
    #[default]
    FiveTuple,
    /// Source address: all connections of a client go to one machine.
    SourceIp,
    /// The first bits of the source address, so many for each family.
    SourcePrefix { v4: u8, v6: u8 },
    /// Destination port and protocol, whoever the client is.
    DestinationPort,
}

impl Counts {
    pub const ALL: Counts = Counts {
        source_port: u16::MAX,
        destination_port: u16::MAX,
        protocol: u16::MAX,
        reserved: 0,
        source: [u32::MAX; 4],
        destination: u32::MAX,
    };

    pub const NONE: Counts =
        Counts { source_port: 0, destination_port: 0, protocol: 0, reserved: 0, source: [0; 4], destination: 0 };

    /// For packets to an address of the family.
    pub fn new(mode: HashMode, v4: bool) -> Counts {
        match mode {
            HashMode::FiveTuple => Counts::ALL,
            HashMode::SourceIp => Counts { source: [u32::MAX; 4], ..Counts::NONE },
            HashMode::SourcePrefix { v4: bits_v4, v6: bits_v6 } => {
                let bits = if v4 { 96 + bits_v4.min(32) as u32 } else { bits_v6.min(128) as u32 };
                let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
                Counts { source: Address::from(core::net::Ipv6Addr::from_bits(mask)).0, ..Counts::NONE }
            }
            HashMode::DestinationPort => Counts { destination_port: u16::MAX, protocol: u16::MAX, ..Counts::NONE },
        }
    }
}

/// Element of BEFORE, by generation and VIP (`generation × VIPs loaded + VIP`): how its flows were spread before what counts was another,
/// for the connections that began then.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Before {
    pub v4: Counts,
    pub v6: Counts,
    /// Of the hash, as [`crate::Settings::seed`].
    pub seed: u32,
    /// The Maglev table that held their owners.
    pub table: u32,
}

impl VipKey {
    /// The prefix of so many bits that has the address; with 0 the address itself.
    pub const fn of(generation: u16, address: &Address, bits: u16) -> VipKey {
        let address = if bits == 0 { *address } else { address.first(bits as u32) };
        VipKey { generation, bits, address }
    }

    /// Where VIP_PREFIXES has a prefix.
    pub const fn place(&self) -> VipPlace {
        VipPlace { bits: 32 + self.bits as u32, key: VipKey { bits: 0, ..*self } }
    }
}

impl VipPlace {
    /// The one to look with.
    #[inline(always)]
    pub const fn whole(generation: u16, address: Address) -> VipPlace {
        VipPlace { bits: 160, key: VipKey { generation, bits: 0, address } }
    }
}

impl Before {
    pub const NONE: Before = Before { v4: Counts::NONE, v6: Counts::NONE, seed: 0, table: 0 };
}

impl VipAddress {
    pub const EMPTY: VipAddress = VipAddress { services: [Service::NONE; SERVICES_MAX], count: 0, backends: 0 };
}

impl Service {
    /// There is an element of BEFORE for its VIP.
    pub const BEFORE: u8 = 1;
    /// All of a packet counts: its masks are [`Counts::ALL`].
    pub const ALL: u8 = 16;
    /// New connections of its VIP are limited: there is an element of LIMITS.
    pub const LIMITED: u8 = 2;
    /// What comes too fast is answered with SYN cookies: likewise.
    pub const COOKIES: u8 = 4;
    /// Its slots name backends: see [`crate::Machine::BACKEND`].
    pub const BACKENDS: u8 = 8;

    pub const NONE: Service = Service {
        port_first: 0,
        port_last: 0,
        protocol: 0,
        flags: 0,
        vip: 0,
        table: 0,
        reserved_too: 0,
        counts: Counts::NONE,
    };

    #[inline(always)]
    pub const fn serves(&self, protocol: u8, port: u16) -> bool {
        self.distance(protocol, port) <= self.span()
    }

    /// How far the port is above the first one served; beyond all ports when the protocol is another. Compared with
    /// [`Service::span`], it answers with one branch.
    #[inline(always)]
    pub const fn distance(&self, protocol: u8, port: u16) -> u32 {
        port.wrapping_sub(self.port_first) as u32 | ((self.protocol ^ protocol) as u32) << 16
    }

    /// Ports served, less one.
    #[inline(always)]
    pub const fn span(&self) -> u32 {
        self.port_last.wrapping_sub(self.port_first) as u32
    }
}

// As long as its fields together: none of its bytes is the compiler's.
const _: () = assert!(size_of::<Counts>() == 4 * size_of::<u16>() + 5 * size_of::<u32>());
const _: () = assert!(size_of::<Service>() == 5 * size_of::<u16>() + 2 * size_of::<u8>() + size_of::<Counts>());
const _: () = assert!(size_of::<VipKey>() == 20 && size_of::<VipPlace>() == 24 && align_of::<VipPlace>() == 4);
const _: () = assert!(size_of::<Before>() == 2 * size_of::<Counts>() + 8 && size_of::<Before>() == 64);
const _: () = assert!(size_of::<Service>() == 40 && align_of::<Service>() == 4);
const _: () = assert!(size_of::<VipAddress>() == SERVICES_MAX * 40 + 8);
const _: () = assert!(size_of::<VipHash>() == 64 && size_of::<VipAt>() == 32);
const _: () = assert!(SEEDS.is_power_of_two() && PLACES.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_know_their_ports() {
        let service = Service { port_first: 8000, port_last: 8099, protocol: 6, ..Service::NONE };
        let served = [7999, 8000, 8050, 8099, 8100, 0, 65_535].map(|port| service.serves(6, port));
        assert_eq!(served, [false, true, true, true, false, false, false]);
        assert!(!service.serves(17, 8000));
        let any = Service { port_last: 65_535, protocol: 17, ..Service::NONE };
        assert!(any.serves(17, 0) && any.serves(17, 65_535) && !any.serves(6, 1));
    }

    #[test]
    fn prefixes_count_from_the_first_bit_of_their_family() {
        let mode = HashMode::SourcePrefix { v4: 24, v6: 56 };
        let mask = |v4| Address(Counts::new(mode, v4).source).octets();
        assert_eq!(mask(true)[12..], [255, 255, 255, 0]);
        assert_eq!(mask(false)[..8], [255, 255, 255, 255, 255, 255, 255, 0]);
        let none = HashMode::SourcePrefix { v4: 0, v6: 0 };
        assert_eq!(Counts::new(none, false).source, [0; 4]);
    }
}
