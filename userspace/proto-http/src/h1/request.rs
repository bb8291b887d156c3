//! Request heads (RFC 9112 sections 2, 3 and 5).

use super::fields::{Reading, Seen, read_fields};
use super::{Fault, Framing, RequestError};
use crate::authority::{self, is_authority};
use crate::bytes::{find_control_or_space, is_token_byte, skip_plain, skip_query};
use crate::headers::Known;
use crate::limits::Limits;
use crate::message::{Method, Request, Scheme, Version};
use crate::path::PathError;
use crate::protocol::Protocol;

/// What the head of a request says to this hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Bytes of the buffer the head took; the body begins there.
    pub consumed: usize,
    /// Never [`Framing::UntilClose`]: the end of a request is always announced.
    pub framing: Framing,
    /// Whether the client will send another request on the connection.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body. Never without a body, never on HTTP/1.0.
    pub expect_continue: bool,
    /// The protocol that the client offers to go on in, of those that we relay. Never with a body, on HTTP/1.0, or beside `h2c` in whichever line;
    /// nothing is to be relayed as that protocol before the backend answered 101.
    pub upgrade: Option<Protocol>,
    /// Fields that were left out because of `_` in their names, see [`Limits::underscores`].
    pub dropped: u32,
}

/// Reads the head of a request from everything received and not yet consumed. `None`: more is needed.
///
/// `into` is cleared and filled, its memory reused. After an error it holds what was read of the request line, for the access
/// log, and no fields. One empty line before the request is skipped (RFC 9112 section 2.2).
///
/// - HTTP/1.2 to 1.9 are read as 1.1 (RFC 9110 section 2.5).
/// - The authority of an absolute target replaces `Host`, also where filters look (RFC 9112 section 3.2.2); a `Host` that
///   differs is not an error, a missing or malformed one is.
/// - `OPTIONS *` gives the path `*`; `CONNECT` gives an empty path.
/// - Fields that `Connection` lists are removed here and not when the request is sent on: a client can thus hide a field only
///   from everybody, and cannot strike out one that a filter adds.
/// - An expectation on HTTP/1.0 is ignored (RFC 9110 section 10.1.1).
pub fn parse_request(buf: &[u8], limits: &Limits, into: &mut Request) -> Result<Option<RequestHead>, RequestError> {
    // Whether the request line named the authority, and whether what `into` holds of one is of this request.
    let mut absolute = false;
    match parse(buf, limits, into, &mut absolute) {
        Ok(Some(head)) => Ok(Some(head)),
        Ok(None) => {
            into.clear();
            if buf.len() >= limits.head_bytes { Err(Fault::HeadTooLarge.into()) } else { Ok(None) }
        }
        Err(fault) => {
            into.headers.clear();
            if !absolute {
                into.authority.clear();
            }
            Err(fault.into())
        }
    }
}

#[inline(always)]
fn parse(buf: &[u8], limits: &Limits, into: &mut Request, absolute: &mut bool) -> Result<Option<RequestHead>, Fault> {
    into.version = Version::Http11;
    into.scheme = None;
    into.path.clear();
    into.headers.clear();
    // The memory of query and authority, and mostly the authority's text, serve the next request as well.
    let line = match read_request_line(buf, limits, &mut into.method) {
        Ok(Some(line)) => line,
        other => {
            into.query = None;
            return other.map(|_| None);
        }
    };
    into.version = line.version;
    let target = &buf[line.target.0..line.target.1];
    match line.plain_path {
        Some(path) => into.set_plain_target(target, path),
        None => *absolute = read_target(target, into)?,
    }

    let mut seen = Seen::default();
    let reading = Reading::of_request(limits);
    let fields = read_fields(buf, line.end, limits, reading, &mut into.headers, &mut seen, Seen::look_at_request)?;
    let Some(consumed) = fields else { return Ok(None) };
    let framing = seen.framing(line.version)?.unwrap_or(Framing::Empty);
    if seen.hosts == 0 && line.version != Version::Http10 {
        return Err(Fault::NoHost);
    }
    if *absolute {
        into.headers.set("Host", &into.authority);
    } else if seen.hosts == 0 {
        into.authority.clear();
    } else if let Some(host) = into.headers.known(Known::Host)
        && into.authority.as_bytes() != host
    {
        into.authority.clear();
        // Checked to be ASCII when it was read.
        into.authority.push_str(std::str::from_utf8(host).unwrap_or_default());
    }
    Ok(Some(RequestHead {
        consumed,
        framing,
        keep_alive: seen.keep_alive(line.version),
        expect_continue: seen.expectation && line.version == Version::Http11 && !framing.is_empty(),
        upgrade: seen.upgrade(line.version).filter(|_| framing.is_empty()),
        dropped: seen.dropped,
    }))
}

/// Where the parts of a request line lie.
struct RequestLine {
    version: Version,
    target: (usize, usize),
    /// The length of the path when the target is a plain one, see [`read_plain_target`].
    plain_path: Option<usize>,
    /// Where the first field begins.
    end: usize,
}

#[inline(always)]
fn read_request_line(buf: &[u8], limits: &Limits, method: &mut Method) -> Result<Option<RequestLine>, Fault> {
    *method = Method::Get;
    if is_hopeless_to_read(buf, limits) {
        return Ok(None);
    }
    let Some(start) = skip_empty_line(buf)? else { return Ok(None) };
    let Some((read, at)) = read_method(buf, start, limits)? else { return Ok(None) };
    let connect = read == Method::Connect;
    *method = read;
    let plain = read_plain_target(buf, at).filter(|&(_, len)| len <= limits.target_bytes && !connect);
    let end = match plain {
        Some((_, len)) => at + len,
        None => match find_target_end(buf, at, limits)? {
            Some(end) => end,
            None => return Ok(None),
        },
    };
    let found = read_version(buf, end + 1)?;
    let plain_path = plain.map(|(path, _)| path);
    Ok(found.map(|(version, next)| RequestLine { version, target: (at, end), plain_path, end: next }))
}

/// A long head that trickles in is not read from its beginning for every packet; without an end in sight, and with a request
/// line that is not itself too long, there is nothing to be found but faults that can wait.
fn is_hopeless_to_read(buf: &[u8], limits: &Limits) -> bool {
    buf.len() > WORTH_A_SEARCH
        && buf.len() < limits.head_bytes
        && memchr::memmem::find(buf, b"\r\n\r\n").is_none()
        && memchr::memchr(b'\n', &buf[..buf.len().min(limits.target_bytes)]).is_some()
}

#[inline]
fn skip_empty_line(buf: &[u8]) -> Result<Option<usize>, Fault> {
    match buf {
        [b'\r', b'\n', b'\r' | b'\n', ..] => Err(Fault::LeadingLines),
        [b'\r', b'\n', ..] => Ok(Some(2)),
        [b'\r'] | [] => Ok(None),
        [b'\r', ..] => Err(Fault::BareCr),
        [b'\n', ..] => Err(Fault::BareLf),
        _ => Ok(Some(0)),
    }
}

/// The method and where the target begins.
#[inline]
fn read_method(buf: &[u8], start: usize, limits: &Limits) -> Result<Option<(Method, usize)>, Fault> {
    let rest = &buf[start..];
    if rest.starts_with(b"GET ") {
        return Ok(Some((Method::Get, start + 4)));
    }
    if rest.starts_with(b"POST ") {
        return Ok(Some((Method::Post, start + 5)));
    }
    read_other_method(rest, limits).map(|found| found.map(|(method, len)| (method, start + len + 1)))
}

fn read_other_method(rest: &[u8], limits: &Limits) -> Result<Option<(Method, usize)>, Fault> {
    let token = rest.iter().position(|&b| !is_token_byte(b));
    if token.unwrap_or(rest.len()) > limits.method_bytes {
        return Err(Fault::MethodTooLong);
    }
    let Some(len) = token else { return Ok(None) };
    match rest[len] {
        // Kept for the preface of HTTP/2 (RFC 9113 section 11.6): no request may be taken for one behind us.
        b' ' if &rest[..len] == b"PRI" => Err(Fault::Http2Preface),
        b' ' if len > 0 => Ok(Method::parse(&rest[..len]).map(|method| (method, len))),
        // A TLS record of type handshake.
        0x16 if len == 0 => Err(Fault::TlsHandshake),
        b'\r' | b'\n' if len > 0 => Err(Fault::NoVersion),
        _ => Err(Fault::Method),
    }
}

/// The target at `at` when it is what most are, `/path` or `/path?query` in bytes that stay as they are: the lengths of its
/// path and of all of it. `None` for any other, complete or not.
#[inline(always)]
fn read_plain_target(buf: &[u8], at: usize) -> Option<(usize, usize)> {
    let target @ [b'/', ..] = buf.get(at..)? else { return None };
    let mut path = skip_plain(buf, target);
    loop {
        match &target[path..] {
            [b' ', ..] => return Some((path, path)),
            [b'?', rest @ ..] => {
                let len = path + 1 + skip_query(buf, rest);
                return (*target.get(len)? == b' ').then_some((path, len));
            }
            [b'.', rest @ ..] if target[path - 1] != b'/' => path += 1 + skip_plain(buf, rest),
            _ => return None,
        }
    }
}

/// Where any target ends; `None` while it does not.
#[cold]
fn find_target_end(buf: &[u8], at: usize, limits: &Limits) -> Result<Option<usize>, Fault> {
    let end = find_control_or_space(buf, at);
    if end.unwrap_or(buf.len()) - at > limits.target_bytes {
        return Err(Fault::TargetTooLong);
    }
    let Some(end) = end else { return Ok(None) };
    match buf[end] {
        b' ' if end > at => Ok(Some(end)),
        b'\r' | b'\n' => Err(Fault::NoVersion),
        b' ' => Err(Fault::RequestLine),
        _ => Err(Fault::TargetCharacter),
    }
}

/// The version and where the first field begins.
#[inline]
pub(super) fn read_version(buf: &[u8], start: usize) -> Result<Option<(Version, usize)>, Fault> {
    let rest = &buf[start..];
    if rest.starts_with(b"HTTP/1.1\r\n") {
        return Ok(Some((Version::Http11, start + 10)));
    }
    read_other_version(rest).map(|version| version.map(|version| (version, start + 10)))
}

/// Byte by byte, so that the verdict does not depend on where the input was split.
#[cold]
fn read_other_version(rest: &[u8]) -> Result<Option<Version>, Fault> {
    for (place, &b) in rest.iter().take(10).enumerate() {
        let good = match place {
            0..5 => b == b"HTTP/"[place],
            5 if b.is_ascii_digit() && b != b'1' => return Err(Fault::Version),
            5 => b == b'1',
            6 => b == b'.',
            7 => b.is_ascii_digit(),
            8 if b == b'\n' => return Err(Fault::BareLf),
            8 => b == b'\r',
            _ if b != b'\n' => return Err(Fault::BareCr),
            _ => true,
        };
        if !good {
            return Err(Fault::RequestLine);
        }
    }
    Ok(match rest.get(7) {
        _ if rest.len() < 10 => None,
        Some(b'0') => Some(Version::Http10),
        _ => Some(Version::Http11),
    })
}

/// Reads the target into path, query and perhaps authority; says whether it named the authority (RFC 9112 section 3.2).
#[inline]
fn read_target(target: &[u8], into: &mut Request) -> Result<bool, Fault> {
    if target[0] == b'/' && into.method != Method::Connect {
        into.set_target(target)?;
        return Ok(false);
    }
    into.query = None;
    into.authority.clear();
    if into.method == Method::Connect {
        match authority::split(target) {
            Some((_, Some(_))) => {}
            _ => return Err(Fault::TargetAuthority),
        }
        set_authority(target, into);
        return Ok(true);
    }
    if target == b"*" {
        if into.method != Method::Options {
            return Err(Fault::Target);
        }
        into.path.set_asterisk();
        return Ok(false);
    }
    let (scheme, rest) = strip_scheme(target).ok_or(Fault::Target)?;
    let end = rest.iter().position(|b| b"/?#".contains(b)).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if !is_authority(authority) {
        return Err(Fault::TargetAuthority);
    }
    set_authority(authority, into);
    into.scheme = Some(scheme);
    match target.first() {
        Some(b'/') => into.set_target(target)?,
        // RFC 9112 section 3.2.4: this is how a client of a proxy writes `OPTIONS *`.
        None if into.method == Method::Options => into.path.set_asterisk(),
        // RFC 9110 section 4.2.3: an empty path is "/".
        _ => into.set_target(&[b"/", target].concat())?,
    }
    Ok(true)
}

fn set_authority(authority: &[u8], into: &mut Request) {
    into.authority.push_str(std::str::from_utf8(authority).unwrap_or_default());
}

fn strip_scheme(target: &[u8]) -> Option<(Scheme, &[u8])> {
    [(Scheme::Http, &b"http://"[..]), (Scheme::Https, b"https://")].into_iter().find_map(|(scheme, text)| {
        let has = target.get(..text.len()).is_some_and(|t| t.eq_ignore_ascii_case(text));
        has.then(|| (scheme, &target[text.len()..]))
    })
}

impl From<PathError> for Fault {
    fn from(error: PathError) -> Fault {
        match error {
            PathError::NotAbsolute => Fault::Target,
            PathError::Character => Fault::TargetCharacter,
            PathError::Escape => Fault::TargetEscape,
            PathError::Nul => Fault::TargetNul,
            PathError::Backslash => Fault::TargetBackslash,
            PathError::AboveRoot => Fault::TargetAboveRoot,
            PathError::DisguisedDots | PathError::DotSegment => Fault::TargetDisguisedDots,
        }
    }
}

/// Heads longer than this are searched for their end before they are read.
const WORTH_A_SEARCH: usize = 4096;
