//! The secret that the members of a cluster share, from `--cluster-secret-file`: what is signed with it comes from one of them.
//!
//! The file holds one secret a line, one or two of them. The first signs, all of them are believed, and the file is read again when
//! it changes. So a secret is replaced without a gap: add the new one as the second line on every member, then put it first on
//! every member, then take the old one out.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key};

/// Clones are handles of the same file.
#[derive(Clone)]
pub struct ClusterSecret {
    path: PathBuf,
    keys: Arc<RwLock<Keys>>,
}

struct Keys {
    /// What they were made from.
    text: Vec<u8>,
    all: Vec<Key>,
}

/// A signature, or the digest of a body, in hexadecimal digits.
pub type Digits = String;

impl ClusterSecret {
    /// What is wrong with the file is said with the flag's name.
    pub fn read(path: &Path) -> Result<ClusterSecret, String> {
        let keys = keys(path)?;
        Ok(ClusterSecret { path: path.to_owned(), keys: Arc::new(RwLock::new(keys)) })
    }

    /// Takes the file as it is now; true when it had changed. What cannot be used changes nothing.
    pub fn reload(&self) -> Result<bool, String> {
        let text = read(&self.path)?;
        if text == self.keys.read().unwrap_or_else(PoisonError::into_inner).text {
            return Ok(false);
        }
        let fresh = keys(&self.path)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(true)
    }

    /// Others than its owner may read the file.
    pub fn is_open_to_all(&self) -> bool {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(&self.path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0)
    }

    /// Keys for another use that follow from the secrets, in their order: each the same on every member, and none says anything of
    /// another or of the secret.
    pub fn derived(&self, purpose: &str) -> Vec<[u8; 32]> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let derived = keys.all.iter().map(|key| tag(key, &[b"weir derived", purpose.as_bytes()]));
        derived.filter_map(|tag| tag.as_ref().try_into().ok()).collect()
    }

    pub(crate) fn sign(&self, parts: &[&[u8]]) -> Digits {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        // `keys` has at least one: files without any are refused.
        keys.all.first().map(|key| hex(tag(key, parts).as_ref())).unwrap_or_default()
    }

    /// Every secret is tried, each in the same time wherever the signature differs.
    pub(crate) fn signed(&self, parts: &[&[u8]], signature: &[u8]) -> bool {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.all.iter().fold(false, |known, key| {
            known | verify_slices_are_equal(hex(tag(key, parts).as_ref()).as_bytes(), signature).is_ok()
        })
    }
}

/// Each part with its length before it, so that no two lists of parts are signed alike.
fn tag(key: &Key, parts: &[&[u8]]) -> aws_lc_rs::hmac::Tag {
    let mut context = Context::with_key(key);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    context.sign()
}

/// The same with a key of one's own.
pub(crate) fn sign_with(secret: &[u8], parts: &[&[u8]]) -> Digits {
    hex(tag(&Key::new(HMAC_SHA256, secret), parts).as_ref())
}

pub(crate) fn signed_with(secret: &[u8], parts: &[&[u8]], signature: &[u8]) -> bool {
    verify_slices_are_equal(sign_with(secret, parts).as_bytes(), signature).is_ok()
}

pub(crate) fn fingerprint(body: &[u8]) -> Digits {
    hex(digest(&SHA256, body).as_ref())
}

pub(crate) fn hex(bytes: &[u8]) -> Digits {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
        .map(char::from)
        .collect()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error| format!("{FLAG} {}: {error}; give the path of a file this user can read", path.display());
    std::fs::read(path).map_err(failed)
}

fn keys(path: &Path) -> Result<Keys, String> {
    let text = read(path)?;
    let wrong = |what: String| format!("{FLAG} {}: {what}", path.display());
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate();
    let lines: Vec<(usize, &[u8])> = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#")).collect();
    if lines.is_empty() || lines.len() > SECRETS_MAX {
        return Err(wrong(format!(
            "{} secrets; write one, or two while one replaces the other, a line each (openssl rand -hex 32)",
            lines.len()
        )));
    }
    if let Some((n, line)) = lines.iter().find(|(_, line)| line.len() < SECRET_BYTES_MIN) {
        let length = line.len();
        return Err(wrong(format!(
            "line {} is {length} bytes long, which can be guessed; take {SECRET_BYTES_MIN} or more (openssl rand -hex 32)",
            n + 1
        )));
    }
    let all = lines.iter().map(|(_, line)| Key::new(HMAC_SHA256, line)).collect();
    Ok(Keys { text, all })
}

/// The secret is in no debug text.
impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterSecret").field("path", &self.path).finish_non_exhaustive()
    }
}

const FLAG: &str = "--cluster-secret-file";
/// The one in force, and the one it replaces or that will replace it.
const SECRETS_MAX: usize = 2;
const SECRET_BYTES_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_secrets_overlap_and_the_file_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let written = |text: &str| {
            std::fs::write(&path, text).unwrap();
            ClusterSecret::read(&path).unwrap()
        };
        let (old, new) = ("an old secret, long enough", "a new secret, long enough");
        let first = written(&format!("# of the shop\n{old}\n"));
        let second = written(&format!("{old}\n\n{new}\n"));
        let third = written(&format!("{new}\n{old}\n"));
        let last = written(new);
        let parts: [&[u8]; 2] = [b"a", b"bc"];
        for (signs, believes, is) in [
            (&first, &second, true),
            (&second, &first, true),
            (&third, &second, true),
            (&last, &third, true),
            (&last, &first, false),
        ] {
            assert_eq!(believes.signed(&parts, signs.sign(&parts).as_bytes()), is);
        }
        assert!(!last.signed(&[b"ab", b"c"], last.sign(&parts).as_bytes()), "parts keep their ends");
        assert!(!last.signed(&parts, b""));
        assert!(!format!("{last:?}").contains("new secret"));

        assert_eq!(first.reload(), Ok(true));
        assert_eq!(first.reload(), Ok(false));
        assert!(first.signed(&parts, last.sign(&parts).as_bytes()));
        std::fs::write(&path, "short").unwrap();
        assert!(first.reload().unwrap_err().contains("line 1 is 5 bytes long"));
        assert!(first.signed(&parts, last.sign(&parts).as_bytes()), "what was good stays");
    }

    #[test]
    fn files_that_hold_no_secret_are_told_with_the_flag() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        for (text, what) in
            [("", "0 secrets"), ("# nothing\n", "0 secrets"), ("0123456789abcdef\n".repeat(3).as_str(), "3 secrets")]
        {
            std::fs::write(&path, text).unwrap();
            let told = ClusterSecret::read(&path).unwrap_err();
            assert!(told.starts_with("--cluster-secret-file /") && told.contains(what), "{told}");
        }
        let told = ClusterSecret::read(&directory.path().join("none")).unwrap_err();
        assert!(told.contains("No such file"), "{told}");
    }
}
