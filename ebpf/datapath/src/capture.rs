//! Whether a packet is one that somebody wants to see. Asked when everything about it is decided, and only while anybody waits.

use abi::capture::{Ends, Filter};
use abi::gue::LENGTH;
use abi::limits::{IPV6_EXTENSIONS_MAX, TRANSPORT_OFFSET_MAX};
use abi::{Address, Captured, Reason};

use crate::ethernet::{HEADER, IPV4, IPV6, TAG, VLAN, VLAN_SERVICE};
use crate::ip::{FRAGMENT, HEADER_V4, HEADER_V6, TCP, UDP, extension_length, is_extension};
use crate::steer::UDP_HEADER;
use crate::{Frame, Window, icmp};

/// Reads what is asked of the packet where the programs have left it. `sent`: in a tunnel of this machine; `reason`: a [`Reason`];
/// `forget`: as [`crate::Tables::forget`].
#[inline(always)]
pub fn read(frame: &impl Frame, sent: bool, reason: u8, forget: impl Fn(usize) -> usize) -> Ends {
    let none = Ends::default();
    let Some(w) = frame.window::<HEADER>(0) else { return none };
    let (mut kind, mut at) = (w.u16(12), HEADER);
    if kind == VLAN || kind == VLAN_SERVICE {
        let Some(t) = frame.window::<TAG>(HEADER) else { return none };
        (kind, at) = (t.u16(2), HEADER + TAG);
    }
    let outer = if kind == IPV4 { HEADER_V4 } else { HEADER_V6 };
    let mut hops = 0;
    if sent {
        let Some(w) = frame.window::<HEADER_V4>(at) else { return none };
        let carried = if kind == IPV4 { w.u8(9) } else { w.u8(6) };
        at = forget(at + outer);
        let carried = if carried == UDP {
            let Some(w) = frame.window::<{ UDP_HEADER + LENGTH }>(at) else { return none };
            hops = abi::gue::hops(w.u8(UDP_HEADER + 4)) as u32;
            at += UDP_HEADER + LENGTH;
            w.u8(UDP_HEADER + 1)
        } else {
            // To a backend.
            carried
        };
        kind = if forget((carried == INNER_V4) as usize) != 0 { IPV4 } else { IPV6 };
    } else if reason == Reason::TooBigAnswered as u8 {
        // What did not fit lies behind the header of the message.
        at += outer + icmp::HEADER;
    }
    let ends = match kind {
        IPV4 => read_v4(frame, at),
        IPV6 => read_v6(frame, at, forget),
        _ => none,
    };
    if reason == Reason::EchoAnswered as u8 || reason == Reason::SynCookieSent as u8 {
        // An answer of this machine counts as what it answers.
        let (source, destination, ports) = (ends.destination, ends.source, ends.ports.rotate_left(16));
        return Ends { source, destination, ports, ..ends };
    }
    Ends { hops, ..ends }
}

#[inline(always)]
fn read_v4(frame: &impl Frame, at: usize) -> Ends {
    let Some(w) = frame.window::<HEADER_V4>(at) else { return Ends::default() };
    let protocol = w.u8(9);
    let later = w.u16(6) & 0x1fff != 0;
    Ends {
        source: Address::from_v4_raw(w.u32_raw(12)),
        destination: Address::from_v4_raw(w.u32_raw(16)),
        ports: ports(frame, at + (w.u8(0) & 0x0f) as usize * 4, protocol, later),
        protocol: protocol as u32,
        hops: 0,
    }
}

#[inline(always)]
fn read_v6(frame: &impl Frame, at: usize, forget: impl Fn(usize) -> usize) -> Ends {
    let Some(w) = frame.window::<HEADER_V6>(at) else { return Ends::default() };
    let (mut protocol, mut transport, mut later) = (w.u8(6), at + HEADER_V6, false);
    let mut walked = 0;
    while walked < IPV6_EXTENSIONS_MAX && is_extension(protocol) && !later && transport <= TRANSPORT_OFFSET_MAX {
        let Some(h) = frame.window::<EXTENSION_HEADER>(transport) else { break };
        later = forget((protocol == FRAGMENT && h.u16(2) & 0xfff8 != 0) as usize) != 0;
        transport = forget(transport + extension_length(protocol, h.u8(1)));
        protocol = h.u8(0);
        walked += 1;
    }
    Ends {
        source: Address([w.u32_raw(8), w.u32_raw(12), w.u32_raw(16), w.u32_raw(20)]),
        destination: Address([w.u32_raw(24), w.u32_raw(28), w.u32_raw(32), w.u32_raw(36)]),
        ports: ports(frame, transport, protocol, later),
        protocol: protocol as u32,
        hops: 0,
    }
}

#[inline(always)]
fn ports(frame: &impl Frame, at: usize, protocol: u8, later: bool) -> u32 {
    if later || protocol != TCP && protocol != UDP {
        return 0;
    }
    frame.window::<4>(at).map_or(0, |w| w.u32_raw(0))
}

/// Whether the filter lets it pass. Without a branch: one road for the verifier.
#[inline(always)]
pub fn passes(filter: &Filter, packet: &Captured) -> bool {
    let ends = &packet.ends;
    let mut other = (filter.reasons >> (packet.reason & 63)) as u32 & 1 ^ 1;
    let mut word = 0;
    while word < 4 {
        let (from, to) = (ends.source.0[word], ends.destination.0[word]);
        other |= (from ^ filter.source.0[word]) & filter.source_mask.0[word];
        other |= (to ^ filter.destination.0[word]) & filter.destination_mask.0[word];
        word += 1;
    }
    other |= (ends.ports ^ filter.ports) & filter.ports_mask;
    other |= (ends.protocol ^ filter.protocol) & filter.protocol_mask;
    other |= (packet.vip as u32 ^ filter.vip) & filter.vip_mask;
    other |= (packet.machine as u32 ^ filter.machine) & filter.machine_mask;
    other == 0
}

/// IP in IP, as the tunnel names what it carries.
const INNER_V4: u8 = 4;
/// As much as all of them have.
const EXTENSION_HEADER: usize = 8;

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::vec::Vec;

    use super::*;
    use crate::host::{HEADROOM, SliceFrame};

    fn of(frame: &[u8], sent: bool) -> Ends {
        left(frame, sent, Reason::Forwarded)
    }

    fn left(frame: &[u8], sent: bool, reason: Reason) -> Ends {
        let mut buffer: Vec<u8> = [&[0; HEADROOM], frame].concat();
        read(&SliceFrame::new(&mut buffer, frame.len()), sent, reason as u8, |number| number)
    }

    fn v4(fragment: u16, options: usize, protocol: u8) -> Vec<u8> {
        let mut packet = vec![0x45 + options as u8 / 4, 0, 0, 0, 0, 0];
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 1]);
        packet.extend(vec![1; options]);
        packet.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 0]);
        packet
    }

    fn link(kind: [u8; 2], rest: &[u8]) -> Vec<u8> {
        [&[0; 12][..], &kind, rest].concat()
    }

    #[test]
    fn both_ends_are_read_wherever_the_packet_lies() {
        let seen = Ends {
            source: Ipv4Addr::new(192, 0, 2, 1).into(),
            destination: Ipv4Addr::new(198, 51, 100, 1).into(),
            ports: u32::from_ne_bytes([0x9c, 0x40, 0, 80]),
            protocol: 6,
            hops: 0,
        };
        let plain = v4(0, 0, TCP);
        assert_eq!(of(&link([8, 0], &plain), false), seen);
        assert_eq!(of(&link([8, 0], &v4(0x2000, 8, TCP)), false), seen, "options, and more fragments");
        assert_eq!(of(&link([0x81, 0], &[&[0, 7, 8, 0][..], &plain].concat()), false), seen, "a tag");
        assert_eq!(of(&link([8, 0], &v4(0x2001, 0, TCP)), false), Ends { ports: 0, ..seen }, "a later fragment");
        assert_eq!(of(&link([8, 0], &v4(0, 0, 1)), false), Ends { ports: 0, protocol: 1, ..seen });
        let mut tunnel = [v4(0, 0, UDP)[..20].to_vec(), vec![0; UDP_HEADER + LENGTH]].concat();
        tunnel[20 + UDP_HEADER + 1] = INNER_V4;
        tunnel[20 + UDP_HEADER + 4] = 3;
        let inside = of(&link([8, 0], &[&tunnel, &plain[..]].concat()), true);
        assert_eq!(inside, Ends { hops: 3, ..seen }, "the packet inside");
        let answer = [&v4(0, 0, 1)[..28], &plain].concat();
        assert_eq!(left(&link([8, 0], &answer), false, Reason::TooBigAnswered), seen, "the packet that is answered");

        let turned = Ends {
            source: seen.destination,
            destination: seen.source,
            ports: u32::from_ne_bytes([0, 80, 0x9c, 0x40]),
            ..seen
        };
        assert_eq!(left(&link([8, 0], &plain), false, Reason::SynCookieSent), turned, "an answer is of who asked");

        let mut v6 = vec![0x60, 0, 0, 0, 0, 0, FRAGMENT, 64];
        v6.extend(Ipv6Addr::LOCALHOST.octets());
        v6.extend([0xfd; 16]);
        v6.extend([UDP, 0, 0, 1, 0, 0, 0, 9, 0, 1, 0, 2]);
        let ends = of(&link([0x86, 0xdd], &v6), false);
        assert_eq!((ends.source.ip(), ends.protocol), (IpAddr::from(Ipv6Addr::LOCALHOST), 17));
        assert_eq!(ends.ports, u32::from_ne_bytes([0, 1, 0, 2]));
        v6[40 + 3] = 8;
        assert_eq!(of(&link([0x86, 0xdd], &v6), false).ports, 0, "a later fragment");
        for length in 0..v6.len() + 14 {
            // Whatever is cut off: no panic, and nothing read that is not there.
            let _ = of(&link([0x86, 0xdd], &v6)[..length], false);
            let _ = of(&link([8, 0], &v4(0, 0, TCP))[..length.min(42)], length % 2 == 0);
        }
    }

    #[test]
    fn a_filter_asks_for_what_its_masks_say() {
        let ends = Ends {
            source: Ipv4Addr::new(192, 0, 2, 77).into(),
            destination: Ipv4Addr::new(198, 51, 100, 1).into(),
            ports: 0x5000_409c,
            protocol: 6,
            hops: 1,
        };
        let packet = Captured { reason: Reason::Forwarded as u8, vip: 3, machine: 2, ends, ..Captured::default() };
        let all = Filter { reasons: u64::MAX, ..Filter::default() };
        let takes = |filter: Filter| passes(&filter, &packet);
        assert!(takes(all));
        assert!(!takes(Filter { reasons: !(1 << Reason::Forwarded as u8), ..all }));
        assert!(takes(Filter { reasons: 1 << Reason::Forwarded as u8, ..all }));
        for (asked, passes) in [(3, true), (4, false)] {
            assert_eq!(takes(Filter { vip: asked, vip_mask: u32::MAX, ..all }), passes);
        }
        for (asked, passes) in [(2, true), (0, false)] {
            assert_eq!(takes(Filter { machine: asked, machine_mask: u32::MAX, ..all }), passes);
        }
        for (asked, passes) in [(6, true), (17, false)] {
            assert_eq!(takes(Filter { protocol: asked, protocol_mask: u32::MAX, ..all }), passes);
        }
        assert!(takes(Filter { ports: 0x409c, ports_mask: 0xffff, ..all }));
        assert!(!takes(Filter { ports: 0x409d, ports_mask: 0xffff, ..all }));
        let net = Filter {
            source: Ipv4Addr::new(192, 0, 2, 0).into(),
            source_mask: Ipv6Addr::from_bits(u128::MAX << 8).into(),
            ..all
        };
        assert!(takes(net));
        let other = Ends { source: Ipv4Addr::new(192, 0, 3, 77).into(), ..ends };
        assert!(!passes(&net, &Captured { ends: other, ..packet }));
    }
}
