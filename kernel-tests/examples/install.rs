//! What it takes to put virtual IPs in force: `cargo run --release -p kernel-tests --example install` (root).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::Slot;
use edge_kernel::{Hash, Kernel, Machine, Options, Protocol, Sizes, Vip, VipLimits};
use edge_l4::maglev::{Candidate, full_table};

fn main() {
    let sizes = Sizes { tables: 33, vips: 512, machines: 255 };
    let options =
        Options { pin_dir: None, own_addresses: vec![IpAddr::from([203, 0, 113, 1])], sizes, ..Options::default() };
    let mut kernel = Kernel::load(options).unwrap_or_else(|e| panic!("{e}"));
    let machines: Vec<Machine> = (1..=16).map(machine).collect();
    let names: Vec<String> = machines.iter().map(|machine| machine.name.clone()).collect();
    let began = Instant::now();
    // Sixteen ways to spread flows, which virtual IPs share.
    let tables: Vec<Arc<[Slot]>> = (1..=16).map(|heavy| table(&names, heavy)).collect();
    println!("{:>7.2} ms for a table of 16 machines", ms(began.elapsed()) / 16.0);
    for count in [1, 64, 512] {
        let mut vips: Vec<Vip> = (0..count).map(|at| vip(at, &tables[usize::from(at) % tables.len()])).collect();
        let mut time = |what: &str, vips: &[Vip]| {
            let mut times: Vec<Duration> = (0..ROUNDS)
                .map(|_| {
                    // Nothing is known of them before.
                    kernel.apply(&machines, &[]).unwrap_or_else(|e| panic!("{e}"));
                    let began = Instant::now();
                    kernel.apply(&machines, vips).unwrap_or_else(|e| panic!("{e}"));
                    began.elapsed()
                })
                .collect();
            times.sort_unstable();
            let median = ms(times[ROUNDS / 2]);
            println!("{median:>7.2} ms for {count} virtual IPs, {what}: {:.3} ms each", median / f64::from(count));
        };
        time("all new", &vips);
        kernel.apply(&machines, &vips).unwrap_or_else(|e| panic!("{e}"));
        let mut times = Vec::new();
        for round in 0..ROUNDS {
            // One of them is spread another way.
            vips[0].slots = tables[(round + 1) % tables.len()].clone();
            let began = Instant::now();
            kernel.apply(&machines, &vips).unwrap_or_else(|e| panic!("{e}"));
            times.push(began.elapsed());
        }
        times.sort_unstable();
        println!("{:>7.2} ms for {count} virtual IPs, of which one changes", ms(times[ROUNDS / 2]));
    }
    let table = f64::from(abi::limits::SLOTS) * size_of::<Slot>() as f64 / 1e6;
    println!("{table:.2} MB a table, {:.0} MB for {} of them", table * f64::from(sizes.tables), sizes.tables);
}

fn machine(index: u16) -> Machine {
    Machine {
        index,
        name: format!("edge-{index}"),
        address: IpAddr::from([203, 0, 113, index as u8]),
        next_hop: None,
        backend: None,
        own: index == 1,
    }
}

fn table(names: &[String], heavy: u16) -> Arc<[Slot]> {
    let weight = |index: u16| if index == heavy { 2 } else { 1 };
    let candidates: Vec<Candidate<'_>> =
        (1..).zip(names).map(|(id, name)| Candidate { id, weight: weight(id), name }).collect();
    full_table(&candidates).into_iter().map(Slot::of).collect()
}

fn vip(at: u16, slots: &Arc<[Slot]>) -> Vip {
    let [high, low] = at.to_be_bytes();
    Vip {
        id: at + 1,
        name: format!("v{at}"),
        addresses: vec![IpAddr::V4(Ipv4Addr::new(198, 18, high, low)).into()],
        ports: vec![80..=80, 443..=443],
        protocols: vec![Protocol::Tcp],
        hash: Hash::FiveTuple,
        slots: slots.clone(),
        limits: VipLimits::default(),
        earlier: None,
        backends: false,
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

const ROUNDS: usize = 9;
