//! What a header says.

use crate::tlv::Tlvs;
use std::net::{IpAddr, SocketAddr};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// A binary block, with room for more than addresses.
    V2,
}

/// One header. It borrows from the bytes it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct Header<'b> {
    pub version: Version,
    pub addresses: Addresses,
    /// What version 2 says beside the addresses; empty in version 1.
    pub tlvs: Tlvs<'b>,
}

/// Who the connection is from and where it was going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    /// The proxy speaks for itself (LOCAL), as for its health checks: the connection is its own.
    Local,
    /// There is a client, and the proxy does not know or cannot say who (UNKNOWN, UNSPEC): the connection's own addresses stand.
    Unknown,
    Inet {
        transport: Transport,
        source: SocketAddr,
        destination: SocketAddr,
    },
    /// A Unix socket of the proxy's machine; its paths mean nothing here.
    Unix,
}

/// What carried the client's bytes to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Stream,
    Datagram,
}

impl Addresses {
    /// The client, where one is named.
    pub fn client(&self) -> Option<SocketAddr> {
        match self {
            Addresses::Inet { source, .. } => Some(*source),
            _ => None,
        }
    }
}

/// Both addresses as one family says them: an IPv4 address beside an IPv6 one is written as IPv6 (`::ffff:192.0.2.1`).
pub(crate) fn in_one_family(source: SocketAddr, destination: SocketAddr) -> (IpAddr, IpAddr) {
    let (source, destination) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let v6 = |ip| match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        v6 => v6,
    };
    match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => (source, destination),
        _ => (v6(source), v6(destination)),
    }
}
