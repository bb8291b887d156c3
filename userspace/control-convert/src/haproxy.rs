//! HAProxy's configuration: frontends as HTTPServers and TCPProxies, backends as Pipelines and pools.
//!
//! What `use_backend` asks for becomes rules in the same order, for both search from the first to the last. Conditions are translated
//! where they are about hosts, paths, methods, headers, parameters or addresses; a rule with any other is left out and told.

mod backend;
mod condition;
mod frontend;
mod syntax;

pub use syntax::{Line, Section, read_text};

use crate::documents::{Names, Room};
use crate::files::Files;
use crate::report::Manner;
use crate::{Converted, Report, Unreadable};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

/// What all parts of a conversion share.
struct Work<'a> {
    files: &'a dyn Files,
    directory: &'a Path,
    prefix: &'a str,
    names: Names,
    room: Room,
    report: Report,
    documents: Vec<Value>,
    /// Names of the pipelines of backends.
    pipelines: BTreeMap<String, String>,
}

impl Work<'_> {
    fn say(&mut self, line: &Line, manner: Manner, why: &str, instead: &str) {
        self.report.add(&line.file, line.line, &line.text(), manner, why, instead);
    }
}

/// Translates the configuration in `path`. Objects get names that begin with `prefix`.
pub fn convert(path: &Path, prefix: &str, files: &dyn Files) -> Result<Converted, Unreadable> {
    let shown = path.display().to_string();
    let bytes = files.read(path).map_err(|why| Unreadable {
        file: shown.clone(),
        line: 0,
        why: format!("cannot be read: {why}"),
    })?;
    let sections = read_text(&String::from_utf8_lossy(&bytes), &shown)?;
    let mut work = Work {
        files,
        directory: path.parent().unwrap_or(Path::new("")),
        prefix,
        names: Names::default(),
        room: Room::default(),
        report: Report::default(),
        documents: Vec::new(),
        pipelines: BTreeMap::new(),
    };
    let mut defaults: Rc<[Line]> = Rc::default();
    let mut whole: Vec<(Rc<Section>, Rc<[Line]>)> = Vec::new();
    for section in sections {
        match section.kind.as_str() {
            "defaults" => defaults = section.lines.into(),
            "frontend" | "backend" | "listen" => whole.push((Rc::new(section), defaults.clone())),
            "global" => section.lines.iter().for_each(|line| {
                work.say(line, Manner::Needless, "the process is set by the options of weir", "weir --print-config");
            }),
            kind => {
                let line = section.head.clone();
                let why = format!("sections of {} are not translated", base_text::quoted(&kind));
                work.say(&line, Manner::Lost, &why, "");
            }
        }
    }
    let backends: frontend::Backends = whole
        .iter()
        .filter(|(section, _)| section.kind != "frontend")
        .map(|(section, defaults)| (section.name.clone(), (section.clone(), defaults.clone())))
        .collect();
    for (section, defaults) in whole.iter().filter(|(section, _)| section.kind != "backend") {
        frontend::convert(&mut work, section, defaults, &backends);
    }
    for (name, (section, _)) in &backends {
        if section.kind == "backend" && !work.pipelines.contains_key(name) {
            let head = section.head.clone();
            work.say(&head, Manner::Needless, "no frontend that was translated leads here", "");
        }
    }
    if let Some(why) = work.room.why_full() {
        return Err(Unreadable { file: shown, line: 0, why });
    }
    let Work { mut report, documents, .. } = work;
    report.sort();
    Ok(Converted { documents, report })
}
