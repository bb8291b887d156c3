//! The catalogue of functions: Go's own, sprig's hermetic ones, and Easegress's extras.
//!
//! Two of sprig's are refused because they would carry the machine's secrets or block a worker: `env`/`expandenv` and
//! `getHostByName`.

mod collections;
mod core;
mod dates;
mod easegress;
mod numbers;
mod texts;

pub(super) use core::truncated;
pub(super) use numbers::parse_int;

use super::provenance::Sayings;
use super::value::{Sink, TOO_BIG, Value, print};
use std::sync::Arc;

/// A function by its name.
pub(super) struct Function {
    pub name: &'static str,
    /// Fewest and most arguments.
    pub least: usize,
    pub most: usize,
    pub call: Call,
}

pub(super) type Call = for<'x> fn(&mut Work, &[Value<'x>]) -> Answer<'x>;
pub(super) type Answer<'x> = Result<Value<'x>, String>;

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Any number of arguments.
const MANY: usize = usize::MAX;

const fn function(name: &'static str, least: usize, most: usize, call: Call) -> Function {
    Function { name, least, most, call }
}

/// What a run may still spend, work and memory of all its values together, and the texts behind its tokens.
#[derive(Default)]
pub(super) struct Work {
    pub steps: usize,
    pub bytes: usize,
    pub sayings: Sayings,
    /// The function that runs writes texts as tokens.
    pub hide_texts: bool,
    /// What `log` wants written: the level and the text.
    pub said: Option<(Arc<str>, Arc<str>)>,
}

impl Work {
    /// Pays for `count` steps.
    pub fn spend(&mut self, count: usize) -> Result<(), String> {
        self.steps = self.steps.checked_sub(count).ok_or("the template works too long")?;
        Ok(())
    }

    /// Pays for a text about to be made.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), String> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or(TOO_BIG)?;
        Ok(())
    }

    pub fn text<'x>(&mut self, text: impl AsRef<str>) -> Answer<'x> {
        self.reserve(text.as_ref().len())?;
        Ok(Value::text(text))
    }

    pub fn list<'x>(&mut self, items: Vec<Value<'x>>) -> Answer<'x> {
        self.spend(items.len())?;
        self.reserve(items.len() * size_of::<Value<'x>>())?;
        Ok(Value::list(items))
    }

    pub fn map<'x>(&mut self, entries: Vec<(Arc<str>, Value<'x>)>) -> Answer<'x> {
        self.spend(entries.len())?;
        self.reserve(entries.len() * 2 * size_of::<Value<'x>>())?;
        Ok(Value::map(entries))
    }

    /// Any value as `%v` prints it; a text is itself.
    pub fn show(&mut self, value: &Value<'_>) -> Result<Arc<str>, String> {
        if let Value::Text(text) = value {
            return Ok(text.clone());
        }
        let mut out = Sink::new(self.bytes);
        print(value, &mut out)?;
        self.reserve(out.len())?;
        Ok(Arc::from(out.as_str()))
    }
}

/// A function by the name templates call it.
pub(super) fn named(name: &str) -> Option<&'static Function> {
    tables().find(|f| f.name == name)
}

/// What to say of a name nobody knows.
pub(super) fn unknown(name: &str) -> String {
    match name {
        "env" | "expandenv" => {
            return format!("function {name} is not available: templates do not see the environment of the process");
        }
        "getHostByName" => return "function getHostByName is not available: templates do not wait for DNS".to_owned(),
        _ => {}
    }
    match base_model::problem::nearest(name, tables().map(|f| f.name)) {
        Some(near) => format!("function {name} is not defined; did you mean {near}?"),
        None => format!("function {name} is not defined"),
    }
}

fn tables() -> impl Iterator<Item = &'static Function> {
    [core::TABLE, texts::TABLE, numbers::TABLE, collections::TABLE, dates::TABLE, easegress::TABLE]
        .into_iter()
        .flatten()
}

// ---- arguments

fn wants(what: &str, value: &Value<'_>) -> String {
    format!("wants {what}, not {}", value.type_name())
}

/// An argument that must be a text.
fn text_of(value: &Value<'_>) -> Result<Arc<str>, String> {
    match value {
        Value::Text(text) => Ok(text.clone()),
        Value::Bytes(bytes) => Ok(Arc::from(String::from_utf8_lossy(bytes).as_ref())),
        other => Err(wants("a text", other)),
    }
}

/// An argument that must be a whole number.
fn int_of(value: &Value<'_>) -> Result<i64, String> {
    match value {
        Value::Int(n) => Ok(*n),
        Value::Float(n) if n.fract() == 0.0 && n.abs() < 9e15 => Ok(*n as i64),
        other => Err(wants("a whole number", other)),
    }
}

/// The items of an argument that must be a list.
fn items_of<'x>(value: &Value<'x>) -> Result<Vec<Value<'x>>, String> {
    match value.clone().plain() {
        Value::List(list) => Ok(list.items().to_vec()),
        Value::Bytes(bytes) => Ok(bytes.iter().map(|b| Value::Int(i64::from(*b))).collect()),
        Value::Nil => Ok(Vec::new()),
        other => Err(wants("a list", &other)),
    }
}

fn map_of<'x>(value: &Value<'x>) -> Result<std::rc::Rc<super::value::Dict<'x>>, String> {
    match value.clone().plain() {
        Value::Map(map) => Ok(map),
        other => Err(wants("a map", &other)),
    }
}

fn key_of(value: &Value<'_>) -> Result<Arc<str>, String> {
    match value {
        Value::Text(text) => Ok(text.clone()),
        Value::Int(n) => Ok(Arc::from(n.to_string())),
        other => Err(wants("a text as key", other)),
    }
}

/// A pattern; compiled ones are kept, since a template uses the same few for every request.
fn regex_of(pattern: &str) -> Result<regex::Regex, String> {
    use std::cell::RefCell;
    use std::collections::HashMap;
    thread_local! {
        static COMPILED: RefCell<HashMap<String, regex::Regex>> = RefCell::new(HashMap::new());
    }
    COMPILED.with_borrow_mut(|compiled| {
        if let Some(regex) = compiled.get(pattern) {
            return Ok(regex.clone());
        }
        let regex = base_model::regexp::compile(pattern)
            .map_err(|why| format!("\"{}\" is no regular expression: {why}", truncated(pattern)))?;
        if compiled.len() >= COMPILED_MAX {
            compiled.clear();
        }
        compiled.insert(pattern.to_owned(), regex.clone());
        Ok(regex)
    })
}

/// Patterns kept per thread; templates that make patterns out of requests start over when they fill it.
const COMPILED_MAX: usize = 64;

/// Every name, for tests that try them all.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    tables().map(|f| f.name)
}
