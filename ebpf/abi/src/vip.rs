//! Which addresses are virtual IPs, and which of their ports are served by whom.

use crate::{Address, limits::SERVICES_MAX};

/// Key of the map VIPS. Both generations live in one map; a packet looks only at the live one ([`crate::Switch`]).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VipKey {
    pub address: Address,
    /// 0 or 1.
    pub generation: u32,
}

/// Value of the map VIPS: every service of one address, narrowest range first, so an exact port beats a range and a
/// range beats any port. One lookup answers all three questions of a packet: is it for a VIP, for which, and how to hash.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VipAddress {
    pub services: [Service; SERVICES_MAX],
    /// How many of `services` are filled.
    pub count: u32,
}

/// One port, one range of ports, or (0 to 65535) any port of an address, for one protocol.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Service {
    /// First port served; host order, as are all numbers here.
    pub port_first: u16,
    /// Last port served.
    pub port_last: u16,
    /// IP protocol number: 6 or 17.
    pub protocol: u8,
    /// One of [`HashMode`].
    pub hash: u8,
    /// Bits of the source address that count with [`HashMode::SourcePrefix`], for the family of this address.
    pub prefix_length: u8,
    pub reserved: u8,
    /// The VIP that the counters are kept for; 0 is nobody's.
    pub vip: u16,
    /// The Maglev table that holds its owners.
    pub table: u16,
}

/// What of a packet chooses its slot. Discriminants are ABI.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum HashMode {
    /// Protocol, both addresses, both ports.
    #[default]
    FiveTuple = 0,
    /// Source address: all connections of a client go to one machine.
    SourceIp = 1,
    /// The first bits of the source address.
    SourcePrefix = 2,
    /// Destination port and protocol, whoever the client is.
    DestinationPort = 3,
}

impl VipAddress {
    pub const EMPTY: VipAddress = VipAddress { services: [Service::NONE; SERVICES_MAX], count: 0 };
}

impl Service {
    pub const NONE: Service = Service {
        port_first: 0,
        port_last: 0,
        protocol: 0,
        hash: 0,
        prefix_length: 0,
        reserved: 0,
        vip: 0,
        table: 0,
    };

    #[inline(always)]
    pub const fn serves(&self, protocol: u8, port: u16) -> bool {
        self.protocol == protocol && self.port_first <= port && port <= self.port_last
    }
}

const _: () = assert!(size_of::<VipKey>() == 20);
const _: () = assert!(size_of::<Service>() == 12 && align_of::<Service>() == 2);
const _: () = assert!(size_of::<VipAddress>() == SERVICES_MAX * 12 + 4);
