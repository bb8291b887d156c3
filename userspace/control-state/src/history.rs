//! What objects were before the last changes: to look at, and to go back to.

use base_text::quoted;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use base_model::Claim;
use control_api::{Delta, Document, Objects, Principal, Refusal, Snapshot, object_key};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::command::EACH_FOR_ITSELF;
use crate::objects::{check_claims, left_out, owner, tidy_made};
use crate::state::{State, claim_of};
use crate::sums::pair;
use crate::text::Text;

/// The last changes of objects, oldest first. Bounded by number and by bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct History {
    steps: VecDeque<Arc<Step>>,
    /// The version before the oldest step: none before it can be told.
    first: u64,
    bytes: usize,
}

/// One change: what its objects were before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Step {
    version: u64,
    /// RFC 3339, by the clock of whoever proposed it.
    at: String,
    /// On whose behalf, for people to read.
    #[serde(skip_serializing_if = "String::is_empty")]
    by: String,
    /// `None`: the change created it.
    before: BTreeMap<String, Option<Before>>,
}

/// A document as text: it takes a tenth of the memory of the tree that it is while it is in force, and a fifth of that or less where it is long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Before {
    document: Text,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claim: Option<Claim>,
}

/// A change as people are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The version it made.
    pub version: u64,
    pub at: String,
    /// On whose behalf; empty where that is not known.
    pub by: String,
    /// By key.
    pub objects: BTreeMap<String, (String, How)>,
}

/// What became of an object, of which the kind is told beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Created,
    Changed,
    Deleted,
}

impl How {
    pub fn word(self) -> &'static str {
        match self {
            How::Created => "created",
            How::Changed => "changed",
            How::Deleted => "deleted",
        }
    }
}

impl History {
    /// Of its ends: what lies between came to be as they did.
    pub fn sum(&self) -> u64 {
        let versions = [&self.steps.front(), &self.steps.back()].map(|step| step.map_or(0, |step| step.version));
        [self.first, self.steps.len() as u64, self.bytes as u64, versions[0], versions[1]].into_iter().fold(0, pair)
    }
}

impl State {
    /// Writes down what the delta replaces; `before` is the state that it changes.
    pub(crate) fn note_history(&mut self, before: &State, delta: &Delta, now: &str, by: Option<&Principal>) {
        let key = |document: &Document| object_key(document).into_owned();
        let keys = delta.deletes.iter().cloned().chain(delta.puts.iter().map(key));
        let text = |key: String| {
            let was = before.view.object(&key).map(|document| Before {
                document: Text::new(document.to_string()),
                claim: before.claims.get(&key).cloned(),
            });
            (key, was)
        };
        let by = by.map(ToString::to_string).unwrap_or_default();
        let step = Step { version: delta.to, at: now.to_owned(), by, before: keys.map(text).collect() };
        if step.before.is_empty() {
            return;
        }
        let history = Arc::make_mut(&mut self.history);
        if history.steps.is_empty() {
            history.first = before.view.version;
        }
        history.bytes += step.bytes();
        history.steps.push_back(Arc::new(step));
        while history.steps.len() > STEPS_MAX || history.bytes > BYTES_MAX && history.steps.len() > 1 {
            let Some(oldest) = history.steps.pop_front() else { break };
            history.bytes -= oldest.bytes();
            history.first = oldest.version;
        }
    }

    /// The changes that are remembered, newest first.
    pub fn changes(&self) -> Vec<Change> {
        let kind = |document: &Value| document.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        // The kinds of the objects that are there after the step that is looked at.
        let mut after: BTreeMap<String, Option<String>> = BTreeMap::new();
        let told = |step: &Arc<Step>| {
            let mut objects = BTreeMap::new();
            for (name, was) in &step.before {
                let is = after.get(name).cloned().unwrap_or_else(|| self.view.object(name).map(|now| kind(now)));
                let was = was.as_ref().and_then(|was| Some(kind(&serde_json::from_str(&was.document.read()).ok()?)));
                let how = match (&was, &is) {
                    (None, _) => How::Created,
                    (Some(_), None) => How::Deleted,
                    (Some(_), Some(_)) => How::Changed,
                };
                objects.insert(name.clone(), (was.clone().or(is).unwrap_or_default(), how));
                after.insert(name.clone(), was);
            }
            Change { version: step.version, at: step.at.clone(), by: step.by.clone(), objects }
        };
        self.history.steps.iter().rev().map(told).collect()
    }

    /// The objects as they were at a version.
    pub fn objects_at(&self, version: u64) -> Result<Objects, Refusal> {
        let mut objects = self.view.objects.clone();
        for (name, was) in self.undone(version)? {
            match was {
                Some(was) => drop(objects.insert(name.clone(), read(&name, &was)?)),
                None => drop(objects.remove(&name)),
            }
        }
        Ok(objects)
    }

    /// What objects that were changed after this version were then.
    fn undone(&self, version: u64) -> Result<BTreeMap<String, Option<Before>>, Refusal> {
        let (now, first) =
            (self.view.version, if self.history.steps.is_empty() { self.view.version } else { self.history.first });
        if version > now {
            return Err(Refusal::not_found(format!(
                "version {version} is not there yet: the configuration is at {now}"
            )));
        }
        if version < first {
            return Err(Refusal::not_found(format!(
                "version {version} is not remembered any more: {first} to {now} are; what is kept longer is kept in a backup"
            )));
        }
        let mut undone = BTreeMap::new();
        for step in self.history.steps.iter().rev().take_while(|step| step.version > version) {
            undone.extend(step.before.clone());
        }
        Ok(undone)
    }
}

/// Brings every object back to what it was at a version. Returns the names of those that are there again.
pub(crate) fn roll_back(state: &mut State, version: u64) -> Result<Vec<String>, Refusal> {
    let mut undone = state.undone(version)?;
    let then: BTreeMap<&String, Document> =
        undone.iter().filter_map(|(name, was)| Some((name, read(name, was.as_ref()?).ok()?))).collect();
    let left_out = left_out(state, then.values());
    let stays_away: Vec<String> = then
        .iter()
        .filter(|(_, document)| left_out.contains(owner(document)))
        .map(|(name, _)| (*name).clone())
        .collect();
    for name in stays_away {
        undone.remove(&name);
    }
    let fits = state.level() >= EACH_FOR_ITSELF;
    let State { view: Snapshot { objects, .. }, claims, .. } = &mut *state;
    let claims = Arc::make_mut(claims);
    let (mut back, mut claimed) = (Vec::new(), Vec::new());
    for (name, was) in undone {
        claims.remove(&name);
        let Some(was) = was else {
            objects.remove(&name);
            continue;
        };
        let document = read(&name, &was)?;
        if let Some(claim) = was.claim.or_else(|| claim_of(&document)) {
            claims.insert(name.clone(), claim);
            claimed.push(name.clone());
        }
        match objects.get(&name) {
            Some(now) if *now == document => {}
            Some(_) => drop(objects.insert(name, document)),
            None => {
                objects.insert(name.clone(), document);
                back.push(name);
            }
        }
    }
    tidy_made(state);
    if fits {
        // What was made since, and is not gone back to, may be reached where one of these was.
        check_claims(state, &claimed, true)?;
    }
    Ok(back)
}

fn read(name: &str, was: &Before) -> Result<Document, Refusal> {
    let document = serde_json::from_str(&was.document.read());
    document
        .map(Document::new)
        .map_err(|e| Refusal::invalid(format!("object {name} of then cannot be read: {e}", name = quoted(&name))))
}

impl Step {
    fn bytes(&self) -> usize {
        let one =
            |(name, was): (&String, &Option<Before>)| name.len() + was.as_ref().map_or(0, |was| was.document.len());
        64 + self.before.iter().map(one).sum::<usize>()
    }
}

/// Changes that are remembered.
const STEPS_MAX: usize = 1000;

/// Their documents, in bytes of text; every voter and every snapshot holds them. One change is remembered however large it was.
const BYTES_MAX: usize = 4 << 20;
