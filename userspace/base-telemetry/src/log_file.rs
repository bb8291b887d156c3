//! A file of lines that stays within bounds: it is moved aside when it is large enough, and the oldest of those that were goes.
//!
//! Others may have a hand in it too. Whoever moves it away has it opened anew with [`LogFile::reopen`]; whoever copies and truncates it
//! need not say so, because every line goes to the end as it is then (`O_APPEND`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How large the file may be, and how many that were moved aside are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// In bytes; 0 for any size.
    pub bytes: u64,
    /// `NAME.1`, the newest, to `NAME.N`. With 0 what is full is thrown away.
    pub files: usize,
}

impl Default for LogBounds {
    fn default() -> Self {
        LogBounds { bytes: 100 << 20, files: 10 }
    }
}

#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    bounds: LogBounds,
    file: Option<File>,
    /// At least what the file holds, unless somebody truncated it.
    size: u64,
    /// What was written last broke off within a line.
    torn: bool,
    rotations: u64,
}

impl LogFile {
    pub fn open(path: PathBuf, bounds: LogBounds) -> io::Result<LogFile> {
        let (file, size) = opened(&path)?;
        Ok(LogFile { path, bounds, file: Some(file), size, torn: false, rotations: 0 })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How often it was moved aside for its size.
    pub fn rotations(&self) -> u64 {
        self.rotations
    }

    /// Whether its name is another file's now, or nobody's: somebody has moved it away.
    pub fn is_moved(&self) -> bool {
        let same = |file: &File| {
            let (open, there) = (file.metadata().ok()?, fs::metadata(&self.path).ok()?);
            Some((open.dev(), open.ino()) == (there.dev(), there.ino()))
        };
        !self.file.as_ref().and_then(same).unwrap_or(false)
    }

    /// Opens what is there by its name now. The file from before stays in use when there is none to be had: lines in a moved file are
    /// better than none.
    pub fn reopen(&mut self) -> io::Result<()> {
        let (file, size) = opened(&self.path)?;
        (self.file, self.size, self.torn) = (Some(file), size, false);
        Ok(())
    }

    /// Appends whole lines. After a failure some of them may be there; the next ones begin a line of their own.
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.bounds.bytes > 0 && self.size > 0 && self.size + lines.len() as u64 > self.bounds.bytes {
            self.rotate_if_large(lines.len() as u64)?;
        }
        if self.file.is_none() {
            self.reopen()?;
        }
        let Some(file) = &mut self.file else { return Err(io::Error::other("the file is not open")) };
        if self.torn {
            file.write_all(b"\n")?;
            self.torn = false;
        }
        let mut rest = lines;
        while !rest.is_empty() {
            match file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.size += count as u64;
                    self.torn = rest.get(count - 1) != Some(&b'\n');
                    rest = &rest[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Looks at how large the file is, which somebody may have truncated, and moves it aside if it is too large.
    fn rotate_if_large(&mut self, more: u64) -> io::Result<()> {
        self.size = self.file.as_ref().map_or(Ok(0), |file| file.metadata().map(|data| data.len()))?;
        if self.size == 0 || self.size + more <= self.bounds.bytes {
            return Ok(());
        }
        let aside = |n: usize| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        let kept = |result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        if self.bounds.files == 0 {
            kept(fs::remove_file(&self.path))?;
        } else {
            // Fewer may be kept than were.
            for n in self.bounds.files.. {
                if fs::remove_file(aside(n)).is_err() {
                    break;
                }
            }
            for n in (1..self.bounds.files).rev() {
                kept(fs::rename(aside(n), aside(n + 1)))?;
            }
            kept(fs::rename(&self.path, aside(1)))?;
        }
        self.file = None;
        self.rotations += 1;
        self.reopen()
    }
}

/// Lines tell of clients: its owner and group read them.
fn opened(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<String> {
        fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    #[test]
    fn it_stays_within_its_bounds_and_loses_the_oldest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let aside = |n: usize| directory.path().join(format!("log.{n}"));
        let mut log = LogFile::open(path.clone(), LogBounds { bytes: 100, files: 2 }).unwrap();
        for n in 0..50 {
            log.write(format!("line {n:03}\n").as_bytes()).unwrap();
        }
        assert_eq!(log.rotations(), 4);
        let all: Vec<String> = [aside(2), aside(1), path.clone()].iter().flat_map(|path| lines(path)).collect();
        assert_eq!(all, (22..50).map(|n| format!("line {n:03}")).collect::<Vec<_>>());
        assert!(!aside(3).exists() && fs::metadata(aside(1)).unwrap().len() <= 100);
        // One line that is larger than all of it is one file.
        log.write(&[[b'x'; 300].as_slice(), b"\n"].concat()).unwrap();
        log.write(b"after\n").unwrap();
        assert_eq!((lines(&path), lines(&aside(1)).len()), (vec!["after".to_owned()], 1));
        let mut fewer = LogFile::open(path.clone(), LogBounds { bytes: 6, files: 1 }).unwrap();
        fewer.write(b"last\n").unwrap();
        assert!(aside(1).exists() && !aside(2).exists());
        let mut none = LogFile::open(path.clone(), LogBounds { bytes: 6, files: 0 }).unwrap();
        none.write(b"only\n").unwrap();
        assert_eq!(lines(&path), ["only"]);
    }

    #[test]
    fn others_move_it_or_truncate_it() {
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (directory.path().join("log"), directory.path().join("moved"));
        let mut log = LogFile::open(path.clone(), LogBounds { bytes: 20, files: 3 }).unwrap();
        log.write(b"one\n").unwrap();
        fs::rename(&path, &moved).unwrap();
        log.write(b"two\n").unwrap();
        assert_eq!(lines(&moved), ["one", "two"]);
        assert!(log.is_moved());
        File::create(&path).unwrap();
        assert!(log.is_moved(), "as logrotate does with create");
        log.reopen().unwrap();
        assert!(!log.is_moved());
        log.write(b"three\n").unwrap();
        assert_eq!(lines(&path), ["three"]);
        // copytruncate: no hole, and its size counts from there.
        log.write(b"four\nfive\n").unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        log.write(b"six\n").unwrap();
        log.write(b"seven\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"six\nseven\n");
        assert_eq!(log.rotations(), 0);
    }

    #[test]
    fn after_a_full_disk_a_line_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = LogFile::open(path.clone(), LogBounds::default()).unwrap();
        let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else { return };
        log.write(b"begun").unwrap();
        let good = log.file.replace(full);
        assert!(log.write(b"lost\n").is_err());
        log.file = good;
        log.write(b"next\n").unwrap();
        assert_eq!(lines(&path), ["begun", "next"]);
    }
}
