//! Streams are the same in whatever pieces they come, and hold no more than a field section within its bound, or a datagram.
#![no_main]

#[path = "../checks/http3_streams.rs"]
mod http3_streams;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| http3_streams::check(bytes));
