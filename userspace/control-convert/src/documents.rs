//! Documents under construction: names that are free, and the text of the whole.

use serde_json::Value;
use std::collections::BTreeSet;

/// Names of objects, each given once.
#[derive(Debug, Default)]
pub struct Names {
    taken: BTreeSet<String>,
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
        let mut number = 2;
        while !self.taken.insert(free.clone()) {
            free = format!("{name}-{number}");
            number += 1;
        }
        free
    }
}

/// All documents as one text.
pub fn to_yaml(documents: &[Value]) -> String {
    documents.iter().map(base_model::yaml::to_string).collect::<Vec<_>>().join("---\n")
}
