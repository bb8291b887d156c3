use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base_text::quoted;
use control_api::tls::{ClientTrust, Identity, Pem, ServerTls, TlsError, TlsFiles, client_config, server_config};
use control_api::{EdgeReport, Member, MemberRole};
use serde_json::Value;

use crate::join::Issued;
use crate::secret::ClusterSecret;

/// What a member is started with. The names are those of the flags.
pub struct Config {
    pub name: String,
    pub cluster_name: String,
    pub role: MemberRole,
    /// `http://HOST:PORT`, or `https://HOST:PORT` with `tls`; the first that binds is used for advertising when nothing else is given.
    pub listen_peer_urls: Vec<String>,
    /// Sockets that are bound already (inherited, or a test's); they take the place of `listen_peer_urls`.
    pub listeners: Vec<TcpListener>,
    /// Where other members reach this one. Default: its entry in `initial_cluster`, else what it listens on.
    pub advertise_peer_url: Option<String>,
    /// Name → peer URL of the voters that found the cluster, this one among them. Empty: a cluster of one.
    pub initial_cluster: BTreeMap<String, String>,
    /// Where a secondary finds the primaries, beside `initial_cluster`.
    pub primary_peer_urls: Vec<String>,
    pub state_flag: StateFlag,
    pub data_dir: PathBuf,
    /// How long a change may take before it is answered with 503.
    pub request_timeout: Duration,
    /// What the member says of itself; `id`, `name`, `role`, `peer_url` and `up` are filled in.
    pub member: Member,
    /// Further routes on the peer listener (the admin API's, to ask for local status).
    pub peer_routes: axum::Router,
    /// Members show each other certificates. Needed as soon as a peer URL begins with `https://`.
    pub tls: Option<PeerTls>,
    /// The cluster issues members' certificates itself: takes the place of `tls`.
    pub issued: Option<Issued>,
    /// Members sign what they say to each other, and believe nothing that is not signed.
    pub secret: Option<ClusterSecret>,
    /// `http://` peers beyond this machine without a secret; with one, calls without a signature are answered too, while a cluster
    /// gets its secret.
    pub insecure_peers: bool,
    /// What of an object is told to those who have not shown to be members (`insecure_peers`, beyond this machine). Default: all.
    pub conceal: Option<Conceal>,
    /// What this machine's edge says of itself; asked with every heartbeat. Default: there is no edge.
    pub edge_report: Option<AskEdge>,
    /// Feature level that this member takes part at: that of this program, [`control_state::LEVEL`]. A test stands in for an earlier
    /// program with a lower one.
    pub level: u32,
    /// Connections on the peer URLs that may be open at the same time. Default 32,768: each member holds a few to each other, a
    /// secondary two. Beyond it a connection is closed unheard, and counted as `crowded`.
    pub peer_connections_max: usize,
}

/// Asks this machine's edge how it is.
pub type AskEdge = Arc<dyn Fn() -> Option<EdgeReport> + Send + Sync>;

/// An object without its secrets.
pub type Conceal = Arc<dyn Fn(&Value) -> Value + Send + Sync>;

/// How members make sure of each other: each shows a certificate that the same authority has signed, whichever side it is on.
#[derive(Debug, Clone)]
pub struct PeerTls {
    pub(crate) server: ServerTls,
    fixed: Option<ClientTrust>,
}

impl PeerTls {
    /// `identity` is shown to those who connect and to those who are connected to.
    pub fn new(identity: Identity, authorities: Pem) -> Result<PeerTls, TlsError> {
        let server = server_config(&identity, Some(&authorities))?.into();
        let client = ClientTrust { authorities: Some(authorities), identity: Some(identity), skip_verify: false };
        client_config(&client)?;
        Ok(PeerTls { server, fixed: Some(client) })
    }

    /// As [`new`](PeerTls::new), from files that are read again when they change.
    pub fn of(files: TlsFiles) -> Result<PeerTls, TlsError> {
        let tls = PeerTls { server: ServerTls::of(files)?, fixed: None };
        client_config(&tls.client())?;
        Ok(tls)
    }

    /// When the certificate that this member shows ends.
    pub fn ends(&self) -> Option<SystemTime> {
        self.server.ends()
    }

    /// What this member shows, and whom it believes, where that came from files.
    pub fn identity(&self) -> Option<(Identity, Option<Pem>)> {
        self.server.identity()
    }

    pub(crate) fn client(&self) -> ClientTrust {
        let in_force = || {
            let (identity, authorities) = self.server.identity().unzip();
            ClientTrust { authorities: authorities.flatten(), identity, skip_verify: false }
        };
        self.fixed.clone().unwrap_or_else(in_force)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StateFlag {
    /// Found the cluster, or find the place in it again.
    #[default]
    New,
    /// Join a cluster that runs.
    Existing,
}

/// Why the control half does not start. The edge half can serve from its own last state all the same.
#[derive(Debug)]
pub struct StartError {
    pub kind: StartErrorKind,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartErrorKind {
    /// A flag or a combination of flags.
    Config,
    /// The data directory cannot be used.
    Data,
    /// The stored state is damaged, and nobody else has a copy.
    Damaged,
    /// A port.
    Listen,
    /// Name or cluster name do not fit what is stored, or what the others say.
    Identity,
    Raft,
}

impl Config {
    /// A cluster of one with everything at its default.
    pub fn single(name: &str, data_dir: impl Into<PathBuf>) -> Self {
        Config {
            name: name.to_owned(),
            cluster_name: "eg-cluster-default-name".to_owned(),
            role: MemberRole::Primary,
            listen_peer_urls: vec!["http://localhost:2380".to_owned()],
            listeners: Vec::new(),
            advertise_peer_url: None,
            initial_cluster: BTreeMap::new(),
            primary_peer_urls: Vec::new(),
            state_flag: StateFlag::New,
            data_dir: data_dir.into(),
            request_timeout: Duration::from_secs(10),
            member: Member { edge: true, ..Member::default() },
            peer_routes: axum::Router::new(),
            tls: None,
            issued: None,
            secret: None,
            insecure_peers: false,
            conceal: None,
            edge_report: None,
            level: control_state::LEVEL,
            peer_connections_max: PEER_CONNECTIONS_MAX,
        }
    }
}

impl StartError {
    pub(crate) fn new(kind: StartErrorKind, message: impl Into<String>) -> Self {
        StartError { kind, message: message.into() }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StartError {}

/// Refuses peer URLs that do not go together with `tls`.
pub(crate) fn check_scheme(flag: &str, url: &str, tls: bool) -> Result<(), StartError> {
    let why = match (url.starts_with("https://"), tls) {
        (true, false) => "https between members takes --peer-cert-file, --peer-key-file and --peer-trusted-ca-file",
        (false, true) => "the members of a cluster talk over https:// all of them, or none; write https://HOST:PORT",
        _ => return Ok(()),
    };
    Err(StartError::new(StartErrorKind::Config, format!("{flag}: {url}: {why}", url = quoted(&url))))
}

/// Refuses an `http://` URL of another machine, or to listen on: without a secret whoever reaches such a port could read private
/// keys and change the configuration.
pub fn check_plain(flag: &str, url: &str) -> Result<(), StartError> {
    let (host, _) = host_port(flag, url)?;
    if url.starts_with("https://") || is_loopback(&host) {
        return Ok(());
    }
    Err(StartError::new(StartErrorKind::Config, format!("{flag} {url}: {PLAIN}")))
}

/// See [`Config::peer_connections_max`].
pub const PEER_CONNECTIONS_MAX: usize = 32_768;

/// Why plain text stays on this machine, and what to do.
pub(crate) const PLAIN: &str = "plain http between machines, where anybody could read private keys and change the configuration: give \
                                every member the same --cluster-secret-file (openssl rand -hex 32), or https:// URLs and \
                                --peer-cert-file; on a network that members alone reach, --insecure-peers";

/// `localhost`, or an address of the loopback interface.
pub(crate) fn is_here(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// As [`is_here`], or a name of nothing else, such as this machine's own in `/etc/hosts`.
pub(crate) fn is_loopback(host: &str) -> bool {
    if is_here(host) || host.parse::<IpAddr>().is_ok() {
        return is_here(host);
    }
    let Ok(addresses) = (host, 0).to_socket_addrs() else { return false };
    let mut addresses = addresses.peekable();
    addresses.peek().is_some() && addresses.all(|address| address.ip().is_loopback())
}

/// `HOST:PORT` of a peer URL.
pub(crate) fn host_port(flag: &str, url: &str) -> Result<(String, u16), StartError> {
    let wrong = |why: &str| {
        let advice = "write http://HOST:PORT or https://HOST:PORT";
        StartError::new(StartErrorKind::Config, format!("{flag}: {url}: {why}; {advice}", url = quoted(&url)))
    };
    let uri: hyper::Uri = url.trim_end_matches('/').parse().map_err(|e| wrong(&format!("not a URL ({e})")))?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        _ => return Err(wrong("the scheme is missing, or neither http nor https")),
    }
    let host = uri.host().ok_or_else(|| wrong("the host is missing"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((host, uri.port_u16().ok_or_else(|| wrong("the port is missing"))?))
}

/// Whether two peer URLs lead to the same socket, as far as their texts say.
pub(crate) fn same_place(one: &str, other: &str) -> bool {
    let place = |url: &str| {
        let (host, port) = host_port("", url).ok()?;
        let host = host.to_ascii_lowercase();
        Some((if host == "localhost" { "127.0.0.1".to_owned() } else { host }, port))
    };
    one.trim_end_matches('/') == other.trim_end_matches('/') || place(one).is_some_and(|one| Some(one) == place(other))
}
