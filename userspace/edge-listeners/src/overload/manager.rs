//! From how much of each resource is used to which actions are in force: pure, with the hysteresis.

use base_model::{OverloadAction, OverloadManagerSpec, Resource, TriggerSpec};
use std::time::Duration;

/// Looks in a row that a trigger must be seen in: a single long turn of a worker is no overload.
const SEEN: u32 = 2;

/// An action ends where its triggers are below this share of where they began,
const RELEASED: f64 = 0.9;

/// and have been for this long.
const HELD: Duration = Duration::from_secs(1);

/// By how much a scaled action falls at most from one look to the next.
const FALLS: f64 = 0.25;

/// An action began, or ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    pub action: OverloadAction,
    pub begins: bool,
    /// The resource that brought it about, or was the last to keep it.
    pub resource: Resource,
    pub pressure: f64,
}

/// See the module doc.
pub struct Manager {
    actions: Vec<Action>,
}

struct Action {
    action: OverloadAction,
    triggers: Vec<TriggerSpec>,
    level: f64,
    /// Looks in a row that wanted it.
    seen: u32,
    /// When it was last wanted, or would have been kept.
    kept: Duration,
    resource: Resource,
}

/// From where on a trigger wants its action.
fn begins(trigger: &TriggerSpec) -> f64 {
    match (trigger.threshold, trigger.scaled) {
        (Some(threshold), _) => threshold.value,
        (None, Some(scaled)) => scaled.scaling_threshold,
        (None, None) => f64::INFINITY,
    }
}

/// How much of its action a trigger wants.
fn wanted(trigger: &TriggerSpec, pressure: f64) -> f64 {
    match (trigger.threshold, trigger.scaled) {
        (Some(threshold), _) => f64::from(u8::from(pressure >= threshold.value)),
        (None, Some(scaled)) => {
            let room = (scaled.saturation_threshold - scaled.scaling_threshold).max(f64::EPSILON);
            ((pressure - scaled.scaling_threshold) / room).clamp(0.0, 1.0)
        }
        (None, None) => 0.0,
    }
}

impl Manager {
    pub fn new(spec: &OverloadManagerSpec) -> Manager {
        let action = |action: &base_model::OverloadActionSpec| Action {
            action: action.name,
            triggers: action.triggers.clone(),
            level: 0.0,
            seen: 0,
            kept: Duration::ZERO,
            resource: Resource::default(),
        };
        Manager { actions: spec.actions.iter().map(action).collect() }
    }

    /// Takes note of how much is used, in the order of [`Resource::ALL`]; says what changes.
    pub fn look(&mut self, now: Duration, pressures: &[f64; Resource::ALL.len()]) -> Vec<Change> {
        self.actions.iter_mut().filter_map(|action| action.look(now, pressures)).collect()
    }

    /// How far each action is in force, in the order of [`OverloadAction::ALL`].
    pub fn levels(&self) -> [f64; OverloadAction::ALL.len()] {
        let mut levels = [0.0; OverloadAction::ALL.len()];
        self.actions.iter().for_each(|action| levels[action.action as usize] = action.level);
        levels
    }
}

impl Action {
    fn look(&mut self, now: Duration, pressures: &[f64; Resource::ALL.len()]) -> Option<Change> {
        let used = |trigger: &TriggerSpec| pressures[trigger.name as usize];
        let most = self.triggers.iter().max_by(|a, b| wanted(a, used(a)).total_cmp(&wanted(b, used(b))))?;
        let (want, resource) = (wanted(most, used(most)), most.name);
        let keeps = self.triggers.iter().find(|trigger| used(trigger) >= begins(trigger) * RELEASED);
        let change = |begins, resource: Resource| {
            Some(Change { action: self.action, begins, resource, pressure: pressures[resource as usize] })
        };
        self.seen = if want > 0.0 { self.seen + 1 } else { 0 };
        if self.level == 0.0 {
            if self.seen < SEEN {
                return None;
            }
            let begun = change(true, resource);
            (self.level, self.kept, self.resource) = (want, now, resource);
            return begun;
        }
        if let Some(keeps) = keeps {
            (self.kept, self.resource) = (now, keeps.name);
        }
        if now.saturating_sub(self.kept) >= HELD {
            let over = change(false, self.resource);
            self.level = 0.0;
            return over;
        }
        // It rises at once and falls slowly, to no less than a trace while it is held.
        self.level = want.max(self.level - FALLS).max(0.01);
        // What is whole or nothing stays whole until it is over.
        if self.triggers.iter().all(|trigger| trigger.threshold.is_some()) {
            self.level = 1.0;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_model::OverloadAction::{DisableHttpKeepalive, ShedLowPriority};

    const STEP: Duration = Duration::from_millis(250);

    fn manager(text: &str) -> Manager {
        let value = base_model::yaml::parse_document(text).unwrap();
        Manager::new(&base_model::decode::<OverloadManagerSpec>(&value, "").unwrap().value)
    }

    /// Levels of one action while a resource is used so much, look by look; and how often it began and ended.
    fn levels(manager: &mut Manager, resource: Resource, action: OverloadAction, used: &[f64]) -> (Vec<f64>, usize) {
        let mut changes = 0;
        let levels = used.iter().zip(1..).map(|(used, at)| {
            let mut pressures = [0.0; Resource::ALL.len()];
            pressures[resource as usize] = *used;
            changes += manager.look(STEP * at, &pressures).len();
            manager.levels()[action as usize]
        });
        (levels.collect(), changes)
    }

    #[test]
    fn a_threshold_is_seen_twice_and_held_for_a_second_below_nine_tenths() {
        let text = "actions: [{name: disableHttpKeepalive, triggers: [{name: descriptors, threshold: {value: 0.8}}]}]";
        let used = [0.9, 0.1, 0.85, 0.85, 0.75, 0.73, 0.75, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1];
        let (found, changes) = levels(&mut manager(text), Resource::Descriptors, DisableHttpKeepalive, &used);
        assert_eq!(found, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(changes, 2);
    }

    #[test]
    fn what_goes_up_and_down_about_the_threshold_changes_nothing() {
        let text = "actions: [{name: disableHttpKeepalive, triggers: [{name: memory, threshold: {value: 0.8}}]}]";
        let used: Vec<f64> = (0..200).map(|n| if n < 2 || n % 3 == 0 { 0.82 } else { 0.74 }).collect();
        let (found, changes) = levels(&mut manager(text), Resource::Memory, DisableHttpKeepalive, &used);
        assert_eq!((changes, found[199]), (1, 1.0));
    }

    #[test]
    fn a_scaled_action_rises_at_once_and_falls_slowly() {
        let scaled = "scaled: {scalingThreshold: 0.5, saturationThreshold: 0.9}";
        let text = format!("actions: [{{name: shedLowPriority, triggers: [{{name: queueDelay, {scaled}}}]}}]");
        let used = [0.7, 0.7, 0.9, 1.0, 0.7, 0.5, 0.1, 0.1, 0.1, 0.1];
        let (found, changes) = levels(&mut manager(&text), Resource::QueueDelay, ShedLowPriority, &used);
        let wanted = [0.0, 0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.01, 0.01, 0.0];
        assert!(found.iter().zip(wanted).all(|(f, w): (&f64, f64)| (f - w).abs() < 1e-9), "{found:?}");
        assert_eq!(changes, 2);
    }
}
