//! Field sections (RFC 9204) without a dynamic table: static fields, and literals.
//!
//! A section is read into one piece of memory, within bounds that are kept while it is read: what a number of the table stands for
//! counts as what it stands for.

pub mod static_table;

pub use proto_http::coding::Section;
use proto_http::coding::{self, huffman, write_integer};
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

fn push_text(section: &mut Section, text: &str, bounds: &Bounds) -> Result<usize, Unread> {
    if section.bytes() + text.len() > bounds.bytes {
        return Err(Unread::TooLarge);
    }
    section.text_mut().extend_from_slice(text.as_bytes());
    Ok(section.bytes())
}

/// Reads a string whose length has a prefix of so many bits, before which a bit says that it is coded.
fn push_string(section: &mut Section, input: &mut &[u8], prefix: u32, bounds: &Bounds) -> Result<usize, Unread> {
    let coded = input.first().ok_or(Unread::Broken)? & (1 << prefix) != 0;
    let length = usize::try_from(integer(input, prefix)?).map_err(|_| Unread::Broken)?;
    let (string, rest) = input.split_at_checked(length).ok_or(Unread::Broken)?;
    *input = rest;
    let room = bounds.bytes - section.bytes();
    if coded {
        if !huffman::decode(string, room, section.text_mut()).map_err(|_| Unread::Broken)? {
            return Err(Unread::TooLarge);
        }
    } else {
        if string.len() > room {
            return Err(Unread::TooLarge);
        }
        section.text_mut().extend_from_slice(string);
    }
    Ok(section.bytes())
}

/// Reads a section, of which `block` is all, into `into`, whose memory is used again.
pub fn decode(block: &[u8], bounds: &Bounds, into: &mut Section) -> Result<(), Unread> {
    into.clear();
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
        if into.len() == bounds.fields {
            return Err(Unread::TooMany);
        }
        let name = match first {
            // An indexed field of the static table.
            0xc0..=0xff => {
                let (name, value) = static_field(integer(&mut input, 6)?)?;
                let end = push_text(into, name, bounds)?;
                push_text(into, value, bounds)?;
                end
            }
            // A literal with a name of the static table.
            0x50..=0x5f | 0x70..=0x7f => {
                let (name, _) = static_field(integer(&mut input, 4)?)?;
                let end = push_text(into, name, bounds)?;
                push_string(into, &mut input, 7, bounds)?;
                end
            }
            // A literal with a name of its own.
            0x20..=0x3f => {
                let end = push_string(into, &mut input, 3, bounds)?;
                push_string(into, &mut input, 7, bounds)?;
                end
            }
            // All others refer to the dynamic table.
            _ => return Err(Unread::Broken),
        };
        into.end(name);
    }
    Ok(())
}

fn static_field(number: u64) -> Result<(&'static str, &'static str), Unread> {
    usize::try_from(number).ok().and_then(|at| FIELDS.get(at)).copied().ok_or(Unread::Broken)
}

pub(crate) fn integer(input: &mut &[u8], prefix: u32) -> Result<u64, Unread> {
    coding::integer(input, prefix).ok_or(Unread::Broken)
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

#[cfg(test)]
mod tests;
