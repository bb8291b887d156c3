//! `routes`: what many routes cost: a request that is led by one of them beside the same with ten, the memory they take, and how long a
//! change of something else takes until it is served.
//!
//! Half of them are exact paths and half are prefixes, all of one server and to one pipeline; the request is one of the middle. A change gives
//! another answer to a path of its own, and is live when that comes.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{GATEWAY_CPU, LOAD_CPU, Options, Stage};
use crate::gateways::{Contender, Gateway, WITHOUT};
use crate::generator;
use crate::memory;
use crate::report::{Goal, Row};
use crate::rounds::{self, COST, Cell};
use crate::statistics::median;

pub fn run(options: &Options) -> Result<(), String> {
    let mut stage = Stage::new(options, false)?;
    let base = stage.load(options);
    let cells = CELLS.iter().map(|(name, routes)| {
        let load = generator::Options { path: format!("/prefix/{}/", routes / 4), ..base.clone() };
        (Cell { name, load, figures: vec![COST] }, *routes)
    });
    let (cells, counts): (Vec<Cell>, Vec<usize>) = cells.unzip();
    let chosen = options.chosen(cells)?;
    println!("routes: gateways on CPU {GATEWAY_CPU}, load on CPU {LOAD_CPU}");
    stage.setup.document = Some(documents(FEW));
    // The request of the few is led by one of them, whichever is asked for below.
    let few = Gateway::start(&Contender { name: WITHOUT.into(), program: None }, &stage.setup)?;
    let (mut gateways, mut rows, mut goals) = (vec![few], Vec::new(), Vec::new());
    for cell in &chosen {
        let routes =
            CELLS.iter().zip(&counts).find(|((name, _), _)| *name == cell.name).map_or(FEW, |(_, count)| *count);
        stage.setup.document = Some(documents(routes));
        let started = Instant::now();
        let gateway = Gateway::start(&Contender::ours("ring"), &stage.setup)?;
        let took = started.elapsed();
        std::thread::sleep(SETTLE);
        let resident = memory::anonymous(gateway.pid()) as f64;
        println!("\n{}: started and configured in {:.2} s, {:.0} MB", cell.name, took.as_secs_f64(), resident / 1e6);
        let changes = (0..CHANGES).map(|n| change(&gateway, n).map(|took| took.as_secs_f64() * 1e3));
        let changes = changes.collect::<Result<Vec<f64>, String>>()?;
        gateways.insert(0, gateway);
        let measured = rounds::measure(cell, &gateways, stage.setup.upstream, options.rounds)?;
        gateways.remove(0);
        let cost = |name: &str| measured.iter().find(|row| row.name == name).map(|row| row.median);
        let more = cost("weir-ring").zip(cost(WITHOUT)).map(|(many, few)| many - few);
        rows.extend(measured);
        rows.extend(more.map(|more| Row::new("weir-ring", cell.name, MORE, vec![more])));
        rows.push(Row::new("weir-ring", cell.name, MEMORY, vec![resident / 1e6]));
        rows.push(Row::new("weir-ring", cell.name, START, vec![took.as_secs_f64()]));
        println!("  a change: median {:.1} ms of {CHANGES}", median(changes.clone()));
        rows.push(Row::new("weir-ring", cell.name, CHANGE, changes));
        goals.push(Goal::bound(cell.name, MORE, 1.0));
        goals.push(Goal::bound(cell.name, MEMORY, 150.0));
        goals.push(Goal::bound(cell.name, CHANGE, 50.0));
    }
    drop(gateways);
    stage.report("routes", options, rows, goals)
}

/// So many routes, and one beside them whose answer is changed.
fn documents(routes: usize) -> String {
    let mut text = format!("{}---\n{SERVER}", pipeline(0));
    for n in 0..routes / 2 {
        let _ = writeln!(text, "  - {{path: /exact/{n}, backend: bench-pipeline}}");
        let _ = writeln!(text, "  - {{pathPrefix: /prefix/{n}/, backend: bench-pipeline}}");
    }
    // Whatever those do not take: of few routes, requests that are meant for others.
    text.push_str("  - {pathPrefix: /prefix/, backend: bench-pipeline}\n");
    text
}

/// The answer that is changed.
fn pipeline(n: usize) -> String {
    format!(
        "name: bench-mark\nkind: Pipeline\nfilters: [{{name: mark, kind: Mock, rules: [{{code: 200, body: mark-{n}}}]}}]\n"
    )
}

const SERVER: &str = "\
name: bench-pipeline
kind: Pipeline
filters: [{name: proxy, kind: Proxy, pools: [{servers: [{url: 'http://{upstream}'}]}]}]
---
name: bench-server
kind: HTTPServer
address: {address}
port: {port}
{https}
keepAlive: true
keepAliveTimeout: 300s
rules:
- paths:
  - {path: /mark, backend: bench-mark}
";

/// Changes the answer to the mark, and waits until it is given.
fn change(gateway: &Gateway, n: usize) -> Result<Duration, String> {
    let fail = |what: String| format!("{}: a change: {what}", gateway.name);
    let admin: SocketAddr = gateway.admin()?.parse().map_err(|error| fail(format!("the admin address: {error}")))?;
    let document = pipeline(n + 1);
    let started = Instant::now();
    let put = format!(
        "PUT /apis/v2/objects/bench-mark HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{document}",
        document.len()
    );
    let answer = ask(admin, &put).map_err(|error| fail(error.to_string()))?;
    if !answer.starts_with("HTTP/1.1 200") {
        return Err(fail(answer));
    }
    let wanted = format!("mark-{}", n + 1);
    while started.elapsed() < LIVE_LIMIT {
        let get = "GET /mark HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        if ask(gateway.address, get).map_err(|error| fail(error.to_string()))?.ends_with(&wanted) {
            return Ok(started.elapsed());
        }
    }
    Err(fail(format!("is not served after {} s", LIVE_LIMIT.as_secs())))
}

fn ask(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIVE_LIMIT))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

const CELLS: &[(&str, usize)] = &[("10", FEW), ("1000", 1_000), ("100000", 100_000)];
const FEW: usize = 10;
const CHANGES: usize = 20;
/// How much more a request takes than with few routes.
const MORE: &str = "µs more than with 10";
const MEMORY: &str = "MB resident";
const START: &str = "s to start and configure";
const CHANGE: &str = "ms until a change is live";
/// What was needed on the way is given back: of a hundred thousand routes after two seconds.
const SETTLE: Duration = Duration::from_secs(5);
const LIVE_LIMIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_routes_are_there() {
        let text = documents(1_000);
        assert_eq!(text.matches("- {path: /exact/").count() + text.matches("- {pathPrefix: /prefix/").count(), 1_001);
        assert!(text.contains("kind: HTTPServer") && text.contains("body: mark-0"));
    }
}
