//! Who may come in when more want to than there is room for, without sockets, clocks or threads.
//!
//! Two sides play together. The cluster keeps one [`Ledger`] for each room: it hands out numbers, each once, and says how far the
//! queue has moved. Every edge has a [`Desk`] for it: it hands out tickets, tells those who wait where they stand, and asks the
//! ledger for a number when somebody's turn has come. Nothing is kept for those who wait: what is known of one is in a signed
//! cookie ([`ticket`]) that the client brings along.
//!
//! What is never broken, whoever fails: a number is given once, and no more numbers than the stock has. A ledger changes by
//! commands of the replicated log alone; a desk that is lost takes no numbers with it, because it never had any that it had not
//! given away, and an answer that is lost is asked for again and is the same.
//!
//! Reading order: `ticket.rs` (what clients carry), `ledger.rs` (the cluster's side), `desk.rs` (an edge's side), `seen.rs`
//! (repeats that are not counted twice).
#![forbid(unsafe_code)]

pub mod desk;
pub mod ledger;
pub mod limits;
pub mod seen;
pub mod ticket;

pub use desk::{Desk, Figures, Turn};
pub use ledger::{Answer, Call, Candidate, Ledger, Line, Rules};
pub use ticket::{Carried, Keys, Pass, Rejected, RoomKeys, Ticket};
