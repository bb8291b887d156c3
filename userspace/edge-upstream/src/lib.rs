//! The way to backends: where they are ([`endpoint`], [`names`], [`discovery`]), which one ([`balance`], [`health`], [`probe`], [`check`],
//! [`outlier`], [`sticky`], [`matcher`]), over which
//! connection ([`lease`], [`pool`], [`sessions`], [`h3_sessions`], [`connect`], [`tls`]), what it answered ([`attempt`]), and how many may ask at a time
//! ([`adaptive`]).
//!
//! Reading order: [`endpoint`], [`names`], [`patience`], [`discovery`], [`balance`], [`health`], [`probe`], [`check`], [`outlier`], [`sticky`], [`matcher`], [`attempt`], [`lease`], [`pool`],
//! [`groups`], [`sessions`], [`h3_sessions`], `opening`, [`connect`], [`tls`], `h1_exchange`, `h2_exchange`, `h2_tunnel`, `h3_exchange`, [`extended`], [`circuit`], [`retry`], [`budget`], [`adaptive`], [`call`], [`l4_pool`]. Beside the way stands what need not go it: [`cache`].
#![forbid(unsafe_code)]

pub mod adaptive;
pub mod attempt;
pub mod balance;
pub mod budget;
pub mod cache;
pub mod call;
pub mod check;
pub mod circuit;
pub mod connect;
pub mod discovery;
pub mod endpoint;
pub mod extended;
pub mod groups;
mod h1_exchange;
mod h2_exchange;
mod h2_tunnel;
mod h3_exchange;
pub mod h3_sessions;
mod h3_stream;
mod h3_tunnel;
pub mod health;
pub mod l4_members;
pub mod l4_pool;
pub mod lease;
pub mod loss;
pub mod matcher;
pub mod names;
mod opening;
pub mod outlier;
pub mod patience;
pub mod pool;
pub mod probe;
pub mod random;
pub mod retry;
pub mod sessions;
mod silence;
pub mod sticky;
pub mod tls;
mod upload;

pub use attempt::{Answer, Attempt, AttemptError};
pub use balance::Balancer;
pub use call::{CallError, CallSettings, Caller, Reply};
pub use check::Check;
pub use endpoint::{Endpoint, Server};
pub use matcher::RequestMatcher;
pub use tls::Identity;
