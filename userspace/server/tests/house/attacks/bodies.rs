//! Bodies that are too much, or too little at a time.

use super::site::{Honest, Site, last_status, on_both_drivers, say};
use crate::soak::script::Script;
use crate::world::Connection;
use std::io::Write;

const TIMES: usize = 30;

#[test]
fn tiny_chunks() {
    on_both_drivers(|io| {
        let mut site = Site::start(io, &[], "");
        let honest = Honest::beside(&site);
        // Allowed, however silly: it arrives as it was meant.
        let count = 20_000;
        let chunks = "1\r\nz\r\n".repeat(count) + "0\r\n\r\n";
        let script = Script::parse("/steady/length/5000/77").unwrap();
        let expected = String::from_utf8_lossy(&script.answer(&vec![b'z'; count])).into_owned();
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    let mut stream = site.connect();
                    let head = format!("POST {} HTTP/1.1\r\nHost: a\r\n", script.path());
                    stream.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}").as_bytes()).unwrap();
                    let answer = Connection::over(stream).receive().unwrap();
                    assert!(answer.status == 200 && answer.body == expected, "{}", answer.head);
                });
            }
        });
        // With extensions that are longer than what they extend.
        let long = "1;".to_owned() + &"e".repeat(2000) + "\r\nz\r\n";
        let short = ("1;".to_owned() + &"e".repeat(200) + "\r\nz\r\n").repeat(1000);
        for body in [&long, &short] {
            let before = site.limit("chunk_extension_too_large");
            let mut crowd: Vec<_> = (0..TIMES).map(|_| site.connect()).collect();
            for stream in &mut crowd {
                let head = format!("POST {} HTTP/1.1\r\nHost: a\r\n", script.path());
                let _ = say(stream, format!("{head}Transfer-Encoding: chunked\r\n\r\n{body}").as_bytes());
            }
            for stream in &mut crowd {
                assert_eq!(last_status(stream), 400);
            }
            site.counted("chunk_extension_too_large", before as usize + TIMES);
        }
        honest.was_served();
        site.grew_at_most(24 * 1024);
        site.recovers();
    });
}

#[test]
fn bodies_beyond_their_limit() {
    on_both_drivers(|io| {
        let mut site = Site::start(io, &[], "clientMaxBodySize: 100000");
        let honest = Honest::beside(&site);
        let body = "b".repeat(300_000);
        let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        for (framing, body) in [("Content-Length: 300000", &body), ("Transfer-Encoding: chunked", &chunked)] {
            let before = site.limit("request_body_bytes");
            let mut crowd: Vec<_> = (0..TIMES).map(|_| site.connect()).collect();
            for stream in &mut crowd {
                let head = format!("POST /steady/length/10/1 HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
                let _ = say(stream, head.as_bytes());
                let _ = say(stream, body.as_bytes());
            }
            for stream in &mut crowd {
                assert_eq!(last_status(stream), 413, "{framing}");
            }
            site.counted("request_body_bytes", before as usize + TIMES);
        }
        // Announced beyond all reason.
        let mut stream = site.connect();
        say(&mut stream, b"POST /mock HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000000000000000\r\n\r\n").unwrap();
        assert_eq!(last_status(&mut stream), 413);
        honest.was_served();
        site.grew_at_most(24 * 1024);
        site.recovers();
    });
}
