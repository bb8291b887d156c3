//! Heads that are too much.

use super::site::{Honest, Site, last_status, on_both_drivers, push, say};

/// Several of each at the same time.
const TIMES: usize = 40;

#[test]
fn header_bombs() {
    on_both_drivers(|io| {
        let mut site = Site::start(io, &[], "");
        let honest = Honest::beside(&site);
        let many: String = (0..4000).map(|n| format!("a{n}: \r\n")).collect();
        let large = format!("X: {}\r\n", "c".repeat(30_000));
        let bombs = [
            ("too_many_fields", format!("GET /mock HTTP/1.1\r\nHost: a\r\n{many}\r\n")),
            ("field_too_large", format!("GET /mock HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", "c".repeat(40_000))),
            ("head_too_large", format!("GET /mock HTTP/1.1\r\nHost: a\r\n{}", large.repeat(10))),
            ("too_many_fields", format!("GET /mock HTTP/1.1\r\nHost: a\r\n{}\r\n", "Cookie: a=b\r\n".repeat(1000))),
        ];
        for (name, bomb) in &bombs {
            let before = site.limit(name);
            let mut crowd: Vec<_> = (0..TIMES).map(|_| site.connect()).collect();
            for stream in &mut crowd {
                push(stream, bomb.as_bytes());
            }
            for stream in &mut crowd {
                assert_eq!(last_status(stream), 431, "{name}");
            }
            site.counted(name, before as usize + TIMES);
        }
        honest.was_served();
        // What is held at the peak differs by how many of the crowd are read at once: 16 to 33 MiB were seen.
        site.grew_at_most(48 * 1024);
        site.recovers();
    });
}

#[test]
fn long_targets() {
    on_both_drivers(|io| {
        let mut site = Site::start(io, &[], "");
        let honest = Honest::beside(&site);
        for length in [9_000, 60_000, 500_000] {
            let before = site.limit("target_too_long");
            let mut crowd: Vec<_> = (0..TIMES).map(|_| site.connect()).collect();
            for stream in &mut crowd {
                push(stream, format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(length)).as_bytes());
            }
            for stream in &mut crowd {
                assert_eq!(last_status(stream), 414, "{length}");
            }
            site.counted("target_too_long", before as usize + TIMES);
        }
        honest.was_served();
        site.grew_at_most(32 * 1024);
        site.recovers();
    });
}

#[test]
fn expectations() {
    on_both_drivers(|io| {
        let mut site = Site::start(io, &[], "bodyTimeout: 1s\nclientMaxBodySize: 1000");
        let honest = Honest::beside(&site);
        let ask = |fields: &str| format!("POST /steady/length/10/1 HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        let mut strange = site.connect();
        say(&mut strange, ask("Content-Length: 5\r\nExpect: a-miracle").as_bytes()).unwrap();
        assert_eq!(last_status(&mut strange), 417);
        site.counted("expectation", 1);
        // Invited, and then nothing.
        let mut crowd: Vec<_> = (0..TIMES).map(|_| site.connect()).collect();
        for stream in &mut crowd {
            say(stream, ask("Content-Length: 500\r\nExpect: 100-continue").as_bytes()).unwrap();
        }
        for stream in &mut crowd {
            let (text, _) = super::site::rest(stream);
            assert!(text.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 408"), "{text}");
        }
        site.counted("body_timeout", TIMES);
        // Refused without an invitation: what follows may be the body or a request, so nothing more is read.
        let smuggled = "GET /mock HTTP/1.1\r\nHost: smuggled\r\n\r\n";
        for (path, length, status) in [("/none", smuggled.len(), 404), ("/steady/length/10/1", 2000, 413)] {
            let mut stream = site.connect();
            let head =
                format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n");
            say(&mut stream, head.as_bytes()).unwrap();
            // The answer is there before the body is.
            stream.peek(&mut [0]).unwrap();
            let _ = say(&mut stream, smuggled.repeat(3).as_bytes());
            let (text, _) = super::site::rest(&mut stream);
            assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
            assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
        }
        // Sent without waiting, it is a body.
        let mut stream = site.connect();
        let head = format!(
            "POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
            smuggled.len()
        );
        say(&mut stream, format!("{head}{smuggled}").as_bytes()).unwrap();
        say(&mut stream, b"GET /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let (text, _) = super::site::rest(&mut stream);
        assert!(text.starts_with("HTTP/1.1 404") && !text.contains("HTTP/1.1 200"), "{text}");
        honest.was_served();
        site.grew_at_most(16 * 1024);
        site.recovers();
    });
}
