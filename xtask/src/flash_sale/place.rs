//! Where the sale is: the shop, the edges, the people.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use base_testing::free_port;
use serde_json::Value;

use super::goals::{Refusal, Run, goodput, percentile};
use super::watch::{Pids, Scraped, Watch, Watched};
use super::{SERVICE_MS, Size, THREADS};
use crate::fleet::{Fleet, Machine};
use crate::process::Daemon;
use crate::progress::step;
use crate::tools;

/// See the module doc.
pub struct Place {
    pub shop: Option<Daemon>,
    pub edges: Vec<Daemon>,
    pub fleet: Option<Fleet>,
    pub folder: PathBuf,
    pub pids: Pids,
    binaries: PathBuf,
    ports: Ports,
    /// Shops that were opened so far.
    shops: usize,
}

/// On loopback; the machines of a fleet have the usual ones.
#[derive(Clone, Copy)]
pub struct Ports {
    pub api: u16,
    pub peers: u16,
    pub traffic: u16,
    pub tls: u16,
    pub shop: u16,
    pub peer: u16,
    pub peer_tls: u16,
}

/// Where people go: plain, and over TLS.
pub struct Doors {
    pub port: u16,
    pub tls_port: u16,
    pub at: String,
    pub tls_at: String,
}

impl Place {
    pub fn new(fleet: Option<Fleet>, binaries: PathBuf, folder: PathBuf) -> Result<Place, String> {
        let [api, peers, traffic, tls, shop, peer, peer_tls] = std::array::from_fn(|_| free_port());
        let ports = Ports { api, peers, traffic, tls, shop, peer, peer_tls };
        let (shop, edges, pids) = (None, Vec::new(), Pids::default());
        let mut place = Place { shop, edges, fleet, folder, pids, binaries, ports, shops: 0 };
        // A secret for as long as the sale takes, on this machine alone.
        let secret = place.folder.join("cluster-secret");
        fs::write(&secret, format!("a secret of the sale in {}, and long enough\n", place.folder.display()))
            .map_err(|error| format!("{}: {error}", secret.display()))?;
        let sale = place.binaries.join("sale");
        tools::run(Command::new(sale).arg("certificate").arg(&place.folder))?;
        let starting = step("the edges");
        for at in 0..place.machines().max(1) {
            let edge = place.start_edge(at)?;
            place.edges.push(edge);
        }
        for edge in &mut place.edges {
            edge.wait_for("ready", Duration::from_secs(30))?;
        }
        place.serve()?;
        starting.done(format!("{} ready", place.edges.len()));
        Ok(place)
    }

    /// 0 on loopback.
    pub fn machines(&self) -> usize {
        self.fleet.as_ref().map_or(0, |fleet| fleet.edges.len())
    }

    pub fn edge(&self, at: usize) -> Option<&Machine> {
        self.fleet.as_ref().map(|fleet| &fleet.edges[at])
    }

    pub fn start_edge(&self, at: usize) -> Result<Daemon, String> {
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
                let peer = format!("http://127.0.0.1:{}", self.ports.peers);
                let mut command = Command::new(&weir);
                command.args(["--api-addr", &self.api()]);
                command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
                command
            }
        };
        command.args(["--name", &name, "--disable-access"]);
        command
            .arg("--home-dir")
            .arg(self.folder.join(&name))
            .arg("--data-dir")
            .arg(self.folder.join(&name).join("data"));
        let edge = Daemon::start(&name, &mut command, &self.folder)?;
        self.pids.lock().unwrap_or_else(PoisonError::into_inner).insert(name, edge.pid());
        Ok(edge)
    }

    fn api(&self) -> String {
        if self.fleet.is_some() { "localhost:2381".to_owned() } else { format!("127.0.0.1:{}", self.ports.api) }
    }

    pub fn shop_address(&self) -> String {
        match &self.fleet {
            Some(fleet) => format!("{}:9095", fleet.backends[0].address),
            None => format!("127.0.0.1:{}", self.ports.shop),
        }
    }

    /// Of all edges.
    pub fn doors(&self) -> Doors {
        let edges = self.fleet.iter().flat_map(|fleet| &fleet.edges).map(|edge| edge.address.to_string());
        let (port, tls_port) = if self.fleet.is_some() { (8080, 8443) } else { (self.ports.traffic, self.ports.tls) };
        self.doors_of(edges.collect(), port, tls_port)
    }

    /// Of somebody else on the first machine.
    pub fn doors_of_a_peer(&self) -> Doors {
        let first = self.edge(0).map(|edge| edge.address.to_string());
        let (port, tls_port) = if first.is_some() { (8090, 8453) } else { (self.ports.peer, self.ports.peer_tls) };
        self.doors_of(first.into_iter().collect(), port, tls_port)
    }

    fn doors_of(&self, mut machines: Vec<String>, port: u16, tls_port: u16) -> Doors {
        if machines.is_empty() {
            machines.push("127.0.0.1".to_owned());
        }
        let all = |port: u16| machines.iter().map(|at| format!("{at}:{port}")).collect::<Vec<_>>().join(",");
        Doors { port, tls_port, at: all(port), tls_at: all(tls_port) }
    }

    /// A shop with all its stock.
    pub fn open_shop(&mut self, stock: u64) -> Result<(), String> {
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
        self.pids.lock().unwrap_or_else(PoisonError::into_inner).insert("the shop".to_owned(), shop.pid());
        self.shop = Some(shop);
        Ok(())
    }

    /// A program on the people's machine.
    fn sale_program(&self) -> Command {
        let sale = self.binaries.join("sale");
        match &self.fleet {
            Some(fleet) => fleet.client.command(&sale),
            None => Command::new(&sale),
        }
    }

    fn visitors(&self, at: &str, more: &[(&str, String)]) -> Result<Child, String> {
        let mut command = self.sale_program();
        command.args(["buyers", "--at", at, "--shop", &self.shop_address()]);
        for (name, value) in more {
            command.args([format!("--{name}"), value.clone()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command.spawn().map_err(|error| format!("{}: {error}", tools::show(&command)))
    }

    /// All who come to a sale.
    pub fn buyers(&self, doors: &Doors, size: Size) -> Result<Child, String> {
        let numbers = [("rate", size.rate), ("seconds", size.seconds), ("watch", size.watch), ("bots", size.bots)];
        let mut more = numbers.map(|(name, number)| (name, number.to_string())).to_vec();
        more.push(("tls-at", doors.tls_at.clone()));
        self.visitors(&doors.at, &more)
    }

    fn weirctl(&self, at: usize, arguments: &[&str]) -> Result<String, String> {
        let weirctl = self.binaries.join("weirctl");
        let mut command = match self.edge(at) {
            Some(edge) => edge.namespace.command(&weirctl),
            None => Command::new(&weirctl),
        };
        tools::run(command.args(["--server", &self.api()]).args(arguments))
    }

    pub fn apply(&self, at: usize, name: &str, document: &str) -> Result<(), String> {
        let path = self.folder.join(name);
        fs::write(&path, document).map_err(|error| format!("{}: {error}", path.display()))?;
        let path = path.display().to_string();
        self.weirctl(at, &["apply", "-f", &path]).map(drop)
    }

    /// The doors, and a pipeline behind them without anything before the shop.
    fn serve(&self) -> Result<(), String> {
        let doors = self.doors();
        let rules = "rules:\n- paths:\n  - pathPrefix: /\n    backend: shop\n";
        let pem = |name: &str| {
            let path = self.folder.join(name);
            let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let indented: Vec<String> = text.lines().map(|line| format!("    {line}\n")).collect();
            Ok::<_, String>(format!("  sale: |\n{}", indented.concat()))
        };
        self.apply(0, "pipeline.yaml", &self.pipeline(""))?;
        self.apply(0, "server.yaml", &format!("kind: HTTPServer\nname: sale\nport: {}\n{rules}", doors.port))?;
        let tls = format!(
            "kind: HTTPServer\nname: sale-tls\nport: {}\nhttps: true\ncerts:\n{}keys:\n{}{rules}",
            doors.tls_port,
            pem("certificate.pem")?,
            pem("key.pem")?
        );
        self.apply(0, "server-tls.yaml", &tls)
    }

    /// The shop behind these filters.
    pub fn pipeline(&self, filters: &str) -> String {
        let shop = self.shop_address();
        format!(
            "kind: Pipeline\nname: shop\nfilters:\n{filters}- name: proxy\n  kind: Proxy\n  pools:\n  - servers:\n    - url: http://{shop}\n"
        )
    }

    pub fn unloaded(&mut self) -> Result<Run, String> {
        let measuring = step("the shop alone, as many at a time as it has threads");
        self.open_shop(0)?;
        let shop = self.shop_address();
        let run = self.browse(&shop, 5)?;
        let p99 = percentile(&run.seen["accepted_ms"], 0.99);
        measuring.done(format!("{:.0} requests a second, p99 {p99:.0} ms", goodput(&run)));
        Ok(run)
    }

    /// Connections to the shop, and code that has run: through each of the doors.
    pub fn warm_up(&mut self) -> Result<(), String> {
        let warming = step("warming the edges");
        let at = self.doors().at;
        for door in at.split(',') {
            self.browse(door, 2)?;
        }
        warming.done("warm");
        Ok(())
    }

    /// As many who look around as the shop has threads.
    fn browse(&self, at: &str, seconds: u64) -> Result<Run, String> {
        let numbers = [("rate", 1), ("seconds", 1), ("watch", seconds), ("unloaded", THREADS)];
        let more = numbers.map(|(name, number)| (name, number.to_string()));
        finished("unloaded", self.visitors(at, &more)?, Vec::new(), Watched::default())
    }

    /// What a request costs the first edge that its room refuses. The room has to be sold out.
    pub fn refusal(&self) -> Result<Refusal, String> {
        let measuring = step("what a refusal costs");
        let at = self.doors().at;
        let first = at.split(',').next().unwrap_or_default();
        let pid = self.edges[0].pid().to_string();
        let mut command = self.sale_program();
        command.args(["refused", "--target", first, "--refused", "410", "--path", "/item/", "--connections", "32"]);
        command.args(["--seconds", "4", "--pid", &pid]);
        let text = tools::run(&mut command)?;
        let outcome: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        let of = |name: &str| outcome[name].as_f64().unwrap_or(0.0);
        let requests = of("requests").max(1.0);
        if of("errors") + of("mismatches") > 0.0 {
            return Err(format!("{} answers were something else", of("errors")));
        }
        let (user_us, all_us) = (of("gateway_user_us") / requests, of("gateway_cpu_us") / requests);
        let refusal = Refusal { user_us, all_us, per_second: requests / of("seconds").max(0.001) };
        measuring.done(format!("{user_us:.1} µs, and the kernel {:.1} µs", all_us - user_us));
        Ok(refusal)
    }

    /// Looks at the machines until it is ended.
    pub fn watch(&self, sale: &str) -> Watch {
        let scraped = (0..self.edges.len()).map(|at| Scraped {
            edge: format!("edge-{}", at + 1),
            namespace: self.edge(at).map(|edge| edge.namespace.name.clone()),
            api: self.api(),
        });
        Watch::begin(self.pids.clone(), scraped.collect(), sale)
    }

    /// Of three edges, the one that leads.
    pub fn leader(&self) -> Result<usize, String> {
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
}

/// Waits until the people have gone, and reads what they saw.
pub fn finished(name: &'static str, child: Child, marks: Vec<(f64, String)>, watched: Watched) -> Result<Run, String> {
    let output = child.wait_with_output().map_err(|error| format!("buyers: {error}"))?;
    let seen = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("what the buyers saw is unreadable: {error}"))?;
    Ok(Run { name, promises: false, seen, marks, watched })
}
