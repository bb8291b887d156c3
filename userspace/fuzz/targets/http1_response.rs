//! A response that is accepted is written so that a client reads the same status and framing.
#![no_main]

#[path = "../checks/http1_response.rs"]
mod http1_response;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| http1_response::check(bytes));
