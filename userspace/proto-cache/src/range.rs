//! Parts of a body that is there to its end (RFC 9110 section 14).

/// What of a body a request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// All of it: no range, or one that is not for us to understand, or several, which a server need not give.
    Whole,
    /// The bytes from `first` to `last`, both included.
    Part { first: u64, last: u64 },
    /// Nothing of it is there: 416.
    Unsatisfiable,
}

/// Reads the value of Range, for a body of `length` bytes.
pub fn span_of(range: &[u8], length: u64) -> Span {
    let Some((unit, set)) = range.iter().position(|&b| b == b'=').map(|at| (&range[..at], &range[at + 1..])) else {
        return Span::Whole;
    };
    if !unit.eq_ignore_ascii_case(b"bytes") || set.contains(&b',') {
        return Span::Whole;
    }
    let set = set.trim_ascii();
    let Some(dash) = set.iter().position(|&b| b == b'-') else { return Span::Whole };
    let (from, to) = (&set[..dash], &set[dash + 1..]);
    match (number(from), number(to)) {
        (Some(first), Some(last)) if first > last => Span::Whole,
        (Some(first), _) if (to.is_empty() || number(to).is_some()) && first >= length => Span::Unsatisfiable,
        (Some(first), Some(last)) => Span::Part { first, last: last.min(length - 1) },
        (Some(first), None) if to.is_empty() => Span::Part { first, last: length - 1 },
        (None, Some(0)) if from.is_empty() => Span::Unsatisfiable,
        (None, Some(_)) if from.is_empty() && length == 0 => Span::Unsatisfiable,
        (None, Some(suffix)) if from.is_empty() => {
            Span::Part { first: length.saturating_sub(suffix), last: length - 1 }
        }
        _ => Span::Whole,
    }
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0u64, |n, &b| n.saturating_mul(10).saturating_add(u64::from(b - b'0'))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_of_bytes_is_given() {
        let part = |first, last| Span::Part { first, last };
        for (range, length, span) in [
            ("bytes=0-1", 11, part(0, 1)),
            ("bytes=1-", 11, part(1, 10)),
            ("bytes=-1", 11, part(10, 10)),
            ("bytes=-100", 11, part(0, 10)),
            ("Bytes=0-99999999999999999999999", 11, part(0, 10)),
            ("bytes=10-10", 11, part(10, 10)),
            ("bytes=11-", 11, Span::Unsatisfiable),
            ("bytes=11-12", 11, Span::Unsatisfiable),
            ("bytes=-0", 11, Span::Unsatisfiable),
            ("bytes=0-", 0, Span::Unsatisfiable),
            ("bytes=-1", 0, Span::Unsatisfiable),
            ("bytes=2-1", 11, Span::Whole),
            ("bytes=0-1,3-4", 11, Span::Whole),
            ("bytes=a-1", 11, Span::Whole),
            ("bytes=1-a", 11, Span::Whole),
            ("bytes=99-a", 11, Span::Whole),
            ("bytes=-", 11, Span::Whole),
            ("bytes=", 11, Span::Whole),
            ("bytes", 11, Span::Whole),
            ("lines=0-1", 11, Span::Whole),
        ] {
            assert_eq!(span_of(range.as_bytes(), length), span, "{range} of {length}");
        }
    }
}
