use serde::{Deserialize, Serialize};

/// What is to go out of the caches of every edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Purge {
    /// From 1, without gaps: an edge carries out those that it has not yet.
    pub number: u64,
    /// The cache it is for, `PIPELINE/FILTER`; empty: every one.
    pub cache: String,
    pub what: Purged,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Purged {
    All,
    /// What is kept for one URL.
    Url(String),
    /// For all that begin so.
    Prefix(String),
    /// What its origin has given this tag.
    Tag(String),
}

/// Purges that are kept for edges that come late. One that has missed more empties its caches.
pub const PURGES_KEPT: usize = 64;

/// Longest text of a purge, in bytes.
pub const PURGE_BYTES_MOST: usize = 8 * 1024;
