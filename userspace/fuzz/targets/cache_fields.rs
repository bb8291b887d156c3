//! Whatever a request and its answer say, what is kept of it is for those it is for, and no fresher than the strictest word allows.
#![no_main]

#[path = "../checks/cache_fields.rs"]
mod cache_fields;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cache_fields::check(bytes));
