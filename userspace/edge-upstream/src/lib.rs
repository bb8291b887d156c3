//! The way to backends: which one ([`balance`], [`matcher`]), over which connection ([`pool`]), and what it answered
//! ([`attempt`]).
//!
//! Reading order: [`endpoint`], [`balance`], [`matcher`], [`pool`], [`attempt`], [`circuit`], [`retry`].
#![forbid(unsafe_code)]

pub mod attempt;
pub mod balance;
pub mod circuit;
pub mod endpoint;
pub mod matcher;
pub mod pool;
pub mod random;
pub mod retry;

pub use attempt::{Answer, Attempt, AttemptError};
pub use balance::Balancer;
pub use endpoint::{Endpoint, Server};
pub use matcher::RequestMatcher;
