//! What the text of a builder's template says: YAML with the keys of a request, a response or an adaptor.
//!
//! Structure comes from the document only. While the text is parsed, what a client or a backend sent stands in it as
//! tokens (see [`edge_pipeline::template::Rendered`]), and every way of reading a field here puts the text back in the
//! manner of what it becomes: as it is in values, names and bodies, escaped in the parts of a URL and in expressions. A name
//! that a message gave is never taken for one of our keys.
//!
//! Keys match without regard to case, numbers and booleans are taken where a text is wanted, and everything that ends
//! on the wire is checked here.

use crate::form::escape_into;
use base_text::quoted;
use edge_pipeline::exchange::add_said;
use edge_pipeline::template::{Form, MarkedPiece, RenderError, Rendered};
use edge_pipeline::{Exchange, Template};
use proto_http::Headers;
use proto_http::headers::{is_name, is_value};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

/// Why a template's output could not be used.
#[derive(Debug)]
pub(crate) enum BuiltError {
    Render(RenderError),
    Body(edge_pipeline::BodyError),
    /// The text is not what it should be.
    Text(String),
    /// A value is not what may be sent there.
    Refused(String),
}

impl fmt::Display for BuiltError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuiltError::Render(error) => error.fmt(f),
            BuiltError::Body(error) => error.fmt(f),
            BuiltError::Text(text) | BuiltError::Refused(text) => f.write_str(text),
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
pub(crate) struct Built {
    map: Map<String, Value>,
    rendered: Rc<Rendered>,
}

/// Runs a template whose bodies are in memory, and reads what it says.
pub(crate) fn render(template: &Template, exchange: &Exchange) -> Result<Built, BuiltError> {
    let rendered = template.render_to_parse(exchange).map_err(BuiltError::Render)?;
    match parse(&rendered)? {
        Value::Null => Ok(Built::default()),
        Value::Object(map) => Ok(Built { map, rendered: Rc::new(rendered) }),
        _ => Err("the template's output is not a mapping".to_owned().into()),
    }
}

/// Runs a template whose bodies are in memory, and reads any YAML. A template that is nothing but a body parses that body.
pub(crate) fn render_any(template: &Template, exchange: &Exchange) -> Result<Value, BuiltError> {
    let rendered = template.render_to_parse(exchange).map_err(BuiltError::Render)?;
    if let Some(text) = rendered.only_message().filter(|_| !template.bodies().is_empty()) {
        return parse_text(text).map_err(|why| format!("the body is not YAML or JSON: {why}").into());
    }
    let mut room = RESTORED_MAX;
    restored(parse(&rendered)?, &rendered, &mut room)
}

/// The output as YAML, with its tokens.
fn parse(rendered: &Rendered) -> Result<Value, BuiltError> {
    parse_text(rendered.text())
        .map_err(|why| format!("the template's output is not YAML: {}", rendered.shown(&why)).into())
}

/// YAML; a text without anything in it is `null`.
fn parse_text(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    base_model::yaml::parse_document(text).map_err(|error| error.to_string())
}

/// A tree with its texts put back. `room` bounds them: an alias may repeat a text.
fn restored(value: Value, rendered: &Rendered, room: &mut usize) -> Result<Value, BuiltError> {
    Ok(match value {
        Value::String(text) => Value::String(restored_text(&text, rendered, room)?),
        Value::Array(items) => {
            Value::Array(items.into_iter().map(|item| restored(item, rendered, room)).collect::<Result<_, _>>()?)
        }
        Value::Object(map) => {
            let mut out = Map::new();
            for (name, value) in map {
                let name = restored_text(&name, rendered, room)?;
                let value = restored(value, rendered, room)?;
                if out.contains_key(&name) {
                    let name = quoted(&name);
                    return Err(BuiltError::Refused(format!("the key {name} is given twice, once by a message")));
                }
                out.insert(name, value);
            }
            Value::Object(out)
        }
        other => other,
    })
}

fn restored_text(text: &str, rendered: &Rendered, room: &mut usize) -> Result<String, BuiltError> {
    let text = rendered.restore(text).into_owned();
    *room = room.checked_sub(text.len()).ok_or_else(|| "the template's output is too big".to_owned())?;
    Ok(text)
}

impl Built {
    /// A key's value, its texts with their tokens; `null` counts as absent.
    pub fn value(&self, key: &str) -> Option<&Value> {
        let exact = self.map.get(key);
        let found = exact.or_else(|| self.map.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v));
        found.filter(|v| !v.is_null())
    }

    /// A text; absent and empty are the same.
    pub fn text(&self, key: &str) -> Result<Option<Cow<'_, str>>, BuiltError> {
        let text = self.value(key).map(|v| self.text_of(v, key)).transpose()?;
        Ok(text.filter(|t| !t.is_empty()))
    }

    /// A text, or a number or boolean as the text it was.
    pub fn text_of<'v>(&self, value: &'v Value, key: &str) -> Result<Cow<'v, str>, BuiltError> {
        match value {
            Value::String(text) => Ok(self.rendered.restore(text)),
            Value::Number(n) => Ok(Cow::Owned(n.to_string())),
            Value::Bool(b) => Ok(Cow::Borrowed(if *b { "true" } else { "false" })),
            Value::Null => Ok(Cow::Borrowed("")),
            _ => Err(format!("{key} is not a text").into()),
        }
    }

    /// A text put together of pieces, each of a message's in the form that `escape` gives it.
    fn escaped(&self, key: &str, escape: impl Fn(&str) -> String) -> Result<String, BuiltError> {
        match self.value(key) {
            Some(Value::String(text)) => Ok(self
                .rendered
                .pieces(text)
                .iter()
                .map(|piece| match piece {
                    MarkedPiece::Document(text) => Cow::Borrowed(*text),
                    MarkedPiece::Message(text, _) => Cow::Owned(escape(text)),
                })
                .collect()),
            Some(other) => Ok(self.text_of(other, key)?.into_owned()),
            None => Ok(String::new()),
        }
    }

    /// A regular expression, in which a message's text stands for itself.
    pub fn expression(&self, key: &str) -> Result<String, BuiltError> {
        self.escaped(key, regex::escape)
    }

    /// What replaces a match: a message's `$1` is no group.
    pub fn replacement(&self, key: &str) -> Result<String, BuiltError> {
        self.escaped(key, |text| text.replace('$', "$$"))
    }

    /// A URL. A message may give it whole; what it puts into a part of one stays inside that part.
    pub fn url(&self, key: &str) -> Result<Option<String>, BuiltError> {
        let Some(Value::String(text)) = self.value(key) else { return Ok(self.text(key)?.map(Cow::into_owned)) };
        let pieces = self.rendered.pieces(text.trim());
        if let [MarkedPiece::Message(text, Form::Text | Form::Target)] = pieces.as_slice() {
            return Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()));
        }
        let mut url = String::new();
        for piece in &pieces {
            match piece {
                MarkedPiece::Document(text) => url.push_str(text),
                MarkedPiece::Message(text, form) => push_into_url(&mut url, text, *form)?,
            }
        }
        let climbs = pieces.iter().any(|piece| matches!(piece, MarkedPiece::Message(..))) && has_dot_segments(&url);
        if climbs {
            return Err(BuiltError::Refused(format!(
                "a message put a segment of dots into the path of {}",
                quoted(&url)
            )));
        }
        Ok(Some(url).filter(|url| !url.is_empty()))
    }

    pub fn map(&self, key: &str) -> Result<Option<Built>, BuiltError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Built { map: map.clone(), rendered: self.rendered.clone() })),
            Some(_) => Err(format!("{key} is not a mapping").into()),
        }
    }

    /// Names and values of a mapping whose names are free. A name of a message's never stands beside the same one of the
    /// document.
    pub fn entries(&self) -> Result<Vec<(Cow<'_, str>, &Value)>, BuiltError> {
        let mut entries = Vec::with_capacity(self.map.len());
        for (key, value) in &self.map {
            let name = self.rendered.restore(key);
            let ours = |other: &String| other != key && other.eq_ignore_ascii_case(&name);
            if matches!(name, Cow::Owned(_)) && self.map.keys().any(ours) {
                return Err(BuiltError::Refused(format!("a message names {}, which the template sets", quoted(&name))));
            }
            entries.push((name, value));
        }
        Ok(entries)
    }

    /// `headers: {name: [value, …]}`, checked; one value may stand without its list.
    pub fn headers(&self, key: &str) -> Result<Headers, BuiltError> {
        let mut headers = Headers::new();
        let Some(map) = self.map(key)? else { return Ok(headers) };
        for (name, values) in map.entries()? {
            let values = match values {
                Value::Array(values) => values.as_slice(),
                one => std::slice::from_ref(one),
            };
            for value in values {
                let value = self.text_of(value, &name)?;
                add_said(&mut headers, checked_name(&name)?, checked_value(&name, &value)?);
            }
        }
        Ok(headers)
    }
}

/// Adds a message's text to a URL whose last part so far is this one.
fn push_into_url(url: &mut String, text: &str, form: Form) -> Result<(), BuiltError> {
    let foreign = |what: &str| BuiltError::Refused(format!("a message's text {} is no {what} of a URL", quoted(text)));
    if url.contains('?') {
        if form == Form::Query {
            url.push_str(text);
        } else {
            escape_these(b"&#;", text, url);
        }
        return Ok(());
    }
    let authority = url.split_once("://").is_some_and(|(_, after)| !after.contains('/'));
    if authority && !text.starts_with('/') {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(&b);
        if !text.bytes().all(plain) {
            return Err(foreign("host"));
        }
        url.push_str(text);
        return Ok(());
    }
    // What stands before a first `/` may yet become, or be, a scheme and a host.
    let rooted = url.starts_with('/') || url.contains("://") || url.is_empty() && text.starts_with('/');
    if !rooted && text.contains("//") {
        return Err(foreign("path"));
    }
    match form {
        Form::Target => url.push_str(text),
        _ => escape_these(b"?#", text, url),
    }
    Ok(())
}

/// Adds a text with the `special` characters escaped and all others as they are.
fn escape_these(special: &[u8], text: &str, url: &mut String) {
    for c in text.chars() {
        match u8::try_from(c) {
            Ok(b) if special.contains(&b) => escape_into(&[b], url),
            _ => url.push(c),
        }
    }
}

/// Whether a path holds `.` or `..`, written in any way that some backend takes for it.
fn has_dot_segments(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/").replace('\\', "/");
    path.split('/').skip(1).any(|segment| matches!(segment.split(';').next(), Some("." | "..")))
}

pub(crate) fn checked_name(name: &str) -> Result<&str, BuiltError> {
    let refused = || BuiltError::Refused(format!("{} is not a header name", quoted(name)));
    is_name(name.as_bytes()).then_some(name).ok_or_else(refused)
}

/// White space around a value is not part of it, and a line break inside would start another field.
pub(crate) fn checked_value<'v>(name: &str, value: &'v str) -> Result<&'v str, BuiltError> {
    let value = value.trim();
    let refused = || BuiltError::Refused(format!("the value of {name} holds a control character"));
    is_value(value.as_bytes()).then_some(value).ok_or_else(refused)
}

/// Most bytes of text in what a DataBuilder keeps; as much as a template may give.
const RESTORED_MAX: usize = 16 << 20;
