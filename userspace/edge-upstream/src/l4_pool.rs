//! A pool of a TCPProxy or UDPProxy: a server for each client, and a connection to it.
//!
//! The servers, their balancing, health and ejection are those of a Proxy's pools; what differs is that there are no requests: a
//! connection is tried on one server after the other until one takes it, and what becomes of it is heard at its end.

use crate::balance::load::Place;
use crate::balance::{Balancer, Choice, Policy};
use crate::check::Check;
use crate::connect::{ConnectError, connect_saying};
use crate::endpoint::Server;
use crate::health::Heard;
use crate::outlier::Change;
use crate::patience;
use crate::random;
use crate::tls::Identity;
use base_model::{L4PoolSpec, MtlsSpec, Protocol, ProxyProtocol};
use base_telemetry::proxy::{PoolNames, PoolRecorder, PoolStats, ServerRecorder, UpstreamError};
use base_telemetry::{Limit, Telemetry};
use base_tls::Transport;
use edge_pipeline::Client;
use proto_http::Request;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Longest time a connect may take where the document says nothing: another server may be up, and the client waits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Servers tried for one connection, at most; beyond it there is none, counted as `servers_tried`.
const TRIED_MAX: usize = 32;

/// Connects that may take their whole time, for one connection: those that are refused cost nothing, these make a client wait.
const SILENT_MAX: u32 = 2;

/// See the module doc.
pub struct L4Pool {
    /// `DOCUMENT/POOL`, as in the figures.
    name: String,
    balancer: Balancer,
    /// By server, in the order of the balancer.
    seats: Vec<Arc<Seats>>,
    refused_permil: u32,
    connect_timeout: Duration,
    told: ProxyProtocol,
    counts_ends: bool,
    full: Limit,
    tried_limit: Limit,
    /// By worker, then by server.
    recorders: Vec<(PoolRecorder, Vec<ServerRecorder>)>,
    stats: Arc<PoolStats>,
}

/// Connections that a server has from this pool, and may have.
#[derive(Debug)]
struct Seats {
    taken: AtomicUsize,
    most: AtomicUsize,
}

/// A place among a server's connections, until it is dropped; counted as a connection of the pool.
pub struct Seat {
    seats: Arc<Seats>,
    recorder: ServerRecorder,
    _place: Option<Place>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken.fetch_sub(1, Ordering::Relaxed);
        self.recorder.connection_closed(false);
    }
}

/// A connection to a server of the pool.
pub struct Connected {
    pub stream: Transport,
    pub choice: Choice,
    pub seat: Seat,
}

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoServer {
    /// Each has as many connections as it may have.
    Full,
    /// None could be connected to.
    Unreachable,
    /// It is one of those that the document has refused.
    Refused,
}

impl L4Pool {
    /// `name` is `DOCUMENT/POOL`; `listener` what the document says of the PROXY protocol as a whole. `previous` is the pool in whose
    /// place this one comes: its connections are counted on.
    pub fn new(
        name: &str,
        kind: &str,
        spec: &L4PoolSpec,
        protocol: Protocol,
        listener: ProxyProtocol,
        telemetry: &Telemetry,
        previous: Option<&L4Pool>,
    ) -> Result<L4Pool, String> {
        let identity = match spec.speaks_tls() {
            false => None,
            true => Some(
                Identity::shared(spec.mtls.as_ref())
                    .map_err(|error| format!("mtls.{}: {}", MtlsSpec::field_of(error.part), error.text))?,
            ),
        };
        let tagged = |tags: &[String]| spec.server_tags.is_empty() || tags.iter().any(|t| spec.server_tags.contains(t));
        let (mut servers, mut seats) = (Vec::new(), Vec::new());
        for server in spec.servers.iter().filter(|server| tagged(&server.tags)) {
            let mut at = server.place(protocol).map_err(|why| format!("{}: {why}", server.url))?;
            if spec.tls && at.socket.is_none() {
                "https".clone_into(&mut at.scheme);
            }
            let made =
                Server::at(at, &server.url, server.weight, false, identity.as_ref())?.told(spec.speaks(listener));
            servers.push(Arc::new(if protocol == Protocol::Udp { made.over_datagrams() } else { made }));
            let most = if server.max_connections == 0 { usize::MAX } else { server.max_connections as usize };
            let known = previous.and_then(|pool| pool.seats_of(&server.url));
            let kept =
                known.unwrap_or_else(|| Arc::new(Seats { taken: AtomicUsize::new(0), most: AtomicUsize::new(0) }));
            kept.most.store(most, Ordering::Relaxed);
            seats.push(kept);
        }
        patience::await_addresses(&servers);
        let balance = spec.load_balance.clone().unwrap_or_default();
        let stats = telemetry.pool(PoolNames {
            pool: name.to_owned(),
            proxy: name.split('/').next().unwrap_or_default().to_owned(),
            kind: kind.to_owned(),
            load_balance_policy: balance.policy.clone(),
            filter_policy: String::new(),
        });
        stats.retain_servers(|url| servers.iter().any(|s| s.url == url));
        let workers = telemetry.workers();
        let recorders = (0..workers).map(|worker| {
            let of_pool = stats.recorder(worker);
            let of_servers = servers.iter().map(|s| of_pool.server(&s.url)).collect();
            (of_pool, of_servers)
        });
        let recorders = recorders.collect();
        servers.iter().for_each(|server| stats.watch(&server.url, server.health.vitals()));
        let check = |server: &Arc<Server>| {
            let spec = spec.health_check.iter();
            spec.map(|spec| Check::shared(server, spec, L4PoolSpec::probe(protocol), telemetry)).collect()
        };
        let checks = servers.iter().map(check).collect::<Result<Vec<Vec<Arc<Check>>>, String>>()?;
        for (server, checks) in servers.iter().zip(&checks) {
            stats.watch_checks(&server.url, checks.iter().map(|check| check.checkup().clone()).collect());
        }
        let policy = Policy::new(&balance, &servers, workers);
        let unlimited = vec![0; servers.len()];
        let crowded = telemetry.limits().register("upstream_probes");
        Ok(L4Pool {
            name: name.to_owned(),
            balancer: Balancer::new(servers, policy, spec.outlier_detection.as_ref(), crowded).checked(checks).limited(
                &unlimited,
                None,
                previous.map(|pool| &pool.balancer),
            ),
            seats,
            refused_permil: spec.refused_permil,
            connect_timeout: spec.connect_timeout.map_or(CONNECT_TIMEOUT, Duration::from),
            told: spec.speaks(listener),
            counts_ends: spec.outlier_detection.is_some(),
            full: telemetry.limits().register("server_connections"),
            tried_limit: telemetry.limits().register("servers_tried"),
            recorders,
            stats,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What health checks find of its servers; empty where they are not probed.
    pub fn servers_json(&self) -> Vec<Value> {
        self.stats.servers_json()
    }

    /// What its servers are told of clients.
    pub fn told(&self) -> ProxyProtocol {
        self.told
    }

    pub fn server(&self, choice: Choice) -> &Arc<Server> {
        &self.balancer.servers()[choice.index]
    }

    /// A connection to a server for this client. `preamble` goes before everything else, TLS included.
    pub async fn connect(&self, client: &Client, preamble: &[u8]) -> Result<Connected, NoServer> {
        let mut search = self.search(client);
        let mut silent = 0;
        while let Some((choice, seat)) = search.next() {
            let server = self.server(choice);
            let limit = self.connect_timeout;
            let connecting = connect_saying(&server.endpoint, server.identity.as_deref(), &[], preamble, limit);
            match connecting.await {
                Ok(stream) => return Ok(Connected { stream, choice, seat }),
                Err(error) => {
                    self.unreachable(choice, &error);
                    if error.is_time_out() {
                        silent += 1;
                        if silent == SILENT_MAX {
                            return Err(NoServer::Unreachable);
                        }
                    }
                }
            }
        }
        Err(search.failed())
    }

    /// Servers for this client, one after the other, each with a place among its connections.
    pub fn search<'p>(&'p self, client: &'p Client) -> Search<'p> {
        let refused = self.refused_permil > 0 && random::below(1000) < u64::from(self.refused_permil);
        Search { pool: self, client, refused, first: None, tried: Vec::new(), full: 0 }
    }

    fn take(&self, choice: Choice) -> Option<Seat> {
        let seats = &self.seats[choice.index];
        let most = seats.most.load(Ordering::Relaxed);
        let more = |taken: usize| (taken < most).then_some(taken + 1);
        seats.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let recorder = self.recorders()[choice.index].clone();
        recorder.connection_created();
        let place = self.balancer.enter(choice.index).ok().flatten();
        Some(Seat { seats: seats.clone(), recorder, _place: place })
    }

    fn seats_of(&self, url: &str) -> Option<Arc<Seats>> {
        let at = self.balancer.servers().iter().position(|server| server.url == url)?;
        Some(self.seats[at].clone())
    }

    #[cfg(test)]
    pub(crate) fn urls(&self) -> Vec<String> {
        self.balancer.servers().iter().map(|server| server.url.clone()).collect()
    }

    /// A server has one more from this pool.
    #[cfg(test)]
    pub(crate) fn takes(&self, url: &str) {
        self.seats_of(url).unwrap().taken.fetch_add(1, Ordering::Relaxed);
    }

    /// How many a server has from this pool.
    #[cfg(test)]
    pub(crate) fn connections(&self, url: &str) -> usize {
        self.seats_of(url).map_or(0, |seats| seats.taken.load(Ordering::Relaxed))
    }

    fn recorders(&self) -> &[ServerRecorder] {
        let worker = base_runtime::worker_index().min(self.recorders.len() - 1);
        &self.recorders[worker].1
    }

    /// A server could not be connected to.
    fn unreachable(&self, choice: Choice, error: &ConnectError) {
        let counted = match error.cause() {
            ConnectError::Tls(_) => UpstreamError::Tls,
            _ if error.is_time_out() => UpstreamError::ConnectTimeout,
            _ => UpstreamError::Connect,
        };
        tracing::debug!(pool = self.name, server = self.server(choice).url, "no connection: {}", counted.text());
        self.recorders()[choice.index].error(counted);
        self.heard(choice, Heard::Unreachable);
    }

    /// The server was well.
    pub fn served(&self, choice: Choice) {
        self.heard(choice, Heard::Answer);
    }

    /// The server broke off before anything came from it, or says that nobody takes what it is sent.
    pub fn failed(&self, choice: Choice, refused: bool) {
        let (error, heard) = match refused {
            true => (UpstreamError::Connect, Heard::Unreachable),
            false => (UpstreamError::Closed, Heard::NoAnswer),
        };
        self.recorders()[choice.index].error(error);
        self.heard(choice, heard);
    }

    /// Whether what becomes of connections, once there are any, counts against servers.
    pub fn counts_ends(&self) -> bool {
        self.counts_ends
    }

    fn heard(&self, choice: Choice, heard: Heard) {
        let (pool, server) = (self.name.as_str(), self.server(choice).url.as_str());
        match self.balancer.report(choice.index, heard, choice.era) {
            Some(Change::Ejected) => {
                self.recorders()[choice.index].ejected();
                tracing::warn!(pool, server, "the server failed too often and is left out");
            }
            Some(Change::Prolonged) => {
                tracing::info!(pool, server, "the server was tried and failed again; it stays out");
            }
            Some(Change::Readmitted) => tracing::info!(pool, server, "the server was tried and is back"),
            None => {}
        }
    }
}

/// See [`L4Pool::search`].
pub struct Search<'p> {
    pool: &'p L4Pool,
    client: &'p Client,
    /// It is given none.
    refused: bool,
    first: Option<Choice>,
    tried: Vec<usize>,
    full: usize,
}

impl Search<'_> {
    /// The next server that has room; none is given twice.
    #[expect(clippy::should_implement_trait, reason = "what follows depends on what became of the one before")]
    pub fn next(&mut self) -> Option<(Choice, Seat)> {
        let pool = self.pool;
        if self.refused {
            return None;
        }
        loop {
            let worker = base_runtime::worker_index();
            let choice = match self.first {
                None => {
                    let chosen = pool.balancer.choose(&Request::default(), self.client, worker);
                    self.first = chosen;
                    chosen?
                }
                Some(first) => {
                    if self.tried.len() == TRIED_MAX {
                        pool.tried_limit.hit(worker);
                        return None;
                    }
                    let next = pool.balancer.another(first, &self.tried)?;
                    if let Some(last) = self.tried.last() {
                        pool.recorders()[*last].failed_over();
                    }
                    next
                }
            };
            let of_pool = &pool.recorders[worker.min(pool.recorders.len() - 1)].0;
            if choice.panicked {
                of_pool.panicked();
            }
            self.tried.push(choice.index);
            match pool.take(choice) {
                Some(seat) => return Some((choice, seat)),
                None => {
                    self.full += 1;
                    pool.full.hit(worker);
                }
            }
        }
    }

    /// Why there is no further one.
    pub fn failed(&self) -> NoServer {
        let worker = base_runtime::worker_index().min(self.pool.recorders.len() - 1);
        self.pool.recorders[worker].0.no_server();
        match self.refused {
            true => NoServer::Refused,
            false if self.full == self.tried.len() && self.full > 0 => NoServer::Full,
            false => NoServer::Unreachable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> L4Pool {
        let document = base_model::yaml::parse_document(text).unwrap();
        let spec: L4PoolSpec = base_model::decode(&document, "").unwrap().value;
        let telemetry = Telemetry::new(base_telemetry::Identity::default(), 1);
        L4Pool::new("db/0", "TCPProxy", &spec, Protocol::Tcp, ProxyProtocol::Off, &telemetry, None).unwrap()
    }

    /// Connections that each server is given out of 60 of one client.
    fn given(pool: &L4Pool) -> Vec<usize> {
        let client = Client { real_ip: Some([192, 0, 2, 1].into()), ..Client::default() };
        let mut given = vec![0; pool.balancer.servers().len()];
        for _ in 0..60 {
            let choice = pool.balancer.choose(&Request::default(), &client, 0).unwrap();
            given[choice.index] += 1;
        }
        given
    }

    #[test]
    fn servers_are_chosen_as_the_document_says() {
        let both =
            "servers: [{url: '127.0.0.1:1', tags: [green], weight: 0}, {url: '127.0.0.1:2', tags: [blue], weight: 9}]";
        assert_eq!(given(&pool(&format!("{{{both}}}"))), [30, 30]);
        assert_eq!(given(&pool(&format!("{{loadBalance: {{policy: weightedRandom}}, {both}}}"))), [0, 60]);
        assert!(given(&pool(&format!("{{loadBalance: {{policy: ipHash}}, {both}}}"))).contains(&60));
        let blue = pool(&format!("{{serverTags: [blue], {both}}}"));
        assert_eq!(
            blue.balancer.servers().iter().map(|server| server.url.as_str()).collect::<Vec<_>>(),
            ["127.0.0.1:2"]
        );
    }

    #[test]
    fn as_many_are_refused_as_the_document_says() {
        let one = "servers: [{url: '127.0.0.1:1'}]";
        let refused = |more: &str| {
            let (pool, client) = (pool(&format!("{{{more}{one}}}")), Client::default());
            (0..2000).filter(|_| pool.search(&client).refused).count()
        };
        assert_eq!((refused(""), refused("refusedPermil: 1000, ")), (0, 2000));
        // A quarter of 2,000 with a standard deviation of 19.
        let some = refused("refusedPermil: 250, ");
        assert!((350..650).contains(&some), "{some}");
        let pool = pool(&format!("{{refusedPermil: 1000, {one}}}"));
        let client = Client::default();
        assert!(pool.search(&client).next().is_none(), "it is given no server");
    }

    #[test]
    fn connecting_takes_as_long_as_the_document_says() {
        let one = "servers: [{url: '127.0.0.1:1'}]";
        assert_eq!(pool(&format!("{{{one}}}")).connect_timeout, CONNECT_TIMEOUT);
        assert_eq!(pool(&format!("{{connectTimeout: 3s, {one}}}")).connect_timeout, Duration::from_secs(3));
    }
}
