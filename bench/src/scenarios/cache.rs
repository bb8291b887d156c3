//! `cache`: answers that are given from memory, beside nginx's `proxy_cache` and HAProxy's cache, which hold the same ones.

use super::{Options, Stage, run_cells};
use crate::gateways::CACHE;
use crate::generator;
use crate::report::Goal;
use crate::rounds::{COST, Cell, USER};

pub fn run(options: &Options) -> Result<(), String> {
    let stage = Stage::new(options, false)?.with_role(CACHE);
    let base = generator::Options { cached: true, ..stage.load(options) };
    let cell = |name, path: &str, size| {
        let load = generator::Options { path: path.to_owned(), size, ..base.clone() };
        Cell { name, load, figures: vec![COST, USER] }
    };
    let cells = vec![
        cell("1k-64", "/cache/", 1 << 10),
        cell("16k-64", "/cache/16k/", 16 << 10),
        cell("memory-cache", "/memory/", 1 << 10),
    ];
    let goals = ["1k-64", "16k-64", "memory-cache"].map(|cell| Goal::ratio(cell, COST.0, "nginx", 0.6));
    run_cells("cache", options, stage, cells, goals.to_vec())
}
