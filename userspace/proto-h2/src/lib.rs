//! HTTP/2 on a worker: the `h2` crate's machine over our transport, with bounds that hold.
//!
//! The crate has no reactor, no timer and no time-outs; whoever drives a connection brings those. Its vocabulary
//! (`http::HeaderMap`) ends here: messages go in and out as [`proto_http`]'s, so that another engine can take its place.
//!
//! Reading order: [`transport`] (bytes in and out), [`data`] (what DATA frames are made of, and how far it got), [`settings`] (every
//! bound of both sides, with its reason), [`watch`] (floods of frames), [`fields`] (messages translated), [`server`] (the seam behind
//! which the machine stands), [`client`].
#![forbid(unsafe_code)]

pub mod client;
pub mod data;
pub mod fields;
pub mod server;
pub mod settings;
pub mod transport;
pub mod watch;

pub use data::{Data, Progress};
pub use h2;
pub use settings::{ClientSettings, ServerSettings};
pub use transport::{H2Link, Io};
