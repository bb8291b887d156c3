//! `tcp`: bytes relayed as they come. Requests and answers pass unread; each client has a connection of its own to the upstream.

use super::{Options, Stage, run_cells_as};
use crate::gateways::TCP;
use crate::generator;
use crate::report::Goal;
use crate::rounds::{COST, Cell, P50, Reading};

/// Bytes of an answer of the cell `bulk`.
const BULK_BYTES: usize = 1 << 20;

/// CPU time of the gateway per gibibyte relayed, where an answer is [`BULK_BYTES`].
const BULK: Reading = ("ms CPU/GiB", |outcome| {
    let answers = outcome.requests.max(1) as f64;
    outcome.gateway_cpu_us / 1e3 / (answers * BULK_BYTES as f64 / (1u64 << 30) as f64)
});

pub fn run(options: &Options) -> Result<(), String> {
    let stage = Stage::new(options, false)?.with_role(TCP);
    let base = stage.load(options);
    let bulk = generator::Options { size: BULK_BYTES, connections: 8, ..base.clone() };
    let cells = vec![
        Cell { name: "1k-64", load: base.clone(), figures: vec![COST] },
        Cell { name: "16k-64", load: generator::Options { size: 16 << 10, ..base.clone() }, figures: vec![COST] },
        Cell {
            name: "rate",
            load: generator::Options { rate: Some(10_000), ..base.clone() },
            figures: vec![COST, P50],
        },
        Cell { name: "bulk", load: bulk, figures: vec![BULK] },
    ];
    let goals = vec![Goal::ratio("1k-64", COST.0, "haproxy", 0.70), Goal::ratio("bulk", BULK.0, "haproxy", 0.50)];
    run_cells_as("tcp", options, stage, cells, goals, |_| true)
}
