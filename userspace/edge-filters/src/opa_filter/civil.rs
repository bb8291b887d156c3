//! `time.*` in UTC: nanoseconds since 1970 and what clocks and calendars make of them.

use super::builtins::text;
use base_model::GoDuration;
use base_text::calendar::{date_of, read_rfc3339};
use regorus::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY_NS: i64 = 86_400_000_000_000;

pub(super) fn now_ns(_: &[Value]) -> Option<Value> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(Value::from(i64::try_from(now.as_nanos()).ok()?))
}

/// `2024-05-01T12:30:00.5+02:00`.
pub(super) fn parse_rfc3339_ns(args: &[Value]) -> Option<Value> {
    let (seconds, nanos) = read_rfc3339(text(&args[0])?)?;
    seconds.checked_mul(1_000_000_000)?.checked_add(i64::from(nanos)).map(Value::from)
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
    let (year, month, day) = date_of(nanoseconds(&args[0])?.div_euclid(DAY_NS));
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
