//! What annotations ask for, whoever's they are: what routes and pipelines are made of beside host, path and service.

use serde_json::{Map, Value, json};

use super::Match;
use crate::endpoints::ServiceName;

/// Everything that can be asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Servers speak TLS.
    pub https: bool,
    /// Further hosts of every rule that has one.
    pub aliases: Vec<String>,
    /// Fields of each path of a route.
    pub path: Map<String, Value>,
    pub rewrite: Option<Rewrite>,
    /// Paths that are no exact ones are expressions.
    pub expressions: bool,
    /// Fields of the pool.
    pub pool: Map<String, Value>,
    /// Fields of the Proxy.
    pub proxy: Map<String, Value>,
    /// Filters before the Proxy, and after it.
    pub before: Vec<Value>,
    pub after: Vec<Value>,
    pub resilience: Vec<Value>,
    /// Relays WebSockets with these bounds, instead of a Proxy.
    pub websocket: Option<Map<String, Value>>,
    /// Clients are sent to the server that speaks TLS: `None`, where the host has a certificate.
    pub to_https: Option<bool>,
}

/// What becomes of the path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Rewrite {
    /// As `rewriteTarget` of a route: instead of what matched.
    Matched(String),
    /// As ingress-nginx has it: instead of the whole path, with the groups of the expression.
    Whole(String),
}

impl Options {
    /// Whether the pipeline is that of every Ingress that leads to the service.
    pub fn is_plain(&self) -> bool {
        self.pool.is_empty()
            && self.proxy.is_empty()
            && self.before.is_empty()
            && self.after.is_empty()
            && self.resilience.is_empty()
            && self.websocket.is_none()
    }

    pub fn redirects_to_https(&self, host_is_tls: bool) -> bool {
        self.to_https.unwrap_or(true) && (host_is_tls || self.to_https == Some(true))
    }

    /// How a path of an Ingress is compared.
    pub fn matched(&self, path_type: &str, path: &str) -> Result<Match, String> {
        let path = if path.is_empty() { "/" } else { path };
        if !path.starts_with('/') && !self.expressions {
            return Err(format!("path {} does not begin with /", base_text::quoted(path)));
        }
        match path_type {
            "Exact" => Ok(Match::Exact(path.to_owned())),
            _ if self.expressions && path.chars().any(is_special) => Ok(Match::Regexp(path.to_owned())),
            "Prefix" | "ImplementationSpecific" | "" => Ok(Match::Prefix(path.trim_end_matches('/').to_owned())),
            other => Err(format!(
                "pathType {} is not known; write Exact, Prefix or ImplementationSpecific",
                base_text::quoted(other)
            )),
        }
    }

    /// Conditions on the path, and what becomes of it.
    pub fn entries(&self, matched: &Match) -> Vec<Map<String, Value>> {
        let entry = |fields: &[(&str, &str)]| -> Map<String, Value> {
            fields.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect()
        };
        match (matched, &self.rewrite) {
            (Match::Exact(path), None) => vec![entry(&[("path", path)])],
            (Match::Exact(path), Some(Rewrite::Matched(target))) => {
                vec![entry(&[("path", path), ("rewriteTarget", target)])]
            }
            (Match::Prefix(path), None) if path.is_empty() => vec![entry(&[("pathPrefix", "/")])],
            (Match::Prefix(path), None) => vec![entry(&[("path", path), ("pathPrefix", &format!("{path}/"))])],
            (Match::Prefix(path), Some(Rewrite::Matched(target))) => {
                // The slash that ends the prefix stays.
                let below = format!("{}/", target.trim_end_matches('/'));
                let mut entries = Vec::new();
                if !path.is_empty() {
                    entries.push(entry(&[("path", path), ("rewriteTarget", target)]));
                }
                entries.push(entry(&[("pathPrefix", &format!("{path}/")), ("rewriteTarget", &below)]));
                entries
            }
            (Match::Regexp(path), None) => vec![entry(&[("pathRegexp", &expression(path))])],
            (Match::Regexp(path), Some(Rewrite::Matched(target))) => {
                vec![entry(&[("pathRegexp", &expression(path)), ("rewriteTarget", target)])]
            }
            (matched, Some(Rewrite::Whole(target))) => {
                let found = match matched {
                    Match::Exact(path) => format!("^{}$", super::escaped(path)),
                    Match::Prefix(path) => format!("^{}(?:/.*)?$", super::escaped(path)),
                    Match::Regexp(path) => format!("{}.*$", expression(path)),
                };
                vec![entry(&[("pathRegexp", &found), ("rewriteTarget", &groups(target))])]
            }
        }
    }

    /// The pipeline of a service.
    pub fn pipeline(&self, name: &str, controller: &str, service: &ServiceName) -> Value {
        let mut pool = self.pool.clone();
        pool.insert("serviceRegistry".to_owned(), controller.into());
        pool.insert("serviceName".to_owned(), service.to_string().into());
        let mut filters = self.before.clone();
        let mut last = match &self.websocket {
            Some(bounds) => {
                pool.extend(bounds.clone());
                json!({"name": "proxy", "kind": "WebSocketProxy"})
            }
            None => {
                let mut proxy = json!({"name": "proxy", "kind": "Proxy", "serverMaxBodySize": -1});
                if let Some(fields) = proxy.as_object_mut() {
                    fields.extend(self.proxy.clone());
                }
                proxy
            }
        };
        last["pools"] = json!([pool]);
        filters.push(last);
        filters.extend(self.after.iter().cloned());
        let mut document = json!({"name": name, "kind": "Pipeline", "filters": filters});
        if !self.resilience.is_empty() {
            document["resilience"] = json!(self.resilience);
        }
        document
    }
}

/// As ingress-nginx compares: from the beginning, without regard to case.
fn expression(path: &str) -> String {
    format!("(?is)^{}", path.trim_start_matches('^'))
}

fn is_special(c: char) -> bool {
    matches!(c, '(' | ')' | '[' | ']' | '{' | '}' | '*' | '+' | '?' | '|' | '^' | '$' | '\\')
}

/// `$1` with a letter behind it is another group for us.
fn groups(target: &str) -> String {
    let (mut out, mut chars) = (String::new(), target.chars().peekable());
    while let Some(c) = chars.next() {
        match chars.peek() {
            Some(digit) if c == '$' && digit.is_ascii_digit() => {
                out.push_str(&format!("${{{digit}}}"));
                chars.next();
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_end_where_their_number_does() {
        for (target, wanted) in [("/$1", "/${1}"), ("/$1x$2", "/${1}x${2}"), ("/$", "/$"), ("/a", "/a")] {
            assert_eq!(groups(target), wanted);
        }
    }
}
