//! `sk_lookup` finds a listener for any address and port of a VIP; `sk_reuseport` gives the connection to the receiving CPU's worker.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use abi::Slot;
use abi::limits::SLOTS;
use edge_kernel::{Hash, Kernel, KernelError, Machine, Options, Prefix, Protocol, Sizes, Vip};
use kernel_tests::namespace::Namespace;
use kernel_tests::ready;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// One edge that owns everything, and a client beside it.
struct Pair {
    client: Namespace,
    edge: Namespace,
}

impl Pair {
    fn new() -> Pair {
        let (client, edge) = (Namespace::new("client"), Namespace::new("edge"));
        client.join("c0", &[ip("10.0.0.1"), ip("fd00::1")], &edge, "e0", &[ip("10.0.0.2"), ip("fd00::2")]);
        client.ip(&["route", "add", "198.51.100.0/24", "via", "10.0.0.2"]);
        client.ip(&["route", "add", "2001:db8:51::/64", "via", "fd00::2"]);
        Pair { client, edge }
    }
}

fn options() -> Options {
    Options {
        interfaces: vec!["e0".into()],
        pin_dir: None,
        sizes: Sizes { tables: 4, vips: 8, machines: 8 },
        ..Options::default()
    }
}

fn vips() -> [IpAddr; 2] {
    [ip("198.51.100.1"), ip("2001:db8:51::1")]
}

/// VIP 1 on 80 and 8000-8099, VIP 2 on any port, VIP 3 by prefix on 80; all of it ours.
fn load() -> Result<Kernel, KernelError> {
    let mut kernel = Kernel::load(options())?;
    let slots: Arc<[Slot]> = vec![Slot::of(1); SLOTS as usize].into();
    let vip = |id: u16, addresses: &[IpAddr], ports: &[std::ops::RangeInclusive<u16>]| Vip {
        id,
        name: format!("v{id}"),
        addresses: addresses.iter().map(|ip| (*ip).into()).collect(),
        ports: ports.to_vec(),
        protocols: vec![Protocol::Tcp, Protocol::Udp],
        hash: Hash::FiveTuple,
        slots: slots.clone(),
        limits: edge_kernel::VipLimits::default(),
        earlier: None,
        backends: false,
    };
    let own =
        Machine { index: 1, name: "m1".into(), address: ip("10.0.0.2"), next_hop: None, backend: None, own: true };
    let any = [ip("198.51.100.2"), ip("2001:db8:51::2")];
    let by_prefix =
        [Prefix { address: ip("198.51.100.64"), bits: 26 }, Prefix { address: ip("2001:db8:51::1:0"), bits: 112 }];
    let third = Vip { addresses: by_prefix.to_vec(), ..vip(3, &[], &[80..=80]) };
    kernel.apply(&[own], &[vip(1, &vips(), &[80..=80, 8000..=8099]), vip(2, &any, &[0..=65535]), third])?;
    let alone = vips().into_iter().chain(any).map(Prefix::from);
    kernel.set_local_addresses(&alone.chain(by_prefix).collect::<Vec<_>>())?;
    Ok(kernel)
}

/// Sockets of one reuseport group.
fn group(address: SocketAddr, tcp: bool, workers: usize) -> Vec<OwnedFd> {
    (0..workers)
        .map(|_| {
            let (family, kind) = (
                if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 },
                if tcp { libc::SOCK_STREAM } else { libc::SOCK_DGRAM },
            );
            // SAFETY: plain calls on a descriptor of our own; the address structures live through them.
            unsafe {
                let fd = libc::socket(family, kind | libc::SOCK_CLOEXEC, 0);
                assert!(fd >= 0);
                let one: libc::c_int = 1;
                let size = size_of::<libc::c_int>() as libc::socklen_t;
                assert_eq!(
                    libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, (&raw const one).cast(), size),
                    0
                );
                let bound = match address {
                    SocketAddr::V4(v4) => {
                        let mut a: libc::sockaddr_in = std::mem::zeroed();
                        a.sin_family = libc::AF_INET as u16;
                        a.sin_port = v4.port().to_be();
                        a.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                        libc::bind(fd, (&raw const a).cast(), size_of_val(&a) as u32)
                    }
                    SocketAddr::V6(v6) => {
                        let mut a: libc::sockaddr_in6 = std::mem::zeroed();
                        a.sin6_family = libc::AF_INET6 as u16;
                        a.sin6_port = v6.port().to_be();
                        a.sin6_addr.s6_addr = v6.ip().octets();
                        libc::bind(fd, (&raw const a).cast(), size_of_val(&a) as u32)
                    }
                };
                assert_eq!(bound, 0, "bind {address}: {}", std::io::Error::last_os_error());
                if tcp {
                    assert_eq!(libc::listen(fd, 64), 0);
                }
                OwnedFd::from_raw_fd(fd)
            }
        })
        .collect()
}

fn fds(sockets: &[OwnedFd]) -> Vec<i32> {
    sockets.iter().map(AsRawFd::as_raw_fd).collect()
}

/// Accepts forever and says which worker it is.
fn serve(worker: usize, socket: OwnedFd) {
    let listener = TcpListener::from(socket);
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let local = stream.local_addr().expect("a connection has two ends");
            let _ = stream.write_all(format!("{worker} {local}").as_bytes());
        }
    });
}

fn ask(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn listeners_are_found_through_any_address_and_port_of_a_vip() {
    if !ready("listeners_are_found_through_any_address_and_port_of_a_vip") {
        return;
    }
    let pair = Pair::new();
    let kernel = pair.edge.enter(|| {
        let mut kernel = load().expect("loads");
        // Bound to one loopback address and a port of its own: no VIP could reach it by itself.
        for (address, ports) in
            [("127.0.0.1:7080", 80..=80), ("127.0.0.1:7800", 8000..=8099), ("127.0.0.1:7900", 9000..=9999)]
        {
            let sockets = group(address.parse().unwrap(), true, 1);
            kernel.register_listener(ports, Protocol::Tcp, &fds(&sockets)).expect("registers");
            sockets.into_iter().for_each(|s| serve(address.ends_with("7080") as usize, s));
        }
        let sockets = group("[::1]:7081".parse().unwrap(), true, 1);
        kernel.register_listener(80..=80, Protocol::Tcp, &fds(&sockets)).expect("registers");
        sockets.into_iter().for_each(|s| serve(6, s));
        kernel
    });
    pair.client.enter(|| {
        let asked = |text: &str| ask(text.parse().unwrap()).unwrap_or_else(|e| format!("{e:?}"));
        assert_eq!(asked("198.51.100.1:80"), "1 198.51.100.1:80");
        assert_eq!(asked("198.51.100.2:80"), "1 198.51.100.2:80");
        assert_eq!(asked("[2001:db8:51::1]:80"), "6 [2001:db8:51::1]:80");
        assert_eq!(asked("198.51.100.1:8000"), "0 198.51.100.1:8000");
        assert_eq!(asked("198.51.100.1:8099"), "0 198.51.100.1:8099");
        assert_eq!(asked("198.51.100.2:9500"), "0 198.51.100.2:9500");
        for address in ["198.51.100.64:80", "198.51.100.127:80", "[2001:db8:51::1:7]:80", "[2001:db8:51::1:ffff]:80"] {
            let worker = if address.starts_with('[') { 6 } else { 1 };
            assert_eq!(asked(address), format!("{worker} {address}"));
        }
        assert!(ask("198.51.100.70:8000".parse().unwrap()).is_err(), "no port of it");
        // A port of the listener that is none of the VIP's, and a port of the VIP that nobody listens on.
        assert!(ask("198.51.100.1:9500".parse().unwrap()).is_err());
        assert!(ask("198.51.100.2:7".parse().unwrap()).is_err());
        assert!(ask("[2001:db8:51::1]:8000".parse().unwrap()).is_err(), "no listener of the family");
    });
    assert!(kernel.counters().packets(abi::Reason::Local) > 0);
    assert_eq!(kernel.counters().dropped(), 0);
}

#[test]
fn a_listener_open_to_both_families_serves_both_and_can_be_taken_out() {
    if !ready("a_listener_open_to_both_families_serves_both_and_can_be_taken_out") {
        return;
    }
    let pair = Pair::new();
    let mut kernel = pair.edge.enter(|| load().expect("loads"));
    let id = pair.edge.enter(|| {
        let sockets = group("[::]:7000".parse().unwrap(), true, 1);
        let id = kernel.register_listener(80..=80, Protocol::Tcp, &fds(&sockets)).expect("registers");
        sockets.into_iter().for_each(|s| serve(0, s));
        id
    });
    let both = || ["198.51.100.1:80", "[2001:db8:51::1]:80"].map(|to| ask(to.parse().unwrap()).is_ok());
    assert_eq!(pair.client.enter(both), [true, true]);
    kernel.unregister_listener(id).expect("unregisters");
    assert_eq!(pair.client.enter(both), [false, false]);
}

#[test]
fn datagrams_find_their_listener_too() {
    if !ready("datagrams_find_their_listener_too") {
        return;
    }
    let pair = Pair::new();
    let (_kernel, server) = pair.edge.enter(|| {
        let mut kernel = load().expect("loads");
        let mut sockets = group("0.0.0.0:7443".parse().unwrap(), false, 1);
        kernel.register_listener(8000..=8099, Protocol::Udp, &fds(&sockets)).expect("registers");
        (kernel, UdpSocket::from(sockets.remove(0)))
    });
    server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    pair.client.enter(|| {
        let socket = UdpSocket::bind("10.0.0.1:0").unwrap();
        socket.send_to(b"hello", "198.51.100.1:8042").unwrap();
    });
    let mut buffer = [0; 16];
    let length = server.recv(&mut buffer).expect("the datagram arrives");
    assert_eq!(&buffer[..length], b"hello");
}

#[test]
fn the_worker_of_the_receiving_cpu_gets_the_connection() {
    if !ready("the_worker_of_the_receiving_cpu_gets_the_connection") {
        return;
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let pair = Pair::new();
    pair.edge.run("ethtool", &["-L", "e0", "rx", &cpus.to_string()]);
    let mut kernel = pair.edge.enter(|| load().expect("loads"));
    for (address, to) in [("0.0.0.0:7000", "198.51.100.1:80"), ("[::]:7001", "[2001:db8:51::1]:80")] {
        pair.edge.enter(|| {
            let sockets = group(address.parse().unwrap(), true, cpus);
            kernel.register_listener(80..=80, Protocol::Tcp, &fds(&sockets)).expect("registers");
            sockets.into_iter().enumerate().for_each(|(worker, socket)| serve(worker, socket));
        });
        // A first packet waits for the neighbour's address and is sent on by the CPU that hears of it.
        pair.client.enter(|| ask(to.parse().unwrap()).expect("connects"));
        // Forwards, then backwards: the mapping decides, not the hash.
        let (mut asked, mut elsewhere) = (0, Vec::new());
        for backwards in [false, true] {
            let map: Vec<u32> = (0..cpus as u32).map(|w| if backwards { cpus as u32 - 1 - w } else { w }).collect();
            assert!(kernel.set_worker_cpus(&map).expect("maps"), "by CPU");
            for (worker, &cpu) in map.iter().enumerate() {
                pair.client.enter(|| {
                    pin(cpu);
                    for _ in 0..8 {
                        let answer = ask(to.parse().unwrap()).expect("connects");
                        asked += 1;
                        if !answer.starts_with(&format!("{worker} ")) {
                            elsewhere.push(format!("CPU {cpu}: {answer}"));
                        }
                    }
                });
            }
        }
        // On veth the sender's CPU is the receiver's, but where another takes packets of that queue in at this moment: those that end the
        // connection before are sent by whichever CPU heard of its end. By the hash it would be one in two, or more.
        assert!(elsewhere.len() * 8 <= asked, "{} of {asked}: {elsewhere:?}", elsewhere.len());
    }
}

#[test]
fn where_packets_arrive_on_one_cpu_all_workers_have_their_share() {
    if !ready("where_packets_arrive_on_one_cpu_all_workers_have_their_share") {
        return;
    }
    let pair = Pair::new();
    // One queue, as a machine with a plain NIC has.
    let mut kernel = pair.edge.enter(|| load().expect("loads"));
    pair.edge.enter(|| {
        let sockets = group("0.0.0.0:7000".parse().unwrap(), true, 2);
        kernel.register_listener(80..=80, Protocol::Tcp, &fds(&sockets)).expect("registers");
        sockets.into_iter().enumerate().for_each(|(worker, socket)| serve(worker, socket));
        assert!(!kernel.set_worker_cpus(&[0, 1]).expect("maps"), "spread");
        let found = edge_kernel::probe_interfaces(&["e0".to_owned()], 2);
        let queues = found.iter().find(|finding| finding.what == "queues").expect("the driver says");
        assert!(
            !queues.ok && queues.text.contains("on 1 CPUs") && queues.text.contains("2 workers"),
            "{}",
            queues.text
        );
        assert!(edge_kernel::probe_interfaces(&["e0".to_owned()], 1).iter().all(|finding| finding.ok), "{found:?}");
        let missing = edge_kernel::probe_interfaces(&["e7".to_owned()], 1);
        assert!(missing[0].required && !missing[0].ok && missing[0].text.contains("e7"));
    });
    let mut served = [0; 2];
    pair.client.enter(|| {
        pin(0);
        for _ in 0..400 {
            let answer = ask("198.51.100.1:80".parse().unwrap()).expect("connects");
            served[usize::from(answer.as_bytes()[0] - b'0')] += 1;
        }
    });
    // Half each; four standard deviations of 400 tosses are 40.
    assert!(served.iter().all(|n| (160..=240).contains(n)), "{served:?}");
    drop(kernel);
}

fn pin(cpu: u32) {
    // SAFETY: all zeros is an empty set; it lives through the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu as usize, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &set), 0);
    }
}
