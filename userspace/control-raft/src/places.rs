//! Where a member finds the others: what it was told at its start, what the log says, and where it found the leader last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use control_api::MemberRole;

use crate::config::{host_port, same_place};
use crate::control::{Inner, lock, random};
use crate::leaders::Told;

pub(crate) struct Places {
    /// This member's own peer URL; empty where it has none.
    pub own: String,
    pub initial_cluster: BTreeMap<String, String>,
    pub primaries: Vec<String>,
    /// Where a secondary found the leader last.
    leader: Mutex<Option<String>>,
    /// See `leaders.rs`.
    pub told_voters: Mutex<Told>,
}

impl Places {
    pub fn new(own: String, initial_cluster: BTreeMap<String, String>, primaries: Vec<String>) -> Places {
        Places { own, initial_cluster, primaries, leader: Mutex::default(), told_voters: Mutex::default() }
    }

    /// Where the leader was found last.
    pub fn leader(&self) -> Option<String> {
        lock(&self.leader).clone()
    }

    pub fn note_leader(&self, url: Option<String>) {
        *lock(&self.leader) = url;
    }

    /// A secondary that gets no answer asks another primary next time.
    pub fn forget_leader(&self, url: &str) {
        let mut leader = lock(&self.leader);
        if leader.as_deref() == Some(url) {
            *leader = None;
        }
    }

    /// Each once, and never this member's own.
    fn of_others(&self, urls: Vec<String>) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let is_another = |url: &String| !url.is_empty() && !same_place(url, &self.own) && seen.insert(url.clone());
        urls.into_iter().filter(is_another).collect()
    }
}

impl Inner {
    /// Peer URL of the leader as far as it is known; never our own.
    pub fn leader_url(&self) -> Option<String> {
        let Some(voter) = self.voter() else { return self.places.leader() };
        let metrics = voter.raft.metrics().borrow().clone();
        metrics.running_state.as_ref().ok()?;
        let leader = metrics.current_leader.filter(|leader| *leader != metrics.id)?;
        let url = metrics.membership_config.membership().get_node(&leader).map(|peer| peer.url.clone());
        url.or_else(|| self.places.leader())
    }

    /// Peer URLs at which other primaries may be found, the likeliest leader first.
    pub fn candidates(&self) -> Vec<String> {
        let places = &self.places;
        let mut urls: Vec<String> = places.leader().into_iter().collect();
        let initial = places.initial_cluster.iter().filter(|(name, _)| *name != self.name()).map(|(_, url)| url);
        urls.extend(initial.cloned());
        if self.role() == MemberRole::Secondary {
            urls.extend(places.primaries.iter().cloned());
        }
        let state = self.publisher().state();
        let primaries = state.view.members.values().filter(|m| m.role == MemberRole::Primary && m.name != self.name());
        urls.extend(primaries.map(|member| member.peer_url.clone()));
        places.of_others(urls)
    }

    /// Peer URLs that the configuration and the log name, and no report of a member.
    pub fn places_of_voters(&self, voters: &[String]) -> Vec<String> {
        let places = &self.places;
        let mut urls: Vec<String> = places.initial_cluster.values().chain(&places.primaries).cloned().collect();
        if let Some(voter) = self.voter() {
            let metrics = voter.raft.metrics().borrow().clone();
            let nodes = metrics.membership_config.membership().nodes();
            urls.extend(nodes.filter(|(_, peer)| voters.contains(&peer.name)).map(|(_, peer)| peer.url.clone()));
        }
        places.of_others(urls)
    }

    /// Hosts at which a member is known; empty for one that nobody knows yet.
    pub fn hosts_of(&self, name: &str) -> Vec<String> {
        let state = self.publisher().state();
        let known = state.view.members.get(name).map(|member| member.peer_url.clone());
        let urls = self.places.initial_cluster.get(name).cloned().into_iter().chain(known);
        urls.filter_map(|url| host_port("", &url).ok()).map(|(host, _)| host).collect()
    }

    /// For one that does not vote and knows no leader: any primary may know more.
    pub fn any_primary(&self) -> Option<String> {
        if self.voter().is_some() {
            return None;
        }
        let candidates = self.candidates();
        let turn = random() as usize % candidates.len().max(1);
        candidates.get(turn).cloned()
    }
}
