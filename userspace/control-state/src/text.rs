//! Text that is kept and seldom read. It is written and compared as what it says; in memory a long one is packed, which takes a fifth of
//! it or less where it is a document.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Clone, PartialEq)]
pub(crate) struct Text(Held);

#[derive(Clone, PartialEq)]
enum Held {
    Plain(Box<str>),
    /// `length`: of the text, in bytes.
    Packed {
        bytes: Box<[u8]>,
        length: usize,
    },
}

impl Text {
    pub fn new(text: String) -> Text {
        let packed = if text.len() < LONG { None } else { pack(&text).ok().filter(|bytes| bytes.len() < text.len()) };
        Text(match packed {
            Some(bytes) => Held::Packed { bytes: bytes.into(), length: text.len() },
            None => Held::Plain(text.into()),
        })
    }

    /// Bytes of what it says.
    pub fn len(&self) -> usize {
        match &self.0 {
            Held::Plain(text) => text.len(),
            Held::Packed { length, .. } => *length,
        }
    }

    pub fn read(&self) -> Cow<'_, str> {
        match &self.0 {
            Held::Plain(text) => Cow::Borrowed(text),
            Held::Packed { bytes, length } => {
                let mut text = String::with_capacity(*length);
                // What was packed here unpacks here; if it did not, it would be a document that cannot be read, and is told as one.
                let _ = DeflateDecoder::new(&bytes[..]).read_to_string(&mut text);
                Cow::Owned(text)
            }
        }
    }

    /// Bytes of memory it occupies.
    #[cfg(test)]
    pub fn memory(&self) -> usize {
        match &self.0 {
            Held::Plain(text) => text.len(),
            Held::Packed { bytes, .. } => bytes.len(),
        }
    }
}

fn pack(text: &str) -> io::Result<Vec<u8>> {
    let mut packer = DeflateEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(text.as_bytes())?;
    packer.finish()
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.read())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        String::deserialize(deserializer).map(Text::new)
    }
}

/// Shorter ones are as many as there are changes, and are all of a mebibyte or two.
const LONG: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_it_was_given_and_takes_less() {
        let routes: String =
            (0..20_000).map(|n| format!("{{\"path\":\"/route-{n}\",\"backend\":\"shop-{}\"}},", n % 7)).collect();
        for said in
            ["", "short", &"x".repeat(LONG - 1), &"x".repeat(LONG), "ä€😀".repeat(LONG).as_str(), routes.as_str()]
        {
            let text = Text::new(said.to_owned());
            assert!(text.read() == said && text.len() == said.len());
            let written = serde_json::to_string(&text).unwrap();
            assert_eq!(written, serde_json::to_string(said).unwrap(), "as a text is written");
            assert!(serde_json::from_str::<Text>(&written).unwrap() == text);
        }
        let text = Text::new(routes);
        assert!(text.memory() < text.len() / 5, "{} bytes for {}", text.memory(), text.len());
        // What does not become less stays.
        let mut seed = 1_u64;
        let mut any = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from_u32((seed >> 40) as u32 % 0xd7ff).unwrap_or('?')
        };
        let odd: String = (0..LONG).map(|_| any()).collect();
        assert!(Text::new(odd.clone()).memory() <= odd.len());
    }
}
