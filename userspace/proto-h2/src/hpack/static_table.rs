//! The static table (RFC 7541 Appendix A).

/// What the table knows of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Name and value, by their number.
    Whole(u8),
    /// The name; the number of the first field that has it.
    Name(u8),
}

/// Looks a field up, whose name is in lower case.
#[inline]
pub fn find(name: &[u8], value: &[u8]) -> Option<Found> {
    let &first = name.first()?;
    let (start, end) = *BY_LENGTH.get(name.len())?;
    for &(letter, number) in &ORDER[usize::from(start)..usize::from(end)] {
        let (known, said) = FIELDS[usize::from(number) - 1];
        if letter == first && known.as_bytes() == name {
            // Names without a value stand there once.
            return Some(if said.is_empty() { Found::Name(number) } else { find_value(number, known, value) });
        }
    }
    None
}

fn find_value(number: u8, name: &str, value: &[u8]) -> Found {
    let mut same = (number..).zip(&FIELDS[usize::from(number) - 1..]).take_while(|(_, (other, _))| *other == name);
    let whole = same.find(|(_, (_, said))| said.as_bytes() == value);
    whole.map_or(Found::Name(number), |(number, _)| Found::Whole(number))
}

/// No name of the table is longer.
const LONGEST: usize = 27;

/// Where the names of each length stand in [`ORDER`].
const BY_LENGTH: [(u8, u8); LONGEST + 1] = {
    let mut ranges = [(0, 0); LONGEST + 1];
    let mut length = 0;
    let mut at = 0;
    while length <= LONGEST {
        ranges[length].0 = at;
        at += names_of(length);
        ranges[length].1 = at;
        length += 1;
    }
    ranges
};

/// The first letter of each name and the first number it has, the shortest names first.
const ORDER: [(u8, u8); NAMES] = {
    let mut order = [(0, 0); NAMES];
    let (mut length, mut to) = (0, 0);
    while length <= LONGEST {
        let mut at = 0;
        while at < FIELDS.len() {
            if FIELDS[at].0.len() == length && is_first(at) {
                order[to] = (FIELDS[at].0.as_bytes()[0], at as u8 + 1);
                to += 1;
            }
            at += 1;
        }
        length += 1;
    }
    order
};

/// Different names.
const NAMES: usize = {
    let (mut length, mut names) = (0, 0);
    while length <= LONGEST {
        names += names_of(length) as usize;
        length += 1;
    }
    names
};

const fn names_of(length: usize) -> u8 {
    let (mut at, mut names) = (0, 0);
    while at < FIELDS.len() {
        if FIELDS[at].0.len() == length && is_first(at) {
            names += 1;
        }
        at += 1;
    }
    names
}

/// The field before it has another name. Those with one name stand together.
const fn is_first(at: usize) -> bool {
    if at == 0 {
        return true;
    }
    let (a, b) = (FIELDS[at].0.as_bytes(), FIELDS[at - 1].0.as_bytes());
    if a.len() != b.len() {
        return true;
    }
    let mut byte = 0;
    while byte < a.len() {
        if a[byte] != b[byte] {
            return true;
        }
        byte += 1;
    }
    false
}

/// Names with their values; the first has the number 1.
pub const FIELDS: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_found_under_its_number() {
        for (number, (name, value)) in (1..).zip(FIELDS) {
            let found = if value.is_empty() { Found::Name(number) } else { Found::Whole(number) };
            assert_eq!(find(name.as_bytes(), value.as_bytes()), Some(found));
        }
        assert_eq!(find(b":status", b"299"), Some(Found::Name(8)));
        assert_eq!(find(b"content-type", b"x/y"), Some(Found::Name(31)));
        assert_eq!([find(b"x-none", b""), find(b"", b""), find(b"Date", b""), find(&[b'a'; 40], b"")], [None; 4]);
        assert_eq!(NAMES, 52);
    }
}
