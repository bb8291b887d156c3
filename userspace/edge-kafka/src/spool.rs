//! Records on disk, in the order they came, in files of bounded length: written at the end, read from the front, forgotten when the
//! brokers have them.
//!
//! ```text
//! <directory>/<number>.records     frames: length, CRC-32C, then the record
//! <directory>/front                number of the file and place in it of the first record the brokers do not have, and a checksum
//! <directory>/lock                 held by the process whose records these are
//! ```
//! Numbers only grow. A frame that is cut off or damaged ends its file: what came before it counts. `front` is written after a batch has
//! been handed over; after a crash in between, the batch goes out once more.

use crate::front::Front;
use crate::producer::Record;
use crate::stats::{COUNTERS, add};
use bytes::Bytes;
use proto_kafka::crc32c::crc32c;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Bytes of one file, about.
const FILE_BYTES: u64 = 4 << 20;

/// Bytes of one record on disk, at most; more can only be damage.
const FRAME_MAX: u32 = 64 << 20;

/// See the module doc.
pub struct Spool {
    directory: PathBuf,
    /// Bytes of all files together, at most.
    most: u64,
    /// Number and length of each.
    files: VecDeque<(u64, u64)>,
    /// The number of the next file.
    next: u64,
    /// Where in the first file the first record begins.
    front: u64,
    writing: Option<File>,
    bytes: u64,
    marks: Front,
    /// Held for as long as this is there.
    _lock: File,
}

/// Records from the front.
#[derive(Debug, Default)]
pub struct Batch {
    pub records: Vec<Record>,
    /// Where the front will be once they are handed over.
    end: (u64, u64),
}

impl Spool {
    /// Opens what an earlier process has left in the directory, which is made if need be. `WouldBlock`: another process has it.
    pub fn open(directory: &Path, most: u64) -> io::Result<Spool> {
        fs::create_dir_all(directory)?;
        let lock = OpenOptions::new().create(true).append(true).open(directory.join("lock"))?;
        lock.try_lock().map_err(io::Error::from)?;
        let mut files: Vec<(u64, u64)> = fs::read_dir(directory)?
            .flatten()
            .filter_map(|entry| {
                let number = entry.file_name().to_str()?.strip_suffix(".records")?.parse().ok()?;
                Some((number, entry.metadata().ok()?.len()))
            })
            .collect();
        files.sort_unstable();
        let marks = Front::open(&directory.join("front"))?;
        let (first, at) = marks.read().unwrap_or_default();
        // Numbers that began anew would meet a front that is older: records that nobody has would be taken for handed over.
        let next = files.last().map_or(0, |(number, _)| number + 1).max(first.saturating_add(1));
        let mut spool = Spool {
            directory: directory.to_owned(),
            most,
            files: files.into(),
            next,
            front: 0,
            writing: None,
            bytes: 0,
            marks,
            _lock: lock,
        };
        while spool.files.front().is_some_and(|(number, _)| *number < first) {
            spool.drop_first();
        }
        if spool.files.front().is_some_and(|(number, length)| *number == first && at <= *length) {
            spool.front = at;
        }
        let bytes = spool.files.iter().map(|(_, length)| length).sum();
        spool.book(bytes);
        Ok(spool)
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.files.iter().map(|(_, length)| length).sum::<u64>() <= self.front
    }

    /// Writes records to the end, and has them on the disk for good. How many there was room for.
    pub fn append(&mut self, records: &[Record]) -> io::Result<usize> {
        let mut text = Vec::new();
        let mut count = 0;
        for record in records {
            let before = text.len();
            frame(record, &mut text);
            if self.bytes + text.len() as u64 > self.most {
                text.truncate(before);
                break;
            }
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        if self.writing.is_none() || self.files.back().is_some_and(|(_, length)| *length >= FILE_BYTES) {
            self.writing = Some(OpenOptions::new().create_new(true).append(true).open(self.path(self.next))?);
            self.files.push_back((self.next, 0));
            self.next += 1;
            // The name, too, is to be there after a power cut.
            File::open(&self.directory)?.sync_all()?;
        }
        let (Some(file), Some((_, length))) = (&mut self.writing, self.files.back_mut()) else { return Ok(0) };
        if let Err(error) = file.write_all(&text).and_then(|()| file.sync_data()) {
            // Half a frame would make what follows it unreadable.
            if file.set_len(*length).is_err() {
                self.writing = None;
            }
            return Err(error);
        }
        *length += text.len() as u64;
        let bytes = self.bytes + text.len() as u64;
        self.book(bytes);
        add(&COUNTERS.spooled, count);
        Ok(count)
    }

    /// Records from the front, as many as come to about so many bytes.
    pub fn peek(&mut self, bytes_about: usize) -> io::Result<Batch> {
        loop {
            let Some(&(number, length)) = self.files.front() else { return Ok(Batch::default()) };
            let mut batch = Batch { records: Vec::new(), end: (number, self.front) };
            let mut file = File::open(self.path(number))?;
            file.seek(SeekFrom::Start(self.front))?;
            let mut reader = io::BufReader::new(file);
            let mut taken = 0;
            let mut damaged = false;
            while taken < bytes_about && batch.end.1 < length {
                match read_frame(&mut reader) {
                    Some((record, bytes)) => {
                        taken += bytes as usize;
                        batch.end.1 += bytes;
                        batch.records.push(record);
                    }
                    None => {
                        damaged = true;
                        break;
                    }
                }
            }
            if !batch.records.is_empty() {
                return Ok(batch);
            }
            if damaged {
                add(&COUNTERS.damaged, 1);
                let path = self.path(number);
                tracing::error!(path = %path.display(), at = self.front, "records on disk are damaged; those after them in this file are left out");
            }
            if self.files.len() == 1 && !damaged {
                return Ok(Batch::default());
            }
            self.writing.take_if(|_| self.files.len() == 1);
            self.drop_first();
        }
    }

    /// Forgets a batch that was handed over.
    pub fn forget(&mut self, batch: &Batch) -> io::Result<()> {
        let (number, at) = batch.end;
        if self.files.front().is_none_or(|(first, _)| *first != number) {
            return Ok(());
        }
        self.front = at;
        if self.files.front().is_some_and(|(_, length)| at >= *length) {
            // Read to its end. The front goes on first: a file that is there before it would be read again.
            self.marks.write(number + 1, 0)?;
            self.writing.take_if(|_| self.files.len() == 1);
            self.drop_first();
            return Ok(());
        }
        self.marks.write(number, at)
    }

    fn drop_first(&mut self) {
        if let Some((number, length)) = self.files.pop_front() {
            if let Err(error) = fs::remove_file(self.path(number)) {
                tracing::warn!(%error, "records that were handed over cannot be removed from the disk");
            }
            self.front = 0;
            let bytes = self.bytes.saturating_sub(length);
            self.book(bytes);
        }
    }

    fn book(&mut self, bytes: u64) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        COUNTERS.spool_bytes.fetch_add(bytes.wrapping_sub(before), Ordering::Relaxed);
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:012}.records"))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.book(0);
    }
}

fn frame(record: &Record, out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(record.value.len() + 64);
    body.extend(record.timestamp_ms.to_be_bytes());
    put(record.topic.as_bytes(), &mut body);
    body.push(u8::from(record.key.is_some()));
    put(record.key.as_deref().unwrap_or_default(), &mut body);
    body.extend(&record.value[..]);
    out.extend((body.len() as u32).to_be_bytes());
    out.extend(crc32c(&body).to_be_bytes());
    out.extend(body);
}

fn put(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}

/// A record and the bytes its frame has.
fn read_frame(reader: &mut impl Read) -> Option<(Record, u64)> {
    let mut head = [0; 8];
    reader.read_exact(&mut head).ok()?;
    let (length, sum) = head.split_first_chunk::<4>()?;
    let (length, sum) = (u32::from_be_bytes(*length), u32::from_be_bytes(sum.try_into().ok()?));
    if length > FRAME_MAX {
        return None;
    }
    let mut body = Vec::new();
    reader.take(u64::from(length)).read_to_end(&mut body).ok()?;
    if body.len() != length as usize || crc32c(&body) != sum {
        return None;
    }
    let (time, rest) = body.split_first_chunk::<8>()?;
    let (topic, rest) = take(rest)?;
    let (has_key, rest) = rest.split_first()?;
    let (key, value) = take(rest)?;
    let record = Record {
        topic: std::str::from_utf8(topic).ok()?.into(),
        key: (*has_key == 1).then(|| Bytes::copy_from_slice(key)),
        value: Bytes::copy_from_slice(value),
        timestamp_ms: i64::from_be_bytes(*time),
    };
    Some((record, 8 + u64::from(length)))
}

fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: usize) -> Record {
        let key = number.is_multiple_of(2).then(|| Bytes::from(format!("k{number}")));
        Record { topic: "t".into(), key, value: format!("v{number}").into(), timestamp_ms: number as i64 }
    }

    fn records(range: std::ops::Range<usize>) -> Vec<Record> {
        range.map(record).collect()
    }

    #[test]
    fn records_come_back_in_order_also_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(directory.path(), 1 << 20).unwrap();
        assert!(spool.is_empty());
        assert_eq!(spool.append(&records(0..5)).unwrap(), 5);
        let batch = spool.peek(1).unwrap();
        assert_eq!(batch.records, records(0..1));
        spool.forget(&batch).unwrap();
        drop(spool);
        let mut spool = Spool::open(directory.path(), 1 << 20).unwrap();
        assert_eq!(spool.append(&records(5..7)).unwrap(), 2);
        assert_eq!(drain(&mut spool), records(1..7));
        let left = fs::read_dir(directory.path()).unwrap().flatten().map(|entry| entry.file_name());
        assert!(left.into_iter().all(|name| name == "lock" || name == "front"), "no records are left on the disk");
        let taken = Spool::open(directory.path(), 1).map(drop).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::WouldBlock, "it has one owner");
    }

    /// All that is left.
    fn drain(spool: &mut Spool) -> Vec<Record> {
        let mut seen = Vec::new();
        while !spool.is_empty() {
            let batch = spool.peek(1 << 20).unwrap();
            if batch.records.is_empty() {
                break;
            }
            seen.extend(batch.records.clone());
            spool.forget(&batch).unwrap();
        }
        seen
    }

    /// Killed when the file was gone and the front had not gone on, and once more with new records on disk.
    #[test]
    fn two_kills_hide_no_record() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Spool::open(directory.path(), 1 << 20).unwrap();
        let mut spool = open();
        spool.append(&records(0..9)).unwrap();
        let batch = spool.peek(100).unwrap();
        spool.forget(&batch).unwrap();
        let front = fs::read(directory.path().join("front")).unwrap();
        drain(&mut spool);
        drop(spool);
        fs::write(directory.path().join("front"), front).unwrap();
        let mut spool = open();
        spool.append(&records(9..40)).unwrap();
        drop(spool);
        assert_eq!(drain(&mut open()), records(9..40));
        // A front that cannot be read sends twice rather than never.
        let mut spool = open();
        spool.append(&records(0..3)).unwrap();
        let batch = spool.peek(1).unwrap();
        spool.forget(&batch).unwrap();
        drop(spool);
        fs::write(directory.path().join("front"), b"1 50").unwrap();
        assert_eq!(drain(&mut open()), records(0..3));
    }

    #[test]
    fn there_is_room_for_so_much_and_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(directory.path(), 100).unwrap();
        let fitting = spool.append(&records(0..50)).unwrap();
        assert!((1..50).contains(&fitting), "{fitting}");
        assert_eq!(spool.append(&records(50..51)).unwrap(), 0);
        let batch = spool.peek(1 << 20).unwrap();
        assert_eq!(batch.records, records(0..fitting));
        spool.forget(&batch).unwrap();
        assert_eq!(spool.append(&records(50..51)).unwrap(), 1, "there is room again");
    }

    #[test]
    fn what_is_cut_off_or_damaged_costs_what_comes_after_it_in_its_file() {
        for damage in [0, 1] {
            let directory = tempfile::tempdir().unwrap();
            let mut spool = Spool::open(directory.path(), 1 << 20).unwrap();
            spool.append(&records(0..3)).unwrap();
            drop(spool);
            let path = directory.path().join(format!("{:012}.records", 1));
            let mut bytes = fs::read(&path).unwrap();
            match damage {
                0 => bytes.truncate(bytes.len() - 1),
                _ => *bytes.last_mut().unwrap() ^= 1,
            }
            fs::write(&path, bytes).unwrap();
            let mut spool = Spool::open(directory.path(), 1 << 20).unwrap();
            spool.append(&records(3..4)).unwrap();
            assert_eq!(drain(&mut spool), [record(0), record(1), record(3)]);
        }
    }
}
