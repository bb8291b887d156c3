//! Header fields of one message: bytes in one arena, fields as spans into it.
//!
//! A parsed head is copied into the arena once (a few hundred bytes) so that the receive buffer is free to carry the body.
//! Changes append to the arena and rewrite spans; nothing is allocated per field, and a `Headers` that is
//! [`clear`](Headers::clear)ed keeps its memory for the next message.

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
}

impl Known {
    /// Recognises a name regardless of case.
    pub fn of(name: &[u8]) -> Known {
        let candidates: &[(&str, Known)] = match name.len() {
            2 => &[("te", Known::Te)],
            4 => &[("host", Known::Host), ("date", Known::Date)],
            6 => &[("expect", Known::Expect), ("server", Known::Server), ("cookie", Known::Cookie)],
            7 => &[("upgrade", Known::Upgrade), ("trailer", Known::Trailer)],
            10 => &[("connection", Known::Connection), ("keep-alive", Known::KeepAlive), ("set-cookie", Known::SetCookie)],
            12 => &[("content-type", Known::ContentType)],
            14 => &[("content-length", Known::ContentLength)],
            15 => &[("accept-encoding", Known::AcceptEncoding), ("x-forwarded-for", Known::XForwardedFor)],
            16 => &[("content-encoding", Known::ContentEncoding), ("proxy-connection", Known::ProxyConnection)],
            17 => &[("transfer-encoding", Known::TransferEncoding)],
            18 => &[("proxy-authenticate", Known::ProxyAuthenticate)],
            19 => &[("proxy-authorization", Known::ProxyAuthorization)],
            _ => &[],
        };
        candidates.iter().find(|(text, _)| name.eq_ignore_ascii_case(text.as_bytes())).map_or(Known::Other, |c| c.1)
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

/// The header fields of a message, in order, names in the case they came in.
#[derive(Clone, Default)]
pub struct Headers {
    arena: Vec<u8>,
    fields: Vec<Field>,
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
        self.arena.capacity() + self.fields.capacity() * size_of::<Field>()
    }

    /// Forgets all fields and keeps the memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.fields.clear();
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

    /// Appends a field. Both parts must have been checked (see [`is_name`], [`is_value`]) when they come from outside.
    pub fn add(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let (name, value) = (name.as_ref(), value.as_ref());
        let known = Known::of(name);
        let name = self.store(name);
        let value = self.store(value);
        self.fields.push(Field { name, value, known });
    }

    /// Replaces all values of `name` by one, in the place of the first; appends when there was none.
    pub fn set(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let name = name.as_ref();
        let first = self.fields.iter().position(|f| f.name.of(&self.arena).eq_ignore_ascii_case(name));
        match first {
            None => self.add(name, value),
            Some(at) => {
                let value = self.store(value.as_ref());
                self.fields[at].value = value;
                let arena = &self.arena;
                let mut index = 0;
                self.fields.retain(|f| {
                    let keep = index <= at || !f.name.of(arena).eq_ignore_ascii_case(name);
                    index += 1;
                    keep
                });
            }
        }
    }

    /// Removes every field called `name`; says whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let arena = &self.arena;
        let before = self.fields.len();
        self.fields.retain(|f| !f.name.of(arena).eq_ignore_ascii_case(name.as_bytes()));
        self.fields.len() != before
    }

    /// Removes every field recognised as `known`.
    pub fn remove_known(&mut self, known: Known) {
        self.fields.retain(|f| f.known != known);
    }

    fn find(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|f| self.is_named(f, name))
    }

    fn is_named(&self, field: &Field, name: &str) -> bool {
        field.name.of(&self.arena).eq_ignore_ascii_case(name.as_bytes())
    }

    fn store(&mut self, bytes: &[u8]) -> Span {
        let start = self.arena.len() as u32;
        self.arena.extend_from_slice(bytes);
        Span { start, len: bytes.len() as u32 }
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lossy = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        f.debug_map().entries(self.iter().map(|(n, v, _)| (lossy(n), lossy(v)))).finish()
    }
}

/// Whether `name` is a token (RFC 9110 section 5.6.2), the only thing a field name may be.
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether `value` may stand in a field: no control bytes but tab (RFC 9110 section 5.5).
pub fn is_value(value: &[u8]) -> bool {
    value.iter().all(|&b| b == b'\t' || (b >= 0x20 && b != 0x7f))
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

    #[test]
    fn known_names_are_recognised_in_any_case() {
        let mut h = Headers::new();
        h.add("CONTENT-length", "5");
        assert_eq!(h.known(Known::ContentLength), Some(&b"5"[..]));
        assert!(Known::of(b"Keep-Alive").is_hop_by_hop());
        assert_eq!(Known::of(b"x"), Known::Other);
    }
}
