//! A connection to a server says and does the same in whatever pieces the server's bytes come, and what it says are whole frames.
#![no_main]

#[path = "../checks/http2_client.rs"]
mod http2_client;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| http2_client::check(bytes));
