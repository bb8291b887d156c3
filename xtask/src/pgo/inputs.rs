//! What a profile is made of, as one number: the crates of weir, the load, the compiler and how it is called.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

use crate::cargo::{cargo, root};
use crate::compiler::Compiler;
use crate::tools;

pub fn hash(compiler: &Compiler, flags: &[OsString]) -> Result<String, String> {
    let root = root();
    let mut files = BTreeMap::new();
    let tree = ["tree", "--package", "server", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"];
    for folder in crates(&tools::run(cargo().args(tree))?, &root) {
        collect(&folder, &mut files)?;
    }
    for part in COMMON {
        collect(&root.join(part), &mut files)?;
    }
    let flags = flags.join(&OsString::from(" "));
    let called = [compiler.version.as_bytes(), flags.as_encoded_bytes(), include_bytes!("../pgo.rs")];
    Ok(number(&called, &root, &files))
}

/// What the profile depends on beside the crates of weir.
const COMMON: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "bench/src/training.rs",
    "bench/src/training",
    "bench/src/gateways.rs",
    "bench/src/generator.rs",
    "bench/src/generator",
];

/// The folders of those packages of `cargo tree` that are ours: `abi v0.1.0 (/home/me/weir/ebpf/abi) (*)`.
fn crates(tree: &str, root: &Path) -> Vec<PathBuf> {
    let folders = tree.lines().filter_map(|line| line.split_once(" (")?.1.split(')').next());
    let mut folders: Vec<PathBuf> = folders.map(PathBuf::from).filter(|folder| folder.starts_with(root)).collect();
    folders.sort();
    folders.dedup();
    folders
}

/// A file, or everything below a folder that goes into a program.
fn collect(path: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", path.display());
    if path.is_file() {
        files.insert(path.into(), fs::read(path).map_err(failed)?);
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !(name.starts_with('.') || OUTSIDE.contains(&name.as_ref())) {
            collect(&path, files)?;
        }
    }
    Ok(())
}

/// Folders and files of a crate that weir does not have in it.
const OUTSIDE: &[&str] = &["target", "tests", "tests.rs", "examples", "benches", "README.md"];

/// Each part with its length, so that nothing changes sides unnoticed.
fn number(called: &[&[u8]], root: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) -> String {
    let mut hasher = DefaultHasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.write_usize(bytes.len());
        hasher.write(bytes);
    };
    called.iter().for_each(|bytes| part(bytes));
    for (path, bytes) in files {
        part(path.strip_prefix(root).unwrap_or(path).as_os_str().as_encoded_bytes());
        part(bytes);
    }
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_crates_are_found_once_each() {
        let tree = "server v0.1.0 (/weir/userspace/server)\nabi v0.1.0 (/weir/ebpf/abi)\nabi v0.1.0 (/weir/ebpf/abi) (*)\n\
                    serde v1.0.228\nserde_derive v1.0.228 (proc-macro)\nother v0.1.0 (/elsewhere/other)\n";
        let found = crates(tree, Path::new("/weir"));
        assert_eq!(found, ["/weir/ebpf/abi", "/weir/userspace/server"].map(PathBuf::from));
    }

    #[test]
    fn any_part_that_differs_makes_another_number() {
        let files = |list: &[(&str, &str)]| -> BTreeMap<PathBuf, Vec<u8>> {
            list.iter().map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec())).collect()
        };
        let of = |called: &str, list: &[(&str, &str)]| number(&[called.as_bytes()], Path::new("/weir"), &files(list));
        let known = of("rustc 1.95", &[("/weir/a.rs", "one"), ("/weir/b.rs", "two")]);
        assert_eq!(known, of("rustc 1.95", &[("/weir/b.rs", "two"), ("/weir/a.rs", "one")]));
        for other in [
            of("rustc 1.96", &[("/weir/a.rs", "one"), ("/weir/b.rs", "two")]),
            of("rustc 1.95", &[("/weir/a.rs", "one"), ("/weir/b.rs", "too")]),
            of("rustc 1.95", &[("/weir/a.rs", "one"), ("/weir/c.rs", "two")]),
            of("rustc 1.95", &[("/weir/a.rs", "on"), ("/weir/b.rs", "etwo")]),
        ] {
            assert_ne!(known, other);
        }
    }

    #[test]
    fn tests_and_readmes_are_not_counted() {
        let folder = std::env::temp_dir().join(format!("weir-inputs-test-{}", std::process::id()));
        for (name, text) in [("src/lib.rs", "x"), ("src/lib/tests.rs", "x"), ("tests/a.rs", "x"), ("README.md", "x")] {
            let file = folder.join(name);
            fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            fs::write(file, text).expect("a file");
        }
        let mut files = BTreeMap::new();
        let collected = collect(&folder, &mut files);
        let _ = fs::remove_dir_all(&folder);
        assert_eq!(collected, Ok(()));
        assert_eq!(files.into_keys().collect::<Vec<_>>(), [folder.join("src/lib.rs")]);
    }
}
