//! HTTP/2 on a worker, with bounds that hold: our own machine, which answers clients and asks backends.
//!
//! Reading order: [`server`] (the seam behind which a machine that answers stands) and [`client`] (the side that asks), [`settings`] (every
//! bound of both, with its reason), [`frame`], [`hpack`], [`flow`] (windows), [`streams`], [`allowances`] (floods of frames), [`pings`] (what gRPC asks of its
//! clients), [`out`] and [`data`] (what is sent, and how far it got), [`connection`] (the machine, without a socket), [`machine`] (the machine on a worker).
#![forbid(unsafe_code)]

pub mod allowances;
pub mod client;
pub mod connection;
pub mod data;
pub mod flow;
pub mod frame;
pub mod hpack;
pub mod machine;
pub mod out;
pub mod pings;
pub mod server;
pub mod settings;
pub mod streams;

pub use data::{Data, Progress};
pub use pings::PingRules;
pub use settings::{ClientSettings, ServerSettings};
