//! The way of QUIC's datagrams to the machine that has their connection, where the kernel's programs steer.
//!
//! Those programs go by addresses and ports alone. A client whose address has changed, or whose flow others serve by now, is heard by a
//! machine that does not have its connection; the id it asks for says who has, and the datagram goes there in a tunnel as the programs
//! send them. None is so often needed that a system call each would matter.
//!
//! Anybody can write a machine's number into an id, so no machine is sent more than [`RATE`] from here: a flood that the network would
//! spread over all machines must not come together at one. What is beyond that, and what a socket has no room for, is lost, as datagrams
//! are: this runs on the workers, which wait for nothing.

use base_quic::connection_id::machine_number;
use base_quic::{Stray, Ways};
use base_runtime::net::UdpOptions;
use edge_kernel::abi::gue::PORT;
use edge_l4::stray::{Datagram, wrap};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Datagrams a second to each machine. The acknowledgements of some 100,000 packets, which is more than a gigabit, of clients that are
/// heard by the wrong machine: enough for all connections of a machine that drains.
const RATE: u64 = 50_000;

/// Those that may be sent at once, when none were for a while.
const BURST: u64 = 5_000;

/// See the module doc.
#[derive(Debug)]
pub struct Strays {
    /// Of this machine's own addresses, which others know it by.
    sockets: Vec<(IpAddr, UdpSocket)>,
    machines: BTreeMap<u16, Other>,
    cookie: NonZeroU32,
    begun: Instant,
}

/// Another machine.
#[derive(Debug)]
struct Other {
    address: SocketAddr,
    room: Room,
}

/// How much may be sent now, as the generic cell rate algorithm has it: one time for all workers, when there would be room for a whole
/// burst, in nanoseconds.
#[derive(Debug, Default)]
struct Room(AtomicU64);

impl Room {
    /// Takes the place of one datagram, if there is one.
    fn take(&self, now: Duration) -> bool {
        const EACH: u64 = 1_000_000_000 / RATE;
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let latest = now.saturating_add(EACH * BURST);
        let taken = |due: u64| Some(due.max(now).saturating_add(EACH)).filter(|due| *due <= latest);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }
}

impl Strays {
    /// `None` where nobody else is there, or no secret to know each other by.
    pub fn ways(
        own: &crate::desired::Machine,
        machines: &[edge_kernel::Machine],
        cookie: Option<NonZeroU32>,
    ) -> Option<Arc<dyn Ways>> {
        let strays = Strays::over(PORT, own, machines, cookie?)?;
        Some(Arc::new(strays))
    }

    /// Through tunnels to this port.
    fn over(
        port: u16,
        own: &crate::desired::Machine,
        machines: &[edge_kernel::Machine],
        cookie: NonZeroU32,
    ) -> Option<Strays> {
        let number = machine_number(&own.name);
        let mut others = BTreeMap::new();
        // A server that does not run Weir has no connections of ours, and is not to hear the cluster's secret.
        for machine in machines.iter().filter(|machine| !machine.own && machine.backend.is_none()) {
            let taken = machine_number(&machine.name);
            // Of two with one number neither is found from elsewhere but the one that joined first.
            if taken != number {
                let address = SocketAddr::new(machine.address, port);
                others.entry(taken).or_insert_with(|| Other { address, room: Room::default() });
            }
        }
        if others.is_empty() {
            return None;
        }
        let own = [own.v4.map(IpAddr::V4), own.v6.map(IpAddr::V6)].into_iter().flatten();
        // A tunnel in fragments is none: it could not be told where it comes from.
        let options = UdpOptions { dont_fragment: true, ..UdpOptions::default() };
        let bind = |ip| {
            let socket = options.bind(SocketAddr::new(ip, 0))?;
            socket.set_nonblocking(true).map(|()| socket)
        };
        let bound = own.filter_map(|ip| match bind(ip) {
            Ok(socket) => Some((ip, socket)),
            Err(error) => {
                tracing::warn!(%ip, %error, "QUIC's datagrams for other machines cannot be sent on from this address");
                None
            }
        });
        let sockets: Vec<_> = bound.collect();
        Some(Strays { sockets, machines: others, cookie, begun: Instant::now() })
    }
}

impl Ways for Strays {
    fn leads_to(&self, machine: u16) -> bool {
        self.machines.contains_key(&machine)
    }

    fn pass(&self, machine: u16, stray: &Stray<'_>) -> bool {
        let Some(to) = self.machines.get(&machine) else { return false };
        if !to.room.take(self.begun.elapsed()) {
            return false;
        }
        let own = self.sockets.iter().find(|(own, _)| own.is_ipv4() == to.address.is_ipv4());
        let datagram =
            Datagram { source: stray.remote, destination: stray.local, ecn: stray.ecn, contents: stray.contents };
        match (own, wrap(&datagram, self.cookie.get())) {
            (Some((_, socket)), Some(tunnel)) => socket.send_to(&tunnel, to.address).is_ok(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Machine;
    use std::net::Ipv4Addr;
    use std::os::fd::AsRawFd;

    fn machine(id: u16, name: &str, own: bool) -> edge_kernel::Machine {
        let address = IpAddr::from([127, 0, 0, id as u8]);
        edge_kernel::Machine { index: id, name: name.to_owned(), address, next_hop: None, own, backend: None }
    }

    fn own() -> Machine {
        Machine { id: 1, name: "edge-1".to_owned(), v4: Some(Ipv4Addr::LOCALHOST), v6: None }
    }

    fn stray() -> Stray<'static> {
        let (remote, local) = ("192.0.2.1:9".parse().unwrap(), "203.0.113.1:443".parse().unwrap());
        Stray { remote, local, ecn: 1, contents: b"datagram" }
    }

    #[test]
    fn a_datagram_is_sent_to_the_machine_that_its_id_names() {
        let all = [machine(1, "edge-1", true), machine(2, "edge-2", false)];
        let cookie = NonZeroU32::new(7);
        assert!(Strays::ways(&own(), &all[..1], cookie).is_none(), "nobody else is there");
        assert!(Strays::ways(&own(), &all, None).is_none(), "nobody would know it");
        let there = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).unwrap();
        let port = there.local_addr().unwrap().port();
        let ways = Strays::over(port, &own(), &all, cookie.unwrap()).unwrap();
        let second = machine_number("edge-2");
        assert!(ways.leads_to(second) && !ways.leads_to(machine_number("edge-1")) && !ways.leads_to(second ^ 1));
        assert!(ways.pass(second, &stray()) && !ways.pass(second ^ 1, &stray()));
        let mut bytes = [0; 200];
        let (length, from) = there.recv_from(&mut bytes).unwrap();
        assert_eq!(from.ip(), Ipv4Addr::LOCALHOST);
        assert!(bytes[..length].ends_with(b"datagram") && bytes[8..12] == [0, 0, 0, 7]);
    }

    #[test]
    fn backends_are_sent_nothing() {
        let web = edge_kernel::Machine { backend: Some(edge_kernel::Backend::default()), ..machine(3, "web-1", false) };
        let all = [machine(1, "edge-1", true), web];
        assert!(Strays::over(1, &own(), &all, NonZeroU32::MIN).is_none(), "nobody else runs Weir");
        let all = [all, [machine(2, "edge-2", false), machine(4, "edge-4", false)]].concat();
        let ways = Strays::over(1, &own(), &all, NonZeroU32::MIN).unwrap();
        assert!(!ways.leads_to(machine_number("web-1")) && ways.leads_to(machine_number("edge-2")));
    }

    #[test]
    fn no_machine_is_sent_more_than_its_rate() {
        let room = Room::default();
        let taken = |now: Duration, of: u64| (0..of).filter(|_| room.take(now)).count() as u64;
        assert_eq!(taken(Duration::ZERO, 2 * BURST), BURST);
        assert_eq!(taken(Duration::from_millis(1), 2 * BURST), RATE / 1000);
        assert_eq!(taken(Duration::from_secs(60), 2 * BURST), BURST, "it does not grow");
        // Clocks of two workers.
        assert_eq!(taken(Duration::from_secs(59), 10), 0);

        let all = [machine(1, "edge-1", true), machine(2, "edge-2", false), machine(3, "edge-3", false)];
        let there = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 3), 0)).unwrap();
        let port = there.local_addr().unwrap().port();
        let ways = Strays::over(port, &own(), &all, NonZeroU32::MIN).unwrap();
        let (second, third) = (machine_number("edge-2"), machine_number("edge-3"));
        ways.machines[&second].room.0.store(u64::MAX, Ordering::Relaxed);
        assert!(!ways.pass(second, &stray()), "it had enough");
        assert!(ways.pass(third, &stray()), "which is nothing to others");
    }

    #[test]
    fn a_worker_does_not_wait_for_room_in_a_socket() {
        let all = [machine(1, "edge-1", true), machine(2, "edge-2", false)];
        let ways = Strays::over(1, &own(), &all, NonZeroU32::MIN).unwrap();
        let (_, socket) = &ways.sockets[0];
        let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", socket.as_raw_fd())).unwrap();
        let flags = told.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        const NONBLOCK: u32 = 0o4000;
        assert_ne!(u32::from_str_radix(flags, 8).unwrap() & NONBLOCK, 0, "{told}");
    }
}
