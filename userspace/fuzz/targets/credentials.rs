//! Credentials are read as they were written, or refused.
#![no_main]

#[path = "../checks/credentials.rs"]
mod credentials;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| credentials::check(bytes));
