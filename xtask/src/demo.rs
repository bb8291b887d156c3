//! `demo`: a fleet of three edges at work, from the first packet to a machine that dies under load.
//!
//! As root it builds the namespaces of [`crate::fleet`], starts three `weir` with XDP on their interfaces, gives them a
//! virtual IP and a pipeline through `weirctl`, and watches real connections of a client: who the router chose, who the
//! kernel steered to, who answered. Then it drains one edge, kills another, pulls that one's cable, and judges: every
//! connection that a dead machine did not own must live. Without root one `weir` serves on loopback.

mod documents;
mod loopback;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::cargo::{self, Profile};
use crate::client::{self, Event, Load, Long, NEW};
use crate::fleet::{CLIENT, Fleet, INTERFACE, VIP, VIP6};
use crate::process::Daemon;
use crate::progress::{self, Colour, note, paint, seconds, step, title, warn};
use crate::tools::{self, ETHTOOL, IP, NSENTER};

#[derive(clap::Args)]
pub struct Options {
    /// Leave everything running at the end, and say what to type next
    #[arg(long)]
    keep: bool,
    /// Take down what earlier demos left, and do nothing else
    #[arg(long)]
    clean: bool,
    /// One machine on loopback, even as root
    #[arg(long)]
    loopback: bool,
    /// Show the weir and weirctl of this folder instead of building them
    #[arg(long)]
    binaries: Option<PathBuf>,
}

pub fn run(options: &Options) -> Result<(), String> {
    if options.clean {
        return clean();
    }
    let id = std::process::id().to_string();
    let folder = std::env::temp_dir().join(format!("weir-demo-{id}"));
    let verdict = if tools::is_root() && !options.loopback {
        fleet(&id, folder.clone(), options)
    } else {
        loopback::run(folder.clone(), options)
    };
    match verdict {
        Ok(line) => {
            println!("\n{} {line}", paint(Colour::Green, "✓"));
            if !options.keep {
                let _ = fs::remove_dir_all(&folder);
            }
            Ok(())
        }
        Err(problem) => Err(format!("{problem}\n  Logs, documents and data are in {}", folder.display())),
    }
}

fn clean() -> Result<(), String> {
    let standing = crate::fleet::standing();
    for id in &standing {
        crate::fleet::remove(id);
        let _ = fs::remove_dir_all(std::env::temp_dir().join(format!("weir-demo-{id}")));
        println!("took down the fleet {id}");
    }
    if standing.is_empty() {
        println!("no fleet stands");
    }
    Ok(())
}

/// What stands while the demo runs. Fields are dropped in this order: the load, the daemons, their network.
struct Demo {
    load: Option<Load>,
    edges: Vec<Daemon>,
    backends: Vec<Daemon>,
    fleet: Fleet,
    folder: PathBuf,
    weirctl: PathBuf,
    xtask: PathBuf,
}

/// Where `weir` and `weirctl` are, built if need be.
fn binaries(options: &Options, kernel: bool) -> Result<PathBuf, String> {
    if let Some(folder) = &options.binaries {
        return std::path::absolute(folder).map_err(|error| format!("{}: {error}", folder.display()));
    }
    if kernel {
        cargo::kernel_programs()
            .map_err(|error| format!("{error}\nThe fleet needs them; --loopback shows the rest"))?;
    }
    let packages: &[&str] = if kernel { &["server", "cli", "kernel-tests"] } else { &["server", "cli"] };
    cargo::build(packages, Profile::Release)
}

fn fleet(id: &str, folder: PathBuf, options: &Options) -> Result<String, String> {
    title("Weir: a fleet of three edges, on this machine");
    tools::require(&[IP, ETHTOOL, NSENTER])?;
    let binaries = binaries(options, true)?;
    take_down_on_signal(id);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;

    let building = step("a client, a router, three edges and two backends in network namespaces");
    let fleet = Fleet::new(id, 3, 2)?;
    fleet.wake_router(&binaries.join("pass-everything"))?;
    building.done(format!("{} namespaces named weir-{id}-…", fleet.namespaces().count()));
    let xtask = std::env::current_exe().map_err(|error| format!("where is xtask? {error}"))?;
    let weirctl = binaries.join("weirctl");
    let mut demo = Demo { load: None, edges: vec![], backends: vec![], fleet, folder, weirctl, xtask };

    demo.start(&binaries.join("weir"))?;
    demo.configure()?;
    let mut verdict = Verdict::default();
    demo.show_requests(&mut verdict)?;
    demo.show_counters(&mut verdict)?;
    demo.put_under_load()?;
    demo.drain("edge-2", &mut verdict)?;
    demo.kill("edge-3", &mut verdict)?;
    demo.cut_off("edge-3", &mut verdict)?;
    demo.load = None;
    let line = verdict.line()?;
    if options.keep {
        demo.leave();
    } else {
        demo.shut_down();
    }
    Ok(line)
}

/// What the demo has to show; each claim is either held or not.
#[derive(Default)]
struct Verdict {
    held: Vec<String>,
    broken: Vec<String>,
}

impl Verdict {
    fn claim(&mut self, holds: bool, claim: impl Into<String>) {
        let claim = claim.into();
        let sign = if holds { paint(Colour::Green, "✓") } else { paint(Colour::Red, "✗") };
        println!("  {sign} {claim}");
        if holds { self.held.push(claim) } else { self.broken.push(claim) }
    }

    fn line(&self) -> Result<String, String> {
        match self.broken.as_slice() {
            [] => Ok(format!("all {} claims held: steering, drain, crash and loss of a machine", self.held.len())),
            broken => Err(format!(
                "{} of {} claims did not hold:\n  - {}",
                broken.len(),
                broken.len() + self.held.len(),
                broken.join("\n  - ")
            )),
        }
    }
}

impl Demo {
    fn start(&mut self, weir: &PathBuf) -> Result<(), String> {
        let starting = step("two backends and three weir");
        for backend in &self.fleet.backends {
            let mut command = backend.namespace.command(weir);
            command.args(["demo-backend", "--listen", &format!("{}:9095", backend.address), "--name", &backend.name]);
            self.backends.push(Daemon::start(&backend.name, &mut command, &self.folder)?);
        }
        let peer = |edge: &crate::fleet::Machine| format!("http://{}:2380", edge.address);
        let cluster: Vec<String> =
            self.fleet.edges.iter().map(|edge| format!("{}={}", edge.name, peer(edge))).collect();
        // The edges sign what they say to each other.
        let secret = self.folder.join("cluster-secret");
        self.secret(&secret).map_err(|error| format!("{}: {error}", secret.display()))?;
        for edge in &self.fleet.edges {
            let mut command = edge.command(weir);
            command.arg("--cluster-secret-file").arg(&secret);
            command.args(["--name", &edge.name, "--cluster-name", &format!("demo-{}", self.fleet.id())]);
            command.args(["--initial-cluster", &cluster.join(","), "--api-addr", API]);
            command.args(["--listen-peer-urls", &peer(edge), "--initial-advertise-peer-urls", &peer(edge)]);
            command.args([
                "--interface",
                INTERFACE,
                "--advertise-address",
                &format!("{},{}", edge.address, edge.address6),
            ]);
            command.arg("--home-dir").arg(self.folder.join(&edge.name));
            command.arg("--data-dir").arg(self.folder.join(&edge.name).join("data"));
            self.edges.push(Daemon::start(&edge.name, &mut command, &self.folder)?);
        }
        let mut slowest = Duration::ZERO;
        for daemon in self.backends.iter_mut().chain(&mut self.edges) {
            slowest = slowest.max(daemon.wait_for("ready", READY_LIMIT)?);
        }
        starting.done(format!("all ready, edges {} with XDP on {INTERFACE}", self.edges.len()));
        Ok(())
    }

    /// Draws the cluster's secret into a file that only its owner reads.
    fn secret(&self, path: &Path) -> io::Result<()> {
        let mut drawn = [0; 32];
        fs::File::open("/dev/urandom")?.read_exact(&mut drawn)?;
        let text: String = drawn.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?
            .write_all(text.as_bytes())
    }

    fn configure(&mut self) -> Result<(), String> {
        let applying = step("applying a pipeline, an HTTP server and the virtual IP with weirctl");
        let servers: Vec<String> =
            self.fleet.backends.iter().map(|backend| format!("http://{}:9095", backend.address)).collect();
        self.apply("pipeline.yaml", &documents::pipeline(&servers))?;
        self.apply("http-server.yaml", &documents::http_server(PORT))?;
        self.apply("virtual-ip.yaml", &self.virtual_ip(&[]))?;
        let live = Instant::now();
        self.load = Some(self.client(0, 40)?);
        self.wait_steady(3)?;
        let gap = latest(&self.failures(live)).map_or(Duration::ZERO, |last| last.saturating_duration_since(live));
        applying.done(format!("live on all three {} after the last apply returned", seconds(gap)));
        for kind in ["member", "all"] {
            if let Ok(text) =
                tools::run(self.edge("edge-1").command(&self.weirctl).args(["--server", API, "get", kind]))
            {
                note(text.trim_end());
            }
        }
        Ok(())
    }

    fn virtual_ip(&self, states: &[(&str, &str)]) -> String {
        let names: Vec<&str> = self.fleet.edges.iter().map(|edge| edge.name.as_str()).collect();
        documents::virtual_ip(&[VIP.to_string(), VIP6.to_string()], PORT, &names, states)
    }

    fn show_requests(&mut self, verdict: &mut Verdict) -> Result<(), String> {
        title("Twelve requests to the virtual IP");
        let since = Instant::now();
        let enough = |demo: &Self| demo.answers(since).filter(|seen| seen.id >= NEW).count() >= 40;
        self.wait_until("forty answers", Duration::from_secs(10), enough)?;
        let answers: Vec<Seen> = self.answers(since).filter(|seen| seen.id >= NEW).collect();
        let mut rows = Vec::new();
        let mut steered = 0;
        for seen in &answers {
            let router = self.fleet.chosen_by_router(seen.port, PORT)?;
            steered += usize::from(router != seen.machine);
            let way = if router == seen.machine {
                "its own".into()
            } else {
                format!("{router} ⇒ GUE ⇒ {}", seen.machine)
            };
            rows.push(vec![
                format!("{CLIENT}:{}", seen.port),
                router,
                way,
                format!("{} worker {}", seen.machine, seen.worker),
                seen.backend.clone(),
                seen.status.to_string(),
                format!("{:.2} ms", seen.took.as_secs_f64() * 1e3),
            ]);
        }
        rows.truncate(12);
        progress::table(
            &["source", "router chose", "kernel steered", "answered by", "backend", "status", "time"],
            &rows,
        );
        let machines: BTreeSet<_> = answers.iter().map(|seen| &seen.machine).collect();
        let backends: BTreeSet<_> = answers.iter().map(|seen| &seen.backend).collect();
        verdict.claim(
            answers.iter().all(|seen| seen.status == 200),
            format!("{} requests, all answered with 200", answers.len()),
        );
        verdict.claim(
            machines.len() == 3,
            format!("{} edges own connections, {} backends answer", machines.len(), backends.len()),
        );
        let mut workers: BTreeMap<String, u32> = BTreeMap::new();
        answers
            .iter()
            .for_each(|seen| *workers.entry(format!("{} worker {}", seen.machine, seen.worker)).or_default() += 1);
        let workers: Vec<String> = workers.iter().map(|(worker, count)| format!("{worker}: {count}")).collect();
        note(format!("all {}: {}", answers.len(), workers.join(", ")));
        verdict.claim(
            steered > 0,
            format!("{steered} of them were steered by the kernel to another machine than the router chose"),
        );
        let mut owners6 = Vec::new();
        for _ in 0..6 {
            let target = SocketAddr::new(VIP6.into(), PORT).to_string();
            let body = tools::run(self.fleet.client.command(&self.xtask).args(["internal-get", &target, "/demo"]));
            owners6.push(body.map(|body| client::echoed(&body, "X-Weir-Machine")));
        }
        let failed = owners6.iter().find_map(|owner| owner.as_ref().err()).cloned().unwrap_or_default();
        let owners6: Vec<String> = owners6.into_iter().flatten().collect();
        verdict.claim(
            owners6.len() == 6,
            format!("{} of 6 requests over IPv6 were answered, by {}{failed}", owners6.len(), owners(owners6.iter())),
        );
        self.latencies(since);
        Ok(())
    }

    fn show_counters(&mut self, verdict: &mut Verdict) -> Result<(), String> {
        title("Packets, as the kernel programs counted them");
        let mut rows = Vec::new();
        let mut forwarded = 0.0;
        for edge in &self.fleet.edges {
            let text = self.metrics(&edge.name)?;
            for (labels, packets) in report::packets(&text) {
                if labels.verdict == "transmit" {
                    forwarded += packets;
                }
                rows.push(vec![edge.name.clone(), labels.vip, labels.verdict, labels.reason, format!("{packets:.0}")]);
            }
        }
        progress::table(&["edge", "virtual IP", "verdict", "reason", "packets"], &rows);
        let mut rows = Vec::new();
        for edge in &self.fleet.edges {
            let text = self.metrics(&edge.name)?;
            let mut row = vec![edge.name.clone()];
            let steered = report::steered(&text);
            row.extend(
                self.fleet
                    .edges
                    .iter()
                    .map(|to| steered.get(&to.name).map_or("-".into(), |packets| format!("{packets:.0}"))),
            );
            row.push(report::quantiles(&text));
            rows.push(row);
        }
        progress::table(&["steered by", "to edge-1", "to edge-2", "to edge-3", "requests there (p50, p99)"], &rows);
        verdict
            .claim(forwarded > 0.0, format!("{forwarded:.0} packets left an edge again inside GUE, straight from XDP"));
        Ok(())
    }

    fn put_under_load(&mut self) -> Result<(), String> {
        title("Under load");
        let starting = step(format!("{LONG} connections that stay, and {FRESH} new ones a second"));
        self.load = Some(self.client(LONG, FRESH)?);
        let everyone = |demo: &Self| demo.long_connections().len() == LONG as usize;
        self.wait_until("all connections open", Duration::from_secs(20), everyone)?;
        self.wait_steady(3)?;
        starting.done(format!("they belong to {}", owners(self.long_connections().values().map(|long| &long.machine))));
        Ok(())
    }

    fn drain(&mut self, name: &str, verdict: &mut Verdict) -> Result<(), String> {
        title(&format!("Draining {name}"));
        let mine = self.owned_by(name);
        let started = Instant::now();
        self.apply("virtual-ip.yaml", &self.virtual_ip(&[(name, "draining")]))?;
        let applied = started.elapsed();
        self.watch(Duration::from_secs(4))?;
        let late = self.answers(started).filter(|seen| seen.id >= NEW && seen.machine == name).map(|seen| seen.began);
        let last = late.max().map_or(Duration::ZERO, |last| last.saturating_duration_since(started));
        note(format!("weirctl apply took {}", seconds(applied)));
        let quiet = started + Duration::from_secs(2);
        let newcomers = self.answers(quiet).filter(|seen| seen.id >= NEW && seen.machine == name).count();
        let others = self.answers(quiet).filter(|seen| seen.id >= NEW).count();
        verdict.claim(newcomers == 0, format!("no new connection reaches {name}: {others} went to the others, the last one to it began {} after the command", seconds(last)));
        let alive = mine.intersection(&self.alive_since(quiet)).count();
        verdict.claim(
            alive == mine.len(),
            format!("its {} established connections go on: {alive} answered since", mine.len()),
        );
        self.claim_none_broken(started, &[], "the drain", verdict);
        let back = step(format!("taking {name} back"));
        self.apply("virtual-ip.yaml", &self.virtual_ip(&[]))?;
        self.wait_steady(3)?;
        back.done("new connections reach all three again");
        Ok(())
    }

    fn kill(&mut self, name: &str, verdict: &mut Verdict) -> Result<(), String> {
        title(&format!("kill -9 of the weir on {name}; its kernel program stays and steers on"));
        let lost = self.owned_by(name);
        let others: BTreeSet<u32> = self.long_connections().into_keys().filter(|id| !lost.contains(id)).collect();
        let mut through = BTreeSet::new();
        for (id, long) in self.long_connections() {
            if others.contains(&id) && self.fleet.chosen_by_router(long.port, PORT)? == name {
                through.insert(id);
            }
        }
        let started = Instant::now();
        if let Some(edge) = self.edges.iter_mut().find(|edge| edge.name == name) {
            edge.kill();
        }
        self.watch(TAKEOVER_LIMIT + Duration::from_millis(500))?;
        let alive = self.alive_since(started + TAKEOVER_LIMIT);
        verdict.claim(
            through.is_subset(&alive),
            format!(
                "{} connections of the others come in through {name}: all live, only its kernel steers them",
                through.len()
            ),
        );
        // New connections whose slots were its own are taken by others that stand in for it: its kernel program sends them on, and
        // goes on doing so for those that come in through it, because nobody gives it a new table any more. What the process had taken
        // in when it died ends with it.
        let (mut inside, mut elsewhere) = (Vec::new(), Vec::new());
        for failure in self.failures(started).into_iter().filter(|failure| failure.id >= NEW) {
            let through = self.fleet.chosen_by_router(failure.port, PORT)? == name;
            if through { &mut inside } else { &mut elsewhere }.push(failure);
        }
        let taken_over = latest(&elsewhere).map_or(Duration::ZERO, |last| last - started);
        note(format!("{} connections belonged to it. New ones failed:", lost.len()));
        note(format!(
            "  {} that came in elsewhere, the last {} after the kill{}",
            elsewhere.len(),
            seconds(taken_over),
            errors(&elsewhere)
        ));
        note(format!("  {} that came in through it{}", inside.len(), errors(&inside)));
        let mut refused: Vec<Duration> = inside
            .iter()
            .chain(&elsewhere)
            .filter(|failure| failure.error.contains("refused"))
            .map(|failure| failure.began.saturating_duration_since(started))
            .collect();
        refused.sort_unstable();
        let later = refused.iter().filter(|after| **after > DYING).count();
        let moments: Vec<String> = refused.iter().map(|after| seconds(*after)).collect();
        verdict.claim(
            later == 0 && refused.len() <= 1,
            format!(
                "{} new connections were refused{}: others stand in at once",
                refused.len(),
                if moments.is_empty() { String::new() } else { format!(" ({} after the kill)", moments.join(", ")) }
            ),
        );
        let withdrawn = Instant::now();
        self.fleet.withdraw(name)?;
        note(format!(
            "{} after the kill the router stops using {name}, as when the BGP daemon beside it notices and withdraws",
            seconds(withdrawn - started)
        ));
        self.watch(Duration::from_secs(6))?;
        let quiet = withdrawn + Duration::from_secs(3);
        let alive = others.intersection(&self.alive_since(quiet)).count();
        verdict.claim(
            alive == others.len(),
            format!("{alive} of {} established connections owned by the others live", others.len()),
        );
        self.claim_none_broken(started, &[name], "the crash", verdict);
        verdict.claim(
            taken_over < TAKEOVER_LIMIT,
            format!(
                "converged: from {} after the kill the others serve all that comes in through them",
                seconds(taken_over)
            ),
        );
        let late: Vec<_> = self.failures(withdrawn).into_iter().filter(|failure| failure.id >= NEW).collect();
        let settled = latest(&late).map_or(Duration::ZERO, |last| last.saturating_duration_since(withdrawn));
        verdict.claim(
            settled < Duration::from_secs(1),
            format!("no new connection failed from {} after the withdrawal on", seconds(settled)),
        );
        Ok(())
    }

    fn cut_off(&mut self, name: &str, verdict: &mut Verdict) -> Result<(), String> {
        title(&format!("Pulling the cable of {name}, as when the whole machine is gone"));
        let before = self.alive_since(Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or_else(Instant::now));
        let started = Instant::now();
        self.fleet.pull_cable(name)?;
        note("nothing may depend on its kernel program any more");
        self.watch(Duration::from_secs(5))?;
        let failed: Vec<Instant> = self
            .failures(started)
            .into_iter()
            .filter(|failure| failure.id >= NEW)
            .map(|failure| failure.began)
            .collect();
        let converged =
            failed.iter().map(|began| began.saturating_duration_since(started)).max().unwrap_or(Duration::ZERO);
        let quiet = started + Duration::from_secs(3);
        let alive = before.intersection(&self.alive_since(quiet)).count();
        verdict.claim(alive == before.len(), format!("{alive} of {} established connections live", before.len()));
        self.claim_none_broken(started, &[name], "the loss of its link", verdict);
        verdict.claim(
            converged < Duration::from_secs(2),
            format!("{} new connections failed, the last began {} after the cut", failed.len(), seconds(converged)),
        );
        self.latencies(quiet);
        Ok(())
    }

    fn claim_none_broken(&self, since: Instant, allowed: &[&str], what: &str, verdict: &mut Verdict) {
        let broken: Vec<_> = self.failures(since).into_iter().filter(|failure| failure.id < NEW).collect();
        let (expected, others): (Vec<_>, Vec<_>) =
            broken.into_iter().partition(|failure| allowed.contains(&failure.machine.as_str()));
        for Failure { id, error, machine, .. } in others.iter().take(5) {
            warn(format!("connection {id} of {machine}: {error}"));
        }
        let lost = if expected.is_empty() { String::new() } else { format!(" ({} of its own ended)", expected.len()) };
        verdict.claim(
            others.is_empty(),
            format!("{} connections of other machines broke through {what}{lost}", others.len()),
        );
    }

    // What the client saw.

    fn client(&self, connections: u32, new_per_second: u32) -> Result<Load, String> {
        let command = self.fleet.client.command(&self.xtask);
        let target = SocketAddr::new(VIP.into(), PORT);
        Load::start(command, &client::Options { target, connections, pause_ms: 50, new_per_second })
    }

    /// Every answer to a request that began after `since`.
    fn answers(&self, since: Instant) -> impl Iterator<Item = Seen> {
        let events = self.load.as_ref().map(|load| load.since(since)).unwrap_or_default();
        events.into_iter().filter_map(Seen::from_event).filter(move |seen| seen.began >= since)
    }

    /// Everything that failed since then.
    fn failures(&self, since: Instant) -> Vec<Failure> {
        let events = self.load.as_ref().map(|load| load.since(since)).unwrap_or_default();
        let failures = events.into_iter().filter_map(|(at, event)| match event {
            Event::Broken { id, port, us, error, machine, .. } => {
                Some(Failure { id, port, began: before(at, us), error, machine })
            }
            Event::Answer { id, port, us, status, machine, .. } if status != 200 => {
                Some(Failure { id, port, began: before(at, us), error: format!("status {status}"), machine })
            }
            Event::Answer { .. } => None,
        });
        failures.collect()
    }

    fn long_connections(&self) -> BTreeMap<u32, Long> {
        self.load.as_ref().map(Load::long_connections).unwrap_or_default()
    }

    fn owned_by(&self, name: &str) -> BTreeSet<u32> {
        self.long_connections().into_iter().filter(|(_, long)| long.machine == name).map(|(id, _)| id).collect()
    }

    fn alive_since(&self, since: Instant) -> BTreeSet<u32> {
        self.long_connections().into_iter().filter(|(_, long)| long.last >= since).map(|(id, _)| id).collect()
    }

    fn latencies(&self, since: Instant) {
        let mut rows = Vec::new();
        for (what, fresh) in [("new connection with its request", true), ("request on a kept connection", false)] {
            let answers = self.answers(since).filter(|seen| (seen.id >= NEW) == fresh && (fresh || seen.count > 0));
            let mut times: Vec<Duration> = answers.map(|seen| seen.took).collect();
            times.sort();
            if let Some(last) = times.len().checked_sub(1) {
                let at =
                    |share: f64| format!("{:.2} ms", times[(last as f64 * share).round() as usize].as_secs_f64() * 1e3);
                rows.push(vec![what.into(), times.len().to_string(), at(0.5), at(0.9), at(0.99), at(1.0)]);
            }
        }
        progress::table(&["latency at the client", "requests", "p50", "p90", "p99", "max"], &rows);
    }

    // Waiting.

    /// Waits until for a while every new connection succeeded and `machines` edges took some.
    fn wait_steady(&self, machines: usize) -> Result<(), String> {
        let steady = |demo: &Self| {
            let Some(since) = Instant::now().checked_sub(STEADY) else { return false };
            let owners: BTreeSet<String> =
                demo.answers(since).filter(|seen| seen.id >= NEW).map(|seen| seen.machine).collect();
            owners.len() == machines && demo.failures(since).iter().all(|failure| failure.id < NEW)
        };
        let result = self.wait_until("new connections to be served by every edge", Duration::from_secs(20), steady);
        result.map_err(|error| {
            let mut seen: BTreeMap<String, u32> = BTreeMap::new();
            let failures =
                self.failures(Instant::now().checked_sub(Duration::from_secs(3)).unwrap_or_else(Instant::now));
            failures.into_iter().for_each(|failure| *seen.entry(failure.error).or_default() += 1);
            let seen: Vec<String> = seen.into_iter().map(|(error, count)| format!("{count} × {error}")).collect();
            format!("{error}; failures in the last 3 s: {}", seen.join(", "))
        })
    }

    fn wait_until(&self, what: &str, limit: Duration, condition: impl Fn(&Self) -> bool) -> Result<(), String> {
        let started = Instant::now();
        while !condition(self) {
            if started.elapsed() > limit {
                return Err(format!("waited {} s in vain for {what}", limit.as_secs()));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Lets time pass while the client works.
    fn watch(&self, time: Duration) -> Result<(), String> {
        let watching = step(format!("watching for {}", seconds(time)));
        thread::sleep(time);
        let (count, broken) =
            (self.load.as_ref().map_or(0, |load| load.count()), self.failures(Instant::now() - time).len());
        watching.done(format!("{count} requests so far, {broken} failures in this time"));
        Ok(())
    }

    // The hands of the operator.

    fn edge(&self, name: &str) -> &crate::fleet::Namespace {
        let edge = self.fleet.edges.iter().find(|edge| edge.name == name);
        &edge.unwrap_or(&self.fleet.edges[0]).namespace
    }

    fn apply(&self, file: &str, document: &str) -> Result<(), String> {
        let file = self.folder.join(file);
        fs::write(&file, document).map_err(|error| format!("{}: {error}", file.display()))?;
        tools::run(self.edge("edge-1").command(&self.weirctl).args(["--server", API, "apply", "-f"]).arg(file))
            .map(drop)
    }

    fn metrics(&self, edge: &str) -> Result<String, String> {
        tools::run(self.edge(edge).command(&self.xtask).args(["internal-get", API, "/metrics"]))
    }

    fn shut_down(mut self) {
        let stopping = step("stopping everything with SIGTERM");
        for edge in &mut self.edges {
            if edge.ended().is_none()
                && let Err(problem) = edge.stop(Duration::from_secs(10))
            {
                warn(problem);
            }
        }
        drop(self);
        stopping.done("nothing is left");
    }

    fn leave(self) {
        let Self { edges, backends, fleet, folder, weirctl, .. } = self;
        let enter = |name: &str| format!("nsenter --net=/run/netns/weir-{}-{name} --", fleet.id());
        title("Everything is left running. What to type next");
        println!("  {} curl -s http://{VIP}/", enter("client"));
        println!("  {} {} get all", enter("edge-1"), weirctl.display());
        println!("  {} curl -s http://{API}/metrics | grep ^weir_xdp", enter("edge-1"));
        println!("  {} {} apply -f {}", enter("edge-1"), weirctl.display(), folder.join("virtual-ip.yaml").display());
        println!("  cargo xtask demo --clean");
        edges.into_iter().chain(backends).for_each(Daemon::leave);
        fleet.keep();
    }
}

/// A request or connection that came to nothing.
struct Failure {
    id: u32,
    port: u16,
    began: Instant,
    error: String,
    /// Who had answered on this connection before; empty when nobody had.
    machine: String,
}

fn latest(failures: &[Failure]) -> Option<Instant> {
    failures.iter().map(|failure| failure.began).max()
}

/// ` (12 × Connection refused)`, or nothing.
fn errors(failures: &[Failure]) -> String {
    let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
    failures.iter().for_each(|failure| *kinds.entry(&failure.error).or_default() += 1);
    let kinds: Vec<String> = kinds.iter().map(|(error, count)| format!("{count} × {error}")).collect();
    if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) }
}

/// An answer as the client saw it.
struct Seen {
    id: u32,
    count: u64,
    port: u16,
    began: Instant,
    took: Duration,
    status: u16,
    machine: String,
    worker: String,
    backend: String,
}

impl Seen {
    fn from_event((at, event): (Instant, Event)) -> Option<Self> {
        let Event::Answer { id, count, port, us, status, machine, worker, backend } = event else { return None };
        let took = Duration::from_micros(us);
        Some(Self { id, count, port, began: before(at, us), took, status, machine, worker, backend })
    }
}

fn before(at: Instant, us: u64) -> Instant {
    at.checked_sub(Duration::from_micros(us)).unwrap_or(at)
}

/// `edge-1 (20), edge-2 (22)`
fn owners<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    names.for_each(|name| *counts.entry(name).or_default() += 1);
    counts.iter().map(|(name, count)| format!("{name} ({count})")).collect::<Vec<_>>().join(", ")
}

/// Ctrl-C must not leave namespaces behind.
fn take_down_on_signal(id: &str) {
    let id = id.to_string();
    let _ = ctrlc::set_handler(move || {
        crate::fleet::remove(&id);
        std::process::exit(130);
    });
}

/// The admin API of every edge, inside its namespace.
const API: &str = "127.0.0.1:2381";
const PORT: u16 = 80;
/// Long connections: enough that each edge owns some through each of the three ways in.
const LONG: u32 = 90;
/// New connections a second: an outage of 20 ms is seen.
const FRESH: u32 = 80;
/// How long everything must be well to be called steady.
const STEADY: Duration = Duration::from_millis(700);
/// The kernel closes the sockets of a process that was killed one after the other.
const DYING: Duration = Duration::from_millis(500);
/// A second of silence until a member counts as dead, up to another for a new leader, and the tables on their way.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(3);
const READY_LIMIT: Duration = Duration::from_secs(20);
