//! What a TLS connection begins with is read the same however much of it has come and whatever follows, and is bounded.
#![no_main]

#[path = "../checks/tls_hello.rs"]
mod tls_hello;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tls_hello::check(bytes));
