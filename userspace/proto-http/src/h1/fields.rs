//! Field lines of heads and trailers (RFC 9112 section 5), and what they say about the connection and the body.
//!
//! A list may be written over several lines (RFC 9110 section 5.3). What [`Seen`] takes note of therefore only ever adds up: no
//! line undoes what another one said.

use super::{Fault, Framing};
use crate::authority::is_authority;
use crate::bytes::{self, find_control, scan_token, trim};
use crate::headers::{Headers, Known, Noted};
use crate::limits::{Limits, Underscores};
use crate::message::Version;
use crate::protocol::Protocol;

/// What a look at the buffer found at the beginning of a line.
pub(super) enum Line {
    /// A whole field line; the next one begins at `next`. The parts are positions in the buffer.
    Field {
        name: (usize, usize),
        value: (usize, usize),
        next: usize,
        /// Some bytes of the name are underscores.
        underscore: bool,
        /// White space stood before the colon.
        mended: bool,
    },
    /// The empty line that ends the section; what follows it begins at `next`.
    End { next: usize },
    /// The line is not complete.
    Partial,
}

/// How the sender's lines are taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// White space before a colon is left out (RFC 9112 section 5.1 asks it of answers), else a fault.
    pub mend: bool,
    pub underscores: Underscores,
}

impl Reading {
    pub(super) fn of_request(limits: &Limits) -> Reading {
        Reading { mend: false, underscores: limits.underscores }
    }

    pub(super) fn of_answer() -> Reading {
        Reading { mend: true, underscores: Underscores::Allow }
    }
}

/// Reads the line at `at`.
pub(super) fn read_line(buf: &[u8], at: usize, reading: Reading) -> Result<Line, Fault> {
    let (end, stop, underscore) = scan_token(buf, at);
    let Some(mut stop) = stop else { return Ok(Line::Partial) };
    let name = (at, end);
    let mut colon = end;
    if reading.mend && end > at && is_blank(stop) {
        while buf.get(colon).copied().is_some_and(is_blank) {
            colon += 1;
        }
        match buf.get(colon) {
            None => return Ok(Line::Partial),
            Some(b':') => stop = b':',
            Some(_) => {}
        }
    }
    if stop != b':' || end == at {
        return no_name(buf, at, end, stop);
    }
    let mut start = colon + 1;
    while let Some(b' ' | b'\t') = buf.get(start) {
        start += 1;
    }
    let Some(stop) = find_control(buf, start) else { return Ok(Line::Partial) };
    match &buf[stop..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] => return Ok(Line::Partial),
        [b'\r', ..] => return Err(Fault::BareCr),
        [b'\n', ..] => return Err(Fault::BareLf),
        _ => return Err(Fault::ValueCharacter),
    }
    let value = &buf[start..stop];
    let len = match value {
        [.., b' ' | b'\t'] => trim(value).len(),
        _ => value.len(),
    };
    Ok(Line::Field { name, value: (start, start + len), next: stop + 2, underscore, mended: colon > end })
}

fn is_blank(b: u8) -> bool {
    matches!(b, b' ' | b'\t')
}

/// A line that does not begin with a name and a colon: the end of the section, or a fault.
#[cold]
fn no_name(buf: &[u8], at: usize, end: usize, stop: u8) -> Result<Line, Fault> {
    if end > at {
        return Err(match stop {
            b' ' | b'\t' => Fault::NameSpace,
            b'\n' => Fault::BareLf,
            _ => Fault::NameCharacter,
        });
    }
    match stop {
        b'\r' => match buf.get(at + 1) {
            Some(b'\n') => Ok(Line::End { next: at + 2 }),
            Some(_) => Err(Fault::BareCr),
            None => Ok(Line::Partial),
        },
        b'\n' => Err(Fault::BareLf),
        b' ' | b'\t' => Err(Fault::Fold),
        b':' => Err(Fault::NameEmpty),
        _ => Err(Fault::NameCharacter),
    }
}

/// What the fields of a head say to this hop.
#[derive(Default)]
pub(super) struct Seen {
    pub hosts: u32,
    pub expectation: bool,
    /// Lines that were mended.
    pub mended: u32,
    /// Lines that were left out because of `_` in their names.
    pub dropped: u32,
    /// All lines of Upgrade together.
    upgrade: Protocols,
    length: Option<u64>,
    lengths: u32,
    codings: u32,
    close: bool,
    keep_alive: bool,
    wants_upgrade: bool,
    lists_fields: bool,
    tokens: usize,
}

/// Reads the fields that begin at `at` and fills `headers`. Answers where the head ends, `None` while it does not.
///
/// Lines are found first and looked at afterwards, which leaves either loop with what it needs in registers; the fault of an
/// earlier line still goes before that of a later one.
#[inline]
pub(super) fn read_fields(
    buf: &[u8],
    at: usize,
    limits: &Limits,
    reading: Reading,
    headers: &mut Headers,
    seen: &mut Seen,
    mut look: impl FnMut(&mut Seen, Known, &[u8]) -> Result<(), Fault>,
) -> Result<Option<usize>, Fault> {
    let end = read_lines(buf, at, limits, reading, headers, seen);
    let text = &buf[at..];
    headers.recognise(text, |known, value| look(seen, known, value))?;
    let Some(end) = end? else { return Ok(None) };
    headers.adopt(&text[..end - at - 2]);
    if seen.lists_fields {
        headers.remove_listed();
    }
    Ok(Some(end))
}

/// Notes the lines that begin at `first` in `headers`, up to a faulty one. Answers where the head ends.
#[inline(never)]
fn read_lines(
    buf: &[u8],
    first: usize,
    limits: &Limits,
    reading: Reading,
    headers: &mut Headers,
    seen: &mut Seen,
) -> Result<Option<usize>, Fault> {
    let text = &buf[first..];
    let mut rest = text;
    loop {
        let at = text.len() - rest.len();
        if let Some((name_len, value_len, next)) = read_plain_line(text, rest) {
            if headers.len() >= limits.fields {
                return Err(Fault::TooManyFields);
            }
            if name_len + 2 + value_len > limits.field_bytes {
                return Err(Fault::FieldTooLarge);
            }
            let known = Known::is_likely(rest[0], name_len);
            headers.note(at, name_len, at + name_len + 2, value_len, Noted { line: true, known });
            rest = next;
            continue;
        }
        if let [b'\r', b'\n', ..] = rest {
            let end = first + at + 2;
            return if end > limits.head_bytes { Err(Fault::HeadTooLarge) } else { Ok(Some(end)) };
        }
        match read_line(text, at, reading)? {
            Line::Field { name, value, next, underscore, mended } => {
                if headers.len() + seen.dropped as usize >= limits.fields {
                    return Err(Fault::TooManyFields);
                }
                if next - at > limits.field_bytes + 2 {
                    return Err(Fault::FieldTooLarge);
                }
                seen.mended += u32::from(mended);
                rest = &text[next..];
                if is_odd(underscore, &text[name.0..name.1]) && is_lookalike(&text[name.0..name.1]) {
                    return Err(Fault::NameLookalike);
                }
                match reading.underscores {
                    _ if !underscore => {}
                    Underscores::Allow => {}
                    Underscores::Drop => {
                        seen.dropped += 1;
                        continue;
                    }
                    Underscores::Refuse => return Err(Fault::NameUnderscore),
                }
                let line = value.0 == name.1 + 2 && value.1 + 2 == next && text[name.1 + 1] == b' ';
                let noted = Noted { line, known: true };
                headers.note(name.0, name.1 - name.0, value.0, value.1 - value.0, noted);
            }
            Line::End { next } if first + next > limits.head_bytes => return Err(Fault::HeadTooLarge),
            Line::End { next } => return Ok(Some(first + next)),
            Line::Partial if rest.len() > limits.field_bytes + 2 => return Err(Fault::FieldTooLarge),
            Line::Partial => return Ok(None),
        }
    }
}

/// Reads a line that is what nearly all are: a name of up to fifteen letters and dashes, a colon and one space, a value
/// without tabs or space around it, CRLF. Answers with the lengths of name and value and what follows, `None` for any other
/// line, which [`read_line`] is to look at. `rest` is the end of `text`.
#[inline(always)]
fn read_plain_line<'a>(text: &[u8], rest: &'a [u8]) -> Option<(usize, usize, &'a [u8])> {
    let name_len = match rest.first_chunk() {
        Some(start) => bytes::plain_name_len(start),
        None => bytes::plain_name_len(&padded(rest)),
    };
    let (colon, value) = rest[name_len..].split_first_chunk::<2>()?;
    if *colon != *b": " || name_len == 0 || *value.first()? <= b' ' {
        return None;
    }
    let (value, end) = value.split_at_checked(bytes::find_control_or_tab(text, value))?;
    let (end, next) = end.split_first_chunk::<2>()?;
    let plain = *end == *b"\r\n" && !matches!(value, [.., b' '] | []);
    plain.then_some((name_len, value.len(), next))
}

/// Less than sixteen bytes, with zeros behind them: the last line of a short head.
fn padded(rest: &[u8]) -> [u8; 16] {
    let mut block = [0; 16];
    block[..rest.len()].copy_from_slice(rest);
    block
}

impl Seen {
    /// The same for requests, where two more fields are acted on.
    pub(super) fn look_at_request(&mut self, known: Known, value: &[u8]) -> Result<(), Fault> {
        match known {
            Known::Host => {
                self.hosts += 1;
                if self.hosts > 1 {
                    return Err(Fault::SeveralHosts);
                }
                if is_authority(value) { Ok(()) } else { Err(Fault::Host) }
            }
            Known::Expect => {
                let mut expected = elements(value).peekable();
                self.expectation = true;
                let known = expected.peek().is_some() && expected.all(|e| e.eq_ignore_ascii_case(b"100-continue"));
                if known { Ok(()) } else { Err(Fault::Expectation) }
            }
            known => self.look(known, value),
        }
    }

    /// Takes note of a field that either side may send.
    pub(super) fn look(&mut self, known: Known, value: &[u8]) -> Result<(), Fault> {
        match known {
            Known::ContentLength => {
                self.lengths += 1;
                if self.lengths > 1 {
                    return Err(Fault::SeveralLengths);
                }
                self.length = Some(bytes::decimal(value).ok_or(Fault::Length)?);
            }
            Known::TransferEncoding => {
                self.codings += 1;
                if self.codings > 1 {
                    return Err(Fault::SeveralTransferCodings);
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(coding_fault(value));
                }
            }
            Known::Connection => self.look_at_connection(value)?,
            Known::Upgrade => self.upgrade.add(value),
            _ => {}
        }
        Ok(())
    }

    fn look_at_connection(&mut self, value: &[u8]) -> Result<(), Fault> {
        // What nearly all say.
        if self.tokens < CONNECTION_TOKENS && value.eq_ignore_ascii_case(b"keep-alive") {
            self.tokens += 1;
            self.keep_alive = true;
            return Ok(());
        }
        for token in value.split(|&b| b == b',').map(trim) {
            self.tokens += 1;
            if self.tokens > CONNECTION_TOKENS {
                return Err(Fault::Connection);
            }
            if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.wants_upgrade = true;
            } else if !token.is_empty() {
                if !crate::headers::is_name(token) {
                    return Err(Fault::Connection);
                }
                match Known::of(token) {
                    known if !known.is_guarded() => self.lists_fields = true,
                    known if known.is_hop_by_hop() => {}
                    _ => return Err(Fault::Connection),
                }
            }
        }
        Ok(())
    }

    /// How the body is framed according to the fields; `None` when they are silent.
    pub(super) fn framing(&self, version: Version) -> Result<Option<Framing>, Fault> {
        match (self.length, self.codings) {
            (None, 0) => Ok(None),
            (Some(length), 0) => Ok(Some(Framing::Length(length))),
            (Some(_), _) => Err(Fault::LengthAndChunked),
            (None, _) if version == Version::Http10 => Err(Fault::TransferCodingVersion),
            (None, _) => Ok(Some(Framing::Chunked)),
        }
    }

    /// Whether the sender will use the connection again (RFC 9112 section 9.3).
    pub(super) fn keep_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }

    /// The protocol the sender offers to change to, of those that we relay (RFC 9110 section 7.8).
    pub(super) fn upgrade(&self, version: Version) -> Option<Protocol> {
        self.upgrade.relayed().filter(|_| self.wants_upgrade && version == Version::Http11)
    }
}

/// The elements of a list that are not empty (RFC 9110 section 5.6.1).
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim).filter(|element| !element.is_empty())
}

/// What the Upgrade fields of one message name, all lines together.
#[derive(Clone, Copy, Debug, Default)]
struct Protocols {
    /// The first of those that are relayed.
    relayed: Option<Protocol>,
    h2c: bool,
    other: bool,
}

impl Protocols {
    fn of(headers: &Headers) -> Protocols {
        let mut protocols = Protocols::default();
        headers.known_all(Known::Upgrade).for_each(|value| protocols.add(value));
        protocols
    }

    fn add(&mut self, value: &[u8]) {
        for name in elements(value) {
            match Protocol::of(name) {
                Some(known) => self.other |= *self.relayed.get_or_insert(known) != known,
                None if name.eq_ignore_ascii_case(b"h2c") => self.h2c = true,
                None => self.other = true,
            }
        }
    }

    /// What of an offer is relayed, without the other protocols it names. An upgrade to HTTP/2 in the clear would carry requests
    /// past us unread, so whoever asks for that gets none; ignoring an offer is always allowed.
    fn relayed(self) -> Option<Protocol> {
        self.relayed.filter(|_| !self.h2c)
    }

    /// What this accepts, where it names that alone.
    fn accepted(self) -> Option<Protocol> {
        self.relayed().filter(|_| !self.other)
    }
}

/// The protocol that a request with these fields offers, of those that are relayed the first, all lines of Upgrade together.
pub fn offered_upgrade(request: &Headers) -> Option<Protocol> {
    Protocols::of(request).relayed()
}

/// The protocol that the head of a 101 names, if it names no other: only where it is the one that was offered to the backend (RFC 9110
/// section 7.8) does the connection carry what both sides think it does.
pub fn accepted_upgrade(response: &Headers) -> Option<Protocol> {
    Protocols::of(response).accepted()
}

#[cold]
fn coding_fault(value: &[u8]) -> Fault {
    let chunked = |t: &[u8]| t.eq_ignore_ascii_case(b"chunked");
    let tokens = || value.split(|&b| b == b',').map(trim);
    if tokens().any(chunked) && tokens().all(|t| chunked(t) || t.is_empty()) {
        Fault::SeveralTransferCodings
    } else {
        Fault::TransferCoding
    }
}

/// Whether some backend may read the name as another one.
pub(crate) fn is_odd(underscore: bool, name: &[u8]) -> bool {
    underscore || name.iter().fold(false, |odd, &b| odd | (!b.is_ascii_alphanumeric() & (b != b'-')))
}

/// Whether a backend that reads `_`, or any other mark, as `-` (CGI and its heirs) would take the field for one that decides
/// framing, routing or the client's address.
#[cold]
pub(crate) fn is_lookalike(name: &[u8]) -> bool {
    let mut dashed = [0; LONGEST_LOOKALIKE];
    let Some(dashed) = dashed_into(name, &mut dashed) else { return false };
    Known::of(dashed).is_guarded()
        || dashed.starts_with(b"x-forwarded-")
        || dashed == b"x-real-ip"
        || dashed == b"forwarded"
}

/// The name in lower case with dashes for all marks; `None` when it is longer than any it could be taken for.
fn dashed_into<'a>(name: &[u8], into: &'a mut [u8; LONGEST_LOOKALIKE]) -> Option<&'a [u8]> {
    let dashed = into.get_mut(..name.len())?;
    for (to, &from) in dashed.iter_mut().zip(name) {
        *to = crate::headers::dashed(from);
    }
    Some(dashed)
}

/// No name that matters here is longer.
const LONGEST_LOOKALIKE: usize = 40;

/// Whether a field may not come after the body, where it could no longer be obeyed (RFC 9110 section 6.5.1).
///
/// A name that some backend reads as such a one is no better.
pub fn is_forbidden_in_trailers(name: &[u8]) -> bool {
    let mut dashed = [0; LONGEST_LOOKALIKE];
    let name = dashed_into(name, &mut dashed).unwrap_or(name);
    if Known::of(name).is_guarded() {
        return true;
    }
    let starts = |prefix: &[u8]| name.get(..prefix.len()).is_some_and(|n| n.eq_ignore_ascii_case(prefix));
    FORBIDDEN_TRAILERS.iter().any(|f| name.eq_ignore_ascii_case(f.as_bytes()))
        || starts(b"if-")
        || starts(b"x-forwarded-")
        || starts(b"proxy-")
        || starts(b"access-control-")
}

/// Whether a trailer field of a request is kept, whatever version it came over. One with `_` in its name that is left out is counted.
pub(crate) fn keeps_trailer(
    name: &[u8],
    underscore: bool,
    rule: Underscores,
    dropped: &mut u32,
) -> Result<bool, Fault> {
    match rule {
        _ if is_forbidden_in_trailers(name) => Ok(false),
        Underscores::Drop if underscore => {
            *dropped += 1;
            Ok(false)
        }
        Underscores::Refuse if underscore => Err(Fault::NameUnderscore),
        _ => Ok(true),
    }
}

/// Beside those the engine acts on.
const FORBIDDEN_TRAILERS: &[&str] = &[
    "accept-ranges",
    "age",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-language",
    "content-location",
    "content-range",
    "expires",
    "forwarded",
    "location",
    "max-forwards",
    "pragma",
    "range",
    "retry-after",
    "strict-transport-security",
    "vary",
    "warning",
    "www-authenticate",
    "x-real-ip",
];

/// Tokens all `Connection` fields of a message may hold: real ones hold three; each is compared with every field.
const CONNECTION_TOKENS: usize = 32;
