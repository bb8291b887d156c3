//! `printf` with Go's verbs, flags, widths and complaints.

use super::encoding;
use super::value::{DEPTH_MAX, Sink, TOO_BIG, TOO_DEEP, Value, print};

/// Formats `args` by `format` into at most `max` bytes.
pub(super) fn printf(format: &str, args: &[Value<'_>], max: usize) -> Result<String, &'static str> {
    let mut out = Sink::new(max);
    let mut args = args.iter();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push(&rest[..at])?;
        rest = &rest[at + 1..];
        let mut spec = Spec::default();
        while let Some(flag) = rest.chars().next().filter(|c| "+-# 0".contains(*c)) {
            match flag {
                '+' => spec.plus = true,
                '-' => spec.minus = true,
                '#' => spec.sharp = true,
                ' ' => spec.space = true,
                _ => spec.zero = true,
            }
            rest = &rest[1..];
        }
        (spec.width, rest) = number(rest, &mut args)?;
        if let Some(width) = spec.width.filter(|w| *w < 0) {
            spec.minus = true;
            spec.width = Some(-width);
        }
        if let Some(after) = rest.strip_prefix('.') {
            let (precision, after) = number(after, &mut args)?;
            spec.precision = Some(precision.unwrap_or(0).max(0) as usize);
            rest = after;
        }
        let Some(verb) = rest.chars().next() else {
            out.push("%!(NOVERB)")?;
            break;
        };
        rest = &rest[verb.len_utf8()..];
        if verb == '%' {
            out.push("%")?;
            continue;
        }
        match args.next() {
            None => out.push(&format!("%!{verb}(MISSING)"))?,
            Some(arg) => spec.write(verb, arg, &mut out, max, 0)?,
        }
    }
    out.push(rest)?;
    let extra: Vec<&Value<'_>> = args.collect();
    if !extra.is_empty() {
        out.push("%!(EXTRA ")?;
        for (index, arg) in extra.iter().enumerate() {
            out.push(if index > 0 { ", " } else { "" })?;
            out.push(arg.type_name())?;
            if !matches!(arg, Value::Nil) {
                out.push("=")?;
                print(arg, &mut out)?;
            }
        }
        out.push(")")?;
    }
    Ok(out.into_text())
}

/// A width or precision: digits, or `*` for the next argument.
fn number<'f, 'v, 'x: 'v>(
    text: &'f str,
    args: &mut impl Iterator<Item = &'v Value<'x>>,
) -> Result<(Option<i64>, &'f str), &'static str> {
    if let Some(rest) = text.strip_prefix('*') {
        return match args.next() {
            Some(Value::Int(n)) if n.unsigned_abs() <= WIDTH_MAX => Ok((Some(*n), rest)),
            _ => Err("printf: a * wants a whole number of at most 1000000"),
        };
    }
    let count = text.bytes().take_while(u8::is_ascii_digit).count();
    if count == 0 {
        return Ok((None, text));
    }
    match text[..count].parse::<u64>() {
        Ok(n) if n <= WIDTH_MAX => Ok((Some(n as i64), &text[count..])),
        _ => Err("printf: a width or precision is above 1000000"),
    }
}

#[derive(Default)]
struct Spec {
    plus: bool,
    minus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<i64>,
    precision: Option<usize>,
}

impl Spec {
    fn write(&self, verb: char, arg: &Value<'_>, out: &mut Sink, max: usize, depth: usize) -> Result<(), &'static str> {
        if depth > DEPTH_MAX {
            return Err(TOO_DEEP);
        }
        let text = match (verb, arg) {
            ('v', Value::Nil) => "<nil>".to_owned(),
            ('T', arg) => arg.type_name().to_owned(),
            ('v' | 'd', Value::Int(n)) => self.integer(*n, 10, false),
            ('v', Value::Float(n)) => self.float('g', *n),
            ('v', Value::Text(text)) if self.sharp => encoding::quote(text),
            ('v' | 's', Value::Text(text)) => self.cut(text).to_owned(),
            ('s', Value::Bytes(bytes)) => self.cut(&String::from_utf8_lossy(bytes)).to_owned(),
            ('q', Value::Text(text)) => encoding::quote(self.cut(text)),
            ('q', Value::Int(n)) => {
                let c = u32::try_from(*n).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
                format!("'{c}'")
            }
            ('x', Value::Text(text)) => encoding::hex(text.as_bytes()),
            ('X', Value::Text(text)) => encoding::hex(text.as_bytes()).to_uppercase(),
            ('x', Value::Bytes(bytes)) => encoding::hex(bytes),
            ('t', Value::Bool(b)) => b.to_string(),
            ('b', Value::Int(n)) => self.integer(*n, 2, false),
            ('o', Value::Int(n)) => self.integer(*n, 8, false),
            ('x', Value::Int(n)) => self.integer(*n, 16, false),
            ('X', Value::Int(n)) => self.integer(*n, 16, true),
            ('c', Value::Int(n)) => u32::try_from(*n).ok().and_then(char::from_u32).unwrap_or('\u{fffd}').to_string(),
            ('U', Value::Int(n)) => format!("U+{n:04X}"),
            ('e' | 'E' | 'f' | 'F' | 'g' | 'G', Value::Float(n)) => self.float(verb, *n),
            ('s' | 'd' | 'q', Value::List(list)) => {
                // A verb reaches into lists.
                let mut inner = Sink::new(max);
                inner.push("[")?;
                let element = Spec { width: None, ..*self };
                for (index, item) in list.items().iter().enumerate() {
                    inner.push(if index > 0 { " " } else { "" })?;
                    element.write(verb, item, &mut inner, max, depth + 1)?;
                }
                inner.push("]")?;
                inner.into_text()
            }
            ('s' | 'd' | 'q', Value::Map(map)) => {
                let mut inner = Sink::new(max);
                inner.push("map[")?;
                let element = Spec { width: None, ..*self };
                for (index, (key, item)) in map.entries().into_iter().enumerate() {
                    inner.push(if index > 0 { " " } else { "" })?;
                    element.write(verb, &Value::Text(key), &mut inner, max, depth + 1)?;
                    inner.push(":")?;
                    element.write(verb, &item, &mut inner, max, depth + 1)?;
                }
                inner.push("]")?;
                inner.into_text()
            }
            ('v', other) => printed(other, max)?,
            ('s', other @ (Value::Time(_) | Value::Object(_))) => printed(other, max)?,
            (verb, Value::Nil) => format!("%!{verb}(<nil>)"),
            (verb, other) => format!("%!{verb}({}={})", other.type_name(), printed(other, max)?),
        };
        self.pad(&text, arg, out)
    }

    fn cut<'t>(&self, text: &'t str) -> &'t str {
        match self.precision {
            Some(most) => text.char_indices().nth(most).map_or(text, |(end, _)| &text[..end]),
            None => text,
        }
    }

    fn integer(&self, n: i64, radix: u32, upper: bool) -> String {
        let magnitude = n.unsigned_abs();
        let mut digits = match (radix, upper) {
            (2, _) => format!("{magnitude:b}"),
            (8, _) => format!("{magnitude:o}"),
            (16, false) => format!("{magnitude:x}"),
            (16, true) => format!("{magnitude:X}"),
            _ => magnitude.to_string(),
        };
        if let Some(least) = self.precision {
            digits = format!("{}{digits}", "0".repeat(least.saturating_sub(digits.len())));
        }
        let prefix = match radix {
            2 if self.sharp => "0b",
            8 if self.sharp => "0",
            16 if self.sharp && upper => "0X",
            16 if self.sharp => "0x",
            _ => "",
        };
        format!("{}{prefix}{digits}", self.sign(n < 0))
    }

    fn sign(&self, negative: bool) -> &'static str {
        match negative {
            true => "-",
            false if self.plus => "+",
            false if self.space => " ",
            false => "",
        }
    }

    fn float(&self, verb: char, n: f64) -> String {
        if !n.is_finite() {
            return super::value::float(n);
        }
        let magnitude = n.abs();
        let text = match verb {
            'f' | 'F' => format!("{magnitude:.*}", self.precision.unwrap_or(6).min(PRECISION_MAX)),
            'e' | 'E' => exponent(&format!("{magnitude:.*e}", self.precision.unwrap_or(6).min(PRECISION_MAX))),
            _ => match self.precision {
                None => super::value::float(magnitude),
                Some(digits) => general(magnitude, digits.clamp(1, PRECISION_MAX)),
            },
        };
        let text = if matches!(verb, 'E' | 'G') { text.to_uppercase() } else { text };
        format!("{}{text}", self.sign(n.is_sign_negative()))
    }

    fn pad(&self, text: &str, arg: &Value<'_>, out: &mut Sink) -> Result<(), &'static str> {
        let length = text.chars().count();
        let missing = usize::try_from(self.width.unwrap_or(0)).unwrap_or(0).saturating_sub(length);
        if missing == 0 {
            return out.push(text);
        }
        if missing > WIDTH_MAX as usize {
            return Err(TOO_BIG);
        }
        if self.minus {
            out.push(text)?;
            return out.push(&" ".repeat(missing));
        }
        if self.zero && (self.precision.is_none() || matches!(arg, Value::Float(_))) {
            // Zeros go between the sign and the digits.
            let numeric = matches!(arg, Value::Int(_) | Value::Float(_));
            let sign = if numeric { text.len() - text.trim_start_matches(['+', '-', ' ']).len() } else { 0 };
            out.push(&text[..sign])?;
            out.push(&"0".repeat(missing))?;
            return out.push(&text[sign..]);
        }
        out.push(&" ".repeat(missing))?;
        out.push(text)
    }
}

fn printed(value: &Value<'_>, max: usize) -> Result<String, &'static str> {
    let mut out = Sink::new(max);
    print(value, &mut out)?;
    Ok(out.into_text())
}

/// `1.5e3` → `1.5e+03`.
fn exponent(text: &str) -> String {
    let Some((mantissa, exponent)) = text.split_once('e') else { return text.to_owned() };
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// `%.Ng`: at most `digits` significant ones, trailing zeros gone.
fn general(n: f64, digits: usize) -> String {
    if n == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{n:.*e}", digits - 1);
    let (mantissa, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if power < -4 || power >= digits as i32 {
        return exponent(&format!("{}e{power}", trimmed(mantissa)));
    }
    trimmed(&format!("{n:.*}", (digits as i32 - 1 - power).max(0) as usize))
}

/// Go's own bound.
const WIDTH_MAX: u64 = 1_000_000;
/// More digits than any float has.
const PRECISION_MAX: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_go_does() {
        for (format, args, want) in [
            ("%d %s", vec![Value::Int(3), Value::text("x")], "3 x"),
            ("%5d|%-5d|%05d", vec![Value::Int(42), Value::Int(42), Value::Int(-42)], "   42|42   |-0042"),
            ("%.2f", vec![Value::Float(2.005)], "2.00"),
            ("%8.3f|", vec![Value::Float(1.0 / 3.0)], "   0.333|"),
            ("%e", vec![Value::Float(123456.0)], "1.234560e+05"),
            ("%g %.3g", vec![Value::Float(1e6), Value::Float(1234.5)], "1e+06 1.23e+03"),
            ("%q", vec![Value::text("a\"b\n")], r#""a\"b\n""#),
            (
                "%x %X %#x %b %o",
                vec![Value::Int(255), Value::Int(255), Value::Int(255), Value::Int(5), Value::Int(8)],
                "ff FF 0xff 101 10",
            ),
            ("%s", vec![Value::Int(3)], "%!s(int=3)"),
            ("%d", vec![], "%!d(MISSING)"),
            ("%d", vec![Value::text("x")], "%!d(string=x)"),
            ("x", vec![Value::Int(1), Value::text("b")], "x%!(EXTRA int=1, string=b)"),
            ("100%", vec![], "100%!(NOVERB)"),
            ("%%", vec![], "%"),
            ("%t %v", vec![Value::Bool(true), Value::Nil], "true <nil>"),
            ("%*d", vec![Value::Int(4), Value::Int(7)], "   7"),
            ("%.1s", vec![Value::text("äb")], "ä"),
            ("%v", vec![Value::list(vec![Value::Int(1), Value::text("a")])], "[1 a]"),
            ("%T", vec![Value::Float(1.0)], "float64"),
            ("%c%U", vec![Value::Int(0x4e16), Value::Int(0x4e16)], "世U+4E16"),
            ("%+d", vec![Value::Int(5)], "+5"),
        ] {
            assert_eq!(printf(format, &args, 1000).as_deref(), Ok(want), "{format}");
        }
    }
}
