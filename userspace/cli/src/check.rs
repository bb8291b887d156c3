//! `check`: what the server would say, said without one, and where in the file.
//!
//! A line is `FILE:LINE:COLUMN: NAME: what is wrong`, as compilers write it, so that editors lead there. The place is that of the value, of
//! the key where the key is wrong, and of what a missing one is missing in. Everything that can be found in all the files is told at once,
//! in the order of the files: what is wrong with one document, or with one part of it, hides nothing of the others.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base_model::document::check_name;
use base_model::places::{Places, Position, places};
use base_model::{Beside, Document, Findings, Object, Outline, Problem, Warning, yaml};
use serde_json::Value;

use crate::catalog;
use crate::documents::{shown, text};
use crate::output::print;

/// A document, and where it and what is in it stand.
struct Placed {
    /// As people call it, and which of those given it is.
    file: (usize, String),
    name: String,
    kind: String,
    value: Value,
    places: Option<Places>,
}

/// What is to be said, each with its place.
#[derive(Default)]
struct Told {
    problems: Vec<Line>,
    warnings: Vec<Line>,
}

struct Line {
    file: usize,
    place: Option<Position>,
    text: String,
}

pub fn check(files: &[PathBuf], strict: bool) -> Result<(), String> {
    let mut told = Told::default();
    let found: Vec<Placed> = files.iter().enumerate().flat_map(|(n, file)| read(n, file, &mut told.problems)).collect();
    let mut outlines = Vec::new();
    let mut objects: Vec<(&Placed, Object)> = Vec::new();
    let mut taken: HashMap<(bool, &str), &Placed> = HashMap::new();
    for document in &found {
        let is_object = !CUSTOM.contains(&document.kind.as_str());
        if document.kind != CUSTOM_DATA && !document.name.is_empty() {
            // Objects share their names whatever their kinds are.
            let other = *taken.entry((is_object, document.name.as_str())).or_insert(document);
            if !std::ptr::eq(other, document) {
                let message = format!("taken by another document, in {}", other.at_name());
                let problem = Problem::new("name", message).text(&document.name);
                let problem = problem.advice("give each a name of its own");
                told.problems.push(document.problem(&problem));
            }
        }
        if !is_object {
            let mut findings = Findings::default();
            check_custom(document, &mut findings);
            told.take(document, findings);
            continue;
        }
        let (object, findings) = Object::look(&document.value, catalog::filters(), SystemTime::now(), |_| None);
        told.take(document, findings);
        match object {
            Some(object) => {
                outlines.push(Outline::of(&object));
                objects.push((document, object));
            }
            // It is there, if not as it should be: what leads to it leads somewhere.
            None => outlines.push(Outline {
                name: document.name.clone(),
                kind: document.kind.clone(),
                claim: None,
                prefixes: 0,
            }),
        }
    }
    let beside = Beside::new(&outlines);
    for (document, object) in &objects {
        told.take(document, beside.check(object));
    }
    let Told { mut problems, mut warnings } = told;
    if strict {
        problems.append(&mut warnings);
    }
    for lines in [&mut warnings, &mut problems] {
        // What one document is told stays in its order where the places are the same.
        lines.sort_by_key(|line| (line.file, line.place));
    }
    for warning in &warnings {
        eprintln!("warning: {}", warning.text);
    }
    if !problems.is_empty() {
        let count = if problems.len() == 1 { "1 problem".to_owned() } else { format!("{} problems", problems.len()) };
        let lines: Vec<&str> = problems.iter().map(|line| line.text.as_str()).collect();
        return Err(format!("{count}\n{}", lines.join("\n")));
    }
    print(&format!("{} documents are fine", found.len()).replace("1 documents are", "1 document is"));
    Ok(())
}

/// Kinds of documents that are no objects.
const CUSTOM: [&str; 2] = ["CustomDataKind", CUSTOM_DATA];

/// Its documents are named after a kind of custom data, which may have several.
const CUSTOM_DATA: &str = "CustomData";

/// What can be said of custom data without the cluster that has the rest of it.
fn check_custom(document: &Placed, findings: &mut Findings) {
    if let Some(problem) = check_name(&document.name, "name") {
        findings.problem(problem);
    }
    for (field, is_good, wanted) in [
        ("idField", Value::is_string as fn(&Value) -> bool, "the name of a field"),
        ("jsonSchema", Value::is_object, "a JSON Schema, which is a mapping"),
        ("rebuild", Value::is_boolean, "true or false"),
        ("delete", Value::is_array, "a list of ids"),
        ("list", Value::is_array, "a list of items"),
    ] {
        if let Some(value) = document.value.get(field).filter(|value| !value.is_null() && !is_good(value)) {
            findings.problem(Problem::new(field, "not what it should be").value(value).accepted(wanted));
        }
    }
}

/// The documents of a file. What cannot be read is a problem as others are.
fn read(number: usize, file: &Path, problems: &mut Vec<Line>) -> Vec<Placed> {
    let shown = shown(file);
    let mut problem = |place: Option<Position>, text: String| problems.push(Line { file: number, place, text });
    let text = match text(file) {
        Ok(text) => text,
        Err(why) => {
            problem(None, why);
            return Vec::new();
        }
    };
    let mut all = Vec::new();
    let parts = yaml::parse_parts(&text);
    let broken = parts.iter().any(|part| part.documents.is_err());
    for part in parts {
        match part.documents {
            Err(error) if error.line > 0 => {
                let place = Position { line: error.line, column: error.column };
                problem(Some(place), format!("{shown}:{place}: {}", error.message));
            }
            Err(error) => problem(None, format!("{shown}: {error}")),
            Ok(documents) => {
                let places = places(part.text);
                let known = places.len() == documents.len();
                let places = places.into_iter().map(|places| Some(places.below(part.lines_above)));
                let places = places.filter(|_| known).chain(std::iter::repeat_with(|| None));
                all.extend(documents.into_iter().zip(places).map(|(value, places)| {
                    let read = Document::parse_with_problems(&value).0;
                    let (name, kind) = read.map(|read| (read.name, read.kind)).unwrap_or_default();
                    Placed { file: (number, shown.clone()), name, kind, value, places }
                }));
            }
        }
    }
    if all.is_empty() && !broken {
        problem(None, format!("{shown}: no document in it"));
    }
    all
}

impl Told {
    fn take(&mut self, document: &Placed, findings: Findings) {
        self.problems.extend(findings.problems.iter().map(|problem| document.problem(problem)));
        self.warnings.extend(findings.warnings.iter().map(|warning| document.warning(warning)));
    }
}

impl Placed {
    fn problem(&self, problem: &Problem) -> Line {
        // Without a value it is the key that is wrong, or not there.
        self.line(&problem.path, problem.value.is_none(), problem)
    }

    fn warning(&self, warning: &Warning) -> Line {
        self.line(&warning.path, true, warning)
    }

    fn line(&self, path: &str, key: bool, what: &dyn Display) -> Line {
        let position = self.places.as_ref().and_then(|places| places.find(path, key));
        let place = self.at(position);
        let text =
            if self.name.is_empty() { format!("{place}: {what}") } else { format!("{place}: {}: {what}", self.name) };
        Line { file: self.file.0, place: position, text }
    }

    fn at_name(&self) -> String {
        self.at(self.places.as_ref().and_then(|places| places.find("name", false)))
    }

    fn at(&self, place: Option<Position>) -> String {
        match place {
            Some(place) => format!("{}:{place}", self.file.1),
            None => self.file.1.clone(),
        }
    }
}
