use std::time::SystemTime;

use base_model::namespaces::DEFAULT_NAMESPACE;
use base_text::quoted;
use control_api::time;
use hyper::Method;
use serde_json::Value;

use crate::arguments::{Files, Format, Namespace};
use crate::custom;
use crate::documents::{self, Sort, word};
use crate::output::{heads, print, structured, succeeded, table};
use crate::server::{Server, segment};

/// `get all` and `get KIND [NAME]`.
pub async fn get(
    server: &Server,
    kind: Option<&str>,
    name: Option<&str>,
    version: Option<u64>,
    namespace: &Namespace,
    format: Format,
) -> Result<(), String> {
    let found = find_at(server, kind, name, version, namespace).await?;
    if format != Format::Default {
        let documents: Vec<Value> = found.into_iter().map(|(_, document)| document).collect();
        let one = name.is_some() && documents.len() == 1;
        structured(
            &if one { documents.into_iter().next().unwrap_or_default() } else { Value::Array(documents) },
            format,
        );
        return Ok(());
    }
    let spaced = namespace.all_namespaces;
    let mut rows = vec![heads(if spaced { &["NAME", "KIND", "NAMESPACE", "AGE"] } else { &["NAME", "KIND", "AGE"] })];
    for (space, document) in &found {
        let mut row = vec![word(document, "name").to_owned(), word(document, "kind").to_owned()];
        if spaced {
            row.push(space.clone());
        }
        row.push(age(word(document, "createdAt")));
        rows.push(row);
    }
    print(&table(&rows));
    Ok(())
}

/// `get --wide`: with whose each object is, and the version that it was last changed in.
pub async fn wide(
    server: &Server,
    kind: Option<&str>,
    name: Option<&str>,
    namespace: &Namespace,
    format: Format,
) -> Result<(), String> {
    let which = match namespace.all_namespaces {
        true => "all-namespaces=true".to_owned(),
        false => format!("namespace={}", segment(namespace.namespace.as_deref().unwrap_or_default())),
    };
    let all = server.get(&format!("/objects?meta=true&{which}")).await?;
    let wanted = |object: &&Value| {
        kind.is_none_or(|kind| word(object, "kind") == kind) && name.is_none_or(|name| word(object, "name") == name)
    };
    let found: Vec<&Value> = all.as_array().into_iter().flatten().filter(wanted).collect();
    if let (Some(kind), Some(name), true) = (kind, name, found.is_empty()) {
        return Err(format!("there is no {kind} named {name}", name = quoted(&name)));
    }
    if format != Format::Default {
        structured(&Value::Array(found.into_iter().cloned().collect()), format);
        return Ok(());
    }
    let mut titles = heads(&["NAME", "KIND", "OWNER", "GENERATION", "AGE"]);
    if namespace.all_namespaces {
        titles.insert(2, "NAMESPACE".into());
    }
    let mut rows = vec![titles];
    for object in found {
        let generation = object["generation"].to_string();
        let [name, kind, owner] = ["name", "kind", "owner"].map(|key| word(object, key).to_owned());
        let mut row = vec![name, kind, owner, generation, age(word(object, "createdAt"))];
        if namespace.all_namespaces {
            row.insert(2, word(object, "namespace").to_owned());
        }
        rows.push(row);
    }
    print(&table(&rows));
    Ok(())
}

/// Documents with their namespaces, by name.
pub async fn find(
    server: &Server,
    kind: Option<&str>,
    name: Option<&str>,
    namespace: &Namespace,
) -> Result<Vec<(String, Value)>, String> {
    find_at(server, kind, name, None, namespace).await
}

/// As they are, or as they were at a version.
async fn find_at(
    server: &Server,
    kind: Option<&str>,
    name: Option<&str>,
    version: Option<u64>,
    namespace: &Namespace,
) -> Result<Vec<(String, Value)>, String> {
    let then = version.map_or_else(String::new, |version| format!("&version={version}"));
    let mut found = Vec::new();
    if namespace.all_namespaces {
        let spaces = server.get(&format!("/objects?all-namespaces=true{then}")).await?;
        for (space, documents) in spaces.as_object().into_iter().flatten() {
            found.extend(documents.as_array().into_iter().flatten().map(|document| (space.clone(), document.clone())));
        }
    } else {
        let space = namespace.namespace.clone().unwrap_or_default();
        let query = format!("?namespace={}{then}", segment(&space));
        let documents = match name {
            Some(name) => Value::Array(vec![server.get(&format!("/objects/{}{query}", segment(name))).await?]),
            None => server.get(&format!("/objects{query}")).await?,
        };
        let space = if space.is_empty() { DEFAULT_NAMESPACE.to_owned() } else { space };
        found.extend(documents.as_array().into_iter().flatten().map(|document| (space.clone(), document.clone())));
    }
    found.retain(|(_, document)| {
        kind.is_none_or(|kind| word(document, "kind") == kind) && name.is_none_or(|name| word(document, "name") == name)
    });
    // What people write comes first.
    found.sort_by(|(a, one), (b, other)| {
        let place = |space: &str| space != DEFAULT_NAMESPACE;
        (place(a), a, word(one, "name")).cmp(&(place(b), b, word(other, "name")))
    });
    match (kind, name) {
        (Some(kind), Some(name)) if found.is_empty() => {
            Err(format!("there is no {kind} named {name}", name = quoted(&name)))
        }
        _ => Ok(found),
    }
}

pub async fn delete(server: &Server, kind: &str, names: &[String], all: bool) -> Result<(), String> {
    let here = Namespace { namespace: None, all_namespaces: false };
    let found = find(server, Some(kind), None, &here).await?;
    let known: Vec<&str> = found.iter().map(|(_, document)| word(document, "name")).collect();
    if all {
        // Generated ones go with their owners.
        let own = found.iter().filter(|(_, document)| control_owner(document) == control_api::OWNER_USER);
        for (_, document) in own {
            remove(server, kind, word(document, "name")).await?;
        }
        return Ok(());
    }
    if names.is_empty() {
        return Err(format!("delete {kind}: name one or more, or say --all"));
    }
    for name in names {
        if !known.contains(&name.as_str()) {
            return Err(format!("delete {kind} {name} failed, there is no {kind} named {}", quoted(&name)));
        }
    }
    for name in names {
        remove(server, kind, name).await?;
    }
    Ok(())
}

/// `delete -f`: what the files describe; later documents first, since they tend to refer to earlier ones.
pub async fn delete_files(server: &Server, files: &Files) -> Result<(), String> {
    let mut problems = Vec::new();
    for found in documents::read(&files.file)?.iter().rev() {
        let (kind, name) = (word(found, "kind"), word(found, "name"));
        let gone = match Sort::of(kind) {
            Sort::CustomKind => custom::delete_kinds(server, &[name.to_owned()]).await,
            Sort::CustomData => custom::delete_listed(server, name, found).await,
            Sort::Object => remove(server, kind, name).await,
        };
        problems.extend(gone.err());
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

pub async fn remove(server: &Server, kind: &str, name: &str) -> Result<(), String> {
    let gone = server.send(Method::DELETE, &format!("/objects/{}", segment(name)), String::new()).await;
    gone.map_err(|message| format!("delete {kind} {name} failed, {message}"))?;
    succeeded("delete", kind, name);
    Ok(())
}

pub async fn update_files(server: &Server, files: &Files) -> Result<(), String> {
    for found in documents::read(&files.file)? {
        let (kind, name) = (word(&found, "kind"), word(&found, "name"));
        let sent = server.send(Method::PUT, &format!("/objects/{}", segment(name)), found.to_string()).await;
        sent.map_err(|message| format!("update {kind} {name} failed, {message}"))?;
        succeeded("update", kind, name);
    }
    Ok(())
}

pub fn age(created_at: &str) -> String {
    time::parse(created_at).map_or_else(|| "unknown".to_owned(), |at| time::age(at, SystemTime::now()))
}

fn control_owner(document: &Value) -> &str {
    let owner = document.get("labels").and_then(|labels| labels.get(control_api::OWNER_LABEL)).and_then(Value::as_str);
    owner.unwrap_or(control_api::OWNER_USER)
}
