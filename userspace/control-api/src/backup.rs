//! A whole cluster in one file, and the lock on it.
//!
//! ```text
//! weir-backup 1                      the format
//! {"clusterName": "shop", …}         the head, for everybody to read: JSON on one line
//! …                                  the contents: a snapshot as JSON, or that under lock, `bytes` of them
//! sha256 9f86d081…                   of all that is before it
//! ```
//!
//! Who writes a backup needs no secret: it is locked to the public half of a key ([`Recipient`]), by a shared secret with a key that
//! is drawn for the file and forgotten (X25519, HKDF-SHA256, AES-256-GCM over the contents with both first lines beside them). The
//! private half opens it: a [`Key`] from a file, or one that Argon2id makes of a passphrase.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base_text::quoted;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Snapshot;

/// What a file says of itself without any key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Head {
    pub cluster_name: String,
    pub cluster_id: String,
    /// Of the configuration.
    pub version: u64,
    /// When it was written, RFC 3339.
    pub at: String,
    /// Version of the program that wrote it.
    pub weir: String,
    pub objects: usize,
    pub custom_items: usize,
    /// Length of the contents as they are in the file.
    pub bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
}

/// What it takes, beside the private key, to open the contents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lock {
    pub recipient: Recipient,
    /// Public half of the key that was drawn for the file.
    pub drawn: String,
}

/// Whom a backup is for: the public half of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Recipient {
    /// `weir-backup-…`, as [`Key::recipient`] tells it.
    pub key: String,
    /// How the private half comes out of a passphrase; absent where it is in a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stretch: Option<Stretch>,
}

/// How a passphrase becomes a key (Argon2id, RFC 9106).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stretch {
    pub salt: String,
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

/// The private half. It is in no debug text.
pub struct Key([u8; KEY_BYTES]);

/// A file that is whole.
pub struct Backup<'f> {
    pub head: Head,
    /// Both first lines, which the lock covers.
    lines: &'f [u8],
    contents: &'f [u8],
}

/// Why a file, or its contents, cannot be used, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub struct BackupError(pub String);

impl Key {
    pub fn draw() -> Result<Key, BackupError> {
        Ok(Key(drawn()?))
    }

    /// From the text of a key file: its first line that is neither empty nor a comment.
    pub fn read(text: &str) -> Result<Key, BackupError> {
        let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        let key = line.and_then(|line| line.strip_prefix(PRIVATE)).and_then(decoded);
        key.map(Key).ok_or_else(|| {
            wrong(format!(
                "no key of a backup: its line begins with {PRIVATE}; weirctl backup --generate-key makes one"
            ))
        })
    }

    /// The text of a key file.
    pub fn text(&self) -> Result<String, BackupError> {
        let public = self.recipient()?.key;
        Ok(format!("# opens backups that were made with --recipient {public}\n{PRIVATE}{}\n", encoded(&self.0)))
    }

    /// Of a new passphrase, and how it is made of it again.
    pub fn of_passphrase(passphrase: &[u8]) -> Result<(Key, Stretch), BackupError> {
        if passphrase.len() < PASSPHRASE_BYTES_MIN {
            return Err(wrong(format!(
                "the passphrase is {} bytes long, which can be guessed: take {PASSPHRASE_BYTES_MIN} or more",
                passphrase.len()
            )));
        }
        let stretch = Stretch { salt: encoded(&drawn::<16>()?), memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES };
        Ok((Key::stretched(passphrase, &stretch)?, stretch))
    }

    /// Of the passphrase of a backup.
    pub fn stretched(passphrase: &[u8], stretch: &Stretch) -> Result<Key, BackupError> {
        // The file says how much of this machine it takes: within bounds.
        if stretch.memory_kib > MEMORY_KIB_MAX || stretch.passes > PASSES_MAX || stretch.lanes > LANES_MAX {
            return Err(wrong("the backup asks for more work on the passphrase than any weir does: it is damaged"));
        }
        let failed = |e: &dyn fmt::Display| wrong(format!("no key can be made of the passphrase: {e}"));
        let salt = BASE64_URL_SAFE_NO_PAD.decode(&stretch.salt).map_err(|e| failed(&e))?;
        let params = Params::new(stretch.memory_kib, stretch.passes, stretch.lanes, Some(KEY_BYTES));
        let params = params.map_err(|e| failed(&e))?;
        let mut key = [0; KEY_BYTES];
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon.hash_password_into(passphrase, &salt, &mut key).map_err(|e| failed(&e))?;
        Ok(Key(key))
    }

    pub fn recipient(&self) -> Result<Recipient, BackupError> {
        let public = self.private()?.compute_public_key().map_err(|_| wrong("the key has no public half"))?;
        Ok(Recipient { key: format!("{PUBLIC}{}", encoded(public.as_ref())), stretch: None })
    }

    fn private(&self) -> Result<PrivateKey, BackupError> {
        PrivateKey::from_private_key(&X25519, &self.0).map_err(|_| wrong("not a key"))
    }
}

/// The file of a snapshot. Session ticket keys are left out: they would open recorded connections to whoever has the backup, and a
/// cluster draws new ones by itself.
pub fn write(snapshot: &Snapshot, at: String, recipient: Option<&Recipient>) -> Result<Vec<u8>, BackupError> {
    let mut contents = serde_json::to_vec(&Snapshot { tickets: Default::default(), ..snapshot.clone() })
        .map_err(|e| wrong(format!("the configuration cannot be written: {e}")))?;
    let secret = recipient.map(shared_with).transpose()?;
    let head = Head {
        cluster_name: snapshot.cluster_name.clone(),
        cluster_id: snapshot.cluster_id.clone(),
        version: snapshot.version,
        at,
        weir: env!("CARGO_PKG_VERSION").to_owned(),
        objects: snapshot.objects.len(),
        custom_items: snapshot.custom_data.values().map(|items| items.len()).sum(),
        bytes: (contents.len() + secret.as_ref().map_or(0, |_| AES_256_GCM.tag_len())) as u64,
        lock: secret.as_ref().map(|(lock, _)| lock.clone()),
    };
    let head = serde_json::to_string(&head).map_err(|e| wrong(e.to_string()))?;
    let mut file = format!("{MAGIC} {FORMAT}\n{head}\n").into_bytes();
    if let Some((_, key)) = secret {
        let sealed = key.seal_in_place_append_tag(nonce(), Aad::from(&file), &mut contents);
        sealed.map_err(|_| wrong("the contents cannot be locked"))?;
    }
    file.append(&mut contents);
    let sum = hex(digest(&SHA256, &file).as_ref());
    file.extend_from_slice(format!("\n{SUM} {sum}\n").as_bytes());
    Ok(file)
}

/// Looks at a file; what it returns is whole, and of a format that is known here.
pub fn read(file: &[u8]) -> Result<Backup<'_>, BackupError> {
    let foreign = || wrong("not a backup of weir: its first line would be \"weir-backup 1\"");
    let damaged = |what: &str| {
        wrong(format!("the backup is damaged: {what}; copy it again from where it was written, or take an older one"))
    };
    let first = line(file, 0).ok_or_else(foreign)?;
    let format = first.strip_prefix(MAGIC.as_bytes()).and_then(|rest| std::str::from_utf8(rest).ok());
    let format: u32 = format.and_then(|format| format.trim().parse().ok()).ok_or_else(foreign)?;
    if format != FORMAT {
        return Err(wrong(format!(
            "the backup has format {format}, and version {} of weir reads format {FORMAT}: restore it with the version that wrote \
             it or a later one",
            env!("CARGO_PKG_VERSION")
        )));
    }
    let head = line(file, first.len() + 1).ok_or_else(|| damaged("its second line is missing"))?;
    let start = first.len() + head.len() + 2;
    let sum_bytes = SUM.len() + 2 * 32 + 3;
    let end = file.len().checked_sub(sum_bytes).filter(|end| *end >= start);
    let end = end.ok_or_else(|| damaged("it ends too early"))?;
    let sum = hex(digest(&SHA256, &file[..end]).as_ref());
    if file[end..] != *format!("\n{SUM} {sum}\n").as_bytes() {
        return Err(damaged("its checksum is not that of its contents"));
    }
    let head: Head = serde_json::from_slice(head).map_err(|e| damaged(&format!("its head cannot be read: {e}")))?;
    if head.bytes != (end - start) as u64 {
        return Err(damaged("it is not as long as it says"));
    }
    Ok(Backup { head, lines: &file[..start], contents: &file[start..end] })
}

impl Backup<'_> {
    /// The contents; `key` opens them where they are locked.
    pub fn open(&self, key: Option<&Key>) -> Result<Snapshot, BackupError> {
        let mut opened: Vec<u8>;
        let contents = match (&self.head.lock, key) {
            (None, _) => self.contents,
            (Some(lock), None) => {
                let flag = if lock.recipient.stretch.is_some() { "--passphrase-file" } else { "--key-file" };
                return Err(wrong(format!("the backup is locked: give {flag} (it is for {})", lock.recipient.key)));
            }
            (Some(lock), Some(key)) => {
                let not_this = || {
                    wrong(format!(
                        "this key does not open the backup, which is for {}: give the right one",
                        lock.recipient.key
                    ))
                };
                let drawn = decoded(&lock.drawn).ok_or_else(not_this)?;
                let public = public_bytes(&lock.recipient.key)?;
                let key = derived(&key.private()?, &drawn, &drawn, &public).map_err(|_| not_this())?;
                opened = self.contents.to_vec();
                let length =
                    key.open_in_place(nonce(), Aad::from(self.lines), &mut opened).map_err(|_| not_this())?.len();
                &opened[..length]
            }
        };
        let unread = |why: &dyn fmt::Display| {
            wrong(format!(
                "the contents of the backup cannot be read: {why}; version {} of weir wrote it, and this is {}",
                quoted(&self.head.weir),
                env!("CARGO_PKG_VERSION")
            ))
        };
        let value: Map<String, Value> = serde_json::from_slice(contents).map_err(|e| unread(&e))?;
        // What is not known here would be lost without a word.
        if let Some(part) = value.keys().find(|part| !known(part)) {
            return Err(unread(&format!("{} is a part of it that nothing is known of here", quoted(part))));
        }
        serde_json::from_value(Value::Object(value)).map_err(|e| unread(&e))
    }
}

/// Whether a part of a snapshot is one of those that this version has.
fn known(part: &str) -> bool {
    matches!(part, "tokens" | "sections" | "purges")
        || serde_json::to_value(Snapshot::default()).is_ok_and(|snapshot| snapshot.get(part).is_some())
}

/// Draws a key for one file; what it has in common with the recipient's locks the contents.
fn shared_with(recipient: &Recipient) -> Result<(Lock, LessSafeKey), BackupError> {
    let public = public_bytes(&recipient.key)?;
    let private = Key::draw()?;
    let drawn = private.private()?.compute_public_key().map_err(|_| wrong("the key has no public half"))?;
    let key = derived(&private.private()?, &public, drawn.as_ref(), &public)?;
    Ok((Lock { recipient: recipient.clone(), drawn: encoded(drawn.as_ref()) }, key))
}

fn derived(private: &PrivateKey, peer: &[u8], drawn: &[u8], recipient: &[u8]) -> Result<LessSafeKey, BackupError> {
    let peer = UnparsedPublicKey::new(&X25519, peer);
    let failed = || wrong("no secret is shared with this key: it is not one of a backup");
    let key = agree(private, peer, failed(), |shared| {
        let salt = Salt::new(HKDF_SHA256, &[drawn, recipient].concat());
        let extracted = salt.extract(shared);
        let expanded = extracted.expand(&[PURPOSE], &AES_256_GCM).map_err(|_| failed())?;
        Ok(UnboundKey::from(expanded))
    })?;
    Ok(LessSafeKey::new(key))
}

/// Each key locks one file, once.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn public_bytes(text: &str) -> Result<[u8; KEY_BYTES], BackupError> {
    text.trim().strip_prefix(PUBLIC).and_then(decoded).ok_or_else(|| {
        wrong(format!(
            "recipient {}: it begins with {PUBLIC}; weirctl backup --generate-key FILE makes a key and tells it",
            quoted(text)
        ))
    })
}

fn drawn<const N: usize>() -> Result<[u8; N], BackupError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| wrong("the machine has no random numbers"))?;
    Ok(bytes)
}

fn line(file: &[u8], from: usize) -> Option<&[u8]> {
    let rest = file.get(from..)?;
    let end = rest.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n')?;
    Some(&rest[..end])
}

fn encoded(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn decoded(text: &str) -> Option<[u8; KEY_BYTES]> {
    BASE64_URL_SAFE_NO_PAD.decode(text.trim()).ok()?.try_into().ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn wrong(what: impl Into<String>) -> BackupError {
    BackupError(what.into())
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BackupError {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Key")
    }
}

const MAGIC: &str = "weir-backup";
/// Grows with every change that an earlier version would misread.
const FORMAT: u32 = 1;
const SUM: &str = "sha256";
const PRIVATE: &str = "WEIR-BACKUP-KEY-";
const PUBLIC: &str = "weir-backup-";
/// Of whatever is derived for this purpose and no other.
const PURPOSE: &[u8] = b"weir backup 1 contents";
const KEY_BYTES: usize = 32;
/// More than the head needs, by far.
const LINE_BYTES_MAX: usize = 64 << 10;
const PASSPHRASE_BYTES_MIN: usize = 8;
/// The second choice of RFC 9106 §4, for machines that share their memory: about 0.1 s.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 4;
/// What a file may ask for.
const MEMORY_KIB_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{TicketKey, TicketKeys};

    fn snapshot() -> Snapshot {
        let mut snapshot =
            Snapshot { cluster_id: "c1".into(), cluster_name: "shop".into(), version: 7, ..Snapshot::default() };
        let document = serde_json::json!({"name": "hs", "kind": "HTTPServer", "keyBase64": "very-secret"});
        snapshot.objects.insert("hs".into(), Arc::new(document));
        let current = Some(TicketKey { name: [1; 16], secret: [9; 32] });
        snapshot.tickets = Arc::new(TicketKeys { current, ..TicketKeys::default() });
        snapshot
    }

    #[test]
    fn what_is_written_is_read_by_who_has_the_key() {
        let key = Key::draw().unwrap();
        let file = write(&snapshot(), "now".into(), Some(&key.recipient().unwrap())).unwrap();
        assert!(!String::from_utf8_lossy(&file).contains("very-secret"));
        let backup = read(&file).unwrap();
        assert_eq!((backup.head.cluster_name.as_str(), backup.head.version, backup.head.objects), ("shop", 7, 1));
        let expected = Snapshot { tickets: Arc::default(), ..snapshot() };
        let again = Key::read(&key.text().unwrap()).unwrap();
        assert_eq!(backup.open(Some(&again)).unwrap(), expected, "all of it, but for the ticket keys");
        assert!(backup.open(None).unwrap_err().0.contains("--key-file"));
        let other = Key::draw().unwrap();
        assert!(backup.open(Some(&other)).unwrap_err().0.contains("does not open"));
        let plain = write(&snapshot(), "now".into(), None).unwrap();
        assert_eq!(read(&plain).unwrap().open(None).unwrap(), expected);
    }

    #[test]
    fn a_passphrase_opens_what_it_locked() {
        assert!(Key::of_passphrase(b"short").unwrap_err().0.contains("5 bytes"));
        let (key, stretch) = Key::of_passphrase(b"correct horse").unwrap();
        let recipient = Recipient { stretch: Some(stretch), ..key.recipient().unwrap() };
        let file = write(&snapshot(), "now".into(), Some(&recipient)).unwrap();
        let backup = read(&file).unwrap();
        assert!(backup.open(None).unwrap_err().0.contains("--passphrase-file"));
        let stretch = backup.head.lock.clone().unwrap().recipient.stretch.unwrap();
        let key = Key::stretched(b"correct horse", &stretch).unwrap();
        assert_eq!(backup.open(Some(&key)).unwrap().version, 7);
        let wrong = Key::stretched(b"battery staple", &stretch).unwrap();
        assert!(backup.open(Some(&wrong)).is_err());
        let greedy = Stretch { memory_kib: u32::MAX, ..stretch };
        assert!(Key::stretched(b"correct horse", &greedy).unwrap_err().0.contains("damaged"));
    }

    #[test]
    fn no_byte_may_be_changed_or_lost() {
        let key = Key::draw().unwrap();
        for recipient in [None, Some(key.recipient().unwrap())] {
            let file = write(&snapshot(), "now".into(), recipient.as_ref()).unwrap();
            for at in 0..file.len() {
                let mut changed = file.clone();
                changed[at] ^= 1;
                assert!(read(&changed).is_err(), "byte {at}");
                assert!(read(&file[..at]).is_err(), "cut at {at}");
            }
            assert!(read(&[&file[..], b"x"].concat()).is_err());
        }
    }

    /// Whoever can write the checksum anew still cannot pass one cluster's backup off as another's.
    #[test]
    fn the_head_of_a_locked_backup_cannot_be_exchanged() {
        let key = Key::draw().unwrap();
        let file = write(&snapshot(), "now".into(), Some(&key.recipient().unwrap())).unwrap();
        let shop = file.windows(4).position(|bytes| bytes == b"shop").unwrap();
        let mut forged = file[..file.len() - SUM.len() - 67].to_vec();
        forged[shop..shop + 4].copy_from_slice(b"bank");
        let sum = hex(digest(&SHA256, &forged).as_ref());
        forged.extend_from_slice(format!("\n{SUM} {sum}\n").as_bytes());
        let backup = read(&forged).unwrap();
        assert_eq!(backup.head.cluster_name, "bank");
        assert!(backup.open(Some(&key)).unwrap_err().0.contains("does not open"));
    }

    #[test]
    fn other_files_are_told_apart() {
        assert!(read(b"name: pl\nkind: Pipeline\n").err().unwrap().0.contains("not a backup of weir"));
        assert!(read(b"").err().unwrap().0.contains("not a backup of weir"));
        let newer = read(b"weir-backup 2\n{}\n").err().unwrap().0;
        assert!(newer.contains("format 2") && newer.contains("or a later one"), "{newer}");
        assert!(Key::read("nothing").unwrap_err().0.contains("--generate-key"));
    }
}
