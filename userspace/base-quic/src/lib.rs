//! QUIC on a worker: quinn-proto's machine driven by the worker's own socket, wheel and turn.
//!
//! One endpoint per worker, all on one port. A connection lives on the worker its first datagram came to: its connection ids say
//! which, and whichever worker the kernel gives a later datagram to passes it on. quinn-proto keeps the transport; everything it
//! leaves open is bounded here: how many handshakes are under way, also of one address, and from when on a client must show its own (Retry), how many
//! are worked on in a turn, what waits between workers.
//!
//! Reading order: [`connection_id`], [`keys`], [`crypto`] (rustls within QUIC), [`settings`] (every bound of a connection),
//! [`endpoint`] (the shell of a worker's socket), `passing` (what goes to another process), [`elsewhere`] (what goes to another machine), [`connection`] (one connection, driven),
//! [`stream`] (reading and writing one of its streams), [`client`] (the side that connects), [`stats`].
#![forbid(unsafe_code)]

pub mod client;
pub mod connection;
pub mod connection_id;
pub mod crypto;
pub mod elsewhere;
pub mod endpoint;
mod handshakes;
pub mod keys;
mod passing;
pub mod settings;
pub mod stats;
pub mod stream;

pub use client::Client;
pub use connection::{Connection, Driver};
pub use elsewhere::{Elsewhere, Stray, Ways};
pub use endpoint::{Accepts, Beyond, Elders, Endpoint, Epochs, Group};
pub use keys::QuicKeys;
pub use quinn_proto as proto;
pub use settings::QuicSettings;
