//! `http1`: requests over kept HTTP/1.1 connections, ours on the ring and on epoll beside its peers.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cpu;
use crate::gateways::{Gateway, Setup, free_address};
use crate::generator::{self, Outcome};
use crate::report::{Report, Row, median};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Interleaved rounds
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Who runs beside ours, of nginx, haproxy; `none` for ours alone
    #[arg(long, value_delimiter = ',', default_value = "nginx,haproxy")]
    pub peers: Vec<String>,
    /// Write the figures to this file too
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Connections that are kept busy
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Bytes of every response body
    #[arg(long, default_value_t = 1024)]
    pub size: usize,
    /// Bytes of every request body; 0 sends GETs
    #[arg(long, default_value_t = 0)]
    pub body: usize,
    /// Requests a second; absent: each connection as fast as it can
    #[arg(long)]
    pub rate: Option<u32>,
    /// Length of one measurement
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Leave the peers' access logs off; ours stays on
    #[arg(long)]
    pub no_peer_logs: bool,
    /// Only the peers, without ours
    #[arg(long)]
    pub peers_only: bool,
}

/// One measurement of one gateway.
struct Cell {
    round: u32,
    outcome: Outcome,
    /// Somebody else used the gateway's CPU for more than [`FOREIGN_MAX`] of the time, even after repeats.
    disturbed: bool,
}

pub fn run(options: &Options) -> Result<(), String> {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return Err("http1 needs two CPUs: one for the gateway, one for the load".into());
    }
    let machine = cpu::machine();
    let folder = std::env::temp_dir().join(format!("weir-bench-{}", std::process::id()));
    let upstream = free_address()?;
    let setup = Setup { upstream, cpu: GATEWAY_CPU, folder: folder.clone(), logs: !options.no_peer_logs };
    let ours = if options.peers_only { &[][..] } else { &["weir-ring", "weir-epoll"] };
    let peers = options.peers.iter().map(String::as_str).filter(|peer| *peer != "none");
    let names: Vec<&str> = ours.iter().copied().chain(peers).collect();
    let gateways = names.iter().map(|name| Gateway::start(name, &setup)).collect::<Result<Vec<_>, _>>()?;
    cpu::pin(LOAD_CPU)?;

    let load = match options.rate {
        Some(rate) => format!("open loop at {rate} requests/s"),
        None => "closed loop".into(),
    };
    let scenario = format!(
        "http1: {} B answers, {} B bodies, {} connections, {load}",
        options.size, options.body, options.connections
    );
    println!(
        "{scenario}\n{} rounds of {} s, gateway on CPU {GATEWAY_CPU}, load on CPU {LOAD_CPU}",
        options.rounds, options.seconds
    );
    for gateway in &gateways {
        let mut outcome = Outcome::default();
        for _ in 0..10 {
            outcome = measure(gateway, upstream, options, 0.2, 0.3)?;
            if outcome.requests > 0 {
                break;
            }
        }
        if outcome.requests == 0 {
            return Err(format!(
                "{} answers no request: {outcome:?}; its files are in {}",
                gateway.name,
                folder.display()
            ));
        }
    }
    let mut cells: Vec<Vec<Cell>> = gateways.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        for turn in 0..gateways.len() {
            // Another one begins each round, so that nobody always follows the same neighbour.
            let index = (turn + round as usize) % gateways.len();
            let cell = quiet_cell(&gateways[index], upstream, options, round)?;
            println!(
                "  round {round} {:<11} {:>6.2} µs/request {:>7.0} requests/s  p50 {} µs  p99 {} µs{}",
                gateways[index].name,
                cost(&cell.outcome),
                cell.outcome.requests as f64 / cell.outcome.seconds,
                cell.outcome.p50_us,
                cell.outcome.p99_us,
                if cell.disturbed { "  (disturbed)" } else { "" }
            );
            cells[index].push(cell);
        }
    }
    drop(gateways);
    let report = Report { scenario, machine, rows: rows(&names, &cells) };
    report.print();
    report.write(options.json.as_deref())?;
    let _ = std::fs::remove_dir_all(&folder);
    let wrong: u64 = cells.iter().flatten().map(|cell| cell.outcome.errors + cell.outcome.mismatches).sum();
    if wrong > 0 {
        return Err(format!("{wrong} answers or bodies were wrong: the figures do not count"));
    }
    Ok(())
}

/// Measures until nobody else disturbs, a few times at most.
fn quiet_cell(
    gateway: &Gateway,
    upstream: std::net::SocketAddr,
    options: &Options,
    round: u32,
) -> Result<Cell, String> {
    let mut best: Option<(f64, Outcome)> = None;
    for _ in 0..TRIES {
        wait_for_quiet();
        let outcome = measure(gateway, upstream, options, 0.8, options.seconds)?;
        let foreign = (outcome.cpu_busy_us - outcome.gateway_cpu_us) / (outcome.seconds * 1e6);
        if best.as_ref().is_none_or(|(known, _)| foreign < *known) {
            best = Some((foreign, outcome));
        }
        if foreign <= FOREIGN_MAX {
            break;
        }
    }
    let (foreign, outcome) = best.ok_or("no measurement")?;
    Ok(Cell { round, outcome, disturbed: foreign > FOREIGN_MAX })
}

/// Returns when both CPUs idle, or after a while in any case.
fn wait_for_quiet() {
    let busy = || cpu::busy(GATEWAY_CPU) + cpu::busy(LOAD_CPU);
    let started = Instant::now();
    while started.elapsed() < QUIET_LIMIT {
        let before = busy();
        std::thread::sleep(Duration::from_millis(250));
        if busy().saturating_sub(before) < Duration::from_millis(40) {
            return;
        }
    }
}

fn measure(
    gateway: &Gateway,
    upstream: std::net::SocketAddr,
    options: &Options,
    warm_up: f64,
    seconds: f64,
) -> Result<Outcome, String> {
    generator::run(&generator::Options {
        target: Some(gateway.address),
        upstream: Some(upstream),
        connections: options.connections,
        size: options.size,
        body: options.body,
        rate: options.rate,
        warm_up,
        seconds,
        pid: Some(gateway.pid()),
        gateway_cpu: GATEWAY_CPU,
    })
    .map_err(|error| format!("{}: {error}", gateway.name))
}

/// CPU time of the gateway per request, in microseconds.
fn cost(outcome: &Outcome) -> f64 {
    outcome.gateway_cpu_us / outcome.requests.max(1) as f64
}

fn rows(names: &[&str], cells: &[Vec<Cell>]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, own) in names.iter().zip(cells) {
        let mut row = Row::new(name, "µs CPU/request", own.iter().map(|cell| cost(&cell.outcome)).collect());
        for (peer, theirs) in names.iter().zip(cells).filter(|(peer, _)| !peer.starts_with("weir")) {
            // Of the same round only: between minutes the machine drifts by more than the differences.
            let ratios = own.iter().filter_map(|cell| {
                let other = theirs.iter().find(|other| other.round == cell.round)?;
                Some(cost(&cell.outcome) / cost(&other.outcome))
            });
            row.ratio_to.insert(peer.to_string(), median(ratios.collect()));
        }
        let of = |value: &dyn Fn(&Outcome) -> f64| median(own.iter().map(|cell| value(&cell.outcome)).collect());
        row.more.insert("requests_per_second".into(), of(&|outcome| outcome.requests as f64 / outcome.seconds));
        row.more.insert("gateway_cpu_share".into(), of(&|outcome| outcome.gateway_cpu_us / outcome.seconds / 1e6));
        row.more
            .insert("load_us_per_request".into(), of(&|outcome| outcome.own_cpu_us / outcome.requests.max(1) as f64));
        row.more.insert("p50_us".into(), of(&|outcome| outcome.p50_us as f64));
        row.more.insert("p99_us".into(), of(&|outcome| outcome.p99_us as f64));
        row.more.insert("disturbed_rounds".into(), own.iter().filter(|cell| cell.disturbed).count() as f64);
        let wrong = own.iter().map(|cell| cell.outcome.errors + cell.outcome.mismatches).sum::<u64>();
        row.more.insert("errors".into(), wrong as f64);
        rows.push(row);
    }
    rows
}

const GATEWAY_CPU: usize = 0;
const LOAD_CPU: usize = 1;
/// Others may use this share of the gateway's CPU before a measurement is repeated.
const FOREIGN_MAX: f64 = 0.08;
const TRIES: u32 = 3;
const QUIET_LIMIT: Duration = Duration::from_secs(6);
