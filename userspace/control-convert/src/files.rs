//! Where configurations, the files they include and their certificates come from.

use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Reads what a configuration names.
pub trait Files {
    fn read(&self, path: &Path) -> Result<Vec<u8>, String>;

    /// The files a pattern stands for, in order. `*` and `?` stand for parts of a name, not for `/`.
    fn matching(&self, pattern: &Path) -> Vec<PathBuf>;
}

/// The file system.
pub struct Disk;

/// Bytes of one file, at most.
const FILE_BYTES_MAX: u64 = 8 << 20;

impl Files for Disk {
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        let failed = |e: io::Error| e.to_string();
        // Whoever opened a pipe would wait for its other end, and a device may have no end.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?);
        if !file.metadata().map_err(failed)?.is_file() {
            return Err("not a file: a directory, a pipe, a socket or a device".to_owned());
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("longer than {FILE_BYTES_MAX} bytes"));
        }
        Ok(bytes)
    }

    fn matching(&self, pattern: &Path) -> Vec<PathBuf> {
        let mut found = vec![PathBuf::new()];
        for part in pattern.components() {
            let part = part.as_os_str();
            let text = part.to_string_lossy();
            if !has_wildcard(&text) {
                found.iter_mut().for_each(|path| path.push(part));
                continue;
            }
            let mut next = Vec::new();
            for path in &found {
                let at = if path.as_os_str().is_empty() { Path::new(".") } else { path };
                let mut names: Vec<_> =
                    std::fs::read_dir(at).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
                names.sort();
                names.retain(|name| {
                    let name = name.to_string_lossy();
                    (!name.starts_with('.') || text.starts_with('.')) && fits(&text, &name)
                });
                next.extend(names.into_iter().map(|name| path.join(name)));
            }
            found = next;
        }
        found.retain(|path| path.is_file());
        found
    }
}

/// Whether a pattern stands for more than itself.
pub fn has_wildcard(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// Whether a pattern with `*` and `?` stands for this text.
pub fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut back) = (0, 0, None);
    while t < text.len() {
        if p < pattern.len() && pattern[p] == '*' {
            back = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((star, taken)) = back {
            back = Some((star, taken + 1));
            (p, t) = (star + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stand_for_names() {
        assert!(fits("*.conf", "a.conf") && fits("a?c", "abc") && fits("*", "") && fits("a*b*c", "a-b-b-c"));
        assert!(!fits("*.conf", "a.conf.bak") && !fits("a?c", "ac"));
    }

    /// A pipe that nobody writes into, a device without an end, and a directory.
    #[test]
    fn only_files_are_read_and_nothing_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        for path in [&*pipe, Path::new("/dev/zero"), directory.path()] {
            assert!(Disk.read(path).unwrap_err().contains("not a file"), "{}", path.display());
        }
        let long = directory.path().join("long");
        std::fs::File::create(&long).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(Disk.read(&long).unwrap_err().contains("longer than"));
        std::fs::write(&long, "text").unwrap();
        assert_eq!(Disk.read(&long).unwrap(), b"text");
    }

    #[test]
    fn files_are_found_in_order() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.conf", "a.conf", ".hidden.conf", "c.txt"] {
            std::fs::write(directory.path().join(name), name).unwrap();
        }
        let found = Disk.matching(&directory.path().join("*.conf"));
        assert_eq!(found, ["a.conf", "b.conf"].map(|name| directory.path().join(name)));
    }
}
