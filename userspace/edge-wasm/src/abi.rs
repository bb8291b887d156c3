//! Texts and lists in a program's memory, as Easegress's SDKs write them.
//!
//! All numbers are little endian. *Data* is a length (u32) and so many bytes. A *string* is data whose last byte is NUL, which counts in
//! the length. A *list* is a count (u32) and so many strings. A *header set* is a string of `Name: value` lines, each with CRLF.
//!
//! Whatever a program says of its own memory may be wrong: reading never goes beyond it, and nothing is made as long as a length says
//! before there are bytes of that length.

use proto_http::{Headers, headers};
use std::fmt;

/// What a program gave us is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbiError {
    /// It ends beyond the program's memory.
    Outside,
    /// A string without its NUL.
    Unended,
    /// A header line without a colon, or with a name that is none.
    Line,
    NotText,
}

impl fmt::Display for AbiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AbiError::Outside => "an address or a length leads out of the program's memory",
            AbiError::Unended => "a string does not end with a NUL that its length counts",
            AbiError::Line => "a header set has a line that is not `Name: value`",
            AbiError::NotText => "a text is not UTF-8",
        })
    }
}

impl std::error::Error for AbiError {}

/// Data at an address.
pub fn data(memory: &[u8], at: u32) -> Result<&[u8], AbiError> {
    let rest = memory.get(at as usize..).ok_or(AbiError::Outside)?;
    let (length, rest) = rest.split_first_chunk().ok_or(AbiError::Outside)?;
    rest.get(..u32::from_le_bytes(*length) as usize).ok_or(AbiError::Outside)
}

/// A string at an address, without its NUL. One of no bytes at all is empty.
pub fn string(memory: &[u8], at: u32) -> Result<&[u8], AbiError> {
    match data(memory, at)? {
        [] => Ok(&[]),
        [text @ .., 0] => Ok(text),
        _ => Err(AbiError::Unended),
    }
}

pub fn text(memory: &[u8], at: u32) -> Result<&str, AbiError> {
    std::str::from_utf8(string(memory, at)?).map_err(|_| AbiError::NotText)
}

/// Appends `bytes` as data.
pub fn put_data(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length_of(bytes.len()));
    out.extend_from_slice(bytes);
}

/// Appends `text` as a string. A NUL within it ends it for the program, as it does in C.
pub fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&length_of(text.len() + 1));
    out.extend_from_slice(text);
    out.push(0);
}

/// Appends a list.
pub fn put_list<'t>(out: &mut Vec<u8>, texts: impl IntoIterator<Item = &'t [u8]>) {
    let begin = out.len();
    out.extend_from_slice(&length_of(0));
    let mut count = 0;
    for text in texts {
        put_string(out, text);
        count += 1;
    }
    out[begin..begin + 4].copy_from_slice(&length_of(count));
}

/// Appends all fields as a header set.
pub fn put_headers(out: &mut Vec<u8>, headers: &Headers) {
    let begin = out.len();
    out.extend_from_slice(&length_of(0));
    for (name, value, _) in headers.iter() {
        for part in [name, b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.push(0);
    let length = length_of(out.len() - begin - 4);
    out[begin..begin + 4].copy_from_slice(&length);
}

/// Name and value of a header.
pub type Line<'t> = (&'t [u8], &'t [u8]);

/// The lines of a header set.
pub fn header_lines(text: &[u8]) -> Result<Vec<Line<'_>>, AbiError> {
    let lines = text.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let colon = line.iter().position(|b| *b == b':').ok_or(AbiError::Line)?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if headers::is_name(name) && headers::is_value(value) { Ok((name, value)) } else { Err(AbiError::Line) }
        })
        .collect()
}

/// No request, and no memory of a program, holds 4 GiB of one text: what is longer is cut where it is written, which fails there.
fn length_of(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_length_says_is_looked_at() {
        let memory = b"\x03\0\0\0ab\0\xff\xff\xff\xff\x02\0\0\0ab\0\0\0\0";
        assert_eq!(string(memory, 0), Ok(&b"ab"[..]));
        assert_eq!(data(memory, 0), Ok(&b"ab\0"[..]));
        assert_eq!(string(memory, 7), Err(AbiError::Outside));
        assert_eq!(string(memory, 11), Err(AbiError::Unended));
        assert_eq!(string(memory, 17), Ok(&b""[..]));
        for outside in [18, 20, 21, 1000, u32::MAX] {
            assert_eq!(data(memory, outside), Err(AbiError::Outside), "{outside}");
        }
    }

    #[test]
    fn lines_of_a_header_set() {
        let read = |text: &str| header_lines(text.as_bytes()).map(|lines| lines.len());
        assert_eq!(read("A: 1\r\nB:2\r\n"), Ok(2));
        assert_eq!(read("A: 1\nB: \n\n"), Ok(2));
        assert_eq!(read(""), Ok(0));
        for wrong in ["A", "A 1: x\r\n", ": x\r\n", "A: 1\r\nB: a\0b\r\n"] {
            assert_eq!(read(wrong), Err(AbiError::Line), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_read_beyond_the_memory(memory in proptest::collection::vec(any::<u8>(), 0..64), at: u32, low in 0u32..80) {
            for at in [at, low] {
                if let Ok(bytes) = data(&memory, at) {
                    let end = at as usize + 4 + bytes.len();
                    prop_assert!(end <= memory.len());
                    prop_assert_eq!(bytes, &memory[at as usize + 4..end]);
                }
                let _ = text(&memory, at);
            }
            let _ = header_lines(&memory);
        }

        #[test]
        fn what_is_written_is_read(texts in proptest::collection::vec("[^\0]{0,12}", 0..5)) {
            let mut out = Vec::new();
            put_list(&mut out, texts.iter().map(|text| text.as_bytes()));
            prop_assert_eq!(&out[..4], &(texts.len() as u32).to_le_bytes());
            let mut at = 4;
            for written in &texts {
                prop_assert_eq!(text(&out, at), Ok(written.as_str()));
                at += 4 + written.len() as u32 + 1;
            }
            prop_assert_eq!(at as usize, out.len());
        }

        #[test]
        fn a_header_set_comes_back(fields in proptest::collection::vec(("[A-Za-z-]{1,8}", "[!-~]{0,8}"), 0..5)) {
            let mut headers = Headers::new();
            for (name, value) in &fields {
                headers.add(name, value);
            }
            let mut out = Vec::new();
            put_headers(&mut out, &headers);
            let lines = header_lines(string(&out, 0).unwrap()).unwrap();
            let told: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
            prop_assert_eq!(lines, told);
        }
    }
}
