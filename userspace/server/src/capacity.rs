//! How much of the machine the process may use: memory held on behalf of traffic, and descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::path::{Path, PathBuf};

/// Part of the memory there is that traffic may hold where nobody says how much, in percent: the rest is for the kernel's socket
/// buffers, the control half, and reserves.
const DEFAULT_PERCENT: u64 = 75;

/// `--memory-limit` as given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// [`DEFAULT_PERCENT`] of what there is.
    #[default]
    Default,
    Off,
    Bytes(u64),
}

impl MemoryLimit {
    /// `off`, or a number of bytes with or without a unit: `512MiB`, `2G`, `1.5GiB`.
    pub fn parse(text: &str) -> Option<MemoryLimit> {
        match text.trim() {
            "" => return Some(MemoryLimit::Default),
            "off" => return Some(MemoryLimit::Off),
            _ => {}
        }
        // Below this, traffic would be refused before it begins.
        bytes(text).filter(|bytes| *bytes >= LEAST).map(MemoryLimit::Bytes)
    }

    /// The ceiling in bytes; `None` without one.
    pub fn ceiling(self) -> Option<u64> {
        match self {
            MemoryLimit::Off => None,
            MemoryLimit::Bytes(bytes) => Some(bytes),
            MemoryLimit::Default => {
                let most = [physical(), of_cgroup()].into_iter().flatten().min()?;
                Some(most / 100 * DEFAULT_PERCENT)
            }
        }
    }
}

/// A number of bytes with or without a unit.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * (1u64 << shift) as f64;
    (bytes < (1u64 << 60) as f64).then_some(bytes as u64)
}

/// Smallest ceiling accepted, in bytes.
const LEAST: u64 = 16 << 20;

/// Raises the number of descriptors the process may have to the most it is allowed; says how many that are, `None` for any number.
/// Each connection takes one; traffic leaves the last of them to the rest of the process.
pub fn raise_descriptors() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    base_runtime::pressure::set_descriptors_aside();
    if raised { maximum } else { current }
}

/// Memory of the machine, in bytes.
fn physical() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// The lowest bound of this process's control groups, in bytes.
fn of_cgroup() -> Option<u64> {
    bound_of(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
}

/// As [`of_cgroup`], of the groups `listed` as /proc does, found under `root`.
fn bound_of(listed: &str, root: &Path) -> Option<u64> {
    let groups = listed.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            Some((root.to_owned(), path.to_owned(), "memory.max"))
        } else if controllers.split(',').any(|c| c == "memory") {
            Some((root.join("memory"), path.to_owned(), "memory.limit_in_bytes"))
        } else {
            None
        }
    });
    // A bound of any group above holds as well. In a container the path may be that of the host: then the root is the group.
    groups
        .flat_map(|(root, path, file)| {
            let group: PathBuf = root.join(path);
            let above: Vec<PathBuf> =
                group.ancestors().take_while(|p| p.starts_with(&root)).map(|p| p.join(file)).collect();
            above
        })
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, expected) in [
            ("", Some(MemoryLimit::Default)),
            ("off", Some(MemoryLimit::Off)),
            ("67108864", Some(MemoryLimit::Bytes(64 << 20))),
            ("512MiB", Some(MemoryLimit::Bytes(512 << 20))),
            ("512 mb", Some(MemoryLimit::Bytes(512 << 20))),
            ("1.5G", Some(MemoryLimit::Bytes(3 << 29))),
            ("1k", None),
            ("0", None),
            ("lots", None),
            ("5 apples", None),
            ("-1G", None),
            ("1e9", None),
        ] {
            assert_eq!(MemoryLimit::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn the_lowest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        assert_eq!(bound_of("0::/a/b\n", root.path()), None);
        fs::write(root.path().join("a/memory.max"), "104857600\n").unwrap();
        assert_eq!(bound_of("0::/a/b\n", root.path()), Some(100 << 20));
        fs::create_dir_all(root.path().join("memory/c")).unwrap();
        fs::write(root.path().join("memory/c/memory.limit_in_bytes"), "52428800\n").unwrap();
        assert_eq!(bound_of("5:cpu,memory:/c\n0::/a\n", root.path()), Some(50 << 20));
    }

    #[test]
    fn there_is_a_default() {
        let ceiling = MemoryLimit::Default.ceiling().unwrap();
        assert!(ceiling > LEAST && ceiling < physical().unwrap());
    }

    #[test]
    fn descriptors_are_raised() {
        let most = raise_descriptors();
        assert_eq!(getrlimit(Resource::Nofile).current, most);
        assert_eq!(getrlimit(Resource::Nofile).maximum, most);
    }
}
