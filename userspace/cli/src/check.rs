//! `check`: what the server would say, said without one, and where in the file.
//!
//! A line is `FILE:LINE:COLUMN: NAME: what is wrong`, as compilers write it, so that editors lead there. The place is that of the value, of
//! the key where the key is wrong, and of what a missing one is missing in.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base_model::places::{Places, Position, places};
use base_model::{Beside, Object, Outline, Problem, Warning, yaml};
use base_text::quoted;
use serde_json::Value;

use crate::catalog;
use crate::documents::{shown, text, word};
use crate::output::print;

/// A document, and where it and what is in it stand.
struct Placed {
    file: String,
    value: Value,
    places: Option<Places>,
}

pub fn check(files: &[PathBuf], strict: bool) -> Result<(), String> {
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    let found: Vec<Placed> = files.iter().flat_map(|file| read(file, &mut problems)).collect();
    let mut objects: Vec<(&Placed, Object)> = Vec::new();
    let mut taken: HashMap<&str, &Placed> = HashMap::new();
    for document in &found {
        let (name, kind) = (word(&document.value, "name"), word(&document.value, "kind"));
        if matches!(kind, "CustomDataKind" | "CustomData") {
            continue;
        }
        if let Some(other) = taken.get(name) {
            let message = format!("{} is taken by another document, in {}", quoted(&name), other.place("name", false));
            problems.push(document.problem(&Problem::new("name", message)));
        }
        match Object::admit(&document.value, catalog::filters(), SystemTime::now(), |_| None) {
            Ok(object) => {
                warnings.extend(object.warnings.iter().map(|warning| document.warning(warning)));
                taken.entry(name).or_insert(document);
                objects.push((document, object));
            }
            Err(found) => problems.extend(found.iter().map(|problem| document.problem(problem))),
        }
    }
    let outlines: Vec<Outline> = objects.iter().map(|(_, object)| Outline::of(object)).collect();
    let beside = Beside::new(&outlines);
    for (document, object) in &objects {
        let together = beside.check(object);
        problems.extend(together.problems.iter().map(|problem| document.problem(problem)));
        warnings.extend(together.warnings.iter().map(|warning| document.warning(warning)));
    }
    if strict {
        problems.append(&mut warnings);
    }
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    if !problems.is_empty() {
        let count = if problems.len() == 1 { "1 problem".to_owned() } else { format!("{} problems", problems.len()) };
        return Err(format!("{count}\n{}", problems.join("\n")));
    }
    print(&format!("{} documents are fine", found.len()).replace("1 documents are", "1 document is"));
    Ok(())
}

/// The documents of a file. One that cannot be read is a problem as others are.
fn read(file: &Path, problems: &mut Vec<String>) -> Vec<Placed> {
    let shown = shown(file);
    let text = match text(file) {
        Ok(text) => text,
        Err(why) => {
            problems.push(why);
            return Vec::new();
        }
    };
    match yaml::parse_documents(&text) {
        Err(error) if error.line > 0 => {
            let place = Position { line: error.line, column: error.column };
            problems.push(format!("{shown}:{place}: {}", error.message));
            Vec::new()
        }
        Err(error) => {
            problems.push(format!("{shown}: {error}"));
            Vec::new()
        }
        Ok(documents) if documents.is_empty() => {
            problems.push(format!("{shown}: no document in it"));
            Vec::new()
        }
        Ok(documents) => {
            let places = places(&text);
            let known = places.len() == documents.len();
            let places = places.into_iter().map(Some).filter(|_| known).chain(std::iter::repeat_with(|| None));
            let placed = |(value, places)| Placed { file: shown.clone(), value, places };
            documents.into_iter().zip(places).map(placed).collect()
        }
    }
}

impl Placed {
    fn problem(&self, problem: &Problem) -> String {
        // Without a value it is the key that is wrong, or not there.
        self.line(&problem.path, problem.value.is_none(), problem)
    }

    fn warning(&self, warning: &Warning) -> String {
        self.line(&warning.path, true, warning)
    }

    fn line(&self, path: &str, key: bool, what: &dyn Display) -> String {
        let (place, name) = (self.place(path, key), word(&self.value, "name"));
        if name.is_empty() { format!("{place}: {what}") } else { format!("{place}: {name}: {what}") }
    }

    fn place(&self, path: &str, key: bool) -> String {
        match self.places.as_ref().and_then(|places| places.find(path, key)) {
            Some(place) => format!("{}:{place}", self.file),
            None => self.file.clone(),
        }
    }
}
