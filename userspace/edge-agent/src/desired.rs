//! What the control plane published, in this plane's words.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Everything a machine has to know. Parts are shared: a new version clones what did not change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Desired {
    /// Version of the configuration; grows.
    pub version: u64,
    /// Documents by name.
    pub objects: Arc<BTreeMap<String, Arc<Value>>>,
    /// Machines by name.
    pub machines: Arc<BTreeMap<String, Machine>>,
    /// Who serves each VirtualIP, by the object's name.
    pub steering: Arc<BTreeMap<String, Arc<Steering>>>,
}

/// A machine packets can be steered to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Machine {
    /// Small number, from 1, the same on all machines.
    pub id: u16,
    pub name: String,
    /// Where other machines send it packets.
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

/// Who serves a VirtualIP: the tables follow from this alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Steering {
    /// Oldest first; each is a list of (machine, weight) that takes new flows.
    pub generations: Vec<Vec<(u16, u32)>>,
    /// Machines that hold connections of it.
    pub alive: Vec<u16>,
}
