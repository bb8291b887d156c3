//! How far something on disk was handed over: a number, and a place in what has it. In one write of always the same length, so that a
//! process that is killed leaves what was there before, or this.

use proto_kafka::crc32c::crc32c;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// See the module doc.
pub struct Front(File);

/// Bytes of what is written: two numbers of 20 digits, a checksum of 8, two blanks and a line feed.
const LENGTH: usize = 51;

impl Front {
    /// Opens the file, which is made if need be.
    pub fn open(path: &Path) -> io::Result<Front> {
        let mut options = OpenOptions::new();
        options.create(true).read(true).write(true).truncate(false).mode(0o640).open(path).map(Front)
    }

    /// What was written last; `None` where nothing was, or nothing that can be believed.
    pub fn read(&self) -> Option<(u64, u64)> {
        let mut text = [0; LENGTH];
        self.0.read_exact_at(&mut text, 0).ok()?;
        let (said, sum) = std::str::from_utf8(&text).ok()?.trim_end().rsplit_once(' ')?;
        if u32::from_str_radix(sum, 16).ok()? != crc32c(said.as_bytes()) {
            return None;
        }
        let (number, at) = said.split_once(' ')?;
        Some((number.parse().ok()?, at.parse().ok()?))
    }

    pub fn write(&self, number: u64, at: u64) -> io::Result<()> {
        let text = format!("{number:020} {at:020}");
        self.0.write_all_at(format!("{text} {:08x}\n", crc32c(text.as_bytes())).as_bytes(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_last_is_read_and_nothing_else_is_believed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("front");
        let open = || Front::open(&path).unwrap();
        assert_eq!(open().read(), None);
        open().write(7, u64::MAX).unwrap();
        open().write(u64::MAX, 12).unwrap();
        assert_eq!(open().read(), Some((u64::MAX, 12)));
        let good = std::fs::read(&path).unwrap();
        assert_eq!(good.len(), LENGTH);
        for at in 0..LENGTH - 1 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, bad).unwrap();
            assert_eq!(open().read(), None, "{at}");
        }
        std::fs::write(&path, b"1 500\n").unwrap();
        assert_eq!(open().read(), None);
    }
}
