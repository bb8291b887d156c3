//! SYN cookies: what is answered, with what, and that a flood keeps no client out.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use abi::limit::Rate;
use abi::{Reason, config};
use edge_kernel::{Hash, Hook, Kernel, Machine, Options, Protocol, Vip, VipLimits};
use kernel_tests::model::Model;
use kernel_tests::mutation::{mutate, mutated};
use kernel_tests::namespace::Namespace;
use kernel_tests::packet::{self, ACK, FROM, Random, SYN, TO};
use kernel_tests::ready;
use kernel_tests::witness::{self, Witness};
use kernel_tests::world::{self, Fixture, OTHER, OVER_V6, OWN, client};

/// One connection an hour, and none more at once.
fn one_an_hour() -> Rate {
    Rate { each_ns: 3_600_000_000_000, burst_ns: 3_600_000_000_000 }
}

fn watched(fixture: Fixture) -> Vec<Vip> {
    let limits = VipLimits { cookies: Some(one_an_hour()), ..VipLimits::default() };
    world::vips().into_iter().map(|vip| if vip.id == fixture as u16 { Vip { limits, ..vip } } else { vip }).collect()
}

/// A SYN with these options.
fn syn(from: SocketAddr, to: SocketAddr, options: &[u8]) -> Vec<u8> {
    let mut header = packet::tcp_header(from.port(), to.port(), SYN);
    header[4..8].copy_from_slice(&0xffff_ffff_u32.to_be_bytes());
    header[12] = ((20 + options.len()) as u8 / 4) << 4;
    packet::ip(from.ip(), to.ip(), 6, 0, &[&header, options].concat())
}

/// The sum over TCP's pseudo header and the segment: 0xffff where its checksum is right.
fn sum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u32 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let pseudo = [octets(from), octets(to), vec![0, 6], (segment.len() as u16).to_be_bytes().to_vec()].concat();
    let words = pseudo.chunks(2).chain(segment.chunks(2));
    let sum = words.fold(0u32, |sum, word| sum + u32::from(word[0]) * 256 + u32::from(*word.get(1).unwrap_or(&0)));
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16)
}

/// What Linux sends: MSS, SACK, a clock, and the scale of its window.
const LINUX: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 9];

#[test]
fn a_syn_is_answered_with_a_cookie_and_what_the_client_offered() {
    if !ready("a_syn_is_answered_with_a_cookie_and_what_the_client_offered") {
        return;
    }
    for v4 in [true, false] {
        let mut model = Model::of(&world::machines(), &watched(Fixture::Here));
        let (from, to) = (client(v4, 1), Fixture::Here.at(v4, 80));
        model.cookie = Some(0x0102_0304);
        // The first one is no flood.
        assert_eq!(model.run(&syn(from, to, &LINUX)).0.reason, Reason::Local);
        let answer = |model: &Model, options: &[u8], tag: bool| {
            let frame = syn(from, to, options);
            let frame = if tag { packet::tagged(&frame) } else { frame };
            let (outcome, bytes) = model.run(&frame);
            assert_eq!((outcome.reason, outcome.vip), (Reason::SynCookieSent, Fixture::Here as u16));
            assert_eq!((&bytes[..6], &bytes[6..12]), (&FROM[..], &TO[..]));
            let link = if tag { 18 } else { 14 };
            let tcp = bytes[link + if v4 { 20 } else { 40 }..].to_vec();
            let length = if v4 {
                u16::from_be_bytes([bytes[link + 2], bytes[link + 3]]) as usize - 20
            } else {
                u16::from_be_bytes([bytes[link + 4], bytes[link + 5]]) as usize
            };
            assert_eq!(tcp.len(), length, "the frame ends with the packet");
            assert_eq!(tcp[..4], [to.port().to_be_bytes(), from.port().to_be_bytes()].concat());
            assert_eq!(tcp[4..8], 0x0102_0304_u32.to_be_bytes());
            assert_eq!(tcp[8..12], [0; 4], "one more than its number, around the end");
            assert_eq!((tcp[12] as usize >> 4, tcp[13]), (tcp.len() / 4, SYN | ACK));
            assert_eq!(sum(to.ip(), from.ip(), &tcp), 0xffff, "{tcp:02x?}");
            if v4 {
                let header = &bytes[link..link + 20];
                assert_eq!(header.chunks(2).fold(0u32, |s, w| s + u32::from(w[0]) * 256 + u32::from(w[1])) % 0xffff, 0);
            }
            tcp[20..].to_vec()
        };
        let most = (1500 - 68 - 20 - if v4 { 20 } else { 40 }) as u16;
        let segment = [&[2, 4][..], &most.to_be_bytes()].concat();
        for options in [&LINUX[..], &[], &[1; 40], &[3, 0, 0, 0], &[8, 10, 1, 2], &[0, 3, 3, 7], &[2, 4, 5, 180]] {
            assert_eq!(answer(&model, options, false), segment, "{options:?}: the stack adds to its clocks");
        }
        model.syn_options = config::syn::word(true, 7);
        for (options, sack, said) in [
            (&LINUX[..], true, 0x10 | 9),
            (&[8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 1], false, 15),
            (&[1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 3, 3, 15, 0], false, 14),
        ] {
            let told = answer(&model, options, v4);
            assert_eq!((told.len(), &told[..4]), (20, &segment[..]));
            assert_eq!(told[4..8], [if sack { [4, 2] } else { [1, 1] }, [8, 10]].concat());
            assert_eq!((told[11] & 0x3f, &told[12..16]), (said, &[1, 2, 3, 4][..]), "its clock, and ours");
            assert_eq!(told[16..], if said == 15 { [1; 4] } else { [1, 3, 3, 7] });
        }
        assert_eq!(answer(&model, &[2, 4, 5, 180], false), segment, "a client without a clock");

        // What is no SYN and nothing else stays, and so does what no listener would take.
        let stays = |model: &Model, frame: &[u8], reason: Reason| {
            let (outcome, bytes) = model.run(frame);
            assert_eq!((outcome.reason, outcome.vip), (reason, Fixture::Here as u16));
            assert!(reason != Reason::Local || bytes == frame);
        };
        stays(&model, &packet::tcp(from, to, SYN, 5), Reason::Local);
        stays(&model, &packet::tcp(from, to, SYN | 1, 0), Reason::Local);
        let tunnel = packet::tunnel(world::address(OTHER), world::address(OWN), 1, &syn(from, to, &LINUX));
        stays(&model, &tunnel, Reason::Decapsulated);
        stays(&model, &packet::tcp(from, to, ACK, 0), Reason::SynCookieWrong);

        // Of what another machine sent on, the answer goes to the router that the routes name, as that of any other does to where it is from.
        let alone = model.run(&syn(from, to, &LINUX)).1;
        model.way_to =
            Some(|client| if client == world::client(client.is_ipv4(), 1).ip() { ROUTER } else { abi::way::NONE });
        for outer in [OTHER, OVER_V6] {
            let own = if outer == OVER_V6 { world::own_v6() } else { world::address(OWN) };
            let tunnel = |inner: &[u8]| packet::tunnel(world::address(outer), own, 1, inner);
            let (outcome, bytes) = model.run(&tunnel(&syn(from, to, &LINUX)));
            let said = (outcome.reason, outcome.vip, outcome.hops, outcome.machine);
            assert_eq!(said, (Reason::SynCookieSent, Fixture::Here as u16, 1, 0));
            assert_eq!((&bytes[..6], &bytes[6..12]), (&ROUTER.to_le_bytes()[..6], &TO[..]));
            let at = 14 + if v4 { 20 } else { 40 };
            assert_eq!(bytes[12..at + 20], alone[12..at + 20], "all else as without the tunnel");
            assert_eq!(bytes.len(), alone.len());
            stays(&model, &tunnel(&syn(client(v4, 2), to, &LINUX)), Reason::Decapsulated);
            stays(&model, &packet::tagged(&tunnel(&syn(from, to, &LINUX))), Reason::Decapsulated);
            stays(&model, &tunnel(&packet::tcp(from, to, ACK, 0)), Reason::SynCookieWrong);
        }
        model.cookie = None;
        stays(&model, &syn(from, to, &LINUX), Reason::Local);
        stays(&model, &packet::tcp(from, to, ACK, 0), Reason::Local);
        let datagram = packet::udp(from, to, b"datagram");
        stays(&model, &datagram, Reason::Local);
    }
}

/// As `abi::way` has it: 2:0:0:0:0:9.
const ROUTER: u64 = 0x0900_0000_0002;

#[test]
fn a_second_opinion_agrees_on_what_is_answered_with_what() {
    const PACKETS: usize = 60_000;
    let limits = VipLimits { cookies: Some(one_an_hour()), ..VipLimits::default() };
    let vips: Vec<Vip> = world::vips().into_iter().map(|vip| Vip { limits, ..vip }).collect();
    let machines = world::machines();
    fn router(client: IpAddr) -> u64 {
        match client {
            IpAddr::V4(ip) if ip.octets()[3] % 2 == 0 => ROUTER,
            IpAddr::V6(ip) if ip.segments()[3] % 2 == 0 => ROUTER,
            _ => abi::way::NONE,
        }
    }
    let mut counted = std::collections::BTreeMap::<(&str, bool), u32>::new();
    for cookie in [Some(0xfffe_1234), None] {
        let mut model = Model::of(&machines, &vips);
        model.cookie = cookie;
        model.ways_last = Duration::MAX;
        model.way_to = Some(router);
        let mut witness = Witness::new(machines.clone(), vips.clone(), [world::address(OWN), world::own_v6()]);
        witness.syn_cookie = cookie;
        witness.router_of = |client| (router(client) != abi::way::NONE).then_some([2, 0, 0, 0, 0, 9]);
        // The first connection of each takes all there is, wherever it was sent first.
        for fixture in Fixture::ALL {
            for v4 in [true, false] {
                let first = syn(client(v4, 1), fixture.at(v4, 80), &[]);
                model.run(&packet::tunnel(world::address(OTHER), world::address(OWN), 1, &first));
            }
        }
        witness.flooded = vips.iter().map(|vip| vip.id).collect();
        let mut random = Random(7);
        for n in 0..PACKETS {
            let seed = random.0;
            let frame = if n % 3 == 0 { mutated(&mut random) } else { some_syn(&mut random) };
            let (outcome, bytes) = model.run(&frame);
            let said = witness.judge(&frame);
            let dropped = outcome.reason.verdict() == abi::Verdict::Drop;
            assert!(
                said.reason == outcome.reason
                    && said.machine == outcome.machine
                    && (dropped || witness::same(&said.frame, &bytes, said.reason)),
                "seed {seed}: the host {outcome:?}, the second opinion {} and machine {}\nin     {frame:02x?}\nhost   {bytes:02x?}\n\
                 second {:02x?}",
                said.reason.name(),
                said.machine,
                said.frame
            );
            *counted.entry((outcome.reason.name(), outcome.hops > 0)).or_default() += 1;
        }
    }
    println!("{counted:?}");
    for reason in [Reason::SynCookieSent, Reason::SynCookieWrong] {
        for tunnelled in [true, false] {
            let times = counted.get(&(reason.name(), tunnelled)).copied().unwrap_or_default();
            assert!(times > 500, "{} {times} times, tunnelled: {tunnelled}", reason.name());
        }
    }
}

/// A SYN with options drawn at random, or what looks like one, alone or sent on by another machine.
fn some_syn(random: &mut Random) -> Vec<u8> {
    let v4 = random.below(2) == 0;
    let to = Fixture::ALL[random.below(Fixture::ALL.len())].at(v4, 80);
    let words = random.below(11);
    let options: Vec<u8> = match random.below(3) {
        0 => LINUX.to_vec(),
        1 => vec![1; 4 * words],
        _ => (0..4 * words).map(|_| random.number() as u8).collect(),
    };
    let mut frame = syn(client(v4, random.below(5000) as u16), to, &options);
    if random.below(3) == 0 {
        let tcp = 14 + if v4 { 20 } else { 40 };
        frame[tcp + 13] = [SYN | 1, SYN | 4, SYN | 8, ACK, SYN | ACK, 4, 0][random.below(7)];
    }
    if random.below(2) == 0 {
        let own = world::address(OWN);
        frame = packet::tunnel(world::address(OTHER), own, 1 + random.below(6) as u8, &frame);
    }
    if random.below(6) == 0 {
        frame = packet::tagged(&frame);
    }
    if random.below(4) == 0 { mutate(random, frame) } else { frame }
}

const VIP: [&str; 2] = ["198.51.100.1:80", "[2001:db8:51::1]:80"];

/// A raw socket that frames are sent by as they are.
fn raw(device: &str) -> OwnedFd {
    let name = std::ffi::CString::new(device).expect("a word");
    // SAFETY: plain calls on a descriptor of our own; all zeros is a valid address, which lives through them.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        let fd = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        assert_eq!(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length), 0);
        fd
    }
}

/// SYNs and ACKs from forged addresses until it is over; says how many.
fn flood(over: &AtomicBool) -> u64 {
    let socket = raw("c0");
    let mut sent = 0u64;
    while !over.load(Ordering::Relaxed) {
        for n in 0..64 {
            let forged = (sent + n).wrapping_mul(2_654_435_761) as u32;
            let [a, b, c, d] = forged.to_be_bytes();
            let to: SocketAddr = VIP[n as usize % 2].parse().expect("an address");
            let ip = if to.is_ipv4() {
                IpAddr::from([10, 9, a, b])
            } else {
                IpAddr::from([0xfd00, 9, 0, 0, 0, 0, u16::from_be_bytes([a, b]), 1])
            };
            let from = SocketAddr::new(ip, u16::from_be_bytes([c, d]) | 1024);
            let flags = if n % 8 == 7 { ACK } else { SYN };
            let mut header = packet::tcp_header(from.port(), to.port(), flags);
            let check = !sum(from.ip(), to.ip(), &header) as u16;
            header[16..18].copy_from_slice(&check.to_be_bytes());
            let frame = packet::ip(from.ip(), to.ip(), 6, 0, &header);
            // SAFETY: the frame lives through the call.
            unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        }
        sent += 64;
        std::thread::sleep(Duration::from_millis(2));
    }
    sent
}

/// Bits of `tcpi_options`, and the scale of the other end's window.
fn options(stream: &TcpStream) -> (u8, u8) {
    let mut facts = [0u8; 8];
    let mut length = facts.len() as libc::socklen_t;
    // SAFETY: as many bytes of `struct tcp_info` as there is room for.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, facts.as_mut_ptr().cast(), &mut length)
    };
    assert_eq!(result, 0);
    (facts[5], facts[6] & 0x0f)
}

fn talk(to: &str) -> std::io::Result<(u8, u8)> {
    let mut stream = TcpStream::connect_timeout(&to.parse().expect("an address"), Duration::from_secs(30))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    // More than a window that is not scaled holds.
    let upload = vec![7; 300_000];
    stream.write_all(&(upload.len() as u32).to_be_bytes())?;
    stream.write_all(&upload)?;
    stream.read_exact(&mut [0])?;
    Ok(options(&stream))
}

fn serve(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept() {
        std::thread::spawn(move || -> std::io::Result<()> {
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            std::io::copy(&mut (&stream).take(u32::from_be_bytes(length).into()), &mut std::io::sink())?;
            stream.write_all(b"!")
        });
    }
}

/// Port 80 of the addresses, all of it of one machine.
fn guarded(addresses: &[IpAddr], owner: u16, cookies: Option<Rate>) -> Vip {
    Vip {
        id: 1,
        name: "v".into(),
        addresses: addresses.iter().map(|ip| (*ip).into()).collect(),
        ports: vec![80..=80],
        protocols: vec![Protocol::Tcp],
        hash: Hash::FiveTuple,
        slots: world::uniform([owner, 0, 0, 0]),
        limits: VipLimits { cookies, ..VipLimits::default() },
        earlier: None,
        backends: false,
    }
}

#[test]
fn a_flood_of_syns_keeps_no_client_out() {
    if !ready("a_flood_of_syns_keeps_no_client_out") {
        return;
    }
    const SACK_CLOCK_SCALE: u8 = 7;
    for timestamps in ["1", "2"] {
        let (client, edge) = (Namespace::new("client"), Namespace::new("edge"));
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        client.join("c0", &[ip("10.1.1.1"), ip("fd00:1::1")], &edge, "e0", &[ip("10.1.1.2"), ip("fd00:1::2")]);
        let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        client.ip(&["link", "set", "c0", "address", &mac(FROM)]);
        edge.ip(&["link", "set", "e0", "address", &mac(TO)]);
        client.take_frames("c0");
        for (gateway, default) in [("10.1.1.2", "198.51.100.1/32"), ("fd00:1::2", "2001:db8:51::1/128")] {
            client.ip(&["route", "add", default, "via", gateway]);
        }
        for gateway in ["10.1.1.1", "fd00:1::1"] {
            edge.ip(&["route", "add", "default", "via", gateway]);
        }
        edge.sysctl("net/ipv4/tcp_timestamps", timestamps);
        edge.sysctl("net/ipv4/tcp_syncookies", "1");
        edge.sysctl("net/core/somaxconn", "16");
        let options =
            Options { interfaces: vec!["e0".into()], pin_dir: None, sizes: world::sizes(), ..Options::default() };
        let mut kernel = edge.enter(|| Kernel::load(options).unwrap_or_else(|e| panic!("{e}")));
        if kernel.program(Hook::XdpSyn).is_none() {
            println!("skipped: this kernel does not take the program");
            return;
        }
        let vips = VIP.map(|vip| vip.parse::<SocketAddr>().expect("an address").ip()).to_vec();
        let own =
            Machine { index: OWN, name: "e".into(), address: ip("10.1.1.2"), next_hop: None, backend: None, own: true };
        let vip = guarded(&vips, OWN, Some(Rate::new(20, 4)));
        edge.enter(|| {
            kernel.apply(&[own], &[vip]).unwrap_or_else(|e| panic!("{e}"));
            kernel.set_local_addresses(&vips).unwrap_or_else(|e| panic!("{e}"));
        });
        let listener = edge.enter(|| TcpListener::bind("[::]:80").expect("a listener"));
        std::thread::spawn(move || serve(listener));
        let calm = client.enter(|| talk(VIP[0])).expect("without a flood");
        assert_eq!(calm.0 & SACK_CLOCK_SCALE, SACK_CLOCK_SCALE);

        let over = AtomicBool::new(false);
        let packets = |reason: Reason| kernel.counters().packets(reason);
        std::thread::scope(|scope| {
            let flood = scope.spawn(|| client.enter(|| flood(&over)));
            let patience = std::time::Instant::now() + Duration::from_secs(60);
            while packets(Reason::SynCookieSent) == 0 || packets(Reason::SynCookieWrong) == 0 {
                assert!(std::time::Instant::now() < patience && !flood.is_finished(), "nothing is answered");
                std::thread::sleep(Duration::from_millis(20));
            }
            let mut by_cookie = 0;
            for n in 0..200 {
                let told = client.enter(|| talk(VIP[n % 2])).unwrap_or_else(|e| panic!("client {n}: {e}"));
                let whole = told.0 & SACK_CLOCK_SCALE == SACK_CLOCK_SCALE;
                by_cookie += u32::from(!whole);
                if timestamps == "2" {
                    assert_eq!((whole, told.1), (true, calm.1), "a cookie with a clock forgets nothing");
                }
            }
            over.store(true, Ordering::Relaxed);
            let sent = flood.join().expect("the flood");
            let (answered, wrong) = (packets(Reason::SynCookieSent), packets(Reason::SynCookieWrong));
            println!(
                "tcp_timestamps = {timestamps}: {sent} forged, {answered} answered, {wrong} without a cookie dropped, \
                 {by_cookie} of 200 clients without options"
            );
            assert!(answered > sent / 2 && wrong > sent / 16, "{sent}: {answered} {wrong}");
            assert!(timestamps == "2" || by_cookie > 100, "most began by a cookie: {by_cookie}");
        });
    }
}

/// How often this namespace's stack has made a SYN cookie. Meant for the namespace.
fn made_by_the_stack() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").expect("the stack counts");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut counted = names.split(' ').zip(values.split(' '));
    counted.find(|(name, _)| *name == "SyncookiesSent").map_or(0, |(_, count)| count.parse().expect("a number"))
}

/// SYNs that were sent again until the connection was there.
fn repeated(stream: &TcpStream) -> u32 {
    const TOTAL_RETRANS: usize = 100;
    let mut facts = [0u8; TOTAL_RETRANS + 4];
    let mut length = facts.len() as libc::socklen_t;
    // SAFETY: as many bytes of `struct tcp_info` as there is room for.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, facts.as_mut_ptr().cast(), &mut length)
    };
    assert_eq!(result, 0);
    u32::from_ne_bytes(facts[TOTAL_RETRANS..].try_into().expect("four bytes"))
}

/// Of clients one after the other beside a flood: how many could not connect, how many had to ask more than once, and how many SYNs and
/// ACKs were forged.
fn beside_a_flood(client: &Namespace, clients: usize, begun: impl Fn() -> bool) -> (usize, usize, u64) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| client.enter(|| flood(&over)));
        let patience = std::time::Instant::now() + Duration::from_secs(60);
        while !begun() {
            assert!(std::time::Instant::now() < patience && !flood.is_finished(), "the flood has no effect");
            std::thread::sleep(Duration::from_millis(20));
        }
        let (mut lost, mut again) = (0, 0);
        for n in 0..clients {
            let to = VIP[n % 2].parse().expect("an address");
            match client.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(3))) {
                Ok(stream) => again += usize::from(repeated(&stream) > 0),
                Err(_) => lost += 1,
            }
        }
        over.store(true, Ordering::Relaxed);
        (lost, again, flood.join().expect("the flood"))
    })
}

#[test]
fn syns_that_another_machine_sent_on_are_answered_by_who_serves_them() {
    if !ready("syns_that_another_machine_sent_on_are_answered_by_who_serves_them") {
        return;
    }
    const CLIENTS: usize = 100;
    let (client, router) = (Namespace::new("client"), Namespace::new("router"));
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    router.sysctl("net/ipv4/ip_forward", "1");
    router.sysctl("net/ipv6/conf/all/forwarding", "1");
    client.join("c0", &[ip("10.0.0.2"), ip("fd00::2")], &router, "rc", &[ip("10.0.0.1"), ip("fd00::1")]);
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    client.ip(&["link", "set", "c0", "address", &mac(FROM)]);
    router.ip(&["link", "set", "rc", "address", &mac(TO)]);
    for (gateway, forged) in [("10.0.0.1", "10.9.0.0/16"), ("fd00::1", "fd00:9::/32")] {
        client.ip(&["route", "add", "default", "via", gateway]);
        let back = if gateway == "10.0.0.1" { "10.0.0.2" } else { "fd00::2" };
        router.ip(&["route", "add", forged, "via", back]);
    }
    let vips = VIP.map(|vip| vip.parse::<SocketAddr>().expect("an address").ip()).to_vec();
    let address = |edge: u16| IpAddr::from([10, 1, edge as u8, 2]);
    // What comes to the first is the second's.
    let mut edges = [1u16, 2].map(|edge| {
        let namespace = Namespace::new(&format!("e{edge}"));
        let routers = [IpAddr::from([10, 1, edge as u8, 1]), IpAddr::from([0xfd00, 1, edge, 0, 0, 0, 0, 1])];
        let own = [address(edge), IpAddr::from([0xfd00, 1, edge, 0, 0, 0, 0, 2])];
        router.join(&format!("r{edge}"), &routers, &namespace, "e0", &own);
        router.take_frames(&format!("r{edge}"));
        routers.iter().for_each(|gateway| namespace.ip(&["route", "add", "default", "via", &gateway.to_string()]));
        if edge == 1 {
            vips.iter()
                .zip(own)
                .for_each(|(vip, own)| router.ip(&["route", "add", &vip.to_string(), "via", &own.to_string()]));
        }
        namespace.sysctl("net/core/somaxconn", "16");
        let options =
            Options { interfaces: vec!["e0".into()], pin_dir: None, sizes: world::sizes(), ..Options::default() };
        let kernel = namespace.enter(|| Kernel::load(options).unwrap_or_else(|e| panic!("{e}")));
        (namespace, kernel)
    });
    if edges[1].1.program(Hook::XdpSyn).is_none() {
        println!("skipped: this kernel does not take the program");
        return;
    }
    let apply = |edges: &mut [(Namespace, Kernel)], cookies: Option<Rate>| {
        for (edge, (namespace, kernel)) in [1, 2].into_iter().zip(edges) {
            let machine = |index: u16| Machine {
                index,
                name: format!("e{index}"),
                address: address(index),
                next_hop: None,
                backend: None,
                own: index == edge,
            };
            let vip = guarded(&vips, 2, cookies);
            world::set_cookies(kernel);
            namespace.enter(|| {
                kernel.apply(&[machine(1), machine(2)], &[vip]).unwrap_or_else(|e| panic!("{e}"));
                kernel.set_local_addresses(&vips).unwrap_or_else(|e| panic!("{e}"));
                let patience = std::time::Instant::now() + Duration::from_secs(60);
                // Of both families, once their routers have said who they are.
                while kernel.follow(&[address(3 - edge)]).ways != if cookies.is_some() { 2 } else { 0 } {
                    assert!(std::time::Instant::now() < patience, "the ways to clients are not as they should be");
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
    };
    apply(&mut edges, Some(Rate::new(200, 20)));
    let listener = edges[1].0.enter(|| TcpListener::bind("[::]:80").expect("a listener"));
    std::thread::spawn(move || serve(listener));
    client.enter(|| talk(VIP[0])).expect("without a flood");

    let (namespace, kernel) = &edges[1];
    let packets = |reason: Reason| kernel.counters().packets(reason);
    let (lost, again, sent) = beside_a_flood(&client, CLIENTS, || packets(Reason::SynCookieSent) > 0);
    let (answered, stack) = (packets(Reason::SynCookieSent), namespace.enter(made_by_the_stack));
    println!(
        "with synCookies: {sent} forged, {answered} answered in XDP, {stack} cookies by the stack, {lost} of {CLIENTS} clients lost, \
         {again} asked again"
    );
    assert_eq!(lost, 0);
    assert!(answered > sent / 2, "{answered} of {sent} answered");
    assert_eq!(edges[0].1.counters().packets(Reason::SynCookieSent), 0, "the first serves none");
    // A connection that began by such a cookie is one like any other.
    client.enter(|| talk(VIP[1])).expect("after the flood");

    apply(&mut edges, None);
    let (namespace, kernel) = &edges[1];
    let before = namespace.enter(made_by_the_stack);
    let made = || namespace.enter(made_by_the_stack) - before;
    let (lost, again, sent) = beside_a_flood(&client, CLIENTS, || made() > 0);
    println!(
        "without: {sent} forged, {} cookies by the stack, {lost} of {CLIENTS} clients lost, {again} asked again",
        made()
    );
    assert_eq!(kernel.counters().packets(Reason::SynCookieSent), answered, "it is off");
    assert!(made() > stack, "what XDP does not answer the stack does: {} and {stack}", made());

    // And where the stack may not either.
    namespace.sysctl("net/ipv4/tcp_syncookies", "0");
    let arrived = || kernel.counters().packets(Reason::Decapsulated);
    let before = arrived();
    let (lost, again, sent) = beside_a_flood(&client, CLIENTS / 10, || arrived() > before + 1_000);
    println!(
        "and with net.ipv4.tcp_syncookies = 0: {sent} forged, {lost} of {} clients lost, {again} asked again",
        CLIENTS / 10
    );
    assert!(lost > 0, "the flood is one");
}
