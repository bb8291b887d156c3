//! `tidy`: READMEs and folders say the same. Every crate is on a map, every path that a README names exists, every filter
//! has an example, and nothing grows at the top of the repository that DESIGN does not put there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cargo::root;
use crate::progress::step;

pub fn run() -> Result<(), String> {
    let checking = step("the map of the repository");
    let problems = problems(&root());
    if problems.is_empty() {
        checking.done("every crate is on a map, every path in a README exists");
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
    for readme in &found.readmes {
        let text = fs::read_to_string(readme).unwrap_or_default();
        let folder = readme.parent().unwrap_or(root);
        // What a build leaves is not in the repository.
        for path in paths(&text).filter(|path| !path.starts_with("target/")) {
            let there = [folder, root].iter().any(|base| base.join(path.trim_end_matches('/')).exists());
            // A word with a slash is a path of ours when its first part is; `/apis/v2` and `text/plain` are not.
            let first = path.split('/').next().unwrap_or_default();
            let ours = [folder, root].iter().any(|base| !first.is_empty() && base.join(first).exists());
            if !there && ours {
                problems.push(format!("{}: names `{path}`, which does not exist", short(root, readme)));
            }
        }
        for link in links(&text) {
            let link = link.split('#').next().unwrap_or_default();
            if !link.is_empty() && !link.contains(':') && !folder.join(link).exists() {
                problems.push(format!("{}: links to {link}, which does not exist", short(root, readme)));
            }
        }
    }
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

/// Words between backticks that look like a path with at least two parts.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let outside_blocks = text.split("```").step_by(2);
    let quoted = outside_blocks.flat_map(|part| part.split('`').skip(1).step_by(2));
    let letters = |path: &str| path.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-/".contains(letter));
    quoted.filter(move |word| word.contains('/') && letters(word))
}

/// Targets of `[text](target)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

fn short(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_links_are_found() {
        let text = "See `ebpf/abi` and `cargo test`, not `a/<b>`.\n```\n`x/y`\n```\n[map](userspace/README.md#map)";
        assert_eq!(paths(text).collect::<Vec<_>>(), ["ebpf/abi"]);
        assert_eq!(links(text).collect::<Vec<_>>(), ["userspace/README.md#map"]);
    }

    #[test]
    fn a_crate_is_named_as_a_whole_word() {
        assert!(names_word("`edge-l4`: VIPs", "edge-l4"));
        assert!(!names_word("edge-l4-more", "edge-l4"));
        assert!(!names_word("my-server", "server"));
    }
}
