//! The archive that a kernel takes for its first file system (cpio, the format "newc" of `Documentation/driver-api/early-userspace`).

use std::collections::BTreeSet;

#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// With all folders it lies in.
    pub fn folder(&mut self, path: &str) {
        if path.is_empty() || !self.folders.insert(path.to_owned()) {
            return;
        }
        self.folder(path.rsplit_once('/').map_or("", |(above, _)| above));
        self.entry(path, 0o040_755, &[]);
    }

    pub fn file(&mut self, path: &str, rights: u32, contents: &[u8]) {
        self.folder(path.rsplit_once('/').map_or("", |(above, _)| above));
        self.entry(path, 0o100_000 | rights, contents);
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        let name = path.len() as u32 + 1;
        // Inode, mode, owner, group, links, time, size, four numbers of devices, length of the name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, contents.len() as u32, 0, 0, 0, 0, name, 0];
        self.bytes.extend(b"070701");
        fields.iter().for_each(|field| self.bytes.extend(format!("{field:08x}").bytes()));
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_begins_at_a_multiple_of_four_behind_its_folders() {
        let mut archive = Archive::default();
        archive.file("lib/x/y.so", 0o755, b"abcde");
        archive.file("lib/z", 0o644, b"");
        let bytes = archive.finish();
        let at = |text: &str| bytes.windows(text.len()).position(|window| window == text.as_bytes());
        let places: Vec<_> = ["lib\0", "lib/x\0", "lib/x/y.so\0", "lib/z\0", "TRAILER!!!\0"].map(at).to_vec();
        assert!(places.is_sorted() && places.iter().all(|place| place.is_some_and(|at| (at - 110) % 4 == 0)));
        let heads = bytes.windows(6).filter(|window| *window == b"070701").count();
        assert_eq!((heads, bytes.len() % 4), (5, 0));
    }
}
