//! Frames in one piece and in many pass alike, and are refused alike.
#![no_main]

#[path = "../checks/websocket_frames.rs"]
mod websocket_frames;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| websocket_frames::check(bytes));
