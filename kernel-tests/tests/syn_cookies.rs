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
use kernel_tests::namespace::Namespace;
use kernel_tests::packet::{self, ACK, FROM, SYN, TO};
use kernel_tests::ready;
use kernel_tests::world::{self, Fixture, OTHER, OWN, client};

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
        model.cookie = None;
        stays(&model, &syn(from, to, &LINUX), Reason::Local);
        stays(&model, &packet::tcp(from, to, ACK, 0), Reason::Local);
        let datagram = packet::udp(from, to, b"datagram");
        stays(&model, &datagram, Reason::Local);
    }
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
        let own = Machine { index: OWN, name: "e".into(), address: ip("10.1.1.2"), next_hop: None, own: true };
        let vip = Vip {
            id: 1,
            name: "v".into(),
            addresses: vips.clone(),
            ports: vec![80..=80],
            protocols: vec![Protocol::Tcp],
            hash: Hash::FiveTuple,
            slots: world::uniform([OWN, 0, 0, 0]),
            limits: VipLimits { cookies: Some(Rate::new(200, 20)), ..VipLimits::default() },
            earlier: None,
        };
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
