//! The demo without root: one machine on loopback, and what was left out.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use base_testing::free_port;

use super::{Options, documents};
use crate::client::{backend, echoed};
use crate::http::Connection;
use crate::process::Daemon;
use crate::progress::{self, step, title, warn};
use crate::tools;

pub fn run(folder: PathBuf, options: &Options) -> Result<String, String> {
    title("Weir: one machine on loopback");
    warn(
        "without root there are no namespaces and no kernel programs: the fleet, steering, drain and crash are left out",
    );
    let binaries = super::binaries(options, false)?;
    let (weir, weirctl) = (binaries.join("weir"), binaries.join("weirctl"));
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let [port, api, peer, one, two] = std::array::from_fn(|_| free_port());

    let starting = step("two backends and one weir");
    let mut daemons = Vec::new();
    for (name, port) in [("backend-1", one), ("backend-2", two)] {
        let mut command = Command::new(&weir);
        command.args(["demo-backend", "--listen", &format!("127.0.0.1:{port}"), "--name", name]);
        daemons.push(Daemon::start(name, &mut command, &folder)?);
    }
    let mut command = Command::new(&weir);
    let (api, peer) = (format!("127.0.0.1:{api}"), format!("http://127.0.0.1:{peer}"));
    command.args(["--name", "edge-1", "--api-addr", &api, "--listen-peer-urls", &peer]);
    command.args(["--initial-advertise-peer-urls", &peer]);
    command.arg("--home-dir").arg(folder.join("edge-1")).arg("--data-dir").arg(folder.join("edge-1/data"));
    daemons.push(Daemon::start("edge-1", &mut command, &folder)?);
    for daemon in &mut daemons {
        daemon.wait_for("ready", super::READY_LIMIT)?;
    }
    starting.done("ready");

    let applying = step("applying a pipeline and an HTTP server with weirctl");
    let servers = [one, two].map(|port| format!("http://127.0.0.1:{port}"));
    for (file, document) in
        [("pipeline.yaml", documents::pipeline(&servers)), ("http-server.yaml", documents::http_server(port))]
    {
        let file = folder.join(file);
        fs::write(&file, document).map_err(|error| format!("{}: {error}", file.display()))?;
        tools::run(Command::new(&weirctl).args(["--server", &api, "apply", "-f"]).arg(file))?;
    }
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    let started = Instant::now();
    let limit = Duration::from_secs(2);
    let open = || Connection::open(target, limit, limit).map_err(|(_, error)| error);
    let ask = || open().and_then(|mut connection| connection.get("/demo?first"));
    while !ask().is_ok_and(|answer| answer.status == 200) {
        if started.elapsed() > Duration::from_secs(10) {
            let last = ask().map_or_else(|error| error.to_string(), |answer| format!("it answers {}", answer.status));
            return Err(format!("10 s after the last apply http://{target}/ still does not answer 200: {last}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    applying.done(format!("live {} after the last apply", progress::seconds(started.elapsed())));

    title("Twelve requests");
    let (mut rows, mut good) = (Vec::new(), 0);
    for number in 0..12 {
        let began = Instant::now();
        let mut connection = open().map_err(|error| format!("{target}: {error}"))?;
        let answer =
            connection.get(&format!("/demo?request={number}")).map_err(|error| format!("{target}: {error}"))?;
        good += usize::from(answer.status == 200 && answer.body.contains("X-Demo:[flash-sale]"));
        rows.push(vec![
            format!("127.0.0.1:{}", connection.source_port()),
            format!("{} worker {}", echoed(&answer.body, "X-Weir-Machine"), echoed(&answer.body, "X-Weir-Worker")),
            backend(&answer.body),
            answer.status.to_string(),
            format!("{:.2} ms", began.elapsed().as_secs_f64() * 1e3),
        ]);
    }
    progress::table(&["source", "answered by", "backend", "status", "time"], &rows);
    if good != rows.len() {
        return Err(format!("only {good} of {} requests came back as they should", rows.len()));
    }
    if options.keep {
        title("Everything is left running. What to type next");
        println!("  curl -s http://{target}/");
        println!("  {} --server {api} get all", weirctl.display());
        let pids: Vec<String> = daemons.iter().map(|daemon| daemon.pid().to_string()).collect();
        println!("  kill {}", pids.join(" "));
        daemons.into_iter().for_each(Daemon::leave);
    }
    Ok("one machine served every request; run it as root to see the fleet".into())
}
