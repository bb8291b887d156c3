use base_model::yaml;
use serde_json::{Value, json};

use crate::arguments::{Format, Namespace};
use crate::documents::word;
use crate::objects::find;
use crate::output::{print, structured};
use crate::server::{Server, segment};

/// Each object with its status on every machine.
pub async fn describe(
    server: &Server,
    kind: &str,
    name: Option<&str>,
    verbose: bool,
    namespace: &Namespace,
    format: Format,
) -> Result<(), String> {
    let mut found = find(server, Some(kind), name, namespace).await?;
    let statuses = match name {
        Some(name) if !namespace.all_namespaces => {
            let space = segment(namespace.namespace.as_deref().unwrap_or_default());
            server.get(&format!("/status/objects/{}?namespace={space}", segment(name))).await?
        }
        _ => server.get("/status/objects").await?,
    };
    for (space, document) in &mut found {
        let all = status_of(&statuses, space, word(document, "name"), verbose);
        document["allStatus"] = Value::Array(all);
    }
    if format != Format::Default {
        structured(&Value::Array(found.into_iter().map(|(_, document)| document).collect()), format);
        return Ok(());
    }
    let mut space = String::new();
    let mut text = String::new();
    for (in_space, document) in &found {
        if *in_space != space {
            let title = format!("In Namespace {in_space}:");
            let line = "=".repeat(title.len());
            text.push_str(&format!("{line}\n{title}\n{line}\n"));
            space = in_space.clone();
        } else {
            text.push_str("\n---\n\n");
        }
        text.push_str(&fields(
            document,
            &["name", "kind", "version", "", "flow", "", "filters", "", "rules", ""],
            &["allStatus"],
        ));
    }
    print(&text);
    Ok(())
}

/// One value as people read it: short fields on a line, long ones under a headline. `""` in `first` is an empty line.
pub fn fields(document: &Value, first: &[&str], last: &[&str]) -> String {
    let mut text = String::new();
    let Some(all) = document.as_object() else { return yaml::to_string(document) };
    for key in first {
        if key.is_empty() {
            if !text.ends_with("\n\n") {
                text.push('\n');
            }
        } else if let Some(value) = all.get(*key) {
            text.push_str(&field(key, value));
        }
    }
    for (key, value) in all.iter().filter(|(key, _)| !first.contains(&key.as_str()) && !last.contains(&key.as_str())) {
        text.push_str(&field(key, value));
    }
    for key in last {
        if let Some(value) = all.get(*key) {
            text.push('\n');
            text.push_str(&field(key, value));
        }
    }
    text
}

fn field(key: &str, value: &Value) -> String {
    let mut title = key.to_owned();
    if let Some(first) = title.get(..1) {
        title = first.to_uppercase() + &key[1..];
    }
    let composed = matches!(value, Value::Array(list) if !list.is_empty())
        || matches!(value, Value::Object(map) if !map.is_empty());
    if !composed {
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        return format!("{title}: {shown}\n");
    }
    let body: String = yaml::to_string(value).lines().map(|line| format!("  {line}\n")).collect();
    format!("{title}:\n{}\n{body}", "=".repeat(title.len() + 1))
}

/// `NAMESPACE/OBJECT/MEMBER` are the keys, with `eg-traffic-` before the namespace of servers and pipelines; a namespace may have slashes
/// in it.
fn status_of(statuses: &Value, namespace: &str, name: &str, verbose: bool) -> Vec<Value> {
    let mut all = Vec::new();
    for (key, status) in statuses.as_object().into_iter().flatten() {
        let mut parts = key.rsplitn(3, '/');
        let [member, object, space] = [(); 3].map(|()| parts.next().unwrap_or_default());
        if object != name || space.strip_prefix("eg-traffic-").unwrap_or(space) != namespace {
            continue;
        }
        let mut status = status.get("status").unwrap_or(status).clone();
        if !verbose && let Some(fields) = status.as_object_mut() {
            fields.remove("topN");
        }
        all.push(json!({"node": member, "status": status}));
    }
    all
}
