//! Keys that session tickets are encrypted with: shared by all workers and, through the control plane, by all machines.
//!
//! A ticket is the key's name, a nonce, and under AES-256-GCM the moment of its making and rustls' session. What the session was
//! begun under goes in as additional data, so that a ticket is of no use elsewhere (see `server::policy`).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use rustls::server::ProducesTickets;

/// One key.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey {
    /// Goes with each ticket in the clear.
    pub name: [u8; 16],
    pub secret: [u8; 32],
}

impl TicketKey {
    /// A fresh random key.
    pub fn generate() -> TicketKey {
        let mut key = TicketKey { name: [0; 16], secret: [0; 32] };
        fill_random(&mut key.name);
        fill_random(&mut key.secret);
        key
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The keys in force; a cheap handle, and what is installed through one shows in all.
#[derive(Clone)]
pub struct TicketKeys(Arc<Inner>);

struct Inner {
    ring: ArcSwap<Ring>,
    /// Held while the ring is replaced.
    replacing: Mutex<()>,
}

struct Ring {
    keys: Vec<(TicketKey, LessSafeKey)>,
    current: usize,
    /// When the current key was made; `None`: somebody else decides when to replace it.
    made: Option<Instant>,
}

/// How long a ticket is good for, and how long a key of our own makes tickets. Forward secrecy of a resumed session's predecessor
/// hangs on the key for twice as long.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// What clocks of two machines may be apart.
const CLOCK_SKEW: u64 = 300;

impl TicketKeys {
    /// Fresh random keys of this process, in use until others are installed; they rotate by themselves every 12 hours.
    pub fn generate() -> TicketKeys {
        let ring = Ring::new(vec![TicketKey::generate()], 0, Some(Instant::now()));
        TicketKeys(Arc::new(Inner { ring: ArcSwap::from_pointee(ring), replacing: Mutex::new(()) }))
    }

    /// Puts these keys in force: new tickets are made with `keys[current]`, tickets of all of them are taken. They stay until the
    /// next `install`. Without any key no ticket is made or taken.
    pub fn install(&self, keys: Vec<TicketKey>, current: usize) {
        let _replacing = self.0.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.ring.store(Arc::new(Ring::new(keys, current, None)));
    }

    /// A secret for something else that all who have these keys agree on, as long as the current one stays; `None` without keys.
    pub fn derive(&self, purpose: &[u8]) -> Option<[u8; 32]> {
        let ring = self.0.ring.load();
        let (key, _) = ring.keys.get(ring.current)?;
        let signing = hmac::Key::new(hmac::HMAC_SHA256, &key.secret);
        let mut derived = [0; 32];
        derived.copy_from_slice(hmac::sign(&signing, purpose).as_ref());
        Some(derived)
    }

    /// Replaces a key of our own that has served its time.
    fn rotate(&self, now: Instant) {
        let is_due = |ring: &Ring| ring.made.is_some_and(|made| now.saturating_duration_since(made) >= LIFETIME);
        if !is_due(&self.0.ring.load()) {
            return;
        }
        let _replacing = self.0.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = self.0.ring.load();
        if !is_due(&ring) {
            return;
        }
        let mut keys = vec![TicketKey::generate()];
        // The previous one goes on taking tickets, unless all it made have expired.
        if ring.made.is_some_and(|made| now.saturating_duration_since(made) < 2 * LIFETIME) {
            keys.extend(ring.keys.get(ring.current).map(|(key, _)| key.clone()));
        }
        self.0.ring.store(Arc::new(Ring::new(keys, 0, Some(now))));
    }
}

impl Ring {
    fn new(keys: Vec<TicketKey>, current: usize, made: Option<Instant>) -> Ring {
        let keys = keys.into_iter().map(|key| {
            let unbound = UnboundKey::new(&AES_256_GCM, &key.secret).expect("a key of this algorithm has 32 bytes");
            (key, LessSafeKey::new(unbound))
        });
        Ring { keys: keys.collect(), current, made }
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").field("keys", &self.0.ring.load().keys.len()).finish_non_exhaustive()
    }
}

/// Makes and takes the tickets of one certificate under one policy.
#[derive(Debug)]
pub(crate) struct Ticketer {
    keys: TicketKeys,
    policy: [u8; 32],
}

impl Ticketer {
    pub fn new(keys: TicketKeys, policy: [u8; 32]) -> Ticketer {
        Ticketer { keys, policy }
    }

    fn encrypt_at(&self, plain: &[u8], now: Instant, time: u64) -> Option<Vec<u8>> {
        self.keys.rotate(now);
        let ring = self.keys.0.ring.load();
        let (key, aead) = ring.keys.get(ring.current)?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut body = Vec::with_capacity(TIME + plain.len() + aead.algorithm().tag_len());
        body.extend_from_slice(&time.to_be_bytes());
        body.extend_from_slice(plain);
        aead.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(self.policy), &mut body).ok()?;
        Some([&key.name[..], &nonce[..], &body[..]].concat())
    }

    fn decrypt_at(&self, ticket: &[u8], now: Instant, time: u64) -> Option<Vec<u8>> {
        self.keys.rotate(now);
        let (name, rest) = ticket.split_first_chunk::<16>()?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>()?;
        let ring = self.keys.0.ring.load();
        let (_, aead) = ring.keys.iter().find(|(key, _)| key.name == *name)?;
        let mut body = body.to_vec();
        let plain = aead.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(self.policy), &mut body).ok()?;
        let (made, session) = plain.split_first_chunk::<TIME>()?;
        let made = u64::from_be_bytes(*made);
        let fresh = made <= time + CLOCK_SKEW && time.saturating_sub(made) < LIFETIME.as_secs();
        fresh.then(|| session.to_vec())
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        !self.keys.0.ring.load().keys.is_empty()
    }

    fn lifetime(&self) -> u32 {
        LIFETIME.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_at(plain, Instant::now(), unix_time())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_at(ticket, Instant::now(), unix_time())
    }
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn fill_random(bytes: &mut [u8]) {
    rand::fill(bytes).expect("the operating system gives random bytes");
}

/// Bytes of the moment of making, seconds since 1970.
const TIME: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    struct Clock {
        start: Instant,
    }

    impl Clock {
        fn make(&self, ticketer: &Ticketer, hours: u64) -> Vec<u8> {
            let time = hours * HOUR;
            ticketer.encrypt_at(b"session", self.start + Duration::from_secs(time), 1_000_000 + time).expect("a ticket")
        }

        fn takes(&self, ticketer: &Ticketer, ticket: &[u8], hours: u64) -> bool {
            let time = hours * HOUR;
            let taken = ticketer.decrypt_at(ticket, self.start + Duration::from_secs(time), 1_000_000 + time);
            assert!(taken.as_deref().is_none_or(|session| session == b"session"));
            taken.is_some()
        }
    }

    fn fixture() -> (Clock, TicketKeys, Ticketer) {
        let keys = TicketKeys::generate();
        // Later than the keys' own clock, so that their first 12 hours have begun.
        (Clock { start: Instant::now() }, keys.clone(), Ticketer::new(keys, [1; 32]))
    }

    #[test]
    fn tickets_are_good_for_twelve_hours() {
        let (clock, keys, ticketer) = fixture();
        keys.install(vec![TicketKey::generate()], 0);
        let ticket = clock.make(&ticketer, 0);
        assert!(clock.takes(&ticketer, &ticket, 0) && clock.takes(&ticketer, &ticket, 11));
        assert!(!clock.takes(&ticketer, &ticket, 12));
        let early = clock.make(&ticketer, 5);
        assert!(!clock.takes(&ticketer, &early, 4), "made in the future");
        assert_eq!(ticketer.lifetime(), 12 * 3600);
    }

    #[test]
    fn own_keys_rotate_and_the_previous_one_still_takes() {
        let (clock, keys, ticketer) = fixture();
        let names = || keys.0.ring.load().keys.iter().map(|(key, _)| key.name).collect::<Vec<_>>();
        let first = names();
        let ticket = clock.make(&ticketer, 11);
        assert_eq!(names(), first);
        assert!(clock.takes(&ticketer, &ticket, 13));
        assert_eq!((names().len(), names()[1]), (2, first[0]));
        assert!(clock.takes(&ticketer, &ticket, 22));
        let second = clock.make(&ticketer, 24);
        assert!(!clock.takes(&ticketer, &ticket, 25));
        assert!(clock.takes(&ticketer, &second, 30));
        assert!(!names().contains(&first[0]), "a key nobody needs is gone");
        // After a long sleep no old key is left.
        clock.make(&ticketer, 100);
        assert_eq!(names().len(), 1);
    }

    #[test]
    fn a_ticket_is_for_one_policy_and_not_to_be_changed() {
        let (clock, keys, ticketer) = fixture();
        let other = Ticketer::new(keys, [2; 32]);
        let ticket = clock.make(&ticketer, 0);
        assert!(clock.takes(&ticketer, &ticket, 0) && !clock.takes(&other, &ticket, 0));
        for place in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[place] ^= 1;
            assert!(!clock.takes(&ticketer, &changed, 0), "byte {place}");
            assert!(!clock.takes(&ticketer, &ticket[..place], 0), "cut at {place}");
        }
    }

    #[test]
    fn without_keys_there_are_no_tickets() {
        let (clock, keys, ticketer) = fixture();
        keys.install(Vec::new(), 0);
        assert!(!ticketer.enabled() && ticketer.encrypt_at(b"session", clock.start, 0).is_none());
        keys.install(vec![TicketKey::generate()], 7);
        assert!(ticketer.encrypt_at(b"session", clock.start, 0).is_none(), "a key that is not there makes none");
    }

    #[test]
    fn secrets_are_not_printed() {
        let key = TicketKey { name: [7; 16], secret: [201; 32] };
        assert!(!format!("{key:?}").contains("201"));
    }
}
