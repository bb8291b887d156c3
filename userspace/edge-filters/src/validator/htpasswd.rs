//! Files of users as Apache's `htpasswd` writes them, and the hashes in them: a line each, `user:hash`.
//!
//! Read are bcrypt (`$2y$`), argon2 (`$argon2id$`), SHA-crypt (`$5$`, `$6$`), the MD5 of Apache (`$apr1$`) and of crypt (`$1$`), and SHA-1
//! (`{SHA}`, `{SSHA}`). Passwords in clear and the DES of old crypt are no hashes for us: a line with one lets nobody in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};
use ring::digest;
use std::collections::HashMap;

/// Largest file, in bytes.
pub const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Users with their hashes.
#[derive(Debug, Default)]
pub struct Users {
    hashes: HashMap<Box<str>, Hash>,
    /// Lines that let nobody in.
    pub unread: usize,
    /// A hash as slow as the slowest of the file, of no known password.
    decoy: Option<Hash>,
}

/// A hash of a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hash {
    kind: HashKind,
    text: Box<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum HashKind {
    Sha1,
    SaltedSha1,
    Md5,
    ShaCrypt,
    Argon2,
    Bcrypt,
}

/// Work that a hash may ask for; beyond it a line lets nobody in. bcrypt: 2^14 rounds, about a second. SHA-crypt: rounds. argon2: memory in
/// KiB, and passes.
const BCRYPT_COST_MAX: u32 = 14;
const SHA_ROUNDS_MAX: u32 = 200_000;
const ARGON_MEMORY_MAX: u32 = 256 * 1024;
const ARGON_PASSES_MAX: u32 = 16;

/// Longest password looked at, in bytes.
pub const PASSWORD_MAX: usize = 1024;

impl Users {
    /// Reads the lines of a file. Empty ones and those that begin with `#` say nothing; of a user's lines the first counts.
    pub fn read(text: &str) -> Users {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        Users::of(lines.map(|line| line.split_once(':').unwrap_or_default()))
    }

    /// Of users and hashes.
    pub fn of<'l>(lines: impl Iterator<Item = (&'l str, &'l str)>) -> Users {
        let mut users = Users::default();
        for (user, hash) in lines {
            // Further fields of a line are comments.
            let hash = Hash::parse(hash.split(':').next().unwrap_or_default()).filter(|_| !user.is_empty());
            let Some(hash) = hash else {
                users.unread += 1;
                continue;
            };
            if users.decoy.as_ref().is_none_or(|decoy| decoy.cost() < hash.cost()) {
                users.decoy = Some(hash.clone());
            }
            users.hashes.entry(user.into()).or_insert(hash);
        }
        users
    }

    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// The hash that a password is checked against, and whether it is the user's: for nobody it is another's, so that the time of a check
    /// tells nothing.
    pub fn find(&self, user: &str) -> Option<(&Hash, bool)> {
        match self.hashes.get(user) {
            Some(hash) => Some((hash, true)),
            None => self.decoy.as_ref().map(|decoy| (decoy, false)),
        }
    }
}

impl Hash {
    /// `None` for what is no hash we check, or one that asks for too much work.
    pub fn parse(text: &str) -> Option<Hash> {
        let kind = if let Some(digest) = text.strip_prefix("{SHA}") {
            (STANDARD.decode(digest).ok()?.len() == 20).then_some(HashKind::Sha1)?
        } else if let Some(digest) = text.strip_prefix("{SSHA}") {
            (STANDARD.decode(digest).ok()?.len() > 20).then_some(HashKind::SaltedSha1)?
        } else if text.starts_with("$apr1$") || text.starts_with("$1$") {
            HashKind::Md5
        } else if text.starts_with("$5$") || text.starts_with("$6$") {
            (ShaCrypt::parse(text)?.rounds <= SHA_ROUNDS_MAX).then_some(HashKind::ShaCrypt)?
        } else if text.starts_with("$argon2") {
            let hash = argon2::PasswordHash::new(text).ok()?;
            let params = argon2::Params::try_from(&hash).ok()?;
            let bearable = params.m_cost() <= ARGON_MEMORY_MAX && params.t_cost() <= ARGON_PASSES_MAX;
            bearable.then_some(HashKind::Argon2)?
        } else {
            let rest = ["$2y$", "$2a$", "$2b$", "$2x$"].iter().find_map(|begin| text.strip_prefix(begin))?;
            let (cost, mark) = rest.split_once('$')?;
            let cost: u32 = cost.parse().ok()?;
            (mark.len() == 53 && (4..=BCRYPT_COST_MAX).contains(&cost)).then_some(HashKind::Bcrypt)?
        };
        Some(Hash { kind, text: text.into() })
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Roughly how slow it is; only compared.
    fn cost(&self) -> (HashKind, u32) {
        let number = |text: &str| text.parse::<u32>().unwrap_or_default();
        let work = match self.kind {
            HashKind::Bcrypt => number(self.text.get(4..6).unwrap_or_default()),
            HashKind::ShaCrypt => ShaCrypt::parse(&self.text).map_or(0, |hash| hash.rounds),
            _ => 0,
        };
        (self.kind, work)
    }

    /// Whether it is this password's. Slow on purpose, up to a second: not for a worker.
    pub fn is_of(&self, password: &[u8]) -> bool {
        let text = &*self.text;
        let found = match self.kind {
            HashKind::Bcrypt => {
                return std::str::from_utf8(password)
                    .is_ok_and(|password| bcrypt::verify(password, text).unwrap_or(false));
            }
            HashKind::Argon2 => {
                use argon2::PasswordVerifier as _;
                let hash = argon2::PasswordHash::new(text);
                return hash.is_ok_and(|hash| argon2::Argon2::default().verify_password(password, &hash).is_ok());
            }
            HashKind::Sha1 => format!("{{SHA}}{}", STANDARD.encode(sha1(&[password]))),
            HashKind::SaltedSha1 => {
                let Ok(bytes) = STANDARD.decode(&text[6..]) else { return false };
                let salt = &bytes[20..];
                let made = [&sha1(&[password, salt])[..], salt].concat();
                format!("{{SSHA}}{}", STANDARD.encode(made))
            }
            HashKind::Md5 => md5_crypt(password, text),
            HashKind::ShaCrypt => match ShaCrypt::parse(text) {
                Some(hash) => hash.of(password),
                None => return false,
            },
        };
        // As long as it takes, wherever they differ.
        found.len() == text.len() && found.bytes().zip(text.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
    }
}

fn sha1(parts: &[&[u8]]) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().to_vec()
}

/// The MD5 of crypt, with Apache's beginning or without it: the text with the salt of `like`.
fn md5_crypt(password: &[u8], like: &str) -> String {
    let begin = if like.starts_with("$apr1$") { "$apr1$" } else { "$1$" };
    let salt = like[begin.len()..].split('$').next().unwrap_or_default();
    let salt = salt.get(..salt.len().min(8)).unwrap_or_default();
    let twice = Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut hash = Md5::new().chain_update(password).chain_update(begin).chain_update(salt);
    for at in (0..password.len()).step_by(16) {
        hash.update(&twice[..(password.len() - at).min(16)]);
    }
    let mut bits = password.len();
    while bits > 0 {
        hash.update(if bits & 1 == 1 { &[0][..] } else { &password[..1] });
        bits >>= 1;
    }
    let mut last = hash.finalize();
    for round in 0..1000 {
        let mut hash = Md5::new();
        if round % 2 == 1 {
            hash.update(password)
        } else {
            hash.update(last)
        }
        if round % 3 != 0 {
            hash.update(salt);
        }
        if round % 7 != 0 {
            hash.update(password);
        }
        if round % 2 == 1 {
            hash.update(last)
        } else {
            hash.update(password)
        }
        last = hash.finalize();
    }
    let mut out = format!("{begin}{salt}$");
    for [a, b, c] in [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]] {
        write_24(last[a], last[b], last[c], 4, &mut out);
    }
    write_24(0, 0, last[11], 2, &mut out);
    out
}

/// `$5$` and `$6$`, as Ulrich Drepper has written them down.
struct ShaCrypt<'t> {
    wide: bool,
    rounds: u32,
    explicit: bool,
    salt: &'t str,
}

impl<'t> ShaCrypt<'t> {
    fn parse(text: &'t str) -> Option<ShaCrypt<'t>> {
        let wide = text.starts_with("$6$");
        let mut rest = text.get(3..)?;
        let (mut rounds, mut explicit) = (5000, false);
        if let Some(after) = rest.strip_prefix("rounds=") {
            let (number, after) = after.split_once('$')?;
            rounds = number.parse::<u32>().ok()?.max(1000);
            (rest, explicit) = (after, true);
        }
        let (salt, mark) = rest.split_once('$')?;
        (mark.len() == if wide { 86 } else { 43 }).then_some(())?;
        Some(ShaCrypt { wide, rounds, explicit, salt: salt.get(..salt.len().min(16))? })
    }

    fn digest(&self, parts: &[&[u8]]) -> Vec<u8> {
        let mut context = digest::Context::new(if self.wide { &digest::SHA512 } else { &digest::SHA256 });
        parts.iter().for_each(|part| context.update(part));
        context.finish().as_ref().to_vec()
    }

    fn of(&self, password: &[u8]) -> String {
        let salt = self.salt.as_bytes();
        let twice = self.digest(&[password, salt, password]);
        let repeated = |from: &[u8], length: usize| from.iter().copied().cycle().take(length).collect::<Vec<u8>>();
        let mut parts = [password, salt].concat();
        parts.extend(repeated(&twice, password.len()));
        let mut bits = password.len();
        while bits > 0 {
            parts.extend_from_slice(if bits & 1 == 1 { &twice } else { password });
            bits >>= 1;
        }
        let mut last = self.digest(&[&parts]);
        let p = repeated(&self.digest(&[&password.repeat(password.len())]), password.len());
        let s = repeated(&self.digest(&[&salt.repeat(16 + usize::from(last[0]))]), salt.len());
        for round in 0..self.rounds {
            let odd = round % 2 == 1;
            let first: &[u8] = if odd { &p } else { &last };
            let end: &[u8] = if odd { &last } else { &p };
            let with_salt: &[u8] = if round % 3 != 0 { &s } else { &[] };
            let with_password: &[u8] = if round % 7 != 0 { &p } else { &[] };
            last = self.digest(&[first, with_salt, with_password, end]);
        }
        let mut out = String::from(if self.wide { "$6$" } else { "$5$" });
        if self.explicit {
            out.push_str(&format!("rounds={}$", self.rounds));
        }
        out.push_str(self.salt);
        out.push('$');
        if self.wide {
            // Every row takes the places of the one before, moved on.
            let (mut a, mut b, mut c) = (0, 21, 42);
            for _ in 0..21 {
                write_24(last[a], last[b], last[c], 4, &mut out);
                (a, b, c) = (b + 1, c + 1, a + 1);
            }
            write_24(0, 0, last[63], 2, &mut out);
        } else {
            let (mut a, mut b, mut c) = (0, 10, 20);
            for _ in 0..10 {
                write_24(last[a], last[b], last[c], 4, &mut out);
                (a, b, c) = (c + 1, a + 1, b + 1);
            }
            write_24(0, last[31], last[30], 3, &mut out);
        }
        out
    }
}

/// Three bytes in the digits of crypt, the lowest first.
fn write_24(high: u8, middle: u8, low: u8, digits: usize, out: &mut String) {
    const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut bits = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    for _ in 0..digits {
        out.push(DIGITS[bits & 63] as char);
        bits >>= 6;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_other_programs() {
        // Made by htpasswd, openssl passwd and argon2; `$5$` and `$6$` are from their specification.
        for (password, hash) in [
            ("myPassword", "$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/"),
            ("myPassword", "{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE="),
            ("Hello world!", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
            ("myPassword", "$1$abcdefgh$W/8r1SWbVzbnNV3h1/PUK1"),
            ("Hello world!", "$5$rounds=10000$saltstringsaltst$3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA"),
            (
                "Hello world!",
                "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
            ),
            ("U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
        ] {
            let parsed = Hash::parse(hash).unwrap_or_else(|| panic!("{hash} is no hash"));
            assert!(parsed.is_of(password.as_bytes()), "{hash}");
            assert!(!parsed.is_of(b"other") && !parsed.is_of(b"") && !parsed.is_of(hash.as_bytes()), "{hash}");
        }
    }

    #[test]
    fn what_is_no_hash_lets_nobody_in() {
        for text in [
            "",
            "secret",
            "rqXexS6ZhobKA",
            "{SHA}",
            "{SHA}AAAA",
            "{SSHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=",
            "$2y$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
            "$2y$05$short",
            "$argon2id$v=19$m=4194304,t=3,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
            "$argon2id$",
            "$5$x",
            "$6$rounds=999999999$s$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjlO/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1a",
        ] {
            assert_eq!(Hash::parse(text), None, "{text}");
        }
    }

    #[test]
    fn lines_of_a_file() {
        let sha = "{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=";
        let bcrypt = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        let text = format!("# people\n\nann:{sha}:Ann\r\nbob:{bcrypt}\nann:{bcrypt}\nclear:secret\n:{sha}\nnothing\n");
        let users = Users::read(&text);
        assert_eq!((users.len(), users.unread), (2, 3));
        assert_eq!(users.find("ann").map(|(hash, real)| (hash.text(), real)), Some((sha, true)));
        assert_eq!(users.find("eve").map(|(hash, real)| (hash.text(), real)), Some((bcrypt, false)), "the slowest");
        assert!(Users::read("").find("ann").is_none());
    }
}
