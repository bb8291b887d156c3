//! TLS of the whole house: what is refused, which sessions go on where, and the admin API behind a certificate.

use crate::authority::{Authority, pem};
use crate::cluster::{ADDRESSES, in_a_network, three};
use crate::world::{Answer, Machine, PATIENCE, eventually, free_port, mock, weir, within};
use control_api::tls::{ClientTrust, Pem, client_config};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};
use serde_json::{Value, json};
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

#[test]
fn a_session_goes_on_after_a_restart() {
    let mut machine = Machine::start();
    machine.kept(TICKETS);
    let port = serve(&machine, &shop());
    let (at, client) =
        (format!("127.0.0.1:{port}"), client(ClientTrust { skip_verify: true, ..ClientTrust::default() }));
    let (kind, answer) = eventually("it speaks TLS", || ask(&at, &client).ok());
    assert_eq!((kind, answer.status, answer.body.trim()), (HandshakeKind::Full, 200, "shop"));
    assert_eq!(ask(&at, &client).unwrap().0, HandshakeKind::Resumed);
    machine.kept("\"hs\"");
    machine.kill();
    machine.run();
    // The kernel may let go of the old listener late, and a ticket shown to nobody is spent all the same.
    eventually("it listens again", || machine.said().contains("listening server=hs").then_some(()));
    let (kind, _) = eventually("it speaks TLS again", || ask(&at, &client).ok());
    assert_eq!(kind, HandshakeKind::Resumed);
    let secret = secret_of(&machine);
    for shown in [machine.api("GET", "/objects", "").body, machine.api("GET", "/metrics", "").body, machine.log()] {
        assert!(!shown.contains(&secret) && !shown.contains("PRIVATE KEY"), "{shown}");
    }
}

#[test]
fn a_session_made_on_one_machine_goes_on_at_the_others() {
    if !in_a_network("tls::a_session_made_on_one_machine_goes_on_at_the_others") {
        return;
    }
    let machines = three();
    machines.iter().for_each(|machine| machine.kept(TICKETS));
    let port = serve(&machines[1], &shop());
    let at = |n: usize| format!("{}:{port}", ADDRESSES[n]);
    let trust = ClientTrust { skip_verify: true, ..ClientTrust::default() };
    for n in 0..3 {
        eventually("all of them speak TLS", || ask(&at(n), &client(trust.clone())).ok());
    }
    let client = client(trust);
    assert_eq!(ask(&at(0), &client).unwrap().0, HandshakeKind::Full);
    for n in [1, 2, 0, 2] {
        let (kind, answer) = ask(&at(n), &client).unwrap();
        assert_eq!((kind, answer.status), (HandshakeKind::Resumed, 200), "at m{}", n + 1);
    }
}

#[test]
fn certificates_that_cannot_serve_are_refused_under_their_fields_names() {
    let machine = Machine::start();
    let (good, other) = (shop(), shop());
    let old = made(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let young = made(|params| params.not_before = rcgen::date_time_ymd(2090, 1, 1));
    let cut = |text: &str| text[..text.len() * 2 / 3].to_owned();
    for (chain, key, field) in [
        (old.0.clone(), old.1.clone(), "certs.shop: "),
        (young.0.clone(), young.1.clone(), "certs.shop: "),
        (cut(&good.0), good.1.clone(), "certs.shop: "),
        (good.0.clone(), cut(&good.1), "keys.shop: "),
        (good.0.clone(), other.1.clone(), "keys.shop: "),
        ("b64?".to_owned(), good.1.clone(), "certs.shop: "),
    ] {
        let refused = machine.api("POST", "/objects", &document(free_port(), &(chain, key)).to_string());
        assert_eq!(refused.status, 400, "{refused:?}");
        let message = serde_json::from_str::<Value>(&refused.body).unwrap()["message"].clone();
        let message = message.as_str().unwrap_or_default();
        println!("{message}");
        assert!(message.starts_with(field), "{message}");
        assert!(!message.contains("PRIVATE"), "{message}");
    }
    let soon = made(|params| params.not_after = (SystemTime::now() + Duration::from_secs(3 * 86_400 + 60)).into());
    let warned = machine.api("POST", "/objects", &document(free_port(), &soon).to_string());
    assert_eq!(warned.status, 201, "{warned:?}");
    assert!(warned.head.contains("certs.shop: the certificate ends in 3 days"), "{}", warned.head);
    let ends = eventually("the metric is there", || machine.metric("weir_tls_certificate_expiry_timestamp_seconds"));
    let left = ends - SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((3.0 * 86_400.0 - 60.0..3.0 * 86_400.0 + 61.0).contains(&left), "{left}");
}

#[test]
fn a_certificate_that_ended_while_the_machine_was_away_is_served() {
    let mut machine = Machine::start();
    machine.create(&mock("pl", "shop"));
    let port = free_port();
    // As short as the machine is quick to take it before it ends.
    let end = [8, 30, 120].into_iter().find_map(|seconds| {
        let end = SystemTime::now() + Duration::from_secs(seconds);
        let document = document(port, &made(|params| params.not_after = end.into()));
        (machine.api("POST", "/objects", &document.to_string()).status == 201).then_some(end)
    });
    let end = end.expect("it is taken before it has ended");
    machine.kept("\"hs\"");
    machine.kill();
    eventually("the certificate has ended", || (SystemTime::now() > end + Duration::from_secs(1)).then_some(()));
    machine.run();
    let client = client(ClientTrust { skip_verify: true, ..ClientTrust::default() });
    let (_, answer) = eventually("it is served", || ask(&format!("127.0.0.1:{port}"), &client).ok());
    assert_eq!(answer.status, 200);
    assert!(machine.log().contains("the certificate has ended and is served all the same"), "{}", machine.log());

    // What has ended keeps nobody from changing the rest of the document.
    let shown = machine.api("GET", "/objects/hs", "");
    let mut document: Value = serde_json::from_str(&shown.body).unwrap();
    document["rules"][0]["paths"][0]["pathPrefix"] = "/only".into();
    let changed = machine.api("PUT", "/objects/hs", &document.to_string());
    assert_eq!(changed.status, 200, "{changed:?}");
    assert!(changed.head.contains("certs.shop: the certificate") && changed.head.contains("expired at"), "{changed:?}");
    let at = format!("127.0.0.1:{port}");
    eventually("the change is served", || {
        ask(&at, &client).is_ok_and(|(_, answer)| answer.status == 404).then_some(())
    });
    let other = made(|params| params.not_after = (end - Duration::from_secs(1)).into());
    let refused = machine.api("PUT", "/objects/hs", &self::document(port, &other).to_string());
    assert_eq!(refused.status, 400, "a new certificate has to be valid: {refused:?}");
}

#[test]
fn the_admin_api_asks_for_certificates() {
    let authority = Authority::new("the test's authority");
    let mut machine = Machine::new("m1");
    let file = |name: &str, pem: &Pem| {
        let path = machine.directory.join(name);
        fs::write(&path, &pem.text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let own = authority.signs("127.0.0.1");
    let flags = [
        "--tls".to_owned(),
        format!("--cert-file={}", file("api.pem", &own.chain)),
        format!("--key-file={}", file("api.key", &own.key)),
        format!("--client-ca-file={}", file("clients.pem", &authority.pem)),
        format!("--initial-object-config-files={}", file("pl.yaml", &pem(&mock("pl", "at the start")))),
    ];
    let broken = flags.clone();
    machine = machine.flags(flags);
    machine.spawn();
    let trust = |identity| ClientTrust { authorities: Some(authority.pem.clone()), identity, skip_verify: false };
    let (known, unknown) = (client(trust(Some(authority.signs("operator")))), client(trust(None)));
    let at = format!("127.0.0.1:{}", machine.api);
    let shown = eventually("the initial object is there", || {
        machine.still_runs();
        let (_, answer) = get(&at, "127.0.0.1", "/apis/v2/objects/pl", &known).ok()?;
        (answer.status == 200).then_some(answer.body)
    });
    assert!(shown.contains("at the start"));
    assert!(get(&at, "127.0.0.1", "/apis/v2/objects/pl", &unknown).is_err(), "without a certificate");
    assert!(machine.try_api("GET", "/apis/v2/healthz", "").is_err(), "in plain text");

    fs::write(machine.directory.join("api.key"), authority.signs("127.0.0.1").key.text).unwrap();
    let (code, _, told) = weir(&broken.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(code, 2, "{told}");
    assert!(told.contains("--cert-file") && told.contains("the key is not the certificate's"), "{told}");
    let (code, _, told) = weir(&["--tls", "--cert-file", "/nowhere/api.pem", "--key-file", "/nowhere/api.key"]);
    assert_eq!(code, 2, "{told}");
    assert!(told.contains("--cert-file /nowhere/api.pem: No such file"), "{told}");
}

#[test]
fn certificates_of_the_doors_are_read_again() {
    let authority = Authority::new("the test's authority");
    let mut machine = Machine::new("m1").over_https();
    let directory = machine.directory.clone();
    let write = |name: &str, pem: &Pem| {
        // As certbot and its like do it: another file takes the name.
        let fresh = directory.join(format!("{name}.fresh"));
        fs::write(&fresh, &pem.text).unwrap();
        fs::rename(&fresh, directory.join(name)).unwrap();
    };
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    write("ca.pem", &authority.pem);
    for door in ["api", "peer"] {
        let own = authority.signs("127.0.0.1");
        write(&format!("{door}.pem"), &own.chain);
        write(&format!("{door}.key"), &own.key);
    }
    machine = machine.flags([
        "--tls".to_owned(),
        format!("--cert-file={}", path("api.pem")),
        format!("--key-file={}", path("api.key")),
        format!("--peer-cert-file={}", path("peer.pem")),
        format!("--peer-key-file={}", path("peer.key")),
        format!("--peer-trusted-ca-file={}", path("ca.pem")),
    ]);
    machine.spawn();
    let trust = |identity| ClientTrust { authorities: Some(authority.pem.clone()), identity, skip_verify: false };
    let old = client(trust(Some(authority.signs("127.0.0.1"))));
    let (api, peer) = (format!("127.0.0.1:{}", machine.api), format!("127.0.0.1:{}", machine.peer));
    let ready = || get(&api, "127.0.0.1", "/apis/v2/healthz", &old).is_ok_and(|(_, answer)| answer.status == 200);
    eventually("it is ready", || ready().then_some(()));
    let metrics = get(&api, "127.0.0.1", "/metrics", &old).unwrap().1.body;
    for door in ["admin", "peers"] {
        let line = format!("weir_control_certificate_expiry_timestamp_seconds{{door=\"{door}\"");
        assert!(metrics.lines().any(|l| l.starts_with(&line)), "{door}: {metrics}");
    }
    // The key comes after its certificate, and between them nothing is lost.
    let new = Authority::new("another authority");
    let own = new.signs("127.0.0.1");
    write("api.pem", &own.chain);
    eventually("it says what is wrong", || machine.log().contains("the key is not the certificate's").then_some(()));
    assert!(ready(), "{}", machine.log());
    write("api.key", &own.key);
    let fresh = client(ClientTrust { authorities: Some(new.pem.clone()), ..ClientTrust::default() });
    eventually("the admin API shows the new one", || get(&api, "127.0.0.1", "/apis/v2/healthz", &fresh).ok());
    let own = new.signs("127.0.0.1");
    write("ca.pem", &new.pem);
    write("peer.pem", &own.chain);
    write("peer.key", &own.key);
    let member =
        client(ClientTrust { authorities: Some(new.pem.clone()), identity: Some(new.signs("m1")), skip_verify: false });
    // Without the cluster's name it is refused, over TLS that was agreed on.
    let answered = || get(&peer, "127.0.0.1", "/raft/identity", &member).is_ok_and(|(_, answer)| answer.status == 403);
    eventually("so does the peer port", || answered().then_some(()));
    let former = get(&peer, "127.0.0.1", "/raft/identity", &client(trust(Some(authority.signs("m1")))));
    assert!(former.is_err(), "who was signed by the old authority is a stranger now");
}

#[test]
fn members_over_https() {
    if !in_a_network("tls::members_over_https") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let machines = three_over_https(directory.path());
    machines[2].create(&mock("pl", "agreed"));
    for machine in &machines {
        eventually("it is everywhere", || (machine.api("GET", "/objects/pl", "").status == 200).then_some(()));
        // Asked of every machine over the peer URLs.
        eventually("all report", || {
            let status = machine.json("/status/objects/pl");
            ["m1", "m2", "m3"].iter().all(|m| status[format!("eg-traffic-default/pl/{m}")].is_object()).then_some(())
        });
        assert!(!machine.log().contains("without encryption on this address"), "{}", machine.log());
    }
}

/// Three machines in networks of their own that talk to each other with certificates, which lie in `directory`.
pub fn three_over_https(directory: &Path) -> Vec<Machine> {
    let authority = Authority::new("the test's authority");
    let file = |name: String, pem: &Pem| {
        let path = directory.join(name);
        fs::write(&path, &pem.text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let ca = file("ca.pem".into(), &authority.pem);
    let machines: Vec<Machine> =
        (0..3).map(|n| Machine::new(&format!("m{}", n + 1)).at(&format!("n{n}"), ADDRESSES[n]).over_https()).collect();
    let cluster: Vec<String> = machines.iter().map(|m| format!("{}={}", m.name, m.peer_url())).collect();
    let mut machines: Vec<Machine> = machines
        .into_iter()
        .zip(ADDRESSES)
        .map(|(machine, address)| {
            let own = authority.signs(address);
            let (chain, key) = (file(format!("{address}.pem"), &own.chain), file(format!("{address}.key"), &own.key));
            machine.flags([
                "--initial-cluster".to_owned(),
                cluster.join(","),
                format!("--peer-cert-file={chain}"),
                format!("--peer-key-file={key}"),
                format!("--peer-trusted-ca-file={ca}"),
            ])
        })
        .collect();
    machines.iter_mut().for_each(Machine::spawn);
    let ready = |machine: &Machine| machine.try_api("GET", "/apis/v2/healthz", "").is_ok_and(|a| a.status == 200);
    eventually("all are ready", || machines.iter().all(ready).then_some(()));
    machines
}

/// Creates a pipeline and an HTTPServer with this chain and key; says the port.
/// Serves a page over TLS; the port.
pub fn serve(machine: &Machine, pair: &(String, String)) -> u16 {
    machine.create(&mock("pl", "shop"));
    serve_with(machine, pair, "pl")
}

/// The same, with a pipeline that is there.
pub fn serve_with(machine: &Machine, pair: &(String, String), pipeline: &str) -> u16 {
    serve_as(machine, pair, pipeline, &[])
}

/// The same, with further fields of the document.
pub fn serve_as(machine: &Machine, pair: &(String, String), pipeline: &str, fields: &[(&str, Value)]) -> u16 {
    let port = free_port();
    let mut document = document(port, pair);
    document["rules"][0]["paths"][0]["backend"] = pipeline.into();
    fields.iter().for_each(|(name, value)| document[*name] = value.clone());
    machine.create(&document.to_string());
    port
}

fn document(port: u16, (chain, key): &(String, String)) -> Value {
    json!({
        "name": "hs", "kind": "HTTPServer", "port": port, "https": true, "certs": {"shop": chain}, "keys": {"shop": key},
        "rules": [{"paths": [{"pathPrefix": "/", "backend": "pl"}]}],
    })
}

/// A certificate and its key.
pub fn shop() -> (String, String) {
    made(|_| {})
}

/// A chain and its key, for `shop.test`.
fn made(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let mut params = CertificateParams::new(vec!["shop.test".to_owned()]).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// One that keeps the sessions it is given.
fn client(trust: ClientTrust) -> Arc<ClientConfig> {
    Arc::new(client_config(&trust).unwrap())
}

fn ask(at: &str, client: &Arc<ClientConfig>) -> io::Result<(HandshakeKind, Answer)> {
    get(at, "shop.test", "/", client)
}

/// One request on a connection of its own, and how its handshake went.
fn get(at: &str, name: &str, path: &str, client: &Arc<ClientConfig>) -> io::Result<(HandshakeKind, Answer)> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let socket = TcpStream::connect(at)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let connection = ClientConnection::new(client.clone(), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.get(9..12).and_then(|s| s.parse().ok()).ok_or_else(|| io::Error::other(head.to_owned()))?;
    let kind = stream.conn.handshake_kind().expect("it is complete");
    Ok((kind, Answer { status, head: head.to_owned(), body: body.to_owned() }))
}

/// The secret of the ticket key in force, as the copy on disk has it.
fn secret_of(machine: &Machine) -> String {
    let kept = within(PATIENCE, || {
        let text = fs::read_to_string(machine.directory.join("data/edge/last-good.json")).ok()?;
        serde_json::from_str::<Value>(&text).ok()
    });
    let secret = kept.expect("there is a copy")["tickets"]["keys"][0]["secret"].clone();
    secret.as_array().expect("bytes").iter().filter_map(Value::as_u64).map(|byte| format!("{byte:02x}")).collect()
}

/// How the copy on disk begins to speak of keys that all machines share.
const TICKETS: &str = "\"tickets\":{\"keys\":[{";
