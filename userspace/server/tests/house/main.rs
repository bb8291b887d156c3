//! The whole house: the daemon as users start it, spoken to over HTTP.
//!
//! Reading order: [`leash`] (ending what was started), [`world`] (starting, asking, waiting), then one file per user story.
#![forbid(unsafe_code)]

#[path = "../../../control-raft/tests/support/authority.rs"]
mod authority;
mod leash;
mod world;

mod access_lists;
mod access_log;
mod aggregation;
mod attacks;
mod authentication;
mod auto_cert;
mod backends;
mod bad_input;
mod bans;
mod browser;
mod caches;
mod captures;
mod changes;
mod cluster;
mod collectors;
mod cookbook;
mod custom_data;
mod dashboard;
mod differential;
mod directory;
mod doctor;
mod doors;
mod envoy;
mod faults;
mod figures;
mod file_server;
mod forward_auth;
mod forward_proxy;
mod gateway;
mod grpc;
mod halves;
mod health_checks;
mod http2;
mod http2_upstream;
mod http3;
mod http3_upstream;
mod ingress;
mod kafka;
mod kube;
mod kubernetes;
mod log_sinks;
mod lost_machines;
mod many_ingresses;
mod namespaces;
mod openid;
mod overload;
mod parts;
mod process;
mod quic_fleet;
mod quick_start;
mod recovery;
mod registries;
mod relays;
mod remote_filter;
mod restart;
mod sale;
mod script;
mod see;
mod sixteen_machines;
mod soak;
mod syn_floods;
mod tls;
mod upgrade;
mod versions;
mod vip_prefixes;
mod wasm;
mod websocket;
