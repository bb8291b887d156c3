//! `http3`: HTTP/3 in front, HTTP/1.1 behind.

use super::{Options, Stage, run_cells};
use crate::gateways::HTTP3;
use crate::generator;
use crate::h2load::Shape;
use crate::report::Goal;
use crate::rounds::{COST, Cell};

pub fn run(options: &Options) -> Result<(), String> {
    let stage = Stage::new(options, true)?.with_role(HTTP3);
    let shape = |connections, streams| Shape { connections, streams, calls: false };
    let base = generator::Options { h3: Some(shape(8, 16)), ..stage.load(options) };
    let cell = |name, load| Cell { name, load, figures: vec![COST] };
    let cells = vec![cell("1k-8x16", base.clone()), cell("16k-8x16", generator::Options { size: 16 << 10, ..base })];
    let goals = |cell: &'static str| ["nginx", "haproxy"].map(|peer| Goal::ratio(cell, COST.0, peer, 0.50));
    let goals = [goals("1k-8x16"), goals("16k-8x16")].concat();
    run_cells("http3", options, stage, cells, goals)
}
