//! What templates see of an exchange: `.req`, `.resp`, `.requests`, `.responses`, `.data`, `.namespace`, in the shape
//! of Go's `http.Request` and `http.Response`. Nothing is copied before it is asked for.

use super::value::Value;
use crate::body::Body;
use crate::exchange::{Exchange, Space};
use proto_http::message::reason_phrase;
use proto_http::{Headers, Known, Version};
use std::fmt;
use std::sync::Arc;

/// A view into an exchange.
#[derive(Clone, Copy)]
pub(super) enum Object<'x> {
    Root(&'x Exchange),
    Requests(&'x Exchange),
    Responses(&'x Exchange),
    Data(&'x Exchange),
    Json(&'x serde_json::Value),
    Request(&'x Exchange, &'x Space),
    Response(&'x Space),
    Url(&'x Space),
    Query(&'x Space),
    Header(&'x Headers),
}

/// Bodies parsed so far in this run, so that asking for ten fields parses once.
#[derive(Default)]
pub(super) struct Parsed<'x> {
    bodies: Vec<(*const Body, bool, Value<'x>)>,
    data: Vec<(*const serde_json::Value, Value<'x>)>,
}

impl<'x> Parsed<'x> {
    /// A list or map of the exchange's data as a value of its own, made once.
    pub fn owned(&mut self, value: Value<'x>) -> Value<'x> {
        let Value::Object(Object::Json(json)) = value else { return value };
        if let Some((_, known)) = self.data.iter().find(|(at, _)| std::ptr::eq(*at, json)) {
            return known.clone();
        }
        let value = Value::of_json(json);
        self.data.push((json, value.clone()));
        value
    }
}

/// Fields of requests and responses that need the whole body in memory.
pub(super) const BODY_FIELDS: [&str; 6] = ["Body", "RawBody", "JSONBody", "YAMLBody", "FormValue", "PostFormValue"];

impl<'x> Object<'x> {
    /// A field, or a method with its arguments. An unknown key of a map is `Nil`, an unknown field an error.
    pub fn field(self, name: &str, args: &[Value<'x>], parsed: &mut Parsed<'x>) -> Result<Value<'x>, String> {
        let argument = || match args {
            [Value::Text(text)] => Ok(text.clone()),
            [Value::Int(n)] => Ok(Arc::from(n.to_string())),
            [_] => Err(format!("{name} wants a text")),
            _ => Err(format!("{name} wants one argument, not {}", args.len())),
        };
        let value = match self {
            Object::Header(headers) => match name {
                "Get" => return Ok(Value::text(lossy(headers.value(&argument()?).unwrap_or_default()))),
                "Values" => return Ok(texts(headers.values(&argument()?))),
                key => header_values(headers, key),
            },
            Object::Query(space) => match name {
                "Get" => return Ok(first(&query_values(space, &argument()?))),
                "Has" => return Ok(Value::Bool(!query_values(space, &argument()?).is_empty())),
                key => match query_values(space, key) {
                    values if values.is_empty() => Value::Nil,
                    values => Value::list(values.iter().map(Value::text).collect()),
                },
            },
            Object::Request(exchange, space) => {
                let request = &space.request;
                match name {
                    "Cookie" => {
                        let wanted = argument()?;
                        let found = cookies(&request.headers).find(|(name, _)| *name == &*wanted);
                        return match found {
                            Some((name, value)) => Ok(cookie(name, value)),
                            None => Err("http: named cookie not present".to_owned()),
                        };
                    }
                    "FormValue" | "PostFormValue" => {
                        let wanted = argument()?;
                        let mut values = form_values(space, &wanted)?;
                        if name == "FormValue" {
                            values.extend(query_values(space, &wanted));
                        }
                        return Ok(first(&values));
                    }
                    "Method" => Value::text(request.method.as_str()),
                    "URL" => Value::Object(Object::Url(space)),
                    "Proto" => Value::text(request.version.as_str()),
                    "ProtoMajor" => Value::Int(version(request.version).0),
                    "ProtoMinor" => Value::Int(version(request.version).1),
                    "Header" => Value::Object(Object::Header(&request.headers)),
                    "Host" => Value::text(&request.authority),
                    "RemoteAddr" => Value::text(exchange.client.peer.to_string()),
                    "RealIP" => Value::text(exchange.client.real_ip_text()),
                    "Scheme" => Value::text(exchange.client.scheme),
                    "RequestURI" => Value::text(request.target()),
                    "ContentLength" => content_length(&space.request_body),
                    "TransferEncoding" => Value::list(Vec::new()),
                    "UserAgent" => header_text(&request.headers, "User-Agent"),
                    "Referer" => header_text(&request.headers, "Referer"),
                    "Cookies" => Value::list(cookies(&request.headers).map(|(n, v)| cookie(n, v)).collect()),
                    "TLS" => {
                        if exchange.client.scheme == "https" {
                            Value::Bool(true)
                        } else {
                            Value::Nil
                        }
                    }
                    name => body(&space.request_body, name, parsed)?.ok_or_else(|| self.lacks(name))?,
                }
            }
            Object::Response(space) => {
                let Some(response) = &space.response else { return Ok(Value::Nil) };
                match name {
                    "StatusCode" => Value::Int(i64::from(response.status)),
                    "Status" => {
                        Value::text(format!("{} {}", response.status, reason_phrase(response.status)).trim_end())
                    }
                    "Proto" => Value::text(response.version.as_str()),
                    "Header" => Value::Object(Object::Header(&response.headers)),
                    "ContentLength" => content_length(&space.response_body),
                    name => body(&space.response_body, name, parsed)?.ok_or_else(|| self.lacks(name))?,
                }
            }
            Object::Url(space) => match name {
                "Path" => Value::text(space.request.path.as_str()),
                "EscapedPath" | "RawPath" => Value::text(space.request.path.encoded()),
                "RawQuery" => Value::text(space.request.query.as_deref().unwrap_or_default()),
                "Query" => Value::Object(Object::Query(space)),
                "String" | "RequestURI" => Value::text(space.request.target()),
                // A server sees origin-form targets, which have none of these.
                "Scheme" | "Host" | "Hostname" | "Port" | "Fragment" | "Opaque" => Value::text(""),
                "User" => Value::Nil,
                _ => return Err(self.lacks(name)),
            },
            Object::Root(exchange) => match name {
                "req" => request(exchange, exchange.space_ref()),
                "resp" => response(exchange.space_ref()),
                "requests" => Value::Object(Object::Requests(exchange)),
                "responses" => Value::Object(Object::Responses(exchange)),
                "data" => Value::Object(Object::Data(exchange)),
                "namespace" => {
                    let current: *const Space = exchange.space_ref();
                    let name = exchange.spaces().find(|(_, space)| std::ptr::eq(*space, current)).map(|(name, _)| name);
                    Value::text(name.unwrap_or_default())
                }
                _ => Value::Nil,
            },
            Object::Requests(exchange) => match exchange.named(name) {
                Some(space) if !name.is_empty() => request(exchange, space),
                _ => Value::Nil,
            },
            Object::Responses(exchange) => match exchange.named(name) {
                Some(space) if !name.is_empty() => response(space),
                _ => Value::Nil,
            },
            Object::Data(exchange) => exchange.data.get(name).map_or(Value::Nil, of_json),
            Object::Json(json) => json.get(name).map_or(Value::Nil, of_json),
        };
        if args.is_empty() { Ok(value) } else { Err(format!("{name} is not a method but has arguments")) }
    }

    fn lacks(self, name: &str) -> String {
        format!("can't evaluate field {name} in type {}", self.type_name())
    }

    /// The objects that are maps in Go, as maps.
    pub fn as_map(self) -> Option<Value<'x>> {
        Some(match self {
            Object::Header(headers) => {
                let mut names: Vec<String> = headers
                    .iter()
                    .filter(|(_, _, known)| *known != Known::Host)
                    .map(|(name, _, _)| canonical(&lossy(name)))
                    .collect();
                names.sort_unstable();
                names.dedup();
                let values = |name: &str| header_values(headers, name);
                Value::map(names.iter().map(|name| (Arc::from(name.as_str()), values(name))))
            }
            Object::Query(space) => {
                let mut names: Vec<String> = pairs(space.request.query.as_deref()).map(|(name, _)| name).collect();
                names.sort_unstable();
                names.dedup();
                Value::map(names.iter().map(|name| {
                    let values = query_values(space, name);
                    (Arc::from(name.as_str()), Value::list(values.iter().map(Value::text).collect()))
                }))
            }
            Object::Requests(exchange) => Value::map(
                exchange.spaces().filter(|(n, s)| is_request(n, s)).map(|(n, s)| (Arc::from(n), request(exchange, s))),
            ),
            Object::Responses(exchange) => Value::map(
                exchange.spaces().filter(|(_, s)| s.response.is_some()).map(|(n, s)| (Arc::from(n), response(s))),
            ),
            Object::Data(exchange) => {
                Value::map(exchange.data.iter().map(|(k, v)| (Arc::from(k.as_str()), Value::of_json(v))))
            }
            Object::Json(json) => Value::of_json(json),
            Object::Root(_) => {
                let names = ["data", "namespace", "req", "requests", "resp", "responses"];
                let mut parsed = Parsed::default();
                let mut field = |name| self.field(name, &[], &mut parsed).unwrap_or(Value::Nil);
                Value::map(names.map(|name| (Arc::from(name), field(name))))
            }
            Object::Request(..) | Object::Response(_) | Object::Url(_) => return None,
        })
    }

    pub fn is_true(self) -> bool {
        match self {
            Object::Header(headers) => !headers.is_empty(),
            Object::Query(space) => pairs(space.request.query.as_deref()).next().is_some(),
            Object::Data(exchange) => !exchange.data.is_empty(),
            Object::Responses(exchange) => exchange.spaces().any(|(_, s)| s.response.is_some()),
            Object::Json(json) => match json {
                serde_json::Value::Array(items) => !items.is_empty(),
                serde_json::Value::Object(map) => !map.is_empty(),
                _ => true,
            },
            _ => true,
        }
    }

    pub fn type_name(self) -> &'static str {
        match self {
            Object::Request(..) => "*http.Request",
            Object::Response(_) => "*http.Response",
            Object::Url(_) => "*url.URL",
            Object::Query(_) => "url.Values",
            Object::Header(_) => "http.Header",
            Object::Json(serde_json::Value::Array(_)) => "[]interface {}",
            _ => "map[string]interface {}",
        }
    }

    pub fn kind_name(self) -> &'static str {
        match self {
            Object::Request(..) | Object::Response(_) | Object::Url(_) => "ptr",
            Object::Json(serde_json::Value::Array(_)) => "slice",
            _ => "map",
        }
    }
}

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::Request(_, space) => {
                let request = &space.request;
                write!(f, "&{{{} {} {}}}", request.method, request.target(), request.version.as_str())
            }
            Object::Response(space) => {
                let status = space.response.as_ref().map_or(0, |r| r.status);
                write!(f, "&{{{status} {}}}", reason_phrase(status))
            }
            Object::Url(space) => f.write_str(&space.request.target()),
            other => f.write_str(other.type_name()),
        }
    }
}

/// Lists and maps stay where they are until someone needs more than one of their fields.
fn of_json(json: &serde_json::Value) -> Value<'_> {
    match json {
        serde_json::Value::Array(_) | serde_json::Value::Object(_) => Value::Object(Object::Json(json)),
        scalar => Value::of_json(scalar),
    }
}

fn is_request(name: &str, space: &Space) -> bool {
    space.has_request || name == crate::exchange::DEFAULT_NAMESPACE
}

fn request<'x>(exchange: &'x Exchange, space: &'x Space) -> Value<'x> {
    if space.has_request || std::ptr::eq(space, exchange.default_space_ref()) {
        Value::Object(Object::Request(exchange, space))
    } else {
        Value::Nil
    }
}

fn response(space: &Space) -> Value<'_> {
    if space.response.is_some() { Value::Object(Object::Response(space)) } else { Value::Nil }
}

/// One of the forms of a body; `None` when `name` is not one.
fn body<'x>(body: &'x Body, name: &str, parsed: &mut Parsed<'x>) -> Result<Option<Value<'x>>, String> {
    let bytes = || body.in_memory().ok_or("the body is a stream that was not collected");
    Ok(Some(match name {
        "RawBody" => Value::Bytes(Arc::from(bytes()?)),
        "Body" => Value::text(lossy(bytes()?)),
        "JSONBody" | "YAMLBody" => {
            let yaml = name == "YAMLBody";
            if let Some((_, _, value)) = parsed.bodies.iter().find(|(at, y, _)| std::ptr::eq(*at, body) && *y == yaml) {
                return Ok(Some(value.clone()));
            }
            let bytes = bytes()?;
            let value = if yaml {
                let text = std::str::from_utf8(bytes).map_err(|_| "the body is not UTF-8")?;
                match text.trim().is_empty() {
                    true => Value::Nil,
                    false => Value::of_yaml(&base_model::yaml::parse_document(text).map_err(|e| e.to_string())?),
                }
            } else {
                let json = serde_json::from_slice(bytes).map_err(|e| format!("the body is not JSON: {e}"))?;
                Value::of_json(&json)
            };
            parsed.bodies.push((body, yaml, value.clone()));
            value
        }
        _ => return Ok(None),
    }))
}

fn content_length<'x>(body: &Body) -> Value<'x> {
    Value::Int(body.length().map_or(-1, |n| n as i64))
}

fn version(version: Version) -> (i64, i64) {
    match version {
        Version::Http10 => (1, 0),
        Version::Http11 => (1, 1),
        Version::Http2 => (2, 0),
        Version::Http3 => (3, 0),
    }
}

fn header_text<'x>(headers: &Headers, name: &str) -> Value<'x> {
    Value::text(lossy(headers.value(name).unwrap_or_default()))
}

/// All values of a header; `Nil` when there is none.
fn header_values<'x>(headers: &Headers, name: &str) -> Value<'x> {
    if headers.contains(name) { texts(headers.values(name)) } else { Value::Nil }
}

fn texts<'x, 'b>(values: impl Iterator<Item = &'b [u8]>) -> Value<'x> {
    Value::list(values.map(|v| Value::text(lossy(v))).collect())
}

fn first<'x>(values: &[String]) -> Value<'x> {
    Value::text(values.first().map_or("", String::as_str))
}

fn cookies(headers: &Headers) -> impl Iterator<Item = (&str, &str)> {
    headers
        .known_all(Known::Cookie)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .map(|(name, value)| {
            let bare = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
            (name, bare.unwrap_or(value))
        })
}

fn cookie<'x>(name: &str, value: &str) -> Value<'x> {
    Value::map([(Arc::from("Name"), Value::text(name)), (Arc::from("Value"), Value::text(value))])
}

/// Decoded names and values of a query or form; a pair with a broken escape is left out, as in Go.
fn pairs(text: Option<&str>) -> impl Iterator<Item = (String, String)> {
    text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')).filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((super::encoding::from_url_query(name)?, super::encoding::from_url_query(value)?))
    })
}

fn query_values(space: &Space, name: &str) -> Vec<String> {
    pairs(space.request.query.as_deref()).filter(|(n, _)| n == name).map(|(_, value)| value).collect()
}

fn form_values(space: &Space, name: &str) -> Result<Vec<String>, String> {
    let form = space.request.headers.known(Known::ContentType).unwrap_or_default();
    if !form.to_ascii_lowercase().starts_with(b"application/x-www-form-urlencoded") {
        return Ok(Vec::new());
    }
    let bytes = space.request_body.in_memory().ok_or("the body is a stream that was not collected")?;
    Ok(pairs(Some(&lossy(bytes))).filter(|(n, _)| n == name).map(|(_, value)| value).collect())
}

/// A field name as Go writes it: `content-type` → `Content-Type`.
fn canonical(name: &str) -> String {
    let mut upper = true;
    let recase = |c: char| {
        let c = if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
        upper = c == '-';
        c
    };
    name.chars().map(recase).collect()
}

fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
