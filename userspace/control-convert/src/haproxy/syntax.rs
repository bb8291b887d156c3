//! HAProxy's syntax: sections of lines of words.

use crate::Unreadable;
use std::rc::Rc;

/// One line in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub words: Vec<String>,
    pub file: Rc<str>,
    pub line: u32,
}

impl Line {
    pub fn word(&self, number: usize) -> &str {
        self.words.get(number).map_or("", String::as_str)
    }

    pub fn text(&self) -> String {
        self.words.join(" ")
    }

    /// Whether it begins with these words.
    pub fn is(&self, words: &[&str]) -> bool {
        self.words.len() >= words.len() && self.words.iter().zip(words).all(|(a, b)| a == b)
    }

    /// The word after this one.
    pub fn after(&self, name: &str) -> Option<&str> {
        let at = self.words.iter().position(|word| word == name)?;
        self.words.get(at + 1).map(String::as_str)
    }

    pub fn has(&self, name: &str) -> bool {
        self.words.iter().any(|word| word == name)
    }
}

/// `frontend NAME` and the lines below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    pub kind: String,
    pub name: String,
    pub head: Line,
    pub lines: Vec<Line>,
}

const KINDS: &[&str] = &[
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "userlist",
    "peers",
    "resolvers",
    "cache",
    "mailers",
    "program",
    "ring",
    "http-errors",
    "log-forward",
    "fcgi-app",
    "crt-store",
    "traces",
];

/// Lines of a configuration, at most.
const LINES_MAX: usize = 500_000;

pub fn read_text(text: &str, file: &str) -> Result<Vec<Section>, Unreadable> {
    let file: Rc<str> = file.into();
    let wrong = |line, why: &str| Unreadable { file: file.to_string(), line, why: why.to_owned() };
    let mut sections: Vec<Section> = Vec::new();
    for (number, text) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        let number = u32::try_from(number + 1).unwrap_or(u32::MAX);
        if number as usize > LINES_MAX {
            return Err(wrong(number, &format!("more than {LINES_MAX} lines")));
        }
        let words = words(text).map_err(|why| wrong(number, why))?;
        let Some(first) = words.first() else { continue };
        let begins = KINDS.contains(&first.as_str());
        let line = Line { words, file: file.clone(), line: number };
        if begins {
            let (kind, name) = (line.word(0).to_owned(), line.word(1).to_owned());
            sections.push(Section { kind, name, head: line, lines: Vec::new() });
        } else {
            match sections.last_mut() {
                Some(section) => section.lines.push(line),
                // Directives of the reader's (`.if`) and lines before any section.
                None => {
                    return Err(wrong(
                        number,
                        "a line before any section; global, defaults, frontend, backend or listen begin one",
                    ));
                }
            }
        }
    }
    Ok(sections)
}

/// Words of a line: quoted, escaped, and up to a comment.
fn words(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '#' => break,
            '\\' => word.get_or_insert_default().extend(rest.next()),
            '"' | '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next() {
                        None => return Err("a quote that nothing closes"),
                        Some(end) if end == c => break,
                        Some('\\') if c == '"' => word.extend(rest.next()),
                        Some(inner) => word.push(inner),
                    }
                }
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_words() {
        assert_eq!(words("a  b\\ c 'd e' \"f\\\"g\" # h").unwrap(), ["a", "b c", "d e", "f\"g"]);
        assert!(words("a 'b").is_err() && words("# a").unwrap().is_empty());
    }
}
