use std::ops::Bound;
use std::path::Path;

use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{CommittedLeaderId, Entry};
use proptest::prelude::*;

use super::*;
use crate::store::{Identity, Store};

/// What may be asked of a store, in any order and with any numbers.
#[derive(Debug, Clone)]
enum Step {
    Append { first: u64, terms: Vec<u64> },
    Truncate(u64, u64),
    Purge(u64, u64),
    Commit(Option<(u64, u64)>),
    Read(Bound<u64>, Bound<u64>),
    Call { term: u64, prev: Option<(u64, u64)>, first: u64, terms: Vec<u64>, commit: Option<(u64, u64)> },
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever is asked: nothing panics, and what was decided stays or is purged, and is never another.
    #[test]
    fn a_store_outlives_every_call(steps in prop::collection::vec(step(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let directory = tempfile::tempdir_in(memory()).unwrap();
        let mut store = open(directory.path());
        for step in steps {
            let (before, decided) = known(&store);
            runtime.block_on(take(&mut store, &step));
            let (after, still) = known(&store);
            let reset = matches!(step, Step::Commit(_));
            prop_assert!(reset || still.map(|id| id.index) >= decided.map(|id| id.index), "{step:?}: {decided:?} → {still:?}");
            for id in before.iter().filter(|id| decided.is_some_and(|decided| id.index <= decided.index)) {
                let now = after.iter().find(|now| now.index == id.index);
                let purged = matches!(step, Step::Purge(_, upto) if id.index <= upto);
                prop_assert!(purged || now == Some(id), "{step:?} made {now:?} of {id}");
            }
        }
    }

    /// The calls a leader of this group makes to a follower that lags, or that kept what nobody else has, get through.
    #[test]
    fn a_leader_of_the_group_is_heard(
        common in prop::collection::vec(0u64..2, 1..8),
        stale in prop::collection::vec(0u64..2, 0..5),
        newer in prop::collection::vec(0u64..2, 1..5),
        (committed, purged, prev, length, commit) in (0usize..8, 0usize..8, 0usize..14, 0usize..8, 0usize..14),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let directory = tempfile::tempdir_in(memory()).unwrap();
        let mut store = open(directory.path());
        let shared = grown(&[], &common, 1);
        let mine = grown(&shared, &stale, 0);
        let mut theirs = grown(&shared, &newer, 0);
        // The leader of the newest term wrote at least the last entry.
        let term = mine.last().max(theirs.last()).unwrap().leader_id.term + 3;
        theirs.push(id(term, theirs.len() as u64));
        let committed = committed % shared.len();
        runtime.block_on(async {
            store.blocking_append(mine.iter().map(|id| blank(*id))).await.unwrap();
            store.save_committed(Some(shared[committed])).await.unwrap();
            store.purge(shared[purged % (committed + 1)]).await.unwrap();
        });
        let prev = prev % theirs.len();
        let entries = theirs[prev + 1..].iter().take(length).map(|id| blank(*id)).collect();
        // What is decided elsewhere is in the common part, or the newest leader decided it.
        let commit = if commit < shared.len() { shared[commit] } else { *theirs.last().unwrap() };
        let request = AppendEntriesRequest {
            vote: Vote::new_committed(term, 7),
            prev_log_id: Some(theirs[prev]),
            entries,
            leader_commit: Some(commit),
        };
        prop_assert_eq!(append(&store.held(), &request), Ok(()));
        let first = AppendEntriesRequest { prev_log_id: None, entries: vec![blank(theirs[0])], ..request };
        prop_assert_eq!(append(&store.held(), &first), Ok(()));
    }
}

#[test]
fn calls_that_no_leader_makes() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let directory = tempfile::tempdir_in(memory()).unwrap();
    let mut store = open(directory.path());
    let log: Vec<LogId> = (0..6).map(|index| id(2, index)).collect();
    runtime.block_on(async {
        store.blocking_append(log.iter().map(|id| blank(*id))).await.unwrap();
        store.save_committed(Some(log[4])).await.unwrap();
    });
    let call = |term: u64, prev: Option<LogId>, entries: &[LogId], commit: Option<LogId>| {
        let entries = entries.iter().map(|id| blank(*id)).collect();
        let request = AppendEntriesRequest {
            vote: Vote::new_committed(term, 7),
            prev_log_id: prev,
            entries,
            leader_commit: commit,
        };
        append(&store.held(), &request)
    };
    assert_eq!(call(2, Some(log[5]), &[], Some(log[5])), Ok(()), "the group's leader");
    assert_eq!(call(9, Some(log[4]), &[id(9, 5)], Some(id(9, 5))), Ok(()), "its next one");
    for (refused, why) in [
        (call(9, None, &[id(1, 0), id(9, 1)], Some(id(9, 1))), "a shorter log of a higher term"),
        (call(9, Some(id(9, 1)), &[], Some(id(9, 1))), "the same as a heartbeat"),
        (call(9, Some(log[4]), &[], Some(id(1, 40))), "decided, though nobody has it"),
        (call(9, Some(log[3]), &[id(9, 4)], None), "another entry where one is decided"),
        (call(9, Some(log[4]), &[id(9, 7)], None), "a gap"),
        (call(9, Some(log[4]), &[id(9, 5), id(8, 6)], None), "going back in terms"),
        (call(3, Some(log[4]), &[id(9, 5)], None), "an entry younger than its leader"),
        (call(9, Some(id(9, u64::MAX)), &[], None), "no place in a log"),
        (call(u64::MAX, Some(log[5]), &[], None), "no term"),
        (call(1 << 62, Some(log[5]), &[], None), "a term that no election led to"),
        (call(9, Some(log[4]), &[], Some(id(10, 40))), "decided by one who leads later"),
    ] {
        assert!(refused.is_err(), "{why}");
    }
    let members = |log_id| Membership::new(log_id, openraft::Membership::new(vec![[7].into()], None));
    let meta =
        |last: LogId| SnapshotMeta { last_log_id: Some(last), last_membership: members(None), snapshot_id: "s".into() };
    let leader = Vote::new_committed(9, 7);
    assert_eq!(snapshot(&store.held(), &leader, &meta(id(9, 8))), Ok(()));
    assert_eq!(snapshot(&store.held(), &leader, &meta(log[2])), Ok(()), "an old one, which changes nothing");
    assert!(snapshot(&store.held(), &leader, &meta(id(9, 2))).is_err(), "a higher term and a shorter log");
    let nobody = SnapshotMeta { last_membership: Membership::default(), ..meta(id(9, 8)) };
    assert!(snapshot(&store.held(), &leader, &nobody).is_err(), "members without voters");
    assert!(snapshot(&store.held(), &Vote::new(9, 7), &meta(id(9, 8))).is_err(), "not a leader");
    let asks = |vote| VoteRequest { vote, last_log_id: Some(log[5]) };
    assert_eq!(vote(&store.held(), &asks(Vote::new(9, 7))), Ok(()));
    assert!(vote(&store.held(), &asks(Vote::new_committed(9, 7))).is_err());
    for term in [u64::MAX, 1 << 62, TERMS_AHEAD_MOST * 2] {
        assert!(vote(&store.held(), &asks(Vote::new(term, 7))).is_err(), "{term}");
        assert!(snapshot(&store.held(), &Vote::new_committed(term, 7), &meta(id(9, 8))).is_err(), "{term}");
    }
    assert_eq!(vote(&store.held(), &asks(Vote::new(TERMS_AHEAD_MOST, 7))), Ok(()), "long alone");
    let younger = VoteRequest { vote: Vote::new(9, 7), last_log_id: Some(id(10, 9)) };
    assert!(vote(&store.held(), &younger).is_err(), "a log from after the vote");
}

fn step() -> impl Strategy<Value = Step> {
    let number = || prop_oneof![4 => 0u64..12, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 1)];
    let place = move || (0u64..5, number());
    let bound = move || {
        prop_oneof![number().prop_map(Bound::Included), number().prop_map(Bound::Excluded), Just(Bound::Unbounded)]
    };
    let terms = || prop::collection::vec(0u64..5, 0..5);
    prop_oneof![
        (0u64..12, terms()).prop_map(|(first, terms)| Step::Append { first, terms }),
        place().prop_map(|(term, index)| Step::Truncate(term, index)),
        place().prop_map(|(term, index)| Step::Purge(term, index)),
        prop::option::of((0u64..5, 0u64..12)).prop_map(Step::Commit),
        (bound(), bound()).prop_map(|(from, to)| Step::Read(from, to)),
        (0u64..6, prop::option::of(place()), number(), terms(), prop::option::of(place()))
            .prop_map(|(term, prev, first, terms, commit)| Step::Call { term, prev, first, terms, commit }),
    ]
}

/// Asks it of the store, as openraft would where a call is let through to it.
async fn take(store: &mut Store, step: &Step) {
    match step.clone() {
        Step::Append { first, terms } => {
            let _ = store.blocking_append(entries(first, &terms)).await;
        }
        Step::Truncate(term, index) => {
            let _ = store.truncate(id(term, index)).await;
        }
        Step::Purge(term, index) => {
            let _ = store.purge(id(term, index)).await;
        }
        // openraft's word; it never takes it back.
        Step::Commit(committed) => {
            let committed = committed.map(|(term, index)| id(term, index));
            if committed.map(|id| id.index) >= store.committed().map(|id| id.index) {
                let _ = store.save_committed(committed).await;
            }
        }
        Step::Read(from, to) => {
            let _ = store.try_get_log_entries((from, to)).await;
        }
        Step::Call { term, prev, first, terms, commit } => {
            let request = AppendEntriesRequest {
                vote: Vote::new_committed(term, 7),
                prev_log_id: prev.map(|(term, index)| id(term, index)),
                entries: entries(first, &terms),
                leader_commit: commit.map(|(term, index)| id(term, index)),
            };
            let heard = append(&store.held(), &request);
            if heard.is_ok() {
                let (known, _) = known(store);
                let conflict = request
                    .entries
                    .iter()
                    .find(|entry| known.iter().any(|id| id.index == entry.log_id.index && *id != entry.log_id));
                if let Some(entry) = conflict {
                    store.truncate(entry.log_id).await.expect("a call that is heard cuts nothing that is decided");
                }
            }
        }
    }
}

fn known(store: &Store) -> (Vec<LogId>, Option<LogId>) {
    let held = store.held();
    ((0..20).filter_map(|index| held.at(index)).collect(), held.decided())
}

fn entries(first: u64, terms: &[u64]) -> Vec<LogEntry> {
    terms.iter().zip(0u64..).map(|(term, n)| blank(id(*term, first.saturating_add(n)))).collect()
}

/// A log that goes on; each step says by how much the term grows.
fn grown(log: &[LogId], steps: &[u64], least: u64) -> Vec<LogId> {
    let mut log = log.to_vec();
    for step in steps {
        let term = log.last().map_or(least, |last| last.leader_id.term) + step;
        log.push(id(term, log.len() as u64));
    }
    log
}

fn blank(id: LogId) -> LogEntry {
    Entry { log_id: id, payload: EntryPayload::Blank }
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 7), index)
}

fn open(directory: &Path) -> Store {
    let identity = Identity { name: "n1".into(), cluster_name: "test".into(), ..Identity::default() };
    Store::open(directory, identity).unwrap()
}

/// Many small files that nobody needs after a crash.
fn memory() -> std::path::PathBuf {
    let memory = std::path::PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}
