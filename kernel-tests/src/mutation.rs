//! Packets that make sense, and what becomes of them when something on their way does not.

use crate::packet::{self, ACK, Random, SYN};
use crate::world::{self, Fixture, OTHER, OVER_V6, OWN, THIRD, client};

/// A packet that makes sense, then changed in some places, cut or made longer.
pub fn mutated(random: &mut Random) -> Vec<u8> {
    let frame = sensible(random);
    mutate(random, frame)
}

/// Changed in some places, cut or made longer, or neither.
pub fn mutate(random: &mut Random, mut frame: Vec<u8>) -> Vec<u8> {
    if random.below(4) > 0 {
        for _ in 0..1 + random.below(3) {
            let reach = frame.len().min(if random.below(2) == 0 { 96 } else { 200 });
            let at = 12 + random.below(reach - 12);
            match random.below(4) {
                0 => frame[at] ^= 1 << random.below(8),
                1 => frame[at] = random.number() as u8,
                2 => frame[at] = [0, 1, 4, 6, 17, 20, 40, 44, 58, 60, 0xff][random.below(11)],
                _ => {
                    let other = 12 + random.below(reach - 12);
                    frame.swap(at, other);
                }
            }
        }
    }
    match random.below(8) {
        0 => {
            let keep = 14 + random.below(frame.len() - 13);
            frame.truncate(keep);
        }
        1 => frame.extend(std::iter::repeat_n(0x77, random.below(64))),
        _ => {}
    }
    frame
}

/// One of every kind there is, of clients and sizes drawn at random.
pub fn sensible(random: &mut Random) -> Vec<u8> {
    let v4 = random.below(2) == 0;
    let fixture = Fixture::ALL[random.below(Fixture::ALL.len())];
    let port = [80, 8000, 8050, 8099, 81][random.below(5)];
    // Of few clients and with few numbers, so that later ones meet the first of their datagram.
    let parts = random.below(5) == 0;
    let from = client(v4, random.below(if parts { 20 } else { 5000 }) as u16);
    let mut to = fixture.at(v4, port);
    if matches!(fixture, Fixture::Wide | Fixture::Narrow) {
        // Any of the prefixes, one that another has alone, or none.
        to.set_ip(match (v4, random.below(4)) {
            (true, 0) => world::INSIDE_V4,
            (false, 0) => world::INSIDE_V6,
            (true, _) => [198, 51, 101, random.number() as u8].into(),
            (false, _) => {
                [0x2001, 0xdb8, 0x52, random.below(2) as u16, random.below(3) as u16, 0, 0, random.number() as u16]
                    .into()
            }
        });
    }
    let size = [0, 1, 64, 600, 1380, 1420, 1460][random.below(7)];
    let payload = vec![0x42; size];
    let mut frame = match random.below(10) {
        0 => packet::tcp(from, to, SYN, size),
        1 | 2 => packet::tcp(from, to, ACK, size),
        3 => packet::udp(from, to, &payload),
        4 => packet::icmp(from.ip(), to.ip(), if v4 { 8 } else { 128 }, 0, [1, 2, 3, 4], &payload),
        5 => {
            let sent = packet::tcp(to, from, ACK, 64);
            let quote = [8, 20, 64][random.below(3)] + if v4 { 20 } else { 40 };
            let kind = if v4 { [3, 11, 12][random.below(3)] } else { 1 + random.below(4) as u8 };
            packet::icmp(client(v4, 9).ip(), to.ip(), kind, 4, [0; 4], &sent[14..14 + quote])
        }
        6 if !v4 => {
            let mut chain = Vec::new();
            let mut first = 6;
            for _ in 0..random.below(8) {
                let kind = [0, 43, 44, 51, 60][random.below(5)];
                let length = if kind == 44 { 0 } else { random.below(3) as u8 };
                let bytes = match kind {
                    44 => 8,
                    51 => (length as usize + 2) * 4,
                    _ => (length as usize + 1) * 8,
                };
                let mut header = vec![0; bytes];
                (header[0], header[1]) = (first, length);
                if kind == 44 && random.below(2) == 0 {
                    header[3] = random.number() as u8;
                }
                chain = [header, chain].concat();
                first = kind;
            }
            chain.extend(packet::tcp_header(from.port(), port, ACK));
            packet::ip(from.ip(), to.ip(), first, 0, &chain)
        }
        6 => {
            let mut frame = packet::tcp(from, to, ACK, size.min(1400));
            let words = random.below(11);
            frame[14] = 0x45 + words as u8;
            let length = (u16::from_be_bytes([frame[16], frame[17]]) + 4 * words as u16).to_be_bytes();
            frame[16..18].copy_from_slice(&length);
            frame.splice(34..34, vec![1; 4 * words]);
            if random.below(3) == 0 {
                frame[20] = random.number() as u8;
            }
            frame
        }
        7 | 8 => {
            let inner = match random.below(3) {
                0 => packet::tcp(from, to, SYN, size.min(600)),
                1 => packet::udp(from, to, &payload[..size.min(600)]),
                _ => packet::tcp(from, to, ACK, size),
            };
            in_a_tunnel(random, &inner)
        }
        // An IPv4 address as IPv6 has it is no IPv4 address on the wire (RFC 4291 section 2.5.5.2).
        _ if !v4 => {
            let mapped = |address: std::net::IpAddr| match address {
                std::net::IpAddr::V4(v4) => std::net::IpAddr::V6(v4.to_ipv6_mapped()),
                v6 => v6,
            };
            let ends = [mapped(fixture.v4()), mapped(client(true, 40).ip()), from.ip(), to.ip()];
            let (source, destination) = (ends[1 + random.below(2)], ends[[0, 3][random.below(2)]]);
            packet::ip(source, destination, 6, 0, &packet::tcp_header(from.port(), port, ACK))
        }
        _ => packet::tcp(from, client(v4, 3), ACK, size),
    };
    if parts && frame.len() > 90 {
        let mut parts = packet::fragments(&frame, [8, 16, 64][random.below(3)], random.below(4) as u16);
        frame = parts.swap_remove(random.below(2.min(parts.len())));
        if random.below(3) == 0 {
            frame = in_a_tunnel(random, &frame);
        }
    }
    if random.below(6) == 0 {
        frame = packet::tagged(&frame);
    }
    frame
}

/// Through up to seven tunnels, with any claim, and any of the machines asked.
fn in_a_tunnel(random: &mut Random, inner: &[u8]) -> Vec<u8> {
    let mut packed = random.below(8) as u8;
    if random.below(2) == 0 {
        packed |= (random.below(4) as u8) << 4 | (random.below(4) as u8) << 6;
    }
    let tunnel = if random.below(2) == 0 {
        packet::tunnel(world::address(OTHER), world::address(OWN), packed, inner)
    } else {
        packet::tunnel(world::address(OVER_V6), world::own_v6(), packed, inner)
    };
    let asked: Vec<u16> = (0..random.below(5)).map(|_| [OTHER, THIRD, OVER_V6, OWN, 60][random.below(5)]).collect();
    packet::asked(&tunnel, &asked)
}
