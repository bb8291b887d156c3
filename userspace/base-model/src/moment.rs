//! A point in time as documents write it: RFC 3339, `2026-11-29T18:00:00Z` or with an offset.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Milliseconds since 1970; printed as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    text: String,
    unix_ms: u64,
}

/// Why a text is no point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoMoment;

impl Moment {
    pub fn unix_ms(&self) -> u64 {
        self.unix_ms
    }
}

impl FromStr for Moment {
    type Err = NoMoment;

    fn from_str(text: &str) -> Result<Moment, NoMoment> {
        read(text).map(|unix_ms| Moment { text: text.to_owned(), unix_ms }).ok_or(NoMoment)
    }
}

/// RFC 3339 section 5.6. A leap second is the first of the next minute.
fn read(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let digits = |from: usize, to: usize| {
        let part = bytes.get(from..to)?;
        part.iter()
            .all(u8::is_ascii_digit)
            .then(|| part.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
    };
    let sign = |at: usize, wanted: &[u8]| bytes.get(at).filter(|byte| wanted.contains(byte)).copied();
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    for (at, wanted) in [(4, &b"-"[..]), (7, b"-"), (10, b"Tt "), (13, b":"), (16, b":")] {
        sign(at, wanted)?;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=last).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut millis = 0;
    if sign(at, b".").is_some() {
        let fraction = bytes[20..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if fraction == 0 {
            return None;
        }
        let three = bytes[20..20 + fraction].iter().chain(b"000").take(3);
        millis = three.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        at = 20 + fraction;
    }
    let offset_s = match sign(at, b"Zz+-")? {
        b'Z' | b'z' => 0,
        direction => {
            let (hours, minutes) = (digits(at + 1, at + 3)?, digits(at + 4, at + 6)?);
            sign(at + 3, b":")?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            at += 5;
            (hours * 3600 + minutes * 60) * if direction == b'-' { -1 } else { 1 }
        }
    };
    if bytes.len() != at + 1 {
        return None;
    }
    // Days since 1970-01-01, counting in eras of 400 years that begin in March (H. Hinnant).
    let shifted = year - i64::from(month <= 2);
    let (era, year_of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset_s;
    u64::try_from(seconds * 1000 + millis).ok()
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|NoMoment| {
            D::Error::custom("not a point in time; write 2026-11-29T18:00:00Z, or with an offset such as +01:00")
        })
    }
}

impl JsonSchema for Moment {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Moment".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "date-time"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_any_zone() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2026-11-29T18:00:00+01:00", 1_795_971_600),
            ("2026-11-29t12:00:00-05:00", 1_795_971_600),
            ("2026-11-29T17:00:00.000Z", 1_795_971_600),
        ] {
            assert_eq!(text.parse::<Moment>().map(|moment| moment.unix_ms()), Ok(seconds * 1000), "{text}");
        }
        assert_eq!("2026-11-29T17:00:00.25Z".parse::<Moment>().unwrap().unix_ms() % 1000, 250);
    }

    #[test]
    fn other_texts_are_none() {
        for text in [
            "",
            "now",
            "2026-11-29",
            "2026-11-29T18:00Z",
            "2026-11-29T18:00:00",
            "2026-02-29T18:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-29T24:00:00Z",
            "2026-11-29T18:00:00.Z",
            "2026-11-29T18:00:00+1:00",
            "2026-11-29T18:00:00Zulu",
            "1969-12-31T23:59:59Z",
            "２026-11-29T18:00:00Z",
        ] {
            assert_eq!(text.parse::<Moment>(), Err(NoMoment), "{text}");
        }
    }
}
