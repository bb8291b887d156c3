//! Certificates from authorities that speak ACME (RFC 8555): what is said to them, and what is made of their answers.
//!
//! Nothing in here knows of a cluster: whoever orders keeps what has to be kept, and sees that the answers to an authority's questions
//! stand where it asks.
//!
//! Reading order: [`authority`] (one directory and our account there), [`fault`] (what went wrong, and when to try again), [`issued`]
//! (keys, requests and what comes of them), [`renewal`] (when it is time), [`dns`] (records that prove a name), [`ocsp`] (that
//! a certificate is not revoked).
#![forbid(unsafe_code)]

pub mod authority;
pub mod dns;
pub mod fault;
pub mod issued;
pub mod ocsp;
pub mod renewal;

pub use authority::Authority;
pub use fault::Fault;
pub use instant_acme as acme;
