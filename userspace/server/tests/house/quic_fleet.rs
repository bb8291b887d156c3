//! Connections of QUIC to a virtual IP that three machines share: whoever hears of one brings what it hears to the machine that has it.

#[path = "../../../edge-listeners/tests/support/h3.rs"]
mod h3_client;

use crate::cluster::{ADDRESSES, in_a_network, three_of};
use crate::world::{Machine, eventually, free_port, mock, program};
use h3_client::{Certificate, Client, certificate, config, get, socket_at};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

const VIP: &str = "198.51.100.7";
/// The router's way to the world, and where the clients behind it are.
const ROUTER: &str = "10.77.0.254";
const CLIENT: &str = "192.0.2.1";

/// What a client that hears nothing is given: a datagram may be lost, and is sent anew.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where another one is made if nothing comes of it.
const TRY: Duration = Duration::from_secs(3);

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).output().unwrap();
    assert!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// The router sends everything for the virtual IP to this machine from now on.
fn through(nth: usize) {
    ip(&["route", "replace", VIP, "via", ADDRESSES[nth], "src", CLIENT]);
}

fn connect(port: u16, certificate: &Certificate) -> Option<Client> {
    let peer = SocketAddr::from((VIP.parse::<Ipv4Addr>().unwrap(), port));
    let mut client = Client::begin_from(socket_at(CLIENT), peer, "a.test", config(&certificate.der, b"h3"));
    client.drive_for(TRY, |client| client.connected).then(|| {
        client.settle_in();
        client
    })
}

/// Whether a request on the connection is answered.
fn is_answered(client: &mut Client) -> bool {
    is_answered_within(PATIENCE, client)
}

fn is_answered_within(patience: Duration, client: &mut Client) -> bool {
    let id = client.request(&get("/"), b"");
    client.drive_for(patience, |client| client.ended.contains_key(&id)) && client.so_far(id).status() == 200
}

fn moved(client: &mut Client) {
    client.socket = socket_at(CLIENT);
}

fn sum(machines: &[Machine], name: &str) -> f64 {
    machines.iter().map(|machine| machine.metric(name).unwrap_or_default()).sum()
}

#[test]
fn connections_survive_other_roads_other_addresses_and_a_drain() {
    if !in_a_network("quic_fleet::connections_survive_other_roads_other_addresses_and_a_drain") {
        return;
    }
    if program("ethtool").is_none() {
        return;
    }
    if Machine::start().api("GET", "/about", "").body.contains("L4 not built in") {
        println!("skipped: L4 is not built in (cargo xtask build-ebpf)");
        return;
    }
    ip(&["addr", "add", &format!("{CLIENT}/32"), "dev", "lo"]);
    for namespace in ["n0", "n1", "n2"] {
        ip(&["-n", namespace, "route", "add", "default", "via", ROUTER]);
        // Packets meet the programs with their checksums written, as they do where they come over a wire.
        ip(&["netns", "exec", namespace, "ethtool", "-K", "eth0", "tx", "off"]);
    }
    assert!(Command::new("ethtool").args(["-K", "br0", "tx", "off"]).output().unwrap().status.success());
    let machines = three_of(|machine| machine.flags(["--interface", "eth0", "--xdp-mode", "generic", "--detach"]));
    let (port, certificate) = (free_port(), certificate(&["a.test"]));
    machines[0].create(&mock("here", "served"));
    let lines = &certificate.lines;
    machines[0].create(&format!(
        "kind: HTTPServer\nname: web\nport: {port}\nhttp3: true\n{lines}rules: [{{paths: [{{pathPrefix: /, backend: here}}]}}]\n"
    ));
    let vip = |drains: Option<usize>| {
        let state = |n| if drains == Some(n) { "draining" } else { "active" };
        let each: Vec<_> = (0..3).map(|n| format!("{{name: m{}, state: {}}}", n + 1, state(n))).collect();
        let each = each.join(", ");
        format!(
            "kind: VirtualIP\nname: shop\naddresses: [{VIP}]\nports: [{port}]\nprotocols: [TCP, UDP]\nmachines: [{each}]\n"
        )
    };
    machines[0].create(&vip(None));
    for nth in 0..3 {
        through(nth);
        eventually("each of them takes what the router sends it", || {
            is_answered_within(TRY, &mut connect(port, &certificate)?).then_some(())
        });
    }
    let open = |nth: usize| machines[nth].metric("weir_quic_connections").unwrap_or_default();
    let mut client = connect(port, &certificate).expect("it connects");
    assert!(is_answered(&mut client));

    // The router has chosen others: they know by the addresses whose it is.
    for nth in [0, 1, 2, 0] {
        through(nth);
        assert!(is_answered(&mut client), "through machine {nth}");
    }
    // The client's address is another, which is somebody else's by the tables: the id says whose it is.
    let elsewhere = || sum(&machines, "weir_quic_datagrams_elsewhere_total");
    let before = elsewhere();
    for turn in 0..8 {
        moved(&mut client);
        through(turn % 3);
        assert!(is_answered(&mut client), "after {turn} others");
    }
    assert!(elsewhere() > before, "eight addresses are not all of one machine");
    assert_eq!(sum(&machines, "weir_quic_datagrams_elsewhere_lost_total"), 0.0);
    assert!(client.lost.is_none());

    // The machine that has it takes no more, and it stays there.
    let mut others: Vec<Client> = (0..8).map(|_| connect(port, &certificate).expect("it connects")).collect();
    eventually("others have gone", || ((0..3).map(open).sum::<f64>() <= 10.0).then_some(()));
    let held: Vec<f64> = (0..3).map(open).collect();
    let drained = (0..3).max_by(|a, b| held[*a].total_cmp(&held[*b])).unwrap();
    machines[0].update("shop", &vip(Some(drained)));
    eventually("its slots are others'", || {
        let before = open(drained);
        let new: Vec<_> = (0..6).map(|_| connect(port, &certificate)).collect();
        (new.iter().all(Option::is_some) && open(drained) <= before).then_some(())
    });
    let before = elsewhere();
    for (nth, client) in others.iter_mut().chain([&mut client]).enumerate() {
        through(nth % 3);
        assert!(is_answered(client), "connection {nth} while machine {drained} drains, {held:?}");
        moved(client);
        assert!(is_answered(client), "connection {nth}, from another address");
    }
    assert!(elsewhere() > before, "those of the machine that drains were brought back to it");
}
