//! nginx's syntax: words, `;`, and blocks in braces, with files that are included.

use crate::Unreadable;
use crate::files::{Files, has_wildcard};
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::Chars;

/// One directive with its words and what stands in its braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    pub name: String,
    pub words: Vec<String>,
    pub block: Option<Vec<Directive>>,
    pub file: Rc<str>,
    pub line: u32,
}

impl Directive {
    /// A word by its number, or nothing.
    pub fn word(&self, number: usize) -> &str {
        self.words.get(number).map_or("", String::as_str)
    }

    /// Itself without what stands in its braces, which may be a whole site.
    pub fn head(&self) -> Directive {
        let Directive { name, words, file, line, .. } = self;
        Directive { name: name.clone(), words: words.clone(), block: None, file: file.clone(), line: *line }
    }

    /// As it was written, without what stands in its braces.
    pub fn text(&self) -> String {
        let mut text = self.name.clone();
        for word in &self.words {
            text.push(' ');
            text.push_str(word);
        }
        text
    }
}

/// Blocks in blocks, at most.
const DEPTH_MAX: usize = 32;

/// Files read for one configuration, and includes in includes.
const FILES_MAX: usize = 1_000;
const INCLUDES_DEEP: usize = 16;

/// Directives of all files together.
const DIRECTIVES_MAX: usize = 500_000;

/// Reads a configuration and all it includes.
pub fn read_file(path: &Path, files: &dyn Files) -> Result<Vec<Directive>, Unreadable> {
    let mut reading = Reading {
        files: Some(files),
        directory: path.parent().unwrap_or(Path::new("")).to_owned(),
        read: 0,
        directives: 0,
    };
    reading.file(path, None, 0, 0)
}

/// Reads a text that includes nothing; an `include` stays what it is.
pub fn read_text(text: &str) -> Result<Vec<Directive>, Unreadable> {
    let mut reading = Reading { files: None, directory: PathBuf::new(), read: 0, directives: 0 };
    reading.text(text, &"text".into(), 0, 0)
}

struct Reading<'a> {
    files: Option<&'a dyn Files>,
    directory: PathBuf,
    read: usize,
    directives: usize,
}

/// A part of the text.
enum Token {
    Word(String),
    End,
    Open,
    Close,
}

struct Lexer<'a> {
    rest: Peekable<Chars<'a>>,
    line: u32,
}

impl Reading<'_> {
    fn file(
        &mut self,
        path: &Path,
        by: Option<&Directive>,
        depth: usize,
        includes: usize,
    ) -> Result<Vec<Directive>, Unreadable> {
        let shown: Rc<str> = path.display().to_string().into();
        let wrong = |why: String| match by {
            Some(by) => Unreadable { file: by.file.to_string(), line: by.line, why: format!("include {shown}: {why}") },
            None => Unreadable { file: shown.to_string(), line: 0, why },
        };
        self.read += 1;
        if self.read > FILES_MAX {
            return Err(wrong(format!("more than {FILES_MAX} files")));
        }
        if includes > INCLUDES_DEEP {
            return Err(wrong(format!("more than {INCLUDES_DEEP} files deep; does a file include itself?")));
        }
        let Some(files) = self.files else { return Ok(Vec::new()) };
        let bytes = files.read(path).map_err(|why| wrong(format!("cannot be read: {why}")))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.text(&text, &shown, depth, includes)
    }

    fn text(
        &mut self,
        text: &str,
        file: &Rc<str>,
        depth: usize,
        includes: usize,
    ) -> Result<Vec<Directive>, Unreadable> {
        let mut lexer = Lexer { rest: text.strip_prefix('\u{feff}').unwrap_or(text).chars().peekable(), line: 1 };
        let directives = self.block(&mut lexer, file, depth, includes, true)?;
        Ok(directives)
    }

    fn block(
        &mut self,
        lexer: &mut Lexer<'_>,
        file: &Rc<str>,
        depth: usize,
        includes: usize,
        top: bool,
    ) -> Result<Vec<Directive>, Unreadable> {
        let opened = lexer.line;
        let wrong = |line, why: &str| Unreadable { file: file.to_string(), line, why: why.to_owned() };
        if depth > DEPTH_MAX {
            return Err(wrong(opened, &format!("blocks are more than {DEPTH_MAX} deep")));
        }
        let mut directives = Vec::new();
        let mut words: Vec<String> = Vec::new();
        let mut began = 0;
        loop {
            let token = lexer.next().map_err(|(line, why)| wrong(line, why))?;
            match token {
                Some(Token::Word(word)) => {
                    if words.is_empty() {
                        began = lexer.line;
                    }
                    words.push(word);
                }
                Some(Token::End) if words.is_empty() => return Err(wrong(lexer.line, "a ; with nothing before it")),
                Some(Token::Open) if words.is_empty() => return Err(wrong(lexer.line, "a { with nothing before it")),
                Some(Token::End | Token::Open) => {
                    self.directives += 1;
                    if self.directives > DIRECTIVES_MAX {
                        return Err(wrong(lexer.line, &format!("more than {DIRECTIVES_MAX} directives")));
                    }
                    let mut words = std::mem::take(&mut words);
                    let name = words.remove(0);
                    let mut directive = Directive { name, words, block: None, file: file.clone(), line: began };
                    if matches!(token, Some(Token::Open)) {
                        directive.block = Some(if directive.name.ends_with("_by_lua_block") {
                            lexer.skip_braces().map_err(|(line, why)| wrong(line, why))?;
                            Vec::new()
                        } else {
                            self.block(lexer, file, depth + 1, includes, false)?
                        });
                    }
                    if directive.name == "include" && directive.block.is_none() && self.files.is_some() {
                        directives.extend(self.include(&directive, depth, includes)?);
                    } else {
                        directives.push(directive);
                    }
                }
                Some(Token::Close) if !words.is_empty() => {
                    return Err(wrong(lexer.line, &format!("a }} before the ; of {}", base_text::quoted(&words[0]))));
                }
                Some(Token::Close) if top => return Err(wrong(lexer.line, "a } that closes nothing")),
                Some(Token::Close) => return Ok(directives),
                None if !words.is_empty() => {
                    return Err(wrong(began, &format!("{} has no ; at its end", base_text::quoted(&words[0]))));
                }
                None if top => return Ok(directives),
                None => return Err(wrong(opened, "a { that nothing closes")),
            }
        }
    }

    fn include(&mut self, directive: &Directive, depth: usize, includes: usize) -> Result<Vec<Directive>, Unreadable> {
        let Some(files) = self.files else { return Ok(Vec::new()) };
        let path = self.directory.join(directive.word(0));
        let paths = if has_wildcard(directive.word(0)) { files.matching(&path) } else { vec![path] };
        let mut found = Vec::new();
        for path in paths {
            // Lists of types are long, and of no use here.
            if path.file_name().is_some_and(|name| name == "mime.types") {
                continue;
            }
            found.extend(self.file(&path, Some(directive), depth, includes + 1)?);
        }
        Ok(found)
    }
}

impl Lexer<'_> {
    fn step(&mut self) -> Option<char> {
        let c = self.rest.next();
        self.line += u32::from(c == Some('\n'));
        c
    }

    fn next(&mut self) -> Result<Option<Token>, (u32, &'static str)> {
        loop {
            match self.rest.peek() {
                None => return Ok(None),
                Some(c) if c.is_whitespace() => {
                    self.step();
                }
                Some('#') => {
                    while self.rest.peek().is_some_and(|c| *c != '\n') {
                        self.step();
                    }
                }
                Some(_) => break,
            }
        }
        match self.rest.peek().copied() {
            Some(';') => self.step().map(|_| Ok(Some(Token::End))).unwrap_or(Ok(None)),
            Some('{') => self.step().map(|_| Ok(Some(Token::Open))).unwrap_or(Ok(None)),
            Some('}') => self.step().map(|_| Ok(Some(Token::Close))).unwrap_or(Ok(None)),
            Some(quote @ ('"' | '\'')) => {
                self.step();
                self.quoted(quote).map(|word| Some(Token::Word(word)))
            }
            _ => Ok(Some(Token::Word(self.bare()))),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, (u32, &'static str)> {
        let (began, mut word) = (self.line, String::new());
        loop {
            match self.step() {
                None => return Err((began, "a quote that nothing closes")),
                Some(c) if c == quote => return Ok(word),
                Some('\\') => self.escaped(&mut word),
                Some(c) => word.push(c),
            }
        }
    }

    fn bare(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self.rest.peek().copied() {
            match c {
                ';' | '{' if !(c == '{' && word.ends_with('$')) => break,
                '{' => {
                    // `${name}` is one word.
                    while let Some(c) = self.step() {
                        word.push(c);
                        if c == '}' || c == '\n' {
                            break;
                        }
                    }
                }
                '\\' => {
                    self.step();
                    self.escaped(&mut word);
                }
                c if c.is_whitespace() => break,
                c => {
                    word.push(c);
                    self.step();
                }
            }
        }
        word
    }

    /// After a backslash: it escapes quotes and itself, writes spaces, and stays before anything else, for expressions.
    fn escaped(&mut self, word: &mut String) {
        match self.step() {
            Some(c @ ('"' | '\'' | '\\')) => word.push(c),
            Some('t') => word.push('\t'),
            Some('r') => word.push('\r'),
            Some('n') => word.push('\n'),
            Some(c) => {
                word.push('\\');
                word.push(c);
            }
            None => word.push('\\'),
        }
    }

    /// To the brace that closes the one just read, in a language that is not nginx's.
    fn skip_braces(&mut self) -> Result<(), (u32, &'static str)> {
        let (began, mut open) = (self.line, 1usize);
        while let Some(c) = self.step() {
            match c {
                '{' => open += 1,
                '}' => open -= 1,
                quote @ ('"' | '\'') => loop {
                    match self.step() {
                        Some('\\') => drop(self.step()),
                        None => break,
                        Some(c) if c == quote || c == '\n' => break,
                        Some(_) => {}
                    }
                },
                _ => {}
            }
            if open == 0 {
                return Ok(());
            }
        }
        Err((began, "a { that nothing closes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        fn show(directives: &[Directive]) -> Vec<String> {
            let show = |d: &Directive| {
                let block = d.block.as_ref().map(|block| format!("{{{}}}", show(block).join(";")));
                format!("{}@{}{}", d.text(), d.line, block.unwrap_or_default())
            };
            directives.iter().map(show).collect()
        }
        match read_text(text) {
            Ok(directives) => show(&directives),
            Err(error) => vec![error.to_string()],
        }
    }

    #[test]
    fn words_blocks_and_comments() {
        for (text, expected) in [
            ("a b c;", vec!["a b c@1"]),
            ("# a comment\na 'b c' \"d\\\"e\";", vec!["a b c d\"e@2"]),
            ("a { b; c { d; } }", vec!["a@1{b@1;c@1{d@1}}"]),
            ("location ~ ^/re/[0-9]+$ { x; }", vec!["location ~ ^/re/[0-9]+$@1{x@1}"]),
            (r"location ~ \.php$ {}", vec![r"location ~ \.php$@1{}"]),
            ("a ${host}x;", vec!["a ${host}x@1"]),
            ("a#b;", vec!["a#b@1"]),
            ("content_by_lua_block { if x then y = '}' end }\nb;", vec!["content_by_lua_block@1{}", "b@2"]),
            ("a", vec!["text:1: \"a\" has no ; at its end"]),
            ("\na {", vec!["text:2: a { that nothing closes"]),
            ("}", vec!["text:1: a } that closes nothing"]),
            ("a { b }", vec!["text:1: a } before the ; of \"b\""]),
            (";", vec!["text:1: a ; with nothing before it"]),
            ("a 'b", vec!["text:1: a quote that nothing closes"]),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn deep_blocks_are_refused() {
        let deep = "a {".repeat(100_000);
        assert!(read(&deep)[0].contains("deep"));
    }
}
