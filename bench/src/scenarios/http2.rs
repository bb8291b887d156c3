//! `http2`: HTTP/2 inside TLS 1.3 in front, HTTP/1.1 behind.

use super::{Options, Stage, run_cells};
use crate::gateways::HTTP2;
use crate::generator;
use crate::h2load::Shape;
use crate::report::Goal;
use crate::rounds::{COST, Cell};

pub fn run(options: &Options) -> Result<(), String> {
    let stage = Stage::new(options, true)?.with_role(HTTP2);
    let shape = Shape { connections: 8, streams: 16 };
    let base = generator::Options { h2: Some(shape), ..stage.load(options) };
    let cell = |name, load| Cell { name, load, figures: vec![COST] };
    let cells = vec![
        cell("1k-8x16", base.clone()),
        cell("16k-8x16", generator::Options { size: 16 << 10, ..base.clone() }),
        cell("1k-64x1", generator::Options { h2: Some(Shape { connections: 64, streams: 1 }), ..base }),
    ];
    let goals = vec![Goal::ratio("1k-8x16", COST.0, "nginx", 0.50), Goal::ratio("1k-8x16", COST.0, "haproxy", 0.50)];
    run_cells("http2", options, stage, cells, goals)
}
