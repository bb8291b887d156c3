//! Dates of the Gregorian calendar in UTC, and moments as RFC 3339 writes them.

use std::ops::RangeInclusive;

/// Seconds of a day.
pub const DAY: i64 = 86_400;

/// Year, month and day of a number of days since 1970-01-01, counting in eras of 400 years that begin in March (H. Hinnant,
/// "chrono-compatible low-level date algorithms"): leap days come last in a year then, and months need no table.
pub fn date_of(days: i64) -> (i64, i64, i64) {
    let shifted = days + TO_1970;
    let (era, day_of_era) = (shifted.div_euclid(ERA), shifted.rem_euclid(ERA));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Days from 1970-01-01 to a date, before it below zero; `None`: there is no such date.
pub fn days_to(year: i64, month: i64, day: i64) -> Option<i64> {
    if !days_in(year, month)?.contains(&day) {
        return None;
    }
    let shifted = year - i64::from(month <= 2);
    let (era, year_of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * ERA + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - TO_1970)
}

/// Seconds from 1970 to a second of a day; `None`: there is none such. A leap second is the first of the next minute.
pub fn seconds_to(date: (i64, i64, i64), clock: (i64, i64, i64)) -> Option<i64> {
    let (hour, minute, second) = clock;
    let is_clock = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..=60).contains(&second);
    let days = days_to(date.0, date.1, date.2).filter(|_| is_clock)?;
    Some(days * DAY + hour * 3600 + minute * 60 + second)
}

/// Seconds since 1970 and nanoseconds of `2026-11-29T18:00:00.5Z` or `…+01:00` (RFC 3339 section 5.6), before 1970 below zero.
pub fn read_rfc3339(text: &str) -> Option<(i64, u32)> {
    let bytes = text.as_bytes();
    let is = |at: usize, wanted: &[u8]| bytes.get(at).is_some_and(|byte| wanted.contains(byte));
    let number = |from, to| digits(bytes.get(from..to)?);
    let marks = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let date = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let clock = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let seconds = seconds_to(date, clock).filter(|_| marks)?;
    let (mut at, mut nanos) = (19, 0);
    if is(at, b".") {
        let fraction = bytes[20..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let nine = bytes[20..20 + fraction].iter().chain(b"000000000").take(9);
        nanos = nine.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
        at = if fraction == 0 { return None } else { 20 + fraction };
    }
    let offset = if is(at, b"Zz") {
        0
    } else {
        let sign = if is(at, b"-") { -1 } else { 1 };
        let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
        if !is(at, b"+-") || !is(at + 3, b":") || hours > 23 || minutes > 59 {
            return None;
        }
        at += 5;
        sign * (hours * 3600 + minutes * 60)
    };
    (bytes.len() == at + 1).then_some((seconds - offset, nanos))
}

/// A number that is written in digits only; empty, it is none.
pub fn digits(text: &[u8]) -> Option<i64> {
    let all = !text.is_empty() && text.len() <= 18 && text.iter().all(u8::is_ascii_digit);
    all.then(|| text.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
}

fn days_in(year: i64, month: i64) -> Option<RangeInclusive<i64>> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => Some(1..=28 + i64::from(leap)),
        4 | 6 | 9 | 11 => Some(1..=30),
        1..=12 => Some(1..=31),
        _ => None,
    }
}

/// Days of 400 years.
const ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const TO_1970: i64 = 719_468;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn dates_go_both_ways(days in -4_000_000_i64..4_000_000) {
            let (year, month, day) = date_of(days);
            prop_assert_eq!(days_to(year, month, day), Some(days));
            let (next_year, next_month, next_day) = date_of(days + 1);
            prop_assert!((next_year, next_month, next_day) > (year, month, day));
        }

        #[test]
        fn no_text_panics(text in "[0-9TtZz:+. -]{0,30}|\\PC{0,30}") {
            let _ = read_rfc3339(&text);
        }
    }

    #[test]
    fn moments_are_read_in_any_zone() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("1969-12-31T23:59:59Z", -1, 0),
            ("2000-02-29T12:00:00Z", 951_825_600, 0),
            ("2026-11-29T18:00:00+01:00", 1_795_971_600, 0),
            ("2026-11-29t12:00:00-05:00", 1_795_971_600, 0),
            ("2026-11-29 17:00:00.25z", 1_795_971_600, 250_000_000),
            ("2026-11-29T17:00:00.1234567891Z", 1_795_971_600, 123_456_789),
            ("2016-12-31T23:59:60Z", 1_483_228_800, 0),
        ] {
            assert_eq!(read_rfc3339(text), Some((seconds, nanos)), "{text}");
        }
        for text in [
            "",
            "now",
            "2026-11-29",
            "2026-11-29T18:00Z",
            "2026-11-29T18:00:00",
            "2026-02-29T18:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-11-29T24:00:00Z",
            "2026-11-29T18:00:00.Z",
            "2026-11-29T18:00:00+1:00",
            "2026-11-29T18:00:00+24:00",
            "2026-11-29T18:00:00Zulu",
            "2026-11-29T+8:00:00Z",
            "2026/11/29T18:00:00Z",
            "２026-11-29T18:00:00Z",
        ] {
            assert_eq!(read_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn there_are_so_many_days_in_a_month() {
        assert_eq!(days_to(1900, 2, 29), None);
        assert_eq!(days_to(2000, 2, 29).map(date_of), Some((2000, 2, 29)));
        assert_eq!((days_to(2026, 4, 31), days_to(2026, 4, 0), days_to(2026, 13, 1)), (None, None, None));
        assert_eq!(seconds_to((1970, 1, 2), (1, 1, 1)), Some(DAY + 3661));
        assert_eq!(seconds_to((1970, 1, 2), (24, 0, 0)), None);
    }
}
