//! `tidy`: READMEs and folders say the same. Every crate is on a map, everything a README names exists, every filter has an example,
//! and nothing grows at the top of the repository that nobody expects there.

mod allowed;
mod boards;
mod debug;
mod fuzz;
mod gaps;
mod locks;
mod readme;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use crate::cargo::root;
use crate::progress::step;

pub fn run() -> Result<(), String> {
    let checking = step("the map of the repository");
    let problems = problems(&root());
    if problems.is_empty() {
        checking.done(
            "every crate is on a map, what READMEs, dashboards and rules name exists, nobody is shown Debug output, lints pass with a reason, \
             no lock passes a panic on",
        );
        return Ok(());
    }
    Err(format!("tidy:\n  - {}", problems.join("\n  - ")))
}

/// What may stand at the top: each entry a reader knows what to expect of.
const TOP: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "bench",
    "deploy",
    "ebpf",
    "kernel-tests",
    "target",
    "userspace",
    "xtask",
];

fn problems(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    for name in names(root).iter().filter(|name| !name.starts_with('.') && !TOP.contains(&name.as_str())) {
        problems.push(format!("{name}: not an entry of the top folder (xtask/src/tidy.rs lists those there are)"));
    }
    let mut found = Found::default();
    walk(root, &mut found);
    for krate in &found.crates {
        let name = krate.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let maps = krate.ancestors().map(|folder| folder.join("README.md"));
        let maps = maps.filter(|map| krate.join("README.md") != *map && map.starts_with(root));
        let on_map = maps.filter_map(|map| fs::read_to_string(map).ok()).any(|text| names_word(&text, name));
        if !on_map {
            problems
                .push(format!("{}: this crate is on no map; name it in README.md or its folder's", short(root, krate)));
        }
    }
    let catalog = fs::read_to_string(root.join("userspace/edge-filters/src/catalog.rs")).unwrap_or_default();
    let examples: Vec<String> = names(&root.join("deploy/examples")).iter().map(|name| name.to_lowercase()).collect();
    for filter in catalog.lines().filter_map(|line| line.trim().strip_suffix("::KIND,")) {
        if !examples.contains(&format!("{}.yaml", filter.replace('_', ""))) {
            problems.push(format!("edge-filters: {filter} has no example; write deploy/examples/<Kind>.yaml"));
        }
    }
    let known = readme::Known::of(root);
    for readme in &found.readmes {
        let text = fs::read_to_string(readme).unwrap_or_default();
        problems.extend(readme::problems(root, readme, &text, &known));
    }
    problems.extend(boards::problems(root, &known));
    problems.extend(debug::problems(root));
    problems.extend(allowed::problems(root));
    problems.extend(locks::problems(root));
    problems.extend(gaps::problems(root));
    problems.extend(fuzz::problems(root));
    problems
}

#[derive(Default)]
struct Found {
    crates: Vec<PathBuf>,
    readmes: Vec<PathBuf>,
}

fn walk(folder: &Path, found: &mut Found) {
    for name in names(folder) {
        let path = folder.join(&name);
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                walk(&path, found);
            }
        } else if name == "README.md" {
            found.readmes.push(path);
        } else if name == "Cargo.toml" && fs::read_to_string(&path).is_ok_and(|text| text.contains("[package]")) {
            found.crates.extend(path.parent().map(PathBuf::from));
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The word stands in the text, not as a part of a longer name.
fn names_word(text: &str, word: &str) -> bool {
    let part = |letter: char| letter.is_alphanumeric() || letter == '-' || letter == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(part) && !text[at + word.len()..].chars().next().is_some_and(part)
    })
}

fn short(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_repository_is_tidy() {
        assert_eq!(problems(&root()), [""; 0]);
    }

    #[test]
    fn a_crate_is_named_as_a_whole_word() {
        assert!(names_word("`edge-l4`: VIPs", "edge-l4"));
        assert!(!names_word("edge-l4-more", "edge-l4"));
        assert!(!names_word("my-server", "server"));
    }
}
