//! The BPF program, the same code on the host, and a second opinion that shares no line with it ([`kernel_tests::witness`]), over mutated
//! packets of a machine that holds connections in every state: verdict, bytes and counters must be equal.
//!
//! `WEIR_MODEL_PACKETS` sets how many (default 200,000; 10,000,000 is the long run), `WEIR_MODEL_SEED` which.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use abi::Verdict;
use abi::config::lease;
use datapath::Connection;
use edge_kernel::{AccessPrefix, AccessTables, Hook, sys};
use kernel_tests::model::Model;
use kernel_tests::mutation::mutated;
use kernel_tests::namespace::{self, Namespace};
use kernel_tests::packet::Random;
use kernel_tests::ready;
use kernel_tests::witness::{self, Claim, Witness};
use kernel_tests::world::{self, Fixture, OWN, client};

/// A new world after so many, because the kernel remembers 16,384 fragments, and after so long, because it remembers them for half a
/// minute, and time-wait for a whole one.
const EACH: u64 = 200_000;
const LASTS: Duration = Duration::from_secs(20);
const FORGOTTEN_AFTER: Duration = Duration::from_secs(29);

#[test]
fn the_program_the_host_and_a_second_opinion_agree_on_mutated_packets() {
    if !ready("the_program_the_host_and_a_second_opinion_agree_on_mutated_packets") {
        return;
    }
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (packets, seed) = (number("WEIR_MODEL_PACKETS", 200_000), number("WEIR_MODEL_SEED", 1));
    let mut reasons = BTreeMap::<&str, u64>::new();
    let mut random = Random(seed);
    // A daemon that nobody has spoken of, one that began not long ago, and one that is dead.
    for (lease, packets) in [(lease::OFF, packets), (lease::YOUNG, packets / 10), (lease::LAPSED, packets / 10)] {
        let mut left = packets;
        while left > 0 {
            let namespace = Namespace::new("model");
            left -= namespace.enter(|| compare(&namespace, lease, &mut random, left.min(EACH), &mut reasons));
        }
    }
    println!("{packets} packets, seed {seed}: {reasons:?}");
    if packets >= EACH {
        for reason in ["access_denied", "second_chance", "stood_in"] {
            assert!(reasons.contains_key(reason), "{reason}: {reasons:?}");
        }
        assert!(reasons.len() >= 28, "the mutations reach most reasons: {reasons:?}");
    }
}

/// In the calling thread's namespace, which is fresh. Says how many packets were compared.
fn compare(
    namespace: &Namespace,
    lease: u8,
    random: &mut Random,
    packets: u64,
    reasons: &mut BTreeMap<&str, u64>,
) -> u64 {
    let opened = Instant::now();
    let sockets = Sockets::open(namespace);
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
    let held = kernel.lease();
    match lease {
        lease::YOUNG => held.renew(Duration::from_secs(600)),
        lease::LAPSED => held.end(),
        _ => {}
    }
    let program = kernel.program(Hook::XdpSteer).expect("loaded");
    let mut model = Model::new();
    model.access = AccessTables::of(&denied);
    model.lease = lease;
    model.listeners = sockets.listeners();
    model.sockets = sockets.held.iter().map(|held| (held.connection(), held.state)).collect();
    let mut witness = Witness::new(world::machines(), world::vips(), [world::address(OWN), world::own_v6()]);
    witness.prefixes = denied.to_vec();
    witness.lease = lease;
    witness.listeners = sockets.listeners().into_iter().collect();
    witness.sockets = sockets.held.iter().map(|held| ((held.client, held.vip), held.claim)).collect();

    let mut counted = BTreeMap::<&str, u64>::new();
    let mut compared = 0;
    while compared < packets && opened.elapsed() < LASTS {
        compared += 1;
        let before = random.0;
        let frame = mutated(random);
        let ran = sys::test_run(program, &frame, 1).expect("test run");
        let (outcome, bytes) = model.run(&frame);
        let said = witness.judge(&frame);
        *counted.entry(outcome.reason.name()).or_default() += 1;
        let dropped = outcome.reason.verdict() == Verdict::Drop;
        let host = ran.verdict == witness::action(outcome.reason) && (dropped || ran.packet == bytes);
        let second = said.reason == outcome.reason
            && said.machine == outcome.machine
            && (dropped || witness::same(&said.frame, &bytes, said.reason));
        assert!(
            host && second || opened.elapsed() > FORGOTTEN_AFTER,
            "WEIR_MODEL_SEED={before}: the program said {}, the host {outcome:?}, the second opinion {} and machine {}\n\
             in      {frame:02x?}\nprogram {:02x?}\nhost    {bytes:02x?}\nsecond  {:02x?}",
            ran.verdict,
            said.reason.name(),
            said.machine,
            ran.packet,
            said.frame
        );
    }
    // The counters agree too, reason by reason.
    let counters = kernel.counters();
    for (&name, &expected) in &counted {
        let found: u64 = counters.reasons.iter().filter(|c| c.reason.name() == name).map(|c| c.packets).sum();
        assert_eq!(found, expected, "{name}");
        *reasons.entry(name).or_default() += expected;
    }
    compared
}

/// Real sockets of connections from clients to virtual IPs, in states of every worth; closed with the value.
struct Sockets {
    held: Vec<Held>,
    _open: Vec<(TcpStream, TcpStream)>,
    listening: Vec<TcpListener>,
}

#[derive(Clone, Copy)]
struct Held {
    client: SocketAddr,
    vip: SocketAddr,
    /// As the kernel numbers it.
    state: u32,
    claim: Claim,
}

const ESTABLISHED: u32 = 1;
const FIN_WAIT_2: u32 = 5;
const TIME_WAIT: u32 = 6;
const CLOSED: u32 = 7;
const CLOSE_WAIT: u32 = 8;

impl Held {
    fn connection(&self) -> Connection {
        Connection {
            v4: self.vip.is_ipv4(),
            source: self.client.ip().into(),
            destination: self.vip.ip().into(),
            source_port: self.client.port(),
            destination_port: self.vip.port(),
        }
    }
}

impl Sockets {
    /// Of the few clients that have the most packets.
    fn open(namespace: &Namespace) -> Sockets {
        let mut sockets = Sockets { held: Vec::new(), _open: Vec::new(), listening: Vec::new() };
        let own = |ip: IpAddr| {
            let width = if ip.is_ipv4() { 32 } else { 128 };
            namespace.ip(&["addr", "add", &format!("{ip}/{width}"), "dev", "lo", "nodad"]);
        };
        for v4 in [true, false] {
            (0..20).for_each(|n| own(client(v4, n).ip()));
            for fixture in [Fixture::HereBefore, Fixture::HereLong, Fixture::SpreadFiveTuple, Fixture::NobodyNow] {
                let vip = fixture.at(v4, 80);
                own(vip.ip());
                let listener = TcpListener::bind(vip).expect("a listener");
                for n in 0..16 {
                    let (state, claim) = [
                        (ESTABLISHED, Claim::Live),
                        (FIN_WAIT_2, Claim::Closing),
                        (TIME_WAIT, Claim::TimeWait),
                        (CLOSE_WAIT, Claim::Live),
                    ][n % 4];
                    let held = Held { client: client(v4, n as u16), vip, state, claim };
                    sockets.connect(&listener, held);
                }
                sockets.listening.push(listener);
            }
        }
        sockets
    }

    fn listeners(&self) -> Vec<SocketAddr> {
        self.listening.iter().map(|listener| listener.local_addr().expect("it is bound")).collect()
    }

    fn connect(&mut self, listener: &TcpListener, held: Held) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut far = loop {
            match namespace::connect_from(held.client, held.vip) {
                Ok(stream) => break stream,
                // The kernel makes ways to an IPv6 address a moment after the address.
                Err(e) if e.kind() == ErrorKind::NetworkUnreachable && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(e) => panic!("{} to {}: {e}", held.client, held.vip),
            }
        };
        let (mut near, from) = listener.accept().expect("a connection");
        assert_eq!(from, held.client);
        far.write_all(b"x").expect("sent");
        near.read_exact(&mut [0]).expect("received");
        match held.state {
            FIN_WAIT_2 => near.shutdown(Shutdown::Write).expect("half closed"),
            CLOSE_WAIT => far.shutdown(Shutdown::Write).expect("half closed"),
            TIME_WAIT => {
                near.shutdown(Shutdown::Write).expect("half closed");
                assert_eq!(far.read(&mut [0]).expect("the end"), 0);
                far.shutdown(Shutdown::Write).expect("closed");
                assert_eq!(near.read(&mut [0]).expect("the end"), 0);
            }
            _ => {}
        }
        // What has become time-wait is another socket; this one is closed.
        let wanted = if held.state == TIME_WAIT { CLOSED } else { held.state };
        while namespace::tcp_state(&near) != wanted {
            assert!(Instant::now() < deadline, "{}: the socket never came into state {wanted}", held.client);
            std::thread::sleep(Duration::from_millis(1));
        }
        self.held.push(held);
        self._open.push((near, far));
    }
}
