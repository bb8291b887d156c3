//! The ports this process listens on, so that nothing of it connects to itself unawares.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Ports that trust whoever runs on this machine, said once at start.
static TRUSTING: OnceLock<Box<[u16]>> = OnceLock::new();

/// Says on which ports of this process whoever comes from this machine is believed: traffic, which carries out what strangers ask for,
/// is not led there. To be called once, before there is traffic; later calls change nothing.
pub fn keep_traffic_from(ports: impl IntoIterator<Item = u16>) {
    let _ = TRUSTING.set(ports.into_iter().collect());
}

/// Whether traffic is kept from there: such a port, at an address by which this machine speaks to itself as itself.
pub fn is_kept_from_traffic(address: SocketAddr) -> bool {
    is_within(address, TRUSTING.get().map_or(&[], |ports| ports))
}

fn is_within(address: SocketAddr, trusting: &[u16]) -> bool {
    let ip = address.ip().to_canonical();
    (ip.is_loopback() || ip.is_unspecified()) && trusting.contains(&address.port())
}

/// By whether they are of UDP, and number.
static PORTS: Mutex<BTreeMap<(bool, u16), usize>> = Mutex::new(BTreeMap::new());

/// A port that this process listens on, on whatever address, until it is dropped. Those of TCP and of UDP are others.
#[derive(Debug)]
pub struct OwnPort(bool, u16);

impl OwnPort {
    /// Takes note of a port of TCP that was bound. Listeners of this crate do so themselves.
    pub fn note(port: u16) -> OwnPort {
        OwnPort::add(false, port)
    }

    /// The same of UDP, by whoever makes a server of its sockets.
    pub fn note_udp(port: u16) -> OwnPort {
        OwnPort::add(true, port)
    }

    fn add(udp: bool, port: u16) -> OwnPort {
        *PORTS.lock().unwrap_or_else(PoisonError::into_inner).entry((udp, port)).or_default() += 1;
        OwnPort(udp, port)
    }

    /// Whether this process listens on it over TCP.
    pub fn is_one(port: u16) -> bool {
        PORTS.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&(false, port))
    }

    /// Whether it does over UDP.
    pub fn is_one_udp(port: u16) -> bool {
        PORTS.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&(true, port))
    }
}

impl Drop for OwnPort {
    fn drop(&mut self) {
        let mut ports = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = ports.get_mut(&(self.0, self.1)) {
            *count -= 1;
            if *count == 0 {
                ports.remove(&(self.0, self.1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_kept_from_ports_that_trust_this_machine() {
        let kept = |text: &str| is_within(text.parse().unwrap(), &[2380]);
        for itself in
            ["127.0.0.1:2380", "127.9.9.9:2380", "0.0.0.0:2380", "[::1]:2380", "[::]:2380", "[::ffff:127.0.0.1]:2380"]
        {
            assert!(kept(itself), "{itself}");
        }
        // From elsewhere nobody is believed for where he is.
        for other in ["127.0.0.1:2381", "192.0.2.1:2380", "[2001:db8::1]:2380"] {
            assert!(!kept(other), "{other}");
        }
    }

    #[test]
    fn a_port_is_ours_until_its_last_listener_is_gone() {
        // Nobody can listen on it.
        let (first, second) = (OwnPort::note(0), OwnPort::note(0));
        drop(first);
        assert!(OwnPort::is_one(0));
        assert!(!OwnPort::is_one_udp(0));
        drop(second);
        assert!(!OwnPort::is_one(0));
        let _udp = OwnPort::note_udp(0);
        assert!(OwnPort::is_one_udp(0) && !OwnPort::is_one(0));
    }
}
