//! A flow: who talks to which port of a VIP, and the hash that chooses its slot.
//!
//! The hash is the same on every machine of a cluster: it begins with the cluster's seed, and there is no difference between
//! little-endian hosts (Weir runs on no others).
//! It folds 64-bit words into a state, `h = (h ^ word) * K; h ^= h >> 32`, and ends with one more round of the same kind
//! (the finaliser of splitmix64). The upper half chooses the slot.
//!
//! Words, in this order, each ANDed with the service's mask; addresses as they lie in memory, ports as numbers:
//! - IPv4: `source << 32 | destination`; IPv6: the two halves of the source, the two halves of the destination
//! - `source_port << 32 | destination_port << 8 | protocol`
//!
//! The machine where the fragments of a datagram meet is that of the same flow with both ports zero.

use abi::{Address, Counts};

#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    pub v4: bool,
    pub protocol: u8,
}

impl Flow {
    /// Chooses the slot.
    #[inline(always)]
    pub fn hash(&self, counts: &Counts, seed: u32) -> u32 {
        let (s, d) = (&self.source.0, &self.destination.0);
        let (m, n) = (&counts.source, counts.destination);
        let mut h = START ^ seed as u64;
        if self.v4 {
            h = fold(h, word(s[3] & m[3], d[3] & n));
        } else {
            h = fold(h, word(s[0] & m[0], s[1] & m[1]));
            h = fold(h, word(s[2] & m[2], s[3] & m[3]));
            h = fold(h, word(d[0] & n, d[1] & n));
            h = fold(h, word(d[2] & n, d[3] & n));
        }
        let source_port = (self.source_port & counts.source_port) as u64;
        let destination_port = (self.destination_port & counts.destination_port) as u64;
        let protocol = (self.protocol as u16 & counts.protocol) as u64;
        h = fold(h, source_port << 32 | destination_port << 8 | protocol);
        (finish(h) >> 32) as u32
    }

    /// What the connection is remembered by: another one has the same by chance alone, once in 2^64.
    #[inline(always)]
    pub fn name(&self, seed: u32) -> u64 {
        let (s, d) = (&self.source.0, &self.destination.0);
        let mut h = START ^ seed as u64;
        h = fold(h, word(s[0], s[1]));
        h = fold(h, word(s[2], s[3]));
        h = fold(h, word(d[0], d[1]));
        h = fold(h, word(d[2], d[3]));
        h = fold(h, (self.source_port as u64) << 32 | (self.destination_port as u64) << 8 | self.protocol as u64);
        finish(h)
    }

    /// Different for different connections whatever counts for the slot, so that the receiver's queues share the work.
    #[inline(always)]
    pub fn entropy(&self) -> u32 {
        let ports = (self.source_port as u32) << 16 | self.destination_port as u32;
        let s = &self.source.0;
        ((word(s[1] ^ s[3], ports).wrapping_mul(MULTIPLIER)) >> 32) as u32
    }

    /// `bpf_sock_tuple` of the connection.
    #[inline(always)]
    pub fn tuple(&self) -> [u32; 9] {
        let (s, d) = (&self.source.0, &self.destination.0);
        let ports = self.source_port.to_be() as u32 | (self.destination_port.to_be() as u32) << 16;
        let mut words = [s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3], ports];
        if self.v4 {
            (words[0], words[1], words[2]) = (s[3], d[3], ports);
        }
        words
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
