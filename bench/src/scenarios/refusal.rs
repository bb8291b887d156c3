//! `refusal`: what a request costs that is not served, for each reason, beside one that is answered with nothing.
//!
//! Whoever is refused is refused ten times as often as others are served when a sale opens. The kernel's part, receiving the request and
//! sending the answer, is the same for all; what is ours is the rest, hence the second figure.

use super::{Options, Stage, run_cells};
use crate::gateways::REFUSAL;
use crate::generator;
use crate::report::Goal;
use crate::rounds::{COST, Cell, USER};

pub fn run(options: &Options) -> Result<(), String> {
    let stage = Stage::new(options, false)?.with_role(REFUSAL);
    let base = stage.load(options);
    let cell = |name, path: &str, status| {
        let load = generator::Options { path: path.to_owned(), refused: Some(status), ..base.clone() };
        Cell { name, load, figures: vec![COST, USER] }
    };
    let cells = vec![
        cell("answered", "/answered/", 200),
        cell("limited", "/limited/", 429),
        cell("shed", "/shed/", 503),
        cell("sold-out", "/sold-out/", 410),
        cell("waiting", "/waiting/", 503),
    ];
    let goals = ["limited", "shed", "sold-out", "waiting"].map(|cell| Goal::bound(cell, USER.0, 2.0));
    run_cells("refusal", options, stage, cells, goals.to_vec())
}
