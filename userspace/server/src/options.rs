//! Options from the command line, the environment, a file and the defaults, in this order of precedence.
//!
//! Every option is one row of [`OPTIONS`]; names, meanings and defaults are Easegress's where it has them.

use base_model::GoDuration;
use base_telemetry::log_file::LogBounds;
use clap::{Arg, ArgAction, ArgMatches, Command};
use control_admin::{Logins, check_open};
use control_api::tls::{Identity, ServerTls, TlsError, TlsFiles};
use control_raft::{ClusterSecret, Issued, PeerTls, check_plain};
use edge_listeners::watch::Keeps;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Requests of a sort that a worker remembers at most: each takes a kilobyte or two.
const KEPT_MOST: usize = 4096;

/// How an option is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    /// On when present.
    Switch,
    /// One value.
    Text,
    /// Values with commas between them.
    List,
    /// `key=value` with commas between them.
    Pairs,
}

struct Row {
    name: &'static str,
    shape: Shape,
    default: &'static str,
    help: &'static str,
    /// Why it does nothing here.
    idle: Option<&'static str>,
}

const fn row(name: &'static str, shape: Shape, default: &'static str, help: &'static str) -> Row {
    Row { name, shape, default, help, idle: None }
}

const fn idle(name: &'static str, shape: Shape, why: &'static str) -> Row {
    Row { name, shape, default: "", help: "accepted for Easegress's sake, does nothing", idle: Some(why) }
}

const OPTIONS: &[Row] = &[
    row("name", Shape::Text, "eg-default-name", "name of this member, unique in the cluster"),
    row("labels", Shape::Pairs, "", "labels of this member, key=value,..."),
    row("cluster-name", Shape::Text, "eg-cluster-default-name", "name of the cluster; members of another are refused"),
    row("cluster-role", Shape::Text, "primary", "primary (votes and serves) or secondary (follows and serves)"),
    row("cluster-request-timeout", Shape::Text, "10s", "longest time a change may take to be agreed on"),
    row("api-addr", Shape::Text, "localhost:2381", "address of the admin API"),
    row(
        "api-names",
        Shape::List,
        "",
        "names the admin API is reached by, beside localhost, its addresses and this machine's",
    ),
    row(
        "insecure-api",
        Shape::Switch,
        "",
        "open the admin API to other machines without a login; for networks of operators",
    ),
    row("tls", Shape::Switch, "", "serve the admin API over TLS; needs --cert-file and --key-file"),
    row("cert-file", Shape::Text, "", "certificate chain of the admin API, PEM"),
    row("key-file", Shape::Text, "", "private key of the admin API, PEM"),
    row(
        "client-ca-file",
        Shape::Text,
        "",
        "clients of the admin API show a certificate that an authority in here has signed",
    ),
    row(
        LISTEN,
        Shape::List,
        "http://localhost:2380",
        "addresses to listen on for other members; in --initial-cluster, this member's there is the default",
    ),
    row(
        ADVERTISE,
        Shape::List,
        "http://localhost:2380",
        "address other members reach this one at; by default the one it listens on",
    ),
    row("peer-cert-file", Shape::Text, "", "certificate chain shown to other members, for https:// peer URLs, PEM"),
    row("peer-key-file", Shape::Text, "", "private key of --peer-cert-file, PEM"),
    row("peer-trusted-ca-file", Shape::Text, "", "authorities that have signed the certificates of all members, PEM"),
    row(
        "cluster-secret-file",
        Shape::Text,
        "",
        "file with the secret that members sign http:// calls with, the same on all; two lines while one replaces the other",
    ),
    row(
        "insecure-peers",
        Shape::Switch,
        "",
        "talk to other machines over http:// without a secret; for networks that members alone reach",
    ),
    row("initial-cluster", Shape::Pairs, "", "the primaries, name=URL,...; empty: a cluster of this one"),
    row(
        PRIMARIES,
        Shape::List,
        "http://localhost:2380",
        "primaries a secondary follows, beside those of --initial-cluster; primaries do not read it",
    ),
    row(
        "join",
        Shape::Text,
        "",
        "token (weirctl member token) to come to a cluster with that issues its members' certificates itself; read the first time only",
    ),
    row(
        "feature-level",
        Shape::Text,
        "",
        "take part as the weir of this feature level does, which holds the cluster there: until an upgrade is to be final; default: the highest that this weir knows",
    ),
    row("state-flag", Shape::Text, "new", "new: found the cluster; existing: join it"),
    row("home-dir", Shape::Text, "./", "directory the others are relative to"),
    row("data-dir", Shape::Text, "data", "where state is kept"),
    row("log-dir", Shape::Text, "", "where log files go; empty: standard output and error"),
    row(
        "log-max-size",
        Shape::Text,
        "100MiB",
        "size at which a file in --log-dir is moved aside, such as 64MiB; 0: never",
    ),
    row("log-max-files", Shape::Text, "10", "files moved aside that are kept of each log, 0 to 1000"),
    row("initial-object-config-files", Shape::List, "", "documents created at the start unless they exist"),
    row("disable-access", Shape::Switch, "", "write no access log"),
    row("debug", Shape::Switch, "", "log more"),
    row("interface", Shape::List, "", "attach XDP steering to these interfaces; empty: no kernel plane"),
    row("xdp-mode", Shape::Text, "auto", "driver, generic, or auto (driver, else generic with a warning)"),
    row("advertise-address", Shape::List, "", "addresses other edges send packets to, one per family"),
    row(
        "virtual-ips",
        Shape::Text,
        "64",
        "VirtualIPs there is room for, 1 to 512, the same on every machine; 262 kB of kernel memory each, and 1 kB per CPU",
    ),
    row("detach", Shape::Switch, "", "take the kernel programs down at the end; else they stay and keep steering"),
    row("io", Shape::Text, "auto", "how workers talk to the kernel: uring, epoll or auto"),
    row("workers", Shape::Text, "", "worker threads; default: one per CPU"),
    row("cpus", Shape::Text, "", "CPUs of the workers: 0,2-4; default: all this process may use"),
    row(
        "coalesce",
        Shape::Text,
        "100us",
        "least time between two wakes of a worker that wakes often and still sleeps, up to 10ms; 0: wake for every event",
    ),
    row(
        "keep-requests",
        Shape::Text,
        "256",
        "requests each worker remembers for weirctl explain-request: so many that failed, were refused, were slow, a tap has shown; 0 to 4096",
    ),
    row("slow-request", Shape::Text, "1s", "a request that takes so long is remembered as slow"),
    row(
        "memory-limit",
        Shape::Text,
        "",
        "memory that traffic may hold, such as 2GiB, or off; default: 75% of the machine's or the control group's",
    ),
    row("no-control", Shape::Switch, "", "run the edge only"),
    row("no-edge", Shape::Switch, "", "run the control plane only"),
    row("log-format", Shape::Text, "", "text or json; default: text on a terminal, else json"),
    idle("listen-client-urls", Shape::List, "there is no etcd; clients use --api-addr"),
    idle("advertise-client-urls", Shape::List, "there is no etcd; clients use --api-addr"),
    idle("wal-dir", Shape::Text, "the log is kept in --data-dir"),
    idle("use-standalone-etcd", Shape::Switch, "there is no etcd; the cluster keeps its own state"),
    idle("force-new-cluster", Shape::Switch, "after a lost majority run `weir recover` once, with the same options"),
    idle("max-call-send-msg-size", Shape::Text, "there is no etcd client"),
    idle("objects-dump-interval", Shape::Text, "the last good state is kept on disk at every change"),
    idle("status-update-max-batch-size", Shape::Text, "status is never written to the cluster's state"),
    idle("cpu-profile-file", Shape::Text, "use `perf record -p PID`"),
    idle("memory-profile-file", Shape::Text, "use `perf record -p PID`"),
    idle("signal-upgrade", Shape::Switch, "send SIGUSR2 to the running process instead: kill -USR2 PID"),
];

/// Smaller ones would be moved aside all the time.
const LOG_BYTES_MIN: u64 = 16 << 10;

const LISTEN: &str = "listen-peer-urls";
const ADVERTISE: &str = "initial-advertise-peer-urls";
const PRIMARIES: &str = "primary-listen-peer-urls";

/// Keys only the file may have.
const FILE_ONLY: &[&str] = &["basic-auth", "disable-access-log"];

/// Everything a process is started with, checked.
#[derive(Debug, Clone)]
pub struct Options {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub cluster_name: String,
    pub secondary: bool,
    pub cluster_request_timeout: Duration,
    pub api_addr: String,
    /// `--tls` and what belongs to it.
    pub admin_tls: Option<ServerTls>,
    /// `--client-ca-file`.
    pub admin_client_certificates: bool,
    pub insecure_api: bool,
    pub api_names: Vec<String>,
    /// `basic-auth`.
    pub logins: Option<Logins>,
    /// `--peer-…-file`.
    pub peer_tls: Option<PeerTls>,
    /// `https://` peer URLs without `--peer-…-file`, and `--join`: the cluster issues its members' certificates itself.
    pub issued: Option<Issued>,
    /// `--cluster-secret-file`.
    pub cluster_secret: Option<ClusterSecret>,
    pub insecure_peers: bool,
    pub listen_peer_urls: Vec<String>,
    /// `--initial-advertise-peer-urls`; absent unless somebody gave it: the default speaks of the default port alone.
    pub advertise_peer_url: Option<String>,
    pub initial_cluster: BTreeMap<String, String>,
    /// Where a secondary finds primaries beside `initial_cluster`; empty in a primary.
    pub primary_peer_urls: Vec<String>,
    pub join: bool,
    /// What this member says that it understands: what it does, or, where an operator holds the cluster back, less.
    pub feature_level: u32,
    pub data_dir: PathBuf,
    pub log_dir: Option<PathBuf>,
    /// `--log-max-size` and `--log-max-files`.
    pub log_bounds: LogBounds,
    pub initial_object_files: Vec<PathBuf>,
    pub access_log: bool,
    pub debug: bool,
    pub interfaces: Vec<String>,
    pub xdp_mode: String,
    /// VirtualIPs the kernel plane has room for.
    pub virtual_ips: usize,
    pub advertise_addresses: Vec<std::net::IpAddr>,
    pub detach: bool,
    pub io: base_runtime::IoMode,
    pub workers: Option<usize>,
    pub cpus: Option<Vec<usize>>,
    pub coalesce: Duration,
    pub memory_limit: crate::capacity::MemoryLimit,
    pub keeps: Keeps,
    pub edge: bool,
    pub json_log: Option<bool>,
    /// To be said once the log is up.
    pub notes: Vec<String>,
    /// Every option with its value, for `--print-config`.
    pub effective: BTreeMap<String, String>,
}

/// Everything that is wrong with the options, one line each.
#[derive(Debug)]
pub struct Wrong(pub Vec<String>);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Adds the options to a command.
pub fn arguments(mut command: Command) -> Command {
    for row in OPTIONS {
        let mut arg = Arg::new(row.name).long(row.name).help(match row.default {
            "" => row.help.to_owned(),
            default => format!("{} [default: {default}]", row.help),
        });
        arg = match row.shape {
            // `--flag` and `--flag=false`, as Go's flags.
            Shape::Switch => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(["true", "false"])
                .hide_possible_values(true),
            _ => arg.action(ArgAction::Append).value_name("VALUE"),
        };
        command = command.arg(arg.hide(row.idle.is_some()));
    }
    // As with Go's flags, of one that is given twice the last counts.
    command.args_override_self(true).arg(
        Arg::new("config-file")
            .long("config-file")
            .short('f')
            .value_name("FILE")
            .help("YAML with these options as keys"),
    )
}

/// Reads the options: `environment` looks a variable up.
pub fn read(matches: &ArgMatches, environment: &dyn Fn(&str) -> Option<String>) -> Result<Options, Wrong> {
    let mut wrong = Vec::new();
    let mut notes = Vec::new();
    let (file, users) = match matches.get_one::<String>("config-file") {
        None => Default::default(),
        Some(path) => match read_file(path, &mut wrong) {
            Some(read) => read,
            None => return Err(Wrong(wrong)),
        },
    };
    let mut effective = BTreeMap::new();
    let mut said = BTreeSet::new();
    for row in OPTIONS {
        let flag = matches.get_many::<String>(row.name).map(|mut values| match row.shape {
            Shape::List | Shape::Pairs => values.cloned().collect::<Vec<_>>().join(","),
            // The last one counts, as with Go's flags.
            Shape::Switch | Shape::Text => values.next_back().cloned().unwrap_or_default(),
        });
        let suffix = row.name.to_uppercase().replace('-', "_");
        let from_environment =
            || ["WEIR_", "EASEGRESS_", "EG_"].iter().find_map(|prefix| environment(&format!("{prefix}{suffix}")));
        let given = flag.or_else(from_environment).or_else(|| file.get(row.name).cloned());
        if let (Some(value), Some(why)) = (&given, row.idle)
            && value != "false"
        {
            notes.push(format!("--{} does nothing here: {why}", row.name));
        }
        if given.is_some() {
            said.insert(row.name);
        }
        effective.insert(row.name.to_owned(), given.unwrap_or_else(|| row.default.to_owned()));
    }
    if file.get("disable-access-log").is_some_and(|v| v == "true") {
        effective.insert("disable-access".into(), "true".into());
    }
    let options = Reader { effective: &effective, said: &said, wrong: &mut wrong }.options(notes);
    match options {
        Some(mut options) => {
            // Only now it is known whether anybody may log in.
            let asks = !users.is_empty() || options.admin_client_certificates;
            if let Err(error) = check_open(&options.api_addr, asks, options.insecure_api) {
                wrong.push(error);
            }
            if !wrong.is_empty() {
                return Err(Wrong(wrong));
            }
            options.logins = (!users.is_empty()).then(|| Logins::new(&users));
            // It is as good as a password until it is used.
            effective
                .entry("join".into())
                .and_modify(|token| *token = if token.is_empty() { String::new() } else { "(given)".into() });
            options.effective = effective;
            Ok(options)
        }
        _ => Err(Wrong(wrong)),
    }
}

/// Options of a file, and the users of its `basic-auth`.
#[allow(clippy::type_complexity, reason = "two maps are named by the line above")]
fn read_file(path: &str, wrong: &mut Vec<String>) -> Option<(BTreeMap<String, String>, BTreeMap<String, String>)> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            wrong.push(format!("--config-file {path}: {error}; give the path of a readable YAML file"));
            return None;
        }
    };
    let value = match base_model::yaml::parse_document(&text) {
        Ok(Value::Object(map)) => map,
        Ok(Value::Null) => Map::new(),
        Ok(_) => {
            wrong.push(format!("--config-file {path}: not a mapping of options to values"));
            return None;
        }
        Err(error) => {
            wrong.push(format!("--config-file {path}: {error}"));
            return None;
        }
    };
    let mut keys = BTreeMap::new();
    let mut users = BTreeMap::new();
    match value.get("basic-auth") {
        None | Some(Value::Null) => {}
        Some(Value::Object(pairs)) => {
            for (user, password) in pairs {
                match password {
                    Value::String(password) if !password.is_empty() && !user.contains(':') => {
                        users.insert(user.clone(), password.clone());
                    }
                    // The password is not repeated.
                    _ => wrong.push(format!(
                        "--config-file {path}: basic-auth.{user}: write USER: PASSWORD, both as text (in quotes), the user without a :"
                    )),
                }
            }
        }
        Some(_) => wrong.push(format!("--config-file {path}: basic-auth: write a mapping of users to passwords")),
    }
    let mut take = |key: &str, value: &Value| {
        if !OPTIONS.iter().any(|r| r.name == key) && !FILE_ONLY.contains(&key) {
            wrong.push(format!("--config-file {path}: {key}: no such option; `weir --help` lists them"));
        }
        keys.insert(key.to_owned(), flat(value));
    };
    for (key, value) in &value {
        match value {
            _ if key == "basic-auth" => {}
            Value::Object(inner) if key == "cluster" => inner.iter().for_each(|(k, v)| take(k, v)),
            value => take(key, value),
        }
    }
    Some((keys, users))
}

/// A value of the file as it would stand on the command line.
fn flat(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(flat).collect::<Vec<_>>().join(","),
        Value::Object(map) => map.iter().map(|(k, v)| format!("{k}={}", flat(v))).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// The peer URLs in force.
struct Peers {
    listen: Vec<String>,
    advertise: Option<String>,
    primaries: Vec<String>,
}

struct Reader<'a> {
    effective: &'a BTreeMap<String, String>,
    /// Options that somebody gave, however.
    said: &'a BTreeSet<&'static str>,
    wrong: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> String {
        self.effective.get(name).cloned().unwrap_or_default()
    }

    fn list(&self, name: &str) -> Vec<String> {
        self.text(name).split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect()
    }

    fn pairs(&mut self, name: &str) -> BTreeMap<String, String> {
        let mut pairs = BTreeMap::new();
        for item in self.list(name) {
            match item.split_once('=') {
                Some((key, value)) if !key.is_empty() => drop(pairs.insert(key.to_owned(), value.to_owned())),
                _ => self.refuse(name, &item, "key=value, several with commas between them"),
            }
        }
        pairs
    }

    fn switch(&mut self, name: &str) -> bool {
        match self.text(name).as_str() {
            "" | "false" | "no" | "0" => false,
            "true" | "yes" | "1" => true,
            other => {
                self.refuse(name, other, "true or false");
                false
            }
        }
    }

    fn choice(&mut self, name: &str, accepted: &[&str]) -> String {
        let text = self.text(name);
        if !accepted.contains(&text.as_str()) {
            self.refuse(name, &text, &accepted.join(", "));
        }
        text
    }

    fn refuse(&mut self, name: &str, value: &str, accepted: &str) {
        self.wrong.push(format!("--{name} {value}: not understood; accepted is {accepted}"));
    }

    fn options(&mut self, mut notes: Vec<String>) -> Option<Options> {
        let role = self.choice("cluster-role", &["primary", "secondary", "writer", "reader"]);
        let timeout = self.text("cluster-request-timeout");
        let timeout = timeout.parse::<GoDuration>().map(Duration::from).unwrap_or_else(|_| {
            self.refuse("cluster-request-timeout", &timeout, "a duration such as 10s or 500ms");
            Duration::ZERO
        });
        let home = PathBuf::from(self.text("home-dir"));
        let log_dir = self.text("log-dir");
        let name = self.text("name");
        if let Some(problem) = base_model::document::check_name(&name, "--name") {
            self.wrong.push(problem.to_string());
        }
        let state = self.choice("state-flag", &["new", "existing"]);
        let xdp_mode = self.choice("xdp-mode", &["driver", "generic", "auto"]);
        let io = match self.choice("io", &["uring", "epoll", "auto"]).as_str() {
            "uring" => base_runtime::IoMode::Uring,
            "epoll" => base_runtime::IoMode::Epoll,
            _ => base_runtime::IoMode::Auto,
        };
        let virtual_ips = self.text("virtual-ips");
        let virtual_ips = match virtual_ips.parse::<usize>() {
            Ok(most @ 1..=512) => most,
            _ => {
                self.refuse("virtual-ips", &virtual_ips, "a number from 1 to 512");
                base_model::VIRTUAL_IPS
            }
        };
        let workers = match self.text("workers") {
            empty if empty.is_empty() => None,
            text => match text.parse::<usize>() {
                Ok(count) if (1..=1024).contains(&count) => Some(count),
                _ => {
                    self.refuse("workers", &text, "a number from 1 to 1024");
                    None
                }
            },
        };
        let cpus = self.cpus();
        let coalesce = self.text("coalesce");
        let coalesce = match coalesce.parse::<GoDuration>().map(Duration::from) {
            Ok(interval) if interval <= Duration::from_millis(10) => interval,
            _ => {
                self.refuse("coalesce", &coalesce, "a duration from 0 to 10ms, such as 100us");
                Duration::ZERO
            }
        };
        let feature_level = self.feature_level();
        if feature_level < control_raft::LEVEL {
            notes.push(format!(
                "--feature-level {feature_level}: the cluster does not rise beyond it as long as this member says so, of {} that it knows",
                control_raft::LEVEL
            ));
        }
        let keeps = self.keeps();
        let memory_limit = self.text("memory-limit");
        let memory_limit = crate::capacity::MemoryLimit::parse(&memory_limit).unwrap_or_else(|| {
            self.refuse("memory-limit", &memory_limit, "16MiB or more, with B, KiB, MiB, GiB or TiB, or off");
            crate::capacity::MemoryLimit::Default
        });
        let advertise_addresses = self
            .list("advertise-address")
            .iter()
            .filter_map(|text| {
                let parsed = text.parse().ok();
                if parsed.is_none() {
                    self.refuse("advertise-address", text, "an IPv4 and/or an IPv6 address");
                }
                parsed
            })
            .collect();
        let json_log = match self.choice("log-format", &["", "text", "json"]).as_str() {
            "json" => Some(true),
            "text" => Some(false),
            _ => None,
        };
        let (no_control, no_edge) = (self.switch("no-control"), self.switch("no-edge"));
        if no_control && no_edge {
            self.wrong.push("--no-control and --no-edge leave nothing to run; drop one of them".into());
        }
        let (admin_tls, peer_tls) = (self.admin_tls(), self.peer_tls());
        let secondary = matches!(role.as_str(), "secondary" | "reader") || no_control;
        let initial_cluster = self.pairs("initial-cluster");
        let peers = self.peers(&name, secondary, &initial_cluster);
        let issued = self.issued(&peers, peer_tls.is_some());
        let cluster_secret = self.cluster_secret();
        let insecure_peers = self.switch("insecure-peers");
        if cluster_secret.is_none() && self.file("cluster-secret-file").is_none() && !insecure_peers {
            self.plain_peers(&name, &peers, &initial_cluster);
        }
        Some(Options {
            name,
            labels: self.pairs("labels"),
            cluster_name: self.text("cluster-name"),
            secondary,
            cluster_request_timeout: timeout,
            api_addr: self.text("api-addr"),
            admin_client_certificates: admin_tls.is_some() && self.file("client-ca-file").is_some(),
            admin_tls,
            insecure_api: self.switch("insecure-api"),
            api_names: self.list("api-names"),
            logins: None,
            peer_tls,
            issued,
            cluster_secret,
            insecure_peers,
            listen_peer_urls: peers.listen,
            advertise_peer_url: peers.advertise,
            initial_cluster,
            primary_peer_urls: peers.primaries,
            join: state == "existing",
            feature_level,
            data_dir: home.join(self.text("data-dir")),
            log_bounds: self.log_bounds(),
            log_dir: (!log_dir.is_empty()).then(|| home.join(log_dir)),
            initial_object_files: self.list("initial-object-config-files").into_iter().map(PathBuf::from).collect(),
            access_log: !self.switch("disable-access"),
            debug: self.switch("debug"),
            interfaces: self.list("interface"),
            xdp_mode,
            virtual_ips,
            advertise_addresses,
            detach: self.switch("detach"),
            io,
            workers,
            cpus,
            coalesce,
            memory_limit,
            keeps,
            edge: !no_edge,
            json_log,
            notes,
            effective: BTreeMap::new(),
        })
    }

    fn feature_level(&mut self) -> u32 {
        let known = control_raft::LEVEL;
        match self.text("feature-level") {
            empty if empty.is_empty() => known,
            text => text.parse().ok().filter(|level| (1..=known).contains(level)).unwrap_or_else(|| {
                self.refuse(
                    "feature-level",
                    &text,
                    &format!("a number from 1 to {known}, the highest that this weir knows"),
                );
                known
            }),
        }
    }

    /// What is remembered of requests.
    fn keeps(&mut self) -> Keeps {
        let each = self.text("keep-requests");
        let each = each.parse().ok().filter(|each| *each <= KEPT_MOST).unwrap_or_else(|| {
            self.refuse("keep-requests", &each, "a number from 0 to 4096");
            0
        });
        let slow = self.text("slow-request");
        let slow = slow.parse::<GoDuration>().map(Duration::from).unwrap_or_else(|_| {
            self.refuse("slow-request", &slow, "a duration, such as 500ms or 2s");
            Duration::ZERO
        });
        Keeps { each, slow }
    }

    fn log_bounds(&mut self) -> LogBounds {
        let (size, files) = (self.text("log-max-size"), self.text("log-max-files"));
        let bytes = crate::capacity::bytes(&size).filter(|bytes| *bytes == 0 || *bytes >= LOG_BYTES_MIN);
        let files_kept = files.parse().ok().filter(|files| *files <= 1000);
        if bytes.is_none() {
            self.refuse("log-max-size", &size, "16KiB or more, with B, KiB, MiB, GiB or TiB, or 0 for any size");
        }
        if files_kept.is_none() {
            self.refuse("log-max-files", &files, "a number from 0 to 1000");
        }
        LogBounds { bytes: bytes.unwrap_or_default(), files: files_kept.unwrap_or_default() }
    }

    /// Whom this member talks to: nobody it was not told of. The defaults stand for the usual port of this host, where quite
    /// another weir may be running, so each holds only where nothing better is known.
    fn peers(&mut self, name: &str, secondary: bool, initial_cluster: &BTreeMap<String, String>) -> Peers {
        let listen = match initial_cluster.get(name) {
            Some(own) if !self.said.contains(LISTEN) => vec![own.clone()],
            // The default is of members without certificates.
            _ if !self.said.contains(LISTEN) && !self.text("join").is_empty() => {
                vec!["https://localhost:2380".to_owned()]
            }
            _ => self.list(LISTEN),
        };
        let advertise = self.list(ADVERTISE).into_iter().next().filter(|_| self.said.contains(ADVERTISE));
        let primaries = match (secondary, self.said.contains(PRIMARIES)) {
            (true, true) => self.list(PRIMARIES),
            (true, false) if initial_cluster.is_empty() => self.list(PRIMARIES),
            _ => Vec::new(),
        };
        Peers { listen, advertise, primaries }
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.text(name)).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// Files that are wrong are told like any other option.
    fn told<T>(&mut self, read: Result<T, TlsError>) -> Option<T> {
        read.map_err(|error| self.wrong.push(error.to_string())).ok()
    }

    fn admin_tls(&mut self) -> Option<ServerTls> {
        if !self.switch("tls") {
            // Left out silently, this would open what somebody meant to protect.
            for name in ["cert-file", "key-file", "client-ca-file"] {
                if self.file(name).is_some() {
                    self.wrong.push(format!("--{name}: has no effect without --tls; add --tls, or drop the option"));
                }
            }
            return None;
        }
        if self.file("cert-file").is_none() && self.file("key-file").is_none() {
            self.wrong.push("--tls: needs a certificate; give --cert-file and --key-file".into());
        }
        let files = self.tls_files("cert-file", "key-file", "client-ca-file")?;
        self.told(ServerTls::of(files))
    }

    /// The files of a pair, which go together, and of the authorities beside it.
    fn tls_files(&mut self, chain: &str, key: &str, authorities: &str) -> Option<TlsFiles> {
        let flag = |name: &str| format!("--{name}");
        let read = Identity::read((&flag(chain), self.file(chain)), (&flag(key), self.file(key)));
        self.told(read)??;
        Some(TlsFiles {
            chain: (flag(chain), self.file(chain)?),
            key: (flag(key), self.file(key)?),
            authorities: self.file(authorities).map(|path| (flag(authorities), path)),
            strangers: false,
        })
    }

    fn peer_tls(&mut self) -> Option<PeerTls> {
        let names = ["peer-cert-file", "peer-key-file", "peer-trusted-ca-file"];
        let missing: Vec<&str> = names.into_iter().filter(|name| self.file(name).is_none()).collect();
        if missing.len() == names.len() {
            return None;
        }
        for name in &missing {
            self.wrong.push(format!("--{name}: missing; https:// between members takes --{}", names.join(", --")));
        }
        if !missing.is_empty() {
            return None;
        }
        let files = self.tls_files("peer-cert-file", "peer-key-file", "peer-trusted-ca-file")?;
        self.told(PeerTls::of(files))
    }

    fn issued(&mut self, peers: &Peers, certified: bool) -> Option<Issued> {
        let token = Some(self.text("join")).filter(|token| !token.is_empty());
        let mut own = peers.listen.iter().chain(&peers.advertise);
        let files =
            ["peer-cert-file", "peer-key-file", "peer-trusted-ca-file"].iter().any(|name| self.file(name).is_some());
        if certified || files {
            if token.is_some() {
                self.wrong.push(
                    "--join: the cluster issues this member's certificate; drop --peer-cert-file and what goes with it"
                        .into(),
                );
            }
            return None;
        }
        if token.is_some() && own.clone().any(|url| url.starts_with("http://")) {
            self.wrong.push(
                "--join: members with certificates talk over https://; give --listen-peer-urls https://HOST:PORT"
                    .into(),
            );
            return None;
        }
        (token.is_some() || own.any(|url| url.starts_with("https://"))).then(|| Issued::new(token))
    }

    fn cluster_secret(&mut self) -> Option<ClusterSecret> {
        let read = ClusterSecret::read(&self.file("cluster-secret-file")?);
        read.map_err(|error| self.wrong.push(error)).ok()
    }

    /// Peers that would be talked to in plain text beyond this machine.
    fn plain_peers(&mut self, name: &str, peers: &Peers, initial_cluster: &BTreeMap<String, String>) {
        let own = |url: &&String| initial_cluster.get(name) == Some(*url);
        let listen = peers.listen.iter().filter(|url| !own(url)).map(|url| ("--listen-peer-urls".to_owned(), url));
        let cluster = initial_cluster.iter().map(|(name, url)| (format!("--initial-cluster {name}"), url));
        let primaries = peers.primaries.iter().map(|url| (format!("--{PRIMARIES}"), url));
        for (flag, url) in listen.chain(cluster).chain(primaries).filter(|(_, url)| url.starts_with("http://")) {
            if let Err(error) = check_plain(&flag, url) {
                // One is enough: what is to be done is the same for all.
                self.wrong.push(error.to_string());
                return;
            }
        }
    }

    /// `0,2-4` as a list.
    fn cpus(&mut self) -> Option<Vec<usize>> {
        let text = self.text("cpus");
        if text.is_empty() {
            return None;
        }
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            match (low.trim().parse::<usize>(), high.trim().parse::<usize>()) {
                (Ok(low), Ok(high)) if low <= high && high < 4096 => cpus.extend(low..=high),
                _ => self.refuse("cpus", part, "CPU numbers and ranges such as 0,2-4"),
            }
        }
        let allowed = base_runtime::allowed_cpus();
        for cpu in cpus.iter().filter(|c| !allowed.contains(c)) {
            let allowed = base_text::ranges(allowed.iter().copied());
            self.wrong.push(format!("--cpus {cpu}: this process may not run there; allowed are {allowed}"));
        }
        Some(cpus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Options, Wrong> {
        let command = super::arguments(Command::new("weir").no_binary_name(true));
        let matches = command.try_get_matches_from(arguments).map_err(|e| Wrong(vec![e.to_string()]))?;
        read(&matches, &|name| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weir.yaml");
        std::fs::write(&path, "name: from-file\ncluster-name: file-cluster\ncluster:\n  state-flag: existing\n")
            .unwrap();
        let file = path.to_str().unwrap();
        let options = parse(&["-f", file, "--cluster-name", "flag"], &[("EG_CLUSTER_NAME", "env")]).unwrap();
        assert_eq!((options.name.as_str(), options.cluster_name.as_str(), options.join), ("from-file", "flag", true));
        let options = parse(&["-f", file], &[("EG_CLUSTER_NAME", "env"), ("WEIR_API_ADDR", "localhost:1")]).unwrap();
        assert_eq!((options.cluster_name.as_str(), options.api_addr.as_str()), ("env", "localhost:1"));
        assert_eq!(parse(&[], &[]).unwrap().api_addr, "localhost:2381");
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let wrong = parse(
            &["--io", "fast", "--workers", "0", "--cpus", "9999", "--coalesce", "1s", "--no-edge", "--no-control"],
            &[],
        );
        let text = wrong.unwrap_err().to_string();
        for part in ["--io fast", "--workers 0", "--cpus 9999", "--coalesce 1s", "--no-control and --no-edge"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn defaults_of_peer_urls_hold_where_nothing_better_is_known() {
        let peers = |arguments: &[&str]| {
            let options = parse(&[arguments, &["--insecure-peers"]].concat(), &[]).unwrap();
            (options.listen_peer_urls.join(","), options.advertise_peer_url, options.primary_peer_urls.join(","))
        };
        let usual = "http://localhost:2380".to_owned();
        assert_eq!(peers(&[]), (usual.clone(), None, String::new()));
        assert_eq!(peers(&["--listen-peer-urls", "http://h:1"]), ("http://h:1".to_owned(), None, String::new()));
        assert_eq!(peers(&["--primary-listen-peer-urls", "http://h:1"]).2, "", "a primary does not read it");
        assert_eq!(peers(&["--initial-advertise-peer-urls", &usual]).1, Some(usual.clone()));
        assert_eq!(peers(&["--cluster-role", "secondary"]).2, usual);
        let cluster = ["--name", "a", "--initial-cluster", "a=http://h:1,b=http://h:2"];
        assert_eq!(peers(&cluster), ("http://h:1".to_owned(), None, String::new()));
        assert_eq!(peers(&[&cluster[..], &["--listen-peer-urls", "http://0.0.0.0:1"]].concat()).0, "http://0.0.0.0:1");
        let follower = ["--cluster-role", "secondary", "--initial-cluster", "b=http://h:2"];
        assert_eq!(peers(&follower), (usual, None, String::new()));
        assert_eq!(peers(&[&follower[..], &["--primary-listen-peer-urls", "http://h:3"]].concat()).2, "http://h:3");
    }

    #[test]
    fn idle_options_are_answered_with_the_reason() {
        let options =
            parse(&["--wal-dir", "x", "--use-standalone-etcd", "--initial-cluster", "a=u1,b=u2"], &[]).unwrap();
        assert_eq!(options.notes.len(), 2);
        assert_eq!(options.initial_cluster.len(), 2);
    }

    #[test]
    fn a_level_is_one_that_is_known() {
        assert_eq!(parse(&[], &[]).unwrap().feature_level, control_raft::LEVEL);
        let held = parse(&["--feature-level", "1"], &[]).unwrap();
        assert_eq!((held.feature_level, held.notes.len()), (1, 1), "{:?}", held.notes);
        for unknown in ["0", "1000", "x"] {
            let wrong = parse(&["--feature-level", unknown], &[]).unwrap_err().to_string();
            assert!(wrong.contains("the highest that this weir knows"), "{wrong}");
        }
    }

    #[test]
    fn protection_that_would_not_be_there_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weir.yaml");
        std::fs::write(&path, "basic-auth: {admin: 5309, 'a:b': secret}\nclient-ca-file: ca.pem\n").unwrap();
        let wrong = parse(&["-f", path.to_str().unwrap(), "--cert-file", "c.pem"], &[]).unwrap_err().to_string();
        for part in [
            "basic-auth.admin: write USER: PASSWORD",
            "basic-auth.a:b",
            "--client-ca-file: has no",
            "--cert-file: has no",
        ] {
            assert!(wrong.contains(part), "{part} is not in {wrong}");
        }
        assert!(!wrong.contains("secret") && !wrong.contains("5309"), "{wrong}");
        for (flags, part) in [
            (&["--tls"][..], "--tls: needs a certificate; give --cert-file and --key-file"),
            (&["--tls", "--cert-file", "/no/c.pem"], "--cert-file needs --key-file"),
            (&["--tls", "--cert-file", "/no/c.pem", "--key-file", "/no/k.pem"], "--cert-file /no/c.pem: No such file"),
            (
                &["--peer-cert-file", "c.pem"],
                "--peer-key-file: missing; https:// between members takes --peer-cert-file",
            ),
        ] {
            let wrong = parse(flags, &[]).unwrap_err().to_string();
            assert!(wrong.contains(part), "{part} is not in {wrong}");
        }
    }

    #[test]
    fn an_api_without_a_login_stays_on_this_machine() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weir.yaml");
        std::fs::write(&path, "basic-auth: {ann: secret}\n").unwrap();
        for address in [
            "0.0.0.0:2381",
            ":2381",
            "[::]:2381",
            "192.0.2.1:2381",
            "localhost:2381,0.0.0.0:2382",
            "[::ffff:192.0.2.1]:1",
        ] {
            let wrong = parse(&["--api-addr", address], &[]).unwrap_err().to_string();
            for part in ["--api-addr", "--client-ca-file", "basic-auth", "--insecure-api", "localhost:2381"] {
                assert!(wrong.contains(part), "{part} is not in {wrong}");
            }
            parse(&["--api-addr", address, "--insecure-api"], &[]).unwrap();
            parse(&["--api-addr", address, "-f", path.to_str().unwrap()], &[]).unwrap();
        }
        for address in ["localhost:2381", "127.0.0.1:0", "[::1]:2381", "127.8.8.8:1", ""] {
            parse(&["--api-addr", address], &[]).unwrap();
        }
    }

    #[test]
    fn logins_come_from_the_file_and_are_not_printed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weir.yaml");
        std::fs::write(&path, "basic-auth: {ann: 'se,cret=1'}\n").unwrap();
        let options = parse(&["-f", path.to_str().unwrap()], &[]).unwrap();
        assert!(options.logins.is_some() && !format!("{options:?}").contains("se,cret"));
    }

    #[test]
    fn peers_elsewhere_need_a_secret_or_a_word_that_they_do_without() {
        let directory = tempfile::tempdir().unwrap();
        let secret = directory.path().join("secret");
        std::fs::write(&secret, "sixteen bytes and more").unwrap();
        let secret = secret.to_str().unwrap();
        for (flags, named) in [
            (&["--listen-peer-urls", "http://0.0.0.0:2380"][..], "--listen-peer-urls http://0.0.0.0:2380: plain http"),
            (&["--listen-peer-urls", "http://[::]:2380"], "--listen-peer-urls http://[::]:2380: plain http"),
            (
                &["--initial-cluster", "eg-default-name=http://127.0.0.1:1,b=http://10.0.0.2:1"],
                "--initial-cluster b http://10.0.0.2:1",
            ),
            (
                &["--cluster-role", "secondary", "--primary-listen-peer-urls", "http://10.0.0.1:2380"],
                "--primary-listen-peer-urls http://10.0.0.1:2380",
            ),
        ] {
            let wrong = parse(flags, &[]).unwrap_err().to_string();
            for part in [named, "--cluster-secret-file", "--insecure-peers", "--peer-cert-file"] {
                assert!(wrong.contains(part), "{part} is not in {wrong}");
            }
            for more in [&["--insecure-peers"][..], &["--cluster-secret-file", secret]] {
                parse(&[flags, more].concat(), &[]).unwrap();
            }
        }
        for here in ["http://localhost:1", "http://127.0.0.9:1", "http://[::1]:1"] {
            parse(&["--listen-peer-urls", here], &[]).unwrap();
        }
        std::fs::write(secret, "short").unwrap();
        let wrong = parse(&["--cluster-secret-file", secret], &[]).unwrap_err().to_string();
        assert!(wrong.contains("line 1 is 5 bytes long"), "{wrong}");
    }

    #[test]
    fn of_a_flag_given_twice_the_last_counts() {
        let options = parse(&["--name", "a", "--name", "b", "--interface", "x", "--interface", "y"], &[]).unwrap();
        assert_eq!((options.name.as_str(), options.interfaces.len()), ("b", 2));
    }

    #[test]
    fn unknown_keys_of_a_file_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weir.yaml");
        std::fs::write(&path, "nmae: x\n").unwrap();
        let wrong = parse(&["-f", path.to_str().unwrap()], &[]).unwrap_err();
        assert!(wrong.to_string().contains("nmae: no such option"), "{wrong}");
    }
}
