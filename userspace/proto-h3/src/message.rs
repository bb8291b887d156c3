//! Heads and trailers translated between field sections and our messages.
//!
//! What HTTP/3's own framing settles is settled here (RFC 9114 section 4.2 and 4.3: pseudo-fields first, each once, none unknown, names
//! in lower case); what decides routing and forwarding is decided by [`proto_http::multiplexed`], as for HTTP/2.

use crate::frame;
use crate::qpack::{self, Section};
use proto_http::authority::is_authority;
use proto_http::coding;
pub use proto_http::coding::Malformed;
use proto_http::h1::is_forbidden_in_trailers;
use proto_http::multiplexed::{self, MultiplexedHead, Pseudo};
pub use proto_http::multiplexed::{Unread, read_answer_trailers};
use proto_http::{Headers, Known, Limits, Method, Request, Response, Version};

/// The pseudo-fields of a request, and how many of its fields they are; those behind them are fields whose names are in lower case.
pub fn pseudo(section: &Section) -> Result<(Pseudo<'_>, usize), Malformed> {
    let (pseudo, count) = coding::pseudo(section)?;
    section.iter().skip(count).try_for_each(|(name, _)| coding::check_name(name))?;
    Ok((pseudo, count))
}

/// Reads the head of a request of which [`pseudo`] said how it begins. `into` is cleared and filled.
pub fn read_request(section: &Section, limits: &Limits, into: &mut Request) -> Result<MultiplexedHead, Unread> {
    let (pseudo, count) = pseudo(section).map_err(|Malformed| Unread::Malformed)?;
    multiplexed::read_request(Version::Http3, &pseudo, section.iter().skip(count), limits, into).map_err(Unread::Fault)
}

/// Reads the trailers of a request; says also how many were left out because of `_` in their names.
pub fn read_trailers(section: &Section, limits: &Limits) -> Result<(Headers, u32), Unread> {
    for (name, _) in section.iter() {
        coding::check_name(name).map_err(|Malformed| Unread::Malformed)?;
    }
    multiplexed::read_trailers(section.iter(), limits).map_err(Unread::Fault)
}

/// Reads the head of an answer, an interim one (1xx) included; says also how long its body was announced to be.
pub fn read_response(section: &Section, limits: &Limits) -> Result<(Response, Option<u64>), Unread> {
    multiplexed::read_response(Version::Http3, section, limits)
}

/// How a request goes out.
#[derive(Clone, Copy, Debug)]
pub struct RequestOptions<'a> {
    /// The authority to ask for.
    pub authority: &'a str,
    /// What stands before the request's own path; empty, or without its last slash.
    pub prefix: &'a str,
    /// Bytes of the body, when they are known.
    pub length: Option<u64>,
    /// The protocol to go on in (RFC 9220): the request becomes an extended CONNECT.
    pub protocol: Option<&'a str>,
}

/// Appends the HEADERS frame of a request. Nothing and false when what filters made of it cannot be said in HTTP/3.
pub fn write_request(request: &Request, options: &RequestOptions<'_>, into: &mut Vec<u8>) -> bool {
    let target = request.target();
    // What stands in a pseudo-field is read as a line of HTTP/1 by whoever translates it there.
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte > b' ' && byte != 0x7f);
    if request.method == Method::Connect || !is_authority(options.authority.as_bytes()) || !plain(&target) {
        return false;
    }
    write_section(into, |into| {
        match options.protocol {
            Some(protocol) => {
                qpack::field(b":method", b"CONNECT", into);
                qpack::field(b":protocol", protocol.as_bytes(), into);
            }
            None => qpack::field(b":method", request.method.as_str().as_bytes(), into),
        }
        qpack::field(b":scheme", b"https", into);
        qpack::field(b":authority", options.authority.as_bytes(), into);
        match options.prefix.is_empty() || request.path.is_asterisk() {
            true => qpack::field(b":path", target.as_bytes(), into),
            false => qpack::field(b":path", [options.prefix, &target].concat().as_bytes(), into),
        }
        for (name, value, known) in request.headers.iter() {
            let framing = matches!(known, Known::Host | Known::ContentLength | Known::Expect);
            // What HTTP/1 opens a WebSocket with says nothing here (RFC 8441 section 5.1).
            let key = options.protocol.is_some() && name.eq_ignore_ascii_case(b"sec-websocket-key");
            if !known.is_hop_by_hop() && !framing && !key {
                qpack::field(name, value, into);
            }
        }
        if let Some(length) = options.length {
            qpack::field(b"content-length", length.to_string().as_bytes(), into);
        }
        // Trailers are relayed, so they may be sent (RFC 9110 section 10.1.4).
        qpack::field(b"te", b"trailers", into);
    });
    true
}

/// How an answer goes out.
#[derive(Clone, Copy, Debug)]
pub struct ResponseOptions<'a> {
    /// Bytes of the body, or of the one that the answer would have had to another method; `None` when only its end will tell.
    pub length: Option<u64>,
    /// The time as [`proto_http::ImfDate`] writes it, sent when the message has none.
    pub date: &'a str,
}

/// Appends the HEADERS frame of an answer, interim ones (1xx) included. Nothing and false for a status that HTTP/3 cannot say (101).
pub fn write_response(response: &Response, options: &ResponseOptions<'_>, into: &mut Vec<u8>) -> bool {
    let status = response.status;
    if status == 101 || !(100..1000).contains(&status) {
        return false;
    }
    write_section(into, |into| {
        let mut digits = [b'0'; 3];
        let mut rest = status;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        qpack::field(b":status", &digits, into);
        let mut dated = status < 200;
        for (name, value, known) in response.headers.iter() {
            dated |= known == Known::Date;
            if !known.is_hop_by_hop() && known != Known::ContentLength {
                qpack::field(name, value, into);
            }
        }
        if !dated && !options.date.is_empty() {
            qpack::field(b"date", options.date.as_bytes(), into);
        }
        if status >= 200
            && status != 204
            && let Some(length) = options.length
        {
            qpack::field(b"content-length", length.to_string().as_bytes(), into);
        }
    });
    true
}

/// Appends the HEADERS frame of trailers, without those that may not come after a body; nothing and false when none may be sent.
pub fn write_trailers(trailers: &Headers, into: &mut Vec<u8>) -> bool {
    let sendable = |name: &[u8], known: Known| !known.is_hop_by_hop() && !is_forbidden_in_trailers(name);
    if !trailers.iter().any(|(name, _, known)| sendable(name, known)) {
        return false;
    }
    write_section(into, |into| {
        for (name, value, known) in trailers.iter() {
            if sendable(name, known) {
                qpack::field(name, value, into);
            }
        }
    });
    true
}

/// Appends a HEADERS frame with what `fields` appends.
pub fn write_section(into: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>)) {
    // A length of four bytes says every section there is; it is written when that is known.
    into.push(frame::HEADERS as u8);
    let at = into.len();
    into.extend_from_slice(&[0; 4]);
    qpack::begin(into);
    fields(into);
    let length = (into.len() - at - 4) as u32 | 0x8000_0000;
    into[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests;
