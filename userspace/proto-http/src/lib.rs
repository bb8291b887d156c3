//! HTTP messages and our own HTTP/1.1 engine, without sockets, clocks or threads.
//!
//! Reading order: [`headers`] and [`message`] are the nouns every plane shares; [`path`] and [`authority`] say what a request is
//! for, in the one form we accept; [`h1`] turns bytes into messages and back, within [`limits`]; [`multiplexed`] holds what HTTP/2 and
//! HTTP/3 carry to the same rules, and [`coding`] is what their field codings have in common; [`protocol`] names what may follow HTTP.
#![forbid(unsafe_code)]

pub mod authority;
mod bytes;
pub mod coding;
pub mod date;
pub mod h1;
pub mod headers;
pub mod limits;
pub mod message;
pub mod multiplexed;
pub mod path;
pub mod protocol;

pub use date::ImfDate;
pub use headers::{Headers, Known, Ready};
pub use limits::{Limits, Underscores};
pub use message::{Method, Request, Response, Scheme, Version};
pub use path::{Path, PathError};
pub use protocol::Protocol;
