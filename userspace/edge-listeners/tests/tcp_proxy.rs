//! TCPProxy on both drivers: what goes in comes out, on the server it should, for whom it may.

#[macro_use]
mod support;

use base_model::Spec;
use base_runtime::IoMode;
use edge_listeners::Timeouts;
use proto_proxy::{Addresses, read, tlv, v1, v2};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Backend, House, Wire, eventually, free_port};

on_both_drivers![
    bytes_pass_both_ways_and_each_way_ends_by_itself,
    bulk_stays_in_the_kernel,
    a_server_that_refuses_is_left_for_another,
    a_server_that_breaks_off_counts_against_itself,
    servers_and_clients_have_as_many_connections_as_they_may,
    who_may_not_come_in_is_closed,
    silence_ends_and_so_does_a_listener,
    a_client_is_known_by_what_trusted_proxies_say,
    headers_of_others_are_refused,
    servers_are_told_of_clients,
    tls_passes_by_its_name_and_is_not_touched,
    what_is_no_tls_gets_an_alert,
    tls_ends_here_and_the_rules_go_by_what_was_agreed,
    tls_ends_here_for_some_names_and_passes_for_others,
    a_slow_header_takes_nothing_of_the_time_for_tls,
    relays_that_are_each_others_servers_come_to_an_end,
    a_change_is_for_new_connections,
    it_listens_where_the_document_says,
    further_connections_wait,
    headers_go_before_tls_in_and_out,
];

const MOCK: &str = "filters: [{name: m, kind: Mock, rules: [{code: 200, body: mocked}]}]";

struct Relay {
    house: House,
    port: u16,
}

impl Relay {
    /// `lines` are further ones of the document.
    fn new(io: IoMode, lines: &str) -> Relay {
        Relay::with_timeouts(io, lines, Timeouts::default())
    }

    fn with_timeouts(io: IoMode, lines: &str, timeouts: Timeouts) -> Relay {
        let relay = Relay { house: House::with_timeouts(io, "", MOCK, timeouts), port: free_port() };
        relay.apply(lines);
        relay
    }

    fn apply(&self, lines: &str) {
        let text = format!("address: 127.0.0.1\nport: {}\n{lines}\n", self.port);
        let spec: base_model::TcpProxySpec = spec!(&text);
        let mut findings = base_model::Findings::default();
        spec.validate("", &mut findings);
        assert!(findings.problems.is_empty(), "{}", base_model::problem::render(&findings.problems));
        self.house.traffic.apply_listener("db", &Spec::TcpProxy(Box::new(spec))).expect("a good proxy");
    }

    fn connect(&self) -> Wire {
        Wire::new(TcpStream::connect(("127.0.0.1", self.port)).expect("it listens"))
    }

    fn metric(&self, name: &str, labels: &str) -> u64 {
        let text = self.house.telemetry.render(base_telemetry::Names::Own);
        let line = format!("{name}{{server=\"db\"{labels}}} ");
        let value = text.lines().find_map(|l| l.strip_prefix(&line)).unwrap_or_else(|| panic!("{line}: {text}"));
        value.parse::<f64>().unwrap() as u64
    }

    fn ends(&self, reason: &str) -> u64 {
        self.metric("weir_tcp_ends_total", &format!(",reason=\"{reason}\""))
    }
}

fn pool(servers: &[u16]) -> String {
    let servers: Vec<String> = servers.iter().map(|port| format!("{{url: 'tcp://127.0.0.1:{port}'}}")).collect();
    format!("pools: [{{servers: [{}]}}]", servers.join(", "))
}

/// Says its name, then what it hears.
fn echo(name: &'static str) -> Backend {
    Backend::new(move |mut wire, _| {
        wire.send(name.as_bytes());
        while wire.more() {
            let heard = std::mem::take(&mut wire.read);
            wire.send(&heard);
        }
    })
}

fn bytes_pass_both_ways_and_each_way_ends_by_itself(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        let heard = wire.rest();
        wire.send(format!("{} bytes", heard.len()).as_bytes());
        wire.finish_sending();
    });
    let relay = Relay::new(io, &pool(&[backend.port]));
    let mut client = relay.connect();
    client.send(&[7; 100_000]);
    client.finish_sending();
    assert_eq!(client.rest(), b"100000 bytes", "the client's end reached the server, whose answer came back");
    eventually("it has ended", || relay.ends("finished") == 1);
    assert_eq!(relay.metric("weir_tcp_connections_total", ""), 1);
    assert_eq!(relay.metric("weir_tcp_connections", ""), 0);
    assert_eq!(relay.metric("weir_tcp_received_bytes_total", ""), 100_000);
    assert_eq!(relay.metric("weir_tcp_sent_bytes_total", ""), 12);
    let status = relay.house.traffic.status()["db"].clone();
    assert_eq!((&status["state"], &status["total"]), (&"running".into(), &1.into()), "{status}");
    // A server that speaks first, and ends first.
    let greeting = Backend::new(|mut wire, _| {
        wire.send(b"220 ready\r\n");
        wire.finish_sending();
        assert_eq!(wire.rest(), b"QUIT");
    });
    relay.apply(&pool(&[greeting.port]));
    let mut client = relay.connect();
    assert_eq!(client.rest(), b"220 ready\r\n");
    client.send(b"QUIT");
    client.finish_sending();
    eventually("it has ended, too", || relay.ends("finished") == 2);
}

fn bulk_stays_in_the_kernel(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        let mut sum = 0;
        while wire.more() {
            sum += wire.read.len();
            wire.read.clear();
        }
        wire.send(&sum.to_be_bytes());
    });
    let relay = Relay::new(io, &pool(&[backend.port]));
    let mut client = relay.connect();
    let block = vec![3; 1 << 20];
    for _ in 0..32 {
        assert!(client.send(&block));
    }
    client.finish_sending();
    assert_eq!(client.rest(), (32usize << 20).to_be_bytes());
    let spliced: u64 = relay.house.runtime.workers().iter().map(|worker| worker.stats().bytes_spliced).sum();
    assert!(spliced > 16 << 20, "{spliced}");
    eventually("all is counted", || relay.metric("weir_tcp_received_bytes_total", "") == 32 << 20);
}

fn a_server_that_refuses_is_left_for_another(io: IoMode) {
    let (backend, nobody) = (echo("one"), free_port());
    let relay = Relay::new(io, &pool(&[nobody, backend.port]));
    for _ in 0..20 {
        assert_eq!(relay.connect().exactly(3).unwrap(), b"one");
    }
    let text = relay.house.telemetry.render(base_telemetry::Names::Own);
    let ejections =
        text.lines().filter(|line| line.starts_with("weir_upstream_") && line.contains(&nobody.to_string()));
    assert!(ejections.clone().any(|line| line.contains("ejections") && line.ends_with(" 1")), "{text}");
    let relay = Relay::new(io, &pool(&[free_port(), free_port()]));
    assert!(relay.connect().ends(), "there is nobody");
    eventually("it is counted", || relay.ends("no_server") == 1);
}

fn a_server_that_breaks_off_counts_against_itself(io: IoMode) {
    let bad = Backend::new(|wire, _| {
        // Closed with bytes unread, which makes it a reset.
        wire.reset();
    });
    let good = echo("good");
    let detection = "outlierDetection: {consecutiveErrors: 2, baseEjectionTime: 10m}, servers";
    let relay = Relay::new(io, &pool(&[bad.port, good.port]).replace("servers", detection));
    for _ in 0..12 {
        let mut client = relay.connect();
        client.send(&[1; 100_000]);
        client.more();
    }
    eventually("it is left out", || {
        let text = relay.house.telemetry.render(base_telemetry::Names::Own);
        text.lines().any(|l| l.contains("ejections") && l.contains(&bad.port.to_string()) && l.ends_with(" 1"))
    });
    let before = bad.connections();
    for _ in 0..6 {
        assert_eq!(relay.connect().exactly(4).unwrap(), b"good");
    }
    assert_eq!(bad.connections(), before);
}

fn servers_and_clients_have_as_many_connections_as_they_may(io: IoMode) {
    let (one, two) = (echo("one"), echo("two"));
    let servers = format!(
        "pools: [{{servers: [{{url: 'tcp://127.0.0.1:{}', maxConnections: 1}}, {{url: 'tcp://127.0.0.1:{}', maxConnections: 2}}]}}]",
        one.port, two.port
    );
    let relay = Relay::new(io, &servers);
    let mut clients: Vec<Wire> = (0..3).map(|_| relay.connect()).collect();
    let mut names: Vec<Vec<u8>> = clients.iter_mut().map(|client| client.exactly(3).unwrap()).collect();
    names.sort();
    assert_eq!(names, [b"one", b"two", b"two"]);
    assert!(relay.connect().ends(), "both are full");
    assert!(relay.house.limit("server_connections") >= 2);
    eventually("it is counted", || relay.ends("no_server") == 1);
    // A change of the document counts on.
    relay.apply(&format!("{servers}\nmaxConnections: 100"));
    assert!(relay.connect().ends(), "both are full still");
    drop(clients.pop());
    eventually("there is room again", || relay.connect().exactly(3).is_some());
    relay.apply(&format!("{}\nmaxConnectionsPerIP: 2", pool(&[one.port])));
    let mut held: Vec<Wire> = (0..2).map(|_| relay.connect()).collect();
    held.iter_mut().for_each(|client| assert!(client.exactly(3).is_some()));
    assert!(relay.connect().ends());
    eventually("it is counted", || relay.house.limit("connections_per_ip") == 1 && relay.ends("refused") == 1);
    drop(held);
    eventually("there is room for it again", || relay.connect().exactly(3).is_some());
}

fn who_may_not_come_in_is_closed(io: IoMode) {
    let backend = echo("one");
    let relay = Relay::new(io, &format!("{}\nipFilter: {{blockIPs: [127.0.0.0/8]}}", pool(&[backend.port])));
    assert!(relay.connect().ends());
    eventually("it is counted", || relay.house.limit("ip_filter") == 1);
    assert_eq!(backend.connections(), 0);
}

fn silence_ends_and_so_does_a_listener(io: IoMode) {
    let backend = echo("one");
    let relay = Relay::new(io, &format!("{}\nidleTimeout: 300ms", pool(&[backend.port])));
    let mut client = relay.connect();
    assert_eq!(client.rest(), b"one", "and then it ends");
    eventually("it is counted", || relay.ends("idle") == 1 && relay.house.limit("tunnel_idle") == 1);
    let drain = Timeouts { tunnel_drain: Duration::from_millis(200), ..Timeouts::default() };
    let relay = Relay::with_timeouts(io, &pool(&[backend.port]), drain);
    let mut client = relay.connect();
    assert_eq!(client.exactly(3).unwrap(), b"one");
    let connections = relay.house.traffic.connections();
    relay.house.traffic.remove_server("db");
    assert!(connections > 0);
    for _ in 0..4 {
        client.send(b"x");
        assert_eq!(client.exactly(1).unwrap(), b"x", "one at work goes on");
        std::thread::sleep(Duration::from_millis(80));
    }
    assert!(client.ends(), "a silent one ends");
}

const TRUSTING: &str = "proxyProtocol: accept\ntrustedProxies: [127.0.0.1]\nipFilter: {blockIPs: [192.0.2.66]}";

fn line_of(client: &str) -> Vec<u8> {
    let mut line = Vec::new();
    v1::write(Some((client.parse().unwrap(), "198.51.100.1:443".parse().unwrap())), &mut line);
    line
}

fn a_client_is_known_by_what_trusted_proxies_say(io: IoMode) {
    let backend = echo("one");
    let relay = Relay::new(io, &format!("{TRUSTING}\n{}", pool(&[backend.port])));
    let mut client = relay.connect();
    // A byte at a time, and what follows with the last.
    let line = line_of("192.0.2.1:5000");
    for byte in &line[..line.len() - 1] {
        client.send(&[*byte]);
    }
    client.send(b"\nhello");
    assert_eq!(client.exactly(8).unwrap(), b"onehello");
    let mut blocked = relay.connect();
    blocked.send(&line_of("192.0.2.66:5000"));
    assert!(blocked.ends(), "the filter goes by the client");
    let block = v2::Writer::proxy(proto_proxy::Transport::Stream, at("192.0.2.66:1"), at("[::1]:2")).finish_checked();
    let mut blocked = relay.connect();
    blocked.send(&block);
    assert!(blocked.ends());
    eventually("both are counted", || relay.house.limit("ip_filter") == 2);
    // The proxy's own connections are its own.
    let mut own = relay.connect();
    own.send(&v2::Writer::local().finish());
    assert_eq!(own.exactly(3).unwrap(), b"one");
    let mut missing = relay.connect();
    missing.send(b"hello, this is no header at all");
    assert!(missing.ends());
    let mut malformed = relay.connect();
    malformed.send(b"PROXY TCP4 192.0.2.1\r\n");
    assert!(malformed.ends());
    eventually("they are counted", || {
        (relay.house.limit("proxy_missing"), relay.house.limit("proxy_malformed"), relay.ends("proxy_header"))
            == (1, 1, 2)
    });
    relay.apply(&format!("{TRUSTING}\nhandshakeTimeout: 200ms\n{}", pool(&[backend.port])));
    let mut silent = relay.connect();
    assert!(silent.ends());
    eventually("it is counted", || relay.house.limit("proxy_timeout") == 1);
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn headers_of_others_are_refused(io: IoMode) {
    let backend = echo("one");
    let mistrusting = "proxyProtocol: accept\ntrustedProxies: [192.0.2.1]";
    let relay = Relay::new(io, &format!("{mistrusting}\n{}", pool(&[backend.port])));
    // Who sends none is served as who it is, also where the server speaks first.
    let mut client = relay.connect();
    assert_eq!(client.exactly(3).unwrap(), b"one");
    client.send(b"PROX");
    client.send(b"imity");
    assert_eq!(client.exactly(9).unwrap(), b"PROXimity");
    for header in [line_of("192.0.2.9:1"), v2::Writer::local().finish()] {
        let mut client = relay.connect();
        let (first, second) = header.split_at(4);
        client.send(first);
        std::thread::sleep(Duration::from_millis(20));
        client.send(second);
        assert_eq!(client.rest(), b"one", "the server has spoken, and heard nothing");
    }
    eventually("they are counted", || relay.house.limit("proxy_untrusted") == 2 && relay.ends("proxy_header") == 2);
}

fn servers_are_told_of_clients(io: IoMode) {
    let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let hear = heard.clone();
    let backend = Backend::new(move |mut wire, _| hear.lock().unwrap().push(wire.rest()));
    let told = |lines: &str| {
        let relay = Relay::new(io, &format!("{lines}\n{}", pool(&[backend.port])));
        let mut client = relay.connect();
        let own = client.stream.local_addr().unwrap();
        client.send(b"hello");
        client.finish_sending();
        eventually("the server has heard", || !heard.lock().unwrap().is_empty());
        (own, relay.port, heard.lock().unwrap().remove(0))
    };
    let (own, port, bytes) = told("proxyProtocol: v1");
    assert_eq!(bytes, format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {port}\r\nhello", own.port()).as_bytes());
    let (own, port, bytes) = told("proxyProtocol: v2");
    let (header, length) = read(&bytes).unwrap().unwrap();
    assert_eq!(&bytes[length..], b"hello");
    assert!(header.tlvs.find(tlv::CRC32C).is_some());
    assert_eq!(
        header.addresses,
        Addresses::Inet {
            transport: proto_proxy::Transport::Stream,
            source: own,
            destination: SocketAddr::new(own.ip(), port)
        }
    );
    // What a trusted proxy has said is said on.
    let backend_pool = pool(&[backend.port]).replace("servers", "proxyProtocol: v1, servers");
    let relay = Relay::new(io, &format!("{TRUSTING}\n{backend_pool}"));
    let mut client = relay.connect();
    client.send(&line_of("192.0.2.1:5000"));
    client.finish_sending();
    eventually("the server has heard", || !heard.lock().unwrap().is_empty());
    assert_eq!(heard.lock().unwrap().remove(0), line_of("192.0.2.1:5000"));
}

/// A ClientHello of rustls' own, for this name and these protocols.
fn hello(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut config = config;
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Remembers what it hears, and says its name once it has heard this much.
fn hearing(name: &'static str) -> (Backend, Arc<Mutex<Vec<u8>>>) {
    let heard: Arc<Mutex<Vec<u8>>> = Arc::default();
    let hear = heard.clone();
    let backend = Backend::new(move |mut wire, _| {
        wire.send(name.as_bytes());
        let bytes = wire.rest();
        hear.lock().unwrap().extend(bytes);
    });
    (backend, heard)
}

fn tls_passes_by_its_name_and_is_not_touched(io: IoMode) {
    let ((shop, shop_heard), (mail, mail_heard), (rest, _)) = (hearing("shop"), hearing("mail"), hearing("rest"));
    let of = |name: &str, port: u16| format!("{{name: '{name}', servers: [{{url: '127.0.0.1:{port}'}}]}}");
    let rules = "rules: [{sni: [shop.test], alpn: [h2], pool: shop}, {sni: ['*.mail.test'], pool: mail}]";
    let pools = |last: &str| format!("[{}, {}{last}]", of("shop", shop.port), of("mail", mail.port));
    let last = format!(", {}", of("", rest.port));
    let relay = Relay::new(io, &format!("tls: passthrough\n{rules}\npools: {}", pools(&last)));
    let ask = |bytes: &[u8], step: usize| {
        let mut client = relay.connect();
        for piece in bytes.chunks(step) {
            client.send(piece);
        }
        let name = client.exactly(4).map(|name| String::from_utf8(name).unwrap());
        client.finish_sending();
        client.rest();
        name
    };
    let bytes = hello("shop.test", &[b"h2", b"http/1.1"]);
    assert_eq!(ask(&bytes, 7).as_deref(), Some("shop"));
    eventually("all of it is there", || *shop_heard.lock().unwrap() == bytes);
    let bytes = hello("a.mail.test", &[]);
    assert_eq!(ask(&bytes, 4096).as_deref(), Some("mail"));
    eventually("all of it is there", || *mail_heard.lock().unwrap() == bytes);
    assert_eq!(ask(&hello("shop.test", &[b"http/1.1"]), 1000).as_deref(), Some("rest"));
    assert_eq!(ask(&hello("127.0.0.1", &[]), 1000).as_deref(), Some("rest"), "an address asks for no name");
    // Without a pool for the rest they are closed.
    relay.apply(&format!("tls: passthrough\n{rules}\npools: {}", pools("")));
    let mut client = relay.connect();
    client.send(&hello("other.test", &[]));
    assert_eq!(client.rest(), [0; 0]);
    eventually("it is counted", || relay.house.limit("no_route") == 1 && relay.ends("no_route") == 1);
}

fn what_is_no_tls_gets_an_alert(io: IoMode) {
    let (backend, _) = hearing("rest");
    let relay = Relay::new(io, &format!("tls: passthrough\nhandshakeTimeout: 300ms\n{}", pool(&[backend.port])));
    let mut client = relay.connect();
    client.send(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(client.rest(), [21, 3, 1, 0, 2, 2, 50], "decode_error");
    let mut client = relay.connect();
    // It says that it is longer than anybody waits for.
    client.send(&[22, 3, 1, 0, 4, 1, 0, 0x80, 0]);
    assert_eq!(client.rest(), [21, 3, 1, 0, 2, 2, 50]);
    let mut client = relay.connect();
    client.send(&hello("shop.test", &[])[..100]);
    assert!(client.ends(), "it never came to its end");
    eventually("they end, and are counted", || {
        let house = &relay.house;
        relay.ends("tls") == 3
            && (house.limit("hello_malformed"), house.limit("hello_too_long"), house.limit("handshake_timeout"))
                == (1, 1, 1)
    });
    assert_eq!(backend.connections(), 0);
}

/// The name that a server says, which then gives back what it gets, within TLS.
fn ask_within_tls(port: u16, trusted: &CertificateDer<'static>, name: &str, alpn: &[&[u8]]) -> std::io::Result<String> {
    say_within_tls(TcpStream::connect(("127.0.0.1", port)).unwrap(), trusted, name, alpn)
}

fn say_within_tls(
    stream: TcpStream,
    trusted: &CertificateDer<'static>,
    name: &str,
    alpn: &[&[u8]],
) -> std::io::Result<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, stream);
    let mut name = [0; 4];
    std::io::Read::read_exact(&mut stream, &mut name)?;
    std::io::Write::write_all(&mut stream, b"ping")?;
    let mut back = [0; 4];
    std::io::Read::read_exact(&mut stream, &mut back)?;
    assert_eq!(&back, b"ping");
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// Of one port: some names' TLS ends here, and others' passes untouched, whichever of the two is the rule and which the exception.
fn tls_ends_here_for_some_names_and_passes_for_others(io: IoMode) {
    let shop = echo("shop");
    let (mail, heard) = hearing("mail");
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["shop.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let pair = format!("certBase64: {}\nkeyBase64: {}", quoted(&certificate.pem()), quoted(&key.serialize_pem()));
    let document = |tls: &str, rule: &str| {
        format!(
            "tls: {tls}\n{pair}\nrules: [{rule}]\npools: [{{name: shop, servers: [{{url: '127.0.0.1:{}'}}]}}, {{name: mail, servers: [{{url: '127.0.0.1:{}'}}]}}]",
            shop.port, mail.port
        )
    };
    let (ends, passes) =
        ("{sni: [shop.test], tls: terminate, pool: shop}", "{sni: [mail.test], tls: passthrough, pool: mail}");
    let bytes = hello("mail.test", &[b"h2"]);
    for (tls, rules) in [
        ("passthrough", format!("{ends}, {{sni: ['*.test'], pool: mail}}")),
        ("terminate", format!("{passes}, {{sni: ['*.test'], pool: shop}}")),
    ] {
        let relay = Relay::new(io, &document(tls, &rules));
        let asked = ask_within_tls(relay.port, certificate.der(), "shop.test", &[]);
        assert_eq!(asked.unwrap(), "shop", "{tls}");
        let mut client = relay.connect();
        client.send(&bytes[..60]);
        client.send(&bytes[60..]);
        assert_eq!(client.exactly(4).as_deref(), Some(&b"mail"[..]), "{tls}");
        client.finish_sending();
        client.rest();
        eventually("all of it is there", || *heard.lock().unwrap() == bytes);
        heard.lock().unwrap().clear();
    }
}

/// Each has its time: who is the client, and then TLS, of which the hello is the beginning.
fn a_slow_header_takes_nothing_of_the_time_for_tls(io: IoMode) {
    let shop = echo("shop");
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["shop.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let relay = Relay::new(
        io,
        &format!(
            "{TRUSTING}\nhandshakeTimeout: 4s\ntls: terminate\ncertBase64: {}\nkeyBase64: {}\n\
             rules: [{{sni: [mail.test], tls: passthrough, pool: shop}}, {{sni: [shop.test], pool: shop}}]\n{}",
            quoted(&certificate.pem()),
            quoted(&key.serialize_pem()),
            pool(&[shop.port]).replace("servers", "name: shop, servers")
        ),
    );
    let mut stream = TcpStream::connect(("127.0.0.1", relay.port)).unwrap();
    std::thread::sleep(Duration::from_millis(2200));
    std::io::Write::write_all(&mut stream, &line_of("192.0.2.1:5000")).unwrap();
    std::thread::sleep(Duration::from_millis(2200));
    assert_eq!(say_within_tls(stream, certificate.der(), "shop.test", &[]).unwrap(), "shop");
    assert_eq!(relay.house.limit("handshake_timeout"), 0);
}

fn tls_ends_here_and_the_rules_go_by_what_was_agreed(io: IoMode) {
    let (shop, rest) = (echo("shop"), echo("rest"));
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["shop.test".to_owned(), "a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let document = format!(
        "tls: terminate\ncertBase64: {}\nkeyBase64: {}\nalpn: [mqtt]\nrules: [{{sni: [shop.test], alpn: [mqtt], pool: shop}}]\n\
         pools: [{{name: shop, servers: [{{url: '127.0.0.1:{}'}}]}}, {{servers: [{{url: '127.0.0.1:{}'}}]}}]",
        quoted(&certificate.pem()),
        quoted(&key.serialize_pem()),
        shop.port,
        rest.port
    );
    let relay = Relay::new(io, &document);
    let ask = |name: &str, alpn: &[&[u8]]| ask_within_tls(relay.port, certificate.der(), name, alpn);
    assert_eq!(ask("shop.test", &[b"mqtt"]).unwrap(), "shop");
    assert_eq!(ask("shop.test", &[]).unwrap(), "rest");
    assert_eq!(ask("a.test", &[b"mqtt"]).unwrap(), "rest");
    assert!(ask("shop.test", &[b"h2"]).is_err(), "nothing it offers is spoken");
    eventually("it is counted", || relay.house.limit("handshake_failed") == 1 && relay.ends("tls") == 1);
}

/// One that leads to itself makes few connections of each that comes, and ends them.
fn relays_that_are_each_others_servers_come_to_an_end(io: IoMode) {
    let relay = Relay::new(io, &pool(&[free_port()]));
    relay.apply(&pool(&[relay.port]));
    let mut client = relay.connect();
    client.send(b"round");
    assert!(client.ends() || client.is_broken(), "nobody is there");
    drop(client);
    eventually("it is counted", || relay.house.limit("tcp_loop") >= 1);
    eventually("nothing is left", || relay.house.traffic.connections() == 0);
    let made = relay.metric("weir_tcp_connections_total", "");
    assert!(made <= 8, "{made} connections of one client");
    // A relay behind another is none that goes round.
    let server = echo("here");
    relay.apply(&pool(&[server.port]));
    let mut client = relay.connect();
    assert!(client.send(b"straight") && client.exactly(12).as_deref() == Some(&b"herestraight"[..]));
}

fn a_change_is_for_new_connections(io: IoMode) {
    let (one, two) = (echo("one"), echo("two"));
    let relay = Relay::new(io, &pool(&[one.port]));
    let mut old = relay.connect();
    assert_eq!(old.exactly(3).unwrap(), b"one");
    relay.apply(&pool(&[two.port]));
    assert_eq!(relay.connect().exactly(3).unwrap(), b"two");
    old.send(b"still here");
    assert_eq!(old.exactly(10).unwrap(), b"still here");
    // Under the same name something else may stand.
    let text = format!("address: 127.0.0.1\nport: {}\nrules: [{{paths: [{{backend: app}}]}}]", free_port());
    let server: base_model::HttpServerSpec = spec!(&text);
    relay.house.traffic.apply_listener("db", &Spec::HttpServer(Box::new(server))).unwrap();
    assert_eq!(relay.house.traffic.servers().iter().filter(|(_, server)| server.kind() == "TCPProxy").count(), 0);
}

fn it_listens_where_the_document_says(io: IoMode) {
    let backend = echo("one");
    let mut relay = Relay::new(io, &pool(&[backend.port]));
    let answers = |at: (&str, u16)| {
        let Ok(stream) = TcpStream::connect(at) else { return false };
        Wire::new(stream).exactly(3).is_some_and(|name| name == b"one")
    };
    let before = relay.port;
    assert!(answers(("127.0.0.1", before)) && !answers(("127.0.0.2", before)));
    relay.port = free_port();
    relay.apply(&pool(&[backend.port]));
    assert!(answers(("127.0.0.1", relay.port)));
    eventually("nobody listens there", || TcpStream::connect(("127.0.0.1", before)).is_err());
    let everywhere: base_model::TcpProxySpec = spec!(&format!("port: {before}\n{}", pool(&[backend.port])));
    relay.house.traffic.apply_listener("db", &Spec::TcpProxy(Box::new(everywhere))).unwrap();
    assert!(answers(("127.0.0.1", before)) && answers(("127.0.0.2", before)));
}

fn further_connections_wait(io: IoMode) {
    let backend = echo("one");
    let relay = Relay::new(io, &format!("maxConnections: 1\n{}", pool(&[backend.port])));
    let mut first = relay.connect();
    assert_eq!(first.exactly(3).unwrap(), b"one");
    let mut second = relay.connect();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(backend.connections(), 1);
    first.send(b"still served");
    assert_eq!(first.exactly(12).unwrap(), b"still served");
    assert_eq!(relay.metric("weir_tcp_connections", ""), 1);
    drop(first);
    assert_eq!(second.exactly(3).unwrap(), b"one");
}

/// In the clear to one proxy, inside TLS from it to another, which ends that and says on what it was told.
fn headers_go_before_tls_in_and_out(io: IoMode) {
    let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let hear = heard.clone();
    let backend = Backend::new(move |mut wire, _| hear.lock().unwrap().push(wire.rest()));
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let inner = Relay::new(
        io,
        &format!(
            "{TRUSTING}\ntls: terminate\ncertBase64: {}\nkeyBase64: {}\n{}",
            quoted(&certificate.pem()),
            quoted(&key.serialize_pem()),
            pool(&[backend.port]).replace("servers", "proxyProtocol: v2, servers")
        ),
    );
    let outer = |lines: &str| {
        let text = format!(
            "address: 127.0.0.1\nport: {}\nproxyProtocol: v1\npools: [{{mtls: {{rootCertBase64: {}}}, {lines}}}]",
            free_port(),
            quoted(&certificate.pem())
        );
        let spec: base_model::TcpProxySpec = spec!(&text);
        let port = spec.port;
        inner.house.traffic.apply_listener("outer", &Spec::TcpProxy(Box::new(spec))).unwrap();
        port
    };
    for lines in [
        format!("servers: [{{url: 'tls://localhost:{}'}}]", inner.port),
        format!("tls: true, servers: [{{url: 'localhost:{}'}}]", inner.port),
    ] {
        let mut client = Wire::new(TcpStream::connect(("127.0.0.1", outer(&lines))).unwrap());
        let own = client.stream.local_addr().unwrap();
        client.send(b"hello");
        client.finish_sending();
        eventually("the server has heard", || !heard.lock().unwrap().is_empty());
        let bytes = heard.lock().unwrap().remove(0);
        let (header, length) = read(&bytes).unwrap().unwrap();
        assert_eq!(&bytes[length..], b"hello");
        assert_eq!(header.addresses.client(), Some(own), "{lines}");
        assert_eq!(header.tlvs.find(tlv::AUTHORITY), Some(&b"localhost"[..]));
        let ssl = header.tlvs.ssl().expect("TLS was spoken");
        assert_eq!((ssl.client, ssl.verified, ssl.version), (tlv::CLIENT_SSL, true, Some(&b"TLSv1.3"[..])));
    }
    // Whom nobody trusts with this name is not connected to.
    let port = outer(&format!("servers: [{{url: 'tls://127.0.0.1:{}'}}]", inner.port));
    assert!(Wire::new(TcpStream::connect(("127.0.0.1", port)).unwrap()).ends());
    assert!(heard.lock().unwrap().is_empty());
}
