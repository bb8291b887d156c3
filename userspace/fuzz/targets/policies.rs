//! A policy is taken or refused, and ends.
#![no_main]

#[path = "../checks/policies.rs"]
mod policies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| policies::check(bytes));
