//! What happens to a packet, decided without knowing where it lies: the same code is compiled into the BPF program and
//! into the tests on the host. No allocation, no loop without a bound, no length believed before it is checked.
//!
//! Reading order: [`steer`] is the road of a packet, [`usual`] that of most; `frame` how bytes are reached; `tables` what is looked up; then
//! `admission` (who is let in), `owners` (who is asked next), `fragment` (their own road), `syn` (SYN cookies), `ethernet`, `ip`, `flow` (ports, connection, hash), `gue` (tunnel), `icmp` (echo, quotes, too-big); `capture` (what of it all somebody wants to see); `host` for tests.
//!
//! `#[inline(always)]` throughout: pointers into the packet do not survive a call between BPF functions, so all of it becomes one.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod admission;
pub mod backend;
pub mod capture;
pub mod fragment;
pub mod frame;
pub mod owners;
pub mod steer;
pub mod syn;
pub mod tables;
pub mod usual;

pub mod ethernet;
pub mod flow;
pub mod gue;
pub mod icmp;
pub mod ip;

pub mod host;

pub use frame::{Frame, Window};
pub use steer::{Outcome, general, steer};
pub use tables::{Connection, Live, Tables};
