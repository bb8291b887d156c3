//! RFC 3339 in UTC with whole seconds, both ways: enough for `createdAt` and heartbeats.

use base_text::calendar::{self, date_of, read_rfc3339};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `2026-04-01T12:00:00Z`.
pub fn rfc3339(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = ((seconds / DAY) as i64, seconds % DAY);
    let (year, month, day) = date_of(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Also takes fractions of a second and offsets, as other writers of documents use them.
pub fn parse(text: &str) -> Option<SystemTime> {
    let (seconds, _) = read_rfc3339(text)?;
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// How long ago, in the largest unit that says something: `42s`, `5m`, `3h`, `12d`.
pub fn age(at: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(at).unwrap_or_default().as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / DAY),
    }
}

const DAY: u64 = calendar::DAY as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_go_both_ways() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_775_044_800, "2026-04-01T12:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
        ] {
            let at = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(rfc3339(at), text);
            assert_eq!(parse(text), Some(at));
        }
        assert_eq!(parse("2026-04-01T14:00:00.25+02:00"), parse("2026-04-01T12:00:00Z"));
        assert_eq!(parse("yesterday"), None);
    }
}
