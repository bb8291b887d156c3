//! JSON Web Tokens in compact form (RFC 7515, 7519), checked against one key and one algorithm.
//!
//! The algorithm is the document's, never the token's: a token that names another one is refused, so a public key can
//! not be mistaken for an HMAC secret. Time is an argument.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{hmac, signature};
use serde_json::{Map, Value};
use std::fmt;

/// A key with its algorithm.
pub struct TokenKey {
    name: &'static str,
    kind: KeyKind,
}

enum KeyKind {
    Secret(hmac::Key),
    Public(signature::UnparsedPublicKey<Vec<u8>>),
}

/// Why a token does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    Missing,
    Malformed,
    Algorithm,
    Signature,
    Expired,
    NotYetValid,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TokenError::Missing => "no token",
            TokenError::Malformed => "malformed token",
            TokenError::Algorithm => "the token is signed with another algorithm",
            TokenError::Signature => "wrong signature",
            TokenError::Expired => "the token has expired",
            TokenError::NotYetValid => "the token is not valid yet",
        })
    }
}

/// Algorithms that can be checked.
pub const ALGORITHMS: [&str; 9] = ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "EdDSA"];

impl TokenKey {
    /// `secret` for the HS family, a PEM text for the others.
    pub fn new(algorithm: &str, secret: &[u8], public: &[u8]) -> Result<TokenKey, String> {
        let name = *ALGORITHMS.iter().find(|a| **a == algorithm).ok_or("not an algorithm")?;
        if name.starts_with("HS") {
            let digest = match name {
                "HS256" => hmac::HMAC_SHA256,
                "HS384" => hmac::HMAC_SHA384,
                _ => hmac::HMAC_SHA512,
            };
            if secret.is_empty() {
                return Err("a secret is wanted".to_owned());
            }
            return Ok(TokenKey { name, kind: KeyKind::Secret(hmac::Key::new(digest, secret)) });
        }
        let verification: &'static dyn signature::VerificationAlgorithm = match name {
            "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
            "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
            "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
            "ES256" => &signature::ECDSA_P256_SHA256_FIXED,
            "ES384" => &signature::ECDSA_P384_SHA384_FIXED,
            _ => &signature::ED25519,
        };
        let bytes = public_key(public, name)?;
        Ok(TokenKey { name, kind: KeyKind::Public(signature::UnparsedPublicKey::new(verification, bytes)) })
    }

    /// The claims of a valid token; `now` in seconds since 1970.
    pub fn verify(&self, token: &str, now: f64) -> Result<Map<String, Value>, TokenError> {
        let (signed, mark) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (head, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let head = decode_object(head)?;
        if head.get("alg").and_then(Value::as_str) != Some(self.name) {
            return Err(TokenError::Algorithm);
        }
        // Extensions that must be understood are not (RFC 7515 section 4.1.11).
        if head.contains_key("crit") {
            return Err(TokenError::Malformed);
        }
        let mark = URL_SAFE_NO_PAD.decode(mark).map_err(|_| TokenError::Malformed)?;
        let verified = match &self.kind {
            KeyKind::Secret(key) => hmac::verify(key, signed.as_bytes(), &mark).is_ok(),
            KeyKind::Public(key) => key.verify(signed.as_bytes(), &mark).is_ok(),
        };
        if !verified {
            return Err(TokenError::Signature);
        }
        let claims = decode_object(claims)?;
        if time(&claims, "exp")?.is_some_and(|at| now >= at) {
            return Err(TokenError::Expired);
        }
        if time(&claims, "nbf")?.is_some_and(|at| now < at) || time(&claims, "iat")?.is_some_and(|at| now < at) {
            return Err(TokenError::NotYetValid);
        }
        Ok(claims)
    }
}

fn decode_object(part: &str) -> Result<Map<String, Value>, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

/// A claim that is a time; anything but a number there is not a token we trust.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, TokenError> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(TokenError::Malformed),
    }
}

/// The bytes `ring` wants of a public key in PEM: PKCS#1 for RSA, the point or key itself for the others.
fn public_key(pem: &[u8], algorithm: &str) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(pem).map_err(|_| "the key is not a PEM text")?;
    let begin = text.find("-----BEGIN ").ok_or("the key is not a PEM text")?;
    let (label, rest) = text[begin + 11..].split_once("-----").ok_or("the PEM text has no label")?;
    let (body, _) = rest.split_once("-----END ").ok_or("the PEM text has no end")?;
    let body: String = body.split_ascii_whitespace().collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body).map_err(|_| "the PEM text is not base64")?;
    let rsa = algorithm.starts_with("RS");
    let (identifier, key) = match label {
        "RSA PUBLIC KEY" if rsa => return Ok(der),
        "PUBLIC KEY" => subject_public_key(&der).ok_or("the key is not a SubjectPublicKeyInfo")?,
        other => return Err(format!("a PEM text of {other}; a PUBLIC KEY is wanted")),
    };
    let wanted: &[&[u8]] = match algorithm {
        "ES256" => &[OID_EC, OID_P256],
        "ES384" => &[OID_EC, OID_P384],
        "EdDSA" => &[OID_ED25519],
        _ => &[OID_RSA],
    };
    if !wanted.iter().all(|oid| identifier.windows(oid.len()).any(|w| w == *oid)) {
        return Err(format!("the key is not one for {algorithm}"));
    }
    Ok(key.to_vec())
}

/// `SEQUENCE { SEQUENCE algorithm, BIT STRING key }` (RFC 5280 section 4.1): the algorithm's bytes and the key's.
fn subject_public_key(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (whole, _) = element(der, 0x30)?;
    let (identifier, rest) = element(whole, 0x30)?;
    let (bits, _) = element(rest, 0x03)?;
    match bits {
        [0, key @ ..] => Some((identifier, key)),
        _ => None,
    }
}

/// The contents of the DER element of type `tag` at the front, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest)
        }
        _ => return None,
    };
    (found == tag).then_some(())?;
    rest.split_at_checked(length)
}

const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::KeyPair as _;

    const NOW: f64 = 1_700_000_000.0;

    #[test]
    fn the_token_of_the_specification() {
        // RFC 7515 appendix A.1.
        let secret = URL_SAFE_NO_PAD
            .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
            .unwrap();
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
                     eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                     dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let key = TokenKey::new("HS256", &secret, b"").unwrap();
        assert_eq!(key.verify(token, 1_300_819_379.0).unwrap()["iss"], "joe");
        assert_eq!(key.verify(token, 1_300_819_380.0), Err(TokenError::Expired));
    }

    #[test]
    fn secrets() {
        let key = TokenKey::new("HS384", b"secret", b"").unwrap();
        for (head, claims, secret, want) in [
            (r#"{"alg":"HS384"}"#, r#"{"sub":"u"}"#, "secret", Ok(())),
            (r#"{"alg":"HS384"}"#, r#"{"exp":1700000001,"nbf":1700000000,"iat":1}"#, "secret", Ok(())),
            (r#"{"alg":"HS384"}"#, r#"{"exp":1700000000}"#, "secret", Err(TokenError::Expired)),
            (r#"{"alg":"HS384"}"#, r#"{"nbf":1700000001}"#, "secret", Err(TokenError::NotYetValid)),
            (r#"{"alg":"HS384"}"#, r#"{"iat":1700000001}"#, "secret", Err(TokenError::NotYetValid)),
            (r#"{"alg":"HS384"}"#, r#"{"exp":"never"}"#, "secret", Err(TokenError::Malformed)),
            (r#"{"alg":"HS384"}"#, r#"{}"#, "other", Err(TokenError::Signature)),
            (r#"{"alg":"HS256"}"#, r#"{}"#, "secret", Err(TokenError::Algorithm)),
            (r#"{"alg":"none"}"#, r#"{}"#, "secret", Err(TokenError::Algorithm)),
            (r#"{"alg":"HS384","crit":["x"]}"#, r#"{}"#, "secret", Err(TokenError::Malformed)),
            (r#"{"alg":"HS384"}"#, r#"[]"#, "secret", Err(TokenError::Malformed)),
        ] {
            let mac = hmac::Key::new(hmac::HMAC_SHA384, secret.as_bytes());
            let token = sign(head, claims, |signed| hmac::sign(&mac, signed).as_ref().to_vec());
            assert_eq!(key.verify(&token, NOW).map(drop), want, "{head} {claims} {secret}");
        }
        for token in ["", "a", "a.b", "a.b.c", "..", "e30.e30.", "e30.e30.=="] {
            assert!(key.verify(token, NOW).is_err(), "{token}");
        }
    }

    #[test]
    fn public_keys() {
        let random = ring::rand::SystemRandom::new();
        let document = signature::Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let pair = signature::Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let pem = pem(&[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70], pair.public_key().as_ref());
        let key = TokenKey::new("EdDSA", b"", pem.as_bytes()).unwrap();
        let token = sign(r#"{"alg":"EdDSA"}"#, r#"{"sub":"u"}"#, |signed| pair.sign(signed).as_ref().to_vec());
        assert_eq!(key.verify(&token, NOW).unwrap()["sub"], "u");
        // The public key used as an HMAC secret: the classic confusion.
        let mac = hmac::Key::new(hmac::HMAC_SHA256, pem.as_bytes());
        let forged = sign(r#"{"alg":"HS256"}"#, "{}", |signed| hmac::sign(&mac, signed).as_ref().to_vec());
        assert_eq!(key.verify(&forged, NOW), Err(TokenError::Algorithm));
        assert!(TokenKey::new("RS256", b"", pem.as_bytes()).is_err_and(|why| why.contains("not one for RS256")));

        let kind = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = signature::EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        let pair = signature::EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &random).unwrap();
        let identifier = [&[0x30, 0x13, 0x06, 0x07], OID_EC, &[0x06, 0x08], OID_P256].concat();
        let pem = self::pem(&identifier, pair.public_key().as_ref());
        let key = TokenKey::new("ES256", b"", pem.as_bytes()).unwrap();
        let token = sign(r#"{"alg":"ES256"}"#, "{}", |signed| pair.sign(&random, signed).unwrap().as_ref().to_vec());
        assert!(key.verify(&token, NOW).is_ok());
        assert!(TokenKey::new("ES384", b"", pem.as_bytes()).is_err());
    }

    #[test]
    fn keys_that_are_none() {
        for (algorithm, secret, public) in [
            ("HS256", "", ""),
            ("none", "x", ""),
            ("RS256", "", "x"),
            ("RS256", "", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"),
            ("RS256", "", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"),
            ("RS256", "", "-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----"),
        ] {
            assert!(TokenKey::new(algorithm, secret.as_bytes(), public.as_bytes()).is_err(), "{algorithm} {public}");
        }
    }

    fn sign(head: &str, claims: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
        let mark = URL_SAFE_NO_PAD.encode(sign(signed.as_bytes()));
        format!("{signed}.{mark}")
    }

    fn pem(identifier: &[u8], key: &[u8]) -> String {
        let mut inner = identifier.to_vec();
        inner.extend([0x03, key.len() as u8 + 1, 0]);
        inner.extend(key);
        let mut der = vec![0x30, inner.len() as u8];
        der.extend(inner);
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }
}
