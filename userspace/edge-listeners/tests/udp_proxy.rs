//! UDPProxy on both drivers: sessions, their servers, their answers and their ends.

#[macro_use]
mod support;

use base_model::Spec;
use base_runtime::IoMode;
use proto_proxy::{Addresses, Transport, read, v2};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use support::{House, eventually, free_port};

on_both_drivers![
    a_session_stays_with_its_server,
    answers_come_from_where_they_were_asked_for,
    a_session_ends_with_its_last_answer,
    a_server_nobody_listens_on_is_left_and_comes_back,
    who_does_not_answer_has_failed,
    sessions_are_bounded,
    who_may_not_come_in_is_dropped,
    silent_sessions_end_and_a_stopped_listener_lets_go_of_its_port,
    datagrams_say_whom_they_are_from,
    servers_are_told_of_clients,
    a_port_of_tcp_is_another_port,
    a_port_is_opened_again_while_sessions_are_left,
    relays_that_are_each_others_servers_come_to_an_end,
];

const MOCK: &str = "filters: [{name: m, kind: Mock, rules: [{code: 200, body: mocked}]}]";

struct Relay {
    house: House,
    port: u16,
}

impl Relay {
    fn new(io: IoMode, lines: &str) -> Relay {
        Relay::with_drain(io, lines, Duration::from_millis(200))
    }

    fn with_drain(io: IoMode, lines: &str, tunnel_drain: Duration) -> Relay {
        let timeouts = edge_listeners::Timeouts { tunnel_drain, ..Default::default() };
        let relay = Relay { house: House::with_timeouts(io, "", MOCK, timeouts), port: free_port() };
        relay.apply(lines);
        relay
    }

    fn apply(&self, lines: &str) {
        let address = if lines.contains("address:") { "" } else { "address: 127.0.0.1\n" };
        let spec: base_model::UdpProxySpec = spec!(&format!("{address}port: {}\n{lines}\n", self.port));
        let mut findings = base_model::Findings::default();
        spec.validate("", &mut findings);
        assert!(findings.problems.is_empty(), "{}", base_model::problem::render(&findings.problems));
        self.house.traffic.apply_listener("dns", &Spec::UdpProxy(Box::new(spec))).expect("a good proxy");
    }

    fn client(&self) -> Client {
        self.client_at([127, 0, 0, 1].into())
    }

    fn client_at(&self, to: IpAddr) -> Client {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect((to, self.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Client { socket }
    }

    fn metric(&self, name: &str, labels: &str) -> u64 {
        let text = self.house.telemetry.render(base_telemetry::Names::Own);
        let line = format!("{name}{{server=\"dns\"{labels}}} ");
        let value = text.lines().find_map(|l| l.strip_prefix(&line)).unwrap_or_else(|| panic!("{line}: {text}"));
        value.parse::<f64>().unwrap() as u64
    }

    fn ends(&self, reason: &str) -> u64 {
        self.metric("weir_udp_ends_total", &format!(",reason=\"{reason}\""))
    }

    fn dropped(&self, reason: &str) -> u64 {
        self.metric("weir_udp_dropped_datagrams_total", &format!(",reason=\"{reason}\""))
    }
}

struct Client {
    socket: UdpSocket,
}

impl Client {
    fn send(&self, bytes: &[u8]) {
        self.socket.send(bytes).unwrap();
    }

    fn heard(&self) -> Vec<u8> {
        let mut buffer = [0; 2048];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(n) => return buffer[..n].to_vec(),
                // A read with a time-out is not resumed when the kernel wants the thread for something else.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("no answer: {error}"),
            }
        }
    }

    fn ask(&self, bytes: &[u8]) -> Vec<u8> {
        self.send(bytes);
        self.heard()
    }
}

/// Answers each datagram with its name and what it heard, this often.
struct Server {
    port: u16,
    heard: Arc<AtomicU64>,
}

impl Server {
    fn new(name: &'static str, answers: usize) -> Server {
        Server::at("127.0.0.1:0".parse().unwrap(), name, answers)
    }

    fn at(at: SocketAddr, name: &'static str, answers: usize) -> Server {
        // Somebody else's socket may have a port that was free for a moment.
        let mut socket = None;
        eventually("its port is free", || {
            socket = UdpSocket::bind(at).ok();
            socket.is_some()
        });
        let socket = socket.unwrap();
        let server = Server { port: socket.local_addr().unwrap().port(), heard: Arc::default() };
        let heard = server.heard.clone();
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((n, from)) = socket.recv_from(&mut buffer) {
                heard.fetch_add(1, Ordering::SeqCst);
                for _ in 0..answers {
                    let _ = socket.send_to(&[name.as_bytes(), &buffer[..n]].concat(), from);
                }
            }
        });
        server
    }

    fn heard(&self) -> u64 {
        self.heard.load(Ordering::SeqCst)
    }
}

fn pool(servers: &[u16]) -> String {
    let servers: Vec<String> = servers.iter().map(|port| format!("{{url: 'udp://127.0.0.1:{port}'}}")).collect();
    format!("pools: [{{servers: [{}]}}]", servers.join(", "))
}

fn a_session_stays_with_its_server(io: IoMode) {
    let (one, two) = (Server::new("1", 1), Server::new("2", 1));
    let relay = Relay::new(io, &pool(&[one.port, two.port]));
    let clients: Vec<Client> = (0..4).map(|_| relay.client()).collect();
    let mut names = Vec::new();
    for client in &clients {
        let first = client.ask(b"a")[0];
        for _ in 0..5 {
            assert_eq!(client.ask(b"hello"), [&[first][..], b"hello"].concat());
        }
        names.push(first);
    }
    names.sort_unstable();
    assert_eq!(names, b"1122", "sessions are balanced, not datagrams");
    assert_eq!(relay.metric("weir_udp_sessions", ""), 4);
    assert_eq!(relay.metric("weir_udp_received_datagrams_total", ""), 24);
    assert_eq!(relay.metric("weir_udp_sent_bytes_total", ""), 4 * (2 + 5 * 6));
    assert_eq!(relay.house.traffic.status()["dns"]["sessions"], 4);
    // A datagram of no bytes is one, too.
    assert_eq!(clients[0].ask(b"").len(), 1);
    // Many at once come and go joined, one by one to whoever listens.
    for n in 0..50u8 {
        clients[0].send(&[n; 100]);
    }
    let mut heard: Vec<u8> = (0..50)
        .map(|_| clients[0].heard())
        .map(|d| (d.len(), d[1]))
        .map(|(l, n)| {
            assert_eq!(l, 101);
            n
        })
        .collect();
    heard.sort_unstable();
    assert_eq!(heard, (0..50).collect::<Vec<u8>>());
}

fn answers_come_from_where_they_were_asked_for(io: IoMode) {
    let server = Server::new("1", 1);
    let relay = Relay::new(io, &format!("address: ''\n{}", pool(&[server.port])));
    // A connected socket hears nobody else.
    for to in [[127, 0, 0, 1], [127, 0, 0, 2], [127, 1, 2, 3]] {
        assert_eq!(relay.client_at(to.into()).ask(b"x"), b"1x", "{to:?}");
    }
    let v6 = UdpSocket::bind("[::1]:0").unwrap();
    v6.connect(("::1", relay.port)).unwrap();
    v6.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(Client { socket: v6 }.ask(b"y"), b"1y");
    // One client that asks two addresses has two sessions.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    for to in ["127.0.0.1", "127.0.0.2"] {
        socket.send_to(b"z", (to, relay.port)).unwrap();
        let (_, from) = socket.recv_from(&mut [0; 16]).unwrap();
        assert_eq!(from, SocketAddr::new(to.parse().unwrap(), relay.port));
    }
    assert_eq!(relay.metric("weir_udp_sessions", ""), 6);
}

fn a_session_ends_with_its_last_answer(io: IoMode) {
    let server = Server::new("1", 2);
    let relay = Relay::new(io, &format!("responses: 2\n{}", pool(&[server.port])));
    let client = relay.client();
    for n in 1..=3 {
        client.ask(b"x");
        client.heard();
        eventually("it has ended", || relay.ends("answered") == n);
    }
    assert_eq!(relay.metric("weir_udp_sessions", ""), 0);
    // Where none is expected, each datagram is on its own.
    relay.apply(&format!("responses: 0\n{}", pool(&[server.port])));
    (0..3).for_each(|_| client.send(b"log"));
    eventually("they have come", || server.heard() == 6 && relay.ends("answered") == 6);
}

fn a_server_nobody_listens_on_is_left_and_comes_back(io: IoMode) {
    let (good, nobody) = (Server::new("1", 1), free_port());
    let relay = Relay::new(io, &pool(&[good.port, nobody]));
    let refused = || relay.ends("refused");
    eventually("it is refused often enough", || {
        relay.client().send(b"x");
        thread::sleep(Duration::from_millis(5));
        refused() >= 5
    });
    let ejected = || {
        let text = relay.house.telemetry.render(base_telemetry::Names::Own);
        let of = |l: &&str| l.contains("ejections") && l.contains(&nobody.to_string());
        text.lines().find(of).is_some_and(|l| l.ends_with(" 1"))
    };
    eventually("it is left out", ejected);
    for _ in 0..10 {
        assert_eq!(relay.client().ask(b"x"), b"1x");
    }
    let back = Server::at(SocketAddr::new([127, 0, 0, 1].into(), nobody), "2", 1);
    eventually("it is back", || {
        let client = relay.client();
        client.ask(b"x") == b"2x"
    });
    assert!(back.heard() > 0);
}

fn who_does_not_answer_has_failed(io: IoMode) {
    let (silent, good) = (Server::new("", 0), Server::new("1", 1));
    let detection = "outlierDetection: {consecutiveErrors: 2, baseEjectionTime: 10m}, servers";
    let lines = pool(&[silent.port, good.port]).replace("servers", detection);
    let relay = Relay::new(io, &format!("responses: 1\nidleTimeout: 100ms\n{lines}"));
    eventually("it is left out", || {
        relay.client().send(b"x");
        let text = relay.house.telemetry.render(base_telemetry::Names::Own);
        text.lines().any(|l| l.contains("ejections") && l.contains(&silent.port.to_string()) && l.ends_with(" 1"))
    });
    let before = silent.heard();
    for _ in 0..6 {
        assert_eq!(relay.client().ask(b"x"), b"1x");
    }
    assert_eq!(silent.heard(), before);
}

fn sessions_are_bounded(io: IoMode) {
    let server = Server::new("1", 1);
    let relay = Relay::new(io, &format!("maxSessions: 3\n{}", pool(&[server.port])));
    let clients: Vec<Client> = (0..5).map(|_| relay.client()).collect();
    clients[..3].iter().for_each(|client| assert_eq!(client.ask(b"x"), b"1x"));
    clients[3..].iter().for_each(|client| client.send(b"x"));
    eventually("they are counted", || relay.house.limit("udp_sessions") == 2 && relay.dropped("sessions") == 2);
    assert_eq!(clients[0].ask(b"y"), b"1y", "those that are there go on");
    let relay = Relay::new(io, &format!("maxSessionsPerIP: 2\n{}", pool(&[server.port])));
    let clients: Vec<Client> = (0..3).map(|_| relay.client()).collect();
    clients[..2].iter().for_each(|client| assert_eq!(client.ask(b"x"), b"1x"));
    clients[2].send(b"x");
    eventually("it is counted", || {
        relay.house.limit("udp_sessions_per_ip") == 1 && relay.dropped("sessions_per_ip") == 1
    });
    let lines = pool(&[server.port]).replace("'}", "', maxConnections: 1}");
    let relay = Relay::new(io, &lines);
    let clients: Vec<Client> = (0..2).map(|_| relay.client()).collect();
    assert_eq!(clients[0].ask(b"x"), b"1x");
    clients[1].send(b"x");
    eventually("it is counted", || relay.house.limit("server_connections") == 1 && relay.dropped("no_server") == 1);
}

fn who_may_not_come_in_is_dropped(io: IoMode) {
    let server = Server::new("1", 1);
    let relay = Relay::new(io, &format!("ipFilter: {{blockIPs: [127.0.0.1]}}\n{}", pool(&[server.port])));
    relay.client().send(b"x");
    eventually("it is counted", || relay.house.limit("ip_filter") == 1 && relay.dropped("refused") == 1);
    assert_eq!(server.heard(), 0);
}

fn silent_sessions_end_and_a_stopped_listener_lets_go_of_its_port(io: IoMode) {
    let server = Server::new("1", 1);
    let relay = Relay::new(io, &format!("idleTimeout: 200ms\n{}", pool(&[server.port])));
    let client = relay.client();
    assert_eq!(client.ask(b"x"), b"1x");
    eventually("it ends", || relay.ends("idle") == 1);
    assert_eq!(client.ask(b"x"), b"1x", "and another one begins");
    relay.apply(&pool(&[server.port]));
    let client = relay.client();
    assert_eq!(client.ask(b"x"), b"1x");
    let sessions = relay.house.traffic.connections();
    assert!(sessions > 0);
    relay.house.traffic.remove_server("dns");
    assert_eq!(client.ask(b"y"), b"1y", "one that is there goes on");
    eventually("its port is free", || UdpSocket::bind(("127.0.0.1", relay.port)).is_ok());
    assert_eq!(relay.house.traffic.connections(), 0);
}

fn a_port_is_opened_again_while_sessions_are_left(io: IoMode) {
    let (one, two) = (Server::new("1", 1), Server::new("2", 1));
    let relay = Relay::with_drain(io, &pool(&[one.port]), Duration::from_secs(60));
    let client = relay.client();
    assert_eq!(client.ask(b"x"), b"1x");
    relay.house.traffic.remove_server("dns");
    assert_eq!(client.ask(b"y"), b"1y", "the session goes on");
    relay.apply(&pool(&[two.port]));
    let servers = relay.house.traffic.servers();
    let (_, server) = servers.iter().find(|(name, _)| name == "dns").expect("it was applied");
    assert_eq!(server.state(), ("running", None));
    // A new client, and the one that was there, whose next datagram begins a session anew. What comes while the sockets change hands may
    // be lost.
    for client in [relay.client(), client] {
        client.socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut buffer = [0; 64];
        eventually("the other one answers", || {
            client.send(b"z");
            client.socket.recv(&mut buffer).is_ok_and(|n| buffer[..n] == *b"2z")
        });
    }
}

fn relays_that_are_each_others_servers_come_to_an_end(io: IoMode) {
    let relay = Relay::new(io, &pool(&[free_port()]));
    relay.apply(&pool(&[relay.port]));
    let client = relay.client();
    client.send(b"round");
    eventually("it is counted", || relay.house.limit("udp_loop") >= 1);
    let sessions = relay.house.traffic.connections();
    assert!(sessions <= 8, "{sessions} sessions of one datagram");
}

fn from(client: &str, bytes: &[u8]) -> Vec<u8> {
    let writer = v2::Writer::proxy(Transport::Datagram, client.parse().unwrap(), "198.51.100.1:53".parse().unwrap());
    [&writer.finish_checked(), bytes].concat()
}

fn datagrams_say_whom_they_are_from(io: IoMode) {
    let (one, two) = (Server::new("1", 1), Server::new("2", 1));
    let lines = "ipFilter: {blockIPs: [192.0.2.66]}\nproxyProtocol: accept\ntrustedProxies:";
    let relay = Relay::new(io, &format!("{lines} [127.0.0.1]\n{}", pool(&[one.port, two.port])));
    let proxy = relay.client();
    let first = proxy.ask(&from("192.0.2.1:1", b"a"));
    let second = proxy.ask(&from("192.0.2.2:1", b"a"));
    assert_ne!(first, second, "two clients behind one proxy are two sessions");
    assert_eq!(proxy.ask(&from("192.0.2.1:1", b"a")), first);
    proxy.send(&from("192.0.2.66:1", b"a"));
    eventually("the filter goes by the client", || relay.house.limit("ip_filter") == 1);
    proxy.send(b"no header");
    proxy.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nx");
    eventually("they are counted", || {
        (relay.house.limit("proxy_missing"), relay.house.limit("proxy_malformed"), relay.dropped("proxy_header"))
            == (1, 1, 2)
    });
    relay.apply(&format!("{lines} [192.0.2.1]\n{}", pool(&[one.port, two.port])));
    let client = relay.client();
    assert_eq!(client.ask(b"x")[1..], *b"x", "who says nothing is who it is");
    client.send(&from("192.0.2.1:1", b"a"));
    eventually("it is counted", || relay.house.limit("proxy_untrusted") == 1);
}

fn servers_are_told_of_clients(io: IoMode) {
    let server = Server::new("", 1);
    let relay = Relay::new(io, &format!("proxyProtocol: v2\n{}", pool(&[server.port])));
    let client = relay.client();
    for n in 0..3u8 {
        // The server sends back what it heard.
        let heard = client.ask(&[n; 5]);
        let (header, length) = read(&heard).unwrap().unwrap();
        assert_eq!(heard[length..], [n; 5]);
        let source = client.socket.local_addr().unwrap();
        let destination = SocketAddr::new([127, 0, 0, 1].into(), relay.port);
        assert_eq!(header.addresses, Addresses::Inet { transport: Transport::Datagram, source, destination });
    }
}

fn a_port_of_tcp_is_another_port(io: IoMode) {
    let server = Server::new("1", 1);
    let relay = Relay::new(io, &pool(&[server.port]));
    let text = format!("address: 127.0.0.1\nport: {}\nrules: [{{paths: [{{backend: app}}]}}]", relay.port);
    relay.house.traffic.apply_server("same", &spec!(&text)).unwrap();
    // An outgoing connection of another test may hold the number for a moment.
    eventually("both listen", || {
        relay.house.traffic.retry();
        relay.house.traffic.servers().iter().all(|(_, server)| server.state().0 == "running")
    });
    // One that is taken is told, and tried again.
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let text = format!("address: 127.0.0.1\nport: {port}\n{}", pool(&[server.port]));
    relay.house.traffic.apply_listener("taken", &Spec::UdpProxy(Box::new(spec!(&text)))).unwrap();
    let state = || relay.house.traffic.servers().into_iter().find(|(name, _)| name == "taken").unwrap().1.state();
    assert!(state().0 == "failed" && state().1.unwrap().contains("for UDP"), "{:?}", state());
    drop(taken);
    relay.house.traffic.retry();
    assert_eq!(state().0, "running");
}
