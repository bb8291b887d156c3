//! A password that both sides prove to know, and neither tells (SCRAM, RFC 5802 and RFC 7677), without channel binding, as brokers of
//! Kafka speak it: names and passwords are taken as they are, without SASLprep.
//!
//! The client's machine: [`Scram::first`], then [`Scram::answer`] to what the server says, then [`Scram::finish`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};
use std::num::NonZeroU32;

/// Turns of the hash that a server may ask for: fewer would let whoever sees a proof guess the password from it (RFC 7677 section 4), and
/// more are an attack on this side's time.
const TURNS: std::ops::RangeInclusive<u32> = 4096..=1_000_000;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha512 => &digest::SHA512,
        }
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Hash::Sha256 => hmac::HMAC_SHA256,
            Hash::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Hash::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Hash::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }
}

/// One proof.
pub struct Scram<'a> {
    hash: Hash,
    password: &'a str,
    nonce: &'a str,
    /// The first message without what it says of channel binding.
    bare: String,
    /// What a server answers that knows the password.
    expected: Option<Vec<u8>>,
}

/// No channel binding, and nobody else's name.
const HEADER: &str = "n,,";

impl<'a> Scram<'a> {
    /// `nonce` is new for each proof: printable characters without a comma.
    pub fn new(hash: Hash, user: &str, password: &'a str, nonce: &'a str) -> Scram<'a> {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Scram { hash, password, nonce, bare: format!("n={user},r={nonce}"), expected: None }
    }

    pub fn first(&self) -> String {
        format!("{HEADER}{}", self.bare)
    }

    /// The proof, for what the server says to the first message; the error says what is wrong with that.
    pub fn answer(&mut self, challenge: &[u8]) -> Result<String, &'static str> {
        let challenge = std::str::from_utf8(challenge).map_err(|_| NOT_SCRAM)?;
        let field = |name: &str| challenge.split(',').find_map(|field| field.strip_prefix(name));
        let (Some(nonce), Some(salt), Some(turns)) = (field("r="), field("s="), field("i=")) else {
            return Err(NOT_SCRAM);
        };
        // What it demands beside that may not be passed over (RFC 5802 section 5.1).
        if field("m=").is_some() {
            return Err("it demands an extension of SCRAM that is not known here");
        }
        if !nonce.starts_with(self.nonce) || nonce.len() == self.nonce.len() {
            return Err("its challenge is for somebody else");
        }
        let salt = STANDARD.decode(salt).map_err(|_| NOT_SCRAM)?;
        let turns = turns.parse().ok().filter(|turns| TURNS.contains(turns)).and_then(NonZeroU32::new);
        let turns = turns.ok_or("it wants the hash to be turned less often than is safe, or for ever")?;
        let mut salted = vec![0; self.hash.digest().output_len()];
        pbkdf2::derive(self.hash.pbkdf2(), turns, &salt, self.password.as_bytes(), &mut salted);
        let end = format!("c={},r={nonce}", STANDARD.encode(HEADER));
        let said = format!("{},{challenge},{end}", self.bare);
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(self.hash.hmac(), key), text);
        let client = sign(&salted, b"Client Key");
        let stored = digest::digest(self.hash.digest(), client.as_ref());
        let signature = sign(stored.as_ref(), said.as_bytes());
        let proof: Vec<u8> = client.as_ref().iter().zip(signature.as_ref()).map(|(key, sign)| key ^ sign).collect();
        let server = sign(&salted, b"Server Key");
        self.expected = Some(sign(server.as_ref(), said.as_bytes()).as_ref().to_vec());
        Ok(format!("{end},p={}", STANDARD.encode(proof)))
    }

    /// Whether the server knows the password, too.
    pub fn finish(&self, end: &[u8]) -> Result<(), &'static str> {
        let end = std::str::from_utf8(end).map_err(|_| NOT_SCRAM)?;
        if end.starts_with("e=") {
            return Err("it does not take the proof");
        }
        let proof = end.split(',').find_map(|field| field.strip_prefix("v=")).ok_or(NOT_SCRAM)?;
        let proof = STANDARD.decode(proof).map_err(|_| NOT_SCRAM)?;
        match self.expected.as_ref() {
            Some(expected) if *expected == proof => Ok(()),
            _ => Err("it does not know the password itself: it is not whom it says it is"),
        }
    }
}

const NOT_SCRAM: &str = "what it says is no SCRAM";

#[cfg(test)]
mod tests {
    use super::*;

    /// Nonce, challenge, proof and the server's own, of RFC 7677 section 3.
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const PROOF: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const END: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    #[test]
    fn the_example_of_the_rfc() {
        let mut scram = Scram::new(Hash::Sha256, "user", "pencil", NONCE);
        assert_eq!(scram.first(), format!("n,,n=user,r={NONCE}"));
        assert!(scram.finish(END.as_bytes()).is_err(), "nothing was proved");
        assert_eq!(scram.answer(CHALLENGE.as_bytes()).unwrap(), PROOF);
        assert_eq!(scram.finish(END.as_bytes()), Ok(()));
        let mut other = Scram::new(Hash::Sha256, "user", "pen", NONCE);
        assert_ne!(other.answer(CHALLENGE.as_bytes()).unwrap(), PROOF);
        assert!(other.finish(END.as_bytes()).unwrap_err().contains("does not know the password"));
        let mut longer = Scram::new(Hash::Sha512, "user", "pencil", NONCE);
        assert_eq!(longer.answer(CHALLENGE.as_bytes()).unwrap().len(), PROOF.len() + 44);
    }

    #[test]
    fn names_with_signs_of_the_message_are_names() {
        assert_eq!(Scram::new(Hash::Sha256, "a=b,c", "p", "x").first(), "n,,n=a=3Db=2Cc,r=x");
    }

    #[test]
    fn servers_that_are_not_sound_get_no_proof() {
        for challenge in [
            "",
            "e=other-error",
            &format!("m=x,{CHALLENGE}"),
            "r=else,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            &CHALLENGE.replace("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", ""),
            &CHALLENGE.replace("i=4096", "i=4095"),
            &CHALLENGE.replace("i=4096", "i=4294967295"),
            &CHALLENGE.replace("i=4096", "i=x"),
            &CHALLENGE.replace("s=W", "s=*"),
        ] {
            assert!(Scram::new(Hash::Sha256, "u", "p", NONCE).answer(challenge.as_bytes()).is_err(), "{challenge}");
        }
        assert!(Scram::new(Hash::Sha256, "u", "p", NONCE).answer(&[0xff]).is_err());
    }
}
