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

/// Keys made ready for the cookies of one room: its name and its sale are signed first in all of them, and that is done once.
#[derive(Clone, Default)]
pub struct RoomKeys {
    keys: Vec<([u8; 4], hmac::Context)>,
    current: usize,
}

impl RoomKeys {
    pub fn new(keys: &Keys, room: &str, sale: &str) -> RoomKeys {
        let ready = |(name, key): &([u8; 4], hmac::Key)| {
            let mut begun = hmac::Context::with_key(key);
            for part in [room, sale] {
                begun.update(&(part.len() as u32).to_be_bytes());
                begun.update(part.as_bytes());
            }
            (*name, begun)
        };
        RoomKeys { keys: keys.keys.iter().map(ready).collect(), current: keys.current }
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The cookie's value. `bound_to` is the text of the client's address where a pass is bound to it, else empty. `None` without a key.
    pub fn seal(&self, bound_to: &str, carried: &Carried) -> Option<[u8; TEXT]> {
        let (name, begun) = self.keys.get(self.current)?;
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
        let signature = signature(begun, bound_to, bytes.first_chunk()?);
        bytes[SIGNED..].copy_from_slice(&signature.as_ref()[..LENGTH - SIGNED]);
        let mut text = [0; TEXT];
        URL_SAFE_NO_PAD.encode_slice(bytes, &mut text).ok()?;
        Some(text)
    }

    /// Reads a cookie that was sealed for this room. Whether it has expired is for [`fresh`] to say.
    pub fn open(&self, bound_to: &str, text: &[u8]) -> Result<Carried, Rejected> {
        let mut bytes = [0; LENGTH];
        if text.len() != TEXT || URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) != Ok(LENGTH) {
            return Err(Rejected::Shape);
        }
        let (_, begun) = self.keys.iter().find(|(name, _)| *name == bytes[1..5]).ok_or(Rejected::UnknownKey)?;
        let (said, tag) = bytes.split_first_chunk().ok_or(Rejected::Shape)?;
        if !same(&signature(begun, bound_to, said).as_ref()[..LENGTH - SIGNED], tag) {
            return Err(Rejected::Forged);
        }
        let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        let (id, issued_ms) = (number(5), number(13));
        let bucket = u32::from_be_bytes(std::array::from_fn(|byte| bytes[29 + byte]));
        match bytes[0] {
            TICKET => {
                Ok(Carried::Ticket(Ticket { id, bucket, counted: bytes[33] != 0, issued_ms, told_s: number(21) }))
            }
            PASS => Ok(Carried::Pass(Pass { id, number: number(21), bucket, issued_ms })),
            _ => Err(Rejected::Shape),
        }
    }
}

/// Seconds a cookie may be from the future: two members' clocks may each be two seconds off.
pub const SKEW_MS: u64 = 5_000;

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

fn signature(begun: &hmac::Context, bound_to: &str, bytes: &[u8; SIGNED]) -> hmac::Tag {
    let mut context = begun.clone();
    // Its length and the bytes behind it, which follow at once where nothing is bound.
    let mut last = [0; 4 + SIGNED];
    last[4..].copy_from_slice(bytes);
    if bound_to.is_empty() {
        context.update(&last);
    } else {
        context.update(&(bound_to.len() as u32).to_be_bytes());
        context.update(bound_to.as_bytes());
        context.update(bytes);
    }
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

    /// Of a room.
    fn ready(secrets: &[u8], current: usize) -> RoomKeys {
        RoomKeys::new(&keys(secrets, current), "shop/room", "")
    }

    fn keys(secrets: &[u8], current: usize) -> Keys {
        let secrets: Vec<_> = secrets.iter().map(|n| ([*n; 16], [*n; 32])).collect();
        Keys::of(secrets.iter().map(|(name, secret)| (name, secret)), current)
    }

    fn ticket() -> Carried {
        Carried::Ticket(Ticket { id: 7, bucket: 3, counted: true, issued_ms: 1_000, told_s: 9 })
    }

    #[test]
    fn keys_rotate_and_old_cookies_go_on() {
        let text = ready(&[1, 2], 1).seal("", &ticket()).unwrap();
        assert_eq!(text.len(), TEXT);
        assert_eq!(ready(&[2, 3], 1).open("", &text), Ok(ticket()), "it is the previous key now");
        assert_eq!(ready(&[3, 4], 1).open("", &text), Err(Rejected::UnknownKey));
        assert_eq!(ready(&[], 0).seal("", &ticket()), None);
    }

    /// As edges of other versions sign them: whoever was let in there is so here.
    #[test]
    fn cookies_are_signed_as_they_always_have_been() {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[5; 32]), LABEL);
        let key = hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref());
        for (sale, bound_to) in
            [("", ""), ("second", ""), ("", "192.0.2.1"), ("a sale with a long name", "2001:db8::1")]
        {
            let keys = RoomKeys::new(&keys(&[5], 0), "shop/room", sale);
            let bytes = URL_SAFE_NO_PAD.decode(keys.seal(bound_to, &ticket()).unwrap()).unwrap();
            let mut whole = Vec::new();
            for part in ["shop/room", sale, bound_to] {
                whole.extend_from_slice(&(part.len() as u32).to_be_bytes());
                whole.extend_from_slice(part.as_bytes());
            }
            whole.extend_from_slice(&bytes[..34]);
            assert_eq!(bytes[34..], hmac::sign(&key, &whole).as_ref()[..16], "{sale} {bound_to}");
        }
    }

    #[test]
    fn a_cookie_is_good_in_its_own_room_alone() {
        let text = ready(&[1], 0).seal("", &ticket()).unwrap();
        for (room, sale, bound_to) in
            [("shop/other", "", ""), ("shop/room", "second", ""), ("shop/room", "", "192.0.2.1"), ("shop/roo", "m", "")]
        {
            let other = RoomKeys::new(&keys(&[1], 0), room, sale);
            assert_eq!(other.open(bound_to, &text), Err(Rejected::Forged), "{room} {sale} {bound_to}");
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
            let keys = ready(&[9], 0);
            let ticket = Carried::Ticket(Ticket { id, bucket, counted, issued_ms, told_s });
            for carried in [ticket, Carried::Pass(Pass { id, number, bucket, issued_ms })] {
                let text = keys.seal("", &carried).unwrap();
                prop_assert_eq!(keys.open("", &text), Ok(carried));
            }
        }

        #[test]
        fn no_changed_cookie_is_taken(at in 0..TEXT, to in any::<u8>()) {
            let keys = ready(&[9], 0);
            let mut text = keys.seal("", &ticket()).unwrap();
            prop_assume!(text[at] != to);
            text[at] = to;
            prop_assert!(keys.open("", &text).is_err());
        }

        #[test]
        fn no_bytes_are_too_strange(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(ready(&[9], 0).open("", &text).is_err());
        }

        #[test]
        fn who_comes_later_is_never_before(one in 0u64..1_000_000, other in 0u64..1_000_000) {
            prop_assert!((one > other) || bucket_of(one) <= bucket_of(other));
        }
    }
}
