//! Records as brokers keep them: batches of format 2.

use crate::crc32c::crc32c;
use crate::wire::Write;

/// Something to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub key: Option<&'a [u8]>,
    pub value: &'a [u8],
    pub headers: &'a [(String, Vec<u8>)],
    /// In milliseconds since 1970.
    pub timestamp_ms: i64,
}

/// Writes a batch to the end of `out`.
pub fn encode(records: &[Record<'_>], out: &mut Vec<u8>) {
    let first = records.iter().map(|record| record.timestamp_ms).min().unwrap_or(0);
    let last = records.iter().map(|record| record.timestamp_ms).max().unwrap_or(0);
    out.put_i64(0);
    let length_at = out.len();
    out.put_i32(0);
    // The leader's epoch is not known.
    out.put_i32(-1);
    out.put_i8(2);
    let sum_at = out.len();
    out.put_i32(0);
    let summed_from = out.len();
    // No compression, the producer's time.
    out.put_i16(0);
    out.put_i32(records.len() as i32 - 1);
    out.put_i64(first);
    out.put_i64(last);
    // No producer id, epoch and sequence: the batch is not idempotent.
    out.put_i64(-1);
    out.put_i16(-1);
    out.put_i32(-1);
    out.put_i32(records.len() as i32);
    let mut body = Vec::new();
    for (number, record) in records.iter().enumerate() {
        body.clear();
        body.put_i8(0);
        body.put_varint(record.timestamp_ms - first);
        body.put_varint(number as i64);
        body.put_bytes(record.key);
        body.put_bytes(Some(record.value));
        body.put_varint(record.headers.len() as i64);
        for (name, value) in record.headers {
            body.put_bytes(Some(name.as_bytes()));
            body.put_bytes(Some(value));
        }
        out.put_varint(body.len() as i64);
        out.extend(&body);
    }
    let length = (out.len() - length_at - 4) as i32;
    out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
    let sum = crc32c(&out[summed_from..]);
    out[sum_at..sum_at + 4].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_of_one() {
        let mut out = Vec::new();
        encode(&[Record { key: Some(b"k"), value: b"v", headers: &[], timestamp_ms: 5 }], &mut out);
        assert_eq!(out.len(), 61 + 9);
        assert_eq!(&out[8..12], (out.len() as i32 - 12).to_be_bytes());
        assert_eq!(out[16], 2);
        assert_eq!(&out[17..21], crc32c(&out[21..]).to_be_bytes());
        assert_eq!(&out[61..], [16, 0, 0, 0, 2, b'k', 2, b'v', 0]);
    }
}
