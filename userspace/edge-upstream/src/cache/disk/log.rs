//! Files that records are appended to: a head and a body each, with their lengths and checksums in front.
//!
//! A log is a directory that one process at a time has locked. It is never repaired: what does not fit its checksum is not there, a file whose
//! end is torn ends before that, and of one that is damaged elsewhere nothing behind the damage is read. What else lies in the directory is
//! left alone.
//!
//! Nothing is flushed. What was appended is with the kernel, so that a process that is killed loses none of it; what a power cut takes is
//! known by its checksum.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// In front of each record: [`MAGIC`], length of the head (4 bytes), of the body (8), checksum of the body (4), and of all that and the head (4).
const FRONT_BYTES: usize = 24;
const MAGIC: [u8; 4] = *b"WRC1";

/// Longest head that is read.
const HEAD_BYTES_MOST: u32 = 1024 * 1024;

/// What is read of a record at once when a log is opened: most heads are shorter.
const GLANCE_BYTES: usize = 2048;

/// Numbers of files are below this; a name with a larger one is not ours, and what follows it could not be counted.
const NUMBERS: u64 = 1 << 60;

/// What stays free of a file system: others have their files there, too, such as the log of the cluster.
const FREE_PART: u64 = 20;

/// A directory and its files.
pub(super) struct Log {
    directory: PathBuf,
    /// Held for as long as the log.
    lock: File,
    /// Oldest first; the last one is written to.
    segments: VecDeque<Segment>,
    most: usize,
    next: u64,
    /// Files of which something was not as it had been written.
    pub damaged: u64,
}

struct Segment {
    number: u64,
    file: Arc<File>,
    bytes: u64,
    /// Hashes of the keys of what is in it.
    hashes: Vec<u64>,
    /// Nothing more is appended to it.
    is_full: bool,
}

/// Where a record is.
pub(super) struct Record {
    pub segment: u64,
    pub file: Arc<File>,
    pub at: u64,
    pub head_bytes: u32,
    pub body_bytes: u64,
}

/// What is found in a log.
pub(super) enum Seen<'a> {
    Record(Record, &'a [u8]),
    /// From there on the file is not as it was written.
    Damage {
        segment: u64,
        at: u64,
    },
}

/// Bytes of a record.
pub(super) fn length(head: usize, body: usize) -> u64 {
    FRONT_BYTES as u64 + head as u64 + body as u64
}

impl Log {
    /// Opens the log `id` below `root` and tells what is in it, in the order it was written; `found` says the hash of a key where a record is
    /// of one. While another process has it, a new one is begun beside it, which nobody finds again.
    pub(super) fn open(
        root: &Path,
        id: &str,
        most: usize,
        mut found: impl FnMut(Seen<'_>) -> Option<u64>,
    ) -> io::Result<Log> {
        static OTHERS: AtomicU64 = AtomicU64::new(0);
        let own = root.join(id);
        fs::create_dir_all(&own)?;
        let (directory, lock) = match lock(&own)? {
            Some(lock) => (own, lock),
            None => {
                let other = format!("{id}-{}-{}", std::process::id(), OTHERS.fetch_add(1, Relaxed));
                let other = root.join(other);
                fs::create_dir_all(&other)?;
                let lock = lock(&other)?.ok_or_else(|| io::Error::other("somebody else has locked it"))?;
                (other, lock)
            }
        };
        let mut log = Log { directory, lock, segments: VecDeque::new(), most, next: 0, damaged: 0 };
        let mut numbers: Vec<u64> = Vec::new();
        for entry in fs::read_dir(&log.directory)?.flatten() {
            numbers.extend(number_of(&entry.path()));
        }
        numbers.sort_unstable();
        log.next = numbers.last().map_or(0, |last| last + 1);
        // Those that are more than there may be.
        for number in numbers.drain(..numbers.len().saturating_sub(most)) {
            let _ = fs::remove_file(log.path(number));
        }
        for number in numbers {
            if let Err(error) = log.take_in(number, &mut found) {
                let path = log.path(number);
                tracing::warn!(path = %path.display(), %error, "not a file of a cache that can be read; it is left alone");
            }
        }
        Ok(log)
    }

    fn take_in(&mut self, number: u64, found: &mut impl FnMut(Seen<'_>) -> Option<u64>) -> io::Result<()> {
        let path = self.path(number);
        if !fs::symlink_metadata(&path)?.is_file() {
            return Err(io::Error::other("it is no plain file"));
        }
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(path)?);
        let bytes = file.metadata()?.len();
        let (mut at, mut hashes, mut head, mut is_whole) = (0, Vec::new(), Vec::new(), true);
        loop {
            let (head_bytes, body_bytes) = match next(&file, at, bytes, &mut head)? {
                Next::Record(head, body) => (head, body),
                Next::End => break,
                Next::Damaged => {
                    self.damaged += 1;
                    is_whole = false;
                    found(Seen::Damage { segment: number, at });
                    break;
                }
            };
            let record = Record { segment: number, file: file.clone(), at, head_bytes, body_bytes };
            hashes.extend(found(Seen::Record(record, &head)));
            at += length(head.len(), 0) + body_bytes;
        }
        // What is torn at its end is cut off, so that it goes on from there: a process that often starts writes no more files than another.
        if is_whole {
            file.set_len(at)?;
        }
        let bytes = if is_whole { at } else { bytes };
        self.segments.push_back(Segment { number, file, bytes, hashes, is_full: !is_whole });
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number}.log"))
    }

    pub(super) fn place(&self) -> &Path {
        &self.directory
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Appends a record. `gone` is told of a file that has made room, and the hashes of what was in it.
    pub(super) fn append(
        &mut self,
        head: &[u8],
        body: &[u8],
        segment_bytes: u64,
        mut gone: impl FnMut(u64, &[u64]),
    ) -> io::Result<Record> {
        let mut front = [0; FRONT_BYTES];
        front[..4].copy_from_slice(&MAGIC);
        let head_bytes = u32::try_from(head.len()).ok().filter(|length| *length <= HEAD_BYTES_MOST);
        let head_bytes = head_bytes.ok_or_else(|| io::Error::other("a head that is too long"))?;
        front[4..8].copy_from_slice(&head_bytes.to_le_bytes());
        front[8..16].copy_from_slice(&(body.len() as u64).to_le_bytes());
        front[16..20].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        let sum = sum_of_head(&front, head);
        front[20..].copy_from_slice(&sum.to_le_bytes());
        let whole = length(head.len(), body.len());
        let fits = |segment: &Segment| !segment.is_full && segment.bytes + whole <= segment_bytes;
        if !self.segments.back().is_some_and(fits) {
            self.begin(segment_bytes, &mut gone)?;
        }
        let segment = self.segments.back_mut().ok_or_else(|| io::Error::other("no file"))?;
        let at = segment.bytes;
        let first = [&front[..], head].concat();
        let done = segment.file.write_all_at(&first, at);
        let done = done.and_then(|()| segment.file.write_all_at(body, at + first.len() as u64));
        if let Err(error) = done {
            // What is there of it is not a record, nor would be what follows.
            if segment.file.set_len(at).is_err() {
                segment.is_full = true;
                segment.bytes = segment.file.metadata().map_or(segment.bytes, |found| found.len());
            }
            // Others need the disk more than a cache does.
            if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
                self.drop_oldest(gone);
            }
            return Err(error);
        }
        segment.bytes += whole;
        let body_bytes = body.len() as u64;
        Ok(Record { segment: segment.number, file: segment.file.clone(), at, head_bytes, body_bytes })
    }

    /// The record that was appended last is of this key.
    pub(super) fn of_key(&mut self, hash: u64) {
        if let Some(segment) = self.segments.back_mut() {
            segment.hashes.push(hash);
        }
    }

    fn begin(&mut self, segment_bytes: u64, gone: &mut impl FnMut(u64, &[u64])) -> io::Result<()> {
        while self.segments.len() >= self.most || !self.segments.is_empty() && is_short(&self.directory, segment_bytes)
        {
            self.drop_oldest(&mut *gone);
        }
        let number = self.next;
        let file = match self.create(number) {
            // Somebody has removed the directory: what is read stays readable, and what is written from now on has a place.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(&self.directory)?;
                self.lock = lock(&self.directory)?.ok_or_else(|| io::Error::other("somebody else has locked it"))?;
                self.create(number)?
            }
            made => made?,
        };
        // Asked once more: nothing is left that could make room.
        if is_short(&self.directory, segment_bytes) {
            let _ = fs::remove_file(self.path(number));
            return Err(io::Error::new(ErrorKind::StorageFull, "a twentieth of the file system has to stay free"));
        }
        self.next += 1;
        self.segments.push_back(Segment { number, file: Arc::new(file), bytes: 0, hashes: Vec::new(), is_full: false });
        Ok(())
    }

    fn create(&self, number: u64) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.path(number))
    }

    /// Removes the oldest file, if there is any. What is being read of it stays readable.
    pub(super) fn drop_oldest(&mut self, mut gone: impl FnMut(u64, &[u64])) -> bool {
        let Some(oldest) = self.segments.pop_front() else { return false };
        gone(oldest.number, &oldest.hashes);
        let _ = fs::remove_file(self.path(oldest.number));
        true
    }

    /// Removes all of it.
    pub(super) fn remove(self) {
        let _ = fs::remove_dir_all(&self.directory);
        drop(self.lock);
    }
}

/// Locks a directory, where nobody else has.
fn lock(directory: &Path) -> io::Result<Option<File>> {
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(directory.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Whether so many bytes more would leave the file system less than has to stay free.
fn is_short(directory: &Path, bytes: u64) -> bool {
    space(directory).is_some_and(|[free, all]| would_be_short(free, all, bytes))
}

fn would_be_short(free: u64, all: u64, bytes: u64) -> bool {
    free < bytes.saturating_add(all / FREE_PART)
}

/// Bytes of a file system that are free, and all it has.
#[cfg(not(test))]
fn space(directory: &Path) -> Option<[u64; 2]> {
    let is = rustix::fs::statvfs(directory).ok()?;
    Some([is.f_bavail, is.f_blocks].map(|blocks| blocks.saturating_mul(is.f_frsize)))
}

/// Tests are no worse on a machine whose disk is full: whole daemons meet one that is.
#[cfg(test)]
fn space(_: &Path) -> Option<[u64; 2]> {
    Some([u64::MAX; 2])
}

/// Removes the logs below `root` that nobody holds and whose names `is_meant`.
pub(super) fn sweep(root: &Path, is_meant: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| is_id(name) && is_meant(name));
        if is_ours && matches!(lock(&path), Ok(Some(_))) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Whether a directory of this name is a log: what others have put beside them is not ours to remove.
fn is_id(name: &str) -> bool {
    let mut parts = name.split('-');
    let is_hash = parts.next().is_some_and(|id| id.len() == ID_LENGTH && id.bytes().all(|b| b.is_ascii_hexdigit()));
    is_hash && parts.all(|part| part.bytes().all(|b| b.is_ascii_digit()))
}

/// Length of the names of logs, in hexadecimal digits.
const ID_LENGTH: usize = 32;

fn number_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".log")?;
    let number: u64 = name.parse().ok()?;
    // As it is written here, and no other way.
    (number < NUMBERS && number.to_string() == name).then_some(number)
}

/// What is at a place of a file.
enum Next {
    /// A record, with the lengths of head and body.
    Record(u32, u64),
    /// No more of them, or one that was not written to its end.
    End,
    /// Something else.
    Damaged,
}

fn next(file: &File, at: u64, bytes: u64, head: &mut Vec<u8>) -> io::Result<Next> {
    let rest = bytes - at;
    if rest < FRONT_BYTES as u64 {
        return Ok(Next::End);
    }
    let mut glance = [0; GLANCE_BYTES];
    let glance = &mut glance[..usize::try_from(rest).unwrap_or(usize::MAX).min(GLANCE_BYTES)];
    file.read_exact_at(glance, at)?;
    let mut front = [0; FRONT_BYTES];
    front.copy_from_slice(&glance[..FRONT_BYTES]);
    let (head_bytes, body_bytes) = lengths(&front);
    if front[..4] != MAGIC || head_bytes > HEAD_BYTES_MOST {
        return Ok(Next::Damaged);
    }
    let whole = length(head_bytes as usize, 0).checked_add(body_bytes);
    if whole.is_none_or(|whole| whole > rest) {
        return Ok(Next::End);
    }
    head.clear();
    match glance.get(FRONT_BYTES..FRONT_BYTES + head_bytes as usize) {
        Some(seen) => head.extend_from_slice(seen),
        None => {
            head.resize(head_bytes as usize, 0);
            file.read_exact_at(head, at + FRONT_BYTES as u64)?;
        }
    }
    Ok(if is_whole(&front, head) { Next::Record(head_bytes, body_bytes) } else { Next::Damaged })
}

fn lengths(front: &[u8; FRONT_BYTES]) -> (u32, u64) {
    let (mut head, mut body) = ([0; 4], [0; 8]);
    head.copy_from_slice(&front[4..8]);
    body.copy_from_slice(&front[8..16]);
    (u32::from_le_bytes(head), u64::from_le_bytes(body))
}

fn sum_of_head(front: &[u8; FRONT_BYTES], head: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&front[..20]);
    sum.update(head);
    sum.finalize()
}

fn is_whole(front: &[u8; FRONT_BYTES], head: &[u8]) -> bool {
    front[20..] == sum_of_head(front, head).to_le_bytes()
}

/// Head and body of a record; `None` where they are not what was written.
pub(super) fn read(file: &File, at: u64, head_bytes: u32, body_bytes: u64) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let mut front = [0; FRONT_BYTES];
    let (mut head, mut body) = (vec![0; head_bytes as usize], vec![0; body_bytes as usize]);
    let there = file
        .read_exact_at(&mut front, at)
        .and_then(|()| file.read_exact_at(&mut head, at + FRONT_BYTES as u64))
        .and_then(|()| file.read_exact_at(&mut body, at + length(head.len(), 0)));
    match there {
        // Shorter than it was.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        there => there?,
    }
    let whole = front[..4] == MAGIC
        && lengths(&front) == (head_bytes, body_bytes)
        && is_whole(&front, &head)
        && front[16..20] == crc32fast::hash(&body).to_le_bytes();
    Ok(whole.then_some((head, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_of_the_file_system_stays_free() {
        assert!(!would_be_short(60, 1000, 10) && would_be_short(59, 1000, 10));
        assert!(would_be_short(0, 0, 1) && would_be_short(u64::MAX - 1, 0, u64::MAX));
    }
}
