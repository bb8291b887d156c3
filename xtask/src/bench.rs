//! `bench`: builds what a scenario needs and hands over to it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::{self, Build, cargo, root};
use crate::tools::{self, HAPROXY, NGINX, VALGRIND};
use crate::{pgo, progress};

#[derive(clap::Args)]
pub struct Options {
    /// http1, http2, http3, grpc, tls1, tcp: CPU time per request beside the peers, udp: per datagram, websocket: per message. refusal: per
    /// request that is not served. idle: memory per connection. connections: latency of 10,000. filters: what each filter adds to a
    /// request. cache: an answer from memory. routes: ten to 100,000 of them. checks: health checks of 1,000 servers. extras: what traces,
    /// logs, programs and scripts add to a request. micro: instructions per operation against bench/micro.json. steer: packets through
    /// xdp_steer. edges: a change on its way to ten thousand
    #[arg(value_parser = [
        "http1", "http2", "http3", "grpc", "websocket", "tls1", "tcp", "udp", "refusal", "idle", "connections", "filters", "cache",
        "routes", "checks", "extras", "micro", "steer", "edges",
    ])]
    scenario: String,
    /// Interleaved rounds that nobody disturbed; of idle: fresh starts
    #[arg(long)]
    rounds: Option<u32>,
    /// Write the figures to this file too
    #[arg(long)]
    json: Option<PathBuf>,
    /// Who runs beside ours, of nginx, haproxy, pingora, envoy; nginx=/path/to/nginx takes that one; `none` for ours alone
    #[arg(long, value_delimiter = ',', default_value = "nginx,haproxy")]
    peers: Vec<String>,
    /// Take nginx and haproxy from another Debian suite, such as trixie; needs root the first time
    #[arg(long)]
    peers_from: Option<String>,
    /// Only these cells of a scenario, such as 1k-64; an unknown one makes it list them
    #[arg(long, value_delimiter = ',')]
    cells: Vec<String>,
    /// Length of one measurement
    #[arg(long)]
    seconds: Option<f64>,
    /// steer: Katran beside ours, by the object that kernel-tests/src/katran.bpf.c says how to make
    #[arg(long)]
    katran: Option<PathBuf>,
    /// edges: how many there are
    #[arg(long, default_value_t = 10_000)]
    edges: u32,
    /// Leave the peers' access logs off; ours stays on
    #[arg(long)]
    no_peer_logs: bool,
    /// Only the peers, without ours
    #[arg(long)]
    peers_only: bool,
    /// micro: make what is counted the baseline
    #[arg(long)]
    accept: bool,
    /// dist measures what is shipped; release is quicker to build
    #[arg(long, value_enum, default_value = "dist")]
    profile: Build,
    /// dist: build ours without a profile of itself, for a quick look, as micro always does; what is shipped has one
    #[arg(long)]
    no_pgo: bool,
}

pub fn run(options: &Options) -> Result<(), String> {
    if options.scenario == "edges" {
        return edges(options);
    }
    let mut command = match options.scenario.as_str() {
        "steer" => {
            cargo::kernel_programs()?;
            let mut command = cargo();
            command.args(["run", "--release", "--package", "kernel-tests", "--bin", "steer-bench", "--"]);
            if let Some(object) = &options.katran {
                command
                    .arg("--katran")
                    .arg(std::path::absolute(object).map_err(|error| format!("{}: {error}", object.display()))?);
            }
            command
        }
        "micro" => micro(options)?,
        // Ours with and without something: there are no peers.
        alone @ ("extras" | "filters" | "routes" | "checks") => timed(built(alone, options)?, options),
        scenario => beside_peers(scenario, options)?,
    };
    if let Some(rounds) = options.rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    if let Some(json) = &options.json {
        command.arg("--json").arg(std::path::absolute(json).map_err(|error| format!("{}: {error}", json.display()))?);
    }
    cargo::run(&mut command)
}

/// The leader and the edges' own code in one process, over links that take their time.
fn edges(options: &Options) -> Result<(), String> {
    let mut command = cargo();
    command.args(["test", "--release", "--package", "control-raft", "--lib", "fleet::ten_thousand_edges", "--"]);
    command.args(["--exact", "--ignored", "--nocapture"]).env("WEIR_EDGES", options.edges.to_string());
    if let Some(rounds) = options.rounds {
        command.env("WEIR_ROUNDS", rounds.to_string());
    }
    if let Some(json) = &options.json {
        command
            .env("WEIR_BENCH_JSON", std::path::absolute(json).map_err(|error| format!("{}: {error}", json.display()))?);
    }
    cargo::run(&mut command)
}

fn beside_peers(scenario: &str, options: &Options) -> Result<Command, String> {
    let peers = peers(options)?;
    let mut command = timed(built(scenario, options)?, options);
    command.args(["--peers", &peers.join(",")]);
    let flags = [("--no-peer-logs", options.no_peer_logs), ("--peers-only", options.peers_only)];
    command.args(flags.iter().filter(|(_, wanted)| *wanted).map(|(flag, _)| flag));
    Ok(command)
}

fn timed(mut command: Command, options: &Options) -> Command {
    if let Some(seconds) = options.seconds {
        command.args(["--seconds", &seconds.to_string()]);
    }
    command
}

fn micro(options: &Options) -> Result<Command, String> {
    tools::require(&[VALGRIND])?;
    let mut command = built("micro", options)?;
    let mut cargo = cargo();
    cargo.args(["build", "--package", "proto-http", "--example", "instructions", "--profile", options.profile.name()]);
    cargo::run(&mut cargo)?;
    if options.accept {
        command.arg("--accept");
    }
    Ok(command)
}

/// The bench, built together with ours, with what all scenarios understand.
fn built(scenario: &str, options: &Options) -> Result<Command, String> {
    let folder = match (options.profile, options.peers_only) {
        (profile, true) => cargo::build(&["bench"], profile.profile())?,
        // What two profiles of one source make of a request differs by a hundredth: micro counts without.
        (Build::Dist, false) if !options.no_pgo && scenario != "micro" => pgo::build()?,
        (profile, false) => cargo::build(&["server", "cli", "bench"], profile.profile())?,
    };
    let mut command = Command::new(folder.join("bench"));
    command.arg(scenario).current_dir(root());
    if !options.cells.is_empty() {
        command.args(["--cells", &options.cells.join(",")]);
    }
    Ok(command)
}

/// The peers that were asked for, found or brought here.
fn peers(options: &Options) -> Result<Vec<String>, String> {
    let wanted = |name: &str| options.peers.iter().any(|peer| peer == name);
    let mut peers = options.peers.clone();
    if let Some(suite) = &options.peers_from {
        let names: Vec<&str> = [NGINX, HAPROXY].iter().map(|tool| tool.program).filter(|name| wanted(name)).collect();
        let folder = cargo::target()?.join("peers").join(suite);
        for (name, program) in names.iter().zip(of_suite(suite, &folder, &names)?) {
            peers
                .iter_mut()
                .filter(|peer| peer == name)
                .for_each(|peer| *peer = format!("{name}={}", program.display()));
        }
    } else {
        if options.scenario == "http3" && (wanted("nginx") || wanted("haproxy")) {
            return Err(
                "Debian 12's nginx and HAProxy speak no HTTP/3: add --peers-from trixie, or give programs that do \
                        (--peers nginx=/path/to/nginx), or --peers none"
                    .into(),
            );
        }
        tools::require(&[NGINX, HAPROXY].into_iter().filter(|tool| wanted(tool.program)).collect::<Vec<_>>())?;
        if matches!(options.scenario.as_str(), "http2" | "grpc") {
            tools::require(&[tools::H2LOAD])?;
        }
        if wanted("nginx") && matches!(options.scenario.as_str(), "tcp" | "udp") {
            tools::require(&[tools::NGINX_STREAM])?;
        }
    }
    if wanted("pingora") {
        let program = pingora()?;
        let own = peers.iter_mut().filter(|peer| *peer == "pingora");
        own.for_each(|peer| *peer = format!("pingora={}", program.display()));
    }
    Ok(peers)
}

/// Unpacks programs of another Debian suite with all their libraries, and starts nothing of it. What comes back are small
/// scripts that run them with their own loader.
fn of_suite(suite: &str, folder: &Path, names: &[&str]) -> Result<Vec<PathBuf>, String> {
    let script = |name: &&str| folder.join(format!("{name}.sh"));
    if names.iter().all(|name| script(name).is_file()) {
        return Ok(names.iter().map(script).collect());
    }
    if !tools::is_root() {
        return Err(format!(
            "--peers-from {suite} needs root once, to unpack it; --peers nginx=/path takes what is there"
        ));
    }
    tools::require(&[tools::DEBOOTSTRAP])?;
    let step = progress::step(format!("unpacking {} of Debian {suite}", names.join(" and ")));
    let mirrors = tools::run(Command::new("apt-get").args(["indextargets", "--format", "$(SITE)"]))?;
    let mirror = mirrors.lines().find(|site| site.ends_with("/debian")).ok_or("apt knows no mirror of Debian")?;
    let root = folder.join("root");
    let mut command = Command::new(tools::find("debootstrap").ok_or("debootstrap is not found")?);
    command.args(["--download-only", "--variant=minbase"]).arg(format!("--include={}", names.join(",")));
    tools::run(command.arg(suite).arg(&root).arg(mirror))?;
    let archives = root.join("var/cache/apt/archives");
    let files = std::fs::read_dir(&archives).map_err(|error| format!("{}: {error}", archives.display()))?;
    for package in
        files.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "deb"))
    {
        tools::run(Command::new("dpkg").arg("-x").arg(package).arg(&root))?;
    }
    for name in names {
        write_script(&root, name, &script(name))?;
    }
    step.done(folder.display().to_string());
    Ok(names.iter().map(script).collect())
}

fn write_script(root: &Path, name: &str, script: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let root = root.display();
    let arch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let text = format!(
        "#!/bin/sh\nexec {root}/usr/lib/{arch}/{} --library-path {root}/usr/lib/{arch} {root}/usr/sbin/{name} \"$@\"\n",
        if cfg!(target_arch = "x86_64") { "ld-linux-x86-64.so.2" } else { "ld-linux-aarch64.so.1" },
    );
    let written = std::fs::write(script, text)
        .and_then(|()| std::fs::set_permissions(script, std::fs::Permissions::from_mode(0o755)));
    written.map_err(|error| format!("{}: {error}", script.display()))
}

/// Builds the peer that comes as a library.
fn pingora() -> Result<PathBuf, String> {
    let step = progress::step("building pingora (its first time takes minutes)");
    let target = cargo::target()?.join("peers");
    let mut command = cargo();
    command.current_dir(root().join("bench/peers/pingora")).args(["build", "--release", "--target-dir"]).arg(&target);
    cargo::run(&mut command)?;
    step.done("built");
    Ok(target.join("release/pingora-peer"))
}
