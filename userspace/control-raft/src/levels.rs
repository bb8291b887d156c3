//! Members of different versions: what may be proposed, who may join, and when the cluster's feature level rises.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base_text::quoted;
use control_api::Refusal;
use control_state::{Action, FIRST_LEVEL, TOLD_LEVEL};

use crate::control::Inner;
use crate::types::Raft;

impl Inner {
    /// Why a member of `level` cannot take part, if so.
    pub fn too_old(&self, name: &str, level: u32) -> Option<String> {
        let cluster = self.publisher().state().level();
        (level.max(FIRST_LEVEL) < cluster).then(|| {
            format!(
                "the cluster has feature level {cluster}, and the weir of member {name} knows {known}: it would not understand what is \
                 decided; install the version that the other members run, or leave out its --feature-level, and start it again",
                name = quoted(name),
                known = level.max(FIRST_LEVEL)
            )
        })
    }

    /// Why a member that does not vote cannot be told what is decided, if so. It carries nothing out and passes over what it does not know,
    /// which is well as long as the rest means to it what it means to the others.
    pub fn too_old_to_be_told(&self, name: &str, level: u32) -> Option<String> {
        let means_else = self.publisher().state().level() >= TOLD_LEVEL && level < TOLD_LEVEL;
        means_else.then(|| self.too_old(name, level)).flatten()
    }

    /// The level that the cluster can rise to, if it can. Of a member that has never said anything it is not known: it is waited for,
    /// however long it takes or until it is purged, since a cluster that has risen past it does not let it in any more.
    pub fn level_due(&self, raft: &Raft) -> Option<u32> {
        let state = self.publisher().state();
        if state.level() >= self.own.level {
            return None;
        }
        let membership = raft.metrics().borrow().membership_config.clone();
        let nodes = membership.membership().nodes().map(|(_, peer)| peer.name.clone());
        let names: BTreeSet<String> = nodes.chain(state.view.members.keys().cloned()).collect();
        let reports = self.roll.reports();
        let mut lowest = self.own.level;
        for name in names.iter().filter(|name| *name != self.name()) {
            let said = reports.get(name).and_then(|report| report.member.as_ref()).map(|member| member.level);
            let known = said.or_else(|| state.view.members.get(name).map(|member| member.level));
            lowest = lowest.min(known?.max(FIRST_LEVEL));
        }
        (lowest > state.level()).then_some(lowest)
    }

    /// The change in a form that every member understands.
    pub async fn fitted(&self, action: Action) -> Result<Action, Refusal> {
        let wanted = action.level();
        let level = || self.publisher().state().level();
        // A cluster that is just being founded, or was just upgraded, rises in a moment.
        if wanted > level() && !self.level_awaited.load(Ordering::Relaxed) {
            let risen = tokio::time::timeout(RISES, self.publisher().reached_level(wanted)).await;
            self.level_awaited.store(risen.is_err(), Ordering::Relaxed);
        }
        let level = level();
        if wanted <= level {
            self.level_awaited.store(false, Ordering::Relaxed);
            return Ok(action);
        }
        let action = action.for_level(level);
        if action.level() <= level {
            return Ok(action);
        }
        Err(self.beyond(wanted))
    }

    /// Whether a change that needs the level `wanted` may go into the log: a member that does not understand it would stop at it.
    pub async fn admits(&self, wanted: u32) -> Result<(), Refusal> {
        // Who proposes it may have heard of a new level a moment before.
        let publisher = self.publisher();
        tokio::time::timeout(RISES, publisher.reached_level(wanted)).await.map_err(|_| self.beyond(wanted))
    }

    fn beyond(&self, wanted: u32) -> Refusal {
        let state = self.publisher().state();
        let level = state.level();
        let older = state.view.members.values().filter(|member| member.level.max(FIRST_LEVEL) < wanted);
        let unheard = self.voters().into_iter().filter(|name| !state.view.members.contains_key(name));
        let older: Vec<String> = older
            .map(|member| format!("{} ({})", quoted(&member.name), member.version))
            .chain(unheard.map(|name| format!("{} (not heard of yet)", quoted(&name))))
            .collect();
        let who =
            if older.is_empty() { "not every member has said that it understands it".into() } else { older.join(", ") };
        Refusal::unavailable(format!(
            "this change needs feature level {wanted}, and the cluster has level {level} until all its members run a version of weir that \
             knows more: {who}; upgrade those, or remove the ones that are gone (weirctl member purge). Traffic is served meanwhile"
        ))
    }
}

/// How long a change waits for a level that may just be rising: once, until it has.
const RISES: Duration = Duration::from_millis(1500);
