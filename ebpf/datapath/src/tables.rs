//! What a packet's fate depends on besides its bytes.

use abi::{Address, Config, Machine, Slot, VipAddress, VipKey};

pub trait Tables {
    fn config(&self) -> Option<&Config>;

    fn vip(&self, key: &VipKey) -> Option<&VipAddress>;

    /// Slot `number` of `table`; [`Slot`] 0 when there is no such table.
    fn slot(&self, table: u16, number: u32) -> Slot;

    /// Element of MACHINES, `index` counted over both generations.
    fn machine(&self, index: u32) -> Option<&Machine>;

    /// The same number. In BPF it comes back as one the verifier knows nothing about, so that roads which differ only in it
    /// are examined once, not each to its end.
    fn forget(&self, number: usize) -> usize;

    /// Whether this machine holds a socket for the TCP connection; a listening socket does not count.
    fn holds_socket(&self, connection: &Connection) -> bool;
}

/// A TCP connection, named from the sender's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Connection {
    pub v4: bool,
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
}
