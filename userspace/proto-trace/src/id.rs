//! Names of traces and of spans.

use std::fmt;

/// Name of a trace: 16 bytes, never all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub u128);

/// Name of a span within its trace: 8 bytes, never all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub u64);

impl TraceId {
    /// Of two random numbers.
    pub fn of(high: u64, low: u64) -> TraceId {
        TraceId((u128::from(high) << 64 | u128::from(low)).max(1))
    }

    /// Reads 16 or 32 digits.
    pub fn parse(text: &[u8]) -> Option<TraceId> {
        let value = match text.len() {
            16 => u128::from(hex(text)?),
            32 => u128::from(hex(&text[..16])?) << 64 | u128::from(hex(&text[16..])?),
            _ => return None,
        };
        (value != 0).then_some(TraceId(value))
    }
}

impl SpanId {
    /// Of a random number.
    pub fn of(random: u64) -> SpanId {
        SpanId(random.max(1))
    }

    /// Reads 16 digits.
    pub fn parse(text: &[u8]) -> Option<SpanId> {
        let value = if text.len() == 16 { hex(text)? } else { return None };
        (value != 0).then_some(SpanId(value))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Reads up to 16 digits, in lower case as both formats ask for.
pub(crate) fn hex(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

/// Writes a number as so many digits.
pub(crate) fn write_hex(value: u64, digits: u32, out: &mut Vec<u8>) {
    out.extend((0..digits).rev().map(|at| b"0123456789abcdef"[(value >> (4 * at) & 15) as usize]));
}

/// Writes a trace's name as 32 digits.
pub(crate) fn write_trace(trace: TraceId, out: &mut Vec<u8>) {
    write_hex((trace.0 >> 64) as u64, 16, out);
    write_hex(trace.0 as u64, 16, out);
}
