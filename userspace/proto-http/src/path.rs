//! The one path of a request: parsed once, matched and forwarded alike.
//!
//! Gateways were bypassed whenever the path a rule looked at was not the path the backend served. Here both come from one
//! canonical text, made once:
//!
//! - escapes of unreserved characters (letters, digits, `-`, `.`, `_`, `~`) are decoded, those of all other ASCII are kept, with
//!   upper-case digits: `%2B` is not `+` (RFC 3986 section 6.2.2);
//! - what may not stand raw and does all the same (`"`, `<`, `[`, `^` …) is escaped;
//! - printable characters beyond ASCII are shown as themselves, which says the same in fewer letters; control characters and bytes that
//!   are not UTF-8 keep their escape;
//! - `.` and `..` segments, however written, are resolved (RFC 3986 section 5.2.4); climbing above the root is refused;
//! - empty segments stay: `//` may mean something to the backend;
//! - refused are `\`, `%00`, broken escapes, raw control bytes and spaces, raw bytes that are not UTF-8, and segments that
//!   some backends take for `..` although they are none (`..%2F`, `..%5C`, `..;`).
//!
//! On the wire ([`Path::encoded`]) characters beyond ASCII are escaped again; all else is the same. Reading that text gives the same
//! path. What a rewrite makes of a path is held to the same ([`Path::rewrite`]).

use crate::bytes::{HEX_UPPER, hex};
use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};

/// A path in canonical form. See the module doc.
#[derive(Clone, Debug, Default)]
pub struct Path {
    canonical: String,
    /// Whether the wire form differs: some character is beyond ASCII.
    escaped: bool,
}

/// Why a path was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// It does not begin with `/`.
    NotAbsolute,
    /// A raw control byte, space, `?` or `#`, or raw bytes that are not UTF-8.
    Character,
    /// A `%` without two hexadecimal digits.
    Escape,
    /// `%00`.
    Nul,
    /// A raw `\`, which some backends read as `/`.
    Backslash,
    /// More `..` than segments before them.
    AboveRoot,
    /// `..` followed by `%2F`, `%5C` or `;`, which some backends read as `../`.
    DisguisedDots,
    /// A `.` or `..` segment that a rewrite made.
    DotSegment,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PathError::NotAbsolute => "the path does not begin with /",
            PathError::Character => "the path contains a byte that must be percent-encoded",
            PathError::Escape => "the path contains % without two hexadecimal digits; a percent sign is written %25",
            PathError::Nul => "the path contains %00",
            PathError::Backslash => "the path contains a backslash; write / or %5C",
            PathError::AboveRoot => "the path climbs above its root with ..",
            PathError::DisguisedDots => "the path hides .. before %2F, %5C or ;",
            PathError::DotSegment => "the rewritten path has a segment of dots, . or ..",
        })
    }
}

impl std::error::Error for PathError {}

impl Path {
    /// Reads the path of a request target (up to `?`).
    pub fn parse(text: &[u8]) -> Result<Path, PathError> {
        let mut path = Path::default();
        path.read(text)?;
        Ok(path)
    }

    /// [`parse`](Path::parse) into memory already there. After an error the path is empty.
    pub fn read(&mut self, text: &[u8]) -> Result<(), PathError> {
        self.clear();
        let class = text.iter().fold(0, |class, &b| class | CLASS[b as usize]);
        self.read_classified(text, std::str::from_utf8(text).ok(), class)
    }

    /// A path as people and filters write it: the same canonical space, so that a rule `/中文` or `/a%2Fb` matches.
    ///
    /// Nothing is refused: a `%` that begins no escape, `?`, `#` and `\` stand for themselves, `..` stops at the root,
    /// and a missing first `/` is added. A canonical path is left as it is.
    pub fn from_text(text: &str) -> Path {
        let mut path = Path::default();
        path.set(text);
        path
    }

    /// [`from_text`](Path::from_text) in place.
    pub fn set(&mut self, text: &str) {
        self.decode_written(text);
        if self.canonical.contains("/.") {
            let _ = self.resolve_dots(Source::Written);
        }
    }

    /// Puts in place what a rewrite made of this path and of text of its own, written as for [`from_text`](Path::from_text).
    ///
    /// Dots that were part of a name may have become a segment by it: `/static../x` with `/files/` in place of `/static`. Nobody meant
    /// that, so it is refused, as is what hides such a segment, and the path stays as it was.
    pub fn rewrite(&mut self, text: &str) -> Result<(), PathError> {
        let mut path = Path::default();
        path.decode_written(text);
        path.check_written()?;
        *self = path;
        Ok(())
    }

    fn decode_written(&mut self, text: &str) {
        self.clear();
        if !text.starts_with('/') {
            self.canonical.push('/');
        }
        // Written text is never refused, see `Source::Written`.
        let _ = self.decode(text.as_bytes(), Source::Written);
    }

    /// Holds a path that was not resolved to what [`rewrite`](Path::rewrite) says.
    fn check_written(&self) -> Result<(), PathError> {
        if self.canonical.contains("%00") {
            return Err(PathError::Nul);
        }
        for segment in self.canonical.split('/') {
            match segment {
                "." | ".." => return Err(PathError::DotSegment),
                _ if hides_dots(segment) => return Err(PathError::DisguisedDots),
                _ => {}
            }
        }
        Ok(())
    }

    /// The form rules match against.
    pub fn as_str(&self) -> &str {
        &self.canonical
    }

    /// The form that goes on the wire.
    pub fn encoded(&self) -> Cow<'_, str> {
        if !self.escaped {
            return Cow::Borrowed(&self.canonical);
        }
        let mut text = Vec::with_capacity(self.canonical.len() * 3);
        self.encode(&mut text);
        // The encoder writes ASCII only.
        Cow::Owned(String::from_utf8(text).unwrap_or_default())
    }

    /// Appends the form that goes on the wire.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if !self.escaped {
            return out.extend_from_slice(self.canonical.as_bytes());
        }
        for b in self.canonical.bytes() {
            match b {
                0x80.. => out.extend_from_slice(&escape(b)),
                _ => out.push(b),
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.canonical.is_empty()
    }

    /// Whether it is the target of `OPTIONS *`, which names the server and no resource on it.
    pub fn is_asterisk(&self) -> bool {
        self.canonical == "*"
    }

    pub(crate) fn set_asterisk(&mut self) {
        self.clear();
        self.canonical.push('*');
    }

    /// Takes over a path that is canonical and the same on the wire.
    #[inline]
    pub(crate) fn set_plain(&mut self, text: &str) {
        self.clear();
        self.canonical.push_str(text);
    }

    /// Forgets the path and keeps the memory.
    pub fn clear(&mut self) {
        self.canonical.clear();
        self.escaped = false;
    }

    /// [`read`](Path::read) when the classes of all bytes have been united already; `text` is `raw` when it is UTF-8.
    #[inline]
    pub(crate) fn read_classified(&mut self, raw: &[u8], text: Option<&str>, class: u8) -> Result<(), PathError> {
        debug_assert!(self.canonical.is_empty());
        let plain = class & !(PLAIN | DOT) == 0;
        let dots = class & DOT != 0 && raw.windows(2).any(|w| w == b"/.");
        match text {
            Some(text) if plain && !dots && raw.first() == Some(&b'/') => {
                self.canonical.push_str(text);
                Ok(())
            }
            _ => self.read_unusual(raw),
        }
    }

    #[cold]
    fn read_unusual(&mut self, text: &[u8]) -> Result<(), PathError> {
        if text.first() != Some(&b'/') {
            return Err(PathError::NotAbsolute);
        }
        let read = self.decode(text, Source::Wire).and_then(|()| {
            if self.canonical.contains("/.") || self.canonical.contains("%2F.") || self.canonical.contains("%5C.") {
                return self.resolve_dots(Source::Wire);
            }
            Ok(())
        });
        if read.is_err() {
            self.clear();
        }
        read
    }

    /// Decodes escapes into `canonical`, dot segments still in it.
    fn decode(&mut self, text: &[u8], source: Source) -> Result<(), PathError> {
        let mut at = 0;
        while at < text.len() {
            let raw = text[at] != b'%';
            let (byte, len) = match unescape(&text[at..]) {
                Some(unit) => unit,
                None if source == Source::Written => {
                    self.canonical.push_str("%25");
                    at += 1;
                    continue;
                }
                None => return Err(PathError::Escape),
            };
            if source == Source::Wire {
                match byte {
                    0 => return Err(if raw { PathError::Character } else { PathError::Nul }),
                    b'\\' if raw => return Err(PathError::Backslash),
                    0x01..=0x20 | 0x7f | b'?' | b'#' if raw => return Err(PathError::Character),
                    _ => {}
                }
            }
            match byte {
                _ if is_unreserved(byte) || raw && CLASS[byte as usize] & PLAIN != 0 => {
                    self.canonical.push(byte as char)
                }
                0..0x80 => self.push_escape(byte),
                0x80.. => match character(&text[at..]) {
                    Some((c, len)) => {
                        self.canonical.push(c);
                        self.escaped = true;
                        at += len;
                        continue;
                    }
                    None if raw && source == Source::Wire && control_character(&text[at..]).is_none() => {
                        return Err(PathError::Character);
                    }
                    None => match control_character(&text[at..]) {
                        Some((first, second, len)) => {
                            self.push_escape(first);
                            self.push_escape(second);
                            at += len;
                            continue;
                        }
                        None => self.push_escape(byte),
                    },
                },
            }
            at += len;
        }
        Ok(())
    }

    fn push_escape(&mut self, byte: u8) {
        for b in escape(byte) {
            self.canonical.push(b as char);
        }
    }

    /// Resolves `.` and `..` segments of `canonical` (RFC 3986 section 5.2.4).
    fn resolve_dots(&mut self, source: Source) -> Result<(), PathError> {
        let input = std::mem::take(&mut self.canonical);
        let mut output = String::with_capacity(input.len());
        let mut segments = input.split('/').skip(1).peekable();
        while let Some(segment) = segments.next() {
            let last = segments.peek().is_none();
            match segment {
                "." => {}
                ".." => match output.rfind('/') {
                    Some(slash) => output.truncate(slash),
                    None if source == Source::Written => {}
                    None => return Err(PathError::AboveRoot),
                },
                _ if source == Source::Wire && hides_dots(segment) => return Err(PathError::DisguisedDots),
                _ => {
                    output.push('/');
                    output.push_str(segment);
                    continue;
                }
            }
            if last {
                output.push('/');
            }
        }
        if output.is_empty() {
            output.push('/');
        }
        self.canonical = output;
        Ok(())
    }
}

impl PartialEq for Path {
    fn eq(&self, other: &Path) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for Path {}

impl Hash for Path {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical.hash(state);
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical)
    }
}

/// Where a path comes from: clients are refused what documents and filters may write.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    Wire,
    Written,
}

/// Whether a segment that is not `..` becomes it in a backend that decodes `%2F` or `%5C` early, or drops `;` parameters.
fn hides_dots(segment: &str) -> bool {
    let mut rest = segment;
    loop {
        let cut = [rest.find("%2F"), rest.find("%5C")].into_iter().flatten().min();
        let piece = &rest[..cut.unwrap_or(rest.len())];
        let end = [piece.find(';'), piece.find("%3B")].into_iter().flatten().min();
        let name = &piece[..end.unwrap_or(piece.len())];
        if (name == "." || name == "..") && name.len() < segment.len() {
            return true;
        }
        match cut {
            Some(cut) => rest = &rest[cut + 3..],
            None => return false,
        }
    }
}

/// Whether a segment, escaped in whatever way, is `.` or `..`, or hides one of them.
pub fn is_dots(segment: &str) -> bool {
    let segment = canonical_part(segment);
    matches!(segment.as_str(), "." | "..") || hides_dots(&segment)
}

/// The byte that `text` begins with, raw or escaped, and how many bytes write it. `None` for a broken escape.
fn unescape(text: &[u8]) -> Option<(u8, usize)> {
    match text {
        [b'%', high, low, ..] => Some((hex(*high)? << 4 | hex(*low)?, 3)),
        [b'%', ..] | [] => None,
        [byte, ..] => Some((*byte, 1)),
    }
}

/// The printable UTF-8 character of two to four bytes, each raw or escaped, that `text` begins with.
fn character(text: &[u8]) -> Option<(char, usize)> {
    let (c, len) = any_character(text)?;
    (!c.is_control()).then_some((c, len))
}

/// The same for U+0080–U+009F, as its two bytes.
fn control_character(text: &[u8]) -> Option<(u8, u8, usize)> {
    let (c, len) = any_character(text)?;
    let mut bytes = [0; 4];
    match c.encode_utf8(&mut bytes).as_bytes() {
        [first, second] if c.is_control() => Some((*first, *second, len)),
        _ => None,
    }
}

fn any_character(text: &[u8]) -> Option<(char, usize)> {
    let mut bytes = [0; 4];
    let mut consumed = 0;
    let expected = match unescape(text)?.0 {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return None,
    };
    for byte in &mut bytes[..expected] {
        let (value, len) = unescape(&text[consumed..])?;
        *byte = value;
        consumed += len;
    }
    let c = std::str::from_utf8(&bytes[..expected]).ok()?.chars().next()?;
    Some((c, consumed))
}

pub(crate) fn escape(byte: u8) -> [u8; 3] {
    [b'%', HEX_UPPER[(byte >> 4) as usize], HEX_UPPER[(byte & 15) as usize]]
}

/// The part of a path that a pattern writes as it is, in the form it has in a canonical path: escapes and characters as
/// [`Path::from_text`] has them, segments left alone.
pub fn canonical_part(text: &str) -> String {
    let mut path = Path::default();
    // Written text is never refused, see `Source::Written`.
    let _ = path.decode(text.as_bytes(), Source::Written);
    path.canonical
}

/// RFC 3986 section 2.3.
fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

/// Bytes that are the same in canonical and wire form, the dot aside.
pub(crate) const PLAIN: u8 = 1;
/// The dot: plain, but it may be part of a dot segment.
pub(crate) const DOT: u8 = 2;
/// Everything else: to be decoded, encoded or refused.
pub(crate) const OTHER: u8 = 4;
/// `?` and `#`: the path ends.
pub(crate) const END: u8 = 8;

/// Plain is what RFC 3986 calls pchar, less the escapes, and `/`.
pub(crate) static CLASS: [u8; 256] = {
    let mut table = [OTHER; 256];
    let mut b = 0;
    while b < 128 {
        let c = b as u8;
        table[b] = match c {
            b'.' => DOT,
            b'?' | b'#' => END,
            b'-' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':'
            | b'@' | b'/' => PLAIN,
            _ if c.is_ascii_alphanumeric() => PLAIN,
            _ => OTHER,
        };
        b += 1;
    }
    table
};

#[cfg(test)]
mod tests;
