//! The three messages of LDAP (RFC 4511) that checking a password takes: bind, StartTLS and their answers, in BER.
//!
//! Only what a client of a simple bind needs; a crate for all of LDAP brings filters, schemas and their parsers along.

/// Bytes of an answer at most: a server may put text of its own into it.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What came is no answer of LDAP, or is longer than [`ANSWER_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) id: u32,
    /// Of which request it is the answer.
    pub(super) tag: u8,
    /// RFC 4511 appendix A.
    pub(super) code: u8,
    /// What the server says of it, for people.
    pub(super) text: String,
}

/// Tags of answers: to a bind, to StartTLS.
pub(super) const BOUND: u8 = 0x61;
pub(super) const EXTENDED: u8 = 0x78;

/// A simple bind (RFC 4511 section 4.2) of an entry.
pub(super) fn bind(id: u32, name: &str, password: &[u8]) -> Vec<u8> {
    let mut bind = element(INTEGER, &[3]);
    bind.extend(element(OCTETS, name.as_bytes()));
    bind.extend(element(0x80, password));
    message(id, &element(0x60, &bind))
}

/// StartTLS (RFC 4511 section 4.14).
pub(super) fn start_tls(id: u32) -> Vec<u8> {
    message(id, &element(0x77, &element(0x80, b"1.3.6.1.4.1.1466.20037")))
}

/// The end of a connection (RFC 4511 section 4.3); nothing is answered.
pub(super) fn unbind(id: u32) -> Vec<u8> {
    message(id, &element(0x42, b""))
}

/// The first answer in `bytes` and how long it is; `None`: there is more to come.
pub(super) fn read(bytes: &[u8]) -> Result<Option<(Answered, usize)>, Malformed> {
    let Some((SEQUENCE, message, length)) = take(bytes)? else {
        return if bytes.first().is_some_and(|tag| *tag != SEQUENCE) { Err(Malformed) } else { Ok(None) };
    };
    let (id, rest) = whole(message, INTEGER)?;
    let (tag, answer, _) = take(rest)?.ok_or(Malformed)?;
    let (code, rest) = whole(answer, ENUMERATED)?;
    let (_, rest) = whole(rest, OCTETS)?;
    let (text, _) = whole(rest, OCTETS)?;
    let id = id.iter().try_fold(0_u32, |id, byte| id.checked_mul(256)?.checked_add((*byte).into())).ok_or(Malformed)?;
    let [code] = code else { return Err(Malformed) };
    Ok(Some((Answered { id, tag, code: *code, text: String::from_utf8_lossy(text).into_owned() }, length)))
}

/// Its tag, its content, and how long all of it is.
type Element<'b> = (u8, &'b [u8], usize);

/// The content of an element that has to be there, and what follows it.
fn whole(bytes: &[u8], wanted: u8) -> Result<(&[u8], &[u8]), Malformed> {
    match take(bytes)? {
        Some((tag, content, length)) if tag == wanted => Ok((content, &bytes[length..])),
        _ => Err(Malformed),
    }
}

/// Tag and content of the first element, and the length of all of it (X.690 section 8.1); `None`: it is not all there.
fn take(bytes: &[u8]) -> Result<Option<Element<'_>>, Malformed> {
    let [tag, first, rest @ ..] = bytes else { return Ok(None) };
    let (octets, length) = match *first {
        // Lengths that are not known ahead are not LDAP's (RFC 4511 section 5.1).
        0x80 => return Err(Malformed),
        short if short < 0x80 => (0, usize::from(short)),
        long => {
            let octets = usize::from(long & 0x7f);
            if octets > 4 {
                return Err(Malformed);
            }
            let Some(said) = rest.get(..octets) else { return Ok(None) };
            (octets, said.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
        }
    };
    if length > ANSWER_BYTES_MAX {
        return Err(Malformed);
    }
    Ok(rest.get(octets..octets + length).map(|content| (*tag, content, 2 + octets + length)))
}

fn message(id: u32, operation: &[u8]) -> Vec<u8> {
    // Positive: the first bit of an integer is its sign.
    let mut message = element(INTEGER, &(id & 0x7fff_ffff).to_be_bytes());
    message.extend_from_slice(operation);
    element(SEQUENCE, &message)
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            out.push(0x84);
            out.extend((content.len() as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(content);
    out
}

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
const SEQUENCE: u8 = 0x30;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As OpenLDAP answers a bind with a wrong password.
    const WRONG: &[u8] = &[0x30, 0x0c, 0x02, 0x01, 0x01, 0x61, 0x07, 0x0a, 0x01, 0x31, 0x04, 0x00, 0x04, 0x00];

    #[test]
    fn an_answer_is_read_when_it_is_all_there() {
        let answered = Answered { id: 1, tag: BOUND, code: 49, text: String::new() };
        assert_eq!(read(WRONG), Ok(Some((answered, WRONG.len()))));
        for end in 0..WRONG.len() {
            assert_eq!(read(&WRONG[..end]), Ok(None), "{end} bytes");
        }
        let mut more = WRONG.to_vec();
        more.extend_from_slice(WRONG);
        assert_eq!(read(&more).unwrap().map(|(_, length)| length), Some(WRONG.len()));
        for bad in [
            &b"HTTP/1.1 400"[..],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x85, 1, 1, 1, 1, 1],
            &[0x30, 0x83, 0xff, 0xff, 0xff],
            &[0x30, 0x02, 0x02, 0x09],
            &[0x30, 0x00],
        ] {
            assert_eq!(read(bad), Err(Malformed), "{bad:?}");
        }
    }

    #[test]
    fn requests_are_what_the_rfc_says() {
        let expected = b"\x30\x19\x02\x04\0\0\0\x01\x60\x11\x02\x01\x03\x04\x06uid=al\x80\x04pass";
        assert_eq!(bind(1, "uid=al", b"pass"), expected);
        assert_eq!(unbind(2), b"\x30\x08\x02\x04\0\0\0\x02\x42\0");
        let long = bind(1, &"x".repeat(300), b"p");
        assert_eq!((long[0], long.len()), (0x30, take(&long).unwrap().unwrap().2));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), at in 0..14_usize, byte in any::<u8>()) {
            let _ = read(&bytes);
            let mut changed = WRONG.to_vec();
            changed[at] = byte;
            if let Ok(Some((_, length))) = read(&changed) {
                prop_assert!(length <= changed.len());
            }
        }
    }
}
