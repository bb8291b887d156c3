//! The way of QUIC's datagrams to the machine that has their connection, where the kernel's programs steer.
//!
//! Those programs go by addresses and ports alone. A client whose address has changed, or whose flow others serve by now, is heard by a
//! machine that does not have its connection; the id it asks for says who has, and the datagram goes there in a tunnel as the programs
//! send them. None is so often needed that a system call each would matter.

use base_quic::connection_id::machine_number;
use base_quic::{Stray, Ways};
use base_runtime::net::UdpOptions;
use edge_kernel::abi::gue::PORT;
use edge_l4::stray::{Datagram, wrap};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::sync::Arc;

/// See the module doc.
#[derive(Debug)]
pub struct Strays {
    /// Of this machine's own addresses, which others know it by.
    sockets: Vec<(IpAddr, UdpSocket)>,
    machines: BTreeMap<u16, SocketAddr>,
    cookie: NonZeroU32,
}

impl Strays {
    /// `None` where nobody else is there, or no secret to know each other by.
    pub fn new(
        own: &crate::desired::Machine,
        machines: &[edge_kernel::Machine],
        cookie: Option<NonZeroU32>,
    ) -> Option<Arc<dyn Ways>> {
        let cookie = cookie?;
        let number = machine_number(&own.name);
        let mut others = BTreeMap::new();
        for machine in machines.iter().filter(|machine| !machine.own) {
            let taken = machine_number(&machine.name);
            // Of two with one number neither is found from elsewhere but the one that joined first.
            if taken != number {
                others.entry(taken).or_insert(SocketAddr::new(machine.address, PORT));
            }
        }
        if others.is_empty() {
            return None;
        }
        let own = [own.v4.map(IpAddr::V4), own.v6.map(IpAddr::V6)].into_iter().flatten();
        // A tunnel in fragments is none: it could not be told where it comes from.
        let options = UdpOptions { dont_fragment: true, ..UdpOptions::default() };
        let bound = own.filter_map(|ip| match options.bind(SocketAddr::new(ip, 0)) {
            Ok(socket) => Some((ip, socket)),
            Err(error) => {
                tracing::warn!(%ip, %error, "QUIC's datagrams for other machines cannot be sent on from this address");
                None
            }
        });
        let sockets: Vec<_> = bound.collect();
        Some(Arc::new(Strays { sockets, machines: others, cookie }))
    }
}

impl Ways for Strays {
    fn leads_to(&self, machine: u16) -> bool {
        self.machines.contains_key(&machine)
    }

    fn pass(&self, machine: u16, stray: &Stray<'_>) -> bool {
        let Some(to) = self.machines.get(&machine) else { return false };
        let own = self.sockets.iter().find(|(own, _)| own.is_ipv4() == to.is_ipv4());
        let datagram =
            Datagram { source: stray.remote, destination: stray.local, ecn: stray.ecn, contents: stray.contents };
        match (own, wrap(&datagram, self.cookie.get())) {
            (Some((_, socket)), Some(tunnel)) => socket.send_to(&tunnel, to).is_ok(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Machine;
    use std::net::Ipv4Addr;

    fn machine(id: u16, name: &str, own: bool) -> edge_kernel::Machine {
        let address = IpAddr::from([127, 0, 0, id as u8]);
        edge_kernel::Machine { index: id, name: name.to_owned(), address, next_hop: None, own }
    }

    #[test]
    fn a_datagram_is_sent_to_the_machine_that_its_id_names() {
        let own = Machine { id: 1, name: "edge-1".to_owned(), v4: Some(Ipv4Addr::LOCALHOST), v6: None };
        let all = [machine(1, "edge-1", true), machine(2, "edge-2", false)];
        let cookie = NonZeroU32::new(7);
        assert!(Strays::new(&own, &all[..1], cookie).is_none(), "nobody else is there");
        assert!(Strays::new(&own, &all, None).is_none(), "nobody would know it");
        let ways = Strays::new(&own, &all, cookie).unwrap();
        let second = machine_number("edge-2");
        assert!(ways.leads_to(second) && !ways.leads_to(machine_number("edge-1")) && !ways.leads_to(second ^ 1));
        let there = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), PORT)).unwrap();
        let (remote, local) = ("192.0.2.1:9".parse().unwrap(), "203.0.113.1:443".parse().unwrap());
        let stray = Stray { remote, local, ecn: 1, contents: b"datagram" };
        assert!(ways.pass(second, &stray) && !ways.pass(second ^ 1, &stray));
        let mut bytes = [0; 200];
        let (length, from) = there.recv_from(&mut bytes).unwrap();
        assert_eq!(from.ip(), Ipv4Addr::LOCALHOST);
        assert!(bytes[..length].ends_with(b"datagram") && bytes[8..12] == [0, 0, 0, 7]);
    }
}
