//! Integers of variable length (RFC 9000 section 16).

/// The largest there is.
pub const MAX: u64 = (1 << 62) - 1;

/// The integer that `bytes` begin with, and its length; `None` while it is not complete.
#[inline]
pub fn decode(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let rest = bytes.get(1..length)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte));
    Some((value, length))
}

/// Appends `value`, which is at most [`MAX`], in the fewest bytes.
#[inline]
pub fn encode(value: u64, into: &mut Vec<u8>) {
    debug_assert!(value <= MAX);
    match value {
        0..0x40 => into.push(value as u8),
        0x40..0x4000 => into.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..0x4000_0000 => into.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes()),
        _ => into.extend_from_slice(&(value | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// An integer that comes byte by byte.
#[derive(Debug, Clone, Copy, Default)]
pub struct Partial {
    bytes: [u8; 8],
    had: u8,
}

impl Partial {
    /// Takes bytes from the front of `input` until the integer is complete, and gives it.
    pub fn take(&mut self, input: &mut &[u8]) -> Option<u64> {
        if self.had == 0
            && let Some((value, length)) = decode(input)
        {
            *input = &input[length..];
            return Some(value);
        }
        while let Some((first, rest)) = input.split_first() {
            self.bytes[usize::from(self.had)] = *first;
            self.had += 1;
            *input = rest;
            if let Some((value, _)) = decode(&self.bytes[..usize::from(self.had)]) {
                self.had = 0;
                return Some(value);
            }
        }
        None
    }

    /// Some of it has come.
    pub fn has_begun(&self) -> bool {
        self.had > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_rfc_9000() {
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x40, 0x25], 37),
            (&[0x25], 37),
        ] {
            assert_eq!(decode(bytes), Some((value, bytes.len())));
            (0..bytes.len()).for_each(|cut| assert_eq!(decode(&bytes[..cut]), None));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_in_any_pieces(value in 0..=MAX, shift in 0..62u32, cut in 0..8usize) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            encode(value, &mut bytes);
            prop_assert_eq!(decode(&bytes), Some((value, bytes.len())));
            let cut = cut.min(bytes.len() - 1);
            let (mut partial, mut first, mut second) = (Partial::default(), &bytes[..cut], &bytes[cut..]);
            prop_assert_eq!(partial.take(&mut first), None);
            prop_assert_eq!(partial.has_begun(), cut > 0);
            prop_assert_eq!(partial.take(&mut second), Some(value));
            prop_assert!(second.is_empty());
        }
    }
}
