//! What READMEs name is there: paths and links, files, flags, kinds of documents, metrics, and the names of code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::short;
use super::source::{Source, sources};

/// What the code has, as far as READMEs may name it.
#[derive(Default)]
pub struct Known {
    /// `--flag`, of all programs.
    flags: BTreeSet<String>,
    /// Kinds of documents and filters.
    kinds: BTreeSet<String>,
    /// Texts of the code, between spaces, to find metrics in.
    metrics: BTreeSet<String>,
    /// Identifiers of the code and words of its texts, tests in folders of their own included.
    words: BTreeSet<String>,
    /// Names of files.
    files: BTreeSet<String>,
}

/// Flags that nobody here defines: of other programs, and what clap adds by itself.
const FLAGS_OF_OTHERS: &[&str] =
    &["--field-selector", "--from-literal", "--help", "--profile", "--release", "--reuse-values", "--set"];

impl Known {
    pub fn of(root: &Path) -> Known {
        let mut known = Known::default();
        for source in sources(root) {
            known.add(&source);
        }
        known.add_files(root, false);
        known
    }

    /// Whether the code has a metric of this name.
    pub fn has_metric(&self, name: &str) -> bool {
        self.metrics.contains(name)
    }

    /// One that has these metrics and nothing else.
    #[cfg(test)]
    pub fn with_metrics(metrics: impl IntoIterator<Item = &'static str>) -> Known {
        Known { metrics: metrics.into_iter().map(str::to_owned).collect(), ..Known::default() }
    }

    fn add(&mut self, source: &Source) {
        let path = source.path.to_string_lossy();
        for (_, text) in source.literals() {
            self.words.extend(words(text).map(str::to_owned));
            self.metrics.extend(words(text).filter(|word| word.starts_with("weir_")).map(str::to_owned));
        }
        self.words.extend(words(&source.code).map(str::to_owned));
        self.flags.extend(flags(&source.code));
        let mut kinds = |before: &str| {
            let after = source.code.split(before).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
            self.kinds.extend(after.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name.to_owned()));
        };
        if path.ends_with("base-model/src/kinds.rs") {
            kinds("kind(");
        } else if path.contains("edge-filters/src/") {
            kinds("kind: ");
        } else if path.ends_with("base-model/src/resilience.rs") {
            let names = source.literals().map(|(_, text)| text).filter(|text| is_kind(text));
            self.kinds.extend(names.map(str::to_owned));
        }
    }

    fn add_files(&mut self, folder: &Path, tests: bool) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                self.add_files(&path, tests || name == "tests");
            } else if tests && name.ends_with(".rs") {
                self.words.extend(words(&fs::read_to_string(&path).unwrap_or_default()).map(str::to_owned));
            }
            self.files.insert(name);
        }
    }
}

/// Whatever one README names and nobody knows.
pub fn problems(root: &Path, readme: &Path, text: &str, known: &Known) -> Vec<String> {
    let mut problems = Vec::new();
    let place = short(root, readme);
    let folder = readme.parent().unwrap_or(root);
    for path in paths(text) {
        // What a build leaves and what stays on a machine is not in the repository.
        if path.starts_with("target/") {
            continue;
        }
        let there = [folder, root].iter().any(|base| base.join(path.trim_end_matches('/')).exists());
        // A word with a slash is a path of ours when its first part is; `/apis/v2` and `text/plain` are not.
        let first = path.split('/').next().unwrap_or_default();
        let ours = [folder, root].iter().any(|base| !first.is_empty() && base.join(first).exists());
        if !there && (ours || path.ends_with(".rs") && !is_in_some_crate(folder, path)) {
            problems.push(format!("{place}: names `{path}`, which does not exist"));
        }
    }
    for link in links(text) {
        let link = link.split('#').next().unwrap_or_default();
        if !link.is_empty() && !link.contains(':') && !folder.join(link).exists() {
            problems.push(format!("{place}: links to {link}, which does not exist"));
        }
    }
    for flag in flags_named(text) {
        if !known.flags.contains(&flag) && !FLAGS_OF_OTHERS.contains(&flag.as_str()) {
            problems.push(format!("{place}: names the flag {flag}, which no program has"));
        }
    }
    for kind in kinds_written(text) {
        if !known.kinds.contains(&kind) {
            problems.push(format!("{place}: has a document of kind {kind}, which does not exist"));
        }
    }
    for metric in words(text).filter(|word| word.starts_with("weir_")) {
        let is_there = match metric.strip_suffix('_') {
            // `weir_tls_…` stands for a family.
            Some(_) => known.metrics.iter().any(|name| name.starts_with(metric)),
            None => known.metrics.contains(metric),
        };
        if !is_there {
            problems.push(format!("{place}: names the metric {metric}, which does not exist"));
        }
    }
    for word in quoted(text) {
        let name = word.rsplit("::").next().unwrap_or(word);
        if is_kind(name) || is_constant(name) {
            if !known.words.contains(name) && !known.kinds.contains(name) {
                problems.push(format!("{place}: names `{word}`, which is no kind and not in the code"));
            }
        } else if word.ends_with(".rs") && !word.contains('/') && !known.files.contains(word) {
            problems.push(format!("{place}: names `{word}`, and there is no such file"));
        }
    }
    problems
}

/// `net/udp.rs` of a map of crates is below the source of one of them.
fn is_in_some_crate(folder: &Path, path: &str) -> bool {
    let crates = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    crates.map(|of| of.join("src").join(path)).any(|path: PathBuf| path.exists())
}

/// Flags that the code defines: clap's attributes and builders, and the daemon's table of options.
fn flags(code: &str) -> BTreeSet<String> {
    let mut flags = BTreeSet::new();
    for before in [".long(", "long = ", "row(", "idle("] {
        let named = code.split(before).skip(1).filter_map(|rest| text_of(code, rest.trim_start()));
        flags.extend(named.map(|name| format!("--{name}")));
    }
    for (at, _) in code.match_indices("#[arg(") {
        let rest = &code[at..];
        let Some((attribute, item)) = rest.split_once(")]") else { continue };
        let is_long = words(attribute).any(|word| word == "long") && !attribute.contains("long =");
        // Further attributes and `pub` stand before the name.
        let field = item.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        let field = field.map(|line| line.trim_start_matches("pub ")).and_then(|line| line.split_once(':'));
        if let (true, Some((name, _))) = (is_long, field) {
            flags.insert(format!("--{}", name.trim().replace('_', "-")));
        }
    }
    flags
}

/// The text that an argument is: in quotes, or by the name of a constant of the same file.
fn text_of<'c>(code: &'c str, argument: &'c str) -> Option<&'c str> {
    let text = match words(argument).next() {
        Some(name) if argument.starts_with(name) => code.split_once(&format!("const {name}: &str = "))?.1,
        _ => argument,
    };
    text.strip_prefix('"')?.split_once('"').map(|(text, _)| text)
}

/// Flags in what stands between backticks and in blocks of code.
fn flags_named(text: &str) -> BTreeSet<String> {
    let code = text.split('`').skip(1).step_by(2).chain(text.split("```").skip(1).step_by(2));
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let named = code.flat_map(|part| {
        part.match_indices("--").filter(|(at, _)| !part[..*at].ends_with(is_part)).map(|(at, _)| {
            let end = part[at..].find(|c| !is_part(c)).map_or(part.len(), |end| at + end);
            part[at..end].to_owned()
        })
    });
    // `---` begins another document.
    named.filter(|flag| flag[2..].starts_with(|c: char| c.is_ascii_lowercase())).collect()
}

/// `kind: X` of the documents in blocks of code.
fn kinds_written(text: &str) -> BTreeSet<String> {
    let blocks = text.split("```").skip(1).step_by(2);
    let after = blocks.flat_map(|block| block.split("kind: ").skip(1));
    after.filter_map(|rest| words(rest).next().map(str::to_owned)).collect()
}

/// Words between backticks outside of blocks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let outside = text.split("```").step_by(2);
    let quoted = outside.flat_map(|part| part.split('`').skip(1).step_by(2));
    quoted.flat_map(|code| code.split([' ', '(', ')', ',', '{', '}', '=', '*'])).filter(|word| !word.is_empty())
}

/// Written as types and kinds are: capitals and small letters, beginning with a capital.
fn is_kind(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_uppercase())
        && word.chars().all(|c| c.is_ascii_alphanumeric())
        && word.chars().filter(char::is_ascii_lowercase).count() > 1
}

/// Written as constants are.
fn is_constant(word: &str) -> bool {
    word.contains('_') && word.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit())
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cargo::root;

    #[test]
    fn paths_and_links_are_found() {
        let text = "See `ebpf/abi` and `cargo test`, not `a/<b>`.\n```\n`x/y`\n```\n[map](userspace/README.md#map)";
        assert_eq!(paths(text).collect::<Vec<_>>(), ["ebpf/abi"]);
        assert_eq!(links(text).collect::<Vec<_>>(), ["userspace/README.md#map"]);
    }

    #[test]
    fn flags_are_those_of_clap_and_of_the_table() {
        let code = r#"
            row("api-addr", Shape::Text, ""); row(
                "cpus", Shape::Text); row(LISTEN, Shape::List); fn row(name: &str) {}
            const LISTEN: &str = "listen"; Arg::new("x").long("config-file"); 
            #[arg(short, long = "file", value_name = "FILE")]
            pub file: Vec<PathBuf>,
            #[arg(long, global = true)]
            /// Doc.
            #[cfg(unix)]
            pub force_tls: bool,
            #[arg(short)]
            quiet: bool,
        "#;
        let source = Source::new(PathBuf::from("a.rs"), code);
        let found: Vec<String> = flags(&source.code).into_iter().collect();
        assert_eq!(found, ["--api-addr", "--config-file", "--cpus", "--file", "--force-tls", "--listen"]);
    }

    /// Everything that is made up is told, whatever kind of thing it is, and what the code has is not.
    #[test]
    fn what_is_made_up_is_told() {
        let root = root();
        let known = Known::of(&root);
        let told = |text: &str| problems(&root, &root.join("userspace/README.md"), text, &known);
        for text in [
            "`userspace/nowhere`",
            "`net/nothing.rs`",
            "`nothing.rs`",
            "[x](nowhere.md)",
            "`weir --made-up`",
            "```sh\nweirctl apply --made-up-too -f x\n```",
            "```yaml\nkind: HTTPSurfer\n```",
            "```yaml\nfilters: [{name: a, kind: RateLimitr}]\n```",
            "a `VirtualIPv4`",
            "`weir_made_up_total` counts",
            "the families `weir_made_up_…`",
            "`MADE_UP_MAX`",
            "`Frame::MadeUp`",
        ] {
            assert_eq!(told(text).len(), 1, "{text}: {:?}", told(text));
        }
        for text in [
            "`userspace/server`, `net/udp.rs`, `catalog.rs`, `/apis/v2`, `text/plain`",
            "`weir --name x --xdp-mode=auto`, `cargo xtask bench http1 --rounds 3`, `weirctl --certificate-authority x`",
            "```yaml\nkind: HTTPServer\n---\nfilters: [{name: a, kind: RateLimiter}]\nresilience: [{kind: Retry}]\n```",
            "`VirtualIP`, `TcpStream`, `weir_limit_hits_total{limit}`, `weir_tls_…`, `HOPS_MAX`, `Tables::forget`",
        ] {
            assert_eq!(told(text), [""; 0], "{text}");
        }
    }
}
