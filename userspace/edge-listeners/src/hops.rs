//! What goes round: relays on one machine that are each other's servers would pass a datagram, or a connection, on for ever.
//!
//! What a relay sends to an address of its own machine may be taken by another relay, or by itself. Each session and connection to such a
//! server says how many relays what comes over it has passed; beyond [`HOPS_MOST`] none begins.
//!
//! Only what stays on one machine is known to go round. Where relays of two machines are each other's servers, neither knows the
//! other's sessions and connections, and what goes round is bounded by how many of them each may have (`maxSessions`,
//! `maxConnections`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Relays of this machine that a datagram or a connection may pass one after another.
const HOPS_MOST: u8 = 4;

/// By the addresses that are sent from.
#[derive(Debug)]
pub struct Hops {
    passed: Mutex<BTreeMap<SocketAddr, u8>>,
    /// How many there are, which is most often none.
    count: AtomicUsize,
}

/// Of sessions of UDP, and of connections of TCP.
pub static UDP: Hops = Hops::new();
pub static TCP: Hops = Hops::new();

/// The place of one session or connection in the list, until it is dropped.
#[derive(Debug)]
pub struct Hop {
    of: &'static Hops,
    own: SocketAddr,
}

impl Hops {
    const fn new() -> Hops {
        Hops { passed: Mutex::new(BTreeMap::new()), count: AtomicUsize::new(0) }
    }

    /// How many relays have passed what comes from here on; `None`: too many.
    pub fn passed(&self, client: SocketAddr) -> Option<u8> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Some(0);
        }
        let before = self.lock().get(&canonical(client)).map_or(0, |hops| hops.saturating_add(1));
        (before <= HOPS_MOST).then_some(before)
    }

    /// Of one that sends from `own` to `server`, if that is on this machine.
    pub fn begin(&'static self, own: SocketAddr, server: SocketAddr, hops: u8) -> Option<Hop> {
        let (own, server) = (canonical(own), canonical(server));
        (own.ip() == server.ip() || server.ip().is_loopback()).then(|| {
            let mut passed = self.lock();
            passed.insert(own, hops);
            self.count.store(passed.len(), Ordering::Release);
            Hop { of: self, own }
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, u8>> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        let mut passed = self.of.lock();
        passed.remove(&self.own);
        self.of.count.store(passed.len(), Ordering::Release);
    }
}

/// A socket of both families has addresses of IPv4 within those of IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_passed_too_many_relays_goes_no_further() {
        static OURS: Hops = Hops::new();
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let mut kept = Vec::new();
        for port in 1..=HOPS_MOST + 1 {
            let hops = OURS.passed(at(u16::from(port) - 1)).unwrap();
            assert_eq!(hops, port - 1);
            kept.push(OURS.begin(at(port.into()), at(53), hops).unwrap());
        }
        let last = u16::from(HOPS_MOST) + 1;
        assert_eq!(OURS.passed(at(last)), None);
        assert_eq!(OURS.passed(format!("[::ffff:127.0.0.1]:{last}").parse().unwrap()), None);
        assert_eq!(OURS.passed(at(9999)), Some(0), "a client of its own");
        assert!(OURS.begin(SocketAddr::from(([192, 0, 2, 1], 1)), SocketAddr::from(([192, 0, 2, 2], 53)), 0).is_none());
        kept.clear();
        assert_eq!((OURS.passed(at(last)), OURS.count.load(Ordering::Relaxed)), (Some(0), 0));
    }
}
