//! Decimal digits, three at a time, straight into a buffer.
//!
//! An access log writes some thirty digits a request. Blocks of a fixed size are copied with one or two instructions where a copy of as
//! many bytes as there are is a call; so a block goes in whole, and what it has too much is taken off the end again.

/// Appends the first `used` bytes of `block`.
#[inline]
pub fn push_block<const N: usize>(block: [u8; N], used: usize, out: &mut Vec<u8>) {
    debug_assert!(used <= N, "{used} bytes of a block of {N}");
    let end = out.len() + used;
    out.extend_from_slice(&block);
    out.truncate(end);
}

/// Appends a text that is mostly short, such as a name.
#[inline]
pub fn push_short(text: &[u8], out: &mut Vec<u8>) {
    match block_of(text, 0) {
        Some(block) => push_block(block, text.len(), out),
        None => out.extend_from_slice(text),
    }
}

/// A text of up to sixteen bytes with `fill` behind it; `None` when it is empty or longer. It goes in as two pieces, which may lie over
/// each other.
#[inline]
pub(crate) fn block_of(text: &[u8], fill: u8) -> Option<[u8; 16]> {
    let mut block = [fill; 16];
    match (text, text.len()) {
        (_, 8..=16) => {
            block[..8].copy_from_slice(text.first_chunk::<8>()?);
            block[text.len() - 8..text.len()].copy_from_slice(text.last_chunk::<8>()?);
        }
        (_, 4..8) => {
            block[..4].copy_from_slice(text.first_chunk::<4>()?);
            block[text.len() - 4..text.len()].copy_from_slice(text.last_chunk::<4>()?);
        }
        ([first, .., last], 2..4) => {
            block[0] = *first;
            block[1] = text[1];
            block[text.len() - 1] = *last;
        }
        ([only], _) => block[0] = *only,
        _ => return None,
    }
    Some(block)
}

/// Appends a number. Allocates nothing.
#[inline]
pub fn write_number(n: u64, out: &mut Vec<u8>) {
    if n < 1_000 { write_small(n as usize, out) } else { write_large(n, out) }
}

/// Below a thousand.
#[inline]
fn write_small(n: usize, out: &mut Vec<u8>) {
    let [a, b, c, _] = THREE[n];
    let skipped = usize::from(n < 100) + usize::from(n < 10);
    let text = u32::from_le_bytes([a, b, c, 0]) >> (8 * skipped);
    push_block(text.to_le_bytes(), 3 - skipped, out);
}

fn write_large(n: u64, out: &mut Vec<u8>) {
    match n {
        0..1_000 => write_small(n as usize, out),
        1_000..1_000_000 => {
            write_small((n / 1_000) as usize, out);
            push_block(THREE[(n % 1_000) as usize], 3, out);
        }
        _ => {
            write_large(n / 1_000_000, out);
            let rest = n % 1_000_000;
            push_block(THREE[(rest / 1_000) as usize], 3, out);
            push_block(THREE[(rest % 1_000) as usize], 3, out);
        }
    }
}

/// Appends `whole`, a point, and the nine digits of `part` without the zeros at their end; nothing behind `whole` when that leaves none.
#[inline]
pub(crate) fn write_fraction(whole: u64, mut part: u32, out: &mut Vec<u8>) {
    write_number(whole, out);
    if part == 0 {
        return;
    }
    let mut block = [b'.'; 12];
    let mut used = 0;
    for group in (0..3).rev() {
        let digits = THREE[(part % 1_000) as usize];
        part /= 1_000;
        // From the last group on, so that the first that is not all zeros says where the digits end.
        let at = 1 + 3 * group;
        block[at..at + 3].copy_from_slice(&digits[..3]);
        if used == 0 {
            used = match digits[3] {
                3 => 0,
                zeros => at + 3 - usize::from(zeros),
            };
        }
    }
    push_block(block, used, out);
}

/// Nanoseconds, a thousand and up to a million of them, as microseconds.
#[inline]
pub(crate) fn write_micros(nanos: u32, out: &mut Vec<u8>) {
    write_parted(nanos / 1_000, nanos % 1_000, out);
    push_block(*b"\xc2\xb5s\0", 3, out);
}

/// Nanoseconds, a million and more of them, less than a second, as milliseconds.
#[inline]
pub(crate) fn write_millis(nanos: u32, out: &mut Vec<u8>) {
    let (whole, part) = (nanos / 1_000_000, nanos % 1_000_000);
    let [a, b, c, zeros] = THREE[(part % 1_000) as usize];
    if zeros == 3 {
        write_parted(whole, part / 1_000, out);
    } else {
        let (text, used) = parted(whole, part / 1_000);
        push_block(text, used, out);
        push_block([a, b, c, 0], 3 - usize::from(zeros), out);
    }
    push_block(*b"ms\0\0", 2, out);
}

/// A number below a thousand, a point, and thousandths without the zeros at their end; no point where there are none.
#[inline]
fn write_parted(n: u32, thousandths: u32, out: &mut Vec<u8>) {
    let (text, used) = parted(n, thousandths);
    let without = match THREE[thousandths as usize][3] {
        3 => 4,
        zeros => zeros,
    };
    push_block(text, used - usize::from(without), out);
}

/// A number below a thousand, a point, and three digits, and how long that is: at most seven bytes, so that it is one number to the machine.
#[inline]
fn parted(n: u32, thousandths: u32) -> ([u8; 8], usize) {
    let ([a, b, c, _], [d, e, f, _]) = (THREE[n as usize], THREE[thousandths as usize]);
    let skipped = usize::from(n < 100) + usize::from(n < 10);
    let whole = u64::from(u32::from_le_bytes([a, b, c, 0]) >> (8 * skipped));
    let part = u64::from(u32::from_le_bytes([b'.', d, e, f]));
    ((whole | part << (8 * (3 - skipped))).to_le_bytes(), 7 - skipped)
}

/// Three digits of each number below a thousand, and how many zeros stand at their end.
pub(crate) static THREE: [[u8; 4]; 1_000] = {
    let mut table = [[0; 4]; 1_000];
    let mut n = 0;
    while n < 1_000 {
        let zeros = (n % 10 == 0) as u8 + (n % 100 == 0) as u8 + (n == 0) as u8;
        table[n] = [b'0' + (n / 100) as u8, b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8, zeros];
        n += 1;
    }
    table
};

/// Each byte as a number with a point behind it, and what is left of four bytes.
pub(crate) static OCTETS: [[u8; 4]; 256] = {
    let mut table = [[b'.'; 4]; 256];
    let mut n = 0;
    while n < 256 {
        let digits = [b'0' + (n / 100) as u8, b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8];
        let mut from = if n < 10 { 2 } else { (n < 100) as usize };
        let mut at = 0;
        while from < 3 {
            table[n][at] = digits[from];
            from += 1;
            at += 1;
        }
        n += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(n: u64) -> String {
        let mut out = b"before ".to_vec();
        write_number(n, &mut out);
        String::from_utf8(out.split_off("before ".len())).unwrap()
    }

    #[test]
    fn every_duration_below_a_second_is_its_digits() {
        let check = |nanos: u32, unit: u32, name: &str, write: fn(u32, &mut Vec<u8>)| {
            let mut out = Vec::new();
            write(nanos, &mut out);
            let digits = unit.ilog10() as usize;
            let long = format!("{}.{:0digits$}", nanos / unit, nanos % unit);
            let wanted = format!("{}{name}", long.trim_end_matches('0').trim_end_matches('.'));
            assert_eq!(String::from_utf8(out).unwrap(), wanted, "{nanos} ns");
        };
        (1_000..1_000_000).step_by(3).for_each(|nanos| check(nanos, 1_000, "µs", write_micros));
        for whole in [1_000_000, 9_000_000, 10_000_000, 99_000_000, 100_000_000, 999_000_000] {
            // All of the last three digits and all of the three before them, each beside some of the others.
            (0..1_000).for_each(|n| check(whole + n, 1_000_000, "ms", write_millis));
            (0..1_000_000).step_by(997).for_each(|n| check(whole + n, 1_000_000, "ms", write_millis));
            (0..1_000).for_each(|n| check(whole + n * 1_000, 1_000_000, "ms", write_millis));
        }
    }

    #[test]
    fn every_length_of_number() {
        for power in 0..20 {
            let n = 10u64.pow(power);
            for n in [n - 1, n, n + 1, n.saturating_mul(9)] {
                assert_eq!(number(n), n.to_string());
            }
        }
        assert_eq!(number(u64::MAX), u64::MAX.to_string());
        (0..=1_001).for_each(|n| assert_eq!(number(n), n.to_string()));
    }

    #[test]
    fn short_texts_go_in_whole() {
        for length in 0..40 {
            let text: Vec<u8> = (0..length).map(|n| b'a' + n % 26).collect();
            let mut out = b"before ".to_vec();
            push_short(&text, &mut out);
            assert_eq!(&out["before ".len()..], text);
        }
    }

    proptest! {
        #[test]
        fn numbers_are_what_the_standard_library_writes(n in any::<u64>(), shift in 0u32..64) {
            let n = n >> shift;
            prop_assert_eq!(number(n), n.to_string());
        }

        #[test]
        fn fractions_are_numbers_without_their_trailing_zeros(whole in any::<u32>(), part in 0u32..1_000_000_000, cut in 0u32..10) {
            let part = part / 10u32.pow(cut) * 10u32.pow(cut);
            if part > 0 {
                let mut out = Vec::new();
                write_fraction(whole.into(), part, &mut out);
                let long = format!("{whole}.{part:09}");
                prop_assert_eq!(String::from_utf8(out).unwrap(), long.trim_end_matches('0').trim_end_matches('.'));
            }
            let mut out = Vec::new();
            write_fraction(whole.into(), 0, &mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), whole.to_string());
        }
    }
}
