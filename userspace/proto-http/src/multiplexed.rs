//! Messages as HTTP/2 and HTTP/3 carry them: pseudo-fields and fields one by one, judged by the rules HTTP/1 has.
//!
//! What a version's own framing settles (upper case in names, pseudo-fields out of order or twice) is settled before; what decides
//! routing, forwarding and identity is decided here, once for both, so that no request reads differently because of how it came.

use crate::authority::{self, is_authority};
use crate::bytes::{self, trim};
use crate::coding::{self, Malformed, Section};
use crate::h1::{Fault, is_forbidden_in_trailers, is_lookalike, is_odd, keeps_trailer};
use crate::headers::{Headers, Known, is_name, is_value};
use crate::limits::{Limits, Underscores};
use crate::message::{Method, Request, Response, Scheme, Version};
use crate::protocol::Protocol;

/// The pseudo-fields of a request (RFC 9113 section 8.3.1, RFC 8441 section 4).
#[derive(Clone, Copy, Debug, Default)]
pub struct Pseudo<'a> {
    pub method: &'a [u8],
    pub scheme: Option<&'a [u8]>,
    pub authority: Option<&'a [u8]>,
    pub path: Option<&'a [u8]>,
    pub protocol: Option<&'a [u8]>,
}

/// What the head of a request says to this hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MultiplexedHead {
    /// Bytes of the body, when they were announced.
    pub length: Option<u64>,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// What the stream is to carry (extended CONNECT). The request is a GET that offers to switch, as HTTP/1 asks for it; the key that
    /// belongs to the opening of a WebSocket is still to be added.
    pub protocol: Option<Protocol>,
    /// How urgent the client finds the answer (RFC 9218), 0 to 7, the most urgent first; `None`: it does not say, which is 3.
    pub urgency: Option<u8>,
    /// Fields that were left out because of `_` in their names, see [`Limits::underscores`].
    pub dropped: u32,
    /// Bytes of the head, as HTTP/1 would write it.
    pub bytes: u64,
}

/// Reads the head of a request.
///
/// `into` is cleared and filled, its memory reused. After an error it holds what was read of method and target, for the access log,
/// and no fields.
///
/// - `:authority` is whom the request is for; a `Host` beside it must say the same. It stands first among the fields, as `Host`.
/// - Cookies that came as crumbs are one field again (RFC 9113 section 8.2.3); each counts as a field until then.
/// - Fields of the connection are refused (RFC 9113 section 8.2.2).
pub fn read_request<'a>(
    version: Version,
    pseudo: &Pseudo<'_>,
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    limits: &Limits,
    into: &mut Request,
) -> Result<MultiplexedHead, Fault> {
    into.clear();
    into.version = version;
    let mut head = MultiplexedHead::default();
    let read = read_target(pseudo, limits, into, &mut head).and_then(|()| read_fields(fields, limits, into, &mut head));
    if read.is_err() {
        into.headers.clear();
        if pseudo.authority.is_none() {
            into.authority.clear();
        }
    }
    read.map(|()| head)
}

/// Reads the trailer fields of a request, by the rules and bounds that those of a chunked body have. Says also how many were left out
/// because of `_` in their names, see [`Limits::underscores`].
pub fn read_trailers<'a>(
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    limits: &Limits,
) -> Result<(Headers, u32), Fault> {
    let (mut into, mut dropped) = (Headers::new(), 0);
    let (mut count, mut bytes) = (0, 0);
    for (name, value) in fields {
        let value = trim(value);
        count += 1;
        if count > limits.trailers {
            return Err(Fault::TooManyTrailers);
        }
        bytes += name.len() + value.len() + 4;
        if bytes > limits.trailer_bytes {
            return Err(Fault::TrailersTooLarge);
        }
        if !is_name(name) {
            return Err(if name.is_empty() { Fault::NameEmpty } else { Fault::NameCharacter });
        }
        if !is_value(value) {
            return Err(Fault::ValueCharacter);
        }
        if keeps_trailer(name, name.contains(&b'_'), limits.underscores, &mut dropped)? {
            into.add(name, value);
        }
    }
    Ok((into, dropped))
}

fn read_target(
    pseudo: &Pseudo<'_>,
    limits: &Limits,
    into: &mut Request,
    head: &mut MultiplexedHead,
) -> Result<(), Fault> {
    if pseudo.method.len() > limits.method_bytes {
        return Err(Fault::MethodTooLong);
    }
    // No request may be taken for a preface behind us.
    if pseudo.method == b"PRI" {
        return Err(Fault::Http2Preface);
    }
    into.method = Method::parse(pseudo.method).ok_or(Fault::Method)?;
    let path = pseudo.path.unwrap_or_default();
    if path.len() > limits.target_bytes {
        return Err(Fault::TargetTooLong);
    }
    if let Some(scheme) = pseudo.scheme
        && !scheme.eq_ignore_ascii_case(b"https")
        && !scheme.eq_ignore_ascii_case(b"http")
    {
        return Err(Fault::PseudoField);
    }
    into.scheme = match pseudo.scheme {
        Some(scheme) if scheme.len() == b"https".len() => Some(Scheme::Https),
        scheme => scheme.map(|_| Scheme::Http),
    };
    if let Some(authority) = pseudo.authority {
        if !is_authority(authority) {
            return Err(Fault::TargetAuthority);
        }
        into.authority.push_str(std::str::from_utf8(authority).unwrap_or_default());
        into.headers.add("Host", authority);
    }
    head.bytes = (pseudo.method.len() + path.len() + into.authority.len() + START_LINE) as u64;
    match (pseudo.protocol, into.method == Method::Connect) {
        (None, true) if pseudo.path.is_some() || pseudo.scheme.is_some() => Err(Fault::PseudoField),
        (None, true) => match pseudo.authority.and_then(authority::split) {
            Some((_, Some(_))) => Ok(()),
            _ => Err(Fault::TargetAuthority),
        },
        (None, false) if path == b"*" && into.method == Method::Options => {
            into.path.set_asterisk();
            Ok(())
        }
        (None, false) => Ok(into.set_target(path)?),
        (Some(_), false) => Err(Fault::PseudoField),
        (Some(name), true) => {
            let protocol = Protocol::of(name).ok_or(Fault::Protocol)?;
            head.protocol = Some(protocol);
            into.method = Method::Get;
            into.headers.add("Upgrade", protocol.name());
            Ok(into.set_target(path)?)
        }
    }
}

fn read_fields<'a>(
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    limits: &Limits,
    into: &mut Request,
    head: &mut MultiplexedHead,
) -> Result<(), Fault> {
    let (mut count, mut hosts) = (0, 0);
    let mut cookies: Vec<u8> = Vec::new();
    for (name, value) in fields {
        let value = trim(value);
        count += 1;
        if count > limits.fields {
            return Err(Fault::TooManyFields);
        }
        if name.len() + 2 + value.len() > limits.field_bytes {
            return Err(Fault::FieldTooLarge);
        }
        head.bytes += (name.len() + value.len() + 4) as u64;
        if head.bytes > limits.head_bytes as u64 {
            return Err(Fault::HeadTooLarge);
        }
        if !is_name(name) {
            return Err(if name.is_empty() { Fault::NameEmpty } else { Fault::NameCharacter });
        }
        if !is_value(value) {
            return Err(Fault::ValueCharacter);
        }
        let underscore = name.contains(&b'_');
        if is_odd(underscore, name) && is_lookalike(name) {
            return Err(Fault::NameLookalike);
        }
        match limits.underscores {
            Underscores::Drop if underscore => {
                head.dropped += 1;
                continue;
            }
            Underscores::Refuse if underscore => return Err(Fault::NameUnderscore),
            _ => {}
        }
        match Known::of(name) {
            Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::Upgrade => return Err(Fault::ConnectionField),
            Known::Te if !value.eq_ignore_ascii_case(b"trailers") => return Err(Fault::ConnectionField),
            Known::Host => {
                hosts += 1;
                if hosts > 1 {
                    return Err(Fault::SeveralHosts);
                }
                if !is_authority(value) {
                    return Err(Fault::Host);
                }
                match into.authority.is_empty() {
                    true => {
                        into.authority.push_str(std::str::from_utf8(value).unwrap_or_default());
                        into.headers.add("Host", value);
                    }
                    false if into.authority.as_bytes().eq_ignore_ascii_case(value) => {}
                    false => return Err(Fault::AuthorityDiffers),
                }
                continue;
            }
            Known::ContentLength => {
                if head.length.is_some() {
                    return Err(Fault::SeveralLengths);
                }
                head.length = Some(bytes::decimal(value).ok_or(Fault::Length)?);
            }
            Known::Expect => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Fault::Expectation);
                }
                head.expect_continue = true;
            }
            Known::Other if name == b"priority" => head.urgency = urgency(value),
            Known::Cookie => {
                if !cookies.is_empty() && !value.is_empty() {
                    cookies.extend_from_slice(b"; ");
                }
                cookies.extend_from_slice(value);
                continue;
            }
            _ => {}
        }
        into.headers.add(name, value);
    }
    if into.authority.is_empty() {
        return Err(Fault::NoHost);
    }
    if !cookies.is_empty() {
        into.headers.add("cookie", cookies);
    }
    Ok(())
}

/// Why an answer cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It has not the form that every answer has.
    Malformed,
    /// It is one that HTTP/1 would refuse, too.
    Fault(Fault),
}

impl From<Malformed> for Unread {
    fn from(Malformed: Malformed) -> Unread {
        Unread::Malformed
    }
}

impl From<Fault> for Unread {
    fn from(fault: Fault) -> Unread {
        Unread::Fault(fault)
    }
}

/// The status of an answer, which comes first. `None`: there is none, or nobody may say it here (101: neither version goes on in another
/// protocol so).
#[inline]
pub fn status(section: &Section) -> Option<u16> {
    match section.iter().next()? {
        (b":status", [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9']) => {
            let status = [a, b, c].iter().fold(0, |status, digit| status * 10 + u16::from(**digit - b'0'));
            (status != 101).then_some(status)
        }
        _ => None,
    }
}

/// Reads the head of an answer, an interim one (1xx) included; says also how long its body was announced to be.
pub fn read_response(version: Version, section: &Section, limits: &Limits) -> Result<(Response, Option<u64>), Unread> {
    let mut response = Response::with_status(status(section).ok_or(Malformed)?);
    response.version = version;
    let (mut length, mut whole) = (None, 0);
    for (at, (name, value)) in section.iter().skip(1).enumerate() {
        coding::check_name(name)?;
        let value = trim(value);
        let line = name.len() + value.len() + 4;
        whole += line;
        if at >= limits.fields {
            return Err(Fault::TooManyFields.into());
        }
        if line > limits.field_bytes {
            return Err(Fault::FieldTooLarge.into());
        }
        if whole > limits.head_bytes {
            return Err(Fault::HeadTooLarge.into());
        }
        if !is_name(name) {
            return Err(if name.is_empty() { Fault::NameEmpty } else { Fault::NameCharacter }.into());
        }
        if !is_value(value) {
            return Err(Fault::ValueCharacter.into());
        }
        match Known::of(name) {
            // They are of one connection, and say nothing here (RFC 9113 section 8.2.2, RFC 9114 section 4.2).
            Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::Upgrade => return Err(Fault::ConnectionField.into()),
            Known::ContentLength => {
                let announced = bytes::decimal(value).ok_or(Fault::Length)?;
                if length.replace(announced).is_some() {
                    return Err(Fault::SeveralLengths.into());
                }
            }
            _ => {}
        }
        response.headers.add(name, value);
    }
    Ok((response, length))
}

/// Reads the trailers of an answer, without those that may not come after a body.
pub fn read_answer_trailers(section: &Section, limits: &Limits) -> Result<Headers, Unread> {
    let mut trailers = Headers::new();
    let mut whole = 0;
    for (at, (name, value)) in section.iter().enumerate() {
        coding::check_name(name)?;
        let value = trim(value);
        whole += name.len() + value.len() + 4;
        if at >= limits.trailers {
            return Err(Fault::TooManyTrailers.into());
        }
        if whole > limits.trailer_bytes {
            return Err(Fault::TrailersTooLarge.into());
        }
        if !is_name(name) {
            return Err(Fault::NameCharacter.into());
        }
        if !is_value(value) {
            return Err(Fault::ValueCharacter.into());
        }
        if !is_forbidden_in_trailers(name) {
            trailers.add(name, value);
        }
    }
    Ok(trailers)
}

/// The `u` of a priority, a dictionary of structured fields; one that cannot be read says nothing.
fn urgency(value: &[u8]) -> Option<u8> {
    let mut said = value.split(|&b| b == b',').map(trim).filter_map(|member| member.strip_prefix(b"u="));
    match said.next_back()? {
        [digit @ b'0'..=b'7'] => Some(digit - b'0'),
        _ => None,
    }
}

/// What HTTP/1 writes around method, target and host.
const START_LINE: usize = "  HTTP/1.1\r\nHost: \r\n\r\n".len();

#[cfg(test)]
mod tests;
