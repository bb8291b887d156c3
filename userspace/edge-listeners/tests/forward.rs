//! A forward proxy: whole URLs and tunnels, to where its document lets clients go.

#[macro_use]
mod support;
#[path = "support/h2.rs"]
mod h2_client;
#[path = "support/h3.rs"]
mod h3_client;

use base_quic::proto::Dir;

use base_runtime::IoMode;
use bytes::Bytes;
use edge_listeners::Timeouts;
use proto_h3::capsule;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;
use support::{Backend, House, Wire, eventually, free_port};

on_both_drivers![
    whole_urls_are_asked_of_their_hosts,
    connections_to_destinations_are_kept,
    a_tunnel_passes_each_direction_to_its_end,
    a_silent_tunnel_ends_when_its_filter_says,
    what_cannot_be_reached_is_503,
    connecting_has_a_deadline_of_its_own,
    destinations_are_refused_unless_listed,
    what_the_name_leads_to_is_judged,
    a_client_from_elsewhere_does_not_reach_this_machine,
    nobody_is_led_back_to_the_proxy,
    answers_have_their_bounds,
    what_failed_is_tried_again_where_asked_for,
    http2_asks_for_the_same,
    http3_asks_for_the_same,
    udp_passes_as_capsules,
    udp_passes_as_capsules_of_http2,
    udp_passes_as_datagrams_of_http3,
    udp_goes_where_the_document_lets_it,
    a_refusal_names_the_destination,
    what_is_too_long_for_the_way_out_is_counted,
    a_way_that_shrinks_loses_one_datagram,
    ports_of_udp_are_others_than_those_of_tcp,
    nobody_is_led_back_to_the_proxy_over_udp,
];

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ANY: &str = "rules: [{paths: [{backend: app}]}]";

fn house(io: IoMode, fields: &str) -> House {
    House::with_timeouts(io, ANY, &pipeline(fields), Timeouts::default())
}

fn pipeline(fields: &str) -> String {
    format!("filters: [{{name: out, kind: SimpleHTTPProxy, {fields}}}]")
}

fn get(url: &str, fields: &str) -> String {
    format!("GET {url} HTTP/1.1\r\nHost: other.test\r\n{fields}\r\n")
}

fn connect(authority: &str, fields: &str) -> String {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n")
}

fn whole_urls_are_asked_of_their_hosts(io: IoMode) {
    let backend = Backend::recording(|_| OK.as_bytes().to_vec());
    let house = house(io, "");
    let url = format!("http://127.0.0.1:{}/a%20b?q=1", backend.port);
    let fields = "Proxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\nX-Own: 1\r\n";
    let answer = house.ask(&get(&url, fields));
    assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"));
    let seen = backend.seen().pop().unwrap();
    assert_eq!(seen.target(), "/a%20b?q=1");
    assert_eq!(seen.field("host"), Some(format!("127.0.0.1:{}", backend.port).as_str()), "the URL's, not the field's");
    assert_eq!((seen.field("x-own"), seen.field("via")), (Some("1"), Some("1.1 weir")));
    assert_eq!((seen.field("proxy-authorization"), seen.field("proxy-connection")), (None, None));
    let body = format!("POST {url} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(house.ask(&body).status(), 200);
    assert_eq!(backend.seen().pop().unwrap().text(), "abc");
    // By name, too.
    let url = format!("http://LOCALHOST.:{}/n", backend.port);
    assert_eq!(house.ask(&get(&url, "")).status(), 200);
    assert_eq!(backend.seen().pop().unwrap().target(), "/n");
    // What has no scheme and host is none of a proxy's.
    assert_eq!(house.ask(&get("/a", "")).status(), 400);
    assert_eq!(house.ask("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").status(), 400);
}

fn connections_to_destinations_are_kept(io: IoMode) {
    // Three requests at a time, twice: what was not kept is made again.
    for (fields, made) in [
        ("", 4),
        ("maxIdleConnsPerHost: 3", 3),
        ("maxIdleConnsPerHost: 3, maxIdleConns: 1", 5),
        ("maxIdleConnsPerHost: 1", 5),
    ] {
        let together = std::sync::Arc::new(std::sync::Barrier::new(3));
        let backend = Backend::recording(move |_| {
            together.wait();
            OK.as_bytes().to_vec()
        });
        let house = house(io, fields);
        let url = format!("http://127.0.0.1:{}/", backend.port);
        for _ in 0..2 {
            let mut clients = [house.connect(), house.connect(), house.connect()];
            clients.iter_mut().for_each(|client| assert!(client.send(get(&url, "").as_bytes())));
            clients.iter_mut().for_each(|client| assert_eq!(client.answer().status(), 200));
        }
        assert_eq!(backend.connections(), made, "{fields}");
    }
}

/// What a tunnel carries when it is open.
fn tunnel(house: &House, authority: &str) -> Wire {
    let mut client = house.connect();
    client.send(connect(authority, "").as_bytes());
    let head = client.head().unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && !head.to_lowercase().contains("\r\ncontent-length"), "{head}");
    client
}

fn a_tunnel_passes_each_direction_to_its_end(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        let asked = wire.rest();
        wire.send(&asked.iter().rev().copied().collect::<Vec<_>>());
    });
    let house = house(io, "");
    let mut client = tunnel(&house, &format!("127.0.0.1:{}", backend.port));
    client.send(b"not HTTP \x00\xff");
    client.finish_sending();
    assert_eq!(client.rest(), b"\xff\x00 PTTH ton");
    eventually("the tunnel is gone", || house.traffic.connections() == 0);
    assert_eq!(house.count(200), 1);
}

fn a_silent_tunnel_ends_when_its_filter_says(io: IoMode) {
    let backend = Backend::new(|mut wire, _| drop(wire.rest()));
    let house = house(io, "idleTimeout: 300ms");
    let mut client = tunnel(&house, &format!("127.0.0.1:{}", backend.port));
    assert!(client.ends());
    eventually("it is counted", || house.limit("tunnel_idle") == 1);
}

fn what_cannot_be_reached_is_503(io: IoMode) {
    let house = house(io, "");
    let at = format!("127.0.0.1:{}", free_port());
    assert_eq!(house.ask(&get(&format!("http://{at}/"), "")).status(), 503);
    let mut client = house.connect();
    client.send(connect(&at, "").as_bytes());
    assert_eq!(client.answer().status(), 503);
    assert!(client.ends(), "what would follow is meant for the tunnel");
    assert_eq!(house.ask(&get("http://no-such-name.invalid/", "")).status(), 503);
    // One that says nothing, within the whole time.
    let silent = Backend::new(|mut wire, _| drop(wire.rest()));
    house.pipeline("app", &pipeline("timeout: 300ms"));
    assert_eq!(house.ask(&get(&format!("http://127.0.0.1:{}/", silent.port), "")).status(), 503);
}

fn connecting_has_a_deadline_of_its_own(io: IoMode) {
    // A listener whose queue is full: further connects are not answered.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let most = Duration::from_millis(100);
    let full: Vec<_> = std::iter::from_fn(|| TcpStream::connect_timeout(&address, most).ok()).collect();
    let house = house(io, "connectTimeout: 150ms");
    assert_eq!(house.ask(&connect(&address.to_string(), "")).status(), 503, "after {} connections", full.len());
    assert_eq!(house.ask(&get(&format!("http://{address}/"), "")).status(), 503);
}

fn destinations_are_refused_unless_listed(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = house(io, "");
    let mut refused = 0;
    for authority in
        ["10.1.2.3:80", "169.254.169.254:80", "0.0.0.0:80", "[::]:80", "[fe80::1]:80", "[::ffff:10.0.0.1]:80"]
    {
        assert_eq!(house.ask(&connect(authority, "")).status(), 403, "{authority}");
        assert_eq!(house.ask(&get(&format!("http://{authority}/latest/meta-data"), "")).status(), 403, "{authority}");
        refused += 2;
        assert_eq!(house.limit("forward_refused"), refused, "{authority}");
    }
    let at = format!("127.0.0.1:{}", backend.port);
    for (list, status) in [
        (format!("{{addresses: [127.0.0.0/8], ports: [{}]}}", backend.port), 200),
        ("{addresses: ['::ffff:127.0.0.1']}".to_owned(), 200),
        ("{addresses: [127.0.0.2]}".to_owned(), 403),
        ("{addresses: [127.0.0.0/8], ports: [1]}".to_owned(), 403),
        ("{hosts: ['*.test'], addresses: [127.0.0.0/8]}".to_owned(), 403),
        ("{ports: ['1-65535']}".to_owned(), 403),
    ] {
        house.pipeline("app", &pipeline(&format!("allowedDestinations: [{list}]")));
        assert_eq!(house.ask(&get(&format!("http://{at}/"), "")).status(), status, "{list}");
        let mut client = house.connect();
        client.send(connect(&at, "").as_bytes());
        assert!(client.head().unwrap().starts_with(&format!("HTTP/1.1 {status} ")), "{list}");
    }
}

/// A name is listed; its address is not.
fn what_the_name_leads_to_is_judged(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = house(io, "allowedDestinations: [{hosts: [localhost]}]");
    let at = format!("localhost:{}", backend.port);
    assert_eq!(house.ask(&get(&format!("http://{at}/"), "")).status(), 403);
    assert_eq!(house.ask(&connect(&at, "")).status(), 403);
    assert_eq!((backend.connections(), house.limit("forward_refused")), (0, 2));
    house.pipeline("app", &pipeline("allowedDestinations: [{hosts: [localhost], addresses: [127.0.0.1, '::1']}]"));
    assert_eq!(house.ask(&get(&format!("http://{at}/"), "")).status(), 200);
}

fn a_client_from_elsewhere_does_not_reach_this_machine(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = house(io, "");
    let url = format!("http://127.0.0.1:{}/", backend.port);
    for passed_on in ["X-Forwarded-For: 1.1.1.1", "Forwarded: for=1.1.1.1", "Via: 1.1 other"] {
        assert_eq!(house.ask(&get(&url, &format!("{passed_on}\r\n"))).status(), 403, "{passed_on}");
    }
    house.server(&format!("{ANY}\ntrustedProxies: [127.0.0.1]"));
    assert_eq!(house.ask(&get(&url, "X-Forwarded-For: 1.1.1.1\r\n")).status(), 403);
    assert_eq!(backend.connections(), 0);
}

fn nobody_is_led_back_to_the_proxy(io: IoMode) {
    let house = house(io, "allowedDestinations: [{addresses: [0.0.0.0/0, '::/0']}]");
    for host in ["127.0.0.1", "localhost", "127.0.0.7", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        let at = format!("{host}:{}", house.port);
        assert_eq!(house.ask(&get(&format!("http://{at}/"), "")).status(), 403, "{at}");
        assert_eq!(house.ask(&connect(&at, "")).status(), 403, "{at}");
    }
    assert_eq!(house.limit("forward_refused"), 12);
}

fn answers_have_their_bounds(io: IoMode) {
    let backend = Backend::answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnine here");
    let url = format!("http://127.0.0.1:{}/", backend.port);
    for (fields, status) in [("", 200), ("serverMaxBodySize: 9", 200), ("serverMaxBodySize: 8", 500)] {
        let house = house(io, fields);
        assert_eq!(house.ask(&get(&url, "")).status(), status, "{fields}");
        assert_eq!(house.limit("response_body_bytes"), u64::from(status == 500));
    }
}

fn what_failed_is_tried_again_where_asked_for(io: IoMode) {
    let backend = Backend::new(|mut wire, nth| {
        wire.head();
        if nth >= 2 {
            wire.send(OK.as_bytes());
        }
    });
    let url = format!("http://127.0.0.1:{}/", backend.port);
    let policy = "resilience: [{name: again, kind: Retry, maxAttempts: 5, waitDuration: 1ms}]";
    let house = house(io, "");
    assert_eq!(house.ask(&get(&url, "")).status(), 503);
    house.pipeline("app", &format!("{}\n{policy}", pipeline("retryPolicy: again")));
    assert_eq!(house.ask(&get(&url, "")).status(), 200);
    // What is not idempotent is not repeated.
    let backend = Backend::new(|mut wire, _| drop(wire.head()));
    let post = format!("POST http://127.0.0.1:{}/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", backend.port);
    assert_eq!(house.ask(&post).status(), 503);
    assert_eq!(backend.connections(), 1);
}

fn http2_asks_for_the_same(io: IoMode) {
    let backend = Backend::recording(|_| OK.as_bytes().to_vec());
    let echo = Backend::new(|mut wire, _| {
        let asked = wire.rest();
        wire.send(&asked);
    });
    let house = House::new(io, &format!("h2c: true\n{ANY}"), &pipeline(""));
    h2_client::run(async {
        let (requests, _driver) = h2_client::connect(house.port).await;
        let request = http::Request::get(format!("http://127.0.0.1:{}/a?b", backend.port)).body(()).unwrap();
        assert_eq!(h2_client::ask(&requests, request, b"").await.unwrap().text(), "ok");
        let connect = |port: u16| http::Request::connect(format!("127.0.0.1:{port}")).body(()).unwrap();
        assert_eq!(h2_client::ask(&requests, connect(house.port), b"").await.unwrap().status, 403);
        assert_eq!(h2_client::ask(&requests, connect(free_port()), b"").await.unwrap().status, 503);
        let mut requests = requests.ready().await.unwrap();
        let (response, mut sending) = requests.send_request(connect(echo.port), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        sending.send_data(Bytes::from_static(b"through a stream"), true).unwrap();
        let (mut body, mut came) = (response.into_body(), Vec::new());
        while let Some(data) = body.data().await {
            came.extend_from_slice(&data.unwrap());
        }
        assert_eq!(came, b"through a stream");
    });
    let seen = backend.seen().pop().unwrap();
    assert_eq!((seen.target(), seen.field("via")), ("/a?b", Some("2 weir")));
}

fn http3_asks_for_the_same(io: IoMode) {
    let backend = Backend::recording(|_| OK.as_bytes().to_vec());
    let echo = Backend::new(|mut wire, _| {
        let asked = wire.rest();
        wire.send(&asked);
    });
    let certificate = h3_client::certificate(&["a.test"]);
    let house = House::new(io, &format!("http3: true\n{}{ANY}", certificate.lines), &pipeline(""));
    let mut client = h3_client::Client::connect(house.port, &certificate);
    let authority = format!("127.0.0.1:{}", backend.port);
    let id =
        client.request(&[(":method", "GET"), (":scheme", "http"), (":authority", &authority), (":path", "/a?b")], b"");
    assert_eq!(client.answer(id).text(), "ok");
    let seen = backend.seen().pop().unwrap();
    assert_eq!((seen.target(), seen.field("via")), ("/a?b", Some("3 weir")));
    let mut connect = |port: u16| {
        let id = client.open(Dir::Bi);
        let authority = format!("127.0.0.1:{port}");
        client.send(id, &h3_client::head(&[(":method", "CONNECT"), (":authority", &authority)]), false);
        client.drive(|client| client.so_far(id).status() > 0);
        (client.so_far(id).status(), id)
    };
    assert_eq!(connect(house.port).0, 403, "nobody is led back to the proxy");
    assert_eq!(connect(free_port()).0, 503);
    let (status, id) = connect(echo.port);
    assert_eq!(status, 200);
    client.send(id, &h3_client::data(b"through a stream"), true);
    let answer = client.answer(id);
    assert_eq!((answer.text().as_str(), answer.reset), ("through a stream", None));
}

/// A server of UDP that says everything back, its port, and whom it heard.
fn udp_echo() -> (u16, Heard) {
    let (port, heard, _) = udp_echo_from();
    (port, heard)
}

type Heard = std::sync::Arc<std::sync::Mutex<Vec<Vec<u8>>>>;
type LastPort = std::sync::Arc<std::sync::Mutex<Option<u16>>>;

/// And the port that it was last spoken to from.
fn udp_echo_from() -> (u16, Heard, LastPort) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (port, heard, last) = (socket.local_addr().unwrap().port(), Heard::default(), LastPort::default());
    let (all, port_of) = (heard.clone(), last.clone());
    std::thread::spawn(move || {
        let mut bytes = [0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            all.lock().unwrap().push(bytes[..length].to_vec());
            *port_of.lock().unwrap() = Some(from.port());
            let _ = socket.send_to(&bytes[..length], from);
            if length == 0 {
                return;
            }
        }
    });
    (port, heard, last)
}

/// Says to whoever spoke to this server that what it sent is too long for the way (ICMP type 3, code 4). False where that cannot be said.
fn says_too_long(port: u16, last: &LastPort) -> bool {
    const FORGES: &str = "
import socket, struct, sys
client, server, here = int(sys.argv[1]), int(sys.argv[2]), socket.inet_aton('127.0.0.1')
first = struct.pack('!BBHHHBBH4s4sHHHH', 0x45, 0, 1428, 1, 0x4000, 64, 17, 0, here, here, client, server, 1408, 0)
body = struct.pack('!BBHHH', 3, 4, 0, 0, 1280) + first
total = sum(struct.unpack('!%dH' % (len(body) // 2), body))
total = (total >> 16) + (total & 0xffff)
total += total >> 16
body = body[:2] + struct.pack('!H', ~total & 0xffff) + body[4:]
socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).sendto(body, ('127.0.0.1', 0))
";
    let client = last.lock().unwrap().expect("it was spoken to").to_string();
    let mut command = std::process::Command::new("python3");
    command.args(["-c", FORGES, &client, &port.to_string()]).stderr(std::process::Stdio::null());
    let said = command.status().is_ok_and(|status| status.success());
    if !said {
        println!("skipped: there is no python3 here");
    }
    said
}

fn udp_path(host: &str, port: u16) -> String {
    format!("/.well-known/masque/udp/{host}/{port}/")
}

fn udp_opening(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: proxy.test\r\nConnection: Upgrade\r\nUpgrade: connect-udp\r\nCapsule-Protocol: ?1\r\n\r\n"
    )
}

/// A payload as a capsule, in the context of payloads.
fn payload(content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    capsule::write_datagram(&[&[0], content].concat(), &mut bytes);
    bytes
}

fn udp_passes_as_capsules(io: IoMode) {
    let (port, heard) = udp_echo();
    let house = house(io, "connectUdp: true");
    let mut client = house.connect();
    client.send(udp_opening(&udp_path("127.0.0.1", port)).as_bytes());
    let head = client.head().unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("upgrade: connect-udp"), "{head}");
    assert!(head.contains("capsule-protocol: ?1") && !head.contains("content-length"), "{head}");
    let exchange = |client: &mut Wire, content: &[u8]| {
        let said = payload(content);
        client.send(&said);
        assert_eq!(client.exactly(said.len()), Some(said));
    };
    // The longest that fits into a packet of loopback without being cut into pieces, and what takes more than one buffer back.
    exchange(&mut client, b"hello");
    exchange(&mut client, &[7; 65_000]);
    // Contexts that were not agreed on, and capsules that mean nothing here.
    let mut other = Vec::new();
    capsule::write_datagram(b"\x02other", &mut other);
    capsule::begin(0x4321, 3, &mut other);
    other.extend_from_slice(b"xyz");
    client.send(&other);
    exchange(&mut client, b"again");
    assert_eq!(heard.lock().unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [5, 65_000, 5]);
    // As RFC 9298 writes it for HTTP/1.1, too.
    let mut whole = house.connect();
    whole.send(udp_opening(&format!("https://proxy.test{}", udp_path("127.0.0.1", port))).as_bytes());
    assert!(whole.head().unwrap().starts_with("HTTP/1.1 101 "));
    exchange(&mut whole, b"whole");
    drop(whole);
    exchange(&mut client, b"and again");
    // What the kernel takes for no payload of UDP is lost, as what is longer than the path carries.
    client.send(&payload(&[1; 65_510]));
    eventually("it is counted", || house.limit("forward_datagrams") == 1);
    client.finish_sending();
    assert_eq!(client.rest(), b"");
    eventually("it is over", || house.traffic.connections() == 0);
    // Whoever says that it is done ends its server, too.
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"", ("127.0.0.1", port)).unwrap();
}

/// Whoever looks for clients that try to reach what is inside has to see where they want to go, and not whom they ask.
fn a_refusal_names_the_destination(io: IoMode) {
    let house = house(io, "connectUdp: true");
    let opening = |host| udp_opening(&udp_path(host, 53));
    for (nth, (asked, shown)) in [
        (opening("10.0.0.1"), "10.0.0.1:53"),
        (opening("fe80%3A%3A1"), "[fe80::1]:53"),
        (get("http://10.0.0.1/", ""), "10.0.0.1:80"),
        (connect("10.0.0.1:22", ""), "10.0.0.1:22"),
    ]
    .into_iter()
    .enumerate()
    {
        let asked = asked.replace("\r\n\r\n", &format!("\r\nX-Request-Id: r{nth}\r\n\r\n"));
        assert_eq!(house.ask(&asked).status(), 403);
        let found = || house.traffic.watch().find(&format!("r{nth}"));
        eventually("it is remembered", || !found().is_empty());
        let told = found()[0].to_json().to_string();
        assert!(told.contains(&format!("forward: {shown} is refused: ")), "{told}");
    }
}

/// Runs this test once more in a network of its own, whose only interface this line sets up, and is true in there. What the kernel learns
/// of a way in there is known to nobody else.
fn in_its_own_network(up: &str) -> bool {
    const INSIDE: &str = "IN_ITS_OWN_NETWORK";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let run = |script: &str| {
        let mut command = std::process::Command::new("unshare");
        command.args(["-n", "sh", "-c", script]).arg(std::env::current_exe().unwrap());
        command.arg(std::thread::current().name().unwrap()).env(INSIDE, "1").output()
    };
    if !run(up).is_ok_and(|done| done.status.success()) {
        println!("skipped: `unshare -n` and `ip link` are not allowed here; run it as root");
        return false;
    }
    let done = run(&format!("{up} && exec \"$0\" --exact \"$1\" --nocapture")).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    println!("{}{}", text(&done.stdout), text(&done.stderr));
    assert!(done.status.success() && text(&done.stdout).contains("1 passed"), "it failed in its network");
    false
}

/// A router on the way, or somebody who says that he is one, has found a datagram too long: that one is lost, and no more.
fn a_way_that_shrinks_loses_one_datagram(io: IoMode) {
    if !in_its_own_network("ip link set lo up") {
        return;
    }
    let (port, heard, last) = udp_echo_from();
    let house = house(io, "connectUdp: true");
    let mut client = house.connect();
    client.send(udp_opening(&udp_path("127.0.0.1", port)).as_bytes());
    assert!(client.head().unwrap().starts_with("HTTP/1.1 101 "));
    let mut exchange = |content: &[u8]| {
        let said = payload(content);
        client.send(&said);
        assert_eq!(client.exactly(said.len()), Some(said));
    };
    exchange(b"hello");
    if !says_too_long(port, &last) {
        return;
    }
    eventually("it is counted", || house.limit("forward_datagrams") == 1);
    exchange(b"still");
    assert_eq!(heard.lock().unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [5, 5]);
}

/// The kernel says so when it is to go out, which is later than it was taken.
fn what_is_too_long_for_the_way_out_is_counted(io: IoMode) {
    if !in_its_own_network("ip link set lo mtu 1280 up") {
        return;
    }
    let (port, heard) = udp_echo();
    let house = house(io, "connectUdp: true");
    let mut client = house.connect();
    client.send(udp_opening(&udp_path("127.0.0.1", port)).as_bytes());
    assert!(client.head().unwrap().starts_with("HTTP/1.1 101 "));
    for (n, length) in [(1, 2000), (2, 40_000)] {
        client.send(&payload(&vec![1; length]));
        eventually("it is counted", || house.limit("forward_datagrams") == n);
        let said = payload(b"short");
        client.send(&said);
        assert_eq!(client.exactly(said.len()), Some(said), "the tunnel goes on");
    }
    assert_eq!(heard.lock().unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [5, 5]);
}

fn ports_of_udp_are_others_than_those_of_tcp(io: IoMode) {
    let house = house(io, "connectUdp: true");
    // Where this process listens on UDP, another one may on TCP.
    let backend = Backend::recording(|_| OK.as_bytes().to_vec());
    let relayed =
        format!("{{address: 127.0.0.1, port: {0}, pools: [{{servers: [{{url: '127.0.0.1:9'}}]}}]}}", backend.port);
    house.traffic.apply_listener("dns", &base_model::Spec::UdpProxy(Box::new(spec!(&relayed)))).expect("a good proxy");
    assert_eq!(house.ask(&get(&format!("http://127.0.0.1:{}/", backend.port), "")).status(), 200);
    assert_eq!(house.ask(&udp_opening(&udp_path("127.0.0.1", backend.port))).status(), 403, "that is its own");
    // And the other way round.
    let other = UdpSocket::bind(("127.0.0.1", house.port)).unwrap();
    let mut client = house.connect();
    client.send(udp_opening(&udp_path("127.0.0.1", house.port)).as_bytes());
    assert!(client.head().unwrap().starts_with("HTTP/1.1 101 "));
    client.send(&payload(b"hello"));
    let mut bytes = [0; 16];
    other.set_read_timeout(Some(support::PATIENCE)).unwrap();
    assert_eq!(other.recv(&mut bytes).map(|length| bytes[..length].to_vec()).unwrap(), b"hello");
    assert_eq!(house.ask(&get(&format!("http://127.0.0.1:{}/", house.port), "")).status(), 403);
}

/// On the stream, which has nothing beside it.
fn udp_passes_as_capsules_of_http2(io: IoMode) {
    let (port, heard) = udp_echo();
    let house = House::new(io, &format!("h2c: true\n{ANY}"), &pipeline("connectUdp: true"));
    let open = |host: &str| {
        let uri = format!("http://proxy.test{}", udp_path(host, port));
        let request = http::Request::builder().method("CONNECT").uri(uri).header("capsule-protocol", "?1");
        request.extension(h2::ext::Protocol::from_static("connect-udp")).body(()).unwrap()
    };
    h2_client::run(async {
        let (requests, _driver) = h2_client::connect(house.port).await;
        assert_eq!(h2_client::ask(&requests, open("10.0.0.1"), b"").await.unwrap().status, 403);
        let mut requests = requests.ready().await.unwrap();
        let (response, mut sending) = requests.send_request(open("127.0.0.1"), false).unwrap();
        let response = response.await.unwrap();
        let field = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!((response.status().as_u16(), field("capsule-protocol"), field("upgrade")), (200, Some("?1"), None));
        let mut body = response.into_body();
        for content in [&b"hello"[..], b"x", &[7; 9000]] {
            let (said, mut came) = (payload(content), Vec::new());
            // In pieces that end anywhere.
            said.chunks(1001).for_each(|piece| sending.send_data(Bytes::copy_from_slice(piece), false).unwrap());
            while came.len() < said.len() {
                let data = body.data().await.unwrap().unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                came.extend_from_slice(&data);
            }
            assert!(came == said, "{} of {}", came.len(), said.len());
        }
        // One that breaks off in a capsule has said nothing whole.
        sending.send_data(Bytes::copy_from_slice(&payload(b"cut")[..4]), true).unwrap();
        let broken = body.data().await.map(|data| data.map_err(|error| error.reason()));
        assert_eq!(broken, Some(Err(Some(h2::Reason::PROTOCOL_ERROR))));
    });
    eventually("it is over", || house.traffic.connections() == 0);
    assert_eq!(heard.lock().unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [5, 1, 9000]);
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"", ("127.0.0.1", port)).unwrap();
}

fn udp_passes_as_datagrams_of_http3(io: IoMode) {
    let (port, heard) = udp_echo();
    let certificate = h3_client::certificate(&["a.test"]);
    let house = House::new(io, &format!("http3: true\n{}{ANY}", certificate.lines), &pipeline("connectUdp: true"));
    let mut client = h3_client::Client::connect_for_datagrams(house.port, &certificate);
    let id = client.open(Dir::Bi);
    let path = udp_path("127.0.0.1", port);
    let asked = h3_client::get(&path);
    let fields = [&[(":method", "CONNECT"), (":protocol", "connect-udp")], &asked[1..]].concat();
    client.send(id, &h3_client::head(&fields), false);
    assert!(client.drive(|client| client.so_far(id).status() == 200), "{:?}", client.so_far(id));
    let back = (0..20).any(|_| {
        client.send_datagram(id.index(), b"\0beside");
        client
            .drive_for(Duration::from_secs(2), |client| client.datagrams_of(id).iter().any(|came| came == b"\0beside"))
    });
    assert!(back, "{:?} {:?}", client.so_far(id), heard.lock().unwrap());
    assert_eq!(client.so_far(id).body, b"");
    client.send(id, b"", true);
    assert_eq!(client.answer(id).reset, None);
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"", ("127.0.0.1", port)).unwrap();
}

fn udp_goes_where_the_document_lets_it(io: IoMode) {
    let (port, heard) = udp_echo();
    let house = house(io, "connectUdp: true");
    let ask = |path: &str| house.ask(&udp_opening(path)).status();
    for host in ["10.1.2.3", "169.254.169.254", "0.0.0.0", "fe80%3A%3A1", "%3A%3Affff%3A10.0.0.1"] {
        assert_eq!(ask(&udp_path(host, 53)), 403, "{host}");
    }
    assert_eq!(house.limit("forward_refused"), 5);
    for path in ["/.well-known/masque/udp/127.0.0.1/", "/.well-known/masque/udp/127.0.0.1/0/", "/else/127.0.0.1/1/"] {
        assert_eq!(ask(path), 400, "{path}");
    }
    assert_eq!(ask(&udp_path("nobody.invalid", 53)), 503);
    for (fields, status) in [
        (format!("connectUdp: true, allowedDestinations: [{{addresses: [127.0.0.0/8], ports: [{port}]}}]"), 101),
        ("connectUdp: true, allowedDestinations: [{addresses: [127.0.0.0/8], ports: [1]}]".to_owned(), 403),
        ("connectUdp: true, allowedDestinations: [{ports: ['1-65535']}]".to_owned(), 403),
        // A path of ours is no whole URL.
        (String::new(), 400),
    ] {
        house.pipeline("app", &pipeline(&fields));
        let mut client = house.connect();
        client.send(udp_opening(&udp_path("127.0.0.1", port)).as_bytes());
        let head = client.head().unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{fields}: {head}");
    }
    assert!(heard.lock().unwrap().is_empty());
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"", ("127.0.0.1", port)).unwrap();
}

/// Where it listens on UDP alone, too.
fn nobody_is_led_back_to_the_proxy_over_udp(io: IoMode) {
    let certificate = h3_client::certificate(&["a.test"]);
    let fields = "connectUdp: true, allowedDestinations: [{addresses: [0.0.0.0/0, '::/0']}]";
    let lines = format!("http3: true\nhttp3Only: true\n{}{ANY}", certificate.lines);
    let house = House::new(io, "", &pipeline(fields));
    house.server(&lines);
    let mut client = h3_client::Client::connect(house.port, &certificate);
    let path = udp_path("127.0.0.1", house.port);
    let asked = h3_client::get(&path);
    let id = client.request(&[&[(":method", "CONNECT"), (":protocol", "connect-udp")], &asked[1..]].concat(), b"");
    assert_eq!(client.answer(id).status(), 403);
    assert_eq!(house.limit("forward_refused"), 1);
}
