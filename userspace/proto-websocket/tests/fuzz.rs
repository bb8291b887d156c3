//! The check of `userspace/fuzz` for a short while, on frames that were made and changed, the same in every run. The long run is
//! `cargo xtask fuzz websocket_frames`.

use proto_websocket::frame::write;
use proto_websocket::{CloseCode, Opcode, write_close};

#[path = "../../fuzz/checks/websocket_frames.rs"]
mod websocket_frames;

#[test]
fn frames() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..30_000 {
        let how = random.below(256) as u8;
        let mask = (how & 1 == 0).then_some([1, 2, 3, 4]);
        let mut bytes = vec![how];
        for _ in 0..=random.below(5) {
            let opcode = [Opcode::Text, Opcode::Binary, Opcode::Continuation, Opcode::Ping][random.below(4)];
            let payload = "κόσμε, hello ".repeat(random.below(8));
            write(&mut bytes, random.below(2) == 0, opcode, mask, payload.as_bytes());
        }
        bytes.extend(write_close(CloseCode::GoingAway, mask));
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = random.below(256) as u8;
        }
        bytes.truncate(random.below(2 * bytes.len()).max(1));
        websocket_frames::check(&bytes);
    }
}

/// Xorshift: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}
