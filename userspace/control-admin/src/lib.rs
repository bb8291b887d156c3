//! The admin API: HTTP in front of [`control_raft::Control`], under `/apis/v2` and, the same, under `/apis/v1`.
//!
//! A change is read (`body.rs`), checked by the [`Catalog`] against what is there, proposed as one command, and answered
//! when it is decided. Questions are answered from this member's own state, with or without a leader. What only the
//! machine knows (status, metrics, logs) comes through [`Local`]; other members' comes over their peer URLs and never
//! through the log.
//!
//! Reading order: `catalog.rs` (what the server plugs in), `routes.rs` (every path), `alone.rs` (those that are there without a
//! cluster), `switch.rs` (from one to the other), then one file per subject.
#![forbid(unsafe_code)]

mod access;
mod alone;
mod backup;
mod bans;
mod body;
mod caches;
mod capture;
mod catalog;
mod checks;
mod custom;
mod history;
mod last_good;
mod listen;
mod log_ring;
mod login;
mod logs;
mod members;
mod metadata;
mod model;
mod names;
mod objects;
mod overview;
mod profile;
mod requests;
mod routes;
mod status;
mod switch;
mod tap;
mod tokens;
mod trace;
mod wasm;
mod watch;

pub use alone::router_alone;
pub use catalog::{Catalog, Category, Checked, KindInfo, LastGood, Local, Requests, Tap, Unshown};
pub use listen::{Admin, Door, bind, check_open};
pub use log_ring::LogRing;
pub use login::Logins;
pub use model::ModelCatalog;
pub use routes::router;
pub use status::peer_routes;
pub use switch::Switch;

/// Larger bodies are answered with 413. A thousand objects of a few kilobytes fit.
pub const BODY_BYTES_MAX: usize = 10 << 20;
