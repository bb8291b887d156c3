//! Header fields of one message: bytes in one arena, fields as spans into it.
//!
//! A parsed head is copied into the arena once (a few hundred bytes) so that the receive buffer is free to carry the body.
//! Changes append to the arena and rewrite spans; nothing is allocated per field, and a `Headers` that is
//! [`clear`](Headers::clear)ed keeps its memory for the next message.
//!
//! Nothing in here can break a message open: a name that is no token is not taken, control bytes of a value become spaces.

use crate::bytes;
use std::fmt;

/// A range of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn of(self, arena: &[u8]) -> &[u8] {
        &arena[self.start as usize..(self.start + self.len) as usize]
    }
}

#[derive(Clone, Copy, Debug)]
struct Field {
    name: Span,
    value: Span,
    known: Known,
    noted: Noted,
}

/// What was seen when a field was added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noted {
    /// Whether the arena holds the whole line, `name: value\r\n`, ready for the wire.
    pub line: bool,
    /// Whether its name may be one of the known ones.
    pub known: bool,
}

impl Field {
    /// Where a line in the arena ends.
    fn line_end(&self) -> u32 {
        self.value.start + self.value.len + 2
    }
}

/// Field names the engine itself acts on, recognised once when a field is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Other,
    Host,
    Connection,
    KeepAlive,
    ProxyConnection,
    ProxyAuthenticate,
    ProxyAuthorization,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    ContentLength,
    ContentType,
    ContentEncoding,
    Expect,
    Date,
    Server,
    Cookie,
    SetCookie,
    AcceptEncoding,
    XForwardedFor,
    XRequestId,
    CdnLoop,
    GrpcTimeout,
    XRequestDeadline,
    XRetryAttempt,
}

impl Known {
    /// Recognises a name regardless of case.
    #[inline]
    pub fn of(name: &[u8]) -> Known {
        let Some(&first) = name.first() else { return Known::Other };
        if Known::is_likely(first, name.len()) { Known::among(name, first) } else { Known::Other }
    }

    /// Whether some known name begins so and is that long, which rules out most others.
    #[inline(always)]
    pub(crate) fn is_likely(first: u8, len: usize) -> bool {
        LENGTHS[(first & 31) as usize] >> (len & 31) & 1 != 0
    }

    /// Whether the engine reads the value to find out about the connection and the body.
    #[inline(always)]
    pub(crate) fn is_acted_on(self) -> bool {
        matches!(
            self,
            Known::Host
                | Known::Connection
                | Known::TransferEncoding
                | Known::Upgrade
                | Known::ContentLength
                | Known::Expect
        )
    }

    fn among(name: &[u8], first: u8) -> Known {
        match (name.len(), first | 0x20) {
            (2, b't') => is(name, b"te", Known::Te),
            (4, b'h') => is(name, b"host", Known::Host),
            (4, b'd') => is(name, b"date", Known::Date),
            (6, b'e') => is(name, b"expect", Known::Expect),
            (6, b's') => is(name, b"server", Known::Server),
            (6, b'c') => is(name, b"cookie", Known::Cookie),
            (8, b'c') => is(name, b"cdn-loop", Known::CdnLoop),
            (7, b'u') => is(name, b"upgrade", Known::Upgrade),
            (7, b't') => is(name, b"trailer", Known::Trailer),
            (10, b'c') => is(name, b"connection", Known::Connection),
            (10, b'k') => is(name, b"keep-alive", Known::KeepAlive),
            (10, b's') => is(name, b"set-cookie", Known::SetCookie),
            (12, b'c') => is(name, b"content-type", Known::ContentType),
            (12, b'g') => is(name, b"grpc-timeout", Known::GrpcTimeout),
            (12, b'x') => is(name, b"x-request-id", Known::XRequestId),
            (14, b'c') => is(name, b"content-length", Known::ContentLength),
            (15, b'a') => is(name, b"accept-encoding", Known::AcceptEncoding),
            (15, b'x') if name[2] | 0x20 == b'r' => is(name, b"x-retry-attempt", Known::XRetryAttempt),
            (15, b'x') => is(name, b"x-forwarded-for", Known::XForwardedFor),
            (16, b'c') => is(name, b"content-encoding", Known::ContentEncoding),
            (16, b'p') => is(name, b"proxy-connection", Known::ProxyConnection),
            (17, b't') => is(name, b"transfer-encoding", Known::TransferEncoding),
            (18, b'p') => is(name, b"proxy-authenticate", Known::ProxyAuthenticate),
            (18, b'x') => is(name, b"x-request-deadline", Known::XRequestDeadline),
            (19, b'p') => is(name, b"proxy-authorization", Known::ProxyAuthorization),
            _ => Known::Other,
        }
    }

    /// Whether nothing may pass for the field, nor take it out, because much hangs on it. The others are known so that they are found at
    /// once, and are to clients what any field is.
    pub(crate) fn is_guarded(self) -> bool {
        !matches!(
            self,
            Known::Other | Known::CdnLoop | Known::GrpcTimeout | Known::XRequestDeadline | Known::XRetryAttempt
        )
    }

    /// Whether the field speaks of this hop only and is never relayed (RFC 9110 section 7.6.1), `Connection`'s own list aside.
    pub fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::ProxyAuthenticate
                | Known::ProxyAuthorization
                | Known::Te
                | Known::Trailer
                | Known::TransferEncoding
                | Known::Upgrade
        )
    }
}

/// For the first letter of a name, whatever its case: a bit for each length that a known name has which begins so.
static LENGTHS: [u32; 32] = {
    let mut lengths = [0; 32];
    lengths[b'a' as usize & 31] = 1 << 15;
    lengths[b'c' as usize & 31] = 1 << 6 | 1 << 8 | 1 << 10 | 1 << 12 | 1 << 14 | 1 << 16;
    lengths[b'd' as usize & 31] = 1 << 4;
    lengths[b'e' as usize & 31] = 1 << 6;
    lengths[b'g' as usize & 31] = 1 << 12;
    lengths[b'h' as usize & 31] = 1 << 4;
    lengths[b'k' as usize & 31] = 1 << 10;
    lengths[b'p' as usize & 31] = 1 << 16 | 1 << 18 | 1 << 19;
    lengths[b's' as usize & 31] = 1 << 6 | 1 << 10;
    lengths[b't' as usize & 31] = 1 << 2 | 1 << 7 | 1 << 17;
    lengths[b'u' as usize & 31] = 1 << 7;
    lengths[b'x' as usize & 31] = 1 << 12 | 1 << 15 | 1 << 18;
    lengths
};

/// `known` when `name` is `text` in any case. Lengths are part of the type, so that the comparison is a few wide instructions.
#[inline]
fn is<const N: usize>(name: &[u8], text: &[u8; N], known: Known) -> Known {
    let Ok(name) = <&[u8; N]>::try_from(name) else { return Known::Other };
    // Setting this bit maps only a letter's two cases to the letter. To a dash it maps CR too, which no token contains.
    let differs = name.iter().zip(text).fold(0, |differs, (a, b)| differs | ((a | 0x20) ^ b));
    if differs == 0 { known } else { Known::Other }
}

/// A field that is made once and added to many messages, see [`Headers::add_ready`].
#[derive(Clone, Debug)]
pub struct Ready {
    /// `name: value\r\n`, and where in it they lie.
    line: Box<[u8]>,
    name: Span,
    value: Span,
    known: Known,
}

impl Ready {
    /// `None` for a name that is no token. Control bytes of the value become spaces.
    pub fn new(name: &str, value: &str) -> Option<Ready> {
        let mut alone = Headers::new();
        alone.add(name, value);
        let field = alone.fields.pop()?;
        let Field { name, value, known, .. } = field;
        Some(Ready { line: alone.arena.into(), name, value, known })
    }

    pub fn name(&self) -> &[u8] {
        self.name.of(&self.line)
    }

    pub fn value(&self) -> &[u8] {
        self.value.of(&self.line)
    }
}

/// The header fields of a message, in order, names in the case they came in.
#[derive(Clone, Default)]
pub struct Headers {
    arena: Vec<u8>,
    fields: Vec<Field>,
    /// Names that were set or removed, see [`is_ruled`](Headers::is_ruled).
    ruled: Vec<Span>,
}

impl Headers {
    pub fn new() -> Headers {
        Headers::default()
    }

    /// Fields held.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Bytes of memory the arena and the spans occupy.
    pub fn memory(&self) -> usize {
        let spans = self.ruled.capacity() * size_of::<Span>();
        self.arena.capacity() + self.fields.capacity() * size_of::<Field>() + spans
    }

    /// Takes over all fields of `other`, into the memory there is.
    pub fn copy_from(&mut self, other: &Headers) {
        self.clear();
        self.arena.extend_from_slice(&other.arena);
        self.fields.extend_from_slice(&other.fields);
        self.ruled.extend_from_slice(&other.ruled);
    }

    /// Forgets all fields and keeps the memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.fields.clear();
        self.ruled.clear();
    }

    /// The first value of `name`, compared regardless of case.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.find(name).map(|f| f.value.of(&self.arena))
    }

    /// The first value of `name` when it is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.value(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    /// The first value of a field recognised when it was added.
    pub fn known(&self, known: Known) -> Option<&[u8]> {
        self.fields.iter().find(|f| f.known == known).map(|f| f.value.of(&self.arena))
    }

    /// All values of a recognised field, in order.
    pub fn known_all(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.fields.iter().filter(move |f| f.known == known).map(|f| f.value.of(&self.arena))
    }

    /// All values of `name`, in order.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |f| self.is_named(f, name)).map(|f| f.value.of(&self.arena))
    }

    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Name, value and recognised name of each field, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8], Known)> {
        self.fields.iter().map(|f| (f.name.of(&self.arena), f.value.of(&self.arena), f.known))
    }

    /// Whether there is a field recognised as `known`.
    pub fn has_known(&self, known: Known) -> bool {
        self.fields.iter().any(|f| f.known == known)
    }

    /// Appends a field. A name that is not a token is refused by leaving the field out; control bytes of the value become spaces.
    pub fn add(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let (name, value) = (name.as_ref(), value.as_ref());
        if !is_name(name) {
            return;
        }
        let known = Known::of(name);
        let name = self.store(name);
        self.arena.extend_from_slice(b": ");
        let value = self.store_value(value);
        self.arena.extend_from_slice(b"\r\n");
        self.fields.push(Field { name, value, known, noted: Noted { line: true, known: true } });
    }

    /// As [`add`](Headers::add), of a name that was recognised before, the one that is written so, and of a value that was made by us or
    /// looked at: one with control bytes would break the message open.
    pub fn add_known_clean(&mut self, known: Known, name: &'static str, value: &[u8]) {
        debug_assert!(is_name(name.as_bytes()) && Known::of(name.as_bytes()) == known, "{name}");
        debug_assert!(is_value(value), "a value of {name} that was not looked at");
        self.arena.reserve(name.len() + value.len() + 4);
        let name = self.store(name.as_bytes());
        self.arena.extend_from_slice(b": ");
        let value = self.store(value);
        self.arena.extend_from_slice(b"\r\n");
        self.fields.push(Field { name, value, known, noted: Noted { line: true, known: true } });
    }

    /// Appends a field that was made ready before.
    pub fn add_ready(&mut self, ready: &Ready) {
        let start = self.arena.len() as u32;
        self.arena.extend_from_slice(&ready.line);
        let at = |span: Span| Span { start: start + span.start, len: span.len };
        let (name, value) = (at(ready.name), at(ready.value));
        self.fields.push(Field { name, value, known: ready.known, noted: Noted { line: true, known: true } });
    }

    /// Appends a field of another message, the one at this place there, as it stands: it was looked at when it came into that.
    pub fn add_copy(&mut self, other: &Headers, place: usize) {
        let Some(field) = other.fields.get(place) else { return };
        if !field.noted.line {
            return self.add(field.name.of(&other.arena), field.value.of(&other.arena));
        }
        let (start, before) = (self.arena.len() as u32, field.name.start);
        self.arena.extend_from_slice(&other.arena[before as usize..field.line_end() as usize]);
        let at = |span: Span| Span { start: start + (span.start - before), len: span.len };
        self.fields.push(Field { name: at(field.name), value: at(field.value), ..*field });
    }

    /// As [`add_copy`](Headers::add_copy), of a field that is [`own`](Headers::add_own) from now on.
    pub fn add_own_copy(&mut self, other: &Headers, place: usize) {
        let before = self.fields.len();
        self.add_copy(other, place);
        self.ruled.extend(self.fields.get(before).map(|added| added.name));
    }

    /// Replaces all values of `name` by one, in the place of the first; appends when there was none.
    ///
    /// Other spellings of the name go, too: `X_User` and `X.User` are `X-User` to a backend that maps marks alike (CGI, WSGI, PHP),
    /// and whoever sets a field means to be the one who says it.
    pub fn set(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let name = name.as_ref();
        if !self.has_alike(name) {
            // As it is most often, and all that is left to do.
            let before = self.fields.len();
            self.add(name, value);
            self.ruled.extend(self.fields.get(before).map(|added| added.name));
            return;
        }
        if !is_name(name) {
            return;
        }
        let arena = &self.arena;
        let first = self.fields.iter().position(|f| f.name.of(arena).eq_ignore_ascii_case(name));
        let mut index = 0;
        self.fields.retain(|f| {
            let keep = first == Some(index) || !is_spelled_alike(f.name.of(arena), name);
            index += 1;
            keep
        });
        let kept = self.fields.iter().position(|f| f.name.of(&self.arena).eq_ignore_ascii_case(name));
        let ruled = match kept {
            None => {
                self.add(name, value);
                self.fields.last().map(|added| added.name)
            }
            Some(at) => {
                let value = self.store_value(value.as_ref());
                self.fields[at].value = value;
                self.fields[at].noted.line = false;
                Some(self.fields[at].name)
            }
        };
        self.ruled.extend(ruled);
    }

    /// As [`set`](Headers::set), to a field that was made ready before.
    pub fn set_ready(&mut self, ready: &Ready) {
        if self.has_alike(ready.name()) {
            return self.set(ready.name(), ready.value());
        }
        self.add_own_ready(ready);
    }

    /// As [`add`](Headers::add), of a field that is ours and not the sender's: it is [`own`](Headers::own), as one that was set is.
    pub fn add_own(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let before = self.fields.len();
        self.add(name, value);
        self.ruled.extend(self.fields.get(before).map(|added| added.name));
    }

    /// As [`add_own`](Headers::add_own), of a field that was made ready before.
    pub fn add_own_ready(&mut self, ready: &Ready) {
        self.add_ready(ready);
        self.ruled.extend(self.fields.last().map(|added| added.name));
    }

    /// As [`add_own`](Headers::add_own), of a name and a value that are in the program, and of a name that is none of the known ones.
    pub fn add_own_text(&mut self, name: &'static str, value: &'static str) {
        self.add_known_clean(Known::Other, name, value.as_bytes());
        self.ruled.extend(self.fields.last().map(|added| added.name));
    }

    /// The fields that were set, or added as [`own`](Headers::add_own), since the message was read: those its sender did not write.
    pub fn own(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.iter_with_own().filter(|(_, _, own)| *own).map(|(name, value, _)| (name, value))
    }

    /// All fields, and whether each is [`own`](Headers::own).
    pub fn iter_with_own(&self) -> impl Iterator<Item = (&[u8], &[u8], bool)> {
        self.fields.iter().map(|f| (f.name.of(&self.arena), f.value.of(&self.arena), self.ruled.contains(&f.name)))
    }

    /// [`set`](Headers::set)s every field of `prepared`, which was made ready once for many messages and has each name once. Where there is
    /// nothing yet, that is a copy.
    pub fn set_all(&mut self, prepared: &Headers) {
        if self.fields.is_empty() && self.ruled.is_empty() {
            return self.copy_from(prepared);
        }
        prepared.iter().for_each(|(name, value, _)| self.set(name, value));
    }

    /// Removes every field called `name`, in any of the spellings that [`set`](Headers::set) replaces; says whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        // Mostly there is none, which is found out without moving the others.
        let removed = self.has_alike(name.as_bytes());
        if removed {
            let arena = &self.arena;
            self.fields.retain(|f| !is_spelled_alike(f.name.of(arena), name.as_bytes()));
        }
        if !self.is_ruled(name.as_bytes()) {
            let name = self.store(name.as_bytes());
            self.ruled.push(name);
        }
        removed
    }

    /// Whether a field of this name, in any spelling, was set or removed since the message was read: what its sender says of it
    /// elsewhere, in trailers, does not count.
    pub fn is_ruled(&self, name: &[u8]) -> bool {
        let may_be = |ruled: &&Span| ruled.len as usize == name.len();
        self.ruled.iter().filter(may_be).any(|ruled| is_spelled_alike(ruled.of(&self.arena), name))
    }

    /// Whether there is a field of this name, in any spelling.
    pub fn has_alike(&self, name: &[u8]) -> bool {
        let may_be = |f: &&Field| f.name.len as usize == name.len();
        self.fields.iter().filter(may_be).any(|f| is_spelled_alike(f.name.of(&self.arena), name))
    }

    /// Keeps the fields whose names `keep` accepts.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8]) -> bool) {
        let arena = &self.arena;
        self.fields.retain(|f| keep(f.name.of(arena)));
    }

    /// As [`retain`](Headers::retain); `keep` is told as well whether the field is [`own`](Headers::own).
    pub fn retain_with_own(&mut self, mut keep: impl FnMut(&[u8], bool) -> bool) {
        let (arena, ruled) = (&self.arena, &self.ruled);
        self.fields.retain(|f| keep(f.name.of(arena), ruled.contains(&f.name)));
    }

    /// Removes every field recognised as `known`.
    pub fn remove_known(&mut self, known: Known) {
        self.fields.retain(|f| f.known != known);
    }

    fn find(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|f| self.is_named(f, name))
    }

    fn is_named(&self, field: &Field, name: &str) -> bool {
        // Lengths tell most names apart, without a look at the arena.
        field.name.len as usize == name.len() && is_one_name(field.name.of(&self.arena), name.as_bytes())
    }

    fn store(&mut self, bytes: &[u8]) -> Span {
        let start = self.arena.len() as u32;
        self.arena.extend_from_slice(bytes);
        Span { start, len: bytes.len() as u32 }
    }

    fn store_value(&mut self, value: &[u8]) -> Span {
        let span = self.store(value);
        let mut from = span.start as usize;
        while let Some(at) = bytes::find_control(&self.arena, from) {
            self.arena[at] = b' ';
            from = at + 1;
        }
        span
    }

    /// Notes a field of the head being parsed, by its places in the text that [`adopt`](Headers::adopt) will copy.
    #[inline(always)]
    pub(crate) fn note(&mut self, name: usize, name_len: usize, value: usize, value_len: usize, noted: Noted) {
        let span = |start: usize, len: usize| Span { start: start as u32, len: len as u32 };
        let (name, value) = (span(name, name_len), span(value, value_len));
        self.fields.push(Field { name, value, known: Known::Other, noted });
    }

    /// Recognises the fields noted in `text`, and shows those that are acted on, in order, until one is refused.
    #[inline(always)]
    pub(crate) fn recognise<E>(
        &mut self,
        text: &[u8],
        mut look: impl FnMut(Known, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for field in self.fields.iter_mut().filter(|f| f.noted.known) {
            field.known = Known::of(field.name.of(text));
            if field.known.is_acted_on() {
                look(field.known, field.value.of(text))?;
            }
        }
        Ok(())
    }

    /// Copies the text that the noted fields lie in.
    #[inline]
    pub(crate) fn adopt(&mut self, text: &[u8]) {
        debug_assert!(self.arena.is_empty());
        self.arena.extend_from_slice(text);
    }

    /// Removes the fields that `Connection` lists (RFC 9110 section 7.6.1), but for those that are guarded.
    pub(crate) fn remove_listed(&mut self) {
        let arena = &self.arena;
        let connection: Vec<Span> =
            self.fields.iter().filter(|f| f.known == Known::Connection).map(|f| f.value).collect();
        let listed = |name: &[u8]| {
            let mut tokens = connection.iter().flat_map(|v| v.of(arena).split(|&b| b == b','));
            tokens.any(|token| bytes::trim(token).eq_ignore_ascii_case(name))
        };
        self.fields.retain(|f| f.known.is_guarded() || !listed(f.name.of(arena)));
    }

    /// Removes what speaks of this hop only. What `Connection` listed beside that was struck out when the head was read.
    pub(crate) fn remove_hop_by_hop(&mut self, but: Option<Known>) {
        self.fields.retain(|f| !f.known.is_hop_by_hop() || Some(f.known) == but);
    }

    /// Appends the lines of all fields that `keep` accepts. Lines that lie side by side in the arena are copied in one go.
    #[inline]
    pub(crate) fn write(&self, out: &mut Vec<u8>, mut keep: impl FnMut(Known, &[u8]) -> bool) {
        let (mut start, mut end) = (0, 0);
        for field in &self.fields {
            if !keep(field.known, field.name.of(&self.arena)) {
                continue;
            }
            if field.noted.line && field.name.start == end {
                end = field.line_end();
                continue;
            }
            out.extend_from_slice(&self.arena[start as usize..end as usize]);
            (start, end) = (0, 0);
            if field.noted.line {
                (start, end) = (field.name.start, field.line_end());
            } else {
                push_line(out, field.name.of(&self.arena), field.value.of(&self.arena));
            }
        }
        out.extend_from_slice(&self.arena[start as usize..end as usize]);
    }
}

fn push_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lossy = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        f.debug_map().entries(self.iter().map(|(n, v, _)| (lossy(n), lossy(v)))).finish()
    }
}

/// Whether `name` is a token (RFC 9110 section 5.6.2), the only thing a field name may be.
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&b| bytes::is_token_byte(b))
}

/// A byte of a name as the least careful reader sees it: in lower case, and every mark a dash.
pub(crate) fn dashed(b: u8) -> u8 {
    DASHED[usize::from(b)]
}

/// A look-up for each byte: filters that set and remove fields compare names by the dozen.
static DASHED: [u8; 256] = {
    let mut table = [b'-'; 256];
    let mut b = 0;
    while b < 128 {
        if (b as u8).is_ascii_alphanumeric() {
            table[b] = (b as u8).to_ascii_lowercase();
        }
        b += 1;
    }
    table
};

/// Whether two names are one to a reader that takes all marks alike.
pub fn is_spelled_alike(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(&a, &b)| dashed(a) == dashed(b))
}

/// Whether two names are one, in any case. Mostly they are written the same, which is a comparison of blocks, and the other one goes byte
/// by byte.
#[inline]
fn is_one_name(a: &[u8], b: &[u8]) -> bool {
    a == b || a.eq_ignore_ascii_case(b)
}

/// Whether `value` may stand in a field: no control bytes but tab (RFC 9110 section 5.5).
pub fn is_value(value: &[u8]) -> bool {
    bytes::find_control(value, 0).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_replaces_all_values_in_the_first_place() {
        let mut h = Headers::new();
        h.add("A", "1");
        h.add("b", "2");
        h.add("a", "3");
        h.set("a", "4");
        let all: Vec<_> = h.iter().map(|(n, v, _)| (n.to_vec(), v.to_vec())).collect();
        assert_eq!(all, [(b"A".to_vec(), b"4".to_vec()), (b"b".to_vec(), b"2".to_vec())]);
        assert!(h.remove("B"));
        assert!(!h.remove("B"));
        assert_eq!(h.len(), 1);
    }

    fn lines(headers: &Headers) -> String {
        let mut out = Vec::new();
        headers.write(&mut out, |_, _| true);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_written_in_order_whatever_happened_to_them() {
        let mut h = Headers::new();
        for (name, value) in [("A", "1"), ("B", "2"), ("C", "3"), ("D", "4")] {
            h.add(name, value);
        }
        assert_eq!(lines(&h), "A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n");
        h.set("b", "longer");
        h.remove("C");
        h.add("E", "");
        assert_eq!(lines(&h), "A: 1\r\nB: longer\r\nD: 4\r\nE: \r\n");
        let mut out = Vec::new();
        h.write(&mut out, |_, name| name != b"D");
        assert_eq!(out, b"A: 1\r\nB: longer\r\nE: \r\n");
        h.clear();
        assert_eq!(lines(&h), "");
    }

    #[test]
    fn a_value_cannot_break_the_message_open() {
        let mut h = Headers::new();
        h.add("A", "1\r\nEvil: 2\0");
        h.add("Bad Name", "x");
        h.add("", "x");
        h.set("a", "3\nEvil: 4");
        h.set("Colon:", "x");
        assert_eq!(lines(&h), "A: 3 Evil: 4\r\n");
    }

    #[test]
    fn who_sets_a_field_takes_its_other_spellings_away() {
        let mut h = Headers::new();
        for (name, value) in
            [("X_User-ID", "1"), ("X-Other", "2"), ("x.user_id", "3"), ("X-User-Id", "4"), ("X-UserId", "5")]
        {
            h.add(name, value);
        }
        h.set("X-User-Id", "real");
        assert_eq!(lines(&h), "X-Other: 2\r\nX-User-Id: real\r\nX-UserId: 5\r\n");
        h.set("X_USER_ID", "again");
        assert_eq!(lines(&h), "X-Other: 2\r\nX-UserId: 5\r\nX_USER_ID: again\r\n");
        h.set("Not A Name", "x");
        assert!(h.remove("x-user-id"));
        assert_eq!(lines(&h), "X-Other: 2\r\nX-UserId: 5\r\n");
    }

    #[test]
    fn what_was_set_or_removed_is_ruled() {
        let mut h = Headers::new();
        h.add("X-Kept", "1");
        h.add("X-Set", "1");
        h.set("X-Set", "2");
        h.set("X-New", "2");
        assert!(!h.remove("X-Gone") && !h.remove("x_gone"));
        for (name, ruled) in [("x_set", true), ("X-NEW", true), ("X.Gone", true), ("X-Kept", false), ("X-Ne", false)] {
            assert_eq!(h.is_ruled(name.as_bytes()), ruled, "{name}");
        }
        assert!(h.has_alike(b"x_kept") && !h.has_alike(b"X-Gone"));
        assert_eq!(lines(&h), "X-Kept: 1\r\nX-Set: 2\r\nX-New: 2\r\n");
        h.clear();
        assert!(!h.is_ruled(b"X-Set"));
    }

    #[test]
    fn what_was_set_or_added_as_ours_is_own() {
        let mut h = Headers::new();
        h.add("Vary", "Accept");
        h.add_own("Vary", "Origin");
        h.add("X-Set", "1");
        h.set("X-Set", "2");
        h.add_own("not a name", "1");
        let own = |h: &Headers| h.own().map(|(name, value)| (name.to_vec(), value.to_vec())).collect::<Vec<_>>();
        let wanted = [(b"Vary".to_vec(), b"Origin".to_vec()), (b"X-Set".to_vec(), b"2".to_vec())];
        assert_eq!(own(&h), wanted);
        assert_eq!(own(&h.clone()), wanted);
        h.retain_with_own(|name, own| own && name == b"Vary");
        assert_eq!(lines(&h), "Vary: Origin\r\n");
    }

    #[test]
    fn what_is_prepared_is_set_as_if_one_by_one() {
        let mut prepared = Headers::new();
        prepared.set("X-One", "1");
        prepared.set("Content-Type", "text/plain");
        let fields = |h: &Headers| {
            let known = h.known(Known::ContentType).map(<[u8]>::to_vec);
            (lines(h), known, h.is_ruled(b"x_one"), h.is_ruled(b"Content-Type"), h.is_ruled(b"X-Gone"))
        };
        for before in [&[][..], &["x_one"][..], &["X-One", "Other", "content-type"][..]] {
            for removed in [&[][..], &["X-Gone"][..]] {
                let mut h = Headers::new();
                before.iter().for_each(|name| h.add(name, "before"));
                removed.iter().for_each(|name| assert!(!h.remove(name)));
                let mut singly = h.clone();
                h.set_all(&prepared);
                singly.set("X-One", "1");
                singly.set("Content-Type", "text/plain");
                assert_eq!(fields(&h), fields(&singly), "{before:?} {removed:?}");
            }
        }
    }

    #[test]
    fn what_was_made_ready_is_added_as_any_field() {
        let ready = Ready::new("CDN-Loop", "weir\r\nEvil: 1").unwrap();
        assert_eq!(ready.value(), b"weir  Evil: 1");
        assert!(Ready::new("Not A Name", "x").is_none());
        let (mut added, mut singly) = (Headers::new(), Headers::new());
        for h in [&mut added, &mut singly] {
            h.add("Accept", "*/*");
        }
        added.add_ready(&ready);
        added.add_ready(&ready);
        (0..2).for_each(|_| singly.add("CDN-Loop", ready.value()));
        assert_eq!(lines(&added), lines(&singly));
        assert_eq!(added.known_all(Known::CdnLoop).collect::<Vec<_>>(), [ready.value(), ready.value()]);
        assert!(added.has_known(Known::CdnLoop) && !added.has_known(Known::Host));
        assert!(!added.is_ruled(b"CDN-Loop") && added.remove("cdn-loop") && added.len() == 1);
    }

    /// A field that was made ready is set, or added as ours, as one that is given by name and value, whatever is there before.
    #[test]
    fn what_was_made_ready_is_set_and_ours_as_any_field() {
        let ready = Ready::new("X-User-Id", "weir\r\nEvil: 1").unwrap();
        assert_eq!(ready.name(), b"X-User-Id");
        let told = |h: &Headers| {
            let own: Vec<_> = h.own().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            (lines(h), own, h.is_ruled(b"x_user_id"), h.is_ruled(b"Other"), h.is_ruled(b"Vary"))
        };
        for before in [&[][..], &["X_User-ID", "Other"][..], &["x-user-id", "Other", "X-User-Id"][..]] {
            let mut with = Headers::new();
            before.iter().for_each(|name| with.add(name, "before"));
            let mut singly = with.clone();
            with.set_ready(&ready);
            singly.set("X-User-Id", ready.value());
            assert_eq!(told(&with), told(&singly), "{before:?}");
            with.add_own_ready(&ready);
            with.add_own_text("Vary", "Origin");
            singly.add_own("X-User-Id", ready.value());
            singly.add_own("Vary", "Origin");
            assert_eq!(told(&with), told(&singly), "{before:?}");
            assert!(with.remove("x.user.id") && !with.remove("x.user.id") && !with.contains("X-User-Id"));
        }
    }

    #[test]
    fn what_is_copied_is_added_as_any_field() {
        let mut other = Headers::new();
        for (name, value) in [("Vary", "Accept"), ("X-Set", "1"), ("Content-Type", "text/plain")] {
            other.add(name, value);
        }
        // Its value lies elsewhere than its name.
        other.set("X-Set", "2");
        let (mut copied, mut singly) = (Headers::new(), Headers::new());
        for h in [&mut copied, &mut singly] {
            h.add("First", "1");
        }
        (0..4).for_each(|place| copied.add_copy(&other, place));
        other.iter().for_each(|(name, value, _)| singly.add(name, value));
        assert_eq!(lines(&copied), lines(&singly));
        assert_eq!(lines(&copied), "First: 1\r\nVary: Accept\r\nX-Set: 2\r\nContent-Type: text/plain\r\n");
        assert_eq!(copied.known(Known::ContentType), Some(&b"text/plain"[..]));
        assert_eq!((copied.own().count(), copied.is_ruled(b"X-Set")), (0, false));
        copied.add_own_copy(&other, 0);
        copied.add_own_copy(&other, 9);
        assert_eq!(copied.own().collect::<Vec<_>>(), [(&b"Vary"[..], &b"Accept"[..])]);
    }

    /// Fields that are only found faster than others are to clients what any field is: nothing is refused because of their names.
    #[test]
    fn names_that_are_only_found_faster_are_not_guarded() {
        for name in ["CDN-Loop", "Grpc-Timeout", "X-Request-Deadline", "X-Retry-Attempt", "X-Other"] {
            assert!(!Known::of(name.as_bytes()).is_guarded(), "{name}");
            assert_eq!(
                Known::of(name.to_ascii_uppercase().as_bytes()),
                Known::of(name.to_ascii_lowercase().as_bytes())
            );
        }
        assert_eq!(Known::of(b"x-retry-attempt"), Known::XRetryAttempt);
        assert_eq!(Known::of(b"x-request-deadline"), Known::XRequestDeadline);
        assert_eq!(Known::of(b"grpc-timeout"), Known::GrpcTimeout);
        for name in ["X-Forwarded-For", "X-Request-Id", "Connection", "Host"] {
            assert!(Known::of(name.as_bytes()).is_guarded(), "{name}");
        }
    }

    #[test]
    fn known_names_are_recognised_in_any_case() {
        let mut h = Headers::new();
        h.add("CONTENT-length", "5");
        assert_eq!(h.known(Known::ContentLength), Some(&b"5"[..]));
        assert!(Known::of(b"Keep-Alive").is_hop_by_hop());
        assert_eq!(Known::of(b"x"), Known::Other);
    }
}
