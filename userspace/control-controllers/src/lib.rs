//! Controllers: what the leader does for the whole cluster because an object asks for it.
//!
//! A controller observes something outside, plans what the cluster shall know of it, and writes that into a section of the replicated
//! state, key by key. The [`host`] runs one for each object of a kind that has one, on the member that leads, under a lease: what one
//! writes that has been deposed meanwhile is refused by whoever applies it. It runs on a runtime of its own, so that nothing here delays
//! Raft, and what goes wrong in a controller reaches the status of its object and nothing else.
//!
//! Reading order: [`host`] (who runs, and when), [`board`] (what is told of them), [`service_registry`] (one kind of controller),
//! `plan.rs` (what it writes, pure), [`kubernetes`] (another: documents made of what an API server has), [`ingress`] (of Ingresses), [`gateway`] (of the Gateway API),
//! `writes.rs` (what of that is written, pure), [`tell`] (what the API server is to be told), [`telling`] (how), [`auto_cert`] (certificates), [`keys`] (what is sealed), `pause.rs` (between two tries).
#![forbid(unsafe_code)]

pub mod auto_cert;
pub mod board;
pub mod gateway;
pub mod host;
pub mod ingress;
pub mod keys;
pub mod kubernetes;
mod pause;
mod plan;
pub mod service_registry;
pub mod tell;
pub mod telling;
mod writes;

pub use board::Board;
pub use host::run;
pub use keys::Keys;
pub use kubernetes::Checks;
