//! What is measured, and what all of it has in common.

pub mod cache;
pub mod checks;
pub mod connections;
pub mod extras;
pub mod filters;
pub mod grpc;
pub mod http1;
pub mod http2;
pub mod http3;
pub mod idle;
pub mod micro;
pub mod refusal;
pub mod routes;
pub mod tcp;
pub mod tls1;
pub mod udp;
pub mod websocket;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};

use crate::certificate::Certificate;
use crate::cpu;
use crate::gateways::{Contender, Gateway, HTTP, Role, Setup, free_address};
use crate::generator;
use crate::h2_upstream::H2Upstream;
use crate::report::{Goal, Report, Row};
use crate::rounds::{self, Cell};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Interleaved rounds that nobody disturbed; of `idle`: fresh starts
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Who runs beside ours, of nginx, haproxy, pingora, each with a program of one's own if wanted (nginx=/path/to/nginx);
    /// `none` for ours alone
    #[arg(long, value_delimiter = ',', default_value = "nginx,haproxy")]
    pub peers: Vec<String>,
    /// Write the figures to this file too
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Only these cells of the scenario, such as 1k-64; absent: all
    #[arg(long, value_delimiter = ',')]
    pub cells: Vec<String>,
    /// Length of one measurement
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Leave the peers' access logs off; ours stays on
    #[arg(long)]
    pub no_peer_logs: bool,
    /// Only the peers, without ours
    #[arg(long)]
    pub peers_only: bool,
}

impl Options {
    /// Everybody who is measured, ours first.
    fn contenders(&self) -> Result<Vec<Contender>, String> {
        let ours = if self.peers_only { &[][..] } else { &["ring", "epoll"] };
        let peers = self.peers.iter().filter(|peer| *peer != "none").map(|peer| peer.parse());
        ours.iter().map(|io| Ok(Contender::ours(io))).chain(peers).collect()
    }

    /// The cells that were asked for.
    fn chosen(&self, cells: Vec<Cell>) -> Result<Vec<Cell>, String> {
        let names: Vec<&str> = cells.iter().map(|cell| cell.name).collect();
        if let Some(unknown) = self.cells.iter().find(|name| !names.contains(&name.as_str())) {
            return Err(format!("no cell `{unknown}`; there are {}", names.join(", ")));
        }
        let wanted = |cell: &Cell| self.cells.is_empty() || self.cells.iter().any(|name| name == cell.name);
        Ok(cells.into_iter().filter(wanted).collect())
    }
}

/// Where a scenario runs: gateways on one CPU, the load on another, files in a folder that goes when all went well.
struct Stage {
    setup: Setup,
    /// Where the generator plays the upstream.
    heard: SocketAddr,
    /// What plays another one, to which the gateways go instead.
    h2: Option<H2Upstream>,
    machine: serde_json::Value,
    _precedence: Precedence,
}

/// Load and gateways go before what else runs on the machine: within our session by their niceness, among sessions by that of
/// the session. Without the right to it others disturb more, which is noticed.
struct Precedence;

impl Precedence {
    fn take() -> Self {
        let _ = setpriority_process(None, NICE);
        let _ = fs::write(AUTOGROUP, NICE.to_string());
        Self
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        let _ = fs::write(AUTOGROUP, "0");
    }
}

impl Stage {
    fn new(options: &Options, tls: bool) -> Result<Self, String> {
        if cpu::count() < 2 {
            return Err("two CPUs are needed: one for the gateway, one for the load".into());
        }
        raise_files_limit()?;
        let machine = cpu::machine();
        // Logs on a disk would have a gateway wait for whoever else writes to it.
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
        let folder = parent.join(format!("weir-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let certificate = tls.then(|| Certificate::new(&folder)).transpose()?;
        let logs = !options.no_peer_logs;
        cpu::pin(LOAD_CPU)?;
        let precedence = Precedence::take();
        let (upstream, cpu) = (free_address(), Some(GATEWAY_CPU));
        let setup = Setup { upstream, cpu, folder, logs, certificate, role: HTTP, document: None };
        Ok(Self { heard: upstream, h2: None, setup, machine, _precedence: precedence })
    }

    /// Behind the gateways is an upstream that speaks HTTP/2, whose answers have so many bytes.
    fn with_h2_upstream(mut self, size: usize) -> Result<Self, String> {
        let upstream = H2Upstream::start(size)?;
        self.setup.upstream = upstream.address;
        self.h2 = Some(upstream);
        Ok(self)
    }

    /// The gateways are to do something else.
    fn with_role(mut self, role: Role) -> Self {
        self.setup.role = role;
        self
    }

    fn start(&self, contenders: &[Contender]) -> Result<Vec<Gateway>, String> {
        contenders.iter().map(|contender| Gateway::start(contender, &self.setup)).collect()
    }

    /// What every load has in common.
    fn load(&self, options: &Options) -> generator::Options {
        generator::Options {
            target: None,
            upstream: Some(self.heard),
            asked: self.h2.as_ref().map(H2Upstream::asked),
            connections: 64,
            size: 1024,
            body: 0,
            rate: None,
            close: false,
            tls: self.setup.certificate.is_some().then_some(generator::Tls::Full),
            requests: None,
            warm_up: 0.8,
            seconds: options.seconds,
            pid: None,
            gateway_cpu: GATEWAY_CPU,
            load_cpu: LOAD_CPU,
            certificate: self.setup.certificate.as_ref().map(|pair| pair.der.clone()),
            ..generator::Options::default()
        }
    }

    fn report(self, scenario: &str, options: &Options, rows: Vec<Row>, goals: Vec<Goal>) -> Result<(), String> {
        let report = Report::new(scenario, self.machine, rows, goals);
        report.print();
        report.write(options.json.as_deref())?;
        let _ = fs::remove_dir_all(&self.setup.folder);
        Ok(())
    }
}

/// Cells that all gateways run through, and the goals of those that were chosen.
fn run_cells(
    scenario: &str,
    options: &Options,
    stage: Stage,
    cells: Vec<Cell>,
    goals: Vec<Goal>,
) -> Result<(), String> {
    run_cells_as(scenario, options, stage, cells, goals, |_| true)
}

/// The same, without those that cannot do what is asked.
fn run_cells_as(
    scenario: &str,
    options: &Options,
    stage: Stage,
    cells: Vec<Cell>,
    goals: Vec<Goal>,
    can: impl Fn(&str) -> bool,
) -> Result<(), String> {
    let cells = options.chosen(cells)?;
    let (contenders, others): (Vec<_>, Vec<_>) = options.contenders()?.into_iter().partition(|one| can(&one.name));
    for other in others {
        println!("left out: {} cannot do this", other.name);
    }
    let gateways = stage.start(&contenders)?;
    println!("{scenario}: gateways on CPU {GATEWAY_CPU}, load on CPU {LOAD_CPU}");
    let mut rows = Vec::new();
    for cell in &cells {
        rows.extend(rounds::measure(cell, &gateways, stage.heard, options.rounds)?);
    }
    drop(gateways);
    let goals = goals.into_iter().filter(|goal| cells.iter().any(|cell| cell.name == goal.cell)).collect();
    stage.report(scenario, options, rows, goals)
}

/// Thousands of connections need as many descriptors, here and in the gateways that inherit it.
fn raise_files_limit() -> Result<(), String> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .map_err(|error| format!("cannot raise the limit of open files: {error}"))
}

const GATEWAY_CPU: usize = 0;
const LOAD_CPU: usize = 1;
const NICE: i32 = -15;
const AUTOGROUP: &str = "/proc/self/autogroup";
