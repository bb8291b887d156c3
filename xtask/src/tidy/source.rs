//! Rust as tidy reads it: comments and tests blanked out, texts in quotes found. Not a parser; it knows where literals, comments and
//! braces begin and end.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A source file as it runs: what is a comment or belongs to tests is blank, and every byte is where it was.
pub struct Source {
    pub path: PathBuf,
    pub code: String,
    /// Where the contents of text literals are.
    pub texts: Vec<Range<usize>>,
}

impl Source {
    pub fn new(path: PathBuf, text: &str) -> Source {
        let mut code = text.to_owned();
        let texts = blank_comments(&mut code);
        let mut source = Source { path, code, texts };
        source.blank_items(is_test_attribute);
        source
    }

    pub fn in_text(&self, at: usize) -> bool {
        self.texts.get(self.texts.partition_point(|text| text.end <= at)).is_some_and(|text| text.start <= at)
    }

    pub fn literals(&self) -> impl Iterator<Item = (usize, &str)> {
        // What was blanked with its item is no text any more.
        self.texts.iter().map(|text| (text.start, &self.code[text.clone()])).filter(|(_, text)| !text.trim().is_empty())
    }

    /// Blanks every item that begins where `begins` says so of the rest of the code.
    pub fn blank_items(&mut self, begins: fn(&str) -> bool) {
        let mut at = 0;
        while at < self.code.len() {
            if self.code.is_char_boundary(at) && begins(&self.code[at..]) && !self.in_text(at) {
                let end = self.item_end(at);
                self.blank(at..end);
                at = end;
            }
            at += 1;
        }
    }

    /// Behind the first `;` or block that follows, attributes aside.
    fn item_end(&self, from: usize) -> usize {
        let mut depth = 0usize;
        for (at, byte) in self.code.bytes().enumerate().skip(from) {
            if self.in_text(at) {
                continue;
            }
            match byte {
                b'{' | b'(' | b'[' => depth += 1,
                b'}' | b')' | b']' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 && byte == b'}' {
                        return at + 1;
                    }
                }
                b';' if depth == 0 => return at + 1,
                _ => {}
            }
        }
        self.code.len()
    }

    fn blank(&mut self, range: Range<usize>) {
        let blank: String = blank(&self.code[range.clone()]);
        self.code.replace_range(range, &blank);
    }
}

/// Every Rust file that is built into a program or library below a folder: no tests, benches and examples.
pub fn sources(root: &Path) -> Vec<Source> {
    let mut files = Vec::new();
    walk(root, &mut files);
    let texts: Vec<(PathBuf, String)> =
        files.into_iter().filter_map(|path| fs::read_to_string(&path).ok().map(|text| (path, text))).collect();
    let of_tests: Vec<PathBuf> = texts.iter().flat_map(|(path, text)| test_modules(path, text)).collect();
    let is_test = |path: &Path| of_tests.iter().any(|test| path == test.with_extension("rs") || path.starts_with(test));
    texts.into_iter().filter(|(path, _)| !is_test(path)).map(|(path, text)| Source::new(path, &text)).collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "tests", "benches", "examples", "fuzz"].contains(&name) {
                walk(&path, files);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            files.push(path);
        }
    }
}

/// Modules that a file has for tests alone, without their extension.
fn test_modules(path: &Path, text: &str) -> Vec<PathBuf> {
    let folder = path.parent().unwrap_or(path);
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let inside = if ["lib", "main", "mod"].contains(&stem) { folder.to_owned() } else { folder.join(stem) };
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        if is_test_attribute(line)
            && let Some(next) = lines.peek()
            && let Some(name) = next.trim_start_matches("pub ").trim_start_matches("pub(crate) ").strip_prefix("mod ")
            && let Some(name) = name.strip_suffix(';')
        {
            found.push(inside.join(name));
        }
    }
    found
}

fn is_test_attribute(rest: &str) -> bool {
    let Some(condition) = rest.strip_prefix("#[cfg(") else { return false };
    condition.starts_with("test)") || condition.starts_with("any(test,") || condition.starts_with("all(test,")
}

/// Spaces in place of everything but the ends of lines, as many bytes as there were.
fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// Blanks the comments, and says where the contents of text literals are.
fn blank_comments(code: &mut String) -> Vec<Range<usize>> {
    let bytes = code.as_bytes().to_vec();
    let (mut texts, mut comments) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let is_name = |end: usize| end > 0 && (bytes[end - 1].is_ascii_alphanumeric() || bytes[end - 1] == b'_');
        let begins = !is_name(at) || bytes[at - 1] == b'b' && !is_name(at - 1);
        if rest.starts_with(b"//") {
            let end = rest.iter().position(|b| *b == b'\n').map_or(bytes.len(), |end| at + end);
            comments.push(at..end);
            at = end;
        } else if rest.starts_with(b"/*") {
            let end = block_comment_length(rest) + at;
            comments.push(at..end);
            at = end;
        } else if rest[0] == b'r' && begins && rest[1..].iter().find(|b| **b != b'#') == Some(&b'"') {
            let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
            let start = at + 2 + hashes;
            let close = [&b"\""[..], &vec![b'#'; hashes]].concat();
            let end = bytes[start..].windows(close.len()).position(|window| window == close);
            let end = end.map_or(bytes.len(), |end| start + end);
            texts.push(start..end);
            at = end + close.len();
        } else if rest[0] == b'"' {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            texts.push(at + 1..end.min(bytes.len()));
            at = end + 1;
        } else if rest[0] == b'\'' {
            // A letter in quotes, or a lifetime, which has no second quote.
            let letter = match rest.get(1) {
                Some(b'\\') => rest.iter().skip(3).position(|b| *b == b'\'').map(|end| end + 4),
                Some(first) => {
                    let width = match first {
                        0..0x80 => 1,
                        0x80..0xe0 => 2,
                        0xe0..0xf0 => 3,
                        _ => 4,
                    };
                    (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
                }
                None => None,
            };
            at += letter.unwrap_or(1);
        } else {
            at += 1;
        }
    }
    for comment in comments {
        let blank = blank(&code[comment.clone()]);
        code.replace_range(comment, &blank);
    }
    texts
}

fn block_comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new(PathBuf::from("x.rs"), text)
    }

    #[test]
    fn comments_and_tests_are_blank_and_nothing_moves() {
        let text = r##"
fn a<'a>() { let c = '"'; f("one // no comment", 'x'); } // "two"
/* "three" /* "four" */ */ fn b() { g(r#"five " { "#) }
#[cfg(test)]
mod tests { fn c() { h("six }") } }
#[cfg(test)]
mod more;
fn d() { i("sieben ü \" {}", '\'', '\u{1b}', "acht") }
"##;
        let source = source(text);
        assert_eq!(source.code.len(), text.len());
        let texts: Vec<&str> = source.literals().map(|(_, text)| text).collect();
        assert_eq!(texts, ["one // no comment", "five \" { ", r#"sieben ü \" {}"#, "acht"]);
        assert!(!source.code.contains("mod") && !source.code.contains("four") && source.code.contains("fn d()"));
        let at = source.code.find("acht").unwrap();
        assert!(source.in_text(at) && !source.in_text(at - 1));
    }

    #[test]
    fn modules_for_tests_alone_are_known() {
        let text = "#[cfg(test)]\nmod attacks;\nmod real;\n#[cfg(test)]\npub(crate) mod testing;\n";
        assert_eq!(test_modules(Path::new("a/lib.rs"), text), [Path::new("a/attacks"), Path::new("a/testing")]);
        assert_eq!(test_modules(Path::new("a/b.rs"), text), [Path::new("a/b/attacks"), Path::new("a/b/testing")]);
    }
}
