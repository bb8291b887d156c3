//! What the leader writes down: which members there are and whether they are up, and what is due of the cluster itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base_text::duration;
use control_api::{Addresses, Member, TicketKey};
use control_state::{
    Action, AuthorityStep, FIRST_LEVEL, LAPSES_LEVEL, PUTS_MEMBERS, SAYS_THAT_IT_STEERS, State, TOLD_LEVEL, Terms,
    TicketStep, ticket_step,
};
use tokio::task::JoinSet;

use crate::control::random;
use crate::reach;
use crate::roll::{Report, Reports, SILENCE, Said};
use crate::term::{Duty, Next, Term};
use crate::types::{Peer, Raft, node_id};
use crate::upkeep::{BEAT, keep_cluster_id};

/// The leader's own task.
pub(crate) struct Lead {
    term: Term,
    /// When the last turn began; absent before the first.
    last_turn: Option<Instant>,
    looked_at_all: Option<Instant>,
    /// Looks for machines of which nothing is heard.
    asked: JoinSet<()>,
}

/// What a turn begins from.
pub(crate) struct Seen {
    state: Arc<State>,
    reports: Reports,
    about: About,
    at: SystemTime,
    now: Instant,
    /// What the cluster's feature level can rise to.
    level: Option<u32>,
    /// By what the authority is measured that issues certificates, and whether all members are where its next step needs them.
    authority: Option<(Terms, bool)>,
    /// Session ticket keys would travel in the clear to whoever asks. Without them a TLS session goes on only at the machine it began at.
    without_tickets: bool,
    /// Raft's members.
    nodes: Vec<(u64, Peer)>,
}

/// Whom a turn is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum About {
    /// Everybody: who is silent tells nothing.
    All,
    /// Those that have said something new since the last turn. While a fleet starts there is a turn after nearly every word, and of what
    /// each costs the others have no part.
    TheNews(BTreeSet<String>),
}

/// What is to be done. The first three come before all else, one at a time.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// The cluster has no id yet.
    founds: bool,
    raises: Option<u32>,
    authority: Option<AuthorityStep>,
    tickets: Option<TicketStep>,
    members: Vec<Action>,
    /// Of a turn about everybody: those that find no id.
    without_id: Option<Vec<String>>,
    /// Voters that came back at another peer URL, and are reached there from now on.
    moved: Vec<(u64, Peer)>,
}

impl Lead {
    pub fn new(term: Term) -> Lead {
        Lead { term, last_turn: None, looked_at_all: None, asked: JoinSet::new() }
    }
}

impl Duty for Lead {
    type Seen = Seen;
    type Plan = Plan;

    fn observe(&mut self) -> Seen {
        let inner = &self.term.inner;
        let now = Instant::now();
        // Nobody is called silent by a leader that could not listen: a new one, or one that was itself held up.
        if self.last_turn.is_none_or(|last| now.saturating_duration_since(last) > SILENCE / 2) {
            if self.last_turn.is_none() {
                inner.marks.retain(|_| false);
            }
            self.looked_at_all = None;
            inner.roll.grant_grace();
        }
        // The leader before, which is why this one is elected.
        let gone = if self.last_turn.is_none() { inner.health.take_gone() } else { None };
        self.last_turn = Some(now);
        let (member, run, edge) = (inner.member(), inner.own.run, inner.edge_report());
        let leaving = inner.leaving.load(Ordering::Relaxed);
        inner.roll.note(Said { member, run, pace: BEAT, leaving, edge, believes: None });
        inner.health.set_trouble(None);
        let state = inner.publisher().state();
        let mut news = inner.roll.take_news();
        let about = if self.looked_at_all.is_none_or(|at| at.elapsed() >= TURN) {
            self.looked_at_all = Some(now);
            inner.roll.keep(&state);
            if let Some(before) = gone {
                inner.roll.note_gone(before, None);
            }
            About::All
        } else {
            inner.roll.count_looks(news.len());
            news.insert(inner.name().to_owned());
            About::TheNews(news)
        };
        if about == About::All {
            self.look_for_machines(&state, now);
        }
        let inner = &self.term.inner;
        let reports = inner.roll.reports();
        if about == About::All {
            inner.marks.retain(|name| reports.contains_key(name));
            inner.note_authorities(&inner.authorities());
        }
        let raft = self.term.raft();
        let nodes =
            raft.map(|raft| raft.metrics().borrow().membership_config.clone()).map_or_else(Vec::new, |config| {
                config.membership().nodes().map(|(id, peer)| (*id, peer.clone())).collect()
            });
        Seen {
            level: raft.and_then(|raft| inner.level_due(raft)),
            authority: if about == About::All { inner.authority_measured(&state) } else { None },
            without_tickets: inner.door.exposed,
            at: SystemTime::now(),
            state,
            reports,
            about,
            now,
            nodes,
        }
    }

    fn plan(seen: &Seen) -> Plan {
        let state = &seen.state;
        if state.view.cluster_id.is_empty() {
            return Plan { founds: true, ..Plan::default() };
        }
        if seen.level.is_some() {
            return Plan { raises: seen.level, ..Plan::default() };
        }
        let at = seen.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut plan = Plan {
            authority: seen.authority.and_then(|(terms, all)| state.authority().due(terms, at, all)),
            ..Plan::default()
        };
        let mut ids_left = None;
        let mut look = |name: &str, most: usize| {
            let report = seen.reports.get(name)?;
            match change_of(name, report, (state, most, seen.now, seen.at), &mut ids_left) {
                Ok(change) => {
                    plan.members.extend(change);
                    None
                }
                Err(NoId) => Some(name.to_owned()),
            }
        };
        match &seen.about {
            About::All => {
                let most = seen.reports.len();
                plan.without_id = Some(seen.reports.keys().filter_map(|name| look(name, most)).collect());
                plan.tickets = ticket_step(&state.view.tickets, at).filter(|_| !seen.without_tickets);
            }
            // Of all that have no id it is told when everybody is looked at.
            About::TheNews(names) => names.iter().for_each(|name| drop(look(name, names.len()))),
        }
        plan.moved = seen.nodes.iter().filter_map(|node| moved(state, node)).collect();
        plan
    }

    async fn act(&mut self, plan: Plan) -> Next {
        let (term, inner) = (&self.term, &self.term.inner);
        keep_cluster_id(inner).await;
        if plan.founds {
            let cluster_id = format!("{:016x}{:016x}", random(), random());
            let found = Action::Found { cluster_id, cluster_name: inner.cluster_name().to_owned() };
            self.looked_at_all = None;
            return if term.propose(found).await.is_ok() { Next::Turn } else { Next::Rest };
        }
        if let Some(level) = plan.raises {
            tracing::info!(level, "all members understand more: the cluster's feature level rises");
            self.looked_at_all = None;
            return if term.propose_raw(Action::RaiseLevel { level }).await.is_ok() { Next::Turn } else { Next::Rest };
        }
        inner.found_authority(term).await;
        if let Some(change) = plan.authority.and_then(|step| inner.authority_change(step, SystemTime::now()))
            && let Err(refusal) = term.propose(change).await
        {
            tracing::warn!(%refusal, "the cluster's authority stays as it is; it is tried again");
        }
        if let Some(names) = &plan.without_id {
            inner.roll.note_without_id(names);
        }
        for change in &plan.members {
            if let Action::SetMemberUp { name, .. } = change
                && let Some(report) = inner.roll.report(name)
            {
                let silent = Duration::from_millis(report.silence(Instant::now()).as_millis() as u64);
                tracing::warn!(member = name, silent = %duration(silent), leaving = report.leaving, "member is down");
            }
            if let Action::PutMember { member } = change
                && !member.edge
                && inner.roll.report(&member.name).is_some_and(|report| report.is_gone())
            {
                tracing::warn!(member = member.name, "its machine does not answer: others take its new connections");
            }
        }
        let tickets = plan.tickets.and_then(|step| ticket_change(step, &inner.publisher().state()));
        self.write_down(tickets.into_iter().chain(plan.members).collect()).await;
        for (id, peer) in plan.moved {
            let Some(raft) = term.raft() else { break };
            tracing::info!(member = peer.name, to = peer.url, "peer URL changed");
            let change = openraft::ChangeMembers::SetNodes([(id, peer)].into());
            if let Err(error) = raft.change_membership(change, true).await {
                tracing::warn!(%error, "the new peer URL could not be written down");
            }
        }
        Next::Rest
    }

    async fn rest(&mut self) -> Next {
        let _ = tokio::time::timeout(TURN, self.term.inner.roll.reported.notified()).await;
        Next::Turn
    }
}

impl Lead {
    /// Asks for those whose word is missing, whether their machines are there.
    fn look_for_machines(&mut self, state: &State, now: Instant) {
        while self.asked.try_join_next().is_some() {}
        let place = |name: &str| {
            let known = state.view.members.get(name).filter(|known| takes_connections(known))?;
            reach::place(known)
        };
        let room = ASKED_AT_ONCE.saturating_sub(self.asked.len());
        for name in self.term.inner.roll.strange(now, room) {
            let Some(at) = place(&name) else { continue };
            let inner = self.term.inner.clone();
            self.asked.spawn(async move {
                if reach::is_near(at).await {
                    inner.roll.note_near(&name);
                }
            });
        }
        // Who is cut off itself finds that nobody answers.
        let cut_off = |raft: &Raft| {
            let metrics = raft.metrics().borrow().clone();
            let alone = metrics.membership_config.membership().voter_ids().count() == 1;
            !alone && metrics.millis_since_quorum_ack.is_some_and(|silence| silence > ALONE.as_millis() as u64)
        };
        if self.term.raft().is_none_or(cut_off) {
            return;
        }
        let room = ASKED_AT_ONCE.saturating_sub(self.asked.len());
        for (name, heard) in self.term.inner.roll.missing(now, room) {
            let Some(at) = place(&name) else { continue };
            let inner = self.term.inner.clone();
            self.asked.spawn(async move {
                if reach::is_gone(at).await {
                    inner.roll.note_gone(name, Some(heard));
                }
            });
        }
    }

    /// Each is of another member, so that several may be under way: a fleet that starts is taken in by hundreds a second.
    async fn write_down(&self, changes: Vec<Action>) {
        let together = self.term.inner.publisher().state().level() >= PUTS_MEMBERS;
        let mut changes = if together { put_together(changes) } else { changes }.into_iter();
        while changes.len() > 0 {
            let mut asked = JoinSet::new();
            for change in changes.by_ref().take(CHANGES_AT_ONCE) {
                let term = self.term.clone();
                asked.spawn(async move { term.propose(change).await });
            }
            for answer in asked.join_all().await {
                if let Err(refusal) = answer {
                    tracing::warn!(%refusal, "a member's state could not be written down");
                    return;
                }
            }
        }
    }
}

/// A member is new, and no id is left for it.
struct NoId;

/// What is to be written down of a member, if anything. `ids_left` is counted when the first new one comes, of which there are `most` at
/// most.
fn change_of(
    name: &str,
    report: &Report,
    (state, most, now, at): (&State, usize, Instant, SystemTime),
    ids_left: &mut Option<usize>,
) -> Result<Option<Action>, NoId> {
    let known = state.view.members.get(name);
    if report.is_silent(now) || report.leaving {
        let was_up = known.is_some_and(|known| known.up);
        return Ok(was_up.then(|| Action::SetMemberUp { name: name.to_owned(), up: false }));
    }
    if report.is_gone() {
        // Its connections stay its own: it may be back in a moment. Who is silent for longer is down.
        let takes = known.filter(|known| takes_connections(known));
        let rests = takes.map(|known| Member { edge: false, steers: false, ..Member::clone(known) });
        return Ok(rests.map(|member| Action::PutMember { member }));
    }
    let Some(said) = &report.member else { return Ok(None) };
    let lapsed_ms = lapse_of(said, known.map(Arc::as_ref), state.level(), at);
    if known.is_some_and(|known| says_the_same(said, lapsed_ms, known)) {
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
    said.lapsed_ms = lapsed_ms;
    if known.is_some_and(|known| **known == said) {
        return Ok(None);
    }
    Ok(Some(Action::PutMember { member: said }))
}

/// Others steer to it what begins.
fn takes_connections(member: &Member) -> bool {
    member.up && member.edge && member.addresses != Addresses::default()
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

/// When it is written down that a member lapsed. One that has begun anew does not know of it any more; and each time is a change for all, so
/// one that lapses again soon waits: until then it looks itself for what others took. By its own clock and this machine's: where they
/// differ, nothing waits.
fn lapse_of(said: &Member, known: Option<&Member>, level: u32, at: SystemTime) -> u64 {
    if level < LAPSES_LEVEL {
        return 0;
    }
    let known = known.map_or(0, |known| known.lapsed_ms);
    let now = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let soon = known <= now && now < known.saturating_add(LAPSES_APART.as_millis() as u64);
    if said.lapsed_ms == 0 || soon { known } else { said.lapsed_ms }
}

/// What ten thousand members say ten times a second is compared without a copy of it.
fn says_the_same(said: &Member, lapsed: u64, known: &Member) -> bool {
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
        lapsed_ms: _,
    } = said;
    known.up
        && (name, instance, api_addr, peer_url) == (&known.name, &known.instance, &known.api_addr, &known.peer_url)
        && (role, edge, labels, addresses) == (&known.role, &known.edge, &known.labels, &known.addresses)
        && (version, level, started_at) == (&known.version, &known.level, &known.started_at)
        && (released, steers, lapsed) == (&known.released, &known.steers, known.lapsed_ms)
}

/// Where a voter is reached by now, if that is elsewhere.
fn moved(state: &State, (id, peer): &(u64, Peer)) -> Option<(u64, Peer)> {
    let member = state.view.members.get(&peer.name)?;
    let is_elsewhere =
        member.up && !member.peer_url.is_empty() && member.peer_url != peer.url && node_id(&peer.name) == *id;
    is_elsewhere.then(|| (*id, Peer { name: peer.name.clone(), url: member.peer_url.clone() }))
}

/// What is due of the session ticket keys.
fn ticket_change(step: TicketStep, state: &State) -> Option<Action> {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match step {
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
            let name = state.view.tickets.next.as_ref()?.name;
            Some(Action::PromoteTicketKey { name, at })
        }
    }
}

/// Between two times that it is written down of a member that it lapsed.
const LAPSES_APART: Duration = Duration::from_secs(60);
/// Without a majority's word for so long a leader looks for nobody.
const ALONE: Duration = Duration::from_millis(300);
/// Machines that are looked for at the same time.
const ASKED_AT_ONCE: usize = 64;
/// Between two turns about everybody.
const TURN: Duration = Duration::from_millis(100);
/// Members that are written down by one change: an entry of the log of about 100 kB.
const MEMBERS_TOGETHER: usize = 256;
/// And at most so many bytes of their text: one may have long lists of labels, and of virtual IPs that it is done with.
const BYTES_TOGETHER: usize = 1 << 20;
/// Changes of members that are under way together.
const CHANGES_AT_ONCE: usize = 64;

#[cfg(test)]
mod tests {
    use control_state::Command;

    use super::*;
    use crate::roll::Roll;

    #[test]
    fn what_a_turn_does_follows_from_what_was_seen() {
        let (roll, mut state) = (Roll::default(), State::default());
        let seen = |state: &State, roll: &Roll, about: About| Seen {
            state: Arc::new(state.clone()),
            reports: roll.reports(),
            about,
            at: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            now: Instant::now(),
            level: None,
            authority: None,
            without_tickets: true,
            nodes: Vec::new(),
        };
        let all = |state: &State, roll: &Roll| seen(state, roll, About::All);
        // What comes before all else comes alone.
        let founds = Plan { founds: true, ..Plan::default() };
        assert_eq!(Lead::plan(&Seen { level: Some(9), ..all(&state, &roll) }), founds);
        let mut turn = 0;
        let mut act = |state: &mut State, action: Action| {
            turn += 1;
            state.apply(Command { request: turn, now: "t".into(), action, by: None }).answer.unwrap();
        };
        act(&mut state, Action::Found { cluster_id: "c".into(), cluster_name: "shop".into() });
        let raises = Plan { raises: Some(9), ..Plan::default() };
        assert_eq!(Lead::plan(&Seen { level: Some(9), ..all(&state, &roll) }), raises);

        // One that is new, one that says what is known of it, one that leaves, and one that moved.
        act(&mut state, Action::RaiseLevel { level: control_state::LEVEL });
        let member = |name: &str| Member {
            name: name.into(),
            level: control_state::LEVEL,
            peer_url: format!("http://{name}:2380"),
            ..Member::default()
        };
        let says = |member: Member, leaving: bool| {
            roll.note(Said { member, run: 1, pace: BEAT, leaving, edge: None, believes: None })
        };
        for name in ["same", "leaves", "moves"] {
            act(&mut state, Action::PutMember { member: member(name) });
        }
        assert!(says(member("new"), false) && says(member("same"), false) && says(member("leaves"), true));
        let node = |name: &str, url: &str| (node_id(name), Peer { name: name.into(), url: url.into() });
        let nodes = vec![node("moves", "http://before:2380"), node("same", "http://same:2380")];
        let plan = Lead::plan(&Seen { nodes, ..all(&state, &roll) });
        let up = Action::PutMember { member: Member { up: true, ..member("new") } };
        let down = |name: &str| Action::SetMemberUp { name: name.into(), up: false };
        assert_eq!(plan.members, [down("leaves"), up.clone()]);
        assert_eq!((plan.moved, plan.without_id), (vec![node("moves", "http://moves:2380")], Some(Vec::new())));
        assert_eq!((plan.tickets, plan.authority), (None, None));
        // Keys for session tickets, where nobody listens.
        let plan = Lead::plan(&Seen { without_tickets: false, ..all(&state, &roll) });
        assert_eq!(plan.tickets, Some(TicketStep::Stage));
        // A turn about the news is about those; who has not been heard of for long is silent, and who is no member is nobody's loss.
        let news = seen(&state, &roll, About::TheNews(["new".to_owned()].into()));
        assert_eq!(Lead::plan(&news).members, [up]);
        let later = Instant::now() + SILENCE * 2;
        assert_eq!(Lead::plan(&Seen { now: later, ..all(&state, &roll) }).members, [down("leaves"), down("same")]);
        // Of a machine that does not answer others take what begins, where that is steered to it, and its connections stay its own.
        let addresses = Addresses { v4: Some("192.0.2.7".parse().unwrap()), v6: None };
        let steered = |name: &str| Member { edge: true, addresses, ..member(name) };
        act(&mut state, Action::PutMember { member: steered("steered") });
        assert!(says(steered("steered"), false));
        let gone = |name: &str| roll.note_gone(name.into(), None);
        ["same", "steered", "nobody"].into_iter().for_each(gone);
        let known = state.view.members["steered"].clone();
        let news = About::TheNews(["same".to_owned(), "steered".to_owned()].into());
        let rests = Action::PutMember { member: Member { edge: false, steers: false, ..Member::clone(&known) } };
        assert_eq!(Lead::plan(&seen(&state, &roll, news.clone())).members, std::slice::from_ref(&rests));
        // A leader that led before has heard nobody meanwhile, and accuses nobody.
        roll.grant_grace();
        assert_eq!(Lead::plan(&seen(&state, &roll, About::TheNews(["steered".to_owned()].into()))).members, []);
        ["same", "steered"].into_iter().for_each(gone);
        act(&mut state, rests);
        assert_eq!(Lead::plan(&seen(&state, &roll, news.clone())).members, []);
        // It is back, and takes them again.
        assert!(!says(steered("steered"), false));
        let back = Action::PutMember { member: Member { up: true, ..Member::clone(&known) } };
        assert_eq!(Lead::plan(&seen(&state, &roll, news)).members, [back]);
        act(&mut state, Action::RemoveMember { name: "steered".into() });
        roll.forget("steered");
        // Nobody is forgotten who is a member, and was not heard of.
        roll.keep(&state);
        let later = Instant::now() + SILENCE * 2;
        let plan = Lead::plan(&Seen { now: later, ..all(&state, &roll) });
        assert_eq!(plan.members, [down("leaves"), down("moves"), down("same")]);
    }

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
