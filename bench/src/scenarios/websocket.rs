//! `websocket`: messages through WebSockets that were opened over HTTP/1.1, one at a time on each, which come back.

use super::{Options, Stage, run_cells};
use crate::gateways::WEBSOCKET;
use crate::generator;
use crate::report::Goal;
use crate::rounds::{Cell, Reading};

/// CPU time of the gateway per message that came back, which is two that passed.
const COST: Reading = ("µs CPU/message", |outcome| outcome.gateway_cpu_us / 2.0 / outcome.requests.max(1) as f64);

pub fn run(options: &Options) -> Result<(), String> {
    let stage = Stage::new(options, false)?.with_role(WEBSOCKET);
    let load = generator::Options { websockets: true, size: 100, ..stage.load(options) };
    let cell = |name, size, connections| Cell {
        name,
        load: generator::Options { size, connections, ..load.clone() },
        figures: vec![COST],
    };
    let cells = vec![cell("100-64", 100, 64), cell("1k-64", 1024, 64), cell("100-1000", 100, 1000)];
    let goals = ["nginx", "haproxy"].map(|peer| Goal::ratio("100-64", COST.0, peer, 0.70)).to_vec();
    run_cells("websocket", options, stage, cells, goals)
}
