//! Header maps as proxy-wasm writes them (ABI 0.2.1): a count, the length of each name and value, then each of them with a NUL. All
//! numbers are u32, little endian.

use proto_http::headers;

/// Pairs of names and values.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

pub fn write_pairs<'p>(out: &mut Vec<u8>, pairs: impl Iterator<Item = (&'p [u8], &'p [u8])> + Clone) {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    out.extend_from_slice(&number(pairs.clone().count()));
    for (name, value) in pairs.clone() {
        out.extend_from_slice(&number(name.len()));
        out.extend_from_slice(&number(value.len()));
    }
    for (name, value) in pairs {
        for text in [name, value] {
            out.extend_from_slice(text);
            out.push(0);
        }
    }
}

/// `None` where the bytes are not what they say.
pub fn read_pairs(bytes: &[u8]) -> Option<Pairs> {
    let number = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    if bytes.is_empty() {
        return Some(Pairs::new());
    }
    let count = number(0)?;
    // Before anything is made so large, that many lengths must be there.
    let mut at = count.checked_mul(8)?.checked_add(4).filter(|end| *end <= bytes.len())?;
    let mut pairs = Pairs::with_capacity(count);
    let mut take = |length: usize| {
        let text = bytes.get(at..)?.get(..length)?;
        at += length + 1;
        (bytes.get(at - 1) == Some(&0)).then(|| text.to_vec())
    };
    for pair in 0..count {
        let (name, value) = (number(4 + pair * 8)?, number(8 + pair * 8)?);
        pairs.push((take(name)?, take(value)?));
    }
    Some(pairs)
}

/// Whether a field may be sent: not one of the pseudo fields, which begin with a colon.
pub fn is_field(name: &[u8], value: &[u8]) -> bool {
    headers::is_name(name) && headers::is_value(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pairs_come_back(pairs in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..9), proptest::collection::vec(any::<u8>(), 0..9)), 0..6)) {
            let mut out = Vec::new();
            write_pairs(&mut out, pairs.iter().map(|(name, value)| (&name[..], &value[..])));
            prop_assert_eq!(read_pairs(&out), Some(pairs));
        }

        #[test]
        fn rubbish_is_no_pairs_and_no_memory(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(pairs) = read_pairs(&bytes) {
                prop_assert!(pairs.len() * 8 <= bytes.len());
            }
        }
    }

    #[test]
    fn a_count_is_not_believed() {
        assert_eq!(read_pairs(&u32::MAX.to_le_bytes()), None);
        assert_eq!(read_pairs(&[]), Some(Pairs::new()));
    }
}
