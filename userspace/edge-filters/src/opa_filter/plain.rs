//! Functions on texts, lists and times that the engine does not have, or not as OPA has them.

use super::builtins::{LIST_MAX, text};
use regorus::Value;
use std::collections::BTreeSet;

/// Longest text a function makes of a short one, in bytes.
const TEXT_MAX: usize = 4 * 1024 * 1024;

/// The engine's own panics where nothing is looked for.
pub(super) fn count(args: &[Value]) -> Option<Value> {
    let (all, part) = (text(&args[0])?, text(&args[1])?);
    let count = if part.is_empty() { all.chars().count() + 1 } else { all.matches(part).count() };
    Some(Value::from(count as u64))
}

/// The first parts of a text, or the last where the number is below zero.
pub(super) fn split_n(args: &[Value]) -> Option<Value> {
    let (all, by, most) = (text(&args[0])?, text(&args[1])?, args[2].as_i64().ok()?);
    let parts: Vec<&str> = match by {
        "" => all.split("").filter(|part| !part.is_empty()).collect(),
        by => all.split(by).collect(),
    };
    let count = usize::try_from(most.unsigned_abs()).unwrap_or(usize::MAX).min(parts.len());
    let parts = if most < 0 { &parts[parts.len() - count..] } else { &parts[..count] };
    Some(Value::from(parts.iter().map(|part| Value::from(*part)).collect::<Vec<_>>()))
}

/// All at once, from the front, and of two that begin at one place the one that comes first in the alphabet: nothing that was put in is
/// looked at again.
pub(super) fn replace_n(args: &[Value]) -> Option<Value> {
    let pairs: Option<Vec<(&str, &str)>> =
        args[0].as_object().ok()?.iter().map(|(old, new)| Some((text(old)?, text(new)?))).collect();
    let mut pairs = pairs?;
    pairs.sort_unstable();
    let (mut rest, mut made, mut was_empty) = (text(&args[1])?, String::new(), false);
    loop {
        let fits = |(old, _): &&(&str, &str)| rest.starts_with(old) && !(was_empty && old.is_empty());
        match pairs.iter().find(fits) {
            Some((old, new)) => {
                made.push_str(new);
                rest = &rest[old.len()..];
                was_empty = old.is_empty();
            }
            None => {
                let Some(next) = rest.chars().next() else { break };
                made.push(next);
                rest = &rest[next.len_utf8()..];
                was_empty = false;
            }
        }
        if made.len() > TEXT_MAX {
            return None;
        }
    }
    Some(Value::from(made))
}

/// Lists in a list give way to what is in them, once.
pub(super) fn flatten(args: &[Value]) -> Option<Value> {
    let mut flat = Vec::new();
    for value in args[0].as_array().ok()? {
        match value {
            Value::Array(inner) => flat.extend(inner.iter().cloned()),
            value => flat.push(value.clone()),
        }
        if flat.len() as u64 > LIST_MAX {
            return None;
        }
    }
    Some(Value::from(flat))
}

fn members(value: &Value) -> Option<Vec<&Value>> {
    match value {
        Value::Array(all) => Some(all.iter().collect()),
        Value::Set(all) => Some(all.iter().collect()),
        _ => None,
    }
}

pub(super) fn all(args: &[Value]) -> Option<Value> {
    Some(Value::from(members(&args[0])?.into_iter().all(|value| *value == Value::from(true))))
}

pub(super) fn any(args: &[Value]) -> Option<Value> {
    Some(Value::from(members(&args[0])?.into_iter().any(|value| *value == Value::from(true))))
}

pub(super) fn cast_array(args: &[Value]) -> Option<Value> {
    Some(Value::from(members(&args[0])?.into_iter().cloned().collect::<Vec<_>>()))
}

pub(super) fn cast_set(args: &[Value]) -> Option<Value> {
    Some(Value::from(members(&args[0])?.into_iter().cloned().collect::<BTreeSet<_>>()))
}

/// The same, where it is of that kind.
pub(super) fn cast(args: &[Value], is: fn(&Value) -> bool) -> Option<Value> {
    is(&args[0]).then(|| args[0].clone())
}

pub(super) fn set_diff(args: &[Value]) -> Option<Value> {
    let (Value::Set(of), Value::Set(without)) = (&args[0], &args[1]) else { return None };
    Some(Value::from(of.iter().filter(|value| !without.contains(value)).cloned().collect::<BTreeSet<_>>()))
}

/// The old name of `regex.match`.
pub(super) fn re_match(args: &[Value]) -> Option<Value> {
    let pattern = base_model::regexp::compile(text(&args[0])?).ok()?;
    Some(Value::from(pattern.is_match(text(&args[1])?)))
}

/// `1w2d3h4m5.5s`: as Go reads durations, with days, weeks, and years of 365 days.
pub(super) fn parse_duration_ns(args: &[Value]) -> Option<Value> {
    let said = text(&args[0])?;
    let (sign, mut rest) = match said.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, said.strip_prefix('+').unwrap_or(said)),
    };
    if rest == "0" {
        return Some(Value::from(0u64));
    }
    let (mut sum, mut parts) = (0i128, 0);
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (whole, part) = rest[..number].split_once('.').unwrap_or((&rest[..number], ""));
        let unit_end =
            rest[number..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |end| number + end);
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[number..unit_end])?;
        let digits = |text: &str| text.parse::<i128>().ok().filter(|_| text.len() <= DIGITS_MAX);
        let whole = if whole.is_empty() && !part.is_empty() { 0 } else { digits(whole)? };
        let part = if part.is_empty() { 0 } else { digits(part)? * unit / 10i128.pow(part.len() as u32) };
        sum = sum.checked_add(whole.checked_mul(*unit)?.checked_add(part)?)?;
        rest = &rest[unit_end..];
        parts += 1;
    }
    (parts > 0).then(|| i64::try_from(sign * sum).ok()).flatten().map(Value::from)
}

/// Digits of a number that fit with room to spare.
const DIGITS_MAX: usize = 18;

const UNITS: [(&str, i128); 11] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
    ("y", 31_536_000_000_000_000),
];
