//! Addresses that have their first bits in common, and one alone.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::{Address, VipKey};

/// Addresses that begin alike; with all bits one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Prefix {
    /// The first one.
    pub address: IpAddr,
    /// At most 32 or 128.
    pub bits: u8,
}

impl Prefix {
    pub fn has(&self, ip: IpAddr) -> bool {
        let first = |address: IpAddr| Address::from(address).first(self.bits_of_all());
        ip.is_ipv4() == self.address.is_ipv4() && first(ip) == first(self.address)
    }

    pub(crate) fn is_address(&self) -> bool {
        *self == Prefix::from(self.address)
    }

    /// The same with nothing behind its bits.
    pub(crate) fn whole(&self) -> Prefix {
        let kept = |width: u8| u128::MAX.checked_shl(u32::from(width - self.bits.min(width))).unwrap_or(0);
        let address = match self.address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & kept(32) as u32).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & kept(128)).into(),
        };
        Prefix { address, bits: self.bits }
    }

    pub(crate) fn overlaps(&self, other: &Prefix) -> bool {
        self.has(other.address) || other.has(self.address)
    }

    /// What the map VIPS has it under.
    pub(crate) fn key(&self, generation: u16) -> VipKey {
        let bits = if self.bits_of_all() == 128 { 0 } else { self.bits_of_all() as u16 };
        VipKey::of(generation, &self.address.into(), bits)
    }

    /// With IPv4 written as IPv6.
    fn bits_of_all(&self) -> u32 {
        u32::from(self.bits) + if self.address.is_ipv4() { 96 } else { 0 }
    }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Prefix {
        Prefix { address, bits: if address.is_ipv4() { 32 } else { 128 } }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_address() {
            return self.address.fmt(f);
        }
        write!(f, "{}/{}", self.address, self.bits)
    }
}
