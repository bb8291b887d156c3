//! Cookies that only this gateway can read and write: AES-256-GCM under a key made of the client's secret.
//!
//! The name of a cookie is authenticated with it, so that none stands in for another. One that finds no room in a cookie of 4 KiB, the most
//! browsers keep, is cut into parts.

use crate::validator::key_auth::without_cookie;
use crate::validator::token::cookie;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proto_http::Headers;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Text in one cookie, in bytes; names and attributes come beside it.
const PART_MAX: usize = 3800;

/// Parts of one session: more would find no room in a request's head.
pub(super) const PARTS_MAX: usize = 4;

pub(super) struct Sealer {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Sealer {
    pub(super) fn new(secret: &str, client: &str, place: &[&str]) -> Result<Sealer, String> {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let mut context = hmac::Context::with_key(&secret);
        for part in ["weir cookies 1", client].iter().chain(place) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let key = UnboundKey::new(&AES_256_GCM, context.sign().as_ref()).map_err(|_| "no key can be made of it")?;
        Ok(Sealer { key: LessSafeKey::new(key), random: SystemRandom::new() })
    }

    /// `None` where the machine has no random numbers.
    pub(super) fn seal(&self, name: &str, value: &impl Serialize) -> Option<String> {
        let mut bytes = serde_json::to_vec(value).ok()?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let aad = Aad::from(name.as_bytes());
        self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut bytes).ok()?;
        Some(URL_SAFE_NO_PAD.encode([&nonce[..], &bytes].concat()))
    }

    pub(super) fn open<T: DeserializeOwned>(&self, name: &str, sealed: &str) -> Option<T> {
        let mut bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self.key.open_in_place(nonce, Aad::from(name.as_bytes()), sealed).ok()?;
        serde_json::from_slice(opened).ok()
    }
}

/// The name of a part.
pub(super) fn part_name(name: &str, part: usize) -> String {
    if part == 0 { name.to_owned() } else { format!("{name}-{part}") }
}

/// The parts of a sealed text, each preceded by the number of all; `None` when there would be too many.
pub(super) fn split(sealed: &str) -> Option<Vec<String>> {
    let parts = sealed.len().div_ceil(PART_MAX);
    let cut = |n: usize| format!("{parts}.{}", &sealed[n * PART_MAX..sealed.len().min((n + 1) * PART_MAX)]);
    (1..=PARTS_MAX).contains(&parts).then(|| (0..parts).map(cut).collect())
}

/// The sealed text that the parts are of.
pub(super) fn joined(headers: &Headers, name: &str) -> Option<String> {
    let (parts, first) = cookie(headers, name)?.split_once('.')?;
    let parts: usize = parts.parse().ok().filter(|parts| (1..=PARTS_MAX).contains(parts))?;
    let mut sealed = first.to_owned();
    for n in 1..parts {
        let (_, part) = cookie(headers, &part_name(name, n))?.split_once('.')?;
        sealed.push_str(part);
    }
    Some(sealed)
}

/// Takes our cookies out of a request: they are nobody else's.
pub(super) fn withhold(headers: &mut Headers, name: &str) {
    without_cookie(headers, |cookie| {
        let rest = cookie.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sealed_is_opened() {
        let sealer = Sealer::new("secret", "client", &["https://h/cb", "https://idp"]).unwrap();
        let sealed = sealer.seal("a", &vec![1, 2, 3]).unwrap();
        assert_eq!(sealer.open::<Vec<u8>>("a", &sealed), Some(vec![1, 2, 3]));
        assert_ne!(sealer.seal("a", &vec![1, 2, 3]).unwrap(), sealed);
        assert_eq!(sealer.open::<Vec<u8>>("b", &sealed), None, "another cookie");
        let place = ["https://h/cb", "https://idp"];
        for other in [
            ("Secret", "client", place),
            ("secret", "other", place),
            ("secret", "client", ["https://h/cb", "https://other"]),
        ] {
            let other = Sealer::new(other.0, other.1, &other.2).unwrap();
            assert_eq!(other.open::<Vec<u8>>("a", &sealed), None);
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(sealer.open::<Vec<u8>>("a", &String::from_utf8(changed).unwrap()), None, "byte {at}");
        }
        for short in ["", "AAAA", "!"] {
            assert_eq!(sealer.open::<Vec<u8>>("a", short), None);
        }
    }

    #[test]
    fn long_ones_are_cut_and_joined() {
        for length in [1, PART_MAX, PART_MAX + 1, PART_MAX * PARTS_MAX] {
            let sealed = "x".repeat(length);
            let parts = split(&sealed).unwrap();
            let mut headers = Headers::new();
            for (n, part) in parts.iter().enumerate().rev() {
                headers.add("Cookie", format!("a=b; {}={part}", part_name("s", n)));
            }
            assert_eq!(joined(&headers, "s").as_deref(), Some(&*sealed));
            withhold(&mut headers, "s");
            assert!(headers.values("Cookie").all(|line| line == b"a=b"));
        }
        assert_eq!(split(&"x".repeat(PART_MAX * PARTS_MAX + 1)), None);
        assert_eq!(split(""), None);
    }
}
