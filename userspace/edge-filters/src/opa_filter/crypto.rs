//! `crypto.*`: digests in hexadecimal digits.

use super::builtins::text;
use md5::{Digest as _, Md5};
use regorus::Value;
use ring::{digest, hmac};

pub(super) fn md5(args: &[Value]) -> Option<Value> {
    Some(hex(&Md5::digest(text(&args[0])?)))
}

pub(super) fn sha1(args: &[Value]) -> Option<Value> {
    of(&digest::SHA1_FOR_LEGACY_USE_ONLY, args)
}

pub(super) fn sha256(args: &[Value]) -> Option<Value> {
    of(&digest::SHA256, args)
}

/// RFC 2104, of a digest that `ring` does not have.
pub(super) fn hmac_md5(args: &[Value]) -> Option<Value> {
    const BLOCK: usize = 64;
    let (message, key) = (text(&args[0])?.as_bytes(), text(&args[1])?.as_bytes());
    let mut block = [0; BLOCK];
    match block.get_mut(..key.len()) {
        Some(place) => place.copy_from_slice(key),
        None => block[..16].copy_from_slice(&Md5::digest(key)),
    }
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Md5::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Some(hex(&Md5::new().chain_update(padded(0x5c)).chain_update(inner).finalize()))
}

pub(super) fn hmac_sha1(args: &[Value]) -> Option<Value> {
    sign(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, args)
}

pub(super) fn hmac_sha256(args: &[Value]) -> Option<Value> {
    sign(hmac::HMAC_SHA256, args)
}

pub(super) fn hmac_sha512(args: &[Value]) -> Option<Value> {
    sign(hmac::HMAC_SHA512, args)
}

/// In a time that does not tell where they differ.
pub(super) fn equal(args: &[Value]) -> Option<Value> {
    let (a, b) = (text(&args[0])?, text(&args[1])?);
    let same = a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0;
    Some(Value::from(same))
}

fn of(algorithm: &'static digest::Algorithm, args: &[Value]) -> Option<Value> {
    Some(hex(digest::digest(algorithm, text(&args[0])?.as_bytes()).as_ref()))
}

fn sign(algorithm: hmac::Algorithm, args: &[Value]) -> Option<Value> {
    let key = hmac::Key::new(algorithm, text(&args[1])?.as_bytes());
    Some(hex(hmac::sign(&key, text(&args[0])?.as_bytes()).as_ref()))
}

fn hex(bytes: &[u8]) -> Value {
    Value::from(crate::form::hex(bytes))
}
