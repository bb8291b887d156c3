//! The shelf: one file per filter kind, one [`catalog`].
#![forbid(unsafe_code)]

pub mod catalog;
pub mod proxy;

pub use catalog::{kind, kinds};
