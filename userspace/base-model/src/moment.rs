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
    fn it_counts_in_milliseconds_from_1970_on() {
        let ms = |text: &str| text.parse::<Moment>().map(|moment| moment.unix_ms());
        assert_eq!(ms("1970-01-01T00:00:00Z"), Ok(0));
        assert_eq!(ms("2026-11-29T18:00:00.2509+01:00"), Ok(1_795_971_600_250));
        for text in ["1969-12-31T23:59:59.999Z", "2026-11-29", ""] {
            assert_eq!(ms(text), Err(NoMoment), "{text}");
        }
    }
}
