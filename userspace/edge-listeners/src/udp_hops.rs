//! Datagrams that go round: two relays on one machine that are each other's servers would pass one of them on for ever.
//!
//! What a relay sends to an address of its own machine may be taken by another relay, or by itself. Each session with such a server says
//! how many relays its datagrams have passed; beyond [`HOPS_MOST`] none begins.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Relays of this machine that a datagram may pass one after another.
const HOPS_MOST: u8 = 4;

/// By the addresses that sessions send from.
static PASSED: Mutex<BTreeMap<SocketAddr, u8>> = Mutex::new(BTreeMap::new());

/// The place of one session in the list, until it is dropped.
#[derive(Debug)]
pub struct Hop(SocketAddr);

/// How many relays have passed what comes from here on; `None`: too many.
pub fn passed(client: SocketAddr) -> Option<u8> {
    let before = passages().get(&client).map_or(0, |hops| hops + 1);
    (before <= HOPS_MOST).then_some(before)
}

impl Hop {
    /// Of a session that sends from `own` to `server`, if that is on this machine.
    pub fn of(own: SocketAddr, server: SocketAddr, hops: u8) -> Option<Hop> {
        let here = own.ip().to_canonical() == server.ip().to_canonical() || server.ip().to_canonical().is_loopback();
        here.then(|| {
            passages().insert(own, hops);
            Hop(own)
        })
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        passages().remove(&self.0);
    }
}

fn passages() -> MutexGuard<'static, BTreeMap<SocketAddr, u8>> {
    PASSED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_passed_too_many_relays_goes_no_further() {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let mut kept = Vec::new();
        for port in 1..=HOPS_MOST + 1 {
            let hops = passed(at(u16::from(port) - 1)).unwrap();
            assert_eq!(hops, port - 1);
            kept.push(Hop::of(at(port.into()), at(53), hops).unwrap());
        }
        assert_eq!(passed(at(u16::from(HOPS_MOST) + 1)), None);
        assert_eq!(passed(at(9999)), Some(0), "a client of its own");
        assert!(Hop::of(SocketAddr::from(([192, 0, 2, 1], 1)), SocketAddr::from(([192, 0, 2, 2], 53)), 0).is_none());
        kept.clear();
        assert_eq!(passed(at(u16::from(HOPS_MOST) + 1)), Some(0));
    }
}
