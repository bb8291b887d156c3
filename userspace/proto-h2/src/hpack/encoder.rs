//! Field blocks as we write them. See the module above for what they look like.

use super::static_table::{self, Found};
use proto_http::authority::is_authority;
use proto_http::coding::write_integer;
use proto_http::h1::is_forbidden_in_trailers;
use proto_http::{Headers, Known, Method, Request, Response};

/// Our table is empty and stays so: the peer has made it smaller than it would be by itself, and wants to be told that this was seen
/// (RFC 7541 section 4.2).
pub fn shrink_table(into: &mut Vec<u8>) {
    into.push(0x20);
}

/// Appends a field. Its name is written in lower case. Values are not coded: a quarter of their bytes costs more to save than to send.
/// Credentials are for no table on their way (RFC 7541 section 7.1.3).
#[inline]
pub fn field(name: &[u8], value: &[u8], into: &mut Vec<u8>) {
    // A block of fixed size is put into lower case at once, and compared as it is.
    let mut lower = [0; NAME_BYTES];
    let known = match lower.get_mut(..name.len()) {
        Some(text) => {
            text.copy_from_slice(name);
            lower.make_ascii_lowercase();
            static_table::find(&lower[..name.len()], value)
        }
        None => None,
    };
    match known {
        Some(Found::Whole(at)) => return into.push(0x80 | at),
        // Into no table, and of some that is asked of everybody behind us, too.
        Some(Found::Name(at)) => write_integer(at.into(), 4, if is_secret(at, value) { NEVER } else { 0 }, into),
        None => {
            into.push(0);
            write_integer(name.len() as u64, 7, 0, into);
            match lower.get(..name.len()) {
                Some(lower) => into.extend_from_slice(lower),
                None => into.extend(name.iter().map(u8::to_ascii_lowercase)),
            }
        }
    }
    string(value, into);
}

/// Few names are longer, and none of the static table.
const NAME_BYTES: usize = 32;

/// Before a field that is never to be put into a table.
const NEVER: u8 = 0x10;

/// Whether the value of a field with this name is worth guessing: what shares a table with it can be tried until it is found. A long
/// cookie cannot be guessed so.
fn is_secret(name: u8, value: &[u8]) -> bool {
    match name {
        AUTHORIZATION | PROXY_AUTHORIZATION | SET_COOKIE => true,
        COOKIE => value.len() < SHORT_COOKIE,
        _ => false,
    }
}

/// Bytes, as nghttp2 has it.
const SHORT_COOKIE: usize = 20;

const AUTHORIZATION: u8 = 23;
const COOKIE: u8 = 32;
const PROXY_AUTHORIZATION: u8 = 49;
const SET_COOKIE: u8 = 55;

#[inline]
fn string(value: &[u8], into: &mut Vec<u8>) {
    write_integer(value.len() as u64, 7, 0, into);
    into.extend_from_slice(value);
}

/// How an answer goes out.
#[derive(Clone, Copy, Debug)]
pub struct ResponseOptions<'a> {
    /// Bytes of the body, or of the one that the answer would have had to another method; `None` when only its end will tell.
    pub length: Option<u64>,
    /// The time as [`proto_http::ImfDate`] writes it, sent when the message has none.
    pub date: &'a str,
}

/// Appends the head of an answer, interim ones (1xx) included. Nothing and false for a status that HTTP/2 cannot say (101).
///
/// Fields of this hop ([`Known::is_hop_by_hop`]) have no place in HTTP/2 (RFC 9113 section 8.2.2); what frames a body is said by its
/// frames.
pub fn response(response: &Response, options: &ResponseOptions<'_>, into: &mut Vec<u8>) -> bool {
    let code = response.status;
    if code == 101 || !(100..1000).contains(&code) {
        return false;
    }
    status(code, into);
    let mut dated = code < 200;
    for (name, value, known) in response.headers.iter() {
        dated |= known == Known::Date;
        if !known.is_hop_by_hop() && known != Known::ContentLength {
            field(name, value, into);
        }
    }
    if !dated && !options.date.is_empty() {
        write_integer(DATE, 4, 0, into);
        string(options.date.as_bytes(), into);
    }
    if code >= 200
        && code != 204
        && let Some(length) = options.length
    {
        content_length(length, into);
    }
    true
}

/// How a request goes out.
#[derive(Clone, Copy, Debug)]
pub struct RequestOptions<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The authority to ask for.
    pub authority: &'a str,
    /// What stands before the request's own path; empty, or without its last slash.
    pub prefix: &'a str,
    /// Bytes of the body, when they are known.
    pub length: Option<u64>,
    /// The protocol to go on in (RFC 8441): the request becomes an extended CONNECT.
    pub protocol: Option<&'static str>,
}

/// Appends the head of a request. Nothing and false when what filters made of it cannot be said in HTTP/2: its authority or target is
/// none, or it asks for a tunnel.
pub fn request(request: &Request, options: &RequestOptions<'_>, into: &mut Vec<u8>) -> bool {
    let target = request.target();
    // What stands in a pseudo-field is read as a line of HTTP/1 by whoever translates it there.
    let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte > b' ' && byte != 0x7f);
    if request.method == Method::Connect || !is_authority(options.authority.as_bytes()) || !is_plain(&target) {
        return false;
    }
    let method = if options.protocol.is_some() { "CONNECT" } else { request.method.as_str() };
    field(b":method", method.as_bytes(), into);
    field(b":scheme", options.scheme.as_bytes(), into);
    field(b":authority", options.authority.as_bytes(), into);
    match options.prefix.is_empty() || request.path.is_asterisk() {
        true => field(b":path", target.as_bytes(), into),
        false => field(b":path", [options.prefix, &target].concat().as_bytes(), into),
    }
    if let Some(protocol) = options.protocol {
        field(b":protocol", protocol.as_bytes(), into);
    }
    for (name, value, known) in request.headers.iter() {
        let is_framing = matches!(known, Known::Host | Known::ContentLength | Known::Expect);
        // What HTTP/1 opens a WebSocket with says nothing here (RFC 8441 section 5.1).
        let is_key =
            known == Known::Other && options.protocol.is_some() && name.eq_ignore_ascii_case(b"sec-websocket-key");
        if !known.is_hop_by_hop() && !is_framing && !is_key {
            field(name, value, into);
        }
    }
    if let Some(length) = options.length {
        content_length(length, into);
    }
    // Trailers are relayed, so they may be sent (RFC 9110 section 10.1.4).
    field(b"te", b"trailers", into);
    true
}

fn content_length(length: u64, into: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = length;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    write_integer(CONTENT_LENGTH, 4, 0, into);
    string(&digits[at..], into);
}

/// The numbers of names, and of the first status.
const STATUS: u64 = 8;
const CONTENT_LENGTH: u64 = 28;
const DATE: u64 = 33;

fn status(code: u16, into: &mut Vec<u8>) {
    let whole = match code {
        200 => 8,
        204 => 9,
        206 => 10,
        304 => 11,
        400 => 12,
        404 => 13,
        500 => 14,
        _ => {
            let digits = [code / 100, code / 10 % 10, code % 10].map(|digit| b'0' + digit as u8);
            write_integer(STATUS, 4, 0, into);
            return string(&digits, into);
        }
    };
    into.push(0x80 | whole);
}

/// Appends trailers, without those that may not come after a body; nothing and false when none may be sent.
pub fn trailers(trailers: &Headers, into: &mut Vec<u8>) -> bool {
    let start = into.len();
    for (name, value, known) in trailers.iter() {
        if !known.is_hop_by_hop() && !is_forbidden_in_trailers(name) {
            field(name, value, into);
        }
    }
    into.len() > start
}
