//! `check`: what the server would say, said without one.

use std::path::PathBuf;
use std::time::SystemTime;

use base_model::Object;
use base_model::object::Beside;

use crate::catalog;
use crate::documents::{Found, read, word};
use crate::output::print;

pub fn check(files: &[PathBuf], strict: bool) -> Result<(), String> {
    let found = read(files)?;
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    let mut objects: Vec<(&Found, Object)> = Vec::new();
    for document in &found {
        let place = place(document);
        let (name, kind) = (word(&document.value, "name"), word(&document.value, "kind"));
        if matches!(kind, "CustomDataKind" | "CustomData") {
            continue;
        }
        if let Some((other, _)) = objects.iter().find(|(_, other)| other.document.name == name) {
            problems.push(format!("{place}: name: {name:?} is taken by another document, in {}", other.file.display()));
        }
        match Object::admit(&document.value, catalog::filters(), SystemTime::now(), |_| None) {
            Ok(object) => {
                warnings.extend(object.warnings.iter().map(|warning| format!("{place}: {warning}")));
                objects.push((document, object));
            }
            Err(found) => problems.extend(found.iter().map(|problem| format!("{place}: {problem}"))),
        }
    }
    let beside = Beside::new(objects.iter().map(|(_, object)| object));
    for (document, object) in &objects {
        let together = beside.check(object);
        problems.extend(together.problems.iter().map(|problem| format!("{}: {problem}", place(document))));
        warnings.extend(together.warnings.iter().map(|warning| format!("{}: {warning}", place(document))));
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

fn place(found: &Found) -> String {
    let name = word(&found.value, "name");
    let file = found.file.display();
    if name.is_empty() { file.to_string() } else { format!("{file}: {name}") }
}
