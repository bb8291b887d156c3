//! `grpc`: unary calls inside TLS 1.3, HTTP/2 on both sides; their messages come back.

use super::{Options, Stage, run_cells};
use crate::gateways::GRPC;
use crate::generator;
use crate::h2load::Shape;
use crate::report::Goal;
use crate::rounds::{COST, Cell};

pub fn run(options: &Options) -> Result<(), String> {
    let stage = Stage::new(options, true)?.with_role(GRPC).with_h2_upstream(0)?;
    let calls = |connections, streams| {
        let shape = Shape { connections, streams, calls: true };
        generator::Options { h2: Some(shape), ..stage.load(options) }
    };
    let cell = |name, load| Cell { name, load, figures: vec![COST] };
    let cells = vec![cell("unary-1x64", calls(1, 64)), cell("unary-8x8", calls(8, 8))];
    let goals = [("nginx", 0.50), ("haproxy", 0.50), ("envoy", 0.40)];
    let goals = goals.map(|(peer, most)| Goal::ratio("unary-1x64", COST.0, peer, most)).to_vec();
    run_cells("grpc", options, stage, cells, goals)
}
