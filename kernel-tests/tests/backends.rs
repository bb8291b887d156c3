//! An edge and two servers that do not run Weir: packets go to them as IP in IP, they answer clients straight, and are asked whether they
//! are well the same way.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use abi::Reason;
use edge_kernel::{Backend, Hash, Kernel, Knock, Machine, Options, Protocol, Sizes, Unanswered, Vip, VipLimits, knock};
use kernel_tests::decapsulation::Decapsulation;
use kernel_tests::namespace::Namespace;
use kernel_tests::{ready, world};

const VIPS: [&str; 2] = ["198.51.100.1:80", "[2001:db8:51::1]:80"];
/// This machine, and both backends.
const OWN: u16 = 1;
const FIRST: u16 = 7;
const SECOND: u16 = 8;

struct House {
    client: Namespace,
    _router: Namespace,
    edge: Namespace,
    kernel: Kernel,
    servers: Vec<Server>,
}

struct Server {
    _namespace: Namespace,
    decapsulation: Decapsulation,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn address(backend: u16, v4: bool) -> IpAddr {
    if v4 { IpAddr::from([10, 2, backend as u8, 2]) } else { IpAddr::from([0xfd00, 2, backend, 0, 0, 0, 0, 2]) }
}

fn own(v4: bool) -> IpAddr {
    ip(if v4 { "10.1.1.2" } else { "fd00:1:1::2" })
}

impl House {
    fn new() -> House {
        let (client, router, edge) = (Namespace::new("client"), Namespace::new("router"), Namespace::new("edge"));
        router.sysctl("net/ipv4/ip_forward", "1");
        router.sysctl("net/ipv6/conf/all/forwarding", "1");
        client.join("c0", &[ip("10.0.0.2"), ip("fd00::2")], &router, "rc", &[ip("10.0.0.1"), ip("fd00::1")]);
        let gateways = |namespace: &Namespace, by: [&str; 2]| {
            by.iter().for_each(|by| namespace.ip(&["route", "add", "default", "via", by]));
        };
        gateways(&client, ["10.0.0.1", "fd00::1"]);
        router.join("re", &[ip("10.1.1.1"), ip("fd00:1:1::1")], &edge, "e0", &[own(true), own(false)]);
        router.take_frames("re");
        gateways(&edge, ["10.1.1.1", "fd00:1:1::1"]);
        router.ip(&["route", "add", "198.51.100.1/32", "via", "10.1.1.2"]);
        router.ip(&["route", "add", "2001:db8:51::1/128", "via", "fd00:1:1::2"]);
        let servers = [FIRST, SECOND].map(|backend| {
            let namespace = Namespace::new(&format!("b{backend}"));
            let by = [format!("10.2.{backend}.1"), format!("fd00:2:{backend}::1")];
            let own = [address(backend, true), address(backend, false)];
            router.join(&format!("rb{backend}"), &[ip(&by[0]), ip(&by[1])], &namespace, "b0", &own);
            gateways(&namespace, [&by[0], &by[1]]);
            namespace.ip(&["addr", "add", "198.51.100.1/32", "dev", "lo"]);
            namespace.ip(&["addr", "add", "2001:db8:51::1/128", "dev", "lo", "nodad"]);
            // What fits a tunnel over IPv6.
            namespace.ip(&["route", "change", "default", "via", &by[0], "advmss", "1420"]);
            serve(&namespace, backend);
            let decapsulation = Decapsulation::of(&namespace);
            Server { _namespace: namespace, decapsulation }
        });
        let options = Options {
            interfaces: vec!["e0".into()],
            pin_dir: None,
            sizes: Sizes { tables: 4, vips: 4, machines: 8 },
            ..Options::default()
        };
        let kernel = edge.enter(|| Kernel::load(options).unwrap_or_else(|e| panic!("{e}")));
        House { client, _router: router, edge, kernel, servers: servers.into() }
    }

    /// All slots; `over_v4`: the outer header.
    fn apply(&mut self, owners: [u16; 4], over_v4: bool) {
        let machine = |index: u16| Machine {
            index,
            name: format!("m{index}"),
            address: if index == OWN { own(over_v4) } else { address(index, over_v4) },
            next_hop: None,
            own: index == OWN,
            backend: (index != OWN).then(Backend::default),
        };
        let vip = Vip {
            id: 1,
            name: "v".into(),
            addresses: VIPS.iter().map(|at| at.parse::<SocketAddr>().expect("an address").ip().into()).collect(),
            ports: vec![80..=80],
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            hash: Hash::FiveTuple,
            slots: world::uniform(owners),
            limits: VipLimits::default(),
            earlier: None,
            backends: true,
        };
        let machines: Vec<Machine> = [OWN, FIRST, SECOND].map(machine).into();
        let kernel = &mut self.kernel;
        self.edge.enter(|| kernel.steer(&machines, &[vip]).unwrap_or_else(|e| panic!("{e}")));
    }

    fn open(&self, to: &str) -> TcpStream {
        self.client.enter(|| {
            let to = to.parse().expect("an address");
            let stream =
                TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap_or_else(|e| panic!("{to}: {e}"));
            stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
            stream
        })
    }

    fn knock(&self, backend: u16, over_v4: bool, to: &str, request: &str, timeout: u64) -> Result<String, Unanswered> {
        let to: SocketAddr = to.parse().expect("an address");
        let asked = Knock {
            backend: address(backend, over_v4),
            source: own(over_v4),
            to,
            from: own(to.is_ipv4()),
            request: request.into(),
            timeout: Duration::from_millis(timeout),
        };
        self.edge.enter(|| knock(&asked)).map(|answer| String::from_utf8_lossy(&answer.text).into_owned())
    }
}

/// Answers every line with its number, and datagrams with their lengths from the address they were sent to.
fn serve(namespace: &Namespace, backend: u16) {
    for at in VIPS {
        let socket = namespace.enter(|| UdpSocket::bind(at).expect("bound"));
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{length} bytes at backend {backend}").as_bytes(), from);
            }
        });
    }
    let listener = namespace.enter(|| TcpListener::bind("[::]:80").expect("bound"));
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut buffer = [0; 8192];
                while let Ok(1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(format!("this is backend {backend}").as_bytes());
                }
            });
        }
    });
}

fn who(stream: &mut TcpStream) -> u16 {
    stream.write_all(b"who?").expect("sent");
    let mut answer = [0; 64];
    let length = stream.read(&mut answer).expect("an answer");
    let text = String::from_utf8_lossy(&answer[..length]).into_owned();
    text.strip_prefix("this is backend ").and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn backends_answer_clients_and_keep_what_they_have() {
    if !ready("backends_answer_clients_and_keep_what_they_have") {
        return;
    }
    let mut house = House::new();
    for over_v4 in [true, false] {
        for to in VIPS {
            house.apply([FIRST, 0, 0, 0], over_v4);
            let mut old = house.open(to);
            assert_eq!(who(&mut old), FIRST, "{to}");
            // It drains, and then takes new ones again.
            house.apply([SECOND, 0, 0, FIRST], over_v4);
            let mut between = house.open(to);
            assert_eq!([who(&mut between), who(&mut old)], [SECOND, FIRST], "{to}");
            house.apply([FIRST, SECOND, 0, FIRST], over_v4);
            let mut new = house.open(to);
            assert_eq!([who(&mut between), who(&mut old), who(&mut new)], [SECOND, FIRST, FIRST], "{to}");
            // A connection with large segments: those that do not fit are told.
            new.write_all(&[7; 200_000]).expect("sent");
            let mut answer = [0; 64];
            assert!(new.read(&mut answer).expect("an answer") > 0);
        }
    }
    let counters = house.kernel.counters();
    assert!(counters.packets(Reason::Forwarded) > 20);
    let to = |machine| counters.steered.iter().filter(|c| c.machine == machine).map(|c| c.packets).sum::<u64>();
    assert!(to(FIRST) > 0 && to(SECOND) > 0 && to(OWN) == 0);
}

#[test]
fn a_check_goes_the_way_of_the_packets() {
    if !ready("a_check_goes_the_way_of_the_packets") {
        return;
    }
    let mut house = House::new();
    // Where this machine has the address itself, and no packet could go to it otherwise.
    house.apply([FIRST, 0, 0, 0], true);
    for over_v4 in [true, false] {
        for to in VIPS {
            for backend in [FIRST, SECOND] {
                let told =
                    |answer: Result<String, Unanswered>| answer.unwrap_or_else(|e| format!("{backend}, {to}: {e}"));
                assert_eq!(told(house.knock(backend, over_v4, to, "", 5_000)), "");
                let answer = told(house.knock(backend, over_v4, to, "how are you?", 5_000));
                assert_eq!(answer, format!("this is backend {backend}"));
                let closed = to.replace(":80", ":81");
                let refused = house.knock(backend, over_v4, &closed, "", 5_000);
                assert!(matches!(refused, Err(Unanswered::Refused)), "{refused:?}");
            }
            // Somebody who is not there.
            let silent = house.knock(9, over_v4, to, "", 300);
            assert!(matches!(silent, Err(Unanswered::Silent)), "{silent:?}");
        }
        // An address that the backend does not have.
        let other = house.knock(FIRST, over_v4, "198.51.100.9:80", "", 300);
        assert!(matches!(other, Err(Unanswered::Silent)), "{other:?}");
    }
    // Nothing of it was steered.
    assert_eq!(house.kernel.counters().packets(Reason::Forwarded), 0);
}

/// Sends a datagram until an answer is here: the first fragments of one may be lost while neighbours are asked for.
fn answer(socket: &UdpSocket, to: &str, length: usize) -> Option<String> {
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("set");
    let mut buffer = [0; 100];
    for _ in 0..10 {
        socket.send_to(&vec![7; length], to).expect("sent");
        if let Ok(length) = socket.recv(&mut buffer) {
            return Some(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    }
    None
}

#[test]
fn what_is_too_long_for_one_tunnel_and_may_be_divided_arrives() {
    if !ready("what_is_too_long_for_one_tunnel_and_may_be_divided_arrives") {
        return;
    }
    let mut house = House::new();
    for over_v4 in [true, false] {
        house.apply([FIRST, 0, 0, 0], over_v4);
        for to in VIPS {
            let socket = house.client.enter(|| {
                let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
                UdpSocket::bind(any).expect("bound")
            });
            // Whatever routers say of it, as senders do that hear nothing of what does not fit.
            let (level, name) = if to.starts_with('[') {
                (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
            } else {
                (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
            };
            let never = libc::IP_PMTUDISC_DONT;
            let size = size_of::<i32>() as libc::socklen_t;
            // SAFETY: the value lives through the call and has the length given.
            let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const never).cast(), size) };
            assert_eq!(set, 0);
            // In fragments as large as the network takes; and of IPv4 one whole packet that is.
            for length in [4_000, 1_472].into_iter().filter(|length| *length > 1_472 || !to.starts_with('[')) {
                let before = house.kernel.long_packets().sent;
                let told = answer(&socket, to, length);
                assert_eq!(
                    told.as_deref(),
                    Some(&*format!("{length} bytes at backend {FIRST}")),
                    "{to}, over v4: {over_v4}"
                );
                // It counts what it has sent, which may be answered before.
                let until = Instant::now() + Duration::from_secs(60);
                while house.kernel.long_packets().sent == before && Instant::now() < until {
                    thread::sleep(Duration::from_millis(1));
                }
                assert!(house.kernel.long_packets().sent > before, "{:?}", house.kernel.long_packets());
            }
        }
        let heard = house.servers[0].decapsulation.heard();
        assert_eq!(heard.get(&own(over_v4)), Some(&1_500), "{heard:?}");
    }
    assert!(house.kernel.counters().packets(Reason::TooBigHeld) > 0);
    assert_eq!(house.kernel.long_packets().failed, 0);
}

#[test]
fn a_check_comes_from_where_packets_come_from() {
    if !ready("a_check_comes_from_where_packets_come_from") {
        return;
    }
    let house = House::new();
    // Another address of this machine than routes choose by themselves, and those of ranges that are nobody's.
    house.edge.ip(&["addr", "add", "10.1.1.77/32", "dev", "e0"]);
    house.edge.ip(&["addr", "add", "fd00:1:1::77/128", "dev", "e0", "nodad"]);
    for source in ["10.1.1.77", "fd00:1:1::77", "10.99.0.0", "fd00:99::"].map(ip) {
        let to: SocketAddr = VIPS[0].parse().expect("an address");
        let asked = Knock {
            backend: address(FIRST, source.is_ipv4()),
            source,
            to,
            from: own(true),
            request: Vec::new(),
            timeout: Duration::from_secs(5),
        };
        house.edge.enter(|| knock(&asked)).unwrap_or_else(|e| panic!("{source}: {e}"));
        let heard = house.servers[0].decapsulation.heard();
        assert!(heard.contains_key(&source), "{source}: {heard:?}");
    }
    let heard = house.servers[0].decapsulation.heard();
    assert!(!heard.contains_key(&own(true)) && !heard.contains_key(&own(false)), "{heard:?}");
}

#[test]
fn a_backend_without_a_route_to_it_does_not_answer() {
    if !ready("a_backend_without_a_route_to_it_does_not_answer") {
        return;
    }
    let lonely = Namespace::new("lonely");
    let knocks = |backend: IpAddr| {
        let asked = Knock {
            backend,
            source: own(backend.is_ipv4()),
            to: VIPS[0].parse().expect("an address"),
            from: own(true),
            request: Vec::new(),
            timeout: Duration::from_millis(300),
        };
        lonely.enter(|| knock(&asked))
    };
    for over_v4 in [true, false] {
        let answer = knocks(address(FIRST, over_v4));
        assert!(matches!(answer, Err(Unanswered::NoRoute(_))), "{answer:?}");
        // And where routes say that nothing goes there.
        let prefix = if over_v4 { "10.0.0.0/8" } else { "fd00::/16" };
        for kind in ["blackhole", "prohibit", "unreachable"] {
            lonely.ip(&["route", "add", kind, prefix]);
            let answer = knocks(address(FIRST, over_v4));
            let there = matches!(answer, Err(Unanswered::NoRoute(_) | Unanswered::Silent));
            assert!(there, "{kind}: not what the backend is to blame for: {answer:?}");
            lonely.ip(&["route", "del", kind, prefix]);
        }
    }
    let answer = knocks(ip("fe80::1"));
    assert!(matches!(answer, Err(Unanswered::NoRoute(_))), "no link is named: {answer:?}");
}
