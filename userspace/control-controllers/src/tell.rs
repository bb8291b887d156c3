//! What the API server is told of its objects: statuses, and events where an object cannot be served as it is written.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::SystemTime;

use control_api::time::rfc3339;
use control_kubernetes::ingress::Reports;
use control_kubernetes::{Api, Key, Kind, Store};
use imbl::ordmap::DiffItem;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::kubernetes::{Outcome, warns};

/// One thing to tell.
#[derive(Debug, Clone, PartialEq)]
pub enum Tell {
    /// Of an object as it was in this version: another controller may write there too.
    Status {
        kind: Kind,
        key: Key,
        version: String,
        status: Arc<Value>,
    },
    Event {
        kind: Kind,
        key: Key,
        event: Value,
    },
}

impl Tell {
    fn place(&self) -> (Kind, Key, bool) {
        match self {
            Tell::Status { kind, key, .. } => (*kind, key.clone(), true),
            Tell::Event { kind, key, .. } => (*kind, key.clone(), false),
        }
    }
}

/// Tells each thing once.
pub struct Teller {
    queue: mpsc::Sender<Tell>,
    /// What was told last, by what it is of.
    told: HashMap<(Kind, Key, bool), u64>,
    /// Reports as they were looked at last, and those of them that there is something to be said of: of ten thousand the others are not
    /// looked at again until they are others.
    seen: Reports,
    warned: BTreeSet<(Kind, Key)>,
}

impl Teller {
    /// With what does the telling, for as long as it is not dropped; `untold` hears of what could not be told, and why, where that is not
    /// because somebody else has written to the object: then what is to be told comes anew from what is heard of it.
    pub fn new<F, U>(api: Api, untold: F) -> (Teller, impl Future<Output = ()> + Send)
    where
        F: Fn(Tell, Option<String>) -> U + Send + Sync + 'static,
        U: Future<Output = ()> + Send,
    {
        let (queue, mut tells) = mpsc::channel::<Tell>(QUEUE);
        let telling = async move {
            while let Some(tell) = tells.recv().await {
                if let Err(why) = send(&api, &tell).await {
                    untold(tell, why).await;
                }
            }
            std::future::pending::<()>().await;
        };
        let (told, seen, warned) = (HashMap::new(), Reports::default(), BTreeSet::new());
        (Teller { queue, told, seen, warned }, telling)
    }

    /// It could not be told: the next time it is tried again.
    pub fn forget(&mut self, tell: &Tell) {
        self.told.remove(&tell.place());
    }

    /// What is new of it. What there is no room for now is told the next time.
    pub fn tell(&mut self, store: &Store, outcome: &Outcome) {
        // Once a status is as it was told, somebody who makes it another one is told again.
        self.told.retain(|(kind, key, is_status), _| match is_status {
            true => outcome.statuses.contains_key(&(*kind, key.clone())),
            false => store.get(*kind, key).is_some(),
        });
        for ((kind, key), status) in outcome.statuses.iter() {
            let Some(version) = store.get(*kind, key).map(|object| object.meta().resource_version.clone()) else {
                continue;
            };
            self.once(
                Tell::Status { kind: *kind, key: key.clone(), version, status: status.clone() },
                &status.to_string(),
            );
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
        if self.told.get(&place) != Some(&sum) && self.queue.try_send(tell).is_ok() {
            self.told.insert(place, sum);
        }
    }
}

async fn send(api: &Api, tell: &Tell) -> Result<(), Option<String>> {
    let (sent, kind, key) = match tell {
        Tell::Status { kind, key, version, status } => (api.patch_status(*kind, key, version, status).await, kind, key),
        Tell::Event { kind, key, event } => {
            let namespace = if key.namespace.is_empty() { "default" } else { &key.namespace };
            (api.create(&format!("/api/v1/namespaces/{namespace}/events"), event).await, kind, key)
        }
    };
    match sent {
        // It has gone meanwhile.
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) if error.is_conflict() => Err(None),
        Err(error) => Err(Some(format!("{kind} {key} could not be told how it is: {error}"))),
        Ok(()) => Ok(()),
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

fn sum(text: &str) -> u64 {
    // Of the same program every member has the same: no seed is drawn.
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Ten thousand objects may have something to be told at once.
const QUEUE: usize = 32_768;
/// Of Kubernetes.
const MESSAGE_MAX: usize = 1000;
const NAME_MAX: usize = 230;
