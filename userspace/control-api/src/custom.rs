//! What documents of custom data must be: kinds, batches of items, and items by the schema of their kind. The admin API asks it of what
//! comes in, and `weirctl check` of what will.

use base_model::problem::nth;
use base_model::{Problem, UrlName};
use serde_json::Value;

use crate::{CustomKind, Document};

/// `{rebuild, delete: [ids], list: [items]}`: changes of a kind's items that go together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CustomBatch {
    /// Whether all other items go.
    pub rebuild: bool,
    pub delete: Vec<String>,
    pub list: Vec<Value>,
}

/// Fields of a `CustomDataKind`.
pub const CUSTOM_KIND_FIELDS: [&str; 5] = ["name", "kind", "version", "idField", "jsonSchema"];

/// Fields of a `CustomData`.
pub const CUSTOM_BATCH_FIELDS: [&str; 6] = ["name", "kind", "version", "rebuild", "delete", "list"];

impl CustomKind {
    /// Of a document; its schema can be compiled.
    pub fn read(document: &Value) -> Result<CustomKind, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut text = |key: &str| match document.get(key) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => {
                problems.push(Problem::new(key, "text is wanted").value(other));
                String::new()
            }
        };
        let (name, id_field) = (text("name"), text("idField"));
        if problems.iter().all(|problem| problem.path != "name")
            && let Some(why) = UrlName::why_not(&name)
        {
            problems.push(Problem::new("name", why).text(&name));
        }
        let json_schema = match document.get("jsonSchema") {
            None | Some(Value::Null) => None,
            Some(schema @ Value::Object(_)) => {
                problems.extend(compile(schema).err().map(|why| Problem::new("jsonSchema", why)));
                Some(Document::new(schema.clone()))
            }
            Some(other) => {
                problems.push(Problem::new("jsonSchema", "a JSON schema is a mapping").value(other));
                None
            }
        };
        if problems.is_empty() { Ok(CustomKind { name, id_field, json_schema }) } else { Err(problems) }
    }

    /// Key whose value is an item's id.
    pub fn id_key(&self) -> &str {
        if self.id_field.is_empty() { "name" } else { &self.id_field }
    }

    /// The id of an item.
    pub fn id_of(&self, item: &Value) -> Result<String, String> {
        let key = self.id_key();
        match item.get(key) {
            Some(Value::String(id)) if !id.is_empty() => Ok(id.clone()),
            Some(other) => Err(format!("{}: {key} = {other}: the id of an item is text that is not empty", self.name)),
            None => Err(format!("{}: {key}: required: it is the id of the item", self.name)),
        }
    }
}

impl CustomBatch {
    pub fn read(document: &Value) -> Result<CustomBatch, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut batch = CustomBatch::default();
        match document.get("rebuild") {
            None | Some(Value::Null) => {}
            Some(Value::Bool(rebuild)) => batch.rebuild = *rebuild,
            Some(other) => problems.push(Problem::new("rebuild", "true or false is wanted").value(other)),
        }
        match document.get("delete") {
            None | Some(Value::Null) => {}
            Some(Value::Array(ids)) => {
                for (n, id) in ids.iter().enumerate() {
                    match id.as_str() {
                        Some(id) => batch.delete.push(id.to_owned()),
                        None => problems.push(Problem::new(nth("delete", n), "an id is text").value(id)),
                    }
                }
            }
            Some(other) => problems.push(Problem::new("delete", "a list of ids is wanted").value(other)),
        }
        match document.get("list") {
            None | Some(Value::Null) => {}
            Some(Value::Array(items)) => batch.list.clone_from(items),
            Some(other) => problems.push(Problem::new("list", "a list of items is wanted").value(other)),
        }
        if problems.is_empty() { Ok(batch) } else { Err(problems) }
    }

    /// What its items are wrong in. Without the kind it is only known that each is a mapping.
    pub fn check(&self, rules: Option<&CustomRules<'_>>) -> Vec<Problem> {
        let check = |item: &Value| match rules {
            Some(rules) => rules.check(item),
            None => CustomRules::check_shape(item),
        };
        let told = self.list.iter().enumerate().map(|(n, item)| (n, check(item)));
        told.filter_map(|(n, told)| Some(Problem::new(nth("list", n), told.err()?))).collect()
    }
}

/// A kind's schema, compiled once for all items of a request.
pub struct CustomRules<'k> {
    kind: &'k CustomKind,
    schema: Option<(boon::Schemas, boon::SchemaIndex)>,
}

impl CustomRules<'_> {
    pub fn of(kind: &CustomKind) -> Result<CustomRules<'_>, String> {
        Ok(CustomRules { kind, schema: kind.json_schema.as_deref().map(compile).transpose()? })
    }

    /// Whether an item fits its kind: the schema, and an id.
    pub fn check(&self, item: &Value) -> Result<(), String> {
        Self::check_shape(item)?;
        if let Some((schemas, index)) = &self.schema {
            schemas.validate(item, *index).map_err(|error| {
                let mut reasons = Vec::new();
                leaves(&error, &mut reasons);
                format!("does not fit the schema of \"{}\": {}", self.kind.name, reasons.join("; "))
            })?;
        }
        self.kind.id_of(item).map(drop)
    }

    fn check_shape(item: &Value) -> Result<(), String> {
        if item.is_object() { Ok(()) } else { Err("an item is a mapping".into()) }
    }
}

/// The innermost reasons: `/age: want integer, but got string`.
fn leaves(error: &boon::ValidationError, reasons: &mut Vec<String>) {
    if error.causes.is_empty() {
        let place = error.instance_location.to_string();
        let place = if place.is_empty() { "the item".to_owned() } else { place };
        reasons.push(format!("{place}: {}", error.kind));
    }
    for cause in &error.causes {
        leaves(cause, reasons);
    }
}

#[cfg(test)]
thread_local! {
    static COMPILED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn compile(schema: &Value) -> Result<(boon::Schemas, boon::SchemaIndex), String> {
    #[cfg(test)]
    COMPILED.set(COMPILED.get() + 1);
    let mut schemas = boon::Schemas::new();
    let mut compiler = boon::Compiler::new();
    // A schema must not make this machine read files or pages.
    compiler.use_loader(Box::new(NoLoader));
    compiler.add_resource(SCHEMA_URL, schema.clone()).map_err(|e| e.to_string())?;
    let index = compiler.compile(SCHEMA_URL, &mut schemas).map_err(|e| format!("{e:#}"))?;
    Ok((schemas, index))
}

struct NoLoader;

impl boon::UrlLoader for NoLoader {
    fn load(&self, url: &str) -> Result<Value, Box<dyn std::error::Error>> {
        Err(format!("$ref to {url}: only references inside the schema are followed").into())
    }
}

const SCHEMA_URL: &str = "weir:///schema.json";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn everything_that_is_wrong_with_a_kind_is_told() {
        for (document, wanted) in [
            (json!({"name": "k"}), &[][..]),
            (json!({"name": "k", "idField": null, "jsonSchema": {"type": "object"}}), &[]),
            (json!({}), &["name"]),
            (json!({"name": 5, "idField": 5}), &["name", "idField"]),
            (json!({"name": "a/b", "jsonSchema": {"type": "nonsense"}}), &["name", "jsonSchema"]),
            (json!({"name": "k", "jsonSchema": true}), &["jsonSchema"]),
            (json!({"name": "k", "jsonSchema": {"$ref": "file:///etc/passwd"}}), &["jsonSchema"]),
        ] {
            let told = CustomKind::read(&document).err().unwrap_or_default();
            assert_eq!(told.iter().map(|problem| &problem.path).collect::<Vec<_>>(), wanted, "{document}");
        }
    }

    #[test]
    fn items_fit_their_kind() {
        let schema = json!({"type": "object", "properties": {"age": {"type": "integer"}}});
        let kind = CustomKind::read(&json!({"name": "k", "idField": "id", "jsonSchema": schema})).unwrap();
        let rules = CustomRules::of(&kind).unwrap();
        let list = json!([5, {"id": "a"}, {"id": "b", "age": "x"}, {"age": 1}, {"id": ""}]);
        let batch = CustomBatch::read(&json!({"list": list, "delete": ["c"], "rebuild": true})).unwrap();
        let told = |rules| batch.check(rules).iter().map(ToString::to_string).collect::<Vec<_>>();
        let wanted = [
            "list[0]: an item is a mapping",
            "list[2]: does not fit the schema of \"k\": /age: want integer, but got string",
            "list[3]: k: id: required: it is the id of the item",
            "list[4]: k: id = \"\": the id of an item is text that is not empty",
        ];
        assert_eq!(told(Some(&rules)), wanted);
        assert_eq!(told(None), wanted[..1], "without the kind nothing more is known");
        let before = COMPILED.get();
        let many: Vec<Value> = (0..500).map(|n| json!({"id": format!("i{n}"), "age": n})).collect();
        let rules = CustomRules::of(&kind).unwrap();
        assert_eq!(CustomBatch::read(&json!({"list": many})).unwrap().check(Some(&rules)).len(), 0);
        assert_eq!(COMPILED.get() - before, 1, "once for all items");
        for document in [json!({"rebuild": 1}), json!({"delete": [7]}), json!({"delete": "a"}), json!({"list": {}})] {
            assert_eq!(CustomBatch::read(&document).unwrap_err().len(), 1, "{document}");
        }
    }
}
