//! VirtualIPs of the initial objects, and of what this machine served last: whether their prefixes can be steered here, and whether servers
//! that do not run Weir (`backends`) answer over the tunnel, as the checks of an edge ask them, and ask clients for what fits one.

use super::Findings;
use crate::options::Options;
use base_model::{Object, Spec, VirtualIpSpec};
use edge_agent::backends::{Found, Looked, Trouble};
use edge_agent::last_good::LastGood;
use edge_filters::kinds::Shelf;
use edge_kernel::{Prefix, Reach};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

pub fn look(options: &Options, found: &mut Findings) {
    // Without an interface nothing is steered from here.
    if options.interfaces.is_empty() {
        return;
    }
    let specs = virtual_ips(options);
    prefixes(&specs, found);
    // An interface that is not there is told of where interfaces are looked at.
    let Ok(reach) = edge_kernel::reach(&options.interfaces, &options.advertise_addresses) else { return };
    for looked in edge_agent::backends::look(&specs, &reach.own) {
        tell(&looked, &reach, found);
    }
}

/// Of all that there are, because they may lie in each other.
fn prefixes(specs: &BTreeMap<String, VirtualIpSpec>, found: &mut Findings) {
    let of = |spec: &VirtualIpSpec| -> Vec<Prefix> {
        spec.prefixes().map(|prefix| Prefix { address: prefix.first(), bits: prefix.length() }).collect()
    };
    let unfit = edge_kernel::unfit(&specs.values().flat_map(of).collect::<Vec<_>>());
    for (name, spec) in specs {
        let what = format!("prefixes of {name}");
        let mut fit = Vec::new();
        for prefix in of(spec).into_iter().filter(|prefix| *prefix != Prefix::from(prefix.address)) {
            match unfit.get(&prefix) {
                Some(why) => found.fault(&what, format!("left out of steering here: {why}")),
                None => fit.push(prefix.to_string()),
            }
        }
        if !fit.is_empty() {
            found.well(&what, format!("nothing of this machine or its routers lies in {}", fit.join(", ")));
        }
    }
}

/// By name.
fn virtual_ips(options: &Options) -> BTreeMap<String, VirtualIpSpec> {
    let texts = options.initial_object_files.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let initial = texts.filter_map(|text| base_model::yaml::parse_documents(&text).ok()).flatten();
    let served = LastGood::look(&options.data_dir.join("edge")).map(|desired| desired.objects).unwrap_or_default();
    let mut specs = BTreeMap::new();
    let mut add = |document: &Value| {
        if document.get("kind").and_then(Value::as_str) == Some("VirtualIP")
            && let Ok(Object { document, spec: Spec::VirtualIp(spec), .. }) = Object::read(document, &Shelf)
        {
            specs.insert(document.name.clone(), *spec);
        }
    };
    initial.for_each(|document| add(&document));
    served.values().for_each(|document| add(document));
    specs
}

fn tell(looked: &Looked, reach: &Reach, found: &mut Findings) {
    let what = format!("backend of {}", looked.vip);
    let who = if looked.backend == looked.address {
        looked.address.clone()
    } else {
        format!("{} ({})", looked.backend, looked.address)
    };
    let v4 = looked.address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4());
    match &looked.found {
        Found::Well { at, segment_max } => {
            let fits = longest_segment(reach.mtu, v4, at.is_ipv4());
            if u32::from(*segment_max) <= fits {
                return found.well(&what, format!("{who} answers over the tunnel, at {at}"));
            }
            found.warning(
                &what,
                format!(
                    "{who} answers over the tunnel, at {at}, and lets clients send segments of {segment_max} bytes, of which {fits} fit into \
                     a tunnel from here (MTU {}): clients that hear no ICMP wait in vain. On it ip route change default via … advmss {fits}; \
                     or MTU {} on this machine's interfaces and on what lies between",
                    reach.mtu,
                    reach.mtu + u32::from(*segment_max) - fits
                ),
            );
        }
        Found::Unwell { at, trouble, why } => {
            found.fault(&what, format!("{who} takes no new flows from here: {why}; {}", remedy(*trouble, at, v4)));
        }
        Found::Unasked(why) => {
            found.warning(&what, format!("{who} is not asked from here: {why}; whether it serves is not known"))
        }
        Found::LeftOut(why) => found.fault(&what, format!("{who} takes no flows from here: {why}")),
    }
}

/// Of a client, inside a tunnel of the backend's family.
fn longest_segment(mtu: u32, outer_v4: bool, inner_v4: bool) -> u32 {
    let header = |v4| if v4 { 20 } else { 40 };
    mtu.saturating_sub(header(outer_v4) + header(inner_v4) + TCP_HEADER)
}

fn remedy(trouble: Trouble, at: &SocketAddr, outer_v4: bool) -> String {
    // IPv6 in IPv4 has a device for whatever comes, and none that one can make.
    let (make, device, protocol) = match (outer_v4, at.is_ipv4()) {
        (true, true) => ("ip link add weir0 type ipip external", "weir0", 4),
        (true, false) => ("modprobe sit", "sit0", 41),
        (false, true) => ("ip link add weir0 type ip6tnl external", "weir0", 4),
        (false, false) => ("ip link add weir0 type ip6tnl external", "weir0", 41),
    };
    match trouble {
        Trouble::Silent => format!(
            "on that server: tcpdump -ni any ip{} proto {protocol} shows whether it comes (else look at firewalls on the way); {make} and ip \
             link set {device} up; ip addr add {}/{} dev lo; sysctl net.ipv4.conf.all.rp_filter=0 and net.ipv4.conf.{device}.rp_filter=0, as \
             what comes by the tunnel goes back another way",
            if outer_v4 { "" } else { "6" },
            at.ip(),
            if at.is_ipv4() { 32 } else { 128 }
        ),
        Trouble::Refused => format!("start what is to listen at {at} there (ss -ltnp), or correct backendCheck.port"),
        Trouble::NoRoute => {
            "give this machine a route to it (ip route get says which it takes), or correct its address".to_owned()
        }
        Trouble::Answer => "look at its log, or correct backendCheck".to_owned(),
    }
}

const TCP_HEADER: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_a_tunnel_depends_on_both_families() {
        let of = |outer, inner| longest_segment(1500, outer, inner);
        assert_eq!([of(true, true), of(true, false), of(false, true), of(false, false)], [1440, 1420, 1420, 1400]);
    }

    #[test]
    fn each_trouble_has_its_remedy() {
        let (v4, v6) = ("192.0.2.1:80".parse().unwrap(), "[2001:db8::1]:80".parse().unwrap());
        for (at, outer_v4, device) in [
            (&v4, true, "type ipip"),
            (&v6, true, "ip link set sit0 up"),
            (&v4, false, "type ip6tnl"),
            (&v6, false, "type ip6tnl"),
        ] {
            let told = remedy(Trouble::Silent, at, outer_v4);
            assert!(
                told.contains(device) && told.contains("rp_filter") && told.contains(&at.ip().to_string()),
                "{told}"
            );
        }
        for (trouble, part) in
            [(Trouble::Refused, "ss -ltnp"), (Trouble::NoRoute, "ip route get"), (Trouble::Answer, "log")]
        {
            assert!(remedy(trouble, &v4, true).contains(part));
        }
    }
}
