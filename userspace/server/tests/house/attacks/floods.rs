//! More requests or connections than there is room for.

use super::site::{Honest, Site, crowd, on_both_drivers, push, rest, say};
use crate::world::{Connection, Machine, answers, eventually};
use std::io::{self, ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn pipelined_requests_without_a_reader() {
    on_both_drivers(|io| {
        let mut site = Site::start(io, &[], "sendTimeout: 1500ms");
        let honest = Honest::beside(&site);
        let mut crowd: Vec<TcpStream> = (0..10).map(|_| site.connect_narrow()).collect();
        let flood = "GET /mock HTTP/1.1\r\nHost: a\r\n\r\n".repeat(10_000);
        for stream in &mut crowd {
            push(stream, flood.as_bytes());
        }
        site.cut_off(crowd.len());
        for stream in &mut crowd {
            let (text, orderly) = rest(stream);
            let answers = text.matches("HTTP/1.1 200").count();
            assert!(!orderly && answers < 9_000, "{answers} answers were made for nobody");
        }
        honest.was_served();
        site.grew_at_most(24 * 1024);
        site.recovers();
    });
}

#[test]
fn connections_past_their_maximum() {
    on_both_drivers(|io| {
        let most = crowd() / 4;
        let mut site = Site::start(io, &[], &format!("maxConnections: {most}\nheadTimeout: 1s"));
        let honest = Honest::settled_beside(&site);
        let mut silent: Vec<TcpStream> = (0..3 * most).map(|_| site.connect()).collect();
        site.counted("max_connections", 1);
        // Those that are let in end, the next come in, and an honest one among them has its turn.
        let mut late = Connection::open(&format!("127.0.0.1:{}", site.port)).unwrap();
        assert_eq!(late.request("GET", "/mock", &[], "").unwrap().status, 200);
        for stream in &mut silent {
            rest(stream);
        }
        drop(late);
        honest.was_served();
        site.grew_at_most(16 * 1024 + 8 * most as u64);
        site.recovers();
    });
}

#[test]
fn connections_past_the_descriptors() {
    on_both_drivers(|io| {
        let machine = Machine::new("m1").flags(["--io", io, "--workers", "2"]).descriptors(256);
        let mut site = Site::begin(machine, "headTimeout: 2s");
        let honest = Honest::settled_beside(&site);
        let flood: Vec<TcpStream> =
            (0..600).filter_map(|_| TcpStream::connect(("127.0.0.1", site.port)).ok()).collect();
        thread::sleep(Duration::from_millis(1500));
        site.machine.still_runs();
        // Whoever looks after the machine still reaches it, and is told what is short.
        let used = site.figure("weir_overload_pressure", "resource=\"descriptors\"");
        assert!(used > 0.9, "the admin API says that {used} of the descriptors are used");
        drop(flood);
        eventually("new connections are served again", || crate::world::get(site.port, "/mock").ok());
        answers(site.port, "/steady/length/10/3", 200);
        honest.was_served();
        site.grew_at_most(16 * 1024);
        site.recovers();
    });
}

/// Answers without an announced length are gathered before they are relayed: a hundred of them at once, each just below its own
/// limit, are held while their backend lets everybody wait.
#[test]
fn memory_beyond_its_ceiling() {
    on_both_drivers(|io| {
        let mut site = Site::start(io, &["--memory-limit", "64MiB"], "");
        // An answer passes as it comes; one that a filter looks into is gathered.
        let proxy = crate::world::proxy("hoard", &[format!("http://127.0.0.1:{}", hoarding_backend())]);
        let gathers = "- kind: ResponseAdaptor\n  name: gather\n  template: \"body: '{{len .resp.Body}}'\"\n";
        site.machine.create(&format!("{proxy}{gathers}"));
        let address = format!("127.0.0.1:{}", site.port);
        site.route("/hoard", "hoard");
        let ask = move || {
            // What it waits for is the daemon: where so much goes through the kernel's queues at once that it drops what begins a
            // connection, that is said again a second later, and the daemon has not heard of it.
            let mut connection = Connection::open(&address)?;
            let since = Instant::now();
            let answer = connection.request("GET", "/mock", &[], "")?;
            let advised = answer.head.to_lowercase().contains("retry-after: ");
            match answer.status {
                200 => Ok(since),
                503 if advised => Ok(since),
                _ => Err(io::Error::other(format!("{answer:?}"))),
            }
        };
        // Connections on which nothing was asked yet make room for others: whoever meets that asks on another one.
        let honest = Honest::asking(move |_| {
            let again = |told: &io::Result<Instant>| told.as_ref().is_err_and(is_closed);
            let mut told = ask();
            for _ in 0..20 {
                if !again(&told) {
                    break;
                }
                told = ask();
            }
            told
        });
        let mut crowd: Vec<TcpStream> = (0..crowd() / 6).map(|_| site.connect()).collect();
        for stream in &mut crowd {
            say(stream, b"GET /hoard HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        }
        let mut refused = 0;
        for stream in &mut crowd {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            refused += usize::from(bytes.starts_with(b"HTTP/1.1 503"));
        }
        assert!(refused > crowd.len() / 2, "{refused} of {} were refused", crowd.len());
        site.counted("memory", 1);
        honest.was_served();
        // Three times the limit: what is gathered grows by doubling, and the allocator keeps for a while what was outgrown.
        site.grew_at_most(192 * 1024);
        site.recovers();
    });
}

/// The other side had closed before anything was said to it.
fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// Answers with a body of unknown length whose end does not come for a while.
fn hoarding_backend() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let piece = format!("{:x}\r\n{}\r\n", 32 << 10, "x".repeat(32 << 10));
                let mut sent = say(&mut stream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                for _ in 0..110 {
                    sent = sent.and_then(|()| say(&mut stream, piece.as_bytes()));
                }
                thread::sleep(Duration::from_secs(2));
                let _ = say(&mut stream, b"0\r\n\r\n");
            });
        }
    });
    port
}
