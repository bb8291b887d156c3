//! Kubernetes, by watches of Services and EndpointSlices.

use std::collections::BTreeSet;

use base_model::KubernetesServiceRegistrySpec;
use control_kubernetes::endpoints::{self, Server, ServiceName};
use control_kubernetes::reflect::{Heard as Said, Place, reflect};
use control_kubernetes::{Api, Kind, Store};
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
        tokio::select! {
            Some((place, what)) = said.recv() => {
                take(&mut store, &place, what)?;
                while let Ok((place, what)) = said.try_recv() {
                    take(&mut store, &place, what)?;
                }
            }
            gone = wanted.changed() => gone.map_err(|_| "nobody asks for services any more".to_owned())?,
        }
        if !store.has_all(&places) {
            continue;
        }
        let changed = store.take_touched();
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

fn take(store: &mut Store, place: &Place, what: Said) -> Result<(), String> {
    match what {
        Said::Fault(why) => Err(why),
        what => {
            store.hear(place, what);
            Ok(())
        }
    }
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
