//! Work for an instruction counter: one named operation, so and so often.
//!
//! ```text
//! instructions --list                      the operations, one a line
//! instructions OPERATION ITERATIONS        does it that often and prints nothing
//! ```
//!
//! What one iteration costs is the difference between two runs, divided by the difference of their iterations; what start-up
//! costs is in neither:
//!
//! ```text
//! valgrind --tool=callgrind target/release/examples/instructions parse-request 1000     # Collected : a
//! valgrind --tool=callgrind target/release/examples/instructions parse-request 2000     # Collected : b; (b - a) / 1000
//! ```

use proto_http::h1::{
    BodyDecoder, Framing, RequestOptions, ResponseOptions, parse_request, parse_response, write_request_head,
    write_response_head,
};
use proto_http::{Limits, Method, Path, Request, Response, Version};
use std::hint::black_box;
use std::process::ExitCode;

/// What a program sends.
const REQUEST: &[u8] = b"GET /api/v1/items?id=42 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: curl/8.5.0\r\n\
    Accept: */*\r\nAccept-Encoding: gzip, deflate, br\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n\
    X-Request-Id: 7f3c2d1e-8a5b-4c9d\r\n\r\n";

/// What a browser sends: 16 fields, some with digits in their names or more than fifteen letters.
const BROWSER: &[u8] = b"GET /static/app.min.js?v=1.2.3 HTTP/1.1\r\nHost: www.shop.example.com\r\nConnection: keep-alive\r\n\
    sec-ch-ua: \"Chromium\";v=\"124\", \"Not-A.Brand\";v=\"99\"\r\nsec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Linux\"\r\n\
    Upgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/124.0.0.0 Safari/537.36\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\n\
    Referer: https://www.shop.example.com/items/42\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\r\n";

/// What a static file is answered with.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
    Content-Type: application/octet-stream\r\nContent-Length: 1024\r\nConnection: keep-alive\r\n\
    Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";

type Operation = (&'static str, fn(usize));

const OPERATIONS: &[Operation] = &[
    ("parse-request", |n| parse_heads(REQUEST, n)),
    ("parse-browser-request", |n| parse_heads(BROWSER, n)),
    ("httparse-request", |n| httparse_heads(REQUEST, n)),
    ("httparse-browser-request", |n| httparse_heads(BROWSER, n)),
    ("write-request", write_requests),
    ("parse-response", parse_responses),
    ("write-response", write_responses),
    ("decode-chunk", decode_chunks),
    ("parse-path", parse_paths),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--list"] => OPERATIONS.iter().for_each(|(name, _)| println!("{name}")),
        [name, iterations] => match (OPERATIONS.iter().find(|(n, _)| n == name), iterations.parse()) {
            (Some((_, run)), Ok(iterations)) => run(iterations),
            _ => return usage(),
        },
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("instructions OPERATION ITERATIONS, or instructions --list");
    ExitCode::FAILURE
}

fn parse_heads(head: &[u8], iterations: usize) {
    let (limits, mut request) = (Limits::default(), Request::default());
    for _ in 0..iterations {
        black_box(parse_request(black_box(head), &limits, &mut request)).unwrap().unwrap();
    }
}

/// The yardstick: finds the fields and no more.
fn httparse_heads(head: &[u8], iterations: usize) {
    for _ in 0..iterations {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        black_box(httparse::Request::new(&mut fields).parse(black_box(head)).unwrap());
    }
}

fn write_requests(iterations: usize) {
    let (mut request, mut out) = (Request::default(), Vec::new());
    parse_request(REQUEST, &Limits::default(), &mut request).unwrap().unwrap();
    for _ in 0..iterations {
        out.clear();
        let options =
            RequestOptions { framing: Framing::Empty, host: "127.0.0.1:9095", upgrade: false, expect_continue: false };
        write_request_head(&mut out, black_box(&request), &options);
        black_box(&out);
    }
}

fn parse_responses(iterations: usize) {
    let (limits, mut response) = (Limits::default(), Response::default());
    for _ in 0..iterations {
        black_box(parse_response(black_box(RESPONSE), &limits, &Method::Get, &mut response)).unwrap().unwrap();
    }
}

fn write_responses(iterations: usize) {
    let (mut response, mut out) = (Response::default(), Vec::new());
    let head = parse_response(RESPONSE, &Limits::default(), &Method::Get, &mut response).unwrap().unwrap();
    for _ in 0..iterations {
        out.clear();
        let options = ResponseOptions {
            framing: head.framing,
            keep_alive: true,
            client: Version::Http11,
            date: "",
            upgrade: None,
            head_request: false,
            tunnel: false,
        };
        write_response_head(&mut out, black_box(&response), &options);
        black_box(&out);
    }
}

/// A body of one chunk of 1 KiB.
fn decode_chunks(iterations: usize) {
    let limits = Limits::default();
    let chunked = [b"400\r\n", &[b'x'; 1024][..], b"\r\n0\r\n\r\n"].concat();
    for _ in 0..iterations {
        let mut decoder = BodyDecoder::new(Framing::Chunked, &limits);
        black_box(decoder.decode(black_box(&chunked)).unwrap());
        assert!(decoder.is_done());
    }
}

/// A path with something to decode and something to resolve.
fn parse_paths(iterations: usize) {
    for _ in 0..iterations {
        black_box(Path::parse(black_box(b"/static/%7Euser/./img/../caf%C3%A9.png")).unwrap());
    }
}
