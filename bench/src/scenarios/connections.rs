//! `connections`: 10,000 connections that each ask once a second, by turns: in any 10 ms one of a hundred is active, and every
//! one of them has been idle for long.

use super::{Options, Stage, run_cells};
use crate::generator;
use crate::report::Goal;
use crate::rounds::{COST, Cell, P99, P999};

pub fn run(options: &Options) -> Result<(), String> {
    let stage = Stage::new(options, false)?;
    let load = generator::Options {
        connections: 10_000,
        rate: Some(10_000),
        // Every connection has its turn at least once before it counts.
        warm_up: 1.5,
        ..stage.load(options)
    };
    let cells = vec![Cell { name: "10k-1%", load, figures: vec![P999, P99, COST] }];
    let goals = vec![Goal::ratio("10k-1%", P999.0, "nginx", 1.0)];
    run_cells("connections", options, stage, cells, goals)
}
