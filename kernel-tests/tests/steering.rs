//! Three edges behind a router: steering through tunnels, second chance for real connections, restarts that packets do not see.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use abi::Reason;
use edge_kernel::{Hash, Kernel, Machine, Options, Prefix, Protocol, Sizes, Vip};
use kernel_tests::namespace::Namespace;
use kernel_tests::{packet, ready, world};

const VIP_V4: &str = "198.51.100.1:80";
const VIP_V6: &str = "[2001:db8:51::1]:80";

/// A client, a router and edges; the router sends everything for the VIP to one edge.
struct Fleet {
    client: Namespace,
    router: Namespace,
    edges: Vec<Edge>,
}

struct Edge {
    namespace: Namespace,
    kernel: Option<Kernel>,
    index: u16,
    /// The socket it listens with.
    listener: RawFd,
}

fn edge_v4(index: u16) -> IpAddr {
    IpAddr::from([10, 1, index as u8, 2])
}

fn edge_v6(index: u16) -> IpAddr {
    IpAddr::from([0xfd00, 1, index, 0, 0, 0, 0, 2])
}

impl Fleet {
    fn new(edges: u16, pin: Option<&str>) -> Fleet {
        let (client, router) = (Namespace::new("client"), Namespace::new("router"));
        router.sysctl("net/ipv4/ip_forward", "1");
        router.sysctl("net/ipv6/conf/all/forwarding", "1");
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        client.join("c0", &[ip("10.0.0.2"), ip("fd00::2")], &router, "rc", &[ip("10.0.0.1"), ip("fd00::1")]);
        client.ip(&["route", "add", "default", "via", "10.0.0.1"]);
        client.ip(&["route", "add", "default", "via", "fd00::1"]);
        let edges = (1..=edges)
            .map(|index| {
                let namespace = Namespace::new(&format!("e{index}"));
                let routers = [IpAddr::from([10, 1, index as u8, 1]), IpAddr::from([0xfd00, 1, index, 0, 0, 0, 0, 1])];
                let own = [edge_v4(index), edge_v6(index)];
                router.join(&format!("r{index}"), &routers, &namespace, "e0", &own);
                router.take_frames(&format!("r{index}"));
                for gateway in routers {
                    namespace.ip(&["route", "add", "default", "via", &gateway.to_string()]);
                }
                let mut edge = Edge { namespace, kernel: None, index, listener: -1 };
                edge.load(pin, sizes());
                edge.serve();
                edge
            })
            .collect();
        let fleet = Fleet { client, router, edges };
        fleet.route_to(1);
        fleet
    }

    fn route_to(&self, index: u16) {
        self.router.ip(&["route", "replace", "198.51.100.1/32", "via", &edge_v4(index).to_string()]);
        self.router.ip(&["route", "replace", "2001:db8:51::1/128", "via", &edge_v6(index).to_string()]);
    }

    /// All slots of all edges.
    fn apply(&mut self, owners: [u16; 4], over_v6: bool) {
        let indices: Vec<u16> = self.edges.iter().map(|e| e.index).collect();
        for edge in &mut self.edges {
            edge.apply(&indices, owners, over_v6);
        }
    }

    /// The owners of the slots of all edges.
    fn spread(&mut self, owners: &[u16]) {
        let slots: std::sync::Arc<[abi::Slot]> = owners.iter().map(|owner| abi::Slot::of(*owner)).collect();
        let indices: Vec<u16> = self.edges.iter().map(|e| e.index).collect();
        for edge in &mut self.edges {
            edge.apply_slots(&indices, slots.clone(), false);
        }
    }

    fn ask(&self, to: &str) -> std::io::Result<String> {
        self.client.enter(|| open(to).and_then(|mut stream| exchange(&mut stream, "who?")))
    }

    fn open(&self, to: &str) -> TcpStream {
        self.client.enter(|| open(to).unwrap_or_else(|e| panic!("{to}: {e}")))
    }

    fn packets(&self, index: u16, reason: Reason) -> u64 {
        self.edges[usize::from(index) - 1].kernel.as_ref().unwrap().counters().packets(reason)
    }
}

impl Edge {
    fn load(&mut self, pin: Option<&str>, sizes: Sizes) {
        let options = Options {
            interfaces: vec!["e0".into()],
            pin_dir: pin.map(|test| pin_dir(test, self.index)),
            sizes,
            ..Options::default()
        };
        self.kernel = Some(self.namespace.enter(|| Kernel::load(options).unwrap_or_else(|e| panic!("{e}"))));
    }

    fn apply(&mut self, indices: &[u16], owners: [u16; 4], over_v6: bool) {
        self.apply_slots(indices, world::uniform(owners), over_v6);
    }

    fn apply_slots(&mut self, indices: &[u16], slots: std::sync::Arc<[abi::Slot]>, over_v6: bool) {
        let machines: Vec<Machine> = indices
            .iter()
            .map(|&index| Machine {
                index,
                name: format!("e{index}"),
                address: if over_v6 { edge_v6(index) } else { edge_v4(index) },
                next_hop: None,
                backend: None,
                own: index == self.index,
            })
            .collect();
        let addresses: Vec<IpAddr> = [VIP_V4, VIP_V6].iter().map(|a| a.parse::<SocketAddr>().unwrap().ip()).collect();
        let vip = Vip {
            id: 1,
            name: "v".into(),
            addresses: addresses.iter().map(|ip| (*ip).into()).collect(),
            ports: vec![80..=80],
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            hash: Hash::FiveTuple,
            slots,
            limits: edge_kernel::VipLimits::default(),
            earlier: None,
            backends: false,
        };
        let kernel = self.kernel.as_mut().unwrap();
        world::set_cookies(kernel);
        kernel.apply(&machines, &[vip]).unwrap_or_else(|e| panic!("{e}"));
        self.namespace.enter(|| kernel.set_local_addresses(&addresses).unwrap_or_else(|e| panic!("{e}")));
    }

    /// Answers every line with the edge's index, and closes at "bye".
    fn serve(&mut self) {
        let index = self.index;
        let listener = self.namespace.enter(|| TcpListener::bind("[::]:80").unwrap());
        self.listener = listener.as_raw_fd();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                std::thread::spawn(move || {
                    let mut buffer = [0; 64];
                    while let Ok(length @ 1..) = stream.read(&mut buffer) {
                        if &buffer[..length] == b"bye" {
                            return;
                        }
                        let _ = stream.write_all(&[b'0' + index as u8]);
                    }
                });
            }
        });
    }
}

impl Drop for Edge {
    /// Pins outlive a test that fails.
    fn drop(&mut self) {
        if let Some(pins) = self.kernel.as_ref().and_then(|kernel| kernel.options().pin_dir.as_ref()) {
            let _ = std::fs::remove_dir_all(pins);
        }
    }
}

fn sizes() -> Sizes {
    Sizes { tables: 4, vips: 4, machines: 8 }
}

fn pin_dir(test: &str, index: u16) -> PathBuf {
    Options::pin_dir_of(&format!("test-{}-{test}-{index}", std::process::id()))
}

fn open(to: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream, text: &str) -> std::io::Result<String> {
    stream.write_all(text.as_bytes())?;
    let mut answer = [0; 1];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn connections_go_to_the_owner_whichever_edge_the_router_chose() {
    if !ready("connections_go_to_the_owner_whichever_edge_the_router_chose") {
        return;
    }
    let mut fleet = Fleet::new(3, None);
    for over_v6 in [false, true] {
        for owner in 1..=3 {
            fleet.apply([owner, 0, 0, 0], over_v6);
            for chosen in 1..=3 {
                fleet.route_to(chosen);
                for to in [VIP_V4, VIP_V6] {
                    let answer = fleet.ask(to).unwrap_or_else(|e| panic!("{to} over {chosen} to {owner}: {e}"));
                    assert_eq!(answer, owner.to_string(), "{to} over {chosen}");
                }
            }
        }
    }
    assert!(fleet.packets(1, Reason::Forwarded) > 0 && fleet.packets(2, Reason::Decapsulated) > 0);
    let dropped: u64 = fleet.edges.iter().map(|e| e.kernel.as_ref().unwrap().counters().dropped()).sum();
    assert_eq!(dropped, 0);
}

#[test]
fn connections_survive_that_their_slot_moves() {
    if !ready("connections_survive_that_their_slot_moves") {
        return;
    }
    let mut fleet = Fleet::new(3, None);
    for over_v6 in [false, true] {
        for to in [VIP_V4, VIP_V6] {
            fleet.route_to(1);
            fleet.apply([1, 0, 0, 0], over_v6);
            let mut old = fleet.open(to);
            assert_eq!(exchange(&mut old, "who?").unwrap(), "1");
            // Draining: the slot now is edge 2's, edge 1 keeps what it holds.
            fleet.apply([2, 1, 0, 0], over_v6);
            for chosen in [1, 2, 3] {
                fleet.route_to(chosen);
                let before = fleet.packets(2, Reason::SecondChance) + fleet.packets(2, Reason::SecondChanceRelayed);
                assert_eq!(exchange(&mut old, "still?").unwrap_or_else(|e| e.to_string()), "1", "over {chosen}");
                assert_eq!(fleet.ask(to).unwrap(), "2", "new connections go to the new owner");
                let after = fleet.packets(2, Reason::SecondChance) + fleet.packets(2, Reason::SecondChanceRelayed);
                assert!(after > before, "edge 2 passed it on");
            }
        }
    }
}

#[test]
fn machines_that_drain_one_after_the_other_keep_their_connections() {
    if !ready("machines_that_drain_one_after_the_other_keep_their_connections") {
        return;
    }
    let mut fleet = Fleet::new(5, None);
    let mut open = Vec::new();
    for over_v6 in [false, true] {
        // Every edge in turn takes the flows of the slot; the last one stays, the three before it drain.
        for owners in [[1, 0, 0, 0], [2, 1, 0, 0], [3, 2, 1, 0], [4, 3, 2, 1]] {
            fleet.apply(owners, over_v6);
            // Edge 5 is no owner.
            for chosen in [5, owners[0], owners[1].max(1)] {
                fleet.route_to(chosen);
                for to in [VIP_V4, VIP_V6] {
                    let mut stream = fleet.open(to);
                    assert_eq!(exchange(&mut stream, "who?").unwrap(), owners[0].to_string());
                    open.push((owners[0].to_string(), stream));
                }
            }
            for chosen in 1..=5 {
                fleet.route_to(chosen);
                for (owner, stream) in &mut open {
                    let answer = exchange(stream, "still?").unwrap_or_else(|e| e.to_string());
                    assert_eq!(&answer, owner, "over {chosen}, {owners:?}");
                }
            }
        }
        // One comes back.
        fleet.apply([2, 4, 3, 1], over_v6);
        for (owner, stream) in &mut open {
            assert_eq!(&exchange(stream, "still?").unwrap_or_else(|e| e.to_string()), owner);
        }
        open.clear();
    }
    assert!(fleet.packets(2, Reason::SecondChanceRelayed) > 0);
}

#[test]
fn the_answer_to_a_syn_cookie_is_looked_at_by_who_gave_it() {
    if !ready("the_answer_to_a_syn_cookie_is_looked_at_by_who_gave_it") {
        return;
    }
    let mut fleet = Fleet::new(2, None);
    // A cookie for everybody, as under a flood: of a connection that is not there yet nothing is kept.
    fleet.edges[1].namespace.sysctl("net/ipv4/tcp_syncookies", "2");
    fleet.apply([2, 1, 0, 0], false);
    for chosen in [1, 2] {
        fleet.route_to(chosen);
        for to in [VIP_V4, VIP_V6] {
            assert_eq!(fleet.ask(to).unwrap_or_else(|e| e.to_string()), "2", "{to} over {chosen}");
        }
    }
}

#[test]
fn others_take_the_new_flows_of_a_machine_that_does_not_serve() {
    if !ready("others_take_the_new_flows_of_a_machine_that_does_not_serve") {
        return;
    }
    let mut fleet = Fleet::new(3, None);
    let table: Vec<u16> = (0..abi::limits::SLOTS).map(|slot| (slot % 3 + 1) as u16).collect();
    fleet.spread(&table);
    let leases: Vec<edge_kernel::Lease> = fleet.edges.iter().map(|e| e.kernel.as_ref().unwrap().lease()).collect();
    let renew = || leases.iter().for_each(|lease| lease.renew(Duration::from_secs(60)));
    renew();
    let everybody = |fleet: &Fleet| {
        let mut open = Vec::new();
        for chosen in 1..=3 {
            fleet.route_to(chosen);
            for n in 0..12 {
                let to = [VIP_V4, VIP_V6][n % 2];
                let mut stream = fleet.open(to);
                let owner = exchange(&mut stream, "who?").unwrap_or_else(|e| format!("{to} over {chosen}: {e}"));
                open.push((owner, stream));
            }
        }
        open
    };
    let owners = |open: &[(String, TcpStream)]| -> std::collections::BTreeSet<String> {
        open.iter().map(|(owner, _)| owner.clone()).collect()
    };
    let still = |fleet: &Fleet, open: &mut [(String, TcpStream)]| {
        for chosen in 1..=3 {
            fleet.route_to(chosen);
            for (owner, stream) in open.iter_mut() {
                assert_eq!(&exchange(stream, "still?").unwrap_or_else(|e| e.to_string()), owner, "over {chosen}");
            }
        }
    };
    let mut open = everybody(&fleet);
    assert_eq!(owners(&open), ["1", "2", "3"].map(String::from).into());

    // Edge 2's listener is gone, at once.
    // SAFETY: a descriptor of the edge; its thread ends with it.
    unsafe { libc::shutdown(fleet.edges[1].listener, libc::SHUT_RDWR) };
    let mut without = everybody(&fleet);
    assert_eq!(owners(&without), ["1", "3"].map(String::from).into(), "nobody is refused, both stand in");
    open.append(&mut without);
    still(&fleet, &mut open);
    assert!(fleet.packets(2, Reason::StoodIn) > 0);

    // Edge 3's daemon hangs: its sockets are there, and nobody hears of it.
    leases[2].end();
    let mut hung = everybody(&fleet);
    assert_eq!(owners(&hung), ["1"].map(String::from).into());
    open.append(&mut hung);
    still(&fleet, &mut open);

    // Both are back, before the others knew.
    fleet.edges[1].serve();
    renew();
    let lapsed: Vec<bool> = fleet.edges.iter().map(|e| e.kernel.as_ref().unwrap().lapsed_ms() > 0).collect();
    assert_eq!(lapsed, [false, false, true], "who lapsed knows, and says so to the others");
    let mut back = everybody(&fleet);
    assert_eq!(owners(&back), ["1", "2", "3"].map(String::from).into());
    open.append(&mut back);
    still(&fleet, &mut open);

    // Without a lease nothing of this happens: what nobody listens to is refused.
    let mut fleet = Fleet::new(2, None);
    fleet.spread(&table.iter().map(|owner| owner % 2 + 1).collect::<Vec<_>>());
    // SAFETY: as above.
    unsafe { libc::shutdown(fleet.edges[0].listener, libc::SHUT_RDWR) };
    let refused = (0..20).filter(|_| fleet.ask(VIP_V4).is_err()).count();
    assert!(refused > 0, "half of them");
}

#[test]
fn a_virtual_ip_without_a_free_table_keeps_its_owners() {
    if !ready("a_virtual_ip_without_a_free_table_keeps_its_owners") {
        return;
    }
    let options = Options { pin_dir: None, sizes: Sizes { tables: 2, ..sizes() }, ..Options::default() };
    let namespace = Namespace::new("a");
    let mut kernel = namespace.enter(|| Kernel::load(options)).unwrap_or_else(|e| panic!("{e}"));
    let machines: Vec<Machine> = (1..=3)
        .map(|index| Machine {
            index,
            name: format!("m{index}"),
            address: [192, 0, 2, index as u8].into(),
            next_hop: None,
            backend: None,
            own: index == 1,
        })
        .collect();
    let mut owned_by = |owners: &[u16]| {
        let vips: Vec<Vip> = (1..)
            .zip(owners)
            .map(|(id, owner)| Vip {
                id,
                name: format!("v{id}"),
                addresses: vec![IpAddr::from([198, 51, 100, id as u8]).into()],
                ports: vec![80..=80],
                protocols: vec![Protocol::Tcp],
                hash: Hash::FiveTuple,
                slots: vec![abi::Slot::of(*owner); abi::limits::SLOTS as usize].into(),
                limits: edge_kernel::VipLimits::default(),
                earlier: None,
                backends: false,
            })
            .collect();
        let applied = kernel.apply(&machines, &vips).unwrap_or_else(|e| panic!("{e}"));
        let ids = |of: &std::collections::BTreeMap<u16, String>| of.keys().copied().collect::<Vec<_>>();
        (ids(&applied.kept), ids(&applied.left_out), applied.tables_written)
    };
    assert_eq!(owned_by(&[1, 1, 2]), (vec![], vec![], 2));
    assert_eq!(owned_by(&[3, 1, 2]), (vec![1], vec![], 0), "its table is another's too");
    assert_eq!(owned_by(&[3, 1, 1]), (vec![1], vec![], 0), "until now the other was taken");
    assert_eq!(owned_by(&[3, 1, 1]), (vec![], vec![], 1));
    assert_eq!(owned_by(&[3, 1, 1, 2]), (vec![], vec![4], 0), "a new one finds none");
    assert_eq!(owned_by(&[2, 1, 1]), (vec![], vec![], 1), "a table of its own is written over");
}

#[test]
fn a_machine_knows_the_slots_of_what_it_holds() {
    if !ready("a_machine_knows_the_slots_of_what_it_holds") {
        return;
    }
    let mut fleet = Fleet::new(2, None);
    fleet.apply([2, 0, 0, 0], false);
    let held = |fleet: &Fleet, index: usize| {
        let edge = &fleet.edges[index - 1];
        edge.namespace.enter(|| edge.kernel.as_ref().unwrap().held().unwrap_or_else(|e| panic!("{e}")))
    };
    assert!(held(&fleet, 2).is_empty(), "a listener is no connection");
    let open: Vec<TcpStream> = [VIP_V4, VIP_V6, VIP_V4].map(|to| fleet.open(to)).into();
    assert_eq!((held(&fleet, 1).len(), held(&fleet, 2).len()), (0, 3));
    for stream in open {
        let before = held(&fleet, 2);
        assert!(before.iter().all(|held| held.vip == 1 && held.slot < abi::limits::SLOTS), "{before:?}");
        drop(stream);
        let until = std::time::Instant::now() + Duration::from_secs(5);
        while held(&fleet, 2).len() >= before.len() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(held(&fleet, 2).is_empty(), "one in TIME-WAIT is held no more");
}

#[test]
fn one_edge_knows_the_change_before_the_other() {
    if !ready("one_edge_knows_the_change_before_the_other") {
        return;
    }
    let mut fleet = Fleet::new(3, None);
    fleet.apply([1, 0, 0, 0], false);
    let mut old = fleet.open(VIP_V4);
    assert_eq!(exchange(&mut old, "who?").unwrap(), "1");
    // Edge 3 has heard that 2 owns the slots, 2 and 1 have not.
    fleet.edges[2].apply(&[1, 2, 3], [2, 1, 0, 0], false);
    fleet.route_to(3);
    assert_eq!(exchange(&mut old, "still?").unwrap(), "1");
    assert_eq!(fleet.ask(VIP_V4).unwrap(), "2", "2 takes what it is sent");
}

#[test]
fn packets_too_big_for_the_tunnel_make_the_client_send_smaller_ones() {
    if !ready("packets_too_big_for_the_tunnel_make_the_client_send_smaller_ones") {
        return;
    }
    let mut fleet = Fleet::new(2, None);
    fleet.apply([2, 0, 0, 0], false);
    for to in [VIP_V4, VIP_V6] {
        let mut stream = fleet.open(to);
        assert_eq!(exchange(&mut stream, &"x".repeat(20_000)).unwrap_or_else(|e| e.to_string()), "2");
    }
    assert!(fleet.packets(1, Reason::TooBigAnswered) >= 2);
}

#[test]
fn a_restart_does_not_stop_steering() {
    if !ready("a_restart_does_not_stop_steering") {
        return;
    }
    const PIN: &str = "restart";
    let mut fleet = Fleet::new(2, Some(PIN));
    fleet.apply([2, 0, 0, 0], false);
    let mut open = fleet.open(VIP_V4);
    assert_eq!(exchange(&mut open, "who?").unwrap(), "2");

    // The daemon is gone: steering stays.
    fleet.edges[0].kernel = None;
    assert_eq!(exchange(&mut open, "still?").unwrap(), "2");
    assert_eq!(fleet.ask(VIP_V6).unwrap(), "2");

    // It is back, and has been told nothing yet.
    fleet.edges[0].load(Some(PIN), sizes());
    let kernel = fleet.edges[0].kernel.as_ref().unwrap();
    assert!(kernel.attachments()[0].taken_over);
    assert!(kernel.counters().packets(Reason::Forwarded) > 0, "the counters go on");
    assert_eq!(kernel.lapsed_ms(), 0, "its maps would say so");
    assert_eq!(fleet.ask(VIP_V4).unwrap(), "2");
    fleet.apply([1, 2, 0, 0], false);
    assert_eq!(fleet.ask(VIP_V4).unwrap(), "1");
    assert_eq!(exchange(&mut open, "still?").unwrap(), "2");

    // Another release with larger maps: the old programs steer until the new maps are filled.
    fleet.edges[0].kernel = None;
    fleet.edges[0].load(Some(PIN), Sizes { tables: 6, ..sizes() });
    let kernel = fleet.edges[0].kernel.as_ref().unwrap();
    assert_eq!(kernel.counters().packets(Reason::Local), 0);
    assert!(kernel.lapsed_ms() > 0, "nothing of its own says how long nobody renewed the lease of the others");
    assert_eq!(fleet.ask(VIP_V4).unwrap(), "1");
    assert_eq!(exchange(&mut open, "still?").unwrap(), "2");
    fleet.apply([2, 1, 0, 0], false);
    assert_eq!(fleet.ask(VIP_V4).unwrap(), "2");
    assert!(fleet.packets(1, Reason::Forwarded) > 0, "the new maps count");
    let layouts = std::fs::read_dir(pin_dir(PIN, 1)).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(layouts, 1, "the old maps are gone");

    // Taken down, the edge is a plain host: the packet reaches its own listener.
    let kernel = fleet.edges[0].kernel.take().unwrap();
    fleet.edges[0].namespace.enter(|| kernel.detach().unwrap());
    assert!(!pin_dir(PIN, 1).exists());
    assert!(fleet.ask(VIP_V4).is_err(), "nobody has the address");
    let kernel = fleet.edges[1].kernel.take().unwrap();
    fleet.edges[1].namespace.enter(|| kernel.detach().unwrap());
}

#[test]
fn programs_that_are_no_longer_asked_for_are_taken_down() {
    if !ready("programs_that_are_no_longer_asked_for_are_taken_down") {
        return;
    }
    let (a, b) = (Namespace::new("a"), Namespace::new("b"));
    a.join("a0", &[], &b, "b0", &[]);
    a.join("a1", &[], &b, "b1", &[]);
    let pins = pin_dir("gone", 1);
    let load = |interfaces: &[&str], mode| {
        let interfaces = interfaces.iter().map(|name| (*name).to_owned()).collect();
        let pin_dir = Some(pins.clone());
        let options = Options { interfaces, mode, pin_dir, sizes: sizes(), ..Options::default() };
        a.enter(|| Kernel::load(options)).unwrap_or_else(|e| panic!("{e}"))
    };
    let attached = |device: &str| {
        let output = std::process::Command::new("ip").args(["-n", &a.name, "link", "show", device]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().contains("xdp")
    };
    drop(load(&["a0", "a1"], edge_kernel::Mode::Generic));
    assert!(attached("a0") && attached("a1"));
    let kernel = load(&["a1"], edge_kernel::Mode::Generic);
    assert!(!attached("a0") && attached("a1"), "an interface that is no longer named");
    let found = &kernel.attachments()[0];
    assert!(found.taken_over && found.generic, "{found:?}");
    let lease = kernel.lease();
    lease.renew(Duration::from_secs(60));
    assert!(a.enter(|| Kernel::take_down(&pins)).is_err(), "a process lives that uses them");
    assert!(attached("a1"));
    lease.renew(Duration::from_millis(200));
    drop(kernel);
    assert!(a.enter(|| Kernel::take_down(&pins)).unwrap());
    assert!(!attached("a1") && !pins.exists(), "no interface at all");
    assert!(!a.enter(|| Kernel::take_down(&pins)).unwrap(), "nothing is left");
}

#[test]
fn what_cannot_be_attached_is_said() {
    if !ready("what_cannot_be_attached_is_said") {
        return;
    }
    let (a, b) = (Namespace::new("a"), Namespace::new("b"));
    a.join("a0", &[], &b, "b0", &[]);
    a.ip(&["link", "add", "down0", "type", "ifb"]);
    a.ip(&["link", "add", "plain0", "type", "ifb"]);
    a.ip(&["link", "set", "plain0", "up"]);
    let load = |interface: &str, mode: edge_kernel::Mode| {
        let options = Options { interfaces: vec![interface.into()], mode, pin_dir: None, ..Options::default() };
        a.enter(|| Kernel::load(Options { sizes: sizes(), ..options }))
    };
    let refused = |interface: &str, mode| match load(interface, mode) {
        Ok(_) => panic!("{interface} was attached"),
        Err(e) => e.to_string(),
    };
    use edge_kernel::Mode::{Auto, Driver};
    let text = refused("eth9", Auto);
    assert!(
        text.contains("--interface eth9: there is no such interface; there are: ") && text.contains("a0"),
        "{text}"
    );
    assert!(refused("lo", Auto).contains("a loopback interface brings no packets from elsewhere"));
    assert!(refused("down0", Auto).contains("ip link set down0 up"));
    assert!(refused("a name too long for one", Auto).contains("1 to 15 characters"));
    assert!(refused("plain0", Driver).contains("the driver has no native XDP; use --xdp-mode generic"));
    let kernel = load("plain0", Auto).unwrap_or_else(|e| panic!("{e}"));
    assert!(kernel.attachments()[0].generic);
    let warnings: Vec<_> = kernel.warnings().iter().map(ToString::to_string).collect();
    assert!(warnings.iter().any(|w| w.contains("plain0: attached in generic mode")), "{warnings:?}");
    assert!(warnings.iter().any(|w| w.contains("--advertise-address")), "{warnings:?}");
    let first = load("a0", Driver).unwrap_or_else(|e| panic!("{e}"));
    assert!(refused("a0", Auto).contains("another XDP program is attached"));
    drop(first);
    load("a0", Driver).unwrap_or_else(|e| panic!("{e}"));
}

fn routes(namespace: &Namespace) -> String {
    let output = std::process::Command::new("ip")
        .args(["-n", &namespace.name, "route", "show", "table", "local", "proto", "87"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_virtual_ip_without_room_is_left_out_and_the_rest_follows() {
    if !ready("a_virtual_ip_without_room_is_left_out_and_the_rest_follows") {
        return;
    }
    let mut fleet = Fleet::new(1, None);
    let edge = &mut fleet.edges[0];
    let vip = |id: u16, address: &str, first: u16, ports: u16| Vip {
        id,
        name: format!("v{id}"),
        addresses: vec![address.parse::<IpAddr>().unwrap().into()],
        ports: (0..ports).map(|n| first + 2 * n..=first + 2 * n).collect(),
        protocols: vec![Protocol::Tcp],
        hash: Hash::FiveTuple,
        slots: world::uniform([1, 0, 0, 0]),
        limits: edge_kernel::VipLimits::default(),
        earlier: None,
        backends: false,
    };
    let own = Machine { index: 1, name: "e1".into(), address: edge_v4(1), next_hop: None, backend: None, own: true };
    let kernel = edge.kernel.as_mut().unwrap();
    let mut steer = |vips: &[Vip]| edge.namespace.enter(|| kernel.steer(std::slice::from_ref(&own), vips).unwrap());
    // Two of them share an address and have 40 ports together; the id of the last is beyond the room.
    let all = [
        vip(1, "198.51.100.7", 1000, 20),
        vip(2, "198.51.100.7", 2000, 20),
        vip(3, "198.51.100.1", 80, 1),
        vip(5, "198.51.100.9", 80, 1),
    ];
    let applied = steer(&all);
    assert_eq!(applied.left_out.keys().collect::<Vec<_>>(), [&2, &5], "{:?}", applied.left_out);
    assert!(applied.left_out[&2].contains("40 ports and ranges"), "{:?}", applied.left_out);
    assert!(applied.left_out[&5].contains("1 to 4"), "{:?}", applied.left_out);
    let known = routes(&edge.namespace);
    assert!(known.contains("198.51.100.7") && known.contains("198.51.100.1 "), "{known}");
    assert!(!known.contains("198.51.100.9"), "{known}");
    // What made no room for it is deleted, with the other still there.
    let applied = steer(&[vip(2, "198.51.100.7", 2000, 20), vip(5, "198.51.100.9", 80, 1)]);
    assert_eq!((applied.addresses, applied.left_out.len()), (1, 1));
    assert!(!routes(&edge.namespace).contains("198.51.100.1 "));
    steer(&all[2..3]);
    assert_eq!(fleet.ask(VIP_V4).unwrap(), "1");
}

#[test]
fn prefixes_are_served_address_by_address_and_the_longest_one_counts() {
    if !ready("prefixes_are_served_address_by_address_and_the_longest_one_counts") {
        return;
    }
    let mut fleet = Fleet::new(3, None);
    let prefix = |text: &str| {
        let (address, bits) = text.split_once('/').unwrap();
        Prefix { address: address.parse().unwrap(), bits: bits.parse().unwrap() }
    };
    let vip = |id: u16, prefixes: [&str; 2], owner: u16| Vip {
        id,
        name: format!("v{id}"),
        addresses: prefixes.map(prefix).to_vec(),
        ports: vec![80..=80],
        protocols: vec![Protocol::Tcp],
        hash: Hash::FiveTuple,
        slots: world::uniform([owner, 0, 0, 0]),
        limits: edge_kernel::VipLimits::default(),
        earlier: None,
        backends: false,
    };
    let wide = vip(1, ["198.51.101.0/25", "2001:db8:52::/64"], 2);
    let narrow = vip(2, ["198.51.101.16/28", "2001:db8:52:0:1::/80"], 3);
    let alone = vip(3, ["198.51.101.17/32", "2001:db8:52:0:1::7/128"], 1);
    let machines = |own: u16| -> Vec<Machine> {
        let machine = |index| Machine {
            index,
            name: format!("e{index}"),
            address: edge_v4(index),
            next_hop: None,
            backend: None,
            own: index == own,
        };
        (1..=3).map(machine).collect()
    };
    let steer = |fleet: &mut Fleet, vips: &[&Vip]| {
        let vips: Vec<Vip> = vips.iter().copied().cloned().collect();
        for edge in &mut fleet.edges {
            let kernel = edge.kernel.as_mut().unwrap();
            world::set_cookies(kernel);
            let applied = edge.namespace.enter(|| kernel.steer(&machines(edge.index), &vips).unwrap());
            assert_eq!(applied.left_out.len(), 0, "{:?}", applied.left_out);
        }
    };
    let everybody = |fleet: &Fleet, expected: &[(&str, &str)]| {
        for chosen in 1..=3 {
            fleet.router.ip(&["route", "replace", "198.51.101.0/24", "via", &edge_v4(chosen).to_string()]);
            fleet.router.ip(&["route", "replace", "2001:db8:52::/63", "via", &edge_v6(chosen).to_string()]);
            for (address, owner) in expected {
                let told = fleet.ask(address).unwrap_or_else(|e| e.to_string());
                assert_eq!(told, *owner, "{address} over {chosen}");
            }
        }
    };
    steer(&mut fleet, &[&wide, &narrow, &alone]);
    everybody(
        &fleet,
        &[
            ("198.51.101.0:80", "2"),
            ("198.51.101.15:80", "2"),
            ("198.51.101.16:80", "3"),
            ("198.51.101.17:80", "1"),
            ("198.51.101.31:80", "3"),
            ("198.51.101.127:80", "2"),
            ("[2001:db8:52::1]:80", "2"),
            ("[2001:db8:52::ffff:ffff:ffff:ffff]:80", "2"),
            ("[2001:db8:52:0:1:2:3:4]:80", "3"),
            ("[2001:db8:52:0:1::7]:80", "1"),
        ],
    );
    let mut open = fleet.open("198.51.101.18:80");
    assert_eq!(exchange(&mut open, "who?").unwrap(), "3");
    // The longer one goes, its owner being drained: who holds a connection keeps it.
    let drained = Vip { slots: world::uniform([2, 3, 0, 0]), ..wide.clone() };
    steer(&mut fleet, &[&drained]);
    everybody(&fleet, &[("198.51.101.17:80", "2"), ("198.51.101.18:80", "2"), ("[2001:db8:52:0:1::7]:80", "2")]);
    assert_eq!(exchange(&mut open, "still?").unwrap_or_else(|e| e.to_string()), "3");
    let dropped: u64 = fleet.edges.iter().map(|e| e.kernel.as_ref().unwrap().counters().dropped()).sum();
    assert_eq!(dropped, 0);
    let known = routes(&fleet.edges[0].namespace);
    assert!(known.contains("198.51.101.0/25") && !known.contains("198.51.101.16/28"), "{known}");

    // What would take a machine's address, or its router's, from it is left out alone, with the rest in force.
    let edge = &mut fleet.edges[0];
    let kernel = edge.kernel.as_mut().unwrap();
    let mut left_out = |prefixes: [&str; 2]| {
        let vips = [vip(2, prefixes, 1), wide.clone()];
        let applied = edge.namespace.enter(|| kernel.steer(&machines(1), &vips).unwrap());
        assert_eq!((applied.left_out.len(), applied.addresses), (0, 3), "{:?}", applied.left_out);
        assert_eq!(applied.partly.keys().collect::<Vec<_>>(), [&2], "{:?}", applied.partly);
        applied.partly[&2].clone()
    };
    for (prefixes, why) in [
        (
            ["10.1.3.0/24", "2001:db8:9::/64"],
            "10.1.3.0/24 has 10.1.3.2 in it, the address of e3: take a prefix without it",
        ),
        (["10.1.1.0/31", "2001:db8:9::/64"], "the address of a router of this machine"),
        (["198.18.0.0/15", "fd00:1:1::2/127"], "fd00:1:1::2 in it, the address of e0 of this machine"),
        (["198.18.0.0/15", "10.1.1.128/25"], "10.1.1.128/25 overlaps 10.1.1.0/24, the network on e0 of this machine"),
    ] {
        let told = left_out(prefixes);
        assert!(told.contains(why), "{told}");
    }
    // Rules and tables of its own hide no router.
    edge.namespace.ip(&["rule", "add", "pref", "100", "from", "192.0.2.1", "lookup", "100"]);
    edge.namespace.ip(&["route", "add", "192.0.2.0/24", "via", "10.1.1.1", "table", "100"]);
    edge.namespace.ip(&["route", "add", "192.0.3.0/24", "via", "10.1.1.77", "table", "100"]);
    let told = left_out(["10.1.1.76/31", "2001:db8:9::/64"]);
    assert!(told.contains("10.1.1.77 in it, the address of a router of this machine"), "{told}");
    let known = routes(&edge.namespace);
    assert!(known.contains("198.51.101.0/25") && !known.contains("10.1"), "{known}");

    // What is in force stays when an address of it turns up on an interface, and that is said; one that was left out comes when
    // what spoke against it goes.
    edge.namespace.ip(&["link", "add", "other", "type", "bridge"]);
    edge.namespace.ip(&["addr", "add", "198.51.101.5/32", "dev", "other"]);
    edge.namespace.ip(&["addr", "add", "198.51.102.5/32", "dev", "other"]);
    let vips = [vip(2, ["198.51.102.0/24", "2001:db8:9::/64"], 1), wide.clone()];
    let steer_again = |kernel: &mut edge_kernel::Kernel| {
        let applied = edge.namespace.enter(|| kernel.steer(&machines(1), &vips).unwrap());
        let ids = |told: &std::collections::BTreeMap<u16, String>| told.keys().copied().collect::<Vec<_>>();
        assert_eq!(ids(&applied.left_out), [0; 0], "{:?}", applied.left_out);
        (ids(&applied.partly), ids(&applied.in_spite))
    };
    assert_eq!(steer_again(kernel), (vec![2], vec![1]));
    assert!(routes(&edge.namespace).contains("198.51.101.0/25"));
    edge.namespace.ip(&["link", "del", "other"]);
    let news = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        edge.namespace.enter(|| kernel.follow(&[])).news
    });
    assert!(news, "nobody noticed that the address is gone");
    assert_eq!(steer_again(kernel), (vec![], vec![]));
    assert!(routes(&edge.namespace).contains("198.51.102.0/24"));

    steer(&mut fleet, &[]);
    fleet.ask("198.51.101.1:80").unwrap_err();
    for edge in &fleet.edges {
        assert_eq!(routes(&edge.namespace), "");
    }
}

#[test]
fn steering_that_fails_keeps_the_routes_it_needs() {
    if !ready("steering_that_fails_keeps_the_routes_it_needs") {
        return;
    }
    let mut fleet = Fleet::new(1, None);
    fleet.apply([1, 0, 0, 0], false);
    assert_eq!(fleet.ask(VIP_V4).unwrap(), "1");
    let edge = &mut fleet.edges[0];
    let kernel = edge.kernel.as_mut().unwrap();
    let own = || Machine { index: 1, name: "e1".into(), address: edge_v4(1), next_hop: None, backend: None, own: true };
    // The deletion of the virtual IP together with machines that cannot be.
    let failed = edge.namespace.enter(|| kernel.steer(&[own(), own()], &[]).is_err());
    assert!(failed);
    assert_eq!(fleet.ask(VIP_V4).unwrap(), "1", "packets are steered as before, and the stack takes them");
    let edge = &mut fleet.edges[0];
    let kernel = edge.kernel.as_mut().unwrap();
    edge.namespace.enter(|| kernel.steer(&[own()], &[]).unwrap());
    assert_eq!(routes(&edge.namespace), "");
}

/// Connects from a port of the client's choice.
fn open_from(port: u16, to: SocketAddrV4) -> std::io::Result<TcpStream> {
    let address = |at: SocketAddrV4| {
        // SAFETY: all zeros is a valid address.
        let mut a: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        a.sin_family = libc::AF_INET as u16;
        a.sin_port = at.port().to_be();
        a.sin_addr.s_addr = u32::from_ne_bytes(at.ip().octets());
        a
    };
    let (from, to) = (address(SocketAddrV4::new([10, 0, 0, 2].into(), port)), address(to));
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: plain calls on a descriptor of our own; the addresses live through them.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0);
        let stream = TcpStream::from_raw_fd(fd);
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.set_write_timeout(Some(Duration::from_secs(2)))?;
        if libc::bind(fd, (&raw const from).cast(), length) < 0 || libc::connect(fd, (&raw const to).cast(), length) < 0
        {
            return Err(std::io::Error::last_os_error());
        }
        Ok(stream)
    }
}

#[test]
fn a_closing_socket_does_not_capture_a_connection_begun_anew_elsewhere() {
    if !ready("a_closing_socket_does_not_capture_a_connection_begun_anew_elsewhere") {
        return;
    }
    let mut fleet = Fleet::new(2, None);
    let to: SocketAddrV4 = VIP_V4.parse().unwrap();
    for port in [41_000, 41_001] {
        fleet.apply([1, 0, 0, 0], false);
        let mut old = fleet.client.enter(|| open_from(port, to)).unwrap();
        assert_eq!(exchange(&mut old, "who?").unwrap(), "1");
        // The edge closes first, so it is the one that keeps the connection in TIME-WAIT.
        old.write_all(b"bye").unwrap();
        assert_eq!(old.read(&mut [0; 1]).unwrap(), 0);
        drop(old);
        // The slot moves, and the client uses its port again.
        fleet.apply([2, 0, 0, 0], false);
        let mut anew = fleet.client.enter(|| open_from(port, to)).unwrap();
        assert_eq!(exchange(&mut anew, "who?").unwrap(), "2");
        // The slot comes back to where the old connection is remembered.
        fleet.apply([1, 2, 0, 0], false);
        assert_eq!(exchange(&mut anew, "still?").unwrap_or_else(|e| e.to_string()), "2");
    }
    // What is in TIME-WAIT and nowhere else is answered by who remembers it: the closing was orderly on both edges.
    assert!(fleet.packets(1, Reason::SecondChance) > 0);
}

/// Sends so many bytes and the end; what comes back until the other side's end.
fn upload(stream: &mut TcpStream, bytes: usize) -> std::io::Result<String> {
    stream.write_all(&vec![b'x'; bytes])?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn full_size_segments_arrive_from_clients_that_hear_no_icmp() {
    if !ready("full_size_segments_arrive_from_clients_that_hear_no_icmp") {
        return;
    }
    let mut fleet = Fleet::new(2, None);
    // A locked MTU: the client takes nobody's word for a smaller one.
    fleet.client.ip(&["route", "replace", "default", "via", "10.0.0.1", "mtu", "lock", "1500"]);
    fleet.client.ip(&["-6", "route", "replace", "default", "via", "fd00::1", "mtu", "lock", "1500"]);
    let owner = &mut fleet.edges[1];
    owner.kernel.as_mut().unwrap().register_listener(80..=80, Protocol::Tcp, &[owner.listener]).unwrap();
    for over_v6 in [false, true] {
        fleet.apply([2, 0, 0, 0], over_v6);
        for to in [VIP_V4, VIP_V6] {
            let mut stream = fleet.open(to);
            let answer = upload(&mut stream, 200_000).unwrap_or_else(|e| e.to_string());
            assert!(answer.trim_matches('2').is_empty(), "{to}, tunnel over IPv6: {over_v6}: {answer}");
        }
    }
    assert_eq!(fleet.packets(1, Reason::TooBigAnswered), 0);
    assert!(fleet.packets(1, Reason::Forwarded) > 500);
}

/// Every slot's owner by turns.
fn by_turns(machines: u16) -> Vec<u16> {
    (0..abi::limits::SLOTS).map(|slot| (slot % u32::from(machines)) as u16 + 1).collect()
}

impl Edge {
    /// Answers every datagram to the address with the edge's index and the datagram's length.
    fn answer_datagrams(&self, at: &'static str) {
        let index = self.index;
        let socket = self.namespace.enter(|| bind_datagrams(at));
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{index} {length}").as_bytes(), from);
            }
        });
    }
}

/// A socket at an address that packets are taken for although no interface has it.
fn bind_datagrams(at: &str) -> UdpSocket {
    const IPV6_FREEBIND: libc::c_int = 78;
    let at: SocketAddr = at.parse().unwrap();
    let (family, level, free) = match at {
        SocketAddr::V4(_) => (libc::AF_INET, libc::IPPROTO_IP, libc::IP_FREEBIND),
        SocketAddr::V6(_) => (libc::AF_INET6, libc::IPPROTO_IPV6, IPV6_FREEBIND),
    };
    // SAFETY: plain calls on a descriptor of our own; all zeros is a valid address of either family, and lives through the calls.
    unsafe {
        let fd = libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let on = 1 as libc::c_int;
        let size = size_of_val(&on) as libc::socklen_t;
        assert_eq!(libc::setsockopt(fd, level, free, (&raw const on).cast(), size), 0);
        let bound = match at {
            SocketAddr::V4(at) => {
                let mut a: libc::sockaddr_in = std::mem::zeroed();
                a.sin_family = libc::AF_INET as u16;
                a.sin_port = at.port().to_be();
                a.sin_addr.s_addr = u32::from_ne_bytes(at.ip().octets());
                libc::bind(fd, (&raw const a).cast(), size_of_val(&a) as libc::socklen_t)
            }
            SocketAddr::V6(at) => {
                let mut a: libc::sockaddr_in6 = std::mem::zeroed();
                a.sin6_family = libc::AF_INET6 as u16;
                a.sin6_port = at.port().to_be();
                a.sin6_addr.s6_addr = at.ip().octets();
                libc::bind(fd, (&raw const a).cast(), size_of_val(&a) as libc::socklen_t)
            }
        };
        assert_eq!(bound, 0, "{at}: {}", std::io::Error::last_os_error());
        UdpSocket::from_raw_fd(fd)
    }
}

#[test]
fn uploads_that_are_taken_apart_on_their_way_reach_their_connections() {
    if !ready("uploads_that_are_taken_apart_on_their_way_reach_their_connections") {
        return;
    }
    let mut fleet = Fleet::new(3, None);
    fleet.spread(&by_turns(3));
    fleet.client.sysctl("net/ipv4/ip_no_pmtu_disc", "1");
    let via = |fleet: &Fleet, index: u16| {
        fleet.router.ip(&["route", "replace", "198.51.100.1/32", "via", &edge_v4(index).to_string(), "mtu", "1300"]);
    };
    let mut owners = std::collections::BTreeSet::new();
    for n in 0..24 {
        via(&fleet, n % 3 + 1);
        let mut stream = fleet.open(VIP_V4);
        let answer = upload(&mut stream, 30_000).unwrap_or_else(|e| format!("upload {n}: {e}"));
        assert!(!answer.is_empty() && answer.bytes().all(|b| b == answer.as_bytes()[0]), "{answer}");
        owners.insert(answer.as_bytes()[0]);
    }
    assert_eq!(owners.len(), 3);
    // A connection whose slot moves while it uploads.
    for n in 0..6 {
        fleet.apply([1, 0, 0, 0], false);
        via(&fleet, n % 3 + 1);
        let mut stream = fleet.open(VIP_V4);
        assert_eq!(exchange(&mut stream, "who?").unwrap(), "1");
        fleet.apply([3, 2, 1, 0], false);
        let answer = upload(&mut stream, 30_000).unwrap_or_else(|e| format!("upload {n}: {e}"));
        assert!(answer.bytes().all(|b| b == b'1'), "{answer}");
    }
    let seen = |reason| (1..=3).map(|index| fleet.packets(index, reason)).sum::<u64>();
    assert!(seen(Reason::FragmentForwarded) > 100 && seen(Reason::SecondChance) > 0);
}

#[test]
fn datagrams_in_fragments_arrive_in_whatever_order_they_come() {
    if !ready("datagrams_in_fragments_arrive_in_whatever_order_they_come") {
        return;
    }
    let mut fleet = Fleet::new(3, None);
    fleet.spread(&by_turns(3));
    for edge in &fleet.edges {
        edge.answer_datagrams(VIP_V4);
        edge.answer_datagrams(VIP_V6);
    }
    fleet.client.ip(&["route", "replace", "default", "via", "10.0.0.1", "mtu", "1300"]);
    fleet.client.ip(&["-6", "route", "replace", "default", "via", "fd00::1", "mtu", "1300"]);
    let socket = |from: &'static str| {
        let socket = fleet.client.enter(|| UdpSocket::bind(from).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        socket
    };
    let answer = |socket: &UdpSocket| -> String {
        let mut buffer = [0; 64];
        socket.recv(&mut buffer).map_or_else(|e| e.to_string(), |n| String::from_utf8_lossy(&buffer[..n]).into_owned())
    };
    for n in 0..30 {
        fleet.route_to(n % 3 + 1);
        for (from, to) in [("10.0.0.2:0", VIP_V4), ("[fd00::2]:0", VIP_V6)] {
            let socket = socket(from);
            socket.connect(to).unwrap();
            socket.send(&[b'x'; 20]).unwrap();
            let whole = answer(&socket);
            socket.send(&[b'x'; 4000]).unwrap();
            assert_eq!(answer(&socket), whole.replace(" 20", " 4000"), "{to}");
        }
    }
    // The last fragment first.
    // SAFETY: plain calls on a descriptor of our own.
    let raw = fleet
        .client
        .enter(|| unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) });
    assert!(raw >= 0);
    let mut owners = std::collections::BTreeSet::new();
    // So many that all three are met, whatever ports the kernel gives.
    for n in 0..48u16 {
        fleet.route_to(n % 3 + 1);
        let socket = socket("10.0.0.2:0");
        let (from, to) = (socket.local_addr().unwrap(), VIP_V4.parse::<SocketAddrV4>().unwrap());
        let datagram = packet::udp(from, to.into(), &[b'y'; 3000]);
        for part in packet::fragments(&datagram, 1000, 7000 + n).iter().rev() {
            // SAFETY: all zeros is a valid address; both live through the call.
            let sent = unsafe {
                let mut at: libc::sockaddr_in = std::mem::zeroed();
                at.sin_family = libc::AF_INET as u16;
                at.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
                let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
                libc::sendto(raw, part[14..].as_ptr().cast(), part.len() - 14, 0, (&raw const at).cast(), length)
            };
            assert_eq!(sent, part.len() as isize - 14, "{}", std::io::Error::last_os_error());
        }
        let found = answer(&socket);
        assert!(found.ends_with(" 3000"), "datagram {n}: {found}");
        owners.insert(found);
    }
    // SAFETY: ours, and closed once.
    unsafe { libc::close(raw) };
    assert_eq!(owners.len(), 3);
    let followed: u64 = fleet.edges.iter().map(|e| e.kernel.as_ref().unwrap().early_fragments().followed).sum();
    assert!(followed >= 48, "{followed}");
}

#[test]
fn machines_on_the_segment_of_the_client_get_their_frames_without_a_router() {
    if !ready("machines_on_the_segment_of_the_client_get_their_frames_without_a_router") {
        return;
    }
    let ip = |text: String| text.parse::<IpAddr>().unwrap();
    let link = Namespace::new("link");
    link.ip(&["link", "add", "br0", "type", "bridge"]);
    link.ip(&["link", "set", "br0", "up"]);
    let join = |role: &str, n: u16| {
        let namespace = Namespace::new(role);
        let port = format!("b{n}");
        namespace.join("e0", &[ip(format!("10.9.0.{n}")), ip(format!("fd09::{n}"))], &link, &port, &[]);
        link.ip(&["link", "set", &port, "master", "br0"]);
        link.take_frames(&port);
        namespace
    };
    let client = join("client", 9);
    let mut edges: Vec<Edge> = (1..=2)
        .map(|index| {
            let mut edge = Edge { namespace: join(&format!("e{index}"), index), kernel: None, index, listener: -1 };
            edge.load(None, sizes());
            edge.serve();
            edge
        })
        .collect();
    client.ip(&["route", "add", "198.51.100.1/32", "via", "10.9.0.1"]);
    client.ip(&["-6", "route", "add", "2001:db8:51::1/128", "via", "fd09::1"]);
    for over_v6 in [false, true] {
        let at = |index: u16| ip(if over_v6 { format!("fd09::{index}") } else { format!("10.9.0.{index}") });
        let addresses: Vec<IpAddr> = [VIP_V4, VIP_V6].iter().map(|a| a.parse::<SocketAddr>().unwrap().ip()).collect();
        let apply = |edge: &mut Edge| {
            let machine = |index| Machine {
                index,
                name: format!("e{index}"),
                address: at(index),
                next_hop: None,
                backend: None,
                own: index == edge.index,
            };
            let machines = [1, 2].map(machine);
            let vip = Vip {
                id: 1,
                name: "v".into(),
                addresses: addresses.iter().map(|ip| (*ip).into()).collect(),
                ports: vec![80..=80],
                protocols: vec![Protocol::Tcp],
                hash: Hash::FiveTuple,
                slots: world::uniform([2, 0, 0, 0]),
                limits: edge_kernel::VipLimits::default(),
                earlier: None,
                backends: false,
            };
            let kernel = edge.kernel.as_mut().unwrap();
            world::set_cookies(kernel);
            edge.namespace.enter(|| kernel.steer(&machines, &[vip]).map(drop)).unwrap_or_else(|e| panic!("{e}"));
        };
        edges.iter_mut().for_each(apply);
        // A frame that goes back to where the packet came from goes to the client.
        if !over_v6 {
            assert!(client.enter(|| open(VIP_V4)).is_err());
        }
        let first = &mut edges[0];
        // Found out by asking, of both families.
        let until = std::time::Instant::now() + Duration::from_secs(10);
        let mut found = over_v6 as u32 * 2;
        while found < 2 {
            let kernel = first.kernel.as_mut().unwrap();
            let followed =
                first.namespace.enter(|| kernel.follow(&["10.9.0.2", "fd09::2"].map(|a| a.parse().unwrap())));
            assert_eq!(followed.told, Vec::<String>::new());
            found = followed.next_hops as u32;
            assert!(std::time::Instant::now() < until, "{found} of two neighbours are found");
            std::thread::sleep(Duration::from_millis(20));
        }
        apply(first);
        for to in [VIP_V4, VIP_V6] {
            let answer = client.enter(|| open(to).and_then(|mut stream| exchange(&mut stream, "who?")));
            assert_eq!(answer.unwrap_or_else(|e| e.to_string()), "2", "{to}, tunnel over IPv6: {over_v6}");
        }
        if over_v6 {
            continue;
        }
        // One of which nothing can be found out (the kernel has no answer about a blackhole but an error) is told of once, and again when
        // it has been well; the others are followed all the same.
        let follow_all = |edge: &mut Edge, all: &[&str]| {
            let all: Vec<IpAddr> = all.iter().map(|a| a.parse().unwrap()).collect();
            let kernel = edge.kernel.as_mut().unwrap();
            edge.namespace.enter(|| kernel.follow(&all))
        };
        let follow = |edge: &mut Edge| follow_all(edge, &["10.8.0.9", "10.9.0.2"]);
        for _ in 0..2 {
            first.namespace.ip(&["route", "add", "blackhole", "10.8.0.9"]);
            let found = follow(first);
            assert_eq!(found.next_hops, 1, "{found:?}");
            assert!(found.told.len() == 1 && found.told[0].contains("10.8.0.9"), "{found:?}");
            assert_eq!(follow(first).told, Vec::<String>::new());
            first.namespace.ip(&["route", "del", "blackhole", "10.8.0.9"]);
            assert_eq!(follow(first).told, Vec::<String>::new());
        }
        assert_eq!(follow_all(first, &["10.9.0.2", "fd09::2"]).next_hops, 2);
    }
}

#[test]
fn frames_that_a_driver_does_not_send_are_counted_and_told() {
    if !ready("frames_that_a_driver_does_not_send_are_counted_and_told") {
        return;
    }
    let (router, edge) = (Namespace::new("router"), Namespace::new("edge"));
    router.join("r1", &[IpAddr::from([10, 1, 1, 1])], &edge, "e0", &[edge_v4(1)]);
    edge.ip(&["route", "add", "default", "via", "10.1.1.1"]);
    let options = || Options { interfaces: vec!["e0".into()], pin_dir: None, sizes: sizes(), ..Options::default() };
    let load = || edge.enter(|| Kernel::load(options()).unwrap_or_else(|e| panic!("{e}")));
    // Until something is told, or for as long as a test of sending takes.
    let told = |kernel: &mut Kernel| {
        let began = std::time::Instant::now();
        loop {
            let told = edge.enter(|| kernel.follow(&[])).told;
            if !told.is_empty() || began.elapsed() > Duration::from_secs(8) {
                return told;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    // The other end takes no frames of XDP, as it is until somebody sees to it: what is sent arrives nowhere, and nothing says so but this.
    let mut kernel = load();
    let first = told(&mut kernel);
    assert!(first.iter().any(|told| told.contains("do not arrive: the router 10.1.1.1 answers")), "{first:?}");
    assert!(first.iter().all(|told| told.contains("gro on")), "what to do about it: {first:?}");
    drop(kernel);
    router.take_frames("r1");
    let mut kernel = load();
    assert_eq!(told(&mut kernel), Vec::<String>::new());
}

#[test]
fn an_interface_that_is_made_anew_and_another_mtu_are_followed() {
    if !ready("an_interface_that_is_made_anew_and_another_mtu_are_followed") {
        return;
    }
    let mut fleet = Fleet::new(2, Some("anew"));
    fleet.apply([2, 0, 0, 0], false);
    assert_eq!(fleet.ask(VIP_V4).unwrap(), "2");
    let follow = |fleet: &mut Fleet| {
        let edge = &mut fleet.edges[0];
        let kernel = edge.kernel.as_mut().unwrap();
        edge.namespace.enter(|| kernel.follow(&[]))
    };
    assert_eq!(follow(&mut fleet).told, Vec::<String>::new());
    // Another MTU.
    fleet.edges[0].namespace.ip(&["link", "set", "e0", "mtu", "1400"]);
    let found = follow(&mut fleet);
    assert!(found.news && found.told.len() == 1 && found.told[0].contains("1400"), "{found:?}");
    assert!(!follow(&mut fleet).news, "once");
    // The interface goes: that is told once.
    fleet.router.ip(&["link", "del", "r1"]);
    let gone = follow(&mut fleet).told;
    assert!(gone.len() == 1 && gone[0].contains("e0"), "{gone:?}");
    assert_eq!(follow(&mut fleet).told, Vec::<String>::new());
    // And comes back.
    let routers = [IpAddr::from([10, 1, 1, 1]), IpAddr::from([0xfd00, 1, 1, 0, 0, 0, 0, 1])];
    let edge = &fleet.edges[0].namespace;
    fleet.router.join("r1", &routers, edge, "e0", &[edge_v4(1), edge_v6(1)]);
    fleet.router.take_frames("r1");
    edge.ip(&["route", "add", "default", "via", "10.1.1.1"]);
    fleet.route_to(1);
    let found = follow(&mut fleet);
    assert!(found.told.iter().any(|told| told.contains("made anew")), "{found:?}");
    fleet.apply([2, 0, 0, 0], false);
    let before = fleet.packets(1, Reason::Forwarded);
    assert_eq!(fleet.ask(VIP_V4).unwrap_or_else(|e| e.to_string()), "2");
    assert!(fleet.packets(1, Reason::Forwarded) > before);
}

#[test]
fn connections_survive_that_something_else_chooses_their_machine() {
    if !ready("connections_survive_that_something_else_chooses_their_machine") {
        return;
    }
    let mut fleet = Fleet::new(3, None);
    let slots: std::sync::Arc<[abi::Slot]> = by_turns(3).iter().map(|owner| abi::Slot::of(*owner)).collect();
    let addresses: Vec<IpAddr> = [VIP_V4, VIP_V6].iter().map(|a| a.parse::<SocketAddr>().unwrap().ip()).collect();
    let spread = |fleet: &mut Fleet, hash: Hash, seed: u32, earlier: Option<edge_kernel::Earlier>| {
        for edge in &mut fleet.edges {
            let machine = |index| Machine {
                index,
                name: format!("e{index}"),
                address: edge_v4(index),
                next_hop: None,
                backend: None,
                own: index == edge.index,
            };
            let vip = Vip {
                id: 1,
                name: "v".into(),
                addresses: addresses.iter().map(|ip| (*ip).into()).collect(),
                ports: vec![80..=80],
                protocols: vec![Protocol::Tcp],
                hash,
                slots: slots.clone(),
                limits: edge_kernel::VipLimits::default(),
                earlier: earlier.clone(),
                backends: false,
            };
            let kernel = edge.kernel.as_mut().unwrap();
            world::set_cookies(kernel);
            kernel.set_seed(seed);
            let machines = [1, 2, 3].map(machine);
            edge.namespace.enter(|| kernel.steer(&machines, &[vip]).map(drop)).unwrap_or_else(|e| panic!("{e}"));
        }
    };
    let everybody = |fleet: &Fleet| -> Vec<(String, TcpStream)> {
        let connect = |n: u16| {
            fleet.route_to(n % 3 + 1);
            let mut stream = fleet.open([VIP_V4, VIP_V6][usize::from(n / 3 % 2)]);
            (exchange(&mut stream, "who?").unwrap_or_else(|e| e.to_string()), stream)
        };
        (0..24).map(connect).collect()
    };
    let still = |fleet: &Fleet, open: &mut [(String, TcpStream)]| {
        for chosen in 1..=3 {
            fleet.route_to(chosen);
            for (owner, stream) in open.iter_mut() {
                assert_eq!(&exchange(stream, "still?").unwrap_or_else(|e| e.to_string()), owner, "over {chosen}");
            }
        }
    };
    let owners = |open: &[(String, TcpStream)]| -> std::collections::BTreeSet<String> {
        open.iter().map(|(owner, _)| owner.clone()).collect()
    };
    spread(&mut fleet, Hash::FiveTuple, 0, None);
    let mut open = everybody(&fleet);
    assert_eq!(owners(&open).len(), 3);
    // The port that is called alone chooses: all that is new goes to one machine for each address family.
    let earlier = |hash, seed| Some(edge_kernel::Earlier { hash, seed, slots: slots.clone() });
    spread(&mut fleet, Hash::DestinationPort, 0, earlier(Hash::FiveTuple, 0));
    let mut new = everybody(&fleet);
    assert!(owners(&new).len() <= 2 && owners(&new).iter().all(|owner| owner.len() == 1), "{:?}", owners(&new));
    still(&fleet, &mut open);
    still(&fleet, &mut new);
    // Another seed puts everything elsewhere.
    spread(&mut fleet, Hash::FiveTuple, 77, earlier(Hash::FiveTuple, 0));
    still(&fleet, &mut open);
    let mut reseeded = everybody(&fleet);
    assert_eq!(owners(&reseeded).len(), 3);
    still(&fleet, &mut reseeded);
    // When nobody is remembered, nobody is found: the control.
    drop((new, reseeded));
    spread(&mut fleet, Hash::FiveTuple, 77, None);
    fleet.route_to(1);
    let mut lost = 0;
    for (owner, stream) in &mut open {
        lost += u32::from(exchange(stream, "still?").map_or(true, |answer| answer != *owner));
    }
    assert!(lost > 4, "{lost}");
}
