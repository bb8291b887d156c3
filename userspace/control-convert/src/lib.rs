//! The configurations of other programs as documents, and a report of what could not be translated.
//!
//! Reading order: [`report`] (what is told of what was left out), [`files`] (where texts come from), [`nginx`], [`haproxy`].
//! Nothing is read but through [`Files`], and no input makes it panic, recurse without a bound or grow without one.
#![forbid(unsafe_code)]

pub mod documents;
pub mod files;
pub mod haproxy;
pub mod nginx;
pub mod report;

pub use documents::to_yaml;
pub use files::{Disk, Files};
pub use report::{Left, Manner, Report};

use serde_json::Value;

/// What came of a configuration.
#[derive(Debug, Clone, Default)]
pub struct Converted {
    /// Pipelines first, then what refers to them.
    pub documents: Vec<Value>,
    pub report: Report,
}

/// Why nothing came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    pub file: String,
    /// From 1; 0 where it is about the file as a whole.
    pub line: u32,
    pub why: String,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.why),
            line => write!(f, "{}:{line}: {}", self.file, self.why),
        }
    }
}
