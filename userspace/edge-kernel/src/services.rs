//! From virtual IPs to what the map VIPS holds: all services of an address, narrowest first.

use std::collections::BTreeMap;
use std::net::IpAddr;

use abi::limits::{ADDRESSES_MAX, SERVICES_MAX};
use abi::{Address, Before, Counts, HashMode, Service, VipAddress};

use crate::steering::{Earlier, Hash, Vip};

/// Services by address, as the key of the map holds it.
#[derive(Default)]
pub(crate) struct Services(BTreeMap<[u32; 4], (IpAddr, Vec<Service>)>);

impl Services {
    /// Adds a virtual IP whose slots are in `table`: whole, or not at all, and why not.
    pub(crate) fn add(&mut self, vip: &Vip, table: u16) -> Result<(), String> {
        let mut changed: Vec<(IpAddr, Vec<Service>)> = Vec::with_capacity(vip.addresses.len());
        let mut fresh = 0;
        for &ip in &vip.addresses {
            let known = self.0.get(&Address::from(ip).0);
            fresh += usize::from(known.is_none());
            let mut services = known.map(|(_, services)| services.clone()).unwrap_or_default();
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
            return Err(format!("{} addresses: at most {ADDRESSES_MAX} can be virtual IPs", self.0.len() + fresh));
        }
        self.0.extend(changed.into_iter().map(|(ip, services)| (Address::from(ip).0, (ip, services))));
        Ok(())
    }

    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.0.values().map(|(ip, _)| *ip).collect()
    }

    /// As the map holds them.
    pub(crate) fn finish(self) -> BTreeMap<[u32; 4], VipAddress> {
        let sorted = |mut services: Vec<Service>| {
            // The order is the same on every machine, whatever order the documents came in.
            services.sort_by_key(|s| (s.port_last - s.port_first, s.port_first, s.protocol));
            let mut value = VipAddress { count: services.len() as u32, ..VipAddress::EMPTY };
            value.services[..services.len()].copy_from_slice(&services);
            value
        };
        self.0.into_iter().map(|(key, (_, services))| (key, sorted(services))).collect()
    }
}

/// All services of these virtual IPs, which must fit together. `table` says which table a VIP's slots are in.
pub fn gather(vips: &[Vip], table: impl Fn(u16) -> u16) -> Result<BTreeMap<[u32; 4], VipAddress>, String> {
    let mut services = Services::default();
    for vip in vips {
        services.add(vip, table(vip.id))?;
    }
    Ok(services.finish())
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

fn add_services(services: &mut Vec<Service>, vip: &Vip, table: u16, ip: IpAddr) -> Result<(), String> {
    let mode = mode(vip.hash);
    for range in &vip.ports {
        for protocol in &vip.protocols {
            let service = Service {
                port_first: *range.start(),
                port_last: *range.end(),
                protocol: protocol.number(),
                flags: if vip.earlier.is_some() { Service::BEFORE } else { 0 }
                    | if vip.limits.all.is_some() || vip.limits.source.is_some() { Service::LIMITED } else { 0 }
                    | if vip.limits.cookies.is_some() { Service::COOKIES } else { 0 },
                vip: vip.id,
                table,
                reserved_too: 0,
                counts: Counts::new(mode, ip.is_ipv4()),
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

    use abi::limits::SLOTS;

    use super::*;
    use crate::steering::Protocol;

    fn vip(id: u16, ports: &[RangeInclusive<u16>]) -> Vip {
        Vip {
            id,
            name: format!("v{id}"),
            addresses: vec!["198.51.100.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            ports: ports.to_vec(),
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            hash: Hash::SourcePrefix { v4: 24, v6: 56 },
            slots: vec![abi::Slot::of(1); SLOTS as usize].into(),
            limits: crate::VipLimits::default(),
            earlier: None,
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
            assert_eq!(mask, if Address(key).is_v4() { V4_24 } else { V6_56 });
            assert_eq!(value.services[2].table, 12);
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
        second.addresses.insert(0, "198.51.100.9".parse().unwrap());
        services.add(&second, 0).unwrap_err();
        assert_eq!(services.addresses(), before);
        second.addresses.truncate(1);
        services.add(&second, 0).unwrap();
        assert_eq!(services.finish().values().map(|v| v.count).collect::<Vec<_>>(), [2, 2, 2]);
    }
}
