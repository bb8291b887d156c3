//! The check of `userspace/fuzz` for a short while, on random scripts that are the same in every run.

use std::time::{Duration, Instant};

#[path = "../../fuzz/checks/tls_hello.rs"]
mod tls_hello;
#[path = "../../fuzz/checks/tls_records.rs"]
mod tls_records;

/// Hellos in which a few bytes are others.
#[test]
fn hellos() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize % below
    };
    let extensions = b"\0\0\0\x0e\0\x0c\0\0\x09shop.test\0\x10\0\x05\0\x03\x02h2\0\x2b\0\x03\x02\x03\x04";
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0, 0, extensions.len() as u8], extensions].concat();
    let message = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    for _ in 0..5_000 {
        let record = 1 + random(message.len());
        let mut bytes: Vec<u8> =
            message.chunks(record).flat_map(|p| [&[22, 3, 1, 0, p.len() as u8], p].concat()).collect();
        assert!(
            base_tls::hello::Hello::read(&bytes).is_ok_and(|hello| hello.is_some_and(|hello| hello.alpn.len() == 1))
        );
        for _ in 0..random(4) {
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        tls_hello::check(&bytes);
    }
}

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
