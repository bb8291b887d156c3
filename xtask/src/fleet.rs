//! A fleet on one machine, made of network namespaces:
//!
//! ```text
//!  client ── router ──┬── edge-1 ┐
//!  192.0.2.10         ├── edge-2 ├─ the virtual IP 203.0.113.10 (2001:db8:f::10), which weir adds where it is told to
//!                     ├── edge-3 ┘
//!                     ├── backend-1
//!                     └── backend-2
//! ```
//!
//! The router spreads connections over the edges by the hash of their addresses and ports, as a data centre's routers do
//! (equal-cost multipath); it knows nothing of connections. Edges answer the client directly. Every link is a veth pair.
//! Every link is 1,500 bytes wide, as most are: a full frame does not fit with the header of a tunnel.
//! Two settings make native XDP behave on veth as on a NIC: the far end has GRO on, because only then does it take the
//! frames that XDP sends back (`XDP_TX`); checksums are computed by the sender, because XDP sees frames before anyone
//! would fill them in.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::tools;

pub const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x10);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The interface of every edge, client and backend.
pub const INTERFACE: &str = "eth0";

pub struct Fleet {
    id: String,
    pub client: Namespace,
    pub router: Namespace,
    pub edges: Vec<Machine>,
    pub backends: Vec<Machine>,
    kept: bool,
}

/// A machine behind the router; its link is called like itself on the router's side.
pub struct Machine {
    pub name: String,
    pub namespace: Namespace,
    pub address: Ipv4Addr,
    pub address6: Ipv6Addr,
    /// A BPF file system of its own, which outlives the programs that pin something there.
    pub bpf: PathBuf,
}

pub struct Namespace {
    pub name: String,
}

impl Fleet {
    /// Builds the fleet; `id` must differ from that of every fleet that lives.
    pub fn new(id: &str, edges: u8, backends: u8) -> Result<Self, String> {
        let namespace = |name: &str| Namespace { name: format!("weir-{id}-{name}") };
        let machine = |kind: &str, net: u8, number: u8| Machine {
            name: format!("{kind}-{number}"),
            namespace: namespace(&format!("{kind}-{number}")),
            address: Ipv4Addr::new(10, net, number, 2),
            address6: Ipv6Addr::new(0x2001, 0xdb8, u16::from(net) << 8 | u16::from(number), 0, 0, 0, 0, 2),
            bpf: bpf_folder(id).join(format!("{kind}-{number}")),
        };
        // Built first and filled then: whatever fails half-way, Drop takes down what stands.
        let fleet = Self {
            id: id.into(),
            client: namespace("client"),
            router: namespace("router"),
            edges: (1..=edges).map(|number| machine("edge", 1, number)).collect(),
            backends: (1..=backends).map(|number| machine("backend", 2, number)).collect(),
            kept: false,
        };
        fleet.build()?;
        Ok(fleet)
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    fn build(&self) -> Result<(), String> {
        for namespace in self.namespaces() {
            namespace.create()?;
        }
        self.link(&self.client, "client", CLIENT.into())?;
        for machine in self.edges.iter().chain(&self.backends) {
            self.link(&machine.namespace, &machine.name, machine.address.into())?;
            machine.namespace.ip(&[format!("addr add {}/64 dev {INTERFACE} nodad", machine.address6)])?;
            let router = first(machine.address6);
            self.router.ip(&[format!("addr add {router}/64 dev {} nodad", machine.name)])?;
            machine.namespace.ip(&[format!("route add default via {router}")])?;
        }
        self.client.ip(&[
            format!("addr add {CLIENT6}/64 dev {INTERFACE} nodad"),
            format!("route add default via {}", first(CLIENT6)),
        ])?;
        self.router.ip(&[format!("addr add {}/64 dev client nodad", first(CLIENT6))])?;

        // The virtual IP: ECMP on the router.
        let mut hops = String::new();
        let mut hops6 = String::new();
        for edge in &self.edges {
            fs::create_dir_all(&edge.bpf).map_err(|error| format!("{}: {error}", edge.bpf.display()))?;
            tools::run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&edge.bpf))?;
            hops.push_str(&format!(" nexthop via {} dev {}", edge.address, edge.name));
            hops6.push_str(&format!(" nexthop via {} dev {}", edge.address6, edge.name));
        }
        self.router.ip(&[format!("route add {VIP}/32{hops}"), format!("route add {VIP6}/128{hops6}")])?;
        self.router.sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            // By addresses, protocol and ports, computed from the packet as a router does. The simpler policy 1 would take
            // the hash that the client's socket left on the packet, which is random and unknown to `ip route get`.
            ("net/ipv4/fib_multipath_hash_policy", "3"),
            ("net/ipv6/fib_multipath_hash_policy", "3"),
            ("net/ipv4/fib_multipath_hash_fields", HASH_FIELDS),
            ("net/ipv6/fib_multipath_hash_fields", HASH_FIELDS),
        ])
    }

    /// One veth pair between a namespace and the router, with addresses and a default route for the namespace.
    fn link(&self, namespace: &Namespace, far: &str, address: IpAddr) -> Result<(), String> {
        let IpAddr::V4(address) = address else { return Err("links get their IPv4 address first".into()) };
        let [a, b, c, _] = address.octets();
        let router = Ipv4Addr::new(a, b, c, 1);
        self.router.ip(&[
            format!("link add {far} mtu {MTU} type veth peer name {INTERFACE} mtu {MTU} netns {}", namespace.name),
            format!("addr add {router}/24 dev {far}"),
            format!("link set {far} up"),
        ])?;
        namespace.ip(&[
            format!("addr add {address}/24 dev {INTERFACE}"),
            format!("link set {INTERFACE} up"),
            format!("route add default via {router}"),
        ])?;
        for (end, device) in [(&self.router, far), (namespace, INTERFACE)] {
            tools::run(end.command("ethtool").args(["-K", device, "gro", "on", "tx", "off"]))?;
            // Packets from the virtual IP come back over other links than those to it went out.
            let filter = format!("net/ipv4/conf/{device}/rp_filter");
            end.sysctl(&[("net/ipv4/conf/all/rp_filter", "0"), (&filter, "0")])?;
        }
        Ok(())
    }

    /// Lets the router take at once what XDP at the edges sends back: on a veth pair such packets wait for other traffic unless
    /// the receiving end runs an XDP program too. `passer` is the program of kernel-tests that attaches one which lets everything
    /// pass. A network card needs nothing of the kind.
    pub fn wake_router(&self, passer: &Path) -> Result<(), String> {
        let mut command = self.router.command(passer);
        command.args(self.edges.iter().map(|edge| edge.name.as_str()));
        tools::run(&mut command).map(drop)
    }

    /// The edge to which the router sends a TCP connection from this source port of the client.
    pub fn chosen_by_router(&self, source_port: u16, port: u16) -> Result<String, String> {
        let mut command = self.router.command("ip");
        command.args(["-json", "route", "get", &VIP.to_string(), "from", &CLIENT.to_string(), "iif", "client"]);
        command.args(["ipproto", "tcp", "sport", &source_port.to_string(), "dport", &port.to_string()]);
        let answer = tools::run(&mut command)?;
        let answer: serde_json::Value = serde_json::from_str(&answer).map_err(|error| format!("{answer}: {error}"))?;
        let device = answer[0]["dev"].as_str().ok_or_else(|| format!("the router has no route: {answer}"))?;
        Ok(device.to_string())
    }

    /// What the BGP daemon beside a dead `weir` does: takes back its announcement, so that the router sends nothing new in
    /// through this edge, although its link is up.
    pub fn withdraw(&self, edge: &str) -> Result<(), String> {
        let [mut hops, mut hops6] = [String::new(), String::new()];
        for edge in self.edges.iter().filter(|other| other.name != edge) {
            hops.push_str(&format!(" nexthop via {} dev {}", edge.address, edge.name));
            hops6.push_str(&format!(" nexthop via {} dev {}", edge.address6, edge.name));
        }
        self.router.ip(&[format!("route replace {VIP}/32{hops}"), format!("route replace {VIP6}/128{hops6}")])
    }

    /// Pulls the cable of an edge: both ends lose their carrier, and the router drops the next hop by itself.
    pub fn pull_cable(&self, edge: &str) -> Result<(), String> {
        self.router.ip(&[format!("link set {edge} down")])
    }

    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        let machines = self.edges.iter().chain(&self.backends).map(|machine| &machine.namespace);
        [&self.client, &self.router].into_iter().chain(machines)
    }

    /// Lets the fleet stand when we leave.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if !self.kept {
            remove(&self.id);
        }
    }
}

impl Machine {
    /// A program on this machine, which sees the machine's own BPF file system at the usual place.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.namespace.command("unshare");
        command.args(["--mount", "sh", "-ec", "mount --bind \"$0\" /sys/fs/bpf; exec \"$@\""]);
        command.arg(&self.bpf).arg(program.as_ref());
        command
    }
}

impl Namespace {
    fn create(&self) -> Result<(), String> {
        tools::run(Command::new("ip").args(["netns", "add", &self.name]))?;
        self.ip(&["link set lo up".to_string()])?;
        // Addresses are ours to give: waiting for duplicates would keep IPv6 silent for a second or two.
        self.sysctl(&[("net/ipv6/conf/default/accept_dad", "0"), ("net/ipv6/conf/default/dad_transmits", "0")])
    }

    /// A program inside.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program.as_ref());
        command
    }

    /// Lines for `ip -batch`, all or an error.
    fn ip(&self, lines: &[String]) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| format!("in {}: ip {}: {error}", self.name, lines.join("; "));
        let mut command = Command::new("ip");
        command.args(["-netns", &self.name, "-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all((lines.join("\n") + "\n").as_bytes()).map_err(|error| failed(&error))?;
        }
        let output = child.wait_with_output().map_err(|error| failed(&error))?;
        if output.status.success() { Ok(()) } else { Err(failed(&String::from_utf8_lossy(&output.stderr).trim())) }
    }

    fn sysctl(&self, settings: &[(&str, &str)]) -> Result<(), String> {
        let script: Vec<String> =
            settings.iter().map(|(name, value)| format!("echo {value} > /proc/sys/{name}")).collect();
        tools::run(self.command("sh").args(["-ec", &script.join("\n")])).map(drop)
    }

    /// Processes that live inside.
    pub fn pids(&self) -> Vec<String> {
        let pids = tools::run(Command::new("ip").args(["netns", "pids", &self.name])).unwrap_or_default();
        pids.split_whitespace().map(str::to_string).collect()
    }
}

/// Fleets that stand on this machine, by their id.
pub fn standing() -> Vec<String> {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten().filter_map(|entry| {
        entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_prefix("weir-")?.strip_suffix("-router").map(String::from))
    });
    names.collect()
}

/// Ends what lives in the namespaces of this fleet and takes them down.
pub fn remove(id: &str) {
    let prefix = format!("weir-{id}-");
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with(&prefix))
    {
        let namespace = Namespace { name };
        for pid in namespace.pids().iter().filter_map(|pid| pid.parse().ok()).filter_map(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let _ = tools::run(Command::new("ip").args(["netns", "del", &namespace.name]));
    }
    for mount in fs::read_dir(bpf_folder(id)).into_iter().flatten().flatten() {
        let _ = tools::run(Command::new("umount").arg(mount.path()));
        let _ = fs::remove_dir(mount.path());
    }
    let _ = fs::remove_dir(bpf_folder(id));
}

/// Where the machines' BPF file systems are mounted.
fn bpf_folder(id: &str) -> PathBuf {
    PathBuf::from(format!("/run/weir-{id}"))
}

/// The router's address on the network of this one.
fn first(address: Ipv6Addr) -> Ipv6Addr {
    let mut words = address.segments();
    words[7] = 1;
    Ipv6Addr::from(words)
}

const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0x10);
/// Source and destination address, protocol, source and destination port: bits 0, 1, 2, 4, 5.
const HASH_FIELDS: &str = "55";
const MTU: u32 = 1500;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_router_spreads_ports_over_the_edges_and_everyone_reaches_everyone() {
        if !tools::is_root() || tools::require(&[tools::IP, tools::ETHTOOL, tools::NSENTER]).is_err() {
            eprintln!("skipped: network namespaces need root and iproute2, ethtool, nsenter");
            return;
        }
        let id = format!("t{}", std::process::id());
        let fleet = Fleet::new(&id, 3, 1).expect("a fleet");
        let chosen: BTreeSet<String> =
            (40000..40064).map(|port| fleet.chosen_by_router(port, 80).expect("a route")).collect();
        assert_eq!(chosen, ["edge-1", "edge-2", "edge-3"].map(String::from).into());

        let sh = |namespace: &Namespace, script: &str| tools::run(namespace.command("bash").args(["-c", script]));
        let backend = &fleet.backends[0];
        let connect = |address: &str| format!("timeout 2 bash -c 'echo > /dev/tcp/{address}/9' 2>&1 | grep -q refused");
        sh(&fleet.edges[0].namespace, &connect(&backend.address.to_string())).expect("edge to backend");
        sh(&fleet.edges[0].namespace, &connect(&fleet.edges[1].address6.to_string())).expect("edge to edge over IPv6");
        for edge in &fleet.edges {
            // As weir would.
            let routes = [format!("route add local {VIP} dev lo"), format!("route add local {VIP6} dev lo")];
            edge.namespace.ip(&routes).expect("local routes");
        }
        sh(&fleet.client, &connect(&VIP.to_string())).expect("client to the virtual IP");
        sh(&fleet.client, &connect(&VIP6.to_string())).expect("client to the virtual IP over IPv6");

        let seen = tools::run(fleet.edges[0].command("stat").args(["-f", "-c", "%T", "/sys/fs/bpf"]));
        assert_eq!(seen.as_deref(), Ok("bpf_fs\n"));

        fleet.pull_cable("edge-2").expect("a link that goes down");
        let chosen: BTreeSet<String> =
            (40000..40064).map(|port| fleet.chosen_by_router(port, 80).expect("a route")).collect();
        assert_eq!(chosen, ["edge-1", "edge-3"].map(String::from).into());
        drop(fleet);
        assert!(!standing().contains(&id));
    }
}
