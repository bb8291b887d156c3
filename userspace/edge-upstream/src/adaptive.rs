//! How many requests a pool may have under way, and who goes first when that is not enough.
//!
//! [`law`] finds the limit of one server by what its requests take, [`line`] is where requests wait for a place, [`threshold`] says below
//! which priority nobody waits at all, [`gate`] puts the three together and shares them over the workers. All of it is pure: the time
//! and whoever waits are arguments, so that the simulation runs what the machine runs. [`passage`] is the shell: it waits on a worker,
//! and [`lending`] lets others have the places of those who wait for something else than a server.
//!
//! Reading order: [`rank`], [`law`], [`line`], [`threshold`], [`gate`], [`passage`], [`lending`].

pub mod gate;
pub mod law;
pub mod lending;
pub mod line;
pub mod passage;
pub mod rank;
#[cfg(test)]
mod simulation;
pub mod threshold;

pub use gate::{Bounds, Gate, Idle, Reason};
pub use line::Who;
pub use passage::{Admission, Attended, Pass, Passages, Progress};
pub use rank::Rank;
