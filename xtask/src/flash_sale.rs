//! `flash-sale`: ten times as many people as a shop can serve, all at once; with protection and without.
//!
//! As root three edges stand in network namespaces, as in the demo; without root one edge on loopback. The shop serves a fixed number of
//! requests a second and degrades when it is overdriven. It is sold out three times: behind a `WaitingRoom`, behind a plain `Proxy`,
//! and behind nginx (`limit_req`) and HAProxy (`maxconn`) where they are installed. While the first sale runs a change is applied, an
//! edge is killed and comes back, and the leader is killed. What was seen becomes a report, HTML and JSON.

mod report;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cargo::{self, Profile};
use crate::fleet::{Fleet, Machine};
use crate::process::Daemon;
use crate::progress::{self, Colour, note, paint, step, title, warn};
use crate::tools::{self, ETHTOOL, IP, NSENTER};

#[derive(clap::Args)]
pub struct Options {
    /// A small sale of a few seconds, as the tests have it
    #[arg(long)]
    quick: bool,
    /// One edge on loopback, even as root
    #[arg(long)]
    loopback: bool,
    /// Sell through the weir, weirctl and sale of this folder instead of building them
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Folder of the report
    #[arg(long, default_value = "target/flash-sale")]
    out: PathBuf,
}

/// One way to sell.
pub struct Run {
    pub name: &'static str,
    pub seen: Value,
    /// Seconds since the start of the sale, and what was done then.
    pub marks: Vec<(f64, String)>,
    /// Seconds of CPU that the edges took.
    pub cpu_s: f64,
}

/// Whether a goal was held.
pub struct Goal {
    pub name: &'static str,
    pub wanted: String,
    pub got: String,
    pub held: bool,
    /// It has to be held on a busy machine too.
    pub always: bool,
}

/// What is sold, and to how many.
#[derive(Clone, Copy)]
struct Size {
    stock: u64,
    /// People a second, ten times what the shop can serve.
    rate: u64,
    seconds: u64,
    watch: u64,
    bots: u64,
}

/// Requests the shop works on at a time, and the time for each: 60 a second.
const THREADS: u64 = 3;
const SERVICE_MS: u64 = 50;
/// People in the shop at a time, by the waiting room: twice as many as it works on, so that none of its threads waits for one.
const ACTIVE: u64 = THREADS * 2;
/// A person looks at the shop and buys: two requests.
const PEOPLE_A_SECOND: u64 = 1000 / SERVICE_MS * THREADS / 2;

/// A small sale with binaries that are there: what must hold on any machine, however busy.
pub fn quick(binaries: &Path) -> Result<(), String> {
    let out = cargo::target()?.join("flash-sale-quick");
    run(&Options { quick: true, loopback: false, binaries: Some(binaries.to_owned()), out })
}

pub fn run(options: &Options) -> Result<(), String> {
    let id = format!("s{}", std::process::id());
    // In memory where there is such a place: a disk that others keep busy would be measured, and not the sale.
    let shared = Path::new("/dev/shm");
    let base = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    let folder = base.join(format!("weir-sale-{id}"));
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let sold = sell(options, &id, &folder);
    match sold {
        Ok(broken) => {
            let _ = fs::remove_dir_all(&folder);
            if broken == 0 { Ok(()) } else { Err(format!("{broken} goals were not held")) }
        }
        Err(problem) => Err(format!("{problem}\n  Logs and documents are in {}", folder.display())),
    }
}

fn sell(options: &Options, id: &str, folder: &Path) -> Result<usize, String> {
    title("A flash sale at ten times the shop's capacity");
    let binaries = match &options.binaries {
        Some(folder) => std::path::absolute(folder).map_err(|error| format!("{}: {error}", folder.display()))?,
        None => cargo::build(&["server", "cli", "bench"], Profile::Release)?,
    };
    let rate = PEOPLE_A_SECOND * 10;
    let size = if options.quick {
        Size { stock: 80, rate, seconds: 2, watch: 12, bots: 60 }
    } else {
        Size { stock: 360, rate, seconds: 8, watch: 30, bots: 300 }
    };
    let fleet = if tools::is_root() && !options.loopback {
        tools::require(&[IP, ETHTOOL, NSENTER])?;
        Some(Fleet::new(id, 3, 1)?)
    } else {
        warn("without root there is one edge on loopback: nothing is killed during the sale");
        None
    };
    let mut place = Place::new(fleet, binaries, folder.to_owned())?;
    let best = place.unloaded()?;
    let mut runs = vec![place.protected(size, !options.quick)?];
    runs.push(place.bare(size)?);
    for peer in ["nginx", "haproxy"] {
        match tools::find(peer) {
            Some(program) if !options.quick => match place.peer(peer, &program, size) {
                Ok(run) => runs.push(run),
                Err(problem) => warn(format!("{peer} is left out: {problem}")),
            },
            Some(_) => {}
            None => note(format!("{peer} is not installed, and left out")),
        }
    }
    let goals = goals(&best, &runs[0], size);
    let rows: Vec<Vec<String>> = goals
        .iter()
        .map(|goal| {
            let sign = if goal.held { paint(Colour::Green, "held") } else { paint(Colour::Red, "not held") };
            vec![goal.name.to_owned(), goal.wanted.clone(), goal.got.clone(), sign]
        })
        .collect();
    title("Goals, of the sale with protection");
    progress::table(&["goal", "wanted", "got", ""], &rows);
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            let of = |name: &str| run.seen[name].as_u64().unwrap_or(0).to_string();
            let oversold = run.seen["sold"].as_u64().unwrap_or(0).saturating_sub(size.stock);
            let p99 = percentile(&run.seen["accepted_ms"], 0.99);
            vec![
                run.name.to_owned(),
                format!("{:.0}", goodput(run)),
                format!("{p99:.0} ms"),
                of("bought_people"),
                oversold.to_string(),
            ]
        })
        .collect();
    title("The same sale, four ways");
    progress::table(&["", "served a second", "p99 of accepted", "bought by people", "oversold"], &rows);
    let html = report::html(&goals, &runs, &best);
    let figures = json!({
        "machine": {"cpus": thread::available_parallelism().map_or(0, |cpus| cpus.get())},
        "stock": size.stock,
        "best_served_per_second": goodput(&best),
        "unloaded_p99_ms": percentile(&best.seen["accepted_ms"], 0.99),
        "goals": goals.iter().map(|goal| json!({"goal": goal.name, "wanted": goal.wanted, "got": goal.got, "held": goal.held})).collect::<Vec<_>>(),
        "runs": runs.iter().map(|run| json!({"name": run.name, "cpu_seconds": run.cpu_s, "marks": run.marks, "seen": run.seen})).collect::<Vec<_>>(),
    });
    fs::create_dir_all(&options.out).map_err(|error| format!("{}: {error}", options.out.display()))?;
    for (name, text) in [("report.html", html), ("figures.json", figures.to_string())] {
        let path = options.out.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        note(format!("{}", path.display()));
    }
    // How fast it is depends on who else runs here; what is sold does not.
    let counts = |goal: &&Goal| !options.quick || goal.always;
    Ok(goals.iter().filter(counts).filter(|goal| !goal.held).count())
}

/// Served requests a second, over the seconds in which most was asked of the shop.
fn goodput(run: &Run) -> f64 {
    let served: Vec<f64> =
        run.seen["seconds"].as_array().into_iter().flatten().filter_map(|s| s["served"].as_f64()).collect();
    // The sale: from its second second until less than a fifth of the best is served.
    let best = served.iter().copied().fold(0.0, f64::max);
    let busy: Vec<f64> = served.iter().copied().skip(2).take_while(|served| *served > best / 5.0).collect();
    let busy = if busy.len() > 2 { &busy[..busy.len() - 1] } else { &busy[..] };
    busy.iter().sum::<f64>() / busy.len().max(1) as f64
}

fn percentile(sorted: &Value, share: f64) -> f64 {
    let all = sorted.as_array().map_or(&[][..], Vec::as_slice);
    let at = ((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1));
    all.get(at).and_then(Value::as_f64).unwrap_or(0.0)
}

fn goals(best: &Run, run: &Run, size: Size) -> Vec<Goal> {
    let number = |name: &str| run.seen[name].as_u64().unwrap_or(0);
    let goal = |name: &'static str, wanted: &str, got: String, held| {
        let always = ["oversold", "admitted and refused later"].contains(&name);
        Goal { name, wanted: wanted.to_owned(), got, held, always }
    };
    let share = 100.0 * goodput(run) / goodput(best).max(1.0);
    let (p99, unloaded) = (percentile(&run.seen["accepted_ms"], 0.99), percentile(&best.seen["accepted_ms"], 0.99));
    let oversold = number("sold").saturating_sub(size.stock);
    let seconds = run.seen["seconds"].as_array().cloned().unwrap_or_default();
    let refused: u64 = seconds
        .iter()
        .flat_map(|second| second["refused"].as_object().cloned().unwrap_or_default())
        .filter_map(|(_, n)| n.as_u64())
        .sum();
    let cpu_us = run.cpu_s * 1e6 / refused.max(1) as f64;
    let last = seconds.iter().rposition(|second| second["inside"].as_u64().unwrap_or(0) > THREADS * 2);
    let arrived = seconds.iter().rposition(|second| second["arrived"].as_u64().unwrap_or(0) > 0).unwrap_or(0);
    let after = last.map_or(0, |last| last.saturating_sub(arrived));
    let people = 100 * number("bought_people") / size.stock.max(1);
    vec![
        goal("goodput at 10×", "≥ 95 % of the shop's best", format!("{share:.0} %"), share >= 95.0),
        goal(
            "p99 of accepted requests",
            "≤ 2× unloaded",
            format!("{p99:.0} ms, unloaded {unloaded:.0} ms"),
            p99 <= 2.0 * unloaded,
        ),
        goal("oversold", "0", oversold.to_string(), oversold == 0),
        goal("admitted and refused later", "0", number("refused_later").to_string(), number("refused_later") == 0),
        goal(
            "edges' CPU per refused request, all their work counted",
            "≤ 2 µs",
            format!("{cpu_us:.0} µs"),
            cpu_us <= 2.0,
        ),
        goal("from the end of the rush to a short queue", "≤ 2 s", format!("{after} s"), after <= 2),
        goal("stock bought by people beside bots", "≥ 90 %", format!("{people} %"), people >= 90),
    ]
}

/// Where the sale is: the shop, the edges, the people.
struct Place {
    shop: Option<Daemon>,
    edges: Vec<Daemon>,
    fleet: Option<Fleet>,
    binaries: PathBuf,
    folder: PathBuf,
    /// Ports on loopback: API, peers, traffic, shop, a peer.
    ports: [u16; 5],
    /// Shops that were opened so far.
    shops: usize,
}

impl Place {
    fn new(fleet: Option<Fleet>, binaries: PathBuf, folder: PathBuf) -> Result<Place, String> {
        let mut place =
            Place { shop: None, edges: Vec::new(), fleet, binaries, folder, ports: free_ports()?, shops: 0 };
        // A secret for as long as the sale takes, on this machine alone.
        let secret = place.folder.join("cluster-secret");
        fs::write(&secret, format!("a secret of the sale in {}, and long enough\n", place.folder.display()))
            .map_err(|error| format!("{}: {error}", secret.display()))?;
        let starting = step("the edges");
        for at in 0..place.machines().max(1) {
            let edge = place.start_edge(at)?;
            place.edges.push(edge);
        }
        for edge in &mut place.edges {
            edge.wait_for("ready", Duration::from_secs(30))?;
        }
        starting.done(format!("{} ready", place.edges.len()));
        Ok(place)
    }

    fn machines(&self) -> usize {
        self.fleet.as_ref().map_or(0, |fleet| fleet.edges.len())
    }

    fn edge(&self, at: usize) -> Option<&Machine> {
        self.fleet.as_ref().map(|fleet| &fleet.edges[at])
    }

    fn start_edge(&self, at: usize) -> Result<Daemon, String> {
        let (weir, name) = (self.binaries.join("weir"), format!("edge-{}", at + 1));
        let mut command = match self.edge(at) {
            Some(edge) => {
                let peer = |edge: &Machine| format!("http://{}:2380", edge.address);
                let all = self.fleet.iter().flat_map(|fleet| &fleet.edges);
                let cluster: Vec<String> = all.map(|edge| format!("{}={}", edge.name, peer(edge))).collect();
                let mut command = edge.namespace.command(&weir);
                command.args(["--initial-cluster", &cluster.join(","), "--api-addr", "localhost:2381"]);
                command.arg("--cluster-secret-file").arg(self.folder.join("cluster-secret"));
                command.args(["--listen-peer-urls", &peer(edge), "--initial-advertise-peer-urls", &peer(edge)]);
                command
            }
            None => {
                let peer = format!("http://127.0.0.1:{}", self.ports[1]);
                let mut command = Command::new(&weir);
                command.args([
                    "--api-addr",
                    &self.api(),
                    "--listen-peer-urls",
                    &peer,
                    "--initial-advertise-peer-urls",
                    &peer,
                ]);
                command
            }
        };
        command.args(["--name", &name, "--disable-access"]);
        command
            .arg("--home-dir")
            .arg(self.folder.join(&name))
            .arg("--data-dir")
            .arg(self.folder.join(&name).join("data"));
        Daemon::start(&name, &mut command, &self.folder)
    }

    fn api(&self) -> String {
        if self.fleet.is_some() { "localhost:2381".to_owned() } else { format!("127.0.0.1:{}", self.ports[0]) }
    }

    fn shop_address(&self) -> String {
        match &self.fleet {
            Some(fleet) => format!("{}:9095", fleet.backends[0].address),
            None => format!("127.0.0.1:{}", self.ports[3]),
        }
    }

    fn traffic(&self) -> (u16, String) {
        match &self.fleet {
            Some(fleet) => {
                (8080, fleet.edges.iter().map(|edge| format!("{}:8080", edge.address)).collect::<Vec<_>>().join(","))
            }
            None => (self.ports[2], format!("127.0.0.1:{}", self.ports[2])),
        }
    }

    /// A shop with all its stock.
    fn open_shop(&mut self, stock: u64) -> Result<(), String> {
        self.shop = None;
        let sale = self.binaries.join("sale");
        let mut command = match &self.fleet {
            Some(fleet) => fleet.backends[0].namespace.command(&sale),
            None => Command::new(&sale),
        };
        command.args(["shop", "--listen", &self.shop_address(), "--stock", &stock.to_string()]);
        command.args(["--threads", &THREADS.to_string(), "--service-ms", &SERVICE_MS.to_string()]);
        self.shops += 1;
        let name = format!("shop-{}", self.shops);
        let mut shop = Daemon::start(&name, &mut command, &self.folder)?;
        shop.wait_for("ready", Duration::from_secs(10))?;
        self.shop = Some(shop);
        Ok(())
    }

    fn buyers(&self, at: &str, more: &[(&str, u64)]) -> Result<std::process::Child, String> {
        let sale = self.binaries.join("sale");
        let mut command = match &self.fleet {
            Some(fleet) => fleet.client.command(&sale),
            None => Command::new(&sale),
        };
        command.args(["buyers", "--at", at, "--shop", &self.shop_address()]);
        for (name, value) in more {
            command.args([format!("--{name}"), value.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command.spawn().map_err(|error| format!("{}: {error}", tools::show(&command)))
    }

    fn weirctl(&self, at: usize, arguments: &[&str]) -> Result<String, String> {
        let weirctl = self.binaries.join("weirctl");
        let mut command = match self.edge(at) {
            Some(edge) => edge.namespace.command(&weirctl),
            None => Command::new(&weirctl),
        };
        tools::run(command.args(["--server", &self.api()]).args(arguments))
    }

    fn apply(&self, at: usize, name: &str, document: &str) -> Result<(), String> {
        let path = self.folder.join(name);
        fs::write(&path, document).map_err(|error| format!("{}: {error}", path.display()))?;
        let path = path.display().to_string();
        self.weirctl(at, &["apply", "-f", &path]).map(drop)
    }

    fn unloaded(&mut self) -> Result<Run, String> {
        let measuring = step("the shop alone, as many at a time as it has threads");
        self.open_shop(0)?;
        let shop = self.shop_address();
        let child = self.buyers(&shop, &[("rate", 1), ("seconds", 1), ("watch", 5), ("unloaded", THREADS)])?;
        let run = finished("unloaded", child, Vec::new(), 0.0)?;
        measuring.done(format!(
            "{:.0} requests a second, p99 {:.0} ms",
            goodput(&run),
            percentile(&run.seen["accepted_ms"], 0.99)
        ));
        Ok(run)
    }

    fn configure(&self, room: &str, port: u16) -> Result<(), String> {
        let server = format!(
            "kind: HTTPServer\nname: sale\nport: {port}\nrules:\n- paths:\n  - pathPrefix: /\n    backend: shop\n"
        );
        self.apply(0, "pipeline.yaml", &self.pipeline(room))?;
        self.apply(0, "server.yaml", &server)
    }

    fn pipeline(&self, room: &str) -> String {
        let shop = self.shop_address();
        format!(
            "kind: Pipeline\nname: shop\nfilters:\n{room}- name: proxy\n  kind: Proxy\n  pools:\n  - servers:\n    - url: http://{shop}\n"
        )
    }

    fn protected(&mut self, size: Size, faults: bool) -> Result<Run, String> {
        let selling = step("the sale behind a WaitingRoom");
        self.open_shop(size.stock)?;
        let (port, at) = self.traffic();
        let room = format!(
            "- name: room\n  kind: WaitingRoom\n  sale: protected\n  capacity: {{stock: {}, newUsers: {}, activeUsers: {ACTIVE}}}\n  pollInterval: 1s\n  sessionTime: 20s\n  \
             passWhenIdle: false\n  onePlacePer: header\n  keyHeader: X-User\n  soldOutStatuses: [409]\n",
            size.stock,
            PEOPLE_A_SECOND * 95 / 100
        );
        self.configure(&room, port)?;
        thread::sleep(Duration::from_secs(1));
        let before = self.cpu_s();
        let began = Instant::now();
        let child = self.buyers(&at, &asked(size))?;
        let mut marks = Vec::new();
        let mut mark = |text: String| {
            note(&text);
            marks.push((began.elapsed().as_secs_f64(), text));
        };
        let mut lost = 0.0;
        thread::sleep(Duration::from_secs(3));
        let changed = self.pipeline(&room).replace("pollInterval: 1s", "pollInterval: 1100ms");
        self.apply(0, "pipeline.yaml", &changed)?;
        mark("a change is applied".to_owned());
        if faults && self.machines() == 3 {
            let leader = self.leader()?;
            let other = (leader + 1) % 3;
            thread::sleep(Duration::from_secs(1));
            lost += cpu_of(self.edges[other].pid());
            self.edges[other].kill();
            mark(format!("{} is killed", self.edges[other].name));
            thread::sleep(Duration::from_millis(1500));
            self.edges[other] = self.start_edge(other)?;
            thread::sleep(Duration::from_secs(3));
            mark(format!("{} is back", self.edges[other].name));
            let leader = self.leader()?;
            lost += cpu_of(self.edges[leader].pid());
            self.edges[leader].kill();
            mark(format!("the leader, {}, is killed", self.edges[leader].name));
            let run = finished("with a WaitingRoom", child, marks, 0.0)?;
            let cpu_s = (self.cpu_s() + lost - before).max(0.0);
            self.edges[leader] = self.start_edge(leader)?;
            thread::sleep(Duration::from_secs(3));
            selling.done("sold");
            return Ok(Run { cpu_s, ..run });
        }
        let run = finished("with a WaitingRoom", child, marks, 0.0)?;
        selling.done("sold");
        Ok(Run { cpu_s: self.cpu_s() - before + lost, ..run })
    }

    fn bare(&mut self, size: Size) -> Result<Run, String> {
        let selling = step("the same sale behind a plain Proxy");
        self.open_shop(size.stock)?;
        let (port, at) = self.traffic();
        self.configure("", port)?;
        thread::sleep(Duration::from_secs(1));
        let before = self.cpu_s();
        let run = finished("without protection", self.buyers(&at, &asked(size))?, Vec::new(), 0.0)?;
        selling.done("sold");
        Ok(Run { cpu_s: self.cpu_s() - before, ..run })
    }

    fn peer(&mut self, name: &'static str, program: &Path, size: Size) -> Result<Run, String> {
        let selling = step(format!("the same sale behind {name}"));
        self.open_shop(size.stock)?;
        let (shop, folder) = (self.shop_address(), self.folder.display().to_string());
        let (port, at) = match self.edge(0) {
            Some(edge) => (8090, format!("{}:8090", edge.address)),
            None => (self.ports[4], format!("127.0.0.1:{}", self.ports[4])),
        };
        let capacity = 1000 / SERVICE_MS * THREADS;
        let (text, arguments, shown) = if name == "nginx" {
            let text = format!(
                "worker_processes auto;\ndaemon off;\npid {folder}/nginx.pid;\nerror_log stderr;\nevents {{ worker_connections 8192; }}\n\
                 http {{\n access_log off;\n client_body_temp_path {folder}/nb;\n proxy_temp_path {folder}/np;\n fastcgi_temp_path {folder}/nf;\n \
                 uwsgi_temp_path {folder}/nu;\n scgi_temp_path {folder}/ns;\n \
                 limit_req_zone $server_name zone=all:1m rate={capacity}r/s;\n upstream shop {{ server {shop}; keepalive 64; }}\n server {{\n  listen {port};\n  \
                 server_name shop;\n  location / {{\n   limit_req zone=all burst={capacity};\n   proxy_http_version 1.1;\n   proxy_set_header Connection \"\";\n   \
                 proxy_pass http://shop;\n  }}\n }}\n}}\n"
            );
            (text, "-c", "nginx, limit_req")
        } else {
            // It opens two descriptors for each connection, some beside, and does not start where it may not.
            let connections = ((open_files() / 2).saturating_sub(200)).clamp(100, 20_000);
            let text = format!(
                "global\n maxconn {connections}\ndefaults\n mode http\n timeout connect 2s\n timeout client 30s\n timeout server 30s\n timeout queue 1s\n\
                 listen shop\n bind :{port}\n server shop {shop} maxconn {THREADS}\n"
            );
            (text, "-f", "HAProxy, maxconn")
        };
        let file = self.folder.join(format!("{name}.conf"));
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut command = match self.edge(0) {
            Some(edge) => edge.namespace.command(program),
            None => Command::new(program),
        };
        command.arg(arguments).arg(&file);
        let mut daemon = Daemon::start(name, &mut command, &self.folder)?;
        thread::sleep(Duration::from_secs(1));
        if daemon.ended().is_some() {
            return Err(format!("it ended at once:\n{}", daemon.log_end()));
        }
        let run = finished(shown, self.buyers(&at, &asked(size))?, Vec::new(), 0.0)?;
        let _ = daemon.stop(Duration::from_secs(2));
        selling.done("sold");
        Ok(run)
    }

    /// Of three edges, the one that leads.
    fn leader(&self) -> Result<usize, String> {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            for at in 0..self.machines() {
                let Some(edge) = self.edge(at) else { continue };
                let ask = tools::run(edge.namespace.command("curl").args(["-s", "http://localhost:2381/metrics"]));
                if ask.is_ok_and(|text| {
                    text.lines().any(|line| line.starts_with("weir_raft_is_leader") && line.ends_with(" 1"))
                }) {
                    return Ok(at);
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
        Err("no edge leads, or curl is not installed".to_owned())
    }

    fn cpu_s(&self) -> f64 {
        self.edges.iter().map(|edge| cpu_of(edge.pid())).sum()
    }
}

fn asked(size: Size) -> [(&'static str, u64); 4] {
    [("rate", size.rate), ("seconds", size.seconds), ("watch", size.watch), ("bots", size.bots)]
}

fn finished(
    name: &'static str,
    child: std::process::Child,
    marks: Vec<(f64, String)>,
    cpu_s: f64,
) -> Result<Run, String> {
    let output = child.wait_with_output().map_err(|error| format!("buyers: {error}"))?;
    let seen = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("what the buyers saw is unreadable: {error}"))?;
    Ok(Run { name, seen, marks, cpu_s })
}

/// Seconds of CPU a process has taken: fields 14 and 15 of its line in /proc, in hundredths (proc_pid_stat(5)).
fn cpu_of(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Files that a program we start may open at most (proc_pid_limits(5)).
fn open_files() -> u64 {
    let text = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let hard =
        text.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().nth(1)?.parse().ok());
    hard.unwrap_or(1024)
}

fn free_ports() -> Result<[u16; 5], String> {
    let failed = |error: std::io::Error| format!("no free port on 127.0.0.1: {error}");
    let mut listeners = Vec::new();
    for _ in 0..5 {
        listeners.push(TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?);
    }
    let mut ports = [0; 5];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr().map_err(failed)?.port();
    }
    Ok(ports)
}
