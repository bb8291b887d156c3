use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use base_model::{Claim, Outline};
use base_text::quoted;
use control_api::{Delta, Document, Gap, Member, OWNER_USER, Refusal, Snapshot, time};
use serde::{Deserialize, Serialize};

use crate::answers::Answers;
use crate::authority::{self, Authority, Revoked};
use crate::command::{Action, Answer, Command, Done, EACH_FOR_ITSELF, ROOMS_LEVEL, SHORT_ANSWERS_LEVEL, SectionPut};
use crate::diff::between;
use crate::history::{self, History};
use crate::leases::{self, Leases};
use crate::rooms::Rooms;
use crate::steering::{IdsFree, steer};
use crate::sums::Sums;
use crate::{custom, keys, objects, purges, restore, tickets, tokens};

/// Everything a member knows of the cluster at one point of the log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, from = "Stored")]
pub struct State {
    /// What readers see.
    pub view: Snapshot,
    /// Where objects are reached, by name.
    pub(crate) claims: Arc<BTreeMap<String, Claim>>,
    /// The last [`GONE_KEPT`] objects that were deleted and the versions in which, oldest first.
    pub(crate) gone: Arc<VecDeque<(u64, String)>>,
    pub(crate) history: Arc<History>,
    /// Shown to nobody.
    pub(crate) authority: Arc<Authority>,
    /// Shown to nobody. Left out where there are none, so that programs that know none read it.
    #[serde(skip_serializing_if = "Rooms::is_empty")]
    pub(crate) rooms: Arc<Rooms>,
    /// Left out where there are none, so that programs that know none read the rest.
    #[serde(skip_serializing_if = "no_leases")]
    pub(crate) leases: Arc<Leases>,
    answers: Answers,
    /// Of what stands above, kept up to date with every change.
    #[serde(skip)]
    pub(crate) sums: Sums,
}

/// A [`State`] as it is read from a snapshot, of whichever version wrote that.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stored {
    view: Snapshot,
    claims: Arc<BTreeMap<String, Claim>>,
    gone: Arc<VecDeque<(u64, String)>>,
    history: Arc<History>,
    authority: Arc<Authority>,
    rooms: Arc<Rooms>,
    leases: Arc<Leases>,
    answers: Answers,
}

impl From<Stored> for State {
    /// Claims are told by the objects where they were not written down: an early version knew none.
    fn from(Stored { view, mut claims, gone, history, authority, rooms, leases, answers }: Stored) -> Self {
        let silent = |(name, document): &(&String, &Document)| {
            objects::owner(document) == OWNER_USER && !claims.contains_key(*name)
        };
        let told: Vec<(String, Claim)> = view
            .objects
            .iter()
            .filter(silent)
            .filter_map(|(name, document)| Some((name.clone(), claim_of(document)?)))
            .collect();
        if !told.is_empty() {
            Arc::make_mut(&mut claims).extend(told);
        }
        let mut state = State { view, claims, gone, history, authority, rooms, leases, answers, sums: Sums::default() };
        state.sums = Sums::of(&state);
        state
    }
}

/// Where the object is reached, as its document says.
pub(crate) fn claim_of(document: &Document) -> Option<Claim> {
    Outline::read(document).and_then(|outline| outline.claim)
}

/// What one command did.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    pub answer: Answer,
    /// Absent when nothing that is published changed.
    pub delta: Option<Arc<Delta>>,
}

impl State {
    /// A state that only reads: what a member that does not vote knows of the cluster.
    pub fn of_view(view: Snapshot) -> Self {
        let mut state = State { view, ..State::default() };
        state.sums = Sums::of(&state);
        state
    }

    /// The same, one delta further.
    pub fn advanced(&self, delta: &Delta) -> Result<Self, Gap> {
        let mut next = self.clone();
        next.view.advance(delta)?;
        next.sums = self.sums.after(self, &next, Some(delta));
        Ok(next)
    }

    /// A copy for readers, which costs a few reference counts: without the answers and the rooms, which no reader asks for and which
    /// a change need not copy as long as nobody else holds them.
    pub fn readable(&self) -> Self {
        let State { view, claims, gone, history, authority, rooms: _, leases, answers, sums } = self;
        State {
            view: view.clone(),
            claims: claims.clone(),
            gone: gone.clone(),
            history: history.clone(),
            authority: authority.clone(),
            rooms: Arc::default(),
            leases: leases.clone(),
            answers: answers.emptied(),
            sums: *sums,
        }
    }

    /// How many answers were let go although their requests might be repeated: see `answers.rs`.
    pub fn answers_forgotten(&self) -> u64 {
        self.answers.early()
    }

    /// Carries out one command.
    pub fn apply(&mut self, command: impl Into<Command>) -> Applied {
        let Command { request, now, action, by } = command.into();
        if let Some(answer) = self.answers.get(request) {
            return Applied { answer: answer.clone(), delta: None };
        }
        let at = time::parse(&now).and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let at = at.map_or(0, |at| at.as_secs());
        if let Action::Admit { caller, at_ms, seed, calls } = &action {
            let admitted = Arc::make_mut(&mut self.rooms).admit(calls, caller, *at_ms, *seed, at);
            let answer = admitted.map(|rooms| Done { version: self.view.version, rooms, ..Done::default() });
            let keeps_short = self.level() >= SHORT_ANSWERS_LEVEL;
            let kept = if keeps_short { crate::rooms::to_keep(calls, &answer) } else { answer.clone() };
            self.answers.push(request, at, kept);
            return Applied { answer, delta: None };
        }
        if self.level() >= ROOMS_LEVEL && self.rooms.are_due(at) {
            Arc::make_mut(&mut self.rooms).retire(at, &self.view);
        }
        // The version that what the command leads to is beyond.
        let floor = match &action {
            Action::Succeed { version, .. } => *version,
            Action::Restore { backup, .. } => backup.version,
            _ => 0,
        };
        let taken = if let Action::TakeLease { name, .. } = &action { Some(name.clone()) } else { None };
        // Whoever goes back goes back to what people wrote: what is made of other things follows.
        let remembered = !matches!(action, Action::PutGenerated { .. });
        let removes = matches!(
            action,
            Action::Delete { .. }
                | Action::DeleteAll
                | Action::DeleteAllSeen { .. }
                | Action::RollBack { .. }
                | Action::Succeed { .. }
        );
        let mut next = self.readable();
        let (answer, delta) = match change(&mut next, action, &now) {
            Ok(created) => {
                if removes && !self.view.objects.ptr_eq(&next.view.objects) {
                    keys::tidy(&mut next.view);
                }
                steer(&self.view, &mut next.view);
                let delta = between(&self.view, &next.view).map(|mut delta| {
                    next.view.version = self.view.version.max(floor) + 1;
                    delta.to = next.view.version;
                    next.view.note_changes(&delta);
                    next.view.note_custom_changes(&delta);
                    next.note_gone(&delta);
                    if remembered {
                        next.note_history(self, &delta, &now, by.as_ref());
                    }
                    Arc::new(delta)
                });
                self.sums = self.sums.after(self, &next, delta.as_deref());
                if delta.is_some() {
                    (self.view, self.gone, self.history) = (next.view, next.gone, next.history);
                }
                (self.claims, self.authority, self.leases) = (next.claims, next.authority, next.leases);
                let epoch = taken.and_then(|name| self.leases.get(&name)).map_or(0, |lease| lease.epoch);
                (Ok(Done { version: self.view.version, created, epoch, ..Done::default() }), delta)
            }
            Err(refusal) => (Err(refusal), None),
        };
        self.answers.push(request, at, answer.clone());
        Applied { answer, delta }
    }

    /// Makes this the first state of another cluster, which takes the place of the one it was of: what is left to a member whose group
    /// is lost. Of the others, each is up again when it says so.
    pub fn found_anew(&mut self, cluster_id: String, survivor: &str) {
        let mut next = self.view.clone();
        objects::take_place_of(&mut next, &self.view.cluster_id, self.view.version);
        next.cluster_id = cluster_id;
        let alone = |(name, member): (&String, &Arc<Member>)| {
            (name.clone(), Arc::new(Member { up: name == survivor, ..Member::clone(member) }))
        };
        next.members = self.view.members.iter().map(alone).collect();
        steer(&self.view, &mut next);
        next.version += 1;
        self.view = next;
        self.sums = Sums::of(self);
    }

    fn note_gone(&mut self, delta: &Delta) {
        if !delta.deletes.is_empty() {
            let gone = Arc::make_mut(&mut self.gone);
            gone.extend(delta.deletes.iter().map(|name| (delta.to, name.clone())));
            let surplus = gone.len().saturating_sub(GONE_KEPT);
            gone.drain(..surplus);
        }
    }
}

/// Returns the names that are new. A refusal may leave `next` half changed: the caller drops it then.
fn change(next: &mut State, action: Action, now: &str) -> Result<Vec<String>, Refusal> {
    let view = &mut next.view;
    match action {
        Action::Put { mode, entries } => objects::put(next, mode, entries, now),
        Action::Delete { names, since } => objects::delete(next, &names, since).map(|()| Vec::new()),
        Action::DeleteAll => objects::delete_all(next, None).map(|()| Vec::new()),
        Action::DeleteAllSeen { since } => objects::delete_all(next, Some(since)).map(|()| Vec::new()),
        Action::RollBack { version, since } => {
            next.seen_all(since)?;
            history::roll_back(next, version)
        }
        Action::PutMember { member } => put_member(view, &member, &mut IdsFree::default()),
        Action::PutMembers { members, down } => {
            let (mut created, mut free) = (Vec::new(), IdsFree::default());
            for member in &members {
                match put_member(view, member, &mut free) {
                    Ok(new) => created.extend(new),
                    // One that finds no id is none of the others' affair.
                    Err(_) if view.level >= EACH_FOR_ITSELF => {}
                    Err(refusal) => return Err(refusal),
                }
            }
            for name in &down {
                set_up(view, name, false);
            }
            Ok(created)
        }
        Action::RemoveMember { name } => match view.members.remove(&name) {
            Some(_) => Ok(Vec::new()),
            None => Err(unknown_member(view, &name)),
        },
        Action::Expel { name, at, until } => {
            if next.view.members.remove(&name).is_none() {
                return Err(unknown_member(&next.view, &name));
            }
            // The version that this makes: those issued from then on are good.
            let version = next.view.version + 1;
            authority::revoke(next, name, Revoked { version, until }, at);
            Ok(Vec::new())
        }
        Action::SetMemberUp { name, up } => match set_up(view, &name, up) {
            true => Ok(Vec::new()),
            false => Err(unknown_member(view, &name)),
        },
        Action::PutCustomKind { mode, kind, since } => custom::put_custom_kind(view, mode, &kind, since),
        Action::DeleteCustomKind { name, since } => {
            custom::seen_kind(view, &name, since)?;
            custom::seen_data(view, &name, since)?;
            custom::custom_kind(view, &name)?;
            Arc::make_mut(&mut view.custom_kinds).remove(&name);
            Arc::make_mut(&mut view.custom_data).remove(&name);
            Ok(Vec::new())
        }
        Action::PutCustomData { mode, kind, item, since } => custom::put_custom_data(view, mode, &kind, &item, since),
        Action::DeleteCustomData { kind, id, since } => {
            custom::custom_kind(view, &kind)?;
            custom::seen_item(view, &kind, &id, since)?;
            match custom::custom_items(view, &kind).remove(&id) {
                Some(_) => Ok(custom::tidy_custom(view, &kind)),
                None => Err(Refusal::not_found(format!(
                    "custom data kind {kind} has no item {id}",
                    kind = quoted(&kind),
                    id = quoted(&id)
                ))),
            }
        }
        Action::BatchCustomData { kind, mode, delete, put, since } => {
            custom::seen_data(view, &kind, since)?;
            custom::batch_custom_data(view, &kind, mode, &delete, &put)
        }
        Action::Found { cluster_id, cluster_name } => {
            if view.cluster_id.is_empty() {
                view.cluster_id = cluster_id;
                view.cluster_name = cluster_name;
            }
            Ok(Vec::new())
        }
        Action::Succeed { cluster_id, version, objects, replaces } => {
            objects::succeed(next, &cluster_id, version, objects, replaces)
        }
        Action::Restore { backup, since } => {
            next.seen_all(since)?;
            restore::restore(next, *backup)
        }
        Action::StageTicketKey { key, at } => {
            tickets::stage(view, &key, at);
            Ok(Vec::new())
        }
        Action::PromoteTicketKey { name, at } => {
            tickets::promote(view, &name, at);
            Ok(Vec::new())
        }
        Action::FoundAuthority { certificate, sealed_key } => {
            authority::found(next, &certificate, &sealed_key);
            Ok(Vec::new())
        }
        Action::StageAuthority { next: successor } => authority::stage(next, successor).map(|()| Vec::new()),
        Action::PromoteAuthority { certificate, at } => {
            authority::promote(next, &certificate, at);
            Ok(Vec::new())
        }
        Action::RetireAuthority { certificate } => {
            authority::retire(next, &certificate);
            Ok(Vec::new())
        }
        Action::AddToken { id, token, at } => authority::add_token(next, &id, &token, at).map(|()| Vec::new()),
        Action::SpendToken { id, at, by } => authority::spend_token(next, &id, at, by).map(|()| Vec::new()),
        Action::PutToken { mode, token } => tokens::put(view, mode, token, now),
        Action::DeleteToken { name } => tokens::delete(view, &name),
        // Not of what is published: see `apply`.
        Action::Admit { .. } => Ok(Vec::new()),
        Action::PurgeCaches { cache, what } => {
            purges::purge(view, cache, what);
            Ok(Vec::new())
        }
        Action::RaiseLevel { level } => {
            view.level = view.level.max(level);
            Ok(Vec::new())
        }
        Action::TakeLease { name, holder, until, at, term } => {
            leases::take(next, &name, &holder, until, at, term).map(|()| Vec::new())
        }
        Action::RenewLease { fence, until } => leases::renew(next, &fence, until).map(|()| Vec::new()),
        Action::EndLease { fence } => leases::end(next, &fence).map(|()| Vec::new()),
        Action::PutKeys { section, owner, fence, puts, deletes } => {
            if let Some(fence) = &fence {
                leases::check(next, fence)?;
            }
            keys::write(&mut next.view, &section, &owner, puts, &deletes).map(|()| Vec::new())
        }
        Action::PutGenerated { owner, fence, puts, deletes, keys } => {
            if let Some(fence) = &fence {
                leases::check(next, fence)?;
            }
            let created = objects::put_made(next, &owner, puts, &deletes, now)?;
            for SectionPut { section, puts, deletes } in keys {
                keys::write(&mut next.view, &section, &owner, puts, &deletes)?;
            }
            Ok(created)
        }
        Action::EndKeys { at } => {
            keys::end_due(view, at);
            Ok(Vec::new())
        }
    }
}

fn no_leases(leases: &Leases) -> bool {
    leases.is_empty()
}

fn put_member(view: &mut Snapshot, report: &Member, free: &mut IdsFree) -> Result<Vec<String>, Refusal> {
    let known = view.members.get(&report.name);
    let id = match known {
        Some(member) => member.id,
        None => free.next(view).ok_or_else(|| {
            Refusal::conflict("all 65535 member ids are taken: remove members that are gone (weirctl delete member)")
        })?,
    };
    let created = if known.is_none() { vec![report.name.clone()] } else { Vec::new() };
    let member = Member { id, up: true, ..report.clone() };
    view.members.insert(report.name.clone(), Arc::new(member));
    Ok(created)
}

/// False where nobody has the name.
fn set_up(view: &mut Snapshot, name: &str, up: bool) -> bool {
    let Some(member) = view.members.get(name) else { return false };
    if member.up != up {
        let member = Member { up, ..Member::clone(member) };
        view.members.insert(name.to_owned(), Arc::new(member));
    }
    true
}

fn unknown_member(view: &Snapshot, name: &str) -> Refusal {
    let known: Vec<&str> = view.members.keys().map(String::as_str).collect();
    Refusal::not_found(format!("member {name} not found; known members: {}", known.join(", "), name = quoted(&name)))
}

/// Writers that look before they write do so within minutes.
pub(crate) const GONE_KEPT: usize = 4096;
