//! One document: what every object has, and the rest as it was written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::kinds;
use crate::problem::{Problem, at, missing_name};
use crate::words::{NAME_ACCEPTED, UrlName};

/// An object's document. `spec` holds every key that is not metadata, in the order and spelling of its author.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    pub name: String,
    pub kind: String,
    #[serde(default = "default_version")]
    pub version: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// RFC 3339; set by the server when the object is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    pub spec: Value,
}

impl Document {
    /// Reads the metadata, checks name and kind, and keeps the rest. All problems are collected.
    ///
    /// Whether the kind is served is not asked here; see [`kinds::why_refused`].
    pub fn parse(value: &Value) -> Result<Self, Vec<Problem>> {
        match Self::parse_with_problems(value) {
            (Some(document), problems) if problems.is_empty() => Ok(document),
            (_, problems) => Err(problems),
        }
    }

    /// As [`parse`](Document::parse), and what could be read of metadata that is wrong in part: nothing only of what is no mapping.
    pub fn parse_with_problems(value: &Value) -> (Option<Self>, Vec<Problem>) {
        let mut problems = Vec::new();
        let Some(map) = value.as_object() else {
            let problem = Problem::new("", "a document is a mapping").value(value);
            problems.push(problem.advice("begin it with name: and kind:"));
            return (None, problems);
        };
        let mut document = Self {
            name: String::new(),
            kind: String::new(),
            version: default_version(),
            labels: BTreeMap::new(),
            created_at: None,
            spec: Value::Null,
        };
        let mut spec = Map::new();
        for (key, value) in map {
            match META.iter().find(|name| key == *name || key.eq_ignore_ascii_case(name)) {
                // The exact spelling wins over another one.
                Some(name) if key != name && map.contains_key(*name) => {}
                Some(&"name") => document.name = text(value, key, &mut problems),
                Some(&"kind") => document.kind = text(value, key, &mut problems),
                Some(&"version") if value.is_null() => {}
                Some(&"version") => document.version = text(value, key, &mut problems),
                Some(&"labels") => document.labels = labels(value, key, &mut problems),
                Some(_) => document.created_at = Some(text(value, key, &mut problems)).filter(|t| !t.is_empty()),
                None => {
                    spec.insert(key.clone(), value.clone());
                }
            }
        }
        document.spec = Value::Object(spec);
        let complained = |path: &str, problems: &[Problem]| problems.iter().any(|p| p.path.eq_ignore_ascii_case(path));
        if !complained("name", &problems) {
            problems.extend(check_name(&document.name, "name"));
        }
        if !complained("kind", &problems) {
            if document.kind.is_empty() {
                let advice = "say which kind of object it is, e.g. kind: HTTPServer";
                problems.push(Problem::new("kind", "missing").advice(advice));
            } else if document.kind != kinds::LEGACY_PIPELINE && kinds::named(&document.kind).is_none() {
                problems.extend(kinds::why_refused(&document.kind));
            }
        }
        (Some(document), problems)
    }

    /// The document as one mapping, metadata first: what `get` shows.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("name".to_owned(), self.name.clone().into());
        map.insert("kind".to_owned(), self.kind.clone().into());
        map.insert("version".to_owned(), self.version.clone().into());
        if !self.labels.is_empty() {
            map.insert(
                "labels".to_owned(),
                self.labels.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect(),
            );
        }
        if let Some(created_at) = &self.created_at {
            map.insert("createdAt".to_owned(), created_at.clone().into());
        }
        if let Value::Object(spec) = &self.spec {
            map.extend(spec.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        Value::Object(map)
    }
}

/// The version of documents that name none.
pub fn default_version() -> String {
    "easegress.megaease.com/v2".to_owned()
}

/// The rule for names of objects, filters and policies.
pub fn check_name(name: &str, path: &str) -> Option<Problem> {
    if name.is_empty() {
        return Some(missing_name(path));
    }
    UrlName::why_not(name).map(|why| Problem::new(path, why).text(name).accepted(NAME_ACCEPTED))
}

fn text(value: &Value, key: &str, problems: &mut Vec<Problem>) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => {
            let advice = format!("put it in quotes: \"{other}\"");
            let problem = Problem::new(key, "not a text").value(other);
            problems.push(if other.is_number() || other.is_boolean() { problem.advice(advice) } else { problem });
            String::new()
        }
    }
}

fn labels(value: &Value, key: &str, problems: &mut Vec<Problem>) -> BTreeMap<String, String> {
    match value {
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), text(v, &at(key, k), problems))).collect(),
        Value::Null => BTreeMap::new(),
        other => {
            problems.push(Problem::new(key, "not a mapping of texts").value(other));
            BTreeMap::new()
        }
    }
}

const META: [&str; 5] = ["name", "kind", "version", "labels", "createdAt"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_apart_and_the_rest_untouched() {
        let value = json!({"Name": "a", "kind": "HTTPServer", "labels": {"x": "y"}, "Port": 1, "rules": []});
        let document = Document::parse(&value).unwrap();
        assert_eq!((document.name.as_str(), document.kind.as_str()), ("a", "HTTPServer"));
        assert_eq!(document.spec, json!({"Port": 1, "rules": []}));
        assert_eq!(Document::parse(&document.to_value()).unwrap(), document);
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let problems = Document::parse(&json!({"name": "a b", "kind": "Pipline", "labels": {"n": 1}})).unwrap_err();
        assert_eq!(
            crate::problem::render(&problems),
            "labels.n = 1: not a text; put it in quotes: \"1\"\n\
             name = \"a b\": the name has a character that cannot stand in a URL; accepted: 1 to 253 letters, digits, '-', '_', '.' and '~'\n\
             kind = \"Pipline\": unknown kind; accepted: HTTPServer, Pipeline, VirtualIP, AccessList, GlobalFilter, OverloadManager, LogSink, TCPProxy, UDPProxy, GRPCServer, Consumer, IngressController, GatewayController, AutoCertManager, ConsulServiceRegistry, EtcdServiceRegistry, EurekaServiceRegistry, NacosServiceRegistry, ZookeeperServiceRegistry, DNSServiceRegistry, KubernetesServiceRegistry or MockNamespacer; did you mean Pipeline?"
        );
        assert_eq!(Document::parse(&json!({})).unwrap_err().len(), 2);
        assert_eq!(Document::parse(&json!([1])).unwrap_err().len(), 1);
        assert_eq!(Document::parse(&json!({"name": 5, "kind": "Pipeline"})).unwrap_err().len(), 1);
    }
}
