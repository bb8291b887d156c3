//! What the control plane published, in this plane's words.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Everything a machine has to know. Parts are shared: a new version clones what did not change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Desired {
    /// Which cluster published it; versions of two clusters cannot be compared.
    pub cluster_id: String,
    /// `--cluster-name` of that cluster.
    pub cluster_name: String,
    /// Version of the configuration; grows.
    pub version: u64,
    /// Documents by name.
    pub objects: Arc<BTreeMap<String, Arc<Value>>>,
    /// Machines by name.
    pub machines: Arc<BTreeMap<String, Machine>>,
    /// Who serves each VirtualIP, by the object's name.
    pub steering: Arc<BTreeMap<String, Arc<Steering>>>,
    /// Keys of TLS session tickets.
    pub tickets: Arc<Tickets>,
}

impl Desired {
    /// Whether a machine that has this should leave `other` alone for now: an earlier state of the same cluster, or the
    /// empty one of a cluster that was founded anew. Both come from a control half that has lost its data, or that has
    /// just started and is still catching up.
    pub fn outlives(&self, other: &Desired) -> bool {
        if self.cluster_id == other.cluster_id {
            other.version < self.version
        } else {
            self.cluster_name == other.cluster_name && !self.objects.is_empty() && other.objects.is_empty()
        }
    }
}

/// A machine packets can be steered to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Machine {
    /// Small number, from 1, the same on all machines.
    pub id: u16,
    pub name: String,
    /// Where other machines send it packets.
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

/// Who serves a VirtualIP: the tables follow from this alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Steering {
    /// Oldest first; each is a list of (machine, weight) that takes new flows.
    pub generations: Vec<Vec<(u16, u32)>>,
    /// Machines that hold connections of it.
    pub alive: Vec<u16>,
}

/// Session ticket keys all machines share, the oldest first. Empty: each machine has its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tickets {
    pub keys: Vec<Ticket>,
    /// Which of them makes tickets; those of all are taken.
    pub current: usize,
}

/// One session ticket key. Its secret is in no debug text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    pub name: [u8; 16],
    pub secret: [u8; 32],
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_older_or_an_empty_state_is_not_taken() {
        let state = |id: &str, name: &str, version, objects: &[&str]| {
            let objects = objects.iter().map(|n| ((*n).to_owned(), Arc::new(json!({})))).collect();
            let (cluster_id, cluster_name) = (id.to_owned(), name.to_owned());
            Desired { cluster_id, cluster_name, version, objects: Arc::new(objects), ..Desired::default() }
        };
        let kept = state("one", "shop", 7, &["a"]);
        for (other, expected) in [
            (state("one", "shop", 6, &["a"]), true),
            (state("one", "shop", 7, &["a"]), false),
            (state("one", "shop", 8, &[]), false),
            (state("two", "shop", 1, &[]), true),
            (state("two", "shop", 2, &["b"]), false),
            (state("two", "other", 1, &[]), false),
        ] {
            assert_eq!(kept.outlives(&other), expected, "{other:?}");
        }
        assert!(!Desired::default().outlives(&state("two", "", 1, &[])), "nothing outlives nothing");
    }
}
