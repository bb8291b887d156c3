//! The check of `userspace/fuzz` for a short while, on random scripts that are the same in every run.

use std::time::{Duration, Instant};

#[path = "../../fuzz/checks/tls_records.rs"]
mod tls_records;

#[test]
fn records() {
    let (mut state, began) = (0x9e37_79b9_7f4a_7c15_u64, Instant::now());
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    for round in 0..20_000 {
        if round % 64 == 0 && began.elapsed() > Duration::from_secs(5) {
            break;
        }
        let mut script = vec![random(), random()];
        for _ in 0..random() % 40 {
            let length = random() % 12;
            // Mostly data and handshake messages; few that nobody sealed, which end it.
            let kind = if random() < 8 { random() | 0x80 } else { random() & 0x7f };
            script.extend([kind, length]);
            script.extend((0..length).map(|_| random() % 32));
        }
        tls_records::check(&script);
    }
}
