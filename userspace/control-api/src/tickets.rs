//! Keys that TLS session tickets are encrypted with, shared by all machines so that a session made on one goes on at another.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One key. Its secret is in no debug text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKey {
    /// Goes with each ticket in the clear.
    #[serde(with = "hex")]
    pub name: [u8; 16],
    #[serde(with = "hex")]
    pub secret: [u8; 32],
}

/// The keys in force. Tickets of all of them are taken, new ones are made with `current`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TicketKeys {
    pub previous: Option<TicketKey>,
    pub current: Option<TicketKey>,
    /// Handed out before it is used, so that whoever is asked to take a ticket knows its key.
    pub next: Option<TicketKey>,
    /// When `next` was put there, in seconds since 1970 by the clock of the leader of that time.
    pub staged_at: u64,
    /// When `current` came into force.
    pub current_since: u64,
}

impl TicketKeys {
    /// Every key, the oldest first.
    pub fn all(&self) -> impl Iterator<Item = &TicketKey> {
        [&self.previous, &self.current, &self.next].into_iter().flatten()
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Bytes as hexadecimal digits: half as long as a JSON list of numbers.
mod hex {
    use super::{Deserialize, Deserializer, Serializer};
    use serde::de::Error;

    pub fn serialize<S: Serializer, const N: usize>(bytes: &[u8; N], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.as_bytes();
        let wrong = || D::Error::custom(format!("{N} bytes as hexadecimal digits are wanted"));
        if digits.len() != 2 * N {
            return Err(wrong());
        }
        let mut bytes = [0; N];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |d: u8| (d as char).to_digit(16);
            let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return Err(wrong()) };
            *byte = (high * 16 + low) as u8;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_travel_and_never_show() {
        let key = TicketKey { name: [7; 16], secret: [0xab; 32] };
        let keys = TicketKeys { current: Some(key), ..TicketKeys::default() };
        let text = serde_json::to_string(&keys).unwrap();
        assert!(text.contains(&"ab".repeat(32)));
        assert_eq!(serde_json::from_str::<TicketKeys>(&text).unwrap(), keys);
        assert!(!format!("{keys:?}").contains("171"), "{keys:?}");
        assert!(serde_json::from_str::<TicketKey>(r#"{"name": "07", "secret": "zz"}"#).is_err());
    }
}
