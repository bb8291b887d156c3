//! Go's own functions, and sprig's for defaults, types and control.

use super::*;
use crate::template::printf::printf;
use crate::template::{encoding, value};
use std::cmp::Ordering;

pub(super) const TABLE: &[Function] = &[
    // `and` and `or` stop at the first answer, so the machine runs them itself.
    function("and", 1, MANY, |_, args| Ok(args[args.len() - 1].clone())),
    function("or", 1, MANY, |_, args| Ok(args[args.len() - 1].clone())),
    function("not", 1, 1, |_, args| Ok(Value::Bool(!args[0].is_true()))),
    function("eq", 2, MANY, |work, args| {
        for other in &args[1..] {
            if equal(work, &args[0], other)? {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }),
    function("ne", 2, 2, |work, args| Ok(Value::Bool(!equal(work, &args[0], &args[1])?))),
    function("lt", 2, 2, |_, args| Ok(Value::Bool(order(&args[0], &args[1])? == Some(Ordering::Less)))),
    function("le", 2, 2, |_, args| {
        Ok(Value::Bool(matches!(order(&args[0], &args[1])?, Some(Ordering::Less | Ordering::Equal))))
    }),
    function("gt", 2, 2, |_, args| Ok(Value::Bool(order(&args[0], &args[1])? == Some(Ordering::Greater)))),
    function("ge", 2, 2, |_, args| {
        Ok(Value::Bool(matches!(order(&args[0], &args[1])?, Some(Ordering::Greater | Ordering::Equal))))
    }),
    function("len", 1, 1, |_, args| match args[0].clone().plain() {
        Value::Text(text) => Ok(Value::Int(text.len() as i64)),
        Value::Bytes(bytes) => Ok(Value::Int(bytes.len() as i64)),
        Value::List(list) => Ok(Value::Int(list.items().len() as i64)),
        Value::Map(map) => Ok(Value::Int(map.len() as i64)),
        other => Err(format!("len of type {}", other.type_name())),
    }),
    function("index", 1, MANY, |_, args| {
        let mut value = args[0].clone();
        for key in &args[1..] {
            value = index(value, key)?;
        }
        Ok(value)
    }),
    function("slice", 1, 4, slice),
    function("mustSlice", 1, 4, slice),
    function("print", 0, MANY, |work, args| joined(work, args, false)),
    function("println", 0, MANY, |work, args| joined(work, args, true)),
    function("printf", 1, MANY, |work, args| {
        let text = printf(&text_of(&args[0])?, &args[1..], work.bytes)?;
        work.text(text)
    }),
    function("html", 1, MANY, |work, args| escaped(work, args, encoding::html)),
    function("js", 1, MANY, |work, args| escaped(work, args, encoding::js)),
    function("urlquery", 1, MANY, |work, args| escaped(work, args, encoding::url_query)),
    function("call", 1, MANY, |_, args| Err(format!("{} is not a function", args[0].type_name()))),
    function("default", 1, 2, |_, args| match args.get(1) {
        Some(given) if given.is_true() => Ok(given.clone()),
        _ => Ok(args[0].clone()),
    }),
    function("empty", 1, 1, |_, args| Ok(Value::Bool(!args[0].is_true()))),
    function("coalesce", 0, MANY, |_, args| Ok(args.iter().find(|v| v.is_true()).cloned().unwrap_or(Value::Nil))),
    function("all", 0, MANY, |_, args| Ok(Value::Bool(args.iter().all(Value::is_true)))),
    function("any", 0, MANY, |_, args| Ok(Value::Bool(args.iter().any(Value::is_true)))),
    function("ternary", 3, 3, |_, args| match &args[2] {
        Value::Bool(yes) => Ok(args[usize::from(!yes)].clone()),
        other => Err(wants("true or false last", other)),
    }),
    function("fail", 1, 1, |_, args| Err(text_of(&args[0])?.to_string())),
    function("typeOf", 1, 1, |_, args| Ok(Value::text(args[0].type_name()))),
    function("typeIs", 2, 2, |_, args| Ok(Value::Bool(*text_of(&args[0])? == *args[1].type_name()))),
    function("typeIsLike", 2, 2, |_, args| {
        Ok(Value::Bool(*text_of(&args[0])? == *args[1].type_name().trim_start_matches('*')))
    }),
    function("kindOf", 1, 1, |_, args| Ok(Value::text(args[0].kind_name()))),
    function("kindIs", 2, 2, |_, args| Ok(Value::Bool(*text_of(&args[0])? == *args[1].kind_name()))),
    function("deepEqual", 2, 2, |work, args| Ok(Value::Bool(args[0].deep_equals(&args[1], 0, &mut work.steps)?))),
    function("hello", 0, 0, |_, _| Ok(Value::text("Hello!"))),
    function("toJson", 1, 1, |work, args| json(work, &args[0], false, true)),
    function("mustToJson", 1, 1, |work, args| json(work, &args[0], false, true)),
    function("toPrettyJson", 1, 1, |work, args| json(work, &args[0], true, true)),
    function("mustToPrettyJson", 1, 1, |work, args| json(work, &args[0], true, true)),
    function("toRawJson", 1, 1, |work, args| json(work, &args[0], false, false)),
    function("mustToRawJson", 1, 1, |work, args| json(work, &args[0], false, false)),
    function("fromJson", 1, 1, |work, args| Ok(from_json(work, &args[0]).unwrap_or(Value::Nil))),
    function("mustFromJson", 1, 1, |work, args| from_json(work, &args[0])),
    function("uuidv4", 0, 0, |work, _| work.text(uuid())),
];

fn equal<'x>(work: &mut Work, a: &Value<'x>, b: &Value<'x>) -> Result<bool, String> {
    if std::mem::discriminant(a) != std::mem::discriminant(b)
        && !matches!((a, b), (Value::Nil, _) | (_, Value::Nil))
        && !matches!((a, b), (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)))
    {
        return Err(format!("incompatible types for comparison: {} and {}", a.type_name(), b.type_name()));
    }
    Ok(a.deep_equals(b, 0, &mut work.steps)?)
}

fn order(a: &Value<'_>, b: &Value<'_>) -> Result<Option<Ordering>, String> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Float(b)) => (*a as f64).partial_cmp(b),
        (Value::Float(a), Value::Int(b)) => a.partial_cmp(&(*b as f64)),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Time(a), Value::Time(b)) => Some(a.cmp(b)),
        _ => return Err(format!("cannot order {} and {}", a.type_name(), b.type_name())),
    })
}

fn index<'x>(value: Value<'x>, key: &Value<'x>) -> Answer<'x> {
    match value.plain() {
        Value::Map(map) => Ok(map.value(&key_of(key)?).unwrap_or(Value::Nil)),
        Value::List(list) => {
            let at = int_of(key)?;
            let item = usize::try_from(at).ok().and_then(|at| list.items().get(at)).cloned();
            item.ok_or_else(|| format!("index {at} of a list of {} items", list.items().len()))
        }
        Value::Text(text) => {
            let at = int_of(key)?;
            let byte = usize::try_from(at).ok().and_then(|at| text.as_bytes().get(at).copied());
            byte.map(|b| Value::Int(i64::from(b)))
                .ok_or_else(|| format!("index {at} of a text of {} bytes", text.len()))
        }
        Value::Bytes(bytes) => {
            let at = int_of(key)?;
            let byte = usize::try_from(at).ok().and_then(|at| bytes.get(at).copied());
            byte.map(|b| Value::Int(i64::from(b))).ok_or_else(|| format!("index {at} of {} bytes", bytes.len()))
        }
        Value::Nil => Err("index of nothing".to_owned()),
        other => Err(format!("can't index {}", other.type_name())),
    }
}

/// sprig's `slice list start end`; on texts Go's own.
fn slice<'x>(work: &mut Work, args: &[Value<'x>]) -> Answer<'x> {
    let value = args[0].clone().plain();
    let length = match &value {
        Value::Text(text) => text.len(),
        Value::List(list) => list.items().len(),
        Value::Bytes(bytes) => bytes.len(),
        other => return Err(wants("a list or a text", other)),
    };
    let bound = |arg: Option<&Value<'x>>, otherwise: usize| match arg {
        None => Ok(otherwise),
        Some(arg) => usize::try_from(int_of(arg)?).map_err(|_| "an index below zero".to_owned()),
    };
    let (start, end) = (bound(args.get(1), 0)?, bound(args.get(2), length)?);
    if start > end || end > length {
        return Err(format!("{start} to {end} is out of range of {length}"));
    }
    match value {
        Value::Text(text) => match text.get(start..end) {
            Some(part) => work.text(part),
            None => Err(format!("{start} to {end} would cut a character")),
        },
        Value::List(list) => work.list(list.items()[start..end].to_vec()),
        Value::Bytes(bytes) => Ok(Value::Bytes(Arc::from(&bytes[start..end]))),
        _ => Ok(Value::Nil),
    }
}

/// `print`: a space between two operands when neither is a text. `println`: always one, and a line end.
fn joined<'x>(work: &mut Work, args: &[Value<'x>], line: bool) -> Answer<'x> {
    let mut out = value::Sink::new(work.bytes);
    for (at, arg) in args.iter().enumerate() {
        let text = |v: &Value<'_>| matches!(v, Value::Text(_));
        if at > 0 && (line || !(text(arg) || text(&args[at - 1]))) {
            out.push(" ")?;
        }
        print(arg, &mut out)?;
    }
    if line {
        out.push("\n")?;
    }
    work.text(out.as_str())
}

fn escaped<'x>(work: &mut Work, args: &[Value<'x>], escape: fn(&str) -> String) -> Answer<'x> {
    let text = match args {
        [one] => work.show(one)?,
        many => text_of(&joined(work, many, false)?)?,
    };
    // The longest escape is six bytes for one.
    work.reserve(text.len() * 6)?;
    Ok(Value::text(escape(&text)))
}

fn json<'x>(work: &mut Work, value: &Value<'x>, indent: bool, escape: bool) -> Answer<'x> {
    let mut nodes = work.steps.min(work.bytes / 32);
    let before = nodes;
    let mut tree = value.to_json(&mut nodes)?;
    work.spend(before - nodes)?;
    work.reserve((before - nodes) * 32)?;
    if work.hide_texts {
        work.sayings.hide_texts(&mut tree, escape);
    }
    work.text(encoding::json(&tree, indent, escape))
}

fn from_json<'x>(work: &mut Work, value: &Value<'x>) -> Answer<'x> {
    let text = text_of(value)?;
    // A value of a few bytes becomes a node of a few dozen.
    work.reserve(text.len() * 8)?;
    let json = serde_json::from_str(&text).map_err(|e| format!("not JSON: {e}"))?;
    Ok(Value::of_json(&json))
}

/// A text cut to what fits a message.
pub(in crate::template) fn truncated(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

pub(super) fn random(bytes: &mut [u8]) -> Result<(), String> {
    use ring::rand::{SecureRandom, SystemRandom};
    SystemRandom::new().fill(bytes).map_err(|_| "the system has no random bytes".to_owned())
}

fn uuid() -> String {
    let mut b = [0u8; 16];
    // Without randomness all bytes stay zero: a wrong UUID is visible, a stopped request is worse.
    let _ = random(&mut b);
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex = encoding::hex(&b);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
