//! Records on disk, in the order they came, in files of bounded length: written at the end, read from the front, forgotten when the
//! brokers have them.
//!
//! ```text
//! <directory>/<number>.records     frames: length, CRC-32C, then the record
//! <directory>/front                number of the first file and where in it the first record begins
//! <directory>/lock                 held by the process whose records these are
//! ```
//! A frame that is cut off or damaged ends its file: what came before it counts. `front` is written after a batch has been handed
//! over; after a crash in between, the batch goes out once more.

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
    files: VecDeque<(u64, u64)>,
    /// Where in the first file the first record begins.
    front: u64,
    writing: Option<File>,
    bytes: u64,
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
        let mut spool = Spool {
            directory: directory.to_owned(),
            most,
            files: files.into(),
            front: 0,
            writing: None,
            bytes: 0,
            _lock: lock,
        };
        let front = fs::read_to_string(directory.join("front")).unwrap_or_default();
        if let Some((number, at)) = front.trim().split_once(' ')
            && let (Ok(number), Ok(at)) = (number.parse::<u64>(), at.parse::<u64>())
        {
            while spool.files.front().is_some_and(|(first, _)| *first < number) {
                spool.drop_first();
            }
            if spool.files.front().is_some_and(|(first, length)| *first == number && at <= *length) {
                spool.front = at;
            }
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
            let number = self.files.back().map_or(1, |(number, _)| number + 1);
            self.writing = Some(OpenOptions::new().create(true).append(true).open(self.path(number))?);
            self.files.push_back((number, 0));
            // The name, too, is to be there after a power cut.
            File::open(&self.directory)?.sync_all()?;
        }
        let (Some(file), Some((_, length))) = (&mut self.writing, self.files.back_mut()) else { return Ok(0) };
        if let Err(error) = file.write_all(&text).and_then(|()| file.sync_data()) {
            // Half a frame would make what follows it unreadable.
            let _ = file.set_len(*length);
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
        self.front = at;
        if self.files.front().is_some_and(|(first, length)| *first == number && at >= *length) {
            // Read to its end: gone, and with it the need to know where in it the front is.
            self.writing.take_if(|_| self.files.len() == 1);
            self.drop_first();
        }
        match self.files.front() {
            Some((number, _)) => fs::write(self.directory.join("front"), format!("{number} {}\n", self.front)),
            None => match fs::remove_file(self.directory.join("front")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
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
        let mut seen = Vec::new();
        while !spool.is_empty() {
            let batch = spool.peek(1 << 20).unwrap();
            seen.extend(batch.records.clone());
            spool.forget(&batch).unwrap();
        }
        assert_eq!(seen, records(1..7));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing but the lock is left on the disk");
        let taken = Spool::open(directory.path(), 1).map(drop).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::WouldBlock, "it has one owner");
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
            let mut seen = Vec::new();
            while !spool.is_empty() {
                let batch = spool.peek(1 << 20).unwrap();
                if batch.records.is_empty() {
                    break;
                }
                seen.extend(batch.records.clone());
                spool.forget(&batch).unwrap();
            }
            assert_eq!(seen, [record(0), record(1), record(3)]);
        }
    }
}
