//! Requests that have been read in two ways, or could be: grids over the places of a request and what was ever put there.

use std::collections::HashSet;
use std::iter;

/// What one connection sends.
#[derive(Debug, Clone)]
pub struct Case {
    /// The row of the table it is counted in.
    pub class: &'static str,
    pub name: String,
    pub bytes: Vec<u8>,
}

/// All of them, no two alike.
pub fn requests() -> Vec<Case> {
    let mut corpus = Corpus::default();
    corpus.lengths();
    corpus.codings();
    corpus.chunks();
    corpus.line_ends();
    corpus.names();
    corpus.values();
    corpus.authorities();
    corpus.targets();
    corpus.request_lines();
    corpus.connection_fields();
    corpus.sequences();
    corpus.cases
}

/// What an attacker would have the backend take for a request of its own.
const SECOND: &str = "GET /second HTTP/1.1\r\nHost: second\r\n\r\n";

/// Bytes that readers have taken for a line's end, for white space, or for nothing.
const ODD_ENDS: &[&str] = &[
    "\n", "\r", "\n\r", "\r\r\n", "\r\n\r", "\r\n\n", " \r\n", "\t\r\n", "\0\r\n", "\x0b\r\n", "\x0c\r\n", "\u{85}",
    "", "\\r\\n",
];

#[derive(Default)]
struct Corpus {
    cases: Vec<Case>,
    known: HashSet<Vec<u8>>,
}

impl Corpus {
    fn add(&mut self, class: &'static str, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref().to_vec();
        if self.known.insert(bytes.clone()) {
            let name = bytes[..bytes.len().min(300)].escape_ascii().to_string();
            self.cases.push(Case { class, name, bytes });
        }
    }

    fn lengths(&mut self) {
        let values = [
            "5",
            "6",
            "4",
            "0",
            "00",
            "05",
            "0000000000000000000005",
            "+5",
            "-5",
            "-0",
            "+0",
            "5.0",
            "5e0",
            "0x5",
            "0b101",
            "5 ",
            "5\t",
            " 5",
            "\t5",
            "\x0b5",
            "5\x0b",
            "\x0c5",
            "5\0",
            "\x005",
            "5\r",
            "5,5",
            "5, 5",
            "5,",
            ",5",
            "5,6",
            "5;5",
            "5;",
            "5 5",
            "5_0",
            "5a",
            "a",
            "five",
            "",
            " ",
            "\"5\"",
            "'5'",
            "5L",
            "0x",
            "%35",
            "５",
            "٥",
            "1e1",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "18446744073709551621",
            "4294967301",
            "99999999999999999999",
            "-1",
            "-9223372036854775803",
            "NaN",
            "Infinity",
            "null",
            "5\u{a0}",
            "\u{a0}5",
        ];
        for value in values {
            for (method, version) in [("POST", "1.1"), ("GET", "1.1"), ("POST", "1.0")] {
                let head = format!("{method} /l HTTP/{version}\r\nHost: a\r\nContent-Length: {value}\r\n\r\n");
                self.add("Content-Length", format!("{head}hello"));
                self.add("Content-Length", format!("{head}hello{SECOND}"));
            }
        }
        let names = [
            "content-length",
            "CONTENT-LENGTH",
            "Content-Length ",
            "Content-Length\t",
            " Content-Length",
            "\tContent-Length",
            "Content_Length",
            "Content Length",
            "Content-Length\0",
            "Content-Length\x0b",
            "\0Content-Length",
            "Content--Length",
            "Contentlength",
            "X\r\nContent-Length",
            "X: y\rContent-Length",
            "X: y\nContent-Length",
            "Content-Length\r\n ",
            "Content-Length;",
            "\"Content-Length\"",
            "Content-Length:",
            ":Content-Length",
            "\u{feff}Content-Length",
            "Content\u{2010}Length",
            "Ｃontent-Length",
            "Content-Length\\",
            "C\u{f6}ntent-Length",
            "Content-Encoding",
            "Content-Len",
        ];
        for name in names {
            self.add("Content-Length", format!("POST /l HTTP/1.1\r\nHost: a\r\n{name}: 5\r\n\r\nhello"));
            self.add(
                "Content-Length",
                format!("POST /l HTTP/1.1\r\nHost: a\r\n{name}: 5\r\nContent-Length: 42\r\n\r\nhello{SECOND}"),
            );
            self.add(
                "Content-Length",
                format!("POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n{name}: 42\r\n\r\nhello{SECOND}"),
            );
        }
        for (one, other) in [
            ("5", "5"),
            ("5", "6"),
            ("0", "5"),
            ("5", "0"),
            ("5", ""),
            ("", "5"),
            ("5", "5, 5"),
            ("5", "+5"),
            ("05", "5"),
        ] {
            for between in ["", "X: y\r\n", "Content-Length:\r\n"] {
                let head = format!(
                    "POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: {one}\r\n{between}Content-Length: {other}\r\n\r\n"
                );
                self.add("Content-Length", format!("{head}hello{SECOND}"));
            }
        }
    }

    fn codings(&mut self) {
        let values = [
            "chunked",
            "Chunked",
            "CHUNKED",
            "chunked ",
            " chunked",
            "\tchunked",
            "chunked\t",
            "\x0bchunked",
            "\x0cchunked",
            "chunked\x0b",
            "xchunked",
            "chunkedx",
            "chunke",
            "chunked, chunked",
            "chunked,chunked",
            "identity",
            "identity, chunked",
            "chunked, identity",
            "gzip",
            "gzip, chunked",
            "chunked, gzip",
            "deflate, chunked",
            "chunked;q=1",
            "chunked;",
            ";chunked",
            "\"chunked\"",
            "'chunked'",
            "chunked,",
            ",chunked",
            ", chunked",
            "",
            " ",
            "chunked\0",
            "chu\0nked",
            "\0chunked",
            "chunked\r",
            "ch unked",
            "chunked chunked",
            "trailers",
            "trailers, chunked",
            "x",
            "x, chunked",
            "c\u{4b}unked",
            "chun\u{212a}ed",
            "chunked\u{a0}",
            "\u{feff}chunked",
            "chunked\r\n ,identity",
            "\r\n chunked",
            "identity;chunked",
            "{chunked}",
            "chunked=1",
            "compress",
            "br, chunked",
            "CHUNKED, identity",
            "null",
            "none",
            "0",
        ];
        let bodies = ["5\r\nhello\r\n0\r\n\r\n", "0\r\n\r\n"];
        for value in values {
            for version in ["1.1", "1.0"] {
                for body in bodies {
                    let start = format!("POST /c HTTP/{version}\r\nHost: a\r\n");
                    self.add("Transfer-Encoding", format!("{start}Transfer-Encoding: {value}\r\n\r\n{body}{SECOND}"));
                    if version == "1.1" || body.len() > 5 {
                        let length = format!("Content-Length: {}\r\n", if body.len() > 5 { 5 } else { 0 });
                        self.add(
                            "Length and coding",
                            format!("{start}Transfer-Encoding: {value}\r\n{length}\r\n{body}{SECOND}"),
                        );
                        self.add(
                            "Length and coding",
                            format!("{start}{length}Transfer-Encoding: {value}\r\n\r\n{body}{SECOND}"),
                        );
                    }
                }
            }
        }
        let names = [
            "transfer-encoding",
            "TRANSFER-ENCODING",
            "Transfer-Encoding ",
            "Transfer-Encoding\t",
            " Transfer-Encoding",
            "\tTransfer-Encoding",
            "Transfer_Encoding",
            "Transfer Encoding",
            "Transfer-Encoding\0",
            "Transfer-Encoding\x0b",
            "\0Transfer-Encoding",
            "X\r\nTransfer-Encoding",
            "X: y\rTransfer-Encoding",
            "X: y\nTransfer-Encoding",
            "Transfer-Encoding\r\n ",
            "\"Transfer-Encoding\"",
            "Transfer-Encoding:",
            ":Transfer-Encoding",
            "Transfer-Encoding\\",
            "T\u{72}ansfer\u{2010}Encoding",
            "TE",
            "Transfer-Encodin",
            "Transfer-Encodings",
            "\u{feff}Transfer-Encoding",
            "Content-Transfer-Encoding",
            "X-Transfer-Encoding",
        ];
        for name in names {
            for rest in ["", "Content-Length: 5\r\n", "Content-Length: 0\r\n"] {
                let head = format!("POST /c HTTP/1.1\r\nHost: a\r\n{rest}{name}: chunked\r\n\r\n");
                self.add("Length and coding", format!("{head}5\r\nhello\r\n0\r\n\r\n{SECOND}"));
                self.add("Length and coding", format!("{head}0\r\n\r\n{SECOND}"));
            }
        }
        for (one, other) in [
            ("chunked", "chunked"),
            ("chunked", "identity"),
            ("identity", "chunked"),
            ("gzip", "chunked"),
            ("chunked", ""),
            ("", "chunked"),
            ("x", "chunked"),
        ] {
            let head = format!(
                "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {one}\r\nTransfer-Encoding: {other}\r\n\r\n"
            );
            self.add("Transfer-Encoding", format!("{head}5\r\nhello\r\n0\r\n\r\n{SECOND}"));
            self.add("Transfer-Encoding", format!("{head}0\r\n\r\n{SECOND}"));
        }
    }

    fn chunks(&mut self) {
        let head = "POST /k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let sizes = [
            "5",
            "05",
            "0005",
            "0000000000000005",
            "00000000000000005",
            "000000000000000000000000000000005",
            "+5",
            "-5",
            "0x5",
            "0X5",
            "5h",
            " 5",
            "5 ",
            "5\t",
            "\t5",
            "5  ",
            "\x0b5",
            "5\x0b",
            "",
            " ",
            "g",
            "z5",
            "5z",
            "5,",
            "5.",
            "5.0",
            "5-",
            "-0",
            "+0",
            "ffffffffffffffff",
            "7fffffffffffffff",
            "8000000000000000",
            "10000000000000005",
            "100000005",
            "fffffffffffffffb",
            "00000000000000000",
            "5\0",
            "\x005",
            "\"5\"",
            "５",
            "5_",
            "0_5",
            "%35",
            "5\\",
            "5=",
            "5#",
            "5/",
            "5\"",
            "5'",
            "5:",
            "5?",
        ];
        for size in sizes {
            self.add("Chunk size", format!("{head}{size}\r\nhello\r\n0\r\n\r\n{SECOND}"));
            self.add("Chunk size", format!("{head}1\r\nx\r\n{size}\r\nhello\r\n0\r\n\r\n{SECOND}"));
            self.add("Chunk size", format!("{head}5\r\nhello\r\n{size}\r\n\r\n{SECOND}"));
        }
        let extensions = [
            ";",
            "; ",
            ";a",
            ";a=b",
            ";a=\"b\"",
            ";a=\"b",
            ";a=\"b;c\"",
            ";a=\"\\\"\"",
            ";a=b;c=d",
            " ;a",
            "\t;a",
            "; a = b",
            ";=b",
            ";a=",
            ";;",
            ";a;",
            ";\0",
            ";a\0",
            ";\x0b",
            ";\x7f",
            ";\r",
            ";\n",
            ";a\n",
            ";a\r",
            ";a\rb",
            ";a=\"\n\"",
            ";a=\"\r\n\"",
            ";a=\"\n0\n\n",
            ";\u{e9}",
            ";a=\u{e9}",
            ";a b",
            " a",
            ",a",
            "=a",
            ";a=b\t",
            ";a=b ",
            ";a\r\n b",
            ";0",
            ";5",
            ";chunked",
            ";name=value;sig=0123456789abcdef",
            ";a=\"\\\r\n\"",
            ";\\\n",
            ";\u{85}",
            ";'",
            ";a='b",
        ];
        for extension in extensions {
            self.add("Chunk extension", format!("{head}5{extension}\r\nhello\r\n0\r\n\r\n{SECOND}"));
            self.add("Chunk extension", format!("{head}5\r\nhello\r\n0{extension}\r\n\r\n{SECOND}"));
            self.add("Chunk extension", format!("{head}5{extension}\r\nhello\r\n0{extension}\r\n\r\n{SECOND}"));
        }
        for length in [200, 1000, 1030, 5000, 20_000] {
            self.add("Chunk extension", format!("{head}5;{}\r\nhello\r\n0\r\n\r\n{SECOND}", "x".repeat(length)));
        }
        for count in [100, 1000] {
            self.add(
                "Chunk extension",
                format!("{head}{}0\r\n\r\n{SECOND}", "1;0123456789abcdef\r\nx\r\n".repeat(count)),
            );
        }
        for end in ODD_ENDS {
            self.add("Chunk line end", format!("{head}5{end}hello\r\n0\r\n\r\n{SECOND}"));
            self.add("Chunk line end", format!("{head}5\r\nhello{end}0\r\n\r\n{SECOND}"));
            self.add("Chunk line end", format!("{head}5\r\nhello\r\n0{end}\r\n{SECOND}"));
            self.add("Chunk line end", format!("{head}5\r\nhello\r\n0\r\n{end}{SECOND}"));
            self.add("Chunk line end", format!("{head}5\r\nhello\r\n0{end}{end}{SECOND}"));
            self.add("Chunk line end", format!("{head}5;a{end}hello\r\n0\r\n\r\n{SECOND}"));
            self.add("Chunk line end", format!("{head}5{end}hello{end}0{end}{end}{SECOND}"));
            self.add("Trailers", format!("{head}5\r\nhello\r\n0\r\nX: y{end}\r\n{SECOND}"));
            self.add("Trailers", format!("{head}5\r\nhello\r\n0\r\nX: y\r\n{end}{SECOND}"));
        }
        for data in ["hell", "hellohello", "hello ", "", "hello\r", "hello\n", "hello\0", "\r\nhello", "hello\r\n"] {
            self.add("Chunk size", format!("{head}5\r\n{data}\r\n0\r\n\r\n{SECOND}"));
        }
        let trailers = [
            "X-Sum: 1",
            "X: y\r\nZ: w",
            "Content-Length: 5",
            "Transfer-Encoding: chunked",
            "Host: other",
            "Connection: close",
            "Trailer: x",
            "Authorization: x",
            "X-Forwarded-For: 1.2.3.4",
            "Cookie: a=b",
            "X : y",
            " X: y",
            "X",
            ": y",
            "X:\0",
            "X\0: y",
            "X: y\r\n z",
            "X_Y: z",
            "Content_Length: 5",
            "X: \u{e9}",
            "GET /second HTTP/1.1",
            "GET /second HTTP/1.1\r\nHost: second",
            "X: y\rContent-Length: 3",
            "X: y\nZ: w",
            "Expect: 100-continue",
            "Upgrade: x",
            "TE: x",
            "Content-Encoding: gzip",
            "X: \"\r\nHost: x",
        ];
        for trailer in trailers {
            self.add("Trailers", format!("{head}5\r\nhello\r\n0\r\n{trailer}\r\n\r\n{SECOND}"));
            self.add("Trailers", format!("{head}0\r\n{trailer}\r\n\r\n{SECOND}"));
        }
        self.add("Trailers", format!("{head}0\r\n{}\r\n{SECOND}", "X: y\r\n".repeat(40)));
        self.add("Trailers", format!("{head}0\r\nX: {}\r\n\r\n{SECOND}", "y".repeat(9000)));
        let whole = format!("{head}5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n");
        for cut in head.len()..whole.len() {
            self.add("Cut short", &whole[..cut]);
        }
    }

    fn line_ends(&mut self) {
        for end in ODD_ENDS {
            for rest in ["", "POST"] {
                let (method, body) = if rest.is_empty() { ("GET", "") } else { ("POST", "Content-Length: 5") };
                let data = if rest.is_empty() { "" } else { "hello" };
                let body = if body.is_empty() { String::new() } else { format!("{body}\r\n") };
                self.add("Line ends", format!("{method} /e HTTP/1.1{end}Host: a\r\n{body}\r\n{data}"));
                self.add("Line ends", format!("{method} /e HTTP/1.1\r\nHost: a{end}{body}\r\n{data}"));
                self.add("Line ends", format!("{method} /e HTTP/1.1\r\nX: y{end}Host: a\r\n{body}\r\n{data}"));
                self.add("Line ends", format!("{method} /e HTTP/1.1\r\nHost: a\r\n{body}{end}{data}"));
                self.add("Line ends", format!("{method} /e HTTP/1.1\r\nHost: a\r\n{body}{end}{end}{data}{SECOND}"));
                self.add("Line ends", format!("{method} /e HTTP/1.1{end}Host: a{end}{body}{end}{data}"));
                self.add("Line ends", format!("{end}{method} /e HTTP/1.1\r\nHost: a\r\n{body}\r\n{data}"));
                self.add("Line ends", format!("{end}{end}{method} /e HTTP/1.1\r\nHost: a\r\n{body}\r\n{data}"));
                self.add("Line ends", format!("{method} /e HTTP/1.1\r\n{end}Host: a\r\n{body}\r\n{data}"));
            }
        }
        let head = "GET /e HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
        for cut in 0..head.len() {
            self.add("Cut short", &head[..cut]);
        }
    }

    fn names(&mut self) {
        for b in 0..=255u8 {
            let line = |name: &[u8]| [b"GET /n HTTP/1.1\r\nHost: a\r\n", name, b": v\r\n\r\n"].concat();
            self.add("Field names", line(&[b'X', b, b'Y']));
            if !b.is_ascii_alphanumeric() {
                self.add("Field names", line(&[b, b'X']));
                self.add("Field names", line(&[b'X', b]));
            }
        }
        let names = [
            "",
            " ",
            "X ",
            "X\t",
            "X\r\n ",
            "X_Forwarded_For",
            "X-Forwarded_For",
            "X_Real_IP",
            "Host_",
            "_Host",
            "H\u{f6}st",
            "Proxy",
            "X-Original-URL",
            "X-Rewrite-URL",
            "X-HTTP-Method-Override",
            "Proxy-Connection",
            "X.Y",
            "x-y",
            "X-y",
            "HTTP_HOST",
            "Content-Type ",
            "Cookie\t",
            "Host;x",
            "\"X\"",
            "X,Y",
            "(X)",
            "X/Y",
            "[X]",
            "{X}",
            "X=Y",
            "X@Y",
            "X?Y",
        ];
        for name in names {
            self.add("Field names", format!("GET /n HTTP/1.1\r\nHost: a\r\n{name}: v\r\n\r\n"));
            self.add("Field names", format!("GET /n HTTP/1.1\r\n{name}: v\r\nHost: a\r\n\r\n"));
        }
        for line in [
            "X",
            "X y",
            "HTTP/1.1 200 OK",
            "GET /second HTTP/1.1",
            "\0",
            "x=y",
            "=",
            "Host",
            "::",
            ":",
            " :",
            "a:b:c",
            "X:",
            "X:\t",
        ] {
            self.add("Field names", format!("GET /n HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n"));
            self.add("Field names", format!("GET /n HTTP/1.1\r\n{line}\r\nHost: a\r\n\r\n"));
        }
    }

    fn values(&mut self) {
        for b in 0..=255u8 {
            let line = |value: &[u8]| [b"GET /v HTTP/1.1\r\nHost: a\r\nX: ", value, b"\r\n\r\n"].concat();
            self.add("Field values", line(&[b'v', b, b'w']));
            if b <= b' ' || b >= 0x7f {
                self.add("Field values", line(&[b, b'v']));
                self.add("Field values", line(&[b'v', b]));
            }
        }
        for fold in ["\r\n ", "\r\n\t", "\r\n  ", "\n ", "\r ", "\r\n \r\n ", " \r\n ", "\r\n\u{b} ", "\r\n \r\n"] {
            for (before, after) in [
                ("v", "w"),
                ("", "v"),
                ("v", ""),
                ("v", "Host: b"),
                ("v", "Content-Length: 5"),
                ("v", "Transfer-Encoding: chunked"),
            ] {
                self.add("Folded lines", format!("GET /v HTTP/1.1\r\nHost: a\r\nX: {before}{fold}{after}\r\n\r\n"));
                self.add("Folded lines", format!("GET /v HTTP/1.1\r\nX: {before}{fold}{after}\r\nHost: a\r\n\r\n"));
            }
            self.add("Folded lines", format!("GET /v HTTP/1.1\r\nHost:{fold}a\r\n\r\n"));
            self.add("Folded lines", format!("GET /v HTTP/1.1{fold}X: y\r\nHost: a\r\n\r\n"));
            self.add("Folded lines", format!("POST /v HTTP/1.1\r\nHost: a\r\nContent-Length:{fold}5\r\n\r\nhello"));
            self.add(
                "Folded lines",
                format!("POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:{fold}chunked\r\n\r\n0\r\n\r\n"),
            );
        }
    }

    fn authorities(&mut self) {
        let hosts = [
            "a",
            "a:80",
            "a:",
            "a:0",
            "a:080",
            "a:65535",
            "a:65536",
            "a:99999",
            "a:123456",
            "a:b",
            "a:-1",
            "a:+1",
            "a: 80",
            "a :80",
            "a:80:80",
            ":80",
            ":",
            "",
            " ",
            "a b",
            "a,b",
            "a, b",
            "a;b",
            "a/b",
            "a/",
            "a?b",
            "a#b",
            "a\\b",
            "a@b",
            "u@a",
            "u:p@a",
            "u:p@a:80",
            "@a",
            "a@",
            "http://a",
            "//a",
            "a%41",
            "%61",
            "a%00",
            "a%2fb",
            "a%0d%0ab",
            "a\0",
            "\0",
            "a\0b",
            "a\tb",
            "\ta",
            "a\x0bb",
            "a\x7f",
            "A",
            "a.",
            "a..",
            ".a",
            ".",
            "..",
            "-a",
            "a-",
            "a_b",
            "_",
            "~",
            "a~b",
            "a!b",
            "a$b",
            "a&b",
            "a'b",
            "a(b)",
            "a*b",
            "*",
            "*.a",
            "a+b",
            "a=b",
            "a\"b",
            "\"a\"",
            "<a>",
            "a|b",
            "a^b",
            "a`b",
            "{a}",
            "[::1]",
            "[::1]:80",
            "[::1",
            "::1",
            "::1]",
            "[::1]x",
            "[::1]:",
            "[]",
            "[a]",
            "[v1.a]",
            "[fe80::1%25eth0]",
            "[fe80::1%eth0]",
            "[::1]:80:80",
            "[::ffff:1.2.3.4]",
            "1.2.3.4",
            "1.2.3.4:80",
            "1.2.3",
            "0x7f.1",
            "127.1",
            "2130706433",
            "localhost",
            "xn--nxasmq6b",
            "\u{e9}",
            "b\u{fc}cher.de",
            "a\u{a0}",
            "\u{ff41}",
            "a\u{3002}b",
            "a\\",
            "a\r",
            "second",
        ];
        for host in hosts {
            self.add("Host", format!("GET /h HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            self.add("Absolute targets", format!("GET http://{host}/h HTTP/1.1\r\nHost: a\r\n\r\n"));
            if !host.contains(' ') {
                self.add("CONNECT", format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            }
        }
        self.add("Host", format!("GET /h HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(300)));
        self.add("Host", "GET /h HTTP/1.1\r\n\r\n");
        for (one, other) in [("a", "a"), ("a", "b"), ("a", ""), ("", "a"), ("a", "a:80"), ("a", "A")] {
            self.add("Host", format!("GET /h HTTP/1.1\r\nHost: {one}\r\nHost: {other}\r\n\r\n"));
            self.add("Host", format!("GET /h HTTP/1.1\r\nHost: {one}\r\nX: y\r\nhost: {other}\r\n\r\n"));
            self.add("Host", format!("GET /h HTTP/1.0\r\nHost: {one}\r\nHost: {other}\r\n\r\n"));
        }
        for name in [
            "host",
            "HOST",
            "Host ",
            " Host",
            "Host\t",
            "H_st",
            "Host\0",
            "X-Forwarded-Host",
            "Host\r\n ",
            "\tHost",
            "Host\x0b",
        ] {
            self.add("Host", format!("GET /h HTTP/1.1\r\n{name}: a\r\n\r\n"));
            self.add("Host", format!("GET /h HTTP/1.1\r\n{name}: b\r\nHost: a\r\n\r\n"));
            self.add("Host", format!("GET /h HTTP/1.1\r\nHost: a\r\n{name}: b\r\n\r\n"));
        }
        let targets = [
            "http://a",
            "http://a/",
            "http://a?q",
            "http://a#f",
            "http://a/#f",
            "http://a:80/",
            "HTTP://A/",
            "hTTp://a/x",
            "https://a/x",
            "ftp://a/x",
            "ws://a/x",
            "http:/a/x",
            "http:a/x",
            "http:///x",
            "http://",
            "http:",
            "http",
            "://a/x",
            "//a/x",
            "//a",
            "/\\a/x",
            "http:\\\\a\\x",
            "http://a\\x",
            "http://b@a/x",
            "http://a/../x",
            "http://a/./x",
            "http://a/%2e%2e/x",
            "http://a//x",
            "http://a/x?y=http://b/",
            "http://a/x y",
            "a",
            "a/x",
            "a:80",
            "?q",
            "#f",
            "*",
            "/*",
            "*/x",
            "**",
            "x:/y",
            "file:///etc/passwd",
            "http%3a//a/x",
            "http://a%2fx",
            "javascript:1",
            "urn:x",
            "data:,x",
            "http://a;x/y",
            "http://[::1]/x",
            "http://[::1",
            "http://a/x#",
        ];
        for target in targets {
            for host in ["Host: a\r\n", "Host: b\r\n", "", "Host:\r\n"] {
                self.add("Absolute targets", format!("GET {target} HTTP/1.1\r\n{host}\r\n"));
            }
            self.add("Absolute targets", format!("GET {target} HTTP/1.0\r\n\r\n"));
            self.add("Absolute targets", format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
            self.add("CONNECT", format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        }
        for rest in [
            "Content-Length: 5\r\n\r\nhello",
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "\r\nhello",
            "Upgrade: x\r\nConnection: upgrade\r\n\r\n",
        ] {
            self.add("CONNECT", format!("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n{rest}{SECOND}"));
            self.add("CONNECT", format!("CONNECT a:443 HTTP/1.0\r\nHost: a:443\r\n{rest}{SECOND}"));
        }
    }

    fn targets(&mut self) {
        for b in 0..=255u8 {
            self.add("Path bytes", [b"GET /p", &[b][..], b"q HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
            self.add("Query bytes", [b"GET /p?x", &[b][..], b"y HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
            self.add("Path escapes", format!("GET /p%{b:02x}q HTTP/1.1\r\nHost: a\r\n\r\n"));
            if b >= 0xa0 || b % 16 >= 10 {
                self.add("Path escapes", format!("GET /p%{b:02X}q HTTP/1.1\r\nHost: a\r\n\r\n"));
            }
        }
        let paths = [
            "/",
            "//",
            "///",
            "/.",
            "/..",
            "/./",
            "/../",
            "/a/..",
            "/a/../",
            "/a/../..",
            "/a/../../b",
            "/a/./b",
            "/a//b",
            "/a/b/../c",
            "/%2e",
            "/%2e%2e",
            "/%2E%2e/",
            "/.%2e/",
            "/a/%2e%2e/b",
            "/a/%2e%2e/%2e%2e/b",
            "/a%2fb",
            "/a%2Fb",
            "/a%2f..%2fb",
            "/a/..%2fb",
            "/a/%2e%2e%2fb",
            "/..%2f",
            "/a%5cb",
            "/a%5c..%5cb",
            "/a\\b",
            "/a\\..\\b",
            "/..\\",
            "/a/..;/b",
            "/a/..;x=y/b",
            "/a;/b",
            "/;/a",
            "/a;x=y/../b",
            "/.;/a",
            "/a/.%00/b",
            "/a%00b",
            "/a%00",
            "/%",
            "/%a",
            "/%zz",
            "/%u0041",
            "/a%",
            "/a%2",
            "/%%",
            "/%252e%252e/",
            "/%25",
            "/%c0%ae%c0%ae/",
            "/%c0%af",
            "/%e0%80%af",
            "/%ef%bc%8f",
            "/%e4%b8%ad",
            "/\u{4e2d}",
            "/%E4\u{b8}",
            "/caf\u{e9}",
            "/caf%e9",
            "/a b",
            "/a%20b",
            "/a+b",
            "/a\tb",
            "/a%09b",
            "/a%0d%0ab",
            "/a%0ab",
            "/a\x0bb",
            "/a#b",
            "/a%23b",
            "/a?b#c",
            "/a?b?c",
            "/a??",
            "/?",
            "/a?",
            "/a?b=c&d=e",
            "/a?b=/../c",
            "/a?%00",
            "/a?%zz",
            "/a?b c",
            "/a?<script>",
            "/a<b>",
            "/a\"b",
            "/a{b}",
            "/a|b",
            "/a^b",
            "/a`b",
            "/a[b]",
            "/a'b",
            "/a(b)",
            "/a*b",
            "/a,b",
            "/a=b",
            "/a:b",
            "/a@b",
            "/a$b",
            "/a&b",
            "/a!b",
            "/~a",
            "/%7ea",
            "/%41",
            "/%61%62",
            "/a/b/c/d/e/f/../../../../../../x",
            "/a/b/c/../../../../x",
            "/.a",
            "/..a",
            "/a.",
            "/a..",
            "/...",
            "/a/...",
            "/.../a",
            "/a/.b",
            "/%2e%2e%2e",
            "/.%2ea",
            "/a/%2f/b",
            "/%2f",
            "/%2f%2f",
            "/%5c",
            "/a%2e",
            "/a/b%2f..",
            "/%2e/a",
            "/a//../b",
            "/a/%20/../b",
            "/a%3fb",
            "/a%3Fb=c",
            "/a%26b",
            "/a%3bb",
            "/%e2%80%ae",
            "/%ff",
            "/%80",
            "/%c2%85",
            "/%c2%a0",
            "/\u{85}",
            "/\u{200b}a",
            "/\u{ff0f}",
            "/\u{2025}/a",
            "/%ED%A0%80",
            "/%f4%90%80%80",
        ];
        for path in paths {
            for method in ["GET", "POST", "OPTIONS"] {
                self.add("Paths", format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            }
            self.add("Paths", format!("GET http://a{path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        }
        for length in [1000, 4000, 8000, 9000, 20_000] {
            self.add("Sizes", format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "p".repeat(length)));
            self.add("Sizes", format!("GET /?{} HTTP/1.1\r\nHost: a\r\n\r\n", "q".repeat(length)));
            self.add("Sizes", format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "v".repeat(length)));
            self.add("Sizes", format!("GET / HTTP/1.1\r\nHost: a\r\n{}: v\r\n\r\n", "n".repeat(length)));
        }
        for count in [100, 130, 300] {
            self.add("Sizes", format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count)));
        }
    }

    fn request_lines(&mut self) {
        let methods = [
            "GET",
            "HEAD",
            "POST",
            "PUT",
            "DELETE",
            "OPTIONS",
            "PATCH",
            "TRACE",
            "PURGE",
            "M-SEARCH",
            "PROPFIND",
            "get",
            "Get",
            "gET",
            "G",
            "G-T",
            "G_T",
            "G.T",
            "G!T",
            "G#T",
            "G$T",
            "G%T",
            "G&T",
            "G'T",
            "G*T",
            "G+T",
            "G^T",
            "G`T",
            "G|T",
            "G~T",
            "0",
            "GET0",
            "G,T",
            "G(T",
            "G/T",
            "G:T",
            "G;T",
            "G<T",
            "G=T",
            "G?T",
            "G@T",
            "G[T",
            "G\\T",
            "G{T",
            "\"GET\"",
            "G\0T",
            "G\tT",
            "\u{e9}",
            "GET\x7f",
            "\x16\x03\x01",
            "PRI",
            "HTTP/1.1",
            "\u{feff}GET",
            "GETGETGETGETGETGETGETGETGETGETGETGETGET",
        ];
        for method in methods {
            self.add("Methods", format!("{method} /m HTTP/1.1\r\nHost: a\r\n\r\n"));
            self.add("Methods", format!("{method} /m HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello{SECOND}"));
            self.add("Methods", format!("{method} /m HTTP/1.0\r\nHost: a\r\n\r\n"));
        }
        let versions = [
            "HTTP/1.1",
            "HTTP/1.0",
            "HTTP/1.2",
            "HTTP/1.9",
            "HTTP/1.10",
            "HTTP/1.01",
            "HTTP/01.1",
            "HTTP/1.",
            "HTTP/1",
            "HTTP/",
            "HTTP",
            "",
            "HTTP/.1",
            "HTTP/1.1.1",
            "HTTP/1,1",
            "HTTP/1 1",
            "HTTP/2.0",
            "HTTP/2",
            "HTTP/0.9",
            "HTTP/3.0",
            "HTTP/9.9",
            "HTTP/11",
            "HTTP/-1.1",
            "HTTP/+1.1",
            "HTTP/1.-1",
            "HTTP/1.+1",
            "HTTP/1.1x",
            "xHTTP/1.1",
            "http/1.1",
            "Http/1.1",
            "hTTP/1.1",
            "HTTP\\1.1",
            "HTTP//1.1",
            "HTTP /1.1",
            "HTTP/ 1.1",
            "HTTP/1.1\0",
            "HTTP/\x001.1",
            "HTTPS/1.1",
            "ICY/1.1",
            "RTSP/1.0",
            "SIP/2.0",
            "HTTP/1.１",
            "HTTP/1.a",
            "HTTP/a.1",
            "HTTP/0x1.1",
            "1.1",
            "HTTP/1.1 HTTP/1.1",
            "HTTP/65537.1",
            "HTTP/1.65537",
            "HTTP/4294967297.1",
            "HTTP/1.1;x",
            "HTTP/1.1,HTTP/1.0",
            "\"HTTP/1.1\"",
            "HTTP/1.1\u{a0}",
        ];
        for version in versions {
            self.add("Versions", format!("GET /v {version}\r\nHost: a\r\n\r\n"));
            self.add("Versions", format!("POST /v {version}\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello{SECOND}"));
            self.add(
                "Versions",
                format!("POST /v {version}\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SECOND}"),
            );
        }
        let lines = [
            "GET",
            "GET ",
            "GET /",
            "GET / ",
            "GET  / HTTP/1.1",
            "GET /  HTTP/1.1",
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "GET\t/ HTTP/1.1",
            "GET /\tHTTP/1.1",
            "GET\t/\tHTTP/1.1",
            "GET\x0b/ HTTP/1.1",
            "GET /\x0bHTTP/1.1",
            "GET\x0c/ HTTP/1.1",
            "GET /\x0cHTTP/1.1",
            "GET/ HTTP/1.1",
            "GET /HTTP/1.1",
            "GET/HTTP/1.1",
            "GET / x HTTP/1.1",
            "GET / HTTP/1.1 x",
            "GET / HTTP/1.1 HTTP/1.1",
            "/ HTTP/1.1",
            " / HTTP/1.1",
            "GET HTTP/1.1",
            "GET  HTTP/1.1",
            "HTTP/1.1",
            "HTTP/1.1 200 OK",
            "HTTP/1.1 GET /",
            "GET\r/ HTTP/1.1",
            "GET /\rHTTP/1.1",
            "GET / HTTP/1.1\r",
            "GET /\0 HTTP/1.1",
            "GET\0 / HTTP/1.1",
            "GET / HTTP/1.1\t",
            "\0GET / HTTP/1.1",
            "GET\u{a0}/ HTTP/1.1",
            "GET /\u{a0}HTTP/1.1",
            "GET\u{85}/ HTTP/1.1",
            "GET  /  HTTP/1.1",
            "GET \t/ HTTP/1.1",
            "GET / \tHTTP/1.1",
            "GET / HTTP/1.1\x0b",
            "GET /a HTTP/1.1\rX: y",
            "x GET / HTTP/1.1",
            "GET / HTTP/1.1GET / HTTP/1.1",
            "\x16\x03\x01\x02\0\x01\0",
            "PRI * HTTP/2.0",
            "SSH-2.0-x",
            "EHLO a",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2",
            "{\"a\":1}",
            "",
        ];
        for line in lines {
            self.add("Request lines", format!("{line}\r\nHost: a\r\n\r\n"));
            self.add("Request lines", format!("{line}\r\nHost: a\r\n\r\n{SECOND}"));
            self.add("Request lines", format!("{line}\n"));
            self.add("Request lines", format!("{line}\r\n\r\n"));
        }
        self.add("Request lines", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        self.add("Request lines", "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }

    fn connection_fields(&mut self) {
        let lists = [
            "close",
            "keep-alive",
            "Close",
            "close, keep-alive",
            "keep-alive, close",
            "x",
            "X",
            "x, y",
            "host",
            "Host",
            "content-length",
            "Content-Length",
            "transfer-encoding",
            "connection",
            "authorization",
            "cookie",
            "x-forwarded-for",
            "upgrade",
            "te",
            "trailer",
            "keep-alive, x",
            "close x",
            "close;x",
            "\"close\"",
            "",
            ",",
            ", ,",
            ",close",
            "close,",
            "close\0",
            "x\0",
            "expect",
            "date",
            "cl\u{f6}se",
            "@",
            "x y",
            "proxy-authorization",
            "http2-settings",
            "upgrade, http2-settings",
            "content-type",
            "server",
            "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w,x,y,z,aa,bb,cc,dd,ee,ff,gg,hh",
        ];
        for list in lists {
            let fields = "X: y\r\nAuthorization: z\r\nCookie: a=b\r\n";
            self.add("Connection", format!("GET /o HTTP/1.1\r\nHost: a\r\nConnection: {list}\r\n{fields}\r\n"));
            self.add("Connection", format!("GET /o HTTP/1.0\r\nHost: a\r\nConnection: {list}\r\n{fields}\r\n"));
            self.add("Connection", format!("POST /o HTTP/1.1\r\nHost: a\r\n{fields}Connection: {list}\r\nContent-Length: 5\r\n\r\nhello{SECOND}"));
        }
        let fields = [
            "Upgrade: websocket",
            "Upgrade: h2c",
            "Upgrade: h2c, websocket",
            "Upgrade: websocket, h2c",
            "Upgrade: HTTP/2.0",
            "Upgrade: x",
            "Upgrade: TLS/1.0",
            "Upgrade:",
            "Upgrade: ,",
            "Upgrade: \0",
            "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        ];
        for field in fields {
            for connection in ["upgrade", "Upgrade, HTTP2-Settings", "keep-alive"] {
                let head = format!("GET /o HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n{field}\r\n");
                self.add("Upgrade", format!("{head}\r\n"));
                self.add("Upgrade", format!("{head}\r\n{SECOND}"));
                self.add("Upgrade", format!("{head}Content-Length: 5\r\n\r\nhello{SECOND}"));
            }
        }
        for expectation in [
            "100-continue",
            "100-Continue",
            "100-continue ",
            "100-continue, x",
            "x",
            "",
            "100",
            "200-ok",
            "100-continue;x",
            "\"100-continue\"",
            "100-continue\0",
            "10 0-continue",
        ] {
            for rest in [
                "Content-Length: 5\r\n\r\nhello",
                "Content-Length: 0\r\n\r\n",
                "\r\n",
                "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            ] {
                self.add("Expect", format!("POST /x HTTP/1.1\r\nHost: a\r\nExpect: {expectation}\r\n{rest}"));
                self.add("Expect", format!("POST /x HTTP/1.0\r\nHost: a\r\nExpect: {expectation}\r\n{rest}"));
                self.add("Expect", format!("GET /x HTTP/1.1\r\nHost: a\r\nExpect: {expectation}\r\n{rest}{SECOND}"));
            }
            self.add("Expect", format!("POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nExpect: {expectation}\r\nContent-Length: 5\r\n\r\nhello"));
        }
        for field in [
            "TE: trailers",
            "TE: chunked",
            "Trailer: Content-Length",
            "Keep-Alive: 5",
            "Proxy-Connection: close",
            "Proxy-Authorization: x",
            "Via: 1.1 a",
            "Max-Forwards: 0",
            "X-Forwarded-For: 1.2.3.4",
            "Forwarded: for=x",
        ] {
            self.add("Connection", format!("GET /o HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n"));
            self.add("Connection", format!("OPTIONS * HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n"));
            self.add("Connection", format!("TRACE /o HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n"));
        }
    }

    fn sequences(&mut self) {
        let good = [
            "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            "POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "GET /4 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            "GET /5 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "POST /6 HTTP/1.1\r\nHost: a\r\n\r\n",
        ];
        let between = ["", "\r\n", "\r\n\r\n", "\n", "\r", " ", "\0", "x", "0\r\n\r\n", "hello", "\r\n\r\n\r\n"];
        for one in good {
            for odd in between {
                for other in iter::once(SECOND).chain(good) {
                    self.add("Sequences", format!("{one}{odd}{other}"));
                }
            }
        }
    }
}
