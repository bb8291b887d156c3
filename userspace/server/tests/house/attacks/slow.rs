//! Clients that take their time: over a head, a body, an answer, or over saying anything.

use super::site::{Honest, Site, crowd, last_status, on_both_drivers, push, rest, say};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn slowloris() {
    on_both_drivers(|io| {
        let mut site = Site::start(io, &[], "headTimeout: 1500ms");
        let honest = Honest::beside(&site);
        let mut crowd: Vec<TcpStream> = (0..crowd()).map(|_| site.connect()).collect();
        let head = format!("GET /mock HTTP/1.1\r\nHost: a\r\nX-Slow: {}", "y".repeat(1000));
        let began = Instant::now();
        for byte in head.as_bytes() {
            if began.elapsed() > Duration::from_millis(1800) {
                break;
            }
            for stream in &mut crowd {
                push(stream, std::slice::from_ref(byte));
            }
            thread::sleep(Duration::from_millis(40));
        }
        for stream in &mut crowd {
            assert_eq!(last_status(stream), 408);
        }
        site.counted("head_timeout", crowd.len());
        honest.was_served();
        // A byte that was received and not yet looked at sits in a buffer of 32 KiB, and the next one in another while the worker waits
        // for a CPU.
        site.grew_at_most(16 * 1024 + 72 * crowd.len() as u64);
        site.recovers();
    });
}

#[test]
fn slow_bodies() {
    on_both_drivers(|io| {
        let mut site = Site::start(io, &[], "bodyTimeout: 1s");
        let honest = Honest::beside(&site);
        let mut crowd: Vec<TcpStream> = (0..crowd() / 2).map(|_| site.connect()).collect();
        for (n, stream) in crowd.iter_mut().enumerate() {
            let framing = if n % 2 == 0 { "Content-Length: 100000" } else { "Transfer-Encoding: chunked" };
            let part = if n % 2 == 0 { "0123456789" } else { "ffff\r\n0123456789" };
            let head = format!("POST /steady/length/10/{n:x} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{part}");
            say(stream, head.as_bytes()).unwrap();
        }
        for stream in &mut crowd {
            assert_eq!(last_status(stream), 408);
        }
        site.counted("body_timeout", crowd.len());
        honest.was_served();
        // Each holds a connection to the backend as well.
        site.grew_at_most(16 * 1024 + 80 * crowd.len() as u64);
        site.recovers();
    });
}

#[test]
fn slow_readers() {
    on_both_drivers(|io| {
        let mut site = Site::start(io, &[], "sendTimeout: 1500ms");
        let honest = Honest::beside(&site);
        let generous = generous_backend();
        let pipeline = crate::world::proxy("proxy", &[format!("http://127.0.0.1:{generous}")]);
        site.machine.create(
            &pipeline
                .replace("name: proxy\nf", "name: generous\nf")
                .replace("  pools:", "  serverMaxBodySize: -1\n  pools:"),
        );
        site.route("/generous", "generous");
        let mut crowd: Vec<TcpStream> = (0..crowd() / 6).map(|_| site.connect_narrow()).collect();
        for stream in &mut crowd {
            say(stream, b"GET /generous HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        }
        site.cut_off(crowd.len());
        for stream in &mut crowd {
            let (got, orderly) = all(stream);
            assert!(got > 1000 && got < GENEROUS && !orderly, "{got} bytes came");
        }
        honest.was_served_like_an_echo();
        // A bound of what waits for each, not its whole answer of a GiB: 300 KiB, and on the ring what comes in before a receive that
        // is to stop has stopped, which may be a megabyte where a worker has to wait for its CPU.
        site.grew_at_most(16 * 1024 + 1500 * crowd.len() as u64);
        site.recovers();
    });
}

/// More than kernels take on behalf of a client that reads nothing.
const GENEROUS: usize = 1 << 30;

/// Answers every connection with [`GENEROUS`] bytes, from one thread. With a thread each, the hundred that send at the same time keep
/// the daemon's workers from their CPUs: what was measured then was how the scheduler shares a CPU among a hundred.
fn generous_backend() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let mut streams: Vec<TcpStream> = Vec::new();
        let piece = [b'x'; 32 << 10];
        loop {
            while let Ok((mut stream, _)) = listener.accept() {
                stream.set_nonblocking(false).unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {GENEROUS}\r\n\r\n");
                if say(&mut stream, head.as_bytes()).is_ok() && stream.set_nonblocking(true).is_ok() {
                    streams.push(stream);
                }
            }
            let mut idle = true;
            streams.retain_mut(|stream| match stream.write(&piece) {
                Ok(sent) => {
                    idle = false;
                    sent > 0
                }
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            });
            if idle {
                thread::sleep(Duration::from_millis(2));
            }
        }
    });
    port
}

/// How many bytes came until the other side closed, and whether it closed in order.
fn all(stream: &mut TcpStream) -> (usize, bool) {
    let (mut piece, mut got) = ([0; 64 << 10], 0);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return (got, true),
            Ok(count) => got += count,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
                return (got, false);
            }
        }
    }
}

#[test]
fn half_open() {
    on_both_drivers(|io| {
        let mut site = Site::start(io, &[], "headTimeout: 1500ms");
        let honest = Honest::beside(&site);
        let mut crowd: Vec<TcpStream> = (0..crowd() * 2).map(|_| site.connect()).collect();
        for stream in &mut crowd {
            assert_eq!(rest(stream), (String::new(), true), "nothing is said to who said nothing");
        }
        site.counted("first_byte_timeout", crowd.len());
        honest.was_served();
        site.grew_at_most(16 * 1024 + 4 * crowd.len() as u64);
        site.recovers();
    });
}
