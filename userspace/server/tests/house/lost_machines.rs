//! A machine that is cut off, whoever it is: the others take what begins, long before it is said to be down.

use crate::cluster::{ADDRESSES, in_a_network, three_of};
use crate::world::{Machine, eventually, free_port, mock, program, server};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
/// The router's way to the world, and where the clients behind it are.
const ROUTER: &str = "10.77.0.254";
const CLIENT: &str = "192.0.2.1";
/// After this a client gives a connection up.
const TRY: Duration = Duration::from_millis(60);

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).output().unwrap();
    assert!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Connections that clients begin all the time, each with when it began and whether it came to be.
struct Clients<'s> {
    over: &'s AtomicBool,
    seen: &'s Mutex<Vec<(Instant, bool)>>,
}

impl Clients<'_> {
    fn begin(&self, port: u16) {
        let to = SocketAddr::from((VIP, port));
        while !self.over.load(Ordering::Relaxed) {
            let began = Instant::now();
            let came = TcpStream::connect_timeout(&to, TRY).is_ok();
            self.seen.lock().unwrap().push((began, came));
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Clients end with whoever looks at them, also where that fails.
struct Over<'s>(&'s AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Cuts a machine off while clients connect through another, and says after how long the last began that was lost;
/// `None` where others took them because of its silence alone: this machine was too busy to ask whether that one is there.
fn cut(machines: &[Machine], lost: usize, port: u16) -> Option<Duration> {
    let through = (lost + 1) % 3;
    ip(&["route", "replace", &VIP.to_string(), "via", ADDRESSES[through], "src", CLIENT]);
    let (over, seen) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let clients = Clients { over: &over, seen: &seen };
    thread::scope(|scope| {
        let _over = Over(&over);
        for _ in 0..4 {
            scope.spawn(|| clients.begin(port));
        }
        let all_come = |many: usize| {
            let seen = seen.lock().unwrap();
            seen.len() >= many && seen.iter().rev().take(many).all(|(_, came)| *came)
        };
        eventually("all that begin are served", || all_come(200).then_some(()));
        let before: Vec<usize> = machines.iter().map(|machine| machine.said().len()).collect();
        let cut = Instant::now();
        ip(&["link", "set", &format!("w{lost}"), "down"]);
        let is_lost = |(began, came): &(Instant, bool)| !came && *began > cut;
        eventually("some are lost", || seen.lock().unwrap().iter().any(is_lost).then_some(()));
        eventually("the others serve all that begin", || all_come(400).then_some(()));
        let seen = seen.lock().unwrap();
        let after = seen.iter().filter(|seen| is_lost(seen)).map(|(began, _)| *began - cut);
        accused(machines, lost, &before).then(|| after.max().unwrap_or_default())
    })
}

/// Whether another has said of this machine that it does not answer, since the logs were so long.
fn accused(machines: &[Machine], of: usize, before: &[usize]) -> bool {
    let name = &machines[of].name;
    let others = machines.iter().zip(before).filter(|(machine, _)| machine.name != *name);
    others.into_iter().any(|(machine, before)| {
        let said = machine.said();
        said[*before..].lines().any(|line| line.contains("its machine does not answer") && line.contains(name.as_str()))
    })
}

fn leader(machines: &[Machine]) -> usize {
    eventually("there is a leader", || machines.iter().position(|m| m.metric("weir_raft_is_leader") == Some(1.0)))
}

#[test]
fn the_others_take_what_begins() {
    if !in_a_network("lost_machines::the_others_take_what_begins") {
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
    ip(&["route", "add", &VIP.to_string(), "via", ADDRESSES[0], "src", CLIENT]);
    for namespace in ["n0", "n1", "n2"] {
        ip(&["-n", namespace, "route", "add", "default", "via", ROUTER]);
        ip(&["netns", "exec", namespace, "ethtool", "-K", "eth0", "tx", "off"]);
    }
    assert!(Command::new("ethtool").args(["-K", "br0", "tx", "off"]).output().unwrap().status.success());
    let machines = three_of(|machine| machine.flags(["--interface", "eth0", "--xdp-mode", "generic"]));
    let port = free_port();
    machines[0].create(&mock("here", "served"));
    machines[0].create(&server("web", port, "here"));
    let vip = |more: &str| format!("kind: VirtualIP\nname: shop\naddresses: [{VIP}]\nports: [{port}]\n{more}");
    machines[0].create(&vip(""));
    let shows = |at: usize, of: usize| {
        let members = machines[at].json("/status/members");
        let find = |all: &Vec<serde_json::Value>| {
            all.iter().find(|m| m["options"]["Name"] == *machines[of].name).map(|m| m["weir"].clone())
        };
        members.as_array().and_then(find).unwrap_or_default()
    };
    let all_take = || (0..3).all(|of| shows(leader(&machines), of)["edge"] == true);

    // A change among machines that live is announced to all of them before new connections follow it.
    let announced = || machines.iter().all(|machine| machine.said().contains("announces=true"));
    let names = "machines: [{name: m1}, {name: m2}, {name: m3, state: draining}]\n";
    eventually("all take what begins", || all_take().then_some(()));
    machines[0].update("shop", &vip(names));
    eventually("it is announced", || announced().then_some(()));
    machines[0].update("shop", &vip(""));

    // One whose daemon is held up for a while is there: its kernel answers.
    eventually("all take what begins", || all_take().then_some(()));
    let follows = (leader(&machines) + 1) % 3;
    let before: Vec<usize> = machines.iter().map(|machine| machine.said().len()).collect();
    machines[follows].signal("STOP");
    thread::sleep(Duration::from_millis(700));
    machines[follows].signal("CONT");
    assert!(!accused(&machines, follows, &before), "a daemon that is held up is no machine that is gone");

    // Whether it is passed over by the answers that do not come, or for its silence alone, is a matter of how quickly it answered before,
    // which on a busy machine nobody can promise: it is told, and the others serve either way.
    for (what, of) in [("a machine", 1), ("the leader's machine", 0)] {
        let lost = (leader(&machines) + of) % 3;
        let took = cut(&machines, lost, port);
        ip(&["link", "set", &format!("w{lost}"), "up"]);
        eventually("it is back", || all_take().then_some(()));
        match took {
            Some(took) => println!("{what} is cut off: the last lost connection began {} ms later", took.as_millis()),
            None => println!("{what} is cut off: it was passed over for its silence"),
        }
    }
}
