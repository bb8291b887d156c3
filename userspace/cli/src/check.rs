//! `check`: what the server would say, said without one, and where in the file.
//!
//! A line is `FILE:LINE:COLUMN: NAME: what is wrong`, as compilers write it, so that editors lead there. The place is that of the value, of
//! the key where the key is wrong, and of what a missing one is missing in. Everything that can be found in all the files is told at once,
//! in the order of the files: what is wrong with one document, or with one part of it, hides nothing of the others.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base_model::document::check_name;
use base_model::kinds::LEGACY_PIPELINE;
use base_model::places::{Places, Position, places};
use base_model::{Beside, Document, Findings, Object, Outline, Problem, Warning, yaml};
use control_api::{CUSTOM_BATCH_FIELDS, CUSTOM_KIND_FIELDS, CustomBatch, CustomKind, CustomRules};
use serde_json::Value;

use crate::catalog;
use crate::documents::{Sort, shown, text};
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
    let kinds = found.iter().filter(|document| Sort::of(&document.kind) == Sort::CustomKind);
    let kinds = kinds.filter_map(|document| CustomKind::read(&document.value).ok());
    let kinds: HashMap<String, CustomKind> = kinds.map(|kind| (kind.name.clone(), kind)).collect();
    let mut outlines = Vec::new();
    let mut looked: Vec<(&Placed, Option<Object>, Findings)> = Vec::new();
    let mut taken: HashMap<(bool, &str), &Placed> = HashMap::new();
    for document in &found {
        let sort = Sort::of(&document.kind);
        // Documents of custom data are named after a kind of it, which may have several.
        if sort != Sort::CustomData && !document.name.is_empty() {
            // Objects share their names whatever their kinds are.
            let other = *taken.entry((sort == Sort::Object, document.name.as_str())).or_insert(document);
            if !std::ptr::eq(other, document) {
                let message = format!("taken by another document, in {}", other.at_name());
                let problem = Problem::new("name", message).text(&document.name);
                let problem = problem.advice("give each a name of its own");
                told.problems.push(document.problem(&problem));
            }
        }
        if sort != Sort::Object {
            let mut findings = Findings::default();
            check_custom(document, sort, &kinds, &mut findings);
            told.take(document, findings);
            continue;
        }
        let (object, findings) = Object::look(&document.value, catalog::filters(), SystemTime::now(), |_| None);
        match &object {
            Some(object) if findings.problems.is_empty() => outlines.push(Outline::of(object)),
            // It is there, if not as it should be: what leads to it leads somewhere.
            _ => outlines.push(Outline {
                name: document.name.clone(),
                kind: if document.kind == LEGACY_PIPELINE { "Pipeline".to_owned() } else { document.kind.clone() },
                claim: None,
                prefixes: 0,
                backends: 0,
                servers: BTreeSet::new(),
            }),
        }
        looked.push((document, object, findings));
    }
    let beside = Beside::new(&outlines);
    for (document, object, mut findings) in looked {
        let together = object.as_ref().map(|object| beside.check(object)).unwrap_or_default();
        findings.extend_apart(together);
        told.take(document, findings);
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

/// What the server will say of custom data, as far as it goes without the kinds that only the cluster has.
fn check_custom(document: &Placed, sort: Sort, kinds: &HashMap<String, CustomKind>, findings: &mut Findings) {
    let value = &document.value;
    let fields = if sort == Sort::CustomKind { &CUSTOM_KIND_FIELDS[..] } else { &CUSTOM_BATCH_FIELDS };
    for key in value.as_object().into_iter().flat_map(|map| map.keys()) {
        if !fields.contains(&key.as_str()) {
            // These are read as they are spelled.
            let meant = fields.iter().find(|known| known.eq_ignore_ascii_case(key));
            let meant = meant.map(|known| format!("; did you mean {known}?")).unwrap_or_default();
            findings.warn(key, format!("unknown field, ignored{meant}"));
        }
    }
    if sort == Sort::CustomKind {
        findings.problems.extend(CustomKind::read(value).err().unwrap_or_default());
        return;
    }
    findings.problems.extend(check_name(&document.name, "name"));
    match CustomBatch::read(value) {
        Err(problems) => findings.problems.extend(problems),
        Ok(batch) => {
            let rules = kinds.get(&document.name).and_then(|kind| CustomRules::of(kind).ok());
            findings.problems.extend(batch.check(rules.as_ref()));
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
