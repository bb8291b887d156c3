//! `{exact, prefix, regex, empty}`: how documents match a text, and a URL by method and path.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::{Findings, Problem, at};
use crate::regexp::{self, Pattern};
use crate::words::check_methods;

/// Matches a text. `exact`, `prefix` and `regex` are alternatives: any one that is given and fits is enough.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StringMatcher {
    /// The whole text, case and all. Default: not used.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub exact: String,
    /// The text begins with this. Default: not used.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// RE2 expression found anywhere in the text; anchor it with `^` and `$`. Default: not used.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("format" = "regexp"))]
    pub regex: String,
    /// True: the text is absent or empty. May not be combined with the others. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty: bool,
}

impl StringMatcher {
    pub fn validate(&self, path: &str, findings: &mut Findings) {
        let positive = !self.exact.is_empty() || !self.prefix.is_empty() || !self.regex.is_empty();
        if self.empty && positive {
            findings.problem(
                Problem::new(path, "empty cannot be combined with exact, prefix or regex").advice("keep one of them"),
            );
        } else if !self.empty && !positive {
            findings.problem(
                Problem::new(path, "matches nothing")
                    .advice("give at least one of exact, prefix, regex, or empty: true"),
            );
        }
        check_regexp(&self.regex, &at(path, "regex"), findings);
    }

    /// Ready to run; fails only where [`validate`](Self::validate) would have complained about the expression.
    pub fn compile(&self) -> Result<Matcher, String> {
        let some = |text: &String| (!text.is_empty()).then(|| text.clone().into_boxed_str());
        Ok(Matcher {
            exact: some(&self.exact),
            prefix: some(&self.prefix),
            regex: if self.regex.is_empty() { None } else { Some(Pattern::new(&self.regex)?) },
            empty: self.empty,
        })
    }
}

/// A [`StringMatcher`] ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    exact: Option<Box<str>>,
    prefix: Option<Box<str>>,
    regex: Option<Pattern>,
    empty: bool,
}

impl Matcher {
    /// An absent text is matched as an empty one.
    pub fn matches(&self, text: &str) -> bool {
        if text.is_empty() && self.empty {
            return true;
        }
        self.exact.as_deref().is_some_and(|exact| exact == text)
            || self.prefix.as_deref().is_some_and(|prefix| text.starts_with(prefix))
            || self.regex.as_ref().is_some_and(|regex| regex.is_match(text))
    }
}

/// Selects requests by method and path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["url"]))]
pub struct UrlRule {
    /// Methods it holds for; empty means any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("uniqueItems" = true))]
    pub methods: Vec<String>,
    /// Matched against the path of the request, without query.
    pub url: StringMatcher,
    /// Name of the policy to apply, where the filter has policies. Default: the filter's default policy.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub policy_ref: String,
}

impl UrlRule {
    pub fn validate(&self, path: &str, findings: &mut Findings) {
        check_methods(&self.methods, &at(path, "methods"), findings);
        self.url.validate(&at(path, "url"), findings);
    }

    pub fn compile(&self) -> Result<UrlMatcher, String> {
        Ok(UrlMatcher { methods: self.methods.clone(), path: self.url.compile()? })
    }
}

/// A [`UrlRule`] ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlMatcher {
    methods: Vec<String>,
    path: Matcher,
}

impl UrlMatcher {
    pub fn matches(&self, method: &str, path: &str) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|m| m == method)) && self.path.matches(path)
    }
}

/// Files a problem when a text that is given does not compile.
pub fn check_regexp(pattern: &str, path: &str, findings: &mut Findings) {
    if pattern.is_empty() {
        return;
    }
    if let Err(why) = regexp::compile(pattern) {
        findings.problem(
            Problem::new(path, format!("not a regular expression: {why}")).text(pattern).accepted("RE2 syntax"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(exact: &str, prefix: &str, regex: &str, empty: bool) -> StringMatcher {
        StringMatcher { exact: exact.into(), prefix: prefix.into(), regex: regex.into(), empty }
    }

    #[test]
    fn forms_are_alternatives() {
        let m = matcher("a", "/b", "c$", false).compile().unwrap();
        assert!(m.matches("a") && m.matches("/b/x") && m.matches("xc"));
        assert!(!m.matches("") && !m.matches("ab"));
        assert!(matcher("", "", "", true).compile().unwrap().matches(""));
        assert!(!matcher("", "", "", true).compile().unwrap().matches("x"));
    }

    #[test]
    fn senseless_matchers_are_refused() {
        for (m, text) in [
            (
                matcher("", "", "", false),
                "url: matches nothing; give at least one of exact, prefix, regex, or empty: true",
            ),
            (matcher("a", "", "", true), "url: empty cannot be combined with exact, prefix or regex; keep one of them"),
            (
                matcher("", "", "(", false),
                r#"url.regex = "(": not a regular expression: unclosed group; accepted: RE2 syntax"#,
            ),
        ] {
            let mut findings = Findings::default();
            m.validate("url", &mut findings);
            assert_eq!(crate::problem::render(&findings.problems), text);
        }
    }

    #[test]
    fn url_rules_look_at_method_and_path() {
        let rule =
            UrlRule { methods: vec!["GET".into()], url: matcher("", "/a", "", false), policy_ref: String::new() };
        let rule = rule.compile().unwrap();
        assert!(rule.matches("GET", "/ab") && !rule.matches("POST", "/ab") && !rule.matches("GET", "/b"));
    }
}
