//! The cluster's state as a pure machine: [`State::apply`] takes a [`Command`] and says what became of it.
//!
//! No clock, no randomness, no I/O: whatever is not determined by the state travels inside the command. Every member applies
//! the same commands in the same order and holds the same bytes; [`Applied::delta`] is what its readers get to see.
//!
//! Reading order: `command.rs` (what can be asked), `state.rs` (the rules), `objects.rs` and `custom.rs` (those of documents),
//! `steering.rs` (who serves a VirtualIP), `tickets.rs` (keys of TLS sessions), `authority.rs` (whose certificates members show),
//! `tokens.rs` (of the admin API), `leases.rs` (who alone does something) and `keys.rs` (what controllers have learned), `answers.rs` (requests that come twice), `history.rs` (what was before) over `text.rs`, `restore.rs` (backups), `rooms.rs` (who was let in where more wanted to), `diff.rs` (from two versions to a delta), `level.rs` (members of different versions),
//! `sums.rs` (whether two members hold the same).
#![forbid(unsafe_code)]

mod answers;
mod authority;
mod command;
mod custom;
mod diff;
mod history;
mod keys;
mod leases;
mod level;
mod objects;
mod purges;
mod restore;
mod rooms;
mod state;
mod steering;
mod sums;
#[cfg(test)]
mod tests;
mod text;
mod tickets;
mod tokens;

pub use authority::{Authority, AuthorityStep, Former, JoinToken, Spender, SpentToken, Successor, Terms};
pub use command::{
    AUTHORITIES_LEVEL, LAPSES_LEVEL, NAMESPACES_LEVEL, PUTS_MEMBERS, RULES_LEVEL, SAYS_THAT_IT_STEERS, SPENDERS_LEVEL,
    SectionPut, TOLD_LEVEL,
};
pub use command::{Action, Answer, Command, CustomMode, Done, Entry, PutMode};
pub use diff::between;
pub use history::{Change, How};
pub use keys::KeyPut;
pub use leases::{Fence, Lease};
pub use level::{FIRST_LEVEL, LEVEL, Unread};
pub use objects::{Comeback, owner};
pub use restore::brings_tokens;
pub use state::{Applied, State};
pub use steering::{OWNERS, ids_left};
pub use sums::Mark;
pub use tickets::{TICKET_LEAD_S, TICKET_PERIOD_S, TicketStep, ticket_step};
