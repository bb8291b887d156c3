//! Katran beside ours, by the object that `katran.bpf.c` becomes: the same packets, two machines, and the tables that its own daemon would
//! write.

use std::net::IpAddr;
use std::path::Path;

use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};

use super::Contender;
use crate::packet::{self, ACK};
use crate::world::{self, Fixture, client};

/// Of `vip_meta`: no table of connections.
const BYPASS: u32 = 1 << 1;
const RING: u32 = 65_537;

const HARNESS: &str = "Katran: harness";
const HARNESS_MILLION: &str = "Katran: harness, 1 M flows";

pub fn contenders() -> Vec<Contender> {
    const MILLION: u64 = 1 << 20;
    let frame = |fixture: Fixture| packet::tcp(client(true, 1), fixture.at(true, 80), ACK, 15);
    let of = |name, program, flows, fixture, harness| Contender {
        name,
        program,
        flows,
        frame: frame(fixture),
        harness,
        goal: None,
        beside: super::Beside::Nothing,
    };
    let katran = |name, flows, fixture| {
        let harness = if flows == 1 { HARNESS } else { HARNESS_MILLION };
        of(name, "bench_katran", flows, fixture, Some(harness))
    };
    vec![
        of(HARNESS, "bench_katran_harness", 1, WITH_TABLE, None),
        of(HARNESS_MILLION, "bench_katran_harness", MILLION, WITH_TABLE, None),
        katran("Katran: IPv4 TCP in IP in IP, warm", 1, WITH_TABLE),
        katran("Katran: the same, 1 M flows", MILLION, WITH_TABLE),
        katran("Katran: without its table of flows, warm", 1, WITHOUT),
        katran("Katran: the same, 1 M flows, hash alone", MILLION, WITHOUT),
    ]
}

const WITH_TABLE: Fixture = Fixture::SpreadFiveTuple;
const WITHOUT: Fixture = Fixture::SpreadSource;

pub fn load(object: &Path) -> Result<Ebpf, String> {
    let mut ebpf = EbpfLoader::new().load_file(object).map_err(|e| format!("{}: {e}", object.display()))?;
    fill(&mut ebpf).map_err(|e| format!("{}: {e}", object.display()))?;
    for name in ["bench_katran", "bench_katran_harness"] {
        let program = ebpf.program_mut(name).ok_or_else(|| format!("{}: no program {name}", object.display()))?;
        let xdp: &mut Xdp = program.try_into().map_err(|e| format!("{name}: {e}"))?;
        xdp.load().map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(ebpf)
}

fn fill(ebpf: &mut Ebpf) -> Result<(), String> {
    let told = |e: MapError| e.to_string();
    let missing = |name: &str| format!("no map {name}");
    let mut vips: HashMap<_, [u8; 20], [u32; 2]> =
        ebpf.map_mut("vip_map").ok_or_else(|| missing("vip_map"))?.try_into().map_err(told)?;
    for (number, (fixture, flags)) in [(WITH_TABLE, 0), (WITHOUT, BYPASS)].into_iter().enumerate() {
        let mut key = [0; 20];
        let IpAddr::V4(address) = fixture.v4() else { return Err("a fixture without IPv4".to_owned()) };
        key[..4].copy_from_slice(&address.octets());
        key[16..18].copy_from_slice(&80u16.to_be_bytes());
        key[18] = 6;
        vips.insert(key, [flags, number as u32], 0).map_err(told)?;
    }
    let mut ring: Array<_, u32> =
        ebpf.map_mut("ch_rings").ok_or_else(|| missing("ch_rings"))?.try_into().map_err(told)?;
    for slot in 0..2 * RING {
        ring.set(slot, 1 + slot % 2, 0).map_err(told)?;
    }
    let mut reals: Array<_, [u8; 20]> =
        ebpf.map_mut("reals").ok_or_else(|| missing("reals"))?.try_into().map_err(told)?;
    for (index, machine) in [(1, world::OTHER), (2, world::THIRD)] {
        let mut real = [0; 20];
        let IpAddr::V4(address) = world::address(machine) else { return Err("a machine without IPv4".to_owned()) };
        real[..4].copy_from_slice(&address.octets());
        reals.set(index, real, 0).map_err(told)?;
    }
    let mut control: Array<_, [u8; 8]> =
        ebpf.map_mut("ctl_array").ok_or_else(|| missing("ctl_array"))?.try_into().map_err(told)?;
    control.set(0, [2, 0, 0, 0, 0, 5, 0, 0], 0).map_err(told)?;
    let Some(Map::LruHashMap(table)) = ebpf.take_map("BENCH_LRU") else { return Err(missing("BENCH_LRU")) };
    let mut tables: ArrayOfMaps<_, MapData> =
        ebpf.map_mut("lru_mapping").ok_or_else(|| missing("lru_mapping"))?.try_into().map_err(told)?;
    // The bench runs on one CPU at a time.
    for cpu in 0..tables.len() {
        tables.set(cpu, &table, 0).map_err(told)?;
    }
    Ok(())
}
