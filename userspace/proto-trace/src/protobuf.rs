//! As much of protobuf's wire format as the messages need: <https://protobuf.dev/programming-guides/encoding/>.

/// A field with a text or bytes.
pub fn bytes(field: u32, value: &[u8], out: &mut Vec<u8>) {
    if !value.is_empty() {
        present(field, value, out);
    }
}

/// As [`bytes`], also where there are none: in a choice of several, which one it is counts.
pub fn present(field: u32, value: &[u8], out: &mut Vec<u8>) {
    tag(field, 2, out);
    varint(value.len() as u64, out);
    out.extend(value);
}

/// A field with a number of 64 bits.
pub fn fixed64(field: u32, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        tag(field, 1, out);
        out.extend(value.to_le_bytes());
    }
}

/// A field with a number of 32 bits.
pub fn fixed32(field: u32, value: u32, out: &mut Vec<u8>) {
    if value != 0 {
        tag(field, 5, out);
        out.extend(value.to_le_bytes());
    }
}

/// A field with a number that is mostly small.
pub fn number(field: u32, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        always(field, value, out);
    }
}

/// As [`number`], also where it is 0: in a choice of several, which one it is counts.
pub fn always(field: u32, value: u64, out: &mut Vec<u8>) {
    tag(field, 0, out);
    varint(value, out);
}

/// A field with a message. Its length stands before it, and is known once it is written.
pub fn message(field: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    tag(field, 2, out);
    let at = out.len();
    write(out);
    let mut length = Vec::with_capacity(5);
    varint((out.len() - at) as u64, &mut length);
    out.splice(at..at, length);
}

fn tag(field: u32, wire: u32, out: &mut Vec<u8>) {
    varint((field << 3 | wire).into(), out);
}

pub fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The fields of a message, with their numbers; a malformed one ends them.
pub fn fields(mut rest: &[u8]) -> impl Iterator<Item = (u32, Field<'_>)> {
    std::iter::from_fn(move || {
        let tag = read_varint(&mut rest)?;
        let field = match tag & 7 {
            0 => Field::Number(read_varint(&mut rest)?),
            1 => Field::Number(u64::from_le_bytes(*take(&mut rest)?)),
            2 => {
                let length = usize::try_from(read_varint(&mut rest)?).ok()?;
                let (value, after) = rest.split_at_checked(length)?;
                rest = after;
                Field::Bytes(value)
            }
            5 => Field::Number(u32::from_le_bytes(*take(&mut rest)?).into()),
            _ => return None,
        };
        Some((u32::try_from(tag >> 3).ok()?, field))
    })
}

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (value, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(value)
}

fn read_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for at in 0..10 {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(field in 1u32..1000, value in any::<u64>(), text in proptest::collection::vec(any::<u8>(), 1..300)) {
            let mut out = Vec::new();
            always(field, value, &mut out);
            message(field, &mut out, |out| bytes(2, &text, out));
            fixed64(field, value | 1, &mut out);
            fixed32(field, 1, &mut out);
            let all: Vec<(u32, Field<'_>)> = fields(&out).collect();
            prop_assert_eq!(all.len(), 4);
            prop_assert_eq!(all[0], (field, Field::Number(value)));
            let Field::Bytes(inner) = all[1].1 else { panic!("a message") };
            prop_assert_eq!(fields(inner).collect::<Vec<_>>(), vec![(2, Field::Bytes(&text[..]))]);
            prop_assert_eq!(all[2], (field, Field::Number(value | 1)));
            prop_assert_eq!(all[3], (field, Field::Number(1)));
        }

        #[test]
        fn nothing_that_comes_is_trusted(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = fields(&text).count();
        }
    }
}
