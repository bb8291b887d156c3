//! The wire form of a path is ASCII and reads as the same path; canonical text is left as it is.
#![no_main]

#[path = "../checks/http_path.rs"]
mod http_path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| http_path::check(bytes));
