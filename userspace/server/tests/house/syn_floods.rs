//! A flood of SYNs from forged addresses, and `limits.synCookies` of a VirtualIP against it.

use crate::cluster::{ADDRESSES, in_a_network};
use crate::world::{Machine, eventually, free_port, mock, program, server};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The router's way to the world, and what clients have behind it.
const ROUTER: &str = "10.77.0.254";
const CLIENT: &str = "192.0.2.1";

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).output().unwrap();
    assert!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Two machines on one link, whose router knows the first alone, and the virtual IP is the second's.
fn two() -> Vec<Machine> {
    ip(&["addr", "add", &format!("{CLIENT}/32"), "dev", "lo"]);
    ip(&["route", "add", &VIP.to_string(), "via", ADDRESSES[0], "src", CLIENT]);
    let machines: Vec<Machine> = (0..2)
        .map(|n| {
            let namespace = format!("n{n}");
            ip(&["-n", &namespace, "route", "add", "default", "via", ROUTER]);
            for set in [&["sysctl", "-qw", "net.core.somaxconn=16"][..], &["ethtool", "-K", "eth0", "tx", "off"]] {
                ip(&[&["netns", "exec", &namespace], set].concat());
            }
            Machine::new(&format!("m{}", n + 1)).at(&namespace, ADDRESSES[n])
        })
        .collect();
    // Packets meet the programs with their checksums written, as they do where they come over a wire.
    assert!(Command::new("ethtool").args(["-K", "br0", "tx", "off"]).output().unwrap().status.success());
    // The second follows the first: with one voter nobody waits for another on a busy machine.
    let follows =
        ["--cluster-role", "secondary", "--primary-listen-peer-urls", &machines[0].peer_url()].map(str::to_owned);
    let steers = ["--interface", "eth0", "--xdp-mode", "generic", "--detach"];
    let mut machines: Vec<Machine> = machines.into_iter().map(|machine| machine.flags(steers)).collect();
    let second = machines.remove(1).flags(follows);
    machines.push(second);
    machines.iter_mut().for_each(Machine::run);
    machines
}

/// A request of a client with an address of its own.
fn asks(port: u16) -> bool {
    let talk = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&SocketAddrV4::new(VIP, port).into(), Duration::from_secs(20))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    talk().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200"))
}

/// SYNs, and an ACK among eight, from addresses that are nobody's, until it is over; says how many.
fn flood(port: u16, over: &AtomicBool) -> u64 {
    let raw = socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW)).unwrap();
    let mut sent = 0u64;
    while !over.load(Ordering::Relaxed) {
        for _ in 0..64 {
            sent += 1;
            let [a, b, c, d, ..] = sent.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
            let source = Ipv4Addr::new(203, 0, 113, a);
            let mut tcp = [u16::from_be_bytes([b, c]) | 1024, port].map(u16::to_be_bytes).concat();
            let flags = if sent.is_multiple_of(8) { 0x10 } else { 0x02 };
            tcp.extend([a, b, c, d, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
            let pseudo = [&source.octets()[..], &VIP.octets(), &[0, 6, 0, tcp.len() as u8]].concat();
            let sum =
                pseudo.chunks(2).chain(tcp.chunks(2)).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum::<u32>();
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            tcp[16..18].copy_from_slice(&sum.to_be_bytes());
            // The kernel fills in length and checksum.
            let header = [&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0][..], &source.octets(), &VIP.octets()].concat();
            let _ = sendto(&raw, &[header, tcp].concat(), SendFlags::empty(), &SocketAddrV4::new(VIP, 0));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    sent
}

#[test]
fn clients_connect_beside_a_flood_that_another_machine_passes_on() {
    if !in_a_network("syn_floods::clients_connect_beside_a_flood_that_another_machine_passes_on") {
        return;
    }
    if program("ethtool").is_none() {
        return;
    }
    if Machine::start().api("GET", "/about", "").body.contains("L4 not built in") {
        println!("skipped: L4 is not built in (cargo xtask build-ebpf)");
        return;
    }
    let machines = two();
    let [first, second] = &machines[..] else { panic!("two machines") };
    let port = free_port();
    first.create(&mock("here", "served"));
    first.create(&server("web", port, "here"));
    let vip = format!(
        "kind: VirtualIP\nname: shop\naddresses: [{VIP}]\nports: [{port}]\nprotocols: [TCP]\nmachines:\n- {{name: m2}}\n"
    );
    first.create(&format!("{vip}limits: {{synCookies: {{perSecond: 100, burst: 20}}}}\n"));
    eventually("it is steered", || asks(port).then_some(()));
    let packets = |machine: &Machine, verdict: &str, reason: &str| {
        let labels = format!("{{vip=\"shop\",verdict=\"{verdict}\",reason=\"{reason}\"}}");
        machine.metric(&format!("weir_xdp_packets_total{labels}")).unwrap_or_default()
    };
    if second.said().contains("limits.synCookies of virtual IPs have no effect") {
        println!("skipped: this kernel does not take the program");
        return;
    }
    let beside_a_flood = |clients: usize, begun: &dyn Fn() -> bool| {
        let over = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let flood = threads.spawn(|| flood(port, &over));
            eventually("the flood has an effect", || begun().then_some(()));
            let served = (0..clients).filter(|_| asks(port)).count();
            over.store(true, Ordering::Relaxed);
            (served, flood.join().unwrap())
        })
    };
    let answered = || packets(second, "transmit", "syn_cookie_sent");
    let wrong = || packets(second, "drop", "syn_cookie_wrong");
    let (served, sent) = beside_a_flood(30, &|| answered() > 1000.0 && wrong() > 0.0);
    println!(
        "{sent} forged, {} answered, {} without a cookie dropped, {served} of 30 clients served",
        answered(),
        wrong()
    );
    assert_eq!(served, 30);
    assert_eq!(packets(first, "transmit", "syn_cookie_sent"), 0.0, "the first serves none of it");
    assert!(packets(first, "transmit", "forwarded") > answered());

    // Without the limit everything is as it was.
    first.update("shop", &vip);
    let through = || packets(second, "pass", "decapsulated");
    eventually("it is off", || {
        let before = (answered(), through());
        let (served, _) = beside_a_flood(1, &|| through() > before.1 + 2000.0);
        (answered() == before.0 && served == 1).then_some(())
    });
    let before = answered();
    let (served, sent) = beside_a_flood(30, &|| through() > 0.0);
    println!("without: {sent} forged, {served} of 30 clients served by the stack's own cookies");
    assert_eq!(answered(), before);
}
