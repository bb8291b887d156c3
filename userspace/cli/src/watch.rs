//! `get --watch`: objects as they are, and then as they change.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::arguments::{Format, Namespace};
use crate::documents::word;
use crate::objects::age;
use crate::output::{heads, print, table};
use crate::server::{Server, segment};

/// Prints until somebody ends it, or the server does and says why.
pub async fn watch(
    server: &Server,
    kind: Option<&str>,
    name: Option<&str>,
    namespace: &Namespace,
    format: Format,
) -> Result<(), String> {
    let space = segment(namespace.namespace.as_deref().unwrap_or_default());
    let path = match name {
        Some(name) => format!("/objects/{}?watch&namespace={space}", segment(name)),
        None => format!("/objects?watch&namespace={space}"),
    };
    let (mut events, mut shown, mut headed, mut ended) = (Events::default(), BTreeMap::new(), false, None);
    let take = |bytes: &[u8]| {
        for (event, data) in events.of(bytes) {
            match event.as_str() {
                "end" => {
                    ended = Some(word(&data, "message").to_owned());
                    return false;
                }
                "objects" => {
                    let first = !std::mem::replace(&mut headed, true);
                    tell(&changes(&mut shown, &data, true), first, kind, format);
                }
                _ => tell(&changes(&mut shown, &data, false), false, kind, format),
            }
        }
        true
    };
    server.stream(&path, take).await?;
    Err(ended.unwrap_or_else(|| "the server told no more, and not why; ask again".to_owned()))
}

/// What became of an object: it is as it says, or it is gone.
struct Change {
    gone: bool,
    object: Value,
}

/// The changes of an event, deletions first. What is told `whole` also says what is gone: all else that was there.
fn changes(known: &mut BTreeMap<String, String>, data: &Value, whole: bool) -> Vec<Change> {
    let list = |key: &str| data[key].as_array().cloned().unwrap_or_default();
    let (puts, mut deletes) = (list(if whole { "objects" } else { "puts" }), list("deletes"));
    if whole {
        let there = |name: &String| puts.iter().any(|put| word(put, "name") == name);
        let gone = known.iter().filter(|(name, _)| !there(name));
        deletes.extend(gone.map(|(name, kind)| json!({"name": name, "kind": kind})));
    }
    for object in &deletes {
        known.remove(word(object, "name"));
    }
    for object in &puts {
        known.insert(word(object, "name").to_owned(), word(object, "kind").to_owned());
    }
    let gone = deletes.into_iter().map(|object| Change { gone: true, object });
    gone.chain(puts.into_iter().map(|object| Change { gone: false, object })).collect()
}

fn tell(changes: &[Change], headed: bool, kind: Option<&str>, format: Format) {
    let changes = changes.iter().filter(|change| kind.is_none_or(|kind| word(&change.object, "kind") == kind));
    let mut rows = if headed { vec![heads(&["NAME", "KIND", "AGE"])] } else { Vec::new() };
    for Change { gone, object } in changes {
        let told = json!({"change": if *gone { "deleted" } else { "put" }, "object": object});
        match format {
            Format::Json => print(&told.to_string()),
            Format::Yaml => print(&format!("---\n{}", base_model::yaml::to_string(&told))),
            Format::Default => {
                let age = if *gone { "deleted".to_owned() } else { age(word(object, "createdAt")) };
                rows.push(vec![word(object, "name").to_owned(), word(object, "kind").to_owned(), age]);
            }
        }
    }
    if format == Format::Default && !rows.is_empty() {
        print(&table(&rows));
    }
}

/// Server-sent events out of what arrives.
#[derive(Default)]
struct Events {
    rest: Vec<u8>,
    /// How far it was searched for the end of an event: one with all objects arrives in many pieces.
    searched: usize,
}

impl Events {
    /// Those that are whole by now: what each is called, and what it says.
    fn of(&mut self, bytes: &[u8]) -> Vec<(String, Value)> {
        self.rest.extend_from_slice(bytes);
        let mut found = Vec::new();
        while let Some(end) = self.rest[self.searched..].windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = self.rest.drain(..self.searched + end + 2).collect();
            self.searched = 0;
            let text = String::from_utf8_lossy(&event);
            let field = |name: &'static str| text.lines().filter_map(move |line| line.strip_prefix(name));
            let data: Vec<&str> = field("data: ").collect();
            if let Ok(data) = serde_json::from_str(&data.join("\n")) {
                found.push((field("event: ").next().unwrap_or_default().to_owned(), data));
            }
        }
        self.searched = self.rest.len().saturating_sub(1);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_wherever_they_are_cut() {
        let text = "retry: 1000\n\nid: 3\nevent: objects\ndata: {\"objects\":[\ndata: {\"name\":\"ä\"}\ndata: ]}\n\n: still here\nid: 4\n\nid: 5\nevent: change\ndata: {\"puts\":[]}\n\n";
        let whole = Events::default().of(text.as_bytes());
        assert_eq!(whole.len(), 2);
        assert_eq!(whole[0], ("objects".to_owned(), json!({"objects": [{"name": "ä"}]})));
        for size in 1..text.len() {
            let mut events = Events::default();
            let cut: Vec<_> = text.as_bytes().chunks(size).flat_map(|piece| events.of(piece)).collect();
            assert_eq!(cut, whole, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_told_anew_says_what_is_gone() {
        let mut known = BTreeMap::new();
        let object = |name: &str| json!({"name": name, "kind": "K"});
        let told = |known: &mut BTreeMap<String, String>, data: Value, whole: bool| {
            let changes = changes(known, &data, whole);
            let shown =
                changes.iter().map(|c| format!("{}{}", if c.gone { "-" } else { "+" }, word(&c.object, "name")));
            shown.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told(&mut known, json!({"objects": [object("a"), object("b")]}), true), "+a +b");
        assert_eq!(told(&mut known, json!({"deletes": [object("a")], "puts": [object("c")]}), false), "-a +c");
        assert_eq!(told(&mut known, json!({"objects": [object("c")]}), true), "-b +c");
    }
}
