use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use base_model::HashRule;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::namespaces::object_key;
use crate::principal::Token;
use crate::purges::Purge;
use crate::sections::{self, SectionChanges, Sections, servers_of};
use crate::tickets::TicketKeys;

/// One object or data item, shared by every version of the configuration that contains it unchanged.
pub type Document = Arc<Value>;

/// By key: see `base_model::namespaces`. A persistent map, as [`Members`] is.
pub type Objects = OrdMap<String, Document>;

/// By name. A persistent map: a copy costs nothing and shares everything with the one it was taken from, and a change costs the way to
/// what it changes. Of ten thousand members one reports, and every version of the configuration that somebody still reads has them all.
pub type Members = OrdMap<String, Arc<Member>>;

/// Everything the machines of a cluster have to agree on, at one version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Snapshot {
    /// Drawn when the cluster is founded. Versions of two clusters cannot be compared, so a reader that meets another id
    /// starts again from a snapshot.
    pub cluster_id: String,
    pub cluster_name: String,
    /// `X-Config-Version`: grows by one with every published change.
    pub version: u64,
    /// By key: see `base_model::namespaces`.
    pub objects: Objects,
    /// The version that each object was last changed in.
    pub changed: OrdMap<String, u64>,
    pub members: Members,
    /// By the name of the VirtualIP.
    pub steering: Arc<BTreeMap<String, Arc<Steering>>>,
    pub custom_kinds: Arc<BTreeMap<String, CustomKind>>,
    /// Kind, then id. A kind without data has no entry.
    pub custom_data: Arc<BTreeMap<String, Arc<BTreeMap<String, Document>>>>,
    /// The version that each kind, its data as a whole (deletions count) and each item was last changed in: see [`CustomPlace`].
    pub custom_changed: Arc<BTreeMap<String, u64>>,
    /// Shown by no answer of the admin API.
    pub tickets: Arc<TicketKeys>,
    /// Whose place this configuration has taken because an operator said so, the latest last. Edges that keep the last good state
    /// of one of them, of this version or an earlier one, leave it for this.
    pub succeeds: Arc<Vec<Predecessor>>,
    /// Feature level of the cluster: what every member understands. 0 in a cluster that has not said so yet, which is the first.
    pub level: u32,
    /// Tokens of the admin API, by name. Left out where there are none, so that programs that know none read it.
    #[serde(skip_serializing_if = "no_tokens")]
    pub tokens: Arc<BTreeMap<String, Token>>,
    /// What controllers have learned. Left out where there is nothing, as tokens are.
    #[serde(skip_serializing_if = "no_sections")]
    pub sections: Arc<Sections>,
    /// The latest purges of caches, oldest first. Left out where there are none.
    #[serde(skip_serializing_if = "no_purges")]
    pub purges: Arc<Vec<Purge>>,
}

/// A version of a cluster's configuration; of this one's or of one that is lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Predecessor {
    pub cluster_id: String,
    pub version: u64,
}

/// The step from one version to another. Deletions come first, then what was put.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Delta {
    pub cluster_id: String,
    pub from: u64,
    pub to: u64,
    /// Keys of objects.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deletes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub puts: Vec<Document>,
    /// All members, when most of them changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<Members>,
    /// The members that changed; `None` where one is gone. Where all are told there are none here.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub member_changes: BTreeMap<String, Option<Arc<Member>>>,
    /// The VirtualIPs whose steering changed; `None` when one is gone.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub steering: BTreeMap<String, Option<Arc<Steering>>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub custom: Vec<CustomChange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tickets: Option<Arc<TicketKeys>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub succeeds: Option<Arc<Vec<Predecessor>>>,
    /// All tokens, when any of them changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Arc<BTreeMap<String, Token>>>,
    /// All purges, when there is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purges: Option<Arc<Vec<Purge>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sections: SectionChanges,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CustomChange {
    PutKind(CustomKind),
    DeleteKind(String),
    PutData { kind: String, id: String, data: Document },
    DeleteData { kind: String, id: String },
}

impl CustomChange {
    /// The name of the kind that it is about.
    pub fn kind(&self) -> &str {
        match self {
            CustomChange::PutKind(kind) => &kind.name,
            CustomChange::DeleteKind(kind) => kind,
            CustomChange::PutData { kind, .. } | CustomChange::DeleteData { kind, .. } => kind,
        }
    }
}

/// What a version is kept of in the users' own data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CustomPlace<'n> {
    Kind(&'n str),
    /// All items of a kind.
    Data(&'n str),
    Item(&'n str, &'n str),
}

/// What a reader of the configuration is handed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Update {
    Snapshot(Arc<Snapshot>),
    Delta(Arc<Delta>),
    /// Nothing changed; the stream is alive.
    Ping(u64),
}

/// A machine of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Member {
    /// Small number for tables and packets, from 1. It stays the member's for as long as the cluster knows its name.
    pub id: u16,
    pub name: String,
    /// Drawn once and kept in the data directory: a second process of the same name is another instance.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance: String,
    pub role: MemberRole,
    /// Whether it carries traffic (not started with `--no-edge`, and not leaving).
    pub edge: bool,
    pub api_addr: String,
    pub peer_url: String,
    pub labels: BTreeMap<String, String>,
    /// Where other edges send it packets.
    pub addresses: Addresses,
    /// Version of its program.
    pub version: String,
    /// Highest feature level that its program understands. 0: it did not say, as those of the first level do.
    #[serde(skip_serializing_if = "is_zero")]
    pub level: u32,
    /// RFC 3339.
    pub started_at: String,
    /// Heard of within about the last second.
    pub up: bool,
    /// By VirtualIP, the number of the generation in whose slots it holds everything that it holds: it has no connections left that
    /// began when its slots were others.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub released: BTreeMap<String, u64>,
    /// Its kernel steers as the cluster says, since its program began: before that no flows are given to it.
    #[serde(skip_serializing_if = "is_not")]
    pub steers: bool,
    /// When it last found that others may have taken its new flows, because its daemon had not said in time that it lives. Milliseconds since
    /// 1970 by its own clock, and compared for being another alone; 0: never.
    #[serde(skip_serializing_if = "is_never")]
    pub lapsed_ms: u64,
}

/// What an edge says of itself; it is never written to the cluster's state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EdgeReport {
    /// Version of the configuration that it serves; 0 before it serves any.
    pub version: u64,
    /// Why it stays with that although the cluster offers another, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
    /// Why an object is not served as it should be, by name: the first [`FAILURES_TOLD`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<String, String>,
    /// How many such objects there are.
    pub failed: usize,
}

/// A report goes to the leader several times a second.
pub const FAILURES_TOLD: usize = 16;
/// Of each reason; the status of the object has it whole.
pub const FAILURE_CHARS_TOLD: usize = 300;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberRole {
    /// Votes, and serves traffic.
    #[default]
    Primary,
    /// Follows, and serves traffic.
    Secondary,
}

/// Addresses other edges reach a machine at, at most one per family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Addresses {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v4: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v6: Option<Ipv6Addr>,
}

/// Who serves a VirtualIP. Every machine computes its tables from this alone, so all tables are the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Steering {
    /// Small number for counters, from 1: the VirtualIP's for as long as there is one of its name. 0 in a cluster of the first feature
    /// level.
    #[serde(skip_serializing_if = "is_none")]
    pub id: u16,
    /// Oldest first; the last one is in force. Those before it are kept for as long as a machine may hold connections that began
    /// under them, but at most [`GENERATIONS_KEPT`] in all.
    pub generations: Vec<Generation>,
    /// Ids of members that still hold connections of this VirtualIP: up, and not `down` in its document. Draining ones
    /// are here and in no new generation.
    pub alive: Vec<u16>,
}

/// The machines that take new flows, from the moment `number` was published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Generation {
    /// Grows from 1 with every change, for as long as the VirtualIP exists.
    pub number: u64,
    /// By id.
    pub machines: Vec<Eligible>,
    /// Ids of members that held connections then; empty in a cluster of the first feature level.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alive: Vec<u16>,
    /// Ids of those that have said, of this generation, that they hold nothing in slots that are not theirs by it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub released: Vec<u16>,
    /// What chooses the slot of a packet; none in a cluster below feature level 10, which follows the document at once and has no seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<HashRule>,
    /// Ids of those whose new flows of this generation others took for a while: see [`Member::lapsed_ms`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lapsed: Vec<u16>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eligible {
    pub member: u16,
    pub weight: u32,
}

/// A kind of the users' own data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CustomKind {
    pub name: String,
    /// Key whose value is an item's id. Default `name`.
    pub id_field: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json_schema: Option<Document>,
}

/// A delta that does not start where the snapshot stands: the reader has to ask for a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub have: u64,
    pub from: u64,
}

/// Far more changes than happen while connections from before them go on: beyond it, connections that began before the oldest are no
/// longer found where a machine has lost their slot. A message of one VIP then has about 12 kB with 16 machines.
pub const GENERATIONS_KEPT: usize = 64;

impl Snapshot {
    /// Moves this snapshot on by one delta.
    pub fn advance(&mut self, delta: &Delta) -> Result<(), Gap> {
        if delta.from != self.version || (delta.cluster_id != self.cluster_id && !self.cluster_id.is_empty()) {
            return Err(Gap { have: self.version, from: delta.from });
        }
        if !delta.deletes.is_empty() || !delta.puts.is_empty() {
            let objects = &mut self.objects;
            for name in &delta.deletes {
                objects.remove(name);
            }
            for document in &delta.puts {
                objects.insert(object_key(document).into_owned(), document.clone());
            }
        }
        self.note_changes(delta);
        if let Some(members) = &delta.members {
            self.members = members.clone();
        }
        for (name, change) in &delta.member_changes {
            match change {
                Some(now) => self.members.insert(name.clone(), now.clone()),
                None => self.members.remove(name),
            };
        }
        if !delta.steering.is_empty() {
            let steering = Arc::make_mut(&mut self.steering);
            for (vip, change) in &delta.steering {
                match change {
                    Some(now) => steering.insert(vip.clone(), now.clone()),
                    None => steering.remove(vip),
                };
            }
        }
        for change in &delta.custom {
            self.advance_custom(change);
        }
        self.note_custom_changes(delta);
        if let Some(name) = &delta.cluster_name {
            self.cluster_name = name.clone();
        }
        if let Some(tickets) = &delta.tickets {
            self.tickets = tickets.clone();
        }
        if let Some(succeeds) = &delta.succeeds {
            self.succeeds = succeeds.clone();
        }
        if let Some(level) = delta.level {
            self.level = level;
        }
        if let Some(tokens) = &delta.tokens {
            self.tokens = tokens.clone();
        }
        if !delta.sections.is_empty() {
            sections::advance(&mut self.sections, &delta.sections);
        }
        if let Some(purges) = &delta.purges {
            self.purges = purges.clone();
        }
        self.cluster_id = delta.cluster_id.clone();
        self.version = delta.to;
        Ok(())
    }

    /// Writes down which objects the delta changes; their documents are in their places already.
    pub fn note_changes(&mut self, delta: &Delta) {
        // Whoever looks at a server sees its rules in it.
        let servers = servers_of(&delta.sections);
        let servers: Vec<&str> = servers.into_iter().filter(|server| self.objects.contains_key(*server)).collect();
        if delta.deletes.is_empty() && delta.puts.is_empty() && servers.is_empty() {
            return;
        }
        let changed = &mut self.changed;
        for server in servers {
            changed.insert(server.to_owned(), delta.to);
        }
        for name in &delta.deletes {
            changed.remove(name);
        }
        for document in &delta.puts {
            changed.insert(object_key(document).into_owned(), delta.to);
        }
    }

    /// The same for the users' own data.
    pub fn note_custom_changes(&mut self, delta: &Delta) {
        if delta.custom.is_empty() {
            return;
        }
        let changed = Arc::make_mut(&mut self.custom_changed);
        for change in &delta.custom {
            match change {
                CustomChange::PutKind(kind) => {
                    changed.insert(CustomPlace::Kind(&kind.name).key(), delta.to);
                }
                CustomChange::DeleteKind(name) => {
                    let (kind, items) = (CustomPlace::Kind(name).key(), CustomPlace::Data(name).key());
                    changed.remove(&kind);
                    let gone = changed.range(items.clone()..).take_while(|(key, _)| key.starts_with(&items));
                    let gone: Vec<String> = gone.map(|(key, _)| key.clone()).collect();
                    for key in &gone {
                        changed.remove(key);
                    }
                }
                CustomChange::PutData { kind, id, .. } => {
                    changed.insert(CustomPlace::Item(kind, id).key(), delta.to);
                    changed.insert(CustomPlace::Data(kind).key(), delta.to);
                }
                CustomChange::DeleteData { kind, id } => {
                    changed.remove(&CustomPlace::Item(kind, id).key());
                    changed.insert(CustomPlace::Data(kind).key(), delta.to);
                }
            }
        }
    }

    /// The version that it was last changed in; 0 where that was never written down.
    pub fn custom_changed(&self, place: CustomPlace<'_>) -> u64 {
        self.custom_changed.get(&place.key()).copied().unwrap_or(0)
    }

    /// By key.
    pub fn object(&self, key: &str) -> Option<&Document> {
        self.objects.get(key)
    }

    pub fn member_by_id(&self, id: u16) -> Option<&Member> {
        self.members.values().map(AsRef::as_ref).find(|member: &&Member| member.id == id)
    }

    fn advance_custom(&mut self, change: &CustomChange) {
        match change {
            CustomChange::PutKind(kind) => {
                Arc::make_mut(&mut self.custom_kinds).insert(kind.name.clone(), kind.clone());
            }
            CustomChange::DeleteKind(name) => {
                Arc::make_mut(&mut self.custom_kinds).remove(name);
                Arc::make_mut(&mut self.custom_data).remove(name);
            }
            CustomChange::PutData { kind, id, data } => {
                let items = Arc::make_mut(&mut self.custom_data).entry(kind.clone()).or_default();
                Arc::make_mut(items).insert(id.clone(), data.clone());
            }
            CustomChange::DeleteData { kind, id } => {
                let all = Arc::make_mut(&mut self.custom_data);
                if let Some(items) = all.get_mut(kind) {
                    Arc::make_mut(items).remove(id);
                    if items.is_empty() {
                        all.remove(kind);
                    }
                }
            }
        }
    }
}

impl CustomPlace<'_> {
    /// Names of kinds have no slash in them.
    fn key(self) -> String {
        match self {
            CustomPlace::Kind(kind) => kind.to_owned(),
            CustomPlace::Data(kind) => format!("{kind}/"),
            CustomPlace::Item(kind, id) => format!("{kind}/{id}"),
        }
    }
}

impl Update {
    pub fn version(&self) -> u64 {
        match self {
            Update::Snapshot(snapshot) => snapshot.version,
            Update::Delta(delta) => delta.to,
            Update::Ping(version) => *version,
        }
    }
}

impl Addresses {
    /// The first address of each family.
    pub fn from_list(list: &[IpAddr]) -> Self {
        let mut addresses = Addresses::default();
        for address in list {
            match address {
                IpAddr::V4(v4) => addresses.v4 = addresses.v4.or(Some(*v4)),
                IpAddr::V6(v6) => addresses.v6 = addresses.v6.or(Some(*v6)),
            }
        }
        addresses
    }
}

impl fmt::Display for MemberRole {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            MemberRole::Primary => "primary",
            MemberRole::Secondary => "secondary",
        })
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a delta starts at version {}, but version {} is what is here", self.from, self.have)
    }
}

impl std::error::Error for Gap {}

fn is_none(id: &u16) -> bool {
    *id == 0
}

fn no_purges(purges: &[Purge]) -> bool {
    purges.is_empty()
}

fn no_tokens(tokens: &BTreeMap<String, Token>) -> bool {
    tokens.is_empty()
}

fn no_sections(sections: &Sections) -> bool {
    sections.is_empty()
}

fn is_never(time: &u64) -> bool {
    *time == 0
}

fn is_not(steers: &bool) -> bool {
    !steers
}

fn is_zero(level: &u32) -> bool {
    *level == 0
}
