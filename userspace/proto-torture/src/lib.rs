//! Requests that have broken HTTP implementations, with ordinary ones between them, and the verdict on each.
//!
//! The list is data (`torture.txt`, which explains its own form) so that the engine's tests and suites that send it through
//! sockets share it. A crate of its own, so that no feature of `proto-http` tells a build for tests from one of the daemon.

use std::fmt;

/// What one connection sends, and what becomes of each request in it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The part of the list it stands in: an RFC section or a kind of attack.
    pub section: &'static str,
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// One verdict for each request, in order. After a refusal the connection is closed.
    pub verdicts: Vec<Verdict>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It reaches the backend; what is stated must hold there.
    Accepted {
        /// Path and query on the wire.
        target: Option<String>,
        host: Option<String>,
        body: Option<Vec<u8>>,
    },
    /// It is answered with `status` and counted under `fault`; nothing of it reaches the backend, its body perhaps excepted.
    Refused { status: u16, fault: &'static str },
    /// More is awaited: an answer comes only from a time-out (408), or never.
    Incomplete,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.section, self.name)
    }
}

/// The whole list. Panics on a mistake in it, which the tests of this crate would have found.
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut section = "";
    for line in LIST.lines() {
        if line.starts_with("## ") {
            continue;
        }
        if let Some(title) = line.strip_prefix("=== ") {
            section = title;
        } else if let Some(head) = line.strip_prefix("== ") {
            let (name, verdicts) = head.rsplit_once(" => ").unwrap_or_else(|| panic!("no verdict: {head}"));
            let verdicts = verdicts.split(" ; ").map(verdict).collect();
            cases.push(Case { section, name, bytes: Vec::new(), verdicts });
        } else if let Some(case) = cases.last_mut() {
            let (text, end) = match line.strip_suffix('\\') {
                Some(text) => (text, &b""[..]),
                None => (line, &b"\r\n"[..]),
            };
            case.bytes.extend(unescape(text));
            case.bytes.extend_from_slice(end);
        }
    }
    cases
}

const LIST: &str = include_str!("torture.txt");

fn verdict(text: &'static str) -> Verdict {
    let mut words = text.split(' ');
    match words.next().unwrap_or_default() {
        "more" => Verdict::Incomplete,
        "ok" => {
            let (mut target, mut host, mut body) = (None, None, None);
            for word in words {
                match word.split_once('=').unwrap_or_else(|| panic!("not a statement: {word}")) {
                    ("target", text) => target = Some(text.to_string()),
                    ("host", text) => host = Some(text.to_string()),
                    ("body", text) => body = Some(unescape(text)),
                    _ => panic!("not a statement: {word}"),
                }
            }
            Verdict::Accepted { target, host, body }
        }
        status => Verdict::Refused {
            status: status.parse().unwrap_or_else(|_| panic!("not a verdict: {text}")),
            fault: words.next().unwrap_or_else(|| panic!("no fault: {text}")),
        },
    }
}

/// `\r \n \t \s \\ \xHH` and `{N*text}`.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(escape) = rest.strip_prefix('\\') {
            let (byte, len) = match escape.as_bytes() {
                [b'r', ..] => (b'\r', 1),
                [b'n', ..] => (b'\n', 1),
                [b't', ..] => (b'\t', 1),
                [b's', ..] => (b' ', 1),
                [b'\\', ..] => (b'\\', 1),
                [b'x', ..] => (u8::from_str_radix(&escape[1..3], 16).unwrap_or_else(|_| panic!("escape in {text}")), 3),
                _ => panic!("escape in {text}"),
            };
            bytes.push(byte);
            rest = &escape[len..];
            continue;
        }
        let repeat = rest.strip_prefix('{').and_then(|r| r.split_once('}')).and_then(|(inner, after)| {
            let (count, what) = inner.split_once('*')?;
            Some((count.parse::<usize>().ok()?, what, after))
        });
        match repeat {
            Some((count, what, after)) => {
                bytes.extend(unescape(what).repeat(count));
                rest = after;
            }
            None => {
                bytes.extend_from_slice(&rest.as_bytes()[..c.len_utf8()]);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    bytes
}
