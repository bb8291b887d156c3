//! How a member starts: flags that do not fit, its listeners, its store, its place in the group; and what it follows from then on.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base_text::quoted;
use control_api::MemberRole;
use openraft::ServerState;
use tokio::net::TcpListener;

use super::{Gate, Inner, RETRY, Voter};
use crate::config::{
    Config, PLAIN, PeerTls, StartError, StartErrorKind, StateFlag, check_plain, check_scheme, host_port, same_place,
};
use crate::machine::Machine;
use crate::marks::Marks;
use crate::network::Network;
use crate::publish::Publisher;
use crate::secret::ClusterSecret;
use crate::store::{Identity, OpenError, Store};
use crate::successor::LEASE;
use crate::types::{Peer, Raft, node_id};
use crate::wire::Wire;
use crate::{admission, follow};

pub(super) async fn begin(inner: &Arc<Inner>, alone: bool, flag: StateFlag) -> Result<(), StartError> {
    admission::same_cluster(inner).await?;
    let Some(voter) = &inner.voter else {
        inner.tasks.spawn_lasting("following the primaries", follow::follow(inner.clone()));
        return Ok(());
    };
    inner.tasks.spawn("watching Raft", watch_raft(inner.clone()));
    inner.tasks.spawn("hearing that the cluster is over", admission::end_with_cluster(inner.clone()));
    if alone {
        found_alone(inner, voter).await?;
    } else if inner.gate() == Gate::Closed {
        inner.tasks.spawn("finding the cluster", admission::find_place(inner.clone(), flag));
    }
    caught_up(voter).await;
    Ok(())
}

/// `--insecure-peers`, where it makes a difference.
pub(super) fn exposed(config: &Config, listeners: &[TcpListener]) -> bool {
    let out = |listener: &TcpListener| listener.local_addr().is_ok_and(|address| !address.ip().is_loopback());
    let mut others = config.initial_cluster.values().chain(&config.primary_peer_urls);
    config.insecure_peers
        && config.secret.is_none()
        && config.tls.is_none()
        && (listeners.iter().any(out) || others.any(|url| check_plain("", url).is_err()))
}

pub(super) fn check(config: &Config, alone: bool) -> Result<(), StartError> {
    let config_error = |message: String| Err(StartError::new(StartErrorKind::Config, message));
    let tls = config.tls.is_some();
    for (name, url) in &config.initial_cluster {
        host_port(&format!("--initial-cluster {name}"), url)?;
        check_scheme(&format!("--initial-cluster {name}"), url, tls)?;
    }
    let guarded = config.secret.is_some() || config.insecure_peers;
    for (name, url) in config.initial_cluster.iter().filter(|(name, _)| !guarded && **name != config.name) {
        check_plain(&format!("--initial-cluster {name}"), url)?;
    }
    for url in &config.primary_peer_urls {
        host_port("--primary-listen-peer-urls", url)?;
        if config.role == MemberRole::Secondary && config.initial_cluster.is_empty() {
            check_scheme("--primary-listen-peer-urls", url, tls)?;
            if !guarded {
                check_plain("--primary-listen-peer-urls", url)?;
            }
        }
    }
    if config.role == MemberRole::Primary && !alone && !config.initial_cluster.contains_key(&config.name) {
        let names: Vec<&str> = config.initial_cluster.keys().map(String::as_str).collect();
        return config_error(format!(
            "--initial-cluster names {}, but not this member ({}): list every primary as NAME=URL, with the --name of each",
            names.join(", "),
            config.name
        ));
    }
    if config.role == MemberRole::Primary
        && config.state_flag == StateFlag::Existing
        && config.initial_cluster.len() < 2
    {
        return config_error("--state-flag existing needs --initial-cluster with at least one running member".into());
    }
    if config.role == MemberRole::Secondary && config.initial_cluster.is_empty() && config.primary_peer_urls.is_empty()
    {
        return config_error(
            "a secondary has to know a primary: give --primary-listen-peer-urls http://HOST:2380 or --initial-cluster"
                .into(),
        );
    }
    Ok(())
}

pub(super) fn listen(config: &Config) -> Result<Vec<TcpListener>, StartError> {
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        listeners.push(listener.try_clone());
    }
    if config.listeners.is_empty() {
        for url in &config.listen_peer_urls {
            let (host, port) = host_port("--listen-peer-urls", url)?;
            check_scheme("--listen-peer-urls", url, config.tls.is_some())?;
            if config.secret.is_none() && !config.insecure_peers {
                check_plain("--listen-peer-urls", url)?;
            }
            // On one host the default of a secondary is the primary's own place, whoever starts first.
            let others = config.initial_cluster.iter().filter(|(name, _)| **name != config.name).map(|(_, url)| url);
            let mut primaries = config.primary_peer_urls.iter().chain(others);
            if config.role == MemberRole::Secondary && primaries.any(|primary| same_place(primary, url)) {
                tracing::warn!(
                    url,
                    "no peer listener: this is where a primary is; give --listen-peer-urls if others shall see this member's status"
                );
                continue;
            }
            match bind(&host, port) {
                Ok(listener) => listeners.push(Ok(listener)),
                // Nobody needs to reach a secondary, except to ask for its status.
                Err(error) if config.role == MemberRole::Secondary => {
                    tracing::warn!(url, %error, "no peer listener: the status of this member is not seen by others");
                }
                Err(error) => {
                    return Err(StartError::new(
                        StartErrorKind::Listen,
                        format!("--listen-peer-urls: cannot listen on {url}: {error}; is another member running here?"),
                    ));
                }
            }
        }
    }
    let adopt = |listener: std::io::Result<std::net::TcpListener>| {
        let listener = listener?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    let mut adopted = Vec::new();
    for listener in listeners {
        let listener: std::io::Result<TcpListener> = adopt(listener);
        let listener = listener.map_err(|e| StartError::new(StartErrorKind::Listen, format!("peer listener: {e}")))?;
        if let Ok(address) = listener.local_addr()
            && !address.ip().is_loopback()
            && config.tls.is_none()
        {
            match (&config.secret, config.insecure_peers) {
                (None, false) => {
                    return Err(StartError::new(
                        StartErrorKind::Config,
                        format!("--listen-peer-urls: http://{address}: {PLAIN}"),
                    ));
                }
                (Some(_), false) => {
                    tracing::warn!(%address, "members sign what they say on this address and do not encrypt it; keep it inside a \
                                              trusted network, or give them https:// URLs");
                }
                (_, true) => {
                    tracing::warn!(%address, "--insecure-peers: whoever reaches this address can read and change everything; keep \
                                              it inside a network that members alone reach");
                }
            }
        }
        adopted.push(listener);
    }
    Ok(adopted)
}

fn bind(host: &str, port: u16) -> std::io::Result<std::net::TcpListener> {
    // One address of a name is enough: `localhost` is two on most machines, and other members use the first too.
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    let first = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    std::net::TcpListener::bind(first.ok_or(std::io::ErrorKind::AddrNotAvailable)?)
}

pub(super) fn advertised(config: &Config, listeners: &[TcpListener]) -> Result<String, StartError> {
    if let Some(url) = &config.advertise_peer_url {
        host_port("--initial-advertise-peer-urls", url)?;
        check_scheme("--initial-advertise-peer-urls", url, config.tls.is_some())?;
        return Ok(url.trim_end_matches('/').to_owned());
    }
    if let Some(url) = config.initial_cluster.get(&config.name) {
        return Ok(url.trim_end_matches('/').to_owned());
    }
    let Some(address) = listeners.first().and_then(|listener| listener.local_addr().ok()) else {
        return Ok(String::new());
    };
    let ip = if address.ip().is_unspecified() {
        let own = config.member.addresses;
        own.v4.map(IpAddr::V4).or(own.v6.map(IpAddr::V6)).unwrap_or_else(|| {
            tracing::warn!("the peer listener has no address others can use: give --initial-advertise-peer-urls");
            IpAddr::from([127, 0, 0, 1])
        })
    } else {
        address.ip()
    };
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    Ok(format!("{scheme}://{}", SocketAddr::new(ip, address.port())))
}

/// Opens the store; with other members to copy from, a damaged file is set aside.
pub(super) async fn open(config: &Config, alone: bool) -> Result<Store, StartError> {
    let mut identity =
        Identity { name: config.name.clone(), cluster_name: config.cluster_name.clone(), ..Identity::default() };
    let mut opened = Store::open(&config.data_dir, identity.clone());
    let patience = Instant::now() + LET_GO;
    while matches!(opened, Err(OpenError::Busy { .. })) && Instant::now() < patience {
        // A predecessor that is just ending.
        tokio::time::sleep(RETRY).await;
        opened = Store::open(&config.data_dir, identity.clone());
    }
    let store = match opened {
        Ok(opened) => opened,
        Err(OpenError::Damaged { path, reason }) if alone => {
            return Err(StartError::new(
                StartErrorKind::Damaged,
                format!(
                    "{} is damaged: {reason}. It holds the configuration of this cluster of one, and no other member has a \
                     copy, so it is left as it is. Restore the file from a backup; or move it away, start again with an \
                     empty configuration, and apply your documents (weirctl apply -f …)",
                    path.display()
                ),
            ));
        }
        Err(OpenError::Damaged { path, reason }) => {
            let aside = Store::set_aside(&config.data_dir).map_err(|e| {
                StartError::new(
                    StartErrorKind::Data,
                    format!("{} is damaged and cannot be renamed: {e}", path.display()),
                )
            })?;
            tracing::error!(
                file = %path.display(), reason, kept = %aside.display(),
                "the Raft log is damaged; it was set aside, and this member asks the others for everything"
            );
            identity.amnesic = true;
            Store::open(&config.data_dir, identity).map_err(|e| StartError::new(StartErrorKind::Data, e.to_string()))?
        }
        Err(error) => return Err(StartError::new(StartErrorKind::Data, error.to_string())),
    };
    of_this_member(config, &store)?;
    if let Some(told) = store.identity().superseded {
        return Err(StartError::new(StartErrorKind::Identity, told));
    }
    Ok(store)
}

/// Refuses the state of another member, or of another cluster.
pub(crate) fn of_this_member(config: &Config, store: &Store) -> Result<(), StartError> {
    let stored = store.identity();
    let differs = |flag: &str, stored: &str, given: &str| {
        Err(StartError::new(
            StartErrorKind::Identity,
            format!(
                "{} belongs to {flag} {stored}, but {flag} {given} was given: repeat the old {flag}, or choose another \
                 --data-dir",
                config.data_dir.display(),
                stored = quoted(&stored),
                given = quoted(&given)
            ),
        ))
    };
    if stored.cluster_name != config.cluster_name {
        return differs("--cluster-name", &stored.cluster_name, &config.cluster_name);
    }
    if stored.name != config.name {
        return differs("--name", &stored.name, &config.name);
    }
    Ok(())
}

pub(super) async fn raft(
    config: &Config,
    wire: &Wire,
    store: &Store,
    publisher: &Arc<Publisher>,
    marks: &Arc<Marks>,
) -> Result<Raft, StartError> {
    let settings = openraft::Config {
        cluster_name: config.cluster_name.clone(),
        heartbeat_interval: HEARTBEAT_MS,
        // A follower waits for the longest timeout (the leader's lease) and then a random one, so writes pause for
        // 550–700 ms when a leader dies, and its absence is not presumed from one lost packet; `successor.rs` is
        // faster where the machine is gone.
        election_timeout_min: 200,
        election_timeout_max: LEASE.as_millis() as u64,
        install_snapshot_timeout: 30_000,
        snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(2000),
        max_in_snapshot_log_to_keep: 1000,
        replication_lag_threshold: 3000,
        ..openraft::Config::default()
    };
    // What was found in the file is nearer to the cause than what became of it.
    let raft_error = |e: String| {
        let reason = store.failure().unwrap_or_else(|| format!("Raft does not start: {e}"));
        StartError::new(StartErrorKind::Raft, reason)
    };
    let settings = settings.validate().map_err(|e| raft_error(e.to_string()))?;
    let machine = Machine::load(store.clone(), publisher.clone(), marks.clone(), config.level);
    let machine = machine.map_err(|e| raft_error(e.to_string()))?;
    let network = Network { wire: wire.clone(), store: store.clone() };
    Raft::new(node_id(&config.name), Arc::new(settings), network, store.clone(), machine)
        .await
        .map_err(|e| raft_error(e.to_string()))
}

async fn found_alone(inner: &Inner, voter: &Voter) -> Result<(), StartError> {
    let raft_error = |e: String| StartError::new(StartErrorKind::Raft, format!("Raft does not start: {e}"));
    if !voter.raft.is_initialized().await.map_err(|e| raft_error(e.to_string()))? {
        let peer = Peer { name: inner.own.name.clone(), url: inner.places.own.clone() };
        let members = BTreeMap::from([(node_id(&inner.own.name), peer)]);
        voter.raft.initialize(members).await.map_err(|e| raft_error(e.to_string()))?;
    }
    if inner.voters().iter().all(|name| *name == inner.own.name) {
        let led = voter.raft.wait(Some(Duration::from_secs(5))).state(ServerState::Leader, "a lone voter leads").await;
        led.map_err(|e| raft_error(e.to_string()))?;
    }
    Ok(())
}

/// Waits until what was committed before the start is applied, so that no reader sees an older state first.
async fn caught_up(voter: &Voter) {
    if let Some(committed) = voter.store.committed() {
        let _ =
            voter.raft.wait(Some(Duration::from_secs(5))).applied_index_at_least(Some(committed.index), "replay").await;
    }
}

/// Takes the files of the member's certificate as they change.
pub(super) async fn follow_certificates(inner: Arc<Inner>, tls: PeerTls) {
    let mut watch = control_api::tls::Watch::new("--peer-cert-file");
    loop {
        tokio::time::sleep(SECRET_LOOKED_AT).await;
        if watch.look(&tls.server)
            && let Err(error) = inner.wire().trust(&tls)
        {
            tracing::error!(%error, "other members are called with the certificate from before");
        }
    }
}

/// Takes the file of the cluster's secret as it changes.
pub(super) async fn follow_secret(secret: ClusterSecret) {
    let mut told = String::new();
    loop {
        tokio::time::sleep(SECRET_LOOKED_AT).await;
        match secret.reload() {
            Ok(true) => {
                tracing::info!("the cluster's secret was read again");
                told.clear();
            }
            Ok(false) => {}
            // The same is not said again with every look.
            Err(error) if error != told => {
                tracing::error!(error, "the cluster's secret stays what it was");
                told = error;
            }
            Err(_) => {}
        }
    }
}

async fn watch_raft(inner: Arc<Inner>) {
    let Some(voter) = inner.voter() else { return };
    let mut metrics = voter.raft.metrics();
    let (mut last, mut led) = (None, false);
    loop {
        let (leader, leads, running) = {
            let metrics = metrics.borrow_and_update();
            (metrics.current_leader, metrics.state == ServerState::Leader, metrics.running_state.clone())
        };
        if leads && !led {
            inner.roll.leads.notify_one();
        }
        led = leads;
        if let Err(fatal) = running {
            inner.health.note_leader(false);
            // What the disk said is nearer to the cause than what became of it.
            return inner.health.fail(voter.store.failure().unwrap_or_else(|| format!("Raft has ended: {fatal}")));
        }
        if let Some(leader) = leader {
            if last.is_some_and(|last| last != leader) {
                inner.health.count_leader_change();
            }
            last = Some(leader);
        }
        inner.health.note_leader(leader.is_some());
        let changed = tokio::select! {
            changed = metrics.changed() => changed,
            // The disk may fail in a write that Raft does not wait for.
            reason = voter.store.failed() => return inner.health.fail(reason),
        };
        if changed.is_err() {
            return inner.health.fail("Raft has ended".into());
        }
    }
}

const SECRET_LOOKED_AT: Duration = Duration::from_secs(1);
const HEARTBEAT_MS: u64 = 80;
const LET_GO: Duration = Duration::from_millis(1500);
