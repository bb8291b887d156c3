//! Sessions that may be taken up again with early data (0-RTT): each once, on the machine that has them.
//!
//! Early data can be sent again by whoever has seen it (RFC 8446 section 8). A ticket of such a session is nothing but its number: what it
//! stands for is here, goes with the first handshake that names it, and so a second one, on whichever worker, is a handshake like any
//! other. Another machine, and this one after a restart, does not know the number either.

use crate::stats::{self, Count};
use base_runtime::memory::{Kind, SharedBooking};
use rustls::server::{ProducesTickets, StoresServerSessions};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// See the module doc.
#[derive(Default)]
pub(crate) struct Once {
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    by_number: HashMap<Vec<u8>, Session>,
    /// Numbers in the order they were given out.
    order: BTreeMap<u64, Vec<u8>>,
    given: u64,
}

struct Session {
    _booked: SharedBooking,
    place: u64,
    since: Instant,
    contents: Vec<u8>,
}

/// Sessions of a listener. Beyond it the oldest is forgotten, which is counted: its client shakes hands in full. About 400 bytes each.
const SESSIONS_MOST: usize = 16 * 1024;

/// What one takes beside its number and its contents, in bytes, for the memory ledger: its places in both maps.
const SESSION_BYTES: usize = 160;

/// As tickets that are not kept here. What clients are told is rustls' own 24 hours.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);

impl Once {
    fn keep(&self, number: Vec<u8>, contents: Vec<u8>, now: Instant) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let place = sessions.given;
        sessions.given += 1;
        sessions.order.insert(place, number.clone());
        let _booked = SharedBooking::new(Kind::Other, SESSION_BYTES + contents.len() + 2 * number.len());
        let before = sessions.by_number.insert(number, Session { _booked, place, since: now, contents });
        if let Some(before) = before {
            sessions.order.remove(&before.place);
        }
        sessions.forget_old(now);
        if sessions.by_number.len() > SESSIONS_MOST
            && let Some((_, oldest)) = sessions.order.pop_first()
        {
            sessions.by_number.remove(&oldest);
            stats::count(Count::EarlySessionsForgotten);
        }
    }

    fn once(&self, number: &[u8], now: Instant) -> Option<Vec<u8>> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let session = sessions.by_number.remove(number)?;
        sessions.order.remove(&session.place);
        (now.saturating_duration_since(session.since) < LIFETIME).then_some(session.contents)
    }
}

impl Sessions {
    /// Those that nobody may take up any more.
    fn forget_old(&mut self, now: Instant) {
        while let Some(first) = self.order.first_entry()
            && self.by_number.get(first.get()).is_none_or(|old| now.saturating_duration_since(old.since) >= LIFETIME)
        {
            self.by_number.remove(&first.remove());
        }
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Once")
    }
}

impl StoresServerSessions for Once {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.keep(key, value, Instant::now());
        true
    }

    fn get(&self, _: &[u8]) -> Option<Vec<u8>> {
        // What TLS 1.2 would ask: a session stays.
        None
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.once(key, Instant::now())
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// Tickets that hold a session themselves could be used any number of times.
#[derive(Debug)]
pub(crate) struct NoTickets;

impl ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: usize) -> Vec<u8> {
        n.to_be_bytes().to_vec()
    }

    #[test]
    fn a_session_is_taken_up_once_and_not_for_ever() {
        let (once, now) = (Once::default(), Instant::now());
        once.keep(number(1), b"one".to_vec(), now);
        once.keep(number(2), b"two".to_vec(), now);
        assert_eq!(once.once(&number(1), now).as_deref(), Some(&b"one"[..]));
        assert_eq!(once.once(&number(1), now), None);
        assert_eq!(once.once(&number(2), now + LIFETIME), None, "it is too old");
        assert_eq!(once.sessions.lock().unwrap().order.len(), 0);
        // What nobody takes up goes when others come.
        once.keep(number(3), Vec::new(), now);
        once.keep(number(4), Vec::new(), now + LIFETIME);
        assert_eq!(once.sessions.lock().unwrap().by_number.len(), 1);
    }

    #[test]
    fn the_oldest_are_forgotten_and_counted() {
        let (once, now, before) = (Once::default(), Instant::now(), stats::total(Count::EarlySessionsForgotten));
        (0..SESSIONS_MOST + 10).for_each(|n| once.keep(number(n), Vec::new(), now));
        assert!(stats::total(Count::EarlySessionsForgotten) >= before + 10);
        assert_eq!((once.once(&number(9), now), once.once(&number(10), now)), (None, Some(Vec::new())));
        let sessions = once.sessions.lock().unwrap();
        assert_eq!((sessions.by_number.len(), sessions.order.len()), (SESSIONS_MOST - 1, SESSIONS_MOST - 1));
    }
}
