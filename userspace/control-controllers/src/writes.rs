//! What of that which was made is to be written: pure. Of ten thousand documents and rules those that are as they were the last time are
//! known by their places in memory, and nothing of them is compared.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use base_model::namespaces;
use control_api::{Document, Kept, Objects, Section, rule_key, rules_of};
use control_kubernetes::ingress::{HostPlace, Pipelines, Rules};
use control_registries::record::Instance;
use control_state::owner;
use serde_json::Value;

/// One thing that is written, or goes.
#[derive(Debug, Clone)]
pub(crate) enum Write {
    /// Of a service.
    Servers(String, Vec<Instance>),
    /// With what goes when it comes.
    Server(Arc<Value>, Vec<String>),
    Pipeline(Kept),
    /// By its key.
    Rule(String, Kept),
    NoRule(String),
    NoDocument(String),
    NoServers(String),
}

impl Write {
    /// How many bytes it takes, about.
    pub fn length(&self) -> usize {
        match self {
            Write::Servers(service, instances) => service.len() + instances.len() * INSTANCE,
            Write::Server(document, _) => length_of(document),
            Write::Pipeline(document) => document.text().len(),
            Write::Rule(key, rule) => key.len() + rule.text().len(),
            Write::NoRule(key) | Write::NoDocument(key) | Write::NoServers(key) => key.len(),
        }
    }
}

/// Of a server of a service.
const INSTANCE: usize = 100;

/// What was made and what the cluster has of it, where that is the same: by where what the cluster has is in memory, and what is held here
/// stays there. Two servers may have one and the same rule, and each is kept by itself.
#[derive(Default)]
pub(crate) struct Alike {
    servers: HashMap<usize, (Arc<Value>, Document)>,
    others: HashMap<usize, (Kept, Document)>,
}

impl Alike {
    fn holds_server(&mut self, made: &Arc<Value>, stored: &Document) -> bool {
        let place = Arc::as_ptr(stored).addr();
        if self.servers.get(&place).is_some_and(|(then, _)| Arc::ptr_eq(then, made)) {
            return true;
        }
        let same = is_stored(made, stored);
        if same {
            self.servers.insert(place, (made.clone(), stored.clone()));
        }
        same
    }

    fn holds(&mut self, made: &Kept, stored: &Document) -> bool {
        let place = Arc::as_ptr(stored).addr();
        if self.others.get(&place).is_some_and(|(then, _)| then.is_same(made)) {
            return true;
        }
        let same = is_stored(&made.read(), stored);
        if same {
            self.others.insert(place, (made.clone(), stored.clone()));
        }
        same
    }

    /// Lets go of what nobody else holds any more, when there is much of it. So many are in use.
    pub fn tidy(&mut self, used: usize) {
        if self.servers.len() + self.others.len() > used + used / 8 + 64 {
            self.servers.retain(|_, (made, stored)| Arc::strong_count(made) > 1 && Arc::strong_count(stored) > 1);
            self.others.retain(|_, (made, stored)| !made.is_alone() && Arc::strong_count(stored) > 1);
        }
    }
}

/// Documents that are to be written, and keys of those that are to go.
pub(crate) struct Documents<'m> {
    pub servers: Vec<&'m Arc<Value>>,
    pub pipelines: Vec<&'m Kept>,
    pub gone: Vec<String>,
}

/// `of` is whose they are, as objects tell it, and the namespace they are kept in.
pub(crate) fn documents<'m>(
    objects: &Objects,
    (parent, namespace): (&str, &str),
    few: &'m BTreeMap<String, Arc<Value>>,
    many: &'m Pipelines,
    alike: &mut Alike,
) -> Documents<'m> {
    let prefix = if namespaces::is_default(namespace) { String::new() } else { format!("{namespace}/") };
    let (mut servers, mut pipelines, mut gone, mut seen) = (Vec::new(), Vec::new(), Vec::new(), BTreeSet::new());
    // In one namespace names are in the order of the keys.
    let mut many = many.iter().peekable();
    for (key, stored) in objects {
        let Some(name) = key.strip_prefix(&prefix).filter(|name| !name.contains('/')) else {
            if owner(stored) == parent {
                gone.push(key.clone());
            }
            continue;
        };
        while let Some((_, made)) = many.next_if(|(of, _)| of.as_str() < name) {
            pipelines.push(made);
        }
        let is_ours = owner(stored) == parent;
        if let Some((_, made)) = many.next_if(|(of, _)| *of == name) {
            if !is_ours || !alike.holds(made, stored) {
                pipelines.push(made);
            }
        } else if let Some((of, made)) = few.get_key_value(name) {
            seen.insert(of.as_str());
            if !is_ours || !alike.holds_server(made, stored) {
                servers.push(made);
            }
        } else if is_ours {
            gone.push(key.clone());
        }
    }
    pipelines.extend(many.map(|(_, made)| made));
    servers.extend(few.iter().filter(|(name, _)| !seen.contains(name.as_str())).map(|(_, made)| made));
    Documents { servers, pipelines, gone }
}

/// Rules that are to be written, and those that are to go, by their keys. Those of servers that are kept as they are stay as well.
pub(crate) fn rules(
    stored: Option<&Section>,
    (owner, namespace): (&str, &str),
    made: &BTreeMap<String, Rules>,
    kept: &BTreeSet<String>,
) -> Vec<Write> {
    let none = Section::default();
    let stored = stored.unwrap_or(&none);
    let (mut puts, mut gone) = (Vec::new(), Vec::new());
    for (name, rules) in made {
        let server = namespaces::key(namespace, name);
        let prefix = rules_of(&server);
        let own = stored.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        let mut own = own.map(|(key, keyed)| (key, place_in(&key[prefix.len()..]), keyed)).peekable();
        for (place, rule) in rules.iter() {
            let is_before = |of: &Option<(u16, &str)>| {
                of.is_none_or(|(number, host)| (number, host) < (place.place, place.host.as_str()))
            };
            while let Some((key, ..)) = own.next_if(|(_, of, _)| is_before(of)) {
                gone.push(Write::NoRule(key.clone()));
            }
            let is_here = |of: &Option<(u16, &str)>| *of == Some((place.place, place.host.as_str()));
            let there = own.next_if(|(_, of, keyed)| is_here(of) && keyed.owner == owner);
            if there.is_none_or(|(.., keyed)| keyed.value != *rule) {
                puts.push(Write::Rule(key_of(&server, place), rule.clone()));
            }
        }
        gone.extend(own.map(|(key, ..)| Write::NoRule(key.clone())));
    }
    let prefix = format!("{namespace}/");
    let all = stored.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
    let others = all.filter(|(key, keyed)| {
        let server = key[prefix.len()..].split_once('#').map_or("", |(server, _)| server);
        keyed.owner == owner && !made.contains_key(server) && !kept.contains(server)
    });
    gone.extend(others.map(|(key, _)| Write::NoRule(key.clone())));
    puts.extend(gone);
    puts
}

fn key_of(server: &str, place: &HostPlace) -> String {
    rule_key(server, place.place, &place.host)
}

/// As [`rule_key`] writes it.
fn place_in(text: &str) -> Option<(u16, &str)> {
    let (number, host) = text.split_once(' ')?;
    Some((number.parse().ok()?, host))
}

/// The document with its rules in it: what members are told that know no rules beside documents.
pub(crate) fn whole(document: &Value, rules: &Rules) -> Value {
    let mut document = document.clone();
    document["rules"] = rules.values().map(Kept::read).collect();
    document
}

/// How many bytes its text has.
pub(crate) fn length_of(document: &Value) -> usize {
    struct Counted(usize);
    impl std::io::Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counted = Counted(0);
    // Nothing of a document cannot be written, and counting does not fail.
    let _ = serde_json::to_writer(&mut counted, document);
    counted.0
}

/// Whether the cluster has this document already: what it keeps beside it does not count.
fn is_stored(document: &Value, stored: &Value) -> bool {
    let (Some(fields), Some(stored)) = (document.as_object(), stored.as_object()) else { return false };
    let beside = ["version", "labels", "createdAt"];
    fields.iter().all(|(name, value)| beside.contains(&name.as_str()) || stored.get(name) == Some(value))
        && stored.keys().all(|name| fields.contains_key(name) || beside.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::{Keyed, OWNER_LABEL};
    use serde_json::json;

    #[test]
    fn a_document_is_as_long_as_its_text() {
        let document = json!({"name": "ä\"", "list": [1, 2.5, null, {"a": true}]});
        assert_eq!(length_of(&document), document.to_string().len());
    }

    fn pipeline(name: &str, n: u64) -> Value {
        json!({"name": name, "kind": "Pipeline", "n": n})
    }

    #[test]
    fn what_is_another_is_written_and_what_is_made_no_more_goes() {
        let stored = |owner: &str, name: &str, n: u64| {
            let mut document = pipeline(name, n);
            document["labels"] = json!({OWNER_LABEL: owner});
            Document::new(document)
        };
        for namespace in ["default", "c/ing"] {
            let key = |name: &str| namespaces::key(namespace, name);
            let objects: Objects = [
                (key("a"), stored("C:ing", "a", 1)),
                (key("b"), stored("C:ing", "b", 1)),
                (key("c"), stored("C:ing", "c", 1)),
                (key("theirs"), stored("user-api", "theirs", 1)),
                ("elsewhere/d".to_owned(), stored("C:ing", "d", 1)),
            ]
            .into_iter()
            .collect();
            let made = |all: &[(&'static str, u64)]| -> Vec<(String, Value)> {
                all.iter().map(|(name, n)| ((*name).to_owned(), pipeline(name, *n))).collect()
            };
            let few = made(&[("c", 2), ("z", 1)]).into_iter().map(|(name, made)| (name, made.into())).collect();
            let many = made(&[("0", 1), ("b", 1), ("theirs", 1)]);
            let many = many.into_iter().map(|(name, made)| (name, Kept::of(&made))).collect();
            let mut alike = Alike::default();
            let Documents { servers, pipelines, gone } =
                documents(&objects, ("C:ing", namespace), &few, &many, &mut alike);
            let name = |document: &Value| document["name"].as_str().unwrap().to_owned();
            let names: Vec<String> = pipelines.iter().map(|made| name(&made.read())).collect();
            assert_eq!(names, ["0", "theirs"], "{namespace}");
            let names: Vec<String> = servers.iter().map(|made| name(made)).collect();
            assert_eq!(names, ["c", "z"], "{namespace}");
            let mut wanted = vec![key("a"), "elsewhere/d".to_owned()];
            wanted.sort_unstable();
            assert_eq!(gone, wanted);
        }
    }

    #[test]
    fn of_many_rules_one_that_is_another_is_written() {
        let rule = |backend: &str| Kept::of(&json!({"paths": [{"backend": backend}]}));
        let hosts: Vec<String> =
            (0..1_000).map(|n| format!("h{n}.test")).chain(["*.test".into(), String::new()]).collect();
        let mut rules: Rules = hosts.iter().map(|host| (HostPlace::of(host), rule("a"))).collect();
        let mut section = Section::new();
        let mut write = |rules: &Rules| {
            let made: BTreeMap<String, Rules> = [("ing.http".to_owned(), rules.clone())].into();
            let stored: Section = section.clone();
            let writes = super::rules(Some(&stored), ("ing", "c/ing"), &made, &BTreeSet::new());
            for write in &writes {
                match write {
                    Write::Rule(key, rule) => {
                        let keyed = Keyed { owner: "ing".to_owned(), value: rule.clone(), ..Keyed::default() };
                        section.insert(key.clone(), Arc::new(keyed));
                    }
                    Write::NoRule(key) => drop(section.remove(key)),
                    other => panic!("{other:?}"),
                }
            }
            let told = |write: &Write| match write {
                Write::Rule(key, _) => format!("+{key}"),
                Write::NoRule(key) => format!("-{key}"),
                other => panic!("{other:?}"),
            };
            (writes.iter().map(told).collect::<Vec<_>>(), section.keys().cloned().collect::<Vec<_>>())
        };
        let (first, keys) = write(&rules);
        assert_eq!(first.len(), hosts.len());
        assert_eq!(keys.last().unwrap(), "c/ing/ing.http#65535 ", "whoever asks for no other host is asked last");
        assert!(keys[keys.len() - 2].ends_with("*.test"));
        assert_eq!(write(&rules).0, [""; 0]);
        rules.insert(HostPlace::of("h7.test"), rule("b"));
        rules.remove(&HostPlace::of("h8.test"));
        rules.insert(HostPlace::of("new.test"), rule("a"));
        let (writes, keys) = write(&rules);
        assert_eq!(
            writes,
            ["+c/ing/ing.http#00000 h7.test", "+c/ing/ing.http#00000 new.test", "-c/ing/ing.http#00000 h8.test"]
        );
        let stored: Section =
            keys.iter().map(|key| (key.clone(), Arc::new(Keyed { owner: "ing".into(), ..Keyed::default() }))).collect();
        let none = BTreeMap::new();
        let gone = |kept: &[&str]| {
            let kept = kept.iter().map(|name| (*name).to_owned()).collect();
            super::rules(Some(&stored), ("ing", "c/ing"), &none, &kept).len()
        };
        assert_eq!((gone(&[]), gone(&["ing.http"])), (keys.len(), 0), "what is kept leads on to what was there");
    }
}
