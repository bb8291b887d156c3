//! JSON Web Tokens in compact form (RFC 7515, 7519), checked against one key, or against the keys of an issuer ([`super::jwks`]).
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
    /// A point of P-521, which `ring` does not know.
    P521(aws_lc_rs::signature::UnparsedPublicKey<Vec<u8>>),
    /// Modulus and exponent, as sets of keys carry them.
    Rsa(&'static signature::RsaParameters, signature::RsaPublicKeyComponents<Vec<u8>>),
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
    UnknownKey,
    Issuer,
    Audience,
    Nonce,
    /// The keys of the issuer cannot be had.
    NoKeys,
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
            TokenError::UnknownKey => "the issuer has no such key",
            TokenError::Issuer => "the token is of another issuer",
            TokenError::Audience => "the token is for somebody else",
            TokenError::Nonce => "the token is of another login",
            TokenError::NoKeys => "the keys of the issuer cannot be had",
        })
    }
}

/// Algorithms that can be checked. `ES256K` is not among them.
pub const ALGORITHMS: [&str; 13] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
];

/// What a token must say, beside being signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// `iss`; empty: any.
    pub issuer: String,
    /// One of which `aud` must name; empty: any, or none.
    pub audiences: Vec<String>,
    /// How far clocks may be apart, in seconds.
    pub leeway: u64,
}

/// A token taken apart, not yet believed.
pub struct Parsed<'t> {
    pub head: Map<String, Value>,
    signed: &'t str,
    claims: &'t str,
    mark: Vec<u8>,
}

/// Longest token looked at, in bytes.
const TOKEN_MAX: usize = 32 * 1024;

impl<'t> Parsed<'t> {
    pub fn read(token: &'t str) -> Result<Parsed<'t>, TokenError> {
        if token.len() > TOKEN_MAX {
            return Err(TokenError::Malformed);
        }
        let (signed, mark) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (head, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let head = decode_object(head)?;
        // Extensions that must be understood are not (RFC 7515 section 4.1.11).
        if head.contains_key("crit") {
            return Err(TokenError::Malformed);
        }
        let mark = URL_SAFE_NO_PAD.decode(mark).map_err(|_| TokenError::Malformed)?;
        Ok(Parsed { head, signed, claims, mark })
    }

    pub fn algorithm(&self) -> Result<&'static str, TokenError> {
        let named = self.head.get("alg").and_then(Value::as_str);
        ALGORITHMS.iter().find(|known| named == Some(**known)).copied().ok_or(TokenError::Algorithm)
    }

    /// The key that the token names.
    pub fn key_id(&self) -> Option<&str> {
        self.head.get("kid").and_then(Value::as_str)
    }

    /// The claims, when the key has signed them and they are as expected; `now` in seconds since 1970.
    pub fn verify(&self, key: &TokenKey, expected: &Expected, now: f64) -> Result<Map<String, Value>, TokenError> {
        self.is_signed(key)?;
        let claims = self.unverified_claims()?;
        expected.check(&claims, now)?;
        Ok(claims)
    }

    /// What the token says, whoever wrote it.
    pub fn unverified_claims(&self) -> Result<Map<String, Value>, TokenError> {
        decode_object(self.claims)
    }

    /// The token that this one carries in place of claims (RFC 7519 section 5.2), whoever wrote it; `None` where it carries claims.
    pub fn nested(&self) -> Option<Result<String, TokenError>> {
        let says = self.head.get("cty").and_then(Value::as_str);
        says.filter(|kind| kind.eq_ignore_ascii_case("JWT")).map(|_| {
            let inner = URL_SAFE_NO_PAD.decode(self.claims).map_err(|_| TokenError::Malformed)?;
            // Some write it as a text of JSON.
            match inner.first() {
                Some(b'"') => serde_json::from_slice(&inner).map_err(|_| TokenError::Malformed),
                _ => String::from_utf8(inner).map_err(|_| TokenError::Malformed),
            }
        })
    }

    pub fn mark(&self) -> &[u8] {
        &self.mark
    }

    /// Whether the key has signed it, by the key's algorithm.
    pub fn is_signed(&self, key: &TokenKey) -> Result<(), TokenError> {
        if self.algorithm()? != key.name {
            return Err(TokenError::Algorithm);
        }
        let signed = self.signed.as_bytes();
        let verified = match &key.kind {
            KeyKind::Secret(key) => hmac::verify(key, signed, &self.mark).is_ok(),
            KeyKind::Public(key) => key.verify(signed, &self.mark).is_ok(),
            KeyKind::P521(key) => key.verify(signed, &self.mark).is_ok(),
            KeyKind::Rsa(parameters, key) => key.verify(parameters, signed, &self.mark).is_ok(),
        };
        if verified { Ok(()) } else { Err(TokenError::Signature) }
    }
}

impl Expected {
    /// Whether claims are as expected; `now` in seconds since 1970.
    pub fn check(&self, claims: &Map<String, Value>, now: f64) -> Result<(), TokenError> {
        let leeway = self.leeway as f64;
        if time(claims, "exp")?.is_some_and(|at| now >= at + leeway) {
            return Err(TokenError::Expired);
        }
        for name in ["nbf", "iat"] {
            if time(claims, name)?.is_some_and(|at| now + leeway < at) {
                return Err(TokenError::NotYetValid);
            }
        }
        if !self.issuer.is_empty() && claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(TokenError::Issuer);
        }
        let named = |audience: &Value| audience.as_str().is_some_and(|named| self.audiences.iter().any(|a| a == named));
        let meant = match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(named),
            Some(one) => named(one),
            None => false,
        };
        if self.audiences.is_empty() || meant { Ok(()) } else { Err(TokenError::Audience) }
    }
}

impl TokenKey {
    /// `secret` for the HS family, a PEM text for the others.
    pub fn new(algorithm: &str, secret: &[u8], public: &[u8]) -> Result<TokenKey, String> {
        let name = *ALGORITHMS.iter().find(|a| **a == algorithm).ok_or("not an algorithm")?;
        if name.starts_with("HS") {
            return TokenKey::secret(name, secret);
        }
        TokenKey::public(name, public_key(public, name)?)
    }

    /// The key of a certificate in PEM. Its dates and who issued it are not looked at.
    pub fn of_certificate(name: &'static str, pem: &str) -> Result<TokenKey, String> {
        let certificate = base_tls::certificate::read_authorities_undated(pem).map_err(|error| error.text)?;
        let der = certificate.first().ok_or("no certificate")?;
        let (_, parsed) = x509_parser::parse_x509_certificate(der.as_ref()).map_err(|_| "not a certificate")?;
        let spki = subject_public_key(parsed.tbs_certificate.subject_pki.raw);
        let (identifier, key) = spki.ok_or("the certificate has no key we read")?;
        fits(identifier, name)?;
        TokenKey::public(name, key.to_vec())
    }

    fn public(name: &'static str, bytes: Vec<u8>) -> Result<TokenKey, String> {
        let verification: &'static dyn signature::VerificationAlgorithm = match rsa(name) {
            Some(parameters) => parameters,
            None => return TokenKey::point(name, bytes).ok_or_else(|| "not an algorithm".to_owned()),
        };
        Ok(TokenKey { name, kind: KeyKind::Public(signature::UnparsedPublicKey::new(verification, bytes)) })
    }

    /// A key of the HS family.
    pub fn secret(name: &'static str, secret: &[u8]) -> Result<TokenKey, String> {
        let digest = match name {
            "HS256" => hmac::HMAC_SHA256,
            "HS384" => hmac::HMAC_SHA384,
            _ => hmac::HMAC_SHA512,
        };
        if secret.is_empty() {
            return Err("a secret is wanted".to_owned());
        }
        Ok(TokenKey { name, kind: KeyKind::Secret(hmac::Key::new(digest, secret)) })
    }

    /// A public key of RSA, by modulus and exponent.
    pub fn rsa(name: &'static str, n: Vec<u8>, e: Vec<u8>) -> Option<TokenKey> {
        let key = signature::RsaPublicKeyComponents { n, e };
        Some(TokenKey { name, kind: KeyKind::Rsa(rsa(name)?, key) })
    }

    /// A point of the curve that the algorithm is for.
    pub fn point(name: &'static str, bytes: Vec<u8>) -> Option<TokenKey> {
        use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED, UnparsedPublicKey};
        let kind = match name {
            "ES512" => KeyKind::P521(UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, bytes)),
            _ => KeyKind::Public(signature::UnparsedPublicKey::new(curve(name)?, bytes)),
        };
        Some(TokenKey { name, kind })
    }

    /// The claims of a valid token; `now` in seconds since 1970.
    pub fn verify(&self, token: &str, expected: &Expected, now: f64) -> Result<Map<String, Value>, TokenError> {
        Parsed::read(token)?.verify(self, expected, now)
    }
}

fn rsa(name: &str) -> Option<&'static signature::RsaParameters> {
    Some(match name {
        "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
        "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
        "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn curve(name: &str) -> Option<&'static dyn signature::VerificationAlgorithm> {
    Some(match name {
        "ES256" => &signature::ECDSA_P256_SHA256_FIXED,
        "ES384" => &signature::ECDSA_P384_SHA384_FIXED,
        "EdDSA" => &signature::ED25519,
        _ => return None,
    })
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
    let rsa = rsa(algorithm).is_some();
    let (identifier, key) = match label {
        "RSA PUBLIC KEY" if rsa => return Ok(der),
        "PUBLIC KEY" => subject_public_key(&der).ok_or("the key is not a SubjectPublicKeyInfo")?,
        other => return Err(format!("a PEM text of {other}; a PUBLIC KEY is wanted")),
    };
    fits(identifier, algorithm)?;
    Ok(key.to_vec())
}

/// Whether a key of this kind is one for the algorithm.
fn fits(identifier: &[u8], algorithm: &str) -> Result<(), String> {
    let wanted: &[&[u8]] = match algorithm {
        "ES256" => &[OID_EC, OID_P256],
        "ES384" => &[OID_EC, OID_P384],
        "ES512" => &[OID_EC, OID_P521],
        "EdDSA" => &[OID_ED25519],
        _ => &[OID_RSA],
    };
    let all = wanted.iter().all(|oid| identifier.windows(oid.len()).any(|w| w == *oid));
    if all { Ok(()) } else { Err(format!("the key is not one for {algorithm}")) }
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
const OID_P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
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
        assert_eq!(key.verify(token, &Expected::default(), 1_300_819_379.0).unwrap()["iss"], "joe");
        assert_eq!(key.verify(token, &Expected::default(), 1_300_819_380.0), Err(TokenError::Expired));
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
            assert_eq!(key.verify(&token, &Expected::default(), NOW).map(drop), want, "{head} {claims} {secret}");
        }
        for token in ["", "a", "a.b", "a.b.c", "..", "e30.e30.", "e30.e30.=="] {
            assert!(key.verify(token, &Expected::default(), NOW).is_err(), "{token}");
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
        assert_eq!(key.verify(&token, &Expected::default(), NOW).unwrap()["sub"], "u");
        // The public key used as an HMAC secret: the classic confusion.
        let mac = hmac::Key::new(hmac::HMAC_SHA256, pem.as_bytes());
        let forged = sign(r#"{"alg":"HS256"}"#, "{}", |signed| hmac::sign(&mac, signed).as_ref().to_vec());
        assert_eq!(key.verify(&forged, &Expected::default(), NOW), Err(TokenError::Algorithm));
        assert!(TokenKey::new("RS256", b"", pem.as_bytes()).is_err_and(|why| why.contains("not one for RS256")));

        let kind = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = signature::EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        let pair = signature::EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &random).unwrap();
        let identifier = [&[0x30, 0x13, 0x06, 0x07], OID_EC, &[0x06, 0x08], OID_P256].concat();
        let pem = self::pem(&identifier, pair.public_key().as_ref());
        let key = TokenKey::new("ES256", b"", pem.as_bytes()).unwrap();
        let token = sign(r#"{"alg":"ES256"}"#, "{}", |signed| pair.sign(&random, signed).unwrap().as_ref().to_vec());
        assert!(key.verify(&token, &Expected::default(), NOW).is_ok());
        assert!(TokenKey::new("ES384", b"", pem.as_bytes()).is_err());

        use aws_lc_rs::signature::KeyPair as _;
        let (random, kind) =
            (aws_lc_rs::rand::SystemRandom::new(), &aws_lc_rs::signature::ECDSA_P521_SHA512_FIXED_SIGNING);
        let document = aws_lc_rs::signature::EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        let pair = aws_lc_rs::signature::EcdsaKeyPair::from_pkcs8(kind, document.as_ref()).unwrap();
        let point = pair.public_key().as_ref().to_vec();
        let key = TokenKey::point("ES512", point.clone()).unwrap();
        let token = sign(r#"{"alg":"ES512"}"#, r#"{"sub":"u"}"#, |signed| {
            pair.sign(&random, signed).unwrap().as_ref().to_vec()
        });
        assert_eq!(key.verify(&token, &Expected::default(), NOW).unwrap()["sub"], "u");
        let other = token.replace(&token[token.len() - 20..token.len() - 10], "AAAAAAAAAA");
        assert_eq!(key.verify(&other, &Expected::default(), NOW), Err(TokenError::Signature));
        // The same in PEM, as openssl writes it.
        let identifier = [&[0x30, 0x10, 0x06, 0x07], OID_EC, &[0x06, 0x05], OID_P521].concat();
        let pem = self::pem(&identifier, &point);
        assert!(TokenKey::new("ES512", b"", pem.as_bytes()).unwrap().verify(&token, &Expected::default(), NOW).is_ok());
        assert!(TokenKey::new("ES256", b"", pem.as_bytes()).is_err());
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
        let element = |tag: u8, parts: &[&[u8]]| {
            let contents = parts.concat();
            let length = contents.len() as u8;
            let head = if length < 0x80 { vec![tag, length] } else { vec![tag, 0x81, length] };
            [head, contents].concat()
        };
        let der = element(0x30, &[identifier, &element(0x03, &[&[0], key])]);
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }
}
