//! One IP address of either family.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// 16 bytes in network order; an IPv4 address is written as IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2). Kept as four words
/// because the programs compare and copy words: each word is `u32::from_ne_bytes` of its four bytes on the wire.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// `::`; means "none" wherever an address is optional.
    pub const UNSPECIFIED: Address = Address([0; 4]);

    /// From the four bytes of an IPv4 address, read as one native word.
    #[inline(always)]
    pub const fn from_v4_raw(raw: u32) -> Address {
        Address([0, 0, V4_MAPPED, raw])
    }

    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        // One branch, not three.
        self.0[0] | self.0[1] | (self.0[2] ^ V4_MAPPED) == 0
    }

    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.0[0] | self.0[1] | self.0[2] | self.0[3] == 0
    }

    /// The IPv4 address as one native word; meaningless for IPv6.
    #[inline(always)]
    pub const fn v4_raw(&self) -> u32 {
        self.0[3]
    }

    /// The first one of those that have so many bits with it in common, 0 to 128.
    pub const fn first(&self, bits: u32) -> Address {
        let mut words = self.0;
        let mut at = 0;
        while at < 4 {
            let of_word = bits.saturating_sub(at as u32 * 32);
            if of_word < 32 {
                words[at] &= (!(u32::MAX >> of_word)).to_be();
            }
            at += 1;
        }
        Address(words)
    }

    pub fn octets(&self) -> [u8; 16] {
        let mut octets = [0; 16];
        for (chunk, word) in octets.chunks_exact_mut(4).zip(self.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        octets
    }

    pub fn ip(&self) -> IpAddr {
        Ipv6Addr::from(self.octets()).to_canonical()
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Address {
        Address::from_v4_raw(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Address {
        let o = address.octets();
        let word = |i: usize| u32::from_ne_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]);
        Address([word(0), word(4), word(8), word(12)])
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Address {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl core::fmt::Debug for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.ip().fmt(f)
    }
}

const V4_MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

const _: () = assert!(size_of::<Address>() == 16 && align_of::<Address>() == 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_come_back() {
        for text in ["192.0.2.1", "2001:db8::1", "::", "255.255.255.255"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Address::from(ip).ip(), ip);
            assert_eq!(Address::from(ip).is_v4(), ip.is_ipv4());
        }
    }

    #[test]
    fn prefixes_have_a_first_address() {
        let first = |text: &str, bits| Address::from(text.parse::<IpAddr>().unwrap()).first(bits).ip();
        for (text, bits, expected) in [
            ("192.0.2.77", 96 + 28, "192.0.2.64"),
            ("192.0.2.77", 96 + 8, "192.0.0.0"),
            ("192.0.2.77", 128, "192.0.2.77"),
            ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::"),
            ("2001:db8:1:2:3:4:5:6", 47, "2001:db8::"),
            ("2001:db8:1:2:3:4:5:6", 1, "::"),
        ] {
            assert_eq!(first(text, bits), expected.parse::<IpAddr>().unwrap(), "{text}/{bits}");
        }
    }
}
