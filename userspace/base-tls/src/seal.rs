//! What lies in the cluster's state, in its log, in backups and on disks, and is nobody's to read there: encrypted with a key that none
//! of these holds.
//!
//! Each sealed text names its key and is bound to its place, so that it opens there and nowhere else. A machine has one [`Keyring`]: the
//! first key seals, all of them open, so that a key is replaced without a gap.

use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A key of the cluster.
pub struct SealKey {
    id: String,
    key: LessSafeKey,
    bytes: [u8; KEY_BYTES],
}

/// The keys of this machine. Clones of the `Arc` are handles of the same.
#[derive(Default)]
pub struct Keyring(RwLock<Vec<Arc<SealKey>>>);

/// Why something does not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sealed {
    /// With a key that this machine does not have.
    Unknown(String),
    /// It was changed, or lay in another place.
    Damaged,
}

impl SealKey {
    /// `None`: the machine has no random numbers.
    pub fn draw() -> Option<SealKey> {
        let mut bytes = [0; KEY_BYTES];
        rand::fill(&mut bytes).ok()?;
        SealKey::of(bytes)
    }

    /// As [`text`](SealKey::text) gives it.
    pub fn read(text: &str) -> Option<SealKey> {
        SealKey::of(STANDARD.decode(text.trim()).ok()?.try_into().ok()?)
    }

    /// For a file, or another machine.
    pub fn text(&self) -> String {
        STANDARD.encode(self.bytes)
    }

    /// What sealed texts name it by; says nothing of the key.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Of bytes that nobody can guess.
    pub fn of(bytes: [u8; KEY_BYTES]) -> Option<SealKey> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes).ok()?);
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"weir seal id");
        context.update(&bytes);
        let id = context.finish().as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Some(SealKey { id, key, bytes })
    }

    fn close(&self, place: &str, plain: &[u8]) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let once = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(once, Aad::from(place.as_bytes()), &mut sealed).ok()?;
        Some(format!("{}:{}", self.id, STANDARD.encode([nonce.as_slice(), &sealed].concat())))
    }

    fn open(&self, place: &str, text: &str) -> Option<Vec<u8>> {
        let bytes = STANDARD.decode(text).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = self.key.open_in_place(nonce, Aad::from(place.as_bytes()), &mut sealed).ok()?;
        Some(plain.to_vec())
    }
}

/// The key is in no debug text.
impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Keyring {
    /// That of this process.
    pub fn here() -> &'static Keyring {
        static HERE: OnceLock<Keyring> = OnceLock::new();
        HERE.get_or_init(Keyring::default)
    }

    /// These and no others, the one that seals first.
    pub fn set(&self, keys: Vec<SealKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys.into_iter().map(Arc::new).collect();
    }

    pub fn keys(&self) -> Vec<Arc<SealKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The key that seals.
    pub fn current(&self) -> Option<Arc<SealKey>> {
        self.keys().first().cloned()
    }

    pub fn has(&self, id: &str) -> bool {
        self.keys().iter().any(|key| key.id == id)
    }

    /// `place` is where it is going to lie. `None` without a key.
    pub fn close(&self, place: &str, plain: &[u8]) -> Option<String> {
        self.current()?.close(place, plain)
    }

    pub fn open(&self, place: &str, sealed: &str) -> Result<Vec<u8>, Sealed> {
        let (id, text) = sealed.split_once(':').ok_or(Sealed::Damaged)?;
        let keys = self.keys();
        let key = keys.iter().find(|key| key.id == id).ok_or_else(|| Sealed::Unknown(id.to_owned()))?;
        key.open(place, text).ok_or(Sealed::Damaged)
    }

    /// Sealed with the key that seals now.
    pub fn is_current(&self, sealed: &str) -> bool {
        self.current().is_some_and(|key| sealed.split_once(':').is_some_and(|(id, _)| id == key.id))
    }
}

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sealed::Unknown(id) => {
                write!(f, "it is sealed with key {id} of the cluster, which this machine does not have yet")
            }
            Sealed::Damaged => f.write_str("what is sealed there was changed, or lay in another place"),
        }
    }
}

const KEY_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_its_key_and_in_its_place_alone() {
        let ring = Keyring::default();
        assert_eq!(ring.close("a", b"plain"), None);
        ring.set(vec![SealKey::draw().unwrap()]);
        let sealed = ring.close("a", b"plain").unwrap();
        assert!(!sealed.contains("plain") && ring.is_current(&sealed));
        assert_eq!(ring.open("a", &sealed).as_deref(), Ok(b"plain".as_slice()));
        assert_eq!(ring.open("b", &sealed), Err(Sealed::Damaged));
        assert_eq!(ring.open("a", &sealed[..sealed.len() - 4]), Err(Sealed::Damaged));
        assert_eq!(ring.open("a", "plain"), Err(Sealed::Damaged));
        assert_ne!(ring.close("a", b"plain").unwrap(), sealed, "twice the same looks different");

        // Another key, and then both.
        let first = SealKey::read(&ring.current().unwrap().text()).unwrap();
        ring.set(vec![SealKey::of([7; 32]).unwrap()]);
        assert_eq!(ring.open("a", &sealed), Err(Sealed::Unknown(first.id().to_owned())));
        ring.set(vec![SealKey::of([7; 32]).unwrap(), first]);
        assert_eq!(ring.open("a", &sealed).as_deref(), Ok(b"plain".as_slice()));
        assert!(!ring.is_current(&sealed));
        assert_eq!(SealKey::of([7; 32]).unwrap().id(), SealKey::of([7; 32]).unwrap().id());
        assert!(!format!("{:?}", ring.current()).contains(&ring.current().unwrap().text()));
    }
}
