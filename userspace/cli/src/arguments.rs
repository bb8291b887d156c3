use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use base_model::GoDuration;
use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Args, Command, CommandFactory, Parser, Subcommand, ValueEnum};

/// Heading of what each command has, below what is its own.
const EVERYWHERE: &str = "Options of every command";

#[derive(Parser)]
#[command(name = "weirctl", version, about = "Controls a Weir cluster through its admin API", propagate_version = true)]
pub struct Arguments {
    /// Address of the admin API [default: the current context's, else localhost:2381]
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "ADDR")]
    pub server: Option<String>,
    #[command(flatten)]
    pub tls: Tls,
    /// How to print; for backup: the file
    #[arg(short, long, global = true, help_heading = EVERYWHERE, value_parser = Outputs, default_value = "default")]
    pub output: Output,
    #[command(subcommand)]
    pub verb: Verb,
}

/// How the admin API is spoken to over TLS.
#[derive(Args, Clone, Default)]
pub struct Tls {
    /// Speak TLS to a server whose address has no scheme
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub force_tls: bool,
    /// Believe any certificate of the server
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub insecure_skip_verify: bool,
    /// Authorities of servers, PEM [default: the context's, else the system's]
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE")]
    pub certificate_authority: Option<PathBuf>,
    /// Certificate to show the server, PEM [default: the context's]
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE", requires = "client_key")]
    pub client_certificate: Option<PathBuf>,
    /// Private key of --client-certificate, PEM
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE", requires = "client_certificate")]
    pub client_key: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Default,
    Json,
    Yaml,
}

/// What `-o` says.
#[derive(Clone, PartialEq, Eq)]
pub enum Output {
    Format(Format),
    /// Only a backup goes into a file.
    File(PathBuf),
}

/// Reads it; offers the formats.
#[derive(Clone)]
struct Outputs;

impl TypedValueParser for Outputs {
    type Value = Output;

    fn parse_ref(&self, command: &Command, _: Option<&Arg>, value: &OsStr) -> Result<Output, clap::Error> {
        if value.is_empty() {
            return Err(command
                .clone()
                .error(ErrorKind::InvalidValue, "--output: empty; accepted are default, json, yaml"));
        }
        let format = value.to_str().and_then(|text| Format::from_str(text, false).ok());
        Ok(format.map_or_else(|| Output::File(value.into()), Output::Format))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Format::value_variants().iter().filter_map(ValueEnum::to_possible_value)))
    }
}

impl Arguments {
    /// How to print; a file is none, where one is not written.
    pub fn format(&self) -> Result<Format, clap::Error> {
        match (&self.output, &self.verb) {
            (Output::Format(format), _) => Ok(*format),
            (Output::File(_), Verb::Backup(_) | Verb::Convert { .. }) => Ok(Format::Default),
            (Output::File(file), _) => {
                let message = format!("--output {}: not a format; accepted are default, json, yaml", file.display());
                Err(Arguments::command().error(ErrorKind::InvalidValue, message))
            }
        }
    }
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Format::Default => "default",
            Format::Json => "json",
            Format::Yaml => "yaml",
        }
    }
}

#[derive(Subcommand)]
pub enum Verb {
    /// Create objects from files (all of them or none), or an HTTP proxy from rules
    #[command(args_conflicts_with_subcommands = true)]
    Create {
        #[command(flatten)]
        files: Files,
        #[command(subcommand)]
        what: Option<CreateWhat>,
    },
    /// Create or update objects from files, all of them or none
    Apply {
        #[command(flatten)]
        files: Files,
        /// Refuse if any of the objects, kinds or data was changed after this version of the configuration
        #[arg(long, value_name = "VERSION")]
        if_version: Option<u64>,
    },
    /// Show tables of resources: get all | KIND [NAME]
    #[command(disable_version_flag = true)]
    Get {
        /// A kind, an alias of one, or all
        kind: String,
        /// One name; for custom data: KIND [ID]
        names: Vec<String>,
        /// As it was at this version of the configuration
        #[arg(long = "version", id = "at", value_name = "VERSION")]
        version: Option<u64>,
        /// Keep telling what changes
        #[arg(short, long, conflicts_with = "at")]
        watch: bool,
        /// Also who made each object, and the version that it was last changed in
        #[arg(long, conflicts_with_all = ["at", "watch"])]
        wide: bool,
        #[command(flatten)]
        namespace: Namespace,
    },
    /// List the changes of the configuration, newest first, or those of one object
    History { name: Option<String> },
    /// Show what changed from one version to another, or to now
    Diff { from: u64, to: Option<u64> },
    /// Bring every object back to what it was at a version
    Rollback {
        #[arg(id = "to", value_name = "VERSION")]
        version: u64,
    },
    /// Write the whole cluster (objects, custom data, virtual IPs, versions) into one file: backup -o FILE
    Backup(Backup),
    /// Bring the whole cluster back to what a backup holds, in one change
    Restore(Restore),
    /// Show a resource and its status on every machine
    Describe {
        kind: String,
        names: Vec<String>,
        /// The whole status, with topN
        #[arg(short, long)]
        verbose: bool,
        #[command(flatten)]
        namespace: Namespace,
    },
    /// Delete resources: delete KIND NAME…, delete KIND --all, delete -f FILE
    Delete {
        kind: Option<String>,
        names: Vec<String>,
        /// Every object of the kind
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        files: Files,
    },
    /// Change a resource in an editor ($WEIRCTL_EDITOR, $EGCTL_EDITOR, $EDITOR, vi)
    Edit { kind: String, name: Option<String> },
    /// Check documents without a cluster
    Check {
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Refuse unknown keys
        #[arg(long)]
        strict: bool,
    },
    /// Make documents of another program's configuration, and tell what could not be translated
    Convert {
        #[command(subcommand)]
        from: ConvertFrom,
    },
    /// Explain a kind or a field: KIND[.field]
    Explain { query: String },
    /// Print the JSON Schema of a kind, or of any document, for editors
    Schema { kind: Option<String> },
    /// Write a page of each kind, a cookbook and the schemas into a folder; `cargo xtask docs` does
    #[command(hide = true)]
    Docs { directory: PathBuf },
    /// List the paths of the admin API
    Apis,
    /// List the kinds and their aliases
    ApiResources,
    /// Ask whether the machine is well
    Health,
    /// Print the metrics of the machine
    Metrics,
    /// Show the log of the machine
    #[command(args_conflicts_with_subcommands = true)]
    Logs {
        /// How many lines
        #[arg(long, default_value_t = 500)]
        tail: usize,
        /// Keep following
        #[arg(short, long)]
        follow: bool,
        #[command(subcommand)]
        what: Option<LogsWhat>,
    },
    /// Show machines, servers, pools and virtual IPs with what goes through them, again and again
    Top(Top),
    /// Show requests as they end, of all machines
    Tap(Tap),
    /// Show packets and what the kernel's programs do with them, of all machines, or write them to a file that tcpdump and Wireshark read
    Capture(Capture),
    /// Tell what the kernel's programs of the machine do with a packet: 'tcp 198.51.100.7:41000 > 203.0.113.10:443', with syn behind it for
    /// one that opens a connection
    Trace {
        #[arg(required = true)]
        flow: Vec<String>,
    },
    /// Sources that the machine takes nothing from for a while, because they were refused too often
    Bans {
        #[command(subcommand)]
        what: Option<BansWhat>,
    },
    /// Tell what became of a request: ID is the X-Request-Id of its answer
    ExplainRequest { id: String },
    /// Contexts of ~/.weirctlrc
    #[command(subcommand)]
    Config(ConfigWhat),
    /// Print a completion script
    Completion { shell: clap_complete::Shell },
    /// Members of the cluster
    #[command(subcommand)]
    Member(MemberWhat),
    /// Tokens of the admin API: who may do what
    #[command(subcommand)]
    Token(TokenWhat),
    /// Programs of WasmHosts: read them again, show and change what they share
    #[command(subcommand)]
    Wasm(WasmWhat),
    /// What the edges keep of answers
    #[command(subcommand)]
    Cache(CacheWhat),
    /// What this machine's edge kept, when the cluster has lost its configuration
    LastGood {
        #[command(subcommand)]
        what: Option<LastGoodWhat>,
    },
    /// Older spelling of create, get, apply, delete
    #[command(subcommand, hide = true)]
    Object(ObjectWhat),
    /// Older spelling of apis
    #[command(subcommand, hide = true)]
    Api(ApiWhat),
    /// Older spelling of create, get, apply, delete of a CustomDataKind
    #[command(subcommand, hide = true)]
    CustomDataKind(CustomKindWhat),
    /// Older spelling of create, get, apply, delete of CustomData
    #[command(subcommand, hide = true)]
    CustomData(CustomDataWhat),
    /// Where the time and the memory of the machine that is asked go: by thread, and by what is held
    #[command(subcommand)]
    Profile(ProfileWhat),
}

#[derive(Args)]
pub struct Backup {
    /// Lock it with a passphrase: the first line of this file; - for stdin
    #[arg(long, value_name = "FILE", conflicts_with = "recipient")]
    pub passphrase_file: Option<PathBuf>,
    /// Lock it for the holder of a key: what --generate-key printed
    #[arg(long, value_name = "KEY")]
    pub recipient: Option<String>,
    /// Make such a key: the private half into this file, the other one is printed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["recipient", "passphrase_file"])]
    pub generate_key: Option<PathBuf>,
}

#[derive(Args)]
pub struct Top {
    /// Print it once; so it is with -o json and -o yaml
    #[arg(long)]
    pub once: bool,
    /// How often it is looked
    #[arg(long, value_name = "DURATION", default_value = crate::top::INTERVAL, value_parser = crate::top::interval)]
    pub interval: Duration,
}

#[derive(Args)]
pub struct Tap {
    /// Of this host; *.shop.test is all below it
    #[arg(long)]
    pub host: Option<String>,
    /// Whose path begins so, or, with * in it, is so
    #[arg(long)]
    pub path: Option<String>,
    /// With this method, such as POST
    #[arg(long)]
    pub method: Option<String>,
    /// Taken by this HTTPServer or GRPCServer
    #[arg(long, value_name = "NAME")]
    pub http_server: Option<String>,
    /// Answered so: 503, 4xx, 500-504, or several with commas
    #[arg(long)]
    pub status: Option<String>,
    /// From these addresses or prefixes
    #[arg(long, value_name = "CIDR")]
    pub client: Option<String>,
    /// That took so long or longer, such as 500ms
    #[arg(long, value_name = "DURATION")]
    pub slow: Option<String>,
    /// Only such a share of them, such as 1%
    #[arg(long, value_name = "PERCENT")]
    pub sample: Option<String>,
    /// At most so many a second of each machine [default: 100]
    #[arg(long)]
    pub rate: Option<u32>,
    /// On this machine alone
    #[arg(long, value_name = "NAME")]
    pub member: Option<String>,
    /// End after so many
    #[arg(short = 'n', long)]
    pub count: Option<u64>,
    /// End after so long, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub r#for: Option<Duration>,
}

#[derive(Args, Default)]
pub struct Capture {
    /// Write packets there, as pcapng; - for stdout
    #[arg(short, long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// For this VirtualIP, or this address
    #[arg(long, value_name = "NAME")]
    pub vip: Option<String>,
    /// That became this: drop, pass, transmit, a reason such as slot_empty, or several with commas [default: all but not_ip and not_vip]
    #[arg(long)]
    pub reason: Option<String>,
    /// Of this address or prefix
    #[arg(long, value_name = "CIDR")]
    pub source: Option<String>,
    /// Of this flow: 'tcp 198.51.100.7:41000 > 203.0.113.10:443'
    #[arg(long)]
    pub flow: Option<String>,
    /// Sent on to this machine
    #[arg(long, value_name = "NAME")]
    pub to: Option<String>,
    /// On this machine alone
    #[arg(long, value_name = "NAME", alias = "machine")]
    pub member: Option<String>,
    /// At most so many a second of each machine [default: 1000]
    #[arg(long)]
    pub rate: Option<u32>,
    /// The first bytes of each, so many [default: 2048]
    #[arg(short, long, value_name = "BYTES")]
    pub snap: Option<u32>,
    /// End after so many
    #[arg(short, long)]
    pub count: Option<u64>,
    /// End after so long, such as 30s [default: 10m, at most 1h]
    #[arg(long, value_name = "DURATION")]
    pub r#for: Option<String>,
    /// End after so many bytes of packets [default: 100000000]
    #[arg(long)]
    pub bytes: Option<u64>,
}

#[derive(Args)]
pub struct Restore {
    /// The backup; - for stdin
    pub file: PathBuf,
    /// The passphrase it was locked with: the first line of this file; - for stdin
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    pub passphrase_file: Option<PathBuf>,
    /// The key it was locked for
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Show what would become of every object, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Refuse if any object was changed after this version of the configuration
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<u64>,
    /// The backup of another cluster is meant, or what is here may be replaced by one of its earlier life
    #[arg(long)]
    pub another_cluster: bool,
    /// Bring the backup's API tokens back too, into a cluster founded anew: also those that were revoked or rotated since
    #[arg(long)]
    pub with_tokens: bool,
}

#[derive(Args)]
pub struct Files {
    /// A file of documents; - for stdin
    #[arg(short, long = "file", value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// Refuse unknown keys
    #[arg(long)]
    pub strict: bool,
}

#[derive(Args)]
pub struct Namespace {
    #[arg(long, conflicts_with = "all_namespaces")]
    pub namespace: Option<String>,
    #[arg(long)]
    pub all_namespaces: bool,
}

#[derive(Subcommand)]
pub enum CreateWhat {
    /// An HTTPServer and the pipelines behind it
    Httpproxy(HttpProxy),
}

#[derive(Args)]
pub struct HttpProxy {
    pub name: String,
    #[arg(long)]
    pub port: u16,
    /// HOST/PATH=ENDPOINT,ENDPOINT; a * at the end of the path makes it a prefix
    #[arg(long = "rule", required = true, value_name = "RULE")]
    pub rules: Vec<String>,
    /// Serve HTTPS with --cert-file and --key-file
    #[arg(long)]
    pub tls: bool,
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub cert_file: Vec<PathBuf>,
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub key_file: Vec<PathBuf>,
    /// Demand client certificates of this authority
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub ca_cert_file: Option<PathBuf>,
    /// Print the documents, change nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Subcommand)]
pub enum WasmWhat {
    /// Have every machine read its programs again from their files and URLs
    ReloadCode,
    /// Show what the programs of a filter share
    ListData { pipeline: String, filter: String },
    /// Put keys and values from a file beside what the programs of a filter share
    ApplyData {
        pipeline: String,
        filter: String,
        /// A mapping of keys to values, YAML or JSON; - for stdin
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Forget everything that the programs of a filter share
    DeleteData { pipeline: String, filter: String },
}

#[derive(Subcommand)]
pub enum ProfileWhat {
    /// Which files are being written
    Info,
    /// Begin
    #[command(subcommand)]
    Start(ProfileStart),
    /// Write what was begun
    Stop,
}

#[derive(Subcommand)]
pub enum ProfileStart {
    /// Time on processors, by thread
    Cpu { path: String },
    /// Memory when it is stopped, by what it is held for
    Memory { path: String },
}

#[derive(Subcommand)]
pub enum BansWhat {
    /// Show them
    List,
    /// Let them in again: 198.51.100.7, or any address of a banned /64
    Lift {
        #[arg(required = true, value_name = "ADDRESS")]
        sources: Vec<String>,
    },
}

#[derive(Subcommand)]
pub enum CacheWhat {
    /// Take answers out of the caches of every edge
    Purge(Purge),
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("named").required(true).multiple(true))]
pub struct Purge {
    /// What is kept for these URLs: http://host/path?query
    #[arg(value_name = "URL", group = "named")]
    pub urls: Vec<String>,
    /// What is kept for URLs that begin so
    #[arg(long, value_name = "URL", group = "named")]
    pub prefix: Vec<String>,
    /// What has this tag (Cache-Tag, Surrogate-Key)
    #[arg(long, group = "named")]
    pub tag: Vec<String>,
    /// Everything
    #[arg(long, group = "named", conflicts_with_all = ["urls", "prefix", "tag"])]
    pub all: bool,
    /// Of this cache alone: PIPELINE/FILTER, or PIPELINE/POOL for a memoryCache
    #[arg(long, value_name = "NAME")]
    pub cache: Option<String>,
}

#[derive(Subcommand)]
pub enum LogsWhat {
    GetLevel,
    SetLevel { level: String },
}

#[derive(Subcommand)]
pub enum ConfigWhat {
    CurrentContext,
    View,
    GetContexts,
    UseContext { name: String },
}

#[derive(Subcommand)]
pub enum MemberWhat {
    List,
    /// Print a token with which one new member may come: weir run --join TOKEN
    Token {
        /// How long it is good
        #[arg(long, value_name = "DURATION", default_value = "1h")]
        ttl: String,
        /// Let in only a primary, or only a secondary, which is not told what the cluster signs certificates with
        #[arg(long, value_parser = ["primary", "secondary"])]
        role: Option<String>,
        /// Let in only a member of this name
        #[arg(long)]
        name: Option<String>,
    },
    /// Show the authority that issues the members' certificates, or have another follow it now: it does by itself before it ends
    Authority {
        #[arg(long)]
        replace: bool,
    },
    /// Take another machine in that votes: checks, says how to start it, and waits until it does
    Add {
        name: String,
        /// Where the others will reach it: http://HOST:PORT or https://HOST:PORT
        #[arg(long, alias = "peer-urls", value_name = "URL")]
        peer_url: String,
        /// How long to wait until it has everything and votes, such as 5m
        #[arg(long, default_value = "0s", value_parser = duration)]
        wait: Duration,
    },
    /// Put another machine, of another name or the same, in the place of one that is gone
    Replace {
        /// The one that is gone
        old: String,
        /// Its successor
        new: String,
        /// Where the others will reach it
        #[arg(long, alias = "peer-urls", value_name = "URL")]
        peer_url: String,
        /// How long to wait until the new one votes, before the old one is removed
        #[arg(long, default_value = "5m", value_parser = duration)]
        wait: Duration,
    },
    /// Take a member out that is stopped
    Remove {
        name: String,
    },
    /// Forget a member, running or not
    #[command(alias = "delete")]
    Purge {
        name: String,
    },
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<GoDuration>().map(Duration::from).map_err(|_| "write 30s or 5m".to_owned())
}

#[derive(Subcommand)]
pub enum TokenWhat {
    /// What each token may, and since when
    List,
    /// Make a token; it is printed once
    Create {
        name: String,
        /// What its holder may do; each role includes the ones before it
        #[arg(long, value_enum, default_value_t = TokenRole::Read)]
        role: TokenRole,
        /// Only with objects of these kinds [default: all]
        #[arg(long = "kind", value_name = "KIND", value_delimiter = ',')]
        kinds: Vec<String>,
        /// Only with objects of these namespaces; what people write is in default [default: all]
        #[arg(long = "namespace", value_name = "NAMESPACE", value_delimiter = ',')]
        namespaces: Vec<String>,
    },
    /// Replace a token by a new one, which is printed
    Rotate {
        name: String,
        /// The one from before stays good for so long, such as 1h
        #[arg(long, value_name = "DURATION")]
        keep_old: Option<String>,
    },
    /// Let a token be good for nothing any more
    Revoke { name: String },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TokenRole {
    Read,
    Write,
    Admin,
}

impl TokenRole {
    pub fn name(self) -> &'static str {
        match self {
            TokenRole::Read => "read",
            TokenRole::Write => "write",
            TokenRole::Admin => "admin",
        }
    }
}

#[derive(Subcommand)]
pub enum LastGoodWhat {
    /// Put what this machine's edge kept back into the cluster
    Restore {
        /// The version it keeps, as `weirctl last-good` shows it
        #[arg(value_name = "VERSION")]
        kept: u64,
    },
    /// Let what the cluster has take the place of what edges kept
    Discard {
        /// The version it keeps, as `weirctl last-good` shows it
        #[arg(value_name = "VERSION")]
        kept: u64,
    },
}

#[derive(Subcommand)]
pub enum ObjectWhat {
    Create {
        #[command(flatten)]
        files: Files,
    },
    Update {
        #[command(flatten)]
        files: Files,
    },
    Get {
        name: String,
    },
    Delete {
        names: Vec<String>,
    },
    List,
    Kinds,
    #[command(subcommand)]
    Status(StatusWhat),
}

#[derive(Subcommand)]
pub enum CustomKindWhat {
    List,
    Get {
        name: String,
    },
    Create {
        /// A file of documents; - for stdin
        #[arg(short, long, default_value = "-")]
        file: PathBuf,
    },
    Update {
        /// A file of documents; - for stdin
        #[arg(short, long, default_value = "-")]
        file: PathBuf,
    },
    Delete {
        name: String,
    },
}

#[derive(Subcommand)]
pub enum CustomDataWhat {
    List {
        kind: String,
    },
    Get {
        kind: String,
        id: String,
    },
    Create {
        kind: String,
        /// A file of items; - for stdin
        #[arg(short, long, default_value = "-")]
        file: PathBuf,
    },
    Update {
        kind: String,
        /// A file of items; - for stdin
        #[arg(short, long, default_value = "-")]
        file: PathBuf,
    },
    /// What is to be deleted and put, at once: rebuild, delete, list
    BatchUpdate {
        kind: String,
        /// A file; - for stdin
        #[arg(short, long, default_value = "-")]
        file: PathBuf,
    },
    Delete {
        kind: String,
        id: String,
    },
}

#[derive(Subcommand)]
pub enum StatusWhat {
    Get { name: String },
    List,
}

#[derive(Subcommand)]
pub enum ApiWhat {
    List,
}

#[derive(Subcommand)]
pub enum ConvertFrom {
    /// Of nginx: servers, locations, upstreams, streams and included files
    Nginx(Convert),
    /// Of HAProxy: frontends, backends and what chooses among them
    Haproxy(Convert),
}

#[derive(Args)]
pub struct Convert {
    /// The configuration; files it names are looked for beside it
    #[arg(short, long, value_name = "CONF")]
    pub file: PathBuf,
    /// What the names of objects begin with [default: nginx or haproxy]
    #[arg(long, value_name = "PREFIX")]
    pub resource_prefix: Option<String>,
    /// Where to write what could not be translated [default: stderr]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}
