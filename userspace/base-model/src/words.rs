//! Small checked words: names, status codes, methods.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// A status code a server may answer with, 100 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct HttpCode(u16);

impl HttpCode {
    pub const fn new(code: u16) -> Option<Self> {
        if code >= 100 && code <= 599 { Some(Self(code)) } else { None }
    }
    pub const fn code(self) -> u16 {
        self.0
    }
}

impl<'de> Deserialize<'de> for HttpCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = u16::deserialize(deserializer)?;
        Self::new(code).ok_or_else(|| D::Error::custom("not a status code; accepted: 100 to 599"))
    }
}

impl JsonSchema for HttpCode {
    fn schema_name() -> Cow<'static, str> {
        "HttpCode".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "format": "httpcode", "minimum": 100, "maximum": 599})
    }
}

/// A name that can stand in a URL: 1–253 letters of any script, digits, `-`, `_`, `.` and `~`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct UrlName(String);

impl UrlName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Why `name` is none, or nothing.
    pub fn why_not(name: &str) -> Option<&'static str> {
        if name.is_empty() {
            return Some("the name is empty");
        }
        if name.chars().count() > NAME_CHARS_MAX {
            return Some("the name is longer than 253 characters");
        }
        let allowed = |c: char| c.is_alphabetic() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.' | '~');
        (!name.chars().all(allowed)).then_some("the name has a character that cannot stand in a URL")
    }
}

impl FromStr for UrlName {
    type Err = &'static str;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match Self::why_not(name) {
            None => Ok(Self(name.to_owned())),
            Some(why) => Err(why),
        }
    }
}

impl fmt::Display for UrlName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for UrlName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for UrlName {
    fn schema_name() -> Cow<'static, str> {
        "UrlName".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "urlname"})
    }
}

/// Methods a rule may name.
pub const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"];

pub(crate) const NAME_ACCEPTED: &str = "1 to 253 letters, digits, '-', '_', '.' and '~'";

const NAME_CHARS_MAX: usize = 253;

/// Files a problem for every entry of `methods` that is no method.
pub fn check_methods(methods: &[String], path: &str, findings: &mut crate::Findings) {
    for (i, method) in methods.iter().enumerate() {
        check_method(method, &crate::problem::nth(path, i), findings);
    }
}

/// Files a problem for what is no method.
pub fn check_method(method: &str, path: &str, findings: &mut crate::Findings) {
    if METHODS.contains(&method) {
        return;
    }
    let problem = crate::Problem::new(path, "not an HTTP method").text(method);
    let mut problem = problem.accepted(crate::problem::one_of(&METHODS));
    if let Some(meant) = METHODS.iter().find(|known| known.eq_ignore_ascii_case(method)) {
        problem = problem.advice(format!("write it in capitals: {meant}"));
    }
    findings.problem(problem);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_letters_of_any_script() {
        for name in ["a", "pipeline-demo", "api.v1_x~", "流水线", &"x".repeat(253)] {
            assert_eq!(UrlName::why_not(name), None, "{name}");
        }
        for name in ["", "a b", "a/b", "a?b", &"x".repeat(254)] {
            assert!(UrlName::why_not(name).is_some(), "{name}");
        }
    }
}
