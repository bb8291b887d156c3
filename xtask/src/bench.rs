//! `bench`: builds what a scenario needs and hands over to it.

use std::path::PathBuf;

use crate::cargo::{self, Profile, cargo};
use crate::tools::{self, HAPROXY, NGINX};

#[derive(clap::Args)]
pub struct Options {
    /// http1: requests through the gateway beside its peers. steer: packets through xdp_steer
    #[arg(value_parser = ["http1", "steer"])]
    scenario: String,
    /// Interleaved rounds
    #[arg(long)]
    rounds: Option<u32>,
    /// Write the figures to this file too
    #[arg(long)]
    json: Option<PathBuf>,
    /// http1: who runs beside ours, of nginx, haproxy; `none` for ours alone
    #[arg(long, value_delimiter = ',', default_value = "nginx,haproxy")]
    peers: Vec<String>,
    /// http1: connections that are kept busy
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// http1: bytes of every response body
    #[arg(long, default_value_t = 1024)]
    size: u32,
    /// http1: bytes of every request body; 0 sends GETs
    #[arg(long, default_value_t = 0)]
    body: u32,
    /// http1: requests a second, whatever the gateway does about it; absent: each connection as fast as it can
    #[arg(long)]
    rate: Option<u32>,
    /// http1: length of one measurement
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

pub fn run(options: &Options) -> Result<(), String> {
    let mut command = match options.scenario.as_str() {
        "steer" => {
            cargo::kernel_programs()?;
            let mut command = cargo();
            command.args(["run", "--release", "--package", "kernel-tests", "--bin", "steer-bench", "--"]);
            command
        }
        scenario => {
            let peer = |tool: &tools::Tool| options.peers.iter().any(|peer| peer == tool.program);
            tools::require(&[NGINX, HAPROXY].into_iter().filter(peer).collect::<Vec<_>>())?;
            let binaries = cargo::build(&["server", "cli", "bench"], Profile::Release)?;
            let mut command = std::process::Command::new(binaries.join("bench"));
            command.arg(scenario).current_dir(cargo::root());
            command.args(["--peers", &options.peers.join(","), "--connections", &options.connections.to_string()]);
            command.args(["--size", &options.size.to_string(), "--body", &options.body.to_string()]);
            command.args(["--seconds", &options.seconds.to_string()]);
            if let Some(rate) = options.rate {
                command.args(["--rate", &rate.to_string()]);
            }
            command
        }
    };
    if let Some(rounds) = options.rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    if let Some(json) = &options.json {
        command.arg("--json").arg(std::path::absolute(json).map_err(|error| format!("{}: {error}", json.display()))?);
    }
    cargo::run(&mut command)
}
