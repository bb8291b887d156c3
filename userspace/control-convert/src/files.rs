//! Where configurations, the files they include and their certificates come from.

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
        let failed = |e: std::io::Error| e.to_string();
        let length = std::fs::metadata(path).map_err(failed)?.len();
        if length > FILE_BYTES_MAX {
            return Err(format!("{length} bytes long; at most {FILE_BYTES_MAX} are read"));
        }
        std::fs::read(path).map_err(failed)
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
