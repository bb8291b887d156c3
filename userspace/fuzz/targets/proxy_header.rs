//! A PROXY header is read the same however much follows it, is bounded, and what it says is read again from what we write of it.
#![no_main]

#[path = "../checks/proxy_header.rs"]
mod proxy_header;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| proxy_header::check(bytes));
