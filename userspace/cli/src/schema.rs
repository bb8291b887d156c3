//! `schema`: the JSON Schema of documents, for editors.

use base_model::Problem;
use base_model::explain::{Explained, kinds};
use base_model::kinds::{Kind, LEGACY_PIPELINE, find, named};
use base_model::resilience;
use serde_json::{Map, Value, json};

use crate::catalog;

/// The JSON Schema of a kind's documents; of a filter or a policy, of its entry in a pipeline. Without a kind: of any document.
pub fn schema(kind: Option<&str>) -> Result<String, String> {
    let schema = match kind {
        None => any(),
        Some(kind) => {
            let canonical = find(kind).map_or(kind, |found| found.name);
            if let Some((_, schema)) = beside().into_iter().find(|(known, _)| known.eq_ignore_ascii_case(kind)) {
                return serde_json::to_string_pretty(&complete(schema, kind)).map_err(|e| e.to_string());
            }
            let all = all();
            let Some(found) = all.iter().find(|known| known.kind.eq_ignore_ascii_case(canonical)) else {
                // Says which there are.
                let problem = base_model::explain(kind, &catalog::explained()).err();
                return Err(problem.unwrap_or_else(|| Problem::new("", "no such kind")).to_string());
            };
            of(found)
        }
    };
    serde_json::to_string_pretty(&schema).map_err(|e| format!("the schema cannot be printed: {e}"))
}

/// Every kind of object, filter and policy, each once.
pub fn all() -> Vec<Explained> {
    let mut all = kinds();
    let known: Vec<String> = all.iter().map(|known| known.kind.clone()).collect();
    all.extend(catalog::explained().into_iter().filter(|filter| !known.contains(&filter.kind)));
    all
}

/// What stands where: documents, entries of `filters`, entries of `resilience`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Object(&'static Kind),
    Filter,
    Policy,
}

impl Role {
    pub fn of(kind: &str) -> Role {
        match named(kind) {
            Some(kind) => Role::Object(kind),
            None if resilience::KINDS.contains(&kind) => Role::Policy,
            None => Role::Filter,
        }
    }
}

/// The schema of one kind, complete in itself.
pub fn of(found: &Explained) -> Value {
    let mut definitions = Map::new();
    let mut schema = define(found, &mut definitions);
    finish(&mut schema, definitions, &found.kind);
    schema
}

/// The schema of any document of a cluster.
pub fn any() -> Value {
    let mut definitions = Map::new();
    let objects: Vec<Explained> =
        kinds().into_iter().filter(|known| matches!(Role::of(&known.kind), Role::Object(_))).collect();
    for object in &objects {
        let schema = define(object, &mut definitions);
        definitions.insert(object.kind.clone(), schema);
    }
    let beside = beside();
    definitions.extend(beside.iter().map(|(kind, schema)| ((*kind).to_owned(), schema.clone())));
    let kinds = objects.iter().map(|object| object.kind.as_str()).chain(beside.iter().map(|(kind, _)| *kind));
    let mut schema = choice(kinds);
    schema["description"] = "A document of Weir, or of Easegress v2.".into();
    finish(&mut schema, definitions, "Weir");
    schema
}

/// Documents that are no objects of today: custom data, and pipelines as Easegress v1 wrote them, which are translated.
pub fn beside() -> [(&'static str, Value); 3] {
    let of = |kind: &str, about: &str, fields: Value| {
        let mut properties = Map::new();
        properties.insert("name".into(), json!({"type": "string", "minLength": 1}));
        properties.insert("kind".into(), json!({"const": kind}));
        properties.insert("version".into(), json!({"type": "string"}));
        properties.extend(fields.as_object().cloned().unwrap_or_default());
        json!({"type": "object", "description": about, "properties": properties, "required": ["name", "kind"]})
    };
    let entries = json!({"type": "array", "items": {"type": "object", "required": ["kind"]}});
    [
        (
            "CustomDataKind",
            of(
                "CustomDataKind",
                "A kind of data of your own.",
                json!({
                    "idField": {"type": "string", "description": "Key whose value is an item's id. Default name."},
                    "jsonSchema": {"type": ["object", "null"], "description": "What items must be: a JSON Schema."},
                }),
            ),
        ),
        (
            "CustomData",
            of(
                "CustomData",
                "Changes of the items of the kind that it is named after: all of them, or none.",
                json!({
                    "rebuild": {"type": ["boolean", "null"], "description": "Whether all other items go. Default false."},
                    "delete": {"type": ["array", "null"], "items": {"type": "string"}, "description": "Ids of items that go."},
                    "list": {"type": ["array", "null"], "items": {"type": "object"}, "description": "Items that come, or replace others."},
                }),
            ),
        ),
        (
            LEGACY_PIPELINE,
            of(
                LEGACY_PIPELINE,
                "A pipeline of Easegress v1, which is stored as a Pipeline.",
                json!({"filters": entries, "flow": {"type": "array", "items": {"type": "object"}}}),
            ),
        ),
    ]
}

fn complete(mut schema: Value, title: &str) -> Value {
    finish(&mut schema, Map::new(), title);
    schema
}

fn finish(schema: &mut Value, definitions: Map<String, Value>, title: &str) {
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = title.into();
    if !definitions.is_empty() {
        schema["$defs"] = definitions.into();
    }
}

/// A mapping whose `kind` says which of the definitions it follows.
fn choice<'k>(kinds: impl Iterator<Item = &'k str> + Clone) -> Value {
    let rules: Vec<Value> = kinds
        .clone()
        .map(|kind| {
            json!({
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": {"$ref": format!("#/$defs/{kind}")},
            })
        })
        .collect();
    json!({
        "type": "object",
        "properties": {"name": {"type": "string", "minLength": 1}, "kind": {"enum": kinds.collect::<Vec<_>>()}},
        "required": ["name", "kind"],
        "allOf": rules,
    })
}

/// The schema of a kind's fields with those that all documents have; what it refers to goes into `definitions`, under names that begin with
/// the kind's, so that those of several kinds can stand beside each other.
fn define(found: &Explained, definitions: &mut Map<String, Value>) -> Value {
    let mut schema = found.schema.as_ref().clone();
    let own = schema.as_object_mut().and_then(|fields| fields.remove("$defs"));
    rename(&mut schema, &found.kind);
    if let Some(Value::Object(own)) = own {
        for (name, mut definition) in own {
            rename(&mut definition, &found.kind);
            definitions.insert(format!("{}.{name}", found.kind), definition);
        }
    }
    let mut properties = Map::new();
    properties.insert("name".into(), json!({"type": "string", "minLength": 1}));
    properties.insert("kind".into(), json!({"const": found.kind}));
    if let Role::Object(_) = Role::of(&found.kind) {
        properties.insert("version".into(), json!({"type": "string"}));
        properties.insert("labels".into(), json!({"type": "object", "additionalProperties": {"type": "string"}}));
        properties.insert("createdAt".into(), json!({"type": "string"}));
    }
    if let Some(Value::Object(fields)) = schema.get("properties") {
        properties.extend(fields.clone());
    }
    schema["properties"] = properties.into();
    let mut required = vec![json!("name"), json!("kind")];
    if let Some(Value::Array(fields)) = schema.get("required") {
        required.extend(fields.clone());
    }
    schema["required"] = required.into();
    entries(&mut schema, definitions);
    if let Some(Value::Object(own)) =
        definitions.get("GlobalFilter.PipelineSpec").cloned().filter(|_| found.kind == "GlobalFilter")
    {
        let mut own = Value::Object(own);
        entries(&mut own, definitions);
        definitions.insert("GlobalFilter.PipelineSpec".to_owned(), own);
    }
    schema
}

/// Says of the filters and policies of a pipeline what each kind of them has.
fn entries(schema: &mut Value, definitions: &mut Map<String, Value>) {
    if schema.pointer("/properties/filters").is_none() || schema.pointer("/properties/flow").is_none() {
        return;
    }
    for (field, role) in [("filters", Role::Filter), ("resilience", Role::Policy)] {
        let known: Vec<Explained> = all().into_iter().filter(|known| Role::of(&known.kind) == role).collect();
        for entry in &known {
            if !definitions.contains_key(&entry.kind) {
                let defined = define(entry, definitions);
                definitions.insert(entry.kind.clone(), defined);
            }
        }
        if let Some(place) = schema.pointer_mut(&format!("/properties/{field}/items")) {
            *place = choice(known.iter().map(|entry| entry.kind.as_str()));
        }
    }
}

/// References lead to the definitions of this kind.
fn rename(schema: &mut Value, kind: &str) {
    match schema {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match value.as_str().and_then(|text| text.strip_prefix("#/$defs/")).filter(|_| name == "$ref") {
                    Some(target) => *value = format!("#/$defs/{kind}.{target}").into(),
                    None => rename(value, kind),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, kind)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_schema_that_names_it_and_whose_references_lead_somewhere() {
        for known in all() {
            let schema: Value = serde_json::from_str(&schema(Some(&known.kind)).unwrap()).unwrap();
            assert_eq!(schema["properties"]["kind"]["const"], known.kind.as_str());
            assert!(schema["required"].as_array().is_some_and(|fields| fields.contains(&json!("name"))));
            follow(&schema, &schema);
        }
        assert!(schema(Some("Kafak")).unwrap_err().contains("Kafka"));
        let any: Value = serde_json::from_str(&schema(None).unwrap()).unwrap();
        follow(&any, &any);
        for kind in base_model::kinds::KINDS.iter().filter(|kind| kind.served) {
            assert!(any["$defs"][kind.name].is_object(), "{}", kind.name);
        }
    }

    /// An editor finds nothing wrong with what is shown as an example.
    #[test]
    fn examples_and_recipes_follow_the_schema_of_any_document() {
        let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
        compiler.add_resource("weir:///any.json", any()).unwrap();
        let any = compiler.compile("weir:///any.json", &mut schemas).unwrap();
        for folder in ["examples", "cookbook"] {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(folder);
            for file in std::fs::read_dir(folder).unwrap() {
                let file = file.unwrap().path();
                let text = std::fs::read_to_string(&file).unwrap();
                for document in base_model::yaml::parse_documents(&text).unwrap() {
                    // A filter alone is no document.
                    if all()
                        .iter()
                        .any(|known| document["kind"] == *known.kind && Role::of(&known.kind) == Role::Filter)
                    {
                        continue;
                    }
                    let told = schemas.validate(&document, any).map_err(|error| format!("{error:#}"));
                    assert_eq!(told, Ok(()), "{} {}", file.display(), document["name"]);
                }
            }
        }
        for (kind, wrong) in [("CustomData", json!({"delete": [7]})), ("CustomDataKind", json!({"idField": 5}))] {
            let mut document = json!({"name": "a", "kind": kind});
            assert!(schemas.validate(&document, any).is_ok());
            document.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
            assert!(schemas.validate(&document, any).is_err(), "{document}");
        }
    }

    /// An editor tells the fields of filters, wherever they stand.
    #[test]
    fn pipelines_know_their_filters() {
        for (kind, place) in [("Pipeline", ""), ("GlobalFilter", "/$defs/GlobalFilter.PipelineSpec")] {
            let schema: Value = serde_json::from_str(&schema(Some(kind)).unwrap()).unwrap();
            let filters = schema.pointer(&format!("{place}/properties/filters/items")).unwrap();
            assert!(
                filters["properties"]["kind"]["enum"].as_array().unwrap().contains(&json!("RateLimiter")),
                "{kind}"
            );
            assert!(schema["$defs"]["RateLimiter"]["properties"]["policies"].is_object(), "{kind}");
            assert!(schema["$defs"]["Retry"]["properties"]["maxAttempts"].is_object(), "{kind}");
        }
    }

    fn follow(root: &Value, schema: &Value) {
        match schema {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if let Some(target) = value.as_str().filter(|_| name == "$ref") {
                        let pointer = target.strip_prefix('#').unwrap_or_else(|| panic!("{target}"));
                        assert!(pointer.is_empty() || root.pointer(pointer).is_some(), "{target}");
                    }
                    follow(root, value);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| follow(root, item)),
            _ => {}
        }
    }
}
