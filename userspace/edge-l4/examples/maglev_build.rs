//! How long a table takes: `cargo run --release -p edge-l4 --example maglev_build`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use edge_l4::maglev::{Candidate, full_table};

fn main() {
    println!("{:>8} {:>8} {:>12} {:>12} {:>9}", "machines", "weights", "median", "best", "max/avg");
    for machines in [3usize, 10, 100, 1000, 2000] {
        for weighted in [false, true] {
            let names: Vec<String> = (1..=machines).map(|i| format!("edge-{i}")).collect();
            let candidates: Vec<Candidate<'_>> = names
                .iter()
                .enumerate()
                .map(|(i, name)| {
                    let weight = if weighted && i % 2 == 0 { 10 } else { 1 };
                    Candidate { id: i as u16 + 1, weight, name }
                })
                .collect();
            let mut times: Vec<Duration> = (0..ROUNDS)
                .map(|_| {
                    let started = Instant::now();
                    black_box(full_table(black_box(&candidates)));
                    started.elapsed()
                })
                .collect();
            times.sort_unstable();
            let table = full_table(&candidates);
            let mut counts = vec![0usize; machines + 1];
            for owner in &table {
                counts[usize::from(*owner)] += 1;
            }
            let sum: u32 = candidates.iter().map(|c| c.weight).sum();
            let worst = candidates
                .iter()
                .map(|c| counts[usize::from(c.id)] as f64 / (table.len() as f64 * f64::from(c.weight) / f64::from(sum)))
                .fold(0.0, f64::max);
            let kind = if weighted { "1:10" } else { "equal" };
            println!("{machines:>8} {kind:>8} {:>12.2?} {:>12.2?} {worst:>9.4}", times[ROUNDS / 2], times[0]);
        }
    }
}

const ROUNDS: usize = 51;
