//! A VirtualIP by prefix: every address of it is served, the longest prefix counts, and what cannot be is said.

use crate::cluster::in_a_network;
use crate::doctor;
use crate::world::{Machine, eventually, free_port, mock, server};
use std::process::Command;

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).output().unwrap();
    assert!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// What a client hears at the address, if anything.
fn asks(address: &str, port: u16) -> String {
    let talk =
        format!("exec 3<>/dev/tcp/{address}/{port}; printf 'GET / HTTP/1.0\\r\\nHost: a\\r\\n\\r\\n' >&3; cat <&3");
    let done = Command::new("ip").args(["netns", "exec", "n0", "timeout", "3", "bash", "-c", &talk]).output().unwrap();
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn every_address_of_a_prefix_is_served_and_a_longer_one_counts_first() {
    if !in_a_network("vip_prefixes::every_address_of_a_prefix_is_served_and_a_longer_one_counts_first") {
        return;
    }
    if Machine::start().api("GET", "/about", "").body.contains("L4 not built in") {
        println!("skipped: L4 is not built in (cargo xtask build-ebpf)");
        return;
    }
    ip(&["addr", "add", "fd77::fe/64", "dev", "br0", "nodad"]);
    ip(&["-n", "n0", "addr", "add", "fd77::1/64", "dev", "eth0", "nodad"]);
    ip(&["-n", "n0", "route", "add", "198.51.100.0/24", "via", "10.77.0.254"]);
    ip(&["-n", "n0", "route", "add", "2001:db8:52::/48", "via", "fd77::fe"]);
    let mut machine =
        Machine::new("m1").flags(["--interface", "w0", "--xdp-mode", "generic", "--advertise-address", "10.77.0.254"]);
    machine.run();
    let (port, other) = (free_port(), free_port());
    machine.create(&mock("here", "served"));
    machine.create(&server("web", port, "here"));
    machine.create(&server("other", other, "here"));
    let vip = |name: &str, addresses: &str, port: u16| {
        format!("kind: VirtualIP\nname: {name}\naddresses: [{addresses}]\nports: [{port}]\nprotocols: [TCP]\n")
    };
    let served = |address: &str, port: u16| asks(address, port).contains("served");
    machine.create(&vip("wide", "198.51.100.0/28, '2001:db8:52::/64'", port));
    eventually("the first address is served", || served("198.51.100.0", port).then_some(()));
    let is_served = |address: &str, port: u16| eventually(address, || served(address, port).then_some(()));
    for address in ["198.51.100.1", "198.51.100.7", "198.51.100.15", "2001:db8:52::", "2001:db8:52::77:88"] {
        is_served(address, port);
    }
    for address in ["198.51.100.16", "2001:db8:52:1::1"] {
        assert!(!served(address, port), "{address} is beyond it");
    }
    let packets = |vip: &str| {
        machine
            .metric(&format!("weir_xdp_packets_total{{vip=\"{vip}\",verdict=\"pass\",reason=\"local\"}}"))
            .unwrap_or_default()
    };
    assert!(packets("wide") > 0.0);
    let trace_to = |address: &str, port: u16| {
        machine.api("GET", &format!("/trace?flow=tcp+10.77.0.1:4000+%3E+{address}:{port}+syn"), "").body
    };
    let trace = |address: &str| trace_to(address, port);
    for told in ["\"reason\":\"local\"", "\"virtualIP\":\"wide\"", "\"owners\":[\"m1\"]"] {
        assert!(trace("198.51.100.9").contains(told), "{told}: {}", trace("198.51.100.9"));
    }
    assert!(trace("198.51.100.16").contains("not_vip"), "{}", trace("198.51.100.16"));

    // Another VirtualIP has one of its addresses, with a port of its own alone.
    let taken = machine.api("POST", "/objects", &vip("twice", "198.51.100.0/28", port));
    assert!(taken.status == 409 || taken.status == 400, "{taken:?}");
    assert!(taken.body.contains("VirtualIP wide has this address"), "{taken:?}");
    let created = machine.api("POST", "/objects", &vip("alone", "198.51.100.7", other));
    assert_eq!(created.status, 201, "{created:?}");
    // What is not steered at an address is the stack's, so that only the tables tell.
    eventually("the one address has the one port", || {
        let (steered, other) = (trace_to("198.51.100.7", other), trace("198.51.100.7"));
        (steered.contains("\"virtualIP\":\"alone\"") && other.contains("port_not_served")).then_some(())
    });
    assert!(trace("198.51.100.6").contains("\"virtualIP\":\"wide\""), "{}", trace("198.51.100.6"));
    assert!(trace_to("198.51.100.6", other).contains("port_not_served"));
    is_served("198.51.100.7", other);
    is_served("198.51.100.6", port);
    assert!(packets("alone") > 0.0);
    assert_eq!(machine.api("DELETE", "/objects/alone", "").status, 200);
    eventually("it is the prefix's again", || trace("198.51.100.7").contains("\"virtualIP\":\"wide\"").then_some(()));
    is_served("198.51.100.7", port);

    // What is part of a network this machine is on is left out, and says so; what was listed beside it, and the machine, stay.
    machine.create(&vip("near", "10.77.0.128/26, 198.51.100.32/28", port));
    let why = eventually("its status says why it is left out", || {
        let status = machine.json("/status/objects/near").to_string();
        status.contains("partly left out of steering").then_some(status)
    });
    assert!(why.contains("10.77.0.128/26 overlaps 10.77.0.0/24, the network on br0 of this machine"), "{why}");
    is_served("198.51.100.3", port);
    is_served("198.51.100.35", port);
    let told = doctor::told(&machine, &["--interface", "w0", "--advertise-address", "10.77.0.254"]).1;
    for (mark, what, part) in [
        ("FAIL", "prefixes of near", "10.77.0.128/26 overlaps 10.77.0.0/24, the network on br0 of this machine"),
        ("ok", "prefixes of near", "lies in 198.51.100.32/28"),
        ("ok", "prefixes of wide", "lies in 198.51.100.0/28, 2001:db8:52::/64"),
        ("ok", "driver", "w0: driver veth takes XDP; frames that XDP gives back arrive only while the other end"),
        ("ok", "offloads", "w0: frames come to XDP as they arrive"),
        ("warn", "attached", "w0: xdp_steer is attached behind the driver (generic mode)"),
    ] {
        let is_it = |line: &&str| line.starts_with(mark) && line.contains(what);
        assert!(told.lines().filter(is_it).any(|line| line.contains(part)), "{mark} {what} {part} is not in\n{told}");
    }
    // What has a member in it, or a server of a pool, is refused: here the edge would connect to itself.
    machine.create(
        "kind: Pipeline\nname: back\nfilters:\n- kind: Proxy\n  name: proxy\n  pools:\n  - servers:\n    - url: http://10.20.5.5:8080\n",
    );
    for (addresses, told) in [
        ("198.51.100.1/28", "write 198.51.100.0/28 for all of it"),
        ("0.0.0.0/0", "too short a prefix"),
        ("198.51.100.0/40", "8 to 32"),
        ("10.77.0.0/24", "has 10.77.0.254 in it, the address of member m1"),
        ("10.20.0.0/16", "has 10.20.5.5 in it, a server of Pipeline back"),
    ] {
        let refused = machine.api("POST", "/objects", &vip("wrong", addresses, port));
        assert!(refused.status == 400 && refused.body.contains(told), "{told}: {refused:?}");
    }

    // It is there after a restart, and gone when it is deleted.
    machine.kill();
    machine.run();
    eventually("it is served again", || served("198.51.100.12", port).then_some(()));
    assert_eq!(machine.api("DELETE", "/objects/wide", "").status, 200);
    eventually("it is gone", || (!served("198.51.100.12", port)).then_some(()));
    let routes = Command::new("ip").args(["route", "show", "table", "local", "proto", "87"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&routes.stdout).contains("198.51.100.0/28"), "{routes:?}");
}
