//! The TCP connections of virtual IPs that this machine holds, and their slots, from the kernel's list of sockets (sock_diag(7)).

use std::net::{IpAddr, SocketAddr};

use abi::{Address, Slot};
use datapath::flow::Flow;

use crate::kernel::Kernel;
use crate::netlink::Netlink;
use crate::{KernelError, Protocol, services};

/// A connection, by the slot that its packets are steered by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Held {
    /// Of the virtual IP.
    pub vip: u16,
    pub slot: u32,
}

impl Kernel {
    /// All of the calling thread's network namespace, closing ones included: other machines pass their packets on to this one. Not
    /// those in TIME-WAIT, nor listeners.
    pub fn held(&self) -> Result<Vec<Held>, KernelError> {
        let failed = |e| KernelError::system("cannot list the TCP connections", e);
        let mut netlink = Netlink::open_for(libc::NETLINK_SOCK_DIAG).map_err(failed)?;
        let mut held = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let slot = |_, client, port, vip, vip_port| self.slot_of(client, port, vip, vip_port);
            held.extend(list(&mut netlink, family as u8, CONNECTIONS, slot).map_err(failed)?);
        }
        Ok(held)
    }

    /// The slot of a TCP connection, if it is one of a virtual IP's service.
    fn slot_of(&self, client: IpAddr, port: u16, vip: IpAddr, vip_port: u16) -> Option<Held> {
        let (source, destination) = (Address::from(client), Address::from(vip));
        let address = services::find(&self.services, destination)?;
        let protocol = Protocol::Tcp.number();
        let services = address.services.iter().take(address.count as usize);
        let service = services.into_iter().find(|service| service.serves(protocol, vip_port))?;
        let flow =
            Flow { source, destination, source_port: port, destination_port: vip_port, v4: vip.is_ipv4(), protocol };
        let slot = Slot::number(flow.hash(&service.counts, self.settings.seed));
        Some(Held { vip: service.vip, slot })
    }
}

/// State of the calling thread's network namespace's socket for a TCP connection, named from the client's side; 0: none.
pub(crate) fn state_of(client: SocketAddr, here: SocketAddr) -> std::io::Result<u32> {
    let mut netlink = Netlink::open_for(libc::NETLINK_SOCK_DIAG)?;
    let wanted = (client.ip(), client.port(), here.ip(), here.port());
    let mut found = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let state = |state, peer, port, at, our_port| ((peer, port, at, our_port) == wanted).then_some(state);
        let states = list(&mut netlink, family as u8, CONNECTIONS | 1 << TIME_WAIT, state)?;
        found = states.last().copied().unwrap_or(found);
    }
    Ok(found)
}

/// What `read` makes of the state, the peer's and our address and port of every connection of sockets of the family. A socket open to both
/// families is one of IPv6, whatever its connection is.
fn list<T>(
    netlink: &mut Netlink,
    family: u8,
    states: u32,
    mut read: impl FnMut(u32, IpAddr, u16, IpAddr, u16) -> Option<T>,
) -> std::io::Result<Vec<T>> {
    let mut request = vec![family, libc::IPPROTO_TCP as u8, 0, 0];
    request.extend(states.to_ne_bytes());
    // `inet_diag_sockid`: none asked for.
    request.extend([0; 48]);
    netlink.dump(SOCK_DIAG_BY_FAMILY, &request, |body| {
        let socket = body.get(..52)?;
        let port = |at: usize| u16::from_be_bytes([socket[at], socket[at + 1]]);
        let address = |at: usize| -> IpAddr {
            let mut octets = [0u8; 16];
            octets.copy_from_slice(&socket[at..at + 16]);
            if socket[0] == libc::AF_INET as u8 {
                return IpAddr::from([octets[0], octets[1], octets[2], octets[3]]);
            }
            IpAddr::from(octets).to_canonical()
        };
        read(socket[1].into(), address(24), port(6), address(8), port(4))
    })
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// All but these.
const CONNECTIONS: u32 = !(1 << TIME_WAIT | 1 << CLOSE | 1 << LISTEN);
const TIME_WAIT: u32 = 6;
const CLOSE: u32 = 7;
const LISTEN: u32 = 10;
