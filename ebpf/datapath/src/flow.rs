//! A flow: who talks to which port of a VIP, and the hash that chooses its slot.
//!
//! The hash is the same on every machine: no seed, no difference between little-endian hosts (Weir runs on no others).
//! It folds 64-bit words into a state, `h = (h ^ word) * K; h ^= h >> 32`, and ends with one more round of the same kind
//! (the finaliser of splitmix64). The upper half chooses the slot, the lower half the tunnel's source port.
//!
//! Words, in this order; addresses as they lie in memory, ports as numbers:
//! - five-tuple, IPv4: `source << 32 | destination`, `source_port << 32 | destination_port << 8 | protocol`
//! - five-tuple, IPv6: the four halves of both addresses, then ports and protocol as above
//! - source address or prefix: the address with the bits behind the prefix cleared, and nothing else
//! - destination port: `destination_port << 8 | protocol`
//! - fragments: as the five-tuple, with both ports zero, so that all of a datagram go to one machine

use abi::{Address, HashMode, Service};

use crate::Connection;

#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub v4: bool,
    pub protocol: u8,
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
}

/// What the two halves of a flow's hashes are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashed {
    /// Chooses the slot, as the service says.
    pub slot: u32,
    /// Different for different connections in every mode, so that the receiver's queues share the work.
    pub entropy: u32,
}

impl Flow {
    #[inline(always)]
    pub fn hash(&self, service: &Service) -> Hashed {
        let tuple = self.five_tuple();
        let slot = if service.hash == HashMode::SourceIp as u8 {
            self.source_prefix(128)
        } else if service.hash == HashMode::SourcePrefix as u8 {
            // The prefix of an IPv4 address counts from its own first bit, 96 bits into the mapped form.
            let bits = service.prefix_length as u32 + if self.v4 { 96 } else { 0 };
            self.source_prefix(bits)
        } else if service.hash == HashMode::DestinationPort as u8 {
            finish(fold(START, (self.destination_port as u64) << 8 | self.protocol as u64))
        } else {
            tuple
        };
        Hashed { slot: (slot >> 32) as u32, entropy: tuple as u32 }
    }

    #[inline(always)]
    pub fn connection(&self) -> Connection {
        Connection {
            v4: self.v4,
            source: self.source,
            destination: self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
        }
    }

    #[inline(always)]
    fn five_tuple(&self) -> u64 {
        let (s, d) = (&self.source.0, &self.destination.0);
        let mut h = START;
        if self.v4 {
            h = fold(h, word(s[3], d[3]));
        } else {
            h = fold(h, word(s[0], s[1]));
            h = fold(h, word(s[2], s[3]));
            h = fold(h, word(d[0], d[1]));
            h = fold(h, word(d[2], d[3]));
        }
        let ports = (self.source_port as u64) << 32 | (self.destination_port as u64) << 8 | self.protocol as u64;
        finish(fold(h, ports))
    }

    #[inline(always)]
    fn source_prefix(&self, bits: u32) -> u64 {
        let s = &self.source.0;
        let mut h = START;
        h = fold(h, word(s[0] & mask(bits, 0), s[1] & mask(bits, 1)));
        h = fold(h, word(s[2] & mask(bits, 2), s[3] & mask(bits, 3)));
        finish(h)
    }
}

/// The mask of word `index` of an address, as the word lies in memory, when `bits` of the address count.
#[inline(always)]
fn mask(bits: u32, index: u32) -> u32 {
    let first = index * 32;
    if bits >= first + 32 {
        u32::MAX
    } else if bits <= first {
        0
    } else {
        (u32::MAX << ((32 - (bits - first)) & 31)).to_be()
    }
}

#[inline(always)]
fn word(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

#[inline(always)]
fn fold(h: u64, word: u64) -> u64 {
    let h = (h ^ word).wrapping_mul(MULTIPLIER);
    h ^ h >> 32
}

#[inline(always)]
fn finish(h: u64) -> u64 {
    let h = h.wrapping_mul(MULTIPLIER_LAST);
    h ^ h >> 29
}

/// Digits of pi; any odd number would do.
const START: u64 = 0x2436_a885_a308_d313;
/// 2^64 divided by the golden ratio, as in splitmix64.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
/// The first multiplier of splitmix64's finaliser.
const MULTIPLIER_LAST: u64 = 0xbf58_476d_1ce4_e5b9;
