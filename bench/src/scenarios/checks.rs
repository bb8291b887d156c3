//! `checks`: what health checks of a thousand servers cost, beside the same servers without: the share of one CPU that the whole process
//! takes while no request comes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{GATEWAY_CPU, LOAD_CPU, Options, Stage};
use crate::cpu;
use crate::gateways::{Contender, Gateway, WITHOUT};
use crate::report::{Goal, Row, Table};
use crate::rounds::wait_for_quiet;
use crate::statistics::Figure;

pub fn run(options: &Options) -> Result<(), String> {
    if let Some(unknown) = options.cells.iter().find(|cell| *cell != CELL) {
        return Err(format!("no cell `{unknown}`; there is {CELL}"));
    }
    let mut stage = Stage::new(options, false)?;
    let servers = servers()?;
    println!(
        "checks: {SERVERS} servers, each asked every {} s; gateways on CPU {GATEWAY_CPU}, servers on CPU {LOAD_CPU}",
        INTERVAL.as_secs()
    );
    let mut gateways = Vec::new();
    for (contender, checked) in
        [(Contender::ours("ring"), true), (Contender { name: WITHOUT.into(), program: None }, false)]
    {
        stage.setup.document = Some(documents(servers.port(), checked));
        gateways.push(Gateway::start(&contender, &stage.setup)?);
    }
    // All servers have been asked once, and are asked by turns from here on.
    std::thread::sleep(INTERVAL + INTERVAL / 2);
    let length = Duration::from_secs_f64(options.seconds).max(INTERVAL);
    let mut figures: Vec<Vec<Figure>> = vec![Vec::new(); gateways.len()];
    for round in 1..=options.rounds {
        wait_for_quiet(GATEWAY_CPU, LOAD_CPU);
        let (started, asked) = (Instant::now(), ASKED.load(Ordering::Relaxed));
        let before: Vec<Duration> = gateways.iter().map(|gateway| cpu::spent(gateway.pid())).collect();
        std::thread::sleep(length);
        let took = started.elapsed().as_secs_f64();
        let probes = (ASKED.load(Ordering::Relaxed) - asked) as f64;
        let wanted = SERVERS as f64 * took / INTERVAL.as_secs_f64();
        if probes < 0.5 * wanted {
            return Err(format!("{probes} probes in {took:.1} s where {wanted:.0} are due: the figures do not count"));
        }
        for ((gateway, before), own) in gateways.iter().zip(before).zip(&mut figures) {
            let share = (cpu::spent(gateway.pid()) - before).as_secs_f64() / took * 100.0;
            println!("  round {round} {:<11} {share:>6.2} {SHARE}  {:.0} probes/s", gateway.name, probes / took);
            own.push(Figure { round, value: share, disturbed: false });
        }
    }
    let more = figures[0].iter().zip(&figures[1]).map(|(with, without)| with.value - without.value).collect();
    let mut rows = vec![Row::new(&gateways[0].name, CELL, MORE, more)];
    let names = gateways.iter().map(|gateway| gateway.name.as_str());
    let table =
        Table { cell: CELL, unit: SHARE, wanted: options.rounds as usize, figures: names.zip(figures).collect() };
    rows.splice(0..0, table.rows());
    drop(gateways);
    stage.report("checks", options, rows, vec![Goal::bound(CELL, MORE, 1.0)])
}

/// A pool of many servers, each at an address of its own.
fn documents(port: u16, checked: bool) -> String {
    let url = |n: usize| format!("    - url: http://127.0.{}.{}:{port}", 1 + n / 250, 1 + n % 250);
    let urls = (0..SERVERS).map(url).collect::<Vec<_>>().join("\n");
    let check = format!(
        "    healthCheck: {{interval: {}s, timeout: 2s, uri: /healthz, reuseConnection: true}}\n",
        INTERVAL.as_secs()
    );
    let check = if checked { check.as_str() } else { "" };
    format!(
        "name: bench-pipeline\nkind: Pipeline\nfilters:\n- name: proxy\n  kind: Proxy\n  pools:\n  - servers:\n{urls}\n{check}---\n\
         name: bench-server\nkind: HTTPServer\naddress: {{address}}\nport: {{port}}\nrules: [{{paths: [{{pathPrefix: /, backend: bench-pipeline}}]}}]\n"
    )
}

/// Probes that were answered.
static ASKED: AtomicU64 = AtomicU64::new(0);

/// One listener for the addresses of all servers, which answers whatever it is asked; on the CPU of the load, as this thread is.
fn servers() -> Result<SocketAddr, String> {
    let fail = |error: std::io::Error| format!("nobody can answer probes: {error}");
    let listener = TcpListener::bind("0.0.0.0:0").map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // It ends with the connection.
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                    ASKED.fetch_add(1, Ordering::Relaxed);
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                        break;
                    }
                }
            });
        }
    });
    Ok(address)
}

const CELL: &str = "1000-10s";
const SERVERS: usize = 1_000;
const INTERVAL: Duration = Duration::from_secs(10);
const SHARE: &str = "% of a CPU";
/// What the checks take: the process has other things to do as well.
const MORE: &str = "% more than without";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_has_an_address_of_its_own() {
        let text = documents(9, true);
        let urls: std::collections::BTreeSet<&str> =
            text.lines().filter(|line| line.contains("url:")).map(str::trim).collect();
        assert_eq!(urls.len(), SERVERS);
        assert!(text.contains("healthCheck") && !documents(9, false).contains("healthCheck"));
    }
}
