//! WebSocket (RFC 6455) as somebody in the middle sees it: frames of both directions are looked at while they pass, unchanged.
//!
//! Pure: bytes in, verdicts out; no sockets, no clock, no randomness. [`watch`] is the machine, one for each direction.
//!
//! Reading order: [`frame`] (bytes ↔ heads of frames), [`close`] (why a side ends), [`fault`] (what is wrong, and the code that says
//! so), [`utf8`] (text that comes in pieces), [`watch`].
#![forbid(unsafe_code)]

pub mod close;
pub mod fault;
pub mod frame;
pub mod utf8;
pub mod watch;

pub use close::{CloseCode, write_close};
pub use fault::Fault;
pub use frame::{FrameHead, Opcode, Sender};
pub use watch::{Seen, Then, Watch};
