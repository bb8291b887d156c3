//! Classes of bytes, and searches that look at sixteen bytes at a time.

use wide::u8x16;

/// Whether a byte may stand in a token (RFC 9110 section 5.6.2).
pub(crate) fn is_token_byte(b: u8) -> bool {
    TOKEN[b as usize] != 0
}

/// 1 for token bytes.
static TOKEN: [u8; 256] = {
    let mut table = [0; 256];
    let mut b = 0;
    while b < 128 {
        let c = b as u8;
        table[b] = match c {
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~' => {
                1
            }
            _ => c.is_ascii_alphanumeric() as u8,
        };
        b += 1;
    }
    table
};

/// Where the run of token bytes that begins at `at` ends, the byte there (`None`: the input ends first), and whether the
/// run contains an underscore.
pub(crate) fn scan_token(bytes: &[u8], at: usize) -> (usize, Option<u8>, bool) {
    let rest = bytes.get(at..).unwrap_or_default();
    let mut len = 0;
    while let Some(block) = rest.get(len..).and_then(<[u8]>::first_chunk) {
        let marks = not_host(u8x16::new(*block));
        if marks != 0 {
            len += first(marks);
            break;
        }
        len += 16;
    }
    let mut underscore = false;
    while let Some(&b) = rest.get(len).filter(|&&b| is_token_byte(b)) {
        underscore |= b == b'_';
        len += 1;
    }
    (at + len, rest.get(len).copied(), underscore)
}

/// How many letters and dashes these bytes begin with; 0 as well when the first sixteen are all such.
#[inline(always)]
pub(crate) fn plain_name_len(bytes: &[u8; 16]) -> usize {
    let v = u8x16::new(*bytes);
    first(!(letters(v) | equal(v, b'-')).to_bitmask())
}

/// Position in `end`, the last part of `bytes`, of the first control byte (below 0x20, or 0x7f); its length when there is none.
#[inline(always)]
pub(crate) fn find_control_or_tab(bytes: &[u8], end: &[u8]) -> usize {
    find(bytes, end, |b| (b < 0x20) | (b == 0x7f), |v| (up_to(v, 0x1f) | equal(v, 0x7f)).to_bitmask())
}

/// Position of the first control byte at or after `from`, tabs aside.
#[inline]
pub(crate) fn find_control(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += find_control_or_tab(bytes, bytes.get(at..)?);
        if *bytes.get(at)? != b'\t' {
            return Some(at);
        }
        at += 1;
    }
}

/// Position of the first control byte or space at or after `from`.
#[inline]
pub(crate) fn find_control_or_space(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    let at = find(bytes, rest, |b| (b <= 0x20) | (b == 0x7f), |v| (up_to(v, 0x20) | equal(v, 0x7f)).to_bitmask());
    (at < rest.len()).then_some(from + at)
}

/// Position in `end`, the last part of `bytes`, of the first byte that is no letter, digit, `-` or `/`; its length when there
/// is none.
#[inline(always)]
pub(crate) fn skip_plain(bytes: &[u8], end: &[u8]) -> usize {
    find(
        bytes,
        end,
        |b| !is_letter(b) & !(b'/'..=b'9').contains(&b) & (b != b'-'),
        |v| !(letters(v) | within(v, b'/', b'9') | equal(v, b'-')).to_bitmask() & 0xffff,
    )
}

/// Position in `end`, the last part of `bytes`, of the first byte that may not stand in a query as it is: control bytes, space,
/// `#` and what is not ASCII; its length when there is none.
#[inline(always)]
pub(crate) fn skip_query(bytes: &[u8], end: &[u8]) -> usize {
    find(
        bytes,
        end,
        |b| !(0x21..0x7f).contains(&b) | (b == b'#'),
        |v| (!within(v, 0x21, 0x7e).to_bitmask() & 0xffff) | equal(v, b'#').to_bitmask(),
    )
}

/// Position of the first byte that is no letter, digit, `-` or `.`; the length when there is none.
#[inline(always)]
pub(crate) fn skip_host(bytes: &[u8]) -> usize {
    find(bytes, bytes, |b| !is_letter(b) & !b.is_ascii_digit() & (b != b'-') & (b != b'.'), not_host)
}

/// Whether these are letters, digits, `-`, and dots that neither begin the text nor follow one another; false for no bytes.
#[inline(always)]
pub(crate) fn is_plain_host(bytes: &[u8]) -> bool {
    // Whether the byte before is a dot, or there is none.
    let mut dot = 1;
    let mut rest = bytes;
    while let Some((block, more)) = rest.split_first_chunk() {
        let v = u8x16::new(*block);
        let dots = equal(v, b'.').to_bitmask();
        if not_host(v) != 0 || dots & (dots << 1 | dot) != 0 {
            return false;
        }
        dot = dots >> 15;
        rest = more;
    }
    for &b in rest {
        if b == b'.' && dot == 1 || b != b'.' && b != b'-' && !b.is_ascii_alphanumeric() {
            return false;
        }
        dot = u32::from(b == b'.');
    }
    !bytes.is_empty()
}

#[inline(always)]
fn is_letter(b: u8) -> bool {
    (b | 0x20).wrapping_sub(b'a') < 26
}

/// Position in `end`, the last part of `bytes`, of the first byte for which `holds`; its length when there is none.
///
/// `marks` says the same of sixteen bytes at once, a bit for each.
#[inline(always)]
fn find(bytes: &[u8], end: &[u8], holds: impl Fn(u8) -> bool, marks: impl Fn(u8x16) -> u32) -> usize {
    let mut rest = end;
    while let Some((block, more)) = rest.split_first_chunk() {
        let marks = marks(u8x16::new(*block));
        if marks != 0 {
            return end.len() - rest.len() + first(marks);
        }
        rest = more;
    }
    // What is left is looked at together with bytes before it.
    let at = end.len() - rest.len();
    if let Some(block) = bytes.last_chunk() {
        let marks = marks(u8x16::new(*block)) >> (16 - rest.len());
        return if marks != 0 { at + first(marks) } else { end.len() };
    }
    at + rest.iter().take_while(|&&b| !holds(b)).count()
}

/// Place of the lowest of up to sixteen bits, one of which is set.
#[inline(always)]
fn first(marks: u32) -> usize {
    marks.trailing_zeros() as usize & 15
}

/// Bits of the bytes that are no letter, digit, `-` or `.`: what hosts, and all but odd field names, are made of.
#[inline(always)]
fn not_host(v: u8x16) -> u32 {
    // Between `-` and `9` lie the dot, the slash and the digits.
    let inside = (letters(v) | within(v, b'-', b'9')).to_bitmask() & !equal(v, b'/').to_bitmask();
    inside ^ 0xffff
}

#[inline(always)]
fn letters(v: u8x16) -> u8x16 {
    within(v | u8x16::splat(0x20), b'a', b'z')
}

#[inline(always)]
fn within(v: u8x16, first: u8, last: u8) -> u8x16 {
    up_to(v - u8x16::splat(first), last - first)
}

#[inline(always)]
fn up_to(v: u8x16, last: u8) -> u8x16 {
    v.min(u8x16::splat(last)).simd_eq(v)
}

#[inline(always)]
fn equal(v: u8x16, b: u8) -> u8x16 {
    v.simd_eq(u8x16::splat(b))
}

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
    // Eighteen digits always fit; more than nineteen that do are leading zeros.
    let (head, tail) = digits.split_at(digits.len().min(18));
    let mut value: u64 = 0;
    for &b in head {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u64::from(digit);
    }
    for &b in tail {
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
    while value > 9 {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    at -= 1;
    digits[at] = b'0' + value as u8;
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
    use proptest::prelude::*;

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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn sixteen_at_a_time_is_one_at_a_time(
            text in prop::collection::vec(prop_oneof![
                8 => prop::sample::select(b"aZ09-/._~".to_vec()),
                1 => prop::sample::select(b"\t\r\n\x00\x1f\x7f !#?:@[`{\x80\xff".to_vec()),
                1 => any::<u8>(),
            ], 0..70),
            from in 0usize..40,
        ) {
            let from = from.min(text.len());
            let end = &text[from..];
            let first = |holds: &dyn Fn(u8) -> bool| end.iter().position(|&b| holds(b)).unwrap_or(end.len());
            let control = |b: u8| b < 0x20 || b == 0x7f;
            prop_assert_eq!(find_control_or_tab(&text, end), first(&control));
            let found = first(&|b| control(b) && b != b'\t');
            prop_assert_eq!(find_control(&text, from), (found < end.len()).then_some(from + found));
            let found = first(&|b| control(b) || b == b' ');
            prop_assert_eq!(find_control_or_space(&text, from), (found < end.len()).then_some(from + found));
            prop_assert_eq!(skip_plain(&text, end), first(&|b| !b.is_ascii_alphanumeric() && !b"-/".contains(&b)));
            prop_assert_eq!(skip_query(&text, end), first(&|b| !b.is_ascii_graphic() || b == b'#'));
            prop_assert_eq!(skip_host(end), first(&|b| !b.is_ascii_alphanumeric() && !b"-.".contains(&b)));
            let plain = end.iter().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(b));
            let labels = end.first().is_some_and(|b| *b != b'.') && !end.windows(2).any(|w| w == b"..");
            prop_assert_eq!(is_plain_host(end), plain && labels);
            if let Some(block) = end.first_chunk() {
                let len = first(&|b| !b.is_ascii_alphabetic() && b != b'-');
                prop_assert_eq!(plain_name_len(block), if len < 16 { len } else { 0 });
            }
        }

        #[test]
        fn decimals_are_what_the_standard_library_reads(digits in "[0-9]{1,24}") {
            prop_assert_eq!(decimal(digits.as_bytes()), digits.parse().ok().filter(|&n| n <= i64::MAX as u64));
        }
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
