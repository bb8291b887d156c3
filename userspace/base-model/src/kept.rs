//! Values that are kept by the ten thousand, as text.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A value that is kept and seldom looked at, as its text, which takes a fifth of the memory of what is read of it. A copy is the very same
/// in memory.
#[derive(Clone)]
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

    /// Whether it is this value.
    pub fn holds(&self, value: &Value) -> bool {
        self.is(value) || self.read() == *value
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

/// The same value, in whichever order its fields are.
impl PartialEq for Kept {
    fn eq(&self, other: &Kept) -> bool {
        self.is_same(other) || self.0 == other.0 || self.read() == other.read()
    }
}

impl Eq for Kept {}

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

impl Serialize for Kept {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.read().serialize(s)
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
        assert_eq!(serde_json::to_value(&kept).unwrap(), value);
        let turned = Kept::of(&json!({"a": 1.5, "b": [1, "ä\"", {"x": null}]}));
        assert!(
            turned == kept && kept.holds(&turned.read()) && kept != Kept::of(&json!({})),
            "the order of fields says nothing"
        );
        assert_eq!(serde_json::from_str::<Has>("{}").unwrap().field.read(), Value::Null);
    }
}
