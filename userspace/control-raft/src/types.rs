use std::io::Cursor;

use control_state::{Answer, Command};
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// The one configuration of Raft that Weir has.
    pub Types:
        D = Command,
        R = Option<Answer>,
        NodeId = u64,
        Node = Peer,
);

pub type Raft = openraft::Raft<Types>;
pub type LogEntry = openraft::Entry<Types>;
pub type LogId = openraft::LogId<u64>;
pub type Vote = openraft::Vote<u64>;
pub type Membership = openraft::StoredMembership<u64, Peer>;
pub type SnapshotMeta = openraft::SnapshotMeta<u64, Peer>;
pub type StorageError = openraft::StorageError<u64>;

/// How the group knows a voter or learner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    pub url: String,
}

/// A member's number inside Raft. Every member derives it from the name alone, so that all can found the cluster with the
/// same membership before anybody handed out numbers (FNV-1a; one bit is left away to fit signed readers).
pub fn node_id(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash >> 1
}
