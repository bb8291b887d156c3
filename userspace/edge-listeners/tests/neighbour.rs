//! One client that asks without waiting for answers has its share of a worker, and no more: whoever else has asked comes in between.
//!
//! Nothing here measures time. The worker is held while both have sent; then it goes on, and writes down whom it serves in which order.

#[macro_use]
mod support;
#[path = "support/h2.rs"]
mod h2_client;

use base_runtime::IoMode;
use edge_listeners::Timeouts;
use edge_pipeline::{Exchange, Filter, FilterKind, SUCCESS, Step, Touches};
use h2_client::{PREFACE, block, frame};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, mpsc};
use support::{House, eventually};

on_both_drivers![
    pipelined_requests,
    pipelined_requests_over_tls,
    streams,
    streams_over_tls,
    streams_beside_pipelined_requests,
];

/// Requests that are sent at once, more than are served in a turn: what finds room in one buffer, or in what HTTP/2 allows.
const PIPELINED: usize = 400;
const STREAMS: usize = 120;

/// A turn and the one that had begun; each task is served once in each. HTTP/2 begins this many requests in a turn, which is the longer.
const MOST_BEFORE: usize = 2 * 32;

fn pipelined_requests(io: IoMode) {
    beside(io, "pipelined", false, [Protocol::Http1; 2]);
}

fn pipelined_requests_over_tls(io: IoMode) {
    beside(io, "pipelined-tls", true, [Protocol::Http1; 2]);
}

fn streams(io: IoMode) {
    beside(io, "streams", false, [Protocol::Http2; 2]);
}

fn streams_over_tls(io: IoMode) {
    beside(io, "streams-tls", true, [Protocol::Http2; 2]);
}

fn streams_beside_pipelined_requests(io: IoMode) {
    beside(io, "mixed", true, [Protocol::Http1, Protocol::Http2]);
    beside(io, "mixed-other", true, [Protocol::Http2, Protocol::Http1]);
}

/// The order in which requests came to the filter, of all tests.
static SERVED: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Note;

impl Filter for Note {
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        SERVED.lock().unwrap().push(String::from_utf8_lossy(&exchange.uri).into_owned());
        Step::Done(SUCCESS)
    }

    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD
    }
}

static NOTE: FilterKind = FilterKind {
    kind: "Note",
    results: &[],
    doc: "",
    schema: || serde_json::Value::Null,
    check: |_, _, _| {},
    build: |_, _| Ok(Arc::new(Note)),
};

/// What was served under this prefix.
fn served(prefix: &str) -> Vec<String> {
    SERVED.lock().unwrap().iter().filter(|target| target.starts_with(prefix)).cloned().collect()
}

/// Several times: a client that asks much and, a little later, one that asks once.
fn beside(io: IoMode, name: &str, tls: bool, [greedy, modest]: [Protocol; 2]) {
    let key = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    let server = match tls {
        false => "h2c: true".to_owned(),
        true => {
            let [chain, key] =
                [key.cert.pem(), key.signing_key.serialize_pem()].map(|pem| serde_json::Value::from(pem).to_string());
            format!("https: true\ncerts: {{a: {chain}}}\nkeys: {{a: {key}}}")
        }
    };
    let kinds = |kind: &str| if kind == "Note" { Some(&NOTE) } else { edge_filters::kind(kind) };
    let filters = "filters: [{name: n, kind: Note}, {name: m, kind: Mock, rules: [{code: 200}]}]";
    let house = House::with_kinds(io, &server, filters, Timeouts::default(), kinds);
    let roots = tls.then(|| key.cert.der().clone());
    let count = if greedy == Protocol::Http1 { PIPELINED } else { STREAMS };
    for round in 0..5 {
        let prefix = format!("/{name}-{io:?}-{round}/");
        let mut clients = [greedy, modest].map(|protocol| Client::new(&house, roots.as_ref(), protocol));
        for (client, name) in clients.iter_mut().zip(["first", "second"]) {
            client.ask(&format!("{prefix}{name}"), 1);
        }
        eventually("both are connected", || served(&prefix).len() == 2);
        let (release, held) = mpsc::channel::<()>();
        let (holds, is_held) = mpsc::channel::<()>();
        house.runtime.workers()[0].spawn(move || {
            let _ = holds.send(());
            let _ = held.recv();
            std::future::ready(())
        });
        is_held.recv().unwrap();
        let [mine, other] = ["much", "once"].map(|what| format!("{prefix}{what}"));
        clients[0].ask(&mine, count);
        clients[1].ask(&other, 1);
        release.send(()).unwrap();
        eventually("all are served", || served(&prefix).len() == 2 + count + 1);
        let before = served(&prefix)[2..].iter().position(|target| *target == other).unwrap();
        assert!(
            before <= MOST_BEFORE,
            "{name} {round}: {before} of {count} were served before the neighbour's only one"
        );
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

trait Wire: Read + Write {}

impl<T: Read + Write> Wire for T {}

/// Somebody who asks, and never reads: what is answered finds room on the way.
struct Client {
    wire: Box<dyn Wire>,
    protocol: Protocol,
    /// The next stream.
    stream: u32,
}

impl Client {
    /// Over TLS where there is a certificate to believe; there is nothing more to be agreed on then.
    fn new(house: &House, root: Option<&CertificateDer<'static>>, protocol: Protocol) -> Client {
        let socket = TcpStream::connect(("127.0.0.1", house.port)).unwrap();
        socket.set_nodelay(true).unwrap();
        let mut wire: Box<dyn Wire> = match root {
            None => Box::new(socket),
            Some(root) => {
                let mut roots = RootCertStore::empty();
                roots.add(root.clone()).unwrap();
                let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
                let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
                let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
                config.alpn_protocols = match protocol {
                    Protocol::Http1 => vec![b"http/1.1".to_vec()],
                    Protocol::Http2 => vec![b"h2".to_vec()],
                };
                let name = ServerName::try_from("a.test").unwrap();
                let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
                let mut socket = socket;
                while connection.is_handshaking() {
                    connection.complete_io(&mut socket).unwrap();
                }
                Box::new(StreamOwned::new(connection, socket))
            }
        };
        if protocol == Protocol::Http2 {
            wire.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).unwrap();
        }
        Client { wire, protocol, stream: 1 }
    }

    /// Sends so many requests at once.
    fn ask(&mut self, target: &str, count: usize) {
        let mut bytes = Vec::new();
        for _ in 0..count {
            match self.protocol {
                Protocol::Http1 => bytes.extend(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").bytes()),
                Protocol::Http2 => {
                    let scheme = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", target)];
                    bytes.extend(frame(1, 5, self.stream, &block(&scheme)));
                    self.stream += 2;
                }
            }
        }
        self.wire.write_all(&bytes).unwrap();
        self.wire.flush().unwrap();
    }
}
