//! What this machine can do for the L4 plane, and what to change where it cannot.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use abi::gue::OVERHEAD_V6;

use crate::attached::{Attached, attached};
use crate::built_in;
use crate::interface::{Interface, receive_queues};
use crate::kernel::{Kernel, Options, Sizes};
use crate::sockets::receives_on;
use crate::{KernelError, cookies, ethtool, neighbours};

/// Findings, most important first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    pub findings: Vec<Finding>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub what: &'static str,
    pub ok: bool,
    /// What was found and, when it is not well, what to do.
    pub text: String,
    /// L4 steering does not work without it.
    pub required: bool,
}

impl Probe {
    /// Everything required is there.
    pub fn ready(&self) -> bool {
        self.findings.iter().all(|f| f.ok || !f.required)
    }

    /// The texts of what stands in the way.
    pub fn advice(&self) -> impl Iterator<Item = &str> {
        self.findings.iter().filter(|f| !f.ok).map(|f| f.text.as_str())
    }
}

/// Looks without changing anything; the programs are loaded where that is allowed, attached to nothing, and gone again.
pub fn probe() -> Probe {
    let mut findings = Vec::new();
    let mut add = |what, required, ok, good: String, bad: String| {
        findings.push(Finding { what, ok, text: if ok { good } else { bad }, required });
    };

    add(
        "programs",
        true,
        built_in(),
        "the BPF programs are built in".into(),
        "the BPF programs are not built in: run `cargo xtask build-ebpf` and build again".into(),
    );

    let missing = missing_capabilities();
    add(
        "privileges",
        true,
        missing.is_empty(),
        "the process may load and attach programs".into(),
        format!("the process lacks {}: run as root, or grant them (systemd: AmbientCapabilities=)", missing.join(", ")),
    );

    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    if !built_in() || !missing.is_empty() {
        add(
            "kernel",
            false,
            true,
            format!("Linux {release}; nobody has asked it whether it takes the programs"),
            String::new(),
        );
    } else {
        // What it says itself, and no number, decides: distributions take features into older kernels.
        let loaded = Kernel::load(Options {
            pin_dir: None,
            sizes: Sizes { tables: 2, vips: 1, machines: 1 },
            ..Options::default()
        });
        let refused = loaded.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let bad = format!("Linux {release} does not take the programs, 5.10 is the oldest that is tried: {refused}");
        add("kernel", true, loaded.is_ok(), format!("Linux {release} takes the programs"), bad);
        for warning in loaded.iter().flat_map(Kernel::warnings) {
            add("kernel", false, false, String::new(), format!("Linux {release}: {warning}"));
        }
    }

    let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").unwrap_or_default();
    let off = jit.trim() == "0";
    add(
        "jit",
        false,
        !off,
        "programs are compiled to machine code".into(),
        "programs are interpreted, about ten times slower: sysctl net.core.bpf_jit_enable=1".into(),
    );

    add(
        "btf",
        false,
        Path::new("/sys/kernel/btf/vmlinux").exists(),
        "the kernel has type information (BTF)".into(),
        "the kernel has no type information (CONFIG_DEBUG_INFO_BTF): names of fields are missing in dumps of maps"
            .into(),
    );

    add(
        "bpffs",
        false,
        Path::new("/sys/fs/bpf").exists(),
        "/sys/fs/bpf can hold pins".into(),
        "/sys/fs/bpf is missing: without sysfs nothing can be pinned, and steering stops when the process does".into(),
    );

    let (well, text) = cookies::finding();
    add("syn_cookies", false, well, text.into(), text.into());

    let forbidden = fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter").unwrap_or_default().trim() == "1";
    add(
        "rp_filter",
        false,
        !forbidden,
        "reverse path filtering does not stand in the way".into(),
        "net.ipv4.conf.all.rp_filter is 1: packets whose way back leaves by another interface are dropped; set it to 2 or 0"
            .into(),
    );
    Probe { findings }
}

/// Looks at the interfaces that packets are to arrive on, for so many workers.
pub fn probe_interfaces(names: &[String], workers: usize) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in names {
        match Facts::of(name) {
            Ok(facts) => findings.extend(facts.judge(name)),
            Err(error) => {
                findings.push(Finding { what: "interface", ok: false, text: error.to_string(), required: true });
            }
        }
    }
    if let Some(receiving) = receives_on(names).filter(|_| workers > 0) {
        let enough = receiving as usize >= workers;
        let text = if enough {
            format!("packets arrive on {receiving} CPUs, and {workers} workers serve them where they arrive")
        } else {
            format!(
                "packets arrive on {receiving} CPUs and there are {workers} workers: connections are spread over all of them, so most are \
                 served on another CPU than they arrive on; more queues (`ethtool -L`) or fewer workers (--workers) save that"
            )
        };
        findings.push(Finding { what: "queues", ok: enough, text, required: false });
    }
    findings
}

/// What is to be known of an interface before packets are steered on it.
#[derive(Clone, Default, Debug)]
struct Facts {
    mtu: u32,
    /// The stricter of the interface's own and that of all: 1 is strict, 2 is loose.
    rp_filter: u8,
    driver: Option<String>,
    /// What joins frames before XDP sees them, as `ethtool -k` calls it.
    joins: Vec<&'static str>,
    /// VLAN interfaces over it, whose tags the hardware takes off.
    vlans_hidden: Vec<String>,
    queues: Option<u32>,
    /// Families whose datagrams are not spread by their ports.
    datagrams_by_address: Vec<&'static str>,
    lost: u64,
    /// A router that its routes lead to and that does not answer.
    silent_router: Option<IpAddr>,
    attached: Attached,
}

impl Facts {
    fn of(name: &str) -> Result<Facts, KernelError> {
        let interface = Interface::find(name)?;
        let filter = |of: &str| {
            let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter")).unwrap_or_default();
            text.trim().parse().unwrap_or(0)
        };
        let joins = ["rx-lro", "rx-gro-hw"].into_iter().filter(|feature| ethtool::is_on(name, feature)).collect();
        let hidden = ethtool::is_on(name, "rx-vlan-hw-parse");
        let families = [("udp4", true), ("udp6", false)].into_iter();
        let by_address = families.filter(|(_, v4)| ethtool::spreads_datagrams_by_ports(name, *v4) == Some(false));
        Ok(Facts {
            mtu: interface.mtu,
            rp_filter: filter("all").max(filter(name)),
            driver: ethtool::driver(name),
            joins,
            vlans_hidden: if hidden { vlans_over(name) } else { Vec::new() },
            queues: receive_queues(name),
            datagrams_by_address: by_address.map(|(family, _)| family).collect(),
            lost: ethtool::lost(name).unwrap_or_default(),
            silent_router: neighbours::silent_router(interface.index),
            attached: attached(interface.index).unwrap_or_default(),
        })
    }

    fn judge(&self, name: &str) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |what, ok, text: String| findings.push(Finding { what, ok, text, required: false });
        let (mtu, room) = (self.mtu, OVERHEAD_V6 as u32);
        let text = match mtu {
            ..1400 => format!(
                "{name}: its MTU is {mtu}: tunnels between machines leave {} bytes for a packet; 1500, or better 1600, is usual \
                 (`ip link set {name} mtu 1600`, on all machines and the switches between them)",
                mtu.saturating_sub(room)
            ),
            _ => format!("{name}: MTU {mtu}, {} bytes of it for packets in tunnels", mtu - room),
        };
        add("mtu", mtu >= 1400, text);
        let strict = self.rp_filter == 1;
        let text = if strict {
            format!(
                "{name}: net.ipv4.conf.{name}.rp_filter (or that of all) is 1: packets whose way back leaves by another interface are \
                 dropped; sysctl net.ipv4.conf.{name}.rp_filter=2"
            )
        } else {
            format!("{name}: reverse path filtering does not stand in the way")
        };
        add("rp_filter", !strict, text);
        let text = match (self.driver.as_deref(), self.lost) {
            (None, _) => format!("{name}: its driver does not say what it is called"),
            (Some(driver), 0) => format!("{name}: driver {driver}{}", asks_for(driver)),
            (Some(driver), lost) => format!(
                "{name}: driver {driver} did not send {lost} frames that XDP gave back to it (ethtool -S {name} | grep xdp): such packets \
                 are lost{}",
                match advice_for(driver) {
                    "" => "; more and longer queues (ethtool -L, ethtool -G) help, or --xdp-mode generic",
                    advice => advice,
                }
            ),
        };
        add("driver", self.lost == 0, text);
        for feature in &self.joins {
            let short = if *feature == "rx-lro" { "lro" } else { "rx-gro-hw" };
            let text = format!(
                "{name}: {feature} is on: the card joins frames before XDP sees them, which cuts off or drops what does not fit a page, and \
                 most drivers then refuse XDP; ethtool -K {name} {short} off"
            );
            add("offloads", false, text);
        }
        if !self.vlans_hidden.is_empty() {
            let text = format!(
                "{name}: rx-vlan-hw-parse is on, and {} {} over it: the card takes the tags off before XDP sees the frames, so that packets of \
                 all VLANs look alike; ethtool -K {name} rxvlan off",
                self.vlans_hidden.join(", "),
                if self.vlans_hidden.len() == 1 { "lies" } else { "lie" }
            );
            add("offloads", false, text);
        }
        if self.joins.is_empty() && self.vlans_hidden.is_empty() {
            add("offloads", true, format!("{name}: frames come to XDP as they arrive"));
        }
        for family in self.datagrams_by_address.iter().filter(|_| self.queues.is_none_or(|queues| queues > 1)) {
            let text = format!(
                "{name}: ports do not count when datagrams ({family}) are spread over queues: all of one client arrive on one CPU, as do all \
                 tunnels of one machine; ethtool -N {name} rx-flow-hash {family} sdfn"
            );
            add("rx_hash", false, text);
        }
        let (ok, text) = match &self.attached {
            Attached::Nothing => (true, format!("{name}: no XDP program is attached")),
            Attached::Program { name: Some(ours), generic: false, .. } if ours == OURS => {
                (true, format!("{name}: {OURS} is attached in the driver"))
            }
            Attached::Program { name: Some(ours), generic: true, .. } if ours == OURS => (
                false,
                format!(
                    "{name}: {OURS} is attached behind the driver (generic mode), where a packet costs several times as much: take a driver \
                     that takes XDP, or leave --xdp-mode generic out"
                ),
            ),
            Attached::Program { id, name: other, generic } => (
                false,
                format!(
                    "{name}: another's XDP program {} (id {id}) is attached, and there can be one: end what put it there (bpftool net), or ip \
                     link set dev {name} {} off",
                    other.as_deref().unwrap_or("that this process may not look at"),
                    if *generic { "xdpgeneric" } else { "xdp" }
                ),
            ),
        };
        add("attached", ok, text);
        if let Some(router) = self.silent_router {
            let text = format!(
                "{name}: the router {router}, which this machine's routes name, does not answer: what is sent by it is lost; look at the cable, \
                 the VLAN and the address (ip route, ip neigh show dev {name})"
            );
            add("neighbours", false, text);
        }
        findings
    }
}

/// What the kernel calls our program.
const OURS: &str = "xdp_steer";

/// What a driver wants before XDP works well; behind its name.
fn asks_for(driver: &str) -> String {
    let advice = advice_for(driver);
    if advice.is_empty() { String::new() } else { format!(" takes XDP{advice}") }
}

/// What is known of how drivers lose what XDP gives back, and of what they ask for.
pub(crate) fn advice_for(driver: &str) -> &'static str {
    match driver {
        "veth" => {
            "; frames that XDP gives back arrive only while the other end has an XDP program, or takes them (ethtool -K PEER gro on), so do \
             that there"
        }
        "virtio_net" => {
            "; the host must give it as many more queues as there are CPUs (queues= and vectors= of its device) and leave guest_tso4, \
             guest_tso6, guest_ecn and guest_ufo off"
        }
        "ena" => "; at most half of its channels may be in use (ethtool -L NAME combined) and an MTU of at most 3498",
        "ixgbe" | "i40e" | "ice" | "igb" | "igc" | "bnxt_en" => {
            "; with an MTU of at most about 3000, and a queue to send by for each CPU (ethtool -L NAME combined)"
        }
        "mlx5_core" | "mlx4_en" => {
            "; with an MTU of at most about 3500, and with longer queues (ethtool -G NAME tx 4096) it loses less"
        }
        "hv_netvsc" => "; with lro off (ethtool -K NAME lro off) and accelerated networking on",
        "bonding" | "bond" => {
            "; only in the modes active-backup, balance-rr, balance-xor and 802.3ad, where all its members take it"
        }
        "tun" | "bridge" | "macvlan" | "vlan" | "8021q" => {
            "; hardly: it has no queues of its own for what XDP gives back. Give the interface below it"
        }
        _ => "",
    }
}

/// Names of VLAN interfaces that lie over the interface.
fn vlans_over(name: &str) -> Vec<String> {
    let text = fs::read_to_string("/proc/net/vlan/config").unwrap_or_default();
    let rows = text.lines().skip(2).map(|line| line.split('|').map(str::trim).collect::<Vec<&str>>());
    rows.filter(|row| row.get(2) == Some(&name)).filter_map(|row| row.first().map(|vlan| (*vlan).to_owned())).collect()
}

fn missing_capabilities() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let has = |bit: u32| effective & (1 << bit) != 0;
    if has(CAP_SYS_ADMIN) && has(CAP_NET_ADMIN) {
        return Vec::new();
    }
    [(CAP_BPF, "CAP_BPF"), (CAP_NET_ADMIN, "CAP_NET_ADMIN"), (CAP_PERFMON, "CAP_PERFMON")]
        .into_iter()
        .filter(|&(bit, _)| !has(bit))
        .map(|(_, name)| name)
        .collect()
}

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Facts {
        Facts { mtu: 1600, driver: Some("mlx5_core".to_owned()), queues: Some(4), ..Facts::default() }
    }

    #[test]
    fn an_interface_without_a_fault_has_none() {
        let found = well().judge("eth0");
        assert!(found.iter().all(|finding| finding.ok), "{found:?}");
    }

    #[test]
    fn each_fault_of_an_interface_has_its_remedy() {
        let told = |facts: Facts| {
            let faults: Vec<Finding> = facts.judge("eth0").into_iter().filter(|finding| !finding.ok).collect();
            assert_eq!(faults.len(), 1, "{faults:?}");
            (faults[0].what, faults[0].text.clone())
        };
        let program = |name: &str, generic| Facts {
            attached: Attached::Program { id: 7, name: Some(name.to_owned()), generic },
            ..well()
        };
        let driver = |name: &str, lost| Facts { driver: Some(name.to_owned()), lost, ..well() };
        for (facts, what, remedy) in [
            (Facts { mtu: 1300, ..well() }, "mtu", "ip link set eth0 mtu 1600"),
            (Facts { rp_filter: 1, ..well() }, "rp_filter", "sysctl net.ipv4.conf.eth0.rp_filter=2"),
            (Facts { joins: vec!["rx-lro"], ..well() }, "offloads", "ethtool -K eth0 lro off"),
            (Facts { joins: vec!["rx-gro-hw"], ..well() }, "offloads", "ethtool -K eth0 rx-gro-hw off"),
            (Facts { vlans_hidden: vec!["eth0.7".to_owned()], ..well() }, "offloads", "ethtool -K eth0 rxvlan off"),
            (
                Facts { datagrams_by_address: vec!["udp4"], ..well() },
                "rx_hash",
                "ethtool -N eth0 rx-flow-hash udp4 sdfn",
            ),
            (
                Facts { silent_router: Some(IpAddr::from([10, 0, 0, 1])), ..well() },
                "neighbours",
                "ip neigh show dev eth0",
            ),
            (program("xdp_steer", true), "attached", "leave --xdp-mode generic out"),
            (program("cil_xdp_entry", false), "attached", "cil_xdp_entry (id 7) is attached"),
            (program("cil_xdp_entry", true), "attached", "ip link set dev eth0 xdpgeneric off"),
            (driver("mlx5_core", 7), "driver", "did not send 7 frames"),
            (driver("mlx5_core", 7), "driver", "ethtool -G"),
            (driver("veth", 7), "driver", "gro on"),
            (driver("somebody's", 7), "driver", "--xdp-mode generic"),
        ] {
            let (said, text) = told(facts);
            assert!(said == what && text.contains(remedy), "{what}, {remedy}: {said}, {text}");
        }
        let ours = program("xdp_steer", false).judge("eth0");
        assert!(
            ours.iter().any(|finding| finding.ok && finding.text.contains("is attached in the driver")),
            "{ours:?}"
        );
        // With one queue there is nothing to spread over.
        let one = Facts { datagrams_by_address: vec!["udp4"], queues: Some(1), ..well() };
        assert!(one.judge("eth0").iter().all(|finding| finding.ok));
    }

    #[test]
    fn every_finding_says_something() {
        assert!(probe().findings.iter().all(|f| !f.text.is_empty()));
    }
}
