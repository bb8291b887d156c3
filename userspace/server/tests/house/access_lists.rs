//! AccessLists: whoever is denied is served by no listener, and where the kernel steers, their packets end there.

use crate::cluster::in_a_network;
use crate::world::{Backend, Machine, PATIENCE, eventually, free_port, mock, server};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;

/// What is answered to a request from this address of the machine; nothing when the connection is refused or closed before.
pub fn ask_from(source: &str, port: u16) -> String {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    if connect(&socket, &SocketAddr::from(([127, 0, 0, 1], port))).is_err() {
        return String::new();
    }
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

const LIST: &str = "kind: AccessList\nname: abuse\ndeny: [127.0.0.0/8, '::1']\nallow: [127.0.0.1]\n";

#[test]
fn who_is_denied_is_not_served_by_any_listener() {
    let (machine, backend) = (Machine::start(), Backend::start("one"));
    let [web, relay, datagrams, echo] = [(); 4].map(|()| free_port());
    machine.create(&mock("here", "served"));
    machine.create(&server("web", web, "here"));
    machine.create(&format!(
        "kind: TCPProxy\nname: relay\nport: {relay}\npools:\n- servers: [{{url: 'tcp://127.0.0.1:{}'}}]\n",
        backend.port
    ));
    machine.create(&format!(
        "kind: UDPProxy\nname: datagrams\nport: {datagrams}\npools:\n- servers: [{{url: 'udp://127.0.0.1:{echo}'}}]\n"
    ));
    let echoes = UdpSocket::bind(("127.0.0.1", echo)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = echoes.recv_from(&mut buffer) {
            let _ = echoes.send_to(&buffer[..length], from);
        }
    });
    let refused = |document: &str, told: &str| {
        let answer = machine.api("POST", "/objects", document);
        assert!(answer.status == 400 && answer.body.contains(told), "{answer:?}");
    };
    refused("kind: AccessList\nname: bad\ndeny: [10.0.0.0/33]\n", "deny[0]");
    refused("kind: AccessList\nname: bad\ndeny: [10.0.0.0/8]\nallow: [10.0.0.1/8]\n", "deny[0] is the same prefix");

    let sends = |source: &str| {
        let socket = UdpSocket::bind((source, 0)).unwrap();
        socket.send_to(b"hello", ("127.0.0.1", datagrams)).unwrap();
        socket
    };
    let echoed = |source: &str| {
        let socket = sends(source);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.recv(&mut [0; 64]).is_ok_and(|length| length == 5)
    };
    let served = |source: &str| [web, relay].map(|port| ask_from(source, port).starts_with("HTTP/1.1 200"));
    let trace = machine.api("GET", "/trace?flow=tcp+1.2.3.4:5+%3E+6.7.8.9:80", "");
    assert!(trace.status == 400 && trace.body.contains("--interface"), "{trace:?}");
    eventually("all listen", || (served("127.0.0.2") == [true; 2] && echoed("127.0.0.2")).then_some(()));

    machine.create(LIST);
    let hits = || machine.metric("weir_limit_hits_total{limit=\"access_list\"}").unwrap_or_default();
    eventually("it is in force", || (served("127.0.0.2") == [false; 2]).then_some(()));
    assert!(hits() >= 2.0);
    let before = hits();
    let silent = sends("127.0.0.3");
    eventually("the datagram is counted", || (hits() > before).then_some(()));
    silent.set_nonblocking(true).unwrap();
    assert!(silent.recv(&mut [0; 64]).is_err(), "and not passed on");
    assert!(served("127.0.0.1") == [true; 2] && echoed("127.0.0.1"), "the exception");
    let status = machine.json("/status/objects/abuse").to_string();
    assert!(status.contains("\"prefixes\":3") && status.contains("\"enforcedBy\":\"listeners\""), "{status}");
    assert_eq!(machine.metric("weir_access_list_prefixes{says=\"deny\"}"), Some(2.0));

    assert_eq!(machine.api("DELETE", "/objects/abuse", "").status, 200);
    eventually("it is gone", || (served("127.0.0.2") == [true; 2] && echoed("127.0.0.3")).then_some(()));
}

#[test]
fn packets_of_who_is_denied_or_too_fast_end_in_the_kernel() {
    if !in_a_network("access_lists::packets_of_who_is_denied_or_too_fast_end_in_the_kernel") {
        return;
    }
    if Machine::start().api("GET", "/about", "").body.contains("L4 not built in") {
        println!("skipped: L4 is not built in (cargo xtask build-ebpf)");
        return;
    }
    let mut machine =
        Machine::new("m1").flags(["--interface", "w0", "--xdp-mode", "generic", "--advertise-address", "10.77.0.254"]);
    machine.run();
    let port = free_port();
    machine.create(&mock("here", "served"));
    machine.create(&server("web", port, "here"));
    let vip = format!("kind: VirtualIP\nname: shop\naddresses: [198.51.100.1]\nports: [{port}]\nprotocols: [TCP]\n");
    machine.create(&vip);
    let run = |arguments: &[&str]| Command::new("ip").args(arguments).output().unwrap();
    assert!(run(&["-n", "n0", "route", "add", "198.51.100.1", "via", "10.77.0.254"]).status.success());
    let talk = format!(
        "exec 3<>/dev/tcp/198.51.100.1/{port}; printf 'GET / HTTP/1.0\\r\\nHost: a\\r\\n\\r\\n' >&3; head -1 <&3"
    );
    let asks = || {
        let done = run(&["netns", "exec", "n0", "timeout", "2", "bash", "-c", &talk]);
        String::from_utf8_lossy(&done.stdout).contains("200")
    };
    let dropped = |reason: &str| {
        let series = format!("weir_xdp_packets_total{{vip=\"shop\",verdict=\"drop\",reason=\"{reason}\"}}");
        machine.metric(&series).unwrap_or_default()
    };
    eventually("it is steered", || asks().then_some(()));
    let trace =
        |flow: &str| machine.api("GET", &format!("/trace?flow={}", flow.replace(' ', "+").replace('>', "%3E")), "");
    let local = trace(&format!("tcp 10.77.0.1:4000 > 198.51.100.1:{port} syn"));
    for told in ["\"reason\":\"local\"", "\"virtualIP\":\"shop\"", "\"owners\":[\"m1\"]", "\"verdict\":\"pass\""] {
        assert!(local.status == 200 && local.body.contains(told), "{told}: {local:?}");
    }
    let wrong = trace("tcp 10.77.0.1 > 198.51.100.1:80");
    assert!(wrong.status == 400 && wrong.body.contains("is no address with a port"), "{wrong:?}");
    let list = |rest: &str| format!("kind: AccessList\nname: abuse\n{rest}\n");
    machine.create(&list("deny: [10.77.0.0/24]"));
    eventually("packets are dropped", || (!asks() && dropped("access_denied") > 0.0).then_some(()));
    let status = machine.json("/status/objects/abuse").to_string();
    assert!(status.contains("kernel and listeners"), "{status}");
    machine.update("abuse", &list("deny: [10.77.0.0/24]\nallow: [10.77.0.1]"));
    eventually("the exception is served", || asks().then_some(()));

    machine.update(
        "shop",
        &format!("{vip}limits: {{newConnectionsPerSource: {{perSecond: 1, burst: 1, prefixLength: {{ipv4: 24}}}}}}\n"),
    );
    eventually("some are dropped", || {
        std::thread::scope(|threads| (0..3).for_each(|_| drop(threads.spawn(asks))));
        (dropped("source_limited") > 0.0).then_some(())
    });
    machine.update("shop", &format!("{vip}limits: {{newConnections: {{perSecond: 1, burst: 1}}}}\n"));
    eventually("of all of them", || {
        std::thread::scope(|threads| (0..3).for_each(|_| drop(threads.spawn(asks))));
        (dropped("vip_limited") > 0.0).then_some(())
    });

    // What was in force when the process ended is not what is written now: a new one puts that in force.
    machine.kill();
    machine.run();
    machine.update("shop", &vip);
    assert_eq!(machine.api("DELETE", "/objects/abuse", "").status, 200);
    eventually("nobody is denied", || asks().then_some(()));
}
