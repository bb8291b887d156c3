//! Whose an address is, where clients are counted by theirs.

use edge_pipeline::Client;
use std::net::{IpAddr, Ipv6Addr};

/// Bits of an IPv6 address that say whose it is, where nothing else is said: providers give their customers a network of that size or a
/// larger one (RFC 6177), and each address in it is theirs to use.
pub(crate) const IPV6_PREFIX_LENGTH: u8 = 64;

/// The network of a client: an address of IPv4 as it is, however it was written, and the first bits of one of IPv6.
pub(crate) fn network(ip: IpAddr, ipv6_prefix_length: u8) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(address) => {
            let beyond = 128 - u32::from(ipv6_prefix_length.min(128));
            let mask = u128::MAX.checked_shl(beyond).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
        v4 => v4,
    }
}

/// The same in words; empty where nobody knows.
pub(crate) fn text(client: &Client, ipv6_prefix_length: u8) -> String {
    client.real_ip.map_or_else(String::new, |ip| network(ip, ipv6_prefix_length).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_customer_are_one() {
        for (address, length, network_of) in [
            ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::"),
            ("2001:db8:1:2:3:4:5:6", 128, "2001:db8:1:2:3:4:5:6"),
            ("2001:db8:1:2:3:4:5:6", 33, "2001:db8::"),
            ("2001:db8:1:2:3:4:5:6", 0, "::"),
            ("::ffff:192.0.2.7", 64, "192.0.2.7"),
            ("192.0.2.7", 1, "192.0.2.7"),
        ] {
            assert_eq!(network(address.parse().unwrap(), length).to_string(), network_of, "{address}/{length}");
        }
    }
}
