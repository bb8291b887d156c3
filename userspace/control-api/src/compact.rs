//! Documents that are kept, in no more memory than they take.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// The same value, without the room that its lists and maps were given to grow into: nearly half of a small document's memory, which is
/// nothing while one is read and much where ten thousand are kept.
pub fn compact(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut kept = Map::with_capacity(fields.len());
            kept.extend(fields.into_iter().map(|(name, value)| (name, compact(value))));
            Value::Object(kept)
        }
        Value::Array(items) => {
            let mut kept: Vec<Value> = items.into_iter().map(compact).collect();
            kept.shrink_to_fit();
            Value::Array(kept)
        }
        other => other,
    }
}

/// A value that is kept and seldom looked at, as its text, which takes a fifth of the memory of what is read of it. A copy is the very same
/// in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept(Arc<str>);

impl Kept {
    pub fn of(value: &Value) -> Kept {
        Kept(value.to_string().into())
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    pub fn read(&self) -> Value {
        serde_json::from_str(&self.0).expect("it was written from a value")
    }

    /// Whether it is the text of this value, with its fields in this order.
    pub fn is(&self, value: &Value) -> bool {
        *self.0 == *value.to_string()
    }

    /// Whether both are the very same in memory.
    pub fn is_same(&self, other: &Kept) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether nobody else holds it.
    pub fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl Default for Kept {
    fn default() -> Kept {
        Kept::of(&Value::Null)
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Kept, D::Error> {
        Ok(Kept::of(&Value::deserialize(d)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_kept_as_text_is_read_as_it_was() {
        let value = json!({"b": [1, "ä\"", {"x": null}], "a": 1.5});
        let kept = Kept::of(&value);
        assert_eq!((kept.read(), kept.is(&value), kept.is(&json!({"a": 1.5}))), (value.clone(), true, false));
        assert!(kept.is_same(&kept.clone()) && !kept.is_same(&Kept::of(&value)) && kept == Kept::of(&value));
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Has {
            field: Kept,
        }
        let from_text: Has = serde_json::from_str(r#"{"field": {"a": [1, 2]}}"#).unwrap();
        let from_value: Has = serde_json::from_value(json!({"field": {"a": [1, 2]}})).unwrap();
        assert_eq!((from_text.field.read(), from_value.field.read()), (json!({"a": [1, 2]}), json!({"a": [1, 2]})));
        assert_eq!(serde_json::from_str::<Has>("{}").unwrap().field.read(), Value::Null);
    }

    #[test]
    fn it_is_the_same_in_less_room() {
        let text = r#"{"b": [{"x": 1, "y": [1, 2, 3, 4, 5]}, "s"], "a": null, "c": {"d": {}}}"#;
        let read: Value = serde_json::from_str(text).unwrap();
        let kept = compact(read.clone());
        assert_eq!(kept, read);
        let order = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(order(&kept), order(&read), "fields stay in their order");
        let Value::Array(items) = &kept["b"] else { panic!("{kept}") };
        assert_eq!(items.capacity(), items.len());
        let mut list = Vec::with_capacity(100);
        list.push(json!(1));
        let Value::Array(list) = compact(Value::Array(list)) else { panic!() };
        assert_eq!(list.capacity(), 1);
    }
}
