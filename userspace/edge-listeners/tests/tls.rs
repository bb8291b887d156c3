//! HTTPS on both drivers, spoken to by rustls' own client: which certificate is shown, who is let in, and what a change of
//! certificates means for whom.

#[macro_use]
mod support;
#[path = "support/h2.rs"]
mod h2_client;

use base_runtime::IoMode;
use base_tls::TicketKey;
use edge_listeners::Timeouts;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;
use support::{Backend, House, eventually, proxy_to};

on_both_drivers![
    serves_over_tls,
    the_server_name_selects_the_certificate,
    other_certificates_are_for_new_connections,
    tls_is_turned_on_and_off,
    clients_show_certificates,
    who_came_before_certificates_were_asked_for_is_sent_away,
    requests_for_somebody_else_are_misdirected,
    hosts_are_kept_apart_whatever_certificate_they_share,
    who_asks_for_no_name_gets_what_no_host_claims,
    who_asks_for_no_name_is_sent_away_only_where_certificates_decide,
    sessions_are_taken_up_again,
    sessions_of_another_machine_are_taken_up_again,
    what_is_not_tls_is_closed_and_counted,
    only_what_is_served_is_agreed_on,
    bad_certificates_change_nothing,
    protocols_are_switched_over_tls,
    http2_is_agreed_on,
];

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const MOCK: &str = "filters: [{name: m, kind: Mock, rules: [{code: 200, body: mocked}]}]";
const ECHO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Whoever is trusted here.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

/// A chain and its key, PEM.
struct Signed {
    chain: String,
    key: String,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Authority { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn sign(&self, names: &[&str]) -> Signed {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Signed { chain: certificate.pem(), key: key.serialize_pem() }
    }
}

fn quoted(pem: &str) -> String {
    serde_json::Value::from(pem).to_string()
}

/// Lines of a document that serve `certificates`.
fn https(certificates: &[&Signed]) -> String {
    let list = |of: fn(&Signed) -> &str| {
        let entries = certificates.iter().enumerate().map(|(n, c)| format!("c{n}: {}", quoted(of(c))));
        entries.collect::<Vec<_>>().join(", ")
    };
    format!("https: true\ncerts: {{{}}}\nkeys: {{{}}}\n", list(|c| &c.chain), list(|c| &c.key))
}

/// What is said of TLS where somebody is asked who has to be of this authority, as whom this was signed for.
fn mtls(authority: &Authority, own: Option<&Signed>) -> String {
    let own = own
        .map_or(String::new(), |own| format!(", certBase64: {}, keyBase64: {}", quoted(&own.chain), quoted(&own.key)));
    format!("mtls: {{rootCertBase64: {}{own}}}", quoted(&authority.pem))
}

/// A client that trusts `authority`, with tickets of its own.
fn client(authority: &Authority, certificate: Option<&Signed>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(signed) => {
            let chain = vec![CertificateDer::from_pem_slice(signed.chain.as_bytes()).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

struct Caller {
    stream: StreamOwned<ClientConnection, TcpStream>,
}

impl Caller {
    fn new(house: &House, config: &Arc<ClientConfig>, name: &str) -> Caller {
        let socket = TcpStream::connect(("127.0.0.1", house.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        Caller { stream: StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), socket) }
    }

    /// Sends and reads an answer of known length: its head and body. `None` when there is no connection (any more).
    fn ask(&mut self, request: &str) -> Option<(String, String)> {
        self.stream.write_all(request.as_bytes()).ok()?;
        let head = self.head()?;
        let length = head.to_lowercase().split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
        Some((head, String::from_utf8_lossy(&self.exactly(length)?).into_owned()))
    }

    fn head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.exactly(1)?);
        }
        Some(String::from_utf8_lossy(&head).into_owned())
    }

    fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    fn status(&mut self, request: &str) -> Option<u16> {
        self.ask(request).and_then(|(head, _)| head.get(9..12)?.parse().ok())
    }

    fn ends(&mut self) -> bool {
        !matches!(self.stream.read(&mut [0]), Ok(1..))
    }

    fn shown(&self) -> CertificateDer<'static> {
        self.stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

fn der(signed: &Signed) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(signed.chain.as_bytes()).unwrap()
}

fn serves_over_tls(io: IoMode) {
    let backend = Backend::recording(|m| {
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", m.body.len()).into_bytes();
        answer.extend(&m.body);
        answer
    });
    let authority = Authority::new();
    let variables = "X-Tls: '$scheme $https $ssl_protocol $ssl_cipher $ssl_server_name $ssl_session_reused'";
    let rules = format!("rules: [{{paths: [{{pathPrefix: /, backend: app, setHeaders: {{{variables}}}}}]}}]");
    let lines = format!("{}{rules}", https(&[&authority.sign(&["a.test"])]));
    let house = House::new(io, &lines, &proxy_to(backend.port));
    let mut caller = Caller::new(&house, &Arc::new(client(&authority, None)), "a.test");
    for size in [1usize, 1000, 16_384, 100_000, 1_000_000] {
        let body = "x".repeat(size);
        let request = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {size}\r\n\r\n{body}");
        let (_, answer) = caller.ask(&request).unwrap();
        assert!(answer == body, "{size}: {} bytes", answer.len());
    }
    let seen = backend.seen().pop().unwrap();
    let tls = seen.field("x-tls").unwrap();
    assert!(tls.starts_with("https on TLSv1.3 TLS13_AES_") || tls.starts_with("https on TLSv1.3 TLS_AES_"), "{tls}");
    assert!(tls.ends_with(" a.test ."), "{tls}");
    assert_eq!(caller.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]), "HTTP/2 is not offered");
    // The client goes, and its end is an orderly one.
    caller.stream.conn.send_close_notify();
    caller.stream.flush().unwrap();
    assert!(caller.ends());
    eventually("it is gone", || house.traffic.connections() == 0);
}

fn the_server_name_selects_the_certificate(io: IoMode) {
    let authority = Authority::new();
    let (first, exact, wild) =
        (authority.sign(&["first.test"]), authority.sign(&["a.b.test"]), authority.sign(&["*.b.test"]));
    let house = House::new(io, &https(&[&first, &exact, &wild]), MOCK);
    let config = Arc::new(client(&authority, None));
    for (name, expected) in [("first.test", &first), ("a.b.test", &exact), ("c.b.test", &wild)] {
        let mut caller = Caller::new(&house, &config, name);
        assert_eq!(caller.status(&GET.replace("a.test", name)), Some(200), "{name}");
        assert_eq!(caller.shown(), der(expected), "{name}");
    }
    // Nobody is for this one: the first is shown, and the client does not take it.
    assert_eq!(Caller::new(&house, &config, "d.c.b.test").status(GET), None);
}

fn other_certificates_are_for_new_connections(io: IoMode) {
    let authority = Authority::new();
    let (before, after) = (authority.sign(&["a.test"]), authority.sign(&["a.test"]));
    let house = House::new(io, &https(&[&before]), MOCK);
    let config = Arc::new(client(&authority, None));
    let mut old = Caller::new(&house, &config, "a.test");
    assert_eq!(old.status(GET), Some(200));
    let socket = house.traffic.servers()[0].1.sockets();
    house.server(&https(&[&after]));
    let mut new = Caller::new(&house, &Arc::new(client(&authority, None)), "a.test");
    assert_eq!(new.status(GET), Some(200));
    assert_eq!((old.shown(), new.shown()), (der(&before), der(&after)));
    assert_eq!(old.status(GET), Some(200), "what is there is not touched");
    assert_eq!(house.traffic.servers()[0].1.sockets(), socket, "the sockets are the same");
    // A session of the old certificate is not taken up under the new one.
    let mut again = Caller::new(&house, &config, "a.test");
    assert_eq!(again.status(GET), Some(200));
    assert_eq!((again.shown(), again.stream.conn.handshake_kind().unwrap()), (der(&after), HandshakeKind::Full));
}

fn tls_is_turned_on_and_off(io: IoMode) {
    let authority = Authority::new();
    let lines = https(&[&authority.sign(&["a.test"])]);
    let house = House::new(io, "", MOCK);
    let config = Arc::new(client(&authority, None));
    let mut plain = house.connect();
    plain.send(GET.as_bytes());
    assert_eq!(plain.answer().field("connection"), None);
    house.server(&lines);
    plain.send(GET.as_bytes());
    assert_eq!(plain.answer().field("connection"), Some("close"), "one more answer, and it ends");
    assert!(plain.ends());
    let mut caller = Caller::new(&house, &config, "a.test");
    assert_eq!(caller.status(GET), Some(200));
    house.server("");
    let (head, _) = caller.ask(GET).unwrap();
    assert!(head.to_lowercase().contains("connection: close"), "{head}");
    assert_eq!(house.ask(GET).text(), "mocked");
}

fn clients_show_certificates(io: IoMode) {
    let (authority, strangers) = (Authority::new(), Authority::new());
    let lines = format!("{}caCertBase64: {}\n", https(&[&authority.sign(&["a.test"])]), quoted(&authority.pem));
    let house = House::new(io, &lines, MOCK);
    let ask = |certificate: Option<&Signed>| {
        Caller::new(&house, &Arc::new(client(&authority, certificate)), "a.test").status(GET)
    };
    assert_eq!(ask(Some(&authority.sign(&["client"]))), Some(200));
    assert_eq!(ask(None), None);
    assert_eq!(ask(Some(&strangers.sign(&["client"]))), None);
    assert_eq!(house.limit("handshake_failed"), 2);
    assert_eq!(house.count(200), 1);
}

fn who_came_before_certificates_were_asked_for_is_sent_away(io: IoMode) {
    let authority = Authority::new();
    let lines = https(&[&authority.sign(&["a.test"])]);
    let house = House::new(io, &lines, MOCK);
    let config = Arc::new(client(&authority, None));
    let mut caller = Caller::new(&house, &config, "a.test");
    assert_eq!(caller.status(GET), Some(200));
    house.server(&format!("{lines}caCertBase64: {}\n", quoted(&authority.pem)));
    assert_eq!(caller.status(GET), Some(421));
    assert_eq!(Caller::new(&house, &config, "a.test").status(GET), None, "and its ticket is worth nothing");
}

fn requests_for_somebody_else_are_misdirected(io: IoMode) {
    let authority = Authority::new();
    let (first, second) = (authority.sign(&["a.test", "shared.test"]), authority.sign(&["b.test", "shared.test"]));
    let lines = https(&[&first, &second]);
    let house = House::new(io, &lines, MOCK);
    let config = Arc::new(client(&authority, None));
    let mut caller = Caller::new(&house, &config, "b.test");
    for (host, expected) in [
        ("b.test", 200),
        ("B.TEST:443", 200),
        // The certificate shown is for this one, too, and nobody's is for the next.
        ("shared.test", 200),
        ("unknown.test", 200),
        ("a.test", 421),
        ("A.test", 421),
        ("b.test", 200),
    ] {
        assert_eq!(caller.status(&GET.replace("a.test", host)), Some(expected), "{host}");
    }
    assert_eq!(house.limit("misdirected"), 2);
    // Where clients are known by certificates, a name is what was asked for or what the certificate is for.
    house.server(&format!("{lines}caCertBase64: {}\n", quoted(&authority.pem)));
    let config = Arc::new(client(&authority, Some(&authority.sign(&["client"]))));
    let mut caller = Caller::new(&house, &config, "b.test");
    for (host, expected) in [("b.test", 200), ("shared.test", 200), ("unknown.test", 421), ("a.test", 421)] {
        assert_eq!(caller.status(&GET.replace("a.test", host)), Some(expected), "{host}");
    }
}

fn hosts_are_kept_apart_whatever_certificate_they_share(io: IoMode) {
    let authority = Authority::new();
    let lines = https(&[&authority.sign(&["a.test", "b.test", "c.test", "x.c.test"])]);
    let house = House::new(io, &lines, MOCK);
    let config = Arc::new(client(&authority, None));
    let answers = |caller: &mut Caller| {
        ["a.test", "b.test", "unknown.test", "x.c.test"]
            .map(|host| caller.status(&GET.replace("a.test", host)).unwrap_or_default())
    };
    let mut before = Caller::new(&house, &config, "a.test");
    assert_eq!(answers(&mut before), [200; 4], "nothing keeps them apart");
    house.server(&format!("{lines}tlsHosts: [b.test, '*.c.test', '*']\n"));
    assert_eq!(answers(&mut before), [200, 421, 200, 421], "and what was there before is no exception");
    for (name, expected) in [("b.test", [421, 200, 421, 421]), ("x.c.test", [421, 421, 421, 200])] {
        assert_eq!(answers(&mut Caller::new(&house, &config, name)), expected, "{name}");
    }
    // Who is of none of them is nobody's, and routes have the word.
    house.server(&format!("{lines}tlsHosts: [B.test, '*.c.test']\n"));
    assert_eq!(answers(&mut Caller::new(&house, &config, "b.test")), [200, 200, 200, 421]);
}

/// A connection without a name was made for none of the hosts that connections are kept apart by.
fn who_asks_for_no_name_gets_what_no_host_claims(io: IoMode) {
    let authority = Authority::new();
    let lines = https(&[&authority.sign(&["a.test", "b.test", "x.c.test"])]);
    let house = House::new(io, &lines, MOCK);
    let mut config = client(&authority, None);
    config.enable_sni = false;
    let mut caller = Caller::new(&house, &Arc::new(config), "a.test");
    for (hosts, expected) in [
        ("", [200, 200, 200, 200]),
        ("[b.test, '*.c.test', '*']", [200, 421, 200, 421]),
        ("[B.test, '*.c.test']", [200, 421, 200, 421]),
        // There is nobody else whose it could be.
        ("[b.test]", [200, 200, 200, 200]),
        ("['*']", [200, 200, 200, 200]),
    ] {
        let apart = if hosts.is_empty() { String::new() } else { format!("tlsHosts: {hosts}\n") };
        house.server(&format!("{lines}{apart}"));
        let answers = ["a.test", "b.test", "127.0.0.1", "x.c.test"]
            .map(|host| caller.status(&GET.replace("a.test", host)).unwrap_or_default());
        assert_eq!(answers, expected, "{hosts}");
    }
    assert_eq!(house.limit("misdirected"), 4);
}

/// Without a name a client claims none, and no other connection would change what it is shown.
fn who_asks_for_no_name_is_sent_away_only_where_certificates_decide(io: IoMode) {
    let authority = Authority::new();
    let (first, second) = (authority.sign(&["a.test"]), authority.sign(&["b.test"]));
    let lines = https(&[&first, &second]);
    let house = House::new(io, &lines, MOCK);
    let nameless = |certificate: Option<&Signed>| {
        let mut config = client(&authority, certificate);
        config.enable_sni = false;
        Arc::new(config)
    };
    let mut caller = Caller::new(&house, &nameless(None), "a.test");
    for host in ["a.test", "b.test", "unknown.test", "127.0.0.1"] {
        assert_eq!(caller.status(&GET.replace("a.test", host)), Some(200), "{host}");
    }
    house.server(&format!("{lines}caCertBase64: {}\n", quoted(&authority.pem)));
    let mut caller = Caller::new(&house, &nameless(Some(&authority.sign(&["client"]))), "a.test");
    for (host, expected) in [("a.test", 200), ("b.test", 421), ("unknown.test", 200)] {
        assert_eq!(caller.status(&GET.replace("a.test", host)), Some(expected), "{host}");
    }
}

fn sessions_are_taken_up_again(io: IoMode) {
    let authority = Authority::new();
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        let house = House::new(io, &https(&[&authority.sign(&["a.test"])]), MOCK);
        let mut roots = RootCertStore::empty();
        roots.add(authority.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let mut caller = Caller::new(&house, &config, "a.test");
            assert_eq!(caller.status(GET), Some(200));
            let got = caller.stream.conn.handshake_kind().unwrap();
            // Which group the server would rather have costs a round trip, and is no other kind here.
            let got = if got == HandshakeKind::FullWithHelloRetryRequest { HandshakeKind::Full } else { got };
            assert_eq!(got, kind, "{versions:?}");
        }
    }
}

fn sessions_of_another_machine_are_taken_up_again(io: IoMode) {
    let authority = Authority::new();
    let lines = https(&[&authority.sign(&["a.test"])]);
    let (one, other) = (House::new(io, &lines, MOCK), House::new(io, &lines, MOCK));
    let config = Arc::new(client(&authority, None));
    let kind = |house: &House| {
        let mut caller = Caller::new(house, &config, "a.test");
        assert_eq!(caller.status(GET), Some(200));
        caller.stream.conn.handshake_kind().unwrap()
    };
    kind(&one);
    assert_ne!(kind(&other), HandshakeKind::Resumed, "each has keys of its own");
    let key = TicketKey::generate();
    one.traffic.tickets().install(vec![key.clone()], 0);
    other.traffic.tickets().install(vec![TicketKey::generate(), key], 0);
    kind(&one);
    assert_eq!(kind(&other), HandshakeKind::Resumed);
}

fn what_is_not_tls_is_closed_and_counted(io: IoMode) {
    let authority = Authority::new();
    let timeouts = Timeouts { handshake: Duration::from_secs(3), ..Timeouts::default() };
    let house = House::with_timeouts(io, &https(&[&authority.sign(&["a.test"])]), MOCK, timeouts);
    let mut plain = house.connect();
    plain.send(GET.as_bytes());
    let said = plain.rest();
    assert!(!String::from_utf8_lossy(&said).contains("HTTP/"), "no answer in the clear");
    assert!(matches!(said[..], [0x15, 3, _, 0, 2, 2, _]), "a fatal alert: {said:?}");
    eventually("it is counted", || house.limit("handshake_failed") == 1);
    // Silence, and a hello that does not come to its end.
    let (mut silent, mut begun) = (house.connect(), house.connect());
    begun.send(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc]);
    assert!(silent.rest().is_empty() && begun.rest().is_empty());
    eventually("both are counted", || house.limit("handshake_timeout") == 2);
    drop(house.connect());
    eventually("who leaves is counted", || house.limit("handshake_io") == 1);
    eventually("nothing is left", || house.traffic.connections() == 0);
    let config = Arc::new(client(&authority, None));
    assert_eq!(Caller::new(&house, &config, "a.test").status(GET), Some(200));
}

fn only_what_is_served_is_agreed_on(io: IoMode) {
    let authority = Authority::new();
    let lines = https(&[&authority.sign(&["a.test"])]);
    let house = House::new(io, &format!("{lines}\nhttp2: false"), MOCK);
    let mut config = client(&authority, None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    assert_eq!(Caller::new(&house, &Arc::new(config.clone()), "a.test").status(GET), None);
    // It is told why.
    let mut wire = house.connect();
    let mut tls =
        rustls::ClientConnection::new(Arc::new(config.clone()), ServerName::try_from("a.test").unwrap()).unwrap();
    let ended = tls.complete_io(&mut wire.stream).unwrap_err().to_string();
    assert!(ended.contains("NoApplicationProtocol"), "{ended}");
    config.alpn_protocols.clear();
    assert_eq!(Caller::new(&house, &Arc::new(config), "a.test").status(GET), Some(200));
    assert_eq!(house.limit("handshake_failed"), 2);
}

/// One connection for several names, as browsers make: what its certificate is not for is not answered there.
fn http2_is_agreed_on(io: IoMode) {
    let authority = Authority::new();
    let (first, second) = (authority.sign(&["a.test", "b.test"]), authority.sign(&["c.test"]));
    // Turned on later, it is for connections that come then.
    let lines = https(&[&first, &second]);
    let house = House::new(io, &format!("{lines}\nhttp2: false"), MOCK);
    house.server(&lines);
    let mut config = client(&authority, None);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    h2_client::run(async {
        let socket = tokio::net::TcpStream::connect(("127.0.0.1", house.port)).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(ServerName::try_from("a.test").unwrap(), socket).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (requests, _driver) = h2_client::over(stream).await;
        for (host, status) in [("a.test", 200), ("b.test", 200), ("c.test", 421), ("a.test", 200)] {
            let request = http::Request::get(format!("https://{host}/")).body(()).unwrap();
            assert_eq!(h2_client::ask(&requests, request, b"").await.unwrap().status, status, "{host}");
        }
    });
    assert_eq!(house.limit("misdirected"), 1);
}

fn bad_certificates_change_nothing(io: IoMode) {
    let authority = Authority::new();
    let (good, other) = (authority.sign(&["a.test"]), authority.sign(&["a.test"]));
    let house = House::new(io, &https(&[&good]), MOCK);
    let apply = |lines: &str| {
        let text = format!(
            "address: 127.0.0.1\nport: {}\n{lines}\nrules: [{{paths: [{{pathPrefix: /, backend: app}}]}}]\n",
            house.port
        );
        house.traffic.apply_server("web", &spec!(&text)).unwrap_err()
    };
    let mixed = Signed { chain: good.chain.clone(), key: other.key };
    assert!(apply(&https(&[&mixed])).contains("keys.c0"), "{}", apply(&https(&[&mixed])));
    let cut = Signed { chain: good.chain[..good.chain.len() / 2].to_owned(), key: good.key.clone() };
    assert!(apply(&https(&[&cut])).contains("certs.c0"), "{}", apply(&https(&[&cut])));
    assert!(apply("https: true").contains("certificate"), "{}", apply("https: true"));
    let config = Arc::new(client(&authority, None));
    assert_eq!(Caller::new(&house, &config, "a.test").status(GET), Some(200));
}

fn protocols_are_switched_over_tls(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        wire.head();
        wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello");
        while wire.more() {
            let echo = std::mem::take(&mut wire.read);
            wire.send(&echo);
        }
        wire.send(b"bye");
    });
    let authority = Authority::new();
    let house = House::new(io, &https(&[&authority.sign(&["a.test"])]), &proxy_to(backend.port));
    let mut caller = Caller::new(&house, &Arc::new(client(&authority, None)), "a.test");
    let upgrade = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    caller.stream.write_all(upgrade.as_bytes()).unwrap();
    assert!(caller.head().unwrap().starts_with("HTTP/1.1 101 "));
    assert_eq!(caller.exactly(5).unwrap(), b"hello");
    caller.stream.write_all(&[7; 100_000]).unwrap();
    assert!(caller.exactly(100_000).unwrap() == [7; 100_000]);
    // One direction ends, the other goes on.
    caller.stream.conn.send_close_notify();
    caller.stream.flush().unwrap();
    assert_eq!(caller.exactly(3).unwrap(), b"bye");
    assert!(caller.ends());
    let plain = Backend::answering(ECHO);
    house.pipeline("app", &proxy_to(plain.port));
}

/// Spans and lines go to whom they are for and who knows us, and to nobody else.
#[test]
fn spans_and_lines_go_over_tls_to_whom_they_are_for() {
    let (ours, others) = (Authority::new(), Authority::new());
    let (shown, named) = (ours.sign(&["127.0.0.1"]), ours.sign(&["edge"]));
    let taken = Backend::answering("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n");
    let guard = format!("{}caCertBase64: {}\n", https(&[&shown]), quoted(&ours.pem));
    let front = House::new(IoMode::Epoll, &guard, &proxy_to(taken.port));
    let house = House::new(IoMode::Epoll, "accessLogFormat: 'line {{URI}}'", MOCK);
    let url = |path: &str| format!("https://127.0.0.1:{}{path}", front.port);
    let known = mtls(&ours, Some(&named));
    let directory = tempfile::tempdir().unwrap();
    edge_export::set_directory(directory.path());
    let sink = |name: &str, mtls: &str| {
        let spec: base_model::LogSinkSpec = spec!(&format!("http: {{url: '{}', {mtls}}}", url(&format!("/{name}"))));
        house.traffic.apply_log_sink(name, &spec).expect("a good sink");
    };
    let arrived = |path: &str| taken.seen().iter().filter(|post| post.target().starts_with(path)).count();
    let traced = |exporter: &str| {
        let limits = "batchLimits: {batchTimeout: 20}";
        house.server(&format!(
            "accessLogFormat: 'line {{{{URI}}}}'\ntracing: {{serviceName: s, {limits}, exporter: {{{exporter}}}}}"
        ));
        assert_eq!(house.ask(GET).status(), 200);
    };
    sink("lines", &known);
    for (exporter, path) in [
        (format!("zipkin: {{endpoint: '{}', {known}}}", url("/zipkin")), "/zipkin"),
        (format!("jaeger: {{mode: collector, endpoint: '{}', {known}}}", url("/jaeger")), "/jaeger"),
        (format!("otlp: {{protocol: http, endpoint: '{}', {known}}}", url("/otlp")), "/otlp"),
    ] {
        traced(&exporter);
        eventually(path, || arrived(path) > 0);
    }
    eventually("lines", || arrived("/lines") > 0);
    // Whom we do not believe, and who does not know us, gets nothing.
    let unnamed = mtls(&ours, None);
    let doubted = mtls(&others, Some(&named));
    for (n, wrong) in [&unnamed, &doubted].into_iter().enumerate() {
        let name = format!("wrong-{n}");
        sink(&name, wrong);
        traced(&format!("zipkin: {{endpoint: '{}', {wrong}}}", url(&format!("/wrong-spans-{n}"))));
        eventually("it was tried", || {
            house.traffic.status()[&name]["health"].as_str().is_some_and(|why| why.contains("certificate"))
        });
    }
    assert_eq!(arrived("/wrong"), 0);
    // Once it is right, what waited goes.
    sink("wrong-0", &known);
    eventually("what waited", || arrived("/wrong-0") > 0);
}
