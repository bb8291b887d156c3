//! Leases: who alone does something for the whole cluster, and how a write of one who did so before is told.
//!
//! Every holder has an epoch, which grows with each. What is written under a lease names the epoch it was begun under, so that the late
//! write of a holder from before is refused, whatever that one believes. Clocks are those of the proposers: a lease that ends by itself
//! is for what may be done twice for a moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use base_text::quoted;
use control_api::Refusal;
use serde::{Deserialize, Serialize};

use crate::state::State;

/// By name.
pub(crate) type Leases = BTreeMap<String, Lease>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lease {
    /// Name of a member; empty: nobody's.
    pub holder: String,
    /// From 1; it never falls.
    pub epoch: u64,
    /// When it ends unless it is renewed, in milliseconds since 1970; 0: never.
    pub until: u64,
    /// The latest term of a leader who took it because it leads; 0: none did.
    pub term: u64,
}

/// The lease that something is written under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fence {
    pub lease: String,
    pub epoch: u64,
}

impl Lease {
    fn is_held(&self, at: u64) -> bool {
        !self.holder.is_empty() && (self.until == 0 || self.until > at)
    }
}

impl State {
    pub fn lease(&self, name: &str) -> Option<&Lease> {
        self.leases.get(name)
    }

    pub(crate) fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    /// Whether what readers are not told of is as it was; see [`State::readable`].
    pub fn same_beside_view(&self, other: &State) -> bool {
        Arc::ptr_eq(&self.authority, &other.authority) && Arc::ptr_eq(&self.leases, &other.leases)
    }
}

/// A new holder, or the same anew: with an epoch of its own. `term`: of a leader, who takes it from whoever has it unless that is one of a
/// later term.
pub(crate) fn take(
    state: &mut State,
    name: &str,
    holder: &str,
    until: u64,
    at: u64,
    term: Option<u64>,
) -> Result<(), Refusal> {
    let leases = Arc::make_mut(&mut state.leases);
    if leases.len() >= LEASES_MAX && !leases.contains_key(name) {
        return Err(Refusal::conflict(format!("there are {LEASES_MAX} leases, which is as many as there may be")));
    }
    let lease = leases.entry(name.to_owned()).or_default();
    let may = match term {
        Some(term) => term >= lease.term,
        None => lease.holder == holder || !lease.is_held(at),
    };
    if !may {
        return Err(Refusal::conflict(format!(
            "lease {} is held by {} (epoch {}, of term {}): wait until it ends",
            quoted(name),
            quoted(&lease.holder),
            lease.epoch,
            lease.term
        )));
    }
    let term = term.unwrap_or(lease.term);
    *lease = Lease { holder: holder.to_owned(), epoch: lease.epoch + 1, until, term };
    Ok(())
}

pub(crate) fn renew(state: &mut State, fence: &Fence, until: u64) -> Result<(), Refusal> {
    check(state, fence)?;
    if let Some(lease) = Arc::make_mut(&mut state.leases).get_mut(&fence.lease) {
        lease.until = until;
    }
    Ok(())
}

/// Its epoch is remembered.
pub(crate) fn end(state: &mut State, fence: &Fence) -> Result<(), Refusal> {
    check(state, fence)?;
    if let Some(lease) = Arc::make_mut(&mut state.leases).get_mut(&fence.lease) {
        lease.holder.clear();
    }
    Ok(())
}

/// Refuses what was begun under another epoch than the one that holds.
pub(crate) fn check(state: &State, fence: &Fence) -> Result<(), Refusal> {
    let now = state.leases.get(&fence.lease).cloned().unwrap_or_default();
    if now.epoch == fence.epoch && !now.holder.is_empty() {
        return Ok(());
    }
    let who = if now.holder.is_empty() { "nobody".to_owned() } else { format!("member {}", quoted(&now.holder)) };
    Err(Refusal::stale(format!(
        "lease {} is held by {who} (epoch {}), and this was written under epoch {}: it is left undone",
        quoted(&fence.lease),
        now.epoch,
        fence.epoch
    )))
}

/// One for each thing that is done once in the cluster.
const LEASES_MAX: usize = 4096;
