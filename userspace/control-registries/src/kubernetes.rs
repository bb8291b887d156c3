//! Kubernetes, by watches of Services and EndpointSlices.

use std::collections::BTreeSet;

use base_model::KubernetesServiceRegistrySpec;
use control_kubernetes::endpoints::{self, Server, ServiceName};
use control_kubernetes::reflect::{Heard as Said, Place, reflect};
use control_kubernetes::{Api, Key, Kind, Object, Store};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::record::{Record, Service};
use crate::{Heard, Wanted, tell};

/// See [`crate::watch`].
pub async fn watch(
    spec: &KubernetesServiceRegistrySpec,
    mut wanted: Wanted,
    heard: &mpsc::Sender<Heard>,
) -> Result<(), String> {
    let api = Api::new(&spec.kube_config, &spec.master_url)?;
    let kinds = [Kind::Service, Kind::EndpointSlice];
    let places: Vec<Place> = kinds.into_iter().flat_map(|kind| Place::all(kind, &spec.namespaces)).collect();
    let (say, mut said) = mpsc::channel(QUEUE);
    // Ends all of them when this is given up.
    let mut tasks = JoinSet::new();
    for place in &places {
        tasks.spawn(reflect(api.clone(), place.clone(), say.clone()));
    }
    drop(say);
    let mut store = Store::default();
    let (mut whole, mut known) = (false, BTreeSet::new());
    loop {
        // What may be different: of some services, or of all.
        let mut changed: BTreeSet<Key> = BTreeSet::new();
        tokio::select! {
            Some((place, what)) = said.recv() => {
                take(&mut store, place, what, &mut changed)?;
                while let Ok((place, what)) = said.try_recv() {
                    take(&mut store, place, what, &mut changed)?;
                }
            }
            gone = wanted.changed() => gone.map_err(|_| "nobody asks for services any more".to_owned())?,
        }
        if !store.has_all(&places) {
            continue;
        }
        let first = !std::mem::replace(&mut whole, true);
        let now = wanted.borrow_and_update().clone();
        let mut said_any = false;
        for name in &now {
            let read = ServiceName::parse(name);
            let is_new = first || !known.contains(name);
            if !is_new && !read.as_ref().is_ok_and(|read| changed.contains(&read.service)) {
                continue;
            }
            said_any = true;
            let service = match read.and_then(|read| endpoints::servers(&store, &read)) {
                Ok(servers) => Service { records: servers.iter().map(record).collect(), unread: Vec::new() },
                Err(why) => Service { records: Vec::new(), unread: vec![why] },
            };
            tell(heard, Heard::Service(name.clone(), service)).await?;
        }
        known = now;
        if !said_any {
            tell(heard, Heard::Well).await?;
        }
    }
}

fn take(store: &mut Store, place: Place, what: Said, changed: &mut BTreeSet<Key>) -> Result<(), String> {
    if let Said::Fault(why) = what {
        return Err(why);
    }
    // A slice that goes, or moves to another service, is that of its service before.
    let service_of = |store: &Store, kind: Kind, key: &Key| match store.get(kind, key) {
        Some(Object::EndpointSlice(slice)) => slice.service().map(|service| Key::new(&key.namespace, service)),
        Some(Object::Service(_)) => Some(key.clone()),
        _ => None,
    };
    let before: Vec<Key> = match &what {
        Said::Put(object) => service_of(store, place.kind, &object.key()).into_iter().collect(),
        Said::Gone(key) => service_of(store, place.kind, key).into_iter().collect(),
        Said::Listed(..) => {
            store.all(place.kind).filter_map(|object| service_of(store, place.kind, &object.key())).collect()
        }
        _ => Vec::new(),
    };
    changed.extend(before);
    for (kind, key) in store.hear(&place, what) {
        changed.extend(service_of(store, kind, &key));
    }
    Ok(())
}

fn record(server: &Server) -> Record {
    Record {
        id: format!("{}:{}", server.address, server.port),
        address: server.address.clone(),
        port: server.port,
        scheme: if server.https { "https" } else { "" }.to_owned(),
        ..Record::default()
    }
}

/// What is heard while something is told.
const QUEUE: usize = 256;
