//! Who is up, and who votes: members report to the leader, the leader writes down what changed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use control_api::{Member, MemberRole, TicketKey};
use control_state::{
    Action, FIRST_LEVEL, PUTS_MEMBERS, SAYS_THAT_IT_STEERS, State, TOLD_LEVEL, TicketStep, ticket_step,
};

use tokio::task::JoinSet;

use crate::admission;
use crate::control::{Gate, Inner, random};
use crate::roll::{PACE_MOST, Report, SILENCE, Said};
use crate::store::Identity;
use crate::types::{Peer, Raft, node_id};
use crate::wire::{Heartbeat, HeartbeatAnswer, UNWELCOME, WireError};

/// Runs for as long as the member does.
pub async fn upkeep(inner: Arc<Inner>) {
    let mut led_term = None;
    let mut last_turn = Instant::now();
    let mut looked_at_all = None;
    let mut strays = 0;
    let mut told = String::new();
    let mut paced = BEAT;
    loop {
        let wake = if inner.leading().is_some() { LEAD } else { paced };
        let _ = tokio::time::timeout(wake, inner.roll.reported.notified()).await;
        let paused = last_turn.elapsed() > SILENCE / 2;
        last_turn = Instant::now();
        keep_cluster_id(&inner).await;
        if let Some(raft) = inner.leading() {
            let term = raft.metrics().borrow().current_term;
            // Nobody is called silent by a leader that could not listen: a new one, or one that was itself held up.
            if led_term != Some(term) {
                inner.marks.retain(|_| false);
            }
            if led_term != Some(term) || paused {
                led_term = Some(term);
                looked_at_all = None;
                inner.roll.grant_grace();
            }
            let at_all = looked_at_all.is_none_or(|at: Instant| at.elapsed() >= LEAD);
            if at_all {
                looked_at_all = Some(Instant::now());
            }
            lead(&inner, raft, if at_all { Of::All } else { Of::TheNews }).await;
            paced = BEAT;
            continue;
        }
        led_term = None;
        match beat(&inner, false).await {
            Ok(answer) => {
                paced = Duration::from_millis(answer.pace_ms).clamp(BEAT, PACE_MOST);
                inner.marks.told(inner.name(), answer.diverged);
                inner.note_authorities(&answer.authorities);
                let votes = inner.role() == MemberRole::Secondary || answer.voters.iter().any(|v| v == inner.name());
                // One that is on its way in asks by itself.
                let settled = inner.gate() == Gate::Open || strays > STRAYS;
                if votes && strays > STRAYS {
                    // Taken in again, perhaps by a call whose answer was lost.
                    inner.set_gate(Gate::Open);
                }
                strays = if votes || !settled { 0 } else { strays + 1 };
                if strays > STRAYS {
                    inner.health.set_trouble(Some(REMOVED.to_owned()));
                    admission::rejoin(&inner).await;
                } else {
                    inner.health.set_trouble(None);
                }
            }
            // The same is not said again with every beat.
            Err(error) if error.is_a_fault_of_configuration() && error.to_string() != told => {
                tracing::error!(%error, "the leader does not hear this member");
                told = error.to_string();
            }
            Err(error) => tracing::debug!(%error, "the leader did not hear this member"),
        }
    }
}

/// Writes down which cluster this is, once it is known.
async fn keep_cluster_id(inner: &Inner) {
    let Some(voter) = inner.voter() else { return };
    let id = inner.publisher().state().view.cluster_id.clone();
    let identity = voter.store.identity();
    if id.is_empty() || id == identity.cluster_id {
        return;
    }
    inner.wire().note_cluster_id(&id);
    if let Err(error) = voter.store.set_identity(Identity { cluster_id: id, ..identity }).await {
        tracing::warn!(%error, "the cluster's id could not be written down");
    }
}

/// Tells the leader that this member is about to be silent.
pub async fn say_goodbye(inner: &Inner) {
    if inner.leading().is_some() {
        let action = Action::SetMemberUp { name: inner.name().to_owned(), up: false };
        let _ = inner.propose(action).await;
    } else {
        let _ = beat(inner, true).await;
    }
}

async fn beat(inner: &Inner, leaving: bool) -> Result<HeartbeatAnswer, WireError> {
    let mark = match inner.voter() {
        Some(_) => inner.marks.latest(),
        None => Some(inner.publisher().state().mark(0)),
    };
    let mark = mark.filter(|_| inner.own.level > FIRST_LEVEL);
    let (member, run, edge) = (inner.member(), inner.own.run, inner.edge_report());
    let believes = inner.believes();
    let heartbeat = Heartbeat { member, run, leaving, mark, edge, brief: true, believes };
    let mut last = WireError::NotLeader(None);
    let urls = match inner.leader_url() {
        Some(url) => vec![url],
        // A primary that was removed hears of no leader any more.
        None if inner.role() == MemberRole::Secondary || inner.health.leaderless_for() > LOST => inner.candidates(),
        None => return Err(last),
    };
    for url in urls {
        match inner.wire().post(&url, "/raft/heartbeat", &heartbeat, BEAT_TIMEOUT).await {
            Ok(answer) => {
                inner.places.note_leader(Some(url));
                return Ok(answer);
            }
            Err(WireError::NotLeader(Some(leader))) if leader != url => {
                match inner.wire().post(&leader, "/raft/heartbeat", &heartbeat, BEAT_TIMEOUT).await {
                    Ok(answer) => {
                        inner.places.note_leader(Some(leader));
                        return Ok(answer);
                    }
                    Err(WireError::Refused { status: UNWELCOME, message }) => {
                        inner.health.set_trouble(Some(message.clone()));
                        return Err(WireError::Refused { status: UNWELCOME, message });
                    }
                    Err(error) => last = error,
                }
            }
            Err(error) => {
                if let WireError::Refused { status: UNWELCOME, message } = &error {
                    inner.health.set_trouble(Some(message.clone()));
                    return Err(error);
                }
                inner.places.forget_leader(&url);
                last = error;
            }
        }
    }
    Err(last)
}

/// What a leader's turn is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Everybody: who is silent tells nothing.
    All,
    /// Those that have said something new since the last turn. While a fleet starts there is a turn after nearly every word, and of what
    /// each costs the others have no part.
    TheNews,
}

async fn lead(inner: &Arc<Inner>, raft: &Raft, of: Of) {
    let leaving = inner.leaving.load(Ordering::Relaxed);
    let (member, run, edge) = (inner.member(), inner.own.run, inner.edge_report());
    inner.roll.note(Said { member, run, pace: BEAT, leaving, edge, believes: None });
    inner.health.set_trouble(None);
    let state = inner.publisher().state();
    if state.view.cluster_id.is_empty() {
        let cluster_id = format!("{:016x}{:016x}", random(), random());
        let found = Action::Found { cluster_id, cluster_name: inner.cluster_name().to_owned() };
        if inner.propose(found).await.is_err() {
            return;
        }
    }
    if let Some(level) = inner.level_due(raft) {
        tracing::info!(level, "all members understand more: the cluster's feature level rises");
        if inner.propose_raw(Action::RaiseLevel { level }).await.is_err() {
            return;
        }
    }
    if of == Of::All {
        inner.found_authority().await;
        inner.note_authorities(&inner.authorities());
        if let Some(change) = inner.authority_due()
            && let Err(refusal) = inner.propose(change).await
        {
            tracing::warn!(%refusal, "the cluster's authority stays as it is; it is tried again");
        }
    }
    let changes = match of {
        Of::All => changes_of_all(inner),
        Of::TheNews => changes_of_the_news(inner),
    };
    write_down(inner, changes).await;
    follow_urls(inner, raft).await;
}

/// What is to be written down of everybody, as the reports are.
fn changes_of_all(inner: &Inner) -> Vec<Action> {
    let state = inner.publisher().state();
    let mut changes: Vec<Action> = rotate_tickets(inner).into_iter().collect();
    let (mut ids_left, mut without_id) = (None, Vec::new());
    inner.roll.take_news();
    inner.roll.keep(&state);
    let reports = inner.roll.reports();
    for (name, report) in &reports {
        match change_of(name, report, (&state, reports.len()), &mut ids_left) {
            Ok(change) => changes.extend(change),
            Err(NoId) => without_id.push(name.clone()),
        }
    }
    inner.marks.retain(|name| reports.contains_key(name));
    inner.roll.note_without_id(&without_id);
    changes
}

/// What is to be written down of those that have said something new, and of this member itself.
fn changes_of_the_news(inner: &Inner) -> Vec<Action> {
    let state = inner.publisher().state();
    let reports = inner.roll.reports();
    let mut news = inner.roll.take_news();
    inner.roll.count_looks(news.len());
    news.insert(inner.name().to_owned());
    let (mut ids_left, most) = (None, news.len());
    // Of all that have no id it is told when everybody is looked at.
    let of = |name: String| change_of(&name, reports.get(&name)?, (&state, most), &mut ids_left).ok()?;
    news.into_iter().filter_map(of).collect()
}

/// A member is new, and no id is left for it.
struct NoId;

/// What is to be written down of a member, if anything. `ids_left` is counted when the first new one comes, of which there are `most` at
/// most.
fn change_of(
    name: &str,
    report: &Report,
    (state, most): (&State, usize),
    ids_left: &mut Option<usize>,
) -> Result<Option<Action>, NoId> {
    let known = state.view.members.get(name);
    let now = Instant::now();
    let silent = report.is_silent(now) || report.leaving;
    if silent {
        if known.is_none_or(|known| !known.up) {
            return Ok(None);
        }
        let seconds = report.silence(now).as_secs_f32();
        tracing::warn!(member = name, seconds, leaving = report.leaving, "member is down");
        return Ok(Some(Action::SetMemberUp { name: name.to_owned(), up: false }));
    }
    let Some(said) = &report.member else { return Ok(None) };
    if known.is_some_and(|known| says_the_same(said, known)) {
        return Ok(None);
    }
    if known.is_none() && state.level() >= TOLD_LEVEL && said.level < TOLD_LEVEL {
        // It was heard before the cluster rose, and purged since: it would not be let in any more, see `too_old_to_be_told`.
        return Ok(None);
    }
    if known.is_none() {
        let left = ids_left.get_or_insert_with(|| control_state::ids_left(&state.view, most));
        if *left == 0 {
            return Err(NoId);
        }
        *left -= 1;
    }
    let mut said = Member { id: known.map_or(0, |known| known.id), up: true, ..said.clone() };
    if state.level() <= FIRST_LEVEL {
        // A cluster of the first level does not know levels, nor keeps generations by need.
        (said.level, said.released) = (0, Default::default());
    }
    said.steers &= state.level() >= SAYS_THAT_IT_STEERS;
    if known.is_some_and(|known| **known == said) {
        return Ok(None);
    }
    Ok(Some(Action::PutMember { member: said }))
}

/// Each is of another member, so that several may be under way: a fleet that starts is taken in by hundreds a second.
async fn write_down(inner: &Arc<Inner>, changes: Vec<Action>) {
    let together = inner.publisher().state().level() >= PUTS_MEMBERS;
    let mut changes = if together { put_together(changes) } else { changes }.into_iter();
    while changes.len() > 0 {
        let mut asked = JoinSet::new();
        for change in changes.by_ref().take(CHANGES_AT_ONCE) {
            let inner = inner.clone();
            asked.spawn(async move { inner.propose(change).await });
        }
        for answer in asked.join_all().await {
            if let Err(refusal) = answer {
                tracing::warn!(%refusal, "a member's state could not be written down");
                return;
            }
        }
    }
}

/// What several members say as one change: each is an entry of the log, a flush of the disk and a version for all that follow.
fn put_together(changes: Vec<Action>) -> Vec<Action> {
    let (mut others, mut batches) = (Vec::new(), Vec::new());
    let (mut members, mut down, mut bytes) = (Vec::new(), Vec::new(), 0);
    for change in changes {
        let more = match &change {
            Action::PutMember { member } => serde_json::to_vec(member).map_or(0, |text| text.len()),
            Action::SetMemberUp { name, .. } => name.len(),
            _ => 0,
        };
        if members.len() + down.len() == MEMBERS_TOGETHER || bytes + more > BYTES_TOGETHER {
            batches.push((std::mem::take(&mut members), std::mem::take(&mut down)));
            bytes = 0;
        }
        bytes += more;
        match change {
            Action::PutMember { member } => members.push(member),
            Action::SetMemberUp { name, up: false } => down.push(name),
            other => others.push(other),
        }
    }
    batches.push((members, down));
    others.extend(batches.into_iter().filter_map(|(mut members, mut down)| match (members.len(), down.len()) {
        (0, 0) => None,
        (1, 0) => members.pop().map(|member| Action::PutMember { member }),
        (0, 1) => down.pop().map(|name| Action::SetMemberUp { name, up: false }),
        _ => Some(Action::PutMembers { members, down }),
    }));
    others
}

/// What ten thousand members say ten times a second is compared without a copy of it.
fn says_the_same(said: &Member, known: &Member) -> bool {
    let Member {
        id: _,
        up: _,
        name,
        instance,
        role,
        edge,
        api_addr,
        peer_url,
        labels,
        addresses,
        version,
        level,
        started_at,
        released,
        steers,
    } = said;
    known.up
        && (name, instance, api_addr, peer_url) == (&known.name, &known.instance, &known.api_addr, &known.peer_url)
        && (role, edge, labels, addresses) == (&known.role, &known.edge, &known.labels, &known.addresses)
        && (version, level, started_at) == (&known.version, &known.level, &known.started_at)
        && (released, steers) == (&known.released, &known.steers)
}

/// What is due of the session ticket keys.
fn rotate_tickets(inner: &Inner) -> Option<Action> {
    if inner.door.exposed {
        // They would travel in the clear to whoever asks. Without them a TLS session goes on only at the machine it began at.
        return None;
    }
    let state = inner.publisher().state();
    let keys = &state.view.tickets;
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match ticket_step(keys, at)? {
        TicketStep::Stage => {
            let mut key = TicketKey { name: [0; 16], secret: [0; 32] };
            let drawn = aws_lc_rs::rand::fill(&mut key.name).and_then(|()| aws_lc_rs::rand::fill(&mut key.secret));
            if drawn.is_err() {
                tracing::error!("the machine has no random numbers; session ticket keys stay as they are");
                return None;
            }
            Some(Action::StageTicketKey { key, at })
        }
        TicketStep::Promote => {
            let name = keys.next.as_ref()?.name;
            Some(Action::PromoteTicketKey { name, at })
        }
    }
}

/// A voter that came back at another peer URL is reached there from now on.
async fn follow_urls(inner: &Inner, raft: &Raft) {
    let membership = raft.metrics().borrow().membership_config.clone();
    let state = inner.publisher().state();
    for (id, peer) in membership.membership().nodes() {
        let Some(member) = state.view.members.get(&peer.name) else { continue };
        if member.up && !member.peer_url.is_empty() && member.peer_url != peer.url && node_id(&peer.name) == *id {
            tracing::info!(member = peer.name, from = peer.url, to = member.peer_url, "peer URL changed");
            let moved = Peer { name: peer.name.clone(), url: member.peer_url.clone() };
            let change = openraft::ChangeMembers::SetNodes([(*id, moved)].into());
            if let Err(error) = raft.change_membership(change, true).await {
                tracing::warn!(%error, "the new peer URL could not be written down");
            }
        }
    }
}

pub(crate) const BEAT: Duration = Duration::from_millis(200);
pub(crate) const BEAT_TIMEOUT: Duration = Duration::from_millis(500);
const LEAD: Duration = Duration::from_millis(100);
/// Members that are written down by one change: an entry of the log of about 100 kB.
const MEMBERS_TOGETHER: usize = 256;
/// And at most so many bytes of their text: one may have long lists of labels, and of virtual IPs that it is done with.
const BYTES_TOGETHER: usize = 1 << 20;
/// Changes of members that are under way together.
const CHANGES_AT_ONCE: usize = 64;
const STRAYS: u32 = 5;
/// An election is over within this.
const LOST: Duration = Duration::from_millis(1500);
/// What a member is told that runs and was removed.
const REMOVED: &str = "the cluster has removed this member (weirctl member purge), and it runs: it asks to be taken in again and \
                       serves what it was last told. To take it out for good, stop it first and remove it then";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_that_starts_is_a_few_changes() {
        let member = |n: usize| Member { name: format!("edge-{n}"), ..Member::default() };
        let mut changes: Vec<Action> = (0..1000).map(|n| Action::PutMember { member: member(n) }).collect();
        changes.push(Action::SetMemberUp { name: "gone".into(), up: false });
        changes.push(Action::PromoteTicketKey { name: [0; 16], at: 1 });
        let together = put_together(changes);
        assert_eq!(together.len(), 5);
        assert!(together.contains(&Action::PromoteTicketKey { name: [0; 16], at: 1 }));
        let (mut names, mut silent) = (Vec::new(), Vec::new());
        for change in together {
            if let Action::PutMembers { members, down } = change {
                assert!(members.len() + down.len() <= MEMBERS_TOGETHER);
                names.extend(members.into_iter().map(|member| member.name));
                silent.extend(down);
            }
        }
        assert_eq!(names, (0..1000).map(|n| format!("edge-{n}")).collect::<Vec<_>>());
        assert_eq!(silent, ["gone"]);
        let labels = [("note".to_owned(), "x".repeat(100_000))].into();
        let long =
            (0..100).map(|n| Action::PutMember { member: Member { labels: Clone::clone(&labels), ..member(n) } });
        let together = put_together(long.collect());
        let sizes: Vec<usize> = together.iter().map(|change| serde_json::to_vec(change).unwrap().len()).collect();
        assert!(sizes.len() == 10 && sizes.iter().all(|size| *size < BYTES_TOGETHER + 1000), "{sizes:?}");
        let one = Action::PutMember { member: member(1) };
        assert_eq!(put_together(vec![one.clone()]), [one], "which older programs read as well");
        assert_eq!(put_together(Vec::new()), []);
    }
}
