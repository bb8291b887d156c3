use base_model::Claim;
use control_api::{
    CustomKind, Document, Member, Principal, Purged, RULES, Refusal, Snapshot, TicketKey, Token, is_namespaced,
    made_key, object_key,
};
use proto_admission::Call;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::authority::{JoinToken, Spender, Successor};
use crate::keys::KeyPut;
use crate::leases::Fence;
use crate::level::{FIRST_LEVEL, strict, strict_option};
use crate::state::claim_of;

/// One entry of the replicated log. What a reader does not know of it is an error, and not passed over: `level.rs` says why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Command {
    /// Drawn by the proposer. A command that arrives twice, because the first answer was lost with a leader, is carried out
    /// once and answered twice.
    pub request: u64,
    /// RFC 3339, by the proposer's clock: becomes `createdAt`.
    pub now: String,
    pub action: Action,
    /// On whose behalf; absent below feature level 4.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "strict_option")]
    pub by: Option<Principal>,
}

/// Each is carried out whole or not at all. A new one, or a new field, is of a new level: see [`Action::level`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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
        #[serde(deserialize_with = "strict")]
        member: Member,
    },
    /// The same of several at once, and who is down: a fleet that starts is a few changes, and not as many as it has machines. One that
    /// is gone by then is not down.
    PutMembers {
        #[serde(deserialize_with = "strict")]
        members: Vec<Member>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        down: Vec<String>,
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
        #[serde(deserialize_with = "strict")]
        kind: CustomKind,
        /// See [`Entry::since`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
    },
    DeleteCustomKind {
        name: String,
        /// See [`Entry::since`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
    },
    PutCustomData {
        mode: PutMode,
        kind: String,
        item: Document,
        /// See [`Entry::since`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
    },
    DeleteCustomData {
        kind: String,
        id: String,
        /// See [`Entry::since`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
    },
    /// Remove everything (`rebuild`), then `delete`, then `put`. `since` is about all items of the kind.
    BatchCustomData {
        kind: String,
        mode: CustomMode,
        delete: Vec<String>,
        put: Vec<Document>,
        /// See [`Entry::since`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
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
    /// What a backup holds takes the place of what is there: objects and custom data, nothing of both is left in between. A cluster
    /// that has none yet also takes the ids of the members and the state of the virtual IPs. The version grows beyond the backup's.
    Restore {
        #[serde(deserialize_with = "strict")]
        backup: Box<Snapshot>,
        /// As in `DeleteAllSeen`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
    },
    /// A fresh session ticket key: the first one is used at once, later ones wait as the next. `at` in seconds since 1970.
    StageTicketKey {
        #[serde(deserialize_with = "strict")]
        key: TicketKey,
        at: u64,
    },
    /// The next session ticket key, if it has this name, makes tickets from now on.
    PromoteTicketKey {
        name: [u8; 16],
        at: u64,
    },
    /// The authority that issues members' certificates; without effect when there is one.
    FoundAuthority {
        certificate: String,
        sealed_key: String,
    },
    /// Another authority is to follow the one that is there.
    StageAuthority {
        #[serde(deserialize_with = "strict")]
        next: Successor,
    },
    /// The one that follows, if it is this, signs from now on. `at` in seconds since 1970.
    PromoteAuthority {
        certificate: String,
        at: u64,
    },
    /// The one before, if it is this, is believed no more.
    RetireAuthority {
        certificate: String,
    },
    /// A new member may come with this. `at` in seconds since 1970.
    AddToken {
        id: String,
        #[serde(deserialize_with = "strict")]
        token: JoinToken,
        at: u64,
    },
    /// A new member has come with this one; nobody else may. It may itself, by the same request, where that is said.
    SpendToken {
        id: String,
        at: u64,
        #[serde(default, deserialize_with = "strict_option", skip_serializing_if = "Option::is_none")]
        by: Option<Spender>,
    },
    /// Forgets a member whose certificate the cluster issued: that one, and every one from before for its name, is good for nothing any
    /// more. `at` and `until` in seconds since 1970: when, and when the last of them has ended.
    Expel {
        name: String,
        at: u64,
        until: u64,
    },
    /// A token is made, or changed.
    PutToken {
        mode: PutMode,
        #[serde(deserialize_with = "strict")]
        token: Token,
    },
    /// A token is good for nothing any more.
    DeleteToken {
        name: String,
    },
    /// What an edge says of its waiting rooms and lotteries, and asks for. `at_ms` by its clock, since 1970; `seed` is drawn for rooms
    /// that are new.
    Admit {
        caller: String,
        at_ms: u64,
        seed: u64,
        calls: Vec<Call>,
    },
    /// What is named goes out of the caches of every edge; `cache` is `PIPELINE/FILTER`, or empty for all.
    PurgeCaches {
        cache: String,
        #[serde(deserialize_with = "strict")]
        what: Purged,
    },
    /// Every member understands this level: what is new in it may be proposed from here on.
    RaiseLevel {
        level: u32,
    },
    /// A member does something for the whole cluster from now on: see `leases.rs`. `until` and `at` in milliseconds since 1970; the
    /// answer tells its epoch.
    TakeLease {
        name: String,
        holder: String,
        until: u64,
        at: u64,
        /// It leads in this term, and takes it from whoever has it unless that is a leader of a later one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        term: Option<u64>,
    },
    /// Its holder goes on.
    RenewLease {
        fence: Fence,
        until: u64,
    },
    /// Its holder does so no more.
    EndLease {
        fence: Fence,
    },
    /// What the controller of the object `owner` has learned. Refused when the lease it was begun under has another holder by now.
    PutKeys {
        section: String,
        owner: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fence: Option<Fence>,
        puts: Vec<KeyPut>,
        deletes: Vec<String>,
    },
    /// What the controller of the object `owner` makes of what it observes: documents that belong to it, and are changed by nobody else.
    /// Refused as `PutKeys` is. What it has learned for those, and rules of servers, may be written with them: so a change is one change.
    PutGenerated {
        owner: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fence: Option<Fence>,
        puts: Vec<Entry>,
        deletes: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        keys: Vec<SectionPut>,
    },
    /// Keys whose time is over go. `at` in milliseconds since 1970.
    EndKeys {
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

/// Keys of one section that are written and removed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SectionPut {
    pub section: String,
    pub puts: Vec<KeyPut>,
    pub deletes: Vec<String>,
}

/// A user's document and what was generated from it, which lives and dies with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    pub document: Document,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generated: Vec<Document>,
    /// Where it is reached, and nobody else may be.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "strict_option")]
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
    /// How the rooms are that were spoken of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rooms: Vec<proto_admission::Answer>,
    /// Of a lease that was taken; 0 for everything else.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u64,
}

fn is_zero(epoch: &u64) -> bool {
    *epoch == 0
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

    /// The lowest feature level of a cluster in which this may be proposed: a member of a lower one does not know what it says.
    pub fn level(&self) -> u32 {
        let newest = |entries: &[Entry]| entries.iter().map(entry_level).max();
        let written = match self {
            Action::Put { entries, .. } | Action::PutGenerated { puts: entries, .. } => newest(entries),
            Action::Succeed { objects, .. } => newest(objects),
            Action::Restore { backup, .. } => backup.objects.values().map(document_level).max(),
            _ => None,
        };
        self.level_beside_documents().max(written.unwrap_or(FIRST_LEVEL))
    }

    fn level_beside_documents(&self) -> u32 {
        let new = match self {
            Action::PutMembers { members, .. } if members.iter().any(|member| member.lapsed_ms > 0) => {
                return LAPSES_LEVEL;
            }
            Action::PutMembers { .. } => return PUTS_MEMBERS,
            Action::PutMember { member } if member.lapsed_ms > 0 => return LAPSES_LEVEL,
            Action::PutGenerated { keys, .. } if !keys.is_empty() => return RULES_LEVEL,
            Action::PutGenerated { puts, deletes, .. } => {
                let spaced = puts.iter().any(|entry| is_namespaced(&made_key(&entry.document)));
                return if spaced || deletes.iter().any(|key| is_namespaced(key)) { NAMESPACES_LEVEL } else { 9 };
            }
            Action::Put { entries, .. } if entries.iter().flat_map(|entry| &entry.generated).any(is_made_elsewhere) => {
                return NAMESPACES_LEVEL;
            }
            Action::Succeed { objects, .. }
                if objects.iter().any(|entry| is_namespaced(&object_key(&entry.document))) =>
            {
                return NAMESPACES_LEVEL;
            }
            Action::PurgeCaches { .. } => return 8,
            Action::Admit { calls, .. } if calls.iter().any(|call| call.law > 1) => return GONE_LEVEL,
            Action::Admit { calls, .. } if calls.iter().any(|call| call.law > 0) => return ROOMS_LEVEL,
            Action::Admit { .. } => return 6,
            Action::PutKeys { section, .. } if section == RULES => return RULES_LEVEL,
            Action::TakeLease { .. }
            | Action::RenewLease { .. }
            | Action::EndLease { .. }
            | Action::PutKeys { .. }
            | Action::EndKeys { .. } => return KEYS_LEVEL,
            Action::StageAuthority { .. } | Action::PromoteAuthority { .. } | Action::RetireAuthority { .. } => {
                return AUTHORITIES_LEVEL;
            }
            Action::SpendToken { by: Some(_), .. } => return SPENDERS_LEVEL,
            Action::Expel { .. } => return 5,
            Action::PutToken { token, .. } if is_for_namespaces(token) => return GRANTS_LEVEL,
            Action::PutToken { .. } | Action::DeleteToken { .. } => return 4,
            Action::Restore { backup, .. } => return restore_level(backup),
            Action::FoundAuthority { .. } | Action::AddToken { .. } | Action::SpendToken { .. } => return 3,
            Action::Put { entries, .. } => entries.iter().any(|entry| entry.claim.is_some() || entry.since.is_some()),
            Action::PutCustomKind { since, .. }
            | Action::DeleteCustomKind { since, .. }
            | Action::PutCustomData { since, .. }
            | Action::DeleteCustomData { since, .. }
            | Action::BatchCustomData { since, .. } => return if since.is_some() { 3 } else { FIRST_LEVEL },
            Action::Delete { since, .. } => since.is_some(),
            Action::PutMember { member } if member.steers => return SAYS_THAT_IT_STEERS,
            Action::PutMember { member } => member.level > 0 || !member.released.is_empty(),
            Action::DeleteAllSeen { .. }
            | Action::RollBack { .. }
            | Action::Succeed { .. }
            | Action::RaiseLevel { .. } => true,
            Action::DeleteAll
            | Action::RemoveMember { .. }
            | Action::SetMemberUp { .. }
            | Action::Found { .. }
            | Action::StageTicketKey { .. }
            | Action::PromoteTicketKey { .. } => false,
        };
        if new { 2 } else { FIRST_LEVEL }
    }

    /// The same for a cluster of this level, as far as that can be: without what the members can tell by themselves.
    pub fn for_level(mut self, level: u32) -> Action {
        if level < 2
            && let Action::Put { entries, .. } = &mut self
        {
            entries.iter_mut().for_each(|entry| entry.claim = None);
        }
        if level < GONE_LEVEL
            && let Action::Admit { calls, .. } = &mut self
        {
            let law = u32::from(level >= ROOMS_LEVEL);
            *calls = std::mem::take(calls).into_iter().map(|call| call.by_law(law)).collect();
        }
        self
    }
}

/// Of what a backup holds; a new field of it says here from which level on members read it.
fn restore_level(backup: &Snapshot) -> u32 {
    let Snapshot {
        cluster_id: _,
        cluster_name: _,
        version: _,
        objects,
        changed: _,
        members,
        steering,
        custom_kinds: _,
        custom_data: _,
        custom_changed: _,
        tickets: _,
        succeeds: _,
        level: _,
        tokens,
        sections,
        purges,
    } = backup;
    let mut generations = steering.values().flat_map(|vip| &vip.generations);
    if members.values().any(|member| member.lapsed_ms > 0) || generations.any(|of| !of.lapsed.is_empty()) {
        return LAPSES_LEVEL;
    }
    if sections.contains_key(RULES) {
        return RULES_LEVEL;
    }
    if tokens.values().any(is_for_namespaces) {
        return GRANTS_LEVEL;
    }
    if objects.keys().any(|key| is_namespaced(key)) {
        return NAMESPACES_LEVEL;
    }
    let hashes = steering.values().flat_map(|vip| &vip.generations).any(|generation| generation.hash.is_some());
    if hashes || members.values().any(|member| member.steers) {
        return SAYS_THAT_IT_STEERS;
    }
    if !purges.is_empty() {
        return 8;
    }
    // Left out where there are none.
    match (tokens.is_empty(), sections.is_empty()) {
        (_, false) => KEYS_LEVEL,
        (false, true) => 4,
        (true, true) => 3,
    }
}

fn is_for_namespaces(token: &Token) -> bool {
    token.grants.iter().any(|grant| !grant.namespaces.is_empty())
}

fn entry_level(entry: &Entry) -> u32 {
    std::iter::once(&entry.document).chain(&entry.generated).map(document_level).max().unwrap_or(FIRST_LEVEL)
}

/// Of a virtual IP, by what is written: members of a lower level pass over an address with a slash, `/32` as well, and take one with
/// backends for one of all machines.
fn document_level(document: &Document) -> u32 {
    if document.get("kind").and_then(Value::as_str) != Some("VirtualIP") {
        return FIRST_LEVEL;
    }
    let slashed = |address: &Value| address.as_str().is_some_and(|text| text.contains('/'));
    let list = |field| document.get(field).and_then(Value::as_array).filter(|list| !list.is_empty());
    if list("backends").is_some() {
        BACKENDS_LEVEL
    } else if list("addresses").is_some_and(|addresses| addresses.iter().any(slashed)) {
        PREFIXES_LEVEL
    } else {
        FIRST_LEVEL
    }
}

fn is_made_elsewhere(document: &Document) -> bool {
    is_namespaced(&made_key(document))
}

/// The feature level that has leases and keys of sections.
const KEYS_LEVEL: u32 = 7;

/// The leader writes down several members at once from here on.
pub const PUTS_MEMBERS: u32 = 12;

/// Objects are kept by namespace and name from here on: see `base_model::namespaces`.
pub const NAMESPACES_LEVEL: u32 = 12;

/// One authority may follow another from here on.
pub const AUTHORITIES_LEVEL: u32 = 13;

/// Of several members that are written down at once each is for itself from here on, and what comes back from history or an edge's disk
/// has to fit beside what is there: see `objects::left_out`.
pub(crate) const EACH_FOR_ITSELF: u32 = 13;

/// Of long answers to waiting rooms only the short part is kept from here on: see `rooms::to_keep`.
pub(crate) const SHORT_ANSWERS_LEVEL: u32 = 13;

/// The last level that changed how what members that do not vote are told is to be read: one that knows less would serve something else.
/// Of 12 are the keys of objects, of 13 that a token may be for some namespaces alone, of 14 that servers have rules beside their documents,
/// of 15 backends of virtual IPs, whose packets an edge of less would send to machines.
pub const TOLD_LEVEL: u32 = BACKENDS_LEVEL;

/// Rules of servers may stand beside their documents from here on, and be written with what they lead to: see [`control_api::RULES`].
pub const RULES_LEVEL: u32 = 14;

/// Grants may be for some namespaces from here on.
const GRANTS_LEVEL: u32 = 13;

/// The addresses of virtual IPs may be prefixes from here on. Builds that do not know them claim 13 already.
const PREFIXES_LEVEL: u32 = 14;

/// Who comes with a token says so, and may ask again, from here on.
pub const SPENDERS_LEVEL: u32 = 16;

/// Virtual IPs may have backends from here on.
const BACKENDS_LEVEL: u32 = 15;

/// Calls of waiting rooms are carried out by law 1 from here on, and ledgers of rooms that are gone go too.
pub(crate) const ROOMS_LEVEL: u32 = 11;

/// From here on by law 2.
pub(crate) const GONE_LEVEL: u32 = 12;

/// Members say from here on when others may have taken their new flows, and generations of steering keep it.
pub const LAPSES_LEVEL: u32 = 17;

/// Members say that they steer from here on.
pub const SAYS_THAT_IT_STEERS: u32 = 10;

impl From<&Command> for Command {
    fn from(command: &Command) -> Self {
        command.clone()
    }
}

impl Command {
    pub fn put(request: u64, now: impl Into<String>, mode: PutMode, documents: Vec<serde_json::Value>) -> Self {
        let entries = documents.into_iter().map(|document| Entry::new(Document::new(document), Vec::new())).collect();
        Command { request, now: now.into(), action: Action::Put { mode, entries }, by: None }
    }
}
