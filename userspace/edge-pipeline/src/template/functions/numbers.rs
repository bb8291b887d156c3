//! sprig's arithmetic and conversions.

use super::*;

pub(super) const TABLE: &[Function] = &[
    function("atoi", 1, 1, |_, args| Ok(Value::Int(text_of(&args[0])?.parse().unwrap_or(0)))),
    function("int", 1, 1, |_, args| Ok(Value::Int(whole(&args[0])))),
    function("int64", 1, 1, |_, args| Ok(Value::Int(whole(&args[0])))),
    function("float64", 1, 1, |_, args| Ok(Value::Float(float(&args[0])))),
    function("toDecimal", 1, 1, |work, args| {
        let text = work.show(&args[0])?;
        Ok(Value::Int(i64::from_str_radix(&text, 8).unwrap_or(0)))
    }),
    function("add1", 1, 1, |_, args| checked(whole(&args[0]).checked_add(1))),
    function("add", 0, MANY, |_, args| fold(args, 0, i64::checked_add)),
    function("sub", 2, 2, |_, args| checked(whole(&args[0]).checked_sub(whole(&args[1])))),
    function("div", 2, 2, |_, args| match whole(&args[1]) {
        0 => Err(ZERO.to_owned()),
        by => checked(whole(&args[0]).checked_div(by)),
    }),
    function("mod", 2, 2, |_, args| match whole(&args[1]) {
        0 => Err(ZERO.to_owned()),
        by => checked(whole(&args[0]).checked_rem(by)),
    }),
    function("mul", 1, MANY, |_, args| fold(args, 1, i64::checked_mul)),
    function("max", 1, MANY, |_, args| Ok(Value::Int(args.iter().map(whole).max().unwrap_or(0)))),
    function("biggest", 1, MANY, |_, args| Ok(Value::Int(args.iter().map(whole).max().unwrap_or(0)))),
    function("min", 1, MANY, |_, args| Ok(Value::Int(args.iter().map(whole).min().unwrap_or(0)))),
    function("maxf", 1, MANY, |_, args| Ok(Value::Float(args.iter().map(float).fold(f64::NEG_INFINITY, f64::max)))),
    function("minf", 1, MANY, |_, args| Ok(Value::Float(args.iter().map(float).fold(f64::INFINITY, f64::min)))),
    function("ceil", 1, 1, |_, args| Ok(Value::Float(float(&args[0]).ceil()))),
    function("floor", 1, 1, |_, args| Ok(Value::Float(float(&args[0]).floor()))),
    function("round", 2, 3, |_, args| {
        let (n, places) = (float(&args[0]), int_of(&args[1])?.clamp(-300, 300) as i32);
        let up_from = args.get(2).map_or(0.5, float);
        let scale = 10f64.powi(places);
        let scaled = n * scale;
        let rounded = if scaled.fract().abs() >= up_from { scaled.trunc() + scaled.signum() } else { scaled.trunc() };
        Ok(Value::Float(if scaled.is_finite() { rounded / scale } else { n }))
    }),
    function("randInt", 2, 2, |_, args| {
        let (low, high) = (int_of(&args[0])?, int_of(&args[1])?);
        let span = high.checked_sub(low).filter(|span| *span > 0).ok_or("the second number must be the greater one")?;
        let mut bytes = [0u8; 8];
        super::core::random(&mut bytes)?;
        Ok(Value::Int(low + (u64::from_le_bytes(bytes) % span as u64) as i64))
    }),
    function("until", 1, 1, |work, args| {
        let count = int_of(&args[0])?;
        steps(work, 0, count, if count < 0 { -1 } else { 1 })
    }),
    function("untilStep", 3, 3, |work, args| steps(work, int_of(&args[0])?, int_of(&args[1])?, int_of(&args[2])?)),
    function("seq", 0, 3, |work, args| {
        let number = |at: usize| int_of(&args[at]);
        let (first, last, by) = match args.len() {
            0 => return Ok(Value::text("")),
            1 => (1, number(0)?, if number(0)? < 1 { -1 } else { 1 }),
            2 => (number(0)?, number(1)?, if number(1)? < number(0)? { -1 } else { 1 }),
            _ => (number(0)?, number(2)?, number(1)?),
        };
        if (by > 0 && last < first) || (by < 0 && last > first) {
            return Ok(Value::text(""));
        }
        let end = last.checked_add(by.signum()).ok_or(OVERFLOW)?;
        let numbers = items_of(&steps(work, first, end, by)?)?;
        let mut words = Vec::with_capacity(numbers.len());
        for number in &numbers {
            words.push(work.show(number)?);
        }
        work.text(words.join(" "))
    }),
];

/// `cast.ToInt64`: what is no number counts as zero.
fn whole(value: &Value<'_>) -> i64 {
    match value {
        Value::Int(n) => *n,
        Value::Float(n) => *n as i64,
        Value::Bool(b) => i64::from(*b),
        Value::Text(text) => text.parse().unwrap_or(0),
        _ => 0,
    }
}

/// `cast.ToFloat64`.
pub(super) fn float(value: &Value<'_>) -> f64 {
    match value {
        Value::Int(n) => *n as f64,
        Value::Float(n) => *n,
        Value::Bool(b) => f64::from(u8::from(*b)),
        Value::Text(text) => text.trim().parse().unwrap_or(0.0),
        _ => 0.0,
    }
}

/// A whole number in any of Go's notations: `12`, `0x1f`, `0o17`, `017`, `0b11`, with `_` between digits.
pub(in crate::template) fn parse_int(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit() || (c == '_' && radix != 10)) || digits.ends_with('_') {
        return None;
    }
    let magnitude = i128::from_str_radix(&digits.replace('_', ""), radix).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

fn checked<'x>(n: Option<i64>) -> Answer<'x> {
    n.map(Value::Int).ok_or_else(|| OVERFLOW.to_owned())
}

fn fold<'x>(args: &[Value<'x>], start: i64, step: fn(i64, i64) -> Option<i64>) -> Answer<'x> {
    checked(args.iter().map(whole).try_fold(start, step))
}

/// `start`, `start + by`, … up to before `stop`.
fn steps<'x>(work: &mut Work, start: i64, stop: i64, by: i64) -> Answer<'x> {
    let mut numbers = Vec::new();
    let mut n = start;
    while (by > 0 && n < stop) || (by < 0 && n > stop) {
        work.spend(1)?;
        work.reserve(size_of::<Value<'x>>())?;
        numbers.push(Value::Int(n));
        n = n.checked_add(by).ok_or(OVERFLOW)?;
    }
    Ok(Value::list(numbers))
}

const ZERO: &str = "division by zero";
const OVERFLOW: &str = "the result does not fit 64 bits";
