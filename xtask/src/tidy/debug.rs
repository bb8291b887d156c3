//! No Rust in what people read: `{:?}` and its like are for tests. What programs say is written with `Display`, names with
//! `base_text::quoted`, durations with `base_text::duration`, lists with `one_of` or `all_quoted`.

use std::path::Path;

use super::short;
use super::source::{Source, sources};

/// Where it stays, and why nobody reads it: file, a piece of the line, the reason.
const EXPLAINED: &[(&str, &str, &str)] = &[(
    "xtask/src/build_ebpf.rs",
    "let shown = format!(",
    "a command as a shell would take it; Command has no other way to show itself",
)];

/// Debug formats of a repository that nobody has explained, and explanations of what is not there any more.
pub fn problems(root: &Path) -> Vec<String> {
    let mut sources = sources(root);
    // All of it is for tests.
    sources.retain(|source| !source.path.starts_with(root.join("kernel-tests")));
    found(root, &sources, EXPLAINED)
}

fn found(root: &Path, sources: &[Source], explained: &[(&str, &str, &str)]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut used = vec![false; explained.len()];
    for source in sources {
        let path = short(root, &source.path);
        let whole = std::fs::read_to_string(&source.path).unwrap_or_else(|_| source.code.clone());
        for line in lines(source) {
            let text = whole.lines().nth(line - 1).unwrap_or_default();
            match explained.iter().position(|(file, piece, _)| *file == path && text.contains(piece)) {
                Some(at) => used[at] = true,
                None => problems.push(format!(
                    "{path}:{line}: a Debug format where people may read it; use Display, base_text::quoted or base_text::duration, or \
                     explain it in xtask/src/tidy/debug.rs: {}",
                    text.trim()
                )),
            }
        }
    }
    for ((file, piece, _), _) in explained.iter().zip(used).filter(|(_, used)| !used) {
        problems.push(format!("xtask/src/tidy/debug.rs explains `{piece}` of {file}, which is not there"));
    }
    problems
}

/// Lines with a Debug format.
fn lines(source: &Source) -> Vec<usize> {
    let mut own = Source { path: source.path.clone(), code: source.code.clone(), texts: source.texts.clone() };
    own.blank_items(|rest| {
        let head = rest.strip_prefix("impl").and_then(|rest| rest.split_once('{'));
        head.is_some_and(|(head, _)| !head.contains(';') && head.contains("Debug for "))
    });
    let mut lines: Vec<usize> =
        own.literals().filter(|(_, text)| is_format(text)).map(|(at, _)| line_of(&own.code, at)).collect();
    let code = |at: &usize| !own.in_text(*at);
    for word in ["Debug::fmt(", "dbg!("] {
        lines.extend(own.code.match_indices(word).map(|(at, _)| at).filter(code).map(|at| line_of(&own.code, at)));
    }
    lines.extend(sigils(&own.code).filter(code).map(|at| line_of(&own.code, at)));
    lines.sort_unstable();
    lines.dedup();
    lines
}

/// The line that a byte is in, counted from 1.
fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// The text has a place such as `{name:?}`, `{:#?}` or `{0:>8?}`.
fn is_format(text: &str) -> bool {
    let plain = text.replace("{{", "  ").replace("}}", "  ");
    plain.split('{').skip(1).filter_map(|place| place.split_once('}')).any(|(place, _)| {
        place.split_once(':').is_some_and(|(name, how)| {
            how.ends_with('?') && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.')
        })
    })
}

/// `?value` as the macros of tracing have it: nothing else in Rust has a `?` that begins something.
fn sigils(code: &str) -> impl Iterator<Item = usize> + '_ {
    code.match_indices('?').map(|(at, _)| at).filter(|at| {
        let before = code[..*at].trim_end();
        let after = code[at + 1..].chars().next();
        before.ends_with([',', '(', '='])
            && after.is_some_and(|c| c.is_alphabetic() || c == '_' || c == '(' || c == '&')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn told(text: &str, explained: &[(&str, &str, &str)]) -> Vec<String> {
        let source = Source::new(PathBuf::from("/r/a.rs"), text);
        found(Path::new("/r"), &[source], explained)
    }

    #[test]
    fn what_people_would_read_as_rust_is_told() {
        for text in [
            r#"fn a() { format!("no {name:?}") }"#,
            r#"fn a() { format!("{:#?}", x) }"#,
            r#"fn a() { write!(f, "{0:>8?} {{}}", x) }"#,
            r##"fn a() { println!(r#"{x.y:?}"#) }"##,
            r#"fn a() { tracing::error!(?gap, "x") }"#,
            r#"fn a() { tracing::error!(server, gap = ?gap.x(), "x") }"#,
            "impl fmt::Display for A { fn fmt(&self) { fmt::Debug::fmt(self, f) } }",
        ] {
            assert_eq!(told(text, &[]).len(), 1, "{text}: {:?}", told(text, &[]));
        }
    }

    #[test]
    fn what_nobody_reads_is_not() {
        for text in [
            "// format!(\"{x:?}\")\nfn a() -> Option<u8> { f(b?, c)?; g(\"is it {}?\", d) }",
            "#[cfg(test)]\nmod tests { fn a() { format!(\"{x:?}\") } }",
            "impl<T: ?Sized> fmt::Debug for A<T> { fn fmt(&self) { write!(f, \"{:?}\", self.0) } }",
            r#"fn a() { parse("{{a: ?}} {a ? b}") }"#,
        ] {
            assert_eq!(told(text, &[]), [""; 0], "{text}");
        }
    }

    #[test]
    fn an_explanation_counts_as_long_as_there_is_what_it_explains() {
        let text = r#"fn a() { panic!("{name:?}") }"#;
        assert_eq!(told(text, &[("a.rs", "{name:?}", "ends the process")]), [""; 0]);
        assert_eq!(told("fn a() {}", &[("a.rs", "{name:?}", "ends the process")]).len(), 1);
    }
}
