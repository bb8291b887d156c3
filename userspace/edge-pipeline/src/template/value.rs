//! What a running template computes with: Go's kinds, Go's idea of truth, Go's way to print.

use super::root::Object;
use super::time::Moment;
use serde_json::{Map as JsonMap, Number, Value as Json};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

/// A value; `'x` is the exchange that request and response objects look into.
#[derive(Clone)]
pub(super) enum Value<'x> {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Arc<str>),
    Bytes(Arc<[u8]>),
    List(Rc<List<'x>>),
    Map(Rc<Dict<'x>>),
    Time(Moment),
    Object(Object<'x>),
}

/// Items of a list; never changed once made.
#[derive(Default)]
pub(super) struct List<'x>(Vec<Value<'x>>);

/// A map from text; `set` and `unset` change it in place, as sprig's do.
#[derive(Default)]
pub(super) struct Dict<'x>(RefCell<BTreeMap<Arc<str>, Value<'x>>>);

impl<'x> List<'x> {
    pub fn items(&self) -> &[Value<'x>] {
        &self.0
    }
}

impl<'x> Dict<'x> {
    pub fn value(&self, key: &str) -> Option<Value<'x>> {
        self.0.borrow().get(key).cloned()
    }

    pub fn entries(&self) -> Vec<(Arc<str>, Value<'x>)> {
        self.0.borrow().iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    pub fn remove(&self, key: &str) {
        // The old value is dropped after the borrow ends: its own drop may look into other maps.
        let old = self.0.borrow_mut().remove(key);
        drop(old);
    }

    /// Puts a value under a key, unless the map would come to hold itself.
    pub fn set(self: &Rc<Self>, key: Arc<str>, value: Value<'x>) -> Result<(), &'static str> {
        if reaches(&value, self) {
            return Err("a map cannot hold itself");
        }
        let old = self.0.borrow_mut().insert(key, value);
        drop(old);
        Ok(())
    }
}

/// Whether `target` can be reached from `value`. Each container is visited once.
fn reaches<'x>(value: &Value<'x>, target: &Rc<Dict<'x>>) -> bool {
    let mut seen: HashSet<*const ()> = HashSet::new();
    let mut open = vec![value.clone()];
    while let Some(value) = open.pop() {
        match value {
            Value::Map(map) => {
                if Rc::ptr_eq(&map, target) {
                    return true;
                }
                if seen.insert(Rc::as_ptr(&map).cast()) {
                    open.extend(map.0.borrow().values().filter(|v| v.is_container()).cloned());
                }
            }
            Value::List(list) if seen.insert(Rc::as_ptr(&list).cast()) => {
                open.extend(list.0.iter().filter(|v| v.is_container()).cloned());
            }
            _ => {}
        }
    }
    false
}

// A template can nest lists as deep as its steps allow. Dropping them one inside the other would need a stack as deep,
// so the children are taken out first and dropped in a loop.
impl Drop for List<'_> {
    fn drop(&mut self) {
        if self.0.iter().any(Value::is_container) {
            drop_all(std::mem::take(&mut self.0));
        }
    }
}

impl Drop for Dict<'_> {
    fn drop(&mut self) {
        let map = self.0.get_mut();
        if map.values().any(Value::is_container) {
            drop_all(std::mem::take(map).into_values().collect());
        }
    }
}

fn drop_all(mut open: Vec<Value<'_>>) {
    while let Some(value) = open.pop() {
        match value {
            Value::List(list) => {
                if let Ok(mut list) = Rc::try_unwrap(list) {
                    open.append(&mut list.0);
                }
            }
            Value::Map(map) => {
                if let Ok(mut map) = Rc::try_unwrap(map) {
                    open.extend(std::mem::take(map.0.get_mut()).into_values());
                }
            }
            _ => {}
        }
    }
}

impl<'x> Value<'x> {
    pub fn text(text: impl AsRef<str>) -> Value<'x> {
        Value::Text(Arc::from(text.as_ref()))
    }

    pub fn list(items: Vec<Value<'x>>) -> Value<'x> {
        Value::List(Rc::new(List(items)))
    }

    pub fn map(entries: impl IntoIterator<Item = (Arc<str>, Value<'x>)>) -> Value<'x> {
        Value::Map(Rc::new(Dict(RefCell::new(entries.into_iter().collect()))))
    }

    fn is_container(&self) -> bool {
        matches!(self, Value::List(_) | Value::Map(_))
    }

    /// Go's truth: anything but false, zero, nothing and the empty.
    pub fn is_true(&self) -> bool {
        match self {
            Value::Nil => false,
            Value::Bool(b) => *b,
            Value::Int(n) => *n != 0,
            Value::Float(n) => *n != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::Bytes(bytes) => !bytes.is_empty(),
            Value::List(list) => !list.0.is_empty(),
            Value::Map(map) => map.len() > 0,
            Value::Time(_) => true,
            Value::Object(object) => object.is_true(),
        }
    }

    /// Name of the type as `typeOf` and `%T` print it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Nil => "<nil>",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float64",
            Value::Text(_) => "string",
            Value::Bytes(_) => "[]uint8",
            Value::List(_) => "[]interface {}",
            Value::Map(_) => "map[string]interface {}",
            Value::Time(_) => "time.Time",
            Value::Object(object) => object.type_name(),
        }
    }

    /// Name of the kind as `kindOf` prints it.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Value::Nil => "invalid",
            Value::Bytes(_) | Value::List(_) => "slice",
            Value::Map(_) => "map",
            Value::Time(_) => "struct",
            Value::Object(object) => object.kind_name(),
            other => other.type_name(),
        }
    }

    /// Objects that are maps in Go become maps; everything else stays.
    pub fn plain(self) -> Value<'x> {
        match self {
            Value::Object(object) => object.as_map().unwrap_or(self),
            other => other,
        }
    }

    /// A JSON value as `encoding/json` decodes it: every number is a float.
    pub fn of_json(json: &Json) -> Value<'x> {
        Value::of_tree(json, false)
    }

    /// A YAML value: whole numbers stay whole.
    pub fn of_yaml(json: &Json) -> Value<'x> {
        Value::of_tree(json, true)
    }

    fn of_tree(json: &Json, whole: bool) -> Value<'x> {
        match json {
            Json::Null => Value::Nil,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match n.as_i64() {
                Some(n) if whole => Value::Int(n),
                _ => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::text(text),
            Json::Array(items) => Value::list(items.iter().map(|v| Value::of_tree(v, whole)).collect()),
            Json::Object(map) => Value::map(map.iter().map(|(k, v)| (Arc::from(k.as_str()), Value::of_tree(v, whole)))),
        }
    }

    /// As JSON. Too deep, not a number, or an object of the exchange: an error.
    pub fn to_json(&self, nodes: &mut usize) -> Result<Json, &'static str> {
        self.to_json_at(0, nodes)
    }

    fn to_json_at(&self, depth: usize, nodes: &mut usize) -> Result<Json, &'static str> {
        if depth > DEPTH_MAX {
            return Err(TOO_DEEP);
        }
        *nodes = nodes.checked_sub(1).ok_or(TOO_BIG)?;
        Ok(match self {
            Value::Nil => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(n) => Json::from(*n),
            Value::Float(n) if n.fract() == 0.0 && n.abs() < 1e15 => Json::from(*n as i64),
            Value::Float(n) => Json::Number(Number::from_f64(*n).ok_or("JSON has no NaN and no infinity")?),
            Value::Text(text) => {
                *nodes = nodes.checked_sub(text.len() / 16).ok_or(TOO_BIG)?;
                Json::String(text.to_string())
            }
            Value::Bytes(bytes) => Json::String(super::encoding::base64(bytes)),
            Value::List(list) => {
                Json::Array(list.0.iter().map(|v| v.to_json_at(depth + 1, nodes)).collect::<Result<_, _>>()?)
            }
            Value::Map(map) => {
                let mut out = JsonMap::new();
                for (key, value) in map.0.borrow().iter() {
                    out.insert(key.to_string(), value.to_json_at(depth + 1, nodes)?);
                }
                Json::Object(out)
            }
            Value::Time(moment) => Json::String(moment.rfc3339()),
            Value::Object(object) => match object.as_map() {
                Some(map) => map.to_json_at(depth + 1, nodes)?,
                None => return Err("requests and responses have no JSON form; name the field that is wanted"),
            },
        })
    }

    /// `reflect.DeepEqual`, except that numbers compare by their value. `steps` bounds the work.
    pub fn deep_equals(&self, other: &Value<'x>, depth: usize, steps: &mut usize) -> Result<bool, &'static str> {
        if depth > DEPTH_MAX {
            return Err(TOO_DEEP);
        }
        *steps = steps.checked_sub(1).ok_or(TOO_BIG)?;
        Ok(match (self, other) {
            (Value::Nil, Value::Nil) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => a == b,
            (Value::Int(a), Value::Float(b)) | (Value::Float(b), Value::Int(a)) => *a as f64 == *b,
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::Time(a), Value::Time(b)) => a == b,
            (Value::List(a), Value::List(b)) => {
                if a.0.len() != b.0.len() {
                    return Ok(false);
                }
                for (a, b) in a.0.iter().zip(&b.0) {
                    if !a.deep_equals(b, depth + 1, steps)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Map(a), Value::Map(b)) => {
                if Rc::ptr_eq(a, b) {
                    return Ok(true);
                }
                let (a, b) = (a.0.borrow(), b.0.borrow());
                if a.len() != b.len() {
                    return Ok(false);
                }
                for ((ka, va), (kb, vb)) in a.iter().zip(b.iter()) {
                    if ka != kb || !va.deep_equals(vb, depth + 1, steps)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Object(_), _) | (_, Value::Object(_)) => match (self.clone().plain(), other.clone().plain()) {
                (Value::Object(_), _) | (_, Value::Object(_)) => false,
                (a, b) => a.deep_equals(&b, depth + 1, steps)?,
            },
            _ => false,
        })
    }
}

/// Text that refuses to grow beyond a bound.
pub(super) struct Sink {
    text: String,
    max: usize,
}

impl Sink {
    pub fn new(max: usize) -> Sink {
        Sink { text: String::new(), max }
    }

    pub fn push(&mut self, text: &str) -> Result<(), &'static str> {
        if self.text.len() + text.len() > self.max {
            return Err(TOO_BIG);
        }
        self.text.push_str(text);
        Ok(())
    }

    /// Leaves less room, for bytes that will stand in the text later.
    pub fn account(&mut self, bytes: usize) -> Result<(), &'static str> {
        self.max = self.max.checked_sub(bytes).filter(|max| self.text.len() <= *max).ok_or(TOO_BIG)?;
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.text.len()
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn into_text(self) -> String {
        self.text
    }
}

/// Writes a value as Go's `%v` does. `nil` at the top of an action prints as `<no value>`, elsewhere as `<nil>`.
pub(super) fn print(value: &Value<'_>, out: &mut Sink) -> Result<(), &'static str> {
    print_at(value, out, 0)
}

fn print_at(value: &Value<'_>, out: &mut Sink, depth: usize) -> Result<(), &'static str> {
    if depth > DEPTH_MAX {
        return Err(TOO_DEEP);
    }
    match value {
        Value::Nil => out.push("<nil>"),
        Value::Bool(b) => out.push(if *b { "true" } else { "false" }),
        Value::Int(n) => out.push(&n.to_string()),
        Value::Float(n) => out.push(&float(*n)),
        Value::Text(text) => out.push(text),
        Value::Bytes(bytes) => {
            out.push("[")?;
            for (index, byte) in bytes.iter().enumerate() {
                let mut number = String::with_capacity(4);
                // Writing to a String cannot fail.
                let _ = write!(number, "{}{byte}", if index == 0 { "" } else { " " });
                out.push(&number)?;
            }
            out.push("]")
        }
        Value::List(list) => {
            out.push("[")?;
            for (index, item) in list.0.iter().enumerate() {
                if index > 0 {
                    out.push(" ")?;
                }
                print_at(item, out, depth + 1)?;
            }
            out.push("]")
        }
        Value::Map(map) => {
            out.push("map[")?;
            for (index, (key, item)) in map.0.borrow().iter().enumerate() {
                if index > 0 {
                    out.push(" ")?;
                }
                out.push(key)?;
                out.push(":")?;
                print_at(item, out, depth + 1)?;
            }
            out.push("]")
        }
        Value::Time(moment) => out.push(&moment.to_string()),
        Value::Object(object) => match object.as_map() {
            Some(map) => print_at(&map, out, depth + 1),
            None => out.push(&object.to_string()),
        },
    }
}

/// A float as `strconv.FormatFloat(f, 'g', -1, 64)` writes it.
pub(super) fn float(n: f64) -> String {
    if n.is_nan() {
        return "NaN".to_owned();
    }
    if n.is_infinite() {
        return if n > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if n == 0.0 {
        return if n.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    // `{:e}` gives the shortest digits that read back as the same number, as Go's -1 precision does.
    let scientific = format!("{n:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..FLOAT_PLAIN_DIGITS).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{n}")
}

/// Go prints floats of more digits before the point with an exponent.
const FLOAT_PLAIN_DIGITS: i32 = 6;

/// Deepest nesting of lists and maps that is printed, compared or turned into JSON; protects the stack.
pub(super) const DEPTH_MAX: usize = 100;

pub(super) const TOO_DEEP: &str = "lists and maps are nested too deep (more than 100)";
pub(super) const TOO_BIG: &str = "the result is too big";
