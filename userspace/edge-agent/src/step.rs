//! The step from one desired state to the next, as it is appended to the copy on disk: small where the states are large.

use crate::desired::{Desired, Machine, Steering, Tickets};
use crate::format::{self, Format, Unread};
use crate::sections::{self, KeyChange, Told};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is different, and between which versions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Step {
    pub format: Format,
    /// Cluster and version that it begins at.
    pub from: (String, u64),
    /// Where it leads.
    pub cluster_id: String,
    pub cluster_name: String,
    pub version: u64,
    pub deletes: Vec<String>,
    pub puts: BTreeMap<String, Arc<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machines: Option<Arc<BTreeMap<String, Machine>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steering: Option<Arc<BTreeMap<String, Arc<Steering>>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tickets: Option<Arc<Tickets>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub succeeds: Option<Arc<Vec<(String, u64)>>>,
    /// Keys of sections; `None` where one is gone.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sections: BTreeMap<String, BTreeMap<String, Option<Told>>>,
}

/// Says that a version went live: what a journal tells of it is more than a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    /// Cluster and version.
    live: (String, u64),
    /// Number of the last purge of caches that was carried out by then. An earlier program says nothing of it.
    #[serde(default)]
    pub purged: u64,
}

/// What a line of a journal holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    Step(Box<Step>),
    Live(Live),
}

impl Live {
    pub fn at(state: &Desired) -> Live {
        Live { live: (state.cluster_id.clone(), state.version), purged: state.purged }
    }

    /// Whether it is `state` that went live.
    pub fn is_at(&self, state: &Desired) -> bool {
        (self.live.0.as_str(), self.live.1) == (state.cluster_id.as_str(), state.version)
    }

    pub fn line(&self) -> Vec<u8> {
        summed(&serde_json::to_string(self).unwrap_or_default())
    }
}

impl Line {
    pub fn read(line: &[u8]) -> Result<Line, Unread> {
        let whole = || {
            let (told, text) = (line.get(..16)?, line.get(17..)?);
            let told = u64::from_str_radix(std::str::from_utf8(told).ok()?, 16).ok()?;
            (told == sum(text)).then_some(text)
        };
        let text = whole().ok_or_else(|| Unread::Damaged("it was written in part".into()))?;
        match serde_json::from_slice(text) {
            Ok(live) => Ok(Line::Live(live)),
            Err(_) => format::read(text).map(|step| Line::Step(Box::new(step))),
        }
    }
}

impl Step {
    /// Unchanged documents are shared between the two, so this costs a walk over pointers.
    pub fn between(from: &Desired, to: &Desired) -> Step {
        let (gone, put) = sections::values(&from.objects, &to.objects);
        let mut sections: BTreeMap<String, BTreeMap<_, _>> = BTreeMap::new();
        for KeyChange { section, key, value } in sections::between(&from.sections, &to.sections) {
            sections.entry(section).or_default().insert(key, value);
        }
        Step {
            format: Format,
            from: (from.cluster_id.clone(), from.version),
            cluster_id: to.cluster_id.clone(),
            cluster_name: to.cluster_name.clone(),
            version: to.version,
            deletes: gone.into_iter().cloned().collect(),
            puts: put.into_iter().map(|(name, document)| (name.clone(), document.clone())).collect(),
            machines: (from.machines != to.machines).then(|| to.machines.clone()),
            steering: (from.steering != to.steering).then(|| to.steering.clone()),
            tickets: (from.tickets != to.tickets).then(|| to.tickets.clone()),
            succeeds: (from.succeeds != to.succeeds).then(|| to.succeeds.clone()),
            sections,
        }
    }

    pub fn begins_at(&self, state: &Desired) -> bool {
        (self.from.0.as_str(), self.from.1) == (state.cluster_id.as_str(), state.version)
    }

    /// Takes `state` along, if that is where the step begins.
    pub fn advance(self, state: &mut Desired) -> bool {
        if !self.begins_at(state) {
            return false;
        }
        for name in &self.deletes {
            state.objects.remove(name);
        }
        state.objects.extend(self.puts);
        if state.cluster_id != self.cluster_id {
            // Another one counts from the beginning.
            state.purged = 0;
        }
        state.cluster_id = self.cluster_id;
        state.cluster_name = self.cluster_name;
        state.version = self.version;
        if let Some(machines) = self.machines {
            state.machines = machines;
        }
        if let Some(steering) = self.steering {
            state.steering = steering;
        }
        if let Some(tickets) = self.tickets {
            state.tickets = tickets;
        }
        if let Some(succeeds) = self.succeeds {
            state.succeeds = succeeds;
        }
        let keys = self.sections.into_iter().flat_map(|(section, keys)| {
            keys.into_iter().map(move |(key, value)| KeyChange { section: section.clone(), key, value })
        });
        sections::advance(&mut state.sections, keys);
        true
    }

    pub fn line(&self) -> Vec<u8> {
        summed(&serde_json::to_string(self).unwrap_or_default())
    }

    /// What a line holds, if that is a step.
    #[cfg(test)]
    fn read(line: &[u8]) -> Result<Step, Unread> {
        match Line::read(line)? {
            Line::Step(step) => Ok(*step),
            Line::Live(_) => Err(Unread::Damaged("it is no step".into())),
        }
    }
}

/// One line of a journal: a sum over the text, so that half a line is known as such, and the text.
fn summed(text: &str) -> Vec<u8> {
    // The line before may have been cut short.
    format!("\n{:016x} {text}\n", sum(text.as_bytes())).into_bytes()
}

/// FNV-1a: it finds torn writes, and nobody forges a file that only this user can write.
fn sum(text: &[u8]) -> u64 {
    text.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::Section;
    use base_model::Kept;
    use serde_json::json;

    #[test]
    fn a_step_leads_from_one_state_to_the_other_and_from_no_third() {
        let state = |version: u64, objects: &[(&str, u64)]| Desired {
            cluster_id: "c".into(),
            version,
            objects: objects.iter().map(|(name, n)| ((*name).to_owned(), Arc::new(json!({"n": n})))).collect(),
            ..Desired::default()
        };
        let learned = |state: Desired, keys: &[(&str, u64)]| {
            let keys = keys.iter().map(|(key, n)| ((*key).to_owned(), Kept::of(&json!({"n": n})))).collect();
            Desired { sections: Arc::new([("endpoints".to_owned(), Section::Learned(keys))].into()), ..state }
        };
        let one = learned(state(1, &[("a", 1), ("b", 1), ("c", 1)]), &[("r/s", 1), ("r/t", 1), ("r/u", 1)]);
        let two = learned(state(2, &[("a", 1), ("b", 2), ("d", 1)]), &[("r/s", 1), ("r/t", 2), ("r/v", 1)]);
        let step = Step::between(&one, &two);
        assert_eq!((step.puts.len(), step.deletes.len(), step.sections["endpoints"].len()), (2, 1, 3));
        let line = step.line();
        let line = line.trim_ascii();
        let mut there = one.clone();
        assert!(Step::read(line).unwrap().advance(&mut there));
        assert_eq!(there, two);
        assert!(!Step::read(line).unwrap().advance(&mut there), "it stands elsewhere");
        for cut in [0, 10, 17, line.len() - 1] {
            assert!(Step::read(&line[..cut]).is_err());
        }
        let mut wrong = line.to_vec();
        wrong[40] ^= 1;
        assert!(matches!(Step::read(&wrong), Err(Unread::Damaged(_))));
        let newer = r#"{"format":7,"from":{}}"#;
        let newer = format!("{:016x} {newer}", sum(newer.as_bytes()));
        assert_eq!(Step::read(newer.as_bytes()), Err(Unread::Newer(7)));
    }
}
