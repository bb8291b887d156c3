//! Functions of OPA that the engine lacks, and those of its own that need a bound.
//!
//! As in OPA a function that cannot do what it is asked leaves its expression undefined; none of them fails a decision.

use super::{crypto, glob, grown, networks, plain, signing, tokens, x509};
use regorus::{Engine, Value};
use std::io;

/// A function: its arguments in, a value or nothing out.
type Function = fn(&[Value]) -> Option<Value>;

/// Everything that is added, by name and number of arguments.
const FUNCTIONS: &[(&str, u8, Function)] = &[
    ("io.jwt.decode", 1, tokens::decode),
    ("io.jwt.decode_verify", 2, tokens::decode_verify),
    ("io.jwt.encode_sign", 3, signing::encode_sign),
    ("io.jwt.encode_sign_raw", 3, signing::encode_sign_raw),
    ("io.jwt.verify_hs256", 2, |args| tokens::verify("HS256", args)),
    ("io.jwt.verify_hs384", 2, |args| tokens::verify("HS384", args)),
    ("io.jwt.verify_hs512", 2, |args| tokens::verify("HS512", args)),
    ("io.jwt.verify_rs256", 2, |args| tokens::verify("RS256", args)),
    ("io.jwt.verify_rs384", 2, |args| tokens::verify("RS384", args)),
    ("io.jwt.verify_rs512", 2, |args| tokens::verify("RS512", args)),
    ("io.jwt.verify_ps256", 2, |args| tokens::verify("PS256", args)),
    ("io.jwt.verify_ps384", 2, |args| tokens::verify("PS384", args)),
    ("io.jwt.verify_ps512", 2, |args| tokens::verify("PS512", args)),
    ("io.jwt.verify_es256", 2, |args| tokens::verify("ES256", args)),
    ("io.jwt.verify_es384", 2, |args| tokens::verify("ES384", args)),
    ("io.jwt.verify_es512", 2, |args| tokens::verify("ES512", args)),
    ("io.jwt.verify_eddsa", 2, |args| tokens::verify("EdDSA", args)),
    ("crypto.md5", 1, crypto::md5),
    ("crypto.sha1", 1, crypto::sha1),
    ("crypto.sha256", 1, crypto::sha256),
    ("crypto.hmac.md5", 2, crypto::hmac_md5),
    ("crypto.hmac.sha1", 2, crypto::hmac_sha1),
    ("crypto.hmac.sha256", 2, crypto::hmac_sha256),
    ("crypto.hmac.sha512", 2, crypto::hmac_sha512),
    ("crypto.hmac.equal", 2, crypto::equal),
    ("crypto.x509.parse_certificates", 1, x509::parse_certificates),
    ("crypto.x509.parse_and_verify_certificates", 1, x509::parse_and_verify),
    ("crypto.x509.parse_and_verify_certificates_with_options", 2, x509::parse_and_verify_with_options),
    ("crypto.x509.parse_certificate_request", 1, x509::parse_request),
    ("net.cidr_is_valid", 1, networks::is_valid),
    ("net.cidr_contains", 2, networks::contains),
    ("net.cidr_overlap", 2, networks::contains),
    ("net.cidr_intersects", 2, networks::intersects),
    ("net.cidr_contains_matches", 2, networks::contains_matches),
    ("net.cidr_merge", 1, networks::merge),
    ("net.cidr_expand", 1, networks::expand),
    ("glob.match", 3, glob::matches),
    ("glob.quote_meta", 1, glob::quote_meta),
    ("time.parse_duration_ns", 1, plain::parse_duration_ns),
    ("strings.count", 2, plain::count),
    ("strings.split_n", 3, plain::split_n),
    ("strings.replace_n", 2, plain::replace_n),
    ("array.flatten", 1, plain::flatten),
    // Of the first days of Rego; old policies have them.
    ("all", 1, plain::all),
    ("any", 1, plain::any),
    ("cast_array", 1, plain::cast_array),
    ("cast_set", 1, plain::cast_set),
    ("cast_string", 1, |args| plain::cast(args, |value| matches!(value, Value::String(_)))),
    ("cast_boolean", 1, |args| plain::cast(args, |value| matches!(value, Value::Bool(_)))),
    ("cast_null", 1, |args| plain::cast(args, |value| *value == Value::Null)),
    ("cast_object", 1, |args| plain::cast(args, |value| matches!(value, Value::Object(_)))),
    ("set_diff", 2, plain::set_diff),
    ("re_match", 2, plain::re_match),
    ("json.unmarshal", 1, unmarshal),
    ("json.is_valid", 1, is_valid),
    ("to_number", 1, to_number),
    ("numbers.range", 2, range),
    ("numbers.range_step", 3, range_step),
    ("concat", 2, grown::concat),
    ("replace", 3, grown::replace),
    ("split", 2, grown::split),
    ("lower", 1, grown::lower),
    ("upper", 1, grown::upper),
    ("array.concat", 2, grown::array_concat),
    ("regex.replace", 3, grown::regex_replace),
    ("hex.encode", 1, grown::hex),
    ("base64.encode", 1, grown::base64),
    ("base64url.encode", 1, grown::base64url),
    ("base64url.encode_no_pad", 1, grown::base64url_no_pad),
    ("json.marshal", 1, grown::marshal),
    ("json.marshal_with_options", 2, grown::marshal_with_options),
    ("sprintf", 2, grown::sprintf),
    ("bits.lsh", 2, grown::shift_left),
    ("product", 1, grown::product),
    ("walk", 1, grown::walk),
    ("urlquery.encode", 1, |args| grown::own("urlquery.encode", args)),
    ("urlquery.encode_object", 1, |args| grown::own("urlquery.encode_object", args)),
    ("indexof_n", 2, |args| grown::own("indexof_n", args)),
    ("regex.split", 2, |args| grown::own("regex.split", args)),
    ("regex.find_n", 3, |args| grown::own("regex.find_n", args)),
    ("regex.find_all_string_submatch_n", 3, |args| grown::own("regex.find_all_string_submatch_n", args)),
];

const SPENT: &str = "the policy makes more than 16 MiB of what it is given";

/// How many arguments a function takes that is added. The engine knows by itself what the last one of `walk` is.
pub(super) fn arguments(name: &str) -> Option<u8> {
    FUNCTIONS.iter().find(|(known, ..)| *known == name && *known != "walk").map(|(_, arguments, _)| *arguments)
}

/// Longest list a function makes of a few numbers.
pub(super) const LIST_MAX: u64 = 65_536;

pub(super) fn add(engine: &mut Engine) -> Result<(), impl ToString + use<>> {
    FUNCTIONS.iter().try_for_each(|&(name, arguments, function)| {
        let call = move |arguments: Vec<Value>| {
            let made = function(&arguments).unwrap_or(Value::Undefined);
            match grown::charge(&made) {
                Some(()) => Ok(made),
                // Here the policy ends: what is undefined may be what it lets pass.
                None => Err(io::Error::other(SPENT).into()),
            }
        };
        engine.add_extension(name.to_owned(), arguments, Box::new(call))
    })
}

pub(super) fn text(value: &Value) -> Option<&str> {
    value.as_string().ok().map(|text| &**text)
}

/// How the engine marks a number of any length in what it reads: an object with this name and its digits. Whoever writes one may mean
/// 10^999999999, which no machine has room for, or millions of digits, which take minutes to read.
pub(super) const NUMBER: &str = "$serde_json::private::Number";

/// What somebody else has written, as the engine has it; `None` where it would be taken for a mark.
pub(super) fn value(json: serde_json::Value) -> Option<Value> {
    is_plain(&json).then(|| Value::from(json))
}

fn is_plain(json: &serde_json::Value) -> bool {
    match json {
        serde_json::Value::Array(all) => all.iter().all(is_plain),
        serde_json::Value::Object(all) => all.iter().all(|(name, value)| name != NUMBER && is_plain(value)),
        _ => true,
    }
}

fn unmarshal(args: &[Value]) -> Option<Value> {
    value(serde_json::from_str(text(&args[0])?).ok()?)
}

fn is_valid(args: &[Value]) -> Option<Value> {
    let read = text(&args[0]).is_some_and(|text| serde_json::from_str::<serde_json::Value>(text).is_ok());
    Some(Value::from(read))
}

fn to_number(args: &[Value]) -> Option<Value> {
    match &args[0] {
        Value::Null | Value::Bool(false) => Some(Value::from(0u64)),
        Value::Bool(true) => Some(Value::from(1u64)),
        Value::Number(_) => Some(args[0].clone()),
        Value::String(text) => {
            let read: serde_json::Value = serde_json::from_str(text).ok()?;
            read.is_number().then(|| Value::from(read))
        }
        _ => None,
    }
}

/// The engine's own makes room for as many numbers as it is asked for.
fn range(args: &[Value]) -> Option<Value> {
    list(args[0].as_i64().ok()?, args[1].as_i64().ok()?, 1)
}

fn range_step(args: &[Value]) -> Option<Value> {
    list(args[0].as_i64().ok()?, args[1].as_i64().ok()?, args[2].as_i64().ok().filter(|step| *step > 0)?)
}

fn list(from: i64, to: i64, step: i64) -> Option<Value> {
    let numbers = from.abs_diff(to) / step.unsigned_abs() + 1;
    if numbers > LIST_MAX {
        return None;
    }
    let sign = if to >= from { step } else { -step };
    Some(Value::from((0..numbers as i64).map(|n| Value::from(from + n * sign)).collect::<Vec<_>>()))
}
