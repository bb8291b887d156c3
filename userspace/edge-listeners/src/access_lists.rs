//! The AccessLists of the cluster, as listeners see them.

use arc_swap::ArcSwap;
use base_model::Access;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Whom they deny.
pub const BOUND: &str = "access_list";

/// Who is banned for a while, because what it asked for was refused too often: see [`edge_filters::bans`].
pub const BANNED: &str = "banned";

/// What all AccessLists say together, and the status of each.
#[derive(Default)]
pub struct AccessLists {
    current: ArcSwap<Listed>,
}

/// One state of them.
#[derive(Default)]
pub struct Listed {
    pub access: Access,
    /// Prefixes that are denied, and that are allowed.
    pub prefixes: [usize; 2],
    pub status: BTreeMap<String, Value>,
}

impl AccessLists {
    /// Whether nothing is to be taken from this address.
    pub fn denies(&self, ip: IpAddr) -> bool {
        let listed = self.current.load();
        !listed.access.is_empty() && listed.access.denies(ip)
    }

    /// Nobody is denied.
    pub fn are_empty(&self) -> bool {
        self.current.load().access.is_empty()
    }

    pub fn set(&self, listed: Listed) {
        self.current.store(Arc::new(listed));
    }

    pub fn current(&self) -> Arc<Listed> {
        self.current.load_full()
    }
}
