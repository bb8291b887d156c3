//! `idle`: what a connection costs that made one request and stays: growth of the gateway's anonymous memory, which is what it
//! holds in user space.

use std::time::Duration;

use super::{Options, Stage};
use crate::gateways::Gateway;
use crate::generator;
use crate::memory;
use crate::report::{Goal, Row, Table};
use crate::rounds::checked;
use crate::statistics::{Figure, median};

pub fn run(options: &Options) -> Result<(), String> {
    if let Some(unknown) = options.cells.iter().find(|cell| !CELLS.contains(&cell.as_str())) {
        return Err(format!("no cell `{unknown}`; there are {}", CELLS.join(", ")));
    }
    let chosen = |cell: &str| options.cells.is_empty() || options.cells.iter().any(|one| one == cell);
    let (mut rows, mut last) = (Vec::new(), None);
    for cell in CELLS.into_iter().filter(|cell| chosen(cell)) {
        let stage = Stage::new(options, cell == "tls")?;
        rows.extend(measure(cell, options, &stage)?);
        last = Some(stage);
    }
    let goals = [("plain", 600.0), ("tls", 4096.0)].into_iter().filter(|(cell, _)| chosen(cell));
    let goals = goals.map(|(cell, bytes)| Goal::bound(cell, UNIT, bytes)).collect();
    last.ok_or("nothing to measure")?.report("idle", options, rows, goals)
}

fn measure(cell: &str, options: &Options, stage: &Stage) -> Result<Vec<Row>, String> {
    println!("\nidle {cell}: {CONNECTIONS} connections, {} fresh starts each", options.rounds);
    let contenders = options.contenders()?;
    let mut figures: Vec<Vec<Figure>> = vec![Vec::new(); contenders.len()];
    let mut before: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
    for round in 1..=options.rounds {
        for (at, contender) in contenders.iter().enumerate() {
            let gateway = Gateway::start(contender, &stage.setup)?;
            let (bytes, started) = growth(&gateway, options, stage)?;
            println!("  round {round} {:<11} {bytes:>8.0} bytes", gateway.name);
            figures[at].push(Figure { round, value: bytes, disturbed: false });
            before[at].push(started);
        }
    }
    let named = contenders.iter().map(|contender| contender.name.as_str()).zip(figures).collect();
    let mut rows = Table { cell, unit: UNIT, wanted: options.rounds as usize, figures: named }.rows();
    for (row, before) in rows.iter_mut().zip(before) {
        row.more.insert("before_bytes".into(), median(before));
    }
    Ok(rows)
}

/// Bytes per idle connection, and all there were before.
fn growth(gateway: &Gateway, options: &Options, stage: &Stage) -> Result<(f64, f64), String> {
    let base = generator::Options { target: Some(gateway.address), ..stage.load(options) };
    // What the first requests leave behind is no connection's: pools, buffers, connections to the upstream.
    let warm = generator::Options { warm_up: 0.1, seconds: 0.4, ..base.clone() };
    let named = |error: String| format!("{}: {error}", gateway.name);
    checked(&gateway.name, generator::run(&warm).map_err(named)?, warm.connections)?;
    std::thread::sleep(SETTLE);
    let before = memory::anonymous(gateway.pid()) as f64;
    let mut after = before;
    let load = generator::Options { connections: CONNECTIONS, ..base };
    let held = generator::idle(&load, SETTLE, || after = memory::anonymous(gateway.pid()) as f64);
    let outcome = checked(&gateway.name, held.map_err(named)?, 0)?;
    if outcome.reconnects > 0 {
        return Err(format!("{}: {} of {CONNECTIONS} connections did not stay", gateway.name, outcome.reconnects));
    }
    Ok(((after - before) / CONNECTIONS as f64, before))
}

const CELLS: [&str; 2] = ["plain", "tls"];
const UNIT: &str = "bytes/connection";
const CONNECTIONS: usize = 8000;
/// The time after which nothing moves any more: session tickets are sent, timers are armed, freed memory is given back.
const SETTLE: Duration = Duration::from_millis(1500);
