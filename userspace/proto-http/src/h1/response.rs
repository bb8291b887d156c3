//! Response heads (RFC 9112 sections 4 and 6.3).

use super::fields::{Reading, Seen, read_fields};
use super::{Fault, Framing, ResponseError};
use crate::bytes::find_control;
use crate::limits::Limits;
use crate::message::{Method, Response, Version};

/// What the head of a response says to this hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Bytes of the buffer the head took; the body begins there.
    pub consumed: usize,
    /// The body that follows: none after HEAD, after 1xx, 204 and 304, and after the answer that opens a tunnel.
    pub framing: Framing,
    /// What the fields announce, which answers to HEAD keep although no body follows: give this one to the encoder.
    pub announced: Framing,
    /// Whether the connection may carry another request. Never after a head that leaves room for doubt.
    pub keep_alive: bool,
    /// An interim answer: 1xx but not 101. The final one follows.
    pub interim: bool,
    /// From the end of the head on the connection speaks another protocol: 101, or 2xx to CONNECT.
    pub switching: bool,
    /// Whether blanks before a colon were left out (RFC 9112 section 5.1).
    pub mended: bool,
}

/// Reads the head of a response to a request with `method`. `None`: more is needed.
///
/// `into` is cleared and filled, its memory reused; after an error it is empty. As strict as for requests: what could be framed
/// in two ways is refused, and the backend counted as bad.
///
/// - Blanks between a name and its colon are left out, the name read as if they were not there (RFC 9112 section 5.1).
/// - An interim answer may say `Content-Length: 0`, which goes without saying (RFC 9112 section 6.3).
/// - A missing reason phrase is accepted with or without its space.
/// - 204 with a body announced is accepted, its connection not used again: such backends exist, and some do send the body.
/// - Neither length nor chunks: the body lasts until the backend closes.
pub fn parse_response(
    buf: &[u8],
    limits: &Limits,
    method: &Method,
    into: &mut Response,
) -> Result<Option<ResponseHead>, ResponseError> {
    let result = parse(buf, limits, method, into);
    match result {
        Ok(Some(head)) => Ok(Some(head)),
        Ok(None) => {
            into.headers.clear();
            if buf.len() >= limits.head_bytes { Err(Fault::HeadTooLarge.into()) } else { Ok(None) }
        }
        Err(fault) => {
            into.headers.clear();
            Err(fault.into())
        }
    }
}

/// Counts the interim answers to one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct InterimCount {
    seen: usize,
}

impl InterimCount {
    /// Takes note of one more; an error beyond [`Limits::interim_responses`].
    pub fn count(&mut self, limits: &Limits) -> Result<(), ResponseError> {
        self.seen += 1;
        if self.seen > limits.interim_responses { Err(Fault::TooManyInterim.into()) } else { Ok(()) }
    }
}

fn parse(buf: &[u8], limits: &Limits, method: &Method, into: &mut Response) -> Result<Option<ResponseHead>, Fault> {
    into.headers.clear();
    let Some((version, status, at)) = read_status_line(buf)? else { return Ok(None) };
    into.version = version;
    into.status = status;
    let mut seen = Seen::default();
    let Some(consumed) = read_fields(buf, at, limits, Reading::of_answer(), &mut into.headers, &mut seen, Seen::look)?
    else {
        return Ok(None);
    };

    let stated = seen.framing(version)?;
    let interim = matches!(status, 100..200) && status != 101;
    let switching = status == 101 || (*method == Method::Connect && matches!(status, 200..300));
    if interim && !stated.unwrap_or_default().is_empty() {
        return Err(Fault::InterimFraming);
    }
    let announced = stated.unwrap_or(Framing::Empty);
    let bodyless = *method == Method::Head || matches!(status, 100..200 | 204 | 304) || switching;
    let framing = if bodyless { Framing::Empty } else { stated.unwrap_or(Framing::UntilClose) };
    let doubtful = status == 204 && !announced.is_empty();
    Ok(Some(ResponseHead {
        consumed,
        framing,
        announced: if bodyless { announced } else { framing },
        keep_alive: seen.keep_alive(version) && framing != Framing::UntilClose && !switching && !doubtful,
        interim,
        switching,
        mended: seen.mended > 0,
    }))
}

/// Version, status, and where the first field begins. The reason phrase is checked and dropped.
#[inline]
fn read_status_line(buf: &[u8]) -> Result<Option<(Version, u16, usize)>, Fault> {
    let status = match buf {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9', b' ', a @ b'1'..=b'5', b, c, ..]
            if b.is_ascii_digit() && c.is_ascii_digit() =>
        {
            u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
        }
        _ => return status_line_fault(buf).map_or(Ok(None), Err),
    };
    let reason = match buf.get(12) {
        None => return Ok(None),
        Some(b' ') => 13,
        Some(b'\r' | b'\n') => 12,
        Some(_) => return Err(Fault::StatusLine),
    };
    let end = match &buf[reason..] {
        // What nearly all say.
        [b'O', b'K', b'\r', ..] => Some(reason + 2),
        _ => find_control(buf, reason),
    };
    let Some(end) = end else { return Ok(None) };
    match (buf[end], buf.get(end + 1)) {
        (b'\r', Some(b'\n')) => {}
        (b'\r', None) => return Ok(None),
        (b'\r', Some(_)) => return Err(Fault::BareCr),
        (b'\n', _) => return Err(Fault::BareLf),
        _ => return Err(Fault::StatusLine),
    }
    let version = if buf[7] == b'0' { Version::Http10 } else { Version::Http11 };
    Ok(Some((version, status, end + 2)))
}

/// What is wrong with a status line that is not one, the same however much of it has arrived; `None`: nothing yet.
#[cold]
fn status_line_fault(buf: &[u8]) -> Option<Fault> {
    let good = |place: usize, b: u8| match place {
        7 => b.is_ascii_digit(),
        8 => b == b' ',
        9 => matches!(b, b'1'..=b'5'),
        10.. => b.is_ascii_digit(),
        _ => b == b"HTTP/1."[place],
    };
    let (place, b) = buf.iter().take(12).enumerate().find(|&(place, &b)| !good(place, b))?;
    Some(if place == 5 && b.is_ascii_digit() { Fault::Version } else { Fault::StatusLine })
}
