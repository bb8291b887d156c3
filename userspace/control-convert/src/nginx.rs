//! nginx's configuration: its servers as HTTPServers, TCPProxies and UDPProxies, its locations as Pipelines.
//!
//! Of the directives each is either translated or told in the report. Locations are put into the order nginx looks for them; what its
//! order can say and a list cannot is told as well.

mod advice;
mod http;
mod location;
mod pool;
mod scope;
mod stream;
mod syntax;

pub use syntax::{Directive, read_text};

use crate::documents::{Names, Room};
use crate::files::Files;
use crate::{Converted, Report, Unreadable};
use serde_json::{Value, json};
use std::path::Path;

/// What all parts of a conversion share.
struct Work<'a> {
    files: &'a dyn Files,
    /// Relative paths begin here.
    directory: &'a Path,
    prefix: &'a str,
    names: Names,
    room: Room,
    report: Report,
    documents: Vec<Value>,
    /// The pipeline that answers 403, once there is one.
    forbidden: Option<String>,
}

impl Work<'_> {
    fn forbidden(&mut self) -> String {
        if let Some(name) = &self.forbidden {
            return name.clone();
        }
        let name = self.names.give(&[self.prefix, "forbidden"]);
        let filter = json!({"name": "answer", "kind": "ResponseBuilder", "template": "statusCode: 403\n"});
        self.documents.push(json!({"kind": "Pipeline", "name": name, "filters": [filter]}));
        self.forbidden.insert(name).clone()
    }
}

/// Translates the configuration in `path` and the files it includes. Objects get names that begin with `prefix`.
pub fn convert(path: &Path, prefix: &str, files: &dyn Files) -> Result<Converted, Unreadable> {
    let directives = syntax::read_file(path, files)?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let mut work = Work {
        files,
        directory,
        prefix,
        names: Names::default(),
        room: Room::default(),
        report: Report::default(),
        documents: Vec::new(),
        forbidden: None,
    };
    for directive in &directives {
        match (directive.name.as_str(), &directive.block) {
            ("http", Some(block)) => http::convert(&mut work, block),
            ("stream", Some(block)) => stream::convert(&mut work, block),
            // What sites-available holds is read as if it stood in http.
            ("server" | "upstream" | "map" | "geo", Some(_)) => {}
            _ => advice::left(&mut work.report, directive),
        }
    }
    let bare: Vec<Directive> = directives
        .iter()
        .filter(|d| matches!(d.name.as_str(), "server" | "upstream" | "map" | "geo"))
        .cloned()
        .collect();
    if !bare.is_empty() {
        http::convert(&mut work, &bare);
    }
    if let Some(why) = work.room.why_full() {
        return Err(Unreadable { file: path.display().to_string(), line: 0, why });
    }
    let Work { mut report, documents, .. } = work;
    report.sort();
    Ok(Converted { documents, report })
}
