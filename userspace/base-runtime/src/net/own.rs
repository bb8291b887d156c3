//! The ports this process listens on, so that nothing of it connects to itself unawares.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

static PORTS: Mutex<BTreeMap<u16, usize>> = Mutex::new(BTreeMap::new());

/// A TCP port that this process listens on, on whatever address, until it is dropped.
#[derive(Debug)]
pub struct OwnPort(u16);

impl OwnPort {
    /// Takes note of a port that was bound. Listeners of this crate do so themselves.
    pub fn note(port: u16) -> OwnPort {
        *PORTS.lock().unwrap_or_else(PoisonError::into_inner).entry(port).or_default() += 1;
        OwnPort(port)
    }

    /// Whether this process listens on it.
    pub fn is_one(port: u16) -> bool {
        PORTS.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&port)
    }
}

impl Drop for OwnPort {
    fn drop(&mut self) {
        let mut ports = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = ports.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                ports.remove(&self.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_ours_until_its_last_listener_is_gone() {
        // Nobody can listen on it.
        let (first, second) = (OwnPort::note(0), OwnPort::note(0));
        drop(first);
        assert!(OwnPort::is_one(0));
        drop(second);
        assert!(!OwnPort::is_one(0));
    }
}
