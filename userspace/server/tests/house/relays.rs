//! TCPProxy, UDPProxy and the PROXY protocol beside the programs people have: haproxy sends and takes headers, openssl asks for names.

use crate::leash::Leashed;
use crate::tls::shop;
use crate::world::{Backend, Machine, answers, eventually, free_port, program, proxy, server};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

fn run(command: &mut Command) -> Leashed {
    Leashed::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())).unwrap()
}

/// A machine on this driver.
fn machine(io: &str) -> Machine {
    let mut machine = Machine::new("m1").flags(["--io", io]);
    machine.run();
    machine
}

/// haproxy with these lines after the usual ones.
fn haproxy(program: &Path, folder: &Path, lines: &str, ports: &[u16]) -> Leashed {
    let config =
        format!("defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n{lines}");
    let file = folder.join(format!("haproxy-{}.cfg", ports[0]));
    fs::write(&file, config).unwrap();
    let running = run(Command::new(program).args(["-db", "-q", "-f"]).arg(&file));
    for port in ports {
        eventually("haproxy listens", || TcpStream::connect(("127.0.0.1", *port)).ok());
    }
    running
}

/// An answer to a request that was sent from this address of the machine.
fn ask_from(source: &str, port: u16) -> String {
    let socket = socket_from(source, port);
    let Some(mut socket) = socket else { return String::new() };
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let _ = socket.write_all(b"GET /who HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    let mut text = String::new();
    let _ = socket.read_to_string(&mut text);
    text
}

fn socket_from(source: &str, port: u16) -> Option<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).ok()?;
    bind(&socket, &SocketAddr::new(source.parse().ok()?, 0)).ok()?;
    connect(&socket, &SocketAddr::new([127, 0, 0, 1].into(), port)).ok()?;
    Some(socket.into())
}

/// haproxy says who the client is, in either version; a TCPProxy says it on; another haproxy takes it and tells the backend.
#[test]
fn haproxy_says_who_clients_are_and_is_told() {
    let Some(program) = program("haproxy") else { return };
    let folder = tempfile::tempdir().unwrap();
    let backend = Backend::start("one");
    for (io, told) in [("uring", "v1"), ("epoll", "v2")] {
        let machine = machine(io);
        let [first, second, relay, web, last] = [(); 5].map(|()| free_port());
        machine.create(&proxy("to-one", &[backend.url()]));
        let trust = "proxyProtocol: accept\ntrustedProxies: [127.0.0.1]\n";
        machine.create(&format!("{}{trust}xForwardedFor: true\n", server("web", web, "to-one")));
        machine.create(&format!(
            "kind: TCPProxy\nname: relay\nport: {relay}\n{trust}pools:\n- proxyProtocol: {told}\n  servers: [{{url: 'tcp://127.0.0.1:{last}'}}]\n"
        ));
        let lines = format!(
            "listen a\n  bind 127.0.0.1:{first}\n  server s 127.0.0.1:{relay} send-proxy\n\
             listen b\n  bind 127.0.0.1:{second}\n  server s 127.0.0.1:{web} send-proxy-v2 proxy-v2-options crc32c,unique-id,ssl\n\
             listen c\n  bind 127.0.0.1:{last} accept-proxy\n  mode http\n  option forwardfor\n  server s 127.0.0.1:{}\n",
            backend.port
        );
        let _haproxy = haproxy(&program, folder.path(), &lines, &[first, second, last]);
        for (port, what) in [(first, "relayed"), (second, "served")] {
            let text = eventually(what, || {
                let text = ask_from("127.0.0.9", port);
                text.starts_with("HTTP/1.1 200").then_some(text)
            });
            assert!(
                text.to_lowercase().contains("x-forwarded-for") && text.contains("127.0.0.9"),
                "{io} {what}: {text}"
            );
        }
        assert!(ask_from("127.0.0.1", relay).is_empty(), "a proxy that is trusted says who its client is");
        assert!(ask_from("127.0.0.9", web).starts_with("HTTP/1.1 200"), "others are who they are");
        let missing = || machine.api("GET", "/metrics", "").body.contains("{limit=\"proxy_missing\"} 1");
        eventually("it is counted", || missing().then_some(()));
    }
}

/// The kind is a kind like any other: refused with advice, shown, changed under load, and gone.
#[test]
fn a_relay_is_created_changed_and_removed() {
    let (machine, one, two, port) = (Machine::start(), Backend::start("one"), Backend::start("two"), free_port());
    let document = |backend: &Backend| {
        format!(
            "kind: TCPProxy\nname: relay\nport: {port}\npools:\n- servers: [{{url: 'tcp://127.0.0.1:{}'}}]\n",
            backend.port
        )
    };
    let refused = machine.api("POST", "/objects", &document(&one).replace("tcp://", "http://"));
    assert!(refused.status == 400 && refused.body.contains("pools[0].servers[0].url"), "{refused:?}");
    machine.create(&document(&one));
    assert!(answers(port, "/", 200).body.contains("one"));
    let taken = machine.api("POST", "/objects", &server("hs", port, "nobody"));
    assert!(taken.status == 400 && taken.body.contains("taken by TCPProxy relay"), "{taken:?}");
    // UDP has ports of its own.
    machine.create(&format!(
        "kind: UDPProxy\nname: names\nport: {port}\npools:\n- servers: [{{url: 'udp://127.0.0.1:9'}}]\n"
    ));
    machine.update("relay", &document(&two));
    eventually("the other one answers", || answers(port, "/", 200).body.contains("two").then_some(()));
    let status = machine.json("/status/objects/relay");
    let shown = &status["eg-traffic-default/relay/m1"];
    assert_eq!(shown["status"]["state"], "running", "{status}");
    assert_eq!(shown["spec"]["kind"], "TCPProxy");
    let metrics = machine.api("GET", "/metrics", "").body;
    assert!(metrics.contains("weir_tcp_connections_total{server=\"relay\"}"), "{metrics}");
    assert!(metrics.contains("pool=\"relay/0\""), "{metrics}");
    assert_eq!(machine.api("DELETE", "/objects/relay", "").status, 200);
    eventually("nobody listens", || TcpStream::connect(("127.0.0.1", port)).is_err().then_some(()));
    eventually("its figures are gone, and its pools'", || {
        let metrics = machine.api("GET", "/metrics", "").body;
        let gone = !metrics.contains("pool=\"relay/") && !metrics.contains("server=\"relay\"");
        (gone && metrics.contains("weir_udp_sessions{server=\"names\"}")).then_some(())
    });
}

/// What `openssl s_client` is shown goes by the name and the protocol it asks for; nothing on the way has a key.
#[test]
fn openssl_gets_the_server_it_asks_for() {
    let Some(openssl) = program("openssl") else { return };
    let folder = tempfile::tempdir().unwrap();
    let serve = |name: &str| {
        let (certificate, key) = shop();
        let (chain, secret) = (folder.path().join(format!("{name}.pem")), folder.path().join(format!("{name}.key")));
        fs::write(&chain, &certificate).unwrap();
        fs::write(&secret, key).unwrap();
        let port = free_port();
        let server = run(Command::new(&openssl)
            .args(["s_server", "-quiet", "-www", "-alpn", "h2,mqtt", "-accept", &format!("127.0.0.1:{port}")])
            .arg("-cert")
            .arg(&chain)
            .arg("-key")
            .arg(&secret));
        eventually("openssl serves", || TcpStream::connect(("127.0.0.1", port)).ok());
        (server, port, certificate)
    };
    let ((_a, shop_port, shop_chain), (_b, mqtt_port, mqtt_chain), (_c, rest_port, rest_chain)) =
        (serve("shop"), serve("mqtt"), serve("rest"));
    for io in ["uring", "epoll"] {
        let (machine, port) = (machine(io), free_port());
        machine.create(&format!(
            "kind: TCPProxy\nname: tls\nport: {port}\ntls: passthrough\n\
             rules: [{{sni: [shop.test], pool: shop}}, {{alpn: [mqtt], pool: mqtt}}]\n\
             pools:\n- {{name: shop, servers: [{{url: '127.0.0.1:{shop_port}'}}]}}\n\
             - {{name: mqtt, servers: [{{url: '127.0.0.1:{mqtt_port}'}}]}}\n- {{servers: [{{url: '127.0.0.1:{rest_port}'}}]}}\n"
        ));
        let shown = |more: &[&str]| {
            let done = Command::new(&openssl)
                .args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-showcerts"])
                .args(more)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            String::from_utf8_lossy(&done.stdout).into_owned()
        };
        let is = |text: &str, chain: &str| text.contains(chain.lines().nth(1).unwrap());
        eventually("it listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        let text = eventually("shop", || Some(shown(&["-servername", "shop.test"])).filter(|t| is(t, &shop_chain)));
        assert!(!is(&text, &rest_chain));
        assert!(is(&shown(&["-servername", "other.test", "-alpn", "http/1.1,mqtt"]), &mqtt_chain));
        assert!(is(&shown(&["-noservername", "-tls1_2"]), &rest_chain));
        assert!(machine.metric("weir_tcp_connections_total").unwrap() >= 3.0);
    }
}

/// Questions and answers, as names are asked for: each on a session of its own, from whatever address they were asked at.
#[test]
fn datagrams_are_asked_and_answered() {
    let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
    let there = echo.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((n, from)) = echo.recv_from(&mut buffer) {
            let _ = echo.send_to(&[b"answer to ", &buffer[..n]].concat(), from);
        }
    });
    for io in ["uring", "epoll"] {
        let (machine, port) = (machine(io), free_port());
        machine.create(&format!(
            "kind: UDPProxy\nname: names\nport: {port}\nresponses: 1\npools:\n- servers: [{{url: 'udp://127.0.0.1:{there}'}}]\n"
        ));
        let ask = |to: &str, question: &str| {
            let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
            socket.connect((to, port)).ok()?;
            socket.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
            socket.send(question.as_bytes()).ok()?;
            let mut buffer = [0; 2048];
            socket.recv(&mut buffer).ok().map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned())
        };
        eventually("it listens", || ask("127.0.0.1", "first"));
        for n in 0..50 {
            let question = format!("question {n}");
            let to = format!("127.0.0.{}", 1 + n % 5);
            let answer = eventually("an answer", || ask(&to, &question));
            assert_eq!(answer, format!("answer to {question}"));
        }
        eventually("no session is left", || (machine.metric("weir_udp_sessions") == Some(0.0)).then_some(()));
        assert!(machine.metric("weir_udp_sessions_total").unwrap() >= 51.0);
    }
}
