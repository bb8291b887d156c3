//! A reader of HTTP/1.1 that is as simple and as strict as RFC 9112 lets it be, and shares nothing with the one it judges.

/// What bytes begin with.
#[derive(Debug, Clone)]
pub enum Reading<T> {
    /// Nothing wrong so far, and more is needed.
    Partial,
    /// No message that everybody reads alike, and why.
    Bad(&'static str),
    /// A whole message and how many bytes it took.
    Whole(T, usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    /// Its body lasted until the connection closed.
    pub until_close: bool,
}

/// Who wrote the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Somebody who may use all that RFC 9112 allows.
    Anybody,
    /// A gateway, which must not pass on chunk extensions, empty lines before a request, or minor versions it does not know.
    Gateway,
    /// A backend: what cannot be misread in its answers is mended (blanks before a colon and after a chunk size; a length of 0 in an
    /// interim answer).
    Backend,
}

/// A value of a field, the first of its name.
pub fn field<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a [u8]> {
    fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_slice())
}

/// The request that `bytes` begin with.
pub fn read_request(bytes: &[u8], from: From) -> Reading<Request> {
    let blank = if from == From::Anybody && bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let (line, at) = match read_line(bytes, blank) {
        Reading::Whole(line, at) => (line, at),
        Reading::Partial => return Reading::Partial,
        Reading::Bad(why) => return Reading::Bad(why),
    };
    let mut words = line.split(|&b| b == b' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Reading::Bad("not three words with single spaces");
    };
    if !is_token(method) {
        return Reading::Bad("method");
    }
    let old = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] if from == From::Anybody => false,
        _ => return Reading::Bad("version"),
    };
    // A gateway escapes what is not ASCII.
    let may_be = |b: &u8| b.is_ascii_graphic() || from == From::Anybody && *b >= 0x80;
    if target.is_empty() || !target.iter().all(may_be) {
        return Reading::Bad("target");
    }
    let (fields, at) = match read_fields(bytes, at, from) {
        Reading::Whole(fields, at) => (fields, at),
        Reading::Partial => return Reading::Partial,
        Reading::Bad(why) => return Reading::Bad(why),
    };
    match values(&fields, "host")[..] {
        [host] if is_authority(host) => {}
        [] if old => {}
        _ => return Reading::Bad("not one Host"),
    }
    let framed = match framing(&fields, old) {
        Err(why) => return Reading::Bad(why),
        Ok(framed) => framed,
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let whole = |body, at| Reading::Whole(Request { method: text(method), target: text(target), fields, body }, at);
    match framed {
        None => whole(Vec::new(), at),
        Some(Some(length)) if bytes.len() - at < length => Reading::Partial,
        Some(Some(length)) => whole(bytes[at..at + length].to_vec(), at + length),
        Some(None) => match read_chunks(bytes, at, from) {
            Reading::Whole(body, at) => whole(body, at),
            Reading::Partial => Reading::Partial,
            Reading::Bad(why) => Reading::Bad(why),
        },
    }
}

/// The final response that `bytes` begin with, interim ones before it skipped. `ended`: no more bytes will come.
pub fn read_response(bytes: &[u8], to: &str, ended: bool, from: From) -> Reading<Response> {
    let mut at = 0;
    loop {
        let (line, after) = match read_line(bytes, at) {
            Reading::Whole(line, after) => (line, after),
            Reading::Partial => return Reading::Partial,
            Reading::Bad(why) => return Reading::Bad(why),
        };
        let (old, digits) = match line {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'9', b' ', digits @ ..] => {
                (*minor == b'0', digits)
            }
            _ => return Reading::Bad("status line"),
        };
        let (digits, phrase) = digits.split_at(digits.len().min(3));
        let good = digits.len() == 3 && digits.iter().all(u8::is_ascii_digit) && matches!(digits[0], b'1'..=b'5');
        if !good || !(phrase.is_empty() || phrase[0] == b' ' && is_value(phrase)) {
            return Reading::Bad("status line");
        }
        let status = digits.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
        let (fields, after) = match read_fields(bytes, after, from) {
            Reading::Whole(found, after) => (found, after),
            Reading::Partial => return Reading::Partial,
            Reading::Bad(why) => return Reading::Bad(why),
        };
        let framed = match framing(&fields, old) {
            Err(why) => return Reading::Bad(why),
            Ok(framed) => framed,
        };
        if status < 200 && status != 101 {
            if framed.is_some() && !(from == From::Backend && framed == Some(Some(0))) {
                return Reading::Bad("an interim response with a body");
            }
            at = after;
            continue;
        }
        if status == 101 {
            return Reading::Bad("101 unasked");
        }
        let whole = |body, at, until_close| Reading::Whole(Response { status, fields, body, until_close }, at);
        return match framed {
            _ if to == "HEAD" || matches!(status, 204 | 304) => whole(Vec::new(), after, false),
            None if ended => whole(bytes[after..].to_vec(), bytes.len(), true),
            None => Reading::Partial,
            Some(Some(length)) if bytes.len() - after < length => Reading::Partial,
            Some(Some(length)) => whole(bytes[after..after + length].to_vec(), after + length, false),
            Some(None) => match read_chunks(bytes, after, from) {
                Reading::Whole(body, at) => whole(body, at, false),
                Reading::Partial => Reading::Partial,
                Reading::Bad(why) => Reading::Bad(why),
            },
        };
    }
}

/// A line without its CRLF, and where the next begins.
fn read_line(bytes: &[u8], at: usize) -> Reading<&[u8]> {
    for (place, &b) in bytes.iter().enumerate().skip(at) {
        match b {
            b'\n' => return Reading::Bad("LF without CR"),
            b'\r' => {
                return match bytes.get(place + 1) {
                    None => Reading::Partial,
                    Some(b'\n') => Reading::Whole(&bytes[at..place], place + 2),
                    Some(_) => Reading::Bad("CR without LF"),
                };
            }
            0 => return Reading::Bad("NUL"),
            _ => {}
        }
    }
    Reading::Partial
}

type Fields = Vec<(String, Vec<u8>)>;

fn read_fields(bytes: &[u8], mut at: usize, from: From) -> Reading<Fields> {
    let mut fields = Fields::new();
    loop {
        let (line, next) = match read_line(bytes, at) {
            Reading::Whole(line, next) => (line, next),
            Reading::Partial => return Reading::Partial,
            Reading::Bad(why) => return Reading::Bad(why),
        };
        at = next;
        if line.is_empty() {
            return Reading::Whole(fields, at);
        }
        let Some(colon) = line.iter().position(|&b| b == b':') else { return Reading::Bad("a field without colon") };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let blanks = name.iter().rev().take_while(|b| from == From::Backend && is_blank(b)).count();
        let name = &name[..name.len() - blanks];
        if !is_token(name) {
            return Reading::Bad("a field name that is no token");
        }
        if !is_value(value) {
            return Reading::Bad("a control byte in a value");
        }
        fields.push((String::from_utf8_lossy(name).into_owned(), value.trim_ascii().to_vec()));
    }
}

/// No body, or its length, or chunks.
fn framing(fields: &Fields, old: bool) -> Result<Option<Option<usize>>, &'static str> {
    match (&values(fields, "content-length")[..], &values(fields, "transfer-encoding")[..]) {
        ([], []) => Ok(None),
        ([digits], []) if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            let length = std::str::from_utf8(digits).ok().and_then(|d| d.parse::<i64>().ok());
            length.map(|n| Some(Some(n as usize))).ok_or("a length beyond 2^63")
        }
        ([_], []) => Err("Content-Length is no number"),
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") && !old => Ok(Some(None)),
        ([], _) => Err("Transfer-Encoding other than chunked, or in HTTP/1.0"),
        ([_, _, ..], []) => Err("several lengths"),
        _ => Err("Content-Length and Transfer-Encoding"),
    }
}

fn read_chunks(bytes: &[u8], mut at: usize, from: From) -> Reading<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let (line, next) = match read_line(bytes, at) {
            Reading::Whole(line, next) => (line, next),
            Reading::Partial => return Reading::Partial,
            Reading::Bad(why) => return Reading::Bad(why),
        };
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (digits, extension) = line.split_at(digits);
        let size = std::str::from_utf8(digits).ok().and_then(|d| i64::from_str_radix(d, 16).ok());
        let Some(size) = size.filter(|_| digits.len() <= 16) else {
            return Reading::Bad("a chunk size that is no number");
        };
        let blanks = extension.iter().take_while(|b| is_blank(b)).count();
        match &extension[blanks..] {
            [] if blanks == 0 || from == From::Backend => {}
            [b';', rest @ ..] if from != From::Gateway && !rest.is_empty() && is_value(rest) => {}
            _ => return Reading::Bad("a chunk extension"),
        }
        at = next;
        if size == 0 {
            return match read_fields(bytes, at, from) {
                Reading::Whole(_, at) => Reading::Whole(body, at),
                Reading::Partial => Reading::Partial,
                Reading::Bad(why) => Reading::Bad(why),
            };
        }
        let Some(end) = at.checked_add(size as usize).filter(|end| *end <= bytes.len()) else {
            return Reading::Partial;
        };
        body.extend_from_slice(&bytes[at..end]);
        match &bytes[end..] {
            [b'\r', b'\n', ..] => at = end + 2,
            [] | [b'\r'] => return Reading::Partial,
            _ => return Reading::Bad("chunk data longer than its size"),
        }
    }
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn values<'a>(fields: &'a Fields, name: &str) -> Vec<&'a [u8]> {
    fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_slice()).collect()
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

fn is_value(text: &[u8]) -> bool {
    text.iter().all(|&b| b == b'\t' || b >= 0x20 && b != 0x7f)
}

/// `host` or `host:port` without anything that two readers could split in two ways.
pub fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text.iter().rposition(|&b| b == b':') {
        Some(colon) if !text.ends_with(b"]") => (&text[..colon], Some(&text[colon + 1..])),
        _ => (text, None),
    };
    let name = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
    let host_is_good = match host {
        [b'[', address @ .., b']'] => {
            std::str::from_utf8(address).is_ok_and(|a| a.parse::<std::net::Ipv6Addr>().is_ok())
        }
        _ => !host.is_empty() && host.iter().all(name),
    };
    host_is_good && port.is_none_or(|p| !p.is_empty() && p.len() <= 5 && p.iter().all(u8::is_ascii_digit))
}

/// What is wrong with a target for a gateway that sends every resource under one name only.
pub fn fault_of_target(target: &str) -> Option<&'static str> {
    if target == "*" {
        return None;
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if !path.starts_with('/') {
        return Some("it does not begin with /");
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return Some("it has dot segments");
    }
    if path.bytes().any(|b| !b.is_ascii_alphanumeric() && !b"-._~!$&'()*+,;=:@/%".contains(&b)) {
        return Some("its path has a byte that must be escaped");
    }
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let Some(digits) = rest.get(at + 1..at + 3) else { return Some("half an escape") };
        let Ok(byte) = u8::from_str_radix(digits, 16) else { return Some("an escape that is none") };
        if digits != digits.to_uppercase() {
            return Some("an escape in lower case");
        }
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            return Some("an escape of what needs none");
        }
        if byte == 0 {
            return Some("an escaped NUL");
        }
        rest = &rest[at + 3..];
    }
    (!query.bytes().all(|b| b.is_ascii_graphic() && b != b'#')).then_some("its query has a byte that must be escaped")
}
