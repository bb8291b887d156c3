//! A steady stream of changes through the admin API, none of which may be felt by requests it does not concern.

use super::backend::Backend;
use super::script::Random;
use crate::world::{Connection, Machine, PATIENCE, free_port, mock, within};

/// The pools there are, and what lies behind each.
pub struct Pools<'a> {
    pub steady: &'a [Backend],
    pub restless: &'a [Backend],
    pub mortal: &'a [Backend],
}

/// Certificates of the TLS server, in turns: certificate and key as PEM.
pub type Certificate = (String, String);

pub struct Changer<'a> {
    machine: &'a Machine,
    pools: Pools<'a>,
    port: u16,
    tls: Option<(u16, Vec<Certificate>)>,
    random: Random,
    /// Name and port of a server that comes and goes.
    visitor: Option<u16>,
    flicker: bool,
    /// Changes made.
    pub made: u64,
}

impl<'a> Changer<'a> {
    pub fn new(
        machine: &'a Machine,
        pools: Pools<'a>,
        port: u16,
        tls: Option<(u16, Vec<Certificate>)>,
        seed: u64,
    ) -> Changer<'a> {
        let random = Random::of(seed, "changes", 0);
        Changer { machine, pools, port, tls, random, visitor: None, flicker: true, made: 0 }
    }

    /// The configuration everything begins with.
    pub fn begin(&mut self) {
        for pool in POOLS {
            let document = self.pipeline(pool);
            self.machine.create(&document);
        }
        let document = self.server("soak", self.port, "");
        self.machine.create(&document);
        if let Some(document) = self.tls_server() {
            self.machine.create(&document);
        }
    }

    /// Makes one change.
    pub fn turn(&mut self) -> Result<(), String> {
        self.made += 1;
        match self.random.below(10) {
            0..4 => {
                let pool = self.random.pick(POOLS);
                if pool == "flicker" && !self.flicker {
                    return Ok(());
                }
                let document = self.pipeline(pool);
                self.put(pool, &document)
            }
            4..6 => {
                let document = self.server("soak", self.port, "");
                self.put("soak", &document)
            }
            6 => match self.tls_server() {
                None => Ok(()),
                Some(document) => self.put("soak-tls", &document),
            },
            7 => self.flicker(),
            _ => self.visit(),
        }
    }

    /// A pipeline that comes and goes.
    fn flicker(&mut self) -> Result<(), String> {
        self.flicker = !self.flicker;
        if self.flicker {
            let document = self.pipeline("flicker");
            return self.ask("POST", "/objects", &document, 201);
        }
        self.ask("DELETE", "/objects/flicker", "", 200)
    }

    /// A server that comes and goes; what is under way when it goes is answered.
    fn visit(&mut self) -> Result<(), String> {
        match self.visitor.take() {
            None => {
                let port = free_port();
                let slow = mock("visited", "here").replace("    body", "    delay: 50ms\n    body");
                self.ask("POST", "/objects", &slow, 201)?;
                self.ask("POST", "/objects", &crate::world::server("visitor", port, "visited"), 201)?;
                self.visitor = Some(port);
                Ok(())
            }
            Some(port) => {
                let address = format!("127.0.0.1:{port}");
                let open = || Connection::open(&address).ok();
                let mut connection = within(PATIENCE, open).ok_or("a new server does not listen")?;
                let say = |error: std::io::Error| format!("a request under way when its server was removed: {error}");
                let first = connection.request("GET", "/", &[], "").map_err(say)?;
                connection.send("GET", "/", &[], "").map_err(say)?;
                self.ask("DELETE", "/objects/visitor", "", 200)?;
                let last = connection.receive().map_err(say)?;
                self.ask("DELETE", "/objects/visited", "", 200)?;
                for answer in [first, last] {
                    if answer.status != 200 || !answer.body.starts_with("here") {
                        return Err(format!("a server that comes and goes answered {answer:?}"));
                    }
                }
                Ok(())
            }
        }
    }

    fn put(&self, name: &str, document: &str) -> Result<(), String> {
        self.ask("PUT", &format!("/objects/{name}"), document, 200)
    }

    fn ask(&self, method: &str, path: &str, document: &str, status: u16) -> Result<(), String> {
        match self.machine.try_api(method, &format!("/apis/v2{path}"), document) {
            Ok(answer) if answer.status == status => Ok(()),
            other => Err(format!("{method} {path}: {other:?}\n{document}")),
        }
    }

    fn pipeline(&mut self, pool: &str) -> String {
        let behind = match pool {
            "restless" => self.pools.restless,
            "mortal" => self.pools.mortal,
            _ => self.pools.steady,
        };
        let mut urls: Vec<String> = behind.iter().map(Backend::url).collect();
        let by = self.random.below(urls.len() as u64) as usize;
        urls.rotate_left(by);
        let servers: String =
            urls.iter().map(|url| format!("    - {{url: '{url}', weight: {}}}\n", 1 + self.random.below(5))).collect();
        let policy = self.random.pick(&["roundRobin", "random", "weightedRandom", "ipHash"]);
        // What a pool streams, and what it collects first.
        let body = if pool == "streamed" { "    serverMaxBodySize: -1\n" } else { "" };
        let retry = if pool == "mortal" { "    retryPolicy: retry\n" } else { "" };
        let resilience = if pool == "mortal" {
            "resilience:\n- {kind: Retry, name: retry, maxAttempts: 3, waitDuration: 5ms}\n"
        } else {
            ""
        };
        let turn = self.random.below(1_000_000);
        format!(
            "kind: Pipeline\nname: {pool}\n{resilience}filters:\n\
             - kind: RequestAdaptor\n  name: adaptor\n  header: {{set: {{X-Turn: t{turn}}}}}\n\
             - kind: Proxy\n  name: proxy\n  maxIdleConnsPerHost: {}\n  pools:\n\
             \x20 - timeout: 5s\n{body}{retry}    loadBalance: {{policy: {policy}}}\n    servers:\n{servers}",
            1 + self.random.below(30),
        )
    }

    fn server(&mut self, name: &str, port: u16, more: &str) -> String {
        let mut rules = String::new();
        for n in 0..self.random.below(20) {
            rules.push_str(&format!("  - {{path: /other/{n}/{}, backend: steady}}\n", self.random.below(1000)));
        }
        for pool in POOLS {
            if *pool != "flicker" || !self.random.once_in(4) {
                rules.push_str(&format!("  - {{pathPrefix: /{pool}/, backend: {pool}}}\n"));
            }
        }
        format!(
            "kind: HTTPServer\nname: {name}\nport: {port}\n{more}xForwardedFor: {}\nmaxConnections: {}\n\
             keepAliveTimeout: {}s\ncacheSize: {}\nrules:\n- paths:\n{rules}",
            self.random.once_in(2),
            1000 + self.random.below(1000),
            30 + self.random.below(60),
            self.random.below(3) * 100,
        )
    }

    fn tls_server(&mut self) -> Option<String> {
        let (port, certificates) = self.tls.clone()?;
        let at = self.random.below(certificates.len() as u64) as usize;
        let indented = |pem: &str| pem.lines().map(|line| format!("  {line}\n")).collect::<String>();
        let (certificate, key) = (indented(&certificates[at].0), indented(&certificates[at].1));
        let more = format!("https: true\ncertBase64: |\n{certificate}keyBase64: |\n{key}");
        Some(self.server("soak-tls", port, &more))
    }
}

const POOLS: &[&str] = &["steady", "streamed", "restless", "mortal", "flicker"];
