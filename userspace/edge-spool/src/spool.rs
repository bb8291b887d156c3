//! What is kept on disk, in the order it came, in files of bounded length: written at the end, read from the front, forgotten when whoever
//! it is for has it. It survives the process: what a write call has taken is there after a kill, and after a power cut once it was synced.
//!
//! ```text
//! <directory>/<number>.<name>      frames, see the module frame
//! <directory>/front                number of the file and place in it of the first that was not handed over, and a checksum
//! <directory>/lock                 held by the process whose spool this is
//! ```
//! Numbers only grow. `front` is written after a batch was taken; after a crash in between, the batch goes out once more.

use crate::frame::{self, Frame, HEAD, Kept};
use crate::front::Front;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::marker::PhantomData;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of one file, about; fewer where all of them together may have few.
const FILE_BYTES: u64 = 4 << 20;

/// Bytes that are read beyond those that are asked for, so that the last one is whole; more only where one does not fit.
const BEYOND: usize = 64 << 10;

/// See the module doc.
pub struct Spool<K: Kept> {
    directory: PathBuf,
    /// Bytes of all files together, at most.
    most: u64,
    /// Number and length of each.
    files: VecDeque<(u64, u64)>,
    /// The number of the next file.
    next: u64,
    /// Where in the first file the first one begins.
    front: u64,
    writing: Option<File>,
    reading: Option<(u64, File)>,
    marks: Front,
    /// Those left out because they could not be read, so far; of some there is no telling how many they were.
    pub damaged: u64,
    /// Bytes of its files that were told.
    booked: u64,
    /// Held for as long as this is there.
    _lock: File,
    kept: PhantomData<K>,
}

/// Some from the front.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch<K> {
    pub kept: Vec<K>,
    /// Where the front will be once they are handed over.
    end: (u64, u64),
}

impl<K> Default for Batch<K> {
    fn default() -> Batch<K> {
        Batch { kept: Vec::new(), end: (0, 0) }
    }
}

impl<K: Kept> Spool<K> {
    /// Opens what an earlier process has left in the directory, which is made if need be. `WouldBlock`: another process has it.
    pub fn open(directory: &Path, most: u64) -> io::Result<Spool<K>> {
        fs::create_dir_all(directory)?;
        let lock = OpenOptions::new().create(true).append(true).mode(0o640).open(directory.join("lock"))?;
        lock.try_lock().map_err(io::Error::from)?;
        is_of(&lock, directory)?;
        let marks = Front::open(&directory.join("front"))?;
        let mut files: Vec<(u64, u64)> = fs::read_dir(directory)?
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                let number = name.to_str()?.strip_suffix(K::NAME)?.strip_suffix('.')?.parse().ok()?;
                Some((number, entry.metadata().ok()?.len()))
            })
            .collect();
        files.sort_unstable();
        let (first, at) = marks.read().unwrap_or_default();
        // Numbers that began anew would meet a front that is older: what nobody has would be taken for handed over.
        let next = files.last().map_or(0, |(number, _)| number + 1).max(first.saturating_add(1));
        let mut spool = Spool {
            directory: directory.to_owned(),
            most,
            files: files.into(),
            next,
            front: 0,
            writing: None,
            reading: None,
            marks,
            damaged: 0,
            booked: 0,
            _lock: lock,
            kept: PhantomData,
        };
        while spool.files.front().is_some_and(|(number, _)| *number < first) {
            spool.drop_first();
        }
        if spool.files.front().is_some_and(|(number, length)| *number == first && at <= *length) {
            spool.front = at;
        }
        spool.book();
        Ok(spool)
    }

    /// Its directory goes, with all that is in it.
    pub fn remove(self) -> io::Result<()> {
        remove(&self.directory)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, length)| length).sum()
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.bytes() <= self.front
    }

    /// Writes these to the end; how many there was room for. `sync`: they are to be there after a power cut, too.
    pub fn append(&mut self, these: &[K], sync: bool) -> io::Result<usize> {
        let (mut rest, mut done) = (these, 0);
        while !rest.is_empty() {
            let count = match self.append_some(rest, sync) {
                Ok(count) => count,
                // What is there already is kept, and goes out.
                Err(error) if done > 0 => {
                    tracing::error!(%error, "{} cannot be written to the disk", K::NAME);
                    break;
                }
                Err(error) => return Err(error),
            };
            if count == 0 {
                break;
            }
            rest = &rest[count..];
            done += count;
        }
        Ok(done)
    }

    /// As [`append`](Spool::append), as far as one file goes.
    fn append_some(&mut self, these: &[K], sync: bool) -> io::Result<usize> {
        let room = self.most.saturating_sub(self.bytes());
        let file_bytes = FILE_BYTES.min(self.most / 4);
        let (mut text, mut count) = (Vec::new(), 0);
        for one in these {
            let before = text.len();
            frame::write(one, &mut text);
            if text.len() as u64 > room {
                text.truncate(before);
                break;
            }
            count += 1;
            if text.len() as u64 >= file_bytes {
                break;
            }
        }
        if count == 0 {
            return Ok(0);
        }
        if self.writing.is_none() || self.files.back().is_none_or(|(_, length)| *length >= file_bytes) {
            let mut options = OpenOptions::new();
            self.writing = Some(options.create_new(true).append(true).mode(0o640).open(self.path(self.next))?);
            self.files.push_back((self.next, 0));
            self.next += 1;
            if sync {
                // The name, too, is to be there after a power cut.
                File::open(&self.directory)?.sync_all()?;
            }
        }
        let (Some(file), Some((_, length))) = (&mut self.writing, self.files.back_mut()) else { return Ok(0) };
        let written = file.write_all(&text).and_then(|()| if sync { file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            // Half a frame would make what follows it unreadable.
            if file.set_len(*length).is_err() {
                self.writing = None;
            }
            return Err(error);
        }
        *length += text.len() as u64;
        self.book();
        Ok(count)
    }

    /// Some from the front, as many as come to about so many bytes.
    pub fn peek(&mut self, bytes_about: usize) -> io::Result<Batch<K>> {
        let mut wide = false;
        'window: loop {
            let Some(&(number, length)) = self.files.front() else { return Ok(Batch::default()) };
            let beyond = if std::mem::take(&mut wide) { HEAD + K::BYTES.end() } else { BEYOND };
            let is_wide = beyond > BEYOND;
            let window = (length - self.front).min((bytes_about + beyond) as u64) as usize;
            let mut text = vec![0; window];
            let front = self.front;
            match self.reader(number).and_then(|file| file.read_exact_at(&mut text, front)) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => {
                    self.lose_first(number);
                    continue;
                }
                Err(error) => return Err(error),
            }
            let is_end = self.front + window as u64 == length;
            let (mut kept, mut at, mut rest) = (Vec::new(), 0, text.as_slice());
            while at < bytes_about && !rest.is_empty() {
                let (read, bytes) = frame::read(rest);
                match read {
                    Frame::Whole(one) => kept.push(one),
                    Frame::Damaged => self.tell_damage(number, at),
                    // Of a window, the next one begins here, or has to be wider.
                    Frame::Cut if !is_end && at > 0 => break,
                    Frame::Cut if !is_end && !is_wide && K::BYTES.end() + HEAD > BEYOND => {
                        wide = true;
                        continue 'window;
                    }
                    // Whatever is left of the file cannot be told apart.
                    Frame::Cut => {
                        self.tell_damage(number, at);
                        at = window;
                        break;
                    }
                }
                at += bytes;
                rest = rest.get(bytes..).unwrap_or_default();
            }
            let batch = Batch { kept, end: (number, self.front + at as u64) };
            if !batch.kept.is_empty() {
                return Ok(batch);
            }
            // All of it was damage, or there is nothing.
            if batch.end.1 >= length {
                if self.files.len() == 1 && self.front >= length && self.writing.is_some() {
                    return Ok(Batch::default());
                }
                self.drop_first();
            } else {
                self.front = batch.end.1;
            }
        }
    }

    /// Forgets a batch that was handed over.
    pub fn forget(&mut self, batch: &Batch<K>) -> io::Result<()> {
        let (number, at) = batch.end;
        if self.files.front().is_none_or(|(first, _)| *first != number) {
            return Ok(());
        }
        self.front = at;
        if self.files.front().is_some_and(|(_, length)| at >= *length) {
            // Read to its end. The front goes on first: a file that is there before it would be read again.
            self.marks.write(number + 1, 0)?;
            self.drop_first();
            return Ok(());
        }
        self.marks.write(number, at)
    }

    fn reader(&mut self, number: u64) -> io::Result<&File> {
        let known = self.reading.take().filter(|(known, _)| *known == number);
        let file = match known {
            Some((_, file)) => file,
            None => File::open(self.path(number))?,
        };
        Ok(&self.reading.insert((number, file)).1)
    }

    /// Somebody has removed the first file, or cut it off: what there is of it counts.
    fn lose_first(&mut self, number: u64) {
        self.tell_damage(number, 0);
        self.reading = None;
        let there = fs::metadata(self.path(number)).map_or(0, |data| data.len());
        match self.files.front_mut() {
            Some((_, length)) if there > self.front => *length = there,
            _ => self.drop_first(),
        }
        self.book();
    }

    fn drop_first(&mut self) {
        if let Some((number, _)) = self.files.pop_front() {
            if self.files.is_empty() {
                self.writing = None;
            }
            if let Err(error) = fs::remove_file(self.path(number))
                && error.kind() != ErrorKind::NotFound
            {
                tracing::warn!(%error, "{} that were handed over cannot be removed from the disk", K::NAME);
            }
            self.front = 0;
            self.book();
        }
    }

    fn book(&mut self) {
        let bytes = self.bytes();
        K::book(bytes.wrapping_sub(std::mem::replace(&mut self.booked, bytes)));
    }

    fn tell_damage(&mut self, number: u64, at: usize) {
        self.damaged += 1;
        let path = self.path(number);
        let at = self.front + at as u64;
        tracing::error!(path = %path.display(), at, "{} on disk are damaged and left out", K::NAME);
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:012}.{}", K::NAME))
    }
}

/// Whether a lock is that of the directory: whoever had it may have removed it in between, and then it is the lock of nothing.
pub(crate) fn is_of(lock: &File, directory: &Path) -> io::Result<()> {
    let there = fs::metadata(directory.join("lock"))?.ino();
    if there == lock.metadata()?.ino() { Ok(()) } else { Err(ErrorKind::NotFound.into()) }
}

/// Removes a directory whose lock the caller has. The lock goes last: whoever comes then makes one of its own, and what it has written
/// by that time stays.
pub(crate) fn remove(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_name() != "lock" {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_file(directory.join("lock"))?;
    match fs::remove_dir(directory) {
        Err(error) if !matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound) => Err(error),
        _ => Ok(()),
    }
}

impl<K: Kept> Drop for Spool<K> {
    fn drop(&mut self) {
        K::book(0u64.wrapping_sub(self.booked));
    }
}

#[cfg(test)]
pub(crate) mod tests;
