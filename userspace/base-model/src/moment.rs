//! A point in time as documents write it: RFC 3339, `2026-11-29T18:00:00Z` or with an offset.

use std::fmt;
use std::str::FromStr;

use base_text::calendar::read_rfc3339;
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
        let (seconds, nanos) = read_rfc3339(text).ok_or(NoMoment)?;
        let seconds = u64::try_from(seconds).map_err(|_| NoMoment)?;
        Ok(Moment { text: text.to_owned(), unix_ms: seconds * 1000 + u64::from(nanos / 1_000_000) })
    }
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
