//! What the checks of userspace/fuzz use, its Cargo.toml has: tests of other crates build the checks with what those have, and the folder
//! is no part of the workspace, so that nobody else would notice before the next fuzzing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

pub(super) fn problems(root: &Path) -> Vec<String> {
    let folder = root.join("userspace/fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    let mut problems = Vec::new();
    for place in ["checks", "targets"] {
        for name in super::names(&folder.join(place)) {
            let text = fs::read_to_string(folder.join(place).join(&name)).unwrap_or_default();
            problems.extend(missing(&text, &manifest).into_iter().map(|krate| {
                format!("userspace/fuzz/{place}/{name}: uses {krate}, which userspace/fuzz/Cargo.toml has not")
            }));
        }
    }
    problems
}

/// Crates that a file begins lines with `use` of, and that the manifest does not name.
fn missing<'t>(text: &'t str, manifest: &str) -> BTreeSet<&'t str> {
    let used = text.lines().filter_map(|line| line.trim_start().strip_prefix("use ")?.split_once("::"));
    let named: BTreeSet<String> =
        manifest.lines().filter_map(|line| Some(line.split_once('=')?.0.trim().replace('-', "_"))).collect();
    let own = ["std", "core", "crate", "super", "self"];
    used.map(|(krate, _)| krate).filter(|krate| !own.contains(krate) && !named.contains(*krate)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_that_the_manifest_lacks_is_told() {
        let text = "use std::fs;\nuse serde_json::json;\n    use proto_h2::frame;\nuse super::*;\n";
        assert_eq!(missing(text, "[dependencies]\nproto-h2 = { path = \"..\" }\n"), BTreeSet::from(["serde_json"]));
        assert!(missing(text, "proto-h2 = \"1\"\nserde_json = \"1\"\n").is_empty());
    }
}
