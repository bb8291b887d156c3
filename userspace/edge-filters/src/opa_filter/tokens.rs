//! `io.jwt.*`: JSON Web Tokens, read and checked.

use super::builtins::{text, value};
use crate::validator::jwks::KeySet;
use crate::validator::jwt::{ALGORITHMS, Expected, Parsed, TokenError, TokenKey};
use crate::validator::now;
use regorus::Value;
use serde_json::json;

/// Head, claims and signature (in hexadecimal digits) of a token, believed or not.
pub(super) fn decode(args: &[Value]) -> Option<Value> {
    let mut token = text(&args[0])?.to_owned();
    for _ in 0..NESTED_MAX {
        // One that is encrypted says nothing to us.
        let parsed = Parsed::read(&token).ok().filter(|parsed| !parsed.head.contains_key("enc"))?;
        match parsed.nested() {
            Some(inner) => token = inner.ok()?,
            None => {
                let claims = parsed.unverified_claims().ok()?;
                return value(json!([parsed.head, claims, crate::form::hex(parsed.mark())]));
            }
        }
    }
    None
}

/// Tokens in tokens that are looked into.
const NESTED_MAX: usize = 8;

/// Whether a token is signed with a secret, or with a key given as PEM (a public key or a certificate) or as a set of keys.
pub(super) fn verify(algorithm: &'static str, args: &[Value]) -> Option<Value> {
    let (token, key) = (text(&args[0])?, text(&args[1])?);
    let parsed = Parsed::read(token).ok()?;
    let signed = match check(&parsed, token, algorithm, key) {
        Ok(()) => true,
        // A key that is none leaves it open whether it signed.
        Err(TokenError::NoKeys) => return None,
        Err(_) => false,
    };
    Some(Value::from(signed))
}

fn check(parsed: &Parsed<'_>, token: &str, algorithm: &'static str, key: &str) -> Result<(), TokenError> {
    if parsed.algorithm()? != algorithm {
        return Err(TokenError::Algorithm);
    }
    let made = match algorithm {
        _ if algorithm.starts_with("HS") => TokenKey::secret(algorithm, key.as_bytes()),
        _ if key.trim_start().starts_with('{') => {
            let is_set = serde_json::from_str::<serde_json::Value>(key).is_ok_and(|read| read.get("keys").is_some());
            let set = if is_set { key.to_owned() } else { format!("{{\"keys\": [{key}]}}") };
            let keys = KeySet::read(set.as_bytes()).map_err(|_| TokenError::NoKeys)?;
            return keys.verify_signature(token, &[algorithm]);
        }
        // Who has put something behind a key may have meant that.
        _ if key.contains("-----END ") && !key.trim_end().ends_with("-----") => return Err(TokenError::NoKeys),
        _ if key.contains("BEGIN CERTIFICATE") => TokenKey::of_certificate(algorithm, key),
        _ => TokenKey::new(algorithm, b"", key.as_bytes()),
    };
    parsed.is_signed(&made.map_err(|_| TokenError::NoKeys)?)
}

/// `[valid, head, claims]` of a token that keeps all constraints: `cert` or `secret`, `alg`, `iss`, `aud`, `time` (in nanoseconds).
pub(super) fn decode_verify(args: &[Value]) -> Option<Value> {
    let token = text(&args[0])?;
    let refused = || Some(Value::from(json!([false, {}, {}])));
    let constraints = args[1].as_object().ok()?;
    let known = ["cert", "secret", "alg", "iss", "aud", "time"];
    // A constraint that is not understood is not kept.
    if constraints.iter().any(|(name, _)| !text(name).is_some_and(|name| known.contains(&name))) {
        return None;
    }
    let given = |name: &str| constraints.get(&Value::from(name));
    // Nor is one that is no text: without it any issuer, or anybody's token, would do.
    if known[..5].iter().any(|name| given(name).is_some_and(|given| text(given).is_none())) {
        return None;
    }
    let (cert, secret) = (given("cert").and_then(text), given("secret").and_then(text));
    let key = match (cert, secret) {
        (Some(key), None) | (None, Some(key)) => key,
        _ => return None,
    };
    let mut token = token.to_owned();
    let mut depth = 0;
    // Each token around another is signed as well, in the same way.
    while let Some(inner) = match signed_inner(&token, key, secret.is_some(), given("alg").and_then(text)) {
        Ok(inner) => inner,
        Err(_) => return refused(),
    } {
        depth += 1;
        if depth == NESTED_MAX {
            return refused();
        }
        token = inner;
    }
    let Ok(parsed) = Parsed::read(&token) else { return refused() };
    let Ok(claims) = parsed.unverified_claims() else { return refused() };
    let audience = given("aud").and_then(text);
    // A token for somebody is for nobody who does not say who he is.
    if claims.contains_key("aud") && audience.is_none() {
        return refused();
    }
    let expected = Expected {
        issuer: given("iss").and_then(text).unwrap_or_default().to_owned(),
        audiences: audience.map(str::to_owned).into_iter().collect(),
        leeway: 0,
    };
    let at = match given("time") {
        // The engine has no number as a float that one would not hold to the last digit, as none does the nanoseconds of today.
        Some(time) => {
            time.as_i64().map(|time| time as f64).or_else(|_| time.as_f64()).ok().filter(|time| *time >= 0.0)? / 1e9
        }
        None => now(),
    };
    // When it ends is not known of a token that says so in words.
    if ["exp", "nbf"].iter().any(|name| claims.get(*name).is_some_and(|time| !time.is_number())) {
        return None;
    }
    // Nobody is kept out because of when a token was issued.
    let mut timed = claims.clone();
    timed.remove("iat");
    match expected.check(&timed, at) {
        Ok(()) => value(json!([true, parsed.head, claims])),
        Err(_) => refused(),
    }
}

/// What a token that the key has signed carries, where that is another token.
fn signed_inner(token: &str, key: &str, is_secret: bool, wanted: Option<&str>) -> Result<Option<String>, TokenError> {
    let parsed = Parsed::read(token)?;
    let algorithm = parsed.algorithm()?;
    debug_assert!(ALGORITHMS.contains(&algorithm));
    // A public key is never taken for a secret, nor the other way.
    if wanted.is_some_and(|wanted| wanted != algorithm) || algorithm.starts_with("HS") != is_secret {
        return Err(TokenError::Algorithm);
    }
    check(&parsed, token, algorithm, key)?;
    parsed.nested().transpose()
}
