//! What the text of a builder's template says: YAML with the keys of a request, a response or an adaptor.
//!
//! Keys match without regard to case, numbers and booleans are taken where a text is wanted, and everything that ends
//! on the wire is checked here: the text may hold what a client sent.

use edge_pipeline::template::RenderError;
use edge_pipeline::{Exchange, Template};
use proto_http::Headers;
use proto_http::headers::{is_name, is_value};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;

/// Why a template's output could not be used.
#[derive(Debug)]
pub(crate) enum BuiltError {
    Render(RenderError),
    Body(edge_pipeline::BodyError),
    Text(String),
}

impl fmt::Display for BuiltError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuiltError::Render(error) => error.fmt(f),
            BuiltError::Body(error) => error.fmt(f),
            BuiltError::Text(text) => f.write_str(text),
        }
    }
}

impl From<String> for BuiltError {
    fn from(text: String) -> BuiltError {
        BuiltError::Text(text)
    }
}

/// The keys of a template's output.
#[derive(Debug, Default)]
pub(crate) struct Built(Map<String, Value>);

/// Runs a template whose bodies are in memory, and reads what it says.
pub(crate) fn render(template: &Template, exchange: &Exchange) -> Result<Built, BuiltError> {
    let text = template.render(exchange).map_err(BuiltError::Render)?;
    match parse(&text)? {
        Value::Null => Ok(Built::default()),
        Value::Object(map) => Ok(Built(map)),
        _ => Err("the template's output is not a mapping".to_owned().into()),
    }
}

/// YAML; a text without anything in it is `null`.
pub(crate) fn parse(text: &str) -> Result<Value, BuiltError> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    base_model::yaml::parse_document(text).map_err(|e| format!("the template's output is not YAML: {e}").into())
}

impl Built {
    /// A key's value; `null` counts as absent.
    pub fn value(&self, key: &str) -> Option<&Value> {
        let exact = self.0.get(key);
        let found = exact.or_else(|| self.0.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v));
        found.filter(|v| !v.is_null())
    }

    /// A text; absent and empty are the same.
    pub fn text(&self, key: &str) -> Result<Option<Cow<'_, str>>, BuiltError> {
        let text = self.value(key).map(|v| text_of(v, key)).transpose()?;
        Ok(text.filter(|t| !t.is_empty()))
    }

    pub fn map(&self, key: &str) -> Result<Option<Built>, BuiltError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Built(map.clone()))),
            Some(_) => Err(format!("{key} is not a mapping").into()),
        }
    }

    /// Names and texts of a mapping.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// `headers: {name: [value, …]}`, checked; one value may stand without its list.
    pub fn headers(&self, key: &str) -> Result<Headers, BuiltError> {
        let mut headers = Headers::new();
        let Some(map) = self.map(key)? else { return Ok(headers) };
        for (name, values) in map.entries() {
            let values = match values {
                Value::Array(values) => values.as_slice(),
                one => std::slice::from_ref(one),
            };
            for value in values {
                let value = text_of(value, name)?;
                headers.add(checked_name(name)?, checked_value(name, &value)?);
            }
        }
        Ok(headers)
    }
}

/// A text, or a number or boolean as the text it was.
pub(crate) fn text_of<'v>(value: &'v Value, key: &str) -> Result<Cow<'v, str>, BuiltError> {
    match value {
        Value::String(text) => Ok(Cow::Borrowed(text)),
        Value::Number(n) => Ok(Cow::Owned(n.to_string())),
        Value::Bool(b) => Ok(Cow::Borrowed(if *b { "true" } else { "false" })),
        Value::Null => Ok(Cow::Borrowed("")),
        _ => Err(format!("{key} is not a text").into()),
    }
}

pub(crate) fn checked_name(name: &str) -> Result<&str, BuiltError> {
    if is_name(name.as_bytes()) { Ok(name) } else { Err(format!("{name:?} is not a header name").into()) }
}

/// White space around a value is not part of it, and a line break inside would start another field.
pub(crate) fn checked_value<'v>(name: &str, value: &'v str) -> Result<&'v str, BuiltError> {
    let value = value.trim();
    if is_value(value.as_bytes()) {
        Ok(value)
    } else {
        Err(format!("the value of {name} holds a control character").into())
    }
}
