//! Lines on disk, in the order they came, in files of bounded length: written at the end, read from the front, forgotten when the sink
//! has them. It survives the process: what a write call has taken is there after a kill, and after a power cut once it was synced.
//!
//! ```text
//! <directory>/<number>.lines       frames, see the module frame
//! <directory>/front                number of the file and place in it of the first line the sink does not have, and a checksum
//! <directory>/lock                 held by the process whose lines these are
//! ```
//! Numbers only grow. `front` is written after a sink has taken a batch; after a crash in between, the batch goes out once more.

use crate::frame::{self, Frame};
use edge_kafka::front::Front;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub use crate::frame::Line;

/// Bytes of one file, about; fewer where all of them together may have few.
const FILE_BYTES: u64 = 4 << 20;

/// See the module doc.
pub struct Spool {
    directory: PathBuf,
    /// Bytes of all files together, at most.
    most: u64,
    /// Number and length of each.
    files: VecDeque<(u64, u64)>,
    /// The number of the next file.
    next: u64,
    /// Where in the first file the first line begins.
    front: u64,
    writing: Option<File>,
    reading: Option<(u64, File)>,
    marks: Front,
    /// Lines left out because they could not be read, so far.
    pub damaged: u64,
    /// Held for as long as this is there.
    _lock: File,
}

/// Lines from the front.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub lines: Vec<Line>,
    /// Where the front will be once they are handed over.
    end: (u64, u64),
}

impl Spool {
    /// Opens what an earlier process has left in the directory, which is made if need be. `WouldBlock`: another process has it.
    pub fn open(directory: &Path, most: u64) -> io::Result<Spool> {
        fs::create_dir_all(directory)?;
        let lock = OpenOptions::new().create(true).append(true).mode(0o640).open(directory.join("lock"))?;
        lock.try_lock().map_err(io::Error::from)?;
        let marks = Front::open(&directory.join("front"))?;
        let mut files: Vec<(u64, u64)> = fs::read_dir(directory)?
            .flatten()
            .filter_map(|entry| {
                let number = entry.file_name().to_str()?.strip_suffix(".lines")?.parse().ok()?;
                Some((number, entry.metadata().ok()?.len()))
            })
            .collect();
        files.sort_unstable();
        let (first, at) = marks.read().unwrap_or_default();
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
            _lock: lock,
        };
        while spool.files.front().is_some_and(|(number, _)| *number < first) {
            spool.drop_first();
        }
        if spool.files.front().is_some_and(|(number, length)| *number == first && at <= *length) {
            spool.front = at;
        }
        Ok(spool)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, length)| length).sum()
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.bytes() <= self.front
    }

    /// Writes lines to the end; how many there was room for. `sync`: they are to be there after a power cut, too.
    pub fn append(&mut self, lines: &[Line], sync: bool) -> io::Result<usize> {
        let (mut rest, mut done) = (lines, 0);
        while !rest.is_empty() {
            let count = self.append_some(rest, sync)?;
            if count == 0 {
                break;
            }
            rest = &rest[count..];
            done += count;
        }
        Ok(done)
    }

    /// As [`append`](Spool::append), as far as one file goes.
    fn append_some(&mut self, lines: &[Line], sync: bool) -> io::Result<usize> {
        let room = self.most.saturating_sub(self.bytes());
        let file_bytes = FILE_BYTES.min(self.most / 4);
        let (mut text, mut count) = (Vec::new(), 0);
        for line in lines {
            let before = text.len();
            frame::write(line, &mut text);
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
        let written = io::Write::write_all(file, &text).and_then(|()| if sync { file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            // Half a frame would make what follows it unreadable.
            if file.set_len(*length).is_err() {
                self.writing = None;
            }
            return Err(error);
        }
        *length += text.len() as u64;
        Ok(count)
    }

    /// Lines from the front, as many as come to about so many bytes.
    pub fn peek(&mut self, bytes_about: usize) -> io::Result<Batch> {
        loop {
            let Some(&(number, length)) = self.files.front() else { return Ok(Batch::default()) };
            let window = (length - self.front).min((bytes_about + frame::MOST) as u64) as usize;
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
            let (mut lines, mut at, mut rest) = (Vec::new(), 0, text.as_slice());
            while at < bytes_about && !rest.is_empty() {
                let (read, bytes) = frame::read(rest);
                match read {
                    Frame::Line(line) => lines.push(line),
                    Frame::Damaged => self.tell_damage(number, at),
                    // Whatever is left of the file cannot be told apart; of a window only, the next one begins here.
                    Frame::Cut if !is_end && !lines.is_empty() => break,
                    Frame::Cut => {
                        self.tell_damage(number, at);
                        at = window;
                        break;
                    }
                }
                at += bytes;
                rest = rest.get(bytes..).unwrap_or_default();
            }
            let batch = Batch { lines, end: (number, self.front + at as u64) };
            if !batch.lines.is_empty() {
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
    pub fn forget(&mut self, batch: &Batch) -> io::Result<()> {
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
    }

    fn drop_first(&mut self) {
        if let Some((number, _)) = self.files.pop_front() {
            if self.files.is_empty() {
                self.writing = None;
            }
            if let Err(error) = fs::remove_file(self.path(number))
                && error.kind() != ErrorKind::NotFound
            {
                tracing::warn!(%error, "lines that were handed over cannot be removed from the disk");
            }
            self.front = 0;
        }
    }

    fn tell_damage(&mut self, number: u64, at: usize) {
        self.damaged += 1;
        let path = self.path(number);
        tracing::error!(path = %path.display(), at = self.front + at as u64, "lines on disk are damaged and left out");
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:012}.lines"))
    }
}

#[cfg(test)]
mod tests;
