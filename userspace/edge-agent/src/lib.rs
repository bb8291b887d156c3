//! What makes a machine be as the cluster wants it: receive, diff, plan, execute, report; and the last good state on disk.
//!
//! Reading order: [`desired`] (what the control plane published, in this plane's words), [`plan`] (pure: what has to
//! change), [`agent`] (doing it), [`steer`] (the kernel's part), `strays.rs` (QUIC's datagrams for other machines), [`lease`] (the kernel hears that we live), [`sections`] (what controllers have learned), [`last_good`] (the copy on disk), [`step`] (what is appended to it), `format.rs` (what both are written like),
//! [`keeper`] (who writes it, and when).
#![forbid(unsafe_code)]

pub mod agent;
pub mod backends;
mod capture;
mod certificates;
pub mod desired;
mod format;
pub mod keeper;
pub mod last_good;
pub mod lease;
pub mod plan;
pub mod sections;
pub mod steer;
pub mod step;
mod strays;
mod trace;

pub use agent::Agent;
pub use certificates::CertificateEnds;
pub use desired::Desired;
