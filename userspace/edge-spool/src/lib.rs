//! A bounded place on disk for what cannot be sent at once: lines of the logs while a sink is away, records while Kafka is.
//!
//! Each is a [`Kept`], and lies in a [`frame`] of its own; a [`spool`] is a row of files of those, written at the end and read from the
//! front, and [`front`] is how far it was handed over. A process has one of several [`places`], and takes what those before it have left.
//! What nobody comes for is removed some day ([`leavings`]).
#![forbid(unsafe_code)]

pub mod frame;
pub mod front;
pub mod places;
pub mod spool;

pub mod leavings;

pub use frame::Kept;
pub use spool::{Batch, Spool};
