//! `check`: what the server would say, said without one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::SystemTime;

use base_model::{Beside, Object, Outline};
use base_text::quoted;

use crate::catalog;
use crate::documents::{Found, read, word};
use crate::output::print;

pub fn check(files: &[PathBuf], strict: bool) -> Result<(), String> {
    let found = read(files)?;
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    let mut objects: Vec<(&Found, Object)> = Vec::new();
    let mut taken: HashMap<&str, &Found> = HashMap::new();
    for document in &found {
        let place = place(document);
        let (name, kind) = (word(&document.value, "name"), word(&document.value, "kind"));
        if matches!(kind, "CustomDataKind" | "CustomData") {
            continue;
        }
        if let Some(other) = taken.get(name) {
            problems.push(format!(
                "{place}: name: {name} is taken by another document, in {}",
                other.file.display(),
                name = quoted(&name)
            ));
        }
        match Object::admit(&document.value, catalog::filters(), SystemTime::now(), |_| None) {
            Ok(object) => {
                warnings.extend(object.warnings.iter().map(|warning| format!("{place}: {warning}")));
                taken.entry(name).or_insert(document);
                objects.push((document, object));
            }
            Err(found) => problems.extend(found.iter().map(|problem| format!("{place}: {problem}"))),
        }
    }
    let outlines: Vec<Outline> = objects.iter().map(|(_, object)| Outline::of(object)).collect();
    let beside = Beside::new(&outlines);
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
