//! `explain` and `schema`: what a kind is for, what its fields mean, and both for editors.

use base_model::Problem;
use base_model::explain::{Explained, kinds};
use serde_json::{Map, Value, json};

use crate::catalog;

/// Text about a kind or a field; of a filter also what its module says: an example, results, what it costs.
pub fn explain(query: &str) -> Result<String, String> {
    let mut text = base_model::explain(query, &catalog::explained()).map_err(|problem| problem.to_string())?;
    let filter = edge_filters::kinds().iter().find(|filter| filter.kind.eq_ignore_ascii_case(query));
    if let Some(filter) = filter {
        let results = if filter.results.is_empty() { "none".to_owned() } else { filter.results.join(", ") };
        text = format!("{}\n\nResults a jumpIf may name: {results}\n\n{}\n", text.trim_end(), filter.doc.trim());
    }
    Ok(text)
}

/// The JSON Schema of a kind's documents; of a filter, of its entry in `filters`.
pub fn schema(kind: &str) -> Result<String, String> {
    let canonical = base_model::kinds::find(kind).map_or(kind, |found| found.name);
    let (own, filters) = (kinds(), catalog::explained());
    let mut all = own.iter().chain(&filters);
    let Some(found) = all.find(|known| known.kind.eq_ignore_ascii_case(canonical)) else {
        // Says which there are.
        let problem = base_model::explain(kind, &filters).err();
        return Err(problem.unwrap_or_else(|| Problem::new("", "no such kind")).to_string());
    };
    serde_json::to_string_pretty(&of(found)).map_err(|e| format!("the schema cannot be printed: {e}"))
}

/// The schema of the fields, with those that all documents have.
fn of(found: &Explained) -> Value {
    let mut schema = found.schema.as_ref().clone();
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = found.kind.as_str().into();
    let mut properties = Map::new();
    properties.insert("name".into(), json!({"type": "string", "minLength": 1}));
    properties.insert("kind".into(), json!({"const": found.kind}));
    if let Some(Value::Object(fields)) = schema.get("properties") {
        properties.extend(fields.clone());
    }
    schema["properties"] = properties.into();
    let mut required = vec![json!("name"), json!("kind")];
    if let Some(Value::Array(fields)) = schema.get("required") {
        required.extend(fields.clone());
    }
    schema["required"] = required.into();
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_say_their_results_and_show_an_example() {
        let text = explain("Kafka").unwrap();
        assert!(text.contains("jumpIf may name: parseErr, produceErr, queueFull"), "{text}");
        assert!(text.contains("topic") && text.contains("```yaml"), "{text}");
        assert!(!explain("Kafka.topic").unwrap().contains("jumpIf"));
    }

    #[test]
    fn every_kind_has_a_schema_that_names_it() {
        for known in kinds().iter().chain(&catalog::explained()) {
            let schema: Value = serde_json::from_str(&schema(&known.kind).unwrap()).unwrap();
            assert_eq!(schema["properties"]["kind"]["const"], known.kind.as_str());
            assert!(schema["required"].as_array().is_some_and(|fields| fields.contains(&json!("name"))));
        }
        assert!(schema("Kafak").unwrap_err().contains("Kafka"));
    }
}
