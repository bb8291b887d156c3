//! What Easegress adds to sprig.

use super::*;
use crate::template::encoding;
use crate::template::root::{Object, Parsed};
use crate::template::value::Dict;
use std::rc::Rc;

pub(super) const TABLE: &[Function] = &[
    function("addf", 2, 2, |_, args| Ok(Value::Float(number(&args[0])? + number(&args[1])?))),
    function("subf", 2, 2, |_, args| Ok(Value::Float(number(&args[0])? - number(&args[1])?))),
    function("mulf", 2, 2, |_, args| Ok(Value::Float(number(&args[0])? * number(&args[1])?))),
    function("divf", 2, 2, |_, args| match number(&args[1])? {
        0.0 => Err("divisor is zero".to_owned()),
        by => Ok(Value::Float(number(&args[0])? / by)),
    }),
    function("log", 2, 2, |work, args| {
        work.said = Some((text_of(&args[0])?, text_of(&args[1])?));
        Ok(Value::text(""))
    }),
    function("mergeObject", 0, MANY, |work, args| {
        let merged = map_of(&work.map(Vec::new())?)?;
        for arg in args {
            if !matches!(arg, Value::Nil) {
                merge(work, &merged, &map_of(arg)?, 0)?;
            }
        }
        Ok(Value::Map(merged))
    }),
    function("jsonEscape", 1, 1, |work, args| {
        let text = text_of(&args[0])?;
        work.reserve(text.len() * 6)?;
        let quoted = encoding::json(&serde_json::Value::from(&*text), false, true);
        work.text(&quoted[1..quoted.len() - 1])
    }),
    function("panic", 1, 1, |work, args| Err(work.show(&args[0])?.to_string())),
    function("header", 2, 2, |_, args| match &args[0] {
        Value::Object(header @ Object::Header(_)) => header.field("Get", &args[1..], &mut Parsed::default()),
        other => Err(wants("a header", other)),
    }),
    function("username", 1, 1, |work, args| {
        let (_, space) = request_of(&args[0])?;
        let credentials = space.request.headers.text("Authorization").unwrap_or_default();
        let basic = credentials.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Basic"));
        let plain = basic.and_then(|(_, coded)| encoding::from_base64(coded)).unwrap_or_default();
        let plain = String::from_utf8_lossy(&plain);
        work.text(plain.split_once(':').map_or("", |(name, _)| name))
    }),
    function("host", 1, 1, |work, args| match &args[0] {
        Value::Text(text) => work.text(split(text).0),
        request => work.text(request_of(request)?.1.request.host()),
    }),
    function("port", 1, 1, |work, args| {
        if let Value::Text(text) = &args[0] {
            return work.text(split(text).1);
        }
        let (exchange, space) = request_of(&args[0])?;
        let (host, authority) = (space.request.host(), &space.request.authority);
        let port = authority[host.len()..].trim_start_matches(':');
        let usual = if exchange.client.scheme == "https" { "443" } else { "80" };
        work.text(if port.is_empty() { usual } else { port })
    }),
    function("urlQueryEscape", 1, 1, |work, args| work.text(encoding::url_query(&text_of(&args[0])?))),
    function("urlQueryUnescape", 1, 1, |work, args| {
        let text = text_of(&args[0])?;
        let plain = encoding::from_url_query(&text)
            .ok_or_else(|| format!("invalid URL escape in {}", base_text::quoted(truncated(&text))))?;
        work.text(plain)
    }),
];

/// A number, or a text that is one.
fn number(value: &Value<'_>) -> Result<f64, String> {
    match value {
        Value::Int(n) => Ok(*n as f64),
        Value::Float(n) => Ok(*n),
        Value::Text(text) => {
            text.parse().map_err(|_| format!("{} is not a number", base_text::quoted(truncated(text))))
        }
        other => Err(wants("a number", other)),
    }
}

/// Host, without the brackets of an IPv6 address, and port of `host:port`; of what is not of this form nothing.
fn split(text: &str) -> (&str, &str) {
    match text.rsplit_once(':') {
        Some((host, port)) => match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => (address, port),
            None if host.contains([':', '[', ']']) => ("", ""),
            None => (host, port),
        },
        None => ("", ""),
    }
}

fn request_of<'x>(value: &Value<'x>) -> Result<(&'x crate::exchange::Exchange, &'x crate::exchange::Space), String> {
    match value {
        Value::Object(Object::Request(exchange, space)) => Ok((*exchange, *space)),
        other => Err(wants("a request", other)),
    }
}

/// Puts `from` into `into`; maps under the same key are merged into a new one, so that the arguments stay as they are.
fn merge<'x>(work: &mut Work, into: &Rc<Dict<'x>>, from: &Rc<Dict<'x>>, depth: usize) -> Result<(), String> {
    if depth > 100 {
        return Err(crate::template::value::TOO_DEEP.to_owned());
    }
    for (key, value) in from.entries() {
        work.spend(4)?;
        work.reserve(2 * size_of::<Value<'x>>())?;
        let (old, new) = (into.value(&key).map(Value::plain), value.plain());
        match (old, &new) {
            (Some(Value::Map(old)), Value::Map(new)) => {
                let both = map_of(&work.map(old.entries())?)?;
                merge(work, &both, new, depth + 1)?;
                into.set(key, Value::Map(both))?;
            }
            _ => into.set(key, new)?,
        }
    }
    Ok(())
}
