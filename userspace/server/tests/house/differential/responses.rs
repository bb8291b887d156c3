//! What backends have answered, or could: the same grids for the other direction.

use std::collections::HashSet;

/// What a backend writes, to which method, and whether it closes afterwards.
#[derive(Debug, Clone)]
pub struct Answer {
    pub class: &'static str,
    pub name: String,
    pub method: &'static str,
    pub bytes: Vec<u8>,
    pub closes: bool,
}

/// All of them, no two alike.
pub fn responses() -> Vec<Answer> {
    let mut corpus = Corpus::default();
    corpus.status_lines();
    corpus.lengths();
    corpus.codings();
    corpus.chunks();
    corpus.lines();
    corpus.without_body();
    corpus.interim();
    corpus.answers
}

/// What the next client must not get.
const SECOND: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Second: yes\r\n\r\nsecond";

const ODD_ENDS: &[&str] = &["\n", "\r", "\n\r", "\r\r\n", " \r\n", "\0\r\n", "\x0b\r\n", ""];

#[derive(Default)]
struct Corpus {
    answers: Vec<Answer>,
    known: HashSet<(Vec<u8>, &'static str)>,
}

impl Corpus {
    /// Followed by the end of the connection, and once more with the connection left open where the answer has an end of its own.
    fn add(&mut self, class: &'static str, bytes: impl AsRef<[u8]>) {
        self.to("GET", class, bytes);
    }

    fn to(&mut self, method: &'static str, class: &'static str, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        if !self.known.insert((bytes.to_vec(), method)) {
            return;
        }
        let name = format!("{method}: {}", bytes[..bytes.len().min(300)].escape_ascii());
        let has_end = matches!(
            super::reader::read_response(bytes, method, false, super::reader::From::Backend),
            super::reader::Reading::Whole(..)
        );
        for closes in [true, false] {
            if closes || has_end {
                self.answers.push(Answer { class, name: name.clone(), method, bytes: bytes.to_vec(), closes });
            }
        }
    }

    fn status_lines(&mut self) {
        let lines = [
            "HTTP/1.1 200 OK",
            "HTTP/1.1 200",
            "HTTP/1.1 200 ",
            "HTTP/1.1  200 OK",
            "HTTP/1.1 200  OK",
            "HTTP/1.1\t200 OK",
            "HTTP/1.1 200\tOK",
            "HTTP/1.0 200 OK",
            "HTTP/1.2 200 OK",
            "HTTP/1.9 200 OK",
            "HTTP/2 200 OK",
            "HTTP/2.0 200",
            "HTTP/0.9 200 OK",
            "HTTP/3.0 200 OK",
            "http/1.1 200 OK",
            "Http/1.1 200 OK",
            "HTTP/1.1 20 OK",
            "HTTP/1.1 2000 OK",
            "HTTP/1.1 02 OK",
            "HTTP/1.1 0200 OK",
            "HTTP/1.1 099 X",
            "HTTP/1.1 000 X",
            "HTTP/1.1 600 X",
            "HTTP/1.1 999 X",
            "HTTP/1.1 -200 OK",
            "HTTP/1.1 +200 OK",
            "HTTP/1.1 2x0 OK",
            "HTTP/1.1 200OK",
            "HTTP/1.1 200,OK",
            "HTTP/1.1 OK 200",
            "HTTP/1.1",
            "HTTP/1.1 ",
            "HTTP/1.",
            "HTTP",
            "200 OK",
            "OK",
            "",
            "HTTP/1.1 200 O\0K",
            "HTTP/1.1 200 O\x7fK",
            "HTTP/1.1 200 O\x01K",
            "HTTP/1.1 200 caf\u{e9}",
            "HTTP/1.1 200 \t",
            "HTTP/1.10 200 OK",
            "HTTP/1.01 200 OK",
            "HTTP/01.1 200 OK",
            "HTTP/11 200 OK",
            "HTTP/1,1 200 OK",
            "HTTP /1.1 200 OK",
            " HTTP/1.1 200 OK",
            "\tHTTP/1.1 200 OK",
            "xHTTP/1.1 200 OK",
            "\0HTTP/1.1 200 OK",
            "ICY 200 OK",
            "HTTPS/1.1 200 OK",
            "GET / HTTP/1.1",
            "HTTP/1.1 200 OK HTTP/1.1 404",
            "HTTP/1.1 1e2 OK",
            "HTTP/1.1 ２00 OK",
            "HTTP/1.1 404 Not Found",
            "HTTP/1.1 500 X",
            "HTTP/1.1 302 X",
            "HTTP/1.1 599 X",
            "HTTP/1.1 299 X",
            "HTTP/1.1 418 I'm a teapot",
            "\u{feff}HTTP/1.1 200 OK",
            "HTTP/1.1 200 OK\r",
            "HTTP/1.1 200\x0bOK",
        ];
        for line in lines {
            self.add("Status lines", format!("{line}\r\nContent-Length: 5\r\n\r\nhello"));
            self.add("Status lines", format!("{line}\r\n\r\nhello"));
        }
        for blank in ["\r\n", "\n", "\r\n\r\n", " ", "\r"] {
            self.add("Status lines", format!("{blank}HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"));
        }
        for bytes in ["", "\r\n\r\n", "hello", "<html></html>", "\0", "\x15\x03\x01\0\x02\x02\x28"] {
            self.add("Status lines", bytes);
        }
    }

    fn lengths(&mut self) {
        let values = [
            "5",
            "6",
            "4",
            "0",
            "05",
            "+5",
            "-5",
            "5.0",
            "0x5",
            "5 ",
            "\t5",
            "5,5",
            "5, 5",
            "5,6",
            "5;",
            "5 5",
            "a",
            "",
            " ",
            "\"5\"",
            "5\0",
            "5\x0b",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551616",
            "18446744073709551621",
            "4294967301",
            "99999999999999999999",
            "-1",
            "1e1",
            "５",
            "5_",
            "0005",
        ];
        for value in values {
            self.add("Content-Length", format!("HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\nhello"));
            self.add("Content-Length", format!("HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\nhello{SECOND}"));
            self.add(
                "Content-Length",
                format!("HTTP/1.0 200 OK\r\nContent-Length: {value}\r\nConnection: keep-alive\r\n\r\nhello{SECOND}"),
            );
        }
        for (one, other) in
            [("5", "5"), ("5", "6"), ("0", "5"), ("5", "0"), ("5", ""), ("", "5"), ("5", "+5"), ("05", "5")]
        {
            self.add(
                "Content-Length",
                format!("HTTP/1.1 200 OK\r\nContent-Length: {one}\r\nContent-Length: {other}\r\n\r\nhello{SECOND}"),
            );
        }
        for name in [
            "Content-Length ",
            " Content-Length",
            "Content_Length",
            "Content-Length\0",
            "Content-Length\t",
            "X\r\nContent-Length",
            "X: y\rContent-Length",
            "X: y\nContent-Length",
            "Content-Length\r\n ",
        ] {
            self.add("Content-Length", format!("HTTP/1.1 200 OK\r\n{name}: 5\r\n\r\nhello{SECOND}"));
        }
    }

    fn codings(&mut self) {
        let values = [
            "chunked",
            "Chunked",
            "chunked ",
            "\tchunked",
            "\x0bchunked",
            "xchunked",
            "chunked, chunked",
            "identity",
            "identity, chunked",
            "chunked, identity",
            "gzip, chunked",
            "gzip",
            "chunked;q=1",
            "\"chunked\"",
            "chunked,",
            ",chunked",
            "",
            "chunked\0",
            "ch unked",
            "trailers",
            "x",
            "chun\u{212a}ed",
        ];
        for value in values {
            for version in ["1.1", "1.0"] {
                self.add(
                    "Transfer-Encoding",
                    format!("HTTP/{version} 200 OK\r\nTransfer-Encoding: {value}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
                );
                self.add(
                    "Transfer-Encoding",
                    format!("HTTP/{version} 200 OK\r\nTransfer-Encoding: {value}\r\n\r\n0\r\n\r\n{SECOND}"),
                );
                self.add("Length and coding", format!("HTTP/{version} 200 OK\r\nTransfer-Encoding: {value}\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n{SECOND}"));
                self.add("Length and coding", format!("HTTP/{version} 200 OK\r\nContent-Length: 15\r\nTransfer-Encoding: {value}\r\n\r\n5\r\nhello\r\n0\r\n\r\n{SECOND}"));
            }
        }
        for name in [
            "Transfer-Encoding ",
            " Transfer-Encoding",
            "Transfer_Encoding",
            "X: y\nTransfer-Encoding",
            "X: y\rTransfer-Encoding",
            "Transfer-Encoding\0",
            "transfer-encoding",
        ] {
            self.add(
                "Length and coding",
                format!(
                    "HTTP/1.1 200 OK\r\n{name}: chunked\r\nContent-Length: 15\r\n\r\n5\r\nhello\r\n0\r\n\r\n{SECOND}"
                ),
            );
        }
        self.add("Transfer-Encoding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    }

    fn chunks(&mut self) {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for size in [
            "5",
            "05",
            "00000000000000005",
            "+5",
            "-5",
            "0x5",
            " 5",
            "5 ",
            "5\t",
            "",
            "g",
            "5g",
            "ffffffffffffffff",
            "8000000000000000",
            "100000005",
            "5\0",
            "5;a=b",
            "5 ;a",
            "5;",
            "5;\n",
            "5;a\n",
            "5,",
            "6",
            "4",
        ] {
            self.add("Chunks", format!("{head}{size}\r\nhello\r\n0\r\n\r\n{SECOND}"));
            self.add("Chunks", format!("{head}5\r\nhello\r\n{size}\r\n\r\n{SECOND}"));
        }
        for end in ODD_ENDS {
            self.add("Chunks", format!("{head}5{end}hello\r\n0\r\n\r\n{SECOND}"));
            self.add("Chunks", format!("{head}5\r\nhello{end}0\r\n\r\n{SECOND}"));
            self.add("Chunks", format!("{head}5\r\nhello\r\n0{end}\r\n{SECOND}"));
            self.add("Chunks", format!("{head}5\r\nhello\r\n0\r\n{end}{SECOND}"));
            self.add("Trailers", format!("{head}5\r\nhello\r\n0\r\nX: y{end}\r\n{SECOND}"));
        }
        for trailer in [
            "X-Sum: 1",
            "Content-Length: 3",
            "Transfer-Encoding: chunked",
            "Set-Cookie: a=b",
            "X : y",
            "X",
            ": y",
            "X: \0",
            " X: y",
            "Location: /x",
            "HTTP/1.1 200 OK",
        ] {
            self.add("Trailers", format!("{head}5\r\nhello\r\n0\r\n{trailer}\r\n\r\n{SECOND}"));
        }
        let whole = format!("{head}5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n");
        for cut in 0..whole.len() {
            self.add("Cut short", &whole[..cut]);
        }
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        for cut in 38..whole.len() {
            self.add("Cut short", &whole[..cut]);
        }
    }

    fn lines(&mut self) {
        for end in ODD_ENDS {
            self.add("Line ends", format!("HTTP/1.1 200 OK{end}Content-Length: 5\r\n\r\nhello{SECOND}"));
            self.add("Line ends", format!("HTTP/1.1 200 OK\r\nContent-Length: 5{end}\r\nhello{SECOND}"));
            self.add("Line ends", format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n{end}hello{SECOND}"));
            self.add("Line ends", format!("HTTP/1.1 200 OK\r\nX: y{end}Content-Length: 5\r\n\r\nhello{SECOND}"));
        }
        for b in (0..=0x20).chain(0x7f..0xa0).chain([b':', b'"', b'(', b'/', b'@', b'_', 0xff]) {
            let line = |line: &[u8]| [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", line, b"\r\n\r\nhello"].concat();
            self.add("Field names", line(&[b'X', b, b'Y', b':', b' ', b'v']));
            self.add("Field values", line(&[b'X', b':', b' ', b'v', b, b'w']));
        }
        for fold in ["\r\n ", "\r\n\t", "\n ", "\r "] {
            self.add("Folded lines", format!("HTTP/1.1 200 OK\r\nX: v{fold}w\r\nContent-Length: 5\r\n\r\nhello"));
            self.add("Folded lines", format!("HTTP/1.1 200 OK\r\nContent-Length:{fold}5\r\n\r\nhello"));
            self.add("Folded lines", format!("HTTP/1.1 200 OK{fold}X: y\r\nContent-Length: 5\r\n\r\nhello"));
        }
        for field in [
            "",
            ":",
            ": v",
            "X",
            "X v",
            "X : v",
            "X\t: v",
            "HTTP/1.1 404 Not Found",
            "Connection: content-length",
            "Connection: close",
            "Connection: x, y",
            "Connection: keep-alive",
            "Keep-Alive: 5",
            "Proxy-Connection: x",
            "Upgrade: x",
            "Trailer: Content-Length",
            "Host: b",
        ] {
            self.add("Field names", format!("HTTP/1.1 200 OK\r\n{field}\r\nContent-Length: 5\r\n\r\nhello{SECOND}"));
        }
        self.add("Sizes", format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 5\r\n\r\nhello", "v".repeat(3000)));
        self.add("Sizes", format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 5\r\n\r\nhello", "v".repeat(70_000)));
        self.add("Sizes", format!("HTTP/1.1 200 OK\r\n{}Content-Length: 5\r\n\r\nhello", "X: y\r\n".repeat(90)));
        self.add("Sizes", format!("HTTP/1.1 200 OK\r\n{}Content-Length: 5\r\n\r\nhello", "X: y\r\n".repeat(2000)));
    }

    fn without_body(&mut self) {
        for status in ["204 No Content", "304 Not Modified", "205 Reset Content", "200 OK", "301 X", "404 X"] {
            for field in ["", "Content-Length: 0\r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
                for body in ["", "hello", "5\r\nhello\r\n0\r\n\r\n"] {
                    for method in ["GET", "HEAD"] {
                        self.to(method, "Without body", format!("HTTP/1.1 {status}\r\n{field}\r\n{body}"));
                    }
                    self.add("Without body", format!("HTTP/1.1 {status}\r\n{field}\r\n{body}{SECOND}"));
                }
            }
        }
        for rest in [SECOND, "\r\n", "x", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 408 X\r\n\r\n"] {
            self.to("HEAD", "Without body", format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{rest}"));
            self.add("More than asked", format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello{rest}"));
            self.add(
                "More than asked",
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{rest}"),
            );
        }
    }

    fn interim(&mut self) {
        let last = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        for status in ["100 Continue", "102 Processing", "103 Early Hints", "199 X", "101 Switching Protocols", "100"] {
            for fields in [
                "",
                "X: y\r\n",
                "Content-Length: 0\r\n",
                "Content-Length: 5\r\n",
                "Transfer-Encoding: chunked\r\n",
                "Connection: upgrade\r\nUpgrade: x\r\n",
                "Connection: close\r\n",
            ] {
                self.add("Interim", format!("HTTP/1.1 {status}\r\n{fields}\r\n{last}"));
                self.add("Interim", format!("HTTP/1.1 {status}\r\n{fields}\r\n"));
            }
        }
        for count in [2, 8, 9, 100, 5000] {
            self.add("Interim", format!("{}{last}", "HTTP/1.1 100 Continue\r\n\r\n".repeat(count)));
        }
    }
}
