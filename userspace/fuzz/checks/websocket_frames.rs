//! Frames looked at in one piece and cut as the first byte says pass alike, hold back little, and are refused for the same reason.

use proto_websocket::watch::HELD_MOST;
use proto_websocket::{Sender, Then, Watch};

pub fn check(bytes: &[u8]) {
    let Some((&how, input)) = bytes.split_first() else { return };
    let sender = if how & 1 == 0 { Sender::Client } else { Sender::Server };
    let most = if how & 2 == 0 { None } else { Some(64) };
    let whole = run(input, Watch::new(sender, most), usize::MAX);
    let pieces = run(input, Watch::new(sender, most), usize::from(how >> 2) % 16 + 1);
    assert_eq!(whole, pieces);
}

/// Bytes that passed, and what came then.
fn run(input: &[u8], mut watch: Watch, step: usize) -> (usize, Then) {
    let (mut passed, mut end) = (0, 0usize);
    loop {
        end = input.len().min(end.saturating_add(step));
        let seen = watch.handle(&input[passed..end]);
        passed += seen.passes;
        assert!(passed <= end);
        if seen.then != Then::More || end == input.len() {
            return (passed, seen.then);
        }
        assert!(end - passed < HELD_MOST);
    }
}
