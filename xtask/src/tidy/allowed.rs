//! Whoever lets a lint pass says why, where it is: `#[allow(…, reason = "…")]`, and `#[expect(…)]` alike.

use std::path::Path;

use super::short;
use super::source::{Source, sources};

/// Lints that pass without a reason.
pub fn problems(root: &Path) -> Vec<String> {
    let told = |source: &Source| {
        let path = short(root, &source.path);
        unexplained(source)
            .map(|line| format!("{path}:{line}: a lint is allowed and nobody says why; add `reason = \"…\"`"))
            .collect::<Vec<_>>()
    };
    sources(root).iter().flat_map(told).collect()
}

fn unexplained(source: &Source) -> impl Iterator<Item = usize> + '_ {
    let begins = ["[allow(", "[expect("].into_iter().flat_map(|word| source.code.match_indices(word));
    let own = begins.filter(|(at, _)| !source.in_text(*at));
    own.filter_map(|(at, _)| {
        let rest = &source.code[at..];
        let attribute = &rest[..rest.find(")]").unwrap_or(rest.len())];
        (!attribute.contains("reason = ")).then(|| source.code[..at].matches('\n').count() + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lint_that_passes_without_a_reason_is_told() {
        let code = "#![allow(a, reason = \"b\")]\n#[allow(c)]\n#[expect(\n    d,\n    reason = \"e\"\n)]\nfn f() { g(\"[allow(h)]\") }\n\
                    #[expect(clippy::i)]\n";
        let source = Source::new("a.rs".into(), code);
        assert_eq!(unexplained(&source).collect::<Vec<_>>(), [2, 8]);
    }
}
