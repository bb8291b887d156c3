//! TLS for workers.
//!
//! rustls does the handshakes; once one is done, records are encrypted and decrypted by this crate in place, in the buffers the
//! worker's sockets send from and receive into. What the rest of the house holds is a [`Transport`]: a connection's bytes, plain or
//! encrypted, with one set of methods.
#![forbid(unsafe_code)]

pub mod certificate;
pub mod client;
pub mod server;
mod stream;
pub mod tickets;
pub mod transport;

pub use certificate::{Certificate, CertificateError};
pub use client::{ClientSettings, ClientTls};
pub use server::{ClientAuth, ServerSettings, ServerTls};
pub use stream::{HandshakeError, Session, TlsStream};
pub use tickets::{TicketKey, TicketKeys};
pub use transport::Transport;
