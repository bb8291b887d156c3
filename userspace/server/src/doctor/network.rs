//! The other members: whether they answer, what their clocks say, and whether a packet for one of them fits.

use super::Findings;
use crate::options::Options;
use base_text::quoted;
use control_api::MemberRole;
use control_raft::Config;
use std::fs;
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};

pub async fn look(options: &Options, found: &mut Findings) {
    for name in &options.interfaces {
        if !fs::exists(format!("/sys/class/net/{name}")).unwrap_or(false) {
            let there = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
            let there: Vec<String> = there.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            found.fault(
                "interface",
                format!("--interface {}: there is none; there are {}", quoted(name), there.join(", ")),
            );
        }
    }
    let config = Config {
        cluster_name: options.cluster_name.clone(),
        role: if options.secondary { MemberRole::Secondary } else { MemberRole::Primary },
        listen_peer_urls: options.listen_peer_urls.clone(),
        advertise_peer_url: options.advertise_peer_url.clone(),
        initial_cluster: options.initial_cluster.clone(),
        primary_peer_urls: options.primary_peer_urls.clone(),
        tls: options.peer_tls.clone(),
        secret: options.cluster_secret.clone(),
        insecure_peers: options.insecure_peers,
        ..Config::single(&options.name, &options.data_dir)
    };
    let peers = match control_raft::look_for_peers(&config).await {
        Ok(peers) => peers,
        Err(error) => return found.fault("members", error.to_string()),
    };
    for peer in peers {
        let what = format!("member {}", peer.url);
        match &peer.answer {
            Ok(name) => found.well(&what, format!("{} answers", quoted(name))),
            Err(why) if peer.silent => found.fault(
                &what,
                format!(
                    "{why}: start weir there, or look at the address and at what lies between (ip route, firewalls)"
                ),
            ),
            Err(why) => {
                found.fault(&what, format!("{why}: both need the same --cluster-name, and secret or authorities"))
            }
        }
        if let Some(text) = peer.clock.and_then(clock_fault) {
            found.fault(&format!("clock of {}", peer.url), text);
        }
        if let Some((interface, mtu)) = way_to(&peer.url) {
            match mtu_fault(&interface, mtu).filter(|_| !options.interfaces.is_empty()) {
                Some(text) => found.fault("MTU", text),
                None => found.well("MTU", format!("packets to {} leave by {interface}, of MTU {mtu}", peer.url)),
            }
        }
    }
}

/// `ahead` is another's clock, in seconds, and `sure` how far off that may be.
fn clock_fault((ahead, sure): (f64, f64)) -> Option<String> {
    (ahead.abs() - sure > CLOCK_S).then(|| {
        let how = if ahead > 0.0 { "ahead of" } else { "behind" };
        format!(
            "it is {:.1} s {how} this machine's: let both follow the same time servers (chronyc tracking, timedatectl)",
            ahead.abs()
        )
    })
}

fn mtu_fault(interface: &str, mtu: u32) -> Option<String> {
    (mtu < 1500 + OVERHEAD).then(|| {
        format!(
            "{interface}, which other edges are reached by, has an MTU of {mtu}: a packet of 1,500 bytes that another edge has to answer \
             takes {OVERHEAD} more inside GUE. ip link set dev {interface} mtu 1600, and as much on what lies between"
        )
    })
}

/// The interface that packets to a URL's host leave by, and its MTU; `None` on this machine, and where it cannot be told.
fn way_to(url: &str) -> Option<(String, u32)> {
    let address = url.split_once("://")?.1.trim_end_matches('/');
    let to = address.to_socket_addrs().ok()?.next()?;
    if to.ip().is_loopback() {
        return None;
    }
    let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Nothing is sent: the kernel chooses the way.
    socket.connect(to).ok()?;
    let IpAddr::V4(to) = to.ip() else { return None };
    let interface = route(&fs::read_to_string("/proc/net/route").ok()?, to.into())?;
    let mtu = fs::read_to_string(format!("/sys/class/net/{interface}/mtu")).ok()?;
    Some((interface, mtu.trim().parse().ok()?))
}

/// The interface of the longest prefix, in the text of `/proc/net/route`; its numbers are as they lie in memory.
fn route(table: &str, to: u32) -> Option<String> {
    let number = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::swap_bytes);
    let rows = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (prefix, mask) = (number(fields.get(1)?)?, number(fields.get(7)?)?);
        (to & mask == prefix).then(|| (mask.count_ones(), fields[0].to_owned()))
    });
    rows.max_by_key(|(bits, _)| *bits).map(|(_, interface)| interface)
}

/// Of an outer IPv4 header, UDP and GUE with its cookie.
const OVERHEAD: u32 = 40;
/// Tickets, certificates and `createdAt` go by the clocks.
const CLOCK_S: f64 = 2.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_and_sizes_have_bounds() {
        assert_eq!(clock_fault((0.9, 0.5)), None);
        assert_eq!(clock_fault((-2.4, 0.5)), None, "as far as can be told");
        assert!(clock_fault((-10.0, 0.5)).unwrap().contains("10.0 s behind"));
        assert!(clock_fault((3600.0, 0.6)).unwrap().contains("ahead of this machine's: let both follow"));
        assert_eq!(mtu_fault("eth0", 1600), None);
        assert!(mtu_fault("eth0", 1500).unwrap().contains("ip link set dev eth0 mtu 1600"));
    }

    #[test]
    fn the_longest_prefix_wins() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                     eth0\t00000000\t010010AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth1\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n\
                     eth2\t0001000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let to = |address: [u8; 4]| route(table, u32::from_be_bytes(address)).unwrap();
        assert_eq!(
            (to([10, 0, 1, 7]), to([10, 9, 9, 9]), to([1, 2, 3, 4])),
            ("eth2".into(), "eth1".into(), "eth0".into())
        );
    }
}
