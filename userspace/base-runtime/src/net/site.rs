//! Whom an address stands for, where clients are counted by address.

use std::net::{IpAddr, Ipv6Addr};

/// What all addresses have in common that one client may choose from: of IPv6 the /64 (RFC 6177), of IPv4 the address, also where it
/// is mapped into IPv6.
pub fn site_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}
