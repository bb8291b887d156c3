//! Requests and responses as filters see them, whatever protocol carried them.

use crate::bytes;
use crate::headers::{Headers, Known};
use crate::path::{self, Path, PathError};
use std::fmt;

/// HTTP version of a message on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Version {
    Http10,
    #[default]
    Http11,
    Http2,
    Http3,
}

impl Version {
    pub fn as_str(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::Http2 => "HTTP/2.0",
            Version::Http3 => "HTTP/3.0",
        }
    }
}

/// A request method; the registered ones without allocation, any other token as text (RFC 9110 section 9).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    Other(Box<str>),
}

impl Method {
    /// Methods are case-sensitive. `None` when `token` is not a token.
    pub fn parse(token: &[u8]) -> Option<Method> {
        Some(match token {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"CONNECT" => Method::Connect,
            b"OPTIONS" => Method::Options,
            b"TRACE" => Method::Trace,
            b"PATCH" => Method::Patch,
            other if crate::headers::is_name(other) => Method::Other(String::from_utf8_lossy(other).into()),
            _ => return None,
        })
    }

    pub fn as_str(&self) -> &str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Connect => "CONNECT",
            Method::Options => "OPTIONS",
            Method::Trace => "TRACE",
            Method::Patch => "PATCH",
            Method::Other(text) => text,
        }
    }

    /// Whether nobody asks the server to change anything (RFC 9110 section 9.2.1).
    pub fn is_safe(&self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Options | Method::Trace)
    }

    /// Whether repeating the request changes nothing more on the server (RFC 9110 section 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Put | Method::Delete | Method::Options | Method::Trace)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a target says of how its origin is to be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

/// The head of a request. The body travels beside it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: Method,
    pub version: Version,
    /// Canonical path: what rules match and what the backend gets (see [`crate::path`]).
    pub path: Path,
    /// Text after `?`, undecoded; `None` when there was no `?`.
    pub query: Option<String>,
    /// The scheme that its target named: a whole URL over HTTP/1, as a proxy is asked, or the `:scheme` of later versions.
    pub scheme: Option<Scheme>,
    /// Authority from `Host` (or an absolute target): host with its port, as written. Empty when HTTP/1.0 sent none.
    pub authority: String,
    pub headers: Headers,
}

impl Request {
    /// Host without its port; brackets of an IPv6 literal stay.
    pub fn host(&self) -> &str {
        host_of(&self.authority)
    }

    /// Reads a target in origin-form (`/path?query`), as HTTP/1.1 requests and `:path` of later versions carry it.
    ///
    /// The query is kept byte for byte, escapes and their case included; bytes beyond ASCII are escaped, as they may not travel raw.
    /// `#` is refused: a fragment never leaves the client. After an error path and query are empty.
    pub fn set_target(&mut self, target: &[u8]) -> Result<(), PathError> {
        let mut class = path::PLAIN;
        let mut end = 0;
        loop {
            end += bytes::skip_plain(target, &target[end..]);
            let Some(&b) = target.get(end) else { break };
            let c = path::CLASS[b as usize];
            if c == path::END {
                break;
            }
            class |= c;
            end += 1;
        }
        let spare = self.query.take();
        self.path.clear();
        let text = std::str::from_utf8(target).ok();
        self.path.read_classified(&target[..end], text.map(|text| &text[..end]), class)?;
        if end < target.len() {
            let text = text.and_then(|text| text.get(end + 1..));
            let read = read_query(&target[end..], text, spare.unwrap_or_default());
            self.query = Some(read.inspect_err(|_| self.path.clear())?);
        }
        Ok(())
    }

    /// [`set_target`](Request::set_target) for a target known to hold nothing to decode, escape, resolve or refuse, whose path
    /// has that length.
    #[inline]
    pub(crate) fn set_plain_target(&mut self, target: &[u8], path: usize) {
        debug_assert!(target.is_ascii());
        let text = std::str::from_utf8(target).unwrap_or_default();
        self.path.set_plain(text.get(..path).unwrap_or_default());
        match (text.get(path + 1..), &mut self.query) {
            (Some(text), Some(query)) => {
                query.clear();
                query.push_str(text);
            }
            (text, query) => *query = text.map(str::to_owned),
        }
    }

    /// Path and query as they go on the wire.
    pub fn target(&self) -> String {
        let mut target = self.path.encoded().into_owned();
        if let Some(query) = &self.query {
            target.push('?');
            target.push_str(query);
        }
        target
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.method = Method::Get;
        self.version = Version::Http11;
        self.path.clear();
        self.query = None;
        self.scheme = None;
        self.authority.clear();
        self.headers.clear();
    }
}

/// The query of `raw`, which begins with what ended the path, into memory already there; `text` is the rest of it when it is
/// UTF-8.
#[inline(always)]
fn read_query(raw: &[u8], text: Option<&str>, mut query: String) -> Result<String, PathError> {
    query.clear();
    match text {
        Some(text) if raw[0] == b'?' && bytes::skip_query(raw, &raw[1..]) == raw.len() - 1 => query.push_str(text),
        _ => read_unusual_query(raw, &mut query)?,
    }
    Ok(query)
}

#[cold]
fn read_unusual_query(raw: &[u8], query: &mut String) -> Result<(), PathError> {
    if raw[0] != b'?' || bytes::find_control_or_space(raw, 0).is_some() || raw.contains(&b'#') {
        return Err(PathError::Character);
    }
    for &b in &raw[1..] {
        match b {
            0x80.. => query.extend(path::escape(b).map(char::from)),
            _ => query.push(b as char),
        }
    }
    Ok(())
}

/// The part of an authority before its port.
pub fn host_of(authority: &str) -> &str {
    // Bytes are compared one by one: names of hosts are shorter than what a search for one character makes ready.
    let from = match authority.starts_with('[') {
        true => authority.rfind(']').unwrap_or_default(),
        false => 0,
    };
    let colon = authority.bytes().skip(from).position(|b| b == b':');
    colon.map_or(authority, |at| &authority[..from + at])
}

/// The head of a response. The body travels beside it.
#[derive(Clone, Debug)]
pub struct Response {
    /// 100–599.
    pub status: u16,
    pub version: Version,
    pub headers: Headers,
}

impl Default for Response {
    fn default() -> Response {
        Response { status: 200, version: Version::Http11, headers: Headers::new() }
    }
}

impl Response {
    pub fn with_status(status: u16) -> Response {
        Response { status, ..Response::default() }
    }

    /// Removes the fields that speak of the hop it came over (RFC 9110 section 7.6.1). A 426 keeps its Upgrade, which is what it has to
    /// say to the client (RFC 9110 section 15.5.22).
    pub fn remove_hop_by_hop(&mut self) {
        self.headers.remove_hop_by_hop((self.status == 426).then_some(Known::Upgrade));
    }
}

/// The registered phrase of a status code (RFC 9110 section 15); empty for others.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        499 => "Client Closed Request",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_ends_before_its_port() {
        for (authority, host) in [
            ("shop.test:8080", "shop.test"),
            ("shop.test", "shop.test"),
            ("shop.test:", "shop.test"),
            ("", ""),
            (":80", ""),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[2001:db8::1]:443", "[2001:db8::1]"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            // Without an end of the brackets it is no authority; nothing is lost over it.
            ("[::", "["),
        ] {
            assert_eq!(host_of(authority), host, "{authority}");
        }
    }
}
