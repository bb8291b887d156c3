//! ZooKeeper: everything below the prefix is read with a watch on each node, and read again where a watch says so.
//!
//! Instances lie at `PREFIX/SERVICE/INSTANCE`, or at `PREFIX/NAME` where the value itself says which service it is of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base_model::ZookeeperServiceRegistrySpec;
use base_text::quoted;
use serde_json::Value;
use session::{Session, Woke};
use tokio::sync::mpsc;

use crate::ask::{number, text, texts};
use crate::record::{Record, Service};
use crate::{Heard, tell};

mod session;

/// See [`crate::watch`].
pub async fn watch(
    spec: &ZookeeperServiceRegistrySpec,
    turn: usize,
    heard: &mpsc::Sender<Heard>,
) -> Result<(), String> {
    let place = &spec.zkservices[turn % spec.zkservices.len()];
    let told = |why: String| format!("ZooKeeper at {place}: {why}");
    let patience = Duration::from(spec.conntimeout).max(LEAST);
    let mut session = Session::open(place, patience).await.map_err(told)?;
    let mut tree = Tree { prefix: spec.prefix.trim_end_matches('/').to_owned(), nodes: BTreeMap::new() };
    let root = if tree.prefix.is_empty() { "/".to_owned() } else { tree.prefix.clone() };
    let mut stale = BTreeSet::from([root]);
    loop {
        while let Some(path) = stale.pop_first() {
            let more = tree.read(&mut session, &path).await.map_err(told)?;
            stale.extend(more);
        }
        tell(heard, Heard::All(tree.services())).await?;
        // One more is read at once with those that are there already.
        loop {
            match session.wake(spec.sync_interval.into()).await.map_err(told)? {
                Woke::Changed(path) => {
                    stale.insert(path);
                    break;
                }
                Woke::Well => tell(heard, Heard::Well).await?,
            }
        }
        stale.extend(session.woken());
    }
}

/// What is known of the nodes below the prefix, by path.
struct Tree {
    prefix: String,
    nodes: BTreeMap<String, Node>,
}

#[derive(Default)]
struct Node {
    value: Vec<u8>,
    children: BTreeSet<String>,
}

impl Tree {
    /// Reads a node anew. Returns children that are not known yet.
    async fn read(&mut self, session: &mut Session, path: &str) -> Result<Vec<String>, String> {
        let depth = self.depth(path);
        let Some(children) = session.children(path).await? else {
            if depth == 0 {
                return Err(format!("there is no node {}; create it, or give another prefix", quoted(path)));
            }
            self.forget(path);
            return Ok(Vec::new());
        };
        let value = if depth == 0 { None } else { session.value(path).await? };
        if children.len() > CHILDREN_MAX {
            return Err(format!("node {} has {} children, and {CHILDREN_MAX} are read", quoted(path), children.len()));
        }
        let children: BTreeSet<String> = if depth < 2 { children.into_iter().collect() } else { BTreeSet::new() };
        let at = |child: &String| format!("{}/{child}", path.trim_end_matches('/'));
        let before = self.nodes.get(path).map(|node| node.children.clone()).unwrap_or_default();
        for gone in before.difference(&children) {
            self.forget(&at(gone));
        }
        let fresh = children.difference(&before).map(at).collect();
        self.nodes.insert(path.to_owned(), Node { value: value.unwrap_or_default(), children });
        Ok(fresh)
    }

    fn forget(&mut self, path: &str) {
        let below = format!("{path}/");
        self.nodes.retain(|known, _| known != path && !known.starts_with(&below));
    }

    /// 0 of the prefix, 1 of services, 2 of instances.
    fn depth(&self, path: &str) -> usize {
        let below = path.strip_prefix(&self.prefix).unwrap_or(path);
        below.split('/').filter(|part| !part.is_empty()).count()
    }

    fn services(&self) -> BTreeMap<String, Service> {
        let mut services: BTreeMap<String, Service> = BTreeMap::new();
        for (path, node) in &self.nodes {
            let below = path.strip_prefix(&self.prefix).unwrap_or(path);
            let parts: Vec<&str> = below.split('/').filter(|part| !part.is_empty()).collect();
            let (service, instance) = match parts[..] {
                [service, instance] => (service, instance),
                // A node of its own, which is a service while it has children.
                [flat] if node.children.is_empty() && !node.value.is_empty() => ("", flat),
                _ => continue,
            };
            match read(service, instance, &node.value) {
                Ok((service, record)) => services.entry(service).or_default().records.push(record),
                Err((service, why)) if !service.is_empty() => services.entry(service).or_default().unread.push(why),
                // What is nobody's is nobody's.
                Err(_) => {}
            }
        }
        services
    }
}

/// The value of a node, as Easegress writes it: its service and the instance.
fn read(service: &str, instance: &str, value: &[u8]) -> Result<(String, Record), (String, String)> {
    let told = |what: &str| (service.to_owned(), format!("node {}: {what}", quoted(&format!("{service}/{instance}"))));
    let value: Value = serde_json::from_slice(value)
        .map_err(|error| told(&format!("its value is no JSON document: {error}; write {{\"address\", \"port\"}}")))?;
    let named = text(&value, "serviceName");
    let of = match (service, named.as_str()) {
        ("", "") => return Err(told("its value names no service")),
        ("", named) => named,
        (service, "") => service,
        (service, named) if service == named => service,
        (_, named) => {
            return Err(told(&format!("its value is of service {}; write one of the two anew", quoted(named))));
        }
    };
    let record = Record {
        id: instance.to_owned(),
        address: text(&value, "address"),
        port: number(&value, "port"),
        scheme: text(&value, "scheme"),
        tags: texts(&value, "tags"),
        weight: number(&value, "weight"),
    };
    Ok((of.to_owned(), record))
}

const LEAST: Duration = Duration::from_secs(1);
const CHILDREN_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_lie_below_their_services_or_name_them() {
        let node = |value: &str, children: &[&str]| Node {
            value: value.as_bytes().to_vec(),
            children: children.iter().map(|child| (*child).to_owned()).collect(),
        };
        let tree = Tree {
            prefix: "/shop".into(),
            nodes: [
                ("/shop", node("", &["orders", "flat", "other"])),
                ("/shop/orders", node("", &["1", "2", "3"])),
                ("/shop/orders/1", node(r#"{"address": "10.0.0.1", "port": 80}"#, &[])),
                ("/shop/orders/2", node("<html>", &[])),
                ("/shop/orders/3", node(r#"{"serviceName": "carts", "address": "10.0.0.1", "port": 80}"#, &[])),
                ("/shop/flat", node(r#"{"serviceName": "carts", "address": "10.0.0.9", "port": 81}"#, &[])),
                ("/shop/other", node("something else", &[])),
            ]
            .map(|(path, node)| (path.to_owned(), node))
            .into(),
        };
        let services = tree.services();
        assert_eq!(services.keys().collect::<Vec<_>>(), ["carts", "orders"]);
        assert_eq!((services["orders"].records.len(), services["orders"].unread.len()), (1, 2));
        assert_eq!(services["carts"].records[0].address, "10.0.0.9");
        assert_eq!([tree.depth("/shop"), tree.depth("/shop/a"), tree.depth("/shop/a/b")], [0, 1, 2]);
    }
}
