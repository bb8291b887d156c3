//! The side that connects from a thread that waits, against rustls' own servers.

#[macro_use]
#[allow(dead_code, unused_macros, reason = "each test file uses its part")]
mod support;

#[path = "support/std_server.rs"]
mod std_server;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use base_tls::{BlockingTls, ClientTls, HandshakeError};
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use std_server::Served;
use support::*;

/// A server of `localhost` for one connection, and what it makes of that.
fn serve<T: Send + 'static>(
    authority: &Authority,
    version: &'static SupportedProtocolVersion,
    wants_certificate: bool,
    talk: impl FnOnce(Served) -> T + Send + 'static,
) -> (u16, JoinHandle<T>) {
    let own = authority.sign(&["localhost"]);
    std_server::serve((&own.chain, &own.key), version, wants_certificate.then(|| authority.der.clone()), 2, talk)
}

fn connect(tls: &ClientTls, port: u16, name: &str) -> Result<BlockingTls, HandshakeError> {
    tls.connect_blocking(TcpStream::connect(("127.0.0.1", port)).unwrap(), name, LIMIT, Some(LIMIT))
}

#[test]
fn what_is_said_arrives_and_both_sides_tell_that_they_close() {
    let authority = Authority::new("test");
    for version in [&TLS13, &TLS12] {
        let known = client_with(&authority, Some(authority.sign(&["edge"]).read()), &[]);
        let (port, server) = serve(&authority, version, true, |mut stream| {
            let mut asked = [0; 5];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(b"world").unwrap();
            // The client's end, which is no accident.
            assert_eq!(stream.read(&mut asked).unwrap(), 0);
            assert!(stream.conn.peer_certificates().is_some());
            asked
        });
        let mut stream = connect(&known, port, "localhost").unwrap();
        let mut answer = [0; 5];
        stream.write_all(b"hello").and_then(|()| stream.flush()).unwrap();
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"world");
        drop(stream);
        assert_eq!(&server.join().unwrap(), b"hello");
    }
    let plain = client(&authority);
    let (port, server) = serve(&authority, &TLS13, false, |mut stream| {
        stream.write_all(b"x").unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        // It goes when the other has heard it.
        let _ = stream.read(&mut [0]);
    });
    let mut stream = connect(&plain, port, "localhost").unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"x");
    drop(stream);
    server.join().unwrap();
}

#[test]
fn a_server_that_goes_without_a_word_is_not_taken_for_one_that_closes() {
    let authority = Authority::new("test");
    let (port, server) = serve(&authority, &TLS13, false, |mut stream| {
        stream.write_all(b"x").unwrap();
        stream.sock.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut stream = connect(&client(&authority), port, "localhost").unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    server.join().unwrap();
}

/// In TLS 1.3 the handshake is over for the client before the server has looked at its certificate.
#[test]
fn a_server_that_does_not_like_us_is_heard_before_anything_is_sent() {
    let authority = Authority::new("test");
    for version in [&TLS13, &TLS12] {
        let (port, server) = serve(&authority, version, true, |mut stream| {
            assert!(stream.read(&mut [0]).is_err());
        });
        let told = connect(&client(&authority), port, "localhost").unwrap_err();
        assert!(matches!(&told, HandshakeError::Tls(why) if why.contains("ertificate")), "{told}");
        server.join().unwrap();
    }
}

/// Each connection to a server that sends no tickets took a second longer.
#[test]
fn a_server_that_has_nothing_to_say_is_not_waited_for() {
    let authority = Authority::new("test");
    let known = client_with(&authority, Some(authority.sign(&["edge"]).read()), &[]);
    // It asked for no certificate, or for one that the caller hears about with the answer.
    for (wants_certificate, verdict) in [(false, Some(FOREVER)), (true, None)] {
        let own = authority.sign(&["localhost"]);
        let wants = wants_certificate.then(|| authority.der.clone());
        let (port, server) = std_server::serve((&own.chain, &own.key), &TLS13, wants, 0, |mut stream| {
            let mut asked = [0; 5];
            stream.read_exact(&mut asked).unwrap();
            asked
        });
        let (told, heard) = std::sync::mpsc::channel();
        let tls = known.clone();
        std::thread::spawn(move || {
            let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
            told.send(tls.connect_blocking(socket, "localhost", FOREVER, verdict)).unwrap();
        });
        let mut stream = heard.recv_timeout(LIMIT).expect("it waits for nothing").unwrap();
        stream.write_all(b"hello").and_then(|()| stream.flush()).unwrap();
        assert_eq!(&server.join().unwrap(), b"hello");
    }
}

const FOREVER: Duration = Duration::from_secs(24 * 3600);

#[test]
fn a_server_that_does_not_like_us_is_heard_by_who_did_not_wait_too() {
    let authority = Authority::new("test");
    for reads in [true, false] {
        let (port, server) = serve(&authority, &TLS13, true, |mut stream| {
            assert!(stream.read(&mut [0]).is_err());
        });
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut stream = client(&authority).connect_blocking(socket, "localhost", LIMIT, None).unwrap();
        if reads {
            let told = stream.read(&mut [0]).unwrap_err();
            assert!(told.to_string().contains("ertificate"), "{told}");
        }
        server.join().unwrap();
        let told = loop {
            if let Err(error) = stream.write_all(b"hello").and_then(|()| stream.flush()) {
                break error;
            }
        };
        assert!(reads || told.to_string().contains("ertificate"), "{told}");
    }
}

#[test]
fn whom_we_do_not_believe_is_told_nothing() {
    let (authority, other) = (Authority::new("test"), Authority::new("other"));
    for (tls, name) in [(client(&other), "localhost"), (client(&authority), "elsewhere.test")] {
        let (port, server) = serve(&authority, &TLS13, false, |mut stream| {
            assert!(stream.read(&mut [0]).is_err());
        });
        assert!(matches!(connect(&tls, port, name).unwrap_err(), HandshakeError::Tls(_)));
        server.join().unwrap();
    }
}

#[test]
fn a_server_that_says_nothing_is_waited_for_so_long() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let authority = Authority::new("test");
    let told = client(&authority).connect_blocking(socket, "localhost", Duration::from_millis(50), None).unwrap_err();
    assert!(matches!(told, HandshakeError::TimedOut), "{told}");
}
