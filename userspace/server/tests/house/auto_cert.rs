//! Certificates that the cluster orders itself, from a real authority (pebble) that looks over the loopback and refuses nonces on purpose.

use crate::authority::Authority;
use crate::cluster::{ADDRESSES, in_a_network};
use crate::cookbook::recipe;
use crate::leash::Leashed;
use crate::parts;
use crate::tls::three_over_https;
use crate::world::{Address, Backend, Connection, Machine, eventually, free_port, get, mock, program, server};
use control_api::tls::{ClientTrust, client_config};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use serde_json::{Value, json};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Pebble, and where it looks: every name is at 127.0.0.1, its ports are `http` and `tls`.
struct Pebble {
    port: u16,
    management: u16,
    http: u16,
    tls: u16,
    /// What its own certificate is signed by, PEM.
    authority: String,
    directory: tempfile::TempDir,
    config: Value,
    process: Option<Leashed>,
    _dns: Leashed,
    dns: u16,
    /// Where records of the DNS server are made.
    records: String,
    /// Where it is reached.
    host: String,
    /// Seconds that it takes its time before it looks, at most.
    sleeps: u32,
}

impl Pebble {
    /// `change` its configuration, which is `pebble` of the file.
    fn start(change: impl FnOnce(&mut Value)) -> Option<Pebble> {
        Self::start_at("127.0.0.1", "127.0.0.1", 0, change)
    }

    /// At an address; all names are at `names`.
    fn start_at(host: &str, names: &str, sleeps: u32, change: impl FnOnce(&mut Value)) -> Option<Pebble> {
        let (_, resolver) = parts::pebble()?;
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let signer = Authority::new("of pebble");
        let identity = signer.signs(host);
        let (chain, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        fs::write(&chain, &identity.chain.text).unwrap();
        fs::write(&key, &identity.key.text).unwrap();
        let (port, management, http, tls) = (free_port(), free_port(), free_port(), free_port());
        let mut config = json!({
            "listenAddress": format!("{host}:{port}"), "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": chain, "privateKey": key, "httpPort": http, "tlsPort": tls, "ocspResponderURL": "",
            "externalAccountBindingRequired": false, "domainBlocklist": ["blocked.test"], "keyAlgorithm": "ecdsa",
            "retryAfter": {"authz": 1, "order": 1},
            "profiles": {"default": {"description": "the usual", "validityPeriod": 7_776_000}},
        });
        change(&mut config);
        let (dns, dns_management) = (free_port(), free_port());
        let mut command = Command::new(resolver);
        command.args(["-defaultIPv4", names, "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]);
        command.args(["-doh", "", "-dnsserver", &format!("127.0.0.1:{dns}")]);
        command
            .args(["-management", &format!("127.0.0.1:{dns_management}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let _dns = Leashed::start(&mut command).unwrap();
        eventually("the DNS server is there", || TcpStream::connect(("127.0.0.1", dns_management)).ok());
        let authority = String::from_utf8(signer.pem.text).unwrap();
        let (host, records) = (host.to_owned(), format!("127.0.0.1:{dns_management}"));
        let mut pebble = Pebble {
            port,
            management,
            http,
            tls,
            authority,
            directory,
            config,
            process: None,
            _dns,
            dns,
            records,
            host,
            sleeps,
        };
        pebble.run();
        Some(pebble)
    }

    /// Starts it, without anything that it knew.
    fn run(&mut self) {
        let (program, _) = parts::pebble().unwrap();
        let config = self.directory.path().join("config.json");
        fs::write(&config, json!({"pebble": self.config}).to_string()).unwrap();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.directory.path().join("log")).unwrap();
        let mut command = Command::new(program);
        command.arg("-config").arg(&config).args(["-dnsserver", &format!("127.0.0.1:{}", self.dns)]);
        match self.sleeps {
            0 => command.env("PEBBLE_VA_NOSLEEP", "1"),
            seconds => command.env("PEBBLE_VA_SLEEPTIME", seconds.to_string()),
        };
        command.env("PEBBLE_WFE_NONCEREJECT", "20").env("PEBBLE_AUTHZREUSE", "0");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(Leashed::start(&mut command).unwrap());
        eventually("pebble listens", || TcpStream::connect((self.host.as_str(), self.port)).ok());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// An AutoCertManager that asks it for these names.
    fn manager(&self, names: &[&str]) -> Value {
        let domains: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        json!({
            "kind": "AutoCertManager", "name": "certificates", "email": "ops@shop.test", "domains": domains,
            "directoryURL": format!("https://{}:{}/dir", self.host, self.port), "caCertBase64": self.authority,
        })
    }

    /// Servers on the ports that pebble looks at.
    fn servers(&self, machine: &Machine) {
        machine.create(&mock("pl", "shop"));
        machine.create(&server("plain", self.http, "pl"));
        let encrypted = json!({
            "kind": "HTTPServer", "name": "encrypted", "port": self.tls, "https": true, "autoCert": true,
            "rules": [{"paths": [{"pathPrefix": "/", "backend": "pl"}]}],
        });
        machine.create(&encrypted.to_string());
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- log of pebble ---\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}

/// A connection that was made for `name`.
fn connect(at: impl Address, name: &str, offers: &[&[u8]]) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let trust = ClientTrust { skip_verify: true, ..ClientTrust::default() };
    let mut config = client_config(&trust).unwrap();
    config.alpn_protocols = offers.iter().map(|offer| offer.to_vec()).collect();
    let socket = TcpStream::connect(at.text())?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(ClientConnection::new(config.into(), name).map_err(io::Error::other)?, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// The certificate, DER, that a client sees that asks for `name`.
fn shown(at: impl Address, name: &str) -> io::Result<Vec<u8>> {
    let stream = connect(at, name, &[])?;
    let chain = stream.conn.peer_certificates().and_then(|chain| chain.first()).map(|first| first.to_vec());
    chain.ok_or_else(|| io::Error::other("no certificate"))
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

/// Waits until clients that ask for `name` see a certificate that pebble has issued for it.
fn is_shown(at: impl Address + Clone, name: &str) -> Vec<u8> {
    // As an alternative name: that of www.shop.test is not one of shop.test.
    let alternative = format!("\u{2}{}{name}", char::from(name.len() as u8));
    let is_its = |der: &[u8]| {
        der.windows(name.len() + 2).any(|part| part[0] == 0x82 && part[1..] == alternative.as_bytes()[1..])
    };
    eventually(&format!("{name} has its certificate"), || {
        shown(at.clone(), name).ok().filter(|der| is_its(der) && contains(der, "Pebble Intermediate"))
    })
}

fn request(stream: &mut StreamOwned<ClientConnection, TcpStream>, host: &str) -> io::Result<String> {
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
    let mut read = [0; 4096];
    let count = stream.read(&mut read)?;
    Ok(String::from_utf8_lossy(&read[..count]).into_owned())
}

fn domain(machine: &Machine, name: &str) -> Value {
    let all = machine.json("/status/objects/certificates");
    let status = &all[format!("eg-traffic-default/certificates/{}", machine.name)]["status"];
    let status =
        if status.is_null() { &all[format!("default/certificates/{}", machine.name)]["status"] } else { status };
    let domains = status["domains"].as_array().cloned().unwrap_or_default();
    domains.into_iter().find(|domain| domain["name"] == name).unwrap_or_default()
}

/// The recipe of the cookbook: pebble is in the place of Let's Encrypt, and the ports are those it looks at.
#[test]
fn the_recipe_of_the_cookbook_orders_shows_and_redirects() {
    let Some(pebble) = Pebble::start(|_| {}) else { return };
    let (machine, shop) = (Machine::start(), Backend::start("shop"));
    let manager = pebble.manager(&[]);
    let authority = format!(
        "email: ops@shop.example\ndirectoryURL: {}\ncaCertBase64: {}",
        manager["directoryURL"], manager["caCertBase64"]
    );
    machine.create(&recipe(
        "https",
        &[
            ("email: ops@shop.example", &authority),
            ("port: 80\n", &format!("port: {}\n", pebble.http)),
            ("port: 443\n", &format!("port: {}\n", pebble.tls)),
            ("http://127.0.0.1:9095", &shop.url()),
        ],
    ));
    for name in ["shop.example", "www.shop.example"] {
        is_shown(pebble.tls, name);
        let mut stream = connect(pebble.tls, name, &[]).unwrap();
        let answer = request(&mut stream, name).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("shop"), "{answer}");
        assert!(answer.to_lowercase().contains("alt-svc: h3="), "HTTP/3 is offered: {answer}");
    }
    let plain = || Connection::open(&format!("127.0.0.1:{}", pebble.http)).unwrap().asking("shop.example");
    let moved = plain().request("GET", "/cart?a=b", &[], "").unwrap();
    assert_eq!(moved.status, 301);
    assert!(moved.head.contains("Location: https://shop.example/cart?a=b\r\n"), "{moved:?}");
}

#[test]
fn a_name_gets_its_certificate_and_keeps_it() {
    let Some(mut pebble) = Pebble::start(|_| {}) else { return };
    let mut machine = Machine::start();
    pebble.servers(&machine);
    eventually("it listens", || TcpStream::connect(("127.0.0.1", pebble.tls)).ok());
    let refused = shown(pebble.tls, "shop.test").unwrap_err();
    assert!(refused.to_string().contains("UnrecognisedName"), "there is nothing to show yet: {refused}");
    let path = "/.well-known/acme-challenge/x";
    assert_eq!(get(pebble.http, path).unwrap().status, 503, "nobody orders certificates");

    // A name that the authority refuses holds nobody up.
    machine.create(&pebble.manager(&["blocked.test", "shop.test", "www.shop.test"]).to_string());
    let first = is_shown(pebble.tls, "shop.test");
    is_shown(pebble.tls, "www.shop.test");
    assert_eq!(get(pebble.http, path).unwrap().status, 404, "nobody knows this token");
    eventually("the status says why", || {
        domain(&machine, "blocked.test")["error"].as_str().filter(|why| why.contains("rejectedIdentifier")).map(drop)
    });
    eventually("the status says when it ends", || {
        let shop = domain(&machine, "shop.test");
        (shop["state"] == "issued" && shop["expireTime"].as_str()?.ends_with('Z')).then_some(())
    });
    let ends = machine.metric("weir_tls_certificate_expiry_timestamp_seconds").unwrap();
    assert!(ends > 2.0 * now(), "of both: {ends}");
    eventually("one fails", || (machine.metric("weir_acme_names_failing") == Some(1.0)).then_some(()));
    let mut stream = connect(pebble.tls, "shop.test", &[]).unwrap();
    assert!(request(&mut stream, "shop.test").unwrap().contains("shop"));

    // Nobody who has the disks but for the key has a private key.
    machine.kept("shop.test");
    let disk = walk(&machine.directory);
    assert!(disk.iter().all(|file| !contains(file, "PRIVATE KEY")), "on a disk");
    for shown in [machine.api("GET", "/objects", "").body, machine.log(), machine.api("GET", "/metrics", "").body] {
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    }

    // It is served with the authority away, and by the same account when it is back for another name.
    pebble.process = None;
    machine.kill();
    machine.run();
    assert_eq!(is_shown(pebble.tls, "shop.test"), first);
    machine.update("certificates", &pebble.manager(&["shop.test", "later.test"]).to_string());
    eventually("the status says who is away", || {
        domain(&machine, "later.test")["error"].as_str().filter(|why| why.contains("cannot be asked")).map(drop)
    });
    eventually("what nobody wants is shown no more", || {
        shown(pebble.tls, "www.shop.test").is_ok_and(|der| !contains(&der, "www.shop.test")).then_some(())
    });
    // It comes back without knowing the account.
    pebble.run();
    is_shown(pebble.tls, "later.test");
    assert_eq!(is_shown(pebble.tls, "shop.test"), first);
}

/// Every file below, but for the keys of the cluster.
fn walk(directory: &std::path::Path) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else if path.file_name().is_some_and(|name| name != "cluster-keys") {
            files.extend(fs::read(&path));
        }
    }
    files
}

#[test]
fn an_order_goes_on_where_the_leader_that_began_it_was_killed() {
    if !in_a_network("auto_cert::an_order_goes_on_where_the_leader_that_began_it_was_killed") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut machines = three_over_https(directory.path());
    let leader = eventually("one leads", || machines.iter().position(|m| m.metric("weir_raft_is_leader") == Some(1.0)));
    // The authority looks at one that does not lead, and takes its time.
    let asked = (leader + 1) % 3;
    let Some(pebble) = Pebble::start_at("10.77.0.254", ADDRESSES[asked], 8, |_| {}) else { return };
    pebble.servers(&machines[asked]);
    machines[asked].create(&pebble.manager(&["shop.test"]).to_string());
    eventually("the authority is about to look", || {
        pebble.log().contains("Pulled a task from the Tasks queue").then_some(())
    });
    machines[leader].kill();
    let at = |n: usize| format!("{}:{}", ADDRESSES[n], pebble.tls);
    let first = is_shown(at(asked).as_str(), "shop.test");
    assert_eq!(is_shown(at((leader + 2) % 3).as_str(), "shop.test"), first, "every edge shows the same");
    assert_eq!(pebble.log().matches("Added order").count(), 1, "the order was not begun anew");
    machines[leader].run();
    assert_eq!(is_shown(at(leader).as_str(), "shop.test"), first);
    for machine in &machines {
        eventually("every member says when it ends", || {
            domain(machine, "shop.test")["expireTime"].as_str().is_some().then_some(())
        });
    }
    // Whoever has the state has no key, and whoever has the key has it from a member.
    let keys = |n: usize| fs::read_to_string(machines[n].directory.join("data/cluster-keys")).unwrap();
    assert!(keys(0) == keys(1) && keys(1) == keys(2), "one key");
    let backup = machines[asked].api("GET", "/backup", "");
    assert!(!backup.body.contains(keys(0).trim()) && !backup.body.contains("PRIVATE"), "{}", backup.status);
}

#[test]
fn a_renewed_certificate_is_shown_while_connections_go_on() {
    let usual = |config: &mut Value| config["profiles"]["default"]["validityPeriod"] = json!(24);
    let Some(pebble) = Pebble::start(usual) else { return };
    let machine = Machine::start();
    pebble.servers(&machine);
    // Over TLS alone: nothing that a client of HTTP/1 or 2 sees is lost meanwhile.
    let mut manager = pebble.manager(&["shop.test"]);
    manager["enableHTTP01"] = json!(false);
    manager["enableTLSALPN01"] = json!(true);
    // Longer than it lasts: a third of its time is left then.
    manager["renewBefore"] = json!("1h");
    machine.create(&manager.to_string());
    let first = is_shown(pebble.tls, "shop.test");
    let mut stream = connect(pebble.tls, "shop.test", &[]).unwrap();
    let (mut requests, mut failed) = (0, 0);
    let renewed = eventually("it is renewed", || {
        requests += 1;
        assert!(
            request(&mut stream, "shop.test").is_ok_and(|answer| answer.contains(" 200 ")),
            "on request {requests}"
        );
        match shown(pebble.tls, "shop.test") {
            Ok(der) => (der != first).then_some(der),
            Err(_) => {
                failed += 1;
                None
            }
        }
    });
    assert!(contains(&renewed, "shop.test") && failed == 0, "{failed} handshakes failed");
    let refused = connect(pebble.tls, "shop.test", &[b"acme-tls/1"]).map(drop).unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "no authority asks now: {refused}");
    assert_eq!(machine.log().matches("listening server=encrypted").count(), 1, "no listener was made anew");
}

#[test]
fn an_account_is_bound_to_another_and_profiles_are_asked_for() {
    let (id, key) = ("kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W");
    let bound = |config: &mut Value| {
        config["externalAccountBindingRequired"] = json!(true);
        config["externalAccountMACKeys"] = json!({id: key});
        config["profiles"]["short"] = json!({"description": "six days", "validityPeriod": 518_400});
    };
    let Some(pebble) = Pebble::start(bound) else { return };
    let machine = Machine::start();
    pebble.servers(&machine);
    let mut manager = pebble.manager(&["shop.test"]);
    manager["profile"] = json!("short");
    machine.create(&manager.to_string());
    eventually("the authority asks for another account", || {
        domain(&machine, "shop.test")["error"].as_str().filter(|why| why.contains("externalAccountRequired")).map(drop)
    });
    // What is changed is tried at once, however long the pause was.
    manager["externalAccount"] = json!({"keyID": id, "hmacKey": key});
    machine.update("certificates", &manager.to_string());
    is_shown(pebble.tls, "shop.test");
    let shown = machine.api("GET", "/objects/certificates", "").body;
    assert!(!shown.contains(key) && shown.contains(id), "{shown}");
    let left = machine.metric("weir_tls_certificate_expiry_timestamp_seconds").unwrap() - now();
    assert!((5.9 * 86_400.0..6.1 * 86_400.0).contains(&left), "{left}");
}

fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// acme-dns with one registration, whose records pebble's DNS server has at `at`.
fn acme_dns(records: String, at: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let (mut input, mut piece) = (Vec::new(), [0; 4096]);
            while !contains(&input, "}") {
                match stream.read(&mut piece) {
                    Ok(count @ 1..) => input.extend_from_slice(&piece[..count]),
                    _ => break,
                }
            }
            let text = String::from_utf8_lossy(&input).into_owned();
            let body: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap_or("{}")).unwrap_or_default();
            let known = text.to_lowercase().contains("x-api-key: secret") && body["subdomain"] == "d420";
            let set = json!({"host": at, "value": body["txt"]}).to_string();
            let made = Connection::open(&records).and_then(|mut to| to.request("POST", "/set-txt", &[], &set));
            assert!(made.is_ok_and(|answer| answer.status == 200));
            let answer = json!({"txt": body["txt"]}).to_string();
            let status = if known { "200 OK" } else { "401 Unauthorized" };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{answer}",
                answer.len()
            );
        }
    });
    port
}

#[test]
fn a_wildcard_is_proved_by_a_record() {
    let Some(pebble) = Pebble::start(|_| {}) else { return };
    let machine = Machine::start();
    pebble.servers(&machine);
    let refused = machine.api("POST", "/objects", &pebble.manager(&["*.shop.test"]).to_string());
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.body.contains("a wildcard can be proved by DNS-01 alone"), "{refused:?}");
    let port = acme_dns(pebble.records.clone(), "_acme-challenge.shop.test.");
    let mut manager = pebble.manager(&["*.shop.test", "shop.test"]);
    for domain in manager["domains"].as_array_mut().unwrap() {
        domain["dnsProvider"] = json!({
            "name": "acmedns", "server": format!("http://127.0.0.1:{port}"), "username": "user", "password": "secret",
            "subdomain": "d420", "nsAddress": format!("127.0.0.1:{}", pebble.dns),
        });
    }
    // Both have their records under the same name.
    manager["enableDNS01"] = json!(true);
    machine.create(&manager.to_string());
    let der = eventually("the wildcard is shown", || {
        shown(pebble.tls, "any.shop.test").ok().filter(|der| contains(der, "*.shop.test"))
    });
    let own = eventually("the name has its own", || shown(pebble.tls, "shop.test").ok().filter(|own| *own != der));
    assert!(contains(&own, "shop.test") && !contains(&own, "*.shop.test"));
    assert!(!machine.api("GET", "/objects/certificates", "").body.contains("secret\""), "a secret is shown");
}

/// A real server of names, which takes updates of `shop.test` from whoever has the key: where it listens, and what it says of them.
fn bind(directory: &Path) -> Option<(u16, PathBuf, Leashed)> {
    let (server, libraries) = parts::bind()?;
    let port = free_port();
    let (place, log) = (directory.display(), directory.join("bind.log"));
    let configuration = format!(
        "options {{ directory \"{place}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no; notify no;
           pid-file none; session-keyfile none; lock-file none; dnssec-validation no; }};
         controls {{ }};
         key \"weir\" {{ algorithm hmac-sha384; secret \"{UPDATE_KEY}\"; }};
         zone \"shop.test\" {{ type primary; file \"shop.zone\"; allow-update {{ key \"weir\"; }}; }};\n"
    );
    let zone = "$TTL 60\n@ SOA ns.shop.test. admin.shop.test. 1 3600 600 86400 60\n@ NS ns.shop.test.\n@ A 127.0.0.1\n* A 127.0.0.1\n";
    fs::write(directory.join("named.conf"), configuration).unwrap();
    fs::write(directory.join("shop.zone"), zone).unwrap();
    let mut command = Command::new(server);
    command.args(["-g", "-n", "1", "-c"]).arg(directory.join("named.conf")).env("LD_LIBRARY_PATH", libraries);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
    let process = Leashed::start(&mut command).unwrap();
    eventually("BIND runs", || fs::read_to_string(&log).is_ok_and(|log| log.contains(" running")).then_some(()));
    Some((port, log, process))
}

/// Of the key that BIND takes updates with.
const UPDATE_KEY: &str = "YSBrZXkgdGhhdCBCSU5EIGtub3dz";

#[test]
fn a_wildcard_is_proved_by_a_record_that_bind_takes() {
    let Some(mut pebble) = Pebble::start(|_| {}) else { return };
    let Some((port, log, _bind)) = bind(pebble.directory.path()) else { return };
    pebble.dns = port;
    pebble.run();
    let machine = Machine::start();
    pebble.servers(&machine);
    let manager = |key: &str| {
        let mut manager = pebble.manager(&["*.shop.test"]);
        manager["enableDNS01"] = json!(true);
        manager["domains"][0]["dnsProvider"] = json!({
            "name": "rfc2136", "zone": "shop.test", "server": format!("127.0.0.1:{port}"),
            "tsigKey": "weir", "tsigSecret": key, "tsigAlgorithm": "hmac-sha384",
        });
        manager.to_string()
    };
    // A key that it does not know: what it answers is told, and nothing is written.
    machine.create(&manager("YW5vdGhlciBrZXk="));
    eventually("the update is refused", || {
        let told = domain(&machine, "*.shop.test").to_string();
        (told.contains("NOTAUTH") || told.contains("BADSIG")).then_some(())
    });
    let said = || fs::read_to_string(&log).unwrap();
    assert!(!said().contains("adding an RR"), "{}", said());
    let replaced = machine.api("PUT", "/objects/certificates", &manager(UPDATE_KEY));
    assert_eq!(replaced.status, 200, "{replaced:?}");
    eventually("the wildcard is shown", || {
        shown(pebble.tls, "any.shop.test").ok().filter(|der| contains(der, "*.shop.test"))
    });
    let of = |what: &str| format!("{what} at '_acme-challenge.shop.test' TXT");
    eventually("the record is put there, and goes again", || {
        let said = said();
        (said.contains(&of("adding an RR")) && said.contains("deleting an RR at _acme-challenge.shop.test TXT"))
            .then_some(())
    });
}

#[test]
fn a_name_that_clients_ask_for_gets_its_certificate_with_leave() {
    let Some(pebble) = Pebble::start(|_| {}) else { return };
    let machine = Machine::start();
    pebble.servers(&machine);
    // Who says yes to some.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (ask, told) = (format!("http://{}/may?of=us", listener.local_addr().unwrap()), asked.clone());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut piece = [0; 2048];
            let count = stream.read(&mut piece).unwrap_or(0);
            let line = String::from_utf8_lossy(&piece[..count]).lines().next().unwrap_or_default().to_owned();
            let status = if line.contains("domain=no.") { "404 Not Found" } else { "200 OK" };
            told.lock().unwrap().push(line);
            let _ = write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let mut manager = pebble.manager(&[]);
    manager["onDemand"] = json!({"allow": ["*.customers.test", "one.test"], "ask": ask, "perHour": 2, "most": 5});
    machine.create(&manager.to_string());
    // Asked for again and again, as clients do.
    let first = is_shown(pebble.tls, "a.customers.test");
    for name in ["no.customers.test", "a.b.customers.test", "other.test"] {
        assert!(shown(pebble.tls, name).is_ok_and(|der| der == first), "there is no other certificate than that");
    }
    is_shown(pebble.tls, "one.test");
    // That makes two in this hour.
    let _ = shown(pebble.tls, "late.customers.test");
    eventually("two names get none", || {
        let _ = (shown(pebble.tls, "late.customers.test"), shown(pebble.tls, "no.customers.test"));
        (machine.metric("weir_acme_demands_refused_total")? >= 2.0).then_some(())
    });
    let asked = asked.lock().unwrap().clone();
    let times = |name: &str| asked.iter().filter(|line| line.contains(&format!("domain={name} "))).count();
    assert_eq!((times("a.customers.test"), times("one.test"), times("late.customers.test")), (1, 1, 0), "{asked:?}");
    assert_eq!((times("no.customers.test"), times("other.test"), times("a.b.customers.test")), (1, 0, 0), "{asked:?}");
    assert!(asked[0].starts_with("GET /may?of=us&domain="), "{asked:?}");
}

/// Takes what a server says of its certificate, and believes everything.
#[derive(Debug, Default)]
struct Capturing(Mutex<Vec<u8>>);

impl ServerCertVerifier for Capturing {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = ocsp.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256]
    }
}

/// What is shown together with the certificate.
fn stapled(port: u16, name: &str) -> Vec<u8> {
    let capturing = Arc::new(Capturing::default());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.dangerous().with_custom_certificate_verifier(capturing.clone()).with_no_client_auth();
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(config.into(), name).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).unwrap();
    }
    let shown = capturing.0.lock().unwrap();
    shown.clone()
}

#[test]
fn what_the_authority_says_of_a_certificate_is_shown_with_it() {
    let Some(openssl) = program("openssl") else { return };
    let port = free_port();
    let says = |config: &mut Value| {
        config["ocspResponderURL"] = json!(format!("http://127.0.0.1:{port}"));
        // It tells no other keys.
        config["keyAlgorithm"] = json!("rsa");
    };
    let Some(pebble) = Pebble::start(says) else { return };
    let mut machine = Machine::start();
    pebble.servers(&machine);
    machine.create(&pebble.manager(&["shop.test"]).to_string());
    let der = is_shown(pebble.tls, "shop.test");
    assert!(stapled(pebble.tls, "shop.test").is_empty(), "nobody answers yet");

    // OpenSSL answers for pebble, with its key.
    let file = |name: &str| pebble.directory.path().join(name);
    for (from, to) in [("intermediates", "int.pem"), ("intermediate-keys", "int.key")] {
        let mut stream = connect(pebble.management, "127.0.0.1", &[]).unwrap();
        write!(stream, "GET /{from}/0 HTTP/1.1\r\nHost: pebble\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        let begins = text.find("-----BEGIN").unwrap_or_else(|| panic!("/{from}/0: {text}"));
        fs::write(file(to), &text[begins..]).unwrap();
    }
    fs::write(file("leaf.der"), der).unwrap();
    let mut serial = Command::new(&openssl);
    serial.args(["x509", "-inform", "DER", "-noout", "-serial", "-in"]).arg(file("leaf.der"));
    let serial = String::from_utf8(serial.output().unwrap().stdout).unwrap();
    let serial = serial.trim().trim_start_matches("serial=").to_owned();
    fs::write(file("index"), format!("V\t400101000000Z\t\t{serial}\tunknown\t/CN=shop.test\n")).unwrap();
    let mut command = Command::new(&openssl);
    command.args(["ocsp", "-port", &port.to_string(), "-ndays", "1", "-index"]).arg(file("index"));
    command.arg("-CA").arg(file("int.pem")).arg("-rsigner").arg(file("int.pem")).arg("-rkey").arg(file("int.key"));
    let log = fs::File::create(file("responder")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let _responder = Leashed::start(&mut command).unwrap();
    // A connection without a request would be its end.
    eventually("the responder listens", || {
        fs::read_to_string(file("responder")).is_ok_and(|said| said.contains("waiting for OCSP")).then_some(())
    });
    machine.kill();
    machine.run();
    let staple = eventually("it is shown", || {
        TcpStream::connect(("127.0.0.1", pebble.tls)).ok()?;
        Some(stapled(pebble.tls, "shop.test")).filter(|staple| !staple.is_empty())
    });
    fs::write(file("staple"), staple).unwrap();
    let read = Command::new(&openssl).args(["ocsp", "-noverify", "-resp_text", "-respin"]).arg(file("staple")).output();
    let read = String::from_utf8(read.unwrap().stdout).unwrap();
    assert!(read.contains("Cert Status: good") && read.contains(&serial), "{read}");
}
