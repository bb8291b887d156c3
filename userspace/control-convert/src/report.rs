//! What was not translated, told so that somebody can finish the work by hand.

use base_text::{escaped, quoted};
use std::collections::HashSet;
use std::fmt;
use std::rc::Rc;

/// How much of a line is missing from the documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Manner {
    /// What it asked for is not done.
    Lost,
    /// It is done, and not quite as it was.
    Differs,
    /// It is not needed here: what it is for is done in another way, or always.
    Needless,
}

/// A line that has no exact counterpart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Left {
    pub file: Rc<str>,
    pub line: u32,
    /// The line as it was written, shortened.
    pub directive: String,
    pub manner: Manner,
    pub why: String,
    /// What to do in its place; empty where nothing can be done.
    pub instead: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub left: Vec<Left>,
    /// Lines that were too many to be told one by one.
    pub more: usize,
    /// Those that are told, so that none is told twice.
    known: HashSet<Left>,
}

/// Lines told one by one, at most.
const LEFT_MAX: usize = 10_000;

/// Characters of a directive that are shown.
const SHOWN: usize = 80;

impl Report {
    pub fn add(&mut self, file: &Rc<str>, line: u32, directive: &str, manner: Manner, why: &str, instead: &str) {
        let entry = Left {
            file: file.clone(),
            line,
            directive: shortened(directive),
            manner,
            why: why.to_owned(),
            instead: instead.to_owned(),
        };
        if self.known.contains(&entry) {
            return;
        }
        if self.left.len() >= LEFT_MAX {
            self.more += 1;
        } else {
            self.known.insert(entry.clone());
            self.left.push(entry);
        }
    }

    /// By file and line.
    pub fn sort(&mut self) {
        self.left.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    }

    pub fn count(&self, manner: Manner) -> usize {
        self.left.iter().filter(|left| left.manner == manner).count()
    }
}

fn shortened(directive: &str) -> String {
    match directive.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &directive[..end]),
        None => directive.to_owned(),
    }
}

/// One line for each, and one with their number.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for left in &self.left {
            let manner = match left.manner {
                Manner::Lost => "not translated",
                Manner::Differs => "differs",
                Manner::Needless => "not needed",
            };
            let (file, directive) = (escaped(&left.file), quoted(&left.directive));
            write!(f, "{file}:{}: {directive}: {manner}: {}", left.line, escaped(&left.why))?;
            match left.instead.as_str() {
                "" => writeln!(f)?,
                instead => writeln!(f, "; {}", escaped(instead))?,
            }
        }
        let [lost, differs, needless] =
            [Manner::Lost, Manner::Differs, Manner::Needless].map(|manner| self.count(manner));
        write!(f, "{lost} not translated, {differs} differ, {needless} not needed")?;
        if self.more > 0 { write!(f, "; {} more are not shown", self.more) } else { Ok(()) }
    }
}
