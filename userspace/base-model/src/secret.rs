//! Secrets of documents: hidden where documents are shown, and put back where a shown document comes in again.
//!
//! Which fields are secret is said by the schemas (`x-secret`), where the fields are defined. A list of documents that need not say their
//! kind says it for them (`x-kind`).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::decode::{resolve, types_of};
use crate::explain::{Explained, kinds};
use crate::problem::{Problem, at, nth};

/// Stands where a secret is. A document that comes in with it keeps the secret that was there; kubectl's word, so that people know it.
pub const HIDDEN: &str = "DATA+OMITTED";

/// The fields nobody is shown, of every kind there is.
#[derive(Debug, Clone)]
pub struct Secrets {
    kinds: Vec<Explained>,
}

impl Secrets {
    /// `further` adds kinds of others, such as the filters' catalog.
    pub fn new(further: &[Explained]) -> Self {
        Self { kinds: kinds().into_iter().chain(further.iter().cloned()).collect() }
    }

    /// The document as it may be shown.
    pub fn hide(&self, document: &Value) -> Value {
        let mut shown = document.clone();
        self.each(&mut shown, &mut |_, _, secret| *secret = HIDDEN.to_owned());
        shown
    }

    /// Puts secrets of the stored document back where `document` has [`HIDDEN`] in their place. Filters are found again by their
    /// names, whatever their order. A place that had no secret is a problem.
    pub fn restore(&self, document: &mut Value, stored: Option<&Value>) -> Vec<Problem> {
        let mut known = BTreeMap::new();
        if let Some(stored) = stored {
            self.each(&mut stored.clone(), &mut |place, _, secret| {
                drop(known.insert(place.to_owned(), secret.clone()))
            });
        }
        let mut problems = Vec::new();
        self.each(document, &mut |place, path, secret| {
            if secret == HIDDEN {
                match known.get(place) {
                    Some(kept) => *secret = kept.clone(),
                    None => problems.push(
                        Problem::new(path, format!("{HIDDEN} stands for a secret that is stored, and none is"))
                            .advice("give the secret itself"),
                    ),
                }
            }
        });
        problems
    }

    fn each(&self, document: &mut Value, then: &mut Then) {
        let Some(schema) = self.schema(document) else { return };
        Walk { secrets: self, root: schema, then }.walk(document, schema, false, "", "");
    }

    /// Of the kind the value says it is.
    fn schema(&self, value: &Value) -> Option<&Value> {
        self.of_kind(text_of(value, "kind")?)
    }

    fn of_kind(&self, kind: &str) -> Option<&Value> {
        self.kinds.iter().find(|known| known.kind.eq_ignore_ascii_case(kind)).map(|known| known.schema.as_ref())
    }
}

/// Place that stays the same when a list is reordered, path for people, the secret.
type Then<'t> = dyn FnMut(&str, &str, &mut String) + 't;

struct Walk<'w, 't> {
    secrets: &'w Secrets,
    root: &'w Value,
    then: &'w mut Then<'t>,
}

impl<'w> Walk<'w, '_> {
    fn walk(&mut self, value: &mut Value, schema: &'w Value, secret: bool, place: &str, path: &str) {
        let secret = secret || schema.get("x-secret") == Some(&Value::Bool(true));
        let schema = resolve(self.root, schema);
        let secret = secret || schema.get("x-secret") == Some(&Value::Bool(true));
        if let Some(choices) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array) {
            for choice in choices.iter().filter(|choice| types_of(resolve(self.root, choice)) != ["null"]) {
                self.walk(value, choice, secret, place, path);
            }
            return;
        }
        match value {
            Value::String(text) if secret && !text.is_empty() => (self.then)(place, path, text),
            Value::Object(map) => {
                let known = schema.get("properties").and_then(Value::as_object);
                let rest = schema.get("additionalProperties");
                for (key, value) in map.iter_mut() {
                    let field = known.and_then(|known| {
                        let same = |name: &&String| name.eq_ignore_ascii_case(key);
                        known.get(key).or_else(|| known.keys().find(same).and_then(|name| known.get(name)))
                    });
                    // Names of maps are told apart by case, names of fields are not.
                    let step = if field.is_some() { key.to_ascii_lowercase() } else { key.clone() };
                    if let Some(schema) = field.or(rest) {
                        self.walk(value, schema, secret, &format!("{place}/{step}"), &at(path, key));
                    }
                }
            }
            Value::Array(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    let step = text_of(item, "name").map_or_else(|| i.to_string(), |name| format!("={name}"));
                    let (place, path) = (format!("{place}/{step}"), nth(path, i));
                    // What has a kind of its own, as filters do, is known by that, and what need not say it by where it stands.
                    let of_place = || self.secrets.of_kind(schema.get("x-kind")?.as_str()?);
                    if let Some(schema) = self.secrets.schema(item).or_else(of_place) {
                        Walk { secrets: self.secrets, root: schema, then: self.then }
                            .walk(item, schema, secret, &place, &path);
                    } else if let Some(schema) = schema.get("items") {
                        self.walk(item, schema, secret, &place, &path);
                    }
                }
            }
            _ => {}
        }
    }
}

fn text_of<'v>(value: &'v Value, field: &str) -> Option<&'v str> {
    let map = value.as_object()?;
    map.get(field).or_else(|| map.iter().find(|(key, _)| key.eq_ignore_ascii_case(field)).map(|(_, v)| v))?.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stored() -> Value {
        json!({
            "name": "s", "kind": "HTTPServer", "port": 1, "KeyBase64": "k0", "certBase64": "c0",
            "keys": {"one": "k1", "Two": "k2"},
            "rules": [{"paths": [{"backendPool": {"servers": [], "healthCheck": {"username": "u", "password": "p0"}}}]}],
        })
    }

    fn pipeline(order: &[(&str, &str)]) -> Value {
        let filters: Vec<Value> = order
            .iter()
            .map(|(name, key)| json!({"name": name, "kind": "Proxy", "mtls": {"certBase64": "c", "keyBase64": key}}))
            .collect();
        json!({"name": "p", "kind": "Pipeline", "filters": filters})
    }

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        let secrets = Secrets::new(&[]);
        let shown = secrets.hide(&stored());
        let mut wanted = stored();
        wanted["KeyBase64"] = HIDDEN.into();
        wanted["keys"] = json!({"one": HIDDEN, "Two": HIDDEN});
        wanted["rules"][0]["paths"][0]["backendPool"]["healthCheck"]["password"] = HIDDEN.into();
        assert_eq!(shown, wanted);
        assert_eq!(secrets.hide(&pipeline(&[("a", "k")])), pipeline(&[("a", HIDDEN)]));
        let around = |key| json!({"name": "g", "kind": "GlobalFilter", "beforePipeline": pipeline(&[("a", key)])});
        assert_eq!(secrets.hide(&around("k")), around(HIDDEN));
    }

    #[test]
    fn what_was_shown_comes_in_again_as_it_was() {
        let secrets = Secrets::new(&[]);
        let mut back = secrets.hide(&stored());
        back["port"] = 2.into();
        assert_eq!(secrets.restore(&mut back, Some(&stored())), []);
        let mut wanted = stored();
        wanted["port"] = 2.into();
        assert_eq!(back, wanted);
        let mut turned = pipeline(&[("b", HIDDEN), ("a", HIDDEN), ("c", "new")]);
        assert_eq!(secrets.restore(&mut turned, Some(&pipeline(&[("a", "ka"), ("b", "kb"), ("c", "kc")]))), []);
        assert_eq!(turned, pipeline(&[("b", "kb"), ("a", "ka"), ("c", "new")]));
    }

    #[test]
    fn a_hidden_secret_nobody_has_is_refused() {
        let secrets = Secrets::new(&[]);
        let mut fresh = secrets.hide(&stored());
        let told: Vec<String> = secrets.restore(&mut fresh, None).iter().map(|p| p.path.clone()).collect();
        assert_eq!(told, ["KeyBase64", "keys.one", "keys.Two", "rules[0].paths[0].backendPool.healthCheck.password"]);
    }
}
