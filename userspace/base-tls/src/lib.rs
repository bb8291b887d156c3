//! TLS for workers.
//!
//! rustls does the handshakes; once one is done, records are encrypted and decrypted by this crate in place, in the buffers the
//! worker's sockets send from and receive into. What the rest of the house holds is a [`Transport`]: a connection's bytes, plain or
//! encrypted, with one set of methods.
//!
//! Reading order: [`transport`], `stream` (the shell of an established connection), [`connection`] (its machine), [`record`] (one
//! record), `handshake` (rustls driven, keys taken over), `gate` (handshakes take turns),
//! [`hello`] (the beginning of a connection looked at from outside), [`server`], [`client`], [`blocking`] (the same on threads that may
//! wait; `asked` says whether the server wants a certificate), [`certificate`], [`managed`] (certificates that come meanwhile), [`quic`], [`tickets`], `sessions` (those that may begin with
//! early data), [`seal`] (secrets of the cluster), [`stats`].
#![forbid(unsafe_code)]

mod asked;
pub mod blocking;
pub mod certificate;
pub mod client;
pub mod connection;
mod gate;
mod handshake;
pub mod hello;
pub mod managed;
mod provider;
pub mod quic;
pub mod record;
pub mod seal;
pub mod server;
mod sessions;
pub mod stats;
mod stream;
pub mod tickets;
pub mod transport;

pub use blocking::BlockingTls;
pub use certificate::{Certificate, CertificateError};
pub use client::{AlternativeName, ClientTls, ClientTlsSettings};
pub use gate::set_handshakes_waiting_max;
pub use server::{ClientAuth, ServerTls, ServerTlsSettings};
pub use stream::{HandshakeError, ParkedTls, Session, TlsStream};
pub use tickets::{TicketKey, TicketKeys};
pub use transport::{ParkedTransport, Transport};
