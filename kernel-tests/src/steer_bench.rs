//! What a packet costs in `xdp_steer`, in nanoseconds, measured by the kernel inside BPF_PROG_TEST_RUN.
//!
//! The packet is not restored between the runs of one call, so the bench programs undo what steering did; what the harness
//! itself costs is a row of its own and included in the others. A call repeats 300,000 times, because a call with more than
//! one repetition has a fixed cost of milliseconds; contenders take turns, and medians are taken over rounds.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::maps::Array;
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use edge_kernel::{Kernel, Options, sys};

use crate::packet::{self, ACK, SYN};
use crate::world::{self, Fixture, client};

/// One contender over all rounds.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: &'static str,
    /// Nanoseconds per packet, one value per round, sorted.
    pub ns: Vec<u32>,
}

impl Row {
    pub fn median(&self) -> u32 {
        self.ns[self.ns.len() / 2]
    }

    pub fn min(&self) -> u32 {
        self.ns[0]
    }

    pub fn max(&self) -> u32 {
        self.ns[self.ns.len() - 1]
    }
}

struct Contender {
    name: &'static str,
    program: &'static str,
    flows: u64,
    frame: Vec<u8>,
}

/// Runs all contenders `rounds` times. `object` is `target/bpf/weir-bench.bpf.o`.
pub fn run(rounds: u32, object: &Path) -> Result<Vec<Row>, String> {
    let bytes =
        std::fs::read(object).map_err(|e| format!("{}: {e}; `cargo xtask build-ebpf` makes it", object.display()))?;
    let pins = Options::pin_dir_of(&format!("bench-{}", std::process::id()));
    let result = measure(rounds, &bytes, &pins);
    let _ = std::fs::remove_dir_all(&pins);
    result
}

fn measure(rounds: u32, object: &[u8], pins: &Path) -> Result<Vec<Row>, String> {
    let options = Options {
        pin_dir: Some(pins.to_owned()),
        own_addresses: vec![world::address(world::OWN), world::own_v6()],
        sizes: world::sizes(),
        ..Options::default()
    };
    let mut kernel = Kernel::load_object(options, object).map_err(|e| e.to_string())?;
    // Two other machines share every slot of a fixture, so that all packets are forwarded and both are looked up.
    let mut vips = world::vips();
    let forwarded = vips.iter_mut().find(|v| v.id == Fixture::SpreadFiveTuple as u16).expect("a fixture");
    forwarded.slots =
        (0..abi::limits::SLOTS).map(|slot| abi::Slot::of([world::OTHER, world::THIRD][slot as usize % 2])).collect();
    world::set_cookies(&mut kernel);
    kernel.apply(&world::machines(), &vips).map_err(|e| e.to_string())?;

    let mut programs = load(object, pins)?;
    let mut rows: Vec<Row> = contenders().iter().map(|c| Row { name: c.name, ns: Vec::new() }).collect();
    for round in 0..=rounds {
        for (contender, row) in contenders().iter().zip(&mut rows) {
            let ns = once(&mut programs, contender)?;
            // The first round warms caches and clocks.
            if round > 0 {
                row.ns.push(ns);
            }
        }
    }
    rows.iter_mut().for_each(|row| row.ns.sort_unstable());
    Ok(rows)
}

fn contenders() -> Vec<Contender> {
    const MILLION: u64 = 1 << 20;
    let tcp = |fixture: Fixture, v4, flags| packet::tcp(client(v4, 1), fixture.at(v4, 80), flags, 15);
    let spread = |v4| tcp(Fixture::SpreadFiveTuple, v4, ACK);
    let (v4, v6) = ("bench_steer_v4", "bench_steer_v6");
    let contender = |name, program, flows, frame| Contender { name, program, flows, frame };
    vec![
        contender("empty program", "bench_empty", 1, spread(true)),
        contender("harness alone", "bench_harness", 1, spread(true)),
        contender("harness alone, 1 M flows", "bench_harness", MILLION, spread(true)),
        contender("forward IPv4 TCP, warm", v4, 1, spread(true)),
        contender("forward IPv4 TCP, 1 M flows", v4, MILLION, spread(true)),
        contender("forward IPv6 TCP, warm", v6, 1, spread(false)),
        contender("forward IPv6 TCP, 1 M flows", v6, MILLION, spread(false)),
        contender(
            "forward IPv4 UDP, warm",
            v4,
            1,
            packet::udp(client(true, 1), Fixture::SpreadFiveTuple.at(true, 80), &[0; 27]),
        ),
        contender("own, new connection", v4, 1, tcp(Fixture::Here, true, SYN)),
        contender("own, asks for a socket, second chance", v4, 1, tcp(Fixture::HereBefore, true, ACK)),
        contender("no VIP", v4, 1, packet::tcp(client(true, 1), client(true, 2), ACK, 15)),
    ]
}

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
    for contender in ["bench_empty", "bench_harness", "bench_steer_v4", "bench_steer_v6"] {
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
