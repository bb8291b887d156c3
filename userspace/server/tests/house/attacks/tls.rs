//! Attacks on handshakes, tickets and records.

use super::site::{Honest, Site, crowd, on_both_drivers, push, rest};
use crate::soak::{certificates, tls_settings};
use crate::world::{PATIENCE, eventually, free_port, program};
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, NamedGroup, StreamOwned};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

#[test]
fn handshakes_that_are_never_finished() {
    on_both_drivers(|io| {
        let mut site = Site::start(io, &[], "");
        let front = Front::open(&site, "tls", "");
        let honest = front.honest();
        let mut hello = Vec::new();
        front.client().write_tls(&mut hello).unwrap();
        // Whole hellos cost the most, halves wait the longest, and garbage is no hello at all.
        let mut flood: Vec<TcpStream> = (0..crowd()).map(|_| front.connect()).collect();
        for (n, stream) in flood.iter_mut().enumerate() {
            match n % 4 {
                0 => push(stream, &hello[..hello.len() / 2]),
                1 => push(stream, b"\x16\x03\x01\xff\xff"),
                _ => push(stream, &hello),
            };
        }
        // A new client among them has its turn.
        let mut late = front.open_client(front.client()).unwrap();
        get(&mut late).unwrap();
        let failed = || site.figure("weir_tls_handshake_failures_total", "reason=");
        eventually("all have failed", || (failed() >= flood.len() as f64).then_some(()));
        for stream in &mut flood {
            rest_of_bytes(stream);
        }
        drop(late);
        honest.was_served();
        site.grew_at_most(24 * 1024 + 80 * flood.len() as u64);
        site.recovers();
    });
}

#[test]
fn renegotiation() {
    let Some(openssl) = program("openssl") else { return };
    let mut site = Site::start("auto", &[], "");
    let front = Front::open(&site, "tls", "");
    let honest = front.honest();
    let mut client = Command::new(openssl)
        .args(["s_client", "-tls1_2", "-servername", "soak.test", "-connect"])
        .arg(format!("127.0.0.1:{}", front.port))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    let handshakes = || site.figure("weir_tls_handshakes_total", "side=\"server\"");
    let before = handshakes();
    eventually("the handshake is over", || (handshakes() > before).then_some(()));
    // The letter on a line of its own asks s_client to renegotiate.
    let _ = input.write_all(b"R\n");
    let done = client.wait_with_output().unwrap();
    drop(input);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("no renegotiation") || said.contains("alert") || said.contains("unexpected"), "{said}");
    assert!(site.figure("weir_tls_events_total", "renegotiations_refused") >= 1.0);
    honest.was_served();
    site.recovers();
}

#[test]
fn tickets_of_another_policy() {
    on_both_drivers(|io| {
        let mut site = Site::start(io, &[], "");
        let authority = certificates().remove(0).0;
        let (open, other) = (Front::open(&site, "open", ""), Front::open(&site, "other", ""));
        let indented: String = authority.lines().map(|line| format!("  {line}\n")).collect();
        let guarded = Front::open(&site, "guarded", &format!("caCertBase64: |\n{indented}"));
        let honest = open.honest();
        let version = |version: &'static rustls::SupportedProtocolVersion, store: &Arc<Tickets>| {
            let mut roots = rustls::RootCertStore::empty();
            for front in [&open, &other, &guarded] {
                roots.add(front.certificate()).unwrap();
            }
            let mut settings = ClientConfig::builder_with_protocol_versions(&[version])
                .with_root_certificates(roots)
                .with_no_client_auth();
            settings.resumption = Resumption::store(store.clone());
            Arc::new(settings)
        };
        for protocol in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let store = Arc::new(Tickets::default());
            let settings = version(protocol, &store);
            let talk = |front: &Front| -> io::Result<HandshakeKind> {
                let mut stream = front.open_client(ClientConnection::new(settings.clone(), name()).unwrap())?;
                get(&mut stream)?;
                Ok(stream.conn.handshake_kind().unwrap())
            };
            assert_ne!(talk(&open).unwrap(), HandshakeKind::Resumed);
            assert_eq!(talk(&open).unwrap(), HandshakeKind::Resumed, "tickets work where they are from");
            // Of another certificate: no resumption, and no harm.
            assert_ne!(talk(&other).unwrap(), HandshakeKind::Resumed);
            assert_eq!(talk(&other).unwrap(), HandshakeKind::Resumed);
            store.forget();
            assert_ne!(talk(&open).unwrap(), HandshakeKind::Resumed);
            // Of a server that asks for no certificate: it opens no door where one is needed.
            for _ in 0..20 {
                assert!(talk(&guarded).is_err(), "a ticket stood in for a certificate");
            }
        }
        // Tickets with a flipped byte, wherever it falls.
        let store = Arc::new(Tickets::default());
        let settings = version(&rustls::version::TLS13, &store);
        for n in 0..200 {
            let mut stream = open.open_client(ClientConnection::new(settings.clone(), name()).unwrap()).unwrap();
            get(&mut stream).unwrap();
            drop(stream);
            let mut client = ClientConnection::new(settings.clone(), name()).unwrap();
            let mut hello = Vec::new();
            client.write_tls(&mut hello).unwrap();
            // The pre-shared key is the last extension: identity, then age and binder.
            let at = hello.len() - 60 - (n * 7) % 150;
            hello[at] ^= 0x55;
            let mut stream = open.connect();
            stream.write_all(&hello).unwrap();
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).unwrap_or(0);
            // It goes on with a whole handshake, or says what is wrong.
            assert!(count > 0 && (piece[0] == 22 || piece[0] == 21), "{:?}", &piece[..count.min(8)]);
        }
        honest.was_served();
        site.grew_at_most(24 * 1024);
        site.recovers();
    });
}

#[test]
fn key_updates_without_end() {
    on_both_drivers(|io| {
        let mut site = Site::start(io, &[], "");
        let front = Front::open(&site, "tls", "");
        let honest = front.honest();
        for _ in 0..10 {
            let mut stream = front.open_client(front.client()).unwrap();
            get(&mut stream).unwrap();
            let mut ended = false;
            for _ in 0..5000 {
                stream.conn.refresh_traffic_keys().unwrap();
                if stream.conn.write_tls(&mut stream.sock).is_err() {
                    ended = true;
                    break;
                }
            }
            assert!(ended || get(&mut stream).is_err(), "thousands of key updates are put up with");
        }
        assert!(site.figure("weir_tls_events_total", "protocol_abuse") >= 10.0);
        // Now and then they are what they should be.
        let mut stream = front.open_client(front.client()).unwrap();
        for _ in 0..50 {
            get(&mut stream).unwrap();
            stream.conn.refresh_traffic_keys().unwrap();
        }
        honest.was_served();
        site.grew_at_most(16 * 1024);
        site.recovers();
    });
}

#[test]
fn tiny_records() {
    on_both_drivers(|io| {
        let mut site = Site::start(io, &[], "");
        let front = Front::open(&site, "tls", "");
        let honest = front.honest();
        let request = format!(
            "POST /steady/length/10/1 HTTP/1.1\r\nHost: soak.test\r\nContent-Length: 3000\r\n\r\n{}",
            "z".repeat(3000)
        );
        let mut crowd: Vec<Tls> = (0..10).map(|_| front.open_client(front.client()).unwrap()).collect();
        for stream in &mut crowd {
            let mut records = Vec::new();
            stream.conn.complete_io(&mut stream.sock).unwrap();
            for byte in request.as_bytes() {
                stream.conn.writer().write_all(std::slice::from_ref(byte)).unwrap();
                stream.conn.write_tls(&mut records).unwrap();
            }
            stream.sock.write_all(&records).unwrap();
        }
        for stream in &mut crowd {
            answer(stream).unwrap();
        }
        honest.was_served();
        site.grew_at_most(16 * 1024);
        site.recovers();
    });
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A server that speaks TLS, with the routes of the site.
struct Front {
    port: u16,
    certificate: String,
    settings: Arc<ClientConfig>,
}

impl Front {
    fn open(site: &Site, name: &str, more: &str) -> Front {
        let port = free_port();
        let made = certificates().remove(0);
        let indented = |pem: &str| pem.lines().map(|line| format!("  {line}\n")).collect::<String>();
        let (chain, key) = (indented(&made.0), indented(&made.1));
        site.machine.create(&format!(
            "kind: HTTPServer\nname: {name}\nport: {port}\nhttps: true\ncertBase64: |\n{chain}keyBase64: |\n{key}{more}rules:\n- paths:\n  - {{path: /mock, backend: mock}}\n  - {{pathPrefix: /steady/, backend: proxy}}\n"
        ));
        eventually("it listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        let certificate = made.0.clone();
        Front { port, certificate, settings: tls_settings(&[made]) }
    }

    fn certificate(&self) -> rustls::pki_types::CertificateDer<'static> {
        use rustls::pki_types::pem::PemObject;
        rustls::pki_types::CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    fn client(&self) -> ClientConnection {
        ClientConnection::new(self.settings.clone(), name()).unwrap()
    }

    fn open_client(&self, client: ClientConnection) -> io::Result<Tls> {
        let mut stream = StreamOwned::new(client, self.connect());
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    /// Asks on a connection that was there before, and now and then on a new one.
    fn honest(&self) -> Honest {
        let front = Front { port: self.port, certificate: self.certificate.clone(), settings: self.settings.clone() };
        let mut stream = front.open_client(front.client()).unwrap();
        Honest::asking(move |served| {
            let began = Instant::now();
            if served % 50 == 49 {
                stream = front.open_client(front.client())?;
            }
            get(&mut stream).map(|()| began)
        })
    }
}

fn name() -> ServerName<'static> {
    "soak.test".try_into().unwrap()
}

fn get(stream: &mut Tls) -> io::Result<()> {
    stream.write_all(b"GET /mock HTTP/1.1\r\nHost: soak.test\r\n\r\n")?;
    answer(stream)
}

/// Reads an answer that must be a 200.
fn answer(stream: &mut Tls) -> io::Result<()> {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        text.extend_from_slice(&piece[..count]);
        let head = String::from_utf8_lossy(&text).to_lowercase();
        let Some((head, _)) = head.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|l| l.strip_prefix("content-length: ")).and_then(|v| v.parse::<usize>().ok());
        if text.len() < head.len() + 4 + length.unwrap_or(0) {
            continue;
        }
        return if head.starts_with("http/1.1 200") { Ok(()) } else { Err(io::Error::other(head.to_owned())) };
    }
}

/// Reads to the end, in order or not.
fn rest_of_bytes(stream: &mut TcpStream) {
    rest(stream);
}

/// Tickets that are offered to every server, whoever gave them.
#[derive(Default, Debug)]
struct Tickets {
    newer: Mutex<VecDeque<Tls13ClientSessionValue>>,
    older: Mutex<Option<Tls12ClientSessionValue>>,
}

impl Tickets {
    fn forget(&self) {
        self.newer.lock().unwrap().clear();
        *self.older.lock().unwrap() = None;
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        *self.older.lock().unwrap() = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.older.lock().unwrap().clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        *self.older.lock().unwrap() = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.newer.lock().unwrap().push_back(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.newer.lock().unwrap().pop_back()
    }
}
