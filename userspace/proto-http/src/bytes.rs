//! Classes of bytes, and searches that look at eight bytes at a time.

/// Whether a byte may stand in a token (RFC 9110 section 5.6.2).
pub(crate) fn is_token_byte(b: u8) -> bool {
    TOKEN[b as usize] != 0
}

/// 0: not a token byte; 2: underscore, which some backends read as `-`; 1: any other token byte.
pub(crate) static TOKEN: [u8; 256] = {
    let mut table = [0; 256];
    let mut b = 0;
    while b < 128 {
        let c = b as u8;
        table[b] = match c {
            b'_' => 2,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'`' | b'|' | b'~' => 1,
            _ => c.is_ascii_alphanumeric() as u8,
        };
        b += 1;
    }
    table
};

/// Position of the first control byte (below 0x20, or 0x7f) at or after `from`, tabs aside.
#[inline]
pub(crate) fn find_control(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at = find::<0x20>(bytes, at)?;
        if bytes[at] != b'\t' {
            return Some(at);
        }
        at += 1;
    }
}

/// Position of the first control byte or space at or after `from`.
#[inline]
pub(crate) fn find_control_or_space(bytes: &[u8], from: usize) -> Option<usize> {
    find::<0x21>(bytes, from)
}

/// Position of the first byte below `BOUND` or equal to 0x7f.
#[inline]
fn find<const BOUND: u8>(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(word) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        // The lowest set bit is exact: borrows and carries only travel upwards, past the first hit.
        let low = word.wrapping_sub(ONES * BOUND as u64) & !word;
        let delete = word ^ (ONES * 0x7f);
        let delete = delete.wrapping_sub(ONES) & !delete;
        let hits = (low | delete) & (ONES * 0x80);
        if hits != 0 {
            return Some(at + (hits.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    bytes[at.min(bytes.len())..].iter().position(|&b| b < BOUND || b == 0x7f).map(|i| at + i)
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// Without the spaces and tabs around it (optional whitespace, RFC 9110 section 5.6.3).
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    let mut bytes = bytes;
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The number a string of decimal digits writes; `None` for anything else and beyond 2⁶³ − 1, which signed backends cannot hold.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let mut value: u64 = 0;
    for &b in digits {
        if !b.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(b - b'0'))?;
    }
    (value <= i64::MAX as u64).then_some(value)
}

/// Appends a number in decimal.
pub(crate) fn push_decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Value of a hexadecimal digit.
#[inline]
pub(crate) fn hex(b: u8) -> Option<u8> {
    match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    }
}

pub(crate) const HEX_UPPER: &[u8; 16] = b"0123456789ABCDEF";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_control_byte_is_found_at_every_offset() {
        for len in 0..40 {
            for hit in 0..len {
                for control in [0u8, 1, 10, 13, 0x1f, 0x7f] {
                    for filler in [b' ', b'a', b'\t', 0x80, 0xff, 0x7e] {
                        let mut text = vec![filler; len];
                        text[hit] = control;
                        assert_eq!(find_control(&text, 0), Some(hit), "{text:?}");
                        assert_eq!(find_control(&text, hit + 1), None);
                    }
                }
            }
        }
        assert_eq!(find_control_or_space(b"/aaaaaaaaaa HTTP", 0), Some(11));
    }

    #[test]
    fn decimals_are_digits_that_fit() {
        assert_eq!(decimal(b"0042"), Some(42));
        assert_eq!(decimal(b"9223372036854775807"), Some(i64::MAX as u64));
        for bad in ["", "+1", "-1", " 1", "1 ", "0x1", "1,1", "9223372036854775808", "99999999999999999999", "１"] {
            assert_eq!(decimal(bad.as_bytes()), None, "{bad}");
        }
        let mut out = Vec::new();
        push_decimal(&mut out, 0);
        push_decimal(&mut out, u64::MAX);
        assert_eq!(out, b"018446744073709551615");
    }
}
