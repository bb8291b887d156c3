//! What the API server is to be told of its objects: statuses, and events where an object cannot be served as it is written.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::time::SystemTime;

use control_api::Kept;
use control_api::time::rfc3339;
use control_kubernetes::ingress::Reports;
use control_kubernetes::{Api, Key, Kind, Store};
use imbl::ordmap::DiffItem;
use serde_json::{Value, json};

use crate::kubernetes::{Outcome, warns};
use crate::telling::{Lanes, Went};

/// One thing to tell.
#[derive(Debug, Clone, PartialEq)]
pub enum Tell {
    /// Of an object as it was in this version: another controller may write there too.
    Status {
        kind: Kind,
        key: Key,
        version: String,
        status: Kept,
    },
    Event {
        kind: Kind,
        key: Key,
        event: Value,
    },
}

impl Tell {
    /// The object that it is told of.
    pub fn of(&self) -> (Kind, &Key) {
        match self {
            Tell::Status { kind, key, .. } | Tell::Event { kind, key, .. } => (*kind, key),
        }
    }

    fn place(&self) -> (Kind, Key, bool) {
        let (kind, key) = self.of();
        (kind, key.clone(), matches!(self, Tell::Status { .. }))
    }
}

/// Tells each thing once.
pub struct Teller {
    lanes: Lanes,
    /// There was no room for something.
    is_full: bool,
    /// What was told last, by what it is of.
    told: HashMap<(Kind, Key, bool), u64>,
    /// Reports as they were looked at last, and those of them that there is something to be said of: of ten thousand the others are not
    /// looked at again until they are others.
    seen: Reports,
    warned: BTreeSet<(Kind, Key)>,
}

impl Teller {
    /// With what does the telling, for as long as it is not dropped; `went` hears what became of each thing. What somebody else has written
    /// to meanwhile comes anew from what is heard of it.
    pub fn new<F, U>(api: Api, went: F) -> (Teller, impl Future<Output = ()> + Send)
    where
        F: Fn(Went) -> U + Clone + Send + Sync + 'static,
        U: Future<Output = ()> + Send + 'static,
    {
        let (lanes, telling) = Lanes::new(api, went);
        let (told, seen, warned) = (HashMap::new(), Reports::default(), BTreeSet::new());
        (Teller { lanes, is_full: false, told, seen, warned }, telling)
    }

    /// It could not be told: the next time it is tried again.
    pub fn forget(&mut self, tell: &Tell) {
        self.told.remove(&tell.place());
    }

    /// The status of an object is as it was told: when it is another one, the same is told again.
    pub fn forget_status(&mut self, kind: Kind, key: &Key) {
        self.told.remove(&(kind, key.clone(), true));
    }

    /// Whether this was told of an object and is not told again for as long as it is the same.
    #[cfg(test)]
    pub fn has_told_status(&self, kind: Kind, key: &Key) -> bool {
        self.told.contains_key(&(kind, key.clone(), true))
    }

    /// What is new of it. Says whether there was room for all; the rest is told the next time.
    pub fn tell(&mut self, store: &Store, outcome: &Outcome) -> bool {
        self.is_full = false;
        // What is not to be told any more is told anew when it is again.
        self.told.retain(|(kind, key, is_status), _| match is_status {
            true => outcome.statuses.contains_key(&(*kind, key.clone())),
            false => store.get(*kind, key).is_some(),
        });
        if self.told.capacity() > 4 * (self.told.len() + 64) {
            // Ten thousand are told at once, once.
            self.told.shrink_to_fit();
        }
        for ((kind, key), status) in outcome.statuses.iter() {
            let Some(version) = store.get(*kind, key).map(|object| object.meta().resource_version.clone()) else {
                continue;
            };
            self.once(Tell::Status { kind: *kind, key: key.clone(), version, status: status.clone() }, status.text());
        }
        for (kind, key) in &self.look(&outcome.reports) {
            let Some(report) = outcome.reports.get(&(*kind, key.clone())) else { continue };
            let before = self.told.contains_key(&(*kind, key.clone(), false));
            if !warns(report) && !before {
                continue;
            }
            let Some(object) = store.get(*kind, key) else { continue };
            let (reason, of, text) = match warns(report) {
                true => ("NotAsWritten", "Warning", report.lines().join("\n")),
                false => ("Served", "Normal", "it is served as it is written".to_owned()),
            };
            let said = format!("{}{reason}{text}", object.meta().uid);
            let event = event(*kind, object.meta(), (reason, of), &text, sum(&said));
            self.once(Tell::Event { kind: *kind, key: key.clone(), event }, &said);
        }
        !self.is_full
    }

    /// Reports of which there may be something to say.
    fn look(&mut self, reports: &Reports) -> BTreeSet<(Kind, Key)> {
        let mut looked_at = BTreeSet::new();
        for item in self.seen.diff(reports) {
            match item {
                DiffItem::Add(of, report) | DiffItem::Update { new: (of, report), .. } => {
                    if warns(report) {
                        self.warned.insert(of.clone());
                    } else {
                        self.warned.remove(of);
                    }
                    looked_at.insert(of.clone());
                }
                DiffItem::Remove(of, _) => drop(self.warned.remove(of)),
            }
        }
        self.seen.clone_from(reports);
        let events = self.told.keys().filter(|(.., is_status)| !is_status).map(|(kind, key, _)| (*kind, key.clone()));
        looked_at.extend(events.chain(self.warned.iter().cloned()));
        looked_at
    }

    fn once(&mut self, tell: Tell, text: &str) {
        let (place, sum) = (tell.place(), sum(text));
        if self.told.get(&place) == Some(&sum) {
            return;
        }
        if self.lanes.offer(tell) {
            self.told.insert(place, sum);
        } else {
            self.is_full = true;
        }
    }
}

fn event(
    kind: Kind,
    meta: &control_kubernetes::object::Meta,
    (reason, of): (&str, &str),
    text: &str,
    sum: u64,
) -> Value {
    let now = rfc3339(SystemTime::now());
    let namespace = if meta.namespace.is_empty() { "default" } else { &meta.namespace };
    let message: String = text.chars().take(MESSAGE_MAX).collect();
    let about = json!({"apiVersion": kind.versions()[0], "kind": kind.name(), "namespace": meta.namespace, "name": meta.name,
                       "uid": meta.uid, "resourceVersion": meta.resource_version});
    // The same said of the same by another member is the same event.
    let name: String = meta.name.chars().take(NAME_MAX).collect();
    json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": format!("{name}.{sum:016x}"), "namespace": namespace},
           "involvedObject": about, "reason": reason, "type": of, "message": message, "count": 1,
           "source": {"component": "weir"}, "reportingComponent": "weir", "reportingInstance": "weir",
           "firstTimestamp": now, "lastTimestamp": now})
}

/// Of the same program every member has the same: no seed is drawn.
pub(crate) fn sum(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// Of Kubernetes.
const MESSAGE_MAX: usize = 1000;
const NAME_MAX: usize = 230;
