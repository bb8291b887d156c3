//! Clients of service registries: what each says of its services, as it changes.
//!
//! A client watches and tells; it decides nothing and keeps nothing. What it is told it hands on as it was said ([`Heard`]);
//! [`record::judge`] says what of it can be used. Nothing is registered here: of Easegress's objects the MeshController alone writes its
//! own instances into a registry (the others are written to by whoever serves), and where that is, what writes is a part of it.
//!
//! Reading order: [`record`] (what is said of a service, and whether it can be), [`ask`] (a request whose answer may be anything), `each.rs`
//! (a task for each service),
//! [`etcd`], [`consul`], [`zookeeper`], [`eureka`], [`nacos`], [`dns`], [`kubernetes`].
#![forbid(unsafe_code)]

pub mod ask;
pub mod consul;
pub mod dns;
mod each;
pub mod etcd;
pub mod eureka;
pub mod kubernetes;
pub mod nacos;
pub mod record;
pub mod zookeeper;

use std::collections::{BTreeMap, BTreeSet};

use base_model::ServiceRegistrySpec;
use record::Service;
use tokio::sync::{mpsc, watch};

/// What a registry has said.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// It is well, and nothing is different.
    Well,
    /// All that it has.
    All(BTreeMap<String, Service>),
    /// One service as it is now.
    Service(String, Service),
    /// It cannot be asked for one service, in words; the others go on.
    Trouble(String, String),
}

/// The services that are asked for, where a registry is asked for each.
pub type Wanted = watch::Receiver<BTreeSet<String>>;

/// Watches a registry until that goes wrong, and says in words why. `turn` grows with every call: of several places that a registry is
/// at, another one is asked each time.
pub async fn watch(spec: &ServiceRegistrySpec, turn: usize, wanted: Wanted, heard: &mpsc::Sender<Heard>) -> String {
    let watched = match spec {
        ServiceRegistrySpec::Etcd(spec) => etcd::watch(spec, turn, heard).await,
        ServiceRegistrySpec::Consul(spec) => consul::watch(spec, wanted, heard).await,
        ServiceRegistrySpec::Eureka(spec) => eureka::watch(spec, turn, wanted, heard).await,
        ServiceRegistrySpec::Nacos(spec) => nacos::watch(spec, turn, wanted, heard).await,
        ServiceRegistrySpec::Zookeeper(spec) => zookeeper::watch(spec, turn, heard).await,
        ServiceRegistrySpec::Dns(spec) => dns::watch(spec, wanted, heard).await,
        ServiceRegistrySpec::Kubernetes(spec) => kubernetes::watch(spec, wanted, heard).await,
    };
    match watched {
        Err(fault) => fault,
        Ok(()) => "nobody listens any more".to_owned(),
    }
}

/// Hands something on; ends the watch when nobody listens.
pub(crate) async fn tell(heard: &mpsc::Sender<Heard>, what: Heard) -> Result<(), String> {
    heard.send(what).await.map_err(|_| "nobody listens any more".to_owned())
}
