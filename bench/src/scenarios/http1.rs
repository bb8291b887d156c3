//! `http1`: requests over plain HTTP/1.1, on kept connections and on new ones.

use super::{Options, Stage, run_cells};
use crate::generator;
use crate::report::Goal;
use crate::rounds::{COST, Cell, P50, P99};

pub fn run(options: &Options) -> Result<(), String> {
    let stage = Stage::new(options, false)?;
    let base = stage.load(options);
    let cell = |name, load| Cell { name, load, figures: vec![COST] };
    let cells = vec![
        cell("1k-64", base.clone()),
        cell("1k-256", generator::Options { connections: 256, ..base.clone() }),
        cell("16k-64", generator::Options { size: 16 << 10, ..base.clone() }),
        Cell {
            figures: vec![COST, P50, P99],
            ..cell("rate", generator::Options { rate: Some(10_000), ..base.clone() })
        },
        cell("post-4k", generator::Options { body: 4 << 10, size: 128, ..base.clone() }),
        cell("close", generator::Options { close: true, ..base.clone() }),
    ];
    let (cost, p50, p99) = (COST.0, P50.0, P99.0);
    let goals = vec![
        Goal::ratio("1k-64", cost, "nginx", 0.65),
        Goal::ratio("1k-64", cost, "haproxy", 0.60),
        Goal::ratio("1k-64", cost, "pingora", 0.40),
        Goal::ratio("1k-256", cost, "nginx", 0.65),
        Goal::ratio("1k-256", cost, "haproxy", 0.60),
        Goal::ratio("1k-256", cost, "pingora", 0.40),
        Goal::ratio("16k-64", cost, "nginx", 0.55),
        Goal::ratio("rate", cost, "nginx", 0.85),
        Goal::ratio("rate", p50, "nginx", 1.2),
        Goal::ratio("rate", p99, "nginx", 1.0),
        Goal::ratio("post-4k", cost, "nginx", 0.60),
        Goal::ratio("post-4k", cost, "haproxy", 0.67),
        Goal::ratio("close", cost, "nginx", 0.75),
    ];
    run_cells("http1", options, stage, cells, goals)
}
