//! Datagrams for connections that live on another machine of the cluster.
//!
//! A client's datagrams come to a machine that its connection does not live on when the client's address has changed, or when somebody
//! else serves its flow by now. The id they are addressed to says whose they are, and whoever knows the machines brings them there.
//!
//! What an id says is not proved here: two machines may have keys of different times. So whoever brings a datagram there bounds how many
//! it brings to one machine, and sees to it that nobody sends it further: the machine itself does not, for there its number is not
//! another's, but what stands in for a machine that has died would bring it back here.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

/// A datagram on its way to another machine, as it came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stray<'a> {
    pub remote: SocketAddr,
    pub local: SocketAddr,
    /// The two bits of ECN.
    pub ecn: u8,
    pub contents: &'a [u8],
}

/// The ways to other machines.
pub trait Ways: fmt::Debug + Send + Sync {
    /// Whether there is a way to the machine of this number, see [`machine_number`](crate::connection_id::machine_number).
    fn leads_to(&self, machine: u16) -> bool;

    /// Sends it there; false when it is lost.
    fn pass(&self, machine: u16, stray: &Stray<'_>) -> bool;
}

/// The ways that are known now. All endpoints of a process ask the same.
#[derive(Debug, Default)]
pub struct Elsewhere(RwLock<Option<Arc<dyn Ways>>>);

impl Elsewhere {
    pub fn set(&self, ways: Option<Arc<dyn Ways>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = ways;
    }

    /// Those that lead to this machine.
    pub fn to(&self, machine: u16) -> Option<Arc<dyn Ways>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone().filter(|ways| ways.leads_to(machine))
    }
}

/// Where a datagram came to: the address it was sent to, and the port of the socket that has received it.
pub(crate) fn came_to(socket: SocketAddr, destination: Option<IpAddr>) -> SocketAddr {
    SocketAddr::new(destination.unwrap_or(socket.ip()).to_canonical(), socket.port())
}
