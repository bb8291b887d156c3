//! Against other implementations: rustls' own connections over std sockets, and `openssl` and `curl` where they are installed.

#[macro_use]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream as StdStream};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use base_runtime::net::TcpStream;
use base_runtime::{Buf, IoMode, Runtime, spawn};
use base_tls::stats::{Count, total};
use base_tls::{ClientAuth, ClientTls, ServerTls, Transport};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use rustls::client::{ClientConfig, ClientConnection};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite as suites, default_provider, kx_group as groups};
use rustls::server::{ServerConfig, ServerConnection};
use rustls::{HandshakeKind, RootCertStore, StreamOwned, SupportedCipherSuite};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use support::*;

on_both_drivers!(
    rustls_clients,
    rustls_servers,
    rustls_client_in_small_pieces,
    openssl_clients,
    openssl_client_resumes,
    openssl_client_replaces_keys,
    openssl_client_renegotiates,
    openssl_servers,
    curl_clients,
);

const SUITES: [(SupportedCipherSuite, &str, bool); 9] = [
    (suites::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256", false),
    (suites::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384", false),
    (suites::TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256", false),
    (suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", false),
    (suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", false),
    (suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", false),
    (suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", true),
    (suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", true),
    (suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", true),
];

/// Each suite, twice so that the second time resumes, with key updates of the client's on the way.
fn rustls_clients(io: IoMode) {
    let authority = Authority::new("test");
    let ecdsa = serve(io, server(vec![authority.sign(&["localhost"]).read()]));
    let rsa = serve(io, server(vec![rsa(&authority).read()]));
    for (suite, name, is_rsa) in SUITES {
        let address = if is_rsa { rsa.address } else { ecdsa.address };
        let config = Arc::new(std_client(&authority, suite));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let connection = ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap();
            let mut stream = StreamOwned::new(connection, std_connect(address));
            let sent = pattern(300_000);
            for (index, piece) in sent.chunks(30_000).enumerate() {
                stream.write_all(piece).expect(name);
                let mut back = vec![0; piece.len()];
                stream.read_exact(&mut back).expect(name);
                assert!(back == piece, "{name}");
                if suite.tls13().is_some() && index % 3 == 0 {
                    stream.conn.refresh_traffic_keys().expect(name);
                }
            }
            assert_eq!(stream.conn.handshake_kind(), Some(kind), "{name}");
            stream.conn.send_close_notify();
            stream.flush().expect(name);
            assert_eq!(stream.read(&mut [0]).expect("close_notify"), 0);
        }
    }
    // All kinds of keys.
    for key in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let served = serve(io, server(vec![authority.sign_with(&["localhost"], key).read()]));
        let config = std_client(&authority, suites::TLS13_AES_128_GCM_SHA256);
        let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        let mut stream = StreamOwned::new(connection, std_connect(served.address));
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
    }
}

/// A handshake whose bytes come one by one, and whose last bytes come with the first data.
fn rustls_client_in_small_pieces(io: IoMode) {
    let authority = Authority::new("test");
    let served = serve(io, server(vec![authority.sign(&["localhost"]).read()]));
    for (suite, piece) in [
        (suites::TLS13_AES_128_GCM_SHA256, 1),
        (suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, 1),
        (suites::TLS13_AES_128_GCM_SHA256, 1 << 20),
        (suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, 1 << 20),
    ] {
        let config = Arc::new(std_client(&authority, suite));
        for _ in 0..2 {
            let mut connection = ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap();
            connection.writer().write_all(b"early bird").unwrap();
            let mut socket = std_connect(served.address);
            let mut answer = Vec::new();
            while answer.len() < 10 {
                let mut out = Vec::new();
                while connection.wants_write() {
                    connection.write_tls(&mut out).unwrap();
                }
                for bytes in out.chunks(piece) {
                    socket.write_all(bytes).unwrap();
                }
                while connection.read_tls(&mut socket).is_err_and(|error| error.kind() == ErrorKind::Interrupted) {}
                connection.process_new_packets().unwrap();
                let mut bytes = [0; 100];
                if let Ok(n) = connection.reader().read(&mut bytes) {
                    answer.extend_from_slice(&bytes[..n]);
                }
            }
            assert_eq!(answer, b"early bird");
        }
    }
}

fn rustls_servers(io: IoMode) {
    let authority = Authority::new("test");
    let runtime = start(io);
    for (suite, name, is_rsa) in SUITES {
        let signed = if is_rsa { rsa(&authority) } else { authority.sign(&["localhost"]) };
        let address = std_server(std_server_config(&signed, suite, None));
        let client = client(&authority);
        for resumed in [false, true] {
            let client = client.clone();
            run_on(&runtime, 0, move || async move {
                let stream = connect(&client, address).await;
                let session = stream.session().expect("TLS");
                assert_eq!((session.cipher, session.resumed), (name, resumed));
                echo(&stream, 300_000).await;
                stream.shutdown_write();
                assert!(stream.recv().await.expect("close_notify").is_none());
            });
        }
    }
    // A group of which the first ClientHello has no share: HelloRetryRequest.
    for group in [groups::X25519MLKEM768, groups::X25519, groups::SECP256R1, groups::SECP384R1] {
        let signed = authority.sign(&["localhost"]);
        let config = std_server_config(&signed, suites::TLS13_AES_128_GCM_SHA256, Some(group));
        let address = std_server(config);
        let client = client(&authority);
        run_on(&runtime, 0, move || async move {
            echo(&connect(&client, address).await, 10_000).await;
        });
    }
    runtime.shutdown();
}

fn openssl_clients(io: IoMode) {
    if !is_installed("openssl") {
        return;
    }
    let files = Files::new();
    let signed = files.authority.sign(&["localhost"]);
    let roots = vec![files.authority.der.clone()];
    let certificates = vec![signed.read(), rsa_named(&files.authority, "rsa.test").read()];
    let served = serve(io, server_with(certificates, ClientAuth::Optional(roots), &["http/1.1"]));
    let own = files.write("client", &files.authority.sign(&["someone"]));
    for (arguments, expected) in [
        ("-tls1_3 -ciphersuites TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
        ("-tls1_3 -ciphersuites TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
        ("-tls1_3 -ciphersuites TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
        ("-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("-tls1_2 -cipher ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("-tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-CHACHA20-POLY1305"),
        ("-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256 -servername rsa.test", "ECDHE-RSA-AES128-GCM-SHA256"),
        ("-tls1_2 -cipher ECDHE-RSA-AES256-GCM-SHA384 -servername rsa.test", "ECDHE-RSA-AES256-GCM-SHA384"),
        ("-tls1_2 -cipher ECDHE-RSA-CHACHA20-POLY1305 -servername rsa.test", "ECDHE-RSA-CHACHA20-POLY1305"),
        ("-tls1_3 -groups X25519", "X25519"),
        ("-tls1_3 -groups P-256", "prime256v1"),
        ("-tls1_3 -groups P-384", "secp384r1"),
        ("-tls1_2 -groups P-384:P-256", "secp384r1"),
        // The first ClientHello has a share of a group we have not: HelloRetryRequest.
        ("-tls1_3 -groups P-521:P-256 -msg", "prime256v1"),
        ("-alpn http/1.1", "ALPN protocol: http/1.1"),
        (&format!("-tls1_3 {own}"), "TLSv1.3"),
        (&format!("-tls1_2 {own}"), "TLSv1.2"),
    ] {
        let text = s_client(served.address, &files, arguments, "bye\n");
        assert!(text.contains(expected) && text.contains("Verify return code: 0"), "{arguments}: {text}");
        assert!(text.contains("said bye"), "{arguments}: {text}");
        if arguments.contains("P-521") {
            assert_eq!(text.matches(", ClientHello").count(), 2, "{text}");
        }
        if arguments.contains("-cert") {
            assert!(!text.contains("certificates 0"), "{arguments}: {text}");
        }
    }
    for refused in ["-tls1_1", "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA@SECLEVEL=0", "-tls1_3 -alpn mqtt"] {
        let text = s_client(served.address, &files, refused, "bye\n");
        assert!(!text.contains("said bye"), "{refused}: {text}");
    }
}

fn openssl_client_resumes(io: IoMode) {
    if !is_installed("openssl") {
        return;
    }
    let files = Files::new();
    let served = serve(io, server(vec![files.authority.sign(&["localhost"]).read()]));
    for version in ["-tls1_2", "-tls1_3"] {
        let session = files.path("session");
        let first = s_client(served.address, &files, &format!("{version} -sess_out {session}"), "bye\n");
        assert!(first.contains("New, "), "{first}");
        let second = s_client(served.address, &files, &format!("{version} -sess_in {session}"), "bye\n");
        assert!(second.contains("Reused, ") && second.contains("said bye"), "{version}: {second}");
        // A session without its ticket's secret is a full handshake.
        let fresh = serve(io, server(vec![files.authority.sign(&["localhost"]).read()]));
        let third = s_client(fresh.address, &files, &format!("{version} -sess_in {session}"), "bye\n");
        assert!(third.contains("New, ") && third.contains("said bye"), "{version}: {third}");
    }
}

fn openssl_client_replaces_keys(io: IoMode) {
    if !is_installed("openssl") {
        return;
    }
    let files = Files::new();
    let served = serve(io, server(vec![files.authority.sign(&["localhost"]).read()]));
    let before = (total(Count::KeyUpdatesReceived), total(Count::KeyUpdatesSent));
    let mut client = Talk::new(s_client_command(served.address, &files, "-tls1_3"));
    client.say("first line");
    client.hear("first line");
    // With an answer asked for, and without. It reads commands by themselves only.
    for (command, line) in [("K", "second line"), ("k", "third line")] {
        client.say(command);
        client.hear("KEYUPDATE");
        client.say(line);
        client.hear(line);
    }
    assert!(total(Count::KeyUpdatesReceived) >= before.0 + 2);
    assert!(total(Count::KeyUpdatesSent) > before.1);
}

fn openssl_client_renegotiates(io: IoMode) {
    if !is_installed("openssl") {
        return;
    }
    let files = Files::new();
    let served = serve(io, server(vec![files.authority.sign(&["localhost"]).read()]));
    let before = total(Count::RenegotiationsRefused);
    let mut client = Talk::new(s_client_command(served.address, &files, "-tls1_2"));
    client.say("first line");
    client.hear("first line");
    client.say("R");
    // openssl takes our warning for an end.
    client.hear("no renegotiation");
    assert!(total(Count::RenegotiationsRefused) > before);
}

fn openssl_servers(io: IoMode) {
    if !is_installed("openssl") {
        return;
    }
    let files = Files::new();
    let runtime = start(io);
    let own = files.write("server", &files.authority.sign(&["localhost"]));
    let shown = files.authority.sign(&["someone"]);
    for (arguments, version) in [
        ("-tls1_3", "TLSv1.3"),
        ("-tls1_2", "TLSv1.2"),
        ("-tls1_3 -groups P-384", "TLSv1.3"),
        ("-tls1_3 -num_tickets 4", "TLSv1.3"),
        ("-tls1_3 -Verify 1 -verify_return_error", "TLSv1.3"),
        ("-tls1_2 -Verify 1 -verify_return_error", "TLSv1.2"),
    ] {
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", "127.0.0.1:0", "-CAfile", &files.path("ca.pem")]);
        command.args(own.split(' ')).args(arguments.split(' '));
        let mut server = Talk::new(command);
        let line = server.hear("ACCEPT ");
        let address: SocketAddr = line.trim().rsplit(' ').next().unwrap().parse().expect("an address");
        let client = client_with(&files.authority, Some(shown.read()), &[]);
        // The peer is another process, so the worker may wait for it while this thread types.
        let (heard, hears) = mpsc::channel();
        let (ended, ends) = mpsc::channel();
        runtime.workers()[0].spawn(move || async move {
            let stream = connect(&client, address).await;
            let session = stream.session().expect("TLS");
            heard.send(session.version.to_owned()).unwrap();
            stream.send(Buf::copy_from(b"hello from the client\n"));
            while let Ok(Some(buf)) = stream.recv().await {
                heard.send(String::from_utf8_lossy(&buf).into_owned()).unwrap();
                stream.send(buf);
            }
            let _ = ended.send(());
        });
        let wait = Duration::from_secs(60);
        assert_eq!(hears.recv_timeout(wait).expect(arguments), version);
        server.hear("hello from the client");
        let talk = |server: &mut Talk, text: &str| {
            server.say(text);
            let mut line = String::new();
            while !line.contains('\n') {
                line += &hears.recv_timeout(wait).expect(text);
            }
            assert_eq!(line.trim(), text, "{arguments}");
            server.hear(text);
        };
        talk(&mut server, "first line");
        if version == "TLSv1.3" {
            server.say("K");
            server.hear("SSL_do_handshake -> 1");
            talk(&mut server, "second line");
        }
        server.say("Q");
        ends.recv_timeout(wait).expect("the connection ends");
    }
    runtime.shutdown();
}

fn curl_clients(io: IoMode) {
    if !is_installed("curl") {
        return;
    }
    let files = Files::new();
    let server = server_with(vec![files.authority.sign(&["localhost"]).read()], ClientAuth::None, &["http/1.1"]);
    let served = serve(io, server);
    let port = served.address.port();
    for arguments in [&["--tlsv1.3"][..], &["--tlsv1.2", "--tls-max", "1.2"], &["--http1.1", "--no-alpn"]] {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "20", "--cacert", &files.path("ca.pem")])
            .args(["--resolve", &format!("localhost:{port}:127.0.0.1"), &format!("https://localhost:{port}/big")])
            .args(arguments)
            .output()
            .expect("curl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == pattern(1 << 20), "{arguments:?}: {} bytes", output.stdout.len());
    }
}

/// A worker that echoes; `bye` is answered and followed by the end, `GET` with a megabyte.
struct Served {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

fn serve(io: IoMode, server: ServerTls) -> Served {
    let runtime = start(io);
    let address = run_on(&runtime, 0, move || async move {
        let listener = listen();
        let address = listener.local_addr();
        spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                spawn(async move {
                    if let Ok(stream) = server.accept(stream, LIMIT).await {
                        let _ = answer(stream).await;
                    }
                });
            }
        });
        address
    });
    Served { address, runtime: Some(runtime) }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.runtime.take().expect("dropped once").shutdown();
    }
}

async fn answer(stream: Transport) -> std::io::Result<()> {
    while let Some(buf) = stream.recv().await? {
        if buf.starts_with(b"GET ") {
            stream.send(Buf::copy_from(b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\nConnection: close\r\n\r\n"));
            send_all(&stream, &pattern(1 << 20)).await?;
            break;
        }
        if buf.starts_with(b"bye") {
            let shown = stream.session().expect("TLS").peer_certificates.len();
            stream.send(Buf::copy_from(format!("said bye, certificates {shown}\n").as_bytes()));
            break;
        }
        stream.send(buf);
        stream.send_ready(64 * 1024).await?;
    }
    stream.shutdown_write();
    while stream.recv().await?.is_some() {}
    Ok(())
}

async fn connect(client: &ClientTls, address: SocketAddr) -> Transport {
    let stream = TcpStream::connect(address).await.expect("connects");
    client.connect(stream, "localhost", LIMIT).await.expect("shakes hands")
}

async fn echo(stream: &Transport, n: usize) {
    let sent = pattern(n);
    for piece in sent.chunks(30_000) {
        stream.send(Buf::copy_from(piece));
        let back = recv_exactly(stream, piece.len()).await.expect("an echo");
        assert!(back == piece);
    }
}

fn std_connect(address: SocketAddr) -> StdStream {
    let stream = StdStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

fn only(suite: SupportedCipherSuite) -> CryptoProvider {
    CryptoProvider { cipher_suites: vec![suite], ..default_provider() }
}

fn std_client(authority: &Authority, suite: SupportedCipherSuite) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(only(suite)))
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn std_server_config(
    signed: &Signed,
    suite: SupportedCipherSuite,
    group: Option<&'static dyn rustls::crypto::SupportedKxGroup>,
) -> ServerConfig {
    let mut provider = only(suite);
    provider.kx_groups = group.map_or(provider.kx_groups, |group| vec![group]);
    let chain = CertificateDer::pem_slice_iter(signed.chain.as_bytes()).map(Result::unwrap).collect();
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap())
        .unwrap();
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    config
}

/// Echoes, and replaces its keys now and then.
fn std_server(config: ServerConfig) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().unwrap();
    let config = Arc::new(config);
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            let mut stream = StreamOwned::new(connection, stream);
            let mut bytes = vec![0; 10_000];
            let mut count = 0;
            while let Ok(n @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&bytes[..n]).is_err() {
                    break;
                }
                count += 1;
                if count % 5 == 0 {
                    let _ = stream.conn.refresh_traffic_keys();
                }
            }
            stream.conn.send_close_notify();
            let _ = stream.flush();
            let _ = stream.sock.shutdown(Shutdown::Write);
        }
    });
    address
}

fn rsa(authority: &Authority) -> Signed {
    rsa_named(authority, "localhost")
}

fn rsa_named(authority: &Authority, name: &str) -> Signed {
    authority.sign_key(&[name], KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key"))
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("version").output().is_ok();
    if !found {
        eprintln!("{program} is not installed: nothing was tested against it");
    }
    found
}

/// A directory with an authority in it.
struct Files {
    directory: tempfile::TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Files {
        let files = Files { directory: tempfile::tempdir().expect("a directory"), authority: Authority::new("test") };
        std::fs::write(files.path("ca.pem"), &files.authority.pem).unwrap();
        files
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("text").to_owned()
    }

    /// Arguments that show this certificate.
    fn write(&self, name: &str, signed: &Signed) -> String {
        let (chain, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        std::fs::write(&chain, &signed.chain).unwrap();
        std::fs::write(&key, &signed.key).unwrap();
        format!("-cert {chain} -key {key}")
    }
}

fn s_client_command(address: SocketAddr, files: &Files, arguments: &str) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-CAfile", &files.path("ca.pem")]);
    if !arguments.contains("-servername") {
        command.args(["-servername", "localhost"]);
    }
    command.args(arguments.split(' '));
    command
}

/// Everything `openssl s_client` prints until the server has closed.
fn s_client(address: SocketAddr, files: &Files, arguments: &str, input: &str) -> String {
    let mut command = s_client_command(address, files, arguments);
    command.arg("-ign_eof").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl runs");
    // It may have failed to connect already.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let Output { stdout, stderr, .. } = child.wait_with_output().expect("openssl ends");
    format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr))
}

/// A program that is typed to and listened to.
struct Talk {
    child: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Talk {
    fn new(mut command: Command) -> Talk {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("openssl runs");
        let (sender, lines) = mpsc::channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut reader = BufReader::new(output);
                let mut line = Vec::new();
                while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                    let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
                    line.clear();
                }
            });
        }
        let input = child.stdin.take().unwrap();
        Talk { child, input, lines }
    }

    fn say(&mut self, text: &str) {
        // In one piece: it takes what one read gives for a command.
        if let Err(error) = self.input.write_all(format!("{text}\n").as_bytes()) {
            let heard: String = std::iter::from_fn(|| self.lines.recv_timeout(Duration::from_secs(1)).ok()).collect();
            panic!("it does not listen to {text:?} ({error}): {heard}");
        }
    }

    /// The next line with this in it.
    fn hear(&mut self, text: &str) -> String {
        let mut heard = String::new();
        loop {
            match self.lines.recv_timeout(Duration::from_secs(60)) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => heard += &line,
                Err(error) => panic!("no {text:?} ({error}) in: {heard}"),
            }
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
