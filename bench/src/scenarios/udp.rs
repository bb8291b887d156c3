//! `udp`: datagrams of 1,000 sessions, which come back as they were. HAProxy relays none: nginx is who runs beside ours.

use super::{Options, Stage, run_cells_as};
use crate::gateways::UDP;
use crate::generator;
use crate::report::Goal;
use crate::rounds::{Cell, Reading};

/// CPU time of the gateway per datagram: there are two to each answer.
const COST: Reading = ("µs CPU/datagram", |outcome| outcome.gateway_cpu_us / 2.0 / outcome.requests.max(1) as f64);

pub fn run(options: &Options) -> Result<(), String> {
    let stage = Stage::new(options, false)?.with_role(UDP);
    let load = generator::Options { connections: 1000, size: 128, datagrams: true, ..stage.load(options) };
    let large = generator::Options { size: 1200, ..load.clone() };
    let cells = vec![
        Cell { name: "128-1000", load, figures: vec![COST] },
        Cell { name: "1200-1000", load: large, figures: vec![COST] },
    ];
    let goals = vec![Goal::ratio("128-1000", COST.0, "nginx", 0.50), Goal::ratio("1200-1000", COST.0, "nginx", 0.50)];
    run_cells_as("udp", options, stage, cells, goals, |name| name != "haproxy")
}
