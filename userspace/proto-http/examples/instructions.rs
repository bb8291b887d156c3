//! Work for an instruction counter: `valgrind --tool=callgrind --toggle-collect='*measured_*' …`, or the difference between two runs.
//!
//! ```text
//! instructions parse|httparse|relay|response|body ROUNDS
//! ```

use proto_http::h1::{
    BodyDecoder, Framing, RequestOptions, ResponseOptions, parse_request, parse_response, write_request_head,
    write_response_head,
};
use proto_http::{Limits, Method, Request, Response, Version};
use std::hint::black_box;

const REQUEST: &[u8] = b"GET /api/v1/items?id=42 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: curl/8.5.0\r\n\
    Accept: */*\r\nAccept-Encoding: gzip, deflate, br\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n\
    X-Request-Id: 7f3c2d1e-8a5b-4c9d\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
    Content-Type: application/octet-stream\r\nContent-Length: 1024\r\nConnection: keep-alive\r\n\
    Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";

fn main() {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let rounds: usize = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let limits = Limits::default();
    let (mut request, mut response, mut out) = (Request::default(), Response::default(), Vec::new());
    let mut chunked = b"400\r\n".to_vec();
    chunked.extend([b'x'; 1024]);
    chunked.extend(b"\r\n0\r\n\r\n");
    for _ in 0..rounds {
        match what.as_str() {
            "parse" => {
                black_box(parse_request(black_box(REQUEST), &limits, &mut request)).unwrap().unwrap();
            }
            // The yardstick: finds the fields and no more.
            "httparse" => {
                let mut fields = [httparse::EMPTY_HEADER; 32];
                let mut other = httparse::Request::new(&mut fields);
                black_box(other.parse(black_box(REQUEST)).unwrap());
            }
            "relay" => {
                parse_request(black_box(REQUEST), &limits, &mut request).unwrap().unwrap();
                out.clear();
                let options = RequestOptions {
                    framing: Framing::Empty,
                    host: "127.0.0.1:9095",
                    upgrade: false,
                    expect_continue: false,
                };
                write_request_head(&mut out, &request, &options);
                black_box(&out);
            }
            "response" => {
                let head = parse_response(black_box(RESPONSE), &limits, &Method::Get, &mut response).unwrap().unwrap();
                out.clear();
                let options = ResponseOptions {
                    framing: head.framing,
                    keep_alive: true,
                    client: Version::Http11,
                    date: "",
                    upgrade: false,
                    head_request: false,
                    tunnel: false,
                };
                write_response_head(&mut out, &response, &options);
                black_box(&out);
            }
            "body" => {
                let mut decoder = BodyDecoder::new(Framing::Chunked, &limits);
                black_box(decoder.decode(black_box(&chunked)).unwrap());
                assert!(decoder.is_done());
            }
            _ => return eprintln!("parse, httparse, relay, response or body"),
        }
    }
}
