//! `weir demo-backend`: a backend that answers every request with what it received.
//!
//! It plays the backends of the quick start, of `cargo xtask demo` and of tests, so it is strict about HTTP/1.1 (whatever a
//! gateway garbles on the way is refused here, not repaired) and otherwise as plain as it can be: one thread per
//! connection, bodies read to their end before the answer, keep-alive and pipelining. The answer is the one that the
//! `mirror` example of Easegress gives, followed by the name of this backend when it has one:
//!
//! ```text
//! Your Request
//! ===============
//! Method: POST
//! URL   : /pipeline?page=2
//! Header: map[Accept:[*/*] Content-Type:[application/json] X-Adapt-Key:[goodplan]]
//! Body  : {"message": "hello"}
//! Name  : backend-1
//! ```

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// What to listen on and who to say we are.
pub struct Options {
    /// Addresses such as `127.0.0.1:9095` or `[::1]:9095`; each serves the same answers.
    pub listen: Vec<String>,
    /// Told in the last line of the body and in `X-Backend`. Absent: neither is sent.
    pub name: Option<String>,
}

/// Serves until the process ends; returns only when it cannot listen.
pub fn run(options: Options) -> Result<(), String> {
    if options.listen.is_empty() {
        return Err("demo-backend: nothing to listen on; give --listen ADDRESS:PORT at least once".into());
    }
    let mut listeners = Vec::new();
    for address in &options.listen {
        let listener = TcpListener::bind(address).map_err(|error| {
            format!("demo-backend: --listen {address}: {error}; choose an address and port that are free")
        })?;
        eprintln!("demo-backend {}: ready on {address}", options.name.as_deref().unwrap_or("(no name)"));
        listeners.push(listener);
    }
    let acceptors: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            let name = options.name.clone();
            thread::spawn(move || accept(&listener, name.as_deref()))
        })
        .collect();
    for acceptor in acceptors {
        acceptor.join().map_err(|_| "demo-backend: a listener died".to_string())?;
    }
    Ok(())
}

fn accept(listener: &TcpListener, name: Option<&str>) {
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // Out of descriptors or memory: the connections that end give them back.
            thread::sleep(std::time::Duration::from_millis(10));
            continue;
        };
        let name = name.map(str::to_string);
        // A thread that cannot be started drops the stream, and the client sees a closed connection.
        let _ = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || serve(stream, name.as_deref()));
    }
}

/// One connection: requests in order until either side wants to end it.
fn serve(mut stream: TcpStream, name: Option<&str>) {
    let _ = stream.set_nodelay(true);
    let mut input = Vec::with_capacity(4096);
    let mut output = Vec::with_capacity(4096);
    loop {
        output.clear();
        match receive(&mut stream, &mut input) {
            Ok(Some((request, body))) => {
                let last = request.closes();
                answer(&request, &body, name, last, &mut output);
                if stream.write_all(&output).is_err() || last {
                    return;
                }
            }
            Ok(None) | Err(Problem::Gone) => return,
            Err(Problem::Refused(status)) => {
                let reason = reason(status);
                let head = format!("HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(head.as_bytes());
                return;
            }
        }
    }
}

/// The next request with its body, or nothing when the client closed between two requests.
fn receive(stream: &mut (impl Read + Write), input: &mut Vec<u8>) -> Result<Option<(Request, Vec<u8>)>, Problem> {
    let end = loop {
        // A client may end a body with a line too many (RFC 9112 §2.2).
        let blank = input.chunks_exact(2).take_while(|pair| pair == b"\r\n").count() * 2;
        input.drain(..blank);
        if let Some(end) = find(input, b"\r\n\r\n") {
            break end;
        }
        if input.len() > HEAD_BYTES_MAX {
            return Err(Problem::Refused(431));
        }
        if more(stream, input)? == 0 {
            return if input.is_empty() { Ok(None) } else { Err(Problem::Gone) };
        }
    };
    let request = Request::parse(&input[..end]).map_err(Problem::Refused)?;
    input.drain(..end + 4);
    if request.expects_continue() && input.is_empty() && request.body != BodyKind::Length(0) {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let body = match request.body {
        BodyKind::Length(length) => take(stream, input, length)?,
        BodyKind::Chunked => chunks(stream, input)?,
    };
    Ok(Some((request, body)))
}

fn answer(request: &Request, body: &[u8], name: Option<&str>, last: bool, output: &mut Vec<u8>) {
    let mut fields: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (field, value) in &request.fields {
        // The example is written in Go, where the Host is kept apart from the header.
        if !field.eq_ignore_ascii_case("host") {
            fields.entry(canonical(field)).or_default().push(value);
        }
    }
    let map: Vec<String> = fields.iter().map(|(field, values)| format!("{field}:[{}]", values.join(" "))).collect();
    let mut text = format!(
        "Your Request\n===============\nMethod: {}\nURL   : {}\nHeader: map[{}]\nBody  : ",
        request.method,
        request.target,
        map.join(" ")
    )
    .into_bytes();
    text.extend_from_slice(body);
    text.push(b'\n');
    if let Some(name) = name {
        text.extend_from_slice(format!("Name  : {name}\n").as_bytes());
    }
    output.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n");
    if let Some(name) = name {
        output.extend_from_slice(format!("X-Backend: {name}\r\n").as_bytes());
    }
    if last {
        output.extend_from_slice(b"Connection: close\r\n");
    }
    output.extend_from_slice(format!("Content-Length: {}\r\n\r\n", text.len()).as_bytes());
    if request.method != "HEAD" {
        output.extend_from_slice(&text);
    }
}

#[derive(Debug, PartialEq)]
struct Request {
    method: String,
    target: String,
    version_minor: u8,
    fields: Vec<(String, String)>,
    body: BodyKind,
}

#[derive(Debug, PartialEq, Clone, Copy)]
enum BodyKind {
    Length(usize),
    Chunked,
}

/// Why a connection cannot go on.
#[derive(Debug, PartialEq)]
enum Problem {
    /// The client is gone, or broke off in the middle.
    Gone,
    /// The status that says what was wrong with the request.
    Refused(u16),
}

impl From<io::Error> for Problem {
    fn from(_: io::Error) -> Self {
        Problem::Gone
    }
}

impl Request {
    /// Parses a head without its closing empty line; a status is the reason to refuse it (RFC 9112 §3, §5, §6.3).
    fn parse(head: &[u8]) -> Result<Self, u16> {
        let head = std::str::from_utf8(head).map_err(|_| 400u16)?;
        let mut lines = head.split("\r\n");
        let line = lines.next().ok_or(400u16)?;
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(400);
        };
        if !is_token(method) || target.is_empty() || !target.bytes().all(|byte| byte > b' ' && byte != 0x7f) {
            return Err(400);
        }
        let version_minor = match version {
            "HTTP/1.1" => 1,
            "HTTP/1.0" => 0,
            _ if version.starts_with("HTTP/") => return Err(505),
            _ => return Err(400),
        };
        let mut fields = Vec::new();
        for line in lines {
            // A line that starts with white space (obs-fold) has no token before its colon, and so is refused too.
            let (name, value) = line.split_once(':').ok_or(400u16)?;
            let value = value.trim_matches([' ', '\t']);
            if !is_token(name) || value.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
                return Err(400);
            }
            fields.push((name.to_string(), value.to_string()));
        }
        let all = |wanted: &str| -> Vec<&str> {
            let named = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
            named.map(|(_, value)| value.as_str()).collect()
        };
        let (hosts, lengths, codings) = (all("host"), all("content-length"), all("transfer-encoding"));
        if hosts.len() > 1 || (version_minor == 1 && hosts.is_empty()) {
            return Err(400);
        }
        let body = match (lengths.as_slice(), codings.as_slice()) {
            ([], []) => BodyKind::Length(0),
            ([length], []) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
                let length = length.parse().map_err(|_| 413u16)?;
                if length > BODY_BYTES_MAX {
                    return Err(413);
                }
                BodyKind::Length(length)
            }
            ([], [coding]) if version_minor == 1 && coding.eq_ignore_ascii_case("chunked") => BodyKind::Chunked,
            ([], [_]) if version_minor == 1 => return Err(501),
            _ => return Err(400),
        };
        Ok(Self { method: method.into(), target: target.into(), version_minor, fields, body })
    }

    fn closes(&self) -> bool {
        let says = |word: &str| self.lists("connection", word);
        says("close") || (self.version_minor == 0 && !says("keep-alive"))
    }

    fn expects_continue(&self) -> bool {
        self.version_minor == 1 && self.lists("expect", "100-continue")
    }

    fn lists(&self, field: &str, word: &str) -> bool {
        let values = self.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(field)).map(|(_, value)| value);
        values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
    }
}

/// Exactly `length` bytes from the connection; what came behind them stays in `input`.
fn take(stream: &mut impl Read, input: &mut Vec<u8>, length: usize) -> Result<Vec<u8>, Problem> {
    while input.len() < length {
        if more(stream, input)? == 0 {
            return Err(Problem::Gone);
        }
    }
    let rest = input.split_off(length);
    Ok(std::mem::replace(input, rest))
}

/// A chunked body (RFC 9112 §7.1); its trailers are read and left out.
fn chunks(stream: &mut impl Read, input: &mut Vec<u8>) -> Result<Vec<u8>, Problem> {
    let mut body = Vec::new();
    loop {
        let line = line(stream, input)?;
        let size = line.split(|&byte| byte == b';').next().unwrap_or_default();
        let size = std::str::from_utf8(size).map_err(|_| Problem::Refused(400))?.trim_end_matches([' ', '\t']);
        if size.is_empty() || size.len() > 8 || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Problem::Refused(400));
        }
        let size = usize::from_str_radix(size, 16).map_err(|_| Problem::Refused(400))?;
        if size == 0 {
            break;
        }
        if body.len() + size > BODY_BYTES_MAX {
            return Err(Problem::Refused(413));
        }
        body.extend(take(stream, input, size)?);
        if take(stream, input, 2)? != b"\r\n" {
            return Err(Problem::Refused(400));
        }
    }
    loop {
        let trailer = line(stream, input)?;
        if trailer.is_empty() {
            return Ok(body);
        }
        if !trailer.contains(&b':') {
            return Err(Problem::Refused(400));
        }
    }
}

fn line(stream: &mut impl Read, input: &mut Vec<u8>) -> Result<Vec<u8>, Problem> {
    loop {
        if let Some(end) = find(input, b"\r\n") {
            let mut line = take(stream, input, end + 2)?;
            line.truncate(end);
            return Ok(line);
        }
        if input.len() > HEAD_BYTES_MAX {
            return Err(Problem::Refused(400));
        }
        if more(stream, input)? == 0 {
            return Err(Problem::Gone);
        }
    }
}

fn more(stream: &mut impl Read, input: &mut Vec<u8>) -> Result<usize, Problem> {
    let mut piece = [0; 16 << 10];
    loop {
        match stream.read(&mut piece) {
            Ok(count) => {
                input.extend_from_slice(&piece[..count]);
                return Ok(count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// `x-adapt-key` → `X-Adapt-Key`, the form in which Go keeps names.
fn canonical(name: &str) -> String {
    let mut start = true;
    let letters = name.chars().map(|letter| {
        let letter = if start { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() };
        start = letter == '-';
        letter
    });
    letters.collect()
}

fn reason(status: u16) -> &'static str {
    match status {
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        505 => "HTTP Version Not Supported",
        _ => "Bad Request",
    }
}

/// Enough for the 16-KiB read buffer and the frames around it, so that thousands of connections stay cheap.
const STACK_BYTES: usize = 128 << 10;
/// Largest head, in bytes; the usual bound of gateways, so that what they pass on is not refused here.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Largest body, in bytes; it is kept whole in memory to be sent back.
const BODY_BYTES_MAX: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection of which the client's side is known in advance.
    struct Script {
        input: io::Cursor<Vec<u8>>,
        output: Vec<u8>,
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            // Small pieces: every boundary falls inside something at least once.
            let piece = buffer.len().min(3);
            self.input.read(&mut buffer[..piece])
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.output.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn check(client: &str, expected: Result<&[&str], u16>) {
        let mut script = Script { input: io::Cursor::new(client.as_bytes().to_vec()), output: Vec::new() };
        let (mut buffer, mut bodies) = (Vec::new(), Vec::new());
        let refused = loop {
            match receive(&mut script, &mut buffer) {
                Ok(Some((_, body))) => bodies.push(String::from_utf8(body).expect("text")),
                Ok(None) => break None,
                Err(Problem::Refused(status)) => break Some(status),
                Err(Problem::Gone) => panic!("{client:?}: broke off"),
            }
        };
        match expected {
            Ok(expected) => {
                assert_eq!(bodies, expected, "{client:?}");
                assert_eq!(refused, None, "{client:?}");
            }
            Err(status) => assert_eq!(refused, Some(status), "{client:?}"),
        }
    }

    #[test]
    fn bodies_and_pipelining() {
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(&[""]));
        check("GET / HTTP/1.0\r\n\r\n", Ok(&[""]));
        check("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", Ok(&["", ""]));
        check("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", Ok(&["hello"]));
        check(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            Ok(&["hello0123456789", ""]),
        );
    }

    #[test]
    fn what_is_refused() {
        for (head, status) in [
            ("GET / HTTP/1.1", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a", 400),
            ("GET  / HTTP/1.1\r\nHost: a", 400),
            ("GET / HTTP/1.1\r\nHost : a", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded", 400),
            ("GET / HTTP/1.1\r\nHost: a\nX: b", 400),
            ("G{T / HTTP/1.1\r\nHost: a", 400),
            ("GET / HTTP/2.0\r\nHost: a", 505),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", 400),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked", 501),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999", 413),
        ] {
            check(&format!("{head}\r\n\r\n"), Err(status));
        }
        for body in ["x\r\nhello\r\n0\r\n\r\n", "5\r\nhelloX\r\n0\r\n\r\n", "-5\r\nhello\r\n0\r\n\r\n"] {
            check(&format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"), Err(400));
        }
    }

    #[test]
    fn the_answer_is_the_mirror_examples() {
        let head =
            b"POST /pipeline?a=b HTTP/1.1\r\nHost: h\r\nx-adapt-key: goodplan\r\nAccept: */*\r\nX-ADAPT-KEY: two";
        let request = Request::parse(head).expect("sound");
        let mut output = Vec::new();
        answer(&request, b"Hello, Weir", Some("one"), false, &mut output);
        let output = String::from_utf8(output).expect("text");
        let (head, body) = output.split_once("\r\n\r\n").expect("a head");
        assert_eq!(
            body,
            "Your Request\n===============\nMethod: POST\nURL   : /pipeline?a=b\n\
             Header: map[Accept:[*/*] X-Adapt-Key:[goodplan two]]\nBody  : Hello, Weir\nName  : one\n"
        );
        assert!(
            head.contains("\r\nX-Backend: one\r\n") && head.ends_with(&format!("Content-Length: {}", body.len())),
            "{head}"
        );
    }

    #[test]
    fn connections_end_when_the_client_says_so() {
        let closes = |head: &str| Request::parse(head.as_bytes()).expect("sound").closes();
        assert!(!closes("GET / HTTP/1.1\r\nHost: a"));
        assert!(closes("GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, Close"));
        assert!(closes("GET / HTTP/1.0"));
        assert!(!closes("GET / HTTP/1.0\r\nConnection: keep-alive"));
    }
}
