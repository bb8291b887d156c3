//! What the control plane published, in this plane's words.

use crate::format::Format;
use crate::sections::{self, Sections};
use base_model::HashRule;
use edge_listeners::Purged;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Documents by name. A persistent map: versions share what is the same, and a change costs the way to it.
pub type Objects = OrdMap<String, Arc<Value>>;

/// Everything a machine has to know. Parts are shared: a new version clones what did not change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Desired {
    /// Of the file that this is kept in.
    pub format: Format,
    /// Which cluster published it; versions of two clusters cannot be compared.
    pub cluster_id: String,
    /// `--cluster-name` of that cluster.
    pub cluster_name: String,
    /// Version of the configuration; grows.
    pub version: u64,
    /// Documents by name.
    pub objects: Objects,
    /// Machines by name.
    pub machines: Arc<BTreeMap<String, Machine>>,
    /// Machines that are members and steer nothing, as far as is known: nothing waits for them.
    #[serde(skip)]
    pub gone: Arc<BTreeSet<u16>>,
    /// Who serves each VirtualIP, by the object's name.
    pub steering: Arc<BTreeMap<String, Arc<Steering>>>,
    /// Keys of TLS session tickets.
    pub tickets: Arc<Tickets>,
    /// What is to go out of caches, oldest first. Of these only the last one's number is kept on disk.
    #[serde(skip)]
    pub purges: Arc<Vec<Purge>>,
    /// Number of the last of them, which has been carried out where this has gone live: a machine that starts knows whether it has missed any.
    #[serde(skip_serializing_if = "is_none_yet")]
    pub purged: u64,
    /// Clusters and versions whose place this configuration has taken, by an operator's word.
    pub succeeds: Arc<Vec<(String, u64)>>,
    /// What controllers have learned, such as the servers of services, and the users' own data. A program of before passes it over.
    #[serde(skip_serializing_if = "no_sections", deserialize_with = "sections::read")]
    pub sections: Arc<Sections>,
}

fn no_sections(sections: &Sections) -> bool {
    sections.is_empty()
}

fn is_none_yet(purged: &u64) -> bool {
    *purged == 0
}

/// A purge of caches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purge {
    /// From 1, without gaps.
    pub number: u64,
    /// The one it is for; `None` for all.
    pub cache: Option<String>,
    pub what: Purged,
}

impl Desired {
    /// Why a machine that has this keeps it when it is offered `other`, if it does: an earlier state of the same cluster, from a
    /// control half that has lost its data or is still catching up; or the state of a cluster that was founded anew under the
    /// same name and lacks objects that are served here. The first change to such a cluster would take the rest off the edges. So
    /// would the state of a cluster that has no id or no name yet: whose it is cannot be told.
    ///
    /// Versions are counters that unrelated things raise too, so they tell what is older and not what came of what: at the same
    /// version the documents are compared. And once an earlier state has been kept off (`fork`), a version beyond this one proves
    /// nothing either: until an operator has spoken only the same documents are taken, which is what a control half that catches
    /// up comes by.
    pub fn outlives(&self, other: &Desired, fork: Option<&Fork>) -> Option<Withheld> {
        if other.succeeds.iter().any(|(cluster, version)| *cluster == self.cluster_id && *version >= self.version) {
            return None;
        }
        let nameless = other.cluster_name.is_empty() && !self.cluster_name.is_empty();
        let unfounded = other.cluster_id.is_empty() || nameless;
        if unfounded && (!self.cluster_id.is_empty() || !self.objects.is_empty()) {
            return Some(Withheld::Unfounded { served: self.version });
        }
        if self.cluster_id == other.cluster_id {
            let (offered, served) = (other.version, self.version);
            if offered < served {
                return Some(Withheld::Earlier { offered, served });
            }
            let doubtful = offered == served || fork.is_some_and(|fork| fork.is_at(self));
            return (doubtful && !same_documents(&self.objects, &other.objects))
                .then_some(Withheld::Forked { offered, served });
        }
        // A state without a name was published before its cluster had one: that can be any cluster, this one as well.
        if self.cluster_name != other.cluster_name && !self.cluster_name.is_empty() {
            return None;
        }
        let missing: Vec<&String> = self.objects.keys().filter(|name| !other.objects.contains_key(*name)).collect();
        (!missing.is_empty()).then(|| Withheld::Lacking {
            served: self.version,
            count: missing.len(),
            names: missing.into_iter().take(NAMED).cloned().collect(),
        })
    }
}

impl Desired {
    /// Whether both are the same version of the same cluster's configuration.
    pub fn is_at(&self, other: &Desired) -> bool {
        (&self.cluster_id, self.version) == (&other.cluster_id, other.version)
    }
}

/// A state that was kept when an earlier one of its cluster was offered. It is on the disk, so that a start forgets nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fork {
    pub format: Format,
    pub cluster_id: String,
    /// The version that was kept.
    pub version: u64,
}

impl Fork {
    pub fn of(kept: &Desired) -> Fork {
        Fork { format: Format, cluster_id: kept.cluster_id.clone(), version: kept.version }
    }

    fn is_at(&self, kept: &Desired) -> bool {
        (&self.cluster_id, self.version) == (&kept.cluster_id, kept.version)
    }
}

fn same_documents(one: &Objects, other: &Objects) -> bool {
    one.len() == other.len()
        && one.iter().all(|(name, document)| other.get(name).is_some_and(|same| same_value(document, same)))
}

/// Fractions that were written down and read again may differ in their last digit.
fn same_value(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => {
            let near = |a: f64, b: f64| (a - b).abs() <= a.abs().max(b.abs()) * 4.0 * f64::EPSILON;
            a == b || (a.is_f64() && b.is_f64() && a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| near(a, b)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_value(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|same| same_value(value, same)))
        }
        _ => one == other,
    }
}

/// Why a machine stays with what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Withheld {
    Earlier {
        offered: u64,
        served: u64,
    },
    /// The cluster has come to this version another way.
    Forked {
        offered: u64,
        served: u64,
    },
    /// The cluster has no id or no name yet: it is being founded, and what is served here may be its own.
    Unfounded {
        served: u64,
    },
    /// Objects that are served here and that the other cluster does not have: how many, and the names of the first.
    Lacking {
        served: u64,
        count: usize,
        names: Vec<String>,
    },
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Withheld::Earlier { offered, served } => write!(
                f,
                "the cluster offers version {offered}, and this edge has served version {served} of it: the control half has lost \
                 changes, or is catching up; version {served} is served until the cluster has caught up with it, or until you say what is \
                 meant: put back what is served here (weirctl last-good restore {served}), or say that what the cluster has shall be \
                 served (weirctl last-good discard {served})"
            ),
            Withheld::Forked { offered, served } => write!(
                f,
                "the cluster, now at version {offered}, has not come by version {served} that this edge serves: its control half lost \
                 changes, and made others since; version {served} is served until you say what is meant: put back what is served \
                 here (weirctl last-good restore {served}), or say that what the cluster has shall be served (weirctl last-good \
                 discard {served})"
            ),
            Withheld::Unfounded { served } => write!(
                f,
                "the cluster has no id and name yet, so that it cannot be told whether version {served}, which this edge serves, is of \
                 it: that is served until the cluster is founded, which takes a leader and a majority of its members; if there is \
                 none, start the missing members"
            ),
            Withheld::Lacking { served, count, names } => {
                let more = if *count > names.len() { ", …" } else { "" };
                write!(
                    f,
                    "the cluster was founded anew and lacks {count} objects that this edge serves from version {served} of the old \
                     one ({}{more}): they are served until the cluster has them. Put them back (weirctl last-good restore {served}), apply \
                     them again, or say that they shall go (weirctl last-good discard {served})",
                    names.join(", ")
                )
            }
        }
    }
}

/// Names that a message about objects shows at most.
const NAMED: usize = 5;

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
    /// What counters are kept under, the same on all machines; 0: the cluster gives none yet.
    pub id: u16,
    /// Oldest first; each is a list of (machine, weight) that takes new flows.
    pub generations: Vec<Vec<(u16, u32)>>,
    /// Machines that hold connections of it.
    pub alive: Vec<u16>,
    /// What else is to be known of each generation. Missing in what a release kept on disk that knew nothing of it: see
    /// [`Steering::history`].
    pub steps: Vec<Step>,
}

/// Of a generation of a VirtualIP's steering.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Step {
    /// Grows with every change.
    pub number: u64,
    /// Machines that held connections then.
    pub alive: Vec<u16>,
    /// Machines that hold nothing in slots that are not theirs by this generation.
    pub released: Vec<u16>,
    /// What chooses the slot of a packet; none: what the document says, without a seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<HashRule>,
    /// Machines whose new flows others took for a while.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lapsed: Vec<u16>,
}

impl Steering {
    /// The generations with what is to be known of each, oldest first.
    pub fn history(&self) -> Vec<(&[(u16, u32)], Step)> {
        let step = |at: usize| match self.steps.get(at) {
            Some(step) if self.steps.len() == self.generations.len() => step.clone(),
            _ => Step { number: 0, alive: self.alive.clone(), ..Step::default() },
        };
        self.generations.iter().enumerate().map(|(at, machines)| (machines.as_slice(), step(at))).collect()
    }
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
            Desired { cluster_id, cluster_name, version, objects, ..Desired::default() }
        };
        let kept = state("one", "shop", 7, &["a", "b"]);
        for (other, expected) in [
            (state("one", "shop", 6, &["a", "b"]), Some("version 6, and this edge has served version 7")),
            (state("one", "shop", 7, &["a", "b"]), None),
            (state("one", "shop", 7, &["a"]), Some("now at version 7, has not come by version 7")),
            (state("one", "shop", 8, &[]), None),
            (
                state("two", "shop", 1, &[]),
                Some("lacks 2 objects that this edge serves from version 7 of the old one (a, b)"),
            ),
            (state("two", "shop", 9, &["b", "c"]), Some("lacks 1 objects")),
            (state("two", "shop", 2, &["a", "b", "c"]), None),
            (state("two", "other", 1, &[]), None),
            (state("", "", 1, &[]), Some("no id and name yet")),
            (state("", "shop", 9, &["a", "b", "c"]), Some("no id and name yet")),
            (state("two", "", 9, &["a", "b", "c"]), Some("no id and name yet")),
        ] {
            let told = kept.outlives(&other, None).map(|withheld| withheld.to_string());
            assert_eq!(told.is_some(), expected.is_some(), "{other:?}: {told:?}");
            assert!(told.is_none_or(|told| told.contains(expected.unwrap())), "{other:?}");
        }
        let said = |version| Desired {
            succeeds: Arc::new(vec![("zero".into(), 90), ("one".into(), version)]),
            ..state("two", "shop", 1, &[])
        };
        assert_eq!(kept.outlives(&said(7), Some(&Fork::of(&kept))), None, "the operator spoke of this version");
        assert!(kept.outlives(&said(6), None).is_some(), "of an earlier one");
        assert_eq!(Desired::default().outlives(&state("two", "", 1, &[]), None), None, "nothing outlives nothing");
        assert_eq!(Desired::default().outlives(&state("two", "shop", 1, &[]), None), None);
        let nameless = state("", "", 3, &["a"]);
        assert!(nameless.outlives(&state("two", "shop", 9, &[]), None).is_some(), "it may be of the same cluster");
        assert_eq!(nameless.outlives(&state("two", "shop", 9, &["a"]), None), None);
        assert!(nameless.outlives(&state("", "", 4, &["a"]), None).is_some());
    }
    #[test]
    fn a_fork_ends_by_no_counter() {
        let state = |version, n: &[f64]| Desired {
            cluster_id: "one".into(),
            version,
            objects: n.iter().map(|n| (format!("o{n:.0}"), Arc::new(json!({"n": n})))).collect(),
            ..Desired::default()
        };
        let kept = state(7, &[1.1, 2.2]);
        let fork = Fork::of(&kept);
        assert_eq!(kept.outlives(&state(9, &[1.1]), None), None, "normal following");
        assert_eq!(kept.outlives(&state(8, &[]), None), None, "everything was deleted");
        let forked = |offered| Some(Withheld::Forked { offered, served: 7 });
        for offered in [7, 8, 700] {
            assert_eq!(kept.outlives(&state(offered, &[1.1]), Some(&fork)), forked(offered));
            assert_eq!(kept.outlives(&state(offered, &[1.1, 2.2]), Some(&fork)), None, "it has caught up");
        }
        assert_eq!(kept.outlives(&state(7, &[1.1 + f64::EPSILON, 2.2]), None), None, "the last digit of a fraction");
        let older = Fork { version: 6, ..fork };
        assert_eq!(kept.outlives(&state(8, &[]), Some(&older)), None, "it was about another state");
    }
}
