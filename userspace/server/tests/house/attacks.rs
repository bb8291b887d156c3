//! Attacks on a running daemon, with an honest client beside each: it must be served as if nothing happened, the attack must
//! end in the right answer and be counted, and the daemon's memory must stay within what the attack is worth.
//!
//! Reading order: [`site`] (what is attacked, and what is asserted of all attacks), then one file per family.
//! `WEIR_ATTACK_CONNECTIONS` (600) makes the crowds larger.

mod site;

mod bodies;
mod bombs;
mod floods;
mod heads;
mod slow;
mod tls;
