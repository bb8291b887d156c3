//! What the field codings of HTTP/2 and HTTP/3 have in common (HPACK, RFC 7541, of which QPACK, RFC 9204, took over the half): integers,
//! Huffman's code, and the list of fields that a block of either says.

pub mod huffman;

use crate::multiplexed::Pseudo;

/// The fields of a section, in order, in one piece of memory.
#[derive(Debug, Clone, Default)]
pub struct Section {
    text: Vec<u8>,
    /// Where names and values end.
    ends: Vec<(u32, u32)>,
}

impl Section {
    /// As a decoder fills it.
    #[cfg(test)]
    pub(crate) fn of(fields: &[(&str, &str)]) -> Section {
        let mut section = Section::default();
        for (name, value) in fields {
            section.text_mut().extend_from_slice(name.as_bytes());
            let end = section.bytes();
            section.text_mut().extend_from_slice(value.as_bytes());
            section.end(end);
        }
        section
    }

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

    /// Bytes of memory it occupies.
    pub fn memory(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * size_of::<(u32, u32)>()
    }

    /// Forgets all fields and keeps the memory.
    pub fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    /// Where a decoder appends a name and then its value, before it says where they [`end`](Section::end).
    pub fn text_mut(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// The field that was appended last ends with the text, and its name ended there.
    pub fn end(&mut self, name: usize) {
        self.ends.push((name as u32, self.text.len() as u32));
    }
}

/// The message breaks the form that every message has, whatever it says: its stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The pseudo-fields of a request, and how many of its fields they are: they come first, each once, none unknown, none missing (RFC 9113
/// section 8.3.1, RFC 9114 section 4.3.1).
pub fn pseudo(section: &Section) -> Result<(Pseudo<'_>, usize), Malformed> {
    let mut method = None;
    let mut pseudo = Pseudo::default();
    let mut count = 0;
    for (name, value) in section.iter().take_while(|(name, _)| name.first() == Some(&b':')) {
        count += 1;
        let place = match name {
            b":method" => &mut method,
            b":scheme" => &mut pseudo.scheme,
            b":authority" => &mut pseudo.authority,
            b":path" => &mut pseudo.path,
            b":protocol" => &mut pseudo.protocol,
            _ => return Err(Malformed),
        };
        if place.replace(value).is_some() {
            return Err(Malformed);
        }
    }
    pseudo.method = method.ok_or(Malformed)?;
    let is_plain_connect = pseudo.method == b"CONNECT" && pseudo.protocol.is_none();
    let has_target = pseudo.scheme.is_some() && pseudo.path.is_some_and(|path| !path.is_empty());
    if is_plain_connect || has_target { Ok((pseudo, count)) } else { Err(Malformed) }
}

/// A field that is none of those that come first: no pseudo-field, and its name is in lower case (RFC 9113 section 8.2, RFC 9114 section
/// 4.2).
pub fn check_name(name: &[u8]) -> Result<(), Malformed> {
    if name.first() == Some(&b':') || name.iter().any(u8::is_ascii_uppercase) { Err(Malformed) } else { Ok(()) }
}

/// Reads an integer with a prefix of so many bits (RFC 7541 section 5.1). `None`: it does not end, or is beyond the 62 bits that any
/// protocol has use for.
#[inline]
pub fn integer(input: &mut &[u8], prefix: u32) -> Option<u64> {
    let (&first, mut rest) = input.split_first()?;
    let full = (1u64 << prefix) - 1;
    let mut value = u64::from(first) & full;
    if value == full {
        let mut shift = 0;
        loop {
            let (&byte, after) = rest.split_first()?;
            rest = after;
            if shift > 56 {
                return None;
            }
            value = value.checked_add(u64::from(byte & 0x7f) << shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *input = rest;
    Some(value)
}

/// Appends an integer with a prefix of so many bits; `pattern` is what stands before them.
#[inline]
pub fn write_integer(value: u64, prefix: u32, pattern: u8, into: &mut Vec<u8>) {
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
mod tests {
    use super::*;

    #[test]
    fn the_integers_of_rfc_7541() {
        // C.1.1 to C.1.3.
        for (value, prefix, coded) in [(10, 5, &[0b01010][..]), (1337, 5, &[0b11111, 0x9a, 0x0a]), (42, 8, &[42])] {
            let mut written = Vec::new();
            write_integer(value, prefix, 0, &mut written);
            assert_eq!(written, coded);
            assert_eq!(integer(&mut &coded[..], prefix), Some(value));
        }
    }

    #[test]
    fn integers_without_an_end_are_none() {
        for coded in [&[][..], &[0x1f], &[0x1f, 0x80], &[0x1f, 0x80, 0x80]] {
            assert_eq!(integer(&mut &coded[..], 5), None);
        }
        assert_eq!(integer(&mut &[&[0x1f][..], &[0xff; 12]].concat()[..], 5), None);
    }

    #[test]
    fn pseudo_fields_come_first_and_once() {
        let whole = [(":method", "GET"), (":scheme", "http"), (":path", "/"), ("a", "b")];
        let list = Section::of(&whole);
        let (pseudo_fields, count) = pseudo(&list).unwrap();
        assert_eq!((pseudo_fields.method, pseudo_fields.path, count), (&b"GET"[..], Some(&b"/"[..]), 3));
        assert_eq!(list.iter().skip(count).map(|(name, _)| check_name(name)).collect::<Vec<_>>(), [Ok(())]);
        for wrong in [
            &[(":method", "GET"), (":scheme", "http")][..],
            &[(":method", "GET"), (":scheme", "http"), (":path", "")],
            &[(":method", "GET"), (":method", "GET"), (":scheme", "http"), (":path", "/")],
            &[(":status", "200")],
            &[("a", "b"), (":method", "GET")],
            &[],
        ] {
            assert!(pseudo(&Section::of(wrong)).is_err(), "{wrong:?}");
        }
        assert!(pseudo(&Section::of(&[(":method", "CONNECT"), (":authority", "a:1")])).is_ok());
        assert_eq!(
            [check_name(b":path"), check_name(b"X"), check_name(b"x-a")],
            [Err(Malformed), Err(Malformed), Ok(())]
        );
    }
}
