//! Scenarios, the load generator and what both measure with. README.md says how it is measured; `cargo xtask bench` runs it.

#![forbid(unsafe_code)]

pub mod certificate;
pub mod cpu;
pub mod gateways;
pub mod generator;
pub mod h2_upstream;
pub mod h2load;
pub mod h3_load;
pub mod memory;
pub mod report;
pub mod rounds;
pub mod sale;
pub mod scenarios;
pub mod statistics;
pub mod training;
