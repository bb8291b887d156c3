//! Documents under construction: names that are free, and the text of the whole.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Names of objects, each given once.
#[derive(Debug, Default)]
pub struct Names {
    taken: BTreeSet<String>,
    /// The number that the next one of a name gets.
    next: BTreeMap<String, usize>,
}

/// Characters of a name that are made of something written, at most.
const NAME_MAX: usize = 60;

impl Names {
    /// A name made of these words, free and of characters that names may have.
    pub fn give(&mut self, words: &[&str]) -> String {
        let mut name = String::new();
        for c in words.iter().filter(|word| !word.is_empty()).flat_map(|word| word.chars().chain(['-'])) {
            let c = if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
            if name.len() < NAME_MAX && !(c == '-' && (name.is_empty() || name.ends_with('-'))) {
                name.push(c);
            }
        }
        let name = name.trim_end_matches(['-', '.']);
        let name = if name.is_empty() { "converted" } else { name };
        let mut free = name.to_owned();
        // A thousand locations of one name do not try all numbers a thousand times.
        let number = self.next.entry(name.to_owned()).or_insert(2);
        while !self.taken.insert(free.clone()) {
            free = format!("{name}-{number}");
            *number += 1;
        }
        free
    }
}

/// Room for what is made. Blocks inherit from those around them, and servers listen at many places with the same paths: what a short text
/// stands for grows with the product of its parts.
#[derive(Debug)]
pub struct Room {
    left: usize,
    full: bool,
}

/// Paths, headers, servers and addresses of all documents together.
const PARTS_MAX: usize = 1_000_000;

impl Default for Room {
    fn default() -> Room {
        Room { left: PARTS_MAX, full: false }
    }
}

impl Room {
    /// Whether there is room for so many parts more. Once there is none, there is none for fewer either.
    pub fn take(&mut self, parts: usize) -> bool {
        self.full |= parts > self.left;
        self.left -= if self.full { 0 } else { parts };
        !self.full
    }

    /// Why nothing comes of it, where too much would.
    pub fn why_full(&self) -> Option<String> {
        let why = format!("its documents would have more than {PARTS_MAX} parts; convert its servers in several files");
        self.full.then_some(why)
    }
}

/// All documents as one text.
pub fn to_yaml(documents: &[Value]) -> String {
    documents.iter().map(base_model::yaml::to_string).collect::<Vec<_>>().join("---\n")
}
