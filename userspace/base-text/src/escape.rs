//! Text from outside made safe: for a line of a log, for a line of JSON, and between quotes in a message.

use crate::digits::{block_of, push_block};
use std::fmt;

/// A name or another text inside a message: in quotes, with quotes, backslashes and everything that could leave the line or command the
/// terminal escaped as in JSON, and cut where it gets long.
pub fn quoted<T: AsRef<str>>(text: T) -> Quoted<T> {
    Quoted(text)
}

/// See [`quoted`].
#[derive(Clone, Copy)]
pub struct Quoted<T>(T);

impl<T: AsRef<str>> fmt::Display for Quoted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for (count, c) in self.0.as_ref().chars().enumerate() {
            if count == QUOTED_CHARS {
                f.write_str("…")?;
                break;
            }
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if is_dangerous(c) => write_unit(c, f)?,
                c => fmt::Write::write_char(f, c)?,
            }
        }
        f.write_str("\"")
    }
}

/// Several of them, `"a", "b"`.
pub fn all_quoted<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    texts.into_iter().map(|text| quoted(text).to_string()).collect::<Vec<_>>().join(", ")
}

/// Whether something in it would leave the line, command the terminal or turn the order of what is read.
pub fn needs_escape(bytes: &[u8]) -> bool {
    !all_are(bytes, is_plain)
        && bytes.utf8_chunks().any(|chunk| !chunk.invalid().is_empty() || chunk.valid().chars().any(is_dangerous))
}

/// What needs no second look.
#[inline(always)]
fn is_plain(b: u8) -> bool {
    (b' '..=b'~').contains(&b)
}

/// Whether `plain` holds for every byte, sixteen at a time: without an early exit a block of them is a few wide instructions.
#[inline(always)]
pub(crate) fn all_are(bytes: &[u8], plain: impl Fn(u8) -> bool) -> bool {
    let all_of = |block: &[u8; 16]| block.iter().fold(true, |all, b| all & plain(*b));
    let (blocks, rest) = bytes.as_chunks();
    if !blocks.iter().all(all_of) {
        return false;
    }
    match bytes.last_chunk() {
        // What is left is looked at together with bytes before it.
        Some(block) if !rest.is_empty() => all_of(block),
        _ => rest.iter().all(|b| plain(*b)),
    }
}

/// Controls (C0, DEL, C1), separators of lines, marks of direction, and the mark that hides itself.
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{feff}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text from outside: the bytes of what is dangerous, and of what is no UTF-8, are written as `\xNN`, so that no client can begin a
/// line of its own.
pub fn write_foreign(bytes: &[u8], out: &mut Vec<u8>) {
    // Most are short: looked at and written as one block.
    if let Some(block) = block_of(bytes, b' ')
        && block.iter().fold(true, |all, b| all & is_plain(*b))
    {
        return push_block(block, bytes.len(), out);
    }
    if needs_escape(bytes) { write_escaped(bytes, out) } else { out.extend_from_slice(bytes) }
}

#[cold]
fn write_escaped(bytes: &[u8], out: &mut Vec<u8>) {
    let escape = |bytes: &[u8], out: &mut Vec<u8>| {
        for b in bytes {
            let hex = |n: u8| b"0123456789abcdef"[usize::from(n & 15)];
            out.extend_from_slice(&[b'\\', b'x', hex(b >> 4), hex(*b)]);
        }
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let mut buffer = [0; 4];
            let encoded = c.encode_utf8(&mut buffer).as_bytes();
            if is_dangerous(c) { escape(encoded, out) } else { out.extend_from_slice(encoded) }
        }
        escape(chunk.invalid(), out);
    }
}

/// As [`write_foreign`], for text.
pub fn escaped(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    write_foreign(text.as_bytes(), &mut out);
    // What is not escaped was text before.
    String::from_utf8(out).unwrap_or_default()
}

/// A line of JSON: whatever is dangerous in its strings is written as `\uNNNN`, so that it stays the same JSON.
pub fn write_foreign_json(line: &[u8], out: &mut Vec<u8>) {
    if !needs_escape(line) {
        out.extend_from_slice(line);
        return;
    }
    for chunk in line.utf8_chunks() {
        for c in chunk.valid().chars() {
            let mut buffer = [0; 4];
            if is_dangerous(c) {
                use std::io::Write as _;
                // Writing to a Vec does not fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            } else {
                out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// All that is dangerous is in the first plane, so that one unit of UTF-16 says it.
fn write_unit(c: char, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "\\u{:04x}", u32::from(c))
}

/// Longer names would push the message out of sight.
const QUOTED_CHARS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quotes_hold_what_is_between_them() {
        for (text, expected) in [
            ("shop", r#""shop""#),
            ("", r#""""#),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("a\nb\tc\u{1b}[31m\u{7f}\u{9b}\u{202e}ü", r#""a\nb\tc\u001b[31m\u007f\u009b\u202eü""#),
        ] {
            assert_eq!(quoted(text).to_string(), expected);
        }
        assert_eq!(quoted("x".repeat(201)).to_string(), format!("\"{}…\"", "x".repeat(200)));
        assert_eq!(all_quoted(["a", "b"]), r#""a", "b""#);
    }

    #[test]
    fn foreign_text_stays_on_its_line() {
        let mut out = Vec::new();
        write_foreign("/a\r\n[x] \x1b[31m\x7fü".as_bytes(), &mut out);
        write_foreign("|\u{85}\u{9b}2J\u{2028}\u{202e}µ".as_bytes(), &mut out);
        write_foreign(b"|\x9b\xff|", &mut out);
        let expected =
            "/a\\x0d\\x0a[x] \\x1b[31m\\x7fü|\\xc2\\x85\\xc2\\x9b2J\\xe2\\x80\\xa8\\xe2\\x80\\xaeµ|\\x9b\\xff|";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    /// What any text becomes has none of the characters that end a line, begin a command or turn the order.
    fn is_safe(text: &str) -> bool {
        !text.chars().any(is_dangerous)
    }

    proptest! {
        #[test]
        fn sixteen_at_a_time_is_one_at_a_time(bytes in prop::collection::vec(b'a'..=b'z', 0..70), odd in 0usize..80) {
            let mut bytes = bytes;
            prop_assert!(all_are(&bytes, |b| b.is_ascii_lowercase()));
            if let Some(byte) = bytes.get_mut(odd) {
                *byte = b'?';
                prop_assert!(!all_are(&bytes, |b| b.is_ascii_lowercase()));
            }
        }

        #[test]
        fn nothing_dangerous_gets_through(text in any::<String>(), bytes in any::<Vec<u8>>()) {
            prop_assert!(is_safe(&quoted(&text).to_string()));
            prop_assert!(is_safe(&escaped(&text)));
            for write in [write_foreign, write_foreign_json] {
                let mut out = Vec::new();
                write(&bytes, &mut out);
                prop_assert!(is_safe(std::str::from_utf8(&out).unwrap()));
            }
            if text.chars().count() <= QUOTED_CHARS {
                prop_assert_eq!(serde_json::from_str::<String>(&quoted(&text).to_string()).unwrap(), &*text);
            }
            // JSON stays what it was.
            let mut out = Vec::new();
            write_foreign_json(serde_json::to_string(&text).unwrap().as_bytes(), &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), &*text);
        }
    }
}
