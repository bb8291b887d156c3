//! A pool of a TCPProxy or UDPProxy as it is now: of the servers its service has, or else of those its document lists.
//!
//! A change of the service makes another pool in its place. Whoever has a connection, or a session, goes on with the pool that it was
//! given by; what a server that stays has from this pool, and what is known of its health, is kept.

use crate::discovery::{Directory, Follows, Instance};
use crate::l4_pool::L4Pool;
use arc_swap::ArcSwap;
use base_model::l4_pool::{L4PoolSpec, L4ServerSpec};
use base_model::{Protocol, ProxyProtocol};
use base_telemetry::Telemetry;
use std::sync::{Arc, Mutex, PoisonError};

/// See the module doc.
pub struct L4Members {
    recipe: Recipe,
    now: ArcSwap<L4Pool>,
    /// Held while a pool is made and put in its place, so that the last to be told is the last to be used.
    making: Mutex<()>,
}

/// What a pool is made of beside its service.
pub struct Recipe {
    /// `DOCUMENT/POOL`.
    pub name: String,
    /// Of the document.
    pub kind: &'static str,
    pub spec: L4PoolSpec,
    pub protocol: Protocol,
    /// What the document says of the PROXY protocol as a whole.
    pub listener: ProxyProtocol,
    pub telemetry: Arc<Telemetry>,
}

impl L4Members {
    /// Follows the service of the pool, if it has one. `previous` is the pool in whose place this one comes.
    pub fn new(recipe: Recipe, previous: Option<&L4Members>) -> Result<Arc<L4Members>, String> {
        let key = recipe.spec.service().map(|(registry, service)| Directory::key(registry, service));
        let known = key.as_deref().map(|key| Directory::here().instances(key)).unwrap_or_default();
        let before = previous.map(L4Members::current);
        let now = ArcSwap::from_pointee(recipe.pool(&known, before.as_deref())?);
        let members = Arc::new(L4Members { recipe, now, making: Mutex::default() });
        if let Some(key) = key {
            let follower = Arc::downgrade(&members);
            Directory::here().follow(&key, &known, follower);
        }
        Ok(members)
    }

    pub fn name(&self) -> &str {
        &self.recipe.name
    }

    /// The pool of now; what is chosen from it means nothing to another one.
    pub fn current(&self) -> Arc<L4Pool> {
        self.now.load_full()
    }
}

impl Follows for L4Members {
    fn changed(&self, instances: &[Instance]) {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        match self.recipe.pool(instances, Some(&self.current())) {
            Ok(pool) => self.now.store(Arc::new(pool)),
            Err(error) => tracing::error!(pool = self.recipe.name, error, "a change of the service is not taken"),
        }
    }
}

impl Recipe {
    fn pool(&self, instances: &[Instance], before: Option<&L4Pool>) -> Result<L4Pool, String> {
        let found: Vec<L4ServerSpec> = instances.iter().filter_map(|instance| self.server(instance)).collect();
        let spec = match found.is_empty() {
            true => self.spec.clone(),
            false => L4PoolSpec { servers: found, ..self.spec.clone() },
        };
        L4Pool::new(&self.name, self.kind, &spec, self.protocol, self.listener, &self.telemetry, before)
    }

    /// A server of the service, if `serverTags` take it and it can be used. What its scheme says is spoken over HTTP: here the pool says it.
    fn server(&self, instance: &Instance) -> Option<L4ServerSpec> {
        let tags = &self.spec.server_tags;
        if !tags.is_empty() && !instance.tags.iter().any(|tag| tags.contains(tag)) {
            return None;
        }
        let at = instance.url.split_once("://").map_or(instance.url.as_str(), |(_, at)| at);
        let own = if self.protocol == Protocol::Udp { "udp" } else { "tcp" };
        let server = L4ServerSpec {
            url: format!("{own}://{at}"),
            tags: instance.tags.clone(),
            weight: instance.weight,
            ..L4ServerSpec::default()
        };
        match server.place(self.protocol) {
            Ok(_) => Some(server),
            Err(error) => {
                let (pool, server) = (&self.name, &instance.url);
                tracing::error!(pool, server, error, "a server of the service cannot be used and is left out");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn members(text: &str, protocol: Protocol) -> Arc<L4Members> {
        let document = base_model::yaml::parse_document(text).unwrap();
        let spec: L4PoolSpec = base_model::decode(&document, "").unwrap().value;
        let telemetry = Telemetry::new(base_telemetry::Identity::default(), 1);
        let (name, kind, listener) = ("db/0".to_owned(), "TCPProxy", ProxyProtocol::Off);
        L4Members::new(Recipe { name, kind, spec, protocol, listener, telemetry }, None).unwrap()
    }

    fn tell(service: &str, instances: &[(&str, &str)]) {
        let instance = |(url, tag): &(&str, &str)| Instance {
            url: (*url).to_owned(),
            tags: vec![(*tag).to_owned()],
            ..Instance::default()
        };
        Directory::here().set(&Directory::key("l4", service), instances.iter().map(instance).collect());
    }

    #[test]
    fn a_pool_follows_its_service_and_falls_back_to_what_it_lists() {
        tell("a", &[("http://127.0.0.1:11", "")]);
        let text = "{serviceRegistry: l4, serviceName: a, servers: [{url: 'tcp://127.0.0.1:99'}]}";
        let pool = members(text, Protocol::Tcp);
        let before = pool.current();
        assert_eq!(before.urls(), ["tcp://127.0.0.1:11"]);
        tell("a", &[("http://127.0.0.1:11", ""), ("https://127.0.0.1:12", "")]);
        assert_eq!(pool.current().urls(), ["tcp://127.0.0.1:11", "tcp://127.0.0.1:12"]);
        assert_eq!(before.urls(), ["tcp://127.0.0.1:11"], "whoever began before goes on with that");
        tell("a", &[("http://127.0.0.1:12/path", "")]);
        assert_eq!(pool.current().urls(), ["tcp://127.0.0.1:99"], "nothing usable");
        tell("a", &[]);
        assert_eq!(pool.current().urls(), ["tcp://127.0.0.1:99"]);
        assert_eq!(members("{serviceRegistry: l4, serviceName: a}", Protocol::Tcp).current().urls(), [""; 0]);
    }

    #[test]
    fn datagrams_go_to_those_that_have_the_tag() {
        tell("b", &[("http://127.0.0.1:21", "blue"), ("127.0.0.1:22", "green")]);
        let pool = members("{serviceRegistry: l4, serviceName: b, serverTags: [green]}", Protocol::Udp);
        assert_eq!(pool.current().urls(), ["udp://127.0.0.1:22"]);
        tell("b", &[("http://127.0.0.1:21", "blue")]);
        assert_eq!(pool.current().urls(), [""; 0]);
    }

    #[test]
    fn what_a_server_that_stays_has_is_counted_on() {
        tell("c", &[("http://127.0.0.1:31", "")]);
        let pool = members("{serviceRegistry: l4, serviceName: c}", Protocol::Tcp);
        let before = pool.current();
        before.takes("tcp://127.0.0.1:31");
        tell("c", &[("http://127.0.0.1:31", ""), ("http://127.0.0.1:32", "")]);
        let after = pool.current();
        assert_eq!((after.connections("tcp://127.0.0.1:31"), after.connections("tcp://127.0.0.1:32")), (1, 0));
    }
}
