//! `io.jwt.encode_sign` and `encode_sign_raw`: JSON Web Tokens, signed with a key that the policy has.

use super::builtins::text;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use regorus::Value;
use ring::rand::SystemRandom;
use ring::{hmac, rsa, signature};
use serde_json::{Map, Value as Json};

/// Head, claims and key as objects. Head and claims are signed in the form that OPA writes objects in: names sorted, and no blanks.
pub(super) fn encode_sign(args: &[Value]) -> Option<Value> {
    let written = |value: &Value| value.as_object().ok().and_then(|_| serde_json::to_string(value).ok());
    sign(&written(&args[0])?, &written(&args[1])?, &args[2].to_json_str().ok()?)
}

/// The same of texts, which are signed as they are.
pub(super) fn encode_sign_raw(args: &[Value]) -> Option<Value> {
    sign(text(&args[0])?, text(&args[1])?, text(&args[2])?)
}

fn sign(head: &str, claims: &str, key: &str) -> Option<Value> {
    let said: Map<String, Json> = serde_json::from_str(head).ok()?;
    let said = |name: &str| said.get(name).and_then(Json::as_str);
    let is_token = said("typ").is_none_or(|kind| kind.is_empty() || kind == "JWT");
    if is_token && serde_json::from_str::<Json>(claims).is_err() {
        return None;
    }
    let key: Map<String, Json> = serde_json::from_str(key).ok()?;
    // A set has its first key.
    let key = match key.get("keys") {
        Some(keys) => keys.get(0)?.as_object()?,
        None => &key,
    };
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
    let mark = mark(said("alg")?, key, signed.as_bytes())?;
    Some(Value::from(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mark))))
}

fn mark(algorithm: &str, key: &Map<String, Json>, signed: &[u8]) -> Option<Vec<u8>> {
    let said = |name: &str| key.get(name).and_then(Json::as_str);
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(said(name)?.trim_end_matches('=')).ok();
    let random = SystemRandom::new();
    match (said("kty")?, algorithm) {
        ("oct", _) => {
            let digest = match algorithm {
                "HS256" => hmac::HMAC_SHA256,
                "HS384" => hmac::HMAC_SHA384,
                "HS512" => hmac::HMAC_SHA512,
                _ => return None,
            };
            let secret = bytes("k").filter(|secret| !secret.is_empty())?;
            Some(hmac::sign(&hmac::Key::new(digest, &secret), signed).as_ref().to_vec())
        }
        ("RSA", _) => {
            let encoding: &'static dyn signature::RsaEncoding = match algorithm {
                "RS256" => &signature::RSA_PKCS1_SHA256,
                "RS384" => &signature::RSA_PKCS1_SHA384,
                "RS512" => &signature::RSA_PKCS1_SHA512,
                "PS256" => &signature::RSA_PSS_SHA256,
                "PS384" => &signature::RSA_PSS_SHA384,
                "PS512" => &signature::RSA_PSS_SHA512,
                _ => return None,
            };
            let components = rsa::KeyPairComponents {
                public_key: rsa::PublicKeyComponents { n: bytes("n")?, e: bytes("e")? },
                d: bytes("d")?,
                p: bytes("p")?,
                q: bytes("q")?,
                dP: bytes("dp")?,
                dQ: bytes("dq")?,
                qInv: bytes("qi")?,
            };
            let pair = rsa::KeyPair::from_components(&components).ok()?;
            let mut mark = vec![0; pair.public().modulus_len()];
            pair.sign(encoding, &random, signed, &mut mark).ok()?;
            Some(mark)
        }
        ("EC", _) => {
            let curve = match (said("crv")?, algorithm) {
                ("P-256", "ES256") => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                ("P-384", "ES384") => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
                _ => return None,
            };
            let point = [&[4u8][..], &bytes("x")?, &bytes("y")?].concat();
            let secret = bytes("d")?;
            let pair =
                signature::EcdsaKeyPair::from_private_key_and_public_key(curve, &secret, &point, &random).ok()?;
            Some(pair.sign(&random, signed).ok()?.as_ref().to_vec())
        }
        ("OKP", "EdDSA") => {
            let pair = signature::Ed25519KeyPair::from_seed_and_public_key(&bytes("d")?, &bytes("x")?).ok()?;
            Some(pair.sign(signed).as_ref().to_vec())
        }
        _ => None,
    }
}
