//! `tls1`: the same inside TLS 1.3, and handshakes. P-256, X25519 and AES-128-GCM for everybody: clients offer nothing else.

use super::{Options, Stage, run_cells};
use crate::generator::{self, Tls};
use crate::report::Goal;
use crate::rounds::{COST, Cell};

pub fn run(options: &Options) -> Result<(), String> {
    let stage = Stage::new(options, true)?;
    let base = stage.load(options);
    // A few at a time: handshakes are long, and who waits for one is not what is measured.
    let handshakes = |tls| generator::Options { connections: 16, close: true, tls: Some(tls), ..base.clone() };
    let cell = |name, load| Cell { name, load, figures: vec![COST] };
    let cells = vec![
        cell("1k-64", base.clone()),
        cell("16k-64", generator::Options { size: 16 << 10, ..base.clone() }),
        cell("full", handshakes(Tls::Full)),
        cell("resumed", handshakes(Tls::Resumed)),
    ];
    let goals = vec![
        Goal::ratio("1k-64", COST.0, "nginx", 0.70),
        Goal::ratio("16k-64", COST.0, "nginx", 0.55),
        Goal::ratio("full", COST.0, "nginx", 0.55),
    ];
    run_cells("tls1", options, stage, cells, goals)
}
