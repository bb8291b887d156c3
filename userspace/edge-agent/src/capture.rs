//! Which packets a capture shows, and what is told of one.

use base_model::Cidr;
use base_text::quoted;
use edge_kernel::abi::{Reason, Verdict};
use edge_kernel::{
    CAPTURE_RATE_MOST, CAPTURE_SNAP_LEAST, CAPTURE_SNAP_MOST, CaptureFilter, CapturedPacket, OpenCapture, PacketSink,
    Protocol,
};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::UNIX_EPOCH;

use crate::steer::Plane;
use crate::trace;

/// Packets a second that a capture shows of one machine unless it asks for another number.
const RATE: u32 = 1_000;

/// Bytes of each, likewise: any frame that is no jumbo.
const SNAP: u32 = 2_048;

impl Plane {
    /// Gives packets to the sink, from now on, for as long as what comes back lives. The error tells what this machine lacks for it.
    pub fn capture(&self, filter: &CaptureFilter, sink: PacketSink) -> Result<OpenCapture, String> {
        self.kernel.capture(filter, sink).map_err(|error| error.to_string())
    }

    /// Reads `vip`, `reason`, `source`, `flow`, `to`, `rate` and `snap`. What is empty asks for nothing. The error tells what the question
    /// should have been.
    pub fn capture_filter(&self, asked: &[(String, String)]) -> Result<CaptureFilter, String> {
        let mut filter = CaptureFilter { rate: RATE, snap: SNAP, ..CaptureFilter::default() };
        let mut flow = None;
        for (key, text) in asked.iter().filter(|(_, text)| !text.is_empty()) {
            let wrong = |wanted: &str| format!("{key} = {}: {wanted}", quoted(text));
            let number = |least: u32, most: u32, what: &str| {
                let number = text.parse().ok().filter(|number| (least..=most).contains(number));
                number.ok_or_else(|| wrong(&format!("{what}, {least} to {most}")))
            };
            match key.as_str() {
                "vip" => match (self.vips.iter().find(|(_, name)| *name == text), text.parse::<IpAddr>()) {
                    (Some((id, _)), _) => filter.vip = Some(*id),
                    (None, Ok(address)) => filter.destination = Some(whole(address)),
                    (None, Err(_)) => {
                        let known = listed(self.vips.values());
                        return Err(wrong(&format!(
                            "neither the name of a VirtualIP that {} steers nor an address; it steers {known}",
                            self.own
                        )));
                    }
                },
                "reason" => filter.reasons = reasons(text).map_err(|what| wrong(&what))?,
                "source" => {
                    let prefix: Cidr =
                        text.parse().map_err(|_| wrong("an address or a prefix, such as 198.51.100.0/24"))?;
                    filter.source = Some((prefix.address(), prefix.length()));
                }
                "flow" => flow = Some(trace::parse(text)?),
                "to" => {
                    let found = self.machines.iter().find(|(_, name)| *name == text);
                    let known = || listed(self.machines.values());
                    let (id, _) = found.ok_or_else(|| wrong(&format!("no machine's name; there are {}", known())))?;
                    filter.machine = Some(*id);
                }
                "rate" => filter.rate = number(1, CAPTURE_RATE_MOST, "packets a second of each machine")?,
                "snap" => {
                    filter.snap = number(CAPTURE_SNAP_LEAST, CAPTURE_SNAP_MOST, "bytes of a packet that are kept")?;
                }
                other => {
                    return Err(format!(
                        "{}: unknown; accepted are vip, reason, source, flow, to, rate, snap, member, count, for, bytes",
                        quoted(other)
                    ));
                }
            }
        }
        if let Some(flow) = flow {
            if filter.source.is_some() || filter.destination.is_some() {
                return Err("flow: it says who sends and to whom; leave source, and an address as vip, out".to_owned());
            }
            filter.protocol = Some(flow.protocol);
            filter.source = Some(whole(flow.source.ip()));
            filter.source_port = Some(flow.source.port());
            filter.destination = Some(whole(flow.destination.ip()));
            filter.destination_port = Some(flow.destination.port());
        } else if filter.reasons.is_empty() && filter.source.is_none() && filter.destination.is_none() {
            // What is of no virtual IP is the machine's own affair, this very answer among it: shown to who asks for it.
            let own = [Reason::NotIp, Reason::NotVip];
            filter.reasons = Reason::ALL.iter().copied().filter(|reason| !own.contains(reason)).collect();
        }
        Ok(filter)
    }

    /// Everything about a packet but its bytes.
    pub fn captured(&self, packet: &CapturedPacket) -> Value {
        let at = packet.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let machine = |id: u16| match id {
            0 => None,
            id => Some(self.machines.get(&id).cloned().unwrap_or_else(|| format!("#{id}"))),
        };
        let slot = self.kernel.slot_of_captured(packet);
        let owners = slot.map(|(_, owners)| owners.into_iter().filter_map(machine).collect::<Vec<_>>());
        let (source, destination, protocol) = match (packet.flow(), packet.addresses()) {
            (Some(flow), _) => {
                let protocol = if flow.protocol == Protocol::Tcp { "tcp" } else { "udp" };
                (Some(flow.source.to_string()), Some(flow.destination.to_string()), Some(protocol))
            }
            (None, Some((source, destination))) => (Some(source.to_string()), Some(destination.to_string()), None),
            (None, None) => (None, None, None),
        };
        json!({
            "seconds": at.as_secs(),
            "nanoseconds": at.subsec_nanos(),
            "machine": self.own,
            "interface": self.kernel.interface_name(packet.interface),
            "queue": packet.queue,
            "verdict": trace::verdict(packet.reason),
            "reason": packet.reason.name(),
            "virtualIP": self.vips.get(&packet.vip),
            "slot": slot.map(|(number, _)| number),
            "owners": owners,
            "to": machine(packet.machine),
            "hop": packet.hop(),
            "epoch": packet.epoch,
            "protocol": protocol,
            "source": source,
            "destination": destination,
            "arrivedBytes": packet.arrived,
            "bytes": packet.length,
        })
    }
}

/// Names of reasons and verdicts, with commas between them.
fn reasons(text: &str) -> Result<Vec<Reason>, String> {
    let mut found = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let verdict = match part {
            "drop" => Some(Verdict::Drop),
            "pass" => Some(Verdict::Pass),
            "transmit" => Some(Verdict::Transmit),
            _ => None,
        };
        let before = found.len();
        found.extend(Reason::ALL.iter().filter(|r| r.name() == part || Some(r.verdict()) == verdict));
        if found.len() == before {
            let all: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
            return Err(format!(
                "{} is neither a verdict (drop, pass, transmit) nor one of the reasons {}",
                quoted(part),
                all.join(", ")
            ));
        }
    }
    Ok(found)
}

fn whole(address: IpAddr) -> (IpAddr, u8) {
    let address = address.to_canonical();
    (address, if address.is_ipv4() { 32 } else { 128 })
}

fn listed<'n>(names: impl Iterator<Item = &'n String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_and_verdicts_are_told_by_name() {
        assert_eq!(reasons("forwarded, slot_empty"), Ok(vec![Reason::Forwarded, Reason::SlotEmpty]));
        let drops = reasons("drop").unwrap();
        assert!(drops.len() > 10 && drops.iter().all(|reason| reason.verdict() == Verdict::Drop));
        let told = reasons("drop,lost").unwrap_err();
        assert!(told.contains("\"lost\" is neither") && told.contains("gue_cookie_wrong"), "{told}");
    }
}
