//! Documents that are kept, in no more memory than they take.

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
