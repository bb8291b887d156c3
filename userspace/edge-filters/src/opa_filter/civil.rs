//! `time.*` in UTC: nanoseconds since 1970 and what clocks and calendars make of them.

use super::builtins::text;
use base_model::GoDuration;
use regorus::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY_NS: i64 = 86_400_000_000_000;

pub(super) fn now_ns(_: &[Value]) -> Option<Value> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(Value::from(i64::try_from(now.as_nanos()).ok()?))
}

/// `2024-05-01T12:30:00.5+02:00`.
pub(super) fn parse_rfc3339_ns(args: &[Value]) -> Option<Value> {
    parse(text(&args[0])?).map(Value::from)
}

/// `1h30m`.
pub(super) fn parse_duration_ns(args: &[Value]) -> Option<Value> {
    let (sign, text) = match text(&args[0])?.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text(&args[0])?),
    };
    let duration = Duration::from(text.parse::<GoDuration>().ok()?);
    Some(Value::from(sign * i64::try_from(duration.as_nanos()).ok()?))
}

pub(super) fn date(args: &[Value]) -> Option<Value> {
    let (year, month, day) = civil(nanoseconds(&args[0])?.div_euclid(DAY_NS));
    Some(list(&[year, month, day]))
}

pub(super) fn clock(args: &[Value]) -> Option<Value> {
    let seconds = nanoseconds(&args[0])?.rem_euclid(DAY_NS) / 1_000_000_000;
    Some(list(&[seconds / 3600, seconds / 60 % 60, seconds % 60]))
}

pub(super) fn weekday(args: &[Value]) -> Option<Value> {
    const NAMES: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let day = nanoseconds(&args[0])?.div_euclid(DAY_NS);
    Some(Value::from(NAMES[day.rem_euclid(7) as usize]))
}

/// Nanoseconds, or a list of them and a zone, which must be UTC.
fn nanoseconds(value: &Value) -> Option<i64> {
    match value {
        Value::Array(parts) => {
            let zone = text(parts.get(1)?)?;
            matches!(zone, "" | "UTC").then(|| parts[0].as_i64().ok())?
        }
        value => value.as_i64().ok(),
    }
}

fn list(numbers: &[i64]) -> Value {
    Value::from(numbers.iter().map(|n| Value::from(*n)).collect::<Vec<_>>())
}

/// Year, month and day of a number of days since 1970.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

fn parse(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || !text.is_ascii() {
        return None;
    }
    let marks = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if marks.iter().any(|(at, mark)| bytes[*at] != *mark) || !matches!(bytes[10], b'T' | b't') {
        return None;
    }
    let compact =
        format!("{}{}{}T{}{}{}Z", &text[..4], &text[5..7], &text[8..10], &text[11..13], &text[14..16], &text[17..19]);
    let seconds = crate::form::seconds_of(&compact)?;
    let mut rest = &text[19..];
    let mut fraction = 0;
    if let Some(after) = rest.strip_prefix('.') {
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        let shown = &after[..digits.min(9)];
        fraction = format!("{shown:0<9}").parse().ok().filter(|_| digits > 0)?;
        rest = &after[digits..];
    }
    let offset = match rest {
        "Z" | "z" => 0,
        _ => {
            let sign = match rest.as_bytes().first()? {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let (hours, minutes) = rest[1..].split_once(':').filter(|(h, m)| h.len() == 2 && m.len() == 2)?;
            let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
            ((0..24).contains(&hours) && (0..60).contains(&minutes)).then_some(sign * (hours * 3600 + minutes * 60))?
        }
    };
    (seconds - offset).checked_mul(1_000_000_000)?.checked_add(fraction)
}
