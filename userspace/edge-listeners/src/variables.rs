//! Texts with nginx-like variables, for `setHeaders`: `$var`, `${var}`, `${var:default}`.

use crate::forwarded;
use crate::router::query_value;
use base_telemetry::access_log::write_time;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use edge_pipeline::Client;
use proto_http::date::ImfDate;
use proto_http::{Known, Request};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// With its padding or without, as clients write credentials.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The variable with all lines of X-Forwarded-For and the connection's peer.
const WITH_PEER: &str = "proxy_add_x_forwarded_for";

/// A text taken apart once. Unknown variables are empty; `$` before a digit, or before anything that cannot begin a
/// name, is itself.
#[derive(Debug, Clone, Default)]
pub struct VariableText {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Variable { name: String, default: String },
}

/// What variables are taken from.
pub struct Context<'a> {
    pub request: &'a Request,
    pub client: &'a Client,
    pub started: Instant,
    /// `$machine`: this machine's name.
    pub machine: &'a str,
    /// `$worker`: index of the worker that serves the connection.
    pub worker: usize,
    /// Parameters of the route's path; they come before variables of the same name.
    pub captures: &'a [(std::sync::Arc<str>, String)],
}

impl VariableText {
    pub fn parse(text: &str) -> VariableText {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            plain.push_str(&rest[..dollar]);
            let after = &rest[dollar + 1..];
            let taken = if let Some(inner) = after.strip_prefix('{').and_then(|r| r.split_once('}')).map(|(i, _)| i) {
                let (name, default) = inner.split_once(':').unwrap_or((inner, ""));
                Some((name, default, inner.len() + 2))
            } else {
                let length = after.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
                let named = length > 0 && !after.as_bytes()[0].is_ascii_digit();
                named.then(|| (&after[..length], "", length))
            };
            match taken {
                None => {
                    plain.push('$');
                    rest = after;
                }
                Some((name, default, length)) => {
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(Part::Variable { name: name.to_owned(), default: default.to_owned() });
                    rest = &after[length..];
                }
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        VariableText { parts }
    }

    /// No text and no variable: the header is to be removed.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether it ends with the list of hops whose end is the connection's peer.
    pub fn adds_peer(&self) -> bool {
        matches!(self.parts.last(), Some(Part::Variable { name, .. }) if name == WITH_PEER)
    }

    /// The text with its variables. Bytes that may not stand in a header are left out.
    pub fn expand(&self, context: &Context<'_>) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Variable { name, default } => match context.value(name) {
                    Some(value) if !value.is_empty() => out.push_str(&value),
                    _ => out.push_str(default),
                },
            }
        }
        out.retain(|c| c == '\t' || !c.is_control());
        out
    }
}

impl Context<'_> {
    fn value(&self, name: &str) -> Option<String> {
        if let Some((_, value)) = self.captures.iter().find(|(n, _)| &**n == name) {
            return Some(value.clone());
        }
        let request = self.request;
        let header = |known: Known| {
            request.headers.known(known).map(|v| String::from_utf8_lossy(v).into_owned()).unwrap_or_default()
        };
        let seconds = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(match name {
            "request_method" => request.method.to_string(),
            "request_uri" => request.target(),
            "uri" => request.path.as_str().to_owned(),
            "request" => format!("{} {} {}", request.method, request.target(), request.version.as_str()),
            "scheme" => self.client.scheme.to_owned(),
            "https" => if self.client.tls.is_some() { "on" } else { "" }.to_owned(),
            "query_string" | "args" => request.query.clone().unwrap_or_default(),
            "host" | "hostname" | "server_name" => request.host().to_owned(),
            "http_host" => request.authority.clone(),
            "remote_addr" => self.client.real_ip_text(),
            "remote_user" => basic_user(request)?,
            WITH_PEER => {
                let list = forwarded::with_peer(&request.headers, self.client.peer.ip(), ", ");
                String::from_utf8_lossy(&list).into_owned()
            }
            "time_iso8601" => iso8601(seconds().as_secs()),
            "time_local" => common_log(seconds().as_secs()),
            "msec" => seconds().as_millis().to_string(),
            "content_type" => header(Known::ContentType),
            "content_length" => header(Known::ContentLength),
            "server_protocol" => request.version.as_str().to_owned(),
            "request_time" => format!("{:.3}", self.started.elapsed().as_secs_f64()),
            "request_length" => match header(Known::ContentLength) {
                length if length.is_empty() => "0".to_owned(),
                length => length,
            },
            "ssl_protocol" => self.client.tls.as_ref()?.version.to_owned(),
            "ssl_cipher" => self.client.tls.as_ref()?.cipher.to_owned(),
            "ssl_server_name" => self.client.tls.as_ref()?.server_name.as_deref().unwrap_or_default().to_owned(),
            "ssl_session_reused" => if self.client.tls.as_ref()?.resumed { "r" } else { "." }.to_owned(),
            "machine" => self.machine.to_owned(),
            "worker" => self.worker.to_string(),
            _ => {
                if let Some(name) = name.strip_prefix("http_") {
                    lines(request, &name.replace('_', "-"))?
                } else if let Some(key) = name.strip_prefix("arg_") {
                    query_value(request.query.as_deref()?, key)?.into_owned()
                } else {
                    cookie(request, name.strip_prefix("cookie_")?)?
                }
            }
        })
    }
}

/// `2026-11-21T13:37:00+00:00`
fn iso8601(unix: u64) -> String {
    let mut text = Vec::new();
    write_time(Duration::from_secs(unix), &mut text);
    // The log's time has milliseconds behind the second.
    text.truncate("2026-11-21T13:37:00".len());
    format!("{}+00:00", String::from_utf8_lossy(&text))
}

/// `21/Nov/2026:13:37:00 +0000`
fn common_log(unix: u64) -> String {
    // From `Sat, 21 Nov 2026 13:37:00 GMT`.
    let date = ImfDate::new(unix);
    let mut parts = date.as_str().split(' ').skip(1);
    let mut part = || parts.next().unwrap_or_default();
    format!("{}/{}/{}:{} +0000", part(), part(), part(), part())
}

/// A field as one list, whatever number of lines it came in (RFC 9110 section 5.3).
fn lines(request: &Request, name: &str) -> Option<String> {
    let separator = if name.eq_ignore_ascii_case("Cookie") { "; " } else { ", " };
    let mut lines = request.headers.values(name).map(String::from_utf8_lossy);
    let first = lines.next()?.into_owned();
    Some(lines.fold(first, |list, line| list + separator + line.as_ref()))
}

fn cookie(request: &Request, name: &str) -> Option<String> {
    request.headers.known_all(Known::Cookie).filter_map(|v| std::str::from_utf8(v).ok()).find_map(|line| {
        line.split(';').find_map(|pair| {
            let (key, value) = pair.trim().split_once('=')?;
            (key == name).then(|| value.to_owned())
        })
    })
}

fn basic_user(request: &Request) -> Option<String> {
    let credentials = request.headers.text("Authorization")?.strip_prefix("Basic ")?;
    let decoded = String::from_utf8(BASE64.decode(credentials.trim()).ok()?).ok()?;
    decoded.split_once(':').map(|(user, _)| user.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> String {
        let mut request = Request { authority: "z.test:10080".into(), ..Request::default() };
        request.path.set("/v");
        request.query = Some("a=1&b=x%20y".into());
        request.headers.add("Cookie", "t=1; s=k");
        request.headers.add("X-Own", "mine");
        request.headers.add("X-Two", "1");
        request.headers.add("X-Two", "2");
        request.headers.add("Authorization", "Basic YWxpY2U6c2VjcmV0");
        let client =
            Client { real_ip: Some([192, 0, 2, 7].into()), peer: ([192, 0, 2, 8], 4711).into(), ..Client::default() };
        let captures = &[("id".into(), "42".to_owned())];
        let context = Context {
            request: &request,
            client: &client,
            started: Instant::now(),
            machine: "edge-1",
            worker: 3,
            captures,
        };
        VariableText::parse(text).expand(&context)
    }

    #[test]
    fn times_are_civil() {
        assert_eq!(iso8601(951_782_400), "2000-02-29T00:00:00+00:00");
        assert_eq!(common_log(1_795_268_220), "21/Nov/2026:13:37:00 +0000");
        assert_eq!(iso8601(0), "1970-01-01T00:00:00+00:00");
    }

    #[test]
    fn variables_as_nginx_writes_them() {
        for (text, expected) in [
            ("$scheme://$host$uri", "http://z.test/v"),
            ("${arg_a}-$arg_b-$arg_c", "1-x y-"),
            ("$remote_user", "alice"),
            ("${arg_none:anon}", "anon"),
            ("$cookie_s", "k"),
            ("cost $100", "cost $100"),
            ("$", "$"),
            ("a$$host", "a$z.test"),
            ("${host", "${host"),
            ("$http_x_own", "mine"),
            ("$http_x_two", "1, 2"),
            ("$http_host", "z.test:10080"),
            ("$request_uri", "/v?a=1&b=x%20y"),
            ("$remote_addr $proxy_add_x_forwarded_for", "192.0.2.7 192.0.2.8"),
            ("$machine/$worker", "edge-1/3"),
            ("$unknown", ""),
            ("${id}-$id", "42-42"),
            ("", ""),
        ] {
            assert_eq!(expand(text), expected, "{text}");
        }
    }
}
