//! Field blocks of HTTP/2 (HPACK, RFC 7541): read with a dynamic table of a bounded size, written without one.
//!
//! A block is read into one piece of memory, in order, within a bound that counts what numbers of a table stand for as what they stand
//! for. What is beyond the bound is still read, since later blocks refer to what it puts into the table; what is far beyond it is not.
//! Nor is a field of a table copied that is not kept: naming one takes a byte of its sender, and a copy may be 4 KiB.
//!
//! What we write stands in the static table where it can and goes into no dynamic one, whose size a peer may choose: nothing of a
//! connection is kept between two messages, and they can be written in any order. Credentials say of themselves that nobody on their
//! way may put them into a table either.

pub mod encoder;
mod static_table;
mod table;

use proto_http::coding::{Section, huffman, integer};
use static_table::FIELDS;
use table::Table;

/// What each field costs in a list and in a table beside its bytes (RFC 7541 section 4.1, RFC 9113 section 6.5.2).
pub const FIELD_OVERHEAD: usize = 32;

/// How much larger than what is kept a list of fields may be before it is not read to its end.
pub const READ_AHEAD: usize = 4;

/// Why a block cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It is no field block. Those after it mean nothing.
    Broken,
    /// It is [`READ_AHEAD`] times what is kept.
    TooMuch,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    All,
    /// The fields that there was room for.
    Part,
}

/// The blocks of one direction, in the order they come.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// Bytes that the table may have at most.
    table_most: usize,
}

impl Decoder {
    /// Its table grows to so many bytes, as [`FIELD_OVERHEAD`] has it, and takes no memory before there is something in it.
    pub fn new(table_most: usize) -> Decoder {
        Decoder { table: Table::new(table_most), table_most }
    }

    /// Bytes of memory its table occupies.
    pub fn memory(&self) -> usize {
        self.table.memory()
    }

    /// Reads a block, of which `block` is all, into `into`, whose memory is used again. `most`: bytes of the list that are kept.
    pub fn decode(&mut self, block: &[u8], most: usize, into: &mut Section) -> Result<Kept, Unread> {
        into.clear();
        let mut input = block;
        let (mut size, mut kept) = (0, Kept::All);
        // A change of size stands before all fields (section 4.2).
        while let Some(0x20..=0x3f) = input.first() {
            let size = integer(&mut input, 5).ok_or(Unread::Broken)?;
            let size = usize::try_from(size).ok().filter(|size| *size <= self.table_most).ok_or(Unread::Broken)?;
            self.table.resize(size);
        }
        while let Some(&first) = input.first() {
            let start = into.bytes();
            if kept == Kept::Part && !(0x20..0x80).contains(&first) {
                size += self.skip(&mut input, most, into)? + FIELD_OVERHEAD;
                into.text_mut().truncate(start);
                if size > most.saturating_mul(READ_AHEAD) {
                    return Err(Unread::TooMuch);
                }
                continue;
            }
            let name = match first {
                0x80.. => {
                    let number = number(&mut input, 7)?;
                    self.push_field(number, into)?
                }
                0x40.. => {
                    let name = self.push_literal(&mut input, 6, most, into)?;
                    let text = &into.text_mut()[start..];
                    self.table.insert(text, name - start);
                    name
                }
                0x20.. => return Err(Unread::Broken),
                // Into no table, now or ever.
                _ => self.push_literal(&mut input, 4, most, into)?,
            };
            size += into.bytes() - start + FIELD_OVERHEAD;
            if size > most {
                if size > most.saturating_mul(READ_AHEAD) {
                    return Err(Unread::TooMuch);
                }
                kept = Kept::Part;
                into.text_mut().truncate(start);
                continue;
            }
            into.end(name);
        }
        Ok(kept)
    }

    /// Reads a field that is neither kept nor put into the table, and says how large it is. What stands in the block itself is looked
    /// through for faults.
    fn skip(&self, input: &mut &[u8], most: usize, into: &mut Section) -> Result<usize, Unread> {
        let start = into.bytes();
        if input.first().is_some_and(|first| *first >= 0x80) {
            let (name, value) = self.sizes(number(input, 7)?)?;
            return Ok(name + value);
        }
        let name = match number(input, 4)? {
            0 => push_string(input, most, into)? - start,
            number => self.sizes(number)?.0,
        };
        let value = into.bytes();
        Ok(name + push_string(input, most, into)? - value)
    }

    /// Bytes of name and value of a field of the tables.
    fn sizes(&self, number: usize) -> Result<(usize, usize), Unread> {
        match FIELDS.get(number.wrapping_sub(1)) {
            Some((name, value)) => Ok((name.len(), value.len())),
            None => {
                let at = number.checked_sub(FIELDS.len() + 1).filter(|at| *at < self.table.len());
                Ok(self.table.sizes(at.ok_or(Unread::Broken)?))
            }
        }
    }

    /// Appends a field of the tables, and says where its name ends.
    #[inline]
    fn push_field(&self, number: usize, into: &mut Section) -> Result<usize, Unread> {
        let end = self.push_name(number, into)?;
        match FIELDS.get(number.wrapping_sub(1)) {
            Some((_, value)) => into.text_mut().extend_from_slice(value.as_bytes()),
            None => self.table.push_value(number - FIELDS.len() - 1, into.text_mut()),
        }
        Ok(end)
    }

    #[inline]
    fn push_name(&self, number: usize, into: &mut Section) -> Result<usize, Unread> {
        match FIELDS.get(number.wrapping_sub(1)) {
            Some((name, _)) => into.text_mut().extend_from_slice(name.as_bytes()),
            None => {
                let at = number.checked_sub(FIELDS.len() + 1).filter(|at| *at < self.table.len());
                self.table.push_name(at.ok_or(Unread::Broken)?, into.text_mut());
            }
        }
        Ok(into.bytes())
    }

    /// Appends a field whose value, if not its name, stands there, and says where its name ends.
    #[inline]
    fn push_literal(&self, input: &mut &[u8], prefix: u32, most: usize, into: &mut Section) -> Result<usize, Unread> {
        let end = match number(input, prefix)? {
            0 => push_string(input, most, into)?,
            number => self.push_name(number, into)?,
        };
        push_string(input, most, into)?;
        Ok(end)
    }
}

fn number(input: &mut &[u8], prefix: u32) -> Result<usize, Unread> {
    integer(input, prefix).and_then(|number| usize::try_from(number).ok()).ok_or(Unread::Broken)
}

/// Appends a string (section 5.2), and says where it ends.
#[inline]
fn push_string(input: &mut &[u8], most: usize, into: &mut Section) -> Result<usize, Unread> {
    let coded = input.first().ok_or(Unread::Broken)? & 0x80 != 0;
    let length = number(input, 7)?;
    let (string, rest) = input.split_at_checked(length).ok_or(Unread::Broken)?;
    *input = rest;
    if !coded {
        into.text_mut().extend_from_slice(string);
    } else {
        // One string alone may be too much.
        let room = most.saturating_mul(READ_AHEAD);
        if !huffman::decode(string, room, into.text_mut()).map_err(|huffman::Broken| Unread::Broken)? {
            return Err(Unread::TooMuch);
        }
    }
    Ok(into.bytes())
}

#[cfg(test)]
mod tests;
