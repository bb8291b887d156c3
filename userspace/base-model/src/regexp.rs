//! Regular expressions in RE2's syntax, as Easegress's users write them, on the `regex` crate.
//!
//! Searches are unanchored. The two dialects differ in a few places; [`compile`] rewrites the pattern so that the
//! RE2 meaning holds: `\d \w \s \b` are ASCII, `\Q…\E` quotes, a brace that counts nothing is a literal, `[` and `&&` inside a
//! class are literals, `\<` is a literal. Look-around and back-references exist in neither, so both are linear in time.

use std::borrow::Cow;

use regex::{Regex, RegexBuilder};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Compiles a pattern; the error says in one line what is wrong with it.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!("a pattern of {} bytes; at most {PATTERN_BYTES_MAX}", pattern.len()));
    }
    let built = RegexBuilder::new(&translate(pattern))
        .size_limit(PROGRAM_BYTES_MAX)
        .dfa_size_limit(LAZY_DFA_BYTES_MAX)
        .nest_limit(NESTING_MAX)
        .build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(limit) => {
            format!("the compiled pattern needs more than {limit} bytes; shorten its repetitions")
        }
        error => {
            // The crate draws a caret under the pattern on several lines; the last one holds the reason.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or("not a regular expression").trim();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        }
    })
}

/// A pattern with its text; equal when the text is.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    pub fn new(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned(), regex: compile(text)? })
    }
    pub fn as_str(&self) -> &str {
        &self.text
    }
    pub fn regex(&self) -> &Regex {
        &self.regex
    }
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl Eq for Pattern {}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl JsonSchema for Pattern {
    fn schema_name() -> Cow<'static, str> {
        "Pattern".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "regexp"})
    }
}

/// The same pattern in the dialect of the `regex` crate.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        match c {
            '\\' => rest = escape(after, false, &mut out),
            '[' => rest = class(after, &mut out),
            '{' if !counts(after) => {
                out.push_str(r"\{");
                rest = after;
            }
            _ => {
                out.push(c);
                rest = after;
            }
        }
    }
    out
}

/// `rest` follows a backslash.
fn escape<'a>(rest: &'a str, in_class: bool, out: &mut String) -> &'a str {
    let Some(c) = rest.chars().next() else {
        out.push('\\');
        return rest;
    };
    let after = &rest[c.len_utf8()..];
    match c {
        'Q' if !in_class => {
            let (quoted, after) = after.split_once(r"\E").unwrap_or((after, ""));
            out.push_str(&regex::escape(quoted));
            return after;
        }
        'd' if in_class => out.push_str("0-9"),
        'w' if in_class => out.push_str("0-9A-Za-z_"),
        's' if in_class => out.push_str(r"\t\n\x0C\r\x20"),
        'd' => out.push_str("[0-9]"),
        'w' => out.push_str("[0-9A-Za-z_]"),
        's' => out.push_str(r"[\t\n\x0C\r\x20]"),
        'D' => out.push_str("[^0-9]"),
        'W' => out.push_str("[^0-9A-Za-z_]"),
        'S' => out.push_str(r"[^\t\n\x0C\r\x20]"),
        'b' if !in_class => out.push_str(r"(?-u:\b)"),
        '<' | '>' => out.push(c),
        _ => {
            out.push('\\');
            out.push(c);
        }
    }
    after
}

/// `rest` follows the bracket that opens a class.
fn class<'a>(rest: &'a str, out: &mut String) -> &'a str {
    out.push('[');
    let mut rest = rest;
    if let Some(after) = rest.strip_prefix('^') {
        out.push('^');
        rest = after;
    }
    // A bracket in first place is itself.
    if let Some(after) = rest.strip_prefix(']') {
        out.push_str(r"\]");
        rest = after;
    }
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        match c {
            ']' => {
                out.push(']');
                return after;
            }
            '\\' => rest = escape(after, true, out),
            '[' if after.starts_with(':') && after.contains(":]") => {
                let end = after.find(":]").map_or(0, |i| i + 2);
                out.push('[');
                out.push_str(&after[..end]);
                rest = &after[end..];
            }
            '[' | '&' | '~' => {
                out.push('\\');
                out.push(c);
                rest = after;
            }
            '-' if after.starts_with('-') => {
                out.push_str(r"\-");
                rest = after;
            }
            _ => {
                out.push(c);
                rest = after;
            }
        }
    }
    rest
}

/// Whether what follows a brace makes it a repetition: `{2}`, `{2,}`, `{2,5}`.
fn counts(after: &str) -> bool {
    let Some((inside, _)) = after.split_once('}') else { return false };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match inside.split_once(',') {
        None => number(inside),
        Some((low, high)) => number(low) && (high.is_empty() || number(high)),
    }
}

/// Longer patterns are generated ones; a set of prefixes or hosts says the same and is faster.
const PATTERN_BYTES_MAX: usize = 8 << 10;
/// Memory of one compiled pattern; Go bounds repetitions to 1000 for the same reason.
const PROGRAM_BYTES_MAX: usize = 2 << 20;
/// Memory of the search cache, per thread and pattern.
const LAZY_DFA_BYTES_MAX: usize = 1 << 20;
const NESTING_MAX: u32 = 100;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn means_what_re2_means() {
        for (pattern, text, matches) in [
            ("^/api", "/api/x", true),
            ("api", "/api/x", true),
            (r"^\d+$", "12", true),
            (r"^\d+$", "१२", false),
            (r"^[\d.]+$", "1.2", true),
            (r"^\D$", "é", true),
            (r"^[^\s]$", "\u{b}", true),
            (r"\Qa.b(\E+c", "a.b((c", true),
            (r"\Qa.b\E", "axb", false),
            (r"^/users/{id}$", "/users/{id}", true),
            (r"^a{2}$", "aa", true),
            (r"^a{2,}$", "aaa", true),
            (r"^a{,2}$", "a{,2}", true),
            (r"^[a[b]$", "[", true),
            (r"^[]a]$", "]", true),
            (r"^[a&&b]$", "&", true),
            (r"^[[:alpha:]]+$", "ab", true),
            (r"^[a-c--]$", "-", true),
            (r"^\<a\>$", "<a>", true),
            (r"\bcat\b", "a cat.", true),
            (r"(?i)HELLO", "hello", true),
            (r"^\/a\/b$", "/a/b", true),
            (r"^[\w-]+$", "a-b", true),
        ] {
            let regex = compile(pattern).unwrap_or_else(|why| panic!("{pattern}: {why}"));
            assert_eq!(regex.is_match(text), matches, "{pattern} on {text}");
        }
    }

    #[test]
    fn refusals_fit_on_a_line() {
        for pattern in ["(", "[a", "(?=x)", r"\1", "*", r"\", "a{1001}{1000}{99}"] {
            let why = compile(pattern).unwrap_err();
            assert!(!why.contains('\n') && !why.is_empty(), "{pattern}: {why}");
        }
    }

    proptest! {
        #[test]
        fn no_pattern_panics(pattern in "[\\\\a-cdwsbQE\\[\\]{}()^$.*+?,0-9&~:|-]{0,20}") {
            let _ = compile(&pattern);
        }
    }
}
