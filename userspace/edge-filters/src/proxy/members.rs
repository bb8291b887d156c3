//! The servers of a pool as they are now: those its service has, or else those of its document.
//!
//! A change of the service changes them in place. Requests under way go on with the servers they began with; connections and what is
//! known of a server's health are the endpoint's own, so those of servers that stay are kept.

use arc_swap::ArcSwap;
use base_model::{PoolSpec, ProbeType};
use base_telemetry::Telemetry;
use base_telemetry::proxy::{PoolRecorder, PoolStats, ServerRecorder};
use edge_upstream::balance::Policy;
use edge_upstream::balance::load::Waiting;
use edge_upstream::discovery::{Directory, Follows, Instance};
use edge_upstream::sticky::Sticky;
use edge_upstream::{Balancer, Check, Identity, Server};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// See the module doc.
pub(crate) struct Members {
    /// By worker: whoever is given a request's servers counts a reference that no other worker touches.
    workers: Box<[ArcSwap<Set>]>,
    recipe: Recipe,
    /// Held while a set is made and put in its place, so that the last to be told is the last to be used.
    making: Mutex<()>,
}

/// The servers that one request chooses among, and what its worker counts them by.
pub(crate) struct Set {
    pub balancer: Arc<Balancer>,
    pub of_pool: PoolRecorder,
    /// In the order of the balancer.
    pub of_servers: Vec<ServerRecorder>,
    /// Their URLs, in the same order: a request remembers whom it asked without counting where other workers count.
    pub urls: Vec<Arc<str>>,
}

/// What a set is made of beside the service.
pub(crate) struct Recipe {
    /// The pool's, as it is told to people.
    pub name: String,
    /// Of the filter.
    pub kind: String,
    pub spec: Arc<PoolSpec>,
    pub identity: Option<Arc<Identity>>,
    /// Those of the document, which `serverTags` have been applied to.
    pub listed: Vec<Arc<Server>>,
    pub stats: Arc<PoolStats>,
    pub telemetry: Arc<Telemetry>,
}

impl Members {
    /// Follows the service of the pool, if it has one. `before` is the balancer of the generation before: what servers have under way is
    /// counted on, and who was there is no newcomer.
    pub fn after(mut recipe: Recipe, before: Option<&Balancer>) -> Result<Arc<Members>, String> {
        let key = recipe.spec.service().map(|(registry, service)| Directory::key(registry, service));
        recipe.spec = but_for_the_service(recipe.spec);
        // At once with what the service has: beside the generation before, its servers are no newcomers.
        let known = key.as_deref().map(|key| Directory::here().instances(key)).unwrap_or_default();
        let sets = recipe.sets(&known, before)?;
        let workers = sets.into_iter().map(ArcSwap::from).collect();
        let members = Arc::new(Members { workers, recipe, making: Mutex::default() });
        if let Some(key) = key {
            let follower = Arc::downgrade(&members);
            Directory::here().follow(&key, &known, follower);
        }
        Ok(members)
    }

    /// Those that a request on this worker chooses among.
    #[inline]
    pub fn of(&self, worker: usize) -> Arc<Set> {
        self.workers[worker].load_full()
    }
}

impl Follows for Members {
    fn changed(&self, instances: &[Instance]) {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.of(0);
        match self.recipe.sets(instances, Some(&before.balancer)) {
            Ok(sets) => self.workers.iter().zip(sets).for_each(|(worker, set)| worker.store(set)),
            Err(error) => {
                tracing::error!(pool = self.recipe.name, error, "a change of the service is not taken");
            }
        }
    }
}

impl Recipe {
    /// A set for each worker.
    fn sets(&self, instances: &[Instance], before: Option<&Balancer>) -> Result<Vec<Arc<Set>>, String> {
        let servers = self.servers(instances);
        let (stats, balance) = (&self.stats, self.spec.members.load_balance.clone().unwrap_or_default());
        // Those that calls name are figures of one pool, though each is alone in its own.
        if balance.policy != "forward" {
            stats.retain_servers(|url| servers.iter().any(|s| s.url == url));
        }
        servers.iter().for_each(|server| stats.watch(&server.url, server.health.vitals()));
        let checks = self.checks(&servers)?;
        for (server, checks) in servers.iter().zip(&checks) {
            stats.watch_checks(&server.url, checks.iter().map(|check| check.checkup().clone()).collect());
        }
        let workers = self.telemetry.workers();
        let recorders: Vec<(PoolRecorder, Vec<ServerRecorder>)> = (0..workers)
            .map(|worker| {
                let of_pool = stats.recorder(worker);
                let of_servers = servers.iter().map(|s| of_pool.server(&s.url)).collect();
                (of_pool, of_servers)
            })
            .collect();
        let policy = Policy::new(&balance, &servers, workers);
        let sticky = balance.sticky_session.as_ref().and_then(|spec| Sticky::new(spec, &servers));
        let most: Vec<u32> = servers.iter().map(|server| self.most_of(server)).collect();
        let waiting = waiting_of(&self.spec, before);
        let crowded = self.telemetry.limits().register("upstream_probes");
        let balancer = Balancer::new(servers, policy, self.spec.members.outlier_detection.as_ref(), crowded)
            .checked(checks)
            .sticking(sticky)
            .limited(&most, waiting, before);
        let balancer = match self.spec.members.slow_start.map(Duration::from).filter(|window| !window.is_zero()) {
            Some(window) => balancer.starting_slowly(window, before, Instant::now()),
            None => balancer,
        };
        let balancer = Arc::new(balancer);
        let set = |(of_pool, of_servers)| {
            let urls = balancer.servers().iter().map(|server| Arc::from(server.url.as_str())).collect();
            Arc::new(Set { balancer: balancer.clone(), of_pool, of_servers, urls })
        };
        Ok(recorders.into_iter().map(set).collect())
    }

    /// Requests that a server has at a time.
    fn most_of(&self, server: &Server) -> u32 {
        let listed = self.spec.servers.iter().find(|listed| listed.url == server.url);
        match listed.map_or(0, |listed| listed.max_concurrency) {
            0 => self.spec.max_concurrency,
            own => own,
        }
    }

    /// What each server is asked about its health.
    fn checks(&self, servers: &[Arc<Server>]) -> Result<Vec<Vec<Arc<Check>>>, String> {
        let usual = if self.kind == "GRPCProxy" { ProbeType::Grpc } else { ProbeType::Http };
        let specs: Vec<_> = self.spec.health_check().into_iter().chain(&self.spec.opening_check).collect();
        let of_server = |server: &Arc<Server>| {
            specs.iter().map(|spec| Check::shared(server, spec, usual, &self.telemetry)).collect::<Result<Vec<_>, _>>()
        };
        servers.iter().map(of_server).collect()
    }

    /// What the service has, as far as `serverTags` take it; where that is nobody, what the document lists.
    fn servers(&self, instances: &[Instance]) -> Vec<Arc<Server>> {
        let tagged = |instance: &&Instance| is_tagged(&self.spec, &instance.tags);
        let found: Vec<_> = instances.iter().filter(tagged).filter_map(|instance| self.server(instance)).collect();
        if found.is_empty() { self.listed.clone() } else { found }
    }

    fn server(&self, instance: &Instance) -> Option<Arc<Server>> {
        let made = Server::new(&instance.url, instance.weight, false, self.identity.as_ref());
        match made.and_then(|server| server.with_http2(self.spec.http2).with_http3(self.spec.http3)) {
            Ok(server) => Some(Arc::new(server.told(self.spec.proxy_protocol))),
            Err(error) => {
                let (pool, server) = (&self.name, &instance.url);
                tracing::error!(pool, server, error, "a server of the service cannot be used and is left out");
                None
            }
        }
    }
}

/// The same without the service that it names, in one place of memory for all pools that are alike then: of ten thousand that a controller
/// has made most are, and the document of a pool is the largest thing that is kept of it.
fn but_for_the_service(mut spec: Arc<PoolSpec>) -> Arc<PoolSpec> {
    static LATEST: Mutex<VecDeque<Weak<PoolSpec>>> = Mutex::new(VecDeque::new());
    let own = Arc::make_mut(&mut spec);
    (own.members.service_registry, own.members.service_name) = Default::default();
    let mut latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(same) = latest.iter().filter_map(Weak::upgrade).find(|known| *known == spec) {
        return same;
    }
    latest.truncate(ALIKE_SOUGHT - 1);
    latest.push_front(Arc::downgrade(&spec));
    spec
}

/// So many of the latest are looked through for one that is the same.
const ALIKE_SOUGHT: usize = 16;

/// The queue of the generation before, where there was one: who waits there is in front.
fn waiting_of(spec: &PoolSpec, before: Option<&Balancer>) -> Option<Arc<Waiting>> {
    let size = spec.members.queue.as_ref()?.size as usize;
    match before.and_then(|before| before.waiting()) {
        Some(waiting) => {
            waiting.set_most(size);
            Some(waiting.clone())
        }
        None => Some(Waiting::new(size)),
    }
}

/// Whether `serverTags` of the pool take a server with these tags.
pub(crate) fn is_tagged(spec: &PoolSpec, tags: &[String]) -> bool {
    spec.members.server_tags.is_empty() || tags.iter().any(|tag| spec.members.server_tags.contains(tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_telemetry::proxy::PoolNames;
    use edge_pipeline::Client;
    use edge_upstream::health::Heard;
    use proto_http::Request;

    fn members(text: &str) -> Arc<Members> {
        members_after(text, None)
    }

    fn members_after(text: &str, before: Option<&Balancer>) -> Arc<Members> {
        let document = base_model::yaml::parse_document(text).unwrap();
        let spec: PoolSpec = base_model::decode(&document, "").unwrap().value;
        let listed = spec.servers.iter().filter(|server| is_tagged(&spec, &server.tags));
        let listed = listed.map(|s| Arc::new(Server::new(&s.url, s.weight, false, None).unwrap())).collect();
        Members::after(
            Recipe {
                name: "proxy#p#main".to_owned(),
                kind: "Proxy".to_owned(),
                spec: Arc::new(spec),
                identity: None,
                listed,
                stats: PoolStats::new(PoolNames::default(), 2),
                telemetry: Telemetry::new(base_telemetry::Identity::default(), 2),
            },
            before,
        )
        .unwrap()
    }

    fn urls(members: &Members) -> Vec<String> {
        let both: Vec<Vec<String>> = (0..2)
            .map(|worker| members.of(worker).balancer.servers().iter().map(|server| server.url.clone()).collect())
            .collect();
        assert_eq!(both[0], both[1]);
        both[0].clone()
    }

    fn tell(service: &str, instances: &[(&str, &[&str])]) {
        let instances = instances.iter().map(|(url, tags)| Instance {
            url: (*url).to_owned(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            weight: 0,
        });
        Directory::here().set(&Directory::key("members", service), instances.collect());
    }

    #[test]
    fn a_pool_follows_its_service_and_falls_back_to_what_it_lists() {
        tell("a", &[("http://10.1.0.1:80", &[])]);
        let pool = members("{serviceRegistry: members, serviceName: a, servers: [{url: 'http://10.1.9.9:80'}]}");
        assert_eq!(urls(&pool), ["http://10.1.0.1:80"]);
        tell("a", &[("http://10.1.0.1:80", &[]), ("http://10.1.0.2:80", &[])]);
        assert_eq!(urls(&pool), ["http://10.1.0.1:80", "http://10.1.0.2:80"]);
        tell("a", &[("gopher://10.1.0.3:80", &[])]);
        assert_eq!(urls(&pool), ["http://10.1.9.9:80"], "nothing usable");
        tell("a", &[]);
        assert_eq!(urls(&pool), ["http://10.1.9.9:80"]);
        let none = members("{serviceRegistry: members, serviceName: a}");
        assert_eq!(urls(&none), Vec::<String>::new());
        assert!(none.of(0).balancer.choose(&Request::default(), &Client::default(), 0).is_none());
    }

    #[test]
    fn pools_that_are_alike_but_for_their_service_are_kept_once() {
        let of = |service: &str, more: &str| {
            members(&format!("{{serviceRegistry: members, serviceName: alike-{service}, maxConcurrency: 7777{more}}}"))
        };
        tell("alike-a", &[("http://10.5.0.1:80", &[])]);
        tell("alike-b", &[("http://10.5.0.2:80", &[])]);
        let (a, b, other) = (of("a", ""), of("b", ""), of("b", ", http2: true"));
        assert!(Arc::ptr_eq(&a.recipe.spec, &b.recipe.spec) && !Arc::ptr_eq(&b.recipe.spec, &other.recipe.spec));
        assert_eq!(
            (urls(&a), urls(&b)),
            (vec!["http://10.5.0.1:80".to_owned()], vec!["http://10.5.0.2:80".to_owned()])
        );
        tell("alike-a", &[("http://10.5.0.3:80", &[])]);
        assert_eq!(
            (urls(&a), urls(&b)),
            (vec!["http://10.5.0.3:80".to_owned()], vec!["http://10.5.0.2:80".to_owned()])
        );
    }

    #[test]
    fn tags_choose_among_what_is_discovered_and_what_is_listed() {
        let text = "{serviceRegistry: members, serviceName: b, serverTags: [green], \
                    servers: [{url: 'http://10.2.9.1:80', tags: [blue]}, {url: 'http://10.2.9.2:80', tags: [green]}]}";
        let pool = members(text);
        assert_eq!(urls(&pool), ["http://10.2.9.2:80"]);
        tell("b", &[("http://10.2.0.1:80", &["blue"]), ("http://10.2.0.2:80", &["red", "green"])]);
        assert_eq!(urls(&pool), ["http://10.2.0.2:80"]);
        tell("b", &[("http://10.2.0.1:80", &["blue"])]);
        assert_eq!(urls(&pool), ["http://10.2.9.2:80"], "tags filter all of them out");
    }

    #[test]
    fn what_is_known_of_a_server_that_stays_is_kept() {
        tell("c", &[("http://10.3.0.1:80", &[]), ("http://10.3.0.2:80", &[])]);
        let pool = members("{serviceRegistry: members, serviceName: c}");
        let before = pool.of(0);
        let server = &before.balancer.servers()[0];
        let choice = before.balancer.choose(&Request::default(), &Client::default(), 0).unwrap();
        server.health.note(Heard::Unreachable, choice.era, std::time::Instant::now());
        assert_eq!(server.health.failures(true), 1);
        tell("c", &[("http://10.3.0.3:80", &[]), ("http://10.3.0.1:80", &[])]);
        let after = pool.of(0);
        let same = &after.balancer.servers()[1];
        assert_eq!((same.connections(), same.health.failures(true)), (server.connections(), 1));
        assert_eq!(before.balancer.servers().len(), 2, "requests under way go on with what they began with");
    }

    #[test]
    fn a_pool_that_is_built_anew_counts_what_discovered_servers_have_under_way() {
        tell("d", &[("http://10.4.0.1:80", &[])]);
        let text = "{serviceRegistry: members, serviceName: d, maxConcurrency: 1}";
        let first = members(text);
        let before = first.of(0).balancer.clone();
        let Ok(Some(_under_way)) = before.enter(0) else { panic!("there is room for one") };
        let second = members_after(text, Some(&before));
        assert_eq!(urls(&second), ["http://10.4.0.1:80"]);
        assert!(second.of(0).balancer.enter(0).is_err(), "there is one already");
    }
}
