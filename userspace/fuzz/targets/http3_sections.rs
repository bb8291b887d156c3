//! A field section within bounds is read the same again from what the encoder makes of it, and no bytes break the bounds.
#![no_main]

#[path = "../checks/http3_sections.rs"]
mod http3_sections;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| http3_sections::check(bytes));
