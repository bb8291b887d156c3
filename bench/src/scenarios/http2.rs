//! `http2`: HTTP/2 inside TLS 1.3 in front, HTTP/1.1 or HTTP/2 behind; and many clients of HTTP/1.1 over few connections of HTTP/2 to an
//! upstream, beside the same weir over HTTP/1.1.

use super::{GATEWAY_CPU, LOAD_CPU, Options, Stage};
use crate::gateways::{Contender, Gateway, HTTP, HTTP2, HTTP2_BOTH, Setup, WITHOUT};
use crate::generator;
use crate::h2load::Shape;
use crate::report::{Goal, Row};
use crate::rounds::{self, COST, Cell};

/// Over HTTP/2 on both sides.
const BOTH: &str = "1k-both";

/// Clients of HTTP/1.1 that share connections.
const SHARED: &str = "1k-256-shared";

pub fn run(options: &Options) -> Result<(), String> {
    let (mut rows, mut machine) = (Vec::new(), None);
    let known = ["1k-8x16", "16k-8x16", "1k-64x1", BOTH, SHARED];
    if let Some(unknown) = options.cells.iter().find(|cell| !known.contains(&cell.as_str())) {
        return Err(format!("no cell `{unknown}`; there are {}", known.join(", ")));
    }
    let chosen = |cell: &str| options.cells.is_empty() || options.cells.iter().any(|one| one == cell);
    println!("http2: gateways on CPU {GATEWAY_CPU}, load on CPU {LOAD_CPU}");
    let in_front = known[..3].iter().any(|cell| chosen(cell));
    let parts: [(bool, Part); 3] = [(in_front, in_front_of_http1), (chosen(BOTH), both), (chosen(SHARED), shared)];
    for (_, part) in parts.iter().filter(|(wanted, _)| *wanted) {
        let (measured, stage) = part(options)?;
        rows.extend(measured);
        machine = Some(stage);
    }
    let goals = [
        Goal::ratio("1k-8x16", COST.0, "nginx", 0.50),
        Goal::ratio("1k-8x16", COST.0, "haproxy", 0.50),
        Goal::ratio(BOTH, COST.0, "haproxy", 0.60),
        Goal::ratio(SHARED, COST.0, WITHOUT, 0.80),
    ];
    let goals = goals.into_iter().filter(|goal| chosen(&goal.cell)).collect();
    machine.ok_or("nothing to measure")?.report("http2", options, rows, goals)
}

type Part = fn(&Options) -> Result<(Vec<Row>, Stage), String>;

fn in_front_of_http1(options: &Options) -> Result<(Vec<Row>, Stage), String> {
    let stage = Stage::new(options, true)?.with_role(HTTP2);
    let base = generator::Options { h2: Some(shape(8, 16)), ..stage.load(options) };
    let cell = |name, load| Cell { name, load, figures: vec![COST] };
    let cells = [
        cell("1k-8x16", base.clone()),
        cell("16k-8x16", generator::Options { size: 16 << 10, ..base.clone() }),
        cell("1k-64x1", generator::Options { h2: Some(shape(64, 1)), ..base }),
    ];
    let gateways = stage.start(&options.contenders()?)?;
    let wanted = |cell: &&Cell| options.cells.is_empty() || options.cells.iter().any(|name| name == cell.name);
    let mut rows = Vec::new();
    for cell in cells.iter().filter(wanted) {
        rows.extend(rounds::measure(cell, &gateways, stage.heard, options.rounds)?);
    }
    Ok((rows, stage))
}

fn both(options: &Options) -> Result<(Vec<Row>, Stage), String> {
    let stage = Stage::new(options, true)?.with_role(HTTP2_BOTH).with_h2_upstream(1024)?;
    let (can, cannot): (Vec<_>, Vec<_>) =
        options.contenders()?.into_iter().partition(|one| !matches!(one.name.as_str(), "nginx" | "pingora"));
    cannot.iter().for_each(|other| println!("{BOTH}: left out: {} speaks HTTP/1.1 to its upstreams", other.name));
    let gateways = stage.start(&can)?;
    let load = generator::Options { h2: Some(shape(8, 16)), ..stage.load(options) };
    let cell = Cell { name: BOTH, load, figures: vec![COST] };
    let rows = rounds::measure(&cell, &gateways, stage.heard, options.rounds)?;
    Ok((rows, stage))
}

fn shared(options: &Options) -> Result<(Vec<Row>, Stage), String> {
    let stage = Stage::new(options, false)?.with_role(HTTP2_BOTH).with_h2_upstream(1024)?;
    let plain = Setup {
        upstream: stage.heard,
        cpu: stage.setup.cpu,
        folder: stage.setup.folder.clone(),
        logs: stage.setup.logs,
        certificate: None,
        role: HTTP,
        document: None,
    };
    let gateways = vec![
        Gateway::start(&Contender::ours("ring"), &stage.setup)?,
        Gateway::start(&Contender { name: WITHOUT.into(), program: None }, &plain)?,
    ];
    let load = generator::Options { connections: 256, ..stage.load(options) };
    let cell = Cell { name: SHARED, load, figures: vec![COST] };
    let rows = rounds::measure(&cell, &gateways, stage.heard, options.rounds)?;
    Ok((rows, stage))
}

fn shape(connections: usize, streams: usize) -> Shape {
    Shape { connections, streams, calls: false }
}
