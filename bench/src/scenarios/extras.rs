//! `extras`: what may be switched on, each beside the same weir without it: traces, sinks of the log, scripts and programs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use base64::Engine as _;

use super::{GATEWAY_CPU, LOAD_CPU, Options, Stage};
use crate::gateways::{Contender, Gateway, HTTP, WITHOUT};
use crate::report::{Goal, Row};
use crate::rounds::{self, COST, Cell};

/// How much more a request takes than without.
pub(super) const MORE: &str = "µs more than without";

pub fn run(options: &Options) -> Result<(), String> {
    measure("extras", EXTRAS, options)
}

/// Each of them beside the same weir without it.
pub(super) fn measure(scenario: &str, extras: &[Extra], options: &Options) -> Result<(), String> {
    let mut stage = Stage::new(options, false)?;
    let base = stage.load(options);
    let cells = extras.iter().map(|extra| Cell { name: extra.name, load: base.clone(), figures: vec![COST] });
    let chosen = options.chosen(cells.collect())?;
    let sink = sink()?;
    println!("{scenario}: gateways on CPU {GATEWAY_CPU}, load and what takes spans and lines on CPU {LOAD_CPU}");
    let without = Contender { name: WITHOUT.into(), program: None };
    let without = Gateway::start(&without, &stage.setup)?;
    let (mut gateways, mut rows, mut goals) = (vec![without], Vec::new(), Vec::new());
    for (cell, extra) in chosen.iter().filter_map(|cell| Some((cell, extras.iter().find(|e| e.name == cell.name)?))) {
        stage.setup.document = Some((extra.document)(HTTP.ours, sink)?);
        gateways.insert(0, Gateway::start(&Contender::ours("ring"), &stage.setup)?);
        let before = TAKEN.load(Ordering::Relaxed);
        let measured = rounds::measure(cell, &gateways, stage.setup.upstream, options.rounds)?;
        if extra.tells && TAKEN.load(Ordering::Relaxed) == before {
            return Err(format!("{}: nothing was sent: its figures do not count", cell.name));
        }
        gateways.remove(0);
        let median = |name: &str| measured.iter().find(|row| row.name == name).map(|row| row.median);
        let more = median("weir-ring").zip(median(WITHOUT)).map(|(with, without)| with - without);
        rows.extend(measured);
        rows.extend(more.map(|more| Row::new("weir-ring", cell.name, MORE, vec![more])));
        goals.extend((extra.goal)(cell.name));
    }
    drop(gateways);
    stage.report(scenario, options, rows, goals)
}

/// Something that may be switched on.
pub(super) struct Extra {
    pub name: &'static str,
    /// The documents with it, made of those without; the address takes whatever is posted.
    pub document: fn(&str, SocketAddr) -> Result<String, String>,
    pub goal: fn(&'static str) -> Option<Goal>,
    /// Something is sent to that address.
    pub tells: bool,
}

/// The documents with one of them that sends nothing anywhere.
pub(super) fn document(name: &str) -> Result<String, String> {
    let extra = EXTRAS.iter().find(|extra| extra.name == name && !extra.tells).ok_or(format!("no {name} to count"))?;
    (extra.document)(HTTP.ours, SocketAddr::from(([127, 0, 0, 1], 1)))
}

/// Posts that were taken.
static TAKEN: AtomicU64 = AtomicU64::new(0);

const EXTRAS: &[Extra] = &[
    Extra {
        name: "traced-1%",
        document: |plain, sink| traced(plain, sink, 0.01),
        goal: |cell| ratio(cell, 1.03),
        tells: true,
    },
    Extra { name: "traced-all", document: |plain, sink| traced(plain, sink, 1.0), goal: |_| None, tells: true },
    Extra {
        name: "log-file",
        document: |plain, _| logged(plain, "file: {path: '{folder}/sink.log', maxBytes: 67108864, maxFiles: 1}"),
        goal: |_| None,
        tells: false,
    },
    Extra {
        name: "log-http",
        document: |plain, sink| logged(plain, &format!("http: {{url: 'http://{sink}/'}}")),
        goal: |_| None,
        tells: true,
    },
    Extra {
        name: "script",
        document: |plain, _| {
            filtered(plain, "kind: Script\n  script: 'req.Header.Set(\"X-Out\", req.Header.Get(\"Accept\") + \"-a\");'")
        },
        goal: |cell| more(cell, 3.0),
        tells: false,
    },
    Extra {
        name: "wasm-host",
        document: |plain, _| program(plain, "WasmHost", include_str!("../../peers/wasm-host.wat")),
        goal: |cell| more(cell, 3.0),
        tells: false,
    },
    Extra {
        name: "proxy-wasm",
        document: |plain, _| program(plain, "ProxyWasm", include_str!("../../peers/proxy-wasm.wat")),
        goal: |cell| more(cell, 3.0),
        tells: false,
    },
];

fn ratio(cell: &str, at_most: f64) -> Option<Goal> {
    Some(Goal::ratio(cell, COST.0, WITHOUT, at_most))
}

pub(super) fn more(cell: &str, at_most: f64) -> Option<Goal> {
    Some(Goal::bound(cell, MORE, at_most))
}

fn traced(plain: &str, sink: SocketAddr, share: f64) -> Result<String, String> {
    let exporter = format!("exporter: {{otlp: {{protocol: http, endpoint: '{sink}', insecure: true}}}}");
    let tracing = format!("tracing: {{serviceName: bench, sampleRate: {share}, {exporter}}}");
    put(plain, "{https}\n", &format!("{{https}}\n{tracing}\n"))
}

fn logged(plain: &str, sink: &str) -> Result<String, String> {
    Ok(format!("kind: LogSink\nname: bench-sink\n{sink}\n---\n{plain}"))
}

/// A station before the Proxy.
pub(super) fn filtered(plain: &str, filter: &str) -> Result<String, String> {
    put(plain, "filters:\n", &format!("filters:\n- name: extra\n  {filter}\n"))
}

fn program(plain: &str, kind: &str, text: &str) -> Result<String, String> {
    let module = wat::parse_str(text).map_err(|error| format!("the program for {kind}: {error}"))?;
    let code = base64::engine::general_purpose::STANDARD.encode(module);
    filtered(plain, &format!("kind: {kind}\n  code: {code}"))
}

pub(super) fn put(plain: &str, place: &str, text: &str) -> Result<String, String> {
    if !plain.contains(place) {
        return Err(format!("bench/peers/weir.yaml has no line `{}`", place.trim()));
    }
    Ok(plain.replacen(place, text, 1))
}

/// Takes whatever is posted, and says so; on the CPU of the load, as this thread is.
fn sink() -> Result<SocketAddr, String> {
    let fail = |error: std::io::Error| format!("nobody can take spans and lines: {error}");
    let listener = TcpListener::bind("127.0.0.1:0").map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // It ends with the connection.
            thread::spawn(move || drop(take(&stream)));
        }
    });
    Ok(address)
}

fn take(stream: &TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    let mut line = String::new();
    loop {
        let mut length = 0;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if line.trim().is_empty() {
                break;
            }
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
        TAKEN.fetch_add(1, Ordering::Relaxed);
        let mut answering = stream;
        answering.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_put_into_the_documents_of_weir() {
        let sink: SocketAddr = ([127, 0, 0, 1], 9).into();
        for extra in EXTRAS {
            let with = (extra.document)(HTTP.ours, sink).unwrap_or_else(|why| panic!("{}: {why}", extra.name));
            assert!(with.len() > HTTP.ours.len() && with.contains("kind: HTTPServer"), "{with}");
        }
    }
}
