//! What tests of several crates need, and nothing that is shipped.

mod ports;

pub use ports::free_port;
