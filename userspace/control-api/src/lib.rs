//! The vocabulary that crosses the control plane's process boundaries: what is published to every machine
//! ([`Snapshot`], [`Delta`]), how a refusal looks ([`Refusal`]), the HTTP [`client`] that carries both, and
//! the [`tls`] it may go over.
//!
//! A machine holds one [`Snapshot`] and applies each [`Delta`] whose `from` is its version; anything else makes it ask for
//! a snapshot again. All collections are ordered and shared, so cloning a snapshot costs a few reference counts.
#![forbid(unsafe_code)]

pub mod backup;
pub mod certificates;
pub mod client;
pub mod time;
pub mod tls;

mod compact;
mod custom;
mod namespaces;
mod principal;
mod publish;
mod purges;
mod refusal;
mod sections;
mod tickets;
mod wasm;

pub use base_model::Kept;
pub use compact::compact;
pub use custom::{CUSTOM_BATCH_FIELDS, CUSTOM_KIND_FIELDS, CustomBatch, CustomRules};
pub use namespaces::{NAMESPACE_LABEL, is_namespaced, made_key, object_key};
pub use principal::{Grant, Principal, PrincipalKind, Role, Token, allow};
pub use publish::{
    Addresses, CustomChange, CustomKind, CustomPlace, Delta, Document, EdgeReport, Eligible, FAILURE_CHARS_TOLD,
    FAILURES_TOLD, GENERATIONS_KEPT, Gap, Generation, Member, MemberRole, Members, Objects, Predecessor, Snapshot,
    Steering, Update,
};
pub use purges::{PURGE_BYTES_MOST, PURGES_KEPT, Purge, Purged};
pub use refusal::{Refusal, RefusalKind};
pub use sections::{ENDPOINTS, Keyed, RULES, Section, SectionChanges, Sections, rule_key, rules_of, servers_of, whole};
pub use tickets::{TicketKey, TicketKeys};
pub use wasm::{WASM_CODE, WASM_ID, WASM_ITEMS_MAX, WASM_KEY_MAX, WASM_KINDS, WASM_VALUE_MAX, wasm_data, wasm_place};

/// Header of every admin answer: the version of the configuration the answer was made from.
pub const CONFIG_VERSION_HEADER: &str = "x-config-version";
/// Header of `/healthz` where nobody leads the cluster, as far as the machine knows, and has not for a while.
pub const LEADERLESS_HEADER: &str = "x-weir-leaderless";
/// Label that says who owns an object; `user-api` for what people write.
pub const OWNER_LABEL: &str = "easegress/owner";
/// Owner of objects that came through the admin API.
pub const OWNER_USER: &str = "user-api";
/// `version` of a document that does not bring one.
pub const DOCUMENT_VERSION: &str = "easegress.megaease.com/v2";
