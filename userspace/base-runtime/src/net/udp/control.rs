//! What travels beside a datagram: addresses and control messages in the kernel's form. Pure bytes on both sides.
//!
//! What was received lies in one block, whichever call received it, in the order of a multishot `recvmsg`: a header
//! (`io_uring_recvmsg_out`: lengths of the parts and flags), room for the source address, room for control messages, the datagram.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// What the kernel and routers on the way say of congestion (RFC 3168).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Ecn {
    /// The transport does not take part.
    #[default]
    NotCapable = 0,
    /// Capable, ECT(1).
    Capable1 = 1,
    /// Capable, ECT(0): what most transports send.
    Capable0 = 2,
    /// A router on the way was congested.
    Congested = 3,
}

impl Ecn {
    /// The lowest two bits of the traffic class.
    pub const fn from_bits(traffic_class: u8) -> Ecn {
        match traffic_class & 3 {
            0 => Ecn::NotCapable,
            1 => Ecn::Capable1,
            2 => Ecn::Capable0,
            _ => Ecn::Congested,
        }
    }

    pub const fn bits(self) -> u8 {
        self as u8
    }
}

/// What is known of a datagram that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Who sent it. An IPv4 address is one also where the socket is an IPv6 one.
    pub source: SocketAddr,
    /// The address of this machine it was sent to; `None` where [`super::UdpOptions::packet_info`] is off.
    pub destination: Option<IpAddr>,
    /// The index of the interface it came in on, 0 where it is not known.
    pub interface: u32,
    pub ecn: Ecn,
    /// Where the kernel joined several datagrams of a flow (GRO), the length of each but the last, which may be shorter. Otherwise
    /// the whole length.
    pub segment_size: usize,
    /// It was longer than the worker's buffers ([`crate::Config::datagram_bytes_max`]), and the rest is lost.
    pub truncated: bool,
}

/// What a block holds, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub meta: Meta,
    pub length: usize,
    /// The socket's count of datagrams it had no room for, where it is not 0.
    pub overflows: Option<u32>,
}

/// Reads the block of a datagram. `None` if it holds nothing sensible, which no kernel leaves there.
pub(crate) fn decode(block: &[u8]) -> Option<Decoded> {
    let payload_room = block.len().checked_sub(PAYLOAD_AT)?;
    let [name, control, payload, flags] = [0, 4, 8, 12].map(|at| u32_at(block, at));
    let (name, control) = ((name? as usize).min(NAME_ROOM), (control? as usize).min(CONTROL_ROOM));
    let source = decode_name(&block[NAME_AT..NAME_AT + name])?;
    let told = decode_control(&block[CONTROL_AT..CONTROL_AT + control]);
    let (payload, flags) = (payload? as usize, flags?);
    let length = payload.min(payload_room);
    let meta = Meta {
        source,
        destination: told.destination,
        interface: told.interface,
        ecn: told.ecn,
        segment_size: told.segment.map_or(length, usize::from).clamp(1, length.max(1)),
        truncated: flags & libc::MSG_TRUNC as u32 != 0 || payload > payload_room,
    };
    Some(Decoded { meta, length, overflows: told.overflows })
}

/// Enters what `recvmmsg` said into the header of a block, so that it reads as one of the ring's.
pub(crate) fn write_header(block: &mut [u8], name: u32, control: u32, payload: u32, flags: u32) {
    for (field, value) in block.chunks_exact_mut(4).zip([name, control, payload, flags]) {
        field.copy_from_slice(&value.to_ne_bytes());
    }
}

/// An IP socket address in the kernel's form.
fn decode_name(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(array_at(name, 0)?);
    let port = u16::from_be_bytes(array_at(name, 2)?);
    match i32::from(family) {
        libc::AF_INET => Some((Ipv4Addr::from(array_at::<4>(name, 4)?), port).into()),
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(array_at::<16>(name, 8)?);
            let flow = u32_at(name, 4)?;
            let scope = u32_at(name, 24)?;
            Some(match ip.to_ipv4_mapped() {
                Some(v4) => (v4, port).into(),
                None => SocketAddrV6::new(ip, port, flow, scope).into(),
            })
        }
        _ => None,
    }
}

#[derive(Debug, Default, PartialEq)]
struct Told {
    destination: Option<IpAddr>,
    interface: u32,
    ecn: Ecn,
    segment: Option<u16>,
    overflows: Option<u32>,
}

/// Reads control messages as far as they are well-formed. Those nobody asked for are passed over.
fn decode_control(mut bytes: &[u8]) -> Told {
    let mut told = Told::default();
    while let (Some(length), Some(level), Some(kind)) =
        (array_at(bytes, 0).map(usize::from_ne_bytes), u32_at(bytes, LENGTH_BYTES), u32_at(bytes, LENGTH_BYTES + 4))
    {
        if length < HEADER || length > bytes.len() {
            break;
        }
        let data = &bytes[HEADER..length];
        match (level as i32, kind as i32) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // The address of the header, not the local one it was delivered to: a reply to a broadcast is another matter.
                if let (Some(interface), Some(ip)) = (u32_at(data, 0), array_at::<4>(data, 8)) {
                    told.interface = interface;
                    told.destination = Some(Ipv4Addr::from(ip).into());
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let (Some(ip), Some(interface)) = (array_at::<16>(data, 0), u32_at(data, 16)) {
                    told.interface = interface;
                    told.destination = Some(IpAddr::from(ip).to_canonical());
                }
            }
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                // One byte, unless a later kernel makes it the int it is when sent.
                let byte =
                    if data.len() >= 4 { u32_at(data, 0).map(|class| class as u8) } else { data.first().copied() };
                told.ecn = byte.map_or(told.ecn, Ecn::from_bits);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                told.ecn = u32_at(data, 0).map_or(told.ecn, |class| Ecn::from_bits(class as u8));
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                // An int since Linux 5.2, 16 bits before.
                told.segment = match data.len() {
                    4.. => u32_at(data, 0).and_then(|size| u16::try_from(size).ok()),
                    _ => array_at(data, 0).map(u16::from_ne_bytes),
                };
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => told.overflows = u32_at(data, 0),
            _ => {}
        }
        let next = length.next_multiple_of(LENGTH_BYTES);
        if next >= bytes.len() {
            break;
        }
        bytes = &bytes[next..];
    }
    told
}

/// The control messages of one send.
#[repr(align(8))]
#[derive(Clone, Copy)]
pub(crate) struct Control {
    bytes: [u8; SENT_MAX],
    length: usize,
}

impl Control {
    pub const EMPTY: Control = Control { bytes: [0; SENT_MAX], length: 0 };

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Split what is sent into datagrams of this length (UDP_SEGMENT).
    pub fn segments(&mut self, size: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
    }

    /// `v4`: it travels as IPv4, be the socket what it may.
    pub fn ecn(&mut self, ecn: Ecn, v4: bool) {
        let (level, kind) = if v4 { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
        self.push(level, kind, &i32::from(ecn.bits()).to_ne_bytes());
    }

    /// Send from this address, and over this interface unless it is 0.
    pub fn source(&mut self, ip: Option<IpAddr>, interface: u32, v4: bool) {
        if v4 {
            let ip = match ip.map(|ip| ip.to_canonical()) {
                Some(IpAddr::V4(ip)) => ip,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            // in_pktinfo: the interface, the address to send from, and one that only tells when receiving.
            let mut info = [0; 12];
            info[..4].copy_from_slice(&interface.to_ne_bytes());
            info[4..8].copy_from_slice(&ip.octets());
            self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        } else {
            let ip = match ip {
                Some(IpAddr::V6(ip)) => ip,
                _ => Ipv6Addr::UNSPECIFIED,
            };
            let mut info = [0; 20];
            info[..16].copy_from_slice(&ip.octets());
            info[16..].copy_from_slice(&interface.to_ne_bytes());
            self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let at = self.length;
        self.bytes[at..at + LENGTH_BYTES].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        self.bytes[at + LENGTH_BYTES..][..4].copy_from_slice(&level.to_ne_bytes());
        self.bytes[at + LENGTH_BYTES + 4..][..4].copy_from_slice(&kind.to_ne_bytes());
        self.bytes[at + HEADER..][..data.len()].copy_from_slice(data);
        self.length = (at + HEADER + data.len()).next_multiple_of(LENGTH_BYTES);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_ne_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The kernel's `cmsghdr`: a length, which is also what messages are aligned to, a level and a kind.
const LENGTH_BYTES: usize = size_of::<usize>();
const HEADER: usize = LENGTH_BYTES + 8;
/// UDP_SEGMENT, a traffic class and the packet info of IPv6.
const SENT_MAX: usize = 3 * HEADER + 8 + 8 + 24;

pub(crate) const NAME_AT: usize = 16;
/// An IPv6 address takes 28 bytes.
pub(crate) const NAME_ROOM: usize = 32;
pub(crate) const CONTROL_AT: usize = NAME_AT + NAME_ROOM;
/// All of what is asked for at once takes 168 bytes: packet info and traffic class of both families, GRO's size, and the overflows.
pub(crate) const CONTROL_ROOM: usize = 208;
pub(crate) const PAYLOAD_AT: usize = CONTROL_AT + CONTROL_ROOM;

#[cfg(test)]
mod tests {
    use super::*;

    /// A block as the kernel would leave it.
    fn block(name: &[u8], control: &[u8], payload: &[u8], flags: i32) -> Vec<u8> {
        let mut block = vec![0xAA; PAYLOAD_AT + payload.len()];
        write_header(&mut block, name.len() as u32, control.len() as u32, payload.len() as u32, flags as u32);
        block[NAME_AT..][..name.len()].copy_from_slice(name);
        block[CONTROL_AT..][..control.len()].copy_from_slice(control);
        block[PAYLOAD_AT..].copy_from_slice(payload);
        block
    }

    fn v4_name() -> Vec<u8> {
        let mut name = (libc::AF_INET as u16).to_ne_bytes().to_vec();
        name.extend_from_slice(&[0x1F, 0x90, 192, 0, 2, 7]);
        name.resize(16, 0);
        name
    }

    fn v6_name(ip: Ipv6Addr) -> Vec<u8> {
        let mut name = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
        name.extend_from_slice(&[0x1F, 0x90, 0, 0, 0, 0]);
        name.extend_from_slice(&ip.octets());
        name.extend_from_slice(&3u32.to_ne_bytes());
        name
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        let decoded = decode(&block(&v4_name(), &[], b"hello", 0)).expect("well-formed");
        assert_eq!(decoded.meta.source, SocketAddr::from(([192, 0, 2, 7], 8080)));
        assert_eq!((decoded.length, decoded.meta.segment_size, decoded.meta.truncated), (5, 5, false));
        let decoded =
            decode(&block(&v6_name("fe80::1".parse().expect("an address")), &[], b"", 0)).expect("well-formed");
        assert_eq!(decoded.meta.source.to_string(), "[fe80::1%3]:8080");
        assert_eq!((decoded.length, decoded.meta.segment_size), (0, 1));
        let mapped = Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped();
        let decoded = decode(&block(&v6_name(mapped), &[], b"", libc::MSG_TRUNC)).expect("well-formed");
        assert_eq!(decoded.meta.source, SocketAddr::from(([192, 0, 2, 7], 8080)));
        assert!(decoded.meta.truncated);
        assert_eq!(decode(&block(&[1, 0], &[], b"", 0)), None, "an address of another family");
        assert_eq!(decode(&[0; PAYLOAD_AT - 1]), None);
    }

    #[test]
    fn control_messages_are_read_as_they_are_written() {
        for (source, v4) in [("127.0.0.9", true), ("::ffff:127.0.0.9", true), ("2001:db8::9", false)] {
            for ecn in [0, 1, 2, 3].map(Ecn::from_bits) {
                let source: IpAddr = source.parse().expect("an address");
                let mut control = Control::EMPTY;
                control.source(Some(source), 7, v4);
                control.ecn(ecn, v4);
                control.push(libc::SOL_UDP, libc::UDP_GRO, &1200i32.to_ne_bytes());
                let told = decode_control(control.as_slice());
                assert_eq!((told.interface, told.ecn, told.segment), (7, ecn, Some(1200)));
                if !v4 {
                    assert_eq!(told.destination, Some(source));
                }
            }
        }
        let mut all = Control::EMPTY;
        all.segments(1);
        all.ecn(Ecn::Congested, false);
        all.source(None, 0, false);
        assert!(all.length <= SENT_MAX && all.length.is_multiple_of(8));
    }

    #[test]
    fn damaged_control_messages_end_the_reading_and_nothing_else() {
        let mut control = Control::EMPTY;
        control.ecn(Ecn::Capable0, true);
        control.source(None, 7, true);
        let whole = control.as_slice();
        for cut in 0..whole.len() {
            let told = decode_control(&whole[..cut]);
            assert!(told.interface == 0 || cut >= whole.len() - 8, "{cut}");
        }
        for length in [0, 1, HEADER - 1, 1000, usize::MAX, usize::MAX - 3] {
            let mut damaged = whole.to_vec();
            damaged[..LENGTH_BYTES].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(decode_control(&damaged), Told::default());
        }
    }

    #[test]
    fn any_bytes_can_be_read() {
        // A generator of its own, so that Miri runs it as well.
        let mut state = 1u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        let rounds = if cfg!(miri) { 200 } else { 50_000 };
        for _ in 0..rounds {
            let mut bytes: Vec<u8> = (0..PAYLOAD_AT + next() % 64).map(|_| next() as u8).collect();
            let (name, control, payload) = (next() % 40, next() % 300, next() % 100);
            write_header(&mut bytes, name as u32, control as u32, payload as u32, next() as u32);
            bytes[NAME_AT..NAME_AT + 2].copy_from_slice(&[[2u8, 0], [10, 0], [1, 0]][next() % 3]);
            // Plausible messages with damaged parts.
            let mut at = CONTROL_AT;
            while at + HEADER + 24 < PAYLOAD_AT {
                let length = [HEADER + next() % 24, HEADER + 4, next() % 300][next() % 3];
                bytes[at..at + LENGTH_BYTES].copy_from_slice(&length.to_ne_bytes());
                let kinds = [(0, 8), (41, 50), (0, 1), (41, 67), (17, 104), (1, 40), (1, 41)];
                let (level, kind): (i32, i32) = kinds[next() % kinds.len()];
                bytes[at + LENGTH_BYTES..][..4].copy_from_slice(&level.to_ne_bytes());
                bytes[at + LENGTH_BYTES + 4..][..4].copy_from_slice(&kind.to_ne_bytes());
                at += length.clamp(HEADER, 64).next_multiple_of(LENGTH_BYTES);
            }
            if let Some(decoded) = decode(&bytes) {
                assert!(PAYLOAD_AT + decoded.length <= bytes.len());
                assert!(decoded.meta.segment_size > 0, "a piece of no length would never end");
            }
        }
    }
}
