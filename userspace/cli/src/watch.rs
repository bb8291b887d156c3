//! `get --watch`: objects as they are, and then as they change.

use std::collections::{BTreeMap, BTreeSet};

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
        // Several may have the name then.
        _ if namespace.all_namespaces => "/objects?watch&all-namespaces=true".to_owned(),
        Some(name) => format!("/objects/{}?watch&namespace={space}", segment(name)),
        None => format!("/objects?watch&namespace={space}"),
    };
    let wanted = Wanted { kind, name, spaced: namespace.all_namespaces };
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
                    tell(&changes(&mut shown, &data, true), first, wanted, format);
                }
                _ => tell(&changes(&mut shown, &data, false), false, wanted, format),
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
    /// Where all namespaces are asked for.
    space: String,
    object: Value,
}

/// Of what changes, what is shown.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    kind: Option<&'a str>,
    name: Option<&'a str>,
    /// With namespaces.
    spaced: bool,
}

/// Namespace, where several are asked for, and name.
type Key = (String, String);

/// The changes of an event, deletions first. What is told `whole` also says what is gone: all else that was there.
fn changes(known: &mut BTreeMap<Key, String>, data: &Value, whole: bool) -> Vec<Change> {
    // Of all namespaces each document is told beside its own.
    let one = |told: &Value| match (told["namespace"].as_str(), told.get("object")) {
        (Some(space), Some(object)) => (space.to_owned(), object.clone()),
        _ => (String::new(), told.clone()),
    };
    let list = |key: &str| data[key].as_array().into_iter().flatten();
    let puts: Vec<(String, Value)> = list(if whole { "objects" } else { "puts" }).map(one).collect();
    let gone = |told: &Value| (word(told, "namespace").to_owned(), told.clone());
    let mut deletes: Vec<(String, Value)> = list("deletes").map(gone).collect();
    let key = |(space, object): &(String, Value)| (space.clone(), word(object, "name").to_owned());
    if whole {
        let there: BTreeSet<Key> = puts.iter().map(key).collect();
        let gone = known.iter().filter(|(key, _)| !there.contains(key));
        deletes.extend(gone.map(|((space, name), kind)| (space.clone(), json!({"name": name, "kind": kind}))));
    }
    for object in &deletes {
        known.remove(&key(object));
    }
    for object in &puts {
        known.insert(key(object), word(&object.1, "kind").to_owned());
    }
    let gone = deletes.into_iter().map(|(space, object)| Change { gone: true, space, object });
    gone.chain(puts.into_iter().map(|(space, object)| Change { gone: false, space, object })).collect()
}

fn tell(changes: &[Change], headed: bool, wanted: Wanted<'_>, format: Format) {
    let is =
        |object: &Value, field: &str, wanted: Option<&str>| wanted.is_none_or(|wanted| word(object, field) == wanted);
    let changes = changes
        .iter()
        .filter(|change| is(&change.object, "kind", wanted.kind) && is(&change.object, "name", wanted.name));
    let columns: &[&str] = if wanted.spaced { &["NAME", "KIND", "NAMESPACE", "AGE"] } else { &["NAME", "KIND", "AGE"] };
    let mut rows = if headed { vec![heads(columns)] } else { Vec::new() };
    for Change { gone, space, object } in changes {
        let mut told = json!({"change": if *gone { "deleted" } else { "put" }, "object": object});
        if wanted.spaced {
            told["namespace"] = space.as_str().into();
        }
        match format {
            Format::Json => print(&told.to_string()),
            Format::Yaml => print(&format!("---\n{}", base_model::yaml::to_string(&told))),
            Format::Default => {
                let age = if *gone { "deleted".to_owned() } else { age(word(object, "createdAt")) };
                let mut row = vec![word(object, "name").to_owned(), word(object, "kind").to_owned(), age];
                if wanted.spaced {
                    row.insert(2, space.clone());
                }
                rows.push(row);
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
        let told = |known: &mut BTreeMap<Key, String>, data: Value, whole: bool| {
            let changes = changes(known, &data, whole);
            let shown =
                changes.iter().map(|c| format!("{}{}", if c.gone { "-" } else { "+" }, word(&c.object, "name")));
            shown.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told(&mut known, json!({"objects": [object("a"), object("b")]}), true), "+a +b");
        assert_eq!(told(&mut known, json!({"deletes": [object("a")], "puts": [object("c")]}), false), "-a +c");
        assert_eq!(told(&mut known, json!({"objects": [object("c")]}), true), "-b +c");
        // In two namespaces it is two.
        known.clear();
        let made = |space: &str| json!({"namespace": space, "object": {"name": "a", "kind": "K", "namespace": "own"}});
        assert_eq!(told(&mut known, json!({"objects": [made("blue"), made("default")]}), true), "+a +a");
        let change = &changes(&mut known, &json!({"objects": [made("default")]}), true)[0];
        assert_eq!((change.gone, &*change.space), (true, "blue"));
        let gone = json!({"deletes": [{"namespace": "default", "name": "a", "kind": "K"}]});
        assert_eq!((told(&mut known, gone, false), known.len()), ("-a".to_owned(), 0));
    }
}
