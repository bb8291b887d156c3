//! `get ingresses` and its like: what became of each object of Kubernetes that a controller serves.

use base_text::quoted;
use serde_json::{Value, json};

use crate::arguments::{Format, Namespace};
use crate::objects;
use crate::output::{heads, print, structured, table};
use crate::server::{Server, segment};

/// Reports of one kind, by its plural; `name` is `namespace/name`, or the name alone.
pub async fn get(server: &Server, plural: &str, name: Option<&str>, format: Format) -> Result<(), String> {
    let here = Namespace { namespace: None, all_namespaces: false };
    let mut reports = Vec::new();
    let mut faults = Vec::new();
    for kind in ["IngressController", "GatewayController"] {
        for (_, document) in objects::find(server, Some(kind), None, &here).await? {
            let controller = document["name"].as_str().unwrap_or_default().to_owned();
            let statuses = server.get(&format!("/status/objects/{}", segment(&controller))).await?;
            for status in statuses.as_object().into_iter().flatten().map(|(_, status)| &status["status"]) {
                if let Some(fault) = status["health"].as_str().filter(|health| *health != "ready") {
                    faults.push(format!("{controller}: {fault}"));
                }
                reports.extend(of(status, &controller, plural, name));
            }
        }
    }
    if let Some(name) = name.filter(|_| reports.is_empty()) {
        return Err(format!("no controller serves one of {plural} named {}", quoted(&name)));
    }
    if format != Format::Default {
        structured(&Value::Array(reports), format);
    } else {
        print(&table(&rows(&reports)));
    }
    for fault in faults {
        print(&fault);
    }
    Ok(())
}

/// The reports of one controller's status.
fn of(status: &Value, controller: &str, plural: &str, name: Option<&str>) -> Vec<Value> {
    let prefix = format!("{plural} ");
    let objects = status["objects"].as_object().into_iter().flatten();
    let wanted = |key: &str| name.is_none_or(|name| key == name || key.rsplit('/').next() == Some(name));
    objects
        .filter_map(|(key, report)| Some((key.strip_prefix(&prefix)?, report)))
        .filter(|(key, _)| wanted(key))
        .map(|(key, report)| {
            let mut report = report.clone();
            report["name"] = json!(key);
            report["controller"] = json!(controller);
            report
        })
        .collect()
}

fn rows(reports: &[Value]) -> Vec<Vec<String>> {
    let mut rows = vec![heads(&["NAME", "CONTROLLER", "HOSTS", "STATE", "NOT AS WRITTEN"])];
    for report in reports {
        let text = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
        let hosts: Vec<&str> = report["hosts"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut notes: Vec<String> = Vec::new();
        for grade in ["refused", "approximated"] {
            for note in report[grade].as_array().into_iter().flatten() {
                let what = note["what"].as_str().unwrap_or_default();
                notes.push(format!("{}: {grade}, {}", what, note["told"].as_str().unwrap_or_default()));
            }
        }
        let mut notes = notes.into_iter();
        rows.push(vec![
            text("name"),
            text("controller"),
            hosts.join(","),
            text("state"),
            notes.next().unwrap_or_default(),
        ]);
        rows.extend(notes.map(|note| vec![String::new(), String::new(), String::new(), String::new(), note]));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_has_a_row_and_one_for_each_thing_that_is_not_as_it_is_written() {
        let status = json!({"objects": {
            "ingresses n/a": {"state": "honoured", "hosts": ["a.test", "b.test"]},
            "ingresses n/b": {"state": "refused", "hosts": ["*"], "refused": [{"what": "x", "told": "y"}],
                              "approximated": [{"what": "z", "told": "w"}]},
            "httproutes n/a": {"state": "honoured", "hosts": []},
        }});
        let all = of(&status, "ing", "ingresses", None);
        let lines: Vec<String> = rows(&all).iter().map(|row| row.join("|")).collect();
        assert_eq!(
            lines[1..],
            ["n/a|ing|a.test,b.test|honoured|", "n/b|ing|*|refused|x: refused, y", "||||z: approximated, w"]
        );
        assert_eq!(of(&status, "ing", "ingresses", Some("b")).len(), 1);
        assert_eq!(of(&status, "ing", "ingresses", Some("n/b")).len(), 1);
        assert_eq!(of(&status, "ing", "httproutes", None).len(), 1);
    }
}
