//! Handshakes under way on one worker: how many there may be, and how many of one address.

use base_runtime::net::site_of;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

/// See the module doc.
#[derive(Default)]
pub(crate) struct Handshakes {
    all: Cell<usize>,
    /// By site; who has none takes no room.
    of_site: RefCell<HashMap<IpAddr, usize>>,
}

/// One of them, until it is dropped.
pub(crate) struct Handshake {
    handshakes: Rc<Handshakes>,
    site: IpAddr,
}

impl Handshakes {
    pub(crate) fn len(&self) -> usize {
        self.all.get()
    }

    /// One more, where there is room for it. An address may have a part of what the others leave free, so that however many addresses
    /// begin handshakes as fast as they can, something is free for one more.
    pub(crate) fn begin(self: &Rc<Self>, remote: IpAddr) -> Option<Handshake> {
        let (site, free) = (site_of(remote), MOST.saturating_sub(self.len()));
        let mut of_site = self.of_site.borrow_mut();
        let own = of_site.get(&site).copied().unwrap_or(0);
        if own >= free.div_ceil(SHARE) {
            return None;
        }
        of_site.insert(site, own + 1);
        self.all.set(self.len() + 1);
        Some(Handshake { handshakes: self.clone(), site })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let handshakes = &self.handshakes;
        handshakes.all.set(handshakes.len() - 1);
        let mut of_site = handshakes.of_site.borrow_mut();
        match of_site.get_mut(&self.site) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(of_site.remove(&self.site)),
        }
    }
}

/// Handshakes a worker has under way, at most. Each holds rustls's machine, some 30 KiB.
const MOST: usize = 512;

/// An address has at most what is free divided by this: alone a fifth of all, a hundred of them together all but one in twenty-five.
const SHARE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_begin_somebody_else_can() {
        for attackers in [1u32, 2, 10, 100, 400] {
            let handshakes = Rc::new(Handshakes::default());
            let mut held = Vec::new();
            for _ in 0..MOST {
                held.extend((0..attackers).filter_map(|n| handshakes.begin(IpAddr::from(n.to_be_bytes()))));
            }
            assert!(held.len() == handshakes.len() && held.len() <= MOST);
            assert!(attackers > 1 || held.len() > MOST / 6, "{} of one address", held.len());
            let somebody = handshakes.begin("2001:db8::1".parse().unwrap());
            assert!(somebody.is_some(), "{attackers} hold {}", held.len());
            assert!(handshakes.begin("2001:db8::2".parse().unwrap()).is_none() || attackers < 400, "one site");
            drop((held, somebody));
            assert!(handshakes.len() == 0 && handshakes.of_site.borrow().is_empty());
        }
    }
}
