//! Bodies that are small packed and large unpacked, through each filter that unpacks: what is unpacked goes on in windows, as its
//! receiver takes it, and is never all in memory.

use super::site::{Honest, Site, crowd, on_both_drivers, say};
use crate::world::eventually;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Unpacked bytes of a bomb that is let through: a little less than the 16 MiB a body may unpack to.
const ALLOWED: usize = 15 << 20;
/// And of one that is not.
const FORBIDDEN: usize = 64 << 20;

/// What one bomb may take, in KiB: itself, the state of its decoder, and what waits in each direction for somebody who reads nothing.
const EACH_KIB: u64 = 600;

#[test]
fn bombs_for_a_backend_that_takes_nothing() {
    on_both_drivers(|io| {
        let mut site = Site::start(io, &[], "");
        let honest = Honest::beside(&site);
        let deaf = Peer::start(Vec::new());
        site.pipeline("unpack", "kind: RequestAdaptor\n  decompress: gzip", deaf.port, true);
        let mut crowd = clients(&site);
        bomb(&mut crowd, "/unpack", ALLOWED);
        eventually("all bombs are on their way", || (deaf.asked() >= crowd.len()).then_some(()));
        // More than may be: it goes nowhere.
        let mut more = clients(&site);
        bomb(&mut more, "/unpack", FORBIDDEN);
        site.counted("unpacked_body_bytes", more.len());
        for stream in &mut more {
            assert_eq!(status(stream), "503", "no filter had an answer");
        }
        assert_eq!(deaf.asked(), crowd.len(), "what unpacks to too much reaches no backend");
        honest.was_served();
        site.grew_at_most(16 * 1024 + EACH_KIB * 2 * crowd.len() as u64);
        drop(crowd);
        site.recovers();
    });
}

#[test]
fn bombs_for_clients_that_read_nothing() {
    on_both_drivers(|io| {
        let mut site = Site::start(io, &[], "");
        let honest = Honest::beside(&site);
        let allowed = Peer::start(answer(ALLOWED));
        site.pipeline("allowed", "kind: ResponseAdaptor\n  decompress: gzip", allowed.port, false);
        let mut crowd: Vec<TcpStream> = (0..crowd() / 20).map(|_| site.connect_narrow()).collect();
        for stream in &mut crowd {
            say(stream, b"GET /allowed HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        }
        for stream in &mut crowd {
            assert_eq!(status(stream), "200");
        }
        let forbidden = Peer::start(answer(FORBIDDEN));
        site.pipeline("forbidden", "kind: ResponseAdaptor\n  decompress: gzip", forbidden.port, false);
        let before = site.limit("unpacked_body_bytes") as usize;
        let mut more = clients(&site);
        for stream in &mut more {
            say(stream, b"GET /forbidden HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        }
        site.counted("unpacked_body_bytes", before + more.len());
        for stream in &mut more {
            assert_eq!(status(stream), "200", "the answer stays packed");
        }
        honest.was_served();
        site.grew_at_most(16 * 1024 + EACH_KIB * 2 * crowd.len() as u64);
        drop(crowd);
        site.recovers();
    });
}

fn clients(site: &Site) -> Vec<TcpStream> {
    (0..crowd() / 20).map(|_| site.connect()).collect()
}

/// Of the answer that comes next, of which nothing else is read.
fn status(stream: &mut TcpStream) -> String {
    let mut line = [0; 12];
    stream.read_exact(&mut line).unwrap();
    String::from_utf8_lossy(&line[9..]).into_owned()
}

fn packed(unpacked: usize) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = [0; 1 << 20];
    (0..unpacked >> 20).for_each(|_| encoder.write_all(&zeros).unwrap());
    encoder.finish().unwrap()
}

fn bomb(crowd: &mut [TcpStream], path: &str, unpacked: usize) {
    let body = packed(unpacked);
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", body.len());
    for stream in crowd {
        say(stream, &[head.as_bytes(), &body].concat()).unwrap();
    }
}

fn answer(unpacked: usize) -> Vec<u8> {
    let body = packed(unpacked);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), &body].concat()
}

/// A backend that reads heads alone. It gives every one of them its answer; one that has none says nothing to a POST.
struct Peer {
    port: u16,
    asked: Arc<AtomicUsize>,
}

impl Peer {
    fn start(answer: Vec<u8>) -> Peer {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, answer) = (asked.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let (count, answer) = (count.clone(), answer.clone());
                thread::spawn(move || {
                    let mut byte = [0];
                    let mut head = Vec::new();
                    while stream.read(&mut byte).is_ok_and(|read| read > 0) {
                        head.push(byte[0]);
                        if head.ends_with(b"\r\n\r\n") {
                            let is_bomb = head.starts_with(b"POST");
                            head.clear();
                            if answer.is_empty() && !is_bomb {
                                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
                                continue;
                            }
                            count.fetch_add(1, Ordering::SeqCst);
                            if answer.is_empty() {
                                // Until the daemon has had enough, which shows without reading.
                                while stream.peek(&mut byte).is_ok_and(|n| n > 0) && is_open(&stream) {
                                    thread::sleep(std::time::Duration::from_millis(20));
                                }
                                return;
                            }
                            if stream.write_all(&answer).is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Peer { port, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Whether the other side has neither finished nor reset, whatever it sent before.
fn is_open(stream: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut asked = [PollFd::new(stream, PollFlags::RDHUP)];
    let told = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    told.is_ok_and(|told| told == 0)
}
