//! Listeners: they take connections, drive the protocol, and hand each request to the pipeline its route names.
//!
//! Reading order: [`traffic`] (which servers and pipelines there are), [`server`] (what they are to the rest of the
//! machine), [`accept`] (what all listeners have in common),
//! [`http_server`] (one HTTPServer: its sockets on every worker), [`tls`], [`h1_connection`] (one HTTP/1 client connection),
//! [`client_stream`] (the client's side of one exchange, whatever protocol carries it), [`request_body`] (what comes from the client,
//! likewise), [`h1_stream`], [`h1_body`], [`h2_connection`] (one HTTP/2 client connection), [`h2_stream`], [`h2_body`],
//! `datagram_sockets` (of UDP, of a server that runs and of one that has stopped), [`h3_front`] (those of HTTP/3), [`h3_connection`] (one HTTP/3 client connection), [`h3_stream`], [`request`]
//! (route, pipeline, answer, record), [`response`], [`tunnel`], [`tcp_proxy`] (one TCPProxy), [`udp_proxy`] (one UDPProxy), [`hops`] (what goes round between relays), [`proxied`] (PROXY headers), [`per_ip`], [`router`], [`radix`], [`acme`] (certificates that the cluster orders), [`request_id`], [`watch`] (what is remembered of single requests), [`forwarded`], [`grpc`] (answers of a GRPCServer), [`grpc_web`], [`variables`], [`timeouts`],
//! [`pace`], `clock`, [`overload`] (what is done when the machine has too much to do).
#![forbid(unsafe_code)]

pub mod accept;
pub mod access;
pub mod access_lists;
pub mod acme;
pub mod client_stream;
mod clock;
mod datagram_sockets;
pub mod forwarded;
pub mod grpc;
pub mod grpc_web;
pub mod h1_body;
pub mod h1_connection;
pub mod h1_stream;
pub mod h2_body;
pub mod h2_connection;
pub mod h2_stream;
pub mod h3_connection;
pub mod h3_front;
pub mod h3_stream;
pub mod hops;
pub mod http_server;
pub mod log_sinks;
pub mod overload;
pub mod pace;
pub mod per_ip;
pub mod proxied;
pub mod radix;
pub mod request;
pub mod request_body;
pub mod request_id;
pub mod response;
pub mod router;
pub mod server;
mod standing;
pub mod tcp_proxy;
pub mod timeouts;
pub mod tls;
pub mod trace;
pub mod traffic;
pub mod tunnel;
pub mod udp_proxy;
pub mod variables;
pub mod watch;

pub use edge_upstream::cache::disk::{let_go as let_go_of_caches, take_back as take_back_caches};
pub use edge_upstream::cache::{Purge as Purged, relieve as relieve_caches};
pub use timeouts::Timeouts;
pub use traffic::Traffic;
