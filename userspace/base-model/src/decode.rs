//! From a tree of values to a typed spec, by Easegress's rules.
//!
//! The value is walked beside the JSON schema of the type: names are matched without regard to case (the exact spelling first),
//! unknown keys become warnings with a suggestion, `null` means "not given", and every wrong type, range and
//! format becomes a [`Problem`] with its path; only then does serde build the type. Types put their defaults into `Default` and
//! `#[serde(default)]`, and name what must be there with `#[schemars(extend("required" = [...]))]`.
//!
//! As with Go's decoder a text is never taken for a number nor a number for a text. The one exception is
//! YAML 1.1's `yes`, `no`, `on`, `off`, `y`, `n` where a boolean is wanted, since people and older tools write them.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::problem::{Findings, Problem, Warning, at, nearest, nth, one_of};
use crate::repeats::repeats;

/// A spec and what its author should know about it.
#[derive(Debug, Clone)]
pub struct Decoded<T> {
    pub value: T,
    pub warnings: Vec<Warning>,
    /// What was written, with names in their canonical spelling and without what was ignored.
    pub canonical: Value,
    /// What refuses it where it comes in, and not where it is stored.
    pub late: Vec<Problem>,
}

/// What cannot be read as a whole: what is to be said of it, and what it is without what is wrong.
pub(crate) struct Refused<T> {
    pub findings: Findings,
    pub rest: Option<T>,
}

/// Reads `value` as a `T`; `root_path` is put before every path that is reported.
pub fn decode<T: DeserializeOwned + JsonSchema>(value: &Value, root_path: &str) -> Result<Decoded<T>, Vec<Problem>> {
    decode_or(value, root_path).map_err(|refused| refused.findings.problems)
}

/// As [`decode`]; what is refused comes with the warnings that it would have had, and with what can be used of it.
pub(crate) fn decode_or<T: DeserializeOwned + JsonSchema>(
    value: &Value,
    root_path: &str,
) -> Result<Decoded<T>, Refused<T>> {
    let schema = schema_of::<T>();
    let mut walk = Walk { root: &schema, findings: Findings::default(), secret: 0 };
    // A document that says nothing says nothing wrong: what is required will be missed by name.
    let nothing = Value::Object(Map::new());
    let value = if value.is_null() && types_of(&schema).contains(&"object") { &nothing } else { value };
    let canonical = walk.walk(value, &schema, root_path).unwrap_or(Value::Null);
    if walk.findings.refuse_stored() {
        let rest = T::deserialize(&canonical).ok();
        return Err(Refused { findings: walk.findings, rest });
    }
    let Findings { problems: late, warnings } = walk.findings;
    match serde_path_to_error::deserialize(&canonical) {
        Ok(value) => Ok(Decoded { value, warnings, canonical, late }),
        Err(error) => {
            // The walk says what it can say in the user's words; what is left are checks of custom `Deserialize` impls.
            let inner = error.path().to_string();
            let path = match (root_path, inner.as_str()) {
                (root, ".") => root.to_owned(),
                ("", inner) => inner.to_owned(),
                (root, inner) => format!("{root}.{inner}"),
            };
            let mut problems = late;
            problems.push(Problem::new(path, error.into_inner().to_string()));
            Err(Refused { findings: Findings { problems, warnings }, rest: None })
        }
    }
}

/// The JSON schema of a type, made once.
pub fn schema_of<T: JsonSchema>() -> Arc<Value> {
    static SCHEMAS: LazyLock<Mutex<HashMap<String, Arc<Value>>>> = LazyLock::new(Mutex::default);
    let id = T::schema_id().into_owned();
    let lock = || SCHEMAS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(schema) = lock().get(&id) {
        return schema.clone();
    }
    let generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    let schema = Arc::new(Value::from(generator.into_root_schema_for::<T>()));
    lock().entry(id).or_insert(schema).clone()
}

/// Follows `$ref` within `root`.
pub(crate) fn resolve<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    let mut schema = schema;
    for _ in 0..REFERENCES_MAX {
        let Some(reference) = schema.get("$ref").and_then(Value::as_str) else { break };
        if reference == "#" {
            return root;
        }
        match reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer)) {
            Some(target) => schema = target,
            None => break,
        }
    }
    schema
}

struct Walk<'s> {
    root: &'s Value,
    findings: Findings,
    /// How many secret fields the walk is inside of.
    secret: u32,
}

impl<'s> Walk<'s> {
    /// The value in the spelling serde expects; `None` when it counts as not given.
    fn walk(&mut self, value: &Value, schema: &'s Value, path: &str) -> Option<Value> {
        let secret = is_secret(schema);
        self.secret += u32::from(secret);
        let walked = self.walk_any(value, schema, path);
        self.secret -= u32::from(secret);
        walked
    }

    fn walk_any(&mut self, value: &Value, schema: &'s Value, path: &str) -> Option<Value> {
        let schema = resolve(self.root, schema);
        let secret = self.secret > 0;
        if let Some(choices) = alternatives(schema) {
            return self.walk_alternatives(value, schema, choices, path);
        }
        if let Some(words) = words_of(schema) {
            // Spellings of documents that are about, each with the word it stands for.
            let meant = value.as_str().and_then(|text| schema.get("x-also")?.get(text));
            return self.walk_word(meant.unwrap_or(value), &words, path);
        }
        let types = types_of(schema);
        if types.is_empty() && schema.get("properties").is_none() {
            return Some(value.clone());
        }
        if value.is_null() {
            return None;
        }
        let is = |name: &str| types.contains(&name);
        match value {
            Value::Object(map) if is("object") => Some(self.walk_object(map, schema, path)),
            Value::Array(items) if is("array") => Some(self.walk_array(items, schema, path)),
            Value::String(text) if is("string") => self.walk_text(text, schema, path, secret),
            Value::String(text) if is("boolean") && yaml11_bool(text).is_some() => yaml11_bool(text).map(Value::Bool),
            Value::Bool(_) if is("boolean") => Some(value.clone()),
            Value::Number(_) if is("integer") || is("number") => self.walk_number(value, schema, is("integer"), path),
            _ => {
                let wanted = one_of(&types.iter().filter(|t| **t != "null").map(|t| a(t)).collect::<Vec<_>>());
                let mut problem = Problem::new(path, format!("{} where {wanted} is wanted", a(type_name(value))));
                if !secret {
                    problem = problem.value(value);
                    if let Some(advice) = wrong_type_advice(value, &types, schema) {
                        problem = problem.advice(advice);
                    }
                }
                self.findings.problem(problem);
                None
            }
        }
    }

    fn walk_object(&mut self, map: &Map<String, Value>, schema: &'s Value, path: &str) -> Value {
        let empty = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object);
        let known = properties.unwrap_or(&empty);
        let rest = schema.get("additionalProperties");
        let mut out = Map::new();
        for (key, value) in map {
            let canonical = if known.contains_key(key) {
                Some(key.as_str())
            } else {
                known.keys().map(String::as_str).find(|name| same_name(name, key))
            };
            let place = at(path, key);
            match (canonical, rest) {
                (Some(name), _) => {
                    if name != key && map.contains_key(name) {
                        self.findings.warn(&place, format!("given beside {name}, ignored"));
                        continue;
                    }
                    // `properties` lives as long as the schema; `known` may be the local empty map.
                    let Some(field) = properties.and_then(|p| p.get(name)) else { continue };
                    if let Some(value) = self.walk(value, field, &place) {
                        out.insert(name.to_owned(), value);
                    }
                }
                (None, Some(Value::Object(rest))) if !rest.is_empty() => {
                    let schema = schema.get("additionalProperties").unwrap_or(&Value::Null);
                    let kept = self.walk(value, schema, &place).or_else(|| zero_of(resolve(self.root, schema)));
                    if let Some(value) = kept {
                        out.insert(key.clone(), value);
                    }
                }
                (None, Some(Value::Object(_) | Value::Bool(true))) => {
                    out.insert(key.clone(), value.clone());
                }
                (None, None) if properties.is_none() => {
                    out.insert(key.clone(), value.clone());
                }
                _ => {
                    let mut message = "unknown field, ignored".to_owned();
                    if let Some(name) = nearest(key, known.keys().map(String::as_str)) {
                        message.push_str(&format!("; did you mean {name}?"));
                    }
                    self.findings.warn(place, message);
                }
            }
        }
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            let given = map.iter().any(|(key, value)| same_name(key, name) && !value.is_null());
            if !given {
                self.findings.problem(missing(path, name, known.get(name).map(|field| resolve(self.root, field))));
            }
        }
        Value::Object(out)
    }

    fn walk_array(&mut self, items: &[Value], schema: &'s Value, path: &str) -> Value {
        let item_schema = schema.get("items");
        let prefix = schema.get("prefixItems").and_then(Value::as_array);
        let mut out = Vec::with_capacity(items.len());
        let mut ends = false;
        for (i, item) in items.iter().enumerate() {
            let Some(schema) = prefix.and_then(|p| p.get(i)).or(item_schema) else {
                out.push(item.clone());
                continue;
            };
            let place = nth(path, i);
            let told = self.findings.problems.len();
            let walked = if item.is_null() && !types_of(resolve(self.root, schema)).is_empty() {
                let advice = "remove the entry or give it a value";
                self.findings.problem(Problem::new(place, "an entry without a value").value(item).advice(advice));
                None
            } else {
                self.walk(item, schema, &place)
            };
            // What is left of a list with a wrong entry keeps its places: an empty mapping stands for one, and else the list ends there.
            let stand_in = || types_of(resolve(self.root, schema)).contains(&"object").then(|| Map::new().into());
            match walked {
                None if self.findings.problems.len() == told => {}
                walked => match walked.or_else(stand_in).filter(|_| !ends) {
                    Some(value) => out.push(value),
                    None => ends = true,
                },
            }
        }
        let count = |name: &str| schema.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        if let Some(min) = count("minItems").filter(|min| items.len() < *min) {
            let problem = Problem::new(path, format!("{} entries; at least {min} are wanted", items.len()));
            self.findings.problem(if is_late(schema) { problem.late() } else { problem });
        }
        if let Some(max) = count("maxItems").filter(|max| items.len() > *max) {
            self.findings.problem(Problem::new(path, format!("{} entries; at most {max} are accepted", items.len())));
        }
        if schema.get("uniqueItems") == Some(&Value::Bool(true)) {
            for (i, _) in repeats(items) {
                let problem = Problem::new(nth(path, i), "given twice").value(&items[i]).advice("remove one");
                self.findings.problem(problem.late());
            }
        }
        Value::Array(out)
    }

    fn walk_text(&mut self, text: &str, schema: &Value, path: &str, secret: bool) -> Option<Value> {
        let refuse = |problem: Problem| if secret { problem } else { problem.text(text) };
        let format = schema.get("format").and_then(Value::as_str).unwrap_or("");
        if text.is_empty() && format == "duration" {
            return None;
        }
        if let Err(problem) = check_format(format, text, path) {
            self.findings.problem(refuse(problem));
            return None;
        }
        let chars = text.chars().count() as u64;
        if let Some(min) = schema.get("minLength").and_then(Value::as_u64).filter(|min| chars < *min) {
            let why =
                if min == 1 { "is empty".to_owned() } else { format!("{chars} characters; at least {min} are wanted") };
            self.findings.problem(refuse(Problem::new(path, why)));
            return None;
        }
        if let Some(max) = schema.get("maxLength").and_then(Value::as_u64).filter(|max| chars > *max) {
            self.findings
                .problem(refuse(Problem::new(path, format!("{chars} characters; at most {max} are accepted"))));
            return None;
        }
        Some(Value::String(text.to_owned()))
    }

    fn walk_number(&mut self, value: &Value, schema: &Value, integer: bool, path: &str) -> Option<Value> {
        let (low, high) = bounds_of(schema, integer);
        let value = if integer {
            let Some(whole) = whole_number(value) else {
                let problem = Problem::new(path, "not a whole number").value(value);
                self.findings.problem(problem.accepted(format!("whole numbers {}", range(low, high))));
                return None;
            };
            if whole < low as i128 && low.is_finite() || whole > high as i128 && high.is_finite() {
                let problem = Problem::new(path, "out of range").value(value).accepted(range(low, high));
                // What the field has no room for was never stored.
                let (least, most) = bounds_of_type(schema, integer);
                let has_room =
                    !(whole < least as i128 && least.is_finite() || whole > most as i128 && most.is_finite());
                if is_late(schema) && has_room {
                    self.findings.problem(problem.late());
                    return Some(value.clone());
                }
                self.findings.problem(problem);
                return None;
            }
            match (u64::try_from(whole), i64::try_from(whole)) {
                (Ok(n), _) => Value::from(n),
                (_, Ok(n)) => Value::from(n),
                _ => {
                    let problem = Problem::new(path, "out of range").value(value);
                    self.findings.problem(problem.accepted(format!("{} to {}", i64::MIN, u64::MAX)));
                    return None;
                }
            }
        } else {
            value.clone()
        };
        if value.as_f64().is_some_and(|n| n < low || n > high) {
            self.findings.problem(Problem::new(path, "out of range").value(&value).accepted(range(low, high)));
            return None;
        }
        Some(value)
    }

    fn walk_word(&mut self, value: &Value, words: &[&str], path: &str) -> Option<Value> {
        match value {
            Value::Null => None,
            Value::String(text) if words.contains(&text.as_str()) => Some(value.clone()),
            // Go's zero value of an enumeration is the empty text, which means "not given".
            Value::String(text) if text.is_empty() => None,
            _ => {
                let mut problem =
                    Problem::new(path, "not one of the accepted words").value(value).accepted(one_of(words));
                if let Some(word) = value.as_str().and_then(|text| nearest(text, words.iter().copied())) {
                    problem = problem.advice(format!("did you mean {word}?"));
                }
                self.findings.problem(problem);
                None
            }
        }
    }

    /// Takes the first alternative whose type fits; when several would, the first one without problems.
    fn walk_alternatives(
        &mut self,
        value: &Value,
        schema: &'s Value,
        choices: &'s [Value],
        path: &str,
    ) -> Option<Value> {
        let nullable = choices.iter().any(|choice| types_of(choice) == ["null"]);
        if value.is_null() && nullable {
            return None;
        }
        let fitting: Vec<&Value> = choices.iter().filter(|choice| fits(value, resolve(self.root, choice))).collect();
        if let [only] = fitting.as_slice() {
            return self.walk(value, only, path);
        }
        let mut first_findings = None;
        for choice in &fitting {
            let mut attempt = Walk { root: self.root, findings: Findings::default(), secret: self.secret };
            let walked = attempt.walk(value, choice, path);
            if !attempt.findings.refuse_stored() {
                self.findings.extend(attempt.findings);
                return walked;
            }
            first_findings.get_or_insert(attempt.findings);
        }
        match first_findings {
            Some(findings) => self.findings.extend(findings),
            None if value.is_null() => return None,
            None => {
                let kinds: Vec<&str> = choices.iter().flat_map(|choice| types_of(resolve(self.root, choice))).collect();
                let wanted = kinds.iter().filter(|t| **t != "null").map(|t| a(t)).collect::<Vec<_>>();
                let mut problem =
                    Problem::new(path, format!("{} where {} is wanted", a(type_name(value)), one_of(&wanted)))
                        .value(value);
                if let Some(accepted) = schema.get("x-accepted").and_then(Value::as_str) {
                    problem = problem.accepted(accepted);
                }
                self.findings.problem(problem);
            }
        }
        None
    }
}

/// A problem for a field that is required and absent.
pub fn missing_field(path: &str, name: &str) -> Problem {
    Problem::new(at(path, name), "missing")
}

fn missing(path: &str, name: &str, field: Option<&Value>) -> Problem {
    let mut problem = missing_field(path, name);
    let about = field.and_then(|field| field.get("description")).and_then(Value::as_str);
    if let Some(first) = about.and_then(|text| text.split_inclusive(". ").next()) {
        problem = problem.advice(format!("give it: {}", first.trim().trim_end_matches('.').replace('\n', " ")));
    }
    problem
}

fn check_format(format: &str, text: &str, path: &str) -> Result<(), Problem> {
    match format {
        "duration" => {
            let parsed: Result<crate::GoDuration, _> = text.parse();
            let duration = parsed.map_err(|why| Problem::new(path, why.to_string()).advice(crate::duration::ADVICE))?;
            if duration.is_negative() {
                return Err(Problem::new(path, "a negative duration").accepted("0s or longer"));
            }
        }
        "regexp" if !text.is_empty() => {
            crate::regexp::compile(text)
                .map_err(|why| Problem::new(path, format!("not a regular expression: {why}")).accepted("RE2 syntax"))?;
        }
        "ipcidr" => {
            let parsed: Result<crate::Cidr, _> = text.parse();
            parsed.map_err(|why| Problem::new(path, why).advice("write 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32"))?;
        }
        "urlname" => {
            if let Some(why) = crate::UrlName::why_not(text) {
                return Err(Problem::new(path, why).accepted(crate::words::NAME_ACCEPTED));
            }
        }
        _ => {}
    }
    Ok(())
}

fn is_secret(schema: &Value) -> bool {
    schema.get("x-secret") == Some(&Value::Bool(true))
}

/// The alternatives of a schema, unless they only spell out one enumeration.
fn alternatives(schema: &Value) -> Option<&[Value]> {
    let choices = schema.get("anyOf").or_else(|| schema.get("oneOf"))?.as_array()?;
    (words_of(schema).is_none()).then_some(choices)
}

/// The words of an enumeration, however schemars wrote it down.
pub(crate) fn words_of(schema: &Value) -> Option<Vec<&str>> {
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return Some(words.iter().filter_map(Value::as_str).collect());
    }
    if let Some(word) = schema.get("const").and_then(Value::as_str) {
        return Some(vec![word]);
    }
    let choices = schema.get("oneOf")?.as_array()?;
    let mut words = Vec::new();
    for choice in choices {
        words.extend(words_of(choice)?);
    }
    Some(words)
}

pub(crate) fn types_of(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Whether the bounds of a schema came when documents beyond them had been stored; see [`Problem::late`].
fn is_late(schema: &Value) -> bool {
    schema.get("x-late") == Some(&Value::Bool(true))
}

fn fits(value: &Value, schema: &Value) -> bool {
    if let Some(words) = words_of(schema) {
        return value.as_str().is_some_and(|text| words.contains(&text)) || (value.is_string() && !words.is_empty());
    }
    let types = types_of(schema);
    let name = type_name(value);
    types.is_empty()
        || types.contains(&name)
        || (name == "number" && types.contains(&"integer"))
        || (types.contains(&"boolean") && value.as_str().and_then(yaml11_bool).is_some())
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A type with its article, in words people who write YAML use.
fn a(type_name: &str) -> &str {
    match type_name {
        "null" => "nothing",
        "boolean" => "true or false",
        "number" => "a number",
        "integer" => "a whole number",
        "string" => "a text",
        "array" => "a list",
        "object" => "a mapping",
        other => other,
    }
}

fn wrong_type_advice(value: &Value, types: &[&str], schema: &Value) -> Option<String> {
    let wants = |name: &str| types.contains(&name);
    match value {
        Value::Number(_) if schema.get("format").and_then(Value::as_str) == Some("duration") => {
            Some(format!("say the unit: {value}s or {value}ms"))
        }
        Value::Number(_) | Value::Bool(_) if wants("string") => Some(format!("put it in quotes: \"{value}\"")),
        Value::String(text)
            if (wants("integer") || wants("number")) && text.parse::<f64>().is_ok_and(f64::is_finite) =>
        {
            let digits = text.trim_start_matches(['+', '-']);
            let zeros = digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
            if zeros {
                let sign = if text.starts_with('-') { "-" } else { "" };
                let number = match digits.trim_start_matches('0') {
                    "" => "0",
                    number => number,
                };
                return Some(format!("write it without the leading zero: {sign}{number}"));
            }
            Some(format!("write it without quotes: {text}"))
        }
        Value::String(_) if wants("boolean") => Some("write true or false without quotes".to_owned()),
        Value::String(_) | Value::Number(_) | Value::Object(_) if wants("array") => {
            Some("begin every entry with \"- \"".to_owned())
        }
        _ => None,
    }
}

/// What Go leaves in a map for a key with `null`.
fn zero_of(schema: &Value) -> Option<Value> {
    match types_of(schema).first() {
        Some(&"string") => Some(Value::String(String::new())),
        Some(&"boolean") => Some(Value::Bool(false)),
        Some(&"integer" | &"number") => Some(Value::from(0)),
        Some(&"array") => Some(Value::Array(Vec::new())),
        _ => None,
    }
}

/// YAML 1.1's spellings of booleans beyond `true` and `false`.
fn yaml11_bool(text: &str) -> Option<bool> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// Whole numbers however YAML wrote them: `80`, `80.0`, `8e1`.
fn whole_number(value: &Value) -> Option<i128> {
    if let Some(n) = value.as_i64() {
        return Some(i128::from(n));
    }
    if let Some(n) = value.as_u64() {
        return Some(i128::from(n));
    }
    value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 1e18).map(|n| n as i128)
}

fn bounds_of(schema: &Value, integer: bool) -> (f64, f64) {
    let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
    let (low, high) = bounds_of_type(schema, integer);
    (limit("minimum").map_or(low, |v| v.max(low)), limit("maximum").map_or(high, |v| v.min(high)))
}

/// What there is room for, whatever is accepted of it.
fn bounds_of_type(schema: &Value, integer: bool) -> (f64, f64) {
    match schema.get("format").and_then(Value::as_str) {
        Some("int32") => (f64::from(i32::MIN), f64::from(i32::MAX)),
        Some("uint32") => (0.0, f64::from(u32::MAX)),
        // The ends of 64-bit ranges are not whole in f64; serde checks them exactly.
        Some("uint64" | "uint") if integer => (0.0, f64::INFINITY),
        Some("uint16") => (0.0, f64::from(u16::MAX)),
        Some("uint8") => (0.0, f64::from(u8::MAX)),
        _ => (f64::NEG_INFINITY, f64::INFINITY),
    }
}

fn range(low: f64, high: f64) -> String {
    match (low.is_finite(), high.is_finite()) {
        (true, true) => format!("{low} to {high}"),
        (true, false) => format!("{low} or more"),
        (false, true) => format!("up to {high}"),
        (false, false) => "any".to_owned(),
    }
}

/// Go folds names with Unicode's simple folding; field names here are ASCII, so lower case is the same.
pub(crate) fn same_name(a: &str, b: &str) -> bool {
    a == b || a.to_lowercase() == b.to_lowercase()
}

/// Schemas refer at most a few times in a row; a cycle of references would otherwise never end.
const REFERENCES_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;
    use crate::{GoDuration, HttpCode, HttpServerSpec, PipelineSpec, ProxySpec, VirtualIpSpec};

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "camelCase", default)]
    #[schemars(extend("required" = ["port"]))]
    struct Demo {
        /// Port to use. Default: none.
        port: u16,
        keep_alive: bool,
        time_out: Option<GoDuration>,
        codes: Vec<HttpCode>,
        labels: BTreeMap<String, String>,
        inner: Option<Box<Demo>>,
        word: Option<Word>,
        rate: f64,
        size: i64,
        any: Value,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    enum Word {
        /// One.
        One,
        Two,
    }

    fn demo(value: Value) -> Result<Decoded<Demo>, String> {
        decode::<Demo>(&value, "x").map_err(|problems| crate::problem::render(&problems))
    }

    #[test]
    fn names_match_without_case_and_the_exact_one_wins() {
        let decoded = demo(json!({"PORT": 1, "KeepAlive": true, "TIMEOUT": "1s"})).unwrap();
        assert_eq!((decoded.value.port, decoded.value.keep_alive), (1, true));
        assert_eq!(decoded.value.time_out, Some(GoDuration::from_secs(1)));
        assert_eq!(decoded.warnings, []);
        let decoded = demo(json!({"PORT": 1, "port": 2})).unwrap();
        assert_eq!(decoded.value.port, 2);
        assert_eq!(decoded.warnings[0].to_string(), "x.PORT: given beside port, ignored");
    }

    #[test]
    fn unknown_keys_are_warnings_but_not_in_maps() {
        let decoded = demo(json!({"port": 1, "prot": 2, "labels": {"Any": "thing"}, "any": {"x": [1]}, "inner": {"port": 1, "zzz": 0}})).unwrap();
        let told: Vec<String> = decoded.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["x.prot: unknown field, ignored; did you mean port?", "x.inner.zzz: unknown field, ignored"]);
        assert_eq!(decoded.value.labels["Any"], "thing");
        assert_eq!(decoded.value.any, json!({"x": [1]}));
    }

    #[test]
    fn null_means_not_given() {
        let decoded = demo(
            json!({"port": 1, "codes": null, "inner": null, "word": null, "timeOut": null, "labels": {"a": null}}),
        )
        .unwrap();
        assert_eq!(
            decoded.value,
            Demo { port: 1, labels: BTreeMap::from([("a".into(), String::new())]), ..Demo::default() }
        );
    }

    #[test]
    fn a_number_with_a_leading_zero_is_told_to_lose_it() {
        for (text, number) in [("0310", "310"), ("007", "7"), ("00", "0"), ("-012", "-12")] {
            let told = demo(json!({ "port": text })).unwrap_err();
            let want = format!("a text where a whole number is wanted; write it without the leading zero: {number}");
            assert!(told.contains(&want), "{told}");
        }
    }

    #[test]
    fn every_wrong_field_is_told_with_its_place() {
        let told = demo(json!({
            "port": "80", "keepAlive": "true", "timeOut": "5 sec", "codes": [200, 99, "x"], "labels": {"n": 1},
            "inner": {"word": "one"}, "rate": "fast", "size": 1.5,
        }))
        .unwrap_err();
        assert_eq!(
            told,
            r#"x.port = "80": a text where a whole number is wanted; write it without quotes: 80
x.keepAlive = "true": a text where true or false is wanted; write true or false without quotes
x.timeOut = "5 sec": not a unit of time; accepted: ns, us, ms, s, m, h; write 5s, 500ms or 1h30m
x.codes[1] = 99: out of range; accepted: 100 to 599
x.codes[2] = "x": a text where a whole number is wanted
x.labels.n = 1: a number where a text is wanted; put it in quotes: "1"
x.inner.word = "one": not one of the accepted words; accepted: Two or One; did you mean One?
x.inner.port: missing; give it: Port to use
x.rate = "fast": a text where a number is wanted
x.size = 1.5: not a whole number; accepted: whole numbers any"#
        );
        assert_eq!(demo(json!([])).unwrap_err(), "x = []: a list where a mapping is wanted");
        assert_eq!(demo(json!({"port": 70000})).unwrap_err(), "x.port = 70000: out of range; accepted: 0 to 65535");
        assert_eq!(
            demo(json!({"port": 1, "timeOut": 5})).unwrap_err(),
            "x.timeOut = 5: a number where a text is wanted; say the unit: 5s or 5ms"
        );
        assert_eq!(demo(json!(null)).unwrap_err(), "x.port: missing; give it: Port to use");
    }

    #[test]
    fn numbers_and_booleans_as_yaml_writes_them() {
        let decoded = demo(json!({"port": 80.0, "keepAlive": "yes", "rate": 1, "size": -1e3})).unwrap().value;
        assert_eq!((decoded.port, decoded.keep_alive, decoded.rate, decoded.size), (80, true, 1.0, -1000));
        assert!(demo(json!({"port": 1, "size": 1e30})).is_err());
        assert!(demo(json!({"port": 1, "size": u64::MAX})).is_err());
    }

    #[test]
    fn secrets_are_not_repeated() {
        let told = decode::<HttpServerSpec>(&json!({"port": 1, "keyBase64": 12345}), "").unwrap_err();
        assert_eq!(told[0].to_string(), "keyBase64: a number where a text is wanted");
        let told = decode::<HttpServerSpec>(&json!({"port": 1, "keys": {"a": 12345}}), "").unwrap_err();
        assert_eq!(told[0].to_string(), "keys.a: a number where a text is wanted");
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            proptest::sample::select(vec![
                "10s",
                "any",
                "TCP",
                "80-90",
                "/a",
                "http://a:1",
                "(",
                "10.0.0.0/8",
                "Proxy"
            ])
            .prop_map(Value::from),
        ];
        let key = prop_oneof![
            "[a-zA-Z]{1,8}",
            prop_oneof![
                "port",
                "rules",
                "paths",
                "Path",
                "pathRegexp",
                "backendPool",
                "servers",
                "url",
                "weight",
                "filters",
                "flow",
                "name",
                "kind",
                "jumpIf",
                "filter",
                "pools",
                "loadBalance",
                "policy",
                "healthCheck",
                "match",
                "statusCodes",
                "addresses",
                "ports",
                "protocols",
                "machines",
                "state",
                "ipFilter",
                "allowIPs",
                "hosts",
                "headers",
                "timeout",
                "mainPool",
                "resilience",
                "policies",
            ],
        ];
        leaf.prop_recursive(5, 48, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                proptest::collection::vec((key.clone(), inner), 0..6)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    fn round<T: DeserializeOwned + JsonSchema + Serialize + PartialEq + std::fmt::Debug>(value: &Value) -> Option<T> {
        let decoded = decode::<T>(value, "root").ok()?;
        let written = serde_json::to_value(&decoded.value).expect("specs are serializable");
        let again = decode::<T>(&written, "root").expect("what was decoded can be decoded again");
        assert_eq!(again.value, decoded.value);
        assert_eq!(again.warnings, []);
        Some(decoded.value)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn no_value_panics_and_what_is_accepted_is_stable(value in any_value()) {
            let mut findings = Findings::default();
            if let Some(spec) = round::<HttpServerSpec>(&value) { spec.validate("", &mut findings) }
            if let Some(spec) = round::<VirtualIpSpec>(&value) { spec.validate("", &mut findings) }
            if let Some(spec) = round::<crate::AccessListSpec>(&value) { spec.validate("", &mut findings) }
            if let Some(spec) = round::<ProxySpec>(&value) { spec.validate("", &mut findings) }
            let kinds = crate::pipeline::tests::Kinds;
            if let Some(spec) = round::<PipelineSpec>(&value) { spec.validate("", &kinds, &mut findings) }
            let _ = round::<crate::GlobalFilterSpec>(&value);
            let _ = round::<crate::OverloadManagerSpec>(&value);
            if let Some(spec) = round::<crate::LogSinkSpec>(&value) { spec.validate("", &mut findings) }
            let _ = round::<crate::CircuitBreakerSpec>(&value);
            let _ = crate::Object::read(&value, &kinds);
            let mut document = value;
            if let Some(map) = document.as_object_mut() {
                for kind in ["HTTPServer", "HTTPPipeline", "VirtualIP"] {
                    map.insert("name".into(), "a".into());
                    map.insert("kind".into(), kind.into());
                    let _ = crate::Object::read(&Value::Object(map.clone()), &kinds);
                }
            }
        }
    }
}
