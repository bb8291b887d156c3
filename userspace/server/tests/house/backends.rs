//! A VirtualIP over servers that do not run Weir: they get packets as IP in IP, answer clients themselves, and are left out while they
//! fail their checks.

use crate::cluster::in_a_network;
use crate::doctor;
use crate::world::{Machine, eventually, program};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrV4, SocketType, ipproto, recv, sendto, socket};
use std::net::Ipv4Addr;
use std::process::{Child, Command};

const VIP: &str = "198.51.100.1";

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A process that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run_in(namespace: &str, command: &[&str], envs: &[(&str, &str)]) -> Running {
    let mut run = Command::new("ip");
    Running(run.args(["netns", "exec", namespace]).args(command).envs(envs.iter().copied()).spawn().unwrap())
}

/// A server behind the router n0, with an answer of its own, and what a tunnel device does.
struct Backend {
    name: &'static str,
    listens: Option<Running>,
    decapsulates: Option<Running>,
}

const DECAPSULATES: &str = "WEIR_TEST_DECAPSULATES";

impl Backend {
    fn start(name: &'static str, network: u8) -> Backend {
        ip(&format!("netns add {name}"));
        ip(&format!("link add r{name} netns n0 type veth peer name eth0 netns {name}"));
        ip(&format!("-n n0 addr add 10.0.{network}.1/24 dev r{name}"));
        ip(&format!("-n n0 link set r{name} up"));
        ip(&format!("-n {name} addr add 10.0.{network}.2/24 dev eth0"));
        ip(&format!("-n {name} addr add {VIP}/32 dev lo"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} link set eth0 up"));
        ip(&format!("-n {name} route add default via 10.0.{network}.1"));
        let mut backend = Backend { name, listens: None, decapsulates: None };
        backend.decapsulate();
        backend.listen();
        backend
    }

    fn decapsulate(&mut self) {
        let own = std::env::current_exe().unwrap();
        let test = "backends::a_server_without_weir_takes_the_outer_header_off";
        let command = [own.to_str().unwrap(), "--exact", test, "--nocapture"];
        self.decapsulates = Some(run_in(self.name, &command, &[(DECAPSULATES, "1")]));
    }

    fn listen(&mut self) {
        let at = format!("{VIP}:80");
        let weir = env!("CARGO_BIN_EXE_weir");
        self.listens = Some(run_in(self.name, &[weir, "demo-backend", "--listen", &at, "--name", self.name], &[]));
    }
}

/// What the namespaces of backends run: the kernel of this machine may have no tunnel devices.
#[test]
fn a_server_without_weir_takes_the_outer_header_off() {
    if std::env::var_os(DECAPSULATES).is_none() {
        return;
    }
    let heard = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::IPIP)).unwrap();
    let put = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW)).unwrap();
    let mut buffer = [0; 65_536];
    loop {
        let (length, _) = recv(&heard, &mut buffer[..], RecvFlags::empty()).unwrap();
        let header = usize::from(buffer[0] & 0x0f) * 4;
        let inner = &buffer[header..length];
        let to = Ipv4Addr::new(inner[16], inner[17], inner[18], inner[19]);
        let _ = sendto(&put, inner, SendFlags::empty(), &SocketAddrV4::new(to, 0));
    }
}

/// What a client hears at the address, if anything: the name of who answered.
fn asks() -> String {
    let talk = format!("exec 3<>/dev/tcp/{VIP}/80; printf 'GET / HTTP/1.0\\r\\nHost: a\\r\\n\\r\\n' >&3; cat <&3");
    let done = Command::new("ip").args(["netns", "exec", "c0", "timeout", "3", "bash", "-c", &talk]).output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    ["web-1", "web-2"].into_iter().find(|name| text.contains(name)).unwrap_or_default().to_owned()
}

#[test]
fn backends_are_served_left_out_while_they_fail_and_taken_back() {
    if !in_a_network("backends::backends_are_served_left_out_while_they_fail_and_taken_back") {
        return;
    }
    if Machine::start().api("GET", "/about", "").body.contains("L4 not built in") {
        println!("skipped: L4 is not built in (cargo xtask build-ebpf)");
        return;
    }
    if program("ethtool").is_none() {
        println!("skipped: ethtool is not installed");
        return;
    }
    // n0 is the router between the edge, a client and two servers.
    let forward = ["netns", "exec", "n0", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"];
    assert!(Command::new("ip").args(forward).status().unwrap().success());
    ip("netns add c0");
    ip("link add rc0 netns n0 type veth peer name eth0 netns c0");
    ip("-n n0 addr add 10.0.1.1/24 dev rc0");
    ip("-n n0 link set rc0 up");
    ip("-n c0 addr add 10.0.1.2/24 dev eth0");
    ip("-n c0 link set eth0 up");
    ip("-n c0 route add default via 10.0.1.1");
    ip("netns exec c0 ethtool -K eth0 tx off");
    ip(&format!("-n n0 route add {VIP}/32 via 10.77.0.254"));
    ip("route add 10.0.0.0/16 via 10.77.0.1");
    let mut web = [Backend::start("web-1", 2), Backend::start("web-2", 3)];

    let mut machine =
        Machine::new("m1").flags(["--interface", "w0", "--xdp-mode", "generic", "--advertise-address", "10.77.0.254"]);
    machine.run();
    let vip = |backends: &str, more: &str| {
        format!(
            "kind: VirtualIP\nname: shop\naddresses: [{VIP}]\nports: [80]\nprotocols: [TCP]\nbackends: [{backends}]\n\
             backendCheck: {{type: http, interval: 1s, timeout: 500ms, fails: 2, passes: 1}}\n{more}"
        )
    };
    let both = "{name: web-1, address: 10.0.2.2}, {name: web-2, address: 10.0.3.2}";
    machine.create(&vip(both, ""));
    let hears = |wanted: &'static str| eventually(wanted, || (asks() == wanted).then_some(()));
    hears("web-1");
    hears("web-2");
    let up = |name: &str| machine.metric(&format!("weir_backend_up{{vip=\"shop\",backend=\"{name}\"}}"));
    eventually("both are well", || (up("web-1") == Some(1.0) && up("web-2") == Some(1.0)).then_some(()));
    for name in ["web-1", "web-2"] {
        let steered = machine.metric(&format!("weir_steered_total{{vip=\"shop\",machine=\"{name}\"}}"));
        assert!(steered.unwrap_or_default() > 0.0, "{name}: {steered:?}");
    }
    let trace = |port: u16| machine.api("GET", &format!("/trace?flow=tcp+10.0.1.2:{port}+%3E+{VIP}:80+syn"), "").body;
    assert!(
        trace(4000).contains("\"backend\":true") && trace(4000).contains("\"reason\":\"forwarded\""),
        "{}",
        trace(4000)
    );

    // What doctor says of them: they ask clients for segments that are too long for a tunnel, until their routes say otherwise.
    let doctor =
        |machine: &Machine| doctor::told(machine, &["--interface", "w0", "--advertise-address", "10.77.0.254"]).1;
    let said = |text: &str, mark: &str, name: &str, part: &str| {
        let of = |line: &&str| line.starts_with(mark) && line.contains("backend of shop") && line.contains(name);
        assert!(text.lines().filter(of).any(|line| line.contains(part)), "{mark} {name} … {part} is not in\n{text}");
    };
    ip("-n web-1 route change default via 10.0.2.1 advmss 1440");
    let told = doctor(&machine);
    said(&told, "ok", "web-1 (10.0.2.2)", "answers over the tunnel, at 198.51.100.1:80");
    said(&told, "warn", "web-2 (10.0.3.2)", "segments of 1460 bytes, of which 1440 fit");
    said(&told, "warn", "web-2", "advmss 1440");
    web[1].decapsulates = None;
    said(&doctor(&machine), "FAIL", "web-2", "ip link add weir0 type ipip external");
    web[1].decapsulate();
    ip("route add blackhole 10.0.3.2/32");
    said(&doctor(&machine), "FAIL", "web-2", "ip route get says");
    ip("route del blackhole 10.0.3.2/32");
    hears("web-2");

    // One stops: it is found out by a check that goes its packets' way, gets nothing new, and is taken back.
    web[1].listens = None;
    eventually("it is left out", || (up("web-2") == Some(0.0)).then_some(()));
    said(
        &doctor(&machine),
        "FAIL",
        "web-2",
        "it refused the connection; start what is to listen at 198.51.100.1:80 there",
    );
    // Until a check of now has been answered it may be what was the matter before: that no route led there.
    eventually("its status says why", || {
        let status = machine.json("/status/objects/shop").to_string();
        status.contains("backend web-2 (10.0.3.2) takes no new flows here: it refused the connection").then_some(())
    });
    eventually("all new flows go to the other", || {
        (4000..4050).all(|port| trace(port).contains("\"to\":\"web-1\"")).then_some(())
    });
    for _ in 0..5 {
        assert_eq!(asks(), "web-1");
    }
    web[1].listen();
    hears("web-2");
    eventually("nothing is amiss", || {
        (!machine.json("/status/objects/shop").to_string().contains("backend web-2")).then_some(())
    });

    // One drains; then it is out of the document.
    let changed =
        machine.api("PUT", "/objects/shop", &vip(&both.replace("10.0.2.2}", "10.0.2.2, state: draining}"), ""));
    assert_eq!(changed.status, 200, "{changed:?}");
    eventually("it drains", || (4000..4050).all(|port| trace(port).contains("\"to\":\"web-2\"")).then_some(()));
    let owners = (4000..4200).map(trace).find(|told| told.contains("\"owners\":[\"web-2\",\"web-1\"]"));
    assert!(owners.is_some(), "what it has stays with it: {}", trace(4000));
    let changed = machine.api("PUT", "/objects/shop", &vip("{name: web-2, address: 10.0.3.2}", "drainTimeout: 1s\n"));
    assert_eq!(changed.status, 200, "{changed:?}");
    eventually("it is forgotten", || {
        (4000..4200).all(|port| trace(port).contains("\"owners\":[\"web-2\"]")).then_some(())
    });
    hears("web-2");

    // What cannot be is refused.
    let wrong = |backends: &str| {
        vip(backends, "")
            .replace("name: shop", "name: wrong")
            .replace("addresses: [198.51.100.1]", "addresses: [198.51.100.9]")
    };
    for (backends, told) in [
        (format!("{{address: {VIP}}}"), "packets would never leave the edges"),
        ("{address: web-1}".to_owned(), "not an IP address"),
        ("{address: 10.77.0.254}".to_owned(), "the address of member m1"),
    ] {
        let refused = machine.api("POST", "/objects", &wrong(&backends));
        assert!(refused.status == 400 && refused.body.contains(told), "{told}: {refused:?}");
    }
}
