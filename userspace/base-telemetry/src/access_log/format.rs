//! The format string, compiled once per server, and the line it makes.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base_text::digits::{push_block, push_short, write_number};
use base_text::escape::write_foreign;
use base_text::redact;
use base_text::time::{write_duration, write_ip, write_time};

/// The format of a server that names none.
pub const DEFAULT_FORMAT: &str = "[{{Time}}] [{{RemoteAddr}} {{RealIP}} {{Method}} {{URI}} {{Proto}} {{StatusCode}}] \
                                  [{{Duration}} rx:{{ReqSize}}B tx:{{RespSize}}B] [{{Tags}}]";

/// Bytes of the request target that are shown; longer ones end in `...`.
const URI_BYTES_MAX: usize = 512;

/// What most lines take: room is made once.
const USUAL_BYTES: usize = 512;

/// A compiled format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    parts: Vec<Part>,
    shows_credentials: bool,
    wants_tags: bool,
}

/// A text and what comes behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    /// The first bytes of a block: nearly all texts between variables are that short.
    block: [u8; SHORT],
    used: usize,
    /// One that is longer, and before the block.
    long: Box<str>,
    /// None behind the last text.
    variable: Option<Variable>,
}

/// Bytes of a text that is copied as a block, see [`push_block`].
const SHORT: usize = 16;

impl Part {
    fn new(text: &str, variable: Option<Variable>) -> Part {
        let (mut block, mut used, mut long) = ([b' '; SHORT], 0, "");
        match block.get_mut(..text.len()) {
            Some(start) => {
                start.copy_from_slice(text.as_bytes());
                used = text.len();
            }
            None => long = text,
        }
        Part { block, used, long: long.into(), variable }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variable {
    Time,
    RemoteAddr,
    RealIp,
    Method,
    Uri,
    Proto,
    StatusCode,
    Duration,
    ReqSize,
    RespSize,
    Refused,
    RequestId,
    Tags,
    ReqHeaders,
    RespHeaders,
}

const VARIABLES: [(&str, Variable); 15] = [
    ("Time", Variable::Time),
    ("RemoteAddr", Variable::RemoteAddr),
    ("RealIP", Variable::RealIp),
    ("Method", Variable::Method),
    ("URI", Variable::Uri),
    ("Proto", Variable::Proto),
    ("StatusCode", Variable::StatusCode),
    ("Duration", Variable::Duration),
    ("ReqSize", Variable::ReqSize),
    ("RespSize", Variable::RespSize),
    ("Refused", Variable::Refused),
    ("RequestID", Variable::RequestId),
    ("Tags", Variable::Tags),
    ("ReqHeaders", Variable::ReqHeaders),
    ("RespHeaders", Variable::RespHeaders),
];

/// Why a format string was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// `{{name}}` is no variable.
    Unknown { name: String },
    /// `{{` without `}}`.
    Unclosed { from: String },
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name } => {
                write!(f, "{{{{{name}}}}} is not a variable of the access log; write one of ")?;
                for (index, (name, _)) in VARIABLES.iter().enumerate() {
                    write!(f, "{}{name}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::Unclosed { from } => {
                write!(f, "\"{from}\" opens a variable with {{{{ and never closes it; write }}}} behind its name")
            }
        }
    }
}

impl std::error::Error for FormatError {}

impl Default for Format {
    fn default() -> Self {
        // A test reads the default format, so this never falls back.
        Self::parse(DEFAULT_FORMAT).unwrap_or(Self { parts: Vec::new(), shows_credentials: false, wants_tags: false })
    }
}

impl Format {
    /// Compiles a format. `{{Name}}` stands for a variable, white space inside the braces does not matter, all else is literal.
    /// An empty format means the default.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let mut rest = if text.is_empty() { DEFAULT_FORMAT } else { text };
        let mut parts = Vec::new();
        while let Some((literal, behind)) = rest.split_once("{{") {
            let Some((name, behind)) = behind.split_once("}}") else {
                let from = rest[literal.len()..].chars().take(40).collect();
                return Err(FormatError::Unclosed { from });
            };
            let name = name.trim();
            let variable = VARIABLES.iter().find(|(known, _)| *known == name).map(|&(_, variable)| variable);
            let variable = variable.ok_or_else(|| FormatError::Unknown { name: name.chars().take(40).collect() })?;
            parts.push(Part::new(literal, Some(variable)));
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::new(rest, None));
        }
        let wants_tags = parts.iter().any(|part| part.variable == Some(Variable::Tags));
        Ok(Self { parts, shows_credentials: false, wants_tags })
    }

    /// Shows targets and headers with the credentials in them, which are hidden otherwise.
    pub fn showing_credentials(self, shows_credentials: bool) -> Self {
        Self { shows_credentials, ..self }
    }

    pub fn shows_credentials(&self) -> bool {
        self.shows_credentials
    }

    /// Whether lines show tags; if not, nobody needs to collect them.
    pub fn wants_tags(&self) -> bool {
        self.wants_tags
    }

    /// Whether lines show request or response headers.
    pub fn wants_headers(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.variable, Some(Variable::ReqHeaders | Variable::RespHeaders)))
    }
}

/// Text given, or written when the line needs it.
#[derive(Clone, Copy, Default)]
pub enum Tags<'a> {
    #[default]
    None,
    /// Escaped when it is written.
    Text(&'a [u8]),
    /// Writes what can neither leave the line nor command a terminal, as [`super::tags`] does: to look through all of it once more, the
    /// `µ` of its times included, cost as much as the rest of a line.
    Write(&'a dyn Fn(&mut Vec<u8>)),
}

impl Tags<'_> {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::None => {}
            Self::Text(text) => write_foreign(text, out),
            Self::Write(write) => write(out),
        }
    }
}

/// One finished request.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// When the request ended, since 1970.
    pub time: Duration,
    pub remote_addr: Option<SocketAddr>,
    /// `None`: nobody knows.
    pub real_ip: Option<IpAddr>,
    pub method: &'a [u8],
    /// The request target as received.
    pub uri: &'a [u8],
    /// `HTTP/1.1` for instance.
    pub proto: &'a str,
    pub status: u16,
    /// Why it was refused to keep others going; `None`: it was not.
    pub refused: Option<&'static str>,
    /// `X-Request-Id` of request and answer; empty: it has none.
    pub request_id: &'a [u8],
    pub duration: Duration,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// See [`super::tags::write`].
    pub tags: Tags<'a>,
    /// See [`super::tags::write_headers`].
    pub request_headers: Tags<'a>,
    pub response_headers: Tags<'a>,
}

/// Appends the line of a request, with its newline. Allocates nothing once `out` has grown.
pub fn write_line(format: &Format, entry: &Entry<'_>, out: &mut Vec<u8>) {
    out.reserve(USUAL_BYTES);
    for part in &format.parts {
        if !part.long.is_empty() {
            out.extend_from_slice(part.long.as_bytes());
        }
        push_block(part.block, part.used, out);
        match part.variable {
            Some(Variable::Uri) if !format.shows_credentials => write_uri(entry.uri, redact::write_url, out),
            Some(variable) => write_variable(variable, entry, out),
            None => {}
        }
    }
    out.push(b'\n');
}

fn write_variable(variable: Variable, entry: &Entry<'_>, out: &mut Vec<u8>) {
    match variable {
        Variable::Time => write_time(entry.time, out),
        Variable::RemoteAddr => {
            if let Some(addr) = entry.remote_addr {
                let ip = addr.ip().to_canonical();
                let brackets = ip.is_ipv6();
                if brackets {
                    out.push(b'[');
                }
                write_ip(ip, out);
                out.extend_from_slice(if brackets { b"]:" } else { b":" });
                write_number(u64::from(addr.port()), out);
            }
        }
        Variable::RealIp => match entry.real_ip {
            Some(ip) => write_ip(ip.to_canonical(), out),
            None => out.extend_from_slice(b"unknown"),
        },
        Variable::Method => write_foreign(entry.method, out),
        Variable::Uri => write_uri(entry.uri, write_foreign, out),
        Variable::Proto => push_short(entry.proto.as_bytes(), out),
        Variable::StatusCode => write_number(u64::from(entry.status), out),
        Variable::Duration => write_duration(entry.duration, out),
        Variable::ReqSize => write_number(entry.request_bytes, out),
        Variable::RespSize => write_number(entry.response_bytes, out),
        Variable::Refused => push_short(entry.refused.unwrap_or("-").as_bytes(), out),
        Variable::RequestId if entry.request_id.is_empty() => out.push(b'-'),
        Variable::RequestId => write_foreign(entry.request_id, out),
        Variable::Tags => entry.tags.write(out),
        Variable::ReqHeaders => entry.request_headers.write(out),
        Variable::RespHeaders => entry.response_headers.write(out),
    }
}

pub(super) fn write_uri(uri: &[u8], write: fn(&[u8], &mut Vec<u8>), out: &mut Vec<u8>) {
    match uri.get(..URI_BYTES_MAX) {
        Some(start) if uri.len() > URI_BYTES_MAX => {
            write(start, out);
            out.extend_from_slice(b"...");
        }
        _ => write(uri, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::tags;

    #[test]
    fn formats() {
        check("plain [text] } { }}", Ok("plain [text] } { }}"));
        check("{{Method}}", Ok("GET"));
        check("{{ Method }}-{{\tURI}}", Ok("GET-/log?a=b"));
        check("a{{StatusCode}}b{{StatusCode}}", Ok("a200b200"));
        check("{{Duration}} {{ReqSize}} {{RespSize}}", Ok("1.234567ms 80 1024"));
        check("{{RemoteAddr}} {{RealIP}}", Ok("10.0.0.1:4711 2001:db8::1"));
        check("{{ReqHeaders}}|{{RespHeaders}}", Ok("Host: [a], X-A: [1 2]|"));
        check("{{Refused}} {{RequestID}}", Ok("- id-1"));
        check("{{Nope}}", Err("{{Nope}} is not a variable"));
        check("{{}}", Err("{{}} is not a variable"));
        check(
            "{{method}}",
            Err("write one of Time, RemoteAddr, RealIP, Method, URI, Proto, StatusCode, Duration, ReqSize"),
        );
        check("ok {{Method}} {{URI", Err("\"{{URI\" opens a variable"));
        let default = "[2024-02-29T12:34:56.005Z] [10.0.0.1:4711 2001:db8::1 GET /log?a=b HTTP/1.1 200] [1.234567ms rx:80B tx:1024B] \
                       [pipeline(p): adapt(1.5µs)->respond(done,2ms) | gzip]";
        check("", Ok(default));
        check(DEFAULT_FORMAT, Ok(default));
        assert!(Format::default().wants_tags() && !Format::default().wants_headers());
    }

    #[test]
    fn long_and_hostile_targets() {
        let format = Format::parse("{{URI}}").unwrap();
        for (uri, expected) in [
            ("x".repeat(512), "x".repeat(512) + "\n"),
            ("x".repeat(513), "x".repeat(512) + "...\n"),
            ("/a\nb".to_owned(), "/a\\x0ab\n".to_owned()),
        ] {
            let mut out = Vec::new();
            write_line(&format, &Entry { uri: uri.as_bytes(), ..entry() }, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        // Whatever a document or a message has a say in, in each kind of text.
        let bad = "a\nb\u{9b}\u{202e}";
        let escaped = "a\\x0ab\\xc2\\x9b\\xe2\\x80\\xae";
        let tags = |out: &mut Vec<u8>| tags::write(out, bad, [(bad, bad, Duration::from_nanos(1500))], [bad]);
        let headers = |hide| move |out: &mut Vec<u8>| tags::write_headers(out, [(bad, bad.as_bytes())], hide);
        let (shown, hidden) = (headers(false), headers(true));
        let written = [
            (Tags::Text(bad.as_bytes()), format!("{escaped}\n")),
            (Tags::Write(&tags), format!("pipeline({escaped}): {escaped}({escaped},1.5µs) | {escaped}\n")),
            (Tags::Write(&shown), format!("{escaped}: [{escaped}]\n")),
            (Tags::Write(&hidden), format!("{escaped}: [{escaped}]\n")),
        ];
        for (tags, expected) in written {
            let mut out = Vec::new();
            write_line(&Format::parse("{{Tags}}").unwrap(), &Entry { tags, ..entry() }, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    fn check(format: &str, expected: Result<&str, &str>) {
        let got = Format::parse(format).map(|format| {
            let tags = |out: &mut Vec<u8>| {
                let steps = [("adapt", "", Duration::from_nanos(1500)), ("respond", "done", Duration::from_millis(2))];
                tags::write(out, "p", steps, ["gzip"]);
            };
            let headers = |out: &mut Vec<u8>| {
                tags::write_headers(out, [("Host", b"a".as_slice()), ("X-A", b"1"), ("X-A", b"2")], true);
            };
            let mut out = Vec::new();
            let entry = Entry { tags: Tags::Write(&tags), request_headers: Tags::Write(&headers), ..entry() };
            write_line(&format, &entry, &mut out);
            String::from_utf8(out).unwrap()
        });
        match (got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, format!("{expected}\n")),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, expected) => panic!("{format}: {got:?}, expected {expected:?}"),
        }
    }

    fn entry() -> Entry<'static> {
        Entry {
            time: Duration::from_millis(1_709_210_096_005),
            remote_addr: Some(([10, 0, 0, 1], 4711).into()),
            real_ip: "2001:db8::1".parse().ok(),
            method: b"GET",
            uri: b"/log?a=b",
            proto: "HTTP/1.1",
            status: 200,
            refused: None,
            request_id: b"id-1",
            duration: Duration::from_nanos(1_234_567),
            request_bytes: 80,
            response_bytes: 1024,
            tags: Tags::None,
            request_headers: Tags::None,
            response_headers: Tags::None,
        }
    }
}
