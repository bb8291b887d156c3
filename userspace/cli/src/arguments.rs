use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(name = "weirctl", version, about = "Controls a Weir cluster through its admin API", propagate_version = true)]
pub struct Arguments {
    /// Address of the admin API [default: the current context's, else localhost:2381]
    #[arg(long, global = true, value_name = "ADDR")]
    pub server: Option<String>,
    #[command(flatten)]
    pub tls: Tls,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Default)]
    pub output: Format,
    #[command(subcommand)]
    pub verb: Verb,
}

/// How the admin API is spoken to over TLS.
#[derive(Args, Clone, Default)]
pub struct Tls {
    /// Speak TLS to a server whose address has no scheme
    #[arg(long, global = true)]
    pub force_tls: bool,
    /// Believe any certificate of the server
    #[arg(long, global = true)]
    pub insecure_skip_verify: bool,
    /// Authorities of servers, PEM [default: the context's, else the system's]
    #[arg(long, global = true, value_name = "FILE")]
    pub certificate_authority: Option<PathBuf>,
    /// Certificate to show the server, PEM [default: the context's]
    #[arg(long, global = true, value_name = "FILE", requires = "client_key")]
    pub client_certificate: Option<PathBuf>,
    /// Private key of --client-certificate, PEM
    #[arg(long, global = true, value_name = "FILE", requires = "client_certificate")]
    pub client_key: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Default,
    Json,
    Yaml,
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
        /// Refuse if any of the objects was changed after this version of the configuration
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
    /// Explain a kind or a field: KIND[.field]
    Explain { query: String },
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
    /// Contexts of ~/.weirctlrc
    #[command(subcommand)]
    Config(ConfigWhat),
    /// Print a completion script
    Completion { shell: clap_complete::Shell },
    /// Members of the cluster
    #[command(subcommand)]
    Member(MemberWhat),
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
    /// CPU and memory profiles
    #[command(hide = true)]
    Profile {
        #[arg(trailing_var_arg = true)]
        rest: Vec<String>,
    },
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
    /// Forget a member that is gone
    #[command(alias = "delete")]
    Purge {
        name: String,
    },
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
pub enum StatusWhat {
    Get { name: String },
    List,
}

#[derive(Subcommand)]
pub enum ApiWhat {
    List,
}
