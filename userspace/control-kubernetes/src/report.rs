//! What is told of an object of Kubernetes: what of it is done, what only nearly, and what not.

use control_api::Kept;
use imbl::OrdMap;
use serde_json::{Value, json};
use std::fmt;

use crate::kinds::Kind;
use crate::object::Key;

/// Statuses that objects are to have, by what they are of. Ten thousand are there at once when all of a cluster is served first, and are
/// held by whoever tells them as well.
pub type Statuses = OrdMap<(Kind, Key), Kept>;

/// What became of a part of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it is written.
    Honoured,
    /// Nearly so; what differs is told.
    Approximated,
    /// Not at all; why, and what to do, is told.
    Refused,
}

impl Grade {
    pub fn word(self) -> &'static str {
        match self {
            Grade::Honoured => "honoured",
            Grade::Approximated => "approximated",
            Grade::Refused => "refused",
        }
    }
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub grade: Grade,
    /// An annotation, or a place in the object.
    pub what: String,
    /// Empty where it is honoured.
    pub told: String,
}

/// One object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub notes: Vec<Note>,
    /// Where it answers: hosts, `*` for any.
    pub hosts: Vec<String>,
}

impl Report {
    pub fn honoured(&mut self, what: &str) {
        self.note(Grade::Honoured, what, String::new());
    }

    pub fn approximated(&mut self, what: &str, told: impl Into<String>) {
        self.note(Grade::Approximated, what, told.into());
    }

    pub fn refused(&mut self, what: &str, told: impl Into<String>) {
        self.note(Grade::Refused, what, told.into());
    }

    fn note(&mut self, grade: Grade, what: &str, told: String) {
        self.notes.push(Note { grade, what: what.to_owned(), told });
    }

    /// The worst of it.
    pub fn grade(&self) -> Grade {
        self.notes.iter().map(|note| note.grade).max().unwrap_or(Grade::Honoured)
    }

    pub fn count(&self, grade: Grade) -> usize {
        self.notes.iter().filter(|note| note.grade == grade).count()
    }

    /// What is not as it is written, in words, line by line.
    pub fn lines(&self) -> Vec<String> {
        let told = self.notes.iter().filter(|note| note.grade != Grade::Honoured);
        told.map(|note| format!("{} is {}: {}", note.what, note.grade, note.told)).collect()
    }

    pub fn json(&self) -> Value {
        let of = |grade: Grade| -> Vec<&Note> { self.notes.iter().filter(|note| note.grade == grade).collect() };
        let told = |grade: Grade| -> Value {
            of(grade).into_iter().map(|note| json!({"what": note.what, "told": note.told})).collect()
        };
        let mut value = json!({"state": self.grade().word(), "hosts": self.hosts});
        let honoured: Vec<&str> = of(Grade::Honoured).into_iter().map(|note| note.what.as_str()).collect();
        if !honoured.is_empty() {
            value["honoured"] = json!(honoured);
        }
        for grade in [Grade::Approximated, Grade::Refused] {
            if self.count(grade) > 0 {
                value[grade.word()] = told(grade);
            }
        }
        value
    }
}
