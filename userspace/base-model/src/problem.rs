//! What is wrong with a document, said so that its author can put it right.
//!
//! A [`Problem`] refuses the document, a [`Warning`] does not. Both are collected until the whole document was read.

use std::fmt;

use base_text::quoted;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::decode::{Refused, decode_or};

/// One reason to refuse a document: what, where, which value, what is accepted, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where: `filters[2].timeout`; empty for the document as a whole.
    pub path: String,
    /// The offending value as JSON, cut to a readable length; absent when the value is missing or secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What is wrong, without a full stop.
    pub message: String,
    /// What would be accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<Box<str>>,
    /// See [`late`](Problem::late).
    #[serde(skip)]
    pub is_late: bool,
}

impl Problem {
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), value: None, message: message.into(), accepted: None, advice: None, is_late: false }
    }

    /// By a rule that came when documents had been stored for long: it refuses what comes in, and is a warning of what is there already.
    /// Who upgrades finds everything served that was.
    pub fn late(mut self) -> Self {
        self.is_late = true;
        self
    }

    /// Shows the offending value.
    pub fn value(mut self, value: &Value) -> Self {
        self.value = Some(shown(value));
        self
    }

    /// Shows offending text, quoted.
    pub fn text(self, text: &str) -> Self {
        self.value(&Value::String(text.to_owned()))
    }

    pub fn accepted(mut self, accepted: impl Into<String>) -> Self {
        self.accepted = Some(accepted.into());
        self
    }

    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into().into_boxed_str());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some(value) = &self.value {
            let gap = if self.path.is_empty() { "" } else { " = " };
            write!(f, "{gap}{value}")?;
        }
        if !self.path.is_empty() || self.value.is_some() {
            f.write_str(": ")?;
        }
        f.write_str(&self.message)?;
        if let Some(accepted) = &self.accepted {
            write!(f, "; accepted: {accepted}")?;
        }
        if let Some(advice) = &self.advice {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// Something the author should know although the document is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    pub path: String,
    pub message: String,
}

impl Warning {
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// Of a document that is kept as it is.
impl From<Problem> for Warning {
    fn from(problem: Problem) -> Self {
        let whole = Problem { path: String::new(), ..problem };
        Warning::new(problem.path, whole.to_string())
    }
}

/// `--strict`: what was only worth a warning refuses the document.
impl From<Warning> for Problem {
    fn from(warning: Warning) -> Self {
        Problem::new(warning.path, warning.message)
    }
}

/// What reading one document brought up so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    pub problems: Vec<Problem>,
    pub warnings: Vec<Warning>,
}

impl Findings {
    pub fn problem(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    pub fn warn(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(Warning::new(path, message));
    }

    pub fn extend(&mut self, other: Findings) {
        self.problems.extend(other.problems);
        self.warnings.extend(other.warnings);
    }

    /// Whether anything refuses a document that is there already.
    pub fn refuse_stored(&self) -> bool {
        self.problems.iter().any(|problem| !problem.is_late)
    }

    /// Makes warnings of problems that refuse only what comes in.
    pub fn forgive_late(&mut self) {
        let (late, problems) = std::mem::take(&mut self.problems).into_iter().partition(|problem| problem.is_late);
        self.problems = problems;
        self.warnings.extend(Vec::into_iter(late).map(Warning::from));
    }

    /// As [`extend`](Findings::extend), of what was found in a document that is refused already: what is wrong where something could not be
    /// read, or beside it, may be so for want of it, and is left out.
    pub fn extend_apart(&mut self, mut other: Findings) {
        let is_apart = |path: &str| self.problems.iter().all(|known| known.is_late || !is_near(&known.path, path));
        other.problems.retain(|problem| is_apart(&problem.path));
        other.warnings.retain(|warning| is_apart(&warning.path));
        self.extend(other);
    }

    /// Decodes a value and checks what it is; files everything that is to be said of it, warnings of a refused one too. Of one that is
    /// wrong in part the rest comes back, beside the problems, and is checked as far as it can be read without that part.
    pub fn read<T: DeserializeOwned + JsonSchema>(
        &mut self,
        value: &Value,
        path: &str,
        check: impl FnOnce(&T, &mut Findings),
    ) -> Option<T> {
        match decode_or(value, path) {
            Ok(decoded) => {
                self.warnings.extend(decoded.warnings);
                self.problems.extend(decoded.late);
                check(&decoded.value, self);
                Some(decoded.value)
            }
            Err(Refused { findings, rest }) => {
                let (mut own, mut further) = (findings, Findings::default());
                if let Some(rest) = &rest {
                    check(rest, &mut further);
                }
                own.extend_apart(further);
                self.extend(own);
                rest
            }
        }
    }

    /// Keeps the value of a decoding that went well; files everything else.
    pub fn take<T>(&mut self, result: Result<crate::Decoded<T>, Vec<Problem>>) -> Option<T> {
        match result {
            Ok(decoded) => {
                self.warnings.extend(decoded.warnings);
                self.problems.extend(decoded.late);
                Some(decoded.value)
            }
            Err(problems) => {
                self.problems.extend(problems);
                None
            }
        }
    }
}

/// One problem per line, as logs, answers and terminals show them.
pub fn render(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// `rules` + `paths` → `rules.paths`; keys that would be ambiguous are quoted.
pub fn at(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | '$'));
    match (path.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{key}]", key = quoted(&key)),
    }
}

/// `filters[2]` + `pools[0].timeout` → `filters[2].pools[0].timeout`: where a place is that was told of a part.
pub fn within(path: &str, place: &str) -> String {
    let dot = if path.is_empty() || place.is_empty() || place.starts_with('[') { "" } else { "." };
    format!("{path}{dot}{place}")
}

/// `rules` + 2 → `rules[2]`.
pub fn nth(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// The path of what a place is in.
fn parent(path: &str) -> &str {
    path.rfind(['.', '[']).map_or("", |end| &path[..end])
}

/// Whether one of two places is in the other, or both in the same mapping or list.
fn is_near(known: &str, path: &str) -> bool {
    let is_in = |outer: &str, inner: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
    };
    parent(known) == parent(path) || is_in(known, path) || is_in(path, known)
}

/// Everything that can be referred to needs a name.
pub fn missing_name(path: &str) -> Problem {
    Problem::new(path, "missing").advice("give it a name of letters, digits, '-', '_', '.' and '~'")
}

/// `a, b or c`, for lists in messages.
pub fn one_of<S: AsRef<str>>(words: &[S]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [only] => only.as_ref().to_owned(),
        [init @ .., last] => {
            format!("{} or {}", init.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", "), last.as_ref())
        }
    }
}

/// The candidate a typing mistake most likely stands for.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let lower = candidate.to_lowercase();
            let distance = distance(&word, &lower);
            let bound = (word.chars().count().max(lower.chars().count()) / 3).clamp(1, 3);
            (distance <= bound).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Restricted Damerau–Levenshtein distance; words beyond 64 characters are never close.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN_CHARS {
        return text;
    }
    text.chars().take(SHOWN_CHARS).chain("…".chars()).collect()
}

/// Longer values would push the message out of sight; the path says where the rest is.
const SHOWN_CHARS: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_one_sentence() {
        let problem = Problem::new("filters[2].timeout", "not a duration").text("5 sec").advice("write 5s or 500ms");
        assert_eq!(problem.to_string(), r#"filters[2].timeout = "5 sec": not a duration; write 5s or 500ms"#);
        assert_eq!(Problem::new("", "empty document").to_string(), "empty document");
    }

    #[test]
    fn nearest_finds_slips_and_not_strangers() {
        assert_eq!(nearest("maxConnection", ["port", "maxConnections"]), Some("maxConnections"));
        assert_eq!(nearest("pass", ["passes", "fails"]), Some("passes"));
        assert_eq!(nearest("colour", ["port", "https"]), None);
        assert_eq!(nearest("prot", ["port"]), Some("port"));
    }

    #[test]
    fn paths_quote_what_would_be_ambiguous() {
        assert_eq!(at("labels", "a.b"), r#"labels["a.b"]"#);
        assert_eq!(at("", "port"), "port");
        assert_eq!(nth("rules", 1), "rules[1]");
    }
}
