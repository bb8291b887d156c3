//! Daemons and backends in directories of their own on free ports; they end with the test.

use crate::leash::Leashed;
use serde_json::Value;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// One machine: its directory and ports outlive the process, so that it can be started again.
pub struct Machine {
    pub name: String,
    pub api: u16,
    pub peer: u16,
    pub directory: PathBuf,
    _owned: tempfile::TempDir,
    flags: Vec<String>,
    /// Where it is reached.
    pub host: String,
    /// Network namespace it lives in; absent: the test's own.
    namespace: Option<String>,
    /// Of its peer URL.
    scheme: &'static str,
    /// Nothing between members is signed.
    insecure: bool,
    /// Most files it may have open; absent: what the test may.
    descriptors: Option<u32>,
    environment: Vec<(String, String)>,
    /// What is started.
    program: PathBuf,
    process: Option<Leashed>,
    /// How long the log was when it was started last.
    log_begins: usize,
}

/// An answer read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Machine {
    /// A cluster of one, not started yet.
    pub fn new(name: &str) -> Machine {
        // In memory where there is such a place: a disk that others keep busy makes every acknowledged change wait for seconds.
        let owned = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let (api, peer) = (free_port(), free_port());
        Machine {
            name: name.to_owned(),
            api,
            peer,
            directory: owned.path().to_owned(),
            _owned: owned,
            flags: Vec::new(),
            host: "127.0.0.1".to_owned(),
            namespace: None,
            scheme: "http",
            insecure: false,
            descriptors: None,
            environment: Vec::new(),
            program: WEIR.into(),
            process: None,
            log_begins: 0,
        }
    }

    /// A cluster of one that answers.
    pub fn start() -> Machine {
        let mut machine = Machine::new("m1");
        machine.run();
        machine
    }

    pub fn flags<S: AsRef<str>>(mut self, flags: impl IntoIterator<Item = S>) -> Machine {
        self.flags.extend(flags.into_iter().map(|flag| flag.as_ref().to_owned()));
        self
    }

    /// Puts it into a network namespace that has this address.
    pub fn at(mut self, namespace: &str, address: &str) -> Machine {
        self.namespace = Some(namespace.to_owned());
        self.host = address.to_owned();
        self
    }

    /// Other members reach it over TLS.
    pub fn over_https(mut self) -> Machine {
        self.scheme = "https";
        self
    }

    /// Members believe each other whatever they say.
    pub fn insecure(mut self) -> Machine {
        self.insecure = true;
        self
    }

    /// Lets it have no more files open than this, whatever it asks for.
    pub fn descriptors(mut self, most: u32) -> Machine {
        self.descriptors = Some(most);
        self
    }

    /// Starts another file than the daemon that was built.
    pub fn program(mut self, path: &Path) -> Machine {
        self.program = path.to_owned();
        self
    }

    /// It is another program from the next start on, with other variables of its own.
    pub fn becomes(&mut self, path: &Path, environment: &[(&str, &str)]) {
        self.program = path.to_owned();
        self.environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    }

    pub fn environment(mut self, name: &str, value: &str) -> Machine {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it and waits until it says that it is well.
    pub fn run(&mut self) {
        self.spawn();
        eventually(&format!("{} is ready", self.name), || {
            self.still_runs();
            self.try_api("GET", "/apis/v2/healthz", "").is_ok_and(|a| a.status == 200).then_some(())
        });
    }

    pub fn spawn(&mut self) {
        self.kill();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        self.log_begins = log.metadata().unwrap().len() as usize;
        let mut command = match (&self.namespace, self.descriptors) {
            (None, None) => Command::new(&self.program),
            (None, Some(most)) => {
                let mut command = Command::new("sh");
                command.args(["-c", &format!("ulimit -n {most} && exec \"$0\" \"$@\"")]).arg(&self.program);
                command
            }
            (Some(namespace), _) => {
                // It becomes the daemon, so that signals and the exit code are the daemon's.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(&self.program);
                command
            }
        };
        command
            .args(["--name", &self.name, "--home-dir"])
            .arg(&self.directory)
            .args(["--api-addr", &format!("{}:{}", self.host, self.api)])
            .args(["--listen-peer-urls", &self.peer_url()])
            .args(["--disable-access", "--log-format", "text"])
            .args(self.secret())
            .args(self.namespace.iter().map(|_| "--insecure-api"))
            .args(&self.flags)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.process = Some(Leashed::start(&mut command).unwrap());
    }

    /// Between machines members sign what they say to each other in plain text.
    fn secret(&self) -> Vec<String> {
        if self.insecure {
            return vec!["--insecure-peers".into()];
        }
        if self.namespace.is_none() || self.scheme != "http" {
            return Vec::new();
        }
        let path = self.directory.join("secret");
        fs::write(&path, "the secret of the machines of a test\n").unwrap();
        vec!["--cluster-secret-file".into(), path.to_str().unwrap().into()]
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Lets it write no byte of a file beyond this: its disk is full. `None`: as before.
    pub fn file_bytes_max(&self, most: Option<u64>) {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        let limit = Rlimit { current: most, maximum: None };
        prlimit(Pid::from_raw(self.pid() as i32), Resource::Fsize, limit).unwrap();
    }

    /// Waits until it has ended by itself.
    pub fn ended(&mut self) -> ExitStatus {
        let process = self.process.as_mut().expect("it was started");
        let status = eventually("the daemon ends", || process.try_wait().unwrap());
        self.process = None;
        status
    }

    pub fn still_runs(&mut self) {
        if let Some(status) = self.process.as_mut().and_then(|p| p.try_wait().unwrap()) {
            panic!("{} ended with {status}", self.name);
        }
    }

    pub fn log_path(&self) -> PathBuf {
        self.directory.join("weir.log")
    }

    /// All that was logged since it was made, by each process that ran.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// What was logged since it was started last: what the process before said is no sign of this one.
    pub fn said(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.log_begins..).unwrap_or_default()).into_owned()
    }

    pub fn peer_url(&self) -> String {
        format!("{}://{}:{}", self.scheme, self.host, self.peer)
    }

    pub fn try_api(&self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        Connection::open(&format!("{}:{}", self.host, self.api))?.by_address().request(method, path, &[], body)
    }

    pub fn api(&self, method: &str, path: &str, body: &str) -> Answer {
        self.try_api(method, &format!("/apis/v2{path}"), body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    pub fn json(&self, path: &str) -> Value {
        let answer = self.api("GET", path, "");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        serde_json::from_str(&answer.body).unwrap()
    }

    /// Creates an object.
    pub fn create(&self, document: &str) {
        let mut is_unknown = false;
        let answer = self.decided("POST", "/objects", document, &mut is_unknown);
        assert!(answer.status == 201 || is_unknown && answer.status == 409, "{answer:?}\n{document}");
    }

    /// Replaces an object.
    pub fn update(&self, name: &str, document: &str) {
        let answer = self.decided("PUT", &format!("/objects/{name}"), document, &mut false);
        assert_eq!(answer.status, 200, "{answer:?}\n{document}");
    }

    /// A change is asked for until it is decided: where the machine is busy a group may lose its leader, or a change take longer than
    /// anybody waits. Then it `is_unknown` whether it was made, and asked again it may be there.
    fn decided(&self, method: &str, path: &str, document: &str, is_unknown: &mut bool) -> Answer {
        let mut last = None;
        let decided = within(PATIENCE, || match self.try_api(method, &format!("/apis/v2{path}"), document) {
            Ok(answer) if answer.status != 503 => Some(answer),
            undecided => {
                *is_unknown = true;
                last = Some(undecided);
                None
            }
        });
        decided.unwrap_or_else(|| panic!("{method} {path} is not decided in {PATIENCE:?}: {last:?}"))
    }

    /// The value of a metric: of all its series together.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = self.try_api("GET", "/metrics", "").ok()?.body;
        let is_of_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let values: Vec<f64> =
            text.lines().filter(is_of_it).filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Waits until the copy on disk contains `text`.
    pub fn kept(&self, text: &str) {
        let path = self.directory.join("data/edge/last-good.json");
        eventually(&format!("{text} is kept on disk"), || {
            fs::read_to_string(&path).is_ok_and(|kept| kept.contains(text)).then_some(())
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- log of {} ---\n{}", self.name, lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// `weir demo-backend`.
pub struct Backend {
    pub port: u16,
    _process: Leashed,
}

impl Backend {
    pub fn start(name: &str) -> Backend {
        Backend::at("127.0.0.1", name)
    }

    /// At an address of this machine.
    pub fn at(address: &str, name: &str) -> Backend {
        let port = free_port();
        let mut command = Command::new(WEIR);
        command.args(["demo-backend", "--listen", &format!("{address}:{port}"), "--name", name]).stderr(Stdio::null());
        let backend = Backend { port, _process: Leashed::start(&mut command).unwrap() };
        eventually("the backend listens", || TcpStream::connect((address, port)).ok());
        backend
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// A connection that is kept as long as both sides wish.
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    /// Whom requests are for.
    host: &'static str,
}

impl Connection {
    pub fn open(address: &str) -> io::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection { stream, input: Vec::new(), host: "house.test" })
    }

    /// Over what is open already.
    pub fn over(stream: TcpStream) -> Connection {
        Connection { stream, input: Vec::new(), host: "house.test" }
    }

    /// As people call the doors of a daemon: by no name of a site.
    pub fn by_address(mut self) -> Connection {
        self.host = "127.0.0.1";
        self
    }

    /// Asks for what is of this host.
    pub fn asking(mut self, host: &'static str) -> Connection {
        self.host = host;
        self
    }

    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> io::Result<Answer> {
        self.send(method, path, headers, body)?;
        self.receive()
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> io::Result<()> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n", self.host, body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        self.stream.write_all(format!("{head}\r\n{body}").as_bytes())
    }

    pub fn receive(&mut self) -> io::Result<Answer> {
        let end = loop {
            if let Some(end) = self.input.windows(4).position(|w| w == b"\r\n\r\n") {
                break end;
            }
            self.more()?;
        };
        let head = String::from_utf8_lossy(&self.input[..end]).into_owned();
        self.input.drain(..end + 4);
        let status = head.get(9..12).and_then(|s| s.parse().ok()).ok_or_else(|| io::Error::other(head.clone()))?;
        let field = |name: &str| {
            head.lines()
                .filter_map(|l| l.split_once(':'))
                .find(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, v)| v.trim())
        };
        let body = if field("transfer-encoding").is_some() {
            self.chunks()?
        } else {
            let length = field("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
            self.take(length)?
        };
        Ok(Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() })
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = self.input.windows(2).position(|w| w == b"\r\n") {
                    break end;
                }
                self.more()?;
            };
            let line = String::from_utf8_lossy(&self.take(end + 2)?).trim().to_owned();
            let size = usize::from_str_radix(&line, 16).map_err(io::Error::other)?;
            body.extend(self.take(size)?);
            self.take(2)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.input.len() < length {
            self.more()?;
        }
        let rest = self.input.split_off(length);
        Ok(std::mem::replace(&mut self.input, rest))
    }

    fn more(&mut self) -> io::Result<()> {
        let mut piece = [0; 16 << 10];
        match self.stream.read(&mut piece)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.input.extend_from_slice(&piece[..count]);
                Ok(())
            }
        }
    }
}

/// One request on a connection of its own.
pub fn get(address: impl Address, path: &str) -> io::Result<Answer> {
    Connection::open(&address.text())?.request("GET", path, &[], "")
}

/// Waits until a request is answered with `status`; says what came.
pub fn answers(address: impl Address + Clone, path: &str, status: u16) -> Answer {
    let mut last = String::new();
    let wanted = format!("{} {path} answers {status}", address.clone().text());
    let found = within(PATIENCE, || match get(address.clone(), path) {
        Ok(answer) if answer.status == status => Some(answer),
        other => {
            last = format!("{other:?}");
            None
        }
    });
    found.unwrap_or_else(|| panic!("not so in {PATIENCE:?}: {wanted}; last was {last}"))
}

/// A port of localhost, or an address with its port.
pub trait Address {
    fn text(self) -> String;
}

impl Address for u16 {
    fn text(self) -> String {
        format!("127.0.0.1:{self}")
    }
}

impl Address for &str {
    fn text(self) -> String {
        self.to_owned()
    }
}

/// Asks again and again until there is an answer.
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, ask).unwrap_or_else(|| panic!("not so in {PATIENCE:?}: {what}"))
}

pub fn within<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + patience;
    loop {
        if let Some(found) = ask() {
            return Some(found);
        }
        if Instant::now() > until {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

pub use base_testing::free_port;

/// Runs `weir` to its end: exit code, standard output, standard error.
pub fn weir(arguments: &[&str]) -> (i32, String, String) {
    let done = Command::new(WEIR).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code().unwrap_or(-1), text(&done.stdout), text(&done.stderr))
}

/// A program on the PATH, or a remark that it is not there and what brings it.
/// `weirctl` beside the daemon, where it was built.
pub fn weirctl() -> Option<PathBuf> {
    let path = Path::new(WEIR).with_file_name("weirctl");
    if !path.is_file() {
        println!("skipped: there is no weirctl beside {WEIR} (cargo build -p cli)");
    }
    path.is_file().then_some(path)
}

pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|d| d.join(name)).find(|p| Path::new(p).is_file());
    if found.is_none() {
        let from = match name {
            "promtool" | "prometheus" => "Debian: apt install prometheus",
            "nghttp" | "h2load" => "Debian: apt install nghttp2-client",
            "gtlsclient" => "Debian: apt install ngtcp2-client",
            "helm" => "cargo xtask test-kubernetes --helm builds it",
            "slapd" | "slapadd" => "Debian: apt install slapd",
            "h2spec" => "Go: go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible",
            "buf" => "Go: go install github.com/bufbuild/buf/cmd/buf@v1.75.0",
            _ => "Debian: apt install it",
        };
        println!("skipped: there is no {name} on the PATH ({from})");
    }
    found
}

/// An HTTPServer whose one rule leads to a pipeline.
pub fn server(name: &str, port: u16, backend: &str) -> String {
    format!(
        "kind: HTTPServer\nname: {name}\nport: {port}\nrules:\n- paths:\n  - pathPrefix: /\n    backend: {backend}\n"
    )
}

/// A pipeline that answers by itself.
pub fn mock(name: &str, body: &str) -> String {
    format!(
        "kind: Pipeline\nname: {name}\nfilters:\n- kind: Mock\n  name: mock\n  rules:\n  - code: 200\n    body: {body}\n"
    )
}

/// A pipeline to one pool of servers.
pub fn proxy(name: &str, urls: &[String]) -> String {
    let servers: String = urls.iter().map(|url| format!("    - url: {url}\n")).collect();
    format!("kind: Pipeline\nname: {name}\nfilters:\n- kind: Proxy\n  name: proxy\n  pools:\n  - servers:\n{servers}")
}

pub const WEIR: &str = env!("CARGO_BIN_EXE_weir");

/// Far longer than anything should take, because the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);
