//! More requests or connections than there is room for.

use super::site::{Honest, Site, crowd, on_both_drivers, push, rest};
use crate::world::{Connection, Machine, answers, eventually};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

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
        site.grew_at_most(8 * 1024 + 8 * most as u64);
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
        drop(flood);
        eventually("new connections are served again", || crate::world::get(site.port, "/mock").ok());
        answers(site.port, "/steady/length/10/3", 200);
        honest.was_served();
        site.grew_at_most(16 * 1024);
        site.recovers();
    });
}
