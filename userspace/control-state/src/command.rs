use base_model::Claim;
use control_api::{CustomKind, Document, Member, Refusal, TicketKey};
use serde::{Deserialize, Serialize};

use crate::state::claim_of;

/// One entry of the replicated log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    /// Drawn by the proposer. A command that arrives twice, because the first answer was lost with a leader, is carried out
    /// once and answered twice.
    pub request: u64,
    /// RFC 3339, by the proposer's clock: becomes `createdAt`.
    pub now: String,
    pub action: Action,
}

/// Each is carried out whole or not at all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    Put {
        mode: PutMode,
        entries: Vec<Entry>,
    },
    Delete {
        names: Vec<String>,
        /// See [`Entry::since`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
    },
    /// Everything that users wrote, and what was generated from it.
    DeleteAll,
    /// The same, by one who has seen the objects as they were at this version: refused when one was changed or deleted after it.
    DeleteAllSeen {
        since: u64,
    },
    /// Every object becomes what it was at this version.
    RollBack {
        version: u64,
        /// As in `DeleteAllSeen`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
    },
    /// A member reports what it is; it is up. `id` and `up` of the report are not looked at.
    PutMember {
        member: Member,
    },
    RemoveMember {
        name: String,
    },
    SetMemberUp {
        name: String,
        up: bool,
    },
    PutCustomKind {
        mode: PutMode,
        kind: CustomKind,
    },
    DeleteCustomKind {
        name: String,
    },
    PutCustomData {
        mode: PutMode,
        kind: String,
        item: Document,
    },
    DeleteCustomData {
        kind: String,
        id: String,
    },
    /// Remove everything (`rebuild`), then `delete`, then `put`.
    BatchCustomData {
        kind: String,
        mode: CustomMode,
        delete: Vec<String>,
        put: Vec<Document>,
    },
    /// The first command of a cluster's life; without effect later.
    Found {
        cluster_id: String,
        cluster_name: String,
    },
    /// An operator says that this cluster's configuration takes the place of what edges kept: of `cluster_id` up to `version`.
    /// `objects` are what one of them kept, as it was, owners and all; what the cluster has under the same name stays. The version
    /// grows beyond `version`.
    Succeed {
        cluster_id: String,
        version: u64,
        objects: Vec<Entry>,
        /// `objects` are all that was kept, by an edge of this very cluster: they take the place of what was changed last at
        /// `version` or before, and what they lack of that goes.
        #[serde(default)]
        replaces: bool,
    },
    /// A fresh session ticket key: the first one is used at once, later ones wait as the next. `at` in seconds since 1970.
    StageTicketKey {
        key: TicketKey,
        at: u64,
    },
    /// The next session ticket key, if it has this name, makes tickets from now on.
    PromoteTicketKey {
        name: [u8; 16],
        at: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PutMode {
    /// 409 when the name is taken.
    Create,
    /// 404 when there is nothing to replace.
    Update,
    Upsert,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CustomMode {
    Keep,
    Rebuild,
}

/// A user's document and what was generated from it, which lives and dies with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub document: Document,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generated: Vec<Document>,
    /// Where it is reached, and nobody else may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// Refused when the object was changed, or deleted, after this version: its writer has not seen that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
}

pub type Answer = Result<Done, Refusal>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    /// Version of the configuration that contains the change.
    pub version: u64,
    /// Names that did not exist before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub created: Vec<String>,
}

impl Entry {
    pub fn new(document: Document, generated: Vec<Document>) -> Self {
        let claim = claim_of(&document);
        Entry { document, generated, claim, since: None }
    }
}

impl Action {
    pub fn delete(name: impl Into<String>) -> Self {
        Action::Delete { names: vec![name.into()], since: None }
    }
}

impl From<&Command> for Command {
    fn from(command: &Command) -> Self {
        command.clone()
    }
}

impl Command {
    pub fn put(request: u64, now: impl Into<String>, mode: PutMode, documents: Vec<serde_json::Value>) -> Self {
        let entries = documents.into_iter().map(|document| Entry::new(Document::new(document), Vec::new())).collect();
        Command { request, now: now.into(), action: Action::Put { mode, entries } }
    }
}
