//! What tests of several crates need, and nothing that is shipped.

pub mod kafka;
mod ports;

pub use ports::free_port;
