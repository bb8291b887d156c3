//! UTF-8 that comes in pieces: what can no longer become a character is found with the byte that says so.

/// A text under way. Holds the bytes of a character that is not whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Utf8 {
    begun: [u8; 4],
    length: u8,
}

impl Utf8 {
    /// Reads on. An error says how many of `bytes` came before the one that is wrong.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut at = 0;
        while self.length > 0 {
            let Some(byte) = bytes.get(at) else { return Ok(()) };
            let end = usize::from(self.length) + 1;
            self.begun[end - 1] = *byte;
            match std::str::from_utf8(&self.begun[..end]) {
                Ok(_) => self.length = 0,
                Err(error) if error.error_len().is_none() => self.length = end as u8,
                Err(_) => return Err(at),
            }
            at += 1;
        }
        match std::str::from_utf8(&bytes[at..]) {
            Ok(_) => Ok(()),
            Err(error) => {
                let valid = at + error.valid_up_to();
                let Some(wrong) = error.error_len() else {
                    let begun = &bytes[valid..];
                    self.begun[..begun.len()].copy_from_slice(begun);
                    self.length = begun.len() as u8;
                    return Ok(());
                };
                // What is wrong is the byte that cannot follow, unless nothing can begin with the first.
                Err(if matches!(bytes[valid], 0xc2..=0xf4) { valid + wrong } else { valid })
            }
        }
    }

    /// No character is under way.
    pub fn is_whole(&self) -> bool {
        self.length == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many bytes are read, one by one, before one is refused.
    fn refused_at(bytes: &[u8]) -> Option<usize> {
        let mut text = Utf8::default();
        bytes.iter().position(|byte| text.read(&[*byte]).is_err())
    }

    #[test]
    fn wrong_bytes_are_found_at_once() {
        for (bytes, at) in [
            (&b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited"[..], 12),
            (b"\xed\xa0\x80", 1),
            (b"\xc0\xaf", 0),
            (b"\xff", 0),
            (b"ok\x80", 2),
            (b"\xe0\x80\x80", 1),
            (b"\xf8\x88\x80\x80\x80", 0),
            (b"\xf0\x8f\xbf\xbf", 1),
        ] {
            assert_eq!(refused_at(bytes), Some(at), "{bytes:x?}");
            assert!(Utf8::default().read(bytes).is_err());
        }
        assert_eq!(refused_at("κόσμε \u{10ffff}".as_bytes()), None);
    }

    proptest! {
        #[test]
        fn pieces_are_read_as_the_whole_is(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                "\\PC{0,20}".prop_map(String::into_bytes),
                ("\\PC{0,12}", any::<u8>(), any::<prop::sample::Index>()).prop_map(|(text, byte, at)| {
                    let mut bytes = text.into_bytes();
                    bytes.insert(at.index(bytes.len() + 1), byte);
                    bytes
                }),
            ],
            cuts in prop::collection::vec(1usize..7, 1..20),
        ) {
            let (mut text, mut rest, mut read) = (Utf8::default(), &bytes[..], 0);
            let mut failed = None;
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                if let Err(valid) = text.read(piece) {
                    failed = Some(read + valid);
                    break;
                }
                (rest, read) = (after, read + piece.len());
            }
            match std::str::from_utf8(&bytes) {
                Ok(_) => prop_assert!(failed.is_none() && text.is_whole()),
                Err(error) => match error.error_len() {
                    None => prop_assert!(failed.is_none() && !text.is_whole()),
                    Some(_) => prop_assert_eq!(failed, refused_at(&bytes)),
                },
            }
        }
    }
}
