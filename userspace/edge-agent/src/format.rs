//! What the files of the last good state are written like: a number in each, so that an older program knows that it does not know.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Stands in every file; one of a newer format is not read as this one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Format;

/// Why something that was kept cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// A newer program wrote it, in this format.
    Newer(u32),
    Damaged(String),
}

/// It grows when an earlier program would misread what is written now. Files that say nothing are of the first.
pub const FORMAT: u32 = 1;

/// Reads what was kept, or says why not.
pub fn read<T: for<'de> Deserialize<'de>>(text: &[u8]) -> Result<T, Unread> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Head {
        format: Option<u32>,
    }
    serde_json::from_slice(text).map_err(|error| {
        let head = serde_json::from_slice::<Head>(text).unwrap_or_default();
        match head.format {
            Some(format) if format > FORMAT => Unread::Newer(format),
            _ => Unread::Damaged(error.to_string()),
        }
    })
}

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(FORMAT)
    }
}

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            format if format <= FORMAT => Ok(Format),
            format => Err(D::Error::custom(format!("format {format} is newer than {FORMAT}"))),
        }
    }
}
