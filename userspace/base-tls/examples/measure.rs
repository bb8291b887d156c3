//! What records and handshakes cost.
//!
//! `measure records MODE SIZE COUNT` runs the record machine over COUNT pieces of SIZE bytes (AES-128-GCM, TLS 1.3): MODE `copy`
//! only fills buffers, `seal` encrypts them too, `open` decrypts them as well. Run it under `valgrind --tool=callgrind` with two
//! modes or two counts and take the difference.
//!
//! `measure handshakes KIND COUNT` makes COUNT connections to a worker from another thread, with a P-256 certificate, and says how
//! much CPU time the worker took for each, sockets included: KIND `x25519`, `mlkem` (X25519MLKEM768) or `resumed`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base_runtime::channel::oneshot;
use base_runtime::net::{ListenOptions, TcpListener};
use base_runtime::{Buf, Config, IoMode, Runtime, spawn};
use base_tls::connection::{Schedule, TlsConnection};
use base_tls::record::{Fault, RecordKey, Suite, Version};
use base_tls::{Certificate, ClientAuth, ServerTls, ServerTlsSettings, TicketKeys};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::{RootCertStore, StreamOwned};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| arguments.get(index).and_then(|text| text.parse().ok());
    match (arguments.first().map(String::as_str), arguments.get(1), number(2), number(3)) {
        (Some("records"), Some(mode), Some(size), Some(count)) => records(mode, size, count),
        (Some("handshakes"), Some(kind), Some(count), None) => handshakes(kind, count),
        _ => eprintln!("measure records copy|seal|open SIZE COUNT, or measure handshakes x25519|mlkem|resumed COUNT"),
    }
}

struct NoKeys;

impl Schedule for NoKeys {
    fn next_tx(&mut self) -> Result<RecordKey, Fault> {
        Err(Fault::Internal)
    }

    fn next_rx(&mut self) -> Result<RecordKey, Fault> {
        Err(Fault::Internal)
    }

    fn take_ticket(&mut self, _body: &[u8]) -> Result<(), Fault> {
        Err(Fault::Internal)
    }

    fn is_client(&self) -> bool {
        false
    }
}

fn records(mode: &str, size: usize, count: usize) {
    let mode = mode.to_owned();
    // Buffers come from a worker's pool.
    on_worker(move || {
        let key = || RecordKey::from_parts(Version::Tls13, Suite::Aes128Gcm, &[7; 16], [9; 12], 0).expect("16 bytes");
        let end = || TlsConnection::new(Version::Tls13, key(), key(), NoKeys, |_| {});
        let (mut from, mut to) = (end(), end());
        let piece = vec![42; size];
        let mut received = 0;
        let started = std::time::Instant::now();
        for _ in 0..count {
            let buf = Buf::copy_from(&piece);
            match mode.as_str() {
                "copy" => received += std::hint::black_box(buf).len(),
                "seal" => from.send(buf, &mut |record| received += std::hint::black_box(record).len()),
                _ => {
                    from.send(buf, &mut |record| to.handle_received(record, &mut |_| {}));
                    received += to.poll_data().map_or(0, |buf| buf.len());
                }
            }
        }
        let each = started.elapsed().as_nanos() / count.max(1) as u128;
        println!("{mode} {size}: {each} ns each, {received} bytes in all");
    });
}

fn handshakes(kind: &str, count: usize) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let chain = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let chain = chain.self_signed(&key).expect("signs").pem();
    let certificate = Certificate::read(&chain, &key.serialize_pem(), SystemTime::now()).expect("good");
    let settings =
        ServerTlsSettings { certificates: vec![certificate], client_auth: ClientAuth::None, alpn: Vec::new() };
    let server = ServerTls::new(settings, TicketKeys::generate()).expect("good");
    let runtime = runtime();
    let (sender, receiver) = oneshot();
    runtime.workers()[0].spawn(move || async move {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = TcpListener::bind(address, ListenOptions::default()).expect("a port is free");
        let _ = sender.send(listener.local_addr());
        while let Ok((stream, _)) = listener.accept().await {
            let server = server.clone();
            spawn(async move {
                let Ok(stream) = server.accept(stream, Duration::from_secs(60)).await else { return };
                if let Ok(Some(buf)) = stream.recv().await {
                    stream.send(buf);
                    stream.shutdown_write();
                }
            });
        }
    });
    let address = receiver.wait().expect("it listens");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(chain.as_bytes()).expect("PEM")).expect("good");
    let group = if kind == "mlkem" { kx_group::X25519MLKEM768 } else { kx_group::X25519 };
    let provider = CryptoProvider {
        kx_groups: vec![group],
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    if kind != "resumed" {
        config.resumption = Resumption::disabled();
    }
    let config = Arc::new(config);
    let connect = || {
        let connection = ClientConnection::new(config.clone(), "localhost".try_into().expect("a name")).expect("good");
        let mut stream = StreamOwned::new(connection, StdStream::connect(address).expect("connects"));
        stream.write_all(b"x").expect("sends");
        let mut back = Vec::new();
        stream.read_to_end(&mut back).expect("an answer and a clean end");
        assert_eq!(back, b"x");
    };
    (0..50).for_each(|_| connect());
    let busy = || runtime.workers()[0].stats().busy_ns;
    let before = busy();
    (0..count).for_each(|_| connect());
    let each = (busy() - before) / count.max(1) as u64;
    println!("{kind}: {} µs of the worker's CPU for each connection", each / 1000);
    runtime.shutdown();
}

fn runtime() -> Runtime {
    let config = Config { io: IoMode::Epoll, workers: Some(1), name: "measure".to_owned(), ..Config::default() };
    Runtime::start(config).expect("the driver works here")
}

fn on_worker(work: impl FnOnce() + Send + 'static) {
    let runtime = runtime();
    let (sender, receiver) = oneshot();
    runtime.workers()[0].spawn(move || async move {
        work();
        let _ = sender.send(());
    });
    receiver.wait().expect("it does not panic");
    runtime.shutdown();
}
