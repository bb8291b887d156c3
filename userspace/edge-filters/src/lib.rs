//! The shelf: one file per filter kind, one [`catalog`].
//!
//! A file holds what users write (`…Spec`), the ready filter, its `KIND` and its tests; what several share stands at the
//! end of the list.
#![forbid(unsafe_code)]

pub mod bans;
pub mod catalog;
pub mod hall;
pub mod kinds;
pub mod limits;

pub mod adaptive_concurrency;
pub mod cache;
pub mod cert_extractor;
pub mod cors_adaptor;
pub mod data_builder;
pub mod fallback;
pub mod fault_injector;
pub mod file_server;
pub mod forward_auth;
pub mod grpc_proxy;
pub mod header_lookup;
pub mod header_to_json;
pub mod kafka;
pub mod lottery;
pub mod mock;
pub mod oidc_adaptor;
pub mod opa_filter;
pub mod proxy;
pub mod proxy_wasm;
pub mod rate_limiter;
pub mod redirector;
pub mod redirector_v2;
pub mod remote_filter;
pub mod request_adaptor;
pub mod request_builder;
pub mod response_adaptor;
pub mod response_builder;
pub mod result_builder;
pub mod script;
pub mod simple_http_proxy;
pub mod validator;
pub mod waiting_room;
pub mod wasm_host;
pub mod websocket_proxy;

mod adapt;
mod answers;
mod arriving;
mod builder;
#[cfg(test)]
mod builder_attacks;
mod built;
mod coding;
mod disk;
mod door;
mod each_worker;
mod form;
mod gzip;
mod heavy;
mod kept;
mod module_doc;
mod placed;
mod ranking;
mod redirect;
mod remote;
mod room_answers;
mod side;
mod source;
mod spec;
#[cfg(test)]
mod testing;
mod threads;

pub use catalog::{kind, kinds};
pub use coding::replaced;
pub use edge_upstream::adaptive::passage::encode as encode_concurrency;
pub use edge_upstream::cache::disk::set_directory as set_cache_directory;
pub use kept::Kept;
pub use ranking::PriorityRules;
