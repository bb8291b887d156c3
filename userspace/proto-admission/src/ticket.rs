//! What a client carries: a ticket while it waits, a pass when it has been let in. Both are cookies that the cluster has signed.
//!
//! ```text
//! byte  0      1..5       5..13  13..21        21..29         29..33  33     34..50
//!       kind   key        id     issued, ms    ticket: told   place   flags  HMAC-SHA-256, its first half
//!                                              pass: number
//! ```
//! as base64url without padding. The room's name, its sale and, where a pass is bound to it, the client's address are signed and not
//! written down: a cookie of another room has a wrong signature.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

/// Keys that cookies are signed with: those of all members at a time, one of which makes new ones.
#[derive(Clone, Default)]
pub struct Keys {
    keys: Vec<([u8; 4], hmac::Key)>,
    current: usize,
}

impl Keys {
    /// From the secrets that a cluster hands out to its members and changes now and then; the oldest first. None of those secrets can
    /// be told from a cookie: each is used only to derive a key.
    pub fn of<'s>(secrets: impl IntoIterator<Item = (&'s [u8; 16], &'s [u8; 32])>, current: usize) -> Keys {
        let key = |(name, secret): (&[u8; 16], &[u8; 32])| {
            let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), LABEL);
            let key = hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref());
            ([name[0], name[1], name[2], name[3]], key)
        };
        Keys { keys: secrets.into_iter().map(key).collect(), current }
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Drawn at random, or, where places are given by key, following from that: whoever comes twice has one id.
    pub id: u64,
    /// When the client came, as the queue counts: see [`bucket_of`]. Lower ones are served first; within one the id decides.
    pub bucket: u32,
    /// It has come back once, so that its place counts.
    pub counted: bool,
    /// When this cookie was made, in milliseconds since 1970.
    pub issued_ms: u64,
    /// When the client was told its turn would come, in seconds since 1970; 0 when it was told nothing.
    pub told_s: u64,
}

/// Somebody who has been let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    pub id: u64,
    /// Numbers are given from 1, each once.
    pub number: u64,
    /// Of the ticket that it was given for.
    pub bucket: u32,
    /// When it was given, in milliseconds since 1970.
    pub issued_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    Ticket(Ticket),
    Pass(Pass),
}

/// Why a cookie counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// It is none of ours.
    Shape,
    /// Signed with a key that is not in force any more, or not yet here.
    UnknownKey,
    /// Not what was signed, or for another room or address.
    Forged,
    /// Older than it may be.
    Expired,
    /// From a time that no member's clock has reached.
    Future,
}

impl Rejected {
    /// As metrics name it.
    pub fn label(self) -> &'static str {
        match self {
            Rejected::Shape => "shape",
            Rejected::UnknownKey => "unknown_key",
            Rejected::Forged => "forged",
            Rejected::Expired => "expired",
            Rejected::Future => "future",
        }
    }
}

/// What cookies are signed for beside their own bytes.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'s> {
    pub room: &'s str,
    pub sale: &'s str,
    /// Text of the client's address, where a pass is bound to it; else empty.
    pub bound_to: &'s str,
}

/// Seconds a cookie may be from the future: two members' clocks may each be two seconds off.
pub const SKEW_MS: u64 = 5_000;

/// The cookie's value. `None` without a key.
pub fn seal(keys: &Keys, scope: &Scope<'_>, carried: &Carried) -> Option<[u8; TEXT]> {
    let (name, key) = keys.keys.get(keys.current)?;
    let mut bytes = [0; LENGTH];
    bytes[1..5].copy_from_slice(name);
    match carried {
        Carried::Ticket(ticket) => {
            bytes[0] = TICKET;
            bytes[5..13].copy_from_slice(&ticket.id.to_be_bytes());
            bytes[13..21].copy_from_slice(&ticket.issued_ms.to_be_bytes());
            bytes[21..29].copy_from_slice(&ticket.told_s.to_be_bytes());
            bytes[29..33].copy_from_slice(&ticket.bucket.to_be_bytes());
            bytes[33] = u8::from(ticket.counted);
        }
        Carried::Pass(pass) => {
            bytes[0] = PASS;
            bytes[5..13].copy_from_slice(&pass.id.to_be_bytes());
            bytes[13..21].copy_from_slice(&pass.issued_ms.to_be_bytes());
            bytes[21..29].copy_from_slice(&pass.number.to_be_bytes());
            bytes[29..33].copy_from_slice(&pass.bucket.to_be_bytes());
        }
    }
    let signature = signature(key, scope, &bytes[..SIGNED]);
    bytes[SIGNED..].copy_from_slice(&signature.as_ref()[..LENGTH - SIGNED]);
    let mut text = [0; TEXT];
    URL_SAFE_NO_PAD.encode_slice(bytes, &mut text).ok()?;
    Some(text)
}

/// Reads a cookie that was sealed for this room. Whether it has expired is for [`fresh`] to say.
pub fn open(keys: &Keys, scope: &Scope<'_>, text: &[u8]) -> Result<Carried, Rejected> {
    let mut bytes = [0; LENGTH];
    if text.len() != TEXT || URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) != Ok(LENGTH) {
        return Err(Rejected::Shape);
    }
    let (_, key) = keys.keys.iter().find(|(name, _)| *name == bytes[1..5]).ok_or(Rejected::UnknownKey)?;
    let signature = signature(key, scope, &bytes[..SIGNED]);
    if !same(&signature.as_ref()[..LENGTH - SIGNED], &bytes[SIGNED..]) {
        return Err(Rejected::Forged);
    }
    let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|byte| bytes[at + byte]));
    let (id, issued_ms) = (number(5), number(13));
    let bucket = u32::from_be_bytes(std::array::from_fn(|byte| bytes[29 + byte]));
    match bytes[0] {
        TICKET => Ok(Carried::Ticket(Ticket { id, bucket, counted: bytes[33] != 0, issued_ms, told_s: number(21) })),
        PASS => Ok(Carried::Pass(Pass { id, number: number(21), bucket, issued_ms })),
        _ => Err(Rejected::Shape),
    }
}

/// Whether something made at `issued_ms` that lasts for `lasts_ms` is good at `now_ms`.
pub fn fresh(issued_ms: u64, lasts_ms: u64, now_ms: u64) -> Result<(), Rejected> {
    if issued_ms > now_ms.saturating_add(SKEW_MS) {
        Err(Rejected::Future)
    } else if now_ms > issued_ms.saturating_add(lasts_ms).saturating_add(SKEW_MS) {
        Err(Rejected::Expired)
    } else {
        Ok(())
    }
}

/// Where in the queue somebody comes who comes `after_s` seconds after it was opened: by the second for a while, coarser later, so
/// that a day of waiting has some thousand buckets.
pub fn bucket_of(after_s: u64) -> u32 {
    let bucket = if after_s < FINE_S { after_s } else { FINE_S + (after_s - FINE_S) / COARSE_S };
    u32::try_from(bucket).unwrap_or(u32::MAX)
}

/// Ids that follow from keys: the same on every edge, and nobody can choose them. What is the same for all keys of a room is done once,
/// half of the work.
pub struct Ids {
    seed: u64,
    begun: hmac::Context,
}

impl Ids {
    pub fn new(seed: u64, room: &str) -> Ids {
        let mut begun = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &seed.to_be_bytes()));
        begun.update(room.as_bytes());
        begun.update(&[0]);
        Ids { seed, begun }
    }

    /// What they follow from beside the keys.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn of(&self, key: &[u8]) -> u64 {
        let mut context = self.begun.clone();
        context.update(key);
        let tag = context.sign();
        u64::from_be_bytes(std::array::from_fn(|byte| tag.as_ref()[byte]))
    }
}

fn signature(key: &hmac::Key, scope: &Scope<'_>, bytes: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    for part in [scope.room, scope.sale, scope.bound_to] {
        context.update(&(part.len() as u32).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.update(bytes);
    context.sign()
}

/// Without telling by the time it takes how much is the same.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
}

const TICKET: u8 = 1;
const PASS: u8 = 2;
const SIGNED: usize = 34;
const LENGTH: usize = SIGNED + 16;
/// Of the cookie, in characters.
pub const TEXT: usize = LENGTH.div_ceil(3) * 4 - 1;
const LABEL: &[u8] = b"weir: tickets of waiting rooms, 1";
const FINE_S: u64 = 1024;
const COARSE_S: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCOPE: Scope<'_> = Scope { room: "shop/room", sale: "", bound_to: "" };

    fn keys(secrets: &[u8], current: usize) -> Keys {
        let secrets: Vec<_> = secrets.iter().map(|n| ([*n; 16], [*n; 32])).collect();
        Keys::of(secrets.iter().map(|(name, secret)| (name, secret)), current)
    }

    fn ticket() -> Carried {
        Carried::Ticket(Ticket { id: 7, bucket: 3, counted: true, issued_ms: 1_000, told_s: 9 })
    }

    #[test]
    fn keys_rotate_and_old_cookies_go_on() {
        let text = seal(&keys(&[1, 2], 1), &SCOPE, &ticket()).unwrap();
        assert_eq!(text.len(), TEXT);
        assert_eq!(open(&keys(&[2, 3], 1), &SCOPE, &text), Ok(ticket()), "it is the previous key now");
        assert_eq!(open(&keys(&[3, 4], 1), &SCOPE, &text), Err(Rejected::UnknownKey));
        assert_eq!(seal(&Keys::default(), &SCOPE, &ticket()), None);
    }

    #[test]
    fn a_cookie_is_good_in_its_own_room_alone() {
        let keys = keys(&[1], 0);
        let text = seal(&keys, &SCOPE, &ticket()).unwrap();
        for scope in [
            Scope { room: "shop/other", ..SCOPE },
            Scope { sale: "second", ..SCOPE },
            Scope { bound_to: "192.0.2.1", ..SCOPE },
            Scope { room: "shop/roo", sale: "m", ..SCOPE },
        ] {
            assert_eq!(open(&keys, &scope, &text), Err(Rejected::Forged), "{scope:?}");
        }
    }

    #[test]
    fn ids_follow_from_seed_room_and_key_as_they_always_have() {
        // As edges of other versions have them: a key that had another id there would have two places.
        let whole = |seed: u64, room: &str, key: &str| {
            let secret = hmac::Key::new(hmac::HMAC_SHA256, &seed.to_be_bytes());
            let tag = hmac::sign(&secret, format!("{room}\0{key}").as_bytes());
            u64::from_be_bytes(tag.as_ref()[..8].try_into().unwrap())
        };
        let ids = Ids::new(7, "shop/room");
        for key in ["ann", "", &"long".repeat(99), "ann"] {
            assert_eq!(ids.of(key.as_bytes()), whole(7, "shop/room", key), "{key}");
        }
        let others = [Ids::new(8, "shop/room").of(b"ann"), Ids::new(7, "shop/roo").of(b"mann"), ids.of(b"ben")];
        assert!(!others.contains(&ids.of(b"ann")));
    }

    #[test]
    fn an_age_has_a_beginning_and_an_end() {
        assert_eq!(fresh(10_000, 1_000, 10_500), Ok(()));
        assert_eq!(fresh(10_000, 1_000, 8_000), Ok(()), "its edge's clock is ahead");
        assert_eq!(fresh(10_000, 1_000, 4_000), Err(Rejected::Future));
        assert_eq!(fresh(10_000, 1_000, 15_999), Ok(()), "ours is ahead");
        assert_eq!(fresh(10_000, 1_000, 16_001), Err(Rejected::Expired));
        assert_eq!(fresh(u64::MAX, 1, 0), Err(Rejected::Future));
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_opened(id: u64, bucket: u32, counted: bool, issued_ms: u64, told_s: u64, number: u64) {
            let keys = keys(&[9], 0);
            let ticket = Carried::Ticket(Ticket { id, bucket, counted, issued_ms, told_s });
            for carried in [ticket, Carried::Pass(Pass { id, number, bucket, issued_ms })] {
                let text = seal(&keys, &SCOPE, &carried).unwrap();
                prop_assert_eq!(open(&keys, &SCOPE, &text), Ok(carried));
            }
        }

        #[test]
        fn no_changed_cookie_is_taken(at in 0..TEXT, to in any::<u8>()) {
            let keys = keys(&[9], 0);
            let mut text = seal(&keys, &SCOPE, &ticket()).unwrap();
            prop_assume!(text[at] != to);
            text[at] = to;
            prop_assert!(open(&keys, &SCOPE, &text).is_err());
        }

        #[test]
        fn no_bytes_are_too_strange(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(open(&keys(&[9], 0), &SCOPE, &text).is_err());
        }

        #[test]
        fn who_comes_later_is_never_before(one in 0u64..1_000_000, other in 0u64..1_000_000) {
            prop_assert!((one > other) || bucket_of(one) <= bucket_of(other));
        }
    }
}
