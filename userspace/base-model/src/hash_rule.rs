//! How a VirtualIP's packets are spread, as the cluster has decided it and every edge carries it out.

use serde::{Deserialize, Serialize};

/// What chooses the slot of a packet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HashRule {
    /// As the document says: `fiveTuple`, `sourceIP`, `sourcePrefix` or `destinationPort`.
    pub of: String,
    /// Bits that count with `sourcePrefix`, 0 with another.
    pub ipv4: u8,
    pub ipv6: u8,
    /// The cluster's; who does not know it cannot choose a port that leads to one machine.
    pub seed: u32,
}
