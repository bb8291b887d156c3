//! Packet fixtures: every reason of `xdp_steer`, in the kernel through BPF_PROG_TEST_RUN and on the host, byte for byte.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};

use abi::config::lease;
use abi::limit::Rate;
use abi::limits::{HOPS_MAX, HOPS_MAX_BEFORE};
use abi::{Reason, Switch, Verdict, gue};
use edge_kernel::{AccessPrefix, AccessTables, Flow, Hook, Kernel, Protocol, SourceLimit, VipLimits, sys};
use kernel_tests::model::Model;
use kernel_tests::packet::{self, ACK, FROM, SYN, TO};
use kernel_tests::ready;
use kernel_tests::witness::{self, Witness};
use kernel_tests::world::{
    self, BACKEND, BACKEND_FROM, BACKEND_FROM_V6, BACKEND_V6, Fixture, GONE, NEAR, NEAR_MAC, OTHER, OVER_V6, OWN,
    THIRD, client,
};

/// Both implementations over the same world, and the second opinion where it can tell: it does not foretell limits.
struct Both {
    kernel: Kernel,
    model: Model,
    witness: RefCell<Option<Witness>>,
    fixtures: Cell<u32>,
}

impl Drop for Both {
    fn drop(&mut self) {
        println!("{} fixtures", self.fixtures.get());
    }
}

impl Both {
    fn new() -> Both {
        let witness = Witness::new(world::machines(), world::vips(), [world::address(OWN), world::own_v6()]);
        Both {
            kernel: world::kernel().expect("the world loads"),
            model: Model::new(),
            witness: RefCell::new(Some(witness)),
            fixtures: Cell::new(0),
        }
    }

    fn deny(&mut self, prefixes: &[AccessPrefix]) {
        self.model.access = AccessTables::of(prefixes);
        if let Some(witness) = self.witness.get_mut() {
            witness.prefixes = prefixes.to_vec();
        }
    }

    /// These are banned from now on, for long enough.
    fn ban(&mut self, sources: &[&str]) -> usize {
        let sources: Vec<IpAddr> = sources.iter().map(|text| text.parse().expect("an address")).collect();
        self.model.bans = sources.iter().map(|source| abi::access::banned(&abi::Address::from(*source))).collect();
        if let Some(witness) = self.witness.get_mut() {
            witness.bans = sources.clone();
        }
        let until = std::time::Instant::now() + std::time::Duration::from_secs(3_600);
        self.kernel.set_bans(sources.into_iter().map(|source| (source, until))).expect("written")
    }

    /// Runs the frame through both, which must agree, and says why and what came out.
    #[track_caller]
    fn run(&self, frame: &[u8]) -> (Reason, Vec<u8>) {
        let before = self.kernel.counters();
        let ran = sys::test_run(self.kernel.program(Hook::XdpSteer).expect("loaded"), frame, 1).expect("test run");
        let after = self.kernel.counters();
        let counted: Vec<_> = after.reasons.iter().filter(|c| !before.reasons.contains(c)).collect();
        assert_eq!(counted.len(), 1, "a packet is counted once: {counted:?}");
        let old = before.reasons.iter().find(|c| (c.vip, c.reason) == (counted[0].vip, counted[0].reason));
        assert_eq!(counted[0].packets, old.map_or(0, |c| c.packets) + 1);
        assert_eq!(counted[0].bytes, old.map_or(0, |c| c.bytes) + frame.len() as u64);

        let (outcome, bytes) = self.model.run(frame);
        assert_eq!((counted[0].reason, counted[0].vip), (outcome.reason, outcome.vip));
        let steered: u64 = after.steered.iter().map(|c| c.packets).sum::<u64>()
            - before.steered.iter().map(|c| c.packets).sum::<u64>();
        assert_eq!(steered, u64::from(outcome.machine != 0));
        let action = match outcome.reason.verdict() {
            Verdict::Drop => 1,
            Verdict::Pass => 2,
            Verdict::Transmit => 3,
        };
        assert_eq!(ran.verdict, action, "{:?}", outcome.reason);
        if action != 1 {
            assert_eq!(ran.packet, bytes, "{:?}: bytes differ", outcome.reason);
        }
        if let Some(witness) = self.witness.borrow_mut().as_mut() {
            self.fixtures.set(self.fixtures.get() + 1);
            let said = witness.judge(frame);
            assert_eq!((said.reason, said.machine), (outcome.reason, outcome.machine), "the second opinion");
            assert!(
                action == 1 || witness::same(&said.frame, &bytes, said.reason),
                "{:?}: the second opinion has other bytes\nhost   {bytes:02x?}\nsecond {:02x?}",
                said.reason,
                said.frame
            );
        }
        (outcome.reason, bytes)
    }

    #[track_caller]
    fn untouched(&self, frame: &[u8], reason: Reason) {
        let (found, bytes) = self.run(frame);
        assert_eq!(found, reason);
        assert_eq!(bytes, frame, "{reason:?} leaves the packet alone");
    }

    #[track_caller]
    fn dropped(&self, frame: &[u8], reason: Reason) {
        assert_eq!(self.run(frame).0, reason);
    }

    /// Sent to `machine` with `hops`, the packet inside as it came.
    #[track_caller]
    fn tunnelled(&self, frame: &[u8], reason: Reason, machine: u16, hops: u8) -> packet::Tunnel {
        let (found, bytes) = self.run(frame);
        assert_eq!(found, reason);
        let tunnel = packet::read_tunnel(&bytes);
        let source = if machine == OVER_V6 { world::own_v6() } else { world::address(OWN) };
        assert_eq!((tunnel.source, tunnel.destination, tunnel.hops), (source, world::address(machine), hops));
        let to = if machine == NEAR { NEAR_MAC } else { FROM };
        assert_eq!((&bytes[..6], &bytes[6..12]), (&to[..], &TO[..]), "link addresses");
        tunnel
    }
}

fn inner(frame: &[u8]) -> &[u8] {
    &frame[14..]
}

#[test]
fn not_for_a_vip_passes_untouched() {
    if !ready("not_for_a_vip_passes_untouched") {
        return;
    }
    let both = Both::new();
    both.untouched(&packet::ethernet(0x0806, &[0; 28]), Reason::NotIp);
    // Two tags are one more than is looked through.
    let tcp = packet::tcp(client(true, 1), Fixture::Elsewhere.at(true, 80), SYN, 0);
    both.untouched(&packet::tagged(&packet::tagged(&tcp)), Reason::NotIp);
    for v4 in [true, false] {
        both.untouched(&packet::tcp(client(v4, 1), client(v4, 2), SYN, 10), Reason::NotVip);
        both.untouched(&packet::tcp(client(v4, 1), Fixture::Elsewhere.at(v4, 81), SYN, 0), Reason::PortNotServed);
        both.untouched(&packet::tcp(client(v4, 1), Fixture::Elsewhere.at(v4, 8100), SYN, 0), Reason::PortNotServed);
        let sctp = packet::ip(client(v4, 1).ip(), Fixture::Elsewhere.at(v4, 0).ip(), 132, 0, &[0; 16]);
        both.untouched(&sctp, Reason::ProtocolNotServed);
    }
}

#[test]
fn an_address_goes_by_the_longest_prefix_that_has_it() {
    if !ready("an_address_goes_by_the_longest_prefix_that_has_it") {
        return;
    }
    let mut both = Both::new();
    let cases = [
        ("198.51.101.0", Some(Fixture::Wide)),
        ("198.51.101.15", Some(Fixture::Wide)),
        ("198.51.101.16", Some(Fixture::Narrow)),
        ("198.51.101.31", Some(Fixture::Narrow)),
        ("198.51.101.32", Some(Fixture::Wide)),
        ("198.51.101.127", Some(Fixture::Wide)),
        ("198.51.101.128", None),
        ("198.51.100.255", None),
        ("198.51.101.21", Some(Fixture::Here)),
        ("2001:db8:52::", Some(Fixture::Wide)),
        ("2001:db8:52::ffff:ffff:ffff:ffff", Some(Fixture::Wide)),
        ("2001:db8:52:0:1::", Some(Fixture::Narrow)),
        ("2001:db8:52:0:1:ffff:ffff:ffff", Some(Fixture::Narrow)),
        ("2001:db8:52:0:2::", Some(Fixture::Wide)),
        ("2001:db8:52:1::", None),
        ("2001:db8:52:0:1::7", Some(Fixture::Here)),
    ];
    let frame = |address: &str, flags| {
        let address: IpAddr = address.parse().expect("an address");
        packet::tcp(client(address.is_ipv4(), 1), (address, 80).into(), flags, 9)
    };
    for (address, fixture) in cases {
        for flags in [SYN, ACK] {
            let (reason, _) = both.run(&frame(address, flags));
            let vip = both.model.run(&frame(address, flags)).0.vip;
            assert_eq!(vip, fixture.map_or(0, |fixture| fixture as u16), "{address}: {reason:?}");
            assert_eq!(reason == Reason::NotVip, fixture.is_none(), "{address}: {reason:?}");
        }
        // The parts of a datagram as well, and what an error is about.
        if fixture == Some(Fixture::Wide) {
            let whole = frame(address, ACK);
            let parts = packet::fragments(
                &packet::tcp(client(whole[12] == 8, 1), (address.parse::<IpAddr>().expect("one"), 80).into(), ACK, 99),
                64,
                5,
            );
            assert_eq!(both.run(&parts[0]).0, Reason::FragmentForwarded, "{address}");
        }
    }
    // From one generation to the next and back: none, some, others.
    let kept = |keep: &[Fixture]| -> Vec<edge_kernel::Vip> {
        world::vips().into_iter().filter(|vip| keep.iter().any(|fixture| *fixture as u16 == vip.id)).collect()
    };
    for keep in
        [&[Fixture::Elsewhere][..], &[Fixture::Narrow], &[Fixture::Wide], &[], &[Fixture::Wide, Fixture::Narrow]]
    {
        both.kernel.apply(&world::machines(), &kept(keep)).expect("applied");
        for (address, fixture) in cases {
            // What a longer one had is the wider one's once that is gone.
            let around = |of: Fixture| match fixture {
                Some(Fixture::Here | Fixture::Narrow) => matches!(of, Fixture::Narrow | Fixture::Wide),
                Some(fixture) => of == fixture,
                None => false,
            };
            let longest = keep.iter().copied().filter(|of| around(*of)).max_by_key(|of| *of as u16);
            let before = both.kernel.counters();
            let program = both.kernel.program(Hook::XdpSteer).expect("loaded");
            sys::test_run(program, &frame(address, SYN), 1).expect("test run");
            let after = both.kernel.counters();
            let counted = after.reasons.iter().find(|c| !before.reasons.contains(c)).expect("counted");
            assert_eq!(counted.vip, longest.map_or(0, |of| of as u16), "{address} with {keep:?}");
        }
    }
}

#[test]
fn another_machine_gets_it_through_a_tunnel() {
    if !ready("another_machine_gets_it_through_a_tunnel") {
        return;
    }
    let both = Both::new();
    for v4 in [true, false] {
        for (fixture, machine) in
            [(Fixture::Elsewhere, OTHER), (Fixture::ElsewhereV6, OVER_V6), (Fixture::ElsewhereNear, NEAR)]
        {
            for port in [80, 8000, 8099] {
                for flags in [SYN, ACK] {
                    let frame = packet::tcp(client(v4, 1), fixture.at(v4, port), flags, 33);
                    let tunnel = both.tunnelled(&frame, Reason::Forwarded, machine, 1);
                    assert_eq!(tunnel.inner, inner(&frame));
                }
            }
            let frame = packet::udp(client(v4, 1), fixture.at(v4, 80), b"datagram");
            assert_eq!(both.tunnelled(&frame, Reason::Forwarded, machine, 1).inner, inner(&frame));
        }
        // DSCP and ECN go along.
        let segment = packet::tcp_header(40_000, 80, ACK);
        let frame = packet::ip(client(v4, 1).ip(), Fixture::Elsewhere.at(v4, 0).ip(), 6, 0x8d, &segment);
        assert_eq!(both.tunnelled(&frame, Reason::Forwarded, OTHER, 1).class, 0x8d);
    }
}

#[test]
fn denied_sources_are_dropped_before_anything_else_of_their_packets_is_read() {
    if !ready("denied_sources_are_dropped_before_anything_else_of_their_packets_is_read") {
        return;
    }
    let mut both = Both::new();
    let prefix = |text: &str, bits, denied| AccessPrefix { address: text.parse().expect("an address"), bits, denied };
    let set = |both: &mut Both, prefixes: &[AccessPrefix]| {
        both.deny(prefixes);
        both.kernel.set_access(prefixes).expect("written")
    };
    let mut all = vec![
        prefix("192.0.2.0", 24, true),
        prefix("192.0.3.0", 25, true),
        prefix("192.0.3.7", 32, false),
        prefix("192.1.0.0", 16, true),
        prefix("2001:db8:bad::", 48, true),
        prefix("2001:db8:bad:1::", 64, false),
    ];
    let written = set(&mut both, &all);
    assert!(written > 0 && set(&mut both, &all) == 0, "what is there is not written again");
    let check = |both: &Both, source: &str, denied: bool| {
        let source = std::net::SocketAddr::new(source.parse().expect("an address"), 40_000);
        let v4 = source.is_ipv4();
        for fixture in [Fixture::Elsewhere, Fixture::Here] {
            let vip = fixture.at(v4, 80);
            let syn = packet::tcp(source, vip, SYN, 0);
            let echo = if v4 { 8 } else { 128 };
            let others = [
                packet::udp(source, vip, b"x"),
                packet::icmp(source.ip(), vip.ip(), echo, 0, [0; 4], b""),
                packet::fragments(&packet::udp(source, vip, &[1; 64]), 16, 9)[1].clone(),
                // What follows is no header of anything.
                packet::ip(source.ip(), vip.ip(), 6, 0, &[0; 3]),
                packet::tagged(&syn),
                syn.clone(),
            ];
            for frame in others {
                let found = both.run(&frame).0;
                assert_eq!(found == Reason::AccessDenied, denied, "{source} to {vip}: {}", found.name());
            }
            // Where it came into the cluster it was let in.
            let (from, own) = (world::address(OTHER), world::address(OWN));
            assert_eq!(both.run(&packet::tunnel(from, own, 1, &syn)).0, Reason::Decapsulated);
        }
        // Only what is for virtual IPs is dropped.
        both.untouched(&packet::tcp(source, client(v4, 900), SYN, 0), Reason::NotVip);
    };
    for (source, denied) in [
        ("192.0.2.0", true),
        ("192.0.2.255", true),
        ("192.0.1.255", false),
        ("192.0.3.6", true),
        ("192.0.3.7", false),
        ("192.0.3.128", false),
        ("192.1.255.255", true),
        ("192.2.0.0", false),
        ("2001:db8:bad::1", true),
        ("2001:db8:bad:1::1", false),
        ("2001:db8:bae::1", false),
    ] {
        check(&both, source, denied);
    }
    // A more special rule, another one, and none at all.
    all.push(prefix("192.0.2.8", 29, false));
    set(&mut both, &all);
    check(&both, "192.0.2.9", false);
    check(&both, "192.0.2.7", true);
    set(&mut both, &[prefix("0.0.0.0", 0, true), prefix("192.0.2.9", 32, false)]);
    check(&both, "192.0.2.9", false);
    check(&both, "8.8.8.8", true);
    check(&both, "2001:db8:bad::1", false);
    set(&mut both, &[]);
    check(&both, "192.0.2.0", false);
    check(&both, "8.8.8.8", false);
}

#[test]
fn sources_that_are_banned_are_dropped_until_their_bans_end() {
    if !ready("sources_that_are_banned_are_dropped_until_their_bans_end") {
        return;
    }
    let both = &mut Both::new();
    let check = |both: &Both, source: &str, banned: bool| {
        let source = std::net::SocketAddr::new(source.parse().expect("an address"), 40_000);
        let v4 = source.is_ipv4();
        for fixture in [Fixture::Elsewhere, Fixture::Here] {
            let vip = fixture.at(v4, 80);
            let syn = packet::tcp(source, vip, SYN, 0);
            let frames = [
                packet::udp(source, vip, b"x"),
                packet::icmp(source.ip(), vip.ip(), if v4 { 8 } else { 128 }, 0, [0; 4], b""),
                packet::fragments(&packet::udp(source, vip, &[1; 64]), 16, 9)[1].clone(),
                packet::tagged(&syn),
                // The machine before may not have heard of it.
                packet::tunnel(world::address(OTHER), world::address(OWN), 1, &syn),
                syn,
            ];
            for frame in frames {
                let found = both.run(&frame).0;
                assert_eq!(found == Reason::Banned, banned, "{source} to {vip}: {}", found.name());
            }
        }
        both.untouched(&packet::tcp(source, client(v4, 900), SYN, 0), Reason::NotVip);
    };
    check(both, "192.0.2.9", false);
    assert_eq!(both.ban(&["192.0.2.9", "2001:db8:1:2::7"]), 2);
    let all = [("192.0.2.9", true), ("192.0.2.8", false), ("2001:db8:1:2:ffff::1", true), ("2001:db8:1:3::7", false)];
    all.iter().for_each(|(source, banned)| check(both, source, *banned));
    // Lists and bans each say their own, and the lists first.
    let list = |text: &str| AccessPrefix { address: text.parse().expect("an address"), bits: 24, denied: true };
    both.deny(&[list("192.0.3.0")]);
    both.kernel.set_access(&[list("192.0.3.0")]).expect("written");
    all.iter().for_each(|(source, banned)| check(both, source, *banned));
    let denied = packet::tcp("192.0.3.1:40000".parse().expect("an address"), Fixture::Here.at(true, 80), SYN, 0);
    assert_eq!(both.run(&denied).0, Reason::AccessDenied);
    both.deny(&[]);
    both.kernel.set_access(&[]).expect("written");
    check(both, "192.0.2.9", true);
    // Those that are there already are not written again, but for the time, which is another.
    assert_eq!(both.ban(&["2001:db8:1:2::9"]), 2, "one is lifted, one is prolonged");
    check(both, "192.0.2.9", false);
    check(both, "2001:db8:1:2::7", true);

    // The next process reads whom this one has banned, and writes all anew where another may have written in between.
    let left = both.kernel.bans().expect("read");
    let wanted: IpAddr = "2001:db8:1:2::".parse().expect("an address");
    assert_eq!(left.iter().map(|(source, _)| *source).collect::<Vec<_>>(), [wanted]);
    let lasts = left[0].1.saturating_duration_since(std::time::Instant::now()).as_secs();
    assert!((3_000..=3_600).contains(&lasts), "{lasts}");
    assert_eq!(both.kernel.set_bans(left.clone()).expect("written"), 1, "by another clock");
    assert!(both.kernel.set_bans(left.clone()).expect("written") == 0 && both.kernel.knows_bans());
    both.kernel.doubt_bans();
    assert!(!both.kernel.knows_bans());
    assert_eq!(both.kernel.set_bans(left).expect("written"), 1);
    check(both, "2001:db8:1:2::7", true);

    // One that is over does nothing, though nobody has taken it out.
    both.ban(&[]);
    check(both, "2001:db8:1:2::7", false);
    let over = ("192.0.2.9".parse().expect("an address"), std::time::Instant::now());
    assert_eq!(both.kernel.set_bans([over]).expect("written"), 1);
    check(both, "192.0.2.9", false);
    // What a process before has left is found and taken out.
    assert_eq!(both.kernel.set_bans([over]).expect("written"), 0);
    assert_eq!(both.kernel.set_bans([]).expect("written"), 1);
    let crowd = |many: u32| {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        (0..many).map(move |n| (IpAddr::from((0x0b00_0000 + n).to_be_bytes()), until))
    };
    assert_eq!(both.kernel.set_bans(crowd(65_536)).expect("there is room"), 65_536);
    assert!(both.kernel.set_bans(crowd(65_537)).is_err(), "the map has a bound");
    assert!(both.kernel.set_bans([]).expect("written") >= 65_536);
    check(both, "11.0.0.9", false);
}

#[test]
fn a_million_prefixes_are_written_and_taken_away() {
    if !ready("a_million_prefixes_are_written_and_taken_away") {
        return;
    }
    let both = &mut Both::new();
    let address = |n: u32| IpAddr::from((0x0b00_0000 + n * 7).to_be_bytes());
    let million: Vec<AccessPrefix> =
        (0..1_000_000).map(|n| AccessPrefix { address: address(n), bits: 32, denied: true }).collect();
    let began = std::time::Instant::now();
    both.kernel.set_access(&million).expect("there is room");
    println!("a million prefixes in {:?}", began.elapsed());
    let denied = |kernel: &Kernel, n: u32| {
        let source = std::net::SocketAddr::new(address(n), 40_000);
        let syn = packet::tcp(source, Fixture::Here.at(true, 80), SYN, 0);
        sys::test_run(kernel.program(Hook::XdpSteer).expect("loaded"), &syn, 1).expect("test run").verdict == 1
    };
    assert!([0, 1, 500_000, 999_999].iter().all(|n| denied(&both.kernel, *n)));
    assert!(!denied(&both.kernel, 1_000_000));
    // One is gone: little is written.
    let written = both.kernel.set_access(&million[1..]).expect("written");
    assert!((1..10).contains(&written), "{written}");
    assert!(!denied(&both.kernel, 0) && denied(&both.kernel, 1));
    let began = std::time::Instant::now();
    both.kernel.set_access(&[]).expect("written");
    println!("taken away in {:?}", began.elapsed());
    assert!(![0, 1, 500_000, 999_999].iter().any(|n| denied(&both.kernel, *n)));
}

#[test]
fn connections_beyond_the_limits_are_dropped_when_they_begin() {
    if !ready("connections_beyond_the_limits_are_dropped_when_they_begin") {
        return;
    }
    let hour = |burst: u32| Rate { each_ns: 3_600_000_000_000, burst_ns: 3_600_000_000_000 * u64::from(burst) };
    let mut vips = world::vips();
    let source = Some(SourceLimit { rate: hour(5), v4: 24, v6: 56 });
    for vip in &mut vips {
        match vip.id {
            id if id == Fixture::Here as u16 => vip.limits = VipLimits { all: Some(hour(8)), source, cookies: None },
            id if id == Fixture::Elsewhere as u16 => vip.limits = VipLimits { source, ..VipLimits::default() },
            _ => {}
        }
    }
    let both = Both {
        kernel: world::kernel_with(&vips).expect("the world loads"),
        model: Model::of(&world::machines(), &vips),
        witness: RefCell::new(None),
        fixtures: Cell::new(0),
    };
    let syn = |n: u16, fixture: Fixture, v4: bool| packet::tcp(client(v4, n), fixture.at(v4, 80), SYN, 0);
    // Two sources of IPv4: 192.0.0.x and 192.0.1.x.
    for n in 0..5 {
        both.untouched(&syn(n, Fixture::Here, true), Reason::Local);
    }
    both.dropped(&syn(6, Fixture::Here, true), Reason::SourceLimited);
    for n in 0..3 {
        both.untouched(&syn(256 + n, Fixture::Here, true), Reason::Local);
    }
    both.dropped(&syn(256 + 4, Fixture::Here, true), Reason::VipLimited);
    both.dropped(&syn(512, Fixture::Here, true), Reason::VipLimited);
    both.dropped(&syn(1, Fixture::Here, false), Reason::VipLimited);
    // What belongs to a connection, and datagrams, go on.
    both.untouched(&packet::tcp(client(true, 6), Fixture::Here.at(true, 80), ACK, 0), Reason::Local);
    both.untouched(&packet::tcp(client(true, 6), Fixture::Here.at(true, 80), SYN | ACK, 0), Reason::Local);
    both.untouched(&packet::udp(client(true, 6), Fixture::Here.at(true, 80), b"x"), Reason::Local);
    // What came through a tunnel was counted where it came in.
    let (from, own) = (world::address(OTHER), world::address(OWN));
    let frame = packet::tunnel(from, own, 1, &syn(6, Fixture::Here, true));
    assert_eq!(both.run(&frame).0, Reason::Decapsulated);
    // Each virtual IP has its own, of both families, and those that go elsewhere are counted here.
    for v4 in [true, false] {
        for _ in 0..5 {
            both.tunnelled(&syn(6, Fixture::Elsewhere, v4), Reason::Forwarded, OTHER, 1);
        }
        both.dropped(&syn(6, Fixture::Elsewhere, v4), Reason::SourceLimited);
    }
    both.untouched(&syn(6, Fixture::HereBefore, true), Reason::Local);
    // In parts it is no way around.
    let whole = packet::tcp(client(true, 6), Fixture::Here.at(true, 80), SYN, 40);
    both.dropped(&packet::fragments(&whole, 32, 78)[0], Reason::SourceLimited);
}

#[test]
fn a_trace_says_what_the_program_does_and_counts_nothing() {
    if !ready("a_trace_says_what_the_program_does_and_counts_nothing") {
        return;
    }
    let mut both = Both::new();
    let denied = AccessPrefix { address: client(true, 3).ip(), bits: 32, denied: true };
    both.kernel.set_access(&[denied]).expect("written");
    both.deny(&[denied]);
    let mut reasons = std::collections::BTreeSet::new();
    for (n, fixture) in (0u16..).zip(Fixture::ALL.into_iter().cycle().take(4 * Fixture::ALL.len())) {
        for v4 in [true, false] {
            for (port, protocol, opens) in [
                (80, Protocol::Tcp, true),
                (80, Protocol::Tcp, false),
                (8000, Protocol::Udp, false),
                (9, Protocol::Udp, false),
            ] {
                let flow = Flow { protocol, source: client(v4, n), destination: fixture.at(v4, port), opens };
                let before = both.kernel.counters();
                let trace = both.kernel.trace(&flow).expect("a trace");
                assert_eq!(both.kernel.counters(), before);
                let frame = match protocol {
                    Protocol::Tcp => packet::tcp(flow.source, flow.destination, if opens { SYN } else { ACK }, 0),
                    Protocol::Udp => packet::udp(flow.source, flow.destination, b""),
                };
                let (reason, bytes) = both.run(&frame);
                assert_eq!(trace.reason, reason, "{:?}", flow.destination);
                reasons.insert(reason.name());
                let bare = |bytes| (packet::read_bare(bytes).destination, 1);
                let ours = |bytes| {
                    let tunnel = packet::read_tunnel(bytes);
                    (tunnel.destination, tunnel.hops)
                };
                let sent = (reason.verdict() == Verdict::Transmit)
                    .then(|| if trace.machine >= BACKEND { bare(&bytes) } else { ours(&bytes) });
                assert_eq!(trace.tunnel.map(|t| (t.to, t.hops)), sent);
                assert!(trace.tunnel.is_none_or(|t| t.backend == (trace.machine >= BACKEND)));
                assert_eq!(trace.tunnel.and_then(|t| t.next_hop).is_some(), trace.machine == NEAR);
                assert_eq!(trace.slot.is_some(), !matches!(reason, Reason::PortNotServed | Reason::AccessDenied));
            }
        }
    }
    let all =
        ["access_denied", "forwarded", "local", "machine_unknown", "port_not_served", "second_chance", "slot_empty"];
    assert!(all.iter().all(|reason| reasons.contains(reason)), "{reasons:?}");
    let elsewhere =
        Flow { protocol: Protocol::Udp, source: client(true, 1), destination: client(true, 2), opens: false };
    assert_eq!(both.kernel.trace(&elsewhere).expect("a trace").reason, Reason::NotVip);
}

#[test]
fn a_vlan_tag_stays_in_front() {
    if !ready("a_vlan_tag_stays_in_front") {
        return;
    }
    let both = Both::new();
    for v4 in [true, false] {
        let frame = packet::tagged(&packet::tcp(client(v4, 1), Fixture::Elsewhere.at(v4, 80), ACK, 5));
        let (reason, bytes) = both.run(&frame);
        assert_eq!(reason, Reason::Forwarded);
        assert_eq!(bytes[12..16], frame[12..16]);
        assert_eq!(packet::read_tunnel(&bytes).inner, frame[18..]);
    }
}

#[test]
fn padding_is_not_carried_in_the_tunnel() {
    if !ready("padding_is_not_carried_in_the_tunnel") {
        return;
    }
    let both = Both::new();
    let frame = packet::tcp(client(true, 1), Fixture::Elsewhere.at(true, 80), ACK, 0);
    let padded = [&frame[..], &[0; 6]].concat();
    assert_eq!(both.tunnelled(&padded, Reason::Forwarded, OTHER, 1).inner, inner(&frame));
}

#[test]
fn this_machine_keeps_its_own() {
    if !ready("this_machine_keeps_its_own") {
        return;
    }
    let both = Both::new();
    for v4 in [true, false] {
        for flags in [SYN, ACK] {
            both.untouched(&packet::tcp(client(v4, 1), Fixture::Here.at(v4, 80), flags, 0), Reason::Local);
        }
        both.untouched(&packet::udp(client(v4, 1), Fixture::Here.at(v4, 80), b"x"), Reason::Local);
        // New connections stay, whoever was the owner before.
        both.untouched(&packet::tcp(client(v4, 1), Fixture::HereBefore.at(v4, 80), SYN, 0), Reason::Local);
        both.untouched(&packet::udp(client(v4, 1), Fixture::HereBefore.at(v4, 80), b"x"), Reason::Local);
        both.untouched(&packet::tcp(client(v4, 1), Fixture::NobodyNow.at(v4, 80), ACK, 0), Reason::LocalOrphan);
        both.dropped(&packet::tcp(client(v4, 1), Fixture::NobodyNow.at(v4, 80), SYN, 0), Reason::SlotEmpty);
    }
}

#[test]
fn a_connection_without_a_socket_gets_a_second_chance() {
    if !ready("a_connection_without_a_socket_gets_a_second_chance") {
        return;
    }
    let both = Both::new();
    for v4 in [true, false] {
        // SYN-ACK, FIN and RST are of an existing connection too.
        for flags in [ACK, SYN | ACK, 0x11, 0x04] {
            let frame = packet::tcp(client(v4, 1), Fixture::HereBefore.at(v4, 80), flags, 0);
            assert_eq!(both.tunnelled(&frame, Reason::SecondChance, OTHER, 1).inner, inner(&frame));
        }
    }
}

#[test]
fn tunnels_to_this_machine_are_taken_off() {
    if !ready("tunnels_to_this_machine_are_taken_off") {
        return;
    }
    let both = Both::new();
    for (from, own) in [(world::address(OTHER), world::address(OWN)), (world::address(OVER_V6), world::own_v6())] {
        for v4 in [true, false] {
            let taken_off = |frame: &[u8], hops: u8, reason: Reason| {
                let (found, bytes) = both.run(&packet::tunnel(from, own, hops, frame));
                assert_eq!(found, reason);
                assert_eq!(bytes, frame);
                let (found, bytes) = both.run(&packet::tagged(&packet::tunnel(from, own, hops, frame)));
                assert_eq!((found, bytes), (reason, packet::tagged(frame)));
            };
            let syn = packet::tcp(client(v4, 1), Fixture::Here.at(v4, 80), SYN, 0);
            taken_off(&syn, 1, Reason::Decapsulated);
            // A new connection stays even where this machine's table says otherwise: the sender's may be newer.
            taken_off(&packet::tcp(client(v4, 1), Fixture::Elsewhere.at(v4, 80), SYN, 0), 1, Reason::Decapsulated);
            taken_off(&packet::udp(client(v4, 1), Fixture::Elsewhere.at(v4, 80), b"x"), 1, Reason::Decapsulated);
            let ack = packet::tcp(client(v4, 1), Fixture::Here.at(v4, 80), ACK, 0);
            // Nobody else could hold it, so nobody is asked for a socket.
            taken_off(&ack, 1, Reason::Decapsulated);

            let moved = packet::tcp(client(v4, 1), Fixture::HereBefore.at(v4, 80), ACK, 0);
            let tunnel = both.tunnelled(&packet::tunnel(from, own, 1, &moved), Reason::SecondChanceRelayed, OTHER, 2);
            assert_eq!((&tunnel.inner[..], tunnel.asked), (inner(&moved), [OWN, 0, 0, 0]));
            // With this machine's table older than the sender's, the holder is the current owner.
            let older = packet::tcp(client(v4, 1), Fixture::Elsewhere.at(v4, 80), ACK, 0);
            both.tunnelled(&packet::tunnel(from, own, 1, &older), Reason::SecondChanceRelayed, OTHER, 2);
            // Everybody was asked: it stays. As it does after too many tunnels, and with a count nobody of us writes.
            let all = packet::asked(&packet::tunnel(from, own, 2, &moved), &[OTHER]);
            assert_eq!(both.run(&all), (Reason::DecapsulatedOrphan, moved.clone()));
            taken_off(&moved, HOPS_MAX, Reason::Decapsulated);
            // One after the other, the newest first, each once.
            let long = packet::tcp(client(v4, 1), Fixture::HereLong.at(v4, 80), ACK, 0);
            for (asked, to) in
                [(&[][..], OTHER), (&[OTHER], OVER_V6), (&[OTHER, OVER_V6], THIRD), (&[THIRD, NEAR], OTHER)]
            {
                let sent = packet::asked(&packet::tunnel(from, own, 2, &long), asked);
                let tunnel = both.tunnelled(&sent, Reason::SecondChanceRelayed, to, 3);
                assert_eq!((tunnel.asked[0], &tunnel.asked[1..=asked.len()]), (OWN, asked));
            }
            // Who was asked before holds a closing socket, which is more than this machine does: back to it when all were asked.
            for held in [gue::held::TIME_WAIT, gue::held::CLOSING] {
                for (at, to) in [(0, OVER_V6), (1, THIRD), (2, OTHER)] {
                    let sent = packet::tunnel(from, own, gue::pack(3, held, at), &long);
                    let sent = packet::asked(&sent, &[OVER_V6, THIRD, OTHER]);
                    let tunnel = both.tunnelled(&sent, Reason::SecondChanceRelayed, to, HOPS_MAX);
                    assert_eq!((tunnel.held, &tunnel.inner[..]), (held, inner(&long)));
                }
                let sent = packet::asked(&packet::tunnel(from, own, gue::pack(2, held, 0), &long), &[THIRD]);
                let tunnel = both.tunnelled(&sent, Reason::SecondChanceRelayed, OTHER, 3);
                assert_eq!((tunnel.held, tunnel.at), (held, 1), "the claim goes along");
                taken_off(&moved, gue::pack(HOPS_MAX, held, 0), Reason::Decapsulated);
            }
            taken_off(&moved, 0, Reason::Decapsulated);
            taken_off(&moved, 255, Reason::Decapsulated);
        }
    }
}

#[test]
fn what_is_no_tunnel_of_ours_is_dropped_on_its_port_only() {
    if !ready("what_is_no_tunnel_of_ours_is_dropped_on_its_port_only") {
        return;
    }
    let both = Both::new();
    let syn = packet::tcp(client(true, 1), Fixture::Here.at(true, 80), SYN, 0);
    let (from, own) = (world::address(OTHER), world::address(OWN));
    // To somebody else's address, and to another port of ours.
    both.untouched(&packet::tunnel(from, world::address(THIRD), 1, &syn), Reason::NotVip);
    let mut other_port = packet::tunnel(from, own, 1, &syn);
    other_port[37] ^= 1;
    both.untouched(&other_port, Reason::NotVip);
    // Another version, control, other flags, no magic, another protocol inside.
    for (at, value) in [(42, 0x41), (42, 0x22), (42, 0x00), (42, 0x01), (45, 0x00), (47, 0x00), (43, 6)] {
        let mut foreign = packet::tunnel(from, own, 1, &syn);
        foreign[at] = value;
        both.dropped(&foreign, Reason::ForeignGue);
    }
    // A newer machine has put more behind what is known here: all that is known holds, and the rest is passed over.
    for frame in [&syn, &packet::tcp(client(false, 1), Fixture::Here.at(false, 80), SYN, 9)] {
        for words in [1usize, 2, 27] {
            let known = packet::tunnel(from, own, 1, frame);
            let longer = |cut: usize| {
                let mut longer = [&known[..62], &vec![0xab; words * 4][..], &known[62..known.len() - cut]].concat();
                longer[42] += words as u8;
                for at in [16, 38] {
                    let length = u16::from_be_bytes([longer[at], longer[at + 1]]) + (words * 4) as u16;
                    longer[at..at + 2].copy_from_slice(&length.to_be_bytes());
                }
                longer
            };
            let (reason, bytes) = both.run(&longer(0));
            assert_eq!((reason, &bytes[14..]), (Reason::Decapsulated, &frame[14..]), "{words} words");
            both.dropped(&longer(frame.len() - 14), Reason::GueTruncated);
        }
    }
    let mut fragment = packet::tunnel(from, own, 1, &syn);
    fragment[20] = 0x20;
    both.dropped(&fragment, Reason::ForeignGue);
    // Of a later one nobody knows the ports.
    fragment[21] = 1;
    both.untouched(&fragment, Reason::NotVip);
}

#[test]
fn tunnels_with_anything_but_a_vip_inside_are_dropped() {
    if !ready("tunnels_with_anything_but_a_vip_inside_are_dropped") {
        return;
    }
    let both = Both::new();
    let (from, own) = (world::address(OTHER), world::address(OWN));
    for v4 in [true, false] {
        let stranger = packet::tcp(client(v4, 1), client(v4, 2), SYN, 0);
        both.dropped(&packet::tunnel(from, own, 1, &stranger), Reason::GueInnerNotVip);
    }
    let whole = packet::tunnel(from, own, 1, &packet::tcp(client(true, 1), Fixture::Here.at(true, 80), SYN, 0));
    both.dropped(&whole[..14 + 20 + 8 + 4], Reason::GueTruncated);
    both.dropped(&whole[..14 + 48 + 19], Reason::GueTruncated);
    // The outer header whole, the inner one cut.
    both.dropped(&whole[..14 + 48 + 20 + 8], Reason::Ipv4Truncated);
    // A tunnel inside a tunnel is not for a VIP.
    let twice = packet::tunnel(from, own, 1, &whole);
    both.dropped(&twice, Reason::GueInnerNotVip);
}

#[test]
fn empty_slots_and_unknown_machines_are_dropped() {
    if !ready("empty_slots_and_unknown_machines_are_dropped") {
        return;
    }
    let both = Both::new();
    for v4 in [true, false] {
        both.dropped(&packet::tcp(client(v4, 1), Fixture::Empty.at(v4, 80), SYN, 0), Reason::SlotEmpty);
        both.dropped(&packet::tcp(client(v4, 1), Fixture::Unknown.at(v4, 80), SYN, 0), Reason::MachineUnknown);
    }
    assert!(GONE <= world::sizes().machines as u16, "an index that has room but nobody");
}

#[test]
fn headers_that_end_early_or_lie_are_dropped() {
    if !ready("headers_that_end_early_or_lie_are_dropped") {
        return;
    }
    let both = Both::new();
    both.dropped(&packet::tagged(&packet::ethernet(0x0800, &[]))[..16], Reason::EthernetTruncated);
    let cut = |v4: bool, to: usize, reason: Reason| {
        both.dropped(&packet::tcp(client(v4, 1), Fixture::Elsewhere.at(v4, 80), ACK, 4)[..to], reason);
    };
    cut(true, 14 + 19, Reason::Ipv4Truncated);
    cut(true, 14 + 20, Reason::Ipv4Truncated);
    cut(true, 14 + 43, Reason::Ipv4Truncated);
    cut(false, 14 + 39, Reason::Ipv6Truncated);
    cut(false, 14 + 63, Reason::Ipv6Truncated);
    let v4 = packet::tcp(client(true, 1), Fixture::Elsewhere.at(true, 80), ACK, 4);
    for (at, value) in [(14, 0x55), (14, 0x44), (16, 0), (17, 19)] {
        let mut lying = v4.clone();
        if at == 17 {
            lying[16] = 0;
        }
        lying[at] = value;
        if at == 16 {
            lying[17] = 10;
        }
        both.dropped(&lying, Reason::Ipv4Malformed);
    }
    for v4 in [true, false] {
        let (from, to) = (client(v4, 1).ip(), Fixture::Elsewhere.at(v4, 80).ip());
        both.dropped(&packet::ip(from, to, 6, 0, &packet::tcp_header(1, 80, ACK)[..19]), Reason::TransportTruncated);
        both.dropped(&packet::ip(from, to, 17, 0, &[0, 1, 0, 80, 0, 8, 0]), Reason::TransportTruncated);
        both.dropped(&packet::ip(from, to, if v4 { 1 } else { 58 }, 0, &[8, 0, 0]), Reason::IcmpTruncated);
        // The header says less than the frame holds: what lies behind is padding, not TCP.
        let mut short = packet::tcp(client(v4, 1), Fixture::Elsewhere.at(v4, 80), ACK, 0);
        let at = if v4 { 17 } else { 19 };
        short[at] -= 1;
        both.dropped(&short, Reason::TransportTruncated);
    }
}

#[test]
fn what_tells_no_port_is_counted_for_the_virtual_ip_it_is_sent_to() {
    if !ready("what_tells_no_port_is_counted_for_the_virtual_ip_it_is_sent_to") {
        return;
    }
    let both = Both::new();
    let vip = Fixture::Elsewhere;
    for v4 in [true, false] {
        let (from, to) = (client(v4, 1).ip(), vip.at(v4, 80).ip());
        let whole = packet::tcp(client(v4, 1), vip.at(v4, 80), ACK, 4);
        let mut lying = whole.clone();
        lying[14] = if v4 { 0x55 } else { 0x40 };
        let cut = if v4 { Reason::Ipv4Truncated } else { Reason::Ipv6Truncated };
        let mut frames = vec![
            (lying, if v4 { Reason::Ipv4Malformed } else { cut }),
            (whole[..whole.len() - 1].to_vec(), cut),
            (packet::ip(from, to, 6, 0, &[0; 19]), Reason::TransportTruncated),
            (packet::ip(from, to, if v4 { 1 } else { 58 }, 0, &[8, 0, 0]), Reason::IcmpTruncated),
            (packet::icmp(from, to, if v4 { 13 } else { 133 }, 0, [0; 4], &[0; 8]), Reason::IcmpPassed),
            (packet::tcp(client(v4, 1), vip.at(v4, 81), SYN, 0), Reason::PortNotServed),
            (packet::ip(from, to, 132, 0, &[0; 16]), Reason::ProtocolNotServed),
        ];
        if !v4 {
            let options = [60, 0, 1, 4, 0, 0, 0, 0].repeat(7);
            frames.push((packet::ip(from, to, 60, 0, &options), Reason::Ipv6ExtensionsTooMany));
        }
        for (frame, reason) in frames {
            assert_eq!(both.run(&frame).0, reason);
            assert_eq!(both.model.run(&frame).0.vip, vip as u16, "{}", reason.name());
        }
    }
}

#[test]
fn ipv4_options_are_looked_past() {
    if !ready("ipv4_options_are_looked_past") {
        return;
    }
    let both = Both::new();
    let mut frame = packet::tcp(client(true, 1), Fixture::Elsewhere.at(true, 80), ACK, 4);
    frame[14] = 0x4f;
    frame[17] += 40;
    frame.splice(34..34, [1; 40]);
    let tunnel = both.tunnelled(&frame, Reason::Forwarded, OTHER, 1);
    assert_eq!(tunnel.inner, inner(&frame));
}

#[test]
fn ipv6_extension_headers_are_looked_past() {
    if !ready("ipv6_extension_headers_are_looked_past") {
        return;
    }
    let both = Both::new();
    let (from, to) = (client(false, 1).ip(), Fixture::Elsewhere.at(false, 80).ip());
    let chain = |kinds: &[u8]| {
        let mut bytes = Vec::new();
        for (i, &kind) in kinds.iter().enumerate() {
            let next = kinds.get(i + 1).copied().unwrap_or(6);
            bytes.extend(match kind {
                44 => vec![next, 0, 0, 0, 0, 0, 0, 9],
                51 => vec![next, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                _ => vec![next, 1, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            });
        }
        bytes.extend(packet::tcp_header(40_000, 80, ACK));
        packet::ip(from, to, kinds[0], 0, &bytes)
    };
    for kinds in [&[0][..], &[60], &[43], &[51], &[44], &[0, 60, 43, 44, 51, 60]] {
        let frame = chain(kinds);
        assert_eq!(both.tunnelled(&frame, Reason::Forwarded, OTHER, 1).inner, inner(&frame));
    }
    both.dropped(&chain(&[60; 7]), Reason::Ipv6ExtensionsTooMany);
    let mut long = chain(&[60, 60]);
    long[14 + 40 + 1] = 40;
    both.dropped(&long, Reason::Ipv6Truncated);
    let mut far = packet::ip(from, to, 60, 0, &[&[6, 170][..], &[0; 1400]].concat());
    both.dropped(&far, Reason::Ipv6ExtensionsTooMany);
    far.truncate(14 + 40 + 4);
    far[18..20].copy_from_slice(&[0, 4]);
    both.dropped(&far, Reason::Ipv6Truncated);
}

/// Whom a packet went to; nobody: it stayed.
fn went((reason, bytes): (Reason, Vec<u8>)) -> Option<packet::Tunnel> {
    (reason.verdict() == Verdict::Transmit).then(|| packet::read_tunnel(&bytes))
}

#[test]
fn fragments_follow_the_first_to_the_owner_of_its_connection() {
    if !ready("fragments_follow_the_first_to_the_owner_of_its_connection") {
        return;
    }
    let both = Both::new();
    let (mut here, mut elsewhere) = (0, 0);
    let mut owners = std::collections::BTreeSet::new();
    for n in 0..120 {
        let v4 = n % 2 == 0;
        let (from, to) = (client(v4, n), Fixture::SpreadFiveTuple.at(v4, 80));
        for (tcp, whole) in [packet::udp(from, to, &[7; 200]), packet::tcp(from, to, ACK, 200)].into_iter().enumerate()
        {
            let owner = went(both.run(&whole)).map(|tunnel| (tunnel.destination, tunnel.asked));
            let parts = packet::fragments(&whole, 64, n * 2 + tcp as u16);
            // The second one comes first.
            let (early, bytes) = both.run(&parts[1]);
            let first = both.run(&parts[0]);
            let tunnel = went(first.clone());
            let follows = |part: &Vec<u8>| {
                let (reason, bytes) = both.run(part);
                assert!([Reason::FragmentLocal, Reason::FragmentForwarded].contains(&reason), "{reason:?}");
                let found = went((reason, bytes));
                assert_eq!(found.as_ref().map(|t| &t.inner[..]), found.as_ref().map(|_| inner(part)));
                let road = |t: packet::Tunnel| (t.destination, t.hops, t.asked, t.source_port);
                assert_eq!(found.map(road), went(first.clone()).map(road));
            };
            parts[1..].iter().for_each(follows);
            if early == Reason::FragmentEarly {
                // All of them meet here, so this machine says where they go: to whom the whole one went.
                assert_eq!(tunnel.map(|tunnel| (tunnel.destination, tunnel.asked)), owner);
                here += 1;
                owners.insert(owner);
            } else {
                // All of them meet elsewhere.
                let road = |t: packet::Tunnel| (t.destination, t.hops, t.asked);
                let meet = went((early, bytes)).map(road);
                assert!(meet.is_some_and(|(_, hops, asked)| (hops, asked) == (1, [0; 4])));
                assert_eq!(tunnel.map(road), meet);
                elsewhere += 1;
            }
        }
    }
    assert!(here > 20 && elsewhere > 20 && owners.len() >= 4, "{here} {elsewhere} {owners:?}");
}

#[test]
fn fragments_from_a_tunnel_are_led_on_where_they_meet_and_looked_for_where_they_were_led() {
    if !ready("fragments_from_a_tunnel_are_led_on_where_they_meet_and_looked_for_where_they_were_led") {
        return;
    }
    let both = Both::new();
    let (sender, own) = (world::address(OTHER), world::address(OWN));
    for (n, v4) in [true, false].into_iter().enumerate() {
        let parts = |fixture: Fixture, flags| {
            let whole = packet::tcp(client(v4, 1), fixture.at(v4, 80), flags, 200);
            packet::fragments(&whole, 64, fixture as u16 * 16 + u16::from(flags) + n as u16)
        };
        // They meet here, and this machine has no socket: the owner before gets them all.
        let met = parts(Fixture::HereBefore, ACK);
        both.dropped(&packet::tunnel(sender, own, 1, &met[1]), Reason::FragmentEarly);
        let first = both.tunnelled(&packet::tunnel(sender, own, 1, &met[0]), Reason::SecondChance, OTHER, 2);
        assert_eq!((&first.inner[..], first.asked), (inner(&met[0]), [OWN, 0, 0, 0]));
        let later = both.tunnelled(&packet::tunnel(sender, own, 1, &met[1]), Reason::FragmentForwarded, OTHER, 2);
        assert_eq!((&later.inner[..], later.asked), (inner(&met[1]), [OWN, 0, 0, 0]));
        // One that was led in a ring ends, where nobody was asked as early as with machines of before.
        for hops in 2..=HOPS_MAX_BEFORE {
            let found = both.run(&packet::tunnel(sender, own, hops, &met[2]));
            assert_eq!(went(found.clone()).map(|t| t.hops), (hops < HOPS_MAX_BEFORE).then_some(hops + 1));
            assert!(hops < HOPS_MAX_BEFORE || found.0 == Reason::Decapsulated);
        }
        // They met at the other one, which led them here: another machine may hold the connection.
        let led = parts(Fixture::Elsewhere, ACK);
        both.tunnelled(&packet::tunnel(sender, own, 2, &led[0]), Reason::SecondChanceRelayed, OTHER, 3);
        both.tunnelled(&packet::tunnel(sender, own, 2, &led[1]), Reason::FragmentForwarded, OTHER, 3);
        // What opens a connection stays, and its other parts with it.
        let opening = parts(Fixture::Elsewhere, SYN);
        for part in [&opening[0], &opening[1], &opening[3]] {
            assert_eq!(both.run(&packet::tunnel(sender, own, 2, part)), (Reason::Decapsulated, part.clone()));
        }
        // A first fragment without flags opens nothing; one without ports is none.
        let whole = packet::tcp(client(v4, 1), Fixture::Here.at(v4, 80), SYN, 200);
        both.untouched(&packet::fragments(&whole, 8, 700)[0], Reason::FragmentLocal);
        let mut short = packet::fragments(&whole, 8, 701)[0].clone();
        short.truncate(short.len() - 4);
        let at = if v4 { 17 } else { 19 };
        short[at] -= 4;
        both.dropped(&short, Reason::TransportTruncated);
    }
}

#[test]
fn echo_is_answered() {
    if !ready("echo_is_answered") {
        return;
    }
    let both = Both::new();
    for v4 in [true, false] {
        for fixture in [Fixture::Here, Fixture::Elsewhere, Fixture::Empty] {
            let (from, to) = (client(v4, 1).ip(), fixture.at(v4, 0).ip());
            let (request, reply) = if v4 { (8, 0) } else { (128, 129) };
            for id in [[0x12, 0x34, 0, 1], [0xff, 0xff, 0xff, 0xff], [0, 0, 0, 0]] {
                let (reason, bytes) = both.run(&packet::icmp(from, to, request, 0, id, b"are you there?"));
                assert_eq!(reason, Reason::EchoAnswered);
                let mut expected = packet::icmp(to, from, reply, 0, id, b"are you there?");
                expected[..6].copy_from_slice(&FROM);
                expected[6..12].copy_from_slice(&TO);
                let ttl = if v4 { 22 } else { 21 };
                expected[ttl] = 64;
                if v4 {
                    expected[24..26].fill(0);
                    let sum = packet::checksum(&expected[14..34]);
                    expected[24..26].copy_from_slice(&sum.to_be_bytes());
                }
                assert_eq!(bytes, expected);
            }
        }
        let (from, to) = (client(v4, 1).ip(), Fixture::Elsewhere.at(v4, 0).ip());
        // Timestamp, neighbour solicitation, an echo reply: not for us to answer.
        for kind in if v4 { [13, 0, 5] } else { [135, 129, 200] } {
            both.untouched(&packet::icmp(from, to, kind, 0, [0; 4], &[0; 24]), Reason::IcmpPassed);
        }
    }
}

/// An error from a router on the way, about a packet the VIP sent to the client.
fn icmp_error(v4: bool, fixture: Fixture, quoted: usize, protocol: u8) -> Vec<u8> {
    let router = client(v4, 77).ip();
    let (vip, to) = (fixture.at(v4, 80), client(v4, 1));
    let sent = if protocol == 6 { packet::tcp(vip, to, ACK, 64) } else { packet::udp(vip, to, &[1; 64]) };
    let header = if v4 { 20 } else { 40 };
    let quote = &sent[14..14 + header + quoted];
    let (kind, code) = if v4 { (3, 4) } else { (2, 0) };
    packet::icmp(router, vip.ip(), kind, code, [0, 0, 0x05, 0x00], quote)
}

#[test]
fn errors_find_the_owner_of_the_connection_they_are_about() {
    if !ready("errors_find_the_owner_of_the_connection_they_are_about") {
        return;
    }
    let both = Both::new();
    for v4 in [true, false] {
        for quoted in [8, 20, 64] {
            for protocol in [6, 17] {
                let frame = icmp_error(v4, Fixture::Elsewhere, quoted, protocol);
                let tunnel = both.tunnelled(&frame, Reason::IcmpErrorForwarded, OTHER, 1);
                assert_eq!(tunnel.inner, inner(&frame));
                both.untouched(&icmp_error(v4, Fixture::Here, quoted, protocol), Reason::IcmpErrorLocal);
            }
            let moved = icmp_error(v4, Fixture::HereBefore, quoted, 6);
            both.tunnelled(&moved, Reason::SecondChance, OTHER, 1);
        }
        both.dropped(&icmp_error(v4, Fixture::Elsewhere, 7, 6), Reason::IcmpTruncated);
        // About somebody else's packet, or about ICMP.
        let (from, to) = (client(v4, 9).ip(), Fixture::Elsewhere.at(v4, 0).ip());
        let kind = if v4 { 3 } else { 1 };
        let strange = packet::tcp(client(v4, 3), client(v4, 4), ACK, 0);
        both.untouched(&packet::icmp(from, to, kind, 0, [0; 4], &strange[14..]), Reason::IcmpPassed);
        let echo = packet::icmp(to, from, if v4 { 0 } else { 129 }, 0, [0; 4], &[0; 8]);
        both.untouched(&packet::icmp(from, to, kind, 0, [0; 4], &echo[14..]), Reason::IcmpPassed);
    }
}

#[test]
fn errors_go_where_the_packets_of_the_connection_go() {
    if !ready("errors_go_where_the_packets_of_the_connection_go") {
        return;
    }
    let both = Both::new();
    for n in 0..200 {
        let v4 = n % 2 == 0;
        let (from, vip) = (client(v4, n), Fixture::SpreadFiveTuple.at(v4, 80));
        let owner = |reason: Reason, bytes: &[u8]| match reason {
            Reason::Forwarded | Reason::IcmpErrorForwarded | Reason::SecondChance => {
                packet::read_tunnel(bytes).destination
            }
            Reason::Local | Reason::IcmpErrorLocal => world::address(OWN),
            other => panic!("{other:?}"),
        };
        let (reason, bytes) = both.run(&packet::udp(from, vip, b"x"));
        let expected = owner(reason, &bytes);
        let quote = packet::udp(vip, from, b"x");
        let kind = if v4 { 11 } else { 3 };
        let error = packet::icmp(client(v4, 500).ip(), vip.ip(), kind, 0, [0; 4], &quote[14..]);
        let (reason, bytes) = both.run(&error);
        assert_eq!(owner(reason, &bytes), expected);
    }
}

#[test]
fn what_does_not_fit_the_tunnel_is_answered() {
    if !ready("what_does_not_fit_the_tunnel_is_answered") {
        return;
    }
    let both = Both::new();
    for v4 in [true, false] {
        for (fixture, machine, overhead) in [(Fixture::Elsewhere, OTHER, 48), (Fixture::ElsewhereV6, OVER_V6, 68)] {
            let headers = if v4 { 40 } else { 60 };
            let fits = 1500 - overhead;
            let frame = packet::tcp(client(v4, 1), fixture.at(v4, 80), ACK, fits - headers);
            both.tunnelled(&frame, Reason::Forwarded, machine, 1);
            let frame = packet::tcp(client(v4, 1), fixture.at(v4, 80), ACK, fits - headers + 1);
            let (reason, bytes) = both.run(&frame);
            assert_eq!(reason, Reason::TooBigAnswered);
            let (vip, from) = (fixture.at(v4, 80).ip(), client(v4, 1).ip());
            let mtu = (fits as u16).to_be_bytes();
            let (kind, code, quote) = if v4 { (3, 4, 28) } else { (2, 0, 48) };
            let mut expected = packet::icmp(vip, from, kind, code, [0, 0, mtu[0], mtu[1]], &frame[14..14 + quote]);
            expected[..6].copy_from_slice(&FROM);
            expected[6..12].copy_from_slice(&TO);
            expected[if v4 { 22 } else { 21 }] = 64;
            if v4 {
                expected[18..20].fill(0);
                expected[24..26].fill(0);
                let sum = packet::checksum(&expected[14..34]);
                expected[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            assert_eq!(bytes, expected);
        }
        // Kept here, size does not matter.
        let big = packet::tcp(client(v4, 1), Fixture::Here.at(v4, 80), ACK, 1460);
        both.untouched(&big, Reason::Local);
    }
    // A sender that lets routers take its packets apart is not told.
    let mut whole = packet::tcp(client(true, 1), Fixture::Elsewhere.at(true, 80), ACK, 1460);
    whole[20] &= !0x40;
    both.dropped(&whole, Reason::TooBigDropped);
    // Nothing may be answered to a fragment.
    let mut fragment = packet::udp(client(true, 1), Fixture::Elsewhere.at(true, 80), &[0; 1464]);
    fragment[20] = 0x20;
    both.dropped(&fragment, Reason::TooBigDropped);
}

#[test]
fn what_counts_chooses_and_what_does_not_does_not() {
    if !ready("what_counts_chooses_and_what_does_not_does_not") {
        return;
    }
    let both = Both::new();
    let owner = |frame: &[u8]| -> (Option<IpAddr>, u16) {
        let (reason, bytes) = both.run(frame);
        match reason {
            Reason::Local => (None, 0),
            Reason::Forwarded => {
                let tunnel = packet::read_tunnel(&bytes);
                (Some(tunnel.destination), tunnel.source_port)
            }
            other => panic!("{other:?}"),
        }
    };
    let distinct = |found: Vec<(Option<IpAddr>, u16)>| {
        let mut owners: Vec<_> = found.iter().map(|f| f.0).collect();
        let mut ports: Vec<_> = found.iter().map(|f| f.1).filter(|&p| p != 0).collect();
        owners.sort();
        owners.dedup();
        ports.sort();
        ports.dedup();
        (owners.len(), ports.len())
    };
    for v4 in [true, false] {
        let from_ports = |fixture: Fixture| {
            (0..40)
                .map(|n| {
                    let mut from = client(v4, 1);
                    from.set_port(1000 + n);
                    owner(&packet::tcp(from, fixture.at(v4, 80), SYN, 0))
                })
                .collect::<Vec<_>>()
        };
        let from_clients = |fixture: Fixture, port: u16| {
            (0..40).map(|n| owner(&packet::tcp(client(v4, n * 256), fixture.at(v4, port), SYN, 0))).collect::<Vec<_>>()
        };
        assert_eq!(distinct(from_ports(Fixture::SpreadFiveTuple)).0, 4);
        assert_eq!(distinct(from_ports(Fixture::SpreadSource)).0, 1);
        assert_eq!(distinct(from_ports(Fixture::SpreadPrefix)).0, 1);
        assert_eq!(distinct(from_clients(Fixture::SpreadSource, 80)).0, 4);
        assert_eq!(distinct(from_clients(Fixture::SpreadPrefix, 80)).0, 4);
        assert_eq!(distinct(from_clients(Fixture::SpreadPort, 80)).0, 1);
        // Whatever chooses the machine, its queues share the work.
        for port in 8000..8020 {
            let found = from_clients(Fixture::SpreadPort, port);
            assert_eq!(distinct(found.clone()).0, 1);
            assert!(found[0].0.is_none() || distinct(found).1 > 30);
        }
        let same_prefix: Vec<_> = (0..40)
            .map(|n| {
                let mut from = client(v4, 3);
                from.set_ip(match from.ip() {
                    IpAddr::V4(ip) => IpAddr::from([ip.octets()[0], ip.octets()[1], ip.octets()[2], n]),
                    IpAddr::V6(ip) => {
                        let mut octets = ip.octets();
                        octets[7] = n;
                        octets[15] = n;
                        IpAddr::from(octets)
                    }
                });
                owner(&packet::tcp(from, Fixture::SpreadPrefix.at(v4, 80), SYN, 0))
            })
            .collect();
        assert_eq!(distinct(same_prefix).0, 1);
        // Any port is a port like others.
        let any: Vec<_> =
            (0..40).map(|n| owner(&packet::tcp(client(v4, 1), Fixture::AnyPort.at(v4, 7 + n), SYN, 0))).collect();
        assert_eq!(distinct(any).0, 4);
    }
}

#[test]
fn tunnels_of_strangers_are_dropped_before_they_are_looked_into() {
    if !ready("tunnels_of_strangers_are_dropped_before_they_are_looked_into") {
        return;
    }
    let both = Both::new();
    for (known, stranger, own) in [
        (world::address(OTHER), world::address(77), world::address(OWN)),
        (world::address(OVER_V6), world::own_v6(), world::own_v6()),
    ] {
        for v4 in [true, false] {
            let syn = packet::tcp(client(v4, 1), Fixture::Here.at(v4, 80), SYN, 0);
            for cookie in [world::COOKIE, world::COOKIE_BEFORE, world::COOKIE_NEXT] {
                let (reason, bytes) = both.run(&packet::tunnel_with(known, own, 1, cookie, &syn));
                assert_eq!((reason, bytes), (Reason::Decapsulated, syn.clone()));
            }
            both.dropped(&packet::tunnel(stranger, own, 1, &syn), Reason::GueSenderUnknown);
            for cookie in [0, 1, world::COOKIE.swap_bytes(), world::COOKIE ^ 1] {
                both.dropped(&packet::tunnel_with(known, own, 1, cookie, &syn), Reason::GueCookieWrong);
            }
            // Whatever is inside, even nothing.
            let empty = packet::tunnel(stranger, own, 1, &syn);
            let outer = if known.is_ipv4() { 20 } else { 40 };
            both.dropped(&packet::tunnel(stranger, own, 1, &syn[..14]), Reason::GueSenderUnknown);
            both.dropped(&empty[..14 + outer + 28], Reason::GueSenderUnknown);
        }
    }
}

#[test]
fn without_a_cookie_no_tunnel_is_taken() {
    if !ready("without_a_cookie_no_tunnel_is_taken") {
        return;
    }
    let mut kernel = world::kernel().expect("the world loads");
    kernel.set_cookies(None, [None, None]);
    kernel.apply(&world::machines(), &world::vips()).expect("applies");
    let syn = packet::tcp(client(true, 1), Fixture::Here.at(true, 80), SYN, 0);
    for cookie in [0, world::COOKIE] {
        let frame = packet::tunnel_with(world::address(OTHER), world::address(OWN), 1, cookie, &syn);
        assert_eq!(
            sys::test_run(kernel.program(Hook::XdpSteer).expect("loaded"), &frame, 1).expect("test run").verdict,
            1
        );
    }
    assert_eq!(kernel.counters().packets(Reason::GueCookieWrong), 2);
}

#[test]
fn new_flows_of_a_machine_that_does_not_serve_go_to_one_that_stands_in() {
    if !ready("new_flows_of_a_machine_that_does_not_serve_go_to_one_that_stands_in") {
        return;
    }
    let mut both = Both::new();
    let lease = both.kernel.lease();
    // Nobody listens here, so that it makes no difference to what opens a connection whether the daemon lives.
    for (state, datagrams) in [(lease::YOUNG, false), (lease::LAPSED, true)] {
        if state == lease::YOUNG {
            lease.renew(std::time::Duration::from_secs(600))
        } else {
            lease.end()
        }
        both.model.lease = state;
        both.witness.get_mut().as_mut().expect("there").lease = state;
        let mut stood_in = [0; 2];
        for n in 0..60 {
            let v4 = n % 2 == 0;
            let (from, to) = (client(v4, n), Fixture::SpreadFiveTuple.at(v4, 80));
            for (kind, frame) in [packet::tcp(from, to, SYN, 0), packet::udp(from, to, b"x")].iter().enumerate() {
                let (reason, bytes) = both.run(frame);
                if reason == Reason::StoodIn {
                    let tunnel = packet::read_tunnel(&bytes);
                    assert_eq!((tunnel.hops, tunnel.asked), (1, [OWN, 0, 0, 0]));
                    stood_in[kind] += 1;
                } else {
                    let local = kind == 1 && reason == Reason::Local;
                    assert!(reason == Reason::Forwarded || local && !datagrams, "{reason:?}");
                }
            }
            // Its later packets.
            let (reason, _) = both.run(&packet::tcp(from, to, ACK, 0));
            assert!([Reason::Forwarded, Reason::SecondChance].contains(&reason), "{reason:?}");
        }
        assert!(stood_in[0] > 5 && (stood_in[1] > 5) == datagrams, "{stood_in:?}");
        // With nobody else there the stack answers.
        both.untouched(&packet::tcp(client(true, 1), Fixture::Here.at(true, 80), SYN, 0), Reason::Local);
        both.untouched(&packet::tcp(client(true, 1), Fixture::Here.at(true, 80), ACK, 0), Reason::LocalOrphan);
    }
}

/// What user space sends here by the id of a connection stays, although nobody lives here to take it: it would be sent back by the same id.
#[test]
fn a_stray_of_quic_is_not_sent_on_where_the_daemon_has_died() {
    if !ready("a_stray_of_quic_is_not_sent_on_where_the_daemon_has_died") {
        return;
    }
    let mut both = Both::new();
    both.kernel.lease().end();
    both.model.lease = lease::LAPSED;
    both.witness.get_mut().as_mut().expect("there").lease = lease::LAPSED;
    let (sender, own) = (world::address(OTHER), world::address(OWN));
    let mut stood_in = 0;
    for n in 0..60 {
        let v4 = n % 2 == 0;
        let (source, destination) = (client(v4, n), Fixture::SpreadFiveTuple.at(v4, 80));
        let sent = packet::udp(source, destination, b"x");
        let by_the_programs = both.run(&packet::tunnel(sender, own, 1, &sent)).0;
        stood_in += u32::from(by_the_programs == Reason::StoodIn);
        let stray = edge_l4::stray::Datagram { source, destination, ecn: 0, contents: b"x" };
        let stray = edge_l4::stray::wrap(&stray, world::COOKIE).expect("a datagram");
        let ports = (SocketAddr::new(sender, 0xc001), SocketAddr::new(own, gue::PORT));
        assert_eq!(both.run(&packet::udp(ports.0, ports.1, &stray)).0, Reason::Decapsulated, "flow {n}");
    }
    assert!(stood_in > 5, "{stood_in} would have gone on");
}

#[test]
fn counters_stay_with_their_virtual_ip_and_machine_and_go_to_no_other() {
    if !ready("counters_stay_with_their_virtual_ip_and_machine_and_go_to_no_other") {
        return;
    }
    let mut kernel = world::kernel().expect("the world loads");
    let frame = packet::tcp(client(true, 1), Fixture::Elsewhere.at(true, 80), SYN, 0);
    let syn = packet::tcp(client(true, 1), Fixture::Here.at(true, 80), SYN, 0);
    for frame in [&frame, &frame, &syn] {
        sys::test_run(kernel.program(Hook::XdpSteer).expect("loaded"), frame, 1).expect("test run");
    }
    let seen = |kernel: &Kernel| {
        let counters = kernel.counters();
        (counters.packets(Reason::Forwarded), counters.packets(Reason::Local), counters.steered.len())
    };
    kernel.apply(&world::machines(), &world::vips()).expect("applies");
    assert_eq!(seen(&kernel), (2, 1, 1), "the same again");
    let mut machines = world::machines();
    machines.iter_mut().find(|m| m.index == OTHER).expect("there").name = "another".into();
    kernel.apply(&machines, &world::vips()).expect("applies");
    assert_eq!(seen(&kernel), (2, 1, 0), "another machine has had no packets");
    let mut vips = world::vips();
    vips.iter_mut().find(|v| v.id == Fixture::Elsewhere as u16).expect("there").name = "another".into();
    kernel.apply(&machines, &vips).expect("applies");
    assert_eq!(seen(&kernel), (0, 1, 0), "nor has another virtual IP");
}

/// The machine that the client spoke to before keeps a closing socket; the client has begun anew at the other one.
#[test]
fn a_closing_socket_does_not_keep_what_another_machine_holds() {
    const TIME_WAIT: u32 = 6;
    const FIN_WAIT_2: u32 = 5;
    const ESTABLISHED: u32 = 1;
    let run = |state: u32, frame: &[u8]| {
        let (from, to) = (client(true, 1), Fixture::HereBefore.at(true, 80));
        let mut model = Model::new();
        let connection = datapath::Connection {
            v4: true,
            source: from.ip().into(),
            destination: to.ip().into(),
            source_port: from.port(),
            destination_port: to.port(),
        };
        model.sockets.push((connection, state));
        model.run(frame)
    };
    let ack = packet::tcp(client(true, 1), Fixture::HereBefore.at(true, 80), ACK, 0);
    assert_eq!(run(ESTABLISHED, &ack).0.reason, Reason::Local);
    for (state, held) in [(TIME_WAIT, gue::held::TIME_WAIT), (FIN_WAIT_2, gue::held::CLOSING)] {
        let (outcome, bytes) = run(state, &ack);
        assert_eq!(outcome.reason, Reason::SecondChance, "state {state}: the other is asked first");
        assert_eq!(packet::read_tunnel(&bytes).held, held);
        // The other one sent it: it did not look, it looked and has nothing, it has less, it has as much.
        let sent = |looked: u8, asked: &[u16]| {
            let sent = packet::tunnel(world::address(OTHER), world::address(OWN), gue::pack(1, looked, 0), &ack);
            run(state, &packet::asked(&sent, asked)).0.reason
        };
        assert_eq!(sent(gue::held::UNASKED, &[]), Reason::SecondChanceRelayed);
        assert_eq!(sent(gue::held::NOTHING, &[OTHER]), Reason::Decapsulated);
        assert_eq!(sent(held, &[OTHER]), Reason::SecondChanceRelayed, "the one asked first answers");
        // Back from the other one, which holds nothing: this machine's stack answers.
        let back = packet::tunnel(world::address(OTHER), world::address(OWN), gue::pack(HOPS_MAX, held, 0), &ack);
        assert_eq!(run(state, &packet::asked(&back, &[OTHER, OWN])).0.reason, Reason::Decapsulated);
        // A new connection is nobody else's.
        let syn = packet::tcp(client(true, 1), Fixture::HereBefore.at(true, 80), SYN, 0);
        assert_eq!(run(state, &syn).0.reason, Reason::Local);
    }
}

#[test]
fn a_packet_sees_one_generation_while_the_switch_flips() {
    if !ready("a_packet_sees_one_generation_while_the_switch_flips") {
        return;
    }
    let pins = edge_kernel::Options::pin_dir_of(&format!("test-{}-flip", std::process::id()));
    let options = edge_kernel::Options {
        pin_dir: Some(pins.clone()),
        own_addresses: vec![world::address(OWN), world::own_v6()],
        sizes: world::sizes(),
        ..edge_kernel::Options::default()
    };
    let mut kernel = Kernel::load(options).expect("loads");
    world::set_cookies(&mut kernel);
    // Two generations: the same machine at two addresses, told apart by the epoch in the tunnel too.
    let mut at = Vec::new();
    for address in ["203.0.113.2", "203.0.113.102"] {
        let mut machines = world::machines();
        machines.iter_mut().find(|m| m.index == OTHER).expect("there").address = address.parse().expect("an address");
        let applied = kernel.apply(&machines, &world::vips()).expect("applies");
        at.push((address.parse::<IpAddr>().expect("an address"), applied.epoch));
    }
    let frame = packet::tcp(client(true, 1), Fixture::Elsewhere.at(true, 80), ACK, 0);
    let flips = Words::of(&find(&pins, "CONFIG"));
    let words = at.iter().zip([1, 0]).map(|((_, epoch), generation)| Switch::new(generation, *epoch).0);
    let words: Vec<u32> = words.collect();
    let mut seen = [0u32; 2];
    let stop = &std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for word in &words {
                    flips.store(0, *word);
                }
            }
        });
        for _ in 0..100_000 {
            let ran = sys::test_run(kernel.program(Hook::XdpSteer).expect("loaded"), &frame, 1).expect("test run");
            let to = packet::read_tunnel(&ran.packet).destination;
            let epoch = u16::from_be_bytes([ran.packet[48], ran.packet[49]]);
            let which = at.iter().position(|(address, _)| *address == to).expect("one of the two");
            if at[which].1 != epoch {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
                let _ = std::fs::remove_dir_all(&pins);
                panic!("machine {to} of one generation with epoch {epoch} of the other");
            }
            seen[which] += 1;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let _ = std::fs::remove_dir_all(&pins);
    assert!(seen.iter().all(|n| *n > 1000), "both generations were live: {seen:?}");
}

/// The file of a pinned map below a directory.
fn find(pins: &std::path::Path, name: &str) -> std::path::PathBuf {
    let layouts = std::fs::read_dir(pins).expect("pins").map(|entry| entry.expect("an entry").path());
    layouts.map(|layout| layout.join(name)).find(|map| map.exists()).expect("the map is pinned")
}

/// A pinned array in our memory, as the daemon has it.
struct Words(*mut u32);

// SAFETY: single words are stored, as atomics.
unsafe impl Send for Words {}

impl Words {
    fn of(map: &std::path::Path) -> Words {
        use std::os::fd::AsRawFd;
        let map = sys::open_pinned(map).expect("the map is pinned");
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, of one page, which every array has.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, libc::MAP_SHARED, map.as_raw_fd(), 0) };
        assert_ne!(base, libc::MAP_FAILED);
        Words(base.cast())
    }

    fn store(&self, at: usize, word: u32) {
        assert!(at < 1024);
        // SAFETY: inside the mapping, aligned; programs read it at the same time, so it is stored as an atomic.
        unsafe {
            std::sync::atomic::AtomicU32::from_ptr(self.0.add(at)).store(word, std::sync::atomic::Ordering::Release)
        };
    }
}

/// What the verifier of one kernel examined of each program when this was written; another may take more or less.
const EXAMINED_BY: &str = "6.18.";
/// `xdp_steer` rose from 49,388 with access lists and limits: each is a function examined once, and what comes behind has to be followed
/// with and without its call; `xdp_fragment` by a twentieth with the bound on tunnels of first fragments. What watches for floods of SYNs
/// is looked at when all is decided, on the one road that packets take that stay, and added nothing; so did virtual IPs by prefix, which
/// `xdp_fragment` has 3 % more for. `xdp_deliver` rose by 4 % with what each virtual IP has of FLOWS for itself. `pick_listener` rose by a
/// fifth with places of virtual IPs, which a helper of the kernel looked for before; `xdp_steer` would have, but that why a packet stays
/// is no longer carried past the question whether it does. `xdp_steer` rose by 6 % and two others by 4 with owners of full slots that stand in
/// and a list of those asked that keeps the first, and `xdp_general` by a tenth with
/// what comes back from machines of before.
const EXAMINED: [(Hook, u32); 9] = [
    (Hook::XdpSteer, 21_686),
    (Hook::XdpGeneral, 51_875),
    (Hook::XdpFragment, 37_790),
    (Hook::XdpCapture, 29_268),
    (Hook::XdpSyn, 42_087),
    (Hook::XdpBackend, 9_859),
    (Hook::XdpDeliver, 5_449),
    (Hook::SkLookup, 3_843),
    (Hook::SkReuseport, 57),
];
/// On any: it gives up at a million. Before 6.2 every number counts as one that matters as soon as there are functions, and far fewer
/// roads are found to be the same: 6.1 examines 226,000.
const EXAMINED_MAX: u32 = 700_000;
/// Of each program, with all that it does.
const EXAMINED_GOAL: u32 = 60_000;

#[test]
fn the_verifier_examines_no_more_than_it_did() {
    if !ready("the_verifier_examines_no_more_than_it_did") {
        return;
    }
    let kernel = world::kernel().expect("the world loads");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux says its release");
    for (hook, before) in EXAMINED {
        assert!(before + before / 20 <= EXAMINED_GOAL, "{hook:?}: {before} leaves no room below {EXAMINED_GOAL}");
        let facts = sys::program_facts(kernel.program(hook).expect("loaded")).expect("a loaded program");
        let most = if release.starts_with(EXAMINED_BY) { before + before / 20 } else { EXAMINED_MAX };
        let examined = facts.verified_instructions;
        println!("{}: {examined} instructions examined, {most} allowed", facts.name);
        assert!(
            examined <= most,
            "{}: the verifier examines {examined} instructions, 5 % more than the {before} it did: forget what divides its roads \
             (`Tables::forget`), or say here why it has to be",
            facts.name
        );
    }
}

/// The four of [`Fixture::Backends`].
const BACKENDS: [u16; 4] = [BACKEND, BACKEND_V6, BACKEND_FROM, BACKEND_FROM_V6];

impl Both {
    /// Sent as IP in IP, and to whom.
    #[track_caller]
    fn sent_bare(&self, frame: &[u8], reason: Reason) -> (u16, packet::Bare) {
        let (found, bytes) = self.run(frame);
        assert_eq!(found, reason);
        assert_eq!((&bytes[..6], &bytes[6..12]), (&FROM[..], &TO[..]), "link addresses");
        let bare = packet::read_bare(&bytes);
        assert_eq!(bare.inner, inner(frame), "as it came");
        let to = BACKENDS.into_iter().find(|backend| world::address(*backend) == bare.destination);
        (to.expect("a backend"), bare)
    }
}

#[test]
fn backends_get_ip_in_ip() {
    if !ready("backends_get_ip_in_ip") {
        return;
    }
    let both = Both::new();
    for v4 in [true, false] {
        let mut sources = std::collections::BTreeMap::<u16, std::collections::BTreeSet<IpAddr>>::new();
        let mut labels = std::collections::BTreeSet::new();
        for n in 0..200 {
            let mut to = std::collections::BTreeSet::new();
            // A connection has one backend and one source, datagrams of the same ends have theirs.
            for frame in [SYN, ACK, ACK].map(|flags| packet::tcp(client(v4, n), Fixture::Backends.at(v4, 80), flags, 9))
            {
                let (backend, bare) = both.sent_bare(&frame, Reason::Forwarded);
                to.insert((backend, bare.source, bare.label));
            }
            assert_eq!(to.len(), 1, "{to:?}");
            let udp = packet::udp(client(v4, n), Fixture::Backends.at(v4, 8000), b"datagram");
            to.extend(Some(both.sent_bare(&udp, Reason::Forwarded)).map(|(to, bare)| (to, bare.source, bare.label)));
            for (backend, source, label) in to {
                sources.entry(backend).or_default().insert(source);
                if world::address(backend).is_ipv6() {
                    labels.insert(label);
                }
            }
        }
        assert!(labels.len() > 100, "flows have labels of their own: {}", labels.len());
        assert_eq!(sources.keys().copied().collect::<Vec<_>>(), BACKENDS, "each has a share");
        assert_eq!(sources[&BACKEND], [world::address(OWN)].into());
        assert_eq!(sources[&BACKEND_V6], [world::own_v6()].into());
        for (backend, from) in [(BACKEND_FROM, "10.99.128.0"), (BACKEND_FROM_V6, "fd00:99::")] {
            assert!(sources[&backend].len() > 50, "each flow has a source of its own");
            let bits = if backend == BACKEND_FROM { 17 } else { 64 };
            let range = edge_kernel::Prefix { address: from.parse().expect("an address"), bits };
            assert!(sources[&backend].iter().all(|source| range.has(*source)), "{:?}", sources[&backend]);
        }
        // DSCP and ECN go along, and a tag stays in front.
        let segment = packet::tcp_header(40_000, 80, ACK);
        let frame = packet::ip(client(v4, 1).ip(), Fixture::Backends.at(v4, 0).ip(), 6, 0x8d, &segment);
        assert_eq!(both.sent_bare(&frame, Reason::Forwarded).1.class, 0x8d);
        assert_eq!(both.run(&packet::tagged(&frame)).0, Reason::Forwarded);
        // What other machines have sent here goes on, however far it came.
        for hops in [1, HOPS_MAX, 15] {
            let tunnel = packet::tunnel(world::address(OTHER), world::address(OWN), hops, &frame);
            let (reason, bytes) = both.run(&tunnel);
            assert_eq!((reason, packet::read_bare(&bytes).inner), (Reason::Forwarded, inner(&frame).to_vec()));
        }
        both.untouched(&packet::tcp(client(v4, 1), Fixture::Backends.at(v4, 81), SYN, 0), Reason::PortNotServed);
        // Nobody may say that he is a backend, and send what machines do.
        if v4 {
            both.dropped(
                &packet::tunnel(world::address(BACKEND), world::address(OWN), 1, &frame),
                Reason::GueSenderUnknown,
            );
        }
    }
}

#[test]
fn what_does_not_fit_the_way_to_a_backend_is_answered_with_what_does() {
    if !ready("what_does_not_fit_the_way_to_a_backend_is_answered_with_what_does") {
        return;
    }
    let both = Both::new();
    for v4 in [true, false] {
        let headers = if v4 { 40 } else { 60 };
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..40 {
            let sized = |size: usize| packet::tcp(client(v4, n), Fixture::Backends.at(v4, 80), ACK, size - headers);
            let (backend, _) = both.sent_bare(&sized(1460), Reason::Forwarded);
            let fits = if world::address(backend).is_ipv4() { 1480 } else { 1460 };
            assert_eq!(both.sent_bare(&sized(fits), Reason::Forwarded).0, backend);
            let (reason, bytes) = both.run(&sized(fits + 1));
            assert_eq!(reason, Reason::TooBigAnswered);
            let told = if v4 { 14 + 20 + 6 } else { 14 + 40 + 6 };
            assert_eq!(usize::from(u16::from_be_bytes([bytes[told], bytes[told + 1]])), fits);
            seen.insert(backend);
        }
        assert_eq!(seen.len(), BACKENDS.len());
        // An error of a router about what a backend has sent.
        for protocol in [6, 17] {
            let error = icmp_error(v4, Fixture::Backends, 8, protocol);
            let (backend, _) = both.sent_bare(&error, Reason::IcmpErrorForwarded);
            let of = match protocol {
                6 => packet::tcp(client(v4, 1), Fixture::Backends.at(v4, 80), ACK, 0),
                _ => packet::udp(client(v4, 1), Fixture::Backends.at(v4, 80), b"x"),
            };
            assert_eq!(both.sent_bare(&of, Reason::Forwarded).0, backend);
        }
    }
}

#[test]
fn fragments_for_a_backend_follow_the_first_where_they_come_in() {
    if !ready("fragments_for_a_backend_follow_the_first_where_they_come_in") {
        return;
    }
    let both = Both::new();
    for v4 in [true, false] {
        let mut backends = std::collections::BTreeSet::new();
        for n in 0..20 {
            for whole in [
                packet::tcp(client(v4, n), Fixture::Backends.at(v4, 80), ACK, 200),
                packet::udp(client(v4, n), Fixture::Backends.at(v4, 80), &[7; 200]),
            ] {
                let (owner, _) = both.sent_bare(&whole, Reason::Forwarded);
                let parts = packet::fragments(&whole, 64, 100 + n);
                both.dropped(&parts[1], Reason::FragmentEarly);
                for part in &parts {
                    assert_eq!(both.sent_bare(part, Reason::FragmentForwarded).0, owner);
                }
                backends.insert(owner);
            }
        }
        assert_eq!(backends.len(), BACKENDS.len());
    }
}

#[test]
fn connections_stay_with_the_backend_they_began_at() {
    if !ready("connections_stay_with_the_backend_they_began_at") {
        return;
    }
    let mut both = Both::new();
    *both.witness.get_mut() = None;
    // One slot's story, of every slot: 6 drains and 8 takes its new ones, then 8 drains and 7 does, 6 is back, and 8 dies.
    let story: [[u16; 4]; 6] = [
        [BACKEND, 0, 0, 0],
        [BACKEND_FROM, 0, 0, BACKEND],
        // So long ago that what has not spoken since is over.
        [BACKEND_FROM, BACKEND, 0, BACKEND_FROM],
        [BACKEND_V6, BACKEND, 0, BACKEND_FROM],
        [BACKEND, BACKEND_V6, 0, BACKEND_FROM],
        [BACKEND, BACKEND_V6, 0, BACKEND],
    ];
    let mut vips = world::vips();
    let mut held: Vec<(u16, bool, u16)> = Vec::new();
    for (step, owners) in (0u16..).zip(story) {
        for vip in vips.iter_mut().filter(|vip| vip.id == Fixture::BackendsMoved as u16) {
            vip.slots = world::uniform(owners);
        }
        both.kernel.apply(&world::machines(), &vips).expect("applied");
        let went = |n: u16, v4: bool, flags| {
            let frame = packet::tcp(client(v4, n), Fixture::BackendsMoved.at(v4, 80), flags, 5);
            let program = both.kernel.program(Hook::XdpSteer).expect("loaded");
            let bare = packet::read_bare(&sys::test_run(program, &frame, 1).expect("test run").packet);
            BACKENDS.into_iter().find(|backend| world::address(*backend) == bare.destination).expect("a backend")
        };
        let alive = |backend: &u16| owners.contains(backend);
        for (n, v4, backend) in held.iter().filter(|(.., backend)| alive(backend)) {
            assert_eq!(went(*n, *v4, ACK), *backend, "step {step}: a connection of {n}");
            // A trace says so too.
            let at = |address: IpAddr, port| std::net::SocketAddr::new(address, port);
            let vip = Fixture::BackendsMoved.at(*v4, 80);
            let flow =
                Flow { protocol: Protocol::Tcp, source: client(*v4, *n), destination: at(vip.ip(), 80), opens: false };
            let trace = both.kernel.trace(&flow).expect("a trace");
            let tunnel = trace.tunnel.expect("a tunnel");
            assert_eq!((trace.machine, tunnel.backend, tunnel.to), (*backend, true, world::address(*backend)));
        }
        for v4 in [true, false] {
            for n in step * 50..(step + 1) * 50 {
                assert_eq!([SYN, ACK].map(|flags| went(n, v4, flags)), [owners[0]; 2], "step {step}");
                held.push((n, v4, owners[0]));
            }
        }
    }
    // Settled: all that is left is one's.
    assert_eq!(held.len(), 600);
}

impl Both {
    /// Makes these the owners of every slot of a virtual IP, for the programs alone.
    fn backends_own(&mut self, slots: std::sync::Arc<[abi::Slot]>) {
        self.each_own(&[Fixture::BackendsMoved], slots);
    }

    fn each_own(&mut self, fixtures: &[Fixture], slots: std::sync::Arc<[abi::Slot]>) {
        let mut vips = world::vips();
        for vip in vips.iter_mut().filter(|vip| fixtures.iter().any(|fixture| *fixture as u16 == vip.id)) {
            vip.slots = slots.clone();
        }
        self.kernel.apply(&world::machines(), &vips).expect("applied");
    }

    /// Whom the programs send a packet to; none: they drop it.
    fn goes_to(&self, frame: &[u8]) -> Option<u16> {
        let program = self.kernel.program(Hook::XdpSteer).expect("loaded");
        let ran = sys::test_run(program, frame, 1).expect("test run");
        if ran.verdict == 1 {
            return None;
        }
        let to = packet::read_bare(&ran.packet).destination;
        BACKENDS.into_iter().find(|backend| world::address(*backend) == to)
    }
}

#[test]
fn fragments_go_where_the_first_went_or_nowhere() {
    if !ready("fragments_go_where_the_first_went_or_nowhere") {
        return;
    }
    let mut both = Both::new();
    // Every other slot is nobody's.
    let slots = (0..abi::limits::SLOTS).map(|slot| abi::Slot::of(if slot % 2 == 0 { 0 } else { BACKEND }));
    both.backends_own(slots.collect());
    for v4 in [true, false] {
        let mut ends = std::collections::BTreeSet::new();
        for n in 0..60 {
            let whole = packet::udp(client(v4, n), Fixture::BackendsMoved.at(v4, 80), &[7; 200]);
            let parts = packet::fragments(&whole, 64, 300 + n);
            let first = both.goes_to(&parts[0]);
            assert_eq!(first, both.goes_to(&whole));
            for later in &parts[1..] {
                assert_eq!(both.goes_to(later), first, "{n}: with no ports there is nothing that chooses another slot");
            }
            ends.insert(first);
        }
        assert_eq!(ends.len(), 2, "{ends:?}");
    }
}

#[test]
fn connections_are_remembered_within_bounds_and_no_longer_than_their_backend() {
    if !ready("connections_are_remembered_within_bounds_and_no_longer_than_their_backend") {
        return;
    }
    let mut both = Both::new();
    let numbered = |n: u32, flags| {
        let from = IpAddr::from([100, 64, (n >> 8) as u8, n as u8]);
        let port = 1_024 + (n >> 16) as u16;
        packet::tcp(std::net::SocketAddr::new(from, port), Fixture::BackendsMoved.at(true, 80), flags, 0)
    };
    both.backends_own(world::uniform([BACKEND_FROM, 0, 0, BACKEND]));
    assert_eq!([SYN, ACK].map(|flags| both.goes_to(&numbered(0, flags))), [Some(BACKEND_FROM); 2]);
    assert_eq!(both.goes_to(&numbered(1, ACK)), Some(BACKEND));
    let counts = both.kernel.flow_counts();
    assert_eq!((counts.present, counts.remembered, counts.refused), (2, 2, 0));
    // With the backend what it had is forgotten: its number may be another's, and the client's port a new connection's.
    both.backends_own(world::uniform([BACKEND, 0, 0, 0]));
    assert_eq!(both.kernel.flow_counts().present, 0);
    both.backends_own(world::uniform([BACKEND_FROM, 0, 0, BACKEND]));
    assert_eq!(both.goes_to(&numbered(0, ACK)), Some(BACKEND));

    // A flood of SYNs. What comes too fast is somebody's all the same: who had the slot before, then and later.
    let refused = (2..4_000_000).find(|n| both.goes_to(&numbered(*n, SYN)) == Some(BACKEND));
    let refused = refused.expect("one that came too fast");
    assert_eq!(both.goes_to(&numbered(refused, ACK)), Some(BACKEND));
    let mut next = refused + 1;
    while both.kernel.flow_counts().forgotten == 0 {
        assert!(next < 40_000_000, "{:?}", both.kernel.flow_counts());
        for n in next..next + 10_000 {
            both.goes_to(&numbered(n, SYN));
        }
        next += 10_000;
    }
    let counts = both.kernel.flow_counts();
    assert!(counts.present <= 65_536 && counts.refused > 0, "{counts:?}");
    both.backends_own(world::uniform([BACKEND_FROM, 0, 0, 0]));
    let after = both.kernel.flow_counts();
    assert_eq!((after.present, after.forgotten), (0, counts.forgotten), "what is taken out is not driven out");
}

#[test]
fn a_flood_at_one_virtual_ip_leaves_room_for_what_begins_at_others() {
    if !ready("a_flood_at_one_virtual_ip_leaves_room_for_what_begins_at_others") {
        return;
    }
    let mut both = Both::new();
    both.each_own(&[Fixture::Backends, Fixture::BackendsMoved], world::uniform([BACKEND_FROM, 0, 0, BACKEND]));
    let numbered = |fixture: Fixture, n: u32, flags| {
        let from = IpAddr::from([100, 64, (n >> 8) as u8, n as u8]);
        packet::tcp(std::net::SocketAddr::new(from, 1_024 + (n >> 16) as u16), fixture.at(true, 80), flags, 0)
    };
    let flood = |n: u32| both.goes_to(&numbered(Fixture::BackendsMoved, n, SYN));
    let mut next = (0..4_000_000).find(|n| flood(*n) == Some(BACKEND)).expect("one that came too fast");
    // It goes on, and takes all that is had for so many.
    for n in 0..200 {
        for _ in 0..50 {
            next += 1;
            flood(next);
        }
        let begun = [SYN, ACK].map(|flags| both.goes_to(&numbered(Fixture::Backends, n, flags)));
        assert_eq!(begun, [Some(BACKEND_FROM); 2], "{n}: {:?}", both.kernel.flow_counts());
    }
}

#[test]
fn what_a_second_opinion_found() {
    if !ready("what_a_second_opinion_found") {
        return;
    }
    let both = Both::new();
    // An IPv4 address as IPv6 has it was taken for the IPv4 address.
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        v6 => v6,
    };
    let (from, to) = (client(false, 1).ip(), mapped(Fixture::Elsewhere.v4()));
    let frame = packet::ip(from, to, 6, 0, &packet::tcp_header(40_000, 80, ACK));
    both.untouched(&frame, Reason::NotVip);
    both.dropped(&packet::tunnel(world::address(OTHER), world::address(OWN), 1, &frame), Reason::GueInnerNotVip);
    // What follows a packet in its frame is no part of it, be it a quote.
    let quoted = packet::tcp(Fixture::Elsewhere.at(true, 80), client(true, 1), ACK, 0);
    let mut error = packet::icmp(client(true, 9).ip(), Fixture::Elsewhere.v4(), 3, 4, [0; 4], &[]);
    error.extend(&quoted[14..]);
    both.dropped(&error, Reason::IcmpTruncated);
    // An error about an error: one that asks for a second chance and does not fit was answered.
    for v4 in [true, false] {
        let size = if v4 { 1_420 } else { 1_380 };
        let sent = packet::tcp(Fixture::HereBefore.at(v4, 80), client(v4, 1), ACK, size);
        let kind = if v4 { 3 } else { 2 };
        let error = packet::icmp(client(v4, 9).ip(), Fixture::HereBefore.at(v4, 80).ip(), kind, 4, [0; 4], &sent[14..]);
        assert!(error.len() > 1_466 && error.len() <= 1_514, "{}", error.len());
        both.dropped(&error, Reason::TooBigDropped);
    }
    // First fragments went on with whatever number of tunnels behind them, and round and round where tables differed.
    let first = |n| {
        let whole = packet::tcp(client(true, n), Fixture::SpreadFiveTuple.at(true, 80), ACK, 200);
        packet::fragments(&whole, 64, 7).swap_remove(0)
    };
    let after = |hops, part: &[u8]| both.run(&packet::tunnel(world::address(OTHER), world::address(OWN), hops, part)).0;
    let goes_on = (1..1_000).map(first).find(|part| after(1, part) == Reason::FragmentForwarded);
    let goes_on = goes_on.expect("some meet here and are another's");
    for hops in [HOPS_MAX, HOPS_MAX + 1, 15] {
        assert_eq!(after(hops, &goes_on), Reason::Decapsulated, "{hops} tunnels");
    }
    // A tunnel that says that a backend has its connection was sent on to it, with the cluster's cookie.
    let ack = packet::tcp(client(true, 7), Fixture::Empty.at(true, 80), ACK, 0);
    let claimed = packet::tunnel(world::address(OTHER), world::address(OWN), gue::pack(5, 3, 2), &ack);
    both.dropped(&packet::asked(&claimed, &[60, THIRD, BACKEND, 60]), Reason::MachineUnknown);
    // The claim of a machine that is forgotten with the next question was given to another.
    let ack = packet::tcp(client(true, 1), Fixture::HereLong.at(true, 80), ACK, 0);
    for (place, claim) in [(1, (gue::held::CLOSING, 2)), (2, (gue::held::NOTHING, 0)), (3, (gue::held::CLOSING, 3))] {
        let packed = gue::pack(4, gue::held::CLOSING, place);
        let tunnel = packet::tunnel(world::address(OTHER), world::address(OWN), packed, &ack);
        let (_, bytes) = both.run(&packet::asked(&tunnel, &[50, 51, 52, 53]));
        let went = packet::read_tunnel(&bytes);
        assert_eq!(((went.held, went.at), went.asked), (claim, [OWN, 50, 51, 53]), "place {place}");
    }
}
