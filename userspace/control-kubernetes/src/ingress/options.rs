//! What annotations ask for, whoever's they are: what routes and pipelines are made of beside host, path and service.

use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value, json};

use super::Match;
use crate::endpoints::ServiceName;

/// Everything that can be asked for.
#[derive(Debug, Clone, Default, PartialEq)]
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
    /// Answers of servers with some statuses are another service's.
    pub errors: Option<Errors>,
    /// Relays WebSockets with these bounds, instead of a Proxy.
    pub websocket: Option<Map<String, Value>>,
    /// Clients are sent to the server that speaks TLS: `None`, where the host has a certificate.
    pub to_https: Option<bool>,
    /// Instead of leading to a service.
    pub does: Option<Does>,
    /// What the path `/` does.
    pub app_root: Option<Value>,
    /// Each host answers with and without `www.` before it; the one that is not written sends clients to the one that is.
    pub www: bool,
    /// Its services get a part of the requests of another Ingress.
    pub canary: Option<Canary>,
}

/// Who answers instead of servers, as ingress-nginx has it: asked for `/`, and told what it is for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Errors {
    pub statuses: Vec<i64>,
    pub service: ServiceName,
    /// Fields that tell it of whom the answer is.
    pub told: Map<String, Value>,
}

impl Errors {
    /// What asks it: the change of the request, and the Proxy behind it.
    fn filters(&self, controller: &str) -> [Value; 2] {
        let mut told = self.told.clone();
        told.insert("X-Service-Name".to_owned(), json!(self.service.service.name));
        let pool = json!({"serviceRegistry": controller, "serviceName": self.service.to_string()});
        [
            json!({"name": "error", "kind": "RequestAdaptor", "method": "GET", "path": {"replace": "/"}, "header": {"set": told},
                   "body": "", "template": "header:\n  set:\n    X-Code: '{{.resp.StatusCode}}'\n"}),
            json!({"name": "errors", "kind": "Proxy", "serverMaxBodySize": -1, "pools": [pool]}),
        ]
    }
}

/// A filter that answers by itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Does {
    /// What its pipeline is called.
    pub name: &'static str,
    pub filter: Value,
}

/// Which part of the requests. A header goes before a cookie, and that before the weight.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Canary {
    pub weight: i64,
    pub total: i64,
    /// `always` is for it and `never` is not; with `value` or `pattern` that is.
    pub header: Option<String>,
    pub value: Option<String>,
    pub pattern: Option<String>,
    /// `always` and `never`.
    pub cookie: Option<String>,
}

impl Canary {
    /// Pools in the order they are asked in, of which the last have no conditions.
    fn pools(&self, main: &Map<String, Value>, own: &Map<String, Value>) -> Vec<Value> {
        let mut pools = Vec::new();
        let mut push = |pool: &Map<String, Value>, field: &str, name: &str, matched: Value| {
            let mut pool = pool.clone();
            pool.insert("filter".to_owned(), json!({"policy": "general", field: {name: matched}}));
            pools.push(Value::Object(pool));
        };
        if let Some(header) = &self.header {
            match (&self.value, &self.pattern) {
                (Some(value), _) => push(own, "headers", header, json!({"exact": value})),
                (None, Some(pattern)) => push(own, "headers", header, json!({"regex": pattern})),
                (None, None) => {
                    push(own, "headers", header, json!({"exact": "always"}));
                    push(main, "headers", header, json!({"exact": "never"}));
                }
            }
        }
        if let Some(cookie) = &self.cookie {
            push(own, "cookies", cookie, json!({"exact": "always"}));
            push(main, "cookies", cookie, json!({"exact": "never"}));
        }
        let weight = self.weight.min(self.total);
        let mut last = vec![(main, self.total - weight), (own, weight)];
        last.retain(|(_, weight)| *weight > 0);
        let alone = last.len() == 1;
        for (pool, weight) in last {
            let mut pool = pool.clone();
            if !alone {
                pool.insert("weight".to_owned(), json!(weight));
            }
            pools.push(Value::Object(pool));
        }
        pools
    }
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
    /// Most Ingresses ask for nothing: they share one.
    pub fn shared(self) -> Arc<Options> {
        static NONE: OnceLock<Arc<Options>> = OnceLock::new();
        let none = NONE.get_or_init(Arc::default);
        if self == **none { none.clone() } else { Arc::new(self) }
    }

    /// Whether the pipeline is that of every Ingress that leads to the service.
    pub fn is_plain(&self) -> bool {
        self.pool.is_empty()
            && self.proxy.is_empty()
            && self.before.is_empty()
            && self.after.is_empty()
            && self.resilience.is_empty()
            && self.errors.is_none()
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
    pub fn pipeline(
        &self,
        name: &str,
        controller: &str,
        service: &ServiceName,
        canary: Option<(&ServiceName, &Canary)>,
    ) -> Value {
        let of = |service: &ServiceName| {
            let mut pool = self.pool.clone();
            pool.insert("serviceRegistry".to_owned(), controller.into());
            pool.insert("serviceName".to_owned(), service.to_string().into());
            pool
        };
        let mut pool = of(service);
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
        last["pools"] = match canary.filter(|_| self.websocket.is_none()) {
            Some((other, canary)) => Value::Array(canary.pools(&pool, &of(other))),
            None => json!([pool]),
        };
        filters.push(last);
        filters.extend(self.after.iter().cloned());
        let mut document = json!({"name": name, "kind": "Pipeline"});
        if let Some(errors) = self.errors.as_ref().filter(|_| self.websocket.is_none()) {
            let mut flow: Vec<Value> = filters.iter().map(|filter| json!({"filter": filter["name"]})).collect();
            for node in flow.iter_mut().filter(|node| node["filter"] == "proxy") {
                node["jumpIf"] = json!({"failureCode": "error"});
            }
            flow.push(json!({"filter": "END"}));
            for filter in errors.filters(controller) {
                flow.push(json!({"filter": filter["name"]}));
                filters.push(filter);
            }
            document["flow"] = json!(flow);
        }
        document["filters"] = json!(filters);
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
