//! Field blocks within bounds are read the same again from what the encoder makes of them, and no bytes break the bounds.
#![no_main]

#[path = "../checks/http2_fields.rs"]
mod http2_fields;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| http2_fields::check(bytes));
