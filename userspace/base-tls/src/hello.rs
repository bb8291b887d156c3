//! The beginning of a TLS connection looked at from outside: which server a client asks for, and which protocols it offers.
//!
//! Pure bytes: nothing is answered, nothing is taken away. A ClientHello may come in many segments and records; it is bounded by
//! [`HELLO_MOST`]. Versions, suites and extensions that mean nothing here are not judged: the server behind does that.

use crate::record::HANDSHAKE;

/// Longest beginning that is looked at, in bytes, with its record headers. Hellos of today take 300 to 2,000 bytes, those with large
/// tickets or post-quantum keys a few thousand.
pub const HELLO_MOST: usize = 16 * 1024;

/// What a client asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// In lower case.
    pub server_name: Option<String>,
    /// As offered, best first.
    pub alpn: Vec<Vec<u8>>,
}

/// Why bytes are no ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoHello {
    /// Something other than TLS.
    NotTls,
    /// TLS, but not well formed.
    Malformed,
    /// Longer than [`HELLO_MOST`].
    TooLong,
}

/// An alert that refuses what was said (RFC 8446 section 6), as a record of its own.
pub const fn alert(description: u8) -> [u8; 7] {
    [21, 3, 1, 0, 2, 2, description]
}

/// The client asks for a name nobody here has.
pub const UNRECOGNIZED_NAME: u8 = 112;
/// What came could not be read.
pub const DECODE_ERROR: u8 = 50;

impl Hello {
    /// What the bytes a connection has begun with ask for; `None` while more must come, and then there are fewer than [`HELLO_MOST`].
    pub fn read(bytes: &[u8]) -> Result<Option<Hello>, NoHello> {
        match message(bytes)? {
            Some(message) => hello(&message).map(Some).ok_or(NoHello::Malformed),
            None if bytes.len() >= HELLO_MOST => Err(NoHello::TooLong),
            None => Ok(None),
        }
    }
}

const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
const RECORD_MOST: usize = 16 * 1024;
const CLIENT_HELLO: u8 = 1;

/// The first message, without its header, put together from its records.
fn message(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, NoHello> {
    let mut joined: Vec<u8> = Vec::new();
    let mut first = true;
    loop {
        if bytes.first().is_some_and(|kind| *kind != HANDSHAKE) || bytes.get(1).is_some_and(|major| *major != 3) {
            return Err(if first { NoHello::NotTls } else { NoHello::Malformed });
        }
        let Some(header) = bytes.first_chunk::<RECORD_HEADER>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > RECORD_MOST {
            return Err(NoHello::Malformed);
        }
        let content = &bytes[RECORD_HEADER..];
        joined.extend_from_slice(&content[..content.len().min(length)]);
        if joined.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(NoHello::Malformed);
        }
        if let Some([_, a, b, c]) = joined.first_chunk::<MESSAGE_HEADER>() {
            let whole = MESSAGE_HEADER + u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if whole > HELLO_MOST {
                return Err(NoHello::TooLong);
            }
            if joined.len() >= whole {
                joined.truncate(whole);
                joined.drain(..MESSAGE_HEADER);
                return Ok(Some(joined));
            }
        }
        match content.get(length..) {
            Some(rest) => bytes = rest,
            None => return Ok(None),
        }
        first = false;
    }
}

/// RFC 8446 section 4.1.2.
fn hello(body: &[u8]) -> Option<Hello> {
    let mut body = Reader(body);
    // Version and random.
    body.take(2 + 32)?;
    let _session = body.vector8()?;
    let _suites = body.vector16()?;
    let _compression = body.vector8()?;
    let mut found = Hello::default();
    if body.0.is_empty() {
        // Of before there were extensions.
        return Some(found);
    }
    let mut extensions = body.vector16()?;
    if !body.0.is_empty() {
        return None;
    }
    let (mut named, mut offered) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut content = extensions.vector16()?;
        match kind {
            // RFC 6066 section 3.
            0 if !std::mem::replace(&mut named, true) => {
                let mut names = content.vector16()?;
                while !names.0.is_empty() {
                    let (kind, name) = (names.take(1)?[0], names.vector16()?.0);
                    if kind == 0 && found.server_name.is_none() {
                        let name = std::str::from_utf8(name).ok().filter(|name| is_name(name))?;
                        found.server_name = Some(name.to_ascii_lowercase());
                    }
                }
            }
            // RFC 7301 section 3.1.
            16 if !std::mem::replace(&mut offered, true) => {
                let mut protocols = content.vector16()?;
                while !protocols.0.is_empty() {
                    let protocol = protocols.vector8()?.0;
                    if protocol.is_empty() {
                        return None;
                    }
                    found.alpn.push(protocol.to_vec());
                }
            }
            // Twice: one of them would be read by us and the other by the server.
            0 | 16 => return None,
            _ => {}
        }
    }
    Some(found)
}

/// Host names as clients send them; nothing that would look like something else in a log or a rule.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, n: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn vector8(&mut self) -> Option<Reader<'b>> {
        let length = self.take(1)?[0];
        self.take(usize::from(length)).map(Reader)
    }

    fn vector16(&mut self) -> Option<Reader<'b>> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector16(content: &[u8]) -> Vec<u8> {
        [&(content.len() as u16).to_be_bytes()[..], content].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector16(content)].concat()
    }

    fn name(name: &str) -> Vec<u8> {
        extension(0, &vector16(&[&[0][..], &vector16(name.as_bytes())].concat()))
    }

    fn alpn(protocols: &[&str]) -> Vec<u8> {
        let list: Vec<u8> = protocols.iter().flat_map(|p| [&[p.len() as u8][..], p.as_bytes()].concat()).collect();
        extension(16, &vector16(&list))
    }

    fn body(extensions: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        if !extensions.is_empty() {
            body.extend(vector16(&extensions.concat()));
        }
        body
    }

    /// As a client sends it, in records of at most this many bytes.
    fn sent(body: &[u8], record: usize) -> Vec<u8> {
        let message = [&[CLIENT_HELLO][..], &(body.len() as u32).to_be_bytes()[1..], body].concat();
        message.chunks(record).flat_map(|part| [&[22, 3, 1][..], &vector16(part)].concat()).collect()
    }

    #[test]
    fn names_and_protocols_are_found_however_they_come() {
        let body = body(&[extension(43, &[2, 3, 4]), name("Shop.TEST"), alpn(&["h2", "http/1.1"])]);
        let expected =
            Hello { server_name: Some("shop.test".to_owned()), alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()] };
        for record in [1, 2, 3, 7, 50, 4096] {
            let bytes = sent(&body, record);
            for cut in 0..bytes.len() {
                assert_eq!(Hello::read(&bytes[..cut]), Ok(None), "{record} {cut}");
            }
            assert_eq!(Hello::read(&bytes), Ok(Some(expected.clone())), "{record}");
            assert_eq!(Hello::read(&[&bytes, &b"more"[..]].concat()), Ok(Some(expected.clone())));
        }
        assert_eq!(Hello::read(&sent(&super::tests::body(&[]), 100)), Ok(Some(Hello::default())));
    }

    #[test]
    fn what_is_no_hello_is_told() {
        for (bytes, told) in [
            (b"GET / HTTP/1.1\r\n".to_vec(), NoHello::NotTls),
            (vec![22, 2], NoHello::NotTls),
            (vec![22, 3, 1, 0, 0], NoHello::Malformed),
            (vec![22, 3, 1, 0xFF, 0xFF], NoHello::Malformed),
            (vec![22, 3, 1, 0, 4, 2, 0, 0, 0], NoHello::Malformed),
            (vec![22, 3, 1, 0, 4, 1, 1, 0, 0], NoHello::TooLong),
            (sent(&body(&[name("a"), name("b")]), 100), NoHello::Malformed),
            (sent(&body(&[alpn(&["h2"]), alpn(&["h2"])]), 100), NoHello::Malformed),
            (sent(&body(&[alpn(&[""])]), 100), NoHello::Malformed),
            (sent(&body(&[name("a b")]), 100), NoHello::Malformed),
            (sent(&body(&[name("")]), 100), NoHello::Malformed),
            (sent(&[body(&[name("a")]), vec![0]].concat(), 100), NoHello::Malformed),
            (sent(&body(&[name("a")])[..40], 100), NoHello::Malformed),
        ] {
            assert_eq!(Hello::read(&bytes), Err(told), "{bytes:?}");
        }
        // Records of a byte each: the headers count.
        let long = sent(&[body(&[]), vec![0; HELLO_MOST / 4]].concat(), 1);
        assert_eq!(Hello::read(&long[..HELLO_MOST]), Err(NoHello::TooLong));
    }
}
