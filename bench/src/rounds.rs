//! Gateways measured by turns, in rounds, until enough of them were left alone by the rest of the machine.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::cpu;
use crate::gateways::Gateway;
use crate::generator::{self, Outcome};
use crate::h2load;
use crate::h3_load;
use crate::report::{Row, Table};
use crate::statistics::{Figure, median};

/// One line of the table of goals: what is asked of every gateway, and what is read off.
pub struct Cell {
    pub name: &'static str,
    /// Target, upstream and process are filled in for each gateway.
    pub load: generator::Options,
    pub figures: Vec<Reading>,
}

/// A figure of a measurement and its unit.
pub type Reading = (&'static str, fn(&Outcome) -> f64);

/// CPU time of the gateway per request.
pub const COST: Reading = ("µs CPU/request", |outcome| outcome.gateway_cpu_us / outcome.requests.max(1) as f64);
/// Of it, outside the kernel.
pub const USER: Reading = ("µs user CPU/request", |outcome| outcome.gateway_user_us / outcome.requests.max(1) as f64);
pub const P50: Reading = ("p50 µs", |outcome| outcome.p50_us as f64);
pub const P99: Reading = ("p99 µs", |outcome| outcome.p99_us as f64);
pub const P999: Reading = ("p99.9 µs", |outcome| outcome.p999_us as f64);

struct Sample {
    round: u32,
    disturbed: bool,
    outcome: Outcome,
}

/// Measures all gateways in `rounds` undisturbed rounds, in twice as many at most. Fails when any answer was wrong.
pub fn measure(cell: &Cell, gateways: &[Gateway], upstream: SocketAddr, rounds: u32) -> Result<Vec<Row>, String> {
    println!("\n{}: {} rounds of {} s", cell.name, rounds, cell.load.seconds);
    for gateway in gateways {
        first_answers(cell, gateway, upstream)?;
    }
    let mut samples: Vec<Vec<Sample>> = gateways.iter().map(|_| Vec::new()).collect();
    for round in 1..=2 * rounds {
        for turn in 0..gateways.len() {
            // Another one begins each round, so that nobody always follows the same neighbour.
            let index = (turn + round as usize) % gateways.len();
            let sample = quiet_sample(cell, &gateways[index], upstream, round)?;
            print_sample(&gateways[index].name, cell, &sample);
            samples[index].push(sample);
        }
        let enough = |own: &Vec<Sample>| own.iter().filter(|sample| !sample.disturbed).count() >= rounds as usize;
        if samples.iter().all(enough) {
            break;
        }
    }
    Ok(cell
        .figures
        .iter()
        .enumerate()
        .flat_map(|(at, reading)| rows(cell, gateways, &samples, rounds, reading, at))
        .collect())
}

/// A gateway may take a few tries for its first answer on a busy machine.
fn first_answers(cell: &Cell, gateway: &Gateway, upstream: SocketAddr) -> Result<(), String> {
    let short = generator::Options { warm_up: 0.2, seconds: 0.3, ..cell.load.clone() };
    let mut outcome = Outcome::default();
    for _ in 0..10 {
        outcome = load(&short, gateway, upstream)?;
        if outcome.requests > 0 {
            return Ok(());
        }
    }
    Err(format!(
        "{} answers no request: {} errors; its files are in {}",
        gateway.name,
        outcome.errors,
        gateway.folder.display()
    ))
}

/// Measures until nobody else disturbs, a few times at most; the least disturbed one stays.
fn quiet_sample(cell: &Cell, gateway: &Gateway, upstream: SocketAddr, round: u32) -> Result<Sample, String> {
    let mut best: Option<(f64, Outcome)> = None;
    for _ in 0..TRIES {
        wait_for_quiet(cell.load.gateway_cpu, cell.load.load_cpu);
        let outcome = load(&cell.load, gateway, upstream)?;
        // On a machine that gave it no CPU nothing was measured.
        if outcome.requests == 0 {
            continue;
        }
        let foreign = disturbance(&outcome);
        if foreign <= 1.0 || best.as_ref().is_none_or(|(known, _)| foreign < *known) {
            best = Some((foreign, outcome));
        }
        if foreign <= 1.0 {
            break;
        }
    }
    let (foreign, outcome) =
        best.ok_or_else(|| format!("{}: no request was answered in {TRIES} measurements", gateway.name))?;
    // Who got no CPU may have run out of something; who had one may not.
    if foreign <= 1.0 && outcome.reconnects > 0 {
        return Err(format!("{}: {} connections were closed early", gateway.name, outcome.reconnects));
    }
    Ok(Sample { round, disturbed: foreign > 1.0, outcome })
}

/// What others took, as a multiple of what they may take.
fn disturbance(outcome: &Outcome) -> f64 {
    let us = outcome.seconds * 1e6;
    (outcome.foreign_gateway_us / us / FOREIGN_GATEWAY_MAX).max(outcome.foreign_load_us / us / FOREIGN_LOAD_MAX)
}

/// Loads one gateway once. Any wrong answer is an error.
pub fn load(options: &generator::Options, gateway: &Gateway, upstream: SocketAddr) -> Result<Outcome, String> {
    let options = generator::Options {
        target: Some(gateway.address),
        upstream: Some(upstream),
        pid: Some(gateway.pid()),
        ..options.clone()
    };
    let run = match (options.h2, options.h3) {
        (Some(shape), _) => h2load::run(&options, shape),
        (None, Some(shape)) => h3_load::run(&options, shape),
        (None, None) => generator::run(&options),
    };
    let outcome = run.map_err(|error| format!("{}: {error}", gateway.name))?;
    gateway.forget_logs();
    judged(&gateway.name, outcome, &options)
}

/// Refuses an outcome with other answers than this load is to have.
pub fn judged(name: &str, outcome: Outcome, options: &generator::Options) -> Result<Outcome, String> {
    match options.refused {
        Some(status) => refused(name, outcome, status),
        None if options.cached => kept(name, outcome, options.connections),
        None => checked(name, outcome, options.connections),
    }
}

/// Refuses an outcome with other answers than refusals, or where the upstream was asked after all.
fn refused(name: &str, outcome: Outcome, status: u16) -> Result<Outcome, String> {
    let (wrong, asked) = (outcome.errors + outcome.mismatches, outcome.upstream_requests);
    if wrong + asked > 0 {
        return Err(format!(
            "{name}: {wrong} answers were not {status}, {asked} requests reached the upstream: its figures do not count"
        ));
    }
    Ok(outcome)
}

/// Refuses an outcome with wrong answers, or with answers that were not kept though they may be.
fn kept(name: &str, outcome: Outcome, connections: usize) -> Result<Outcome, String> {
    let (wrong, asked) = (outcome.errors + outcome.mismatches, outcome.upstream_requests);
    // Whoever was the first to ask may still wait for it when the measurement begins.
    if wrong > 0 || asked > connections as u64 {
        return Err(format!(
            "{name}: {wrong} answers were wrong, {asked} requests reached the upstream though their answers are kept: its figures do \
             not count"
        ));
    }
    Ok(outcome)
}

/// Refuses an outcome with wrong answers, or with answers that no upstream gave.
pub fn checked(name: &str, outcome: Outcome, connections: usize) -> Result<Outcome, String> {
    let wrong = outcome.errors + outcome.mismatches;
    let made_up = outcome.requests.saturating_sub(outcome.upstream_requests + connections as u64);
    if wrong + made_up > 0 {
        return Err(format!(
            "{name}: {} answers were no answers, {} bodies were wrong, {made_up} answers did not come from the upstream: its \
             figures do not count",
            outcome.errors, outcome.mismatches
        ));
    }
    Ok(outcome)
}

/// Returns when both CPUs idle, or after a while in any case.
pub fn wait_for_quiet(gateway_cpu: usize, load_cpu: usize) {
    let busy = || cpu::busy(gateway_cpu) + cpu::busy(load_cpu);
    let started = Instant::now();
    while started.elapsed() < QUIET_LIMIT {
        let before = busy();
        std::thread::sleep(Duration::from_millis(250));
        if busy().saturating_sub(before) < Duration::from_millis(40) {
            return;
        }
    }
}

fn rows(
    cell: &Cell,
    gateways: &[Gateway],
    samples: &[Vec<Sample>],
    rounds: u32,
    (unit, value): &Reading,
    at: usize,
) -> Vec<Row> {
    let figure =
        |sample: &Sample| Figure { round: sample.round, value: value(&sample.outcome), disturbed: sample.disturbed };
    let names = gateways.iter().map(|gateway| gateway.name.as_str());
    let figures = names.zip(samples).map(|(name, own)| (name, own.iter().map(figure).collect()));
    let table = Table { cell: cell.name, unit, wanted: rounds as usize, figures: figures.collect() };
    let mut rows = table.rows();
    if at > 0 {
        return rows;
    }
    for (row, own) in rows.iter_mut().zip(samples) {
        let of = |value: &dyn Fn(&Outcome) -> f64| median(own.iter().map(|sample| value(&sample.outcome)).collect());
        let more = [
            ("requests_per_second", of(&|outcome| outcome.requests as f64 / outcome.seconds)),
            ("gateway_cpu_share", of(&|outcome| outcome.gateway_cpu_us / outcome.seconds / 1e6)),
            ("load_cpu_share", of(&|outcome| outcome.own_cpu_us / outcome.seconds / 1e6)),
            ("p50_us", of(&|outcome| outcome.p50_us as f64)),
            ("p99_us", of(&|outcome| outcome.p99_us as f64)),
            ("p999_us", of(&|outcome| outcome.p999_us as f64)),
        ];
        row.more.extend(more.map(|(name, value)| (name.to_string(), value)));
        if cell.load.tls == Some(generator::Tls::Resumed) {
            let share = of(&|outcome| outcome.resumed as f64 / outcome.requests.max(1) as f64);
            row.more.insert("resumed_share".into(), share);
        }
    }
    rows
}

fn print_sample(name: &str, cell: &Cell, Sample { round, disturbed, outcome }: &Sample) {
    print!("  round {round} {name:<11}");
    for (unit, value) in &cell.figures {
        print!(" {:>8.2} {unit}", value(outcome));
    }
    let note = if *disturbed { "  (disturbed)" } else { "" };
    println!(" {:>7.0} requests/s  p50 {} µs{note}", outcome.requests as f64 / outcome.seconds, outcome.p50_us);
}

/// Others may use this share of the gateway's CPU before a measurement is repeated.
const FOREIGN_GATEWAY_MAX: f64 = 0.08;
/// And this one of the load's.
const FOREIGN_LOAD_MAX: f64 = 0.2;
const TRIES: u32 = 2;
const QUIET_LIMIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_is_disturbed_by_either_cpu() {
        let outcome = |gateway: f64, load: f64| Outcome {
            seconds: 2.0,
            foreign_gateway_us: gateway * 2e6,
            foreign_load_us: load * 2e6,
            ..Outcome::default()
        };
        assert!(disturbance(&outcome(0.07, 0.19)) <= 1.0);
        assert!(disturbance(&outcome(0.09, 0.0)) > 1.0);
        assert!(disturbance(&outcome(0.0, 0.21)) > 1.0);
    }

    #[test]
    fn wrong_answers_make_no_figures() {
        let good = Outcome { requests: 100, upstream_requests: 98, ..Outcome::default() };
        assert!(checked("x", good.clone(), 2).is_ok());
        assert!(checked("x", good.clone(), 1).is_err(), "two answers from nowhere");
        for bad in [Outcome { errors: 1, ..good.clone() }, Outcome { mismatches: 1, ..good.clone() }] {
            assert!(checked("x", bad, 2).is_err());
        }
    }
}
