//! What a packet costs in `xdp_steer`, in nanoseconds, measured by the kernel inside BPF_PROG_TEST_RUN.
//!
//! The packet is not restored between the runs of one call, so the bench programs undo what steering did; what the harness
//! itself costs is measured beside them, in the same round, and taken off for the net figure: machines differ, and an empty program
//! costs 7 to 26 ns. A call repeats 300,000 times, because a call with more than one repetition has a fixed cost of milliseconds;
//! contenders take turns, and medians are taken over rounds.

mod katran;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use aya::maps::Array;
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use edge_kernel::{AccessPrefix, Kernel, Options, sys};

use crate::packet::{self, ACK, SYN};
use crate::world::{self, Fixture, client};

/// One contender over all rounds.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: &'static str,
    /// Nanoseconds per packet, one value per round, in their order.
    pub ns: Vec<u32>,
    /// Without what its harness took in the same round; of harnesses nothing.
    pub net: Vec<i64>,
    /// What `net` is to be at most, in the median.
    pub goal: Option<i64>,
}

impl Row {
    pub fn median(&self) -> u32 {
        middle(&self.ns)
    }

    pub fn min(&self) -> u32 {
        self.ns.iter().copied().min().unwrap_or_default()
    }

    pub fn max(&self) -> u32 {
        self.ns.iter().copied().max().unwrap_or_default()
    }

    pub fn median_net(&self) -> Option<i64> {
        (!self.net.is_empty()).then(|| middle(&self.net))
    }
}

fn middle<T: Copy + Ord>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

struct Contender {
    name: &'static str,
    program: &'static str,
    flows: u64,
    frame: Vec<u8>,
    /// What is taken off: by name.
    harness: Option<&'static str>,
    goal: Option<i64>,
    beside: Beside,
}

/// What is there that does not have the source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    Lists,
    Bans,
}

/// Runs all contenders `rounds` times. `object` is `target/bpf/weir-bench.bpf.o`, `katran` what `katran.bpf.c` became.
pub fn run(rounds: u32, object: &Path, katran: Option<&Path>) -> Result<Vec<Row>, String> {
    let bytes =
        std::fs::read(object).map_err(|e| format!("{}: {e}; `cargo xtask build-ebpf` makes it", object.display()))?;
    let pins = Options::pin_dir_of(&format!("bench-{}", std::process::id()));
    let result = measure(rounds, &bytes, &pins, katran);
    let _ = std::fs::remove_dir_all(&pins);
    result
}

fn measure(rounds: u32, object: &[u8], pins: &Path, katran: Option<&Path>) -> Result<Vec<Row>, String> {
    let options = Options {
        pin_dir: Some(pins.to_owned()),
        own_addresses: vec![world::address(world::OWN), world::own_v6()],
        sizes: world::sizes(),
        ..Options::default()
    };
    let mut kernel = Kernel::load_object(options, object).map_err(|e| e.to_string())?;
    // Two other machines share every slot of a fixture, so that all packets are forwarded and both are looked up.
    // None by prefix: where there are, what is for nobody is looked for among them, too.
    let mut vips = world::vips();
    vips.retain(|vip| ![Fixture::Wide, Fixture::Narrow].map(|fixture| fixture as u16).contains(&vip.id));
    let forwarded = vips.iter_mut().find(|v| v.id == Fixture::SpreadFiveTuple as u16).expect("a fixture");
    forwarded.slots =
        (0..abi::limits::SLOTS).map(|slot| abi::Slot::of([world::OTHER, world::THIRD][slot as usize % 2])).collect();
    world::set_cookies(&mut kernel);
    kernel.apply(&world::machines(), &vips).map_err(|e| e.to_string())?;

    let mut programs = vec![load(object, pins)?];
    let mut contenders = contenders();
    if let Some(object) = katran {
        programs.push(katran::load(object)?);
        contenders.extend(katran::contenders());
    }
    let row = |c: &Contender| Row { name: c.name, ns: Vec::new(), net: Vec::new(), goal: c.goal };
    let mut rows: Vec<Row> = contenders.iter().map(row).collect();
    let (lists, mut beside) = (lists(), Beside::Nothing);
    for round in 0..=rounds {
        let mut of_round = BTreeMap::new();
        for (contender, row) in contenders.iter().zip(&mut rows) {
            let of = |ebpf: &&mut Ebpf| ebpf.program(contender.program).is_some();
            let ebpf = programs.iter_mut().find(of).ok_or_else(|| format!("no object has {}", contender.program))?;
            if contender.beside != beside {
                beside = contender.beside;
                let (lists, bans) = (if beside == Beside::Lists { &lists[..] } else { &[] }, beside == Beside::Bans);
                kernel.set_access(lists).map_err(|e| e.to_string())?;
                kernel.set_bans(bans.then(bans_of_nobody).into_iter().flatten()).map_err(|e| e.to_string())?;
            }
            let ns = once(ebpf, contender)?;
            of_round.insert(contender.name, ns);
            // The first round warms caches and clocks.
            if round > 0 {
                row.ns.push(ns);
                let harness = contender.harness.and_then(|name| of_round.get(name));
                row.net.extend(harness.map(|harness| i64::from(ns) - i64::from(*harness)));
            }
        }
    }
    Ok(rows)
}

/// A hundred thousand addresses of IPv4 that are nobody's here, in as many blocks, and as many prefixes of IPv6.
fn lists() -> Vec<AccessPrefix> {
    let v4 =
        |n: u32| AccessPrefix { address: IpAddr::from((0x1000_0000 + n * 257).to_be_bytes()), bits: 32, denied: true };
    let v6 = |n: u32| {
        let address = IpAddr::from([0x2a00 + (n >> 12) as u16, (n << 4) as u16, 1, 0, 0, 0, 0, 0]);
        AccessPrefix { address, bits: 48, denied: true }
    };
    (0..100_000).map(v4).chain((0..100_000).map(v6)).collect()
}

/// Ten thousand of these addresses of IPv4.
fn bans_of_nobody() -> impl Iterator<Item = (IpAddr, Instant)> {
    let until = Instant::now() + Duration::from_secs(3_600);
    let prefixes = lists().into_iter();
    prefixes.filter(|prefix| prefix.address.is_ipv4()).take(10_000).map(move |prefix| (prefix.address, until))
}

/// Harnesses first.
fn contenders() -> Vec<Contender> {
    const MILLION: u64 = 1 << 20;
    let tcp = |fixture: Fixture, v4, flags| packet::tcp(client(v4, 1), fixture.at(v4, 80), flags, 15);
    let spread = |v4| tcp(Fixture::SpreadFiveTuple, v4, ACK);
    let udp = |v4| packet::udp(client(v4, 1), Fixture::SpreadFiveTuple.at(v4, 80), &[0; 27]);
    let (v4, v6) = ("bench_steer_v4", "bench_steer_v6");
    let harness = |name, program, flows| Contender {
        name,
        program,
        flows,
        frame: spread(true),
        harness: None,
        goal: None,
        beside: Beside::Nothing,
    };
    let sent = |name, program, flows, frame, goal| {
        let harness = Some(if flows == 1 {
            SENT
        } else if flows == MILLION {
            SENT_MILLION
        } else {
            SENT_MILLIONS
        });
        Contender { name, program, flows, frame, harness, goal: Some(goal), beside: Beside::Nothing }
    };
    // What stays is given up as it is: the harness has nothing to undo.
    let kept = |name, frame, goal| Contender {
        name,
        program: v4,
        flows: 1,
        frame,
        harness: Some(KEPT),
        goal: Some(goal),
        beside: Beside::Nothing,
    };
    // What lists or bans add that do not have the source: without them is the harness.
    let missed = |name, program, frame, without, beside| Contender {
        name,
        program,
        flows: 1,
        frame,
        harness: Some(without),
        goal: Some(10),
        beside,
    };
    vec![
        harness("empty program", "bench_empty", 1),
        harness(KEPT, "bench_kept", 1),
        harness(SENT, "bench_harness", 1),
        harness(SENT_MILLION, "bench_harness", MILLION),
        harness(SENT_MILLIONS, "bench_harness", 4 * MILLION),
        sent(FORWARD_V4, v4, 1, spread(true), 30),
        sent("forward IPv4 TCP, 1 M flows", v4, MILLION, spread(true), 40),
        sent("forward IPv4 TCP, 4 M flows", v4, 4 * MILLION, spread(true), 40),
        sent(FORWARD_V6, v6, 1, spread(false), 40),
        sent("forward IPv6 TCP, 1 M flows", v6, MILLION, spread(false), 50),
        sent("forward IPv4 UDP, warm", v4, 1, udp(true), 30),
        sent("forward IPv6 UDP, warm", v6, 1, udp(false), 40),
        kept("own, new connection", tcp(Fixture::Here, true, SYN), 60),
        sent("own, asks for a socket, second chance", v4, 1, tcp(Fixture::HereBefore, true, ACK), 110),
        kept("no VIP", packet::tcp(client(true, 1), client(true, 2), ACK, 15), 12),
        // A part of all of these, and one of the second chance.
        Contender { program: "bench_lookup", goal: None, ..kept("the look-up of the VIP alone", spread(true), 0) },
        Contender { program: "bench_socket", goal: None, ..kept("the look-up of the socket alone", spread(true), 0) },
        missed("access lists, IPv4, no hit: over forward", v4, spread(true), FORWARD_V4, Beside::Lists),
        missed("access lists, IPv6, no hit: over forward", v6, spread(false), FORWARD_V6, Beside::Lists),
        missed("bans, IPv4, no hit: over forward", v4, spread(true), FORWARD_V4, Beside::Bans),
        missed("bans, IPv6, no hit: over forward", v6, spread(false), FORWARD_V6, Beside::Bans),
    ]
}

const PROGRAMS: [&str; 7] =
    ["bench_empty", "bench_kept", "bench_lookup", "bench_socket", "bench_harness", "bench_steer_v4", "bench_steer_v6"];

const FORWARD_V4: &str = "forward IPv4 TCP, warm";
const FORWARD_V6: &str = "forward IPv6 TCP, warm";
const KEPT: &str = "harness of what stays";
const SENT: &str = "harness of what is sent";
const SENT_MILLION: &str = "harness of what is sent, 1 M flows";
const SENT_MILLIONS: &str = "harness of what is sent, 4 M flows";

fn load(object: &[u8], pins: &Path) -> Result<Ebpf, String> {
    let layout = std::fs::read_dir(pins)
        .ok()
        .and_then(|entries| entries.flatten().map(|e| e.path()).find(|p| p.is_dir()))
        .ok_or_else(|| format!("{}: no maps are pinned there", pins.display()))?;
    let mut loader = EbpfLoader::new();
    let names: Vec<String> = std::fs::read_dir(&layout)
        .map_err(|e| e.to_string())?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    for name in &names {
        loader.map_pin_path(name, layout.join(name));
    }
    let mut ebpf = loader.load(object).map_err(|e| e.to_string())?;
    for contender in PROGRAMS {
        let program = ebpf.program_mut(contender).ok_or_else(|| format!("the object has no program {contender}"))?;
        let xdp: &mut Xdp = program.try_into().map_err(|e| format!("{contender}: {e}"))?;
        xdp.load().map_err(|e| format!("{contender}: {e}"))?;
    }
    Ok(ebpf)
}

fn once(ebpf: &mut Ebpf, contender: &Contender) -> Result<u32, String> {
    const REPEAT: u32 = 300_000;
    let map = ebpf.map_mut("BENCH").ok_or("the object has no map BENCH")?;
    let mut bench: Array<_, u64> = map.try_into().map_err(|e: aya::maps::MapError| e.to_string())?;
    bench.set(0, contender.flows - 1, 0).map_err(|e| e.to_string())?;
    bench.set(1, 0x2545_f491_4f6c_dd1d, 0).map_err(|e| e.to_string())?;
    let program: &Xdp = ebpf
        .program(contender.program)
        .ok_or("no such program")?
        .try_into()
        .map_err(|e: aya::programs::ProgramError| e.to_string())?;
    let fd: BorrowedFd<'_> = program.fd().map_err(|e| e.to_string())?.as_fd();
    let ran = sys::test_run(fd, &contender.frame, REPEAT).map_err(|e| format!("{}: {e}", contender.name))?;
    if ran.verdict == 1 {
        return Err(format!("{}: the packet was dropped", contender.name));
    }
    if ran.packet.len() != contender.frame.len() {
        return Err(format!("{}: the harness did not restore the packet", contender.name));
    }
    Ok(ran.ns)
}
