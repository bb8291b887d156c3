//! `weirctl explain`: what a field means, from the same schema that decodes it.

use std::sync::Arc;

use schemars::JsonSchema;
use serde_json::Value;

use crate::decode::{resolve, schema_of, types_of, words_of};
use crate::problem::{Problem, nearest, one_of};

/// A kind that can be explained: objects, filters, policies.
#[derive(Debug, Clone)]
pub struct Explained {
    pub kind: String,
    pub schema: Arc<Value>,
}

impl Explained {
    pub fn of<T: JsonSchema>(kind: &str) -> Self {
        Self { kind: kind.to_owned(), schema: schema_of::<T>() }
    }
}

/// The kinds of this crate.
pub fn kinds() -> Vec<Explained> {
    vec![
        Explained::of::<crate::HttpServerSpec>("HTTPServer"),
        Explained::of::<crate::PipelineSpec>("Pipeline"),
        Explained::of::<crate::VirtualIpSpec>("VirtualIP"),
        Explained::of::<crate::AccessListSpec>("AccessList"),
        Explained::of::<crate::GlobalFilterSpec>("GlobalFilter"),
        Explained::of::<crate::OverloadManagerSpec>("OverloadManager"),
        Explained::of::<crate::LogSinkSpec>("LogSink"),
        Explained::of::<crate::TcpProxySpec>("TCPProxy"),
        Explained::of::<crate::UdpProxySpec>("UDPProxy"),
        Explained::of::<crate::GrpcServerSpec>("GRPCServer"),
        Explained::of::<crate::ConsumerSpec>("Consumer"),
        Explained::of::<crate::EtcdServiceRegistrySpec>("EtcdServiceRegistry"),
        Explained::of::<crate::ConsulServiceRegistrySpec>("ConsulServiceRegistry"),
        Explained::of::<crate::EurekaServiceRegistrySpec>("EurekaServiceRegistry"),
        Explained::of::<crate::NacosServiceRegistrySpec>("NacosServiceRegistry"),
        Explained::of::<crate::ZookeeperServiceRegistrySpec>("ZookeeperServiceRegistry"),
        Explained::of::<crate::DnsServiceRegistrySpec>("DNSServiceRegistry"),
        Explained::of::<crate::KubernetesServiceRegistrySpec>("KubernetesServiceRegistry"),
        Explained::of::<crate::IngressControllerSpec>("IngressController"),
        Explained::of::<crate::GatewayControllerSpec>("GatewayController"),
        Explained::of::<crate::AutoCertManagerSpec>("AutoCertManager"),
        Explained::of::<crate::MockNamespacerSpec>("MockNamespacer"),
        Explained::of::<crate::ProxySpec>("Proxy"),
        Explained::of::<crate::RetrySpec>("Retry"),
        Explained::of::<crate::CircuitBreakerSpec>("CircuitBreaker"),
    ]
}

/// Text about `KIND` or `KIND.field.field`; `further` adds kinds of others, such as the filters' catalog.
pub fn explain(query: &str, further: &[Explained]) -> Result<String, Problem> {
    let mut words = query.split('.').filter(|word| !word.is_empty());
    let kind = words.next().unwrap_or("");
    let own = kinds();
    let all: Vec<&Explained> = own.iter().chain(further).collect();
    let canonical = crate::kinds::find(kind).map_or(kind, |found| found.name);
    let Some(found) = all.iter().find(|known| known.kind.eq_ignore_ascii_case(canonical)) else {
        let names: Vec<&str> = all.iter().map(|known| known.kind.as_str()).collect();
        let problem = Problem::new("", format!("no kind {kind}")).accepted(one_of(&names));
        return Err(match nearest(kind, names) {
            Some(meant) => problem.advice(format!("did you mean {meant}?")),
            None => problem,
        });
    };
    let root = found.schema.as_ref();
    let (mut schema, mut field, mut path) = (root, None, found.kind.clone());
    for word in words {
        // `rules[0].paths` is as good as `rules.paths`.
        let word = word.split('[').next().unwrap_or(word);
        let inner = inside(root, schema);
        let properties = inner.get("properties").and_then(Value::as_object);
        let names: Vec<&str> = properties.into_iter().flat_map(|p| p.keys()).map(String::as_str).collect();
        let Some(name) = names.iter().find(|name| name.eq_ignore_ascii_case(word)) else {
            let problem = Problem::new(path, format!("no field {word}")).accepted(one_of(&names));
            return Err(match nearest(word, names) {
                Some(meant) => problem.advice(format!("did you mean {meant}?")),
                None => problem,
            });
        };
        schema = &inner["properties"][*name];
        field = Some(schema);
        path = format!("{path}.{name}");
    }
    Ok(text(root, schema, field, &path))
}

fn text(root: &Value, schema: &Value, field: Option<&Value>, path: &str) -> String {
    let mut out = format!("{path}  <{}>\n", type_text(root, schema));
    let own =
        field.and_then(description).or_else(|| description(schema)).or_else(|| description(resolve(root, schema)));
    let own = match field {
        Some(field) => about(root, field),
        None => own.unwrap_or_default().to_owned(),
    };
    if !own.is_empty() {
        out.push_str(&format!("\n{}\n", wrap(&own, "  ")));
    }
    if let Some(words) = words_of(inside(root, schema)) {
        out.push_str(&format!("\n  One of: {}\n", words.join(", ")));
    }
    let inner = inside(root, schema);
    let Some(properties) = inner.get("properties").and_then(Value::as_object) else { return out };
    let required: Vec<&str> =
        inner.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    out.push_str("\nFields:\n");
    for (name, field) in properties {
        let mark = if required.contains(&name.as_str()) { ", required" } else { "" };
        out.push_str(&format!("  {name}  <{}{mark}>\n", type_text(root, field)));
        let about = about(root, field);
        if !about.is_empty() {
            out.push_str(&format!("{}\n", wrap(&about, "      ")));
        }
    }
    out
}

/// A field of a kind, as a page tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// `rules.paths.pathPrefix`.
    pub path: String,
    /// As people say it.
    pub type_text: String,
    pub required: bool,
    /// What it means; its unit, default and range. Paragraphs are parted by an empty line.
    pub about: String,
}

/// Every field of a kind, those inside a field after it.
pub fn fields(kind: &Explained) -> Vec<Told> {
    let mut told = Vec::new();
    tell(&kind.schema, &kind.schema, "", DEPTH_MAX, &mut told);
    told
}

fn tell(root: &Value, schema: &Value, path: &str, depth: usize, told: &mut Vec<Told>) {
    let inner = inside(root, schema);
    let Some(properties) = inner.get("properties").and_then(Value::as_object).filter(|_| depth > 0) else { return };
    let required: Vec<&str> =
        inner.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in properties {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let words = words_of(inside(root, field)).filter(|words| !words.is_empty());
        let words = words.map(|words| format!(" One of: {}.", words.join(", "))).unwrap_or_default();
        told.push(Told {
            path: path.clone(),
            type_text: type_text(root, field),
            required: required.contains(&name.as_str()),
            about: format!("{}{words}", about(root, field)),
        });
        tell(root, field, &path, depth - 1, told);
    }
}

/// What a field means, with the default and the range where its author left them to the schema.
fn about(root: &Value, field: &Value) -> String {
    let own = description(field).or_else(|| description(resolve(root, field)));
    let mut about = own.unwrap_or_default().to_owned();
    let mut add = |text: String| {
        if !about.is_empty() && !about.ends_with(['.', ':', '!', '?']) {
            about.push('.');
        }
        if !about.is_empty() {
            about.push(' ');
        }
        about.push_str(&text);
    };
    if let Some(range) = range(resolve(root, field)).filter(|_| !own.is_some_and(says_range)) {
        add(format!("Range: {range}."));
    }
    if let Some(default) = default_of(field).filter(|_| !own.is_some_and(|own| own.contains("efault"))) {
        add(format!("Default: {default}."));
    }
    about
}

/// Somewhere a number is said to be so much or more, or to go to so much.
fn says_range(about: &str) -> bool {
    let words: Vec<&str> = about.split_whitespace().collect();
    let number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    about.contains(" or more")
        || about.contains("at least")
        || about.contains("at most")
        || words.windows(3).any(|w| number(w[0]) && w[1] == "to" && number(w[2]))
}

/// What of a number's type is not accepted.
fn range(schema: &Value) -> Option<String> {
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
    let most: f64 = match format {
        "uint8" => 255.0,
        "uint16" => 65_535.0,
        "uint32" => f64::from(u32::MAX),
        _ => f64::INFINITY,
    };
    let low = bound("minimum").filter(|low| *low != 0.0 || !format.starts_with("uint"));
    let high = bound("maximum").filter(|high| *high < most);
    match (low, high) {
        (Some(low), Some(high)) => Some(format!("{low} to {high}")),
        (Some(low), None) => Some(format!("{low} or more")),
        (None, Some(high)) => Some(format!("0 to {high}")),
        (None, None) => None,
    }
}

/// A default that can be shown in a word. What is empty is none.
fn default_of(schema: &Value) -> Option<String> {
    match schema.get("default")? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
        _ => None,
    }
}

/// What is inside lists, maps, options and references.
fn inside<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    let mut schema = resolve(root, schema);
    for _ in 0..8 {
        let choice =
            schema.get("anyOf").and_then(Value::as_array).and_then(|c| c.iter().find(|s| types_of(s) != ["null"]));
        let next = choice.or_else(|| schema.get("items")).or_else(|| {
            schema.get("additionalProperties").filter(|rest| rest.is_object() && schema.get("properties").is_none())
        });
        match next {
            Some(next) => schema = resolve(root, next),
            None => break,
        }
    }
    schema
}

fn type_text(root: &Value, schema: &Value) -> String {
    let schema = resolve(root, schema);
    if words_of(schema).is_some() {
        return "word".to_owned();
    }
    if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
        let texts: Vec<String> =
            choices.iter().filter(|s| types_of(s) != ["null"]).map(|s| type_text(root, s)).collect();
        return texts.join(" or ");
    }
    let named = types_of(schema).into_iter().find(|t| *t != "null").unwrap_or("any");
    let format = schema.get("format").and_then(Value::as_str).unwrap_or("");
    match (named, format) {
        ("string", "duration") => "duration".to_owned(),
        ("string", "regexp") => "RE2 expression".to_owned(),
        ("string", "ipcidr") => "address or prefix".to_owned(),
        ("string", "urlname") => "name".to_owned(),
        ("integer", "httpcode") => "status code".to_owned(),
        ("string", _) => "text".to_owned(),
        ("boolean", _) => "true or false".to_owned(),
        ("integer" | "number", _) => "number".to_owned(),
        ("array", _) => {
            format!("list of {}", schema.get("items").map_or("any".to_owned(), |items| type_text(root, items)))
        }
        ("object", _) => match schema.get("additionalProperties").filter(|rest| rest.is_object()) {
            Some(rest) if schema.get("properties").is_none() => format!("mapping of text to {}", type_text(root, rest)),
            _ => "mapping".to_owned(),
        },
        (other, _) => other.to_owned(),
    }
}

fn description(schema: &Value) -> Option<&str> {
    schema.get("description").and_then(Value::as_str)
}

fn wrap(text: &str, indent: &str) -> String {
    let mut out = String::new();
    for paragraph in text.split("\n\n") {
        if !out.is_empty() {
            out.push_str("\n\n");
        }
        let mut column = 0;
        for word in paragraph.split_whitespace() {
            if column == 0 || column + word.len() + 1 > WIDTH {
                if column > 0 {
                    out.push('\n');
                }
                out.push_str(indent);
                column = indent.len();
            } else {
                out.push(' ');
                column += 1;
            }
            out.push_str(word);
            column += word.len();
        }
    }
    out
}

/// Fields inside fields, at most.
const DEPTH_MAX: usize = 8;

/// Fits a terminal that was never resized.
const WIDTH: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_fields_are_explained_by_any_spelling() {
        let text = explain("hs", &[]).unwrap();
        assert!(text.starts_with("HTTPServer  <mapping>\n\n  A listener for HTTP"), "{text}");
        assert!(text.contains("  port  <number, required>\n      Port to listen on"), "{text}");
        let text = explain("HTTPServer.rules[0].Paths.pathregexp", &[]).unwrap();
        assert_eq!(
            text,
            "HTTPServer.rules.paths.pathRegexp  <RE2 expression>\n\n  RE2 expression found anywhere in the path.\n"
        );
        let text = explain("HTTPServer.keepAliveTimeout", &[]).unwrap();
        assert!(text.contains("<duration>") && text.contains("Default 60s"), "{text}");
        let text = explain("VirtualIP.hash", &[]).unwrap();
        assert!(text.contains("One of: fiveTuple, sourceIP, sourcePrefix, destinationPort"), "{text}");
        assert!(explain("Proxy.pools.filter.headers.regex", &[]).unwrap().contains("RE2 expression"));
    }

    #[test]
    fn defaults_and_ranges_are_said_once() {
        let told = |query: &str| explain(query, &[]).unwrap().replace('\n', " ");
        assert!(
            told("Retry.randomizationFactor").to_lowercase().contains("0"),
            "{}",
            told("Retry.randomizationFactor")
        );
        for kind in kinds() {
            for field in fields(&kind) {
                assert!(field.about.matches("efault").count() <= 3, "{}.{}: {}", kind.kind, field.path, field.about);
                assert!(!field.about.is_empty() && !field.type_text.is_empty(), "{}.{}", kind.kind, field.path);
            }
        }
        let server = Explained::of::<crate::HttpServerSpec>("HTTPServer");
        let all = fields(&server);
        let of = |path: &str| all.iter().find(|field| field.path == path).unwrap_or_else(|| panic!("{path}"));
        assert!(of("port").required && of("port").type_text == "number");
        assert_eq!(of("rules.paths.pathPrefix").type_text, "text");
        assert!(of("rules.paths.backendPool.servers.url").required);
        assert!(of("routerKind").about.contains("One of: Ordered, RadixTree"), "{}", of("routerKind").about);
    }

    #[test]
    fn slips_are_told() {
        assert!(explain("HTTPServer.prot", &[]).unwrap_err().to_string().ends_with("did you mean port?"));
        assert!(explain("Pipelin", &[]).unwrap_err().to_string().ends_with("did you mean Pipeline?"));
    }

    /// Every field people can write says what it is.
    #[test]
    fn every_field_has_words() {
        for kind in kinds() {
            let mut unexplained = Vec::new();
            let defs = kind.schema.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
            for schema in defs.values().chain([kind.schema.as_ref()]) {
                for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                    if description(field).is_none() {
                        unexplained.push(name.clone());
                    }
                }
            }
            assert_eq!(unexplained, Vec::<String>::new(), "{}", kind.kind);
        }
    }
}
