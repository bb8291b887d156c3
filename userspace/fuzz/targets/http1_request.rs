//! A head that is accepted is read the same from any prefix that holds it, and again from what the encoder makes of it.
#![no_main]

#[path = "../checks/http1_request.rs"]
mod http1_request;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| http1_request::check(bytes));
