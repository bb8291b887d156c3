//! Kubernetes as controllers need it: its API server listed and watched, and what is written there made into documents of ours.
//!
//! The client is our own: of the API a controller needs lists, watches, a patch of a status and an event, and each is one request over
//! the HTTP client that members use among themselves. What is made of the objects is decided without a socket and without a clock:
//! objects go in; documents, servers and a report come out.
//!
//! Reading order: [`access`] (where the API server is, and who we are there), [`api`] (one request), [`kinds`] (what is watched),
//! [`object`] (what of it is read), [`reflect`] (lists and watches), [`store`] (all that is known), [`endpoints`] (servers of a
//! service), [`report`] (what is told of each object), [`certificates`] (which of several is shown), [`ingress`] (documents from Ingresses), [`gateway`] (documents from the Gateway
//! API).
#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod certificates;
pub mod endpoints;
pub mod gateway;
pub mod ingress;
pub mod kinds;
pub mod object;
pub mod reflect;
pub mod report;
pub mod store;

pub use access::Access;
pub use api::{Api, ApiError};
pub use kinds::Kind;
pub use object::{Key, Object};
pub use store::{Change, Store};
