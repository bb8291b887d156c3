//! ZooKeeper: everything below the prefix is read with a watch on each node, and read again where a watch says so.
//!
//! Instances lie at `PREFIX/SERVICE/INSTANCE`, or at `PREFIX/NAME` where the value itself says which service it is of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base_model::ZookeeperServiceRegistrySpec;
use base_text::quoted;
use serde_json::Value;
use session::{Found, Session, Woke};
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
                Woke::Well => {
                    tell(heard, Heard::Well).await?;
                    // Nothing tells when one may be read after all.
                    stale.extend(tree.forbidden());
                    if !stale.is_empty() {
                        break;
                    }
                }
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
    /// It may not be read.
    forbidden: bool,
}

impl Tree {
    /// Reads a node anew. Returns children that are not known yet.
    async fn read(&mut self, session: &mut Session, path: &str) -> Result<Vec<String>, String> {
        let depth = self.depth(path);
        let (children, value) = match session.children(path).await? {
            Found::Here(children) if depth == 0 => (children, Found::Here(Vec::new())),
            Found::Here(children) => (children, session.value(path).await?),
            Found::Nothing => (Vec::new(), Found::Nothing),
            Found::Forbidden => (Vec::new(), Found::Forbidden),
        };
        let value = match value {
            Found::Here(value) => Some(value),
            Found::Nothing if depth > 0 => {
                self.forget(path);
                return Ok(Vec::new());
            }
            // One node that others keep to themselves is no reason to know nothing of the rest.
            Found::Forbidden if depth > 0 => None,
            Found::Nothing => {
                return Err(format!("there is no node {}; create it, or give another prefix", quoted(path)));
            }
            Found::Forbidden => return Err(format!("node {} {FORBIDDEN}", quoted(path))),
        };
        if children.len() > CHILDREN_MAX {
            return Err(format!("node {} has {} children, and {CHILDREN_MAX} are read", quoted(path), children.len()));
        }
        let children: BTreeSet<String> = if depth < 2 { children.into_iter().collect() } else { BTreeSet::new() };
        let at = |child: &String| format!("{}/{child}", path.trim_end_matches('/'));
        let before = self.nodes.get(path).map(|node| node.children.clone()).unwrap_or_default();
        for gone in before.difference(&children) {
            self.forget(&at(gone));
        }
        // Also one that was there before, was found to be gone, and is there again.
        let fresh = children.iter().map(at).filter(|child| !self.nodes.contains_key(child)).collect();
        let forbidden = value.is_none();
        self.nodes.insert(path.to_owned(), Node { value: value.unwrap_or_default(), children, forbidden });
        Ok(fresh)
    }

    /// Nodes that could not be read.
    fn forbidden(&self) -> Vec<String> {
        self.nodes.iter().filter(|(_, node)| node.forbidden).map(|(path, _)| path.clone()).collect()
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
                [service] | [service, _] if node.forbidden => {
                    let why = format!("node {} {FORBIDDEN}", quoted(path));
                    services.entry(service.to_owned()).or_default().unread.push(why);
                    continue;
                }
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

const FORBIDDEN: &str = "may not be read without a login; let everybody read it";
const LEAST: Duration = Duration::from_secs(1);
const CHILDREN_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::{Arc, Mutex};

    #[test]
    fn instances_lie_below_their_services_or_name_them() {
        let node = |value: &str, children: &[&str]| Node {
            value: value.as_bytes().to_vec(),
            children: children.iter().map(|child| (*child).to_owned()).collect(),
            forbidden: false,
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

    /// Reads what is to be read, and what that leads to.
    async fn read_all(tree: &mut Tree, session: &mut Session, paths: &[&str]) {
        let mut stale: BTreeSet<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        while let Some(path) = stale.pop_first() {
            stale.extend(tree.read(session, &path).await.unwrap());
        }
    }

    #[tokio::test]
    async fn an_instance_that_goes_and_comes_back_at_once_is_there() {
        let value = |port: u16| Some(json!({"address": "10.0.0.1", "port": port}).to_string());
        let one = ("/shop/orders/1".to_owned(), value(81));
        let nodes = Arc::new(Mutex::new(BTreeSet::from([
            ("/shop".to_owned(), Some(String::new())),
            ("/shop/orders".to_owned(), Some(String::new())),
            one.clone(),
            ("/shop/orders/2".to_owned(), value(82)),
        ])));
        let mut session = Session::open(&session::serve(nodes.clone()).await, Duration::from_secs(20)).await.unwrap();
        let mut tree = Tree { prefix: "/shop".into(), nodes: BTreeMap::new() };
        read_all(&mut tree, &mut session, &["/shop"]).await;
        assert_eq!(tree.services()["orders"].records.len(), 2);
        // Of the two watches that fire, that of the instance is heard first; it is registered again before the other is looked at.
        nodes.lock().unwrap().remove(&one);
        read_all(&mut tree, &mut session, &["/shop/orders/1"]).await;
        assert_eq!(tree.services()["orders"].records.len(), 1);
        nodes.lock().unwrap().insert(one);
        read_all(&mut tree, &mut session, &["/shop/orders"]).await;
        assert_eq!(tree.services()["orders"].records.len(), 2);
    }

    #[tokio::test]
    async fn a_node_that_may_not_be_read_keeps_nothing_else_away() {
        let nodes = [
            ("/shop", Some("")),
            ("/shop/kafka", None),
            ("/shop/orders", Some("")),
            ("/shop/orders/1", Some(r#"{"address": "10.0.0.1", "port": 80}"#)),
            ("/shop/orders/2", None),
        ];
        let nodes = nodes.map(|(path, value)| (path.to_owned(), value.map(str::to_owned)));
        let nodes = Arc::new(Mutex::new(BTreeSet::from(nodes)));
        let mut session = Session::open(&session::serve(nodes.clone()).await, Duration::from_secs(20)).await.unwrap();
        let mut tree = Tree { prefix: "/shop".into(), nodes: BTreeMap::new() };
        read_all(&mut tree, &mut session, &["/shop"]).await;
        let orders = &tree.services()["orders"];
        assert_eq!((orders.records.len(), orders.unread.len()), (1, 1));
        assert!(orders.unread[0].contains("may not be read without a login"), "{orders:?}");
        assert_eq!(tree.forbidden(), ["/shop/kafka", "/shop/orders/2"], "to be tried again");
        // Somebody has let everybody read it.
        let two = "/shop/orders/2".to_owned();
        nodes.lock().unwrap().remove(&(two.clone(), None));
        nodes.lock().unwrap().insert((two.clone(), Some(r#"{"address": "10.0.0.2", "port": 80}"#.to_owned())));
        read_all(&mut tree, &mut session, &[&two]).await;
        assert_eq!((tree.services()["orders"].records.len(), tree.forbidden()), (2, vec!["/shop/kafka".to_owned()]));
    }
}
