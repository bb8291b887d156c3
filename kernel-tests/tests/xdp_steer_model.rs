//! The BPF program and the same code on the host, over mutated packets: verdict and bytes must be equal.
//!
//! `WEIR_MODEL_PACKETS` sets how many (default 120,000), `WEIR_MODEL_SEED` which.

use abi::Verdict;
use edge_kernel::{AccessPrefix, AccessTables, Hook, sys};
use kernel_tests::model::Model;
use kernel_tests::packet::{self, ACK, Random, SYN};
use kernel_tests::ready;
use kernel_tests::world::{self, Fixture, OTHER, OVER_V6, OWN, client};

#[test]
fn the_program_and_the_host_agree_on_mutated_packets() {
    if !ready("the_program_and_the_host_agree_on_mutated_packets") {
        return;
    }
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (packets, seed) = (number("WEIR_MODEL_PACKETS", 120_000), number("WEIR_MODEL_SEED", 1));
    let mut kernel = world::kernel().expect("the world loads");
    let prefix = |text: &str, bits, denied| AccessPrefix { address: text.parse().expect("an address"), bits, denied };
    // About a tenth of the clients.
    let denied = [
        prefix("192.0.0.32", 28, true),
        prefix("192.0.0.40", 30, false),
        prefix("192.0.1.0", 24, true),
        prefix("2001:db8:c1:20::", 60, true),
        prefix("2001:db8:c1:24::", 64, false),
    ];
    kernel.set_access(&denied).expect("written");
    let program = kernel.program(Hook::XdpSteer).expect("loaded");
    let mut model = Model::new();
    model.access = AccessTables::of(&denied);
    let mut random = Random(seed);
    let mut reasons = std::collections::BTreeMap::<&str, u64>::new();

    for n in 0..packets {
        let frame = mutated(&mut random);
        let ran = sys::test_run(program, &frame, 1).expect("test run");
        let (outcome, bytes) = model.run(&frame);
        let action = match outcome.reason.verdict() {
            Verdict::Drop => 1,
            Verdict::Pass => 2,
            Verdict::Transmit => 3,
        };
        *reasons.entry(outcome.reason.name()).or_default() += 1;
        assert!(
            ran.verdict == action && (action == 1 || ran.packet == bytes),
            "seed {seed}, packet {n}: the program said {}, the host {outcome:?}\nin      {frame:02x?}\nprogram {:02x?}\nhost    {bytes:02x?}",
            ran.verdict,
            ran.packet
        );
    }

    // The counters agree too, reason by reason.
    let counters = kernel.counters();
    for (&name, &expected) in &reasons {
        let counted: u64 = counters.reasons.iter().filter(|c| c.reason.name() == name).map(|c| c.packets).sum();
        assert_eq!(counted, expected, "{name}");
    }
    println!("{packets} packets, seed {seed}: {reasons:?}");
    assert!(reasons.contains_key("access_denied"), "{reasons:?}");
    assert!(reasons.len() >= 25, "the mutations reach most reasons: {reasons:?}");
}

/// A packet that makes sense, then changed in some places, cut or made longer.
fn mutated(random: &mut Random) -> Vec<u8> {
    let mut frame = sensible(random);
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

fn sensible(random: &mut Random) -> Vec<u8> {
    let v4 = random.below(2) == 0;
    let fixture = Fixture::ALL[random.below(Fixture::ALL.len())];
    let port = [80, 8000, 8050, 8099, 81][random.below(5)];
    let from = client(v4, random.below(5000) as u16);
    let to = fixture.at(v4, port);
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
            let hops = random.below(4) as u8;
            if random.below(2) == 0 {
                packet::tunnel(world::address(OTHER), world::address(OWN), hops, &inner)
            } else {
                packet::tunnel(world::address(OVER_V6), world::own_v6(), hops, &inner)
            }
        }
        _ => packet::tcp(from, client(v4, 3), ACK, size),
    };
    if random.below(5) == 0 && frame.len() > 90 {
        let mut parts = packet::fragments(&frame, [8, 16, 64][random.below(3)], random.below(40) as u16);
        frame = parts.swap_remove(random.below(2.min(parts.len())));
        if random.below(3) == 0 {
            let hops = random.below(4) as u8;
            frame = packet::tunnel(world::address(OTHER), world::address(OWN), hops, &frame);
        }
    }
    if random.below(6) == 0 {
        frame = packet::tagged(&frame);
    }
    frame
}
