//! What this machine does when it itself has too much to do: signals, actions, and what each request and connection asks of them.
//!
//! A thread looks at the machine's resources now and then and feeds [`manager`], which is pure; what it decides stands in a few numbers
//! that workers read. While nothing is short that is one load per request.

pub mod manager;

use crate::traffic::Shared;
use arc_swap::ArcSwapOption;
use base_model::{OverloadAction, OverloadManagerSpec, Resource};
use base_telemetry::registry::Encoder;
use edge_filters::PriorityRules;
use edge_pipeline::{Exchange, overload};
use edge_upstream::random;
use manager::{Change, Manager};
use serde_json::{Value, json};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bounds that are reached by it, see [`Shared::limit`].
pub const BOUNDS: [&str; 4] = ["overload_connections", "overload_keepalive", "overload_priority", "overload_requests"];

/// Share of the sockets there may be from which on a refused client does not keep its own.
const SCARCE: f64 = 0.8;

/// Lowest rank of the highest priority, which is not shed while there is another way.
const CRITICAL: u8 = 96;

/// Ranks there are: a cut of so many refuses all.
const ALL: u8 = 128;

/// See the module doc.
pub struct Overload {
    /// A bit for each action that is in force, in the order of [`OverloadAction::ALL`].
    actions: AtomicU8,
    /// Requests below this rank are refused.
    cut: AtomicU8,
    sockets_scarce: AtomicBool,
    policy: ArcSwapOption<Policy>,
    state: Mutex<State>,
    /// Times each action began.
    begun: [AtomicU64; OverloadAction::ALL.len()],
}

/// What requests need of the document.
struct Policy {
    rules: PriorityRules,
    retry_after: u64,
}

#[derive(Default)]
struct State {
    /// Name of the document, and what it says.
    manager: Option<(String, Manager)>,
    interval: Option<Duration>,
    max_delay: Option<Duration>,
    pressures: [f64; Resource::ALL.len()],
    levels: [f64; OverloadAction::ALL.len()],
}

impl Default for Overload {
    fn default() -> Overload {
        Overload {
            actions: AtomicU8::new(0),
            cut: AtomicU8::new(0),
            sockets_scarce: AtomicBool::new(false),
            policy: ArcSwapOption::empty(),
            state: Mutex::default(),
            begun: Default::default(),
        }
    }
}

/// How often resources are looked at where no document says so.
const USUAL_INTERVAL: Duration = Duration::from_millis(250);

/// The queue delay that is all of it, where no document says so.
const USUAL_DELAY: Duration = Duration::from_millis(100);

impl Overload {
    /// Does as this document says from now on.
    pub fn apply(&self, name: &str, spec: &OverloadManagerSpec) -> Result<(), String> {
        let rules = PriorityRules::new(&spec.priorities, &spec.consumer_header)?;
        let retry_after = spec.retry_after.duration().as_secs_f64().ceil() as u64;
        self.policy.store(Some(std::sync::Arc::new(Policy { rules, retry_after })));
        let mut state = self.lock();
        state.manager = Some((name.to_owned(), Manager::new(spec)));
        state.interval = Some(spec.refresh_interval.duration());
        state.max_delay = Some(spec.max_delay());
        Ok(())
    }

    /// Does nothing any more, where it did as this document says.
    pub fn remove(&self, name: &str) {
        let mut state = self.lock();
        if state.manager.as_ref().is_some_and(|(of, _)| of == name) {
            let pressures = state.pressures;
            *state = State { pressures, ..State::default() };
            self.actions.store(0, Relaxed);
            self.cut.store(0, Relaxed);
        }
    }

    /// Takes note of how much of each resource is used, in the order of [`Resource::ALL`].
    pub fn look(&self, now: Duration, pressures: [f64; Resource::ALL.len()]) {
        self.sockets_scarce.store(pressures[Resource::Descriptors as usize] >= SCARCE, Relaxed);
        let mut state = self.lock();
        state.pressures = pressures;
        let Some((_, manager)) = &mut state.manager else { return };
        let changes = manager.look(now, &pressures);
        let levels = manager.levels();
        state.levels = levels;
        drop(state);
        let in_force = |action: OverloadAction| levels[action as usize] > 0.0;
        let bits = OverloadAction::ALL.iter().filter(|action| in_force(**action)).map(|action| 1 << *action as u8);
        self.actions.store(bits.fold(0, |all, bit: u8| all | bit), Relaxed);
        let shed = (levels[OverloadAction::ShedLowPriority as usize] * f64::from(CRITICAL)).ceil() as u8;
        let cut = if in_force(OverloadAction::StopAcceptingRequests) { ALL } else { shed };
        self.cut.store(cut, Relaxed);
        for change in changes {
            self.tell(&change);
        }
    }

    /// Once for each change, never for each request.
    fn tell(&self, change: &Change) {
        let (action, resource) = (change.action.name(), change.resource.name());
        let used = format!("{:.0} %", change.pressure * 100.0);
        if change.begins {
            self.begun[change.action as usize].fetch_add(1, Relaxed);
            tracing::warn!(action, resource, used, "overload: the action is in force");
        } else {
            tracing::info!(action, resource, used, "overload: the action is over");
        }
    }

    /// How long to wait before the next look.
    pub fn interval(&self) -> Duration {
        self.lock().interval.unwrap_or(USUAL_INTERVAL)
    }

    /// The queue delay that is all of it.
    pub fn max_delay(&self) -> Duration {
        self.lock().max_delay.unwrap_or(USUAL_DELAY)
    }

    #[inline]
    fn does(&self, action: OverloadAction) -> bool {
        self.actions.load(Relaxed) & (1 << action as u8) != 0
    }

    /// Whether connections end with the answer under way.
    #[inline]
    pub fn ends_connections(&self) -> bool {
        self.does(OverloadAction::DisableHttpKeepalive)
    }

    /// Whether new connections wait.
    #[inline]
    pub fn pauses_accepting(&self) -> bool {
        self.does(OverloadAction::StopAcceptingConnections)
    }

    /// Whether new connections are reset.
    #[inline]
    pub fn rejects_connections(&self) -> bool {
        self.does(OverloadAction::RejectIncomingConnections)
    }

    /// Whether a client that was refused gives up its connection: kept where the processor is what is short, since another handshake costs
    /// more than another refusal.
    #[inline]
    pub fn sockets_are_scarce(&self) -> bool {
        self.sockets_scarce.load(Relaxed)
    }

    /// Refuses the request where that is due.
    #[inline]
    pub fn refuses(&self, shared: &Shared, exchange: &mut Exchange) -> bool {
        let cut = self.cut.load(Relaxed);
        cut > 0 && self.weigh(cut, shared, exchange)
    }

    fn weigh(&self, cut: u8, shared: &Shared, exchange: &mut Exchange) -> bool {
        let policy = self.policy.load();
        let Some(policy) = &*policy else { return false };
        let (limit, reason) = if cut >= ALL {
            ("overload_requests", "machine")
        } else {
            if policy.rules.rank(exchange.request(), &exchange.client).0.number() >= cut {
                return false;
            }
            ("overload_priority", "machine_priority")
        };
        shared.limit(limit);
        let after = policy.retry_after + random::below(2 * policy.retry_after + 1);
        overload::refuse(exchange, reason, after);
        true
    }

    /// What its object shows of it.
    pub fn status(&self) -> Option<(String, Value)> {
        let state = self.lock();
        let (name, _) = state.manager.as_ref()?;
        let of = |names: &[&str], shares: &[f64]| -> Value {
            let rounded = shares.iter().map(|share| json!((share * 1000.0).round() / 1000.0));
            Value::Object(names.iter().map(|name| (*name).to_owned()).zip(rounded).collect())
        };
        let resources = of(&Resource::ALL.map(Resource::name), &state.pressures);
        let actions = of(&OverloadAction::ALL.map(OverloadAction::name), &state.levels);
        Some((name.clone(), json!({ "resources": resources, "actions": actions })))
    }

    /// Adds how much is used, and what is done about it.
    pub fn encode(&self, encoder: &mut Encoder) {
        let (pressures, levels) = {
            let state = self.lock();
            (state.pressures, state.levels)
        };
        for resource in Resource::ALL {
            let help = "Share of a resource of this machine that is used, 0 to 1, by resource of the overload manager.";
            let labels = [("resource", resource.name())];
            encoder.gauge("weir_overload_pressure", help, &labels, pressures[resource as usize]);
        }
        for action in OverloadAction::ALL {
            let labels = [("action", action.name())];
            let help = "How far an action of the overload manager is in force, 0 to 1.";
            encoder.gauge("weir_overload_action", help, &labels, levels[action as usize]);
            let help = "Times an action of the overload manager has begun.";
            let begun = self.begun[action as usize].load(Relaxed) as f64;
            encoder.counter("weir_overload_activations_total", help, &labels, begun);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_as_often_as_the_document_says() {
        let action = "{name: shedLowPriority, triggers: [{name: memory, threshold: {value: 0.9}}]}";
        let text = format!("{{refreshInterval: 70ms, actions: [{action}]}}");
        let value = base_model::yaml::parse_document(&text).unwrap();
        let spec = base_model::decode::<OverloadManagerSpec>(&value, "").unwrap().value;
        let overload = Overload::default();
        assert_eq!(overload.interval(), USUAL_INTERVAL);
        overload.apply("one", &spec).unwrap();
        assert_eq!(overload.interval(), Duration::from_millis(70));
        overload.remove("another");
        assert_eq!(overload.interval(), Duration::from_millis(70));
        overload.remove("one");
        assert_eq!(overload.interval(), USUAL_INTERVAL);
    }
}
