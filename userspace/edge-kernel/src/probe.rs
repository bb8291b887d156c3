//! What this machine can do for the L4 plane, and what to change where it cannot.

use std::fs;
use std::path::Path;

use abi::gue::OVERHEAD_V6;

use crate::built_in;
use crate::cookies;
use crate::interface::Interface;
use crate::kernel::{Kernel, Options, Sizes};
use crate::sockets::receives_on;

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
    let mut add = |what, required, ok, text: String| findings.push(Finding { what, ok, text, required });
    for name in names {
        match Interface::find(name) {
            Err(error) => {
                add("interface", true, false, error.to_string());
                continue;
            }
            Ok(interface) => {
                let (mtu, room) = (interface.mtu, OVERHEAD_V6 as u32);
                let text = match mtu {
                    ..1400 => format!(
                        "{name}: its MTU is {mtu}: tunnels between machines leave {} bytes for a packet; 1500, or better 1600, is usual \
                         (`ip link set {name} mtu 1600`, on all machines and the switches between them)",
                        mtu.saturating_sub(room)
                    ),
                    _ => format!("{name}: MTU {mtu}, {} bytes of it for packets in tunnels", mtu - room),
                };
                add("mtu", false, mtu >= 1400, text);
            }
        }
        let filter =
            |of: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter")).unwrap_or_default();
        // The stricter of the two holds: 1 is strict, 2 is loose.
        let strict = [filter("all"), filter(name)].iter().map(|text| text.trim().parse().unwrap_or(0)).max() == Some(1);
        let text = if strict {
            format!(
                "{name}: net.ipv4.conf.{name}.rp_filter (or that of all) is 1: packets whose way back leaves by another interface are \
                 dropped; sysctl net.ipv4.conf.{name}.rp_filter=2"
            )
        } else {
            format!("{name}: reverse path filtering does not stand in the way")
        };
        add("rp_filter", false, !strict, text);
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
        add("queues", false, enough, text);
    }
    findings
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

    #[test]
    fn every_finding_says_something() {
        assert!(probe().findings.iter().all(|f| !f.text.is_empty()));
    }
}
