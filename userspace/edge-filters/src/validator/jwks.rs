//! The keys of an issuer (RFC 7517), fetched from a URL and fetched again while it rotates them.
//!
//! A token that names a key nobody has seen asks for them once more, if that has not just been done; see [`crate::remote`].

use super::jwt::{ALGORITHMS, Expected, Parsed, TokenError, TokenKey};
use crate::remote::Remote;
use base_telemetry::Limit;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use edge_upstream::Caller;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Keys of one set that are used; of a set with more the first ones are.
const KEYS_MAX: usize = 64;

/// Largest set, in bytes.
pub(crate) const SET_BYTES_MAX: u64 = 512 * 1024;

/// How long the set may take.
pub(crate) const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The keys of one set.
#[derive(Default)]
pub(crate) struct KeySet {
    keys: Vec<KnownKey>,
}

struct KnownKey {
    id: Option<String>,
    key: TokenKey,
    algorithm: &'static str,
}

impl KeySet {
    /// Reads a set. A key that signs nothing, is of a kind nobody here checks or is none is left out; a key that does not say its
    /// algorithm counts for every one of its kind. Secrets are never taken from a set.
    pub(crate) fn read(text: &[u8]) -> Result<KeySet, String> {
        let Ok(Value::Object(set)) = serde_json::from_slice(text) else {
            return Err("the answer is no JSON object".to_owned());
        };
        let keys = set.get("keys").and_then(Value::as_array).ok_or("the answer has no keys")?;
        let read = keys.iter().filter_map(Value::as_object).take(KEYS_MAX).flat_map(read_key);
        Ok(KeySet { keys: read.collect() })
    }

    /// The claims of a token that one of the keys has signed. Only `allowed` algorithms count.
    pub(crate) fn verify(
        &self,
        token: &str,
        allowed: &[&'static str],
        expected: &Expected,
        now: f64,
    ) -> Result<Map<String, Value>, TokenError> {
        let parsed = Parsed::read(token)?;
        self.find(&parsed, allowed)?;
        let claims = parsed.unverified_claims()?;
        expected.check(&claims, now)?;
        Ok(claims)
    }

    /// Whether one of the keys has signed the token, whatever it says.
    pub(crate) fn verify_signature(&self, token: &str, allowed: &[&'static str]) -> Result<(), TokenError> {
        self.find(&Parsed::read(token)?, allowed)
    }

    fn find(&self, parsed: &Parsed<'_>, allowed: &[&'static str]) -> Result<(), TokenError> {
        let algorithm = parsed.algorithm()?;
        if !allowed.contains(&algorithm) {
            return Err(TokenError::Algorithm);
        }
        let id = parsed.key_id();
        let mut error = TokenError::UnknownKey;
        let fits = |known: &&KnownKey| {
            known.algorithm == algorithm && id.is_none_or(|id| known.id.as_deref().is_none_or(|known| known == id))
        };
        for known in self.keys.iter().filter(fits) {
            match parsed.is_signed(&known.key) {
                Err(TokenError::Signature) => error = TokenError::Signature,
                done => return done,
            }
        }
        // A key without a name may have been tried although another one was named.
        let named = id.is_none_or(|id| self.keys.iter().any(|known| known.id.as_deref() == Some(id)));
        Err(if named { error } else { TokenError::UnknownKey })
    }

    fn len(&self) -> usize {
        self.keys.len()
    }
}

fn read_key(key: &Map<String, Value>) -> Vec<KnownKey> {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    let signs = text("use").is_none_or(|used| used == "sig");
    let operations = key.get("key_ops").and_then(Value::as_array);
    if !signs || operations.is_some_and(|all| !all.iter().any(|operation| operation == "verify")) {
        return Vec::new();
    }
    let bytes = |name: &str| text(name).and_then(|text| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok());
    let of_kind: &[&str] = match (text("kty"), text("crv")) {
        (Some("RSA"), _) => &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
        (Some("EC"), Some("P-256")) => &["ES256"],
        (Some("EC"), Some("P-384")) => &["ES384"],
        (Some("EC"), Some("P-521")) => &["ES512"],
        (Some("OKP"), Some("Ed25519")) => &["EdDSA"],
        _ => &[],
    };
    let said = text("alg");
    let algorithms = ALGORITHMS.iter().filter(|a| of_kind.contains(a) && said.is_none_or(|said| said == **a));
    let made = algorithms.filter_map(|&algorithm| {
        let made = match text("kty")? {
            "RSA" => TokenKey::rsa(algorithm, bytes("n")?, bytes("e")?)?,
            "EC" => {
                let (x, y) = (bytes("x")?, bytes("y")?);
                TokenKey::point(algorithm, [&[4u8][..], &x, &y].concat())?
            }
            _ => TokenKey::point(algorithm, bytes("x")?)?,
        };
        Some(KnownKey { id: text("kid").map(str::to_owned), key: made, algorithm })
    });
    made.collect()
}

/// A set that lives at a URL.
pub(crate) struct RemoteKeys(Arc<Remote<KeySet>>);

impl RemoteKeys {
    pub(crate) fn new(caller: Caller, refresh: Duration, failed: Limit) -> Arc<RemoteKeys> {
        Arc::new(RemoteKeys(Remote::new("the keys of an issuer", caller, refresh, failed, KeySet::read)))
    }

    /// The claims of a token that one of the keys has signed.
    pub(crate) async fn verify(
        &self,
        token: &str,
        allowed: &[&'static str],
        expected: &Expected,
        now: f64,
    ) -> Result<Map<String, Value>, TokenError> {
        // What can never be right leads to no fetch.
        if !allowed.contains(&Parsed::read(token)?.algorithm()?) {
            return Err(TokenError::Algorithm);
        }
        let keys = self.0.value(false).await.ok_or(TokenError::NoKeys)?;
        match keys.verify(token, allowed, expected, now) {
            Err(TokenError::UnknownKey) => match self.0.value(true).await {
                Some(keys) => self.judged(keys.verify(token, allowed, expected, now)),
                None => self.judged(Err(TokenError::UnknownKey)),
            },
            done => done,
        }
    }

    /// Whether there is no such key is not known while the issuer does not answer.
    fn judged<T>(&self, verified: Result<T, TokenError>) -> Result<T, TokenError> {
        match verified {
            Err(TokenError::UnknownKey) if self.0.is_failing() => Err(TokenError::NoKeys),
            verified => verified,
        }
    }

    pub(crate) fn status(&self) -> Value {
        let mut status = self.0.status();
        status["keys"] = json!(self.0.known().map_or(0, |keys| keys.len()));
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{self, KeyPair as _};

    const NOW: f64 = 1_700_000_000.0;
    const PUBLIC: [&str; 4] = ["RS256", "PS256", "ES256", "EdDSA"];

    struct Pair(signature::Ed25519KeyPair);

    impl Pair {
        fn new() -> Pair {
            let document = signature::Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
            Pair(signature::Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap())
        }

        fn public(&self, more: &str) -> String {
            let x = URL_SAFE_NO_PAD.encode(self.0.public_key().as_ref());
            format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"{more}}}"#)
        }

        fn token(&self, head: &str, claims: &str) -> String {
            let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes())))
        }
    }

    fn set(keys: &[String]) -> KeySet {
        KeySet::read(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes()).unwrap()
    }

    #[test]
    fn the_key_that_is_named_is_the_one_that_counts() {
        let (one, two) = (Pair::new(), Pair::new());
        let keys = set(&[one.public(r#","kid":"1""#), two.public(r#","kid":"2","alg":"EdDSA","use":"sig""#)]);
        let verify = |token: &str| keys.verify(token, &PUBLIC, &Expected::default(), NOW).map(drop);
        assert_eq!(verify(&one.token(r#"{"alg":"EdDSA","kid":"1"}"#, "{}")), Ok(()));
        assert_eq!(verify(&two.token(r#"{"alg":"EdDSA","kid":"2"}"#, "{}")), Ok(()));
        assert_eq!(verify(&two.token(r#"{"alg":"EdDSA"}"#, "{}")), Ok(()), "no name: any of them");
        assert_eq!(verify(&two.token(r#"{"alg":"EdDSA","kid":"1"}"#, "{}")), Err(TokenError::Signature));
        assert_eq!(verify(&two.token(r#"{"alg":"EdDSA","kid":"3"}"#, "{}")), Err(TokenError::UnknownKey));
        assert_eq!(verify(&two.token(r#"{"alg":"ES256","kid":"2"}"#, "{}")), Err(TokenError::UnknownKey));
        assert_eq!(verify(&two.token(r#"{"alg":"none"}"#, "{}")), Err(TokenError::Algorithm));
        let few = keys.verify(&one.token(r#"{"alg":"EdDSA","kid":"1"}"#, "{}"), &["RS256"], &Expected::default(), NOW);
        assert_eq!(few, Err(TokenError::Algorithm));
    }

    #[test]
    fn what_a_key_is_not_for_it_does_not_sign() {
        let one = Pair::new();
        for more in [r#","use":"enc""#, r#","key_ops":["sign"]"#, r#","alg":"RS256""#] {
            let keys = set(&[one.public(more)]);
            assert_eq!(keys.len(), 0, "{more}");
        }
        // A secret, or a public key named as one, is no key of a set.
        let secret = r#"{"kty":"oct","k":"c2VjcmV0","alg":"HS256","kid":"1"}"#.to_owned();
        assert_eq!(set(&[secret, r#"{"kty":"RSA","n":"AQAB"}"#.to_owned()]).len(), 0);
        for text in ["", "[]", "{}", r#"{"keys":{}}"#] {
            assert!(KeySet::read(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(set(&vec![one.public(""); 1000]).len(), KEYS_MAX);
    }

    #[test]
    fn who_it_is_from_and_for() {
        let one = Pair::new();
        let keys = set(&[one.public("")]);
        let expected = Expected {
            issuer: "https://idp".to_owned(),
            audiences: vec!["shop".to_owned(), "api".to_owned()],
            leeway: 5,
        };
        for (claims, want) in [
            (r#"{"iss":"https://idp","aud":"shop"}"#, Ok(())),
            (r#"{"iss":"https://idp","aud":["x","api"]}"#, Ok(())),
            (r#"{"iss":"https://idp/","aud":"shop"}"#, Err(TokenError::Issuer)),
            (r#"{"aud":"shop"}"#, Err(TokenError::Issuer)),
            (r#"{"iss":"https://idp","aud":"bank"}"#, Err(TokenError::Audience)),
            (r#"{"iss":"https://idp"}"#, Err(TokenError::Audience)),
            (r#"{"iss":"https://idp","aud":{"shop":1}}"#, Err(TokenError::Audience)),
            (r#"{"iss":"https://idp","aud":"shop","exp":1699999996}"#, Ok(())),
            (r#"{"iss":"https://idp","aud":"shop","exp":1699999995}"#, Err(TokenError::Expired)),
            (r#"{"iss":"https://idp","aud":"shop","nbf":1700000005}"#, Ok(())),
            (r#"{"iss":"https://idp","aud":"shop","nbf":1700000006}"#, Err(TokenError::NotYetValid)),
        ] {
            let token = one.token(r#"{"alg":"EdDSA"}"#, claims);
            assert_eq!(keys.verify(&token, &PUBLIC, &expected, NOW).map(drop), want, "{claims}");
        }
    }
}
