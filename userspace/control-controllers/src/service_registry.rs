//! The controller of a service registry: watches it, and writes the servers of the services that pools ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base_model::ServiceRegistrySpec;
use control_api::{ENDPOINTS, Kept, RefusalKind};
use control_registries::record::{Instance, judge};
use control_registries::{Heard, Wanted};
use control_state::{Action, Fence, KeyPut};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use crate::board::{Board, Moment};
use crate::host::{Cluster, Deposed};
use crate::pause::Pause;
use crate::plan::{Observed, Plan};

/// One registry.
pub struct Controller<C> {
    pub cluster: C,
    /// The object's.
    pub name: String,
    pub spec: ServiceRegistrySpec,
    pub fence: Fence,
    pub board: Arc<Board>,
    pub wanted: Wanted,
}

/// What the watch says, and how it ended.
enum Said {
    Heard(Heard),
    Fault(String),
}

impl<C: Cluster> Controller<C> {
    /// Goes on until another member leads, or it is dropped.
    pub async fn run(mut self) -> Deposed {
        let kind = self.spec.kind();
        self.board.update(&self.name, |entry| entry.kind = kind.to_owned());
        let (tell, mut said) = mpsc::channel(QUEUE);
        let watching = watch(self.spec.clone(), self.wanted.clone(), tell);
        tokio::pin!(watching);
        let mut observed = Observed::default();
        let (mut due, mut not_before) = (None, Instant::now());
        loop {
            let timer = async move {
                match due {
                    Some(due) => tokio::time::sleep_until(tokio::time::Instant::from_std(due)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = &mut watching => {}
                Some(first) = said.recv() => {
                    self.hear(&mut observed, first);
                    while let Ok(next) = said.try_recv() {
                        self.hear(&mut observed, next);
                    }
                }
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return Deposed;
                    }
                }
                () = timer => {}
            }
            match self.act(&mut observed, &mut not_before).await {
                Ok(next) => due = next,
                Err(deposed) => return deposed,
            }
        }
    }

    fn hear(&self, observed: &mut Observed, said: Said) {
        let heard = match said {
            Said::Fault(fault) => {
                tracing::warn!(registry = self.name, "{fault}; its last known servers are used on");
                observed.went_wrong();
                self.board.update(&self.name, |entry| {
                    entry.faults_total += 1;
                    entry.fault = Some(fault);
                });
                return;
            }
            Said::Heard(heard) => heard,
        };
        match heard {
            Heard::Well => observed.faulty = false,
            Heard::All(services) => {
                observed.services = services.iter().map(|(name, service)| (name.clone(), judge(service))).collect();
                (observed.whole, observed.faulty) = (true, false);
            }
            Heard::Service(name, service) => {
                observed.faulty = false;
                observed.troubles.remove(&name);
                observed.services.insert(name, judge(&service));
            }
            Heard::Trouble(name, why) => {
                tracing::warn!(registry = self.name, service = name, "{why}; its last known servers are used on");
                self.board.update(&self.name, |entry| entry.faults_total += 1);
                observed.trouble(&name, why);
            }
        }
        let wanted = self.wanted.borrow().clone();
        observed.troubles.retain(|service, _| wanted.contains(service));
        let well = observed.troubles.is_empty();
        self.board.update(&self.name, |entry| {
            entry.fault = observed.troubles.values().next().cloned();
            if well {
                entry.last_good = Some(Moment::now());
            }
            let counted = observed.services.iter().filter(|(_, judged)| !judged.instances.is_empty());
            entry.instances = counted.map(|(name, judged)| (name.clone(), judged.instances.len())).collect();
            let refused = observed.services.iter().filter(|(_, judged)| !judged.refused.is_empty());
            entry.refused = refused.map(|(name, judged)| (name.clone(), judged.refused.clone())).collect();
        });
    }

    /// Writes what is different. Returns when to look again although nothing is heard. A registry that changes without end is written
    /// down as it is then, and takes its share of the log and no more.
    async fn act(&self, observed: &mut Observed, not_before: &mut Instant) -> Result<Option<Instant>, Deposed> {
        let wanted: BTreeSet<String> = self.wanted.borrow().clone();
        let current = self.current();
        let plan = observed.plan(&wanted, &current, self.spec.empty_after(), Instant::now());
        let (held, lacking) = (plan.held.clone(), plan.lacking.clone());
        let new: Vec<&String> = lacking.difference(&observed.told).take(LACKING_LOGGED).collect();
        for service in new {
            tracing::warn!(registry = self.name, service, "pools ask for a service that the registry does not have");
        }
        observed.told = lacking.clone();
        self.board.update(&self.name, |entry| (entry.held, entry.lacking) = (held, lacking));
        if plan.puts.is_empty() && plan.deletes.is_empty() {
            return Ok(plan.due);
        }
        let begun = Instant::now();
        if begun < *not_before {
            return Ok(Some(plan.due.map_or(*not_before, |due| due.min(*not_before))));
        }
        let again = Some(begun + AGAIN);
        let written = self.write(plan).await;
        let took = begun.elapsed();
        *not_before = Instant::now() + REST.max(took * RESTS_FOR).min(AGAIN);
        match written {
            Ok(due) => Ok(due),
            Err(refusal) if refusal.kind == RefusalKind::Stale => {
                self.board.fenced_out();
                tracing::info!(registry = self.name, %refusal, "another member leads");
                Err(Deposed)
            }
            Err(refusal) => {
                let told = format!("what the registry says could not be written down: {refusal}");
                tracing::warn!(registry = self.name, "{told}");
                self.board.update(&self.name, |entry| entry.fault = Some(told));
                Ok(again)
            }
        }
    }

    async fn write(&self, plan: Plan) -> Result<Option<Instant>, control_api::Refusal> {
        let key = |service: &str| format!("{}/{service}", self.name);
        let puts: Vec<KeyPut> = plan
            .puts
            .iter()
            .map(|(service, instances)| KeyPut::new(key(service), json!({"instances": instances})))
            .collect();
        let mut deletes: Vec<String> = plan.deletes.iter().map(|service| key(service)).collect();
        let changes = puts.len() + deletes.len();
        let mut parts = parts(puts);
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        for puts in parts {
            let action = Action::PutKeys {
                section: ENDPOINTS.to_owned(),
                owner: self.name.clone(),
                fence: Some(self.fence.clone()),
                puts,
                deletes: std::mem::take(&mut deletes),
            };
            self.cluster.propose(action, &self.name).await?;
        }
        self.board.update(&self.name, |entry| entry.changes_total += changes as u64);
        Ok(plan.due)
    }

    /// What the cluster knows of this registry's services.
    fn current(&self) -> BTreeMap<String, Vec<Instance>> {
        let state = self.cluster.state();
        let prefix = format!("{}/", self.name);
        let keys = state.view.sections.get(ENDPOINTS).cloned().unwrap_or_default();
        let own = keys.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        own.map(|(key, keyed)| (key[prefix.len()..].to_owned(), read(&keyed.value))).collect()
    }
}

/// As they are written, none of the parts too large for the log to carry beside its heartbeats.
pub(crate) fn parts(puts: Vec<KeyPut>) -> Vec<Vec<KeyPut>> {
    let mut parts: Vec<Vec<KeyPut>> = Vec::new();
    let mut left = 0;
    for put in puts {
        let bytes = serde_json::to_vec(&put.value).map_or(0, |text| text.len());
        match parts.last_mut() {
            Some(part) if bytes <= left && part.len() < BATCH => part.push(put),
            _ => {
                left = BATCH_BYTES;
                parts.push(vec![put]);
            }
        }
        left = left.saturating_sub(bytes);
    }
    parts
}

/// Watches for ever, with pauses after faults.
async fn watch(spec: ServiceRegistrySpec, wanted: Wanted, tell: mpsc::Sender<Said>) {
    let mut pause = Pause::new(PAUSE_FIRST, PAUSE);
    for turn in 0.. {
        let began = Instant::now();
        let (heard, mut hears) = mpsc::channel(QUEUE);
        let watched = control_registries::watch(&spec, turn, wanted.clone(), &heard);
        tokio::pin!(watched);
        let fault = loop {
            tokio::select! {
                biased;
                Some(heard) = hears.recv() => {
                    if tell.send(Said::Heard(heard)).await.is_err() {
                        return;
                    }
                }
                fault = &mut watched => break fault,
            }
        };
        // What was said before it went wrong.
        while let Ok(heard) = hears.try_recv() {
            let _ = tell.send(Said::Heard(heard)).await;
        }
        if tell.send(Said::Fault(fault)).await.is_err() {
            return;
        }
        if began.elapsed() > STEADY {
            pause.reset();
        }
        tokio::time::sleep(pause.take()).await;
    }
}

/// What an earlier leader wrote; nothing where that cannot be read, so that it is written anew.
pub(crate) fn read(value: &Kept) -> Vec<Instance> {
    #[derive(Deserialize)]
    struct Written {
        instances: Vec<Instance>,
    }
    serde_json::from_str::<Written>(value.text()).map(|written| written.instances).unwrap_or_default()
}

/// What is heard while something is written.
const QUEUE: usize = 256;
/// Services written at once, and how many bytes, unless it is one service.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 512 << 10;
/// Pauses after a fault: the first, twice as long each time, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_secs(5);
/// After watching for so long the next fault is a first one.
const STEADY: Duration = Duration::from_secs(10);
/// Between two writes at least, and how many times as long as the first of them took; a change that comes alone waits for nothing.
const REST: Duration = Duration::from_millis(50);
const RESTS_FOR: u32 = 4;
/// Names written to the log at once; the status has more of them.
const LACKING_LOGGED: usize = 16;
/// After a write that was not decided; no two writes are further apart.
const AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_much_is_written_in_parts() {
        let put = |n: usize, bytes: usize| KeyPut::new(format!("r/{n}"), json!("x".repeat(bytes)));
        let lengths = |puts: Vec<KeyPut>| parts(puts).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(Vec::new()), [0; 0]);
        assert_eq!(lengths((0..600).map(|n| put(n, 10)).collect()), [256, 256, 88]);
        assert_eq!(lengths((0..5).map(|n| put(n, 200 << 10)).collect()), [2, 2, 1]);
        assert_eq!(lengths((0..3).map(|n| put(n, 900 << 10)).collect()), [1, 1, 1]);
    }
}
