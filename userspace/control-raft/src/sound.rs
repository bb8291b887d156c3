//! Which of Raft's calls may reach openraft.
//!
//! openraft takes the word of whoever leads by the votes: a call of another cluster's leader, or of one that lost its disk,
//! with a higher term and a shorter log would make it cut entries that were decided here, or read a range that ends before it
//! begins. No leader of this group ever asks for that, so such calls are refused, whoever makes them.

use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, VoteRequest};

use crate::store::Held;
use crate::types::{LogEntry, LogId, Membership, SnapshotMeta, Types, Vote};

/// A vote, an append or a snapshot.
pub fn vote(held: &Held, request: &VoteRequest<u64>) -> Result<(), String> {
    if request.vote.is_committed() {
        return Err("it asks for a vote that it says it has".into());
    }
    sane_vote(held, &request.vote)?;
    let Some(last) = &request.last_log_id else { return Ok(()) };
    sane(last)?;
    no_younger(last, &request.vote)
}

/// `held` is what this member holds.
pub fn append(held: &Held, request: &AppendEntriesRequest<Types>) -> Result<(), String> {
    leads(held, &request.vote)?;
    let ids = || request.prev_log_id.iter().chain(request.entries.iter().map(|entry| &entry.log_id));
    ids().chain(&request.leader_commit).try_for_each(sane)?;
    request.entries.iter().try_for_each(membership)?;
    let mut before: Option<&LogId> = None;
    for id in ids() {
        let follows = match before {
            Some(before) => id.index == before.index + 1 && id.leader_id >= before.leader_id,
            None => request.prev_log_id.is_some() || id.index == 0,
        };
        if !follows {
            return Err(format!("entry {id} does not follow the one before it"));
        }
        no_younger(id, &request.vote)?;
        agrees(held, id)?;
        before = Some(id);
    }
    let Some(commit) = &request.leader_commit else { return Ok(()) };
    no_younger(commit, &request.vote)?;
    agrees(held, commit)?;
    // Order goes by leader first: with both, an index that nobody has could be held for decided.
    let last = held.last().max(before.copied());
    match last {
        Some(last) if *commit <= last && commit.index > last.index => {
            Err(format!("it says that {commit} is decided, which cannot be beside {last}"))
        }
        _ => Ok(()),
    }
}

pub fn snapshot(held: &Held, vote: &Vote, meta: &SnapshotMeta) -> Result<(), String> {
    leads(held, vote)?;
    let Some(last) = &meta.last_log_id else { return Ok(()) };
    sane(last)?;
    if last.leader_id.term > vote.leader_id().term {
        return Err(format!("its snapshot at {last} is younger than its leader ({vote})"));
    }
    voters(&meta.last_membership)?;
    if let Some(members) = meta.last_membership.log_id()
        && members > last
    {
        return Err(format!("its snapshot at {last} has members of {members}"));
    }
    // An older one is left alone by openraft, which asks for the order alone.
    match held.decided() {
        Some(decided) if last.index < decided.index && *last < decided => Ok(()),
        _ => agrees(held, last),
    }
}

/// The vote in another's answer, which openraft goes by as it does by that of a call.
pub fn answered(held: &Held, vote: &Vote) -> Result<(), String> {
    sane_vote(held, vote)
}

fn no_younger(id: &LogId, vote: &Vote) -> Result<(), String> {
    let younger = id.leader_id.term > vote.leader_id().term;
    if younger { Err(format!("entry {id} is younger than its leader ({vote})")) } else { Ok(()) }
}

fn leads(held: &Held, vote: &Vote) -> Result<(), String> {
    if !vote.is_committed() {
        return Err(format!("its vote {vote} does not make it a leader"));
    }
    sane_vote(held, vote)
}

/// A term that elections can have led to since this member heard of one.
fn sane_vote(held: &Held, vote: &Vote) -> Result<(), String> {
    let known = held.term();
    if vote.leader_id().term > known.saturating_add(TERMS_AHEAD_MOST) {
        return Err(format!(
            "its vote {vote} is more than {TERMS_AHEAD_MOST} terms beyond {known}, the last one that is known here"
        ));
    }
    Ok(())
}

/// Numbers that can be counted on from.
fn sane(id: &LogId) -> Result<(), String> {
    if id.index > MOST || id.leader_id.term > MOST { Err(format!("{id} is no place in a log")) } else { Ok(()) }
}

fn membership(entry: &LogEntry) -> Result<(), String> {
    match &entry.payload {
        EntryPayload::Membership(members) => voters(&Membership::new(Some(entry.log_id), members.clone())),
        EntryPayload::Blank | EntryPayload::Normal(_) => Ok(()),
    }
}

fn voters(membership: &Membership) -> Result<(), String> {
    let mut voters = membership.voter_ids().peekable();
    let some = voters.peek().is_some();
    if some && voters.all(|id| membership.membership().get_node(&id).is_some()) {
        Ok(())
    } else {
        Err("it has members without voters, or voters without an address".into())
    }
}

/// What is decided stays: up to there the entry has to be ours, and beyond it no older one.
fn agrees(held: &Held, id: &LogId) -> Result<(), String> {
    let Some(decided) = held.decided() else { return Ok(()) };
    let ours = held.at(id.index);
    let fits = match ours {
        _ if id.index > decided.index => id.leader_id >= decided.leader_id,
        Some(ours) => ours == *id,
        // Purged: all that is left to know is that it was older than what follows.
        None => *id < decided,
    };
    let shown = ours.map_or_else(|| format!("{decided} and what came before"), |ours| ours.to_string());
    if fits { Ok(()) } else { Err(format!("it speaks of {id}, and here {shown} is decided")) }
}

/// A term lasts as long as an election, a second or so: this many take a century. A member that was told more could count no further
/// soon, and neither could the group that it votes in.
pub const TERMS_AHEAD_MOST: u64 = 1 << 32;
/// Terms and indexes beyond it come from no log.
const MOST: u64 = 1 << 62;

#[cfg(test)]
mod tests;
