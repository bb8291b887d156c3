//! Messages translated between our vocabulary and the crate's.
//!
//! Fields of this hop ([`Known::is_hop_by_hop`]) have no place in HTTP/2 (RFC 9113 section 8.2.2); what frames a body and whom it is
//! for is said by its frames and pseudo-fields.

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use proto_http::h1::is_forbidden_in_trailers;
use proto_http::{Headers, Known, Method, Request, Response, Version};

/// Appends the fields of a message that was received. They were checked to be fields when they were decoded.
pub fn read(fields: &HeaderMap, into: &mut Headers) {
    for (name, value) in fields {
        into.add(name.as_str(), value.as_bytes());
    }
}

/// The trailer fields of an answer that was received, without those that may not come after a body.
pub fn read_trailers(fields: &HeaderMap) -> Headers {
    let mut into = Headers::new();
    for (name, value) in fields.iter().filter(|(name, _)| !is_forbidden_in_trailers(name.as_str().as_bytes())) {
        into.add(name.as_str(), value.as_bytes());
    }
    into
}

/// The head of an answer that was received.
pub fn read_response<B>(head: &http::Response<B>) -> Response {
    let mut response = Response::with_status(head.status().as_u16());
    response.version = Version::Http2;
    read(head.headers(), &mut response.headers);
    response
}

/// Appends `headers` but for those of this hop and those `keep` does not want. Names are written in lower case.
pub fn write(headers: &Headers, into: &mut HeaderMap, mut keep: impl FnMut(Known, &[u8]) -> bool) {
    for (name, value, known) in headers.iter() {
        if known.is_hop_by_hop() || !keep(known, name) {
            continue;
        }
        // Both are what `Headers` lets in; what the crate's types would still refuse is left out.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            let _ = into.try_append(name, value);
        }
    }
}

/// Trailer fields to send; `None` when none may be sent.
pub fn write_trailers(trailers: &Headers) -> Option<HeaderMap> {
    let mut into = HeaderMap::new();
    write(trailers, &mut into, |_, name| !is_forbidden_in_trailers(name));
    (!into.is_empty()).then_some(into)
}

/// How a request goes out.
#[derive(Clone, Copy, Debug)]
pub struct RequestOptions<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The authority to ask for.
    pub authority: &'a str,
    /// Bytes of the body, when they are known.
    pub length: Option<u64>,
    /// The protocol to go on in (RFC 8441): the request becomes an extended CONNECT.
    pub protocol: Option<&'static str>,
    /// Ask for `100 Continue` before the body is sent.
    pub expect_continue: bool,
}

/// The head of a request to send. `None` when what filters made of it cannot be said in HTTP/2.
pub fn write_request(request: &Request, options: &RequestOptions<'_>) -> Option<http::Request<()>> {
    let connect = request.method == Method::Connect;
    let uri = Uri::builder().authority(options.authority);
    let uri = match connect {
        true => uri.build().ok()?,
        false => uri.scheme(options.scheme).path_and_query(target(request)).build().ok()?,
    };
    let method = match options.protocol {
        Some(_) => http::Method::CONNECT,
        None => http::Method::from_bytes(request.method.as_str().as_bytes()).ok()?,
    };
    let mut head = http::Request::builder().version(http::Version::HTTP_2).method(method).uri(uri).body(()).ok()?;
    if let Some(protocol) = options.protocol {
        head.extensions_mut().insert(h2::ext::Protocol::from_static(protocol));
    }
    let fields = head.headers_mut();
    write(&request.headers, fields, |known, name| match known {
        Known::Host | Known::ContentLength | Known::Expect => false,
        // What HTTP/1 opens a WebSocket with says nothing here (RFC 8441 section 5.1).
        _ => options.protocol.is_none() || !name.eq_ignore_ascii_case(b"sec-websocket-key"),
    });
    if let Some(length) = options.length.filter(|_| !connect) {
        fields.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if options.expect_continue {
        fields.insert(http::header::EXPECT, HeaderValue::from_static("100-continue"));
    }
    // Trailers are relayed, so they may be sent (RFC 9110 section 10.1.4).
    fields.insert(http::header::TE, HeaderValue::from_static("trailers"));
    Some(head)
}

/// Path and query. What the crate's types take for no part of a URI, though it stands in one byte for byte, is escaped.
fn target(request: &Request) -> String {
    let target = request.target();
    if !target.bytes().any(is_refused) {
        return target;
    }
    let mut escaped = String::with_capacity(target.len() + 16);
    for character in target.chars() {
        match character {
            refused if refused.is_ascii() && is_refused(refused as u8) => {
                escaped.push_str(&format!("%{:02X}", refused as u8));
            }
            other => escaped.push(other),
        }
    }
    escaped
}

fn is_refused(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'`' | b'^' | b'\\')
}

#[cfg(test)]
mod tests;
