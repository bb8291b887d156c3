//! Chunks in one piece and cut as the first byte says give the same body, end and verdict.
#![no_main]

#[path = "../checks/http1_chunks.rs"]
mod http1_chunks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| http1_chunks::check(bytes));
