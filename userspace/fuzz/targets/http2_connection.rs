//! A connection says and does the same in whatever pieces its bytes come, and what it says are whole frames.
#![no_main]

#[path = "../checks/http2_connection.rs"]
mod http2_connection;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| http2_connection::check(bytes));
