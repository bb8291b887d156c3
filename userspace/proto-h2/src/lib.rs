//! HTTP/2 on a worker, with bounds that hold: our own machine answers clients, the `h2` crate's asks backends.
//!
//! Reading order: [`server`] (the seam behind which a machine stands), [`settings`] (every bound of both sides, with its reason),
//! [`frame`], [`hpack`], [`flow`] (windows), [`streams`], [`allowances`] (floods of frames), [`out`] and [`data`] (what is sent, and how
//! far it got), [`connection`] (the machine, without a socket), [`machine`] (the machine on a worker). For the side that asks:
//! [`client`], [`transport`] (bytes in and out of the crate), [`watch`], [`fields`] (messages translated). The crate's vocabulary
//! (`http::HeaderMap`) ends there.
#![forbid(unsafe_code)]

pub mod allowances;
pub mod client;
pub mod connection;
pub mod data;
pub mod fields;
pub mod flow;
pub mod frame;
pub mod hpack;
pub mod machine;
pub mod out;
pub mod server;
pub mod settings;
pub mod streams;
pub mod transport;
pub mod watch;

pub use data::{Data, Progress};
pub use h2;
pub use settings::{ClientSettings, ServerSettings};
pub use transport::{H2Link, Io};
