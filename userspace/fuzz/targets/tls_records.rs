//! Sealed records of any type and content, in one piece and cut, give the same data and end.
#![no_main]

#[path = "../checks/tls_records.rs"]
mod tls_records;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tls_records::check(bytes));
