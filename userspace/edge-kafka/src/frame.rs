//! A record as it lies on disk: when it is of, its topic, its key, itself. Pure: bytes in, bytes out.

use crate::producer::Record;
use crate::stats::COUNTERS;
use bytes::Bytes;
use edge_spool::Kept;
use proto_kafka::crc32c::crc32c;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;

impl Kept for Record {
    const NAME: &'static str = "records";
    const BYTES: RangeInclusive<usize> = 8 + 4 + 1 + 4..=64 << 20;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.timestamp_ms.to_be_bytes());
        put(self.topic.as_bytes(), out);
        out.push(u8::from(self.key.is_some()));
        put(self.key.as_deref().unwrap_or_default(), out);
        out.extend(&self.value[..]);
    }

    fn read(body: &[u8]) -> Option<Record> {
        let (time, rest) = body.split_first_chunk::<8>()?;
        let (topic, rest) = take(rest)?;
        let (has_key, rest) = rest.split_first()?;
        let (key, value) = take(rest)?;
        Some(Record {
            topic: std::str::from_utf8(topic).ok()?.into(),
            key: (*has_key == 1).then(|| Bytes::copy_from_slice(key)),
            value: Bytes::copy_from_slice(value),
            timestamp_ms: i64::from_be_bytes(*time),
        })
    }

    fn checksum(_: [u8; 4], body: &[u8]) -> u32 {
        crc32c(body)
    }

    fn book(more: u64) {
        COUNTERS.spool_bytes.fetch_add(more, Ordering::Relaxed);
    }
}

fn put(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}

fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_spool::Spool;
    use edge_spool::frame::{Frame, read, write};
    use std::fs;

    fn record(number: usize) -> Record {
        let key = number.is_multiple_of(2).then(|| Bytes::from(format!("k{number}")));
        Record { topic: "t".into(), key, value: format!("v{number}").into(), timestamp_ms: number as i64 }
    }

    fn records(range: std::ops::Range<usize>) -> Vec<Record> {
        range.map(record).collect()
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_no_other_is() {
        // As builds before this one have left it.
        let on_disk = b"\0\0\0\x16\x52\x72\x77\xe5\0\0\0\0\0\0\0\x02\0\0\0\x01t\x01\0\0\0\x02k2v2";
        let mut written = Vec::new();
        write(&record(2), &mut written);
        assert_eq!(written, on_disk);
        for number in 0..3 {
            let mut bytes = Vec::new();
            write(&record(number), &mut bytes);
            assert_eq!(read(&bytes), (Frame::Whole(record(number)), bytes.len()));
            for at in 0..bytes.len() {
                let mut bad = bytes.clone();
                bad[at] ^= 1;
                assert!(!matches!(read::<Record>(&bad).0, Frame::Whole(_)), "{at}");
                assert_eq!(read::<Record>(&bytes[..at]), (Frame::Cut, at));
            }
        }
    }

    #[test]
    fn records_on_disk_are_counted() {
        // Of this test alone there are so many at a time.
        const MANY: u64 = 1 << 40;
        let there = || COUNTERS.spool_bytes.load(Ordering::Relaxed);
        Record::book(MANY);
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(directory.path(), 1 << 20).unwrap();
        assert_eq!(spool.append(&records(0..5), true).unwrap(), 5);
        assert!(there() >= MANY + spool.bytes());
        let batch = spool.peek(1 << 20).unwrap();
        assert_eq!(batch.kept, records(0..5));
        spool.forget(&batch).unwrap();
        drop(spool);
        Record::book(0u64.wrapping_sub(MANY));
        let left = fs::read_dir(directory.path()).unwrap().flatten().map(|entry| entry.file_name());
        assert!(left.into_iter().all(|name| name == "lock" || name == "front"), "no records are left on the disk");
    }
}
