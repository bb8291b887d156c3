//! Moments, always in UTC, printed and read by Go's layouts (`2006-01-02 15:04:05`).

use base_text::calendar::{DAY, date_of, days_to};
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A moment with nanosecond resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    /// Seconds since 1970, bounded to the years that four digits can write.
    pub secs: i64,
    pub nanos: u32,
}

/// A moment taken apart.
struct Parts {
    year: i64,
    month: usize,
    day: i64,
    /// 0 is Sunday.
    weekday: usize,
    year_day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Moment {
    pub fn new(secs: i64, nanos: u32) -> Moment {
        Moment { secs: secs.clamp(SECS_MIN, SECS_MAX), nanos: nanos.min(999_999_999) }
    }

    pub fn of(time: SystemTime) -> Moment {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Moment::new(since.as_secs() as i64, since.subsec_nanos()),
            Err(before) => Moment::new(-(before.duration().as_secs() as i64), 0),
        }
    }

    pub fn now() -> Moment {
        Moment::of(SystemTime::now())
    }

    /// Moved by a signed number of nanoseconds.
    pub fn plus_nanos(self, nanos: i64) -> Moment {
        let total = i128::from(self.secs) * NANOS + i128::from(self.nanos) + i128::from(nanos);
        Moment::new(total.div_euclid(NANOS) as i64, total.rem_euclid(NANOS) as u32)
    }

    /// Nanoseconds from `other` to this, cut to what fits.
    pub fn nanos_since(self, other: Moment) -> i64 {
        let total = i128::from(self.secs - other.secs) * NANOS + i128::from(self.nanos) - i128::from(other.nanos);
        total.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    pub fn rfc3339(self) -> String {
        self.format("2006-01-02T15:04:05.999999999Z07:00")
    }

    /// One of the numbers of a moment, by the name of Go's method.
    pub fn number(self, name: &str) -> Option<i64> {
        let parts = self.parts();
        Some(match name {
            "Unix" => self.secs,
            "UnixMilli" => self.secs * 1000 + i64::from(self.nanos / 1_000_000),
            "UnixNano" => self.nanos_since(Moment { secs: 0, nanos: 0 }),
            "Year" => parts.year,
            "Day" => parts.day,
            "YearDay" => parts.year_day,
            "Hour" => parts.hour,
            "Minute" => parts.minute,
            "Second" => parts.second,
            "Nanosecond" => i64::from(self.nanos),
            _ => return None,
        })
    }

    pub fn month_name(self) -> &'static str {
        MONTHS[self.parts().month - 1]
    }

    pub fn weekday_name(self) -> &'static str {
        DAYS[self.parts().weekday]
    }

    fn parts(self) -> Parts {
        let days = self.secs.div_euclid(DAY);
        let rest = self.secs.rem_euclid(DAY);
        let (year, month, day) = date_of(days);
        Parts {
            year,
            month: month as usize,
            day,
            weekday: (days + 4).rem_euclid(7) as usize,
            year_day: days - days_to(year, 1, 1).unwrap_or(days) + 1,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    /// Printed by one of Go's layouts.
    pub fn format(self, layout: &str) -> String {
        let parts = self.parts();
        let mut out = String::with_capacity(layout.len() + 8);
        let mut rest = layout;
        while !rest.is_empty() {
            let (word, length) = word_of(rest);
            let hour12 = if parts.hour % 12 == 0 { 12 } else { parts.hour % 12 };
            match word {
                Word::Other => out.push_str(&rest[..length]),
                Word::Year => out.push_str(&format!("{:04}", parts.year)),
                Word::Year2 => out.push_str(&format!("{:02}", parts.year.rem_euclid(100))),
                Word::MonthName => out.push_str(MONTHS[parts.month - 1]),
                Word::MonthShort => out.push_str(&MONTHS[parts.month - 1][..3]),
                Word::Month2 => out.push_str(&format!("{:02}", parts.month)),
                Word::Month => out.push_str(&parts.month.to_string()),
                Word::DayName => out.push_str(DAYS[parts.weekday]),
                Word::DayShort => out.push_str(&DAYS[parts.weekday][..3]),
                Word::Day2 => out.push_str(&format!("{:02}", parts.day)),
                Word::DaySpaced => out.push_str(&format!("{:2}", parts.day)),
                Word::Day => out.push_str(&parts.day.to_string()),
                Word::YearDay => out.push_str(&format!("{:03}", parts.year_day)),
                Word::Hour24 => out.push_str(&format!("{:02}", parts.hour)),
                Word::Hour12 => out.push_str(&format!("{hour12:02}")),
                Word::Hour => out.push_str(&hour12.to_string()),
                Word::Minute2 => out.push_str(&format!("{:02}", parts.minute)),
                Word::Minute => out.push_str(&parts.minute.to_string()),
                Word::Second2 => out.push_str(&format!("{:02}", parts.second)),
                Word::Second => out.push_str(&parts.second.to_string()),
                Word::NoonUpper => out.push_str(if parts.hour < 12 { "AM" } else { "PM" }),
                Word::NoonLower => out.push_str(if parts.hour < 12 { "am" } else { "pm" }),
                Word::Fraction => {
                    out.push_str(&rest[..1]);
                    out.push_str(&format!("{:09}", self.nanos)[..(length - 1).min(9)]);
                }
                Word::FractionTrimmed => {
                    let digits = format!("{:09}", self.nanos);
                    let digits = digits[..(length - 1).min(9)].trim_end_matches('0');
                    if !digits.is_empty() {
                        out.push_str(&rest[..1]);
                        out.push_str(digits);
                    }
                }
                Word::ZoneName => out.push_str("UTC"),
                Word::ZoneZ => out.push('Z'),
                Word::Zone => out.push_str(match length {
                    6 => "+00:00",
                    5 => "+0000",
                    _ => "+00",
                }),
            }
            rest = &rest[length..];
        }
        out
    }

    /// Read by one of Go's layouts; zones other than numeric offsets and UTC are refused.
    pub fn parse(layout: &str, text: &str) -> Option<Moment> {
        let (mut year, mut month, mut day) = (1i64, 1i64, 1i64);
        let (mut hour, mut minute, mut second, mut nanos) = (0i64, 0i64, 0i64, 0u32);
        let (mut afternoon, mut offset, mut by_year_day) = (None, 0i64, false);
        let (mut layout, mut text) = (layout, text);
        while !layout.is_empty() {
            let (word, length) = word_of(layout);
            match word {
                Word::Other => text = text.strip_prefix(&layout[..length])?,
                Word::Year => (year, text) = digits(text, 4, 4)?,
                Word::Year2 => {
                    (year, text) = digits(text, 2, 2)?;
                    year += if year >= 69 { 1900 } else { 2000 };
                }
                Word::MonthName => (month, text) = name(text, &MONTHS, usize::MAX).map(|(n, t)| (n + 1, t))?,
                Word::MonthShort => (month, text) = name(text, &MONTHS, 3).map(|(n, t)| (n + 1, t))?,
                Word::Month2 => (month, text) = digits(text, 2, 2)?,
                Word::Month => (month, text) = digits(text, 1, 2)?,
                Word::DayName => (_, text) = name(text, &DAYS, usize::MAX)?,
                Word::DayShort => (_, text) = name(text, &DAYS, 3)?,
                Word::Day2 => (day, text) = digits(text, 2, 2)?,
                Word::DaySpaced | Word::Day => (day, text) = digits(text.trim_start_matches(' '), 1, 2)?,
                Word::YearDay => {
                    (day, text) = digits(text, 3, 3)?;
                    (month, by_year_day) = (1, true);
                }
                Word::Hour24 | Word::Hour12 => (hour, text) = digits(text, 2, 2)?,
                Word::Hour => (hour, text) = digits(text, 1, 2)?,
                Word::Minute2 => (minute, text) = digits(text, 2, 2)?,
                Word::Minute => (minute, text) = digits(text, 1, 2)?,
                Word::Second2 | Word::Second => {
                    (second, text) = digits(text, if word == Word::Second2 { 2 } else { 1 }, 2)?;
                    // As in Go a fraction is read even where the layout has none.
                    let next = &layout[length..];
                    if !matches!(word_of(next).0, Word::Fraction | Word::FractionTrimmed) {
                        (nanos, text) = fraction(text).unwrap_or((0, text));
                    }
                }
                Word::NoonUpper | Word::NoonLower => {
                    let noon = text.get(..2)?;
                    afternoon = Some(noon.eq_ignore_ascii_case("pm"));
                    if !noon.eq_ignore_ascii_case("am") && afternoon != Some(true) {
                        return None;
                    }
                    text = &text[2..];
                }
                Word::Fraction => (nanos, text) = fraction(text)?,
                Word::FractionTrimmed => (nanos, text) = fraction(text).unwrap_or((0, text)),
                Word::ZoneName => text = text.strip_prefix("UTC").or_else(|| text.strip_prefix("GMT"))?,
                Word::ZoneZ if text.starts_with('Z') => text = &text[1..],
                Word::ZoneZ | Word::Zone => {
                    let sign = match text.chars().next()? {
                        '+' => 1,
                        '-' => -1,
                        _ => return None,
                    };
                    let (hours, rest) = digits(&text[1..], 2, 2)?;
                    let rest = rest.strip_prefix(':').unwrap_or(rest);
                    let (minutes, rest) = digits(rest, 2, 2).unwrap_or((0, rest));
                    offset = sign * (hours * 3600 + minutes * 60);
                    text = rest;
                }
            }
            layout = &layout[length..];
        }
        match afternoon {
            Some(true) if hour < 12 => hour += 12,
            Some(false) if hour == 12 => hour = 0,
            _ => {}
        }
        let first =
            if by_year_day { days_to(year, 1, 1) } else { days_to(year, month, day).map(|days| days - (day - 1)) };
        if !text.is_empty() || (by_year_day && !(1..=366).contains(&day)) || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let days = first? + day - 1;
        Some(Moment::new(days * DAY + hour * 3600 + minute * 60 + second - offset, nanos))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.format("2006-01-02 15:04:05.999999999 -0700 MST"))
    }
}

/// The words of a layout.
#[derive(Clone, Copy, PartialEq)]
enum Word {
    Other,
    Year,
    Year2,
    MonthName,
    MonthShort,
    Month2,
    Month,
    DayName,
    DayShort,
    Day2,
    DaySpaced,
    Day,
    YearDay,
    Hour24,
    Hour12,
    Hour,
    Minute2,
    Minute,
    Second2,
    Second,
    NoonUpper,
    NoonLower,
    Fraction,
    FractionTrimmed,
    ZoneName,
    ZoneZ,
    Zone,
}

/// The word a layout begins with, and its length; never 0.
fn word_of(layout: &str) -> (Word, usize) {
    for (text, word) in WORDS {
        if let Some(after) = layout.strip_prefix(text) {
            // `Jan` of `January` and the like come first in the table; `Jane` is no month.
            let follows_lower = after.starts_with(|c: char| c.is_ascii_lowercase());
            if matches!(word, Word::MonthShort | Word::DayShort) && follows_lower {
                continue;
            }
            return (*word, text.len());
        }
    }
    if layout.starts_with(['.', ',']) {
        for (digit, word) in [('0', Word::Fraction), ('9', Word::FractionTrimmed)] {
            let count = layout[1..].chars().take_while(|c| *c == digit).count();
            if count > 0 && !layout[1 + count..].starts_with(|c: char| c.is_ascii_digit()) {
                return (word, 1 + count);
            }
        }
    }
    (Word::Other, layout.chars().next().map_or(1, char::len_utf8))
}

const WORDS: &[(&str, Word)] = &[
    ("January", Word::MonthName),
    ("Jan", Word::MonthShort),
    ("Monday", Word::DayName),
    ("Mon", Word::DayShort),
    ("MST", Word::ZoneName),
    ("2006", Word::Year),
    ("002", Word::YearDay),
    ("01", Word::Month2),
    ("02", Word::Day2),
    ("03", Word::Hour12),
    ("04", Word::Minute2),
    ("05", Word::Second2),
    ("06", Word::Year2),
    ("15", Word::Hour24),
    ("1", Word::Month),
    ("_2", Word::DaySpaced),
    ("2", Word::Day),
    ("3", Word::Hour),
    ("4", Word::Minute),
    ("5", Word::Second),
    ("PM", Word::NoonUpper),
    ("pm", Word::NoonLower),
    ("Z07:00", Word::ZoneZ),
    ("Z0700", Word::ZoneZ),
    ("Z07", Word::ZoneZ),
    ("-07:00", Word::Zone),
    ("-0700", Word::Zone),
    ("-07", Word::Zone),
];

fn digits(text: &str, least: usize, most: usize) -> Option<(i64, &str)> {
    let count = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
    if count < least {
        return None;
    }
    Some((text[..count].parse().ok()?, &text[count..]))
}

fn fraction(text: &str) -> Option<(u32, &str)> {
    let rest = text.strip_prefix(['.', ','])?;
    let count = rest.bytes().take_while(u8::is_ascii_digit).count();
    if count == 0 {
        return None;
    }
    let nine: String = rest[..count].chars().chain("000000000".chars()).take(9).collect();
    Some((nine.parse().ok()?, &rest[count..]))
}

fn name<'t>(text: &'t str, names: &[&str], length: usize) -> Option<(i64, &'t str)> {
    names.iter().enumerate().find_map(|(index, name)| {
        let name = &name[..name.len().min(length)];
        let head = text.get(..name.len())?;
        head.eq_ignore_ascii_case(name).then(|| (index as i64, &text[name.len()..]))
    })
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const NANOS: i128 = 1_000_000_000;
/// Year 1 and year 9999: four digits, as every layout expects.
const SECS_MIN: i64 = -62_135_596_800;
const SECS_MAX: i64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_print_and_read() {
        let moment = Moment::new(1_136_214_245, 120_000_000);
        for (layout, text) in [
            ("2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05Z"),
            ("Mon Jan _2 15:04:05 2006", "Mon Jan  2 15:04:05 2006"),
            ("Monday, 02-Jan-06 15:04:05 MST", "Monday, 02-Jan-06 15:04:05 UTC"),
            ("3:04PM", "3:04PM"),
            ("2006-01-02 15:04:05.000 -0700", "2006-01-02 15:04:05.120 +0000"),
            ("15:04:05.999999", "15:04:05.12"),
            ("January 2, 2006 (002)", "January 2, 2006 (002)"),
            ("20060102T150405Z", "20060102T150405Z"),
        ] {
            assert_eq!(moment.format(layout), text, "{layout}");
        }
        assert_eq!(Moment::parse("2006-01-02", "2024-02-29").map(|m| m.secs), Some(1_709_164_800));
        assert_eq!(Moment::parse("2006-01-02", "2023-02-29"), None);
        let rfc = "2006-01-02T15:04:05Z07:00";
        assert_eq!(Moment::parse(rfc, "1970-01-01T01:00:00.5+01:00"), Some(Moment { secs: 0, nanos: 500_000_000 }));
        assert_eq!(moment.to_string(), "2006-01-02 15:04:05.12 +0000 UTC");
    }
}
