use std::io::Cursor;
use std::sync::Arc;

use control_state::{Action, Answer, Command, FIRST_LEVEL};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

openraft::declare_raft_types!(
    /// The one configuration of Raft that Weir has.
    pub Types:
        D = Packed,
        R = Option<Answer>,
        NodeId = u64,
        Node = Peer,
);

pub type Raft = openraft::Raft<Types>;
pub type LogEntry = openraft::Entry<Types>;
pub type LogId = openraft::LogId<u64>;
pub type Vote = openraft::Vote<u64>;
pub type Membership = openraft::StoredMembership<u64, Peer>;
pub type Group = openraft::Membership<u64, Peer>;
pub type SnapshotMeta = openraft::SnapshotMeta<u64, Peer>;
pub type StorageError = openraft::StorageError<u64>;

/// A command as its JSON text. The log, the wire and the file copy it as it is; only applying reads it, so that a change of
/// megabytes does not hold up heartbeats.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Packed(Arc<RawValue>);

impl Packed {
    pub fn new(command: &Command) -> Self {
        let raw = serde_json::value::to_raw_value(command);
        Packed(raw.expect("our own types have text keys and no failing serializers").into())
    }

    /// What this program does not know of it is an error.
    pub fn open(&self) -> Result<Command, serde_json::Error> {
        serde_json::from_str(self.0.get())
    }

    /// Whether it gives the cluster its id. Reads all of it: to be asked only while there is no id.
    pub fn founds(&self) -> bool {
        matches!(self.open(), Ok(Command { action: Action::Found { .. }, .. }))
    }

    /// What a leader asks of a change before it takes it from another member. Reads all of it.
    pub fn demands(&self) -> Result<Demands, serde_json::Error> {
        let Command { action, by, .. } = self.open()?;
        let level = action.level().max(if by.is_some() { NAMES_PRINCIPALS } else { FIRST_LEVEL });
        let gives_rights = match action {
            Action::Restore { backup, .. } => !backup.tokens.is_empty(),
            action => matches!(
                action,
                Action::PutToken { .. }
                    | Action::DeleteToken { .. }
                    | Action::AddToken { .. }
                    | Action::SpendToken { .. }
                    | Action::FoundAuthority { .. }
                    | Action::StageAuthority { .. }
                    | Action::PromoteAuthority { .. }
                    | Action::RetireAuthority { .. }
            ),
        };
        Ok(Demands { level, gives_rights })
    }

    pub fn bytes(&self) -> usize {
        self.0.get().len()
    }

    pub fn is_large(&self) -> bool {
        self.bytes() > LARGE_BYTES
    }
}

/// See [`Packed::demands`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demands {
    /// The feature level from which on members understand it.
    pub level: u32,
    /// It says who may do what: tokens of the admin API, those that let members in, and a backup that holds some.
    pub gives_rights: bool,
}

/// From this feature level on a command says who asked for it.
pub const NAMES_PRINCIPALS: u32 = 4;

/// How the group knows a voter or learner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    pub url: String,
}

/// A member's number inside Raft. Every member derives it from the name alone, so that all can found the cluster with the
/// same membership before anybody handed out numbers (FNV-1a; one bit is left away to fit signed readers).
pub fn node_id(name: &str) -> u64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    hash >> 1
}

/// Names of those who vote by what this member has carried out (`decided`), and by the last that it has of a change under way (`group`):
/// until that is decided the group may need a majority of those before it, so that with one of them gone nothing is decided although a new
/// one is there.
pub fn settled_voters(decided: &Group, group: &Group) -> Vec<String> {
    let votes =
        |id: &u64| decided.get_joint_config().iter().chain(group.get_joint_config()).all(|all| all.contains(id));
    let settled = group.voter_ids().filter(votes).filter_map(|id| group.get_node(&id));
    settled.map(|peer| peer.name.clone()).collect()
}

/// Reading this much takes about a millisecond, which a task may take.
const LARGE_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn who_is_only_about_to_vote_is_no_voter_yet() {
        let peer = |name: &str| Peer { name: name.into(), url: String::new() };
        let nodes = BTreeMap::from([(1, peer("n1")), (2, peer("n2")), (3, peer("n3")), (4, peer("n4"))]);
        let group = |configs: &[&[u64]]| {
            let configs = configs.iter().map(|voters| voters.iter().copied().collect::<BTreeSet<_>>()).collect();
            Group::new(configs, nodes.clone())
        };
        let (one, both, three) = (group(&[&[1, 3]]), group(&[&[1, 3], &[1, 2, 3]]), group(&[&[1, 2, 3]]));
        assert_eq!(settled_voters(&one, &one), ["n1", "n3"]);
        assert_eq!(settled_voters(&one, &both), ["n1", "n3"], "2 comes");
        assert_eq!(settled_voters(&both, &both), ["n1", "n3"]);
        assert_eq!(settled_voters(&both, &three), ["n1", "n3"], "nobody else has heard that it is through");
        assert_eq!(settled_voters(&three, &three), ["n1", "n2", "n3"]);
        assert_eq!(settled_voters(&three, &group(&[&[1, 2, 3], &[1, 2]])), ["n1", "n2"], "3 goes");
        assert_eq!(settled_voters(&Group::default(), &three), ["n1", "n2", "n3"], "nothing is carried out yet");
    }
}
