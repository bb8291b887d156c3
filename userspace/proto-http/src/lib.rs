//! HTTP messages and our own HTTP/1.1 engine, without sockets, clocks or threads.
//!
//! Reading order: [`headers`] and [`message`] are the nouns every plane shares; [`h1`] turns bytes into them and back.
#![forbid(unsafe_code)]

pub mod h1;
pub mod headers;
pub mod limits;
pub mod message;
pub mod path;

pub use headers::{Headers, Known};
pub use limits::Limits;
pub use message::{Method, Request, Response, Version};
