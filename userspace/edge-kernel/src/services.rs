//! From virtual IPs to what the map VIPS holds: all services of an address, narrowest first.

use std::collections::BTreeMap;

use abi::limits::{ADDRESSES_MAX, SERVICES_MAX};
use abi::{Address, Before, Counts, HashMode, Service, VipAddress, VipKey};

use crate::prefix::Prefix;
use crate::steering::{Earlier, Hash, Vip};

/// Services by address or prefix, as the key of the map holds it, but for the generation.
#[derive(Default)]
pub(crate) struct Services(BTreeMap<VipKey, (Prefix, Vec<Service>)>);

impl Services {
    /// Adds a virtual IP whose slots are in `table`: whole, or not at all, and why not.
    pub(crate) fn add(&mut self, vip: &Vip, table: u16) -> Result<(), String> {
        let mut changed: Vec<(Prefix, Vec<Service>)> = Vec::with_capacity(vip.addresses.len());
        let mut fresh = 0;
        for &ip in &vip.addresses {
            let known = self.0.get(&ip.key(0));
            fresh += usize::from(known.is_none());
            let mut services = known.map(|(_, services)| services.clone()).unwrap_or_default();
            if services.iter().any(|service| (service.flags & Service::BACKENDS != 0) != vip.backends) {
                return Err(format!(
                    "{ip}: one virtual IP has machines there, and one backends; give one of them another address"
                ));
            }
            add_services(&mut services, vip, table, ip)?;
            if services.len() > SERVICES_MAX {
                return Err(format!(
                    "{ip}: {} ports and ranges, counted for each protocol; at most {SERVICES_MAX} are accepted: join \
                     neighbours into ranges, or use `ports: any`",
                    services.len()
                ));
            }
            changed.push((ip, services));
        }
        if self.0.len() + fresh > ADDRESSES_MAX as usize {
            return Err(format!(
                "{} addresses and prefixes: at most {ADDRESSES_MAX} can be virtual IPs",
                self.0.len() + fresh
            ));
        }
        self.0.extend(changed.into_iter().map(|(ip, services)| (ip.key(0), (ip, services))));
        Ok(())
    }

    pub(crate) fn addresses(&self) -> Vec<Prefix> {
        self.0.values().map(|(ip, _)| *ip).collect()
    }

    /// As the map holds them.
    pub(crate) fn finish(self) -> BTreeMap<VipKey, VipAddress> {
        let sorted = |mut services: Vec<Service>| {
            // The order is the same on every machine, whatever order the documents came in.
            services.sort_by_key(|s| (s.port_last - s.port_first, s.port_first, s.protocol));
            let mut value = VipAddress { count: services.len() as u32, ..VipAddress::EMPTY };
            value.services[..services.len()].copy_from_slice(&services);
            value.backends = u32::from(services.iter().any(|service| service.flags & Service::BACKENDS != 0));
            value
        };
        self.0.into_iter().map(|(key, (_, services))| (key, sorted(services))).collect()
    }
}

/// All services of these virtual IPs, which must fit together. `table` says which table a VIP's slots are in.
/// By their keys in generation 0.
pub fn gather(vips: &[Vip], table: impl Fn(u16) -> u16) -> Result<BTreeMap<VipKey, VipAddress>, String> {
    let mut services = Services::default();
    for vip in vips {
        services.add(vip, table(vip.id))?;
    }
    Ok(services.finish())
}

/// What is said of an address: as the programs find it.
pub(crate) fn find(services: &BTreeMap<VipKey, VipAddress>, address: Address) -> Option<&VipAddress> {
    if let Some(found) = services.get(&VipKey::of(0, &address, 0)) {
        return Some(found);
    }
    // Length after length, the longest first.
    let mut below = u16::MAX;
    loop {
        let next = services.range(..VipKey { bits: below, ..VipKey::default() }).next_back()?.0.bits;
        if next == 0 {
            return None;
        }
        if let Some(found) = services.get(&VipKey::of(0, &address, next)) {
            return Some(found);
        }
        below = next;
    }
}

/// How the flows of a virtual IP were spread before, with its slots in `table`.
pub fn before(earlier: &Earlier, table: u16) -> Before {
    let mode = mode(earlier.hash);
    Before { v4: Counts::new(mode, true), v6: Counts::new(mode, false), seed: earlier.seed, table: table.into() }
}

fn mode(hash: Hash) -> HashMode {
    match hash {
        Hash::FiveTuple => HashMode::FiveTuple,
        Hash::SourceIp => HashMode::SourceIp,
        Hash::SourcePrefix { v4, v6 } => HashMode::SourcePrefix { v4, v6 },
        Hash::DestinationPort => HashMode::DestinationPort,
    }
}

fn add_services(services: &mut Vec<Service>, vip: &Vip, table: u16, ip: Prefix) -> Result<(), String> {
    let mode = mode(vip.hash);
    for range in &vip.ports {
        for protocol in &vip.protocols {
            let service = Service {
                port_first: *range.start(),
                port_last: *range.end(),
                protocol: protocol.number(),
                flags: if vip.earlier.is_some() { Service::BEFORE } else { 0 }
                    | if vip.limits.all.is_some() || vip.limits.source.is_some() { Service::LIMITED } else { 0 }
                    | if vip.limits.cookies.is_some() { Service::COOKIES } else { 0 }
                    | if vip.backends { Service::BACKENDS } else { 0 }
                    | if vip.hash == Hash::FiveTuple { Service::ALL } else { 0 },
                vip: vip.id,
                table,
                reserved_too: 0,
                counts: Counts::new(mode, ip.address.is_ipv4()),
            };
            let same = |s: &&Service| {
                (s.protocol, s.port_first, s.port_last) == (service.protocol, service.port_first, service.port_last)
            };
            match services.iter().find(same) {
                None => services.push(service),
                Some(known) if known.vip == vip.id => {}
                Some(known) => {
                    return Err(format!(
                        "{ip} ports {}-{}: virtual IPs {} and {} both claim them; only one can have them",
                        range.start(),
                        range.end(),
                        known.vip,
                        vip.id
                    ));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use std::net::IpAddr;

    use abi::limits::SLOTS;

    use super::*;
    use crate::steering::Protocol;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn vip(id: u16, ports: &[RangeInclusive<u16>]) -> Vip {
        Vip {
            id,
            name: format!("v{id}"),
            addresses: vec![ip("198.51.100.1").into(), ip("2001:db8::1").into()],
            ports: ports.to_vec(),
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            hash: Hash::SourcePrefix { v4: 24, v6: 56 },
            slots: vec![abi::Slot::of(1); SLOTS as usize].into(),
            limits: crate::VipLimits::default(),
            earlier: None,
            backends: false,
        }
    }

    const V4_24: [u8; 16] = [255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0];
    const V6_56: [u8; 16] = [255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn narrowest_first_and_prefix_by_family() {
        let all = gather(&[vip(1, &[0..=65535, 80..=80]), vip(2, &[8000..=8099])], |id| id + 10).unwrap();
        assert_eq!(all.len(), 2);
        for (key, value) in all {
            let ports: Vec<_> =
                value.services[..6].iter().map(|s| (s.port_first, s.port_last, s.protocol, s.vip)).collect();
            assert_eq!(
                ports,
                [
                    (80, 80, 6, 1),
                    (80, 80, 17, 1),
                    (8000, 8099, 6, 2),
                    (8000, 8099, 17, 2),
                    (0, 65535, 6, 1),
                    (0, 65535, 17, 1)
                ]
            );
            let mask = Address(value.services[0].counts.source).octets();
            assert_eq!(mask, if key.address.is_v4() { V4_24 } else { V6_56 });
            assert_eq!(value.services[2].table, 12);
        }
    }

    #[test]
    fn where_all_of_a_packet_counts_it_is_said_beside_the_masks() {
        for (hash, all) in [(Hash::FiveTuple, true), (Hash::SourceIp, false), (Hash::DestinationPort, false)] {
            let services = gather(&[Vip { hash, ..vip(1, &[80..=80]) }], |id| id).unwrap();
            for service in services.values().flat_map(|value| &value.services[..2]) {
                assert_eq!((service.flags & Service::ALL != 0, service.counts == Counts::ALL), (all, all), "{hash:?}");
            }
        }
    }

    #[test]
    fn a_port_claimed_twice_is_refused_with_both_names() {
        let text = gather(&[vip(1, &[80..=80]), vip(2, &[80..=80])], |id| id).unwrap_err();
        assert_eq!(text, "198.51.100.1 ports 80-80: virtual IPs 1 and 2 both claim them; only one can have them");
    }

    #[test]
    fn too_many_services_are_refused() {
        let ports: Vec<_> = (1..=17).map(|p| p..=p).collect();
        assert!(gather(&[vip(1, &ports)], |id| id).unwrap_err().contains("34 ports and ranges"));
    }

    #[test]
    fn one_that_is_refused_leaves_nothing_behind() {
        let mut services = Services::default();
        services.add(&vip(1, &[80..=80]), 0).unwrap();
        let before = services.addresses();
        let mut second = vip(2, &[80..=80]);
        second.addresses.insert(0, ip("198.51.100.9").into());
        services.add(&second, 0).unwrap_err();
        assert_eq!(services.addresses(), before);
        second.addresses.truncate(1);
        services.add(&second, 0).unwrap();
        assert_eq!(services.finish().values().map(|v| v.count).collect::<Vec<_>>(), [2, 2, 2]);
    }

    #[test]
    fn an_address_goes_by_the_longest_prefix_that_has_it() {
        let of = |id: u16, prefixes: &[(&str, u8)]| Vip {
            addresses: prefixes.iter().map(|(address, bits)| Prefix { address: ip(address), bits: *bits }).collect(),
            ..vip(id, &[80..=80])
        };
        let all = gather(
            &[
                of(1, &[("198.51.100.0", 24), ("2001:db8::", 32)]),
                of(2, &[("198.51.100.16", 28), ("2001:db8:0:1::", 64)]),
                of(3, &[("198.51.100.17", 32), ("2001:db8:0:1::7", 128)]),
                of(4, &[("198.51.0.0", 16)]),
            ],
            |id| id,
        )
        .unwrap();
        for (address, id) in [
            ("198.51.100.1", 1),
            ("198.51.100.16", 2),
            ("198.51.100.31", 2),
            ("198.51.100.32", 1),
            ("198.51.100.17", 3),
            ("198.51.99.17", 4),
            ("198.52.100.17", 0),
            ("2001:db8:ffff::1", 1),
            ("2001:db8:0:1:9::", 2),
            ("2001:db8:0:1::7", 3),
            ("2001:db9::7", 0),
        ] {
            assert_eq!(find(&all, ip(address).into()).map_or(0, |found| found.services[0].vip), id, "{address}");
        }
    }
}
