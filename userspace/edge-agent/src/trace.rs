//! What becomes of a packet of a flow at this machine, in words.

use base_text::quoted;
use edge_kernel::abi::config::lease;
use edge_kernel::abi::{Reason, Verdict};
use edge_kernel::{Flow, Protocol, Trace};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

use crate::steer::Plane;

impl Plane {
    /// Of `tcp 198.51.100.7:41000 > 203.0.113.10:443`. The error tells what the question should have been, or what failed.
    pub fn trace(&self, text: &str) -> Result<Value, String> {
        let flow = parse(text)?;
        let found = self.kernel.trace(&flow).map_err(|error| error.to_string())?;
        let name = |id: u16| match id {
            0 => None,
            id => Some(self.machines.get(&id).cloned().unwrap_or_else(|| format!("#{id}"))),
        };
        let owners = found.slot.map(|(_, owners)| owners.into_iter().filter_map(name).collect::<Vec<_>>());
        let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        Ok(json!({
            "flow": shown(&flow),
            "machine": self.own,
            "virtualIP": self.vips.get(&found.vip),
            "slot": found.slot.map(|(number, _)| number),
            "owners": owners,
            "socket": socket(found.socket),
            "daemon": daemon(&found),
            "verdict": verdict(found.reason),
            "reason": found.reason.name(),
            "to": name(found.machine),
            "address": found.tunnel.map(|tunnel| tunnel.to.to_string()),
            "hop": found.tunnel.map(|tunnel| tunnel.hops),
            "nextHop": found.tunnel.and_then(|tunnel| tunnel.next_hop).map(mac),
            "backend": found.tunnel.map(|tunnel| tunnel.backend),
            "epoch": found.epoch,
        }))
    }
}

fn shown(flow: &Flow) -> String {
    let protocol = if flow.protocol == Protocol::Tcp { "tcp" } else { "udp" };
    format!("{protocol} {} > {}{}", flow.source, flow.destination, if flow.opens { " syn" } else { "" })
}

pub(crate) fn verdict(reason: Reason) -> &'static str {
    match reason.verdict() {
        Verdict::Pass => "pass",
        Verdict::Transmit => "transmit",
        Verdict::Drop => "drop",
    }
}

fn daemon(found: &Trace) -> &'static str {
    match found.lease {
        lease::AWAKE | lease::YOUNG => "lives",
        lease::LAPSED => "has not said for a while that it lives",
        _ => "says nothing",
    }
}

/// As `ss` calls them.
fn socket(state: u32) -> &'static str {
    const NAMES: [&str; 13] = [
        "none",
        "established",
        "syn-sent",
        "syn-recv",
        "fin-wait-1",
        "fin-wait-2",
        "time-wait",
        "closed",
        "close-wait",
        "last-ack",
        "listening",
        "closing",
        "syn-recv",
    ];
    NAMES.get(state as usize).copied().unwrap_or("unknown")
}

/// `tcp ADDRESS:PORT > ADDRESS:PORT`, of UDP likewise, and of TCP with `syn` behind it for a packet that opens a connection.
pub(crate) fn parse(text: &str) -> Result<Flow, String> {
    let wrong = |what: &str| {
        format!(
            "flow = {}: {what}; write it as \"tcp 198.51.100.7:41000 > 203.0.113.10:443\" or \"udp [2001:db8::7]:41000 > \
             [2001:db8::10]:443\", with \"syn\" behind it for the packet that opens a connection of TCP",
            quoted(text)
        )
    };
    let words: Vec<&str> = text.split_whitespace().filter(|word| !matches!(*word, ">" | "->")).collect();
    let (protocol, source, destination, opens) = match words[..] {
        [protocol, source, destination] => (protocol, source, destination, false),
        [protocol, source, destination, syn] if syn.eq_ignore_ascii_case("syn") => {
            (protocol, source, destination, true)
        }
        _ => return Err(wrong("not a protocol and two addresses with ports")),
    };
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" if opens => return Err(wrong("UDP has no SYN")),
        "udp" => Protocol::Udp,
        _ => return Err(wrong("the protocol is neither tcp nor udp")),
    };
    let at = |text: &str| {
        text.parse::<SocketAddr>().map_err(|_| wrong(&format!("{} is no address with a port", quoted(text))))
    };
    let (source, destination) = (at(source)?, at(destination)?);
    let plain = |at: SocketAddr| SocketAddr::new(IpAddr::to_canonical(&at.ip()), at.port());
    let (source, destination) = (plain(source), plain(destination));
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(wrong("one address is IPv4, and one IPv6"));
    }
    Ok(Flow { protocol, source, destination, opens })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_read_as_they_are_shown() {
        for text in [
            "tcp 198.51.100.7:41000 > 203.0.113.10:443",
            "udp [2001:db8::7]:41000 > [2001:db8::10]:443",
            "tcp 198.51.100.7:41000 > 203.0.113.10:443 syn",
        ] {
            assert_eq!(parse(text).map(|flow| shown(&flow)), Ok(text.to_owned()));
        }
        for (text, what) in [
            ("", "not a protocol and two addresses"),
            ("sctp 1.2.3.4:1 > 5.6.7.8:2", "neither tcp nor udp"),
            ("tcp 1.2.3.4 > 5.6.7.8:2", "\"1.2.3.4\" is no address with a port"),
            ("tcp 1.2.3.4:1 > [::1]:2", "one address is IPv4"),
            ("udp 1.2.3.4:1 > 5.6.7.8:2 syn", "UDP has no SYN"),
        ] {
            let told = parse(text).expect_err(text);
            assert!(told.contains(what) && told.contains("write it as"), "{told}");
        }
    }
}
