//! Classes of bytes, and searches that look at many bytes at a time.

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

/// Where the run of token bytes that begins at `at` ends, the byte there (`None`: the input ends first), and whether the
/// run contains an underscore.
#[inline]
pub(crate) fn scan_token(bytes: &[u8], at: usize) -> (usize, Option<u8>, bool) {
    // Names are short: for them a table costs less than looking at many bytes at a time.
    let mut end = at;
    let mut underscore = false;
    loop {
        let Some(run) = bytes.get(end..) else { return (end, None, underscore) };
        let Some(len) = run.iter().position(|&b| TOKEN[b as usize] != 1) else {
            return (bytes.len(), None, underscore);
        };
        end += len;
        if run[len] != b'_' {
            return (end, Some(run[len]), underscore);
        }
        underscore = true;
        end += 1;
    }
}

/// Position of the first control byte (below 0x20, or 0x7f) at or after `from`, tabs aside.
#[inline]
pub(crate) fn find_control(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at = find(bytes, at, |b| (b < 0x20) | (b == 0x7f), control::<0x20>);
        if *bytes.get(at)? != b'\t' {
            return Some(at);
        }
        at += 1;
    }
}

/// Position of the first control byte or space at or after `from`.
#[inline]
pub(crate) fn find_control_or_space(bytes: &[u8], from: usize) -> Option<usize> {
    let at = find(bytes, from, |b| (b <= 0x20) | (b == 0x7f), control::<0x21>);
    (at < bytes.len()).then_some(at)
}

/// Position of the first byte at or after `from` that is no letter, digit, `-` or `/`; the length when there is none.
#[inline]
pub(crate) fn skip_plain(bytes: &[u8], from: usize) -> usize {
    // `/` and the digits lie side by side.
    find(
        bytes,
        from,
        |b| !is_letter(b) & !(b'/'..=b'9').contains(&b) & (b != b'-'),
        |word| not_letter(word) & not_within(word, b'/', b'9') & not_equal(word, b'-'),
    )
}

#[inline(always)]
fn is_letter(b: u8) -> bool {
    (b | 0x20).wrapping_sub(b'a') < 26
}

/// Position of the first byte at or after `from` for which `holds`; the length when there is none.
///
/// Whether there is one among sixteen is asked in a loop that compiles to a few vector instructions (intrinsics would need
/// `unsafe`); where it is, of eight bytes in one register: `marks` answers with the highest bit of each byte that `holds`.
#[inline(always)]
fn find(bytes: &[u8], from: usize, holds: impl Fn(u8) -> bool, marks: impl Fn(u64) -> u64) -> usize {
    let mut at = from;
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<16>()) {
        if chunk.iter().fold(false, |any, &b| any | holds(b)) {
            let (low, high) = halves(chunk);
            let low = marks(low);
            return at + if low != 0 { first(low) } else { 8 + first(marks(high)) };
        }
        at += 16;
    }
    // The last bytes, behind some that have been looked at or lie before `from`.
    if let (Some(chunk), skipped @ 0..16) = (bytes.last_chunk(), (at + 16).saturating_sub(bytes.len())) {
        let (low, high) = halves(chunk);
        let marks = (u128::from(marks(low)) | u128::from(marks(high)) << 64) >> (8 * skipped);
        return if marks != 0 { at + (marks.trailing_zeros() / 8) as usize } else { bytes.len() };
    }
    at + bytes[at.min(bytes.len())..].iter().take_while(|&&b| !holds(b)).count()
}

#[inline(always)]
fn halves(chunk: &[u8; 16]) -> (u64, u64) {
    let both = u128::from_le_bytes(*chunk);
    (both as u64, (both >> 64) as u64)
}

#[inline(always)]
fn first(marks: u64) -> usize {
    (marks.trailing_zeros() / 8) as usize
}

/// The highest bit of each byte that is below `BOUND` or 0x7f. Sums of seven-bit numbers never carry into the next byte.
#[inline(always)]
fn control<const BOUND: u8>(word: u64) -> u64 {
    let ascii = word & LOW;
    (!(ascii + ONES * (0x80 - BOUND as u64)) | (ascii + ONES)) & !word & HIGH
}

/// The highest bit of each byte that is no ASCII letter.
#[inline(always)]
fn not_letter(word: u64) -> u64 {
    not_within(word | (ONES * 0x20), b'a', b'z')
}

/// The highest bit of each byte outside of a range of ASCII.
#[inline(always)]
fn not_within(word: u64, first: u8, last: u8) -> u64 {
    let ascii = word & LOW;
    (!(ascii + ONES * (0x80 - first as u64)) | (ascii + ONES * (0x7f - last as u64)) | word) & HIGH
}

/// The highest bit of each byte that is not `b`, which is ASCII.
#[inline(always)]
fn not_equal(word: u64, b: u8) -> u64 {
    let difference = word ^ (ONES * b as u64);
    (((difference & LOW) + LOW) | difference) & HIGH
}

const ONES: u64 = 0x0101_0101_0101_0101;
const LOW: u64 = ONES * 0x7f;
const HIGH: u64 = ONES * 0x80;

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
    fn sixteen_at_a_time_says_the_same_as_one_at_a_time() {
        for len in 0..50 {
            for b in 0..=255u8 {
                let mut text: Vec<u8> = b"aB3-/zZ90-x/Yy1c".iter().copied().cycle().take(len).collect();
                if let Some(last) = text.last_mut() {
                    *last = b;
                }
                let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-/".contains(b);
                for from in [0, len / 2, len] {
                    let expected = text[from..].iter().position(|b| !plain(b)).map_or(len, |i| i + from);
                    assert_eq!(skip_plain(&text, from), expected, "{b} {from} {len}");
                }
            }
        }
    }

    #[test]
    fn a_token_ends_at_the_first_byte_that_is_none() {
        for stop in 0..=255u8 {
            for len in 0..20 {
                let mut text = b"Aa-zZ-content-lengths"[..len].to_vec();
                text.push(stop);
                text.extend(b"x: more and more");
                let expected = text.iter().position(|&b| !is_token_byte(b)).unwrap();
                let (end, byte, underscore) = scan_token(&text, 0);
                assert_eq!((end, byte), (expected, Some(text[expected])), "{text:?}");
                assert_eq!(underscore, stop == b'_');
            }
        }
        assert_eq!(scan_token(b"content-length", 3), (14, None, false));
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
