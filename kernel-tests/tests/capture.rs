//! Packets for who wants to see them: as they were left, with what was decided, and nothing is decided otherwise for it.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use abi::Reason;
use edge_kernel::{CaptureFilter, CapturedPacket, Flow, Hook, Kernel, OpenCapture, Protocol, sys};
use kernel_tests::packet::{self, ACK, SYN};
use kernel_tests::world::{self, Fixture, OTHER, OVER_V6, OWN, client};
use kernel_tests::{model::Model, ready};

fn all() -> CaptureFilter {
    CaptureFilter { rate: 10_000, snap: 2048, ..CaptureFilter::default() }
}

fn open(kernel: &Kernel, filter: &CaptureFilter, room: usize) -> (OpenCapture, Receiver<CapturedPacket>) {
    let (sender, packets) = sync_channel(room);
    let open = kernel.capture(filter, Box::new(move |packet| sender.try_send(packet).is_ok())).expect("a capture");
    (open, packets)
}

fn next(packets: &Receiver<CapturedPacket>) -> CapturedPacket {
    packets.recv_timeout(Duration::from_secs(60)).expect("a packet")
}

/// One of every road.
fn frames() -> Vec<Vec<u8>> {
    let mut frames = vec![packet::ethernet(0x0806, &[0; 28])];
    for v4 in [true, false] {
        let echo = if v4 { 8 } else { 128 };
        let here = packet::tcp(client(v4, 1), Fixture::Here.at(v4, 80), SYN, 0);
        let away = packet::tcp(client(v4, 2), Fixture::Elsewhere.at(v4, 80), ACK, 33);
        frames.extend([
            packet::tunnel(world::address(OTHER), world::address(OWN), 2, &here),
            packet::tunnel(
                world::address(OTHER),
                world::address(OWN),
                1,
                &packet::tcp(client(v4, 1), client(v4, 2), SYN, 0),
            ),
            packet::tunnel_with(world::address(OTHER), world::address(OWN), 1, 77, &here),
            packet::tagged(&away),
            packet::tcp(client(v4, 3), Fixture::ElsewhereV6.at(v4, 8000), SYN, 0),
            packet::udp(client(v4, 4), Fixture::Elsewhere.at(v4, 8099), b"datagram"),
            packet::tcp(client(v4, 5), Fixture::Elsewhere.at(v4, 80), ACK, 1460),
            packet::tcp(client(v4, 6), Fixture::Empty.at(v4, 80), SYN, 0),
            packet::tcp(client(v4, 7), Fixture::HereBefore.at(v4, 80), ACK, 0),
            packet::icmp(client(v4, 8).ip(), Fixture::Here.at(v4, 0).ip(), echo, 0, [0; 4], b"echo"),
            packet::tcp(client(v4, 9), client(v4, 10), SYN, 0),
            here,
            away,
        ]);
        frames.extend(packet::fragments(&packet::udp(client(v4, 11), Fixture::Here.at(v4, 80), &[1; 64]), 16, 9));
    }
    frames
}

fn untagged(frame: &[u8]) -> Vec<u8> {
    if frame[12..14] == [0x81, 0] { [&frame[..12], &frame[16..]].concat() } else { frame.to_vec() }
}

#[test]
fn every_packet_is_shown_as_it_was_left_and_treated_as_if_nobody_looked() {
    if !ready("every_packet_is_shown_as_it_was_left_and_treated_as_if_nobody_looked") {
        return;
    }
    let (unseen, kernel, model) =
        (world::kernel().expect("it loads"), world::kernel().expect("it loads"), Model::new());
    let (watched, packets) = open(&kernel, &all(), 10);
    let mut reasons = std::collections::BTreeSet::new();
    for frame in frames() {
        let run = |kernel: &Kernel| {
            sys::test_run(kernel.program(Hook::XdpSteer).expect("loaded"), &frame, 1).expect("test run")
        };
        let (ran, seen) = (run(&unseen), run(&kernel));
        assert_eq!(ran.verdict, seen.verdict, "{frame:02x?}");
        assert_eq!(ran.packet, seen.packet, "{frame:02x?}");
        let (outcome, _) = model.run(&frame);
        let shown = next(&packets);
        assert_eq!((shown.reason, shown.vip, shown.machine), (outcome.reason, outcome.vip, outcome.machine));
        assert_eq!((shown.arrived as usize, shown.length as usize), (frame.len(), seen.packet.len()));
        assert_eq!(shown.bytes, seen.packet, "{}", shown.reason.name());
        reasons.insert(shown.reason.name());
        let tunnel = (outcome.machine != 0).then(|| packet::read_tunnel(&untagged(&seen.packet)));
        assert_eq!(shown.hop(), tunnel.map_or(outcome.hops, |tunnel| tunnel.hops));
        assert!(shown.at.elapsed().is_ok_and(|ago| ago < Duration::from_secs(120)), "{:?}", shown.at);
        if outcome.vip != 0
            && let Some(flow) = shown.flow()
            && !matches!(outcome.reason, Reason::FragmentHeld | Reason::FragmentEarly)
        {
            let trace = kernel.trace(&Flow { protocol: flow.protocol, opens: true, ..flow }).expect("a trace");
            assert_eq!(kernel.slot_of_captured(&shown), trace.slot, "{}", shown.reason.name());
        }
    }
    assert!(reasons.len() >= 12, "{reasons:?}");
    assert_eq!((watched.missed(), kernel.capture_counts().open), (0, 1));
    // What a tunnel says and what came out of one.
    let here = packet::tcp(client(true, 1), Fixture::Here.at(true, 80), SYN, 0);
    let run = |frame: &[u8]| {
        drop(sys::test_run(kernel.program(Hook::XdpSteer).expect("loaded"), frame, 1).expect("test run"))
    };
    run(&packet::tunnel(world::address(OTHER), world::address(OWN), 3, &here));
    let shown = next(&packets);
    assert_eq!((shown.reason, shown.hops, &shown.bytes[14..]), (Reason::Decapsulated, 3, &here[14..]));

    drop(watched);
    run(&here);
    assert_eq!(kernel.capture_counts().open, 0);
    assert!(packets.recv().is_err(), "it is over, and the sink is gone");
}

#[test]
fn filters_ask_for_what_they_say() {
    if !ready("filters_ask_for_what_they_say") {
        return;
    }
    let kernel = world::kernel().expect("it loads");
    let model = Model::new();
    let frames = frames();
    let fates: Vec<_> = frames.iter().map(|frame| model.run(frame).0).collect();
    let of = |passes: &dyn Fn(usize) -> bool| (0..frames.len()).filter(|n| passes(*n)).count();
    let source = |v4: bool, n: u16, bits: u8| Some((client(v4, n).ip(), bits));
    let is_echo = |n: usize| fates[n].reason == Reason::EchoAnswered;
    for (filter, wanted) in [
        (CaptureFilter { reasons: vec![Reason::Forwarded], ..all() }, of(&|n| fates[n].reason == Reason::Forwarded)),
        (
            CaptureFilter { reasons: vec![Reason::GueCookieWrong, Reason::SlotEmpty], ..all() },
            of(&|n| matches!(fates[n].reason, Reason::GueCookieWrong | Reason::SlotEmpty)),
        ),
        (CaptureFilter { vip: Some(Fixture::Here as u16), ..all() }, of(&|n| fates[n].vip == Fixture::Here as u16)),
        (CaptureFilter { machine: Some(OVER_V6), ..all() }, of(&|n| fates[n].machine == OVER_V6)),
        (CaptureFilter { machine: Some(0), ..all() }, of(&|n| fates[n].machine == 0)),
        // What is answered is of who asked.
        (CaptureFilter { source: source(true, 8, 32), ..all() }, 1),
        (CaptureFilter { source: source(false, 8, 128), reasons: vec![Reason::EchoAnswered], ..all() }, 1),
        (CaptureFilter { reasons: vec![Reason::EchoAnswered], ..all() }, of(&is_echo)),
        (CaptureFilter { source: source(true, 3, 32), destination_port: Some(8000), ..all() }, 1),
        (CaptureFilter { source: source(true, 3, 32), destination_port: Some(80), ..all() }, 0),
        (CaptureFilter { source_port: Some(client(false, 4).port()), protocol: Some(Protocol::Udp), ..all() }, 2),
        (CaptureFilter { destination: Some((Fixture::Empty.v6(), 128)), protocol: Some(Protocol::Tcp), ..all() }, 1),
    ] {
        let (asked, packets) = open(&kernel, &filter, 1000);
        // Both come through the same rings, in order.
        let (everything, others) = open(&kernel, &all(), 1000);
        for frame in &frames {
            sys::test_run(kernel.program(Hook::XdpSteer).expect("loaded"), frame, 1).expect("test run");
        }
        frames.iter().for_each(|_| drop(next(&others)));
        assert_eq!((asked.missed(), everything.missed()), (0, 0));
        drop((asked, everything));
        assert_eq!(packets.iter().count(), wanted, "{filter:?}");
    }
}

#[test]
fn what_is_told_of_a_packet_does_not_depend_on_how_much_of_it_is_kept() {
    if !ready("what_is_told_of_a_packet_does_not_depend_on_how_much_of_it_is_kept") {
        return;
    }
    let kernel = world::kernel().expect("it loads");
    let (_whole, packets) = open(&kernel, &all(), 100);
    let (_cut, heads) = open(&kernel, &CaptureFilter { snap: 64, ..all() }, 100);
    for v4 in [true, false] {
        // Over IPv4 and over IPv6: the packet inside begins behind the 64th byte, or ends there.
        for fixture in [Fixture::Elsewhere, Fixture::ElsewhereV6] {
            let frame = packet::tcp(client(v4, 1), fixture.at(v4, 80), ACK, 100);
            sys::test_run(kernel.program(Hook::XdpSteer).expect("loaded"), &frame, 1).expect("test run");
            let (whole, head) = (next(&packets), next(&heads));
            assert_eq!((whole.reason, head.bytes.len()), (Reason::Forwarded, 64));
            let flow = head.flow().expect("a flow");
            assert_eq!((flow.source, flow.destination), (client(v4, 1), fixture.at(v4, 80)));
            assert_eq!((head.hop(), head.addresses()), (1, whole.addresses()));
            assert!(kernel.slot_of_captured(&head).is_some());
        }
    }
}

#[test]
fn a_flow_is_shown_whatever_lies_around_its_ports() {
    if !ready("a_flow_is_shown_whatever_lies_around_its_ports") {
        return;
    }
    let kernel = world::kernel().expect("it loads");
    for v4 in [true, false] {
        let (from, to) = (client(v4, 1), Fixture::Elsewhere.at(v4, 80));
        let filter = CaptureFilter {
            protocol: Some(Protocol::Tcp),
            source: Some((from.ip(), if v4 { 32 } else { 128 })),
            source_port: Some(from.port()),
            destination: Some((to.ip(), if v4 { 32 } else { 128 })),
            destination_port: Some(80),
            ..all()
        };
        let (_open, packets) = open(&kernel, &filter, 100);
        let run = |frame: &[u8], reason: Reason| {
            sys::test_run(kernel.program(Hook::XdpSteer).expect("loaded"), frame, 1).expect("test run");
            let shown = next(&packets);
            let flow = shown.flow().expect("a flow");
            assert_eq!((shown.reason, flow.source, flow.destination), (reason, from, to));
        };
        run(&packet::tcp(from, to, ACK, 0), Reason::Forwarded);
        // What does not fit is answered with its first bytes.
        run(&packet::tcp(from, to, ACK, 1440), Reason::TooBigAnswered);
        if !v4 {
            let segment = packet::tcp_header(from.port(), 80, ACK);
            let options = [&[60, 1, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[6, 0, 1, 4, 0, 0, 0, 0], &segment];
            run(&packet::ip(from.ip(), to.ip(), 0, 0, &options.concat()), Reason::Forwarded);
        }
    }
}

#[test]
fn captures_are_bounded_in_number_rate_and_bytes_and_what_is_left_out_is_counted() {
    if !ready("captures_are_bounded_in_number_rate_and_bytes_and_what_is_left_out_is_counted") {
        return;
    }
    let kernel = world::kernel().expect("it loads");
    let frame = packet::tcp(client(true, 1), Fixture::Elsewhere.at(true, 80), ACK, 1000);
    let run = |times: u32| {
        (0..times).for_each(|_| {
            drop(sys::test_run(kernel.program(Hook::XdpSteer).expect("loaded"), &frame, 1).expect("test run"))
        })
    };
    // One that is fast, one that is slow, one whose reader has no room, one for something else: none in the way of another.
    let (fast, packets) = open(&kernel, &CaptureFilter { snap: 64, ..all() }, 1000);
    let (slow, few) = open(&kernel, &CaptureFilter { rate: 2, ..all() }, 1000);
    let (full, one) = open(&kernel, &all(), 1);
    let (other, none) = open(&kernel, &CaptureFilter { reasons: vec![Reason::NotIp], ..all() }, 1);
    let fifth = kernel.capture(&all(), Box::new(|_| true)).err().expect("no fifth").to_string();
    assert!(fifth.contains("4 captures are open"), "{fifth}");
    let started = Instant::now();
    run(100);
    let shown: Vec<_> = (0..100).map(|_| next(&packets)).collect();
    assert!(shown.iter().all(|packet| packet.bytes.len() == 64 && packet.length > 1000), "the first bytes");
    let most = 2 + started.elapsed().as_secs() * 2 + 2;
    let slow_shown = (100 - slow.missed()) as usize;
    assert!(slow_shown >= 2 && slow_shown as u64 <= most, "{slow_shown} of at most {most}");
    assert_eq!((fast.missed(), full.missed(), other.missed()), (0, 99, 0));
    let counts = kernel.capture_counts();
    assert_eq!((counts.open, counts.no_room, counts.too_fast), (4, 99, slow.missed()));
    drop((fast, slow, full));
    assert_eq!(few.iter().map(|packet| packet.bytes.len()).filter(|bytes| *bytes > 1000).count(), slow_shown);
    assert_eq!(one.iter().count(), 1);
    let after = kernel.capture_counts();
    assert_eq!((after.open, after.shown, after.no_room), (1, 100 + slow_shown as u64 + 1, 99), "nothing is forgotten");
    let (again, packets) = open(&kernel, &all(), 10);
    run(1);
    next(&packets);
    assert_eq!(again.missed(), 0, "it begins anew in the place of another");
    drop(kernel);
    assert!(packets.recv().is_err() && none.recv().is_err(), "without a kernel plane they end");
    drop((again, other));
}

#[test]
fn a_capture_that_nobody_speaks_for_any_more_ends_by_itself() {
    if !ready("a_capture_that_nobody_speaks_for_any_more_ends_by_itself") {
        return;
    }
    let kernel = world::kernel().expect("it loads");
    let frame = packet::tcp(client(true, 1), Fixture::Elsewhere.at(true, 80), ACK, 0);
    // As a daemon that was killed leaves it.
    kernel.leave_a_capture_behind();
    assert_ne!(kernel.captures_word(), 0);
    let ran = sys::test_run(kernel.program(Hook::XdpSteer).expect("loaded"), &frame, 1).expect("test run");
    assert_eq!((ran.verdict, kernel.captures_word()), (3, 0));
}
