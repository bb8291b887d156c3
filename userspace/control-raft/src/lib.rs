//! The group that decides: openraft over the peer URLs, with log, vote and snapshots in one redb file.
//!
//! [`Control::start`] makes this process a member: a *primary* votes, a *secondary* follows the watch stream of a primary.
//! Both hold the same [`control_state::State`], hand it to readers as versioned updates ([`Control::follow`]) and take
//! changes ([`Control::propose`]), which they carry to whoever leads.
//!
//! Reading order: `control.rs` (life of a member), `health.rs`, `tasks.rs` and `places.rs` (parts of it: how it is, what it runs, where the
//! others are), `upkeep.rs` (who is up, who votes), `roll.rs` (what the leader has heard of whom), `term.rs` and `lead.rs` (what it
//! does about it), `admission.rs` (founding, joining,
//! coming back without memory), `recover.rs` (a lost majority), `look.rs` (what can be said before the start), `levels.rs` (members of
//! different versions), `marks.rs` (whether they hold the same), `peer.rs` and `wire.rs` (what members say to each other), `guard.rs` (who is
//! answered), `seal.rs`, `secret.rs` and `sessions.rs` (how calls are signed), `join.rs`, `issue.rs` and `succession.rs` (a cluster that
//! issues its members' certificates itself), `sound.rs` (which of them may reach openraft), `publish.rs` (readers),
//! `machine.rs` and `store.rs` (what openraft asks for), `bounds.rs` (how much of the log is kept).
//!
//! What a crash can cost: nothing that was acknowledged, because an entry is synced on a majority before it is answered.
//! A member that comes back without its file does not vote until the leader has forgotten it and copied everything to it
//! anew; a lone member with a damaged file refuses to start, because nobody else has its data.
#![forbid(unsafe_code)]
#![allow(
    clippy::result_large_err,
    reason = "the errors are openraft's, and so is their size; none is on a path that counts nanoseconds"
)]

mod admission;
mod bounds;
mod config;
mod control;
mod elections;
#[cfg(test)]
mod fleet;
mod follow;
mod guard;
mod health;
mod instance;
mod issue;
mod join;
mod lead;
mod leaders;
mod levels;
mod look;
mod machine;
mod marks;
mod naming;
mod network;
mod peer;
mod places;
mod publish;
mod reach;
mod recover;
mod roll;
mod seal;
mod secret;
mod sessions;
mod sound;
mod store;
mod succession;
mod successor;
mod tasks;
mod term;
mod types;
mod upkeep;
mod wire;

pub use config::{
    AskEdge, Conceal, Config, PEER_CONNECTIONS_MAX, PeerTls, StartError, StartErrorKind, StateFlag, check_plain,
};
pub use control::{Control, Metrics};
pub use control_state::LEVEL;
pub use guard::Proven;
pub use join::{Bound, Invitation, Issued};
pub use look::{Found, Held, look_at, look_for_peers};
pub use publish::{Follower, ObjectsSince, RecvError};
pub use recover::{Recovered, recover};
pub use secret::ClusterSecret;
pub use succession::AuthorityShown;
pub use term::{Duty, Next, serve};
