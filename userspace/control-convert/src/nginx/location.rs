//! A location: which requests it is for, and the pipeline it becomes.

use super::Work;
use super::advice::{left, say};
use super::pool::{Target, Upstreams, pool};
use super::scope::{Scope, TAKEN};
use super::syntax::Directive;
use crate::report::Manner;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Which paths a location is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    Exact(String),
    /// With `^~`: expressions are not looked at.
    Prefix(String, bool),
    Expression(String),
}

impl Place {
    /// Of the words after `location`; `None` for those with names, which only nginx itself leads to.
    pub fn of(directive: &Directive) -> Result<Option<Place>, String> {
        let expression = |text: &str, any_case: bool| {
            let text = if any_case { format!("(?i){text}") } else { text.to_owned() };
            base_model::regexp::compile(&text).map(|_| Some(Place::Expression(text)))
        };
        let path = |text: &str| {
            if text.starts_with('/') { Ok(text.to_owned()) } else { Err("does not begin with /".to_owned()) }
        };
        match (directive.word(0), directive.word(1)) {
            ("=", text) => path(text).map(|path| Some(Place::Exact(path))),
            ("^~", text) => path(text).map(|path| Some(Place::Prefix(path, true))),
            ("~", text) => expression(text, false),
            ("~*", text) => expression(text, true),
            (name, _) if name.starts_with('@') => Ok(None),
            // Written without a space.
            (text, "") if text.starts_with("~*") => expression(&text[2..], true),
            (text, "") if text.starts_with('~') => expression(&text[1..], false),
            (text, "") if text.starts_with('=') => path(&text[1..]).map(|path| Some(Place::Exact(path))),
            (text, _) => path(text).map(|path| Some(Place::Prefix(path, false))),
        }
    }
}

/// A path of an HTTPServer.
#[derive(Debug, Clone)]
pub struct Path {
    pub place: Place,
    pub value: Map<String, Value>,
}

/// What a location is made from.
pub struct Source<'a> {
    pub upstreams: &'a Upstreams<'a>,
    /// `server_name`, for the variable.
    pub server_name: &'a str,
    /// A word for the names of objects.
    pub word: &'a str,
}

/// The path of a location and its pipeline; `None` where nothing of it can be served.
pub fn convert(
    work: &mut Work<'_>,
    source: &Source<'_>,
    place: Place,
    owner: &Directive,
    block: &[Directive],
    scope: &Scope,
) -> Option<Path> {
    if !work.room.take(1 + scope.lines()) {
        return None;
    }
    let mut flow = Flow { filters: Vec::new(), numbers: HashMap::new(), rewrite_target: None, serves: false };
    let mut path = Map::new();
    headers(work, source, scope, &mut path);
    for directive in block {
        match directive.name.as_str() {
            name if TAKEN.contains(&name) || name == "location" => {}
            "proxy_pass" => flow.proxy(work, source, &place, directive, scope),
            "return" => flow.answer(work, directive),
            "rewrite" => flow.rewrite(work, directive),
            _ => left(&mut work.report, directive),
        }
    }
    if !flow.serves {
        let why = "nothing in it that can be served; its requests get what other paths give them";
        say(&mut work.report, owner, Manner::Lost, why, "");
        return None;
    }
    flow.response(work, scope);
    let name = work.names.give(&[work.prefix, source.word, &place_word(&place)]);
    work.documents.push(json!({"kind": "Pipeline", "name": name, "filters": flow.filters}));
    match &place {
        Place::Exact(text) => path.insert("path".into(), text.as_str().into()),
        Place::Prefix(text, _) => path.insert("pathPrefix".into(), text.as_str().into()),
        Place::Expression(text) => path.insert("pathRegexp".into(), text.as_str().into()),
    };
    if let Some(target) = flow.rewrite_target {
        path.insert("rewriteTarget".into(), target.into());
    }
    if let Some(bytes) = scope.max_body {
        path.insert("clientMaxBodySize".into(), bytes.into());
    }
    if let Some(filter) = scope.ip_filter(work) {
        path.insert("ipFilter".into(), filter);
    }
    path.insert("backend".into(), name.into());
    Some(Path { place, value: path })
}

fn place_word(place: &Place) -> String {
    match place {
        Place::Exact(text) | Place::Prefix(text, _) if text == "/" => "root".to_owned(),
        Place::Exact(text) | Place::Prefix(text, _) => text.clone(),
        Place::Expression(_) => "expression".to_owned(),
    }
}

/// Variables that mean the same in `setHeaders`.
const VARIABLES: &[&str] = &[
    "request_method",
    "request_uri",
    "uri",
    "request",
    "scheme",
    "query_string",
    "args",
    "host",
    "http_host",
    "remote_addr",
    "remote_user",
    "proxy_add_x_forwarded_for",
    "time_iso8601",
    "time_local",
    "msec",
    "content_type",
    "content_length",
    "server_protocol",
    "request_time",
    "request_length",
];

/// The names of the variables in a text.
fn variables(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        rest = &rest[at + 1..];
        rest = rest.strip_prefix('{').unwrap_or(rest);
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end > 0 {
            found.push(&rest[..end]);
        }
        rest = &rest[end..];
    }
    found
}

/// `proxy_set_header` as `setHeaders`.
fn headers(work: &mut Work<'_>, source: &Source<'_>, scope: &Scope, path: &mut Map<String, Value>) {
    let mut set = Map::new();
    for directive in scope.set_headers.iter() {
        let (name, text) = (directive.word(0), directive.word(1));
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        // How connections are kept and turned into tunnels is not for documents to say; Host is chosen with the server.
        if is("Connection") || is("Upgrade") || (is("Host") && keeps_host(text)) {
            continue;
        }
        let text = text.replace("${server_name}", source.server_name).replace("$server_name", source.server_name);
        let known = |variable: &&str| {
            VARIABLES.contains(variable)
                || ["http_", "arg_", "cookie_"].iter().any(|family| variable.starts_with(family))
        };
        match variables(&text).iter().find(|variable| !known(variable)) {
            Some(variable) => {
                let why = format!("there is no variable ${variable}");
                say(&mut work.report, directive, Manner::Lost, &why, "a template in a RequestBuilder");
            }
            None => {
                set.insert(name.to_owned(), text.into());
            }
        }
    }
    if !set.is_empty() {
        path.insert("setHeaders".into(), set.into());
    }
}

/// It says that servers get the Host of clients.
fn keeps_host(text: &str) -> bool {
    matches!(text, "$host" | "$http_host" | "$host:$server_port" | "$host:$proxy_port" | "${host}" | "${http_host}")
}

struct Flow {
    filters: Vec<Value>,
    /// How many there are of each kind.
    numbers: HashMap<&'static str, usize>,
    rewrite_target: Option<String>,
    /// Something answers.
    serves: bool,
}

impl Flow {
    fn add(&mut self, name: &str, kind: &'static str, mut filter: Value) {
        let number = self.numbers.entry(kind).or_default();
        *number += 1;
        let name = if *number == 1 { name.to_owned() } else { format!("{name}-{number}") };
        if let Value::Object(fields) = &mut filter {
            let rest = std::mem::take(fields);
            fields.insert("name".into(), name.into());
            fields.insert("kind".into(), kind.into());
            fields.extend(rest);
        }
        self.filters.push(filter);
    }

    fn proxy(&mut self, work: &mut Work<'_>, source: &Source<'_>, place: &Place, directive: &Directive, scope: &Scope) {
        if self.serves {
            return say(&mut work.report, directive, Manner::Lost, "something else answers before it", "");
        }
        let target = match Target::parse(directive.word(0)) {
            Ok(target) => target,
            Err(why) => return say(&mut work.report, directive, Manner::Lost, why, "pools of a Proxy, with filters"),
        };
        let host = scope.set_headers.iter().rfind(|header| header.word(0).eq_ignore_ascii_case("host"));
        let keep_host = host.is_some_and(|header| keeps_host(header.word(1)));
        let mut pool = pool(work, source.upstreams, &target, keep_host);
        if let Some(timeout) = &scope.connect_timeout {
            pool["connectTimeout"] = timeout.as_str().into();
        }
        if host.is_none() {
            if source.upstreams.contains_key(target.place.as_str()) {
                let why = "servers with addresses get the Host that clients have sent, not the name of the group";
                say(
                    &mut work.report,
                    directive,
                    Manner::Differs,
                    why,
                    "setHeaders of the path, or setUpstreamHost of the pool",
                );
            } else {
                pool["setUpstreamHost"] = true.into();
            }
        }
        match (&target.path, place) {
            (None, _) => {}
            (Some(path), Place::Exact(_) | Place::Prefix(..)) => self.rewrite_target = Some(path.clone()),
            (Some(_), Place::Expression(_)) => {
                let why = "a path after the server stands for nothing where an expression has chosen";
                say(&mut work.report, directive, Manner::Lost, why, "rewriteTarget of the path");
            }
        }
        let mut proxy = json!({"pools": [pool]});
        if scope.gzip {
            proxy["compression"] = json!({"minLength": scope.gzip_min});
        }
        self.add("proxy", "Proxy", proxy);
        self.serves = true;
    }

    fn answer(&mut self, work: &mut Work<'_>, directive: &Directive) {
        if self.serves {
            return say(&mut work.report, directive, Manner::Lost, "something else answers before it", "");
        }
        let (first, second) = (directive.word(0), directive.words.get(1).map(String::as_str));
        let (code, text) = match first.parse::<u16>() {
            Ok(code) => (code, second),
            // A URL alone is a redirect.
            Err(_) => (302, Some(first)),
        };
        if code == 444 {
            let why = "connections are not closed without an answer; clients get 404";
            say(&mut work.report, directive, Manner::Differs, why, "ipFilter, which answers 403");
            self.add("answer", "ResponseBuilder", json!({"template": "statusCode: 404\n"}));
        } else if !(200..=599).contains(&code) {
            return say(&mut work.report, directive, Manner::Lost, "not the status of an answer", "");
        } else if let (301 | 302 | 303 | 307 | 308, Some(url)) = (code, text) {
            if let Some(redirect) = to_https(url, code) {
                self.add("redirect", "RedirectorV2", redirect);
            } else {
                let Some(location) = template(url) else {
                    let why = "a variable in it has no counterpart";
                    return say(&mut work.report, directive, Manner::Lost, why, "filter Redirector");
                };
                let text = format!("statusCode: {code}\nheaders:\n  Location: [{location}]\n");
                self.add("redirect", "ResponseBuilder", json!({"template": text}));
            }
        } else {
            let Some(body) = template(text.unwrap_or_default()) else {
                let why = "a variable in it has no counterpart";
                return say(&mut work.report, directive, Manner::Lost, why, "filter ResponseBuilder");
            };
            let text = format!("statusCode: {code}\nheaders:\n  Content-Type: [text/plain]\nbody: {body}\n");
            self.add("answer", "ResponseBuilder", json!({"template": text}));
        }
        self.serves = true;
    }

    fn rewrite(&mut self, work: &mut Work<'_>, directive: &Directive) {
        if self.serves {
            return say(&mut work.report, directive, Manner::Lost, "something else answers before it", "");
        }
        let (pattern, target, flag) = (directive.word(0), directive.word(1), directive.word(2));
        let whole = format!(
            "{}{pattern}{}",
            if pattern.starts_with('^') { "" } else { "^.*?" },
            if pattern.ends_with('$') { "" } else { ".*$" }
        );
        if let Err(why) = base_model::regexp::compile(&whole) {
            let why = format!("its expression is not one of RE2: {why}");
            return say(&mut work.report, directive, Manner::Lost, &why, "regexpReplace of a RequestAdaptor");
        }
        let only_groups = variables(target).iter().all(|name| name.bytes().all(|b| b.is_ascii_digit()));
        if !only_groups {
            let why = "a variable in it has no counterpart";
            return say(&mut work.report, directive, Manner::Lost, why, "a template in a RequestBuilder");
        }
        // `$1x` would be a group called 1x.
        let target = braced(target);
        match flag {
            "permanent" | "redirect" => self.redirect(work, directive, &whole, &target),
            _ if target.contains("://") => self.redirect(work, directive, &whole, &target),
            "last" | "break" | "" => {
                if target.contains('?') {
                    let why = "parameters of the new path are not added to those there are";
                    return say(&mut work.report, directive, Manner::Lost, why, "a template in a RequestBuilder");
                }
                if flag != "break" {
                    let why = "paths are not looked for again with what it makes";
                    say(&mut work.report, directive, Manner::Differs, why, "rewriteTarget of the path");
                }
                let replace = json!({"path": {"regexpReplace": {"regexp": whole, "replace": target}}});
                self.add("rewrite", "RequestAdaptor", replace);
            }
            _ => say(&mut work.report, directive, Manner::Lost, "its flag is not known", ""),
        }
    }

    fn redirect(&mut self, work: &mut Work<'_>, directive: &Directive, whole: &str, target: &str) {
        if !target.ends_with('?') {
            let why = "the parameters of the request are not added";
            say(&mut work.report, directive, Manner::Differs, why, "matchPart: uri of the Redirector");
        }
        let code = if directive.word(2) == "permanent" { 301 } else { 302 };
        let replacement = target.trim_end_matches('?');
        let filter = json!({"match": whole, "matchPart": "path", "replacement": replacement, "statusCode": code});
        self.add("redirect", "Redirector", filter);
        // What it does not match goes on.
    }

    /// What is done with answers.
    fn response(&mut self, work: &mut Work<'_>, scope: &Scope) {
        let (mut set, mut gone) = (Map::new(), Vec::new());
        for directive in scope.hide_headers.iter() {
            gone.push(directive.word(0));
        }
        for directive in scope.add_headers.iter() {
            let (name, text) = (directive.word(0), directive.word(1));
            if !variables(text).is_empty() {
                let why = "variables are not set into answers";
                say(&mut work.report, directive, Manner::Lost, why, "a template in a ResponseBuilder");
            } else {
                if directive.word(2) != "always" {
                    let why = "it is set whatever the status is";
                    say(&mut work.report, directive, Manner::Differs, why, "");
                }
                set.insert(name.to_owned(), text.into());
            }
        }
        if set.is_empty() && gone.is_empty() {
            return;
        }
        let mut header = Map::new();
        if !gone.is_empty() {
            header.insert("del".into(), base_model::once(gone).into());
        }
        if !set.is_empty() {
            header.insert("set".into(), set.into());
        }
        self.add("answers", "ResponseAdaptor", json!({"header": header}));
    }
}

/// `$1` as `${1}`.
fn braced(target: &str) -> String {
    let mut text = String::new();
    let mut rest = target;
    while let Some(at) = rest.find('$') {
        text.push_str(&rest[..=at]);
        rest = &rest[at + 1..];
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if digits > 0 {
            text.push_str(&format!("{{{}}}", &rest[..digits]));
        }
        rest = &rest[digits..];
    }
    text + rest
}

/// The redirect that everybody has: the same over TLS, or under another name.
fn to_https(url: &str, code: u16) -> Option<Value> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.strip_suffix("$request_uri").or_else(|| rest.strip_suffix("${request_uri}"))?;
    let mut redirect = json!({"scheme": scheme, "statusCode": code});
    match host {
        "$host" | "$http_host" | "${host}" | "$server_name" => {}
        name if !name.contains(['$', '/', ':']) => redirect["hostname"] = name.into(),
        _ => return None,
    }
    matches!(scheme, "http" | "https").then_some(redirect)
}

/// A text with variables as one of a template, quoted for YAML; `None` where one has no counterpart.
fn template(text: &str) -> Option<String> {
    let mut made = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        made.push_str(&literal(&rest[..at]));
        rest = &rest[at + 1..];
        let braced = rest.starts_with('{');
        rest = rest.strip_prefix('{').unwrap_or(rest);
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        made.push_str(match &rest[..end] {
            "" => "$",
            "host" | "http_host" => "{{.req.Host}}",
            "request_uri" => "{{.req.URL.RequestURI}}",
            "uri" | "document_uri" => "{{.req.URL.Path}}",
            "args" | "query_string" => "{{.req.URL.RawQuery}}",
            "scheme" => "{{.req.Scheme}}",
            "request_method" => "{{.req.Method}}",
            "remote_addr" => "{{.req.RealIP}}",
            _ => return None,
        });
        rest = &rest[end..];
        if braced {
            rest = rest.strip_prefix('}')?;
        }
    }
    made.push_str(&literal(rest));
    Some(format!("\"{made}\""))
}

/// A text inside YAML's double quotes and outside of a template's braces.
fn literal(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].replace('{', "\\u007b")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_become_parts_of_templates() {
        assert_eq!(template("a$host/b").as_deref(), Some("\"a{{.req.Host}}/b\""));
        assert_eq!(template("${scheme}x").as_deref(), Some("\"{{.req.Scheme}}x\""));
        assert_eq!(template("a \"{{b}}\"\n").as_deref(), Some("\"a \\\"\\u007b\\u007bb}}\\\"\\n\""));
        assert_eq!(template("$upstream_addr"), None);
        assert_eq!(braced("/a/$1b/$2"), "/a/${1}b/${2}");
        assert_eq!(variables("$a-${b_c}$ $1"), ["a", "b_c", "1"]);
    }
}
