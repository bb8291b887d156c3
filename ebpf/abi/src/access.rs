//! Who may send packets to virtual IPs: the longest prefix that an address lies in decides, and without one it is let in.
//!
//! ACCESS answers almost every question with one load: of IPv4 two bits for each block of 256 addresses, of IPv6 one bit for each value
//! of a hash of the first 32 bits. Only where that says [`ASK`], or has the bit, is more looked into: of IPv4 ACCESS_BLOCKS, with two bits
//! for each address of the block, of IPv6 ACCESS_PREFIXES, which has them all.
//!
//! Beside the lists, which documents make, there are sources that are banned for a while, because something above the packets has refused
//! them too often: BANS, with the instant at which each ban ends. Behind the words of the lists ACCESS has a bit for each value of a hash of
//! these sources, so that one load answers for nearly all others.

use crate::Address;

/// Nothing is said of any address of the block.
pub const OPEN: u32 = 0;
/// All of it is denied; the value of a prefix that is.
pub const DENY: u32 = 1;
/// All of it is let in; the value of a prefix that is.
pub const ALLOW: u32 = 2;
/// Parts of it differ.
pub const ASK: u32 = 3;

/// Double words of ACCESS for IPv4, with the states of 32 blocks each.
pub const WORDS_V4: u32 = 1 << 19;
/// And behind them for IPv6, with 64 bits each.
pub const WORDS_V6: u32 = 1 << (HASH_BITS - 6);
pub const WORDS: u32 = WORDS_V4 + WORDS_V6;
/// And behind those for BANS: a bit for each value of a hash of its keys, set where any of them is in it.
pub const WORDS_BANS: u32 = 1 << (BAN_BITS - 6);

const BAN_BITS: u32 = 20;

/// Providers have a 32 each, 60,000 of them in the whole table of the Internet: few share a bit.
const HASH_BITS: u32 = 22;

/// Value of ACCESS_BLOCKS: two bits for each of the 256 addresses.
pub type AccessBlock = [u64; 8];

/// Key of ACCESS_PREFIXES, as the kernel's tries have them.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AccessKey {
    /// Of the address, 0 to 128.
    pub bits: u32,
    /// As [`Address`] has it.
    pub address: [u32; 4],
}

impl AccessKey {
    /// The one to look with.
    #[inline(always)]
    pub const fn whole(address: &Address) -> AccessKey {
        AccessKey { bits: 128, address: address.0 }
    }
}

/// Where in ACCESS the block of an IPv4 address lies, and the shift to its two bits. The address is one native word.
#[inline(always)]
pub const fn place_v4(raw: u32) -> (u32, u32) {
    let block = u32::from_be(raw) >> 8;
    (block >> 5, (block & 31) * 2)
}

/// Key of ACCESS_BLOCKS for an address.
#[inline(always)]
pub const fn block_of(raw: u32) -> u32 {
    u32::from_be(raw) >> 8
}

/// Where in its block the state of an address lies, and the shift to it.
#[inline(always)]
pub const fn place_in_block(raw: u32) -> (usize, u32) {
    let last = u32::from_be(raw) & 0xff;
    ((last >> 5) as usize, (last & 31) * 2)
}

/// Where in ACCESS the bit of an IPv6 address lies, and the shift to it. The address begins with this native word.
#[inline(always)]
pub const fn place_v6(first: u32) -> (u32, u32) {
    let hash = u32::from_be(first).wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS);
    (WORDS_V4 + (hash >> 6), hash & 63)
}

/// What `Config::access` says: there are prefixes in ACCESS.
pub const LISTED: u32 = 1;
/// And: there are sources in BANS.
pub const BANS: u32 = 2;

/// Key of BANS for a source: an IPv4 address, or the /64 of an IPv6 address, which is what one client can choose its addresses from.
#[inline(always)]
pub const fn banned(source: &Address) -> Address {
    let Address([a, b, _, _]) = *source;
    if source.is_v4() { *source } else { Address([a, b, 0, 0]) }
}

/// Where in ACCESS the bit of a key of BANS lies, and the shift to it.
#[inline(always)]
pub const fn place_ban(key: &Address) -> (u32, u32) {
    // Of IPv4 the first two words are none, and of IPv6 the last: the third is the same for all of a family.
    let Address([a, b, _, d]) = *key;
    let hash =
        (a.wrapping_mul(0x9e37_79b1) ^ b.wrapping_mul(0x85eb_ca6b) ^ d).wrapping_mul(0x9e37_79b1) >> (32 - BAN_BITS);
    (WORDS + (hash >> 6), hash & 63)
}

const _: () = assert!(size_of::<AccessKey>() == 20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_lie_in_their_halves() {
        for raw in [[0, 0, 0, 0], [255, 255, 255, 255], [10, 1, 2, 3]].map(u32::from_ne_bytes) {
            assert!(place_v4(raw).0 < WORDS_V4 && (WORDS_V4..WORDS).contains(&place_v6(raw).0));
        }
        assert_eq!(place_v4(u32::from_ne_bytes([0, 0, 33, 9])), (1, 2));
    }
}
