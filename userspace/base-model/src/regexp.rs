//! Regular expressions in RE2's syntax, as Easegress's users write them, on the `regex` crate.
//!
//! Searches are unanchored. The two dialects differ in a few places; [`compile`] rewrites the pattern so that the
//! RE2 meaning holds: `\d \w \s \b` are ASCII, `\Q…\E` quotes, `\123` is an octal code, `\p{^Greek}` negates, a brace that counts
//! nothing is a literal, `[` and `&&` inside a class are literals, `\<` is a literal. Look-around and back-references exist in
//! neither, so both are linear in time. `\C`, a single byte, is refused: texts are matched by characters.

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
    let built = RegexBuilder::new(&translate(pattern)?)
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

/// The same pattern in the dialect of the `regex` crate, or why RE2 has nothing of the kind.
fn translate(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        match c {
            '\\' => rest = escape(after, false, &mut out)?,
            '[' => rest = class(after, &mut out)?,
            '{' if !counts(after) => {
                out.push_str(r"\{");
                rest = after;
            }
            '(' => {
                if let Some((group, advice)) = NO_GROUPS.iter().find(|(group, _)| rest.starts_with(group)) {
                    return Err(format!("{group} is not part of RE2; {advice}"));
                }
                out.push(c);
                rest = after;
            }
            _ => {
                out.push(c);
                rest = after;
            }
        }
    }
    Ok(out)
}

/// `rest` follows a backslash.
fn escape<'a>(rest: &'a str, in_class: bool, out: &mut String) -> Result<&'a str, String> {
    let Some(c) = rest.chars().next() else {
        out.push('\\');
        return Ok(rest);
    };
    let after = &rest[c.len_utf8()..];
    match c {
        'Q' if !in_class => {
            let (quoted, after) = after.split_once(r"\E").unwrap_or((after, ""));
            out.push_str(&regex::escape(quoted));
            return Ok(after);
        }
        // One that closes no `\Q` means nothing.
        'E' if !in_class => {}
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
        'p' | 'P' => return property(c, after, out),
        'x' if after.starts_with('{') => {
            let (digits, after) = after[1..].split_once('}').ok_or(r"this \x{ is not closed; write \x{4E2D}")?;
            out.push_str(&format!(r"\x{{{digits}}}"));
            return Ok(after);
        }
        // A single digit but zero would be a back-reference; more are an octal code, as `\0` is.
        '0'..='7' => {
            let more = after.bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
            if c != '0' && more == 0 {
                return Err(no_reference(c));
            }
            let code = u32::from_str_radix(&rest[..=more], 8).unwrap_or_default();
            out.push_str(&format!(r"\x{{{code:X}}}"));
            return Ok(&after[more..]);
        }
        '8' | '9' => return Err(no_reference(c)),
        c => match NO_ESCAPES.iter().find(|(letter, _)| *letter == c) {
            Some((_, advice)) => return Err(format!(r"\{c} is not available; {advice}")),
            // Any other sign is itself.
            None if c.is_ascii_punctuation() || c == ' ' => {
                if !matches!(c, '<' | '>' | ' ') {
                    out.push('\\');
                }
                out.push(c);
            }
            None => {
                out.push('\\');
                out.push(c);
            }
        },
    }
    Ok(after)
}

fn no_reference(digit: char) -> String {
    format!(r"\{digit} would refer back to a group, which RE2 cannot; an octal code has two or three digits")
}

/// `\pN`, `\p{Greek}`, `\p{^Greek}` and their negations; `rest` follows the letter.
fn property<'a>(letter: char, rest: &'a str, out: &mut String) -> Result<&'a str, String> {
    let wanted = || r"a Unicode class is written \pL, \p{Greek} or \p{^Greek}".to_owned();
    let (name, after) = match rest.strip_prefix('{') {
        Some(inner) => inner.split_once('}').ok_or_else(wanted)?,
        None => rest.split_at(rest.chars().next().ok_or_else(wanted)?.len_utf8()),
    };
    let (name, negated) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(wanted());
    }
    let letter = if negated == (letter == 'P') { 'p' } else { 'P' };
    out.push_str(&format!(r"\{letter}{{{name}}}"));
    Ok(after)
}

/// Groups of other dialects.
const NO_GROUPS: [(&str, &str); 6] = [
    ("(?=", "match what follows as well, or write two conditions"),
    ("(?!", "say what may stand there instead of what may not"),
    ("(?<=", "match what precedes as well and keep the rest in a group"),
    ("(?<!", "say what may stand there instead of what may not"),
    ("(?>", "write (?:…): matching never backtracks"),
    ("(?P=", "groups cannot be referred back to"),
];

/// Escapes of other dialects, and the one of RE2 that needs bytes.
const NO_ESCAPES: [(char, &str); 9] = [
    ('C', "texts are matched by characters: write (?s:.) for any one"),
    ('Z', r"write \z for the end of the text"),
    ('G', r"write \A for the begin of the text"),
    ('h', r"write [ \t] for white space within a line"),
    ('R', r"write (?:\r\n|\n|\r) for a line break"),
    ('N', r"write [^\n] for any character but a line break"),
    ('X', r"write \pL\pM* for a letter with its marks"),
    ('K', "keep what is wanted in a group"),
    ('k', "groups cannot be referred back to"),
];

/// `rest` follows the bracket that opens a class.
fn class<'a>(rest: &'a str, out: &mut String) -> Result<&'a str, String> {
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
                return Ok(after);
            }
            '\\' => rest = escape(after, true, out)?,
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
    Ok(rest)
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

    /// RE2's page on its syntax, row by row: a pattern, what it finds first in a text, or nothing.
    #[test]
    fn every_row_of_re2s_syntax_page_is_read() {
        for (pattern, text, found) in [
            (".", "x", "x"),
            ("[xyz]+", "axyz", "xyz"),
            ("[^xyz]+", "xab", "ab"),
            (r"\d+\D", "a12b", "12b"),
            (r"[[:alpha:]]+", "1ab2", "ab"),
            (r"[[:^alpha:]]+", "a12b", "12"),
            (r"[[:word:]]+", "-a_1-", "a_1"),
            (r"[[:alnum:][:blank:]]+", "-a 1-", "a 1"),
            (r"[[:xdigit:]]+", "xyzBEEF", "BEEF"),
            (r"\pN+", "a12", "12"),
            (r"\p{L}+", "1äß2", "äß"),
            (r"\p{Greek}+", "aαβγb", "αβγ"),
            (r"\p{^Greek}+", "αab", "ab"),
            (r"\PN+", "1ab", "ab"),
            (r"\P{Greek}+", "αab", "ab"),
            (r"\P{^Greek}+", "abα", "α"),
            (r"\p{Lu}\p{Ll}+", "aBcd", "Bcd"),
            (r"\p{Han}", "a中", "中"),
            (r"\p{Any}", "x", "x"),
            (r"[\p{Greek}\d]+", "aα1", "α1"),
            (r"[^\p{Greek}]+", "αa1", "a1"),
            (r"[\pL\pN]+", "-ä1-", "ä1"),
            ("xy|z", "az", "z"),
            ("x*y+z?", "xxyz", "xxyz"),
            ("x{2,3}y{2,}z{2}", "xxyyzz", "xxyyzz"),
            ("x*?y+?z??", "xyyz", "xy"),
            ("x{2,3}?", "xxx", "xx"),
            ("(a)(?P<n>b)(?<m>c)(?:d)", "abcd", "abcd"),
            ("(?i)AB(?-i:c)", "abc", "abc"),
            ("(?im:^b$)", "a\nB", "B"),
            ("(?s)a.b", "a\nb", "a\nb"),
            ("(?U)a+", "aaa", "a"),
            ("^a$", "a", "a"),
            (r"\Aa\z", "a", "a"),
            (r"\bcat\b", "a cat", "cat"),
            (r"a\Bb", "ab", "ab"),
            (r"\a\f\t\n\r\v", "\x07\x0c\t\n\r\x0b", "\x07\x0c\t\n\r\x0b"),
            (r"\*\+\?\.\-\/\_\!\ \@", "*+?.-/_! @", "*+?.-/_! @"),
            (r"\123", "S", "S"),
            (r"\0", "\0", "\0"),
            (r"\08", "\x008", "\x008"),
            (r"\1234", "S4", "S4"),
            (r"[\101-\103]+", "xABC", "ABC"),
            (r"\x7F", "\x7f", "\x7f"),
            (r"\x{10FFFF}", "\u{10ffff}", "\u{10ffff}"),
            (r"\x{4E2D}+", "a中中", "中中"),
            (r"[\x{4E00}-\x{9FFF}]+", "a中文", "中文"),
            (r"\x{41}{2}", "AA", "AA"),
            (r"\Qa.b{\E", "a.b{", "a.b{"),
            (r"\Q.*", "x.*", ".*"),
            (r"a\Eb", "ab", "ab"),
            ("[]a]+", "]a", "]a"),
            ("[a-]+", "a-", "a-"),
            (r"\p{Greek}{2}", "αβ", "αβ"),
        ] {
            let regex = compile(pattern).unwrap_or_else(|why| panic!("{pattern}: {why}"));
            assert_eq!(regex.find(text).map(|m| m.as_str()), Some(found), "{pattern} on {text}");
        }
        for (pattern, advice) in [
            (r"a\Cb", "(?s:.)"),
            (r"a\Z", r"\z"),
            (r"(a)\1", "octal"),
            (r"\8", "octal"),
            ("(?=x)", "RE2"),
            ("(?!x)", "instead"),
            ("(?<=x)y", "group"),
            ("(?<!x)y", "instead"),
            ("(?>x)", "(?:"),
            (r"(?P<n>a)(?P=n)", "referred"),
            (r"\p{", r"\pL"),
            (r"\p{Gr eek}", r"\p{Greek}"),
            (r"\x{41", r"\x{4E2D}"),
            (r"\R", r"\r\n"),
            (r"\h", r"[ \t]"),
        ] {
            let why = compile(pattern).unwrap_err();
            assert!(why.contains(advice), "{pattern}: {why}");
        }
        assert!(compile(r"\p{Klingon}").is_err());
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
