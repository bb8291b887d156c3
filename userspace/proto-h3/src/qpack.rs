//! Field sections (RFC 9204) without a dynamic table: static fields, and literals.
//!
//! A section is read into one piece of memory, within bounds that are kept while it is read: what a number of the table stands for
//! counts as what it stands for.

pub mod static_table;

use crate::huffman;
use static_table::{FIELDS, Found};

/// Bounds of a field section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all names and values.
    pub bytes: usize,
    /// How many fields.
    pub fields: usize,
}

/// Why a section cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It is no field section, or refers to a dynamic table that we do not offer.
    Broken,
    /// It is longer than the bound. Nothing is known of what comes behind it.
    TooLarge,
    /// It has more fields.
    TooMany,
}

/// The fields of a section, in order.
#[derive(Debug, Clone, Default)]
pub struct Section {
    text: Vec<u8>,
    /// Where names and values end.
    ends: Vec<(u32, u32)>,
}

impl Section {
    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |(name, value)| {
            let (name, value) = (*name as usize, *value as usize);
            let field = (&self.text[start..name], &self.text[name..value]);
            start = value;
            field
        })
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all names and values.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    fn push_text(&mut self, text: &str, bounds: &Bounds) -> Result<u32, Unread> {
        if self.text.len() + text.len() > bounds.bytes {
            return Err(Unread::TooLarge);
        }
        self.text.extend_from_slice(text.as_bytes());
        Ok(self.text.len() as u32)
    }

    /// Reads a string whose length has a prefix of so many bits, before which a bit says that it is coded.
    fn push_string(&mut self, input: &mut &[u8], prefix: u32, bounds: &Bounds) -> Result<u32, Unread> {
        let coded = input.first().ok_or(Unread::Broken)? & (1 << prefix) != 0;
        let length = usize::try_from(integer(input, prefix)?).map_err(|_| Unread::Broken)?;
        let (string, rest) = input.split_at_checked(length).ok_or(Unread::Broken)?;
        *input = rest;
        let room = bounds.bytes - self.text.len();
        if coded {
            if !huffman::decode(string, room, &mut self.text).map_err(|_| Unread::Broken)? {
                return Err(Unread::TooLarge);
            }
        } else {
            if string.len() > room {
                return Err(Unread::TooLarge);
            }
            self.text.extend_from_slice(string);
        }
        Ok(self.text.len() as u32)
    }
}

/// Reads a section, of which `block` is all, into `into`, whose memory is used again.
pub fn decode(block: &[u8], bounds: &Bounds, into: &mut Section) -> Result<(), Unread> {
    into.text.clear();
    into.ends.clear();
    let mut input = block;
    // The count of insertions: anything but none needs a dynamic table.
    if integer(&mut input, 8)? != 0 {
        return Err(Unread::Broken);
    }
    // A base below the count, which is none (section 4.5.1.2).
    if input.first().ok_or(Unread::Broken)? & 0x80 != 0 {
        return Err(Unread::Broken);
    }
    integer(&mut input, 7)?;
    while let Some(&first) = input.first() {
        if into.ends.len() == bounds.fields {
            return Err(Unread::TooMany);
        }
        let (name, value) = match first {
            // An indexed field of the static table.
            0xc0..=0xff => {
                let (name, value) = static_field(integer(&mut input, 6)?)?;
                (into.push_text(name, bounds)?, into.push_text(value, bounds)?)
            }
            // A literal with a name of the static table.
            0x50..=0x5f | 0x70..=0x7f => {
                let (name, _) = static_field(integer(&mut input, 4)?)?;
                (into.push_text(name, bounds)?, into.push_string(&mut input, 7, bounds)?)
            }
            // A literal with a name of its own.
            0x20..=0x3f => (into.push_string(&mut input, 3, bounds)?, into.push_string(&mut input, 7, bounds)?),
            // All others refer to the dynamic table.
            _ => return Err(Unread::Broken),
        };
        into.ends.push((name, value));
    }
    Ok(())
}

fn static_field(number: u64) -> Result<(&'static str, &'static str), Unread> {
    usize::try_from(number).ok().and_then(|at| FIELDS.get(at)).copied().ok_or(Unread::Broken)
}

/// An integer with a prefix of so many bits (RFC 7541 section 5.1).
pub(crate) fn integer(input: &mut &[u8], prefix: u32) -> Result<u64, Unread> {
    let (&first, mut rest) = input.split_first().ok_or(Unread::Broken)?;
    let full = (1u64 << prefix) - 1;
    let mut value = u64::from(first) & full;
    if value == full {
        let mut shift = 0;
        loop {
            let (&byte, after) = rest.split_first().ok_or(Unread::Broken)?;
            rest = after;
            // 62 bits are what the protocol has anywhere.
            if shift > 56 {
                return Err(Unread::Broken);
            }
            value = value.checked_add(u64::from(byte & 0x7f) << shift).ok_or(Unread::Broken)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *input = rest;
    Ok(value)
}

/// Appends the beginning of a section: no insertions, no base.
pub fn begin(into: &mut Vec<u8>) {
    into.extend_from_slice(&[0, 0]);
}

/// Appends a field. Its name is written in lower case. Values are not coded: a quarter of their bytes costs more to save than to send.
pub fn field(name: &[u8], value: &[u8], into: &mut Vec<u8>) {
    let mut lower = [0; NAME_BYTES];
    let known = lower.get_mut(..name.len()).and_then(|lower| {
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        static_table::find(lower, value)
    });
    match known {
        Some(Found::Whole(at)) => return write_integer(at as u64, 6, 0xc0, into),
        Some(Found::Name(at)) => write_integer(at as u64, 4, 0x50, into),
        None => {
            write_integer(name.len() as u64, 3, 0x20, into);
            into.extend(name.iter().map(u8::to_ascii_lowercase));
        }
    }
    write_integer(value.len() as u64, 7, 0, into);
    into.extend_from_slice(value);
}

/// No name of the static table is longer.
const NAME_BYTES: usize = 32;

fn write_integer(value: u64, prefix: u32, pattern: u8, into: &mut Vec<u8>) {
    let full = (1u64 << prefix) - 1;
    if value < full {
        return into.push(pattern | value as u8);
    }
    into.push(pattern | full as u8);
    let mut rest = value - full;
    while rest >= 0x80 {
        into.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

#[cfg(test)]
mod tests;
